"""Upkeep of whole tables, for plans: what slices take on storage, files that nobody needs, former
versions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from resources.delta_tables import DeltaTables
from resources.ledger import Ledger
from resources.table_spec import TableSpec


class Upkeep:
    """What people do with a table of the lakehouse, beside writing slices. ``path`` gives a table's
    folder.
    """

    def __init__(
        self, tables: DeltaTables, ledger: Ledger, path: Callable[[TableSpec], str]
    ) -> None:
        self._tables, self._ledger, self._path = tables, ledger, path

    def storage(
        self, spec: TableSpec, months: Sequence[int] | None, writer: str = ""
    ) -> tuple[int, int]:
        """Files and bytes that hold the slices of ``months`` (None: all), as the log lists them."""
        import pyarrow.compute as pc

        files = self._tables.files(spec, self._path(spec), months, [writer] if writer else None)
        return files.num_rows, int(pc.sum(files["size_bytes"]).as_py() or 0)

    def unneeded_files(self, spec: TableSpec, retention_hours: int) -> dict[str, int]:
        """Files, with their bytes, that no version younger than the retention needs."""
        return self._tables.unneeded_files(self._path(spec), retention_hours)

    def vacuum(self, spec: TableSpec, retention_hours: int) -> None:
        """Remove the files that ``unneeded_files`` names. Raises ValueError for less than the
        retention of the configuration.
        """
        self._ledger.refuse_pinned(spec)
        self._tables.vacuum(self._path(spec), retention_hours)

    def restore(self, spec: TableSpec, version: int, run_id: str) -> None:
        """Make a table what it was at a version, in a new commit, and let the ledger say so: later
        slices are due again.

        The ledger is written first: a process that dies in between leaves months due whose rows
        are still the newer ones.
        """
        self._ledger.refuse_pinned(spec)
        path = self._path(spec)
        then_of, after = self._ledger.at({spec.id: version}), self._tables.version(path) + 1
        pairs = [
            (then_of.slices(spec, writer).get(month), now)
            for writer in self._ledger.writers(spec)
            for month, now in self._ledger.slices(spec, writer).items()
        ]
        moved = [(then, now) for then, now in pairs if then != now]
        due = [
            replace(now, data_version="0-0", input_version="", row_count=0, delta_version=after)
            for _, now in moved
        ]
        self._ledger.record(spec, due, run_id)
        self._tables.restore(path, version)
        stored = self._tables.version(path)
        restored = [replace(then, delta_version=stored) for then, _ in moved if then is not None]
        self._ledger.record(spec, restored, run_id)
