"""Demand as a matrix of parts and months, the forecast frame, and the base of models that treat
every series by itself.

What a single family computes does not belong here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medallion_assets.tables import DECILES
from medallion_assets.zoo.calibration import Calibration, deciles, is_count_demand, learn
from medallion_assets.zoo.spec import FORECAST_COLUMNS, Known

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

NEWCOMER_MONTHS = 3.0  # months without a sale that halve what is expected of a part never sold


def month_number(yyyymm: object) -> NDArray[np.int64]:
    """Months since the year 0 of an array or column of yyyymm."""
    months = np.asarray(yyyymm, dtype=np.int64)
    return months // 100 * 12 + months % 100 - 1


def demand_matrix(demand: pd.DataFrame, part_numbers: pd.Series, origin: int) -> Floats:
    """Demand [part, month] in units, the origin in the last column, NaN before a part's first
    month.

    Rows follow ``part_numbers``, which must not repeat; a part without demand rows is NaN
    throughout. Months missing after the first count as zero.
    """
    rows = pd.Index(part_numbers).get_indexer(pd.Index(demand["part_number"]))
    age = month_number(origin) - month_number(demand["yyyymm"])
    wanted = (rows >= 0) & (age >= 0)
    rows, age = rows[wanted], age[wanted]
    months = int(age.max()) + 1 if len(age) else 1
    matrix = np.full((len(part_numbers), months), np.nan)
    matrix[rows, months - 1 - age] = demand["demand_qty"].to_numpy(dtype=float)[wanted]
    started = np.maximum.accumulate(~np.isnan(matrix), axis=1)
    return np.where(started & np.isnan(matrix), 0.0, matrix)


def recent_mean(matrix: Floats, months: int = 12) -> Floats:
    """Mean of the last months that exist, per part, units; 0 for a part without any."""
    recent = matrix[:, -months:]
    count = (~np.isnan(recent)).sum(axis=1)
    return np.nansum(recent, axis=1) / np.maximum(count, 1)


def never_sold(matrix: Floats, newcomer_qty: float) -> Floats:
    """Expected monthly demand of parts without any sale, units; NaN for all others.

    The mean of a gamma distribution of demand rates after so many months without a sale: what new
    parts sell, fading by month.
    """
    waited = (~np.isnan(matrix)).sum(axis=1)
    expected = newcomer_qty * NEWCOMER_MONTHS / (NEWCOMER_MONTHS + waited)
    return np.where(np.nansum(matrix, axis=1) > 0, np.nan, expected)


def forecast_frame(
    features: pd.DataFrame,
    matrix: Floats,
    forecast_qty: Floats,
    is_fallback: Flags,
    calibration: Calibration,
) -> pd.DataFrame:
    """Point forecasts [part, horizon] as the long frame of the protocol, with deciles by
    ``calibration``.

    A forecast that is not finite is replaced by the mean of the last twelve months and flagged; a
    negative one is zero. ``is_fallback`` is [part, horizon] as well.
    """
    parts, horizon = forecast_qty.shape
    failed = ~np.isfinite(forecast_qty)
    mean = np.repeat(recent_mean(matrix)[:, None], horizon, axis=1)
    expected = np.maximum(np.where(failed, mean, forecast_qty), 0.0).ravel()
    horizons = np.tile(np.arange(1, horizon + 1), parts)
    by_cell = features.iloc[np.repeat(np.arange(parts), horizon)].reset_index(drop=True)
    is_count = np.repeat(is_count_demand(matrix), horizon)
    return cells_frame(
        by_cell,
        horizons,
        expected,
        deciles(calibration, expected, by_cell, horizons, is_count),
        (is_fallback | failed).ravel(),
    )


def cells_frame(
    by_cell: pd.DataFrame,
    horizons: NDArray[np.int64],
    forecast_qty: Floats,
    quantiles: Floats,
    is_fallback: Flags,
) -> pd.DataFrame:
    """One row per cell with FORECAST_COLUMNS; ``quantiles`` is [cell, decile]."""
    frame = pd.DataFrame(
        {
            "part_number": by_cell["part_number"].to_numpy(),
            "horizon": horizons,
            "forecast_qty": forecast_qty,
        }
    )
    frame[list(DECILES)] = quantiles
    frame["is_fallback"] = is_fallback
    return frame[list(FORECAST_COLUMNS)]


class SeriesForecaster(ABC):
    """A model that forecasts each series from its own demand and learns nothing but the spread of
    its past errors.

    A part that was never sold has no demand of its own: what other new parts sell stands in for it.
    Subclasses need ``expected``.
    """

    @abstractmethod
    def expected(self, matrix: Floats, horizon: int) -> tuple[Floats, Flags]:
        """Expected demand [part, horizon] in units and where a mean stands in for the method, from
        demand [part, month].
        """

    def fit(self, known: Known) -> Calibration:
        return learn(known.own_past, known.features)

    def predict(
        self,
        fitted: Calibration,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        horizon: int,
    ) -> pd.DataFrame:
        matrix = demand_matrix(demand, features["part_number"], origin)
        forecast_qty, is_fallback = self.expected(matrix, horizon)
        unsold = never_sold(matrix, fitted.newcomer_qty)
        is_unsold = ~np.isnan(unsold)
        forecast_qty[is_unsold], is_fallback[is_unsold] = unsold[is_unsold, None], True
        return forecast_frame(features, matrix, forecast_qty, is_fallback, fitted)
