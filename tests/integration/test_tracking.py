"""MLflow's server as runs meet it."""

import contextlib
import hashlib
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import mlflow
import pandas as pd
import pytest

from resources import dagster_tracking, mlflow_connection, place
from resources.dagster_tracking import mlflow_tracking
from resources.mlflow_file import TRAININGS, ensure_file, trainings_page
from resources.place import NamesCollide
from resources.processes import identity
from resources.provenance import INSTANCE, PROCESS
from resources.settings import Settings, parse_settings
from resources.stored_models import FITS_SHA256, ModelColumn, StoredModel
from resources.tracking import InputTable, MlflowTracking, RunContent
from tests.conftest import SOURCE
from tests.faults.scenario import free_port, mlflow_server, wait_until


class Numbers:
    """A ModelFormat of models that are numbers."""

    def stored(self, model: Any) -> StoredModel:
        fits = {"number.json": json.dumps(model).encode()}
        column = ModelColumn("number", "long", True)
        example = pd.DataFrame({"number": [model]})
        return StoredModel(
            fits, self.digest(fits), MODEL_FILE, {}, ["mlflow"], [column], [column], example
        )

    def digest(self, fits: Mapping[str, bytes]) -> str:
        return hashlib.sha256(fits["number.json"]).hexdigest()

    def read(self, fits: Mapping[str, bytes]) -> Any:
        return json.loads(fits["number.json"])


MODEL_FILE = b"""
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from pandas import DataFrame

class Same(PythonModel):
    def predict(self, context, model_input: DataFrame) -> DataFrame:
        return model_input

set_model(Same())
"""


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
        tracking = MlflowTracking(served, "dagster-run", parent=lambda: None, models=Numbers())
        run = tracking.start("constant", {})
        tracking.log(run, RunContent(model=42))
        tracking.commit(run)
        version = tracking.registry.register(run, {}, "smooth: **promoted** constant. because")
        client = mlflow.MlflowClient(url)
        stored = client.get_model_version(served.registered_model, str(version))
        assert stored.description == "smooth: **promoted** constant. because"
        experiment = client.get_experiment_by_name(served.mlflow.experiment)
        assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"

        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        loaded = [tracking.load(run), tracking.registry.load_version(version)]
        assert loaded == [42, 42]
        assert not list(scratch.iterdir())


DEMAND = InputTable("c.s.monthly_demand", "/demand", 7, "seen")
CELLS = InputTable("c.g.zoo_result", "/cells", 9, "measured")


@pytest.mark.integration
def test_a_fit_is_a_logged_model_with_its_evidence(tmp_path: Path) -> None:
    """Its page has parameters, the metrics of the fit on the demand it saw, those of the evidence,
    which come later and from another process, on the cells, and the version made of it.
    """
    made = company(tmp_path)
    run = made.start("theta 202512", {})
    fit = RunContent({"alpha": 1}, {"fit_seconds": 2.0}, {}, [DEMAND], model=42, model_name="theta")
    made.log(run, fit)
    made.commit(run)
    version = made.registry.register(run, {})
    evidence = {"wql": 0.3, "wql_smooth": 0.2, "mape": None}
    company(tmp_path).log(run, RunContent(metrics=evidence, inputs=[CELLS, DEMAND]))

    client, name = made.connection.client(), made.connection.settings.registered_model
    (found,) = client.search_logged_models([made.connection.experiment])
    assert (found.name, str(found.status), found.source_run_id) == ("theta", "READY", run)
    assert found.params == {"alpha": "1"}
    assert len(found.tags[FITS_SHA256]) == 64
    assert json.loads(found.tags["mlflow.modelVersions"]) == [{"name": name, "version": "1"}]
    measured = {
        (metric.key, metric.value, metric.dataset_name, metric.dataset_digest)
        for metric in found.metrics
    }
    assert measured == {
        ("fit_seconds", 2.0, DEMAND.name, DEMAND.digest),
        ("wql", 0.3, CELLS.name, CELLS.digest),
        ("wql_smooth", 0.2, CELLS.name, CELLS.digest),
    }
    assert client.get_run(run).data.metrics.keys() == {"fit_seconds", "wql", "wql_smooth"}
    assert client.get_model_version(name, str(version)).source == f"models:/{found.model_id}"
    on_cells = [{"dataset_name": CELLS.name}]
    by_evidence = client.search_logged_models(
        [made.connection.experiment], "metrics.wql < 0.4", datasets=on_cells
    )
    assert [model.model_id for model in by_evidence] == [found.model_id]


@pytest.mark.integration
@pytest.mark.parametrize("is_known", [True, False], ids=["error", "killed"])
def test_a_model_whose_files_are_not_all_there_is_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """Whether its run ended with an error or its process was killed; what is whole stays ready."""
    made = company(tmp_path)
    whole = made.start("whole", {"month": "202512"})
    made.log(whole, RunContent(model=41))

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    run = made.start("cut off", {"month": "202512"})
    client = made.connection.client()
    with monkeypatch.context() as patched:
        patched.setattr(client, "log_model_artifacts", full)
        with pytest.raises(OSError, match="no space"):
            made.log(run, RunContent(model=42))
    for left in (whole, run):
        if is_known:
            made.fail(left)
    if not is_known:
        assert set(company(tmp_path).end_killed({"month": "202512"})) == {whole, run}
    status = {
        model.source_run_id: str(model.status)
        for model in client.search_logged_models([made.connection.experiment])
    }
    assert status == {whole: "READY", run: "FAILED"}


