"""Who serves each demand class: the verdict on the evidence, with figures and one sentence a person
can read.

Pure functions of small frames. How the figures are made lies in evaluation.py; registering, storing
and serving lie in assets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from medallion_assets.champion.uncertainty import Difference, Evidence, Sums
from medallion_assets.tables import DEMAND_CLASSES
from resources.settings import MAX_ORIGINS, PromotionSettings

BASELINE = "seasonal_naive"
GROUP_TOLERANCE = 0.02
MIN_GROUP_CELLS = 50
MIN_MONTHS = 3  # an interval needs two waves over the months
EQUIVALENCE = 0.005
BIAS_ALLOWED = 0.25
BIAS_MARGIN = 0.05
# A guard shapes what serves and may not make it worse: it refuses no model that has so much less
# loss than what would serve instead.
GUARDS_YIELD = 0.05
# An incumbent is not defended, though nobody is certain to be better, against so much less loss.
FAR_LESS = 0.2
# The quantile loss of sparse demand rewards forecasting nothing: below a quarter of the demand
# nobody is promoted, however the incumbent is biased.
MIN_BIAS = -0.75
# Differences smaller than this come of rounding: they are none, and an interval so narrow has none.
ROUNDING = 1e-9
THIN = "there is too little evidence"
HELD_UNTIL_RELEASED = 999912

_GROUPS = {
    "short": "the first third of the horizon",
    "mid": "the middle third of the horizon",
    "long": "the last third of the horizon",
    "A": "ABC class A",
    "B": "ABC class B",
    "C": "ABC class C",
}


class Contender(Protocol):
    """What a decision needs to know of a model; a ModelSpec has it."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> Collection[str]: ...
    @property
    def is_given(self) -> bool: ...


@dataclass(frozen=True)
class Contestant:
    """A model and the demand classes it is asked for. ``is_given``: made elsewhere, so that it is
    fitted in no training.
    """

    name: str
    classes: Collection[str] = DEMAND_CLASSES
    is_given: bool = False


@dataclass(frozen=True)
class Losses:
    """Rows of evaluation.part_losses and evaluation.month_losses of one decision month, and the
    months that are forecast at each origin.
    """

    by_part: pd.DataFrame
    by_month: pd.DataFrame
    horizon: int


@dataclass(frozen=True)
class Decision:
    """One row of gold.champion. What only the training run knows is None until it fills it in.

    champion_trained_yyyymm is the decision month where the champion takes the fit of this training,
    and None where the fit that served before goes on serving.
    """

    yyyymm: int
    demand_class: str
    decision: str
    champion: str
    reason: str
    challenger: str | None = None
    actor: str = "policy"
    champion_wql: float | None = None
    challenger_wql: float | None = None
    baseline_wql: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    interval_over: str | None = None
    champion_bias: float | None = None
    oracle_wql: float | None = None
    cell_count: int = 0
    part_count: int = 0
    origin_count: int = 0
    pooled: bool = False
    champion_trained_yyyymm: int | None = None
    held_until_yyyymm: int | None = None
    decision_number: int | None = None
    registry_version: int | None = None
    candidate_version: int | None = None
    evidence_version: str | None = None
    run_id: str | None = None
    decided_at: datetime | None = None


