"""The one factory of table assets: read months -> pure transform -> write months -> result, with
metadata per month.

A month whose inputs, code and configuration are what its stored slice was made from is neither read
nor written.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import dagster as dg
import pandas as pd
from pyspark.sql import DataFrame, SparkSession

from medallion_assets import policies, tables
from medallion_assets.complete import complete_months_of
from medallion_assets.partitions import add_months, month_partitions, month_range
from medallion_assets.plans import ACTOR_TAG, NOTHING, PLAN_TAG, TRIGGER_TAG, Permission, Plans
from resources.errors import Refused
from resources.lakehouse import (
    ConcurrentWrite,
    Lakehouse,
    MonthWritten,
    RemovalRefused,
    Slice,
    TableSpec,
)
from resources.settings import Settings

Made = TypeVar("Made")

ATTEMPTS_ON_CONFLICT = 3
PEOPLE = ("person", "command_line")  # triggers of runs that a person asked for
SIMULATED = {"data": "simulated"}
# months before the asked ones that are looked at again: lines of a later month may complete them
REACH_BACK = 3


@dataclass(frozen=True)
class Input:
    """A table that an asset reads, which of its months for a month of the asset (none: the table as
    a whole), of which writers.

    Slices of an ``is_open`` input that were not there when a month was made do not make it stale: a
    younger origin that is fitted for a later decision leaves the evidence of the earlier one as it
    was decided upon.
    """

    spec: TableSpec
    months: Callable[[int, Settings], Sequence[int]] | None = None
    writers: tuple[str, ...] = ("",)
    is_open: bool = False

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
        """The month and so many before it."""
        return lambda month, settings: month_range(
            max(settings.first_month, add_months(month, -months_back)), month
        )


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
        settings: Settings,
        inputs: Sequence[Input],
        months: Sequence[int],
        deliveries: pd.DataFrame,
        slices: Mapping[str, Sequence[Slice]],
        versions: Mapping[str, int],
    ):
        self._versions = versions
        self._lakehouse, self._settings = lakehouse, settings
        self._inputs = {i.spec.id: i for i in inputs}
        self._months = months
        self._slices = slices
        self.deliveries = deliveries

    def __call__(self, spec: TableSpec) -> DataFrame:
        """A declared input; KeyError for another table."""
        declared = self._inputs[spec.id]
        months = None
        if declared.months is not None:
            months = sorted(
                {
                    month
                    for wanted in self._months
                    for month in declared.months(wanted, self._settings)
                }
            )
        return self._lakehouse.read(
            spec, months, version if (version := self._versions[spec.id]) >= 0 else None
        )

    def stored(self, spec: TableSpec) -> set[int]:
        """Months that a declared input holds."""
        return {stored.yyyymm for stored in self._slices[spec.id]}

    def shared(
        self, key: tuple[object, ...], build: Callable[[], DataFrame], is_first: bool
    ) -> DataFrame:
        """A frame that transforms of one run share, held: ``is_first`` makes it for all, others
        take it where it is there, or make their own.
        """
        name = version_of(key, sorted(self._versions.items()))
        if is_first:
            return self._lakehouse.kept((name,), build)
        held = self._lakehouse.held((name,))
        return self._lakehouse.kept((name, uuid.uuid4().hex), build) if held is None else held

    def external(self, table: str) -> DataFrame:
        """A table that is not ours."""
        return self._lakehouse.read_external(table)

    @property
    def spark(self) -> SparkSession:
        return self._lakehouse.spark


Transform = Callable[[Reader, Months, Settings], "DataFrame"]


def asset_key(spec: TableSpec) -> dg.AssetKey:
    """Key of the asset of a table: layer and name."""
    return dg.AssetKey([spec.layer, spec.name])


def version_of(*parts: object) -> str:
    """A short hash of values that have a stable text."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def asset_options(
    spec: TableSpec, settings: Settings, lakehouse_name: str, lineage: Sequence[TableSpec] = ()
) -> dict[str, Any]:
    """Options that all assets of tables share: group, owner, partitions, schema, policies."""
    return monthly_options(settings, spec.layer, spec.owner) | {
        "key": asset_key(spec),
        "description": f"{spec.comment}\n\nGrain: {spec.grain}.",
        "code_version": spec.code_version,
        "kinds": {"delta", "spark"},
        "metadata": {
            "dagster/table_name": lakehouse_name,
            "dagster/column_schema": column_schema(spec),
            **({"dagster/column_lineage": column_lineage(spec, lineage)} if lineage else {}),
        },
    }


