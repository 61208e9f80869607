"""The same work on several engines, side by side in one run: seconds, ratios, peak memory.

`python -m benchmarks.engines sample | etl | months | parts | lines ...`; each measurement is a
process of its own with a lakehouse of its own. Figures are told as ratios, because machines differ.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pandas as pd
import yaml

from medallion_assets.environment import settings_of
from medallion_assets.operations import runs
from medallion_assets.simulation import Simulation, write
from resources.ledger import LEDGER, newest

SAMPLE = Path(__file__).resolve().parent.parent / "config" / "sample.yaml"
COLUMNS = {
    "order_id": "Order No",
    "part_number": "Item Code",
    "customer_id": "Customer",
    "region": "Region",
    "order_date": "Order Date",
    "quantity": "Qty",
    "unit_price": "Unit Price",
    "description": "Item Description",
}
JOBS = """
import json, sys, time
from medallion_assets.environment import current_settings
from medallion_assets import definitions
from medallion_assets.operations import runs
from medallion_assets import cli
settings = current_settings()
seconds = {}
with runs.session(settings, cli.console) as session:
    for job, first, last in json.loads(sys.argv[1]):
        first = first or int(definitions.newest_partition(settings))
        began = time.monotonic()
        session.execute(job, [first, last or first])
        seconds[f"{job} {first} {last or first}"] = time.monotonic() - began
print("SECONDS", json.dumps(seconds))
"""


@dataclass(frozen=True)
class Measured:
    """What a process took: wall seconds, seconds by job, the largest sum of its processes' memory
    in GiB.
    """

    seconds: float
    jobs: dict[str, float]
    peak_gib: float


def measured(config: Path, engine: str, jobs: Sequence[tuple[str, int, int]]) -> Measured:
    """Run jobs (name, first month, last month; 0 is the running month) in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SAIL_", "SPARK_"))}
    environment |= {"MEDALLION_CONFIG": str(config), "MEDALLION_ENGINE": engine}
    environment.pop("DAGSTER_HOME", None)
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, "-c", JOBS, json.dumps(jobs)]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with _peak_of(process.pid) as peak:
            code = process.wait()
        seconds = time.monotonic() - began
        output.seek(0)
        told = output.read()
    if code:
        raise click.ClickException(f"{engine} failed:\n{told[-2000:]}")
    return Measured(seconds, json.loads(told.rsplit("SECONDS", 1)[1]), peak[0] / 2**30)


@contextmanager
def _peak_of(group: int) -> Iterator[list[int]]:
    """The largest sum of resident bytes of a process group, looked at once a second: to look takes
    a part of a core itself.
    """
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            peak[0] = max(peak[0], _resident(group))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield peak
    ended.set()
    watcher.join()


