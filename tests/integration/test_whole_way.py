"""The whole way with real Spark, Delta and MLflow: a small simulated wholesaler from files to a
served forecast.

One lakehouse is built once; the tests look at it, then change it in the order in which they stand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd
import pytest
import requests
from deltalake import DeltaTable, write_deltalake

from medallion_assets import definitions, tables
from medallion_assets.definitions import build_defs, build_resources
from medallion_assets.operations.reproduce import reproduce
from medallion_assets.partitions import month_range
from medallion_assets.silver import assets as silver_assets
from medallion_assets.simulation import Simulation, write
from medallion_assets.slices import Months, Outcome, Reader, TableRecipe
from medallion_assets.tables import DECILES
from medallion_assets.work import Work
from medallion_assets.zoo.assets import model_key
from medallion_assets.zoo.packaged import ZooModels
from medallion_assets.zoo.reading import packed_history, window
from medallion_assets.zoo.serving import HISTORY_COLUMNS, split, unpacked
from resources.settings import Settings, parse_settings
from resources.tracking import MlflowTracking
from tests.conftest import forget_tables, open_lakehouse
from tests.models import as_json, outside, served
from tests.watched import keys_of, watched

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from resources.engines import Engine
    from resources.lakehouse import DeltaLakehouse

pytestmark = [pytest.mark.spark, pytest.mark.integration]

FIRST, LAST = 202101, 202310
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Way:
    """A lakehouse on its way: definitions with real resources, and Dagster's instance."""

    settings: Settings
    lakehouse: DeltaLakehouse
    defs: dg.Definitions
    instance: dg.DagsterInstance

    def run(
        self, job: str, first: int, last: int | None = None, **tags: str
    ) -> dg.ExecuteInProcessResult:
        """Run a job for a month or a range of months."""
        span = {
            "dagster/asset_partition_range_start": str(first),
            "dagster/asset_partition_range_end": str(last or first),
        }
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, tags={**span, **tags}, raise_on_error=False, run_config=QUIET
        )

    def run_model(
        self, model: str, first: int, last: int | None = None
    ) -> dg.ExecuteInProcessResult:
        """Run one zoo model for a month or the range of months, as a backfill does."""
        span = {
            "dagster/asset_partition_range_start": str(first),
            "dagster/asset_partition_range_end": str(last or first),
        }
        return self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=[model_key(model)],
            tags=span,
            raise_on_error=False,
            run_config=QUIET,
        )

    def versions(self) -> dict[str, int]:
        """Delta version of every table."""
        return {
            spec.id: self.lakehouse.version(spec)
            for spec in tables.TABLES
            if spec.name != "slice_ledger"
        }


def configuration(folder: Path) -> Settings:
    """The simulated wholesaler, small: 3 models, 3 origins of evidence, 3 months ahead."""
    content = {
        "lakehouse_root": "lakehouse",
        "first_month": FIRST,
        "simulation": {"folder": "landing", "parts": 40, "months": 34, "first_month": FIRST},
        "sources": [
            {
                "name": "wholesaler",
                "files": "landing/*.csv",
                "closed_through": LAST,
                "columns": {
                    "order_id": "Order No",
                    "part_number": "Item Code",
                    "customer_id": "Customer",
                    "region": "Region",
                    "order_date": "Order Date",
                    "quantity": "Qty",
                    "unit_price": "Unit Price",
                    "description": "Item Description",
                },
                "date_formats": ["dd/MM/yyyy HH:mm", "dd/MM/yyyy"],
                "rules": {"product_pattern": "^P-", "cancellation_pattern": "^C"},
            }
        ],
        "forecast": {"horizon": 3, "origins": 3},
        "zoo": {"models": ["ses", "xgboost_global"], "buckets": 2},
    }
    return parse_settings(content, folder / "whole_way.yaml")


# Read by transforms to find which slices of their inputs they need, and those are in the version.
VERSIONED_BY_INPUTS = {
    tables.DATA_QUALITY.id: {"mode"},
    tables.ZOO_RESULT.id: {"first_month"},
    tables.MODEL_EVALUATION.id: {"first_month", "horizon", "origins", "min_history"},
    tables.DEMAND_ANOMALY.id: {"first_month", "horizon"},
}


