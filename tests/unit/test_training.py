"""What a training leaves behind, what serves when, and what the registered model answers; all in
memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from medallion_assets.champion import promotion, training
from medallion_assets.champion.decisions import held_classes, last_decisions, serving_version
from medallion_assets.champion.promotion import Decision
from medallion_assets.champion.stewardship import Stewardship, append_decisions, sync_alias
from medallion_assets.champion.training import Training, leader_table
from medallion_assets.tables import (
    CHAMPION,
    DECILES,
    DELIVERIES,
    DEMAND_CLASSES,
    MODEL_EVALUATION,
    ZOO_FORECAST,
)
from medallion_assets.work import Work
from medallion_assets.zoo.registry import enabled
from medallion_assets.zoo.serving import SERVED_COLUMNS, DemandForecaster, ServedModel
from medallion_assets.zoo.spec import FORECAST_COLUMNS
from resources.errors import Refused
from resources.lakehouse import ConcurrentWrite, Slice
from resources.settings import GivenForecasts, Settings, ZooSettings
from resources.stored_models import ModelRefused
from tests.fake_tracking import FakeTracking
from tests.fakes import Crash, FakeLakehouse, filled
from tests.frames import demand_frame, feature_frame

NAIVE, RICH = "seasonal_naive", "tsb"
FIRST, SECOND = 202401, 202404


def decisions(*trainings: tuple[int, int, Mapping[str, int], str]) -> pd.DataFrame:
    """Rows of gold.champion: (month, registry version, {class: trained month}, decision) each,
    numbered in order.
    """
    rows = [
        (month, version, name, trained, decision)
        for month, version, by_class, decision in trainings
        for name, trained in by_class.items()
    ]
    frame = pd.DataFrame(
        rows,
        columns=[
            "yyyymm",
            "registry_version",
            "demand_class",
            "champion_trained_yyyymm",
            "decision",
        ],
    )
    return frame.assign(decision_number=range(1, len(frame) + 1), champion=RICH)


def both(smooth: int, lumpy: int) -> dict[str, int]:
    return {"smooth": smooth, "lumpy": lumpy}


@pytest.mark.parametrize(
    ("month", "version"), [(202312, None), (FIRST, 1), (202403, 1), (SECOND, 2), (202512, 2)]
)
def test_an_origin_is_served_by_what_was_trained_by_then(month: int, version: int | None) -> None:
    """Of two trainings the newer one serves from its month on, the older one before it, nothing
    before both.
    """
    rows = decisions(
        (FIRST, 1, both(FIRST, FIRST), "promoted"), (SECOND, 2, both(SECOND, SECOND), "refreshed")
    )
    assert serving_version(rows.sample(frac=1, random_state=1), month) == version


def test_a_kept_class_keeps_its_older_training() -> None:
    """A version serves from the newest of its trained months, however old a kept class's fit is."""
    rows = decisions(
        (FIRST, 1, both(FIRST, FIRST), "promoted"), (SECOND, 2, both(SECOND, FIRST), "kept")
    )
    assert [serving_version(rows, month) for month in (202403, SECOND)] == [1, 2]


def test_a_rolled_back_version_serves_again() -> None:
    """The last decision counts, also where it names a version that served before."""
    rolled_back = (202405, 1, both(FIRST, FIRST), "rolled_back")
    rows = decisions(
        (FIRST, 1, both(FIRST, FIRST), "promoted"),
        (SECOND, 2, both(SECOND, SECOND), "promoted"),
        rolled_back,
    )
    assert serving_version(rows, 202405) == 1


def test_restated_rows_serve_nothing() -> None:
    """What the evidence of a past month would say today moves nothing."""
    rows = decisions(
        (SECOND, 1, both(SECOND, SECOND), "promoted"), (FIRST, 9, both(FIRST, FIRST), "restated")
    )
    assert [serving_version(rows, month) for month in (FIRST, SECOND)] == [None, 1]


