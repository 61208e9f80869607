"""The backtest: a model fitted at the end of each month and asked for the months that follow.

It decides which origins are missing or stale, runs them in ascending order and stores their slices.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyspark.sql import functions as F

from medallion_assets.complete import complete_months_of, evidence_of
from medallion_assets.plans import NOTHING, Permission, may_lose_rows, plans_behind
from medallion_assets.slices import Outcome, Slices, version_of
from medallion_assets.tables import (
    DELIVERIES,
    DEMAND_FEATURES,
    MONTHLY_DEMAND,
    ZOO_FORECAST,
)
from medallion_assets.work import Work
from medallion_assets.zoo.fitting import Due, Fitting, Prepared, learn_apart
from medallion_assets.zoo.reading import Inputs, ZooReader, window
from medallion_assets.zoo.sampling import draw
from medallion_assets.zoo.spec import LearnsApart, ModelSpec
from resources.lakehouse import Slice
from resources.settings import Settings
from resources.tracking import Tracking

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

UNSAVED_SECONDS = 120.0
# origins that learn while one is completed; more would only hold their inputs in memory
LEARNING_AHEAD = 2
# tag of a run: version of gold.zoo_forecast that holds its rows and the past it saw
EVIDENCE_VERSION = "zoo_forecast_version"


def origins_to_fit(settings: Settings, complete: Sequence[int], month: int) -> list[int]:
    """Origins that a decision in a complete month needs: its evidence and the month itself."""
    return [*evidence_of(month, settings, set(complete)), month]


@dataclass(frozen=True)
class Fit:
    """One origin that is fitted and forecast, but not stored yet. ``logged`` ends when its run
    holds everything.
    """

    origin: int
    run_id: str
    versions: tuple[str, str]
    rows: DataFrame
    details: Mapping[str, Any]
    seconds: float
    logged: Future[None]
    _drawn: dict[float, pd.DataFrame] = field(default_factory=dict)

    def drawn(self, share: float, columns: Sequence[str]) -> pd.DataFrame:
        """Its rows of a share of the parts, collected once for all later origins."""
        if share not in self._drawn:
            self._drawn[share] = draw(self.rows, share).select(*columns).toPandas()
        return self._drawn[share]


@dataclass(frozen=True)
class Backtest:
    """One model's origins."""

    spec: ModelSpec
    work: Work
    tracking: Tracking

    @property
    def reader(self) -> ZooReader:
        """What its fits read."""
        return ZooReader(self.spec, self.work.settings, self.work.lakehouse, self.tracking)

    @property
    def fitting(self) -> Fitting:
        """How it is fitted at an origin."""
        return Fitting(self.spec, self.work, self.reader)

    def run(self, months: Sequence[int], permission: Permission = NOTHING) -> Outcome:
        """Fit the months and the origins of their evidence that are missing or stale, ascending;
        each sees those before it.

        A forced run refits the requested months, not their evidence origins.

        Fits are stored together, in one commit, as soon as fitting them took UNSAVED_SECONDS: that
        is what a killed process loses.
        """
        complete = complete_months_of(self.work.lakehouse.rows(DELIVERIES), self.work.settings)
        slices = Slices(self.work, ZOO_FORECAST, self.spec.name)
        inputs = self.reader.inputs(self.fitting.source.reads)
        unsaved: list[Fit] = []
        due: dict[int, Due] = {}
        for month in sorted(months):
            if month not in complete:
                self.work.log(f"{self.spec.name}: {month} is not complete, not fitted")
                continue
            # Month by month, not origin by origin over all: a range then leaves what so many single
            # runs leave.
            for origin in (
                o for o in origins_to_fit(self.work.settings, complete, month) if o not in due
            ):
                versions, is_training = self._versions(origin, inputs), origin == month
                is_forced = permission.is_forced and is_training
                former = slices.stored.get(origin)
                if is_forced or self._is_due(former, versions, origin, is_training):
                    due[origin] = Due(origin, versions, former, is_training)
                else:
                    slices.keep(origin)
        if due:
            self.tracking.check()
        with (
            ThreadPoolExecutor(max_workers=1) as logger,
            contextlib.closing(self._prepared(list(due.values()))) as prepared,
        ):
            try:
                for ready in prepared:
                    unsaved.append(self._fit(ready, inputs, unsaved, logger))
                    if sum(fit.seconds for fit in unsaved) > UNSAVED_SECONDS:
                        self._store(unsaved, slices, permission)
                self._store(unsaved, slices, permission)
            except BaseException:
                for fit in unsaved:
                    self.tracking.fail(fit.run_id)
                raise
        return slices.outcome()

    def _prepared(self, due: Sequence[Due]) -> Generator[Prepared, None, None]:
        """Each origin with what it is fitted from; where the model learns apart, the next ones
        learn meanwhile.
        """
        waiting: collections.deque[Prepared] = collections.deque()
        try:
            for one in due:
                sample = self.reader.sample(one.origin)
                forecaster = self.spec.forecaster(self.fitting.parameters())
                learning = None
                if isinstance(forecaster, LearnsApart):
                    learning = self.work.lakehouse.engine.begin(
                        functools.partial(learn_apart, forecaster, sample)
                    )
                waiting.append(Prepared(one, sample, forecaster, learning))
                if learning is None or len(waiting) > LEARNING_AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for left in waiting:
                if left.learning:
                    left.learning.cancel()

    def _versions(self, origin: int, inputs: Inputs) -> tuple[str, str]:
        """What the model is (code, parameters, configuration) and the demand it sees, as hashes."""
        f = self.work.settings.forecast
        configured = [
            self.spec.code_version,
            self.fitting.parameters(),
            f.horizon,
            f.training_months,
            f.active_months,
            f.new_part_months,
            f.seed,
        ]
        made_by = version_of(
            *configured,
            DEMAND_FEATURES.code_version,
            MONTHLY_DEMAND.code_version,
            self.work.settings.zoo.max_fit_rows,
        )
        members = [
            s.data_version for slices in inputs.members.values() if (s := slices.get(origin))
        ]
        seen = version_of(
            [
                [m, inputs.demand[m].data_version]
                for m in window(self.work.settings, origin)
                if m in inputs.demand
            ],
            members,
        )
        return self.fitting.source.made_by(made_by, origin, inputs), seen

    def _plans_behind(self, origin: int, inputs: Inputs) -> list[str]:
        """Plans that let something lose rows from which an origin is fitted."""
        read = (inputs.demand, inputs.features, *inputs.members.values())
        months = window(self.work.settings, origin)
        return plans_behind(slices[m] for slices in read for m in months if m in slices)

    def _is_due(
        self, stored: Slice | None, versions: tuple[str, str], origin: int, is_training: bool
    ) -> bool:
        if stored is None or stored.details["made_by"] != versions[0]:
            return True
        if stored.details["seen"] == versions[1]:
            return False
        changed = self.reader.changed_share(origin, stored.details["inputs"][MONTHLY_DEMAND.id])
        limit = 0.0 if is_training else self.work.settings.zoo.restate_share
        self.work.log(
            f"{self.spec.name}: demand through {origin} changed by {changed:.2%} since it was"
            " fitted" + ("" if changed > limit else ", kept")
        )
        return changed > limit

    def _fit(
        self, ready: Prepared, inputs: Inputs, unsaved: Sequence[Fit], logger: ThreadPoolExecutor
    ) -> Fit:
        origin, versions, former = ready.due.origin, ready.due.versions, ready.due.former
        forecaster = ready.forecaster
        identity = {"month": str(origin), "model": self.spec.name}
        killed = self.tracking.end_killed(identity)
        replaces = {"replaces_run_id": former.details["run_id"]} if former else {}
        run_id = self.tracking.start(
            f"{self.spec.name} {origin}",
            {**identity, "family": self.spec.family, **self.work.tags, **replaces},
        )
        if killed:
            self.work.log(
                f"{self.spec.name} {origin}: run {', '.join(killed)} of a process that is gone was"
                " ended as killed"
            )
        started = time.monotonic()
        try:
            known = self.reader.with_past(
                ready.sample,
                inputs,
                {fit.origin: fit.drawn for fit in unsaved},
            )
            fitted, elsewhere = ready.fit(known)
            rows = self.work.lakehouse.engine.hold(
                self.fitting.forecast_rows(forecaster, fitted, origin, inputs)
            )
            figures = rows.agg(
                F.count("*").alias("n"),
                F.avg(F.col("is_fallback").cast("double")).alias("fallback"),
            ).collect()[0]
            seconds = time.monotonic() - started + elsewhere
            past = [known.own_past, *(member.past for member in known.members.values())]
            metrics = {
                "fit_seconds": seconds,
                "forecast_row_count": float(figures["n"]),
                "fallback_share": figures["fallback"],
                "fit_part_count": float(known.demand["part_number"].nunique()),
                "past_cell_count": float(sum(map(len, past))),
            }
            content = self.fitting.content(ready, fitted, run_id, metrics, inputs)
            logged = logger.submit(self.tracking.log, run_id, content)
        except BaseException:
            self.tracking.fail(run_id)
            raise
        details = {
            "made_by": versions[0],
            "seen": versions[1],
            "run_id": run_id,
            "inputs": dict(inputs.versions),
            "past_origins": sorted({int(o) for rows in past if len(rows) for o in rows["origin"]}),
            "fallback_share": figures["fallback"],
            "fit_seconds": round(seconds, 2),
            **({"plans": plans} if (plans := self._plans_behind(origin, inputs)) else {}),
        }
        self.work.log(
            f"{self.spec.name} {origin}: {figures['n']:,} rows in {seconds:.1f} s,"
            f" {figures['fallback'] or 0:.1%} fallback"
        )
        return Fit(origin, run_id, versions, rows, details, seconds, logged)

    def _store(
        self,
        unsaved: list[Fit],
        slices: Slices,
        permission: Permission,
    ) -> None:
        """Write the slices of fits whose runs hold everything, mark the runs, record the slices;
        ``unsaved`` is empty then.
        """
        fits = list(unsaved)
        if not fits:
            return
        for fit in fits:
            fit.logged.result()
        stamped = (
            fit.rows.withColumns({"fit_seconds": F.lit(fit.seconds), "run_id": F.lit(fit.run_id)})
            for fit in fits
        )
        rows = functools.reduce(lambda left, right: left.unionByName(right), stamped)
        origins = [fit.origin for fit in fits]
        plans = {fit.origin: fit.details.get("plans", ()) for fit in fits}
        may_remove = permission.may_remove or may_lose_rows(slices.stored, plans)
        result = self.work.lakehouse.merge(
            ZOO_FORECAST, rows, origins, self.spec.name, may_remove=may_remove, is_held=True
        )
        unsaved.clear()
        for fit in fits:
            self.work.lakehouse.engine.release(fit.rows)
            self.tracking.commit(fit.run_id, {EVIDENCE_VERSION: str(result.delta_version)})
        # Recorded last: a process that dies before leaves the origins due, and the next run ends
        # the runs it left open.
        slices.record(
            {fit.origin: result.months[fit.origin] for fit in fits},
            {fit.origin: version_of(*fit.versions) for fit in fits},
            result.delta_version,
            {fit.origin: {**fit.details, **permission.noted(plans[fit.origin])} for fit in fits},
        )
