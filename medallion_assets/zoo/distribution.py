"""The distribution of future demand over all parts: a booster classifies it into bins, and deciles
are read off them.

Whole small demand has a bin for each count; all other demand bins of the targets of
boosting_inputs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medallion_assets.tables import LEVELS
from medallion_assets.zoo import boosting_inputs
from medallion_assets.zoo.boosting_inputs import (
    LARGEST_DEVIATION,
    LARGEST_RATIO,
    MIN_ROWS,
    Cells,
    SeasonalState,
    informative,
    plain_inputs,
    thinned,
)
from medallion_assets.zoo.calibration import is_count_demand
from medallion_assets.zoo.series import Flags, Floats

Regime = Literal["count", "deviation", "ratio"]

COUNT_GROUPS = (
    "lags",
    "rolling",
    "intermittency",
    "activity",
)  # the calendar month only adds noise to counts
LARGEST_COUNT = 8  # counted one by one; what is more shares a bin
BINS = 12  # of targets that are no counts, equally filled
OUTER = 0.003  # share of targets beyond either end of the bins
# part, month and horizon; twice as many gained .1 % of quantile loss for twice the time
MAX_ROWS = 120_000


@dataclass(frozen=True)
class Bins:
    """Bins of a target in ascending order: from ``low`` to ``high``, equal where it is one
    value.
    """

    low: Floats
    high: Floats

    def mean(self, probabilities: Floats) -> Floats:
        """Target [row] to be expected of probabilities [row, bin]."""
        return probabilities @ ((self.low + self.high) / 2)

    def quantiles(self, probabilities: Floats) -> Floats:
        """Target [row, decile] of probabilities [row, bin], even within a bin."""
        cumulated = np.cumsum(probabilities, axis=1)
        cumulated[:, -1] = 1.0
        result = np.empty((len(probabilities), len(LEVELS)))
        rows = np.arange(len(probabilities))
        for column, level in enumerate(LEVELS):
            bin_ = (cumulated < level - 1e-12).sum(axis=1)
            below = cumulated[rows, bin_] - probabilities[rows, bin_]
            share = np.clip(
                (level - below) / np.maximum(probabilities[rows, bin_], 1e-12), 0.0, 1.0
            )
            result[:, column] = self.low[bin_] + share * (self.high - self.low)[bin_]
        return result


@dataclass(frozen=True)
class Classifier:
    """A booster that gives the probability of each bin from the columns it was trained on."""

    booster: Any
    columns: list[str]
    bins: Bins


@dataclass(frozen=True)
class Answer:
    """Deciles [cell, decile] and mean [cell] in units, and the cells for which they are known; 0
    for the others.
    """

    deciles: Floats
    mean: Floats
    is_known: Flags


@dataclass(frozen=True)
class Distribution:
    """The classifiers of the regimes that had enough rows, with what their inputs are made by."""

    classifiers: Mapping[Regime, Classifier]
    groups: tuple[str, ...]
    unit: float
    threads: int

    def answer(self, cells: Cells, state: SeasonalState, is_count: Flags) -> Answer:
        """How the demand of each cell is distributed; deciles are even within a bin and whole for
        counts.
        """
        quantiles = np.zeros((len(cells.part), len(LEVELS)))
        mean = np.zeros(len(cells.part))
        is_known = np.zeros(len(cells.part), dtype=bool)
        for regime, member in _regimes(cells.rows, is_count):
            learned = _stand_in(regime, self.classifiers)
            if learned is None or not member.any():
                continue
            classifier = self.classifiers[learned]
            inputs, base, scale, _ = _design(
                learned, cells.take(member), state, self.groups, self.unit
            )
            probabilities = self._probabilities(classifier, inputs)
            values = np.maximum(
                base[:, None] + scale[:, None] * classifier.bins.quantiles(probabilities), 0.0
            )
            quantiles[member] = np.rint(values) if regime == "count" else values
            mean[member] = np.maximum(base + scale * classifier.bins.mean(probabilities), 0.0)
            is_known[member] = True
        return Answer(quantiles, mean, is_known)

    def _probabilities(self, classifier: Classifier, inputs: pd.DataFrame) -> Floats:
        import xgboost

        found = classifier.booster.predict(
            xgboost.DMatrix(inputs[classifier.columns], nthread=self.threads)
        ).astype(float)
        return np.asarray(found / found.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Learning:
    """How the classifiers are trained; ``threads`` change their sums in the last digits."""

    rounds: int
    learning_rate: float
    threads: int
    seed: int


def learn_distribution(  # noqa: PLR0913, PLR0917 - training cells, their inputs, how it is learned
    state: SeasonalState,
    cells: Cells,
    actual_qty: Floats,
    groups: tuple[str, ...],
    unit: float,
    learning: Learning,
) -> Distribution:
    """A classifier for each regime from training cells and their demand (units); at most MAX_ROWS
    of the cells are read.
    """
    if len(actual_qty) > MAX_ROWS:
        kept = thinned(len(actual_qty), MAX_ROWS, learning.seed)
        cells, actual_qty = cells.take(kept), actual_qty[kept]
    classifiers: dict[Regime, Classifier] = {}
    for regime, member in _regimes(cells.rows, is_count_demand(state.matrix)[cells.part]):
        if member.sum() < MIN_ROWS or not actual_qty[member].any():
            continue
        inputs, base, scale, weight = _design(regime, cells.take(member), state, groups, unit)
        bins, place = binned(regime, (actual_qty[member] - base) / scale)
        columns = informative(inputs)
        if len(bins.low) > 1 and columns:
            classifiers[regime] = Classifier(
                _train(inputs[columns], place, weight, len(bins.low), learning), columns, bins
            )
    return Distribution(classifiers, groups, unit, learning.threads)


def _train(
    inputs: pd.DataFrame, place: NDArray[np.int64], weight: Floats, bins: int, learning: Learning
) -> Any:
    import xgboost

    parameters = {
        "objective": "multi:softprob",
        "num_class": bins,
        "eta": learning.learning_rate,
        "max_depth": 5,
        "min_child_weight": 20,
        "subsample": 0.7,
        "colsample_bytree": 0.6,
        "lambda": 5.0,
        "tree_method": "hist",
        "max_bin": 64,
        "nthread": learning.threads,
        "seed": learning.seed,
    }
    rows = xgboost.QuantileDMatrix(
        inputs, place, weight=weight / weight.mean(), max_bin=64, nthread=learning.threads
    )
    return xgboost.train(parameters, rows, learning.rounds)


def _regimes(rows: pd.DataFrame, is_count: Flags) -> tuple[tuple[Regime, Flags], ...]:
    """Which rows are learned how."""
    others: tuple[tuple[Regime, Flags], ...] = tuple(
        (name, member & ~is_count) for name, member in boosting_inputs.regimes(rows)
    )
    return (("count", is_count), *others)


def _stand_in(regime: Regime, learned: Mapping[Regime, Classifier]) -> Regime | None:
    """The regime whose classifier answers rows of ``regime``: counts know no demand beyond their
    own, so they answer for no other.
    """
    able: tuple[Regime, ...] = (regime, "ratio", "deviation")
    return next((name for name in able if name in learned), None)


def _design(
    regime: Regime, cells: Cells, state: SeasonalState, groups: tuple[str, ...], unit: float
) -> tuple[pd.DataFrame, Floats, Floats, Floats]:
    """Inputs of the classifier, one row per cell, and base, scale and weight: demand = base + scale
    * target, units.
    """
    if regime == "count":
        ones = np.ones(len(cells.part))
        return (
            plain_inputs(cells, tuple(g for g in groups if g in COUNT_GROUPS), ones),
            np.zeros(len(ones)),
            ones,
            ones,
        )
    return boosting_inputs.design(regime, cells, state, groups, unit)


def binned(regime: Regime, target: Floats) -> tuple[Bins, NDArray[np.int64]]:
    """Bins of a target, and the bin of each row."""
    if regime == "count":
        target = np.rint(target)
        largest = min(target.max(), LARGEST_COUNT)
        low = np.arange(largest + 1)
        high = low.copy()
        if (beyond := target[target > largest]).size:
            low = np.append(low, largest + 1)
            high = np.append(high, 2 * beyond.mean() - largest - 1)
        return Bins(low, high), np.minimum(target, len(low) - 1).astype(np.int64)
    has_zero = regime == "ratio"
    target = (
        np.clip(target, -LARGEST_DEVIATION, LARGEST_DEVIATION)
        if not has_zero
        else np.minimum(target, LARGEST_RATIO)
    )
    spread = target[target > 0] if has_zero else target
    ends = np.quantile(spread, [OUTER, 1 - OUTER])
    inner = np.quantile(spread, np.linspace(0, 1, BINS + 1)[1:-1])
    edges = np.unique([0.0 if has_zero else ends[0], *inner, ends[1]])
    low, high = (edges[:-1], edges[1:]) if len(edges) > 1 else (edges, edges)
    place = np.clip(np.searchsorted(low, target, side="right") - 1, 0, len(low) - 1)
    if not has_zero:
        return Bins(low, high), place
    return Bins(np.append(0.0, low), np.append(0.0, high)), np.where(target <= 0, 0, place + 1)
