"""Whether the champion is trained again: one decision a month, nothing, watch or retrain, with its
reason. Pure.

The rows of gold.retraining_decision are made of it, sensors act on those, and so does a benchmark
that releases its months one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

import pandas as pd

from medallion_assets.complete import evidence_of
from medallion_assets.partitions import add_months, month_index, month_range
from resources.settings import Settings

DRIFT_COLUMNS = ("yyyymm", "feature", "statistic", "p_value", "is_drift")
NAMED_FIGURES = 3


class Verdict(NamedTuple):
    """Whether a training is due, and the figures that say so."""

    is_due: bool
    evidence: str


class Decision(NamedTuple):
    """What is to be done about the champion in a month.

    ``cause``: drift, training_lag or first_training of a retraining, else None.
    ``evidence_months``: months whose drift it rests on, which no later retraining may rest on.
    ``training_lag_months``: from the oldest champion's training to the month; None without one.
    """

    yyyymm: int
    decision: Literal["nothing", "watch", "retrain"]
    cause: str | None
    reason: str
    evidence_months: tuple[int, ...]
    training_lag_months: int | None


def decide(
    month: int,
    trained: Mapping[str, int],
    verdicts: pd.DataFrame,
    former: pd.DataFrame,
    settings: Settings,
) -> Decision:
    """What to do about the champion in ``month``, the newest complete one.

    trained: ``decisions.trained_months``. verdicts: rows of gold.demand_drift, DRIFT_COLUMNS, of at
    least the last ``drift_window_months``. former: rows of gold.retraining_decision.

    Training that lags too far, or a first one that can be had, is a retraining. So is drift in
    ``drift_months`` of the last ``drift_window_months`` months, this one among them, unless a
    champion was trained within the cooldown; months that a champion was trained on, or that an
    earlier month's retraining rested on, do not count.
    """
    lag = month_index(month) - month_index(min(trained.values())) if trained else None
    due = training_lag(month, trained, settings)
    if due.is_due:
        return Decision(
            month, "retrain", "training_lag" if trained else "first_training", due.evidence, (), lag
        )
    if verdicts[verdicts["yyyymm"] == month].empty:
        return Decision(
            month, "nothing", None, f"drift of {month} is not computed yet; {due.evidence}", (), lag
        )
    monitoring = settings.monitoring
    window = month_range(add_months(month, 1 - monitoring.drift_window_months), month)
    drifted = sorted(
        {int(m) for m in verdicts.loc[verdicts["is_drift"].astype(bool), "yyyymm"]} & set(window)
    )
    if month not in drifted:
        earlier = (
            f" ({len(drifted)} of the {len(window) - 1} months before drifted)" if drifted else ""
        )
        return Decision(
            month, "nothing", None, f"no drift in {month}{earlier}; {due.evidence}", (), lag
        )
    newest = max(trained.values(), default=0)
    counted = tuple(m for m in drifted if m > newest and m not in _used(month, former))
    votes = (
        f"drift in {len(counted)} of the last {len(window)} months, {monitoring.drift_months} are"
        " needed"
    )
    told = f"{_figures(month, verdicts)}; {votes}"
    if not trained:
        return Decision(
            month, "watch", None, f"{told}; no champion yet, {due.evidence}", counted, lag
        )
    if month_index(month) - month_index(newest) <= monitoring.drift_cooldown_months:
        wait = (
            f"a champion was trained in {newest}, and drift trains none within"
            f" {monitoring.drift_cooldown_months} months after that"
        )
        return Decision(month, "watch", None, f"{told}; {wait}", counted, lag)
    if len(counted) < monitoring.drift_months or month not in counted:
        known = (
            f"; {', '.join(map(str, used))} led to a retraining before"
            if (used := sorted(set(drifted) - set(counted)))
            else ""
        )
        return Decision(month, "watch", None, f"{told}{known}", counted, lag)
    return Decision(month, "retrain", "drift", told, counted, lag)


def training_lag(month: int, trained: Mapping[str, int], settings: Settings) -> Verdict:
    """Whether training lags ``month``, the newest complete one, too far; without a champion,
    whether a first one can be found.

    trained: ``decisions.trained_months``.
    """
    if trained:
        oldest, limit = min(trained.values()), settings.monitoring.max_training_lag_months
        lag = month_index(month) - month_index(oldest)
        text = (
            f"newest complete month {month}, oldest champion trained in {oldest}: lag {lag} months,"
            f" limit {limit}"
        )
        return Verdict(lag > limit, text)
    # Enough history is what lets a training promote anybody: the least number of evidence origins.
    f = settings.forecast
    count = len(evidence_of(month, settings))
    text = (
        f"no champion yet, newest complete month {month} has {count} evidence origins, {f.k_min}"
        " are needed"
    )
    return (
        Verdict(True, text)
        if count >= f.k_min
        else Verdict(False, f"{text}; seasonal_naive is served until then")
    )


def last_decision(rows: pd.DataFrame) -> Mapping[str, object] | None:
    """The newest row of gold.retraining_decision; None without one."""
    return None if rows.empty else rows.sort_values("decision_number").iloc[-1].to_dict()


def _used(month: int, former: pd.DataFrame) -> set[int]:
    """Months that retrainings of other months rest on. A month that is decided upon again may use
    its own once more.
    """
    if former.empty:
        return set()
    retrained = former[(former["decision"] == "retrain") & (former["yyyymm"] != month)]
    return {int(m) for text in retrained["evidence_months"] for m in json.loads(text)}


def _figures(month: int, verdicts: pd.DataFrame) -> str:
    """The figures of a month that drifted, the most unlikely first."""
    found = verdicts[(verdicts["yyyymm"] == month) & verdicts["is_drift"].astype(bool)]
    ranked = found.assign(size=found["statistic"].abs()).sort_values(
        ["p_value", "size", "feature"], ascending=[True, False, True]
    )
    named = [
        f"{row.feature} z {row.statistic:+.1f} (p {row.p_value:.2f})"
        for row in ranked.head(NAMED_FIGURES).itertuples()
    ]
    more = f" and {len(found) - NAMED_FIGURES} more" if len(found) > NAMED_FIGURES else ""
    return f"{month}: {', '.join(named)}{more}"
