"""Deciles around a point forecast, learned from the model's own past errors.

Small whole-number demand gets a negative binomial around the forecast, all other demand quantiles
of scaled errors. How wide either is depends on what was known of the part at the origin, by one
regression over all past cells.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medallion_assets.tables import DEMAND_CLASSES, LEVELS

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
SMALLEST_DISPERSION, LARGEST_DISPERSION = 0.01, 50.0
KNOWN_SHARE = 0.2  # of the past cells that must have a feature; young parts lack some
# cells a regression reads; more move its few coefficients by less than their error
FIT_CELLS = 20_000
RIDGE = 0.01
SPREAD_FEATURES = ("demand_std_12", "demand_std_24", "naive_rmse_scale", "seasonal_mae_scale")
ORIGIN_FEATURES = (*SPREAD_FEATURES, "demand_mean_12", "nonzero_mean_24")


@dataclass(frozen=True)
class Calibration:
    """What past errors taught of one model's spread.

    ``errors`` holds, by pool (demand class or all, horizon or all), the deciles of (demand -
    forecast) / spread; ``spread`` the coefficients of log(spread / level), ``dispersion`` those of
    log(d) with variance = mean + d * mean^2. ``known`` names the features that the past cells came
    with: only these are read when it is applied, or the same part would be measured by two
    yardsticks. An empty Calibration gives normal errors and DEFAULT_DISPERSION. ``newcomer_qty`` is
    the monthly demand of new parts.
    """

    errors: Mapping[Pool, tuple[float, ...]] = field(default_factory=dict)
    spread: tuple[float, ...] = ()
    dispersion: tuple[float, ...] = ()
    known: tuple[str, ...] = ("demand_mean_12", "demand_std_12")
    cell_count: int = 0
    newcomer_qty: float = 0.0


def is_count_demand(matrix: Floats) -> Flags:
    """Parts whose demand [part, month] is counted in whole units and small; a part never sold is
    one of them.
    """
    known = np.nan_to_num(matrix)
    is_whole = (known == np.round(known)).all(axis=1)
    # Months before the first count as none sold, however many of them other parts have.
    return is_whole & (known[:, -12:].sum(axis=1) / 12 <= COUNT_LIMIT)


def learn(own_past: pd.DataFrame, features: pd.DataFrame | None = None) -> Calibration:
    """The spread of a model's errors on its own past cells, as Known has them; stand-in forecasts
    are no evidence.

    ``features`` (silver.demand_features of the training window) adds those of ORIGIN_FEATURES that
    ``own_past`` lacks. Errors are pooled by demand class and horizon, over horizons where a pool
    has under MIN_CELLS cells, then over classes.
    """
    newcomer_qty = newcomer_demand(features) if features is not None else 0.0
    if own_past.empty:
        return Calibration(newcomer_qty=newcomer_qty)
    cells = own_past[~own_past["is_fallback"].astype(bool)]
    if cells.empty:
        return Calibration(newcomer_qty=newcomer_qty)
    if features is not None:
        cells = _with_features(cells, features)
    is_whole = (
        (cells["actual_qty"] % 1 == 0).groupby(cells["part_number"]).transform("all").to_numpy()
    )
    is_count = is_whole & (_column(cells, "demand_mean_12", 0.0) <= COUNT_LIMIT)
    known = tuple(
        name
        for name in ORIGIN_FEATURES
        if name in cells and cells[name].notna().mean() > KNOWN_SHARE
    )
    cells = cells[[column for column in cells if column in known or column not in ORIGIN_FEATURES]]
    errors, spread = _learn_errors(cells[~is_count])
    return Calibration(
        errors, spread, _learn_dispersion(cells[is_count]), known, len(cells), newcomer_qty
    )


def newcomer_demand(features: pd.DataFrame) -> float:
    """Monthly demand of parts that are new and have been sold, mean over parts, units; where there
    is none, the median of all parts.
    """
    if features.empty:
        return 0.0
    means = features["demand_mean_3"].to_numpy(dtype=float)
    is_new = (features["demand_class"] == "new").to_numpy() & (np.nan_to_num(means) > 0)
    return float(
        means[is_new].mean() if is_new.any() else np.nan_to_num(np.nanmedian(np.append(means, 0.0)))
    )


def deciles(
    calibration: Calibration,
    forecast_qty: Floats,
    features: pd.DataFrame,
    horizons: NDArray[np.int64],
    is_count: Flags,
) -> Floats:
    """Deciles [cell, decile] of demand in units: finite, not negative, in order.

    ``features`` has one row per cell, as of the origin, with demand_class and those of
    ORIGIN_FEATURES that are known.
    """
    forecast_qty = np.asarray(forecast_qty, dtype=float)
    features = features[["demand_class", *(name for name in calibration.known if name in features)]]
    classes = features["demand_class"].to_numpy(dtype=str)
    spread = _spread(features, forecast_qty, horizons, calibration.spread)
    errors = np.zeros((len(forecast_qty), len(LEVELS)))
    for demand_class in np.unique(classes):
        for horizon in np.unique(horizons):
            errors[(classes == demand_class) & (horizons == horizon)] = _lookup(
                calibration.errors, demand_class, int(horizon), _normal()
            )
    result = forecast_qty[:, None] + spread[:, None] * errors
    if is_count.any():
        dispersion = np.full(len(forecast_qty), DEFAULT_DISPERSION)
        if calibration.dispersion:
            dispersion = _dispersion(
                _dispersion_inputs(features, forecast_qty, horizons),
                np.asarray(calibration.dispersion),
            )
        result[is_count] = negative_binomial_deciles(forecast_qty[is_count], dispersion[is_count])
    return np.maximum.accumulate(np.maximum(result, 0.0), axis=1)


def negative_binomial_deciles(mean: Floats, dispersion: float | Floats) -> Floats:
    """Deciles [cell, decile] of negative binomials with variance = mean + dispersion * mean^2,
    whole numbers.
    """
    from scipy.stats import nbinom

    mean = np.asarray(mean, dtype=float)[:, None]
    shape = 1.0 / np.maximum(
        np.reshape(np.broadcast_to(np.asarray(dispersion, dtype=float), len(mean)), (-1, 1)), 1e-6
    )
    # A level that a count reaches but for the last digits is reached.
    return np.asarray(
        nbinom.ppf(np.asarray(LEVELS) - 1e-12, shape, shape / (shape + mean)), dtype=float
    )


def _learn_errors(cells: pd.DataFrame) -> tuple[dict[Pool, tuple[float, ...]], tuple[float, ...]]:
    """Deciles of scaled errors by pool, and the coefficients of the spread they are scaled by."""
    if cells.empty:
        return {}, ()
    forecast_qty = cells["forecast_qty"].to_numpy(dtype=float)
    actual_qty = cells["actual_qty"].to_numpy(dtype=float)
    horizons = cells["horizon"].to_numpy()
    coefficients = _fit_spread(cells, forecast_qty, actual_qty) if len(cells) >= MIN_CELLS else ()
    spread = _spread(cells, forecast_qty, horizons, coefficients)
    scaled = (actual_qty - forecast_qty) / spread
    is_smooth = (cells["demand_class"] == "smooth").to_numpy()
    # All parts share the few months behind this evidence: their common error is what happened to
    # happen, not what will again. Smooth demand has no skew that outlasts it, so its median is the
    # forecast; of other demand only the bias of the sums is taken out.
    median = pd.Series(scaled).groupby([horizons, is_smooth]).transform("median").to_numpy()
    scaled[is_smooth] -= median[is_smooth]
    other = ~is_smooth
    if forecast_qty[other].sum() > 0:
        unbiased = forecast_qty[other] * np.clip(
            actual_qty[other].sum() / forecast_qty[other].sum(), 0.2, 5.0
        )
        scaled[other] = (actual_qty[other] - unbiased) / _spread(
            cells[other], unbiased, horizons[other], coefficients
        )
    errors = {}
    for pool, member in _pools(cells["demand_class"].to_numpy(dtype=str), horizons):
        if member.sum() >= MIN_CELLS or pool == (ALL_CLASSES, ALL_HORIZONS):
            errors[pool] = tuple(float(q) for q in np.quantile(scaled[member], LEVELS))
    return errors, coefficients


def _fit_spread(cells: pd.DataFrame, forecast_qty: Floats, actual_qty: Floats) -> tuple[float, ...]:
    """Ridge regression of log(abs(error) / level) on the spread inputs; the first coefficient is
    the constant.

    The horizon is one of them, so that origins of which only short horizons are known yet say
    something of the long ones.
    """
    inputs, level = _spread_inputs(cells, forecast_qty, cells["horizon"].to_numpy())
    size = np.log(np.clip(np.abs(actual_qty - forecast_qty) / level, 0.005, 20))
    size -= size.mean()
    center, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    standard = (inputs - center) / scale
    weights = (
        np.linalg.solve(
            standard.T @ standard + RIDGE * len(standard) * np.eye(standard.shape[1]),
            standard.T @ size,
        )
        / scale
    )
    return (float(-center @ weights), *(float(w) for w in weights))


def _spread(
    features: pd.DataFrame,
    forecast_qty: Floats,
    horizons: NDArray[np.int64],
    coefficients: tuple[float, ...],
) -> Floats:
    """Scale of an error as far as it is known at the origin, units; above zero."""
    inputs, level = _spread_inputs(features, forecast_qty, horizons)
    if coefficients:
        return level * np.exp(
            np.clip(coefficients[0] + inputs @ np.asarray(coefficients[1:]), -3.0, 3.0)
        )
    return np.maximum(
        np.hypot(_column(features, "demand_std_12", 0.0), SMALLEST_SPREAD * level), 1e-9
    )


def _spread_inputs(
    features: pd.DataFrame, forecast_qty: Floats, horizons: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Logarithms of known spreads over the level, of the level, the forecast over it, the horizon
    [cell, input]; and the level.
    """
    level = np.maximum(np.maximum(_column(features, "demand_mean_12", 0.0), forecast_qty), 1e-9)
    known = (
        np.column_stack([_column(features, name, np.nan) for name in SPREAD_FEATURES])
        / level[:, None]
    )
    logs = np.log(np.clip(np.where(known > 0, known, np.nan), 0.02, 5.0))
    count = (~np.isnan(logs)).sum(axis=1, keepdims=True)
    mean = np.where(
        count > 0, np.nansum(logs, axis=1, keepdims=True) / np.maximum(count, 1), np.log(0.5)
    )
    logs = np.where(np.isnan(logs), mean, logs)
    return (
        np.column_stack(
            [logs, np.log(level), np.log(np.maximum(forecast_qty / level, 0.01)), np.log(horizons)]
        ),
        level,
    )