def decide(  # noqa: PLR0913, PLR0917 - a month's evidence, and who may serve
    month: int,
    evaluation: pd.DataFrame,
    losses: Losses,
    origins_available: int,
    incumbents: Mapping[str, str | None],
    contestants: Sequence[Contender],
    settings: PromotionSettings,
    k_min: int,
    held: Mapping[str, int] | None = None,
) -> list[Decision]:
    """The decision of ``month`` for each class of ``incumbents`` (class -> model that serves it,
    None before the first training).

    evaluation: rows of gold.model_evaluation of the month, which WQL and bias come from. losses:
    what differences between models vary by. ``contestants`` in order of cost, the cheapest first.
    ``origins_available``: evidence origins, at least ``k_min`` are needed. ``held``: class -> last
    month in which it is only evaluated.

    A challenger is certain to be better when the interval of its difference in WQL to the incumbent
    lies below zero. Intervals know that parts differ and that months do (uncertainty.py), and that
    many models are asked: all being equal, one of them is promoted in 2.5 % of the decisions. Where
    there is no incumbent to compare with, seasonal_naive stands for it.

    A forecast made elsewhere (``is_given``) may be an incumbent, and is no challenger.

    A challenger is eligible when it lacks no cell, its WQL lies below seasonal_naive's, its bias
    lies above -.75, it is certain to be better, and two guards let it pass: abs(bias) at most
    max(.25, abs(incumbent's bias) + .05); certain to be worse than the incumbent, by more than 2 %,
    in no third of the horizon and no ABC class of 50 cells or more. A guard yields to a model with
    5 % less loss than what would serve instead.

    Of the eligible models, and where nobody is, that with the least expected regret is taken: what
    it is expected to lose to any other of them, at most. So the luckiest figure does not win, and a
    mean of models that cannot be told apart mostly does; of equal ones that with the forecasts
    that change least from one origin to the next. The cheapest equivalent one is taken
    instead: its interval against the winner lies within .5 % of the winner's WQL, and that of its
    squared error does not lie above the winner's.

    promoted: a challenger serves that is certain to be better. provisional: nobody is certain to be
    better than seasonal_naive, and there is no incumbent, or one with 20 % more loss; the model
    with the least expected regret serves. refreshed: the incumbent stays and takes the new fit.
    denied: nobody is promoted for lack of origins, or seasonal_naive has the least expected regret
    and serves because there is no incumbent. kept: promotion is off, or the incumbent stays with
    its former fit, because this training has none of it, or one that lacks many cells, or because
    a person holds the class. proposed: what would serve waits for approval, and what served goes on
    serving.

    A class with fewer parts or cells than the settings ask for, or without demand in its cells,
    takes the decision on the cells of all classes, between the models asked for it and for every
    class that has cells; an incumbent that isn't can't be compared there and stays. A model to
    which seasonal_naive has 20 % less loss on the class's own cells, 50 or more, is not taken, and
    the class is decided as if nobody had served it where that is the incumbent. Raises ValueError
    when losses lack rows of a model that evaluation compares.

    Evidence may be too thin for any decision. With fewer parts that tell something than
    settings.min_interval_parts only months differ, and settings.min_interval_blocks blocks of them
    are needed, as long as the horizon: what two forecasts of one origin have in common reaches that
    far. With fewer, or with fewer origins than settings.min_interval_origins, who served serves.
    """
    with_cells = frozenset(
        map(str, evaluation.loc[evaluation["segment_kind"] == "demand_class", "segment"])
    )

    @cache
    def of_classes(segment: str, classes: frozenset[str]) -> _Contest:
        return _contest(
            segment,
            classes,
            evaluation,
            losses,
            contestants,
            settings,
        )

    def contest(demand_class: str, is_pooled: bool) -> _Contest:
        return (
            of_classes("all", with_cells | {demand_class})
            if is_pooled
            else of_classes(demand_class, frozenset({demand_class}))
        )

    ordered = sorted(
        incumbents,
        key=lambda name: (
            DEMAND_CLASSES.index(name) if name in DEMAND_CLASSES else len(DEMAND_CLASSES),
            name,
        ),
    )
    rules = _Rules(month, origins_available, k_min, settings, contestants, contest)
    return [
        _settled(
            _decide_class(name, incumbents[name], rules),
            incumbents[name],
            rules,
            (held or {}).get(name),
        )
        for name in ordered
    ]


@dataclass(frozen=True)
class _Figures:
    """What gold.model_evaluation says of one model in one segment; wql, bias, revision_share and
    rmse None where they are no finite numbers.
    """

    wql: float | None
    bias: float | None
    revision_share: float | None
    rmse: float | None
    actual_qty: float
    cell_count: int
    part_count: int
    missing_cell_count: int


