"""`medallion step` as a process that Dagster Pipes starts, with a real lakehouse: what it makes,
and what Dagster hears of it.
"""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from deltalake import DeltaTable

from medallion_assets.simulation import Simulation, write
from medallion_assets.table_asset import asset_key
from medallion_assets.tables import MONTHLY_DEMAND
from tests.integration.test_whole_way import FIRST, configuration

pytestmark = [pytest.mark.spark, pytest.mark.integration]

ROOT = Path(__file__).parents[2]
STEP = [sys.executable, "-c", "from medallion_assets.cli import main; main()", "step"]
CHECK = "rules_kept"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """That of a process with a configuration of a small wholesaler whose files have landed."""
    folder = tmp_path_factory.mktemp("steps")
    settings = configuration(folder)
    wanted = settings.simulation
    assert wanted is not None
    write(
        Simulation(parts=wanted.parts, months=wanted.months, first_month=FIRST),
        Path(wanted.folder),
    )
    file = folder / "steps.yaml"
    file.write_text(
        yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True, by_alias=True))
    )
    return {
        **os.environ,
        "MEDALLION_CONFIG": str(file),
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(folder / "home"),
    }


def step(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a scheduler does."""
    return subprocess.run(
        [*STEP, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )


def test_steps_make_months_from_a_command(environment: dict[str, str]) -> None:
    """Deliveries, then the data of all months that have lines, and a second time nothing."""
    taken = step(environment, "register_deliveries", "--from", "running", "--to", "running")
    assert taken.returncode == 0, taken.stderr
    span = ["--from", "first", "--to", "newest", "--trigger", "file_arrival"]
    made = step(environment, "bronze.sales_orders,silver.sales_orders,silver.parts", *span)
    assert made.returncode == 0, made.stderr
    assert "silver.parts: " in made.stdout
    again = step(environment, "silver.parts", *span)
    assert "no month written" in again.stdout


def test_dagster_hears_of_a_step_through_pipes(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A materialization with its data version for every month, the check's result, and the log;
    rows are in the table, and the step keeps no records of its own.
    """
    key = asset_key(MONTHLY_DEMAND)
    months = dg.MonthlyPartitionsDefinition(start_date=str(FIRST), fmt="%Y%m")

    @dg.asset(
        key=key,
        partitions_def=months,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[dg.AssetCheckSpec(CHECK, asset=key)],
    )
    def monthly_demand(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient):  # type: ignore[no-untyped-def]
        first, last = context.partition_key_range
        return pipes.run(
            context=context,
            command=[*STEP, "silver.monthly_demand", "--from", first, "--to", last],
            env=environment,
            extras={"checks": [f"{key.to_escaped_user_string()}:{CHECK}"]},
        ).get_results()

    with dg.DagsterInstance.ephemeral() as instance:
        span = {
            "dagster/asset_partition_range_start": str(FIRST),
            "dagster/asset_partition_range_end": str(FIRST + 2),
        }
        result = dg.materialize(
            [monthly_demand],
            instance=instance,
            resources={"pipes": dg.PipesSubprocessClient()},
            tags=span,
        )
        made = result.get_asset_materialization_events()
        events = [event.materialization for event in made]
        partitions = {event.partition for event in events}
        assert partitions == {str(FIRST + after) for after in range(3)}
        assert all(event.metadata["rows_by_month"].value for event in events)
        (check,) = result.get_asset_check_evaluations()
        assert (check.check_name, check.passed) == (CHECK, True)
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
        assert any("silver.monthly_demand: " in line for line in logged)
    root = Path(environment["MEDALLION_CONFIG"]).parent / "lakehouse"
    stored = DeltaTable(root / "my_silver" / "monthly_demand").to_pandas()
    assert set(stored["yyyymm"]) == {FIRST, FIRST + 1, FIRST + 2}
    monkeypatch.setenv("DAGSTER_HOME", environment["DAGSTER_HOME"])
    with dg.DagsterInstance.get() as own:
        assert own.get_latest_materialization_event(key) is None


def test_a_step_that_fails_fails_dagsters_step(environment: dict[str, str]) -> None:
    """A refusal reaches Dagster as the failure of its own step."""

    @dg.asset
    def wrong(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient):  # type: ignore[no-untyped-def]
        return pipes.run(
            context=context,
            command=[*STEP, "gold.champoin", "--from", str(FIRST), "--to", str(FIRST)],
            env=environment,
        ).get_results()

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [wrong],
            instance=instance,
            resources={"pipes": dg.PipesSubprocessClient()},
            raise_on_error=False,
        )
        assert not result.success
        told = [
            entry.dagster_event.engine_event_data.error.message
            for entry in instance.all_logs(result.run_id)
            if entry.dagster_event
            and entry.dagster_event.is_engine_event
            and entry.dagster_event.engine_event_data.error
        ]
    assert any("did you mean gold/champion?" in message for message in told)
