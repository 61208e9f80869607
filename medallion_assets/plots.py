"""Pictures of demand, forecasts and errors, for MLflow, the metadata of assets and the monthly
report.

Small pandas frames in, a matplotlib Figure out, without pyplot's global state. Where a picture is
stored is not decided here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from medallion_assets.tables import ADI_LIMIT, CV2_LIMIT, DEMAND_CLASSES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_MARKDOWN_BYTES = 200_000
MAX_ROWS = 28  # bars or models that are legible on one picture

# Okabe and Ito: told apart with any common colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#8C8C8C",
)
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
_CHARACTER = 0.11  # inches that a character of a tick's label takes, with room around the label


def error_by_segment(
    evaluation: pd.DataFrame,
    model: str,
    baseline: str = "seasonal_naive",
    is_simulated: bool = False,
) -> Figure:
    """WQL of one model by segment, beside the baseline's: bars for the model, marks for the
    baseline.

    evaluation: rows of gold.model_evaluation of one month. Shown are all parts, classes, ABC
    classes, months ahead, and as many regions as there is room for, those with most demand first.
    Segments in which the model has no WQL are left out.
    """
    of_all = (evaluation["segment_kind"] == "all") & (evaluation["horizon"] > 0)
    rows = evaluation[
        (of_all | (evaluation["horizon"] == 0)) & evaluation["model"].isin([model, baseline])
    ]
    rows = rows.assign(
        label=[
            _segment_label(*key)
            for key in zip(rows["segment_kind"], rows["segment"], rows["horizon"], strict=True)
        ]
    )
    order = rows.assign(
        kind=rows["segment_kind"]
        .map(list(_KINDS).index)
        .where(rows["horizon"] == 0, _KINDS.index("abc_class") + 0.5),
        place=rows["actual_qty"]
        .mul(-1)
        .where(
            rows["segment_kind"] == "region", rows["horizon"] + rows["segment"].map(_class_place)
        ),
    ).sort_values(["kind", "place", "label"], kind="stable")
    wql = rows.pivot_table(index="label", columns="model", values="wql", aggfunc="first")
    own = wql[model].dropna() if model in wql.columns else pd.Series(dtype=float)
    ordered = [label for label in order["label"].drop_duplicates() if label in own.index][:MAX_ROWS]
    figure, axes = _canvas(
        f"Forecast error by segment: {model}", is_simulated, height=1.6 + 0.3 * max(len(ordered), 4)
    )
    if not ordered:
        return _nothing(figure, axes, "no segment with an error on identical cells")
    positions = np.arange(len(ordered))
    axes.barh(positions, own[ordered], height=0.62, color=BLUE, label=model)
    if baseline in wql.columns and baseline != model:
        axes.plot(
            wql[baseline][ordered],
            positions,
            linestyle="none",
            marker="D",
            markersize=7,
            color=ORANGE,
            mec="black",
            label=baseline,
        )
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

    totals: target_yyyymm, actual_qty, forecast_qty, units (evaluation.monthly_totals, rows of one
    model and month), and q10 and q90 of the total where they are known: those of
    gold.demand_forecast_total.
    """
    rows = totals.sort_values("target_yyyymm")
    figure, axes = _canvas(f"Forecast one month ahead against actual: {model}", is_simulated)
    if rows.empty:
        return _nothing(figure, axes, "no forecast whose month is over")
    dates = _dates(rows["target_yyyymm"])
    if "q10" in rows and rows["q10"].notna().any():
        axes.fill_between(
            dates,
            *_band(rows),
            color=BLUE,
            alpha=0.2,
            linewidth=0,
            label="q10 to q90 of the total",
        )
    axes.plot(dates, rows["forecast_qty"], color=BLUE, marker="o", linestyle="--", label="forecast")
    axes.plot(dates, rows["actual_qty"], color="black", marker="s", label="actual")
    _month_axis(axes, dates)
    axes.set_ylabel("demand of all parts (units per month)")
    _quantity_axis(axes)
    _legend_below(figure, axes)
    return figure


