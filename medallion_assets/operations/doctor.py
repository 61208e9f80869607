"""What the configured engine and machine need, looked at and tried: one finding a check, with what
to do.

The lakehouse is only read; what is tried writes to a folder beside it that is removed at once.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medallion_assets.operations.runs import reader
from resources.engines import Engine, leftovers, machine_memory, spark_resource
from resources.errors import Refused, without_credentials, without_stack
from resources.ledger import LEDGER, newest
from resources.settings import Settings
from resources.spark import JAR_SETTINGS, delta_jars, find_java
from resources.tracking import MlflowTracking

if TYPE_CHECKING:
    import pandas as pd

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 13)
LEAST_FREE_GB = 1.0  # less may end the first run; the sample's lakehouse takes a tenth of it
GB = 2**30
DISTRIBUTION = "medallion-forecasting"
CONNECT_PACKAGES = (
    "pyspark",
    "deltalake",
    "cloudpickle",
    "grpcio",
    "grpcio-status",
    "googleapis-common-protos",
    "zstandard",
)
PACKAGES = {
    "embedded": ("pysail", *CONNECT_PACKAGES),
    "spark": ("pyspark", "delta-spark", "deltalake", "cloudpickle"),
    "connect": CONNECT_PACKAGES,
    "databricks": ("deltalake", "cloudpickle"),  # pyspark is the platform's, under another name
}
STYLES = {"ok": "green", "look": "yellow", "missing": "red"}
NUMBERS = 1_000  # rows of the queries that are tried


@dataclass(frozen=True)
class Finding:
    """One check: ``found`` says what is there. A ``missing`` one is needed; one to ``look`` at is
    not. ``advice`` says what to do.
    """

    check: str
    state: Literal["ok", "look", "missing"]
    found: str
    advice: str = ""


def show(load: Callable[[], Settings], file: Path, console: Console) -> bool:
    """Print a row for each check of the configuration that ``load`` reads from a file; whether all
    that is needed is there.

    Tokens, passwords and keys are cut out of every text.
    """
    found = list(examine(load, file))
    table = Table(title="What the configured engine and this machine offer")
    for name in ("check", "", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for finding in found:
        table.add_row(
            finding.check,
            Text(finding.state, STYLES[finding.state]),
            Text(finding.found),
            Text(finding.advice),
        )
    console.print(table, emoji=False)
    missing = [finding.check for finding in found if finding.state == "missing"]
    told = (
        f"[red]Missing:[/red] {', '.join(missing)}"
        if missing
        else "[green]All that is needed is there.[/green]"
    )
    console.print(told)
    return not missing


def examine(load: Callable[[], Settings], file: Path) -> Iterator[Finding]:
    """Every check, one after the other; without a valid configuration those that need none."""
    yield _python()
    try:
        settings = load()
    except Refused as error:
        yield Finding(
            "configuration",
            "missing",
            str(error),
            "correct the file, or name another one with MEDALLION_CONFIG",
        )
        return
    for finding in _examine(settings, file):
        yield replace(
            finding, found=_shown(finding.found, settings), advice=_shown(finding.advice, settings)
        )


def _examine(settings: Settings, file: Path) -> Iterator[Finding]:
    yield Finding("configuration", "ok", f"{file}, engine {settings.engine}")
    yield from _machine(settings)
    storage = _storage(settings)
    # Before an engine starts: that would remove them.
    left = _leftovers(settings)
    parts = [
        _packages(settings.engine),
        *(_java_and_jars(settings) if settings.engine == "spark" else ()),
    ]
    yield from (storage, *parts)
    if lacking := [finding.check for finding in (storage, *parts) if finding.state == "missing"]:
        yield Finding("engine", "missing", f"not tried without {', '.join(lacking)}", "see above")
    else:
        with _beside(settings) as folder:
            yield from _engine(settings, folder)
    yield _mlflow(settings)
    yield _slices(settings)
    yield left


def _python() -> Finding:
    here = sys.version_info[:2]
    said = f"{platform.python_version()} in {sys.prefix}"
    if here < OLDEST_PYTHON:
        return Finding(
            "Python", "missing", said, "install Python 3.11 or newer; make setup PYTHON=python3.11"
        )
    if here > NEWEST_PYTHON:
        return Finding("Python", "look", said, "tested with 3.11 to 3.13")
    return Finding("Python", "ok", said)


def _machine(settings: Settings) -> Iterator[Finding]:
    memory = machine_memory() / GB
    said = f"{memory:.1f} GB"
    advice = ""
    if settings.engine == "embedded":
        limit = settings.embedded.memory_gb or memory / 2
        said += f", of which queries use {limit:.1f} GB before they spill"
        advice = "set embedded.memory_gb lower than the machine's memory" if limit >= memory else ""
    elif settings.engine == "spark" and settings.spark.master.startswith("local"):
        said += f", driver {settings.spark.conf.get('spark.driver.memory', '4g')}"
    yield Finding("memory", "look" if advice else "ok", said, advice)
    yield Finding("cores", "ok", str(cpu_count() or "unknown"))


def _storage(settings: Settings) -> Finding:
    root = Path(settings.lakehouse_root)
    there = _existing(root)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=there):
            free = shutil.disk_usage(there).free / GB
    except OSError as error:
        return Finding(
            "lakehouse",
            "missing",
            f"{root}: {there} can't be written ({error.strerror})",
            "set lakehouse_root to another folder",
        )
    said = f"{root}{'' if root.exists() else ' (made by the first run)'}, {free:.1f} GB free"
    if free < LEAST_FREE_GB:
        return Finding(
            "lakehouse", "missing", said, "free some space, or set lakehouse_root to another disk"
        )
    return Finding("lakehouse", "ok", said)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


@contextmanager
def _beside(settings: Settings) -> Iterator[Path]:
    """An empty folder on the lakehouse's disk, removed at the end."""
    there = _existing(Path(settings.lakehouse_root))
    with tempfile.TemporaryDirectory(
        prefix=".doctor-", dir=there, ignore_cleanup_errors=True
    ) as folder:
        Path(folder).chmod(0o755)  # a server of another user reads it too
        yield Path(folder)


