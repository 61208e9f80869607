"""Checks of the bundle without a workspace: that what a target would deploy fits together, and fits
the configuration of its lakehouse. ``python -m bundle.check``.

databricks-bundles checks types and names of fields; what it can't know is asked here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import yaml
from databricks.bundles.core import Bundle, Resources

from bundle.resources import PACKAGE, ROOT, load_resources, settings_of, volumes
from medallion_assets import cli
from medallion_assets.definitions import build_defs, build_resources
from medallion_assets.operations import steps
from resources.errors import Refused
from resources.settings import Settings

KINDS = ("jobs", "schemas", "volumes", "registered_models", "experiments")
# References that the deployment itself fills in.
KNOWN_REFERENCES = re.compile(r"(bundle\.(name|target)|workspace\.\w+(\.\w+)?|resources\..+)")


@dataclass(frozen=True)
class Deployment:
    """What a target would deploy. ``declared`` is databricks.yml, ``resources`` what was built, by
    kind and name as in its JSON.
    """

    target: str
    declared: Mapping[str, Any]
    variables: Mapping[str, Any]
    settings: Settings
    resources: Mapping[str, Mapping[str, Any]]
    root: Path = ROOT

    @cached_property
    def tasks(self) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
        """Each task with its job, and where they stand."""
        return [
            (f"job {name}, task {task['task_key']}", job, task)
            for name, job in self.resources["jobs"].items()
            for task in job["tasks"]
        ]

    def resolved(self, text: str) -> str:
        """The text with the values of variables in place; a path of the deployment is one here."""
        for name, value in self.variables.items():
            text = text.replace(f"${{var.{name}}}", str(value))
        return text.replace("${workspace.file_path}", str(self.root))


def deployment(declared: Mapping[str, Any], target: str) -> Deployment:
    """Build a target's resources. Raises Refused for what can't be built."""
    if target not in declared["targets"]:
        raise Refused(f"target {target}: databricks.yml has {', '.join(declared['targets'])}")
    variables = {
        name: definition.get("default") for name, definition in declared["variables"].items()
    }
    variables |= declared["targets"][target].get("variables", {})
    bundle = Bundle(target=target, variables=variables)
    return Deployment(
        target, declared, variables, settings_of(bundle), _as_json(load_resources(bundle))
    )


def mistakes(planned: Deployment) -> list[str]:
    """Everything that is wrong with a deployment, a sentence each, with what to do."""
    return [f"target {planned.target}: {told}" for check in CHECKS for told in check(planned)]


def _unknown_dependencies(planned: Deployment) -> Iterator[str]:
    for where, job, task in planned.tasks:
        known = {other["task_key"] for other in job["tasks"]}
        for other in task.get("depends_on", ()):
            if other["task_key"] not in known:
                yield (
                    f"{where} waits for '{other['task_key']}', which is no task of its job; known:"
                    f" {', '.join(sorted(known))}"
                )


def _missing_environments(planned: Deployment) -> Iterator[str]:
    for where, job, task in planned.tasks:
        known = {entry["environment_key"] for entry in job.get("environments", ())}
        if "environment_key" in task and task["environment_key"] not in known:
            yield (
                f"{where} runs in the environment '{task['environment_key']}', which its job does"
                f" not have; known: {', '.join(sorted(known)) or 'none'}"
            )


def _missing_entry_points(planned: Deployment) -> Iterator[str]:
    setup = ConfigParser()
    setup.read(planned.root / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")
    known = {script.split("=")[0].strip() for script in scripts if script}
    for where, _, task in planned.tasks:
        if (wheel := task.get("python_wheel_task")) is None:
            continue
        if _normalized(wheel["package_name"]) != PACKAGE:
            yield f"{where} names the package '{wheel['package_name']}'; the wheel is {PACKAGE}"
        if wheel["entry_point"] not in known:
            yield (
                f"{where} starts '{wheel['entry_point']}', which is no entry point of the wheel;"
                f" setup.cfg has {', '.join(sorted(known))}"
            )


def _missing_files(planned: Deployment) -> Iterator[str]:
    for where, _, task in planned.tasks:
        words = task.get("python_wheel_task", {}).get("parameters", [])
        named = [value for word, value in pairwise(words) if word == "--config"]
        if notebook := task.get("notebook_task", {}).get("notebook_path"):
            named.append(notebook)
        for path in named:
            if not (planned.root / planned.resolved(path)).is_file():
                yield f"{where} needs the file {path}, which is not in the repository"


def _unknown_steps(planned: Deployment) -> Iterator[str]:
    """Arguments that the command would refuse: they would be found when the job first runs."""
    defs = build_defs(planned.settings, build_resources(planned.settings))
    for where, _, task in planned.tasks:
        if (wheel := task.get("python_wheel_task")) is None:
            continue
        words = [_filled(planned.resolved(word)) for word in wheel.get("parameters", [])]
        try:
            at = words.index("step")
            cli.commands.make_context("medallion", [*words[:at], "step"])
            asked = cli.step.make_context("step", words[at + 1 :]).params
            steps.select(defs, asked["assets"].split(","))
            for option in ("first", "last"):
                steps.check_month(planned.settings, asked[option])
        except ValueError:
            yield f"{where} starts no `medallion step`, but: {' '.join(words)}"
        except click.ClickException as error:
            yield f"{where}: {error.format_message()}"
        except Refused as error:
            yield f"{where}: {error}"


def _two_masters(planned: Deployment) -> Iterator[str]:
    """Only one of Databricks and Dagster may start runs: both would make the same months."""
    scheduler = planned.variables.get("scheduler")
    running = [
        name
        for name, job in planned.resources["jobs"].items()
        for start in ("schedule", "trigger", "continuous")
        if start in job and job[start].get("pause_status") != "PAUSED"
    ]
    if scheduler == "dagster" and running:
        yield (
            f"Dagster starts the runs (scheduler: dagster), and so do the jobs"
            f" {', '.join(running)}; pause them, or set scheduler: databricks"
        )
    if scheduler == "databricks" and planned.settings.monitoring.sensors_start_running:
        yield (
            "the jobs start by themselves (scheduler: databricks), and so do Dagster's sensors"
            " (monitoring.sensors_start_running: true); set one of them off"
        )


def _other_names(planned: Deployment) -> Iterator[str]:
    """Names that the lakehouse would not use: it would make its own beside them."""
    settings, made = planned.settings, planned.resources
    catalog, gold, model = settings.registered_model.split(".")
    wanted: dict[str, set[tuple[str, ...]]] = {
        "schemas": {(settings.catalog, name) for name in settings.schemas.model_dump().values()},
        "registered_models": {(catalog, gold, model)},
        "experiments": {(settings.mlflow.experiment,)},
        "volumes": {*volumes(settings).values()},
    }
    keys = {
        "schemas": ("catalog_name", "name"),
        "registered_models": ("catalog_name", "schema_name", "name"),
        "experiments": ("name",),
        "volumes": ("catalog_name", "schema_name", "name"),
    }
    for kind, expected in wanted.items():
        found = {tuple(entry[key] for key in keys[kind]) for entry in made[kind].values()}
        for name in sorted(found ^ expected):
            is_extra = name in found
            yield (
                f"{kind}: {'.'.join(name)} is {'not' if is_extra else 'only'} in the configuration"
                f" {planned.variables.get('configuration')}; tables and jobs use the names there"
            )
    if planned.declared["targets"][planned.target].get("mode") == "development":
        yield (
            "mode: development puts a prefix before the names of schemas, which the configuration"
            " does not have; leave the mode out and set presets"
        )


def _unresolved(planned: Deployment) -> Iterator[str]:
    """References to variables that the target gives no value."""
    ours = {key: value for key, value in planned.declared.items() if key != "targets"}
    whole = [ours, planned.declared["targets"][planned.target], planned.resources]
    for reference in sorted({name for text in _texts(whole) for name in _references(text)}):
        if reference.startswith("var."):
            if reference.removeprefix("var.") not in planned.variables:
                yield f"${{{reference}}} is no variable of databricks.yml"
            elif planned.variables[reference.removeprefix("var.")] is None:
                yield f"${{{reference}}} has no value; give it a default, or one in the target"
        elif not KNOWN_REFERENCES.fullmatch(reference):
            yield f"${{{reference}}} is nothing that a deployment knows"


def _careless_production(planned: Deployment) -> Iterator[str]:
    target = planned.declared["targets"][planned.target]
    if target.get("mode") != "production":
        return
    if planned.settings.promotion.mode != "approve":
        yield (
            f"promotion.mode is {planned.settings.promotion.mode}; in production a person lets a"
            " model serve: set promotion: approve"
        )
    if not target.get("run_as", {}).get("service_principal_name"):
        yield "run_as names no service principal; production must not depend on a person's account"


CHECKS: tuple[Callable[[Deployment], Iterator[str]], ...] = (
    _unknown_dependencies,
    _missing_environments,
    _missing_entry_points,
    _missing_files,
    _unknown_steps,
    _two_masters,
    _other_names,
    _unresolved,
    _careless_production,
)


def _as_json(resources: Resources) -> dict[str, dict[str, Any]]:
    return {
        kind: {name: made.as_dict() for name, made in getattr(resources, kind).items()}
        for kind in KINDS
    }


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _references(text: str) -> list[str]:
    return re.findall(r"\$\{([^}]*)\}", text)


def _filled(word: str) -> str:
    """A parameter as a job's run would fill it in."""
    return "periodic" if word == "{{job.trigger.type}}" else word


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Build and check every target; exit code 1 with each mistake on a line."""
    declared = yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))
    told: list[str] = []
    for target in declared["targets"]:
        try:
            planned = deployment(declared, target)
        except Refused as error:
            told.append(str(error))
            continue
        told += mistakes(planned)
        counts = ", ".join(f"{len(made)} {kind}" for kind, made in planned.resources.items())
        print(f"{target}: {counts}")
    for mistake in told:
        print(mistake, file=sys.stderr)
    sys.exit(1 if told else 0)


if __name__ == "__main__":
    main()
