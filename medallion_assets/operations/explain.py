"""From a served number back to where it came from: model, version, run, evidence, features and the
order lines behind the demand.

Reads tables without Spark; nothing is computed again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from medallion_assets.bronze.mapping import SourceMapping
from medallion_assets.deliveries import record_numbers, standing
from medallion_assets.operations.runs import reader
from medallion_assets.partitions import add_months, month_range
from medallion_assets.silver.assets import known_renames, new_numbers
from medallion_assets.tables import (
    CHAMPION,
    DECILES,
    DELIVERIES,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    FORECAST_ACCURACY,
    FORECAST_CHANGE,
    MODEL_EVALUATION,
    MONTHLY_DEMAND,
    SILVER_SALES_ORDERS,
)
from resources.errors import Refused

if TYPE_CHECKING:
    from medallion_assets.silver.renames import Rename
    from resources.lakehouse import DeltaLakehouse, TableSpec
    from resources.settings import Settings

SHOWN_MONTHS = 24
SHOWN_LINES = 12
CHANGE_NAMES = {
    "new_sales_qty": "by new sales",
    "restated_qty": "by late or corrected lines",
    "refit_qty": "by the new fit of the model",
    "champion_qty": "by another model",
}
FEATURES = (
    "abc_class",
    "months_since_first_sale",
    "months_since_last_sale",
    "demand_mean_3",
    "demand_mean_12",
    "demand_std_12",
    "adi",
    "cv2",
    "nonzero_share_12",
    "unit_price",
)


def explain(
    settings: Settings, part: str, target: int, origin: int | None, console: Console
) -> None:
    """Print where the served forecast of a part for a target month came from: of an origin, or of
    the newest that forecast it.

    Raises Refused where no forecast of the part for that month was published, with what was.
    """
    lakehouse = reader(settings)
    renames = known_renames(settings)
    part = _present_number(lakehouse, part, new_numbers(settings), renames, console)
    row = _served(lakehouse, part, target, origin)
    origin, pins = int(row["yyyymm"]), _pins(lakehouse, row)
    console.print(
        f"\n[bold]{part}[/bold] in {target}, forecast at the end of {origin} (horizon"
        f" {row['horizon']}), vintage {row['vintage']}"
    )
    deciles = ", ".join(
        f"{name} {row[name]:,.1f}" for name in (DECILES[0], DECILES[4], DECILES[-1])
    )
    reason = f" ({row['reason']})" if isinstance(row["reason"], str) else ""
    console.print(
        f"  {row['forecast_qty']:,.2f} units expected, {deciles}; status {row['status']}{reason}"
    )
    console.print(
        f"  published {row['published_at']:%Y-%m-%d %H:%M} UTC by Dagster run {row['run_id']}"
    )
    _change(lakehouse, part, target, row, console)
    _model(lakehouse, row, console)
    former = [rename for rename in renames if new_numbers(settings).get(rename.part) == part]
    for rename in former:
        console.print(
            f"  goes on with the history of {rename.part}: {rename.sentence}", markup=False
        )
    _history(lakehouse, part, origin, pins.get(MONTHLY_DEMAND.id), console)
    _features(lakehouse, part, origin, pins.get(DEMAND_FEATURES.id), console)
    _lines(lakehouse, part, origin, console)


def _present_number(
    lakehouse: DeltaLakehouse,
    part: str,
    numbers: Mapping[str, str],
    renames: Sequence[Rename],
    console: Console,
) -> str:
    """The number that a part has now; the one asked for where forecasts were published under it."""
    now = numbers.get(part, part)
    if now == part or len(lakehouse.rows(DEMAND_FORECAST, ["part_number"], parts=[part])):
        return part
    for rename in renames:
        if numbers.get(rename.part) == now:
            console.print(f"{rename.sentence}", style="yellow", markup=False)
    return now


def _served(lakehouse: DeltaLakehouse, part: str, target: int, origin: int | None) -> pd.Series:
    origins = (
        month_range(add_months(target, -24), add_months(target, -1)) if origin is None else [origin]
    )
    rows = lakehouse.rows(DEMAND_FORECAST, months=origins, parts=[part])
    if rows.empty:
        raise Refused(
            f"no forecast of part '{part}' was published at the end of"
            f" {origins[0]}{'' if origin else ' or later'}"
        )
    found = rows[rows["target_yyyymm"] == target]
    if len(excluded := rows[rows["horizon"] == 0]) and found.empty:
        raise Refused(
            f"part '{part}' was excluded at the end of {excluded.iloc[-1]['yyyymm']}:"
            f" {excluded.iloc[-1]['reason']}"
        )
    if found.empty:
        months = sorted(rows["target_yyyymm"].unique())
        raise Refused(
            f"part '{part}' was not forecast for {target}; there are forecasts for {months[0]} to"
            f" {months[-1]}"
        )
    return found.sort_values(["yyyymm", "vintage"]).iloc[-1]


def _pins(lakehouse: DeltaLakehouse, row: pd.Series) -> dict[str, int]:
    """Delta versions that the published row was made from, by table id."""
    names = {lakehouse.name(spec): spec.id for spec in (MONTHLY_DEMAND, DEMAND_FEATURES)}
    return {
        names[name]: int(version)
        for name, version in json.loads(row["input_versions"]).items()
        if name in names
    }


def _change(
    lakehouse: DeltaLakehouse, part: str, target: int, row: pd.Series, console: Console
) -> None:
    """Print what the change since the origin before comes of, where there was one."""
    found = lakehouse.rows(FORECAST_CHANGE, months=[int(row["yyyymm"])], parts=[part])
    found = found[(found["target_yyyymm"] == target) & (found["vintage"] == row["vintage"])]
    for change in found.to_dict("records"):
        told = ", ".join(f"{change[name]:+,.2f} {CHANGE_NAMES[name]}" for name in CHANGE_NAMES)
        total = change["forecast_qty"] - change["former_qty"]
        console.print(
            f"  {change['former_qty']:,.2f} units were expected at the end of"
            f" {change['former_origin']}; the change of {total:+,.2f} is {told}"
        )


def _model(lakehouse: DeltaLakehouse, row: pd.Series, console: Console) -> None:
    if pd.isna(row["registry_version"]):
        console.print(f"  made by {row['model']}: no model was trained by then")
        return
    version, trained, run = (
        int(row["registry_version"]),
        int(row["trained_yyyymm"]),
        row["model_run_id"],
    )
    console.print(
        f"  made by [bold]{row['model']}[/bold], trained in {trained}, MLflow run {run}, registry"
        f" version {version}"
    )
    decisions = lakehouse.rows(CHAMPION)
    own = decisions[
        (decisions["demand_class"] == row["demand_class"])
        & (decisions["registry_version"] <= version)
    ]
    own = own[own["decision"] != "restated"].sort_values("decision_number")
    if own.empty:
        return
    decided = own.iloc[-1]
    console.print(
        f"  serves class {row['demand_class']} by decision {decided['decision_number']}"
        f" ({decided['decision']}, {decided['actor']}):"
    )
    console.print(f"    {decided['reason']}", markup=False)
    evidence = lakehouse.rows(MODEL_EVALUATION, months=[int(decided["yyyymm"])])
    is_own = (
        (evidence["segment_kind"] == "demand_class")
        & (evidence["segment"] == row["demand_class"])
        & (evidence["horizon"] == 0)
    )
    best = evidence[is_own & evidence["wql"].notna()].sort_values("wql").head(5)
    told = ", ".join(f"{r['model']} {r['wql']:.3f}" for r in best.to_dict("records"))
    console.print(f"    WQL on the evidence of {decided['yyyymm']}: {told}")
    accuracy = lakehouse.rows(FORECAST_ACCURACY)
    own_class = accuracy[
        (accuracy["segment_kind"] == "demand_class") & (accuracy["segment"] == row["demand_class"])
    ]
    served = (
        own_class[(own_class["lag"] == row["horizon"]) & own_class["wql"].notna()]
        .sort_values("yyyymm")
        .tail(3)
    )
    if len(served):
        past = ", ".join(f"{r['yyyymm']} {r['wql']:.3f}" for r in served.to_dict("records"))
        console.print(f"    what was served for this class and lag turned out with WQL {past}")


def _history(
    lakehouse: DeltaLakehouse, part: str, origin: int, version: int | None, console: Console
) -> None:
    months = month_range(add_months(origin, 1 - SHOWN_MONTHS), origin)
    then, version = _pinned(lakehouse, MONTHLY_DEMAND, months, part, version)
    now = lakehouse.rows(MONTHLY_DEMAND, ["yyyymm", "demand_qty"], months, parts=[part]).set_index(
        "yyyymm"
    )["demand_qty"]
    demand = then.set_index("yyyymm")["demand_qty"].sort_index()
    console.print(f"\nDemand it saw, {lakehouse.name(MONTHLY_DEMAND)} version {version}:")
    console.print("  " + ", ".join(f"{month} {qty:,.0f}" for month, qty in demand.items()))
    moved = now.reindex(demand.index)
    if len(changed := demand[(moved - demand).abs() > 0]):
        console.print(
            "  since then changed:"
            f" {', '.join(f'{m} {q:,.0f} to {moved[m]:,.0f}' for m, q in changed.items())}",
            style="yellow",
        )


def _features(
    lakehouse: DeltaLakehouse, part: str, origin: int, version: int | None, console: Console
) -> None:
    rows, version = _pinned(lakehouse, DEMAND_FEATURES, [origin], part, version)
    if len(rows):
        told = (
            f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in rows.iloc[0][list(FEATURES)].items()
        )
        console.print(
            f"Features at the origin, {lakehouse.name(DEMAND_FEATURES)} version {version}:\n "
            f" {', '.join(told)}"
        )


def _lines(lakehouse: DeltaLakehouse, part: str, origin: int, console: Console) -> None:
    months = month_range(add_months(origin, 1 - SHOWN_MONTHS), origin)
    lines = lakehouse.rows(SILVER_SALES_ORDERS, months=months, parts=[part]).sort_values(
        ["order_date", "line_id"]
    )
    records = lakehouse.rows(DELIVERIES)
    files = standing(records).set_index("delivery_id")["file_name"]
    table = Table(
        title=(
            f"The newest {min(len(lines), SHOWN_LINES)} of {len(lines):,} order lines of the last"
            f" {SHOWN_MONTHS} months"
        )
    )
    shown = ("date", "order", "customer", "type", "quantity", "price", "file", "line")
    # Lines that name the part otherwise show how.
    delivered = lines.get("part_number_text", lines["part_number"]).fillna(part)
    as_delivered = ["part as delivered"] if (delivered != part).any() else []
    for name in (*shown, *as_delivered):
        table.add_column(
            name,
            justify="right" if name in ("quantity", "price", "line") else "left",
            overflow="fold",
        )
    for line in lines.tail(SHOWN_LINES).to_dict("records"):
        who = (
            str(line["order_date"])[:10],
            line["order_id"],
            str(line["customer_id"] or ""),
            line["line_type"],
        )
        price = "" if pd.isna(line["unit_price"]) else f"{line['unit_price']:,.2f}"
        table.add_row(
            *who,
            f"{line['quantity']:,.0f}",
            price,
            files.get(line["delivery_id"], line["source"]),
            str(line["line_number"]),
            *(str(line["part_number_text"] or "") for _ in as_delivered),
        )
    console.print(table)
    _mappings(records, lines.tail(SHOWN_LINES)["delivery_id"].unique(), console)


def _mappings(records: pd.DataFrame, delivery_ids: Collection[str], console: Console) -> None:
    """Print the mapping that read each delivery's lines, and the one before it."""
    shown: dict[tuple[str, ...], list[str]] = {}
    for delivery_id in delivery_ids:
        own = records[records["delivery_id"] == delivery_id]
        for record in own.loc[record_numbers(own).sort_values().index].to_dict("records"):
            shown.setdefault((record["source"], record["file_name"]), []).append(_mapping(record))
    for (_, file_name), told in shown.items():
        console.print(f"  {file_name}: read by {told[-1]}", markup=False)
        for former in reversed(told[:-1]):
            console.print(f"    before by {former}", markup=False)


def _mapping(record: Mapping[Hashable, Any]) -> str:
    """A record's mapping in a line: version, since when, and how it reads dates."""
    noted = SourceMapping.parse(record.get("mapping"))
    if noted is None:
        return f"the mapping of an older release, registered {record['registered_at']:%Y-%m-%d}"
    column = json.dumps(noted.dates["order_date"], ensure_ascii=False)
    formats = ", ".join(noted.dates.get("date_formats") or ())
    return (
        f"mapping {record['mapping_version']} since {record['mapped_at']:%Y-%m-%d %H:%M} UTC: dates"
        f" of {column} as {formats}"
    )


def _pinned(
    lakehouse: DeltaLakehouse, spec: TableSpec, months: list[int], part: str, version: int | None
) -> tuple[pd.DataFrame, int]:
    """Rows of a part at a version of the table, or of today where that version is no longer
    readable.
    """
    try:
        return lakehouse.rows(spec, months=months, parts=[part], version=version), (
            version if version is not None else lakehouse.version(spec)
        )
    except Refused:
        return lakehouse.rows(spec, months=months, parts=[part]), lakehouse.version(spec)
