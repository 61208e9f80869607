"""Real Delta tables: a write changes its own slices and nothing else, and writes nothing where
nothing differs.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from medallion_assets.tables import BRONZE_SALES_ORDERS, DECILES, ZOO_FORECAST
from medallion_assets.zoo.sampling import PartSample
from resources import lakehouse, writers
from resources.engines import Engine, SparkEngine
from resources.errors import Refused
from resources.lakehouse import (
    LEDGER,
    MAX_FILES,
    Column,
    ConcurrentWrite,
    DeltaLakehouse,
    MonthWritten,
    RemovalRefused,
    Slice,
    TableSpec,
    _slice_versions,
)
from resources.settings import parse_settings
from tests.conftest import SOURCE, forget_tables, open_lakehouse, units_table

pytestmark = pytest.mark.spark

JANUARY, FEBRUARY, MARCH, APRIL = 202201, 202202, 202203, 202204
Units = Mapping[int, Mapping[str, float]]


@pytest.fixture(scope="module")
def lake(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeltaLakehouse]:
    """One lakehouse for the tests of this file, each with tables of its own."""
    content = {"lakehouse_root": "lakehouse", "first_month": JANUARY, "sources": [SOURCE]}
    settings = parse_settings(content, tmp_path_factory.mktemp("lake") / "test.yaml")
    yield open_lakehouse(engine, settings)
    forget_tables(engine, settings)


def frame(lake: DeltaLakehouse, spec: TableSpec, units: Units, run_id: str = "run 1") -> DataFrame:
    rows = [
        {"yyyymm": m, "part_number": p, "units": u, "run_id": run_id}
        for m, parts in units.items()
        for p, u in parts.items()
    ]
    return lake.create_frame(spec, rows)


def contents(lake: DeltaLakehouse, spec: TableSpec) -> dict[int, dict[str, float]]:
    """What is stored: units by month and part."""
    result: dict[int, dict[str, float]] = {}
    for row in lake.rows(spec).sort_values(["yyyymm", "part_number"]).itertuples():
        result.setdefault(row.yyyymm, {})[row.part_number] = row.units
    return result


def files(
    lake: DeltaLakehouse, spec: TableSpec, partitions: Sequence[tuple[str, str, Any]]
) -> dict[str, bytes]:
    """Names and bytes of the files that the newest version of the table has in some partitions."""
    return {
        uri: Path(uri.removeprefix("file://")).read_bytes()
        for uri in DeltaTable(lake.path(spec)).file_uris(file_pruning_predicate=list(partitions))
    }


def forecasts(lake: DeltaLakehouse, model: str, quantity: float) -> DataFrame:
    """Two parts' forecasts of January by one model."""
    common = {
        "yyyymm": JANUARY,
        "model": model,
        "horizon": 1,
        "target_yyyymm": FEBRUARY,
        "is_fallback": False,
    }
    common |= dict.fromkeys(("forecast_qty", *DECILES), quantity)
    return lake.create_frame(
        ZOO_FORECAST, [common | {"part_number": part} for part in ("P1", "P2")]
    )


def bronze_line(line_number: int, month: int = JANUARY) -> dict[str, Any]:
    return {
        "yyyymm": month,
        "_source": "shop",
        "_delivery_id": "d1",
        "_line_number": line_number,
        "_row_hash": f"hash {line_number}",
        "_occurrence": 1,
    }


def test_the_same_rows_again_make_no_version(lake: DeltaLakehouse) -> None:
    """A second merge of the same rows leaves the Delta version and counts nothing as changed."""
    spec = units_table("twice")
    rows = frame(lake, spec, {JANUARY: {"P1": 1.0, "P2": 2.0}, FEBRUARY: {"P1": 3.0}})
    first = lake.merge(spec, rows, [JANUARY, FEBRUARY])
    second = lake.merge(spec, rows, [JANUARY, FEBRUARY])
    assert [m.inserted for m in first.months.values()] == [2, 1]
    assert second.delta_version == first.delta_version
    assert not second.is_changed
    assert second.months == {
        m: MonthWritten(w.row_count, w.data_version) for m, w in first.months.items()
    }


