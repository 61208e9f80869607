"""MLflow in memory: runs, and the registry of their models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resources.mlflow_connection import TrackingUnavailable
from resources.tracking import COMMITTED, RunContent, StoredRun
from tests.fakes import Journal


@dataclass
class FakeRun:
    """One run: what was logged, and how it ended."""

    name: str
    tags: dict[str, str]
    status: str = "RUNNING"
    parameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)
    model: Any = None


class FakeRegistry:
    """Model versions of a FakeTracking's runs, and the alias."""

    def __init__(self, tracking: FakeTracking):
        self.versions: dict[int, FakeRun] = {}
        self.tags: dict[int, dict[str, str]] = {}  # by version
        self._tracking = tracking
        self._alias: int | None = None

    def register(self, run_id: str, tags: Mapping[str, str], description: str = "") -> int:
        run = self._tracking.run_of(run_id)
        _model_of(run)
        version = len(self.versions) + 1
        self._tracking.journal.note(f"register {version}")
        self.versions[version] = run
        self.tags[version] = dict(tags)
        return version

    def version_tags(self, version: int) -> Mapping[str, str]:
        self._tracking.check()
        return dict(self.tags[version])

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        self._tracking.check()
        self.tags[version] |= tags

    def load_version(self, version: int) -> Any:
        self._tracking.check()
        return _model_of(self.versions[version])

    def alias(self) -> int | None:
        self._tracking.check()
        return self._alias

    def set_alias(self, version: int) -> None:
        self._tracking.check()
        if version not in self.versions:
            raise KeyError(f"no version {version}")
        if self._alias != version:
            self._tracking.journal.note(f"alias {version}")
            self._alias = version


class FakeTracking:
    """Runs in memory, and their registry. ``unreachable`` makes every call fail as a
    server that is not there does.
    """

    def __init__(self, journal: Journal | None = None, unreachable: bool = False):
        self.journal = Journal() if journal is None else journal
        self.unreachable = unreachable
        self.runs: dict[str, FakeRun] = {}
        self.registry = FakeRegistry(self)

    def check(self) -> None:
        if self.unreachable:
            raise TrackingUnavailable(
                "MLflow's tracking server does not answer. Nothing was fitted and no table was"
                " changed."
            )

    def start(self, name: str, tags: Mapping[str, str]) -> str:
        self.check()
        run_id = f"run-{len(self.runs) + 1}"
        self.journal.note(f"start {name}")
        self.runs[run_id] = FakeRun(name, dict(tags))
        return run_id

    def log(self, run_id: str, content: RunContent) -> None:
        run = self.run_of(run_id)
        if changed := [
            key
            for key in content.parameters
            if run.parameters.get(key, content.parameters[key]) != content.parameters[key]
        ]:
            raise ValueError(f"parameters {', '.join(changed)} were logged with other values")
        run.parameters |= content.parameters
        run.metrics |= {
            key: float(value)
            for key, value in content.metrics.items()
            if value is not None and value == value
        }
        run.tags |= content.tags
        run.inputs += content.inputs
        run.artifacts |= {**content.pictures, **content.tables, **content.texts}
        run.model = copy.deepcopy(content.model) if content.model is not None else run.model

    def commit(self, run_id: str, tags: Mapping[str, str] | None = None) -> None:
        run = self.run_of(run_id)
        self.journal.note(f"commit {run.name}")
        run.tags |= {**(tags or {}), COMMITTED: "true"}
        run.status = "FINISHED"

    def fail(self, run_id: str) -> None:
        self.run_of(run_id).status = "FAILED"

    def run(self, run_id: str) -> StoredRun:
        run = self.run_of(run_id)
        parameters = {k: str(v) for k, v in run.parameters.items()}
        versions, digests = (
            {t.name: t.delta_version for t in run.inputs},
            {t.name: t.digest for t in run.inputs},
        )
        return StoredRun(run_id, parameters, run.tags, versions, digests)

    def end_killed(self, tags: Mapping[str, str]) -> list[str]:
        self.check()
        killed = [
            run_id
            for run_id, run in self.runs.items()
            if run.status == "RUNNING" and tags.items() <= run.tags.items()
        ]
        for run_id in killed:
            self.runs[run_id].status = "KILLED"
        return killed

    def load(self, run_id: str) -> Any:
        return _model_of(self.run_of(run_id))

    def url(self, run_id: str) -> str:
        self.check()
        return f"http://mlflow.invalid/runs/{run_id}"

    def run_of(self, run_id: str) -> FakeRun:
        """A run as it was logged."""
        self.check()
        return self.runs[run_id]


def _model_of(run: FakeRun) -> Any:
    if run.model is None:
        raise ValueError(f"run {run.name} logged no model")
    return copy.deepcopy(run.model)
