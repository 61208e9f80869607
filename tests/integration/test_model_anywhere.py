"""The stored model as others meet it: MLflow alone, without this package and without pickle."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pandas as pd
import pytest
import requests
from mlflow.pyfunc import PythonModel
from pandas.testing import assert_frame_equal

from medallion_assets.tables import DECILES
from medallion_assets.zoo.packaged import ZooModels
from medallion_assets.zoo.serving import SERVED_COLUMNS, DemandForecaster
from resources.settings import Settings, parse_settings
from resources.stored_models import FITS_SHA256, ModelRefused
from resources.tracking import MlflowTracking, RunContent
from tests.conftest import SOURCE
from tests.models import as_json, as_rows, demand, history, manifest, outside, served

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

KEYS = ["part_number", "horizon"]
NUMBERS = ["forecast_qty", *DECILES]
SOLD = demand()
HISTORY = history(SOLD)


@dataclass
class Registered:
    """A model that was logged and registered, and what it forecasts in this process."""

    settings: Settings
    tracking: MlflowTracking
    run: str
    version: int
    model: DemandForecaster
    expected: pd.DataFrame

    @property
    def uri(self) -> str:
        return f"models:/{self.settings.registered_model}/{self.version}"

    @property
    def folder(self) -> Path:
        """Where the version's files lie."""
        client = mlflow.MlflowClient(self.settings.tracking_uri)
        (output,) = client.get_run(self.run).outputs.model_outputs
        return Path(client.get_logged_model(output.model_id).artifact_location)


def opened(settings: Settings) -> MlflowTracking:
    return MlflowTracking(settings, "dagster-run", parent=lambda: None, models=ZooModels())


