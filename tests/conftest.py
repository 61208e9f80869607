"""Fixtures shared by all tests. A Spark session is started once, when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from resources.lakehouse import Column, DeltaLakehouse, TableSpec
from resources.settings import Settings, parse_settings

# Tests that take minutes each.
slow = pytest.mark.skipif(not {"CI", "SLOW"} & set(os.environ), reason="takes minutes; CI and make test SLOW=1 run it")

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# As resources/spark.py does for runs: several test processes share the cores, and threads that spin take them from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SOURCE = {
    "name": "shop",
    "files": "landing/*.csv",
    "columns": {
        "order_id": "Order",
        "part_number": "Part",
        "customer_id": "Customer",
        "region": "Region",
        "order_date": "Date",
        "quantity": "Qty",
        "unit_price": "Price",
    },
    "rules": {"cancellation_pattern": "^C", "product_pattern": "^P"},
}


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One local Spark session with Delta for all tests."""
    from resources.spark import start_session

    session = start_session("local[2]", "my_catalog", str(tmp_path_factory.mktemp("warehouse")), {"spark.driver.memory": "2g"})
    yield session
    session.stop()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A small configuration with one CSV source, everything below the test's folder."""
    content = {"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [SOURCE], "zoo": {"buckets": 2}}
    return parse_settings(content, tmp_path / "test.yaml")


@pytest.fixture
def lakehouse(spark: SparkSession, settings: Settings) -> Iterator[DeltaLakehouse]:
    """Real Delta tables below the test's folder; their names are forgotten afterwards, so that each test has its own."""
    made = open_lakehouse(spark, settings)
    yield made
    forget_tables(spark, settings)


def open_lakehouse(spark: SparkSession, settings: Settings) -> DeltaLakehouse:
    """Delta tables of a configuration over a running session."""
    w, r = settings.writes.max_removed_share, settings.retention.reproducible_months
    return DeltaLakehouse(lambda: spark, settings.lakehouse_root, settings.catalog, settings.schemas.model_dump(), w, r)


def forget_tables(spark: SparkSession, settings: Settings) -> None:
    """Drop the schemas of a configuration from the session's catalog; the files stay."""
    for schema in settings.schemas.model_dump().values():
        spark.sql(f"DROP SCHEMA IF EXISTS {settings.catalog}.{schema} CASCADE")


def units_table(name: str) -> TableSpec:
    """A table of units by part and month; its run id is volatile."""
    return TableSpec(
        layer="gold",
        name=name,
        comment="units",
        grain="part_number x month",
        key=("part_number", "yyyymm"),
        columns=(
            Column("yyyymm", "INT", "month", is_nullable=False),
            Column("part_number", "STRING", "part", is_nullable=False),
            Column("units", "DOUBLE", "units"),
            Column("run_id", "STRING", "run", is_volatile=True),
        ),
        write="merge",
        code_version="1",
        owner="team:data-platform",
        partition_by=("yyyymm",),
    )
