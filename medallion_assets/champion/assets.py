"""The evidence, its evaluation and the decisions, as assets. Wiring only.

Who wins lies in promotion.py, what a training stores in training.py.
"""

from collections.abc import Sequence

import dagster as dg
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from medallion_assets.champion import evaluation
from medallion_assets.champion.training import EvaluationLog, Training
from medallion_assets.complete import evidence_of
from medallion_assets.figures import FIGURES
from medallion_assets.partitions import add_months, month_range
from medallion_assets.policies import retry_transient
from medallion_assets.slices import Input, Months, Reader, TableRecipe, with_details
from medallion_assets.table_asset import (
    asset_key,
    asset_options,
    report,
    request_of,
    table_asset,
    work_of,
    write_with_permission,
)
from medallion_assets.tables import (
    CHAMPION,
    DEMAND_FEATURES,
    MODEL_EVALUATION,
    MONTHLY_DEMAND,
    ZOO_FORECAST,
    ZOO_RESULT,
)
from medallion_assets.zoo.assets import model_key
from medallion_assets.zoo.registry import enabled
from resources.lakehouse import Lakehouse
from resources.settings import Settings
from resources.tracking import Tracking


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The evidence, its evaluation and the decisions."""
    specs = enabled(settings)
    writers = tuple(spec.name for spec in specs)
    model_keys = [model_key(name) for name in writers]
    classes = {spec.name: tuple(spec.classes) for spec in specs}
    forecast = settings.forecast.model_dump(include={"horizon", "origins", "min_history"})

    def zoo_result(read: Reader, months: Months, settings: Settings) -> DataFrame:
        origins = {month: evidence_of(month, settings, months.complete) for month in months.wanted}
        forecasts = read(ZOO_FORECAST).where(_listed("model", writers))
        stored = read.stored(ZOO_FORECAST)
        return evaluation.zoo_result(
            forecasts, read(MONTHLY_DEMAND), read(DEMAND_FEATURES), origins, classes, stored
        )

    def model_evaluation(read: Reader, months: Months, settings: Settings) -> DataFrame:
        origins = {month: evidence_of(month, settings, months.complete) for month in months.wanted}
        seconds = evaluation.fit_seconds(read(ZOO_FORECAST), origins)
        return evaluation.model_evaluation(read(ZOO_RESULT), seconds, classes, settings.promotion)

    results = table_asset(
        TableRecipe(
            ZOO_RESULT,
            [
                Input(ZOO_FORECAST, _origins, writers, is_open=True),
                Input(MONTHLY_DEMAND, _targets),
                Input(DEMAND_FEATURES, _origins),
            ],
            zoo_result,
            {"classes": classes, **forecast},
            only_complete=True,
        ),
        settings,
        deps=[*model_keys, asset_key(MONTHLY_DEMAND), asset_key(DEMAND_FEATURES)],
    )
    recipe = TableRecipe(
        MODEL_EVALUATION,
        [Input(ZOO_RESULT, Input.same_month), Input(ZOO_FORECAST, _origins, writers, is_open=True)],
        model_evaluation,
        {
            "classes": classes,
            "figures": [figure.name for figure in FIGURES],
            **settings.promotion.model_dump(include={"over_rate", "under_rate"}),
        },
        only_complete=True,
    )

    @dg.asset(
        **asset_options(MODEL_EVALUATION, settings, [ZOO_RESULT]),
        deps=[asset_key(ZOO_RESULT)],
    )
    @retry_transient
    def model_evaluation_(
        context: dg.AssetExecutionContext,
        lakehouse: dg.ResourceParam[Lakehouse],
        tracking: dg.ResourceParam[Tracking],
    ) -> dg.MaterializeResult:
        tracking.check()
        request = request_of(context, MODEL_EVALUATION)
        work = work_of(context, lakehouse, settings)
        outcome = write_with_permission(
            request, work, lambda permission: recipe.run(work, request.months, permission)
        )
        log = EvaluationLog(settings, lakehouse, tracking, classes)
        unlogged = [
            s
            for s in outcome.slices.values()
            if s.yyyymm in request.months and not s.details.get("is_logged")
        ]
        is_new = {s.yyyymm for s in unlogged}
        told = {
            month: log.run(
                month,
                month in is_new,
                lambda model, figures, month=month: context.log_event(  # type: ignore[misc]
                    dg.AssetObservation(model_key(model), partition=str(month), metadata=figures)
                ),
            )
            for month in request.months
        }
        # Marked after logging: a process that dies in between logs the figures again, which changes
        # nothing.
        marked = [with_details(s, is_logged=True) for s in unlogged]
        lakehouse.ledger.record(MODEL_EVALUATION, marked, work.run_id)
        return report(request, outcome, by_month=told)

    @dg.asset(
        **asset_options(CHAMPION, settings, [MODEL_EVALUATION]),
        deps=[asset_key(MODEL_EVALUATION), asset_key(ZOO_RESULT), *model_keys],
    )
    @retry_transient
    def champion(
        context: dg.AssetExecutionContext,
        lakehouse: dg.ResourceParam[Lakehouse],
        tracking: dg.ResourceParam[Tracking],
    ) -> dg.MaterializeResult:
        tracking.check()
        request = request_of(context, CHAMPION)
        training = Training(specs, work_of(context, lakehouse, settings), tracking)
        outcome, told = training.run(request.months)
        return report(request, outcome, by_month=told)

    return [results, model_evaluation_, champion]


def _origins(month: int, settings: Settings) -> list[int]:
    f = settings.forecast
    return month_range(
        max(settings.first_month, add_months(month, 1 - f.horizon - f.origins)),
        add_months(month, -1),
    )


def _targets(month: int, settings: Settings) -> list[int]:
    return (
        [m for m in month_range(_origins(month, settings)[0], month) if m >= settings.first_month]
        if _origins(month, settings)
        else [month]
    )


def _listed(column: str, names: Sequence[str]) -> Column:
    return F.col(column).isin(list(names))
