"""Plots of evidence and forecasts, as figures: MLflow keeps them, the UI shows them inline.

Frames of a few rows in, a figure out; what the figures mean is made in evaluation.py. No global state of the plotting library is used.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medallion_assets.tables import DEMAND_CLASSES

MARKDOWN_LIMIT = 200_000  # bytes of metadata that the UI still shows quickly
# Okabe and Ito (2008): told apart by people with any colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
BASELINE_COLOUR = "#999999"


def model_comparison(evaluation: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """WQL by demand class for all models: rows of gold.model_evaluation of one month."""
    rows = evaluation[(evaluation["horizon"] == 0) & (evaluation["segment_kind"] == "demand_class")]
    classes = [name for name in DEMAND_CLASSES if name in set(rows["segment"])]
    models = sorted(rows["model"].unique())
    figure, axes = _figure("Error of every model by demand class", is_simulated, height=4.2)
    width = 0.8 / max(len(models), 1)
    for i, model in enumerate(models):
        by_class = rows[rows["model"] == model].set_index("segment")["wql"]
        heights = [float(by_class.get(name, np.nan)) for name in classes]
        axes.bar(np.arange(len(classes)) + (i - (len(models) - 1) / 2) * width, heights, width, label=model, color=_colour(i, model))
    axes.set_xticks(np.arange(len(classes)), classes)
    axes.set_ylabel("WQL (lower is better)")
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False)
    return figure


def error_by_segment(evaluation: pd.DataFrame, model: str, baseline: str, is_simulated: bool = False) -> Figure:
    """WQL of a model beside the baseline's, by class, ABC class and horizon: rows of gold.model_evaluation of one month."""
    kinds = evaluation["segment_kind"].isin(["demand_class", "abc_class"]) & (evaluation["horizon"] == 0)
    by_horizon = (evaluation["segment_kind"] == "all") & (evaluation["horizon"] > 0)
    rows = evaluation[kinds | by_horizon]
    labels = rows["segment"].where(rows["horizon"] == 0, "h" + rows["horizon"].astype(str).str.zfill(2))
    table = rows.assign(label=labels).pivot_table(index="label", columns="model", values="wql", sort=False)
    order = [*DEMAND_CLASSES, "A", "B", "C", *sorted(label for label in table.index if label.startswith("h"))]
    table = table.reindex([label for label in order if label in table.index])
    figure, axes = _figure(f"{model}: error by segment", is_simulated)
    positions = np.arange(len(table))
    for offset, name, colour in ((-0.2, model, COLOURS[0]), (0.2, baseline, BASELINE_COLOUR)):
        if name in table and (name != baseline or model != baseline or offset > 0):
            axes.bar(positions + offset, table[name].to_numpy(dtype=float), 0.4, label=name, color=colour)
    axes.set_xticks(positions, list(table.index), rotation=45, ha="right")
    axes.set_ylabel("WQL (lower is better)")
    axes.legend(frameon=False)
    return figure


def forecast_against_actual(totals: pd.DataFrame, model: str, is_simulated: bool = False) -> Figure:
    """Total demand and the forecast one month ahead: target_yyyymm, actual_qty, forecast_qty, q10, q90, units."""
    rows = totals.sort_values("target_yyyymm")
    figure, axes = _figure(f"{model}: one month ahead, all parts", is_simulated)
    months = [_month(value) for value in rows["target_yyyymm"]]
    axes.fill_between(months, rows["q10"], rows["q90"], color=COLOURS[0], alpha=0.2, label="sum of q10 to q90")
    axes.plot(months, rows["forecast_qty"], color=COLOURS[0], marker="o", label="forecast")
    axes.plot(months, rows["actual_qty"], color=COLOURS[7], marker="s", label="sold")
    axes.set_ylabel("units a month")
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", rotation=45)
    axes.legend(frameon=False)
    return figure


def calibration(pit: pd.DataFrame, model: str, is_simulated: bool = False) -> Figure:
    """Share of cells by tenth of the randomised PIT: tenth, cell_count. A calibrated forecast fills all tenths alike."""
    counts = pit.groupby("tenth")["cell_count"].sum().reindex(range(1, 11), fill_value=0)
    figure, axes = _figure(f"{model}: how often sales fell between its deciles", is_simulated)
    share = counts / max(int(counts.sum()), 1)
    axes.bar(np.arange(1, 11), share.to_numpy(), 0.9, color=COLOURS[0])
    axes.axhline(0.1, color=COLOURS[7], linestyle="--", linewidth=1, label="calibrated")
    axes.set_xticks(range(1, 11), ["< q10", *(f"q{i}0" for i in range(1, 9)), "> q90"], rotation=45, ha="right")
    axes.set_ylabel("share of cells")
    axes.legend(frameon=False)
    return figure


def feature_importance(importance: pd.DataFrame, model: str, is_simulated: bool = False, most: int = 20) -> Figure:
    """The most important features: feature, importance (share, 0 to 1)."""
    rows = importance.head(most)[::-1]
    figure, axes = _figure(f"{model}: importance of features", is_simulated, height=max(2.5, 0.26 * len(rows) + 1))
    axes.barh(rows["feature"], rows["importance"], color=COLOURS[0])
    axes.set_xlabel("share of the loss reduction")
    return figure


def demand_history(totals: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """Total demand by month: yyyymm, demand_qty, units."""
    rows = totals.sort_values("yyyymm")
    figure, axes = _figure("Demand of all parts", is_simulated, height=2.8)
    axes.plot(range(len(rows)), rows["demand_qty"], color=COLOURS[0])
    _month_ticks(axes, rows["yyyymm"])
    axes.set_ylabel("units a month")
    axes.set_ylim(bottom=0)
    return figure


def served_forecast(history: pd.DataFrame, forecast: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """Total demand and the served forecast after it: yyyymm, demand_qty; target_yyyymm, forecast_qty, q10, q90, units."""
    past, coming = history.sort_values("yyyymm").tail(36), forecast.sort_values("target_yyyymm")
    figure, axes = _figure("Demand of all parts and the forecast", is_simulated)
    ahead = np.arange(len(past), len(past) + len(coming))
    axes.plot(range(len(past)), past["demand_qty"], color=COLOURS[7], label="sold")
    axes.fill_between(ahead, coming["q10"], coming["q90"], color=COLOURS[0], alpha=0.2, label="sum of q10 to q90")
    axes.plot(ahead, coming["forecast_qty"], color=COLOURS[0], marker="o", markersize=4, label="forecast")
    _month_ticks(axes, [*past["yyyymm"], *coming["target_yyyymm"]])
    axes.set_ylabel("units a month")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def as_markdown(figure: Figure) -> str:
    """The figure as an inline picture, drawn coarser until it is small enough for metadata."""
    for dpi in (110, 90, 70, 50):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        if len(encoded) < MARKDOWN_LIMIT:
            break
    return f"![{figure.axes[0].get_title()}](data:image/png;base64,{encoded})"


def _figure(title: str, is_simulated: bool, height: float = 3.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(f"{title} (simulated data)" if is_simulated else title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def _colour(position: int, model: str) -> str:
    return BASELINE_COLOUR if model == "seasonal_naive" else COLOURS[position % len(COLOURS)]


def _month(yyyymm: int) -> str:
    return f"{int(yyyymm) // 100}-{int(yyyymm) % 100:02d}"


def _month_ticks(axes: Axes, months: Sequence[int]) -> None:
    labels = [_month(month) for month in months]
    step = max(1, len(labels) // 8)
    axes.set_xticks(range(0, len(labels), step), labels[::step], rotation=45, ha="right")
