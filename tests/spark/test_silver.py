"""Silver transforms on a few rows each: what is accepted and why not, what cancels what, demand,
and features worked out by hand.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from medallion_assets.bronze.transforms import dated_lines
from medallion_assets.partitions import add_months, month_range
from medallion_assets.silver import assets, transforms
from medallion_assets.slices import Input, TableRecipe
from medallion_assets.tables import DELIVERIES, MONTHLY_DEMAND, PARTS, SILVER_SALES_ORDERS
from medallion_assets.work import Work
from resources.engines import Engine
from resources.lakehouse import DeltaLakehouse, Slice, TableSpec
from resources.settings import ForecastSettings, PartsMaster, Settings, Source
from tests.conftest import SOURCE

pytestmark = pytest.mark.spark

COLUMNS = ("Order", "Part", "Customer", "Region", "Date", "Qty", "Price")
SHOP = Source.model_validate(SOURCE)
SUMS = dict.fromkeys(("sold_qty", "cancelled_qty", "returned_qty", "revenue"), 1.0) | dict.fromkeys(
    ("order_count", "customer_count"), 1
)
Line = tuple[str | None, ...]


def line(order: str | None, day: str = "2022-01-05", **other: str | None) -> Line:
    """A line as delivered: three of P1 at 2.50 for customer K1, unless said otherwise."""
    values: dict[str, str | None] = {
        "Part": "P1",
        "Customer": "K1",
        "Region": "North",
        "Qty": "3",
        "Price": "2.50",
    }
    values |= {"Order": order, "Date": day} | other
    return tuple(values[name] for name in COLUMNS)


def disposed(
    spark: SparkSession,
    deliveries: Mapping[str, Sequence[Line]],
    source: Source = SHOP,
    superseded: Mapping[tuple[str, int], str] | None = None,
    numbers: Mapping[str, str] | None = None,
) -> DataFrame:
    """Lines of deliveries, registered in the order given, with what becomes of each."""
    rows = [
        (d, number, None, None, *values)
        for d, lines in deliveries.items()
        for number, values in enumerate(lines, 2)
    ]
    schema = "_delivery_id STRING, _line_number BIGINT, _problem STRING, _raw STRING" + "".join(
        f", {name} STRING" for name in COLUMNS
    )
    bronze = dated_lines(spark.createDataFrame(rows, schema), source, 202201, 202212).withColumn(
        "_source", F.lit(source.name)
    )
    sequences = {delivery: number for number, delivery in enumerate(deliveries, 1)}
    lines = transforms.renamed(transforms.canonical_lines(bronze, source), numbers or {})
    # Held, as the asset holds them: what follows names each value many times.
    held = spark.createDataFrame(lines.collect(), lines.schema)
    return transforms.disposed_lines(held, sequences, superseded or {}, [source])


def sales(spark: SparkSession, *lines: Line) -> DataFrame:
    return transforms.sales_orders(disposed(spark, {"d1": lines}))


def matches(spark: SparkSession, *lines: Line) -> dict[str, str]:
    """Which order's line each cancellation takes back; the sale must name the cancellation in
    turn.
    """
    rows = sales(spark, *lines).collect()
    by_id = {row["line_id"]: row for row in rows}
    matched = {
        row["order_id"]: by_id[row["matched_line_id"]] for row in rows if row["matched_line_id"]
    }
    assert all(matched[other["order_id"]]["order_id"] == order for order, other in matched.items())
    return {
        order: other["order_id"] for order, other in matched.items() if other["line_type"] == "sale"
    }


def table(spark: SparkSession, spec: TableSpec, rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    schema = ", ".join(f"`{column.name}` {column.type}" for column in spec.columns)
    return spark.createDataFrame(
        [tuple(row.get(name) for name in spec.column_names) for row in rows], schema
    )


def features(
    spark: SparkSession,
    series: Mapping[str, Sequence[float]],
    origins: Sequence[int],
    first: int = 202101,
    **options: Any,
) -> dict[tuple[str, int], Row]:
    """Features by part and origin of series that start in ``first``, at a price of 2 a unit; a part
    is known since its first sale.
    """
    demand, parts = [], []
    for part, units in series.items():
        months = month_range(first, add_months(first, len(units) - 1))
        since = next(month for month, quantity in zip(months, units, strict=True) if quantity)
        parts.append({"yyyymm": since, "part_number": part, "first_sale_month": since})
        demand += [
            {
                "yyyymm": month,
                "part_number": part,
                "demand_qty": float(quantity),
                "sold_qty": float(quantity),
                "cancelled_qty": 0.0,
                "returned_qty": 0.0,
                "order_count": int(quantity > 0),
                "customer_count": int(quantity > 0),
                "revenue": 2.0 * quantity,
                "unit_price": 2.0 if quantity else None,
                "region": "North" if quantity else None,
                "is_complete": True,
            }
            for month, quantity in zip(months, units, strict=True)
            if month >= since
        ]
    settings = ForecastSettings(**options)
    made = transforms.demand_features(
        table(spark, MONTHLY_DEMAND, demand), table(spark, PARTS, parts), origins, settings
    )
    return {(row["part_number"], row["yyyymm"]): row for row in made.collect()}


def test_every_rule_names_its_reason(spark: SparkSession) -> None:
    """A line is rejected with the name of each rule it breaks, and a good one with none."""
    lines = {
        "good": (line("1"), []),
        "no order": (line("nan"), ["order_id_missing"]),
        "no part": (line("2", Part=" "), ["part_number_missing"]),
        "no product": (line("3", Part="X9"), ["part_number_no_product"]),
        "text": (line("4", Qty="3 pcs"), ["quantity_unreadable"]),
        "zero": (line("5", Qty="0"), ["quantity_zero"]),
        "positive": (line("C6"), ["cancellation_with_positive_quantity"]),
        "price": (line("7", Price="free"), ["unit_price_unreadable"]),
        "gift": (line("8", Price="0.00"), ["unit_price_not_positive"]),
        "date": (line("9", "soon"), ["order_date_unreadable"]),
        "two": (line("10", Qty="", Price="-1"), ["quantity_unreadable", "unit_price_not_positive"]),
    }
    made = (
        disposed(spark, {"d1": [values for values, _ in lines.values()]})
        .orderBy("line_number")
        .collect()
    )
    assert {name: row["reasons"] for name, row in zip(lines, made, strict=True)} == {
        name: why for name, (_, why) in lines.items()
    }
    assert [row["disposition"] for row in made] == ["accepted"] + ["rejected"] * (len(lines) - 1)


def test_rejected_lines_keep_their_text(spark: SparkSession) -> None:
    """Text in a numeric column is kept as delivered, beside the reason."""
    row = transforms.rejected_lines(
        disposed(spark, {"d1": [line("1", Part="p1", Qty="three", Price="2,50")]})
    ).collect()[0]
    assert (row["part_number"], row["quantity"], row["unit_price"]) == ("p1", "three", "2,50")
    assert row["reasons"] == ["quantity_unreadable", "unit_price_unreadable"]


def test_decimal_comma_and_thousands_separator(spark: SparkSession) -> None:
    """Numbers are read by the source's separators, and one that fits neither is unreadable rather
    than another number.
    """
    source = SHOP.model_copy(update={"decimal_separator": ",", "thousands_separator": "."})
    texts = {
        "1,5": 1.5,
        "1.234": 1234.0,
        "1.234.567,25": 1234567.25,
        "-7": -7.0,
        "1.5": None,
        "1,234,5": None,
    }
    made = (
        disposed(spark, {"d1": [line(str(i), Qty=text) for i, text in enumerate(texts)]}, source)
        .orderBy("line_number")
        .collect()
    )
    assert {
        text: None if (q := row["quantity"]) is None else float(q)
        for text, row in zip(texts, made, strict=True)
    } == texts


def test_a_line_delivered_twice_is_a_duplicate(spark: SparkSession) -> None:
    """Identical lines within a file all count; of those another file repeats only what exceeds the
    first counts.
    """
    twice, thrice = [line("1")] * 2, [line("1")] * 3
    made = (
        disposed(spark, {"d1": twice, "d2": thrice}).orderBy("delivery_id", "line_number").collect()
    )
    assert [row["disposition"] for row in made] == [
        "accepted",
        "accepted",
        "duplicate",
        "duplicate",
        "accepted",
    ]
    assert made[2]["reasons"] == ["duplicate_of_delivery_d1"]


def test_identical_lines_of_a_file_are_dropped_where_configured(spark: SparkSession) -> None:
    """With identical_lines: drop, a repeated line of one file counts once."""
    source = SHOP.model_copy(update={"identical_lines": "drop"})
    made = (
        disposed(spark, {"d1": [line("1"), line("1"), line("2")]}, source)
        .orderBy("line_number")
        .collect()
    )
    assert [(row["disposition"], row["reasons"]) for row in made] == [
        ("accepted", []),
        ("duplicate", ["identical_line_in_delivery"]),
        ("accepted", []),
    ]


def test_superseded_lines_make_way(spark: SparkSession) -> None:
    """Lines that a snapshot replaced name it and make no duplicate of its lines; other months of
    theirs still count.
    """
    deliveries = {"d1": [line("1"), line("2", "2022-02-05")], "d2": [line("1")]}
    made = (
        disposed(spark, deliveries, superseded={("d1", 202201): "d2"})
        .orderBy("delivery_id", "line_number")
        .collect()
    )
    assert [row["disposition"] for row in made] == ["superseded", "accepted", "accepted"]
    assert made[0]["reasons"] == ["superseded_by_delivery_d2"]


def test_lines_of_a_former_number_count_for_the_present_one(spark: SparkSession) -> None:
    """The delivered spelling stays, lines of other parts keep their identity, and a cancellation
    under the new number takes back a sale under the old one.
    """
    lines = [
        line("1", Part=" p1 "),
        line("2", "2022-01-06", Part="P2"),
        line("C1", "2022-01-07", Part="P2", Qty="-3"),
        line("3", "2022-01-08", Part="P3"),
    ]
    plain = transforms.sales_orders(disposed(spark, {"d": lines})).collect()
    made = transforms.sales_orders(disposed(spark, {"d": lines}, numbers={"P1": "P2"})).collect()
    told = {row["order_id"]: (row["part_number"], row["part_number_text"].strip()) for row in made}
    assert told == {
        "1": ("P2", "p1"),
        "2": ("P2", "P2"),
        "C1": ("P2", "P2"),
        "3": ("P3", "P3"),
    }
    ids = {
        name: {row["order_id"]: row["line_id"] for row in rows}
        for name, rows in (("plain", plain), ("made", made))
    }
    assert {order for order in told if ids["plain"][order] != ids["made"][order]} == {"1"}
    before = [line("1", Part="P1"), line("C1", "2022-01-07", Part="P2", Qty="-3")]
    taken = transforms.sales_orders(disposed(spark, {"d": before}, numbers={"P1": "P2"}))
    assert taken.where("matched_line_id IS NOT NULL").count() == 2


def test_a_file_exported_again_under_the_new_number_brings_no_line_twice(
    spark: SparkSession,
) -> None:
    """Without the rename the line of the second file is another part's, and demand doubles."""
    deliveries = {"d1": [line("1", Part="P1")], "d2": [line("1", Part="P2")]}

    def dispositions(numbers: Mapping[str, str]) -> list[str]:
        made = disposed(spark, deliveries, numbers=numbers).orderBy("delivery_id")
        return [row["disposition"] for row in made.collect()]

    assert dispositions({"P1": "P2"}) == ["accepted", "duplicate"]
    assert dispositions({}) == ["accepted", "accepted"]


