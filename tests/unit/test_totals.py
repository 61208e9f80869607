"""Totals and their deciles: sums of what is served, intervals that hold, and nothing from later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from medallion_assets.exact import BASE, MANY_ROWS
from medallion_assets.partitions import add_months, month_range
from medallion_assets.served.totals import (
    Dependence,
    deciles,
    decision_months,
    demand_forecast_total,
    dependence,
)
from medallion_assets.tables import DECILES, DEMAND_FORECAST_TOTAL

ORIGIN, HORIZON, ORIGINS = 202406, 3, 6
KEYS = ["demand_class", "abc_class", "model"]
COMING = ["yyyymm", "vintage", "horizon", "target_yyyymm", *KEYS]
PAST = ["yyyymm", "origin", "horizon", "target_yyyymm", *KEYS]
SUMS = ("forecast_qty", "variance", "spread")


def part(month: int, horizon: int, **others: Any) -> dict[str, Any]:
    """A served part, of mean 100 and deviation 10, or what is given."""
    row = {
        "yyyymm": month,
        "vintage": 1,
        "horizon": horizon,
        "target_yyyymm": add_months(month, horizon),
        "demand_class": "smooth",
        "abc_class": "A",
        "model": "theta",
        "forecast_qty": 100.0,
        "spread": 10.0,
    }
    return row | others


def evidence(
    actual: float, horizon: int = 1, origin: int = 202405, **others: Any
) -> dict[str, Any]:
    """The same part at an origin before, beside what it sold, as a decision at ORIGIN saw it."""
    known = {"origin": origin, "actual_qty": actual, "yyyymm": ORIGIN}
    return part(origin, horizon) | known | others


def summed(rows: list[dict[str, Any]], keys: list[str], names: tuple[str, ...]) -> pd.DataFrame:
    """Rows of parts added up as the engine does it: in halves, whole and rest."""
    parts = pd.DataFrame(rows, columns=[*keys, *{*names, "spread"}])
    parts["guarded"] = [row.get("guarded", 0) for row in rows]
    parts["variance"] = parts["spread"].astype(float) ** 2
    halves = {}
    for name in names:
        value = parts[name].astype(float)
        whole = np.floor(value / BASE + 0.5)
        halves[f"{name}_whole"] = whole.astype("int64")
        rest = np.floor((value - whole * BASE) * MANY_ROWS.resolution + 0.5)
        halves[f"{name}_rest"] = rest.astype("int64")
    counts = {"part_count": 1, "guarded_part_count": parts["guarded"]}
    return parts[keys].assign(**counts, **halves).groupby(keys, as_index=False).sum()


def totals(
    coming: list[dict[str, Any]],
    past: list[dict[str, Any]] | None = None,
    stored: list[dict[str, Any]] | None = None,
) -> pd.DataFrame:
    made = demand_forecast_total(
        summed(coming, COMING, SUMS), summed(past or [], PAST, (*SUMS, "actual_qty")), stored or ()
    )
    return pd.DataFrame(made, columns=list(DEMAND_FORECAST_TOTAL.column_names))


def only(rows: pd.DataFrame, segment: str = "all", horizon: int = 1) -> pd.Series:
    (found,) = rows[(rows["segment"] == segment) & (rows["horizon"] == horizon)].to_dict("records")
    return pd.Series(found)


def width(row: pd.Series) -> float:
    return float(row["q90"] - row["q10"])


def world(seed: int, shared: float, parts: int = 20) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Totals of parts of deviation 10 whose errors have a share of their variance in common within
    a target month: those that an origin knows of ORIGINS origins with every horizon and of the
    younger ones, and those to come, beside what was sold.
    """
    rng = np.random.default_rng(seed)
    months = month_range(add_months(ORIGIN, 2 - HORIZON - ORIGINS), add_months(ORIGIN, HORIZON))
    common, own = rng.standard_normal(len(months)), rng.standard_normal((len(months), parts))
    errors = 10 * (np.sqrt(shared) * common[:, None] + np.sqrt(1 - shared) * own)
    known = [
        target
        for origin in months[: HORIZON + ORIGINS - 1]
        for target in (add_months(origin, h) for h in range(HORIZON))
        if target <= ORIGIN
    ]
    sold = pd.Series(100 * parts + errors.sum(axis=1), months)
    everything = pd.DataFrame({"target_yyyymm": [*known, *months[-HORIZON:]]}).assign(
        forecast_qty=100.0 * parts, variance=100.0 * parts, spread=10.0 * parts
    )
    everything["actual_qty"] = everything["target_yyyymm"].map(sold)
    return everything[: len(known)], everything[len(known) :]


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.8])
def test_intervals_hold_whatever_parts_have_in_common(shared: float) -> None:
    """In 300 simulated worlds q10 to q90 holds 75 to 88 % of totals; independence holds less than
    half where errors are shared.
    """
    held, alone = [], []
    for seed in range(300):
        past, coming = world(seed, shared)
        sold = coming["actual_qty"].to_numpy()
        for found, dependent in ((held, dependence(past)), (alone, Dependence(0.0, 0))):
            numbers = deciles(coming, dependent)
            found += list((numbers[:, 0] <= sold) & (sold <= numbers[:, -1]))
    assert 0.75 <= np.mean(held) <= 0.88
    assert shared == 0 or np.mean(alone) < 0.5


