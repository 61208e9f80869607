"""Formats of order files: the columns and the lines of each, as text, with line numbers.

FORMATS has one entry a format; what is compressed is the same for all. CSV, JSON lines and Parquet
are read in batches, a workbook and a JSON text whole. Nothing is interpreted here: which files
there are is said in resources/orders.py, what values mean in the transforms of bronze and silver.
"""

from __future__ import annotations

import csv
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from resources.errors import Refused
from resources.formats import arrow, delimited, json_text, workbook
from resources.formats.contents import Content, UnreadableFile, contents, zstd_errors
from resources.formats.table import (
    Batch,
    Batches,
    Columns,
    Format,
    first_line,
    lacking_columns,
    named,
    valid_names,
    without,
)
from resources.settings import Source

FORMATS: dict[str, Format] = {
    "csv": Format(delimited.columns, delimited.lines, (".csv", ".tsv", ".txt")),
    "parquet": Format(arrow.columns, arrow.lines, (".parquet",)),
    "jsonl": Format(json_text.columns_of_lines, json_text.lines, (".jsonl", ".ndjson", ".json")),
    "json": Format(json_text.columns_of_text, json_text.rows_of_text, (".json",)),
    "excel": Format(workbook.columns, workbook.lines, (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")),
}


def columns(path: str, source: Source) -> Columns:
    """The columns of a file as spelled. Raises UnreadableFile for a file without any, or of another
    format than its source's.
    """
    read = FORMATS[source.format].columns
    with _failures(path):
        packed = contents(path, FORMATS[source.format].suffixes)
        found = [read(content, source) for content in packed]
        if len(found) > 1:
            for content, member in zip(packed, found, strict=True):
                _check_member(content, source, member)
            names = dict.fromkeys(name for member in found for name in member.names)
            return Columns(tuple(names), f"{len(found)} files in the archive")
    return found[0]


def lines(path: str, source: Source, byte_count: int | None = None) -> Iterator[Batch]:
    """The lines of a file in batches, numbered from its start. Members of an archive follow one
    another.

    No more than ``byte_count`` bytes are read where given: what was written to the file since
    belongs to another delivery. Raises UnreadableFile.
    """
    read, before = FORMATS[source.format].lines, 0
    with _failures(path):
        for content in contents(path, FORMATS[source.format].suffixes, byte_count):
            before += yield from _numbered_after(before, read(content, source))


@contextmanager
def _failures(path: str) -> Iterator[None]:
    try:
        yield
    except (
        EOFError,
        NotImplementedError,
        OSError,
        UnicodeError,
        csv.Error,
        pa.ArrowException,
        zipfile.BadZipFile,
        zlib.error,
        *zstd_errors(),
    ) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UnreadableFile(
            f"{path}: can't be read ({reason}); check that the file is there, whole, and its"
            " permissions, or deliver it again complete"
        ) from error


def _numbered_after(before: int, batches: Batches) -> Batches:
    while True:
        try:
            numbers, problems, raws, values = next(batches)
        except StopIteration as end:
            return int(end.value)
        yield [number + before for number in numbers], problems, raws, values


def _check_member(content: Content, source: Source, member: Columns) -> None:
    if lacking := lacking_columns(source, member.names):
        raise UnreadableFile(
            f"{content.name}: no column {named(lacking)}; it has: {', '.join(member.names)}. Every"
            " file of an archive needs the columns that the mapping names; deliver them apart."
        )


@contextmanager
def reading_errors() -> Iterator[None]:
    """Turns an UnreadableFile that a Spark worker raised into one here: Spark hands it on as text
    within a stack trace.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "toPandas attempted Arrow optimization")
            yield
    except Exception as error:
        told = (
            None if isinstance(error, Refused) else re.search(r"UnreadableFile: (.+)", str(error))
        )
        if told is None:
            raise
        raise UnreadableFile(told.group(1)) from None


__all__ = [
    "FORMATS",
    "Batch",
    "Columns",
    "UnreadableFile",
    "columns",
    "lacking_columns",
    "lines",
    "reading_errors",
    "valid_names",
    "without",
]
