"""Combinations: models that average the forecasts and deciles of others, because the errors of
unlike methods cancel.

A combination is made from its members' stored rows and carries what they learned; which members are
worth averaging is stated here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from medallion_assets.tables import DECILES, DEMAND_CLASSES, LEVELS
from medallion_assets.zoo.series import Flags, Floats
from medallion_assets.zoo.spec import (
    FORECAST_COLUMNS,
    Fitted,
    Forecaster,
    Known,
    Member,
    ModelSpec,
)

NUMBERS = ["forecast_qty", *DECILES]
MEDIAN = DECILES.index("q50")
CELL = ["part_number", "horizon"]
MIN_CELLS = 200  # past cells of a class without which the spread of all classes holds
FIT_CELLS = 20_000  # cells that learning the spread reads
SPREADS = (0.7, 1.3)  # how far deciles are drawn together or apart
# months after which a past error says half as much about how restless demand is now
HALF_LIFE = 6.0


@dataclass(frozen=True)
class CombinationFit:
    """The fitted members by name, and by demand class ("": all classes) the factors on the deciles'
    spread.

    The factors are those below and above the median.
    """

    members: Mapping[str, tuple[Forecaster, Fitted]]
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Combination:
    """Weighted mean of the members' expected demand, and of their deciles, level by level.

    ``weights`` name the members and what they count in the mean; ``decile_member`` is the one that
    gives all deciles, where one does. Otherwise they are averaged like the rest, which keeps their
    order (Vincent 1912). They are then drawn together or apart, below and above the median, as the
    past deciles of ``spread_member`` teach: the combined forecast errs less than a member whose
    spread it takes, and demand may be calmer or less skewed than it was. One member teaches it that
    needs no past itself: when the oldest past cells were forecast, the others were not calibrated
    yet. Counts, which are whole numbers, and demand that may be zero keep their spread. A member
    that answers a cell with a stand-in is left out, unless all do: then the cell is one too.
    """

    weights: Mapping[str, float]
    decile_member: str | None = None
    spread_member: str | None = None

    def fit(self, known: Known) -> CombinationFit:
        """Raises ValueError where a member was not fitted at the origin."""
        if missing := [name for name in self.weights if name not in known.members]:
            raise ValueError(f"no fitted {', '.join(missing)} among the members; fit them first")
        members = {name: known.members[name] for name in self.weights}
        spread = (
            self._learn_spread(members, known.horizon, self.spread_member)
            if self.spread_member
            else {}
        )
        return CombinationFit(
            {name: (member.forecaster, member.fitted) for name, member in members.items()}, spread
        )

    def predict(
        self,
        fitted: CombinationFit,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        horizon: int,
    ) -> pd.DataFrame:
        rows = {
            name: forecaster.predict(learned, demand, features, origin, horizon)
            for name, (forecaster, learned) in fitted.members.items()
        }
        return self.combine(fitted, rows, features)

    def combine(
        self, fitted: CombinationFit, members: Mapping[str, pd.DataFrame], features: pd.DataFrame
    ) -> pd.DataFrame:
        """FORECAST_COLUMNS from the members' rows of one origin, by member; ``features`` gives each
        part's demand class.
        """
        cells = pd.MultiIndex.from_frame(
            pd.concat([members[name][CELL] for name in self.weights])
            .drop_duplicates()
            .sort_values(CELL)
        )
        aligned = [members[name].set_index(CELL).reindex(cells) for name in self.weights]
        values = np.stack([rows[NUMBERS].to_numpy(dtype=float) for rows in aligned], axis=1)
        is_known = ~np.isnan(values[:, :, 0])
        is_sound = np.column_stack([rows["is_fallback"].eq(False).to_numpy() for rows in aligned])
        is_fallback = ~is_sound.any(axis=1)
        is_sound[is_fallback] = is_known[is_fallback]
        values = np.where(is_sound[:, :, None], values, 0.0)
        frame = cells.to_frame(index=False)
        points, shapes = self._weights(is_sound)
        frame["forecast_qty"] = (values[:, :, 0] * points).sum(axis=1)
        deciles = (values[:, :, 1:] * shapes[:, :, None]).sum(axis=1)
        is_whole = (_are_counts(values[:, :, 1:]) | (shapes == 0)).all(axis=1)
        deciles = np.where(is_whole[:, None], np.rint(deciles), deciles)
        classes = frame["part_number"].map(features.set_index("part_number")["demand_class"])
        names, of_class = np.unique(classes.to_numpy(dtype=str), return_inverse=True)
        of_all = fitted.spread.get("", (1.0, 1.0))
        factors = np.asarray([fitted.spread.get(name, of_all) for name in names])
        is_drawn = ~is_whole & (deciles[:, 0] > 0)
        frame[list(DECILES)] = _spread_out(deciles, *np.where(is_drawn, factors[of_class].T, 1.0))
        frame["is_fallback"] = is_fallback
        return frame[list(FORECAST_COLUMNS)]

    def _learn_spread(
        self, members: Mapping[str, Member], horizon: int, teacher: str
    ) -> dict[str, tuple[float, float]]:
        """Factors on the distance of the teacher's deciles from the median, by class and of all,
        with the least relative quantile loss.

        Read are past cells, around the combined median; the newest count most. A class is left out
        until it has MIN_CELLS of the longest horizon: before, only short ones would speak. A cell
        counts that all members forecast: some are asked for other classes too.
        """
        pasts = {name: member.past for name, member in members.items() if len(member.past)}
        if teacher not in pasts:
            return {}
        cells = pd.concat(
            [past.assign(model=name) for name, past in pasts.items()], ignore_index=True
        )
        # Cells of several origins are combined at once: each origin's part counts as a part of its
        # own.
        cells = cells.assign(part_number=cells["origin"].astype(str) + " " + cells["part_number"])
        cells = cells[cells.groupby(CELL)["model"].transform("size") == len(self.weights)]
        facts = cells[cells["model"] == teacher].set_index(CELL)
        if facts.empty:
            return {}
        pools = {"": _thinned(facts)}
        for name, rows in facts.groupby("demand_class"):
            pools[str(name)] = _thinned(rows)
        read = pd.MultiIndex.from_frame(cells[CELL]).isin(
            functools.reduce(pd.MultiIndex.union, (rows.index for rows in pools.values()))
        )
        cells = cells[read]
        made = self.combine(
            CombinationFit({}),
            dict(tuple(cells.groupby("model"))),
            cells.drop_duplicates("part_number"),
        ).set_index(CELL)
        found = {
            name: _best_spread(made.loc[rows.index, "q50"].to_numpy(dtype=float), rows, horizon)
            for name, rows in pools.items()
        }
        return {name: factors for name, factors in found.items() if factors is not None}

    def _weights(self, is_sound: Flags) -> tuple[Floats, Floats]:
        """Weights [cell, member] of expected demand and of deciles, each row summing to one."""
        points = np.asarray([list(self.weights.values())], dtype=float) * is_sound
        shapes = points
        if self.decile_member is not None:
            giver = np.asarray([[float(name == self.decile_member) for name in self.weights]])
            # Where the member that gives the deciles stands in, the others give them.
            given = giver * is_sound
            shapes = np.where(given.sum(axis=1, keepdims=True) > 0, given, points)
        return points / points.sum(axis=1, keepdims=True), shapes / shapes.sum(
            axis=1, keepdims=True
        )


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """FIT_CELLS of the rows, evenly taken, where there are more."""
    return rows.iloc[
        np.unique(np.linspace(0, len(rows) - 1, min(FIT_CELLS, len(rows))).astype(int))
    ]


def _best_spread(median: Floats, facts: pd.DataFrame, horizon: int) -> tuple[float, float] | None:
    """Factors for the deciles of ``facts`` moved to the medians, cell by cell, whatever a part's
    size; None where cells are too few.

    Each is the geometric mean of the best factor of its side, below or above the median, and of
    that of both: past errors may be more or less skewed than the deciles, which is partly the
    chance of a few months in which all demand rose or fell.
    """
    deciles = facts[list(DECILES)].to_numpy(dtype=float)
    is_whole = _are_counts(deciles)
    deciles = np.maximum(deciles + (median - deciles[:, MEDIAN])[:, None], 0.0)
    is_drawn = ~facts["is_fallback"].to_numpy(dtype=bool) & (deciles[:, 0] > 0) & ~is_whole
    facts, deciles = facts[is_drawn], deciles[is_drawn]
    if (facts.index.get_level_values("horizon") == horizon).sum() < MIN_CELLS:
        return None
    months = facts["target_yyyymm"] // 100 * 12 + facts["target_yyyymm"] % 100
    age = (months.max() - months).to_numpy(dtype=float)
    # In shares of each cell's median: in units a few large parts would say how wide the deciles of
    # all are.
    weight = (0.5 ** (age / HALF_LIFE) / deciles[:, MEDIAN])[:, None]
    actual_qty, levels = facts["actual_qty"].to_numpy(dtype=float)[:, None], np.asarray(LEVELS)

    from scipy.optimize import minimize_scalar

    def best(side: slice) -> float:
        def loss(factor: float) -> float:
            short = actual_qty - _spread_out(deciles, factor, factor)[:, side]
            return float(
                (weight * np.maximum(levels[side] * short, (levels[side] - 1) * short)).sum()
            )

        return float(
            minimize_scalar(loss, bounds=SPREADS, method="bounded", options={"xatol": 0.005}).x
        )

    both, below, above = best(slice(None)), best(slice(MEDIAN)), best(slice(MEDIAN + 1, None))
    return float(np.sqrt(both * below)), float(np.sqrt(both * above))


def _are_counts(deciles: Floats) -> Flags:
    """Which cells have whole deciles only, whatever axes come before the last."""
    return np.asarray((deciles == np.rint(deciles)).all(axis=-1))


def _spread_out(deciles: Floats, below: float | Floats, above: float | Floats) -> Floats:
    """Deciles [cell, decile] with their distances below and above the median scaled; none below
    zero.
    """
    distance = deciles - deciles[:, MEDIAN, None]
    factor = np.where(
        np.arange(len(DECILES)) < MEDIAN, np.expand_dims(below, -1), np.expand_dims(above, -1)
    )
    return np.maximum(deciles[:, MEDIAN, None] + factor * distance, 0.0)


def _combination(  # noqa: PLR0913, PLR0917 - what tells the combinations of MODELS apart
    name: str,
    description: str,
    weights: dict[str, float],
    decile_member: str | None = None,
    spread_member: str | None = None,
    classes: tuple[str, ...] = DEMAND_CLASSES,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="combination",
        description=description,
        build=lambda parameters: Combination(weights, decile_member, spread_member),
        members=tuple(weights),
        classes=classes,
        code_version="12",
    )


MODELS = (
    _combination(
        "statistical_boosting_mean",
        "Half Theta, CES and exponential smoothing, series by series, half XGBoost over all parts,"
        " drawn to past errors",
        dict.fromkeys(("theta", "ces", "auto_ets"), 1 / 6) | {"xgboost_global": 1 / 2},
        spread_member="xgboost_global",
        classes=("smooth", "erratic"),
    ),
    _combination(
        "boosting_mean",
        "Mean of the two boosters over all parts, with the deciles of the one that learns the"
        " distribution, drawn to past errors",
        {"xgboost_global": 0.5, "sklearn_hist_gradient": 0.5},
        decile_member="xgboost_global",
        spread_member="xgboost_global",
    ),
)
