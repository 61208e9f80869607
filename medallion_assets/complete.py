"""Which months are complete, read off the list of deliveries.

What makes a month of one source complete lies in partitions.py; here the sources of a configuration
are put together.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

import pandas as pd

from medallion_assets.deliveries import standing
from medallion_assets.partitions import (
    MonthLines,
    complete_months,
    days_in_month,
    evidence_origins,
)

if TYPE_CHECKING:
    from resources.settings import Settings, Source

LONGEST_CLOSING = 28  # days, of the setting closing_days


def complete_months_of(deliveries: pd.DataFrame, settings: Settings) -> list[int]:
    """Months that are complete for every source that has lines, in order; may have gaps.

    deliveries: rows of bronze.deliveries with at least ``source``, ``file_name``, ``sequence`` and
    ``months`` (a list of structs with yyyymm, line_count, last_day); of each delivery the newest
    record counts. Lines that a newer snapshot replaced count for nothing, nor do sources that are
    no longer configured.
    """
    complete: set[int] | None = None
    for source, last_days in _delivering(deliveries, settings):
        months = set(_complete(source, last_days, settings))
        complete = months if complete is None else complete & months
    return sorted(complete or ())


def why_incomplete(deliveries: pd.DataFrame, settings: Settings) -> list[str]:
    """Why months with lines are not complete, and what to set: a sentence for each source that
    keeps back more than its newest month, or all it has. deliveries: as complete_months_of takes
    them.
    """
    told = []
    for source, last_days in _delivering(deliveries, settings):
        closed = max(_complete(source, last_days, settings), default=0)
        waiting = {
            month: day
            for month, day in sorted(last_days.items())
            if month > closed and (settings.last_month is None or month <= settings.last_month)
        }
        if len(waiting) > 1 or (waiting and not closed):
            told.append(_why_waiting(source, waiting, settings))
    return told


def _why_waiting(source: Source, waiting: dict[int, int], settings: Settings) -> str:
    """What keeps months (month -> last day with a line) from being complete, the newest among
    them.
    """
    newest = max(waiting)
    remedy = (
        f"if {newest} is all there too, write closed_through: {newest} into the source, or"
        f" last_month: {newest}; otherwise the last month that is"
    )
    if len(waiting) == 1:
        return (
            f"{source.name}: no month after {newest} has lines, so {newest} may still go on;"
            f" {remedy}, or wait for lines of a later month"
        )
    earlier = [month for month in waiting if month != newest]
    days = {waiting[month] for month in earlier}
    seen = (
        f"all their lines are dated the {'first' if days == {1} else days.pop()} of the month, as"
        " monthly totals are"
        if len(days) == 1
        else f"their latest lines are of the {min(days)}. to the {max(days)}. of the month"
    )
    needed = max(days_in_month(month) - waiting[month] + 1 for month in earlier)
    longer = f", or closing_days: {needed}" if needed <= LONGEST_CLOSING else ""
    span = f"{earlier[0]} to {earlier[-1]}" if len(earlier) > 1 else f"{earlier[0]}"
    return (
        f"{source.name}: {span} has lines of later months behind it, but none in the last"
        f" {settings.closing_days} days (closing_days) of a month, which would show that it is all"
        f" there: {seen}; {remedy}{longer}"
    )


def _delivering(
    deliveries: pd.DataFrame, settings: Settings
) -> Iterator[tuple[Source, dict[int, int]]]:
    """Sources that have lines, each with its months and the last day of each that has one."""
    deliveries = standing(deliveries)
    for source in settings.sources:
        last_days: dict[int, int] = {}
        for entry in _standing_lines(deliveries[deliveries["source"] == source.name], source):
            if entry.line_count and entry.yyyymm >= settings.first_month:
                last_days[entry.yyyymm] = max(last_days.get(entry.yyyymm, 0), entry.last_day)
        if last_days:
            yield source, last_days


def _complete(source: Source, last_days: dict[int, int], settings: Settings) -> list[int]:
    return complete_months(
        [MonthLines(month, 1, day) for month, day in last_days.items()],
        settings.first_month,
        settings.last_month,
        source.closed_through,
        settings.closing_days,
    )


def evidence_of(
    month: int, settings: Settings, complete: Container[int] | None = None
) -> list[int]:
    """Origins that a decision in ``month`` rests on, ascending. If ``complete`` is given, only
    these months count.
    """
    f = settings.forecast
    origins = evidence_origins(month, f.horizon, f.origins, settings.first_month, f.min_history)
    return [origin for origin in origins if complete is None or origin in complete]


def _standing_lines(deliveries: pd.DataFrame, source: Source) -> list[MonthLines]:
    """What the deliveries of one source say of each month, without what a newer delivery
    replaced.
    """
    standing: dict[tuple[object, ...], MonthLines] = {}
    ordered = deliveries.sort_values("sequence")
    if grown := grown_deliveries(ordered):
        ordered = ordered[~ordered["delivery_id"].isin(grown)]
    for sequence, file_name, months in zip(
        ordered["sequence"], ordered["file_name"], ordered["months"], strict=True
    ):
        for month in () if months is None else months:
            entry = MonthLines(
                int(month["yyyymm"]), int(month["line_count"]), int(month["last_day"] or 0)
            )
            if source.mode == "append":
                place: tuple[object, ...] = (sequence, entry.yyyymm)
            elif source.replaces == "month":
                place = (entry.yyyymm,)
            else:
                place = (file_name, entry.yyyymm)
            standing[place] = entry
    return list(standing.values())


def grown_deliveries(deliveries: pd.DataFrame) -> dict[str, str]:
    """Deliveries of files that grew after all -> the delivery of the file as it is now.

    deliveries: rows of bronze.deliveries with delivery_id and, in lakehouses that have it,
    grown_from.
    """
    if "grown_from" not in deliveries:
        return {}
    grown = deliveries[deliveries["grown_from"].notna()]
    later = dict(zip(grown["grown_from"], grown["delivery_id"], strict=True))
    newest = {}
    for earlier, now in later.items():
        while now in later:
            now = later[now]
        newest[earlier] = now
    return newest
