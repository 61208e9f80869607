"""Silver transforms: lines as delivered -> accepted and rejected lines -> parts, monthly demand,
features.

Pure frames in, frames out; each is named after the table it makes. Where frames come from belongs
to assets.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql.window import Window, WindowSpec

from medallion_assets import own_rules, values
from medallion_assets.bronze.transforms import text_of, timestamp_of
from medallion_assets.exact import FEW_ROWS, deviation, ratio, split, total_over
from medallion_assets.partitions import add_months, month_index
from medallion_assets.repeats import hashed, parted, repeated
from medallion_assets.tables import (
    ADI_LIMIT,
    CV2_LIMIT,
    DEMAND_FEATURES,
    LAGS,
    MONTHLY_DEMAND,
    PARTS,
    REJECTED_LINES,
    SILVER_SALES_ORDERS,
)
from resources.settings import IDENTIFIERS, LINE_TYPES, ForecastSettings, Plausibility, Source

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SEPARATOR = "\u001f"
RECENT_MONTHS = 24
_PART_MONTH = ("source", "part_number", "yyyymm")
_NUMBERS_AND_DATE = ("order_date", "quantity", "unit_price")
SAID_OF_A_LINE = ("line_type", "unit", "quantity_factor")
CANONICAL = (
    *("yyyymm", "source", "delivery_id", "line_number", "problem"),
    *("order_id", "part_number", "customer_id", "region", "description"),
    *("part_number_text", "order_date_text", "quantity_text", "unit_price_text"),
    *("order_date", "quantity", "unit_price", "line_type"),
    *("is_cancellation", "cancelled_order_id", "reasons", "warnings", "canonical_text"),
)


def canonical_lines(bronze: DataFrame, source: Source) -> DataFrame:
    """Lines of one source under canonical names: typed values, their text as delivered, reasons for
    rejection, canonical_text.

    bronze: rows of bronze.sales_orders of this source (or of an adopted table with the same leading
    columns). One row each: nothing is dropped here. ``reasons`` is empty for a line that may count.
    """
    names = [name for name in bronze.columns if not name.startswith("_") and name != "yyyymm"]
    lines = bronze.select(
        "yyyymm",
        F.col("_source").alias("source"),
        F.col("_delivery_id").alias("delivery_id"),
        F.col("_line_number").alias("line_number"),
        F.col("_problem").alias("problem"),
        values.trimmed(text_of(source, "region", names)).alias("region"),
        text_of(source, "description", names).alias("description"),
        *(
            text_of(source, column, names).alias(f"{column}_text")
            for column in (*IDENTIFIERS, *_NUMBERS_AND_DATE, *SAID_OF_A_LINE)
        ),
    )
    lines = _with_kind(identified(lines, source), source)
    lines = lines.withColumn("order_date", timestamp_of(source, F.col("order_date_text")))
    lines = lines.withColumns(_as_written(source)).withColumns(_amounts(source))
    cancels = (
        F.col("order_id").rlike(source.rules.cancellation_pattern)
        if source.rules.cancellation_pattern
        else F.lit(False)
    )
    is_cancellation = F.when(F.col("kind") == "refund", False).otherwise(
        F.coalesce(F.col("kind") == "cancellation", F.lit(False))
        | F.coalesce(cancels, F.lit(False))
    )
    line_type = (
        F.when(F.col("quantity") > 0, "sale")
        .when(F.col("is_cancellation"), "cancellation")
        .otherwise("return")
    )
    lines = (
        lines.withColumn("is_cancellation", is_cancellation)
        .withColumn("line_type", line_type)
        .withColumn("reasons", _reasons(source))
        .withColumn("warnings", _warnings(source))
    )
    if source.rules.cancellation_pattern:
        lines = lines.withColumn(
            "cancelled_order_id",
            F.regexp_replace("order_id", source.rules.cancellation_pattern, ""),
        )
    else:
        lines = lines.withColumn("cancelled_order_id", F.col("order_id"))
    return lines.withColumn("canonical_text", _canonical_text(source)).select(*CANONICAL)


def identified(
    lines: DataFrame, source: Source, identifiers: Sequence[str] = IDENTIFIERS
) -> DataFrame:
    """Adds the numbers of part, order and customer in one spelling, from their columns ``_text``,
    and ``spellings``: the names of what was changed for that, NULL for nothing.
    """
    texts = {name: F.col(f"{name}_text") for name in identifiers}
    spelled = F.lit(None)
    if source.identifiers == "tidy":
        ends = [
            sign
            for sign in dict.fromkeys((".", source.decimal_separator))
            if sign != source.thousands_separator
        ]
        lines = lines.withColumns(
            {
                f"{name}_packed": values.packed_identifier(name, text, ends, source.missing)
                for name, text in texts.items()
            }
        )
        packed = {name: F.col(f"{name}_packed") for name in texts}
        texts = {name: values.identifier(text, packed[name]) for name, text in texts.items()}
        spelled = values.spellings(list(packed.values()))
    else:
        texts = {name: values.trimmed(text) for name, text in texts.items()}
    if source.upper_case_parts:
        texts["part_number"] = F.upper(texts["part_number"])
    return lines.withColumns({**texts, "spellings": spelled.cast("array<string>")})


def _with_kind(lines: DataFrame, source: Source) -> DataFrame:
    """Adds ``kind``, what the source's type of the line means: sale, refund, cancellation, ignore
    or unknown; NULL for a source without types.
    """
    if source.line_types is None:
        return lines.withColumn("kind", F.lit(None).cast("string"))
    said = F.lower(F.coalesce(values.trimmed(F.col("line_type_text")), F.lit("")))
    kind = F.lit("unknown")
    for name in LINE_TYPES:
        meant = [text.strip().lower() for text in getattr(source.line_types, name)]
        if meant:
            kind = F.when(said.isin(meant), name).otherwise(kind)
    return lines.withColumn("kind", kind)


def _as_written(source: Source) -> dict[str, Column]:
    """Numbers of the line and the factor of its unit, as they are written."""
    written = {
        "quantity_read": values.amount(F.col("quantity_text"), source),
        "price_read": values.amount(F.col("unit_price_text"), source, is_money=True),
    }
    factor = F.lit(None).cast("double")
    if source.units:
        said = F.lower(F.coalesce(values.trimmed(F.col("unit_text")), F.lit("")))
        for unit, pieces in source.units.factors.items():
            factor = F.when(said == unit.strip().lower(), F.lit(float(pieces))).otherwise(factor)
    elif "quantity_factor" in source.columns:
        factor = values.amount(F.col("quantity_factor_text"), source).cast("double")
    return written | {"factor": F.when(factor > 0, factor)}


def _amounts(source: Source) -> dict[str, Column]:
    """Quantity in pieces and price of a piece, with the sign that the type of the line means."""
    quantity, price = F.col("quantity_read"), F.col("price_read")
    if _has_factor(source):
        quantity = values.scaled(quantity.cast("double") * F.col("factor"))
        if source.units is None or source.units.price_of == "unit":
            price = values.scaled(price.cast("double") / F.col("factor"))
    if source.line_types:
        is_taken_back = F.col("kind").isin("refund", "cancellation")
        quantity = F.when(is_taken_back, -F.abs(quantity)).otherwise(quantity)
        price = F.when(is_taken_back, F.abs(price)).otherwise(price)
    return {"quantity": quantity, "unit_price": price}


def _has_factor(source: Source) -> bool:
    return source.units is not None or "quantity_factor" in source.columns


def _reasons(source: Source) -> Column:
    price_rule = source.rules.price == "positive"
    is_tidy, has_types = source.identifiers == "tidy", source.line_types is not None
    no = F.lit(False)
    no_factor = F.col("factor").isNull()
    rules: list[tuple[str, Column]] = [
        ("order_id_missing", F.col("order_id").isNull() if "order_id" in source.columns else no),
        ("part_number_missing", F.col("part_number").isNull()),
        (
            "part_number_exponent",
            F.col("part_number").rlike(values.DAMAGED_NUMBER) if is_tidy else no,
        ),
        (
            "part_number_no_product",
            (
                ~F.col("part_number").rlike(source.rules.product_pattern)
                if source.rules.product_pattern
                else no
            ),
        ),
        ("line_type_unknown", F.col("kind") == "unknown" if has_types else no),
        ("unit_unknown", no_factor if source.units else no),
        (
            "quantity_factor_unreadable",
            no_factor if "quantity_factor" in source.columns else no,
        ),
        ("quantity_unreadable", _is_unreadable(source, "quantity_read", "quantity")),
        ("quantity_zero", F.col("quantity") == 0),
        ("cancellation_with_positive_quantity", F.col("is_cancellation") & (F.col("quantity") > 0)),
        (
            "unit_price_unreadable",
            (
                _is_unreadable(source, "price_read", "unit_price")
                if "unit_price" in source.columns
                else no
            ),
        ),
        ("unit_price_not_positive", (F.col("unit_price") <= 0) if price_rule else no),
        *own_rules.broken(source, "reject"),
    ]
    named = [F.when(F.coalesce(broken, F.lit(False)), F.lit(name)) for name, broken in rules]
    found = F.array_compact(F.array(F.col("problem"), *named))
    unreadable = F.col("problem").startswith("unreadable")
    ignored = F.array(F.lit("line_type_ignored"))
    return (
        F.when(unreadable, F.array("problem"))
        .when(F.col("kind") == "ignore", ignored)
        .otherwise(found)
    )


def _is_unreadable(source: Source, written: str, made: str) -> Column:
    """A number that can't be read; where there is a factor, also one that is too large with it."""
    if not _has_factor(source):
        return F.col(written).isNull()
    return F.col(written).isNull() | (F.col("factor").isNotNull() & F.col(made).isNull())


