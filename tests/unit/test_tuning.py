"""Hyper-parameters are searched inside the training window, and taken only where they are certainly
better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medallion_assets.partitions import add_months
from medallion_assets.tables import DECILES
from medallion_assets.zoo.spec import ModelSpec, Range
from medallion_assets.zoo.tuning import tune
from tests.frames import demand_frame, feature_frame

ORIGIN, HORIZON = 202312, 3
SOLD = 10.0
DEMAND = demand_frame({f"P{n}": [SOLD] * 24 for n in range(5)}, ORIGIN)
FEATURES = feature_frame(DEMAND)


@dataclass(frozen=True)
class Level:
    """A forecaster that says one number, its parameter; it remembers what it was shown."""

    level: float
    shown: list[int]

    def fit(
        self,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        past: pd.DataFrame,
        origin: int,
        horizon: int,
        seed: int,
    ) -> None:
        self.shown.append(int(max(demand["yyyymm"].max(), features["yyyymm"].max())))

    def predict(
        self,
        fitted: object,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        horizon: int,
    ) -> pd.DataFrame:
        cells = [(part, h) for part in features["part_number"] for h in range(1, horizon + 1)]
        rows = pd.DataFrame(cells, columns=["part_number", "horizon"])
        return rows.assign(
            forecast_qty=self.level, is_fallback=False, **dict.fromkeys(DECILES, self.level)
        )


def search(
    default: float, trials: int = 12, demand: pd.DataFrame = DEMAND, **options: Any
) -> tuple[Any, list[int]]:
    shown: list[int] = []
    spec = ModelSpec(
        "level",
        "test",
        "",
        lambda p: Level(float(p["level"]), shown),
        {"level": default},
        search={"level": Range(5, 15)},
    )
    limits: dict[str, Any] = {"trials": trials, "max_seconds": 60, "max_rows": 10_000} | options
    return tune(spec, spec.parameters, demand, FEATURES, ORIGIN, HORIZON, 7, **limits), shown


def test_better_parameters_are_found_and_taken() -> None:
    """A default far from what is sold is left for one that is near, and the gain is told."""
    tuned, _ = search(default=5.0)
    assert abs(tuned.parameters["level"] - SOLD) < 2
    assert tuned.score < 0.5
    assert tuned.trials == 12


def test_no_trial_sees_what_it_is_asked_for() -> None:
    """It learns through one horizon and through two before the origin, and of later months knows
    nothing.
    """
    _, shown = search(default=5.0, trials=3)
    assert set(shown) == {add_months(ORIGIN, -HORIZON), add_months(ORIGIN, -2 * HORIZON)}


def test_defaults_that_are_right_stay() -> None:
    """Nothing is better than the truth: no parameter is changed."""
    tuned, _ = search(default=SOLD)
    assert (tuned.parameters, tuned.score) == ({}, 1.0)


def test_a_gain_in_one_window_alone_is_not_taken() -> None:
    """Sales that jumped in the last months favour a level that was wrong before."""
    jumped = DEMAND.assign(
        demand_qty=np.where(DEMAND["yyyymm"] > add_months(ORIGIN, -HORIZON), 14.0, 6.0)
    )
    tuned, _ = search(default=9.5, demand=jumped)
    assert tuned.parameters == {}


def test_the_same_seed_finds_the_same() -> None:
    """Twice the same search, twice the same parameters."""
    assert search(default=5.0)[0].parameters == search(default=5.0)[0].parameters


def test_time_ends_a_search_and_is_told() -> None:
    """After the trial that passes the limit no other is begun."""
    assert search(default=5.0, max_seconds=1e-6)[0].trials == 1


def test_without_sales_nothing_is_searched() -> None:
    """A window in which nothing was sold can tell no parameter from another."""
    tuned, shown = search(default=5.0, demand=DEMAND.assign(demand_qty=0.0))
    assert (tuned.parameters, tuned.trials, shown) == ({}, 0, [])
