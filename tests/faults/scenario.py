"""A small lakehouse to be disturbed: its files and configuration, how it is run, and how two
lakehouses are compared.

What disturbs it lies in victim.py, kills.py and the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from medallion_assets import tables
from medallion_assets.operations import runs
from medallion_assets.simulation import Simulation, write
from medallion_assets.zoo.packaged import ZooModels
from resources.lakehouse import LEDGER, TableSpec
from resources.ledger import newest
from resources.settings import Settings, load_settings
from resources.tracking import COMMITTED, MlflowTracking

FIRST, LAST = 202201, 202209
REPOSITORY = Path(__file__).resolve().parents[2]
# What names a run, a moment or a count of commits, and so differs between two runs that came to the
# same.
OF_THE_RUN = (
    "model_run_id",
    "input_versions",
    "registry_version",
    "candidate_version",
    "evidence_version",
    "fit_seconds",
    "run_id",
)
SPARK_SAYS = re.compile(r"WARN|setLogLevel|log4j|default log level")  # while it starts
LATE_LINES = (
    "Order No,Item Code,Customer,Region,Order Date,Qty,Unit Price,Item Description\n"
    "LATE-1,P-00001,C1,North,03/08/2022,40,2.50,late\n"
    "LATE-2,P-00002,C1,North,05/09/2022,25,2.50,late\n"
    "LATE-3,P-00002,C1,North,never,1,2.50,without a date\n"
)


@dataclass(frozen=True)
class Scenario:
    """A folder with order files, a configuration and, once run, a lakehouse."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "faults.yaml"

    @property
    def landing(self) -> Path:
        return self.folder / "landing"

    @property
    def settings(self) -> Settings:
        return load_settings(self.config, {})

    def create(self, closed_through: int | None = LAST, **changes: Any) -> Scenario:
        """Write files and configuration; ``changes`` replace its keys."""
        shutil.rmtree(self.folder, ignore_errors=True)
        write(Simulation(parts=20, months=9, first_month=FIRST, seed=3), self.landing)
        self.config.write_text(
            yaml.safe_dump({**_configuration(closed_through), **changes}), encoding="utf-8"
        )
        return self

    def deliver_late(self) -> None:
        """A second delivery: two lines of known months and one without a date."""
        (self.landing / "late.csv").write_text(LATE_LINES, encoding="utf-8")

    def start(self, point: str = "", log: Path | None = None, job: Sequence[str] = ()) -> Run:
        """Begin `medallion run`, or a job with its months, in a process group of its own.

        ``point`` is where it meets its fault (victim.py).
        """
        command = [sys.executable, "-m", "tests.faults.victim", point, *job]
        log = log or self.folder / "run.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Run(process, log, log.stat().st_size)

    def command(self, *arguments: str) -> str:
        """A command of `medallion` to its end; returns what it printed. Raises AssertionError where
        it fails.
        """
        return self._ended("-c", "from medallion_assets.cli import main; main()", *arguments)

    def python(self, module: str, *arguments: str) -> str:
        """A module of the tests, run to its end. Raises AssertionError where it fails."""
        return self._ended("-m", module, *arguments)

    def _ended(self, *arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr[-3000:]}"
        return ended.stdout

    def _environment(self) -> dict[str, str]:
        """The environment of its processes: its own configuration, and no other engine or home."""
        environment = {
            **os.environ,
            "MEDALLION_CONFIG": str(self.config),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
        }
        return {
            name: value
            for name, value in environment.items()
            if not name.startswith(("SAIL_", "SPARK_"))
            and name not in ("DAGSTER_HOME", "MEDALLION_ENGINE")
        }

    def run(self, seconds: float = 600) -> str:
        """`medallion run` to its end; returns what it printed. Raises AssertionError where it
        fails.
        """
        started = self.start()
        code = started.wait(seconds)
        assert code == 0, f"exit code {code}\n{started.output()[-3000:]}"
        return started.output()


@dataclass(frozen=True)
class Run:
    """A process of `medallion run`; ``begin`` is where its output starts in the log."""

    process: subprocess.Popen[bytes]
    log: Path
    begin: int

    def wait(self, seconds: float) -> int | None:
        """Exit code; None while it still runs after so long."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """SIGKILL to the process and all it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        """What it printed so far."""
        with self.log.open("rb") as log:
            log.seek(self.begin)
            return log.read().decode(errors="replace")

    def step(self) -> str:
        """The step it was in: the one after the last that it told of."""
        told = [
            line.strip()
            for line in self.output().splitlines()
            if line.strip() and not SPARK_SAYS.search(line)
        ]
        return re.sub(r"[\d.,]+ ?s?\b", "", told[-1])[:80].strip() if told else "start-up"


class Content(NamedTuple):
    """What a lakehouse holds, without what names a run: rows by table, manifests by decision,
    MLflow's figures by model and month.
    """

    rows: Mapping[str, pd.DataFrame]
    manifests: Mapping[int, Mapping[str, tuple[str, int]]]
    logged: Mapping[tuple[str, int], Mapping[str, str]]


