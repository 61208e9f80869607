"""The one configuration: a YAML file, validated when loaded, every mistake named with its key.

Settings are frozen values; nothing here touches Spark, MLflow or the network. What an engine needs
lies in resources/spark.py; what a month is lies in medallion_assets/partitions.py.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from resources.errors import Refused
from resources.own_rules import mistake_in_rule

REQUIRED_COLUMNS = ("part_number", "order_date", "quantity")
# A file must have these where the mapping names them; without them in the mapping something is
# lost, which the end of a run says.
EXPECTED_COLUMNS = ("order_id", "unit_price", "line_type", "unit", "quantity_factor")
OPTIONAL_COLUMNS = ("customer_id", "region", "description")
CANONICAL_COLUMNS = REQUIRED_COLUMNS + EXPECTED_COLUMNS + OPTIONAL_COLUMNS
# Year, month and day in that order only: a day before a month can't be told from a month before a
# day.
ISO_DATES = (
    "yyyy-MM-dd[ HH:mm[:ss[.SSSSSSSSS]]][ ][XXX]",
    "yyyy-MM-dd'T'HH:mm[:ss[.SSSSSSSSS]][ ][XXX]",
    "yyyy/MM/dd[ HH:mm[:ss[.SSSSSSSSS]]][ ][XXX]",
    "yyyyMMdd",
)
EPOCHS = ("epoch_seconds", "epoch_milliseconds")
SERIAL = "excel_serial"
LINE_TYPES = ("sale", "refund", "cancellation", "ignore")
# Names of the rules that every line is held against; a source's own rules need others.
LINE_RULES = (
    "order_date_unreadable",
    "order_date_before_first_month",
    "order_date_after_ingestion",
    "order_id_missing",
    "part_number_missing",
    "part_number_exponent",
    "part_number_no_product",
    "line_type_ignored",
    "line_type_unknown",
    "unit_unknown",
    "quantity_factor_unreadable",
    "quantity_unreadable",
    "quantity_zero",
    "quantity_implausible",
    "cancellation_with_positive_quantity",
    "unit_price_unreadable",
    "unit_price_not_positive",
    "unit_price_implausible",
    "identical_line_in_delivery",
)
IDENTIFIERS = ("part_number", "order_id", "customer_id")
# What is read otherwise than it is written: counted, not rejected.
CHANGES = ("invisible_signs", "white_space", "unicode_form", "excel_text", "decimal_ending")
SPELLINGS = tuple(f"{column}_{change}" for column in IDENTIFIERS for change in CHANGES)
RULE_COLUMNS = (
    "source",
    "delivery_id",
    "line_number",
    "yyyymm",
    "order_id",
    "part_number",
    "customer_id",
    "region",
    "description",
    "order_date",
    "quantity",
    "unit_price",
    "line_type",
)
_log = logging.getLogger("medallion")

MAX_ORIGINS = (
    36  # of evidence: with the longest horizon they span the months that a BIGINT has bits
)
DEFAULT_MISSING = ("", "nan", "NaN", "null", "NULL", "None", "N/A", "n/a", "<NA>", "Unknown")

# How a value begins that only a person can give; `medallion inspect` writes such values.
OPEN_QUESTION = "QUESTION:"


class ConfigurationError(Refused):
    """The configuration can't be used; the message names the file, each key and what to do."""


def _month(value: object) -> object:
    text = str(value)
    if not re.fullmatch(r"\d{6}", text) or not 1 <= int(text[4:]) <= 12 or int(text[:4]) < 1900:
        raise ValueError(f"'{value}' is not a month; write yyyymm, for instance 201109")
    return int(text)


def _identifier(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", value):
        raise ValueError(
            f"'{value}' is not a valid name; use letters, digits and underscores, starting with a"
            " letter"
        )
    return value


def _regular_expression(value: object) -> object:
    if value is not None:
        try:
            re.compile(str(value))
        except re.error as error:
            raise ValueError(f"'{value}' is not a regular expression: {error}") from error
    return value


def _local_path(value: object) -> object:
    scheme = re.match(r"(?:sqlite:/*)?([A-Za-z][A-Za-z0-9+.-]+):/", str(value))
    if scheme is None or (found := scheme.group(1).lower()) == "sqlite":
        return value
    instead = "mount the store and write the path of the mount, for instance /mnt/orders"
    if found == "file":
        instead = "write the path alone, such as /srv/orders"
    elif found == "dbfs":
        instead = (
            "write the path as files see it: /dbfs/... or, in a Volume,"
            " /Volumes/<catalog>/<schema>/<volume>/..."
        )
    elif found in {"s3", "s3a", "s3n", "abfs", "abfss", "wasb", "wasbs", "adl", "gs"}:
        instead = f"{instead}, or that of a Volume, /Volumes/<catalog>/<schema>/<volume>/..."
    elif found in {"http", "https", "ftp", "sftp"}:
        instead = "let a job put the files into a folder and write its path"
    raise ValueError(
        f"'{value}': addresses of the form {found}: are not read or written here, only paths of"
        f" files; {instead}"
    )


def _date_pattern(value: object) -> object:
    if value in (*EPOCHS, SERIAL):
        return value
    text = _unquoted(str(value))
    if "%" in text:
        raise ValueError(
            f"'{value}' is not a date format; write it like dd/MM/yyyy HH:mm, without per cent"
            " signs"
        )
    if wrong := sorted(set(re.findall(r"[A-Za-z]", text)) - set("yMLdDHhmsSaEXxZzO")):
        raise ValueError(
            f"'{value}' is not a date format: {', '.join(wrong)} is no date field; write yyyy, MM,"
            f" dd, HH, mm, ss, other letters in quotes, or one of {', '.join((*EPOCHS, SERIAL))}"
        )
    if text.count("[") != text.count("]"):
        raise ValueError(f"'{value}' is not a date format: its brackets do not match")
    if "y" not in text or not set("MLD") & set(text):
        raise ValueError(
            f"'{value}' is not a date format: a month needs a year (yyyy or yy) and a month (MM)"
        )
    if ("h" in text) != ("a" in text):
        raise ValueError(
            f"'{value}' is not a date format: hours to 12 (h) and AM or PM (a) need each other;"
            " hours to 24 are HH"
        )
    return value


def _unquoted(pattern: str) -> str:
    return re.sub(r"'[^']*'", "", pattern)


def _time_zone(value: object) -> object:
    if value is not None:
        try:
            ZoneInfo(str(value))
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"'{value}' is no time zone; write it as Area/City, for instance Europe/Berlin, or"
                " UTC"
            ) from error
    return value