def test_a_volatile_column_alone_is_no_change(lake: DeltaLakehouse) -> None:
    """Rows that differ only in their run id are not written."""
    spec = units_table("volatile")
    first = lake.merge(spec, frame(lake, spec, {JANUARY: {"P1": 1.0}}, "run 1"), [JANUARY])
    second = lake.merge(spec, frame(lake, spec, {JANUARY: {"P1": 1.0}}, "run 2"), [JANUARY])
    assert (second.delta_version, second.is_changed) == (first.delta_version, False)
    assert second.months[JANUARY].data_version == first.months[JANUARY].data_version
    assert list(lake.rows(spec)["run_id"]) == ["run 1"]


@pytest.mark.parametrize(
    ("name", "written"), [("one_month", [FEBRUARY]), ("a_range", [FEBRUARY, MARCH])]
)
def test_a_write_leaves_the_other_months(
    lake: DeltaLakehouse, name: str, written: list[int]
) -> None:
    """Writing a month or a range changes no row, file name or byte of the other months."""
    spec = units_table(name)
    before: Units = {month: {"P1": 1.0, "P2": 2.0} for month in (JANUARY, FEBRUARY, MARCH, APRIL)}
    lake.merge(spec, frame(lake, spec, before), list(before))
    others = [("yyyymm", "not in", [str(month) for month in written])]
    kept = files(lake, spec, others)
    change = {month: {"P1": 1.0, "P2": 9.0, "P3": 3.0} for month in written}
    result = lake.merge(spec, frame(lake, spec, change), written)
    assert {
        m: (w.inserted, w.updated, w.deleted) for m, w in result.months.items()
    } == dict.fromkeys(written, (1, 1, 0))
    assert contents(lake, spec) == {**before, **change}
    assert len(kept) == len(before) - len(written)
    assert files(lake, spec, others) == kept


def test_a_write_leaves_the_other_writer(lake: DeltaLakehouse) -> None:
    """A model's month in gold.zoo_forecast changes no file of another model's same month."""
    lake.merge(ZOO_FORECAST, forecasts(lake, "auto_ets", 5.0), [JANUARY], "auto_ets")
    lake.merge(ZOO_FORECAST, forecasts(lake, "naive", 1.0), [JANUARY], "naive")
    other = [("model", "=", "auto_ets")]
    kept = files(lake, ZOO_FORECAST, other)
    result = lake.merge(ZOO_FORECAST, forecasts(lake, "naive", 2.0), [JANUARY], "naive")
    stored = lake.rows(ZOO_FORECAST, ["model", "forecast_qty"])
    assert result.months[JANUARY].updated == 2
    assert kept
    assert files(lake, ZOO_FORECAST, other) == kept
    assert sorted(zip(stored["model"], stored["forecast_qty"], strict=True)) == 2 * [
        ("auto_ets", 5.0)
    ] + 2 * [("naive", 2.0)]


def test_a_slice_is_filled_once(lake: DeltaLakehouse) -> None:
    """Of two who found the same slice empty only one writes, at once or one after the other; a
    repeat changes nothing.
    """

    def fill(model: str) -> bool:
        try:
            table = lake._tables.open(lake.path(ZOO_FORECAST))
            lake._writer.append(
                ZOO_FORECAST,
                table,
                forecasts(lake, model, 5.0),
                (f"{model}/{JANUARY}", 1),
                {JANUARY: 2},
            )
        except ConcurrentWrite:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(fill, ["at_once", "at_once"])) == [False, True]
    assert [fill("in_turn"), fill("in_turn")] == [True, False]
    stored = lake.rows(ZOO_FORECAST, ["model"])["model"].value_counts()
    assert (stored["at_once"], stored["in_turn"]) == (2, 2)
    assert not lake.merge(
        ZOO_FORECAST, forecasts(lake, "in_turn", 5.0), [JANUARY], "in_turn"
    ).is_changed


