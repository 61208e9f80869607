"""Complete months, read off deliveries of one or several sources."""

from typing import Any

import pandas as pd
import pytest

from medallion_assets.complete import complete_months_of, grown_deliveries, why_incomplete
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


def test_monthly_totals_are_told_apart_from_months_that_lag() -> None:
    """Lines on the first of each month only: what it looks like and what to set."""
    months = dict.fromkeys((202401, 202402, 202403), (1, 1))
    (told,) = why_incomplete(deliveries(("totals", "t.csv", months)), settings({"name": "totals"}))
    assert told.startswith("totals: 202401 to 202402 has lines of later months behind it")
    assert "none in the last 10 days (closing_days) of a month" in told
    assert "all their lines are dated the first of the month, as monthly totals are" in told
    assert "closed_through: 202403 into the source, or last_month: 202403" in told
    assert "closing_days: " not in told


@pytest.mark.parametrize("closed", [{"closed_through": 202403}, {}])
def test_months_that_are_complete_are_not_complained_of(closed: dict[str, int]) -> None:
    """A source that is closed, or whose newest month alone goes on, has nothing to say."""
    months = {202401: (5, 31), 202402: (5, 27), 202403: (5, 1)}
    rows = deliveries(("orders", "a.csv", months))
    assert why_incomplete(rows, settings({"name": "orders", **closed})) == []
    assert why_incomplete(rows, settings({"name": "orders"}, last_month=202402)) == []


def test_a_source_that_stops_before_its_months_end_says_which_days_it_has() -> None:
    """A shop that closes its books on the 15th: more closing days would do."""
    months = {202401: (5, 31), 202402: (5, 15), 202403: (5, 16), 202404: (5, 2)}
    (told,) = why_incomplete(deliveries(("shop", "a.csv", months)), settings({"name": "shop"}))
    assert "202402 to 202403 has lines of later months behind it" in told
    assert "their latest lines are of the 15. to the 16. of the month" in told
    assert told.endswith("or closing_days: 16")


def test_the_only_month_of_a_source_waits_for_the_next() -> None:
    """One month alone may still go on."""
    (told,) = why_incomplete(
        deliveries(("orders", "a.csv", {202401: (5, 31)})), settings({"name": "orders"})
    )
    assert told.startswith("orders: no month after 202401 has lines, so 202401 may still go on")


def test_what_a_file_was_before_it_grew_counts_for_nothing() -> None:
    """Half a line of a later month does not close the one before."""
    rows = deliveries(
        ("orders", "a.csv", {202401: (5, 31), 202403: (1, 1)}),
        ("orders", "a.csv", {202401: (6, 31), 202403: (0, 0)}),
    )
    rows["delivery_id"], rows["grown_from"] = ["half", "whole"], [None, "half"]
    assert grown_deliveries(rows) == {"half": "whole"}
    assert complete_months_of(rows.iloc[:1], settings()) == [202401]
    assert complete_months_of(rows, settings()) == []