def _switched_off(value: object) -> object:
    """YAML reads off as false."""
    return "off" if value is False else value


Month = Annotated[int, BeforeValidator(_month)]
Identifier = Annotated[str, BeforeValidator(_identifier)]
Pattern = Annotated[str, BeforeValidator(_regular_expression)]
DatePattern = Annotated[str, BeforeValidator(_date_pattern)]
LocalPath = Annotated[str, BeforeValidator(_local_path)]
TimeZone = Annotated[str, BeforeValidator(_time_zone)]
Named = Annotated[str, Field(min_length=1)]
OneSign = Annotated[str, Field(min_length=1, max_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schemas(_Section):
    """Names of the schemas by layer."""

    bronze: Identifier = "my_bronze"
    silver: Identifier = "my_silver"
    gold: Identifier = "my_gold"


class CsvDialect(_Section):
    """How a CSV file is written."""

    delimiter: str = Field(",", min_length=1, max_length=1)
    quote: str = Field('"', min_length=1, max_length=1)
    encoding: str = "utf-8"
    escape: OneSign | None = Field(
        None, description="sign before a quote or delimiter that is part of the text, often \\"
    )
    comment: str | None = Field(
        None, min_length=1, description="lines that begin with it are no order lines"
    )
    header_line: int | None = Field(
        None,
        ge=1,
        description="line of the column names; default: the first with the mapped columns",
    )
    skip: tuple[Pattern, ...] = Field(
        (), description="lines in which one of these patterns is found are no order lines"
    )

    @model_validator(mode="after")
    def _signs_differ(self) -> CsvDialect:
        signs = [self.delimiter, self.quote, self.escape, self.comment]
        given = [sign for sign in signs if sign is not None]
        if len(set(given)) < len(given):
            raise ValueError("delimiter, quote, escape and comment need different signs")
        return self

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError as error:
            raise ValueError(
                f"'{value}' is not an encoding Python knows, for instance utf-8 or latin-1"
            ) from error
        return value


class ExcelSheet(_Section):
    """Where a workbook holds its order lines."""

    sheet: str | Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="name of the sheet, or its number; default: the one with the mapped columns",
    )
    header_row: int | None = Field(
        None,
        ge=1,
        description="row of the column names; default: the first with the mapped columns",
    )


class JsonPlace(_Section):
    """Where a JSON text holds its order lines."""

    path: str = Field(
        "",
        description=(
            "keys to the order lines, with [] behind each array: data.orders[].lines[]; default:"
            " the text is an array of them"
        ),
    )

    @field_validator("path")
    @classmethod
    def _path_of_keys(cls, value: str) -> str:
        if value and not re.fullmatch(r"(\[\]|[^.\[\]]+(\[\])?)(\.[^.\[\]]+(\[\])?)*", value):
            raise ValueError(
                f"'{value}' is no path; write keys with dots between them and [] behind each array,"
                " for instance data.orders[].lines[]"
            )
        return value


class Delivery(_Section):
    """When a file counts as delivered, and what is beside it to check it by."""

    settle_seconds: float = Field(
        2,
        ge=0,
        description=(
            "a file written to more recently is looked at twice, and taken when size and time are"
            " the same; 0: every file is taken at once"
        ),
    )
    row_count_files: str | None = Field(
        None,
        description="file beside each that holds its number of order lines: '{name}.count'",
    )
    checksum_files: str | None = Field(
        None, description="file beside each that holds its SHA-256: '{name}.sha256'"
    )

    @field_validator("row_count_files", "checksum_files")
    @classmethod
    def _named_after_the_file(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[^{}/]*\{(name|stem)\}[^{}/]*", value):
            raise ValueError(
                f"'{value}' names no file beside another; write {{name}} for a file's name or"
                " {stem} for its name without the ending, for instance '{name}.count'"
            )
        if value in ("{name}", "{stem}"):
            raise ValueError(f"'{value}' is the file itself; add an ending")
        return value


class HeaderFiles(_Section):
    """Files of order headers, where lines are delivered apart from what all lines of an order
    share. They have the format of the lines.
    """

    files: LocalPath = Field(description="a path or glob")
    key: dict[Named, Named] = Field(
        min_length=1, description="column of the lines: column of the headers that it equals"
    )


class JoinedColumns(_Section):
    """One canonical column made of several source columns, for instance a date and a time."""

    join: tuple[Named, ...] = Field(min_length=2)
    separator: str = " "


class ConstantColumn(_Section):
    """One text for every line, where a source has no column for it."""

    constant: Named


class OwnRule(_Section):
    """A rule of the company's own: SQL over the canonical columns that is true for a line that
    breaks it.
    """

    name: Identifier
    sql: Named
    action: Literal["reject", "warn"] = Field(
        "reject", description="warn: the line counts, and the rule is counted"
    )

    @model_validator(mode="after")
    def _usable(self) -> OwnRule:
        prefixes = ("unreadable", "superseded_by_delivery_", "duplicate_of_delivery_")
        if self.name in (*LINE_RULES, *SPELLINGS) or self.name.startswith(prefixes):
            raise ValueError(
                f"'{self.name}' is the name of a rule that every source has; take another"
            )
        if mistake := mistake_in_rule(self.sql, RULE_COLUMNS):
            raise ValueError(f"sql of '{self.name}': {mistake}")
        return self


class Plausibility(_Section):
    """From where a quantity or a price is no longer believed. Decision 30 has the reasons."""

    factor: float = Field(
        1000, gt=1, description="times the median of the largest lines of the part's past months"
    )
    quantity_floor: float = Field(
        10_000, gt=0, description="a quantity up to this is believed whatever the past"
    )
    price_floor: float = Field(
        10_000, gt=0, description="a price up to this is believed whatever the past"
    )
    without_past: float = Field(
        10_000_000, gt=0, description="bound for a part with fewer than min_months in its past"
    )
    months: int = Field(24, ge=1, le=60, description="months before the line's that are its past")
    min_months: int = Field(3, ge=1, description="months with lines that make a past")
    let_pass: tuple[str, ...] = Field(
        (), description="order numbers, or delivery:line, of lines that are right all the same"
    )


class Rules(_Section):
    """What the order lines of one source mean.

    Lines whose part number does not match ``product_pattern`` are no products; an order id that
    matches ``cancellation_pattern`` (its match is the marker that is removed to find the cancelled
    order) is a cancellation.
    """

    product_pattern: Pattern | None = None
    not_line_types: tuple[str, ...] = Field(
        (), description="columns whose refunds or cancellations say nothing of the line"
    )
    cancellation_pattern: Pattern | None = None
    price: Literal["positive", "any"] = "positive"
    own: tuple[OwnRule, ...] = ()
    implausible: Annotated[Plausibility | Literal["off"] | None, BeforeValidator(_switched_off)] = (
        Field(None, description="default: on for files, off for adopted tables")
    )

    @field_validator("own")
    @classmethod
    def _distinct_names(cls, value: tuple[OwnRule, ...]) -> tuple[OwnRule, ...]:
        names = [rule.name for rule in value]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the name {', '.join(repeated)} is used twice")
        return value


class LineTypes(_Section):
    """Which values of columns.line_type mean what; letters may be large or small, "" is a missing
    value.
    """

    sale: tuple[str, ...] = ()
    refund: tuple[str, ...] = Field((), description="never demand, whatever their sign")
    cancellation: tuple[str, ...] = Field(
        (), description="take back a sale of the same month, whatever their sign"
    )
    ignore: tuple[str, ...] = Field((), description="no order lines: fees, transfers")

    @model_validator(mode="after")
    def _one_meaning_each(self) -> LineTypes:
        values = [value.strip().lower() for kind in LINE_TYPES for value in getattr(self, kind)]
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"'{', '.join(repeated)}' is listed twice")
        return self


class Units(_Section):
    """Units of measure: how many pieces each holds."""

    factors: dict[Named, float] = Field(min_length=1)
    price_of: Literal["unit", "piece"] = Field(
        "unit", description="what unit_price is the price of: the line's unit, or one piece"
    )

    @field_validator("factors")
    @classmethod
    def _in_thousandths(cls, value: dict[str, float]) -> dict[str, float]:
        for unit, factor in value.items():
            if not 0 < factor <= 1_000_000 or round(factor, 3) != factor:
                raise ValueError(
                    f"{unit}: {factor} is no factor; it is above 0, 1,000,000 at most, with up to"
                    " three decimals"
                )
        return value


# Keys of a source that say where its files lie and how they are cut into fields.
FILE_KEYS = frozenset({"files", "format", "csv", "excel", "json", "header", "delivery"})


class Source(_Section):
    """Where order lines come from and how their columns are called there."""

    name: Identifier
    mode: Literal["append", "snapshot", "adopt"] = "append"
    files: LocalPath | None = None
    format: Literal["csv", "parquet", "jsonl", "json", "excel"] = "csv"
    csv: CsvDialect = CsvDialect()
    excel: ExcelSheet = ExcelSheet()
    json_path: JsonPlace = Field(JsonPlace(), alias="json")
    header: HeaderFiles | None = None
    delivery: Delivery = Delivery()
    table: str | None = None
    replaces: Literal["file", "month"] = "file"
    closed_through: Month | None = None
    columns: dict[
        str,
        Named | Annotated[tuple[Named, ...], Field(min_length=1)] | JoinedColumns | ConstantColumn,
    ]
    line_types: LineTypes | None = Field(
        None, description="meaning of the values of columns.line_type"
    )
    units: Units | None = Field(None, description="pieces in each value of columns.unit")
    time_zone: TimeZone | None = Field(
        None,
        description=(
            "zone that instants are converted to: dates with an offset, epoch numbers; default:"
            " dates as printed"
        ),
    )
    identifiers: Literal["tidy", "trim"] = Field(
        "tidy",
        description=(
            "tidy: one spelling for numbers of parts, orders and customers; trim: as delivered,"
            " without white space around"
        ),
    )
    exponents: Literal["float", "any"] = Field(
        "float", description="float: 1.5E3 and 1e+05 are numbers, 1E5 is not; any: that too"
    )
    date_formats: tuple[DatePattern, ...] = Field(ISO_DATES, min_length=1)
    decimal_separator: Literal[".", ","] = "."
    thousands_separator: str = Field("", max_length=1)
    missing: tuple[str, ...] = DEFAULT_MISSING
    upper_case_parts: bool = True
    identical_lines: Literal["keep", "drop"] = Field(
        "keep", description="whether a line repeated within one file counts again"
    )
    rules: Rules = Rules()

    @field_validator("columns")
    @classmethod
    def _canonical_columns(cls, value: dict[str, Any]) -> dict[str, Any]:
        mistakes = [
            f"unknown column '{name}'{_suggestion(name, CANONICAL_COLUMNS)}"
            for name in value
            if name not in CANONICAL_COLUMNS
        ]
        if absent := [name for name in REQUIRED_COLUMNS if name not in value]:
            mistakes.append(f"no source column named for {', '.join(absent)}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return value

    @model_validator(mode="before")
    @classmethod
    def _real_dates_are_read(cls, data: Any) -> Any:
        """Dates that a workbook keeps as dates become text as ISO writes it, whatever the formats
        of those that it keeps as text.
        """
        if not isinstance(data, Mapping) or data.get("format") != "excel":
            return data
        given = data.get("date_formats")
        if not isinstance(given, list | tuple) or not given:
            return data
        return {**data, "date_formats": [*given, *(f for f in ISO_DATES if f not in given)]}

    @model_validator(mode="after")
    def _sections_of_the_format(self) -> Source:
        of_format = {"excel": (self.excel, ("excel",)), "json": (self.json_path, ("json", "jsonl"))}
        for key, (section, formats) in of_format.items():
            if section.model_fields_set and self.format not in formats:
                raise ValueError(f"{key} is given, but format is {self.format}")
        own = {"header_line", "skip", "comment", "escape"} & self.csv.model_fields_set
        if own and self.format != "csv":
            raise ValueError(f"csv.{min(own)} is given, but format is {self.format}")
        return self

    @model_validator(mode="after")
    def _files_or_table(self) -> Source:
        if self.mode == "adopt":
            if self.files or not self.table:
                raise ValueError(
                    "mode adopt reads an existing table: give table (catalog.schema.table) and no"
                    " files"
                )
            if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*){2}", self.table):
                raise ValueError(f"table '{self.table}' is not of the form catalog.schema.table")
            if self.header is not None:
                raise ValueError("mode adopt reads one table, so it has no header files")
        elif not self.files or self.table:
            raise ValueError(
                f"mode {self.mode} reads files: give files (a path or glob) and no table"
            )
        if self.thousands_separator == self.decimal_separator:
            raise ValueError("thousands_separator and decimal_separator are the same sign")
        return self

    @model_validator(mode="after")
    def _meanings_complete(self) -> Source:
        if ("line_type" in self.columns) != (self.line_types is not None):
            raise ValueError(
                "columns.line_type and line_types need each other: the column, and which of its"
                " values are sale, refund, cancellation, ignore"
            )
        if ("unit" in self.columns) != (self.units is not None):
            raise ValueError(
                "columns.unit and units.factors need each other: the column, and how many pieces"
                " each of its values holds"
            )
        if "unit" in self.columns and "quantity_factor" in self.columns:
            raise ValueError("columns.unit and columns.quantity_factor: give one of them")
        if self.time_zone is None and (epochs := set(EPOCHS) & set(self.date_formats)):
            raise ValueError(
                f"date_formats {', '.join(sorted(epochs))}: such a number is an instant, whose"
                " month depends on a time zone; give time_zone, for instance Europe/Berlin or UTC"
            )
        if self.time_zone and (
            named := [
                pattern
                for pattern in self.date_formats
                if pattern not in (*EPOCHS, SERIAL) and re.search("[zO]", _unquoted(pattern))
            ]
        ):
            raise ValueError(
                f"date_formats {', '.join(named)}: names of zones (z, O) can't be converted to"
                " time_zone; offsets (X) can"
            )
        return self

    @property
    def plausibility(self) -> Plausibility | None:
        """Bounds of quantities and prices; None where they are off."""
        asked = self.rules.implausible
        if asked is None:
            return None if self.mode == "adopt" else Plausibility()
        return None if asked == "off" else asked

    def candidates(self, canonical: str) -> tuple[str, ...]:
        """Source columns that may hold a canonical column. The first alternative that a file has is
        read.
        """
        named = self.columns.get(canonical, ())
        if isinstance(named, ConstantColumn):
            return ()
        if isinstance(named, JoinedColumns):
            return named.join
        return (named,) if isinstance(named, str) else named


class PartsMaster(_Section):
    """Optional list of parts: announces parts before their first sale. One CSV or Parquet file, or
    a glob of them.
    """

    files: LocalPath
    format: Literal["csv", "parquet"] = "csv"
    part_number: str
    announced: str | None = None
    description: str | None = None
    supersedes: str | None = Field(
        None, description="column that names the number which the part had before"
    )
    date_formats: tuple[DatePattern, ...] = Field(
        ("yyyy-MM-dd", "dd/MM/yyyy", "yyyyMM"), min_length=1
    )


class RenamedPart(_Section):
    """A part that goes on under another number. All lines of the old number count for the new
    one: those before ``from`` as its history, later ones as orders that still use the old number.
    """

    to: Named = Field(description="number that the part has now")
    since: Month = Field(alias="from", description="yyyymm, first month of the new number")


DemandClass = Literal["smooth", "erratic", "intermittent", "lumpy", "new"]
GIVEN_COLUMNS = ("part_number", "origin", "target", "quantity", *(f"q{n}0" for n in range(1, 10)))


class GivenForecasts(_Section):
    """Forecasts that were made elsewhere, by the notebook before this lakehouse, the ERP or a
    planner. They are read, compared with the zoo's on the same cells, and may serve until a model
    is certain to be better.

    Long files have a line per part, origin and target month; wide ones a line per part and a column
    per target month, whose header is read as a month.
    """

    files: LocalPath = Field(description="a path or glob")
    format: Literal["csv", "parquet", "jsonl", "json", "excel"] = "csv"
    csv: CsvDialect = CsvDialect()
    excel: ExcelSheet = ExcelSheet()
    json_path: JsonPlace = Field(JsonPlace(), alias="json")
    description: Named = "Forecasts made elsewhere"
    columns: dict[str, Named] = Field(
        description=f"ours: theirs; {', '.join(GIVEN_COLUMNS)}; without target the file is wide"
    )
    origin_in_name: Pattern | None = Field(
        None, description="pattern of file names whose group is the origin, instead of a column"
    )
    origin_is: Literal["last_known", "first_forecast"] = Field(
        "last_known",
        description="whether the origin names the last month known then, or the first one forecast",
    )
    month_formats: tuple[DatePattern, ...] = Field(
        ("yyyy-MM", "yyyyMM", *ISO_DATES), min_length=1, description="of origin and target"
    )
    decimal_separator: Literal[".", ","] = "."
    thousands_separator: str = Field("", max_length=1)
    missing: tuple[str, ...] = DEFAULT_MISSING
    identifiers: Literal["tidy", "trim"] = "tidy"
    upper_case_parts: bool = True
    serves: tuple[DemandClass, ...] = Field(
        (), description="demand classes that it serves until a model is certain to be better"
    )

    @model_validator(mode="after")
    def _whole_mapping(self) -> GivenForecasts:
        mistakes = [
            f"columns: unknown column '{name}'{_suggestion(name, GIVEN_COLUMNS)}"
            for name in self.columns
            if name not in GIVEN_COLUMNS
        ]
        if "part_number" not in self.columns:
            mistakes.append("columns: no column named for part_number")
        if ("origin" in self.columns) == (self.origin_in_name is not None):
            mistakes.append("give columns.origin or origin_in_name, one of them")
        if self.origin_in_name and re.compile(self.origin_in_name).groups != 1:
            mistakes.append(r"origin_in_name needs one group, such as plan_(\d{4}-\d{2})")
        if ("target" in self.columns) != ("quantity" in self.columns):
            mistakes.append("columns.target and columns.quantity need each other")
        deciles = [name for name in GIVEN_COLUMNS[4:] if name in self.columns]
        if deciles and (self.is_wide or len(deciles) < 9):
            mistakes.append(
                "columns: name all of q10 ... q90 in a long file, or none of them; then past"
                " errors give the deciles"
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))
        self.source("given")
        return self

    @property
    def is_wide(self) -> bool:
        """Whether target months are columns."""
        return "target" not in self.columns

    @property
    def has_deciles(self) -> bool:
        return "q10" in self.columns

    def source(self, name: str) -> Source:
        """The files as a source, to be read like those of orders. Raises ValueError for a section
        that its format does not have.
        """
        own = {"csv": self.csv, "excel": self.excel, "json": self.json_path}
        return Source.model_validate(
            {
                "name": name,
                "files": self.files,
                "format": self.format,
                **{
                    key: section.model_dump(exclude_unset=True)
                    for key, section in own.items()
                    if section.model_fields_set
                },
                # What a source needs; whoever reads the other columns looks for them.
                "columns": dict.fromkeys(REQUIRED_COLUMNS, self.columns["part_number"]),
                "date_formats": list(self.month_formats),
                **{
                    key: getattr(self, key)
                    for key in (
                        *("decimal_separator", "thousands_separator", "missing"),
                        *("identifiers", "upper_case_parts"),
                    )
                },
            }
        )


