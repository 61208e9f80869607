"""The sensors: what starts a run without a person, for which months, and on what evidence.

They look at folders and read small Delta tables through delta-rs; none starts Spark. Verdicts are
made in retraining.py and freshness.py, or read from gold.retraining_decision.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd
from dagster_deltalake import DeltaTableResource
from deltalake.exceptions import TableNotFoundError

from medallion_assets.champion.decisions import trained_months
from medallion_assets.complete import complete_months_of
from medallion_assets.deliveries import record_numbers, touched_months
from medallion_assets.partitions import NO_MONTH, add_months, in_ranges, month_partitions, stretches
from medallion_assets.plans import TRIGGER_TAG
from medallion_assets.policies import step_message
from medallion_assets.tables import DEMAND_FEATURES
from medallion_assets.watch.freshness import table_months
from medallion_assets.watch.retraining import last_decision, training_lag
from resources.orders import absent_beside, file_name, order_paths, root_of

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

    from resources.settings import Settings, Source

    Job = dg.JobDefinition | UnresolvedAssetJobDefinition

EVIDENCE_TAG = "medallion/evidence"
DECISION_TAG = "medallion/decision"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"

SETTLE_SECONDS = 5.0  # a file that was written to more recently than this may still be growing
COMPARED_BYTES = 200_000_000  # of files read in one tick to see whether they were registered before
NAMED_FILES = 3
DELIVERY_COLUMNS = (
    "sequence",
    "delivery_id",
    "source",
    "file_name",
    "months",
    "record_number",
)
UNFINISHED = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
)


def build_sensors(
    settings: Settings, register_deliveries: Job, monthly_forecast: Job, retraining: Job
) -> list[dg.SensorDefinition]:
    """The landing, deliveries, freshness and drift sensors of a configuration, each with the job
    that it requests, and one for failures.

    All jobs are partitioned by month (``partitions.month_partitions`` of the first month). The
    sensors need the resource keys ``deliveries_table``, ``champion_table``, ``decision_table`` and
    ``ledger_table``: a DeltaTableResource each, of bronze.deliveries, gold.champion,
    gold.retraining_decision and gold.slice_ledger. A table that does not exist yet is a skip with
    its reason.
    """
    return [
        _landing_sensor(settings, register_deliveries),
        _deliveries_sensor(settings, monthly_forecast),
        _freshness_sensor(settings, retraining),
        _drift_sensor(settings, retraining),
        _failure_sensor(settings, [register_deliveries, monthly_forecast, retraining]),
    ]


def _sensor_options(settings: Settings) -> dict[str, Any]:
    is_running = settings.monitoring.sensors_start_running
    return {
        "default_status": (
            dg.DefaultSensorStatus.RUNNING if is_running else dg.DefaultSensorStatus.STOPPED
        ),
        "minimum_interval_seconds": settings.monitoring.sensor_interval_seconds,
    }


def _landing_sensor(settings: Settings, job: Job) -> dg.SensorDefinition:
    @dg.sensor(
        name="landing_sensor",
        job=job,
        description=(
            "New or changed files in the folders of the sources are registered as deliveries; the"
            " same content again is not."
        ),
        **_sensor_options(settings),
    )
    def landing_sensor(
        context: dg.SensorEvaluationContext, deliveries_table: DeltaTableResource
    ) -> dg.SensorResult:
        before = _LandingCursor.parse(context.cursor)
        registered = _Registered(_rows(deliveries_table, ("source", "byte_count", "content_hash")))
        known, new, growing, unreachable = dict(before.known), [], [], []
        for source in settings.sources:
            if source.files is None:
                continue
            if reason := _unreachable(source.files):
                unreachable.append(f"source {source.name}: {reason}")
                continue
            files = _landed_files(source)
            unknown = [
                file for file in files if file.fingerprint not in before.known.get(source.name, ())
            ]
            settled = [
                file
                for file in unknown
                if file.fingerprint in before.growing
                or time.time() - file.modified_at
                >= max(SETTLE_SECONDS, source.delivery.settle_seconds)
            ]
            new += [file for file in settled if not registered.holds(source, file)]
            growing += [file for file in unknown if file not in settled]
            known[source.name] = tuple(file.fingerprint for file in files if file not in growing)
        cursor = _LandingCursor(known, tuple(file.fingerprint for file in growing)).text()
        partition = month_partitions(settings.first_month).get_last_partition_key()
        if not new or partition is None:
            parts = [f"{sum(map(len, known.values()))} files are known and none is new"]
            parts += [f"{_names(growing)} may still be growing"] if growing else []
            return dg.SensorResult(
                skip_reason=dg.SkipReason("; ".join([*unreachable, *parts])), cursor=cursor
            )
        request = dg.RunRequest(
            run_key=f"landing-{_digest(sorted(file.fingerprint for file in new))}",
            partition_key=partition,
            tags={
                TRIGGER_TAG: "landing",
                EVIDENCE_TAG: f"{len(new)} new or changed: {_names(new)}",
            },
        )
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return landing_sensor


def _deliveries_sensor(settings: Settings, job: Job) -> dg.SensorDefinition:
    @dg.sensor(
        name="deliveries_sensor",
        job=job,
        description=(
            "Months that a registered delivery touched are computed through silver and gold and"
            " forecast, one run per stretch."
        ),
        **_sensor_options(settings),
    )
    def deliveries_sensor(
        context: dg.SensorEvaluationContext, deliveries_table: DeltaTableResource
    ) -> dg.SensorResult | dg.SkipReason:
        deliveries = _rows(deliveries_table, DELIVERY_COLUMNS)
        if deliveries is None or deliveries.empty:
            return _no_deliveries()
        numbers = record_numbers(deliveries)
        newest = deliveries.loc[numbers.idxmax()]
        sequence = int(numbers.max())
        cursor = context.cursor or ""
        handled = int(cursor) if cursor.isdigit() else 0
        if handled == sequence:
            return dg.SkipReason(f"no delivery since number {handled}")
        # A number below the cursor belongs to a lakehouse that was built anew: all its deliveries
        # are new.
        is_new = numbers > (handled if handled < sequence else 0)
        months = in_ranges(_touched_months(deliveries, is_new, settings), _partition_keys(settings))
        if not months:
            reason = (
                f"deliveries through number {sequence} touch no month from"
                f" {settings.first_month} on"
            )
            return dg.SensorResult(skip_reason=dg.SkipReason(reason), cursor=str(sequence))
        evidence = (
            f"{int(is_new.sum())} deliveries through number {sequence} ({newest['delivery_id']})"
        )
        requests = [
            dg.RunRequest(
                run_key=f"deliveries-{sequence}-{newest['delivery_id']}-{first}-{last}",
                tags={
                    RANGE_START_TAG: str(first),
                    RANGE_END_TAG: str(last),
                    TRIGGER_TAG: "deliveries",
                    EVIDENCE_TAG: evidence,
                },
            )
            for first, last in stretches(months)
        ]
        return dg.SensorResult(run_requests=requests, cursor=str(sequence))

    return deliveries_sensor


def _freshness_sensor(settings: Settings, job: Job) -> dg.SensorDefinition:
    @dg.sensor(
        name="freshness_sensor",
        job=job,
        description=(
            "The champion is trained again when its training lags the newest complete month too"
            " far, and when there is none yet."
        ),
        **_sensor_options(settings),
    )
    def freshness_sensor(
        context: dg.SensorEvaluationContext,
        deliveries_table: DeltaTableResource,
        champion_table: DeltaTableResource,
        ledger_table: DeltaTableResource,
    ) -> dg.SensorResult | dg.SkipReason:
        month = _newest_complete_month(deliveries_table, settings)
        if isinstance(month, dg.SkipReason):
            return month
        trained = _trained(champion_table)
        is_due, evidence = training_lag(month, trained, settings)
        if not is_due:
            return dg.SkipReason(evidence)
        # The newest month may be known to be complete while the monthly job still works on it, or
        # has failed.
        if waiting := table_months(_stored_features(ledger_table), [month], ()).due:
            return dg.SkipReason(
                f"{evidence}; {DEMAND_FEATURES.id} has no complete {waiting[0]} yet, the monthly"
                " job makes it"
            )
        cause = f"freshness-{month}-{min(trained.values()) if trained else 'none'}"
        asked = _Asked(month, cause, evidence, {TRIGGER_TAG: "freshness"})
        return _training_requested(context, job, settings, asked)

    return freshness_sensor


def _drift_sensor(settings: Settings, job: Job) -> dg.SensorDefinition:
    @dg.sensor(
        name="drift_sensor",
        job=job,
        description=(
            "The champion is trained again when the newest row of gold.retraining_decision says so"
            " because of drift."
        ),
        **_sensor_options(settings),
    )
    def drift_sensor(
        context: dg.SensorEvaluationContext,
        deliveries_table: DeltaTableResource,
        decision_table: DeltaTableResource,
    ) -> dg.SensorResult | dg.SkipReason:
        month = _newest_complete_month(deliveries_table, settings)
        if isinstance(month, dg.SkipReason):
            return month
        decisions = _rows(decision_table)
        row = (
            last_decision(decisions[decisions["yyyymm"] == month])
            if decisions is not None
            else None
        )
        if row is None:
            return dg.SkipReason(
                f"{month} is complete, but nothing is decided for it yet; the monthly job does that"
            )
        told = f"decision {row['decision_number']} on {month}: {row['decision']}: {row['reason']}"
        if row["decision"] != "retrain":
            return dg.SkipReason(told)
        if row["cause"] != "drift":
            return dg.SkipReason(f"{told}; the freshness sensor acts on that")
        tags = {TRIGGER_TAG: "drift", DECISION_TAG: str(row["decision_number"])}
        asked = _Asked(month, f"drift-{month}", str(row["reason"]), tags)
        return _training_requested(context, job, settings, asked)

    return drift_sensor


def _failure_sensor(settings: Settings, jobs: Sequence[Job]) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name="run_failure_sensor",
        description=(
            "Says in the log which run failed, for which months, why it was started, and what its"
            " first failed step said."
        ),
        monitored_jobs=list(jobs),
        **_sensor_options(settings),
    )
    def run_failure_sensor(context: dg.RunFailureSensorContext) -> None:
        run, failed = context.dagster_run, context.get_step_failure_events()
        first, last = (
            run.tags.get(tag) or run.tags.get(PARTITION_TAG, "?")
            for tag in (RANGE_START_TAG, RANGE_END_TAG)
        )
        months = first if first == last else f"{first} to {last}"
        started = (
            f"started by {run.tags.get(TRIGGER_TAG, 'a person')}:"
            f" {run.tags.get(EVIDENCE_TAG, 'no evidence given')}"
        )
        said = (
            f"{failed[0].step_key}: {step_message(failed[0])}"
            if failed
            else context.failure_event.message or "no message"
        )
        context.log.error(f"{run.job_name} of {months} failed, run {run.run_id}, {started}. {said}")

    return run_failure_sensor


@dataclass(frozen=True)
class _LandedFile:
    """A file of a source; ``fingerprint`` stands for its name, size and modification time."""

    path: Path
    name: str
    fingerprint: str
    byte_count: int
    modified_at: float


class _Registered:
    """What bronze.deliveries knows by content, to tell a file that was delivered before under any
    name or date.

    Read are files as large as a registered one of their source, up to COMPARED_BYTES in a tick; a
    run looks at the others.
    """

    def __init__(self, deliveries: pd.DataFrame | None) -> None:
        rows = (
            []
            if deliveries is None
            else deliveries[["source", "byte_count", "content_hash"]].itertuples(
                index=False, name=None
            )
        )
        self._hashes: dict[tuple[str, int], set[str]] = {}
        for source, byte_count, content_hash in rows:
            self._hashes.setdefault((source, int(byte_count)), set()).add(content_hash)
        self._bytes_left = COMPARED_BYTES

    def holds(self, source: Source, file: _LandedFile) -> bool:
        """Whether a delivery of the source has the file's very content; False where that was not
        looked at.
        """
        hashes = self._hashes.get((source.name, file.byte_count))
        if not hashes or file.byte_count > self._bytes_left:
            return False
        self._bytes_left -= file.byte_count
        try:
            with file.path.open("rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest() in hashes
        except OSError:
            return False


@dataclass(frozen=True)
class _LandingCursor:
    """What the last tick saw: fingerprints by source of files dealt with, and of those that may
    still have been growing.
    """

    known: Mapping[str, Sequence[str]]
    growing: Sequence[str] = ()

    @classmethod
    def parse(cls, text: str | None) -> _LandingCursor:
        """Of a cursor that a person cleared or mistyped: nothing is known, which costs a run that
        finds nothing new.
        """
        try:
            content = json.loads(text or "{}")
            return cls(
                {str(name): tuple(prints) for name, prints in content["known"].items()},
                tuple(content["growing"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls({})

    def text(self) -> str:
        return json.dumps(
            {"known": self.known, "growing": self.growing}, separators=(",", ":"), sort_keys=True
        )


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _unreachable(pattern: str) -> str | None:
    """Why the files of a pattern can't be listed; None where they can."""
    folder = root_of(pattern)
    return None if folder.is_dir() else f"the folder {folder} does not exist"


