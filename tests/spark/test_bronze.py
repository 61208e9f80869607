"""Registering deliveries and storing their lines, from small files to real Delta tables."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from medallion_assets.bronze.lines import LineStore, adopted_lines
from medallion_assets.bronze.register import Register, with_former_names
from medallion_assets.bronze.transforms import (
    dated_lines,
    deliveries,
    superseded_months,
    text_of,
    timestamp_of,
)
from medallion_assets.partitions import month_range
from medallion_assets.silver.transforms import canonical_lines, disposed_lines
from medallion_assets.slices import retry_on_conflict
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES
from resources.engines import Engine
from resources.lakehouse import DeltaLakehouse
from resources.ledger import Ledger
from resources.orders import LocalOrderFiles, OrderFile, UnreadableFile
from resources.settings import Settings, Source, parse_settings
from tests.conftest import SOURCE, forget_tables

pytestmark = pytest.mark.spark

HEADER = "Order,Part,Customer,Region,Date,Qty,Price"
MONTHS = month_range(202201, 202203)


def changed(settings: Settings, tmp_path: Path, **others: Any) -> Settings:
    """The same configuration with another source."""
    content = {"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [SOURCE | others]}
    return parse_settings(content, tmp_path / "test.yaml")


class Landing:
    """A folder that files land in, and the two assets that read it."""

    def __init__(self, folder: Path, settings: Settings, lakehouse: DeltaLakehouse):
        self.folder, self.settings, self.lakehouse = folder, settings, lakehouse
        self.log: list[str] = []
        folder.mkdir(exist_ok=True)

    def deliver(self, name: str, *lines: str, header: str = HEADER) -> Path:
        file = self.folder / name
        file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return file

    def register(self) -> list[dict[str, Any]]:
        return Register(self.settings, self.lakehouse, LocalOrderFiles(), self.log.append).run(
            "run"
        )

    def store(self, months: list[int] = MONTHS) -> dict[int, int]:
        """Lines stored by month."""
        outcome = LineStore(self.settings, self.lakehouse, LocalOrderFiles(), self.log.append).run(
            months, "run"
        )
        return {
            month: written.inserted
            for month, written in outcome.written.items()
            if written.inserted
        }

    def lines(self) -> pd.DataFrame:
        return (
            self.lakehouse.rows(BRONZE_SALES_ORDERS)
            .sort_values(["yyyymm", "_delivery_id", "_line_number"])
            .reset_index(drop=True)
        )

    def versions(self) -> tuple[int, int]:
        return self.lakehouse.version(DELIVERIES), self.lakehouse.version(BRONZE_SALES_ORDERS)


@pytest.fixture
def landing(tmp_path: Path, settings: Settings, lakehouse: DeltaLakehouse) -> Landing:
    return Landing(tmp_path / "landing", settings, lakehouse)


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock is not set to UTC."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def by_month(delivery: dict[str, Any]) -> dict[int, tuple[int, int]]:
    return {
        month["yyyymm"]: (month["line_count"], month["last_day"]) for month in delivery["months"]
    }


def test_a_delivery_is_registered_and_stored_once(landing: Landing, far_from_utc: None) -> None:
    """Lines of no month come with their delivery and their reason, the others with their month; a
    second run writes nothing.

    The same content under another name is the same delivery, and a late file adds its own lines
    only, with its new column.
    """
    first = landing.deliver(
        "a.csv",
        "O1,P1,C1,North,2022-01-05,2,1.5",
        "O2,P1,C1,North,2022-02-28 10:00:00,1,1.5",
        "O3,P1,C1,North,someday,1,1.5",
        "O4,P1,C1,North,2021-12-31,1,1.5",
        "O5,P1,C1,North,2999-01-01,1,1.5",
        "O6,P1,too few",
    )
    (delivery,) = landing.register()
    assert by_month(delivery) == {0: (4, 0), 202201: (1, 5), 202202: (1, 28)}
    assert (delivery["line_count"], delivery["unreadable_line_count"], delivery["status"]) == (
        6,
        1,
        "has_unreadable_lines",
    )
    homeless = landing.lines()
    assert list(homeless["_problem"]) == [
        "order_date_unreadable",
        "order_date_before_first_month",
        "order_date_after_ingestion",
        "unreadable: 3 fields where the header has 7",
    ]
    assert (list(homeless["_line_number"]), homeless["_raw"].iloc[3]) == (
        [4, 5, 6, 7],
        "O6,P1,too few",
    )

    assert landing.store() == {202201: 1, 202202: 1}
    stored = landing.lines()
    assert list(stored["Order"])[4:] == ["O1", "O2"]
    assert list(stored["Qty"])[4:] == ["2", "1"]
    times = pd.concat([stored["_ingested_at"], landing.lakehouse.rows(DELIVERIES)["registered_at"]])
    assert (
        (pd.Timestamp.now("UTC") - pd.to_datetime(times, utc=True)).abs() < pd.Timedelta(minutes=10)
    ).all()

    before = landing.versions()
    shutil.copy(first, landing.folder / "copy of a.csv")
    assert (landing.register(), landing.store()) == ([], {})
    assert landing.versions() == before

    landing.deliver(
        "late.csv", "O7,P2,C1,North,2022-01-30,1,1,red", header=f"{HEADER},Colour (new)"
    )
    (late,) = landing.register()
    assert (late["sequence"], late["new_columns"], by_month(late)) == (
        2,
        ["Colour (new)"],
        {202201: (1, 30)},
    )
    assert landing.store() == {202201: 1}
    after = landing.lines()
    assert list(after["Order"])[4:] == [*after.loc[after["yyyymm"] == 202201, "Order"], "O2"]
    assert sorted(after["Colour_new"].dropna()) == ["red"]


@pytest.mark.parametrize("step", ["register", "store"])
def test_of_two_runs_at_once_one_takes_a_file_in(
    landing: Landing, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A run that does all between another's reading and writing is not repeated by it: no delivery
    and no line is there twice.
    """
    landing.deliver("a.csv", "O1,P1,C1,North,2022-01-05,2,1.5", "O2,P1,C1,North,someday,1,1.5")
    if step == "store":
        landing.register()
    append, others = landing.lakehouse.append, []

    def beaten(*arguments: Any, **named: Any) -> int:
        if not others:
            others.append(landing)
            getattr(landing, step)()
        return append(*arguments, **named)

    monkeypatch.setattr(landing.lakehouse, "append", beaten)
    assert not retry_on_conflict(getattr(landing, step))
    assert len(landing.lakehouse.rows(DELIVERIES)) == 1
    landing.store()
    assert list(landing.lines()["Order"]) == ["O2", "O1"]


