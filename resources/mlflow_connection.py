"""The connection to MLflow: its servers, the experiment, and who owns the names there.

Runs are logged in tracking.py, versions of models in registry.py.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import urlparse

from resources import place
from resources.errors import Refused, without_credentials
from resources.mlflow_file import TRAININGS, ensure_file
from resources.place import NamesCollide
from resources.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = logging.getLogger("medallion")

# of a request to a server, half a minute in all: long enough for one that is started again
RETRIES = 4
LAKEHOUSE = "medallion.lakehouse"  # tag of an experiment and a model: id of the one they belong to
PLACE = "medallion.place"  # tag beside it: where that was last used
# An experiment without a kind is asked about; with this one its page opens on the runs. The view,
# which an address names, shows the trainings, newest first, with what was decided.
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{TRAININGS}": json.dumps(
        {
            "searchFilter": "tags.kind = 'training'",
            # By start the page would show them folded into the runs above them.
            "orderByKey": "tags.`month`",
            "orderByAsc": False,
            "selectedColumns": [
                "attributes.`Models`",
                "attributes.`Dataset`",
                "tags.`month`",
                *(
                    f"{kind}_{demand_class}`"
                    for demand_class in ("smooth", "erratic", "intermittent", "lumpy")
                    for kind in ("params.`champion", "metrics.`champion_wql")
                ),
                "tags.`trigger`",
            ],
        }
    ),
}


class TrackingUnavailable(Refused):
    """MLflow does not answer; the message names the address and what to do."""


Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class Connected(Protocol):
    """What asks MLflow by a connection."""

    @property
    def connection(self) -> Connection: ...


Caller = TypeVar("Caller", bound=Connected)


def told_when_gone(
    method: Callable[Concatenate[Caller, Arguments], Answer],
) -> Callable[Concatenate[Caller, Arguments], Answer]:
    """Turns the error of a request to a server that has gone away into TrackingUnavailable."""

    @functools.wraps(method)
    def asked(self: Caller, *arguments: Arguments.args, **named: Arguments.kwargs) -> Answer:
        try:
            return method(self, *arguments, **named)
        except Refused:
            raise
        except Exception as error:
            if away := self.connection.unreachable():
                raise TrackingUnavailable(
                    f"MLflow's {away[0]} server at {away[1]} has gone away. What was stored before"
                    " stays; start the server and run again."
                ) from error
            if without_credentials(str(error)) != str(error):
                # Raised from nothing: what is shown of a cause would hold the credentials again.
                raise TrackingUnavailable(f"MLflow: {first_line(error)}") from None
            raise

    return asked  # type: ignore[return-value]


class Connection:
    """A client of the configured addresses, made when it is first used. ``connected`` is called
    once, when the server has answered.
    """

    def __init__(self, settings: Settings, connected: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self._when_connected = connected
        self._client: MlflowClient | None = None
        self._experiment = ""

    def unreachable(self) -> tuple[str, str, str] | None:
        """The first server that does not answer: what it is, its address, the error. A store that
        is no server always answers.
        """
        import requests

        for what, uri in (
            ("tracking", self.settings.tracking_uri),
            ("registry", self.settings.registry_uri),
        ):
            try:
                if (server := server_of(uri)) is None:
                    continue
                is_mlflow = urlparse(uri).scheme in {"http", "https"}
                answer = requests.get(
                    f"{server}/health" if is_mlflow else server,
                    timeout=self.settings.mlflow.timeout_seconds,
                )
                if is_mlflow:
                    # others have no such page: whatever they answer, they are there
                    answer.raise_for_status()
            except requests.RequestException as error:
                return what, without_credentials(uri), type(error).__name__
            # a host or credentials that are not configured, told by a library of its own
            except Exception as error:
                return what, without_credentials(uri), first_line(error)
        return None

    @property
    def experiment(self) -> str:
        """Id of the configured experiment."""
        self.client()
        return self._experiment

    def client(self) -> MlflowClient:
        """The client. Raises TrackingUnavailable where a server refuses, NamesCollide where the
        names are another lakehouse's.
        """
        if self._client is None:
            # Its thread changes the environment while a request reads that, and the request fails.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            import mlflow
            from mlflow.environment_variables import (
                MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
                MLFLOW_HTTP_REQUEST_MAX_RETRIES,
                MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
            )
            from mlflow.exceptions import MlflowException

            # Its remarks on pickled models and missing signatures, bars for small files and
            # addresses hide what a person waits for.
            logging.getLogger("mlflow").setLevel(logging.ERROR)
            MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
            MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
            if not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set():
                MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(RETRIES)
            for sentence in place.settle(self.settings):
                _log.warning("%s", sentence)
            uri = self.settings.tracking_uri
            ensure_file(self.settings)
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(self.settings.registry_uri)
            client = mlflow.MlflowClient(uri, self.settings.registry_uri)
            try:
                self._experiment = ensure_experiment(client, self.settings)
                if not self.settings.mlflow.is_own_file:
                    claim_names(client, self.settings, self._experiment)
                describe_experiment(client, self._experiment)
            except MlflowException as error:
                raise TrackingUnavailable(
                    f"MLflow at {uri} refuses: {first_line(error)}. Nothing was fitted."
                ) from error
            self._client = client
            self._when_connected()
        return self._client


def ensure_experiment(client: MlflowClient, settings: Settings) -> str:
    """Id of the configured experiment; made, with its artifacts beside the lakehouse where the
    store is a file, if it is missing.
    """
    found = client.get_experiment_by_name(settings.mlflow.experiment)
    if found is not None:
        return found.experiment_id
    is_file = settings.tracking_uri.startswith("sqlite")
    location = f"{settings.lakehouse_root}/mlartifacts" if is_file else None
    return client.create_experiment(
        settings.mlflow.experiment, artifact_location=location, tags=EXPERIMENT_TAGS
    )


def describe_experiment(client: MlflowClient, experiment: str) -> None:
    """Give an experiment of a former release what a new one is made with."""
    known = client.get_experiment(experiment).tags
    for key, value in EXPERIMENT_TAGS.items():
        if key not in known:
            client.set_experiment_tag(experiment, key, value)


def claim_names(client: MlflowClient, settings: Settings, experiment: str) -> None:
    """Tag the experiment and the registered model of a server as this lakehouse's. Raises
    NamesCollide, before anything is logged, where they are another's, or where a copy of this
    lakehouse used them last.
    """
    from mlflow.exceptions import MlflowException

    lakehouse = place.known(settings.lakehouse_root)
    if lakehouse is None:
        return
    name, server = settings.registered_model, without_credentials(settings.tracking_uri)
    owned = {
        f"experiment '{settings.mlflow.experiment}' of {server}": (
            client.get_experiment(experiment).tags,
            functools.partial(client.set_experiment_tag, experiment),
        )
    }
    try:
        owned[f"registered model {name} of {without_credentials(settings.registry_uri)}"] = (
            client.get_registered_model(name).tags,
            functools.partial(client.set_registered_model_tag, name),
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    for what, (tags, _) in owned.items():
        _refuse_another(what, tags, lakehouse)
    wanted = {LAKEHOUSE: lakehouse.id, PLACE: place.here(settings)}
    for tags, tag in owned.values():
        for key, value in wanted.items():
            if tags.get(key) != value:
                # Without tags a registry can't tell lakehouses apart; the experiment can.
                with contextlib.suppress(NotImplementedError):
                    tag(key, value)


def _refuse_another(what: str, tags: Mapping[str, str], lakehouse: place.Place) -> None:
    owner, last = tags.get(LAKEHOUSE), tags.get(PLACE, "")
    if owner is not None and owner != lakehouse.id:
        raise NamesCollide(
            f"the {what} belongs to another lakehouse, last used at {last}; the runs and versions"
            " of the two would mix. Nothing was fitted. Set mlflow.experiment, and catalog, from"
            " which the registered model has its name, to names that no other lakehouse uses. A"
            " copy of a lakehouse can't go on with the original's versions: read it, or build a"
            " new one from the order files"
        )
    if last and last not in lakehouse.places:
        raise NamesCollide(
            f"the {what} was last used by this lakehouse at {last}, where it never lay by its own"
            f" note: one of the two is a copy. Nothing was fitted. Remove the one that is not to go"
            f" on; if it is that at {last}, delete the tag {PLACE} of the {what}"
        )


def server_of(uri: str) -> str | None:
    """Address of the server behind a URI of MLflow, without a slash at its end; None for a store
    without one, such as a file.
    """
    if is_databricks(uri):
        from mlflow.utils.databricks_utils import get_databricks_host_creds

        return str(get_databricks_host_creds(uri).host).rstrip("/")
    address = uri.removeprefix("uc:")
    return address.rstrip("/") if urlparse(address).scheme in {"http", "https"} else None


def is_databricks(uri: str) -> bool:
    """Whether a URI of MLflow names a workspace of Databricks."""
    return uri.split(":", 1)[0] in {"databricks", "databricks-uc"}


def first_line(error: Exception) -> str:
    """The first line of an error without credentials, or its type where it says nothing."""
    return without_credentials((str(error).splitlines() or [type(error).__name__])[0])
