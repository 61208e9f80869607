"""Drift: which months differ from their past once the season is taken out, at which rate of false
alarms, and which don't.
"""

from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medallion_assets.partitions import add_months
from medallion_assets.tables import DEMAND_DRIFT
from medallion_assets.watch.drift import demand_drift, needed, ranked
from resources.settings import Settings

SEASON = (80, 80, 90, 100, 100, 100, 100, 110, 120, 150, 220, 300)
COLUMNS = {
    "order_id": "o",
    "part_number": "p",
    "order_date": "d",
    "quantity": "q",
    "unit_price": "u",
}
SETTINGS = Settings(
    lakehouse_root="lakehouse",
    first_month=202001,
    sources=({"name": "orders", "files": "*.csv", "columns": COLUMNS},),
)
REGIONS = MappingProxyType({"North": 60.0, "South": 40.0})
NOTHING_SERVED = pd.DataFrame(
    columns=[
        "yyyymm",
        "segment",
        "forecast_qty",
        "actual_qty",
        "wql",
        "evidence_wql",
        "evidence_bias",
    ]
)


def figures(months: int, **changed: dict[int, Any]) -> pd.DataFrame:
    """A steady wholesaler from 202001 with a strong season; ``changed`` replaces figures of some
    months.
    """
    rows = []
    for n in range(months):
        month = add_months(202001, n)
        wobble = 1 + 0.01 * np.sin(n)
        qty = SEASON[n % 12] * 100 * wobble
        row = {
            "yyyymm": month,
            "total_demand_qty": qty,
            "like_for_like_ratio": wobble if n >= 12 else np.nan,
            "active_part_count": 100,
            "zero_share": 0.3,
            "mean_unit_price": 5.0,
            "like_for_like_price": 1.01 if n >= 12 else np.nan,
            "order_count": SEASON[n % 12] * 10,
            "customer_count": 50,
            "region_demand_qty": dict(REGIONS),
            "class_demand_qty": {
                "smooth": 0.6 * qty,
                "erratic": 0.3 * qty,
                "intermittent": 0.1 * qty,
            },
            "part_mix": 0.2 + 0.01 * np.cos(n) if n >= 12 else np.nan,
        }
        rows.append(
            row | {name: values[month] for name, values in changed.items() if month in values}
        )
    return pd.DataFrame(rows)


def served(months: int, **changed: dict[int, float]) -> pd.DataFrame:
    """Forecasts of smooth parts, served through the months of ``figures``, as good as their
    evidence promised.
    """
    rows = []
    for n in range(months):
        row = {
            "yyyymm": add_months(202001, n),
            "segment": "smooth",
            "forecast_qty": 100.0 + np.sin(n),
            "actual_qty": 100.0,
        }
        row |= {"wql": 0.3 + 0.01 * np.cos(n), "evidence_wql": 0.3, "evidence_bias": 0.0}
        rows.append(
            row
            | {
                name: values[row["yyyymm"]]
                for name, values in changed.items()
                if row["yyyymm"] in values
            }
        )
    return pd.DataFrame(rows)


def verdict(
    frame: pd.DataFrame, month: int, feature: str, accuracy: pd.DataFrame = NOTHING_SERVED
) -> dict[str, Any]:
    return next(
        row for row in demand_drift(frame, accuracy, [month], SETTINGS) if row["feature"] == feature
    )


def test_a_season_is_no_drift() -> None:
    """December sells three times as much as a common month, as every December before, and nothing
    drifts.
    """
    assert not any(
        row["is_drift"] for row in demand_drift(figures(48), served(48), [202312], SETTINGS)
    )