def _resident(group: int) -> int:
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                # Of memory that processes share each has its part.
                if int(fields[2]) == group:
                    rollup = (entry / "smaps_rollup").read_text()
                    total += 1024 * int(
                        next(
                            line.split()[1]
                            for line in rollup.splitlines()
                            if line.startswith("Pss:")
                        )
                    )
            except (OSError, StopIteration):
                continue
    return total


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print figures as a table of Markdown."""
    frame = pd.DataFrame(rows)
    print(f"\n{title}\n")
    print(
        "| "
        + " | ".join(frame.columns)
        + " |\n"
        + "| "
        + " | ".join("---" for _ in frame.columns)
        + " |"
    )
    for row in frame.itertuples(index=False):
        print(
            "| "
            + " | ".join(
                f"{value:.2f}" if isinstance(value, float) else str(value) for value in row
            )
            + " |"
        )


def configured(folder: Path, base: dict[str, Any], name: str, **changes: Any) -> Path:
    """A configuration with a lakehouse of its own; order files are shared."""
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).mkdir(parents=True)
    config = folder / name / "bench.yaml"
    config.write_text(
        yaml.safe_dump({**base, "lakehouse_root": "lakehouse", **changes}), encoding="utf-8"
    )
    return config


def simulated(folder: Path, parts: int, months: int, **changes: Any) -> dict[str, Any]:
    """A configuration over the files of a simulated wholesaler, which are written where they are
    not there yet.
    """
    landing = folder / f"landing_{parts}_{months}"
    if not landing.exists():
        write(Simulation(parts=parts, months=months, first_month=202101, seed=7), landing)
    last = 202101 + (months - 1) // 12 * 100 + (months - 1) % 12
    source = {
        "name": "wholesaler",
        "files": f"{landing}/*.csv",
        "closed_through": last,
        "columns": COLUMNS,
        "date_formats": ["dd/MM/yyyy HH:mm", "dd/MM/yyyy"],
        "rules": {"product_pattern": "^P-", "cancellation_pattern": "^C"},
    }
    return {"first_month": 202101, "last_month": last, "sources": [source], **changes}


@click.group()
def main() -> None:
    """Engines side by side."""


OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("lakehouse/bench"),
    help="folder of lakehouses",
)
ENGINES = click.option(
    "--engine",
    "engines",
    multiple=True,
    default=("embedded", "spark"),
    help="compared, the first against each other",
)


@main.command()
@OUT
@ENGINES
def sample(out: Path, engines: tuple[str, ...]) -> None:
    """The sample from nothing to a forecast: bronze to features and drift, training and
    publication.
    """
    out = out.absolute()
    base = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    landing = out / "sample_landing"
    if not landing.exists():
        write(
            Simulation(**{k: v for k, v in base.pop("simulation").items() if k != "folder"}),
            landing,
        )
    base.pop("simulation", None)
    base["sources"][0]["files"] = f"{landing}/*.csv"
    base["parts_master"]["files"] = f"{landing}/parts_master/*.csv"
    jobs = [
        ("register_deliveries", 0, 0),
        ("monthly_data", 202201, 202512),
        ("retraining", 202512, 0),
    ]
    _compare("Sample", out, base, engines, jobs)


@main.command()
@click.argument("config", type=click.Path(exists=True, path_type=Path))
@click.argument("orders", type=click.Path(exists=True, path_type=Path))
@click.argument("first", type=int)
@click.argument("last", type=int)
@click.option("--train", type=int, help="also train all models, with the evidence of this month")
@OUT
@ENGINES
def etl(  # noqa: PLR0913, PLR0917 - the arguments and options of the command
    config: Path,
    orders: Path,
    first: int,
    last: int,
    train: int | None,
    out: Path,
    engines: tuple[str, ...],
) -> None:
    """Orders of a configuration from bronze to features and drift, FIRST to LAST month."""
    os.environ["MEDALLION_ORDERS"] = str(orders.absolute())
    text = config.read_text(encoding="utf-8")
    jobs = [("register_deliveries", 0, 0), ("monthly_data", first, last)]
    if train:
        jobs.append(("retraining", train, 0))
    _compare(config.stem, out.absolute(), yaml.safe_load(text), engines, jobs)


@main.command()
@OUT
@click.option("--engine", default="embedded")
@click.option("--history", multiple=True, type=int, default=(24, 120))
def months(out: Path, engine: str, history: tuple[int, ...]) -> None:
    """A new month on a lakehouse of so many months: from bronze to a published forecast by the
    served version.
    """
    rows = []
    for count in history:
        zoo = {"models": ["ses"]}
        base = simulated(out.absolute(), 200, count, zoo=zoo, forecast={"origins": 3, "horizon": 3})
        last = base["last_month"]
        before = last - 1 if last % 100 > 1 else last - 89
        config = configured(out.absolute(), base, f"months_{count}", last_month=before)
        measured(
            config,
            engine,
            [
                ("register_deliveries", 0, 0),
                ("monthly_data", 202101, before),
                ("retraining", before, 0),
            ],
        )
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        config.write_text(yaml.safe_dump({**content, "last_month": last}), encoding="utf-8")
        found = measured(
            config, engine, [("register_deliveries", 0, 0), ("monthly_forecast", last, 0)]
        )
        rows.append(
            {
                "months": count,
                "jobs s": sum(found.jobs.values()),
                "wall s": found.seconds,
                "peak GiB": found.peak_gib,
            }
        )
    table(f"A new month, {engine}", rows)
    print(f"\nratio of jobs, most months to fewest: {rows[-1]['jobs s'] / rows[0]['jobs s']:.2f}")


@main.command()
@OUT
@click.option("--engine", default="embedded")
@click.option("--parts", "counts", multiple=True, type=int, default=(1_000, 10_000, 100_000))
@click.option("--model", "models", multiple=True, default=("ses", "xgboost_global"))
def parts(out: Path, engine: str, counts: tuple[int, ...], models: tuple[str, ...]) -> None:
    """So many parts over 60 months, from files to a forecast."""
    rows: list[dict[str, Any]] = []
    for count in counts:
        zoo = {"models": list(models), "buckets": max(16, count // 1_000)}
        base = simulated(out.absolute(), count, 60, zoo=zoo, forecast={"origins": 3, "horizon": 3})
        config = configured(out.absolute(), base, f"parts_{count}")
        last = base["last_month"]
        jobs = [
            ("register_deliveries", 0, 0),
            ("monthly_data", 202101, last),
            ("retraining", last, 0),
        ]
        found = measured(config, engine, jobs)
        steps = {name.split()[0]: seconds for name, seconds in found.jobs.items()}
        rows.append(
            {
                "parts": count,
                **steps,
                "ms per part": 1000 * found.seconds / count,
                "peak GiB": found.peak_gib,
            }
        )
        table(f"Parts over 60 months, {engine}", rows)


@main.command()
@OUT
@click.option("--engine", default="embedded")
@click.option("--millions", type=float, default=10)
def lines(out: Path, engine: str, millions: float) -> None:
    """Lines to monthly demand, against Polars and DuckDB on the same files: read, typed, checked,
    summed up by part and month.
    """
    out = out.absolute()
    folder = out / f"lines_{millions:g}"
    if not folder.exists():
        _many_lines(folder, int(millions * 1e6))
    source = {
        "name": "many",
        "files": f"{folder}/*.csv",
        "columns": {
            "order_id": "order",
            "part_number": "part",
            "order_date": "day",
            "quantity": "qty",
            "unit_price": "price",
        },
        "date_formats": ["yyyy-MM-dd"],
    }
    config = configured(
        out, {"first_month": 202401, "last_month": 202412, "sources": [source]}, "lines"
    )
    found = measured(
        config, engine, [("register_deliveries", 0, 0), ("monthly_data", 202401, 202412)]
    )
    rows = [{"by": engine, "s": sum(found.jobs.values()), "peak GiB": found.peak_gib}]
    for name, script in (("polars", POLARS), ("duckdb", DUCKDB)):
        began = time.monotonic()
        # Kept apart from .venv: with Polars installed there, the types of utilsforecast are others.
        environment = {**os.environ, "PYTHONPATH": str(out / "packages")}
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], env=environment, start_new_session=True
        )
        with _peak_of(process.pid) as peak:
            code = process.wait()
        rows.append(
            {
                "by": name,
                "s": time.monotonic() - began if code == 0 else float("nan"),
                "peak GiB": peak[0] / 2**30,
            }
        )
    table(f"{millions:g} million lines", rows)


def _many_lines(folder: Path, count: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as pc

    folder.mkdir(parents=True)
    chance = np.random.default_rng(7)
    per_month = count // 12
    for month in range(1, 13):
        days = chance.integers(1, 29, per_month)
        rows = pa.table(
            {
                "order": [f"O{month}-{n}" for n in range(per_month)],
                "part": [f"P-{n:05d}" for n in chance.integers(0, 20_000, per_month)],
                "day": [f"2024-{month:02d}-{day:02d}" for day in days],
                "qty": chance.integers(1, 50, per_month),
                "price": np.round(chance.uniform(1, 90, per_month), 2),
            }
        )
        pc.write_csv(rows, folder / f"2024-{month:02d}.csv")


# What the lakehouse stores along the way: the lines as text, the accepted lines, monthly demand.
POLARS = """
import sys, polars as pl
folder = sys.argv[1]
text = pl.scan_csv(f"{folder}/*.csv", infer_schema=False)
text.sink_parquet(f"{folder}/polars_bronze.parquet")
amount = pl.Decimal(24, 6)
lines = pl.scan_parquet(f"{folder}/polars_bronze.parquet").with_columns(
    pl.col("day").str.to_date("%Y-%m-%d"), pl.col("qty").cast(amount), pl.col("price").cast(amount)
)
accepted = lines.filter((pl.col("qty") != 0) & (pl.col("price") > 0))
accepted.with_columns(pl.struct(pl.all()).hash().alias("line_id")).sink_parquet(
    f"{folder}/polars_silver.parquet")
