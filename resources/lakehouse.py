"""Delta tables: what one is (TableSpec), how its months are read and written (Lakehouse), and the record of every slice.

The rules that keep other months untouched live here and nowhere else. Contents of the tables do not belong here.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from resources.errors import Refused

if TYPE_CHECKING:
    import pandas as pd
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession

Layer = Literal["bronze", "silver", "gold"]
KEPT_FRAMES = 8
KEPT_VALUES = 10_000_000  # of all samples that are remembered
ROWS_PER_FILE = 1_000_000
MAX_FILES = 50  # of a table without partitions: every reader opens all of them
RECENT_COMMITS = 100  # among which a writer looks for its own; so many others can't come in between


@dataclass(frozen=True)
class Column:
    """One column. A volatile column (a time, a run id) is stored but never makes a row count as changed.

    A column that is not versioned is kept up to date, but what is made from the table does not depend on it.
    """

    name: str
    type: str
    comment: str
    is_nullable: bool = True
    is_volatile: bool = False
    is_versioned: bool = True


@dataclass(frozen=True)
class Constraint:
    """A rule that every row must obey, as SQL over the table's columns."""

    name: str
    sql: str


@dataclass(frozen=True)
class TableSpec:
    """One table: everything that DDL, the UI's column schema, asset checks and docs/tables.md are made from."""

    layer: Layer
    name: str
    comment: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    write: Literal["append", "merge"]
    code_version: str
    owner: str
    partition_by: tuple[str, ...] = ()
    partition_reason: str = "small: one file is read faster than many"
    writer_column: str | None = None
    month_column: str = "yyyymm"
    constraints: tuple[Constraint, ...] = ()
    has_source_columns: bool = False

    @property
    def id(self) -> str:
        return f"{self.layer}.{self.name}"

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def compared_columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if not column.is_volatile)

    @property
    def versioned_columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.is_versioned and not column.is_volatile)


LEDGER = TableSpec(
    layer="gold",
    name="slice_ledger",
    comment="The newest row of a table, month and writer says which inputs, code and configuration its stored slice was made from.",
    grain="one examination of one table's month that stored or confirmed it",
    key=("table_id", "yyyymm", "writer", "recorded_at"),
    columns=(
        Column("table_id", "STRING", "layer.table", is_nullable=False),
        Column("yyyymm", "INT", "month of the slice", is_nullable=False),
        Column("writer", "STRING", "second writer key, for instance the model; empty where a table has one writer", is_nullable=False),
        Column("data_version", "STRING", "hash of the slice's rows, unversioned columns left out", is_nullable=False),
        Column("input_version", "STRING", "hash of the versions of all inputs, the code version and the configuration", is_nullable=False),
        Column("row_count", "BIGINT", "rows of the slice", is_nullable=False),
        Column("delta_version", "BIGINT", "version of the Delta table that holds the slice", is_nullable=False),
        Column("details", "STRING", "JSON: inputs with their Delta versions and what the writer adds", is_nullable=False),
        Column("run_id", "STRING", "Dagster run", is_nullable=False),
        Column("recorded_at", "TIMESTAMP", "when it was recorded (UTC)", is_nullable=False),
    ),
    write="append",
    code_version="1",
    owner="team:data-platform",
)


@dataclass(frozen=True)
class Slice:
    """What the ledger knows of one stored slice."""

    yyyymm: int
    writer: str
    data_version: str
    input_version: str
    row_count: int
    delta_version: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MonthWritten:
    """Rows of one month's slice after a write, and how many the write inserted, updated and deleted."""

    row_count: int = 0
    data_version: str = "0-0"
    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def is_changed(self) -> bool:
        return bool(self.inserted or self.updated or self.deleted)


@dataclass(frozen=True)
class WriteResult:
    """What a write did, by month. ``delta_version`` is the table's version that holds the result."""

    delta_version: int
    months: Mapping[int, MonthWritten]

    @property
    def is_changed(self) -> bool:
        return any(month.is_changed for month in self.months.values())


class RemovalRefused(Refused):
    """A write would remove more of a slice than the configuration allows; nothing was written."""


class ConcurrentWrite(Exception):
    """Another writer changed the same slice in between; read, transform and write again."""


