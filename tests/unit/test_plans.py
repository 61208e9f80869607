"""Nothing destructive without a plan that was shown, named, and still fits the table."""

from __future__ import annotations

import pytest

from medallion_assets import plans
from medallion_assets.plans import FORCE_TAG, PLAN_TAG, Plans
from medallion_assets.tables import MONTHLY_DEMAND, PARTS, ZOO_FORECAST
from resources.errors import Refused
from resources.lakehouse import Slice
from tests.fakes import FakeLakehouse, filled

MONTHS = [202401, 202402, 202403]


@pytest.fixture
def lakehouse() -> FakeLakehouse:
    """Three months of demand, in one version."""
    made = FakeLakehouse()
    rows = [filled(MONTHLY_DEMAND, yyyymm=month, part_number="P") for month in MONTHS]
    made.merge(MONTHLY_DEMAND, rows, MONTHS)
    made.ledger.record(MONTHLY_DEMAND, [Slice(month, "", "1", "1", 1, 1) for month in MONTHS], "r")
    return made


def planner(lakehouse: FakeLakehouse) -> Plans:
    return Plans(lakehouse, "ann", 13)


def move(lakehouse: FakeLakehouse) -> None:
    """Another writer comes in between."""
    lakehouse.append(MONTHLY_DEMAND, [filled(MONTHLY_DEMAND, yyyymm=202404, part_number="Q")])


def test_a_plan_says_what_it_would_do_and_changes_nothing(lakehouse: FakeLakehouse) -> None:
    """Months without data are not in it; the row names rows, files, the version to return to and
    who.
    """
    plan = planner(lakehouse).backfill(MONTHLY_DEMAND, [*MONTHS, 202412])
    assert plan.plan_id == "backfill-monthly_demand-1"
    assert (plan.months, plan.row_count, plan.table_version) == (tuple(MONTHS), 3, 1)
    assert lakehouse.version(MONTHLY_DEMAND) == 1
    stored = plans.listed(lakehouse).iloc[0]
    assert (stored["event"], stored["actor"], stored["effect"]) == (
        "planned",
        "ann",
        plan.sentence(lakehouse),
    )
    assert "202401 to 202403 (3 months), again although its inputs did not change" in plan.sentence(
        lakehouse
    )
    assert plans.find(lakehouse, plan.plan_id) == plan


def test_asked_twice_the_same_act_has_the_same_name(lakehouse: FakeLakehouse) -> None:
    """A plan that waits is taken again; other months, and a table that moved, make another."""
    asked = planner(lakehouse)
    plan = asked.backfill(MONTHLY_DEMAND, MONTHS)
    assert asked.backfill(MONTHLY_DEMAND, MONTHS) == plan
    assert len(plans.listed(lakehouse)) == 1
    assert asked.backfill(MONTHLY_DEMAND, MONTHS[:2]).plan_id == "backfill-monthly_demand-2"
    move(lakehouse)
    assert asked.backfill(MONTHLY_DEMAND, MONTHS).plan_id == "backfill-monthly_demand-3"
    with pytest.raises(Refused, match="made for version 1"):
        asked.check(plan)


def test_forcing_several_stored_months_needs_a_plan(lakehouse: FakeLakehouse) -> None:
    """The refusal makes the plan and says how to name it; with that tag the same run is
    permitted.
    """
    asked = planner(lakehouse)
    with pytest.raises(
        Refused, match=r"Nothing was written\. .* tag medallion/plan: backfill-monthly_demand-1"
    ):
        asked.permission({FORCE_TAG: "true"}, MONTHLY_DEMAND, MONTHS)
    permission = asked.permission({PLAN_TAG: "backfill-monthly_demand-1"}, MONTHLY_DEMAND, MONTHS)
    assert (permission.is_forced, permission.may_remove) == (True, False)


def test_superseding_several_published_months_needs_a_plan(lakehouse: FakeLakehouse) -> None:
    """One month needs none; of several the refusal makes the plan, and nothing counts as forced."""
    asked = planner(lakehouse)
    assert asked.permission({}, MONTHLY_DEMAND, MONTHS[:1], needs_plan=True) == plans.NOTHING
    with pytest.raises(
        Refused, match=r"Nothing was written\. .* tag medallion/plan: backfill-monthly_demand-1"
    ):
        asked.permission({}, MONTHLY_DEMAND, MONTHS, needs_plan=True)


@pytest.mark.parametrize("months", [[202401], [202401, 202412]])
def test_one_stored_month_is_forced_without_a_plan(
    lakehouse: FakeLakehouse, months: list[int]
) -> None:
    """Months without data do not count."""
    assert planner(lakehouse).permission({FORCE_TAG: "true"}, MONTHLY_DEMAND, months).is_forced


