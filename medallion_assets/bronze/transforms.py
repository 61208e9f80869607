"""Bronze transforms: lines as text -> lines with their month and identity; deliveries -> what they
say of months.

Pure frames in, frames out. Reading files belongs to resources/orders.py, meaning of columns to
silver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql.window import Window

from medallion_assets.partitions import NO_MONTH
from resources.errors import Refused
from resources.orders import valid_names
from resources.settings import JoinedColumns, Source

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column, DataFrame


class MissingColumn(Refused):
    """A delivery lacks a source column that its mapping needs; the message names file, column and
    what is there.
    """


def source_columns(source: Source, available: Sequence[str]) -> dict[str, list[str]]:
    """For each canonical column the columns of a frame that hold it, in order of preference; names
    compared ignoring case.
    """
    found = {name.lower(): name for name in available}
    return {
        canonical: [
            found[name.lower()]
            for name in valid_names_of(source, canonical)
            if name.lower() in found
        ]
        for canonical in source.columns
    }


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
    present = source_columns(source, valid_names(column_names))
    for canonical, mapped in source.columns.items():
        wanted = source.candidates(canonical)
        needed = len(wanted) if isinstance(mapped, JoinedColumns) else 1
        is_required = canonical not in ("customer_id", "region", "description")
        if is_required and len(present[canonical]) < needed:
            joint = " and " if isinstance(mapped, JoinedColumns) else " or "
            raise MissingColumn(
                f"{file_name}: no column {joint.join(wanted)}, which"
                f" sources.{source.name}.columns.{canonical} names; the file has:"
                f" {', '.join(column_names)}. Add the file's name for it to the mapping, or deliver"
                " the file again."
            )


def text_of(source: Source, canonical: str, available: Sequence[str]) -> Column:
    """The trimmed text of a canonical column; NULL where it is missing by the source's rules or the
    frame lacks it.
    """
    columns = source_columns(source, available).get(canonical, [])
    if not columns:
        return F.lit(None).cast("string")
    cleaned = [
        _not_missing(F.trim(F.col(f"`{name}`").cast("string")), source.missing) for name in columns
    ]
    mapped = source.columns[canonical]
    if isinstance(mapped, JoinedColumns):
        return F.when(F.coalesce(*cleaned).isNotNull(), F.concat_ws(mapped.separator, *cleaned))
    return F.coalesce(*cleaned)


def _not_missing(text: Column, missing: Sequence[str]) -> Column:
    return F.when(~text.isin(["", *missing]), text)


def timestamp_of(source: Source, text: Column) -> Column:
    """A date text as a timestamp by the first of the source's formats that reads it; NULL where
    none does.
    """
    return F.coalesce(
        *[F.try_to_timestamp(text, F.lit(pattern)) for pattern in source.date_formats]
    )


def dated_lines(lines: DataFrame, source: Source, first_month: int, newest_month: int) -> DataFrame:
    """Lines with yyyymm, day of month (``_day``), _row_hash and the _problem of a line without
    month.

    lines: _delivery_id, _line_number, _problem, _raw and the source's columns. A date that can't be
    read, lies before ``first_month`` or after ``newest_month`` (the month of ingestion) gives month
    0 and its reason.
    """
    own = ("_delivery_id", "_line_number", "_problem", "_raw")
    values = [name for name in lines.columns if name not in own]
    month = F.year("_date") * 100 + F.month("_date")
    problem = (
        F.when(F.col("_problem").isNotNull(), F.col("_problem"))
        .when(F.col("_date").isNull(), F.lit("order_date_unreadable"))
        .when(F.col("_month") < first_month, F.lit("order_date_before_first_month"))
        .when(F.col("_month") > newest_month, F.lit("order_date_after_ingestion"))
    )
    # A column of its own each: written into the expressions that need it, the date would be parsed
    # once for every use.
    return (
        lines.withColumn("_date", timestamp_of(source, text_of(source, "order_date", values)))
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
        .withColumn("_row_hash", F.sha2(_line_text(values), 256))
        .drop("_date", "_month")
    )


def _line_text(values: Sequence[str]) -> Column:
    """The line as one text, NULLs left out: a column that only another file has changes nothing."""
    named = [F.concat(F.lit(f"{name}="), F.col(f"`{name}`")) for name in ("_raw", *values)]
    return F.concat_ws("\u001f", *named)


def deliveries(dated: DataFrame) -> DataFrame:
    """What each delivery says of each month: _delivery_id, yyyymm, line_count, last_day,
    unreadable_line_count, content_version.
    """
    return dated.groupBy("_delivery_id", "yyyymm").agg(
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
    """For snapshot sources, which (delivery_id, yyyymm) is replaced by which newer delivery_id.

    deliveries: delivery_id, sequence, source, file_name, months (a sequence of mappings with yyyymm
    and line_count).
    """
    replaced: dict[tuple[str, int], str] = {}
    for source in sources:
        if source.mode != "snapshot":
            continue
        own = deliveries[deliveries["source"] == source.name].sort_values(
            "sequence", ascending=False
        )
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