@pytest.mark.integration
def test_the_experiment_has_a_view_of_its_trainings(settings: Settings) -> None:
    """Of an experiment of a former release too; what a person set in it stays. Its address is known
    once there is an experiment.
    """
    assert trainings_page(settings, "http://127.0.0.1:5000") is None
    client = mlflow.MlflowClient(settings.tracking_uri)
    former = client.create_experiment(
        settings.mlflow.experiment, tags={"mlflow.experimentKind": "forecasting"}
    )
    MlflowTracking(settings, "dagster-run", parent=lambda: None).check()
    tags = client.get_experiment(former).tags
    assert tags["mlflow.experimentKind"] == "forecasting"
    view = json.loads(tags[f"mlflow.sharedViewState.{TRAININGS}"])
    assert view["searchFilter"] == "tags.kind = 'training'"
    assert "metrics.`champion_wql_lumpy`" in view["selectedColumns"]
    assert trainings_page(settings, "http://127.0.0.1:5000") == (
        f"http://127.0.0.1:5000/#/experiments/{former}/runs?viewStateShareKey=trainings"
    )


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
    made.connection.client().delete_tag(runs["former"], PROCESS)
    assert set(made.end_killed(fit)) == {runs["gone"], runs["failed attempt"]}
    assert made.end_killed(fit) == []
    status = {name: made.connection.client().get_run(run).info.status for name, run in runs.items()}
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
            dagster_tracking._end_abandoned(settings, context)
    status = {name: made.connection.client().get_run(run).info.status for name, run in runs.items()}
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


