"""Gold assets that are not the zoo's: the served forecast, what is watched, and what follows. Wiring only."""

from collections.abc import Mapping
from functools import reduce

import dagster as dg
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_assets import plots
from medallion_assets.bronze.assets import adopted_lines
from medallion_assets.gold import report as pages
from medallion_assets.gold.publishing import Publication
from medallion_assets.gold.reporting import Reporting, accuracy_pictures
from medallion_assets.gold.retraining import RetrainingPolicy
from medallion_assets.monitoring import accuracy, drift, quality
from medallion_assets.monitoring.freshness import freshness_table, listed
from medallion_assets.partitions import add_months, month_range
from medallion_assets.policies import retry_transient
from medallion_assets.table_asset import (
    Input,
    Months,
    Reader,
    asset_key,
    asset_options,
    monthly_options,
    report,
    retry_on_conflict,
    superseding,
    table_asset,
    version_of,
)
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    CHAMPION,
    DATA_QUALITY,
    DEMAND_DRIFT,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    FORECAST_ACCURACY,
    MODEL_EVALUATION,
    MODEL_OWNER,
    MONTHLY_DEMAND,
    PARTS,
    REJECTED_LINES,
    RETRAINING_DECISION,
    SILVER_SALES_ORDERS,
)
from medallion_assets.zoo.assets import run_tags
from resources.lakehouse import Lakehouse
from resources.reports import ReportFiles
from resources.settings import Settings
from resources.tracking import Tracking

REPORT_KEY = dg.AssetKey(["gold", "monthly_report"])


def build_assets(settings: Settings, lakehouse_names: Mapping[str, str]) -> list[dg.AssetsDefinition]:
    """The served forecast, its accuracy and report, drift, the decision about retraining, and data quality."""

    @dg.asset(
        **asset_options(DEMAND_FORECAST, settings, lakehouse_names[DEMAND_FORECAST.id], [DEMAND_FEATURES, CHAMPION]),
        deps=[asset_key(CHAMPION), asset_key(MONTHLY_DEMAND), asset_key(DEMAND_FEATURES)],
    )
    @retry_transient
    def demand_forecast(
        context: dg.AssetExecutionContext, lakehouse: dg.ResourceParam[Lakehouse], tracking: dg.ResourceParam[Tracking]
    ) -> dg.MaterializeResult:
        requested = [int(key) for key in context.partition_keys]
        publication = Publication(settings, lakehouse, tracking, context.run.run_id, context.log.info)
        with superseding(context, lakehouse, settings, DEMAND_FORECAST) as allow:
            outcome = publication.run(requested, allow)
        pictures = {"forecast": _served_picture(lakehouse, settings, max(outcome.slices))} if outcome.slices else {}
        details = {
            m: {"vintage": s.details["vintage"], "registry_version": s.details["registry_version"]} for m, s in outcome.slices.items()
        }
        return report(context, DEMAND_FORECAST, requested, outcome, pictures, details)

    @dg.asset(
        **monthly_options(settings, "gold", MODEL_OWNER),
        key=REPORT_KEY,
        description=f"{_REPORT}\n\nGrain: one page per published origin.",
        code_version=pages.CODE_VERSION,
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
        reporting = Reporting(settings, lakehouse, tracking, reports, run_tags(context, settings), context.log.info)
        told = {key: reporting.run(int(key)) for key in context.partition_keys}
        for key, metadata in told.items():
            context.add_asset_metadata(metadata, partition_key=key)
        made_from = [metadata.get("made_from") for metadata in told.values()]
        return dg.MaterializeResult(data_version=dg.DataVersion(version_of(made_from)))

    @dg.asset(
        **asset_options(RETRAINING_DECISION, settings, lakehouse_names[RETRAINING_DECISION.id]),
        deps=[asset_key(CHAMPION), asset_key(DEMAND_DRIFT), asset_key(FORECAST_ACCURACY)],
    )
    @retry_transient
    def retraining_decision(context: dg.AssetExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]) -> dg.MaterializeResult:
        requested = [int(key) for key in context.partition_keys]
        policy = RetrainingPolicy(settings, lakehouse, context.run.run_id, context.log.info)
        outcome = retry_on_conflict(lambda: policy.run(requested))
        fresh = policy.freshness()
        for spec, months in fresh.items():
            told = {f"{name}_months": listed(found) or "none" for name, found in months._asdict().items() if name != "newest"}
            context.log_event(dg.AssetObservation(asset_key(spec), metadata=told | {"newest_month": months.newest or "none"}))
        table = freshness_table({spec.id: months for spec, months in fresh.items()})
        details = {m: s.details for m, s in outcome.slices.items()}
        return report(context, RETRAINING_DECISION, requested, outcome, {"freshness": dg.MetadataValue.md(table)}, details)

    horizon = settings.forecast.horizon
    watched = settings.monitoring
    return [
        demand_forecast,
        retraining_decision,
        table_asset(
            FORECAST_ACCURACY,
            settings,
            lakehouse_names[FORECAST_ACCURACY.id],
            [
                Input(DEMAND_FORECAST, _origins),
                Input(MONTHLY_DEMAND, lambda month, s: _known([add_months(month, -12), month], s)),
                Input(MODEL_EVALUATION, _earlier, is_open=True),
            ],
            _forecast_accuracy,
            {"horizon": horizon},
            only_complete=True,
            plot=accuracy_pictures,
        ),
        monthly_report,
        table_asset(
            DEMAND_DRIFT,
            settings,
            lakehouse_names[DEMAND_DRIFT.id],
            [Input(spec, Input.up_to) for spec in (MONTHLY_DEMAND, DEMAND_FEATURES, FORECAST_ACCURACY)],
            _demand_drift,
            watched.model_dump(include={"drift_false_alarm_rate", "drift_window_months"}),
            only_complete=True,
        ),
        table_asset(
            DATA_QUALITY,
            settings,
            lakehouse_names[DATA_QUALITY.id],
            [
                Input(BRONZE_SALES_ORDERS, Input.same_month),
                Input(SILVER_SALES_ORDERS, Input.same_month),
                Input(REJECTED_LINES, Input.same_month),
            ],
            _data_quality,
            watched.model_dump(include={"max_rejected_share"}),
            with_no_month=True,
        ),
    ]


