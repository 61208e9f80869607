"""History replayed month by month: when each policy would have trained, what that costs, and how
good its forecasts would have been.

Every month is trained once, in a lakehouse of its own that knows no later month; a policy then
serves each origin by the version that it would have had. Whether a month is trained again lies in
watch/retraining.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from medallion_assets import definitions
from medallion_assets.bench import scoring
from medallion_assets.bench.holdout import at_month, cut_orders, of_cut_orders, refuse_used
from medallion_assets.champion.decisions import serving_version
from medallion_assets.complete import evidence_of
from medallion_assets.operations import runs
from medallion_assets.partitions import add_months, month_index, month_range
from medallion_assets.tables import (
    CHAMPION,
    DECILES,
    DEMAND_DRIFT,
    DEMAND_FEATURES,
    MONTHLY_DEMAND,
    ZOO_FORECAST,
)
from medallion_assets.watch.retraining import decide
from medallion_assets.zoo.reading import window
from medallion_assets.zoo.registry import enabled
from medallion_assets.zoo.serving import HISTORY_COLUMNS
from resources.lakehouse import DeltaLakehouse
from resources.settings import Settings
from resources.tracking import Tracking

DEFAULT = "default"
Served = Mapping[int, int]  # of each origin the month that its version was trained in


def replay(  # noqa: PLR0913, PLR0917 - the options of `medallion replay`
    settings: Settings,
    first: int,
    last: int,
    horizon: int,
    every: Sequence[int],
    out: Path,
    console: Console,
) -> None:
    """Replay the origins ``first`` ... ``last`` and write replay.json; the months after ``last``
    through the horizon must be there.

    Policies: never (trained at ``first`` alone), always, each ``n`` of ``every`` months, and the
    default of the configuration. Raises Refused for a used folder.
    """
    refuse_used(out)
    content = settings.content()
    content["forecast"]["horizon"] = horizon
    orders = (out / "orders").absolute()
    content |= of_cut_orders(content, orders, out)
    origins = month_range(first, last)
    for after, month in zip([None, *origins], [*origins, add_months(last, horizon)], strict=True):
        cut_orders(settings, after, month, orders)
        known = at_month(content, month, out)
        with runs.session(known, console) as session:
            session.execute("register_deliveries", [int(definitions.newest_partition(known))])
            session.execute(
                "monthly_data",
                [settings.first_month if after is None else add_months(after, 1), month],
            )
            if month in origins:
                session.execute("retraining", [month])
    with runs.session(known, console) as session:
        policies = served_by_policy(origins, every, runs.reader(known).rows(DEMAND_DRIFT), known)
        rows = _forecasts(runs.reader(known), known, session.tracking(), policies)
    _finish(rows, policies, known, out, console)


def served_by_policy(
    origins: Sequence[int], every: Sequence[int], drift: pd.DataFrame, settings: Settings
) -> dict[str, Served]:
    """For each policy, the month in which each origin's version was trained. drift: rows of
    gold.demand_drift.
    """
    policies: dict[str, Served] = {
        "never": dict.fromkeys(origins, origins[0]),
        "always": {month: month for month in origins},
    }
    for n in every:
        policies[f"every {n} months"] = {
            month: origins[place - place % n] for place, month in enumerate(origins)
        }
    former: list[dict[str, Any]] = []
    trained = origins[0]
    by_default = {trained: trained}
    for number, month in enumerate(origins[1:], 1):
        made = decide(
            month, {"all": trained}, drift[drift["yyyymm"] <= month], pd.DataFrame(former), settings
        )
        former.append(
            made._asdict()
            | {
                "decision_number": number,
                "evidence_months": json.dumps(made.evidence_months),
            }
        )
        trained = month if made.decision == "retrain" else trained
        by_default[month] = trained
    return policies | {DEFAULT: by_default}


def fitted_origins(trained: Sequence[int], settings: Settings) -> list[int]:
    """Origins that the trainings of these months fit, each once: their evidence, and themselves."""
    return sorted({o for month in trained for o in (*evidence_of(month, settings), month)})


def _forecasts(
    lakehouse: DeltaLakehouse,
    settings: Settings,
    tracking: Tracking,
    policies: Mapping[str, Served],
) -> pd.DataFrame:
    """unique_id, origin, month (both months since year 0), horizon, model (the policy), forecast
    and deciles.
    """
    decisions = lakehouse.rows(CHAMPION)
    by_version: dict[tuple[int, int | None], pd.DataFrame] = {}
    found = []
    for policy, served in policies.items():
        for origin, trained in served.items():
            version = serving_version(decisions, trained)
            if (origin, version) not in by_version:
                by_version[origin, version] = _forecast(
                    lakehouse, settings, tracking, origin, version
                )
            found.append(by_version[origin, version].assign(model=policy))
    return pd.concat(found, ignore_index=True)


def _forecast(
    lakehouse: DeltaLakehouse,
    settings: Settings,
    tracking: Tracking,
    origin: int,
    version: int | None,
) -> pd.DataFrame:
    """What a version forecasts at an origin on the history through it."""
    assert version is not None  # noqa: S101 - every origin was trained
    demand = lakehouse.rows(
        MONTHLY_DEMAND,
        ["part_number", "yyyymm", "demand_qty", "is_complete"],
        window(settings, origin),
    )
    features = lakehouse.rows(DEMAND_FEATURES, months=[origin])
    history = demand[demand["is_complete"].astype(bool)].merge(
        features, on=["part_number", "yyyymm"], how="left"
    )
    active = features.loc[features["is_active"].astype(bool), "part_number"]
    rows = tracking.registry.load_version(version).forecast(
        history.loc[history["part_number"].isin(active), list(HISTORY_COLUMNS)], origin
    )
    cells = {"month": rows["target_yyyymm"].map(month_index), "origin": month_index(origin)}
    named = rows.rename(columns={"part_number": "unique_id", "forecast_qty": "forecast"}).assign(
        **cells
    )
    return named[["unique_id", "origin", "month", "horizon", "forecast", *DECILES]]


def _finish(
    rows: pd.DataFrame,
    policies: Mapping[str, Served],
    settings: Settings,
    out: Path,
    console: Console,
) -> None:
    """Score the policies on what was sold, write replay.json and print the comparison."""
    lakehouse = runs.reader(settings)
    sold = lakehouse.rows(MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty"])
    sold = sold.assign(month=sold["yyyymm"].map(month_index), y=sold["demand_qty"].clip(lower=0.0))
    demand = sold.rename(columns={"part_number": "unique_id"})[["unique_id", "month", "y"]]
    scored = scoring.scores(demand, rows)
    cost = _fit_seconds(lakehouse, settings)
    content = {}
    table = Table(
        title=f"{len(policies[DEFAULT])} origins, {settings.forecast.horizon} months each"
    )
    for name in ("policy", "trainings", "fit seconds", "WQL", "bias", "trained in"):
        table.add_column(name, justify="left" if name in ("policy", "trained in") else "right")
    for policy, served in policies.items():
        trained = sorted(set(served.values()))
        seconds = sum(cost.get(origin, 0.0) for origin in fitted_origins(trained, settings))
        content[policy] = {"trained": trained, "fit_seconds": round(seconds, 1), **scored[policy]}
        shown = (
            ", ".join(map(str, trained)) if len(trained) <= 12 else f"{trained[0]} to {trained[-1]}"
        )
        figures = (
            f"{len(trained)}",
            f"{seconds:.0f}",
            f"{scored[policy]['wql']:.4f}",
            f"{scored[policy]['bias']:+.3f}",
        )
        table.add_row(policy, *figures, shown)
    (out / "replay.json").write_text(
        json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    console.print(table)


def _fit_seconds(lakehouse: DeltaLakehouse, settings: Settings) -> dict[int, float]:
    """Seconds that the fits of each origin took, all models together."""
    seconds: dict[int, float] = {}
    for spec in enabled(settings):
        for origin, stored in lakehouse.ledger.slices(ZOO_FORECAST, spec.name).items():
            seconds[origin] = seconds.get(origin, 0.0) + float(stored.details["fit_seconds"])
    return seconds
