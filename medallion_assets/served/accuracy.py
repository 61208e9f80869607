"""How the forecasts that were served turned out: the rows of gold.forecast_accuracy, and their
figures over several months.

Only published forecasts are judged here; models that were never served are compared in
champion/evaluation.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from pyspark.sql import functions as F

from medallion_assets.exact import exact_sums, ratio, total
from medallion_assets.tables import DECILES, FORECAST_ACCURACY, LEVELS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SEGMENT_KINDS = ("all", "demand_class", "status")
UNLABELLED_CLASS = "unlabelled_class"
A_YEAR = 100  # yyyymm - 100 is the same month of the year before


def forecast_accuracy(  # noqa: PLR0913, PLR0917 - three tables upstream, and labels and renamings
    demand_forecast: DataFrame,
    monthly_demand: DataFrame,
    model_evaluation: DataFrame,
    months: Sequence[int],
    numbers: Mapping[str, str] | None = None,
    unusual: Collection[tuple[str, int]] = (),
) -> DataFrame:
    """One row per target month of ``months``, lag and segment (all, demand_class, status), with the
    columns of gold.forecast_accuracy.

    demand_forecast: gold.demand_forecast with at least the origins that forecast ``months``;
    excluded parts are left out. monthly_demand: silver.monthly_demand with at least ``months`` and
    the months a year before; incomplete months are ignored, so that an incomplete target month
    gives no row. model_evaluation: gold.model_evaluation of the months that the served models were
    trained in. numbers: number -> the last number of a renamed part; forecasts published under
    several numbers of a part count as one, their sum. unusual: part and month of demand that people
    labelled error or one_off: of such months each class has a second row at lag 1 without these
    parts, unlabelled_class. A part that did not exist a year before had a
    naive forecast of 0; where the whole month is missing, naive_wape and value_added are NULL.
    Ratios over a demand of 0 are NULL. The definitions are those of the M5 and of Hyndman and
    Koehler (2006). The same rows give the same bits however they are partitioned.
    """
    served = served_cells(demand_forecast, months, numbers or {})
    demand = monthly_demand.where("is_complete").select("part_number", "yyyymm", "demand_qty")
    before = served.select(
        "part_number",
        "target_yyyymm",
        (F.col("horizon") - 1).alias("horizon"),
        F.col("forecast_qty").alias("before_qty"),
    )
    cells = (
        served.join(_actuals(demand, months), ["part_number", "target_yyyymm"])
        .join(before, ["part_number", "target_yyyymm", "horizon"], "left")
        .join(
            _evidence(model_evaluation),
            ["trained_yyyymm", "model", "demand_class", "horizon"],
            "left",
        )
        .withColumn("segment_kind", F.explode(_segment_kinds(unusual)))
        .withColumn("segment", _segment())
    )
    y, m, q50 = F.col("actual_qty"), F.col("forecast_qty"), F.col("q50")
    pinball = sum(
        (
            F.greatest((y - F.col(q)) * level, (F.col(q) - y) * (1 - level))
            for q, level in zip(DECILES, LEVELS, strict=True)
        ),
        F.lit(0.0),
    )
    summed = {
        "actual_qty": y,
        "forecast_qty": m,
        "absolute_error": F.abs(y - q50),
        "squared_error": (m - y) * (m - y),
        "pinball": pinball,
        "naive_error": F.abs(y - F.col("naive_qty")),
        "change": F.abs(m - F.col("before_qty")),
        "changed_from": F.when(F.col("before_qty").isNotNull(), m),
        "evidence_wql": F.col("evidence_wql") * y,
        "evidence_bias": F.col("evidence_bias") * y,
    }
    sums = cells.groupBy(
        F.col("target_yyyymm").alias("yyyymm"),
        F.col("horizon").alias("lag"),
        "segment_kind",
        "segment",
        "is_backfilled",
    ).agg(
        F.count("*").alias("cell_count"),
        *(column for name, value in summed.items() for column in exact_sums(name, value)),
        F.count_if(y.between(F.col("q10"), F.col("q90"))).alias("covered"),
        F.every(F.col("evidence_wql").isNotNull() | (y == 0)).alias("has_evidence"),
    )
    actual = total("actual_qty")
    wape, naive_wape = ratio(total("absolute_error"), actual), ratio(total("naive_error"), actual)
    return sums.select(
        "yyyymm",
        "lag",
        "segment_kind",
        "segment",
        "cell_count",
        actual.alias("actual_qty"),
        total("forecast_qty").alias("forecast_qty"),
        ratio(total("absolute_error"), "cell_count").alias("mae"),
        F.sqrt(ratio(total("squared_error"), "cell_count")).alias("rmse"),
        wape.alias("wape"),
        ratio(total("forecast_qty") - actual, actual).alias("bias"),
        ratio(2 / len(DECILES) * total("pinball"), actual).alias("wql"),
        ratio("covered", "cell_count").alias("coverage_80"),
        naive_wape.alias("naive_wape"),
        (1 - ratio(wape, naive_wape)).alias("value_added"),
        ratio(total("change"), total("changed_from")).alias("mean_absolute_change"),
        "is_backfilled",
        *(
            F.when(F.col("has_evidence"), ratio(total(name), actual)).alias(name)
            for name in ("evidence_wql", "evidence_bias")
        ),
    ).select(*FORECAST_ACCURACY.column_names)


def served_cells(
    demand_forecast: DataFrame, months: Sequence[int], numbers: Mapping[str, str]
) -> DataFrame:
    """What was served of each part for target ``months``, from every origin that reaches them: of
    the vintage that is judged, under the last number of each part. Arguments as for
    forecast_accuracy.
    """
    wanted = F.col("target_yyyymm").isin(list(months)) & F.col("forecast_qty").isNotNull()
    return _renumbered(_served(demand_forecast.where(wanted)), numbers)


def _served(demand_forecast: DataFrame) -> DataFrame:
    """The vintage of each origin that was current when the target month began, else the first one,
    marked is_backfilled.
    """
    target = F.col("target_yyyymm")
    month_began = F.make_timestamp(
        (target / 100).cast("int"),
        target % 100,
        F.lit(1),
        F.lit(0),
        F.lit(0),
        F.lit(0),
        F.lit("UTC"),
    )
    in_time = F.max(F.when(F.col("published_at") < month_began, F.col("vintage")))
    choice = demand_forecast.groupBy("yyyymm", "target_yyyymm").agg(
        F.coalesce(in_time, F.lit(1)).alias("vintage"), in_time.isNull().alias("is_backfilled")
    )
    shown = ("demand_class", "status", "is_backfilled", "model", "trained_yyyymm")
    return demand_forecast.join(choice, ["yyyymm", "target_yyyymm", "vintage"]).select(
        "part_number",
        "target_yyyymm",
        "horizon",
        F.col("yyyymm").alias("origin"),
        "vintage",
        "forecast_qty",
        *DECILES,
        *shown,
    )


def _renumbered(served: DataFrame, numbers: Mapping[str, str]) -> DataFrame:
    """What was served, under the last number of each part. What else a row says is that of the
    last number's own row, where it has one.
    """
    if not numbers:
        return served
    names = {**{last: last for last in numbers.values()}, **numbers}
    known = served.join(
        F.broadcast(
            served.sparkSession.createDataFrame(
                list(names.items()), "part_number STRING, last STRING"
            )
        ),
        "part_number",
        "left",
    )
    amounts = ("forecast_qty", *DECILES)
    key = ("part_number", "target_yyyymm", "horizon")
    said = [name for name in served.columns if name not in {*amounts, *key}]
    is_last = F.when(F.col("part_number") == F.col("last"), 1).otherwise(0)
    rank = F.struct(is_last.alias("is_last"), "part_number")
    joined = (
        known.where("last IS NOT NULL")
        .groupBy(F.col("last"), "target_yyyymm", "horizon")
        .agg(
            *(column for name in amounts for column in exact_sums(name, F.col(name))),
            *(F.max_by(name, rank).alias(name) for name in said),
        )
        .select(
            F.col("last").alias("part_number"),
            *(F.col(name) for name in key[1:]),
            *(total(name).alias(name) for name in amounts),
            *said,
        )
    )
    return known.where("last IS NULL").drop("last").unionByName(joined)


def _evidence(model_evaluation: DataFrame) -> DataFrame:
    """What a model showed of each class and horizon when it was trained."""
    by_class = model_evaluation.where(
        (F.col("segment_kind") == "demand_class") & (F.col("horizon") > 0)
    )
    return by_class.select(
        F.col("yyyymm").alias("trained_yyyymm"),
        "model",
        F.col("segment").alias("demand_class"),
        "horizon",
        F.col("wql").alias("evidence_wql"),
        F.col("bias").alias("evidence_bias"),
    )


def _actuals(demand: DataFrame, months: Sequence[int]) -> DataFrame:
    """part_number, target_yyyymm, actual_qty and naive_qty, the demand of the same month a year
    before.
    """
    year_before = demand.select(
        "part_number",
        (F.col("yyyymm") + A_YEAR).alias("yyyymm"),
        F.col("demand_qty").alias("year_before_qty"),
    )
    known_years = year_before.select("yyyymm").distinct().withColumn("is_year_known", F.lit(True))
    return (
        demand.where(F.col("yyyymm").isin(list(months)))
        .join(year_before, ["part_number", "yyyymm"], "left")
        .join(known_years, "yyyymm", "left")
        .select(
            "part_number",
            F.col("yyyymm").alias("target_yyyymm"),
            F.col("demand_qty").alias("actual_qty"),
            F.when(F.col("is_year_known"), F.coalesce("year_before_qty", F.lit(0.0))).alias(
                "naive_qty"
            ),
        )
    )


def _segment_kinds(unusual: Collection[tuple[str, int]]) -> Column:
    """Kinds of segments that a cell belongs to."""
    kinds = F.array(*map(F.lit, SEGMENT_KINDS))
    if not unusual:
        return kinds
    place = F.concat_ws("/", F.col("target_yyyymm").cast("string"), "part_number")
    is_concerned = F.col("target_yyyymm").isin(sorted({month for _, month in unusual}))
    is_unusual = place.isin(sorted(f"{month}/{part}" for part, month in unusual))
    more = F.array(*map(F.lit, (*SEGMENT_KINDS, UNLABELLED_CLASS)))
    is_judged = is_concerned & ~is_unusual & (F.col("horizon") == 1)
    return F.when(is_judged, more).otherwise(kinds)


def _segment() -> Column:
    """What a row's segment_kind calls it."""
    kind = F.col("segment_kind")
    return (
        F.when(kind == "all", F.lit("all"))
        .when(kind.isin("demand_class", UNLABELLED_CLASS), F.col("demand_class"))
        .otherwise(F.col("status"))
    )