def content(settings: Settings) -> Content:
    """The content of a lakehouse. Raises AssertionError where a key is there twice."""
    lakehouse, tracking = (
        runs.reader(settings),
        MlflowTracking(settings, "", lambda: None, models=ZooModels()),
    )
    rows = {}
    for spec in tables.TABLES:
        stored = _newest(lakehouse.rows(spec)) if spec is LEDGER else lakehouse.rows(spec)
        rows[spec.id] = _plain(stored, spec)
    decisions = lakehouse.rows(tables.CHAMPION)
    versions = (
        decisions.set_index("decision_number")["registry_version"].astype(int)
        if len(decisions)
        else pd.Series(dtype=int)
    )
    loaded = {
        version: tracking.registry.load_version(version).entries
        for version in sorted(set(versions))
    }
    manifests = {
        int(number): {
            name: (entry.model, entry.trained_yyyymm) for name, entry in loaded[version].items()
        }
        for number, version in versions.items()
    }
    zoo = lakehouse.rows(tables.ZOO_FORECAST, ["model", "yyyymm", "run_id"]).drop_duplicates()
    logged = {}
    for model, month, run_id in zoo.itertuples(index=False):
        found = tracking.run(run_id)
        assert found.tags.get(COMMITTED) == "true", (
            f"{model} {month}: its run {run_id} is not marked as committed"
        )
        logged[(model, int(month))] = found.parameters
    return Content(rows, manifests, logged)


def differences(found: Content, expected: Content) -> list[str]:
    """What one lakehouse holds otherwise than another: rows lost, rows twice or changed, manifests,
    logged parameters.
    """
    told = []
    for table, wanted in expected.rows.items():
        have, want = (
            set(map(tuple, rows.itertuples(index=False))) for rows in (found.rows[table], wanted)
        )
        if lost := want - have:
            told.append(
                f"{table}: {len(lost)} rows lost or changed, for instance"
                f" {min(map(str, lost))[:300]}"
            )
        if extra := have - want:
            told.append(
                f"{table}: {len(extra)} rows too many, for instance {min(map(str, extra))[:300]}"
            )
        if len(found.rows[table]) != len(have):
            told.append(f"{table}: {len(found.rows[table]) - len(have)} rows twice")
    if found.manifests != expected.manifests:
        told.append(
            f"registered versions differ: {found.manifests} instead of {expected.manifests}"
        )
    if found.logged != expected.logged:
        told.append(
            f"parameters in MLflow differ: {sorted(set(found.logged) ^ set(expected.logged))}"
        )
    return told


def standing_faults(settings: Settings) -> list[str]:
    """What no finished run may leave behind: runs that count as running, an alias that is not the
    last decision's, a key twice.
    """
    import mlflow

    told = []
    lakehouse, tracking = (
        runs.reader(settings),
        MlflowTracking(settings, "", lambda: None, models=ZooModels()),
    )
    decisions = lakehouse.rows(tables.CHAMPION)
    if len(decisions) and tracking.registry.alias() != (
        last := int(decisions.sort_values("decision_number")["registry_version"].iloc[-1])
    ):
        told.append(f"the alias is {tracking.registry.alias()}, the last decision says {last}")
    client = mlflow.MlflowClient(settings.tracking_uri, settings.registry_uri)
    experiment = client.get_experiment_by_name(settings.mlflow.experiment)
    running = (
        client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
        if experiment
        else []
    )
    told += [f"MLflow run {run.info.run_name} still counts as running" for run in running]
    for spec in tables.TABLES:
        twice = lakehouse.rows(spec, list(spec.key)).duplicated().sum()
        if twice:
            told.append(f"{spec.id}: {twice} keys are there twice")
    return told


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Whether something came true within so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.1)
    return is_so()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a server answers well at an address of loopback."""
    import requests

    try:
        return bool(requests.get(url, timeout=2).ok)
    except requests.RequestException:
        return False


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A real MLflow server on loopback, ended by process id."""
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        *store,
    ]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), 120)
        yield
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


def _plain(rows: pd.DataFrame, spec: TableSpec) -> pd.DataFrame:
    """Compared columns as texts that are equal for equal values."""
    dropped = {
        LEDGER.id: {"delta_version", "details", "engine", "input_version", "recorded_at"},
        # Files of equal rows differ in size from engine to engine.
        tables.PLAN.id: {"byte_count"},
    }.get(spec.id, set())
    own = [
        c
        for c in spec.compared_columns
        if c in rows and c not in (*OF_THE_RUN, *dropped) and not c.endswith("_at")
    ]
    if spec.has_source_columns:
        own += [c for c in rows.columns if c not in spec.column_names]
    shown = rows[own].map(_text)
    return shown.sort_values(own, ignore_index=True) if own else shown


def _newest(ledger: pd.DataFrame) -> pd.DataFrame:
    """The last record of each slice; of slices that hold nothing none, since it depends on the way
    whether one was noted.
    """
    records = newest(ledger)
    by_version = records["table_id"].isin([tables.CHAMPION.id, tables.DEMAND_FORECAST.id])
    # A kill between registry and decision leaves a version that nobody serves, and the next one a
    # higher number.
    records = records.assign(data_version=records["data_version"].mask(by_version, ""))
    return records[records["row_count"] > 0]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        return json.dumps(value, sort_keys=True, default=str)
    return re.sub(r"\bversion \d+|instead of \d+", "a version", str(value))


def _configuration(closed_through: int | None) -> dict[str, Any]:
    columns = {
        "order_id": "Order No",
        "part_number": "Item Code",
        "customer_id": "Customer",
        "region": "Region",
        "order_date": "Order Date",
        "quantity": "Qty",
        "unit_price": "Unit Price",
        "description": "Item Description",
    }
    source = {
        "name": "wholesaler",
        "files": "landing/*.csv",
        "closed_through": closed_through,
        "columns": columns,
        "date_formats": ["dd/MM/yyyy HH:mm", "dd/MM/yyyy"],
        "rules": {"product_pattern": "^P-", "cancellation_pattern": "^C"},
    }
    return {
        "lakehouse_root": "lakehouse",
        "first_month": FIRST,
        "sources": [source],
        "forecast": {"horizon": 1, "origins": 2, "k_min": 2, "min_history": 5},
        "zoo": {"models": ["ses", "xgboost_global"], "buckets": 1},
    }