def test_a_missing_column_stops_before_anything_is_stored(landing: Landing) -> None:
    """All files that can't be taken in are named with what they lack, and a good file beside them
    waits.
    """
    landing.deliver("good.csv", "O1,P1,C1,North,someday,2,1.5")
    landing.deliver("other.csv", "O1,P1,2022-01-05,2", header="Order,Part,Date,Amount")
    landing.deliver("empty.csv", header="")
    with pytest.raises(UnreadableFile) as refused:
        landing.register()
    first, *mistakes = str(refused.value).splitlines()
    assert first == "2 file(s) can't be taken in; no table was changed"
    assert "empty.csv: line 1 has no column names" in mistakes[0]
    assert (
        "other.csv: no column Qty (sources.shop.columns.quantity), Price"
        " (sources.shop.columns.unit_price); line 1, which comes closest to a header, has: Order,"
        " Part, Date, Amount." in mistakes[1]
    )
    assert landing.versions() == (-1, -1)


def test_a_file_of_two_sources_is_refused(landing: Landing) -> None:
    """Its lines would count once for each; nothing of either is stored, under whatever name the
    second finds it.
    """
    file = landing.deliver("a.csv", "O1,P1,C1,North,2022-01-05,2,1.5")
    (landing.folder / "link.csv").symlink_to(file)
    first = landing.settings.sources[0].model_copy(update={"files": str(file)})
    second = first.model_copy(update={"name": "web", "files": f"{landing.folder}/link.csv"})
    landing.settings = landing.settings.model_copy(update={"sources": (first, second)})
    with pytest.raises(UnreadableFile, match=r"link\.csv: is a file of both sources shop and web"):
        landing.register()
    assert landing.versions() == (-1, -1)


