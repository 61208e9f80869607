"""Real Spark servers on loopback for tests: a standalone cluster with two workers, and a Spark
Connect server. Ended by process id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.faults.scenario import free_port, wait_until

JARS = Path(sys.prefix) / "delta-jars"
WORKER_PYTHON = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}


@contextlib.contextmanager
def standalone_cluster(folder: Path) -> Iterator[str]:
    """A master with two workers of one core each; gives its address. What executors say lies in
    ``folder``/worker_N.
    """
    port = free_port()
    address = f"spark://127.0.0.1:{port}"
    deploy = "org.apache.spark.deploy"
    with contextlib.ExitStack() as started:
        master = [
            f"{deploy}.master.Master",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--webui-port",
            str(free_port()),
        ]
        started.enter_context(_java(["spark-class", *master], folder, "master", {}))
        assert wait_until(lambda: _listens(port), 60)
        for number in (1, 2):
            work = folder / f"worker_{number}"
            worker = [
                f"{deploy}.worker.Worker",
                "--host",
                "127.0.0.1",
                "--cores",
                "1",
                "--memory",
                "2g",
                "--work-dir",
                str(work),
            ]
            started.enter_context(
                _java(
                    ["spark-class", *worker, "--webui-port", str(free_port()), address],
                    folder,
                    work.name,
                    {},
                )
            )
        assert wait_until(
            lambda: (folder / "master.log").read_text().count("Registering worker") == 2, 60
        )
        yield address


@contextlib.contextmanager
def connect_server(folder: Path, zone: str = "America/New_York") -> Iterator[str]:
    """A Spark Connect server with Delta in another process, folder and time zone; gives its
    address.
    """
    port = free_port()
    settings = {
        "spark.connect.grpc.binding.port": str(port),
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "2g",
        "spark.driver.extraClassPath": f"{JARS}/*",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.ui.enabled": "false",
    }
    options = [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
    server = [
        "spark-submit",
        "--master",
        "local[2]",
        "--class",
        "org.apache.spark.sql.connect.service.SparkConnectServer",
        *options,
    ]
    with _java([*server, "spark-internal"], folder, "connect", {"TZ": zone}):
        assert wait_until(lambda: _listens(port), 90)
        yield f"sc://127.0.0.1:{port}"


@contextlib.contextmanager
def _java(
    command: list[str], folder: Path, name: str, environment: Mapping[str, str]
) -> Iterator[None]:
    import pyspark

    home = Path(pyspark.__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    variables = {
        k: v
        for k, v in os.environ.items()
        if k not in ("SPARK_CONNECT_MODE_ENABLED", "SPARK_REMOTE", "PYTHONPATH")
    }
    variables |= {
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        **WORKER_PYTHON,
        **environment,
    }
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(home / "bin" / command[0]), *command[1:]],
            cwd=folder,
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
