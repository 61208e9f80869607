"""Gradient-boosted trees trained across all parts, direct over horizons: one row per part, month t and horizon h with t + h known.

Demand is learned relative to a level of the part known at t, so that parts of any size share one model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medallion_assets.tables import LAGS
from medallion_assets.zoo.calibration import Calibration, learn
from medallion_assets.zoo.series import Floats, demand_matrix, forecast_frame, month_number, recent_mean
from medallion_assets.zoo.spec import ModelSpec, Parameters

DENSE = ("smooth", "erratic")
FEATURE_GROUPS: dict[str, tuple[str, ...]] = {
    "lags": tuple(f"demand_lag_{lag}" for lag in LAGS),
    "rolling": (
        *(f"demand_mean_{n}" for n in (3, 6, 12, 24)),
        *(f"demand_std_{n}" for n in (6, 12, 24)),
        "demand_max_12",
    ),
    "calendar": ("month_of_year",),
    "intermittency": ("months_since_last_sale", "nonzero_share_12", "adi", "cv2", "nonzero_mean_24"),
    "price": ("unit_price", "price_ratio_12", "revenue_12"),
    "activity": ("history_months", "months_since_first_sale", "order_count_12", "customer_count_12", "returned_share_12"),
}
IN_UNITS = (*FEATURE_GROUPS["lags"], *FEATURE_GROUPS["rolling"], "nonzero_mean_24")
THREADS = 2  # fixed: sums in another order would give other numbers
SMALL_ROWS = 10_000  # up to which one thread is faster than two
MAX_ROWS = 240_000  # part, month and horizon; more added nothing to accuracy
MIN_ROWS = 60  # fewer rows than this and a mean says as much
LARGEST_RATIO = 20.0  # times the level: what a tree may learn from one freak month


@dataclass(frozen=True)
class BoosterFit:
    """One learner per regime (dense and sparse demand; one for both where the other has too few rows) and the calibration."""

    learners: dict[str, tuple[Any, list[str]]]
    unit: float
    calibration: Calibration
    importance: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GlobalBooster(ABC):
    """A booster over all parts. ``groups`` are the feature groups it reads."""

    name: str
    groups: tuple[str, ...]
    rounds: int
    learning_rate: float

    @abstractmethod
    def train(self, regime: str, inputs: pd.DataFrame, ratio: Floats, weight: Floats, seed: int) -> Any:
        """A learner of demand / level from the inputs."""

    @abstractmethod
    def apply(self, learner: Any, inputs: pd.DataFrame) -> Floats:
        """Demand / level of each row."""

    @abstractmethod
    def importance(self, learner: Any, columns: list[str]) -> dict[str, float]:
        """Share of the loss reduction that each input brought."""

    def fit(self, demand: pd.DataFrame, features: pd.DataFrame, past: pd.DataFrame, origin: int, horizon: int, seed: int) -> BoosterFit:
        calibration = learn(past, self.name, features)
        unit = typical_size(features)
        rows, horizons, actual_qty = training_cells(demand, features, origin, horizon, seed)
        inputs = design(rows, horizons, self.groups, unit)
        level = part_level(rows, unit)
        ratio = np.minimum(actual_qty / level, LARGEST_RATIO)
        # Of a part selling few units a month a ratio says little: variance of a negative binomial, in units of the level.
        weight = level / (level + unit)
        is_dense = rows["demand_class"].isin(DENSE).to_numpy()
        learners: dict[str, tuple[Any, list[str]]] = {}
        importance: dict[str, float] = {}
        for regime, member in (("dense", is_dense), ("sparse", ~is_dense)):
            if member.sum() >= MIN_ROWS and actual_qty[member].any():
                columns = informative(inputs[member])
                learner = self.train(regime, inputs.loc[member, columns], ratio[member], weight[member], seed)
                learners[regime] = (learner, columns)
                for column, value in self.importance(learner, columns).items():
                    importance[column] = importance.get(column, 0.0) + value * float(member.mean())
        return BoosterFit(learners, unit, calibration, importance)

    def predict(self, fitted: BoosterFit, demand: pd.DataFrame, features: pd.DataFrame, origin: int, horizon: int) -> pd.DataFrame:
        matrix = demand_matrix(demand, features["part_number"], origin)
        by_cell = features.iloc[np.repeat(np.arange(len(features)), horizon)].reset_index(drop=True)
        horizons = np.tile(np.arange(1, horizon + 1), len(features))
        expected = np.repeat(recent_mean(matrix), horizon)
        if fitted.learners:
            inputs = design(by_cell, horizons, self.groups, fitted.unit)
            level = part_level(by_cell, fitted.unit)
            is_dense = by_cell["demand_class"].isin(DENSE).to_numpy()
            for regime, member in (("dense", is_dense), ("sparse", ~is_dense)):
                if member.any():
                    learner, columns = fitted.learners.get(regime) or next(iter(fitted.learners.values()))
                    expected[member] = self.apply(learner, inputs.loc[member, columns]) * level[member]
        forecast_qty = expected.reshape(len(features), horizon)
        return forecast_frame(features, matrix, forecast_qty, np.full(forecast_qty.shape, not fitted.learners), fitted.calibration)

    def feature_importance(self, fitted: BoosterFit) -> pd.DataFrame:
        """feature, importance (share of the loss reduction, 0 to 1), the most important first."""
        total = sum(fitted.importance.values()) or 1.0
        ranked = sorted(fitted.importance.items(), key=lambda entry: (-entry[1], entry[0]))
        return pd.DataFrame({"feature": [name for name, _ in ranked], "importance": [value / total for _, value in ranked]})


def training_cells(
    demand: pd.DataFrame, features: pd.DataFrame, origin: int, horizon: int, seed: int
) -> tuple[pd.DataFrame, NDArray[np.int64], Floats]:
    """Feature rows at month t, horizons h and demand of t + h, for every t + h through the origin.

    At most MAX_ROWS, drawn without replacement.
    """
    parts = pd.Series(pd.unique(features["part_number"]))
    matrix = demand_matrix(demand, parts, origin)
    row = pd.Index(parts).get_indexer(pd.Index(features["part_number"]))
    column = matrix.shape[1] - 1 - (month_number(origin) - month_number(features["yyyymm"]))
    position = np.tile(np.arange(len(features)), horizon)
    horizons = np.repeat(np.arange(1, horizon + 1), len(features))
    target = column[position] + horizons
    is_known = (column[position] >= 0) & (target < matrix.shape[1])
    position, horizons, target = position[is_known], horizons[is_known], target[is_known]
    if len(position) > MAX_ROWS:
        kept = np.sort(np.random.default_rng(seed).choice(len(position), MAX_ROWS, replace=False))
        position, horizons, target = position[kept], horizons[kept], target[kept]
    return features.iloc[position].reset_index(drop=True), horizons, np.nan_to_num(matrix[row[position], target])


def design(rows: pd.DataFrame, horizons: NDArray[np.int64], groups: tuple[str, ...], unit: float) -> pd.DataFrame:
    """Inputs of the learners, one row per cell: the features of the groups, quantities relative to the level, and what the horizon adds."""
    level = part_level(rows, unit)
    inputs: dict[str, Floats] = {"horizon": horizons.astype(float), "level": np.log(level)}
    for group in groups:
        for column in FEATURE_GROUPS[group]:
            values = rows[column].to_numpy(dtype=float)
            inputs[column] = values / level if column in IN_UNITS else values
    if "lags" in groups:
        lag = -horizons % 12
        by_lag = np.column_stack([inputs[f"demand_lag_{number}"] for number in range(12)])
        inputs["demand_year_before"] = by_lag[np.arange(len(lag)), lag]
    if "calendar" in groups:
        inputs["target_month_of_year"] = (inputs.pop("month_of_year") - 1 + horizons) % 12 + 1
    return pd.DataFrame(inputs)


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
    """XGBoost: squared error of the deviation from the level for dense demand, Poisson deviance for sparse demand."""

    def train(self, regime: str, inputs: pd.DataFrame, ratio: Floats, weight: Floats, seed: int) -> Any:
        import xgboost

        parameters = {
            "objective": "reg:squarederror" if regime == "dense" else "count:poisson",
            "eta": self.learning_rate,
            "max_depth": 6,
            "min_child_weight": 20,
            "subsample": 0.7,
            "colsample_bytree": 0.6,
            "lambda": 5.0,
            "tree_method": "hist",
            "max_bin": 64,
            "nthread": THREADS if len(inputs) > SMALL_ROWS else 1,
            "seed": seed,
        }
        return xgboost.train(parameters, xgboost.DMatrix(inputs, ratio, weight=weight, nthread=1), self.rounds)

    def apply(self, learner: Any, inputs: pd.DataFrame) -> Floats:
        import xgboost

        return np.asarray(learner.predict(xgboost.DMatrix(inputs, nthread=1)), dtype=float)

    def importance(self, learner: Any, columns: list[str]) -> dict[str, float]:
        gains: dict[str, float] = learner.get_score(importance_type="total_gain")
        total = sum(gains.values()) or 1.0
        return {column: gains.get(column, 0.0) / total for column in columns}


@dataclass(frozen=True)
class HistGradient(GlobalBooster):
    """Scikit-learn's histogram gradient boosting: squared error for dense demand, Poisson deviance for sparse demand."""

    def train(self, regime: str, inputs: pd.DataFrame, ratio: Floats, weight: Floats, seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        learner = HistGradientBoostingRegressor(
            loss="squared_error" if regime == "dense" else "poisson",
            learning_rate=self.learning_rate,
            max_iter=self.rounds,
            max_leaf_nodes=31,
            min_samples_leaf=50,
            l2_regularization=5.0,
            max_features=0.6,
            early_stopping=False,
            random_state=seed,
        )
        # On few rows threads wait for each other longer than they work.
        with threadpool_limits(THREADS if len(inputs) > SMALL_ROWS else 1):
            return learner.fit(inputs.to_numpy(dtype=float), ratio, sample_weight=weight)

    def apply(self, learner: Any, inputs: pd.DataFrame) -> Floats:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
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