def calibration(histogram: pd.DataFrame, model: str, is_simulated: bool = False) -> Figure:
    """Share of cells in each tenth of the forecast distribution (randomised PIT); a calibrated
    forecast has a tenth in each.

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
    axes.plot(
        [],
        [],
        linestyle="none",
        marker="s",
        color=BLUE,
        label=f"between q10 and q90: {inside:.1%} (calibrated: 80%)",
    )
    axes.set_xticks(range(1, 11), [f"{10 * (tenth - 1)}–{10 * tenth}" for tenth in range(1, 11)])
    axes.set_xlabel("where the actual fell in the forecast distribution (per cent)")
    axes.set_ylabel("share of cells")
    _percent_axis(axes.yaxis, 0)
    axes.grid(axis="x", visible=False)
    _legend_below(figure, axes)
    return figure


def feature_importance(
    importance: pd.DataFrame, model: str, is_simulated: bool = False, top: int = 20
) -> Figure:
    """The features a model leans on most. importance: feature, importance (in any unit; shown as a
    share of their sum).
    """
    by_feature = importance.groupby("feature")["importance"].sum()
    share = (
        (by_feature / by_feature.sum() if by_feature.sum() > 0 else by_feature)
        .sort_values(ascending=False, kind="stable")
        .head(top)
    )
    figure, axes = _canvas(
        f"Feature importance: {model}", is_simulated, height=1.4 + 0.28 * max(len(share), 4)
    )
    if share.empty:
        return _nothing(figure, axes, "the model names no features")
    positions = np.arange(len(share))
    axes.barh(positions, share, height=0.65, color=BLUE)
    axes.set_yticks(positions, [_short(str(name)) for name in share.index])
    axes.set_ylim(len(positions) - 0.4, -0.6)
    axes.set_xlabel("share of the importance of all features")
    axes.set_ylabel("feature")
    _percent_axis(axes.xaxis)
    axes.grid(axis="y", visible=False)
    return figure


def model_comparison(evaluation: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """WQL of every model by demand class and over all parts, the best model on top.

    evaluation: rows of gold.model_evaluation of one month. Models without figures for lack of cells
    are named with their number.
    """
    rows = evaluation[
        (evaluation["horizon"] == 0) & evaluation["segment_kind"].isin(["all", "demand_class"])
    ]
    figures = rows.pivot_table(index="model", columns="segment", values="wql", aggfunc="first")
    missing = rows.groupby("model")["missing_cell_count"].max().astype(int)
    rank = figures["all"] if "all" in figures else pd.Series(dtype=float)
    rank = rank.reindex(missing.index).fillna(figures.mean(axis=1).reindex(missing.index))
    ordered = list(rank.sort_values(kind="stable", na_position="last").index)[:MAX_ROWS]
    figure, axes = _canvas(
        "Forecast error by model and demand class",
        is_simulated,
        height=1.8 + 0.34 * max(len(ordered), 4),
    )
    if figures.empty:
        return _nothing(figure, axes, "no model with an error on identical cells")
    positions = np.arange(len(ordered))
    for segment in (*DEMAND_CLASSES, "all"):
        if segment in figures:
            colour, marker = _CLASS_STYLES[segment]
            size, label = (17, "all parts") if segment == "all" else (8, segment)
            edge = 2.5 if segment == "all" else 0.8
            wql = figures[segment].reindex(ordered)
            axes.plot(
                wql,
                positions,
                linestyle="none",
                marker=marker,
                markersize=size,
                color=colour,
                mew=edge,
                label=label,
            )
    axes.set_yticks(
        positions,
        [_short(m) + (f"\nlacks {missing[m]:,} cells" if missing[m] else "") for m in ordered],
    )
    axes.set_ylim(len(positions) - 0.4, -0.6)
    axes.set_xlabel("WQL (quantile loss per unit of demand; lower is better)")
    axes.set_ylabel("model")
    axes.set_xlim(left=0)
    _legend_below(figure, axes, columns=6)
    return figure


def demand_history(demand: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """Total demand per month. demand: yyyymm, demand_qty (units), and optionally is_complete;
    partial months are drawn hollow.
    """
    rows = demand.sort_values("yyyymm")
    figure, axes = _canvas("Demand of all parts", is_simulated)
    if rows.empty:
        return _nothing(figure, axes, "no month with demand")
    dates = _dates(rows["yyyymm"])
    qty = rows["demand_qty"].to_numpy(dtype=float)
    is_complete = (
        rows["is_complete"].to_numpy(dtype=bool)
        if "is_complete" in rows
        else np.ones(len(rows), dtype=bool)
    )
    axes.plot(
        dates[is_complete],
        qty[is_complete],
        color=BLUE,
        marker="o",
        markersize=4,
        label="complete months",
    )
    if not is_complete.all():
        axes.plot(
            dates[~is_complete],
            qty[~is_complete],
            linestyle="none",
            marker="o",
            mfc="white",
            color=RED,
            label="months not complete yet",
        )
        _legend_below(figure, axes)
    _month_axis(axes, dates)
    axes.set_ylabel("demand (units per month)")
    _quantity_axis(axes)
    return figure


def demand_classes(features: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """Parts by how often and how evenly they sell, with the limits between the classes.

    features: rows of silver.demand_features at one origin: demand_class, adi (months per month with
    demand), cv2. New parts have no class of their own yet; they and parts without demand in the
    window are left out.
    """
    rows = features[features["adi"].notna() & features["cv2"].notna()]
    figure, axes = _canvas("Demand classes: how often, how evenly", is_simulated)
    if rows.empty:
        return _nothing(figure, axes, "no part with demand")
    for name in (name for name in DEMAND_CLASSES if name != "new"):
        own = rows[rows["demand_class"] == name]
        colour, marker = _CLASS_STYLES[name]
        label = f"{name} ({len(own):,})"
        axes.scatter(own["adi"], own["cv2"], s=18, c=colour, marker=marker, alpha=0.7, label=label)
    axes.axvline(ADI_LIMIT, color="black", linestyle="--", linewidth=1.2)
    axes.axhline(CV2_LIMIT, color="black", linestyle="--", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 4, 8, 16, 24], ["1", "2", "4", "8", "16", "24"])
    axes.minorticks_off()
    axes.set_xlabel(f"ADI: months per month with demand (limit {ADI_LIMIT})")
    axes.set_ylabel(f"CV²: unevenness of what is sold (limit {CV2_LIMIT})")
    _legend_below(figure, axes, columns=4)
    return figure


def served_forecast(
    history: pd.DataFrame, forecast: pd.DataFrame, is_simulated: bool = False
) -> Figure:
    """Total demand of the last three years and the forecast that is served after it.

    history: yyyymm, demand_qty, complete months; forecast: target_yyyymm, forecast_qty, q10, q90,
    all units. The band is that of the total, from gold.demand_forecast_total.
    """
    past, coming = history.sort_values("yyyymm").tail(36), forecast.sort_values("target_yyyymm")
    figure, axes = _canvas("Demand of all parts and its forecast", is_simulated)
    if coming.empty:
        return _nothing(figure, axes, "no forecast")
    behind, ahead = _dates(past["yyyymm"]), _dates(coming["target_yyyymm"])
    axes.fill_between(
        ahead,
        *_band(coming),
        color=BLUE,
        alpha=0.2,
        linewidth=0,
        label="q10 to q90 of the total",
    )
    axes.plot(behind, past["demand_qty"], color="black", marker="s", markersize=4, label="actual")
    axes.plot(
        ahead, coming["forecast_qty"], color=BLUE, marker="o", linestyle="--", label="forecast"
    )
    _month_axis(axes, pd.DatetimeIndex([*behind, *ahead]))
    axes.set_ylabel("demand of all parts (units per month)")
    _quantity_axis(axes)
    _legend_below(figure, axes)
    return figure


def forecast_by_class(
    judged: pd.DataFrame,
    coming: pd.DataFrame,
    history: pd.DataFrame | None = None,
    is_simulated: bool = False,
) -> Figure:
    """Demand of each class beside what was forecast a month ahead, and the forecast that is served
    now: a panel per class.

    judged: target_yyyymm, demand_class, actual_qty, forecast_qty, q10, q90 of months that are over;
    coming: the same without actual_qty, of months to come; history: target_yyyymm, demand_class,
    actual_qty of the parts that are in the class now, in place of judged's; units. Bands are those
    of the class's total, from gold.demand_forecast_total.
    """
    sold = judged if history is None or history.empty else history
    classes = [
        name
        for name in DEMAND_CLASSES
        if name in {*judged["demand_class"], *coming["demand_class"]}
    ]
    figure, panels = _panels("Demand by class and its forecast", classes, is_simulated)
    for name, axes in panels.items():
        past, ahead, own_sold = (
            rows[rows["demand_class"] == name].sort_values("target_yyyymm")
            for rows in (judged, coming, sold)
        )
        dates = _dates(
            [*{*past["target_yyyymm"], *own_sold["target_yyyymm"]}, *ahead["target_yyyymm"]]
        )
        for rows, colour, label in (
            (past, GREY, "forecast a month ahead"),
            (ahead, BLUE, "forecast now"),
        ):
            if len(rows):
                own = _dates(rows["target_yyyymm"])
                axes.fill_between(own, *_band(rows), color=colour, alpha=0.25, linewidth=0)
                axes.plot(
                    own,
                    rows["forecast_qty"],
                    color=colour,
                    marker="o",
                    markersize=3,
                    linestyle="--",
                    label=label,
                )
        axes.plot(
            _dates(own_sold["target_yyyymm"]),
            own_sold["actual_qty"],
            color="black",
            marker="s",
            markersize=3,
            label="actual",
        )
        _month_axis(axes, dates, most=4)
        _quantity_axis(axes)
    return _with_panel_labels(figure, panels, "units per month", "no class has a forecast")


def largest_errors(
    history: pd.DataFrame, forecast: pd.DataFrame, is_simulated: bool = False
) -> Figure:
    """Demand of some parts beside what was forecast for it: a panel per part, in the order of
    ``forecast``.

    history: part_number, yyyymm, demand_qty; forecast: part_number, target_yyyymm, forecast_qty,
    q10, q90; units.
    """
    figure, panels = _panels(
        "Parts with the largest error",
        list(forecast["part_number"].drop_duplicates())[:10],
        is_simulated,
    )
    for part, axes in panels.items():
        sold = history[history["part_number"] == part].sort_values("yyyymm")
        said = forecast[forecast["part_number"] == part].sort_values("target_yyyymm")
        ahead, behind = _dates(said["target_yyyymm"]), _dates(sold["yyyymm"])
        axes.fill_between(
            ahead, *_band(said), color=BLUE, alpha=0.25, linewidth=0, label="q10 to q90"
        )
        axes.plot(
            ahead,
            said["forecast_qty"],
            color=BLUE,
            marker="o",
            markersize=3,
            linestyle="--",
            label="forecast",
        )
        axes.plot(
            behind, sold["demand_qty"], color="black", marker="s", markersize=3, label="actual"
        )
        _month_axis(axes, pd.DatetimeIndex([*behind, *ahead]).unique().sort_values(), most=4)
        _quantity_axis(axes)
    return _with_panel_labels(
        figure, panels, "units per month", "no part has a forecast whose month is over"
    )


def anomalies(
    found: pd.DataFrame, history: pd.DataFrame, served: pd.DataFrame, is_simulated: bool = False
) -> Figure:
    """Demand of the parts with anomalies beside what had been published of each month, a panel per
    part, in the order of ``found``.

    found: yyyymm, part_number, demand_qty, label of gold.demand_anomaly; history: part_number,
    yyyymm, demand_qty; served: part_number, target_yyyymm, forecast_qty, q10, q90; units. What a
    person labelled error or one_off is drawn hollow.
    """
    names = list(found["part_number"].drop_duplicates())[:10]
    figure, panels = _panels(
        "Demand that was improbable by what was published", names, is_simulated
    )
    for part, axes in panels.items():
        sold = history[history["part_number"] == part].sort_values("yyyymm")
        said = served[served["part_number"] == part].sort_values("target_yyyymm")
        own = found[found["part_number"] == part]
        if len(said):
            ahead = _dates(said["target_yyyymm"])
            axes.fill_between(
                ahead, *_band(said), color=BLUE, alpha=0.25, linewidth=0, label="q10 to q90"
            )
            axes.plot(
                ahead, said["forecast_qty"], color=BLUE, linestyle="--", label="forecast as served"
            )
        behind = _dates(sold["yyyymm"])
        axes.plot(
            behind, sold["demand_qty"], color="black", marker="s", markersize=3, label="actual"
        )
        is_unusual = own["label"].isin(["error", "one_off"])
        for rows, fill, label in (
            (own[~is_unusual], RED, "anomaly"),
            (own[is_unusual], "none", "labelled error or one_off"),
        ):
            if len(rows):
                axes.plot(
                    _dates(rows["yyyymm"]),
                    rows["demand_qty"],
                    linestyle="none",
                    marker="o",
                    markersize=9,
                    markerfacecolor=fill,
                    markeredgecolor=RED,
                    markeredgewidth=1.5,
                    label=label,
                )
        dates = pd.DatetimeIndex([*behind, *_dates(own["yyyymm"])]).unique().sort_values()
        _month_axis(axes, dates, most=4)
        _quantity_axis(axes)
    return _with_panel_labels(figure, panels, "units per month", "no month has an anomaly")


def error_by_lag(figures: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """WQL of the served forecasts by months ahead, a line per class. figures: segment, lag, wql
    (accuracy.pooled).
    """
    figure, axes = _by_lag(
        "Error of what was served, by class and months ahead", figures, "wql", is_simulated
    )
    axes.set_ylabel("WQL (lower is better)")
    axes.set_ylim(bottom=0)
    return figure


def coverage_by_lag(figures: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """Share of demand within q10 to q90 by months ahead, a line per class, beside the 80 % of a
    calibrated forecast.

    figures: segment, lag, coverage_80 (accuracy.pooled). Of demand in whole units more than 80 %
    may lie within, on the bounds.
    """
    figure, axes = _by_lag(
        "Calibration of what was served, by class and months ahead",
        figures,
        "coverage_80",
        is_simulated,
    )
    axes.axhline(0.8, color="black", linestyle="--", linewidth=1.2)
    axes.set_ylabel("share within q10 to q90 (calibrated: 80%)")
    axes.set_ylim(0, 1.02)
    _percent_axis(axes.yaxis, 0)
    return figure


def value_added(accuracy: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """What the served forecast added over the same month a year before, month by month, one month
    ahead.

    accuracy: rows of gold.forecast_accuracy; those of lag 1, all parts and classes, are drawn.
    """
    rows = accuracy[
        (accuracy["lag"] == 1)
        & accuracy["segment_kind"].isin(["all", "demand_class"])
        & accuracy["value_added"].notna()
    ]
    figure, axes = _canvas("Value added over last year's demand", is_simulated)
    if rows.empty:
        return _nothing(figure, axes, "no month with a demand a year before")
    for name, own in _by_class(rows.sort_values("yyyymm")):
        axes.plot(_dates(own["yyyymm"]), own["value_added"], **_line(name))
    axes.axhline(0, color="black", linestyle="--", linewidth=1.2)
    _month_axis(axes, _dates(sorted(rows["yyyymm"].unique())), most=8)
    axes.set_ylabel("share of the naive error saved")
    # A class with hardly any demand can lose without limit; the others would be flattened.
    axes.set_ylim(bottom=max(-2.0, min(-0.1, float(rows["value_added"].min()) - 0.1)), top=1)
    _percent_axis(axes.yaxis, 0)
    _legend_below(figure, axes)
    return figure


def value_by_version(decisions: pd.DataFrame, is_simulated: bool = False) -> Figure:
    """WQL of the champions relative to the baseline's, on the evidence of each training, by class:
    whether later versions are better.

    decisions: rows of gold.champion; of each month and class the last with figures of champion and
    baseline counts.
    """
    known = decisions[
        decisions["champion_wql"].notna()
        & (decisions["baseline_wql"] > 0)
        & (decisions["decision"] != "restated")
    ]
    rows = known.sort_values("decision_number").drop_duplicates(
        ["yyyymm", "demand_class"], keep="last"
    )
    rows = rows.assign(
        segment=rows["demand_class"],
        saved=1 - rows["champion_wql"].astype(float) / rows["baseline_wql"].astype(float),
    )
    figure, axes = _canvas("Value of the registered versions over the baseline", is_simulated)
    if rows.empty:
        return _nothing(figure, axes, "no decision with figures")
    months = sorted(rows["yyyymm"].unique())
    place = {month: position for position, month in enumerate(months)}
    for name, own in _by_class(rows.sort_values("yyyymm")):
        axes.plot([place[month] for month in own["yyyymm"]], own["saved"], **_line(name))
    axes.axhline(0, color="black", linestyle="--", linewidth=1.2)
    version = rows.groupby("yyyymm")["registry_version"].max()
    step = -(-len(months) // 6)
    shown = months[::-1][::step]
    axes.set_xticks(
        [place[month] for month in shown],
        [f"{month // 100}-{month % 100:02}\nv{version[month]:.0f}" for month in shown],
    )
    axes.set_xlim(-0.5, len(months) - 0.5)
    axes.set_xlabel("month of training and version")
    axes.set_ylabel("share of the baseline's WQL saved")
    _percent_axis(axes.yaxis, 0)
    _legend_below(figure, axes)
    return figure


class Picture(NamedTuple):
    """A rendered figure: PNG, and its alternative text."""

    png: bytes
    description: str

    @property
    def markdown(self) -> str:
        """As an inline image."""
        data = base64.b64encode(self.png).decode("ascii")
        return f"![{self.description}](data:image/png;base64,{data})"


def given_against_ours(found: pd.DataFrame, name: str, is_simulated: bool = False) -> Figure:
    """Difference in WQL between ours and a forecast made elsewhere, by class, with its interval.

    found: rows of champion.comparison.comparisons. Below zero is in our favour.
    """
    figure, axes = _canvas(
        f"WQL of ours less that of {name}", is_simulated, 1.6 + 0.45 * len(found)
    )
    rows = found.iloc[::-1]
    places = np.arange(len(rows))
    middle = rows["difference"].to_numpy(dtype=float)
    width = np.vstack([middle - rows["low"], rows["high"] - middle]).astype(float)
    axes.errorbar(middle, places, xerr=width, fmt="o", color="#0072B2", capsize=4, linewidth=2)
    axes.axvline(0, color="black", linestyle="--", linewidth=1.2)
    axes.set_yticks(places, list(rows["segment"]))
    axes.set_xlabel("difference in WQL with its 95 % interval; left of zero ours is better")
    return figure


def given_totals(totals: pd.DataFrame, name: str, is_simulated: bool = False) -> Figure:
    """Demand one month ahead, all given parts together, beside what both forecast.

    totals: champion.comparison.month_totals.
    """
    figure, axes = _canvas(f"Demand beside {name} and ours, one month ahead", is_simulated)
    dates = _dates(totals["target_yyyymm"])
    for column, label, color, marker in (
        ("actual_qty", "demand", "black", "o"),
        ("given_qty", name, "#D55E00", "s"),
        ("our_qty", "ours", "#0072B2", "^"),
    ):
        axes.plot(dates, totals[column], label=label, color=color, marker=marker, linewidth=2)
    _month_axis(axes, dates)
    _quantity_axis(axes)
    axes.set_ylim(bottom=0)
    _legend_below(figure, axes)
    return figure


def rendered(figure: Figure, description: str = "") -> Picture:
    """The figure as a PNG whose markdown stays under 200 KB: its resolution is lowered until it
    fits.

    ``description`` is the image's alternative text; by default the figure's title. Raises
    ValueError when it does not fit at 20 dpi.
    """
    text = (description or title_of(figure)).replace("[", "(").replace("]", ")")
    dpi = float(_DPI)
    while dpi >= 20:
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
        picture = Picture(content.getvalue(), text)
        if len(picture.markdown.encode()) < MAX_MARKDOWN_BYTES:
            return picture
        dpi *= 0.8
    raise ValueError(
        f"the picture '{text}' is larger than {MAX_MARKDOWN_BYTES:,} bytes at any legible"
        " resolution"
    )


def svg(figure: Figure, width: float = 5.0) -> str:
    """The figure as an SVG document of the given width in inches and its own height. The page
    writes the title; text stays text.

    Equal figures give equal documents. The figure is changed for it.
    """
    salt = title_of(figure)
    figure.set_size_inches(width, figure.get_size_inches()[1])
    if figure.get_suptitle():
        figure.suptitle("")
    elif figure.axes:
        figure.axes[0].set_title("", loc="left")
    for axes in figure.axes:
        labels = axes.get_xticklabels()
        if (
            sum(len(label.get_text()) for label in labels) * _CHARACTER
            > width * axes.get_position().width
        ):
            for label in labels:
                label.set(rotation=35, ha="right", rotation_mode="anchor")
    from matplotlib import rc_context

    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _figure(height: float) -> Figure:
    """An empty figure. Matplotlib is imported when something is drawn: most commands draw
    nothing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _percent_axis(axis: Any, decimals: int | None = None) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))