pl.scan_parquet(f"{folder}/polars_silver.parquet").group_by(
    "part", pl.col("day").dt.strftime("%Y%m").alias("month")
).agg(pl.col("qty").sum(), pl.col("order").n_unique()).sink_parquet(
    f"{folder}/polars_demand.parquet")
"""
DUCKDB = """
import sys, duckdb
folder = sys.argv[1]
duckdb.sql(f'''COPY (SELECT * FROM read_csv('{folder}/*.csv', all_varchar=true))
    TO '{folder}/duckdb_bronze.parquet' ''')
duckdb.sql(f'''COPY (SELECT *, hash("order", part, day, qty, price) AS line_id FROM (
    SELECT "order", part, CAST(day AS DATE) AS day, CAST(qty AS DECIMAL(24,6)) AS qty,
        CAST(price AS DECIMAL(24,6)) AS price
    FROM '{folder}/duckdb_bronze.parquet') WHERE qty <> 0 AND price > 0)
    TO '{folder}/duckdb_silver.parquet' ''')
duckdb.sql(f'''COPY (SELECT part, strftime(day, '%Y%m') AS month, sum(qty) AS qty,
        count(DISTINCT "order") AS orders
    FROM '{folder}/duckdb_silver.parquet' GROUP BY ALL) TO '{folder}/duckdb_demand.parquet' ''')
