"""The register of deliveries as it stands: of each delivery the newest record.

A delivery gets a further record when a corrected mapping reads its lines otherwise
(bronze/redating.py); whoever reads bronze.deliveries takes them from here. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd


def standing(records: pd.DataFrame) -> pd.DataFrame:
    """The newest row of each delivery in bronze.deliveries, in order of registration.

    records: with at least delivery_id, sequence and, unless an older release made the table,
    record_number.
    """
    if "record_number" not in records:
        return records
    newest = records.assign(_number=record_numbers(records)).sort_values("_number")
    return (
        newest.drop_duplicates("delivery_id", keep="last")
        .sort_values("sequence")
        .drop(columns="_number")
    )


def record_numbers(records: pd.DataFrame) -> pd.Series:
    """The number of each record: that of an older release's is its delivery's sequence."""
    if "record_number" not in records:
        return records["sequence"].astype("int64")
    return pd.to_numeric(records["record_number"]).fillna(records["sequence"]).astype("int64")


def next_record_number(records: pd.DataFrame) -> int:
    """The number that the next record has."""
    return int(record_numbers(records).max()) + 1 if len(records) else 1


def months_of(record: Mapping[str, Any]) -> dict[int, tuple[int, int, str]]:
    """What a record says of each month: lines, last day, content version."""
    return {
        int(month["yyyymm"]): (
            int(month["line_count"]),
            int(month["last_day"] or 0),
            str(month.get("content_version") or ""),
        )
        for month in (() if record["months"] is None else record["months"])
    }


def touched_months(records: pd.DataFrame, is_new: pd.Series[bool]) -> set[int]:
    """Months of which new records say something else than the records that they replace; all of a
    delivery that had none.
    """
    former = {row["delivery_id"]: months_of(row) for row in _dicts(standing(records[~is_new]))}
    touched: set[int] = set()
    for row in _dicts(standing(records[is_new])):
        before, now = former.get(row["delivery_id"]), months_of(row)
        touched |= (
            set(now)
            if before is None
            else {m for m in {*before, *now} if before.get(m) != now.get(m)}
        )
    return touched


def _dicts(records: pd.DataFrame) -> Iterable[dict[str, Any]]:
    return records.to_dict("records")
