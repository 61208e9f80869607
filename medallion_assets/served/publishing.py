"""Publishing: the forecast of an origin by the version that was trained by then, as a new vintage
where numbers changed.

Nothing is fitted or chosen here; the model and its version come from the decisions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pandas as pd
from pyspark.sql import functions as F

from medallion_assets.champion.approval import take_approvals
from medallion_assets.champion.decisions import champions_of, serving_version
from medallion_assets.complete import complete_months_of
from medallion_assets.served import guard, transforms
from medallion_assets.slices import Outcome, Slices, version_of
from medallion_assets.tables import (
    CHAMPION,
    DECILES,
    DELIVERIES,
    DEMAND_CLASSES,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    MONTHLY_DEMAND,
    ZOO_FORECAST,
)
from medallion_assets.work import Work
from medallion_assets.zoo.buckets import apply_by_bucket
from medallion_assets.zoo.calibration import Calibration
from medallion_assets.zoo.given import Given
from medallion_assets.zoo.reading import packed_history, window
from medallion_assets.zoo.registry import BASELINE, model
from medallion_assets.zoo.serving import DemandForecaster, ServedModel
from medallion_assets.zoo.spec import FORECAST_COLUMNS, Known
from resources.lakehouse import MonthWritten, Slice
from resources.tracking import Tracking

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SERVED_DDL = (
    "part_number STRING, origin INT, horizon INT, target_yyyymm INT, forecast_qty DOUBLE, "
    + ", ".join(f"{name} DOUBLE" for name in DECILES)
    + ", demand_class STRING, model STRING, trained_yyyymm INT, model_run_id STRING, is_fallback"
    " BOOLEAN, guard STRING"
)


@dataclass(frozen=True)
class Publication:
    """Publishes origins, oldest first."""

    work: Work
    tracking: Tracking
    _models: dict[int, DemandForecaster] = field(default_factory=dict)

    def run(
        self, months: Sequence[int], allow: Callable[[list[int]], None] = lambda superseded: None
    ) -> Outcome:
        """Publish the complete months; an origin whose inputs and version did not change is left as
        it is.

        ``allow`` is told, before anything is written, the origins that another version would
        supersede although demand known by then is the same; it raises Refused where that needs a
        plan.
        """
        complete = complete_months_of(self.work.lakehouse.rows(DELIVERIES), self.work.settings)
        decisions = self._decisions()
        slices = Slices(self.work, DEMAND_FORECAST)
        horizon = self.work.settings.forecast.horizon
        due: list[tuple[int, int | None, dict[str, str], str, str]] = []
        for origin in sorted(months):
            if origin not in complete:
                self.work.log(f"demand_forecast: {origin} is not complete, nothing published")
                continue
            version = serving_version(decisions, origin) if len(decisions) else None
            known, given = known_at(self.work, origin), self.given(decisions, version)
            # What serves without being in the registered version is an input of its own.
            beside = [
                [name, s.data_version]
                for name in sorted(set(given.values()))
                if (s := self.work.lakehouse.ledger.slices(ZOO_FORECAST, name).get(origin))
            ]
            made_from = version_of(
                *(DEMAND_FORECAST.code_version, version, known, horizon),
                *([beside] if beside else []),
            )
            if slices.is_current(origin, made_from):
                slices.keep(origin)
            else:
                due.append((origin, version, given, version_of(known), made_from))
        allow(
            [
                o
                for o, version, _, seen, _ in due
                if o in slices.stored and _is_superseded(slices.stored[o], version, seen)
            ]
        )
        for origin, version, given, seen, made_from in due:
            former = slices.stored.get(origin)
            count, vintage, rows = self._publish(origin, version, given, former)
            published = f"{vintage}-{version_of(made_from)}"
            data_version = published if count else former.data_version if former else ""
            details = {"vintage": vintage, "registry_version": version, "seen": seen}
            slices.record(
                {origin: MonthWritten(rows, data_version, count)},
                {origin: made_from},
                self.work.lakehouse.version(DEMAND_FORECAST),
                {origin: details},
            )
        return slices.outcome()

    def _decisions(self) -> pd.DataFrame:
        decisions = self.work.lakehouse.rows(CHAMPION)
        if len(decisions):
            self.tracking.check()
            return take_approvals(self.work, self.tracking)
        return decisions

    def _publish(
        self, origin: int, version: int | None, given: Mapping[str, str], former: Slice | None
    ) -> tuple[int, int, int]:
        """Append a vintage where numbers differ; returns rows appended, the current vintage, rows
        of it.
        """
        inputs = {
            self.work.lakehouse.name(t): self.work.lakehouse.version(t)
            for t in (MONTHLY_DEMAND, DEMAND_FEATURES)
        }
        stamps = {
            "registry_version": F.lit(version).cast("int"),
            "input_versions": F.lit(json.dumps(inputs, sort_keys=True)),
            "run_id": F.lit(self.work.run_id),
            "published_at": F.lit(datetime.now(UTC)),
        }
        rows = self.work.lakehouse.engine.hold(
            self._rows(origin, version, given).withColumns(stamps)
        )
        number = self.work.lakehouse.next_number(DEMAND_FORECAST)
        try:
            published = self.work.lakehouse.read(DEMAND_FORECAST, [origin])
            newest = published.agg(F.max("vintage").alias("vintage")).collect()[0]["vintage"] or 0
            count = rows.count()
            reason = None
            if newest:
                changed = transforms.changed_numbers(
                    rows, published.where(F.col("vintage") == newest)
                ).count()
                if not changed:
                    return 0, newest, count
                reason = self._reason(version, former, changed)
                self.work.log(f"demand_forecast: origin {origin}, vintage {newest + 1}: {reason}")
            self.work.lakehouse.append(
                DEMAND_FORECAST, transforms.demand_forecast(rows, newest + 1, reason), number
            )
        finally:
            self.work.lakehouse.engine.release(rows)
        return count, newest + 1, count

    def _reason(self, version: int | None, former: Slice | None, changed: int) -> str:
        before = former.details.get("registry_version") if former else None
        if before != version:
            return (
                f"version {version} serves instead of {before or 'the baseline'}; {changed:,} cells"
                " changed"
            )
        return (
            f"demand known by the origin changed after it was published; {changed:,} cells changed"
        )

    def _rows(self, origin: int, version: int | None, given: Mapping[str, str]) -> DataFrame:
        forecasts = self.forecasts(origin, version, given)
        served = transforms.served_rows(forecasts, BASELINE, version is not None)
        features = self.work.lakehouse.read(DEMAND_FEATURES, [origin])
        return served.unionByName(
            transforms.excluded_rows(features, self.work.settings.forecast.active_months)
        )

    def forecasts(self, origin: int, version: int | None, given: Mapping[str, str]) -> DataFrame:
        """SERVED_DDL of an origin by a registered version (None: the baseline) and the given
        forecasts that serve classes beside it, on demand as it is known now; nothing is stored.
        """
        model_ = self._model(version, origin)
        if given:
            entries = {name: self._entry(model, origin) for name, model in given.items()}
            model_ = DemandForecaster({**model_.entries, **entries}, model_.horizon)
        histories, answered = (
            packed_history(self.work.lakehouse, self.work.settings, origin),
            self._answered(model_, origin),
        )
        buckets, in_engine = self.work.settings.zoo.buckets, self.work.lakehouse.engine.python
        forecast, baseline = model_.by_bucket(origin), self._baseline(origin).by_bucket(origin)
        months = self.work.lakehouse.read(MONTHLY_DEMAND, window(self.work.settings, origin))
        largest = months.agg(F.max("demand_qty").alias("largest")).collect()[0]["largest"] or 0.0

        def forecast_guarded(packed: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
            def stand_in(stopped: pd.DataFrame) -> pd.DataFrame:
                return baseline(stopped, stored[:0])

            return guard.guarded(forecast(packed, stored), packed, largest, stand_in)

        return apply_by_bucket(
            histories, answered, buckets, forecast_guarded, SERVED_DDL, in_engine=in_engine
        )

    def given(self, decisions: pd.DataFrame, version: int | None) -> dict[str, str]:
        """Demand class -> the given forecast that serves it beside a registered version."""
        named = self.work.settings.given_forecasts
        if version is None or not named:
            return {}
        champions = champions_of(decisions, version)
        return {name: champion for name, champion in champions.items() if champion in named}

    def _entry(self, name: str, origin: int) -> ServedModel:
        """A given forecast as it serves an origin: its stored rows, and the baseline where there
        are none.
        """
        stored = self.work.lakehouse.ledger.slices(ZOO_FORECAST, name).get(origin)
        run_id = stored.details["run_id"] if stored else ""
        return ServedModel(name, Given(), Calibration(), origin, run_id)

    def _answered(self, model_: DemandForecaster, origin: int) -> DataFrame:
        """What the fits that serve stored for this origin from the tables as they are: run_id,
        FORECAST_COLUMNS. Not made again.
        """
        inputs = {
            table.id: self.work.lakehouse.version(table)
            for table in (MONTHLY_DEMAND, DEMAND_FEATURES)
        }
        runs = []
        for _, entry in model_.models():
            stored = self.work.lakehouse.ledger.slices(ZOO_FORECAST, entry.model).get(origin)
            is_given = entry.model in self.work.settings.given_forecasts
            if (
                stored
                and stored.details["run_id"] == entry.run_id
                and (is_given or stored.details["inputs"] == inputs)
            ):
                runs.append((entry.model, entry.run_id))
        names, run_ids = {name for name, _ in runs}, {run_id for _, run_id in runs}
        rows = self.work.lakehouse.read(ZOO_FORECAST, [origin]).where(
            F.col("model").isin(sorted(names)) & F.col("run_id").isin(sorted(run_ids))
        )
        return rows.select("run_id", *FORECAST_COLUMNS)

    def _model(self, version: int | None, origin: int) -> DemandForecaster:
        if version is None:
            return self._baseline(origin)
        if version not in self._models:
            self._models[version] = self.tracking.registry.load_version(version)
        return self._models[version]

    def _baseline(self, origin: int) -> DemandForecaster:
        """The baseline without evidence: what serves before the first training."""
        f, nothing = self.work.settings.forecast, pd.DataFrame()
        forecaster = model(BASELINE).forecaster({})
        fitted = forecaster.fit(
            Known(demand=nothing, features=nothing, origin=origin, horizon=f.horizon, seed=f.seed)
        )
        entry = ServedModel(BASELINE, forecaster, fitted, origin, "")
        return DemandForecaster(dict.fromkeys(DEMAND_CLASSES, entry), f.horizon)


def known_at(work: Work, origin: int) -> list[list[object]]:
    """What is known of the demand through an origin and of its features, as data versions."""
    demand = work.lakehouse.ledger.slices(MONTHLY_DEMAND)
    features = work.lakehouse.ledger.slices(DEMAND_FEATURES)
    return [
        [m, s.data_version]
        for m in window(work.settings, origin)
        for s in (demand.get(m), features.get(m) if m == origin else None)
        if s
    ]


def _is_superseded(stored: Slice, version: int | None, seen: str) -> bool:
    """Whether a published origin would get a vintage only because another version serves it now."""
    return bool(stored.details["seen"] == seen and stored.details["registry_version"] != version)
