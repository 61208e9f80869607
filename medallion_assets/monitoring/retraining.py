"""When the champion is trained again: pure verdicts of the default policy, freshness and drift, each with its evidence as text.

Sensors act on them month by month, and so does a benchmark that releases its months one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from medallion_assets.partitions import evidence_origins, month_index
from resources.settings import Settings

DRIFT_COLUMNS = ("yyyymm", "feature", "statistic", "threshold", "is_drift")


class Verdict(NamedTuple):
    """Whether a training is due, and the figures that say so."""

    is_due: bool
    evidence: str


def freshness(month: int, trained: Mapping[str, int], settings: Settings) -> Verdict:
    """Whether training lags ``month``, the newest complete one, too far; without a champion, whether a first one can be found.

    trained: ``decisions.trained_months``.
    """
    if trained:
        oldest, limit = min(trained.values()), settings.monitoring.max_training_lag_months
        lag = month_index(month) - month_index(oldest)
        text = f"newest complete month {month}, oldest champion trained in {oldest}: lag {lag} months, limit {limit}"
        return Verdict(lag > limit, text)
    # Enough history is what lets a training promote anybody: the least number of evidence origins.
    f = settings.forecast
    count = len(evidence_origins(month, f.horizon, f.origins, settings.first_month, f.min_history))
    text = f"no champion yet, newest complete month {month} has {count} evidence origins, {f.k_min} are needed"
    return Verdict(True, text) if count >= f.k_min else Verdict(False, f"{text}; seasonal_naive is served until then")


def drift(month: int, trained: Mapping[str, int], verdicts: pd.DataFrame, settings: Settings) -> Verdict:
    """Whether ``month`` looks so unlike its past that training is due, the champion being old enough to have missed it.

    verdicts: rows of gold.demand_drift of the month, DRIFT_COLUMNS.
    """
    if verdicts.empty:
        return Verdict(False, f"{month} is complete, but its drift is not computed yet; the monthly job does that")
    drifted = verdicts[verdicts["is_drift"].astype(bool)].sort_values("feature")
    if drifted.empty:
        return Verdict(False, f"no drift in {month}: {len(verdicts)} figures looked at")
    figures = (f"{row.feature} z {row.statistic:+.1f} (drift from {row.threshold:g})" for row in drifted.itertuples())
    evidence = f"{month}: {', '.join(figures)}"
    if not trained:
        return Verdict(False, f"drift in {evidence}; no champion yet, whose first training the freshness sensor requests")
    newest, cooldown = max(trained.values()), settings.monitoring.drift_cooldown_months
    if month_index(month) - month_index(newest) <= cooldown:
        return Verdict(False, f"drift in {evidence}; the champion was trained in {newest}, less than {cooldown + 1} months before")
    return Verdict(True, evidence)
