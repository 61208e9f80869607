"""Order files as delivered: which there are, what their columns are called, and their lines as text
with line numbers.

Files are parsed inside Spark's Python workers, one file a task, in batches; nothing is interpreted
here beyond columns and lines.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import itertools
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from resources.errors import Refused
from resources.settings import CsvDialect, Source

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

BATCH_LINES = 50_000
FIELD_LIMIT = 10_000_000
RESERVED_NAMES = frozenset({"yyyymm"})


class UnreadableFile(Refused):
    """A file can't be taken in; the message names file, line or column, and what to do. Nothing of
    it was stored.
    """


@dataclass(frozen=True)
class OrderFile:
    """A file of a source, by content."""

    source: str
    path: str
    byte_count: int
    modified_at: datetime
    content_hash: str
    column_names: tuple[str, ...]

    @property
    def file_name(self) -> str:
        return Path(self.path).name

    @property
    def delivery_id(self) -> str:
        return hashlib.sha256(f"{self.source}\0{self.content_hash}".encode()).hexdigest()[:16]


class NoFiles(Refused):
    """A source never had a file and has none now; the message names it, where it reads and what to
    check. No table was changed.
    """

    def __init__(self, source: Source):
        folder = Path(str(source.files)).parent
        while glob.has_magic(str(folder)):
            folder = folder.parent
        found = (
            f"no file below {folder} matches"
            if folder.is_dir()
            else f"the folder {folder} does not exist on this machine"
        )
        super().__init__(
            f"source {source.name}: {source.files} finds no file, and none was ever taken in:"
            f" {found}. Check files of this source in the configuration, whether anything was"
            " delivered, and whether the folder is mounted here and may be read. No table was"
            " changed."
        )


class OrderFiles(Protocol):
    """Access to order files. Implementations: LocalOrderFiles, and a fake in tests."""

    def paths(self, source: Source) -> list[str]: ...

    def describe(self, source: Source, path: str) -> OrderFile: ...

    def lines(
        self, spark: SparkSession, source: Source, files: Sequence[OrderFile]
    ) -> DataFrame: ...


class LocalOrderFiles:
    """Files reachable by path from the driver and the workers (a local disk, a mount, a volume)."""

    def paths(self, source: Source) -> list[str]:
        """Files that the source's glob finds, in order of name."""
        return sorted(
            path for path in glob.glob(str(source.files), recursive=True) if Path(path).is_file()
        )

    def describe(self, source: Source, path: str) -> OrderFile:
        """Size, time, content hash and columns of a file. Raises UnreadableFile."""
        try:
            facts = Path(path).stat()
            with open(path, "rb") as stream:
                content_hash = hashlib.file_digest(stream, "sha256").hexdigest()
            columns = _columns(source, path)
        except OSError as error:
            reason = error.strerror or _first_line(error)
            raise UnreadableFile(
                f"{path}: can't be read ({reason}); check that the file is there, whole, and its"
                " permissions"
            ) from error
        return OrderFile(
            source.name,
            path,
            facts.st_size,
            datetime.fromtimestamp(facts.st_mtime, UTC),
            content_hash,
            columns,
        )

    def lines(self, spark: SparkSession, source: Source, files: Sequence[OrderFile]) -> DataFrame:
        """All lines of the files as text: _delivery_id, _line_number, _problem, _raw and one column
        per source column.

        A line with a wrong number of fields or broken text has its ``_problem``, its text in
        ``_raw`` and no values.
        """
        columns = list(
            dict.fromkeys(
                itertools.chain.from_iterable(valid_names(file.column_names) for file in files)
            )
        )
        columns = list({name.lower(): name for name in reversed(columns)}.values())[::-1]
        schema = pa.schema(
            [
                ("_delivery_id", pa.string()),
                ("_line_number", pa.int64()),
                ("_problem", pa.string()),
                ("_raw", pa.string()),
            ]
        )
        for name in columns:
            schema = schema.append(pa.field(name, pa.string()))
        ddl = "_delivery_id STRING, _line_number BIGINT, _problem STRING, _raw STRING" + "".join(
            f", `{name}` STRING" for name in columns
        )
        listed = spark.createDataFrame(
            [(file.path, file.delivery_id) for file in files], "path STRING, delivery_id STRING"
        )
        if len(files) > 1:
            listed = listed.repartitionByRange(min(len(files), 64), "path")
        format_, dialect = source.format, source.csv

        def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for path, delivery_id in zip(
                    batch["path"].to_pylist(), batch["delivery_id"].to_pylist(), strict=True
                ):
                    for numbers, problems, raws, values in _read(format_, path, dialect):
                        arrays = {
                            "_line_number": numbers,
                            "_problem": problems,
                            "_raw": raws,
                            **{k.lower(): v for k, v in values.items()},
                        }
                        n = len(numbers)
                        yield pa.RecordBatch.from_arrays(
                            [
                                (
                                    pa.array([delivery_id] * n, pa.string())
                                    if field.name == "_delivery_id"
                                    else _as_array(
                                        arrays.get(
                                            field.name
                                            if field.name.startswith("_")
                                            else field.name.lower()
                                        ),
                                        field.type,
                                        n,
                                    )
                                )
                                for field in schema
                            ],
                            schema=schema,
                        )

        return listed.mapInArrow(parse, ddl)


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