def last_numbers(steps: Mapping[str, str]) -> dict[str, str]:
    """Number -> the number at the end of its chain of renames. Raises ValueError for a chain that
    goes round.
    """
    last = {}
    for part in steps:
        chain = [part]
        while chain[-1] in steps:
            if steps[chain[-1]] in chain:
                raise ValueError(
                    f"{' -> '.join([*chain, steps[chain[-1]]])} goes round; a part must have a"
                    " last number"
                )
            chain.append(steps[chain[-1]])
        last[part] = chain[-1]
    return last


class ForecastSettings(_Section):
    """How far is forecast, on what evidence, and which parts are forecast."""

    horizon: int = Field(6, ge=1, le=24, description="months forecast, H")
    origins: int = Field(6, ge=1, le=MAX_ORIGINS, description="evidence origins, K")
    k_min: int = Field(3, ge=1, description="fewer evidence origins than this promote nobody")
    min_history: int = Field(
        12, ge=1, description="months before an origin without which it is no evidence"
    )
    active_months: int = Field(
        24, ge=1, description="a part is active with a sale within so many months"
    )
    training_months: int = Field(144, ge=12, description="months of history a model sees")
    new_part_months: int = Field(6, ge=1)
    seed: int = 7

    @model_validator(mode="after")
    def _k_min_within_origins(self) -> ForecastSettings:
        if self.k_min > self.origins:
            raise ValueError(
                f"k_min ({self.k_min}) is larger than origins ({self.origins}): nobody could ever"
                " be promoted"
            )
        return self