def test_a_renamed_part_is_as_old_as_its_first_number(spark: SparkSession) -> None:
    """First sale and announcement are those of all its numbers, the description that of the last;
    the former numbers are named.
    """
    numbers = {"P1": "P2"}
    lines = [line("1", Part="P1"), line("2", "2022-03-05", Part="P2"), line("3", Part="P3")]
    sold = transforms.sales_orders(disposed(spark, {"d": lines}, numbers=numbers))
    announced = spark.createDataFrame(
        [("P2", 202201, None), ("P2", 202203, "new name")],
        "part_number STRING, announced_month INT, description STRING",
    )
    made = {
        row["part_number"]: row for row in transforms.parts(sold, announced, {"P2": "P1"}).collect()
    }
    assert set(made) == {"P2", "P3"}
    p2 = made["P2"]
    assert (p2["first_sale_month"], p2["announced_month"], p2["description"]) == (
        202201,
        202201,
        "new name",
    )
    assert (p2["former_numbers"], made["P3"]["former_numbers"]) == ("P1", None)


def test_the_accounting_adds_up_for_every_delivery(spark: SparkSession) -> None:
    """Every line of a delivery is either in silver.sales_orders or once in
    silver.rejected_lines.
    """
    deliveries = {
        "d1": [line("1"), line("2", Qty="0"), line("3", "soon")],
        "d2": [line("1"), line("1"), line("4", "2022-02-01"), line("5", "2099-01-01")],
        "d3": [line("4", "2022-02-01")],
    }
    made = disposed(spark, deliveries, superseded={("d2", 202202): "d3"})
    accepted = [
        (r["delivery_id"], r["line_number"]) for r in transforms.sales_orders(made).collect()
    ]
    rejected = [
        (r["delivery_id"], r["line_number"]) for r in transforms.rejected_lines(made).collect()
    ]
    assert len({*accepted, *rejected}) == len(accepted) + len(rejected)
    assert Counter(delivery for delivery, _ in accepted + rejected) == {
        d: len(lines) for d, lines in deliveries.items()
    }
    assert Counter(delivery for delivery, _ in accepted) == {"d1": 1, "d2": 1, "d3": 1}