def _warnings(source: Source) -> Column:
    """Names of spellings that were changed and of own rules that only warn; NULL for none."""
    own = own_rules.broken(source, "warn")
    if not own:
        return F.col("spellings")
    named = F.array_compact(F.array(*[F.when(broken, F.lit(name)) for name, broken in own]))
    nothing = F.array_compact(F.array(F.lit(None).cast("string")))
    both = F.concat(F.coalesce("spellings", nothing), named)
    return F.when(F.size(both) > 0, both)


def _canonical_text(source: Source) -> Column:
    """What makes a line the same as another: its values as text. An unreadable line is like no
    other.
    """
    values = [
        F.coalesce(F.date_format("order_date", "yyyy-MM-dd HH:mm:ss"), F.col("order_date_text")),
        *(
            F.coalesce(F.col(name).cast("string"), F.col(f"{name}_text"))
            for name in ("quantity", "unit_price")
        ),
        *(F.col(name) for name in ("order_id", "part_number", "customer_id", "region")),
        *([F.col("kind")] if source.line_types else []),
    ]
    text = F.concat_ws(SEPARATOR, *[F.coalesce(value, F.lit("")) for value in values])
    place = F.concat_ws(SEPARATOR, "delivery_id", F.col("line_number").cast("string"))
    return F.when(F.col("problem").startswith("unreadable"), place).otherwise(text)


