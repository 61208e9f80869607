"""Why a published number is not the one before: new sales, restated lines, the refit of the model,
another champion.

The four are taken one after the other, each with a forecast that differs from the last in one
thing, so they add up to the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from medallion_assets.champion.decisions import champions_of
from medallion_assets.served import transforms
from medallion_assets.served.published import Edition, current_edition, edition_before
from medallion_assets.served.publishing import Publication, known_at
from medallion_assets.slices import Outcome, Slices, version_of
from medallion_assets.tables import (
    CHAMPION,
    DEMAND_FORECAST,
    FORECAST_CHANGE,
    ZOO_FORECAST,
)
from medallion_assets.work import Work
from medallion_assets.zoo.registry import BASELINE
from resources.tracking import Tracking

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Changes:
    """Explains origins, oldest first."""

    work: Work
    tracking: Tracking

    def run(self, months: Sequence[int]) -> Outcome:
        """Bring the months up to date; one whose forecast, former forecast and demand did not
        change is left as it is. The first published origin has no rows.
        """
        slices = Slices(self.work, FORECAST_CHANGE)
        published = self.work.lakehouse.ledger.slices(DEMAND_FORECAST)
        for origin in sorted(months):
            if origin not in published or not published[origin].row_count:
                continue
            now = current_edition(self.work.lakehouse, origin)
            before = edition_before(self.work.lakehouse, origin)
            known = known_at(self.work, before.origin) if before else []
            made_from = version_of(
                FORECAST_CHANGE.code_version,
                published[origin].data_version,
                before,
                known,
            )
            if slices.is_current(origin, made_from):
                slices.keep(origin)
                continue
            nothing = self.work.lakehouse.create_frame(FORECAST_CHANGE, [])
            rows = self._rows(now, before) if before else nothing
            result = self.work.lakehouse.merge(FORECAST_CHANGE, rows, [origin], may_remove=True)
            details = {"former_origin": before.origin} if before else {}
            slices.record(
                result.months, {origin: made_from}, result.delta_version, {origin: details}
            )
        return slices.outcome()

    def _rows(self, now: Edition, before: Edition) -> DataFrame:
        lakehouse, publication = self.work.lakehouse, Publication(self.work, self.tracking)

        def published(edition: Edition) -> DataFrame:
            rows = lakehouse.read(DEMAND_FORECAST, [edition.origin])
            return rows.where((F.col("vintage") == edition.vintage) & (F.col("horizon") > 0))

        former, present = published(before), published(now)
        then, today = self._version(before), self._version(now)
        decisions = lakehouse.rows(CHAMPION)

        def again(origin: int) -> DataFrame:
            given = publication.given(decisions, then)
            return publication.forecasts(origin, then, given)

        # Only what differs is forecast again: mostly no line was restated and no model trained.
        restated = again(before.origin) if self._is_restated(before) else former
        same = again(now.origin) if then != today else present
        names = set(champions_of(decisions, then).values()) if then is not None else {BASELINE}
        refit = lakehouse.read(ZOO_FORECAST, [now.origin]).where(
            F.col("model").isin(sorted(names) if then != today else [])
        )
        rows = transforms.forecast_change(former, restated, same, refit, present)
        stamps = {
            "yyyymm": F.lit(now.origin),
            "vintage": F.lit(now.vintage),
            "former_origin": F.lit(before.origin),
            "former_vintage": F.lit(before.vintage),
        }
        return rows.withColumns(stamps).select(*FORECAST_CHANGE.column_names)

    def _version(self, edition: Edition) -> int | None:
        """Registry version that made an edition; None where none was trained by then."""
        found = self.work.lakehouse.totals(
            DEMAND_FORECAST, ["vintage", "registry_version"], ["horizon"], [edition.origin]
        )
        versions = found.loc[found["vintage"] == edition.vintage, "registry_version"].dropna()
        return int(versions.max()) if len(versions) else None

    def _is_restated(self, edition: Edition) -> bool:
        """Whether demand through the origin is not what the edition was made from. An edition that
        another one superseded was.
        """
        stored = self.work.lakehouse.ledger.slices(DEMAND_FORECAST)[edition.origin]
        if stored.details["vintage"] != edition.vintage:
            return True
        return bool(stored.details["seen"] != version_of(known_at(self.work, edition.origin)))
