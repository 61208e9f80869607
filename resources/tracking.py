"""MLflow's runs: what a fit, a training or a report logs, and how a run ends.

All calls go through a client with explicit run ids. What is logged is decided by the assets; how
lies here. Versions and the alias lie in registry.py.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cachetools import LRUCache

from resources.errors import Refused
from resources.mlflow_connection import (
    Connection,
    TrackingUnavailable,
    first_line,
    is_databricks,
    server_of,
    told_when_gone,
)
from resources.processes import identity, is_gone
from resources.provenance import PROCESS, git_commit, library_versions, origin_tags
from resources.registry import MlflowRegistry, Registry
from resources.settings import Settings
from resources.stored_models import (
    FITS_SHA256,
    ModelFormat,
    address_of_model,
    as_format,
    model_of,
    read_model,
    save_model,
)

if TYPE_CHECKING:
    import pandas as pd

COMMITTED = "medallion.committed"
KEPT_MODELS = 16  # two boosters at seven origins, and two more


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
    """Where runs are kept, and the registry of model versions. Implementations: MlflowTracking, and
    a fake in tests.
    """

    registry: Registry

    def check(self) -> None: ...

    def start(self, name: str, tags: Mapping[str, str]) -> str: ...

    def log(self, run_id: str, content: RunContent) -> None: ...

    def commit(self, run_id: str, tags: Mapping[str, str] | None = None) -> None: ...

    def fail(self, run_id: str) -> None: ...

    def end_killed(self, tags: Mapping[str, str]) -> list[str]: ...

    def load(self, run_id: str) -> Any: ...

    def run(self, run_id: str) -> StoredRun: ...

    def url(self, run_id: str) -> str: ...


class MlflowTracking:
    """MLflow tracking and registry by the configured addresses.

    ``parent`` gives the id of the run that stands for the Dagster run; it is asked for when the
    first run is started. ``connected`` is called once, when the server has answered. ``instance``
    is the id of the Dagster instance that started the run. ``models`` stores and reads models;
    tracking without it serves whoever only looks at runs.
    """

    def __init__(  # noqa: PLR0913 - what a Dagster run brings; who only looks gives none of it
        self,
        settings: Settings,
        dagster_run_id: str,
        parent: Callable[[], str | None],
        *,
        connected: Callable[[], None] = lambda: None,
        instance: str = "",
        models: ModelFormat | None = None,
    ) -> None:
        self.connection = Connection(settings, connected)
        self.registry: Registry = MlflowRegistry(self.connection, models)
        self._dagster_run_id = dagster_run_id
        self._origin = origin_tags(instance)
        self._parent = parent
        self._models = models
        self._knows_alias = False
        self._loaded: LRUCache[str, Any] = LRUCache(KEPT_MODELS)
        self._logged_models: dict[str, str | None] = {}  # by run; None where it has none

    def check(self) -> None:
        """Make sure that tracking and registry answer and that the registry keeps aliases. Raises
        TrackingUnavailable.
        """
        if away := self.connection.unreachable():
            what, uri, error = away
            raise TrackingUnavailable(
                f"MLflow's {what} server at {uri} does not answer ({error}); start it or set"
                f" mlflow.{what}_uri. Nothing was fitted and no table was changed."
            )
        self.connection.client()
        if not self._knows_alias:
            from mlflow.exceptions import MlflowException

            try:
                self.registry.alias()
            except MlflowException as error:
                raise TrackingUnavailable(
                    f"MLflow's registry at {self.connection.settings.registry_uri} refuses:"
                    f" {first_line(error)}. Nothing was fitted and no table was changed."
                ) from error
            self._knows_alias = True

    @told_when_gone
    def start(self, name: str, tags: Mapping[str, str]) -> str:
        """Start a run nested under the Dagster run's own; returns its id."""
        client = self.connection.client()
        nested = {"mlflow.parentRunId": parent} if (parent := self._parent()) else {}
        fixed = {
            "mlflow.runName": name,
            "dagster_run_id": self._dagster_run_id,
            "git_commit": git_commit(),
            "libraries": library_versions(),
            **self._origin,
            **nested,
        }
        run_id = str(
            client.create_run(self.connection.experiment, tags={**fixed, **tags}).info.run_id
        )
        self._logged_models[run_id] = None
        return run_id

    @told_when_gone
    def log(self, run_id: str, content: RunContent) -> None:
        """Log everything that the content holds; metrics without a value are left out."""
        from mlflow.entities import Param, RunTag

        client = self.connection.client()
        stored = None if content.model is None else as_format(self._models).stored(content.model)
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
                save_model(stored, Path(folder), run_id, model_id)
                client.log_model_artifacts(model_id, f"{folder}/model")
                client.finalize_logged_model(model_id, "READY")

    def _begin_model(self, run_id: str, content: RunContent, digest: str) -> str:
        """Make the logged model of a run, whose files follow; its id."""
        from mlflow.entities import LoggedModelOutput

        client = self.connection.client()
        made = client.create_logged_model(
            self.connection.experiment,
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
        client = self.connection.client()
        if model_id and str(client.get_logged_model(model_id).status) == "PENDING":
            client.finalize_logged_model(model_id, "FAILED")

    def _logged_model(self, run_id: str) -> str | None:
        """Id of the logged model of a run; None where it logged no model, or a former release kept
        that among the run's artifacts.
        """
        if run_id not in self._logged_models:
            self._logged_models[run_id] = model_of(self.connection.client().get_run(run_id))
        return self._logged_models[run_id]

    @told_when_gone
    def commit(self, run_id: str, tags: Mapping[str, str] | None = None) -> None:
        """Mark a run as one whose slice is stored, with what is known only then, and end it."""
        client = self.connection.client()
        for name, value in (tags or {}).items():
            client.set_tag(run_id, name, value)
        client.set_tag(run_id, COMMITTED, "true")
        client.set_terminated(run_id, "FINISHED")

    def fail(self, run_id: str) -> None:
        """End a run that did not come to its slice; the next run does where the server has gone
        away.
        """
        if not self.connection.unreachable():
            self.connection.client().set_terminated(run_id, "FAILED")
            self._end_model(self._logged_models.get(run_id))

    @told_when_gone
    def end_killed(self, tags: Mapping[str, str]) -> list[str]:
        """End runs with these tags that still count as running although their process is gone;
        returns their ids.

        A run of this process was left behind by an attempt that failed. One of another machine, or
        without a process, stays.
        """
        client = self.connection.client()
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = client.search_runs(
            [self.connection.experiment], f"attributes.status = 'RUNNING' and {wanted}"
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
            self._end_model(model_of(run))
        return [run.info.run_id for run in killed]

    @told_when_gone
    def load(self, run_id: str) -> Any:
        """The model that a run logged, read only: KEPT_MODELS are remembered, since all
        combinations ask for the same. Raises ModelRefused.
        """
        if run_id not in self._loaded:
            run = self.connection.client().get_run(run_id)
            tags = run.data.tags
            self._loaded[run_id] = read_model(
                self._models,
                address_of_model(run),
                f"the model of the run {run_id} ({tags.get('mlflow.runName', '')})",
                tags.get(FITS_SHA256),
                "have its month fitted again: `medallion plan backfill gold.zoo_forecast`",
            )
        return self._loaded[run_id]

    def run(self, run_id: str) -> StoredRun:
        """What a run logged. Raises Refused where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.connection.client().get_run(run_id)
        except MlflowException as error:
            raise Refused(
                f"MLflow at {self.connection.settings.tracking_uri} has no run '{run_id}'"
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
        uri, server = self.connection.settings.tracking_uri, None
        with contextlib.suppress(Exception):  # a link is no reason to fail
            server = server_of(uri)
        server = re.sub(r"://[^/]*@", "://", server or "http://127.0.0.1:5000")
        pages = "ml" if is_databricks(uri) else "#"
        return f"{server}/{pages}/experiments/{self.connection.experiment}/runs/{run_id}"


def _files(content: RunContent) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Path of each artifact, and how it is written to a file."""
    for path, png in content.pictures.items():
        yield path, functools.partial(_write_bytes, png)
    for path, text in content.texts.items():
        yield path, functools.partial(_write_bytes, text.encode())
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


def _write_bytes(content: bytes, file: Path) -> None:
    file.write_bytes(content)


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