@dataclass(frozen=True)
class _Contest:
    """The models asked for ``classes`` on their cells, in order of cost. Evidence, of all cells and
    by group with their number, has one column per model of ``compared``. ``thin`` says why it is
    too little for a decision, empty where it is not; ``telling``: parts that say something.
    """

    classes: frozenset[str]
    figures: Mapping[str, _Figures]
    compared: tuple[str, ...]
    evidence: Evidence
    group: Callable[[str], tuple[int, Evidence]]
    telling: int
    thin: str
    oracle_wql: float | None
    given: frozenset[str] = frozenset()

    @property
    def own(self) -> tuple[str, ...]:
        """The models that may be promoted. A given forecast may not: nobody can ask it for a month
        that was not delivered.
        """
        return tuple(model for model in self.figures if model not in self.given)

    @property
    def cells(self) -> int:
        return max((f.cell_count for f in self.figures.values()), default=0)

    @property
    def parts(self) -> int:
        return max((f.part_count for f in self.figures.values()), default=0)

    @property
    def has_demand(self) -> bool:
        return any(f.actual_qty > 0 for f in self.figures.values())

    @property
    def extent(self) -> str:
        return f"{_count(self.cells, 'cell')} of {_count(self.parts, 'part')}"

    def wql(self, model: str | None) -> float | None:
        return self.figures[model].wql if model is not None and model in self.figures else None

    def bias(self, model: str) -> float | None:
        return self.figures[model].bias if model in self.figures else None

    def missing(self, model: str) -> int:
        return self.figures[model].missing_cell_count if model in self.figures else 0

    def best(self, models: Iterable[str]) -> str | None:
        """The model with the lowest WQL, of equal ones as ``_tie`` says, also where none has a
        WQL.
        """

        def figures(model: str) -> tuple[float, ...]:
            wql = self.figures[model].wql
            return (np.inf if wql is None else wql, *self._tie(model))

        return min(models, key=figures, default=None)

    def _tie(self, model: str) -> tuple[float, float]:
        """What decides between equal models, before their cost: how much a forecast changes from
        one origin to the next, then RMSE.
        """
        found = self.figures[model]
        ties = (found.revision_share, found.rmse)
        revised, rmse = (np.inf if value is None else value for value in ties)
        return revised, rmse

    def least_regret(self, models: Iterable[str]) -> str | None:
        """The model that is expected to lose least to any other of them, of equal ones as ``_tie``
        says.
        """
        asked = tuple(models)

        def figures(model: str) -> tuple[float, ...]:
            return (self.regret(model, asked), *self._tie(model))

        return min(asked, key=figures, default=None)

    def regret(self, model: str, others: Iterable[str]) -> float:
        """The most that a model is expected to lose to one of the others, WQL."""
        expected = (self.difference(model, other).regret() for other in others if other != model)
        return round(max(expected, default=0.0), 9)

    def difference(self, model: str, other: str) -> Difference:
        """WQL of ``model`` less that of ``other``, both compared."""
        found = self.evidence.loss(self.compared.index(model), self.compared.index(other))
        # With very many parts the error is that of a sample of them; the figures are those of all.
        return replace(found, value=(self.wql(model) or 0.0) - (self.wql(other) or 0.0))

    def tail(self, other: str) -> float:
        """Tail of the intervals to ``other`` that all models that may be promoted have together."""
        if other not in self._tails:
            place = self.compared.index(other)
            models = [
                n for n, model in enumerate(self.compared) if n != place and model not in self.given
            ]
            self._tails[other] = self.evidence.tail(models, place)
        return self._tails[other]

    @cached_property
    def _tails(self) -> dict[str, float]:
        return {}

    def interval(self, model: str, other: str) -> tuple[float, float]:
        """Ends of the interval of the difference in WQL."""
        return self.difference(model, other).interval(self.tail(other))

    def has_width(self, model: str, other: str) -> bool:
        low, high = self.interval(model, other)
        return bool(high - low >= ROUNDING)

    def comparison(self, model: str, other: str) -> str:
        low, high = self.interval(model, other)
        difference = self.difference(model, other).value
        told = "" if self.evidence.is_over_parts else f" over {self.evidence.months.count} months"
        return (
            f"WQL {self.wql(model):.3f} against {self.wql(other):.3f} of {other} on {self.extent}, "
            f"difference {difference:+.3f} [{low:+.3f}, {high:+.3f}]{told}"
        )

    def worse_group(self, model: str, other: str) -> str | None:
        """The first group in which ``model`` is certain to be worse, and more than 2 % worse, with
        both figures.
        """
        first, second = self.compared.index(model), self.compared.index(other)
        for group, name in _GROUPS.items():
            cells, evidence = self.group(group)
            demand = evidence.parts.demand.sum()
            if cells < MIN_GROUP_CELLS or not demand > 0:
                continue
            wql = evidence.parts.loss.sum(axis=0) / demand
            low, _ = evidence.loss(first, second).interval(self.tail(other))
            if low > ROUNDING and wql[first] > wql[second] * (1 + GROUP_TOLERANCE):
                return f"WQL {wql[first]:.3f} against {wql[second]:.3f} of {other} in {name}"
        return None


@dataclass(frozen=True)
class _Rules:
    month: int
    origins_available: int
    k_min: int
    settings: PromotionSettings
    contestants: Sequence[Contender]
    contest: Callable[[str, bool], _Contest]

    def is_asked(self, model: str, *classes: str) -> bool:
        return any(c.name == model and set(classes) <= set(c.classes) for c in self.contestants)