class FeatureSettings(_Section):
    """Feature groups that the global models read; off means no model sees them. docs/features.md
    lists the columns.
    """

    lags: bool = True
    rolling: bool = True
    calendar: bool = True
    intermittency: bool = True
    price: bool = True
    activity: bool = True


class ZooSettings(_Section):
    """Which models run, with which parameters."""

    models: tuple[str, ...] | None = Field(
        None, description="names of the models to run; none named: all"
    )
    parameters: dict[str, dict[str, bool | int | float | str]] = {}
    buckets: int = Field(16, ge=1, description="groups of parts that one Python call forecasts")
    max_fit_rows: int = Field(
        240_000,
        ge=1_000,
        description="part-months a global model is fitted on; whole parts are sampled",
    )
    restate_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="changed share of demand from which stored evidence is fitted again",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_tuning(cls, content: Any) -> Any:
        """Configurations of former releases may have ``tuning``; it says nothing any more."""
        if not isinstance(content, dict) or "tuning" not in content:
            return content
        _log.warning(
            "zoo.tuning is not read any more, because the search gained nothing and depended on the"
            " machine: remove the key, and set better parameters by zoo.parameters"
        )
        return {name: value for name, value in content.items() if name != "tuning"}


class EmbeddedSettings(_Section):
    """The engine in the process, which needs no Java."""

    memory_gb: float | None = Field(
        None,
        gt=0,
        description="what queries use before they spill to disk; default: half of the machine's",
    )


