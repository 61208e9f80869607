"""Lines that are stored, after the mapping of their dates was corrected: right months, nothing
twice, whatever ended in between.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import functions as F

from medallion_assets.bronze.lines import month_contents
from medallion_assets.bronze.mapping import BEGUN
from medallion_assets.bronze.redating import MappingRefused, Redated, Redating
from medallion_assets.bronze.transforms import superseded_months
from medallion_assets.complete import complete_months_of
from medallion_assets.partitions import month_range
from medallion_assets.plans import PLAN_TAG, Plans, listed
from medallion_assets.silver import transforms as silver
from medallion_assets.slices import registered, version_of
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES
from resources.errors import Refused
from resources.lakehouse import ConcurrentWrite, DeltaLakehouse
from resources.ledger import Ledger
from resources.orders import LocalOrderFiles, UnreadableFile
from resources.settings import Settings, parse_settings
from tests.conftest import SOURCE
from tests.spark.test_bronze import HEADER, Landing

pytestmark = pytest.mark.spark

YEAR = month_range(202201, 202212)
# Read as MM/dd they lie in April, May and (a thirteenth month) nowhere; as dd/MM in January and
# February.
LINES = (
    "O1,P1,C1,North,04/01/2022,4,1.5",
    "O2,P1,C1,North,05/02/2022,5,1.5",
    "O3,P1,C1,North,13/01/2022,6,1.5",
)
WRONG, RIGHT = {"date_formats": ["MM/dd/yyyy"]}, {"date_formats": ["dd/MM/yyyy"]}


class Corrected(Landing):
    """A landing whose configuration can change."""

    def configure(self, first_month: int = 202201, **source: Any) -> None:
        content = {
            "lakehouse_root": "lakehouse",
            "first_month": first_month,
            "sources": [SOURCE | source],
        }
        self.settings = parse_settings(content, self.folder.parent / "test.yaml")

    def redate(self, plan: str = "") -> Redated:
        plans = Plans(self.lakehouse, "ann", 13, "run")
        return Redating(
            self.settings, self.lakehouse, LocalOrderFiles(), plans, self.log.append
        ).run({PLAN_TAG: plan} if plan else {})

    def take_in(self) -> None:
        self.register()
        self.store(YEAR)

    def asked(self) -> str:
        """The plan that a run asks for."""
        with pytest.raises(Refused, match=r"Nothing was written\. To do it: `medallion apply"):
            self.redate()
        return str(listed(self.lakehouse)["plan_id"].iloc[-1])

    def months(self) -> dict[int, list[str]]:
        """Orders of bronze by month."""
        return {
            int(month): sorted(orders.dropna())
            for month, orders in self.lines().groupby("yyyymm")["Order"]
        }

    def listed(self) -> dict[int, int]:
        """Lines by month as the register of deliveries has them."""
        counted = Counter[int]()
        for months in registered(self.lakehouse)["months"]:
            for month in months:
                counted[int(month["yyyymm"])] += int(month["line_count"])
        return dict(counted)

    def sold(self) -> dict[tuple[int, str], float]:
        """Units of accepted lines by month and part, as silver would count them now."""
        (source,) = self.settings.sources
        deliveries = registered(self.lakehouse)
        disposed = silver.disposed_lines(
            silver.canonical_lines(self.lakehouse.read(BRONZE_SALES_ORDERS), source),
            dict(zip(deliveries["delivery_id"], deliveries["sequence"].astype(int), strict=True)),
            superseded_months(deliveries, self.settings.sources),
            [source],
        )
        accepted = silver.sales_orders(disposed).groupBy("yyyymm", "part_number")
        rows = accepted.agg(F.sum("quantity").cast("double").alias("n")).collect()
        return {(row["yyyymm"], row["part_number"]): row["n"] for row in rows}

    def ledger_agrees(self) -> bool:
        """Whether the ledger says of each month just what the register of deliveries says."""
        known = registered(self.lakehouse)
        slices = self.lakehouse.ledger.slices(BRONZE_SALES_ORDERS)
        return all(
            s.input_version == version_of(month_contents(known, month)) and BEGUN not in s.details
            for month, s in slices.items()
        )


@pytest.fixture
def landing(tmp_path: Path, settings: Settings, lakehouse: DeltaLakehouse) -> Corrected:
    made = Corrected(tmp_path / "landing", settings, lakehouse)
    made.configure(**WRONG)
    return made


def test_a_corrected_format_moves_lines_by_a_plan(landing: Corrected) -> None:
    """The refusal shows how many lines move from which month to which; the plan moves them, keeps
    identity and all other files, and a second run has nothing to do. No file is needed for it.
    """
    file = landing.deliver("a.csv", *LINES, "O4,P1,C1,North,06/06/2022,7,1.5")
    landing.take_in()
    assert landing.months() == {0: ["O3"], 202204: ["O1"], 202205: ["O2"], 202206: ["O4"]}
    file.unlink()
    landing.configure(**RIGHT)
    before, versions = landing.lines(), landing.versions()
    plan = landing.asked()
    assert landing.versions() == versions
    effect = listed(landing.lakehouse)["effect"].iloc[-1]
    assert (
        "moves 3 stored lines of my_catalog.my_bronze.sales_orders to the months that the mapping"
        " of shop gives them now: 1 from no month to 202201, 1 from 202204 to 202201, 1 from 202205"
        " to 202202;" in effect
    )
    assert landing.asked() == plan, "the plan that waits is shown again"

    june = stored_files(landing.lakehouse, 202206)
    redated = landing.redate(plan)
    assert (redated.moved_lines, len(redated.records), redated.plan_id) == (3, 1, plan)
    assert landing.months() == {202201: ["O1", "O3"], 202202: ["O2"], 202206: ["O4"]}
    assert stored_files(landing.lakehouse, 202206) == june
    assert landing.listed() == {0: 0, 202201: 2, 202202: 1, 202204: 0, 202205: 0, 202206: 1}
    same = ["_delivery_id", "_line_number", "_row_hash", "_occurrence", "_ingested_at", "Order"]
    pd.testing.assert_frame_equal(
        landing.lines()[same].sort_values("Order", ignore_index=True),
        before[same].sort_values("Order", ignore_index=True),
    )
    assert landing.lines()["_problem"].isna().all()
    assert landing.ledger_agrees()
    versions = landing.versions()
    assert (landing.redate(), landing.register(), landing.store(YEAR)) == (Redated(), [], {})
    assert landing.versions() == versions
    assert landing.sold() == {(202201, "P1"): 10, (202202, "P1"): 5, (202206, "P1"): 7}


def stored_files(lakehouse: DeltaLakehouse, month: int) -> dict[str, bytes]:
    """The files of one month of bronze.sales_orders, by name."""
    folder = Path(lakehouse.path(BRONZE_SALES_ORDERS)) / f"yyyymm={month}"
    return {file.name: file.read_bytes() for file in folder.glob("*.parquet")}


def test_lines_that_only_leave_month_0_need_no_plan(landing: Corrected) -> None:
    """What could not be read is read at once, and the plan is on record as applied; unreadable
    lines stay.
    """
    landing.configure(date_formats=["yyyy-MM-dd"])
    landing.deliver("a.csv", *LINES, "O5,P1,too few")
    landing.register()
    assert set(landing.months()) == {0}
    landing.configure(**RIGHT)
    assert landing.redate().moved_lines == 3
    assert listed(landing.lakehouse)["event"].tolist() == ["planned", "applied"]
    assert landing.sold() == {(202201, "P1"): 10, (202202, "P1"): 5}
    assert landing.listed() == {0: 1, 202201: 2, 202202: 1}
    (problem,) = landing.lines()["_problem"].dropna()
    assert problem == "unreadable: 3 fields where the header has 7"
    assert landing.ledger_agrees()
    assert landing.store(YEAR) == {}


def test_a_format_added_moves_only_what_it_reads(landing: Corrected) -> None:
    """A second format of a source leaves the lines that the first one reads where they are."""
    landing.deliver("a.csv", LINES[0], "O6,P2,C1,North,2022-03-09,2,1.5")
    landing.take_in()
    assert landing.months() == {0: ["O6"], 202204: ["O1"]}
    april = stored_files(landing.lakehouse, 202204)
    landing.configure(date_formats=["MM/dd/yyyy", "yyyy-MM-dd"])
    assert landing.redate().moves == [(0, 202203, 1)]
    assert landing.months() == {202203: ["O6"], 202204: ["O1"]}
    assert stored_files(landing.lakehouse, 202204) == april


def test_a_second_correction_moves_them_again(landing: Corrected) -> None:
    """Back to the former mapping is a correction like any other; undo says so."""
    landing.deliver("a.csv", *LINES)
    landing.take_in()
    start = landing.lines()
    landing.configure(**RIGHT)
    first = landing.asked()
    landing.redate(first)
    plans = Plans(landing.lakehouse, "ann", 13)
    found = plans.named({PLAN_TAG: first}, "redating")
    assert found is not None
    with pytest.raises(Refused, match="put the former mapping into the configuration"):
        plans.undo(found)
    with pytest.raises(Refused, match=rf"plan {first} moved lines to other months"):
        plans.restore(BRONZE_SALES_ORDERS, found.table_version)
    landing.configure(**WRONG)
    second = landing.asked()
    with pytest.raises(Refused, match=f"plan {first} was applied already"):
        landing.redate(first)
    landing.redate(second)
    pd.testing.assert_frame_equal(landing.lines(), start)
    assert landing.listed() == {0: 1, 202201: 0, 202202: 0, 202204: 1, 202205: 1}
    assert (landing.ledger_agrees(), len(landing.lakehouse.rows(DELIVERIES))) == (True, 3)


def test_a_plan_of_other_moves_is_refused(landing: Corrected) -> None:
    """A mapping that changed again after the plan was made needs another plan; the message names
    it.
    """
    landing.deliver("a.csv", *LINES)
    landing.take_in()
    landing.configure(**RIGHT)
    plan = landing.asked()
    landing.configure(date_formats=["dd/MM/yyyy"], missing=["13/01/2022"])
    with pytest.raises(Refused, match=f"plan {plan} shows other moves than the mapping gives now"):
        landing.redate(plan)
    assert landing.months()[202204] == ["O1"]


def test_snapshots_rank_as_before(landing: Corrected) -> None:
    """A replaced file's lines move too and stay superseded; the one that replaced it counts."""
    landing.configure(**WRONG, mode="snapshot")
    landing.deliver("stand.csv", *LINES[:2])
    landing.take_in()
    landing.deliver("stand.csv", LINES[0].replace(",4,", ",9,"))
    landing.take_in()
    assert landing.sold() == {(202204, "P1"): 9}
    landing.configure(**RIGHT, mode="snapshot")
    landing.redate(landing.asked())
    assert landing.months() == {202201: ["O1", "O1"], 202202: ["O2"]}
    assert landing.sold() == {(202201, "P1"): 9}
    assert list(registered(landing.lakehouse)["sequence"]) == [1, 2]


