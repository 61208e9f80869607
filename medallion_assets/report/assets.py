"""The monthly report as an asset. Wiring only."""

import dagster as dg

from medallion_assets.policies import retry_transient
from medallion_assets.report.data import CODE_VERSION
from medallion_assets.report.reporting import Reporting
from medallion_assets.slices import version_of
from medallion_assets.table_asset import asset_key, monthly_options, work_of
from medallion_assets.tables import (
    CHAMPION,
    DEMAND_ANOMALY,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_ACCURACY,
    FORECAST_CHANGE,
    MODEL_EVALUATION,
    MODEL_OWNER,
    MONTHLY_DEMAND,
    PARTS,
)
from resources.lakehouse import Lakehouse
from resources.reports import ReportFiles
from resources.settings import Settings
from resources.tracking import Tracking

REPORT_KEY = dg.AssetKey(["gold", "monthly_report"])
_REPORT = (
    "What a planner reads each month: what is forecast, what changed against the forecast before"
    " and why, where it is weak, what was decided, and the parts to look at first. One HTML file"
    " beside the lakehouse, and an artifact in MLflow."
)
_REPORTED = (
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_CHANGE,
    FORECAST_ACCURACY,
    DEMAND_ANOMALY,
    CHAMPION,
    MODEL_EVALUATION,
    MONTHLY_DEMAND,
    DEMAND_FEATURES,
    PARTS,
)


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The monthly report."""

    @dg.asset(
        **monthly_options(settings, "gold", MODEL_OWNER),
        key=REPORT_KEY,
        description=f"{_REPORT}\n\nGrain: one page per published origin.",
        code_version=CODE_VERSION,
        kinds={"html", "mlflow"},
        deps=list(map(asset_key, _REPORTED)),
    )
    @retry_transient
    def monthly_report(
        context: dg.AssetExecutionContext,
        lakehouse: dg.ResourceParam[Lakehouse],
        tracking: dg.ResourceParam[Tracking],
        reports: dg.ResourceParam[ReportFiles],
    ) -> dg.MaterializeResult:
        reporting = Reporting(work_of(context, lakehouse, settings), tracking, reports)
        told = {key: reporting.run(int(key)) for key in context.partition_keys}
        for key, metadata in told.items():
            context.add_asset_metadata(metadata, partition_key=key)
        made_from = [metadata.get("made_from") for metadata in told.values()]
        return dg.MaterializeResult(data_version=dg.DataVersion(version_of(made_from)))

    return [monthly_report]