_Batch = tuple[list[int], list[str | None], list[str | None], dict[str, Any]]


def _read(format_: str, path: str, dialect: CsvDialect) -> Iterator[_Batch]:
    try:
        yield from _READERS[format_](path, dialect)
    except (OSError, UnicodeError, csv.Error, pa.ArrowException) as error:
        raise UnreadableFile(
            f"{path}: can't be read ({_first_line(error)}); deliver it again complete"
        ) from error


def _as_array(values: Any, type_: pa.DataType, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, type_)
    return values if isinstance(values, pa.Array) else pa.array(values, type_)


def _columns(source: Source, path: str) -> tuple[str, ...]:
    """Column names as spelled. Raises UnreadableFile for a file without any or with a format that
    is not the source's.
    """
    if source.format == "parquet":
        try:
            return tuple(pq.read_schema(path).names)
        except (pa.ArrowInvalid, pa.ArrowException, ValueError) as error:
            raise UnreadableFile(
                f"{path}: not a readable Parquet file ({_first_line(error)}); deliver it again"
                " complete"
            ) from error
    if source.format == "jsonl":
        names = list(
            dict.fromkeys(name for _, _, _, row in _json_objects(path, source.csv) for name in row)
        )
        if not names:
            raise UnreadableFile(
                f"{path}: no line holds a JSON object; check the format of source {source.name}"
            )
        return tuple(names)
    csv.field_size_limit(FIELD_LIMIT)
    try:
        with open(
            path, encoding=_encoding(source.csv), errors="surrogateescape", newline=""
        ) as stream:
            header = next(
                csv.reader(stream, delimiter=source.csv.delimiter, quotechar=source.csv.quote), None
            )
    except (csv.Error, UnicodeError) as error:
        raise UnreadableFile(
            f"{path}: line 1: {_first_line(error)}; check encoding, delimiter and quote sign of"
            f" source {source.name}"
        ) from error
    if not header or not any(name.strip() for name in header):
        raise UnreadableFile(
            f"{path}: line 1 has no column names; the file is empty or not a CSV with a header"
        )
    return tuple(_printable(name.strip()) for name in header)


def _encoding(dialect: CsvDialect) -> str:
    return (
        "utf-8-sig"
        if dialect.encoding.lower().replace("_", "-") in {"utf-8", "utf8"}
        else dialect.encoding
    )


def _csv_lines(path: str, dialect: CsvDialect) -> Iterator[_Batch]:
    csv.field_size_limit(FIELD_LIMIT)
    with open(path, encoding=_encoding(dialect), errors="surrogateescape", newline="") as stream:
        reader = csv.reader(
            stream, delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True
        )
        start = 1
        try:
            names = valid_names([_printable(name.strip()) for name in next(reader, [])])
            width = len(names)
            numbers: list[int] = []
            problems: list[str | None] = []
            raws: list[str | None] = []
            rows: list[list[str | None]] = []
            empty: list[str | None] = [None] * width
            start = reader.line_num + 1
            for fields in reader:
                if fields:
                    problem = None
                    if len(fields) != width:
                        problem = f"unreadable: {len(fields)} fields where the header has {width}"
                    elif any(not field.isascii() and _is_broken(field) for field in fields):
                        problem = f"unreadable: not {dialect.encoding} text"
                    numbers.append(start)
                    problems.append(problem)
                    raws.append(_printable(dialect.delimiter.join(fields)) if problem else None)
                    rows.append(empty if problem else list(fields))
                start = reader.line_num + 1
                if len(numbers) >= BATCH_LINES:
                    yield numbers, problems, raws, _by_column(names, rows)
                    numbers, problems, raws, rows = [], [], [], []
        except csv.Error as error:
            raise UnreadableFile(
                f"{path}: line {start}: {error}; a quote is opened there and not closed, or another"
                " delimiter or quote sign than configured"
            ) from error
        if numbers:
            yield numbers, problems, raws, _by_column(names, rows)


