"""The fakes do what the real resources do, at the points that tests rely on."""

from __future__ import annotations

import inspect

import pandas as pd
import pytest

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
from tests.fakes import (
    Crash,
    FakeFrame,
    FakeLakehouse,
    FakeOrderFiles,
    FakeTracking,
    Journal,
    functions,
)

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
) -> FakeFrame:
    return FakeFrame(
        pd.DataFrame(
            [(m, p, v, note, run_id, model) for m, p, v in rows], columns=PRICES.column_names
        )
    )


TWO = ((202401, "a", 1.0), (202402, "a", 2.0))


@pytest.mark.parametrize(
    ("fake", "real", "promised"),
    [
        (FakeLakehouse, DeltaLakehouse, Lakehouse),
        (fakes.FakeLedger, Ledger, {"slices", "record"}),
        (fakes.FakeUpkeep, Upkeep, Upkeep),
        (FakeTracking, MlflowTracking, Tracking),
        (fakes.FakeRegistry, MlflowRegistry, Registry),
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
        lakehouse.merge(
            PRICES,
            FakeFrame(
                [
                    {
                        "yyyymm": 202401,
                        "part": None,
                        "price": 1.0,
                        "note": "",
                        "run_id": "",
                        "model": "",
                    }
                ]
            ),
            [202401],
        )
    lakehouse.conflicts = 1
    with pytest.raises(ConcurrentWrite):
        lakehouse.merge(PRICES, prices(*((202401, part, 2.0) for part in "abcdefghij")), [202401])
    assert lakehouse.version(PRICES) == 1
    assert set(lakehouse.rows(PRICES)["price"]) == {1.0}


def test_versions_can_be_read_again() -> None:
    """A table that does not exist has version -1 and no rows, one that was only read version 0; a
    pinned version keeps its rows.
    """
    lakehouse = FakeLakehouse()
    assert (lakehouse.version(PRICES), len(lakehouse.rows(PRICES, ["part"]))) == (-1, 0)
    assert (lakehouse.read(PRICES).count(), lakehouse.version(PRICES)) == (0, 0)
    lakehouse.append(PRICES, prices(TWO[0]))
    lakehouse.append(PRICES, prices(TWO[1]))
    assert lakehouse.read(PRICES, [202401, 202402], version=1).toPandas()["yyyymm"].tolist() == [
        202401
    ]


def test_rows_are_typed_and_cut() -> None:
    """An empty table has its types, one that does not exist has none; months and writers are
    filters, and the log counts rows.
    """
    lakehouse = FakeLakehouse()
    assert lakehouse.rows(PRICES)["yyyymm"].dtype == object
    assert (
        lakehouse.read(PRICES).toPandas()["yyyymm"].dtype
        == lakehouse.rows(PRICES)["yyyymm"].dtype
        == "int32"
    )
    for model in ("m", "n"):
        lakehouse.append(PRICES, prices(*TWO, model=model))
    assert lakehouse.rows(PRICES, ["model"], [202401], ["n"]).to_dict("list") == {"model": ["n"]}
    assert not lakehouse.files(PARTS).num_rows
    assert share_of_parts(lakehouse, PARTS, [202401], 1) == 1
    lakehouse.append(
        PARTS, FakeFrame([fakes.filled(PARTS, part_number=f"P{n}") for n in range(200)])
    )
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
    """Frames are copies."""
    lakehouse = FakeLakehouse()
    lakehouse.append(PRICES, prices(*TWO))
    for rows in (lakehouse.rows(PRICES), lakehouse.read(PRICES).toPandas()):
        rows["price"] = 0.0
    assert lakehouse.rows(PRICES)["price"].sum() == 3.0


def test_frames_follow_spark_where_it_matters() -> None:
    """Conditions, semi and anti joins, aggregates, and results of bucket functions that must fit
    their schema.
    """
    F, frame = (
        functions,
        FakeFrame([{"part": "a", "n": 1}, {"part": "b", "n": 2}, {"part": "b", "n": 3}]),
    )
    other = FakeFrame([{"part": "b"}])
    assert [r["n"] for r in frame.where((F.col("n") > 1) & (F.col("part") == "b")).collect()] == [
        2,
        3,
    ]
    assert frame.where("part = 'b' AND n <> 2").count() == frame.where("true").count() - 2
    assert frame.join(other, "part", "left_semi").count() == 2
    assert frame.join(other, ["part"], "left_anti").count() == 1
    assert frame.groupBy("part").agg(F.sum("n").alias("total")).collect()[1] == {
        "part": "b",
        "total": 5,
    }
    doubled = frame.groupBy("part").applyInPandas(
        lambda rows: rows.assign(n=rows["n"] * 2), "part STRING, n INT"
    )
    assert doubled.toPandas()["n"].tolist() == [2, 4, 6]
    with pytest.raises(ValueError, match="its schema differ"):
        frame.groupBy("part").applyInPandas(lambda rows: rows, "part STRING")
    assert fakes.ddl_names("a STRING, `b` ARRAY<STRUCT<c: INT, d: INT>>, e DECIMAL(24,6)") == [
        "a",
        "b",
        "e",
    ]


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
    """Equal content gives an equal delivery, line numbers start after the header, and a broken file
    is refused.
    """
    source, line = settings.sources[0], {"Order": "1", "Part": "P1"}
    orders = FakeOrderFiles({"shop": {"a.csv": [line, line], "b.csv": [line, line], "c.csv": None}})
    first, second = (orders.describe(source, path) for path in orders.paths(source)[:2])
    assert (first.delivery_id, first.column_names) == (second.delivery_id, ("Order", "Part"))
    assert orders.lines(None, source, [first]).toPandas()["_line_number"].tolist() == [2, 3]
    with pytest.raises(UnreadableFile, match=r"c\.csv"):
        orders.describe(source, "c.csv")


def test_filled_rows_fit_their_table() -> None:
    """Required columns get a value, so that the row can be stored."""
    lakehouse = FakeLakehouse()
    lakehouse.append(PRICES, FakeFrame([fakes.filled(PRICES, yyyymm=202401)]))
    row = lakehouse.rows(PRICES).iloc[0]
    assert row.dropna().to_dict() == {"yyyymm": 202401, "part": "x"}