def judged_totals(totals: pd.DataFrame) -> pd.DataFrame:
    """Keep the sums of the vintage that forecast_accuracy judges.

    totals: yyyymm (origin), vintage, target_yyyymm, published_at and what was summed up, by
    whatever else.
    """
    month_began = pd.to_datetime(
        totals["target_yyyymm"].astype(int).astype(str), format="%Y%m", utc=True
    )
    in_time = totals["vintage"].where(
        pd.to_datetime(totals["published_at"], utc=True) < month_began
    )
    judged = in_time.groupby([totals["yyyymm"], totals["target_yyyymm"]]).transform("max").fillna(1)
    return totals[totals["vintage"] == judged]


def pooled(accuracy: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Figures of gold.forecast_accuracy over several target months: one row per value of ``by``,
    with month_count.

    Errors are added up again and divided anew, so that a month counts by its demand or its cells,
    not as one of many. value_added compares the months that have a naive forecast; wql leaves out
    months without demand, where it has no value; mean_absolute_change is weighted by the forecast.
    What has no denominator is NaN.
    """
    names = (
        "cell_count",
        "actual_qty",
        "forecast_qty",
        "mae",
        "wql",
        "coverage_80",
        "naive_wape",
        "mean_absolute_change",
    )
    count, actual, forecast, mae, wql, coverage, naive, change = (
        accuracy[name].astype(float) for name in names
    )
    summed = {
        "month_count": pd.Series(1.0, accuracy.index),
        "cell_count": count,
        "actual_qty": actual,
        "forecast_qty": forecast,
        "absolute_error": mae * count,
        "quantile_loss": wql * actual,
        "covered": coverage * count,
        "naive_error": naive * actual,
        "error_beside_naive": (mae * count).where(naive.notna()),
        "change": change * forecast,
        "changed_from": forecast.where(change.notna()),
    }
    sums = accuracy[list(by)].assign(**summed).groupby(list(by), as_index=False).sum(min_count=1)
    demand, cells = (
        sums["actual_qty"].replace(0, float("nan")),
        sums["cell_count"].replace(0, float("nan")),
    )
    return sums[[*by, "month_count", "cell_count", "actual_qty", "forecast_qty"]].assign(
        wape=sums["absolute_error"] / demand,
        bias=(sums["forecast_qty"] - sums["actual_qty"]) / demand,
        wql=sums["quantile_loss"] / demand,
        coverage_80=sums["covered"] / cells,
        value_added=1 - sums["error_beside_naive"] / sums["naive_error"].replace(0, float("nan")),
        mean_absolute_change=sums["change"] / sums["changed_from"].replace(0, float("nan")),
    )
