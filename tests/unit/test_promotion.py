"""Who is promoted, who is not and why, on evidence of a few parts."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medallion_assets.champion.promotion import Contestant, Decision, Losses, decide
from medallion_assets.partitions import add_months
from medallion_assets.tables import CHAMPION, DEMAND_CLASSES
from resources.settings import PromotionSettings

MONTH = 202401
CELLS_PER_PART = 60
SETTINGS = PromotionSettings(min_parts=3, min_cells=3, min_interval_parts=2)
BASELINE, CHEAP, RICH = "seasonal_naive", "croston", "boosting"

# Parts differ a little, against each other for the two challengers: a difference that is the same
# everywhere has no interval.
GROUPS = ("short", "mid", "long", "A", "B", "C")
WOBBLE = {BASELINE: 0.0, CHEAP: -0.05, RICH: 0.05}

ByModel = Mapping[str, Sequence[float]]


def part_loss_rows(
    losses: ByModel,
    demand_class: str,
    abc: str,
    bias: Mapping[str, float],
    squared_error: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Rows of part_losses: each part has 60 cells and a demand of 100, the losses spread evenly
    over the horizon. The models' sums are those given, its parts' losses off by WOBBLE at most.
    """
    rows = []
    for model, values in losses.items():
        ends = WOBBLE.get(model, 0.0) if len(values) > 1 else 0.0
        for number, loss in enumerate(np.asarray(values) + np.linspace(-ends, ends, len(values))):
            row: dict[str, Any] = {
                "yyyymm": MONTH,
                "demand_class": demand_class,
                "part_number": f"{demand_class}{abc}{number}",
                "model": model,
            }
            row |= {
                "cell_count": CELLS_PER_PART,
                "loss_qty": loss,
                "actual_qty": 100.0,
                "bias_qty": bias.get(model, 0.0) * 100,
            }
            row["squared_error"] = (squared_error or {}).get(model, 1.0) * (1 + number % 2)
            for group, share in {
                "short": 1 / 3,
                "mid": 1 / 3,
                "long": 1 / 3,
                "A": abc == "A",
                "B": abc == "B",
                "C": abc == "C",
            }.items():
                row |= {
                    f"cell_count_{group}": round(CELLS_PER_PART * share),
                    f"loss_qty_{group}": loss * share,
                }
                row |= {f"actual_qty_{group}": 100.0 * share}
            rows.append(row)
    return pd.DataFrame(rows)


def evaluation_rows(losses: pd.DataFrame, missing: Mapping[str, int]) -> pd.DataFrame:
    """Rows of gold.model_evaluation that belong to these part losses."""
    segments = [("demand_class", name, rows) for name, rows in losses.groupby("demand_class")] + [
        ("all", "all", losses)
    ]
    rows = []
    for kind, segment, cells in segments:
        for model, own in cells.groupby("model"):
            demand = own["actual_qty"].sum()
            figures = {
                "wql": own["loss_qty"].sum() / demand,
                "bias": own["bias_qty"].sum() / demand,
            }
            figures["rmse"] = (own["squared_error"].sum() / own["cell_count"].sum()) ** 0.5
            counts = {
                "cell_count": own["cell_count"].sum(),
                "part_count": own["part_number"].nunique(),
                "actual_qty": demand,
            }
            key = {
                "yyyymm": MONTH,
                "model": model,
                "segment_kind": kind,
                "segment": segment,
                "horizon": 0,
            }
            rows.append(key | counts | figures | {"missing_cell_count": missing.get(str(model), 0)})
    return pd.DataFrame(rows)


def decided(
    losses: ByModel | pd.DataFrame,
    incumbents: Mapping[str, str | None] | None = None,
    bias: Mapping[str, float] | None = None,
    missing: Mapping[str, int] | None = None,
    origins: int = 6,
    settings: PromotionSettings = SETTINGS,
    contestants: Sequence[Contestant] = (Contestant(BASELINE), Contestant(CHEAP), Contestant(RICH)),
    held: Mapping[str, int] | None = None,
    months: pd.DataFrame | None = None,
    k_min: int = 3,
    horizon: int = 1,
    revised: Mapping[str, float] | None = None,
) -> Decision:
    """The decision about the one class in question."""
    rows = (
        losses
        if isinstance(losses, pd.DataFrame)
        else part_loss_rows(losses, "lumpy", "A", bias or {})
    )
    evaluation = evaluation_rows(rows, missing or {})
    if revised is not None:
        evaluation["revision_share"] = evaluation["model"].map(revised)
    asked = incumbents or {"lumpy": None}
    return decide(
        MONTH,
        evaluation,
        Losses(rows, even_months(rows) if months is None else months, horizon),
        origins,
        asked,
        contestants,
        settings,
        k_min,
        held=held,
    )[0]