def test_without_decisions_nothing_serves() -> None:
    """Before the first training there is no version."""
    assert serving_version(decisions(), FIRST) is None


def test_the_last_decision_of_a_class_is_the_highest_number() -> None:
    """Whatever the order of the rows."""
    rows = decisions(
        (FIRST, 1, both(FIRST, FIRST), "promoted"), (SECOND, 2, {"smooth": SECOND}, "refreshed")
    ).iloc[::-1]
    newest = last_decisions(rows)
    assert newest["registry_version"].to_dict() == both(2, 1)


def test_leaders_are_listed_by_class_and_wql() -> None:
    """Pooled horizons of all cells and of each class, best first; a figure that is not there stays
    empty.
    """
    figures = [
        ("all", "all", 0, NAIVE, 0.9),
        ("all", "all", 0, RICH, 0.5),
        ("all", "all", 1, RICH, 0.1),
        ("abc_class", "A", 0, RICH, 0.1),
    ]
    figures.append(("demand_class", "lumpy", 0, NAIVE, np.nan))
    rows = pd.DataFrame(figures, columns=["segment_kind", "segment", "horizon", "model", "wql"])
    lines = leader_table(
        rows.assign(bias=0.25, rmse=1.0, cell_count=1200, missing_cell_count=0)
    ).splitlines()[2:]
    assert lines == [
        f"| all classes | {RICH} | 0.500 | 0.250 | 1.000 | 1,200 | 0 |",
        f"| all classes | {NAIVE} | 0.900 | 0.250 | 1.000 | 1,200 | 0 |",
        f"| lumpy | {NAIVE} |  | 0.250 | 1.000 | 1,200 | 0 |",
    ]


@dataclass(frozen=True)
class Constant:
    """A forecaster that says one number."""

    value: float

    def fit(self, *_: Any) -> None: ...

    def predict(
        self,
        fitted: object,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        horizon: int,
    ) -> pd.DataFrame:
        cells = [(part, h) for part in features["part_number"] for h in range(1, horizon + 1)]
        rows = pd.DataFrame(cells, columns=["part_number", "horizon"])
        return rows.assign(
            forecast_qty=self.value, is_fallback=False, **dict.fromkeys(DECILES, self.value)
        )


def served(model: str, value: float, month: int = FIRST, run_id: str = "run") -> ServedModel:
    return ServedModel(model, Constant(value), None, month, run_id)


@dataclass
class Decided:
    """A lakehouse and a registry in which months were fitted and evaluated, and the verdicts that a
    training comes to.
    """

    settings: Settings
    champions: dict[str, str] = field(default_factory=lambda: dict.fromkeys(DEMAND_CLASSES, RICH))
    held: tuple[str, ...] = ()
    proposals: dict[str, str] = field(default_factory=dict)
    lakehouse: FakeLakehouse = field(default_factory=FakeLakehouse)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tracking = FakeTracking(self.lakehouse.journal)
        self.journal = self.lakehouse.journal
        months = [
            {"yyyymm": month, "line_count": 1, "last_day": 28} for month in (FIRST, SECOND, 202405)
        ]
        delivery = filled(
            DELIVERIES, delivery_id="d", source=self.settings.sources[0].name, months=months
        )
        self.lakehouse.append(DELIVERIES, [delivery])

    def evaluate(self, month: int, version: str = "1") -> None:
        """Let the month be fitted by all models and evaluated."""
        self.lakehouse.ledger.record(
            MODEL_EVALUATION, [Slice(month, "", version, version, 1, 1)], "r"
        )
        for number, model in enumerate((NAIVE, RICH)):
            run_id = self.tracking.start(f"{model} {month}", {})
            entry = served(model, number + month % 100, month, run_id)
            self.tracking.log(
                run_id,
                training.RunContent(
                    model=DemandForecaster(dict.fromkeys(DEMAND_CLASSES, entry), 2)
                ),
            )
            self.lakehouse.ledger.record(
                ZOO_FORECAST, [Slice(month, model, "1", "1", 1, 1, {"run_id": run_id})], "r"
            )
        self.journal.clear()

    def train(self, *months: int) -> None:
        self.training().run(months)

    def training(self) -> Training:
        configured = self.settings.model_copy(update={"zoo": ZooSettings(models=(NAIVE, RICH))})
        work = Work(configured, self.lakehouse, "r", self.told.append, {"trigger": "person"})
        return Training(enabled(configured), work, self.tracking)

    def verdicts(self, month: int, *_: Any, **__: Any) -> list[Decision]:
        return [
            Decision(
                month,
                name,
                (
                    "proposed"
                    if name in self.proposals
                    else "kept"
                    if name in self.held
                    else "promoted"
                ),
                model,
                "because",
                challenger=self.proposals.get(name),
                champion_trained_yyyymm=None if name in {*self.held, *self.proposals} else month,
            )
            for name, model in self.champions.items()
        ]

    @property
    def rows(self) -> pd.DataFrame:
        return self.lakehouse.rows(CHAMPION)


