"""A step for an orchestrator elsewhere: named assets or a job, for a range of months, by the same
bodies, checks and resources as in Dagster.

Where Dagster Pipes started this process, what was made is reported to it. How a run is started and
shown lies in runs.py.
"""

from __future__ import annotations

import difflib
import functools
import logging
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pipes import (
    PipesCliArgsParamsLoader,
    PipesContext,
    PipesEnvVarParamsLoader,
    PipesMessageWriter,
    PipesParamsLoader,
    PipesUnityCatalogVolumesMessageWriter,
    open_dagster_pipes,
)
from rich.console import Console

from medallion_assets import definitions
from medallion_assets.checks import is_on_one_of_several
from medallion_assets.operations import runs
from medallion_assets.plans import TRIGGER_TAG
from medallion_assets.policies import step_message
from resources.errors import Refused
from resources.settings import Settings

# How Databricks calls what started a job's run, and how runs are tagged here; a person's run of
# several months needs a plan to supersede what was published.
TRIGGERS = {
    "command_line": "command_line",
    "one_time": "person",
    "periodic": "schedule",
    "file_arrival": "landing",
    "table": "landing",
    "run_job_task": "job",
    "continuous": "job",
    "retry": "job",
}
WORDS = {
    "first": "the oldest month that has lines",
    "newest": "the newest month that has lines",
    "complete": "the newest complete month",
    "running": "the present month, in which deliveries are registered",
}
CHECKS = "checks"  # key of Pipes' extras: asset keys and names of the checks that it wants


def run(
    settings: Settings, wanted: Sequence[str], span: tuple[str, str], trigger: str, console: Console
) -> bool:
    """Make the assets of ``wanted`` (jobs, tables or keys of assets) for the months of ``span``,
    each yyyymm or one of WORDS; whether a month was written.

    ``trigger`` is a key of TRIGGERS. Raises Refused for names and months that are not there, and
    RunFailed, both before and after telling Pipes where it started this process.
    """
    with _opened_pipes() as pipes:
        reports = PipesReports(pipes) if pipes else None
        # The Dagster that started this process keeps the records.
        with runs.session(settings, console, keeps_records=reports is None) as session:
            if reports:
                session.listener = reports.event
            job, assets = select(session.defs, wanted)
            months = [month_named(session, word) for word in span]
            if months[0] > months[1]:
                raise Refused(f"--from {months[0]} lies after --to {months[1]}; swap them")
            tags = {TRIGGER_TAG: TRIGGERS[trigger]}
            if job:
                return session.execute(job, months, tags)
            return session.materialize(assets, months, tags)


