"""Combinations: models that average the forecasts and deciles of others, because the errors of
unlike methods cancel.

A combination is made from its members' stored rows and carries what they learned; which members are
worth averaging is stated here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from medallion_assets.tables import DECILES, DEMAND_CLASSES, LEVELS
from medallion_assets.zoo.series import Flags, Floats
from medallion_assets.zoo.spec import FORECAST_COLUMNS, Fitted, Forecaster, ModelSpec

MEMBERS = "members"  # key of past.attrs under which the runner hands over the fitted members
NUMBERS = ["forecast_qty", *DECILES]
MEDIAN = DECILES.index("q50")
CELL = ["part_number", "horizon"]
# past cells of a class without which the weights of all classes hold, and of all without which they
# are equal
MIN_CELLS = 200
FIT_CELLS = 20_000  # cells that learning weights reads
PULL = 0.01  # towards equal weights, in shares of the quantile loss per squared log weight
SPREADS = (0.7, 1.3)  # how far deciles are drawn together or apart
# months after which a past error says half as much about how restless demand is now
HALF_LIFE = 6.0


@dataclass(frozen=True)
class CombinationFit:
    """The fitted members by name, and by demand class ("": all classes) learned weights and the
    factors on the deciles' spread.

    The factors are those below and above the median; registered fits of former releases hold one
    for both.
    """

    members: Mapping[str, tuple[Forecaster, Fitted]]
    learned: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    spread: Mapping[str, tuple[float, float] | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Combination:
    """Mean (by fixed or learned weights) or median of the members' expected demand, and of their
    deciles, level by level.

    ``weights`` name the members and what they count in the mean; ``decile_member`` is the one that
    gives all deciles, where one does. Otherwise they are averaged like the rest, which keeps their
    order (Vincent 1912). They are then drawn together or apart, below and above the median, as the
    past deciles of ``spread_member`` teach: the combined forecast errs less than a member whose
    spread it takes, and demand may be calmer or less skewed than it was. One member teaches it that
    needs no past itself: when the oldest past cells were forecast, the others were not calibrated
    yet. Counts, which are whole numbers, and demand that may be zero keep their spread. A member
    that answers a cell with a stand-in is left out, unless all do: then the cell is one too.
    """

    name: str
    weights: Mapping[str, float]
    rule: Literal["mean", "median", "learned"] = "mean"
    decile_member: str | None = None
    spread_member: str | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Registered combinations of former releases name weights of deciles: all on one member,
        around its median or the combined one.
        """
        givers, is_moved = (
            list(state.pop("decile_weights", None) or {}),
            state.pop("moves_deciles", False),
        )
        former = (
            {"spread_member": givers[0], "decile_member": None if is_moved else givers[0]}
            if givers
            else {}
        )
        self.__dict__.update(state | former)

    def fit(
        self,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        past: pd.DataFrame,
        origin: int,
        horizon: int,
        seed: int,
    ) -> CombinationFit:
        """Raises ValueError where ``past.attrs["members"]`` lacks a (Forecaster, Fitted) of one of
        the members.
        """
        given = past.attrs.get(MEMBERS, {})
        if missing := [name for name in self.weights if name not in given]:
            raise ValueError(
                f"{self.name}: no fitted {', '.join(missing)} in past.attrs['{MEMBERS}']; fit the"
                " members first"
            )
        learned = learn_weights(past, tuple(self.weights)) if self.rule == "learned" else {}
        spread = self._learn_spread(past, horizon, self.spread_member) if self.spread_member else {}
        return CombinationFit({name: given[name] for name in self.weights}, learned, spread)

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
        if self.rule == "median":
            kept = np.where(is_sound[:, :, None], values, np.nan)
            frame[NUMBERS] = np.nanmedian(kept, axis=1)
        else:
            classes = frame["part_number"].map(features.set_index("part_number")["demand_class"])
            points, shapes = self._weights(fitted, classes, is_sound)
            frame["forecast_qty"] = (values[:, :, 0] * points).sum(axis=1)
            deciles = (values[:, :, 1:] * shapes[:, :, None]).sum(axis=1)
            is_whole = (_are_counts(values[:, :, 1:]) | (shapes == 0)).all(axis=1)
            deciles = np.where(is_whole[:, None], np.rint(deciles), deciles)
            names, of_class = np.unique(classes.to_numpy(dtype=str), return_inverse=True)
            factors = np.asarray(
                [
                    np.broadcast_to(fitted.spread.get(name, fitted.spread.get("", 1.0)), 2)
                    for name in names
                ]
            )
            is_drawn = ~is_whole & (deciles[:, 0] > 0)
            frame[list(DECILES)] = _spread_out(
                deciles, *np.where(is_drawn, factors[of_class].T, 1.0)
            )
        frame["is_fallback"] = is_fallback
        return frame[list(FORECAST_COLUMNS)]

    def _learn_spread(
        self, past: pd.DataFrame, horizon: int, teacher: str
    ) -> dict[str, tuple[float, float]]:
        """Factors on the distance of the teacher's deciles from the median, by class and of all,
        with the least relative quantile loss.

        Read are past cells, around the combined median; the newest count most. A class is left out
        until it has MIN_CELLS of the longest horizon: before, only short ones would speak. A cell
        counts that all members forecast: some are asked for other classes too.
        """
        known = past[past["model"].isin(list(self.weights)) & past["actual_qty"].notna()]
        # Cells of several origins are combined at once: each origin's part counts as a part of its
        # own.
        known = known.assign(part_number=known["origin"].astype(str) + " " + known["part_number"])
        known = known[known.groupby(CELL)["model"].transform("size") == len(self.weights)]
        facts = known[known["model"] == teacher].set_index(CELL)
        if facts.empty:
            return {}
        pools = {
            name: _thinned(rows)
            for name, rows in [
                ("", facts),
                *((str(name), rows) for name, rows in facts.groupby("demand_class")),
            ]
        }
        read = pd.MultiIndex.from_frame(known[CELL]).isin(
            functools.reduce(pd.MultiIndex.union, (rows.index for rows in pools.values()))
        )
        known = known[read]
        made = self.combine(
            CombinationFit({}),
            dict(tuple(known.groupby("model"))),
            known.drop_duplicates("part_number"),
        ).set_index(CELL)
        found = {
            name: _best_spread(made.loc[rows.index, "q50"].to_numpy(dtype=float), rows, horizon)
            for name, rows in pools.items()
        }
        return {name: factors for name, factors in found.items() if factors is not None}

    def _weights(
        self, fitted: CombinationFit, classes: pd.Series, is_sound: np.ndarray
    ) -> tuple[Floats, Floats]:
        """Weights [cell, member] of expected demand and of deciles, each row summing to one;
        ``classes`` are the cells' demand classes.
        """
        shared = np.asarray([list(self.weights.values())], dtype=float)
        own = shared
        if self.rule == "learned":
            by_class = {
                name: fitted.learned.get(name, fitted.learned.get("", tuple(shared[0])))
                for name in classes.unique()
            }
            own = np.asarray([by_class[name] for name in classes])
        of_deciles = (
            own
            if self.decile_member is None
            else np.asarray([[float(name == self.decile_member) for name in self.weights]])
        )
        points, shapes = own * is_sound, of_deciles * is_sound
        # Where the member that gives the deciles stands in, the others give them.
        shapes = np.where(shapes.sum(axis=1, keepdims=True) > 0, shapes, points)
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
    """Deciles [cell, decile] whose distance below and above the median is so many times as large;
    none below zero.
    """
    distance = deciles - deciles[:, MEDIAN, None]
    factor = np.where(
        np.arange(len(DECILES)) < MEDIAN, np.expand_dims(below, -1), np.expand_dims(above, -1)
    )
    return np.maximum(deciles[:, MEDIAN, None] + factor * distance, 0.0)


