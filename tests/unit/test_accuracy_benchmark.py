"""The benchmark's pure parts: how a series file becomes order lines, and how predictions are
scored.
"""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from medallion_assets.bench import holdout as accuracy
from medallion_assets.bench import scoring
from medallion_assets.partitions import month_index
from medallion_assets.tables import DECILES, RETRAINING_DECISION
from resources.errors import Refused
from resources.settings import Settings, parse_settings
from tests.fakes import FakeLakehouse, filled

JANUARY_2020 = 2020 * 12


def series(unique_id: str, first: str, values: list[float | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "unique_id": unique_id,
            "ds": pd.date_range(first, periods=len(values), freq="MS"),
            "y": values,
        }
    )


def prediction(month: int, forecast: float, deciles: list[float], **others: Any) -> dict[str, Any]:
    cell = {
        "unique_id": "a",
        "model": "m",
        "origin": JANUARY_2020 + 12,
        "month": month,
        "forecast": forecast,
    }
    return cell | dict(zip(DECILES, deciles, strict=True)) | others


def scored(demand: pd.DataFrame, *rows: dict[str, Any]) -> dict[str, float]:
    return scoring.scores(scoring.monthly(demand), pd.DataFrame(list(rows)))["m"]


def test_gaps_and_missing_values_are_zero_between_the_first_and_last_month() -> None:
    """A month without a row and a month without a value count as no demand; nothing is added before
    or after.
    """
    rows = series("a", "2020-01-01", [1.0, None, 3.0, 4.0]).drop(index=2)
    assert scoring.monthly(rows)["y"].tolist() == [1.0, 0.0, 0.0, 4.0]
    assert scoring.monthly(rows)["month"].tolist() == list(range(JANUARY_2020, JANUARY_2020 + 4))


def test_scores_follow_their_definitions() -> None:
    """One cell of demand 10, forecast 12, all deciles 8: by hand."""
    demand = series("a", "2020-01-01", [*[float(n) for n in range(1, 14)], 10.0])
    found = scored(demand, prediction(JANUARY_2020 + 13, 12.0, [8.0] * 9))
    # History 1 ... 13: steps of 1, and 12 from year to year.
    assert found["mase"] == pytest.approx(2 / 12)
    assert found["rmsse"] == pytest.approx(2.0)
    assert found["wql"] == pytest.approx(
        2 * sum(level * 2 for level in np.arange(0.1, 1, 0.1)) / 9 / 10
    )
    assert (found["bias"], found["wape"], found["rmse_pooled"]) == pytest.approx((0.2, 0.2, 2.0))
    assert found["coverage_closed"] == 0.0


def test_a_series_without_scale_drops_out_of_mase_alone() -> None:
    """A history of one value says nothing of the size of a seasonal error; its other figures
    count.
    """
    demand = pd.concat(
        [
            series("a", "2020-01-01", [5.0] * 14),
            series("b", "2020-01-01", [*[float(n) for n in range(13)], 10.0]),
        ]
    )
    rows = [prediction(JANUARY_2020 + 13, 8.0, [8.0] * 9, unique_id=name) for name in ("a", "b")]
    found = scored(demand, *rows)
    assert found["mase"] == pytest.approx(2 / 12)
    assert (found["series"], found["wape"]) == (2.0, pytest.approx(5 / 15))


def test_calibration_of_a_true_distribution_is_eighty_percent() -> None:
    """Poisson demand with its own deciles: four fifths of the randomised PIT lie between .1 and
    .9.
    """
    random = np.random.default_rng(1)
    draws = np.sort(np.random.default_rng(2).poisson(2.0, 100_001))
    deciles = [float(draws[int(level * 100_000)]) for level in np.arange(0.1, 1, 0.1)]
    ids = [f"s{n:05d}" for n in range(4_000)]
    demand = pd.DataFrame(
        {"unique_id": np.repeat(ids, 2), "month": [JANUARY_2020 + 12, JANUARY_2020 + 13] * 4_000}
    )
    demand["y"] = random.poisson(2.0, 8_000).astype(float)
    rows = pd.DataFrame([prediction(JANUARY_2020 + 13, 2.0, deciles)] * 4_000).assign(unique_id=ids)
    assert scoring.scores(demand, rows)["m"]["calibration"] == pytest.approx(0.8, abs=0.03)


def test_all_series_end_in_one_month_and_keep_their_shape() -> None:
    """A series that ends earlier is shifted by the months between; its first month moves along."""
    shifted = accuracy.end_aligned(
        pd.concat(
            [series("a", "2020-01-01", [1.0, 2.0]), series("b", "2018-06-01", [3.0, 4.0, 5.0])]
        )
    )
    last = shifted.demand.groupby("unique_id")["month"].max()
    assert set(last) == {JANUARY_2020 + 1}
    assert shifted.demand.query("unique_id == 'b'")["y"].tolist() == [3.0, 4.0, 5.0]
    assert shifted.shift.to_dict() == {"a": 0, "b": 18}


