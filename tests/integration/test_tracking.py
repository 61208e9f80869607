"""MLflow's server as runs meet it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from mlflow.pyfunc import PythonModel

from resources.settings import Settings
from resources.tracking import MlflowTracking, RunContent
from tests.faults.scenario import free_port, mlflow_server


class Constant(PythonModel):
    """A model that can be told from others."""

    def predict(self, context: object, model_input: list[str]) -> int:  # type: ignore[override]
        return 42


@pytest.mark.integration
def test_loading_models_leaves_no_files(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's model and a registered version come from a server as they were logged, and no copy of either stays on disk."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with mlflow_server(tmp_path, port):
        served = settings.model_copy(update={"mlflow": settings.mlflow.model_copy(update={"tracking_uri": url})})
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
