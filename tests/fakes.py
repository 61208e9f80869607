"""Resources in memory for tests without a JVM or a server: tables over pandas, MLflow and order
files in dictionaries.

FakeFrame and ``functions`` hold the little of Spark's API that the wiring of assets uses;
transforms are replaced in such tests.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import zlib
from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

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
from resources.mlflow_connection import TrackingUnavailable
from resources.orders import Landed, OrderFile, UnreadableFile
from resources.settings import Source
from resources.tracking import COMMITTED, RunContent, StoredRun
from resources.workers import Begun

Record = dict[str, Any]


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


class FakeColumn:
    """A named function of a pandas frame: a value per row, or one per group where it aggregates."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, of: Callable[[pd.DataFrame], Any]):
        self.name, self.of = name, of

    def alias(self, name: str) -> FakeColumn:
        return FakeColumn(name, self.of)

    def cast(self, type_: str) -> FakeColumn:
        kinds = {"int": "Int64", "bigint": "Int64", "double": "float64", "string": "object"}
        return self._then(
            lambda value: value.astype(kinds[type_]) if isinstance(value, pd.Series) else value
        )

    def isin(self, values: Sequence[Any]) -> FakeColumn:
        return self._then(lambda value: value.isin(list(values)))

    def __getitem__(self, key: FakeColumn) -> FakeColumn:
        return FakeColumn(self.name, lambda frame: key.of(frame).map(self.of(frame)))

    def __eq__(self, other: object) -> FakeColumn:  # type: ignore[override]
        return self._with(other, lambda left, right: left == right)

    def __ne__(self, other: object) -> FakeColumn:  # type: ignore[override]
        return self._with(other, lambda left, right: left != right)

    def __lt__(self, other: object) -> FakeColumn:
        return self._with(other, lambda left, right: left < right)

    def __gt__(self, other: object) -> FakeColumn:
        return self._with(other, lambda left, right: left > right)

    def __le__(self, other: object) -> FakeColumn:
        return self._with(other, lambda left, right: left <= right)

    def __and__(self, other: object) -> FakeColumn:
        return self._with(other, lambda left, right: left & right)

    def __sub__(self, other: object) -> FakeColumn:
        return self._with(other, lambda left, right: left - right)

    def _then(self, change: Callable[[Any], Any]) -> FakeColumn:
        return FakeColumn(self.name, lambda frame: change(self.of(frame)))

    def _with(self, other: object, operation: Callable[[Any, Any], Any]) -> FakeColumn:
        return FakeColumn(
            self.name,
            lambda frame: operation(
                self.of(frame), other.of(frame) if isinstance(other, FakeColumn) else other
            ),
        )


def _column(name: str | FakeColumn) -> FakeColumn:
    return name if isinstance(name, FakeColumn) else FakeColumn(name, lambda frame: frame[name])


def _aggregate(statistic: str) -> Callable[[str | FakeColumn], FakeColumn]:
    return lambda column: _column(column)._then(
        lambda values: getattr(values, statistic)() if len(values) else None
    )


def _hash(column: str | FakeColumn) -> FakeColumn:
    return _column(column)._then(
        lambda values: values.map(lambda value: zlib.crc32(str(value).encode()))
    )


def _map(*pairs: FakeColumn) -> FakeColumn:
    return FakeColumn(
        "map",
        lambda frame: {
            key.of(frame): value.of(frame)
            for key, value in zip(pairs[::2], pairs[1::2], strict=True)
        },
    )


functions = SimpleNamespace(
    col=_column,
    lit=lambda value: (
        value if isinstance(value, FakeColumn) else FakeColumn(str(value), lambda frame: value)
    ),
    count=lambda name: FakeColumn("count", lambda frame: len(frame)),
    sum=_aggregate("sum"),
    avg=_aggregate("mean"),
    max=_aggregate("max"),
    abs=lambda column: column._then(abs),
    pmod=lambda left, right: left._with(right, lambda value, divisor: value % divisor),
    xxhash64=_hash,
    create_map=_map,
)
"""Stands for ``pyspark.sql.functions``, whose columns need a running session."""


