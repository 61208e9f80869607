"""The Databricks bundle, built for both targets without a workspace, and the mistakes that its
check finds.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("databricks.bundles", reason="databricks-bundles is not installed")

from bundle.check import Deployment, deployment, mistakes
from bundle.resources import ROOT
from medallion_assets.jobs import build_jobs
from resources.errors import Refused
from resources.settings import ConfigurationError

DECLARED: dict[str, Any] = yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def targets() -> dict[str, Deployment]:
    return {name: deployment(DECLARED, name) for name in DECLARED["targets"]}


def planned_with(planned: Deployment, change: Callable[[Any], None]) -> Deployment:
    """The deployment with something changed in a copy of its resources."""
    resources = copy.deepcopy(dict(planned.resources))
    change(resources)
    return replace(planned, resources=resources)


def declared_with(change: Callable[[Any], None]) -> dict[str, Any]:
    """databricks.yml with something changed."""
    declared = copy.deepcopy(DECLARED)
    change(declared)
    return declared


def test_both_targets_can_be_deployed(targets: dict[str, Deployment]) -> None:
    """Nothing is wrong with the bundle as it is."""
    assert {name: mistakes(planned) for name, planned in targets.items()} == {"dev": [], "prod": []}


def test_jobs_are_steps_of_this_package(targets: dict[str, Deployment]) -> None:
    """Every task starts the wheel's entry point with a job that Dagster has too."""
    for planned in targets.values():
        assert set(planned.resources["jobs"]) == {"ingestion", "monthly_forecast", "retraining"}
        started = []
        for _, _, task in planned.tasks:
            wheel = task["python_wheel_task"]
            assert wheel["entry_point"] == "medallion"
            started.append(wheel["parameters"][wheel["parameters"].index("step") + 1])
        assert set(started) <= set(build_jobs({}))


def test_targets_differ_in_their_variables_only(targets: dict[str, Deployment]) -> None:
    """Production waits for approval and starts by itself; development is started by Dagster."""
    dev, prod = targets["dev"], targets["prod"]
    assert (dev.settings.promotion.mode, prod.settings.promotion.mode) == ("act", "approve")
    assert dev.settings.registered_model == "dev_catalog.my_gold.demand_forecaster"
    assert prod.settings.registry_uri == "databricks-uc"
    for planned, status in ((dev, "PAUSED"), (prod, "UNPAUSED")):
        jobs = planned.resources["jobs"]
        assert jobs["ingestion"]["trigger"]["pause_status"] == status
        assert jobs["ingestion"]["trigger"]["file_arrival"]["url"] == (
            f"/Volumes/{planned.settings.catalog}/my_bronze/landing/orders/"
        )
        assert jobs["retraining"]["schedule"]["pause_status"] == status
        assert {job["max_concurrent_runs"] for job in jobs.values()} == {1}


def _job(name: str, key: str, value: Any) -> Callable[[Any], None]:
    def change(resources: Any) -> None:
        resources["jobs"][name]["tasks"][-1][key] = value

    return change


def _wheel(key: str, value: Any) -> Callable[[Any], None]:
    def change(resources: Any) -> None:
        resources["jobs"]["retraining"]["tasks"][0]["python_wheel_task"][key] = value

    return change


def _word(old: str, new: str) -> Callable[[Any], None]:
    def change(resources: Any) -> None:
        words = resources["jobs"]["retraining"]["tasks"][0]["python_wheel_task"]["parameters"]
        words[words.index(old)] = new

    return change


