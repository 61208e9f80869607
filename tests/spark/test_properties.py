"""What must hold of any orders and any write, tried on generated ones; and defects sown on purpose,
which the same tries must find.

PROPERTY_EXAMPLES says how many are tried of each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as tried
from hypothesis import strategies as st
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from medallion_assets.bronze.transforms import dated_lines
from medallion_assets.partitions import add_months, month_range
from medallion_assets.silver import transforms
from medallion_assets.zoo.registry import model
from medallion_assets.zoo.spec import Known
from resources.engines import Engine
from resources.lakehouse import DeltaLakehouse, TableSpec
from resources.settings import ISO_DATES, ForecastSettings, Source, parse_settings
from resources.writers import Scope
from tests.conftest import SOURCE, forget_tables, open_lakehouse, units_table

pytestmark = pytest.mark.spark

SHOP = Source.model_validate(SOURCE)
FIRST, ORIGIN, LAST = 202201, 202208, 202210
FORECAST = ForecastSettings(horizon=2, min_history=3)
MODELS = ("seasonal_naive", "imapa", "xgboost_global")
# A found example is not made smaller: each step of that is a Spark job.
TRIES = tried(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "20" if "CI" in os.environ else "3")),
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


class Line(NamedTuple):
    """An order line: the part, the month and day, units and where to."""

    part: int
    month: int
    day: int
    units: int
    region: str


def lines(first: int, last: int, at_least: int = 1) -> st.SearchStrategy[list[Line]]:
    """Lines of eight parts in months of a range, many of them on the same day and of the same size,
    so that there are ties.
    """
    one = st.builds(
        Line,
        st.integers(1, 8),
        st.sampled_from(month_range(first, last)),
        st.integers(1, 3),
        st.integers(1, 3),
        st.sampled_from("NSE"),
    )
    return st.lists(one, min_size=at_least, max_size=120)


class Outcome(NamedTuple):
    """What the lines lead to: demand, features and forecasts at the origin."""

    demand: pd.DataFrame
    features: pd.DataFrame
    forecasts: pd.DataFrame


def outcome(engine: Engine, deliveries: Sequence[Sequence[Line]], partitions: int = 2) -> Outcome:
    """Deliveries, registered in the order given, from bronze to forecasts at the origin; all months
    through LAST are known.
    """
    names = ("Order", "Part", "Customer", "Region", "Date", "Qty", "Price")
    rows = [
        (
            f"d{min(delivery)}",
            n,
            None,
            None,
            f"{d.part}-{d.month}",
            f"P{d.part}",
            "K1",
            d.region,
            _date(d),
            str(d.units),
            "2.5",
        )
        for delivery in deliveries
        for n, d in enumerate(delivery, 2)
    ]
    schema = "_delivery_id STRING, _line_number BIGINT, _problem STRING, _raw STRING" + "".join(
        f", {name} STRING" for name in names
    )
    delivered = engine.session.createDataFrame(rows, schema).repartition(partitions)
    bronze = dated_lines(delivered, SHOP, FIRST, LAST).withColumn("_source", F.lit(SHOP.name))
    sequences = {
        row[0]: number for number, row in enumerate(dict.fromkeys((row[0],) for row in rows), 1)
    }
    disposed = engine.hold(
        transforms.disposed_lines(transforms.canonical_lines(bronze, SHOP), sequences, {}, [SHOP])
    )
    sales = engine.hold(transforms.sales_orders(disposed))
    announced = engine.session.createDataFrame(
        [], "part_number STRING, announced_month INT, description STRING"
    )
    parts = engine.hold(transforms.parts(sales, announced))
    months = month_range(FIRST, LAST)
    demand = engine.hold(transforms.monthly_demand(sales, parts, months, months))
    features = transforms.demand_features(demand, parts, months, FORECAST)
    known = demand.toPandas().sort_values(["part_number", "yyyymm"], ignore_index=True)
    seen = features.toPandas().sort_values(["part_number", "yyyymm"], ignore_index=True)
    for frame in (disposed, sales, parts, demand):
        engine.release(frame)
    through = (
        known[known["yyyymm"] <= ORIGIN].reset_index(drop=True),
        seen[seen["yyyymm"] <= ORIGIN].reset_index(drop=True),
    )
    return Outcome(*through, _forecasts(*through))


def _date(line: Line) -> str:
    return f"{line.month // 100}-{line.month % 100:02}-{line.day:02}"


def _forecasts(demand: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    own = features[features["yyyymm"] == ORIGIN].reset_index(drop=True)
    found = []
    for name in MODELS if len(own) else ():
        forecaster = model(name).forecaster({**model(name).parameters})
        fitted = forecaster.fit(
            Known(
                demand=demand[["part_number", "yyyymm", "demand_qty"]],
                features=features,
                origin=ORIGIN,
                horizon=FORECAST.horizon,
                seed=7,
            )
        )
        rows = forecaster.predict(
            fitted, demand[["part_number", "yyyymm", "demand_qty"]], own, ORIGIN, FORECAST.horizon
        )
        found.append(rows.assign(model=name))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def same(found: Outcome, expected: Outcome) -> None:
    """Raises AssertionError where anything differs by a bit."""
    for name, one, other in zip(Outcome._fields, found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=name)


def nothing_leaks(engine: Engine) -> None:
    """Lines of months after the origin, added or changed, change no demand, feature or forecast
    through it.
    """

    @TRIES
    @given(lines(FIRST, ORIGIN, at_least=60), lines(add_months(ORIGIN, 1), LAST))
    def tries(known: list[Line], later: list[Line]) -> None:
        same(outcome(engine, [known, later]), outcome(engine, [known]))

    tries()


def order_is_no_matter(engine: Engine) -> None:
    """The order of files and of lines and the number of Spark partitions change nothing."""

    @TRIES
    @given(lines(FIRST, ORIGIN, at_least=60), st.randoms(use_true_random=False), st.integers(1, 5))
    def tries(known: list[Line], chance: Any, partitions: int) -> None:
        # A file keeps its name; what it holds is shuffled, and so is which file comes first.
        files = [sorted(known[::2]), sorted(known[1::2])]
        first = {id(file): min(file) for file in files if file}
        shuffled = [chance.sample(file, len(file)) for file in chance.sample(files, len(files))]
        assert {min(file) for file in shuffled if file} == set(first.values())
        same(outcome(engine, shuffled, partitions), outcome(engine, files))

    tries()


# Ways to write one value; each text has the value in the place of {}.
SPELLED_PARTS = (
    "{}",
    " {} ",
    "{}.0",
    "{}.0000000000",
    "{}\u00a0",
    "\t{}",
    "\ufeff{}",
    "{}\u200b",
    '="{}"',
    "'{}",
)
SPELLED_QUANTITIES = ("{}", "+{}", "{}.0", " {}\u00a0", "{}.00", "0{}")
SPELLED_RETURNS = ("-{}", "{}-", "({})", "\u2212{}", "- {}.0")
SPELLED_PRICES = ("{}", "EUR {}", "{}\u00a0\u20ac", "{} kr", "$ {}", "{}0")
SPELLED_DATES = (
    "%Y-%m-%d",
    "%Y-%m-%d 23:30:00 -0500",
    "%Y-%m-%dT00:30:00+13:00",
    "%Y%m%d",
    "%d %b %Y",
    "%m/%d/%Y 12:30 AM",
    "%d.%m.%y",
)
WAYS = st.integers(0, 1000)
SPELLED = Source.model_validate(
    {
        **SOURCE,
        "rules": {},
        "date_formats": [*ISO_DATES, "dd MMM yyyy", "MM/dd/yyyy hh:mm a", "dd.MM.yy"],
    }
)


def spelling_is_no_matter(engine: Engine) -> None:
    """However parts, numbers and dates of the same lines are written, demand is the same."""

    @TRIES
    @given(
        st.lists(
            st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(-3, 999), *[WAYS] * 5),
            min_size=20,
            max_size=80,
        )
    )
    def tries(drawn: list[tuple[int, ...]]) -> None:
        plain, mixed = [], []
        for n, (part, month, units, *ways) in enumerate(drawn, 1):
            day = date(2022, month, 1 + n % 28)
            returned = SPELLED_RETURNS if units < 0 else SPELLED_QUANTITIES
            number, price = str(10_000 + part), f"{1 + part / 10:.1f}"
            plain.append((f"{n}", number, f"{day}", f"{units}", price))
            mixed.append(
                (
                    _way(SPELLED_PARTS, ways[0]).format(n),
                    _way(SPELLED_PARTS, ways[1]).format(number),
                    day.strftime(_way(SPELLED_DATES, ways[2])),
                    _way(returned, ways[3]).format(abs(units)),
                    _way(SPELLED_PRICES, ways[4]).format(price),
                )
            )
        pd.testing.assert_frame_equal(
            _spelled_demand(engine, mixed), _spelled_demand(engine, plain), check_exact=True
        )

    tries()


def _way(ways: Sequence[str], number: int) -> str:
    return ways[number % len(ways)]


def _spelled_demand(engine: Engine, texts: Sequence[tuple[str, ...]]) -> pd.DataFrame:
    """Monthly demand of lines of which order, part, date, quantity and price are given."""
    names = ("Order", "Part", "Date", "Qty", "Price")
    rows = [("d", n, None, None, *values) for n, values in enumerate(texts, 2)]
    schema = "_delivery_id STRING, _line_number BIGINT, _problem STRING, _raw STRING" + "".join(
        f", {name} STRING" for name in names
    )
    bronze = dated_lines(
        engine.session.createDataFrame(rows, schema), SPELLED, FIRST, LAST
    ).withColumn("_source", F.lit("shop"))
    lines = transforms.canonical_lines(bronze, SPELLED)
    disposed = engine.hold(transforms.disposed_lines(lines, {"d": 1}, {}, [SPELLED]))
    sales = engine.hold(transforms.sales_orders(disposed))
    announced = engine.session.createDataFrame(
        [], "part_number STRING, announced_month INT, description STRING"
    )
    months = month_range(FIRST, LAST)
    made = transforms.monthly_demand(sales, transforms.parts(sales, announced), months, months)
    demand: pd.DataFrame = made.toPandas().sort_values(["part_number", "yyyymm"], ignore_index=True)
    for frame in (disposed, sales):
        engine.release(frame)
    return demand


Slices = dict[int, dict[str, float]]
MONTHS = (202201, 202202, 202203)


def slices(months: st.SearchStrategy[int]) -> st.SearchStrategy[Slices]:
    """Units of up to three parts in some months."""
    return st.dictionaries(
        months,
        st.dictionaries(
            st.sampled_from(["P1", "P2", "P3"]), st.sampled_from([1.0, 2.0]), min_size=1
        ),
        min_size=1,
    )


def nothing_spills(lake: DeltaLakehouse) -> None:
    """A write of months leaves rows and files of all others as they are, makes its own what was
    given, and again writes nothing.
    """
    count = 0

    @TRIES
    @given(slices(st.sampled_from(MONTHS)), slices(st.sampled_from(MONTHS)))
    def tries(before: Slices, written: Slices) -> None:
        nonlocal count
        count += 1
        spec = units_table(f"spill_{id(tries)}_{count}")
        lake.merge(spec, _rows(lake, spec, before), [*before])
        stored = _stored(lake, spec)
        untouched = {month: _files(lake, spec, month) for month in before if month not in written}
        made = lake.merge(spec, _rows(lake, spec, written), [*written], may_remove=True)
        assert _stored(lake, spec) == {**stored, **written}
        assert {month: _files(lake, spec, month) for month in untouched} == untouched
        assert (
            lake.merge(spec, _rows(lake, spec, written), [*written]).delta_version
            == made.delta_version
        )

    tries()


def _rows(lake: DeltaLakehouse, spec: TableSpec, units: Slices) -> DataFrame:
    return lake.create_frame(
        spec,
        [
            {"yyyymm": m, "part_number": p, "units": u}
            for m, parts in units.items()
            for p, u in parts.items()
        ],
    )


def _stored(lake: DeltaLakehouse, spec: TableSpec) -> Slices:
    found: Slices = {}
    for row in lake.rows(spec).itertuples():
        found.setdefault(int(row.yyyymm), {})[row.part_number] = row.units
    return found


def _files(lake: DeltaLakehouse, spec: TableSpec, month: int) -> dict[str, bytes]:
    uris = DeltaTable(lake.path(spec)).file_uris(
        file_pruning_predicate=[("yyyymm", "=", str(month))]
    )
    return {uri: Path(uri.removeprefix("file://")).read_bytes() for uri in uris}


@pytest.fixture
def lake(engine: Engine, tmp_path: Path) -> Iterator[DeltaLakehouse]:
    """An empty lakehouse."""
    settings = parse_settings(
        {"lakehouse_root": "lakehouse", "first_month": FIRST, "sources": [SOURCE]},
        tmp_path / "test.yaml",
    )
    yield open_lakehouse(engine, settings)
    forget_tables(engine, settings)


def test_nothing_leaks(engine: Engine) -> None:
    """Lines of later months leave every figure and forecast of an earlier origin as it was."""
    nothing_leaks(engine)


def test_order_is_no_matter(engine: Engine) -> None:
    """Files and lines in any order, in any number of partitions, lead to the same digits."""
    order_is_no_matter(engine)


def test_spelling_is_no_matter(engine: Engine) -> None:
    """Any mixture of spellings of the same order lines gives the same monthly demand."""
    spelling_is_no_matter(engine)


def test_nothing_spills(lake: DeltaLakehouse) -> None:
    """A write of some months leaves rows and files of the others alone, and again does nothing."""
    nothing_spills(lake)


def test_a_feature_that_peeks_is_found(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lag that looks one month ahead fails the tries on leaks."""
    honest = transforms.demand_features

    def peeking(
        demand: DataFrame, parts: DataFrame, months: Sequence[int], settings: ForecastSettings
    ) -> DataFrame:
        ahead = demand.select(
            "part_number", F.col("yyyymm").alias("ahead"), F.col("demand_qty").alias("peeked")
        )
        next_month = F.expr(
            "CAST(date_format(add_months(to_date(CAST(yyyymm AS STRING), 'yyyyMM'), 1), 'yyyyMM')"
            " AS INT)"
        )
        made = honest(demand, parts, months, settings).withColumn("ahead", next_month)
        return (
            made.join(ahead, ["part_number", "ahead"], "left")
            .withColumn("demand_lag_1", F.col("peeked"))
            .drop("ahead", "peeked")
        )

    monkeypatch.setattr(transforms, "demand_features", peeking)
    assert is_found(lambda: nothing_leaks(engine))


def test_a_tie_broken_by_row_order_is_found(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A region taken from whichever line of the part comes first in its file fails the tries on
    order.
    """
    honest = transforms.canonical_lines

    def careless(bronze: DataFrame, source: Source) -> DataFrame:
        first = Window.partitionBy("part_number", "yyyymm").orderBy("line_number")
        return honest(bronze, source).withColumn("region", F.first("region").over(first))

    monkeypatch.setattr(transforms, "canonical_lines", careless)
    assert is_found(lambda: order_is_no_matter(engine))


def test_a_merge_without_its_months_is_found(
    lake: DeltaLakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge that is not cut to the months it writes fails the tries on spills."""
    monkeypatch.setattr(Scope, "of_months", lambda scope, prefix="", quote="`": "true")
    assert is_found(lambda: nothing_spills(lake))


def is_found(tries: Callable[[], None]) -> bool:
    """Whether the tries failed on what they assert."""
    try:
        tries()
    except AssertionError:
        return True
    return False
