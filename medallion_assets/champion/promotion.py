"""Who serves each demand class: the verdict on the evidence, with figures and one sentence a person
can read.

Pure functions of small frames. How the figures are made lies in evaluation.py; registering, storing
and serving lie in assets.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medallion_assets.tables import DEMAND_CLASSES
from resources.settings import MAX_ORIGINS, PromotionSettings

BASELINE = "seasonal_naive"
INTERVAL_PCT = (2.5, 97.5)
GROUP_TOLERANCE = 0.02
MIN_GROUP_CELLS = 50
EQUIVALENCE = 0.005
BIAS_ALLOWED = 0.25
BIAS_MARGIN = 0.05
# The quantile loss of sparse demand rewards forecasting nothing: below a quarter of the demand
# nobody is promoted, however the incumbent is biased.
MIN_BIAS = -0.75
DRAWS = 1_000
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
_CHUNK_WEIGHTS = 2_000_000  # bootstrap weights held at once: 16 MB

Floats = NDArray[np.float64]


class Contender(Protocol):
    """What a decision needs to know of a model; a ModelSpec has it."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> Collection[str]: ...


@dataclass(frozen=True)
class Contestant:
    """A model and the demand classes it is asked for."""

    name: str
    classes: Collection[str] = DEMAND_CLASSES


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