def test_a_shift_is_drift_with_its_figures_in_the_reason() -> None:
    """A July that sells half as much again as Julys did is drift, and the sentence says from what
    to what and how unlikely.
    """
    row = verdict(figures(43, total_demand_qty={202307: 15_000.0}), 202307, "total_demand_qty")
    assert row["is_drift"]
    assert row["expected"] == pytest.approx(10_000, rel=0.03)
    assert row["statistic"] > row["threshold"]
    assert (row["p_value"], row["false_alarm_rate"]) == (
        pytest.approx(1 / (row["history_months"] + 1)),
        0.1,
    )
    assert row["reason"].startswith("drift: total_demand_qty of 202307 is 1.5e+04")
    assert "from 202207 and the usual yearly change" in row["reason"]
    assert "3% of months like the past have a figure as far off, drift up to 10%" in row["reason"]


@pytest.mark.parametrize(
    ("feature", "value", "expected"),
    [
        ("like_for_like_ratio", 1.4, 1.0),
        ("like_for_like_price", 1.12, 1.01),
        ("part_mix", 0.6, 0.2),
        ("order_count", 400, 1000),
    ],
)
def test_every_figure_can_drift_alone(feature: str, value: float, expected: float) -> None:
    """What the typical part sells or costs, which parts sell, and a fall as well as a rise: each is
    seen though all else stays.
    """
    rows = demand_drift(
        figures(43, **{feature: {202307: value}}), NOTHING_SERVED, [202307], SETTINGS
    )
    assert {row["feature"] for row in rows if row["is_drift"]} == {feature}
    row = next(row for row in rows if row["feature"] == feature)
    assert row["expected"] == pytest.approx(expected, rel=0.1)
    assert np.sign(row["statistic"]) == np.sign(value - expected)


def test_demand_of_a_class_is_watched_apart() -> None:
    """Intermittent parts sell twice as much, which the total hides."""
    classes = {"smooth": 5000.0, "erratic": 3000.0, "intermittent": 2000.0}
    rows = demand_drift(
        figures(43, class_demand_qty={202307: classes}), NOTHING_SERVED, [202307], SETTINGS
    )
    drifted = {row["feature"] for row in rows if row["is_drift"]}
    assert "demand_qty:intermittent" in drifted
    assert "total_demand_qty" not in drifted


def test_a_new_regional_mix_is_drift() -> None:
    """Demand that moves from one region to another is drift, though its total stays; a mix closer
    to the past than usual is none.
    """
    moved = figures(43, region_demand_qty={202307: {"North": 10.0, "Export": 90.0}})
    row = verdict(moved, 202307, "region_mix")
    assert row["is_drift"]
    assert row["value"] == pytest.approx(0.9)
    assert not verdict(moved, 202307, "total_demand_qty")["is_drift"]
    assert not verdict(figures(43, part_mix={202307: 0.0}), 202307, "part_mix")["is_drift"]


def test_errors_of_the_served_forecast_are_held_against_their_evidence() -> None:
    """A WQL twice the evidence's is drift in its month, a bias once three months add up to it; a
    better WQL is none.
    """
    assert verdict(figures(48), 202312, "wql:smooth", served(48, wql={202312: 0.6}))["is_drift"]
    assert not verdict(figures(48), 202312, "wql:smooth", served(48, wql={202312: 0.1}))["is_drift"]
    biased = served(48, forecast_qty=dict.fromkeys((202310, 202311, 202312), 150.0))
    row = verdict(figures(48), 202312, "bias:smooth", biased)
    assert (row["is_drift"], row["value"]) == (True, pytest.approx(0.5))
    promised = biased.assign(evidence_bias=biased["yyyymm"].isin([202310, 202311, 202312]) * 0.5)
    assert not verdict(figures(48), 202312, "bias:smooth", promised)["is_drift"]


def test_two_families_share_the_rate() -> None:
    """Where errors can be tested beside demand each gets half; where too few months were served,
    demand gets all.
    """
    both = demand_drift(figures(48), served(48), [202312], SETTINGS)
    assert {row["false_alarm_rate"] for row in both if row["p_value"] is not None} == {0.05}
    few = demand_drift(figures(48), served(48).iloc[-12:], [202312], SETTINGS)
    assert {row["feature"].split(":")[0] for row in few if row["p_value"] is None} == {
        "wql",
        "bias",
        "demand_qty",
    }
    assert {row["false_alarm_rate"] for row in few if row["p_value"] is not None} == {0.1}