@pytest.fixture
def decided(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Decided:
    made = Decided(settings)
    monkeypatch.setattr(promotion, "decide", made.verdicts)
    nothing = pd.DataFrame(), promotion.Losses(pd.DataFrame(), pd.DataFrame(), 2)
    monkeypatch.setattr(Training, "_evidence", lambda self, month: nothing)
    monkeypatch.setattr(
        training,
        "plots",
        SimpleNamespace(
            model_comparison=lambda *args, **options: "a figure",
            rendered=lambda figure: SimpleNamespace(png=b"", markdown=""),
        ),
    )
    made.evaluate(FIRST)
    return made


def test_a_training_registers_then_decides_then_moves_the_alias(decided: Decided) -> None:
    """One version, its class rows in one commit with number, version and run, and only then the
    alias.
    """
    decided.train(FIRST)
    assert decided.journal == [
        "start champion 202401",
        "register 1",
        "commit champion 202401",
        "append gold.champion",
        "alias 1",
    ]
    assert decided.rows["decision_number"].tolist() == [1, 2, 3, 4, 5]
    assert set(decided.rows["registry_version"]) == set(decided.rows["candidate_version"]) == {1}
    assert set(decided.rows["champion_trained_yyyymm"]) == {FIRST}
    assert decided.tracking.registry.versions[1].name == "champion 202401"


def test_a_given_forecast_is_champion_and_in_no_version(decided: Decided) -> None:
    """Where it serves the row names it, the registered version has the baseline in its place, and
    the next training takes it for the incumbent, where it was not beaten.
    """
    columns = {"part_number": "p", "origin": "o", "target": "t", "quantity": "q"}
    given = GivenForecasts(files="x", columns=columns, serves=("smooth", "lumpy"))
    decided.settings = decided.settings.model_copy(update={"given_forecasts": {"old": given}})
    decided.champions["smooth"] = "old"
    decided.train(FIRST)
    rows = decided.rows.set_index("demand_class")
    assert rows.loc["smooth", "champion"] == "old"
    assert rows.loc["smooth", "champion_trained_yyyymm"] == FIRST
    entries = decided.tracking.registry.load_version(1).entries
    registered = {name: entry.model for name, entry in entries.items()}
    assert registered == {**dict.fromkeys(DEMAND_CLASSES, RICH), "smooth": NAIVE}

    made = decided.training()
    incumbents = made._incumbents(decided.rows)
    assert incumbents == {**dict.fromkeys(DEMAND_CLASSES, RICH), "smooth": "old"}
    assert made._incumbents(decided.rows[:0])["lumpy"] == "old"
    decided.settings = decided.settings.model_copy(update={"given_forecasts": {}})
    assert decided.training()._incumbents(decided.rows)["smooth"] is None


def test_the_same_evidence_decides_nothing_again(decided: Decided) -> None:
    """A second run of the month neither registers nor appends."""
    decided.train(FIRST)
    decided.journal.clear()
    decided.train(FIRST)
    assert decided.journal == []


def test_a_partial_month_is_not_decided(decided: Decided) -> None:
    """The newest month of the deliveries is not complete; the log says so."""
    decided.evaluate(202405)
    decided.train(202405)
    assert decided.journal == []
    assert decided.told == ["champion: 202405 is not complete, nothing decided"]


def test_a_crash_before_the_decisions_leaves_the_alias(decided: Decided) -> None:
    """The version is there and serves nobody; the next run registers its own, decides and serves
    it.
    """
    decided.train(FIRST)
    decided.evaluate(SECOND)
    decided.journal.crash_before = "append gold.champion"
    with pytest.raises(Crash):
        decided.train(SECOND)
    assert (
        decided.tracking.registry.alias(),
        len(decided.rows),
        len(decided.tracking.registry.versions),
    ) == (
        1,
        5,
        2,
    )
    assert [
        run.status for run in decided.tracking.runs.values() if run.name == f"champion {SECOND}"
    ] == ["FAILED"]
    decided.train(SECOND)
    assert decided.tracking.registry.alias() == 3
    assert decided.rows.groupby("yyyymm")["registry_version"].unique().map(list).to_dict() == {
        FIRST: [1],
        SECOND: [3],
    }


@pytest.mark.parametrize("mended_by", ["sync_alias", "the next training"])
def test_a_crash_before_the_alias_is_mended_by_the_rows(decided: Decided, mended_by: str) -> None:
    """The rows are the truth: whoever comes next sets the alias to the last of them, and decides
    nothing twice.
    """
    decided.train(FIRST)
    decided.evaluate(SECOND)
    decided.journal.crash_before = "alias 2"
    with pytest.raises(Crash):
        decided.train(SECOND)
    assert decided.tracking.registry.alias() == 1
    decided.journal.clear()
    if mended_by == "sync_alias":
        sync_alias(decided.lakehouse, decided.tracking)
    else:
        decided.train(SECOND)
    assert decided.journal == ["alias 2"]


def test_without_decisions_no_alias_is_set(decided: Decided) -> None:
    """Before the first training there is nothing to follow."""
    assert sync_alias(decided.lakehouse, decided.tracking).empty
    assert decided.tracking.registry.alias() is None


def test_a_kept_class_is_copied_into_the_new_version(decided: Decided) -> None:
    """The new version holds the former fit of the kept class, and its row the month that fit was
    trained in.
    """
    decided.train(FIRST)
    decided.evaluate(SECOND)
    decided.held = ("lumpy",)
    decided.champions["smooth"] = NAIVE
    decided.train(SECOND)
    newest = last_decisions(decided.rows)
    assert newest["champion_trained_yyyymm"].to_dict() == dict.fromkeys(DEMAND_CLASSES, SECOND) | {
        "lumpy": FIRST
    }
    assert newest["champion"].to_dict() == dict.fromkeys(DEMAND_CLASSES, RICH) | {"smooth": NAIVE}
    before, after = (decided.tracking.registry.load_version(version).entries for version in (1, 2))
    assert after["lumpy"] == before["lumpy"]
    assert after["erratic"].trained_yyyymm == SECOND
    assert serving_version(decided.rows, SECOND) == 2


def test_a_past_month_computed_again_moves_nothing(decided: Decided) -> None:
    """Changed evidence of an older month appends restated rows; version, alias and what serves
    stay.
    """
    decided.train(FIRST)
    decided.evaluate(SECOND)
    decided.train(SECOND)
    decided.evaluate(FIRST, version="2")
    decided.champions = dict.fromkeys(DEMAND_CLASSES, NAIVE)
    decided.train(FIRST)
    assert decided.journal == ["append gold.champion"]
    restated = decided.rows[decided.rows["decision"] == "restated"]
    assert restated["decision_number"].tolist() == [11, 12, 13, 14, 15]
    assert (
        set(restated["registry_version"]),
        set(restated["champion"]),
        set(restated["challenger"]),
    ) == ({2}, {RICH}, {NAIVE})
    assert restated["reason"].str.contains("what is served stays").all()
    assert (
        decided.tracking.registry.alias(),
        serving_version(decided.rows, FIRST),
        serving_version(decided.rows, SECOND),
    ) == (2, 1, 2)


def steward(decided: Decided) -> Stewardship:
    return Stewardship(decided.settings, decided.lakehouse, decided.tracking, "ann")


def proposed(decided: Decided) -> int:
    """Let lumpy have a proposal of the second month; its decision number."""
    decided.train(FIRST)
    decided.evaluate(SECOND)
    decided.proposals = {"lumpy": NAIVE}
    decided.train(SECOND)
    return int(last_decisions(decided.rows).loc["lumpy", "decision_number"])


def test_a_proposal_serves_nobody(decided: Decided) -> None:
    """The candidate is registered, its row names it, and the class goes on with the fit it had."""
    proposed(decided)
    row = last_decisions(decided.rows).loc["lumpy"]
    assert (
        row["decision"],
        row["champion"],
        row["challenger"],
        row["champion_trained_yyyymm"],
    ) == ("proposed", RICH, NAIVE, FIRST)
    versions = (
        decided.tracking.registry.load_version(row["candidate_version"]).entries,
        decided.tracking.registry.load_version(row["registry_version"]).entries,
    )
    assert [entries["lumpy"].model for entries in versions] == [NAIVE, RICH]
    assert decided.tracking.registry.alias() == row["registry_version"] != row["candidate_version"]


def test_approval_serves_the_fit_that_was_proposed(decided: Decided) -> None:
    """A person's row says who and why, the other classes are as before, and the alias follows."""
    number = proposed(decided)
    (made,) = steward(decided).approve(number, "seen the plots")
    assert (made.decision, made.champion, made.actor, made.champion_trained_yyyymm) == (
        "promoted",
        NAIVE,
        "ann",
        SECOND,
    )
    assert "seen the plots" in made.reason
    entries = decided.tracking.registry.load_version(decided.tracking.registry.alias()).entries
    assert {name: entry.model for name, entry in entries.items()} == dict.fromkeys(
        DEMAND_CLASSES, RICH
    ) | {"lumpy": NAIVE}
    decided.journal.clear()
    decided.train(SECOND)
    assert decided.journal == []


def test_a_proposal_that_was_overtaken_is_refused(decided: Decided) -> None:
    """After a newer decision on the class its approval changes nothing and says so; so does that of
    another decision.
    """
    number = proposed(decided)
    steward(decided).approve(number, "first")
    with pytest.raises(Refused, match="was overtaken by"):
        steward(decided).approve(number, "again")
    with pytest.raises(Refused, match="is no proposal"):
        steward(decided).approve(1, "mistyped")
    with pytest.raises(Refused, match="there is no decision 999"):
        steward(decided).approve(999, "mistyped")


def in_registry(decided: Decided, number: int) -> dict[str, str]:
    """Tags of the version that a decision proposes; what is put there a person set."""
    rows = decided.rows.set_index("decision_number")
    return decided.tracking.registry.tags[int(rows.loc[number, "candidate_version"])]


def test_a_proposal_is_approved_by_its_tag_in_the_registry(decided: Decided) -> None:
    """The next run promotes what a person approved there, and says that it does not know who."""
    number = proposed(decided)
    tags = in_registry(decided, number)
    assert {name for name in tags if name.startswith("approval")} == {"approval_lumpy"}
    assert tags["approval_lumpy"] == "waiting"
    tags["approval_lumpy"] = "approved"
    decided.train(SECOND)
    row = last_decisions(decided.rows).loc["lumpy"]
    assert (row["decision"], row["champion"], row["actor"]) == ("promoted", NAIVE, "registry")
    assert row["reason"].startswith(
        f"decision {number} approved by registry: the tag approval_lumpy of version 2 says approved"
    )
    assert decided.tracking.registry.alias() == row["registry_version"] == 4
    assert tags["approval_lumpy"] == "approved"
    decided.journal.clear()
    decided.train(SECOND)
    assert decided.journal == []


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("approval_lumpy", "Approved"),
        ("approval_lumpy", "approved?"),
        ("approval_lumpy", ""),
        ("approval_smooth", "approved"),
        ("approval", "approved"),
    ],
)
def test_another_word_or_tag_approves_nothing(decided: Decided, tag: str, value: str) -> None:
    """Only the exact word on the class that waits counts; what a person wrote stays."""
    tags = in_registry(decided, proposed(decided))
    tags[tag] = value
    count = len(decided.rows)
    decided.train(SECOND)
    assert len(decided.rows) == count
    assert tags[tag] == value


