"""Hyper-parameters of one model, searched inside the training window: what forecast its last months
best from the months before.

Nothing here knows tables or runs. When a model is tuned, and where the result is kept, lies in
backtest.py.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medallion_assets.partitions import add_months
from medallion_assets.tables import DECILES, LEVELS
from medallion_assets.zoo.spec import Forecaster, ModelSpec, Parameters, Range

# of the score, in every window: what gained in one alone did worse on later months as often as not
LEAST_GAIN = 0.01
WINDOWS = 2


@dataclass(frozen=True)
class Tuned:
    """What a search found. ``parameters``: the searched ones, empty where the defaults stay;
    ``score`` relative to theirs.
    """

    parameters: Parameters
    score: float
    trials: int
    seconds: float


@dataclass(frozen=True)
class Now:
    """Work that is done where it is asked for."""

    work: Callable[[], Any]

    def result(self) -> Any:
        return self.work()


@dataclass(frozen=True)
class _Window:
    """What was known at the end of a month, the parts to be forecast then, and what they sold
    afterwards.
    """

    known_through: int
    demand: pd.DataFrame
    features: pd.DataFrame
    asked: pd.DataFrame
    actual: pd.DataFrame


def tune(
    spec: ModelSpec,
    parameters: Parameters,
    demand: pd.DataFrame,
    features: pd.DataFrame,
    origin: int,
    horizon: int,
    seed: int,
    trials: int,
    max_seconds: float,
    max_rows: int,
    begin: Callable[[Callable[[], Any]], Any] = Now,
) -> Tuned:
    """Search ``spec.search`` by Optuna's TPE (Bergstra et al. 2011), the given parameters being the
    first trial.

    demand and features as for Forecaster.fit. Each trial learns from the months through origin -
    horizon, and through origin - 2 * horizon, and is asked for the ``horizon`` months that follow.
    Its score in a window is the mean of weighted quantile loss and root mean squared error, each
    divided by those of the given parameters; absolute error would reward forecasting nothing. Other
    parameters are taken only where they gain LEAST_GAIN in every window. At most ``max_rows`` rows
    of part, month and horizon are learned from, of parts drawn by the seed. ``max_seconds`` ends
    the search after the trial that passes it: the number of trials made is told. ``begin`` starts
    the work of a window, and its ``result`` waits for it.
    """
    import optuna

    started = time.monotonic()
    ends = (add_months(origin, -horizon * number) for number in range(1, WINDOWS + 1))
    windows = [
        w
        for end in ends
        if (w := _window(demand, features, end, horizon, max_rows, seed)) is not None
    ]
    if not windows:
        return Tuned({}, 1.0, 0, 0.0)
    losses: list[list[tuple[float, float]]] = []

    def objective(trial: optuna.Trial) -> float:
        found = {name: _suggested(trial, name, r) for name, r in spec.search.items()}
        forecaster = spec.forecaster({**parameters, **found})
        begun = [
            begin(functools.partial(_losses, forecaster, window, horizon, seed))
            for window in windows
        ]
        losses.append([work.result() for work in begun])
        scores = [
            float(
                np.mean(
                    [value / (default or 1.0) for value, default in zip(now, first, strict=True)]
                )
            )
            for now, first in zip(losses[-1], losses[0], strict=True)
        ]
        trial.set_user_attr("worst", max(scores))
        return float(np.mean(scores))

    optuna.logging.set_verbosity(logging.ERROR)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({name: parameters[name] for name in spec.search})
    study.optimize(objective, n_trials=1)
    if trials > 1 and (left := max_seconds - (time.monotonic() - started)) > 0:
        study.optimize(objective, n_trials=trials - 1, timeout=left)
    best, seconds = study.best_trial, time.monotonic() - started
    if best.number == 0 or best.user_attrs["worst"] >= 1 - LEAST_GAIN:
        return Tuned({}, 1.0, len(study.trials), seconds)
    return Tuned(dict(best.params), study.best_value, len(study.trials), seconds)


def _suggested(trial: Any, name: str, values: Range) -> float:
    if values.is_int:
        return int(trial.suggest_int(name, int(values.low), int(values.high), log=values.is_log))
    return float(trial.suggest_float(name, values.low, values.high, log=values.is_log))


_PAST_COLUMNS = [
    "model",
    "origin",
    "part_number",
    "horizon",
    "target_yyyymm",
    "forecast_qty",
    *DECILES,
    "is_fallback",
    "actual_qty",
    "demand_class",
    "demand_mean_12",
    "demand_std_12",
]


def _window(
    demand: pd.DataFrame, features: pd.DataFrame, end: int, horizon: int, max_rows: int, seed: int
) -> _Window | None:
    """The window that ends with a month, of parts whose rows, one for each horizon, are about
    ``max_rows``; None where nothing was sold.
    """
    count = (features["yyyymm"] <= end).sum() * horizon
    parts = np.sort(features["part_number"].unique())
    drawn = max(1, int(len(parts) * min(1.0, max_rows / max(count, 1))))
    wanted = set(np.random.default_rng(seed).choice(parts, drawn, replace=False))
    demand, features = (rows[rows["part_number"].isin(wanted)] for rows in (demand, features))
    before = features[features["yyyymm"] <= end].reset_index(drop=True)
    asked = before[(before["yyyymm"] == end) & before["is_active"].astype(bool)].reset_index(
        drop=True
    )
    known, later = (
        demand[demand["yyyymm"] <= end].reset_index(drop=True),
        demand[demand["yyyymm"] > end],
    )
    actual = later[later["yyyymm"] <= add_months(end, horizon)]
    return (
        None
        if asked.empty or not actual["demand_qty"].any()
        else _Window(end, known, before, asked, actual)
    )


def _losses(
    forecaster: Forecaster, window: _Window, horizon: int, seed: int
) -> tuple[float, float]:
    """Weighted quantile loss and root mean squared error of a window; a month without a row of
    demand counts as zero.
    """
    end = window.known_through
    past = pd.DataFrame(columns=_PAST_COLUMNS)
    past.attrs["members"] = {}
    fitted = forecaster.fit(window.demand, window.features, past, end, horizon, seed)
    forecasts = forecaster.predict(fitted, window.demand, window.asked, end, horizon)
    targets = {h: add_months(end, h) for h in range(1, horizon + 1)}
    rows = forecasts.assign(yyyymm=forecasts["horizon"].map(targets)).merge(
        window.actual, on=["part_number", "yyyymm"], how="left"
    )
    sold = rows["demand_qty"].fillna(0.0).to_numpy()
    error = sold[:, None] - rows[list(DECILES)].to_numpy(dtype=float)
    pinball = np.maximum(np.asarray(LEVELS) * error, (np.asarray(LEVELS) - 1) * error).mean()
    return float(2 * pinball / (sold.mean() or 1.0)), float(
        np.sqrt(((sold - rows["forecast_qty"].to_numpy(dtype=float)) ** 2).mean())
    )