def test_duplicates_stay_duplicates(landing: Corrected) -> None:
    """A line that two deliveries brought counts once, and identical lines of one keep their number
    after they moved.
    """
    landing.deliver("a.csv", LINES[0], LINES[0])
    landing.deliver("b.csv", LINES[0], LINES[1])
    landing.take_in()
    landing.configure(**RIGHT)
    landing.redate(landing.asked())
    assert landing.sold() == {(202201, "P1"): 8, (202202, "P1"): 5}
    assert sorted(landing.lines()["_occurrence"]) == [1, 1, 1, 2]


def test_an_earlier_first_month_lets_lines_in(landing: Corrected) -> None:
    """Lines before the first month were set aside, and are no more; a later first month is refused,
    since its months can't be emptied.
    """
    landing.configure(**RIGHT)
    landing.deliver("a.csv", "O1,P1,C1,North,05/12/2021,1,1", "O2,P1,C1,North,05/01/2022,1,1")
    landing.take_in()
    landing.configure(first_month=202112, **RIGHT)
    assert landing.redate().moves == [(0, 202112, 1)]
    landing.configure(first_month=202201, **RIGHT)
    with pytest.raises(MappingRefused, match="put first_month back to 202112 or earlier"):
        landing.redate()
    assert landing.months() == {202112: ["O1"], 202201: ["O2"]}


