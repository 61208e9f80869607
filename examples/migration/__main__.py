"""The whole migration on a simulated wholesaler: python -m examples.migration OUT.

The old notebook is run as of each past month end, a planner fills in a sheet a month, and both
take part in the contest. The pages that compare them are left in OUT.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

from medallion_assets.partitions import month_range
from medallion_assets.simulation import Simulation, write

NOTEBOOK = Path(__file__).with_name("old_notebook.py")
MEDALLION = str(Path(sys.executable).with_name("medallion"))
MODELS = ["seasonal_naive", "imapa", "sklearn_hist_gradient", "xgboost_global"]
PLANNED_SHARE = 0.6  # of the parts, those sold most, are on the planner's sheet


def prepare(
    out: Path, parts: int, months: int, origins: int, models: Sequence[str] = MODELS
) -> Path:
    """Orders, the notebook's forecasts of past months, the planner's sheets and a configuration
    below ``out``; returns the configuration.
    """
    simulation = {"parts": parts, "months": months, "first_month": 202201, "seed": 7}
    write(Simulation(**simulation), out / "landing")
    all_months = month_range(202201, 209912)[:months]
    # The newest origin of evidence lies a horizon back, so the oldest lies K + H months back.
    for month in all_months[-(origins + 6) :]:
        run_notebook(out, month)
        fill_in_sheet(out, month)
    settings = {
        "lakehouse_root": "lakehouse",
        "first_month": 202201,
        "simulation": {"folder": "landing", **simulation},
        "sources": [
            {
                "name": "wholesaler",
                "files": "landing/*.csv",
                "closed_through": all_months[-1],
                "columns": {
                    "order_id": "Order No",
                    "part_number": "Item Code",
                    "customer_id": "Customer",
                    "region": "Region",
                    "order_date": "Order Date",
                    "quantity": "Qty",
                    "unit_price": "Unit Price",
                },
                "date_formats": ["dd/MM/yyyy HH:mm", "dd/MM/yyyy"],
                "rules": {"product_pattern": "^P-", "cancellation_pattern": "^C"},
            }
        ],
        "given_forecasts": {
            "old_notebook": {
                "files": "old/*/demand_forecast.csv",
                "description": "The notebook until now: exponential smoothing",
                "columns": {
                    "part_number": "Item Code",
                    "origin": "run_month",
                    "target": "forecast_month",
                    "quantity": "forecast_qty",
                },
                "origin_is": "first_forecast",
                "serves": ["smooth", "erratic", "intermittent", "new"],
            },
            "planner": {
                "files": "planner/plan_*.xlsx",
                "format": "excel",
                "description": "The planner's sheets",
                "columns": {"part_number": "Item"},
                "origin_in_name": "plan_(\\d{4}-\\d{2})",
                "month_formats": ["MMM yyyy", "yyyy-MM"],
                "serves": ["lumpy"],
            },
        },
        "forecast": {"origins": origins},
        "zoo": {"models": list(models)},
        "run": {"replay_months": 0},
    }
    path = out / "migrated.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def run_notebook(out: Path, month: int) -> None:
    """What the notebook would have said at the end of a month. It overwrote its file, so each month
    gets a folder of its own.
    """
    as_of = f"{month // 100}-{month % 100:02}"
    environment = os.environ | {
        "LANDING": str(out / "landing"),
        "OUT": str(out / "old" / as_of),
        "AS_OF": as_of,
    }
    subprocess.run(
        [sys.executable, str(NOTEBOOK)], env=environment, check=True, capture_output=True
    )


def fill_in_sheet(out: Path, month: int) -> None:
    """A planner's sheet of a month end: last year's month and what sold lately, in round numbers,
    for the parts that are sold most.
    """
    files = sorted((out / "landing").glob("*.csv"))
    orders = pd.concat([pd.read_csv(path, dtype=str) for path in files], ignore_index=True)
    dates = pd.to_datetime(orders["Order Date"].str[:10], format="%d/%m/%Y", errors="coerce")
    known = pd.DataFrame(
        {
            "month": dates.dt.to_period("M"),
            "part": orders["Item Code"],
            "qty": pd.to_numeric(orders["Qty"], errors="coerce"),
        }
    ).dropna()
    known = known[known["part"].str.startswith("P-")]
    sold = known.pivot_table(
        index="month", columns="part", values="qty", aggfunc="sum", fill_value=0.0
    )
    sold = sold.loc[: f"{month // 100}-{month % 100:02}"]
    largest = sold.tail(12).sum().nlargest(int(sold.shape[1] * PLANNED_SHARE)).index
    lately = sold[largest].tail(3).mean()
    sheet = pd.DataFrame({"Item": largest})
    for step in range(1, 7):
        target = sold.index[-1] + step
        year_ago = sold[largest].reindex([target - 12]).iloc[0].fillna(lately)
        expected = ((year_ago + lately) / 2).clip(lower=0)
        sheet[target.strftime("%b %Y")] = (expected / 5).round().mul(5).to_numpy()
    folder = out / "planner"
    folder.mkdir(parents=True, exist_ok=True)
    sheet.to_excel(
        folder / f"plan_{month // 100}-{month % 100:02}.xlsx", index=False, engine="xlsxwriter"
    )


def main() -> None:
    """Run the old notebook and the lakehouse on the same orders, and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", type=int, default=200)
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    configuration = prepare(out, arguments.parts, 48, 6)
    environment = os.environ | {"MEDALLION_CONFIG": str(configuration)}
    for command in (
        ["run"],
        ["compare", "old_notebook", "--out", str(out / "old_notebook.html")],
        ["compare", "planner", "--out", str(out / "planner.html")],
    ):
        subprocess.run([MEDALLION, *command], env=environment, check=True)


if __name__ == "__main__":
    main()
