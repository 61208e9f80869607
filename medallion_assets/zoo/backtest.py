"""The backtest: a model fitted at the end of each month and asked for the months that follow, its
slices stored.

It decides which origins are missing or stale and runs them in ascending order; models lie in their
families.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
from pyspark.sql import functions as F

from medallion_assets import plots
from medallion_assets.complete import complete_months_of
from medallion_assets.partitions import add_months, evidence_origins, month_range
from medallion_assets.plans import NOTHING, Permission
from medallion_assets.table_asset import Outcome, version_of
from medallion_assets.tables import (
    DECILES,
    DELIVERIES,
    DEMAND_FEATURES,
    MONTHLY_DEMAND,
    ZOO_FORECAST,
    TableSpec,
)
from medallion_assets.zoo.buckets import apply_by_bucket, with_bucket
from medallion_assets.zoo.calibration import ORIGIN_FEATURES
from medallion_assets.zoo.serving import (
    FEATURE_COLUMNS,
    TEXT_FEATURES,
    DemandForecaster,
    ServedModel,
    unpacked,
)
from medallion_assets.zoo.spec import (
    FORECAST_COLUMNS,
    Fitted,
    FittedMembers,
    Forecaster,
    LearnsApart,
    ModelSpec,
    Parameters,
    Range,
)
from medallion_assets.zoo.tuning import tune
from resources.errors import Refused
from resources.lakehouse import Lakehouse, MonthWritten, Slice
from resources.settings import Settings
from resources.tracking import InputTable, RunContent, Tracking
from resources.workers import Begun

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

UNSAVED_SECONDS = 120.0
LEARNING_AHEAD = (
    2  # origins that learn while one is completed; more would only hold their inputs in memory
)
# tag of a run: version of gold.zoo_forecast that holds its rows and the past it saw
EVIDENCE_VERSION = "zoo_forecast_version"
FORECAST_DDL = (
    "part_number STRING, horizon INT, forecast_qty DOUBLE, "
    + ", ".join(f"{d} DOUBLE" for d in DECILES)
    + ", is_fallback BOOLEAN"
)


def packed_history(lakehouse: Lakehouse, settings: Settings, origin: int) -> DataFrame:
    """What models see at an origin of all active parts, one row per part as ``unpacked`` takes it:
    demand and features.
    """
    known = (
        lakehouse.read(MONTHLY_DEMAND, window(settings, origin))
        .where("is_complete")
        .select("part_number", "yyyymm", "demand_qty")
    )
    demand = known.groupBy("part_number").agg(
        F.sort_array(F.collect_list(F.struct("yyyymm", "demand_qty"))).alias("months")
    )
    features = (
        F.col(name).cast("string" if name in TEXT_FEATURES else "double").alias(name)
        for name in FEATURE_COLUMNS
    )
    return (
        active_parts(lakehouse, origin)
        .join(demand, "part_number")
        .select(
            "part_number",
            F.col("yyyymm").cast("bigint").alias("yyyymm"),
            *features,
            F.col("months.yyyymm").cast("array<bigint>").alias("demand_months"),
            F.col("months.demand_qty").cast("array<double>").alias("demand_quantities"),
        )
    )


def active_parts(
    lakehouse: Lakehouse, origin: int, classes: Sequence[str] | None = None
) -> DataFrame:
    """The features of all active parts (of some classes) at an origin."""
    features = lakehouse.read(DEMAND_FEATURES, [origin]).where("is_active")
    return (
        features if classes is None else features.where(F.col("demand_class").isin(list(classes)))
    )


def window(settings: Settings, origin: int) -> list[int]:
    """Months of history that a model sees at an origin."""
    return month_range(
        max(settings.first_month, add_months(origin, 1 - settings.forecast.training_months)), origin
    )


def trained_months(settings: Settings, complete: Sequence[int], month: int) -> list[int]:
    """Origins that a decision in a month needs: its evidence and the month itself, as far as they
    are complete.
    """
    wanted = [
        *evidence_origins(
            month,
            settings.forecast.horizon,
            settings.forecast.origins,
            settings.first_month,
            settings.forecast.min_history,
        ),
        month,
    ]
    return [origin for origin in wanted if origin in set(complete)]


@dataclass(frozen=True)
class _Inputs:
    """What a run reads of the ledger and the log, once: slices by month of demand, features and
    members, versions by table id.
    """

    demand: Mapping[int, Slice]
    features: Mapping[int, Slice]
    members: Mapping[str, Mapping[int, Slice]]
    versions: Mapping[str, int]


@dataclass(frozen=True)
class _Fit:
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

    def drawn(self, lakehouse: Lakehouse, share: float, columns: Sequence[str]) -> pd.DataFrame:
        """Its rows of a share of the parts, collected once for all later origins."""
        if share not in self._drawn:
            self._drawn[share] = lakehouse.drawn(self.rows, share).select(*columns).toPandas()
        return self._drawn[share]


@dataclass(frozen=True)
class _Due:
    """An origin to be fitted: hashes of what the model is and sees, what is stored of it, whether
    it is a month that was asked for.
    """

    origin: int
    versions: tuple[str, str]
    former: Slice | None
    is_training: bool


@dataclass(frozen=True)
class _Prepared:
    """An origin with what it is fitted from. ``learning`` gives what is learned meanwhile, with its
    seconds; None for most models.
    """

    due: _Due
    demand: pd.DataFrame
    features: pd.DataFrame
    tuned: Mapping[str, Any]
    forecaster: Forecaster
    learning: Begun[tuple[Any, float]] | None

    def fitted(self, past: pd.DataFrame, horizon: int, seed: int) -> tuple[Fitted, float]:
        """The fit, and the seconds that it took elsewhere beyond those that passed here."""
        if self.learning is None:
            return (
                self.forecaster.fit(
                    self.demand, self.features, past, self.due.origin, horizon, seed
                ),
                0.0,
            )
        started = time.monotonic()
        learned, seconds = self.learning.result()
        waited = time.monotonic() - started
        return (
            cast(LearnsApart, self.forecaster).calibrated(learned, past, self.features),
            seconds - waited,
        )


def _learned(
    forecaster: LearnsApart,
    demand: pd.DataFrame,
    features: pd.DataFrame,
    origin: int,
    horizon: int,
    seed: int,
) -> tuple[Any, float]:
    started = time.monotonic()
    return forecaster.learn(demand, features, origin, horizon, seed), time.monotonic() - started


@dataclass(frozen=True)
class Backtest:
    """One model's origins."""

    spec: ModelSpec
    settings: Settings
    lakehouse: Lakehouse
    tracking: Tracking
    tags: Mapping[str, str]
    dagster_run_id: str
    log: Callable[[str], None]

    def run(self, months: Sequence[int], permission: Permission = NOTHING) -> Outcome:
        """Fit the months and the origins of their evidence that are missing or stale, ascending;
        each sees those before it.

        Where it is forced the months are fitted again, their evidence is not.

        Fits are stored together, in one commit, as soon as fitting them took UNSAVED_SECONDS: that
        is what a killed process loses.
        """
        started = time.monotonic()
        complete = complete_months_of(self.lakehouse.rows(DELIVERIES), self.settings)
        stored = self.lakehouse.slices(ZOO_FORECAST, self.spec.name)
        inputs = self._inputs()
        slices: dict[int, Slice] = {}
        written: dict[int, MonthWritten] = {}
        unsaved: list[_Fit] = []
        due: dict[int, _Due] = {}
        for month in sorted(months):
            if month not in complete:
                self.log(f"{self.spec.name}: {month} is not complete, not fitted")
                continue
            # Month by month, not origin by origin over all: a range then leaves what so many single
            # runs leave.
            for origin in (
                o for o in trained_months(self.settings, complete, month) if o not in due
            ):
                versions, is_training = self._versions(origin, inputs), origin == month
                is_forced = permission.is_forced and is_training
                if is_forced or self._is_due(stored.get(origin), versions, origin, is_training):
                    due[origin] = _Due(origin, versions, stored.get(origin), is_training)
                    slices.pop(origin, None)
                elif origin in stored:
                    slices[origin] = stored[origin]
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
                        self._store(unsaved, slices, written, permission)
                self._store(unsaved, slices, written, permission)
            except BaseException:
                for fit in unsaved:
                    self.tracking.fail(fit.run_id)
                raise
        return Outcome(slices, written, time.monotonic() - started)

    def _prepared(self, due: Sequence[_Due]) -> Generator[_Prepared, None, None]:
        """Each origin with what it is fitted from; where the model learns apart, the next ones
        learn meanwhile.
        """
        known = {
            origin: s.details
            for origin, s in self.lakehouse.slices(ZOO_FORECAST, self.spec.name).items()
        }
        waiting: collections.deque[_Prepared] = collections.deque()
        try:
            for one in due:
                demand, features = self._sample(one.origin)
                tuned = self._tuned(one, demand, features, known)
                known[one.origin] = {
                    "made_by": one.versions[0],
                    **({"tuned": tuned} if tuned else {}),
                }
                forecaster = self.spec.forecaster(
                    {**self.parameters(), **tuned.get("parameters", {})}
                )
                learning = None
                if hasattr(forecaster, "learn"):
                    f = self.settings.forecast
                    arguments = demand, features, one.origin, f.horizon, f.seed
                    learning = self.lakehouse.engine.begin(
                        functools.partial(_learned, cast(LearnsApart, forecaster), *arguments)
                    )
                waiting.append(_Prepared(one, demand, features, tuned, forecaster, learning))
                if learning is None or len(waiting) > LEARNING_AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for left in waiting:
                if left.learning:
                    left.learning.cancel()

    def again(self, origin: int, parameters: Parameters) -> DataFrame:
        """The forecast rows of an origin, fitted again with these parameters on what the lakehouse
        holds; nothing is stored or logged.
        """
        inputs = self._inputs()
        demand, features = self._sample(origin)
        past = self._past(origin, ())
        past.attrs["members"] = FittedMembers(self._members(origin, inputs))
        forecaster = self.spec.forecaster(parameters)
        fitted = forecaster.fit(
            demand,
            features,
            past,
            origin,
            self.settings.forecast.horizon,
            self.settings.forecast.seed,
        )
        return self._forecast_rows(forecaster, fitted, origin, inputs)

    def _inputs(self) -> _Inputs:
        tables = (MONTHLY_DEMAND, DEMAND_FEATURES)
        return _Inputs(
            self.lakehouse.slices(MONTHLY_DEMAND),
            self.lakehouse.slices(DEMAND_FEATURES),
            {name: self.lakehouse.slices(ZOO_FORECAST, name) for name in self.spec.members},
            {table.id: self.lakehouse.version(table) for table in tables},
        )

    def _versions(self, origin: int, inputs: _Inputs) -> tuple[str, str]:
        """What the model is (code, parameters, configuration) and the demand it sees, as hashes."""
        f = self.settings.forecast
        configured = [
            self.spec.code_version,
            self.parameters(),
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
            self.settings.zoo.max_fit_rows,
        )
        if search := self._search():
            ranges = {name: dataclasses.astuple(r) for name, r in search.items()}
            made_by = version_of(made_by, ranges, self.settings.zoo.tuning.model_dump())
        members = [
            s.data_version for slices in inputs.members.values() if (s := slices.get(origin))
        ]
        seen = version_of(
            [
                [m, inputs.demand[m].data_version]
                for m in window(self.settings, origin)
                if m in inputs.demand
            ],
            members,
        )
        return made_by, seen

    def _is_due(
        self, stored: Slice | None, versions: tuple[str, str], origin: int, is_training: bool
    ) -> bool:
        if stored is None or stored.details["made_by"] != versions[0]:
            return True
        if stored.details["seen"] == versions[1]:
            return False
        changed = self._changed_share(origin, stored.details["inputs"][MONTHLY_DEMAND.id])
        limit = 0.0 if is_training else self.settings.zoo.restate_share
        self.log(
            f"{self.spec.name}: demand through {origin} changed by {changed:.2%} since it was"
            " fitted" + ("" if changed > limit else ", kept")
        )
        return changed > limit

    def _changed_share(self, origin: int, version: int) -> float:
        """Share of the demand through an origin that changed since a version of
        silver.monthly_demand.
        """
        months = window(self.settings, origin)
        key = ["part_number", "yyyymm"]
        then = self.lakehouse.read(MONTHLY_DEMAND, months, version).select(
            *key, F.col("demand_qty").alias("then_qty")
        )
        now = self.lakehouse.read(MONTHLY_DEMAND, months).select(*key, "demand_qty")
        both = now.join(then, key, "full").fillna(0.0, ["demand_qty", "then_qty"])
        sums = both.agg(
            F.sum(F.abs(F.col("demand_qty") - F.col("then_qty"))).alias("changed"),
            F.sum("then_qty").alias("total"),
        ).collect()[0]
        return float(sums["changed"] or 0.0) / float(sums["total"] or 1.0)

    def parameters(self) -> Parameters:
        """Parameters of the model: its defaults, the feature groups of the configuration, and what
        is set for it.
        """
        groups = {
            f"use_{name}": value
            for name, value in self.settings.features.model_dump().items()
            if f"use_{name}" in self.spec.parameters
        }
        return {
            **self.spec.parameters,
            **groups,
            **self.settings.zoo.parameters.get(self.spec.name, {}),
        }

    def _search(self) -> dict[str, Range]:
        """What is tuned: the model's ranges, unless the configuration sets the parameter or tunes
        nothing.
        """
        given = self.settings.zoo.parameters.get(self.spec.name, {})
        return {
            name: r
            for name, r in self.spec.search.items()
            if name not in given and self.settings.zoo.tuning.trials
        }

    def _fit(
        self, ready: _Prepared, inputs: _Inputs, unsaved: Sequence[_Fit], logger: ThreadPoolExecutor
    ) -> _Fit:
        origin, versions, former = ready.due.origin, ready.due.versions, ready.due.former
        forecaster, tuned = ready.forecaster, ready.tuned
        identity = {"month": str(origin), "model": self.spec.name}
        killed = self.tracking.end_killed(identity)
        replaces = {"replaces_run_id": former.details["run_id"]} if former else {}
        run_id = self.tracking.start(
            f"{self.spec.name} {origin}",
            {**identity, "family": self.spec.family, **self.tags, **replaces},
        )
        if killed:
            self.log(
                f"{self.spec.name} {origin}: run {', '.join(killed)} of a process that is gone was"
                " ended as killed"
            )
        started = time.monotonic()
        try:
            past = self._past(origin, unsaved)
            past.attrs["members"] = FittedMembers(self._members(origin, inputs))
            fitted, elsewhere = ready.fitted(
                past, self.settings.forecast.horizon, self.settings.forecast.seed
            )
            rows = self.lakehouse.engine.hold(
                self._forecast_rows(forecaster, fitted, origin, inputs)
            )
            figures = rows.agg(
                F.count("*").alias("n"),
                F.avg(F.col("is_fallback").cast("double")).alias("fallback"),
            ).collect()[0]
            seconds = time.monotonic() - started + elsewhere
            content = self._content(ready, fitted, run_id, seconds, figures, inputs)
            seen = {
                "fit_part_count": float(ready.demand["part_number"].nunique()),
                "past_cell_count": float(len(past)),
            }
            content = dataclasses.replace(content, metrics={**content.metrics, **seen})
            logged = logger.submit(self.tracking.log, run_id, content)
        except BaseException:
            self.tracking.fail(run_id)
            raise
        details = {
            "made_by": versions[0],
            "seen": versions[1],
            "run_id": run_id,
            "inputs": dict(inputs.versions),
            "past_origins": sorted({int(o) for o in past["origin"]}),
            "fallback_share": figures["fallback"],
            "fit_seconds": round(seconds, 2),
            **({"tuned": tuned} if tuned else {}),
        }
        self.log(
            f"{self.spec.name} {origin}: {figures['n']:,} rows in {seconds:.1f} s,"
            f" {figures['fallback'] or 0:.1%} fallback"
        )
        return _Fit(origin, run_id, versions, rows, details, seconds, logged)

    def _store(
        self,
        unsaved: list[_Fit],
        slices: dict[int, Slice],
        written: dict[int, MonthWritten],
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
        result = self.lakehouse.merge(
            ZOO_FORECAST, rows, origins, self.spec.name, permission.may_remove, is_held=True
        )
        unsaved.clear()
        made = []
        for fit in fits:
            month = result.months[fit.origin]
            versions = month.data_version, version_of(*fit.versions)
            made.append(
                Slice(
                    fit.origin,
                    self.spec.name,
                    *versions,
                    month.row_count,
                    result.delta_version,
                    fit.details,
                )
            )
            self.lakehouse.engine.release(fit.rows)
            self.tracking.commit(fit.run_id, {EVIDENCE_VERSION: str(result.delta_version)})
        # Recorded last: a process that dies before leaves the origins due, and the next run ends
        # the runs it left open.
        self.lakehouse.record(ZOO_FORECAST, made, self.dagster_run_id)
        slices |= {s.yyyymm: s for s in made}
        written |= {fit.origin: result.months[fit.origin] for fit in fits}

    def _sample(self, origin: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Demand and features that fit sees: whole parts, at most max_fit_rows part-months; of a
        local model only the origin's features.

        A local model learns nothing from other parts' demand.
        """
        order = ["part_number", "yyyymm"]
        limit = self.settings.zoo.max_fit_rows
        months = window(self.settings, origin) if self.spec.is_global else [origin]
        share = self.lakehouse.share_of_parts(DEMAND_FEATURES, months, limit)
        features = self.lakehouse.sample(
            DEMAND_FEATURES, DEMAND_FEATURES.column_names, months, share
        ).sort_values(order, ignore_index=True)
        if not self.spec.is_global:
            return (
                pd.DataFrame({"part_number": [], "yyyymm": [], "demand_qty": []}),
                features[features["is_active"]],
            )
        demand = self.lakehouse.sample(
            MONTHLY_DEMAND, [*order, "demand_qty", "is_complete"], months, share
        )
        demand = demand[demand["is_complete"]].drop(columns="is_complete")
        return demand.sort_values(order, ignore_index=True), features

    def _tuned(
        self,
        due: _Due,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        known: Mapping[int, Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Parameters found inside the training window: at this origin, or at an earlier one whose
        search is still good for it.

        ``known``: details of the model's fits by origin. Only earlier origins are looked at, so
        that what is stored later changes nothing here. Empty for a model that is not tuned.
        """
        origin, made_by = due.origin, due.versions[0]
        settings = self.settings.zoo.tuning
        space = self._search()
        if not space:
            return {}
        oldest = add_months(origin, 1 - settings.every_months)
        earlier = [known[o] for o in sorted(known, reverse=True) if oldest <= o < origin]
        good = [d["tuned"] for d in earlier if d["made_by"] == made_by and "tuned" in d]
        found = next((tuned for tuned in good if tuned["origin"] >= oldest), None)
        if found is not None:
            return {**found}
        f = self.settings.forecast
        searched = dataclasses.replace(self.spec, search=space)
        limits = settings.trials, settings.max_seconds, settings.max_rows
        made = tune(
            searched,
            self.parameters(),
            demand,
            features,
            origin,
            f.horizon,
            f.seed,
            *limits,
            begin=self.lakehouse.engine.begin,
        )
        gain = (
            f"{1 - made.score:.1%} better than the defaults"
            if made.parameters
            else "the defaults stay"
        )
        shown = ", ".join(f"{name} {value:.3g}" for name, value in made.parameters.items())
        self.log(
            f"{self.spec.name} {origin}: {made.trials} of {settings.trials} trials in"
            f" {made.seconds:.0f} s, {gain} {shown}".rstrip()
        )
        return {
            "origin": origin,
            "parameters": dict(made.parameters),
            "score": made.score,
            "trials": made.trials,
            "seconds": made.seconds,
        }

    def _past(self, origin: int, unsaved: Sequence[_Fit]) -> pd.DataFrame:
        """Stored forecasts of this model and its members at earlier origins with their actuals, and
        members' rows at this origin.
        """
        # As far back as evidence reaches: the newest origin whose longest horizon is known lies a
        # whole horizon back.
        f = self.settings.forecast
        earlier = month_range(
            max(self.settings.first_month, add_months(origin, 1 - f.horizon - f.origins)),
            add_months(origin, -1),
        )
        months, names = [*earlier, origin], [self.spec.name, *self.spec.members]
        limit = self.settings.zoo.max_fit_rows * (len(names) + 1)
        share = self.lakehouse.share_of_parts(
            DEMAND_FEATURES, months, limit // self.settings.forecast.horizon
        )
        columns = [
            "model",
            "yyyymm",
            "part_number",
            "horizon",
            "target_yyyymm",
            "forecast_qty",
            *DECILES,
            "is_fallback",
        ]
        nothing = pd.DataFrame(columns=[*columns, "origin", "actual_qty", "demand_class"])
        if not self.spec.reads_past:
            return nothing
        replaced = {fit.origin for fit in unsaved}
        stored = self.lakehouse.sample(ZOO_FORECAST, columns, months, share, names)
        stored = stored[~stored["yyyymm"].isin(replaced) | (stored["model"] != self.spec.name)]
        fresh = [
            fit.drawn(self.lakehouse, share, columns) for fit in unsaved if fit.origin in months
        ]
        held = [rows for rows in (stored, *fresh) if len(rows)]
        if not held:
            return nothing
        stored = pd.concat(held, ignore_index=True).rename(columns={"yyyymm": "origin"})
        known = stored[(stored["origin"] < origin) & (stored["target_yyyymm"] <= origin)]
        own = stored[(stored["origin"] == origin) & (stored["model"] != self.spec.name)]
        actual = self.lakehouse.sample(
            MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty", "is_complete"], months, share
        )
        actual = actual.loc[actual["is_complete"], ["part_number", "yyyymm", "demand_qty"]]
        facts = self.lakehouse.sample(
            DEMAND_FEATURES,
            list(dict.fromkeys(("part_number", "yyyymm", "demand_class", *ORIGIN_FEATURES))),
            months,
            share,
        )
        known = known.merge(
            actual.set_axis(["part_number", "target_yyyymm", "actual_qty"], axis=1),
            on=["part_number", "target_yyyymm"],
        )
        rows = known if own.empty else pd.concat([known, own], ignore_index=True)
        past = rows.merge(facts.rename(columns={"yyyymm": "origin"}), on=["part_number", "origin"])
        return past.sort_values(["model", "origin", "part_number", "horizon"], ignore_index=True)

    def _members(
        self, origin: int, inputs: _Inputs
    ) -> Iterator[tuple[str, tuple[Forecaster, Fitted]]]:
        for name in self.spec.members:
            stored = inputs.members[name].get(origin)
            if stored is None:
                raise Refused(
                    f"{self.spec.name} combines {name}, which has no forecast of {origin} yet;"
                    f" materialize {name} first"
                )
            (_, entry), *_ = self.tracking.load(stored.details["run_id"]).models()
            yield name, (entry.forecaster, entry.fitted)

    def _forecast_rows(
        self, forecaster: Forecaster, fitted: Fitted, origin: int, inputs: _Inputs
    ) -> DataFrame:
        horizon = self.settings.forecast.horizon

        def forecast_bucket(rows: pd.DataFrame) -> pd.DataFrame:
            return forecaster.predict(fitted, *unpacked(rows), origin, horizon)[
                list(FORECAST_COLUMNS)
            ]

        def combine_bucket(features: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
            rows = rows[rows["part_number"].isin(features["part_number"])]
            members = {name: own for name, own in rows.groupby("model")}
            if not members:
                return pd.DataFrame(columns=list(FORECAST_COLUMNS))
            return forecaster.combine(fitted, members, features)  # type: ignore[attr-defined]

        buckets = self.settings.zoo.buckets
        if self.spec.members:
            # The members' forecasts of this origin are stored: nothing is forecast twice.
            features = active_parts(self.lakehouse, origin, self.spec.classes).select(
                "part_number", "demand_class"
            )
            stored = self.lakehouse.read(ZOO_FORECAST, [origin]).where(
                F.col("model").isin(list(self.spec.members))
            )
            rows = stored.select("model", *FORECAST_COLUMNS)
            cells = apply_by_bucket(
                features, rows, buckets, combine_bucket, FORECAST_DDL, self.lakehouse.engine.python
            )
        else:
            # All models of a run read the same histories.
            key = ("history", origin, buckets, *inputs.versions.values())
            kept = self.lakehouse.kept(
                key,
                lambda: with_bucket(
                    packed_history(self.lakehouse, self.settings, origin), buckets
                ).repartition(buckets, "bucket"),
            )
            asked = kept.where(F.col("demand_class").isin(list(self.spec.classes)))
            cells = asked.groupBy("bucket").applyInPandas(
                self.lakehouse.engine.python(forecast_bucket), FORECAST_DDL
            )
        targets = F.create_map(
            *[F.lit(v) for h in range(1, horizon + 1) for v in (h, add_months(origin, h))]
        )
        return cells.withColumns(
            {
                "yyyymm": F.lit(origin),
                "model": F.lit(self.spec.name),
                "target_yyyymm": targets[F.col("horizon")],
            }
        )

    def _content(
        self,
        ready: _Prepared,
        fitted: Fitted,
        run_id: str,
        seconds: float,
        figures: Any,
        inputs: _Inputs,
    ) -> RunContent:
        origin, forecaster, tuned = ready.due.origin, ready.forecaster, ready.tuned
        f = self.settings.forecast
        months = window(self.settings, origin)
        parameters = {
            **self.parameters(),
            **tuned.get("parameters", {}),
            **(
                {"tuned_at_origin": tuned["origin"], "tuning_trials": tuned["trials"]}
                if tuned
                else {}
            ),
            "horizon": f.horizon,
            "seed": f.seed,
            "training_first_month": months[0],
            "training_last_month": months[-1],
            "active_months": f.active_months,
            "classes": ",".join(self.spec.classes),
            **{
                f"features_{name}": value
                for name, value in self.settings.features.model_dump().items()
            },
        }
        entry = ServedModel(self.spec.name, forecaster, fitted, origin, run_id)
        tables: dict[str, pd.DataFrame] = {}
        pictures: dict[str, bytes] = {}
        if hasattr(forecaster, "feature_importance"):
            importance = forecaster.feature_importance(fitted)
            tables["feature_importance.csv"] = importance
            if len(importance) and ready.due.is_training:
                drawn = plots.feature_importance(
                    importance, self.spec.name, self.settings.is_simulated
                )
                pictures["plots/feature_importance.png"] = plots.rendered(drawn).png
        return RunContent(
            parameters=parameters,
            metrics={
                "fit_seconds": seconds,
                "forecast_row_count": float(figures["n"]),
                "fallback_share": figures["fallback"],
                **(
                    {"tuning_score": tuned["score"], "tuning_seconds": tuned["seconds"]}
                    if tuned
                    else {}
                ),
            },
            inputs=self._input_tables(origin, inputs),
            tables=tables,
            pictures=pictures,
            model=DemandForecaster({name: entry for name in self.spec.classes}, f.horizon),
        )

    def _input_tables(self, origin: int, inputs: _Inputs) -> list[InputTable]:
        """The tables a fit reads, with the Delta version read and a hash of the slices."""

        def described(table: TableSpec, slices: Mapping[int, Slice]) -> InputTable:
            held = {m: slices[m].data_version for m in window(self.settings, origin) if m in slices}
            return input_table(self.lakehouse, table, inputs.versions[table.id], held)

        return [
            described(MONTHLY_DEMAND, inputs.demand),
            described(DEMAND_FEATURES, inputs.features),
        ]


def input_table(
    lakehouse: Lakehouse, table: TableSpec, delta_version: int, held: Mapping[int, str]
) -> InputTable:
    """A table as a run logs it that read these versions of its slices, ascending by month."""
    seen = version_of([[month, version] for month, version in held.items()])
    return InputTable(lakehouse.name(table), lakehouse.path(table), delta_version, seen)
