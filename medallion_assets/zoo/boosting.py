"""Gradient-boosted trees trained across all parts, direct over horizons.

What they learn from is in boosting_inputs.py, how XGBoost's deciles are learned in distribution.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from medallion_assets.tables import DECILES
from medallion_assets.zoo.boosting_inputs import (
    FEATURE_GROUPS,
    LARGEST_DEVIATION,
    LARGEST_RATIO,
    MAX_ROWS,
    MIN_ROWS,
    Regime,
    design,
    forecast_cells,
    informative,
    regimes,
    seasonal_state,
    thinned,
    training_cells,
    typical_size,
)
from medallion_assets.zoo.calibration import Calibration, is_count_demand
from medallion_assets.zoo.calibration import learn as learn_calibration
from medallion_assets.zoo.distribution import Distribution, Learning, learn_distribution
from medallion_assets.zoo.series import Floats, demand_matrix, forecast_frame, recent_mean
from medallion_assets.zoo.spec import Known, ModelSpec, Parameters
from medallion_assets.zoo.trees import GradientTrees

# part, month and horizon; twice as many taught no better median (M3 backtest)
MEDIAN_ROWS = 120_000
# each of other rows; their mean has .2 to .5 % less MASE than one (M1 and tourism competitions)
MEDIAN_LEARNERS = 3


@dataclass(frozen=True)
class BoosterFit:
    """The learner with its columns per regime (one for both where the other has too few rows), and
    how deciles are found.

    ``distribution`` gives the deciles of the cells it knows, the calibration those of all others;
    ``medians`` are learners of the deviations' median on the same columns, where the booster has
    any.
    """

    learners: dict[Regime, tuple[Any, list[str]]]
    unit: float
    calibration: Calibration
    distribution: Distribution
    medians: tuple[Any, ...] = ()
    importance: dict[str, float] = field(default_factory=dict)


class Trainer(Protocol):
    """A library's trees: how learners are trained and asked. ``threads`` change its sums in the
    last digits, ``max_rows`` are the training cells that it reads at most.
    """

    @property
    def threads(self) -> int: ...

    @property
    def max_rows(self) -> int: ...

    def train(
        self, regime: Regime, inputs: pd.DataFrame, target: Floats, weight: Floats, seed: int
    ) -> Any:
        """A learner of the regime's target from the inputs."""

    def train_medians(self, inputs: pd.DataFrame, target: Floats, seed: int) -> tuple[Any, ...]:
        """Learners of the median deviation, whose mean counts; none where it has none."""

    def apply(self, learner: Any, inputs: pd.DataFrame) -> Floats:
        """The target for each row."""

    def importance(self, learner: Any, columns: list[str]) -> dict[str, float]:
        """Share of the loss reduction that each input brought."""

    def learning(self, seed: int) -> Learning | None:
        """How a distribution of future demand is learned; None where none is."""