def test_a_cancellation_takes_one_sale(spark: SparkSession) -> None:
    """Cancellations and sales of the same customer, part and quantity pair one to one; other
    quantities, parts and customers do not.
    """
    lines = [
        line("1", "2022-01-03"),
        line("2", "2022-01-04", Qty="4"),
        line("3", "2022-01-04", Part="P2"),
        line("4", "2022-01-04", Customer="K2"),
        line("C8", "2022-01-05", Qty="-3"),
        line("C9", "2022-01-06", Qty="-3"),
    ]
    assert matches(spark, *lines) == {"C8": "1"}


def test_a_cancellation_takes_the_latest_earlier_sale(spark: SparkSession) -> None:
    """Of several open sales the latest before the cancellation is taken, the next cancellation
    takes the one before it.
    """
    first, second, late = line("1", "2022-01-01"), line("2", "2022-01-02"), line("3", "2022-01-09")
    cancellations = line("C8", "2022-01-05", Qty="-3"), line("C9", "2022-01-06", Qty="-3")
    assert matches(spark, first, second, late, *cancellations) == {"C8": "2", "C9": "1"}


def test_a_cancellation_before_any_sale_takes_none(spark: SparkSession) -> None:
    """A cancellation without an earlier sale stays unmatched and leaves later sales to later
    cancellations.
    """
    early, sale, later = (
        line("C8", "2022-01-01", Qty="-3"),
        line("1", "2022-01-02"),
        line("C9", "2022-01-03", Qty="-3"),
    )
    assert matches(spark, early, sale, later) == {"C9": "1"}


