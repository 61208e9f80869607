"""Combinations: models that average the forecasts of others, because the errors of unlike methods cancel.

A combination is fitted after its members and carries what they learned; which members are worth averaging is stated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medallion_assets.tables import DEMAND_CLASSES
from medallion_assets.zoo.calibration import Calibration, learn
from medallion_assets.zoo.series import demand_matrix, forecast_frame
from medallion_assets.zoo.spec import Fitted, Forecaster, ModelSpec

MEMBERS = "members"  # key of past.attrs under which the runner hands over the fitted members


@dataclass(frozen=True)
class CombinationFit:
    """The fitted members by name, and the calibration of their mean."""

    members: Mapping[str, tuple[Forecaster, Fitted]]
    calibration: Calibration


@dataclass(frozen=True)
class Combination:
    """Weighted mean of the members' expected demand; deciles by the mean's own past errors.

    A member that answers a cell with a stand-in is left out of the mean, unless all do: then the cell is a stand-in too.
    """

    name: str
    weights: Mapping[str, float]

    def fit(self, demand: pd.DataFrame, features: pd.DataFrame, past: pd.DataFrame, origin: int, horizon: int, seed: int) -> CombinationFit:
        """Raises ValueError where ``past.attrs["members"]`` lacks a (Forecaster, Fitted) of one of the members."""
        given = past.attrs.get(MEMBERS, {})
        if missing := [name for name in self.weights if name not in given]:
            raise ValueError(f"{self.name}: no fitted {', '.join(missing)} in past.attrs['{MEMBERS}']; fit the members first")
        return CombinationFit({name: given[name] for name in self.weights}, learn(past, self.name, features))

    def predict(self, fitted: CombinationFit, demand: pd.DataFrame, features: pd.DataFrame, origin: int, horizon: int) -> pd.DataFrame:
        cells = pd.MultiIndex.from_product([features["part_number"], range(1, horizon + 1)], names=["part_number", "horizon"])
        total = np.zeros(len(cells))
        stand_in = np.zeros(len(cells))
        weight = np.zeros(len(cells))
        for name, (forecaster, learned) in fitted.members.items():
            rows = forecaster.predict(learned, demand, features, origin, horizon).set_index(["part_number", "horizon"]).loc[cells]
            forecast_qty = rows["forecast_qty"].to_numpy(dtype=float)
            own_weight = np.where(rows["is_fallback"].to_numpy(dtype=bool), 0.0, self.weights[name])
            total += own_weight * forecast_qty
            weight += own_weight
            stand_in += forecast_qty / len(fitted.members)
        is_fallback = weight == 0
        expected = np.where(is_fallback, stand_in, total / np.where(is_fallback, 1.0, weight))
        shape = (len(features), horizon)
        matrix = demand_matrix(demand, features["part_number"], origin)
        return forecast_frame(features, matrix, expected.reshape(shape), is_fallback.reshape(shape), fitted.calibration)


def _combination(name: str, description: str, weights: dict[str, float], classes: tuple[str, ...] = DEMAND_CLASSES) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="combination",
        description=description,
        build=lambda parameters: Combination(name, weights),
        is_global=True,
        members=tuple(weights),
        classes=classes,
    )


MODELS = (
    _combination(
        "statistical_boosting_mean",
        "Mean of series-by-series smoothing (Theta, CES) and boosting over all parts, half and half",
        {"theta": 0.25, "ces": 0.25, "xgboost_global": 0.5},
    ),
    _combination(
        "boosting_mean",
        "Mean of the two boosters over all parts",
        {"xgboost_global": 0.5, "sklearn_hist_gradient": 0.5},
    ),
)