def _packages(engine: str) -> Finding:
    found = {name: _version(name) for name in PACKAGES[engine]}
    said = ", ".join(f"{name} {installed or '-'}" for name, installed in found.items())
    if missing := [name for name, installed in found.items() if not installed]:
        return Finding(
            "packages", "missing", said, f"run make setup; not there: {', '.join(missing)}"
        )
    pins = dict(line.split("==") for line in _requirements() if "==" in line)
    if other := [
        f"{name} {pins[name]}"
        for name, installed in found.items()
        if pins.get(name, installed) != installed
    ]:
        return Finding(
            "packages",
            "look",
            said,
            f"run make setup: equal bits are tested with {', '.join(other)}",
        )
    return Finding("packages", "ok", said)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _requirements() -> list[str]:
    """What the package asks for, also in its extras, without the markers."""
    try:
        return [line.split(";")[0].strip() for line in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:
        return []


def _java_and_jars(settings: Settings) -> Iterator[Finding]:
    java = find_java()
    home = f"JAVA_HOME {java.home}" if java.home else "JAVA_HOME is not set"
    if not java.version:
        where = "JAVA_HOME" if java.home else "PATH"
        yield Finding(
            "Java",
            "missing",
            f"no java of {where} starts; {home}",
            "install Java 17 or newer, or set engine: embedded",
        )
    elif not java.is_usable:
        yield Finding(
            "Java",
            "missing",
            f"{java.version}; {home}",
            "install Java 17 or newer, or set engine: embedded",
        )
    else:
        yield Finding("Java", "ok", f"{java.version}; {home}")
    jars = sorted(delta_jars().glob("*delta-spark*.jar"))
    wanted = version("delta-spark") if _version("delta-spark") else ""
    if own := JAR_SETTINGS & settings.spark.conf.keys():
        yield Finding(
            "Delta's jars", "ok", f"by {', '.join(f'spark.conf {key}' for key in sorted(own))}"
        )
    elif not jars:
        yield Finding(
            "Delta's jars", "missing", f"none in {delta_jars()}", "run make setup ENGINE=spark"
        )
    elif not jars[0].stem.endswith(f"-{wanted}"):
        yield Finding(
            "Delta's jars",
            "missing",
            f"{jars[0].name}, for delta-spark {wanted}",
            "run make setup ENGINE=spark",
        )
    else:
        yield Finding("Delta's jars", "ok", jars[0].name)


def _engine(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Start the engine and have it answer; the first thing that fails is the last that is tried."""
    started = time.monotonic()
    try:
        engine = spark_resource(
            settings.model_copy(update={"lakehouse_root": str(folder)})
        ).engine()
        said = f"{engine.label} started; Spark's API {engine.session.version}"
        if settings.engine == "connect":
            zone = engine.session.sql("SELECT current_timezone()").collect()[0][0]
            said += f", {settings.connect.address}, time zone {zone}"
        elif settings.engine == "spark":
            said += f", {settings.spark.master}"
    except Exception as error:
        yield Finding("engine", "missing", _told(error), _advice(settings))
        return
    yield Finding("engine", "ok", f"{said} ({time.monotonic() - started:.1f} s)")
    checks: tuple[tuple[str, Callable[[Engine, Path], str]], ...] = (
        ("a query", _sum),
        ("a held frame", _held),
        ("a Python function", _python_function),
        ("the lakehouse's disk", _reads),
    )
    for name, tried in checks:
        started = time.monotonic()
        try:
            said = tried(engine, folder)
        except Exception as error:
            yield Finding(name, "missing", _told(error), _advice(settings))
            return
        yield Finding(name, "ok", f"{said} ({time.monotonic() - started:.1f} s)")


def _advice(settings: Settings) -> str:
    if settings.engine == "connect":
        return (
            "start the server with Delta, UTC and Python, on the same storage under the same paths;"
            " docs/engines.md"
        )
    if settings.engine == "spark" and not settings.spark.master.startswith("local"):
        return (
            "executors need Python with the packages of constraints.txt and the same storage;"
            " docs/engines.md"
        )
    return (
        "run make setup"
        + (" ENGINE=spark" if settings.engine == "spark" else "")
        + "; docs/engines.md"
    )


def _sum(engine: Engine, folder: Path) -> str:
    total = engine.session.range(NUMBERS).selectExpr("sum(id) AS total").collect()[0]["total"]
    return _equal(int(total), sum(range(NUMBERS)), "sums")


def _held(engine: Engine, folder: Path) -> str:
    held = engine.hold(engine.session.range(NUMBERS))
    counted = held.count()
    engine.release(held)
    return _equal(counted, NUMBERS, "holds")


def _python_function(engine: Engine, folder: Path) -> str:
    # Within a function, so that it is sent as it is: a process that ran it would else import all
    # that this module does.
    def doubled(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(id=rows["id"] * 2)

    rows = engine.session.range(NUMBERS).selectExpr("id", "id % 4 AS bucket")
    made = rows.groupBy("bucket").applyInPandas(engine.python(doubled), "id BIGINT, bucket BIGINT")
    total = made.selectExpr("sum(id) AS total").collect()[0]["total"]
    return _equal(int(total), 2 * sum(range(NUMBERS)), "runs on pandas frames")


def _reads(engine: Engine, folder: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / "numbers.parquet"
    pq.write_table(pa.table({"id": range(NUMBERS)}), file)
    return _equal(
        engine.session.read.parquet(str(file)).count(),
        NUMBERS,
        "reads a file that this process wrote",
    )


def _equal(found: int, wanted: int, said: str) -> str:
    if found != wanted:
        raise Refused(f"the answer is {found:,}, and {wanted:,} is right")
    return said


def _told(error: Exception) -> str:
    lines = without_stack(str(error)).splitlines()
    return " ".join(line.strip() for line in lines[:3]) or type(error).__name__


def _mlflow(settings: Settings) -> Finding:
    if away := MlflowTracking(settings, "", lambda: None).connection.unreachable():
        what, address, error = away
        return Finding(
            "MLflow",
            "missing",
            f"{what} server at {address} does not answer ({error})",
            f"start it, or set mlflow.{what}_uri",
        )
    return Finding(
        "MLflow",
        "ok",
        settings.tracking_uri
        + ("" if settings.mlflow.tracking_uri else ", a file of the lakehouse"),
    )


def _slices(settings: Settings) -> Finding:
    """Who made the stored slices: the newest record of each counts."""
    lakehouse = reader(settings)
    if lakehouse.version(LEDGER) < 0:
        return Finding("slices", "ok", "none yet")
    rows = newest(lakehouse.rows(LEDGER))
    by = rows["engine"].fillna("not noted") if "engine" in rows else ["not noted"] * len(rows)
    counts = rows.assign(engine=by).groupby("engine").size().sort_values(ascending=False)
    return Finding(
        "slices",
        "ok",
        "; ".join(f"{count:,} by {engine}" for engine, count in counts.items()) or "none yet",
    )


def _leftovers(settings: Settings) -> Finding:
    folders = leftovers(Path(settings.lakehouse_root) / "scratch")
    if not folders:
        return Finding("leftovers", "ok", "none of killed processes")
    size = sum(
        file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file()
    )
    said = (
        f"{len(folders)} folders of killed processes, {size / 2**20:.1f} MB, in {folders[0].parent}"
    )
    return Finding("leftovers", "look", said, "the next run on the embedded engine removes them")


def _shown(text: str, settings: Settings) -> str:
    token = settings.connect.token
    return without_credentials(text.replace(token, "***") if token else text)