def test_an_unknown_customer_matches_by_order_number_only(spark: SparkSession) -> None:
    """Without a customer a cancellation takes a sale only where its order number, less the marker,
    is the sale's.
    """
    unknown = {"Customer": None}
    sales_ = line("1", "2022-01-01", **unknown), line("2", "2022-01-02", **unknown)
    cancellations = (
        line("C1", "2022-01-05", Qty="-3", **unknown),
        line("C9", "2022-01-06", Qty="-3", **unknown),
    )
    assert matches(spark, *sales_, *cancellations) == {"C1": "1"}


def test_a_cancellation_reaches_into_no_other_month(spark: SparkSession) -> None:
    """A cancellation in February leaves January's sale as it was."""
    assert matches(spark, line("1", "2022-01-31"), line("C1", "2022-02-01", Qty="-3")) == {}


def test_a_sale_and_its_cancellation_at_the_same_time_match(spark: SparkSession) -> None:
    """With one timestamp for both, the sale counts as the earlier one."""
    assert matches(
        spark, line("C1", "2022-01-05 10:00:00", Qty="-3"), line("1", "2022-01-05 10:00:00")
    ) == {"C1": "1"}


def test_matching_is_what_a_stack_of_open_sales_does(spark: SparkSession) -> None:
    """Two hundred lines drawn by a seed, returns among them, match as when each is put on or taken
    off in the order of time.
    """
    random = Random(7)
    lines, expected, open_sales = [], {}, defaultdict(list)
    for n in range(200):
        key = random.choice(["K1", "K2"]), random.choice(["1", "2"])
        order, kind = f"{n:03}", random.choice(["sale", "sale", "cancellation", "return"])
        at = f"2022-01-{1 + n // 20:02} 10:{n % 20:02}:00"
        sign, marker = ("" if kind == "sale" else "-"), ("C" if kind == "cancellation" else "")
        lines.append(line(f"{marker}{order}", at, Customer=key[0], Qty=f"{sign}{key[1]}"))
        if kind == "sale":
            open_sales[key].append(order)
        elif kind == "cancellation" and open_sales[key]:
            expected[f"C{order}"] = open_sales[key].pop()
    assert len(expected) > 40
    assert matches(spark, *lines) == expected