def _named(kind: str, key: str, field: str, value: str) -> Callable[[Any], None]:
    def change(resources: Any) -> None:
        resources[kind][key][field] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            _job("ingestion", "depends_on", [{"task_key": "registr"}]),
            "job ingestion, task data waits for 'registr', which is no task of its job; known: "
            "data, register",
        ),
        (
            _job("retraining", "environment_key", "whl"),
            "job retraining, task training runs in the environment 'whl', which its job does not"
            " have; known: wheel",
        ),
        (
            _wheel("entry_point", "medalion"),
            "starts 'medalion', which is no entry point of the wheel; setup.cfg has medallion",
        ),
        (_wheel("package_name", "forecasting"), "names the package 'forecasting'"),
        (
            _word("${workspace.file_path}/${var.configuration}", "${workspace.file_path}/x.yaml"),
            "needs the file ${workspace.file_path}/x.yaml, which is not in the repository",
        ),
        (
            _job("retraining", "notebook_task", {"notebook_path": "notebooks/absent.py"}),
            "needs the file notebooks/absent.py, which is not in the repository",
        ),
        (
            _word("retraining", "retrainings"),
            "'retrainings' is no job and no asset; did you mean retraining?",
        ),
        (_word("retraining", "gold.champoin"), "did you mean gold/champion?"),
        (_word("complete", "202213"), "'202213' is no month"),
        (_word("--from", "--form"), "No such option"),
        (_word("step", "steps"), "starts no `medallion step`"),
        (_word("--set", "--sets"), "No such option"),
        (
            _named("schemas", "gold", "name", "gold"),
            "schemas: prod_catalog.gold is not in the configuration config/databricks.yaml",
        ),
        (
            _named("registered_models", "demand_forecaster", "name", "forecaster"),
            "registered_models: prod_catalog.my_gold.forecaster is not in the configuration",
        ),
        (
            _named("experiments", "experiment", "name", "/Shared/other"),
            "experiments: /Shared/other is not in the configuration",
        ),
        (
            _named("volumes", "lakehouse", "name", "lake"),
            "volumes: prod_catalog.my_gold.lakehouse is only in the configuration",
        ),
        (
            _named("schemas", "gold", "comment", "of ${var.team}"),
            "${var.team} is no variable of databricks.yml",
        ),
        (
            _named("schemas", "gold", "comment", "${worskpace.root_path}"),
            "${worskpace.root_path} is nothing that a deployment knows",
        ),
    ],
)
def test_a_mistake_in_the_resources_is_told(
    targets: dict[str, Deployment], change: Callable[[Any], None], told: str
) -> None:
    """Each is named with its place and what would be right, before anything is deployed."""
    found = mistakes(planned_with(targets["prod"], change))
    assert any(told in line for line in found), found
    assert all(line.startswith("target prod: ") for line in found)


def _target(name: str, **entries: Any) -> Callable[[Any], None]:
    def change(declared: Any) -> None:
        declared["targets"][name] |= entries

    return change


def _variables(name: str, **values: Any) -> Callable[[Any], None]:
    def change(declared: Any) -> None:
        declared["targets"][name]["variables"] |= values

    return change


@pytest.mark.parametrize(
    ("change", "target", "told"),
    [
        (_variables("prod", promotion="act"), "prod", "set promotion: approve"),
        (_target("prod", run_as={}), "prod", "run_as names no service principal"),
        (_target("dev", mode="development"), "dev", "puts a prefix before the names of schemas"),
        (
            lambda declared: declared["variables"]["run_as"].pop("default"),
            "prod",
            "${var.run_as} has no value",
        ),
    ],
)
def test_a_mistake_in_databricks_yml_is_told(
    change: Callable[[Any], None], target: str, told: str
) -> None:
    """What the library does not read is checked too."""
    found = mistakes(deployment(declared_with(change), target))
    assert any(told in line for line in found), found


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda declared: declared["targets"]["dev"]["variables"].pop("catalog"), "catalog has no"),
        (_variables("dev", scheduler="cron"), "'cron' is neither databricks nor dagster"),
        (_variables("dev", configuration="config/absent.yaml"), "can't be read"),
        (_variables("dev", promotion="sometimes"), "promotion.mode"),
    ],
)
def test_what_can_not_be_built_is_refused(change: Callable[[Any], None], told: str) -> None:
    """A variable without a value, or a configuration with a mistake, ends before any resource."""
    with pytest.raises((Refused, ConfigurationError), match=re.escape(told)):
        deployment(declared_with(change), "dev")


def test_two_masters_are_refused(targets: dict[str, Deployment]) -> None:
    """Jobs that start while Dagster does, and Dagster's sensors while the jobs do."""
    dev, prod = targets["dev"], targets["prod"]

    def unpaused(resources: Any) -> None:
        resources["jobs"]["ingestion"]["trigger"]["pause_status"] = "UNPAUSED"

    (told,) = mistakes(planned_with(dev, unpaused))
    assert "Dagster starts the runs (scheduler: dagster), and so do the jobs ingestion" in told
    monitoring = prod.settings.monitoring.model_copy(update={"sensors_start_running": True})
    both = replace(prod, settings=prod.settings.model_copy(update={"monitoring": monitoring}))
    (told,) = mistakes(both)
    assert "so do Dagster's sensors (monitoring.sensors_start_running: true)" in told


def test_the_task_finds_its_configuration(targets: dict[str, Deployment]) -> None:
    """The path and values that a task is given are those that its resources were made from."""
    planned = targets["prod"]
    words = planned.tasks[0][2]["python_wheel_task"]["parameters"]
    resolved = [planned.resolved(word) for word in words]
    assert Path(resolved[1]) == ROOT / "config/databricks.yaml"
    assert resolved[2:6] == ["--set", "CATALOG=prod_catalog", "--set", "PROMOTION=approve"]
