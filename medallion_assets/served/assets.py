"""What is published and how it did, as assets. Wiring only."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from pyspark.sql import DataFrame

from medallion_assets import plots
from medallion_assets.labels import LABELS_OF_MONTH, UNUSUAL, labels_read
from medallion_assets.partitions import add_months, month_range
from medallion_assets.policies import retry_transient
from medallion_assets.report.reporting import accuracy_pictures, anomaly_pictures
from medallion_assets.served import accuracy, anomalies, totals
from medallion_assets.served.changes import Changes
from medallion_assets.served.publishing import Publication
from medallion_assets.silver.assets import new_numbers
from medallion_assets.slices import Input, Months, Reader, TableRecipe, retry_on_conflict
from medallion_assets.table_asset import (
    asset_key,
    asset_options,
    permission_to_supersede,
    report,
    request_of,
    table_asset,
    work_of,
)
from medallion_assets.tables import (
    CHAMPION,
    DEMAND_ANOMALY,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_ACCURACY,
    FORECAST_CHANGE,
    MODEL_EVALUATION,
    MONTHLY_DEMAND,
    ZOO_RESULT,
)
from resources.lakehouse import Lakehouse
from resources.settings import Settings
from resources.tracking import Tracking


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The served forecast, its totals and its accuracy."""

    @dg.asset(
        **asset_options(
            DEMAND_FORECAST,
            settings,
            [DEMAND_FEATURES, CHAMPION],
        ),
        deps=[asset_key(CHAMPION), asset_key(MONTHLY_DEMAND), asset_key(DEMAND_FEATURES)],
    )
    @retry_transient
    def demand_forecast(
        context: dg.AssetExecutionContext,
        lakehouse: dg.ResourceParam[Lakehouse],
        tracking: dg.ResourceParam[Tracking],
    ) -> dg.MaterializeResult:
        request = request_of(context, DEMAND_FORECAST)
        work = work_of(context, lakehouse, settings)
        with permission_to_supersede(request, work) as allow:
            outcome = Publication(work, tracking).run(request.months, allow)
        details = {
            m: {"vintage": s.details["vintage"], "registry_version": s.details["registry_version"]}
            for m, s in outcome.slices.items()
        }
        return report(request, outcome, by_month=details)

    @dg.asset(
        **asset_options(FORECAST_CHANGE, settings, [DEMAND_FORECAST]),
        deps=[asset_key(DEMAND_FORECAST)],
    )
    @retry_transient
    def forecast_change(
        context: dg.AssetExecutionContext,
        lakehouse: dg.ResourceParam[Lakehouse],
        tracking: dg.ResourceParam[Tracking],
    ) -> dg.MaterializeResult:
        request = request_of(context, FORECAST_CHANGE)
        work = work_of(context, lakehouse, settings)
        outcome = retry_on_conflict(lambda: Changes(work, tracking).run(request.months))
        return report(request, outcome)

    horizon = settings.forecast.horizon
    return [
        demand_forecast,
        forecast_change,
        table_asset(
            TableRecipe(
                DEMAND_FORECAST_TOTAL,
                [
                    Input(DEMAND_FORECAST, Input.same_month),
                    Input(DEMAND_FEATURES, Input.same_month),
                    # A decision on an earlier month that is made later changes nothing published.
                    Input(ZOO_RESULT, Input.through(totals.EVIDENCE_MONTHS), is_open=True),
                ],
                _demand_forecast_total,
                {"origins": settings.forecast.origins},
                only_complete=True,
            ),
            settings,
            plot=_totals_pictures,
        ),
        table_asset(
            TableRecipe(
                FORECAST_ACCURACY,
                [
                    Input(DEMAND_FORECAST, _origins),
                    Input(
                        MONTHLY_DEMAND, lambda month, s: _known([add_months(month, -12), month], s)
                    ),
                    Input(MODEL_EVALUATION, _earlier, is_open=True),
                    LABELS_OF_MONTH,
                ],
                _forecast_accuracy,
                {"horizon": horizon},
                only_complete=True,
                outside_version=lambda settings: sorted(new_numbers(settings).items()) or None,
            ),
            settings,
            plot=accuracy_pictures,
        ),
        table_asset(
            TableRecipe(
                DEMAND_ANOMALY,
                [
                    Input(DEMAND_FORECAST, _origins),
                    Input(MONTHLY_DEMAND, Input.same_month),
                    Input(DEMAND_FEATURES, Input.same_month),
                    LABELS_OF_MONTH,
                ],
                _demand_anomaly,
                settings.monitoring.model_dump(include={"anomaly_rate"}),
                only_complete=True,
                outside_version=lambda settings: sorted(new_numbers(settings).items()) or None,
            ),
            settings,
            plot=anomaly_pictures,
        ),
    ]


