"""Given forecasts: lines of their files -> one row per part, origin and target month.

Pure frames in, frames out. Which files there are belongs to assets.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from medallion_assets import values
from medallion_assets.bronze.transforms import not_missing, text_of
from medallion_assets.silver.transforms import identified, month_number
from medallion_assets.tables import DECILES, GIVEN_FORECAST
from resources.orders import valid_names
from resources.settings import GivenForecasts, Source

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_PLACE = ("file_name", "line_number")


def given_cells(
    lines: DataFrame,
    model: str,
    given: GivenForecasts,
    files: Mapping[str, tuple[str, str | None]],
    headers: Mapping[str, str],
) -> DataFrame:
    """Every cell that the lines hold: GIVEN_FORECAST's columns and ``problem``, what is wrong with
    the cell, NULL where nothing is.

    lines: as OrderFiles.lines gives them. files: delivery id -> file name, and the text of the
    origin where the file's name holds it. headers: of a wide file, as ``target_months``. Cells
    without a quantity are left out: nothing was forecast. Months through the origin are kept, with
    a horizon below 1.
    """
    source = given.source(model)
    names = [name for name in lines.columns if not name.startswith("_")]
    named = lines.sparkSession.createDataFrame(
        [(delivery, *about) for delivery, about in files.items()],
        "_delivery_id STRING, file_name STRING, origin_in_name STRING",
    )
    read = lines.join(F.broadcast(named), "_delivery_id").select(
        "file_name",
        F.col("_line_number").alias("line_number"),
        F.col("_problem").alias("broken"),
        text_of(source, "part_number", names).alias("part_number_text"),
        (
            _text(given, source, "origin", names)
            if "origin" in given.columns
            else F.col("origin_in_name")
        ).alias("origin_text"),
        *_targets(given, source, names, headers),
        *(_text(given, source, name, names).alias(f"{name}_text") for name in _deciles(given)),
    )
    if given.is_wide:
        read = read.select(
            *(*_PLACE, "broken", "part_number_text", "origin_text"),
            F.explode("cells").alias("cell"),
        ).select("*", "cell.target_text", "cell.quantity_text")
    return _checked(identified(read, source, ("part_number",)), model, given, source)


def given_forecast(cells: DataFrame) -> DataFrame:
    """silver.given_forecast of sound cells; a cell that is there twice, with equal numbers, counts
    once.
    """
    rows = cells.where("horizon >= 1").select(*GIVEN_FORECAST.column_names)
    others = [name for name in GIVEN_FORECAST.column_names if name not in GIVEN_FORECAST.key]
    first = F.min(F.struct("file_name", "line_number", *(n for n in others if n not in _PLACE)))
    return (
        rows.groupBy(*GIVEN_FORECAST.key)
        .agg(first.alias("first"))
        .select(*GIVEN_FORECAST.key, *(f"first.{name}" for name in others))
        .select(*GIVEN_FORECAST.column_names)
    )


def contradictions(cells: DataFrame) -> DataFrame:
    """Cells for which there are different numbers: model, yyyymm, part_number, target_yyyymm, and
    two places that say so.
    """
    numbers = F.concat_ws("|", *(F.col(name).cast("string") for name in ("forecast_qty", *DECILES)))
    place = F.concat(F.col("file_name"), F.lit(" line "), F.col("line_number").cast("string"))
    return (
        cells.where("horizon >= 1")
        .groupBy("model", "yyyymm", "part_number", "target_yyyymm")
        .agg(
            F.count_distinct(numbers).alias("count"),
            F.min(place).alias("first"),
            F.max(place).alias("last"),
        )
        .where("count > 1")
    )


def target_months(given: GivenForecasts, column_names: Sequence[str]) -> dict[str, str]:
    """Columns of a wide file whose header is a month: name as stored -> header."""
    mapped = {name.lower() for name in given.columns.values()}
    return {
        stored: header
        for stored, header in zip(valid_names(column_names), column_names, strict=True)
        if header.lower() not in mapped and values.moment(header, given.month_formats)
    }


def _targets(
    given: GivenForecasts, source: Source, names: Sequence[str], headers: Mapping[str, str]
) -> list[Column]:
    """Texts of target month and quantity, or of all that a wide line has."""
    if not given.is_wide:
        return [
            _text(given, source, "target", names).alias("target_text"),
            _text(given, source, "quantity", names).alias("quantity_text"),
        ]
    cells = [
        F.struct(
            F.lit(headers[name]).alias("target_text"),
            _cleaned(source, name).alias("quantity_text"),
        )
        for name in names
        if name in headers
    ]
    return [F.array(*cells).alias("cells")]


def _text(given: GivenForecasts, source: Source, column: str, names: Sequence[str]) -> Column:
    """The text of a mapped column without blanks around it; NULL where it is missing."""
    wanted = valid_names([given.columns[column]])[0].lower()
    for name in names:
        if name.lower() == wanted:
            return _cleaned(source, name)
    return F.lit(None).cast("string")


def _cleaned(source: Source, name: str) -> Column:
    return not_missing(values.trimmed(F.col(f"`{name}`")), source.missing)


def _deciles(given: GivenForecasts) -> tuple[str, ...]:
    return DECILES if given.has_deciles else ()


def _checked(cells: DataFrame, model: str, given: GivenForecasts, source: Source) -> DataFrame:
    """Cells with a quantity as typed columns, with what is wrong with each."""
    months = {name: _month(F.col(f"{name}_text"), given) for name in ("origin", "target")}
    numbers = {
        "forecast_qty": "quantity_text",
        **{name: f"{name}_text" for name in _deciles(given)},
    }
    typed = cells.where("quantity_text IS NOT NULL OR broken IS NOT NULL").withColumns(
        {
            "model": F.lit(model),
            **{f"{name}_read": month for name, month in months.items()},
            **{
                name: values.amount(F.col(text), source).cast("double")
                for name, text in numbers.items()
            },
        }
    )
    index = {name: month_number(F.col(f"{name}_read")) for name in months}
    shift = 1 if given.origin_is == "first_forecast" else 0
    origin = index["origin"] - shift
    typed = typed.withColumns(
        {
            "yyyymm": (F.floor(origin / 12) * 100 + origin % 12 + 1).cast("int"),
            "target_yyyymm": F.col("target_read"),
            "horizon": (index["target"] - origin).cast("int"),
        }
    )
    named = given.columns

    def said(what: str, text: str, why: str) -> Column:
        shown = F.coalesce(F.concat(F.lit("'"), F.col(text), F.lit("'")), F.lit("nothing"))
        return F.concat(F.lit(f"{what}: "), shown, F.lit(f" {why}"))

    wrong = [
        (F.col("broken").isNotNull(), F.col("broken")),
        (
            F.col("part_number").isNull(),
            F.lit(f"column {named['part_number']}: there is no part number"),
        ),
        *(
            (
                F.col(f"{name}_read").isNull(),
                said(
                    f"column {named[name]}" if name in named else "file name or header",
                    f"{name}_text",
                    "is no month by month_formats",
                ),
            )
            for name in months
        ),
        *(
            (
                F.col(name).isNull(),
                said(_column_of(given, name), text, "is no number"),
            )
            for name, text in numbers.items()
        ),
        *(
            (
                F.col(low) > F.col(high),
                F.lit(f"columns {named[low]} and {named[high]}: {low} lies above {high}"),
            )
            for low, high in zip(_deciles(given), _deciles(given)[1:], strict=False)
        ),
    ]
    problem = F.coalesce(*(F.when(is_wrong, why) for is_wrong, why in wrong))
    made = {
        name: F.greatest(F.col(name), F.lit(0.0)) if name in numbers else F.lit(None).cast("double")
        for name in ("forecast_qty", *DECILES)
    }
    return (
        typed.withColumn("problem", problem)
        .withColumns(made)
        .select(*GIVEN_FORECAST.column_names, "problem")
    )


def _column_of(given: GivenForecasts, number: str) -> str:
    """How a message names the column of a number."""
    if given.is_wide:
        return "column of a month"
    return f"column {given.columns['quantity' if number == 'forecast_qty' else number]}"


def _month(text: Column, given: GivenForecasts) -> Column:
    moment = values.timestamp(text, given.month_formats)
    return (F.year(moment) * 100 + F.month(moment)).cast("int")
