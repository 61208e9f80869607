"""Combinations: what becomes of the members' forecasts, their stand-ins and their deciles."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from medallion_assets.tables import DECILES
from medallion_assets.zoo.combination import Combination, CombinationFit
from medallion_assets.zoo.naive import SeasonalNaive
from medallion_assets.zoo.spec import Known, Member

FEATURES = pd.DataFrame({"part_number": ["A", "B"], "demand_class": ["smooth", "lumpy"]})
NOTHING = CombinationFit({})


def member(level: dict[str, float], stand_in: tuple[str, ...] = ()) -> pd.DataFrame:
    """One month ahead: ``level`` by part, deciles from a half to one and a half of it."""
    rows = pd.DataFrame(
        {"part_number": list(level), "horizon": 1, "forecast_qty": list(level.values())}
    )
    for decile, share in zip(DECILES, np.linspace(0.5, 1.5, 9), strict=True):
        rows[decile] = rows["forecast_qty"] * share
    return rows.assign(is_fallback=rows["part_number"].isin(stand_in))


def by_part(rows: pd.DataFrame, column: str = "forecast_qty") -> dict[str, float]:
    return dict(zip(rows["part_number"], rows[column], strict=True))


def deciles(rows: pd.DataFrame) -> list[list[float]]:
    return rows[list(DECILES)].to_numpy().tolist()


def test_a_mean_weighs_forecasts_and_deciles_alike() -> None:
    """Three quarters of 4 and one of 8 are 5, and q90 is three quarters of 6 and one of 12."""
    rows = Combination({"x": 0.75, "y": 0.25}).combine(
        NOTHING, {"x": member({"A": 4}), "y": member({"A": 8})}, FEATURES
    )
    assert by_part(rows) == {"A": 5.0}
    assert by_part(rows, "q90") == {"A": 7.5}


def test_deciles_may_come_from_one_member() -> None:
    """Expected demand is the mean of both, the deciles are y's."""
    combination = Combination({"x": 0.5, "y": 0.5}, decile_member="y")
    rows = combination.combine(NOTHING, {"x": member({"A": 4}), "y": member({"A": 8})}, FEATURES)
    assert (by_part(rows), by_part(rows, "q50")) == ({"A": 6.0}, {"A": 8.0})


def test_a_stand_in_does_not_count_unless_there_is_nothing_else() -> None:
    """A is forecast by y alone; of B all members stand in, so the combination does."""
    members = {"x": member({"A": 4, "B": 2}, ("A", "B")), "y": member({"A": 8, "B": 6}, ("B",))}
    rows = Combination({"x": 0.5, "y": 0.5}).combine(NOTHING, members, FEATURES)
    assert by_part(rows) == {"A": 8.0, "B": 4.0}
    assert by_part(rows, "is_fallback") == {"A": False, "B": True}


def test_a_member_that_lacks_a_part_leaves_it_to_the_others() -> None:
    """B is known to y only."""
    rows = Combination({"x": 0.5, "y": 0.5}).combine(
        NOTHING, {"x": member({"A": 4}), "y": member({"A": 8, "B": 6})}, FEATURES
    )
    assert by_part(rows) == {"A": 6.0, "B": 6.0}


def past_cells(width: float, horizon: int = 2, parts: int = 300) -> pd.DataFrame:
    """Past cells of x and y, a month and ``horizon`` ahead, whose deciles are ``width`` times as
    wide as demand is spread around 20.
    """
    random = np.random.default_rng(5)
    rows = []
    for h in (1, horizon):
        cells = pd.DataFrame(
            {
                "part_number": [f"P{i}" for i in range(parts)],
                "horizon": h,
                "origin": 202301,
                "target_yyyymm": 202301 + h,
            }
        )
        cells = cells.assign(
            actual_qty=20 + random.normal(size=parts), demand_class="smooth", is_fallback=False
        )
        spread = {decile: 20 + width * norm.ppf((i + 1) / 10) for i, decile in enumerate(DECILES)}
        rows += [cells.assign(model=name, forecast_qty=20.0, **spread) for name in ("x", "y")]
    return pd.concat(rows, ignore_index=True)


def asked(past: pd.DataFrame, horizon: int = 2) -> Known:
    """What a combination of x and y is fitted on, with the past of each."""
    members = {
        name: Member(SeasonalNaive(), None, past[past["model"] == name].drop(columns="model"))
        for name in ("x", "y")
    }
    return Known(
        demand=FEATURES,
        features=FEATURES,
        members=members,
        origin=202303,
        horizon=horizon,
        seed=7,
    )


@pytest.mark.parametrize(
    ("width", "factor"), [(1.0, 1.0), (1.2, 1 / 1.2), (0.8, 1 / 0.8), (3.0, 0.7)]
)
def test_a_spread_is_drawn_to_what_past_errors_were(width: float, factor: float) -> None:
    """Deciles a fifth too wide come a sixth nearer to the median, too narrow ones go apart, within
    limits; the median stays.
    """
    combination = Combination({"x": 0.5, "y": 0.5}, spread_member="y")
    past = past_cells(width)
    fitted = combination.fit(asked(past))
    assert fitted.spread == {
        name: pytest.approx((factor, factor), abs=0.06) for name in ("", "smooth")
    }
    members = {"x": member({"A": 4}), "y": member({"A": 4})}
    rows, plain = (
        combination.combine(fitted, members, FEATURES),
        combination.combine(NOTHING, members, FEATURES),
    )
    assert by_part(rows, "q50") == by_part(plain, "q50")
    assert by_part(rows, "q90")["A"] - 4 == pytest.approx(
        fitted.spread[""][1] * (by_part(plain, "q90")["A"] - 4)
    )


