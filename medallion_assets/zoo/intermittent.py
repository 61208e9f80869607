"""Models for demand with many empty months: they smooth how often and how much is sold. Forecasts
are flat over the horizon.

All parts are smoothed at once, month by month. Models for dense demand are in statistical.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medallion_assets.zoo.series import Flags, Floats, SeriesForecaster, recent_mean
from medallion_assets.zoo.spec import ModelSpec, Parameters

SPARSE = (
    "intermittent",
    "lumpy",
    "new",
)  # where months without demand are the rule, or too little is known to tell


def smoothed(matrix: Floats, alpha: float) -> Floats:
    """Level [part] after simple exponential smoothing over [part, month]; NaN months change
    nothing; starts at the first value.
    """
    level = np.full(len(matrix), np.nan)
    for values in matrix.T:
        step = np.where(np.isnan(level), values, level + alpha * (values - level))
        level = np.where(np.isnan(values), level, step)
    return level


def demand_intervals(matrix: Floats) -> Floats:
    """Months [part, month] since the sale before (or since the start) where there is demand, NaN
    elsewhere.
    """
    gap = np.zeros(len(matrix))
    intervals = np.full(matrix.shape, np.nan)
    for month, values in enumerate(matrix.T):
        gap += ~np.isnan(values)
        is_sold = values > 0
        intervals[is_sold, month] = gap[is_sold]
        gap[is_sold] = 0
    return intervals


@dataclass(frozen=True)
class ExponentialSmoothing(SeriesForecaster):
    """Simple exponential smoothing of monthly demand."""

    alpha: float

    def expected(self, matrix: Floats, horizon: int) -> tuple[Floats, Flags]:
        return _flat(smoothed(matrix, self.alpha), horizon)


@dataclass(frozen=True)
class SyntetosBoylan(SeriesForecaster):
    """(1 - alpha / 2) * size / interval, both smoothed at each sale (Syntetos and Boylan 2005)."""

    alpha: float

    def expected(self, matrix: Floats, horizon: int) -> tuple[Floats, Flags]:
        size = smoothed(np.where(matrix > 0, matrix, np.nan), self.alpha)
        interval = smoothed(demand_intervals(matrix), self.alpha)
        return _flat(np.where(np.isnan(size), 0.0, (1 - self.alpha / 2) * size / interval), horizon)


@dataclass(frozen=True)
class TeunterSyntetosBabai(SeriesForecaster):
    """Probability of demand, smoothed every month, times size, smoothed at each sale (Teunter,
    Syntetos and Babai 2011).
    """

    alpha_probability: float
    alpha_size: float

    def expected(self, matrix: Floats, horizon: int) -> tuple[Floats, Flags]:
        probability = smoothed(
            np.where(np.isnan(matrix), np.nan, matrix > 0), self.alpha_probability
        )
        size = smoothed(np.where(matrix > 0, matrix, np.nan), self.alpha_size)
        return _flat(probability * np.nan_to_num(size), horizon)


@dataclass(frozen=True)
class Aggregated(SeriesForecaster):
    """Levels smoothed over time aggregations of StatsForecast, series by series; a constant series
    keeps its level.

    ``build`` makes the StatsForecast model.
    """

    build: Callable[[], Any]

    def expected(self, matrix: Floats, horizon: int) -> tuple[Floats, Flags]:
        model = self.build()
        level = recent_mean(matrix)
        for row, series in enumerate(matrix):
            history = series[~np.isnan(series)]
            if len(history) and np.ptp(history) > 0:
                level[row] = model.forecast(y=history, h=1)["mean"][0]
        return _flat(level, horizon)


# StatsForecast takes seconds to import, so each model is imported when first used.
def _imapa() -> Any:
    from statsforecast.models import IMAPA

    return IMAPA()


def _adida() -> Any:
    from statsforecast.models import ADIDA

    return ADIDA()


def _flat(level: Floats, horizon: int) -> tuple[Floats, Flags]:
    """The same level at every horizon; a part without any month has none and is left to the
    fallback.
    """
    forecast_qty = np.repeat(level[:, None], horizon, axis=1)
    return forecast_qty, np.zeros(forecast_qty.shape, dtype=bool)


def _ses(parameters: Parameters) -> ExponentialSmoothing:
    return ExponentialSmoothing(float(parameters["alpha"]))


def _sba(parameters: Parameters) -> SyntetosBoylan:
    return SyntetosBoylan(float(parameters["alpha"]))


def _tsb(parameters: Parameters) -> TeunterSyntetosBabai:
    return TeunterSyntetosBabai(
        float(parameters["alpha_probability"]), float(parameters["alpha_size"])
    )


MODELS = (
    ModelSpec(
        name="ses",
        family="intermittent",
        description="Simple exponential smoothing",
        build=_ses,
        parameters={"alpha": 0.1},
    ),
    ModelSpec(
        name="sba",
        family="intermittent",
        description="Croston's method without its bias (Syntetos and Boylan 2005)",
        build=_sba,
        classes=SPARSE,
        parameters={"alpha": 0.1},
    ),
    ModelSpec(
        name="tsb",
        family="intermittent",
        description="Croston's method that lets dead parts fade (Teunter, Syntetos and Babai 2011)",
        build=_tsb,
        classes=SPARSE,
        parameters={"alpha_probability": 0.1, "alpha_size": 0.1},
    ),
    ModelSpec(
        name="imapa",
        family="intermittent",
        description=(
            "Levels smoothed at several time aggregations (Petropoulos and Kourentzes 2015)"
        ),
        build=lambda parameters: Aggregated(_imapa),
        classes=(*SPARSE, "erratic"),
    ),
    ModelSpec(
        name="adida",
        family="intermittent",
        description=(
            "Level smoothed at the time aggregation of the mean demand interval (Nikolopoulos et"
            " al. 2011)"
        ),
        build=lambda parameters: Aggregated(_adida),
        classes=SPARSE,
    ),
)
