"""Slices of tables: is a month already made from this? If not: read, transform, write, record.

Nothing here knows Dagster; table_asset.py is its face there.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import pandas as pd
from pyspark.sql import DataFrame, SparkSession

from medallion_assets import tables
from medallion_assets.complete import complete_months_of
from medallion_assets.deliveries import standing
from medallion_assets.partitions import add_months, month_range
from medallion_assets.plans import NOTHING, Permission, may_lose_rows, plans_behind
from medallion_assets.work import Work
from resources.lakehouse import (
    ConcurrentWrite,
    Lakehouse,
    MonthWritten,
    Slice,
    TableSpec,
)
from resources.settings import Settings

Made = TypeVar("Made")

ATTEMPTS_ON_CONFLICT = 3


@dataclass(frozen=True)
class Input:
    """An input table, the months of it that one month of the asset needs (None: the whole table),
    and the writers whose slices are read.

    A slice added to an ``is_open`` input after a month was made does not make that month stale:
    fitting a newer origin for a later decision must not change the evidence of an earlier one.
    ``slices`` gives the slices of a table whose own rows tell them, not the ledger; a month that is
    made from none of these is made as if the input were not there.
    """

    spec: TableSpec
    months: Callable[[int, Settings], Sequence[int]] | None = None
    writers: tuple[str, ...] = ("",)
    is_open: bool = False
    slices: Callable[[Lakehouse], list[Slice]] | None = None

    def stored(self, lakehouse: Lakehouse) -> list[Slice]:
        """The slices as they stand."""
        if self.slices:
            return self.slices(lakehouse)
        return [
            s
            for writer in self.writers
            for s in lakehouse.ledger.slices(self.spec, writer).values()
        ]

    @staticmethod
    def same_month(month: int, settings: Settings) -> list[int]:
        """The month itself."""
        return [month]

    @staticmethod
    def up_to(month: int, settings: Settings) -> list[int]:
        """All months up to the month."""
        return month_range(settings.first_month, month)

    @staticmethod
    def through(months_back: int) -> Callable[[int, Settings], list[int]]:
        """The month and the given number of months before it."""
        return lambda month, settings: month_range(
            max(settings.first_month, add_months(month, -months_back)), month
        )


@dataclass(frozen=True)
class Upstream:
    """The inputs of a table as they stand when its months are examined: their slices by table, the
    register of deliveries, complete months, and ``outside``, which stands for what the lakehouse
    does not hold.
    """

    settings: Settings
    inputs: Sequence[Input]
    slices: Mapping[str, Sequence[Slice]]
    deliveries: pd.DataFrame
    complete: frozenset[int]
    outside: object

    def read_by(self, month: int, table: Input) -> list[Slice]:
        """The slices of an input that a month is made from."""
        if table.months is None:
            return list(self.slices[table.spec.id])
        wanted = set(table.months(month, self.settings))
        return [s for s in self.slices[table.spec.id] if s.yyyymm in wanted]

    def plans_behind(self, month: int) -> list[str]:
        """Plans that let something lose rows from which a month is made."""
        return plans_behind(s for i in self.inputs for s in self.read_by(month, i))

    def seen(self, month: int) -> dict[str, list[list[Any]]]:
        """Month and writer of the slices of open inputs that a month is made from."""
        found = {}
        for i in (i for i in self.inputs if i.is_open):
            found[i.spec.id] = [[s.yyyymm, s.writer] for s in self.read_by(month, i)]
        return found


class Months(NamedTuple):
    """What a transform may know of months: those to make, and those that are complete."""

    wanted: list[int]
    complete: frozenset[int]


class Reader:
    """What a transform may read: the declared inputs at the versions that are recorded, cut to the
    months it needs, the register of deliveries, adopted tables.
    """

    def __init__(
        self,
        lakehouse: Lakehouse,
        upstream: Upstream,
        months: Sequence[int],
        versions: Mapping[str, int],
    ) -> None:
        self._versions = versions
        self._lakehouse, self._settings = lakehouse, upstream.settings
        self._inputs = {i.spec.id: i for i in upstream.inputs}
        self._months = months
        self._slices = upstream.slices
        self.deliveries = upstream.deliveries

    def __call__(self, spec: TableSpec, only: Collection[int] | None = None) -> DataFrame:
        """A declared input, of ``only`` these of its months; KeyError for another table."""
        declared = self._inputs[spec.id]
        months = None
        if declared.months is not None:
            months = sorted(
                {
                    month
                    for wanted in self._months
                    for month in declared.months(wanted, self._settings)
                    if only is None or month in only
                }
            )
        return self._lakehouse.read(
            spec, months, version if (version := self._versions[spec.id]) >= 0 else None
        )

    def as_it_stands(self, spec: TableSpec) -> DataFrame:
        """The months to make as a table holds them now, for what is to stay in them. It is no
        input: no month is due again because of it.
        """
        return self._lakehouse.read(spec, self._months)

    def stored(self, spec: TableSpec) -> set[int]:
        """Months of which a declared input holds rows."""
        return {stored.yyyymm for stored in self._slices[spec.id] if stored.row_count}

    def shared(
        self, key: tuple[object, ...], build: Callable[[], DataFrame], is_first: bool
    ) -> DataFrame:
        """A frame that transforms of one run share, held: ``is_first`` makes it for all, others
        take it where it is there, or make their own.
        """
        name = version_of(key, sorted(self._versions.items()))
        if is_first:
            return self._lakehouse.kept.frame((name,), build)
        held = self._lakehouse.kept.held((name,))
        return self._lakehouse.kept.frame((name, uuid.uuid4().hex), build) if held is None else held

    def held(self, rows: DataFrame) -> DataFrame:
        """The rows, worked out once, while they are among the newest that the run holds."""
        return self._lakehouse.kept.frame((uuid.uuid4().hex,), lambda: rows)

    def frame(self, spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> DataFrame:
        """A frame with a table's columns from a few rows on the driver."""
        return self._lakehouse.create_frame(spec, rows)

    def external(self, table: str) -> DataFrame:
        """A table that is not ours."""
        return self._lakehouse.read_external(table)

    @property
    def spark(self) -> SparkSession:
        return self._lakehouse.spark


