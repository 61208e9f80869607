"""The whole way on real orders: parts of Online Retail II, from two exports with different columns
to a served forecast.

REAL_PARTS says how many parts take part, 200 by default and all for 0; the test is skipped where
the data is absent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest
import yaml

from medallion_assets import tables
from medallion_assets.definitions import build_defs, build_resources, newest_partition
from resources.settings import Settings, parse_settings
from tests.conftest import forget_tables, open_lakehouse

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from resources.engines import Engine
    from resources.lakehouse import DeltaLakehouse

pytestmark = [pytest.mark.spark, pytest.mark.integration, pytest.mark.real]

ROOT = Path(__file__).parents[2]
ORDERS = Path(os.environ.get("SHARED_DATA", ROOT.parent / "shared" / "data")) / "online_retail_ii"
FIRST, NEWEST = 200912, 201111
# Single orders of 74,215 and 80,995 units that were cancelled within minutes.
CANCELLED = {"23166": (201101, 74_215), "23843": (201112, 80_995)}


def drawn_parts(lines: pd.Series) -> set[str]:
    """Codes that take part: evenly drawn from all, with those of the two large orders."""
    codes = sorted(lines.astype(str).str.strip().str.upper().unique())
    wanted = int(os.environ.get("REAL_PARTS", "200"))
    return set(codes[:: max(1, len(codes) // wanted)] if wanted else codes) | set(CANCELLED)


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lines of the drawn parts in files of the same names and columns."""
    if not ORDERS.is_dir():
        pytest.skip(f"{ORDERS} is absent; SHARED_DATA may name its folder")
    exports = {path.name: pd.read_parquet(path) for path in sorted(ORDERS.glob("*.parquet"))}
    parts = drawn_parts(pd.concat([lines["StockCode"] for lines in exports.values()]))
    folder = tmp_path_factory.mktemp("real orders")
    for name, lines in exports.items():
        lines[lines["StockCode"].astype(str).str.strip().str.upper().isin(parts)].to_parquet(
            folder / name, index=False
        )
    return folder


@pytest.fixture(scope="module")
def way(
    spark: SparkSession, engine: Engine, orders: Path
) -> Iterator[tuple[Settings, DeltaLakehouse]]:
    """Bronze to features for all months, three models trained for November 2011 and published."""
    content = yaml.safe_load(
        (ROOT / "config" / "online_retail_ii.yaml").read_text(encoding="utf-8")
    )
    content |= {"lakehouse_root": "lakehouse", "spark": {}, "forecast": {"origins": 3}}
    content["zoo"] = {
        "models": ["seasonal_naive", "imapa", "xgboost_global"],
        "buckets": 2,
    }
    content["sources"][0]["files"] = f"{orders}/*.parquet"
    settings = parse_settings(content, orders / "real.yaml")
    lakehouse = open_lakehouse(engine, settings)
    resources = build_resources(settings) | {
        "lakehouse": dg.ResourceDefinition.hardcoded_resource(lakehouse)
    }
    newest = newest_partition(settings)
    with dg.DagsterInstance.ephemeral(tempdir=str(orders)) as instance:
        defs = build_defs(settings, resources)
        for job, first, last in (
            ("register_deliveries", newest, newest),
            ("monthly_data", str(FIRST), "201112"),
            ("retraining", str(NEWEST), str(NEWEST)),
        ):
            span = {
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
            }
            assert (
                defs.resolve_job_def(job).execute_in_process(instance=instance, tags=span).success
            )
        yield settings, lakehouse
    forget_tables(engine, settings)


def test_real_lines_are_accounted_for(way: tuple[Settings, DeltaLakehouse], orders: Path) -> None:
    """Lines of the files = accepted + rejected + duplicates; what stands in both exports is
    accepted once.
    """
    lakehouse = way[1]
    files = [pd.read_parquet(path) for path in sorted(orders.glob("*.parquet"))]
    accepted = lakehouse.rows(tables.SILVER_SALES_ORDERS, ["line_id", "delivery_id"])
    aside = lakehouse.rows(tables.REJECTED_LINES, ["line_id", "disposition"])
    assert sum(map(len, files)) == len(accepted) + len(aside)
    assert accepted["line_id"].is_unique
    # The second file repeats the first from 1 December 2010 on; none of its lines is a duplicate of
    # anything else.
    first, second = (
        f.set_axis([c.replace(" ", "").replace("InvoiceNo", "Invoice") for c in f.columns], axis=1)
        for f in files
    )
    shared = ["Invoice", "StockCode", "InvoiceDate"]
    again = second[shared].astype(str).merge(first[shared].astype(str).drop_duplicates(), on=shared)
    duplicates = int((aside["disposition"] == "duplicate").sum())
    assert 0 < duplicates <= len(again)


def test_cancelled_orders_are_no_demand_and_the_last_month_is_partial(
    way: tuple[Settings, DeltaLakehouse],
) -> None:
    """The two large orders and their cancellations meet; December 2011, which ends on the 9th, is
    no target.
    """
    demand = way[1].rows(
        tables.MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty", "is_complete"]
    )
    by_key = demand.set_index(["part_number", "yyyymm"])["demand_qty"]
    for part, (month, quantity) in CANCELLED.items():
        assert by_key.get((part, month), 0.0) < quantity / 10
    assert set(demand.loc[~demand["is_complete"].astype(bool), "yyyymm"]) == {201112}
    assert way[1].rows(tables.ZOO_RESULT, ["target_yyyymm"])["target_yyyymm"].max() == NEWEST


def test_every_active_real_part_has_six_months(way: tuple[Settings, DeltaLakehouse]) -> None:
    """Each active part is served for six months, and the served models are no worse than seasonal
    naive on their evidence.
    """
    settings, lakehouse = way
    served = lakehouse.rows(tables.DEMAND_FORECAST).query("horizon > 0")
    features = lakehouse.rows(tables.DEMAND_FEATURES, ["part_number", "is_active"], [NEWEST])
    assert set(served["part_number"]) == set(features.loc[features["is_active"], "part_number"])
    assert set(served.groupby("part_number")["horizon"].nunique()) == {settings.forecast.horizon}
    champions = lakehouse.rows(tables.CHAMPION)
    assert (champions["champion_wql"] <= champions["baseline_wql"]).all()
