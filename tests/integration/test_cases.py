"""Field cases: exports as companies make them, from file to monthly demand, by values.

A case is a folder with files, a configuration and the right outcome. They are reference data beside
the project: SHARED_CASES may name their folder, and tests skip themselves where a case is absent. A
case that one run shows is one entry of CASES; others are a test of their own over the fixture
``take``.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest

from medallion_assets.definitions import build_defs, build_resources, newest_partition
from medallion_assets.plans import PLAN_TAG, listed
from medallion_assets.table_asset import asset_key
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    DELIVERIES,
    MONTHLY_DEMAND,
    PARTS,
    REJECTED_LINES,
    SILVER_SALES_ORDERS,
)
from resources.settings import load_settings
from tests.conftest import forget_tables, open_lakehouse

if TYPE_CHECKING:
    from resources.engines import Engine
    from resources.lakehouse import DeltaLakehouse
    from resources.settings import Settings

pytestmark = [pytest.mark.spark, pytest.mark.integration, pytest.mark.real]

SHARED = Path(__file__).parents[2].parent / "shared" / "cases"
FOLDER = Path(os.environ.get("SHARED_CASES", SHARED))
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
DATA = (BRONZE_SALES_ORDERS, SILVER_SALES_ORDERS, REJECTED_LINES, PARTS, MONTHLY_DEMAND)


@dataclass(frozen=True)
class Outcome:
    """What silver holds after a run, and what the run said where it failed."""

    settings: Settings
    lakehouse: DeltaLakehouse
    failures: list[str]

    @property
    def demand(self) -> dict[tuple[str, int], float]:
        """Demand by part and month; months without any are left out."""
        rows = self.lakehouse.rows(MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty"])
        return by_part_and_month(rows)

    def column(self, name: str) -> dict[tuple[str, int], float]:
        """Another column of monthly demand, for instance returned_qty; zeros are left out."""
        rows = self.lakehouse.rows(MONTHLY_DEMAND, ["part_number", "yyyymm", name])
        return by_part_and_month(rows)

    @property
    def accepted(self) -> pd.DataFrame:
        return self.lakehouse.rows(SILVER_SALES_ORDERS)

    @property
    def aside(self) -> pd.DataFrame:
        """Lines that do not count, with disposition and reasons."""
        return self.lakehouse.rows(REJECTED_LINES)

    @property
    def rejected(self) -> dict[int, list[str]]:
        """Reasons of rejected lines by line number; for cases of one file."""
        rows = self.aside[self.aside["disposition"] == "rejected"]
        return {
            int(line): list(reasons)
            for line, reasons in zip(rows["line_number"], rows["reasons"], strict=True)
        }

    @property
    def dispositions(self) -> Counter[str]:
        return Counter(self.aside["disposition"])


Take = Callable[..., Outcome]


def by_part_and_month(rows: pd.DataFrame) -> dict[tuple[str, int], float]:
    return {
        (str(part), int(month)): float(value)
        for part, month, value in rows.itertuples(index=False, name=None)
        if value
    }


def expected_demand(case: str, file: str = "expected_demand.csv") -> dict[tuple[str, int], float]:
    """The demand that a case says is right."""
    return by_part_and_month(
        pd.read_csv(
            FOLDER / case / file,
            dtype={"part_number": str},
            usecols=["part_number", "yyyymm", "demand_qty"],
        )[["part_number", "yyyymm", "demand_qty"]]
    )


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a case, a folder's name, to where it may be changed."""

    def copied(name: str) -> Path:
        if not (FOLDER / name).is_dir():
            pytest.skip(f"{FOLDER / name} is absent; SHARED_CASES may name the folder of the cases")
        target = tmp_path / name
        shutil.copytree(FOLDER / name, target, copy_function=shutil.copyfile)
        for path in (target, *target.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return target

    return copied


@pytest.fixture
def take(engine: Engine, tmp_path: Path) -> Iterator[Take]:
    """Runs bronze and silver of a configuration through its last month; may be called again."""
    used: list[Settings] = []

    def run(
        configuration: Path, last_month: int | None = None, tags: Mapping[str, str] | None = None
    ) -> Outcome:
        settings = load_settings(configuration, {})
        used.append(settings)
        lakehouse = open_lakehouse(engine, settings)
        resources = build_resources(settings) | {
            "lakehouse": dg.ResourceDefinition.hardcoded_resource(lakehouse)
        }
        newest = newest_partition(settings)
        defs = build_defs(settings, resources).resolve_implicit_global_asset_job_def()
        failures: list[str] = []
        with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
            for specs, first, last in (
                ((DELIVERIES,), newest, newest),
                (DATA, str(settings.first_month), str(last_month or settings.last_month)),
            ):
                result = defs.execute_in_process(
                    instance=instance,
                    asset_selection=[asset_key(spec) for spec in specs],
                    tags={
                        "dagster/asset_partition_range_start": first,
                        "dagster/asset_partition_range_end": last,
                        **(tags or {}),
                    },
                    run_config=QUIET,
                    raise_on_error=False,
                )
                failures += [
                    str(event.step_failure_data.error) for event in result.get_step_failure_events()
                ]
                if not result.success:
                    break
        return Outcome(settings, lakehouse, failures)

    yield run
    for settings in used:
        forget_tables(engine, settings)


@dataclass(frozen=True)
class Case:
    """A case that one run shows: rejected lines by line number, with their reasons."""

    folder: str
    accepted: int
    rejected: dict[int, list[str]] = field(default_factory=dict)
    configuration: str = "config.yaml"
    demand: str = "expected_demand.csv"
    below: str = ""


NO_LINE = ["order_date_unreadable", "part_number_missing", "unit_price_unreadable"]
HEADER_AGAIN = ["order_date_unreadable", "quantity_unreadable", "unit_price_unreadable"]
CASES = [
    Case(
        "01-report-preamble-totals",
        8,
        {
            6: NO_LINE,
            10: HEADER_AGAIN,
            13: NO_LINE,
            14: NO_LINE,
            15: ["unreadable: 2 fields where the header has 6"],
        },
        below="b",
    ),
    # The same with lines above the header: they are no lines, and the others keep their numbers.
    Case(
        "01-report-preamble-totals",
        8,
        {
            10: NO_LINE,
            14: HEADER_AGAIN,
            17: NO_LINE,
            18: NO_LINE,
            19: ["unreadable: 2 fields where the header has 6"],
        },
        below="a",
    ),
    *(
        Case("03-planner-list-parentheses", 10, {9: ["order_date_unreadable"]}, configuration)
        for configuration in ("config.yaml", "config_no_price.yaml")
    ),
    *(
        Case("04-shop-local-time", 8, configuration=configuration)
        for configuration in ("config.yaml", "config_default_formats.yaml")
    ),
    Case("07-one-part-many-spellings", 11, {3: ["part_number_missing"]}),
    Case(
        "11-barcode-in-quantity",
        119,
        {58: ["quantity_implausible"]},
        demand="expected_demand_if_rejected.csv",
    ),
]


@pytest.mark.parametrize("wanted", CASES, ids=lambda c: f"{c.folder}/{c.below}/{c.configuration}")
def test_a_case_comes_out_right(case: Callable[[str], Path], take: Take, wanted: Case) -> None:
    """Demand is what the case says, and every other line is set aside for the reason that fits."""
    outcome = take(case(wanted.folder) / wanted.below / wanted.configuration)
    assert outcome.failures == []
    assert outcome.demand == expected_demand(wanted.folder, wanted.demand)
    assert len(outcome.accepted) == wanted.accepted
    assert {line: sorted(reasons) for line, reasons in outcome.rejected.items()} == {
        line: sorted(reasons) for line, reasons in wanted.rejected.items()
    }


@pytest.mark.parametrize("configuration", ["config.yaml", "config_month.yaml"])
def test_files_of_one_name_in_dated_folders_are_different_files(
    case: Callable[[str], Path], take: Take, configuration: str
) -> None:
    """Case 08: each folder's file counts, and a corrected one replaces its own month alone."""
    name = "08-same-name-in-dated-folders"
    folder = case(name)
    shutil.copytree(folder / "delivered", folder / "export", dirs_exist_ok=True)
    first = take(folder / configuration)
    assert first.failures == []
    assert first.demand == expected_demand(name, "expected_demand_first.csv")
    assert (len(first.accepted), len(first.aside)) == (9, 0)
    shutil.copytree(folder / "corrected", folder / "export", dirs_exist_ok=True)
    second = take(folder / configuration)
    assert second.failures == []
    assert second.demand == expected_demand(name, "expected_demand_corrected.csv")
    assert second.dispositions == {"superseded": 3}
    assert set(second.aside["yyyymm"]) == {202402}


def configured(folder: Path, configuration: str, *changes: tuple[str, str]) -> Path:
    """A copy of a configuration of the case in which texts are replaced by others."""
    text = (folder / configuration).read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "changed.yaml").write_text(text, encoding="utf-8")
    return folder / "changed.yaml"


