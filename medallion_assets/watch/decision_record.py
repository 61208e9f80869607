"""The record of decisions about retraining: what is decided for the newest complete month, appended
where it is new.

What is decided lies in watch/retraining.py, who acts on it in watch/sensors.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from medallion_assets.champion.decisions import plain, trained_months
from medallion_assets.complete import complete_months_of
from medallion_assets.partitions import add_months, month_range
from medallion_assets.slices import Outcome, Slices, version_of
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    CHAMPION,
    DATA_QUALITY,
    DELIVERIES,
    DEMAND_DRIFT,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_ACCURACY,
    MONTHLY_DEMAND,
    REJECTED_LINES,
    RETRAINING_DECISION,
    SILVER_SALES_ORDERS,
)
from medallion_assets.watch.freshness import TableMonths, table_months, unread_months
from medallion_assets.watch.retraining import DRIFT_COLUMNS, decide
from medallion_assets.work import Work
from resources.lakehouse import Lakehouse, MonthWritten, TableSpec
from resources.settings import Settings

SERVED = (DEMAND_FORECAST, DEMAND_FORECAST_TOTAL, FORECAST_ACCURACY)
MONTHLY = (
    SILVER_SALES_ORDERS,
    REJECTED_LINES,
    MONTHLY_DEMAND,
    DEMAND_FEATURES,
    DATA_QUALITY,
    DEMAND_DRIFT,
    *SERVED,
)


@dataclass(frozen=True)
class RetrainingPolicy:
    """Decides for the newest complete month, and tells how fresh the tables are."""

    work: Work

    def run(self, months: Sequence[int]) -> Outcome:
        """Append the decision where the newest complete month is among ``months`` and its last row
        says something else.

        Raises ConcurrentWrite when somebody else decided in between: nothing was appended then.
        """
        slices = Slices(self.work, RETRAINING_DECISION)
        complete = self._complete()
        if (
            self.work.settings.retraining.mode == "off"
            or not complete
            or complete[-1] not in months
        ):
            why = (
                "retraining.mode is off"
                if self.work.settings.retraining.mode == "off"
                else "the newest complete month is not among them"
            )
            self.work.log(f"retraining_decision: nothing decided, {why}")
            return slices.outcome()
        month, monitoring = complete[-1], self.work.settings.monitoring
        former = self.work.lakehouse.rows(RETRAINING_DECISION)
        window = month_range(add_months(month, 1 - monitoring.drift_window_months), month)
        verdicts = self.work.lakehouse.rows(DEMAND_DRIFT, DRIFT_COLUMNS, window)
        made = decide(
            month,
            trained_months(self.work.lakehouse.rows(CHAMPION)),
            verdicts,
            former,
            self.work.settings,
        )
        row = made._asdict() | {
            "evidence_months": json.dumps(made.evidence_months),
            "mode": self.work.settings.retraining.mode,
        }
        version = version_of(row)
        standing = former[former["yyyymm"] == month].sort_values("decision_number")
        is_new = standing.empty or version != version_of(
            {name: plain(standing[name].iloc[-1]) for name in row}
        )
        if is_new:
            number = int(former["decision_number"].max()) + 1 if len(former) else 1
            stamps = {
                "decision_number": number,
                "run_id": self.work.run_id,
                "decided_at": datetime.now(UTC),
            }
            self.work.lakehouse.append(
                RETRAINING_DECISION,
                self.work.lakehouse.create_frame(RETRAINING_DECISION, [row | stamps]),
                number=number,
            )
        self.work.log(f"retraining_decision: {made.decision}: {made.reason}")
        count = len(standing) + is_new
        told = {"decision": made.decision, "reason": made.reason} | (
            {"cause": made.cause} if made.cause else {}
        )
        delta_version = self.work.lakehouse.version(RETRAINING_DECISION)
        written = MonthWritten(count, version, int(is_new))
        slices.note({month: written}, {month: version}, delta_version, {month: told})
        return slices.outcome()

    def freshness(self) -> dict[TableSpec, TableMonths]:
        """How each table that is made by month stands."""
        return months_of_tables(self.work.lakehouse, self.work.settings)

    def _complete(self) -> list[int]:
        return complete_months_of(self.work.lakehouse.rows(DELIVERIES), self.work.settings)


def months_of_tables(lakehouse: Lakehouse, settings: Settings) -> dict[TableSpec, TableMonths]:
    """How each table that is made by month stands."""
    deliveries = lakehouse.rows(DELIVERIES)
    complete = complete_months_of(deliveries, settings)
    bronze = lakehouse.ledger.slices(BRONZE_SALES_ORDERS)
    held = {month: stored.details["deliveries"] for month, stored in bronze.items()}
    unread = unread_months(deliveries, held, settings)
    found = {}
    for spec in MONTHLY:
        slices = lakehouse.ledger.slices(spec)
        made = {month: s.details.get("is_complete", True) for month, s in slices.items()}
        found[spec] = table_months(made, complete, unread, spec in SERVED)
    return found
