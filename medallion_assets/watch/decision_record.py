"""The record of decisions about retraining: what is decided for the newest complete month, appended
where it is new.

What is decided lies in watch/retraining.py, who acts on it in watch/sensors.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from medallion_assets.champion.decisions import plain, trained_months
from medallion_assets.complete import complete_months_of
from medallion_assets.partitions import add_months, month_range
from medallion_assets.table_asset import Outcome, version_of
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    CHAMPION,
    DATA_QUALITY,
    DELIVERIES,
    DEMAND_DRIFT,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    FORECAST_ACCURACY,
    MONTHLY_DEMAND,
    REJECTED_LINES,
    RETRAINING_DECISION,
    SILVER_SALES_ORDERS,
    TableSpec,
)
from medallion_assets.watch.freshness import TableMonths, table_months, unread_months
from medallion_assets.watch.retraining import DRIFT_COLUMNS, decide
from resources.lakehouse import Lakehouse, MonthWritten, Slice
from resources.settings import Settings

SERVED = (DEMAND_FORECAST, FORECAST_ACCURACY)
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

    settings: Settings
    lakehouse: Lakehouse
    run_id: str
    log: Callable[[str], None]

    def run(self, months: Sequence[int]) -> Outcome:
        """Append the decision where the newest complete month is among ``months`` and its last row
        says something else.

        Raises ConcurrentWrite when somebody else decided in between: nothing was appended then.
        """
        started = time.monotonic()
        complete = self._complete()
        if self.settings.retraining.mode == "off" or not complete or complete[-1] not in months:
            why = (
                "retraining.mode is off"
                if self.settings.retraining.mode == "off"
                else "the newest complete month is not among them"
            )
            self.log(f"retraining_decision: nothing decided, {why}")
            return Outcome({}, {}, time.monotonic() - started)
        month, monitoring = complete[-1], self.settings.monitoring
        former = self.lakehouse.rows(RETRAINING_DECISION)
        window = month_range(add_months(month, 1 - monitoring.drift_window_months), month)
        verdicts = self.lakehouse.rows(DEMAND_DRIFT, DRIFT_COLUMNS, window)
        made = decide(
            month, trained_months(self.lakehouse.rows(CHAMPION)), verdicts, former, self.settings
        )
        row = made._asdict() | {
            "evidence_months": json.dumps(made.evidence_months),
            "mode": self.settings.retraining.mode,
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
                "run_id": self.run_id,
                "decided_at": datetime.now(UTC),
            }
            self.lakehouse.append(
                RETRAINING_DECISION,
                self.lakehouse.create_frame(RETRAINING_DECISION, [row | stamps]),
                number=number,
            )
        self.log(f"retraining_decision: {made.decision}: {made.reason}")
        count = len(standing) + is_new
        told = {"decision": made.decision, "reason": made.reason} | (
            {"cause": made.cause} if made.cause else {}
        )
        stored = Slice(
            month, "", version, version, count, self.lakehouse.version(RETRAINING_DECISION), told
        )
        return Outcome(
            {month: stored},
            {month: MonthWritten(count, version, int(is_new))},
            time.monotonic() - started,
        )

    def freshness(self) -> dict[TableSpec, TableMonths]:
        """How each table that is made by month stands."""
        complete = self._complete()
        bronze = self.lakehouse.slices(BRONZE_SALES_ORDERS)
        held = {month: stored.details["deliveries"] for month, stored in bronze.items()}
        unread = unread_months(self.lakehouse.rows(DELIVERIES), held, self.settings)
        stored = {spec: self.lakehouse.slices(spec) for spec in MONTHLY}
        return {
            spec: table_months(
                {m: s.details.get("is_complete", True) for m, s in slices.items()},
                complete,
                unread,
                spec in SERVED,
            )
            for spec, slices in stored.items()
        }

    def _complete(self) -> list[int]:
        return complete_months_of(self.lakehouse.rows(DELIVERIES), self.settings)