def test_an_ordinary_run_asks_nobody(lakehouse: FakeLakehouse) -> None:
    """Without tags nothing is forced, and no plan is made; a plan of another table permits nothing
    here.
    """
    asked = planner(lakehouse)
    assert asked.permission({}, MONTHLY_DEMAND, MONTHS) == plans.NOTHING
    assert len(plans.listed(lakehouse)) == 0
    made = asked.backfill(MONTHLY_DEMAND, MONTHS)
    assert asked.permission({PLAN_TAG: made.plan_id}, PARTS, MONTHS) == plans.NOTHING
    assert asked.permission({PLAN_TAG: made.plan_id}, ZOO_FORECAST, MONTHS, "ses") == plans.NOTHING


def test_a_plan_is_refused_after_the_table_moved(lakehouse: FakeLakehouse) -> None:
    """Another writer's commit makes it another act than the one that was shown."""
    asked = planner(lakehouse)
    plan = asked.backfill(MONTHLY_DEMAND, MONTHS)
    move(lakehouse)
    with pytest.raises(
        Refused,
        match=(
            r"made for version 1 of my_catalog\.my_silver\.monthly_demand, which is at version"
            r" 2 now"
        ),
    ):
        asked.permission({PLAN_TAG: plan.plan_id}, MONTHLY_DEMAND, MONTHS)


def test_a_plan_covers_its_months_and_is_used_once(lakehouse: FakeLakehouse) -> None:
    """A wider run is refused; so is a second one after the first was recorded."""
    asked = planner(lakehouse)
    plan = asked.backfill(MONTHLY_DEMAND, MONTHS[:2])
    with pytest.raises(Refused, match="covers 202401 to 202402, not 202403"):
        asked.permission({PLAN_TAG: plan.plan_id}, MONTHLY_DEMAND, MONTHS)
    asked.done(plan, "applied")
    with pytest.raises(Refused, match="was applied already"):
        asked.permission({PLAN_TAG: plan.plan_id}, MONTHLY_DEMAND, MONTHS[:2])


def test_undo_returns_to_the_version_before(lakehouse: FakeLakehouse) -> None:
    """A restore and its undo are commits of their own; each is on record."""
    move(lakehouse)
    asked = planner(lakehouse)
    plan = asked.apply(asked.restore(MONTHLY_DEMAND, 1))
    assert (plan.state, plan.version_after, len(lakehouse.rows(MONTHLY_DEMAND))) == (
        "applied",
        3,
        3,
    )
    undone = asked.undo(plan)
    assert (undone.state, len(lakehouse.rows(MONTHLY_DEMAND))) == ("undone", 4)
    assert plans.listed(lakehouse)["event"].tolist() == ["planned", "applied", "undone"]
    with pytest.raises(Refused, match="is undone, so there is nothing to undo"):
        asked.undo(undone)


def test_undo_is_refused_where_it_would_undo_more(lakehouse: FakeLakehouse) -> None:
    """What came after the plan is not taken back with it; the message says how, if that is
    meant.
    """
    move(lakehouse)
    asked = planner(lakehouse)
    plan = asked.apply(asked.restore(MONTHLY_DEMAND, 1))
    move(lakehouse)
    with pytest.raises(Refused, match=r"medallion plan restore silver\.monthly_demand --to 2"):
        asked.undo(plan)


def test_a_backfill_that_changed_nothing_has_nothing_to_undo(lakehouse: FakeLakehouse) -> None:
    """A table that stands where it stood is not restored to its own version."""
    asked = planner(lakehouse)
    applied = asked.done(asked.backfill(MONTHLY_DEMAND, [202401, 202402]), "applied")
    with pytest.raises(Refused, match="changed nothing in"):
        asked.undo(applied)


def test_vacuum_removes_what_was_shown_and_can_not_be_undone(lakehouse: FakeLakehouse) -> None:
    """The plan says so beforehand; where other files would go it is refused."""
    asked = planner(lakehouse)
    plan, late = asked.vacuum(MONTHLY_DEMAND), asked.vacuum(MONTHLY_DEMAND)
    assert "removes 1 files" in plan.sentence(lakehouse)
    assert "This can't be undone" in plan.sentence(lakehouse)
    with pytest.raises(Refused, match="can't be undone"):
        asked.undo(asked.apply(plan))
    with pytest.raises(Refused, match="0 files would be removed now, not the 1 it shows"):
        asked.apply(late)


def test_what_can_not_be_planned_is_refused(lakehouse: FakeLakehouse) -> None:
    """A month without data, a version that is not earlier, an unknown table, an unknown plan."""
    asked = planner(lakehouse)
    with pytest.raises(Refused, match="holds none of these months, so writing them needs no plan"):
        asked.backfill(MONTHLY_DEMAND, [202412])
    with pytest.raises(Refused, match="is at version 1; name an earlier one"):
        asked.restore(MONTHLY_DEMAND, 1)
    with pytest.raises(Refused, match=r"no table 'silver\.nothing'"):
        plans.table_named("silver.nothing")
    with pytest.raises(Refused, match="there is no plan 'x'"):
        plans.find(lakehouse, "x")
