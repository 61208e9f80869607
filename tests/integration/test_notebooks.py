"""All notebooks run top to bottom on a fresh, small lakehouse of the sample, each in a kernel of
its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from medallion_assets import plans
from medallion_assets.environment import settings_of
from medallion_assets.operations import runs
from medallion_assets.tables import CHAMPION, DEMAND_DRIFT, PLAN, RETRAINING_DECISION, TABLES
from resources.lakehouse import LEDGER, DeltaLakehouse
from scripts.notebooks import asked_for, make_lakehouse, notebook_of, outputs, run, sources
from tests.conftest import slow

pytestmark = [pytest.mark.integration, pytest.mark.spark, slow]

ASKING = {
    "04_promotion_registry_rollback": {"rollback", "release"},
    "05_monitoring_retraining": {"train"},
    "06_operations_safety": {"confirm", "undo"},
}
# Fewer and quicker models, two origins less; the months and the parts of the sample.
SMALL = {
    "run": {"replay_months": 6},
    "forecast": {"origins": 3},
    "zoo": {"models": ["seasonal_naive", "imapa", "ses"]},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a lakehouse that all notebooks are run on, in their order."""
    return make_lakehouse(tmp_path_factory.mktemp("notebooks"), SMALL)


@pytest.fixture(scope="module")
def lakehouse(config: Path) -> DeltaLakehouse:
    """Its tables."""
    return runs.reader(settings_of(config))


def versions(lakehouse: DeltaLakehouse) -> dict[str, int]:
    """Delta version of every table that a notebook without answers may not touch."""
    tables = (spec for spec in TABLES if spec not in (PLAN, RETRAINING_DECISION, LEDGER))
    return {spec.id: lakehouse.version(spec) for spec in tables}


@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_without_an_answer_a_notebook_changes_nothing(
    source: Path, config: Path, lakehouse: DeltaLakehouse
) -> None:
    """It runs top to bottom and shows something in most cells; all tables stay as they were but
    for plans, the ledger and the decision whether to train. What it would do, it asks for.
    """
    before, decided = versions(lakehouse), len(lakehouse.rows(CHAMPION))
    ran = run(source, config)
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert len(code) == sum(c.cell_type == "code" for c in notebook_of(source).cells)
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 2
    assert versions(lakehouse) == before
    assert len(lakehouse.rows(CHAMPION)) == decided
    assert set(asked_for(ran)) == ASKING.get(source.stem, set())


def test_a_rollback_is_done_by_its_name_and_released(
    config: Path, lakehouse: DeltaLakehouse
) -> None:
    """With the answers it asked for, the notebook rolls a class back and releases it: two more
    decisions, with the reason of the person.
    """
    source = next(path for path in sources() if path.stem.startswith("04"))
    before = len(lakehouse.rows(CHAMPION))
    run(source, config, {**asked_for(run(source, config)), "why": "the new fit is odd"})
    made = lakehouse.rows(CHAMPION).sort_values("decision_number").tail(2)
    assert len(lakehouse.rows(CHAMPION)) == before + 2
    assert list(made["decision"]) == ["rolled_back", "released"]
    assert made["reason"].str.contains("the new fit is odd").all()


def test_a_destructive_act_goes_from_plan_to_undo(config: Path, lakehouse: DeltaLakehouse) -> None:
    """Named, the plan empties the table and undo brings it back, row by row and slice by slice; the
    name of another plan does nothing.
    """
    source = next(path for path in sources() if path.stem.startswith("06"))
    answers = asked_for(run(source, config))
    assert answers["confirm"] == answers["undo"]
    before = versions(lakehouse)
    rows, slices = lakehouse.rows(DEMAND_DRIFT), lakehouse.ledger.slices(DEMAND_DRIFT)
    other = run(source, config, {"confirm": "restore-demand_drift-99"})
    assert (versions(lakehouse), asked_for(other)) == (before, answers)
    told = outputs(run(source, config, answers))
    version = before[DEMAND_DRIFT.id]
    assert f"gold.demand_drift: version {version + 1}, 0 rows in 0 months" in told
    assert f"plan {answers['confirm']} was applied already" in told
    assert versions(lakehouse) == {**before, DEMAND_DRIFT.id: version + 2}
    key = list(DEMAND_DRIFT.key)
    again = lakehouse.rows(DEMAND_DRIFT).sort_values(key, ignore_index=True)
    assert again.equals(rows.sort_values(key, ignore_index=True))
    assert {m: s.data_version for m, s in lakehouse.ledger.slices(DEMAND_DRIFT).items()} == {
        m: s.data_version for m, s in slices.items()
    }
    assert plans.find(lakehouse, answers["confirm"]).state == "undone"
