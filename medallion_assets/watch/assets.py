"""Drift, data quality and the decision about retraining, as assets. Wiring only."""

from functools import reduce

import dagster as dg
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_assets.bronze.lines import adopted_lines
from medallion_assets.labels import UNUSUAL, label_slices, labels_read
from medallion_assets.policies import retry_transient
from medallion_assets.served.accuracy import UNLABELLED_CLASS
from medallion_assets.silver.assets import new_numbers
from medallion_assets.slices import Input, Months, Reader, TableRecipe, retry_on_conflict
from medallion_assets.table_asset import (
    asset_key,
    asset_options,
    report,
    request_of,
    table_asset,
    work_of,
)
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    CHAMPION,
    DATA_QUALITY,
    DEMAND_DRIFT,
    DEMAND_FEATURES,
    DEMAND_LABEL,
    FORECAST_ACCURACY,
    MONTHLY_DEMAND,
    REJECTED_LINES,
    RETRAINING_DECISION,
    SILVER_SALES_ORDERS,
)
from medallion_assets.watch import drift, quality
from medallion_assets.watch.decision_record import RetrainingPolicy
from medallion_assets.watch.freshness import freshness_table, listed
from resources.lakehouse import Lakehouse
from resources.settings import Settings


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Drift, data quality, and the decision about retraining."""

    @dg.asset(
        **asset_options(RETRAINING_DECISION, settings),
        deps=[asset_key(CHAMPION), asset_key(DEMAND_DRIFT), asset_key(FORECAST_ACCURACY)],
    )
    @retry_transient
    def retraining_decision(
        context: dg.AssetExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> dg.MaterializeResult:
        request = request_of(context, RETRAINING_DECISION)
        policy = RetrainingPolicy(work_of(context, lakehouse, settings))
        outcome = retry_on_conflict(lambda: policy.run(request.months))
        fresh = policy.freshness()
        for spec, months in fresh.items():
            told = {
                f"{name}_months": listed(found) or "none"
                for name, found in months._asdict().items()
                if name != "newest"
            }
            context.log_event(
                dg.AssetObservation(
                    asset_key(spec), metadata=told | {"newest_month": months.newest or "none"}
                )
            )
        table = freshness_table({spec.id: months for spec, months in fresh.items()})
        details = {m: s.details for m, s in outcome.slices.items()}
        return report(request, outcome, {"freshness": dg.MetadataValue.md(table)}, details)

    watched = settings.monitoring
    return [
        retraining_decision,
        table_asset(
            TableRecipe(
                DEMAND_DRIFT,
                [
                    *(
                        Input(spec, Input.up_to)
                        for spec in (MONTHLY_DEMAND, DEMAND_FEATURES, FORECAST_ACCURACY)
                    ),
                    Input(DEMAND_LABEL, Input.up_to, slices=label_slices),
                ],
                _demand_drift,
                watched.model_dump(include={"drift_false_alarm_rate", "drift_window_months"}),
                only_complete=True,
                # Labels of former numbers are those of the part.
                outside_version=lambda settings: sorted(new_numbers(settings).items()) or None,
            ),
            settings,
        ),
        table_asset(
            TableRecipe(
                DATA_QUALITY,
                [
                    Input(BRONZE_SALES_ORDERS, Input.same_month),
                    Input(SILVER_SALES_ORDERS, Input.same_month),
                    Input(REJECTED_LINES, Input.same_month),
                ],
                _data_quality,
                watched.model_dump(include={"max_rejected_share"}),
                with_no_month=True,
            ),
            settings,
        ),
    ]


def _demand_drift(read: Reader, months: Months, settings: Settings) -> DataFrame:
    said = labels_read(read, new_numbers(settings), UNUSUAL)
    unusual = list(zip(said["part_number"], said["yyyymm"].astype(int), strict=True))
    demand = drift.usual_demand(read(MONTHLY_DEMAND), unusual)
    figures = drift.monthly_figures(demand, read(DEMAND_FEATURES)).toPandas()
    by_class = F.col("segment_kind").isin(["demand_class", UNLABELLED_CLASS])
    served = read(FORECAST_ACCURACY).where((F.col("lag") == 1) & by_class).toPandas()
    rows = drift.demand_drift(figures, drift.usual_errors(served, unusual), months.wanted, settings)
    return read.frame(DEMAND_DRIFT, rows)


def _data_quality(read: Reader, months: Months, settings: Settings) -> DataFrame:
    identity = [
        F.col("yyyymm"),
        F.col("_delivery_id").alias("delivery_id"),
        F.col("_line_number").alias("line_number"),
    ]
    adopted = [source for source in settings.sources if source.mode == "adopt"]
    read_lines = [
        adopted_lines(read.external(str(source.table)), source, settings)
        .where(F.col("yyyymm").isin(months.wanted))
        .select(*identity)
        for source in adopted
    ]
    if len(adopted) < len(settings.sources):
        read_lines.append(read(BRONZE_SALES_ORDERS).select(*identity))
    lines = reduce(DataFrame.unionByName, read_lines)
    return quality.data_quality(
        lines, read(SILVER_SALES_ORDERS), read(REJECTED_LINES), months.wanted, settings
    )