def _decide_class(demand_class: str, incumbent: str | None, rules: _Rules) -> Decision:
    own = rules.contest(demand_class, False)
    is_small = (
        own.parts < rules.settings.min_parts
        or own.cells < rules.settings.min_cells
        or own.telling < rules.settings.min_interval_parts
    )
    is_pooled = is_small or not own.has_demand
    contest = rules.contest(demand_class, True) if is_pooled else own
    champion = incumbent or BASELINE
    undecided = Decision(
        yyyymm=rules.month,
        demand_class=demand_class,
        decision="denied",
        champion=champion,
        reason=(
            f"only {rules.origins_available} of {rules.k_min} required evidence origins: {champion}"
            " serves"
        ),
        baseline_wql=contest.wql(BASELINE),
        oracle_wql=contest.oracle_wql,
        cell_count=contest.cells,
        part_count=contest.parts,
        origin_count=rules.origins_available,
        pooled=is_pooled,
        champion_trained_yyyymm=(
            rules.month if incumbent is None or rules.is_asked(incumbent, demand_class) else None
        ),
    )
    undecided = _with_models(
        undecided, contest, champion, contest.best(m for m in contest.own if m != champion)
    )
    if rules.settings.mode == "off":
        how = "stays as it was trained" if incumbent else "serves because there is no champion yet"
        trained = None if incumbent else rules.month
        return replace(
            undecided,
            decision="kept",
            reason=f"promotion is off: {champion} {how}",
            champion_trained_yyyymm=trained,
        )
    if rules.origins_available < rules.k_min:
        return undecided
    thin = _thin(contest, rules)
    verdict = (
        _stay(undecided, incumbent, f"{THIN}: {thin}", contest, rules)
        if thin
        else _verdict(undecided, incumbent, contest, rules)
    )
    if is_pooled:
        why = (
            f"{_count(own.parts, 'part')} and {_count(own.cells, 'cell')} are too few"
            if is_small
            else "no cell has demand"
        )
        return replace(verdict, reason=f"{why}, so all classes decide together: {verdict.reason}")
    return verdict


def _thin(contest: _Contest, rules: _Rules) -> str:
    """Why no interval can be made of a contest, with what would help; empty where one can."""
    if not contest.compared:
        return ""
    least = rules.settings.min_interval_origins
    if rules.origins_available < least:
        return (
            f"{_count(rules.origins_available, 'evidence origin')} where an interval needs"
            f" {least} (promotion.min_interval_origins)"
        )
    return contest.thin


def _settled(
    verdict: Decision, incumbent: str | None, rules: _Rules, held_until: int | None
) -> Decision:
    """The verdict, unless a person holds the class or has to approve what it would change."""
    champion = incumbent or BASELINE
    is_held = held_until is not None and rules.month <= held_until
    changes = verdict.decision in ("promoted", "provisional")
    if not is_held and not (changes and rules.settings.mode == "approve"):
        return verdict
    contest = rules.contest(verdict.demand_class, verdict.pooled)
    former = _with_models(
        verdict,
        contest,
        champion,
        verdict.champion if verdict.champion != champion else verdict.challenger,
    )
    former = replace(former, champion_trained_yyyymm=None if incumbent or is_held else rules.month)
    if is_held:
        until = "a person releases it" if held_until == HELD_UNTIL_RELEASED else f"{held_until}"
        evidence = f"the evidence says {verdict.decision} {verdict.champion}, {verdict.reason}"
        reason = f"held until {until}: {champion} stays as it was trained; {evidence}"
        return replace(former, decision="kept", reason=reason, held_until_yyyymm=held_until)
    return replace(
        former,
        decision="proposed",
        reason=f"waits for approval, until then {champion} serves: {verdict.reason}",
    )