def test_refunds_told_apart_by_a_column(case: Callable[[str], Path], take: Take) -> None:
    """With the meaning of its types, a marketplace's refunds are returned and its fees are no
    lines; with refunds that cancel, the sale of the same month is taken back.
    """
    folder = case("05-refund-rows-positive")
    types = "line_types: {{sale: [Order], {}: [Refund], ignore: [Service Fee, Transfer]}}"
    types = f"    {types}\nforecast:"
    column = ("      quantity: quantity", "      line_type: type\n      quantity: quantity")
    outcome = take(configured(folder, "config.yaml", column, ("forecast:", types.format("refund"))))
    assert (outcome.failures, outcome.demand) == ([], expected_demand(folder.name))
    assert outcome.column("returned_qty") == {("SKU-A", 202401): 5.0, ("SKU-A", 202402): 3.0}
    assert outcome.rejected == {7: ["line_type_ignored"], 8: ["line_type_ignored"]}
    cancelling = configured(
        folder,
        "config.yaml",
        column,
        ("forecast:", types.format("cancellation")),
        ("lakehouse_root: lakehouse", "lakehouse_root: other"),
    )
    outcome = take(cancelling)
    assert outcome.demand == expected_demand(folder.name) | {("SKU-A", 202401): 3.0}
    assert outcome.column("cancelled_qty") == {("SKU-A", 202401): 5.0}


