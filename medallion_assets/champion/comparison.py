"""A forecast made elsewhere beside ours, on the cells that were really given.

Pure frames in, frames out. The contest compares what would be served, stand-ins of the baseline
among it; this compares what two people would hold side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING

import pandas as pd
from pyspark.sql import functions as F

from medallion_assets.champion import evaluation
from medallion_assets.champion.uncertainty import Evidence, Sums
from medallion_assets.tables import DEMAND_CLASSES

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

GIVEN, OURS, ALL = "given", "ours", "all"
COLUMNS = (
    *("segment", "ours", "cell_count", "part_count", "month_count"),
    *("given_wql", "our_wql", "difference", "low", "high", "given_bias", "our_bias"),
)


def paired(zoo_result: DataFrame, given: str, ours: Mapping[str, str]) -> DataFrame:
    """The cells that were given, as two models called given and ours: each under its class, and
    again under the class all.

    zoo_result: rows of gold.zoo_result of one month. ours: demand class -> the model of the zoo
    that it is compared with. Cells where the baseline stood in for the given forecast are left out.
    """
    model = F.col("model")
    named = reduce(
        lambda found, entry: found.when(
            (model == entry[1]) & (F.col("demand_class") == entry[0]), OURS
        ),
        ours.items(),
        F.when((model == given) & ~F.col("is_fallback"), GIVEN),
    )
    rows = zoo_result.withColumn("model", named).where(model.isNotNull())
    cell = ["yyyymm", "origin", "part_number", "horizon"]
    held = rows.groupBy(*cell).agg(F.count("*").alias("held_count")).where("held_count = 2")
    both = rows.join(held.drop("held_count"), cell).select(*zoo_result.columns)
    return both.unionByName(both.withColumn("demand_class", F.lit(ALL)))


def comparisons(
    pairs: DataFrame, horizon: int, ours: Mapping[str, str], min_parts: int
) -> pd.DataFrame:
    """COLUMNS, one row per class with cells and one for all: both WQL, their difference (ours less
    given, so that below zero is in our favour) with the 95 % interval that knows parts and months,
    and both biases.

    pairs: ``paired``. min_parts: parts that an interval over parts needs; with fewer only months
    differ.
    """
    classes = dict.fromkeys((GIVEN, OURS), (*DEMAND_CLASSES, ALL))
    by_part: pd.DataFrame = evaluation.part_losses(pairs, classes, horizon).toPandas()
    by_month: pd.DataFrame = evaluation.month_losses(pairs, classes, horizon).toPandas()
    rows = []
    for segment in (*DEMAND_CLASSES, ALL):
        parts, months = (
            of[of["demand_class"] == segment]
            .pivot(index=unit, columns="model", values=[*evaluation.LOSS_SUMS])
            .sort_index()
            for of, unit in ((by_part, "part_number"), (by_month, "target_yyyymm"))
        )
        if parts.empty or not parts["actual_qty"][OURS].sum() > 0:
            continue
        evidence = Evidence(_sums(parts), _sums(months), len(parts) >= min_parts)
        found = evidence.loss(0, 1)
        low, high = found.interval()
        demand = float(months["actual_qty"][OURS].sum())
        sums = months.sum()
        cells = by_month[(by_month["demand_class"] == segment) & (by_month["model"] == OURS)]
        rows.append(
            (
                segment,
                ours.get(segment, ""),
                int(cells["cell_count"].sum()),
                len(parts),
                len(months),
                sums["loss_qty", GIVEN] / demand,
                sums["loss_qty", OURS] / demand,
                found.value,
                low,
                high,
                sums["bias_qty", GIVEN] / demand,
                sums["bias_qty", OURS] / demand,
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def month_totals(pairs: DataFrame) -> pd.DataFrame:
    """Totals one month ahead by target month: actual_qty, given_qty, our_qty, units."""

    def of(model: str, value: str) -> Column:
        return F.sum(F.when(F.col("model") == model, F.col(value)))

    return (
        pairs.where((F.col("demand_class") == ALL) & (F.col("horizon") == 1))
        .groupBy("target_yyyymm")
        .agg(
            of(OURS, "actual_qty").alias("actual_qty"),
            of(GIVEN, "forecast_qty").alias("given_qty"),
            of(OURS, "forecast_qty").alias("our_qty"),
        )
        .orderBy("target_yyyymm")
        .toPandas()
    )


def verdict(row: Mapping[str, float]) -> str:
    """What an interval says, in words."""
    if row["high"] < 0:
        return "ours is better"
    return "the given one is better" if row["low"] > 0 else "not certain"


def _sums(by_unit: pd.DataFrame) -> Sums:
    losses, squares = (
        by_unit[name][[OURS, GIVEN]].to_numpy(dtype=float) for name in ("loss_qty", "squared_error")
    )
    return Sums(losses, by_unit["actual_qty"][OURS].to_numpy(dtype=float), squares)
