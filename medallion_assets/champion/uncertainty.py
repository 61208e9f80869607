"""How certain a difference between two models is, and what choosing the wrong one costs.

Parts differ, and so do months: a shock that all parts share makes a thousand parts one
observation. So a difference has two errors, one over parts and one over months, and both count.
Pure functions of small arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL = 0.025
"""Chance of an equal model to look certainly better, and of one to look certainly worse."""
DRAWS = 20_000
SEED = 7


@dataclass(frozen=True)
class Sums:
    """Sums over the cells of one unit a row, units: loss_qty and squared_error [unit, model],
    actual_qty [unit]. Units are parts, or target months in ascending order without a gap.
    """

    loss: Floats
    demand: Floats
    squared_error: Floats

    @property
    def count(self) -> int:
        return len(self.demand)


@dataclass(frozen=True)
class Difference:
    """A difference, its standard error and the degrees of freedom that the error was taken from;
    NaN where there is no demand.
    """

    value: float
    error: float
    freedom: float

    def interval(self, tail: float = TAIL) -> tuple[float, float]:
        """Both ends by Student's t; ``tail``: chance beyond each of them."""
        from scipy.special import stdtrit

        half = self.error * float(stdtrit(self.freedom, 1 - tail)) if self.error > 0 else self.error
        return self.value - half, self.value + half

    def regret(self) -> float:
        """What is expected to be lost by the first against the second: E[max(difference, 0)] for a
        normal difference.
        """
        from scipy.special import ndtr

        if not self.error > 0:
            return max(self.value, 0.0)
        ratio = self.value / self.error
        density = float(np.exp(-(ratio**2) / 2) / np.sqrt(2 * np.pi))
        return self.value * float(ndtr(ratio)) + self.error * density


@dataclass(frozen=True)
class Evidence:
    """What models lost on the same cells, by part and by target month.

    ``is_over_parts`` is False where the parts are few and are all there will be: then only months
    differ. Columns of the arrays are the models.

    The variance of a difference is the sum of two. Over parts it is that of a ratio of sums, parts
    being independent. Over months it is the long-run variance by the mean of squared cosine sums
    (Lazarus, Lewis, Stock and Watson 2018), since the months of one origin have its error in
    common. The sum counts twice what is neither common to a part's months nor to a month's parts,
    so it is never too small for that (Thompson 2011 subtracts it; with few months that leaves
    noise). Degrees of freedom by Satterthwaite, those of parts by how evenly demand is spread over
    them (Carter, Schnepel and Steigerwald 2017).
    """

    parts: Sums
    months: Sums
    is_over_parts: bool = True

    def loss(self, model: int, other: int) -> Difference:
        """WQL of a model less that of another."""
        return self._difference(
            *((of.loss[:, model] - of.loss[:, other], of.demand) for of in self._both)
        )

    def squared_error(self, model: int, other: int) -> Difference:
        """Squared error of a model less that of another, as a share of the other's."""
        return self._difference(
            *(
                (
                    of.squared_error[:, model] - of.squared_error[:, other],
                    of.squared_error[:, other],
                )
                for of in self._both
            )
        )

    def tail(self, models: Sequence[int], other: int) -> float:
        """Tail of each interval with which none of several equal models looks certainly better than
        the other but with chance TAIL: what they have in common makes them fewer than they are.

        Maximum of correlated normals (Hothorn, Bretz and Westfall 2008), drawn from a fixed seed.
        """
        from scipy.special import ndtr

        by_unit = [
            _residuals(of.loss[:, list(models)] - of.loss[:, [other]], of.demand)
            for of in self._both
        ]
        covariance = _of_months(by_unit[1]).T @ _of_months(by_unit[1])
        if self.is_over_parts:
            covariance = covariance + _of_parts(by_unit[0]).T @ _of_parts(by_unit[0])
        error = np.sqrt(np.diag(covariance))
        kept = np.flatnonzero(error > 0)
        if len(kept) < 2:
            return TAIL
        correlation = covariance[np.ix_(kept, kept)] / np.outer(error[kept], error[kept])
        values, vectors = np.linalg.eigh(correlation)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn = np.random.default_rng(SEED).standard_normal((DRAWS, len(kept))) @ root.T
        return float(ndtr(-np.quantile(drawn.max(axis=1), 1 - TAIL)))

    @property
    def _both(self) -> tuple[Sums, Sums]:
        return self.parts, self.months

    def _difference(
        self, parts: tuple[Floats, Floats], months: tuple[Floats, Floats]
    ) -> Difference:
        value = _ratio(*parts)
        of_months = _of_months(_residuals(months[0][:, None], months[1]))
        variances = [float((of_months**2).sum())]
        freedoms = [float(max(len(of_months), 1))]
        if self.is_over_parts:
            of_parts = _of_parts(_residuals(parts[0][:, None], parts[1]))
            variances.append(float((of_parts**2).sum()))
            freedoms.append(_even_parts(parts[1]) - 1)
        variance = sum(variances)
        if not variance > 0:
            return Difference(value, variance, 1.0)
        shares = sum(v**2 / max(f, 1.0) for v, f in zip(variances, freedoms, strict=True))
        return Difference(value, variance**0.5, variance**2 / shares)


def _ratio(numerators: Floats, denominators: Floats) -> float:
    total = denominators.sum()
    return float(numerators.sum() / total) if total > 0 else float("nan")


def _residuals(numerators: Floats, denominators: Floats) -> Floats:
    """What each unit adds to each column's ratio of sums. Every column sums to zero."""
    total = denominators.sum()
    if not total > 0:
        return np.full(numerators.shape, np.nan)
    ratios = numerators.sum(axis=0) / total
    return np.asarray((numerators - denominators[:, None] * ratios) / total)


def _of_parts(residuals: Floats) -> Floats:
    """Rows whose squares sum to the variance over independent units."""
    count = len(residuals)
    return residuals * np.sqrt(count / max(count - 1, 1))


def _of_months(residuals: Floats) -> Floats:
    """Rows whose squares sum to the long-run variance: cosine sums, two at least, as many as .4
    months to the power of 2/3.
    """
    count = len(residuals)
    waves = min(count - 1, max(2, int(0.4 * count ** (2 / 3))))
    if waves < 1:
        return np.full((1, residuals.shape[1]), np.nan)
    turns = np.pi * np.outer(np.arange(1, waves + 1), (np.arange(count) + 0.5) / count)
    return np.asarray(np.sqrt(2 / waves) * np.cos(turns) @ residuals)


def _even_parts(demand: Floats) -> float:
    """How many parts of equal demand say as much as these."""
    total = demand.sum()
    return float(total**2 / (demand**2).sum()) if total > 0 else 1.0
