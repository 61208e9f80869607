"""How often past totals lay within their intervals, and how wide those were: sums of the parts'
deciles beside gold.demand_forecast_total.

    python -m benchmarks.total_coverage out/series/lakehouse ...

Reads the newest decision of each lakehouse and stores nothing. Each past total of the models that
serve gets the interval that it would have had at its own origin; origins that knew no error yet are
left out of both. Few known months make wide intervals, so those that knew four or more are shown
apart too. A width is a share of the forecast, mean over totals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd
from deltalake import DeltaTable
from pyspark.sql import functions as F

from medallion_assets.exact import exact_sums
from medallion_assets.served.totals import (
    is_covered,
    past_intervals,
    past_parts,
    past_totals,
    serving_models,
)
from medallion_assets.tables import DECILES, DEMAND_FORECAST, ZOO_RESULT
from resources.engines import EmbeddedEngine
from resources.table_spec import TableSpec

MEMORY = 4 * 2**30
CORES = 2
LEVELS = {"all": "all parts", "demand_class": "demand classes", "abc_class": "ABC classes"}
SEVERAL = 4  # target months whose errors an origin knew
THIRDS = ("first third", "second third", "last third")
ENDS = (DECILES[0], DECILES[-1])
SUMMED = tuple(f"sum_{end}" for end in ENDS)


def measured_totals(lakehouse: Path, engine: EmbeddedEngine) -> pd.DataFrame:
    """Past totals with q10 and q90 of their own, and ``sum_q10`` and ``sum_q90`` of their parts."""
    schemas = json.loads((lakehouse / "lakehouse.json").read_text())["schemas"]

    def folder(spec: TableSpec) -> str:
        return str(lakehouse / schemas[spec.layer] / spec.name)

    wanted = ["yyyymm", "vintage", "demand_class", "model", "horizon"]
    served = DeltaTable(folder(DEMAND_FORECAST)).to_pandas(columns=wanted)
    newest = served[(served["yyyymm"] == served["yyyymm"].max()) & (served["horizon"] > 0)]
    newest = newest[newest["vintage"] == newest["vintage"].max()]
    serving = serving_models(newest.assign(part_count=1))
    stored = DeltaTable(folder(ZOO_RESULT))
    cells = engine.table(ZOO_RESULT.name, folder(ZOO_RESULT), stored.version())
    cells = cells.where(F.col("model").isin(*set(serving.values())))
    cell = ["yyyymm", "origin", "horizon", "target_yyyymm", "demand_class", "abc_class", "model"]
    halves = [exact_sums(name, F.col(end)) for name, end in zip(SUMMED, ENDS, strict=True)]
    ends = cells.groupBy(*cell).agg(*(column for both in halves for column in both))
    known = pd.DataFrame(past_parts(cells).toPandas()).merge(ends.toPandas(), on=cell)
    sums = ("forecast_qty", "variance", "spread", "actual_qty", *SUMMED)
    past = past_totals(known, serving, sums)
    segments = past.groupby(["segment_kind", "segment"])
    return pd.concat([past_intervals(own) for _, own in segments], ignore_index=True)


def summary(totals: pd.DataFrame) -> pd.DataFrame:
    """Totals, coverage (%) and width before and after, by level and third of the horizon."""
    third = (totals["horizon"] - 1) * 3 // totals["horizon"].max()
    low, high, own_low, own_high = (totals[name] for name in (*SUMMED, *ENDS))
    figures = pd.DataFrame(
        {
            "level": totals["segment_kind"].map(LEVELS),
            "horizon": third.map(dict(enumerate(THIRDS))),
            "totals": 1,
            "before_covered": totals["actual_qty"].between(low, high),
            "before_width": (high - low) / totals["forecast_qty"],
            "covered": is_covered(totals),
            "width": (own_high - own_low) / totals["forecast_qty"],
            "informed": is_covered(totals).where(totals["target_month_count"] >= SEVERAL),
        }
    )
    figures["level"] = pd.Categorical(figures["level"], LEVELS.values(), ordered=True)
    figures = figures.sort_values("level", kind="stable")
    every = figures.assign(horizon="all")
    means = dict.fromkeys(
        ("before_covered", "before_width", "covered", "width", "informed"), "mean"
    )
    by = pd.concat([every, figures]).groupby(["level", "horizon"], sort=False, observed=True)
    return by.agg({"totals": "sum", **means}).reset_index()


def _percent(share: float) -> str:
    return "none knew so many" if pd.isna(share) else f"{share:.0%}"


def main() -> None:
    """Print a table for each lakehouse."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lakehouses", nargs="+", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        engine = EmbeddedEngine(Path(scratch), MEMORY, CORES)
        for lakehouse in arguments.lakehouses:
            print(
                f"\n{lakehouse}\n\n| level | horizon | totals | sum of deciles | width |"
                f" own deciles | width | of those that knew {SEVERAL} months |\n|{' --- |' * 8}"
            )
            for row in summary(measured_totals(lakehouse, engine)).to_dict("records"):
                print(
                    f"| {row['level']} | {row['horizon']} | {row['totals']}"
                    f" | {row['before_covered']:.0%} | {row['before_width']:.2f}"
                    f" | {row['covered']:.0%} | {row['width']:.2f} | {_percent(row['informed'])} |"
                )


if __name__ == "__main__":
    main()
