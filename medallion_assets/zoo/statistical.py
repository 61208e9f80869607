"""Statistical models fitted series by series: exponential smoothing, Theta and complex exponential
smoothing of StatsForecast.

Models for sparse demand are in intermittent.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medallion_assets.zoo.series import Flags, Floats, SeriesForecaster, recent_mean
from medallion_assets.zoo.spec import ModelSpec

SEASON = 12
SEASONAL_MONTHS = 2 * SEASON  # a seasonal index seen once can't be told from noise
CES_SEASONAL_MONTHS = (
    3 * SEASON
    # seasonal CES learns noise from less: M3 backtest at 33 months, MASE .946 with a season, .823
    # without
)
DENSE = ("smooth", "erratic")  # of sparse demand they make trends and seasons out of nothing
# times the largest demand ever seen: beyond it an extrapolated trend has run away
LARGEST_RISE = 5.0


@dataclass(frozen=True)
class StatisticalModel(SeriesForecaster):
    """One StatsForecast model per series, non-seasonal below ``seasonal_months`` since the first
    sale.

    ``build`` makes the StatsForecast model from a season length and whether the series is positive
    throughout. Series are scaled to mean one, which the likelihoods need at very large and very
    small units. A series that is too short, raises, or gives forecasts that are not finite or
    beyond LARGEST_RISE times its largest demand, is answered by its mean of twelve months and
    flagged.
    """

    build: Callable[[int, bool], Any]
    seasonal_months: int = SEASONAL_MONTHS
    min_months: int = 4

    def expected(self, matrix: Floats, horizon: int) -> tuple[Floats, Flags]:
        forecast_qty = np.repeat(recent_mean(matrix)[:, None], horizon, axis=1)
        is_fallback = np.zeros(forecast_qty.shape, dtype=bool)
        for row, series in enumerate(matrix):
            sold = np.flatnonzero(np.nan_to_num(series))
            history = series[sold[0] :] if len(sold) else series[:0]
            if len(history) and np.ptp(history) == 0:
                forecast_qty[row] = history[0]
            elif len(history):
                values = (
                    self._forecast(history, horizon) if len(history) >= self.min_months else None
                )
                if values is None:
                    is_fallback[row] = True
                else:
                    forecast_qty[row] = values
        return forecast_qty, is_fallback

    def _forecast(self, history: Floats, horizon: int) -> Floats | None:
        """Forecast [horizon], or None where the method has no sensible answer."""
        scale = float(history.mean())
        season = SEASON if len(history) >= self.seasonal_months else 1
        model = self.build(season, bool((history > 0).all()))
        try:
            # Overflow in a rejected candidate is no news; whatever it leaves is examined below.
            with np.errstate(all="ignore"):
                values = (
                    np.asarray(model.forecast(y=history / scale, h=horizon)["mean"], dtype=float)
                    * scale
                )
        except Exception:  # the libraries raise many kinds; one bad series must not stop a batch
            return None
        if not np.isfinite(values).all() or values.max() > LARGEST_RISE * history.max():
            return None
        return np.maximum(values, 0.0)


# StatsForecast takes seconds to import, so each model is imported when first used.
@dataclass(frozen=True)
class DampedSmoothing:
    """Exponential smoothing without a trend or with a damped one (Gardner and McKenzie 1985), by
    AICc.

    Errors and season are chosen without a trend, and a damped trend is added to the best of those
    forms only: half of the time of fitting all damped forms, and no more error (docs/accuracy.md).
    """

    season: int

    def forecast(self, y: Floats, h: int) -> dict[str, Floats]:
        """Forecast as StatsForecast's models give it. Raises what AutoETS raises where not even a
        series without trend can be fitted.
        """
        from statsforecast.models import AutoETS

        best = AutoETS(season_length=self.season, model="ZNZ").fit(y)
        errors, _, season = best.model_["components"][:3]
        with contextlib.suppress(
            Exception
        ):  # the library raises many kinds on a series too short for a trend
            damped = AutoETS(
                season_length=self.season, model=f"{errors}A{season}", damped=True
            ).fit(y)
            best = min(best, damped, key=lambda model: float(model.model_["aicc"]))
        forecast: dict[str, Floats] = best.predict(h)
        return forecast


def _ets(season: int, is_positive: bool) -> Any:
    return DampedSmoothing(season)


def _theta(season: int, is_positive: bool) -> Any:
    from statsforecast.models import DynamicOptimizedTheta

    return DynamicOptimizedTheta(
        season_length=season, decomposition_type="multiplicative" if is_positive else "additive"
    )


def _ces(season: int, is_positive: bool) -> Any:
    from statsforecast.models import AutoCES

    return AutoCES(season_length=season)


MODELS = (
    ModelSpec(
        name="theta",
        family="statistical",
        description="Dynamic optimised Theta (Fiorucci et al. 2016)",
        build=lambda parameters: StatisticalModel(_theta),
        classes=DENSE,
    ),
    ModelSpec(
        name="ces",
        family="statistical",
        description="Complex exponential smoothing (Svetunkov et al. 2022)",
        build=lambda parameters: StatisticalModel(_ces, CES_SEASONAL_MONTHS),
        classes=DENSE,
        code_version="2",
    ),
    ModelSpec(
        name="auto_ets",
        family="statistical",
        description=(
            "Exponential smoothing, components chosen by AICc (Hyndman et al. 2002), a trend only"
            " damped"
        ),
        build=lambda parameters: StatisticalModel(_ets),
        classes=DENSE,
        code_version="4",
    ),
)
