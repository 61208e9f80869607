"""MLflow's tracking for a run of Dagster, and the ends of runs that were left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resources.mlflow_connection import ensure_experiment, first_line
from resources.processes import is_gone, is_here
from resources.provenance import PROCESS, origin_tags
from resources.settings import Settings
from resources.stored_models import ModelFormat
from resources.tracking import MlflowTracking

if TYPE_CHECKING:
    from dagster import InitResourceContext


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
            settings,
            run_id,
            parent,
            connected=lambda: _end_abandoned(settings, context),
            instance=instance,
            models=models,
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
                context.log.warning(told, first_line(error)[:200])  # type: ignore[union-attr]


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
