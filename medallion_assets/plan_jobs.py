"""Plans in Dagster's interface: a job that applies one and a job that undoes one, whose launch form asks for its name.

What a plan is lies in medallion_assets/plans.py. A backfill or removal is carried out by the run of its asset, named in a tag.
"""

from collections.abc import Callable

import dagster as dg
from pydantic import Field

from medallion_assets import plans
from medallion_assets.plans import PLAN_TAG, Plan, Plans
from medallion_assets.policies import clear_refusals
from medallion_assets.table_asset import plans_of
from resources.settings import Settings


class PlanNamed(dg.Config):  # type: ignore[misc]
    """The launch form."""

    plan: str = Field(description="name of the plan, as `medallion plan ...` or a refused run told it")


def build_jobs(settings: Settings) -> list[dg.JobDefinition]:
    """apply_plan (restore and vacuum) and undo_plan."""

    def job(name: str, description: str, act: Callable[[Plans, Plan], Plan]) -> dg.JobDefinition:
        @dg.op(name=f"{name}_named", required_resource_keys={"lakehouse"})
        @clear_refusals
        def carry_out(context: dg.OpExecutionContext, config: PlanNamed) -> None:
            lakehouse = context.resources.lakehouse
            done = act(plans_of(context.run, lakehouse, settings), plans.find(lakehouse, config.plan))
            context.log.info(f"{done.plan_id} {done.state}: {done.table.id} is at version {done.version_after}")

        @dg.job(name=name, description=description, tags={"dagster/concurrency_key": "medallion"})
        def plan_job() -> None:
            carry_out()

        return plan_job

    backfills = f"A backfill or removal is carried out by launching its asset with the tag {PLAN_TAG}."
    return [
        job("apply_plan", f"Does what a stored plan shows, if the table has not moved since. {backfills}", lambda p, plan: p.apply(plan)),
        job("undo_plan", "Returns a table to its version before an applied plan.", lambda p, plan: p.undo(plan)),
    ]