def test_a_broken_file_is_told_in_one_line(landing: Landing) -> None:
    """What a worker finds while reading reaches the reader as the file's mistake; lines of no month
    were not stored before it.
    """
    landing.deliver(
        "broken.csv", "O1,P1,C1,North,someday,2,1.5", 'O2,"P1,C1,North,2022-01-05,2,1.5'
    )
    with pytest.raises(UnreadableFile) as refused:
        landing.register()
    assert str(refused.value).startswith(f"{landing.folder / 'broken.csv'}: line 3: ")
    assert "\n" not in str(refused.value)
    assert landing.versions() == (-1, -1)


def test_a_registered_file_must_stay_until_it_is_stored(landing: Landing) -> None:
    """A file that vanished, or changed, between the two is named; an unreadable newcomer beside it
    does not matter once it is back.
    """
    file = landing.deliver("a.csv", "O1,P1,C1,North,2022-01-05,2,1.5")
    landing.register()
    before = landing.versions()
    text = file.read_text(encoding="utf-8")
    file.unlink()
    with pytest.raises(
        UnreadableFile,
        match=r"^a\.csv: registered, but its lines are not stored yet and the file is gone",
    ):
        landing.store()
    assert landing.versions() == before
    file.write_text(text, encoding="utf-8")
    (landing.folder / "half.csv").write_text("", encoding="utf-8")
    assert landing.store() == {202201: 1}


