"""The one factory of table assets: read months -> pure transform -> write months -> result, with
metadata per month.

A month whose inputs, code and configuration are what its stored slice was made from is neither read
nor written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from medallion_assets import policies
from medallion_assets.partitions import add_months, month_partitions
from medallion_assets.plans import ACTOR_TAG, PLAN_TAG, TRIGGER_TAG, Permission, Plans
from medallion_assets.slices import (
    Outcome,
    TableRecipe,
    retry_on_conflict,
    version_of,
)
from medallion_assets.tables import RECORDS
from medallion_assets.work import Work
from resources.errors import Refused
from resources.lakehouse import (
    Lakehouse,
    MonthWritten,
    RemovalRefused,
    TableSpec,
)
from resources.settings import Settings

Plot = Callable[[Lakehouse, Sequence[int], Settings], Mapping[str, dg.MetadataValue]]

PEOPLE = ("person", "command_line")  # triggers of runs that a person asked for
SIMULATED = {"data": "simulated"}
# months before the asked ones that are looked at again: lines of a later month may complete them
REACH_BACK = 3


@dataclass(frozen=True)
class Request:
    """What a run was asked for: months of a table. ``context`` is that of its step."""

    context: dg.AssetExecutionContext
    spec: TableSpec
    months: list[int]


def asset_key(spec: TableSpec) -> dg.AssetKey:
    """Key of the asset of a table: layer and name."""
    return dg.AssetKey([spec.layer, spec.name])


def asset_options(
    spec: TableSpec, settings: Settings, lineage: Sequence[TableSpec] = ()
) -> dict[str, Any]:
    """Options that all assets of tables share: group, owner, partitions, schema, policies."""
    return monthly_options(settings, spec.layer, spec.owner) | {
        "key": asset_key(spec),
        "description": f"{spec.comment}\n\nGrain: {spec.grain}.",
        "code_version": spec.code_version,
        "kinds": {"delta", "spark"},
        "metadata": {
            "dagster/table_name": settings.table_name(spec.layer, spec.name),
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
    recipe: TableRecipe,
    settings: Settings,
    plot: Plot | None = None,
    deps: Sequence[dg.AssetKey] | None = None,
) -> dg.AssetsDefinition:
    """The asset of a table that a recipe makes. ``plot`` adds pictures; ``deps`` stands instead of
    the assets of its inputs.
    """
    spec = recipe.spec
    upstream = [i.spec for i in recipe.inputs if i.spec not in RECORDS]

    @dg.asset(
        **asset_options(spec, settings, upstream),
        deps=deps if deps is not None else [asset_key(s) for s in upstream],
    )
    @policies.retry_transient
    def _table(
        context: dg.AssetExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> dg.MaterializeResult:
        request = request_of(context, spec)
        asked = sorted(
            {
                *request.months,
                *_reached_back(lakehouse, spec, request.months),
                *([0] if recipe.with_no_month else []),
            }
        )
        work = work_of(context, lakehouse, settings)
        outcome = write_with_permission(
            request, work, lambda permission: recipe.run(work, asked, permission)
        )
        pictures = plot(lakehouse, request.months, settings) if plot else {}
        return report(request, outcome, pictures)

    return _table


def _reached_back(lakehouse: Lakehouse, spec: TableSpec, requested: Sequence[int]) -> list[int]:
    """Stored months just before the requested ones: lines of a later month may have completed
    them.
    """
    stored = lakehouse.ledger.slices(spec)
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


def request_of(context: dg.AssetExecutionContext, spec: TableSpec) -> Request:
    """The months of a table that a run of assets was asked for."""
    return Request(context, spec, [int(key) for key in context.partition_keys])


def work_of(context: dg.AssetExecutionContext, lakehouse: Lakehouse, settings: Settings) -> Work:
    """The tools of a run of assets."""
    tags = run_tags(context, settings)
    return Work(settings, lakehouse, context.run.run_id, context.log.info, tags)


def write_with_permission(
    request: Request, work: Work, write: Callable[[Permission], Outcome], writer: str = ""
) -> Outcome:
    """Let a run write what its tags permit, and record the plan that it carried out.

    Raises Refused, with the plan that is needed, before anything destructive for which no plan was
    named.
    """
    run = request.context.run
    plans = plans_of(run, work.lakehouse, work.settings)
    permission = plans.permission(run.tags, request.spec, request.months, writer)
    try:
        outcome = retry_on_conflict(lambda: write(permission))
    except RemovalRefused as refused:
        plan = plans.backfill(request.spec, request.months, writer, "removal")
        hint = (
            f"`medallion apply {plan.plan_id}`, or this run again with the tag {PLAN_TAG}:"
            f" {plan.plan_id}"
        )
        raise Refused(f"{refused} If the removal is meant: {hint}.") from refused
    if permission.plan:
        plans.done(permission.plan, "applied")
    return outcome


@contextmanager
def permission_to_supersede(request: Request, work: Work) -> Iterator[Callable[[list[int]], None]]:
    """A function to ask before published months are superseded; the plan that lets it is recorded.

    A sensor's run, and a person's of one month, need no plan.
    """
    tags = request.context.run.tags
    plans = plans_of(request.context.run, work.lakehouse, work.settings)
    used: list[Permission] = []

    def allow(months: list[int]) -> None:
        if months and tags.get(TRIGGER_TAG, "person") in PEOPLE:
            used.append(plans.permission(tags, request.spec, months, needs_plan=True))

    yield allow
    for permission in used:
        if permission.plan:
            plans.done(permission.plan, "applied")


def report(
    request: Request,
    outcome: Outcome,
    extra: Mapping[str, Any] | None = None,
    by_month: Mapping[int, Mapping[str, Any]] | None = None,
    key: dg.AssetKey | None = None,
) -> dg.MaterializeResult:
    """Metadata for every month of the run; months made beyond the requested ones become
    materializations of their own.

    ``by_month`` adds metadata to months, ``key`` names the asset where it is not the table's.
    """
    context, spec = request.context, request.spec
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
        if month in request.months:
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
        outcome.slices[month].data_version
        for month in sorted(outcome.slices)
        if month in request.months
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