def doubtful_lines(lines: DataFrame, bounds: Plausibility) -> DataFrame:
    """Lines of one source, accepted so far, whose quantity or price lies above its floor: source,
    part_number, yyyymm. Only these are held against the past of their part.
    """
    is_large = (F.col("quantity") > bounds.quantity_floor) | (
        F.col("unit_price") > bounds.price_floor
    )
    return lines.where((F.size("reasons") == 0) & is_large).select(*_PART_MONTH).distinct()


def plausible_lines(
    lines: DataFrame,
    doubtful: DataFrame,
    past: DataFrame,
    bounds: Plausibility,
    real: Collection[tuple[str, int]] = (),
) -> DataFrame:
    """The lines of one source with the reasons quantity_implausible and unit_price_implausible
    where they lie beyond what the past of their part lets expect.

    past: canonical lines of the source, of ``bounds.months`` months before each line's month; lines
    of other months in it count for none. The past of a part is the largest quantity and price of
    each month with accepted lines; a bound is a multiple of the median of those, so that one wrong
    line among them moves it little. doubtful: as ``doubtful_lines`` gives it. real: part and month
    of demand that people labelled real: its quantities pass, its prices do not by that.
    """
    number = month_number(F.col("yyyymm"))
    asked = doubtful.withColumn("number", number)
    largest = (
        past.where((F.size("reasons") == 0) & (F.col("yyyymm") > 0))
        .groupBy(*_PART_MONTH)
        .agg(
            F.max("quantity").cast("double").alias("largest_quantity"),
            F.max("unit_price").cast("double").alias("largest_price"),
        )
        .select("source", "part_number", number.alias("past"), "largest_quantity", "largest_price")
    )
    is_past = (F.col("past") < F.col("number")) & (F.col("past") >= F.col("number") - bounds.months)
    known = asked.join(largest, ["source", "part_number"], "left").withColumns(
        {
            name: F.when(is_past & (F.col(name) > 0), F.col(name))
            for name in ("largest_quantity", "largest_price")
        }
    )
    limits = known.groupBy(*_PART_MONTH).agg(
        _bound("largest_quantity", bounds.quantity_floor, bounds).alias("quantity_bound"),
        _bound("largest_price", bounds.price_floor, bounds).alias("price_bound"),
    )
    place = F.concat_ws(":", "delivery_id", F.col("line_number").cast("string"))
    may_pass = (
        F.coalesce(F.col("order_id").isin(list(bounds.let_pass)), F.lit(False))
        | place.isin(list(bounds.let_pass))
        if bounds.let_pass
        else F.lit(False)
    )
    labelled = F.concat_ws("/", F.col("yyyymm").cast("string"), "part_number").isin(
        sorted(f"{month}/{part}" for part, month in real)
    )
    passes = {"quantity": may_pass | labelled if real else may_pass, "unit_price": may_pass}
    found = F.array_compact(
        F.array(
            *[
                F.when(
                    (F.col(name).cast("double") > F.col(bound)) & ~passes[name],
                    F.lit(f"{name}_implausible"),
                )
                for name, bound in (("quantity", "quantity_bound"), ("unit_price", "price_bound"))
            ]
        )
    )
    return (
        lines.join(F.broadcast(limits), list(_PART_MONTH), "left")
        .withColumn(
            "reasons",
            F.when((F.size("reasons") == 0) & F.col("quantity_bound").isNotNull(), found).otherwise(
                F.col("reasons")
            ),
        )
        .select(*lines.columns)
    )