class SparkSettings(_Section):
    """Apache Spark; ``conf`` also holds for a Spark Connect server."""

    master: str = Field(
        "local[*]", description="local[*], or a cluster: spark://host:7077, yarn, k8s://..."
    )
    conf: dict[str, str | int | float | bool] = {}


class ConnectSettings(_Section):
    """A Spark Connect server that sees the lakehouse and the order files under the same paths."""

    address: str = Field("", description="sc://host:port, without the token")
    token: str | None = Field(
        None, description="for instance ${CONNECT_TOKEN}; never shown", repr=False
    )

    @field_validator("address")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        if value and not value.startswith("sc://"):
            raise ValueError("not an address of Spark Connect; write sc://host:port")
        if "token=" in value:
            raise ValueError("the token belongs in connect.token, where it is never shown")
        return value


class MlflowSettings(_Section):
    """Where runs and versions are kept, and under which names."""

    tracking_uri: str | None = Field(
        None, description="default: a SQLite file under the lakehouse root"
    )
    registry_uri: str | None = Field(
        None, description="default: the tracking server; for databricks its Unity Catalog"
    )
    experiment: str = "demand_forecasting"
    timeout_seconds: float = Field(10, gt=0)

    @field_validator("tracking_uri", "registry_uri")
    @classmethod
    def _file_of_sqlite_is_local(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("sqlite:"):
            _local_path(value)
        return value

    @model_validator(mode="after")
    def _experiment_has_a_folder(self) -> MlflowSettings:
        if self.is_databricks and not self.experiment.startswith("/"):
            raise ValueError(
                f"experiment '{self.experiment}' is no absolute path; on Databricks an experiment"
                f" lies in a folder of the workspace: write for instance /Shared/{self.experiment}"
            )
        return self

    @property
    def is_own_file(self) -> bool:
        """Whether runs and versions are kept in the lakehouse's own SQLite file."""
        return self.tracking_uri is None and self.registry_uri is None

    @property
    def is_databricks(self) -> bool:
        return (self.tracking_uri or "").split(":", 1)[0] == "databricks"


class PromotionSettings(_Section):
    """How models are compared, and who lets one serve."""

    mode: Literal["act", "approve", "off"] = Field(
        "act", description="approve: a promotion waits for `medallion approve`"
    )
    min_parts: int = Field(
        30, ge=1, description="a class with fewer parts takes the decision of all classes together"
    )
    min_cells: int = Field(200, ge=1)
    min_interval_parts: int = Field(
        10,
        ge=2,
        description="with fewer parts that have demand months are compared instead of parts",
    )
    min_interval_blocks: int = Field(
        6,
        ge=2,
        description="blocks of months, as long as the horizon, that comparing months needs",
    )
    min_interval_origins: int = Field(
        3, ge=1, description="with fewer evidence origins nobody is promoted, whatever k_min"
    )
    over_rate: float = Field(
        0.02, ge=0, description="cost of one unit too many for a month, as a share of its price"
    )
    under_rate: float = Field(
        0.25, ge=0, description="cost of one unit too few, as a share of its price"
    )


class MonitoringSettings(_Section):
    """When a figure drifts, what is improbable, and when training is due."""

    max_training_lag_months: int = Field(
        3, ge=1, description="months the champion's training may lag the newest complete month"
    )
    drift_false_alarm_rate: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="share of months without a change in which some figure drifts",
    )
    drift_months: int = Field(
        2, ge=1, description="months with drift, of the last drift_window_months, that retrain"
    )
    drift_window_months: int = Field(3, ge=1, le=12)
    drift_cooldown_months: int = Field(
        1, ge=0, description="months after a training in which drift starts no other"
    )
    anomaly_rate: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="share of months without an anomaly in which one is claimed all the same",
    )
    max_rejected_share: float = Field(0.05, ge=0, le=1)
    max_guarded_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of a month's parts whose path the guard may replace; more fails a check",
    )
    sensor_interval_seconds: int = Field(60, ge=5)
    sensors_start_running: bool = False

    @model_validator(mode="after")
    def _drift_months_within_window(self) -> MonitoringSettings:
        if self.drift_months > self.drift_window_months:
            raise ValueError(
                f"drift_months ({self.drift_months}) is larger than drift_window_months"
                f" ({self.drift_window_months})"
            )
        return self