def test_the_tag_of_another_version_approves_nothing(decided: Decided) -> None:
    """Neither that of the version that serves nor that of a proposal that was overtaken, which is
    told so.
    """
    number = proposed(decided)
    decided.tracking.registry.tags[3]["approval_lumpy"] = "approved"
    decided.evaluate(SECOND, version="2")
    decided.train(SECOND)
    newest = int(last_decisions(decided.rows).loc["lumpy", "decision_number"])
    in_registry(decided, number)["approval_lumpy"] = "approved"
    decided.train(SECOND)
    assert last_decisions(decided.rows).loc["lumpy", "decision"] == "proposed"
    assert in_registry(decided, number)["approval_lumpy"] == "overtaken"
    assert in_registry(decided, newest)["approval_lumpy"] == "waiting"


def test_approval_by_command_is_told_in_the_registry(decided: Decided) -> None:
    """At once; a process that died before that is mended by the next run."""
    number = proposed(decided)
    steward(decided).approve(number, "seen the plots")
    tags = in_registry(decided, number)
    assert tags["approval_lumpy"] == "approved"
    for left in ("waiting", None):
        tags.pop("approval_lumpy")
        if left:
            tags["approval_lumpy"] = left
        decided.train(SECOND)
        assert tags["approval_lumpy"] == "approved"


