"""The jobs that sensors and people start, and those that apply and undo plans.

Plans in Dagster's interface: a job that applies one and a job that undoes one, whose launch form
asks for its name.

What a plan is lies in medallion_assets/plans.py. A backfill or removal is carried out by the run of
its asset, named in a tag.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from medallion_assets import plans, tables
from medallion_assets.plans import PLAN_TAG, Plan, Plans
from medallion_assets.policies import clear_refusals
from medallion_assets.report.assets import REPORT_KEY
from medallion_assets.table_asset import asset_key, plans_of
from resources.settings import Settings


def build_jobs(
    model_keys: Mapping[str, dg.AssetKey], given: Collection[str] = ()
) -> dict[str, Any]:
    """The jobs that sensors and people start.

    register_deliveries takes in what landed; monthly_data brings months from bronze to features and
    their monitoring; monthly_forecast does that, publishes, and decides whether to train again;
    retraining fits, compares, decides and publishes. ``given``: forecasts made elsewhere, which are
    asked in every month that is published, since they may serve.
    """

    def keys(*specs: Any) -> dg.AssetSelection:
        return dg.AssetSelection.assets(*map(asset_key, specs))

    data = keys(
        tables.BRONZE_SALES_ORDERS,
        tables.SILVER_SALES_ORDERS,
        tables.REJECTED_LINES,
        tables.PARTS,
        tables.MONTHLY_DEMAND,
        tables.DEMAND_FEATURES,
        tables.DATA_QUALITY,
        tables.FORECAST_ACCURACY,
        tables.DEMAND_ANOMALY,
        tables.DEMAND_DRIFT,
    )
    read = keys(tables.GIVEN_FORECAST) if given else keys()
    asked = read | dg.AssetSelection.assets(*(model_keys[name] for name in given))
    # What is held against a published forecast follows demand, and is made again where one is
    # published.
    served = keys(
        tables.DEMAND_FORECAST,
        tables.DEMAND_FORECAST_TOTAL,
        tables.FORECAST_CHANGE,
        tables.FORECAST_ACCURACY,
        tables.DEMAND_ANOMALY,
        tables.DEMAND_DRIFT,
    ) | dg.AssetSelection.assets(REPORT_KEY)
    decided = keys(tables.RETRAINING_DECISION)
    training = dg.AssetSelection.assets(*model_keys.values()) | keys(
        tables.ZOO_RESULT, tables.MODEL_EVALUATION, tables.CHAMPION
    )
    one_at_a_time = {"dagster/concurrency_key": "medallion"}
    jobs = {
        "register_deliveries": (
            keys(tables.DELIVERIES),
            "Registers files that landed and tells which months they touch.",
        ),
        "monthly_data": (data | read, "Orders to features and monitoring for the months given."),
        "monthly_forecast": (
            data | asked | served | decided,
            "Orders to features, the forecast of each month, and whether to train again.",
        ),
        "publish": (
            asked | served,
            (
                "The forecast of each month by the version trained by then, its accuracy, its"
                " report, and drift."
            ),
        ),
        "retraining": (
            training | asked | served,
            "Fits the zoo, compares it on the same evidence, decides the champions, publishes.",
        ),
    }
    return {
        name: dg.define_asset_job(name, selection, description=text, tags=one_at_a_time)
        for name, (selection, text) in jobs.items()
    }


class PlanNamed(dg.Config):
    """The launch form."""

    plan: str = Field(
        description="name of the plan, as `medallion plan ...` or a refused run told it"
    )


def build_plan_jobs(settings: Settings) -> list[dg.JobDefinition]:
    """apply_plan (restore and vacuum) and undo_plan."""

    def job(name: str, description: str, act: Callable[[Plans, Plan], Plan]) -> dg.JobDefinition:
        @dg.op(name=f"{name}_named", required_resource_keys={"lakehouse"})
        @clear_refusals
        def carry_out(context: dg.OpExecutionContext, config: PlanNamed) -> None:
            lakehouse = context.resources.lakehouse
            done = act(
                plans_of(context.run, lakehouse, settings), plans.find(lakehouse, config.plan)
            )
            context.log.info(
                f"{done.plan_id} {done.state}: {done.table.id} is at version {done.version_after}"
            )

        @dg.job(name=name, description=description, tags={"dagster/concurrency_key": "medallion"})
        def plan_job() -> None:
            carry_out()

        return plan_job

    backfills = (
        f"A backfill or removal is carried out by launching its asset with the tag {PLAN_TAG}."
    )
    return [
        job(
            "apply_plan",
            f"Does what a stored plan shows, if the table has not moved since. {backfills}",
            lambda p, plan: p.apply(plan),
        ),
        job(
            "undo_plan",
            "Returns a table to its version before an applied plan.",
            lambda p, plan: p.undo(plan),
        ),
    ]
