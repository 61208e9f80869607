"""The distribution that XGBoost learns: bins of demand, and the deciles read off them."""

import numpy as np
import pytest

from medallion_assets.tables import DECILES
from medallion_assets.zoo.distribution import Bins, binned
from medallion_assets.zoo.registry import model
from medallion_assets.zoo.spec import Known
from tests.frames import at_origin, demand_frame, feature_frame

ORIGIN = 202312


def test_deciles_of_even_bins_lie_on_the_line_between_their_ends() -> None:
    """Two bins of equal probability, 0 to 1 and 1 to 3: the deciles rise by a fifth, then by two
    fifths.
    """
    found = Bins(np.array([0.0, 1.0]), np.array([1.0, 3.0])).quantiles(np.array([[0.5, 0.5]]))
    assert found[0] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.4, 1.8, 2.2, 2.6])


def test_a_bin_of_one_value_gives_it_to_every_decile_it_holds() -> None:
    """Nothing is sold in 65 of 100 months: six deciles are zero."""
    found = Bins(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0])).quantiles(
        np.array([[0.65, 0.3, 0.05]])
    )
    assert found[0] == pytest.approx([0, 0, 0, 0, 0, 0, 1, 1, 1])


def test_counts_have_a_bin_each_and_what_is_more_shares_one() -> None:
    """Demand of 0, 1, 8 and 20 lies in the bins 0, 1, 8 and 9, and the last bin reaches twice the
    way to its mean.
    """
    bins, place = binned("count", np.array([0.0, 1.0, 8.0, 20.0]))
    assert place.tolist() == [0, 1, 8, 9]
    assert (bins.low[9], bins.high[9]) == (9.0, 31.0)


@pytest.mark.parametrize("regime", ["ratio", "deviation"])
def test_every_target_lies_in_its_bin(regime: str) -> None:
    """Between the outer ends no target lies outside of the bin it was put in, and of ratios zero
    has a bin of its own.
    """
    target = np.random.default_rng(1).gamma(0.7, size=2_000).round(2) - (regime == "deviation")
    bins, place = binned(regime, target)  # type: ignore[arg-type]
    inside = (target >= bins.low[0]) & (target <= bins.high[-1])
    assert ((target >= bins.low[place]) & (target <= bins.high[place]))[inside].all()
    assert regime == "deviation" or (target[place == 0] <= 0).all()


def test_a_target_of_one_value_has_one_bin() -> None:
    """A market in which every part sells the same has nothing to classify, and does not break."""
    bins, place = binned("deviation", np.zeros(50))
    assert len(bins.low) == 1
    assert not place.any()


def test_deciles_follow_the_demand_of_parts_that_sell_alike() -> None:
    """Of parts that sell 0 or 12 by the toss of a coin, each in a month, low deciles are 0 and high
    ones near 12.
    """
    coin = np.random.default_rng(5).random((40, 30)) < 0.5
    demand = demand_frame(
        {f"P{i:02d}": np.where(row, 12.0, 0.0) + 0.5 * row for i, row in enumerate(coin)}, ORIGIN
    )
    features = feature_frame(demand)
    forecaster = model("xgboost_global").forecaster({"rounds": 20, "distribution_rounds": 20})
    fitted = forecaster.fit(
        Known(demand=demand, features=features, origin=ORIGIN, horizon=2, seed=7)
    )
    rows = forecaster.predict(fitted, demand, at_origin(features, ORIGIN), ORIGIN, 2)
    assert rows["q20"].median() == 0
    assert rows["q80"].median() == pytest.approx(12.5, rel=0.2)
    assert (rows[list(DECILES)].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