def decide(
    month: int,
    evaluation: pd.DataFrame,
    part_losses: pd.DataFrame,
    origins_available: int,
    incumbents: Mapping[str, str | None],
    contestants: Sequence[Contender],
    settings: PromotionSettings,
    k_min: int,
    draws: int = DRAWS,
    seed: int = 7,
    held: Mapping[str, int] | None = None,
    month_losses: pd.DataFrame | None = None,
    horizon: int = 1,
) -> list[Decision]:
    """The decision of ``month`` for each class of ``incumbents`` (class -> model that serves it,
    None before the first training).

    evaluation: rows of gold.model_evaluation of the month. part_losses: rows of
    evaluation.part_losses of the month, for the interval of a difference in WQL (paired percentile
    bootstrap over parts), the groups and the oracle; WQL and bias themselves come from evaluation.
    ``contestants`` in order of cost, the cheapest first. ``origins_available``: evidence origins,
    at least ``k_min`` are needed. ``held``: class -> last month in which it is only evaluated.
    month_losses: rows of evaluation.month_losses of the month, needed where ``telling_parts`` are
    fewer than settings.min_interval_parts; ``horizon``: months forecast at each origin.

    A challenger is eligible when it lacks no cell, its WQL lies below seasonal_naive's, its bias
    passes the guard, the interval of its difference to the incumbent lies wholly below zero, and in
    no third of the horizon and no ABC class of 50 cells or more its WQL is more than 2 % above the
    incumbent's. The guard: abs(bias) at most max(.25, abs(incumbent's bias) + .05), and bias above
    -.75. The eligible model with the lowest WQL wins, of equal ones that with the lower squared
    error of expected demand. The cheapest equivalent one is taken instead: its interval against the
    winner lies within .5 % of the winner's WQL, and that of its squared error does not lie above
    the winner's. Where there is no incumbent to compare with, seasonal_naive stands for it.

    promoted: a challenger serves. refreshed: the incumbent stays and takes the new fit. denied:
    nobody is promoted for lack of origins, or nobody is eligible and seasonal_naive serves for want
    of an incumbent. kept: promotion is off, or the incumbent stays with its former fit, because
    this training has none of it, or one that lacks many cells, or because a person holds the class.
    proposed: promotion waits for approval, and what served goes on serving.

    A class with fewer parts or cells than the settings ask for, or without demand in its cells,
    takes the decision on the cells of all classes, between the models asked for it and for every
    class that has cells; an incumbent that isn't can't be compared there and stays. Raises
    ValueError when part_losses lack rows of a model that evaluation compares.

    Evidence may be too thin for any interval. Of two parts without a difference between the models
    one in four intervals lies below zero, of ten one in twenty, of thirty one in thirty. So with
    fewer telling parts than settings.min_interval_parts months are drawn instead of parts, in
    blocks as long as the horizon: what two forecasts of one origin have in common stays together.
    With fewer blocks than settings.min_interval_blocks, or fewer origins than
    settings.min_interval_origins, nobody is promoted. Intervals over months are widened for the few
    blocks they are drawn from.
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
            part_losses,
            contestants,
            _Sampling(settings, horizon, month_losses, draws, seed),
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
    """What gold.model_evaluation says of one model in one segment; wql, bias and rmse None where
    they are no finite numbers.
    """

    wql: float | None
    bias: float | None
    rmse: float | None
    actual_qty: float
    cell_count: int
    part_count: int
    missing_cell_count: int


@dataclass(frozen=True)
class _Sampling:
    """How intervals are made: the floors, and what is drawn where there are few parts."""

    settings: PromotionSettings
    horizon: int
    month_losses: pd.DataFrame | None
    draws: int
    seed: int


@dataclass(frozen=True)
class _Drawn:
    """Draws of parts, or of months where parts are few. Arrays have one column per model; ``wql``
    and ``squared_error`` one row per draw, ``sampled_wql`` is that of all that was drawn from.

    ``thin`` says why they make no interval, empty where they do; ``widening`` is the factor by
    which an interval is drawn out, ``told`` what its text ends with.
    """

    sampled_wql: Floats
    wql: Floats
    squared_error: Floats
    over: str = "parts"
    telling: int = 0
    thin: str = ""
    widening: float = 1.0
    told: str = ""


@dataclass(frozen=True)
class _Contest:
    """The models asked for ``classes`` on their cells, in order of cost. Arrays have one column per
    model of ``compared``.
    """

    classes: frozenset[str]
    figures: Mapping[str, _Figures]
    compared: tuple[str, ...]
    drawn: _Drawn
    groups: Mapping[str, tuple[int, Floats]]
    oracle_wql: float | None

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
        """The model with the lowest WQL, of equal ones that with the lowest RMSE, then the
        cheapest, as where none has a WQL.
        """

        def figures(model: str) -> tuple[float, float]:
            f = self.figures[model]
            return (np.inf if f.wql is None else f.wql), (np.inf if f.rmse is None else f.rmse)

        return min(models, key=figures, default=None)

    def difference(self, model: str, other: str) -> tuple[float, float, float]:
        """WQL of ``model`` less that of ``other``, both compared: the difference and the ends of
        its interval.
        """
        first, second = self.compared.index(model), self.compared.index(other)
        exact = (self.wql(model) or 0.0) - (self.wql(other) or 0.0)
        # With very many parts the draws come from a sample of them: its spread, around the
        # difference of all.
        drawn = self.drawn
        shift = exact - float(drawn.sampled_wql[first] - drawn.sampled_wql[second])
        low, high = (
            np.nanpercentile(drawn.wql[:, first] - drawn.wql[:, second], INTERVAL_PCT) + shift
        )
        if drawn.widening > 1:
            low, high = (exact + drawn.widening * (end - exact) for end in (low, high))
        return exact, float(low), float(high)

    def squared_error(self, model: str, other: str) -> tuple[float, float]:
        """The ends of the interval of the squared error of ``model`` less that of ``other``, as
        shares of that of ``other``.
        """
        first, second = self.compared.index(model), self.compared.index(other)
        errors = self.drawn.squared_error
        share = errors[:, first] / errors[:, second] - 1
        low, high = np.nanpercentile(share, INTERVAL_PCT)
        return float(low), float(high)

    def comparison(self, model: str, other: str) -> str:
        difference, low, high = self.difference(model, other)
        return (
            f"WQL {self.wql(model):.3f} against {self.wql(other):.3f} of {other} on {self.extent}, "
            f"difference {difference:+.3f} [{low:+.3f}, {high:+.3f}]{self.drawn.told}"
        )

    def worse_group(self, model: str, other: str) -> str | None:
        """The first group in which ``model`` is more than 2 % worse, with both figures."""
        first, second = self.compared.index(model), self.compared.index(other)
        for group, (cells, wql) in self.groups.items():
            if cells >= MIN_GROUP_CELLS and wql[first] > wql[second] * (1 + GROUP_TOLERANCE):
                return (
                    f"WQL {wql[first]:.3f} against {wql[second]:.3f} of {other} in {_GROUPS[group]}"
                )
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
        or own.drawn.telling < rules.settings.min_interval_parts
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
        undecided, contest, champion, contest.best(m for m in contest.figures if m != champion)
    )
    if rules.settings.mode == "off":
        how = "stays as it was trained" if incumbent else "serves for want of a champion"
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
    return contest.drawn.thin


def _settled(
    verdict: Decision, incumbent: str | None, rules: _Rules, held_until: int | None
) -> Decision:
    """The verdict, unless a person holds the class or has to approve what it would change."""
    champion = incumbent or BASELINE
    is_held = held_until is not None and rules.month <= held_until
    if not is_held and not (verdict.decision == "promoted" and rules.settings.mode == "approve"):
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
    yardstick = incumbent if incumbent in contest.compared else BASELINE
    if yardstick not in contest.compared:
        return _stay(
            undecided, incumbent, f"there is no WQL of {yardstick} to compare with", contest, rules
        )
    refusals = {
        m: _refusal(m, yardstick, contest)
        for m in contest.figures
        if m not in (yardstick, incumbent)
    }
    eligible = [m for m, refusal in refusals.items() if refusal is None]
    best = contest.best(eligible)
    if best is None:
        refused = contest.best(refusals)
        why = f"{refused} {refusals[refused]}" if refused else "there is no other model"
        return _stay(
            _with_difference(undecided, contest, refused, yardstick), incumbent, why, contest, rules
        )
    winner, worse = _cheapest_equivalent(best, (yardstick, *eligible), contest)
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
    reason += worse
    promoted = _with_difference(undecided, contest, winner, yardstick)
    promoted = _with_models(
        promoted, contest, winner, contest.best(m for m in contest.figures if m != winner)
    )
    return replace(
        promoted,
        decision="promoted",
        reason=reason + _left_out(contest, (winner, incumbent)),
        champion_trained_yyyymm=rules.month,
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
        return replace(
            decision,
            decision="refreshed",
            reason=f"{incumbent} stays with the fit of this training{figures}{because}",
        )
    fault = _why_not_compared(incumbent, decision.demand_class, rules)
    reason = f"{incumbent} stays with its former fit, since it {fault}{because}"
    return replace(decision, decision="kept", reason=reason, champion_trained_yyyymm=None)


def _refusal(model: str, yardstick: str, contest: _Contest) -> str | None:
    """Why a model can't be promoted, as what is said of it; None where it can."""
    wql, bias = contest.wql(model), contest.bias(model)
    baseline_wql, yardstick_bias = contest.wql(BASELINE), contest.bias(yardstick) or 0.0
    if missing := contest.missing(model):
        return f"lacks {_count(missing, 'cell')} that other models have"
    if wql is None or bias is None:
        return "has no finite WQL"
    if model != BASELINE and baseline_wql is not None and wql >= baseline_wql:
        return f"has WQL {wql:.3f}, not below {baseline_wql:.3f} of {BASELINE}, on {contest.extent}"
    if abs(bias) > max(BIAS_ALLOWED, abs(yardstick_bias) + BIAS_MARGIN) or bias < MIN_BIAS:
        return (
            f"has bias {bias:+.2f} against {yardstick_bias:+.2f} of {yardstick}, with WQL {wql:.3f}"
        )
    _, low, high = contest.difference(model, yardstick)
    if not high < -ROUNDING:  # NaN, where no sampled part has demand, is no proof either
        return f"is not certain to be better: {contest.comparison(model, yardstick)}"
    if high - low < ROUNDING:
        return (
            "is better by the same share in every draw, so its interval has no width and says"
            f" nothing: {contest.comparison(model, yardstick)}"
        )
    if worse := contest.worse_group(model, yardstick):
        return f"is more than {GROUP_TOLERANCE:.0%} worse in a part of the cells: {worse}"
    return None