_REPORT = (
    "What a planner reads each month: what is forecast, what changed against the forecast before and why, where it is weak, what was "
    "decided, and the parts to look at first. One HTML file beside the lakehouse, and an artifact in MLflow."
)
_REPORTED = (DEMAND_FORECAST, FORECAST_ACCURACY, CHAMPION, MODEL_EVALUATION, MONTHLY_DEMAND, DEMAND_FEATURES, PARTS)


def _served_picture(lakehouse: Lakehouse, settings: Settings, origin: int) -> dg.MetadataValue:
    """Demand so far and what is served after it, all parts together."""
    demand = lakehouse.totals(MONTHLY_DEMAND, ["yyyymm", "is_complete"], ["demand_qty"], month_range(settings.first_month, origin))
    served = lakehouse.totals(DEMAND_FORECAST, ["target_yyyymm", "vintage", "horizon"], ["forecast_qty", "q10", "q90"], [origin])
    served = served[(served["vintage"] == served["vintage"].max()) & (served["horizon"] > 0)]
    figure = plots.served_forecast(demand[demand["is_complete"].astype(bool)], served, settings.is_simulated)
    return dg.MetadataValue.md(plots.rendered(figure).markdown)


def _known(months: list[int], settings: Settings) -> list[int]:
    return [month for month in months if month >= settings.first_month]


def _origins(month: int, settings: Settings) -> list[int]:
    return _known(month_range(add_months(month, -settings.forecast.horizon - 1), add_months(month, -1)), settings)


def _earlier(month: int, settings: Settings) -> list[int]:
    return month_range(settings.first_month, add_months(month, -1))


def _forecast_accuracy(read: Reader, months: Months, settings: Settings) -> DataFrame:
    return accuracy.forecast_accuracy(read(DEMAND_FORECAST), read(MONTHLY_DEMAND), read(MODEL_EVALUATION), months.wanted)


def _demand_drift(read: Reader, months: Months, settings: Settings) -> DataFrame:
    figures = drift.monthly_figures(read(MONTHLY_DEMAND), read(DEMAND_FEATURES)).toPandas()
    served = read(FORECAST_ACCURACY).where("lag = 1 AND segment_kind = 'demand_class'").toPandas()
    rows = drift.demand_drift(figures, served, months.wanted, settings)
    schema = ", ".join(f"{c.name} {c.type}" for c in DEMAND_DRIFT.columns)
    return read.spark.createDataFrame([tuple(row[name] for name in DEMAND_DRIFT.column_names) for row in rows], schema)


def _data_quality(read: Reader, months: Months, settings: Settings) -> DataFrame:
    identity = [F.col("yyyymm"), F.col("_delivery_id").alias("delivery_id"), F.col("_line_number").alias("line_number")]
    adopted = [source for source in settings.sources if source.mode == "adopt"]
    read_lines = [
        adopted_lines(read.external(str(source.table)), source, settings).where(F.col("yyyymm").isin(months.wanted)).select(*identity)
        for source in adopted
    ]
    if len(adopted) < len(settings.sources):
        read_lines.append(read(BRONZE_SALES_ORDERS).select(*identity))
    lines = reduce(DataFrame.unionByName, read_lines)
    return quality.data_quality(lines, read(SILVER_SALES_ORDERS), read(REJECTED_LINES), months.wanted, settings)