def test_a_beginning_shift_does_not_hide_its_next_month() -> None:
    """The second month of a shift is ranked among months before the shift, not below the first
    one.
    """
    shift = dict.fromkeys((202306, 202307), 15_000.0)
    row = verdict(figures(43, total_demand_qty=shift), 202307, "total_demand_qty")
    assert row["p_value"] == pytest.approx(1 / (row["history_months"] + 1))


def test_later_months_do_not_change_a_verdict() -> None:
    """A past month computed again, with more months known, gets the same row."""
    long = figures(60, total_demand_qty={202307: 15_000.0, 202401: 1.0})
    known = long["yyyymm"] <= 202307
    assert demand_drift(long, served(60), [202307], SETTINGS) == demand_drift(
        long[known], served(43), [202307], SETTINGS
    )


def test_too_little_history_decides_nothing() -> None:
    """Under two years a month is not tested, however odd it looks; with two years it is."""
    odd = {"total_demand_qty": {202111: 1e9, 202112: 1e9}}
    row = verdict(figures(24, **odd), 202111, "total_demand_qty")
    assert (row["is_drift"], row["statistic"], row["history_months"]) == (False, None, 8)
    assert (
        row["reason"]
        == "not enough history: 8 past months to rank total_demand_qty among, 9 are needed for a"
        " rate of 10%"
    )
    assert verdict(figures(24, **odd), 202112, "total_demand_qty")["is_drift"]


def test_a_missing_figure_is_said_and_no_drift() -> None:
    """A month without a price has nothing to compare, nor has one that nobody served."""
    row = verdict(figures(43, mean_unit_price={202307: np.nan}), 202307, "mean_unit_price")
    assert (row["is_drift"], row["value"]) == (False, None)
    assert row["reason"].startswith(
        "nothing to compare: the figure, or that of the year before, is unknown"
    )
    assert verdict(figures(43), 202307, "wql:lumpy")["reason"].startswith(
        "nothing to compare: what was served is unknown"
    )


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_rate_of_false_alarms_is_the_one_stated(correlation: float) -> None:
    """Of 2,000 months that differ by chance alone a tenth drifts, with twelve figures of which each
    is independent or all hang together.
    """
    draws = np.random.default_rng(1)
    common, own = draws.standard_t(4, (2000, 31, 1)), draws.standard_t(4, (2000, 31, 12))
    changes = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    one_sided = np.arange(12) < 2
    alarms = [
        ranked(c[:-1], c[-1], np.full(12, 0.01), one_sided, 0.1).p_value.min() <= 0.1
        for c in changes
    ]
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.02)


def test_the_threshold_is_where_the_rate_begins() -> None:
    """|z| beyond the threshold is the same as a p-value within the rate."""
    draws = np.random.default_rng(2)
    for changes in draws.normal(size=(200, 30, 5)):
        test = ranked(changes[:-1], changes[-1], np.full(5, 0.01), np.zeros(5, bool), 0.1)
        assert ((np.abs(test.z) > test.threshold) == (test.p_value <= 0.1)).all()


def test_fewer_months_than_needed_can_not_reach_the_rate() -> None:
    """The rank among n past months is at best 1 / (n + 1)."""
    assert [needed(rate) for rate in (0.1, 0.05, 0.3)] == [9, 19, 3]


def test_rows_have_the_columns_of_the_table_in_plain_types() -> None:
    """Every row fits gold.demand_drift, without numpy's types, which Spark refuses."""
    rows = demand_drift(figures(43), served(43), [202307, 202306, 209901], SETTINGS)
    assert {frozenset(row) for row in rows} == {frozenset(DEMAND_DRIFT.column_names)}
    assert {row["yyyymm"] for row in rows} == {202306, 202307}
    assert {type(value) for row in rows for value in row.values()} <= {
        int,
        float,
        str,
        bool,
        type(None),
    }
