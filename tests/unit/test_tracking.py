"""MLflow's servers and registries as they are met: what is no answer, what is no alias, and what is
installed.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
)

from resources import tracking
from resources.mlflow_connection import TrackingUnavailable
from resources.processes import identity
from resources.provenance import INSTANCE, PROCESS, library_versions, origin_tags
from resources.settings import Settings
from resources.tracking import MlflowTracking, RunContent


def connected(settings: Settings, error: Exception | None = None, **uris: str) -> MlflowTracking:
    """Tracking whose client answers every look-up of an alias or a model with an error."""

    def refuse(*_: Any, **__: Any) -> Any:
        if error:
            raise error
        return SimpleNamespace(version="3")

    changed = settings.model_copy(update={"mlflow": settings.mlflow.model_copy(update=uris)})
    made = MlflowTracking(changed, "dagster-run", parent=lambda: None)
    made.connection._client = SimpleNamespace(
        get_model_version_by_alias=refuse, get_registered_model=refuse
    )
    made.connection._experiment = "7"
    return made


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("Registered Model with name=m not found", RESOURCE_DOES_NOT_EXIST),
        MlflowException("Registered model alias champion not found.", INVALID_PARAMETER_VALUE),
    ],
)
def test_a_registry_without_the_alias_says_none(settings: Settings, error: Exception) -> None:
    """A model that is not registered and one whose versions have no alias are both answers, and a
    fit may begin.
    """
    made = connected(settings, error)
    assert made.registry.alias() is None
    made.check()


@pytest.mark.parametrize(
    "error",
    [
        MlflowException(
            "API request failed with exception HTTPConnectionPool: Read timed out", INTERNAL_ERROR
        ),
        MlflowException("user may not read models", PERMISSION_DENIED),
    ],
)
def test_a_registry_that_can_not_be_asked_is_not_one_without_the_alias(
    settings: Settings, error: Exception
) -> None:
    """Neither the alias nor the model counts as missing, and check says so before a fit."""
    made = connected(settings, error)
    with pytest.raises(MlflowException, match=str(error)[:20]):
        made.registry.alias()
    with pytest.raises(MlflowException, match=str(error)[:20]):
        made.registry.register("run", {})
    with pytest.raises(TrackingUnavailable, match=r"registry at .* refuses: .* Nothing was fitted"):
        made.check()


def test_a_registry_that_keeps_no_aliases_is_refused_before_a_fit(settings: Settings) -> None:
    """The message names the registry and the key to set."""
    made = connected(settings, NotImplementedError("Method not implemented"))
    for call in (made.check, made.registry.alias, lambda: made.registry.set_alias(2)):
        with pytest.raises(
            TrackingUnavailable, match=r"keeps no aliases.* set mlflow\.registry_uri"
        ):
            call()


def test_the_registry_is_tried_once(settings: Settings) -> None:
    """A registry that has answered is not asked again at each fit."""
    made = connected(settings)
    made.check()
    made.connection.client = lambda: None  # type: ignore[method-assign, assignment, return-value]
    made.check()


def test_an_error_shows_no_credentials(settings: Settings) -> None:
    """An error of MLflow that quotes an address is told without them, and without the error that
    quotes it.
    """
    made = connected(
        settings, MlflowException("no route to http://me:hush@host/api", PERMISSION_DENIED)
    )
    with pytest.raises(TrackingUnavailable, match=r"http://\*\*\*@host/api") as told:
        made.registry.alias()
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__


def answering(asked: list[str], error: Exception | None = None) -> Callable[..., Any]:
    def get(address: str, timeout: float) -> Any:
        asked.append(address)
        if error:
            raise error
        return SimpleNamespace(raise_for_status=lambda: None)

    return get


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Databricks workspace that the environment names."""
    creds = "mlflow.utils.databricks_utils.get_databricks_host_creds"
    monkeypatch.setattr(
        creds, lambda uri: SimpleNamespace(host="https://shop.cloud.databricks.com/")
    )


@pytest.mark.usefixtures("workspace")
def test_a_workspace_is_asked_whether_it_is_there(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host is asked, not a page that only MLflow's own server has; one that does not answer is
    named.
    """
    asked: list[str] = []
    monkeypatch.setattr(requests, "get", answering(asked))
    made = connected(settings, tracking_uri="databricks", registry_uri="uc:http://127.0.0.1:8080")
    assert made.connection.unreachable() is None
    assert asked == ["https://shop.cloud.databricks.com", "http://127.0.0.1:8080"]
    monkeypatch.setattr(requests, "get", answering(asked, requests.ConnectionError()))
    with pytest.raises(TrackingUnavailable, match="tracking server at databricks does not answer"):
        made.check()


def test_a_workspace_without_credentials_is_told_before_a_fit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the library says of the missing host or token is in the refusal."""

    def fail(uri: str) -> Any:
        raise MlflowException("Reading Databricks credential configuration failed")

    monkeypatch.setattr("mlflow.utils.databricks_utils.get_databricks_host_creds", fail)
    with pytest.raises(
        TrackingUnavailable,
        match=r"does not answer \(Reading Databricks credential configuration failed\)",
    ):
        connected(settings, tracking_uri="databricks").check()


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("databricks", "https://shop.cloud.databricks.com/ml/experiments/7/runs/r"),
        ("https://me:hush@mlflow.shop/", "https://mlflow.shop/#/experiments/7/runs/r"),
        ("sqlite:////srv/mlflow.db", "http://127.0.0.1:5000/#/experiments/7/runs/r"),
    ],
)
def test_a_link_leads_to_the_run(settings: Settings, uri: str, link: str) -> None:
    """A workspace has pages of its own; a server's link holds no credentials; a file is shown by
    `medallion ui`.
    """
    assert connected(settings, tracking_uri=uri).url("r") == link


def test_libraries_under_another_name_or_missing_do_not_stop_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A runtime's distribution is named as it is installed; one that is not there is unknown."""
    there = {"numpy": "2.1", "databricks-connect": "17.2", "xgboost": "3.0"}

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    told = library_versions.__wrapped__().split(", ")
    assert {"numpy 2.1", "databricks-connect 17.2", "xgboost 3.0", "scipy unknown"} < set(told)


def test_every_run_names_its_process_and_instance() -> None:
    """By these tags another process knows whether the run was left behind."""
    assert origin_tags("one") == {PROCESS: identity(), INSTANCE: "one"}


def test_what_a_query_left_on_a_frame_does_not_keep_it_from_a_file(tmp_path: Path) -> None:
    """Spark Connect hangs objects on the frames it gives, which a Parquet file can't hold; the
    frame itself stays as it is.
    """
    rows = pd.DataFrame({"part_number": ["P-1"]})
    rows.attrs["metrics"] = [object()]
    ((_, write),) = tracking._files(RunContent(tables={"rows.parquet": rows}))
    write(tmp_path / "rows.parquet")
    assert pd.read_parquet(tmp_path / "rows.parquet").equals(rows)
    assert rows.attrs