def test_a_type_in_the_order_number_keeps_refunds_out(
    case: Callable[[str], Path], take: Take
) -> None:
    """A marker joined before the order number is enough for demand; the lines say why they are
    aside.
    """
    folder = case("05-refund-rows-positive")
    outcome = take(folder / "config_type_in_order.yaml")
    assert (outcome.failures, outcome.demand) == ([], expected_demand(folder.name))
    assert outcome.rejected[4] == ["cancellation_with_positive_quantity"]


def test_parentheses_are_returns(case: Callable[[str], Path], take: Take) -> None:
    """A planner's quantity in parentheses is returned; without prices there is no revenue."""
    outcome = take(case("03-planner-list-parentheses") / "config_no_price.yaml")
    assert outcome.column("returned_qty") == {("PRD-A", 202401): 30.0, ("PRD-B", 202403): 450.0}
    assert outcome.column("revenue") == {}


def test_one_fixed_part(case: Callable[[str], Path], take: Take) -> None:
    """A file of months and units is refused with the column that is missing and what to write for
    it; so written, it gives the demand.
    """
    folder = case("10-one-part-monthly-totals")
    refused = take(folder / "config_two_columns.yaml")
    assert "no column Item" in refused.failures[0]
    assert "{constant: NAME}" in refused.failures[0]
    fixed = configured(
        folder,
        "config_two_columns.yaml",
        ("part_number: Item", "part_number: {constant: TOTAL}"),
        (", unit_price: Units", ""),
    )
    outcome = take(fixed)
    assert (outcome.failures, outcome.demand) == ([], expected_demand(folder.name))
    assert len(outcome.accepted) == 36


DATES_CORRECTED = "09-date-format-corrected-later"


def versions(outcome: Outcome) -> list[int]:
    """Delta versions of what a run writes."""
    return [outcome.lakehouse.version(spec) for spec in (DELIVERIES, *DATA)]


def test_dates_that_could_not_be_read_are_read_after_the_mapping_is_right(
    case: Callable[[str], Path], take: Take
) -> None:
    """Lines without a month get theirs at once, without the file, and a third run has nothing to
    do.
    """
    folder = case(DATES_CORRECTED) / "a"
    wrong = take(folder / "config_wrong.yaml")
    assert (wrong.failures, wrong.demand, len(wrong.rejected)) == ([], {}, 9)
    (folder / "orders" / "orders.csv").unlink()
    right = take(folder / "config_right.yaml")
    assert (right.failures, len(right.accepted), right.rejected) == ([], 9, {})
    assert right.demand == expected_demand(DATES_CORRECTED)
    before = versions(right)
    assert versions(take(folder / "config_right.yaml")) == before


def test_dates_that_were_read_wrong_move_by_a_plan(case: Callable[[str], Path], take: Take) -> None:
    """The run is refused with what would move; the same run with the plan brings the right months
    through all tables, each emptied month without being asked about again.
    """
    folder = case(DATES_CORRECTED) / "b"
    wrong = take(folder / "config_wrong.yaml")
    assert {month for _, month in wrong.demand} == {202404, 202405, 202407, 202412}
    before = versions(wrong)
    refused = take(folder / "config_right.yaml")
    (told,) = refused.failures
    assert "2 from no month to 202401" in told
    assert "1 from 202412 to 202403" in told
    assert (versions(refused), refused.demand) == (before, wrong.demand)
    plan = listed(refused.lakehouse)["plan_id"].iloc[0]
    right = take(folder / "config_right.yaml", tags={PLAN_TAG: plan})
    assert (right.failures, len(right.accepted), right.rejected) == ([], 9, {})
    assert right.demand == expected_demand(DATES_CORRECTED)
    before = versions(right)
    assert versions(take(folder / "config_right.yaml")) == before
