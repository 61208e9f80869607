"""A model's run made again from what it pinned: Delta versions, parameters and seed; compared
forecast by forecast.

Nothing is stored. Where the numbers differ, or can't be made, the input that changed is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from medallion_assets.partitions import month_range
from medallion_assets.tables import DECILES, DEMAND_FEATURES, MONTHLY_DEMAND, ZOO_FORECAST
from medallion_assets.work import Work
from medallion_assets.zoo.backtest import EVIDENCE_VERSION, Backtest
from medallion_assets.zoo.fitting import input_table
from medallion_assets.zoo.registry import model
from medallion_assets.zoo.spec import ModelSpec, Parameters
from resources.errors import Refused
from resources.lakehouse import DeltaLakehouse, content_versions
from resources.provenance import git_commit, library_versions
from resources.settings import Settings
from resources.tracking import COMMITTED, MlflowTracking, StoredRun

EQUAL = 1e-9  # relative to the larger number: sums over threads may differ in the last digits
NUMBERS = ("forecast_qty", *DECILES)


@dataclass(frozen=True)
class Reproduction:
    """What came of it. ``largest_difference`` is relative; ``changed`` names inputs that are not
    what the run had.
    """

    run_id: str
    model: str
    origin: int
    cells: int
    missing_cells: int
    largest_difference: float
    differing_cells: int
    changed: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        return not self.missing_cells and self.largest_difference <= EQUAL


@dataclass(frozen=True)
class _Stored:
    """A model's fit as it was stored: its run, its model and its origin."""

    run: StoredRun
    spec: ModelSpec
    origin: int


def reproduce(
    settings: Settings,
    lakehouse: DeltaLakehouse,
    tracking: MlflowTracking,
    run_id: str,
    log: Callable[[str], None],
) -> Reproduction:
    """Fit the model of a run again and compare all its forecasts.

    Raises Refused for a run that is no committed fit, and where a pinned version is no longer
    readable, with the nearest run that is.
    """
    tracking.check()
    run = tracking.run(run_id)
    fit = _fit(run, settings)
    names = {lakehouse.name(table): table.id for table in (MONTHLY_DEMAND, DEMAND_FEATURES)}
    pins = {names[name]: version for name, version in run.input_versions.items() if name in names}
    pins[ZOO_FORECAST.id] = int(run.tags[EVIDENCE_VERSION])
    log(
        f"{fit.spec.name} {fit.origin}: "
        + ", ".join(f"{table} version {version}" for table, version in sorted(pins.items()))
    )
    pinned = lakehouse.at(pins)
    stored = _stored_rows(pinned, fit, lakehouse)
    again = _as_of(settings, run)
    parameters, changed = _parameters(fit)
    backtest = Backtest(fit.spec, Work(again, pinned, "", log), tracking)
    made = backtest.fitting.again(fit.origin, parameters)
    made = made.select("part_number", "horizon", *NUMBERS).toPandas()
    return _compared(fit, stored, made, [*_moved(run), *changed, *_other_rows(pinned, run)])


def _fit(run: StoredRun, settings: Settings) -> _Stored:
    if "model" not in run.tags:
        held = (
            f"; it is of kind {run.tags['kind']}, and holds fits of other runs"
            if "kind" in run.tags
            else ""
        )
        raise Refused(f"run {run.run_id} is not a model's fit{held}")
    if run.tags.get(COMMITTED) != "true" or EVIDENCE_VERSION not in run.tags:
        raise Refused(
            f"run {run.run_id} never came to a stored slice, so there is nothing to compare with"
        )
    if run.tags["model"] in settings.given_forecasts:
        raise Refused(
            f"run {run.run_id}: {run.tags['model']} was made elsewhere; silver.given_forecast says"
            " from which file and line each of its numbers was read"
        )
    try:
        return _Stored(run, model(run.tags["model"]), int(run.tags["month"]))
    except ValueError as error:
        raise Refused(f"run {run.run_id}: {error}; this release can't fit it again") from error


