"""The Spark transforms of monitoring: forecast accuracy, data quality and the monthly figures that
drift is judged by.
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from benchmarks import false_alarms
from medallion_assets.served.accuracy import forecast_accuracy
from medallion_assets.served.anomalies import published_forecasts
from medallion_assets.tables import (
    DATA_QUALITY,
    DECILES,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    FORECAST_ACCURACY,
    MODEL_EVALUATION,
    MONTHLY_DEMAND,
    REJECTED_LINES,
    SILVER_SALES_ORDERS,
)
from medallion_assets.watch.drift import monthly_figures, usual_demand
from medallion_assets.watch.quality import data_quality
from resources.lakehouse import TableSpec
from resources.settings import Settings

pytestmark = pytest.mark.spark

COLUMNS = {
    "order_id": "o",
    "part_number": "p",
    "order_date": "d",
    "quantity": "q",
    "unit_price": "u",
}
SETTINGS = Settings(
    lakehouse_root="lakehouse",
    first_month=202001,
    sources=({"name": "orders", "files": "*.csv", "columns": COLUMNS},),
)


def table(spark: SparkSession, spec: TableSpec, rows: list[dict[str, Any]]) -> DataFrame:
    schema = ", ".join(f"`{column.name}` {column.type}" for column in spec.columns)
    return spark.createDataFrame(
        [tuple(row.get(name) for name in spec.column_names) for row in rows], schema
    )


def demand(spark: SparkSession, *rows: tuple[str, int, float], **others: Any) -> DataFrame:
    """silver.monthly_demand of (part, month, units)."""
    common = {"order_count": 1, "customer_count": 1, "region": "North", "is_complete": True}
    return table(
        spark,
        MONTHLY_DEMAND,
        [
            {"part_number": part, "yyyymm": month, "demand_qty": qty, "revenue": 2 * qty}
            | common
            | others
            for part, month, qty in rows
        ],
    )


def forecast(
    origin: int,
    part: str,
    target: int,
    qty: float,
    published: datetime,
    vintage: int = 1,
    **others: Any,
) -> dict[str, Any]:
    """A row of gold.demand_forecast whose deciles are all the expected demand."""
    lag = target // 100 * 12 + target % 100 - origin // 100 * 12 - origin % 100
    row = {
        "yyyymm": origin,
        "vintage": vintage,
        "part_number": part,
        "horizon": lag,
        "target_yyyymm": target,
        "forecast_qty": qty,
    }
    row |= dict.fromkeys(DECILES, qty) | {
        "status": "forecast",
        "demand_class": "smooth",
        "published_at": published,
    }
    return row | others


def evidence(spark: SparkSession, month: int, *rows: tuple[str, int, float, float]) -> DataFrame:
    """gold.model_evaluation of one model and month: class, horizon, WQL and bias."""
    common = {"yyyymm": month, "model": "ses", "segment_kind": "demand_class"}
    named = [dict(zip(("segment", "horizon", "wql", "bias"), row, strict=True)) for row in rows]
    return table(spark, MODEL_EVALUATION, [common | row for row in named])


def judged(served: DataFrame, sold: DataFrame, promised: DataFrame | None = None) -> DataFrame:
    """gold.forecast_accuracy of March 2024, without evidence where none is given."""
    return forecast_accuracy(
        served,
        sold,
        evidence(served.sparkSession, 202401) if promised is None else promised,
        [202403],
    )


def classified(spark: SparkSession, *rows: tuple[str, int, str]) -> DataFrame:
    """silver.demand_features of (part, month, class)."""
    return table(
        spark,
        DEMAND_FEATURES,
        [dict(zip(("part_number", "yyyymm", "demand_class"), row, strict=True)) for row in rows],
    )


def only(rows: DataFrame, **key: Any) -> Row:
    found = [
        row for row in rows.collect() if all(row[name] == value for name, value in key.items())
    ]
    assert len(found) == 1, found
    return found[0]


IN_TIME, LATE = datetime(2024, 2, 20, tzinfo=UTC), datetime(2024, 3, 2, tzinfo=UTC)


def test_accuracy_of_two_parts(spark: SparkSession) -> None:
    """Two parts, forecast 10 and 6 and sold 8 and 6, against 4 and nothing a year before: every
    figure by hand.
    """
    served = table(
        spark,
        DEMAND_FORECAST,
        [forecast(202402, "A", 202403, 10.0, IN_TIME), forecast(202402, "B", 202403, 6.0, IN_TIME)],
    )
    sold = demand(spark, ("A", 202403, 8.0), ("B", 202403, 6.0), ("A", 202303, 4.0))
    rows = judged(served, sold)
    assert rows.columns == list(FORECAST_ACCURACY.column_names)
    row = only(rows, segment_kind="all").asDict()
    expected = {
        "yyyymm": 202403,
        "lag": 1,
        "cell_count": 2,
        "actual_qty": 14.0,
        "forecast_qty": 16.0,
        "mae": 1.0,
        "rmse": 2**0.5,
    }
    expected |= {
        "wape": 2 / 14,
        "bias": 2 / 14,
        "wql": 2 * 2 * 0.5 / 14,
        "coverage_80": 0.5,
        "naive_wape": 10 / 14,
        "value_added": 0.8,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert (row["mean_absolute_change"], row["is_backfilled"]) == (None, False)


def test_forecasts_under_two_numbers_of_a_part_count_as_one(spark: SparkSession) -> None:
    """Published before the rename was known: 8 for the old number and 8 for the new one were 16
    for a part that sold 8; a part without a rename is as it was.
    """
    served = table(
        spark,
        DEMAND_FORECAST,
        [
            forecast(202402, "OLD", 202403, 8.0, IN_TIME, demand_class="smooth"),
            forecast(202402, "NEW", 202403, 8.0, IN_TIME, demand_class="new", status="new_part"),
            forecast(202402, "B", 202403, 6.0, IN_TIME),
        ],
    )
    sold = demand(spark, ("NEW", 202403, 8.0), ("B", 202403, 6.0))
    nothing = evidence(spark, 202401)
    rows = forecast_accuracy(served, sold, nothing, [202403], {"OLD": "NEW"}).collect()
    said = {
        (row["segment_kind"], row["segment"]): (
            row["cell_count"],
            row["forecast_qty"],
            row["actual_qty"],
        )
        for row in rows
    }
    assert said[("all", "all")] == (2, 22.0, 14.0)
    assert said[("demand_class", "new")] == (1, 16.0, 8.0)
    assert said[("demand_class", "smooth")] == (1, 6.0, 6.0)
    alone = table(spark, DEMAND_FORECAST, [forecast(202402, "OLD", 202403, 8.0, IN_TIME)])
    one = forecast_accuracy(alone, sold, nothing, [202403], {"OLD": "NEW"})
    assert only(one, segment_kind="all")["forecast_qty"] == 8.0


def test_segments_are_all_class_and_status(spark: SparkSession) -> None:
    """A row per class and per status beside the row of all parts; excluded parts are in none."""
    excluded = {"horizon": 0, "forecast_qty": None, "status": "excluded"} | dict.fromkeys(DECILES)
    served = table(
        spark,
        DEMAND_FORECAST,
        [
            forecast(202402, "A", 202403, 10.0, IN_TIME),
            forecast(202402, "B", 202403, 6.0, IN_TIME, demand_class="lumpy", status="fallback"),
            forecast(202402, "C", 202403, 6.0, IN_TIME, **excluded),
        ],
    )
    sold = demand(spark, ("A", 202403, 8.0), ("B", 202403, 6.0), ("C", 202403, 0.0))
    segments = {
        (row.segment_kind, row.segment, row.cell_count) for row in judged(served, sold).collect()
    }
    assert segments == {
        ("all", "all", 2),
        ("demand_class", "smooth", 1),
        ("demand_class", "lumpy", 1),
        ("status", "forecast", 1),
        ("status", "fallback", 1),
    }


def test_the_last_vintage_before_the_month_counts(spark: SparkSession) -> None:
    """Of three vintages the second was current when March began; the third came too late to be
    judged.
    """
    vintages = [
        (10.0, IN_TIME, 1),
        (9.0, datetime(2024, 2, 29, 23, 59, tzinfo=UTC), 2),
        (8.0, LATE, 3),
    ]
    served = table(
        spark,
        DEMAND_FORECAST,
        [forecast(202402, "A", 202403, qty, published, n) for qty, published, n in vintages],
    )
    row = only(judged(served, demand(spark, ("A", 202403, 8.0))), segment_kind="all")
    assert (row.forecast_qty, row.is_backfilled) == (9.0, False)


def test_a_forecast_published_late_is_marked(spark: SparkSession) -> None:
    """Where nothing was published in time the first vintage is judged, marked as backfilled."""
    served = table(
        spark,
        DEMAND_FORECAST,
        [forecast(202402, "A", 202403, 10.0, LATE), forecast(202402, "A", 202403, 8.0, LATE, 2)],
    )
    row = only(judged(served, demand(spark, ("A", 202403, 8.0))), segment_kind="all")
    assert (row.forecast_qty, row.is_backfilled) == (10.0, True)


def test_change_is_against_the_origin_before(spark: SparkSession) -> None:
    """A forecast of 10 that said 8 a month earlier changed by a fifth."""
    rows = [
        forecast(202402, "A", 202403, 10.0, IN_TIME),
        forecast(202401, "A", 202403, 8.0, IN_TIME),
    ]
    accuracy = judged(table(spark, DEMAND_FORECAST, rows), demand(spark, ("A", 202403, 8.0)))
    assert only(accuracy, lag=1, segment_kind="all").mean_absolute_change == pytest.approx(0.2)
    assert only(accuracy, lag=2, segment_kind="all").mean_absolute_change is None


def test_the_change_by_class_is_of_the_parts_that_both_forecast(spark: SparkSession) -> None:
    """Ups and downs don't cancel, a part that is new in the later origin does not count, and judged
    vintages are compared.
    """
    earlier = [
        forecast(202401, "A", 202403, 8.0, IN_TIME),
        forecast(202401, "A", 202403, 99.0, LATE, 2),
        forecast(202401, "B", 202403, 9.0, IN_TIME),
        forecast(202401, "C", 202403, 4.0, IN_TIME, demand_class="lumpy"),
    ]
    later = [
        forecast(202402, "A", 202403, 10.0, IN_TIME),
        forecast(202402, "B", 202403, 6.0, IN_TIME),
        forecast(202402, "C", 202403, 4.0, IN_TIME, demand_class="lumpy"),
        forecast(202402, "D", 202403, 50.0, IN_TIME),
    ]
    sold = demand(spark, *((part, 202403, 5.0) for part in "ABCD"))
    accuracy = judged(table(spark, DEMAND_FORECAST, earlier + later), sold)
    changes = {
        (row.segment, row.lag): row.mean_absolute_change
        for row in accuracy.where("segment_kind <> 'status'").collect()
    }
    assert changes == {
        ("all", 1): pytest.approx((2 + 3 + 0) / (10 + 6 + 4)),
        ("smooth", 1): pytest.approx((2 + 3) / (10 + 6)),
        ("lumpy", 1): 0.0,
        **{(segment, 2): None for segment in ("all", "smooth", "lumpy")},
    }


def test_what_was_promised_stands_beside_what_came(spark: SparkSession) -> None:
    """The evidence of each row's own model, class, training and horizon, weighted by demand; none
    where a part had no trained model.
    """
    trained = {"model": "ses", "trained_yyyymm": 202401}
    rows = [
        forecast(202402, "A", 202403, 8.0, IN_TIME, **trained),
        forecast(202402, "B", 202403, 8.0, IN_TIME, **trained),
    ]
    rows[1] |= {"demand_class": "lumpy"}
    sold = demand(spark, ("A", 202403, 6.0), ("B", 202403, 2.0), ("C", 202403, 2.0))
    told = [("smooth", 1, 0.2, 0.1), ("smooth", 2, 0.9, 0.9), ("lumpy", 1, 0.6, -0.3)]
    judged_rows = judged(
        table(spark, DEMAND_FORECAST, rows), sold, evidence(spark, 202401, *told)
    ).collect()
    found = {row.segment: (row.evidence_wql, row.evidence_bias) for row in judged_rows}
    assert found["smooth"] == (pytest.approx(0.2), pytest.approx(0.1))
    assert found["all"] == (pytest.approx(0.3), pytest.approx(0.0))
    untrained = [*rows, forecast(202402, "C", 202403, 8.0, IN_TIME, model="seasonal_naive")]
    judged_rows = judged(
        table(spark, DEMAND_FORECAST, untrained), sold, evidence(spark, 202401, *told)
    ).collect()
    assert {row.segment: row.evidence_wql for row in judged_rows} == {
        "all": None,
        "forecast": None,
        "smooth": None,
        "lumpy": pytest.approx(0.6),
    }


def test_incomplete_months_are_not_judged(spark: SparkSession) -> None:
    """A month that is not complete has no actual, and one without a year before it no naive
    forecast.
    """
    served = table(spark, DEMAND_FORECAST, [forecast(202402, "A", 202403, 10.0, IN_TIME)])
    assert judged(served, demand(spark, ("A", 202403, 8.0), is_complete=False)).count() == 0
    row = only(judged(served, demand(spark, ("A", 202403, 8.0))), segment_kind="all")
    assert (row.naive_wape, row.value_added) == (None, None)


def test_no_demand_gives_no_ratio(spark: SparkSession) -> None:
    """Where nothing was sold, errors in units stay and ratios are empty."""
    served = table(spark, DEMAND_FORECAST, [forecast(202402, "A", 202403, 1.0, IN_TIME)])
    row = only(judged(served, demand(spark, ("A", 202403, 0.0))), segment_kind="all")
    assert (row.mae, row.wape, row.bias, row.wql) == (1.0, None, None, None)


def bronze_lines(spark: SparkSession, *rows: tuple[int, str, int]) -> DataFrame:
    return spark.createDataFrame(list(rows), "yyyymm INT, delivery_id STRING, line_number BIGINT")


def accepted(spark: SparkSession, *rows: tuple[int, str, int, str, str | None]) -> DataFrame:
    names = ("yyyymm", "delivery_id", "line_number", "line_type", "customer_id")
    return table(spark, SILVER_SALES_ORDERS, [dict(zip(names, row, strict=True)) for row in rows])


def rejected(spark: SparkSession, *rows: tuple[int, str, int, str, list[str]]) -> DataFrame:
    names = ("yyyymm", "delivery_id", "line_number", "disposition", "reasons")
    return table(spark, REJECTED_LINES, [dict(zip(names, row, strict=True)) for row in rows])


def by_rule(quality: DataFrame, month: int) -> dict[str, tuple[float, bool]]:
    return {
        row.rule: (row.value, row.is_ok) for row in quality.where(f"yyyymm = {month}").collect()
    }


def test_every_line_is_accounted_for(spark: SparkSession) -> None:
    """Five lines: a sale, a cancellation, one that broke two rules, a duplicate and a superseded
    one.
    """
    quality = data_quality(
        bronze_lines(spark, *((202403, "d1", n) for n in range(2, 7))),
        accepted(spark, (202403, "d1", 2, "sale", None), (202403, "d1", 3, "cancellation", "C1")),
        rejected(
            spark,
            (202403, "d1", 4, "rejected", ["no_product", "price_not_positive"]),
            (202403, "d1", 5, "duplicate", ["d0"]),
            (202403, "d1", 6, "superseded", ["d2"]),
        ),
        [202403],
        SETTINGS,
    )
    assert quality.columns == list(DATA_QUALITY.column_names)
    assert by_rule(quality, 202403) == {
        "lines_read": (5.0, True),
        "lines_accepted": (2.0, True),
        "lines_rejected": (1.0, True),
        "lines_duplicate": (1.0, True),
        "lines_superseded": (1.0, True),
        "lines_unaccounted": (0.0, True),
        "rejected:no_product": (1.0, True),
        "rejected:price_not_positive": (1.0, True),
        "rejected_share": (pytest.approx(1 / 3), False),
        "cancelled_share": (0.5, True),
        "missing_customer_share": (0.5, True),
    }


def test_a_lost_line_is_not_hidden_by_one_counted_twice(spark: SparkSession) -> None:
    """One delivery lost its line, another's stands twice: the month's totals agree, the deliveries
    do not.
    """
    sale = (202403, "d2", 2, "sale", "C1")
    quality = data_quality(
        bronze_lines(spark, (202403, "d1", 2), (202403, "d2", 2)),
        accepted(spark, sale, sale),
        rejected(spark),
        [202403],
        SETTINGS,
    )
    assert by_rule(quality, 202403)["lines_unaccounted"] == (2.0, False)


def test_lines_of_no_month_are_counted_without_shares(spark: SparkSession) -> None:
    """Month 0 holds rejected lines only, which is no reason for alarm; a month without lines has
    its zeros; other months are ignored.
    """
    lines = bronze_lines(spark, (0, "d1", 2), (202401, "d1", 3))
    quality = data_quality(
        lines,
        accepted(spark),
        rejected(spark, (0, "d1", 2, "rejected", ["date_unreadable"])),
        [0, 202403],
        SETTINGS,
    )
    no_month = by_rule(quality, 0)
    assert no_month["lines_rejected"] == no_month["rejected:date_unreadable"] == (1.0, True)
    assert not any(rule.endswith("_share") for rule in no_month)
    assert by_rule(quality, 202403)["rejected_share"] == (0.0, True)
    assert {row.yyyymm for row in quality.collect()} == {0, 202403}


def test_monthly_figures_of_complete_months(spark: SparkSession) -> None:
    """Totals, shares, mixes and demand by class of a month, and the like-for-like changes against
    the year before.
    """
    complete = demand(
        spark,
        ("A", 202403, 8.0),
        ("B", 202403, 0.0),
        ("C", 202403, 2.0),
        ("A", 202303, 4.0),
        ("B", 202303, 12.0),
    )
    classes = classified(
        spark,
        ("A", 202403, "smooth"),
        ("B", 202403, "smooth"),
        ("C", 202403, "new"),
        ("A", 202303, "lumpy"),
    )
    figures = (
        monthly_figures(
            complete.union(demand(spark, ("A", 202404, 1.0), is_complete=False)), classes
        )
        .toPandas()
        .set_index("yyyymm")
    )
    assert list(figures.index) == [202303, 202403]
    march = figures.loc[202403]
    known = ("total_demand_qty", "active_part_count", "zero_share", "mean_unit_price")
    assert tuple(march[name] for name in known) == (10.0, 2, pytest.approx(1 / 3), 2.0)
    assert (march["region_demand_qty"], march["class_demand_qty"]) == (
        {"North": 10.0},
        {"smooth": 8.0},
    )
    assert (march["like_for_like_ratio"], march["like_for_like_price"]) == (
        pytest.approx(2.0),
        pytest.approx(1.0),
    )
    # A has .8 of the demand and had .25; what B had and C has changed part.
    assert march["part_mix"] == pytest.approx(0.75)


def test_a_labelled_month_counts_as_the_year_before(spark: SparkSession) -> None:
    """Ten thousand units that were an error change no figure against the year before, also where
    that month was one too, and a part without such a month is left out; other rows stay.
    """
    rows = demand(
        spark,
        ("A", 202403, 10_000.0),
        ("B", 202403, 5.0),
        ("C", 202403, 70.0),
        ("A", 202303, 900.0),
        ("B", 202303, 5.0),
        ("A", 202203, 4.0),
    )
    unusual = [("A", 202403), ("A", 202303), ("C", 202403), ("Z", 202403)]
    made = usual_demand(rows, unusual).collect()
    assert {(r.part_number, r.yyyymm): (r.demand_qty, r.revenue) for r in made} == {
        ("A", 202403): (4.0, 8.0),
        ("B", 202403): (5.0, 10.0),
        ("A", 202303): (4.0, 8.0),
        ("B", 202303): (5.0, 10.0),
        ("A", 202203): (4.0, 8.0),
    }
    assert usual_demand(rows, []) is rows


def test_a_class_is_judged_without_labelled_parts_too(spark: SparkSession) -> None:
    """Of a month with a labelled part its class has a second row at lag 1 without it; what was
    judged of all parts stays as it is.
    """
    served = table(
        spark,
        DEMAND_FORECAST,
        [
            forecast(202402, "A", 202403, 10.0, IN_TIME),
            forecast(202402, "B", 202403, 20.0, IN_TIME),
            forecast(202401, "B", 202403, 20.0, IN_TIME),
        ],
    )
    sold = demand(spark, ("A", 202403, 1_000.0), ("B", 202403, 25.0))
    nothing = evidence(spark, 202401)
    rows = forecast_accuracy(served, sold, nothing, [202403], {}, [("A", 202403)])
    usual = only(rows, segment_kind="unlabelled_class")
    assert (usual.segment, usual.lag, usual.cell_count) == ("smooth", 1, 1)
    assert (usual.actual_qty, usual.forecast_qty) == (25.0, 20.0)
    assert only(rows, segment_kind="demand_class", lag=1).actual_qty == 1_025.0
    assert (
        rows.where("segment_kind <> 'unlabelled_class'").exceptAll(judged(served, sold)).count()
        == 0
    )


def test_demand_is_held_against_what_was_published_before_it(spark: SparkSession) -> None:
    """Of the newest origin before the month the vintage of the time counts; later vintages, older
    origins, parts without numbers and the month's own origin do not.
    """
    served = table(
        spark,
        DEMAND_FORECAST,
        [
            forecast(202401, "A", 202403, 1.0, IN_TIME),
            forecast(202402, "A", 202403, 2.0, IN_TIME),
            forecast(202402, "A", 202403, 3.0, LATE, vintage=2),
            forecast(202403, "A", 202403, 4.0, LATE, horizon=0),
            forecast(202402, "X", 202403, 9.0, IN_TIME, forecast_qty=None, status="excluded"),
            forecast(202402, "A", 202404, 5.0, IN_TIME),
        ],
    )
    found = only(published_forecasts(served, [202403], {}))
    assert (found.origin, found.vintage, found.horizon, found.forecast_qty) == (202402, 1, 1, 2.0)
    assert not found.is_backfilled
    late = served.where("published_at >= '2024-03-01'").withColumn("vintage", F.lit(1))
    assert only(published_forecasts(late, [202403], {})).is_backfilled
    older = only(published_forecasts(served.where("yyyymm = 202401"), [202403], {}))
    assert (older.origin, older.horizon, older.forecast_qty) == (202401, 2, 1.0)


def test_the_study_of_false_alarms_looks_at_the_same_figures(spark: SparkSession) -> None:
    """What the benchmark computes of a simulated wholesaler without Spark equals what the asset
    computes of its tables.
    """
    sold = false_alarms.history(1, "no change")
    classes = false_alarms.demand_classes(sold.qty)
    expected = false_alarms.figures_of(sold, classes)
    exists = np.maximum.accumulate(sold.qty > 0, axis=1)
    part, place = (indices.tolist() for indices in np.nonzero(exists))
    month = expected["yyyymm"].to_numpy()[place].tolist()
    seen: set[int] = (
        set()
    )  # counts are added up over parts: here the first part of a month has them all
    rows = []
    for p, n, m in zip(part, place, month, strict=True):
        counts = (0.0, 0.0) if n in seen else (sold.order_count[n], sold.customer_count[n])
        seen.add(n)
        region = false_alarms.REGIONS[sold.region_qty[p, n].argmax()] if sold.qty[p, n] else None
        rows.append(
            (str(p), m, float(sold.qty[p, n]), float(sold.revenue[p, n]), *map(int, counts), region)
        )
    names = (
        "part_number",
        "yyyymm",
        "demand_qty",
        "revenue",
        "order_count",
        "customer_count",
        "region",
    )
    tables = [
        table(
            spark,
            MONTHLY_DEMAND,
            [dict(zip(names, row, strict=True)) | {"is_complete": True} for row in rows],
        ),
        classified(
            spark,
            *((str(p), m, str(classes[p, n])) for p, n, m in zip(part, place, month, strict=True)),
        ),
    ]
    found = monthly_figures(*tables).toPandas()
    for name in expected.columns:
        if name.endswith("_demand_qty") and name != "total_demand_qty":
            found[name] = found[name].map(lambda demand: sorted((demand or {}).items()))
            expected[name] = expected[name].map(
                lambda demand: sorted((key, qty) for key, qty in demand.items() if qty)
            )
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False)


def test_partitioning_does_not_change_a_bit(spark: SparkSession) -> None:
    """The same rows in one partition or in seven give the same figures to the last bit."""
    rows = demand(
        spark,
        *(
            (f"P{n}", month, 0.1 * n + 1e-6)
            for n in range(60)
            for month in (202302, 202303, 202402, 202403)
        ),
    )
    served = table(
        spark,
        DEMAND_FORECAST,
        [forecast(202402, f"P{n}", 202403, 0.3 * n, IN_TIME) for n in range(60)],
    )
    classes = classified(spark, *((f"P{n}", 202403, "smooth") for n in range(60)))
    one, seven = (
        monthly_figures(rows.repartition(n), classes.repartition(n)).collect() for n in (1, 7)
    )
    assert one == seven
    first, second = (
        judged(served.repartition(n), rows.repartition(n)).orderBy("segment_kind").collect()
        for n in (1, 7)
    )
    assert first == second
