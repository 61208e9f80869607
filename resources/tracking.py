"""MLflow: the run that stands for a Dagster run, nested runs of our own, registered versions and
the alias.

All calls go through a client with explicit run ids. What is logged is decided by the assets; how
lies here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import urlparse

from resources import place
from resources.errors import Refused, without_credentials
from resources.mlflow_file import TRAININGS, ensure_file
from resources.place import NamesCollide
from resources.processes import identity, is_gone, is_here
from resources.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from dagster import InitResourceContext
    from mlflow import MlflowClient

_log = logging.getLogger("medallion")

ALIAS = "champion"
COMMITTED = "medallion.committed"
FITS = "artifacts/fits"  # folder of a stored model
KEPT_MODELS = 16  # two boosters at seven origins, and two more
# of a request to a server, half a minute in all: long enough for one that is started again
RETRIES = 4
# Of each line the first that is installed: runtimes of a platform bring some libraries under
# another distribution's name.
NUMERIC_LIBRARIES = (
    ("numpy",),
    ("pandas",),
    ("pyspark", "databricks-connect", "pyspark-client"),
    ("scikit-learn",),
    ("scipy",),
    ("statsforecast",),
    ("xgboost-cpu", "xgboost"),
)
PROCESS = "medallion.process"  # tag: the process that logs a run, by resources/processes.py
LAKEHOUSE = "medallion.lakehouse"  # tag of an experiment and a model: id of the one they belong to
PLACE = "medallion.place"  # tag beside it: where that was last used
# tag of a run and a version: SHA-256 of the files of its model's fits
FITS_SHA256 = "medallion.fits_sha256"
DESCRIPTION_LENGTH = 5000  # characters that every registry keeps
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
# tag of a logged model: the registered versions that were made of it
REGISTERED_AS = "mlflow.modelVersions"
# tag: id of the run storage of the Dagster instance that started it
INSTANCE = "medallion.dagster_instance"


class ModelRefused(Refused):
    """A stored model is not what was logged, or only a pickle; the message says which and what to
    do.
    """


class TrackingUnavailable(Refused):
    """MLflow does not answer; the message names the address and what to do."""


@dataclass(frozen=True)
class InputTable:
    """A table that a run read."""

    name: str
    path: str
    delta_version: int
    data_version: str

    @property
    def digest(self) -> str:
        """As MLflow shows it, which takes 36 characters."""
        return f"v{self.delta_version}-{self.data_version}"[:36]


@dataclass(frozen=True)
class ModelColumn:
    """A column that a model takes or gives: a string, long, double or boolean, or a list of
    them.
    """

    name: str
    type: str
    is_required: bool
    is_list: bool = False


@dataclass(frozen=True)
class StoredModel:
    """A model as MLflow stores it, its code and its fits apart.

    ``fits`` and ``code`` are files by path, and ``digest`` is that of the fits. ``model_file`` is
    the code that MLflow runs to load the model; it finds the fits as the artifact "fits" and their
    digest as ``fits_sha256`` of the model's configuration. ``requirements`` are distributions with
    their versions.
    """

    fits: Mapping[str, bytes]
    digest: str
    model_file: bytes
    code: Mapping[str, bytes]
    requirements: Sequence[str]
    inputs: Sequence[ModelColumn]
    outputs: Sequence[ModelColumn]
    example: pd.DataFrame


class ModelFormat(Protocol):
    """How models become files and come back. Nothing that is read may run code of its own."""

    def stored(self, model: Any) -> StoredModel: ...

    def digest(self, fits: Mapping[str, bytes]) -> str: ...

    def read(self, fits: Mapping[str, bytes]) -> Any: ...


@dataclass
class RunContent:
    """What one run logs. Pictures (PNG), tables and texts are artifacts by path.

    ``model`` is stored by the ModelFormat as a logged model of MLflow 3 under ``model_name``, with
    the run's parameters. The metrics of a run are those of its model too, measured on the first of
    the inputs.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[InputTable] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    model: Any = None
    model_name: str = "demand_forecaster"


@dataclass(frozen=True)
class StoredRun:
    """A run as it was logged; ``input_versions`` are Delta versions by table name,
    ``input_digests`` those of InputTable.
    """

    run_id: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    input_versions: Mapping[str, int]
    input_digests: Mapping[str, str] = field(default_factory=dict)