def _verdict(
    undecided: Decision, incumbent: str | None, contest: _Contest, rules: _Rules
) -> Decision:
    """The decision on a contest's figures, promotion being on and the origins enough."""
    if (
        undecided.pooled
        and rules.is_asked(str(incumbent))
        and not rules.is_asked(str(incumbent), *contest.classes)
    ):
        why = (
            f"{incumbent} is not asked for all classes that have cells and can't be compared on"
            " them"
        )
        return _stay(undecided, incumbent, why, contest, rules)
    at_home = (
        _lost_at_home(rules.contest(undecided.demand_class, False)) if undecided.pooled else {}
    )
    if incumbent in at_home:
        return _undefended(undecided, incumbent, at_home[incumbent], contest, rules)
    yardstick = incumbent if incumbent in contest.compared else BASELINE
    if yardstick not in contest.compared:
        return _stay(
            undecided, incumbent, f"there is no WQL of {yardstick} to compare with", contest, rules
        )
    standings = {
        m: _Standing(out=at_home[m]) if m in at_home else _standing(m, yardstick, contest)
        for m in contest.own
        if m not in (yardstick, incumbent)
    }
    certain = [m for m, standing in standings.items() if not standing.is_out_or_uncertain]
    winner, yielded = _chosen(certain, standings, yardstick, contest)
    if winner is None:
        return _provisional(undecided, incumbent, yardstick, standings, contest, rules)
    best, told = winner, ""
    eligible = _passing(certain, standings)
    if not yielded:
        winner, told = _cheapest_equivalent(best, (yardstick, *eligible), contest)
    closeness = (
        f"{winner} is cheaper and certain to be within {EQUIVALENCE:.1%} of {best} with WQL"
        f" {contest.wql(best):.3f}"
    )
    if winner == yardstick:
        return _stay(
            _with_difference(undecided, contest, best, yardstick),
            incumbent,
            closeness,
            contest,
            rules,
        )
    reason = f"{winner}: {contest.comparison(winner, yardstick)}"
    if yardstick != BASELINE and undecided.baseline_wql is not None:
        reason += f", {BASELINE} {undecided.baseline_wql:.3f}"
    if incumbent not in (None, yardstick):
        reason += (
            f"; {incumbent}, which served,"
            f" {_why_not_compared(str(incumbent), undecided.demand_class, rules)}"
        )
    if winner != best:
        reason += f"; {closeness}"
    reason += yielded + _luckier(best, eligible, contest) + told
    reason += _set_aside(winner, standings, contest)
    return _serves("promoted", undecided, winner, yardstick, incumbent, reason, contest)


def _chosen(
    candidates: Collection[str],
    standings: Mapping[str, _Standing],
    instead: str,
    contest: _Contest,
) -> tuple[str | None, str]:
    """The candidate with the least expected regret among those that pass the guards; or one that a
    guard refuses, if its loss is far below that candidate's, or below what serves ``instead``;
    None without one. With it what is said where a guard yields.
    """
    passing = _passing(candidates, standings)
    found = contest.least_regret(passing)
    guarded = contest.best(m for m in candidates if m not in passing)
    other = found or instead
    if guarded is None or not _has_less_loss(guarded, other, GUARDS_YIELD, contest):
        return found, ""
    return guarded, (
        f"; it {standings[guarded].guard}, which counts for less than the loss of {other} with WQL"
        f" {contest.wql(other):.3f}"
    )


def _has_less_loss(model: str, other: str, share: float, contest: _Contest) -> bool:
    return (contest.wql(model) or 0.0) <= (1 - share) * (contest.wql(other) or 0.0)


def _lost_at_home(own: _Contest) -> dict[str, str]:
    """What is said of each model to which seasonal_naive has far less loss on a class's own cells,
    which are too few to choose by and enough to refuse.
    """
    if own.wql(BASELINE) is None or own.cells < MIN_GROUP_CELLS:
        return {}
    return {
        m: f"has WQL {own.wql(m):.3f} on the class's own {own.extent}, {BASELINE}"
        f" {own.wql(BASELINE):.3f}"
        for m in own.compared
        if (own.wql(m) or 0.0) > 0 and _has_less_loss(BASELINE, m, FAR_LESS, own)
    }


def _undefended(
    undecided: Decision, incumbent: str, lost: str, contest: _Contest, rules: _Rules
) -> Decision:
    """The decision as if nobody had served the class, because of what the incumbent lost there."""
    best = contest.best(m for m in contest.own if m != BASELINE)
    nobody = replace(undecided, champion_trained_yyyymm=undecided.yyyymm)
    found = _verdict(_with_models(nobody, contest, BASELINE, best), None, contest, rules)
    return replace(
        found,
        decision="promoted" if found.decision == "promoted" else "provisional",
        reason=f"{found.reason}; {incumbent}, which served, {lost}",
    )


def _luckier(winner: str, candidates: Iterable[str], contest: _Contest) -> str:
    """What is said of a candidate that has the lower WQL and was left for its expected regret."""
    others = tuple(candidates)
    lucky = contest.best(others)
    if lucky is None or (contest.wql(lucky) or 0.0) >= (contest.wql(winner) or 0.0):
        return ""
    return (
        f"; {lucky} has WQL {contest.wql(lucky):.3f}, and more to lose: up to"
        f" {contest.regret(lucky, others):.4f} to another candidate where {winner} is expected to"
        f" lose {contest.regret(winner, others):.4f}"
    )


def _set_aside(winner: str, standings: Mapping[str, _Standing], contest: _Contest) -> str:
    """What is said of the best model where it is out for another reason than missing cells."""
    best = contest.best(standings)
    if best in (None, winner) or not standings[str(best)].out or contest.missing(str(best)):
        return ""
    return f"; {best} {standings[str(best)].out}"