def _bound(name: str, floor: float, bounds: Plausibility) -> Column:
    """The bound of a group's values: by the lower median of them, or fixed where they are few."""
    ordered = F.sort_array(F.collect_list(name))
    median = F.get(ordered, F.floor((F.count(name) - 1) / 2).cast("int"))
    return F.when(
        F.count(name) >= bounds.min_months, F.greatest(F.lit(floor), median * bounds.factor)
    ).otherwise(F.greatest(F.lit(floor), F.lit(bounds.without_past)))


def renamed(rows: DataFrame, numbers: Mapping[str, str]) -> DataFrame:
    """The rows with the last number of each part that has been renamed. numbers: as
    renames.numbers_of gives them.

    A line's canonical text takes the new number too: a file that is exported again after the
    rename brings the same lines, not new ones.
    """
    if not numbers:
        return rows
    names = rows.sparkSession.createDataFrame(
        list(numbers.items()), "part_number STRING, successor STRING"
    )
    known = rows.join(F.broadcast(names), "part_number", "left")
    is_renamed = F.col("successor").isNotNull()
    if "canonical_text" in rows.columns:
        old, new = (
            F.concat(F.lit(SEPARATOR), F.col(name), F.lit(SEPARATOR))
            for name in ("part_number", "successor")
        )
        text = F.col("canonical_text")
        known = known.withColumn(
            "canonical_text", F.when(is_renamed, F.replace(text, old, new)).otherwise(text)
        )
    return known.withColumn("part_number", F.coalesce("successor", "part_number")).select(
        *rows.columns
    )


def disposed_lines(
    lines: DataFrame,
    sequences: Mapping[str, int],
    superseded: Mapping[tuple[str, int], str],
    sources: Sequence[Source],
) -> DataFrame:
    """Adds line_id and ``disposition`` (accepted, rejected, duplicate, superseded), and completes
    ``reasons``.

    lines: canonical lines of all sources. sequences: delivery_id -> order of registration;
    superseded: (delivery_id, yyyymm) -> the delivery that replaces it. A line_id is a hash of
    source, canonical text and occurrence, the n-th such line of its delivery. A duplicate's line_id
    came with an earlier delivery that no snapshot superseded. Every line gets exactly one
    disposition.
    """
    spark = lines.sparkSession
    ranks = spark.createDataFrame(
        list(sequences.items()) or [("", 0)], "delivery_id STRING, rank BIGINT"
    )
    replacements = spark.createDataFrame(
        [(delivery_id, month, newer) for (delivery_id, month), newer in superseded.items()],
        "delivery_id STRING, yyyymm INT, replaced_by STRING",
    )
    known = lines.join(F.broadcast(ranks), "delivery_id", "left").join(
        F.broadcast(replacements), ["delivery_id", "yyyymm"], "left"
    )
    same = ["source", "canonical_text"]
    alike, alone = parted(known, same, repeated(lines, same))
    in_delivery = Window.partitionBy("delivery_id", "yyyymm", *same).orderBy("line_number")
    first = Window.partitionBy("yyyymm", "line_id", "counts").orderBy(
        "rank", "delivery_id", "line_number"
    )
    ordered = (
        _identified(alike.withColumn("occurrence", F.row_number().over(in_delivery)), sources)
        .withColumn("first_delivery", F.first("delivery_id").over(first))
        .withColumn("position", F.row_number().over(first))
    )
    only = (
        _identified(alone.withColumn("occurrence", F.lit(1)), sources)
        .withColumn("first_delivery", F.col("delivery_id"))
        .withColumn("position", F.lit(1))
    )
    disposition = (
        F.when(F.col("replaced_by").isNotNull(), "superseded")
        .when(F.size("reasons") > 0, "rejected")
        .when(F.col("repeats"), "duplicate")
        .when(F.col("position") > 1, "duplicate")
        .otherwise("accepted")
    )
    reasons = (
        F.when(
            F.col("disposition") == "superseded",
            F.array(F.concat(F.lit("superseded_by_delivery_"), "replaced_by")),
        )
        .when(
            (F.col("disposition") == "duplicate") & F.col("repeats"),
            F.array(F.lit("identical_line_in_delivery")),
        )
        .when(
            F.col("disposition") == "duplicate",
            F.array(F.concat(F.lit("duplicate_of_delivery_"), "first_delivery")),
        )
        .otherwise(F.col("reasons"))
    )
    return (
        ordered.unionByName(only)
        .withColumn("disposition", disposition)
        .withColumn("reasons", reasons)
        .drop(
            "rank",
            "replaced_by",
            "counts",
            "repeats",
            "first_delivery",
            "position",
            "canonical_text",
        )
    )


