"""MLflow's server as runs meet it."""

import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import mlflow
import pytest
from mlflow.pyfunc import PythonModel

from resources import tracking
from resources.processes import identity
from resources.settings import Settings
from resources.tracking import INSTANCE, PROCESS, MlflowTracking, RunContent, mlflow_tracking
from tests.faults.scenario import free_port, mlflow_server


class Constant(PythonModel):
    """A model that can be told from others."""

    def predict(self, context: object, model_input: list[str]) -> int:  # type: ignore[override]
        return 42


@pytest.mark.integration
def test_loading_models_leaves_no_files(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's model and a registered version come from a server as they were logged, and no copy of
    either stays on disk.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with mlflow_server(tmp_path, port):
        served = settings.model_copy(
            update={"mlflow": settings.mlflow.model_copy(update={"tracking_uri": url})}
        )
        tracking = MlflowTracking(served, "dagster-run", parent=lambda: None)
        run = tracking.start("constant", {})
        tracking.log(run, RunContent(model=Constant()))
        tracking.commit(run)
        version = tracking.register(run, {})

        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        loaded = [tracking.load(run), tracking.load_version(version)]
        assert [model.predict(None, []) for model in loaded] == [42, 42]
        assert not list(scratch.iterdir())


@pytest.fixture
def other() -> Iterator[str]:
    """A process of this machine that lives as long as the test."""
    script = "from resources.processes import identity; print(identity(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate("\n")


@pytest.fixture
def gone() -> str:
    """A process of this machine that has ended."""
    script = "from resources.processes import identity; print(identity())"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.integration
def test_only_a_fit_whose_process_is_gone_is_ended_as_killed(
    settings: Settings, other: str, gone: str
) -> None:
    """Fits of one month and model by a live process, another machine and a former release go on;
    left behind are those of nobody.
    """
    made = MlflowTracking(settings, "dagster-run", parent=lambda: None)
    fit = {"month": "202401", "model": "naive"}
    processes = {
        "other": other,
        "elsewhere": "elsewhere:1:2",
        "former": "",
        "gone": gone,
        "failed attempt": identity(),
    }
    runs = {
        name: made.start(name, {**fit, PROCESS: process}) for name, process in processes.items()
    }
    made._connected().delete_tag(runs["former"], PROCESS)
    assert set(made.end_killed(fit)) == {runs["gone"], runs["failed attempt"]}
    assert made.end_killed(fit) == []
    status = {name: made._connected().get_run(run).info.status for name, run in runs.items()}
    assert {name for name, state in status.items() if state == "RUNNING"} == {
        "other",
        "elsewhere",
        "former",
    }


@pytest.mark.integration
def test_only_a_dagster_run_that_is_over_is_ended_as_killed(
    settings: Settings, other: str, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Runs of another Dagster instance, live, elsewhere or of a former release, stay and are named;
    a gone process's do not.
    """
    made = MlflowTracking(settings, "dagster-run", parent=lambda: None)
    with dg.DagsterInstance.ephemeral() as instance:
        over = instance.create_run_for_job(_job)
        instance.report_run_failed(over)
        own = {"over": over.run_id, "under way": instance.create_run_for_job(_job).run_id}
        processes = {
            "other": other,
            "elsewhere": "elsewhere:1:2",
            "former": "",
            "gone": gone,
            "over": "elsewhere:1:2",
            "under way": "",
        }
        runs = {
            name: made.start(
                name,
                {
                    "medallion.kind": "dagster_run",
                    "dagster_run_id": own.get(name, "of another instance"),
                    PROCESS: process,
                },
            )
            for name, process in processes.items()
        }
        context: Any = SimpleNamespace(instance=instance, log=logging.getLogger("dagster run"))
        with caplog.at_level(logging.INFO, "dagster run"):
            tracking._end_abandoned(settings, context)
    status = {name: made._connected().get_run(run).info.status for name, run in runs.items()}
    assert {name for name, state in status.items() if state == "KILLED"} == {"gone", "over"}
    (told,) = [record.getMessage() for record in caplog.records]
    assert {name for name, run in runs.items() if run in told} == {"elsewhere", "former"}
    assert f"{runs['elsewhere']} (elsewhere:1:2)" in told


@dg.job
def _job() -> None:
    """A job that does nothing."""


@pytest.mark.integration
def test_a_dagster_run_and_its_fits_name_their_process_and_instance(settings: Settings) -> None:
    """The parent and the nested run carry the process and the id of the Dagster instance."""
    found: list[str] = []

    @dg.resource
    def opened(context: dg.InitResourceContext) -> Iterator[MlflowTracking]:
        with mlflow_tracking(settings, context) as made:
            yield made

    @dg.op(required_resource_keys={"tracking"})
    def fit(context: dg.OpExecutionContext) -> None:
        run = context.resources.tracking.start("fit", {})
        context.resources.tracking.commit(run)
        found.append(run)

    @dg.job(resource_defs={"tracking": opened})
    def fitting() -> None:
        fit()

    with dg.DagsterInstance.ephemeral() as instance:
        assert fitting.execute_in_process(instance=instance).success
        client = mlflow.MlflowClient(settings.tracking_uri)
        nested = client.get_run(found[0]).data.tags
        parent = client.get_run(nested["mlflow.parentRunId"]).data.tags
        expected = {PROCESS: identity(), INSTANCE: instance.run_storage.get_run_storage_id()}  # type: ignore[attr-defined]
    assert expected.items() <= nested.items()
    assert expected.items() <= parent.items()
