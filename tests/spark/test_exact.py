"""Exact sums, quotients and deviations: what they are, and that neither order nor a moving window
changes a bit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from pyspark.sql import Row, SparkSession, Window
from pyspark.sql import functions as F

from medallion_assets.exact import (
    FEW_ROWS,
    deviation,
    exact_sums,
    exact_sums_again,
    ratio,
    split,
    total,
    total_over,
)

pytestmark = pytest.mark.spark

NAN, INFINITY = float("nan"), float("inf")


def summed(
    spark: SparkSession, values: Sequence[float | None], partitions: int = 1
) -> float | None:
    """The total of three groups of values."""
    rows = spark.createDataFrame(
        [(n % 3, value) for n, value in enumerate(values)], "k int, v double"
    ).repartition(partitions)
    by_group = rows.groupBy("k").agg(*exact_sums("v", F.col("v")))
    return by_group.agg(*exact_sums_again("v")).select(total("v")).collect()[0][0]


def over_months(spark: SparkSession, values: Sequence[float | None], months: int) -> list[Row]:
    """Of each month the total and the deviation of its value and those of the months before."""
    window = Window.orderBy("n").rangeBetween(1 - months, 0)
    rows = spark.createDataFrame(list(enumerate(values)), "n int, v double")
    halves = rows.withColumns(
        split("v", F.col("v"), FEW_ROWS) | split("square", F.col("v") * F.col("v"), FEW_ROWS)
    )
    totals = {
        "total": total_over("v", window, FEW_ROWS),
        "squares": total_over("square", window, FEW_ROWS),
        "count": F.count("v").over(window),
    }
    return (
        halves.withColumns(totals)
        .orderBy("n")
        .select("total", deviation("squares", "total", "count").alias("deviation"))
        .collect()
    )


def test_a_ratio_is_null_without_a_denominator(spark: SparkSession) -> None:
    """A denominator of 0, of either sign, and NULL on either side give NULL; whole numbers are
    divided as doubles.
    """
    rows = spark.createDataFrame(
        [(6.0, 4.0), (1.0, 0.0), (1.0, -0.0), (1.0, None), (None, 1.0), (0.0, 2.0)],
        "a double, b double",
    )
    assert [row[0] for row in rows.select(ratio("a", F.col("b"))).collect()] == [
        1.5,
        None,
        None,
        None,
        None,
        0.0,
    ]
    assert (
        spark.createDataFrame([(1, 4)], "a int, b bigint").select(ratio("a", "b")).collect()[0][0]
        == 0.25
    )


def test_the_order_of_rows_does_not_change_a_sum(spark: SparkSession) -> None:
    """Values from 1e-9 to 1e15 of both signs give one total however they are shuffled and
    partitioned.
    """
    values = [
        sign * n * 10.0**size
        for size in range(-9, 16)
        for n in (1, 3.3, 7.77)
        for sign in (1, -0.9)
    ]
    shuffled = random.Random(1).sample(values, len(values))
    assert summed(spark, values) == summed(spark, shuffled, partitions=7)
    assert summed(spark, values) == pytest.approx(sum(values), rel=1e-15)


def test_a_sum_is_what_decimals_would_give(spark: SparkSession) -> None:
    """Ten times .1 are 1, what is subtracted again leaves nothing, and NULL does not count."""
    assert summed(spark, [0.1] * 10 + [None]) == 1.0
    assert summed(spark, [1e15, 0.1, -1e15, 0.2]) == 0.3
    assert summed(spark, [None, None]) is None


def test_values_that_are_no_quantity_count_as_the_largest(spark: SparkSession) -> None:
    """NaN of either sign and what lies beyond 1e16 are bounded; sums beyond BIGINT are NULL."""
    assert (
        summed(spark, [NAN])
        == summed(spark, [-NAN])
        == summed(spark, [INFINITY])
        == summed(spark, [1e300])
        == 1e16
    )
    assert summed(spark, [-INFINITY]) == -1e16
    many = spark.range(2_000_000).groupBy().agg(*exact_sums("v", F.lit(1e16)))
    assert many.select(total("v")).collect()[0][0] is None


def test_nothing_is_left_of_a_value_that_left_the_window(spark: SparkSession) -> None:
    """After 1e15 units the months before and after are added up as if it had never been there."""
    found = over_months(spark, [0.1, 0.2, 1e15, 0.1, 0.2, None, None], months=2)
    assert [row["total"] for row in found] == [0.1, 0.3, 1e15 + 0.2, 1e15 + 0.1, 0.3, 0.2, None]


def test_a_constant_has_no_deviation(spark: SparkSession) -> None:
    """Equal values of any size deviate by exactly 0, also after others have left the window; no
    value gives NULL.
    """
    for value in (0.000001, 0.1, 1 / 3, 1e9 + 0.1, 2e9):
        found = over_months(spark, [None, 7e6, *[value] * 24], months=24)
        assert found[0]["deviation"] is None
        assert found[-1]["deviation"] == 0.0
    assert over_months(spark, [0.0, 0.0], months=2)[-1]["deviation"] == 0.0


def test_a_deviation_is_that_of_the_population(spark: SparkSession) -> None:
    """1, 2, 3 and 4 deviate by the root of 5/4, millionths as much by a millionth of it, also
    beside a large mean.
    """
    values = [5e9, 1.0, 2.0, 3.0, 4.0]
    assert over_months(spark, values, months=4)[-1]["deviation"] == 1.25**0.5
    assert over_months(spark, [value / 1e6 for value in values], months=4)[-1][
        "deviation"
    ] == pytest.approx(1.25**0.5 / 1e6)
    assert over_months(spark, [value + 10_000 for value in values], months=4)[-1][
        "deviation"
    ] == pytest.approx(1.25**0.5)
