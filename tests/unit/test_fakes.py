"""The fakes do what the real resources do, at the points that tests rely on."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F

from medallion_assets.tables import PARTS
from medallion_assets.zoo.sampling import share_of_parts
from resources.lakehouse import (
    Column,
    ConcurrentWrite,
    DeltaLakehouse,
    Lakehouse,
    RemovalRefused,
    Slice,
    TableSpec,
)
from resources.ledger import Ledger
from resources.mlflow_connection import TrackingUnavailable
from resources.orders import LocalOrderFiles, OrderFiles, UnreadableFile
from resources.registry import MlflowRegistry, Registry
from resources.settings import Settings
from resources.tracking import COMMITTED, MlflowTracking, RunContent, Tracking
from resources.upkeep import Upkeep
from tests import fakes
from tests.fake_tracking import FakeRegistry, FakeTracking
from tests.fakes import Crash, FakeLakehouse, FakeOrderFiles, Journal

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PRICES = TableSpec(
    layer="silver",
    name="prices",
    comment="",
    grain="",
    key=("yyyymm", "part"),
    columns=(
        Column("yyyymm", "INT", "", is_nullable=False),
        Column("part", "STRING", "", is_nullable=False),
        Column("price", "DOUBLE", ""),
        Column("note", "STRING", "", is_versioned=False),
        Column("run_id", "STRING", "", is_volatile=True),
        Column("model", "STRING", ""),
    ),
    write="merge",
    code_version="1",
    owner="team:data",
    writer_column="model",
)


def prices(
    *rows: tuple[int, str, float], note: str = "", run_id: str = "r1", model: str = ""
) -> list[dict[str, Any]]:
    values = [(m, p, v, note, run_id, model) for m, p, v in rows]
    return [dict(zip(PRICES.column_names, row, strict=True)) for row in values]


TWO = ((202401, "a", 1.0), (202402, "a", 2.0))


@pytest.mark.parametrize(
    ("fake", "real", "promised"),
    [
        (FakeLakehouse, DeltaLakehouse, Lakehouse),
        (fakes.FakeLedger, Ledger, {"slices", "record"}),
        (fakes.FakeUpkeep, Upkeep, Upkeep),
        (FakeTracking, MlflowTracking, Tracking),
        (FakeRegistry, MlflowRegistry, Registry),
        (FakeOrderFiles, LocalOrderFiles, OrderFiles),
    ],
)
def test_fakes_have_the_methods_of_the_real_ones(
    fake: type, real: type, promised: type | set[str]
) -> None:
    """Every public method that is promised takes the same arguments."""
    names = promised if isinstance(promised, set) else vars(promised)
    for name in (n for n in names if not n.startswith("_")):
        if isinstance(getattr(real, name), property):
            assert hasattr(fake(), name), name
            continue
        expected, found = (
            list(inspect.signature(getattr(kind, name)).parameters) for kind in (real, fake)
        )
        assert found == expected, name


def test_merging_twice_changes_nothing() -> None:
    """The second merge of the same rows counts nothing, and makes no version."""
    lakehouse = FakeLakehouse()
    first, again = (lakehouse.merge(PRICES, prices(*TWO), [202401, 202402]) for _ in range(2))
    assert (first.delta_version, first.months[202401].inserted) == (1, 1)
    assert (again.delta_version, again.is_changed) == (1, False)
    assert again.months[202401].data_version == first.months[202401].data_version


def test_a_merge_leaves_other_months_and_writers() -> None:
    """Rows of other months and of other writers stay; updated and deleted rows are counted by
    month.
    """
    lakehouse = FakeLakehouse(max_removed_share=1)
    lakehouse.merge(PRICES, prices(*TWO), [202401, 202402])
    lakehouse.merge(PRICES, prices((202401, "b", 5.0), model="other"), [202401], "other")
    result = lakehouse.merge(PRICES, prices((202401, "a", 9.0)), [202401])
    assert (result.months[202401].updated, result.months[202401].deleted) == (1, 0)
    assert lakehouse.merge(PRICES, prices(), [202402]).months[202402].deleted == 1
    assert sorted(lakehouse.rows(PRICES)["price"]) == [5.0, 9.0]


def test_volatile_columns_are_no_change_and_unversioned_ones_no_new_data_version() -> None:
    """Another run id is not written; another note is written under the same data version."""
    lakehouse = FakeLakehouse()
    first = lakehouse.merge(PRICES, prices(*TWO), [202401, 202402]).months[202401]
    assert not lakehouse.merge(PRICES, prices(*TWO, run_id="r2"), [202401, 202402]).is_changed
    noted = lakehouse.merge(PRICES, prices(*TWO, note="new"), [202401, 202402]).months[202401]
    assert (noted.updated, noted.data_version) == (1, first.data_version)


def test_merges_are_refused_before_anything_is_written() -> None:
    """Rows outside the months, too many removals, a missing required value and a lost race leave
    the table as it was.
    """
    lakehouse = FakeLakehouse()
    lakehouse.merge(PRICES, prices(*((202401, part, 1.0) for part in "abcdefghij")), [202401])
    with pytest.raises(ValueError, match="nothing was written"):
        lakehouse.merge(PRICES, prices(*TWO), [202401])
    with pytest.raises(RemovalRefused, match="remove 9 of 10 rows"):
        lakehouse.merge(PRICES, prices((202401, "a", 1.0)), [202401])
    with pytest.raises(ValueError, match="part must not be NULL"):
        lakehouse.merge(PRICES, [{**prices(TWO[0])[0], "part": None}], [202401])
    lakehouse.conflicts = 1
    with pytest.raises(ConcurrentWrite):
        lakehouse.merge(PRICES, prices(*((202401, part, 2.0) for part in "abcdefghij")), [202401])
    assert lakehouse.version(PRICES) == 1
    assert set(lakehouse.rows(PRICES)["price"]) == {1.0}


def test_versions_can_be_read_again() -> None:
    """A table that does not exist has version -1 and no rows; a pinned version keeps its rows."""
    lakehouse = FakeLakehouse()
    assert (lakehouse.version(PRICES), len(lakehouse.rows(PRICES, ["part"]))) == (-1, 0)
    lakehouse.append(PRICES, prices(TWO[0]))
    lakehouse.append(PRICES, prices(TWO[1]))
    assert lakehouse.rows(PRICES, months=[202401, 202402], version=1)["yyyymm"].tolist() == [202401]


def test_rows_are_typed_and_cut() -> None:
    """An empty table has its types, one that does not exist has none; months and writers are
    filters, and the log counts rows.
    """
    lakehouse = FakeLakehouse()
    assert lakehouse.rows(PRICES)["yyyymm"].dtype == object
    lakehouse.append(PRICES, [])
    assert lakehouse.rows(PRICES)["yyyymm"].dtype == "int32"
    for model in ("m", "n"):
        lakehouse.append(PRICES, prices(*TWO, model=model))
    assert lakehouse.rows(PRICES, ["model"], [202401], ["n"]).to_dict("list") == {"model": ["n"]}
    assert not lakehouse.files(PARTS).num_rows
    assert share_of_parts(lakehouse, PARTS, [202401], 1) == 1
    lakehouse.append(PARTS, [fakes.filled(PARTS, part_number=f"P{n}") for n in range(200)])
    assert lakehouse.files(PARTS, [1])["num_records"].to_pylist() == [200]
    assert share_of_parts(lakehouse, PARTS, [1], 100) == 0.5


def test_the_ledger_keeps_the_newest_slice_of_a_writer() -> None:
    """Details come back as JSON gives them; another writer's slices are not seen."""
    lakehouse = FakeLakehouse()
    lakehouse.ledger.record(
        PRICES,
        [
            Slice(202401, "m", "d1", "i1", 1, 1),
            Slice(202401, "m", "d2", "i2", 1, 2, {"by": (1, 2)}),
        ],
        "run",
    )
    assert lakehouse.ledger.slices(PRICES) == {}
    assert lakehouse.ledger.slices(PRICES, "m")[202401] == Slice(
        202401, "m", "d2", "i2", 1, 2, {"by": [1, 2]}
    )


