"""The benchmark that anyone can run: a series file or a configured source, cut at an origin, through the front door, and scored.

Nothing is bypassed: history becomes order lines and a parts master in a lakehouse of its own, and the jobs of every other run forecast it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from medallion_assets import definitions
from medallion_assets.bronze.transforms import dated_lines
from medallion_assets.operations import runs, scoring
from medallion_assets.operations.references import reference_scores
from medallion_assets.partitions import add_months, from_index, month_index
from medallion_assets.tables import DECILES, DEMAND_FORECAST, MONTHLY_DEMAND, ZOO_FORECAST
from resources.errors import Refused
from resources.orders import LocalOrderFiles
from resources.settings import Settings, parse_settings

SERVED = "served"
MIN_SOLD_MONTHS = 12  # months with demand that a part of an order file needs before the origin to be scored
SHOWN = ("wql", "mase", "rmse_pooled", "rmse_mean", "rmsse", "wape", "bias", "calibration")
# Published in the results of the fev benchmark (autogluon/fev) and in the Monash archive, by file and months held out.
PUBLISHED: Mapping[tuple[str, int], tuple[tuple[str, Mapping[str, float]], ...]] = {
    ("carparts", 12): (
        ("published: seasonal naive", {"mase": 1.2015, "wql": 1.6}),
        ("published: AutoETS", {"mase": 1.2203, "wql": 1.3399}),
        ("published: Chronos-Bolt base", {"mase": 0.855, "wql": 0.9945}),
        ("published: Moirai large", {"mase": 0.8275, "wql": 0.9748}),
        ("published: Transformer (Monash)", {"rmse_mean": 0.74}),
    ),
    ("m3_monthly", 18): (
        ("published: seasonal naive", {"mase": 1.1462}),
        ("published: AutoETS", {"mase": 0.8634}),
        ("published: AutoTheta", {"mase": 0.8547}),
        ("published: TimeCopilot", {"mase": 0.8286}),
    ),
}


@dataclass(frozen=True)
class Shifted:
    """A series file brought to one end month: ``demand`` as ``scoring.monthly`` with months shifted, and each series' shift."""

    demand: pd.DataFrame
    shift: pd.Series

    @property
    def last(self) -> int:
        return int(self.demand["month"].max())


def end_aligned(series: pd.DataFrame) -> Shifted:
    """Every series shifted in time so that all end in the month in which the last of them ends. series: unique_id, ds, y."""
    demand = scoring.monthly(series)
    ends = demand.groupby("unique_id")["month"].max()
    shift = ends.max() - ends
    return Shifted(demand.assign(month=demand["month"] + demand["unique_id"].map(shift)), shift)


def of_series(file: Path, horizon: int, out: Path, models: Sequence[str] | None, console: Console) -> None:
    """Forecast the last ``horizon`` months of every series of a file from what lies before. Raises Refused for an unusable file."""
    series = _read_series(file)
    shifted = end_aligned(series)
    origin = shifted.last - horizon
    _refuse_used(out)
    history = shifted.demand[shifted.demand["month"] <= origin]
    if history.empty:
        raise Refused(f"{file}: no month lies before the last {horizon}; give a smaller HORIZON")
    numbers = _write_orders(history, shifted.demand, out / "orders")
    settings = parse_settings(_series_configuration(history, origin, horizon, out, models), out / "accuracy.yaml")
    started = time.monotonic()
    _forecast(settings, from_index(origin), console)
    seconds = time.monotonic() - started
    predictions = _predictions(settings, from_index(origin)).assign(unique_id=lambda rows: rows["unique_id"].map(numbers))
    _finish(predictions, shifted.demand, shifted.shift, out, seconds, PUBLISHED.get((file.stem, horizon), ()), console)


