"""How far the pipeline lies above StatsForecast alone: the same fits of the same series, in turn,
on two processes each.

    make accuracy SET=series.parquet HORIZON=18 OUT=out/series
    python -m benchmarks.statistical_floor --set series.parquet --horizon 18 --out out/series

Reads the lakehouse that ``make accuracy`` left and stores nothing. Alone: the library's fits of all
parts that a model is asked for at the newest origin, from arrays in memory. Pipeline: what the
backtest does there, from reading histories, features and past errors to forecasts with deciles in
Spark, without storing them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from rich.console import Console

from medallion_assets.bench.holdout import at_month, end_aligned, series_configuration
from medallion_assets.operations import runs
from medallion_assets.partitions import from_index
from medallion_assets.tables import DEMAND_FEATURES, MONTHLY_DEMAND
from medallion_assets.work import Work
from medallion_assets.zoo.backtest import Backtest
from medallion_assets.zoo.reading import window
from medallion_assets.zoo.registry import model
from medallion_assets.zoo.series import Floats, SeriesForecaster, demand_matrix
from medallion_assets.zoo.statistical import MODELS
from resources.settings import Settings

PROCESSES = 2
PARTS_AT_ONCE = 25
TIMES = 2


def histories(settings: Settings, origin: int) -> tuple[Floats, np.ndarray]:
    """Demand [part, month] of the active parts at an origin and their demand classes."""
    tables = runs.reader(settings)
    features = tables.rows(
        DEMAND_FEATURES, ["part_number", "demand_class", "is_active"], [origin]
    ).query("is_active")
    demand = tables.rows(
        MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty"], window(settings, origin)
    )
    matrix = demand_matrix(demand.astype({"demand_qty": float}), features["part_number"], origin)
    return matrix, features["demand_class"].to_numpy(dtype=str)


def fitted_alone(name: str, matrix: Floats, horizon: int) -> Floats:
    """Expected demand [part, horizon] by the library's fits and nothing else."""
    forecaster = cast("SeriesForecaster", model(name).forecaster({}))
    return forecaster.expected(matrix, horizon)[0]


def main() -> None:
    """Print seconds of both, the fewest of so many turns, and their ratio, by model and
    together.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", type=Path, required=True, help="the series file")
    parser.add_argument("--horizon", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder that make accuracy filled")
    arguments = parser.parse_args()
    horizon, out = arguments.horizon, arguments.out
    demand = end_aligned(pd.read_parquet(arguments.set)).demand
    known = demand[demand["month"] <= demand["month"].max() - horizon]
    origin = from_index(int(known["month"].max()))
    settings = at_month(series_configuration(known, horizon, out, None), origin, out)
    matrix, classes = histories(settings, origin)
    # Forked before Spark starts its threads.
    with (
        ProcessPoolExecutor(PROCESSES) as pool,
        runs.session(settings, Console(quiet=True)) as session,
    ):
        lakehouse, tracking = runs.writer(settings), session.tracking()

        def alone(name: str, parts: Floats) -> None:
            chunks = [parts[i : i + PARTS_AT_ONCE] for i in range(0, len(parts), PARTS_AT_ONCE)]
            list(pool.map(fitted_alone, [name] * len(chunks), chunks, [horizon] * len(chunks)))

        def in_pipeline(name: str) -> None:
            Backtest(model(name), Work(settings, lakehouse, "", print), tracking).fitting.again(
                origin, {}
            ).toPandas()

        print("| model | parts | alone, s | pipeline, s | ratio |\n| --- | --- | --- | --- | --- |")
        totals = np.zeros(2)
        for spec in MODELS:
            parts = matrix[np.isin(classes, spec.classes)]
            turns = {
                "alone": lambda n=spec.name, p=parts: alone(n, p),
                "pipeline": lambda n=spec.name: in_pipeline(n),
            }
            alone(spec.name, parts[: 2 * PARTS_AT_ONCE])  # compiles
            in_pipeline(spec.name)
            seconds = np.min(
                [[_timed(turn) for turn in turns.values()] for _ in range(TIMES)], axis=0
            )
            totals += seconds
            print(
                f"| {spec.name} | {len(parts):,} | {seconds[0]:.1f} | {seconds[1]:.1f} |"
                f" {seconds[1] / seconds[0]:.2f} |"
            )
        print(f"| together | | {totals[0]:.1f} | {totals[1]:.1f} | {totals[1] / totals[0]:.2f} |")


def _timed(turn: Callable[[], None]) -> float:
    started = time.perf_counter()
    turn()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
