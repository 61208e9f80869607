"""The Spark session: where it runs, Delta's jars, the catalog's name, local settings that matter.

Everything that an engine needs beyond the DataFrame API and SQL stays in this file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.sql import SparkSession

from resources.errors import Refused

# The JVM's second compiler takes the cores from short jobs at its usual thresholds; without it a job over millions of rows takes twice
# as long. So it waits until code has run four times as often.
SHORT_AND_LONG_JOBS = (
    "-XX:+UseSerialGC -XX:Tier4InvocationThreshold=20000 -XX:Tier4MinInvocationThreshold=4000 "
    "-XX:Tier4CompileThreshold=40000 -XX:Tier4BackEdgeThreshold=160000"
)


class SparkStartError(Refused):
    """The Spark session can't be started; the message says what to install or set."""


class SparkResource(LazyPySparkResource):
    """A Spark session with Delta, started when first used and shared by all runs of the process.

    ``spark_config`` holds the settings of the configuration, ``master`` the engine (``local[*]``, a cluster, or a
    ``sc://`` address of a Spark Connect server, where the server's own settings hold), ``catalog`` the first part of table names.
    """

    master: str = "local[*]"
    catalog: str = "my_catalog"
    warehouse: str

    def _init_session(self) -> None:
        if self._spark_session is None:
            self._spark_session = start_session(self.master, self.catalog, self.warehouse, self.spark_config)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """The session outlives the run, not the process: starting one costs seconds, and a run's process ends with the run."""


def start_session(master: str, catalog: str, warehouse: str, conf: dict[str, Any]) -> SparkSession:
    """Start (or take) the process's session. Raises SparkStartError with what to do."""
    if master.startswith("sc://"):
        return SparkSession.builder.remote(master).getOrCreate()
    jars = Path(sys.prefix) / "delta-jars"
    if not any(jars.glob("*delta-spark*.jar")) and "spark.driver.extraClassPath" not in conf and "spark.jars" not in conf:
        raise SparkStartError(f"Delta's jars are not in {jars}; run `make setup`, or set spark.conf with spark.driver.extraClassPath")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    # Boosters' threads sleep while they wait: where other work has the cores, spinning makes a fit four times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    builder = SparkSession.builder.master(master).appName("medallion")
    for key, value in {**_local_defaults(master, catalog, warehouse, jars), **conf}.items():
        builder = builder.config(key, str(value).lower() if isinstance(value, bool) else str(value))
    try:
        session = builder.getOrCreate()
    except Exception as error:
        raise SparkStartError(
            f"Spark did not start on {master}: {str(error).splitlines()[0]}; Java 17 or newer must be on the path"
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    _delegate_catalog(session, catalog)
    return session


def _local_defaults(master: str, catalog: str, warehouse: str, jars: Path) -> dict[str, Any]:
    cores = os.cpu_count() or 2 if "*" in master else int("".join(filter(str.isdigit, master)) or 1)
    return {
        "spark.driver.extraClassPath": f"{jars}/*",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        f"spark.sql.catalog.{catalog}": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": warehouse,
        "spark.driver.memory": "4g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": f"-Dderby.system.home={warehouse} {SHORT_AND_LONG_JOBS}",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.shuffle.partitions": cores,
        "spark.default.parallelism": cores,
        # The logs of these tables are small, and every task that reads one generates its code anew.
        "spark.databricks.delta.snapshotPartitions": 1,
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": cores,
        "spark.python.daemon.module": "resources.spark_workers",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": 50_000,
        "spark.databricks.delta.properties.defaults.enableChangeDataFeed": "false",
    }


def _delegate_catalog(session: SparkSession, catalog: str) -> None:
    """Let the named catalog keep its tables where spark_catalog does: configuration alone leaves it without a delegate."""
    if catalog == "spark_catalog":
        return
    manager = session._jsparkSession.sessionState().catalogManager()
    manager.catalog(catalog).setDelegateCatalog(manager.catalog("spark_catalog"))