@pytest.fixture(scope="module")
def unversioned() -> Iterator[dict[str, set[str]]]:
    """By table, the settings that its transform read and no version of its months knows."""
    found: dict[str, set[str]] = {}
    run = TableRecipe.run

    def noting(recipe: TableRecipe, work: Work, asked: Sequence[int], *permission: Any) -> Outcome:
        read: set[str] = set()
        known = keys_of(recipe.configuration) | VERSIONED_BY_INPUTS.get(recipe.spec.id, set())
        recipe.outside_version(watched(work.settings, known))

        def transform(reader: Reader, months: Months, settings: Settings) -> DataFrame:
            return recipe.transform(reader, months, watched(settings, read))

        outcome = run(replace(recipe, transform=transform), work, asked, *permission)
        found.setdefault(recipe.spec.id, set()).update(read - known)
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TableRecipe, "run", noting)
        # It reads the mapping of dates and makes no row of it.
        patch.setattr(silver_assets, "refuse_undated", lambda *arguments: None)
        yield found


@pytest.fixture(scope="module")
def way(
    engine: Engine,
    tmp_path_factory: pytest.TempPathFactory,
    unversioned: dict[str, set[str]],
) -> Iterator[Way]:
    """Files written, registered, brought to features, trained for the newest month and
    published.
    """
    folder = tmp_path_factory.mktemp("whole way")
    settings = configuration(folder)
    write(Simulation(parts=40, months=34, first_month=FIRST, seed=7), folder / "landing")
    resources = build_resources(settings)
    lakehouse = open_lakehouse(engine, settings)
    resources["lakehouse"] = dg.ResourceDefinition.hardcoded_resource(lakehouse)
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        made = Way(settings, lakehouse, build_defs(settings, resources), instance)
        newest = int(str(definitions.newest_partition(settings)))
        for result in (
            made.run("register_deliveries", newest),
            made.run("monthly_data", FIRST, LAST),
            made.run("retraining", LAST),
        ):
            assert result.success, [
                event.message for event in result.all_events if event.is_failure
            ]
        yield made
    forget_tables(engine, settings)


def test_every_line_read_is_accounted_for(way: Way) -> None:
    """Lines read = accepted + rejected + duplicates + superseded, by delivery, counted in the
    tables themselves.
    """
    read = way.lakehouse.rows(tables.DELIVERIES).set_index("delivery_id")["line_count"]
    accepted = way.lakehouse.rows(tables.SILVER_SALES_ORDERS, ["delivery_id"]).value_counts(
        "delivery_id"
    )
    put_aside = way.lakehouse.rows(tables.REJECTED_LINES, ["delivery_id"]).value_counts(
        "delivery_id"
    )
    pd.testing.assert_series_equal(
        read.sort_index(),
        accepted.add(put_aside, fill_value=0).astype("int64").sort_index(),
        check_names=False,
    )


def test_a_transform_reads_the_settings_that_version_its_months(
    way: Way, unversioned: dict[str, set[str]]
) -> None:
    """A setting that changes rows and no version would leave months as they were made before."""
    assert len(unversioned) >= 10
    told = sorted(
        f"{table} {' '.join(sorted(read))}" for table, read in unversioned.items() if read
    )
    assert told == []


def test_every_active_part_has_every_horizon(way: Way) -> None:
    """Each active part has one finite row for each horizon with deciles in order; the others one
    row with a reason.
    """
    rows = way.lakehouse.rows(tables.DEMAND_FORECAST)
    features = way.lakehouse.rows(tables.DEMAND_FEATURES, ["part_number", "is_active"], [LAST])
    served = rows[rows["horizon"] > 0]
    assert set(served["part_number"]) == set(features.loc[features["is_active"], "part_number"])
    assert (
        served.groupby("part_number")["horizon"].nunique() == way.settings.forecast.horizon
    ).all()
    assert (served[list(DECILES)].diff(axis=1).iloc[:, 1:] >= 0).all().all()
    assert served["forecast_qty"].ge(0).all()
    excluded = rows[rows["horizon"] == 0]
    assert set(excluded["part_number"]) == set(features.loc[~features["is_active"], "part_number"])
    assert excluded["reason"].notna().all()


