"""Texts as companies write them, read as numbers, identifiers and times, each table of texts in one
query.
"""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from medallion_assets import values
from medallion_assets.silver import transforms
from resources.settings import ISO_DATES, SPELLINGS, Rules, Source
from tests.conftest import SOURCE
from tests.spellings import DEFAULTS, FORMATS, QUANTITIES, SPELLED

pytestmark = pytest.mark.spark

SHOP = Source.model_validate(SOURCE)
ANY_PART = SHOP.model_copy(update={"rules": Rules()})
CONTINENTAL = SHOP.model_copy(update={"decimal_separator": ",", "thousands_separator": "."})


def amounts(spark: SparkSession, texts: list[str], source: Source, **kind: bool) -> list[Any]:
    """What each text is as a number; None for what is none."""
    rows = spark.createDataFrame(list(enumerate(texts)), "n INT, text STRING")
    read = values.amount(values.trimmed(F.col("text")), source, **kind).alias("read")
    return [
        None if row["read"] is None else float(row["read"])
        for row in rows.select("n", read).orderBy("n").collect()
    ]


def dates(
    spark: SparkSession, texts: list[str], formats: tuple[str, ...], zone: str | None = None
) -> list[str | None]:
    """What each text is as a time; None for what is none."""
    rows = spark.createDataFrame(list(enumerate(texts)), "n INT, text STRING")
    read = values.timestamp(values.trimmed(F.col("text")), formats, zone)
    shown = F.date_format(read, "yyyy-MM-dd HH:mm:ss").alias("read")
    return [row["read"] for row in rows.select("n", shown).orderBy("n").collect()]


def test_numbers_as_they_are_written(spark: SparkSession) -> None:
    """Minus behind, parentheses, gaps between three digits and float notation are read, and what
    may be another number is not.
    """
    read = amounts(spark, list(QUANTITIES), SHOP)
    assert dict(zip(QUANTITIES, read, strict=True)) == QUANTITIES


def test_an_exponent_of_whole_numbers_where_configured(spark: SparkSession) -> None:
    """With exponents: any, 1E5 is a hundred thousand."""
    anything = SHOP.model_copy(update={"exponents": "any"})
    assert amounts(spark, ["1E5", "12e3", "1.5E3", "E5"], anything) == [100000, 12000, 1500, None]


def test_prices_with_their_currency(spark: SparkSession) -> None:
    """Signs and codes of currencies around a price are left out; other words make it unreadable."""
    prices: dict[str, float | None] = {
        "$12.50": 12.5,
        "US$ 12.50": 12.5,
        "-$5.00": -5,
        "$-5.00": -5,
        "($5.00)": -5,
        "$(5.00)": -5,
        "EUR 12.50": 12.5,
        "12.50 EUR": 12.5,
        "eur12.50": 12.5,
        "\u20ac\u00a012.50": 12.5,
        "12.50\u00a0\u20ac": 12.5,
        "\u00a31 234.50": 1234.5,
        "12.50 kr": 12.5,
        "kr. 12.50": 12.5,
        "12.50 Kč": 12.5,
        "5.00- EUR": -5,
        "CHF 1'234.50": 1234.5,
        "12.50 XXX": None,
        "12.50 EUR 3": None,
        "1,50 EUR": None,
        "EUR": None,
        "free": None,
    }
    read = amounts(spark, list(prices), SHOP, is_money=True)
    assert dict(zip(prices, read, strict=True)) == prices


def test_a_decimal_comma_beside_every_spelling(spark: SparkSession) -> None:
    """With a decimal comma the same spellings are read, and a point stands between thousands
    only.
    """
    texts: dict[str, float | None] = {
        "1,5-": -1.5,
        "(1.234,5)": -1234.5,
        "1 234,5": 1234.5,
        "1.234": 1234,
        "1.5": None,
        "1,234,5": None,
        "1,5E3": 1500,
    }
    assert dict(zip(texts, amounts(spark, list(texts), CONTINENTAL), strict=True)) == texts


