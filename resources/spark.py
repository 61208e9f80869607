"""Spark sessions: how one starts on each engine, and the settings that matter there.

What an engine does beyond its session lies in engines.py.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from resources.errors import Refused, without_credentials

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# The JVM's second compiler takes the cores from short jobs at its usual thresholds; without it a
# job over millions of rows takes twice as long. So it waits until code has run four times as often.
SHORT_AND_LONG_JOBS = (
    "-XX:+UseSerialGC -XX:Tier4InvocationThreshold=20000 -XX:Tier4MinInvocationThreshold=4000 "
    "-XX:Tier4CompileThreshold=40000 -XX:Tier4BackEdgeThreshold=160000"
)
OLDEST_JAVA = 17
JAR_SETTINGS = {
    "spark.driver.extraClassPath",
    "spark.jars",
    "spark.jars.packages",
}  # each may bring Delta instead of the set-up
CONNECT_VARIABLES = ("SPARK_CONNECT_MODE_ENABLED", "SPARK_REMOTE", "SPARK_LOCAL_REMOTE")
RUNTIME_VARIABLE = "DATABRICKS_RUNTIME_VERSION"  # set wherever Databricks runs Python
UTC_NAMES = ("UTC", "Etc/UTC")
# What months and numbers depend on; all else is the compute's to say.
NEEDED_OF_A_SESSION = {"spark.sql.session.timeZone": "UTC", "spark.sql.ansi.enabled": "true"}
CONNECT_PORT = 15002  # where an address names none
A_YEAR_IN_SECONDS = 31_536_000
_embedded: list[Any] = []


class SparkStartError(Refused):
    """The Spark session can't be started; the message says what to install or set."""


def speak_connect() -> None:
    """Make this process a client of Spark Connect: by this pyspark decides, before there is a
    session, what functions build.
    """
    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"


def start_embedded(
    memory_bytes: int, cores: int, spill: Path, is_waiting: Callable[[], bool]
) -> SparkSession:
    """Start (or take) the process's embedded engine, which spills to a folder. Raises
    SparkStartError, with the reason, where it is not installed or does not start.

    ``is_waiting``: whether a query waits for work outside the engine, so that it does not stand
    still by its own fault.
    """
    if _embedded:
        return _embedded[1]
    threads_wait_asleep()
    os.environ.setdefault("RUST_LOG", "error")
    variables = {
        # A session that has been idle for a quarter of an hour, while a model is fitted, would be
        # lost with all it knows.
        "SAIL_SPARK__SESSION_TIMEOUT_SECS": str(A_YEAR_IN_SECONDS),
        "SAIL_EXECUTION__DEFAULT_PARALLELISM": str(cores),
        "SAIL_RUNTIME__TEMPORARY_FILES__PATHS": json.dumps([str(spill)]),
        "SAIL_RUNTIME__MEMORY_POOL__TYPE": "fair",
        "SAIL_RUNTIME__MEMORY_POOL__FAIR__MAX_SIZE": str(memory_bytes),
    }
    os.environ.update(variables)
    try:
        from pysail.spark import SparkConnectServer
        from pyspark.sql.connect.client import DefaultChannelBuilder
        from pyspark.sql.connect.session import SparkSession as ConnectSession

        from resources.stalled_queries import StalledQueries
    except ImportError as error:
        raise SparkStartError(
            f"the embedded engine is not installed ({error}); run `make setup`, or set engine:"
            " spark"
        ) from error
    try:
        server = SparkConnectServer()
        server.start(background=True)
        _, port = server.listening_address
        channel = DefaultChannelBuilder(f"sc://127.0.0.1:{port}")
        # A proxy that the environment names for other addresses does not know this process.
        channel.setChannelOption("grpc.enable_http_proxy", 0)
        channel.add_interceptor(StalledQueries(is_waiting))
        session: Any = ConnectSession.builder.channelBuilder(channel).getOrCreate()
        session.conf.set("spark.sql.session.timeZone", "UTC")
    except Exception as error:
        raise SparkStartError(_why_not_embedded(error, variables)) from error
    _embedded.extend((server, session))
    return session


def _why_not_embedded(error: Exception, ours: Mapping[str, str]) -> str:
    """What kept the embedded engine from starting, with what to do where that is known."""
    said = " ".join((str(error) or type(error).__name__).split())
    told = f"the embedded engine did not start: {said}"
    foreign = sorted(name for name in os.environ if name.startswith("SAIL_") and name not in ours)
    if "SAIL_" in said and foreign:
        return f"{told}; unset {', '.join(foreign)} in the environment, or correct the value"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"{told}; allow this process more open files, for instance with ulimit -n 4096"
    return f"{told}; `medallion doctor` tries its parts one by one"