def _provisional(  # noqa: PLR0913, PLR0917 - the contest as it ended without a winner
    undecided: Decision,
    incumbent: str | None,
    yardstick: str,
    standings: Mapping[str, _Standing],
    contest: _Contest,
    rules: _Rules,
) -> Decision:
    """The decision where nobody is certain to be better."""
    refused = contest.best(standings)
    why = f"{refused} {standings[refused].refusal}" if refused else "there is no other model"
    stays = _with_difference(undecided, contest, refused, yardstick)
    possible = [m for m, standing in standings.items() if not standing.out]
    if incumbent is None:
        possible.append(yardstick)
    winner, yielded = _chosen(possible, standings, yardstick, contest)
    is_taken = winner not in (None, yardstick) and (
        incumbent is None
        or (incumbent == yardstick and _has_less_loss(str(winner), incumbent, FAR_LESS, contest))
    )
    if winner is None or not is_taken:
        return _stay(stays, incumbent, why, contest, rules)
    reason = (
        f"{winner} serves provisionally, since nobody is certain to be better than {yardstick}:"
        f" {contest.comparison(winner, yardstick)}, and it is expected to lose"
        f" {contest.regret(winner, possible):.4f} at most to any other model, {yardstick}"
        f" {contest.regret(yardstick, possible):.4f}"
    )
    reason += yielded + _luckier(winner, _passing(possible, standings), contest)
    reason += _set_aside(winner, standings, contest)
    return _serves("provisional", undecided, winner, yardstick, incumbent, reason, contest)


def _passing(models: Iterable[str], standings: Mapping[str, _Standing]) -> list[str]:
    """The models that no guard refuses; the yardstick has no standing and needs none."""
    return [m for m in models if m not in standings or not standings[m].guard]


def _serves(  # noqa: PLR0913, PLR0917 - what the row of a new champion says
    decision: str,
    undecided: Decision,
    winner: str,
    yardstick: str,
    incumbent: str | None,
    reason: str,
    contest: _Contest,
) -> Decision:
    """The decision that ``winner`` serves from now on."""
    made = _with_difference(undecided, contest, winner, yardstick)
    made = _with_models(made, contest, winner, contest.best(m for m in contest.own if m != winner))
    return replace(
        made,
        decision=decision,
        reason=reason + _left_out(contest, (winner, incumbent)),
        champion_trained_yyyymm=undecided.yyyymm,
    )


def _stay(
    decision: Decision, incumbent: str | None, why: str, contest: _Contest, rules: _Rules
) -> Decision:
    """Nobody is promoted: the incumbent takes the new fit where that can be trusted; without one
    seasonal_naive serves.
    """
    figures = (
        f" with WQL {decision.champion_wql:.3f} on {contest.extent}"
        if decision.champion_wql is not None
        else ""
    )
    because = f", because {why}{_left_out(contest, (decision.challenger, incumbent))}"
    if incumbent is None:
        is_alone = not any(m != BASELINE for m in contest.figures)
        return replace(
            decision,
            decision="refreshed" if is_alone else "denied",
            reason=f"{BASELINE} serves{figures}{because}",
        )
    own = rules.contest(decision.demand_class, False)
    has_sound_fit = incumbent in own.compared or (not own.has_demand and not own.missing(incumbent))
    if rules.is_asked(incumbent, decision.demand_class) and has_sound_fit:
        is_given = any(c.name == incumbent and c.is_given for c in rules.contestants)
        how = "" if is_given else " with the fit of this training"
        return replace(
            decision, decision="refreshed", reason=f"{incumbent} stays{how}{figures}{because}"
        )
    fault = _why_not_compared(incumbent, decision.demand_class, rules)
    reason = f"{incumbent} stays with its former fit, since it {fault}{because}"
    return replace(decision, decision="kept", reason=reason, champion_trained_yyyymm=None)


class _Standing(NamedTuple):
    """What speaks against a model, each as what is said of it and empty where nothing does: it is
    out, it is not certain to be better, a guard refuses it.
    """

    out: str = ""
    uncertain: str = ""
    guard: str = ""

    @property
    def is_out_or_uncertain(self) -> bool:
        return bool(self.out or self.uncertain)

    @property
    def refusal(self) -> str:
        return self.out or self.uncertain or self.guard


