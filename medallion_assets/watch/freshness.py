"""Which months each table lacks, holds as partial or made too early, read off the ledger and the
list of deliveries. Pure.

How far the champion's training lags lies in retraining.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from medallion_assets.deliveries import standing
from medallion_assets.partitions import NO_MONTH, stretches
from resources.settings import Settings


class TableMonths(NamedTuple):
    """How a table stands, month by month.

    ``missing``: complete months that it does not hold. ``incomplete``: months that it holds and
    whose orders are not all there. ``late``: months made before they were complete, or before lines
    came that are registered by now.
    """

    newest: int | None
    missing: list[int]
    incomplete: list[int]
    late: list[int]

    @property
    def due(self) -> list[int]:
        """Months that the monthly job has to make."""
        return sorted({*self.missing, *self.late})


def table_months(
    stored: Mapping[int, bool],
    complete: Sequence[int],
    unread: Collection[int],
    is_served: bool = False,
) -> TableMonths:
    """Compare the months of a table with those that are complete.

    stored: month of each slice in the ledger, with whether the month was complete when it was made.
    unread: ``unread_months``. A table that ``is_served`` begins with its first origin, not with the
    first month of the data.
    """
    held = {month: was_complete for month, was_complete in stored.items() if month != NO_MONTH}
    first = min(held, default=None) if is_served else None
    expected = [
        month for month in complete if not is_served or (first is not None and month >= first)
    ]
    is_complete = set(complete)
    return TableMonths(
        max((month for month in held if month in is_complete), default=None),
        sorted(set(expected) - set(held)),
        sorted(set(held) - is_complete),
        sorted(
            month
            for month, was in held.items()
            if month in unread or (month in is_complete and not was)
        ),
    )


def unread_months(
    deliveries: pd.DataFrame, stored: Mapping[int, Collection[str]], settings: Settings
) -> set[int]:
    """Months with registered lines that bronze does not hold yet.

    deliveries: rows of bronze.deliveries. stored: of each month in bronze the deliveries whose
    lines it holds. Adopted tables are read where they lie, and files of sources that are no longer
    configured are not read.
    """
    sources = [source.name for source in settings.sources if source.mode != "adopt"]
    own = standing(deliveries[deliveries["source"].isin(sources)])
    return {
        int(entry["yyyymm"])
        for delivery_id, months in zip(own["delivery_id"], own["months"], strict=True)
        for entry in (() if months is None else months)
        if entry["line_count"]
        and entry["yyyymm"] != NO_MONTH
        and delivery_id not in stored.get(int(entry["yyyymm"]), ())
    }


def freshness_table(by_table: Mapping[str, TableMonths]) -> str:
    """How all tables stand, as a markdown table."""
    lines = [
        "| table | newest complete month | missing | incomplete | late |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, months in by_table.items():
        cells = (
            str(months.newest or ""),
            *map(listed, (months.missing, months.incomplete, months.late)),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def listed(months: Collection[int]) -> str:
    """Months as stretches: 202101 to 202103, 202105."""
    return ", ".join(
        str(first) if first == last else f"{first} to {last}" for first, last in stretches(months)
    )
