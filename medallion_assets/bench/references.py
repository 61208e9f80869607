"""What StatsForecast alone says of the same series: the reference models that a benchmark without
published figures is held against.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from medallion_assets.bench import scoring
from medallion_assets.tables import DECILES

SCORED = (
    "mase",
    "rmse_pooled",
    "rmse_mean",
    "rmsse",
    "wape",
    "bias",
)  # what a point forecast can be scored by
AVERAGED = ("IMAPA", "SESOpt", "AutoETS", "DynamicOptimizedTheta")


def reference_scores(
    demand: pd.DataFrame, origin: int, horizon: int
) -> dict[str, dict[str, float]]:
    """Scores by reference model, those of a point forecast only.

    demand: ``scoring.monthly``. Series that a model can't fit are answered by the naive forecast.
    """
    from statsforecast import StatsForecast
    from statsforecast.models import (
        IMAPA,
        AutoETS,
        DynamicOptimizedTheta,
        Naive,
        SeasonalNaive,
        SimpleExponentialSmoothingOptimized,
    )

    models = [
        SeasonalNaive(scoring.SEASON),
        Naive(),
        SimpleExponentialSmoothingOptimized(alias="SESOpt"),
        IMAPA(),
        AutoETS(season_length=scoring.SEASON),
        DynamicOptimizedTheta(season_length=scoring.SEASON),
    ]
    history = demand.loc[demand["month"] <= origin, ["unique_id", "month", "y"]].rename(
        columns={"month": "ds"}
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = StatsForecast(models=models, freq=1, fallback_model=Naive()).forecast(
            df=history, h=horizon
        )
    found["mean of four"] = found[list(AVERAGED)].mean(axis=1)
    rows = found.melt(["unique_id", "ds"], var_name="model", value_name="forecast").rename(
        columns={"ds": "month"}
    )
    rows["forecast"] = rows["forecast"].fillna(0.0).clip(lower=0.0)
    rows = rows.assign(origin=origin, **dict.fromkeys(DECILES, rows["forecast"]))
    scored = scoring.scores(demand, rows)

    def shown(name: str) -> dict[str, float]:
        return {metric: scored[name][metric] for metric in SCORED}

    return {f"StatsForecast: {name}": shown(name) for name in scored}
