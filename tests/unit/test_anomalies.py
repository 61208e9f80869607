"""Anomalies: what is improbable under published deciles, what is not, and what is never claimed."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from medallion_assets.served.anomalies import (
    anomaly_rows,
    chances,
    demand_anomaly,
    drawn,
    pit,
)
from medallion_assets.tables import DECILES, DEMAND_ANOMALY, DEMAND_LABEL

MONTH, ORIGIN = 202402, 202401
STEADY = (90, 94, 96, 98, 100, 102, 104, 106, 110)
RARE = (0, 0, 0, 0, 0, 0, 1, 1, 2)
NEVER = (0,) * 9
NO_LABELS = pd.DataFrame(columns=list(DEMAND_LABEL.column_names))


def published(parts: dict[str, tuple[float, ...]], expected: float | None = None) -> pd.DataFrame:
    """What was published for MONTH: deciles by part; expected demand is the mean of the deciles."""
    return pd.DataFrame(
        [
            {"part_number": part, **dict(zip(DECILES, map(float, deciles), strict=True))}
            | {"forecast_qty": float(np.mean(deciles)) if expected is None else expected}
            | {"target_yyyymm": MONTH, "origin": ORIGIN, "horizon": 1, "vintage": 1}
            | {"is_backfilled": False, "model": "m", "status": "forecast"}
            | {"demand_class": "smooth"}
            for part, deciles in parts.items()
        ]
    )


def sold(**qty: float) -> pd.DataFrame:
    return pd.DataFrame({"part_number": list(qty), "demand_qty": map(float, qty.values())})


def found(
    parts: dict[str, tuple[float, ...]], qty: dict[str, float], rate: float = 0.05
) -> dict[str, str]:
    """Direction of each part that is claimed."""
    rows = demand_anomaly(MONTH, published(parts), sold(**qty), rate)
    return dict(zip(rows["part_number"], rows["direction"], strict=True)) if len(rows) else {}


def test_ten_times_as_much_and_nothing_are_found_in_steady_parts() -> None:
    """Of twenty steady parts the one that sold ten times as much and the one that sold nothing are
    claimed, and no other.
    """
    parts = {f"P{i:02}": STEADY for i in range(20)}
    demand = {part: 90.0 + i for i, part in enumerate(parts)} | {"P03": 1000.0, "P07": 0.0}
    assert found(parts, demand) == {"P03": "high", "P07": "low"}


def test_what_lies_within_the_interval_is_never_claimed() -> None:
    """A month of nothing of parts that rarely sell is no anomaly, whatever is drawn and at
    whatever rate.
    """
    parts = {f"P{i:03}": RARE for i in range(300)}
    assert found(parts, dict.fromkeys(parts, 0.0), rate=0.49) == {}


def test_without_a_published_forecast_nothing_is_claimed() -> None:
    """No row of what was published, or none with numbers, gives no anomaly."""
    nothing = published({"A": STEADY}).head(0)
    assert demand_anomaly(MONTH, nothing, sold(A=1e6), 0.05).empty
    no_numbers = published({"A": STEADY}).assign(q90=np.nan)
    assert demand_anomaly(MONTH, no_numbers, sold(A=1e6), 0.05).empty


def test_a_part_that_nobody_knew_is_held_against_all_parts() -> None:
    """The first sale of an unknown part is claimed where no part sells as much, and not where some
    do; without a sale it is not tested.
    """
    parts = {f"P{i:02}": STEADY for i in range(20)}
    usual = dict.fromkeys(parts, 100.0)
    rows = demand_anomaly(MONTH, published(parts), sold(**usual, NEW=80_995.0), 0.05)
    assert rows[["part_number", "basis", "direction"]].to_numpy().tolist() == [
        ["NEW", "all_parts", "high"]
    ]
    assert rows["forecast_qty"].isna().all()
    assert found(parts, usual | {"NEW": 103.0, "IDLE": 0.0}) == {}


def test_deciles_of_zero_say_how_rarely_a_part_sells_and_not_how_much() -> None:
    """A part all of whose deciles are 0 may sell what other parts sell; ten thousand times as much
    is claimed.
    """
    parts = {"ZERO": NEVER, **{f"P{i:02}": STEADY for i in range(20)}}
    usual = dict.fromkeys(parts, 100.0)
    assert found(parts, usual | {"ZERO": 20.0}) == {}
    assert found(parts, usual | {"ZERO": 1e6}) == {"ZERO": "high"}
    assert found({"ZERO": NEVER}, {"ZERO": 1e6}) == {}


def test_the_distribution_passes_through_the_deciles() -> None:
    """Between deciles and at them it is what they say, of equal ones the highest; there is none
    below 0.
    """
    deciles, mean = np.array([STEADY], dtype=float), np.array([100.0])

    def up_to(qty: float) -> float:
        return float(chances(deciles, mean, np.array([float(qty)])).up_to[0])

    assert up_to(90) == pytest.approx(0.1)
    assert up_to(101) == pytest.approx(0.55)
    assert up_to(110) == pytest.approx(0.9)
    assert up_to(-1) == 0.0
    rare = chances(np.array([RARE], dtype=float), np.array([0.5]), np.array([0.0]))
    assert rare.up_to[0] == pytest.approx(0.6)


def test_what_rarely_sells_has_a_tail_as_long_as_its_mean_asks_for() -> None:
    """Of equal deciles the part with the larger mean is the likelier to sell much."""
    qty, deciles = np.array([20.0, 20.0]), np.array([RARE, RARE], dtype=float)
    little, much = chances(deciles, np.array([0.4, 4.0]), qty).more
    assert little < much


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.poisson(4, n),
        lambda rng, n: rng.negative_binomial(1, 0.1, n),
        lambda rng, n: (rng.random(n) < 0.3) * rng.geometric(0.2, n),
        lambda rng, n: np.round(rng.gamma(25, 4, n)),
    ],
    ids=["counted", "erratic", "intermittent", "smooth"],
)
def test_small_p_values_are_no_more_frequent_than_they_say(draw: Any) -> None:
    """Of demand from the published distribution a p_value of .01 or less comes in at most one of a
    hundred months, one of .001 in one of a thousand.
    """
    rng = np.random.default_rng(5)
    sample = draw(rng, 100_000).astype(float)
    deciles = np.quantile(sample, np.arange(1, 10) / 10, method="inverted_cdf")
    demand = draw(rng, 100_000).astype(float)
    many = np.tile(deciles, (len(demand), 1))
    up_to, more = pit(many, np.full(len(demand), sample.mean()), demand, rng.random(len(demand)))
    p_value = 2 * np.minimum(up_to, more)
    for level in (0.01, 0.001):
        assert (p_value <= level).mean() <= 1.1 * level


def test_lots_are_the_same_whenever_they_are_drawn() -> None:
    """A part and month have one lot, and parts have different ones, spread over 0 to 1."""
    lots = drawn([f"P{i}" for i in range(2000)], MONTH)
    assert (lots == drawn([f"P{i}" for i in range(2000)], MONTH)).all()
    assert drawn(["P5"], MONTH)[0] == lots[5] != drawn(["P5"], MONTH + 1)[0]
    assert lots.min() >= 0
    assert lots.max() < 1
    assert abs(lots.mean() - 0.5) < 0.03


def test_rows_carry_money_and_label() -> None:
    """Money at stake is the difference from what was expected times the price; a part without one
    has none; the label that holds stands beside.
    """
    parts = {f"P{i:02}": STEADY for i in range(20)}
    demand = dict.fromkeys(parts, 100.0) | {"P03": 1100.0, "P04": 1100.0}
    claimed = demand_anomaly(MONTH, published(parts, 100.0), sold(**demand), 0.05)
    prices = pd.DataFrame({"part_number": ["P03", "P04"], "unit_price": [2.5, np.nan]})
    label = {"part_number": "P03", "label": "real", "note": "project", "actor": "ada"}
    rows = anomaly_rows(claimed, prices, pd.DataFrame([label]))
    assert [(r["part_number"], r["money_at_stake"], r["label"]) for r in rows] == [
        ("P03", 2500.0, "real"),
        ("P04", None, None),
    ]
    assert set(DEMAND_ANOMALY.column_names) <= set(rows[0])
    assert anomaly_rows(claimed.head(0), prices, NO_LABELS) == []
