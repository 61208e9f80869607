"""The tables and sentences of the monthly report: what is forecast, what changed and why, where the
models are weak.

Pure: what a report is made from in, cells and text out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from medallion_assets.champion.promotion import BASELINE, THIN
from medallion_assets.partitions import add_months, month_range
from medallion_assets.report.cells import (
    Cell,
    Table,
    bias_cell,
    count_cell,
    coverage_cell,
    is_known,
    month_cell,
    month_name,
    more_or_less,
    number_cell,
    pct_cell,
    percent,
    qty,
    qty_cell,
    ratio_cell,
    sparkline,
    text_cell,
    value_cell,
)
from medallion_assets.report.data import (
    ACCURACY_MONTHS,
    HISTORY_MONTHS,
    ReportData,
    by_part,
    classes_and_all,
    ordered_classes,
    recent_decisions,
    segments,
    totals_of,
    with_numbers,
)
from medallion_assets.report.watchlists import Watchlist
from medallion_assets.served.accuracy import pooled
from medallion_assets.tables import CHANGE_PARTS

FEW_TOTALS = 30  # past totals; with fewer a measured coverage says little


def summary_sentences(data: ReportData) -> list[str]:
    """What a reader should know who reads nothing else."""
    served = with_numbers(data.forecast)
    by_month = served.groupby("target_yyyymm")["forecast_qty"].sum()
    states = by_part(data.forecast)["status"].value_counts()
    told = []
    if len(by_month):
        last_year = data.demand.set_index("yyyymm")["demand_qty"].reindex(
            [month - 100 for month in by_month.index]
        )
        told.append(
            f"{qty(by_month.iloc[0])} units are expected in {month_name(by_month.index[0])}"
            f"{_first_interval(data)} and {qty(by_month.sum())} through"
            f" {month_name(by_month.index[-1])}."
        )
        if last_year.notna().all() and last_year.sum() > 0:
            told.append(
                f"That is {more_or_less(by_month.sum() / last_year.sum() - 1)} than in the same"
                " months a year before."
            )
    kinds = (
        ("forecast", "by the champion of their class"),
        ("guarded", "by the baseline, since their history does not bear out the model's path"),
        ("fallback", "by the baseline or a stand-in"),
        ("new_part", "new"),
    )
    counted = [f"{states[name]:,} {words}" for name, words in kinds if name in states]
    active = (
        f"{served['part_number'].nunique():,} parts are forecast ({', '.join(counted) or 'none'})"
    )
    told.append(f"{active}; {states.get('excluded', 0):,} are not active.")
    both = data.compared.dropna(subset=["forecast_qty", "former_qty"])
    if data.before is None:
        told.append(
            "This is the first forecast that was published: there is no earlier one to compare it"
            " with."
        )
    elif len(both) and both["former_qty"].sum() > 0:
        told.append(
            f"For the parts and months that the forecast of {month_name(data.before)} had too, the"
            f" total is {more_or_less(both['forecast_qty'].sum() / both['former_qty'].sum() - 1)}."
        )
    last = data.accuracy[
        (data.accuracy["yyyymm"] == data.origin)
        & (data.accuracy["lag"] == 1)
        & (data.accuracy["segment_kind"] == "all")
    ]
    for row in last.to_dict("records"):
        inside = f"{percent(row['coverage_80'], False)} of parts lay within q10 to q90"
        against = f"{qty(row['forecast_qty'])} forecast a month ahead, {more_or_less(row['bias'])}"
        told.append(
            f"{qty(row['actual_qty'])} units were sold in {month_name(data.origin)}, and {against};"
            f" {inside}."
        )
    recent = recent_decisions(data)
    promoted = recent[recent["decision"].isin(["promoted", "provisional", "rolled_back"])]
    words = ", ".join(
        f"{row['champion']} for {row['demand_class']}" for row in promoted.to_dict("records")
    )
    told.append(
        f"New champions: {words}." if words else "No champion changed since the forecast before."
    )
    thin = recent[recent["reason"].fillna("").str.contains(THIN, regex=False)]
    if len(thin):
        told.append(
            f"For {', '.join(dict.fromkeys(thin['demand_class']))} {THIN} to promote a model: the"
            " decisions below say what is missing."
        )
    return told


def coming_table(data: ReportData) -> Table:
    """Total of all parts by month ahead, beside the same month a year before."""
    served = totals_of(data, "all").set_index("target_yyyymm")
    demand = data.demand.set_index("yyyymm")["demand_qty"]
    rows = []
    for month, row in served.iterrows():
        last_year = float(demand.get(month - 100, math.nan))
        change = row["forecast_qty"] / last_year - 1 if last_year > 0 else math.nan
        rows.append(
            [
                month_cell(month),
                qty_cell(row["forecast_qty"]),
                qty_cell(row["q10"]),
                qty_cell(row["q90"]),
                qty_cell(last_year),
                pct_cell(change, signed=True),
            ]
        )
    return Table(
        "Expected demand of all parts, units",
        ("month", "expected", "q10", "q90", "same month last year", "against it"),
        rows,
    )


def _held(row: Mapping[str, Any]) -> str:
    """How often past totals of a segment fell within the intervals of their time, in words."""
    if not row["origin_month_count"]:
        return "not measured yet"
    return f"{percent(row['coverage_80'], False)} of {row['origin_month_count']:,.0f}"


def interval_sentence(data: ReportData) -> str:
    """What q10 to q90 of all parts is worth."""
    totals = totals_of(data, "all")
    if totals.empty:
        return ""
    row = totals.iloc[0]
    meaning = "q10 to q90 should hold the total four times of five."
    if row["method"] != "joint_errors":
        return (
            f"{meaning} No past total is known yet, so the parts count as going up and down"
            " together, which makes it as wide as they allow."
        )
    held = (
        f" With what was known at their time, {_held(row)} past totals fell within it."
        if row["origin_month_count"]
        else ""
    )
    few = " Few months make it wider." if row["origin_month_count"] < FEW_TOTALS else ""
    return (
        f"{meaning} Its width comes from how past totals of {row['target_month_count']:,.0f}"
        f" months missed together.{held}{few}"
    )


def _first_interval(data: ReportData) -> str:
    totals = totals_of(data, "all")
    return (
        ""
        if totals.empty
        else " ({q10} to {q90})".format(
            **{name: qty(float(totals[name].iloc[0])) for name in ("q10", "q90")}
        )
    )


def class_table(data: ReportData) -> Table:
    """The months ahead together, and the first of them with its interval."""
    served = with_numbers(data.forecast)
    whole = served["forecast_qty"].sum()
    totals = totals_of(data, "demand_class")
    first = totals.drop_duplicates("segment").set_index("segment").to_dict("index")
    month = month_name(totals["target_yyyymm"].min()) if len(totals) else "first month"
    rows = []
    for name, own in ordered_classes(served):
        share = own["forecast_qty"].sum() / whole if whole > 0 else math.nan
        total = first.get(name)
        rows.append(
            [
                text_cell(name),
                count_cell(own["part_number"].nunique()),
                qty_cell(own["forecast_qty"].sum()),
                pct_cell(share),
                *(qty_cell(total and total[figure]) for figure in ("forecast_qty", "q10", "q90")),
                text_cell(_held(total) if total else "–"),
            ]
        )
    heads = ("class", "parts", "expected units", "share", month, "q10", "q90", "past totals within")
    return Table("By demand class, all months ahead and the first", heads, rows)


def change_table(data: ReportData) -> Table:
    """What changed since the forecast before, by target month."""
    rows = []
    for month, own in data.compared.groupby("target_yyyymm"):
        both = own.dropna(subset=["forecast_qty", "former_qty"])
        came, went = (
            own.loc[own["former_qty"].isna(), "forecast_qty"].sum(),
            own.loc[own["forecast_qty"].isna(), "former_qty"].sum(),
        )
        moved = both["forecast_qty"].sum() - both["former_qty"].sum()
        totals = (own["former_qty"].sum(), own["forecast_qty"].sum())
        rows.append(
            [
                month_cell(month),
                *map(qty_cell, totals),
                qty_cell(moved, True),
                qty_cell(came, True),
                qty_cell(-went, True),
            ]
        )
    heads = (
        "month",
        "said before",
        "said now",
        "same parts",
        "parts new in it",
        "parts gone from it",
    )
    return Table("Total of each month, units", heads, rows)


def cause_table(data: ReportData) -> Table:
    """What the change of each month comes of, on the parts that both forecasts have."""
    rows = []
    for month, own in data.changes.groupby("target_yyyymm"):
        change = own["forecast_qty"].sum() - own["former_qty"].sum()
        amounts = (change, *(own[name].sum() for name in CHANGE_PARTS))
        rows.append([month_cell(month), *(qty_cell(amount, True) for amount in amounts)])
    heads = (
        *("month", "change", "by late or corrected lines", "by new sales"),
        *("by new fits", "by other models"),
    )
    return Table("What the change comes of, same parts, units", heads, rows)


def moved_table(data: ReportData) -> Table:
    """How far forecasts of the same months moved, by demand class."""
    compared = data.compared.dropna(subset=["forecast_qty", "former_qty"])
    groups = [*ordered_classes(compared), *([("all parts", compared)] if len(compared) else [])]
    rows = []
    for name, own in groups:
        now, then = own["forecast_qty"].sum(), own["former_qty"].sum()
        stability = (
            (own["forecast_qty"] - own["former_qty"]).abs().sum() / now if now > 0 else math.nan
        )
        change = now / then - 1 if then > 0 else math.nan
        rows.append(
            [
                text_cell(name),
                qty_cell(then),
                qty_cell(now),
                pct_cell(change, signed=True),
                pct_cell(stability),
            ]
        )
    heads = ("class", "said before", "said now", "change of the total", "mean absolute change")
    return Table("Parts and months that both forecasts have, units", heads, rows)


def model_table(data: ReportData) -> Table:
    """Which model forecasts each class now, and which did before."""
    then = {str(name): own for name, own in with_numbers(data.former).groupby("demand_class")}
    rows = []
    for name, own in ordered_classes(with_numbers(data.forecast)):
        trained = own["trained_yyyymm"].dropna()
        before = _models(then[name]) if name in then else "–"
        when = month_cell(trained.max()) if len(trained) else text_cell("–")
        rows.append([text_cell(name), text_cell(_models(own)), when, text_cell(before)])
    return Table("The model that forecasts each class", ("class", "now", "trained", "before"), rows)


def served_table(data: ReportData) -> Table:
    """How forecasts did that were served one month ahead, by demand class."""
    figures = pooled(
        classes_and_all(data.accuracy[data.accuracy["lag"] == 1]), ["segment"]
    ).set_index("segment")
    rows = [
        _served_cells(text_cell(name.replace("all", "all parts")), figures.loc[name])
        for name in segments(figures.index)
    ]
    return Table(
        f"What was served one month ahead, by class, last {ACCURACY_MONTHS} months at most",
        ("class", *_SERVED_HEADS),
        rows,
    )


def lag_table(data: ReportData) -> Table:
    """How forecasts did by months ahead, all parts."""
    figures = pooled(data.accuracy[data.accuracy["segment_kind"] == "all"], ["lag"])
    rows = [
        _served_cells(Cell(f"{lag:.0f}", lag), figures.iloc[place])
        for place, lag in enumerate(figures["lag"])
    ]
    return Table(
        "What was served, all parts, by months ahead", ("months ahead", *_SERVED_HEADS), rows
    )


_SERVED_HEADS = (
    "months",
    "cells",
    "WAPE",
    "WQL",
    "bias",
    "within q10 to q90",
    "value added",
    "mean absolute change",
)


def _served_cells(first: Cell, row: pd.Series) -> list[Cell]:
    return [
        first,
        count_cell(row["month_count"]),
        count_cell(row["cell_count"]),
        ratio_cell(row["wape"]),
        ratio_cell(row["wql"]),
        bias_cell(row["bias"]),
        coverage_cell(row["coverage_80"]),
        value_cell(row["value_added"]),
        pct_cell(row["mean_absolute_change"]),
    ]


def evidence_tables(data: ReportData) -> list[Table]:
    """The serving models on the evidence of the newest training: by class, by ABC class, by months
    ahead.
    """
    if data.evaluation.empty:
        return []
    month = month_name(data.evaluation["yyyymm"].max())
    served = with_numbers(data.forecast)
    models = {name: str(own["model"].mode().iloc[0]) for name, own in ordered_classes(served)}
    found = {
        (r["model"], r["segment_kind"], r["segment"], r["horizon"]): r
        for r in data.evaluation.to_dict("records")
    }

    by_class = []
    for name, model in models.items():
        own, base = (found.get((m, "demand_class", name, 0)) for m in (model, BASELINE))
        if own is None or not is_known(own["wql"]):
            continue
        gain = (
            1 - own["wql"] / base["wql"]
            if base and is_known(base["wql"]) and base["wql"] > 0
            else math.nan
        )
        cells = (
            count_cell(own["cell_count"]),
            ratio_cell(own["wql"]),
            value_cell(gain),
            bias_cell(own["bias"]),
            pct_cell(own.get("revision_share")),
        )
        by_class.append(
            [
                text_cell(name),
                text_cell(model),
                *cells,
                coverage_cell(own["coverage_80"]),
                coverage_cell(own["calibration_80"]),
            ]
        )
    heads = (
        "class",
        "model",
        "cells",
        "WQL",
        "better than the baseline by",
        "bias",
        "monthly revision",
        "within q10 to q90",
        "calibration (80% is right)",
    )
    tables = [Table(f"The serving models on the evidence of {month}, by class", heads, by_class)]

    by_abc = []
    for model in dict.fromkeys([*models.values(), BASELINE]):
        for segment in ("A", "B", "C"):
            row = found.get((model, "abc_class", segment, 0))
            if row and is_known(row["wql"]):
                of_segment = (
                    count_cell(row["cell_count"]),
                    ratio_cell(row["wql"]),
                    bias_cell(row["bias"]),
                    coverage_cell(row["calibration_80"]),
                )
                by_abc.append([text_cell(model), text_cell(segment), *of_segment])
    tables.append(
        Table(
            f"The same by ABC class, over all demand classes ({month})",
            ("model", "ABC", "cells", "WQL", "bias", "calibration"),
            by_abc,
        )
    )

    horizons = sorted({int(key[3]) for key in found if key[3]})
    by_horizon = []
    for name, model in models.items():
        values = [
            found.get((model, "demand_class", name, h), {}).get("wql", math.nan) for h in horizons
        ]
        if any(map(is_known, values)):
            by_horizon.append([text_cell(name), text_cell(model), *map(ratio_cell, values)])
    ahead = [f"{h} month{'' if h == 1 else 's'}" for h in horizons]
    return [
        *tables,
        Table(f"WQL by class and months ahead ({month})", ("class", "model", *ahead), by_horizon),
    ]


def tested_sentence(
    accuracy: pd.DataFrame, anomalies: pd.DataFrame, month: int, rate: float
) -> str:
    """How many parts of a month were held against what was published, and what came of it."""
    own = anomalies[anomalies["yyyymm"] == month]
    judged = accuracy[(accuracy["yyyymm"] == month) & (accuracy["segment_kind"] == "all")]
    if judged.empty:
        return (
            f"Nothing had been published of {month_name(month)} when it was over, so no anomaly is"
            " claimed, and none is ruled out."
        )
    cells = judged.sort_values("lag")["cell_count"].iloc[0]
    count = int(own["tested_part_count"].iloc[0]) if len(own) else int(cells)
    improbable = {0: "none is", 1: "1 is"}.get(len(own), f"{len(own):,} are")
    return (
        f"{count:,} parts of {month_name(month)} were held against the deciles published before:"
        f" {improbable} improbable. Of months without an anomaly"
        f" {rate:.0%} at most have one claimed, if the deciles are right."
    )


def anomaly_table(data: ReportData, descriptions: Mapping[str, str]) -> Table:
    """Improbable demand, with what was forecast and what people said of it."""
    rows = []
    for r in data.anomalies.to_dict("records"):
        said = (
            f"{qty(r['forecast_qty'])} ({qty(r['q10'])} to {qty(r['q90'])})"
            if is_known(r["forecast_qty"])
            else "nothing"
        )
        label = " by ".join(str(r[n]) for n in ("label", "labelled_by") if not pd.isna(r[n]))
        note = "" if pd.isna(r["label_note"]) else f": {r['label_note']}"
        rows.append(
            [
                month_cell(r["yyyymm"]),
                text_cell(r["part_number"]),
                text_cell(descriptions.get(r["part_number"])),
                qty_cell(r["demand_qty"]),
                text_cell(said),
                text_cell(r["direction"]),
                number_cell(r["adjusted_p_value"], lambda v: f"{v:.2g}"),
                qty_cell(r["money_at_stake"]),
                text_cell(label + note if label else "–"),
            ]
        )
    heads = (
        "month",
        "part",
        "description",
        "demand",
        "published (q10 to q90)",
        "direction",
        "adjusted p",
        "money at stake",
        "label",
    )
    return Table(f"Anomalies of the last {ACCURACY_MONTHS} months, the newest first", heads, rows)


def decision_table(data: ReportData) -> Table:
    """The decisions on champions since the forecast before."""
    rows = []
    for r in recent_decisions(data).to_dict("records"):
        what = (
            count_cell(r["decision_number"]),
            month_cell(r["yyyymm"]),
            *map(text_cell, (r["demand_class"], r["decision"], r["champion"])),
        )
        rows.append(
            [
                *what,
                ratio_cell(r["champion_wql"]),
                ratio_cell(r["baseline_wql"]),
                text_cell(r["actor"]),
                text_cell(r["reason"]),
            ]
        )
    return Table(
        "Champions",
        ("number", "month", "class", "decision", "serves", "its WQL", "baseline's", "by", "why"),
        rows,
    )


def retraining_table(data: ReportData) -> Table:
    """The decisions on training since the forecast before."""
    names = [
        name
        for name in ("yyyymm", "decision", "cause", "reason", "mode")
        if name in data.retraining
    ]
    cells = [month_cell if name == "yyyymm" else text_cell for name in names]
    columns = [map(cell, data.retraining[name]) for cell, name in zip(cells, names, strict=True)]
    rows = list(zip(*columns, strict=True))
    return Table(
        "Whether to train again", ["month" if name == "yyyymm" else name for name in names], rows
    )


def part_rows(
    data: ReportData, found: Watchlist, history: pd.DataFrame, descriptions: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What the page shows of each part on a list."""
    served = with_numbers(
        data.forecast[data.forecast["part_number"].isin(found.rows["part_number"])]
    ).sort_values("horizon")
    ahead = dict(tuple(served.groupby("part_number")))
    months = month_range(add_months(data.origin, 1 - HISTORY_MONTHS), data.origin)
    behind = {
        part: own.set_index("yyyymm")["demand_qty"] for part, own in history.groupby("part_number")
    }
    shown = []
    for row in found.rows.to_dict("records"):
        part = row["part_number"]
        sold = behind[part].reindex(months).dropna().tolist() if part in behind else []
        said = ahead.get(part, served[:0])
        line = sparkline(
            sold, *(said[name].astype(float).tolist() for name in ("forecast_qty", "q10", "q90"))
        )
        shown.append({**row, "description": descriptions.get(part) or "", "sparkline": line})
    return shown


def _models(rows: pd.DataFrame) -> str:
    return ", ".join(sorted(str(model) for model in rows["model"].dropna().unique())) or "–"
