"""Months: the only partition axis of assets, and which of them are complete.

Nothing here reads a clock except the partitions definition, whose newest month is the running one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from medallion_assets.months import add_months, from_index, month_index

__all__ = ["add_months", "from_index", "month_index"]  # from months.py, beside what is defined here

NO_MONTH = 0  # lines whose date can't be read or is out of range


def month_partitions(first_month: int) -> dg.MonthlyPartitionsDefinition:
    """Partitions ``yyyymm`` from the first month to the running one, which is stored too, as a
    partial month.
    """
    return dg.MonthlyPartitionsDefinition(start_date=str(first_month), fmt="%Y%m", end_offset=1)


def month_range(first: int, last: int) -> list[int]:
    """All months from first to last, both included; empty when last lies before first."""
    return [from_index(index) for index in range(month_index(first), month_index(last) + 1)]


def stretches(months: Iterable[int]) -> list[tuple[int, int]]:
    """Months as stretches (first, last) without gaps, in order."""
    result: list[tuple[int, int]] = []
    for month in sorted(set(months)):
        if result and add_months(result[-1][1], 1) == month:
            result[-1] = (result[-1][0], month)
        else:
            result.append((month, month))
    return result


def days_in_month(yyyymm: int) -> int:
    """Number of days of the month."""
    year, month = divmod(yyyymm, 100)
    return (
        28 + (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
        if month == 2
        else 30 + (month in {1, 3, 5, 7, 8, 10, 12})
    )


@dataclass(frozen=True)
class MonthLines:
    """What one delivery says of a month: lines dated in it, and the last day that has one."""

    yyyymm: int
    line_count: int
    last_day: int


def complete_months(
    lines: Sequence[MonthLines],
    first_month: int,
    last_month: int | None,
    closed_through: int | None,
    closing_days: int,
) -> list[int]:
    """Months that may be read by features, models and evaluation, in order.

    A month is complete when the configuration or its source says so, or lines of a later month
    exist and it has a line in its last ``closing_days`` days; a month without lines is complete
    when a later one is. With a configured ``last_month`` no later month is complete.
    """
    last_day: dict[int, int] = {}
    for entry in lines:
        if entry.line_count and entry.yyyymm >= first_month:
            last_day[entry.yyyymm] = max(last_day.get(entry.yyyymm, 0), entry.last_day)
    declared = max((m for m in (last_month, closed_through) if m is not None), default=0)
    newest = max([*last_day, declared], default=0)
    if not newest:
        return []
    complete: list[int] = []
    later_is_complete = False
    for month in reversed(month_range(first_month, newest)):
        if last_month is not None and month > last_month:
            continue
        has_later_lines = any(other > month for other in last_day)
        closes = month in last_day and last_day[month] > days_in_month(month) - closing_days
        if (
            month <= declared
            or (has_later_lines and closes)
            or (month not in last_day and later_is_complete)
        ):
            complete.append(month)
            later_is_complete = True
    return complete[::-1]


def evidence_origins(
    month: int, horizon: int, origins: int, first_month: int, min_history: int
) -> list[int]:
    """The origins whose forecasts are the evidence of a decision in ``month``: for each every
    horizon has its actual.

    Origins with fewer than ``min_history`` months before them are left out.
    """
    candidates = month_range(add_months(month, -horizon - origins + 1), add_months(month, -horizon))
    return [
        origin
        for origin in candidates
        if month_index(origin) - month_index(first_month) >= min_history
    ]


def in_ranges(months: Iterable[int], partitions: Mapping[str, object] | Sequence[str]) -> list[int]:
    """Those months that are partitions, in order."""
    known = set(partitions)
    return [month for month in sorted(set(months)) if str(month) in known]
