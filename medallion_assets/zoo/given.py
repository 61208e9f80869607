"""Forecasts made elsewhere as models of the contest: what their files say, and what answers where
they say nothing.

They are never registered: a process that has only the registered model could not ask them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medallion_assets.tables import DECILES
from medallion_assets.zoo.calibration import Calibration
from medallion_assets.zoo.naive import SeasonalNaive
from medallion_assets.zoo.series import demand_matrix, forecast_frame
from medallion_assets.zoo.spec import ModelSpec
from resources.settings import GivenForecasts


@dataclass(frozen=True)
class Given(SeasonalNaive):
    """A forecast made elsewhere.

    Where nothing was given for a cell the baseline answers, marked as a stand-in. Cells without
    deciles get those that its past errors teach, as other point forecasts of the zoo do.
    """

    def predict(
        self,
        fitted: Calibration,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        horizon: int,
    ) -> pd.DataFrame:
        """The baseline, every cell marked as a stand-in: what serves parts of which nothing was
        given.
        """
        rows = super().predict(fitted, demand, features, origin, horizon)
        return rows.assign(is_fallback=True)

    def answer(  # noqa: PLR0913, PLR0917 - predict() of the protocol, and what was given
        self,
        fitted: Calibration,
        given: pd.DataFrame,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        horizon: int,
    ) -> pd.DataFrame:
        """FORECAST_COLUMNS of all parts of ``features`` and all horizons, from the rows of
        silver.given_forecast at the origin.
        """
        stand_in = self.predict(fitted, demand, features, origin, horizon)
        key = ["part_number", "horizon"]
        cells = pd.MultiIndex.from_frame(stand_in[key])
        own = given.set_index(key)[["forecast_qty", *DECILES]].reindex(cells)
        is_given = own["forecast_qty"].notna().to_numpy()
        parts = features["part_number"]
        expected = np.where(is_given, own["forecast_qty"], stand_in["forecast_qty"])
        # Rows of the stand-in follow the parts of features, each with all its horizons.
        matrix = demand_matrix(demand, parts, origin)
        rows = forecast_frame(
            features,
            matrix,
            expected.reshape(len(parts), horizon),
            ~is_given.reshape(len(parts), horizon),
            fitted,
        )
        has_deciles = own["q10"].notna().to_numpy()
        rows.loc[has_deciles, list(DECILES)] = own.loc[has_deciles, list(DECILES)].to_numpy()
        return rows


def specs(given_forecasts: Mapping[str, GivenForecasts]) -> tuple[ModelSpec, ...]:
    """One entry of the contest for each given forecast, in the order of the configuration."""
    return tuple(
        ModelSpec(
            name=name,
            family="given",
            description=given.description,
            build=lambda parameters: Given(),
            is_given=True,
        )
        for name, given in given_forecasts.items()
    )
