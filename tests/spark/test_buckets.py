"""Rows of two frames in one Python call: whole parts, own columns, own types."""

from __future__ import annotations

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from medallion_assets.zoo.buckets import apply_by_bucket

pytestmark = pytest.mark.spark

SCHEMA = "part_number STRING, left_count INT, right_count INT, told STRING"


def told(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """Of each part its rows on both sides, and the columns and types that the call saw."""
    seen = "; ".join(
        ",".join(f"{name} {dtype}" for name, dtype in side.dtypes.items())
        for side in (left, right)
        if len(side)
    )
    counts = [side["part_number"].value_counts() for side in (left, right)]
    parts = sorted({*left["part_number"], *right["part_number"]})
    return pd.DataFrame({"part_number": parts, "told": seen}).assign(
        **{
            name: [int(count.get(part, 0)) for part in parts]
            for name, count in zip(("left_count", "right_count"), counts, strict=True)
        }
    )


def test_each_side_comes_with_its_own_rows_columns_and_types(spark: SparkSession) -> None:
    """Integers and booleans stay what they are beside rows that lack them; a part of one side alone
    is there too.
    """
    left = spark.createDataFrame(
        [("a", 1, True), ("b", 2, False)], "part_number string, n int, is_new boolean"
    )
    right = spark.createDataFrame(
        [("b", 5, 0.5), ("b", 6, None), ("c", 7, None)], "part_number string, m bigint, x double"
    )
    rows = {
        row["part_number"]: row for row in apply_by_bucket(left, right, 1, told, SCHEMA).collect()
    }
    assert {part: (row["left_count"], row["right_count"]) for part, row in rows.items()} == {
        "a": (1, 0),
        "b": (1, 2),
        "c": (0, 1),
    }
    assert (
        rows["a"]["told"]
        == "part_number object,n int32,is_new bool; part_number object,m int64,x float64"
    )


def test_nulls_lists_and_sides_without_rows_come_through(spark: SparkSession) -> None:
    """A side without rows is an empty frame with its columns, a NULL of an integer is NaN, and a
    list stays a list.
    """
    left = spark.createDataFrame(
        [("a", None, [1, 2]), ("b", 3, None)], "part_number string, n int, months array<bigint>"
    )
    right = spark.createDataFrame([], "part_number string, n int")

    def looked(rows: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
        assert (list(other.columns), len(other)) == (["part_number", "n"], 0)
        sizes = [0 if months is None else len(months) for months in rows["months"]]
        return pd.DataFrame(
            {
                "part_number": rows["part_number"],
                "left_count": sizes,
                "right_count": rows["n"].isna().astype(int),
                "told": "",
            }
        )

    found = apply_by_bucket(left, right, 3, looked, SCHEMA).collect()
    assert sorted((row["part_number"], row["left_count"], row["right_count"]) for row in found) == [
        ("a", 2, 1),
        ("b", 0, 0),
    ]


def test_a_part_is_never_divided(spark: SparkSession) -> None:
    """All rows of a part meet in one call, whichever side they are of."""
    parts = [f"P{n}" for n in range(40)]
    left = spark.createDataFrame([(part,) for part in parts * 3], "part_number string").repartition(
        5
    )
    right = spark.createDataFrame(
        [(part,) for part in parts * 2], "part_number string"
    ).repartition(3)
    found = apply_by_bucket(left, right, 4, told, SCHEMA).collect()
    assert sorted(
        (row["part_number"], row["left_count"], row["right_count"]) for row in found
    ) == sorted((part, 3, 2) for part in parts)
