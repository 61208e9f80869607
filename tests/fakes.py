"""Resources in memory for tests without storage: tables, order files and reports. MLflow lies in
fake_tracking.py.

Where a test reads frames it gives the session of an engine, and they are that engine's.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from resources.kept import Kept
from resources.lakehouse import (
    ConcurrentWrite,
    MonthWritten,
    RemovalRefused,
    Slice,
    TableSpec,
    WriteResult,
)
from resources.orders import Landed, OrderFile, UnreadableFile
from resources.settings import Source
from resources.table_spec import delta_schema
from resources.workers import Begun

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Record = dict[str, Any]
Rows = Any  # a frame of an engine, or a list of records


class Crash(OSError):
    """The process ended here."""


class Journal(list[str]):
    """What was done in which order, by all fakes that share it; ``crash_before`` an entry the
    process ends, once.
    """

    crash_before: str | None = None

    def note(self, entry: str) -> None:
        if entry == self.crash_before:
            self.crash_before = None
            raise Crash(entry)
        self.append(entry)


_FILLERS: dict[str, Any] = {
    "STRING": "x",
    "INT": 1,
    "BIGINT": 1,
    "DOUBLE": 1.0,
    "BOOLEAN": True,
    "TIMESTAMP": datetime(2024, 1, 1, tzinfo=UTC),
}


def filled(spec: TableSpec, **values: Any) -> Record:
    """A row of a table: what is given, a plausible value where one is required, and nothing
    elsewhere.
    """
    required = {
        c.name: _FILLERS.get(c.type, ["x"] if c.type.startswith("ARRAY") else Decimal(1))
        for c in spec.columns
        if not c.is_nullable
    }
    return dict.fromkeys(spec.column_names) | required | values


class FakeEngine:
    """The session of a real engine. What it holds it holds in memory; Python code runs where it
    stands.
    """

    label = "fake"

    def __init__(self, session: SparkSession | None) -> None:
        self.session: Any = session

    def hold(self, rows: DataFrame) -> DataFrame:
        return self.session.createDataFrame(rows.toArrow(), rows.schema)

    def release(self, rows: DataFrame) -> None:
        """Memory is given back with the frame."""

    def python(self, body: Any) -> Any:
        return body

    def begin(self, work: Any) -> Begun:
        done: Future[Any] = Future()
        done.set_result(work())
        return Begun(done, 1)


class FakeLedger:
    """The newest slice of each table, writer and month."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], dict[int, Slice]] = {}

    def slices(self, table: TableSpec, writer: str = "") -> dict[int, Slice]:
        return dict(self._newest.get((table.id, writer), {}))

    def record(self, table: TableSpec, slices: Sequence[Slice], run_id: str) -> None:
        for s in slices:
            as_stored = json.loads(json.dumps(dict(s.details), default=str))
            newest = self._newest.setdefault((table.id, s.writer), {})
            newest[s.yyyymm] = replace(s, details=as_stored)

    def forget(self, spec: TableSpec, *months: int, writer: str = "") -> None:
        """Take months out, as if the process had ended before they were recorded."""
        for month in months or list(self._newest[spec.id, writer]):
            del self._newest[spec.id, writer][month]


class FakeUpkeep:
    """One file that nobody needs, until it is removed; former versions come back."""

    def __init__(self, journal: Journal, versions: dict[str, list[list[Record]]]):
        self.vacuumed = False
        self._journal, self._versions = journal, versions

    def storage(
        self, spec: TableSpec, months: Sequence[int] | None, writer: str = ""
    ) -> tuple[int, int]:
        return len(months or ()), 100

    def unneeded_files(self, spec: TableSpec, retention_hours: int) -> dict[str, int]:
        return {} if self.vacuumed else {"old.parquet": 100}

    def vacuum(self, spec: TableSpec, retention_hours: int) -> None:
        self.vacuumed = True

    def restore(self, spec: TableSpec, version: int, run_id: str) -> None:
        self._journal.note(f"restore {spec.id} {version}")
        self._versions[spec.id].append(list(self._versions[spec.id][version]))


