"""Gradient-boosted trees trained across all parts, direct over horizons: one row per part, month t and horizon h with t + h known.

Demand is learned relative to what a part's own history says at t, so that parts of any size share one model: smooth demand as the
deviation from a seasonal level, all other demand as a multiple of its mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medallion_assets.tables import LAGS
from medallion_assets.zoo.calibration import Calibration, learn
from medallion_assets.zoo.series import Flags, Floats, demand_matrix, forecast_frame, month_number, recent_mean
from medallion_assets.zoo.spec import ModelSpec, Parameters

Regime = Literal["deviation", "ratio"]

FEATURE_GROUPS: dict[str, tuple[str, ...]] = {
    "lags": tuple(f"demand_lag_{lag}" for lag in LAGS),
    "rolling": (
        *(f"demand_mean_{n}" for n in (3, 6, 12, 24)),
        *(f"demand_std_{n}" for n in (6, 12, 24)),
        "demand_max_12",
    ),
    "calendar": ("month_of_year",),
    "intermittency": ("months_since_last_sale", "nonzero_share_12", "adi", "cv2", "nonzero_mean_24"),
    # Not revenue_12: a number that tells parts apart lets trees learn parts by heart (M3 backtest: MASE .819 with it, .788 without).
    "price": ("unit_price", "price_ratio_12"),
    "activity": ("history_months", "months_since_first_sale", "order_count_12", "customer_count_12", "returned_share_12"),
}
IN_UNITS = (*FEATURE_GROUPS["lags"], *FEATURE_GROUPS["rolling"], "nonzero_mean_24")
AGES = ("history_months", "months_since_first_sale")
LARGEST_AGE = 36  # months; beyond it age only says which part it is
# Months of history from which a part's own season is known; before, it is learned from the calendar month across parts.
SEASON_KNOWN = {"smooth": 24, "erratic": 36}
TREND_MONTHS = (3, 6, 12, 24)
THREADS = 1  # fixed, so that sums keep their order; more threads than free cores wait for each other longer than they work
MAX_ROWS = 240_000  # part, month and horizon; more added nothing to accuracy
MIN_ROWS = 60  # fewer rows than this and a mean says as much
LARGEST_RATIO = 20.0  # times the level: what a tree may learn from one freak month
LARGEST_DEVIATION = 10.0  # times the scale
SMOOTHING = 0.3  # of the deseasonalised level; the trees correct it
INDEX_PRIOR_YEARS = 1.5  # years of no season that a seasonal index is averaged with
SEASONAL_WINDOW = 6  # months on each side of the centred yearly mean


@dataclass(frozen=True)
class BoosterFit:
    """The learner with its columns per regime (one for both where the other has too few rows), and the calibration."""

    learners: dict[Regime, tuple[Any, list[str]]]
    unit: float
    calibration: Calibration
    importance: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SeasonalState:
    """What a part's own demand says at the end of every month [part, month]: deseasonalised level (units) and seasonal indices.

    ``index`` [part, month, calendar month] is the share by which the calendar month lies above the yearly mean, known at the month.
    """

    matrix: Floats
    calendar: NDArray[np.int64]
    level: Floats
    index: Floats


@dataclass(frozen=True)
class Cells:
    """Part, month t and horizon h, with the feature row at t. ``part`` and ``month`` are positions in the demand matrix."""

    rows: pd.DataFrame
    part: NDArray[np.int64]
    month: NDArray[np.int64]
    horizons: NDArray[np.int64]

    def take(self, member: Flags) -> Cells:
        return Cells(self.rows[member].reset_index(drop=True), self.part[member], self.month[member], self.horizons[member])


@dataclass(frozen=True)
class GlobalBooster(ABC):
    """A booster over all parts. ``groups`` are the feature groups it reads."""

    name: str
    groups: tuple[str, ...]
    rounds: int
    learning_rate: float

    @abstractmethod
    def train(self, regime: Regime, inputs: pd.DataFrame, target: Floats, weight: Floats, seed: int) -> Any:
        """A learner of the regime's target from the inputs."""

    @abstractmethod
    def apply(self, learner: Any, inputs: pd.DataFrame) -> Floats:
        """The target for each row."""

    @abstractmethod
    def importance(self, learner: Any, columns: list[str]) -> dict[str, float]:
        """Share of the loss reduction that each input brought."""

    def fit(self, demand: pd.DataFrame, features: pd.DataFrame, past: pd.DataFrame, origin: int, horizon: int, seed: int) -> BoosterFit:
        calibration = learn(past, self.name, features)
        unit = typical_size(features)
        parts = pd.Series(pd.unique(features["part_number"]))
        state = seasonal_state(demand_matrix(demand, parts, origin), origin)
        cells = training_cells(state, parts, features, origin, horizon, seed)
        actual_qty = np.nan_to_num(state.matrix[cells.part, cells.month + cells.horizons])
        learners: dict[Regime, tuple[Any, list[str]]] = {}
        importance: dict[str, float] = {}
        for regime, member in regimes(cells.rows):
            if member.sum() < MIN_ROWS or not actual_qty[member].any():
                continue
            inputs, base, scale, weight = design(regime, cells.take(member), state, self.groups, unit)
            limit = LARGEST_DEVIATION if regime == "deviation" else LARGEST_RATIO
            target = np.clip((actual_qty[member] - base) / scale, -limit, limit)
            columns = informative(inputs)
            learner = self.train(regime, inputs[columns], target, weight, seed)
            learners[regime] = (learner, columns)
            for column, value in self.importance(learner, columns).items():
                importance[column] = importance.get(column, 0.0) + value * float(member.mean())
        return BoosterFit(learners, unit, calibration, importance)

    def predict(self, fitted: BoosterFit, demand: pd.DataFrame, features: pd.DataFrame, origin: int, horizon: int) -> pd.DataFrame:
        matrix = demand_matrix(demand, features["part_number"], origin)
        part = np.repeat(np.arange(len(features)), horizon)
        expected = recent_mean(matrix)[part]
        if fitted.learners:
            state = seasonal_state(matrix, origin)
            cells = Cells(
                features.iloc[part].reset_index(drop=True),
                part,
                np.full(len(part), matrix.shape[1] - 1),
                np.tile(np.arange(1, horizon + 1), len(features)),
            )
            for regime, member in regimes(cells.rows):
                if member.any():
                    learned: Regime = regime if regime in fitted.learners else next(iter(fitted.learners))
                    learner, columns = fitted.learners[learned]
                    inputs, base, scale, _ = design(learned, cells.take(member), state, self.groups, fitted.unit)
                    expected[member] = base + scale * self.apply(learner, inputs[columns])
        forecast_qty = expected.reshape(len(features), horizon)
        return forecast_frame(features, matrix, forecast_qty, np.full(forecast_qty.shape, not fitted.learners), fitted.calibration)

    def feature_importance(self, fitted: BoosterFit) -> pd.DataFrame:
        """feature, importance (share of the loss reduction, 0 to 1), the most important first."""
        total = sum(fitted.importance.values()) or 1.0
        ranked = sorted(fitted.importance.items(), key=lambda entry: (-entry[1], entry[0]))
        return pd.DataFrame({"feature": [name for name, _ in ranked], "importance": [value / total for _, value in ranked]})


