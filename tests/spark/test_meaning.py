"""What the lines of a source mean: types of line, units, rules of the company's own, columns that
are not there, quantities that nobody believes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from medallion_assets.bronze import transforms as bronze
from medallion_assets.bronze.transforms import dated_lines
from medallion_assets.own_rules import COLUMNS, check_rules
from medallion_assets.silver import transforms
from medallion_assets.watch.quality import data_quality
from resources.errors import Refused
from resources.settings import LINE_RULES, RULE_COLUMNS, Plausibility, Settings, Source

pytestmark = pytest.mark.spark

BASE = {"Order": "1", "Part": "P1", "Date": "2022-01-05", "Qty": "3", "Price": "2.50"}
PLAIN: dict[str, Any] = {
    "order_id": "Order",
    "part_number": "Part",
    "order_date": "Date",
    "quantity": "Qty",
    "unit_price": "Price",
}
TYPED: dict[str, Any] = {
    "columns": PLAIN | {"line_type": "Type"},
    "line_types": {
        "sale": ["Order"],
        "refund": ["Refund"],
        "cancellation": ["Void"],
        "ignore": ["Fee", ""],
    },
}
Lines = Sequence[Mapping[str, str | None]]


def source(**keys: Any) -> Source:
    return Source.model_validate({"name": "shop", "files": "*.csv", "columns": PLAIN} | keys)


def canonical(spark: SparkSession, lines: Lines, of: Source) -> DataFrame:
    """Canonical lines of one delivery; what a line does not say is as in BASE."""
    names = list(dict.fromkeys(name for line in [BASE, *lines] for name in line))
    rows = [
        ("d1", number, None, None, *({**BASE, **line}.get(name) for name in names))
        for number, line in enumerate(lines, 2)
    ]
    schema = "_delivery_id STRING, _line_number BIGINT, _problem STRING, _raw STRING" + "".join(
        f", {name} STRING" for name in names
    )
    dated = dated_lines(spark.createDataFrame(rows, schema), of, 202101, 202412)
    made = transforms.canonical_lines(dated.withColumn("_source", F.lit(of.name)), of)
    # Held, as the asset holds them: what follows names each value many times.
    return spark.createDataFrame(made.collect(), made.schema)


def disposed(spark: SparkSession, lines: Lines, of: Source) -> DataFrame:
    return transforms.disposed_lines(canonical(spark, lines, of), {"d1": 1}, {}, [of])


def demand(spark: SparkSession, lines: Lines, of: Source) -> dict[tuple[str, int], Row]:
    """Rows of monthly demand by part and month."""
    sold = transforms.sales_orders(disposed(spark, lines, of))
    announced = spark.createDataFrame(
        [], "part_number STRING, announced_month INT, description STRING"
    )
    made = transforms.monthly_demand(
        sold, transforms.parts(sold, announced), [202201, 202202], [202201]
    )
    return {(row["part_number"], row["yyyymm"]): row for row in made.collect()}


def reasons(rows: DataFrame) -> dict[int, list[str]]:
    return {row["line_number"]: row["reasons"] for row in rows.collect()}


def test_a_refund_is_never_demand(spark: SparkSession) -> None:
    """A refund is returned and a void cancels its sale, in either sign of quantity and price; fees
    are ignored, and a type that nobody named is put aside.
    """
    lines = [
        {"Order": "1", "Qty": "5", "Type": "Order"},
        {"Order": "1", "Qty": "5", "Type": "Refund"},
        {"Order": "2", "Qty": "-2", "Type": " refund", "Price": "-2.50"},
        {"Order": "3", "Qty": "4", "Type": "order"},
        {"Order": "3", "Qty": "4", "Type": "Void", "Price": "-2.50"},
        {"Order": "4", "Qty": "1", "Type": "Order"},
        {"Order": "4", "Qty": "-1", "Type": "Void"},
        {"Order": None, "Part": None, "Qty": None, "Price": "-39.99", "Type": "Fee"},
        {"Order": None, "Part": None, "Qty": None, "Type": None},
        {"Order": "5", "Type": "Chargeback"},
    ]
    typed = source(**TYPED)
    row = demand(spark, lines, typed)["P1", 202201]
    assert [row[name] for name in ("demand_qty", "sold_qty", "cancelled_qty", "returned_qty")] == [
        5.0,
        10.0,
        5.0,
        7.0,
    ]
    aside = {n: why for n, why in reasons(disposed(spark, lines, typed)).items() if why}
    assert aside == {
        9: ["line_type_ignored"],
        10: ["line_type_ignored"],
        11: ["line_type_unknown"],
    }


def test_ignored_lines_are_no_share_of_the_rejected(
    spark: SparkSession, settings: Settings
) -> None:
    """Lines of an ignored type are counted and raise no share; spellings are counted by name."""
    lines = [
        {"Type": "Order", "Part": "10023.0"},
        {"Type": "Order", "Order": "2"},
        {"Type": "Fee"},
        {"Type": "Gift"},
    ]
    made = disposed(spark, lines, source(**TYPED))
    read = made.select("yyyymm", "delivery_id", "line_number")
    rows = data_quality(
        read,
        transforms.sales_orders(made),
        transforms.rejected_lines(made),
        [202201],
        settings,
    )
    figures = {row["rule"]: row["value"] for row in rows.collect()}
    assert (figures["lines_rejected"], figures["rejected:line_type_ignored"]) == (2.0, 1.0)
    assert figures["rejected_share"] == 1 / 3
    assert figures["warned:part_number_decimal_ending"] == 1.0


def test_units_become_pieces(spark: SparkSession) -> None:
    """A box of twelve is twelve pieces at a twelfth of its price; a unit that nobody named is put
    aside.
    """
    boxed = source(
        columns=PLAIN | {"unit": "Unit"}, units={"factors": {"PCS": 1, "BOX": 12, "kg": 0.5}}
    )
    lines = [
        {"Qty": "2", "Unit": "box", "Price": "30.00"},
        {"Qty": "5", "Unit": "PCS", "Order": "2"},
        {"Qty": "3", "Unit": "KG", "Order": "3", "Price": "1.00"},
        {"Unit": "PAL", "Order": "4"},
        {"Unit": None, "Order": "5"},
        {"Unit": "BOX", "Qty": "two", "Order": "6"},
    ]
    made = canonical(spark, lines, boxed).orderBy("line_number").collect()
    assert [float(row["quantity"]) for row in made[:3]] == [24.0, 5.0, 1.5]
    assert [float(row["unit_price"]) for row in made[:3]] == [2.5, 2.5, 2.0]
    assert [row["reasons"] for row in made[3:]] == [
        ["unit_unknown"],
        ["unit_unknown"],
        ["quantity_unreadable"],
    ]


def test_a_factor_of_the_line_makes_pieces(spark: SparkSession) -> None:
    """Pieces by a column of factors; one that is missing, zero or no number is put aside."""
    packed = source(columns=PLAIN | {"quantity_factor": "Per"})
    lines = [{"Qty": "2", "Per": "6", "Price": "3"}, {"Per": None}, {"Per": "0"}, {"Per": "six"}]
    made = canonical(spark, lines, packed).orderBy("line_number").collect()
    assert (float(made[0]["quantity"]), float(made[0]["unit_price"])) == (12.0, 0.5)
    assert [row["reasons"] for row in made[1:]] == [["quantity_factor_unreadable"]] * 3


def test_without_price_order_and_part(spark: SparkSession) -> None:
    """A list of dates and quantities alone: one fixed part, no revenue, a line is an order, and
    cancelled lines of nobody cancel nothing.
    """
    bare = source(
        columns={
            "part_number": {"constant": "total"},
            "order_date": "Date",
            "quantity": "Qty",
            "line_type": "Type",
        },
        line_types=TYPED["line_types"],
    )
    lines = [
        {"Type": "Order"},
        {"Type": "Order"},
        {"Type": "Void"},
        {"Type": "Order", "Qty": "(2)"},
    ]
    row = demand(spark, lines, bare)["TOTAL", 202201]
    assert [row[name] for name in ("demand_qty", "returned_qty", "order_count", "revenue")] == [
        6.0,
        5.0,
        2,
        0.0,
    ]
    assert row["unit_price"] is None
    assert {tuple(why) for why in reasons(disposed(spark, lines, bare)).values()} == {()}


def test_the_companys_own_rules(spark: SparkSession) -> None:
    """A rule that rejects is a reason beside ours, one that warns leaves the line as it is, and
    neither is broken where its condition is unknown.
    """
    own = [
        {"name": "no_samples", "sql": "part_number LIKE 'P9%'", "action": "reject"},
        {"name": "large", "sql": "quantity * unit_price > 100", "action": "warn"},
        {"name": "old", "sql": "year(order_date) < 2022 AND line_type = 'sale'", "action": "warn"},
    ]
    lines = [
        {"Order": "1"},
        {"Order": "2", "Part": "P90", "Qty": "0"},
        {"Order": "3", "Qty": "100", "Date": "2021-12-31"},
        {"Order": "4", "Price": "?"},
    ]
    made = canonical(spark, lines, source(rules={"own": own})).orderBy("line_number").collect()
    assert [row["reasons"] for row in made] == [
        [],
        ["quantity_zero", "no_samples"],
        [],
        ["unit_price_unreadable"],
    ]
    assert [row["warnings"] for row in made] == [None, None, ["large", "old"], None]


def test_a_rule_that_the_engine_refuses_stops_the_run(spark: SparkSession) -> None:
    """Every rule is tried before anything is stored; the message names source, rule and SQL."""
    own = [
        {"name": "half", "sql": "quantity >"},
        {"name": "number", "sql": "quantity + 1"},
        {"name": "unknown", "sql": "no_such_function(quantity) > 1"},
        {"name": "good", "sql": "quantity > 1"},
    ]
    with pytest.raises(Refused) as refused:
        check_rules(spark, [source(rules={"own": own})])
    told = str(refused.value)
    assert "3 rule(s)" in told
    assert all(f"shop: {name}: " in told for name in ("half", "number", "unknown"))
    assert tuple(COLUMNS) == RULE_COLUMNS


def held_back(
    spark: SparkSession,
    lines: Lines,
    bounds: Plausibility | None = None,
    real: Sequence[tuple[str, int]] = (),
) -> dict[int, list[str]]:
    """Reasons by line number of lines that are held against all lines before their month."""
    made, limits = canonical(spark, lines, source()), bounds or Plausibility()
    doubtful = transforms.doubtful_lines(made, limits)
    found = reasons(transforms.plausible_lines(made, doubtful, made, limits, real))
    return {number: why for number, why in found.items() if why}


def past(part: str, *quantities: int) -> list[dict[str, str | None]]:
    """A line a month from January 2021 on."""
    return [
        {"Part": part, "Qty": str(quantity), "Date": f"2021-{month:02}-10"}
        for month, quantity in enumerate(quantities, 1)
    ]


def test_a_barcode_is_no_quantity(spark: SparkSession) -> None:
    """A quantity far beyond its part's past is held back; bulk orders, parts that always sell so
    much, and a large first order are not.
    """
    lines = [
        *past("P1", 8, 12, 9, 11),
        {"Part": "P1", "Qty": "4006381333931"},
        {"Part": "P1", "Qty": "9000"},
        {"Part": "P1", "Qty": "40063"},
        *past("P2", 50_000, 80_000, 60_000),
        {"Part": "P2", "Qty": "900000"},
        {"Part": "P3", "Qty": "80995"},
        {"Part": "P4", "Qty": "40063813"},
        {"Part": "P1", "Price": "40063813"},
    ]
    numbers = {n: line for n, line in enumerate(lines, 2) if line.get("Qty") or line.get("Price")}
    found = held_back(spark, lines)
    assert {(numbers[n].get("Qty") or numbers[n]["Price"], why[0]) for n, why in found.items()} == {
        ("4006381333931", "quantity_implausible"),
        ("40063", "quantity_implausible"),
        ("40063813", "quantity_implausible"),
        ("40063813", "unit_price_implausible"),
    }


def test_one_wrong_line_of_the_past_hides_no_other(spark: SparkSession) -> None:
    """The median of the past months stands against one wrong month, and what comes later counts for
    nothing.
    """
    known = past("P1", 8, 4006381, 9, 11)
    wrong = {"Part": "P1", "Qty": "400638", "Date": "2021-05-10"}
    later = [
        {"Part": "P1", "Qty": "400000", "Date": f"2021-{month:02}-10"} for month in range(6, 13)
    ]
    assert held_back(spark, [*known, wrong])[6] == ["quantity_implausible"]
    assert held_back(spark, [*known, wrong, *later])[6] == ["quantity_implausible"]


def test_a_line_is_let_pass_by_name(spark: SparkSession) -> None:
    """Order numbers, or delivery and line, of lines that are right all the same let them pass; the
    bounds are the source's own.
    """
    lines = [
        {"Qty": "20000000", "Order": "A"},
        {"Qty": "20000000", "Order": "B"},
        {"Qty": "20000000", "Order": "C"},
    ]
    assert set(held_back(spark, lines)) == {2, 3, 4}
    assert set(held_back(spark, lines, Plausibility(let_pass=("A", "d1:4")))) == {3}
    assert held_back(spark, lines, Plausibility(without_past=3e7)) == {}


def test_what_is_labelled_real_is_a_quantity(spark: SparkSession) -> None:
    """The quantities of a part and month that a person labelled real pass; its prices, and other
    months and parts, do not by that.
    """
    lines = [
        {"Part": "P1", "Qty": "20000000", "Date": "2021-05-10"},
        {"Part": "P1", "Qty": "20000000", "Date": "2021-06-10"},
        {"Part": "P2", "Qty": "20000000", "Date": "2021-05-10"},
        {"Part": "P1", "Qty": "30000000", "Price": "40063813", "Date": "2021-05-11"},
    ]
    assert held_back(spark, lines, real=[("P1", 202105)]) == {
        3: ["quantity_implausible"],
        4: ["quantity_implausible"],
        5: ["unit_price_implausible"],
    }


def test_plausibility_is_off_where_configured() -> None:
    """It is on for files, off for adopted tables, and off where the source says so, as YAML reads
    that.
    """
    adopted = {"mode": "adopt", "files": None, "table": "a.b.c"}
    assert source().plausibility == Plausibility()
    assert source(**adopted).plausibility is None
    assert source(**adopted, rules={"implausible": {"factor": 10}}).plausibility == Plausibility(
        factor=10
    )
    assert {source(rules={"implausible": off}).plausibility for off in ("off", False)} == {None}


def test_abc_ranks_units_where_no_part_has_a_price(spark: SparkSession) -> None:
    """Without any revenue the part that makes 80 % of the units is A; with one price, revenue
    decides.
    """
    rows = [("P1", 202201, 0.0, 95.0), ("P2", 202201, 0.0, 5.0), ("P1", 202202, 0.0, 95.0)]
    rows.append(("P2", 202202, 10.0, 5.0))
    frame = spark.createDataFrame(
        rows, "part_number STRING, yyyymm INT, revenue_12 DOUBLE, quantity_12 DOUBLE"
    )
    found = {
        (row["part_number"], row["yyyymm"]): row["abc_class"]
        for row in transforms._with_abc(frame).collect()
    }
    assert found == {
        ("P1", 202201): "A",
        ("P2", 202201): "C",
        ("P1", 202202): "C",
        ("P2", 202202): "A",
    }


def test_own_rules_may_take_no_name_of_ours() -> None:
    """Every name of a rule in the transforms is among those that are refused for own rules."""
    code = inspect.getsource(transforms) + inspect.getsource(bronze)
    endings = "missing|exponent|no_product|unknown|unreadable|zero|quantity|not_positive|ignored"
    named = set(re.findall(rf'"((?:[a-z]+_)+(?:{endings}|before_first_month))"', code))
    assert {"quantity_zero", "unit_unknown"} <= named
    assert named - {"quantity", "largest_quantity", "without_quantity"} <= {*LINE_RULES}