def test_a_reason_is_given_anew(landing: Corrected) -> None:
    """A line that has no month by either mapping tells the reason of now."""
    landing.configure(**RIGHT)
    landing.deliver("a.csv", "O1,P1,C1,North,05/12/2021,1,1", "O2,P1,C1,North,05/01/2022,1,1")
    landing.take_in()
    landing.configure(date_formats=["dd/MM/yyyy"], missing=["05/12/2021"])
    redated = landing.redate()
    assert (redated.moved_lines, redated.moves) == (0, [(0, 0, 1)])
    assert list(landing.lines()["_problem"].dropna()) == ["order_date_unreadable"]
    assert landing.redate() == Redated()


def test_other_settings_only_renew_the_record(landing: Corrected) -> None:
    """A part number from another column changes no month: bronze stays, the record says by which
    mapping lines are read, and silver follows.
    """
    header = f"{HEADER},SKU"
    landing.configure(**RIGHT)
    landing.deliver("a.csv", *(f"{line},P9" for line in LINES), header=header)
    landing.take_in()
    version = landing.lakehouse.version(BRONZE_SALES_ORDERS)
    columns = SOURCE["columns"] | {"part_number": "SKU"}
    landing.configure(**RIGHT, columns=columns)
    redated = landing.redate()
    assert (len(redated.records), redated.moves) == (1, [])
    assert landing.lakehouse.version(BRONZE_SALES_ORDERS) == version
    assert landing.sold() == {(202201, "P9"): 10, (202202, "P9"): 5}
    records = landing.lakehouse.rows(DELIVERIES).sort_values("record_number")
    assert list(records["record_number"]) == [1, 2]
    assert records["mapping_version"].nunique() == 2
    assert (records["mapped_at"].iloc[1] > records["registered_at"].iloc[1], landing.redate()) == (
        True,
        Redated(),
    )