def test_parts_are_made_as_a_whole_and_future_ones_wait(
    lakehouse: DeltaLakehouse, settings: Settings, tmp_path: Path
) -> None:
    """A month that turns complete makes all parts again, and a part announced for a month to come
    has none to lie in yet.
    """
    (tmp_path / "parts.csv").write_text(
        "Item,From\np8,2022-01-10\nP9,2022-05-01\n", encoding="utf-8"
    )
    master = PartsMaster(files=str(tmp_path / "parts.csv"), part_number="Item", announced="From")
    settings = settings.model_copy(update={"parts_master": master})
    months = [202201, 202202]
    sold = sales(lakehouse.spark, line("1"), line("2", "2022-02-01", Part="P2"))
    written = lakehouse.merge(SILVER_SALES_ORDERS, sold, months)
    lakehouse.ledger.record(
        SILVER_SALES_ORDERS,
        [Slice(m, "", w.data_version, "i", 1, 1) for m, w in written.months.items()],
        "run",
    )
    recipe = TableRecipe(PARTS, [Input(SILVER_SALES_ORDERS)], assets._parts, {}, is_whole=True)
    recipe.run(Work(settings, lakehouse, "run", print), months)
    assert lakehouse.rows(PARTS).set_index("part_number")["yyyymm"].to_dict() == {
        "P1": 202201,
        "P2": 202202,
        "P8": 202201,
    }
    deliveries = [
        {
            "delivery_id": "d",
            "sequence": 1,
            "source": "shop",
            "file_name": "f",
            "months": [{"yyyymm": 202201, "line_count": 1, "last_day": 5}],
        }
    ]
    lakehouse.append(DELIVERIES, lakehouse.create_frame(DELIVERIES, deliveries), number=1)
    closed = settings.model_copy(update={"last_month": 202201})
    outcome = recipe.run(Work(closed, lakehouse, "run", print), months)
    assert (
        sorted(outcome.written),
        any(month.is_changed for month in outcome.written.values()),
    ) == (months, False)


def test_a_rename_makes_its_months_stale_and_no_others_differ(
    lakehouse: DeltaLakehouse, settings: Settings, tmp_path: Path
) -> None:
    """With a rename in the parts master the parts are made again, the old number's announcement is
    the new one's; without one nothing is due.
    """
    (tmp_path / "parts.csv").write_text("Item,Was\np8,\np9,p8\n", encoding="utf-8")
    master = PartsMaster(files=str(tmp_path / "parts.csv"), part_number="Item")
    plain = settings.model_copy(update={"parts_master": master})
    told = settings.model_copy(
        update={"parts_master": master.model_copy(update={"supersedes": "Was"})}
    )
    recipe = TableRecipe(
        PARTS,
        [Input(SILVER_SALES_ORDERS)],
        assets._parts,
        {},
        is_whole=True,
        outside_version=assets._parts_version,
    )
    before, after = (Work(given, lakehouse, "run", print) for given in (plain, told))
    recipe.run(before, [202201])
    assert set(lakehouse.rows(PARTS)["part_number"]) == {"P8", "P9"}
    recipe.run(after, [202201])
    rows = lakehouse.rows(PARTS)
    assert rows["part_number"].tolist() == ["P9"]
    assert rows["former_numbers"].tolist() == ["P8"]
    assert not recipe.run(after, [202201]).written


