"""Bronze transforms: lines as text -> lines with their month and identity; deliveries -> what they
say of months.

Pure frames in, frames out. Reading files belongs to resources/formats, meaning of columns to
silver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql.window import Window

from medallion_assets import values
from medallion_assets.complete import grown_deliveries
from medallion_assets.partitions import NO_MONTH
from resources.errors import Refused
from resources.orders import lacking_columns, valid_names, without
from resources.settings import ConstantColumn, JoinedColumns, Source

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column, DataFrame


DATE_PROBLEM = "order_date_"  # begins each reason that a line's date gives it for having no month


# What a column of line types says of lines that are no demand, in lower case.
REFUND_WORDS = (
    "avoir",
    "cancel",
    "cancelation",
    "canceled",
    "cancellation",
    "cancelled",
    "chargeback",
    "credit",
    "credit memo",
    "credit note",
    "creditmemo",
    "devolución",
    "erstattung",
    "gutschrift",
    "refund",
    "refunded",
    "reimbursement",
    "reembolso",
    "remboursement",
    "reso",
    "retoure",
    "return",
    "returned",
    "returns",
    "rimborso",
    "rma",
    "rückerstattung",
    "storniert",
    "storno",
    "void",
    "voided",
)


class MissingColumn(Refused):
    """A delivery lacks a source column that its mapping needs; the message names file, column and
    what is there.
    """


def source_columns(source: Source, available: Sequence[str]) -> dict[str, list[str]]:
    """For each canonical column the columns of a frame that hold it, in order of preference; names
    compared ignoring case.
    """
    found = {name.lower(): name for name in available}

    def held(canonical: str) -> list[str]:
        wanted = (name.lower() for name in valid_names_of(source, canonical))
        return [found[name] for name in wanted if name in found]

    return {canonical: held(canonical) for canonical in source.columns}


def valid_names_of(source: Source, canonical: str) -> list[str]:
    """The mapped source columns of a canonical column as bronze spells them."""
    return [valid_names([name])[0] for name in source.candidates(canonical)]


def check_columns(source: Source, file_name: str, column_names: Sequence[str]) -> None:
    """Raise MissingColumn where a file lacks a column that the mapping of its source needs, or has
    it more than once.
    """
    named = {name for canonical in source.columns for name in source.candidates(canonical)}
    if repeated := sorted(
        {name for name in column_names if name in named and list(column_names).count(name) > 1}
    ):
        raise MissingColumn(
            f"{file_name}: column {', '.join(repeated)} is there more than once, so nobody can say"
            " which is meant; rename or remove one of them and deliver the file again."
        )
    for canonical in lacking_columns(source, column_names):
        is_joined = isinstance(source.columns[canonical], JoinedColumns)
        named_by = (" and " if is_joined else " or ").join(source.candidates(canonical))
        raise MissingColumn(
            f"{file_name}: no column {named_by}, which"
            f" sources.{source.name}.columns.{canonical} names; the file has:"
            f" {', '.join(column_names)}. Add the file's name for it to the mapping, or deliver"
            f" the file again{without([canonical])}."
        )


def text_of(source: Source, canonical: str, available: Sequence[str]) -> Column:
    """The text of a canonical column without blanks around it; NULL where it is missing by the
    source's rules or the frame lacks it.
    """
    mapped = source.columns.get(canonical)
    if isinstance(mapped, ConstantColumn):
        return F.lit(mapped.constant)
    columns = source_columns(source, available).get(canonical, [])
    if not columns:
        return F.lit(None).cast("string")
    cleaned = [
        not_missing(F.trim(F.col(f"`{name}`").cast("string")), source.missing) for name in columns
    ]
    if isinstance(mapped, JoinedColumns):
        return F.when(F.coalesce(*cleaned).isNotNull(), F.concat_ws(mapped.separator, *cleaned))
    return F.coalesce(*cleaned)


def not_missing(text: Column, missing: Sequence[str]) -> Column:
    """The text; NULL where it is empty or one of ``missing``."""
    return F.when(~text.isin(["", *missing]), text)


def timestamp_of(source: Source, text: Column) -> Column:
    """A date text as a timestamp by the first of the source's formats that reads it, as printed or
    in the source's time zone; NULL where none does.
    """
    return values.timestamp(text, source.date_formats, source.time_zone)


def dated_lines(
    lines: DataFrame, source: Source, first_month: int, newest_month: int | Column
) -> DataFrame:
    """Lines with yyyymm, day of month (``_day``), _row_hash and the _problem of a line without
    month.

    lines: _delivery_id, _line_number, _problem, _raw and the source's columns. A date that can't be
    read, lies before ``first_month`` or after ``newest_month`` (the month of ingestion) gives month
    0 and its reason.
    """
    names = [name for name in lines.columns if not name.startswith("_")]
    month = month_of("_date")
    problem = (
        F.when(F.col("_problem").isNotNull(), F.col("_problem"))
        .when(F.col("_date").isNull(), F.lit(f"{DATE_PROBLEM}unreadable"))
        .when(F.col("_month") < first_month, F.lit(f"{DATE_PROBLEM}before_first_month"))
        .when(F.col("_month") > newest_month, F.lit(f"{DATE_PROBLEM}after_ingestion"))
    )
    # A column of its own each: written into the expressions that need it, the date would be parsed
    # once for every use.
    return (
        lines.withColumn("_date", timestamp_of(source, text_of(source, "order_date", names)))
        .withColumn("_month", month)
        .withColumn("_problem", problem)
        .withColumn(
            "yyyymm",
            F.when(F.col("_problem").isNull(), F.col("_month"))
            .otherwise(F.lit(NO_MONTH))
            .cast("int"),
        )
        .withColumn(
            "_day", F.when(F.col("yyyymm") != NO_MONTH, F.dayofmonth("_date")).otherwise(F.lit(0))
        )
        .withColumn("_row_hash", F.sha2(_line_text(names), 256))
        .drop("_date", "_month")
    )


def month_of(name: str) -> Column:
    """The month of a time column, yyyymm."""
    return F.year(name) * 100 + F.month(name)


def redated_lines(stored: DataFrame, source: Source, first_month: int) -> DataFrame:
    """Stored lines of one source with the yyyymm, _day and _problem that its mapping gives them
    now; ``_former_month`` and ``_former_problem`` are those that they are stored with.

    stored: rows of bronze.sales_orders. A line's hash and occurrence depend on its text alone and
    stay: identical lines of a delivery have one date, so they move together. A date after the month
    of ingestion is one after the month in which the delivery was registered.
    """
    ours = ("yyyymm", "_problem", "_row_hash")
    lines = stored.select(
        *[F.col(f"`{name}`") for name in stored.columns if name not in ours],
        F.when(~F.col("_problem").startswith(DATE_PROBLEM), F.col("_problem")).alias("_problem"),
        F.col("_problem").alias("_former_problem"),
        F.col("yyyymm").alias("_former_month"),
        F.col("_row_hash").alias("_former_hash"),
    )
    return (
        dated_lines(lines, source, first_month, month_of("_ingested_at"))
        .withColumn("_row_hash", F.col("_former_hash"))
        .drop("_former_hash")
    )


def _line_text(names: Sequence[str]) -> Column:
    """The line as one text, NULLs left out: a column that only another file has changes nothing."""
    named = [F.concat(F.lit(f"{name}="), F.col(f"`{name}`")) for name in ("_raw", *names)]
    return F.concat_ws("\u001f", *named)


def refund_words(source: Source, available: Sequence[str]) -> dict[str, Column]:
    """Column that the mapping does not name -> its value where that says refund or cancellation of
    a line whose quantity is not negative. Such a line would count as demand.
    """
    if source.line_types is not None:
        return {}
    named = {name.lower() for c in source.columns for name in valid_names_of(source, c)}
    named |= {name.lower() for name in valid_names(source.rules.not_line_types)}
    quantity = text_of(source, "quantity", available)
    is_negative = quantity.startswith("-") | quantity.startswith("(") | quantity.endswith("-")
    return {
        name: F.when(
            F.lower(F.trim(F.col(f"`{name}`").cast("string"))).isin(list(REFUND_WORDS))
            & ~is_negative,
            F.col(f"`{name}`").cast("string"),
        )
        for name in available
        if not name.startswith("_") and name != "yyyymm" and name.lower() not in named
    }


def deliveries(dated: DataFrame, told: Mapping[str, Column] | None = None) -> DataFrame:
    """What each delivery says of each month: _delivery_id, yyyymm, line_count, last_day,
    unreadable_line_count, content_version; and each value that ``told`` names: the largest.
    """
    largest = [F.max(value).alias(name) for name, value in (told or {}).items()]
    return dated.groupBy("_delivery_id", "yyyymm").agg(
        *largest,
        F.count("*").alias("line_count"),
        F.max("_day").alias("last_day"),
        F.sum(F.when(F.col("_problem").startswith("unreadable"), 1).otherwise(0)).alias(
            "unreadable_line_count"
        ),
        F.md5(F.sum(F.xxhash64("_row_hash").cast("decimal(38,0)")).cast("string")).alias(
            "content_version"
        ),
    )


def sales_orders(dated: DataFrame, source_name: str, ingested_at: Mapping[str, Any]) -> DataFrame:
    """Rows of bronze.sales_orders from dated lines; ``ingested_at`` gives the registration time of
    each delivery.
    """
    order = Window.partitionBy("yyyymm", "_delivery_id", "_row_hash").orderBy("_line_number")
    times = dated.sparkSession.createDataFrame(
        list(ingested_at.items()), "_delivery_id STRING, _ingested_at TIMESTAMP"
    )
    return (
        dated.withColumn("_occurrence", F.row_number().over(order).cast("int"))
        .withColumn("_source", F.lit(source_name))
        .join(F.broadcast(times), "_delivery_id")
        .drop("_day")
    )


def superseded_months(
    deliveries: pd.DataFrame, sources: Sequence[Source]
) -> dict[tuple[str, int], str]:
    """Map each replaced (delivery_id, yyyymm) to the newer delivery_id: in snapshot sources, and
    for files that grew.

    deliveries: delivery_id, sequence, source, file_name, months (a sequence of mappings with yyyymm
    and line_count), and grown_from where it has it.
    """
    replaced: dict[tuple[str, int], str] = {}
    for source in sources:
        own = deliveries[deliveries["source"] == source.name].sort_values(
            "sequence", ascending=False
        )
        if source.mode == "append":
            grown = grown_deliveries(own)
            for delivery_id, months in zip(own["delivery_id"], own["months"], strict=True):
                if delivery_id in grown:
                    for month in months:
                        replaced[delivery_id, int(month["yyyymm"])] = grown[delivery_id]
        if source.mode != "snapshot":
            continue
        newest_of_file: dict[str, str] = {}
        newest_of_month: dict[int, str] = {}
        for row in own.to_dict("records"):
            delivery_id = row["delivery_id"]
            by_file = newest_of_file.setdefault(row["file_name"], delivery_id)
            for month in row["months"]:
                yyyymm = int(month["yyyymm"])
                if source.replaces == "file":
                    newest = by_file
                elif month["line_count"]:
                    newest = (
                        newest_of_month.setdefault(yyyymm, delivery_id)
                        if yyyymm != NO_MONTH
                        else delivery_id
                    )
                else:
                    newest = newest_of_month.get(yyyymm, delivery_id)
                if newest != delivery_id:
                    replaced[delivery_id, yyyymm] = newest
    return replaced