def start_connect(
    address: str, token: str | None, scratch: Path, conf: dict[str, Any]
) -> SparkSession:
    """Connect to a Spark Connect server that sees the same storage. Raises SparkStartError with
    what to do.

    The server's time zone decides the month of an order, so any other than UTC is refused.
    """
    from pyspark.sql import SparkSession

    threads_wait_asleep()
    shown = without_credentials(address)
    if reason := _not_listening(address):
        raise SparkStartError(f"Spark Connect at {shown} does not answer: {reason}")
    url = f"{address.rstrip('/')}/;token={token}" if token else address
    try:
        session = SparkSession.builder.remote(url).getOrCreate()
        for key, value in {**NEEDED_OF_A_SESSION, **conf}.items():
            session.conf.set(key, _setting(value))
        zone = session.sql("SELECT current_timezone()").collect()[0][0]
        _ship_packages(session, scratch)
    except Exception as error:
        reason = without_credentials(str(error)).replace(token or "\0", "***").splitlines()[0]
        raise SparkStartError(
            f"Spark Connect at {shown} does not answer or refuses a setting: {reason}"
        ) from None
    if zone != "UTC":
        raise SparkStartError(
            f"Spark Connect at {shown} keeps the time zone {zone} although UTC was asked for:"
            " months would be wrong. Start the server with spark.sql.session.timeZone=UTC."
        )
    return session


def take_databricks(conf: Mapping[str, Any]) -> SparkSession:
    """The session that Databricks gives to a job or notebook, on classic or serverless compute;
    none is started. Raises SparkStartError with what to do.

    Settings are made one by one, and only where they differ: serverless compute allows few.
    """
    from pyspark.sql import SparkSession

    threads_wait_asleep()
    # Files of a Volume have no hard links, by which delta-rs else makes sure that a commit is new;
    # so a lakehouse in a Volume has one writer at a time.
    os.environ.setdefault("MOUNT_ALLOW_UNSAFE_RENAME", "true")
    session = SparkSession.getActiveSession()
    if session is None and RUNTIME_VARIABLE in os.environ:
        session = SparkSession.builder.getOrCreate()
    if session is None:
        raise SparkStartError(
            "engine: databricks takes the session that Databricks gives to a job or notebook, and"
            " this process has none. Start it there (docs/databricks.md), or set engine: embedded,"
            " spark or connect"
        )
    for key, value in {**NEEDED_OF_A_SESSION, **conf}.items():
        wanted = _setting(value)
        try:
            if str(session.conf.get(key, None)) != wanted:
                session.conf.set(key, wanted)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            instead = (
                "remove it from spark.conf, or use classic compute"
                if key in conf
                else "set it in the compute's own configuration"
            )
            raise SparkStartError(
                f"Databricks refuses the setting {key}: {without_credentials(reason)}; {instead}"
            ) from None
    if (zone := session.sql("SELECT current_timezone()").collect()[0][0]) not in UTC_NAMES:
        raise SparkStartError(
            f"the session keeps the time zone {zone} although UTC was asked for: months would be"
            " wrong. Set spark.sql.session.timeZone to UTC in the compute's configuration"
        )
    return session


def _not_listening(address: str) -> str:
    """Why no connection is made to an address, empty where one is; the client itself would try for
    minutes. A proxy is not judged.
    """
    place = urlsplit(address)
    host, port = place.hostname or "", place.port or CONNECT_PORT
    if getproxies().keys() & {"http", "https", "grpc"} and not proxy_bypass(host):
        return ""
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        return f"{error.strerror or error} (port {port})"
    return ""


def start_session(master: str, catalog: str, warehouse: str, conf: dict[str, Any]) -> SparkSession:
    """Start (or take) the process's JVM session, local or on a cluster. Raises SparkStartError with
    what to do.
    """
    if found := [name for name in CONNECT_VARIABLES if name in os.environ]:
        raise SparkStartError(
            f"{', '.join(found)} is set, which turns every session of this process into a Spark"
            " Connect client; unset it, or set engine: connect"
        )
    from pyspark.sql import SparkSession

    jars = delta_jars()
    if not any(jars.glob("*delta-spark*.jar")) and not conf.keys() & JAR_SETTINGS:
        raise SparkStartError(
            f"Delta's jars are not in {jars}; run `make setup ENGINE=spark`, or set spark.conf with"
            " spark.driver.extraClassPath"
        )
    threads_wait_asleep()
    is_local = re.match(r"local(\[|$)", master) is not None
    if is_local:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    elif "spark.pyspark.python" in conf:
        # A session that is built in Python tells executors this variable, not the setting.
        os.environ["PYSPARK_PYTHON"] = str(conf["spark.pyspark.python"])
    defaults = _common_settings(catalog, warehouse) | (
        _local_settings(master, jars, warehouse) if is_local else _cluster_settings(jars)
    )
    builder = SparkSession.builder.master(master).appName("medallion")
    for key, value in {**defaults, **conf}.items():
        builder = builder.config(key, _setting(value))
    try:
        session = builder.getOrCreate()
    except Exception as error:
        raise SparkStartError(f"Spark did not start on {master}: {_why(error)}") from error
    session.sparkContext.setLogLevel("ERROR")
    _delegate_catalog(session, catalog)
    if not is_local:
        _ship_packages(session, Path(warehouse))
    return session


