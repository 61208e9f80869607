"""Freshness by month: which months a table lacks, holds as partial or made too early."""

import pandas as pd

from medallion_assets.watch.freshness import (
    TableMonths,
    freshness_table,
    table_months,
    unread_months,
)
from resources.settings import Settings

COLUMNS = {
    "order_id": "o",
    "part_number": "p",
    "order_date": "d",
    "quantity": "q",
    "unit_price": "u",
}
SETTINGS = Settings(
    lakehouse_root="x",
    first_month=202401,
    sources=({"name": "orders", "files": "*.csv", "columns": COLUMNS},),
)
COMPLETE = [202401, 202402, 202403, 202404]


def test_missing_incomplete_and_late_months_are_told_apart() -> None:
    """A complete month that is not there, a running month, and one that was made while it was
    partial.
    """
    stored = {202401: True, 202403: True, 202404: False, 202405: False}
    found = table_months(stored, COMPLETE, ())
    assert found == TableMonths(newest=202404, missing=[202402], incomplete=[202405], late=[202404])
    assert found.due == [202402, 202404]


def test_a_month_filled_later_is_as_good_as_any() -> None:
    """What counts is which months are there, not when they were made; lines of no month are no
    month.
    """
    assert (
        table_months(
            {0: True, 202404: True, 202402: True, 202401: True, 202403: True}, COMPLETE, ()
        ).due
        == []
    )


def test_lines_that_came_later_make_a_month_late() -> None:
    """A month whose newest lines are registered but not read yet is due again."""
    assert table_months(dict.fromkeys(COMPLETE, True), COMPLETE, {202402}).late == [202402]


def test_a_served_table_begins_with_its_first_origin() -> None:
    """Months before the first published forecast are not missing; a gap after it is."""
    assert table_months({202402: True, 202404: True}, COMPLETE, (), is_served=True).missing == [
        202403
    ]
    assert table_months({}, COMPLETE, (), is_served=True).missing == []
    assert table_months({}, COMPLETE, ()).missing == COMPLETE


def test_registered_lines_that_bronze_lacks_are_unread() -> None:
    """A delivery counts in the months whose slice does not name it; empty months, month 0 and other
    sources don't.
    """
    entries = [(202401, 5), (202402, 5), (202403, 0), (0, 2)]
    months = [{"yyyymm": month, "line_count": lines} for month, lines in entries]
    rows = [("d1", "orders", months[:1]), ("d2", "orders", months), ("d3", "gone", months)]
    deliveries = pd.DataFrame(rows, columns=["delivery_id", "source", "months"])
    assert unread_months(deliveries, {202401: ["d1", "d2"], 202402: ["d1"]}, SETTINGS) == {202402}


def test_the_table_lists_months_as_stretches() -> None:
    """What a person reads has no gaps hidden in a span."""
    months = TableMonths(202404, [202401, 202402, 202404], [202405], [])
    assert (
        freshness_table({"silver.parts": months}).splitlines()[-1]
        == "| silver.parts | 202404 | 202401 to 202402, 202404 | 202405 |  |"
    )