def _cheapest_equivalent(
    best: str, candidates: Collection[str], contest: _Contest
) -> tuple[str, str]:
    """The cheapest model that is as good as the best, and what is said of cheaper ones that only
    have its WQL.
    """
    margin = EQUIVALENCE * (contest.wql(best) or 0.0)
    worse = ""
    for model in contest.compared[: contest.compared.index(best)]:
        _, low, high = contest.difference(model, best)
        if model not in candidates or not -margin <= low <= high <= margin:
            continue
        least, most = contest.squared_error(model, best)
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
    _, low, high = contest.difference(model, yardstick)
    if contest.drawn.thin or not high - low >= ROUNDING:
        return decision
    over = contest.drawn.over
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


def telling_parts(part_losses: pd.DataFrame) -> int:
    """Parts that say something of a model: they have demand, or somebody's forecast had a loss."""
    if part_losses.empty:
        return 0
    sums = part_losses.groupby("part_number")[["loss_qty", "actual_qty"]].max()
    return int((sums > 0).any(axis=1).sum())


def _contest(
    segment: str,
    classes: frozenset[str],
    evaluation: pd.DataFrame,
    part_losses: pd.DataFrame,
    contestants: Sequence[Contender],
    sampling: _Sampling,
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
        nothing = np.empty((sampling.draws, 0))
        return _Contest(classes, figures, (), _Drawn(np.empty(0), nothing, nothing), {}, None)

    def own(losses: pd.DataFrame) -> pd.DataFrame:
        return losses[losses["model"].isin(compared) & losses["demand_class"].isin(classes)]

    def matrix(sums: pd.DataFrame, column: str) -> Floats:
        wide = sums[column].unstack("model").reindex(columns=list(compared)).sort_index()
        if wide.empty or wide.isna().to_numpy().any():
            raise ValueError(
                "part_losses lack rows of models that model_evaluation compares in segment"
                f" {segment}"
            )
        return wide.to_numpy(dtype=float)

    losses = own(part_losses)
    by_part = losses.groupby(["part_number", "model"]).sum(numeric_only=True)

    def group(suffix: str) -> tuple[int, Floats]:
        # A group without demand has no WQL: NaN is never worse than anything.
        demand = matrix(by_part, f"actual_qty_{suffix}")[:, 0].sum()
        wql = matrix(by_part, f"loss_qty_{suffix}").sum(axis=0) / (demand if demand > 0 else np.nan)
        return int(matrix(by_part, f"cell_count_{suffix}")[:, 0].sum()), wql

    def sums(of: pd.DataFrame) -> tuple[Floats, Floats, Floats]:
        return (
            matrix(of, "loss_qty"),
            matrix(of, "actual_qty")[:, 0],
            matrix(of, "squared_error"),
        )

    by_month = (
        None
        if sampling.month_losses is None
        else own(sampling.month_losses).groupby(["target_yyyymm", "model"]).sum(numeric_only=True)
    )
    loss, actual, _ = of_parts = sums(by_part)
    demand = actual.sum() if actual.sum() > 0 else np.nan
    telling = telling_parts(losses)
    drawn = (
        _over_parts(of_parts, telling, sampling)
        if telling >= sampling.settings.min_interval_parts
        else _over_months(None if by_month is None else sums(by_month), telling, sampling)
    )
    return _Contest(
        classes=classes,
        figures=figures,
        compared=compared,
        drawn=drawn,
        groups={suffix: group(suffix) for suffix in _GROUPS},
        oracle_wql=float(loss.min(axis=1).sum() / demand),
    )


def _over_parts(sums: tuple[Floats, Floats, Floats], telling: int, sampling: _Sampling) -> _Drawn:
    """Draws of parts. sums: loss, actual and squared error, by part and model, demand by part."""
    weights = _parts_drawn(len(sums[0]), sampling.draws, sampling.seed)
    return _of_draws(sums, weights, telling)


def _over_months(
    sums: tuple[Floats, Floats, Floats] | None, telling: int, sampling: _Sampling
) -> _Drawn:
    """Draws of months in blocks as long as the horizon, for evidence of few parts. sums: loss,
    actual and squared error, as _over_parts takes them, by month; None where they were not made.

    The intervals are widened as Hesterberg (2015) widens the percentile interval of few values, to
    that of Student's t: of six blocks without a difference then one in forty lies below zero.
    """
    settings, block = sampling.settings, sampling.horizon
    months = len(sums[0]) if sums is not None else 0
    blocks = months // block
    if sums is None or blocks < settings.min_interval_blocks:
        nothing = np.full((1, sums[0].shape[1] if sums is not None else 0), np.nan)
        return _Drawn(
            nothing[0],
            nothing,
            nothing,
            telling=telling,
            thin=_too_few(telling, months, sampling),
        )
    from scipy.special import ndtri, stdtrit

    level = INTERVAL_PCT[1] / 100
    widening = float(stdtrit(blocks - 1, level) / ndtri(level) * np.sqrt(blocks / (blocks - 1)))
    told = f" over {months} months" + (f" in blocks of {block}" if block > 1 else "")
    weights = _months_drawn(months, block, sampling.draws, sampling.seed)
    return replace(
        _of_draws(sums, weights, telling),
        over="months",
        widening=widening,
        told=told,
    )


def _too_few(telling: int, months: int, sampling: _Sampling) -> str:
    """What an interval over parts, and one over months, need and do not have."""
    settings, block = sampling.settings, sampling.horizon
    needed = settings.min_interval_blocks * block
    origins = needed - block + 1
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


def _of_draws(
    sums: tuple[Floats, Floats, Floats], weights: Iterable[Floats], telling: int
) -> _Drawn:
    loss, actual, squared_error = sums
    drawn_loss, drawn_actual, drawn_squared_error = _bootstrap(
        (loss, actual[:, None], squared_error), weights
    )
    demand = actual.sum() if actual.sum() > 0 else np.nan
    return _Drawn(
        sampled_wql=loss.sum(axis=0) / demand,
        wql=drawn_loss / np.where(drawn_actual > 0, drawn_actual, np.nan),
        squared_error=np.where(drawn_squared_error > 0, drawn_squared_error, np.nan),
        telling=telling,
    )


def _figures(row: Mapping[Hashable, Any]) -> _Figures:
    wql, bias, rmse = (
        float(row[name]) if pd.notna(row[name]) and np.isfinite(row[name]) else None
        for name in ("wql", "bias", "rmse")
    )
    counts = (int(row[name]) for name in ("cell_count", "part_count", "missing_cell_count"))
    return _Figures(wql, bias, rmse, float(row["actual_qty"]), *counts)


def _bootstrap(sums: Sequence[Floats], weights: Iterable[Floats]) -> list[Floats]:
    """Sums [draw, column] of each array [unit, column] over units that are drawn with replacement;
    all see the same draws. weights: [draw, unit], piece by piece.

    Paired percentile bootstrap (Efron and Tibshirani 1993).
    """
    drawn: list[list[Floats]] = [[] for _ in sums]
    for piece in weights:
        for values, chunks in zip(sums, drawn, strict=True):
            chunks.append(piece @ values)
    return [np.concatenate(chunks) for chunks in drawn]


def _parts_drawn(parts: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each part is drawn: as many as there are, one by one."""
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_WEIGHTS // parts)
    for first in range(0, draws, step):
        yield np.stack(
            [
                np.bincount(generator.integers(parts, size=parts), minlength=parts)
                for _ in range(min(step, draws - first))
            ]
        ).astype(float)


def _months_drawn(months: int, block: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each month is drawn: as many as there are, in blocks of neighbours, the first
    following the last (circular block bootstrap, Politis and Romano 1992).
    """
    generator = np.random.default_rng(seed)
    starts = generator.integers(months, size=(draws, -(-months // block)))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :months] % months
    yield np.stack([np.bincount(row, minlength=months) for row in drawn]).astype(float)
