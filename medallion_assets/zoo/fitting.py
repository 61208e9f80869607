"""One origin of a model: its parameters, its fit, its forecast rows and what its MLflow run holds.

Which origins are fitted and stored lies in backtest.py, what a fit sees in reading.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
from pyspark.sql import functions as F

from medallion_assets import plots
from medallion_assets.partitions import add_months
from medallion_assets.slices import version_of
from medallion_assets.tables import (
    DECILES,
    DEMAND_FEATURES,
    GIVEN_FORECAST,
    MONTHLY_DEMAND,
    ZOO_FORECAST,
    TableSpec,
)
from medallion_assets.work import Work
from medallion_assets.zoo.buckets import apply_by_bucket, with_bucket
from medallion_assets.zoo.reading import Inputs, ZooReader, active_parts, packed_history, window
from medallion_assets.zoo.serving import (
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
)
from resources.lakehouse import Lakehouse, Slice
from resources.tracking import InputTable, RunContent
from resources.workers import Begun

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FORECAST_DDL = (
    "part_number STRING, horizon INT, forecast_qty DOUBLE, "
    + ", ".join(f"{d} DOUBLE" for d in DECILES)
    + ", is_fallback BOOLEAN"
)


@dataclass(frozen=True)
class Due:
    """An origin to be fitted: hashes of what the model is and sees, what is stored of it, whether
    it is a month that was asked for.
    """

    origin: int
    versions: tuple[str, str]
    former: Slice | None
    is_training: bool


@dataclass(frozen=True)
class Prepared:
    """An origin with what it is fitted from. ``learning`` gives what is learned meanwhile, with its
    seconds; None for most models.
    """

    due: Due
    demand: pd.DataFrame
    features: pd.DataFrame
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


def learned(
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
class Fitting:
    """How one model is fitted at an origin."""

    spec: ModelSpec
    work: Work
    reader: ZooReader

    def parameters(self) -> Parameters:
        """Parameters of the model: its defaults, the feature groups of the configuration, and what
        is set for it.
        """
        groups = {
            f"use_{name}": value
            for name, value in self.work.settings.features.model_dump().items()
            if f"use_{name}" in self.spec.parameters
        }
        return {
            **self.spec.parameters,
            **groups,
            **self.work.settings.zoo.parameters.get(self.spec.name, {}),
        }

    def again(self, origin: int, parameters: Parameters) -> DataFrame:
        """The forecast rows of an origin, fitted again with these parameters on what the lakehouse
        holds; nothing is stored or logged.
        """
        inputs = self.reader.inputs()
        demand, features = self.reader.sample(origin)
        past = self.reader.past(origin, {})
        past.attrs["members"] = FittedMembers(self.reader.members(origin, inputs))
        forecaster = self.spec.forecaster(parameters)
        fitted = forecaster.fit(
            demand,
            features,
            past,
            origin,
            self.work.settings.forecast.horizon,
            self.work.settings.forecast.seed,
        )
        return self.forecast_rows(forecaster, fitted, origin, inputs)

    def forecast_rows(
        self, forecaster: Forecaster, fitted: Fitted, origin: int, inputs: Inputs
    ) -> DataFrame:
        horizon = self.work.settings.forecast.horizon

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

        def answer_bucket(packed: pd.DataFrame, given: pd.DataFrame) -> pd.DataFrame:
            if packed.empty:
                return pd.DataFrame(columns=list(FORECAST_COLUMNS))
            known = unpacked(packed)
            return forecaster.answer(fitted, given, *known, horizon, origin)  # type: ignore[attr-defined]

        buckets = self.work.settings.zoo.buckets
        if self.spec.is_given:
            given = (
                self.work.lakehouse.read(GIVEN_FORECAST, [origin])
                .where((F.col("model") == self.spec.name) & (F.col("horizon") <= horizon))
                .select("part_number", "horizon", "forecast_qty", *DECILES)
            )
            histories = packed_history(self.work.lakehouse, self.work.settings, origin)
            if not given.limit(1).count():
                # An origin for which nothing was given is no evidence of the baseline's.
                histories = histories.where(F.lit(False))
            cells = apply_by_bucket(
                histories,
                given,
                buckets,
                answer_bucket,
                FORECAST_DDL,
                self.work.lakehouse.engine.python,
            )
        elif self.spec.members:
            # The members' forecasts of this origin are stored: nothing is forecast twice.
            features = active_parts(self.work.lakehouse, origin, self.spec.classes).select(
                "part_number", "demand_class"
            )
            stored = self.work.lakehouse.read(ZOO_FORECAST, [origin]).where(
                F.col("model").isin(list(self.spec.members))
            )
            rows = stored.select("model", *FORECAST_COLUMNS)
            in_engine = self.work.lakehouse.engine.python
            cells = apply_by_bucket(
                features, rows, buckets, combine_bucket, FORECAST_DDL, in_engine
            )
        else:
            # All models of a run read the same histories.
            key = ("history", origin, buckets, *inputs.versions.values())
            kept = self.work.lakehouse.kept(
                key,
                lambda: with_bucket(
                    packed_history(self.work.lakehouse, self.work.settings, origin), buckets
                ).repartition(buckets, "bucket"),
            )
            asked = kept.where(F.col("demand_class").isin(list(self.spec.classes)))
            cells = asked.groupBy("bucket").applyInPandas(
                self.work.lakehouse.engine.python(forecast_bucket), FORECAST_DDL
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

    def content(
        self,
        ready: Prepared,
        fitted: Fitted,
        run_id: str,
        seconds: float,
        figures: Any,
        inputs: Inputs,
    ) -> RunContent:
        origin, forecaster = ready.due.origin, ready.forecaster
        f = self.work.settings.forecast
        months = window(self.work.settings, origin)
        parameters = {
            **self.parameters(),
            "horizon": f.horizon,
            "seed": f.seed,
            "training_first_month": months[0],
            "training_last_month": months[-1],
            "active_months": f.active_months,
            "classes": ",".join(self.spec.classes),
            **{
                f"features_{name}": value
                for name, value in self.work.settings.features.model_dump().items()
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
                    importance, self.spec.name, self.work.settings.is_simulated
                )
                pictures["plots/feature_importance.png"] = plots.rendered(drawn).png
        return RunContent(
            parameters=parameters,
            metrics={
                "fit_seconds": seconds,
                "forecast_row_count": float(figures["n"]),
                "fallback_share": figures["fallback"],
            },
            inputs=self._input_tables(origin, inputs),
            tables=tables,
            pictures=pictures,
            model_name=self.spec.name,
            model=(
                None
                if self.spec.is_given
                else DemandForecaster({name: entry for name in self.spec.classes}, f.horizon)
            ),
        )

    def _input_tables(self, origin: int, inputs: Inputs) -> list[InputTable]:
        """The tables a fit reads, with the Delta version read and a hash of the slices."""

        def described(table: TableSpec, slices: Mapping[int, Slice]) -> InputTable:
            months = window(self.work.settings, origin)
            held = {m: slices[m].data_version for m in months if m in slices}
            return input_table(self.work.lakehouse, table, inputs.versions[table.id], held)

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
