"""Registration in Unity Catalog by MLflow's own client for it, against a stand-in on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resources.settings import Settings
from resources.stored_models import FITS_SHA256, ModelRefused
from resources.tracking import MlflowTracking, RunContent
from tests.integration.test_tracking import Numbers
from tests.unity_catalog import TOKEN, UnityCatalog, unity_catalog

pytestmark = pytest.mark.integration


@pytest.fixture
def tracking(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowTracking:
    """Runs in a file of the lakehouse, versions in the catalog."""
    uris = {
        "tracking_uri": f"sqlite:///{tmp_path}/runs.db",
        "registry_uri": "databricks-uc",
        "experiment": "/Shared/demand",
    }
    mlflow = settings.mlflow.model_copy(update=uris)
    monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
    monkeypatch.delenv("DATABRICKS_CONFIG_PROFILE", raising=False)
    changed = settings.model_copy(update={"mlflow": mlflow})
    return MlflowTracking(changed, "dagster-run", parent=lambda: None, models=Numbers())


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> UnityCatalog:  # type: ignore[misc]
    with unity_catalog() as served:
        monkeypatch.setenv("DATABRICKS_HOST", served.address)
        yield served


def logged(tracking: MlflowTracking, number: int) -> str:
    run = tracking.start(f"constant {number}", {})
    tracking.log(run, RunContent(model=number))
    tracking.commit(run)
    return run


def test_a_version_is_registered_served_and_read(
    tracking: MlflowTracking, catalog: UnityCatalog
) -> None:
    """One version a training, by a name of three parts, with its files, digest and tags; the alias
    moves to it, and what is loaded is what was logged.
    """
    tracking.check()
    assert tracking.registry.alias() is None
    first = tracking.registry.register(logged(tracking, 41), {"month": "202512"})
    second = tracking.registry.register(logged(tracking, 42), {"month": "202601"})
    tracking.registry.set_alias(second)
    tracking.registry.set_alias(second)
    assert (first, second, tracking.registry.alias()) == (1, 2, 2)
    assert [tracking.registry.load_version(version) for version in (1, 2)] == [41, 42]

    name = "my_catalog.my_gold.demand_forecaster"
    assert set(catalog.models) == {name}
    stored = catalog.models[name]["versions"]["2"]
    tags = {tag["key"]: tag["value"] for tag in stored["tags"]}
    assert stored["status"] == "READY"
    assert tags["month"] == "202601"
    assert len(tags[FITS_SHA256]) == 64
    files = {path.split("/2/", 1)[1] for path in catalog.files if "/2/" in path}
    assert {"MLmodel", "model.py", "artifacts/fits/number.json"} <= files
    assert not any(path.endswith(".pkl") for path in files)
    tracking.registry.tag_version(2, {"approval_lumpy": "waiting"})
    tracking.registry.tag_version(2, {"approval_lumpy": "approved"})
    assert tracking.registry.version_tags(2)["approval_lumpy"] == "approved"
    assert tracking.registry.version_tags(1).keys() == {"month", FITS_SHA256}
    assert catalog.calls.count("POST /registered-models/create") == 1
    assert catalog.calls.count("POST /registered-models/alias") == 1
    assert catalog.tokens == {f"Bearer {TOKEN}"}


def test_changed_files_of_a_version_are_refused(
    tracking: MlflowTracking, catalog: UnityCatalog
) -> None:
    """The digest is held against the tag of the version, wherever its files lie."""
    version = tracking.registry.register(logged(tracking, 41), {})
    (fits,) = [path for path in catalog.files if path.endswith("number.json")]
    catalog.files[fits] = json.dumps(43).encode()
    with pytest.raises(ModelRefused, match="is not what was logged"):
        tracking.registry.load_version(version)