def test_a_total_is_the_sum_of_its_parts() -> None:
    """All parts, and the classes of each kind, add up to what is served; so do guarded parts."""
    coming = [
        part(ORIGIN, 1, forecast_qty=0.1, spread=0.3, guarded=1),
        part(ORIGIN, 1, forecast_qty=0.2, spread=0.4, demand_class="lumpy", model="ses"),
        part(ORIGIN, 1, forecast_qty=2048.7, abc_class="C"),
    ]
    rows = totals(coming)
    assert only(rows)["forecast_qty"] == 0.1 + 0.2 + 2048.7
    sums = rows.groupby("segment_kind")["forecast_qty"].sum()
    assert sums.to_dict() == pytest.approx(dict.fromkeys(sums.index, 2049.0), rel=1e-12)
    assert only(rows, "lumpy")["forecast_qty"] == 0.2
    assert rows.groupby("segment_kind")["part_count"].sum().to_dict() == {
        "all": 3,
        "abc_class": 3,
        "demand_class": 3,
    }
    guarded = rows.set_index("segment")["guarded_part_count"].to_dict()
    assert guarded == {"all": 1, "smooth": 1, "lumpy": 0, "A": 1, "C": 0}


def test_without_past_totals_parts_count_as_going_together() -> None:
    """The first forecast has the widest interval that its parts allow, and says that nothing was
    measured.
    """
    row = only(totals([part(ORIGIN, 1) for _ in range(4)]))
    assert width(row) == pytest.approx(2 * -ndtri(0.1) * 40, rel=0.02)
    assert (row["method"], row["target_month_count"], row["origin_month_count"]) == (
        "full_dependence",
        0,
        0,
    )
    assert row["coverage_80"] is None
    assert row["error_correlation"] is None


def test_no_interval_is_narrower_than_independence() -> None:
    """Past totals that were right to the unit do not make parts certain."""
    months = month_range(202305, 202405)
    past = [evidence(100.0, 1, origin) for origin in months for _ in range(4)]
    row = only(totals([part(ORIGIN, 1) for _ in range(4)], past))
    assert row["error_correlation"] == 0
    assert width(row) >= 2 * -ndtri(0.1) * 20 * 0.99


def test_few_months_make_wide_intervals() -> None:
    """The same errors, known of 1, 3 and 12 target months: the fewer the wider."""
    months = month_range(202305, 202405)
    widths = [
        width(
            only(
                totals(
                    [part(ORIGIN, 1) for _ in range(4)],
                    [evidence(110.0, 1, origin) for origin in months[-n:] for _ in range(4)],
                )
            )
        )
        for n in (1, 3, 12)
    ]
    assert widths[0] > 1.5 * widths[1] > 1.5 * widths[2]


@pytest.mark.parametrize("later", ["decision", "target"])
def test_an_origin_knows_nothing_later(later: str) -> None:
    """Absurd errors of a later decision month, or of a target month after the origin, change
    nothing.
    """
    months = month_range(202402, 202405)
    past = [evidence(104.0, 1, origin) for origin in months for _ in range(4)]
    coming = [part(ORIGIN, 1) for _ in range(4)]
    absurd = (
        [row | {"yyyymm": add_months(ORIGIN, 1), "actual_qty": 1e9} for row in past]
        if later == "decision"
        else [evidence(1e9, 3, ORIGIN) for _ in range(4)]
    )
    pd.testing.assert_frame_equal(totals(coming, past + absurd), totals(coming, past))


def test_coverage_is_measured_by_intervals_of_their_own_time() -> None:
    """Origins that knew no error are not counted; a jump in the last month, unknown by then, is a
    miss at each origin that forecast it.
    """
    origins = month_range(202401, 202405)
    past = [
        evidence(1e4 if origin == 202405 else 101.0, 1, origin) for origin in origins for _ in "ab"
    ]
    row = only(totals([part(ORIGIN, 1) for _ in "ab"], past))
    assert (row["origin_month_count"], row["target_month_count"]) == (4, 5)
    assert row["coverage_80"] == 0.75