def _by_column(names: list[str], rows: list[list[str | None]]) -> dict[str, Any]:
    return dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True))


def _is_broken(text: str) -> bool:
    return any("\udc80" <= sign <= "\udcff" for sign in text)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _json_objects(
    path: str, dialect: CsvDialect
) -> Iterator[tuple[int, str | None, str | None, dict[str, Any]]]:
    """Line number, problem, raw text and object of every line that is not blank."""
    with open(path, encoding=_encoding(dialect), errors="surrogateescape") as stream:
        for number, text in enumerate(stream, 1):
            if not text.strip():
                continue
            problem, row = None, {}
            if not text.isascii() and _is_broken(text):
                problem = f"unreadable: not {dialect.encoding} text"
            else:
                try:
                    row = json.loads(text, parse_float=_Number)
                    if not isinstance(row, dict):
                        problem = "unreadable: not a JSON object"
                    elif "\\ud" in text.lower():
                        json.dumps(row, ensure_ascii=False).encode()
                except (ValueError, RecursionError) as error:
                    problem = f"unreadable: {_first_line(error)}"
            yield (
                number,
                problem,
                _printable(text.rstrip("\r\n")) if problem else None,
                {} if problem else row,
            )


class _Number(float):
    """A JSON number that keeps its text as delivered."""

    text: str

    def __new__(cls, text: str) -> _Number:
        number = super().__new__(cls, text)
        number.text = text
        return number


def _json_lines(path: str, dialect: CsvDialect) -> Iterator[_Batch]:
    lines = _json_objects(path, dialect)
    names: dict[str, None] = {}
    while chunk := list(itertools.islice(lines, BATCH_LINES)):
        numbers, problems, raws, rows = (list(column) for column in zip(*chunk, strict=True))
        # Of the whole file so far: a name must not mean another column in a later batch.
        names.update(dict.fromkeys(itertools.chain.from_iterable(rows)))
        values = {
            new: [_json_text(row.get(old)) for row in rows]
            for new, old in zip(valid_names(list(names)), names, strict=True)
        }
        yield numbers, problems, raws, values


def _json_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, _Number):
        return value.text
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict | list | bool)
        else str(value)
    )


def _parquet_lines(path: str, dialect: CsvDialect) -> Iterator[_Batch]:
    with pq.ParquetFile(path) as file:
        names = valid_names(file.schema_arrow.names)
        first = 1
        for batch in file.iter_batches(batch_size=BATCH_LINES):
            n = batch.num_rows
            nothing: list[str | None] = [None] * n
            texts = {name: _text(column) for name, column in zip(names, batch.columns, strict=True)}
            yield list(range(first, first + n)), nothing, nothing, texts
            first += n


def _text(column: pa.Array) -> pa.Array:
    """A column as text: whole numbers without a fraction, times without empty microseconds."""
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return pa.array([_object_text(value) for value in column.to_pylist()], pa.string())
    text = column.cast(pa.string())
    if pa.types.is_floating(column.type):
        # From 1e10 a double turns into text with an exponent, and a part number kept as double
        # would get another name than in a CSV.
        values = column.cast(pa.float64())
        is_whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
        whole = pc.if_else(is_whole, values, None).cast(pa.int64()).cast(pa.string())
        text = pc.coalesce(whole, text)
    if pa.types.is_timestamp(column.type):
        text = pc.replace_substring_regex(text, r"\.0+(Z|[+-]\d{4})?$", r"\1")
    return text


def _object_text(value: object) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]


_READERS = {"csv": _csv_lines, "parquet": _parquet_lines, "jsonl": _json_lines}

__all__ = [
    "LocalOrderFiles",
    "NoFiles",
    "OrderFile",
    "OrderFiles",
    "UnreadableFile",
    "reading_errors",
    "valid_names",
]