def regimes(rows: pd.DataFrame) -> tuple[tuple[Regime, Flags], ...]:
    """Which rows are learned how."""
    months_needed = rows["demand_class"].map(SEASON_KNOWN).to_numpy(dtype=float)
    has_level = rows["history_months"].to_numpy(dtype=float) >= months_needed
    return ("deviation", has_level), ("ratio", ~has_level)


def training_cells(state: SeasonalState, parts: pd.Series, features: pd.DataFrame, origin: int, horizon: int, seed: int) -> Cells:
    """Every cell whose target lies in the matrix, so no row sees past the origin; at most MAX_ROWS, drawn without replacement."""
    months = state.matrix.shape[1]
    row = pd.Index(parts).get_indexer(pd.Index(features["part_number"]))
    month = months - 1 - (month_number(origin) - month_number(features["yyyymm"]))
    position = np.tile(np.arange(len(features)), horizon)
    horizons = np.repeat(np.arange(1, horizon + 1), len(features))
    is_known = (month[position] >= 0) & (month[position] + horizons < months)
    position, horizons = position[is_known], horizons[is_known]
    if len(position) > MAX_ROWS:
        kept = np.sort(np.random.default_rng(seed).choice(len(position), MAX_ROWS, replace=False))
        position, horizons = position[kept], horizons[kept]
    return Cells(features.iloc[position].reset_index(drop=True), row[position], month[position], horizons)


