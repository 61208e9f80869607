"""Zoo assets: one for each ModelSpec. Wiring only.

Which origins are fitted lies in backtest.py, who wins in champion/.
"""

import dagster as dg

from medallion_assets.policies import retry_transient
from medallion_assets.table_asset import (
    asset_key,
    asset_options,
    report,
    request_of,
    work_of,
    write_with_permission,
)
from medallion_assets.tables import (
    DEMAND_FEATURES,
    MONTHLY_DEMAND,
    ZOO_FORECAST,
)
from medallion_assets.zoo.backtest import Backtest
from medallion_assets.zoo.registry import enabled
from medallion_assets.zoo.row_source import source_of
from medallion_assets.zoo.spec import ModelSpec
from resources.lakehouse import Lakehouse
from resources.settings import Settings
from resources.tracking import Tracking


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """All zoo assets of the models that the configuration names."""
    return [_model_asset(spec, settings) for spec in enabled(settings)]


def model_key(name: str) -> dg.AssetKey:
    """Key of the asset of a model: its slice of gold.zoo_forecast."""
    return dg.AssetKey([*asset_key(ZOO_FORECAST).path, name])


def _model_asset(spec: ModelSpec, settings: Settings) -> dg.AssetsDefinition:
    options = asset_options(ZOO_FORECAST, settings, (MONTHLY_DEMAND, DEMAND_FEATURES))
    options |= {
        "key": model_key(spec.name),
        "group_name": "zoo",
        "kinds": {"delta", "spark", "mlflow", spec.family},
        "description": (
            f"{spec.description}\n\n{ZOO_FORECAST.comment}\n\nGrain: origin x part_number x target"
            " month of this model."
        ),
        "code_version": spec.code_version,
    }

    @dg.asset(
        **options,
        deps=[
            asset_key(MONTHLY_DEMAND),
            asset_key(DEMAND_FEATURES),
            *map(asset_key, source_of(spec).reads),
            *map(model_key, spec.members),
        ],
    )
    @retry_transient
    def _model(
        context: dg.AssetExecutionContext,
        lakehouse: dg.ResourceParam[Lakehouse],
        tracking: dg.ResourceParam[Tracking],
    ) -> dg.MaterializeResult:
        tracking.check()
        request = request_of(context, ZOO_FORECAST)
        work = work_of(context, lakehouse, settings)
        backtest = Backtest(spec, work, tracking)
        outcome = write_with_permission(
            request,
            work,
            lambda permission: backtest.run(request.months, permission),
            spec.name,
        )
        links = {
            month: {
                "mlflow_run": dg.MetadataValue.url(tracking.url(s.details["run_id"])),
                "fallback_share": s.details["fallback_share"] or 0.0,
            }
            for month, s in outcome.slices.items()
        }
        return report(request, outcome, key=model_key(spec.name), by_month=links)

    return _model