def test_the_champions_rows_are_what_is_served(way: Way) -> None:
    """Where the origin is the trained month, the served rows equal the champions' rows in
    gold.zoo_forecast.
    """
    key = ["part_number", "horizon"]
    served = (
        way.lakehouse.rows(tables.DEMAND_FORECAST).query("horizon > 0").set_index([*key, "model"])
    )
    zoo = way.lakehouse.rows(tables.ZOO_FORECAST, months=[LAST]).set_index([*key, "model"])
    columns = ["forecast_qty", *DECILES]
    pd.testing.assert_frame_equal(
        served[columns], zoo.loc[served.index, columns], rtol=0, atol=1e-9
    )


def history(way: Way) -> pd.DataFrame:
    """HISTORY_COLUMNS of the active parts at LAST, as README tells a user to join them for the
    pyfunc.
    """
    demand = way.lakehouse.rows(tables.MONTHLY_DEMAND, months=window(way.settings, LAST)).query(
        "is_complete"
    )
    features = way.lakehouse.rows(tables.DEMAND_FEATURES, months=[LAST]).query("is_active")
    known = demand.loc[
        demand["part_number"].isin(features["part_number"]), ["part_number", "yyyymm", "demand_qty"]
    ]
    return known.merge(features, on=["part_number", "yyyymm"], how="left")[list(HISTORY_COLUMNS)]


def test_a_packed_history_is_the_same_history(way: Way) -> None:
    """Demand and features come out of one row per part as they come out of one row per part and
    month, in any order of rows.
    """
    months = history(way)
    rows = packed_history(way.lakehouse, way.settings, LAST).toPandas()
    assert rows["part_number"].is_unique
    for found, expected in zip(
        unpacked(rows.sample(frac=1, random_state=2)), split(months, LAST), strict=True
    ):
        pd.testing.assert_frame_equal(found, expected[found.columns])


def assert_is_served(way: Way, found: pd.DataFrame) -> None:
    """Forecasts of all active parts that are those of gold.demand_forecast within 1e-9."""
    rows = way.lakehouse.rows(tables.DEMAND_FORECAST).query("horizon > 0")
    both = found.merge(
        rows, on=["part_number", "horizon"], suffixes=("", "_served"), validate="one_to_one"
    )
    assert len(both) == len(found) == len(rows)
    for name in ["forecast_qty", *DECILES]:
        assert (both[name] - both[f"{name}_served"]).abs().max() <= 1e-9


def test_a_process_without_this_package_forecasts_the_same(way: Way, tmp_path: Path) -> None:
    """MLflow alone, where neither this package nor dagster nor pyspark can be imported and nothing
    is unpickled, loads the champion and gives gold.demand_forecast within 1e-9.
    """
    champion = f"models:/{way.settings.registered_model}@champion"
    imported, found = outside(tmp_path, way.settings.tracking_uri, champion, history(way))
    assert imported == "set()"
    assert_is_served(way, found)


def test_mlflows_own_server_forecasts_the_same(way: Way, tmp_path: Path) -> None:
    """The champion served over HTTP, without this package, gives gold.demand_forecast within
    1e-9.
    """
    champion = f"models:/{way.settings.registered_model}@champion"
    with served(tmp_path, way.settings.tracking_uri, champion) as address:
        asked = as_json(history(way))
        answer = requests.post(f"{address}/invocations", json=asked, timeout=120)
    assert answer.ok, answer.text[:3000]
    assert_is_served(way, pd.DataFrame(answer.json()["predictions"]))