def seasonal_state(matrix: Floats, origin: int) -> SeasonalState:
    """Level and seasonal indices of demand [part, month] at every month, each from nothing later.

    An index is the mean ratio to a centred twelve-month mean, known six months after the month, shrunk towards no season.
    """
    parts, months = matrix.shape
    calendar = np.asarray((int(month_number(origin)) - np.arange(months)[::-1]) % 12, dtype=np.int64)
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
    """Inputs of the learner, one row per cell, and base, scale and weight: demand = base + scale * target, units."""
    return _deviation_design(cells, state, groups) if regime == "deviation" else _ratio_design(cells, groups, unit)


def _deviation_design(cells: Cells, state: SeasonalState, groups: tuple[str, ...]) -> tuple[pd.DataFrame, Floats, Floats, Floats]:
    """Deseasonalised history around its level, in units of the scale of seasonal naive."""
    rows, part, month = cells.rows, cells.part, cells.month
    index = state.index[part, month]
    level = np.maximum(state.level[part, month], 0.0)
    mean = rows["demand_mean_12"].fillna(0).to_numpy(dtype=float)
    size = np.maximum(np.maximum(level, mean), 1e-9)
    known_scale = rows["seasonal_mae_scale"].fillna(rows["demand_std_12"]).fillna(0).to_numpy(dtype=float)
    scale = np.maximum(known_scale, 0.03 * size)
    target_month = (state.calendar[month] + cells.horizons) % 12
    season = index[np.arange(len(part)), target_month]
    base = level * (1 + season)
    inputs: dict[str, Floats] = {"horizon": cells.horizons.astype(float), "scale": np.log(scale / size)}
    for group in groups:
        for column in FEATURE_GROUPS[group]:
            values = rows[column].to_numpy(dtype=float)
            if group == "lags":
                lag = int(column.rsplit("_", 1)[1])
                inputs[column] = (values / (1 + index[np.arange(len(part)), (state.calendar[month] - lag) % 12]) - level) / scale
            elif column.startswith("demand_mean") or column in ("demand_max_12", "nonzero_mean_24"):
                inputs[column] = (values - level) / scale
            elif column in IN_UNITS:
                inputs[column] = values / scale
            elif column != "month_of_year":
                inputs[column] = np.minimum(values, LARGEST_AGE) if column in AGES else values
    if "rolling" in groups:
        for months in TREND_MONTHS:
            earlier = np.where(month >= months, state.level[part, np.maximum(month - months, 0)], np.nan)
            inputs[f"level_change_{months}"] = (level - earlier) / scale
    if "lags" in groups:
        before = np.column_stack([rows[f"demand_lag_{lag}"].to_numpy(dtype=float) for lag in range(12)])
        inputs["demand_year_before"] = (before[np.arange(len(part)), -cells.horizons % 12] - base) / scale
    if "calendar" in groups:
        inputs["target_month_of_year"] = (target_month + 1).astype(float)
        inputs["target_season"] = season * level / scale
        inputs["origin_season"] = index[np.arange(len(part)), state.calendar[month]] * level / scale
    return pd.DataFrame(inputs), base, scale, np.ones(len(part))


def _ratio_design(cells: Cells, groups: tuple[str, ...], unit: float) -> tuple[pd.DataFrame, Floats, Floats, Floats]:
    """History as multiples of the mean level; the target is a ratio, so its base is zero."""
    rows = cells.rows
    level = part_level(rows, unit)
    inputs: dict[str, Floats] = {"horizon": cells.horizons.astype(float), "level": np.log(level)}
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
        inputs["target_month_of_year"] = ((rows["month_of_year"].to_numpy() - 1 + cells.horizons) % 12 + 1).astype(float)
    # Of a part selling few units a month a ratio says little: variance of a negative binomial, in units of the level.
    return pd.DataFrame(inputs), np.zeros(len(rows)), level, level / (level + unit)


def informative(inputs: pd.DataFrame) -> list[str]:
    """Columns with at least two values; scikit-learn refuses a column without any."""
    return [str(column) for column in inputs if inputs[column].nunique() > 1]


def part_level(rows: pd.DataFrame, unit: float) -> Floats:
    """Monthly demand as known at the row's month, above zero, units: what demand is divided by."""
    means = rows[["demand_mean_3", "demand_mean_6", "demand_mean_12", "demand_mean_24"]].to_numpy(dtype=float)
    count = np.maximum((~np.isnan(means)).sum(axis=1), 1)
    size = rows["nonzero_mean_24"].fillna(unit).to_numpy(dtype=float)
    return np.nansum(means, axis=1) / count + 0.05 * np.maximum(size, 1e-9)


