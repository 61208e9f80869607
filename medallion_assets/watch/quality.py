"""How every line of a month was accounted for: the rows of gold.data_quality.

Which rules a line must keep lies in silver; here their results are counted and held against limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from medallion_assets.exact import ratio
from medallion_assets.partitions import NO_MONTH
from medallion_assets.tables import DATA_QUALITY

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from resources.settings import Settings


def data_quality(
    bronze_lines: DataFrame,
    sales_orders: DataFrame,
    rejected_lines: DataFrame,
    months: Sequence[int],
    settings: Settings,
) -> DataFrame:
    """One row per month and rule, with the columns of gold.data_quality; month 0 (lines of no
    month) has counts only.

    bronze_lines: yyyymm, delivery_id, line_number of every line as delivered; sales_orders and
    rejected_lines: the silver tables. Rows of other months are ignored; a month without lines has
    its rows too. ``lines_unaccounted`` adds up, over deliveries, how far lines read and lines
    accounted for are apart, so that a line lost in one delivery is not hidden by one counted twice
    in another.
    """
    by_delivery = ["yyyymm", "delivery_id"]
    asked = F.col("yyyymm").isin(list(months))
    rejected_lines = rejected_lines.where(asked)
    read = bronze_lines.where(asked).groupBy(by_delivery).agg(F.count("*").alias("read"))
    accepted = (
        sales_orders.where(asked)
        .groupBy(by_delivery)
        .agg(
            F.count("*").alias("accepted"),
            F.count_if(F.col("line_type") == "cancellation").alias("cancelled"),
            F.count_if(F.col("customer_id").isNull()).alias("without_customer"),
        )
    )
    put_aside = rejected_lines.groupBy(by_delivery).agg(
        *(
            F.count_if(F.col("disposition") == disposition).alias(disposition)
            for disposition in ("rejected", "duplicate", "superseded")
        ),
        F.count_if(F.array_contains("reasons", "line_type_ignored")).alias("ignored"),
    )
    counts = [
        "read",
        "accepted",
        "cancelled",
        "without_customer",
        "rejected",
        "duplicate",
        "superseded",
        "ignored",
    ]
    deliveries = (
        read.join(accepted, by_delivery, "full")
        .join(put_aside, by_delivery, "full")
        .fillna(0, counts)
    )
    gap = F.abs(
        F.col("read")
        - F.col("accepted")
        - F.col("rejected")
        - F.col("duplicate")
        - F.col("superseded")
    )
    calendar = bronze_lines.sparkSession.createDataFrame(
        [(int(month),) for month in sorted(set(months))], "yyyymm INT"
    )
    totals = (
        calendar.join(deliveries.withColumn("unaccounted", gap), "yyyymm", "left")
        .groupBy("yyyymm")
        .agg(*(F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in (*counts, "unaccounted")))
    )
    rules = totals.select(
        "yyyymm",
        F.explode(F.array(*_counts(), *_shares(settings.monitoring.max_rejected_share))).alias(
            "rule"
        ),
    )
    figures = rules.select("yyyymm", "rule.*").where(
        (F.col("yyyymm") != NO_MONTH) | ~F.col("rule").endswith("_share")
    )
    rows = figures.unionByName(_rejected_by_reason(rejected_lines)).unionByName(
        _warned_by_name(sales_orders.where(asked))
    )
    is_ok = F.col("threshold").isNull() | (F.col("value") <= F.col("threshold"))
    return rows.withColumn("is_ok", is_ok).select(*DATA_QUALITY.column_names)


def _rule(name: str, value: Column, detail: str, threshold: float | None = None) -> Column:
    return F.struct(
        F.lit(name).alias("rule"),
        value.cast("double").alias("value"),
        F.lit(threshold).cast("double").alias("threshold"),
        F.lit(detail).alias("detail"),
    )


def _counts() -> tuple[Column, ...]:
    return (
        _rule("lines_read", F.col("read"), "lines as delivered"),
        _rule("lines_accepted", F.col("accepted"), "lines in silver.sales_orders"),
        _rule(
            "lines_rejected", F.col("rejected"), "lines that broke a rule; see rejected:<reason>"
        ),
        _rule("lines_duplicate", F.col("duplicate"), "lines that an earlier delivery had brought"),
        _rule("lines_superseded", F.col("superseded"), "lines that a newer snapshot replaced"),
        _rule(
            "lines_unaccounted",
            F.col("unaccounted"),
            "lines read, less accepted, rejected, duplicate and superseded ones; differences of"
            " deliveries added up",
            threshold=0.0,
        ),
    )


def _shares(max_rejected_share: float) -> tuple[Column, ...]:
    def share(part: Column, whole: Column) -> Column:
        return F.coalesce(ratio(part, whole), F.lit(0.0))

    # Lines that the source's own types say are no order lines break no rule.
    accepted, rejected = F.col("accepted"), F.col("rejected") - F.col("ignored")
    return (
        # Duplicates and superseded lines stand elsewhere: a file delivered twice must not halve the
        # share.
        _rule(
            "rejected_share",
            share(rejected, accepted + rejected),
            "rejected over accepted and rejected lines, those of an ignored type left out",
            max_rejected_share,
        ),
        _rule(
            "cancelled_share",
            share(F.col("cancelled"), accepted),
            "share of accepted lines that are cancellations",
        ),
        _rule(
            "missing_customer_share",
            share(F.col("without_customer"), accepted),
            "share of accepted lines that name no customer",
        ),
    )


def _rejected_by_reason(rejected_lines: DataFrame) -> DataFrame:
    return _lines_by_name(
        rejected_lines.where(F.col("disposition") == "rejected"),
        "reasons",
        "rejected:",
        "lines that broke this rule; a line may break several, so the rules may add up to more"
        " than lines_rejected",
    )


def _warned_by_name(sales_orders: DataFrame) -> DataFrame:
    return _lines_by_name(
        sales_orders.where(F.col("warnings").isNotNull()),
        "warnings",
        "warned:",
        "accepted lines that were read otherwise than they are written, or that a rule warns of",
    )


def _lines_by_name(lines: DataFrame, names: str, prefix: str, detail: str) -> DataFrame:
    """Lines of each month that have a name in their array ``names``; a rule is ``prefix`` and the
    name.
    """
    by_name = (
        lines.select("yyyymm", F.explode(F.array_distinct(names)).alias("name"))
        .groupBy("yyyymm", "name")
        .agg(F.count("*").alias("lines"))
    )
    return by_name.select(
        "yyyymm",
        F.concat(F.lit(prefix), "name").alias("rule"),
        F.col("lines").cast("double").alias("value"),
        F.lit(None).cast("double").alias("threshold"),
        F.lit(detail).alias("detail"),
    )