def even_months(part_losses: pd.DataFrame) -> pd.DataFrame:
    """Rows of month_losses that belong to these part losses, the same in each of a dozen months."""
    sums = part_losses.groupby(["yyyymm", "demand_class", "model"]).sum(numeric_only=True) / 12
    months = [sums.assign(target_yyyymm=add_months(202301, number)) for number in range(12)]
    return pd.concat(months).reset_index()


def month_loss_rows(losses: ByModel) -> pd.DataFrame:
    """Rows of month_losses, one value a month from 202201 on, each with a demand of 100."""
    rows = [
        {
            "yyyymm": MONTH,
            "demand_class": "lumpy",
            "target_yyyymm": add_months(202201, number),
            "model": model,
            "loss_qty": loss,
            "actual_qty": 100.0,
            "squared_error": 1.0,
        }
        | {f"loss_qty_{group}": loss / 3 for group in GROUPS}
        | {f"actual_qty_{group}": 100 / 3 for group in GROUPS}
        for model, values in losses.items()
        for number, loss in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_model_with_the_lowest_wql_is_promoted() -> None:
    """Both challengers beat the baseline on every part; the reason gives the figures."""
    decision = decided({BASELINE: [60, 70, 80], CHEAP: [50, 60, 70], RICH: [40, 50, 60]})
    assert (decision.decision, decision.champion, decision.challenger) == ("promoted", RICH, CHEAP)
    assert (
        decision.reason
        == "boosting: WQL 0.500 against 0.700 of seasonal_naive on 180 cells of 3 parts, difference"
        " -0.200 [-0.202, -0.198]"
    )
    assert (decision.champion_wql, decision.baseline_wql, decision.champion_trained_yyyymm) == (
        0.5,
        0.7,
        MONTH,
    )
    assert decision.difference_high == pytest.approx(-0.198, abs=1e-3)
    assert decision.interval_over == "parts and months"


def test_a_forecast_made_elsewhere_is_never_promoted() -> None:
    """However good it is: nobody can ask it for a month that was not delivered. The best model of
    the zoo is, by the intervals that it has without it.
    """
    losses = {BASELINE: [50.0] * 40, CHEAP: [40.0] * 40, RICH: [30.0] * 40, "planner": [10.0] * 40}
    contestants = [Contestant(BASELINE), Contestant(CHEAP), Contestant(RICH)]
    without = decided({m: values for m, values in losses.items() if m != "planner"})
    verdict = decided(losses, contestants=[*contestants, Contestant("planner", is_given=True)])
    assert (verdict.decision, verdict.champion) == ("promoted", RICH)
    assert verdict.challenger != "planner"
    assert verdict.difference_low == without.difference_low


def test_a_forecast_made_elsewhere_serves_until_a_model_is_certainly_better() -> None:
    """As any incumbent; the sentence speaks of no fit."""
    contestants = [Contestant(BASELINE), Contestant(RICH), Contestant("planner", is_given=True)]
    losses = {BASELINE: [50.0] * 40, RICH: [30.0] * 40, "planner": [30.0] * 40}
    stays = decided(losses, {"lumpy": "planner"}, contestants=contestants)
    assert (stays.decision, stays.champion) == ("refreshed", "planner")
    assert stays.reason.startswith("planner stays with WQL")
    worse = decided(
        losses | {"planner": [45.0] * 40}, {"lumpy": "planner"}, contestants=contestants
    )
    assert (worse.decision, worse.champion) == ("promoted", RICH)


def test_a_promotion_may_wait_for_approval() -> None:
    """The row names who would serve and why; who served goes on serving, without a new fit."""
    settings = SETTINGS.model_copy(update={"mode": "approve"})
    losses = {BASELINE: [60, 70, 80], CHEAP: [50, 60, 70], RICH: [40, 50, 60]}
    decision = decided(losses, {"lumpy": CHEAP}, settings=settings)
    assert (decision.decision, decision.champion, decision.challenger) == ("proposed", CHEAP, RICH)
    assert (decision.champion_wql, decision.challenger_wql, decision.champion_trained_yyyymm) == (
        0.6,
        0.5,
        None,
    )
    assert decision.reason.startswith(
        "waits for approval, until then croston serves: boosting: WQL 0.500 against 0.600 of"
        " croston"
    )
    first = decided(losses, settings=settings)
    assert (first.decision, first.champion, first.champion_trained_yyyymm) == (
        "proposed",
        BASELINE,
        MONTH,
    )


def test_a_class_that_keeps_its_model_needs_no_approval() -> None:
    """Where nothing is promoted there is nothing to approve: the new fit is taken."""
    settings = SETTINGS.model_copy(update={"mode": "approve"})
    assert (
        decided(
            {BASELINE: [60, 70, 80], CHEAP: [50, 60, 70]}, {"lumpy": CHEAP}, settings=settings
        ).decision
        == "refreshed"
    )


@pytest.mark.parametrize(
    ("until", "decision"), [(MONTH, "kept"), (999912, "kept"), (MONTH - 1, "promoted")]
)
def test_a_held_class_is_evaluated_and_kept(until: int, decision: str) -> None:
    """Through the month given nothing changes, and the reason says what the evidence would have
    done; after it the evidence decides.
    """
    made = decided(
        {BASELINE: [60, 70, 80], CHEAP: [50, 60, 70], RICH: [40, 50, 60]},
        {"lumpy": CHEAP},
        held={"lumpy": until},
    )
    assert made.decision == decision
    if decision == "kept":
        assert (made.champion, made.champion_trained_yyyymm, made.held_until_yyyymm) == (
            CHEAP,
            None,
            until,
        )
        assert "croston stays as it was trained; the evidence says promoted boosting" in made.reason


def test_a_decision_has_the_columns_of_the_table() -> None:
    """A decision is a row of gold.champion."""
    assert {f.name for f in fields(Decision)} == set(CHAMPION.column_names)


def test_the_same_evidence_gives_the_same_decision() -> None:
    """Whatever the order of the rows."""
    rows = part_loss_rows({BASELINE: [60, 70, 80, 20], RICH: [50, 50, 90, 10]}, "lumpy", "A", {})
    assert decided(rows) == decided(rows[::-1])


def test_a_model_with_a_missing_cell_is_denied() -> None:
    """However good it is, the number of cells it lacks is the reason."""
    decision = decided({BASELINE: [60, 70, 80], RICH: [10, 10, 10]}, missing={RICH: 4})
    assert (decision.decision, decision.champion, decision.challenger) == ("denied", BASELINE, RICH)
    assert "boosting lacks 4 cells that other models have" in decision.reason


def test_a_model_without_figures_does_not_stop_the_others() -> None:
    """One whose numbers are all NaN has no losses and no WQL; the winner is promoted and its
    absence is told.
    """
    rows = part_loss_rows({BASELINE: [60, 70, 80], CHEAP: [50, 60, 70]}, "lumpy", "A", {})
    evaluation = evaluation_rows(rows, {})
    broken = evaluation[evaluation["model"] == CHEAP].assign(
        model=RICH, wql=np.nan, bias=np.nan, cell_count=0, missing_cell_count=180
    )
    contestants = [Contestant(BASELINE), Contestant(CHEAP), Contestant(RICH)]
    decision = decide(
        MONTH,
        pd.concat([evaluation, broken]),
        Losses(rows, even_months(rows), 1),
        6,
        {"lumpy": None},
        contestants,
        SETTINGS,
        k_min=3,
    )[0]
    assert (decision.decision, decision.champion) == ("promoted", CHEAP)
    assert "boosting could not win, lacking 180 cells" in decision.reason


def test_a_model_worse_than_the_baseline_is_denied() -> None:
    """Better than the incumbent is not enough: seasonal_naive must be beaten too, and takes the
    place of both, whatever its bias.
    """
    losses = {BASELINE: [60, 60, 60], CHEAP: [90, 90, 90], RICH: [70, 70, 70]}
    assert (
        "boosting has WQL 0.700, not below 0.600 of seasonal_naive"
        in decided({**losses}, bias={BASELINE: 0.9}).reason
    )
    decision = decided(losses, {"lumpy": CHEAP}, bias={BASELINE: 0.9})
    assert (decision.decision, decision.champion) == ("promoted", BASELINE)


def test_the_baseline_takes_over_from_an_incumbent_that_is_certainly_worse() -> None:
    """A champion must beat seasonal_naive on WQL, also one that once did."""
    decision = decided({BASELINE: [60, 60, 60], CHEAP: [90, 90, 90]}, {"lumpy": CHEAP})
    assert (decision.decision, decision.champion, decision.challenger) == (
        "promoted",
        BASELINE,
        CHEAP,
    )


def test_too_few_origins_promote_nobody() -> None:
    """Two of three origins are no evidence, however clear the figures."""
    decision = decided({BASELINE: [60, 70, 80], RICH: [10, 10, 10]}, origins=2)
    assert (decision.decision, decision.champion) == ("denied", BASELINE)
    assert decision.reason == "only 2 of 3 required evidence origins: seasonal_naive serves"


def test_no_evidence_at_all_is_a_decision_too() -> None:
    """A young lakehouse has no rows; its classes are served by seasonal_naive."""
    rows = part_loss_rows({BASELINE: [60], RICH: [10]}, "lumpy", "A", {})
    evaluation = evaluation_rows(rows, {})
    incumbents = dict.fromkeys(DEMAND_CLASSES)
    decisions = decide(
        MONTH,
        evaluation[:0],
        Losses(rows[:0], even_months(rows)[:0], 1),
        0,
        incumbents,
        [Contestant(BASELINE)],
        SETTINGS,
        k_min=3,
    )
    assert [d.demand_class for d in decisions] == list(DEMAND_CLASSES)
    assert {(d.decision, d.champion) for d in decisions} == {("denied", BASELINE)}


@pytest.mark.parametrize("parts", [1, 2, 9])
@pytest.mark.parametrize("incumbent", [None, CHEAP])
def test_too_few_parts_promote_nobody(parts: int, incumbent: str | None) -> None:
    """However clear the figures and however low the bar for a class of its own: the sentence says
    what is missing and who serves, and there is no interval.
    """
    losses = {
        model: [loss] * parts for model, loss in {BASELINE: 60.0, CHEAP: 50.0, RICH: 20.0}.items()
    }
    alone = PromotionSettings(min_parts=1, min_cells=1)
    months = month_loss_rows({model: values[:1] * 5 for model, values in losses.items()})
    decision = decided(losses, {"lumpy": incumbent}, settings=alone, k_min=1, months=months)
    assert (decision.decision, decision.champion) == (
        ("refreshed", CHEAP) if incumbent else ("denied", BASELINE)
    )
    assert (decision.difference_low, decision.difference_high, decision.interval_over) == (
        None,
        None,
        None,
    )
    assert "because there is too little evidence" in decision.reason
    told = f"{parts} part{'s' if parts > 1 else ''} with demand where an interval over parts needs"
    assert f"{told} 10 (promotion.min_interval_parts)" in decision.reason


def test_ten_parts_are_enough_for_an_interval() -> None:
    """The floor itself is not below it."""
    losses = {BASELINE: [60.0] * 10, RICH: [20.0] * 10}
    alone = PromotionSettings(min_parts=1, min_cells=1)
    assert decided(losses, settings=alone).decision == "promoted"


def test_parts_that_never_sold_and_were_never_forecast_count_for_nothing() -> None:
    """One part with demand beside thirty announced ones is one part."""
    rows = part_loss_rows({BASELINE: [60] + [0] * 30, RICH: [20] + [0] * 30}, "lumpy", "A", {})
    is_silent = rows["part_number"] != "lumpyA0"
    rows.loc[is_silent, ["loss_qty", "actual_qty"]] = 0.0
    decision = decided(rows, settings=PromotionSettings(), horizon=6)
    assert (decision.decision, decision.part_count) == ("denied", 31)
    assert "1 part with demand where an interval over parts needs 10" in decision.reason


def test_too_few_origins_make_no_interval_whatever_k_min() -> None:
    """Forty parts at one origin share its months: that is one look at the world."""
    losses = {BASELINE: [60.0] * 40, RICH: [20.0] * 40}
    decision = decided(losses, settings=PromotionSettings(), origins=1, k_min=1)
    assert (decision.decision, decision.champion) == ("denied", BASELINE)
    assert (
        "too little evidence: 1 evidence origin where an interval needs 3"
        " (promotion.min_interval_origins)" in decision.reason
    )


def test_one_part_is_decided_by_its_months() -> None:
    """Six blocks of three months in which the challenger was better, by more or less, promote it;
    the interval has a width and names the months.
    """
    losses = {BASELINE: [50.0, 70.0] * 9, RICH: [40.0, 52.0, 44.0] * 6}
    decision = decided(
        {BASELINE: [60], RICH: [136 / 3]},
        settings=PromotionSettings(),
        months=month_loss_rows(losses),
        horizon=3,
    )
    assert (decision.decision, decision.champion, decision.interval_over) == (
        "promoted",
        RICH,
        "months",
    )
    assert decision.difference_low is not None
    assert decision.difference_high is not None
    assert decision.difference_low < decision.difference_high < 0
    assert decision.reason.endswith("] over 18 months")


def test_months_that_contradict_each_other_promote_nobody() -> None:
    """Better on the whole by one year of three: it serves provisionally for want of an incumbent,
    and takes no incumbent's place.
    """
    months = month_loss_rows({CHEAP: [60.0] * 36, RICH: [62.0] * 24 + [40.0] * 12})
    rows = month_loss_rows({BASELINE: [70.0, 72.0] * 18})
    losses = {BASELINE: [71], CHEAP: [60], RICH: [164 / 3]}
    asked = {
        "settings": PromotionSettings(),
        "months": pd.concat([rows, months], ignore_index=True),
        "horizon": 6,
    }
    decision = decided(losses, {"lumpy": CHEAP}, **asked)
    assert (decision.decision, decision.champion) == ("refreshed", CHEAP)
    assert "boosting is not certain to be better" in decision.reason
    assert decision.interval_over == "months"


@pytest.mark.parametrize(
    ("horizon", "advice"),
    [
        (3, "one over months needs 18, 6 blocks as long as the horizon"),
        (3, "forecast.origins: 16 gives so many where the history is long enough"),
        (12, "a shorter forecast.horizon needs fewer"),
    ],
)
def test_too_few_months_promote_nobody_and_say_what_would_serve(horizon: int, advice: str) -> None:
    """One part and seventeen months: the sentence names the settings that would give more."""
    losses = {BASELINE: [50.0, 70.0] * 8 + [60.0], RICH: [40.0] * 17}
    decision = decided(
        {BASELINE: [60], RICH: [40]},
        settings=PromotionSettings(),
        months=month_loss_rows(losses),
        horizon=horizon,
    )
    assert (decision.decision, decision.champion) == ("denied", BASELINE)
    assert "1 part and 60 cells are too few, so all classes decide together" in decision.reason
    assert "and 17 months where one over months needs" in decision.reason
    assert advice in decision.reason


def test_an_interval_without_a_width_is_none() -> None:
    """One series under forty part numbers differs by the same share everywhere."""
    rows = part_loss_rows({BASELINE: [60.0] * 40, "twin": [20.0] * 40}, "lumpy", "A", {})
    decision = decided(
        rows,
        settings=PromotionSettings(),
        contestants=(Contestant(BASELINE), Contestant("twin")),
    )
    assert (decision.decision, decision.difference_low, decision.difference_high) == (
        "denied",
        None,
        None,
    )
    assert "its interval has no width and says nothing" in decision.reason


def test_a_difference_of_rounding_is_none() -> None:
    """Better on one part of many, equal on the others but for the last bit of a sum."""
    losses = {BASELINE: [80.0] * 13, CHEAP: [0.1 + 0.2] * 12 + [60.0], "twin": [0.3] * 12 + [55.0]}
    decision = decided(
        part_loss_rows(losses, "lumpy", "A", {}),
        {"lumpy": CHEAP},
        settings=PromotionSettings(min_parts=1, min_cells=1),
        contestants=(Contestant(BASELINE), Contestant(CHEAP), Contestant("twin")),
    )
    assert decision.decision == "refreshed"
    assert "twin is not certain to be better" in decision.reason


def test_a_difference_that_may_be_none_promotes_nobody() -> None:
    """Better on the whole, but by one part of four: the interval reaches zero, and the incumbent
    stays.
    """
    losses = {BASELINE: [80] * 4, CHEAP: [60, 60, 60, 60], RICH: [61, 61, 61, 40]}
    decision = decided(losses, {"lumpy": CHEAP})
    assert (decision.decision, decision.champion) == ("refreshed", CHEAP)
    assert "boosting is not certain to be better" in decision.reason
    assert decision.difference_high is not None
    assert decision.difference_high > 0


def test_without_an_incumbent_the_least_expected_regret_serves_provisionally() -> None:
    """Nobody is certain to be better than the baseline. The booster has the lowest figure by one
    part; the mean of it and of another model is as close to both as can be, and serves.
    """
    losses = {
        BASELINE: [80, 40, 80, 40],
        CHEAP: [40, 60, 40, 60],
        RICH: [60, 10, 75, 54],
        "mean": [50, 35, 57.5, 57],
    }
    contestants = tuple(Contestant(name) for name in losses)
    rows = part_loss_rows(losses, "lumpy", "A", {})
    decision = decided(rows, contestants=contestants)
    assert (decision.decision, decision.champion) == ("provisional", "mean")
    assert "mean serves provisionally, since nobody is certain to be better than" in decision.reason
    assert "boosting has WQL 0.497, and more to lose: up to" in decision.reason
    approve = SETTINGS.model_copy(update={"mode": "approve"})
    waiting = decided(rows, contestants=contestants, settings=approve)
    assert (waiting.decision, waiting.champion, waiting.challenger) == (
        "proposed",
        BASELINE,
        "mean",
    )


def test_an_incumbent_with_far_more_loss_is_not_defended() -> None:
    """A fifth less loss takes its place while nobody is certain, a tenth does not."""
    losses = {BASELINE: [99] * 4, CHEAP: [80, 80, 80, 80], RICH: [90, 90, 60, 10]}
    assert decided(losses, {"lumpy": CHEAP}).decision == "provisional"
    losses = {**losses, RICH: [90, 90, 90, 18]}
    assert decided(losses, {"lumpy": CHEAP}).decision == "refreshed"


def test_months_shared_by_all_parts_make_a_difference_uncertain() -> None:
    """Forty parts agree that a challenger is better, by one quarter of the year: parts alone would
    call it certain.
    """
    losses = {BASELINE: [80.0] * 40, CHEAP: [60.0] * 40, RICH: [57.0] * 40}
    rows = part_loss_rows(losses, "lumpy", "A", {})
    asked = {"incumbents": {"lumpy": CHEAP}, "settings": PromotionSettings()}
    assert decided(rows, **asked).decision == "promoted"
    months = even_months(rows)
    months["loss_qty"] += np.select(
        [(months["model"] == RICH) & (months["target_yyyymm"] > 202309), months["model"] == RICH],
        [-120.0, 40.0],
    )
    decision = decided(rows, **asked, months=months)
    assert (decision.decision, decision.champion) == ("refreshed", CHEAP)
    assert "boosting is not certain to be better" in decision.reason


@pytest.mark.parametrize("baseline_bias", [0.0, 2.0])
def test_a_forecaster_of_zero_is_never_promoted(baseline_bias: float) -> None:
    """On sparse demand the quantile loss favours it; its bias stops it, even beside a baseline
    further off.
    """
    decision = decided(
        {BASELINE: [160, 170, 180], RICH: [100, 100, 100]},
        bias={RICH: -1.0, BASELINE: baseline_bias},
    )
    assert (decision.decision, decision.champion) == ("denied", BASELINE)
    assert "boosting has bias -1.00" in decision.reason


def test_a_model_good_on_the_easy_half_only_does_not_win() -> None:
    """A little better on A parts, certain to be worse on the others: it takes no incumbent's place.
    Where so few parts are worse that it may be chance, it does.
    """

    def rows(hard: int) -> pd.DataFrame:
        easy = {BASELINE: [90] * 80, CHEAP: [60] * 80, RICH: [57] * 80}
        rest = {BASELINE: [90] * hard, CHEAP: [60] * hard, RICH: [60, 64] * (hard // 2)}
        kinds = (("A", easy), ("C", rest))
        return pd.concat(
            [part_loss_rows(losses, "lumpy", abc, {}) for abc, losses in kinds], ignore_index=True
        )

    decision = decided(rows(20), {"lumpy": CHEAP})
    assert (decision.decision, decision.champion) == ("refreshed", CHEAP)
    assert (
        "boosting is certain to be worse in a part of the cells: WQL 0.620 against 0.600 of croston"
        " in ABC class C" in decision.reason
    )
    assert decided(rows(2), {"lumpy": CHEAP}).champion == RICH


@pytest.mark.parametrize(("loss", "champion"), [(98.0, CHEAP), (90.0, RICH)])
def test_a_guard_makes_what_serves_no_worse(loss: float, champion: str) -> None:
    """A biased model gives way to one with about its loss, and not to one with much more; it goes
    before a baseline that loses more than a forecast of nothing.
    """
    losses = {BASELINE: [170.0] * 40, CHEAP: [99.0] * 40, RICH: [loss] * 40}
    decision = decided(part_loss_rows(losses, "lumpy", "A", {RICH: -0.42}))
    assert (decision.decision, decision.champion) == ("promoted", champion)
    if champion == RICH:
        assert (
            "it has bias -0.42 against +0.00 of seasonal_naive, with WQL 0.900, which counts for"
            " less than the loss of croston with WQL 0.990" in decision.reason
        )
    alone = {BASELINE: [170.0] * 40, RICH: [93.0] * 40}
    only = decided(part_loss_rows(alone, "lumpy", "A", {RICH: -0.42}))
    assert (only.decision, only.champion) == ("promoted", RICH)


def test_of_equal_models_that_which_changes_its_forecasts_least_serves() -> None:
    """Both lose the same on every part; the forecasts of one move less from one origin to the next,
    be it the cheaper one or not.
    """
    equal = [60, 60, 20, 60]
    for steady in ("first", "second"):
        decision = decided(
            {BASELINE: [80, 40, 80, 40], "first": equal, "second": equal},
            contestants=tuple(map(Contestant, (BASELINE, "first", "second"))),
            revised={BASELINE: 0.2, "first": 0.3, "second": 0.3, steady: 0.1},
        )
        assert (decision.decision, decision.champion) == ("provisional", steady)


def test_of_equivalent_models_the_cheaper_is_promoted() -> None:
    """Within half a per cent of the best, certain by the bootstrap, the model listed first is
    taken.
    """
    losses = {BASELINE: [60.0] * 40, CHEAP: [50.1] * 40, RICH: [50.0] * 40}
    decision = decided(losses)
    assert (decision.decision, decision.champion, decision.challenger) == ("promoted", CHEAP, RICH)
    assert (
        "croston is cheaper and certain to be within 0.5% of boosting with WQL 0.500"
        in decision.reason
    )


def test_a_cheaper_model_whose_expected_demand_errs_more_is_left() -> None:
    """Both have the same quantile loss; the squared error of the cheaper one is a tenth larger on
    every part.
    """
    losses = {BASELINE: [90.0] * 40, CHEAP: [60.0] * 40, RICH: [60.0] * 40}
    decision = decided(part_loss_rows(losses, "lumpy", "A", {}, {CHEAP: 1.1}))
    assert decision.champion == RICH
    assert (
        "croston is cheaper with the same WQL, but the squared error of its expected demand is"
        " 10.0% to 10.0% larger" in decision.reason
    )
    assert decided(part_loss_rows(losses, "lumpy", "A", {}, {CHEAP: 0.9})).champion == CHEAP


def test_a_cheaper_model_that_is_not_equivalent_is_left() -> None:
    """One per cent worse is too much."""
    assert (
        decided({BASELINE: [60, 70, 80], CHEAP: [50.6, 60.6, 70.6], RICH: [50, 60, 70]}).champion
        == RICH
    )


def test_an_incumbent_that_nobody_beats_is_refreshed() -> None:
    """It takes the fit of this training, and the best challenger's refusal is told."""
    decision = decided(
        {BASELINE: [80, 80, 80], CHEAP: [50, 60, 70], RICH: [49, 62, 70]}, {"lumpy": CHEAP}
    )
    assert (decision.decision, decision.champion, decision.challenger) == ("refreshed", CHEAP, RICH)
    assert decision.champion_trained_yyyymm == MONTH
    assert "croston stays with the fit of this training with WQL 0.600" in decision.reason


def test_the_difference_is_taken_to_the_incumbent() -> None:
    """Beating the baseline is not enough where another model serves."""
    decision = decided(
        {BASELINE: [80, 80, 80], CHEAP: [50, 60, 70], RICH: [45, 55, 65]}, {"lumpy": CHEAP}
    )
    assert (decision.decision, decision.champion) == ("promoted", RICH)
    assert decision.difference_low == pytest.approx(-0.0535, abs=1e-3)
    assert "against 0.600 of croston" in decision.reason


def test_a_small_class_takes_the_decision_of_all_classes() -> None:
    """One new part is too little to say anything; on all parts together the booster wins."""
    few = part_loss_rows({BASELINE: [60], CHEAP: [10], RICH: [59]}, "new", "A", {})
    many = part_loss_rows(
        {BASELINE: [60, 70, 80] * 9, CHEAP: [60, 70, 80] * 9, RICH: [30, 40, 50] * 9},
        "lumpy",
        "A",
        {},
    )
    decision = decided(pd.concat([few, many], ignore_index=True), {"new": None})
    assert (decision.demand_class, decision.champion, decision.part_count, decision.pooled) == (
        "new",
        RICH,
        28,
        True,
    )
    assert decision.reason.startswith(
        "1 part and 60 cells are too few, so all classes decide together: boosting: WQL 0.407"
    )


MANY = {BASELINE: [60, 70, 80] * 9, CHEAP: [50, 60, 70] * 9, RICH: [30, 40, 50] * 9}


@pytest.mark.parametrize("at_home", [{CHEAP: 55, RICH: 80}, {CHEAP: 90, RICH: 80}])
def test_a_small_class_refuses_a_model_that_loses_far_more_there(at_home: dict[str, int]) -> None:
    """What all classes would take has 60 % more loss than the baseline on the class's few cells:
    the next one serves, and the baseline where that has as much.
    """
    few = {BASELINE: [50], **{model: [loss] for model, loss in at_home.items()}}
    rows = [part_loss_rows(few, "new", "A", {}), part_loss_rows(MANY, "lumpy", "A", {})]
    decision = decided(pd.concat(rows, ignore_index=True), {"new": None})
    serves = CHEAP if at_home[CHEAP] < 60 else BASELINE
    assert (decision.champion, decision.pooled) == (serves, True)
    refused = "boosting has WQL 0.800 on the class's own 60 cells of 1 part, seasonal_naive 0.500"
    assert refused in decision.reason


def test_a_small_class_does_not_defend_what_loses_far_more_there() -> None:
    """All classes would keep the incumbent; on the class's own cells the baseline has far less
    loss, so the model with the least regret that loses less there serves.
    """
    few = part_loss_rows({BASELINE: [50], CHEAP: [55], RICH: [80]}, "new", "A", {})
    rows = [few, part_loss_rows(MANY, "lumpy", "A", {})]
    decision = decided(pd.concat(rows, ignore_index=True), {"new": RICH})
    assert (decision.decision, decision.champion) == ("promoted", CHEAP)
    assert "boosting, which served, has WQL 0.800 on the class's own 60 cells" in decision.reason
    rows[0] = part_loss_rows({BASELINE: [50], CHEAP: [90], RICH: [80]}, "new", "A", {})
    nobody = decided(pd.concat(rows, ignore_index=True), {"new": RICH})
    assert (nobody.decision, nobody.champion) == ("provisional", BASELINE)
    assert nobody.champion_trained_yyyymm == MONTH
    rows[0] = part_loss_rows({BASELINE: [50], CHEAP: [55], RICH: [60]}, "new", "A", {})
    kept = decided(pd.concat(rows, ignore_index=True), {"new": RICH})
    assert (kept.decision, kept.champion) == ("refreshed", RICH)


def test_a_model_for_some_classes_takes_no_part_when_all_decide_together() -> None:
    """The pooled winner must be able to serve every class that has cells; a restricted incumbent
    stays.
    """
    new = part_loss_rows({BASELINE: [60, 70], CHEAP: [10, 10], RICH: [30, 40]}, "new", "A", {})
    rows = pd.concat(
        [new, part_loss_rows({BASELINE: [60], RICH: [30]}, "lumpy", "A", {})], ignore_index=True
    )
    contestants = (Contestant(BASELINE), Contestant(CHEAP, ("new", "smooth")), Contestant(RICH))
    assert decided(rows, {"new": None}, contestants=contestants).champion == RICH
    decision = decided(rows, {"new": CHEAP}, contestants=contestants)
    assert (decision.decision, decision.champion) == ("refreshed", CHEAP)
    assert "croston is not asked for all classes that have cells" in decision.reason


def test_classes_without_cells_keep_no_model_out_of_the_decision_of_all() -> None:
    """Where new and smooth parts are all there are, their model competes for both, but not for a
    class that it isn't asked for.
    """
    new = part_loss_rows({BASELINE: [60], CHEAP: [10], RICH: [30]}, "new", "A", {})
    rows = pd.concat(
        [
            new,
            part_loss_rows(
                {BASELINE: [60, 70], CHEAP: [10, 10], RICH: [30, 40]}, "smooth", "A", {}
            ),
        ],
        ignore_index=True,
    )
    contestants = (Contestant(BASELINE), Contestant(CHEAP, ("new", "smooth")), Contestant(RICH))
    champions = {
        name: decided(rows, {name: None}, contestants=contestants).champion
        for name in ("new", "lumpy")
    }
    assert champions == {"new": CHEAP, "lumpy": RICH}


def test_with_promotion_off_everything_is_kept() -> None:
    """The incumbent keeps its fit too."""
    off = PromotionSettings(mode="off", min_parts=1, min_cells=1)
    decision = decided(
        {BASELINE: [60, 70, 80], CHEAP: [50, 60, 70], RICH: [10, 10, 10]},
        {"lumpy": CHEAP},
        settings=off,
    )
    assert (decision.decision, decision.champion, decision.champion_trained_yyyymm) == (
        "kept",
        CHEAP,
        None,
    )


def test_an_incumbent_that_is_no_longer_trained_keeps_its_former_fit() -> None:
    """It left the zoo and nobody is eligible: what served before goes on serving."""
    decision = decided({BASELINE: [60, 70, 80], RICH: [61, 71, 81]}, {"lumpy": "retired"})
    assert (decision.decision, decision.champion, decision.champion_trained_yyyymm) == (
        "kept",
        "retired",
        None,
    )
    assert (
        "retired stays with its former fit, since it is not among the models of this training"
        in decision.reason
    )


def test_the_oracle_takes_the_best_model_of_each_part() -> None:
    """In hindsight the first part goes to one model and the second to the other."""
    assert decided(
        {BASELINE: [80, 80, 80], CHEAP: [20, 60, 70], RICH: [70, 10, 70]}
    ).oracle_wql == pytest.approx((20 + 10 + 70) / 300, abs=1e-3)


def test_losses_that_do_not_fit_the_evaluation_are_refused() -> None:
    """A compared model without losses is a mistake of the caller, not a loss of zero."""
    rows = part_loss_rows({BASELINE: [60, 70, 80], RICH: [10, 10, 10]}, "lumpy", "A", {})
    contestants = [Contestant(BASELINE), Contestant(RICH)]
    with pytest.raises(ValueError, match="losses lack rows"):
        decide(
            MONTH,
            evaluation_rows(rows, {}),
            Losses(rows[rows["model"] == BASELINE], even_months(rows), 1),
            6,
            {"lumpy": None},
            contestants,
            SETTINGS,
            k_min=3,
        )