def select(defs: dg.Definitions, wanted: Sequence[str]) -> tuple[str, list[dg.AssetKey]]:
    """The job that one name means, or the keys of the assets that several mean, in any order.

    A table is named ``layer.table`` or by the key of its asset, ``layer/table``; a model's slices
    by ``gold/zoo_forecast/<model>``; all models' by ``gold.zoo_forecast``. Raises Refused.
    """
    jobs, keys = asset_jobs(defs), defs.resolve_asset_graph().materializable_asset_keys
    if len(wanted) == 1 and wanted[0] in jobs:
        return wanted[0], []
    found: set[dg.AssetKey] = set()
    for name in wanted:
        path = name.replace(".", "/").split("/")
        meant = (
            jobs[name]
            if name in jobs
            else {key for key in keys if list(key.path[: len(path)]) == path and len(path) > 1}
        )
        if not meant:
            known = [*jobs, *sorted(key.to_user_string() for key in keys)]
            close = difflib.get_close_matches("/".join(path), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise Refused(f"'{name}' is no job and no asset; {hint}")
        found |= meant
    return "", sorted(found)


def asset_jobs(defs: dg.Definitions) -> dict[str, set[dg.AssetKey]]:
    """Keys of the assets that each job makes, by the job's name."""
    return {
        job.name: set(made)
        for job in defs.resolve_all_job_defs()
        if not job.name.startswith("__") and (made := job.asset_layer.executable_asset_keys)
    }


def month_named(session: runs.Session, word: str) -> int:
    """The month that yyyymm or one of WORDS means. Raises Refused where it is none, or there is no
    such month yet.
    """
    check_month(session.settings, word)
    if word == "running":
        return int(definitions.newest_partition(session.settings))
    if word not in WORDS:
        return int(word)
    touched, complete = session.months()
    found = complete if word == "complete" else touched
    if not found:
        raise Refused(
            f"there is no month yet that '{word}' ({WORDS[word]}) could mean: `medallion step"
            " register_deliveries --from running --to running` takes in what landed"
        )
    return found[0] if word == "first" else found[-1]


def check_month(settings: Settings, word: str) -> None:
    """Raises Refused where a word is no month of the configuration, and none of WORDS."""
    if word in WORDS:
        return
    if not word.isdecimal() or len(word) != 6 or not 1 <= int(word[4:]) <= 12:
        raise Refused(f"'{word}' is no month: write yyyymm, or {', '.join(WORDS)}")
    first, last = settings.first_month, int(definitions.newest_partition(settings))
    if not first <= int(word) <= last:
        raise Refused(f"{word} is none of the months of this configuration, {first} to {last}")


@dataclass
class PipesReports:
    """Reports each asset to Dagster Pipes once, when its step has succeeded, each check that was
    asked for, and what is logged.

    Assets that Dagster did not ask for are logged. Checks need ``extras={"checks": [...]}`` on its
    side, ``layer/table:check`` each: one that Dagster does not expect would fail its step.
    """

    pipes: PipesContext
    _made: dict[str, list[dg.AssetMaterialization]] = field(default_factory=dict)

    def event(self, entry: dg.EventLogEntry) -> None:
        """Called for every event of the run, in its process."""
        event = entry.dagster_event
        if event is None:
            if int(entry.level) >= logging.INFO and entry.step_key:
                self.pipes.log.log(int(entry.level), entry.user_message)
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            self._made.setdefault(str(event.step_key), []).append(event.materialization)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            # Pipes takes one verdict of a check.
            if not is_on_one_of_several(found := event.asset_check_evaluation_data):
                self._check(found)
        elif event.is_step_success:
            self._materialized(self._made.pop(str(event.step_key), []))
        elif event.is_step_failure:
            self.pipes.log.error(f"{event.step_key}: {step_message(event)}")

    def _materialized(self, made: Sequence[dg.AssetMaterialization]) -> None:
        """One report for each asset: Pipes takes no second one, and gives it to all months."""
        by_asset: dict[str, list[dg.AssetMaterialization]] = {}
        for materialization in made:
            by_asset.setdefault(_key(materialization.asset_key), []).append(materialization)
        for key, months in by_asset.items():
            data_version = (months[-1].tags or {}).get("dagster/data_version")
            if self.pipes.is_asset_step and key in self.pipes.asset_keys:
                self.pipes.report_asset_materialization(
                    metadata=_metadata(months), data_version=data_version, asset_key=key
                )
            else:
                self.pipes.log.info(f"{key} was made for {len(months)} month(s)")

    def _check(self, found: dg.AssetCheckEvaluation) -> None:
        key, name = _key(found.asset_key), found.check_name
        if f"{key}:{name}" in self.pipes.extras.get(CHECKS, ()):
            self.pipes.report_asset_check(
                check_name=name,
                passed=found.passed,
                severity=found.severity.value,
                metadata={"description": found.description or ""},
                asset_key=key,
            )
        elif not found.passed:
            self.pipes.log.warning(f"check {key} {name} failed: {found.description or ''}")


def _metadata(months: Sequence[dg.AssetMaterialization]) -> Mapping[str, Any]:
    """The metadata of one month, or of several: what they share, and the rows of each."""
    plain = [_plain(month.metadata) for month in months]
    if len(plain) == 1:
        return plain[0]
    rows = {
        str(month.partition): said["dagster/partition_row_count"]
        for month, said in zip(months, plain, strict=True)
        if "dagster/partition_row_count" in said
    }
    said_by_all = functools.reduce(operator.and_, (said.items() for said in plain))
    shared = {name: value for name, value in plain[0].items() if (name, value) in said_by_all}
    return {
        **shared,
        "months": len(months),
        "rows_by_month": {"raw_value": rows, "type": "json"},
    }


def _plain(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, str | int | float | bool]:
    """The entries that are one value."""
    return {
        name: entry.value
        for name, entry in metadata.items()
        if isinstance(entry.value, str | int | float | bool)
    }


def _key(key: dg.AssetKey) -> str:
    return key.to_escaped_user_string()


@contextmanager
def _opened_pipes() -> Iterator[PipesContext | None]:
    """Dagster Pipes where it started this process, by environment variables or by arguments, as on
    Databricks' serverless compute; otherwise None.
    """
    loader: PipesParamsLoader = PipesCliArgsParamsLoader()
    if not loader.is_dagster_pipes_process():
        loader = PipesEnvVarParamsLoader()
    if not loader.is_dagster_pipes_process():
        yield None
        return
    # Clients that can't follow a file, as one in a Volume, collect pieces from a folder.
    folder = Path(str(loader.load_messages_params().get("path") or os.devnull))
    writer: PipesMessageWriter[Any] | None = (
        PipesUnityCatalogVolumesMessageWriter() if folder.is_dir() else None
    )
    with open_dagster_pipes(message_writer=writer, params_loader=loader) as pipes:
        yield pipes
