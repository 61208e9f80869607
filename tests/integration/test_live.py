"""The real daemon with its sensors on: files dropped into the landing folder become a served
forecast without a hand on it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medallion_assets import tables
from medallion_assets.operations import runs
from medallion_assets.partitions import days_in_month, month_index, month_range
from medallion_assets.zoo.packaged import ZooModels
from resources.tracking import MlflowTracking
from tests.faults.scenario import FIRST, REPOSITORY, Scenario, answers, free_port, wait_until

pytestmark = [pytest.mark.spark, pytest.mark.integration]

SENSORS = (
    "landing_sensor",
    "deliveries_sensor",
    "freshness_sensor",
    "drift_sensor",
    "run_failure_sensor",
)
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
FIRST_TRAINING = (
    "no champion yet, newest complete month 202208 has 2 evidence origins, 2 are needed"
)
LAG = "newest complete month 202210, oldest champion trained in 202208: lag 2 months, limit 1"
SETTLED_TICKS = 3  # of every sensor without a request, after which nothing more is under way


@dataclass(frozen=True)
class Live:
    """A lakehouse under the daemon, and what its instance knows."""

    scenario: Scenario
    instance: dg.DagsterInstance

    def runs(self) -> list[dg.DagsterRun]:
        """All runs, the oldest first."""
        return [record.dagster_run for record in self.instance.get_run_records(ascending=True)]

    def ticks(self, since: float) -> dict[str, list[Any]]:
        """Finished ticks of each sensor that began after a moment."""
        found = {}
        for state in self.instance.all_instigator_state():
            ticks = self.instance.get_ticks(
                state.instigator_origin_id, state.selector_id, after=since
            )
            found[state.instigator_name] = [tick for tick in ticks if tick.end_timestamp]
        return found

    def is_settled(self, since: float) -> bool:
        """Whether all runs have ended and every sensor has looked after that and after ``since``,
        several times, and asked for nothing.
        """
        known = self.runs()
        if any(run.status not in ENDED for run in known):
            return False
        ends = [record.end_time or 0.0 for record in self.instance.get_run_records()]
        ticks = self.ticks(max([*ends, since]))
        return all(
            len(seen := ticks.get(name, [])) >= SETTLED_TICKS
            and not any(tick.run_ids for tick in seen[:SETTLED_TICKS])
            for name in SENSORS
        )

    def after(self, change: Callable[[], None]) -> list[dg.DagsterRun]:
        """The runs that a change in the landing folder leads to, once nothing is under way any
        more.
        """
        before, since = len(self.runs()), time.time()
        change()
        assert wait_until(lambda: self.is_settled(since), 1800), self.told()
        return self.runs()[before:]

    def told(self) -> str:
        """Runs and last ticks, for the message of a failed test."""
        ticks = {
            name: [(tick.status.value, tick.skip_reason) for tick in seen[:2]]
            for name, seen in self.ticks(0.0).items()
        }
        return f"{[(run.job_name, run.status.value, run.tags) for run in self.runs()]}\n{ticks}"


@contextmanager
def watched(scenario: Scenario) -> Iterator[Live]:
    """`medallion ui` on a scenario, ended by its process id."""
    environment = {
        **os.environ,
        "MEDALLION_CONFIG": str(scenario.config),
        "PYTHONPATH": str(REPOSITORY),
    }
    environment.pop("DAGSTER_HOME", None)
    port = free_port()
    ports = ["--port", str(port), "--mlflow-port", str(free_port())]
    command = [sys.executable, "-c", "from medallion_assets.cli import main; main()", "ui", *ports]
    with (scenario.folder / "ui.log").open("wb") as log:
        ui = subprocess.Popen(
            command,
            cwd=scenario.folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        home = Path(scenario.settings.lakehouse_root) / "dagster"
        # Before that its processes create the tables that the instance reads.
        assert wait_until(lambda: answers(f"http://127.0.0.1:{port}/server_info"), 300), (
            scenario.folder / "ui.log"
        ).read_text()[-3000:]
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield Live(scenario, instance)
    finally:
        ui.send_signal(signal.SIGTERM)
        try:
            ui.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(ui.pid, signal.SIGKILL)
            ui.wait()


@pytest.mark.skipif(
    "SLOW" not in os.environ, reason="ten minutes or more: make test SLOW=1 runs it"
)
@pytest.mark.timeout(4000)
def test_dropped_files_become_a_served_forecast(tmp_path: Path) -> None:
    """Each drop is registered, computed, judged, trained on and served in one run each, by its
    cause; the same file starts none.
    """
    monitoring = {
        "sensors_start_running": True,
        "sensor_interval_seconds": 5,
        "max_training_lag_months": 1,
    }
    scenario = Scenario(tmp_path / "live").create(closed_through=None, monitoring=monitoring)
    landing = scenario.folder / "landing"
    shutil.rmtree(landing)
    landing.mkdir()
    first, second = (
        month_range(FIRST, 202209),
        [202210, 202211],
    )  # the last month of each is not complete

    with watched(scenario) as live:
        runs_of_first = live.after(lambda: drop(landing / "first.csv", *first))
        assert [described(run) for run in runs_of_first] == [
            ("register_deliveries", "SUCCESS", "landing", "1 new or changed: first.csv"),
            ("monthly_forecast", "SUCCESS", "deliveries", "1 deliveries through number 1"),
            ("retraining", "SUCCESS", "freshness", FIRST_TRAINING),
        ], live.told()
        assert served(scenario) == (202208, 202208)

        runs_of_second = live.after(lambda: drop(landing / "second.csv", *second))
        assert [described(run) for run in runs_of_second] == [
            ("register_deliveries", "SUCCESS", "landing", "1 new or changed: second.csv"),
            ("monthly_forecast", "SUCCESS", "deliveries", "1 deliveries through number 2"),
            ("retraining", "SUCCESS", "freshness", LAG),
        ], live.told()
        assert served(scenario) == (202210, 202210)
        lakehouse = runs.reader(scenario.settings)
        for table in (
            tables.BRONZE_SALES_ORDERS,
            tables.MONTHLY_DEMAND,
            tables.DEMAND_FORECAST,
            tables.DATA_QUALITY,
            tables.DEMAND_DRIFT,
        ):
            assert 202210 in lakehouse.ledger.slices(table), table.id
        decided = lakehouse.rows(tables.RETRAINING_DECISION, months=[202210]).iloc[-1]
        assert (decided["decision"], decided["cause"]) == ("retrain", "training_lag")

        def deliver_again() -> None:
            drop(landing / "second.csv", *second)
            drop(landing / "second again.csv", *second)

        assert live.after(deliver_again) == [], live.told()
        seconds = {
            name: max(tick.end_timestamp - tick.timestamp for tick in seen)
            for name, seen in live.ticks(0.0).items()
        }
        print(
            "longest tick, seconds:", {name: round(longest, 2) for name, longest in seconds.items()}
        )
        for run in live.runs():
            print(
                run.job_name,
                run.status.value,
                {name: value for name, value in run.tags.items() if not name.startswith(".")},
            )


def drop(target: Path, *months: int) -> None:
    """Orders of 40 parts that sell a fifth more every month, as one file, which appears at once."""
    lines = ["Order No,Item Code,Customer,Region,Order Date,Qty,Unit Price,Item Description"]
    for month in months:
        last_day = f"{days_in_month(month)}/{month % 100:02}/{month // 100}"
        for part in range(40):
            sold = round((part + 5) * 1.2 ** (month_index(month) - month_index(FIRST)))
            lines.append(f"O-{month}-{part},P-{part:05},K1,North,{last_day},{sold},2.50,growing")
    growing = target.with_suffix(".part")
    growing.write_text("\n".join(lines) + "\n", encoding="utf-8")
    growing.rename(target)


def described(run: dg.DagsterRun) -> tuple[str, str, str, str]:
    """Job, status, trigger, and evidence without a delivery's id."""
    return (
        run.job_name,
        run.status.value,
        run.tags["medallion/trigger"],
        run.tags["medallion/evidence"].split(" (")[0],
    )


def served(scenario: Scenario) -> tuple[int, int]:
    """The newest published origin, and the month that the version of its newest vintage was trained
    in; it has the alias.
    """
    lakehouse = runs.reader(scenario.settings)
    rows = lakehouse.rows(tables.DEMAND_FORECAST)
    newest = rows[(rows["yyyymm"] == rows["yyyymm"].max()) & (rows["horizon"] > 0)]
    newest = newest[newest["vintage"] == newest["vintage"].max()]
    [version] = set(newest["registry_version"].dropna().astype(int))
    tracking = MlflowTracking(scenario.settings, "", lambda: None, models=ZooModels())
    assert tracking.registry.alias() == version
    trained = {
        entry.trained_yyyymm for entry in tracking.registry.load_version(version).entries.values()
    }
    return int(newest["yyyymm"].iloc[0]), max(trained)
