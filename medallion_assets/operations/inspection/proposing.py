"""The configuration that would read the inspected files: what is sure as keys, what is not as
questions.

Pure: tables in, a proposal out. Nothing uncertain is decided without a line that says so.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pandas as pd

from medallion_assets.operations.inspection.dates import DateNotation, Reading, order_said
from medallion_assets.operations.inspection.joining import Headers, Profile, joined
from medallion_assets.operations.inspection.meaning import (
    Column,
    Meaning,
    Signs,
    described,
    meaning,
    mixed_parts,
    named_score,
    signs_of,
)
from medallion_assets.operations.inspection.numbers import NumberNotation, number_notation
from medallion_assets.operations.inspection.sniffing import Encoding, Table, month_columns
from medallion_assets.partitions import month_index

CANONICAL = (
    "order_id",
    "part_number",
    "customer_id",
    "region",
    "order_date",
    "quantity",
    "unit_price",
    "description",
    "line_type",
    "unit",
)
LOST = {
    "unit_price": "no revenue and no ABC classes",
    "order_id": "orders are not counted",
    "customer_id": "customers are not counted",
    "region": "no region as a feature and a segment",
    "description": "part numbers alone in reports",
}


@dataclass(frozen=True)
class Question:
    """What the files don't tell. ``is_open``: nothing can run before it is answered; otherwise the
    proposal holds the likelier answer. ``options``: what may be written instead.
    """

    source: str
    key: str
    text: str
    is_open: bool = False


@dataclass
class SourceProposal:
    """What one source of the configuration would be: facts of its files, their columns and keys."""

    name: str
    files: str
    tables: tuple[Table, ...]
    meaning: Meaning
    columns: Mapping[str, Sequence[str]]
    profiles: Mapping[str, Column]
    all_columns: Mapping[str, Column]
    dates: DateNotation
    numbers: NumberNotation
    signs: Signs
    months: Mapping[int, int]
    newest: date | None
    repeated_lines: int
    mode: str = "append"
    constants: dict[str, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    table_name: str = ""
    headers: Headers | None = None
    header_files: str = ""

    def ask(self, key: str, text: str, is_open: bool = False) -> None:
        self.questions.append(Question(self.name, key, text, is_open))

    @property
    def line_count(self) -> int:
        return sum(len(table.rows) for table in self.tables)

    @property
    def is_whole(self) -> bool:
        return all(table.is_whole for table in self.tables)


@dataclass(frozen=True)
class Proposal:
    """Sources, the months they cover, and the folder of the lakehouse."""

    sources: tuple[SourceProposal, ...]
    first_month: int | None
    last_month: int | None
    lakehouse_root: str
    questions: tuple[Question, ...]

    @property
    def open_questions(self) -> tuple[Question, ...]:
        return tuple(question for question in self.questions if question.is_open)


def _family(profile: Profile) -> tuple[object, ...]:
    """Tables of one family can be one source: one format, one notation of text, the same
    meanings.
    """
    table, chosen = profile.table, profile.meaning.chosen
    layout = table.layout
    dialect = (
        (layout.encoding.name, layout.delimiter, layout.quote, layout.escape) if layout else ()
    )
    needed = ("order_date", "quantity", "part_number", "unit_price", "line_type")
    is_alone = table.format == "delta" or bool(month_columns(list(table.rows.columns)))
    meanings = frozenset(name for name in needed if name in chosen)
    return table.format, dialect, meanings, table.path if is_alone else None


def propose(
    tables: Sequence[Table], given: Sequence[Path], config_folder: Path, today: date
) -> Proposal:
    """A configuration for the tables. ``given`` are the arguments (files or folders),
    ``config_folder`` is where the configuration will lie, which paths in it are relative to.
    """
    joined_tables, headers = joined([_profiled(table, today) for table in tables])
    families: dict[tuple[object, ...], list[Profile]] = {}
    for table in joined_tables:
        profile = _profiled(table, today)
        families.setdefault(_family(profile), []).append(profile)
    sources: list[SourceProposal] = []
    for members in _with_pattern(list(families.values()), given, config_folder):
        name = _source_name(members, {source.name for source in sources})
        source = _source(name, members, given, config_folder, today)
        if headers and headers.line_column in source.all_columns:
            heads = [_profiled(table, today) for table in headers.tables]
            source.headers = headers
            source.header_files = _files(heads, given, config_folder)
            source.ask(
                "header",
                f"are the columns of the headers found by {headers.line_column}?"
                f" {heads[0].table.path.name} has dates and no quantities, the lines the reverse",
            )
        sources.append(source)
    months = Counter[int]()
    for source in sources:
        months.update(source.months)
    first, stray = _first_month(months)
    for source in sources:
        # Either answer to an open question must find its lines after the first month.
        if source.dates.is_ambiguous and first and (day := source.dates.oldest):
            first = min(first, day.year * 100 + day.month)
    questions = [question for source in sources for question in source.questions]
    if stray:
        questions.append(
            Question(
                "",
                "first_month",
                f"{sum(stray.values()):,} line(s) of {min(stray)} to {max(stray)} lie long before"
                f" all others, so they are set aside; write {min(stray)} if they are sales",
            )
        )
    adopted = [source for source in sources if source.table_name]
    root = (
        _relative(adopted[0].tables[0].path.parent.parent, config_folder)
        if adopted
        else f"lakehouse/{sources[0].name}"
    )
    return Proposal(tuple(sources), first, _last_month(sources, months), root, tuple(questions))


def _profiled(table: Table, today: date) -> Profile:
    columns = {
        name: described(name, table.rows[name], today, name in table.typed, table.format == "excel")
        for name in table.rows.columns
    }
    return Profile(table, columns, meaning(list(columns.values())))


def _is_typed(members: Sequence[Profile], canonical: str) -> bool:
    """Whether all files that hold a canonical column hold typed values in it."""
    return all(
        member.columns[member.meaning.chosen[canonical].column].is_typed
        for member in members
        if canonical in member.meaning.chosen
    )


def _source(
    name: str, members: Sequence[Profile], given: Sequence[Path], folder: Path, today: date
) -> SourceProposal:
    columns: dict[str, list[str]] = {}
    for member in members:
        for canonical, match in member.meaning.chosen.items():
            names = columns.setdefault(canonical, [])
            if match.column not in names:
                names.append(match.column)
    lines = _canonical(members)
    first = members[0]
    if "unit" in columns and not mixed_parts(lines):
        # One unit a part is the part's own unit: nothing to convert.
        del columns["unit"]
        lines = lines.drop(columns="unit")
    is_typed = {canonical: _is_typed(members, canonical) for canonical in columns}
    profiles = {
        canonical: described(
            columns[canonical][0] if canonical in columns else "date",
            lines[canonical],
            today,
            is_typed.get(canonical, False),
            first.table.format == "excel",
        )
        for canonical in lines.columns
    }
    dates = profiles["order_date"].dates if "order_date" in profiles else DateNotation()
    numbers = _number_notation(profiles)
    days = dates.days
    dated = Counter[int]()
    newest: date | None = None
    if "order_date" in profiles:
        for text, count in profiles["order_date"].counts.items():
            if day := days.get(text):
                dated[day.year * 100 + day.month] += count
                if day <= today and (newest is None or day > newest):
                    newest = day
    identity = {canonical: canonical for canonical in lines.columns}
    source = SourceProposal(
        name=name,
        files=_files(members, given, folder),
        tables=tuple(member.table for member in members),
        meaning=first.meaning,
        columns=columns,
        profiles=profiles,
        all_columns={
            name: column for member in reversed(members) for name, column in member.columns.items()
        },
        dates=dates,
        numbers=numbers,
        signs=signs_of(lines, profiles, identity, numbers),
        months=dict(sorted(dated.items())),
        newest=newest,
        repeated_lines=sum(int(member.table.rows.duplicated().sum()) for member in members),
        mode=_mode(members),
        table_name=_table_name(first.table),
    )
    _ask(source, members)
    return source


def _canonical(members: Sequence[Profile]) -> pd.DataFrame:
    """The lines of all tables under canonical names, as text."""
    frames = []
    for member in members:
        chosen = {c: m.column for c, m in member.meaning.chosen.items()}
        frame = pd.DataFrame({c: member.table.rows[n] for c, n in chosen.items()}, dtype="object")
        if parts := member.meaning.date_parts:
            frame["order_date"] = member.table.rows[list(parts)].agg("-".join, axis=1)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _number_notation(profiles: Mapping[str, Column]) -> NumberNotation:
    """One notation for quantity and price: what one of them leaves open, the other may tell."""
    named = [profiles[name] for name in ("quantity", "unit_price") if name in profiles]
    if named and all(column.is_typed for column in named):
        return number_notation([text for column in named for text in column.counts], True)
    return number_notation(
        [text for column in named if not column.is_typed for text in column.counts]
    )


def _source_name(members: Sequence[Profile], taken: set[str]) -> str:
    path = members[0].table.path
    folders = [folder.name for folder in path.parents]
    names = folders if len(members) > 1 else [path.name.split(".")[0], *folders]
    stem = next((name for name in names if name and not _is_dated(name)), "orders")
    plain = re.split(r"[ _.-]*\d{4,}", stem)[0] or stem
    name = re.sub(r"\W+", "_", plain, flags=re.ASCII).strip("_").lower()
    name = name if re.match(r"[a-z_]", name) else f"orders_{name}".strip("_")
    name = name[:40]
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique


def _is_dated(name: str) -> bool:
    return bool(re.fullmatch(r"\w+=.*|[\d._ -]+|part-[\w-]+", name))


def _mode(members: Sequence[Profile]) -> str:
    table = members[0].table
    if table.format == "delta":
        return "adopt"
    names = [member.table.path.name for member in members]
    return "snapshot" if len(names) > len(set(names)) else "append"


def _table_name(table: Table) -> str:
    if table.format != "delta":
        return ""
    return f"my_catalog.{table.path.parent.name}.{table.path.name}"


def _with_pattern(
    families: Sequence[Sequence[Profile]], given: Sequence[Path], folder: Path
) -> list[Sequence[Profile]]:
    """The families, those apart by folder, or file by file, that no pattern finds alone."""
    found: list[Sequence[Profile]] = []
    for members in families:
        if _files(members, given, folder):
            found.append(members)
            continue
        by_folder: dict[Path, list[Profile]] = {}
        for member in members:
            by_folder.setdefault(member.table.path.parent, []).append(member)
        for group in by_folder.values():
            is_found = _files(group, given, folder)
            found += [group] if is_found else [[member] for member in group]
    return found


def _files(members: Sequence[Profile], given: Sequence[Path], folder: Path) -> str:
    """A path or the narrowest pattern that finds the files of these tables and no others; empty
    where there is none.
    """
    paths = sorted(member.table.path for member in members)
    if len(paths) == 1 and not any(path in paths[0].parents for path in given):
        return _relative(paths[0], folder)
    wanted = {str(path) for path in paths}
    shared = Path(os.path.commonpath([str(path.parent) for path in paths]))
    folders = [path for path in given if path == shared or path in shared.parents]
    # A folder of one year must not be all that is looked at next year.
    while shared not in folders and _is_dated(shared.name) and shared != shared.parent:
        shared = shared.parent
    shared = folders[0] if folders else shared
    suffixes = {_ending(path) for path in paths}
    ending = suffixes.pop() if len(suffixes) == 1 else ""
    # Letters in common, no folders: os.path.commonprefix compares letter by letter.
    stem = os.path.commonprefix([path.name for path in paths])  # noqa: RUF071
    below = "" if {path.parent for path in paths} == {shared} else "**/"
    for pattern in (f"{below}*{ending}", f"{below}{glob.escape(stem)}*{ending}"):
        found = glob.glob(f"{glob.escape(str(shared))}/{pattern}", recursive=True)
        if {path for path in found if os.path.isfile(path)} == wanted:
            return f"{_relative(shared, folder)}/{pattern}"
    return _relative(paths[0], folder) if len(paths) == 1 else ""


def _ending(path: Path) -> str:
    is_packed = path.suffix in (".gz", ".zst", ".zip")
    return "".join(path.suffixes[-2:]) if is_packed else path.suffix


def _relative(path: Path, folder: Path) -> str:
    """A path as seen from the configuration, absolute where it lies far away."""
    relative = os.path.relpath(path, folder)
    return str(path) if relative.count("..") > 3 else relative.replace(os.sep, "/")


def _first_month(months: Mapping[int, int]) -> tuple[int | None, dict[int, int]]:
    """The oldest month, and older ones that are few lines long before all others: 1970, 1900."""
    known = sorted(months)
    if not known:
        return None, {}
    total = sum(months.values())
    for earlier, later in itertools.pairwise(known):
        older = {month: months[month] for month in known if month <= earlier}
        is_far = month_index(later) - month_index(earlier) > 24
        if is_far and sum(older.values()) <= max(1, total * 0.005):
            return later, older
    return known[0], {}


def _last_month(sources: Sequence[SourceProposal], months: Mapping[int, int]) -> int | None:
    """The newest month, of sources that have one date a month: no day of theirs can tell that a
    month is complete.
    """
    is_monthly = all(
        source.dates.is_monthly or _is_first_only(source) for source in sources if source.months
    )
    return max(months) if months and is_monthly else None


def _is_first_only(source: SourceProposal) -> bool:
    days = set(source.dates.days.values())
    return len(days) > 1 and all(day.day == 1 for day in days)


def _ask(source: SourceProposal, members: Sequence[Profile]) -> None:
    """Questions of one source, in the order of its keys."""
    _ask_layout(source)
    _ask_columns(source, members)
    _ask_dates(source)
    _ask_numbers(source)
    _ask_signs(source)
    if source.repeated_lines:
        source.ask(
            "identical_lines",
            f"{source.repeated_lines:,} line(s) repeat another of their file in every column. They"
            " count, as two equal sales would; drop lets each count once",
        )


def _ask_layout(source: SourceProposal) -> None:
    layout = source.tables[0].layout
    if isinstance(others := source.tables[0].details.get("other_sheets"), list) and others:
        source.ask(
            "excel.sheet",
            f"the workbook has more sheets with such columns: {', '.join(others)}. Are their lines"
            " orders, too? Then name each in a source of its own",
        )
    encoding = layout.encoding if layout else source.tables[0].details.get("encoding")
    if isinstance(encoding, Encoding) and encoding.alternatives:
        others_read = list(encoding.alternatives.items())[:3]
        shown = "; ".join(f"{name}: {theirs}" for name, (_, theirs) in others_read)
        source.ask(
            "csv.encoding",
            f"is '{others_read[0][1][0]}' spelled right? Other encodings read the same signs as"
            f" {shown}",
        )
    if layout is None:
        return
    if layout.header_line is None:
        source.ask(
            "csv.header_line",
            "no line names the columns; write a first line with names into the file, or export it"
            " with its header",
            is_open=True,
        )
    if not layout.is_delimiter_sure:
        source.ask("csv.delimiter", "is this the sign between the fields? Few lines agree on it")


def _ask_columns(source: SourceProposal, members: Sequence[Profile]) -> None:
    columns = source.meaning
    names = list(source.tables[0].rows.columns)
    wide = month_columns(names)
    if len(wide) >= 3:
        source.ask(
            "columns.order_date",
            f"the months stand in columns ({wide[0]} to {wide[-1]}); turn the sheet into lines of"
            " part, month and quantity, one line each",
            is_open=True,
        )
        return
    for canonical in ("order_date", "quantity"):
        match = columns.chosen.get(canonical)
        candidates = [other.column for other in columns.others.get(canonical, ())]
        if canonical == "order_date" and columns.date_parts:
            continue
        if match is None:
            choice = f"one of {', '.join(candidates)}" if candidates else "no column looks like it"
            called = [name for name in source.all_columns if named_score(name, canonical) >= 0.5]
            if called:
                kind = "dates" if canonical == "order_date" else "numbers"
                choice += f"; {', '.join(called)} is called so, but its values are no {kind}"
            source.ask(
                f"columns.{canonical}", f"which column is the {canonical}? {choice}", is_open=True
            )
        elif not match.is_named:
            source.ask(
                f"columns.{canonical}",
                f"is {match.column} the {canonical}? Only its values say so, not its name",
            )
    _ask_part(source)
    for canonical in ("order_date", "quantity", "unit_price", "order_id"):
        taken = columns.chosen.get(canonical)
        if taken is None or not taken.is_named:
            continue
        near = [
            other.column
            for other in columns.others.get(canonical, ())
            if other.score > taken.score - 0.25
        ]
        if near:
            source.ask(
                f"columns.{canonical}",
                f"{taken.column} is taken; {', '.join(near)} could be meant as well",
            )
    if "unit_price" not in columns.chosen and columns.line_total:
        source.ask(
            "columns.unit_price",
            f"{columns.line_total} looks like the price of the whole line, so no price of a unit is"
            f" mapped ({LOST['unit_price']}); map it if it is the price of one unit",
        )
    differing = [m for m in members if set(m.meaning.chosen) != set(members[0].meaning.chosen)]
    if differing:
        source.ask(
            "columns",
            f"{differing[0].table.path.name} has other columns than {members[0].table.path.name}",
        )


def _ask_part(source: SourceProposal) -> None:
    match = source.meaning.chosen.get("part_number")
    candidates = [other.column for other in source.meaning.others.get("part_number", ())]
    if match is not None and not match.is_named:
        source.ask(
            "columns.part_number",
            f"is {match.column} the part number? Only its values say so, not its name",
        )
    elif match is None and candidates:
        source.ask(
            "columns.part_number",
            f"which column is the part number? One of {', '.join(candidates)}",
            is_open=True,
        )
    elif match is None:
        source.constants["part_number"] = "ALL"
        source.ask(
            "columns.part_number",
            "no column looks like a part number, so all lines are of one part, ALL; name the column"
            " if there is one",
        )


def _ask_dates(source: SourceProposal) -> None:
    for ways in source.dates.readings:
        if len(ways) > 1:
            source.ask("date_formats", ambiguity(ways), is_open=True)
    column = source.profiles.get("order_date")
    if column is not None and source.dates.unread and source.dates.readings:
        count = sum(column.counts[text] for text in source.dates.unread)
        shown = ", ".join(f"'{text}'" for text in source.dates.unread[:3])
        source.ask(
            "date_formats",
            f"{count:,} line(s) have no date in a known notation, for instance {shown}; they are"
            " set aside as order_date_unreadable",
        )
    if any(pattern.startswith("epoch") for pattern in source.dates.patterns):
        source.ask(
            "time_zone",
            "the dates count the time since 1970 in UTC. In which time zone do your months begin?"
            " Write for instance Europe/Berlin, or UTC",
            is_open=True,
        )
    zones = source.dates.zones
    if zones and all(zone in ("Z", "UTC", "GMT", "+00:00", "+0000", "+00") for zone in zones):
        source.ask(
            "time_zone",
            "all times are in UTC. Do your months begin at midnight of another zone? Then name it,"
            " for instance Europe/Berlin",
        )


def ambiguity(ways: Sequence[Reading]) -> str:
    """The question which of two readings of dates is meant, with a value that shows it."""
    one, two = ways[0], ways[1]
    text = next(text for text, day in one.days.items() if two.days[text] != day)
    first, second = one.days[text], two.days[text]
    return (
        f"is {text} the {first.day} {first:%B} ({one.pattern}) or the {second.day} {second:%B}"
        f" ({two.pattern})? Every date can be read both ways{_hint(one, two)}"
    )


def _hint(one: Reading, two: Reading) -> str:
    """The reading in which all dates fall on one day of the month, if exactly one does."""

    def is_steady(way: Reading) -> bool:
        return len({day.day for day in way.days.values()}) == 1 and len(way.days) > 2

    steady = [order_said(way.pattern) for way in (one, two) if is_steady(way)]
    return f"; with {steady[0]} all are of one day of the month" if len(steady) == 1 else ""


def _ask_numbers(source: SourceProposal) -> None:
    if source.numbers.conflicts:
        one, two = source.numbers.conflicts
        source.ask(
            "decimal_separator",
            f"'{one}' and '{two}' can't be of one notation; which sign stands before decimals?"
            " Write . or ,",
            is_open=True,
        )
    elif source.numbers.decimal is None and source.numbers.unclear:
        text = source.numbers.unclear
        sign = "," if "," in text else "."
        other = "." if sign == "," else ","
        source.ask(
            "decimal_separator",
            f'is \'{text}\' a number of four digits or more (write "{other}" here, and "{sign}" as'
            f' thousands_separator), or a fraction (write "{sign}" here)?',
            is_open=True,
        )


def _ask_signs(source: SourceProposal) -> None:
    signs = source.signs
    if signs.marker:
        source.ask(
            "rules.cancellation_pattern",
            f"{signs.marked_lines:,} line(s) with a negative quantity have order numbers such as"
            f" {signs.marked_example}; are these cancellations? Without the pattern they are"
            " returns",
        )
    if signs.no_products:
        shown = ", ".join(text for text, _ in signs.no_products[:6])
        lines = sum(count for _, count in signs.no_products)
        source.ask(
            "rules.product_pattern",
            f"{len(signs.no_products)} codes on {lines:,} line(s) look like services and not like"
            f" products: {shown}. The pattern sets them aside; remove it if they are to be"
            " forecast",
        )
    _ask_types(source)
    if signs.mixed_parts:
        shown = ", ".join(list(signs.several_units)[:6])
        source.ask(
            "units",
            f"{signs.mixed_parts:,} part(s) are counted in several units ({shown}); how many of the"
            " smallest is each?",
            is_open=True,
        )
    if "unit_price" in source.profiles:
        priced = source.profiles["unit_price"].filled
        if priced and signs.prices_not_positive > 0.05 * priced:
            source.ask(
                "rules.price",
                f"{signs.prices_not_positive:,} of {priced:,} prices are zero or less; their lines"
                " are set aside. any lets them count",
            )
    if signs.largest_quantity:
        part, size, median = signs.largest_quantity
        source.ask(
            "rules.implausible",
            f"a line of {part} has the quantity {size:,.0f}, where half of all lines have at most"
            f" {median:,.0f}; is it a code that was scanned into the wrong field?",
        )


def _ask_types(source: SourceProposal) -> None:
    if "line_type" not in source.columns:
        return
    signs, name = source.signs, source.profiles["line_type"].name
    if refunded := signs.doubtful_types.get("refunded"):
        source.ask(
            "line_types",
            f"are orders whose {name} is {', '.join(refunded)} demand all the same (add them to"
            " sale), or lines that give something back (refund)?",
            is_open=True,
        )
    if unknown := signs.doubtful_types.get("unknown"):
        source.ask(
            "line_types",
            f"what are lines of type {', '.join(unknown[:6])}? Add them to sale, refund,"
            " cancellation or ignore; without it they are set aside as line_type_unknown",
        )
    if "missing" in signs.doubtful_types:
        source.ask(
            "line_types",
            f'what are lines without {name}? Add "" to sale, refund, cancellation or ignore;'
            " without it they are set aside as line_type_unknown",
        )
    elif "" in signs.types.get("sale", ()):
        source.ask(
            "line_types",
            f"are lines without {name} sales? Their orders have other lines that are",
        )