class FakeLakehouse:
    """Tables in memory with every version kept. ``conflicts`` makes so many merges lose against
    another writer first.

    Frames are those of a ``session``; a test without one reads none. Writes take frames, and rows
    as they are.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        max_removed_share: float = 0.2,
        session: SparkSession | None = None,
    ):
        self.journal = Journal() if journal is None else journal
        self.engine = FakeEngine(session)
        self.spark: Any = session
        self.external: dict[str, DataFrame] = {}
        self.conflicts = 0
        self._max_removed_share = max_removed_share
        self._versions: dict[str, list[list[Record]]] = {}
        self._appended: dict[str, int] = {}
        self.ledger = FakeLedger()
        self.kept = Kept(lambda: self.engine)
        self.upkeep = FakeUpkeep(self.journal, self._versions)

    def copied(self) -> FakeLakehouse:
        """The same tables and slices, which go on by themselves, with an empty journal."""
        made = FakeLakehouse(max_removed_share=self._max_removed_share, session=self.spark)
        made.ledger = copy.deepcopy(self.ledger)
        made._versions |= copy.deepcopy(self._versions)
        made._appended |= self._appended
        return made

    def name(self, spec: TableSpec) -> str:
        return f"my_catalog.my_{spec.layer}.{spec.name}"

    def path(self, spec: TableSpec) -> str:
        return f"memory/{spec.layer}/{spec.name}"

    def read(
        self, spec: TableSpec, months: Sequence[int] | None = None, version: int | None = None
    ) -> DataFrame:
        types = dict.fromkeys(self._columns(spec), "STRING")
        types |= {c.name: c.type for c in spec.columns}
        rows = [tuple(map(row.get, types)) for row in self._stored(spec, months, version)]
        schema = ", ".join(f"`{name}` {type_}" for name, type_ in types.items())
        return self.spark.createDataFrame(rows, schema)

    def read_external(self, table: str) -> DataFrame:
        return self.external[table]

    def create_frame(self, spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> list[Record]:
        """The rows as they are, which writes take as they take a frame."""
        return [dict(zip(spec.column_names, spec.values(row), strict=True)) for row in rows]

    def merge(
        self,
        spec: TableSpec,
        rows: Rows,
        months: Sequence[int],
        writer: str = "",
        *,
        may_remove: bool | Collection[int] = False,
        is_held: bool = False,
    ) -> WriteResult:
        new = _checked(spec, [_selected(row, spec.column_names) for row in _plain_rows(rows)])
        if outside := sorted({row[spec.month_column] for row in new} - set(months)):
            raise ValueError(
                f"{spec.id}: rows of {outside} in a write of {min(months)} to {max(months)};"
                " nothing was written"
            )
        stored = self._table(spec)[-1]
        own = [
            row
            for row in stored
            if row[spec.month_column] in months
            and (not spec.writer_column or row[spec.writer_column] == writer)
        ]
        result = {
            month: self._month_written(spec, new, own, month) for month in sorted(set(months))
        }
        for month, written in result.items():
            before = written.row_count - written.inserted + written.deleted
            may_lose = may_remove is True or month in (may_remove or ())
            if written.deleted > max(1, self._max_removed_share * before) and not may_lose:
                raise RemovalRefused(
                    f"{self.name(spec)}: writing {month} would remove {written.deleted} of {before}"
                    " rows"
                )
        if any(written.is_changed for written in result.values()):
            if self.conflicts:
                self.conflicts -= 1
                raise ConcurrentWrite(f"{spec.id}: another writer changed the same slice")
            self.journal.note(f"merge {spec.id}")
            kept = [row for row in stored if not any(row is other for other in own)]
            self._versions[spec.id].append(kept + new)
        return WriteResult(self.version(spec), result)

    def move(self, spec: TableSpec, rows: Rows, months: Sequence[int], version: int) -> int:
        raise NotImplementedError("no test moves rows in memory")

    def append(self, spec: TableSpec, rows: Rows, number: int | None = None) -> int:
        new = _checked(spec, _plain_rows(rows))
        stored = self._table(spec)[-1]
        if number is not None and number <= self._appended.get(spec.id, 0):
            raise ConcurrentWrite(f"{spec.id}: another writer was faster with number {number}")
        self.journal.note(f"append {spec.id}")
        self._appended[spec.id] = number or self._appended.get(spec.id, 0)
        self._versions[spec.id].append(stored + new)
        return self.version(spec)

    def next_number(self, spec: TableSpec) -> int:
        return self._appended.get(spec.id, 0) + 1

    def version(self, spec: TableSpec) -> int:
        return len(self._versions.get(spec.id, ())) - 1

    def rows(
        self,
        spec: TableSpec,
        columns: Sequence[str] | None = None,
        months: Sequence[int] | None = None,
        writers: Sequence[str] | None = None,
        *,
        parts: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pd.DataFrame:
        wanted = list(columns or self._columns(spec))
        if self.version(spec) < 0:
            return pd.DataFrame(columns=wanted)
        found = self._stored(spec, months, version)
        rows = _arrow(spec, found, self._columns(spec)).to_pandas()
        rows = rows if parts is None else rows[rows["part_number"].isin(parts)]
        return rows.loc[
            rows[spec.writer_column].isin(writers) if writers is not None else rows.index, wanted
        ].reset_index(drop=True)

    def totals(
        self, spec: TableSpec, by: Sequence[str], columns: Sequence[str], months: Sequence[int]
    ) -> pd.DataFrame:
        return (
            self.rows(spec, [*by, *columns], months)
            .groupby(list(by), as_index=False)[list(columns)]
            .sum()
        )

    def files(
        self,
        spec: TableSpec,
        months: Sequence[int] | None = None,
        writers: Sequence[str] | None = None,
    ) -> pa.Table:
        counts = [count] if (count := len(self.rows(spec, None, months, writers))) else []
        return pa.table({"size_bytes": counts, "num_records": counts})

    def _table(self, spec: TableSpec) -> list[list[Record]]:
        return self._versions.setdefault(spec.id, [[]])

    def _stored(
        self, spec: TableSpec, months: Sequence[int] | None, version: int | None
    ) -> list[Record]:
        rows = self._table(spec)[-1 if version is None else version]
        return rows if months is None else [r for r in rows if r[spec.month_column] in set(months)]

    def _columns(self, spec: TableSpec) -> list[str]:
        found = (name for row in self._versions.get(spec.id, [[]])[-1] for name in row)
        return list(dict.fromkeys([*spec.column_names, *found]))

    def _month_written(
        self, spec: TableSpec, new: list[Record], old: list[Record], month: int
    ) -> MonthWritten:
        after, before = (
            _by_key(spec, [row for row in rows if row[spec.month_column] == month])
            for rows in (new, old)
        )
        changed = [
            key
            for key in after.keys() & before.keys()
            if _differ(after[key], before[key], spec.compared_columns)
        ]
        counts = len(after.keys() - before.keys()), len(changed), len(before.keys() - after.keys())
        return MonthWritten(len(after), _data_version(spec, after.values()), *counts)


def _plain_rows(rows: Rows) -> list[Record]:
    return list(rows) if isinstance(rows, list) else rows.toArrow().to_pylist()


def _checked(spec: TableSpec, rows: list[Record]) -> list[Record]:
    """Rows of plain values, checked as Delta does: known columns only, nothing missing that is
    required.
    """
    types = {c.name: c.type for c in spec.columns}
    required = [c.name for c in spec.columns if not c.is_nullable]
    records = [_typed(row, types) for row in rows]
    for row in records:
        if (unknown := sorted(row.keys() - types)) and not spec.has_source_columns:
            raise ValueError(f"{spec.id} has no column {', '.join(unknown)}")
        if absent := [name for name in required if row.get(name) is None]:
            raise ValueError(f"{spec.id}: {', '.join(absent)} must not be NULL")
    return records


def _arrow(spec: TableSpec, rows: list[Record], columns: Sequence[str]) -> pa.Table:
    """Rows with the types of the table's columns; columns of the source are text."""
    known = {field.name: field for field in pa.schema(delta_schema(spec.columns))}
    schema = pa.schema([known.get(name, pa.field(name, pa.string())) for name in columns])
    return pa.Table.from_pylist(rows, schema)


