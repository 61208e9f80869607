"""What the bundle makes in a workspace: three jobs, and the schemas, volumes, model and experiment
that they use.

Names come from the configuration of the lakehouse, jobs and months from `medallion step`; what
differs between targets are variables in databricks.yml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from databricks.bundles.core import Bundle, Resources
from databricks.bundles.experiments import MlflowExperiment
from databricks.bundles.jobs import Job
from databricks.bundles.registered_models import RegisteredModel
from databricks.bundles.schemas import Schema
from databricks.bundles.volumes import Volume

from resources.errors import Refused
from resources.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, ENTRY_POINT = "medallion-forecasting", "medallion"
ENVIRONMENT = "wheel"  # key of the serverless environment of all tasks
ENVIRONMENT_VERSION = "4"  # Python 3.12
# Quartz, UTC: seconds minutes hours day month weekday.
MONTHLY = "0 0 5 3 * ?"
QUARTERLY = "0 0 7 3 1/3 ?"
SCHEDULERS = ("databricks", "dagster")
# Variables of the bundle that the configuration reads, by their name there.
VALUES = {"CATALOG": "catalog", "PROMOTION": "promotion"}


def load_resources(bundle: Bundle) -> Resources:
    """The resources of a target. Raises Refused, or ConfigurationError with every mistake."""
    settings = settings_of(bundle)
    made = Resources()
    for layer, schema in settings.schemas.model_dump().items():
        made.add_schema(
            layer, Schema(catalog_name=settings.catalog, name=schema, comment=f"{layer} tables")
        )
    for name, (catalog, schema, volume) in volumes(settings).items():
        made.add_volume(name, Volume(catalog_name=catalog, schema_name=schema, name=volume))
    catalog, schema, model = settings.registered_model.split(".")
    made.add_registered_model(
        "demand_forecaster", RegisteredModel(catalog_name=catalog, schema_name=schema, name=model)
    )
    made.add_mlflow_experiment("experiment", MlflowExperiment(name=settings.mlflow.experiment))
    for name, job in jobs(settings, bundle).items():
        made.add_job(name, Job.from_dict(job))
    return made


def settings_of(bundle: Bundle) -> Settings:
    """The configuration of a target, with the variables that it reads. Raises ConfigurationError
    where it can't be used.
    """
    values = {name: str(_variable(bundle, variable)) for name, variable in VALUES.items()}
    return load_settings(ROOT / str(_variable(bundle, "configuration")), values)


def jobs(settings: Settings, bundle: Bundle) -> dict[str, Any]:
    """Ingestion when files arrive, the forecast of the newest complete month each month, a training
    each quarter. Of each one run at a time; they are paused where Dagster starts runs.
    """
    scheduler = _variable(bundle, "scheduler")
    if scheduler not in SCHEDULERS:
        raise Refused(f"scheduler: '{scheduler}' is neither {' nor '.join(SCHEDULERS)}")
    pause = "UNPAUSED" if scheduler == "databricks" else "PAUSED"

    def job(name: str, description: str, tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "name": f"{settings.catalog} {name}",
            "description": description,
            "max_concurrent_runs": 1,
            "queue": {"enabled": True},
            "tasks": [*tasks],
            "environments": [
                {
                    "environment_key": ENVIRONMENT,
                    "spec": {
                        "environment_version": ENVIRONMENT_VERSION,
                        "dependencies": ["./dist/*.whl"],
                    },
                }
            ],
        }

    def task(key: str, step: str, span: tuple[str, str], after: str = "") -> dict[str, Any]:
        return {
            "task_key": key,
            "environment_key": ENVIRONMENT,
            **({"depends_on": [{"task_key": after}]} if after else {}),
            # A second try of what was refused is refused again; a step tries lost commits itself.
            "max_retries": 0,
            "python_wheel_task": {
                "package_name": PACKAGE,
                "entry_point": ENTRY_POINT,
                "parameters": [*_configured(bundle), "step", step, *_span(span)],
            },
        }

    def schedule(cron: str) -> dict[str, Any]:
        return {
            "schedule": {
                "quartz_cron_expression": cron,
                "timezone_id": "UTC",
                "pause_status": pause,
            }
        }

    arrival = {"url": landing(settings), "wait_after_last_change_seconds": 120}
    return {
        "ingestion": job(
            "ingestion",
            "Takes in files that landed, and brings the months they touch up to date.",
            [
                task("register", "register_deliveries", ("running", "running")),
                task("data", "monthly_data", ("first", "newest"), after="register"),
            ],
        )
        | {"trigger": {"file_arrival": arrival, "pause_status": pause}},
        "monthly_forecast": job(
            "monthly forecast",
            "The forecast of the newest complete month, its monitoring and its report.",
            [task("forecast", "monthly_forecast", ("complete", "complete"))],
        )
        | schedule(MONTHLY),
        "retraining": job(
            "retraining",
            "Fits the zoo, compares it, decides the champions and publishes.",
            [task("training", "retraining", ("complete", "complete"))],
        )
        | schedule(QUARTERLY),
    }


def volumes(settings: Settings) -> dict[str, tuple[str, str, str]]:
    """Catalog, schema and volume of every folder of the configuration that lies in a Volume: the
    lakehouse's, and that of each source's files.
    """
    folders = {"lakehouse": settings.lakehouse_root} | {
        f"landing_{source.name}": source.files for source in settings.sources if source.files
    }
    return {
        name: found for name, folder in folders.items() if (found := _in_volume(folder)) is not None
    }


def landing(settings: Settings) -> str:
    """The folder whose arriving files start the ingestion: that of the first source with files, up
    to its first wildcard. Raises Refused where none lies in a Volume.
    """
    for source in settings.sources:
        if source.files and _in_volume(source.files):
            parts = PurePosixPath(source.files).parts
            plain = next(
                (at for at, part in enumerate(parts) if set(part) & set("*?[")), len(parts)
            )
            return f"{PurePosixPath(*parts[:plain])}/"
    raise Refused(
        "sources: no files lie in a Volume, so nothing can start the ingestion; write files:"
        " /Volumes/<catalog>/<schema>/<volume>/..."
    )


def _in_volume(path: str) -> tuple[str, str, str] | None:
    parts = PurePosixPath(path).parts
    return (parts[2], parts[3], parts[4]) if parts[:2] == ("/", "Volumes") else None


def _configured(bundle: Bundle) -> list[str]:
    """Arguments by which a task finds its configuration, deployed beside the wheel, and the values
    that it reads.
    """
    return [
        "--config",
        "${workspace.file_path}/${var.configuration}",
        *(
            word
            for name, variable in VALUES.items()
            for word in ("--set", f"{name}=${{var.{variable}}}")
        ),
    ]


def _span(span: tuple[str, str]) -> list[str]:
    return ["--from", span[0], "--to", span[1], "--trigger", "{{job.trigger.type}}"]


def _variable(bundle: Bundle, name: str) -> Any:
    if bundle.variables.get(name) in (None, ""):
        raise Refused(
            f"target {bundle.target}: the variable {name} has no value; give it one in"
            " databricks.yml, or with --var"
        )
    return bundle.variables[name]