SPARK_TYPES = {"int32": "int", "int64": "bigint", "float64": "double", "bool": "boolean"}


class FakeFrame:
    """A pandas frame behind the methods of a Spark DataFrame that wiring uses; what is not here is
    not used there.
    """

    def __init__(
        self, rows: pd.DataFrame | Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None
    ):
        self._rows = (
            rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), columns=columns)
        ).reset_index(drop=True)

    @property
    def columns(self) -> list[str]:
        return list(self._rows.columns)

    @property
    def dtypes(self) -> list[tuple[str, str]]:
        return [
            (str(name), SPARK_TYPES.get(str(dtype), "string"))
            for name, dtype in self._rows.dtypes.items()
        ]

    def toPandas(self) -> pd.DataFrame:
        return self._rows.copy(deep=True)

    def collect(self) -> list[Record]:
        return self._rows.to_dict("records")

    def count(self) -> int:
        return len(self._rows)

    def select(self, *columns: Any) -> FakeFrame:
        wanted = [
            _column(c) for group in columns for c in (group if isinstance(group, list) else [group])
        ]
        return FakeFrame(
            pd.DataFrame({c.name: c.of(self._rows) for c in wanted}, index=self._rows.index)
        )

    def where(self, condition: str | FakeColumn) -> FakeFrame:
        kept = (
            condition.of(self._rows)
            if isinstance(condition, FakeColumn)
            else self._rows.eval(_as_python(condition))
        )
        return FakeFrame(
            self._rows
            if kept is True
            else self._rows[pd.Series(kept, self._rows.index, dtype="bool")]
        )

    def join(self, other: FakeFrame, on: str | Sequence[str], how: str = "inner") -> FakeFrame:
        on = [on] if isinstance(on, str) else list(on)
        if how in ("left_semi", "left_anti"):
            known = pd.MultiIndex.from_frame(other._rows[on])
            return FakeFrame(
                self._rows[
                    pd.MultiIndex.from_frame(self._rows[on]).isin(known) == (how == "left_semi")
                ]
            )
        if twice := set(self.columns) & set(other.columns) - set(on):
            raise ValueError(f"both frames have {', '.join(sorted(twice))}")
        return FakeFrame(self._rows.merge(other._rows, on=on, how={"full": "outer"}.get(how, how)))

    def groupBy(self, *columns: str | FakeColumn) -> FakeGroups:
        return FakeGroups(self._rows, [_column(c) for c in columns])

    def agg(self, *columns: FakeColumn) -> FakeFrame:
        return FakeFrame([{c.name: c.of(self._rows) for c in columns}])

    def withColumn(self, name: str, column: FakeColumn) -> FakeFrame:
        return self.withColumns({name: column})

    def withColumns(self, columns: Mapping[str, FakeColumn]) -> FakeFrame:
        return FakeFrame(
            self._rows.assign(**{name: column.of(self._rows) for name, column in columns.items()})
        )

    def unionByName(self, other: FakeFrame) -> FakeFrame:
        if set(self.columns) != set(other.columns):
            raise ValueError(f"columns differ: {sorted(set(self.columns) ^ set(other.columns))}")
        filled = [
            part.dropna(axis="columns", how="all")
            for part in (self._rows, other._rows)
            if len(part)
        ] or [self._rows]
        return FakeFrame(pd.concat(filled).reindex(columns=self.columns))

    def fillna(self, value: Any, columns: Sequence[str]) -> FakeFrame:
        return FakeFrame(
            self._rows.assign(**{name: self._rows[name].fillna(value) for name in columns})
        )

    def orderBy(self, *columns: str) -> FakeFrame:
        return FakeFrame(self._rows.sort_values(list(columns), kind="stable"))

    def limit(self, count: int) -> FakeFrame:
        return FakeFrame(self._rows.head(count))

    def repartition(self, *_: Any) -> FakeFrame:
        return self

    def persist(self) -> FakeFrame:
        return self

    def unpersist(self) -> FakeFrame:
        return self

    def localCheckpoint(self) -> FakeFrame:
        return self


