"""The backtest: a model fitted at the end of each month and asked for the months that follow, its slices stored.

It decides which origins are missing or stale and runs them in ascending order; models lie in their families.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure
from pyspark.sql import functions as F

from medallion_assets import plots
from medallion_assets.monitoring.completeness import complete_months_of
from medallion_assets.partitions import add_months, evidence_origins, month_range
from medallion_assets.table_asset import Outcome, version_of
from medallion_assets.tables import DECILES, DELIVERIES, DEMAND_FEATURES, MONTHLY_DEMAND, ZOO_FORECAST, TableSpec
from medallion_assets.zoo.calibration import ORIGIN_FEATURES
from medallion_assets.zoo.serving import HISTORY_COLUMNS, DemandForecaster, ServedModel, forecast
from medallion_assets.zoo.spec import FORECAST_COLUMNS, Fitted, Forecaster, ModelSpec, Parameters
from resources.errors import Refused
from resources.lakehouse import Lakehouse, MonthWritten, Slice
from resources.settings import Settings
from resources.tracking import InputTable, RunContent, Tracking

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PAST_ORIGINS = 12
FORECAST_DDL = (
    "part_number STRING, horizon INT, forecast_qty DOUBLE, " + ", ".join(f"{d} DOUBLE" for d in DECILES) + ", is_fallback BOOLEAN"
)


def history(lakehouse: Lakehouse, settings: Settings, origin: int, classes: Sequence[str] | None = None) -> DataFrame:
    """The history of all active parts (of some classes) at an origin: HISTORY_COLUMNS, features on the origin's row."""
    months = window(settings, origin)
    features = active_parts(lakehouse, origin, classes)
    demand = lakehouse.read(MONTHLY_DEMAND, months).where("is_complete").select("part_number", "yyyymm", "demand_qty")
    kept = demand.join(features.select("part_number"), "part_number", "left_semi")
    return kept.join(features, ["part_number", "yyyymm"], "left").select(*HISTORY_COLUMNS)


def active_parts(lakehouse: Lakehouse, origin: int, classes: Sequence[str] | None = None) -> DataFrame:
    """The features of all active parts (of some classes) at an origin."""
    features = lakehouse.read(DEMAND_FEATURES, [origin]).where("is_active")
    return features if classes is None else features.where(F.col("demand_class").isin(list(classes)))


def window(settings: Settings, origin: int) -> list[int]:
    """Months of history that a model sees at an origin."""
    return month_range(max(settings.first_month, add_months(origin, 1 - settings.forecast.training_months)), origin)


def in_buckets(rows: DataFrame, buckets: int) -> Any:
    """Rows grouped into buckets of whole parts, for applyInPandas: one Python call for many parts."""
    return rows.withColumn("bucket", F.pmod(F.xxhash64("part_number"), F.lit(buckets))).groupBy("bucket")


