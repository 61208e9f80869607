"""Labels: what people say of a part's demand in a month, and which months are made anew because of
it.

A label is a row of gold.demand_label; another row withdraws or replaces it. Demand never changes by
a label: a correction comes as a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from medallion_assets.slices import Input, Reader, retry_on_conflict, version_of
from medallion_assets.tables import DEMAND_LABEL, MONTHLY_DEMAND, REJECTED_LINES
from resources.errors import Refused
from resources.lakehouse import Lakehouse, Slice

if TYPE_CHECKING:
    from collections.abc import Collection

REAL, ERROR, ONE_OFF, WITHDRAWN = "real", "error", "one_off", "withdrawn"
LABELS = (REAL, ERROR, ONE_OFF)
UNUSUAL = (ERROR, ONE_OFF)  # say nothing of what demand is like


class Label(NamedTuple):
    """What a person says of a part's demand in a month."""

    part_number: str
    yyyymm: int
    label: str
    note: str


def standing(rows: pd.DataFrame, numbers: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The labels that hold, one row per part and month: the newest that was not withdrawn.

    rows: gold.demand_label. numbers: number -> the last number of a renamed part, which its labels
    take.
    """
    known = rows.assign(
        part_number=[(numbers or {}).get(part, part) for part in rows["part_number"]]
    )
    newest = known.sort_values("label_number").drop_duplicates(
        ["part_number", "yyyymm"], keep="last"
    )
    return newest[newest["label"] != WITHDRAWN].sort_values(
        ["yyyymm", "part_number"], ignore_index=True
    )


def label_slices(lakehouse: Lakehouse) -> list[Slice]:
    """The labels that hold as slices of their months, told by the rows themselves: a process that
    dies after it stored a label leaves nothing to be mended.
    """
    version = lakehouse.version(DEMAND_LABEL)
    said = ["part_number", "label", "note", "actor"]
    slices = []
    for month, own in standing(lakehouse.rows(DEMAND_LABEL)).groupby("yyyymm"):
        made_from = version_of(own[said].to_numpy().tolist())
        slices.append(Slice(int(month), "", made_from, made_from, len(own), version))
    return slices


LABELS_OF_MONTH = Input(DEMAND_LABEL, Input.same_month, slices=label_slices)


def labels_read(
    read: Reader, numbers: Mapping[str, str], which: Collection[str] = LABELS
) -> pd.DataFrame:
    """The labels of some kinds that hold in the months that a transform may read; see
    ``standing``.
    """
    if not read.stored(DEMAND_LABEL):
        return pd.DataFrame(columns=list(DEMAND_LABEL.column_names))
    found = standing(read(DEMAND_LABEL).toPandas(), numbers)
    return found[found["label"].isin(list(which))].reset_index(drop=True)


@dataclass(frozen=True)
class Labelling:
    """Gives and withdraws labels. ``actor``: who, stored with every row; numbers: as for
    ``standing``.
    """

    lakehouse: Lakehouse
    actor: str
    numbers: Mapping[str, str]

    def give(self, part: str, month: int, label: str, note: str) -> Label | None:
        """Store a label; None where it stands already. Raises Refused for a part that neither had
        demand nor a rejected line in the month.
        """
        named = self._named(part, month, label, note)
        self._refuse_unknown(named)
        return retry_on_conflict(lambda: self._append(named))

    def withdraw(self, part: str, month: int, note: str) -> Label | None:
        """Take the label of a part and month back. Raises Refused where there is none."""
        named = self._named(part, month, WITHDRAWN, note)
        rows = standing(self.lakehouse.rows(DEMAND_LABEL), self.numbers)
        if not _of(rows, named).any():
            raise Refused(
                f"{named.part_number} has no label in {month}, so there is nothing to withdraw;"
                " `medallion history labels` lists them"
            )
        return retry_on_conflict(lambda: self._append(named))

    def _named(self, part: str, month: int, label: str, note: str) -> Label:
        """The label of the part as it is called now, however it was typed."""
        number = part.strip().upper()
        return Label(self.numbers.get(number, number), month, label, note)

    def _append(self, named: Label) -> Label | None:
        former = self.lakehouse.rows(DEMAND_LABEL)
        held = standing(former, self.numbers)
        held = held[_of(held, named)]
        if len(held) and (held["label"].iloc[0], held["note"].iloc[0]) == (named.label, named.note):
            return None
        number = int(former["label_number"].max()) + 1 if len(former) else 1
        stamps = {
            "label_number": number,
            "actor": self.actor,
            "labelled_at": datetime.now(UTC),
        }
        row = named._asdict() | stamps
        self.lakehouse.append(
            DEMAND_LABEL, self.lakehouse.create_frame(DEMAND_LABEL, [row]), number=number
        )
        return named

    def _refuse_unknown(self, named: Label) -> None:
        months = [named.yyyymm]
        demand = self.lakehouse.rows(
            MONTHLY_DEMAND, ["part_number"], months, parts=[named.part_number]
        )
        if len(demand):
            return
        rejected = self.lakehouse.rows(REJECTED_LINES, ["part_number"], months)["part_number"]
        spelled = {str(text).strip().upper() for text in rejected.dropna()}
        if named.part_number not in {self.numbers.get(text, text) for text in spelled}:
            raise Refused(
                f"{named.part_number} has neither demand nor a rejected line in {named.yyyymm}, so"
                " there is nothing to label: look at part number and month, and run first if its"
                " orders are new"
            )


def _of(rows: pd.DataFrame, named: Label) -> pd.Series:
    return (rows["part_number"] == named.part_number) & (rows["yyyymm"] == named.yyyymm)