def _identified(lines: DataFrame, sources: Sequence[Source]) -> DataFrame:
    """Adds line_id, ``repeats``: the source drops it as identical to another of its delivery, and
    ``counts``: nothing else speaks against it.
    """
    dropping = [source.name for source in sources if source.identical_lines == "drop"]
    repeats = (
        F.col("source").isin(dropping) & (F.col("occurrence") > 1) if dropping else F.lit(False)
    )
    identity = F.sha2(
        F.concat_ws(SEPARATOR, "source", "canonical_text", F.col("occurrence").cast("string")), 256
    )
    return (
        lines.withColumn("line_id", F.substring(identity, 1, 32))
        .withColumn("repeats", repeats)
        .withColumn(
            "counts", F.col("replaced_by").isNull() & (F.size("reasons") == 0) & ~F.col("repeats")
        )
    )


def sales_orders(disposed: DataFrame) -> DataFrame:
    """Rows of silver.sales_orders from disposed lines: the accepted ones, cancellations matched
    with the sales they take back.

    A cancellation takes the latest earlier unmatched sale of the same customer, part and quantity
    in the same month; without a customer only where the order number, less its marker, agrees. That
    is bracket matching: a running count of sales less cancellations numbers the open sales, and a
    cancellation closes the highest open number.
    """
    taken_back = F.when(F.col("is_cancellation"), F.col("cancelled_order_id")).otherwise(
        F.col("order_id")
    )
    owner = (
        F.when(F.col("line_type") == "return", F.concat(F.lit("return:"), "line_id"))
        .when(F.col("customer_id").isNotNull(), F.concat(F.lit("customer:"), "customer_id"))
        .when(taken_back.isNotNull(), F.concat(F.lit("order:"), taken_back))
        .otherwise(F.concat(F.lit("line:"), "line_id"))
    )
    lines = (
        disposed.where("disposition = 'accepted' AND yyyymm > 0")
        .withColumn("owner", owner)
        .withColumn("size", F.abs("quantity"))
        .withColumn(
            "step",
            F.when(F.col("line_type") == "sale", 1)
            .when(F.col("line_type") == "cancellation", -1)
            .otherwise(0),
        )
    )
    same = ["yyyymm", "source", "owner", "part_number", "size"]
    concerned, others = parted(lines, same, hashed(lines.where("step = -1"), same).distinct())
    order = [F.col("order_date"), F.col("step").desc(), F.col("order_id"), F.col("line_id")]
    before = Window.partitionBy(*same).orderBy(*order)
    running = before.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    counted = concerned.withColumn("balance", F.sum("step").over(running)).withColumn(
        "lowest", F.least(F.lit(0), F.min("balance").over(running))
    )
    open_sales = F.col("balance") - F.col("lowest")
    is_unmatched = (F.col("step") == -1) & (
        F.col("lowest") < F.coalesce(F.lag("lowest").over(before), F.lit(0))
    )
    level = (
        F.when(F.col("step") == 1, open_sales)
        .when(~F.col("is_unmatched"), open_sales + 1)
        .otherwise(0)
    )
    pairs = Window.partitionBy(*same, "level").orderBy(*order)
    matched = F.when(
        (F.col("step") == 1) & (F.lead("step").over(pairs) == -1), F.lead("line_id").over(pairs)
    ).when((F.col("step") == -1) & ~F.col("is_unmatched"), F.lag("line_id").over(pairs))
    names = SILVER_SALES_ORDERS.column_names
    matches = (
        counted.withColumn("is_unmatched", is_unmatched)
        .withColumn("level", level)
        .withColumn("matched_line_id", matched)
    )
    return matches.select(*names).unionByName(
        others.withColumn("matched_line_id", F.lit(None).cast("string")).select(*names)
    )