def trained_months(settings: Settings, complete: Sequence[int], month: int) -> list[int]:
    """Origins that a decision in a month needs: its evidence and the month itself, as far as they are complete."""
    wanted = [
        *evidence_origins(month, settings.forecast.horizon, settings.forecast.origins, settings.first_month, settings.forecast.min_history),
        month,
    ]
    return [origin for origin in wanted if origin in set(complete)]


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

    def run(self, months: Sequence[int]) -> Outcome:
        """Fit the months and the origins of their evidence that are missing or stale, ascending, each stored before the next."""
        started = time.monotonic()
        complete = complete_months_of(self.lakehouse.rows(DELIVERIES), self.settings)
        stored = self.lakehouse.slices(ZOO_FORECAST, self.spec.name)
        demand_slices = self.lakehouse.slices(MONTHLY_DEMAND)
        slices: dict[int, Slice] = {}
        written: dict[int, MonthWritten] = {}
        for month in sorted(months):
            if month not in complete:
                self.log(f"{self.spec.name}: {month} is not complete, not fitted")
                continue
            # Month by month, not origin by origin over all: a range then leaves what so many single runs leave.
            for origin in trained_months(self.settings, complete, month):
                versions = self._versions(origin, demand_slices)
                if origin not in written and self._is_due(stored.get(origin), versions, origin, origin == month):
                    if not written:
                        self.tracking.check()
                    slices[origin], written[origin] = self._fit(origin, versions, stored.get(origin))
                elif origin in stored and origin not in written:
                    slices[origin] = stored[origin]
        return Outcome(slices, written, time.monotonic() - started)

    def _versions(self, origin: int, demand_slices: Mapping[int, Slice]) -> tuple[str, str]:
        """What the model is (code, parameters, configuration) and the demand it sees, as hashes."""
        f = self.settings.forecast
        configured = [self.spec.code_version, self.parameters(), f.horizon, f.training_months, f.active_months, f.new_part_months, f.seed]
        made_by = version_of(*configured, DEMAND_FEATURES.code_version, MONTHLY_DEMAND.code_version, self.settings.zoo.max_fit_rows)
        members = [s.data_version for name in self.spec.members if (s := self.lakehouse.slices(ZOO_FORECAST, name).get(origin))]
        seen = version_of([[m, demand_slices[m].data_version] for m in window(self.settings, origin) if m in demand_slices], members)
        return made_by, seen

    def _is_due(self, stored: Slice | None, versions: tuple[str, str], origin: int, is_training: bool) -> bool:
        if stored is None or stored.details["made_by"] != versions[0]:
            return True
        if stored.details["seen"] == versions[1]:
            return False
        changed = self._changed_share(origin, stored.details["inputs"][MONTHLY_DEMAND.id])
        limit = 0.0 if is_training else self.settings.zoo.restate_share
        self.log(
            f"{self.spec.name}: demand through {origin} changed by {changed:.2%} since it was fitted"
            + ("" if changed > limit else ", kept")
        )
        return changed > limit

    def _changed_share(self, origin: int, version: int) -> float:
        """Share of the demand through an origin that changed since a version of silver.monthly_demand."""
        months = window(self.settings, origin)
        key = ["part_number", "yyyymm"]
        then = self.lakehouse.read(MONTHLY_DEMAND, months, version).select(*key, F.col("demand_qty").alias("then_qty"))
        now = self.lakehouse.read(MONTHLY_DEMAND, months).select(*key, "demand_qty")
        both = now.join(then, key, "full").fillna(0.0, ["demand_qty", "then_qty"])
        sums = both.agg(F.sum(F.abs(F.col("demand_qty") - F.col("then_qty"))).alias("changed"), F.sum("then_qty").alias("total")).collect()[
            0
        ]
        return float(sums["changed"] or 0.0) / float(sums["total"] or 1.0)

    def parameters(self) -> Parameters:
        """Parameters of the model: its defaults, the feature groups of the configuration, and what is set for it."""
        groups = {
            f"use_{name}": value for name, value in self.settings.features.model_dump().items() if f"use_{name}" in self.spec.parameters
        }
        return {**self.spec.parameters, **groups, **self.settings.zoo.parameters.get(self.spec.name, {})}

    def _fit(self, origin: int, versions: tuple[str, str], former: Slice | None) -> tuple[Slice, MonthWritten]:
        forecaster = self.spec.forecaster({**self.parameters()})
        identity = {"month": str(origin), "model": self.spec.name}
        killed = self.tracking.end_killed(identity)
        replaces = {"replaces_run_id": former.details["run_id"]} if former else {}
        run_id = self.tracking.start(f"{self.spec.name} {origin}", {**identity, "family": self.spec.family, **self.tags, **replaces})
        if killed:
            self.log(f"{self.spec.name} {origin}: run {', '.join(killed)} of a process that is gone was ended as killed")
        started = time.monotonic()
        try:
            demand, features = self._sample(origin)
            past = self._past(origin)
            past.attrs["members"] = dict(self._members(origin))
            fitted = forecaster.fit(demand, features, past, origin, self.settings.forecast.horizon, self.settings.forecast.seed)
            rows = self._forecast_rows(forecaster, fitted, origin).persist()
            try:
                figures = rows.agg(F.count("*").alias("n"), F.avg(F.col("is_fallback").cast("double")).alias("fallback")).collect()[0]
                seconds = time.monotonic() - started
                content = self._content(forecaster, fitted, origin, run_id, demand, past, seconds, figures)
                self.tracking.log(run_id, content)
                stamped = rows.withColumns({"fit_seconds": F.lit(seconds), "run_id": F.lit(run_id)})
                result = self.lakehouse.merge(ZOO_FORECAST, stamped, [origin], self.spec.name)
            finally:
                rows.unpersist()
        except BaseException:
            self.tracking.fail(run_id)
            raise
        month = result.months[origin]
        details = {
            "made_by": versions[0],
            "seen": versions[1],
            "run_id": run_id,
            "inputs": {table.id: self.lakehouse.version(table) for table in (MONTHLY_DEMAND, DEMAND_FEATURES)},
            "past_origins": sorted({int(o) for o in past["origin"]}),
            "fallback_share": figures["fallback"],
            "fit_seconds": round(seconds, 2),
        }
        made = Slice(origin, self.spec.name, month.data_version, version_of(*versions), month.row_count, result.delta_version, details)
        # Recorded last: a process that dies before leaves the origin due, and the next run ends the run it left open.
        self.tracking.commit(run_id)
        self.lakehouse.record(ZOO_FORECAST, [made], self.dagster_run_id)
        self.log(f"{self.spec.name} {origin}: {month.row_count:,} rows in {seconds:.1f} s, {figures['fallback'] or 0:.1%} fallback")
        return made, month

    def _sample(self, origin: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Demand and features that fit sees: whole parts, at most max_fit_rows part-months; of a local model only the origin's features.

        A local model learns nothing from other parts' demand.
        """
        order = ["part_number", "yyyymm"]
        limit = self.settings.zoo.max_fit_rows
        months = window(self.settings, origin) if self.spec.is_global else [origin]
        share = self.lakehouse.share_of_parts(DEMAND_FEATURES, months, limit)
        features = self.lakehouse.sample(DEMAND_FEATURES, DEMAND_FEATURES.column_names, months, share).sort_values(order, ignore_index=True)
        if not self.spec.is_global:
            return pd.DataFrame({"part_number": [], "yyyymm": [], "demand_qty": []}), features[features["is_active"]]
        demand = self.lakehouse.sample(MONTHLY_DEMAND, [*order, "demand_qty", "is_complete"], months, share)
        demand = demand[demand["is_complete"]].drop(columns="is_complete")
        return demand.sort_values(order, ignore_index=True), features

    def _past(self, origin: int) -> pd.DataFrame:
        """Stored forecasts of this model and its members at earlier origins with their actuals, and members' rows at this origin."""
        earlier = month_range(max(self.settings.first_month, add_months(origin, -PAST_ORIGINS)), add_months(origin, -1))
        months, names = [*earlier, origin], [self.spec.name, *self.spec.members]
        limit = self.settings.zoo.max_fit_rows * (len(names) + 1)
        share = self.lakehouse.share_of_parts(DEMAND_FEATURES, months, limit // self.settings.forecast.horizon)
        columns = ["model", "yyyymm", "part_number", "horizon", "target_yyyymm", "forecast_qty", *DECILES, "is_fallback"]
        if not self.spec.reads_past:
            return pd.DataFrame(columns=[*columns, "origin", "actual_qty", "demand_class"])
        stored = self.lakehouse.sample(ZOO_FORECAST, columns, months, share, names).rename(columns={"yyyymm": "origin"})
        known = stored[(stored["origin"] < origin) & (stored["target_yyyymm"] <= origin)]
        own = stored[(stored["origin"] == origin) & (stored["model"] != self.spec.name)]
        actual = self.lakehouse.sample(MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty", "is_complete"], months, share)
        actual = actual.loc[actual["is_complete"], ["part_number", "yyyymm", "demand_qty"]]
        facts = self.lakehouse.sample(
            DEMAND_FEATURES, list(dict.fromkeys(("part_number", "yyyymm", "demand_class", *ORIGIN_FEATURES))), months, share
        )
        known = known.merge(actual.set_axis(["part_number", "target_yyyymm", "actual_qty"], axis=1), on=["part_number", "target_yyyymm"])
        rows = known if own.empty else pd.concat([known, own], ignore_index=True)
        past = rows.merge(facts.rename(columns={"yyyymm": "origin"}), on=["part_number", "origin"])
        return past.sort_values(["model", "origin", "part_number", "horizon"], ignore_index=True)

    def _members(self, origin: int) -> Iterator[tuple[str, tuple[Forecaster, Fitted]]]:
        for name in self.spec.members:
            stored = self.lakehouse.slices(ZOO_FORECAST, name).get(origin)
            if stored is None:
                raise Refused(f"{self.spec.name} combines {name}, which has no forecast of {origin} yet; materialize {name} first")
            (_, entry), *_ = self.tracking.load(stored.details["run_id"]).models()
            yield name, (entry.forecaster, entry.fitted)

    def _forecast_rows(self, forecaster: Forecaster, fitted: Fitted, origin: int) -> DataFrame:
        horizon = self.settings.forecast.horizon

        def forecast_bucket(rows: pd.DataFrame) -> pd.DataFrame:
            return forecast(forecaster, fitted, rows, origin, horizon)

        def combine_bucket(features: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
            rows = rows[rows["part_number"].isin(features["part_number"])]
            members = {name: own for name, own in rows.groupby("model")}
            if not members:
                return pd.DataFrame(columns=list(FORECAST_COLUMNS))
            return forecaster.combine(fitted, members, features)  # type: ignore[attr-defined]

        buckets = self.settings.zoo.buckets
        if self.spec.members:
            # The members' forecasts of this origin are stored: nothing is forecast twice.
            features = active_parts(self.lakehouse, origin, self.spec.classes).select("part_number", "demand_class")
            stored = self.lakehouse.read(ZOO_FORECAST, [origin]).where(F.col("model").isin(list(self.spec.members)))
            rows = stored.select("model", *FORECAST_COLUMNS)
            cells = in_buckets(features, buckets).cogroup(in_buckets(rows, buckets)).applyInPandas(combine_bucket, FORECAST_DDL)
        else:
            rows = history(self.lakehouse, self.settings, origin, self.spec.classes)
            cells = in_buckets(rows, buckets).applyInPandas(forecast_bucket, FORECAST_DDL)
        targets = F.create_map(*[F.lit(v) for h in range(1, horizon + 1) for v in (h, add_months(origin, h))])
        return cells.withColumns({"yyyymm": F.lit(origin), "model": F.lit(self.spec.name), "target_yyyymm": targets[F.col("horizon")]})

    def _content(
        self,
        forecaster: Forecaster,
        fitted: Fitted,
        origin: int,
        run_id: str,
        demand: pd.DataFrame,
        past: pd.DataFrame,
        seconds: float,
        figures: Any,
    ) -> RunContent:
        f = self.settings.forecast
        months = window(self.settings, origin)
        parameters = {
            **self.parameters(),
            "horizon": f.horizon,
            "seed": f.seed,
            "training_first_month": months[0],
            "training_last_month": months[-1],
            "active_months": f.active_months,
            "classes": ",".join(self.spec.classes),
            **{f"features_{name}": value for name, value in self.settings.features.model_dump().items()},
        }
        entry = ServedModel(self.spec.name, forecaster, fitted, origin, run_id)
        tables: dict[str, pd.DataFrame] = {}
        figures_: dict[str, Figure] = {}
        if hasattr(forecaster, "feature_importance"):
            importance = forecaster.feature_importance(fitted)
            tables["feature_importance.csv"] = importance
            if len(importance):
                figures_["plots/feature_importance.png"] = plots.feature_importance(importance, self.spec.name, self.settings.is_simulated)
        return RunContent(
            parameters=parameters,
            metrics={
                "fit_seconds": seconds,
                "forecast_row_count": float(figures["n"]),
                "fallback_share": figures["fallback"],
                "fit_part_count": float(demand["part_number"].nunique()),
                "past_cell_count": float(len(past)),
            },
            inputs=self.input_tables(origin),
            tables=tables,
            figures=figures_,
            model=DemandForecaster({name: entry for name in self.spec.classes}, f.horizon),
        )

    def input_tables(self, origin: int) -> list[InputTable]:
        """The tables a fit reads, with the Delta version read and a hash of the slices."""

        def described(table: TableSpec) -> InputTable:
            slices = self.lakehouse.slices(table)
            seen = version_of([[m, slices[m].data_version] for m in window(self.settings, origin) if m in slices])
            return InputTable(self.lakehouse.name(table), self.lakehouse.path(table), self.lakehouse.version(table), seen)

        return [described(MONTHLY_DEMAND), described(DEMAND_FEATURES)]
