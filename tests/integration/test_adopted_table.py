"""A company's own bronze table, my_catalog.my_bronze.sales_orders: read by month up to silver,
never written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from medallion_assets import tables
from medallion_assets.definitions import build_defs, build_resources, newest_partition
from resources.engines import Engine
from resources.settings import parse_settings
from tests.conftest import forget_tables, open_lakehouse

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.spark, pytest.mark.integration]

MAPPING = {
    "order_id": "doc_no",
    "part_number": "item",
    "order_date": "day",
    "quantity": "pieces",
    "unit_price": "amount",
}
LINES = [
    ("A-1", "P1", "2022-01-05", 2.0, 1.5),
    ("A-2", "P1", "2022-01-31", 3.0, 1.5),
    ("A-3", "P2", "2022-02-07", 4.0, 2.0),
    ("A-4", "P2", "2022-02-28", 0.0, 2.0),
    ("A-5", "P1", "2022-03-30", 1.0, 1.5),
]


def test_an_adopted_table_goes_the_whole_way_to_silver(
    spark: SparkSession, engine: Engine, tmp_path: Path
) -> None:
    """Its lines are accounted for and add up to demand by month in one run; its version and every
    file stay as they were.
    """
    source = {
        "name": "erp",
        "mode": "adopt",
        "table": "my_catalog.my_bronze.sales_orders",
        "columns": MAPPING,
        "closed_through": 202203,
    }
    settings = parse_settings(
        {"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [source]},
        tmp_path / "adopted.yaml",
    )
    path = Path(settings.lakehouse_root) / "my_bronze" / "sales_orders"
    lines = spark.createDataFrame(
        LINES, "doc_no STRING, item STRING, day STRING, pieces DOUBLE, amount DOUBLE"
    )
    lines.withColumn("day", lines["day"].cast("date")).write.format("delta").save(str(path))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    lakehouse = open_lakehouse(engine, settings)
    resources = build_resources(settings) | {
        "lakehouse": dg.ResourceDefinition.hardcoded_resource(lakehouse)
    }
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        defs = build_defs(settings, resources)
        for job, months in (
            ("register_deliveries", [newest_partition(settings)] * 2),
            ("monthly_data", ["202201", "202203"]),
        ):
            span = dict(
                zip(
                    ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"),
                    months,
                    strict=True,
                )
            )
            assert (
                defs.resolve_job_def(job).execute_in_process(instance=instance, tags=span).success
            )
        external = defs.resolve_asset_graph().get(
            dg.AssetKey(["my_catalog", "my_bronze", "sales_orders"])
        )
        assert not external.is_materializable
    demand = lakehouse.totals(
        tables.MONTHLY_DEMAND, ["yyyymm"], ["demand_qty"], [202201, 202202, 202203]
    )
    assert dict(zip(demand["yyyymm"], demand["demand_qty"], strict=True)) == {
        202201: 5.0,
        202202: 4.0,
        202203: 1.0,
    }
    assert list(lakehouse.rows(tables.REJECTED_LINES, ["order_id"])["order_id"]) == ["A-4"]
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    forget_tables(engine, settings)