Transform = Callable[[Reader, Months, Settings], "DataFrame"]


def version_of(*parts: object) -> str:
    """A short hash of values that have a stable text."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def registered(lakehouse: Lakehouse) -> pd.DataFrame:
    """The register of deliveries of a lakehouse as it stands."""
    return standing(lakehouse.rows(tables.DELIVERIES))


@dataclass(frozen=True)
class Outcome:
    """The result of bringing months up to date: the slice each month has now, what was written, and
    which months stayed as they were.
    """

    slices: Mapping[int, Slice]
    written: Mapping[int, MonthWritten]
    seconds: float

    @property
    def unchanged(self) -> list[int]:
        return sorted(set(self.slices) - {m for m, w in self.written.items() if w.is_changed})


class Slices:
    """The months of one table, and of one writer, in one run: which are current, which were made.

    Ask ``is_current``, then ``keep`` the slice as it is, or write it and ``record`` it.
    """

    def __init__(self, work: Work, spec: TableSpec, writer: str = "") -> None:
        self._work, self._spec, self._writer = work, spec, writer
        self._started = time.monotonic()
        self._now: dict[int, Slice] = {}
        self._written: dict[int, MonthWritten] = {}
        self.stored = work.lakehouse.ledger.slices(spec, writer)

    def is_current(self, month: int, input_version: str) -> bool:
        """Whether the stored slice of a month was made from this."""
        return month in self.stored and self.stored[month].input_version == input_version

    def details(self, month: int) -> Mapping[str, Any]:
        """What the ledger adds of a stored month; empty where none is stored."""
        return self.stored[month].details if month in self.stored else {}

    def keep(self, month: int) -> None:
        """Leave a stored month as it is."""
        self._now[month] = self.stored[month]

    def record(
        self,
        written: Mapping[int, MonthWritten],
        input_versions: Mapping[int, str],
        delta_version: int,
        details: Mapping[int, Mapping[str, Any]],
    ) -> None:
        """Tell the ledger what written months were made from: after their write, so that a process
        that dies in between leaves them due.
        """
        made = self.note(written, input_versions, delta_version, details)
        self._work.lakehouse.ledger.record(self._spec, made, self._work.run_id)

    def note(
        self,
        written: Mapping[int, MonthWritten],
        input_versions: Mapping[int, str],
        delta_version: int,
        details: Mapping[int, Mapping[str, Any]],
    ) -> list[Slice]:
        """Count months as made, without the ledger: of tables whose own rows say it."""
        made = [
            Slice(
                month,
                self._writer,
                result.data_version,
                input_versions[month],
                result.row_count,
                delta_version,
                details.get(month, {}),
            )
            for month, result in written.items()
        ]
        self._now |= {stored.yyyymm: stored for stored in made}
        self._written |= written
        return made

    def outcome(self) -> Outcome:
        """What was examined so far, and the seconds since the beginning."""
        return Outcome(self._now, self._written, time.monotonic() - self._started)


@dataclass(frozen=True)
class TableRecipe:
    """How a table is made that is a pure function of other tables, apart from Dagster.

    ``configuration`` holds the settings that the transform depends on: a change makes its months
    stale. ``only_complete`` leaves slices of partial months empty; ``with_no_month`` also makes
    slice 0, of lines without a month; ``is_whole`` makes every month of the table when one is
    stale; ``outside_version`` identifies what is read from outside.
    """

    spec: TableSpec
    inputs: Sequence[Input]
    transform: Transform
    configuration: Mapping[str, Any]
    only_complete: bool = False
    with_no_month: bool = False
    is_whole: bool = False
    outside_version: Callable[[Settings], object] = lambda settings: None

    def run(
        self,
        work: Work,
        asked: Sequence[int],
        permission: Permission = NOTHING,
    ) -> Outcome:
        """Bring the slices of the months up to date.

        Months whose inputs did not change are not touched, unless ``permission`` forces that.
        """
        settings, lakehouse = work.settings, work.lakehouse
        slices = Slices(work, self.spec)
        upstream = self._upstream(work)
        complete = upstream.complete
        if self.is_whole:
            asked = month_range(
                settings.first_month,
                max({*asked, *slices.stored, *_months_of(upstream.slices)}),
            )
        versions = {month: self.input_version(upstream, month) for month in asked}
        stale = [
            month
            for month in asked
            if permission.is_forced
            or not slices.is_current(
                month, self.input_version(upstream, month, slices.details(month).get("seen"))
            )
        ]
        if self.is_whole and stale:
            stale = list(asked)
        for month in asked:
            if month not in stale:
                slices.keep(month)
        if stale:
            work.log(
                f"{self.spec.id}: {len(stale)} of {len(asked)} months to make ({stale[0]} to"
                f" {stale[-1]})"
            )
            made_from = (
                [month for month in stale if month in complete] if self.only_complete else stale
            )
            # After the ledger: what somebody writes in between is read, and counts as not read, so
            # that it is due again.
            pins = {i.spec.id: lakehouse.version(i.spec) for i in self.inputs}
            reader = Reader(lakehouse, upstream, made_from, pins)
            rows = (
                self.transform(reader, Months(made_from, complete), settings)
                if made_from
                else lakehouse.create_frame(self.spec, [])
            )
            behind = {month: upstream.plans_behind(month) for month in stale}
            may_remove = (
                permission.may_remove
                or self.spec.may_shrink
                or may_lose_rows(slices.stored, behind)
            )
            result = lakehouse.merge(self.spec, rows, stale, may_remove=may_remove)
            details = {
                month: {
                    "inputs": pins,
                    "is_complete": month in complete,
                    "seen": upstream.seen(month),
                    **permission.noted(behind[month]),
                }
                for month in result.months
            }
            slices.record(result.months, versions, result.delta_version, details)
        return slices.outcome()

    def _upstream(self, work: Work) -> Upstream:
        """The inputs as they stand now."""
        deliveries = registered(work.lakehouse)
        return Upstream(
            work.settings,
            self.inputs,
            {i.spec.id: i.stored(work.lakehouse) for i in self.inputs},
            deliveries,
            frozenset(complete_months_of(deliveries, work.settings)),
            self.outside_version(work.settings),
        )

    def input_version(
        self,
        upstream: Upstream,
        month: int,
        seen: Mapping[str, Sequence[Sequence[Any]]] | None = None,
    ) -> str:
        """Hash of everything a month's slice is made from. If ``seen`` is given, open inputs count
        only the slices it lists.
        """
        read = []
        for i in self.inputs:
            slices = upstream.read_by(month, i)
            if seen is not None and i.is_open:
                slices = [s for s in slices if [s.yyyymm, s.writer] in seen[i.spec.id]]
            if slices or not i.slices:
                found = sorted([s.yyyymm, s.writer, s.data_version] for s in slices)
                read.append([i.spec.id, found])
        return version_of(
            self.spec.code_version,
            self.configuration,
            month in upstream.complete,
            upstream.outside,
            read,
        )


def _months_of(slices: Mapping[str, Sequence[Slice]]) -> set[int]:
    return {stored.yyyymm for by_table in slices.values() for stored in by_table}


def retry_on_conflict(attempt: Callable[[], Made]) -> Made:
    """Read, transform and write again when another writer was faster; three times at most."""
    for remaining in reversed(range(ATTEMPTS_ON_CONFLICT)):
        try:
            return attempt()
        except ConcurrentWrite:
            if not remaining:
                raise
    raise AssertionError("unreachable")


def with_details(stored: Slice, **details: Any) -> Slice:
    """A slice with more details for the ledger."""
    return replace(stored, details={**stored.details, **details})