def rejected_lines(disposed: DataFrame) -> DataFrame:
    """Rows of silver.rejected_lines from disposed lines: everything that was not accepted."""
    return (
        disposed.where("disposition <> 'accepted'")
        .drop("part_number", "order_date", "quantity", "unit_price")
        .withColumnsRenamed(
            {
                f"{name}_text": name
                for name in ("part_number", "order_date", "quantity", "unit_price")
            }
        )
        .select(*REJECTED_LINES.column_names)
    )


def parts(
    sales: DataFrame, announced: DataFrame, former_numbers: Mapping[str, str] | None = None
) -> DataFrame:
    """Rows of silver.parts from silver.sales_orders, announced parts (part_number,
    announced_month, description), and the numbers that renamed parts had before, by number.
    """
    sold = sales.where("line_type = 'sale'")
    facts = sold.groupBy("part_number").agg(
        F.min("yyyymm").alias("first_sale_month"),
        F.max_by(
            "description",
            F.when(F.col("description").isNotNull(), F.struct("order_date", "line_id")),
        ).alias("line_description"),
        F.max_by("unit_price", F.struct("order_date", "line_id"))
        .cast("double")
        .alias("last_unit_price"),
    )
    master = announced.groupBy("part_number").agg(
        F.min("announced_month").alias("announced_month"),
        F.min("description").alias("master_description"),
    )
    former = sales.sparkSession.createDataFrame(
        list((former_numbers or {}).items()), "part_number STRING, former_numbers STRING"
    )
    return (
        facts.join(master, "part_number", "full")
        .join(F.broadcast(former), "part_number", "left")
        .withColumn("yyyymm", F.least("first_sale_month", "announced_month"))
        .withColumn("description", F.coalesce("master_description", "line_description"))
        .select(*PARTS.column_names)
    )


def monthly_demand(
    sales: DataFrame, parts: DataFrame, months: Sequence[int], complete: Iterable[int]
) -> DataFrame:
    """Rows of silver.monthly_demand for the months, dense: one per part known by then.

    Sums are taken over decimals, so that neither the order of lines nor the number of partitions
    changes a digit.
    """
    is_demand = (F.col("line_type") == "sale") & F.col("matched_line_id").isNull()
    is_taken_back = (F.col("line_type") == "sale") & F.col("matched_line_id").isNotNull()
    is_return = (F.col("line_type") != "sale") & F.col("matched_line_id").isNull()
    total = F.sum(F.when(is_demand, F.col("quantity")))
    priced = F.sum(F.when(is_demand & F.col("unit_price").isNotNull(), F.col("quantity")))
    value = F.sum(
        F.when(is_demand, (F.col("quantity") * F.col("unit_price")).cast("decimal(38,6)"))
    )
    sold = sales.groupBy("part_number", "yyyymm").agg(
        total.cast("double").alias("demand_qty"),
        F.sum(F.when(F.col("line_type") == "sale", F.col("quantity")))
        .cast("double")
        .alias("sold_qty"),
        F.sum(F.when(is_taken_back, F.col("quantity"))).cast("double").alias("cancelled_qty"),
        F.sum(F.when(is_return, -F.col("quantity"))).cast("double").alias("returned_qty"),
        # Without order numbers each line is an order of its own.
        F.countDistinct(F.when(is_demand, F.coalesce("order_id", "line_id"))).alias("order_count"),
        F.countDistinct(F.when(is_demand, F.col("customer_id"))).alias("customer_count"),
        value.cast("double").alias("revenue"),
        (value.cast("double") / priced.cast("double")).alias("unit_price"),
    )
    by_region = (
        sales.where(is_demand)
        .groupBy("part_number", "yyyymm", "region")
        .agg(F.sum("quantity").alias("region_qty"))
    )
    regions = by_region.groupBy("part_number", "yyyymm").agg(
        F.max_by("region", F.struct("region_qty", "region")).alias("region")
    )
    calendar = parts.select(
        F.explode(F.array(*[F.lit(month) for month in months])).alias("yyyymm"),
        "part_number",
        F.col("yyyymm").alias("since"),
    )
    dense = calendar.where("yyyymm >= since").drop("since")
    filled = dense.join(sold, ["part_number", "yyyymm"], "left").join(
        regions, ["part_number", "yyyymm"], "left"
    )
    return (
        filled.fillna(0.0, ["demand_qty", "sold_qty", "cancelled_qty", "returned_qty", "revenue"])
        .fillna(0, ["order_count", "customer_count"])
        .withColumn(
            "is_complete", F.col("yyyymm").isin(sorted(complete)) if complete else F.lit(False)
        )
        .select(*MONTHLY_DEMAND.column_names)
    )