class RetrainingSettings(_Section):
    """What becomes of the monthly decision about the champion."""

    mode: Literal["act", "suggest", "off"] = Field(
        "act", description="suggest: a row and a warning, no run; off: no row either"
    )
    max_tries: int = Field(
        3, ge=1, description="runs that sensors start for one month's retraining while they fail"
    )


class RetentionSettings(_Section):
    """For how long old versions stay readable."""

    reproducible_months: int = Field(
        13, ge=1, description="months for which an old table version stays readable"
    )


class WriteSettings(_Section):
    """How much a write may take away without a plan."""

    max_removed_share: float = Field(
        0.2, gt=0, le=1, description="a write that removes a larger share of a slice stops"
    )


class SimulationSettings(_Section):
    """The simulated wholesaler; its files are written below ``folder`` by `medallion run` and
    `medallion simulate`.
    """

    folder: LocalPath
    parts: int = Field(200, ge=1)
    months: int = Field(60, ge=1)
    first_month: Month = 202101
    seed: int = 7
    shift_month: Month | None = None


class RunSettings(_Section):
    """What `medallion run` does beyond the newest month."""

    replay_months: int = Field(
        0,
        ge=0,
        description=(
            "train also so many months before the newest, to compare forecasts with what came"
        ),
    )


class Settings(_Section):
    """The whole configuration. Paths are absolute once loaded."""

    catalog: Identifier = "my_catalog"
    schemas: Schemas = Schemas()
    lakehouse_root: LocalPath
    first_month: Month
    last_month: Month | None = None
    closing_days: int = Field(
        10,
        ge=1,
        le=28,
        description="a month is complete with a line in its last so many days and later lines",
    )
    sources: tuple[Source, ...] = Field(min_length=1)
    parts_master: PartsMaster | None = None
    renamed_parts: dict[Named, RenamedPart] = Field(
        {}, description="old part number -> the number it goes on under, and since when"
    )
    given_forecasts: dict[Identifier, GivenForecasts] = Field(
        {}, description="name -> forecasts made elsewhere, to compare and to go on from"
    )
    forecast: ForecastSettings = ForecastSettings()
    features: FeatureSettings = FeatureSettings()
    zoo: ZooSettings = ZooSettings()
    engine: Literal["embedded", "spark", "connect", "databricks"] = Field(
        "embedded", description="what runs Spark's API; docs/engines.md"
    )
    embedded: EmbeddedSettings = EmbeddedSettings()
    spark: SparkSettings = SparkSettings()
    connect: ConnectSettings = ConnectSettings()
    mlflow: MlflowSettings = MlflowSettings()
    promotion: PromotionSettings = PromotionSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    retraining: RetrainingSettings = RetrainingSettings()
    retention: RetentionSettings = RetentionSettings()
    writes: WriteSettings = WriteSettings()
    simulation: SimulationSettings | None = None
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        # As people read them: Shop and shop would be one.
        names = [source.name.lower() for source in self.sources]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sources: the name {', '.join(repeated)} is used twice")
        own = f"{self.catalog}.{self.schemas.bronze}.sales_orders"
        if own in {s.table for s in self.sources} and any(s.mode != "adopt" for s in self.sources):
            raise ValueError(
                f"sources: {own} is adopted, so lines of files can't be stored there too; name"
                " another schemas.bronze"
            )
        # As catalogs and some disks read them: Gold and gold are one folder.
        if len({name.lower() for name in self.schemas.model_dump().values()}) < 3:
            raise ValueError("schemas: bronze, silver and gold need three different names")
        if self.engine == "connect" and not self.connect.address:
            raise ValueError(
                "engine: connect needs connect.address, for instance sc://spark.example.com:15002"
            )
        if self.engine == "databricks":
            self._fits_databricks()
        if self.spark.master.startswith("sc://"):
            raise ValueError(
                "spark.master: a Spark Connect server is named by engine: connect and"
                " connect.address"
            )
        serving = [name for given in self.given_forecasts.values() for name in given.serves]
        if twice := sorted({name for name in serving if serving.count(name) > 1}):
            raise ValueError(
                f"given_forecasts: two of them serve {', '.join(twice)}; one can until a model is"
                " better"
            )
        # As lines spell them: in capitals, unless no source reads them so.
        spelled = str.upper if any(s.upper_case_parts for s in self.sources) else str
        try:
            last_numbers(
                {
                    spelled(part.strip()): spelled(entry.to.strip())
                    for part, entry in self.renamed_parts.items()
                }
            )
        except ValueError as error:
            raise ValueError(f"renamed_parts: {error}") from error
        if self.last_month is not None and self.last_month < self.first_month:
            raise ValueError(
                f"last_month {self.last_month} lies before first_month {self.first_month}"
            )
        return self

    def _fits_databricks(self) -> None:
        """Raises ValueError where Spark there, or MLflow, would not see the same files."""
        paths = {"lakehouse_root": self.lakehouse_root} | {
            f"sources.{source.name}.files": source.files for source in self.sources if source.files
        }
        for key, path in paths.items():
            if not re.match(r"/Volumes/[^/]+/[^/]+/[^/]+", path):
                raise ValueError(
                    f"{key}: engine databricks reads and writes files in Volumes of Unity Catalog,"
                    f" and '{path}' is in none; write /Volumes/<catalog>/<schema>/<volume>/..."
                )
        if self.mlflow.tracking_uri is None:
            raise ValueError(
                "mlflow.tracking_uri: with engine databricks name a server, as databricks; without"
                " one MLflow would keep a SQLite file in the Volume, which can't hold it"
            )

    def content(self) -> dict[str, Any]:
        """The keys and values that ``parse_settings`` makes these settings of again, without those
        of one run or of a simulation.
        """
        whole = self.model_dump(
            mode="json", by_alias=True, exclude={"simulation", "run", "sources", "given_forecasts"}
        )
        # A key that contradicts the format of its source is refused, even with its default.
        sources = [
            source.model_dump(mode="json", by_alias=True, exclude_unset=True)
            for source in self.sources
        ]
        given = {
            name: section.model_dump(mode="json", by_alias=True, exclude_unset=True)
            for name, section in self.given_forecasts.items()
        }
        return whole | {"sources": sources, "given_forecasts": given}

    @property
    def tracking_uri(self) -> str:
        return self.mlflow.tracking_uri or f"sqlite:///{self.lakehouse_root}/mlflow.db"

    @property
    def registry_uri(self) -> str:
        if self.mlflow.registry_uri is None and self.mlflow.is_databricks:
            # A name of three parts belongs to Unity Catalog; the workspace's own registry takes
            # none.
            return self.tracking_uri.replace("databricks", "databricks-uc", 1)
        return self.mlflow.registry_uri or self.tracking_uri

    def table_name(self, layer: str, name: str) -> str:
        """Three-level name of a table."""
        return f"{self.catalog}.{getattr(self.schemas, layer)}.{name}"

    @property
    def registered_model(self) -> str:
        return f"{self.catalog}.{self.schemas.gold}.demand_forecaster"

    @property
    def reports_folder(self) -> str:
        return f"{self.lakehouse_root}/reports"

    @property
    def is_simulated(self) -> bool:
        return self.simulation is not None


