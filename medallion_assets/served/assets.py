"""What is published and how it did, as assets. Wiring only."""

from collections.abc import Mapping

import dagster as dg
from pyspark.sql import DataFrame

from medallion_assets import plots
from medallion_assets.partitions import add_months, month_range
from medallion_assets.policies import retry_transient
from medallion_assets.report.reporting import accuracy_pictures
from medallion_assets.served import accuracy
from medallion_assets.served.publishing import Publication
from medallion_assets.silver.assets import new_numbers
from medallion_assets.slices import Input, Months, Reader
from medallion_assets.table_asset import (
    asset_key,
    asset_options,
    permission_to_supersede,
    report,
    table_asset,
    work_of,
)
from medallion_assets.tables import (
    CHAMPION,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    FORECAST_ACCURACY,
    MODEL_EVALUATION,
    MONTHLY_DEMAND,
)
from resources.lakehouse import Lakehouse
from resources.settings import Settings
from resources.tracking import Tracking


def build_assets(
    settings: Settings, lakehouse_names: Mapping[str, str]
) -> list[dg.AssetsDefinition]:
    """The served forecast and its accuracy."""

    @dg.asset(
        **asset_options(
            DEMAND_FORECAST,
            settings,
            lakehouse_names[DEMAND_FORECAST.id],
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
        requested = [int(key) for key in context.partition_keys]
        work = work_of(context, lakehouse, settings)
        with permission_to_supersede(context, work, DEMAND_FORECAST) as allow:
            outcome = Publication(work, tracking).run(requested, allow)
        pictures = (
            {"forecast": _served_picture(lakehouse, settings, max(outcome.slices))}
            if outcome.slices
            else {}
        )
        details = {
            m: {"vintage": s.details["vintage"], "registry_version": s.details["registry_version"]}
            for m, s in outcome.slices.items()
        }
        return report(context, DEMAND_FORECAST, requested, outcome, pictures, details)

    horizon = settings.forecast.horizon
    return [
        demand_forecast,
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
            outside_version=lambda settings: sorted(new_numbers(settings).items()) or None,
            plot=accuracy_pictures,
        ),
    ]


def _served_picture(lakehouse: Lakehouse, settings: Settings, origin: int) -> dg.MetadataValue:
    """Demand so far and what is served after it, all parts together."""
    demand = lakehouse.totals(
        MONTHLY_DEMAND,
        ["yyyymm", "is_complete"],
        ["demand_qty"],
        month_range(settings.first_month, origin),
    )
    served = lakehouse.totals(
        DEMAND_FORECAST,
        ["target_yyyymm", "vintage", "horizon"],
        ["forecast_qty", "q10", "q90"],
        [origin],
    )
    served = served[(served["vintage"] == served["vintage"].max()) & (served["horizon"] > 0)]
    figure = plots.served_forecast(
        demand[demand["is_complete"].astype(bool)], served, settings.is_simulated
    )
    return dg.MetadataValue.md(plots.rendered(figure).markdown)


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
    return accuracy.forecast_accuracy(
        read(DEMAND_FORECAST),
        read(MONTHLY_DEMAND),
        read(MODEL_EVALUATION),
        months.wanted,
        new_numbers(settings),
    )