def test_mlflows_function_for_spark_forecasts_the_same(way: Way, spark: SparkSession) -> None:
    """The champion as a function of Spark, over the tables as docs/mlflow.md joins them, gives
    gold.demand_forecast within 1e-9.
    """
    import mlflow
    from pyspark.sql import functions as F

    mlflow.set_tracking_uri(way.settings.tracking_uri)
    score = mlflow.pyfunc.spark_udf(
        spark, f"models:/{way.settings.registered_model}@champion", env_manager="local"
    )
    demand = (
        way.lakehouse.read(tables.MONTHLY_DEMAND, window(way.settings, LAST))
        .where("is_complete")
        .groupBy("part_number")
        .agg(F.sort_array(F.collect_list(F.struct("yyyymm", "demand_qty"))).alias("sold"))
    )
    features = way.lakehouse.read(tables.DEMAND_FEATURES, [LAST]).where("is_active")
    whole = [name for name, kind in features.dtypes if kind in ("int", "bigint")]
    rows = (
        features.withColumns({name: F.col(name).cast("double") for name in whole})
        .join(demand, "part_number")
        .withColumn("yyyymm", F.col("yyyymm").cast("bigint"))
        .withColumn("horizon", F.explode(F.sequence(F.lit(1), F.lit(3))).cast("bigint"))
        .withColumn("demand_months", F.col("sold.yyyymm").cast("array<bigint>"))
        .withColumn("demand_quantities", F.col("sold.demand_qty"))
        .drop("sold")
    )
    found = rows.select(score(F.struct(*rows.columns)).alias("served")).select("served.*")
    assert_is_served(way, found.toPandas())


