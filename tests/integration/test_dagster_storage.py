"""Dagster's records with kept engines are those of Dagster's own storage."""

import contextlib
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from medallion_assets import environment
from resources.dagster_storage import KeptEngines, together
from resources.settings import Settings

pytestmark = pytest.mark.integration

MONTHS = dg.MonthlyPartitionsDefinition(start_date="202401", fmt="%Y%m")


@dg.asset(partitions_def=MONTHS, backfill_policy=dg.BackfillPolicy.single_run())
def counted(context: dg.AssetExecutionContext) -> None:
    context.log.info("counted")


def test_dagsters_own_storage_reads_what_kept_engines_wrote(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home of a former release gets the storage; a run of two months is there for either, event
    by event.
    """
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(environment.INSTANCE_YAML)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    environment.prepare_dagster_home(settings)
    months = {
        "dagster/asset_partition_range_start": "202401",
        "dagster/asset_partition_range_end": "202402",
    }
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, KeptEngines)
        run = dg.materialize([counted], instance=instance, tags=months)
        written = [
            record.event_log_entry
            for record in instance.event_log_storage.get_records_for_run(run.run_id).records
        ]
    own = SqliteEventLogStorage(str(home / "history" / "runs"))
    assert [
        record.event_log_entry for record in own.get_records_for_run(run.run_id).records
    ] == written
    assert own.get_materialized_partitions(counted.key) == {"202401", "202402"}


def test_a_file_that_somebody_wrote_stays(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's settings of a deployment are not touched."""
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    environment.prepare_dagster_home(settings)
    assert (tmp_path / "dagster.yaml").read_text() == "telemetry:\n  enabled: false\n"


def test_events_stored_together_are_there_after_it_and_none_after_an_error(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts of two months are one transaction: both are there, or neither."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    environment.prepare_dagster_home(settings)

    @dg.asset_check(asset=counted)
    def looks(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        for fails, months in ((True, ("202401", "202402")), (False, ("202403", "202404"))):
            with (
                contextlib.suppress(ZeroDivisionError),
                together(context.instance.event_log_storage),
            ):
                for month in months:
                    context.op_execution_context.log_event(
                        dg.AssetCheckEvaluation(
                            asset_key=counted.key,
                            check_name="looks",
                            passed=True,
                            partition=month,
                        )
                    )
                if fails:
                    1 / 0  # noqa: B018
        return dg.AssetCheckResult(passed=True)

    with dg.DagsterInstance.get() as instance:
        run = dg.materialize([counted, looks], instance=instance, partition_key="202405")
        told = [
            event.dagster_event.asset_check_evaluation_data.partition
            for event in instance.all_logs(run.run_id)
            if event.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ]
    assert run.success
    assert [month for month in told if month] == ["202403", "202404"]
