"""Why a published number is not the one before: four contributions, each of one thing, that add
up."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession

from medallion_assets.served.transforms import forecast_change
from medallion_assets.tables import CHANGE_PARTS

pytestmark = pytest.mark.spark

DDL = "part_number STRING, target_yyyymm INT, horizon INT, forecast_qty DOUBLE, model STRING"


def said(spark: SparkSession, model: str, **by_part: float | None) -> DataFrame:
    """What a model says of parts for one month."""
    rows = [(part, 202507, 1, qty, model) for part, qty in by_part.items()]
    return spark.createDataFrame(rows, DDL)


def contributions(rows: DataFrame) -> dict[str, tuple[float, ...]]:
    found = {
        row["part_number"]: tuple(row[name] for name in CHANGE_PARTS) for row in rows.collect()
    }
    for row in rows.collect():
        change = row["forecast_qty"] - row["former_qty"]
        assert sum(found[row["part_number"]]) == pytest.approx(change)
    return found


def test_each_step_is_what_one_thing_changed(spark: SparkSession) -> None:
    """10 said; 11 on restated lines; 14 with the new months; 13 fitted again; 20 by another
    model."""
    rows = forecast_change(
        former=said(spark, "old", A=10.0),
        restated=said(spark, "old", A=11.0),
        same_version=said(spark, "old", A=14.0),
        refit=said(spark, "old", A=13.0).unionByName(said(spark, "new", A=20.0)),
        present=said(spark, "new", A=20.0),
    )
    assert contributions(rows) == {"A": (1.0, 3.0, -1.0, 7.0)}


def test_without_a_training_all_comes_from_sales_and_lines(spark: SparkSession) -> None:
    """The version that serves is the same, so it is asked once."""
    present = said(spark, "old", A=14.0)
    former = said(spark, "old", A=10.0)
    rows = forecast_change(former, former, present, present.limit(0), present)
    assert contributions(rows) == {"A": (0.0, 4.0, 0.0, 0.0)}


def test_the_same_model_fitted_again_is_no_other_champion(spark: SparkSession) -> None:
    """Whether the training stored its fit in the zoo or not."""
    former, same = said(spark, "old", A=10.0), said(spark, "old", A=12.0)
    rows = forecast_change(former, former, same, same.limit(0), said(spark, "old", A=15.0))
    assert contributions(rows) == {"A": (0.0, 2.0, 3.0, 0.0)}


def test_a_former_model_that_was_not_fitted_again_leaves_the_rest_to_the_new_one(
    spark: SparkSession,
) -> None:
    """A model that left the zoo has no fit of today."""
    former, same = said(spark, "gone", A=10.0), said(spark, "gone", A=12.0)
    rows = forecast_change(former, former, same, same.limit(0), said(spark, "new", A=15.0))
    assert contributions(rows) == {"A": (0.0, 2.0, 0.0, 3.0)}


def test_parts_that_one_forecast_lacks_have_no_change(spark: SparkSession) -> None:
    """New parts, parts that are gone, and excluded ones."""
    former = said(spark, "old", A=1.0, gone=1.0, excluded=None)
    present = said(spark, "old", A=2.0, new=1.0, excluded=1.0)
    rows = forecast_change(former, former, present, present.limit(0), present)
    assert set(contributions(rows)) == {"A"}