def test_one_nested_run_holds_its_evidence(way: Way) -> None:
    """A model's run of the training month has parameters, metrics, tags, inputs with versions and
    artifacts, below the Dagster run's.
    """
    import mlflow

    client = mlflow.MlflowClient(way.settings.tracking_uri)
    run_id = way.lakehouse.ledger.slices(tables.ZOO_FORECAST, "xgboost_global")[LAST].details[
        "run_id"
    ]
    run = client.get_run(run_id)
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["dagster_run_id"] == run.data.tags["dagster_run_id"]
    assert (run.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert {
        "horizon",
        "seed",
        "training_first_month",
        "training_last_month",
        "features_lags",
    } <= set(run.data.params)
    assert {
        "wql",
        "mae",
        "rmse",
        "mape",
        "wape",
        "rmsse",
        "bias",
        "revenue_weighted_error",
        "stock_cost",
        "fit_seconds",
    } <= set(run.data.metrics)
    assert {"month", "model", "git_commit", "dagster_run_id", "trigger", "data"} <= set(
        run.data.tags
    )
    named = {
        d.dataset.name: json.loads(d.dataset.source)["delta_table_version"]
        for d in run.inputs.dataset_inputs
    }
    assert named[way.lakehouse.name(tables.MONTHLY_DEMAND)] == way.lakehouse.version(
        tables.MONTHLY_DEMAND
    )
    assert {"plots", "evaluation", "feature_importance.csv"} <= {
        a.path for a in client.list_artifacts(run_id)
    }
    [logged] = run.outputs.model_outputs
    assert client.get_logged_model(logged.model_id).status == "READY"


def test_a_run_is_made_again_and_says_what_its_input_had_been(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted again from what it pinned, a run gives its stored forecasts; a table with other rows
    than it read is named.
    """
    tracking = MlflowTracking(way.settings, "", lambda: None, models=ZooModels())
    run_id = way.lakehouse.ledger.slices(tables.ZOO_FORECAST, "xgboost_global")[LAST].details[
        "run_id"
    ]
    again = reproduce(way.settings, way.lakehouse, tracking, run_id, lambda _: None)
    assert (again.is_equal, again.changed) == (True, [])
    assert again.cells == len(
        way.lakehouse.rows(tables.ZOO_FORECAST, ["part_number"], [LAST], ["xgboost_global"])
    )
    run = tracking.run(run_id)
    name = way.lakehouse.name(tables.MONTHLY_DEMAND)
    monkeypatch.setattr(
        tracking,
        "run",
        lambda _: replace(run, input_digests={**run.input_digests, name: "v0-of other rows"}),
    )
    (told,) = reproduce(way.settings, way.lakehouse, tracking, run_id, lambda _: None).changed
    assert (
        told
        == f"silver.monthly_demand version {run.input_versions[name]}: rows are not those recorded"
        " when the run read it"
    )


def test_the_same_again_changes_nothing(way: Way) -> None:
    """A second run of everything leaves every table at its version and registers no new model
    version.
    """
    before = way.versions(), version_count(way)
    for result in (
        way.run("register_deliveries", int(str(definitions.newest_partition(way.settings)))),
        way.run("monthly_data", FIRST, LAST),
        way.run("retraining", LAST),
    ):
        assert result.success
    assert (way.versions(), version_count(way)) == before


def test_a_range_is_one_run_and_equals_single_months(way: Way) -> None:
    """A model over three months in one run gives a partition for each month and the slices that
    single runs give.
    """
    months = month_range(202307, 202309)
    forget_model(way, "ses")
    result = way.run_model("ses", months[0], months[-1])
    assert result.success
    partitions = {event.partition for event in result.get_asset_materialization_events()}
    assert {str(month) for month in months} <= partitions
    ranged = {
        month: s.data_version
        for month, s in way.lakehouse.ledger.slices(tables.ZOO_FORECAST, "ses").items()
    }
    forget_model(way, "ses")
    assert all(way.run_model("ses", month).success for month in months)
    assert {
        month: s.data_version
        for month, s in way.lakehouse.ledger.slices(tables.ZOO_FORECAST, "ses").items()
    } == ranged


def test_a_late_file_restates_exactly_its_months(way: Way) -> None:
    """A file for a month long past changes that month's demand, adds a vintage where the forecast
    changed, and keeps the old one.
    """
    before = way.lakehouse.ledger.slices(tables.MONTHLY_DEMAND)
    lines = pd.read_csv(
        Path(way.settings.sources[0].files or "").parent / "simulated_orders_202309.csv", dtype=str
    )
    is_sale = lines["Item Code"].str.fullmatch(r"P-\d+", na=False) & lines["Qty"].str.fullmatch(
        r"[1-9]\d*", na=False
    )
    sale = lines[is_sale & lines["Order Date"].str.contains("/09/2023", na=False)].iloc[[0]]
    sale.assign(**{"Order No": "SO9999999", "Qty": "500"}).to_csv(
        Path(way.settings.sources[0].files or "").parent / "late.csv", index=False
    )
    assert way.run(
        "register_deliveries", int(str(definitions.newest_partition(way.settings)))
    ).success
    assert way.run("monthly_forecast", 202309, LAST).success
    after = way.lakehouse.ledger.slices(tables.MONTHLY_DEMAND)
    changed = {month for month in after if after[month].data_version != before[month].data_version}
    assert changed == {202309}
    vintages = way.lakehouse.rows(tables.DEMAND_FORECAST, ["yyyymm", "vintage", "reason"], [LAST])
    assert set(vintages["vintage"]) == {1, 2}
    assert (
        vintages.loc[vintages["vintage"] == 2, "reason"]
        .str.contains("demand known by the origin changed")
        .all()
    )


def test_a_duplicate_key_stops_what_is_downstream(way: Way) -> None:
    """A row written twice by hand fails the blocking check of its table, and nothing downstream
    runs.
    """
    path = way.lakehouse.path(tables.SILVER_SALES_ORDERS)
    stored = DeltaTable(path).to_pyarrow_table(partitions=[("yyyymm", "=", str(LAST))])
    write_deltalake(path, stored.slice(0, 1), mode="append")
    result = way.run("monthly_data", LAST)
    assert not result.success
    failed = [
        e
        for e in result.get_asset_check_evaluations()
        if not e.passed and e.severity == dg.AssetCheckSeverity.ERROR
    ]
    assert [(e.asset_key.to_user_string(), e.check_name) for e in failed] == [
        ("silver/sales_orders", "rules_kept")
    ]
    assert "key_unique" in str(failed[0].description)
    made = {
        event.asset_key.to_user_string()
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    assert not made & {"silver/parts", "silver/monthly_demand", "silver/demand_features"}


def version_count(way: Way) -> int:
    """Registered versions of the model."""
    import mlflow

    client = mlflow.MlflowClient(way.settings.tracking_uri)
    return len(client.search_model_versions(f"name = '{way.settings.registered_model}'"))


def forget_model(way: Way, model: str) -> None:
    """Remove a model's slices and what the ledger knows of them."""
    from resources.lakehouse import LEDGER

    DeltaTable(way.lakehouse.path(tables.ZOO_FORECAST)).delete(f"model = '{model}'")
    DeltaTable(way.lakehouse.path(LEDGER)).delete(
        f"table_id = '{tables.ZOO_FORECAST.id}' AND writer = '{model}'"
    )
