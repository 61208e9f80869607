"""Levels of expected demand: when past cells show a bias, and how far it is trusted."""

import numpy as np
import pandas as pd
import pytest

from medallion_assets.zoo.level import learn_levels


def cells(
    ratio: dict[int, float], parts: int = 100, demand_class: str = "smooth", noise: float = 0.1
) -> pd.DataFrame:
    """Parts of which 10 are expected each month, and 10 times the month's ratio are sold, give or
    take a share ``noise``.
    """
    random = np.random.default_rng(3)
    months = [
        pd.DataFrame(
            {
                "part": [f"P{i}" for i in range(parts)],
                "target_yyyymm": month,
                "demand_class": demand_class,
                "forecast_qty": 10.0,
                "actual_qty": 10 * share * (1 + noise * random.standard_normal(parts)),
            }
        )
        for month, share in ratio.items()
    ]
    return pd.concat(months, ignore_index=True)


def steady(share: float) -> dict[int, float]:
    return dict.fromkeys(range(202301, 202309), share)


@pytest.mark.parametrize("share", [0.7, 1.3])
def test_a_steady_bias_is_taken_out(share: float) -> None:
    """What was missed in all months is expected in full, up or down."""
    assert learn_levels(cells(steady(share))) == {"smooth": pytest.approx(share, abs=0.02)}


def test_a_month_that_all_parts_share_is_one_observation() -> None:
    """One month in which every part sold three times as much moves the level little, though a
    hundred parts say so.
    """
    levels = learn_levels(cells(steady(1.0) | {202305: 3.0}))
    assert levels.get("smooth", 1.0) < 1.1


@pytest.mark.parametrize("seed", range(5))
def test_without_a_bias_a_level_hardly_moves(seed: int) -> None:
    """Months that differ by chance, a tenth up or down, leave the level within a few percent."""
    shares = 1 + 0.1 * np.random.default_rng(seed).standard_normal(10)
    found = learn_levels(cells(dict(zip(range(202301, 202311), shares, strict=True))))
    assert abs(found.get("smooth", 1.0) - 1) < 0.08


def test_classes_have_levels_of_their_own() -> None:
    """One class sells more than expected and another less; too few cells say nothing."""
    past = pd.concat(
        [
            cells(steady(1.2)),
            cells(steady(0.8), demand_class="lumpy"),
            cells(steady(1.5), parts=10, demand_class="new"),
        ]
    )
    assert {name: round(level, 1) for name, level in learn_levels(past).items()} == {
        "smooth": 1.2,
        "lumpy": 0.8,
    }


def test_a_level_has_limits() -> None:
    """Demand of five times what was expected doubles it at most; no forecast has no level."""
    assert learn_levels(cells(steady(5.0))) == {"smooth": 2.0}
    assert learn_levels(cells(steady(1.0)).assign(forecast_qty=0.0)) == {}
