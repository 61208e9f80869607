"""What a model of the zoo is: the Forecaster protocol, the frozen ModelSpec, the frames they
exchange.

Families implement Forecaster and end in MODELS = (ModelSpec(...), ...). How models are run, stored
and compared does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd

from medallion_assets.tables import DECILES, DEMAND_CLASSES

Parameters = Mapping[str, bool | int | float | str]
Fitted = Any  # what a model learned; must pickle

FORECAST_COLUMNS = ("part_number", "horizon", "forecast_qty", *DECILES, "is_fallback")


class Forecaster(Protocol):
    """A model. All frames are pandas; nothing may be mutated; the same arguments give the same
    numbers.

    demand: part_number, yyyymm, demand_qty in units. Dense from each part's first month through
        the origin (zeros included), sorted by part and month, cut to the training window.
    features: the columns of silver.demand_features. In ``fit`` one row per part and month t of the
        training window through the origin (yyyymm = t, each row knowing nothing after t); in
        ``predict`` one row per part, at the origin.
    past: stored forecasts of this model and of the members it declares, made at earlier origins
        for targets through this origin: model, origin, part_number, horizon, target_yyyymm,
        forecast_qty, q10 ... q90, is_fallback, actual_qty, demand_class, and demand_mean_12,
        demand_std_12 as of that origin; and, without actual_qty, the members' rows at this
        origin. May be empty.

    ``fit`` sees a sample of whole parts (all of them where there are few); a model that needs no
    training learns its calibration there. ``predict`` gives exactly one row per part of
    ``features`` and horizon 1 ... horizon with FORECAST_COLUMNS: forecast_qty the expected demand,
    deciles in order, all finite and >= 0; is_fallback where a series could not be forecast and a
    plain mean stands in.
    """

    def fit(
        self,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        past: pd.DataFrame,
        origin: int,
        horizon: int,
        seed: int,
    ) -> Fitted: ...

    def predict(
        self,
        fitted: Fitted,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        horizon: int,
    ) -> pd.DataFrame: ...


class LearnsApart(Forecaster, Protocol):
    """A model whose costly learning looks at no past forecast: ``fit`` is ``calibrated`` of
    ``learn``.

    The backtest has other processes learn for several origins at a time, before what is past at
    each of them is known.
    """

    def learn(
        self, demand: pd.DataFrame, features: pd.DataFrame, origin: int, horizon: int, seed: int
    ) -> Any: ...

    def calibrated(self, learned: Any, past: pd.DataFrame, features: pd.DataFrame) -> Fitted: ...


class FittedMembers(dict[str, tuple[Forecaster, Fitted]]):
    """The members' forecasters and fits by name, as ``past.attrs["members"]`` hands them to a
    combination; read only.

    pandas copies attrs deeply into every frame it makes of a frame, which took 12 s a fit where the
    members are boosters.
    """

    def __deepcopy__(self, memo: object) -> FittedMembers:
        return self


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
    alone. ``members``: models that it combines; it is then Combining. ``reads_past``: fit looks at
    stored forecasts of earlier origins. ``is_given``: made elsewhere and read, never registered;
    its forecaster is a ``Given``.
    """

    name: str
    family: str
    description: str
    build: Callable[[Parameters], Forecaster]
    parameters: Parameters = field(default_factory=dict)
    is_global: bool = False
    reads_past: bool = True
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
