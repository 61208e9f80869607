"""What is published, read without Spark: which origins, and the rows of an origin's current
vintage.

How it was published lies in publishing.py; what a report or a file makes of the rows does not
belong here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from medallion_assets.tables import DEMAND_FORECAST, DEMAND_FORECAST_TOTAL
from resources.errors import Refused
from resources.lakehouse import Lakehouse

if TYPE_CHECKING:
    import pandas as pd


class Edition(NamedTuple):
    """An origin and its current vintage."""

    origin: int
    vintage: int


def published_origins(lakehouse: Lakehouse) -> list[int]:
    """Origins with a published forecast, in order."""
    return sorted(
        month
        for month, stored in lakehouse.ledger.slices(DEMAND_FORECAST).items()
        if stored.row_count
    )


def current_edition(lakehouse: Lakehouse, origin: int) -> Edition:
    """The vintage of an origin that is current. Raises Refused where nothing was published at the
    end of that month.
    """
    vintages = lakehouse.totals(DEMAND_FORECAST, ["vintage"], ["horizon"], [origin])["vintage"]
    if vintages.empty:
        if not (known := published_origins(lakehouse)):
            raise Refused("nothing is published yet")
        raise Refused(
            f"no forecast was published at the end of {origin}; published are {known[0]} to"
            f" {known[-1]}"
        )
    return Edition(origin, int(vintages.max()))


def edition_before(lakehouse: Lakehouse, origin: int) -> Edition | None:
    """What people had of the newest origin published before this one; None where this one is the
    first.

    That is its newest vintage, less those that came with this origin: a run that brings late lines
    and a new month publishes both.
    """
    earlier = [month for month in published_origins(lakehouse) if month < origin]
    if not earlier:
        return None
    own, former = (
        lakehouse.totals(DEMAND_FORECAST, ["vintage", "run_id"], ["horizon"], [month])
        for month in (origin, earlier[-1])
    )
    first = own.loc[own["vintage"] == own["vintage"].min(), "run_id"] if len(own) else []
    had = former[~former["run_id"].isin(list(first))]
    if had.empty:
        return current_edition(lakehouse, earlier[-1])
    return Edition(earlier[-1], int(had["vintage"].max()))


def forecast_rows(
    lakehouse: Lakehouse,
    edition: Edition,
    columns: Sequence[str],
    parts: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Rows of an edition, of all parts or of some; excluded parts have one row with horizon 0 and
    no numbers.
    """
    rows = lakehouse.rows(DEMAND_FORECAST, [*columns, "vintage"], [edition.origin], parts=parts)
    return rows[rows["vintage"] == edition.vintage].drop(columns="vintage").reset_index(drop=True)


def total_rows(lakehouse: Lakehouse, edition: Edition) -> pd.DataFrame:
    """Rows of gold.demand_forecast_total of an edition; none where its totals were not made."""
    rows = lakehouse.rows(DEMAND_FORECAST_TOTAL, months=[edition.origin])
    return rows[rows["vintage"] == edition.vintage].reset_index(drop=True)
