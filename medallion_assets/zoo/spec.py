"""What a model of the zoo is: the Forecaster protocol, what it is fitted on, the frozen ModelSpec.

Families implement Forecaster and end in MODELS = (ModelSpec(...), ...). How models are run, stored
and compared does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from medallion_assets.tables import DECILES, DEMAND_CLASSES

Parameters = Mapping[str, bool | int | float | str]
Fitted = Any  # what a model learned; must pickle, and have a plain form in stored.py

FORECAST_COLUMNS = ("part_number", "horizon", "forecast_qty", *DECILES, "is_fallback")


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known at the end of an origin: a model is fitted on it. All frames are pandas,
    quantities are units, and nothing may be mutated.

    demand: part_number, yyyymm, demand_qty. Dense from each part's first month through the origin
        (zeros included), sorted by part and month, cut to the training window. Whole parts, a
        sample where there are many; no rows for a model that is not ``is_global``.
    features: columns of silver.demand_features, one row per part and month t of the training
        window through the origin (yyyymm = t), each knowing nothing after t; for a model that is
        not ``is_global`` one row per part, at the origin.
    own_past: the model's forecasts of earlier origins for targets through this one, and what came
        of them: origin, part_number, horizon, target_yyyymm, forecast_qty, q10 ... q90,
        is_fallback, actual_qty; demand_class and ORIGIN_FEATURES of calibration.py as of their
        origin. Sorted by origin, part and horizon, whole parts. May be empty, without columns too.
    members: the models that a combination declares, by name, fitted at this origin. Other models
        have none.
    origin: the last month that is known, as yyyymm.
    horizon: how many months are to be forecast.
    seed: for all that is drawn at random.
    """

    demand: pd.DataFrame
    features: pd.DataFrame
    own_past: pd.DataFrame = field(default_factory=pd.DataFrame)
    members: Mapping[str, Member] = field(default_factory=dict)
    origin: int
    horizon: int
    seed: int


class Forecaster(Protocol):
    """A model. The same arguments give the same numbers, and nothing that is given is mutated.

    ``fit`` learns from what is known at an origin; a model that needs no training learns its
    calibration there. ``predict`` forecasts any parts at any origin: demand as in Known, of these
    parts; features one row per part, at the origin. It gives exactly one row per part of
    ``features`` and horizon 1 ... horizon with FORECAST_COLUMNS: forecast_qty the expected demand,
    deciles in order, all finite and >= 0; is_fallback where a series could not be forecast and a
    plain mean stands in.
    """

    def fit(self, known: Known) -> Fitted: ...

    def predict(
        self,
        fitted: Fitted,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        horizon: int,
    ) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Member:
    """A model that a combination averages: fitted at the same origin, with its own past as in
    Known.
    """

    forecaster: Forecaster
    fitted: Fitted
    past: pd.DataFrame


@runtime_checkable
class LearnsApart(Forecaster, Protocol):
    """A model whose costly learning looks at no past forecast: ``fit`` is ``calibrate`` of
    ``learn``.

    The backtest has other processes learn for several origins at a time, before what is past at
    each of them is known: ``own_past`` is empty in ``learn``.
    """

    def learn(self, known: Known) -> Any: ...

    def calibrate(self, learned: Any, known: Known) -> Fitted: ...


@runtime_checkable
class ExplainsItself(Forecaster, Protocol):
    """A model that can say what it read."""

    def feature_importance(self, fitted: Fitted) -> pd.DataFrame:
        """feature, importance (shares that sum to one), the most important first."""


class Combining(Forecaster, Protocol):
    """A model with members: its forecasts are made from theirs, which are stored already where it
    is backtested.
    """

    def combine(
        self, fitted: Fitted, members: Mapping[str, pd.DataFrame], features: pd.DataFrame
    ) -> pd.DataFrame:
        """As predict, from the members' FORECAST_COLUMNS at the origin, by member. Parts that no
        member has are left out.
        """


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the zoo. ``build`` makes the Forecaster from ``parameters`` (defaults, overlaid
    by the configuration).

    ``is_global``: fit learns from all parts' demand and features, not from the origin's features
    alone. ``members``: models that it combines; it is then Combining. ``is_given``: made elsewhere
    and read, never registered or promoted; its forecaster is a ``Given``.
    """

    name: str
    family: str
    description: str
    build: Callable[[Parameters], Forecaster]
    parameters: Parameters = field(default_factory=dict)
    is_global: bool = False
    members: tuple[str, ...] = ()
    classes: tuple[str, ...] = DEMAND_CLASSES
    code_version: str = "1"
    is_given: bool = False

    def forecaster(self, overrides: Parameters) -> Forecaster:
        """The model with its parameters. Raises ValueError for a parameter it does not have."""
        if unknown := sorted(set(overrides) - set(self.parameters)):
            raise ValueError(
                f"zoo.parameters.{self.name}: unknown {', '.join(unknown)}; known:"
                f" {', '.join(self.parameters) or 'none'}"
            )
        return self.build({**self.parameters, **overrides})