def company(folder: Path, **changes: Any) -> MlflowTracking:
    """Tracking of a lakehouse below a folder, as another process would open it."""
    content = {"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [SOURCE]}
    settings = parse_settings({**content, **changes}, folder / "company.yaml")
    return MlflowTracking(settings, "dagster-run", parent=lambda: None, models=Numbers())


def registered(made: MlflowTracking) -> int:
    """A run with a model and a picture, registered and served."""
    made.check()
    run = made.start("constant", {})
    made.log(run, RunContent(model=42, texts={"why.md": "because"}))
    made.commit(run)
    version = made.registry.register(run, {})
    made.registry.set_alias(version)
    return version


def texts(file: Path) -> str:
    """Every text that an SQLite file holds."""
    with sqlite3.connect(file) as store:
        return "\n".join(store.iterdump())


@pytest.mark.integration
def test_models_of_a_moved_lakehouse_are_found_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The version that serves is loaded at the new place and the next one is registered below it;
    nothing appears at the old place, and no address of it is stored.
    """
    old, new = tmp_path / "site a", tmp_path / "Büro & Söhne"
    registered(company(old))
    shutil.move(old, new)
    moved = company(new)
    with caplog.at_level(logging.WARNING, "medallion"):
        assert moved.registry.load_version(1) == 42
    (told,) = [record.getMessage() for record in caplog.records if record.name == "medallion"]
    assert told.startswith(f"This lakehouse was moved here from {old}/lakehouse; ")
    assert registered(moved) == 2
    assert moved.registry.load_version(2) == 42
    assert moved.registry.alias() == 2
    assert not old.exists()
    stored = texts(new / "lakehouse" / "mlflow.db")
    assert f"{new}/lakehouse/mlartifacts" in stored
    assert str(old) not in stored


@pytest.mark.integration
def test_two_lakehouses_do_not_mix_on_one_server(tmp_path: Path) -> None:
    """The second is refused before anything of it is there, and told what to set; with names of
    its own both go on.
    """
    server = {"tracking_uri": f"sqlite:///{tmp_path}/server.db"}
    first = company(tmp_path / "a", mlflow=server)
    registered(first)
    before = texts(tmp_path / "server.db")
    second = company(tmp_path / "b", mlflow=server)
    with pytest.raises(
        NamesCollide, match=r"experiment 'demand_forecasting' .* belongs to another lakehouse"
    ) as told:
        second.check()
    assert f"{tmp_path}/a/lakehouse" in str(told.value)
    assert "Set mlflow.experiment, and catalog" in str(told.value)
    assert texts(tmp_path / "server.db") == before
    own = {**server, "experiment": "market"}
    with pytest.raises(NamesCollide, match=r"registered model my_catalog\.my_gold"):
        company(tmp_path / "b", mlflow=own).check()
    other = company(tmp_path / "b", mlflow=own, catalog="market")
    assert registered(other) == 1
    assert registered(company(tmp_path / "a", mlflow=server)) == 2


@pytest.mark.integration
@pytest.mark.parametrize("is_seen", [True, False], ids=["original in sight", "another machine"])
def test_a_copy_does_not_register_into_the_originals_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    """A copy beside its original is refused. One on another machine looks like a lakehouse that
    was moved: it goes on, and the original is refused then.
    """
    server = {"tracking_uri": f"sqlite:///{tmp_path}/server.db"}
    registered(company(tmp_path / "a", mlflow=server))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = company(tmp_path / "b", mlflow=server)
    if is_seen:
        with pytest.raises(NamesCollide, match="A copy of a lakehouse can't go on"):
            copy.check()
        assert registered(company(tmp_path / "a", mlflow=server)) == 2
        return
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(place.socket, "gethostname", lambda: "elsewhere")
        elsewhere.setattr(place, "_is_copied", lambda former, root: False)
        assert registered(copy) == 2
    with pytest.raises(NamesCollide, match=r"last used by this lakehouse at elsewhere:.*/b/lake"):
        company(tmp_path / "a", mlflow=server).check()


@pytest.mark.integration
def test_a_lakehouse_that_moves_again_and_again_keeps_its_model(tmp_path: Path) -> None:
    """Two moves between two uses of the server are moves all the same."""
    server = {"tracking_uri": f"sqlite:///{tmp_path}/server.db"}
    registered(company(tmp_path / "a", mlflow=server))
    shutil.move(tmp_path / "a", tmp_path / "b")
    place.settle(company(tmp_path / "b", mlflow=server).connection.settings)
    shutil.move(tmp_path / "b", tmp_path / "c")
    assert registered(company(tmp_path / "c", mlflow=server)) == 2


@pytest.mark.integration
def test_a_lakehouse_of_a_former_release_claims_its_names(tmp_path: Path) -> None:
    """An experiment and a model without tags become those of the lakehouse that uses them next."""
    server = {"tracking_uri": f"sqlite:///{tmp_path}/server.db"}
    made = company(tmp_path / "a", mlflow=server)
    registered(made)
    client, name = made.connection.client(), made.connection.settings.registered_model
    for tag in (mlflow_connection.LAKEHOUSE, mlflow_connection.PLACE):
        client.delete_experiment_tag(made.connection.experiment, tag)
        client.delete_registered_model_tag(name, tag)
    company(tmp_path / "a", mlflow=server).check()
    noted = place.known(f"{tmp_path}/a/lakehouse")
    assert noted is not None
    assert client.get_registered_model(name).tags[mlflow_connection.LAKEHOUSE] == noted.id
    with pytest.raises(NamesCollide):
        company(tmp_path / "b", mlflow=server).check()


@pytest.mark.integration
def test_a_first_run_killed_while_it_makes_mlflows_file_leaves_nothing_in_the_way(
    tmp_path: Path,
) -> None:
    """The file is not there yet, the next process makes it whole, and no unfinished one stays."""
    settings = parse_settings(
        {"sources": [SOURCE], "first_month": 202201, "lakehouse_root": str(tmp_path)},
        tmp_path / "c.yaml",
    )
    code = (
        "import sys\nfrom resources.settings import load_settings\n"
        "from resources.mlflow_file import ensure_file\nensure_file(load_settings(sys.argv[1], {}))"
    )
    config = tmp_path / "c.yaml"
    config.write_text(
        json.dumps({"sources": [SOURCE], "first_month": 202201, "lakehouse_root": str(tmp_path)})
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(config)])
    assert wait_until(lambda: any(p.stat().st_size for p in tmp_path.glob(".mlflow.db.*")), 60)
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    assert list(tmp_path.glob(".mlflow.db.*"))
    ensure_file(settings)
    assert not list(tmp_path.glob(".mlflow.db.*"))
    assert MlflowTracking(settings, "", lambda: None).registry.alias() is None


@pytest.mark.integration
@pytest.mark.parametrize("held", ["CREATE TABLE experiments (experiment_id INT)", "SELECT 1"])
def test_a_file_of_mlflow_that_was_left_half_made_is_made_again(tmp_path: Path, held: str) -> None:
    """Nothing is in it, whether its first table is there or none."""
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute(held)
    settings = parse_settings(
        {"sources": [SOURCE], "first_month": 202201, "lakehouse_root": str(tmp_path)},
        tmp_path / "c.yaml",
    )
    assert MlflowTracking(settings, "", lambda: None).registry.alias() is None


@pytest.mark.integration
def test_a_file_of_mlflow_that_another_process_writes_is_never_replaced(tmp_path: Path) -> None:
    """While it is locked nobody can see whether it is whole, so it stays as it is."""
    settings = parse_settings(
        {"sources": [SOURCE], "first_month": 202201, "lakehouse_root": str(tmp_path)},
        tmp_path / "c.yaml",
    )
    file = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as writer:
        writer.execute("CREATE TABLE experiments (experiment_id INT)")
        writer.execute("BEGIN EXCLUSIVE")
        before = file.stat().st_ino
        ensure_file(settings)
        assert file.stat().st_ino == before
