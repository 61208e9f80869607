"""Order files as delivered: which there are, whether they are whole, and what makes two the same.

How a file of each format is read is in resources/formats. Files are parsed inside Spark's Python
workers, one file a task, in batches.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from resources import formats
from resources.errors import Refused
from resources.formats import (
    UnreadableFile,
    lacking_columns,
    reading_errors,
    valid_names,
    without,
)
from resources.order_headers import Headers, joined_columns
from resources.settings import Source

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Names that programs give to files while they write, copy or lock them, and what job engines leave
# beside their output.
_UNFINISHED_NAME = re.compile(
    r"^(\.|~\$|_temporary$|_SUCCESS$|_metadata$|_common_metadata$|_started_|_committed_)"
    r"|(\.(tmp|temp|part|partial|filepart|crdownload|download|lock|lck|swp|crc)|~)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class OrderFile:
    """A file of a source, by content. ``name`` is its path below the source's root; ``note`` tells
    how it is read where that is worth telling.
    """

    source: str
    path: str
    byte_count: int
    modified_at: datetime
    content_hash: str
    column_names: tuple[str, ...]
    name: str = ""
    note: str = ""

    @property
    def file_name(self) -> str:
        return self.name or Path(self.path).name

    @property
    def delivery_id(self) -> str:
        return delivery_id_of(self.source, self.content_hash)


def delivery_id_of(source: str, content_hash: str) -> str:
    """A delivery is its content: one source, the same bytes, one delivery."""
    return hashlib.sha256(f"{source}\0{content_hash}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Landed:
    """Files of a source that may be taken, and why others are not yet (path -> reason)."""

    paths: list[str]
    waiting: dict[str, str] = field(default_factory=dict)


class NoFiles(Refused):
    """A source never had a file and has none now; the message names it, where it reads and what to
    check. No table was changed.
    """

    def __init__(self, source: Source) -> None:
        folder = root_of(str(source.files))
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


def _split(pattern: str) -> tuple[Path, str]:
    """The folder before the first wildcard of a path or glob, and the rest.

    A sign such as [ in the name of a folder or file that is there is no wildcard.
    """
    parts = Path(os.path.abspath(pattern)).parts
    folder = Path(parts[0])
    for at in range(1, len(parts)):
        there = folder / parts[at]
        if at == len(parts) - 1 or (glob.has_magic(parts[at]) and not there.is_dir()):
            rest = str(PurePosixPath(*parts[at:]))
            return folder, glob.escape(rest) if there.is_file() else rest
        folder = there
    return folder, ""


def root_of(pattern: str) -> Path:
    """The folder below which the files of a path or glob lie."""
    return _split(pattern)[0]


def matching(pattern: str) -> list[str]:
    """Files that a path or glob finds, in order of name; a file that several links lead to once."""
    folder, rest = _split(pattern)
    found: dict[str, str] = {}
    for name in sorted(glob.glob(rest, root_dir=folder, recursive=True)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            found.setdefault(os.path.realpath(path), path)
    return sorted(found.values())


def file_name(source: Source, path: str) -> str:
    """What a file of a source is called: its path below the source's root."""
    root, file = root_of(str(source.files)), Path(path)
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


def unfinished_name(source: Source, path: str) -> bool:
    """Whether a name says that the file is being written or is a lock; an ending that the source's
    own pattern has says nothing.
    """
    meant = Path(str(source.files)).name
    *folders, name = PurePosixPath(file_name(source, path)).parts
    if any(_UNFINISHED_NAME.search(folder) and folder.startswith(("_", ".")) for folder in folders):
        return True
    found = _UNFINISHED_NAME.search(name)
    return found is not None and name != meant and not meant.endswith(found.group(0))


def order_paths(source: Source) -> list[str]:
    """Files that the source's path or glob finds, in order of name, without those whose name says
    that they are not finished and those that say how many lines others have.
    """
    besides = [
        re.compile(_beside(pattern, ".+", ".+", re.escape)) for pattern in _beside_patterns(source)
    ]

    def is_beside(path: str) -> bool:
        return any(pattern.fullmatch(Path(path).name) for pattern in besides)

    return [
        path
        for path in matching(str(source.files))
        if not unfinished_name(source, path) and not is_beside(path)
    ]


def header_paths(source: Source) -> list[str]:
    """Header files of a source. Raises UnreadableFile where there is none."""
    assert source.header is not None  # noqa: S101 - for the types
    paths = order_paths(source.model_copy(update={"files": source.header.files}))
    if not paths:
        raise UnreadableFile(
            f"{source.header.files}: no such file; sources.{source.name}.header.files names the"
            " headers of the order lines"
        )
    return paths


def absent_beside(source: Source, path: str) -> str | None:
    """Name of the file that has to be beside a delivery and is not there yet; None where all
    are.
    """
    besides = [_file_beside(pattern, path) for pattern in _beside_patterns(source)]
    return next((beside.name for beside in besides if not beside.is_file()), None)


class OrderFiles(Protocol):
    """Access to order files. Implementations: LocalOrderFiles, and a fake in tests."""

    def paths(self, source: Source) -> list[str]: ...

    def landed(self, source: Source) -> Landed: ...

    def describe(self, source: Source, path: str, known: Container[str] = ()) -> OrderFile: ...

    def hash_of_beginning(self, path: str, byte_count: int) -> str: ...

    def row_count(self, source: Source, path: str) -> int | None: ...

    def lines(
        self, spark: SparkSession, source: Source, files: Sequence[OrderFile]
    ) -> DataFrame: ...


class LocalOrderFiles:
    """Files reachable by path from the driver and the workers (a local disk, a mount, a volume)."""

    def paths(self, source: Source) -> list[str]:
        """Files that the source's path or glob finds, in order of name, without those whose name
        says that they are not finished.
        """
        return order_paths(source)

    def landed(self, source: Source) -> Landed:
        """The same files, less those that are still being written: what is younger than
        ``delivery.settle_seconds`` is looked at twice.
        """
        paths = self.paths(source)
        waiting = {
            path: "its name says that it is not finished"
            for path in matching(str(source.files))
            if unfinished_name(source, path)
        }
        for path in paths:
            if (absent := absent_beside(source, path)) is not None:
                waiting[path] = f"{absent} is not beside it yet"
        waiting |= _changing(
            [path for path in paths if path not in waiting], source.delivery.settle_seconds
        )
        return Landed([path for path in paths if path not in waiting], waiting)

    def describe(self, source: Source, path: str, known: Container[str] = ()) -> OrderFile:
        """Size, time, content hash and columns of a file. Columns are left out for ``known``
        deliveries, because they would have to be read. Raises UnreadableFile.
        """
        try:
            facts = Path(path).stat()
            with open(path, "rb") as stream:
                content_hash = hashlib.file_digest(stream, "sha256").hexdigest()
            if Path(path).stat().st_size != facts.st_size:
                raise UnreadableFile(
                    f"{path}: it was written to while it was read; deliver it under another name"
                    " and rename it when it is whole, or set"
                    f" sources.{source.name}.delivery.settle_seconds higher"
                )
            columns = formats.Columns(())
            if delivery_id_of(source.name, content_hash) not in known:
                _check_content(source, path, content_hash)
                columns = (
                    formats.columns(path, source)
                    if source.header is None
                    else joined_columns(path, source, header_paths(source))
                )
        except OSError as error:
            reason = error.strerror or str(error)
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
            columns.names,
            file_name(source, path),
            columns.place,
        )

    def hash_of_beginning(self, path: str, byte_count: int) -> str:
        """SHA-256 of the first bytes of a file: what it was before it grew. Raises OSError."""
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            while byte_count > 0 and (chunk := stream.read(min(byte_count, 1 << 20))):
                digest.update(chunk)
                byte_count -= len(chunk)
        return digest.hexdigest()

    def row_count(self, source: Source, path: str) -> int | None:
        """Number of order lines that the file beside a delivery promises; None where the source has
        no such files. Raises UnreadableFile.
        """
        if source.delivery.row_count_files is None:
            return None
        beside = _file_beside(source.delivery.row_count_files, path)
        text = _text_beside(beside)
        found = {int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.])", text)}
        if len(found) != 1:
            raise UnreadableFile(
                f"{beside}: one whole number is expected, the lines of {Path(path).name}; found:"
                f" {text[:60].strip() or 'nothing'}"
            )
        return found.pop()

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
            [(file.path, file.delivery_id, file.byte_count) for file in files],
            "path STRING, delivery_id STRING, byte_count BIGINT",
        )
        if len(files) > 1:
            listed = listed.repartitionByRange(min(len(files), 64), "path")

        with_headers = [] if source.header is None else header_paths(source)

        def parse(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            headers = Headers.read(source, with_headers) if with_headers else None
            for batch in batches:
                for file in batch.to_pylist():
                    read = (
                        formats.lines(file["path"], source, file["byte_count"])
                        if headers is None
                        else headers.lines(file["path"], file["byte_count"])
                    )
                    for numbers, problems, raws, values in read:
                        arrays = {
                            "_delivery_id": [file["delivery_id"]] * len(numbers),
                            "_line_number": numbers,
                            "_problem": problems,
                            "_raw": raws,
                            **{k.lower(): v for k, v in values.items()},
                        }
                        yield pa.RecordBatch.from_arrays(
                            [
                                _as_array(arrays.get(field.name.lower()), field.type, len(numbers))
                                for field in schema
                            ],
                            schema=schema,
                        )

        return listed.mapInArrow(parse, ddl)


def _as_array(values: Any, type_: pa.DataType, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, type_)
    return values if isinstance(values, pa.Array) else pa.array(values, type_)


def _changing(paths: Sequence[str], settle_seconds: float) -> dict[str, str]:
    """Files that somebody writes to, and what was seen. Waits ``settle_seconds`` at most, and only
    for files that are younger.
    """

    def look(path: str) -> tuple[int, int] | None:
        try:
            facts = os.stat(path)
        except OSError:  # moved away since it was listed
            return None
        return facts.st_size, facts.st_mtime_ns

    seen = {path: look(path) for path in paths}
    now = time.time()
    # A time ahead of this machine's clock tells nothing about the age.
    ages = {path: now - facts[1] / 1e9 for path, facts in seen.items() if facts is not None}
    young = {path: max(age, 0.0) for path, age in ages.items() if age < settle_seconds}
    if young:
        time.sleep(settle_seconds - min(young.values()))
    found = {}
    for path in paths:
        if seen[path] is None:
            found[path] = "it was moved away"
        elif path in young and look(path) != seen[path]:
            found[path] = "it is still being written"
    return found


def _beside_patterns(source: Source) -> list[str]:
    named = (source.delivery.row_count_files, source.delivery.checksum_files)
    return [pattern for pattern in named if pattern is not None]


def _beside(pattern: str, name: str, stem: str, quoted: Any = str) -> str:
    before, key, after = re.split(r"\{(name|stem)\}", pattern)
    return f"{quoted(before)}{name if key == 'name' else stem}{quoted(after)}"


def _file_beside(pattern: str, path: str) -> Path:
    return Path(path).with_name(_beside(pattern, Path(path).name, Path(path).stem))


def _text_beside(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:10_000]
    except OSError as error:
        raise UnreadableFile(f"{path}: can't be read ({error.strerror})") from error


def _check_content(source: Source, path: str, content_hash: str) -> None:
    """Raises UnreadableFile where the file's checksum file names another content."""
    if source.delivery.checksum_files is None:
        return
    beside = _file_beside(source.delivery.checksum_files, path)
    text = _text_beside(beside)
    of_file = [line for line in text.splitlines() if Path(path).name in line]
    found = re.findall(r"\b[0-9a-f]{64}\b", "\n".join(of_file) or text, re.IGNORECASE)
    if not found:
        raise UnreadableFile(f"{beside}: no SHA-256 (64 hex digits) of {Path(path).name} is in it")
    if content_hash not in {digest.lower() for digest in found}:
        raise UnreadableFile(
            f"{path}: its SHA-256 is {content_hash}, and {beside.name} promises {found[0]}; it is"
            " not whole or not the file that was meant: deliver it again"
        )


__all__ = [
    "Landed",
    "LocalOrderFiles",
    "NoFiles",
    "OrderFile",
    "OrderFiles",
    "UnreadableFile",
    "absent_beside",
    "delivery_id_of",
    "file_name",
    "lacking_columns",
    "matching",
    "order_paths",
    "reading_errors",
    "root_of",
    "unfinished_name",
    "valid_names",
    "without",
]
