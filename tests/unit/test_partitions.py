"""Months: arithmetic, which are complete, which origins are evidence."""

from __future__ import annotations

import calendar

import pytest

from medallion_assets.partitions import (
    MonthLines,
    add_months,
    complete_months,
    days_in_month,
    evidence_origins,
    from_index,
    in_ranges,
    month_index,
    month_partitions,
    month_range,
    stretches,
)

CLOSING_DAYS = 10


def complete(
    *lines: tuple[int, int], first: int = 202201, last: int | None = None, closed: int | None = None
) -> list[int]:
    """Complete months of lines given as (month, last day with one)."""
    return complete_months(
        [MonthLines(month, 5, day) for month, day in lines], first, last, closed, CLOSING_DAYS
    )


@pytest.mark.parametrize(
    ("month", "months", "expected"),
    [(202211, 3, 202302), (202201, -1, 202112), (202206, 0, 202206), (202212, -24, 202012)],
)
def test_months_are_added_across_years(month: int, months: int, expected: int) -> None:
    """A year has twelve months in both directions."""
    assert add_months(month, months) == expected


def test_an_index_is_a_count_of_months() -> None:
    """Differences of indexes are months, and from_index takes an index back."""
    assert month_index(202303) - month_index(202211) == 4
    assert [from_index(month_index(month)) for month in (202201, 202212)] == [202201, 202212]


def test_a_range_holds_both_ends() -> None:
    """A range that ends before it begins is empty."""
    assert month_range(202211, 202302) == [202211, 202212, 202301, 202302]
    assert month_range(202302, 202211) == []


def test_stretches_have_no_gaps() -> None:
    """Months in any order, with repeats, become stretches; the turn of the year is no gap."""
    assert stretches([202302, 202212, 202301, 202212, 202306]) == [
        (202212, 202302),
        (202306, 202306),
    ]
    assert stretches([]) == []


def test_days_follow_the_calendar() -> None:
    """Every month of a common year, a leap year and two centuries has the calendar's days."""
    for year in (1900, 2000, 2023, 2024):
        assert [days_in_month(year * 100 + month) for month in range(1, 13)] == [
            calendar.monthrange(year, m)[1] for m in range(1, 13)
        ]


def test_partitions_are_months_as_text() -> None:
    """The first partition is the first month; only partitions pass in_ranges."""
    keys = month_partitions(202201).get_partition_keys()
    assert keys[:3] == ["202201", "202202", "202203"]
    assert in_ranges([202203, 202112, 0, 202202], keys) == [202202, 202203]


def test_a_month_that_closes_is_complete_once_later_lines_exist() -> None:
    """The newest month is not complete, however late its last line."""
    assert complete((202201, 31), (202202, 28)) == [202201]


@pytest.mark.parametrize(("day", "expected"), [(22, [202201]), (21, [])])
def test_closing_days_are_the_last_days_of_the_month(day: int, expected: list[int]) -> None:
    """Of 31 days the last ten begin on the 22nd."""
    assert complete((202201, day), (202202, 3)) == expected


def test_february_closes_by_its_own_length() -> None:
    """The last ten days of February 2022 begin on the 19th."""
    assert complete((202202, 19), (202203, 3), first=202202) == [202202]
    assert complete((202202, 18), (202203, 3), first=202202) == []


def test_a_month_that_breaks_off_is_partial_though_later_months_are_complete() -> None:
    """Complete months may have a gap."""
    assert complete((202201, 31), (202202, 9), (202203, 31), (202204, 1)) == [202201, 202203]


def test_a_month_without_lines_is_complete_when_a_later_one_is() -> None:
    """A month of no orders before a complete one is known to be empty, one before partial months is
    not.
    """
    assert complete((202201, 31), (202203, 31), (202204, 1)) == [202201, 202202, 202203]
    assert complete((202201, 31), (202203, 5), (202204, 1)) == [202201]


def test_the_last_month_covers_what_lies_before_it_and_nothing_after() -> None:
    """A configured last month is complete without closing days; no later one is, whatever lines
    there are.
    """
    lines = (202201, 5), (202202, 28), (202203, 31), (202204, 30)
    assert complete(*lines, last=202202) == [202201, 202202]


def test_a_source_declares_its_months_closed() -> None:
    """Closed months are complete without later lines; the others still follow their lines."""
    assert complete((202201, 5), (202202, 9), closed=202202) == [202201, 202202]
    assert complete((202201, 5), (202202, 28), (202203, 1), closed=202201) == [202201, 202202]


def test_the_last_month_outranks_a_closed_source() -> None:
    """Closed beyond the last month changes nothing."""
    assert complete((202201, 31), (202202, 28), last=202201, closed=202202) == [202201]


def test_the_best_delivery_of_a_month_counts() -> None:
    """Two deliveries of a month: the later last day closes it; months before the first and empty
    entries say nothing.
    """
    lines = [
        MonthLines(202201, 5, 10),
        MonthLines(202201, 5, 30),
        MonthLines(202112, 5, 31),
        MonthLines(202202, 1, 1),
        MonthLines(202203, 0, 0),
    ]
    assert complete_months(lines, 202201, None, None, CLOSING_DAYS) == [202201]


def test_without_lines_nothing_is_complete() -> None:
    """No delivery, no complete month."""
    assert complete() == []


def test_evidence_are_the_origins_whose_horizons_have_all_passed() -> None:
    """Month 202306 with H = 6 and K = 3 rests on the origins 202210 to 202212."""
    assert evidence_origins(202306, 6, 3, 202101, 12) == [202210, 202211, 202212]


def test_an_origin_needs_its_history() -> None:
    """An origin with fewer than twelve months before it is no evidence; with exactly twelve it
    is.
    """
    assert evidence_origins(202306, 6, 3, 202111, 12) == [202211, 202212]
    assert evidence_origins(202306, 6, 3, 202201, 12) == []