def load_settings(path: str | Path, environment: Mapping[str, str]) -> Settings:
    """Read and validate a configuration file.

    ``${NAME}`` and ``${NAME:-default}`` are taken from ``environment``; MEDALLION_ENGINE there
    replaces ``engine``. Relative paths are relative to the file's folder.
    Raises ConfigurationError with every mistake and its key.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{file}: the configuration can't be read ({error.strerror}); set MEDALLION_CONFIG to a"
            " YAML file"
        ) from error
    try:
        content = yaml.safe_load(_with_environment(text, environment, file))
    except yaml.YAMLError as error:
        # The error's own text quotes the line, which may hold what the environment keeps secret.
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigurationError(
            f"{file}: not valid YAML{place}: {getattr(error, 'problem', None) or 'unreadable'}"
        ) from None
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{file}: expected keys such as sources and lakehouse_root, found"
            f" {type(content).__name__}"
        )
    if engine := environment.get("MEDALLION_ENGINE"):
        content = {**content, "engine": engine}
    return parse_settings(content, file)


def parse_settings(content: Mapping[str, Any], file: Path) -> Settings:
    """Validate a configuration given as a mapping; ``file`` names it in errors and anchors relative
    paths.
    """
    if questions := list(_open_questions(content)):
        listed = "\n".join(f"  {key}: {question}" for key, question in questions)
        raise ConfigurationError(
            f"{file}: {len(questions)} open question(s); write the answer in place of each"
            f"\n{listed}"
        )
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        lines = _mistakes(error)
        listed = "\n".join(f"  {line}" for line in lines)
        raise ConfigurationError(
            f"{file}: {len(lines)} mistake(s) in the configuration\n{listed}"
        ) from None
    return _with_absolute_paths(settings, file.resolve().parent)


def _open_questions(content: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Key and text of every value that is a question, in the order of the file."""
    if isinstance(content, str) and content.startswith(OPEN_QUESTION):
        yield key, content.removeprefix(OPEN_QUESTION).strip()
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _open_questions(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list | tuple):
        for position, value in enumerate(content):
            yield from _open_questions(value, f"{key}.{position}")


