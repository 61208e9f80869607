"""Where the forecast rows of an origin come from once a model is fitted: a RowSource for each kind
of model.

What the rows hold is decided by the forecasters; what a fit sees lies in reading.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import pandas as pd
from pyspark.sql import functions as F

from medallion_assets.slices import version_of
from medallion_assets.tables import DECILES, GIVEN_FORECAST, ZOO_FORECAST
from medallion_assets.zoo.buckets import apply_by_bucket, in_buckets
from medallion_assets.zoo.given import Given
from medallion_assets.zoo.reading import Inputs, active_parts, packed_history
from medallion_assets.zoo.serving import unpacked
from medallion_assets.zoo.spec import FORECAST_COLUMNS, Combining, Fitted, Forecaster, ModelSpec
from resources.lakehouse import Lakehouse
from resources.settings import Settings
from resources.table_spec import TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FORECAST_DDL = (
    "part_number STRING, horizon INT, forecast_qty DOUBLE, "
    + ", ".join(f"{d} DOUBLE" for d in DECILES)
    + ", is_fallback BOOLEAN"
)


@dataclass(frozen=True)
class RowSource(ABC):
    """Where a model's rows of an origin come from.

    ``reads``: the tables that it reads beside demand, features and members. ``is_stored``: whether
    a fit is stored as a model, which can be asked for any parts and months later.
    """

    reads: ClassVar[tuple[TableSpec, ...]] = ()
    is_stored: ClassVar[bool] = True

    spec: ModelSpec
    settings: Settings
    lakehouse: Lakehouse

    def made_by(self, configured: str, origin: int, inputs: Inputs) -> str:
        """Hash of all that the model is at an origin; ``configured`` is that of its code,
        parameters and configuration.
        """
        return configured

    @abstractmethod
    def cells(
        self, forecaster: Forecaster, fitted: Fitted, origin: int, inputs: Inputs
    ) -> DataFrame:
        """FORECAST_COLUMNS of all parts that the model is asked for at the origin."""


class FromHistories(RowSource):
    """A model of its own forecasts each bucket of parts from their histories."""

    def cells(
        self, forecaster: Forecaster, fitted: Fitted, origin: int, inputs: Inputs
    ) -> DataFrame:
        horizon, buckets = self.settings.forecast.horizon, self.settings.zoo.buckets

        def forecast_bucket(rows: pd.DataFrame) -> pd.DataFrame:
            forecasts = forecaster.predict(fitted, *unpacked(rows), origin, horizon)
            return forecasts[list(FORECAST_COLUMNS)]

        # All models of a run read the same histories.
        key = ("history", origin, buckets, *inputs.versions.values())
        histories = self.lakehouse.kept.frame(
            key,
            lambda: in_buckets(packed_history(self.lakehouse, self.settings, origin), buckets),
        )
        asked = histories.where(F.col("demand_class").isin(list(self.spec.classes)))
        return asked.groupBy("bucket").applyInPandas(
            self.lakehouse.engine.python(forecast_bucket), FORECAST_DDL
        )


class FromMembers(RowSource):
    """A combination averages its members' rows of the origin, which are stored: nothing is forecast
    twice.
    """

    def cells(
        self, forecaster: Forecaster, fitted: Fitted, origin: int, inputs: Inputs
    ) -> DataFrame:
        combining = cast("Combining", forecaster)

        def combine_bucket(features: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
            rows = rows[rows["part_number"].isin(features["part_number"])]
            members = {str(name): own for name, own in rows.groupby("model")}
            return combining.combine(fitted, members, features) if members else _no_rows()

        features = active_parts(self.lakehouse, origin, self.spec.classes)
        stored = self.lakehouse.read(ZOO_FORECAST, [origin]).where(
            F.col("model").isin(list(self.spec.members))
        )
        return apply_by_bucket(
            features.select("part_number", "demand_class"),
            stored.select("model", *FORECAST_COLUMNS),
            self.settings.zoo.buckets,
            combine_bucket,
            FORECAST_DDL,
            in_engine=self.lakehouse.engine.python,
        )


class FromGiven(RowSource):
    """What was given for the origin is read; the baseline answers where nothing was."""

    reads = (GIVEN_FORECAST,)
    is_stored = False  # nobody can ask it for a month that was not delivered

    def made_by(self, configured: str, origin: int, inputs: Inputs) -> str:
        given = inputs.further[GIVEN_FORECAST.id].get(origin)
        return version_of(configured, given.data_version if given else "")

    def cells(
        self, forecaster: Forecaster, fitted: Fitted, origin: int, inputs: Inputs
    ) -> DataFrame:
        horizon, answering = self.settings.forecast.horizon, cast("Given", forecaster)

        def answer_bucket(packed: pd.DataFrame, given: pd.DataFrame) -> pd.DataFrame:
            if packed.empty:
                return _no_rows()
            return answering.answer(fitted, given, *unpacked(packed), origin, horizon)

        given = (
            self.lakehouse.read(GIVEN_FORECAST, [origin])
            .where((F.col("model") == self.spec.name) & (F.col("horizon") <= horizon))
            .select("part_number", "horizon", "forecast_qty", *DECILES)
        )
        histories = packed_history(self.lakehouse, self.settings, origin)
        if not given.limit(1).count():
            # An origin for which nothing was given is no evidence of the baseline's.
            histories = histories.where(F.lit(False))
        return apply_by_bucket(
            histories,
            given,
            self.settings.zoo.buckets,
            answer_bucket,
            FORECAST_DDL,
            in_engine=self.lakehouse.engine.python,
        )


def source_of(spec: ModelSpec) -> type[RowSource]:
    """Where the rows of a model come from."""
    if spec.is_given:
        return FromGiven
    return FromMembers if spec.members else FromHistories


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame(columns=list(FORECAST_COLUMNS))
