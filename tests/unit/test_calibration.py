"""Deciles around a forecast: honest on counts and on large demand, in order, and never without an
answer.
"""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import nbinom

from medallion_assets.tables import DECILES, LEVELS
from medallion_assets.zoo.calibration import (
    Calibration,
    deciles,
    is_count_demand,
    learn,
    negative_binomial_deciles,
    newcomer_demand,
)
from medallion_assets.zoo.series import never_sold

CLASSES = ("smooth", "lumpy")


def cells(
    actual_qty: np.ndarray, forecast_qty: np.ndarray, demand_class: str, std: np.ndarray | float
) -> pd.DataFrame:
    """Past cells of one model over four horizons, one part each."""
    count = len(actual_qty)
    return pd.DataFrame(
        {
            "model": "m",
            "origin": 202201,
            "part_number": [f"{demand_class}-{number}" for number in range(count)],
            "horizon": np.arange(count) % 4 + 1,
            "forecast_qty": forecast_qty,
            **dict.fromkeys(DECILES, 0.0),
            "is_fallback": False,
            "actual_qty": actual_qty,
            "demand_class": demand_class,
            "demand_mean_12": forecast_qty,
            "demand_std_12": std,
        }
    )


def pit_share(actual_qty: np.ndarray, quantiles: np.ndarray, is_count: bool) -> float:
    """Share of randomised probability integral transforms within [.1, .9]."""

    def share_below(values: np.ndarray) -> np.ndarray:
        knots = np.column_stack([quantiles[:, 0] - 1, quantiles, quantiles[:, -1] + 1])
        levels = np.array([0.0, *LEVELS, 1.0])
        return np.array(
            [
                levels[np.flatnonzero(k <= v)[-1]] if v >= k[0] else 0.0
                for k, v in zip(knots, values, strict=True)
            ]
        )

    if not is_count:
        return float(((actual_qty >= quantiles[:, 0]) & (actual_qty <= quantiles[:, -1])).mean())
    low, high = share_below(actual_qty - 1), share_below(actual_qty)
    drawn = low + np.random.default_rng(1).random(len(low)) * (high - low)
    return float(((drawn >= 0.1) & (drawn <= 0.9)).mean())


def decile_frame(past: pd.DataFrame, is_count: bool) -> np.ndarray:
    """Deciles of the cells the calibration was learned from."""
    flags = np.full(len(past), is_count)
    return deciles(
        learn(past), past["forecast_qty"].to_numpy(), past, past["horizon"].to_numpy(), flags
    )


def test_errors_of_large_demand_are_covered_honestly() -> None:
    """Eighty percent of demand falls between q10 and q90, whatever the size of the part."""
    random = np.random.default_rng(2)
    mean = random.uniform(50, 5000, 4000)
    past = cells(mean + random.standard_t(4, 4000) * mean * 0.2, mean, "smooth", mean * 0.2)
    assert pit_share(
        past["actual_qty"].to_numpy(), decile_frame(past, False), False
    ) == pytest.approx(0.8, abs=0.02)


def test_overdispersed_counts_are_covered_honestly() -> None:
    """Eighty percent of the randomised transforms of counts lie in the middle, with most demand
    zero.
    """
    random = np.random.default_rng(3)
    mean = random.uniform(0.1, 4, 6000)
    past = cells(
        random.negative_binomial(0.8, 0.8 / (0.8 + mean)),
        mean,
        "lumpy",
        np.sqrt(mean + mean**2 / 0.8),
    )
    assert pit_share(
        past["actual_qty"].to_numpy(), decile_frame(past, True), True
    ) == pytest.approx(0.8, abs=0.04)


def test_counts_have_whole_deciles_and_real_demand_has_not() -> None:
    """Small whole-number demand keeps whole deciles; demand measured in fractions is not
    rounded.
    """
    random = np.random.default_rng(4)
    mean = random.uniform(0.5, 3, 1000)
    past = cells(random.poisson(mean), mean, "lumpy", np.sqrt(mean))
    whole, real = decile_frame(past, True), decile_frame(past, False)
    assert_array_equal(whole, np.round(whole))
    assert (real != np.round(real)).any()


def test_whole_and_small_history_is_a_count() -> None:
    """Fractions and large monthly demand are not counts; months before the first are no evidence
    against it.
    """
    matrix = np.array(
        [[np.nan, 0.0, 3.0], [1.0, 0.5, 2.0], [4000.0, 3500.0, 100.0], [0.0, 0.0, 0.0]]
    )
    assert_array_equal(is_count_demand(matrix), [True, False, False, True])