def _standing(model: str, yardstick: str, contest: _Contest) -> _Standing:
    """What speaks against a model that would take the yardstick's place."""
    wql, bias = contest.wql(model), contest.bias(model)
    baseline_wql, yardstick_bias = contest.wql(BASELINE), contest.bias(yardstick) or 0.0
    if missing := contest.missing(model):
        return _Standing(out=f"lacks {_count(missing, 'cell')} that other models have")
    if wql is None or bias is None:
        return _Standing(out="has no finite WQL")
    if model != BASELINE and baseline_wql is not None and wql >= baseline_wql:
        return _Standing(
            out=f"has WQL {wql:.3f}, not below {baseline_wql:.3f} of {BASELINE}, on"
            f" {contest.extent}"
        )
    biased = (
        f"has bias {bias:+.2f} against {yardstick_bias:+.2f} of {yardstick}, with WQL {wql:.3f}"
    )
    if bias < MIN_BIAS:
        return _Standing(out=biased)
    uncertain = guard = ""
    _, high = contest.interval(model, yardstick)
    if not high < -ROUNDING:  # NaN, where no sampled part has demand, is no proof either
        uncertain = f"is not certain to be better: {contest.comparison(model, yardstick)}"
    elif not contest.has_width(model, yardstick):
        return _Standing(
            out="is better by the same share of every part and month, so its interval has no width"
            f" and says nothing: {contest.comparison(model, yardstick)}"
        )
    if abs(bias) > max(BIAS_ALLOWED, abs(yardstick_bias) + BIAS_MARGIN):
        guard = biased
    elif worse := contest.worse_group(model, yardstick):
        guard = f"is certain to be worse in a part of the cells: {worse}"
    return _Standing(uncertain=uncertain, guard=guard)


def _cheapest_equivalent(
    best: str, candidates: Collection[str], contest: _Contest
) -> tuple[str, str]:
    """The cheapest model that is as good as the best, and what is said of cheaper ones that only
    have its WQL.
    """
    margin = EQUIVALENCE * (contest.wql(best) or 0.0)
    second, worse = contest.compared.index(best), ""
    for first, model in enumerate(contest.compared[:second]):
        low, high = contest.difference(model, best).interval()
        if model not in candidates or not -margin <= low <= high <= margin:
            continue
        least, most = contest.evidence.squared_error(first, second).interval()
        if not least > 0:
            return model, worse
        worse += (
            f"; {model} is cheaper with the same WQL, but the squared error of its expected demand"
            f" is {least:.1%} to {most:.1%} larger"
        )
    return best, worse


def _why_not_compared(incumbent: str, demand_class: str, rules: _Rules) -> str:
    """What keeps an incumbent out of the comparison, as what is said of it."""
    if not rules.is_asked(incumbent):
        return "is not among the models of this training"
    if not rules.is_asked(incumbent, demand_class):
        return "is not asked for this class any more"
    return (
        f"lacks {_count(rules.contest(demand_class, False).missing(incumbent), 'cell')} that other"
        " models have"
    )


def _with_models(
    decision: Decision, contest: _Contest, champion: str, challenger: str | None
) -> Decision:
    return replace(
        decision,
        champion=champion,
        champion_wql=contest.wql(champion),
        champion_bias=contest.bias(champion),
        challenger=challenger,
        challenger_wql=contest.wql(challenger),
    )


def _with_difference(
    decision: Decision, contest: _Contest, model: str | None, yardstick: str
) -> Decision:
    """``model`` as the challenger, with the interval of its difference where it can be compared."""
    decision = replace(decision, challenger=model, challenger_wql=contest.wql(model))
    if model is None or model not in contest.compared:
        return decision
    if contest.thin or not contest.has_width(model, yardstick):
        return decision
    low, high = contest.interval(model, yardstick)
    over = "parts and months" if contest.evidence.is_over_parts else "months"
    return replace(decision, difference_low=low, difference_high=high, interval_over=over)


