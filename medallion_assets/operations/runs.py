"""Dagster runs started from the command line, in this process, with progress for the person who
waits.

Which assets a job holds lies in definitions.py.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import dagster as dg
from rich.console import Console

from medallion_assets import definitions
from medallion_assets.champion.approval import approved_in_registry
from medallion_assets.champion.promotion import Decision
from medallion_assets.champion.stewardship import Stewardship, sync_alias
from medallion_assets.checks import is_on_one_of_several
from medallion_assets.complete import complete_months_of
from medallion_assets.environment import prepare_dagster_home
from medallion_assets.given.assets import contents, found
from medallion_assets.labels import Labelling
from medallion_assets.partitions import NO_MONTH, add_months, month_index, month_range
from medallion_assets.plans import ACTOR_TAG, PLAN_TAG, TRIGGER_TAG, Plan, Plans
from medallion_assets.policies import step_message
from medallion_assets.report.data import CODE_VERSION as REPORT_VERSION
from medallion_assets.silver.assets import master_version, new_numbers
from medallion_assets.slices import registered, version_of
from medallion_assets.table_asset import asset_key
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES, DEMAND_FORECAST, TABLES
from medallion_assets.zoo.packaged import ZooModels
from medallion_assets.zoo.registry import enabled
from resources import place, workers
from resources.engines import Engine, cores, spark_resource
from resources.errors import Refused
from resources.lakehouse import LEDGER, DeltaLakehouse, LakehouseOptions, TableSpec
from resources.mlflow_file import ensure_file, file_of
from resources.orders import LocalOrderFiles
from resources.processes import identity, is_gone
from resources.settings import Settings
from resources.tracking import MlflowTracking

PROCESS_TAG = "medallion/process"
STATE_TAG = "medallion/state"  # of the run that ended a run of everything: what it left
REGISTRY_TAG = "medallion/registry"  # beside it: the registry's file when the alias was looked at
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class RunFailed(Refused):
    """A run did not succeed; the message is that of its first failed step."""


@contextlib.contextmanager
def session(settings: Settings, console: Console, keeps_records: bool = True) -> Iterator[Session]:
    """Definitions and instance for several runs of one process; the Spark session is shared by
    them. Without records what Dagster knows of the runs is forgotten at the end, as it is on
    Databricks, whose disk for files can't hold its database.
    """
    keeps_records = keeps_records and settings.engine != "databricks"
    warnings.simplefilter("ignore")
    logging.getLogger("py4j").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    for sentence in place.settle(settings):
        console.print(sentence, style="yellow", markup=False)
    home = prepare_dagster_home(settings) if keeps_records else ""
    defs = definitions.build_defs(settings, definitions.build_resources(settings))
    with dg.DagsterInstance.get() if keeps_records else dg.DagsterInstance.ephemeral() as instance:
        _end_killed(instance)
        yield Session(settings, defs, instance, console, home)


def _end_killed(instance: dg.DagsterInstance) -> None:
    """End the runs of processes that are gone: they would count as under way for ever, and keep
    others waiting.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        if PROCESS_TAG in run.tags and is_gone(run.tags[PROCESS_TAG]):
            instance.report_run_failed(
                run, "its process was killed; the same run again goes on where it stopped"
            )


def reader(settings: Settings) -> DeltaLakehouse:
    """The tables of a configuration for reading without an engine."""

    def refuse() -> NoReturn:
        raise Refused("this command reads tables without an engine")

    return _lakehouse(settings, refuse)


def writer(settings: Settings) -> DeltaLakehouse:
    """The tables of a configuration, with the engine that this process's runs share."""
    return _lakehouse(settings, spark_resource(settings).engine)


def tracking(settings: Settings) -> MlflowTracking:
    """MLflow of a configuration for what is no Dagster run; connected when first used."""
    return MlflowTracking(settings, "", lambda: None, models=ZooModels())


def _lakehouse(settings: Settings, engine: Callable[[], Engine]) -> DeltaLakehouse:
    return DeltaLakehouse(engine, LakehouseOptions.of(settings))