def of_orders(settings: Settings, horizon: int, origin: int, out: Path, models: Sequence[str] | None, console: Console) -> None:
    """Forecast a configured source from an origin; lines dated later are removed from copies of its files before they are read."""
    _refuse_used(out)
    content = settings.model_dump(mode="json", exclude={"simulation", "run"})
    content["forecast"]["horizon"] = horizon
    if models:
        content["zoo"]["models"] = list(models)
    # Schemas of its own: one Spark session knows a table name once.
    apart = {layer: f"actuals_{layer}" for layer in ("bronze", "silver", "gold")}
    everything = _relocated({**content, "schemas": apart}, out / "actuals_lakehouse", out)
    with runs.session(everything, console) as session:
        session.execute("register_deliveries", [int(definitions.newest_partition(everything))])
        session.execute("monthly_data", [settings.first_month, add_months(origin, horizon)])
        cut = _cut_orders(everything, origin, out / "orders")
    known = runs.reader(everything).rows(MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty"])
    actuals = pd.DataFrame(
        {
            "unique_id": known["part_number"],
            "ds": pd.to_datetime(known["yyyymm"].astype(str), format="%Y%m"),
            "y": known["demand_qty"].clip(lower=0.0),
        }
    )
    actuals.sort_values(["unique_id", "ds"]).to_parquet(out / "actuals.parquet", index=False)
    content["sources"] = [{**s, "files": cut[s["name"]], "format": "parquet", "closed_through": origin} for s in content["sources"]]
    content["last_month"] = origin
    before = _relocated(content, out / "lakehouse", out)
    started = time.monotonic()
    _forecast(before, origin, console)
    demand = scoring.monthly(actuals)
    sold = demand[(demand["month"] <= month_index(origin)) & (demand["y"] > 0)].groupby("unique_id").size()
    scored = demand[demand["unique_id"].isin(sold[sold >= MIN_SOLD_MONTHS].index)]
    no_shift = pd.Series(0, index=demand["unique_id"].unique())
    seconds = time.monotonic() - started
    references = sorted(reference_scores(scored, month_index(origin), horizon).items(), key=lambda entry: entry[1]["wape"])
    _finish(_predictions(before, origin), scored, no_shift, out, seconds, references, console)


def _refuse_used(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise Refused(f"{out} is not empty; OUT must name a new folder, since a used lakehouse would know what the test hides")
    out.mkdir(parents=True, exist_ok=True)


def _read_series(file: Path) -> pd.DataFrame:
    try:
        series = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise Refused(f"{file}: not a readable Parquet file ({error}); SET names a file with unique_id, ds and y") from error
    if absent := [name for name in ("unique_id", "ds", "y") if name not in series]:
        raise Refused(f"{file}: no column {', '.join(absent)}; it has {', '.join(series.columns)}")
    if not pd.api.types.is_datetime64_any_dtype(series["ds"]):
        series = series.assign(ds=pd.to_datetime(series["ds"]))
    if (series["y"] < 0).any():
        raise Refused(f"{file}: {int((series['y'] < 0).sum())} values of y are negative; demand is not")
    return series


def _write_orders(history: pd.DataFrame, demand: pd.DataFrame, folder: Path) -> dict[str, str]:
    """One order line for each month with demand, and a master of all series with their first month; part numbers with their series."""
    folder.mkdir(parents=True)
    ids = sorted(demand["unique_id"].unique())
    number = {unique_id: f"S{i:07d}" for i, unique_id in enumerate(ids)}
    sold = history[history["y"] > 0]
    month = sold["month"].map(from_index).astype(str)
    part = sold["unique_id"].map(number)
    orders = {
        "order": part + "-" + month,
        "part": part,
        "date": month.str[:4] + "-" + month.str[4:] + "-15",
        "qty": sold["y"],
        "price": 1.0,
    }
    pd.DataFrame(orders).to_parquet(folder / "orders.parquet", index=False)
    # A series that starts after the origin is announced in the newest known month: it must be forecast all the same.
    first = demand.groupby("unique_id")["month"].min().clip(upper=int(history["month"].max()))
    announced = pd.DataFrame({"part": [number[i] for i in first.index], "announced": first.map(from_index).astype(str).to_numpy()})
    announced.to_csv(folder / "parts.csv", index=False)
    return {number[unique_id]: unique_id for unique_id in ids}


def _series_configuration(history: pd.DataFrame, origin: int, horizon: int, out: Path, models: Sequence[str] | None) -> dict[str, Any]:
    columns = {"order_id": "order", "part_number": "part", "order_date": "date", "quantity": "qty", "unit_price": "price"}
    source = {
        "name": "series",
        "files": str(out.absolute() / "orders" / "orders.parquet"),
        "format": "parquet",
        "columns": columns,
        "date_formats": ["yyyy-MM-dd"],
        "closed_through": from_index(origin),
    }
    return {
        "lakehouse_root": str(out.absolute() / "lakehouse"),
        "first_month": from_index(int(history["month"].min())),
        "last_month": from_index(origin),
        "sources": [source],
        "parts_master": {
            "files": str(out.absolute() / "orders" / "parts.csv"),
            "part_number": "part",
            "announced": "announced",
            "date_formats": ["yyyyMM"],
        },
        "forecast": {"horizon": horizon},
        "zoo": {"models": list(models)} if models else {},
    }


def _relocated(content: Mapping[str, Any], root: Path, out: Path) -> Settings:
    return parse_settings({**content, "lakehouse_root": str(root.absolute())}, out / "accuracy.yaml")


def _cut_orders(settings: Settings, origin: int, folder: Path) -> dict[str, str]:
    """Copies of all files without the lines dated after the origin, one file each, as text; the pattern of the copies by source."""
    spark = definitions.build_resources(settings)["spark"].spark_session
    reader = LocalOrderFiles()
    patterns = {}
    for source in settings.sources:
        if source.files is None:
            raise Refused(f"source {source.name} is an adopted table; the benchmark cuts files")
        for i, path in enumerate(reader.paths(source)):
            lines = reader.lines(spark, source, [reader.describe(source, path)])
            dated = dated_lines(lines, source, settings.first_month, 999912)
            own = [name for name in dated.columns if not name.startswith("_") and name != "yyyymm"]
            kept = dated.where(f"yyyymm <= {int(origin)}").orderBy("_line_number").select(*own)
            kept.coalesce(1).write.parquet(str(folder.absolute() / source.name / f"{i:05d}"))
        patterns[source.name] = str(folder.absolute() / source.name / "*" / "*.parquet")
    return patterns


def _forecast(settings: Settings, origin: int, console: Console) -> None:
    with runs.session(settings, console) as session:
        session.execute("register_deliveries", [int(definitions.newest_partition(settings))])
        session.execute("monthly_data", [settings.first_month, origin])
        session.execute("retraining", [origin])


def _predictions(settings: Settings, origin: int) -> pd.DataFrame:
    """unique_id, origin, month (months since year 0), horizon, model, forecast, deciles and status of the served and every zoo forecast."""
    lakehouse = runs.reader(settings)
    columns = ["part_number", "target_yyyymm", "horizon", "forecast_qty", *DECILES]
    served = lakehouse.rows(DEMAND_FORECAST, [*columns, "status"], [origin]).query("horizon > 0").assign(model=SERVED)
    zoo = lakehouse.rows(ZOO_FORECAST, [*columns, "model", "is_fallback"], [origin])
    zoo["status"] = zoo.pop("is_fallback").map({True: "fallback", False: "forecast"})
    rows = pd.concat([served, zoo], ignore_index=True)
    rows["month"] = rows.pop("target_yyyymm").map(month_index)
    return rows.assign(origin=month_index(origin)).rename(columns={"part_number": "unique_id", "forecast_qty": "forecast"})


def _finish(
    predictions: pd.DataFrame,
    demand: pd.DataFrame,
    shift: pd.Series,
    out: Path,
    seconds: float,
    published: Sequence[tuple[str, Mapping[str, float]]],
    console: Console,
) -> None:
    """Write predictions.parquet (in the dates of the series file) and scores.json, and print the comparison."""
    predictions = predictions[predictions["unique_id"].isin(demand["unique_id"].unique())]
    asked = demand.loc[demand["month"] > predictions["origin"].max(), ["unique_id", "month"]]
    served = predictions[predictions["model"] == SERVED]
    if len(lacking := asked.merge(served, on=["unique_id", "month"], how="left", indicator=True).query("_merge == 'left_only'")):
        console.print(f"[yellow]{len(lacking):,} of {len(asked):,} cells have no served forecast and are not scored[/yellow]")
    scored = scoring.scores(demand, predictions)
    moved = predictions["unique_id"].map(shift)
    dates = {
        "ds": (predictions["month"] - moved).map(from_index).map(_month_start),
        "origin": (predictions["origin"] - moved).map(from_index),
    }
    shown = ["unique_id", "ds", "origin", "horizon", "model", "forecast", *DECILES, "status"]
    predictions.assign(**dates)[shown].to_parquet(out / "predictions.parquet", index=False)
    counts = predictions.groupby("model")["unique_id"].nunique()
    content = {"seconds": round(seconds, 1), "scores": scored, "published": {name: dict(row) for name, row in published}}
    (out / "scores.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    table = Table(title=f"{counts[SERVED]:,} series, forecast in {seconds:.0f} s")
    for name in ("model", "series", *SHOWN):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in sorted(scored, key=lambda name: (name != SERVED, scored[name]["wql"])):
        table.add_row(model, f"{counts[model]:,}", *(f"{scored[model][name]:.4f}" for name in SHOWN))
    for model, row in published:
        table.add_row(model, "", *(f"{row[name]:.4f}" if name in row else "" for name in SHOWN))
    console.print(table)


def _month_start(yyyymm: int) -> pd.Timestamp:
    # By way of numpy, because series of M3 are dated in the first century.
    return pd.Timestamp(np.datetime64(f"{yyyymm // 100:04d}-{yyyymm % 100:02d}-01", "us"))