def test_only_models_that_serve_now_are_evidence() -> None:
    """Errors of another model of the class do not count, nor months in which parts are missing."""
    months = month_range(202402, 202405)
    good = [evidence(100.0, 1, origin) for origin in months for _ in range(4)]
    other = [row | {"model": "ses", "actual_qty": 1e6} for row in good]
    partial = [evidence(1e6, 2, 202403)] + [
        evidence(100.0, 2, 202403, model="ses") for _ in range(4)
    ]
    coming = [part(ORIGIN, 1) for _ in range(4)]
    pd.testing.assert_frame_equal(totals(coming, good + other + partial), totals(coming, good))


def test_restated_evidence_takes_the_place_of_former() -> None:
    """Of cells that two decisions saw the newer counts, once."""
    months = month_range(202402, 202405)
    now = [evidence(104.0, 1, origin) for origin in months for _ in range(4)]
    former = [row | {"yyyymm": 202405, "actual_qty": 500.0} for row in now]
    coming = [part(ORIGIN, 1) for _ in range(4)]
    pd.testing.assert_frame_equal(totals(coming, now + former), totals(coming, now))


def test_earlier_vintages_stay() -> None:
    """What was published of a vintage is given back as it is, though a former release stored no
    guarded parts; the newest is made.
    """
    first = totals([part(ORIGIN, 1)]).drop(columns="guarded_part_count").to_dict("records")
    published = [row | {"q90": 777.0} for row in first]
    rows = totals(
        [part(ORIGIN, 1), part(ORIGIN, 1, vintage=2, forecast_qty=50.0)], stored=published
    )
    assert set(rows.loc[rows["vintage"] == 1, "q90"]) == {777.0}
    assert rows.loc[rows["vintage"] == 1, "guarded_part_count"].isna().all()
    assert set(rows.loc[rows["vintage"] == 2, "forecast_qty"]) == {50.0}


@pytest.mark.parametrize(
    ("coming", "expected"),
    [
        ([part(ORIGIN, 1, forecast_qty=0.0, spread=0.0) for _ in "ab"], [0.0] * 9),
        ([part(ORIGIN, 1, forecast_qty=5.0, spread=0.0)], [5.0] * 9),
    ],
)
def test_what_can_not_vary_has_no_interval(
    coming: list[dict[str, Any]], expected: list[float]
) -> None:
    """Totals of nothing are nothing, with evidence and without."""
    past = [evidence(0.0, 1, origin, forecast_qty=0.0, spread=0.0) for origin in (202404, 202405)]
    for row in (only(totals(coming)), only(totals(coming, past))):
        assert [row[name] for name in DECILES] == expected


def test_nothing_published_has_no_totals() -> None:
    """An origin without a forecast gives no row."""
    assert totals([]).empty


def test_one_part_of_rare_sales_has_an_interval() -> None:
    """A deviation beyond the mean gives deciles in order, from 0, and wider than half of it
    does.
    """
    rows = [
        only(totals([part(ORIGIN, 1, forecast_qty=0.1, spread=s)], [evidence(0.0), evidence(3.0)]))
        for s in (0.3, 0.6)
    ]
    for row in rows:
        numbers = [row[name] for name in DECILES]
        assert numbers == sorted(numbers)
        assert numbers[0] == 0 < numbers[-1]
    assert width(rows[1]) > 1.5 * width(rows[0])


def test_more_deviation_is_never_narrower() -> None:
    """From a hundredth of the mean to a hundred times it, q90 less q10 grows."""
    spread = np.geomspace(1, 1e4, 60)
    frame = pd.DataFrame({"forecast_qty": 100.0, "variance": spread**2, "spread": spread})
    numbers = deciles(frame, Dependence(0.0, 12))
    assert (np.diff(numbers[:, -1] - numbers[:, 0]) > 0).all()


def test_the_correlation_is_found() -> None:
    """Totals twice as far off as independence says, of 4 parts: their errors go together fully."""
    past = pd.DataFrame(
        {
            "target_yyyymm": [202401, 202402],
            "actual_qty": [440.0, 360.0],
            "forecast_qty": 400.0,
            "variance": 400.0,
            "spread": 40.0,
        }
    )
    assert dependence(past) == Dependence(1.0, 2)


def test_evidence_is_read_once() -> None:
    """Of decisions every month those a window apart are read; of sparse ones all, none after the
    origin or long ago.
    """
    monthly = month_range(202201, 202501)
    assert decision_months(monthly, 202412, 6) == [202212, 202306, 202312, 202406, 202412]
    assert decision_months([202401, 202409, 202412, 202501], 202412, 6) == [202401, 202409, 202412]
    assert decision_months([], 202412, 6) == []