class Lakehouse(Protocol):
    """Reads and writes of tables by month. Implementations: DeltaLakehouse, and a fake in tests."""

    @property
    def spark(self) -> SparkSession: ...

    def name(self, spec: TableSpec) -> str: ...

    def path(self, spec: TableSpec) -> str: ...

    def read(self, spec: TableSpec, months: Sequence[int] | None = None, version: int | None = None) -> DataFrame: ...

    def read_external(self, table: str) -> DataFrame: ...

    def create_frame(self, spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> DataFrame: ...

    def merge(
        self,
        spec: TableSpec,
        rows: DataFrame,
        months: Sequence[int],
        writer: str = "",
        may_remove: bool = False,
        is_kept: bool = False,
    ) -> WriteResult: ...

    def append(self, spec: TableSpec, rows: DataFrame, number: int) -> int: ...

    def next_number(self, spec: TableSpec) -> int: ...

    def version(self, spec: TableSpec) -> int: ...

    def rows(
        self,
        spec: TableSpec,
        columns: Sequence[str] | None = None,
        months: Sequence[int] | None = None,
        writers: Sequence[str] | None = None,
        parts: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pd.DataFrame: ...

    def totals(self, spec: TableSpec, by: Sequence[str], columns: Sequence[str], months: Sequence[int]) -> pd.DataFrame: ...

    def share_of_parts(self, spec: TableSpec, months: Sequence[int], max_rows: int) -> float: ...

    def sample(
        self, spec: TableSpec, columns: Sequence[str], months: Sequence[int], share: float, writers: Sequence[str] | None = None
    ) -> pd.DataFrame: ...

    def drawn(self, rows: DataFrame, share: float) -> DataFrame: ...

    def kept(self, key: tuple[Any, ...], build: Callable[[], DataFrame]) -> DataFrame: ...

    def slices(self, spec: TableSpec, writer: str = "") -> dict[int, Slice]: ...

    def record(self, spec: TableSpec, slices: Sequence[Slice], run_id: str) -> None: ...

    def storage(self, spec: TableSpec, months: Sequence[int] | None, writer: str = "") -> tuple[int, int]: ...

    def unneeded_files(self, spec: TableSpec, retention_hours: int) -> dict[str, int]: ...

    def vacuum(self, spec: TableSpec, retention_hours: int) -> None: ...

    def restore(self, spec: TableSpec, version: int, run_id: str) -> None: ...


class DeltaLakehouse:
    """Delta tables under one root, written by Spark; small facts about them are read without it.

    ``spark`` is called when a table is first needed, so that what never needs Spark never starts it.
    """

    def __init__(self, spark: Any, root: str, catalog: str, schemas: Mapping[str, str], max_removed_share: float, retention_months: int):
        self._session = spark
        self._root, self._catalog, self._schemas = root, catalog, dict(schemas)
        self._max_removed_share, self._retention_days = max_removed_share, retention_months * 31
        self._registered: set[str] = set()
        self._registering = threading.Lock()
        self._kept: dict[tuple[Any, ...], DataFrame] = {}
        self._samples: dict[tuple[Any, ...], pd.DataFrame] = {}
        self._pins: Mapping[str, int] = {}

    def at(self, versions: Mapping[str, int]) -> DeltaLakehouse:
        """The same tables as they were, for reading: those named by id at a version, slices as recorded by then."""
        pinned = copy.copy(self)
        pinned._pins, pinned._kept, pinned._samples = {**self._pins, **versions}, {}, {}
        return pinned

    @property
    def spark(self) -> SparkSession:
        return self._session()

    def name(self, spec: TableSpec) -> str:
        """Three-level name of the table."""
        return f"{self._catalog}.{self._schemas[spec.layer]}.{spec.name}"

    def path(self, spec: TableSpec) -> str:
        """Folder of the table."""
        return f"{self._root}/{self._schemas[spec.layer]}/{spec.name}"

    def read(self, spec: TableSpec, months: Sequence[int] | None = None, version: int | None = None) -> DataFrame:
        """The table, or only the slices of ``months``; a pinned ``version`` is read by time travel."""
        self._ensure(spec)
        version = self._pins.get(spec.id) if version is None else version
        if version is None:
            frame = self.spark.table(self.name(spec))
        else:
            frame = self.spark.sql(f"SELECT * FROM {self.name(spec)} VERSION AS OF {int(version)}")
        if months is None:
            return frame
        return frame.where(_in_months(spec, months))

    def read_external(self, table: str) -> DataFrame:
        """A table that is not ours: the company's own bronze. Never written. Raises Refused where there is none.

        One that the session's catalog does not know, but that lies where a table of its name would, is registered, not changed.
        """
        from deltalake import DeltaTable

        if not self.spark.catalog.tableExists(table):
            catalog, schema, name = table.split(".")
            path = f"{self._root}/{schema}/{name}"
            if not DeltaTable.is_deltatable(path):
                raise Refused(f"table {table} is neither in the catalog nor a Delta table at {path}; name an existing table in sources")
            self.spark.sql(f"CREATE SCHEMA IF NOT EXISTS {catalog}.{schema}")
            self.spark.sql(f"CREATE TABLE IF NOT EXISTS {table} USING DELTA LOCATION '{_literal(path)}'")
        return self.spark.table(table)

    def create_frame(self, spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> DataFrame:
        """A frame with the table's columns from a few rows on the driver; columns not given are NULL."""
        schema = ", ".join(f"`{column.name}` {column.type}" for column in spec.columns)
        return self.spark.createDataFrame([tuple(row.get(name) for name in spec.column_names) for row in rows], schema)

    def merge(
        self,
        spec: TableSpec,
        rows: DataFrame,
        months: Sequence[int],
        writer: str = "",
        may_remove: bool = False,
        is_kept: bool = False,
    ) -> WriteResult:
        """Make the slices of ``months`` (of ``writer``, in a table of several writers) equal to ``rows``, in one commit.

        Rows are compared with what is stored first; where nothing differs nothing is written. They are read more than once: unless they
        come from frames in Spark's storage (``is_kept``), they are put there for the time. Raises RemovalRefused when more
        than the configured share of a slice would vanish and it is not said that it ``may_remove``, ConcurrentWrite when another
        writer was faster, ValueError when a row lies outside the months.
        """
        from pyspark.sql import functions as F

        self._refuse_pinned(spec)
        self._ensure(spec)
        months = sorted(set(months))
        scope = _in_months(spec, months)
        if spec.writer_column:
            scope += f" AND `{spec.writer_column}` = '{_literal(writer)}'"
        new = rows.select(*spec.column_names)
        if not is_kept:
            new.persist()
        try:
            written = _slice_versions(spec, new)
            self._refuse_outside(spec, written, months)
            if fill_number := self._fill_number(spec, months, writer):
                result = {m: MonthWritten(n := written.get(m, (0, "0-0"))[0], written.get(m, (0, "0-0"))[1], n) for m in months}
                if written and spec.writer_column and len(months) == 1:
                    self._append_once(spec, _in_files(spec, new, written), f"{writer}/{months[0]}", fill_number)
                elif written:
                    self._fill(spec, _in_files(spec, new, written), scope)
                return WriteResult(self.version(spec), result)
            old = self.spark.table(self.name(spec)).where(scope).select(*spec.column_names)
            # Not kept: the merge would plan anew all that is kept of its own table.
            changes = _changes(spec, new, old).localCheckpoint()
            counted = {
                (row["_month"], row["_action"]): row["n"]
                for row in changes.groupBy(F.col(spec.month_column).alias("_month"), "_action").agg(F.count("*").alias("n")).collect()
            }
            result = {
                month: MonthWritten(
                    *written.get(month, (0, "0-0")), *(counted.get((month, action), 0) for action in ("insert", "update", "delete"))
                )
                for month in months
            }
            if not may_remove:
                self._refuse_removal(spec, result)
            if counted:
                self._execute_merge(spec, changes, scope)
        finally:
            if not is_kept:
                new.unpersist()
        return WriteResult(self.version(spec), result)

    def append(self, spec: TableSpec, rows: DataFrame, number: int) -> int:
        """Append rows in one commit, adding columns the table lacks where the spec allows it. Returns the Delta version.

        ``number``: rising with every append; of two writers who append the same number one is told ConcurrentWrite. It is theirs from
        before they read what the rows depend on: a ``next_number``, or one that the rows themselves carry.

        Files of a table without partitions are put together when there are more than MAX_FILES.
        """
        from deltalake import DeltaTable

        self._refuse_pinned(spec)
        self._ensure(spec)
        self._append_once(spec, rows, spec.id, number)
        if not spec.partition_by and len(DeltaTable(self.path(spec)).file_uris()) > MAX_FILES:
            with contextlib.suppress(ConcurrentWrite), _concurrency(spec):
                self.spark.sql(f"OPTIMIZE {self.name(spec)}")
        return self.version(spec)

    def next_number(self, spec: TableSpec) -> int:
        """The number that the next append to the table may have."""
        from deltalake import DeltaTable

        return int(DeltaTable(self.path(spec)).transaction_version(spec.id) or 0) + 1 if self._exists(spec) else 1

    def version(self, spec: TableSpec) -> int:
        """Version of the Delta table; -1 while it does not exist."""
        from deltalake import DeltaTable

        if spec.id in self._pins:
            return self._pins[spec.id]
        return DeltaTable(self.path(spec)).version() if self._exists(spec) else -1

    def rows(
        self,
        spec: TableSpec,
        columns: Sequence[str] | None = None,
        months: Sequence[int] | None = None,
        writers: Sequence[str] | None = None,
        parts: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pd.DataFrame:
        """A small table, or small slices of one, as pandas, read without Spark; ``version`` by time travel.

        Raises Refused for a version that is no longer readable.
        """
        import pandas as pd
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        version = self._pins.get(spec.id) if version is None else version
        if not self._exists(spec):
            return pd.DataFrame(columns=list(columns or spec.column_names))
        pushed: dict[str, Sequence[Any]] = {} if months is None else {spec.month_column: [int(month) for month in months]}
        if writers is not None:
            pushed[str(spec.writer_column)] = list(writers)
        try:
            table = DeltaTable(self.path(spec), version=version)
            return _selected(table, columns, pushed, {} if parts is None else {"part_number": parts})
        except (DeltaError, FileNotFoundError) as error:
            if version is None:
                raise
            raise Refused(f"{self.name(spec)}: version {version} is no longer readable; the oldest are kept for the retention") from error

    def totals(self, spec: TableSpec, by: Sequence[str], columns: Sequence[str], months: Sequence[int]) -> pd.DataFrame:
        """Sums of columns by other columns over slices, read piece by piece without Spark. For pictures: the order of adding varies."""
        import pandas as pd
        import pyarrow.dataset as ds
        from deltalake import DeltaTable

        sums = pd.DataFrame(columns=[*by, *columns])
        if not self._exists(spec):
            return sums
        is_wanted = ds.field(spec.month_column).isin([int(month) for month in months])
        stored = DeltaTable(self.path(spec)).to_pyarrow_dataset()
        for batch in stored.to_batches(columns=[*by, *columns], filter=is_wanted):
            pieces = [sums, batch.to_pandas()] if len(sums) else [batch.to_pandas()]
            sums = pd.concat(pieces, ignore_index=True).groupby(list(by), as_index=False)[list(columns)].sum()
        return sums

    def content_versions(self, spec: TableSpec, months: Sequence[int]) -> dict[int, str]:
        """Version of the rows that slices hold, as the ledger records it when they are written; nothing for a month without rows."""
        return {month: version for month, (_, version) in _slice_versions(spec, self.read(spec, months)).items()}

    def share_of_parts(self, spec: TableSpec, months: Sequence[int], max_rows: int) -> float:
        """Share of the parts whose rows in these months stay within ``max_rows``, told from the log; 1 where all do."""
        import pyarrow.compute as pc

        stored = pc.sum(self._stored_files(spec, months)["num_records"]).as_py() if self._exists(spec) else None
        return min(1.0, max_rows / stored) if stored else 1.0

    def sample(
        self, spec: TableSpec, columns: Sequence[str], months: Sequence[int], share: float, writers: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Slices of a table with part_number as pandas: a ``share`` of whole parts, drawn by a hash of their number by Spark; all for 1.

        The newest small ones are remembered, since all models of a run ask for the same.
        """
        if not self._exists(spec) or (share < 1 and not self._stored_files(spec, months, writers).num_rows):
            return self.rows(spec, columns, months, writers)
        key = (spec.id, self.version(spec), *columns, *months, share, *(writers or ()))
        if key in self._samples:
            return self._samples[key].copy()
        if share >= 1:
            sample = self.rows(spec, columns, months, writers)
        else:
            kept = self.drawn(self.read(spec, months), share)
            if writers is not None:
                from pyspark.sql import functions as F

                kept = kept.where(F.col(str(spec.writer_column)).isin(list(writers)))
            sample = kept.select(*columns).toPandas()
        if sample.size <= KEPT_VALUES / 10:
            self._samples[key] = sample.copy()
            while sum(frame.size for frame in self._samples.values()) > KEPT_VALUES:
                self._samples.pop(next(iter(self._samples)))
        return sample

    def drawn(self, rows: DataFrame, share: float) -> DataFrame:
        """Rows of a ``share`` of whole parts, the same parts whatever the rows."""
        return rows if share >= 1 else rows.where(f"pmod(xxhash64(part_number), 1000000) < {int(1_000_000 * share)}")

    def kept(self, key: tuple[Any, ...], build: Callable[[], DataFrame]) -> DataFrame:
        """A frame that several assets of a run read: made once, and left in Spark's storage while it is among the newest KEPT_FRAMES."""
        if key not in self._kept:
            self._kept[key] = build().persist()
            while len(self._kept) > KEPT_FRAMES:
                self._kept.pop(next(iter(self._kept))).unpersist()
        return self._kept[key]

    def forget(self) -> None:
        """Give back the storage of all kept frames and samples."""
        self._samples.clear()
        while self._kept:
            self._kept.popitem()[1].unpersist()

    def slices(self, spec: TableSpec, writer: str = "") -> dict[int, Slice]:
        """Newest ledger row of each stored month of the table (and writer)."""
        from deltalake import DeltaTable

        if not self._exists(LEDGER):
            return {}
        own = {"table_id": [spec.id], "writer": [writer]}
        found = _selected(DeltaTable(self.path(LEDGER)), None, {}, own).sort_values("recorded_at", kind="stable")
        if spec.id in self._pins:
            found = found[found["delta_version"] <= self._pins[spec.id]]
        newest = found.drop_duplicates("yyyymm", keep="last")
        return {
            int(row.yyyymm): Slice(
                int(row.yyyymm),
                row.writer,
                row.data_version,
                row.input_version,
                int(row.row_count),
                int(row.delta_version),
                json.loads(row.details),
            )
            for row in newest.itertuples()
        }

    def record(self, spec: TableSpec, slices: Sequence[Slice], run_id: str) -> None:
        """Append to the ledger what the slices were made from; done after their write, so a crash in between only costs a repeat."""
        from deltalake import DeltaTable, write_deltalake
        from deltalake.exceptions import CommitFailedError

        if not slices:
            return
        now = datetime.now(UTC)
        rows = [
            {
                "table_id": spec.id,
                "yyyymm": s.yyyymm,
                "writer": s.writer,
                "data_version": s.data_version,
                "input_version": s.input_version,
                "row_count": s.row_count,
                "delta_version": s.delta_version,
                "details": json.dumps(dict(s.details), sort_keys=True, default=str),
                "run_id": run_id,
                "recorded_at": now,
            }
            for s in slices
        ]
        write_deltalake(self.path(LEDGER), pa.Table.from_pylist(rows, schema=_LEDGER_SCHEMA), mode="append")
        if len((ledger := DeltaTable(self.path(LEDGER))).file_uris()) > MAX_FILES:
            # Of two who do it at once one fails, and the files wait for the next append.
            with contextlib.suppress(CommitFailedError):
                ledger.optimize.compact()

    def storage(self, spec: TableSpec, months: Sequence[int] | None, writer: str = "") -> tuple[int, int]:
        """Files and bytes that hold the slices of ``months`` (none named: all), told from the log."""
        import pyarrow.compute as pc

        if not self._exists(spec):
            return 0, 0
        files = self._stored_files(spec, months, [writer] if writer else None)
        return files.num_rows, int(pc.sum(files["size_bytes"]).as_py() or 0)

    def unneeded_files(self, spec: TableSpec, retention_hours: int) -> dict[str, int]:
        """Files, with their bytes, that no version younger than the retention needs."""
        from deltalake import DeltaTable

        found = DeltaTable(self.path(spec)).vacuum(retention_hours, dry_run=True, full=True) if self._exists(spec) else []
        return {name: file.stat().st_size if (file := Path(self.path(spec)) / name).exists() else 0 for name in found}

    def vacuum(self, spec: TableSpec, retention_hours: int) -> None:
        """Remove the files that ``unneeded_files`` names. Raises ValueError for less than the retention of the configuration."""
        from deltalake import DeltaTable

        self._refuse_pinned(spec)
        if retention_hours < self._retention_days * 24:
            raise ValueError(f"{spec.id}: {retention_hours} hours are less than the {self._retention_days} days that stay readable")
        DeltaTable(self.path(spec)).vacuum(retention_hours, dry_run=False, full=True)

    def restore(self, spec: TableSpec, version: int, run_id: str) -> None:
        """Make a table what it was at a version, in a new commit, and let the ledger say so: later slices are due again.

        Recorded first: a process that dies in between leaves months due whose rows are still the newer ones.
        """
        from deltalake import DeltaTable

        self._refuse_pinned(spec)
        writers = DeltaTable(self.path(LEDGER)).to_pandas(columns=["writer"], filters=[("table_id", "=", spec.id)])["writer"].unique()
        pinned, after = self.at({spec.id: version}), self.version(spec) + 1
        pairs = [(pinned.slices(spec, writer).get(month), s) for writer in writers for month, s in self.slices(spec, writer).items()]
        moved = [(then, now) for then, now in pairs if then != now]
        due = [replace(now, data_version="0-0", input_version="", row_count=0, delta_version=after) for _, now in moved]
        self.record(spec, due, run_id)
        DeltaTable(self.path(spec)).restore(version)
        self.record(spec, [replace(then, delta_version=self.version(spec)) for then, _ in moved if then is not None], run_id)

    def _stored_files(self, spec: TableSpec, months: Sequence[int] | None, writers: Sequence[str] | None = None) -> pa.Table:
        """Files of a table as its log lists them, of some months and writers where it is partitioned by them."""
        import pyarrow.compute as pc
        from deltalake import DeltaTable

        files = pa.table(DeltaTable(self.path(spec), version=self._pins.get(spec.id)).get_add_actions(flatten=True))
        if months is not None and spec.month_column in spec.partition_by:
            wanted = pa.array([int(m) for m in months], pa.int64())
            files = files.filter(pc.is_in(files[f"partition.{spec.month_column}"].cast(pa.int64()), wanted))
        if writers is not None and spec.writer_column in spec.partition_by:
            files = files.filter(pc.is_in(files[f"partition.{spec.writer_column}"].cast(pa.string()), pa.array(list(writers), pa.string())))
        return files

    def _refuse_pinned(self, spec: TableSpec) -> None:
        if self._pins:
            raise ValueError(f"{spec.id}: a lakehouse that is read at past versions is not written")

    def _exists(self, spec: TableSpec) -> bool:
        from deltalake import DeltaTable

        return DeltaTable.is_deltatable(self.path(spec))

    def _ensure(self, spec: TableSpec) -> None:
        """Create the table, or register the one that lies at its path, when it is first used in this session."""
        if spec.id in self._registered:
            return
        with self._registering:
            if spec.id in self._registered:
                return
            schema = f"{self._catalog}.{self._schemas[spec.layer]}"
            self.spark.sql(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            self.spark.sql(self.ddl(spec))
            if added := self._added_columns(spec):
                self.spark.sql(f"ALTER TABLE {self.name(spec)} ADD COLUMNS ({', '.join(map(_definition, added))})")
            self._registered.add(spec.id)

    def _added_columns(self, spec: TableSpec) -> list[Column]:
        """Columns that a table made by an older release lacks. Rows of before have no value there, so only nullable ones can be added."""
        from deltalake import DeltaTable

        known = {field.name for field in DeltaTable(self.path(spec)).schema().fields}
        added = [column for column in spec.columns if column.name not in known]
        if required := [column.name for column in added if not column.is_nullable]:
            raise Refused(
                f"{self.name(spec)} lacks {', '.join(required)}, which no release can add to stored rows. "
                "Nothing was changed; give lakehouse_root a new folder and let it be filled from the files, or ask for a migration."
            )
        return added

    def ddl(self, spec: TableSpec) -> str:
        """The CREATE TABLE statement of a spec; of an existing table its own schema is taken."""
        location = f"USING DELTA LOCATION '{_literal(self.path(spec))}'"
        if self._exists(spec):
            return f"CREATE TABLE IF NOT EXISTS {self.name(spec)} {location}"
        columns = ", ".join(map(_definition, spec.columns))
        partition = f" PARTITIONED BY ({', '.join(spec.partition_by)})" if spec.partition_by else ""
        kept = f"interval {self._retention_days} days"
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name(spec)} ({columns}) USING DELTA{partition}"
            f" LOCATION '{_literal(self.path(spec))}' COMMENT '{_literal(spec.comment)}'"
            f" TBLPROPERTIES ('delta.logRetentionDuration' = '{kept}', 'delta.deletedFileRetentionDuration' = '{kept}')"
        )

    def _refuse_outside(self, spec: TableSpec, written: Mapping[int, Any], months: Sequence[int]) -> None:
        if outside := sorted(set(written) - set(months)):
            raise ValueError(f"{spec.id}: rows of {outside} in a write of {months[0]} to {months[-1]}; nothing was written")

    def _refuse_removal(self, spec: TableSpec, result: Mapping[int, MonthWritten]) -> None:
        for month, written in result.items():
            stored = written.row_count - written.inserted + written.deleted
            if written.deleted > max(1, self._max_removed_share * stored):
                raise RemovalRefused(
                    f"{self.name(spec)}: writing {month} would remove {written.deleted} of {stored} rows, more than the share of "
                    f"{self._max_removed_share:.0%} that writes.max_removed_share allows. Nothing was written."
                )

    def _fill_number(self, spec: TableSpec, months: Sequence[int], writer: str) -> int:
        """The how-manieth fill of slices that hold nothing this will be; 0 where a file holds rows of them, or where the log can't tell.

        Only the log is read, so only tables partitioned by month can say.
        """
        from deltalake import DeltaTable

        if spec.month_column not in spec.partition_by:
            return 0
        table = DeltaTable(self.path(spec))
        filters: list[tuple[str, str, Any]] = [(spec.month_column, "in", [str(month) for month in months])]
        if spec.writer_column:
            filters.append((spec.writer_column, "=", writer))
        if table.file_uris(file_pruning_predicate=filters):
            return 0
        return int(table.transaction_version(f"{writer}/{months[0]}") or 0) + 1

    def _append_once(self, spec: TableSpec, rows: DataFrame, application: str, number: int) -> None:
        """Append under a number that Delta takes once from an application. Of an empty slice five times faster than replacing it.

        Of two who append the same number at the same time one fails, and one who comes later writes nothing: both are told
        ConcurrentWrite.
        """
        from deltalake import DeltaTable

        token = uuid.uuid4().hex
        options = {"txnAppId": application, "txnVersion": str(number), "userMetadata": token}
        if spec.has_source_columns:
            options["mergeSchema"] = "true"
        with _concurrency(spec):
            rows.writeTo(self.name(spec)).options(**options).append()
        if not any(commit.get("userMetadata") == token for commit in DeltaTable(self.path(spec)).history(RECENT_COMMITS)):
            raise ConcurrentWrite(f"{spec.id}: another writer was faster with number {number} of {application}")

    def _fill(self, spec: TableSpec, rows: DataFrame, scope: str) -> None:
        """Write slices that hold nothing yet. Replacing them, not appending, makes a second writer of the same slice fail."""
        view = f"rows_{uuid.uuid4().hex}"
        rows.createOrReplaceTempView(view)
        names = ", ".join(f"`{name}`" for name in spec.column_names)
        try:
            with _concurrency(spec):
                self.spark.sql(f"INSERT INTO {self.name(spec)} REPLACE WHERE {scope} SELECT {names} FROM {view}")
        finally:
            self.spark.catalog.dropTempView(view)

    def _execute_merge(self, spec: TableSpec, changes: DataFrame, scope: str) -> None:
        view = f"changes_{uuid.uuid4().hex}"
        changes.createOrReplaceTempView(view)
        target_scope = re.sub(r"`(\w+)`", r"target.`\1`", scope)
        keys = " AND ".join(f"target.`{name}` = source.`{name}`" for name in spec.key)
        assignments = ", ".join(f"target.`{name}` = source.`{name}`" for name in spec.column_names)
        names = ", ".join(f"`{name}`" for name in spec.column_names)
        values = ", ".join(f"source.`{name}`" for name in spec.column_names)
        try:
            with _concurrency(spec):
                self.spark.sql(
                    f"MERGE INTO {self.name(spec)} AS target USING {view} AS source ON {target_scope} AND {keys}"
                    f" WHEN MATCHED AND source._action = 'delete' THEN DELETE"
                    f" WHEN MATCHED THEN UPDATE SET {assignments}"
                    f" WHEN NOT MATCHED AND source._action <> 'delete' THEN INSERT ({names}) VALUES ({values})"
                )
        finally:
            self.spark.catalog.dropTempView(view)


_LEDGER_SCHEMA = pa.schema(
    [
        pa.field(
            c.name,
            {"STRING": pa.string(), "INT": pa.int32(), "BIGINT": pa.int64(), "TIMESTAMP": pa.timestamp("us", "UTC")}[c.type],
            nullable=False,
        )
        for c in LEDGER.columns
    ]
)


class _concurrency:
    """Turns Delta's concurrency errors into ConcurrentWrite."""

    def __init__(self, spec: TableSpec):
        self._spec = spec

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and re.search(
            r"DELTA_CONCURRENT|Concurrent(Modification|Append|Delete|Transaction)|DELTA_METADATA_CHANGED", str(error)
        ):
            raise ConcurrentWrite(f"{self._spec.id}: another writer changed the same slice") from error


def _definition(column: Column) -> str:
    return f"`{column.name}` {column.type}{'' if column.is_nullable else ' NOT NULL'} COMMENT '{_literal(column.comment)}'"


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _in_months(spec: TableSpec, months: Sequence[int]) -> str:
    listed = ", ".join(str(int(month)) for month in sorted(set(months)))
    return f"`{spec.month_column}` IN ({listed})" if listed else "false"


def _in_files(spec: TableSpec, rows: DataFrame, written: Mapping[int, tuple[int, str]]) -> DataFrame:
    """Rows dealt out so that a partition's rows make files of about ROWS_PER_FILE, and no task writes more than one of them."""
    from pyspark.sql import functions as F

    pieces = -(-max((count for count, _ in written.values()), default=1) // ROWS_PER_FILE)
    if pieces == 1:
        return rows.repartition(*spec.partition_by)
    piece = F.pmod(F.xxhash64(*spec.key), F.lit(pieces))
    return rows.repartition(pieces * len(written), *spec.partition_by, piece)


def _selected(
    table: DeltaTable, columns: Sequence[str] | None, pushed: Mapping[str, Sequence[Any]], kept: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Rows of a table: ``pushed`` gives the values of months and partitions, ``kept`` the texts that other columns may have.

    Texts are looked for in the rows, batch by batch, not in the log: of files that delta-rs has updated it knows them as string views,
    which Arrow's comparisons refuse (pyarrow 25).
    """
    import pyarrow.compute as pc

    dataset = table.to_pyarrow_dataset()
    names = list(columns) if columns else dataset.schema.names
    read = list(dict.fromkeys([*names, *kept]))
    condition = reduce(and_, (pc.field(name).isin(list(values)) for name, values in pushed.items()), pc.scalar(True))
    batches = []
    for batch in dataset.to_batches(columns=read, filter=condition):
        for name, values in kept.items():
            batch = batch.filter(pc.is_in(batch[name], pa.array(list(values), batch[name].type)))
        batches.append(batch)
    schema = pa.schema([dataset.schema.field(name) for name in read])
    return pa.Table.from_batches(batches, schema).select(names).to_pandas()


def _slice_versions(spec: TableSpec, rows: DataFrame) -> dict[int, tuple[int, str]]:
    """Row count and an order-independent hash of the versioned columns, by month."""
    from pyspark.sql import functions as F

    # xxhash64 passes over NULLs: without the flags a value that moves to the next column would go unnoticed.
    flags = [F.col(column.name).isNull() for column in spec.columns if column.is_nullable and column.name in spec.versioned_columns]
    row_hash = F.xxhash64(*[F.col(name) for name in spec.versioned_columns], *flags)
    # Halves are summed, because a sum of 64 bits may overflow and one of decimals takes longer.
    halves = F.sum(F.shiftright("_hash", 32)).alias("high"), F.sum(F.col("_hash").bitwiseAND(F.lit(0xFFFFFFFF))).alias("low")
    hashed = rows.select(F.col(spec.month_column).alias("_month"), row_hash.alias("_hash"))
    counted = hashed.groupBy("_month").agg(F.count("*").alias("n"), *halves).collect()
    return {r["_month"]: (r["n"], f"{r['n']}-{((r['high'] << 32) + r['low']) & (2**64 - 1):016x}") for r in counted}


def _changes(spec: TableSpec, new: DataFrame, old: DataFrame) -> DataFrame:
    """Rows to insert, update or delete, with ``_action``; rows to delete carry the stored values."""
    from pyspark.sql import functions as F

    names = spec.column_names
    key = spec.key
    left = new.select(*[F.col(k).alias(f"k{i}") for i, k in enumerate(key)], F.struct(*names).alias("new"))
    right = old.select(*[F.col(k).alias(f"k{i}") for i, k in enumerate(key)], F.struct(*names).alias("old"))
    joined = left.join(right, [f"k{i}" for i in range(len(key))], "full")
    differs = F.lit(False)
    for name in spec.compared_columns:
        if name not in key:
            differs = differs | ~F.col(f"new.`{name}`").eqNullSafe(F.col(f"old.`{name}`"))
    action = F.when(F.col("old").isNull(), "insert").when(F.col("new").isNull(), "delete").when(differs, "update")
    return (
        joined.withColumn("_action", action)
        .where("_action IS NOT NULL")
        .select(F.coalesce("new", "old").alias("row"), "_action")
        .select("row.*", "_action")
    )
