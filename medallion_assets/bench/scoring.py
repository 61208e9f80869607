"""Scores of predictions against a series file, by the metrics of docs/accuracy.md. Pure: knows no
lakehouse, no model, no clock.

MASE and MAE-like figures use the median, squared errors and bias the expected demand, WQL and
calibration the nine deciles.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medallion_assets.tables import DECILES, LEVELS

Floats = NDArray[np.float64]

SEASON = 12
PIT_SEED = 20
HALF = LEVELS[0] / 2


def monthly(series: pd.DataFrame) -> pd.DataFrame:
    """unique_id, month (months since year 0), y: one row for each month from a series' first to its
    last, gaps and NaN as zero.

    series: unique_id, ds (a date in the month), y.
    """
    dates = series["ds"].dt
    known = pd.DataFrame(
        {
            "unique_id": series["unique_id"].astype(str),
            "month": dates.year * 12 + dates.month - 1,
            "y": series["y"],
        }
    )
    known = known.groupby(["unique_id", "month"], as_index=False)["y"].sum(min_count=1)
    span = known.groupby("unique_id")["month"].agg(["min", "max"])
    length = (span["max"] - span["min"] + 1).to_numpy()
    dense = pd.DataFrame({"unique_id": np.repeat(span.index.to_numpy(), length)})
    dense["month"] = (
        np.repeat(span["min"].to_numpy(), length) + dense.groupby("unique_id").cumcount()
    )
    return dense.merge(known, on=["unique_id", "month"], how="left").fillna({"y": 0.0})


def scores(demand: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, dict[str, float]]:
    """All metrics by model.

    demand: unique_id, month, y (``monthly``), history and test; a month after a series' last is not
    scored. predictions: unique_id, model, origin, month (both months since year 0), forecast and
    q10 ... q90. History of a cell is what lies at or before its origin.
    """
    cells = predictions.merge(demand, on=["unique_id", "month"])
    scales = pd.concat(
        [_scales(demand, int(origin)) for origin in cells["origin"].unique()], ignore_index=True
    )
    cells = cells.merge(scales, on=["unique_id", "origin"], how="left")
    drawn = np.random.default_rng(PIT_SEED).random(2**16)
    places = pd.util.hash_pandas_object(
        cells[["unique_id", "origin", "month"]].astype(str).agg("|".join, axis=1), index=False
    )
    cells["u"] = drawn[(places % 2**16).to_numpy(dtype=int)]
    return {str(model): _scores(rows) for model, rows in cells.groupby("model")}


def _scales(demand: pd.DataFrame, origin: int) -> pd.DataFrame:
    """Per series the scale of MASE and of RMSSE on the history through an origin."""
    history = demand[demand["month"] <= origin].sort_values(["unique_id", "month"])
    values = history.groupby("unique_id")["y"]
    steps = pd.DataFrame(
        {
            "unique_id": history["unique_id"],
            "seasonal": values.diff(SEASON).abs(),
            "squared": values.diff() ** 2,
        },
    )
    means = steps.groupby("unique_id")[["seasonal", "squared"]].mean()
    return pd.DataFrame(
        {
            "unique_id": means.index,
            "origin": origin,
            "mase_scale": means["seasonal"].to_numpy(),
            "rmsse_scale": means["squared"] ** 0.5,
        }
    )


def _scores(cells: pd.DataFrame) -> dict[str, float]:
    y, mean, median = (cells[name].to_numpy(dtype=float) for name in ("y", "forecast", "q50"))
    deciles = cells[list(DECILES)].to_numpy(dtype=float)
    levels = np.asarray(LEVELS)
    short = y[:, None] - deciles
    pinball = np.where(short >= 0, levels * short, (levels - 1) * short)
    total = y.sum()
    by_series = (
        pd.DataFrame({"unique_id": cells["unique_id"], "squared": (y - mean) ** 2})
        .groupby("unique_id")["squared"]
        .mean()
        ** 0.5
    )
    has_scale = (cells["mase_scale"] > 0).to_numpy()
    rmsse_scale = cells.groupby("unique_id")["rmsse_scale"].mean()
    scaled = (by_series / rmsse_scale)[rmsse_scale > 0]
    low, high = _probability(deciles, y - 1), _probability(deciles, y)
    pit = low + cells["u"].to_numpy() * (high - low)
    is_sold = y > 0
    return {
        "mase": float((np.abs(y - median) / cells["mase_scale"])[has_scale].mean()),
        "wql": float(2 * pinball.sum() / len(levels) / total),
        "rmse_pooled": float(((y - mean) ** 2).mean() ** 0.5),
        "rmse_mean": float(by_series.mean()),
        "bias": float((mean - y).sum() / total),
        "wape": float(np.abs(y - median).sum() / total),
        "mape": float((np.abs(y - median)[is_sold] / y[is_sold]).mean()),
        "mape_cell_share": float(is_sold.mean()),
        "rmsse": float(scaled.mean()),
        "calibration": float(((pit >= LEVELS[0]) & (pit <= LEVELS[-1])).mean()),
        "coverage_closed": float(((y >= deciles[:, 0]) & (y <= deciles[:, -1])).mean()),
        "series": float(cells["unique_id"].nunique()),
        "cells": float(len(cells)),
    }


def _probability(deciles: Floats, y: Floats) -> Floats:
    """F(y) of each cell, linear between its deciles, half a tenth below q10, 1 above q90 and 0
    below zero.

    Where y is a decile F jumps: it lies half a tenth above the highest level with that decile, as
    in gold.model_evaluation.
    """
    result = np.where(y >= 0, HALF, 0.0)
    for low, high, level, next_level in zip(
        deciles.T[:-1], deciles.T[1:], LEVELS[:-1], LEVELS[1:], strict=True
    ):
        share = np.divide(y - low, high - low, out=np.zeros_like(y), where=high > low)
        result = np.where((y > low) & (y < high), level + (next_level - level) * share, result)
    result = np.where(y > deciles[:, -1], 1.0, result)
    for decile, level in zip(deciles.T, LEVELS, strict=True):
        result = np.where(y == decile, level + HALF, result)
    return result