def test_a_rollback_is_not_undone_by_a_tag(decided: Decided) -> None:
    """The tag says approved for ever; the class's newest row is no proposal any more."""
    tags = in_registry(decided, proposed(decided))
    tags["approval_lumpy"] = "approved"
    decided.train(SECOND)
    steward(decided).rollback(["lumpy"], 1, "too high", None)
    count = len(decided.rows)
    decided.train(SECOND)
    assert len(decided.rows) == count
    assert held_classes(decided.rows) == {"lumpy": 999912}


def test_a_candidate_that_is_refused_goes_on_waiting(
    decided: Decided, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its files were changed the run goes on with what serves, and the tag says why."""
    number = proposed(decided)
    tags = in_registry(decided, number)
    tags["approval_lumpy"] = "approved"
    load = decided.tracking.registry.load_version

    def changed(version: int) -> Any:
        if version == 2:
            raise ModelRefused("version 2 is not what was logged")
        return load(version)

    monkeypatch.setattr(decided.tracking.registry, "load_version", changed)
    decided.train(SECOND)
    assert last_decisions(decided.rows).loc["lumpy", "decision"] == "proposed"
    assert tags["approval_lumpy"] == "refused: version 2 is not what was logged"


def test_a_rollback_brings_back_the_former_fit_and_holds_the_class(decided: Decided) -> None:
    """The class has the entry of the version named, the others stay, and the row holds the class
    until it is released.
    """
    decided.train(FIRST)
    decided.evaluate(SECOND)
    decided.train(SECOND)
    (made,) = steward(decided).rollback(["lumpy"], 1, "too high", None)
    entries = decided.tracking.registry.load_version(decided.tracking.registry.alias()).entries
    assert {name: entry.trained_yyyymm for name, entry in entries.items()} == dict.fromkeys(
        DEMAND_CLASSES, SECOND
    ) | {"lumpy": FIRST}
    assert (made.decision, made.registry_version, held_classes(decided.rows)) == (
        "rolled_back",
        3,
        {"lumpy": 999912},
    )
    steward(decided).release(["lumpy"], "mended")
    assert held_classes(decided.rows) == {}
    assert last_decisions(decided.rows).loc["lumpy", "champion_trained_yyyymm"] == FIRST


def test_a_version_that_can_not_be_loaded_is_left_by_a_rollback_of_all(
    decided: Decided, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every class goes back, the version that serves is not asked for its fits."""
    decided.train(FIRST)
    decided.evaluate(SECOND)
    decided.train(SECOND)
    load = decided.tracking.registry.load_version

    def refused(version: int) -> Any:
        if version != 1:
            raise Refused("its fits were changed")
        return load(version)

    monkeypatch.setattr(decided.tracking.registry, "load_version", refused)
    made = steward(decided).rollback(list(DEMAND_CLASSES), 1, "fits were changed", None)
    assert {row.champion_trained_yyyymm for row in made} == {FIRST}
    decided.train(SECOND)
    with pytest.raises(Refused, match="were changed"):
        steward(decided).rollback(["lumpy"], 1, "x", None)


def test_a_version_that_can_not_be_loaded_is_left_by_the_next_training(
    decided: Decided, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every class takes the fit of the training the version that serves is not asked for its
    fits; where one keeps its own it is.
    """
    decided.train(FIRST)
    decided.evaluate(SECOND)

    def refused(version: int) -> Any:
        raise Refused(f"version {version} can't be read")

    monkeypatch.setattr(decided.tracking.registry, "load_version", refused)
    decided.held = ("lumpy",)
    with pytest.raises(Refused, match="version 1 can't be read"):
        decided.train(SECOND)
    decided.held = ()
    decided.train(SECOND)
    assert set(decided.rows["registry_version"]) == {1, 2}


def test_a_rollback_may_hold_for_some_months(decided: Decided) -> None:
    """Counted from the newest decision month."""
    decided.train(FIRST)
    steward(decided).rollback(["smooth", "lumpy"], 1, "a promotion ran", 3)
    assert held_classes(decided.rows) == {"smooth": 202404, "lumpy": 202404}


def test_what_can_not_be_rolled_back_or_released_is_refused(decided: Decided) -> None:
    """A version that never served, a class that nobody holds, and a lakehouse without decisions."""
    with pytest.raises(Refused, match="nothing was decided yet"):
        steward(decided).release(["lumpy"], "x")
    decided.train(FIRST)
    with pytest.raises(Refused, match="version 7 never served; versions that did: 1"):
        steward(decided).rollback(["lumpy"], 7, "x", None)
    with pytest.raises(Refused, match="lumpy: not held"):
        steward(decided).release(["lumpy"], "x")


def test_a_crash_between_a_rollback_and_its_alias_is_mended_by_the_next(decided: Decided) -> None:
    """The row says what serves; the next training sets the alias to it first."""
    decided.train(FIRST)
    decided.journal.crash_before = "alias 2"
    with pytest.raises(Crash):
        steward(decided).rollback(["lumpy"], 1, "x", None)
    assert decided.tracking.registry.alias() == 1
    decided.train(FIRST)
    assert decided.tracking.registry.alias() == 2


def test_of_two_who_decide_at_once_one_is_told(decided: Decided) -> None:
    """Numbers are taken once: a second append under the same number is a conflict, and nothing of
    it is stored.
    """
    decided.train(FIRST)
    before = decided.rows
    append_decisions(decided.lakehouse, decided.verdicts(SECOND), before)
    with pytest.raises(ConcurrentWrite):
        append_decisions(decided.lakehouse, decided.verdicts(SECOND), before)
    assert len(decided.rows) == 10


def history() -> pd.DataFrame:
    """Four parts through November 2023: smooth, lumpy, erratic, and one that is not active."""
    origin = 202311
    demand = demand_frame({"P4": [0] * 12, "P2": [5] * 12, "P1": [5] * 12, "P3": [5] * 12}, origin)
    features = feature_frame(demand).assign(
        demand_class=lambda f: f["part_number"].map(
            {"P1": "smooth", "P2": "lumpy", "P3": "erratic", "P4": "smooth"}
        )
    )
    features = features[features["yyyymm"] == origin].assign(
        is_active=lambda f: f["part_number"] != "P4"
    )
    return demand.merge(features, on=["part_number", "yyyymm"], how="left")


MODEL = DemandForecaster(
    {"smooth": served(NAIVE, 1.0, 202310, "a"), "lumpy": served(RICH, 2.0, 202309, "b")}, horizon=2
)


def test_each_part_is_forecast_by_the_entry_of_its_class() -> None:
    """Rows say class, model, trained month and run; months after December are those of the next
    year.
    """
    answer = MODEL.predict(None, history())
    assert tuple(answer.columns) == SERVED_COLUMNS
    shown = answer[
        [
            "part_number",
            "origin",
            "target_yyyymm",
            "forecast_qty",
            "demand_class",
            "model",
            "trained_yyyymm",
            "model_run_id",
        ]
    ]
    assert shown.to_numpy().tolist() == [
        ["P1", 202311, 202312, 1.0, "smooth", NAIVE, 202310, "a"],
        ["P1", 202311, 202401, 1.0, "smooth", NAIVE, 202310, "a"],
        ["P2", 202311, 202312, 2.0, "lumpy", RICH, 202309, "b"],
        ["P2", 202311, 202401, 2.0, "lumpy", RICH, 202309, "b"],
    ]


def test_what_a_run_answered_is_not_forecast_again() -> None:
    """Rows of the run that serves a class are taken as they are; a run that serves nothing, and
    parts without rows, change nothing.
    """
    fresh = MODEL.predict(None, history())
    rows = fresh[list(FORECAST_COLUMNS)]
    answered = {
        "a": rows[rows["part_number"] == "P1"].assign(forecast_qty=7.0),
        "other": rows.assign(forecast_qty=8.0),
    }
    found = MODEL.forecast(history(), 202311, answered)
    assert found["forecast_qty"].tolist() == [7.0, 7.0, 2.0, 2.0]
    assert_frame_equal(found.drop(columns="forecast_qty"), fresh.drop(columns="forecast_qty"))
    assert_frame_equal(MODEL.forecast(history(), 202311, {"a": answered["a"].iloc[:0]}), fresh)


def test_classes_without_an_entry_and_idle_parts_get_no_rows() -> None:
    """P3 has a class that nothing serves, P4 is not active."""
    assert set(MODEL.predict(None, history())["part_number"]) == {"P1", "P2"}


def test_the_answer_does_not_depend_on_the_order_of_the_history() -> None:
    """Shuffled rows give equal answers, and the history is left as it was."""
    shuffled = history().sample(frac=1, random_state=3)
    before = shuffled.copy(deep=True)
    pd.testing.assert_frame_equal(MODEL.predict(None, shuffled), MODEL.predict(None, history()))
    pd.testing.assert_frame_equal(shuffled, before)


def test_months_after_the_origin_are_not_read() -> None:
    """A bucket that reaches further than the origin is cut to it."""
    later = demand_frame({"P1": [999.0]}, 202312)
    known = pd.concat([history(), later], ignore_index=True)
    pd.testing.assert_frame_equal(MODEL.forecast(known, 202311), MODEL.predict(None, history()))


def test_nothing_to_forecast_is_an_empty_answer_with_all_columns() -> None:
    """Where no part is active the columns are there all the same."""
    idle = history().assign(is_active=False)
    answer = MODEL.predict(None, idle)
    assert (len(answer), tuple(answer.columns)) == (0, SERVED_COLUMNS)


def test_missing_columns_are_named() -> None:
    """A frame that is no history is refused with what it lacks and where that comes from."""
    with pytest.raises(
        ValueError, match=r"history lacks demand_qty, demand_class; it holds silver\.monthly_demand"
    ):
        MODEL.predict(None, history().drop(columns=["demand_qty", "demand_class"]))
