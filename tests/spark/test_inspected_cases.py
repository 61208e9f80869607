"""`medallion inspect` on field cases and real orders: what it proposes runs unchanged and gives the
demand that is right, or asks the one question that is open.

Reference data beside the project: SHARED_CASES and SHARED_DATA may name their folders; tests skip
themselves where they are absent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml

from medallion_assets.operations.inspection.counting import Outcome, outcome
from medallion_assets.operations.inspection.inspecting import proposed
from medallion_assets.operations.inspection.proposing import Proposal
from resources.engines import Engine
from resources.settings import parse_settings

pytestmark = [pytest.mark.spark, pytest.mark.real]

BESIDE = Path(__file__).parents[2].parent / "shared"
CASES = Path(os.environ.get("SHARED_CASES", BESIDE / "cases"))
ORDERS = Path(os.environ.get("SHARED_DATA", BESIDE / "data")) / "online_retail_ii"


def run(engine: Engine, folder: Path, paths: Sequence[Path]) -> tuple[Proposal, Outcome]:
    """The proposal for the paths, and what becomes of their lines by it, unchanged."""
    proposal, text = proposed(paths, folder)
    assert proposal.open_questions == ()
    settings = parse_settings(yaml.safe_load(text), folder / "config.yaml")
    return proposal, outcome(settings, engine)


def demand_of(rows: pd.DataFrame) -> dict[tuple[str, int], float]:
    columns = rows["part_number"].astype(str), rows["yyyymm"].astype(int), rows["demand_qty"]
    return {(part, month): float(qty) for part, month, qty in zip(*columns, strict=True) if qty}


def expected(case: str, file: str) -> dict[tuple[str, int], float]:
    return demand_of(pd.read_csv(CASES / case / file, dtype={"part_number": str}))


@pytest.mark.parametrize(
    ("case", "inputs", "file"),
    [
        ("01-report-preamble-totals", ["a/orders/*"], "expected_demand.csv"),
        ("01-report-preamble-totals", ["b/orders/*"], "expected_demand.csv"),
        ("03-planner-list-parentheses", ["orders/*"], "expected_demand.csv"),
        ("04-shop-local-time", ["orders/*"], "expected_demand.csv"),
        ("05-refund-rows-positive", ["orders"], "expected_demand.csv"),
        ("07-one-part-many-spellings", ["erp/*", "warehouse/*"], "expected_demand.csv"),
        ("08-same-name-in-dated-folders", ["delivered"], "expected_demand_first.csv"),
        ("09-date-format-corrected-later", ["a/orders/*"], "expected_demand.csv"),
        ("09-date-format-corrected-later", ["b/orders/*"], "expected_demand.csv"),
        ("10-one-part-monthly-totals", ["totals/*"], "expected_demand.csv"),
        ("11-barcode-in-quantity", ["orders/*"], "expected_demand_if_rejected.csv"),
        ("12-six-parts-fourteen-months", ["orders/*"], "expected_demand.csv"),
        ("14-lakehouse-moved", ["template/orders", "later/*"], "expected_demand.csv"),
    ],
)
def test_a_case_is_proposed_as_it_is_right(
    engine: Engine, tmp_path: Path, case: str, inputs: list[str], file: str
) -> None:
    """Demand by part and month as the case says, by the configuration that nobody touched."""
    if not (CASES / case).is_dir():
        pytest.skip(f"{CASES / case} is absent; SHARED_CASES may name the folder of the cases")
    paths = [path for pattern in inputs for path in sorted((CASES / case).glob(pattern))]
    _, found = run(engine, tmp_path, paths)
    assert demand_of(found.demand) == expected(case, file)


def test_months_and_units_alone_are_one_part(engine: Engine, tmp_path: Path) -> None:
    """Two columns: one fixed part, which is asked, and the demand of each month."""
    case = "10-one-part-monthly-totals"
    if not (CASES / case).is_dir():
        pytest.skip(f"{CASES / case} is absent; SHARED_CASES may name the folder of the cases")
    proposal, found = run(engine, tmp_path, [CASES / case / "two_columns" / "monthly.csv"])
    assert "columns.part_number" in {question.key for question in proposal.questions}
    by_month = {month: qty for (_, month), qty in demand_of(found.demand).items()}
    assert by_month == {
        month: qty for (_, month), qty in expected(case, "expected_demand.csv").items()
    }


def test_real_orders_are_proposed_as_they_are_configured(engine: Engine, tmp_path: Path) -> None:
    """Two years of invoices with different columns: the demand of config/online_retail_ii.yaml."""
    if not ORDERS.is_dir():
        pytest.skip(f"{ORDERS} is absent; SHARED_DATA may name its folder")
    proposal, found = run(engine, tmp_path, sorted(ORDERS.glob("*.parquet")))
    assert len(proposal.sources) == 1
    written = Path(__file__).parents[2] / "config" / "online_retail_ii.yaml"
    content = yaml.safe_load(written.read_text(encoding="utf-8"))
    content["sources"][0]["files"] = f"{ORDERS}/*.parquet"
    by_hand = outcome(parse_settings(content, tmp_path / "by_hand.yaml"), engine)
    assert demand_of(found.demand) == demand_of(by_hand.demand)
    assert found.dispositions == by_hand.dispositions
