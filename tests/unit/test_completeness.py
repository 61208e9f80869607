"""Complete months, read off deliveries of one or several sources."""

from typing import Any

import pandas as pd

from medallion_assets.complete import complete_months_of
from resources.settings import Settings

COLUMNS = {
    "order_id": "o",
    "part_number": "p",
    "order_date": "d",
    "quantity": "q",
    "unit_price": "u",
}


def settings(*sources: dict[str, Any], **others: Any) -> Settings:
    given = [
        {"name": "orders", "files": "*.csv", "columns": COLUMNS} | source
        for source in sources or ({},)
    ]
    return Settings(
        **{"lakehouse_root": "lakehouse", "first_month": 202401, "sources": given, **others}
    )


def deliveries(*rows: tuple[str, str, dict[int, tuple[int, int]]]) -> pd.DataFrame:
    """Deliveries in order of registration: source, file name, and by month (lines, last day)."""
    return pd.DataFrame(
        [
            {
                "sequence": n,
                "source": source,
                "file_name": file_name,
                "months": [
                    {"yyyymm": month, "line_count": lines, "last_day": last_day}
                    for month, (lines, last_day) in months.items()
                ],
            }
            for n, (source, file_name, months) in enumerate(rows, start=1)
        ],
        columns=["sequence", "source", "file_name", "months"],
    )


def test_the_newest_month_is_not_complete() -> None:
    """A month is complete once a later one has lines; lines of no month say nothing."""
    rows = deliveries(("orders", "a.csv", {0: (9, 0), 202401: (5, 31), 202402: (5, 9)}))
    assert complete_months_of(rows, settings()) == [202401]


def test_every_source_with_lines_must_be_complete() -> None:
    """A source that lags keeps the month open; one that never delivered does not."""
    rows = deliveries(
        ("orders", "a.csv", {202401: (5, 31), 202402: (5, 29), 202403: (1, 2)}),
        ("web", "w.csv", {202401: (5, 30), 202402: (5, 9)}),
    )
    both = settings({}, {"name": "web"}, {"name": "fair"})
    assert complete_months_of(rows, both) == [202401]
    assert complete_months_of(rows[rows["source"] == "orders"], both) == [202401, 202402]


def test_a_retired_source_is_closed_by_configuration() -> None:
    """closed_through of a source that stopped lets the months of the others be complete."""
    rows = deliveries(
        ("orders", "a.csv", {202402: (5, 29), 202403: (1, 2)}), ("web", "w.csv", {202401: (5, 9)})
    )
    assert complete_months_of(rows, settings({}, {"name": "web", "closed_through": 203012})) == [
        202401,
        202402,
    ]


def test_replaced_lines_count_for_nothing() -> None:
    """A newer snapshot of the file takes its lines of February back: January has no later lines any
    more.
    """
    rows = deliveries(
        ("orders", "a.csv", {202401: (5, 31), 202402: (5, 9)}),
        ("orders", "a.csv", {202401: (5, 31), 202402: (0, 0)}),
    )
    assert complete_months_of(rows, settings({"mode": "snapshot"})) == []
    assert complete_months_of(rows, settings()) == [202401]


def test_no_deliveries_no_months() -> None:
    """Before the first delivery nothing is complete, even where the configuration names a last
    month.
    """
    assert complete_months_of(deliveries(), settings(last_month=202412)) == []