@dataclass(frozen=True)
class Java:
    """The java that Spark would start: ``version`` as it says itself, empty where it does not
    start; ``home`` is JAVA_HOME.
    """

    command: str
    version: str
    home: str

    @property
    def is_usable(self) -> bool:
        major = re.match(r"(?:1\.)?(\d+)", self.version)
        return major is not None and int(major[1]) >= OLDEST_JAVA


def find_java() -> Java:
    """Ask JAVA_HOME's java, or else that of PATH, for its version."""
    home = os.environ.get("JAVA_HOME", "")
    command = str(Path(home, "bin", "java")) if home else "java"
    try:
        answer = subprocess.run(
            [command, "-version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return Java(command, "", home)
    found = re.search(r'version "([^"]+)', answer.stderr + answer.stdout)
    return Java(command, found[1] if found and not answer.returncode else "", home)


def delta_jars() -> Path:
    """Where the set-up puts Delta's jars."""
    return Path(sys.prefix) / "delta-jars"


def threads_wait_asleep() -> None:
    """Let boosters' threads sleep while they wait: where other work has the cores, spinning makes a
    fit four times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def cores_of(master: str) -> int:
    """Cores of a local session; those of the machine for ``local[*]``."""
    found = re.fullmatch(r"local(?:\[(\*|\d+)(?:,\d+)?\])?", master)
    if found is None:
        raise ValueError(f"{master} is no local session")
    return (os.cpu_count() or 2) if found[1] == "*" else int(found[1] or 1)


def _why(error: Exception) -> str:
    """The reason that a JVM did not start, with what to do where that is known."""
    text = str(error)
    first = text.splitlines()[0] if text else type(error).__name__
    if "JAVA_GATEWAY_EXITED" in text or isinstance(error, FileNotFoundError):
        return (
            f"{first}; Java 17 or newer must be on the path, or in JAVA_HOME (engine: embedded"
            " needs none)"
        )
    causes = re.findall(r"(?m)^Caused by: (.+)$", text)
    return causes[-1] if causes else first


def _setting(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _common_settings(catalog: str, warehouse: str) -> dict[str, Any]:
    """What the tables' bits and names depend on, wherever the session runs."""
    return {
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        f"spark.sql.catalog.{catalog}": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": warehouse,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        # The logs of these tables are small, and every task that reads one generates its code anew.
        "spark.databricks.delta.snapshotPartitions": 1,
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": 50_000,
        "spark.databricks.delta.properties.defaults.enableChangeDataFeed": "false",
        "spark.ui.showConsoleProgress": "false",
    }


def _local_settings(master: str, jars: Path, warehouse: str) -> dict[str, Any]:
    cores = cores_of(master)
    return {
        "spark.driver.extraClassPath": f"{jars}/*",
        "spark.driver.memory": "4g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": f"-Dderby.system.home={warehouse} {SHORT_AND_LONG_JOBS}",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": cores,
        "spark.default.parallelism": cores,
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": cores,
        "spark.python.daemon.module": "resources.spark_workers",
    }


def _cluster_settings(jars: Path) -> dict[str, Any]:
    """Executors get Delta's jars from the driver. How many there are, and their Python, is the
    cluster's and spark.conf's to say.
    """
    return {"spark.jars": ",".join(str(jar) for jar in sorted(jars.glob("*.jar")))}


def _ship_packages(session: SparkSession, folder: Path) -> None:
    """Send this project's own code to the executors: functions that run there refer to it by
    name.
    """
    root = Path(__file__).resolve().parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"medallion_forecasting_{os.getpid()}_{uuid.uuid4().hex[:8]}.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for package in ("medallion_assets", "resources"):
            for file in sorted((root / package).rglob("*.py")):
                packed.write(file, file.relative_to(root))
    session.addArtifacts(str(archive), pyfile=True)


def _delegate_catalog(session: SparkSession, catalog: str) -> None:
    """Let the named catalog keep its tables where spark_catalog does: configuration alone leaves it
    without a delegate.
    """
    if catalog == "spark_catalog":
        return
    manager = session._jsparkSession.sessionState().catalogManager()
    manager.catalog(catalog).setDelegateCatalog(manager.catalog("spark_catalog"))
