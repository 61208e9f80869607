"""Drift: which months differ from their past once the season is taken out, and which don't."""

from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medallion_assets.monitoring.drift import demand_drift
from medallion_assets.partitions import add_months
from medallion_assets.tables import DEMAND_DRIFT
from resources.settings import Settings

SEASON = (80, 80, 90, 100, 100, 100, 100, 110, 120, 150, 220, 300)
COLUMNS = {"order_id": "o", "part_number": "p", "order_date": "d", "quantity": "q", "unit_price": "u"}
SETTINGS = Settings(lakehouse_root="lakehouse", first_month=202001, sources=({"name": "orders", "files": "*.csv", "columns": COLUMNS},))
REGIONS = MappingProxyType({"North": 60.0, "South": 40.0})


def figures(months: int, **changed: dict[int, Any]) -> pd.DataFrame:
    """A steady wholesaler from 202001 with a strong season; ``changed`` replaces figures of some months."""
    rows = []
    for n in range(months):
        month = add_months(202001, n)
        wobble = 1 + 0.01 * np.sin(n)
        row = {
            "yyyymm": month,
            "total_demand_qty": SEASON[n % 12] * 100 * wobble,
            "like_for_like_ratio": wobble if n >= 12 else np.nan,
            "active_part_count": 100,
            "zero_share": 0.3,
            "mean_unit_price": 5.0,
            "order_count": SEASON[n % 12] * 10,
            "customer_count": 50,
            "region_demand_qty": dict(REGIONS),
        }
        rows.append(row | {name: values[month] for name, values in changed.items() if month in values})
    return pd.DataFrame(rows)


def verdict(frame: pd.DataFrame, month: int, feature: str) -> dict[str, Any]:
    return next(row for row in demand_drift(frame, [month], SETTINGS) if row["feature"] == feature)


def test_a_season_is_no_drift() -> None:
    """December sells three times as much as a common month, as every December before, and nothing drifts."""
    assert not any(row["is_drift"] for row in demand_drift(figures(48), [202312], SETTINGS))


def test_a_shift_is_drift_with_its_figures_in_the_reason() -> None:
    """A July that sells half as much again as Julys did is drift, and the sentence says from what to what."""
    row = verdict(figures(43, total_demand_qty={202307: 15_000.0}), 202307, "total_demand_qty")
    assert row["is_drift"]
    assert row["expected"] == pytest.approx(10_000, rel=0.03)
    assert row["statistic"] > SETTINGS.monitoring.drift_threshold
    assert row["reason"].startswith("drift: total_demand_qty of 202307 is 1.5e+04")
    assert "from 202207 and the usual yearly change" in row["reason"]


def test_parts_that_sell_more_than_they_did_are_drift() -> None:
    """The typical part's change against the years before counts where the total, which large parts rule, stays as it was."""
    row = verdict(figures(43, like_for_like_ratio={202307: 1.4}), 202307, "like_for_like_ratio")
    assert (row["is_drift"], row["expected"]) == (True, pytest.approx(1, abs=0.02))


def test_a_fall_is_drift_too() -> None:
    """The statistic has a sign, and its size counts."""
    row = verdict(figures(43, order_count={202307: 400}), 202307, "order_count")
    assert row["is_drift"]
    assert row["statistic"] < 0


def test_a_new_regional_mix_is_drift() -> None:
    """Demand that moves from one region to another is drift, though its total stays."""
    moved = figures(43, region_demand_qty={202307: {"North": 10.0, "Export": 90.0}})
    row = verdict(moved, 202307, "region_mix")
    assert row["is_drift"]
    assert row["value"] == pytest.approx(0.9)
    assert not verdict(moved, 202307, "total_demand_qty")["is_drift"]


def test_later_months_do_not_change_a_verdict() -> None:
    """A past month computed again, with more months known, gets the same row."""
    long = figures(60, total_demand_qty={202307: 15_000.0, 202401: 1.0})
    assert demand_drift(long, [202307], SETTINGS) == demand_drift(long[long["yyyymm"] <= 202307], [202307], SETTINGS)


def test_too_little_history_decides_nothing() -> None:
    """With fewer months before it than configured a month is not tested, however odd it looks."""
    row = verdict(figures(18, total_demand_qty={202106: 1e9}), 202106, "total_demand_qty")
    assert (row["is_drift"], row["statistic"], row["history_months"]) == (False, None, 17)
    assert row["reason"] == "not enough history: 17 months of 18"


def test_under_two_years_the_year_before_the_month_is_the_measure() -> None:
    """Without past yearly changes a month is held against the twelve months before it."""
    row = verdict(figures(20, mean_unit_price={202108: 9.0}), 202108, "mean_unit_price")
    assert row["is_drift"]
    assert "from the 12 months before" in row["reason"]


def test_a_missing_figure_is_said_and_no_drift() -> None:
    """A month without a price has nothing to compare."""
    row = verdict(figures(43, mean_unit_price={202307: np.nan}), 202307, "mean_unit_price")
    assert (row["is_drift"], row["value"]) == (False, None)
    assert row["reason"].startswith("nothing to compare")


def test_rows_have_the_columns_of_the_table_in_plain_types() -> None:
    """Every row fits gold.demand_drift, without numpy's types, which Spark refuses."""
    rows = demand_drift(figures(43), [202307, 202306, 209901], SETTINGS)
    assert {frozenset(row) for row in rows} == {frozenset(DEMAND_DRIFT.column_names)}
    assert {row["yyyymm"] for row in rows} == {202306, 202307}
    assert {type(value) for row in rows for value in row.values()} <= {int, float, str, bool, type(None)}
