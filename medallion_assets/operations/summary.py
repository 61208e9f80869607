"""What a planner reads at the end of a run: how lines were accounted for, champions with their
evidence, what is forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.table import Table

from medallion_assets.champion.decisions import last_decisions
from medallion_assets.champion.promotion import THIN
from medallion_assets.complete import why_incomplete
from medallion_assets.operations.runs import reader
from medallion_assets.plans import listed
from medallion_assets.report.reporting import report_name
from medallion_assets.served.published import Edition, published_origins, total_rows
from medallion_assets.silver.assets import known_renames, new_numbers
from medallion_assets.tables import (
    CHAMPION,
    DATA_QUALITY,
    DELIVERIES,
    DEMAND_ANOMALY,
    DEMAND_CLASSES,
    DEMAND_FORECAST,
    DEMAND_LABEL,
    FORECAST_ACCURACY,
    MODEL_EVALUATION,
    REJECTED_LINES,
    SILVER_SALES_ORDERS,
)
from medallion_assets.zoo.registry import BASELINE
from resources.errors import without_credentials
from resources.reports import LocalReportFiles

if TYPE_CHECKING:
    from resources.lakehouse import DeltaLakehouse
    from resources.settings import Settings

SHOWN_DOUBTS = 10  # about renamed parts


IMPLAUSIBLE = ("quantity_implausible", "unit_price_implausible")
SHOWN_IMPLAUSIBLE = 10
# What goes without a column that the mapping does not name.
LOST = {
    "unit_price": (
        "no unit_price, so there is no revenue, no price for models to learn from and no cost of"
        " stock, and ABC classes rank units"
    ),
    "order_id": (
        "no order_id, so order_count counts lines, and a cancellation takes back a sale only of a"
        " known customer"
    ),
}


def show(settings: Settings, console: Console, is_changed: bool | None) -> None:
    """Print the state of the lakehouse; ``is_changed`` says whether the run before wrote anything
    (None: there was none).
    """
    lakehouse = reader(settings)
    if settings.is_simulated:
        console.print("\n[bold]All figures are of a simulated wholesaler.[/bold]")
    if is_changed is False:
        console.print(
            "\n[bold]Nothing to do:[/bold] no new files, all months, models and forecasts are up to"
            " date."
        )
    _lines(lakehouse, console)
    _implausible(lakehouse, settings, console)
    _losses(settings, console)
    _incomplete(lakehouse, settings, console)
    _renames(lakehouse, settings, console)
    _champions(lakehouse, console)
    _models(lakehouse, console)
    _forecast(lakehouse, console)
    _accuracy(lakehouse, console)
    _anomalies(lakehouse, console)
    console.print(
        f"\nTables:  {settings.lakehouse_root}/<schema>/<table> as"
        f" {settings.catalog}.<schema>.<table>"
    )
    _report(lakehouse, LocalReportFiles(settings.reports_folder), console)
    console.print(
        f"MLflow:  {without_credentials(settings.tracking_uri)}, model"
        f" {settings.registered_model}@champion"
    )
    with_mlflow = (
        " and http://127.0.0.1:5000 (MLflow)" if settings.tracking_uri.startswith("sqlite") else ""
    )
    console.print(f"Look:    make ui, then http://127.0.0.1:3000 (Dagster){with_mlflow}")


def plan_history(settings: Settings, console: Console) -> None:
    """Print every event of every plan, the newest last."""
    rows = listed(reader(settings))
    if rows.empty:
        console.print("No plan was made yet.")
        return
    table = Table(title="Plans")
    for name in ("plan", "event", "by", "when (UTC)", "effect"):
        table.add_column(name, overflow="fold")
    for row in rows.to_dict("records"):
        table.add_row(
            row["plan_id"],
            row["event"],
            row["actor"],
            f"{row['recorded_at']:%Y-%m-%d %H:%M}",
            row["effect"],
        )
    console.print(table)


def label_history(settings: Settings, console: Console) -> None:
    """Print every label given or withdrawn, the newest last."""
    rows = reader(settings).rows(DEMAND_LABEL)
    if rows.empty:
        console.print("No demand was labelled yet.")
        return
    table = Table(title="Labels")
    for name in ("number", "part", "month", "label", "by", "when (UTC)", "why"):
        table.add_column(name, overflow="fold")
    for row in rows.sort_values("label_number").to_dict("records"):
        table.add_row(
            f"{row['label_number']}",
            row["part_number"],
            f"{row['yyyymm']}",
            row["label"],
            row["actor"],
            f"{row['labelled_at']:%Y-%m-%d %H:%M}",
            row["note"],
        )
    console.print(table)


def champion_history(settings: Settings, console: Console, classes: Sequence[str]) -> None:
    """Print every decision on the classes, the newest last."""
    decisions = reader(settings).rows(CHAMPION)
    if decisions.empty:
        console.print("Nothing was decided yet: no month was trained.")
        return
    table = Table(title="Decisions on champions")
    for name in (
        "number",
        "month",
        "class",
        "decision",
        "champion",
        "trained",
        "version",
        "by",
        "WQL",
        "why",
    ):
        table.add_column(
            name,
            justify="right" if name in ("number", "WQL", "version") else "left",
            overflow="fold",
        )
    for row in (
        decisions[decisions["demand_class"].isin(classes)]
        .sort_values("decision_number")
        .to_dict("records")
    ):
        wql = "" if pd.isna(row["champion_wql"]) else f"{row['champion_wql']:.3f}"
        trained, version = (
            f"{row[name]:.0f}" for name in ("champion_trained_yyyymm", "registry_version")
        )
        who = (row["decision"], row["champion"], trained, version, row["actor"])
        table.add_row(
            f"{row['decision_number']}",
            f"{row['yyyymm']}",
            row["demand_class"],
            *who,
            wql,
            row["reason"],
        )
    console.print(table)


def _lines(lakehouse: DeltaLakehouse, console: Console) -> None:
    quality = lakehouse.rows(DATA_QUALITY)
    if quality.empty:
        console.print("No order lines yet.")
        return
    sums = quality.groupby("rule")["value"].sum()
    count = {
        name: int(sums.get(f"lines_{name}", 0))
        for name in ("read", "accepted", "rejected", "duplicate", "superseded", "unaccounted")
    }
    months = sorted(int(m) for m in quality["yyyymm"].unique() if m)
    console.print(f"\n[bold]Order lines[/bold], {len(months)} months ({months[0]} to {months[-1]})")
    console.print(
        f"  {count['read']:,} read = {count['accepted']:,} accepted + {count['rejected']:,}"
        f" rejected + {count['duplicate']:,} duplicates + {count['superseded']:,} superseded"
        + (f"; [red]{count['unaccounted']:,} unaccounted for[/red]" if count["unaccounted"] else "")
    )
    if told := _by_rule(quality, "rejected:"):
        console.print(f"  rejected for: {told}")
    if told := _by_rule(quality, "warned:"):
        console.print(f"  accepted with a remark: {told}")


def _by_rule(quality: pd.DataFrame, prefix: str) -> str:
    """Names of the rules with the prefix and their lines, the most frequent first."""
    sums = (
        quality[quality["rule"].str.startswith(prefix)]
        .groupby("rule")["value"]
        .sum()
        .sort_values(ascending=False)
    )
    return ", ".join(f"{str(name).removeprefix(prefix)} {int(n):,}" for name, n in sums.items())


def _implausible(lakehouse: DeltaLakehouse, settings: Settings, console: Console) -> None:
    """Lines held back for a quantity or price that their parts' past does not let expect, and how
    to let them pass.
    """
    quality = lakehouse.rows(DATA_QUALITY)
    counted = quality[quality["rule"].isin([f"rejected:{name}" for name in IMPLAUSIBLE])]
    if counted.empty:
        return
    months = sorted({int(month) for month in counted["yyyymm"]})
    lines = lakehouse.rows(REJECTED_LINES, months=months)
    lines = lines[[not set(IMPLAUSIBLE).isdisjoint(reasons) for reasons in lines["reasons"]]]
    files = lakehouse.rows(DELIVERIES, ["delivery_id", "file_name"])
    names = files.set_index("delivery_id")["file_name"].to_dict()
    console.print(f"\n[bold]Held back as implausible[/bold]: {len(lines):,} line(s)")
    for line in lines.sort_values(["yyyymm", "delivery_id", "line_number"]).to_dict("records")[
        :SHOWN_IMPLAUSIBLE
    ]:
        order = f", order {line['order_id']}" if isinstance(line["order_id"], str) else ""
        console.print(
            f"  {line['yyyymm']} part {line['part_number']}: quantity {line['quantity']}, price"
            f" {line['unit_price']} ({', '.join(line['reasons'])}),"
            f" {names.get(line['delivery_id'], line['delivery_id'])} line"
            f" {line['line_number']}{order}; delivery {line['delivery_id']}",
            markup=False,
            soft_wrap=True,
        )
    if len(lines) > SHOWN_IMPLAUSIBLE:
        console.print(f"  and {len(lines) - SHOWN_IMPLAUSIBLE:,} more in silver.rejected_lines")
    first = lines.sort_values(["yyyymm", "delivery_id", "line_number"]).iloc[0]
    example = (
        first["order_id"]
        if isinstance(first["order_id"], str)
        else f"{first['delivery_id']}:{first['line_number']}"
    )
    console.print(
        "  If a line is right, name its order, or delivery:line, in the source's rules:"
        f' rules.implausible.let_pass: ["{example}"]; other bounds or off: docs/orders.md',
        markup=False,
        soft_wrap=True,
    )


def _losses(settings: Settings, console: Console) -> None:
    """What is lost without columns that a source does not have, said once for each source."""
    for source in settings.sources:
        lost = [LOST[name] for name in LOST if name not in source.columns]
        if lost:
            console.print(f"  Source {source.name}: {'; '.join(lost)}.", soft_wrap=True)


def _incomplete(lakehouse: DeltaLakehouse, settings: Settings, console: Console) -> None:
    for sentence in why_incomplete(lakehouse.rows(DELIVERIES), settings):
        console.print(f"  not complete: {sentence}", style="yellow", markup=False)


def _renames(lakehouse: DeltaLakehouse, settings: Settings, console: Console) -> None:
    """Lines that count under another number, and renames that the lines do not bear out."""
    renames, numbers = known_renames(settings), new_numbers(settings)
    if not renames:
        return
    columns = ["yyyymm", "part_number", "part_number_text"]
    lines = lakehouse.rows(SILVER_SALES_ORDERS, parts=sorted(set(numbers.values())))
    lines = lines.reindex(columns=columns)  # a table of a former release has no text
    text = lines["part_number_text"].fillna("").str.strip()
    # Spelled as the renames are, in whatever case.
    own = lines.assign(text=text.str.upper())
    doubts, joined = [], 0
    for rename in renames:
        old = own[own["text"] == rename.part.upper()]
        early = own[
            (own["text"] == rename.successor.upper()) & (own["yyyymm"] < (rename.since or 0))
        ]
        joined += len(old)
        if old.empty:
            doubts.append(f"{rename.sentence}, but no accepted line names {rename.part}")
        if len(early):
            doubts.append(
                f"{rename.sentence}, but {len(early):,} lines name {rename.successor} before, since"
                f" {early['yyyymm'].min()}; they are counted: correct the month if it is wrong"
            )
    console.print(
        f"  {joined:,} lines of {len(renames):,} former part numbers count under the present ones"
    )
    for doubt in doubts[:SHOWN_DOUBTS]:
        console.print(f"  {doubt}", style="yellow", markup=False)
    if len(doubts) > SHOWN_DOUBTS:
        console.print(f"  and {len(doubts) - SHOWN_DOUBTS:,} more of these", style="yellow")


def _champions(lakehouse: DeltaLakehouse, console: Console) -> None:
    decisions = lakehouse.rows(CHAMPION)
    if decisions.empty:
        console.print("\nNo champion yet: no month was trained.")
        return
    newest = last_decisions(decisions)
    version = int(decisions.sort_values("decision_number")["registry_version"].iloc[-1])
    table = Table(
        title=f"Champions (registry version {version})", title_justify="left", title_style="bold"
    )
    for name in (
        "class",
        "champion",
        "decision",
        "WQL",
        "baseline",
        "better by",
        "bias",
        "cells",
        "trained",
    ):
        table.add_column(
            name, justify="left" if name in ("class", "champion", "decision") else "right"
        )
    for demand_class in DEMAND_CLASSES:
        if demand_class in newest.index:
            r = newest.loc[demand_class]
            gain = 1 - r["champion_wql"] / r["baseline_wql"] if r["baseline_wql"] else None
            name = demand_class + (" (all together)" if r["pooled"] else "")
            table.add_row(
                name,
                str(r["champion"]),
                str(r["decision"]),
                _number(r["champion_wql"]),
                _number(r["baseline_wql"]),
                f"{gain:.0%}" if gain is not None and not pd.isna(gain) else "",
                _number(r["champion_bias"]),
                f"{int(r['cell_count'] or 0):,}",
                str(int(r["champion_trained_yyyymm"])),
            )
    console.print()
    console.print(table)
    thin = newest[newest["reason"].str.contains(THIN, regex=False)]
    for reason, rows in thin.groupby(thin["reason"].str.split(f"{THIN}: ").str[-1], sort=False):
        console.print(
            f"  {', '.join(rows.index)}: {THIN} to promote a model, {reason}",
            style="yellow",
            markup=False,
        )


def _models(lakehouse: DeltaLakehouse, console: Console) -> None:
    rows = lakehouse.rows(MODEL_EVALUATION)
    if rows.empty:
        return
    month = int(rows["yyyymm"].max())
    wanted = rows[
        (rows["yyyymm"] == month)
        & (rows["horizon"] == 0)
        & (rows["segment_kind"] == "demand_class")
    ]
    table = Table(
        title=f"Models compared on the evidence of {month}: WQL by class",
        title_justify="left",
        title_style="bold",
    )
    classes = [c for c in DEMAND_CLASSES if c in set(wanted["segment"])]
    table.add_column("model")
    for name in [*classes, "s per origin"]:
        table.add_column(name, justify="right")
    for model in sorted(set(wanted["model"]), key=lambda name: (name != BASELINE, name)):
        own = wanted[wanted["model"] == model]
        by_class = own.set_index("segment")["wql"].to_dict()
        table.add_row(
            str(model),
            *(_number(by_class.get(c)) for c in classes),
            f"{own['fit_seconds'].mean():.1f}",
        )
    console.print()
    console.print(table)


def _forecast(lakehouse: DeltaLakehouse, console: Console) -> None:
    rows = lakehouse.rows(
        DEMAND_FORECAST,
        [
            "yyyymm",
            "vintage",
            "part_number",
            "horizon",
            "target_yyyymm",
            "forecast_qty",
            "status",
        ],
    )
    if rows.empty:
        console.print("\nNothing published yet.")
        return
    origin = int(rows["yyyymm"].max())
    rows = rows[rows["yyyymm"] == origin]
    rows = rows[rows["vintage"] == rows["vintage"].max()]
    active = rows[rows["horizon"] > 0]
    parts = active.drop_duplicates("part_number")["status"].value_counts()
    console.print(
        f"\n[bold]Forecast[/bold] made at the end of {origin}, vintage {rows['vintage'].max()}:"
        f" {active['part_number'].nunique():,} parts"
        f" ({', '.join(f'{n:,} {s}' for s, n in parts.items())}),"
        f" {int((rows['horizon'] == 0).sum()):,} excluded"
    )
    totals = total_rows(lakehouse, Edition(origin, int(rows["vintage"].max())))
    totals = totals[totals["segment_kind"] == "all"].set_index("target_yyyymm")
    for target, month in active.groupby("target_yyyymm"):
        interval = (
            f", {totals.at[target, 'q10']:,.0f} to {totals.at[target, 'q90']:,.0f} (q10 to q90)"
            if target in totals.index
            else ""
        )
        console.print(f"  {target}: {month['forecast_qty'].sum():>12,.0f} units expected{interval}")
    for total in totals.head(1).to_dict("records"):
        console.print(
            f"  {total['coverage_80']:.0%} of {total['origin_month_count']:,} past totals fell"
            " within the q10 to q90 of their time"
            if total["origin_month_count"]
            else "  no past total had an interval yet that what was sold could be held against"
        )


def _report(lakehouse: DeltaLakehouse, files: LocalReportFiles, console: Console) -> None:
    for origin in published_origins(lakehouse)[-1:]:
        if files.read(report_name(origin)):
            console.print(f"Report:  {files.path(report_name(origin))}, to be opened in a browser")


def _accuracy(lakehouse: DeltaLakehouse, console: Console) -> None:
    rows = lakehouse.rows(FORECAST_ACCURACY)
    rows = rows[(rows["segment_kind"] == "all") & (rows["lag"] == 1)] if len(rows) else rows
    if rows.empty:
        return
    console.print("\n[bold]Served forecasts, one month ahead, against what was sold[/bold]")
    for r in rows.sort_values("yyyymm").tail(6).to_dict("records"):
        naive = (
            f", same month last year {r['naive_wape']:.3f}" if not pd.isna(r["naive_wape"]) else ""
        )
        console.print(
            f"  {r['yyyymm']}: WAPE {r['wape']:.3f}{naive}; bias {r['bias']:+.3f};"
            f" {r['coverage_80']:.0%} within q10 to q90"
        )


def _anomalies(lakehouse: DeltaLakehouse, console: Console) -> None:
    """Anomalies without a label, of the newest month that has any."""
    rows = lakehouse.rows(
        DEMAND_ANOMALY, ["yyyymm", "part_number", "label", "money_at_stake", "direction"]
    )
    open_ = rows[rows["label"].isna()]
    if open_.empty:
        return
    month = int(open_["yyyymm"].max())
    own = open_[open_["yyyymm"] == month].sort_values("money_at_stake", ascending=False)
    shown = ", ".join(
        f"{r['part_number']} ({r['direction']})" for r in own.head(3).to_dict("records")
    )
    console.print(
        f"\n[bold]Anomalies[/bold] without a label: {len(open_):,}, {len(own):,} of them in"
        f" {month}: ",
        end="",
    )
    console.print(
        f"{shown}{' ...' if len(own) > 3 else ''}; `medallion label` says what they were",
        markup=False,
    )


def _number(value: object) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.3f}"
