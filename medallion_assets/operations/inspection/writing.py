"""A proposal as the text of a configuration: every key with what was seen, every question in its
place.

Pure: a proposal in, YAML out. An open question stands as the value of its key, which the check of
configurations refuses with the question itself.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence

from medallion_assets.operations.inspection.proposing import (
    CANONICAL,
    LOST,
    Proposal,
    SourceProposal,
)
from medallion_assets.operations.inspection.sniffing import DELIMITER_NAMES, TOTAL_WORDS, Encoding
from medallion_assets.partitions import days_in_month
from resources.settings import DEFAULT_MISSING, ISO_DATES, OPEN_QUESTION

WIDTH = 96
ADOPTING = {"bronze": "forecast_bronze", "silver": "forecast_silver", "gold": "forecast_gold"}


def configuration_text(proposal: Proposal, command: str) -> str:
    """The whole file. ``command`` is what wrote it, for the first line."""
    lines = [
        *_comment(
            f"Proposed by `{command}`. Look through it, above all the lines with QUESTION; one that"
            " stands as a value is open, and nothing runs before it is answered. Then:"
            " make run CONFIG=<this file>"
        ),
        f"lakehouse_root: {_scalar(proposal.lakehouse_root)}",
    ]
    lines += _months(proposal)
    if any(source.table_name for source in proposal.sources):
        lines += ["schemas:" + _note("not the schema of the adopted table")]
        lines += [f"  {layer}: {name}" for layer, name in ADOPTING.items()]
    lines += ["", "sources:"]
    for source in proposal.sources:
        lines += _source(source)
    return "\n".join(lines).rstrip() + "\n"


def _months(proposal: Proposal) -> list[str]:
    lines = []
    for question in proposal.questions:
        if question.key == "first_month":
            lines += _comment(f"QUESTION: {question.text}")
    first = proposal.first_month
    lines.append(
        f"first_month: {first}" + _note("lines dated earlier are set aside, with that reason")
        if first
        else f"first_month: {_scalar(OPEN_QUESTION + ' which month is the first, yyyymm?')}"
    )
    newest = max((s.newest for s in proposal.sources if s.newest), default=None)
    if proposal.last_month:
        lines.append(
            f"last_month: {proposal.last_month}"
            + _note("one date a month, so no day tells that a month is complete; raise it")
        )
    elif newest:
        month = newest.year * 100 + newest.month
        left = days_in_month(month) - newest.day
        lines.append(
            f"# last_month: {month}"
            + _note(
                f"if it is complete: its newest line is of {newest:%Y-%m-%d}, {left} day(s) before"
                " its end"
            )
        )
    return lines


def _source(source: SourceProposal) -> list[str]:
    table = source.tables[0]
    lines = [f"  - name: {source.name}"]
    add = lines.append
    if source.table_name:
        add("    mode: adopt" + _note("the table is read where it lies and never written"))
        add(f"    table: {_scalar(source.table_name)}")
    else:
        if source.mode == "snapshot":
            add(
                "    mode: snapshot"
                + _note("a file delivered again under its path replaces its former lines")
            )
        told = f"{len(source.tables)} files" if len(source.tables) > 1 else "the file itself"
        add(f"    files: {_scalar(source.files)}" + _note(f"{told}, {source.line_count:,} lines"))
        if source.headers:
            lines += _asked(source, "header")
            add("    header:")
            add(f"      files: {_scalar(source.header_files)}")
            key = {source.headers.line_column: source.headers.header_column}
            add(
                f"      key: {_flow_map(key)}" + _note("column of the lines: column of the headers")
            )
        add(f"    format: {table.format}")
    lines += _layout(source)
    lines += _columns(source)
    lines += _dates(source)
    lines += _numbers(source)
    if words := _missing(source):
        add(f"    missing: {_flow([*DEFAULT_MISSING, *words])}")
    lines += _line_types(source)
    lines += _asked(source, "identical_lines")
    if source.repeated_lines:
        add("    identical_lines: keep")
    lines += _asked(source, "units")
    if any(question.key == "units" for question in source.questions):
        factors = {
            unit: f"{OPEN_QUESTION} how many of the smallest unit is one {unit}?"
            for unit in source.signs.several_units
        }
        add("    units:")
        add("      factors: " + _flow_map(factors))
    return lines + _rules(source) + [""]


def _layout(source: SourceProposal) -> list[str]:
    table = source.tables[0]
    layout = table.layout
    if layout is None:
        return (
            [
                f"    {table.format}: {_flow_map(table.details['keys'])}"  # type: ignore[arg-type]
            ]
            if table.details.get("keys")
            else []
        )
    lines = ["    csv:"]
    lines += _asked(source, "csv.delimiter", 6)
    name = DELIMITER_NAMES.get(layout.delimiter, "")
    lines.append(f"      delimiter: {_quoted(layout.delimiter)}" + _note(name))
    if layout.quote != '"':
        lines.append(f"      quote: {_quoted(layout.quote)}")
    if layout.escape:
        lines.append(f"      escape: {_quoted(layout.escape)}")
    lines += _asked(source, "csv.encoding", 6)
    mark = _note("with a byte-order mark") if layout.encoding.has_mark else ""
    lines.append(f"      encoding: {layout.encoding.name}{mark}")
    lines += _asked(source, "csv.header_line", 6)
    headers = {table.layout.header_line for table in source.tables if table.layout}
    if layout.header_line is None:
        lines.append(f"      header_line: {_scalar(_open(source, 'csv.header_line'))}")
    elif headers != {1}:
        for number, text in layout.above[:4]:
            lines.append(f"      # line {number}: {short(text)}")
        lines.append(
            f"      header_line: {layout.header_line}"
            if len(headers) == 1
            else "      # header_line differs between the files; it is found by the mapped columns"
        )
    if layout.comment_sign:
        lines.append(f"      comment: {_quoted(layout.comment_sign)}")
    if patterns := skip_patterns(source):
        skipped = [
            entry for table in source.tables if table.layout for entry in table.layout.totals
        ]
        lines.append(f"      # {len(skipped)} line(s) such as {short(skipped[0][1])}")
        lines.append("      skip:")
        lines += [f"        - {_quoted(pattern)}" for pattern in patterns]
    return lines


def _place(source: SourceProposal) -> list[str]:
    """Sheet and header row of a workbook, or the path into a JSON text."""
    table = source.tables[0]
    lines = _asked(source, "excel.sheet") + _asked(source, "csv.encoding")
    encoding = table.details.get("encoding")
    if isinstance(encoding, Encoding) and encoding.name != "utf-8":
        lines.append(f"    csv: {{encoding: {encoding.name}}}")
    keys = table.details.get("keys")
    if isinstance(keys, dict) and keys:
        lines.append(f"    {table.format}: {_flow_map(keys)}")
    return lines


def skip_patterns(source: SourceProposal) -> list[str]:
    """Patterns of lines that are sums and page numbers, by the words that they begin with."""
    found: dict[str, None] = {}
    for table in source.tables:
        for _, text in table.layout.totals if table.layout else ():
            if match := TOTAL_WORDS.match(text):
                word = re.escape(match.group().strip()).replace(r"\ ", " ")
                # Behind quotes, and behind the delimiters of empty fields.
                found.setdefault(rf"^\W*{word}\b", None)
    return list(found)


def _columns(source: SourceProposal) -> list[str]:
    lines = ["    columns:" + _note("ours: theirs")]
    for canonical in CANONICAL:
        lines += _asked(source, f"columns.{canonical}", 6)
        names = source.columns.get(canonical, ())
        if canonical == "order_date" and source.meaning.date_parts:
            parts = list(source.meaning.date_parts)
            lines.append(f'      order_date: {{join: {_flow(parts)}, separator: "-"}}')
        elif text := _open(source, f"columns.{canonical}"):
            lines.append(f"      {canonical}: {_scalar(text)}")
        elif names:
            value = _scalar(names[0]) if len(names) == 1 else _flow(list(names))
            shown = ", ".join(short(text, 24) for text in source.profiles[canonical].examples)
            lines.append(f"      {canonical}: {value}" + _note(shown))
        elif canonical in source.constants:
            lines.append(f"      {canonical}: {{constant: {_scalar(source.constants[canonical])}}}")
        elif canonical in LOST:
            lines.append(f"      # {canonical}: no column looks like it; {LOST[canonical]}")
    mapped = {name for names in source.columns.values() for name in names}
    unused = [
        str(name)
        for name in source.tables[0].rows.columns
        if name not in mapped and name not in source.meaning.date_parts
    ]
    if unused:
        lines += _comment(f"kept in bronze, not mapped: {', '.join(unused)}", 6)
    lines += _asked(source, "columns", 6)
    return lines


def _dates(source: SourceProposal) -> list[str]:
    lines = _asked(source, "date_formats")
    if text := _open(source, "date_formats"):
        known = [ways[0].pattern for ways in source.dates.readings if len(ways) == 1]
        lines.append(f"    date_formats: {_flow([*known, text])}")
    elif source.meaning.date_parts:
        lines.append(f"    date_formats: {_flow(['yyyy-M-d', 'yyyy-M'])}")
    elif source.dates.patterns and not _is_default(source):
        lines.append(f"    date_formats: {_flow(list(source.dates.patterns))}")
    lines += _asked(source, "time_zone")
    if text := _open(source, "time_zone"):
        lines.append(f"    time_zone: {_scalar(text)}")
    return lines


def _is_default(source: SourceProposal) -> bool:
    """Whether the formats that hold without the key read all dates."""
    known = {plain for pattern in ISO_DATES for plain in _without_options(pattern)}
    found = {plain for pattern in source.dates.patterns for plain in _without_options(pattern)}
    return found <= known


def _without_options(pattern: str) -> set[str]:
    """What a pattern with optional parts in brackets stands for, each with and without."""
    inner = re.search(r"\[([^][]*)\]", pattern)
    if inner is None:
        return {pattern}
    before, after = pattern[: inner.start()], pattern[inner.end() :]
    return _without_options(before + after) | _without_options(before + inner.group(1) + after)


def _numbers(source: SourceProposal) -> list[str]:
    lines = _asked(source, "decimal_separator")
    if text := _open(source, "decimal_separator"):
        lines.append(f"    decimal_separator: {_scalar(text)}")
    elif source.numbers.decimal == ",":
        lines.append('    decimal_separator: ","')
    if source.numbers.thousands:
        lines.append(f"    thousands_separator: {_quoted(source.numbers.thousands)}")
    return lines


def _missing(source: SourceProposal) -> list[str]:
    found = {
        word
        for name, column in source.profiles.items()
        for word in column.missing_words
        if name in ("order_date", "quantity", "unit_price", "customer_id")
        or (name == "part_number" and word.lower() not in ("na", "none", "-"))
    }
    return sorted(found - set(DEFAULT_MISSING))


def _line_types(source: SourceProposal) -> list[str]:
    if "line_type" not in source.columns:
        return []
    lines = [*_asked(source, "line_types"), "    line_types:"]
    question = _open(source, "line_types")
    for kind in ("sale", "refund", "cancellation", "ignore"):
        texts = list(source.signs.types.get(kind, ()))
        if kind == "sale" and question:
            texts.append(question)
        if texts:
            lines.append(f"      {kind}: {_flow(texts)}")
    return lines


def _rules(source: SourceProposal) -> list[str]:
    rules: list[str] = []
    for key, value in (
        ("product_pattern", source.signs.product_pattern),
        (
            "cancellation_pattern",
            "^" + re.escape(source.signs.marker).replace(r"\-", "-") if source.signs.marker else "",
        ),
    ):
        rules += _asked(source, f"rules.{key}", 6)
        if value:
            rules.append(f"      {key}: {_quoted(value)}")
    asked = _asked(source, "rules.price", 6)
    rules += [*asked, "      price: positive"] if asked else []
    lines = ["    rules:", *rules] if any(not r.strip().startswith("#") for r in rules) else rules
    return lines + _asked(source, "rules.implausible")


def _asked(source: SourceProposal, key: str, indent: int = 4) -> list[str]:
    return [
        line
        for question in source.questions
        if question.key == key
        for line in _comment(f"QUESTION: {question.text}", indent)
    ]


def _open(source: SourceProposal, key: str) -> str:
    """The value that stands for an open question; empty where there is none."""
    return next(
        (f"{OPEN_QUESTION} {q.text}" for q in source.questions if q.key == key and q.is_open), ""
    )


def _comment(text: str, indent: int = 0) -> list[str]:
    lead = " " * indent + "# "
    return textwrap.wrap(
        text, WIDTH, initial_indent=lead, subsequent_indent=lead + "  ", break_long_words=False
    )


def _note(text: str) -> str:
    return f"   # {text}" if text else ""


def short(text: str, length: int = 60) -> str:
    """A text on one line, its middle left out where it is long, unprintable signs shown."""
    plain = "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in text)
    return plain if len(plain) <= length else f"{plain[: length - 8]}…{plain[-6:]}"


def _scalar(text: str) -> str:
    """A text as YAML takes it: plain where that is safe."""
    if re.fullmatch(r"[A-Za-z_][\w ./-]*\w|[A-Za-z_]", text, re.ASCII) and text.lower() not in (
        "yes",
        "no",
        "on",
        "off",
        "true",
        "false",
        "null",
        "y",
        "n",
    ):
        return text
    return _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _flow(texts: Sequence[str]) -> str:
    return "[" + ", ".join(_quoted(text) for text in texts) + "]"


def _flow_map(values: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{_scalar(k)}: {json.dumps(v)}" for k, v in values.items()) + "}"