@dataclass(frozen=True)
class GlobalBooster:
    """A booster over all parts. ``groups`` are the feature groups it reads."""

    groups: tuple[str, ...]
    trainer: Trainer

    def fit(self, known: Known) -> BoosterFit:
        return self.calibrate(self.learn(known), known)

    def calibrate(self, learned: BoosterFit, known: Known) -> BoosterFit:
        return replace(learned, calibration=learn_calibration(known.own_past, known.features))

    def learn(self, known: Known) -> BoosterFit:
        features, origin, seed = known.features, known.origin, known.seed
        unit = typical_size(features)
        parts = pd.Series(pd.unique(features["part_number"]))
        state = seasonal_state(demand_matrix(known.demand, parts, origin), origin)
        cells = training_cells(
            state, parts, features, origin, known.horizon, seed, self.trainer.max_rows
        )
        actual_qty = np.nan_to_num(state.matrix[cells.part, cells.month + cells.horizons])
        learners: dict[Regime, tuple[Any, list[str]]] = {}
        importance: dict[str, float] = {}
        medians: tuple[Any, ...] = ()
        for regime, member in regimes(cells.rows):
            if member.sum() < MIN_ROWS or not actual_qty[member].any():
                continue
            inputs, base, scale, weight = design(
                regime, cells.take(member), state, self.groups, unit
            )
            limit = LARGEST_DEVIATION if regime == "deviation" else LARGEST_RATIO
            target = np.clip((actual_qty[member] - base) / scale, -limit, limit)
            columns = informative(inputs)
            learner = self.trainer.train(regime, inputs[columns], target, weight, seed)
            learners[regime] = (learner, columns)
            if regime == "deviation":
                medians = self.trainer.train_medians(inputs[columns], target, seed)
            for column, value in self.trainer.importance(learner, columns).items():
                importance[column] = importance.get(column, 0.0) + value * float(member.mean())
        learning = self.trainer.learning(seed)
        distribution = (
            learn_distribution(state, cells, actual_qty, self.groups, unit, learning)
            if learning
            else Distribution({}, self.groups, unit, self.trainer.threads)
        )
        return BoosterFit(learners, unit, Calibration(), distribution, medians, importance)

    def predict(
        self,
        fitted: BoosterFit,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        horizon: int,
    ) -> pd.DataFrame:
        matrix = demand_matrix(demand, features["part_number"], origin)
        cells = forecast_cells(matrix, features, horizon)
        state = seasonal_state(matrix, origin)
        is_count = is_count_demand(matrix)[cells.part]
        known = fitted.distribution.answer(cells, state, is_count)
        expected, quantiles = recent_mean(matrix)[cells.part], known.deciles
        for regime, member in regimes(cells.rows) if fitted.learners else ():
            if not member.any():
                continue
            learned: Regime = regime if regime in fitted.learners else next(iter(fitted.learners))
            learner, columns = fitted.learners[learned]
            inputs, base, scale, _ = design(
                learned, cells.take(member), state, self.groups, fitted.unit
            )
            expected[member] = base + scale * self.trainer.apply(learner, inputs[columns])
            if learned == regime == "deviation" and fitted.medians:
                # A finer median than that of bins.
                median = base + scale * np.mean(
                    [self.trainer.apply(one, inputs[columns]) for one in fitted.medians], axis=0
                )
                moved = (
                    quantiles[member] + (median - quantiles[member, DECILES.index("q50")])[:, None]
                )
                quantiles[member] = np.where(
                    is_count[member, None], quantiles[member], np.maximum(moved, 0.0)
                )
        # Two boosters that learned the same counts in different ways err less together: car parts'
        # backtest, 0.3 % of RMSE.
        expected = np.where(is_count & known.is_known, (expected + known.mean) / 2, expected)
        forecast_qty = expected.reshape(len(features), horizon)
        frame = forecast_frame(
            features,
            matrix,
            forecast_qty,
            np.full(forecast_qty.shape, not fitted.learners),
            fitted.calibration,
        )
        frame.loc[known.is_known, list(DECILES)] = quantiles[known.is_known]
        return frame

    def feature_importance(self, fitted: BoosterFit) -> pd.DataFrame:
        """feature, importance (share of the loss reduction, 0 to 1), the most important first."""
        total = sum(fitted.importance.values()) or 1.0
        ranked = sorted(fitted.importance.items(), key=lambda entry: (-entry[1], entry[0]))
        return pd.DataFrame(
            {
                "feature": [name for name, _ in ranked],
                "importance": [value / total for _, value in ranked],
            }
        )


@dataclass(frozen=True)
class XGBoost:
    """XGBoost: pseudo-Huber loss of deviations, because a freak month must not move the level of
    all; Poisson deviance of ratios.

    Deciles are those of a distribution of its own, learned in ``distribution_rounds``; those of
    deviations lie around a median that is learned by absolute errors, three times. Counts are
    expected to be the mean of what the distribution and the Poisson learner say.
    """

    rounds: int
    learning_rate: float
    threads: int
    max_depth: int
    distribution_rounds: int
    distribution_learning_rate: float
    max_rows: int = MAX_ROWS

    def learning(self, seed: int) -> Learning:
        return Learning(
            self.distribution_rounds, self.distribution_learning_rate, self.threads, seed
        )

    def train(
        self, regime: Regime, inputs: pd.DataFrame, target: Floats, weight: Floats, seed: int
    ) -> Any:
        return self._train(
            "reg:pseudohubererror" if regime == "deviation" else "count:poisson",
            inputs,
            target,
            weight,
            seed,
        )

    def train_medians(self, inputs: pd.DataFrame, target: Floats, seed: int) -> tuple[Any, ...]:
        learners = []
        for draw in range(seed, seed + MEDIAN_LEARNERS):
            read = thinned(len(inputs), MEDIAN_ROWS, draw)
            learners.append(
                self._train(
                    "reg:absoluteerror", inputs.loc[read], target[read], np.ones(len(read)), draw
                )
            )
        return tuple(learners)

    def _train(
        self, objective: str, inputs: pd.DataFrame, target: Floats, weight: Floats, seed: int
    ) -> Any:
        import xgboost

        parameters = {
            "objective": objective,
            "eta": self.learning_rate,
            "max_depth": self.max_depth,
            "min_child_weight": 20,
            "subsample": 0.7,
            "colsample_bytree": 0.6,
            "lambda": 5.0,
            "tree_method": "hist",
            "max_bin": 64,
            "nthread": self.threads,
            "seed": seed,
        }
        rows = xgboost.QuantileDMatrix(
            inputs, target, weight=weight, max_bin=64, nthread=self.threads
        )
        return xgboost.train(parameters, rows, self.rounds)

    def apply(self, learner: Any, inputs: pd.DataFrame) -> Floats:
        import xgboost

        return np.asarray(
            learner.predict(xgboost.DMatrix(inputs, nthread=self.threads)), dtype=float
        )

    def importance(self, learner: Any, columns: list[str]) -> dict[str, float]:
        gains: dict[str, float] = learner.get_score(importance_type="total_gain")
        total = sum(gains.values()) or 1.0
        return {column: gains.get(column, 0.0) / total for column in columns}


