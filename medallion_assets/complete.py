"""Which months are complete, read off the list of deliveries.

What makes a month of one source complete lies in partitions.py; here the sources of a configuration
are put together.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

import pandas as pd

from medallion_assets.partitions import MonthLines, complete_months, evidence_origins

if TYPE_CHECKING:
    from resources.settings import Settings, Source


def complete_months_of(deliveries: pd.DataFrame, settings: Settings) -> list[int]:
    """Months that are complete for every source that has lines, in order; may have gaps.

    deliveries: rows of bronze.deliveries with at least ``source``, ``file_name``, ``sequence`` and
    ``months`` (a list of structs with yyyymm, line_count, last_day). Lines that a newer snapshot
    replaced count for nothing, nor do sources that are no longer configured.
    """
    complete: set[int] | None = None
    for source in settings.sources:
        lines = _standing_lines(deliveries[deliveries["source"] == source.name], source)
        if not any(entry.line_count and entry.yyyymm >= settings.first_month for entry in lines):
            continue
        months = complete_months(
            lines,
            settings.first_month,
            settings.last_month,
            source.closed_through,
            settings.closing_days,
        )
        complete = set(months) if complete is None else complete & set(months)
    return sorted(complete or ())


def evidence_of(
    month: int, settings: Settings, complete: Container[int] | None = None
) -> list[int]:
    """Origins on which a decision in ``month`` rests, ascending; of ``complete`` months only, where
    those are given.
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