def _totals_pictures(
    lakehouse: Lakehouse, months: Sequence[int], settings: Settings
) -> dict[str, dg.MetadataValue]:
    """Demand so far and what is served after it, all parts together, of the newest of the months
    that has a forecast.
    """
    rows = lakehouse.rows(DEMAND_FORECAST_TOTAL, months=months)
    rows = rows[rows["segment_kind"] == "all"]
    if rows.empty:
        return {}
    origin = int(rows["yyyymm"].max())
    rows = rows[rows["yyyymm"] == origin]
    demand = lakehouse.totals(
        MONTHLY_DEMAND,
        ["yyyymm", "is_complete"],
        ["demand_qty"],
        month_range(settings.first_month, origin),
    )
    figure = plots.served_forecast(
        demand[demand["is_complete"].astype(bool)],
        rows[rows["vintage"] == rows["vintage"].max()],
        settings.is_simulated,
    )
    return {"forecast": dg.MetadataValue.md(plots.rendered(figure).markdown)}


def _known(months: list[int], settings: Settings) -> list[int]:
    return [month for month in months if month >= settings.first_month]


def _origins(month: int, settings: Settings) -> list[int]:
    return _known(
        month_range(add_months(month, -settings.forecast.horizon - 1), add_months(month, -1)),
        settings,
    )


def _earlier(month: int, settings: Settings) -> list[int]:
    return month_range(settings.first_month, add_months(month, -1))


def _forecast_accuracy(read: Reader, months: Months, settings: Settings) -> DataFrame:
    numbers = new_numbers(settings)
    unusual = labels_read(read, numbers, UNUSUAL)
    return accuracy.forecast_accuracy(
        read(DEMAND_FORECAST),
        read(MONTHLY_DEMAND),
        read(MODEL_EVALUATION),
        months.wanted,
        numbers,
        list(zip(unusual["part_number"], unusual["yyyymm"].astype(int), strict=True)),
    )


def _demand_anomaly(read: Reader, months: Months, settings: Settings) -> DataFrame:
    origins = read.stored(DEMAND_FORECAST)
    months_of_forecasts = [m for m in months.wanted if origins & set(_origins(m, settings))]
    rows: list[dict[str, Any]] = []
    if months_of_forecasts:
        numbers = new_numbers(settings)
        said = labels_read(read, numbers)
        for month in months_of_forecasts:  # one at a time: of many parts a month is large
            demand, features = (
                read(table, [month]).select("part_number", name).toPandas()
                for table, name in ((MONTHLY_DEMAND, "demand_qty"), (DEMAND_FEATURES, "unit_price"))
            )
            forecasts = read(DEMAND_FORECAST, _origins(month, settings))
            published = anomalies.published_forecasts(forecasts, [month], numbers).toPandas()
            found = anomalies.demand_anomaly(
                month, published, demand, settings.monitoring.anomaly_rate
            )
            rows += anomalies.anomaly_rows(found, features, said[said["yyyymm"] == month])
    return read.frame(DEMAND_ANOMALY, rows)


def _demand_forecast_total(read: Reader, months: Months, settings: Settings) -> DataFrame:
    decided = read.stored(ZOO_RESULT)
    evidence = {
        month
        for origin in months.wanted
        for month in totals.decision_months(decided, origin, settings.forecast.origins)
    }
    coming = totals.coming_parts(read(DEMAND_FORECAST), read(DEMAND_FEATURES)).toPandas()
    past = totals.past_parts(read(ZOO_RESULT, evidence or months.wanted)).toPandas()
    stored = read.as_it_stands(DEMAND_FORECAST_TOTAL).collect()
    rows = totals.demand_forecast_total(coming, past, stored)
    return read.frame(DEMAND_FORECAST_TOTAL, rows)