def test_what_was_read_can_not_change_the_table() -> None:
    """Rows are copies."""
    lakehouse = FakeLakehouse()
    lakehouse.append(PRICES, prices(*TWO))
    lakehouse.rows(PRICES)["price"] = 0.0
    assert lakehouse.rows(PRICES)["price"].sum() == 3.0


@pytest.mark.spark
def test_a_frame_comes_from_the_table_and_goes_into_it(spark: SparkSession) -> None:
    """Frames are the engine's, with the types of the columns also where there is no row; what is
    written of one is what was read.
    """
    lakehouse = FakeLakehouse(session=spark)
    empty = lakehouse.read(PRICES)
    assert (empty.count(), lakehouse.version(PRICES)) == (0, 0)
    lakehouse.append(PRICES, prices(*TWO))
    lakehouse.append(PRICES, lakehouse.read(PRICES, [202401]).withColumns({"part": F.lit("b")}))
    stored = lakehouse.rows(PRICES)
    assert stored[["yyyymm", "part", "price"]].to_numpy().tolist() == [
        [202401, "a", 1.0],
        [202402, "a", 2.0],
        [202401, "b", 1.0],
    ]
    assert lakehouse.read(PRICES, version=1).count() == 2
    assert lakehouse.read(PRICES).dtypes == empty.dtypes