def test_without_evidence_deciles_come_from_the_spread_of_demand() -> None:
    """A model without a past gets deciles around its forecast, wider where demand varied more."""
    features = pd.DataFrame(
        {
            "demand_class": ["smooth"] * 3,
            "demand_mean_12": [100.0, 100.0, np.nan],
            "demand_std_12": [5.0, 50.0, np.nan],
        }
    )
    result = deciles(
        Calibration(), np.full(3, 100.0), features, np.ones(3, dtype=int), np.zeros(3, dtype=bool)
    )
    assert_allclose(result[:, 4], 100.0)
    assert np.ptp(result[1]) > np.ptp(result[0]) > 0
    assert np.isfinite(result).all()


def test_a_thin_pool_borrows_from_its_class_and_then_from_all() -> None:
    """A class with few cells takes the spread of all classes together; a class with many keeps its
    own.
    """
    random = np.random.default_rng(5)
    mean = np.full(1200, 1000.0)
    past = pd.concat(
        [
            cells(mean + random.normal(0, 100, 1200), mean, "smooth", 100.0),
            cells(mean[:40] + random.normal(0, 900, 40), mean[:40], "lumpy", 100.0),
        ]
    )
    calibration = learn(past)
    features = pd.DataFrame(
        {"demand_class": CLASSES, "demand_mean_12": 1000.0, "demand_std_12": 100.0}
    )
    smooth, lumpy = deciles(
        calibration, np.full(2, 1000.0), features, np.ones(2, dtype=int), np.zeros(2, dtype=bool)
    )
    assert np.ptp(smooth) == pytest.approx(2 * 1.2816 * 100, rel=0.15)
    assert np.ptp(lumpy) < 2 * np.ptp(smooth)


def test_stand_ins_and_no_past_teach_nothing() -> None:
    """Only forecasts that the model made itself are evidence."""
    mean = np.full(300, 10.5)
    past = cells(mean + 1, mean, "smooth", 2.0)
    assert learn(past.assign(is_fallback=True)) == Calibration()
    assert learn(past[:0]) == Calibration()


def test_deciles_of_the_negative_binomial_are_exact() -> None:
    """Each is the smallest count that its share of demand does not exceed, at zero mean, next to a
    Poisson and beyond a million.
    """
    mean = np.array([0.0, 0.2, 1.0, 7.5, 3e6])
    for dispersion in (0.01, 0.3, 2.0):
        shape = 1 / dispersion
        counts = negative_binomial_deciles(mean, dispersion)
        reached, before = (
            nbinom.cdf(counts - less, shape, 1 / (1 + dispersion * mean[:, None]))
            for less in (0, 1)
        )
        assert (reached >= np.array(LEVELS) - 1e-9).all()
        assert (before < np.array(LEVELS)).all()
    assert_array_equal(negative_binomial_deciles(mean, 1.0)[0], 0)
    assert negative_binomial_deciles(mean, 1.0)[-1, 4] == pytest.approx(3e6 * np.log(2), rel=1e-3)


def test_deciles_are_in_order_finite_and_not_negative() -> None:
    """Also for forecasts of zero, of nearly nothing and beyond a billion."""
    forecast_qty = np.array([0.0, 1e-9, 5e9, 3.0])
    features = pd.DataFrame(
        {
            "demand_class": "new",
            "demand_mean_12": [0.0, np.nan, 5e9, 3.0],
            "demand_std_12": [np.nan, 0.0, 1e9, 8.0],
        }
    )
    result = deciles(
        Calibration(),
        forecast_qty,
        features,
        np.arange(4) + 1,
        np.array([True, False, False, True]),
    )
    assert np.isfinite(result).all()
    assert (result >= 0).all()
    assert (np.diff(result, axis=1) >= 0).all()


def test_a_part_never_sold_is_expected_to_sell_as_new_parts_do_less_by_every_month() -> None:
    """New parts sell 9 a month: a part announced now is expected to sell 6.75, after nine silent
    months 2.25, and one that sold is not.
    """
    matrix = np.array([[np.nan] * 8 + [0.0], [0.0] * 9, [0.0] * 8 + [3.0]])
    assert never_sold(matrix, 9.0) == pytest.approx([6.75, 2.25, np.nan], nan_ok=True)


def test_what_new_parts_sell_is_the_mean_of_new_parts_that_sold() -> None:
    """A new part without a sale and an old part say nothing of it."""
    features = pd.DataFrame(
        {"demand_class": ["new", "new", "new", "smooth"], "demand_mean_3": [4.0, 8.0, 0.0, 100.0]}
    )
    assert newcomer_demand(features) == 6.0
