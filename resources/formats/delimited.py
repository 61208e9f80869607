"""CSV and its kin: lines above the header, comments, escapes, line breaks within quotes."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from resources.formats import table
from resources.formats.contents import Content, UnreadableFile, text_of
from resources.formats.table import (
    HEADER_WITHIN,
    Batches,
    Columns,
    by_column,
    first_line,
    found_header,
    is_broken,
    printable,
    valid_names,
)
from resources.settings import CsvDialect, Source

FIELD_LIMIT = 10_000_000
HEADER_SPANS = 20  # lines that one header may take, with line breaks in its quotes


class _CsvHeader(NamedTuple):
    names: list[str]
    line: int
    after: int  # lines through the end of the header
    delimiter: str


class _PhysicalLines:
    """Lines of a text for csv.reader, which takes several where a quote holds a line break.

    Where a record ``begins``, comments and lines to be skipped are passed over; ``start`` is the
    line in which the present record began.
    """

    def __init__(self, stream: IO[str], dialect: CsvDialect, delimiter: str, number: int) -> None:
        self._stream, self._is_passed_over = stream, _passed_over(dialect)
        self._nothing = _sign_of_nothing(dialect, delimiter)
        self.number, self.start, self.begins = number, number, True

    def __iter__(self) -> _PhysicalLines:
        return self

    def __next__(self) -> str:
        line = next(self._stream)
        self.number += 1
        if self.begins:
            while self._is_passed_over is not None and self._is_passed_over(line):
                line = next(self._stream)
                self.number += 1
            self.start, self.begins = self.number, False
        if self._nothing is not None and "N" in line:
            return self._nothing.sub(r"\1", line)
        return line


def _passed_over(dialect: CsvDialect) -> Callable[[str], bool] | None:
    if not dialect.comment and not dialect.skip:
        return None
    patterns = [re.compile(pattern) for pattern in dialect.skip]

    def is_passed_over(line: str) -> bool:
        if dialect.comment and line.startswith(dialect.comment):
            return True
        return any(pattern.search(line.rstrip("\r\n")) for pattern in patterns)

    return is_passed_over


def _sign_of_nothing(dialect: CsvDialect, delimiter: str) -> re.Pattern[str] | None:
    r"""Databases that escape by a sign write \N for nothing; csv.reader would make an N of it."""
    if not dialect.escape:
        return None
    sign, between = re.escape(dialect.escape), re.escape(delimiter)
    return re.compile(rf"(^|{between}){sign}N(?={between}|\r?\n?$)")


def _csv_options(dialect: CsvDialect, delimiter: str) -> dict[str, Any]:
    return {
        "delimiter": delimiter,
        "quotechar": dialect.quote,
        "escapechar": dialect.escape,
    }


def _csv_header(content: Content, source: Source) -> _CsvHeader:
    csv.field_size_limit(FIELD_LIMIT)
    dialect = source.csv
    with text_of(content, dialect) as stream:
        try:
            asked = max(HEADER_WITHIN, dialect.header_line or 0)
            head = list(itertools.islice(stream, asked + HEADER_SPANS))
        except UnicodeError as error:
            raise UnreadableFile(
                f"{content.name}: line 1: {first_line(error)}; check encoding, delimiter and quote"
                f" sign of source {source.name}"
            ) from error
    if not any(line.strip() for line in head):
        raise UnreadableFile(
            f"{content.name}: line 1 has no column names; the file is empty or not a CSV with a"
            " header"
        )
    # Excel's own way to say which delimiter a file has.
    told = re.fullmatch(r'\ufeff?"?sep=(.)"?', head[0].rstrip("\r\n"), re.IGNORECASE)
    delimiter = dialect.delimiter
    if told is not None and "delimiter" not in dialect.model_fields_set:
        delimiter = told.group(1)
    is_passed_over = _passed_over(dialect)
    rows, ends = [], {}
    for number, line in enumerate(head[:asked], 1):
        if dialect.header_line not in (None, number):
            continue
        if not line.strip() or (is_passed_over is not None and is_passed_over(line)):
            continue
        reader = csv.reader(head[number - 1 :], **_csv_options(dialect, delimiter))
        try:
            names = [printable(name.strip().lstrip("\ufeff")) for name in next(reader, [])]
        except csv.Error:
            names = [printable(line.strip())]
        rows.append((number, names))
        ends[number] = number - 1 + reader.line_num
    if dialect.header_line is not None:
        if not rows:
            raise UnreadableFile(
                f"{content.name}: line {dialect.header_line}, the header by"
                f" sources.{source.name}.csv.header_line, is blank, skipped or not there"
            )
        at, found = rows[0]
    else:
        at, found = found_header(rows, content, source, "csv.header_line")
    return _CsvHeader(found, at, ends[at], delimiter)


def columns(content: Content, source: Source) -> Columns:
    """Columns of a CSV file, and where its header is. Raises UnreadableFile."""
    header = _csv_header(content, source)
    place = ""
    if header.line > 1 and source.csv.header_line is None:
        above = "line 1 above it counts"
        if header.line > 2:
            above = f"lines 1 to {header.line - 1} above it count"
        place = f"the header is line {header.line}; {above} for nothing"
    return Columns(tuple(header.names), place)


def lines(content: Content, source: Source) -> Batches:
    """Lines of a CSV file by their number in the file, with what is wrong with each."""
    csv.field_size_limit(FIELD_LIMIT)
    dialect, header = source.csv, _csv_header(content, source)
    names = valid_names(header.names)
    width = len(names)
    empty: list[str | None] = [None] * width
    with text_of(content, dialect) as stream:
        for _ in itertools.islice(stream, header.after):
            pass
        physical = _PhysicalLines(stream, dialect, header.delimiter, header.after)
        reader = csv.reader(physical, strict=True, **_csv_options(dialect, header.delimiter))
        numbers: list[int] = []
        problems: list[str | None] = []
        raws: list[str | None] = []
        rows: list[list[str | None]] = []
        try:
            for fields in reader:
                if fields:
                    problem = None
                    if len(fields) != width:
                        problem = f"unreadable: {len(fields)} fields where the header has {width}"
                    elif any(not field.isascii() and is_broken(field) for field in fields):
                        problem = f"unreadable: not {dialect.encoding} text"
                    numbers.append(physical.start)
                    problems.append(problem)
                    raws.append(printable(header.delimiter.join(fields)) if problem else None)
                    rows.append(empty if problem else list(fields))
                physical.begins = True
                if len(numbers) >= table.BATCH_LINES:
                    yield numbers, problems, raws, by_column(names, rows)
                    numbers, problems, raws, rows = [], [], [], []
        except csv.Error as error:
            raise UnreadableFile(
                f"{content.name}: line {physical.start}: {error}; a quote is opened there and not"
                " closed, or another delimiter, quote or escape sign than configured"
            ) from error
        if numbers:
            yield numbers, problems, raws, by_column(names, rows)
        return physical.number
