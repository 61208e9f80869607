"""Slices of Delta tables: how months are read, compared and written (Lakehouse).

The rules that keep other months untouched live here and nowhere else. What a table is lies in
table_spec.py, what is known of a slice in ledger.py, what a run shares in kept.py, what plans do
with whole tables in upkeep.py, and how bytes reach a table in writers.py.
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
from resources.kept import Kept
from resources.ledger import LEDGER, Ledger, Slice
from resources.table_spec import Column, Constraint, Layer, TableSpec
from resources.upkeep import Upkeep
from resources.writers import Scope, Writer

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql import DataFrame, SparkSession

    from resources.engines import Engine
    from resources.settings import Settings


@dataclass(frozen=True)
class LakehouseOptions:
    """Where tables lie, what they are called, the share of a slice that a write may remove, and how
    long versions are kept.
    """

    root: str
    catalog: str
    schemas: Mapping[str, str]
    max_removed_share: float
    retention_months: int

    @classmethod
    def of(cls, settings: Settings) -> LakehouseOptions:
        """Those of a configuration."""
        return cls(
            settings.lakehouse_root,
            settings.catalog,
            settings.schemas.model_dump(),
            settings.writes.max_removed_share,
            settings.retention.reproducible_months,
        )

    def name(self, spec: TableSpec) -> str:
        """Three-level name of the table."""
        return f"{self.catalog}.{self.schemas[spec.layer]}.{spec.name}"

    def path(self, spec: TableSpec) -> str:
        """Folder of the table."""
        return f"{self.root}/{self.schemas[spec.layer]}/{spec.name}"


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
    """Reads and writes of tables by month. Implementations: DeltaLakehouse, and a fake in tests.

    ``ledger`` knows what slices were made from, ``kept`` keeps what a run shares, ``upkeep`` is for
    plans.
    """

    ledger: Ledger
    kept: Kept
    upkeep: Upkeep

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

    def merge(  # noqa: PLR0913 - slices to write, and two permissions by name
        self,
        spec: TableSpec,
        rows: DataFrame,
        months: Sequence[int],
        writer: str = "",
        *,
        may_remove: bool | Collection[int] = False,
        is_held: bool = False,
    ) -> WriteResult: ...

    def move(
        self, spec: TableSpec, rows: DataFrame, months: Sequence[int], version: int
    ) -> int: ...

    def append(self, spec: TableSpec, rows: DataFrame, number: int) -> int: ...

    def next_number(self, spec: TableSpec) -> int: ...

    def version(self, spec: TableSpec) -> int: ...

    def rows(  # noqa: PLR0913 - what a read may be cut to
        self,
        spec: TableSpec,
        columns: Sequence[str] | None = None,
        months: Sequence[int] | None = None,
        writers: Sequence[str] | None = None,
        *,
        parts: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pd.DataFrame: ...

    def totals(
        self, spec: TableSpec, by: Sequence[str], columns: Sequence[str], months: Sequence[int]
    ) -> pd.DataFrame: ...

    def files(
        self,
        spec: TableSpec,
        months: Sequence[int] | None = None,
        writers: Sequence[str] | None = None,
    ) -> pa.Table: ...


class DeltaLakehouse:
    """Delta tables under one root: an engine reads and transforms them, its writer changes them;
    small facts need no engine.

    ``engine`` is called when one is first needed, so that what never needs it never starts it.
    """

    def __init__(self, engine: Callable[[], Engine], options: LakehouseOptions) -> None:
        self._engine, self._options = engine, options
        self._tables = DeltaTables(options.retention_months * 31)
        self.ledger = Ledger(self._tables, self.path(LEDGER), lambda: engine().label)
        self.kept = Kept(engine)
        self.upkeep = Upkeep(self._tables, self.ledger, self.path)
        self._ensured: set[str] = set()
        self._ensuring = threading.Lock()
        self._pins: Mapping[str, int] = {}

    def at(self, versions: Mapping[str, int]) -> DeltaLakehouse:
        """The same tables as they were, for reading: those named by id at a version, slices as
        recorded by then.
        """
        pinned = copy.copy(self)
        pinned._pins, pinned.kept = {**self._pins, **versions}, Kept(self._engine)
        pinned.ledger = self.ledger.at(versions)
        pinned.upkeep = Upkeep(self._tables, pinned.ledger, self.path)
        return pinned

    @property
    def engine(self) -> Engine:
        return self._engine()

    @property
    def spark(self) -> SparkSession:
        return self._engine().session

    def name(self, spec: TableSpec) -> str:
        """Three-level name of the table."""
        return self._options.name(spec)

    def path(self, spec: TableSpec) -> str:
        """Folder of the table."""
        return self._options.path(spec)

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
        path = f"{self._options.root}/{schema}/{name}"
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
        return self.spark.createDataFrame([spec.values(row) for row in rows], schema)

    def merge(  # noqa: PLR0913 - slices to write, and two permissions by name
        self,
        spec: TableSpec,
        rows: DataFrame,
        months: Sequence[int],
        writer: str = "",
        *,
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
        self.ledger.refuse_pinned(spec)
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
        self.ledger.refuse_pinned(spec)
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
        self.ledger.refuse_pinned(spec)
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

    def rows(  # noqa: PLR0913 - what a read may be cut to
        self,
        spec: TableSpec,
        columns: Sequence[str] | None = None,
        months: Sequence[int] | None = None,
        writers: Sequence[str] | None = None,
        *,
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

    def files(
        self,
        spec: TableSpec,
        months: Sequence[int] | None = None,
        writers: Sequence[str] | None = None,
    ) -> pa.Table:
        """Files that hold slices, as the log lists them: ``size_bytes`` and ``num_records`` of
        each. None where the table does not exist.
        """
        return self._tables.files(spec, self.path(spec), months, writers, self._pins.get(spec.id))

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
        found = {}
        for at in months:
            counts = (
                counted.get((at, name), 0) for name in ("insert", "update", "delete", "leave")
            )
            found[at] = MonthWritten(*written.get(at, (0, "0-0")), *counts)
        return found

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
            if written.deleted > max(1, self._options.max_removed_share * stored):
                raise RemovalRefused(
                    f"{self.name(spec)}: writing {month} would remove {written.deleted} of {stored}"
                    f" rows, more than the share of {self._options.max_removed_share:.0%} that"
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


def content_versions(
    lakehouse: Lakehouse, spec: TableSpec, months: Sequence[int]
) -> dict[int, str]:
    """Version of the rows that slices hold, as the ledger records it when they are written;
    nothing for a month without rows.
    """
    found = _slice_versions(spec, lakehouse.read(spec, months))
    return {month: version for month, (_, version) in found.items()}


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
