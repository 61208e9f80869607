"""What the parting of a frame by hashes promises: no row lost, none twice, and every row that has a
twin among the alike.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest
from pyspark.sql import SparkSession

from medallion_assets.repeats import hashed, parted, repeated

pytestmark = pytest.mark.spark
ONE = Decimal(1)
ROWS = [
    ("a", ONE, "x"),
    ("a", ONE, "y"),
    ("a", Decimal(2), "z"),
    (None, ONE, "u"),
    (None, ONE, "v"),
    ("b", None, "w"),
    (None, None, "n"),
]


def test_rows_with_a_twin_are_alike_and_all_others_are_others(spark: SparkSession) -> None:
    """Each row is in one of the two frames, with its columns; NULL agrees with NULL."""
    rows = spark.createDataFrame(ROWS, "part string, amount decimal(24,6), line string")
    alike, others = parted(rows, ["part", "amount"], repeated(rows, ["part", "amount"]))
    assert alike.columns == others.columns == rows.columns
    assert {row["line"] for row in alike.collect()} >= {"x", "y", "u", "v"}
    together = Counter(row["line"] for frame in (alike, others) for row in frame.collect())
    assert together == Counter(line for _, _, line in ROWS)


def test_no_hash_leaves_all_rows_among_the_others(spark: SparkSession) -> None:
    """Where no row is looked for, none is sorted."""
    rows = spark.createDataFrame(ROWS, "part string, amount decimal(24,6), line string")
    alike, others = parted(rows, ["part"], hashed(rows.where("part = 'none'"), ["part"]).distinct())
    assert (alike.count(), others.count()) == (0, len(ROWS))
