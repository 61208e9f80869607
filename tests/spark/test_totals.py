"""Sums over parts behind gold.demand_forecast_total: what is counted, and to which class."""

from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from medallion_assets.exact import joined
from medallion_assets.served.totals import coming_parts, demand_forecast_total, past_parts
from medallion_assets.tables import DECILES, DEMAND_FEATURES, DEMAND_FORECAST, ZOO_RESULT
from resources.lakehouse import TableSpec

pytestmark = pytest.mark.spark
# Deciles of a normal value of mean 10 and deviation 1.
NORMAL = (8.7184, 9.1584, 9.4756, 9.7467, 10.0, 10.2533, 10.5244, 10.8416, 11.2816)


def table(spark: SparkSession, spec: TableSpec, *rows: dict[str, Any]) -> DataFrame:
    schema = ", ".join(f"`{column.name}` {column.type}" for column in spec.columns)
    return spark.createDataFrame(
        [tuple(row.get(name) for name in spec.column_names) for row in rows], schema
    )


def numbers(mean: float, deciles: tuple[float, ...]) -> dict[str, float]:
    return {"forecast_qty": mean} | dict(zip(DECILES, deciles, strict=True))


def served(part: str, horizon: int = 1, **others: Any) -> dict[str, Any]:
    row = {"yyyymm": 202401, "vintage": 1, "part_number": part, "horizon": horizon}
    row |= {"target_yyyymm": 202401 + horizon, "demand_class": "smooth", "model": "theta"}
    row |= {"status": "forecast"}
    return row | numbers(10.0, NORMAL) | others


def test_served_parts_are_added_up(spark: SparkSession) -> None:
    """Two parts of deviation 1, of which one is guarded, and one that rarely sells; the excluded
    one does not count, and the ABC class is that of the origin.
    """
    rare = numbers(0.2, (0.0,) * 9) | {"demand_class": "lumpy"}
    excluded = dict.fromkeys(("forecast_qty", *DECILES, "model")) | {"target_yyyymm": 202401}
    forecasts = table(
        spark,
        DEMAND_FORECAST,
        served("P1"),
        served("P2", status="guarded"),
        served("P3", **rare),
        served("P4", 0, **excluded),
    )
    known = [
        {"yyyymm": month, "part_number": part, "abc_class": abc}
        for month, classes in ((202401, "AACC"), (202312, "BBBB"))
        for part, abc in zip(("P1", "P2", "P3", "P4"), classes, strict=True)
    ]
    sums = coming_parts(forecasts, table(spark, DEMAND_FEATURES, *known)).toPandas()
    sums = sums.sort_values("abc_class", ignore_index=True)
    counts = ["part_count", "guarded_part_count"]
    assert sums[["abc_class", "demand_class", *counts]].values.tolist() == [
        ["A", "smooth", 2, 1],
        ["C", "lumpy", 1, 0],
    ]
    assert joined(sums, "forecast_qty").tolist() == [20.0, 0.2]
    assert joined(sums, "variance").tolist() == pytest.approx([2.0, 0.16], abs=1e-3)
    assert joined(sums, "spread").tolist() == pytest.approx([2.0, 0.4], abs=1e-3)


def test_past_cells_without_numbers_do_not_count(spark: SparkSession) -> None:
    """A forecast that is not a number is left out, and its part is missing from the sums; the rest
    gives totals with evidence.
    """
    cell = {"yyyymm": 202401, "abc_class": "A", "is_fallback": False, "target_yyyymm": 202401}
    rows = [
        served(part, **cell, origin=202312, actual_qty=12.0)
        | ({"q50": float("nan")} if part == "P3" else {})
        for part in ("P1", "P2", "P3")
    ]
    past = past_parts(table(spark, ZOO_RESULT, *rows)).toPandas()
    assert past["part_count"].tolist() == [2]
    assert joined(past, "actual_qty").tolist() == [24.0]
    known = {"yyyymm": 202401, "part_number": "P1", "abc_class": "A"}
    coming = coming_parts(
        table(spark, DEMAND_FORECAST, served("P1")), table(spark, DEMAND_FEATURES, known)
    ).toPandas()
    (row, *_) = demand_forecast_total(coming, past)
    assert (row["forecast_qty"], row["method"], row["target_month_count"]) == (
        10.0,
        "joint_errors",
        1,
    )