@pytest.mark.spark
def test_a_frame_that_is_held_stays_as_it_is(spark: SparkSession) -> None:
    """It is the rows of the moment at which it was held, also where there are none."""
    engine = FakeLakehouse(session=spark).engine
    drawn = spark.range(3).selectExpr("rand() AS x")
    for rows in (drawn, drawn.limit(0)):
        held = engine.hold(rows)
        assert held.toPandas().equals(held.toPandas())


def test_a_run_ends_committed_failed_or_killed() -> None:
    """Only runs that still count as running are ended as killed, and a second value of a parameter
    is refused.
    """
    tracking = FakeTracking()
    done, lost, failed = (
        tracking.start(name, {"month": "202401"}) for name in ("done", "lost", "failed")
    )
    tracking.log(done, RunContent(parameters={"alpha": 1}, metrics={"mae": 2.0, "mape": None}))
    with pytest.raises(ValueError, match="alpha"):
        tracking.log(done, RunContent(parameters={"alpha": 2}))
    tracking.commit(done)
    tracking.fail(failed)
    assert tracking.end_killed({"month": "202402"}) == []
    assert tracking.end_killed({"month": "202401"}) == [lost]
    assert [run.status for run in tracking.runs.values()] == ["FINISHED", "KILLED", "FAILED"]
    assert (tracking.runs[done].metrics, tracking.runs[done].tags[COMMITTED]) == (
        {"mae": 2.0},
        "true",
    )


def test_versions_rise_and_the_alias_follows() -> None:
    """A run without a model can't be registered; versions count from 1; the alias names one that
    exists.
    """
    tracking = FakeTracking()
    run_id = tracking.start("m", {})
    with pytest.raises(ValueError, match="no model"):
        tracking.registry.register(run_id, {})
    tracking.log(run_id, RunContent(model={"smooth": "naive"}))
    assert (
        tracking.registry.alias(),
        tracking.registry.register(run_id, {}),
        tracking.registry.register(run_id, {}),
    ) == (
        None,
        1,
        2,
    )
    tracking.registry.set_alias(2)
    with pytest.raises(KeyError):
        tracking.registry.set_alias(3)
    assert (
        tracking.registry.alias(),
        tracking.registry.load_version(2),
        tracking.load(run_id),
    ) == (
        2,
        {"smooth": "naive"},
        {"smooth": "naive"},
    )


def test_an_unreachable_server_answers_nothing() -> None:
    """check says so in the words of the real one, and nothing else works either."""
    tracking = FakeTracking(unreachable=True)
    for call in (
        tracking.check,
        tracking.registry.alias,
        lambda: tracking.start("m", {}),
        lambda: tracking.registry.load_version(1),
    ):
        with pytest.raises(TrackingUnavailable, match="does not answer"):
            call()


def test_a_crash_comes_once_and_leaves_no_trace() -> None:
    """Lakehouse and tracking share one journal; what was to come after the crash is not in it."""
    journal = Journal()
    lakehouse, tracking = FakeLakehouse(journal), FakeTracking(journal)
    journal.crash_before = "append silver.prices"
    tracking.start("m", {})
    with pytest.raises(Crash):
        lakehouse.append(PRICES, prices(*TWO))
    assert (journal, lakehouse.version(PRICES)) == (["start m"], 0)
    assert lakehouse.append(PRICES, prices(*TWO)) == 1


def test_order_files_are_known_by_content(settings: Settings) -> None:
    """Equal content gives an equal delivery, and a broken file is refused."""
    source, line = settings.sources[0], {"Order": "1", "Part": "P1"}
    orders = FakeOrderFiles({"shop": {"a.csv": [line, line], "b.csv": [line, line], "c.csv": None}})
    first, second = (orders.describe(source, path) for path in orders.paths(source)[:2])
    assert (first.delivery_id, first.column_names) == (second.delivery_id, ("Order", "Part"))
    with pytest.raises(UnreadableFile, match=r"c\.csv"):
        orders.describe(source, "c.csv")


@pytest.mark.spark
def test_lines_of_order_files_are_numbered(spark: SparkSession, settings: Settings) -> None:
    """Lines are text, and their numbers start after the header."""
    source, line = settings.sources[0], {"Order": "1", "Part": "P1"}
    orders = FakeOrderFiles({"shop": {"a.csv": [line, line]}})
    lines = orders.lines(spark, source, [orders.describe(source, "a.csv")])
    assert lines.select("_line_number", "Part").toPandas().to_numpy().tolist() == [
        [2, "P1"],
        [3, "P1"],
    ]


def test_filled_rows_fit_their_table() -> None:
    """Required columns get a value, so that the row can be stored."""
    lakehouse = FakeLakehouse()
    lakehouse.append(PRICES, [fakes.filled(PRICES, yyyymm=202401)])
    row = lakehouse.rows(PRICES).iloc[0]
    assert row.dropna().to_dict() == {"yyyymm": 202401, "part": "x"}
