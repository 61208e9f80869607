"""A path that a part's own history does not bear out is not served."""

import numpy as np
import pandas as pd
import pytest

from medallion_assets.served.guard import guarded, not_borne_out
from medallion_assets.tables import DECILES

SEASON = [100.0 + 50 * np.sin(month * np.pi / 6) for month in range(36)]
STEADY = [10.0, 12.0] * 18


def path(part: str, expected: list[float], q90: float | None = None) -> pd.DataFrame:
    """Forecast rows of a part, with deciles around the expected demand."""
    rows = pd.DataFrame({"part_number": part, "horizon": range(1, len(expected) + 1)})
    deciles = {
        name: np.asarray(expected) * share
        for name, share in zip(DECILES, np.linspace(0.6, 1.4, 9), strict=True)
    }
    rows = rows.assign(forecast_qty=expected, **deciles)
    return rows if q90 is None else rows.assign(q90=q90)


def histories(**by_part: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"part_number": list(by_part), "demand_quantities": [np.array(v) for v in by_part.values()]}
    )


@pytest.mark.parametrize(
    ("sold", "expected"),
    [
        (STEADY, [11.0] * 6),
        (STEADY, [30.0] * 6),
        (STEADY, [4.0] * 6),
        (SEASON, [60.0, 50.0, 55.0, 70.0, 100.0, 140.0]),
        ([0.0] * 30 + [1.0] * 2 + [0.0] * 4, [0.4] * 6),
        ([0.0] * 24 + [5.0] * 12, [9.0] * 6),
        ([2.0, 4.0], [12.0] * 6),
        ([0.0] * 36, [3.0] * 6),
        (STEADY[:12] + [0.0] * 24, [0.0] * 6),
    ],
    ids=["as ever", "more", "less", "season", "rare", "risen", "young", "never sold", "ended"],
)
def test_what_history_bears_out_is_served(sold: list[float], expected: list[float]) -> None:
    """Demand may rise threefold, fall to a third, follow its season, or begin."""
    assert not_borne_out(path("A", expected), histories(A=sold), largest=50.0) == {}


@pytest.mark.parametrize(
    ("sold", "expected", "q90", "reason"),
    [
        (STEADY, [11.0, 4e12, 11, 11, 11, 11], None, "expected up to 4,000,000,000,000 units in a"),
        (STEADY, [40.0] * 6, None, "the largest of the last 36 months was 12 units"),
        (STEADY, [2.0] * 6, None, "the least that 6 months in a row had was 11 units"),
        (STEADY, [11.0] * 6, 500.0, "q90 of the model was up to 500 units in a month"),
        (STEADY, [11.0, float("nan")] * 3, None, "numbers that are not finite"),
        ([1.0] * 20 + [60.0] + [1.0] * 15, [50.0] * 6, None, "the most that 6 months in a row had"),
        ([0.0] * 36, [400.0] * 6, None, "never sold, where no part ever sold more than 50 units"),
    ],
    ids=["absurd", "too high", "too low", "spread", "not finite", "a peak for ever", "never sold"],
)
def test_what_history_does_not_bear_out_is_told(
    sold: list[float], expected: list[float], q90: float | None, reason: str
) -> None:
    """The reason names what the model expected and what the history had."""
    [told] = not_borne_out(path("A", expected, q90), histories(A=sold), largest=50.0).values()
    assert reason in told


def test_only_the_part_that_fails_gets_the_stand_in() -> None:
    """Its rows are those of the stand-in, with the reason; all other rows are as they were, and a
    part's rows depend on no other part.
    """
    rows = pd.concat([path("A", [11.0] * 3), path("B", [9e9] * 3), path("C", [12.0] * 3)])
    packed = histories(A=STEADY, B=STEADY, C=STEADY)
    asked: list[str] = []

    def stand_in(stopped: pd.DataFrame) -> pd.DataFrame:
        asked.extend(stopped["part_number"])
        return path("B", [10.0] * 3)

    made = guarded(rows, packed, 50.0, stand_in)
    assert asked == ["B"]
    assert list(made["part_number"]) == ["A"] * 3 + ["B"] * 3 + ["C"] * 3
    assert list(made["forecast_qty"]) == [11.0] * 3 + [10.0] * 3 + [12.0] * 3
    assert made["guard"].notna().tolist() == [False] * 3 + [True] * 3 + [False] * 3
    alone = guarded(rows[rows["part_number"] == "B"], packed.iloc[[1]], 50.0, stand_in)
    assert alone["guard"].tolist() == made.loc[made["part_number"] == "B", "guard"].tolist()


def test_a_bucket_without_forecasts_has_none() -> None:
    """Nothing is asked of the stand-in."""
    empty = path("A", [1.0])[:0]
    assert guarded(empty, histories(), 50.0, lambda stopped: empty).empty
