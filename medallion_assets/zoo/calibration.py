"""Deciles around a point forecast, learned from the model's own past errors.

Small whole-number demand gets a negative binomial around the forecast, all other demand quantiles of scaled errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from medallion_assets.tables import LEVELS

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Pool = tuple[str, int]
Value = TypeVar("Value")

ALL_CLASSES = ""
ALL_HORIZONS = 0
MIN_CELLS = 200  # fewer errors than this say too little of a tail decile
COUNT_LIMIT = 10.0  # mean monthly demand up to which whole numbers are treated as counts, units
SMALLEST_SPREAD = 0.1  # of the level: no demand is known better than this before there is evidence
DEFAULT_DISPERSION = 1.0
LARGEST_DISPERSION = 50.0
LARGEST_COUNT = 100_000
NORMAL = tuple(float(z) for z in ndtri(np.asarray(LEVELS)))


@dataclass(frozen=True)
class Calibration:
    """What past errors taught of one model's spread, by pool (demand class or all, horizon or all).

    ``errors`` holds the deciles of (demand - forecast) / spread, ``dispersions`` the d of variance = mean + d * mean^2. An
    empty Calibration gives normal errors and DEFAULT_DISPERSION.
    """

    errors: Mapping[Pool, tuple[float, ...]] = field(default_factory=dict)
    dispersions: Mapping[Pool, float] = field(default_factory=dict)
    cell_count: int = 0


def is_count_demand(matrix: Floats) -> Flags:
    """Parts whose demand [part, month] is counted in whole units and small; a part never sold is one of them."""
    known = np.nan_to_num(matrix)
    is_whole = (known == np.round(known)).all(axis=1)
    return is_whole & (known[:, -12:].mean(axis=1) <= COUNT_LIMIT)


def learn(past: pd.DataFrame, model_name: str, features: pd.DataFrame | None = None) -> Calibration:
    """The spread of a model's errors on cells whose demand is known; stand-in forecasts are no evidence.

    Errors are pooled by demand class and horizon, over horizons where a pool has under MIN_CELLS cells, then over classes.
    """
    if past.empty:
        return Calibration()
    is_own = (past["model"] == model_name) & past["actual_qty"].notna() & ~past["is_fallback"].astype(bool)
    cells = past[is_own]
    if cells.empty:
        return Calibration()
    forecast_qty = cells["forecast_qty"].to_numpy(dtype=float)
    actual_qty = cells["actual_qty"].to_numpy(dtype=float)
    is_whole = (cells["actual_qty"] % 1 == 0).groupby(cells["part_number"]).transform("all").to_numpy()
    is_count = is_whole & (cells["demand_mean_12"].fillna(0).to_numpy() <= COUNT_LIMIT)
    scaled = (actual_qty - forecast_qty) / _spread(cells, forecast_qty)
    errors: dict[Pool, tuple[float, ...]] = {}
    dispersions: dict[Pool, float] = {}
    for pool, member in _pools(cells["demand_class"].to_numpy(dtype=str), cells["horizon"].to_numpy()):
        continuous = member & ~is_count
        if continuous.sum() >= MIN_CELLS or (pool == (ALL_CLASSES, ALL_HORIZONS) and continuous.any()):
            errors[pool] = tuple(float(q) for q in np.quantile(scaled[continuous], LEVELS))
        counts = member & is_count
        if counts.sum() >= MIN_CELLS or (pool == (ALL_CLASSES, ALL_HORIZONS) and counts.any()):
            dispersions[pool] = _dispersion(actual_qty[counts], forecast_qty[counts])
    return Calibration(errors, dispersions, len(cells))


def deciles(calibration: Calibration, forecast_qty: Floats, features: pd.DataFrame, horizons: NDArray[np.int64], is_count: Flags) -> Floats:
    """Deciles [cell, decile] of demand in units: finite, not negative, in order.

    ``features`` has one row per cell with demand_class, demand_mean_12 and demand_std_12 as of the origin.
    """
    forecast_qty = np.asarray(forecast_qty, dtype=float)
    classes = features["demand_class"].to_numpy(dtype=str)
    spread = _spread(features, forecast_qty)
    result = np.zeros((len(forecast_qty), len(LEVELS)))
    for demand_class in np.unique(classes):
        for horizon in np.unique(horizons):
            here = (classes == demand_class) & (horizons == horizon)
            if (continuous := here & ~is_count).any():
                errors = np.asarray(_lookup(calibration.errors, demand_class, int(horizon), NORMAL))
                result[continuous] = forecast_qty[continuous, None] + spread[continuous, None] * errors
            if (counts := here & is_count).any():
                dispersion = _lookup(calibration.dispersions, demand_class, int(horizon), DEFAULT_DISPERSION)
                result[counts] = negative_binomial_deciles(forecast_qty[counts], dispersion)
    return np.maximum.accumulate(np.maximum(result, 0.0), axis=1)


def negative_binomial_deciles(mean: Floats, dispersion: float | Floats) -> Floats:
    """Deciles [cell, decile] of negative binomials with variance = mean + dispersion * mean^2, whole numbers.

    Sums probabilities upwards from zero for all cells at once, so it is meant for small means.
    """
    mean = np.asarray(mean, dtype=float)
    shape = 1.0 / np.maximum(np.broadcast_to(np.asarray(dispersion, dtype=float), mean.shape), 1e-6)
    rate = mean / (mean + shape)
    probability = np.exp(-shape * np.log1p(mean / shape))
    cumulated = probability.copy()
    result = np.zeros((len(mean), len(LEVELS)))
    levels = np.asarray(LEVELS) - 1e-12
    count = 0
    # Each round moves the deciles not yet reached up by one.
    while (is_below := cumulated[:, None] < levels).any() and count < LARGEST_COUNT:
        result += is_below
        probability = probability * rate * (shape + count) / (count + 1)
        cumulated = cumulated + probability
        count += 1
    return result


def _spread(features: pd.DataFrame, forecast_qty: Floats) -> Floats:
    """Scale of an error as far as it is known at the origin, units; above zero."""
    deviation = features["demand_std_12"].fillna(0).to_numpy(dtype=float)
    level = np.maximum(features["demand_mean_12"].fillna(0).to_numpy(dtype=float), forecast_qty)
    return np.maximum(np.hypot(deviation, SMALLEST_SPREAD * level), 1e-9)


def _dispersion(actual_qty: Floats, forecast_qty: Floats) -> float:
    """d of variance = mean + d * mean^2 by moments, pooled over cells."""
    excess = float(((actual_qty - forecast_qty) ** 2 - forecast_qty).sum())
    return float(np.clip(excess / max(float((forecast_qty**2).sum()), 1e-12), 0.01, LARGEST_DISPERSION))


def _pools(classes: NDArray[np.str_], horizons: NDArray[np.int64]) -> list[tuple[Pool, Flags]]:
    """Every pool with its cells: class and horizon, class, all."""
    result: list[tuple[Pool, Flags]] = [((ALL_CLASSES, ALL_HORIZONS), np.ones(len(classes), dtype=bool))]
    for demand_class in np.unique(classes):
        of_class = classes == demand_class
        result.append(((str(demand_class), ALL_HORIZONS), of_class))
        result += [((str(demand_class), int(horizon)), of_class & (horizons == horizon)) for horizon in np.unique(horizons[of_class])]
    return result


def _lookup(table: Mapping[Pool, Value], demand_class: str, horizon: int, default: Value) -> Value:
    """The finest pool that was learned."""
    for pool in ((demand_class, horizon), (demand_class, ALL_HORIZONS), (ALL_CLASSES, ALL_HORIZONS)):
        if pool in table:
            return table[pool]
    return default
