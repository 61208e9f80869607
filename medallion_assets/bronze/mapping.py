"""The mapping of a source as its deliveries note it: what gives their lines their months, and what
else silver reads them by.

What becomes of stored lines when it changes lies in redating.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from medallion_assets.slices import version_of
from medallion_assets.tables import BRONZE_SALES_ORDERS
from resources.errors import Refused
from resources.settings import FILE_KEYS, Settings, Source

if TYPE_CHECKING:
    import pandas as pd

    from resources.lakehouse import Slice

# Bronze holds the fields of files, so these say nothing of how stored lines are read.
NOT_OF_LINES = FILE_KEYS | {"name", "mode", "table", "replaces", "closed_through"}
OF_DATES = ("date_formats", "missing", "time_zone")
BEGUN = "redating"  # key in the ledger: the plan whose lines may have moved, or not yet


@dataclass(frozen=True)
class SourceMapping:
    """How lines of one source are read. ``dates``: all that their month depends on; ``values``: the
    other settings, those at their defaults left out.
    """

    dates: Mapping[str, Any]
    values: Mapping[str, Any]

    @classmethod
    def of(cls, source: Source, settings: Settings) -> SourceMapping:
        """The mapping of a source in the present configuration."""
        whole = source.model_dump(mode="json")
        dates = {name: whole[name] for name in OF_DATES if name in whole}
        return cls(
            {
                "order_date": whole["columns"].get("order_date"),
                **dates,
                "first_month": settings.first_month,
                "code_version": BRONZE_SALES_ORDERS.code_version,
            },
            {
                key: value
                for key, value in source.model_dump(
                    mode="json", by_alias=True, exclude_defaults=True
                ).items()
                if key not in NOT_OF_LINES and key not in OF_DATES
            },
        )

    @classmethod
    def parse(cls, noted: object) -> SourceMapping | None:
        """The mapping that a record notes; None where an older release made it."""
        if not isinstance(noted, str):
            return None
        content = json.loads(noted)
        return cls(content["dates"], content["values"])

    @property
    def text(self) -> str:
        return json.dumps({"dates": self.dates, "values": self.values}, sort_keys=True)

    @property
    def version(self) -> str:
        """A short hash."""
        return version_of(self.dates, self.values)

    def noted(self, now: datetime) -> dict[str, Any]:
        """Columns of bronze.deliveries."""
        return {"mapping": self.text, "mapping_version": self.version, "mapped_at": now}


def refuse_undated(
    deliveries: pd.DataFrame, stored: Mapping[int, Slice], settings: Settings
) -> None:
    """Raise Refused where lines lie in months that another mapping of dates gave them, or are just
    being moved: whatever is made of them would mix the two.

    deliveries: standing rows of bronze.deliveries; stored: slices of bronze.sales_orders.
    """
    due = "register deliveries first (`medallion run` begins with that). No table was changed."
    if begun := sorted(month for month, s in stored.items() if BEGUN in s.details):
        raise Refused(
            f"lines of {begun[0]} to {begun[-1]} were being moved to their months by plan"
            f" {stored[begun[0]].details[BEGUN]} when the process ended; {due}"
        )
    if "mapping" not in deliveries:
        return
    for source in settings.sources:
        if source.mode == "adopt":
            continue
        now = SourceMapping.of(source, settings).dates
        noted = deliveries.loc[deliveries["source"] == source.name, "mapping"].dropna().unique()
        if any(mapping and mapping.dates != now for mapping in map(SourceMapping.parse, noted)):
            raise Refused(
                f"source {source.name}: the mapping of its dates changed after its lines were"
                f" stored; {due}"
            )
