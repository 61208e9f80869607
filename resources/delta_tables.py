"""Delta tables by path, without Spark: versions, files, rows, creation, upkeep.

What a slice is and how it is written lies in lakehouse.py. Tables by name in a catalog would be a
second implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from resources.errors import Refused
from resources.table_spec import TableSpec, delta_schema

if TYPE_CHECKING:
    import pandas as pd
    from deltalake import DeltaTable

MAX_FILES = 50  # of a table without partitions: every reader opens all of them
FILE_COLUMNS = ["size_bytes", "num_records"]


class ConcurrentWrite(Exception):
    """Another writer changed the same slice in between; read, transform and write again."""


@contextmanager
def conflicts_told(what: str) -> Iterator[None]:
    """Turn a commit that lost to another writer into ConcurrentWrite."""
    from deltalake.exceptions import CommitFailedError

    try:
        yield
    except CommitFailedError as error:
        raise ConcurrentWrite(
            f"{what}: another writer was faster ({str(error).splitlines()[0]})"
        ) from error


def every_row(spec: TableSpec) -> str:
    """A condition that all rows meet. An overwrite under it conflicts with any other write; one
    without a condition with none.
    """
    return f'"{spec.key[0]}" IS NOT NULL'


@dataclass(frozen=True)
class DeltaTables:
    """Tables by path. ``retention_days``: how long a version stays readable, a property of every
    table that is created.
    """

    retention_days: int

    def exists(self, path: str) -> bool:
        from deltalake import DeltaTable

        return DeltaTable.is_deltatable(path)

    def open(self, path: str, version: int | None = None) -> DeltaTable:
        """A snapshot of a table; it does not move when others write."""
        from deltalake import DeltaTable

        return DeltaTable(path, version=version)

    def version(self, path: str) -> int:
        """Newest version; -1 while the table does not exist."""
        return int(self.open(path).version()) if self.exists(path) else -1

    def ensure(self, spec: TableSpec, path: str) -> bool:
        """Create the table where none lies at the path; whether it was created now."""
        from deltalake import DeltaTable

        if self.exists(path):
            return False
        kept = f"interval {self.retention_days} days"
        DeltaTable.create(
            path,
            delta_schema(spec.columns),
            mode="ignore",
            partition_by=list(spec.partition_by),
            name=spec.name,
            description=spec.comment,
            configuration={
                "delta.logRetentionDuration": kept,
                "delta.deletedFileRetentionDuration": kept,
            },
        )
        return True

    def add_columns(self, spec: TableSpec, path: str) -> None:
        """Add the columns that a table of an older release lacks. Raises Refused for one that must
        have a value in every row.
        """
        table = self.open(path)
        known = {field.name for field in table.schema().fields}
        added = tuple(column for column in spec.columns if column.name not in known)
        if required := [column.name for column in added if not column.is_nullable]:
            raise Refused(
                f"{spec.id} lacks {', '.join(required)}, which no release can add to stored rows."
                " Nothing was changed; give lakehouse_root a new folder and let it be filled from"
                " the files, or ask for a migration."
            )
        if added:
            with conflicts_told(spec.id):
                table.alter.add_columns(list(delta_schema(added).fields))

    def transaction_version(self, path: str, application: str) -> int:
        """The last number that an application wrote under; 0 for none."""
        return (
            int(self.open(path).transaction_version(application) or 0) if self.exists(path) else 0
        )

    def rows(
        self,
        path: str,
        columns: Sequence[str] | None,
        pushed: Mapping[str, Sequence[Any]],
        kept: Mapping[str, Sequence[str]],
        version: int | None,
    ) -> pd.DataFrame:
        """Rows as pandas: ``pushed`` gives the values of months and partitions, ``kept`` the texts
        that other columns may have.

        Texts are looked for in the rows, batch by batch, not in the log: of files that delta-rs has
        updated it knows them as string views, which Arrow's comparisons refuse (pyarrow 25). Raises
        Refused for a version that is no longer readable.
        """
        import pyarrow.compute as pc
        from deltalake.exceptions import DeltaError

        try:
            dataset = self.open(path, version).to_pyarrow_dataset()
            names = list(columns) if columns else dataset.schema.names
            read = list(dict.fromkeys([*names, *kept]))
            condition = reduce(
                and_,
                (pc.field(name).isin(list(values)) for name, values in pushed.items()),
                pc.scalar(True),
            )
            batches = []
            for batch in dataset.to_batches(columns=read, filter=condition):
                for name, values in kept.items():
                    batch = batch.filter(
                        pc.is_in(batch[name], pa.array(list(values), batch[name].type))
                    )
                batches.append(batch)
            schema = pa.schema([dataset.schema.field(name) for name in read])
            return pa.Table.from_batches(batches, schema).select(names).to_pandas()
        except (DeltaError, FileNotFoundError) as error:
            if version is None:
                raise
            raise Refused(
                f"{path}: version {version} is no longer readable; the oldest are kept for the"
                " retention"
            ) from error

    def batches(
        self, path: str, columns: Sequence[str], month_column: str, months: Sequence[int]
    ) -> Iterator[pa.RecordBatch]:
        """Columns of some months, piece by piece."""
        import pyarrow.dataset as ds

        is_wanted = ds.field(month_column).isin([int(month) for month in months])
        yield from (
            self.open(path).to_pyarrow_dataset().to_batches(columns=list(columns), filter=is_wanted)
        )

    def files(
        self,
        spec: TableSpec,
        path: str,
        months: Sequence[int] | None,
        writers: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """FILE_COLUMNS of a table's files as its log lists them, of some months and writers where
        it is partitioned by them; none where there is no table.
        """
        import pyarrow.compute as pc

        if not self.exists(path):
            return pa.table({name: pa.array([], pa.int64()) for name in FILE_COLUMNS})
        files = pa.table(self.open(path, version).get_add_actions(flatten=True))
        if months is not None and spec.month_column in spec.partition_by:
            wanted = pa.array([int(m) for m in months], pa.int64())
            files = files.filter(
                pc.is_in(files[f"partition.{spec.month_column}"].cast(pa.int64()), wanted)
            )
        if writers is not None and spec.writer_column in spec.partition_by:
            own = files[f"partition.{spec.writer_column}"].cast(pa.string())
            files = files.filter(pc.is_in(own, pa.array(list(writers), pa.string())))
        return files.select(FILE_COLUMNS)

    def file_count(self, path: str) -> int:
        return len(self.open(path).file_uris())

    def append_records(self, path: str, rows: pa.Table) -> int:
        """Append a few rows in one commit; the version that holds them."""
        from deltalake import write_deltalake

        table = self.open(path)
        write_deltalake(table, rows, mode="append")
        return int(table.version())

    def compact(self, spec: TableSpec, path: str) -> None:
        """Put the files of a small table together. Raises ConcurrentWrite where somebody else wrote
        meanwhile.

        Not by delta-rs's own compaction: it leaves strings as views in the file, which Sail does
        not read.
        """
        from deltalake import write_deltalake

        table = self.open(path)
        whole = table.to_pyarrow_table()
        with conflicts_told(path):
            write_deltalake(table, whole, mode="overwrite", predicate=every_row(spec))

    def unneeded_files(self, path: str, retention_hours: int) -> dict[str, int]:
        """Files, with their bytes, that no version younger than the retention needs."""
        found = (
            self.open(path).vacuum(retention_hours, dry_run=True, full=True)
            if self.exists(path)
            else []
        )
        return {
            name: file.stat().st_size if (file := Path(path) / name).exists() else 0
            for name in found
        }

    def vacuum(self, path: str, retention_hours: int) -> None:
        """Remove the files that ``unneeded_files`` names. Raises ValueError for less than the
        retention of the configuration.
        """
        if retention_hours < self.retention_days * 24:
            raise ValueError(
                f"{path}: {retention_hours} hours are less than the {self.retention_days} days that"
                " stay readable"
            )
        self.open(path).vacuum(retention_hours, dry_run=False, full=True)

    def restore(self, path: str, version: int) -> None:
        """Make a table what it was at a version, in a new commit."""
        self.open(path).restore(version)