def demand_features(
    demand: DataFrame, parts: DataFrame, months: Sequence[int], settings: ForecastSettings
) -> DataFrame:
    """Rows of silver.demand_features for the complete origins among the months.

    demand: silver.monthly_demand of the months and the ``RECENT_MONTHS`` before them. Windows run
    over the month number, so a month that is not stored counts as missing and shifts no lag.
    Nothing after the origin is in a window.
    """
    known = demand.where("is_complete").withColumn("month_number", month_number(F.col("yyyymm")))
    totals = _windows_over_demand(known, settings)
    wanted = _means_and_scales(totals.where(F.col("yyyymm").isin(list(months))))
    classified = _with_ages(wanted, parts).withColumns(
        {"demand_class": _demand_class(settings), "is_active": _is_active(settings)}
    )
    return _with_abc(classified).select(*DEMAND_FEATURES.column_names)


def _windows_over_demand(known: DataFrame, settings: ForecastSettings) -> DataFrame:
    """Complete months of demand with their lags, and the sums, counts and last values over the
    months through each, of a part. ``known`` has month_number.
    """
    by_part = Window.partitionBy("part_number").orderBy("month_number")

    def last(n: int) -> WindowSpec:
        return by_part.rangeBetween(1 - n, 0)

    def back(n: int) -> Column:
        return F.first("demand_qty").over(by_part.rangeBetween(-n, -n))

    def total(name: str, n: int = RECENT_MONTHS) -> Column:
        return total_over(name, last(n), FEW_ROWS)

    recent = last(RECENT_MONTHS)
    quantity, has_demand = F.col("demand_qty"), F.col("demand_qty") > 0
    changed = known.withColumns(
        {"change": quantity - back(1), "yearly_change": quantity - back(12)}
    )
    summed = {
        "quantity": quantity,
        "square": quantity * quantity,
        "price": F.col("unit_price"),
        "sold": F.col("sold_qty"),
        "returned": F.col("returned_qty"),
        "revenue": F.col("revenue"),
        "squared_change": F.col("change") * F.col("change"),
        "yearly_error": F.abs("yearly_change"),
    }
    halves = [split(name, value, FEW_ROWS) for name, value in summed.items()]
    return changed.withColumns(
        {name: column for pair in halves for name, column in pair.items()}
    ).withColumns(
        {
            **{f"demand_lag_{lag}": back(lag) for lag in LAGS},
            **{f"months_{n}": F.count("*").over(last(n)) for n in (3, 6, 12, 24)},
            **{f"quantity_{n}": total("quantity", n) for n in (3, 6, 12, 24)},
            **{f"square_{n}": total("square", n) for n in (6, 12, 24)},
            "demand_max_12": F.max("demand_qty").over(last(12)),
            "demand_count_12": F.count(F.when(has_demand, 1)).over(last(12)),
            "demand_count": F.count(F.when(has_demand, 1)).over(recent),
            "latest_number": (
                F.last(F.when(has_demand, F.col("month_number")), ignorenulls=True).over(
                    last(memory(settings))
                )
            ),
            "order_count_12": F.sum("order_count").over(last(12)),
            "customer_count_12": F.avg("customer_count").over(last(12)),
            "sold_12": total("sold", 12),
            "returned_12": total("returned", 12),
            "last_price": F.last("unit_price", ignorenulls=True).over(recent),
            "price_12": total("price", 12),
            "price_count_12": F.count("unit_price").over(last(12)),
            "revenue_12": total("revenue", 12),
            "last_region": F.last("region", ignorenulls=True).over(recent),
            "squared_changes": total("squared_change"),
            "change_count": F.count("change").over(recent),
            "yearly_errors": total("yearly_error"),
            "yearly_count": F.count("yearly_change").over(recent),
        }
    )


def _means_and_scales(totals: DataFrame) -> DataFrame:
    """Means, deviations, shares and scales from the sums and counts of ``_windows_over_demand``."""
    # Months without demand add nothing to sums and squares: over the months with demand they are
    # the same.
    nonzero_mean, nonzero_std = (
        ratio("quantity_24", "demand_count"),
        deviation("square_24", "quantity_24", "demand_count"),
    )
    return totals.withColumns(
        {
            **{f"demand_mean_{n}": ratio(f"quantity_{n}", f"months_{n}") for n in (3, 6, 12, 24)},
            **{
                f"demand_std_{n}": deviation(f"square_{n}", f"quantity_{n}", f"months_{n}")
                for n in (6, 12, 24)
            },
            "nonzero_share_12": ratio("demand_count_12", "months_12"),
            "months_seen": F.col("months_24"),
            "nonzero_mean_24": nonzero_mean,
            "cv2": (nonzero_std / nonzero_mean) * (nonzero_std / nonzero_mean),
            "mean_price_12": ratio("price_12", "price_count_12"),
            "naive_rmse_scale": F.sqrt(ratio("squared_changes", "change_count")),
            "seasonal_mae_scale": ratio("yearly_errors", "yearly_count"),
        }
    )