def test_of_two_appends_with_one_number_one_is_stored(lake: DeltaLakehouse) -> None:
    """Who comes later under a number that is taken is told, and nothing of it is there; the next
    number is free.
    """
    spec = units_table("numbered")
    lake.append(spec, frame(lake, spec, {JANUARY: {"P1": 1.0}}), number=1)
    with pytest.raises(ConcurrentWrite):
        lake.append(spec, frame(lake, spec, {JANUARY: {"P2": 2.0}}), number=1)
    lake.append(spec, frame(lake, spec, {JANUARY: {"P3": 3.0}}), number=2)
    assert contents(lake, spec) == {JANUARY: {"P1": 1.0, "P3": 3.0}}


def test_a_column_of_a_newer_release_is_added(lake: DeltaLakehouse) -> None:
    """Rows of before have no value there; a column that must have one is refused."""
    spec = units_table("grown")
    lake.merge(spec, frame(lake, spec, {JANUARY: {"P1": 1.0}}), [JANUARY])
    grown = replace(spec, columns=(*spec.columns, Column("price", "DOUBLE", "price of a unit")))
    lake._ensured.discard(spec.id)
    lake.merge(
        grown,
        frame(lake, spec, {FEBRUARY: {"P1": 2.0}}).withColumn("price", F.lit(5.0)),
        [FEBRUARY],
    )
    rows = lake.rows(grown).sort_values("yyyymm")
    assert [None if price != price else price for price in rows["price"]] == [None, 5.0]
    lake._ensured.discard(spec.id)
    with pytest.raises(Refused, match="lacks colour, which no release can add to stored rows"):
        lake.read(
            replace(
                spec,
                columns=(*spec.columns, Column("colour", "STRING", "colour", is_nullable=False)),
            )
        )