def test_a_mapping_that_stored_lines_can_not_be_read_by_is_refused(landing: Corrected) -> None:
    """A column that a stored delivery lacks is named, whether it holds the date or another value;
    both names as a list are taken.
    """
    landing.deliver("a.csv", *LINES)
    landing.take_in()
    before = landing.versions()
    for column in ("order_date", "quantity"):
        landing.configure(**WRONG, columns=SOURCE["columns"] | {column: "Other"})
        with pytest.raises(MappingRefused) as refused:
            landing.redate()
        assert "1 deliveries whose lines are stored can't be read by it" in str(refused.value)
        assert f"a.csv: no column Other, which sources.shop.columns.{column} names" in str(
            refused.value
        )
    assert landing.versions() == before
    landing.configure(**WRONG, columns=SOURCE["columns"] | {"order_date": ["Other", "Date"]})
    assert landing.redate().moves == []


def test_lines_that_wait_in_their_file_are_dated_from_it(landing: Corrected) -> None:
    """A delivery that is registered but not stored whole gets its months from the file; what was
    stored moves, the rest is stored by its right month, and nothing is there twice.
    """
    file = landing.deliver("a.csv", *LINES)
    landing.register()
    landing.store([202204])
    landing.configure(**RIGHT)
    text = file.read_text(encoding="utf-8")
    file.unlink()
    with pytest.raises(UnreadableFile, match="registered, but its lines are not stored yet"):
        landing.redate()
    file.write_text(text, encoding="utf-8")
    landing.redate(landing.asked())
    assert landing.months() == {202201: ["O1", "O3"]}
    assert landing.listed() == {0: 0, 202201: 2, 202202: 1, 202204: 0, 202205: 0}
    assert landing.store(YEAR) == {202202: 1}
    assert landing.months() == {202201: ["O1", "O3"], 202202: ["O2"]}
    assert landing.ledger_agrees()


def test_nothing_is_made_from_lines_of_another_mapping(landing: Corrected) -> None:
    """Storing lines refuses as long as the change is not applied to what is registered."""
    landing.deliver("a.csv", *LINES)
    landing.take_in()
    landing.configure(**RIGHT)
    with pytest.raises(Refused, match="the mapping of its dates changed after its lines were"):
        landing.store(YEAR)