def _landed_files(source: Source) -> list[_LandedFile]:
    files = []
    for path in map(Path, order_paths(source)):
        try:
            status = path.stat()
        except FileNotFoundError:  # moved away since it was listed
            continue
        if absent_beside(source, str(path)) is None:
            name = file_name(source, str(path))
            fingerprint = _digest([source.name, name, str(status.st_size), str(status.st_mtime_ns)])
            files.append(_LandedFile(path, name, fingerprint, status.st_size, status.st_mtime))
    return files


def _names(files: Sequence[_LandedFile]) -> str:
    named = ", ".join(file.name for file in files[:NAMED_FILES])
    return named if len(files) <= NAMED_FILES else f"{named} and {len(files) - NAMED_FILES} more"


def _rows(
    table: DeltaTableResource,
    columns: Sequence[str] | None = None,
    filters: list[tuple[str, str, Any]] | None = None,
) -> pd.DataFrame | None:
    """Columns of a small table, or all; None while it does not exist. One that a table of an older
    release lacks is left out.
    """
    try:
        loaded = table.load()
        known = {field.name for field in loaded.schema().fields}
        wanted = [name for name in columns if name in known] if columns else None
        return loaded.to_pandas(columns=wanted, filters=filters)
    except TableNotFoundError:
        return None