def _canvas(title: str, is_simulated: bool, height: float = 4.5) -> tuple[Figure, Axes]:
    figure = _figure(height)
    axes = figure.add_subplot()
    axes.set_title(title + (" (simulated data)" if is_simulated else ""), fontsize=13, loc="left")
    axes.tick_params(labelsize=10)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _panels(
    title: str, names: Sequence[str], is_simulated: bool, columns: int = 2
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one small named panel for each name, none for none."""
    height = 1.3 + 1.7 * max(1, -(-len(names) // columns))
    figure = _figure(height)
    figure.suptitle(
        title + (" (simulated data)" if is_simulated else ""), fontsize=13, x=0.01, ha="left"
    )
    panels = {}
    for place, name in enumerate(names):
        axes = panels[name] = figure.add_subplot(-(-len(names) // columns), columns, place + 1)
        # A part number may hold dollar signs, which would be read as a formula.
        axes.set_title(_short(name), fontsize=11, loc="left", parse_math=False)
        axes.tick_params(labelsize=9)
        axes.grid(color="#DDDDDD", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _with_panel_labels(
    figure: Figure, panels: Mapping[str, Axes], y: str, why_empty: str
) -> Figure:
    """One label of the vertical axes and one legend for all panels; the horizontal axes are named
    below the last row.
    """
    if not panels:
        return _nothing(figure, figure.add_subplot(), why_empty)
    figure.supylabel(y, fontsize=10)
    labelled: dict[str, Artist] = {}
    for axes in list(panels.values())[:-2]:
        axes.set_xlabel("")
    for axes in panels.values():
        handles, labels = axes.get_legend_handles_labels()
        labelled |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(labelled.values()),
        list(labelled),
        loc="outside lower center",
        ncols=3,
        fontsize=10,
        frameon=False,
    )
    return figure


def _by_lag(
    title: str, figures: pd.DataFrame, name: str, is_simulated: bool
) -> tuple[Figure, Axes]:
    """A line of a figure per class over the months ahead."""
    rows = figures[figures[name].notna()]
    figure, axes = _canvas(title, is_simulated)
    if rows.empty:
        return _nothing(figure, axes, "no served forecast whose month is over"), axes
    for segment, own in _by_class(rows):
        ordered = own.sort_values("lag")
        axes.plot(ordered["lag"], ordered[name], **_line(segment))
    axes.set_xticks(sorted(rows["lag"].astype(int).unique()))
    axes.set_xlabel("months ahead")
    _legend_below(figure, axes)
    return figure, axes


def _by_class(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each demand class, then those of all parts, as far as there are any."""
    return [(name, own) for name in _CLASS_STYLES if len(own := rows[rows["segment"] == name])]


def _line(segment: str) -> dict[str, Any]:
    colour, marker = _CLASS_STYLES[segment]
    is_all = segment == "all"
    return {
        "color": colour,
        "marker": marker,
        "markersize": 9 if is_all else 5,
        "linewidth": 2.5 if is_all else 1.2,
        "label": "all parts" if is_all else segment,
    }


def _band(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return rows["q10"].to_numpy(dtype=float), rows["q90"].to_numpy(dtype=float)


def _nothing(figure: Figure, axes: Axes, why: str) -> Figure:
    """A figure that says why it is empty: an empty one would look like a fault."""
    axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=12, transform=axes.transAxes)
    axes.set_axis_off()
    return figure


def _legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(columns, len(labels)),
        fontsize=10,
        frameon=False,
    )