class FakeGroups:
    """What groupBy gives."""

    def __init__(self, rows: pd.DataFrame, keys: Sequence[FakeColumn]):
        self._names = [key.name for key in keys]
        self._rows = rows.assign(**{key.name: key.of(rows) for key in keys})

    def agg(self, *columns: FakeColumn) -> FakeFrame:
        names = [*self._names, *(column.name for column in columns)]
        return FakeFrame(
            [
                dict(zip(names, [*key, *(c.of(own) for c in columns)], strict=True))
                for key, own in self._groups()
            ],
            names,
        )

    def applyInPandas(
        self, function: Callable[[pd.DataFrame], pd.DataFrame], schema: str
    ) -> FakeFrame:
        """As in Spark the function sees the grouping columns, and what it returns must have the
        columns of the schema.
        """
        return _combined(
            (function(own.reset_index(drop=True)) for _, own in self._groups()), schema
        )

    def _groups(self) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
        return iter(self._rows.groupby(self._names, dropna=False))


def _combined(results: Iterable[pd.DataFrame], schema: str) -> FakeFrame:
    names, made = ddl_names(schema), list(results)
    for result in made:
        if set(result.columns) != set(names):
            raise ValueError(
                "columns of the result and its schema differ:"
                f" {sorted(set(result.columns) ^ set(names))}"
            )
    filled = [part[names] for part in made if len(part)]
    return FakeFrame(pd.concat(filled) if filled else pd.DataFrame(columns=names))


def ddl_names(schema: str) -> list[str]:
    """Column names of a DDL text; commas within types do not count."""
    flat = re.sub(r"<[^<>]*>|\([^()]*\)", "", schema)
    return [column.split()[0].strip("`") for column in flat.split(",")]


def _as_python(sql: str) -> str:
    plain = re.sub(r"\b(AND|OR|NOT)\b", lambda match: match.group().lower(), sql).replace(
        "<>", "!="
    )
    return re.sub(r"(?<![<>!=])=(?!=)", "==", plain) if plain != "true" else "True"


class FakeSpark:
    """What little of a session wiring asks for."""

    def createDataFrame(self, rows: Iterable[tuple[Any, ...]], schema: str) -> FakeFrame:
        return FakeFrame(pd.DataFrame(list(rows), columns=ddl_names(schema)))


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
        c.name: _FILLERS.get(c.type, ["x"] if c.type.startswith("ARRAY") else 1)
        for c in spec.columns
        if not c.is_nullable
    }
    return dict.fromkeys(spec.column_names) | required | values


