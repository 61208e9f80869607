"""What boosters over all parts learn from: one row per part, month t and horizon h with t + h
known, relative to a part's own history.

Smooth demand is the deviation from a seasonal level, all other demand a multiple of its mean, so
that parts of any size share one model. The boosters themselves are in boosting.py and
distribution.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medallion_assets.tables import LAGS
from medallion_assets.zoo.series import Flags, Floats, month_number

Regime = Literal["deviation", "ratio"]

FEATURE_GROUPS: dict[str, tuple[str, ...]] = {
    "lags": tuple(f"demand_lag_{lag}" for lag in LAGS),
    "rolling": (
        *(f"demand_mean_{n}" for n in (3, 6, 12, 24)),
        *(f"demand_std_{n}" for n in (6, 12, 24)),
        "demand_max_12",
    ),
    "calendar": ("month_of_year",),
    "intermittency": (
        "months_since_last_sale",
        "nonzero_share_12",
        "adi",
        "cv2",
        "nonzero_mean_24",
    ),
    # Not revenue_12: a number that tells parts apart lets trees learn parts by heart (M3 backtest:
    # MASE .819 with it, .788 without).
    "price": ("unit_price", "price_ratio_12"),
    "activity": (
        "history_months",
        "months_since_first_sale",
        "order_count_12",
        "customer_count_12",
        "returned_share_12",
    ),
}
IN_UNITS = (*FEATURE_GROUPS["lags"], *FEATURE_GROUPS["rolling"], "nonzero_mean_24")
AGES = ("history_months", "months_since_first_sale")
LARGEST_AGE = 36  # months; beyond it age only says which part it is
# Months of history from which a part's own season is known; before, it is learned from the calendar
# month across parts.
SEASON_KNOWN = {"smooth": 24, "erratic": 36}
TREND_MONTHS = (3, 6, 12, 24)
MIN_ROWS = 60  # fewer rows than this and a mean says as much
MAX_ROWS = 240_000  # part, month and horizon; more added nothing to accuracy
LARGEST_RATIO = 20.0  # times the level: what a tree may learn from one freak month
LARGEST_DEVIATION = 10.0  # times the scale
SMOOTHING = 0.3  # of the deseasonalised level; the trees correct it
INDEX_PRIOR_YEARS = 1.5  # years of no season that a seasonal index is averaged with
SEASONAL_WINDOW = 6  # months on each side of the centred yearly mean


@dataclass(frozen=True)
class SeasonalState:
    """What a part's own demand says at the end of every month [part, month]: deseasonalised level
    (units) and seasonal indices.

    ``index`` [part, month, calendar month] is the share by which the calendar month lies above the
    yearly mean, known at the month.
    """

    matrix: Floats
    calendar: NDArray[np.int64]
    level: Floats
    index: Floats


@dataclass(frozen=True)
class Cells:
    """Part, month t and horizon h, with the feature row at t. ``part`` and ``month`` are positions
    in the demand matrix.
    """

    rows: pd.DataFrame
    part: NDArray[np.int64]
    month: NDArray[np.int64]
    horizons: NDArray[np.int64]

    def take(self, chosen: Flags | NDArray[np.int64]) -> Cells:
        """The cells that are flagged, or those at positions."""
        return Cells(
            self.rows.iloc[chosen].reset_index(drop=True),
            self.part[chosen],
            self.month[chosen],
            self.horizons[chosen],
        )


def regimes(rows: pd.DataFrame) -> tuple[tuple[Regime, Flags], ...]:
    """Which rows are learned how."""
    months_needed = rows["demand_class"].map(SEASON_KNOWN).to_numpy(dtype=float)
    has_level = rows["history_months"].to_numpy(dtype=float) >= months_needed
    return ("deviation", has_level), ("ratio", ~has_level)


def training_cells(  # noqa: PLR0913, PLR0917 - what is known, and how many cells are drawn of it
    state: SeasonalState,
    parts: pd.Series,
    features: pd.DataFrame,
    origin: int,
    horizon: int,
    seed: int,
    max_rows: int = MAX_ROWS,
) -> Cells:
    """Every cell whose target lies in the matrix, so no row sees past the origin; at most
    ``max_rows``, drawn without replacement.
    """
    months = state.matrix.shape[1]
    row = pd.Index(parts).get_indexer(pd.Index(features["part_number"]))
    month = months - 1 - (month_number(origin) - month_number(features["yyyymm"]))
    position = np.tile(np.arange(len(features)), horizon)
    horizons = np.repeat(np.arange(1, horizon + 1), len(features))
    is_known = (month[position] >= 0) & (month[position] + horizons < months)
    position, horizons = position[is_known], horizons[is_known]
    kept = thinned(len(position), max_rows, seed)
    position, horizons = position[kept], horizons[kept]
    return Cells(
        features.iloc[position].reset_index(drop=True), row[position], month[position], horizons
    )


def thinned(rows: int, max_rows: int, seed: int) -> NDArray[np.int64]:
    """Positions of all rows, or of ``max_rows`` of them drawn without replacement; ascending."""
    return (
        np.arange(rows)
        if rows <= max_rows
        else np.sort(np.random.default_rng(seed).choice(rows, max_rows, replace=False))
    )


def forecast_cells(matrix: Floats, features: pd.DataFrame, horizon: int) -> Cells:
    """The cells of an origin, the last month of the matrix: every part of ``features`` (one row
    each) and horizon.
    """
    part = np.repeat(np.arange(len(features)), horizon)
    last = np.full(len(part), matrix.shape[1] - 1)
    return Cells(
        features.iloc[part].reset_index(drop=True),
        part,
        last,
        np.tile(np.arange(1, horizon + 1), len(features)),
    )


def seasonal_state(matrix: Floats, origin: int) -> SeasonalState:
    """Level and seasonal indices of demand [part, month] at every month, each from nothing later.

    An index is the mean ratio to a centred twelve-month mean, known six months after the month,
    shrunk towards no season.
    """
    parts, months = matrix.shape
    calendar = np.asarray(
        (int(month_number(origin)) - np.arange(months)[::-1]) % 12, dtype=np.int64
    )
    window = np.full(2 * SEASONAL_WINDOW + 1, 1 / 12)
    window[[0, -1]] /= 2
    total = np.zeros((parts, 12))
    count = np.zeros((parts, 12))
    index = np.zeros((parts, months, 12))
    level = np.full((parts, months), np.nan)
    current = np.full(parts, np.nan)
    for month in range(months):
        if month >= 2 * SEASONAL_WINDOW:
            yearly = matrix[:, month - 2 * SEASONAL_WINDOW : month + 1] @ window
            middle = month - SEASONAL_WINDOW
            is_known = yearly > 0  # false where NaN
            ratio = np.clip(matrix[is_known, middle] / yearly[is_known] - 1, -1.0, 3.0)
            total[is_known, calendar[middle]] += ratio
            count[is_known, calendar[middle]] += 1
        shrunk = total / (count + INDEX_PRIOR_YEARS)
        index[:, month] = np.maximum(shrunk - shrunk.mean(axis=1, keepdims=True), -0.9)
        value = matrix[:, month] / (1 + index[:, month, calendar[month]])
        current = np.where(np.isnan(current), value, current + SMOOTHING * (value - current))
        level[:, month] = current
    return SeasonalState(matrix, calendar, level, index)


def design(
    regime: Regime, cells: Cells, state: SeasonalState, groups: tuple[str, ...], unit: float
) -> tuple[pd.DataFrame, Floats, Floats, Floats]:
    """Inputs of the learner, one row per cell, and base, scale and weight: demand = base + scale *
    target, units.
    """
    return (
        _deviation_design(cells, state, groups)
        if regime == "deviation"
        else _ratio_design(cells, groups, unit)
    )


def _deviation_design(
    cells: Cells, state: SeasonalState, groups: tuple[str, ...]
) -> tuple[pd.DataFrame, Floats, Floats, Floats]:
    """Deseasonalised history around its level, in units of the scale of seasonal naive."""
    rows, part, month = cells.rows, cells.part, cells.month
    index = state.index[part, month]
    level = np.maximum(state.level[part, month], 0.0)
    mean = rows["demand_mean_12"].fillna(0).to_numpy(dtype=float)
    size = np.maximum(np.maximum(level, mean), 1e-9)
    known_scale = (
        rows["seasonal_mae_scale"].fillna(rows["demand_std_12"]).fillna(0).to_numpy(dtype=float)
    )
    scale = np.maximum(known_scale, 0.03 * size)
    target_month = (state.calendar[month] + cells.horizons) % 12
    season = index[np.arange(len(part)), target_month]
    base = level * (1 + season)
    inputs: dict[str, Floats] = {
        "horizon": cells.horizons.astype(float),
        "scale": np.log(scale / size),
    }
    for group in groups:
        for column in FEATURE_GROUPS[group]:
            values = rows[column].to_numpy(dtype=float)
            if group == "lags":
                lag = int(column.rsplit("_", 1)[1])
                inputs[column] = (
                    values / (1 + index[np.arange(len(part)), (state.calendar[month] - lag) % 12])
                    - level
                ) / scale
            elif column.startswith("demand_mean") or column in ("demand_max_12", "nonzero_mean_24"):
                inputs[column] = (values - level) / scale
            elif column in IN_UNITS:
                inputs[column] = values / scale
            elif column != "month_of_year":
                inputs[column] = np.minimum(values, LARGEST_AGE) if column in AGES else values
    if "rolling" in groups:
        for months in TREND_MONTHS:
            earlier = np.where(
                month >= months, state.level[part, np.maximum(month - months, 0)], np.nan
            )
            inputs[f"level_change_{months}"] = (level - earlier) / scale
    if "lags" in groups:
        before = np.column_stack(
            [rows[f"demand_lag_{lag}"].to_numpy(dtype=float) for lag in range(12)]
        )
        inputs["demand_year_before"] = (
            before[np.arange(len(part)), -cells.horizons % 12] - base
        ) / scale
    if "calendar" in groups:
        inputs["target_month_of_year"] = (target_month + 1).astype(float)
        inputs["target_season"] = season * level / scale
        inputs["origin_season"] = index[np.arange(len(part)), state.calendar[month]] * level / scale
    return pd.DataFrame(inputs), base, scale, np.ones(len(part))


def _ratio_design(
    cells: Cells, groups: tuple[str, ...], unit: float
) -> tuple[pd.DataFrame, Floats, Floats, Floats]:
    """History as multiples of the mean level; the target is a ratio, so its base is zero."""
    level = part_level(cells.rows, unit)
    inputs = plain_inputs(cells, groups, level).assign(level=np.log(level))
    # For slow movers a ratio carries little information: the variance of a negative binomial, in
    # units of the level.
    return inputs, np.zeros(len(level)), level, level / (level + unit)


def plain_inputs(cells: Cells, groups: tuple[str, ...], level: Floats) -> pd.DataFrame:
    """History as multiples of a level (units), one row per cell, with horizon, the month a year
    before and the calendar month.
    """
    rows = cells.rows
    inputs: dict[str, Floats] = {"horizon": cells.horizons.astype(float)}
    for group in groups:
        for column in FEATURE_GROUPS[group]:
            values = rows[column].to_numpy(dtype=float)
            if column in IN_UNITS:
                inputs[column] = values / level
            elif column != "month_of_year":
                inputs[column] = np.minimum(values, LARGEST_AGE) if column in AGES else values
    if "lags" in groups:
        by_lag = np.column_stack([inputs[f"demand_lag_{number}"] for number in range(12)])
        inputs["demand_year_before"] = by_lag[np.arange(len(rows)), -cells.horizons % 12]
    if "calendar" in groups:
        inputs["target_month_of_year"] = (
            (rows["month_of_year"].to_numpy() - 1 + cells.horizons) % 12 + 1
        ).astype(float)
    return pd.DataFrame(inputs)


def informative(inputs: pd.DataFrame) -> list[str]:
    """Columns with at least two values; scikit-learn refuses a column without any."""
    return [str(column) for column in inputs if inputs[column].nunique() > 1]


def part_level(rows: pd.DataFrame, unit: float) -> Floats:
    """Monthly demand as known at the row's month, above zero, units: what demand is divided by."""
    means = rows[["demand_mean_3", "demand_mean_6", "demand_mean_12", "demand_mean_24"]].to_numpy(
        dtype=float
    )
    count = np.maximum((~np.isnan(means)).sum(axis=1), 1)
    size = rows["nonzero_mean_24"].fillna(unit).to_numpy(dtype=float)
    return np.nansum(means, axis=1) / count + 0.05 * np.maximum(size, 1e-9)


def typical_size(features: pd.DataFrame) -> float:
    """Median demand of a month that has any, over parts, units."""
    sizes = features["nonzero_mean_24"].dropna()
    return float(sizes.median()) if len(sizes) and sizes.median() > 0 else 1.0