def _learn_dispersion(cells: pd.DataFrame) -> tuple[float, ...]:
    """Coefficients of log(d) by maximum likelihood of negative binomials around the forecasts; none
    from under MIN_CELLS cells.
    """
    from scipy.optimize import minimize
    from scipy.special import digamma, gammaln

    if len(cells) < MIN_CELLS:
        return ()
    if len(cells) > FIT_CELLS:
        cells = cells.iloc[np.linspace(0, len(cells) - 1, FIT_CELLS).astype(int)]
    mean = np.maximum(cells["forecast_qty"].to_numpy(dtype=float), 1e-3)
    inputs = _dispersion_inputs(cells, mean, cells["horizon"].to_numpy())
    actual_qty = cells["actual_qty"].to_numpy(dtype=float)

    def loss(coefficients: Floats) -> tuple[float, Floats]:
        dispersion = _dispersion(inputs, coefficients)
        shape = 1.0 / dispersion
        likelihood = gammaln(actual_qty + shape) - gammaln(shape) - shape * np.log1p(mean / shape)
        likelihood += actual_qty * np.log(mean / (shape + mean))
        by_shape = (
            digamma(actual_qty + shape)
            - digamma(shape)
            - np.log1p(mean / shape)
            + (mean - actual_qty) / (shape + mean)
        )
        penalty = np.append(0.0, coefficients[1:])
        is_free = (dispersion > SMALLEST_DISPERSION) & (dispersion < LARGEST_DISPERSION)
        # d(shape) / d(log d) = -shape, so the two signs cancel.
        gradient = (inputs * (by_shape * shape * is_free)[:, None]).mean(axis=0)
        return (
            float(-likelihood.mean() + RIDGE / 10 * (penalty**2).sum()),
            gradient + RIDGE / 5 * penalty,
        )

    return tuple(
        float(c) for c in minimize(loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B").x
    )


def _dispersion(inputs: Floats, coefficients: Floats) -> Floats:
    """D of variance = mean + d * mean^2, per cell."""
    return np.clip(
        np.exp(np.clip(inputs @ coefficients, -20.0, 20.0)), SMALLEST_DISPERSION, LARGEST_DISPERSION
    )


def _dispersion_inputs(
    features: pd.DataFrame, forecast_qty: Floats, horizons: NDArray[np.int64]
) -> Floats:
    """What the dispersion of a part's counts depends on [cell, input]: forecast, dispersion so far,
    size of a sale, horizon, class.
    """
    mean, deviation = (
        _column(features, "demand_mean_12", 0.0),
        _column(features, "demand_std_12", 0.0),
    )
    size = np.clip(_column(features, "nonzero_mean_24", 1.0), 0.5, 50.0)
    classes = features["demand_class"].to_numpy(dtype=str)
    return np.column_stack(
        [
            np.ones(len(mean)),
            np.log(np.maximum(forecast_qty, 1e-3)),
            # One month of one unit is added, so that a year with a single sale counts as Poisson.
            np.log((12 * deviation**2 + 1) / (12 * mean + 1)),
            np.log(size),
            np.asarray(horizons) / 12,
            *(classes == demand_class for demand_class in DEMAND_CLASSES[:-1]),
        ]
    ).astype(float)


def _with_features(cells: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Cells with what was known of the part at their origin; the values they bring themselves
    win.
    """
    wanted = [name for name in ORIGIN_FEATURES if name in features and name not in cells]
    known = features[["part_number", "yyyymm", *wanted]].rename(columns={"yyyymm": "origin"})
    return cells.merge(known.astype({"origin": "int64"}), on=["part_number", "origin"], how="left")


def _column(frame: pd.DataFrame, name: str, missing: float) -> Floats:
    """A column as floats, ``missing`` where it or a value is not there."""
    if name not in frame:
        return np.full(len(frame), missing)
    values = frame[name].to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isfinite(values), values, missing)


def _pools(classes: NDArray[np.str_], horizons: NDArray[np.int64]) -> list[tuple[Pool, Flags]]:
    """Every pool with its cells: class and horizon, class, all."""
    result: list[tuple[Pool, Flags]] = [
        ((ALL_CLASSES, ALL_HORIZONS), np.ones(len(classes), dtype=bool))
    ]
    for demand_class in np.unique(classes):
        of_class = classes == demand_class
        result.append(((str(demand_class), ALL_HORIZONS), of_class))
        result += [
            ((str(demand_class), int(horizon)), of_class & (horizons == horizon))
            for horizon in np.unique(horizons[of_class])
        ]
    return result


@functools.cache
def _normal() -> tuple[float, ...]:
    """Deciles of the standard normal distribution."""
    from scipy.special import ndtri

    return tuple(float(z) for z in ndtri(np.asarray(LEVELS)))


def _lookup(table: Mapping[Pool, Value], demand_class: str, horizon: int, default: Value) -> Value:
    """The finest pool that was learned."""
    for pool in (
        (demand_class, horizon),
        (demand_class, ALL_HORIZONS),
        (ALL_CLASSES, ALL_HORIZONS),
    ):
        if pool in table:
            return table[pool]
    return default