class FakeEngine:
    """An engine over frames in memory, which need no holding; Python code runs where it stands."""

    label = "fake"

    def __init__(self) -> None:
        self.session = FakeSpark()

    def hold(self, rows: FakeFrame) -> FakeFrame:
        return rows

    def release(self, rows: FakeFrame) -> None:
        """Nothing is held."""

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
    """

    def __init__(self, journal: Journal | None = None, max_removed_share: float = 0.2):
        self.journal = Journal() if journal is None else journal
        self.engine = FakeEngine()
        self.spark = self.engine.session
        self.external: dict[str, FakeFrame] = {}
        self.conflicts = 0
        self._max_removed_share = max_removed_share
        self._versions: dict[str, list[list[Record]]] = {}
        self._appended: dict[str, int] = {}
        self.ledger = FakeLedger()
        self.kept = Kept(lambda: self.engine)
        self.upkeep = FakeUpkeep(self.journal, self._versions)

    def name(self, spec: TableSpec) -> str:
        return f"my_catalog.my_{spec.layer}.{spec.name}"

    def path(self, spec: TableSpec) -> str:
        return f"memory/{spec.layer}/{spec.name}"

    def read(
        self, spec: TableSpec, months: Sequence[int] | None = None, version: int | None = None
    ) -> FakeFrame:
        rows = self._table(spec)[-1 if version is None else version]
        wanted = (
            rows
            if months is None
            else [row for row in rows if row[spec.month_column] in set(months)]
        )
        return FakeFrame(_typed(spec, wanted, self._columns(spec)))

    def read_external(self, table: str) -> FakeFrame:
        return self.external[table]

    def create_frame(self, spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> FakeFrame:
        return FakeFrame(
            [{name: row.get(name) for name in spec.column_names} for row in rows], spec.column_names
        )

    def merge(
        self,
        spec: TableSpec,
        rows: FakeFrame,
        months: Sequence[int],
        writer: str = "",
        may_remove: bool | Collection[int] = False,
        is_held: bool = False,
    ) -> WriteResult:
        new = _records(spec, rows.select(list(spec.column_names)))
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

    def move(self, spec: TableSpec, rows: FakeFrame, months: Sequence[int], version: int) -> int:
        if version != self.version(spec):
            raise ConcurrentWrite(f"{spec.id}: another writer changed it after version {version}")
        names = [name for name in rows.columns if name != "_action"]
        others = [row for row in self._table(spec)[-1] if row[spec.month_column] not in months]
        self.journal.note(f"move {spec.id}")
        self._versions[spec.id].append(others + _records(spec, rows.select(names)))
        return self.version(spec)

    def append(self, spec: TableSpec, rows: FakeFrame, number: int | None = None) -> int:
        new = _records(spec, rows)
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
        parts: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pd.DataFrame:
        wanted = list(columns or self._columns(spec))
        if self.version(spec) < 0:
            return pd.DataFrame(columns=wanted)
        rows = self.read(spec, months, version).toPandas()
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

    def _columns(self, spec: TableSpec) -> list[str]:
        return list(
            dict.fromkeys(
                [
                    *spec.column_names,
                    *(name for row in self._versions.get(spec.id, [[]])[-1] for name in row),
                ]
            )
        )

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


def _records(spec: TableSpec, rows: FakeFrame) -> list[Record]:
    """Rows as plain values, checked as Delta does: known columns only, nothing missing that is
    required.
    """
    types = {c.name: c.type for c in spec.columns}
    if (unknown := sorted(set(rows.columns) - set(types))) and not spec.has_source_columns:
        raise ValueError(f"{spec.id} has no column {', '.join(unknown)}")
    records = [
        {name: _plain(value, types.get(name)) for name, value in row.items()}
        for row in rows.toPandas().to_dict("records")
    ]
    for row in records:
        if absent := [
            c.name for c in spec.columns if not c.is_nullable and row.get(c.name) is None
        ]:
            raise ValueError(f"{spec.id}: {', '.join(absent)} must not be NULL")
    return records


def _typed(spec: TableSpec, records: list[Record], columns: Sequence[str]) -> pd.DataFrame:
    """Rows with the types that a Delta table's have in pandas: whole numbers that may be missing
    are floats.
    """
    rows = pd.DataFrame(copy.deepcopy(records), columns=list(columns))
    types = {"INT": "int32", "BIGINT": "int64", "DOUBLE": "float64", "BOOLEAN": "bool"}
    return rows.astype(
        {
            c.name: types[c.type]
            for c in spec.columns
            if c.type in types and (c.type == "DOUBLE" or not rows[c.name].hasnans)
        }
    )


def _plain(value: Any, type_: str | None) -> Any:
    if isinstance(value, list | tuple | np.ndarray | dict):
        return value
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


@dataclass
class FakeRun:
    """One run: what was logged, and how it ended."""

    name: str
    tags: dict[str, str]
    status: str = "RUNNING"
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)
    model: Any = None


class FakeRegistry:
    """Model versions of a FakeTracking's runs, and the alias."""

    def __init__(self, tracking: FakeTracking):
        self.versions: dict[int, FakeRun] = {}
        self.tags: dict[int, dict[str, str]] = {}  # by version
        self._tracking = tracking
        self._alias: int | None = None

    def register(self, run_id: str, tags: Mapping[str, str], description: str = "") -> int:
        run = self._tracking.run_of(run_id)
        _model_of(run)
        version = len(self.versions) + 1
        self._tracking.journal.note(f"register {version}")
        self.versions[version] = run
        self.tags[version] = dict(tags)
        return version

    def version_tags(self, version: int) -> Mapping[str, str]:
        self._tracking.check()
        return dict(self.tags[version])

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        self._tracking.check()
        self.tags[version] |= tags

    def load_version(self, version: int) -> Any:
        self._tracking.check()
        return _model_of(self.versions[version])

    def alias(self) -> int | None:
        self._tracking.check()
        return self._alias

    def set_alias(self, version: int) -> None:
        self._tracking.check()
        if version not in self.versions:
            raise KeyError(f"no version {version}")
        if self._alias != version:
            self._tracking.journal.note(f"alias {version}")
            self._alias = version