class Tracking(Protocol):
    """Where runs and model versions are kept. Implementations: MlflowTracking, and a fake in
    tests.
    """

    def check(self) -> None: ...

    def start(self, name: str, tags: Mapping[str, str]) -> str: ...

    def log(self, run_id: str, content: RunContent) -> None: ...

    def commit(self, run_id: str, tags: Mapping[str, str] | None = None) -> None: ...

    def fail(self, run_id: str) -> None: ...

    def end_killed(self, tags: Mapping[str, str]) -> list[str]: ...

    def load(self, run_id: str) -> Any: ...

    def register(self, run_id: str, tags: Mapping[str, str], description: str = "") -> int: ...

    def load_version(self, version: int) -> Any: ...

    def version_tags(self, version: int) -> Mapping[str, str]: ...

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None: ...

    def alias(self) -> int | None: ...

    def set_alias(self, version: int) -> None: ...

    def run(self, run_id: str) -> StoredRun: ...

    def url(self, run_id: str) -> str: ...


Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def _told_when_gone(
    method: Callable[Concatenate[MlflowTracking, Arguments], Answer],
) -> Callable[Concatenate[MlflowTracking, Arguments], Answer]:
    """Turns the error of a request to a server that has gone away into TrackingUnavailable."""

    @functools.wraps(method)
    def asked(
        self: MlflowTracking, *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Answer:
        try:
            return method(self, *arguments, **named)
        except Refused:
            raise
        except Exception as error:
            if away := self.unreachable():
                raise TrackingUnavailable(
                    f"MLflow's {away[0]} server at {away[1]} has gone away. What was stored before"
                    " stays; start the server and run again."
                ) from error
            if without_credentials(str(error)) != str(error):
                # Raised from nothing: what is shown of a cause would hold the credentials again.
                raise TrackingUnavailable(f"MLflow: {_first_line(error)}") from None
            raise

    return asked  # type: ignore[return-value]


class MlflowTracking:
    """MLflow tracking and registry by the configured addresses.

    ``parent`` gives the id of the run that stands for the Dagster run; it is asked for when the
    first run is started. ``connected`` is called once, when the server has answered. ``instance``
    is the id of the Dagster instance that started the run. ``models`` stores and reads models;
    tracking without it serves whoever only looks at runs.
    """

    def __init__(
        self,
        settings: Settings,
        dagster_run_id: str,
        parent: Callable[[], str | None],
        connected: Callable[[], None] = lambda: None,
        instance: str = "",
        models: ModelFormat | None = None,
    ) -> None:
        self._settings = settings
        self._dagster_run_id = dagster_run_id
        self._origin = origin_tags(instance)
        self._parent = parent
        self._models = models
        self._when_connected = connected
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._knows_alias = False
        self._loaded: dict[str, Any] = {}
        self._logged_models: dict[str, str | None] = {}  # by run; None where it has none

    def check(self) -> None:
        """Make sure that tracking and registry answer and that the registry keeps aliases. Raises
        TrackingUnavailable.
        """
        if away := self.unreachable():
            what, uri, error = away
            raise TrackingUnavailable(
                f"MLflow's {what} server at {uri} does not answer ({error}); start it or set"
                f" mlflow.{what}_uri. Nothing was fitted and no table was changed."
            )
        self._connected()
        if not self._knows_alias:
            from mlflow.exceptions import MlflowException

            try:
                self.alias()
            except MlflowException as error:
                raise TrackingUnavailable(
                    f"MLflow's registry at {self._settings.registry_uri} refuses:"
                    f" {_first_line(error)}. Nothing was fitted and no table was changed."
                ) from error
            self._knows_alias = True

    def unreachable(self) -> tuple[str, str, str] | None:
        """The first server that does not answer: what it is, its address, the error. A store that
        is no server always answers.
        """
        import requests

        for what, uri in (
            ("tracking", self._settings.tracking_uri),
            ("registry", self._settings.registry_uri),
        ):
            try:
                if (server := _server(uri)) is None:
                    continue
                is_mlflow = urlparse(uri).scheme in {"http", "https"}
                answer = requests.get(
                    f"{server}/health" if is_mlflow else server,
                    timeout=self._settings.mlflow.timeout_seconds,
                )
                if is_mlflow:
                    # others have no such page: whatever they answer, they are there
                    answer.raise_for_status()
            except requests.RequestException as error:
                return what, without_credentials(uri), type(error).__name__
            # a host or credentials that are not configured, told by a library of its own
            except Exception as error:
                return what, without_credentials(uri), _first_line(error)
        return None

    @_told_when_gone
    def start(self, name: str, tags: Mapping[str, str]) -> str:
        """Start a run nested under the Dagster run's own; returns its id."""
        client = self._connected()
        nested = {"mlflow.parentRunId": parent} if (parent := self._parent()) else {}
        fixed = {
            "mlflow.runName": name,
            "dagster_run_id": self._dagster_run_id,
            "git_commit": git_commit(),
            "libraries": library_versions(),
            **self._origin,
            **nested,
        }
        run_id = str(client.create_run(self._experiment, tags={**fixed, **tags}).info.run_id)
        self._logged_models[run_id] = None
        return run_id

    @_told_when_gone
    def log(self, run_id: str, content: RunContent) -> None:
        """Log everything that the content holds; metrics without a value are left out."""
        from mlflow.entities import Param, RunTag

        client = self._connected()
        stored = None if content.model is None else self._format.stored(content.model)
        model_id = (
            self._logged_model(run_id)
            if stored is None
            else self._begin_model(run_id, content, stored.digest)
        )
        metrics = _metrics(content, model_id)
        parameters = [Param(key, str(value)[:6000]) for key, value in content.parameters.items()]
        digest = {FITS_SHA256: stored.digest} if stored else {}
        for start in range(0, max(len(metrics), len(parameters), 1), 100):
            chunk = slice(start, start + 100)
            tags = (
                [
                    RunTag(key, str(value)[:5000])
                    for key, value in {**content.tags, **digest}.items()
                ]
                if not start
                else []
            )
            client.log_batch(run_id, metrics[chunk], parameters[chunk], tags)
        if content.inputs:
            client.log_inputs(run_id, [_dataset(table) for table in content.inputs])
        with tempfile.TemporaryDirectory() as folder:
            artifacts = Path(folder) / "artifacts"
            for path, content_of in _files(content):
                (artifacts / path).parent.mkdir(parents=True, exist_ok=True)
                content_of(artifacts / path)
            if artifacts.exists():
                client.log_artifacts(run_id, str(artifacts))
            if stored is not None and model_id is not None:
                _save_model(stored, Path(folder), run_id, model_id)
                client.log_model_artifacts(model_id, f"{folder}/model")
                client.finalize_logged_model(model_id, "READY")

    def _begin_model(self, run_id: str, content: RunContent, digest: str) -> str:
        """Make the logged model of a run, whose files follow; its id."""
        from mlflow.entities import LoggedModelOutput

        client = self._connected()
        made = client.create_logged_model(
            self._experiment,
            content.model_name,
            source_run_id=run_id,
            params={key: str(value)[:6000] for key, value in content.parameters.items()},
            tags={FITS_SHA256: digest},
            model_type="forecaster",
        )
        client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
        self._logged_models[run_id] = made.model_id
        return str(made.model_id)

    def _end_model(self, model_id: str | None) -> None:
        """Mark a logged model whose files were never all written as failed."""
        client = self._connected()
        if model_id and str(client.get_logged_model(model_id).status) == "PENDING":
            client.finalize_logged_model(model_id, "FAILED")

    def _logged_model(self, run_id: str) -> str | None:
        """Id of the logged model of a run; None where it logged no model, or a former release kept
        that among the run's artifacts.
        """
        if run_id not in self._logged_models:
            self._logged_models[run_id] = _model_of(self._connected().get_run(run_id))
        return self._logged_models[run_id]

    @_told_when_gone
    def commit(self, run_id: str, tags: Mapping[str, str] | None = None) -> None:
        """Mark a run as one whose slice is stored, with what is known only then, and end it."""
        client = self._connected()
        for name, value in (tags or {}).items():
            client.set_tag(run_id, name, value)
        client.set_tag(run_id, COMMITTED, "true")
        client.set_terminated(run_id, "FINISHED")

    def fail(self, run_id: str) -> None:
        """End a run that did not come to its slice; the next run does where the server has gone
        away.
        """
        if not self.unreachable():
            self._connected().set_terminated(run_id, "FAILED")
            self._end_model(self._logged_models.get(run_id))

    @_told_when_gone
    def end_killed(self, tags: Mapping[str, str]) -> list[str]:
        """End runs with these tags that still count as running although their process is gone;
        returns their ids.

        A run of this process was left behind by an attempt that failed. One of another machine, or
        without a process, stays.
        """
        client = self._connected()
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = client.search_runs(
            [self._experiment], f"attributes.status = 'RUNNING' and {wanted}"
        )
        killed = [
            run
            for run in found
            if COMMITTED not in run.data.tags
            and (
                run.data.tags.get(PROCESS) == identity() or is_gone(run.data.tags.get(PROCESS, ""))
            )
        ]
        for run in killed:
            client.set_terminated(run.info.run_id, "KILLED")
            self._end_model(_model_of(run))
        return [run.info.run_id for run in killed]

    @_told_when_gone
    def load(self, run_id: str) -> Any:
        """The model that a run logged, read only: KEPT_MODELS are remembered, since all
        combinations ask for the same. Raises ModelRefused.
        """
        if run_id not in self._loaded:
            run = self._connected().get_run(run_id)
            tags = run.data.tags
            self._loaded[run_id] = self._read(
                _address_of_model(run),
                f"the model of the run {run_id} ({tags.get('mlflow.runName', '')})",
                tags.get(FITS_SHA256),
                "have its month fitted again: `medallion plan backfill gold.zoo_forecast`",
            )
            if len(self._loaded) > KEPT_MODELS:
                self._loaded.pop(next(iter(self._loaded)))
        return self._loaded[run_id]

    @_told_when_gone
    def register(self, run_id: str, tags: Mapping[str, str], description: str = "") -> int:
        """Register the model of a run as a new version, with the digest of its fits; returns its
        number. The description stands on the version's page.
        """
        from mlflow.exceptions import MlflowException

        client, name = self._connected(), self._settings.registered_model
        try:
            client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(
                name,
                description=(
                    "Monthly demand forecast by part number: one model for each demand class."
                ),
            )
            if not self._settings.mlflow.is_own_file:
                claim_names(client, self._settings, self._experiment)
        run = client.get_run(run_id)
        digest, model_id = run.data.tags.get(FITS_SHA256), _model_of(run)
        version = client.create_model_version(
            name,
            _address_of_model(run),
            run_id,
            tags={**tags, **({FITS_SHA256: digest} if digest else {})},
            description=description[:DESCRIPTION_LENGTH] or None,
            model_id=model_id,
        )
        if model_id:
            registered = [{"name": name, "version": str(version.version)}]
            client.set_logged_model_tags(model_id, {REGISTERED_AS: json.dumps(registered)})
        place.note_model(self._settings)
        return int(version.version)

    @_told_when_gone
    def load_version(self, version: int) -> Any:
        """The model of a registered version. Raises ModelRefused."""
        client, name = self._connected(), self._settings.registered_model
        return self._read(
            f"models:/{name}/{version}",
            f"version {version} of {name}",
            client.get_model_version(name, str(version)).tags.get(FITS_SHA256),
            "serve another version: `medallion rollback all --to VERSION`, or train a newer month",
        )

    @_told_when_gone
    def version_tags(self, version: int) -> Mapping[str, str]:
        """The tags of a registered version."""
        found = self._connected().get_model_version(self._settings.registered_model, str(version))
        return dict(found.tags)

    @_told_when_gone
    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a registered version, where the registry keeps any."""
        client, name = self._connected(), self._settings.registered_model
        with contextlib.suppress(NotImplementedError):
            for key, value in tags.items():
                client.set_model_version_tag(name, str(version), key, value)

    def _read(self, uri: str, what: str, digest: str | None, remedy: str) -> Any:
        """A stored model by its fits alone; no code of the artifact runs. One of a former release
        is unpickled, where MLflow may do that.
        """
        import mlflow

        # A folder of ours, as those that MLflow makes for what it fetches from a server stay
        # behind.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
            if not (path / FITS).is_dir():
                return self._unpickled(path, what, remedy)
            fits = {
                file.relative_to(path / FITS).as_posix(): file.read_bytes()
                for file in (path / FITS).rglob("*")
                if file.is_file()
            }
        if (found := self._format.digest(fits)) != digest:
            raise ModelRefused(
                f"{what} is not what was logged: the SHA-256 of its fits is {found}, and the tag"
                f" {FITS_SHA256} says {digest or 'nothing'}. It was not loaded. Restore its"
                f" artifacts from a copy, or {remedy}"
            )
        try:
            return self._format.read(fits)
        except ValueError as error:
            raise ModelRefused(f"{what} can't be read: {error}") from error

    def _unpickled(self, path: Path, what: str, remedy: str) -> Any:
        """A model that a former release stored as a pickle, by way of the form that it has now.
        What no longer has that form is refused: it would answer with other numbers.
        """
        import mlflow
        from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION

        format_, told = self._format, f"{what} was stored by a former release, as a pickle, and"
        if not MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get():
            raise ModelRefused(
                f"{told} {MLFLOW_ALLOW_PICKLE_DESERIALIZATION.name}=false forbids to load that."
                " Train the month again with this release, once without the variable: what is"
                " fitted and registered from now on is stored as data"
            )
        try:
            model = mlflow.pyfunc.load_model(str(path)).unwrap_python_model()
            return format_.read(format_.stored(model).fits)
        except (AttributeError, ImportError, TypeError, ValueError) as error:
            raise ModelRefused(
                f"{told} can't be read any more: {error}. Load it with the release that stored"
                f" it, or {remedy}"
            ) from error

    @property
    def _format(self) -> ModelFormat:
        if self._models is None:
            raise TypeError("this tracking was made without a ModelFormat and reads no models")
        return self._models

    @_told_when_gone
    def alias(self) -> int | None:
        """Version that the alias points to; None without one. Raises TrackingUnavailable where the
        registry keeps no aliases.
        """
        from mlflow.exceptions import MlflowException

        try:
            return int(
                self._connected()
                .get_model_version_by_alias(self._settings.registered_model, ALIAS)
                .version
            )
        except NotImplementedError as error:
            raise TrackingUnavailable(
                f"the model registry at {self._settings.registry_uri} keeps no aliases, by which"
                " the version that serves is found; set mlflow.registry_uri to a registry that"
                " does. Nothing was fitted and no table was changed."
            ) from error
        except MlflowException as error:
            # A registry that can't be asked is no registry without the alias: the next decision
            # would move it.
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or re.search(
                "alias .* not found", str(error)
            ):
                return None
            raise

    @_told_when_gone
    def set_alias(self, version: int) -> None:
        """Point the alias to a version, if it does not yet."""
        if self.alias() != version:
            self._connected().set_registered_model_alias(
                self._settings.registered_model, ALIAS, str(version)
            )

    def run(self, run_id: str) -> StoredRun:
        """What a run logged. Raises Refused where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._connected().get_run(run_id)
        except MlflowException as error:
            raise Refused(
                f"MLflow at {self._settings.tracking_uri} has no run '{run_id}'"
            ) from error
        versions, digests = {}, {}
        for entry in found.inputs.dataset_inputs if found.inputs else ():
            source = json.loads(entry.dataset.source)
            versions[source["delta_table_name"]] = int(source["delta_table_version"])
            digests[source["delta_table_name"]] = entry.dataset.digest
        return StoredRun(run_id, found.data.params, found.data.tags, versions, digests)

    def url(self, run_id: str) -> str:
        """Address of a run in the interface of a server; else the one below which `medallion ui`,
        or `mlflow ui`, shows it.
        """
        uri, server = self._settings.tracking_uri, None
        with contextlib.suppress(Exception):  # a link is no reason to fail
            server = _server(uri)
        server = re.sub(r"://[^/]*@", "://", server or "http://127.0.0.1:5000")
        pages = "ml" if _is_databricks(uri) else "#"
        return f"{server}/{pages}/experiments/{self._experiment}/runs/{run_id}"

    def _connected(self) -> MlflowClient:
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
            for sentence in place.settle(self._settings):
                _log.warning("%s", sentence)
            uri = self._settings.tracking_uri
            ensure_file(self._settings)
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(self._settings.registry_uri)
            client = mlflow.MlflowClient(uri, self._settings.registry_uri)
            try:
                self._experiment = ensure_experiment(client, self._settings)
                if not self._settings.mlflow.is_own_file:
                    claim_names(client, self._settings, self._experiment)
                describe_experiment(client, self._experiment)
            except MlflowException as error:
                raise TrackingUnavailable(
                    f"MLflow at {uri} refuses: {_first_line(error)}. Nothing was fitted."
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


def git_commit() -> str:
    """Commit of the code, with ``+`` where files differ from it; the package's version outside a
    checkout.
    """
    folder = Path(__file__).resolve().parent
    command = [
        "git",
        "-C",
        str(folder),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("medallion-forecasting")
        except PackageNotFoundError:
            return "unknown"


@functools.cache
def library_versions() -> str:
    """Versions of Python and of the libraries that a forecast's digits depend on, by the name under
    which each is installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    def installed(names: Sequence[str]) -> str:
        for name in names:
            with contextlib.suppress(PackageNotFoundError):
                return f"{name} {version(name)}"
        return f"{names[0]} unknown"

    return ", ".join([f"python {platform.python_version()}", *map(installed, NUMERIC_LIBRARIES)])


def origin_tags(instance: str) -> dict[str, str]:
    """Tags of a run that tell which process of which Dagster instance logs it: by them a run that
    was left behind is known.
    """
    return {PROCESS: identity()} | ({INSTANCE: instance} if instance else {})


@contextlib.contextmanager
def mlflow_tracking(
    settings: Settings, context: InitResourceContext, models: ModelFormat | None = None
) -> Iterator[MlflowTracking]:
    """Tracking for one Dagster run: its own MLflow run is dagster-mlflow's, begun when first needed
    and ended with its outcome.
    """
    opened: list[Any] = []
    instance = _instance_id(context)

    def parent() -> str | None:
        if not opened:
            from dagster_mlflow.resources import MlFlow

            configured = {
                "experiment_name": settings.mlflow.experiment,
                "mlflow_tracking_uri": settings.tracking_uri,
                "extra_tags": {"medallion.kind": "dagster_run", **origin_tags(instance)},
            }
            opened.append(MlFlow(context.replace_config(configured)))
        return (
            str(opened[0].active_run().info.run_id)
            if opened[0].active_run()
            else str(opened[0].mlflow_run_id)
        )

    try:
        run_id = context.run.run_id if context.run else ""
        yield MlflowTracking(
            settings, run_id, parent, lambda: _end_abandoned(settings, context), instance, models
        )
    finally:
        if opened:
            import mlflow
            from mlflow.exceptions import MlflowException

            try:
                mlflow.end_run("FAILED" if _has_failed_step(context) else "FINISHED")
            except MlflowException as error:
                # The next run ends it.
                told = "MLflow's run of this Dagster run could not be ended: %s"
                context.log.warning(told, _first_line(error)[:200])  # type: ignore[union-attr]


def _end_abandoned(settings: Settings, context: InitResourceContext) -> None:
    """End the MLflow runs of Dagster runs that are over and of processes that are gone, which never
    came to end their own.

    Others log to the same experiment: another machine, another Dagster instance. A run that may be
    theirs stays, and the log says so.
    """
    import mlflow

    client = mlflow.MlflowClient(settings.tracking_uri, settings.registry_uri)
    experiment = ensure_experiment(client, settings)
    left = []
    for run in client.search_runs(
        [experiment], "attributes.status = 'RUNNING' and tags.`medallion.kind` = 'dagster_run'"
    ):
        process = run.data.tags.get(PROCESS, "")
        dagster_run = (
            context.instance.get_run_by_id(run.data.tags.get("dagster_run_id", ""))
            if context.instance
            else None
        )
        if is_gone(process) or (dagster_run is not None and dagster_run.is_finished):
            client.set_terminated(run.info.run_id, "KILLED")
        elif dagster_run is None and not is_here(process):
            left.append(f"{run.info.run_id} ({process or 'no process known'})")
    if left and context.log:
        context.log.info(
            "Left RUNNING in MLflow, as it can't be known from here whether their processes live:"
            " %s. End those that are over in MLflow's interface.",
            ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else ""),
        )


def _instance_id(context: InitResourceContext) -> str:
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

    storage = context.instance.run_storage if context.instance else None
    return storage.get_run_storage_id() if isinstance(storage, SqlRunStorage) else ""


def _has_failed_step(context: InitResourceContext) -> bool:
    from dagster import DagsterEventType

    if context.instance is None or context.run is None:
        return False
    return bool(
        context.instance.get_records_for_run(
            context.run.run_id, of_type=DagsterEventType.STEP_FAILURE
        ).records
    )


def _server(uri: str) -> str | None:
    """Address of the server behind a URI of MLflow, without a slash at its end; None for a store
    without one, such as a file.
    """
    if _is_databricks(uri):
        from mlflow.utils.databricks_utils import get_databricks_host_creds

        return str(get_databricks_host_creds(uri).host).rstrip("/")
    address = uri.removeprefix("uc:")
    return address.rstrip("/") if urlparse(address).scheme in {"http", "https"} else None


def _is_databricks(uri: str) -> bool:
    return uri.split(":", 1)[0] in {"databricks", "databricks-uc"}


def _first_line(error: Exception) -> str:
    return without_credentials((str(error).splitlines() or [type(error).__name__])[0])


def _files(content: RunContent) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Path of each artifact, and how it is written to a file."""
    for path, png in content.pictures.items():
        yield path, lambda file, png=png: file.write_bytes(png)  # type: ignore[misc]
    for path, text in content.texts.items():
        yield path, lambda file, text=text: file.write_text(text, encoding="utf-8")  # type: ignore[misc]
    for path, table in content.tables.items():
        # Spark Connect leaves the metrics of its query on the frame, which a Parquet file can't
        # hold.
        bare = table.copy(deep=False)
        bare.attrs = {}
        yield (
            path,
            functools.partial(
                bare.to_csv if path.endswith(".csv") else bare.to_parquet, index=False
            ),
        )


def _metrics(content: RunContent, model_id: str | None) -> list[Any]:
    """The metrics that have a value, as those of the run, and of its model on the first input."""
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    of_model = {"model_id": model_id} if model_id else {}
    if model_id and content.inputs:
        measured_on = content.inputs[0]
        of_model |= {"dataset_name": measured_on.name, "dataset_digest": measured_on.digest}
    return [
        Metric(key, float(value), now, 0, **of_model)
        for key, value in content.metrics.items()
        if value is not None and value == value
    ]


def _model_of(run: Any) -> str | None:
    """Id of the model that a run of MLflow logged; None without one."""
    outputs = run.outputs.model_outputs if run.outputs else ()
    return str(outputs[-1].model_id) if outputs else None


def _address_of_model(run: Any) -> str:
    """The address of a run's model, by its id: to find it by the run, MLflow would read the list of
    all models. A former release kept it among the run's artifacts.
    """
    model_id = _model_of(run)
    return f"models:/{model_id}" if model_id else f"{run.info.artifact_uri}/model"


def _dataset(table: InputTable) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {
        "path": table.path,
        "delta_table_name": table.name,
        "delta_table_version": table.delta_version,
    }
    entity = Dataset(
        name=table.name, digest=table.digest, source_type="delta_table", source=json.dumps(source)
    )
    return DatasetInput(
        entity,
        [
            InputTag("mlflow.data.context", "training"),
            InputTag("delta_version", str(table.delta_version)),
        ],
    )


def _save_model(stored: StoredModel, folder: Path, run_id: str, model_id: str) -> None:
    """A model in MLflow's layout, as ``model`` below the folder."""
    import mlflow
    from mlflow.models import Model, ModelSignature

    written = {
        "model.py": stored.model_file,
        **{f"code/{path}": content for path, content in stored.code.items()},
        **{f"fits/{path}": content for path, content in stored.fits.items()},
    }
    for path, content in written.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    packages = sorted({path.split("/")[0] for path in stored.code})
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
        python_model=str(folder / "model.py"),
        artifacts={"fits": str(folder / "fits")},
        code_paths=[str(folder / "code" / name) for name in packages],
        model_config={"fits_sha256": stored.digest},
        signature=ModelSignature(_schema(stored.inputs), _schema(stored.outputs)),
        input_example=stored.example,
        pip_requirements=list(stored.requirements),
    )


def _schema(columns: Sequence[ModelColumn]) -> Any:
    from mlflow.types import Schema

    return Schema([_column(column) for column in columns])


def _column(column: ModelColumn) -> Any:
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import Array

    kind = DataType[column.type]
    return ColSpec(Array(kind) if column.is_list else kind, column.name, column.is_required)