def _selected(row: Record, names: Iterable[str]) -> Record:
    return {name: row[name] for name in names}


def _typed(row: Record, types: Mapping[str, str]) -> Record:
    return {name: _plain(value, types.get(name)) for name, value in row.items()}


def _plain(value: Any, type_: str | None) -> Any:
    if isinstance(value, list | np.ndarray):
        return list(value)
    if value is None or pd.isna(value):
        return None
    kinds: dict[str | None, Callable[[Any], Any]] = {
        "INT": int,
        "BIGINT": int,
        "DOUBLE": float,
        "BOOLEAN": bool,
    }
    return kinds.get(type_, lambda same: same)(value)


def _by_key(spec: TableSpec, rows: list[Record]) -> dict[tuple[Any, ...], Record]:
    found = {tuple(row[name] for name in spec.key): row for row in rows}
    if len(found) < len(rows):
        raise ValueError(f"{spec.id}: a key is there twice")
    return found


def _differ(left: Record, right: Record, columns: Iterable[str]) -> bool:
    return any(repr(left[name]) != repr(right[name]) for name in columns)


def _data_version(spec: TableSpec, rows: Iterable[Record]) -> str:
    texts = sorted(repr([row[name] for name in spec.versioned_columns]) for row in rows)
    return (
        f"{len(texts)}-{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]}"
        if texts
        else "0-0"
    )


