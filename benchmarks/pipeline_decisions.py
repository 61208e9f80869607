"""Whether whole lakehouses decide as the study of false alarms does: the same wholesalers, from
order files to decisions.

    python -m benchmarks.pipeline_decisions --out folder

Each seed of ``false_alarms.py`` is written as order files and taken from bronze to
gold.demand_drift by the jobs of every other run. On what is stored, and on the study's own figures
of the same sales, the same decisions are made month by month. Nothing is forecast, so drift of
demand alone decides. ``--exports`` writes the files as companies export them: with cancellations,
returns, late and faulty lines, which the study does not know.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from benchmarks.false_alarms import (
    COLUMNS,
    FIRST,
    MONTHS,
    MONTHS_TESTED,
    PARTS,
    SCENARIOS,
    START,
    demand_classes,
    figures_of,
    history,
)
from medallion_assets import definitions
from medallion_assets.operations import runs
from medallion_assets.partitions import add_months
from medallion_assets.simulation import REGIONS, Simulation, sales, write
from medallion_assets.tables import DEMAND_DRIFT
from medallion_assets.watch.drift import demand_drift
from medallion_assets.watch.retraining import decide
from resources.settings import Settings, parse_settings

EXPORTED = dict(
    zip(COLUMNS, ("Order No", "Item Code", "Order Date", "Qty", "Unit Price"), strict=True),
    customer_id="Customer",
    region="Region",
)
NO_ACCURACY = pd.DataFrame(
    columns=[
        "yyyymm",
        "segment",
        "forecast_qty",
        "actual_qty",
        "wql",
        "bias",
        "evidence_wql",
        "evidence_bias",
    ]
)


def settings_of(folder: Path) -> Settings:
    """One wholesaler's lakehouse, with training by age switched off."""
    source = {
        "name": "wholesaler",
        "files": "landing/*.csv",
        "closed_through": add_months(FIRST, MONTHS - 1),
        "columns": EXPORTED,
        "date_formats": ["dd/MM/yyyy HH:mm", "dd/MM/yyyy"],
        "rules": {"product_pattern": "^P-", "cancellation_pattern": "^C"},
    }
    content: dict[str, Any] = {
        "lakehouse_root": "lakehouse",
        "first_month": FIRST,
        "sources": [source],
        "monitoring": {"max_training_lag_months": 1000},
    }
    # All of them in one Spark session, where a table's name must be its own.
    content["schemas"] = {layer: f"{layer}_{folder.name}" for layer in ("bronze", "silver", "gold")}
    return parse_settings(content, folder / "pipeline.yaml")


def write_sales(simulated: Simulation, folder: Path) -> None:
    """One order file per month with the lines as sold."""
    folder.mkdir(parents=True, exist_ok=True)
    for month, sold in sales(simulated):
        lines = pd.DataFrame(
            {
                "Order No": [f"{month}-{order}" for order in sold["order"]],
                "Item Code": [f"P-{part:06d}" for part in sold["part"]],
                "Customer": [
                    f"K{customer}" if customer >= 0 else "" for customer in sold["customer"]
                ],
                "Region": [REGIONS[region] for region in sold["region"]],
                "Order Date": f"28/{month % 100:02}/{month // 100}",
                "Qty": sold["qty"].to_numpy(),
                "Unit Price": sold["price"].to_numpy(),
                "Item Description": [
                    f"line {n} of the month (simulated)" for n in range(len(sold))
                ],
            }
        )
        lines.to_csv(folder / f"{month}.csv", index=False)


def decisions(drift: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """yyyymm, decision and whether the month drifted, by the default policy; whoever is to be
    trained again is, in that month.
    """
    trained, former = add_months(FIRST, START - 1), []
    for number, month in enumerate(MONTHS_TESTED, 1):
        made = decide(
            month, {"all": trained}, drift[drift["yyyymm"] <= month], pd.DataFrame(former), settings
        )
        row: dict[str, Any] = {
            "decision_number": number,
            "evidence_months": json.dumps(made.evidence_months),
        }
        former.append(made._asdict() | row)
        trained = month if made.decision == "retrain" else trained
    is_drift = drift.groupby("yyyymm")["is_drift"].any().reindex(MONTHS_TESTED).to_numpy(dtype=bool)
    return pd.DataFrame(former)[["yyyymm", "decision"]].assign(is_drift=is_drift)


def main() -> None:
    """Run the seeds and print where the two agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the lakehouses; a finished one is taken as it is",
    )
    parser.add_argument(
        "--exports", action="store_true", help="files with the faults of real exports"
    )
    arguments = parser.parse_args()
    console, told = Console(highlight=False, soft_wrap=True), []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        folder = arguments.out.absolute() / str(seed)
        settings = settings_of(folder)
        (write if arguments.exports else write_sales)(
            Simulation(PARTS, MONTHS, FIRST, seed), folder / "landing"
        )
        with runs.session(settings, console) as session:
            session.execute("register_deliveries", [int(definitions.newest_partition(settings))])
            session.execute("monthly_data", [FIRST, add_months(FIRST, MONTHS - 1)])
        stored = runs.reader(settings).rows(DEMAND_DRIFT)
        sold = history(seed, next(iter(SCENARIOS)))
        pure = pd.DataFrame(
            demand_drift(
                figures_of(sold, demand_classes(sold.qty)), NO_ACCURACY, MONTHS_TESTED, settings
            )
        )
        both = stored.merge(pure, on=["yyyymm", "feature"], suffixes=("", "_pure"))
        apart = (both["statistic"].astype(float) - both["statistic_pure"].astype(float)).abs()
        pipeline, study = decisions(stored, settings), decisions(pure, settings)
        told.append(
            f"| {seed} | {pipeline['is_drift'].sum()} and {study['is_drift'].sum()} |"
            f" {(pipeline['is_drift'] != study['is_drift']).sum()} | {_trained(pipeline)} |"
            f" {_trained(study)} | {(pipeline['decision'] != study['decision']).sum()} |"
            f" {np.nanmedian(apart):.2f} |"
        )
    print(f"\n{PARTS} parts, {len(MONTHS_TESTED)} months each tested, no change\n")
    print(
        "| seed | drift: lakehouse, study | apart | retrained: lakehouse | study | decisions apart"
        " | median difference of z |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |", *told, sep="\n")


def _trained(made: pd.DataFrame) -> str:
    return ", ".join(map(str, made.loc[made["decision"] == "retrain", "yyyymm"])) or "never"


if __name__ == "__main__":
    main()