def test_lines_left_by_a_run_that_ended_early_are_not_stored_again(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is written before the ledger: a crash in between costs a look, and no line
    twice.
    """
    landing.deliver("a.csv", "O1,P1,C1,North,2022-01-05,2,1.5", "O2,P1,C1,North,2022-02-05,2,1.5")
    landing.register()
    with monkeypatch.context() as crash:
        crash.setattr(Ledger, "record", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            landing.store()
    assert landing.store() == {}
    assert list(landing.lines()["Order"]) == ["O1", "O2"]


def test_a_file_that_grew_is_the_same_file(landing: Landing) -> None:
    """Half a line at its end and the lines that came later: what it was is superseded whole, and
    months that it no longer has are made again.
    """
    file = landing.deliver("a.csv", "O1,P1,C1,North,2022-01-05,2,1.5")
    with file.open("a", encoding="utf-8") as stream:
        stream.write("O2,P1,C1,North,2022-02-0")
    (half,) = landing.register()
    landing.store()
    with file.open("a", encoding="utf-8") as stream:
        stream.write("7,4,1.5\nO3,P1,C1,North,2022-03-05,1,1.5\n")
    (whole,) = landing.register()
    assert whole["grown_from"] == half["delivery_id"]
    assert "a.csv was taken in before and has grown since by 40 bytes" in " ".join(landing.log)
    assert landing.store() == {202201: 1, 202202: 1, 202203: 1}
    known = landing.lakehouse.rows(DELIVERIES)
    assert superseded_months(known, landing.settings.sources) == {
        (half["delivery_id"], month): whole["delivery_id"] for month in (0, 202201)
    }
    with file.open("a", encoding="utf-8") as stream:
        stream.write("O4,P1,C1,North,2022-03-06,1,1.5\n")
    (again,) = landing.register()
    assert again["grown_from"] == whole["delivery_id"]
    known = landing.lakehouse.rows(DELIVERIES)
    assert set(superseded_months(known, landing.settings.sources).values()) == {
        again["delivery_id"]
    }
    landing.store()
    (shop,) = landing.settings.sources
    lines = canonical_lines(landing.lakehouse.read(BRONZE_SALES_ORDERS), shop)
    disposed = disposed_lines(
        lines,
        dict(zip(known["delivery_id"], known["sequence"].astype(int), strict=True)),
        superseded_months(known, [shop]),
        [shop],
    )
    accepted = disposed.where("disposition = 'accepted'").select("order_id").toPandas()
    assert sorted(accepted["order_id"]) == ["O1", "O2", "O3", "O4"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b.csv", f"{HEADER}\nO1,P1,C1,North,2022-01-05,2,1.5\nO2,P1,C1,North,2022-01-06,1,1\n"),
        ("a.csv", f"{HEADER}\nO2,P1,C1,North,2022-01-06,1,1\nO1,P1,C1,North,2022-01-05,2,1.5\n"),
        ("a.csv", f"{HEADER}\nO1,P1,C1,North,2022-01-05,9,1.5\nO2,P1,C1,North,2022-01-06,1,1\n"),
    ],
)
def test_another_file_has_not_grown(landing: Landing, name: str, text: str) -> None:
    """Another name, another order of lines or another beginning is a delivery of its own."""
    landing.deliver("a.csv", "O1,P1,C1,North,2022-01-05,2,1.5")
    landing.register()
    (landing.folder / name).write_text(text, encoding="utf-8")
    (later,) = landing.register()
    assert later["grown_from"] is None
    assert superseded_months(landing.lakehouse.rows(DELIVERIES), landing.settings.sources) == {}


def test_a_file_that_grew_before_its_lines_were_stored_is_no_dead_end(landing: Landing) -> None:
    """Its former lines are still the beginning of what it is now."""
    file = landing.deliver("a.csv", "O1,P1,C1,North,2022-01-05,2,1.5")
    landing.register()
    with file.open("a", encoding="utf-8") as stream:
        stream.write("O2,P1,C1,North,2022-01-06,1,1.5\n")
    landing.register()
    assert landing.store() == {202201: 3}
    assert sorted(landing.lines()["Order"]) == ["O1", "O1", "O2"]


def test_a_promised_number_of_lines_is_kept_or_nothing_is_stored(
    landing: Landing, tmp_path: Path
) -> None:
    """A delivery waits for the file beside it, and is refused where the two differ."""
    delivery = {"settle_seconds": 0, "row_count_files": "{name}.count"}
    landing.settings = changed(landing.settings, tmp_path, delivery=delivery)
    landing.deliver("a.csv", "O1,P1,C1,North,2022-01-05,2,1.5", "O2,P1,too few")
    assert landing.register() == []
    assert landing.log[-1] == "shop: not taken in now, a.csv.count is not beside it yet: a.csv"
    (landing.folder / "a.csv.count").write_text("3", encoding="utf-8")
    with pytest.raises(
        UnreadableFile, match=r"a\.csv: 2 order lines are in it, and 3 are promised"
    ):
        landing.register()
    assert landing.versions() == (-1, -1)
    (landing.folder / "a.csv.count").write_text("2 lines\n", encoding="utf-8")
    (delivered,) = landing.register()
    assert delivered["line_count"] == 2


def test_files_of_one_name_in_several_folders_replace_only_their_own(
    landing: Landing, tmp_path: Path
) -> None:
    """Each is called by its path below the folder of the source."""
    landing.settings = changed(
        landing.settings, tmp_path, mode="snapshot", files="landing/**/*.csv"
    )
    for month in ("01", "02"):
        (landing.folder / f"month={month}").mkdir()
        landing.deliver(f"month={month}/part.csv", f"O{month},P1,C1,North,2022-{month}-05,2,1.5")
    assert {row["file_name"] for row in landing.register()} == {
        "month=01/part.csv",
        "month=02/part.csv",
    }
    landing.deliver("month=02/part.csv", "O02,P1,C1,North,2022-02-05,9,1.5")
    (corrected,) = landing.register()
    known = landing.lakehouse.rows(DELIVERIES)
    former = known[(known["file_name"] == "month=02/part.csv")].sort_values("sequence").iloc[0]
    assert superseded_months(known, landing.settings.sources) == {
        (former["delivery_id"], 202202): corrected["delivery_id"]
    }


def file_of(name: str, path: str) -> OrderFile:
    return OrderFile("shop", path, 1, datetime.now(UTC), name, ("Order",), name)


def test_a_file_of_an_earlier_release_keeps_its_name(settings: Settings, tmp_path: Path) -> None:
    """It was called without its folder: the same file goes on so, and where several have the name
    nobody can say which it was.
    """
    snapshot = changed(settings, tmp_path, mode="snapshot", files="landing/**/*.csv").sources[0]
    former = pd.DataFrame({"file_name": ["stand.csv"]})
    path = str(tmp_path / "landing" / "2022" / "stand.csv")
    files = {"d": file_of("2022/stand.csv", path)}
    assert with_former_names(snapshot, files, [path], former)["d"].file_name == "stand.csv"
    assert with_former_names(snapshot, files, [path], former[:0])["d"].file_name == "2022/stand.csv"
    other = str(tmp_path / "landing" / "2023" / "stand.csv")
    with pytest.raises(
        UnreadableFile, match=r"files called stand\.csv for one file in all folders"
    ):
        with_former_names(snapshot, files, [path, other], former)
    flat = str(tmp_path / "landing" / "stand.csv")
    named = with_former_names(snapshot, files, [path, flat], former)
    assert named["d"].file_name == "2022/stand.csv"


def test_a_snapshot_touches_the_months_of_the_file_that_it_replaces(
    landing: Landing, tmp_path: Path
) -> None:
    """Bronze keeps both; the newer delivery lists the month that it no longer has, so that silver
    is made again there.
    """
    landing.settings = changed(landing.settings, tmp_path, mode="snapshot")
    landing.deliver(
        "stand.csv", "O1,P1,C1,North,2022-01-05,2,1.5", "O2,P1,C1,North,2022-02-05,2,1.5"
    )
    (old,) = landing.register()
    assert landing.store() == {202201: 1, 202202: 1}
    file = landing.deliver("stand.csv", "O1,P1,C1,North,2022-01-05,3,1.5")
    os.utime(file, (2e9, 2e9))
    (new,) = landing.register()
    assert by_month(new) == {202201: (1, 5), 202202: (0, 0)}
    assert landing.store() == {202201: 1}
    assert len(landing.lines()) == 3
    slices = landing.lakehouse.ledger.slices(BRONZE_SALES_ORDERS)
    assert slices[202202].details["deliveries"] == [old["delivery_id"], new["delivery_id"]]
    known = landing.lakehouse.rows(DELIVERIES)
    assert superseded_months(known, landing.settings.sources) == {
        (old["delivery_id"], 202201): new["delivery_id"],
        (old["delivery_id"], 202202): new["delivery_id"],
    }


def test_a_snapshot_of_months_replaces_only_the_months_it_has(
    settings: Settings, tmp_path: Path
) -> None:
    """Whatever the file is called; lines of no month replace nothing."""
    source = changed(settings, tmp_path, mode="snapshot", replaces="month").sources[0]
    months = [{"a": (0, 202201, 202202)}, {"b": (0, 202202)}]
    rows = [
        {
            "delivery_id": name,
            "sequence": n,
            "source": "shop",
            "file_name": name,
            "months": [{"yyyymm": m, "line_count": 1} for m in held],
        }
        for n, delivery in enumerate(months)
        for name, held in delivery.items()
    ]
    assert superseded_months(pd.DataFrame(rows), [source]) == {("a", 202202): "b"}


def test_an_adopted_table_is_read_and_never_written(
    landing: Landing, engine: Engine, spark: SparkSession, tmp_path: Path
) -> None:
    """Its own names and types are mapped, its months registered by content; its version and files
    stay as they are.
    """
    path = Path(landing.settings.lakehouse_root) / "other" / "sales_orders"
    rows = [
        ("A-1", "P1", "2022-01-05", 2.0, 1.5),
        ("A-2", "P1", "2022-01-05", 2.0, 1.5),
        ("A-3", "P2", "2022-02-07", 1.0, None),
    ]
    frame = spark.createDataFrame(
        rows, "doc_no STRING, item STRING, day STRING, pieces DOUBLE, amount DOUBLE"
    )
    frame.withColumn("day", frame["day"].cast("date")).write.format("delta").save(str(path))
    columns = {
        "order_id": "doc_no",
        "part_number": "item",
        "order_date": "day",
        "quantity": "pieces",
        "unit_price": "amount",
    }
    landing.settings = changed(
        landing.settings,
        tmp_path,
        mode="adopt",
        files=None,
        table="my_catalog.other.sales_orders",
        columns=columns,
        rules={},
    )
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    (delivery,) = landing.register()
    assert by_month(delivery) == {202201: (2, 5), 202202: (1, 7)}
    assert (delivery["file_name"], delivery["column_names"]) == (
        "my_catalog.other.sales_orders",
        list(columns.values()),
    )
    assert (landing.store(), landing.register()) == ({}, [])
    assert landing.lakehouse.version(BRONZE_SALES_ORDERS) == -1
    (source,) = landing.settings.sources
    lines = adopted_lines(
        landing.lakehouse.read_external(str(source.table)), source, landing.settings
    )
    january = lines.where("yyyymm = 202201").orderBy("doc_no").toPandas()
    assert list(
        january[["doc_no", "day", "pieces", "amount"]].itertuples(index=False, name=None)
    ) == [
        ("A-1", "2022-01-05", "2.0", "1.5"),
        ("A-2", "2022-01-05", "2.0", "1.5"),
    ]
    assert sorted(january["_line_number"]) == [1, 2]
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    forget_tables(engine, landing.settings, "other")


def source(**others: Any) -> Source:
    return Source.model_validate(SOURCE | others)


def test_dates_are_read_by_the_first_format_that_fits(spark: SparkSession) -> None:
    """Fractions of seconds are read as ISO writes them, the time is the one printed whatever the
    offset behind it, and a day alone is midnight.
    """
    texts = [
        "2022-01-05 08:26:00.120",
        "2022-01-05T08:26:01Z",
        "2022-01-05T08:26:02+02:00",
        "2022-01-05",
        "05/01/2022",
    ]
    frame = spark.createDataFrame([(text,) for text in texts], "Date STRING")
    read = frame.select(
        timestamp_of(source(), frame["Date"]).cast("string").alias("at")
    ).toPandas()["at"]
    assert list(read) == [
        "2022-01-05 08:26:00.12",
        "2022-01-05 08:26:01",
        "2022-01-05 08:26:02",
        "2022-01-05 00:00:00",
        None,
    ]


def test_a_column_may_be_joined_or_have_several_names(spark: SparkSession) -> None:
    """Of joined columns a missing one is left out, all missing are nothing; of names the first with
    a value is taken.
    """
    joined = source(
        columns=SOURCE["columns"]
        | {
            "order_date": {"join": ["Day", "Time"]},
            "part_number": ["Item No", "SKU"],
        }
    )
    frame = spark.createDataFrame(
        [
            ("2022-01-05", "10:00", None, "S1"),
            ("2022-01-06", "", "I2", "S2"),
            ("n/a", None, " ", None),
        ],
        "Day STRING, Time STRING, Item_No STRING, sku STRING",
    )
    texts = frame.select(
        *(
            text_of(joined, name, frame.columns).alias(name)
            for name in ("order_date", "part_number", "region")
        )
    )
    assert [tuple(row) for row in texts.collect()] == [
        ("2022-01-05 10:00", "S1", None),
        ("2022-01-06", "I2", None),
        (None, None, None),
    ]


def test_what_a_delivery_says_does_not_depend_on_its_order_or_neighbours(
    spark: SparkSession,
) -> None:
    """The hash of a month's lines is the same in any order of lines and beside a file with more
    columns.
    """
    schema = (
        "_delivery_id STRING, _line_number LONG, _problem STRING, _raw STRING, Date STRING, Part"
        " STRING"
    )
    rows = [
        ("d", 2, None, None, "2022-01-05", "P1"),
        ("d", 3, None, None, "2022-01-06", None),
        ("d", 4, None, None, "2022-02-01", "P1"),
    ]
    plain = spark.createDataFrame(rows, schema)
    wider = spark.createDataFrame(
        [(*row, None) for row in rows[::-1]], f"{schema}, Colour STRING"
    ).repartition(3)
    first, second = (
        {
            row["yyyymm"]: row
            for row in deliveries(dated_lines(frame, source(), 202201, 202212)).collect()
        }
        for frame in (plain, wider)
    )
    assert first == second
    assert {month: (row["line_count"], row["last_day"]) for month, row in first.items()} == {
        202201: (2, 6),
        202202: (1, 1),
    }
    assert first[202201]["content_version"] != first[202202]["content_version"]
