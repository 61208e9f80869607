"""The asset graph of every configuration: what each table's asset carries, what depends on what,
jobs and sensors.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from medallion_assets.definitions import build_defs, build_resources
from medallion_assets.partitions import month_partitions
from medallion_assets.report.assets import REPORT_KEY
from medallion_assets.table_asset import asset_key
from medallion_assets.tables import (
    CHAMPION,
    DELIVERIES,
    DEMAND_DRIFT,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_ACCURACY,
    FORECAST_CHANGE,
    GIVEN_FORECAST,
    MODEL_EVALUATION,
    MONTHLY_DEMAND,
    RECORDS,
    RETRAINING_DECISION,
    TABLES,
    ZOO_FORECAST,
    ZOO_RESULT,
)
from medallion_assets.watch.decision_record import MONTHLY
from medallion_assets.zoo import registry
from medallion_assets.zoo.assets import model_key
from resources.lakehouse import TableSpec
from resources.settings import GivenForecasts, Settings, load_settings
from tests.conftest import SOURCE

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = sorted((ROOT / "config").glob("*.yaml"))
ADOPTED = {
    "name": "erp",
    "mode": "adopt",
    "table": "my_catalog.my_bronze.orders",
    "columns": SOURCE["columns"],
}
SETTINGS = Settings(
    lakehouse_root="nowhere",
    first_month=202201,
    sources=(SOURCE, ADOPTED),
    zoo={"models": ("seasonal_naive", "tsb", "xgboost_global")},
)
MODELS = ("seasonal_naive", "tsb", "xgboost_global")
KEYS: dict[dg.AssetKey, TableSpec] = {
    asset_key(spec): spec for spec in TABLES if spec not in (*RECORDS, ZOO_FORECAST, GIVEN_FORECAST)
}
KEYS |= {model_key(name): ZOO_FORECAST for name in MODELS}


def defined(settings: Settings) -> dg.Definitions:
    return build_defs(settings, build_resources(settings))


def parents(defs: dg.Definitions, key: dg.AssetKey) -> set[dg.AssetKey]:
    return set(defs.resolve_asset_graph().get(key).parent_keys)


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return defined(SETTINGS)


@pytest.fixture(scope="module")
def nodes(defs: dg.Definitions) -> dict[dg.AssetKey, Any]:
    return {node.key: node for node in defs.resolve_asset_graph().asset_nodes}


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda path: path.stem)
def test_definitions_load(configuration: Path) -> None:
    """Every configuration in the repository gives definitions whose jobs, checks and resources fit
    together.
    """
    found = defined(load_settings(configuration, {}))
    dg.Definitions.validate_loadable(found)
    assert {
        asset_key(spec) for spec in TABLES if spec not in (*RECORDS, ZOO_FORECAST, GIVEN_FORECAST)
    } <= set(found.resolve_asset_graph().get_all_asset_keys())


def test_every_table_has_an_asset_and_nothing_else(nodes: dict[dg.AssetKey, Any]) -> None:
    """The ledger is the lakehouse's own; zoo forecasts are one asset per model; adopted tables are
    external; the report is a page.
    """
    assert set(nodes) == {*KEYS, REPORT_KEY, dg.AssetKey(["my_catalog", "my_bronze", "orders"])}


@pytest.mark.parametrize("key", KEYS, ids=dg.AssetKey.to_user_string)
def test_an_asset_carries_what_people_see(nodes: dict[dg.AssetKey, Any], key: dg.AssetKey) -> None:
    """Group by layer, owner, description with the grain, kinds, columns, code version. Only the
    register of deliveries has a freshness policy: an old month that is made again would turn a
    table of months fresh.
    """
    node, spec = nodes[key], KEYS[key]
    is_model = spec is ZOO_FORECAST
    assert node.group_name == ("zoo" if is_model else spec.layer)
    assert node.owners == [spec.owner]
    assert spec.comment in node.description
    assert "Grain: " in node.description
    assert node.kinds >= ({"delta", "spark", "mlflow"} if is_model else {"delta", "spark"})
    assert node.metadata["dagster/table_name"] == f"my_catalog.my_{spec.layer}.{spec.name}"
    columns = node.metadata["dagster/column_schema"].columns
    assert [(c.name, c.description) for c in columns] == [(c.name, c.comment) for c in spec.columns]
    assert node.code_version == (
        registry.model(key.path[-1]).code_version if is_model else spec.code_version
    )
    assert (node.freshness_policy is not None) == (spec is DELIVERIES)


@pytest.mark.parametrize("key", KEYS, ids=dg.AssetKey.to_user_string)
def test_an_asset_is_made_by_month_a_range_in_one_run(
    nodes: dict[dg.AssetKey, Any], key: dg.AssetKey
) -> None:
    """One start month for all, so that a range over several assets is not split."""
    assert nodes[key].partitions_def == month_partitions(SETTINGS.first_month)
    assert nodes[key].backfill_policy == dg.BackfillPolicy.single_run()


@pytest.mark.parametrize("key", KEYS, ids=dg.AssetKey.to_user_string)
def test_an_asset_has_a_blocking_check(defs: dg.Definitions, key: dg.AssetKey) -> None:
    """The rules of its table are checked before anything downstream runs."""
    graph = defs.resolve_asset_graph()
    check = graph.get(dg.AssetCheckKey(key, "rules_kept"))
    assert check.blocking
    assert f"{len(KEYS[key].constraints)} rules" in check.description


def test_lines_must_add_up_and_drift_only_warns(defs: dg.Definitions) -> None:
    """The accounting and the share of guarded paths block; drift, months that wait and a
    retraining that waits do not.
    """
    blocking = {
        (key.asset_key.path[-1], key.name): defs.resolve_asset_graph().get(key).blocking
        for key in defs.resolve_asset_graph().asset_check_keys
        if key.name != "rules_kept"
    }
    waiting = {key: blocks for key, blocks in blocking.items() if key[1] == "no_month_waits"}
    assert {name for name, _ in waiting} == {spec.name for spec in MONTHLY}
    assert not any(waiting.values())
    assert {key: blocks for key, blocks in blocking.items() if key not in waiting} == {
        ("data_quality", "every_line_accounted_for"): True,
        ("demand_forecast", "few_paths_guarded"): True,
        ("demand_drift", "no_drift"): False,
        ("retraining_decision", "no_retraining_waits"): False,
    }


def test_an_adopted_table_is_external(nodes: dict[dg.AssetKey, Any]) -> None:
    """It is in the graph, upstream of bronze, and nothing here can make it."""
    adopted = nodes[dg.AssetKey(["my_catalog", "my_bronze", "orders"])]
    assert adopted.is_external
    assert adopted.group_name == "external"
    assert dg.AssetKey(["bronze", "sales_orders"]) in adopted.child_keys


def test_the_order_is_data_models_evidence_decision_forecast(defs: dg.Definitions) -> None:
    """Models wait for features, the evidence for every model, the decision for the evaluation, the
    forecast for the decision.
    """
    for name in MODELS:
        assert {asset_key(MONTHLY_DEMAND), asset_key(DEMAND_FEATURES)} <= parents(
            defs, model_key(name)
        )
    assert parents(defs, asset_key(ZOO_RESULT)) >= {model_key(name) for name in MODELS}
    assert parents(defs, asset_key(MODEL_EVALUATION)) == {asset_key(ZOO_RESULT)}
    assert parents(defs, asset_key(CHAMPION)) >= {asset_key(MODEL_EVALUATION)}
    assert parents(defs, asset_key(DEMAND_FORECAST)) >= {
        asset_key(CHAMPION),
        asset_key(DEMAND_FEATURES),
    }
    assert parents(defs, asset_key(DEMAND_FORECAST_TOTAL)) == set(
        map(asset_key, (DEMAND_FORECAST, DEMAND_FEATURES, ZOO_RESULT))
    )
    assert parents(defs, asset_key(DEMAND_DRIFT)) == set(
        map(asset_key, (MONTHLY_DEMAND, DEMAND_FEATURES, FORECAST_ACCURACY))
    )
    assert parents(defs, asset_key(RETRAINING_DECISION)) == set(
        map(asset_key, (CHAMPION, DEMAND_DRIFT, FORECAST_ACCURACY))
    )


def test_the_report_is_the_last_page(defs: dg.Definitions, nodes: dict[dg.AssetKey, Any]) -> None:
    """It waits for the forecast and its accuracy, is made by month a range in one run, and nothing
    waits for it.
    """
    report = nodes[REPORT_KEY]
    assert parents(defs, REPORT_KEY) >= {asset_key(DEMAND_FORECAST), asset_key(FORECAST_ACCURACY)}
    assert (report.group_name, report.partitions_def) == (
        "gold",
        month_partitions(SETTINGS.first_month),
    )
    assert report.backfill_policy == dg.BackfillPolicy.single_run()
    assert not report.child_keys
    assert "What a planner reads each month" in report.description


def test_only_what_trains_or_serves_needs_mlflow(defs: dg.Definitions) -> None:
    """No asset or check of bronze and silver asks for the tracking resource, nor do those that
    watch.
    """
    needing = {
        node.key
        for node in defs.resolve_asset_graph().asset_nodes
        if node.is_executable and "tracking" in node.assets_def.required_resource_keys
    }
    assert needing == {
        *map(model_key, MODELS),
        *map(asset_key, (MODEL_EVALUATION, CHAMPION, DEMAND_FORECAST, FORECAST_CHANGE)),
        REPORT_KEY,
    }
    for check in defs.asset_checks or ():
        assert "tracking" not in check.required_resource_keys


def selected(defs: dg.Definitions, job: str) -> set[dg.AssetKey]:
    return set(defs.resolve_job_def(job).asset_layer.executable_asset_keys)


def test_jobs_hold_what_their_sensors_ask_for(defs: dg.Definitions) -> None:
    """Registration alone, months without training, training with publication, each published month
    with its report.
    """
    jobs = {
        name: selected(defs, name)
        for name in (
            "register_deliveries",
            "monthly_data",
            "monthly_forecast",
            "publish",
            "retraining",
        )
    }
    assert jobs["register_deliveries"] == {asset_key(DELIVERIES)}
    assert jobs["monthly_forecast"] == jobs["monthly_data"] | jobs["publish"] | {
        asset_key(RETRAINING_DECISION)
    }
    assert not jobs["monthly_forecast"] & {*map(model_key, MODELS), asset_key(CHAMPION)}
    assert jobs["retraining"] >= {
        *map(model_key, MODELS),
        asset_key(CHAMPION),
        asset_key(DEMAND_FORECAST),
    }
    assert REPORT_KEY in jobs["publish"] & jobs["monthly_forecast"] & jobs["retraining"]
    assert jobs["register_deliveries"] | jobs["monthly_forecast"] | jobs["retraining"] == {
        *KEYS,
        REPORT_KEY,
    }
    assert defs.executor is dg.in_process_executor


def test_given_forecasts_are_asked_in_every_month_that_is_published() -> None:
    """Their table is read with the data of a month; as models they answer before it is published,
    also without a training, and they have their checks.
    """
    columns = {"part_number": "p", "origin": "o", "target": "t", "quantity": "q"}
    given = {"old": GivenForecasts(files="old/*.csv", columns=columns)}
    found = defined(SETTINGS.model_copy(update={"given_forecasts": given}))
    dg.Definitions.validate_loadable(found)
    table, old = asset_key(GIVEN_FORECAST), model_key("old")
    assert parents(found, old) == {table, asset_key(MONTHLY_DEMAND), asset_key(DEMAND_FEATURES)}
    assert table in selected(found, "monthly_data")
    assert old not in selected(found, "monthly_data")
    for job in ("monthly_forecast", "publish", "retraining"):
        assert {table, old} <= selected(found, job)
    checked = {key.asset_key for key in found.resolve_asset_graph().asset_check_keys}
    assert {table, old} <= checked


def test_sensors_ask_for_these_jobs(defs: dg.Definitions) -> None:
    """Landing files are registered, deliveries forecast, age and drift retrain, a failure asks for
    nothing; tables are resources.
    """
    sensors = {sensor.name: sensor for sensor in defs.sensors or ()}
    assert not sensors.pop("run_failure_sensor").targets
    assert {name: sensor.job_name for name, sensor in sensors.items()} == {
        "landing_sensor": "register_deliveries",
        "deliveries_sensor": "monthly_forecast",
        "freshness_sensor": "retraining",
        "drift_sensor": "retraining",
    }
    assert {key for sensor in defs.sensors or () for key in sensor.required_resource_keys} <= set(
        defs.resources or {}
    )


@pytest.fixture
def with_new_model(monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    combined = replace(
        registry.model("tsb"),
        name="newcomer",
        description="Forecasts by hope.",
        members=("tsb",),
        code_version="7",
    )
    monkeypatch.setattr(registry, "ZOO", (*registry.ZOO, combined))
    return defined(
        SETTINGS.model_copy(
            update={"zoo": SETTINGS.zoo.model_copy(update={"models": (*MODELS, "newcomer")})}
        )
    )


def test_a_new_model_is_one_entry_of_the_zoo(with_new_model: dg.Definitions) -> None:
    """Its asset, what it waits for, its check and its place in evidence, decision and job follow
    from the ModelSpec alone.
    """
    graph, key = with_new_model.resolve_asset_graph(), model_key("newcomer")
    assert graph.get(key).description.startswith("Forecasts by hope.")
    assert graph.get(key).code_version == "7"
    assert parents(with_new_model, key) == {
        asset_key(MONTHLY_DEMAND),
        asset_key(DEMAND_FEATURES),
        model_key("tsb"),
    }
    assert key in parents(with_new_model, asset_key(ZOO_RESULT)) & parents(
        with_new_model, asset_key(CHAMPION)
    )
    assert graph.get(dg.AssetCheckKey(key, "rules_kept")).blocking
    assert key in selected(with_new_model, "retraining")


@pytest.mark.integration
def test_definitions_load_without_mlflow() -> None:
    """Dagster's processes do not import MLflow to know what there is, nor what only learns."""
    script = (
        "import sys, medallion_assets.definitions;"
        "print({'mlflow', 'dagster_mlflow', 'sklearn', 'xgboost', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.returncode) == ("set()", 0), done.stderr