def _no_deliveries() -> dg.SkipReason:
    return dg.SkipReason(
        "bronze.deliveries does not exist yet or is empty; the landing sensor or `medallion run`"
        " registers the first delivery"
    )


def _partition_keys(settings: Settings) -> list[str]:
    return list(month_partitions(settings.first_month).get_partition_keys())


def _touched_months(
    deliveries: pd.DataFrame, is_new: pd.Series[bool], settings: Settings
) -> set[int]:
    """Months of which new records of deliveries say something new, the month before each stretch of
    them, and months whose completeness changed.

    The last matter around months without lines: they, and the month before them, may become
    complete long after their own delivery.
    """
    named = touched_months(deliveries, is_new) - {NO_MONTH}
    month_before = {add_months(first, -1) for first, _ in stretches(named)}
    changed = set(complete_months_of(deliveries, settings)) ^ set(
        complete_months_of(deliveries[~is_new], settings)
    )
    return named | month_before | changed


def _newest_complete_month(
    deliveries_table: DeltaTableResource, settings: Settings
) -> int | dg.SkipReason:
    deliveries = _rows(deliveries_table, DELIVERY_COLUMNS)
    if deliveries is None or deliveries.empty:
        return _no_deliveries()
    complete = in_ranges(complete_months_of(deliveries, settings), _partition_keys(settings))
    return complete[-1] if complete else dg.SkipReason("no month is complete yet")


