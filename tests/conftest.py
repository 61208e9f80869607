"""Fixtures shared by all tests. A Spark session is started once, when the first test asks for
it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from resources.lakehouse import Column, DeltaLakehouse, LakehouseOptions, TableSpec
from resources.settings import Settings, parse_settings

# Tests that take minutes each.
slow = pytest.mark.skipif(
    not {"CI", "SLOW"} & set(os.environ), reason="takes minutes; CI and make test SLOW=1 run it"
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from resources.engines import Engine

# As resources/spark.py does for runs: several test processes share the cores, and threads that spin
# take them from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# As resources/mlflow_connection.py does, for tests that import mlflow first.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

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
    # Files of tests are written at once and whole.
    "delivery": {"settle_seconds": 0},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--engine spark`` runs the tests that need an engine on Apache Spark; they run on the
    embedded one otherwise.
    """
    parser.addoption("--engine", choices=("embedded", "spark"), default="embedded")


@pytest.fixture(scope="session")
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """The engine that all tests of this process share."""
    from resources.engines import EmbeddedEngine, SparkEngine
    from resources.spark import start_session

    scratch = tmp_path_factory.mktemp("scratch")
    if request.config.getoption("--engine") == "embedded":
        yield EmbeddedEngine(scratch, 4 * 2**30, 2)
        return
    session = start_session("local[2]", "my_catalog", str(scratch), {"spark.driver.memory": "2g"})
    yield SparkEngine(lambda: session, "spark in tests")
    session.stop()


@pytest.fixture(scope="session")
def spark(engine: Engine) -> SparkSession:
    """The session of the engine."""
    return engine.session


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A small configuration with one CSV source, everything below the test's folder."""
    content = {
        "lakehouse_root": "lakehouse",
        "first_month": 202201,
        "sources": [SOURCE],
        "zoo": {"buckets": 2},
    }
    return parse_settings(content, tmp_path / "test.yaml")


@pytest.fixture
def lakehouse(engine: Engine, settings: Settings) -> Iterator[DeltaLakehouse]:
    """Real Delta tables below the test's folder; their names are forgotten afterwards, so that each
    test has its own.
    """
    made = open_lakehouse(engine, settings)
    yield made
    forget_tables(engine, settings)


def open_lakehouse(engine: Engine, settings: Settings) -> DeltaLakehouse:
    """Delta tables of a configuration over a running engine."""
    return DeltaLakehouse(lambda: engine, LakehouseOptions.of(settings))


def forget_tables(engine: Engine, settings: Settings, *other_schemas: str) -> None:
    """Forget the names of a configuration's tables, where the engine knows names; the files
    stay.
    """
    from resources.engines import SparkEngine

    if isinstance(engine, SparkEngine):
        engine.forget()
        for schema in (*settings.schemas.model_dump().values(), *other_schemas):
            engine.session.sql(f"DROP SCHEMA IF EXISTS {settings.catalog}.{schema} CASCADE")


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
