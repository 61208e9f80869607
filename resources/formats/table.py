"""What tables of all formats share: their names, their header, the form of what is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from resources.formats.contents import Content, UnreadableFile
from resources.settings import OPTIONAL_COLUMNS, JoinedColumns, Source

BATCH_LINES = 50_000
HEADER_WITHIN = 50  # lines in which a header is looked for
SHOWN_LINES, SHOWN_SIGNS = 6, 60
RESERVED_NAMES = frozenset({"yyyymm"})

# Line numbers, problems, raw texts of lines with a problem, and values by valid name.
Batch = tuple[list[int], list[str | None], list[str | None], dict[str, Any]]
Batches = Generator[Batch, None, int]


class Columns(NamedTuple):
    """Column names as spelled, and where they were found if that is worth telling."""

    names: tuple[str, ...]
    place: str = ""


class Format(NamedTuple):
    """How files of one format are read. ``lines`` returns how many lines, or rows, a file has."""

    columns: Callable[[Content, Source], Columns]
    lines: Callable[[Content, Source], Batches]
    suffixes: tuple[str, ...]


def valid_names(column_names: Sequence[str]) -> list[str]:
    """Names that Delta takes, one for each source column, in order; equal ones (ignoring case) get
    a number.

    Names that start with an underscore or are reserved get an ``x`` before them: those are the
    lakehouse's own.
    """
    taken: set[str] = set()
    result = []
    for position, original in enumerate(column_names, start=1):
        name = (
            re.sub(r"[ ,;{}()\n\t\r=.`\"'\\/\x00]+", "_", original.strip().lstrip("\ufeff")).strip(
                "_"
            )
            or f"column_{position}"
        )
        if original.strip().startswith("_") or name.lower() in RESERVED_NAMES:
            name = f"x_{name}"
        name = name[:200]
        unique, number = name, 2
        while unique.lower() in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique.lower())
        result.append(unique)
    return result


# What to write where a source has no such column at all.
_WITHOUT = {
    "part_number": "a source of one part takes {constant: NAME} instead of a column",
    "order_id": "a source without order numbers leaves order_id out of the mapping",
    "unit_price": "a source without prices leaves unit_price out of the mapping",
}


def without(canonical: Iterable[str]) -> str:
    """How a source does without some canonical columns, to be put behind what else may be done."""
    return "".join(f"; {_WITHOUT[name]}" for name in canonical if name in _WITHOUT)


def lacking_columns(source: Source, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What a file with these columns lacks of the mapping: canonical column -> names of which it
    needs one, or all where they are joined.
    """
    there = {key_of(name) for name in names}
    lacking = {}
    for canonical, mapped in source.columns.items():
        wanted = source.candidates(canonical)
        if canonical in OPTIONAL_COLUMNS or not wanted:
            continue
        absent = tuple(name for name in wanted if key_of(name) not in there)
        if absent and (isinstance(mapped, JoinedColumns) or len(absent) == len(wanted)):
            lacking[canonical] = absent
    return lacking


def key_of(name: str) -> str:
    """What a column's name is compared by: as a table would have it, in lower case."""
    return valid_names([name])[0].lower()


def named(lacking: Mapping[str, Sequence[str]]) -> str:
    """Names of missing columns for a message; any of several would do."""
    return ", ".join(dict.fromkeys(" or ".join(names) for names in lacking.values()))


def printable(text: str) -> str:
    """A text that can be shown, whatever bytes it holds."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error) or type(error).__name__).split("\n", 1)[0]


def is_broken(text: str) -> bool:
    """Whether a text holds bytes that its encoding does not know, or half a character."""
    return any("\ud800" <= sign <= "\udfff" for sign in text)


def by_column(names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> dict[str, Any]:
    """Rows as lists by column."""
    return dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))


def without_exponent(text: str | None) -> str | None:
    """A number as digits: 1e3 is 1000."""
    return format(Decimal(text), "f") if text and "e" in text.lower() else text


def found_header(
    rows: Sequence[tuple[int, list[str]]], content: Content, source: Source, key: str
) -> tuple[int, list[str]]:
    """The first row that has the columns which the mapping needs: its number and names.

    rows: those of the first HEADER_WITHIN, with their numbers.
    """
    closest: tuple[int, int, list[str], dict[str, tuple[str, ...]]] | None = None
    for number, names in rows:
        lacking = lacking_columns(source, names)
        if not lacking:
            return number, names
        if closest is None or len(lacking) < closest[0]:
            closest = len(lacking), number, names, lacking
    needed = lacking_columns(source, ())
    if closest is not None and closest[0] < len(needed):
        _, number, names, lacking = closest
        absent = ", ".join(
            f"{' or '.join(wanted)} (sources.{source.name}.columns.{canonical})"
            for canonical, wanted in lacking.items()
        )
        raise UnreadableFile(
            f"{content.name}: no column {absent}; line {number}, which comes closest to a header,"
            f" has: {', '.join(names)}. Add the file's name for it to the mapping, say by"
            f" sources.{source.name}.{key} which line is the header, or deliver the file"
            f" again{without(lacking)}."
        )
    shown = "; ".join(
        f"{number}: {_shortened((_shown_delimiter(source)).join(names))}"
        for number, names in rows[:SHOWN_LINES]
    )
    raise UnreadableFile(
        f"{content.name}: no line within the first {HEADER_WITHIN} has a column of the mapping of"
        f" source {source.name} ({named(needed)}). Its first lines are: {shown}. If one of them is"
        f" the header, set sources.{source.name}.{key} to its number and columns to its names;"
        " otherwise check format, delimiter, quote sign and encoding."
    )


def _shown_delimiter(source: Source) -> str:
    return source.csv.delimiter if source.format == "csv" else " | "


def _shortened(text: str) -> str:
    shown = printable(text.replace("\n", " "))
    return shown if len(shown) <= SHOWN_SIGNS else f"{shown[:SHOWN_SIGNS]}..."
