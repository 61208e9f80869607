"""Models fitted series by series by StatsForecast."""

from __future__ import annotations

import numpy as np
import pytest

from medallion_assets.zoo.registry import model
from medallion_assets.zoo.statistical import StatisticalModel

MONTHS = np.arange(60)
NOISE = np.random.default_rng(3).normal(size=60)


def forecast(name: str, series: np.ndarray, horizon: int = 18) -> tuple[np.ndarray, bool]:
    forecaster = model(name).forecaster({})
    assert isinstance(forecaster, StatisticalModel)
    values, is_fallback = forecaster.expected(series[None, :], horizon)
    return values[0], bool(is_fallback.any())


def test_a_trend_fades_with_the_horizon() -> None:
    """Demand that grew by 5 a month is expected to grow on, by less each month."""
    values, _ = forecast("auto_ets", 100 + 5 * MONTHS + NOISE)
    steps = np.diff(values)
    assert (steps > 0).all()
    assert steps[-1] < steps[0]


def test_level_demand_gets_no_trend() -> None:
    """Noise around a level is expected to stay at it."""
    values, _ = forecast("auto_ets", 100 + NOISE)
    assert values == pytest.approx(np.full(18, 100), abs=1.0)


@pytest.mark.parametrize(("months", "is_flagged"), [(4, True), (7, False), (8, False)])
def test_a_series_too_short_for_a_trend_is_smoothed_without(months: int, is_flagged: bool) -> None:
    """Seven months are enough for a level and too few for a damped trend; of four the mean stands
    in.
    """
    values, is_fallback = forecast("auto_ets", 100 + NOISE[:months])
    assert is_fallback is is_flagged
    assert values == pytest.approx(np.full(18, 100), abs=5.0)


@pytest.mark.parametrize(("months", "is_seasonal"), [(30, False), (48, True)])
def test_ces_learns_a_season_from_three_years(months: int, is_seasonal: bool) -> None:
    """With demand twice as high every December, its forecast knows the December after four years,
    not after two and a half.
    """
    values, _ = forecast(
        "ces", np.where(MONTHS % 12 == 11, 200.0, 100.0)[-months:] + NOISE[-months:], 12
    )
    assert bool(values[11] > 1.5 * values[5]) is is_seasonal