@dataclass(frozen=True)
class HistGradient:
    """Scikit-learn's histogram gradient boosting: squared error of deviations, Poisson deviance of
    ratios.

    It takes twice XGBoost's time for a row, so it reads half of them.
    """

    rounds: int
    learning_rate: float
    threads: int
    max_leaf_nodes: int
    max_rows: int = MAX_ROWS // 2

    def learning(self, seed: int) -> None:
        return None

    def train_medians(self, inputs: pd.DataFrame, target: Floats, seed: int) -> tuple[Any, ...]:
        return ()

    def train(
        self, regime: Regime, inputs: pd.DataFrame, target: Floats, weight: Floats, seed: int
    ) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        learner = HistGradientBoostingRegressor(
            loss="squared_error" if regime == "deviation" else "poisson",
            learning_rate=self.learning_rate,
            max_iter=self.rounds,
            max_leaf_nodes=self.max_leaf_nodes,
            min_samples_leaf=50,
            l2_regularization=5.0,
            max_features=0.6,
            max_bins=64,
            early_stopping=False,
            random_state=seed,
        )
        # With weights scikit-learn sorts every column once for every bin, which takes longer than
        # all rounds.
        weights = None if (weight == weight[0]).all() else weight
        with threadpool_limits(self.threads):
            return learner.fit(inputs.to_numpy(dtype=float), target, sample_weight=weights)

    def apply(self, learner: Any, inputs: pd.DataFrame) -> Floats:
        if isinstance(learner, GradientTrees):  # read from a stored fit
            return learner.predict(inputs.to_numpy(dtype=float))
        from threadpoolctl import threadpool_limits

        with threadpool_limits(self.threads):
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


def _hist_gradient(p: Parameters) -> GlobalBooster:
    shared = int(p["rounds"]), float(p["learning_rate"]), int(p["threads"])
    return GlobalBooster(_groups(p), HistGradient(*shared, int(p["max_leaf_nodes"])))


def _xgboost(p: Parameters) -> GlobalBooster:
    shared = int(p["rounds"]), float(p["learning_rate"]), int(p["threads"])
    distribution = int(p["distribution_rounds"]), float(p["distribution_learning_rate"])
    return GlobalBooster(_groups(p), XGBoost(*shared, int(p["max_depth"]), *distribution))


# Threads are fixed, so that sums keep their order on any machine; one, because several origins
# learn at a time.
MODELS = (
    ModelSpec(
        name="sklearn_hist_gradient",
        family="boosting",
        description="Histogram gradient boosting over all parts (scikit-learn)",
        build=_hist_gradient,
        parameters={
            **USE_GROUPS,
            "rounds": 90,
            "learning_rate": 0.1,
            "max_leaf_nodes": 31,
            "threads": 1,
        },
        is_global=True,
        code_version="4",
    ),
    ModelSpec(
        name="xgboost_global",
        family="boosting",
        description=(
            "XGBoost over all parts: expected demand, and the whole distribution by classifying"
            " demand into bins"
        ),
        build=_xgboost,
        parameters={
            **USE_GROUPS,
            "rounds": 120,
            "learning_rate": 0.08,
            "max_depth": 6,
            "threads": 1,
            "distribution_rounds": 50,
            "distribution_learning_rate": 0.1,
        },
        is_global=True,
        code_version="7",
    ),
)
