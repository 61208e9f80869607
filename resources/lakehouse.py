"""Slices of Delta tables: how months are read, compared and written (Lakehouse).

The rules that keep other months untouched live here and nowhere else. What a table is lies in
table_spec.py, what is known of a slice in ledger.py, how bytes reach a table in writers.py.
Contents of the tables do not belong here.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from resources.delta_tables import MAX_FILES, ConcurrentWrite, DeltaTables
from resources.errors import Refused
from resources.ledger import LEDGER, Ledger, Slice
from resources.table_spec import Column, Constraint, Layer, TableSpec
from resources.writers import Scope, Writer

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql import DataFrame, SparkSession

    from resources.engines import Engine

KEPT_FRAMES = 8
KEPT_VALUES = 10_000_000  # of all samples that are remembered


@dataclass(frozen=True)
class MonthWritten:
    """Rows of one month's slice after a write, and how many the write inserted, updated and
    deleted; ``left`` are those whose key is in another month now.
    """

    row_count: int = 0
    data_version: str = "0-0"
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    left: int = 0

    @property
    def is_changed(self) -> bool:
        return bool(self.inserted or self.updated or self.deleted or self.left)


@dataclass(frozen=True)
class WriteResult:
    """What a write did, by month. ``delta_version`` is the table's version that holds the
    result.
    """

    delta_version: int
    months: Mapping[int, MonthWritten]

    @property
    def is_changed(self) -> bool:
        return any(month.is_changed for month in self.months.values())


class RemovalRefused(Refused):
    """A write would remove more of a slice than the configuration allows; nothing was written."""


class Lakehouse(Protocol):
    """Reads and writes of tables by month. Implementations: DeltaLakehouse, and a fake in tests."""

    @property
    def spark(self) -> SparkSession: ...

    @property
    def engine(self) -> Engine: ...

    def name(self, spec: TableSpec) -> str: ...

    def path(self, spec: TableSpec) -> str: ...

    def read(
        self, spec: TableSpec, months: Sequence[int] | None = None, version: int | None = None
    ) -> DataFrame: ...

    def read_external(self, table: str) -> DataFrame: ...

    def create_frame(self, spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> DataFrame: ...

    def merge(
        self,
        spec: TableSpec,
        rows: DataFrame,
        months: Sequence[int],
        writer: str = "",
        may_remove: bool | Collection[int] = False,
        is_held: bool = False,
    ) -> WriteResult: ...

    def move(
        self, spec: TableSpec, rows: DataFrame, months: Sequence[int], version: int
    ) -> int: ...

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

    def totals(
        self, spec: TableSpec, by: Sequence[str], columns: Sequence[str], months: Sequence[int]
    ) -> pd.DataFrame: ...

    def share_of_parts(self, spec: TableSpec, months: Sequence[int], max_rows: int) -> float: ...

    def sample(
        self,
        spec: TableSpec,
        columns: Sequence[str],
        months: Sequence[int],
        share: float,
        writers: Sequence[str] | None = None,
    ) -> pd.DataFrame: ...

    def drawn(self, rows: DataFrame, share: float) -> DataFrame: ...

    def kept(self, key: tuple[Any, ...], build: Callable[[], DataFrame]) -> DataFrame: ...

    def held(self, key: tuple[Any, ...]) -> DataFrame | None: ...

    def slices(self, spec: TableSpec, writer: str = "") -> dict[int, Slice]: ...

    def record(self, spec: TableSpec, slices: Sequence[Slice], run_id: str) -> None: ...

    def storage(
        self, spec: TableSpec, months: Sequence[int] | None, writer: str = ""
    ) -> tuple[int, int]: ...

    def unneeded_files(self, spec: TableSpec, retention_hours: int) -> dict[str, int]: ...

    def vacuum(self, spec: TableSpec, retention_hours: int) -> None: ...

    def restore(self, spec: TableSpec, version: int, run_id: str) -> None: ...


class DeltaLakehouse:
    """Delta tables under one root: an engine reads and transforms them, its writer changes them;
    small facts need no engine.

    ``engine`` is called when one is first needed, so that what never needs it never starts it.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        root: str,
        catalog: str,
        schemas: Mapping[str, str],
        max_removed_share: float,
        retention_months: int,
    ) -> None:
        self._engine = engine
        self._root, self._catalog, self._schemas = root, catalog, dict(schemas)
        self._max_removed_share = max_removed_share
        self._tables = DeltaTables(retention_months * 31)
        self._ledger = Ledger(self._tables, self.path(LEDGER), lambda: engine().label)
        self._ensured: set[str] = set()
        self._ensuring = threading.Lock()
        self._kept: dict[tuple[Any, ...], DataFrame] = {}
        self._samples: dict[tuple[Any, ...], pd.DataFrame] = {}
        self._pins: Mapping[str, int] = {}

    def at(self, versions: Mapping[str, int]) -> DeltaLakehouse:
        """The same tables as they were, for reading: those named by id at a version, slices as
        recorded by then.
        """
        pinned = copy.copy(self)
        pinned._pins, pinned._kept, pinned._samples = {**self._pins, **versions}, {}, {}
        pinned._ledger = self._ledger.at(versions)
        return pinned

    @property
    def engine(self) -> Engine:
        return self._engine()

    @property
    def spark(self) -> SparkSession:
        return self._engine().session

    def name(self, spec: TableSpec) -> str:
        """Three-level name of the table."""
        return f"{self._catalog}.{self._schemas[spec.layer]}.{spec.name}"

    def path(self, spec: TableSpec) -> str:
        """Folder of the table."""
        return f"{self._root}/{self._schemas[spec.layer]}/{spec.name}"

    def read(
        self, spec: TableSpec, months: Sequence[int] | None = None, version: int | None = None
    ) -> DataFrame:
        """The table, or only the slices of ``months``, at ``version`` or the newest: a frame of one
        version, whoever writes later.
        """
        self._ensure(spec)
        path = self.path(spec)
        version = self._pins.get(spec.id) if version is None else version
        frame = self.engine.table(
            self.name(spec), path, self._tables.version(path) if version is None else version
        )
        return (
            frame
            if months is None
            else frame.where(Scope(spec, tuple(sorted(set(months)))).of_months())
        )

    def read_external(self, table: str) -> DataFrame:
        """A table that is not ours: the company's own bronze. Never written. Raises Refused where
        there is none.

        One that the session's catalog does not know, but that lies where a table of its name would,
        is read there.
        """
        known = self.engine.external(table)
        if known is not None:
            return known
        _, schema, name = table.split(".")
        path = f"{self._root}/{schema}/{name}"
        if not self._tables.exists(path):
            raise Refused(
                f"table {table} is neither in the catalog nor a Delta table at {path}; name an"
                " existing table in sources"
            )
        return self.engine.table(table, path, self._tables.version(path))

    def create_frame(self, spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> DataFrame:
        """A frame with the table's columns from a few rows on the driver; columns not given are
        NULL.
        """
        schema = ", ".join(f"`{column.name}` {column.type}" for column in spec.columns)
        return self.spark.createDataFrame(
            [tuple(row.get(name) for name in spec.column_names) for row in rows], schema
        )

    def merge(
        self,
        spec: TableSpec,
        rows: DataFrame,
        months: Sequence[int],
        writer: str = "",
        may_remove: bool | Collection[int] = False,
        is_held: bool = False,
    ) -> WriteResult:
        """Make the slices of ``months`` (of ``writer``, in a table of several writers) equal to
        ``rows``, in one commit.

        Rows are compared with what is stored first; where nothing differs nothing is written. They
        are read more than once, so the engine holds them, unless they are made of held frames
        (``is_held``). Raises RemovalRefused when more than the configured share of a slice would
        vanish and it is not said that it ``may_remove`` (in all months, or in some),
        ConcurrentWrite when another writer was faster, ValueError when a row lies outside the
        months.
        """
        self._refuse_pinned(spec)
        self._ensure(spec)
        path, engine = self.path(spec), self.engine
        months = sorted(set(months))
        scope = Scope(spec, tuple(months), writer)
        table = self._tables.open(path)
        named = rows.select(*spec.column_names)
        new = named if is_held else engine.hold(named)
        try:
            written = _slice_versions(spec, new)
            self._refuse_outside(spec, written, months)
            if fill_number := self._fill_number(spec, table, months, writer):
                result = {
                    m: MonthWritten(*written.get(m, (0, "0-0")), written.get(m, (0, "0-0"))[0])
                    for m in months
                }
                counts = {month: count for month, (count, _) in written.items()}
                if written and spec.writer_column and len(months) == 1:
                    # Of an empty slice an append under a number is five times faster than a
                    # replacement.
                    self._writer.append(
                        spec, table, new, (f"{writer}/{months[0]}", fill_number), counts
                    )
                elif written:
                    self._writer.replace(scope, table, new, counts)
                return WriteResult(self.version(spec), result)
            whole = engine.table(self.name(spec), path, int(table.version())).select(
                *spec.column_names
            )
            compared = engine.hold(_compared(spec, new, whole.where(scope.sql())))
            try:
                result = self._counted(spec, compared, written, months)
                if may_remove is not True:
                    allowed = may_remove or ()
                    self._refuse_removal(
                        spec, {m: found for m, found in result.items() if m not in allowed}
                    )
                if changed := tuple(month for month, found in result.items() if found.is_changed):
                    narrow = replace(scope, months=changed)
                    moved = compared.where(narrow.of_months())
                    self._change(spec, narrow, table, moved, whole.where(f"NOT ({narrow.sql()})"))
            finally:
                engine.release(compared)
        finally:
            if not is_held:
                engine.release(new)
        return WriteResult(self.version(spec), result)

    def move(self, spec: TableSpec, rows: DataFrame, months: Sequence[int], version: int) -> int:
        """Give stored rows another month, in one commit, so that no row is ever lost or there
        twice. Returns the Delta version.

        rows: all rows of the slices ``months`` as they were at ``version``, with the values that
        they are to have and ``_action`` keep or update; none leaves these months. Key and source
        columns stay, and so do the files of all other months. Raises ConcurrentWrite when another
        writer came in between.
        """
        self._refuse_pinned(spec)
        path = self.path(spec)
        if self._tables.version(path) != version:
            raise ConcurrentWrite(f"{spec.id}: another writer changed it after version {version}")
        scope = Scope(spec, tuple(sorted(set(months))))
        others = self.read(spec, version=version).where(f"NOT ({scope.sql()})")
        self._change(spec, scope, self._tables.open(path, version), rows, others)
        return self.version(spec)

    def append(self, spec: TableSpec, rows: DataFrame, number: int) -> int:
        """Append rows in one commit, adding columns the table lacks where the spec allows it.
        Returns the Delta version.

        ``number`` rises with every append; if two writers use the same number, one gets
        ConcurrentWrite. Reserve it before reading what the rows depend on: by ``next_number``, or
        as a number that the rows themselves carry.

        Files of a table without partitions are put together when there are more than MAX_FILES.
        """
        self._refuse_pinned(spec)
        self._ensure(spec)
        path = self.path(spec)
        table = self._tables.open(path)
        if spec.has_source_columns:
            # Qty of one file and qty of another are one column to Delta.
            stored = {field.name.lower(): field.name for field in table.schema().fields}
            rows = rows.withColumnsRenamed({n: stored.get(n.lower(), n) for n in rows.columns})
        self._writer.append(spec, table, rows, (spec.id, number), {})
        if not spec.partition_by and self._tables.file_count(path) > MAX_FILES:
            with contextlib.suppress(ConcurrentWrite):
                self._tables.compact(spec, path)
        return self.version(spec)

    def next_number(self, spec: TableSpec) -> int:
        """The number that the next append to the table may have."""
        return self._tables.transaction_version(self.path(spec), spec.id) + 1

    def version(self, spec: TableSpec) -> int:
        """Version of the Delta table; -1 while it does not exist."""
        return (
            self._pins[spec.id] if spec.id in self._pins else self._tables.version(self.path(spec))
        )

    def rows(
        self,
        spec: TableSpec,
        columns: Sequence[str] | None = None,
        months: Sequence[int] | None = None,
        writers: Sequence[str] | None = None,
        parts: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pd.DataFrame:
        """A small table, or small slices of one, as pandas, read without an engine; ``version`` by
        time travel.

        Raises Refused for a version that is no longer readable.
        """
        import pandas as pd

        path = self.path(spec)
        if not self._tables.exists(path):
            return pd.DataFrame(columns=list(columns or spec.column_names))
        pushed: dict[str, Sequence[Any]] = (
            {} if months is None else {spec.month_column: [int(month) for month in months]}
        )
        if writers is not None:
            pushed[str(spec.writer_column)] = list(writers)
        version = self._pins.get(spec.id) if version is None else version
        return self._tables.rows(
            path, columns, pushed, {} if parts is None else {"part_number": parts}, version
        )

    def totals(
        self, spec: TableSpec, by: Sequence[str], columns: Sequence[str], months: Sequence[int]
    ) -> pd.DataFrame:
        """Sums of columns by other columns over slices, read piece by piece without an engine. For
        pictures: the order of adding varies.
        """
        import pandas as pd

        sums = pd.DataFrame(columns=[*by, *columns])
        path = self.path(spec)
        if not self._tables.exists(path):
            return sums
        for batch in self._tables.batches(path, [*by, *columns], spec.month_column, months):
            pieces = [sums, batch.to_pandas()] if len(sums) else [batch.to_pandas()]
            sums = (
                pd.concat(pieces, ignore_index=True)
                .groupby(list(by), as_index=False)[list(columns)]
                .sum()
            )
        return sums

    def content_versions(self, spec: TableSpec, months: Sequence[int]) -> dict[int, str]:
        """Version of the rows that slices hold, as the ledger records it when they are written;
        nothing for a month without rows.
        """
        return {
            month: version
            for month, (_, version) in _slice_versions(spec, self.read(spec, months)).items()
        }

    def share_of_parts(self, spec: TableSpec, months: Sequence[int], max_rows: int) -> float:
        """Share of the parts whose rows in these months stay within ``max_rows``, told from the
        log; 1 where all do.
        """
        import pyarrow.compute as pc

        exists = self._tables.exists(self.path(spec))
        stored = pc.sum(self._stored_files(spec, months)["num_records"]).as_py() if exists else None
        return min(1.0, max_rows / stored) if stored else 1.0

    def sample(
        self,
        spec: TableSpec,
        columns: Sequence[str],
        months: Sequence[int],
        share: float,
        writers: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Slices of a table with part_number as pandas: a ``share`` of whole parts, drawn by a hash
        of their number; all for 1.

        The newest small ones are remembered, since all models of a run ask for the same.
        """
        exists = self._tables.exists(self.path(spec))
        if not exists or (share < 1 and not self._stored_files(spec, months, writers).num_rows):
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
        return (
            rows
            if share >= 1
            else rows.where(f"pmod(xxhash64(part_number), 1000000) < {int(1_000_000 * share)}")
        )

    def kept(self, key: tuple[Any, ...], build: Callable[[], DataFrame]) -> DataFrame:
        """A frame that several assets of a run read: made once, and held while it is among the
        newest KEPT_FRAMES.
        """
        if key not in self._kept:
            self._kept[key] = self.engine.hold(build())
            while len(self._kept) > KEPT_FRAMES:
                self.engine.release(self._kept.pop(next(iter(self._kept))))
        return self._kept[key]

    def held(self, key: tuple[Any, ...]) -> DataFrame | None:
        """A kept frame, or None where it is not held any more."""
        return self._kept.get(key)

    def forget(self) -> None:
        """Give back the storage of all kept frames and samples."""
        self._samples.clear()
        while self._kept:
            self.engine.release(self._kept.popitem()[1])

    def slices(self, spec: TableSpec, writer: str = "") -> dict[int, Slice]:
        """Newest ledger row of each stored month of the table (and writer)."""
        return self._ledger.slices(spec, writer)

    def record(self, spec: TableSpec, slices: Sequence[Slice], run_id: str) -> None:
        """Append to the ledger what the slices were made from; done after their write, so a crash
        in between only costs a repeat.
        """
        self._ledger.record(spec, slices, run_id)

    def storage(
        self, spec: TableSpec, months: Sequence[int] | None, writer: str = ""
    ) -> tuple[int, int]:
        """Files and bytes that hold the slices of ``months`` (none named: all), told from the
        log.
        """
        import pyarrow.compute as pc

        if not self._tables.exists(self.path(spec)):
            return 0, 0
        files = self._stored_files(spec, months, [writer] if writer else None)
        return files.num_rows, int(pc.sum(files["size_bytes"]).as_py() or 0)

    def unneeded_files(self, spec: TableSpec, retention_hours: int) -> dict[str, int]:
        """Files, with their bytes, that no version younger than the retention needs."""
        return self._tables.unneeded_files(self.path(spec), retention_hours)

    def vacuum(self, spec: TableSpec, retention_hours: int) -> None:
        """Remove the files that ``unneeded_files`` names. Raises ValueError for less than the
        retention of the configuration.
        """
        self._refuse_pinned(spec)
        self._tables.vacuum(self.path(spec), retention_hours)

    def restore(self, spec: TableSpec, version: int, run_id: str) -> None:
        """Make a table what it was at a version, in a new commit, and let the ledger say so: later
        slices are due again.

        Recorded first: a process that dies in between leaves months due whose rows are still the
        newer ones.
        """
        self._refuse_pinned(spec)
        pinned, after = self.at({spec.id: version}), self.version(spec) + 1
        writers = self._ledger.writers(spec)
        pairs = [
            (pinned.slices(spec, writer).get(month), s)
            for writer in writers
            for month, s in self.slices(spec, writer).items()
        ]
        moved = [(then, now) for then, now in pairs if then != now]
        due = [
            replace(now, data_version="0-0", input_version="", row_count=0, delta_version=after)
            for _, now in moved
        ]
        self.record(spec, due, run_id)
        self._tables.restore(self.path(spec), version)
        self.record(
            spec,
            [
                replace(then, delta_version=self.version(spec))
                for then, _ in moved
                if then is not None
            ],
            run_id,
        )

    def _change(
        self,
        spec: TableSpec,
        scope: Scope,
        table: DeltaTable,
        compared: DataFrame,
        others: DataFrame,
    ) -> None:
        self._writer.change(scope, table, compared, others)

    @property
    def _writer(self) -> Writer:
        return self.engine.writer(
            self._tables, lambda spec: self.engine.identifier(self.name(spec), self.path(spec))
        )

    def _stored_files(
        self, spec: TableSpec, months: Sequence[int] | None, writers: Sequence[str] | None = None
    ) -> pa.Table:
        return self._tables.files(spec, self.path(spec), months, writers, self._pins.get(spec.id))

    def _refuse_pinned(self, spec: TableSpec) -> None:
        if self._pins:
            raise ValueError(f"{spec.id}: a lakehouse that is read at past versions is not written")

    def _ensure(self, spec: TableSpec) -> None:
        """Create the table, or add what one of an older release lacks, when it is first used in
        this process.
        """
        if spec.id in self._ensured:
            return
        with self._ensuring:
            if spec.id not in self._ensured:
                if not self._tables.ensure(spec, self.path(spec)):
                    self._tables.add_columns(spec, self.path(spec))
                self._ensured.add(spec.id)

    def _counted(
        self,
        spec: TableSpec,
        compared: DataFrame,
        written: Mapping[int, tuple[int, str]],
        months: Sequence[int],
    ) -> dict[int, MonthWritten]:
        from pyspark.sql import functions as F

        has_come = F.col("_former").isNotNull()
        month, action = (
            F.col(spec.month_column),
            F.when(has_come, "insert").otherwise(F.col("_action")),
        )
        counted = _by_month_and_action(compared, month, action)
        if spec.month_column not in spec.key:
            counted |= _by_month_and_action(
                compared.where(has_come), F.col("_former"), F.lit("leave")
            )
        actions = ("insert", "update", "delete", "leave")
        return {
            month: MonthWritten(
                *written.get(month, (0, "0-0")),
                *(counted.get((month, action), 0) for action in actions),
            )
            for month in months
        }

    def _refuse_outside(
        self, spec: TableSpec, written: Mapping[int, Any], months: Sequence[int]
    ) -> None:
        if outside := sorted(set(written) - set(months)):
            raise ValueError(
                f"{spec.id}: rows of {outside} in a write of {months[0]} to {months[-1]}; nothing"
                " was written"
            )

    def _refuse_removal(self, spec: TableSpec, result: Mapping[int, MonthWritten]) -> None:
        for month, written in result.items():
            stored = written.row_count - written.inserted + written.deleted + written.left
            if written.deleted > max(1, self._max_removed_share * stored):
                raise RemovalRefused(
                    f"{self.name(spec)}: writing {month} would remove {written.deleted} of {stored}"
                    f" rows, more than the share of {self._max_removed_share:.0%} that"
                    " writes.max_removed_share allows. Nothing was written."
                )

    def _fill_number(
        self, spec: TableSpec, table: DeltaTable, months: Sequence[int], writer: str
    ) -> int:
        """The how-manieth fill of slices that hold nothing this will be; 0 where a file holds rows
        of them, or where the log can't tell.

        Only the log is read, so only tables partitioned by month can say.
        """
        if spec.month_column not in spec.partition_by:
            return 0
        filters: list[tuple[str, str, Any]] = [
            (spec.month_column, "in", [str(month) for month in months])
        ]
        if spec.writer_column:
            filters.append((spec.writer_column, "=", writer))
        if table.file_uris(file_pruning_predicate=filters):
            return 0
        return int(table.transaction_version(f"{writer}/{months[0]}") or 0) + 1


def _by_month_and_action(
    compared: DataFrame, month: SparkColumn, action: SparkColumn
) -> dict[tuple[int, str], int]:
    from pyspark.sql import functions as F

    named = compared.select(month.alias("_month"), action.alias("_action"))
    counts = named.groupBy("_month", "_action").agg(F.count("*").alias("n")).collect()
    return {(row["_month"], row["_action"]): row["n"] for row in counts}


def _slice_versions(spec: TableSpec, rows: DataFrame) -> dict[int, tuple[int, str]]:
    """Row count and an order-independent hash of the versioned columns, by month."""
    from pyspark.sql import functions as F

    # xxhash64 passes over NULLs: without the flags a value that moves to the next column would go
    # unnoticed.
    flags = [
        F.col(column.name).isNull()
        for column in spec.columns
        if column.is_nullable and column.name in spec.versioned_columns
    ]
    # As text, because engines differ in the bytes of a decimal of more than 18 digits.
    types = {column.name: column.type for column in spec.columns}
    texts = [
        F.col(name).cast("string") if types[name].startswith("DECIMAL") else F.col(name)
        for name in spec.versioned_columns
    ]
    row_hash = F.xxhash64(*texts, *flags)
    # Halves are summed, because a sum of 64 bits may overflow and one of decimals takes longer.
    halves = (
        F.sum(F.shiftright("_hash", 32)).alias("high"),
        F.sum(F.col("_hash").bitwiseAND(F.lit(0xFFFFFFFF))).alias("low"),
    )
    hashed = rows.select(F.col(spec.month_column).alias("_month"), row_hash.alias("_hash"))
    counted = hashed.groupBy("_month").agg(F.count("*").alias("n"), *halves).collect()
    return {
        r["_month"]: (r["n"], f"{r['n']}-{((r['high'] << 32) + r['low']) & (2**64 - 1):016x}")
        for r in counted
    }


def _compared(spec: TableSpec, new: DataFrame, stored: DataFrame) -> DataFrame:
    """All rows of both, with ``_action``: keep and delete with the stored values, insert and update
    with the new ones; ``_former`` is the month in which a row is stored that has another one now.

    Column by column, not as structs: engines refuse to mix structs whose fields differ in comments.
    """
    from pyspark.sql import functions as F

    names, key = spec.column_names, spec.key
    left = new.select(
        *[F.col(name).alias(f"new_{i}") for i, name in enumerate(names)],
        F.lit(True).alias("is_new"),
    )
    right = stored.select(
        *[F.col(name).alias(f"old_{i}") for i, name in enumerate(names)],
        F.lit(True).alias("is_stored"),
    )
    at = {name: i for i, name in enumerate(names)}
    same_key = [F.col(f"new_{at[name]}") == F.col(f"old_{at[name]}") for name in key]
    joined = left.join(right, same_key, "full")
    differs = F.lit(False)
    for name in spec.compared_columns:
        if name not in key:
            differs = differs | ~F.col(f"new_{at[name]}").eqNullSafe(F.col(f"old_{at[name]}"))
    action = (
        F.when(F.col("is_stored").isNull(), "insert")
        .when(F.col("is_new").isNull(), "delete")
        .when(differs, "update")
        .otherwise("keep")
    )
    is_new = F.col("_action").isin("insert", "update")
    values = [
        F.when(is_new, F.col(f"new_{i}")).otherwise(F.col(f"old_{i}")).alias(name)
        for name, i in at.items()
    ]
    at_month = at[spec.month_column]
    has_moved = (F.col("_action") == "update") & (
        F.col(f"new_{at_month}") != F.col(f"old_{at_month}")
    )
    former = F.when(has_moved, F.col(f"old_{at_month}")).alias("_former")
    return joined.withColumn("_action", action).select(*values, "_action", former)


__all__ = [
    "LEDGER",
    "Column",
    "ConcurrentWrite",
    "Constraint",
    "DeltaLakehouse",
    "Lakehouse",
    "Layer",
    "MonthWritten",
    "RemovalRefused",
    "Slice",
    "TableSpec",
    "WriteResult",
]