@dataclass
class Session:
    """Runs jobs and shows their steps; a ``listener`` is called with every event of a run."""

    settings: Settings
    defs: dg.Definitions
    instance: dg.DagsterInstance
    console: Console
    home: str
    listener: Callable[[dg.EventLogEntry], None] | None = None
    _started: dict[str, float] = field(default_factory=dict)
    _last_run: str = ""

    def everything(self) -> bool:
        """From landed files to the served forecast of the newest complete month; whether anything
        was written.

        Where the last run left everything as it is now, nothing but the landed files is looked at.
        """
        is_changed = self.execute(
            "register_deliveries", [int(definitions.newest_partition(self.settings))]
        )
        if not is_changed and (run := self._run_that_left_it_so()):
            # Asking the registry takes longer than all else here.
            registry = self._registry()
            if registry and run.tags.get(REGISTRY_TAG) == registry:
                return False
            tracking = self.tracking()
            decisions = sync_alias(reader(self.settings), tracking)
            if not approved_in_registry(decisions, tracking):
                self.instance.add_run_tags(run.run_id, {REGISTRY_TAG: self._registry()})
                return False
        # What models need is ready by the time that they are fitted.
        threading.Thread(target=workers.start, args=(cores(),), daemon=True).start()
        is_changed |= self._everything_from_orders(self._begin_mlflow_file())
        self._note_how_it_is_left()
        return is_changed

    def _begin_mlflow_file(self) -> Callable[[], None]:
        """Have a process of the pool make MLflow's file, where there is none yet; gives what waits
        for it. Whoever uses the file next makes it, or tells what is wrong.
        """
        file = file_of(self.settings.tracking_uri)
        if file is None or file.exists():
            return lambda: None
        making = workers.begin(functools.partial(ensure_file, self.settings), cores())

        def wait() -> None:
            with contextlib.suppress(Exception):
                making.result()

        return wait

    def _everything_from_orders(self, wait_for_mlflow: Callable[[], None]) -> bool:
        is_changed = False
        months, complete = self.months()
        if not months:
            raise Refused(self._no_lines())
        is_changed |= self.execute("monthly_data", [months[0], months[-1]])
        if not complete:
            self.console.print(
                "[yellow]No month is complete yet, so nothing is forecast;[/yellow] the summary"
                " says why."
            )
            return is_changed
        wait_for_mlflow()
        newest = complete[-1]
        earlier = add_months(newest, -self.settings.run.replay_months)
        enough = (
            month_index(earlier) - month_index(self.settings.first_month)
            >= self.settings.forecast.min_history
        )
        if self.settings.run.replay_months and enough:
            is_changed |= self.execute("retraining", [earlier])
            # What was published on the day stays: another version would only supersede it.
            published = reader(self.settings).ledger.slices(DEMAND_FORECAST)
            if waiting := [
                m
                for m in month_range(add_months(earlier, 1), add_months(newest, -1))
                if m not in published
            ]:
                is_changed |= self.execute("publish", waiting)
        is_changed |= self.execute("retraining", [newest])
        return is_changed

    def _no_lines(self) -> str:
        """That no order line has a month, and why where there are lines."""
        read = ", ".join(str(s.files or s.table) for s in self.settings.sources)
        lines = reader(self.settings).rows(BRONZE_SALES_ORDERS, ["_problem"], [NO_MONTH])
        if lines.empty:
            return f"no order lines found: {read}"
        reasons = lines["_problem"].str.split(":").str[0].value_counts()
        told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        return (
            f"no order line has a month: {read} ({told}). The lines are stored as text: correct"
            " date_formats, columns.order_date or first_month of their source and run again, and"
            " they are dated anew."
        )

    def _run_that_left_it_so(self) -> dg.DagsterRun | None:
        """The run at whose end configuration, code and tables were what they are now, and
        everything was made; None without one.
        """
        # Tables of others change without a trace in ours.
        if any(source.mode == "adopt" for source in self.settings.sources):
            return None
        found = self.instance.get_runs(
            dg.RunsFilter(tags={STATE_TAG: self._state()}, statuses=[dg.DagsterRunStatus.SUCCESS]),
            limit=1,
        )
        return found[0] if found else None

    def _note_how_it_is_left(self) -> None:
        if self._last_run:
            tags = {STATE_TAG: self._state(), REGISTRY_TAG: self._registry()}
            self.instance.add_run_tags(self._last_run, tags)

    def _registry(self) -> str:
        """Size and time of the registry's own file: nobody moved the alias while both are the same.
        Nothing where the registry is a server.
        """
        file = file_of(self.settings.tracking_uri)
        if file is None or not self.settings.mlflow.is_own_file or not file.exists():
            return ""
        held = file.stat()
        return f"{held.st_size} {held.st_mtime_ns}"

    def _state(self) -> str:
        """Hash of what a run of everything depends on and makes: settings, code, parts master,
        versions of tables, reports.
        """
        held = reader(self.settings)
        models = [(spec.name, spec.code_version) for spec in enabled(self.settings)]
        tables = [(spec.id, spec.code_version, held.version(spec)) for spec in (*TABLES, LEDGER)]
        reports = sorted(path.name for path in Path(self.settings.reports_folder).glob("*"))
        given = {
            name: found(name, LocalOrderFiles(), self.settings)
            for name in self.settings.given_forecasts
        }
        release = version("medallion-forecasting")
        outside = [master_version(self.settings), contents(given)]
        return version_of(
            release,
            self.settings.model_dump(mode="json"),
            models,
            outside,
            tables,
            [REPORT_VERSION, *reports],
        )

    def execute(
        self, job_name: str, months: Sequence[int], tags: Mapping[str, str] | None = None
    ) -> bool:
        """Run a job for a month or the range from the first to the last, with further tags; whether
        a month was written. Raises RunFailed.
        """
        return self._run(self.defs.resolve_job_def(job_name), job_name, months, tags or {})

    def materialize(
        self, assets: Sequence[dg.AssetKey], months: Sequence[int], tags: Mapping[str, str]
    ) -> bool:
        """Run assets as execute does a job."""
        every = self.defs.resolve_implicit_global_asset_job_def()
        job = every.get_subset(asset_selection=set(assets))
        return self._run(job, ", ".join(key.to_user_string() for key in assets), months, tags)

    def _run(
        self, job: dg.JobDefinition, name: str, months: Sequence[int], tags: Mapping[str, str]
    ) -> bool:
        first, last = str(months[0]), str(months[-1])
        span = {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        }
        self.console.print(
            f"[bold]{name}[/bold] {first}" + (f" to {last}" if last != first else "")
        )
        started = time.monotonic()
        run_id = dg.DagsterRun(job_name=job.name).run_id
        self.instance.add_event_listener(run_id, self._show)
        if self.listener:
            self.instance.add_event_listener(run_id, self.listener)
        self._last_run = run_id
        result = job.execute_in_process(
            instance=self.instance,
            run_id=run_id,
            tags={**span, TRIGGER_TAG: "command_line", PROCESS_TAG: identity(), **tags},
            raise_on_error=False,
            run_config=QUIET,
        )
        if not result.success:
            raise RunFailed(_failure(result.all_events))
        written = sum(_months_written(event) for event in result.get_asset_materialization_events())
        self.console.print(f"  [green]done[/green] in {time.monotonic() - started:.0f} s")
        return written > 0

    def stewardship(self, actor: str) -> Stewardship:
        """What a person may decide about champions, on the tables and the registry of this
        configuration.
        """
        return Stewardship(self.settings, writer(self.settings), self.tracking(), actor)

    def labelling(self, actor: str) -> Labelling:
        """What a person may say of demand in the tables of this configuration."""
        return Labelling(writer(self.settings), actor, new_numbers(self.settings))

    def steward(
        self, actor: str, change: Callable[[Stewardship], Sequence[Decision]]
    ) -> list[Decision]:
        """Let a person change what serves, and publish the newest forecast anew; the decisions."""
        made = list(change(self.stewardship(actor)))
        for decision in made:
            self.console.print(
                f"{decision.decision_number}: {decision.demand_class} {decision.decision},"
                f" {decision.champion} serves in version {decision.registry_version}."
                f" {decision.reason}"
            )
        if published := self.newest_published():
            self.execute("publish", [published])
        return made

    def plans(self, actor: str) -> Plans:
        """Plans of destructive acts on the tables of this configuration."""
        return Plans(writer(self.settings), actor, self.settings.retention.reproducible_months)

    def apply(self, plan: Plan, actor: str) -> None:
        """Carry out a plan: a backfill or removal by the run of its asset, a redating by the
        registration of deliveries, all else at once.
        """
        tags = {PLAN_TAG: plan.plan_id, ACTOR_TAG: actor}
        if plan.kind in ("backfill", "removal"):
            self.plans(actor).check(plan)
            self.materialize([asset_of(plan.table, plan.writer)], plan.months, tags)
        elif plan.kind == "redating":
            self.plans(actor).check(plan)
            newest = int(definitions.newest_partition(self.settings))
            self.materialize([asset_key(DELIVERIES)], [newest], tags)
            self.console.print("`medallion run` brings what is made from these months up to date.")
        else:
            self.plans(actor).apply(plan)

    def tracking(self) -> MlflowTracking:
        """MLflow for what is no Dagster run."""
        return tracking(self.settings)

    def newest_published(self) -> int | None:
        """The newest origin with a published forecast."""
        return max(reader(self.settings).ledger.slices(DEMAND_FORECAST), default=None)

    def months(self) -> tuple[list[int], list[int]]:
        """Months that have lines, and those that are complete, both in order."""
        deliveries = registered(reader(self.settings))
        touched = {
            int(m["yyyymm"]) for months in deliveries["months"] for m in months if m["yyyymm"]
        }
        return sorted(touched), complete_months_of(deliveries, self.settings)

    def _show(self, entry: dg.EventLogEntry) -> None:
        event = entry.dagster_event
        if event is None:
            if int(entry.level) >= logging.INFO and entry.step_key:
                self.console.print(
                    f"    {entry.user_message}", style="dim", markup=False, emoji=False
                )
        elif event.is_step_start and not str(event.step_key).endswith(
            ("rules_kept", "no_drift", "no_retraining_waits")
        ):
            self._started[str(event.step_key)] = time.monotonic()
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and not is_on_one_of_several(check):
                severity = (
                    "[red]failed[/red]"
                    if check.severity == dg.AssetCheckSeverity.ERROR
                    else "[yellow]warns[/yellow]"
                )
                self.console.print(
                    f"    check {check.asset_key.to_user_string()} {check.check_name} {severity}:"
                    f" {check.description or ''}"
                )
        elif event.is_step_success and str(event.step_key) in self._started:
            seconds = time.monotonic() - self._started.pop(str(event.step_key))
            self.console.print(f"  {str(event.step_key).replace('__', '.', 1)}: {seconds:.1f} s")


def asset_of(table: TableSpec, writer: str = "") -> dg.AssetKey:
    """Key of the asset that writes a table, or a writer's slices of it."""
    return dg.AssetKey([*asset_key(table).path, *([writer] if writer else [])])


def _failure(events: Sequence[dg.DagsterEvent]) -> str:
    """What the first failed step says, or why there is none."""
    for event in events:
        if event.is_step_failure:
            described = event.step_failure_data.user_failure_data
            return (
                step_message(event)
                if described and described.description
                else f"{event.step_key}: {step_message(event)}"
            )
    return (
        "the run failed:"
        f" {next((e.message for e in events if e.is_failure and e.message), 'no message')}"
    )


def _months_written(event: dg.DagsterEvent) -> int:
    metadata = event.materialization.metadata
    for key in (
        "inserted",
        "updated",
        "deleted",
        "new_deliveries",
        "redated_deliveries",
        "files_written",
    ):
        if key in metadata and metadata[key].value:
            return 1
    return 0