def test_nothing_after_the_origin_becomes_an_order_line(tmp_path: Path) -> None:
    """Order lines hold the history's demand alone; every series is announced, also one that never
    sold.
    """
    shifted = accuracy.end_aligned(
        pd.concat(
            [series("x/1", "2020-01-01", [1.0, 0.0, 7.0]), series("x 2", "2020-02-01", [0.0, 9.0])]
        )
    )
    demand, first, second = shifted.demand, 202001, 202002
    history = demand[demand["month"] <= month_index(first)]
    numbers = accuracy._write_master(history, demand, tmp_path / "orders")
    ids = {number: unique_id for unique_id, number in numbers.items()}
    accuracy._write_orders(demand, numbers, None, first, tmp_path)
    accuracy._write_orders(demand, numbers, first, second, tmp_path)
    released = [
        pd.read_parquet(tmp_path / "orders" / f"orders_{month}.parquet")
        for month in (first, second)
    ]
    told = [
        [(ids[p], d, q) for p, d, q in orders[["part", "date", "qty"]].itertuples(index=False)]
        for orders in released
    ]
    assert told == [[("x/1", "2020-01-15", 1.0)], []]
    announced = pd.read_csv(tmp_path / "orders" / "parts.csv", dtype=str).set_index("part")[
        "announced"
    ]
    assert {ids[part]: month for part, month in announced.items()} == {
        "x 2": "202001",
        "x/1": "202001",
    }


@pytest.mark.parametrize(
    ("horizon", "rolling", "origins"), [(3, 0, [202009]), (1, 3, [202009, 202010, 202011])]
)
def test_origins_lie_before_the_last_months(horizon: int, rolling: int, origins: list[int]) -> None:
    """One origin a horizon before the end, or so many of them, each scored one month later."""
    assert accuracy._origins(202012, horizon, rolling) == origins


def test_rolling_scores_one_step() -> None:
    """A longer horizon would score months that no later origin has reached."""
    with pytest.raises(Refused, match="give HORIZON=1"):
        accuracy._origins(202012, 3, 2)


def test_the_stored_decision_says_whether_to_train(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """Rolling origins do what the monthly job decided last for their month; a month without a
    decision trains nobody.
    """
    lakehouse, told = FakeLakehouse(), StringIO()
    for number, (month, decision) in enumerate(
        [(202401, "watch"), (202401, "retrain"), (202402, "nothing")], 1
    ):
        row = filled(
            RETRAINING_DECISION,
            yyyymm=month,
            decision_number=number,
            decision=decision,
            reason=f"reason {number}",
        )
        lakehouse.append(
            RETRAINING_DECISION, lakehouse.create_frame(RETRAINING_DECISION, [row]), number
        )
    monkeypatch.setattr(accuracy.runs, "reader", lambda settings: lakehouse)
    assert [
        accuracy._is_retraining_due(settings, month, Console(file=told))
        for month in (202401, 202402, 202403)
    ] == [True, False, False]
    assert told.getvalue().splitlines() == [
        "trained again: reason 2",
        "not trained again: reason 3",
    ]


def test_a_used_folder_and_an_unusable_file_are_refused(tmp_path: Path) -> None:
    """A lakehouse that was there before would know the test months; a file must have the three
    columns and no negative demand.
    """
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(Refused, match="is not empty"):
        accuracy.refuse_used(tmp_path / "used")
    series("a", "2020-01-01", [-1.0]).to_parquet(tmp_path / "negative.parquet")
    with pytest.raises(Refused, match="1 values of y are negative"):
        accuracy._read_series(tmp_path / "negative.parquet")
    series("a", "2020-01-01", [1.0]).drop(columns="y").to_parquet(tmp_path / "short.parquet")
    with pytest.raises(Refused, match="no column y"):
        accuracy._read_series(tmp_path / "short.parquet")


@pytest.mark.parametrize(
    "own",
    [
        {"csv": {"delimiter": ";", "header_line": 4, "skip": ["^Sum"]}},
        {"format": "excel", "excel": {"sheet": "Orders"}},
        {"format": "json", "json": {"path": "orders[].lines[]"}},
        {"header": {"files": "headers/*.csv", "key": {"Order": "Number"}}},
    ],
    ids=lambda own: next(reversed(own)),
)
def test_copies_of_orders_are_configured_whatever_their_files_were(
    tmp_path: Path, own: dict[str, Any]
) -> None:
    """Copies are Parquet, so how the files themselves are read is left out."""
    columns = {name: name for name in ("order_id", "part_number", "order_date", "quantity")}
    source = {"name": "shop", "files": "orders/*", "columns": columns, **own}
    written = {"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [source]}
    content = parse_settings(written, tmp_path / "shop.yaml").content()
    content |= accuracy.of_cut_orders(content, tmp_path / "orders", tmp_path)
    (copied,) = parse_settings(content, tmp_path / "x.yaml").sources
    assert (copied.format, copied.header) == ("parquet", None)
    assert copied.files == f"{tmp_path}/orders/shop/*/*/*.parquet"