class FakeTracking:
    """Runs in memory, and their registry. ``unreachable`` makes every call fail as a
    server that is not there does.
    """

    def __init__(self, journal: Journal | None = None, unreachable: bool = False):
        self.journal = Journal() if journal is None else journal
        self.unreachable = unreachable
        self.runs: dict[str, FakeRun] = {}
        self.registry = FakeRegistry(self)

    def check(self) -> None:
        if self.unreachable:
            raise TrackingUnavailable(
                "MLflow's tracking server does not answer. Nothing was fitted and no table was"
                " changed."
            )

    def start(self, name: str, tags: Mapping[str, str]) -> str:
        self.check()
        run_id = f"run-{len(self.runs) + 1}"
        self.journal.note(f"start {name}")
        self.runs[run_id] = FakeRun(name, dict(tags))
        return run_id

    def log(self, run_id: str, content: RunContent) -> None:
        run = self.run_of(run_id)
        if changed := [
            key
            for key in content.parameters
            if run.parameters.get(key, content.parameters[key]) != content.parameters[key]
        ]:
            raise ValueError(f"parameters {', '.join(changed)} were logged with other values")
        run.parameters |= content.parameters
        run.metrics |= {
            key: float(value)
            for key, value in content.metrics.items()
            if value is not None and value == value
        }
        run.tags |= content.tags
        run.inputs += content.inputs
        run.artifacts |= {**content.pictures, **content.tables, **content.texts}
        run.model = copy.deepcopy(content.model) if content.model is not None else run.model

    def commit(self, run_id: str, tags: Mapping[str, str] | None = None) -> None:
        run = self.run_of(run_id)
        self.journal.note(f"commit {run.name}")
        run.tags |= {**(tags or {}), COMMITTED: "true"}
        run.status = "FINISHED"

    def fail(self, run_id: str) -> None:
        self.run_of(run_id).status = "FAILED"

    def run(self, run_id: str) -> StoredRun:
        run = self.run_of(run_id)
        parameters = {k: str(v) for k, v in run.parameters.items()}
        versions, digests = (
            {t.name: t.delta_version for t in run.inputs},
            {t.name: t.digest for t in run.inputs},
        )
        return StoredRun(run_id, parameters, run.tags, versions, digests)

    def end_killed(self, tags: Mapping[str, str]) -> list[str]:
        self.check()
        killed = [
            run_id
            for run_id, run in self.runs.items()
            if run.status == "RUNNING" and tags.items() <= run.tags.items()
        ]
        for run_id in killed:
            self.runs[run_id].status = "KILLED"
        return killed

    def load(self, run_id: str) -> Any:
        return _model_of(self.run_of(run_id))

    def url(self, run_id: str) -> str:
        self.check()
        return f"http://mlflow.invalid/runs/{run_id}"

    def run_of(self, run_id: str) -> FakeRun:
        """A run as it was logged."""
        self.check()
        return self.runs[run_id]


def _model_of(run: FakeRun) -> Any:
    if run.model is None:
        raise ValueError(f"run {run.name} logged no model")
    return copy.deepcopy(run.model)


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

    def lines(self, spark: object, source: Source, files: Sequence[OrderFile]) -> FakeFrame:
        return FakeFrame(
            {
                "_delivery_id": file.delivery_id,
                "_line_number": number,
                "_problem": None,
                "_raw": None,
                **line,
            }
            for file in files
            for number, line in enumerate(self.files[source.name][file.path] or (), 2)
        )