def _with_ages(windowed: DataFrame, parts: DataFrame) -> DataFrame:
    """What depends on how old a part and its last sale are, and its last price and region.

    parts: silver.parts. A part that was announced and never sold has an age and no first sale.
    """
    joined = windowed.drop("region", "unit_price").join(
        parts.select(
            "part_number", F.col("yyyymm").alias("since"), "first_sale_month", "announced_month"
        ),
        "part_number",
    )
    number = F.col("month_number")
    first_sale = F.when(
        F.col("first_sale_month") <= F.col("yyyymm"), month_number(F.col("first_sale_month"))
    )
    return joined.withColumns(
        {
            "history_months": (number - month_number(F.col("since")) + 1).cast("int"),
            "months_since_first_sale": (number - first_sale).cast("int"),
            "months_since_last_sale": (number - F.col("latest_number")).cast("int"),
            "adi": ratio("months_seen", "demand_count"),
            "returned_share_12": F.when(F.col("sold_12") > 0, ratio("returned_12", "sold_12")),
            "unit_price": F.col("last_price"),
            "price_ratio_12": F.when(
                F.col("mean_price_12") > 0, ratio("last_price", "mean_price_12")
            ),
            "region": F.col("last_region"),
            "month_of_year": F.col("yyyymm") % 100,
        }
    )


def month_number(yyyymm: Column) -> Column:
    """Months since the year 0."""
    return F.floor(yyyymm / 100).cast("int") * 12 + yyyymm % 100 - 1


def _demand_class(settings: ForecastSettings) -> Column:
    since_sale = F.col("months_since_first_sale")
    is_new = F.when(
        since_sale.isNull(), F.col("history_months") <= settings.new_part_months
    ).otherwise(since_sale < settings.new_part_months)
    is_frequent = F.coalesce(F.col("adi") < ADI_LIMIT, F.lit(False))
    is_steady = F.coalesce(F.col("cv2") < CV2_LIMIT, F.lit(True))
    return (
        F.when(is_new, "new")
        .when(is_frequent & is_steady, "smooth")
        .when(is_frequent, "erratic")
        .when(is_steady, "intermittent")
        .otherwise("lumpy")
    )


def _is_active(settings: ForecastSettings) -> Column:
    """A sale within active_months through the origin, or announced."""
    sold = F.coalesce(F.col("months_since_last_sale") < settings.active_months, F.lit(False))
    announced = F.col("announced_month").isNotNull() & (F.col("announced_month") <= F.col("yyyymm"))
    return sold | announced


def _with_abc(features: DataFrame) -> DataFrame:
    """ABC class by cumulated share of the last 12 months' revenue within each origin: A to 80 %, B
    to 95 %, C the rest. An origin at which no part has revenue, since no source has prices, takes
    units instead.
    """
    of_origin = Window.partitionBy("yyyymm")
    has_revenue = F.max("revenue_12").over(of_origin) > 0
    valued = features.withColumn(
        "value_12", F.when(has_revenue, F.col("revenue_12")).otherwise(F.col("quantity_12"))
    )
    value = F.col("value_12")
    before = of_origin.orderBy(value.desc(), "part_number").rowsBetween(
        Window.unboundedPreceding, -1
    )
    share_before = ratio(
        F.coalesce(total_over("value_12", before), F.lit(0.0)), total_over("value_12", of_origin)
    )
    label = (
        F.when(value <= 0, "C")
        .when(share_before < 0.8, "A")
        .when(share_before < 0.95, "B")
        .otherwise("C")
    )
    return valued.withColumns(split("value_12", value)).withColumn("abc_class", label)


def memory(settings: ForecastSettings) -> int:
    """Months back in which a last sale is looked for."""
    return max(RECENT_MONTHS, settings.active_months)


def feature_months(month: int, first_month: int, settings: ForecastSettings) -> list[int]:
    """Months of demand that the features of an origin read."""
    first = max(month_index(first_month), month_index(month) - memory(settings) + 1 - 12)
    return [add_months(month, -back) for back in range(month_index(month) - first, -1, -1)]
