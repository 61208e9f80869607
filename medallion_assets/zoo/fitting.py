"""One origin of a model: its parameters, its fit, its forecast rows and what its MLflow run holds.

Which origins are fitted and stored lies in backtest.py, what a fit sees in reading.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyspark.sql import functions as F

from medallion_assets import plots
from medallion_assets.partitions import add_months
from medallion_assets.slices import version_of
from medallion_assets.tables import DEMAND_FEATURES, MONTHLY_DEMAND
from medallion_assets.work import Work
from medallion_assets.zoo.reading import Inputs, ZooReader, window
from medallion_assets.zoo.row_source import RowSource, source_of
from medallion_assets.zoo.serving import DemandForecaster, ServedModel
from medallion_assets.zoo.spec import (
    ExplainsItself,
    Fitted,
    Forecaster,
    Known,
    LearnsApart,
    ModelSpec,
    Parameters,
)
from resources.lakehouse import Lakehouse, Slice
from resources.table_spec import TableSpec
from resources.tracking import InputTable, RunContent
from resources.workers import Begun

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


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
    """An origin with a sample of what is known there. ``learning`` gives what is learned meanwhile,
    with its seconds; None for most models.
    """

    due: Due
    sample: Known
    forecaster: Forecaster
    learning: Begun[tuple[Any, float]] | None

    def fit(self, known: Known) -> tuple[Fitted, float]:
        """The fit of all that is known, and the seconds that it took elsewhere beyond those that
        passed here.
        """
        if self.learning is None or not isinstance(self.forecaster, LearnsApart):
            return self.forecaster.fit(known), 0.0
        started = time.monotonic()
        learned, seconds = self.learning.result()
        waited = time.monotonic() - started
        return self.forecaster.calibrate(learned, known), seconds - waited


def learn_apart(forecaster: LearnsApart, sample: Known) -> tuple[Any, float]:
    """What is learned before the past is known, and the seconds that it took."""
    started = time.monotonic()
    return forecaster.learn(sample), time.monotonic() - started


@dataclass(frozen=True)
class Fitting:
    """How one model is fitted at an origin."""

    spec: ModelSpec
    work: Work
    reader: ZooReader

    @property
    def source(self) -> RowSource:
        """Where its rows of an origin come from."""
        return source_of(self.spec)(self.spec, self.work.settings, self.work.lakehouse)

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
        inputs = self.reader.inputs(self.source.reads)
        known = self.reader.with_past(self.reader.sample(origin), inputs, {})
        forecaster = self.spec.forecaster(parameters)
        return self.forecast_rows(forecaster, forecaster.fit(known), origin, inputs)

    def forecast_rows(
        self, forecaster: Forecaster, fitted: Fitted, origin: int, inputs: Inputs
    ) -> DataFrame:
        """Rows of gold.zoo_forecast of an origin, without run and seconds."""
        horizon = self.work.settings.forecast.horizon
        cells = self.source.cells(forecaster, fitted, origin, inputs)
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
        metrics: Mapping[str, float | None],
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
        if isinstance(forecaster, ExplainsItself):
            importance = forecaster.feature_importance(fitted)
            tables["feature_importance.csv"] = importance
            if len(importance) and ready.due.is_training:
                drawn = plots.feature_importance(
                    importance, self.spec.name, self.work.settings.is_simulated
                )
                pictures["plots/feature_importance.png"] = plots.rendered(drawn).png
        return RunContent(
            parameters=parameters,
            metrics=metrics,
            inputs=self._input_tables(origin, inputs),
            tables=tables,
            pictures=pictures,
            model_name=self.spec.name,
            model=(
                DemandForecaster(dict.fromkeys(self.spec.classes, entry), f.horizon)
                if self.source.is_stored
                else None
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