def _stored_rows(pinned: DeltaLakehouse, fit: _Stored, lakehouse: DeltaLakehouse) -> pd.DataFrame:
    columns = ["part_number", "horizon", *NUMBERS, "run_id"]
    try:
        rows = pinned.rows(ZOO_FORECAST, columns, [fit.origin], [fit.spec.name])
        pinned.rows(MONTHLY_DEMAND, ["yyyymm"], [fit.origin])
    except Refused as error:
        newest = lakehouse.ledger.slices(ZOO_FORECAST, fit.spec.name)
        near = min(newest, key=lambda month: abs(month - fit.origin), default=None)
        hint = (
            f"; the nearest fit that can be is {newest[near].details['run_id']} of {near}"
            if near is not None
            else ""
        )
        raise Refused(f"run {fit.run.run_id} can't be reproduced: {error}{hint}") from error
    return rows[rows["run_id"] == fit.run.run_id]


def _as_of(settings: Settings, run: StoredRun) -> Settings:
    """The settings with what the run says of horizon, seed and windows."""
    known = {
        name: int(run.parameters[name])
        for name in ("horizon", "seed", "active_months")
        if name in run.parameters
    }
    return settings.model_copy(update={"forecast": settings.forecast.model_copy(update=known)})


def _parameters(fit: _Stored) -> tuple[Parameters, list[str]]:
    """The model's parameters as the run logged them, and what this release knows otherwise."""
    known = fit.spec.parameters
    logged = {
        name: _like(fit.run.parameters[name], default)
        for name, default in known.items()
        if name in fit.run.parameters
    }
    absent = sorted(set(known) - set(logged))
    return {**known, **logged}, [f"parameter {name}: the run did not have it" for name in absent]


def _like(text: str, default: bool | float | str) -> bool | int | float | str:
    return text == "True" if isinstance(default, bool) else type(default)(text)


def _other_rows(pinned: DeltaLakehouse, run: StoredRun) -> list[str]:
    """Tables whose pinned version does not hold the rows that the ledger had for the run: changed
    by another writer, or rebuilt since.
    """
    first, last = (int(run.parameters[f"training_{end}_month"]) for end in ("first", "last"))
    told = []
    for table in (MONTHLY_DEMAND, DEMAND_FEATURES):
        recorded = {
            m: s.data_version
            for m, s in sorted(pinned.ledger.slices(table).items())
            if first <= m <= last
        }
        found = dict.fromkeys(recorded, "0-0") | content_versions(
            pinned, table, month_range(first, last)
        )
        if (
            input_table(pinned, table, pinned.version(table), dict(sorted(found.items()))).digest
            != run.input_digests[pinned.name(table)]
        ):
            months = [str(m) for m in found if found[m] != recorded.get(m)]
            which = f" of {', '.join(months)}" if months else ""
            told.append(
                f"{table.id} version {pinned.version(table)}: rows{which} are not those recorded"
                " when the run read it"
            )
    return told


def _moved(run: StoredRun) -> list[str]:
    """Commit and libraries that are not those of the run."""
    now = {"git_commit": git_commit(), "libraries": library_versions()}
    return [
        f"{name}: {_changed(run.tags[name], value)}"
        for name, value in now.items()
        if run.tags.get(name, value) != value
    ]


def _changed(then: str, now: str) -> str:
    before, after = then.split(", "), now.split(", ")
    return (
        f"{', '.join(b for b in before if b not in after)} then,"
        f" {', '.join(a for a in after if a not in before)} now"
    )


def _compared(
    fit: _Stored, stored: pd.DataFrame, made: pd.DataFrame, changed: list[str]
) -> Reproduction:
    both = stored.merge(
        made, on=["part_number", "horizon"], how="outer", suffixes=("_then", "_now"), indicator=True
    )
    matched = both[both["_merge"] == "both"]
    then = matched[[f"{name}_then" for name in NUMBERS]].to_numpy(dtype=float)
    now = matched[[f"{name}_now" for name in NUMBERS]].to_numpy(dtype=float)
    largest = np.maximum(np.maximum(np.abs(then), np.abs(now)), 1e-12)
    difference = (np.abs(then - now) / largest).max(axis=1) if len(matched) else np.zeros(0)
    counts = len(matched), len(both) - len(matched)
    largest_found, differing = float(difference.max(initial=0.0)), int((difference > EQUAL).sum())
    identity = fit.run.run_id, fit.spec.name, fit.origin
    return Reproduction(*identity, *counts, largest_found, differing, changed)