def test_lines_of_an_older_release_are_looked_at_once(
    landing: Corrected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a record without a mapping nobody knows what it was dated by: where the months are right
    it only gets a further record.
    """
    landing.deliver("a.csv", *LINES)
    with monkeypatch.context() as older:
        older.setattr("medallion_assets.bronze.mapping.SourceMapping.noted", lambda *_: {})
        landing.take_in()
    assert landing.lakehouse.rows(DELIVERIES)["mapping"].isna().all()
    redated = landing.redate()
    assert (len(redated.records), redated.moves, landing.redate()) == (1, [], Redated())


POINTS = (
    ("record", 1),  # the note that months are about to change
    ("move", 1),
    ("append", 1),  # the deliveries' further records
    ("append", 2),  # the plan is applied
    ("record", 2),  # the months as they are
)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("method", "call"), POINTS)
def test_a_run_that_ends_in_between_is_gone_on_with(
    landing: Corrected, monkeypatch: pytest.MonkeyPatch, method: str, call: int, when: str
) -> None:
    """Wherever the process ends, each line is there once, and the next run leaves what an
    undisturbed one leaves, without asking again.
    """
    landing.deliver("a.csv", *LINES)
    landing.deliver("b.csv", "O7,P2,C1,North,01/02/2022,1,1")
    landing.take_in()
    landing.configure(**RIGHT)
    plan = landing.asked()
    calls: list[int] = []
    owner = Ledger if method == "record" else DeltaLakehouse
    original = getattr(owner, method)

    def ending(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if when == "before" and len(calls) == call:
            raise KeyboardInterrupt
        result = original(self, *arguments, **named)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as crash:
        crash.setattr(owner, method, ending)
        with pytest.raises(KeyboardInterrupt):
            landing.redate(plan)
    assert sorted(landing.lines()["Order"]) == ["O1", "O2", "O3", "O7"]
    has_begun = (method, call, when) != ("record", 1, "before")
    landing.redate("" if has_begun else plan)
    assert landing.months() == {202201: ["O1", "O3"], 202202: ["O2", "O7"]}
    assert landing.listed() == {0: 0, 202201: 2, 202202: 2, 202204: 0, 202205: 0}
    events = listed(landing.lakehouse)
    assert events.loc[events["plan_id"] == plan, "event"].tolist() == ["planned", "applied"]
    assert landing.ledger_agrees()
    assert all(
        plan in landing.lakehouse.ledger.slices(BRONZE_SALES_ORDERS)[month].details["plans"]
        for month in (0, 202201, 202202, 202204, 202205)
    )
    assert (landing.redate(), landing.store(YEAR)) == (Redated(), {})


def test_a_mapping_that_went_back_after_the_end_is_found(
    landing: Corrected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines moved, their records not yet, and the former mapping is configured again: they are
    found, nothing is made of them, and a plan moves them back.
    """
    landing.deliver("a.csv", *LINES)
    landing.take_in()
    start = landing.lines()
    landing.configure(**RIGHT)
    plan = landing.asked()
    with monkeypatch.context() as crash:
        crash.setattr(
            DeltaLakehouse, "append", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            landing.redate(plan)
    landing.configure(**WRONG)
    with pytest.raises(Refused, match="were being moved to their months by plan"):
        landing.store(YEAR)
    landing.redate(landing.asked())
    pd.testing.assert_frame_equal(landing.lines(), start)
    assert landing.ledger_agrees()


def test_of_two_at_once_one_moves_the_lines(
    landing: Corrected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stores lines between another's reading and moving is not overwritten: the plan no
    longer fits, and a new one has both.
    """
    landing.deliver("a.csv", *LINES)
    landing.register()
    landing.store([202204, 202205])
    landing.configure(**RIGHT)
    plan = landing.asked()
    append, other = landing.lakehouse.move, []

    def beaten(*arguments: Any, **named: Any) -> int:
        if not other:
            other.append(1)
            row = landing.lakehouse.read(BRONZE_SALES_ORDERS, [202204]).withColumn(
                "_line_number", F.lit(99).cast("bigint")
            )
            number = landing.lakehouse.next_number(BRONZE_SALES_ORDERS)
            landing.lakehouse.append(BRONZE_SALES_ORDERS, row, number)
        return append(*arguments, **named)

    monkeypatch.setattr(landing.lakehouse, "move", beaten)
    with pytest.raises(ConcurrentWrite):
        landing.redate(plan)
    assert len(landing.lines()) == 4
    with pytest.raises(Refused, match="was made for version"):
        landing.redate(plan)


def test_completeness_follows(landing: Corrected) -> None:
    """A month that lost its lines makes no earlier one complete any more."""
    landing.deliver("a.csv", "O1,P1,C1,North,28/01/2022,1,1", "O2,P1,C1,North,02/01/2022,1,1")
    landing.configure(date_formats=["MM/dd/yyyy", "dd/MM/yyyy"])
    landing.take_in()
    complete = [complete_months_of(landing.lakehouse.rows(DELIVERIES), landing.settings)]
    landing.configure(**RIGHT)
    landing.redate(landing.asked())
    complete.append(complete_months_of(landing.lakehouse.rows(DELIVERIES), landing.settings))
    assert (landing.listed(), complete) == ({202201: 2, 202202: 0}, [[202201], []])