def _with_environment(text: str, environment: Mapping[str, str], file: Path) -> str:
    def value(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = environment.get(name) or default
        if found is None:
            raise ConfigurationError(
                f"{file}: {match.group(0)} has no value; set the environment variable {name}"
            )
        return found

    lines = [
        line if line.lstrip().startswith("#") else re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, line)
        for line in text.splitlines()
    ]
    return "\n".join(lines)


def _with_absolute_paths(settings: Settings, folder: Path) -> Settings:
    def absolute(path: str) -> str:
        return str((folder / Path(path).expanduser()).absolute().resolve(strict=False))

    root = absolute(settings.lakehouse_root)
    if found := re.findall(r"[\[\]%]", root):
        raise ConfigurationError(
            f"lakehouse_root: {root} has {' and '.join(dict.fromkeys(found))} in it, which the"
            " Delta library takes for something else than a folder; choose another folder"
        )

    def with_files(source: Source) -> Source:
        if source.files is None:
            return source
        header = source.header
        if header is not None:
            header = header.model_copy(update={"files": absolute(header.files)})
        return source.model_copy(update={"files": absolute(source.files), "header": header})

    sources = tuple(map(with_files, settings.sources))
    given = {
        name: section.model_copy(update={"files": absolute(section.files)})
        for name, section in settings.given_forecasts.items()
    }
    updates: dict[str, Any] = {"lakehouse_root": root, "sources": sources, "given_forecasts": given}
    if settings.parts_master:
        updates["parts_master"] = settings.parts_master.model_copy(
            update={"files": absolute(settings.parts_master.files)}
        )
    if settings.simulation:
        updates["simulation"] = settings.simulation.model_copy(
            update={"folder": absolute(settings.simulation.folder)}
        )
    return settings.model_copy(update=updates)


def _mistakes(error: ValidationError) -> list[str]:
    """One line per key. What pydantic says of a whole is left out where it says something of a part
    of it.
    """
    by_key: dict[tuple[Any, ...], list[Any]] = {}
    for entry in error.errors():
        by_key.setdefault(_location(entry["loc"]), []).append(entry)
    lines = []
    for location, entries in by_key.items():
        has_parts = any(
            other[: len(location)] == location and len(other) > len(location) for other in by_key
        )
        if has_parts:
            entries = [
                entry
                for entry in entries
                if not entry["type"].endswith("_type") and entry["type"] != "too_short"
            ]
        specific = [entry for entry in entries if not entry["type"].endswith("_type")] or entries
        if messages := dict.fromkeys(_message(location, entry) for entry in specific):
            lines.append(
                f"{'.'.join(map(str, location)) or 'configuration'}: {' or '.join(messages)}"
            )
    return sorted(lines)


def _location(loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """The keys of a place, without the names that pydantic gives to the alternatives of a value."""
    alternatives = {"bool", "int", "float", "str", "constrained-str"}
    sections = {"JoinedColumns", "ConstantColumn", "Plausibility"}
    return tuple(
        part
        for position, part in enumerate(loc)
        if "[" not in str(part)
        and part not in sections
        and not (position == len(loc) - 1 and part in alternatives)
    )


def _message(location: tuple[Any, ...], entry: Any) -> str:
    if entry["type"] == "extra_forbidden":
        return f"unknown key{_suggestion(str(location[-1]), _keys_at(location[:-1]))}"
    if entry["type"] == "missing":
        return "missing"
    return str(entry["msg"]).removeprefix("Value error, ")


def _keys_at(location: tuple[Any, ...]) -> tuple[str, ...]:
    """Keys allowed at a place of the configuration, for suggestions."""
    section: Any = Settings
    for part in location:
        if isinstance(part, int):
            continue
        fields = _fields(section)
        annotation = fields[part].annotation if part in fields else None
        nested = [
            a
            for a in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(a, type) and issubclass(a, BaseModel)
        ]
        section = nested[0] if nested else None
    return tuple(_fields(section))


def _fields(section: Any) -> dict[str, Any]:
    """Fields of a section by the key that the configuration has for them."""
    fields = getattr(section, "model_fields", {})
    return {field.alias or name: field for name, field in fields.items()}


def _suggestion(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return (
        f"; did you mean {close[0]}?"
        if close
        else (f"; known: {', '.join(known)}" if known else "")
    )