def typical_size(features: pd.DataFrame) -> float:
    """Median demand of a month that has any, over parts, units."""
    sizes = features["nonzero_mean_24"].dropna()
    return float(sizes.median()) if len(sizes) and sizes.median() > 0 else 1.0


@dataclass(frozen=True)
class XGBoost(GlobalBooster):
    """XGBoost: pseudo-Huber loss of deviations, because a freak month must not move the level of all; Poisson deviance of ratios."""

    def train(self, regime: Regime, inputs: pd.DataFrame, target: Floats, weight: Floats, seed: int) -> Any:
        import xgboost

        parameters = {
            "objective": "reg:pseudohubererror" if regime == "deviation" else "count:poisson",
            "eta": self.learning_rate,
            "max_depth": 6,
            "min_child_weight": 20,
            "subsample": 0.7,
            "colsample_bytree": 0.6,
            "lambda": 5.0,
            "tree_method": "hist",
            "max_bin": 64,
            "nthread": THREADS,
            "seed": seed,
        }
        return xgboost.train(parameters, xgboost.QuantileDMatrix(inputs, target, weight=weight, max_bin=64, nthread=THREADS), self.rounds)

    def apply(self, learner: Any, inputs: pd.DataFrame) -> Floats:
        import xgboost

        return np.asarray(learner.predict(xgboost.DMatrix(inputs, nthread=THREADS)), dtype=float)

    def importance(self, learner: Any, columns: list[str]) -> dict[str, float]:
        gains: dict[str, float] = learner.get_score(importance_type="total_gain")
        total = sum(gains.values()) or 1.0
        return {column: gains.get(column, 0.0) / total for column in columns}


@dataclass(frozen=True)
class HistGradient(GlobalBooster):
    """Scikit-learn's histogram gradient boosting: squared error of deviations, Poisson deviance of ratios."""

    def train(self, regime: Regime, inputs: pd.DataFrame, target: Floats, weight: Floats, seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        learner = HistGradientBoostingRegressor(
            loss="squared_error" if regime == "deviation" else "poisson",
            learning_rate=self.learning_rate,
            max_iter=self.rounds,
            max_leaf_nodes=31,
            min_samples_leaf=50,
            l2_regularization=5.0,
            max_features=0.6,
            max_bins=64,
            early_stopping=False,
            random_state=seed,
        )
        # With weights scikit-learn sorts every column once for every bin, which takes longer than all rounds.
        weights = None if (weight == weight[0]).all() else weight
        with threadpool_limits(THREADS):
            return learner.fit(inputs.to_numpy(dtype=float), target, sample_weight=weights)

    def apply(self, learner: Any, inputs: pd.DataFrame) -> Floats:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(THREADS):
            return np.asarray(learner.predict(inputs.to_numpy(dtype=float)), dtype=float)

    def importance(self, learner: Any, columns: list[str]) -> dict[str, float]:
        gains = np.zeros(len(columns))
        # Scikit-learn publishes no gains of these trees; its nodes hold them.
        for nodes in (tree.nodes for trees in learner._predictors for tree in trees):
            splits = nodes[nodes["is_leaf"] == 0]
            np.add.at(gains, splits["feature_idx"].astype(int), np.maximum(splits["gain"], 0.0))
        return dict(zip(columns, gains / (gains.sum() or 1.0), strict=True))


def _groups(parameters: Parameters) -> tuple[str, ...]:
    return tuple(group for group in FEATURE_GROUPS if parameters[f"use_{group}"])


USE_GROUPS: dict[str, bool] = {f"use_{group}": True for group in FEATURE_GROUPS}

MODELS = (
    ModelSpec(
        name="sklearn_hist_gradient",
        family="boosting",
        description="Histogram gradient boosting over all parts (scikit-learn)",
        build=lambda p: HistGradient("sklearn_hist_gradient", _groups(p), int(p["rounds"]), float(p["learning_rate"])),
        parameters={**USE_GROUPS, "rounds": 150, "learning_rate": 0.06},
        is_global=True,
    ),
    ModelSpec(
        name="xgboost_global",
        family="boosting",
        description="XGBoost over all parts",
        build=lambda p: XGBoost("xgboost_global", _groups(p), int(p["rounds"]), float(p["learning_rate"])),
        parameters={**USE_GROUPS, "rounds": 200, "learning_rate": 0.05},
        is_global=True,
    ),
)
