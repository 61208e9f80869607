"""Figures of served forecasts over several months, which vintage's totals are drawn, and where
reports are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medallion_assets.served.accuracy import judged_totals, pooled
from medallion_assets.tables import FORECAST_ACCURACY
from resources.reports import LocalReportFiles


def row(
    month: int, cells: int, actual: float, forecast: float, mae: float, **figures: Any
) -> dict[str, Any]:
    """A row of gold.forecast_accuracy with the ratios that these figures give."""
    made = {
        "yyyymm": month,
        "lag": 1,
        "segment_kind": "all",
        "segment": "all",
        "cell_count": cells,
        "actual_qty": actual,
    }
    wape = mae * cells / actual if actual else None
    made |= {
        "forecast_qty": forecast,
        "mae": mae,
        "wape": wape,
        "wql": wape,
        "coverage_80": 0.5,
        "naive_wape": None,
        "is_backfilled": False,
    }
    return dict.fromkeys(FORECAST_ACCURACY.column_names) | made | figures


def test_months_are_pooled_by_their_sums() -> None:
    """A large month with a small error and a small one with a large: the sums are divided, not the
    months' ratios averaged.
    """
    figures = pooled(
        pd.DataFrame(
            [
                row(1, 8, 90.0, 99.0, 1.0, coverage_80=1.0),
                row(2, 2, 10.0, 11.0, 5.0, coverage_80=0.0),
            ]
        ),
        ["segment"],
    )
    assert figures.iloc[0][["month_count", "cell_count", "actual_qty"]].tolist() == [2, 10, 100]
    assert figures.iloc[0][["wape", "bias", "coverage_80"]].tolist() == pytest.approx(
        [0.18, 0.1, 0.8]
    )


def test_value_added_compares_the_months_that_have_a_naive_forecast() -> None:
    """Of two months one has no year before it: its error is left out of both sides."""
    rows = [row(1, 10, 100.0, 100.0, 1.0, naive_wape=0.4), row(2, 10, 100.0, 100.0, 50.0)]
    assert pooled(pd.DataFrame(rows), ["segment"])["value_added"].iloc[0] == pytest.approx(
        1 - 10 / 40
    )


def test_the_change_is_weighted_by_the_forecast() -> None:
    """A month of 300 that moved by a tenth and one of 100 that moved by half; one without an origin
    before it does not count.
    """
    changes = [(300.0, 0.1), (100.0, 0.5), (900.0, None)]
    rows = [
        row(m, 1, 100.0, qty, 1.0, mean_absolute_change=change)
        for m, (qty, change) in enumerate(changes)
    ]
    assert pooled(pd.DataFrame(rows), ["segment"])["mean_absolute_change"].iloc[0] == pytest.approx(
        0.2
    )


def test_what_has_no_denominator_is_missing() -> None:
    """A class that sold nothing has no ratio, and no months give no rows."""
    figures = pooled(pd.DataFrame([row(1, 4, 0.0, 3.0, 1.0)]), ["segment"])
    assert (
        figures[["wape", "bias", "wql", "value_added", "mean_absolute_change"]]
        .isna()
        .all(axis=None)
    )
    assert figures["coverage_80"].iloc[0] == 0.5
    assert pooled(
        pd.DataFrame(columns=list(FORECAST_ACCURACY.column_names)), ["segment", "lag"]
    ).empty


def test_totals_are_those_of_the_vintage_that_is_judged() -> None:
    """The last that was there when the month began, else the first."""
    times = ["2024-02-20", "2024-02-28", "2024-03-02"]
    early = [
        {"yyyymm": 202402, "target_yyyymm": 202403, "vintage": n, "published_at": t, "q10": n}
        for n, t in enumerate(times, 1)
    ]
    late = [
        {
            "yyyymm": 202401,
            "target_yyyymm": 202402,
            "vintage": n,
            "published_at": "2024-03-05",
            "q10": n,
        }
        for n in (1, 2)
    ]
    judged = judged_totals(pd.DataFrame([*early, *late]))
    assert sorted(zip(judged["yyyymm"], judged["vintage"], strict=True)) == [
        (202401, 1),
        (202402, 2),
    ]


def test_a_report_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """The folder is made, the newer text stands in place of the older, and nothing else is left."""
    files = LocalReportFiles(str(tmp_path / "reports"))
    assert files.read("r.html") is None
    files.write("r.html", "first")
    files.write("r.html", "zweite ü")
    assert files.read("r.html") == "zweite ü"
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["r.html"]
    assert files.path("r.html") == str(tmp_path / "reports" / "r.html")