class FakeReportFiles:
    """Report files in memory, by name."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def path(self, name: str) -> str:
        return f"memory/reports/{name}"

    def read(self, name: str) -> str | None:
        return self.texts.get(name)

    def write(self, name: str, text: str) -> None:
        self.texts[name] = text


class FakeOrderFiles:
    """Order files in memory: {source name: {path: lines, or None for a file that can't be
    read}}.
    """

    def __init__(self, files: Mapping[str, Mapping[str, Sequence[Record] | None]]):
        self.files = {source: dict(by_path) for source, by_path in files.items()}

    def paths(self, source: Source) -> list[str]:
        return sorted(self.files.get(source.name, {}))

    def landed(self, source: Source) -> Landed:
        return Landed(self.paths(source))

    def hash_of_beginning(self, path: str, byte_count: int) -> str:
        return hashlib.sha256(f"{path} {byte_count}".encode()).hexdigest()

    def row_count(self, source: Source, path: str) -> int | None:
        return None

    def describe(self, source: Source, path: str, known: Container[str] = ()) -> OrderFile:
        lines = self.files[source.name][path]
        if not lines:
            raise UnreadableFile(f"{path}: can't be read")
        text = json.dumps(list(lines), default=str)
        content_hash = hashlib.sha256(text.encode()).hexdigest()
        return OrderFile(
            source.name,
            path,
            len(text),
            datetime(2024, 1, 1, tzinfo=UTC),
            content_hash,
            tuple(lines[0]),
        )

    def lines(self, spark: SparkSession, source: Source, files: Sequence[OrderFile]) -> DataFrame:
        names = list(dict.fromkeys(name for file in files for name in file.column_names))
        rows = [
            (file.delivery_id, number, None, None, *(line.get(name) for name in names))
            for file in files
            for number, line in enumerate(self.files[source.name][file.path] or (), 2)
        ]
        own = "_delivery_id STRING, _line_number BIGINT, _problem STRING, _raw STRING"
        schema = ", ".join([own, *(f"`{name}` STRING" for name in names)])
        return spark.createDataFrame(rows, schema)
