"""What the check of every table finds in rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pyspark.sql import SparkSession

from medallion_assets.checks import findings
from medallion_assets.tables import MONTHLY_DEMAND

pytestmark = pytest.mark.spark

SOUND: dict[str, Any] = {
    "yyyymm": 202401,
    "part_number": "P1",
    "demand_qty": 1.0,
    "sold_qty": 1.0,
    "cancelled_qty": 0.0,
}
BROKEN: list[tuple[dict[str, Any], list[tuple[str, int, int]]]] = [
    ({}, []),
    ({"part_number": "P2"}, [("key_unique", 202402, 2)]),
    ({"part_number": None}, [("key_unique", 202402, 2), ("not_null_part_number", 202402, 3)]),
    ({"demand_qty": -1.0}, [("demand_not_negative", 202402, 1)]),
    (
        {"demand_qty": None},
        [("demand_not_negative", 202402, 1), ("not_null_demand_qty", 202402, 1)],
    ),
    ({"yyyymm": 202413}, [("month_valid", 202413, 1)]),
]


@pytest.mark.parametrize(("change", "expected"), BROKEN)
def test_rows_that_break_a_rule_are_counted_by_rule_and_month(
    spark: SparkSession, change: dict[str, Any], expected: list[tuple[str, int, int]]
) -> None:
    """Of rows beside sound ones those are counted that repeat a key, lack a value or break a rule
    of the table.
    """
    spec = replace(
        MONTHLY_DEMAND, columns=tuple(c for c in MONTHLY_DEMAND.columns if c.name in SOUND)
    )
    repeats = 3 if "part_number" in change else 1
    rows = [
        SOUND,
        {**SOUND, "part_number": "P9"},
        *[{**SOUND, "yyyymm": 202402, **change}] * repeats,
    ]
    table = spark.createDataFrame(
        [tuple(row[c.name] for c in spec.columns) for row in rows],
        ", ".join(f"{c.name} {c.type}" for c in spec.columns),
    )
    found = findings(spec, table).collect()
    assert sorted((row["rule"], row["yyyymm"], row["row_count"]) for row in found) == expected
