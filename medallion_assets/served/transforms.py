"""Gold transforms: forecasts of a model -> the rows that are published, with status, exclusions and
vintages.

Pure frames in, frames out. Which version serves lies in champion/training.py, the forecasts
themselves in zoo/serving.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from medallion_assets.tables import DECILES, DEMAND_FORECAST

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NUMBERS = ("forecast_qty", *DECILES)
ANSWERED = (*NUMBERS, "model", "trained_yyyymm", "model_run_id")  # columns that a model fills
TOLERANCE = 1e-9


def served_rows(forecasts: DataFrame, baseline: str, has_version: bool) -> DataFrame:
    """Forecast rows with status and reason: guarded where the baseline stands in for a path that
    the part's history does not bear out, fallback where a stand-in or the baseline forecasts,
    new_part for new parts.

    forecasts: SERVED_COLUMNS of the served model, and ``guard``, the guard's reason or NULL.
    """
    is_baseline = F.col("model") == baseline
    why = (
        "no challenger beat it on the evidence of its training"
        if has_version
        else "no model was trained by then"
    )
    reason = (
        F.when(
            F.col("guard").isNotNull(),
            F.concat(F.lit(f"guarded, so {baseline} stands in: "), F.col("guard")),
        )
        .when(
            F.col("is_fallback"),
            F.lit("the model could not forecast this series; its recent mean stands in"),
        )
        .when(is_baseline, F.lit(f"{baseline} serves: {why}"))
        .otherwise(F.lit(None).cast("string"))
    )
    status = (
        F.when(F.col("guard").isNotNull(), "guarded")
        .when(F.col("demand_class") == "new", "new_part")
        .when(F.col("is_fallback") | is_baseline, "fallback")
        .otherwise("forecast")
    )
    return (
        forecasts.withColumn("status", status)
        .withColumn("reason", reason)
        .withColumnRenamed("origin", "yyyymm")
        .drop("is_fallback", "guard")
    )


def excluded_rows(features: DataFrame, active_months: int) -> DataFrame:
    """One row without numbers and model for each part that is not active at its origin, with the
    reason; else as ``served_rows``.
    """
    idle = features.where("NOT is_active")
    since = F.coalesce(
        F.concat(
            F.lit("no sale in "),
            F.col("months_since_last_sale").cast("int").cast("string"),
            F.lit(" months"),
        ),
        F.lit("no sale in the last 24 months"),
    )
    return idle.select(
        "yyyymm",
        "part_number",
        F.lit(0).alias("horizon"),
        F.col("yyyymm").alias("target_yyyymm"),
        F.lit("excluded").alias("status"),
        F.concat(since, F.lit(f", active_months is {active_months}")).alias("reason"),
        "demand_class",
        *(
            F.lit(None).cast(column.type).alias(column.name)
            for column in DEMAND_FORECAST.columns
            if column.name in ANSWERED
        ),
    )


def changed_numbers(new: DataFrame, published: DataFrame) -> DataFrame:
    """Cells whose numbers or status differ between what was published last and what would be
    published now, or that one lacks.
    """
    key = ["part_number", "horizon"]
    before = published.select(
        *key, *[F.col(name).alias(f"{name}_before") for name in (*NUMBERS, "status")]
    )
    both = new.select(*key, *NUMBERS, "status").join(before, key, "full")
    differs = ~F.col("status").eqNullSafe(F.col("status_before"))
    for name in NUMBERS:
        gap = F.abs(F.col(name) - F.col(f"{name}_before"))
        limit = TOLERANCE * F.greatest(F.lit(1.0), F.abs(F.col(f"{name}_before")))
        differs = differs | F.coalesce(
            gap > limit, F.col(name).isNull() != F.col(f"{name}_before").isNull()
        )
    return both.where(differs)


def demand_forecast(rows: DataFrame, vintage: int, vintage_reason: str | None) -> DataFrame:
    """Rows of gold.demand_forecast of one vintage; a later vintage carries its reason on every
    row.
    """
    reason = F.col("reason")
    if vintage_reason:
        reason = F.concat_ws("; ", F.lit(f"vintage {vintage}: {vintage_reason}"), reason)
    return rows.withColumns({"vintage": F.lit(vintage), "reason": reason}).select(
        *DEMAND_FORECAST.column_names
    )


def forecast_change(
    former: DataFrame,
    restated: DataFrame,
    same_version: DataFrame,
    refit: DataFrame,
    present: DataFrame,
) -> DataFrame:
    """gold.forecast_change without its stamps, one row per part and target month that was forecast
    then and is now: part_number, target_yyyymm, horizon, former_qty, forecast_qty and
    CHANGE_PARTS.

    All frames have part_number, target_yyyymm, forecast_qty, model. former: as published at the
    former origin; restated: the same version there, on demand as it is known now; same_version:
    that version at the present origin; refit: the fits of the present training at the present
    origin, of all models; present: as published, with horizon.

    A part without ``restated`` was not restated, one without ``refit`` of its former model counts
    the whole rest as another champion's.
    """
    key = ["part_number", "target_yyyymm"]

    def said(frame: DataFrame, name: str) -> DataFrame:
        return frame.where("forecast_qty IS NOT NULL").select(
            *key, F.col("forecast_qty").alias(f"{name}_qty"), F.col("model").alias(f"{name}_model")
        )

    rows = (
        present.where("forecast_qty IS NOT NULL")
        .select(*key, "horizon", "forecast_qty", "model")
        .join(said(former, "former"), key)
        .join(said(restated, "restated").drop("restated_model"), key, "left")
        .join(
            said(same_version, "same").withColumnRenamed("same_model", "former_name"), key, "left"
        )
    )
    known = said(refit, "refit").withColumnRenamed("refit_model", "former_name")
    rows = rows.join(known, [*key, "former_name"], "left")
    before = F.coalesce(F.col("restated_qty"), F.col("former_qty"))
    same = F.coalesce(F.col("same_qty"), F.col("forecast_qty"))
    again = (
        F.when(F.col("former_name") == F.col("model"), F.col("forecast_qty"))
        .when(F.col("refit_qty").isNotNull(), F.col("refit_qty"))
        .otherwise(same)
    )
    return rows.select(
        *key,
        "horizon",
        "former_qty",
        "forecast_qty",
        (before - F.col("former_qty")).alias("restated_qty"),
        (same - before).alias("new_sales_qty"),
        (again - same).alias("refit_qty"),
        (F.col("forecast_qty") - again).alias("champion_qty"),
    )