def learn_weights(past: pd.DataFrame, members: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """Weights of the members by demand class ("": all classes) with the least quantile loss on past
    cells that all of them forecast.

    past: as for Forecaster. A class needs MIN_CELLS cells; without any pool the result is empty.
    Weights are above zero and pulled towards equal ones.
    """
    known = past[
        past["model"].isin(members) & past["actual_qty"].notna() & ~past["is_fallback"].astype(bool)
    ]
    key = ["origin", *CELL]
    wide = known.set_index([*key, "model"])[list(DECILES)].unstack("model").dropna()
    if len(wide) < MIN_CELLS:
        return {}
    facts = known.drop_duplicates(key).set_index(key).loc[wide.index]
    deciles = np.stack(
        [wide.xs(name, axis=1, level="model")[list(DECILES)].to_numpy() for name in members], axis=1
    )
    actual_qty, classes = (
        facts["actual_qty"].to_numpy(dtype=float),
        facts["demand_class"].to_numpy(dtype=str),
    )
    pools = {"": np.ones(len(classes), dtype=bool)} | {
        name: classes == name for name in DEMAND_CLASSES
    }
    return {
        name: _best_weights(deciles[member], actual_qty[member])
        for name, member in pools.items()
        if member.sum() >= MIN_CELLS
    }


def _best_weights(deciles: Floats, actual_qty: Floats) -> tuple[float, ...]:
    """Weights on the simplex for deciles [cell, member, decile]; starts from equal ones."""
    from scipy.optimize import minimize
    from scipy.special import softmax

    if len(actual_qty) > FIT_CELLS:
        kept = np.linspace(0, len(actual_qty) - 1, FIT_CELLS).astype(int)
        deciles, actual_qty = deciles[kept], actual_qty[kept]
    levels = np.asarray(LEVELS)
    equal = np.zeros(deciles.shape[1])

    def loss(logits: Floats) -> tuple[float, Floats]:
        weights = softmax(logits)
        short = actual_qty[:, None] - np.einsum("cmd,m->cd", deciles, weights)
        slope = np.where(short >= 0, levels, levels - 1)
        by_weight = -np.einsum("cd,cmd->m", slope, deciles) / unit
        gradient = weights * (by_weight - by_weight @ weights)
        return float(
            (slope * short).sum() / unit + PULL * (logits**2).mean()
        ), gradient + 2 * PULL * logits / len(logits)

    unit = 1.0
    unit = max(loss(equal)[0], 1e-12)
    return tuple(
        float(weight) for weight in softmax(minimize(loss, equal, jac=True, method="L-BFGS-B").x)
    )


def _combination(
    name: str,
    description: str,
    weights: dict[str, float],
    rule: Literal["mean", "median", "learned"] = "mean",
    decile_member: str | None = None,
    spread_member: str | None = None,
    classes: tuple[str, ...] = DEMAND_CLASSES,
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="combination",
        description=description,
        build=lambda parameters: Combination(name, weights, rule, decile_member, spread_member),
        reads_past=rule == "learned" or spread_member is not None,
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
    _combination(
        "zoo_median",
        "Median of smoothing and of the two boosters",
        dict.fromkeys(("ses", "sklearn_hist_gradient", "xgboost_global"), 1 / 3),
        rule="median",
    ),
    _combination(
        "learned_mean",
        "Mean of smoothing and of the two boosters by weights learned from their past forecasts",
        dict.fromkeys(("ses", "sklearn_hist_gradient", "xgboost_global"), 1 / 3),
        rule="learned",
    ),
)