def _trained(champion_table: DeltaTableResource) -> dict[str, int]:
    decisions = _rows(champion_table)
    return {} if decisions is None else trained_months(decisions)


def _stored_features(ledger_table: DeltaTableResource) -> dict[int, bool]:
    """Months of silver.demand_features by the ledger, with whether each was complete when it was
    made.
    """
    ledger = _rows(
        ledger_table, ("yyyymm", "details", "recorded_at"), [("table_id", "=", DEMAND_FEATURES.id)]
    )
    if ledger is None:
        return {}
    newest = ledger.sort_values("recorded_at", kind="stable").drop_duplicates("yyyymm", keep="last")
    return {
        int(row.yyyymm): bool(json.loads(row.details).get("is_complete", True))
        for row in newest.itertuples()
    }


@dataclass(frozen=True)
class _Asked:
    """A training that a sensor asks for: its month, what the run is known by, what people read, and
    the tags of the run.
    """

    month: int
    cause: str
    evidence: str
    tags: Mapping[str, str]


def _training_requested(
    context: dg.SensorEvaluationContext, job: Job, settings: Settings, asked: _Asked
) -> dg.SensorResult | dg.SkipReason:
    """Request a month's training: once while it runs or has succeeded, again after a failure, up to
    the given number of times.
    """
    retraining, month, evidence = settings.retraining, asked.month, asked.evidence
    if retraining.mode != "act":
        return dg.SkipReason(
            f"{evidence}; retraining.mode is {retraining.mode}, a person starts the training of"
            f" {month}"
        )
    runs = _runs(context, job, month)
    states = [run.status for run in runs]
    failures = states.count(dg.DagsterRunStatus.FAILURE)
    if any(state in UNFINISHED for state in states):
        return dg.SkipReason(f"{evidence}; training of {month} is under way")
    if dg.DagsterRunStatus.SUCCESS in states:
        return dg.SkipReason(
            f"{evidence}; {month} was trained, and what serves stayed: see its rows in"
            " gold.champion"
        )
    if states and states[0] != dg.DagsterRunStatus.FAILURE:
        return dg.SkipReason(
            f"{evidence}; training of {month} was stopped by a person, who may start it again"
        )
    if failures >= retraining.max_tries:
        tried = (
            f"all {failures} trainings of {month} failed (retraining.max_tries), the last in run"
            f" {runs[0].run_id}"
        )
        return dg.SkipReason(
            f"{evidence}; {tried}: mend the cause and re-execute it, or wait for the next month"
        )
    run_key = f"{asked.cause}-{failures + 1}"
    if context.cursor == run_key:
        return dg.SkipReason(f"{evidence}; training of {month} was already requested for it")
    told = {**asked.tags, EVIDENCE_TAG: evidence} | (
        {"medallion/try": str(failures + 1)} if failures else {}
    )
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=run_key, partition_key=str(month), tags=told)],
        cursor=run_key,
    )


def _runs(context: dg.SensorEvaluationContext, job: Job, month: int) -> list[dg.DagsterRun]:
    """Runs of the job for this month alone, whatever asked for them, the newest first."""
    single: list[dict[str, str | list[str]]] = [
        {PARTITION_TAG: str(month)},
        {RANGE_START_TAG: str(month), RANGE_END_TAG: str(month)},
    ]
    found = [
        run
        for tags in single
        for run in context.instance.get_run_records(dg.RunsFilter(job_name=job.name, tags=tags))
    ]
    newest_first = sorted(found, key=lambda record: record.create_timestamp, reverse=True)
    return list({record.dagster_run.run_id: record.dagster_run for record in newest_first}.values())