def test_many_rows_of_a_month_make_several_files(
    lake: DeltaLakehouse, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Spark task has to write a month of any size alone; a small month stays one file."""
    if not isinstance(engine, SparkEngine):
        pytest.skip("delta-rs begins a new file by size")
    monkeypatch.setattr(writers, "ROWS_PER_FILE", 10)
    spec = units_table("large")
    lake.merge(spec, frame(lake, spec, {JANUARY: {f"P{i}": 1.0 for i in range(50)}}), [JANUARY])
    assert 3 <= lake.upkeep.storage(spec, [JANUARY])[0] <= 5
    lake.merge(spec, frame(lake, spec, {FEBRUARY: {f"P{i}": 1.0 for i in range(9)}}), [FEBRUARY])
    assert lake.upkeep.storage(spec, [FEBRUARY])[0] == 1


def test_a_restored_table_is_what_it_was_and_so_is_its_record(lake: DeltaLakehouse) -> None:
    """Rows and ledger go back together, and forth again; a month that was not there then is due."""
    spec = units_table("restored")
    first = lake.merge(spec, frame(lake, spec, {JANUARY: {"P1": 1.0}}), [JANUARY])
    lake.ledger.record(spec, [Slice(JANUARY, "", "old", "in 1", 1, first.delta_version)], "run 1")
    second = lake.merge(
        spec, frame(lake, spec, {JANUARY: {"P1": 9.0}, FEBRUARY: {"P1": 2.0}}), [JANUARY, FEBRUARY]
    )
    newer = [
        Slice(month, "", "new", "in 2", 1, second.delta_version) for month in (JANUARY, FEBRUARY)
    ]
    lake.ledger.record(spec, newer, "run 2")
    lake.upkeep.restore(spec, first.delta_version, "run 3")
    assert contents(lake, spec) == {JANUARY: {"P1": 1.0}}
    told = {
        month: (s.data_version, s.input_version) for month, s in lake.ledger.slices(spec).items()
    }
    assert told == {JANUARY: ("old", "in 1"), FEBRUARY: ("0-0", "")}
    lake.upkeep.restore(spec, second.delta_version, "run 4")
    assert contents(lake, spec) == {JANUARY: {"P1": 9.0}, FEBRUARY: {"P1": 2.0}}
    assert {month: s.data_version for month, s in lake.ledger.slices(spec).items()} == {
        JANUARY: "new",
        FEBRUARY: "new",
    }


def test_a_pinned_lakehouse_reads_the_past_and_writes_nothing(lake: DeltaLakehouse) -> None:
    """Rows, counts and versions are those of the pin, by Spark and without it."""
    spec = units_table("pinned")
    first = lake.merge(spec, frame(lake, spec, {JANUARY: {"P1": 1.0}}), [JANUARY]).delta_version
    lake.merge(spec, frame(lake, spec, {JANUARY: {"P1": 9.0}}), [JANUARY])
    then = lake.at({spec.id: first})
    assert (contents(then, spec), then.version(spec)) == ({JANUARY: {"P1": 1.0}}, first)
    assert [row["units"] for row in then.read(spec, [JANUARY]).collect()] == [1.0]
    with pytest.raises(ValueError, match="read at past versions is not written"):
        then.merge(spec, frame(lake, spec, {JANUARY: {"P1": 2.0}}), [JANUARY])
    for write in (
        lambda: then.upkeep.restore(spec, first, "run"),
        lambda: then.upkeep.vacuum(spec, 13 * 31 * 24),
        lambda: then.ledger.record(spec, [], "run"),
    ):
        with pytest.raises(ValueError, match="read at past versions is not written"):
            write()
    with pytest.raises(Refused, match="version 99 is no longer readable"):
        lake.rows(spec, version=99)


def test_vacuum_leaves_what_the_retention_promises(lake: DeltaLakehouse) -> None:
    """A file that a young version needs is none to be removed, and a shorter retention is
    refused.
    """
    spec = units_table("vacuumed")
    for value in (1.0, 2.0):
        lake.merge(spec, frame(lake, spec, {JANUARY: {"P1": value}}), [JANUARY])
    assert lake.upkeep.unneeded_files(spec, 13 * 31 * 24) == {}
    with pytest.raises(ValueError, match="less than the 403 days that stay readable"):
        lake.upkeep.vacuum(spec, 1)
    lake.upkeep.vacuum(spec, 13 * 31 * 24)
    assert contents(lake.at({spec.id: 1}), spec) == {JANUARY: {"P1": 1.0}}


def test_vanished_keys_are_deleted_in_the_slice_only(lake: DeltaLakehouse) -> None:
    """A part that a month no longer has is deleted there and stays in the others."""
    spec = units_table("vanished")
    month = {"P1": 1.0, "P2": 2.0, "P3": 3.0}
    lake.merge(spec, frame(lake, spec, {JANUARY: month, FEBRUARY: month}), [JANUARY, FEBRUARY])
    result = lake.merge(spec, frame(lake, spec, {JANUARY: {"P1": 1.0, "P2": 2.0}}), [JANUARY])
    assert result.months[JANUARY].deleted == 1
    assert contents(lake, spec) == {JANUARY: {"P1": 1.0, "P2": 2.0}, FEBRUARY: month}


@pytest.mark.parametrize("partition_by", [("yyyymm",), ()])
def test_a_key_that_comes_to_another_month_leaves_its_former_one(
    lake: DeltaLakehouse, partition_by: tuple[str, ...]
) -> None:
    """Where a key is no month's own its row moves: it is there once, the month that it left says
    so, and no removal is asked for, however many left.
    """
    name = f"moving_{len(partition_by)}"
    spec = replace(units_table(name), key=("part_number",), partition_by=partition_by)
    before = {JANUARY: {"P1": 1.0}, MARCH: {"P2": 2.0, "P3": 3.0, "P4": 4.0}, APRIL: {"P5": 5.0}}
    lake.merge(spec, frame(lake, spec, before), [JANUARY, FEBRUARY, MARCH, APRIL])
    after = {JANUARY: {"P1": 1.0, "P2": 2.0, "P3": 3.0}, FEBRUARY: {"P4": 4.0}}
    result = lake.merge(spec, frame(lake, spec, after), [JANUARY, FEBRUARY, MARCH])
    assert contents(lake, spec) == after | {APRIL: {"P5": 5.0}}
    counted = {m: (w.row_count, w.inserted, w.deleted, w.left) for m, w in result.months.items()}
    assert counted == {JANUARY: (3, 2, 0, 0), FEBRUARY: (1, 1, 0, 0), MARCH: (0, 0, 0, 3)}


def test_stored_lines_move_in_one_commit(lake: DeltaLakehouse) -> None:
    """Source columns, other lines of the months and files of other months stay; after another
    writer nothing is moved.
    """
    spec = replace(BRONZE_SALES_ORDERS, name="moving_orders")
    rows = [bronze_line(2), bronze_line(3), bronze_line(4, MARCH), bronze_line(5, APRIL)]
    named = lake.create_frame(spec, [row | {"_delivery_id": "moving"} for row in rows]).withColumn(
        "Moving", F.concat(F.lit("P"), "_line_number")
    )
    version = lake.append(spec, named, lake.next_number(spec))
    april = files(lake, spec, [("yyyymm", "=", str(APRIL))])
    is_moved = (F.col("_delivery_id") == "moving") & (F.col("_line_number") == 3)
    whole = lake.read(spec, [JANUARY, FEBRUARY], version)
    moved = whole.withColumn("_action", F.when(is_moved, "update").otherwise("keep")).withColumn(
        "yyyymm", F.when(is_moved, F.lit(FEBRUARY)).otherwise(F.col("yyyymm")).cast("int")
    )
    count = len(lake.rows(spec))
    after = lake.move(spec, moved, [JANUARY, FEBRUARY], version)
    stored = lake.rows(spec)
    own = stored[stored["_delivery_id"] == "moving"].sort_values("_line_number")
    assert list(zip(own["yyyymm"], own["Moving"], strict=True)) == [
        (JANUARY, "P2"),
        (FEBRUARY, "P3"),
        (MARCH, "P4"),
        (APRIL, "P5"),
    ]
    assert (len(stored), after) == (count, version + 1)
    assert files(lake, spec, [("yyyymm", "=", str(APRIL))]) == april
    with pytest.raises(ConcurrentWrite, match=f"after version {version}"):
        lake.move(spec, moved, [JANUARY, FEBRUARY], version)


def test_a_removal_may_be_let_for_some_months(lake: DeltaLakehouse) -> None:
    """Only the months named may lose rows; another stops the write."""
    spec = units_table("let")
    both = {month: {f"P{i}": 1.0 for i in range(5)} for month in (JANUARY, FEBRUARY)}
    lake.merge(spec, frame(lake, spec, both), [JANUARY, FEBRUARY])
    fewer = frame(lake, spec, {JANUARY: {"P1": 1.0}, FEBRUARY: {"P1": 1.0}})
    with pytest.raises(RemovalRefused, match=f"writing {FEBRUARY} would remove 4 of 5"):
        lake.merge(spec, fewer, [JANUARY, FEBRUARY], may_remove={JANUARY})
    lake.merge(spec, fewer, [JANUARY, FEBRUARY], may_remove={JANUARY, FEBRUARY})
    assert contents(lake, spec) == {JANUARY: {"P1": 1.0}, FEBRUARY: {"P1": 1.0}}


def test_a_refused_removal_writes_nothing(lake: DeltaLakehouse) -> None:
    """A write that would remove most of one month is refused as a whole, its other months and rows
    included.
    """
    spec = units_table("refused")
    before = {JANUARY: {f"P{i}": float(i) for i in range(5)}, FEBRUARY: {"P1": 1.0}}
    version = lake.merge(spec, frame(lake, spec, before), list(before)).delta_version
    with pytest.raises(
        RemovalRefused, match=r"writing 202201 would remove 3 of 5 rows.*Nothing was written"
    ):
        lake.merge(
            spec,
            frame(lake, spec, {JANUARY: {"P0": 7.0, "P1": 1.0}, FEBRUARY: {"P1": 2.0}}),
            list(before),
        )
    assert lake.version(spec) == version
    assert contents(lake, spec) == before


def test_rows_outside_the_months_are_refused(lake: DeltaLakehouse) -> None:
    """A row of a month that the write does not name stops it before anything is written."""
    spec = units_table("outside")
    with pytest.raises(ValueError, match=r"rows of \[202202\] in a write of 202201"):
        lake.merge(
            spec, frame(lake, spec, {JANUARY: {"P1": 1.0}, FEBRUARY: {"P1": 1.0}}), [JANUARY]
        )
    assert contents(lake, spec) == {}


def test_a_table_that_another_tool_has_touched_is_read_by_part(lake: DeltaLakehouse) -> None:
    """Files that delta-rs has put together and updated give the rows of the parts asked for; no
    part asked for is no row.
    """
    spec = units_table("touched")
    lake.merge(spec, frame(lake, spec, {JANUARY: {f"P{n}": float(n) for n in range(9)}}), [JANUARY])
    table = DeltaTable(lake.path(spec))
    table.optimize.compact()
    table.update(updates={"units": "units"})
    wanted = [f"P{n}" for n in range(2, 7)]
    assert sorted(lake.rows(spec, ["units"], [JANUARY], parts=wanted)["units"]) == [
        2.0,
        3.0,
        4.0,
        5.0,
        6.0,
    ]
    assert list(lake.rows(spec, ["units"], parts=[]).columns) == ["units"]


def test_years_of_records_lie_in_few_files(
    lake: DeltaLakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's small files, and those of a table that is appended to, are put together; nothing
    of them is lost.
    """
    spec = replace(units_table("appended"), partition_by=())
    for n in range(MAX_FILES + 1):
        lake.ledger.record(
            spec, [Slice(JANUARY + n % 12, "", f"version {n}", "in", n, n)], f"run {n}"
        )
    assert len(DeltaTable(lake.path(LEDGER)).file_uris()) < MAX_FILES
    assert {month: s.data_version for month, s in lake.ledger.slices(spec).items()} == {
        JANUARY + n % 12: f"version {n}" for n in range(MAX_FILES - 11, MAX_FILES + 1)
    }
    monkeypatch.setattr(lakehouse, "MAX_FILES", 2)
    for number in range(1, 4):
        lake.append(spec, frame(lake, spec, {JANUARY: {f"P{number}": 1.0}}).coalesce(1), number)
    assert lake.upkeep.storage(spec, None)[0] == 1
    assert sorted(lake.rows(spec)["part_number"]) == ["P1", "P2", "P3"]
    assert [
        row["n"] for row in lake.read(spec).groupBy().agg(F.count("*").alias("n")).collect()
    ] == [3]


def test_append_adds_columns_and_old_versions_stay_readable(lake: DeltaLakehouse) -> None:
    """A new source column is added to bronze.sales_orders, and the version before it is read as it
    was.
    """
    one = lake.create_frame(BRONZE_SALES_ORDERS, [bronze_line(2)]).withColumn("Part", F.lit("P1"))
    first = lake.append(BRONZE_SALES_ORDERS, one, number=1)
    more = (
        lake.create_frame(BRONZE_SALES_ORDERS, [bronze_line(3)])
        .withColumn("Colour", F.lit("red"))
        .withColumn("Part", F.lit("P2"))
    )
    second = lake.append(BRONZE_SALES_ORDERS, more, lake.next_number(BRONZE_SALES_ORDERS))
    now = lake.read(BRONZE_SALES_ORDERS, [JANUARY]).orderBy("_line_number")
    then = lake.read(BRONZE_SALES_ORDERS, version=first)
    assert second == first + 1
    assert [(row["Part"], row["Colour"]) for row in now.collect()] == [("P1", None), ("P2", "red")]
    assert [row["Part"] for row in then.collect()] == ["P1"]
    assert "Colour" not in then.columns


def test_the_ledger_keeps_the_newest_of_every_month_and_writer(lake: DeltaLakehouse) -> None:
    """Of several records of a month the last one counts, writers apart, and details come back as
    they went in.
    """
    spec = units_table("recorded")
    newest = Slice(
        JANUARY, "", "b", "in 2", 7, 4, {"inputs": {"silver.parts": 3}, "is_complete": True}
    )
    february, other = (
        Slice(FEBRUARY, "", "c", "in 1", 1, 1),
        Slice(JANUARY, "naive", "d", "in 1", 2, 2),
    )
    lake.ledger.record(spec, [Slice(JANUARY, "", "a", "in 1", 5, 1), february], "run 1")
    lake.ledger.record(spec, [newest], "run 2")
    lake.ledger.record(spec, [other], "run 3")
    assert lake.ledger.slices(spec) == {JANUARY: newest, FEBRUARY: february}
    assert lake.ledger.slices(spec, "naive") == {JANUARY: other}
    assert lake.ledger.slices(units_table("another")) == {}


def test_two_months_are_created_at_once(lake: DeltaLakehouse) -> None:
    """Writers of different months do not meet, not even where both begin with a table that is not
    there.
    """
    spec = units_table("created_at_once")

    def write(month: int) -> int:
        return (
            lake.merge(spec, frame(lake, spec, {month: {"P1": 1.0}}), [month])
            .months[month]
            .inserted
        )

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, (JANUARY, FEBRUARY))) == [1, 1]
    assert contents(lake, spec) == {JANUARY: {"P1": 1.0}, FEBRUARY: {"P1": 1.0}}


