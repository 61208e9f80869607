"""How changed slices reach a Delta table: by delta-rs from files or batches, or by the Spark
session.

Which rows change is worked out in lakehouse.py, the same for all; each call here is one commit.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from resources.delta_tables import ConcurrentWrite, DeltaTables, conflicts_told, every_row
from resources.table_spec import TableSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession

ROWS_PER_FILE = 1_000_000
RECENT_COMMITS = 100  # among which a writer looks for its own; so many others can't come in between


@dataclass(frozen=True)
class Scope:
    """The slices that a write touches: months, and the writer in a table of several writers."""

    spec: TableSpec
    months: tuple[int, ...]
    writer: str = ""

    def sql(self, alias: str = "", quote: str = "`") -> str:
        """The scope as a condition over the table's columns, months first: a literal for every
        partition column.
        """
        prefix = f"{alias}." if alias else ""
        condition = self.of_months(prefix, quote)
        if self.spec.writer_column:
            if "'" in self.writer:
                raise ValueError(f"{self.spec.id}: the writer's name {self.writer!r} holds a quote")
            condition += f" AND {prefix}{quote}{self.spec.writer_column}{quote} = '{self.writer}'"
        return condition

    def of_months(self, prefix: str = "", quote: str = "`") -> str:
        """The months alone, whoever wrote them."""
        listed = ", ".join(str(int(month)) for month in self.months)
        return (
            f"{prefix}{quote}{self.spec.month_column}{quote} IN ({listed})" if listed else "false"
        )


class HasSession(Protocol):
    """An engine whose session writes. ``has_names``: its catalog knows tables by name."""

    has_names: bool

    @property
    def session(self) -> SparkSession: ...


class Writer(Protocol):
    """Three ways to write, each one commit that a second writer of the same slice or number makes
    fail with ConcurrentWrite.

    ``table`` is the snapshot that was looked at before: what came after it is a conflict.
    ``counts``: rows by month, where known. ``compared`` holds all rows of the scope, with
    ``_action`` keep, insert, update or delete, ``others`` what the table holds beside.
    """

    def append(
        self,
        spec: TableSpec,
        table: DeltaTable,
        rows: DataFrame,
        transaction: tuple[str, int],
        counts: Mapping[int, int],
    ) -> None: ...

    def replace(
        self, scope: Scope, table: DeltaTable, rows: DataFrame, counts: Mapping[int, int]
    ) -> None: ...

    def change(
        self, scope: Scope, table: DeltaTable, compared: DataFrame, others: DataFrame
    ) -> None: ...


@dataclass(frozen=True)
class DeltaRsWriter:
    """Writes with delta-rs what an engine has evaluated: ``batches`` gives rows as Arrow batches,
    one after the other.
    """

    batches: Callable[[DataFrame], pa.RecordBatchReader]

    def append(
        self,
        spec: TableSpec,
        table: DeltaTable,
        rows: DataFrame,
        transaction: tuple[str, int],
        counts: Mapping[int, int],
    ) -> None:
        from deltalake import CommitProperties, Transaction, write_deltalake

        application, number = transaction
        # delta-rs refuses a number that another writer takes at the same time, not one that was
        # taken before.
        if int(table.transaction_version(application) or 0) >= number:
            raise ConcurrentWrite(
                f"{spec.id}: another writer was faster with number {number} of {application}"
            )
        with conflicts_told(spec.id):
            write_deltalake(
                table,
                self.batches(rows),
                mode="append",
                schema_mode="merge" if spec.has_source_columns else None,
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(application, number)]
                ),
            )

    def replace(
        self, scope: Scope, table: DeltaTable, rows: DataFrame, counts: Mapping[int, int]
    ) -> None:
        self._replace(scope.spec, table, rows, scope.sql(quote='"'))

    def change(
        self, scope: Scope, table: DeltaTable, compared: DataFrame, others: DataFrame
    ) -> None:
        # Not by delta-rs's own merge: it leaves strings as views in the files, which Sail does not
        # read.
        spec = scope.spec
        names = (
            [name for name in compared.columns if name != "_action"]
            if spec.has_source_columns
            else spec.column_names
        )
        rows = compared.where("_action <> 'delete'").select(*[f"`{name}`" for name in names])
        if (
            set(spec.partition_by) <= {spec.month_column, spec.writer_column}
            and spec.month_column in spec.partition_by
        ):
            self.replace(scope, table, rows, {})
        else:
            self._replace(spec, table, rows.unionByName(others), every_row(spec))

    def _replace(self, spec: TableSpec, table: DeltaTable, rows: DataFrame, predicate: str) -> None:
        from deltalake import write_deltalake

        with conflicts_told(spec.id):
            write_deltalake(table, self.batches(rows), mode="overwrite", predicate=predicate)


@dataclass(frozen=True)
class SparkWriter:
    """Writes with the Spark session. ``identifier`` tells how the session calls a table."""

    engine: HasSession
    tables: DeltaTables
    identifier: Callable[[TableSpec], str]

    def append(
        self,
        spec: TableSpec,
        table: DeltaTable,
        rows: DataFrame,
        transaction: tuple[str, int],
        counts: Mapping[int, int],
    ) -> None:
        application, number = transaction
        # Of two who append the same number at the same time one fails; one who comes later writes
        # nothing, and its token is missing.
        token = uuid.uuid4().hex
        options = {"txnAppId": application, "txnVersion": str(number), "userMetadata": token}
        path = table.table_uri
        if spec.has_source_columns:
            self._add_columns(spec, table, rows.columns)
        with _spark_conflicts_told(spec):
            dealt = _in_files(spec, rows, counts) if counts else rows
            dealt.writeTo(self.identifier(spec)).options(**options).append()
        if not any(
            commit.get("userMetadata") == token
            for commit in self.tables.open(path).history(RECENT_COMMITS)
        ):
            raise ConcurrentWrite(
                f"{spec.id}: another writer was faster with number {number} of {application}"
            )

    def replace(
        self, scope: Scope, table: DeltaTable, rows: DataFrame, counts: Mapping[int, int]
    ) -> None:
        names = ", ".join(f"`{name}`" for name in scope.spec.column_names)
        dealt = _in_files(scope.spec, rows, counts)
        with self._view(dealt) as view, _spark_conflicts_told(scope.spec):
            self.engine.session.sql(
                f"INSERT INTO {self.identifier(scope.spec)} REPLACE WHERE {scope.sql()} SELECT"
                f" {names} FROM {view}"
            )

    def change(
        self, scope: Scope, table: DeltaTable, compared: DataFrame, others: DataFrame
    ) -> None:
        spec = scope.spec
        keys = " AND ".join(f"target.`{name}` = source.`{name}`" for name in spec.key)
        assignments = ", ".join(f"target.`{name}` = source.`{name}`" for name in spec.column_names)
        names = ", ".join(f"`{name}`" for name in spec.column_names)
        values = ", ".join(f"source.`{name}`" for name in spec.column_names)
        with self._view(compared.where("_action <> 'keep'")) as view, _spark_conflicts_told(spec):
            self.engine.session.sql(
                f"MERGE INTO {self.identifier(spec)} AS target USING {view} AS source ON"
                f" {scope.sql('target')} AND {keys} WHEN MATCHED AND source._action = 'delete' THEN"
                f" DELETE WHEN MATCHED THEN UPDATE SET {assignments} WHEN NOT MATCHED AND"
                f" source._action <> 'delete' THEN INSERT ({names}) VALUES ({values})"
            )

    def _add_columns(self, spec: TableSpec, table: DeltaTable, names: Sequence[str]) -> None:
        """Add the source columns that the table lacks, as text. Not by a merged schema: over
        Connect its text has a collation, which other readers of the table don't know.
        """
        from deltalake import Field
        from deltalake.schema import PrimitiveType

        known = {field.name.lower() for field in table.schema().fields}
        if added := [
            Field(name, PrimitiveType("string")) for name in names if name.lower() not in known
        ]:
            with conflicts_told(spec.id):
                table.alter.add_columns(added)
            if self.engine.has_names:  # what is read by path is kept nowhere
                self.engine.session.catalog.refreshTable(self.identifier(spec))

    @contextmanager
    def _view(self, rows: DataFrame) -> Iterator[str]:
        name = f"rows_{uuid.uuid4().hex}"
        rows.createOrReplaceTempView(name)
        try:
            yield name
        finally:
            self.engine.session.catalog.dropTempView(name)


@contextmanager
def _spark_conflicts_told(spec: TableSpec) -> Iterator[None]:
    """Turn Delta's concurrency errors, which Spark hands on as text, into ConcurrentWrite."""
    try:
        yield
    except Exception as error:
        told = (
            r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED"
            r"|Concurrent(Modification|Append|Delete|Transaction)"
        )
        if re.search(told, str(error)):
            raise ConcurrentWrite(f"{spec.id}: another writer changed the same slice") from error
        raise


def _in_files(spec: TableSpec, rows: DataFrame, counts: Mapping[int, int]) -> DataFrame:
    """Rows dealt out so that a partition's rows make files of about ROWS_PER_FILE, and no task
    writes more than one of them.
    """
    from pyspark.sql import functions as F

    pieces = -(-max(counts.values(), default=1) // ROWS_PER_FILE)
    if pieces == 1:
        return rows.repartition(*spec.partition_by)
    piece = F.pmod(F.xxhash64(*spec.key), F.lit(pieces))
    return rows.repartition(pieces * len(counts), *spec.partition_by, piece)