def test_monthly_demand_counts_each_kind_apart(spark: SparkSession) -> None:
    """A matched cancellation lowers demand, a return without the marker is returned_qty and lowers
    nothing.
    """
    lines = [
        line("1", "2022-01-03", Qty="5"),
        line("2", "2022-01-04"),
        line("C2", "2022-01-05", Qty="-3"),
        line("3", "2022-01-06", Qty="-5"),
        line("C7", "2022-01-07", Qty="-2"),
    ]
    row = _demand(spark, sales(spark, *lines), [202201])["P1", 202201]
    assert [row[name] for name in ("demand_qty", "sold_qty", "cancelled_qty", "returned_qty")] == [
        5.0,
        8.0,
        3.0,
        7.0,
    ]
    assert [row[name] for name in ("order_count", "customer_count", "revenue", "unit_price")] == [
        1,
        1,
        12.5,
        2.5,
    ]


def _demand(
    spark: SparkSession, sold: DataFrame, months: Sequence[int]
) -> dict[tuple[str, int], Row]:
    return {(r["part_number"], r["yyyymm"]): r for r in _monthly(spark, sold, months).collect()}


def _monthly(spark: SparkSession, sold: DataFrame, months: Sequence[int]) -> DataFrame:
    announced = spark.createDataFrame(
        [], "part_number STRING, announced_month INT, description STRING"
    )
    return transforms.monthly_demand(
        sold, transforms.parts(sold, announced), months, {202201, 202202}
    )


def test_monthly_demand_is_dense(spark: SparkSession) -> None:
    """Every part has a row in each month since its first sale, zeros included, and none before."""
    made = _demand(
        spark,
        sales(spark, line("1"), line("2", "2022-03-01"), line("3", "2022-02-01", Part="P2")),
        [202201, 202202, 202203],
    )
    assert {key: row["demand_qty"] for key, row in made.items()} == {
        ("P1", 202201): 3.0,
        ("P1", 202202): 0.0,
        ("P1", 202203): 3.0,
        ("P2", 202202): 3.0,
        ("P2", 202203): 0.0,
    }
    assert {month: row["is_complete"] for (part, month), row in made.items() if part == "P1"} == {
        202201: True,
        202202: True,
        202203: False,
    }
    assert (made["P1", 202202]["order_count"], made["P1", 202202]["unit_price"]) == (0, None)


def test_monthly_demand_is_the_same_to_the_bit_however_rows_lie(
    spark: SparkSession, engine: Engine
) -> None:
    """Order and partitions of the lines change no digit of a sum."""
    lines = [
        line(str(i), Qty=f"{0.1 * i:.1f}", Price=f"{1.1 + i / 7:.4f}", Region=f"R{i % 3}")
        for i in range(1, 40)
    ]
    sold = engine.hold(sales(spark, *lines))
    one = _monthly(spark, sold.repartition(1), [202201]).collect()
    seven = _monthly(spark, sold.orderBy(F.desc("line_id")).repartition(7), [202201]).collect()
    assert one == seven
    assert one[0]["demand_qty"] == 78.0


