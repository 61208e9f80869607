"""Pictures of demand, forecasts and errors, for MLflow and for the metadata of assets.

Small pandas frames in, a matplotlib Figure out, without pyplot's global state. Where a picture is stored is not decided here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from medallion_assets.tables import DEMAND_CLASSES

MAX_MARKDOWN_BYTES = 200_000
MAX_ROWS = 28  # bars or models that are legible on one picture

# Okabe and Ito: told apart with any common colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#8C8C8C"
_CLASS_STYLES = {
    "smooth": (BLUE, "o"),
    "erratic": (ORANGE, "s"),
    "intermittent": (GREEN, "^"),
    "lumpy": (RED, "D"),
    "new": (PURPLE, "v"),
    "all": ("black", "|"),
}
_KINDS = ("all", "demand_class", "abc_class", "region")
_KIND_NAMES = {"demand_class": "class", "abc_class": "ABC", "region": "region"}
_WIDTH, _DPI = 8.0, 100  # inches and dots: 800 pixels


def error_by_segment(evaluation: pd.DataFrame, model: str, baseline: str = "seasonal_naive", is_simulated: bool = False) -> Figure:
    """WQL of one model by segment, beside the baseline's: bars for the model, marks for the baseline.

    evaluation: rows of gold.model_evaluation of one month. Shown are all parts, classes, ABC classes, months ahead, and as many
    regions as there is room for, those with most demand first. Segments in which the model has no WQL are left out.
    """
    of_all = (evaluation["segment_kind"] == "all") & (evaluation["horizon"] > 0)
    rows = evaluation[(of_all | (evaluation["horizon"] == 0)) & evaluation["model"].isin([model, baseline])]
    rows = rows.assign(label=[_segment_label(*key) for key in zip(rows["segment_kind"], rows["segment"], rows["horizon"], strict=True)])
    order = rows.assign(
        kind=rows["segment_kind"].map(list(_KINDS).index).where(rows["horizon"] == 0, _KINDS.index("abc_class") + 0.5),
        place=rows["actual_qty"].mul(-1).where(rows["segment_kind"] == "region", rows["horizon"] + rows["segment"].map(_class_place)),
    ).sort_values(["kind", "place", "label"], kind="stable")
    wql = rows.pivot_table(index="label", columns="model", values="wql", aggfunc="first")
    own = wql[model].dropna() if model in wql.columns else pd.Series(dtype=float)
    ordered = [label for label in order["label"].drop_duplicates() if label in own.index][:MAX_ROWS]
    figure, axes = _canvas(f"Forecast error by segment: {model}", is_simulated, height=1.6 + 0.3 * max(len(ordered), 4))
    if not ordered:
        return _nothing(figure, axes, "no segment with an error on identical cells")
    positions = np.arange(len(ordered))
    axes.barh(positions, own[ordered], height=0.62, color=BLUE, label=model)
    if baseline in wql.columns and baseline != model:
        axes.plot(wql[baseline][ordered], positions, linestyle="none", marker="D", markersize=7, color=ORANGE, mec="black", label=baseline)
    axes.set_yticks(positions, [_short(label) for label in ordered])
    axes.set_ylim(len(positions) - 0.4, -0.6)
    axes.set_xlabel("WQL (quantile loss per unit of demand; lower is better)")
    axes.set_ylabel("segment")
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    _legend_below(figure, axes)
    return figure


def forecast_against_actual(totals: pd.DataFrame, model: str, is_simulated: bool = False) -> Figure:
    """Total demand by month beside the forecasts made one month ahead.

    totals: target_yyyymm, actual_qty, forecast_qty, q10, q90, units (evaluation.monthly_totals, rows of one model and month). The
    band adds up the parts' deciles, and so is wider than the 80 % interval of the total.
    """
    rows = totals.sort_values("target_yyyymm")
    figure, axes = _canvas(f"Forecast one month ahead against actual: {model}", is_simulated)
    if rows.empty:
        return _nothing(figure, axes, "no forecast whose month is over")
    dates = _dates(rows["target_yyyymm"])
    band = (rows["q10"].to_numpy(dtype=float), rows["q90"].to_numpy(dtype=float))
    axes.fill_between(dates, *band, color=BLUE, alpha=0.2, linewidth=0, label="sum of the parts' q10 to q90")
    axes.plot(dates, rows["forecast_qty"], color=BLUE, marker="o", linestyle="--", label="forecast")
    axes.plot(dates, rows["actual_qty"], color="black", marker="s", label="actual")
    _month_axis(axes, dates)
    axes.set_ylabel("demand of all parts (units per month)")
    _quantity_axis(axes)
    _legend_below(figure, axes)
    return figure


def calibration(histogram: pd.DataFrame, model: str, is_simulated: bool = False) -> Figure:
    """Share of cells in each tenth of the forecast distribution (randomised PIT); a calibrated forecast has a tenth in each.

    histogram: tenth (1 ... 10), cell_count (evaluation.pit_histogram, rows of one model and month).
    """
    counts = histogram.groupby("tenth")["cell_count"].sum().reindex(range(1, 11), fill_value=0)
    figure, axes = _canvas(f"Calibration: {model}", is_simulated)
    if counts.sum() == 0:
        return _nothing(figure, axes, "no cell with a forecast and an actual")
    share = counts / counts.sum()
    axes.bar(share.index, share, width=0.85, color=[GREY, *[BLUE] * 8, GREY])
    axes.axhline(0.1, color="black", linestyle="--", linewidth=1.2, label="calibrated: 10% in each")
    inside = float(share.loc[2:9].sum())
    axes.plot([], [], linestyle="none", marker="s", color=BLUE, label=f"between q10 and q90: {inside:.1%} (calibrated: 80%)")
    axes.set_xticks(range(1, 11), [f"{10 * (tenth - 1)}–{10 * tenth}" for tenth in range(1, 11)])
    axes.set_xlabel("where the actual fell in the forecast distribution (per cent)")
    axes.set_ylabel("share of cells")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="x", visible=False)
    _legend_below(figure, axes)
    return figure


def feature_importance(importance: pd.DataFrame, model: str, is_simulated: bool = False, top: int = 20) -> Figure:
    """The features a model leans on most. importance: feature, importance (in any unit; shown as a share of their sum)."""
    by_feature = importance.groupby("feature")["importance"].sum()
    share = (by_feature / by_feature.sum() if by_feature.sum() > 0 else by_feature).sort_values(ascending=False, kind="stable").head(top)
    figure, axes = _canvas(f"Feature importance: {model}", is_simulated, height=1.4 + 0.28 * max(len(share), 4))
    if share.empty:
        return _nothing(figure, axes, "the model names no features")
    positions = np.arange(len(share))
    axes.barh(positions, share, height=0.65, color=BLUE)
    axes.set_yticks(positions, [_short(str(name)) for name in share.index])
    axes.set_ylim(len(positions) - 0.4, -0.6)
    axes.set_xlabel("share of the importance of all features")
    axes.set_ylabel("feature")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", visible=False)
    return figure


def model_comparison(evaluation: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """WQL of every model by demand class and over all parts, the best model on top.

    evaluation: rows of gold.model_evaluation of one month. Models without figures for lack of cells are named with their number.
    """
    rows = evaluation[(evaluation["horizon"] == 0) & evaluation["segment_kind"].isin(["all", "demand_class"])]
    figures = rows.pivot_table(index="model", columns="segment", values="wql", aggfunc="first")
    missing = rows.groupby("model")["missing_cell_count"].max().astype(int)
    rank = figures["all"] if "all" in figures else pd.Series(dtype=float)
    rank = rank.reindex(missing.index).fillna(figures.mean(axis=1).reindex(missing.index))
    ordered = list(rank.sort_values(kind="stable", na_position="last").index)[:MAX_ROWS]
    figure, axes = _canvas("Forecast error by model and demand class", is_simulated, height=1.8 + 0.34 * max(len(ordered), 4))
    if figures.empty:
        return _nothing(figure, axes, "no model with an error on identical cells")
    positions = np.arange(len(ordered))
    for segment in (*DEMAND_CLASSES, "all"):
        if segment in figures:
            colour, marker = _CLASS_STYLES[segment]
            size, label = (17, "all parts") if segment == "all" else (8, segment)
            edge = 2.5 if segment == "all" else 0.8
            wql = figures[segment].reindex(ordered)
            axes.plot(wql, positions, linestyle="none", marker=marker, markersize=size, color=colour, mew=edge, label=label)
    axes.set_yticks(positions, [_short(m) + (f"\nlacks {missing[m]:,} cells" if missing[m] else "") for m in ordered])
    axes.set_ylim(len(positions) - 0.4, -0.6)
    axes.set_xlabel("WQL (quantile loss per unit of demand; lower is better)")
    axes.set_ylabel("model")
    axes.set_xlim(left=0)
    _legend_below(figure, axes, columns=6)
    return figure


def demand_history(demand: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """Total demand per month. demand: yyyymm, demand_qty (units), and optionally is_complete; partial months are drawn hollow."""
    rows = demand.sort_values("yyyymm")
    figure, axes = _canvas("Demand of all parts", is_simulated)
    if rows.empty:
        return _nothing(figure, axes, "no month with demand")
    dates = _dates(rows["yyyymm"])
    qty = rows["demand_qty"].to_numpy(dtype=float)
    is_complete = rows["is_complete"].to_numpy(dtype=bool) if "is_complete" in rows else np.ones(len(rows), dtype=bool)
    axes.plot(dates[is_complete], qty[is_complete], color=BLUE, marker="o", markersize=4, label="complete months")
    if not is_complete.all():
        axes.plot(
            dates[~is_complete], qty[~is_complete], linestyle="none", marker="o", mfc="white", color=RED, label="months not complete yet"
        )
        _legend_below(figure, axes)
    _month_axis(axes, dates)
    axes.set_ylabel("demand (units per month)")
    _quantity_axis(axes)
    return figure


def served_forecast(history: pd.DataFrame, forecast: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """Total demand of the last three years and the forecast that is served after it.

    history: yyyymm, demand_qty, complete months; forecast: target_yyyymm, forecast_qty, q10, q90, all units. The band adds up the
    parts' deciles, and so is wider than the 80 % interval of the total.
    """
    past, coming = history.sort_values("yyyymm").tail(36), forecast.sort_values("target_yyyymm")
    figure, axes = _canvas("Demand of all parts and its forecast", is_simulated)
    if coming.empty:
        return _nothing(figure, axes, "no forecast")
    behind, ahead = _dates(past["yyyymm"]), _dates(coming["target_yyyymm"])
    band = (coming["q10"].to_numpy(dtype=float), coming["q90"].to_numpy(dtype=float))
    axes.fill_between(ahead, *band, color=BLUE, alpha=0.2, linewidth=0, label="sum of the parts' q10 to q90")
    axes.plot(behind, past["demand_qty"], color="black", marker="s", markersize=4, label="actual")
    axes.plot(ahead, coming["forecast_qty"], color=BLUE, marker="o", linestyle="--", label="forecast")
    _month_axis(axes, pd.DatetimeIndex([*behind, *ahead]))
    axes.set_ylabel("demand of all parts (units per month)")
    _quantity_axis(axes)
    _legend_below(figure, axes)
    return figure


class Picture(NamedTuple):
    """A rendered figure: PNG, and its alternative text."""

    png: bytes
    description: str

    @property
    def markdown(self) -> str:
        """As an inline image."""
        return f"![{self.description}](data:image/png;base64,{base64.b64encode(self.png).decode('ascii')})"


def rendered(figure: Figure, description: str = "") -> Picture:
    """The figure as a PNG whose markdown stays under 200 KB: its resolution is lowered until it fits.

    ``description`` is the image's alternative text; by default the figure's title. Raises ValueError when it does not fit at 20 dpi.
    """
    text = (description or _title_of(figure)).replace("[", "(").replace("]", ")")
    dpi = float(_DPI)
    while dpi >= 20:
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
        picture = Picture(content.getvalue(), text)
        if len(picture.markdown.encode()) < MAX_MARKDOWN_BYTES:
            return picture
        dpi *= 0.8
    raise ValueError(f"the picture '{text}' is larger than {MAX_MARKDOWN_BYTES:,} bytes at any legible resolution")


def _canvas(title: str, is_simulated: bool, height: float = 4.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title + (" (simulated data)" if is_simulated else ""), fontsize=13, loc="left")
    axes.tick_params(labelsize=10)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _nothing(figure: Figure, axes: Axes, why: str) -> Figure:
    """A figure that says why it is empty: an empty one would look like a fault."""
    axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=12, transform=axes.transAxes)
    axes.set_axis_off()
    return figure


def _legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), fontsize=10, frameon=False)


def _title_of(figure: Figure) -> str:
    return figure.axes[0].get_title(loc="left") if figure.axes else ""


def _dates(months: Sequence[int] | pd.Series) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime(pd.Series(months).astype(int).astype(str), format="%Y%m"))


def _month_axis(axes: Axes, dates: pd.DatetimeIndex) -> None:
    step = next((months for months in (1, 2, 3, 6, 12, 24, 60) if len(dates) <= 12 * months), 120)
    shown = dates[::-1][::step][::-1]
    axes.set_xticks(shown, [date.strftime("%Y-%m") for date in shown], rotation=30 if len(shown) > 8 else 0)
    axes.set_xlabel("month")


def _quantity_axis(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _segment_label(kind: str, segment: str, horizon: int) -> str:
    if kind == "all":
        return f"{horizon} month{'' if horizon == 1 else 's'} ahead" if horizon else "all parts"
    return f"{_KIND_NAMES[kind]} {segment}"


def _class_place(segment: str) -> int:
    return DEMAND_CLASSES.index(segment) if segment in DEMAND_CLASSES else 0


def _short(label: str) -> str:
    return label if len(label) <= 28 else label[:27] + "…"