def test_dates_of_the_default_formats(spark: SparkSession) -> None:
    """Year, month and day in this order, with or without time and offset, are read as printed; a
    day before a month never is.
    """
    read = dates(spark, list(DEFAULTS), ISO_DATES)
    assert dict(zip(DEFAULTS, read, strict=True)) == DEFAULTS


@pytest.mark.parametrize("pattern", dict.fromkeys(pattern for pattern, _, _ in FORMATS))
def test_dates_of_a_format(spark: SparkSession, pattern: str) -> None:
    """Names of months, hours to twelve, two digits of a year, days of a year and serial numbers."""
    cases = [(text, wanted) for of, text, wanted in FORMATS if of == pattern]
    read = dates(spark, [text for text, _ in cases], (pattern,))
    assert read == [wanted for _, wanted in cases]


def test_instants_are_converted_to_the_zone_of_the_source(spark: SparkSession) -> None:
    """With time_zone, a date with an offset and an epoch number become that zone's, by its summer
    time; a date without either stays as printed.
    """
    texts = {
        "2024-02-01T03:15:00Z": "2024-01-31 22:15:00",
        "2024-07-01 03:30:00+0000": "2024-06-30 23:30:00",
        "2024-01-31 22:15:00 -05:00": "2024-01-31 22:15:00",
        "2024-02-01 12:15:00 +05:30": "2024-02-01 01:45:00",
        "2024-02-01 03:15:00": "2024-02-01 03:15:00",
        "1706757300": "2024-01-31 22:15:00",
        "1706757300123": "2024-01-31 22:15:00",
        "17067573": None,
    }
    formats = (*ISO_DATES, "epoch_seconds", "epoch_milliseconds")
    assert dates(spark, list(texts), formats, "America/New_York") == list(texts.values())


def spelled(spark: SparkSession, texts: list[str], source: Source) -> list[tuple[Any, ...]]:
    """Part number, what was changed and reasons of lines whose parts are written so."""
    names = ("Order", "Part", "Customer", "Region", "Date", "Qty", "Price")
    rows = [
        (n, f"O{n}", text, "K1", "North", "2022-01-05", "3", "2.50") for n, text in enumerate(texts)
    ]
    frame = spark.createDataFrame(
        rows, "_line_number BIGINT, " + ", ".join(f"{name} STRING" for name in names)
    ).withColumns(
        {
            "yyyymm": F.lit(202201),
            "_source": F.lit("shop"),
            "_delivery_id": F.lit("d"),
            "_problem": F.lit(None).cast("string"),
        }
    )
    made = transforms.canonical_lines(frame, source).orderBy("line_number").collect()
    return [
        (
            row["part_number"],
            [name.removeprefix("part_number_") for name in row["warnings"] or []],
            row["reasons"],
        )
        for row in made
    ]


def test_one_part_has_one_spelling(spark: SparkSession) -> None:
    """White space, invisible signs, Unicode form, Excel's texts and decimal endings make no second
    part, and each change is named; leading zeros and other points stay.
    """
    source = SHOP.model_copy(
        update={"rules": SHOP.rules.model_copy(update={"product_pattern": None})}
    )
    made = spelled(spark, list(SPELLED), source)
    found = {text: (part, changes) for text, (part, changes, _) in zip(SPELLED, made, strict=True)}
    assert found == SPELLED
    assert {f"part_number_{name}" for _, names in SPELLED.values() for name in names} <= {
        *SPELLINGS
    }


def test_a_part_that_a_spreadsheet_damaged_is_put_aside(spark: SparkSession) -> None:
    """4.00638E+12 is no part: several numbers became this text; trimmed identifiers are taken as
    they are.
    """
    (damaged,) = spelled(spark, ["4.00638E+12"], ANY_PART)
    assert damaged[2] == ["part_number_exponent"]
    trimmed = ANY_PART.model_copy(update={"identifiers": "trim"})
    taken = spelled(spark, ["4.00638E+12", "10023.0\u00a0", '="1"'], trimmed)
    assert [(part, why) for part, _, why in taken] == [
        ("4.00638E+12", []),
        ("10023.0", []),
        ('="1"', []),
    ]