def test_each_side_is_drawn_to_its_own_past_errors() -> None:
    """Where demand falls short of the median half as far as it exceeds it, the lower deciles come
    nearer than the upper ones.
    """
    past = past_cells(1.0, parts=3000)
    error = past["actual_qty"] - 20
    past["actual_qty"] = 20 + error.where(error > 0, error / 2)
    fitted = Combination({"x": 0.5, "y": 0.5}, spread_member="y").fit(asked(past))
    below, above = fitted.spread[""]
    assert below == pytest.approx(0.75, abs=0.06)
    assert above == pytest.approx(0.9, abs=0.06)


def test_one_large_part_does_not_say_how_wide_the_deciles_of_all_are() -> None:
    """With one part a thousand times as large, whose deciles are three times too narrow, the factor
    stays that of the 299 others.
    """
    past = past_cells(1.25)
    large = past["part_number"] == "P0"
    past.loc[large, ["actual_qty", "forecast_qty", *DECILES]] *= 1000
    past.loc[large, "actual_qty"] = 26_000.0
    combination = Combination({"x": 0.5, "y": 0.5}, spread_member="y")
    assert combination.fit(asked(past)).spread[""] == pytest.approx((0.8, 0.8), abs=0.06)


def test_counts_stay_whole_and_keep_their_spread_as_does_demand_that_may_be_zero() -> None:
    """Between counts of 0 to 8 and of 2 to 10 lie those of 1 to 9; a factor of a half draws neither
    them nor deciles from zero on.
    """
    combination = Combination({"x": 0.5, "y": 0.5}, spread_member="y")
    fitted = CombinationFit({}, spread={"": (0.5, 0.5)})
    counts = {decile: [float(i)] for i, decile in enumerate(DECILES)}
    rows = pd.DataFrame(
        {"part_number": ["A"], "horizon": 1, "forecast_qty": 4.0, **counts, "is_fallback": False}
    )
    other = rows.assign(**{decile: rows[decile] + 2 for decile in DECILES})
    assert deciles(combination.combine(fitted, {"x": other, "y": rows}, FEATURES)) == [
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    ]
    nearer = combination.combine(fitted, {"x": rows.assign(q90=9.0), "y": rows}, FEATURES)
    assert deciles(nearer) == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]]
    from_zero = rows.assign(q90=8.5)
    assert deciles(
        combination.combine(fitted, {"x": from_zero, "y": from_zero}, FEATURES)
    ) == deciles(from_zero)


def test_the_spread_is_that_of_all_members_drawn_as_one_of_them_teaches() -> None:
    """x never had its spread measured, so it teaches nothing: what y's past says draws the mean of
    both.
    """
    past = past_cells(1.25)
    wrong = past["model"] == "x"
    past.loc[wrong, list(DECILES)] = 20 + 4 * (past.loc[wrong, list(DECILES)] - 20)
    combination = Combination({"x": 0.5, "y": 0.5}, spread_member="y")
    fitted = combination.fit(asked(past))
    assert fitted.spread[""] == pytest.approx((0.8, 0.8), abs=0.06)
    rows = combination.combine(fitted, {"x": member({"A": 4}), "y": member({"A": 8})}, FEATURES)
    assert by_part(rows, "q90")["A"] == pytest.approx(6 + fitted.spread[""][1] * 3)


def test_cells_that_a_member_is_not_asked_for_teach_no_spread() -> None:
    """A quarter too wide on smooth parts, where both forecast; of the lumpy ones, which only y
    forecasts, nothing is learned.
    """
    combination = Combination({"x": 0.5, "y": 0.5}, spread_member="y")
    other = past_cells(1.0).query("model == 'y'").assign(demand_class="lumpy")
    past = pd.concat(
        [past_cells(1.25), other.assign(part_number="L" + other["part_number"])], ignore_index=True
    )
    spread = combination.fit(asked(past)).spread
    assert spread == dict.fromkeys(("", "smooth"), pytest.approx((0.8, 0.8), abs=0.06))
    past = other.copy()
    assert combination.fit(asked(past)).spread == {}


def test_a_member_that_was_not_fitted_is_named() -> None:
    """Nothing is averaged without it."""
    members = asked(past_cells(1.0)).members
    lacking = Known(
        demand=FEATURES,
        features=FEATURES,
        members={"x": members["x"]},
        origin=202303,
        horizon=2,
        seed=7,
    )
    with pytest.raises(ValueError, match="no fitted y among the members; fit them first"):
        Combination({"x": 0.5, "y": 0.5}).fit(lacking)


def test_short_horizons_alone_teach_no_spread() -> None:
    """Until the longest horizon has its cells, deciles are taken as they are."""
    combination = Combination({"x": 0.5, "y": 0.5}, spread_member="y")
    past = past_cells(2.0)
    assert combination.fit(asked(past, horizon=3)).spread == {}