"""


def _compare(
    title: str,
    out: Path,
    base: dict[str, Any],
    engines: Sequence[str],
    jobs: Sequence[tuple[str, int, int]],
) -> None:
    found: dict[str, Measured] = {}
    for engine in engines:
        found[engine] = measured(configured(out, base, f"{title}_{engine}"), engine, jobs)
        print(f"{engine}: {found[engine]}", flush=True)  # a later engine may fail
    first, *others = engines
    rows = []
    for step in [*found[first].jobs, "process"]:
        took = {
            engine: m.seconds if step == "process" else m.jobs[step] for engine, m in found.items()
        }
        ratios = {f"{first} / {other}": took[first] / took[other] for other in others}
        rows.append(
            {"step": step, **{f"{engine} s": seconds for engine, seconds in took.items()}, **ratios}
        )
    table(title, rows)
    table("Peak memory, GiB", [{engine: m.peak_gib for engine, m in found.items()}])
    versions = {
        engine: _data_versions(out / f"{title}_{engine}" / "bench.yaml") for engine in engines
    }
    table(
        "Slices with equal data version",
        [
            {"table": name, "slices": len(of_table), **_equal(of_table, engines)}
            for name, of_table in pd.concat(versions, axis=1).groupby(level="table_id")
        ],
    )


def _data_versions(config: Path) -> pd.Series:
    """The newest data version of each slice, by table, month and writer."""
    records = newest(runs.reader(settings_of(config)).rows(LEDGER))
    return records.set_index(["table_id", "yyyymm", "writer"])["data_version"].sort_index()


def _equal(versions: pd.DataFrame, engines: Sequence[str]) -> dict[str, int]:
    """How many slices of each further engine have the version that those of the first have."""
    first, *others = engines
    return {f"{first} = {one}": int((versions[first] == versions[one]).sum()) for one in others}


if __name__ == "__main__":
    main()