def monthly_options(settings: Settings, layer: str, owner: str) -> dict[str, Any]:
    """Options of everything that is made by month, table or not: group, owner, partitions,
    policies, tags.
    """
    return {
        "group_name": layer,
        "owners": [owner],
        "partitions_def": month_partitions(settings.first_month),
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "freshness_policy": policies.monthly_freshness(layer),
        "tags": (
            {"medallion/layer": layer}
            | ({"medallion/data": "simulated"} if settings.is_simulated else {})
        ),
    }


def column_schema(spec: TableSpec) -> dg.TableSchema:
    """The column schema shown in the UI."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                c.name,
                c.type.lower(),
                c.comment,
                dg.TableColumnConstraints(nullable=c.is_nullable, unique=spec.key == (c.name,)),
            )
            for c in spec.columns
        ],
        constraints=dg.TableConstraints(
            other=[f"key: {', '.join(spec.key)}", *(f"{c.name}: {c.sql}" for c in spec.constraints)]
        ),
    )


def column_lineage(spec: TableSpec, upstream: Sequence[TableSpec]) -> dg.TableColumnLineage:
    """Columns that keep their name from a table upstream, with where they come from."""
    found: dict[str, list[dg.TableColumnDep]] = {}
    for table in upstream:
        for name in table.column_names:
            if name in spec.column_names:
                found.setdefault(name, []).append(dg.TableColumnDep(asset_key(table), name))
    return dg.TableColumnLineage(found)


def table_asset(
    spec: TableSpec,
    settings: Settings,
    lakehouse_name: str,
    inputs: Sequence[Input],
    transform: Transform,
    configuration: Mapping[str, Any],
    only_complete: bool = False,
    with_no_month: bool = False,
    is_whole: bool = False,
    outside_version: Callable[[Settings], object] = lambda settings: None,
    plot: (
        Callable[[Lakehouse, Sequence[int], Settings], Mapping[str, dg.MetadataValue]] | None
    ) = None,
    deps: Sequence[dg.AssetKey] | None = None,
) -> dg.AssetsDefinition:
    """The asset of a table that is a pure function of other tables.

    ``configuration`` holds the settings that the transform depends on: a change makes its months
    stale. ``only_complete`` leaves slices of partial months empty; ``with_no_month`` also makes
    slice 0, of lines without a month; ``is_whole`` makes every month of the table when one is
    stale; ``outside_version`` identifies what is read from outside; ``plot`` adds pictures.
    """

    @dg.asset(
        **asset_options(spec, settings, lakehouse_name, [i.spec for i in inputs]),
        deps=deps if deps is not None else [asset_key(i.spec) for i in inputs],
    )
    @policies.retry_transient
    def _table(
        context: dg.AssetExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> dg.MaterializeResult:
        requested = [int(key) for key in context.partition_keys]
        asked = sorted(
            {
                *requested,
                *_reached_back(lakehouse, spec, requested),
                *([0] if with_no_month else []),
            }
        )
        build = TableBuild(
            spec, inputs, transform, configuration, only_complete, is_whole, outside_version
        )
        outcome = permitted(
            context,
            lakehouse,
            settings,
            spec,
            requested,
            lambda permission: build.run(
                lakehouse, settings, asked, context.run.run_id, context.log.info, permission
            ),
        )
        pictures = plot(lakehouse, requested, settings) if plot else {}
        return report(context, spec, requested, outcome, pictures)

    return _table


@dataclass(frozen=True)
class Outcome:
    """What an examination of months did: what is stored for each now, what was written, and which
    were left as they were.
    """

    slices: Mapping[int, Slice]
    written: Mapping[int, MonthWritten]
    seconds: float

    @property
    def unchanged(self) -> list[int]:
        return sorted(set(self.slices) - {m for m, w in self.written.items() if w.is_changed})


@dataclass(frozen=True)
class TableBuild:
    """Reading, transforming and writing of one table, apart from Dagster."""

    spec: TableSpec
    inputs: Sequence[Input]
    transform: Transform
    configuration: Mapping[str, Any]
    only_complete: bool = False
    is_whole: bool = False
    outside_version: Callable[[Settings], object] = lambda settings: None

    def run(
        self,
        lakehouse: Lakehouse,
        settings: Settings,
        asked: Sequence[int],
        run_id: str,
        log: Callable[[str], None],
        permission: Permission = NOTHING,
    ) -> Outcome:
        """Bring the slices of the months up to date; those whose inputs did not change are not
        touched, unless that is forced.
        """
        started = time.monotonic()
        deliveries = lakehouse.rows(tables.DELIVERIES)
        complete = frozenset(complete_months_of(deliveries, settings))
        stored = lakehouse.slices(self.spec)
        upstream = {
            i.spec.id: [
                s for writer in i.writers for s in lakehouse.slices(i.spec, writer).values()
            ]
            for i in self.inputs
        }
        if self.is_whole:
            asked = month_range(
                settings.first_month,
                max({*asked, *stored, *(s.yyyymm for slices in upstream.values() for s in slices)}),
            )
        versions = {
            month: self.input_version(upstream, settings, month, month in complete)
            for month in asked
        }
        stale = [
            month
            for month in asked
            if permission.is_forced
            or month not in stored
            or stored[month].input_version
            != self.input_version(
                upstream, settings, month, month in complete, stored[month].details.get("seen")
            )
        ]
        if self.is_whole and stale:
            stale = list(asked)
        written: Mapping[int, MonthWritten] = {}
        slices = {month: stored[month] for month in asked if month not in stale}
        if stale:
            log(
                f"{self.spec.id}: {len(stale)} of {len(asked)} months to make ({stale[0]} to"
                f" {stale[-1]})"
            )
            made_from = (
                [month for month in stale if month in complete] if self.only_complete else stale
            )
            # After the ledger: what somebody writes in between is read, and counts as not read, so
            # that it is due again.
            pins = {i.spec.id: lakehouse.version(i.spec) for i in self.inputs}
            reader = Reader(lakehouse, settings, self.inputs, made_from, deliveries, upstream, pins)
            details = {"inputs": pins}
            rows = (
                self.transform(reader, Months(made_from, complete), settings)
                if made_from
                else lakehouse.create_frame(self.spec, [])
            )
            result = lakehouse.merge(self.spec, rows, stale, may_remove=permission.may_remove)
            written = result.months
            made = [
                Slice(
                    month,
                    "",
                    w.data_version,
                    versions[month],
                    w.row_count,
                    result.delta_version,
                    {
                        **details,
                        "is_complete": month in complete,
                        "seen": self._seen(upstream, settings, month),
                    },
                )
                for month, w in written.items()
            ]
            lakehouse.record(self.spec, made, run_id)
            slices |= {s.yyyymm: s for s in made}
        return Outcome(slices, written, time.monotonic() - started)

    def input_version(
        self,
        upstream: Mapping[str, Sequence[Slice]],
        settings: Settings,
        month: int,
        is_complete: bool,
        seen: Mapping[str, Sequence[Sequence[Any]]] | None = None,
    ) -> str:
        """Hash of everything a month's slice is made from; of open inputs only the slices in
        ``seen``, where that is given.
        """
        read = [
            [
                i.spec.id,
                sorted(
                    [s.yyyymm, s.writer, s.data_version]
                    for s in upstream[i.spec.id]
                    if self._is_read(i, s.yyyymm, month, settings)
                    and (seen is None or not i.is_open or [s.yyyymm, s.writer] in seen[i.spec.id])
                ),
            ]
            for i in self.inputs
        ]
        return version_of(
            self.spec.code_version,
            self.configuration,
            is_complete,
            self.outside_version(settings),
            read,
        )

    def _seen(
        self, upstream: Mapping[str, Sequence[Slice]], settings: Settings, month: int
    ) -> dict[str, list[list[Any]]]:
        """Month and writer of the slices of open inputs that a month is made from."""
        return {
            i.spec.id: [
                [s.yyyymm, s.writer]
                for s in upstream[i.spec.id]
                if self._is_read(i, s.yyyymm, month, settings)
            ]
            for i in self.inputs
            if i.is_open
        }

    def _is_read(self, table: Input, candidate: int, month: int, settings: Settings) -> bool:
        return table.months is None or candidate in table.months(month, settings)


def _reached_back(lakehouse: Lakehouse, spec: TableSpec, requested: Sequence[int]) -> list[int]:
    """Stored months just before the requested ones: lines of a later month may have completed
    them.
    """
    stored = lakehouse.slices(spec)
    before = {add_months(month, -back) for month in requested for back in range(1, REACH_BACK + 1)}
    return [
        month
        for month in before
        if month in stored and not stored[month].details.get("is_complete", True)
    ]


def run_tags(context: dg.AssetExecutionContext, settings: Settings) -> dict[str, str]:
    """Tags of every MLflow run: what triggered it, and that the data are simulated where they
    are.
    """
    trigger = context.run.tags.get(TRIGGER_TAG) or (
        "schedule" if "dagster/schedule_name" in context.run.tags else "person"
    )
    evidence = {"evidence": found} if (found := context.run.tags.get("medallion/evidence")) else {}
    return {"trigger": trigger, **evidence, **(SIMULATED if settings.is_simulated else {})}


def plans_of(run: dg.DagsterRun, lakehouse: Lakehouse, settings: Settings) -> Plans:
    """Plans made and carried out by a run, in the name of who asked for it, or else of what
    triggered it.
    """
    actor = run.tags.get(ACTOR_TAG) or run.tags.get(TRIGGER_TAG, "person")
    return Plans(lakehouse, actor, settings.retention.reproducible_months, run.run_id)


def permitted(
    context: dg.AssetExecutionContext,
    lakehouse: Lakehouse,
    settings: Settings,
    spec: TableSpec,
    requested: Sequence[int],
    write: Callable[[Permission], Outcome],
    writer: str = "",
) -> Outcome:
    """Let a run write what its tags permit, and record the plan that it carried out.

    Raises Refused, with the plan that is needed, before anything destructive that no plan was named
    for.
    """
    plans = plans_of(context.run, lakehouse, settings)
    permission = plans.permission(context.run.tags, spec, requested, writer)
    try:
        outcome = retry_on_conflict(lambda: write(permission))
    except RemovalRefused as refused:
        plan = plans.backfill(spec, requested, writer, "removal")
        hint = (
            f"`medallion apply {plan.plan_id}`, or this run again with the tag {PLAN_TAG}:"
            f" {plan.plan_id}"
        )
        raise Refused(f"{refused} If the removal is meant: {hint}.") from refused
    if permission.plan:
        plans.done(permission.plan, "applied")
    return outcome


@contextmanager
def superseding(
    context: dg.AssetExecutionContext, lakehouse: Lakehouse, settings: Settings, spec: TableSpec
) -> Iterator[Callable[[list[int]], None]]:
    """What a run asks before it supersedes published months, and the record of the plan that let
    it.

    A sensor's run, and a person's of one month, need no plan.
    """
    plans = plans_of(context.run, lakehouse, settings)
    used: list[Permission] = []

    def allow(months: list[int]) -> None:
        if months and context.run.tags.get(TRIGGER_TAG, "person") in PEOPLE:
            used.append(plans.permission(context.run.tags, spec, months, needs_plan=True))

    yield allow
    for permission in used:
        if permission.plan:
            plans.done(permission.plan, "applied")


def retry_on_conflict(attempt: Callable[[], Made]) -> Made:
    """Read, transform and write again when another writer was faster; three times at most."""
    for remaining in reversed(range(ATTEMPTS_ON_CONFLICT)):
        try:
            return attempt()
        except ConcurrentWrite:
            if not remaining:
                raise
    raise AssertionError("unreachable")


def report(
    context: dg.AssetExecutionContext,
    spec: TableSpec,
    requested: Sequence[int],
    outcome: Outcome,
    extra: Mapping[str, Any] | None = None,
    by_month: Mapping[int, Mapping[str, Any]] | None = None,
    key: dg.AssetKey | None = None,
) -> dg.MaterializeResult:
    """Metadata for every month of the run; months made beyond the requested ones become
    materializations of their own.

    ``by_month`` adds metadata to months, ``key`` names the asset where it is not the table's.
    """
    for month, stored in outcome.slices.items():
        written = outcome.written.get(month, MonthWritten())
        metadata = {
            "dagster/partition_row_count": stored.row_count,
            "data_version": stored.data_version,
            "delta_version": stored.delta_version,
            "inserted": written.inserted,
            "updated": written.updated,
            "deleted": written.deleted,
            "result": "written" if written.is_changed else "unchanged",
            **(by_month or {}).get(month, {}),
        }
        if month in requested:
            context.add_asset_metadata(metadata, partition_key=str(month))
        elif month and written.is_changed:
            context.log_event(
                dg.AssetMaterialization(
                    key or asset_key(spec), partition=str(month), metadata=metadata
                )
            )
    changed = sorted(m for m, w in outcome.written.items() if w.is_changed)
    context.log.info(
        f"{spec.id}: {_listed(changed) or 'no month'} written,"
        f" {_listed(outcome.unchanged) or 'none'} unchanged, {outcome.seconds:.1f} s"
    )
    versions = [
        outcome.slices[month].data_version for month in sorted(outcome.slices) if month in requested
    ]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(versions[0] if len(versions) == 1 else version_of(versions)),
        metadata={
            "months_written": len(changed),
            "seconds": round(outcome.seconds, 2),
            **(extra or {}),
        },
    )


def _listed(months: Sequence[int]) -> str:
    return (
        f"{len(months)} months ({months[0]} to {months[-1]})"
        if len(months) > 2
        else ", ".join(map(str, months))
    )


def recorded(stored: Slice, **details: Any) -> Slice:
    """A slice with more details for the ledger."""
    return replace(stored, details={**stored.details, **details})