def test_a_value_that_moves_to_another_column_changes_the_data_version(spark: SparkSession) -> None:
    """Empty cells count for their place."""
    spec = units_table("moved")
    spec = replace(spec, columns=(*spec.columns[:3], Column("sold_units", "DOUBLE", "units")))
    schema = "yyyymm INT, part_number STRING, units DOUBLE, sold_units DOUBLE"
    first, second = (
        spark.createDataFrame([(JANUARY, "P1", *units)], schema)
        for units in ((2.0, None), (None, 2.0))
    )
    assert _slice_versions(spec, first) != _slice_versions(spec, second)


def test_an_adopted_table_that_is_nowhere_is_refused(lake: DeltaLakehouse) -> None:
    """A misspelled name is told, not made."""
    with pytest.raises(
        Refused,
        match=r"table my_catalog\.other\.orders is neither in the catalog nor a Delta table at",
    ):
        lake.read_external("my_catalog.other.orders")


def test_totals_add_up_slices_without_spark(lake: DeltaLakehouse) -> None:
    """Sums by month over the slices asked for; of a table that does not exist there is no row."""
    spec = units_table("totals")
    assert lake.totals(spec, ["yyyymm"], ["units"], [JANUARY]).empty
    stored: Units = {month: {"P1": 1.0, "P2": float(month)} for month in (JANUARY, FEBRUARY, MARCH)}
    lake.merge(spec, frame(lake, spec, stored), list(stored))
    sums = lake.totals(spec, ["yyyymm"], ["units"], [JANUARY, MARCH])
    assert dict(zip(sums["yyyymm"], sums["units"], strict=True)) == {
        JANUARY: JANUARY + 1.0,
        MARCH: MARCH + 1.0,
    }


def test_a_remembered_sample_is_that_of_the_version(lake: DeltaLakehouse) -> None:
    """A sample asked for twice is read once; after a write it holds what was written, and changing
    it changes nothing kept.
    """
    spec = units_table("sampled")
    parts = {f"P{i}": float(i) for i in range(40)}
    lake.merge(spec, frame(lake, spec, {JANUARY: parts}), [JANUARY])
    wanted = ["part_number", "units"]
    half = PartSample(lake, 0.5)
    first = half.rows(spec, wanted, [JANUARY])
    assert 0 < len(first) < 40
    first["units"] = -1.0
    assert (half.rows(spec, wanted, [JANUARY])["units"] >= 0).all()
    lake.merge(
        spec,
        frame(lake, spec, {JANUARY: {part: units + 1 for part, units in parts.items()}}),
        [JANUARY],
    )
    assert (half.rows(spec, wanted, [JANUARY])["units"] >= 1).all()
    assert half.rows(spec, wanted, [FEBRUARY]).empty
