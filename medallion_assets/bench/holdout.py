"""The benchmark that anyone can run: a series file or a configured source, cut at an origin,
through the front door, and scored.

Nothing is bypassed: history becomes order lines and a parts master in a lakehouse of its own, and
the jobs of every other run forecast it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from medallion_assets import definitions
from medallion_assets.bench import scoring
from medallion_assets.bench.references import reference_scores
from medallion_assets.bronze.transforms import dated_lines
from medallion_assets.operations import runs
from medallion_assets.partitions import add_months, from_index, month_index, month_range
from medallion_assets.tables import (
    DECILES,
    DEMAND_FORECAST,
    MONTHLY_DEMAND,
    RETRAINING_DECISION,
    ZOO_FORECAST,
)
from medallion_assets.watch.retraining import last_decision
from resources.errors import Refused
from resources.orders import LocalOrderFiles
from resources.settings import FILE_KEYS, Settings, parse_settings

SERVED = "served"
# months with demand that a part of an order file needs before the origin to be scored
MIN_SOLD_MONTHS = 12
SHOWN = ("wql", "mase", "rmse_pooled", "rmse_mean", "rmsse", "wape", "bias", "calibration")
# Published in the results of the fev benchmark (autogluon/fev) and in the Monash archive, by file
# and months held out.
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
class Benchmark:
    """What is asked of a benchmark: months held out, results below ``out``, and only ``models`` of
    the zoo where some are named.

    ``rolling``: instead of one origin so many, one month apart and each scored one step ahead
    (horizon 1), a month being released at a time; 0 for one origin.
    """

    horizon: int
    rolling: int
    out: Path
    models: Sequence[str] | None
    console: Console


class Aligned(NamedTuple):
    """A series file brought to one end month: ``demand`` as ``scoring.monthly`` with months
    shifted, and each series' shift.
    """

    demand: pd.DataFrame
    shift: pd.Series


def end_aligned(series: pd.DataFrame) -> Aligned:
    """Every series shifted in time so that all end in the month in which the last of them ends.
    series: unique_id, ds, y.
    """
    demand = scoring.monthly(series)
    ends = demand.groupby("unique_id")["month"].max()
    shift = ends.max() - ends
    return Aligned(demand.assign(month=demand["month"] + demand["unique_id"].map(shift)), shift)


def of_series(file: Path, benchmark: Benchmark) -> None:
    """Forecast the last months of every series of a file from what lies before. Raises Refused for
    an unusable file.
    """
    horizon, rolling, out = benchmark.horizon, benchmark.rolling, benchmark.out
    aligned = end_aligned(_read_series(file))
    demand = aligned.demand
    origins = _origins(from_index(int(demand["month"].max())), horizon, rolling)
    refuse_used(out)
    history = demand[demand["month"] <= month_index(origins[0])]
    if history.empty:
        raise Refused(
            f"{file}: no month lies before the first origin {origins[0]}; give a smaller HORIZON or"
            " ROLLING"
        )
    numbers = _write_master(history, demand, out / "orders")
    content = series_configuration(history, horizon, out, benchmark.models)
    started = time.monotonic()
    predictions = _forecast(
        lambda origin: at_month(content, origin, out),
        lambda after, origin: _write_orders(demand, numbers, after, origin, out),
        origins,
        benchmark.console,
    )
    seconds = time.monotonic() - started
    ids = {number: unique_id for unique_id, number in numbers.items()}
    predictions = predictions.assign(unique_id=predictions["unique_id"].map(ids))
    published = PUBLISHED.get((file.stem, 0 if rolling else horizon), ())
    _finish(benchmark, predictions, aligned, seconds, published)


def of_orders(settings: Settings, origin: int, benchmark: Benchmark) -> None:
    """Forecast a configured source from an origin, or from several of which it is the first; lines
    dated later are removed from copies of its files before they are read.
    """
    horizon, rolling, out, console = (
        benchmark.horizon,
        benchmark.rolling,
        benchmark.out,
        benchmark.console,
    )
    refuse_used(out)
    content = settings.content()
    content["forecast"]["horizon"] = horizon
    if benchmark.models:
        content["zoo"]["models"] = list(benchmark.models)
    origins = month_range(origin, add_months(origin, rolling - 1)) if rolling else [origin]
    # Schemas of its own: one Spark session knows a table name once.
    apart = {layer: f"actuals_{layer}" for layer in ("bronze", "silver", "gold")}
    everything = parse_settings(
        {
            **content,
            "schemas": apart,
            "lakehouse_root": str((out / "actuals_lakehouse").absolute()),
        },
        out / "x.yaml",
    )
    with runs.session(everything, console) as session:
        session.execute("register_deliveries", [int(definitions.newest_partition(everything))])
        session.execute("monthly_data", [settings.first_month, add_months(origins[-1], horizon)])
    known = runs.reader(everything).rows(MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty"])
    actuals = pd.DataFrame(
        {
            "unique_id": known["part_number"],
            "ds": pd.to_datetime(known["yyyymm"].astype(str), format="%Y%m"),
            "y": known["demand_qty"].clip(lower=0.0),
        }
    )
    actuals.sort_values(["unique_id", "ds"]).to_parquet(out / "actuals.parquet", index=False)
    orders = (out / "orders").absolute()
    content |= of_cut_orders(content, orders, out)
    started = time.monotonic()
    predictions = _forecast(
        lambda origin: at_month(content, origin, out),
        lambda after, origin: cut_orders(everything, after, origin, orders),
        origins,
        console,
    )
    seconds = time.monotonic() - started
    demand = scoring.monthly(actuals)
    sold = (
        demand[(demand["month"] <= month_index(origin)) & (demand["y"] > 0)]
        .groupby("unique_id")
        .size()
    )
    scored = demand[demand["unique_id"].isin(sold[sold >= MIN_SOLD_MONTHS].index)]
    no_shift = pd.Series(0, index=demand["unique_id"].unique())
    references: list[tuple[str, Mapping[str, float]]] = []
    if not rolling:
        references = sorted(
            reference_scores(scored, month_index(origin), horizon).items(),
            key=lambda entry: entry[1]["wape"],
        )
    _finish(benchmark, predictions, Aligned(scored, no_shift), seconds, references)


def _origins(last: int, horizon: int, rolling: int) -> list[int]:
    """The origins of a series file that ends in a month: one, or the last so many before it."""
    if rolling and horizon != 1:
        raise Refused(f"ROLLING scores one step ahead, and HORIZON is {horizon}; give HORIZON=1")
    return (
        month_range(add_months(last, -rolling), add_months(last, -1))
        if rolling
        else [add_months(last, -horizon)]
    )


def at_month(content: Mapping[str, Any], origin: int, out: Path) -> Settings:
    """The configuration as it is at the end of a month: it is the last, and all sources are closed
    through it.
    """
    sources = [{**source, "closed_through": origin} for source in content["sources"]]
    return parse_settings(
        {**content, "sources": sources, "last_month": origin}, out / "accuracy.yaml"
    )


def refuse_used(out: Path) -> None:
    """Make a new folder. Raises Refused for one that holds something."""
    if out.exists() and any(out.iterdir()):
        raise Refused(
            f"{out} is not empty; OUT must name a new folder, since a used lakehouse would know"
            " what the test hides"
        )
    out.mkdir(parents=True, exist_ok=True)


def _read_series(file: Path) -> pd.DataFrame:
    try:
        series = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise Refused(
            f"{file}: not a readable Parquet file ({error}); SET names a file with unique_id, ds"
            " and y"
        ) from error
    if absent := [name for name in ("unique_id", "ds", "y") if name not in series]:
        raise Refused(f"{file}: no column {', '.join(absent)}; it has {', '.join(series.columns)}")
    if not pd.api.types.is_datetime64_any_dtype(series["ds"]):
        series = series.assign(ds=pd.to_datetime(series["ds"]))
    if (series["y"] < 0).any():
        raise Refused(
            f"{file}: {int((series['y'] < 0).sum())} values of y are negative; demand is not"
        )
    return series


def _write_master(history: pd.DataFrame, demand: pd.DataFrame, folder: Path) -> dict[str, str]:
    """A master of all series with their first month; series with their part numbers."""
    folder.mkdir(parents=True)
    number = {
        unique_id: f"S{i:07d}" for i, unique_id in enumerate(sorted(demand["unique_id"].unique()))
    }
    # A series that starts after the origin is announced in the newest known month: it must be
    # forecast all the same.
    first = demand.groupby("unique_id")["month"].min().clip(upper=int(history["month"].max()))
    announced = pd.DataFrame(
        {"part": first.index.map(number), "announced": first.map(from_index).astype(str).to_numpy()}
    )
    announced.to_csv(folder / "parts.csv", index=False)
    return number


def _write_orders(
    demand: pd.DataFrame, numbers: Mapping[str, str], after: int | None, through: int, out: Path
) -> None:
    """A file with one order line for each month with demand, of the months after one through
    another.
    """
    is_released = (demand["month"] <= month_index(through)) & (demand["y"] > 0)
    sold = demand[
        is_released if after is None else is_released & (demand["month"] > month_index(after))
    ]
    month = sold["month"].map(from_index).astype(str)
    part = sold["unique_id"].map(numbers)
    dates = month.str[:4] + "-" + month.str[4:] + "-15"
    orders = {
        "order": part + "-" + month,
        "part": part,
        "date": dates,
        "qty": sold["y"],
        "price": 1.0,
    }
    pd.DataFrame(orders).to_parquet(out / "orders" / f"orders_{through}.parquet", index=False)


def series_configuration(
    history: pd.DataFrame, horizon: int, out: Path, models: Sequence[str] | None
) -> dict[str, Any]:
    """The keys of a configuration that reads the order files of a series file below ``out``.
    history: ``scoring.monthly``.
    """
    columns = {
        "order_id": "order",
        "part_number": "part",
        "order_date": "date",
        "quantity": "qty",
        "unit_price": "price",
    }
    orders = out.absolute() / "orders"
    source = {
        "name": "series",
        "files": f"{orders}/orders_*.parquet",
        "format": "parquet",
        "columns": columns,
        "date_formats": ["yyyy-MM-dd"],
    }
    return {
        "lakehouse_root": str(out.absolute() / "lakehouse"),
        "first_month": from_index(int(history["month"].min())),
        "sources": [source],
        "parts_master": {
            "files": f"{orders}/parts.csv",
            "part_number": "part",
            "announced": "announced",
            "date_formats": ["yyyyMM"],
        },
        "forecast": {"horizon": horizon},
        "zoo": {"models": list(models)} if models else {},
    }


def of_cut_orders(content: Mapping[str, Any], orders: Path, out: Path) -> dict[str, Any]:
    """The keys of a configuration that read what ``cut_orders`` writes, in a lakehouse of its own
    below ``out``.
    """
    cut = []
    for source in content["sources"]:
        files = {"files": f"{orders}/{source['name']}/*/*/*.parquet", "format": "parquet"}
        cut.append({key: source[key] for key in source if key not in FILE_KEYS} | files)
    return {"sources": cut, "lakehouse_root": str((out / "lakehouse").absolute())}


def cut_orders(settings: Settings, after: int | None, through: int, folder: Path) -> None:
    """Copies of all files with the lines dated after one month through another, one file each, as
    text. Raises Refused without files.
    """
    spark = definitions.build_resources(settings)["spark"].spark_session
    reader = LocalOrderFiles()
    for source in settings.sources:
        if source.files is None:
            raise Refused(f"source {source.name} is an adopted table; the benchmark cuts files")
        if not (paths := reader.paths(source)):
            raise Refused(
                f"source {source.name}: no file at {source.files}; for some configurations ORDERS"
                " names the folder"
            )
        for i, path in enumerate(paths):
            lines = reader.lines(spark, source, [reader.describe(source, path)])
            dated = dated_lines(lines, source, settings.first_month, 999912)
            own = [name for name in dated.columns if not name.startswith("_") and name != "yyyymm"]
            wanted = dated.where(f"yyyymm <= {int(through)} AND yyyymm > {int(after or -1)}")
            kept = wanted.orderBy("_line_number").select(*own)
            kept.coalesce(1).write.parquet(str(folder / source.name / str(through) / f"{i:05d}"))


def _forecast(
    settings_at: Callable[[int], Settings],
    release: Callable[[int | None, int], None],
    origins: Sequence[int],
    console: Console,
) -> pd.DataFrame:
    """Predictions of all origins, their months released one after the other.

    The first origin trains; at each later one the default policy decides, on what is known by then,
    whether to train again.
    """
    found = []
    for after, origin in zip([None, *origins], origins, strict=False):
        release(after, origin)
        settings = settings_at(origin)
        with runs.session(settings, console) as session:
            session.execute("register_deliveries", [int(definitions.newest_partition(settings))])
            if after is None:
                session.execute("monthly_data", [settings.first_month, origin])
                session.execute("retraining", [origin])
            else:
                session.execute("monthly_forecast", [add_months(after, 1), origin])
                if _is_retraining_due(settings, origin, console):
                    session.execute("retraining", [origin])
        found.append(_predictions(settings, origin, has_zoo=len(origins) == 1))
    return pd.concat(found, ignore_index=True)


def _is_retraining_due(settings: Settings, month: int, console: Console) -> bool:
    """Whether the decision that the monthly job stored for a month is to train again."""
    decided = runs.reader(settings).rows(RETRAINING_DECISION)
    last = last_decision(decided[decided["yyyymm"] == month])
    is_due = last is not None and last["decision"] == "retrain"
    if last is not None:
        console.print(f"{'trained again' if is_due else 'not trained again'}: {last['reason']}")
    return is_due


def _predictions(settings: Settings, origin: int, has_zoo: bool) -> pd.DataFrame:
    """unique_id, origin, month (months since year 0), horizon, model, forecast, deciles, status,
    and class of the part at the origin.

    Of the served forecast, and where ``has_zoo`` of every model of the zoo.
    """
    lakehouse = runs.reader(settings)
    columns = ["part_number", "target_yyyymm", "horizon", "forecast_qty", *DECILES]
    served = lakehouse.rows(
        DEMAND_FORECAST, [*columns, "status", "vintage", "demand_class"], [origin]
    ).query("horizon > 0")
    classes = served.drop_duplicates("part_number").set_index("part_number")["demand_class"]
    rows = (
        served[served["vintage"] == served["vintage"].max()]
        .drop(columns="vintage")
        .assign(model=SERVED)
    )
    if has_zoo:
        zoo = lakehouse.rows(ZOO_FORECAST, [*columns, "model", "is_fallback"], [origin])
        zoo["status"] = zoo.pop("is_fallback").map({True: "fallback", False: "forecast"})
        rows = pd.concat(
            [rows, zoo.assign(demand_class=zoo["part_number"].map(classes))], ignore_index=True
        )
    rows["month"] = rows.pop("target_yyyymm").map(month_index)
    # In one order, whatever order files hold their rows in: sums keep their last digits.
    return (
        rows.assign(origin=month_index(origin))
        .rename(columns={"part_number": "unique_id", "forecast_qty": "forecast"})
        .sort_values(["model", "unique_id", "horizon"], ignore_index=True)
    )


def _finish(
    benchmark: Benchmark,
    predictions: pd.DataFrame,
    actual: Aligned,
    seconds: float,
    published: Sequence[tuple[str, Mapping[str, float]]],
) -> None:
    """Write predictions.parquet (in the dates of the series file) and scores.json, and print the
    comparison.
    """
    demand, shift = actual
    out, console = benchmark.out, benchmark.console
    predictions = predictions[predictions["unique_id"].isin(demand["unique_id"].unique())]
    served = predictions[predictions["model"] == SERVED]
    is_target = demand["month"].isin(served["month"].unique())
    asked = demand.loc[is_target, ["unique_id", "month"]]
    if len(
        lacking := asked.merge(served, on=["unique_id", "month"], how="left", indicator=True).query(
            "_merge == 'left_only'"
        )
    ):
        console.print(
            f"[yellow]{len(lacking):,} of {len(asked):,} cells have no served forecast and are not"
            " scored[/yellow]"
        )
    scored = scoring.scores(demand, predictions)
    moved = predictions["unique_id"].map(shift)
    dates = {
        "ds": (predictions["month"] - moved).map(from_index).map(_month_start),
        "origin": (predictions["origin"] - moved).map(from_index),
    }
    shown = ["unique_id", "ds", "origin", "horizon", "model", "forecast", *DECILES, "status"]
    predictions.assign(**dates)[shown].to_parquet(out / "predictions.parquet", index=False)
    counts = predictions.groupby("model")["unique_id"].nunique()
    by_class = {
        str(name): scoring.scores(demand, rows)[SERVED]
        for name, rows in served.groupby("demand_class")
    }
    content = {
        "seconds": round(seconds, 1),
        "scores": scored,
        "served_by_class": by_class,
        "published": {n: dict(row) for n, row in published},
    }
    (out / "scores.json").write_text(
        json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    origins = served["origin"].nunique()
    told = f"{origins} origins, one step ahead, " if origins > 1 else ""
    table = Table(title=f"{counts[SERVED]:,} series, {told}forecast in {seconds:.0f} s")
    for name in ("model", "series", *SHOWN):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in sorted(scored, key=lambda name: (name != SERVED, scored[name]["wql"])):
        table.add_row(
            model, f"{counts[model]:,}", *(f"{scored[model][name]:.4f}" for name in SHOWN)
        )
        if model == SERVED:
            for name, figures in by_class.items():
                table.add_row(
                    f"  {name}",
                    f"{figures['series']:,.0f}",
                    *(f"{figures[metric]:.4f}" for metric in SHOWN),
                    style="dim",
                )
    for model, row in published:
        table.add_row(model, "", *(f"{row[name]:.4f}" if name in row else "" for name in SHOWN))
    console.print(table)


def _month_start(yyyymm: int) -> pd.Timestamp:
    # By way of numpy, because series of M3 are dated in the first century.
    return pd.Timestamp(np.datetime64(f"{yyyymm // 100:04d}-{yyyymm % 100:02d}-01", "us"))
