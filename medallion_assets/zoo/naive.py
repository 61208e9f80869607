"""Naive models: what was sold is what will be sold. The baseline every other model has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medallion_assets.zoo.series import Flags, Floats, SeriesForecaster, recent_mean
from medallion_assets.zoo.spec import ModelSpec


@dataclass(frozen=True)
class SeasonalNaive(SeriesForecaster):
    """Demand of the same calendar month in the last twelve; the mean of those that exist where it
    is missing.
    """

    def expected(self, matrix: Floats, horizon: int) -> tuple[Floats, Flags]:
        year = np.full((len(matrix), 12), np.nan)
        known = min(12, matrix.shape[1])
        year[:, 12 - known :] = matrix[:, -known:]
        same_month = year[:, np.arange(horizon) % 12]
        is_missing = np.isnan(same_month)
        return np.where(is_missing, recent_mean(matrix)[:, None], same_month), is_missing


@dataclass(frozen=True)
class Naive(SeriesForecaster):
    """The newest month again; a part without any month is left to the fallback."""

    def expected(self, matrix: Floats, horizon: int) -> tuple[Floats, Flags]:
        forecast_qty = np.repeat(matrix[:, -1:], horizon, axis=1)
        return forecast_qty, np.isnan(forecast_qty)


MODELS = (
    ModelSpec(
        name="seasonal_naive",
        family="naive",
        description="Demand of the same month a year before",
        build=lambda parameters: SeasonalNaive(),
    ),
    ModelSpec(
        name="naive",
        family="naive",
        description="Demand of the newest month",
        build=lambda parameters: Naive(),
    ),
)