def test_features_of_a_series_worked_out_by_hand(spark: SparkSession) -> None:
    """4, 0, 0, 8, 0, 6 units: lags, means, spread, interval, variation and the time since the last
    sale.
    """
    made = features(spark, {"P1": [4, 0, 0, 8, 0, 6]}, [202105, 202106], new_part_months=3)
    row = made["P1", 202106].asDict()
    assert [row[f"demand_lag_{lag}"] for lag in range(8)] == [
        6.0,
        0.0,
        8.0,
        0.0,
        0.0,
        4.0,
        None,
        None,
    ]
    expected = {
        "demand_mean_3": 14 / 3,
        "demand_mean_6": 3.0,
        "demand_mean_12": 3.0,
        "demand_std_6": math.sqrt(31 / 3),
        "demand_max_12": 8.0,
        "nonzero_share_12": 0.5,
        "adi": 2.0,
        "nonzero_mean_24": 6.0,
        "cv2": 8 / 3 / 36,
        "naive_rmse_scale": 6.0,
        "order_count_12": 3,
        "revenue_12": 36.0,
        "history_months": 6,
        "months_since_first_sale": 5,
        "months_since_last_sale": 0,
        "month_of_year": 6,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["seasonal_mae_scale"] is None
    assert row["demand_class"] == "intermittent"
    assert made["P1", 202105]["months_since_last_sale"] == 1


def test_no_feature_looks_after_its_origin(spark: SparkSession) -> None:
    """Whatever later months hold, the features of an origin stay the same."""
    quiet, loud = [3, 0, 5, 2, 4, 1, 0, 7], [9_000, 0, 1, 80_000]
    alone = features(spark, {"P1": quiet, "P2": quiet[::-1]}, [202107, 202108])
    followed = features(
        spark, {"P1": quiet + loud, "P2": quiet[::-1] + loud[::-1]}, [202107, 202108]
    )
    assert followed == alone
    assert len(alone) == 4


def test_a_month_that_is_not_complete_shifts_no_lag(spark: SparkSession) -> None:
    """A partial month counts as missing: its lag is empty, and no change is taken across it."""
    rows = [
        {
            "yyyymm": month,
            "part_number": "P1",
            "demand_qty": units,
            "unit_price": 0.0,
            "is_complete": month != 202202,
        }
        | SUMS
        for month, units in {202201: 4.0, 202202: 1.0, 202203: 6.0, 202204: 9.0}.items()
    ]
    parts = table(
        spark, PARTS, [{"yyyymm": 202201, "part_number": "P1", "first_sale_month": 202201}]
    )
    (row,) = transforms.demand_features(
        table(spark, MONTHLY_DEMAND, rows), parts, [202202, 202204], ForecastSettings()
    ).collect()
    assert [row[f"demand_lag_{lag}"] for lag in range(4)] == [9.0, 6.0, None, 4.0]
    assert (row["naive_rmse_scale"], row["demand_mean_3"], row["history_months"]) == (3.0, 7.5, 4)
    assert (row["unit_price"], row["price_ratio_12"]) == (0.0, None)


def test_nothing_is_left_of_a_month_that_left_the_window(spark: SparkSession) -> None:
    """A billion units 24 months ago move no digit of means and deviations; equal months deviate by
    0.
    """
    recent = ([0.1] * 11 + [0.2]) * 2
    made = features(
        spark,
        {"huge": [1e9, *recent], "small": [0.3, *recent], "equal": [7e8, *[0.3] * 24]},
        [202301],
    )
    names = [
        *(f"demand_mean_{n}" for n in (3, 6, 12, 24)),
        *(f"demand_std_{n}" for n in (6, 12, 24)),
        "nonzero_mean_24",
        "cv2",
    ]
    huge, small, equal = (
        [made[part, 202301][name] for name in names] for part in ("huge", "small", "equal")
    )
    assert huge == small
    assert huge[:4] == [0.4 / 3, 0.7 / 6, 1.3 / 12, 2.6 / 24]
    assert equal == [pytest.approx(0.3)] * 4 + [0.0] * 3 + [pytest.approx(0.3), 0.0]


def test_the_four_demand_classes_and_new(spark: SparkSession) -> None:
    """Interval and variation of demand give the class, a first sale within the last months the
    class new.
    """
    series = {
        "smooth": [5] * 8,
        "erratic": [1, 20] * 4,
        "intermittent": [5, 0, 5, 0] * 2,
        "lumpy": [1, 0, 20, 0] * 2,
        "new": [0] * 3 + [5] * 5,
    }
    made = features(spark, series, [202108])
    assert {part: row["demand_class"] for (part, _), row in made.items()} == {
        name: name for name in series
    }


def test_abc_is_the_cumulated_share_of_revenue(spark: SparkSession) -> None:
    """Parts that make the first 80 % of twelve months' revenue are A, those to 95 % B, the rest and
    those without revenue C.
    """
    old = {"P0": [9] + [0] * 12}
    series = {
        part: [1] + [0] * 11 + [units]
        for part, units in {"P1": 70, "P2": 15, "P3": 10, "P4": 5}.items()
    }
    made = features(spark, series | old, [202201])
    assert {part: row["abc_class"] for (part, _), row in made.items()} == {
        "P1": "A",
        "P2": "A",
        "P3": "B",
        "P4": "C",
        "P0": "C",
    }