def registered(folder: Path, model: DemandForecaster) -> Registered:
    """A lakehouse below a folder in whose registry the model is version 1."""
    content = {"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [SOURCE]}
    settings = parse_settings(content, folder / "company.yaml")
    tracking = opened(settings)
    tracking.check()
    run = tracking.start("champion", {})
    tracking.log(run, RunContent(model=model))
    version = tracking.registry.register(run, {"month": "202306"})
    tracking.commit(run)
    return Registered(settings, tracking, run, version, model, model.predict(None, HISTORY))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """One model for all tests that only read it."""
    return registered(tmp_path_factory.mktemp("company"), manifest(SOLD))


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same rows, and numbers within 1e-9."""
    both = expected.merge(found, on=KEYS, suffixes=("", "_found"), validate="one_to_one")
    assert len(both) == len(expected) == len(found)
    for name in NUMBERS:
        assert (both[name] - both[f"{name}_found"]).abs().max() <= 1e-9


def test_what_is_registered_is_read_by_its_fits(made: Registered) -> None:
    """A run's model and a version forecast to the last bit what was logged, and both are tagged
    with the digest.
    """
    again = opened(made.settings)
    for read in (again.load(made.run), again.registry.load_version(made.version)):
        assert_frame_equal(read.predict(None, HISTORY), made.expected, check_exact=True)
    client = mlflow.MlflowClient(made.settings.tracking_uri)
    version = client.get_model_version(made.settings.registered_model, str(made.version))
    assert version.tags[FITS_SHA256] == client.get_run(made.run).data.tags[FITS_SHA256]


def test_the_stored_model_has_both_signatures_and_no_pickle(made: Registered) -> None:
    """Inputs, outputs, an example and pinned requirements are there; no file can be unpickled."""
    known = mlflow.models.Model.load(str(made.folder))
    assert known.signature.outputs.input_names() == list(SERVED_COLUMNS)
    assert known.signature.inputs.required_input_names() == ["part_number", "yyyymm"]
    assert len(known.load_input_example(str(made.folder))) == 13
    assert "xgboost" in (made.folder / "requirements.txt").read_text()
    files = [path for path in made.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files if "fits" in path.parts} == {".json", ".ubj", ".parquet"}
    for path in files:
        with pytest.raises(Exception):  # noqa: B017, PT011
            pickle.loads(path.read_bytes())


def test_it_loads_without_this_package_and_without_pickle(made: Registered, tmp_path: Path) -> None:
    """In a process that can import neither this project nor dagster, pyspark or scikit-learn, and
    may not unpickle, MLflow loads the version and it forecasts the same.
    """
    imported, found = outside(tmp_path, made.settings.tracking_uri, made.uri, HISTORY)
    assert imported == "set()"
    assert_same(found, made.expected)


def test_mlflows_server_answers_the_same(made: Registered, tmp_path: Path) -> None:
    """Over HTTP a history is answered by its forecasts, rows by one forecast each, and a frame
    without demand by what it lacks.
    """
    with served(tmp_path, made.settings.tracking_uri, made.uri) as address:

        def ask(frame: pd.DataFrame) -> requests.Response:
            return requests.post(f"{address}/invocations", json=as_json(frame), timeout=120)

        for known in (HISTORY, as_rows(HISTORY)):
            answer = ask(known)
            assert answer.ok, answer.text[:3000]
            assert_same(pd.DataFrame(answer.json()["predictions"]), made.expected)
        refused = ask(HISTORY.drop(columns="demand_qty"))
        assert refused.status_code == 400
        assert "history lacks demand_qty" in refused.text


@pytest.mark.spark
def test_spark_scores_the_same(made: Registered, spark: SparkSession) -> None:
    """MLflow's function for Spark answers a row for each part and horizon, whatever portions it
    gets.
    """
    from pyspark.sql import functions as F

    mlflow.set_tracking_uri(made.settings.tracking_uri)
    rows = as_rows(HISTORY)
    score = mlflow.pyfunc.spark_udf(spark, made.uri, env_manager="local")
    frame = spark.createDataFrame(rows).repartition(3)
    found = frame.select(score(F.struct(*list(rows))).alias("served"))
    assert_same(found.select("served.*").toPandas(), made.expected)


def test_a_changed_fit_is_refused_by_us_and_by_mlflow(tmp_path: Path) -> None:
    """The message names the run or version and what to do; nothing is loaded."""
    made = registered(tmp_path, manifest(SOLD, {"smooth": "seasonal_naive"}))
    fits = made.folder / "artifacts" / "fits" / "fits.json"
    fits.write_text(fits.read_text().replace("seasonal_naive", "naive"))
    again = opened(made.settings)
    with pytest.raises(
        ModelRefused, match=r"version 1 of my_catalog\..* is not what was logged.*rollback all --to"
    ):
        again.registry.load_version(made.version)
    with pytest.raises(ModelRefused, match=rf"run {made.run} \(champion\).*plan backfill gold"):
        again.load(made.run)
    mlflow.set_tracking_uri(made.settings.tracking_uri)
    with pytest.raises(Exception, match="were changed after they were logged"):
        mlflow.pyfunc.load_model(made.uri)


def test_code_in_the_artifact_is_not_run_by_us(tmp_path: Path) -> None:
    """A model file or package that somebody wrote into the artifacts never runs in a training."""
    made = registered(tmp_path, manifest(SOLD, {"smooth": "seasonal_naive"}))
    code = list(made.folder.rglob("*.py"))
    assert len(code) > 3
    for path in code:
        path.write_text("raise SystemExit('ran')")
    read = opened(made.settings).registry.load_version(made.version)
    assert_frame_equal(read.predict(None, HISTORY), made.expected, check_exact=True)


class Former(DemandForecaster, PythonModel):
    """A manifest as the former release pickled it."""


def pickled(made: Registered, folder: Path) -> int:
    """A version of the same fits as a former release stored it."""
    run = made.tracking.start("former", {})
    former = Former(made.model.entries, made.model.horizon)
    mlflow.pyfunc.save_model(str(folder / "former"), python_model=former, pip_requirements=[])
    client = mlflow.MlflowClient(made.settings.tracking_uri)
    client.log_artifacts(run, str(folder / "former"), "model")
    return made.tracking.registry.register(run, {})


def test_a_version_of_a_former_release_is_read_and_stored_as_data_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pickle is loaded where MLflow may do that, and refused with what to do where not; the
    next version of the same fits needs none.
    """
    made = registered(tmp_path, manifest(SOLD))
    tracking = made.tracking
    for entry in made.model.entries.values():
        entry.forecaster.__dict__["name"] = entry.model  # as forecasters had it
    version = pickled(made, tmp_path)
    read = opened(made.settings).registry.load_version(version)
    assert_frame_equal(read.predict(None, HISTORY), made.expected, check_exact=True)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with pytest.raises(
        ModelRefused, match=r"version 2 of .* as a pickle, and MLFLOW_ALLOW.*Train the month again"
    ):
        opened(made.settings).registry.load_version(version)
    run = tracking.start("next", {})
    tracking.log(run, RunContent(model=DemandForecaster(read.entries, read.horizon)))
    read = opened(made.settings).registry.load_version(tracking.registry.register(run, {}))
    assert_frame_equal(read.predict(None, HISTORY), made.expected, check_exact=True)


def test_a_pickle_that_lacks_what_is_learned_now_is_refused(tmp_path: Path) -> None:
    """It would answer with other numbers; the message says which version and what to do."""
    made = registered(tmp_path, manifest(SOLD, {"smooth": "xgboost_global"}))
    del made.model.entries["smooth"].fitted.__dict__["medians"]
    version = pickled(made, tmp_path)
    with pytest.raises(
        ModelRefused, match=r"version 2 of .*BoosterFit of a former release has no medians.*newer"
    ):
        opened(made.settings).registry.load_version(version)