def title_of(figure: Figure) -> str:
    """Its title, of several panels that above them."""
    return figure.get_suptitle() or (figure.axes[0].get_title(loc="left") if figure.axes else "")


def _dates(months: Sequence[int] | pd.Series) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(
        pd.to_datetime(pd.Series(months).astype(int).astype(str), format="%Y%m")
    )


def _month_axis(axes: Axes, dates: pd.DatetimeIndex, most: int = 12) -> None:
    """Ticks for at most the given number of months, including the newest. They are as far apart
    where a month is missing among the dates, or there twice.
    """
    every = pd.date_range(dates.min(), dates.max(), freq="MS") if len(dates) else dates
    step = next((months for months in (1, 2, 3, 6, 12, 24, 60) if len(every) <= most * months), 120)
    shown = every[::-1][::step][::-1]
    axes.set_xticks(
        shown, [date.strftime("%Y-%m") for date in shown], rotation=30 if len(shown) > 8 else 0
    )
    axes.set_xlabel("month")


def _quantity_axis(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    from matplotlib.ticker import EngFormatter

    axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _segment_label(kind: str, segment: str, horizon: int) -> str:
    if kind == "all":
        return f"{horizon} month{'' if horizon == 1 else 's'} ahead" if horizon else "all parts"
    return f"{_KIND_NAMES[kind]} {segment}"


def _class_place(segment: str) -> int:
    return DEMAND_CLASSES.index(segment) if segment in DEMAND_CLASSES else 0


def _short(label: str) -> str:
    return label if len(label) <= 28 else label[:27] + "…"