def _left_out(contest: _Contest, named: Collection[str | None]) -> str:
    """The other models that could not win for missing cells: silence about them would look like a
    defeat.
    """
    incomplete = [m for m in contest.figures if m not in named and contest.missing(m)]
    return "".join(
        f"; {m} could not win, lacking {_count(contest.missing(m), 'cell')}" for m in incomplete
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _telling_parts(part_losses: pd.DataFrame) -> int:
    """Parts that say something of a model: they have demand, or somebody's forecast had a loss."""
    if part_losses.empty:
        return 0
    sums = part_losses.groupby("part_number")[["loss_qty", "actual_qty"]].max()
    return int((sums > 0).any(axis=1).sum())


def _contest(  # noqa: PLR0913, PLR0917 - decide()'s evidence, and the segment it is cut to
    segment: str,
    classes: frozenset[str],
    evaluation: pd.DataFrame,
    losses: Losses,
    contestants: Sequence[Contender],
    settings: PromotionSettings,
) -> _Contest:
    """The contest in a segment, a demand class or "all", between the models that are asked for all
    of ``classes``.
    """
    kind = "all" if segment == "all" else "demand_class"
    rows = evaluation[
        (evaluation["segment_kind"] == kind)
        & (evaluation["segment"] == segment)
        & (evaluation["horizon"] == 0)
    ]
    found = {str(row["model"]): _figures(row) for row in rows.to_dict("records")}
    figures = {
        c.name: found[c.name] for c in contestants if classes <= set(c.classes) and c.name in found
    }
    compared = tuple(model for model, f in figures.items() if f.wql is not None)
    if not compared:

        def nobody(group: str) -> tuple[int, Evidence]:
            raise KeyError(group)

        nothing = Sums(np.empty((0, 0)), np.empty(0), np.empty((0, 0)))
        return _Contest(classes, figures, (), Evidence(nothing, nothing), nobody, 0, "", None)

    def own(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["model"].isin(compared) & rows["demand_class"].isin(classes)]

    def matrix(summed: pd.DataFrame, column: str) -> pd.DataFrame:
        wide = summed[column].reindex(columns=list(compared))
        if wide.empty or wide.isna().to_numpy().any():
            raise ValueError(
                f"losses lack rows of models that model_evaluation compares in segment {segment}"
            )
        return wide

    by_part, by_month = (
        own(rows).groupby([unit, "model"]).sum(numeric_only=True).unstack("model")
        for rows, unit in ((losses.by_part, "part_number"), (losses.by_month, "target_yyyymm"))
    )

    def sums(of: pd.DataFrame, suffix: str) -> Sums:
        return Sums(
            matrix(of, f"loss_qty{suffix}").to_numpy(dtype=float),
            matrix(of, f"actual_qty{suffix}").iloc[:, 0].to_numpy(dtype=float),
            matrix(of, "squared_error").to_numpy(dtype=float),
        )

    telling = _telling_parts(own(losses.by_part))
    is_over_parts = telling >= settings.min_interval_parts

    def evidence(suffix: str = "") -> Evidence:
        return Evidence(sums(by_part, suffix), sums(by_month, suffix), is_over_parts)

    @cache
    def group(suffix: str) -> tuple[int, Evidence]:
        return int(matrix(by_part, f"cell_count_{suffix}").iloc[:, 0].sum()), evidence(f"_{suffix}")

    whole = evidence()
    demand = whole.parts.demand.sum()
    return _Contest(
        classes=classes,
        figures=figures,
        compared=compared,
        evidence=whole,
        group=group,
        telling=telling,
        thin=_too_few(telling, whole.months.count, is_over_parts, settings, losses.horizon),
        oracle_wql=float(whole.parts.loss.min(axis=1).sum() / demand) if demand > 0 else None,
        given=frozenset(c.name for c in contestants if c.is_given),
    )


def _too_few(
    telling: int, months: int, is_over_parts: bool, settings: PromotionSettings, horizon: int
) -> str:
    """What a decision over parts and months, and one over months, need and do not have; empty where
    there is enough.
    """
    if is_over_parts:
        told = f"{_count(months, 'target month')} where an interval needs {MIN_MONTHS}"
        return "" if months >= MIN_MONTHS else told
    needed = settings.min_interval_blocks * horizon
    if months >= needed:
        return ""
    origins = needed - horizon + 1
    helps = (
        f"forecast.origins: {origins} gives so many where the history is long enough"
        if origins <= MAX_ORIGINS
        else "a shorter forecast.horizon needs fewer"
    )
    return (
        f"{_count(telling, 'part')} with demand where an interval over parts needs"
        f" {settings.min_interval_parts} (promotion.min_interval_parts), and"
        f" {_count(months, 'month')} where one over months needs {needed},"
        f" {settings.min_interval_blocks} blocks as long as the horizon"
        f" (promotion.min_interval_blocks; {helps})"
    )


def _figures(row: Mapping[Hashable, Any]) -> _Figures:

    def finite(name: str) -> float | None:
        # Evidence of a former release has no revision_share.
        value = float(row.get(name, np.nan))
        return value if np.isfinite(value) else None

    wql, bias, revised, rmse = map(finite, ("wql", "bias", "revision_share", "rmse"))
    counts = (int(row[name]) for name in ("cell_count", "part_count", "missing_cell_count"))
    return _Figures(wql, bias, revised, rmse, float(row["actual_qty"]), *counts)
