"""The ledger: which inputs, code and configuration each stored slice was made from, and by which
engine.

A slice is one month of a table (and, in a table of several writers, of one writer). Rows are only
ever appended.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from resources.delta_tables import MAX_FILES, ConcurrentWrite, DeltaTables
from resources.table_spec import Column, TableSpec

if TYPE_CHECKING:
    import pandas as pd

LEDGER = TableSpec(
    layer="gold",
    name="slice_ledger",
    comment=(
        "The newest row of a table, month and writer says which inputs, code and configuration its"
        " stored slice was made from."
    ),
    grain="one examination of one table's month that stored or confirmed it",
    key=("table_id", "yyyymm", "writer", "recorded_at"),
    columns=(
        Column("table_id", "STRING", "layer.table", is_nullable=False),
        Column("yyyymm", "INT", "month of the slice", is_nullable=False),
        Column(
            "writer",
            "STRING",
            "second writer key, for instance the model; empty where a table has one writer",
            is_nullable=False,
        ),
        Column(
            "data_version",
            "STRING",
            "hash of the slice's rows, unversioned columns left out",
            is_nullable=False,
        ),
        Column(
            "input_version",
            "STRING",
            "hash of the versions of all inputs, the code version and the configuration",
            is_nullable=False,
        ),
        Column("row_count", "BIGINT", "rows of the slice", is_nullable=False),
        Column(
            "delta_version",
            "BIGINT",
            "version of the Delta table that holds the slice",
            is_nullable=False,
        ),
        Column(
            "details",
            "STRING",
            "JSON: inputs with their Delta versions and what the writer adds",
            is_nullable=False,
        ),
        Column("run_id", "STRING", "Dagster run", is_nullable=False),
        Column("recorded_at", "TIMESTAMP", "when it was recorded (UTC)", is_nullable=False),
        Column("engine", "STRING", "engine and version that made the slice"),
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


class Ledger:
    """The newest record of every slice, read once and kept: it is read again only after somebody
    else has written to it.

    ``engine`` names what makes the slices; it is written beside each record. ``pins`` (table id ->
    Delta version) show slices as they were recorded by then.
    """

    def __init__(
        self,
        tables: DeltaTables,
        path: str,
        engine: Callable[[], str],
        pins: Mapping[str, int] | None = None,
    ) -> None:
        self._tables, self._path, self._engine, self._pins = tables, path, engine, dict(pins or {})
        self._lock = threading.Lock()
        self._version = -1
        self._newest: dict[tuple[str, str], dict[int, Slice]] = {}

    def at(self, pins: Mapping[str, int]) -> Ledger:
        """The same ledger as it was when the pinned tables had these versions."""
        return Ledger(self._tables, self._path, self._engine, {**self._pins, **pins})

    def slices(self, table: TableSpec, writer: str = "") -> dict[int, Slice]:
        """Newest record of each stored month of a table (and writer)."""
        with self._lock:
            version = self._tables.version(self._path)
            if version != self._version:
                self._newest, self._version = self._read(), version
            return dict(self._newest.get((table.id, writer), {}))

    def refuse_pinned(self, table: TableSpec) -> None:
        """Raise ValueError before a write of what is read as it was at past versions."""
        if self._pins:
            raise ValueError(
                f"{table.id}: a lakehouse that is read at past versions is not written"
            )

    def writers(self, table: TableSpec) -> list[str]:
        """Writers of whom the ledger knows a slice of the table."""
        self.slices(table)
        return sorted(writer for table_id, writer in self._newest if table_id == table.id)

    def record(self, table: TableSpec, slices: Sequence[Slice], run_id: str) -> None:
        """Append what slices were made from; after their write, so that a crash in between only
        costs a repeat. Raises ValueError for a ledger of past versions.
        """
        self.refuse_pinned(table)
        if not slices:
            return
        now = datetime.now(UTC)
        rows = [
            {
                "table_id": table.id,
                "yyyymm": s.yyyymm,
                "writer": s.writer,
                "data_version": s.data_version,
                "input_version": s.input_version,
                "row_count": s.row_count,
                "delta_version": s.delta_version,
                "details": json.dumps(dict(s.details), sort_keys=True, default=str),
                "run_id": run_id,
                "recorded_at": now,
                "engine": self._engine(),
            }
            for s in slices
        ]
        with self._lock:
            if not self._tables.ensure(LEDGER, self._path):
                self._tables.add_columns(LEDGER, self._path)
            version = self._tables.append_records(
                self._path, pa.Table.from_pylist(rows, schema=_SCHEMA)
            )
            if version == self._version + 1:
                own = self._newest.setdefault
                for row in rows:
                    own((table.id, str(row["writer"])), {})[int(str(row["yyyymm"]))] = _slice(row)
                self._version = version
            if self._tables.file_count(self._path) > MAX_FILES:
                with contextlib.suppress(ConcurrentWrite):
                    self._tables.compact(LEDGER, self._path)

    def _read(self) -> dict[tuple[str, str], dict[int, Slice]]:
        names = [
            column.name for column in LEDGER.columns if column.name not in ("run_id", "engine")
        ]
        rows: pd.DataFrame = self._tables.rows(self._path, names, {}, {}, None)
        for table_id, version in self._pins.items():
            rows = rows[(rows["table_id"] != table_id) | (rows["delta_version"] <= version)]
        found: dict[tuple[str, str], dict[int, Slice]] = {}
        for row in newest(rows).to_dict("records"):
            found.setdefault((row["table_id"], row["writer"]), {})[int(row["yyyymm"])] = _slice(row)
        return found


def newest(records: pd.DataFrame) -> pd.DataFrame:
    """The newest record of each slice. records: rows of the ledger."""
    ordered = records.sort_values("recorded_at", kind="stable")
    return ordered.drop_duplicates(["table_id", "writer", "yyyymm"], keep="last")


def _slice(row: Mapping[str, Any]) -> Slice:
    return Slice(
        int(row["yyyymm"]),
        row["writer"],
        row["data_version"],
        row["input_version"],
        int(row["row_count"]),
        int(row["delta_version"]),
        json.loads(row["details"]),
    )


_ARROW = {
    "STRING": pa.string(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
}
_SCHEMA = pa.schema(
    [pa.field(c.name, _ARROW[c.type], nullable=c.is_nullable) for c in LEDGER.columns]
)
