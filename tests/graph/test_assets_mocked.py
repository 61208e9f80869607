"""Every asset body over tables in memory and frames of an engine: jobs of the project run for
ranges and single months, most transforms replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd
import pytest
from pyspark.sql import functions as F

from medallion_assets import checks, policies
from medallion_assets.bronze import lines as bronze_lines
from medallion_assets.champion import assets as champion_assets
from medallion_assets.champion import training
from medallion_assets.definitions import build_defs, build_resources
from medallion_assets.labels import Labelling
from medallion_assets.operations.runs import QUIET
from medallion_assets.partitions import add_months
from medallion_assets.plans import Plans
from medallion_assets.plots import Picture
from medallion_assets.report import reporting
from medallion_assets.report.assets import REPORT_KEY
from medallion_assets.served import assets as served_assets
from medallion_assets.silver import assets as silver_assets
from medallion_assets.table_asset import asset_key
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    CHAMPION,
    DATA_QUALITY,
    DELIVERIES,
    DEMAND_ANOMALY,
    DEMAND_CLASSES,
    DEMAND_DRIFT,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_ACCURACY,
    FORECAST_CHANGE,
    GIVEN_FORECAST,
    MODEL_EVALUATION,
    MONTHLY_DEMAND,
    PARTS,
    PLAN,
    RECORDS,
    REJECTED_LINES,
    RETRAINING_DECISION,
    SILVER_SALES_ORDERS,
    TABLES,
    ZOO_FORECAST,
    ZOO_RESULT,
    TableSpec,
)
from medallion_assets.watch import assets as watch_assets
from medallion_assets.zoo import assets as zoo_assets
from resources.errors import Refused
from resources.settings import RetrainingSettings, Settings, Source
from tests.conftest import SOURCE
from tests.fake_tracking import FakeTracking
from tests.fakes import (
    FakeLakehouse,
    FakeOrderFiles,
    FakeReportFiles,
    Record,
    filled,
)
from tests.frames import feature_frame

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.spark

NAIVE = "seasonal_naive"
MODEL_KEY = zoo_assets.model_key(NAIVE)
KEYS = {
    MODEL_KEY if spec is ZOO_FORECAST else asset_key(spec): spec
    for spec in TABLES
    if spec not in (*RECORDS, RETRAINING_DECISION, GIVEN_FORECAST)
}
AFTER_TRAINING = (
    ZOO_FORECAST,
    ZOO_RESULT,
    MODEL_EVALUATION,
    CHAMPION,
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_CHANGE,
    FORECAST_ACCURACY,
    DEMAND_ANOMALY,
)
PLOTS = (
    "model_comparison",
    "error_by_segment",
    "forecast_against_actual",
    "calibration",
    "served_forecast",
    "demand_history",
    "forecast_by_class",
    "error_by_lag",
    "coverage_by_lag",
    "value_added",
    "anomalies",
)
# The file of the first run ends with LAST, which is complete only when lines of NEXT are there.
FIRST, EVIDENCE, TRAINED, LAST, NEXT = 202101, 202104, (202105, 202106), 202107, 202108
ALL_MONTHS = range(FIRST, LAST + 1)
SETTINGS = Settings(
    lakehouse_root="nowhere",
    first_month=FIRST,
    sources=(SOURCE,),
    forecast={"horizon": 2, "origins": 2, "k_min": 1, "min_history": 3},
    zoo={"models": (NAIVE,), "buckets": 2},
)


def order_lines(*months: int) -> list[dict[str, str]]:
    """Two parts sold late in each month."""
    line = {"Order": "1", "Customer": "c", "Region": "North", "Qty": "3", "Price": "2"}
    return [
        {**line, "Part": part, "Date": f"{m // 100}-{m % 100:02}-28"}
        for m in months
        for part in ("P1", "P2")
    ]


@dataclass
class Execution:
    """One run of a job: what it reported, by asset."""

    events: Sequence[dg.DagsterEvent]
    success: bool

    def months(self, key: dg.AssetKey) -> dict[str, dict[str, Any]]:
        """Metadata of each materialized month of an asset."""
        found: dict[str, dict[str, Any]] = {}
        for event in self.events:
            if event.is_step_materialization and event.asset_key == key:
                metadata = {
                    name: value.value
                    for name, value in (
                        event.step_materialization_data.materialization.metadata.items()
                    )
                }
                found.setdefault(str(event.partition), {}).update(metadata)
        return found

    def failure(self) -> str:
        return policies.step_message(next(event for event in self.events if event.is_step_failure))

    def count(self, kind: dg.DagsterEventType) -> int:
        return sum(event.event_type == kind for event in self.events)


@dataclass
class World:
    """The definitions of a small configuration over resources in memory."""

    lakehouse: FakeLakehouse = field(default_factory=FakeLakehouse)
    orders: FakeOrderFiles = field(default_factory=lambda: FakeOrderFiles({"shop": {}}))
    tracking: FakeTracking = field(default_factory=FakeTracking)
    reports: FakeReportFiles = field(default_factory=FakeReportFiles)
    settings: Settings = SETTINGS
    defs: dg.Definitions = field(init=False)

    def __post_init__(self) -> None:
        self.journal = self.tracking.journal = self.lakehouse.journal
        fake = {
            "lakehouse": self.lakehouse,
            "tracking": self.tracking,
            "orders": self.orders,
            "reports": self.reports,
        }
        self.defs = build_defs(self.settings, build_resources(self.settings) | fake)

    def copied(self, settings: Settings = SETTINGS) -> World:
        """A world of its own with the same tables, files and runs, and an empty journal."""
        others = (copy.deepcopy(fake) for fake in (self.orders, self.tracking, self.reports))
        return World(self.lakehouse.copied(), *others, settings=settings)

    def run(
        self, job: str, first: int, last: int | None = None, tags: Mapping[str, str] | None = None
    ) -> Execution:
        """Run a job for a single month, or for a range in one run."""
        span = (
            {
                "dagster/asset_partition_range_start": str(first),
                "dagster/asset_partition_range_end": str(last),
            }
            if last
            else {}
        )
        single = {} if last else {"partition_key": str(first)}
        result = self.defs.resolve_job_def(job).execute_in_process(
            tags={**span, **(tags or {})}, raise_on_error=False, run_config=QUIET, **single
        )
        return Execution(result.all_events, result.success)

    def versions(self) -> dict[str, int]:
        return {spec.id: self.lakehouse.version(spec) for spec in KEYS.values()}


def rows_by_month(spec: TableSpec, months: Iterable[int]) -> list[Record]:
    return [filled(spec, yyyymm=month) for month in months]


def dated(lines: DataFrame, *_: Any) -> DataFrame:
    month = "CAST(replace(substr(Date, 1, 7), '-', '') AS INT) AS yyyymm"
    return lines.selectExpr("*", month, "28 AS _day", "concat(Date, Part) AS _row_hash")


def described(lines: DataFrame, *_: Any) -> DataFrame:
    counted = lines.groupBy("_delivery_id", "yyyymm").agg(
        F.count("*").alias("line_count"),
        F.max("_day").alias("last_day"),
        F.min("_row_hash").alias("content_version"),
    )
    return counted.withColumn("unreadable_line_count", F.lit(0))


def stored_lines(lines: DataFrame, source_name: str, ingested_at: Mapping[str, Any]) -> DataFrame:
    stamps = {
        "_source": F.lit(source_name),
        "_occurrence": F.lit(1),
        "_ingested_at": F.lit(max(ingested_at.values())),
    }
    return lines.drop("_day").withColumns(stamps)


def accepted(lines: DataFrame) -> list[Record]:
    return [
        filled(
            SILVER_SALES_ORDERS,
            yyyymm=r["yyyymm"],
            line_id=f"{r['_delivery_id']} {r['yyyymm']} {r['_line_number']}",
            part_number=r["Part"],
        )
        for r in lines.collect()
    ]


def sold_parts(sales: DataFrame, announced: DataFrame, *_: Any) -> list[Record]:
    first = sales.toPandas().groupby("part_number")["yyyymm"].min()
    return [filled(PARTS, part_number=part, yyyymm=month) for part, month in first.items()]


def demand(
    sales: DataFrame, parts: DataFrame, months: Sequence[int], complete: Iterable[int]
) -> list[Record]:
    counted = sales.toPandas().groupby(["part_number", "yyyymm"]).size()
    return [
        filled(
            MONTHLY_DEMAND,
            part_number=part,
            yyyymm=month,
            demand_qty=float(n),
            is_complete=month in complete,
        )
        for (part, month), n in counted.items()
        if month in months
    ]


def features(
    demand: DataFrame, parts: DataFrame, months: Sequence[int], settings: Any
) -> list[Record]:
    known = feature_frame(demand.toPandas()[["part_number", "yyyymm", "demand_qty"]])
    return known[known["yyyymm"].isin(months)].to_dict("records")


def result(
    forecasts: DataFrame,
    demand: DataFrame,
    features: DataFrame,
    origins: Mapping[int, Sequence[int]],
    classes: Any,
    stored: Any,
) -> list[Record]:
    rows = forecasts.collect()
    return [
        filled(
            ZOO_RESULT,
            **{name: r[name] for name in ("model", "part_number", "horizon")},
            yyyymm=month,
            origin=r["yyyymm"],
        )
        for month, wanted in origins.items()
        for r in rows
        if r["yyyymm"] in wanted
    ]


def evaluation(results: DataFrame, seconds: DataFrame, classes: Any, settings: Any) -> list[Record]:
    segments = [("all", "all"), *(("demand_class", name) for name in DEMAND_CLASSES)]
    return [
        filled(
            MODEL_EVALUATION,
            yyyymm=month,
            model=NAIVE,
            segment_kind=kind,
            segment=segment,
            horizon=0,
        )
        for month in results.toPandas()["yyyymm"].unique()
        for kind, segment in segments
    ]


def added_up(coming: pd.DataFrame, past: pd.DataFrame, stored: Iterable[Any]) -> list[Record]:
    newest = coming.groupby("yyyymm")["vintage"].max()
    earlier = [row.asDict() for row in stored if row["vintage"] < newest.get(row["yyyymm"], 0)]
    return earlier + [
        filled(
            DEMAND_FORECAST_TOTAL,
            yyyymm=month,
            vintage=vintage,
            segment_kind="all",
            segment="all",
            origin_month_count=len(past[past["yyyymm"] <= month]),
        )
        for month, vintage in newest.items()
    ]


def no_rows(schema: str) -> Any:
    return lambda rows, *args: rows.sparkSession.createDataFrame([], schema)


def repeated_keys(spec: TableSpec, table: DataFrame) -> DataFrame:
    month = F.max("yyyymm" if "yyyymm" in table.columns else F.lit(0))
    keys = table.groupBy(*spec.key).agg(month.alias("of_month"), F.count("*").alias("n"))
    found = "'key_unique' AS rule", "of_month AS yyyymm", "n - 1 AS row_count"
    return keys.where("n > 1").selectExpr(*found)


@pytest.fixture(scope="module", autouse=True)
def replaced_transforms() -> Iterator[pytest.MonkeyPatch]:
    """Transforms over pandas in place of Spark's, for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "RETRY_DELAY_SECONDS", 0)
        drawn = SimpleNamespace(
            **dict.fromkeys(PLOTS, lambda *args, **options: "a figure"),
            rendered=lambda figure: Picture(b"png", "a figure"),
        )
        replacements = {
            bronze_lines.transforms: {
                "dated_lines": dated,
                "refund_words": lambda *args: {},
                "deliveries": described,
                "sales_orders": stored_lines,
            },
            silver_assets.transforms: {
                "canonical_lines": lambda lines, source: lines,
                "doubtful_lines": lambda lines, bounds: lines.limit(0),
                "disposed_lines": lambda lines, *args: lines,
                "sales_orders": accepted,
                "rejected_lines": lambda lines: [],
                "parts": sold_parts,
                "monthly_demand": demand,
                "demand_features": features,
            },
            champion_assets.evaluation: {
                "zoo_result": result,
                "model_evaluation": evaluation,
                "fit_seconds": lambda forecasts, origins: forecasts,
                "part_losses": no_rows("model STRING, demand_class STRING"),
                "month_losses": no_rows("model STRING, demand_class STRING"),
                "monthly_totals": no_rows("model STRING"),
                "pit_histogram": no_rows("model STRING"),
            },
            served_assets.accuracy: {
                "forecast_accuracy": lambda forecasts, demand, evidence, months, *_: rows_by_month(
                    FORECAST_ACCURACY, months
                )
            },
            served_assets.anomalies: {
                "published_forecasts": lambda forecasts, months, numbers: forecasts,
                "demand_anomaly": lambda month, *_: month,
                "anomaly_rows": lambda month, *_: [filled(DEMAND_ANOMALY, yyyymm=month)],
            },
            served_assets.totals: {
                "coming_parts": lambda forecasts, features: forecasts,
                "past_parts": lambda results: results,
                "demand_forecast_total": added_up,
            },
            watch_assets.drift: {
                "usual_demand": lambda demand, unusual: demand,
                "monthly_figures": lambda demand, features: demand,
                "demand_drift": (
                    lambda figures, accuracy, months, settings: rows_by_month(DEMAND_DRIFT, months)
                ),
            },
            watch_assets.quality: {
                "data_quality": lambda lines, sales, rejected, months, settings: rows_by_month(
                    DATA_QUALITY, months
                )
            },
            checks: {"findings": repeated_keys},
            reporting: {
                "plots": drawn,
                "monthly_report": lambda data, lists, history, descriptions, made_from: (
                    f'origin {data.origin} content="{made_from}"'
                ),
                "largest_errors": lambda data, history, lists: "a figure",
            },
            **{module: {"plots": drawn} for module in (training, silver_assets, served_assets)},
        }
        for module, by_name in replacements.items():
            for name, replacement in by_name.items():
                patch.setattr(module, name, replacement)
        yield patch


@dataclass
class Stage:
    """What some runs told of each asset's months, and the tables' versions afterwards."""

    told: dict[dg.AssetKey, dict[str, dict[str, Any]]]
    versions: dict[str, int]

    @property
    def told_of_reports(self) -> dict[str, dict[str, Any]]:
        return self.told[REPORT_KEY]


@dataclass
class Past:
    """What one small lakehouse went through: months of one file, the same again, a newer file's
    month, the month it completed.
    """

    world: World
    months: Stage
    again: Stage
    newer: Stage
    completed: Stage


@pytest.fixture(scope="module")
def past(spark: SparkSession) -> Past:
    world = World(FakeLakehouse(session=spark))
    world.orders.files["shop"]["first.csv"] = order_lines(*ALL_MONTHS)

    def after(*runs: tuple[Any, ...]) -> Stage:
        executions = [world.run(*run) for run in runs]
        assert all(execution.success for execution in executions), next(
            e for e in executions if not e.success
        ).failure()
        return Stage(
            {
                key: {m: told for e in executions for m, told in e.months(key).items()}
                for key in (*KEYS, REPORT_KEY)
            },
            world.versions(),
        )

    whole = (
        ("register_deliveries", LAST),
        ("monthly_data", FIRST, LAST),
        ("retraining", TRAINED[0], LAST),
    )
    months, again = after(*whole), after(*whole)
    world.orders.files["shop"]["second.csv"] = order_lines(NEXT)
    newer = after(("register_deliveries", NEXT), ("monthly_data", NEXT))
    return Past(world, months, again, newer, after(("retraining", LAST)))


@pytest.mark.parametrize("key", KEYS, ids=dg.AssetKey.to_user_string)
def test_a_range_is_one_run_with_metadata_per_month(past: Past, key: dg.AssetKey) -> None:
    """Every month asked for is materialized by one run; what was stored for it says so month by
    month.
    """
    spec, told = KEYS[key], past.months.told[key]
    asked = [*TRAINED, LAST] if spec in AFTER_TRAINING else list(ALL_MONTHS)
    assert {str(month) for month in asked} <= set(told)
    if spec is DELIVERIES:
        return
    stored = {int(month): facts for month, facts in told.items() if "data_version" in facts}
    assert set(stored) >= set(TRAINED)
    rows = past.world.lakehouse.rows(spec)
    for month in TRAINED:
        assert stored[month]["dagster/partition_row_count"] == sum(rows["yyyymm"] == month)
        assert stored[month]["result"] == ("written" if stored[month]["inserted"] else "unchanged")
    assert past.months.versions[spec.id] > 0 or spec is REJECTED_LINES


@pytest.mark.parametrize("key", KEYS, ids=dg.AssetKey.to_user_string)
def test_the_same_range_again_is_unchanged(past: Past, key: dg.AssetKey) -> None:
    """Nothing is written, every month says so, and none beyond those asked for is reported."""
    results = {facts["result"] for facts in past.again.told[key].values() if "result" in facts}
    assert results == ({"unchanged"} if KEYS[key] is not DELIVERIES else set())
    assert past.again.versions == past.months.versions


@pytest.mark.parametrize("key", KEYS, ids=dg.AssetKey.to_user_string)
def test_a_single_month_is_told_with_its_figures(past: Past, key: dg.AssetKey) -> None:
    """A month of its own carries its own metadata: the newest one in the data, the one it completed
    in what is trained.
    """
    spec = KEYS[key]
    month = LAST if spec in AFTER_TRAINING else NEXT
    told = (past.completed if spec in AFTER_TRAINING else past.newer).told[key][str(month)]
    if spec is DELIVERIES:
        assert (told["new_deliveries"], told["new_lines"], told["known_deliveries"]) == (1, 2, 2)
        return
    rows = past.world.lakehouse.rows(spec)
    assert told["dagster/partition_row_count"] == sum(rows["yyyymm"] == month)
    if spec is CHAMPION:
        assert told["data_version"] == rows["evidence_version"].iloc[-1]
    else:
        assert (
            told["data_version"]
            == past.world.lakehouse.ledger.slices(spec, NAIVE if spec is ZOO_FORECAST else "")[
                month
            ].data_version
        )


def test_months_that_a_delivery_touches_are_reported(past: Past) -> None:
    """Registered in the newest partition, a file's other months become materializations with its
    name.
    """
    told = past.months.told[asset_key(DELIVERIES)]
    assert set(told) == {str(month) for month in ALL_MONTHS}
    assert (told[str(FIRST)]["file"], told[str(FIRST)]["lines"]) == ("first.csv", 2)


@pytest.mark.parametrize(
    "spec", [MONTHLY_DEMAND, DEMAND_FEATURES, DEMAND_DRIFT], ids=lambda spec: spec.id
)
def test_a_month_reached_back_is_a_materialization_of_its_own(past: Past, spec: TableSpec) -> None:
    """The month before was partial until a later line came: it is made again by the later month's
    run, and reported.
    """
    told = past.newer.told[asset_key(spec)]
    assert set(told) == {str(LAST), str(NEXT)}
    assert told[str(LAST)]["result"] == "written"


def test_evidence_fitted_on_the_way_is_reported_as_its_own_month(past: Past) -> None:
    """The origin before the months asked for was missing, was fitted, and is a materialization of
    the model.
    """
    told = past.months.told[MODEL_KEY]
    assert set(told) == {str(month) for month in (EVIDENCE, *TRAINED, LAST)}
    assert told[str(EVIDENCE)]["mlflow_run"].startswith("http")


def test_an_incomplete_month_is_neither_fitted_nor_published(past: Past) -> None:
    """Of a partial month bronze and silver are stored; features, models and forecasts are not."""
    told = past.months.told
    assert told[asset_key(MONTHLY_DEMAND)][str(LAST)]["dagster/partition_row_count"] == 2
    assert told[asset_key(DEMAND_FEATURES)][str(LAST)]["dagster/partition_row_count"] == 0
    assert all(
        "result" not in told[key][str(LAST)]
        for key in (MODEL_KEY, asset_key(CHAMPION), asset_key(DEMAND_FORECAST))
    )


def test_a_training_is_registered_decided_and_served(past: Past) -> None:
    """Each trained month has a version, its decisions and a forecast by it; the alias names the
    last.
    """
    lakehouse, tracking = past.world.lakehouse, past.world.tracking
    assert lakehouse.rows(CHAMPION).groupby("yyyymm")["registry_version"].agg(list).to_dict() == {
        month: [number] * len(DEMAND_CLASSES) for number, month in enumerate((*TRAINED, LAST), 1)
    }
    assert tracking.registry.alias() == len(tracking.registry.versions) == len(TRAINED) + 1
    served = lakehouse.rows(DEMAND_FORECAST)
    assert set(
        zip(served["yyyymm"], served["registry_version"], served["vintage"], strict=True)
    ) == {(month, number, 1) for number, month in enumerate((*TRAINED, LAST), 1)}


def test_the_newest_complete_month_is_decided_upon_once(past: Past) -> None:
    """The monthly job stores a decision on it with its reason; the same again adds no row, and
    other months get none.
    """
    world, key = past.world.copied(), asset_key(RETRAINING_DECISION)
    told = world.run("monthly_forecast", FIRST, NEXT).months(key)
    decisions = world.lakehouse.rows(RETRAINING_DECISION)
    assert decisions[
        ["yyyymm", "decision_number", "decision", "training_lag_months"]
    ].values.tolist() == [[LAST, 1, "watch", 0]]
    assert (
        decisions["reason"]
        .iloc[0]
        .endswith(
            f"a champion was trained in {LAST}, and drift trains none within 1 months after that"
        )
    )
    assert {month for month, facts in told.items() if "decision" in facts} == {str(LAST)}
    assert (told[str(LAST)]["decision"], told[str(LAST)]["result"]) == ("watch", "written")
    assert world.run("monthly_forecast", LAST).months(key)[str(LAST)]["result"] == "unchanged"
    assert len(world.lakehouse.rows(RETRAINING_DECISION)) == 1


def test_other_evidence_adds_a_row(past: Past) -> None:
    """Once the month's figures are calm, a second row with the next number says so; the first
    stays.
    """
    world = past.world.copied()
    assert world.run("monthly_forecast", LAST).success
    world.lakehouse.merge(
        DEMAND_DRIFT,
        [filled(DEMAND_DRIFT, yyyymm=LAST, is_drift=False)],
        [LAST],
    )
    assert world.run("monthly_forecast", LAST).success
    decisions = world.lakehouse.rows(RETRAINING_DECISION)
    assert decisions[["decision_number", "decision"]].values.tolist() == [
        [1, "watch"],
        [2, "nothing"],
    ]


def test_with_retraining_off_nothing_is_decided(past: Past) -> None:
    """No row is added; how fresh the tables are is told all the same."""
    off = SETTINGS.model_copy(update={"retraining": RetrainingSettings(mode="off")})
    world = past.world.copied(off)
    execution = world.run("monthly_forecast", LAST)
    assert execution.success
    assert world.lakehouse.rows(RETRAINING_DECISION).empty
    table = execution.months(asset_key(RETRAINING_DECISION))[str(LAST)]["freshness"]
    assert f"| silver.monthly_demand | {LAST} |  | {NEXT} |  |" in table


def test_each_table_is_told_its_fresh_months(past: Past) -> None:
    """A month that is complete and was not made, and a running one, are observations on the table's
    own page.
    """
    world = past.world.copied()
    world.lakehouse.ledger.forget(MONTHLY_DEMAND, FIRST)
    world.lakehouse.ledger.forget(DATA_QUALITY, FIRST + 1)
    execution = world.run("monthly_forecast", LAST)
    observed = {
        event.asset_key: {
            name: value.value
            for name, value in event.asset_observation_data.asset_observation.metadata.items()
        }
        for event in execution.events
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION
    }
    assert observed[asset_key(MONTHLY_DEMAND)] == {
        "missing_months": str(FIRST),
        "incomplete_months": str(NEXT),
        "late_months": "none",
        "newest_month": LAST,
    }
    assert observed[asset_key(DATA_QUALITY)]["missing_months"] == str(FIRST + 1)
    assert observed[asset_key(DEMAND_FORECAST)]["missing_months"] == "none"


def test_a_suggested_retraining_warns(past: Past) -> None:
    """With retraining.mode suggest the check of the newest decision warns, with its reason, and
    fails no run.
    """
    world = past.world.copied()
    row = filled(
        RETRAINING_DECISION,
        decision_number=1,
        decision="retrain",
        yyyymm=FIRST,
        reason="two months drifted",
        mode="suggest",
    )
    world.lakehouse.append(RETRAINING_DECISION, [row], number=1)
    suggested = checked(world.run("monthly_forecast", FIRST), "no_retraining_waits")
    assert (suggested.passed, suggested.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert suggested.description == f"train {FIRST} again: two months drifted"
    assert checked(world.run("monthly_forecast", LAST), "no_retraining_waits").passed


def test_drift_is_told_in_the_text_of_its_check(past: Past) -> None:
    """The check that warns says which figure of which month drifts, and why."""
    world = past.world.copied()
    row = filled(
        DEMAND_DRIFT,
        yyyymm=LAST,
        feature="demand_qty",
        is_drift=True,
        reason="twice the usual demand",
    )
    world.lakehouse.merge(DEMAND_DRIFT, [row], [LAST])
    warned = checked(world.run("monthly_data", LAST), "no_drift")
    assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert warned.description == f"{LAST} demand_qty: twice the usual demand"


def checked(execution: Execution, name: str) -> Any:
    assert execution.success
    found = [
        event.asset_check_evaluation_data
        for event in execution.events
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    return next(check for check in found if check.check_name == name)


def test_runs_say_what_they_read_and_are_committed(past: Past) -> None:
    """A fit's run names its month, model and trigger, the Delta versions it read, and ends
    committed with its model.
    """
    run = next(r for r in past.world.tracking.runs.values() if r.name == f"{NAIVE} {LAST}")
    assert {
        "month": str(LAST),
        "model": NAIVE,
        "trigger": "person",
        "medallion.committed": "true",
    }.items() <= run.tags.items()
    read = {table.name: table.delta_version for table in run.inputs}
    assert read["my_catalog.my_silver.monthly_demand"] == past.newer.versions[MONTHLY_DEMAND.id]
    assert read["my_catalog.my_silver.demand_features"] == past.newer.versions[DEMAND_FEATURES.id]
    assert (run.status, run.parameters["horizon"], set(run.model.entries)) == (
        "FINISHED",
        2,
        set(DEMAND_CLASSES),
    )
    assert "evaluation/model_evaluation.csv" in run.artifacts


def test_a_published_month_has_its_report(past: Past) -> None:
    """One page per origin, linked in the metadata, an artifact of a run of its own; the same again
    writes none.
    """
    months = [str(month) for month in TRAINED]
    written = past.months.told_of_reports
    assert {month: written[month]["report"] for month in months} == {
        month: f"memory/reports/report_{month}.html" for month in months
    }
    assert {written[month]["result"] for month in months} == {"written"}
    assert written[str(LAST)]["result"] == "nothing published"
    assert {past.again.told_of_reports[month]["result"] for month in months} == {"unchanged"}
    assert past.completed.told_of_reports[str(LAST)]["result"] == "written"
    assert sorted(past.world.reports.texts) == [
        f"report_{month}.html" for month in (*TRAINED, LAST)
    ]
    runs = {
        run.name: run
        for run in past.world.tracking.runs.values()
        if run.tags.get("kind") == "report"
    }
    assert set(runs) == {f"report {month}" for month in (*TRAINED, LAST)}
    name = f"report_{LAST}.html"
    assert (runs[f"report {LAST}"].artifacts[name], runs[f"report {LAST}"].status) == (
        past.world.reports.texts[name],
        "FINISHED",
    )


def test_a_report_follows_what_it_is_made_from(past: Past) -> None:
    """A later decision about the month makes its page anew; the page of the month before stays."""
    world = past.world.copied()
    last = world.lakehouse.rows(CHAMPION).sort_values("decision_number").tail(1)
    newer = last.assign(decision_number=last["decision_number"] + 1, decision="released")
    world.lakehouse.append(CHAMPION, newer.to_dict("records"))
    told = world.run("publish", TRAINED[-1], LAST).months(REPORT_KEY)
    assert {month: facts["result"] for month, facts in told.items()} == {
        str(TRAINED[-1]): "unchanged",
        str(LAST): "written",
    }


def test_a_label_makes_what_reads_it_due_and_nothing_else(past: Past) -> None:
    """A label of a month makes that month of lines, accuracy and anomalies due, and it and later
    months of drift; withdrawn, everything is made from what it was made from before.
    """
    world, month = past.world.copied(), TRAINED[1]
    concerned = {
        SILVER_SALES_ORDERS: [month],
        REJECTED_LINES: [month],
        FORECAST_ACCURACY: [month],
        DEMAND_ANOMALY: [month],
        DEMAND_DRIFT: list(range(month, LAST + 1)),
        MONTHLY_DEMAND: [],
        DEMAND_FEATURES: [],
    }

    def made_from() -> dict[TableSpec, dict[int, str]]:
        assert world.run("monthly_data", FIRST, LAST).success
        return {
            spec: {
                m: s.input_version
                for m, s in world.lakehouse.ledger.slices(spec).items()
                if m <= LAST
            }
            for spec in concerned
        }

    before = made_from()
    people = Labelling(world.lakehouse, "ada", {})
    people.give("P1", month, "error", "typo")
    after = made_from()
    for spec, months in concerned.items():
        assert [m for m in sorted(after[spec]) if after[spec][m] != before[spec][m]] == months
    versions = world.versions()
    assert made_from() == after
    assert world.versions() == versions
    people.withdraw("P1", month, "no typo")
    assert made_from() == before


def test_a_report_does_not_need_mlflow(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is gone by the time of the report costs the copy, not the month: the page is
    written, and the metadata say so.
    """
    world = past.world.copied()
    world.reports.texts.clear()

    def gone(*_: Any) -> None:
        raise ConnectionError("http://me:secret@mlflow does not answer")

    monkeypatch.setattr(world.tracking, "log", gone)
    execution = world.run("publish", LAST)
    assert execution.success
    told = execution.months(REPORT_KEY)[str(LAST)]
    assert (told["result"], told["mlflow"]) == (
        "written",
        "not logged: http://***@mlflow does not answer",
    )
    assert list(world.reports.texts) == [f"report_{LAST}.html"]


def test_a_refusal_fails_with_its_message_and_is_not_tried_again(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is the failure's, there is no retry, and no table has changed."""
    world = past.world.copied()
    world.lakehouse.ledger.forget(SILVER_SALES_ORDERS, LAST)

    def refuse(lines: DataFrame) -> list[Record]:
        raise Refused("the mapping names no such column")

    monkeypatch.setattr(silver_assets.transforms, "sales_orders", refuse)
    execution = world.run("monthly_data", LAST)
    assert not execution.success
    assert execution.failure() == "the mapping names no such column"
    assert execution.count(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 0
    assert (world.versions(), world.journal) == (past.completed.versions, [])


@pytest.mark.parametrize(("failures", "is_success"), [(1, True), (2, False)])
def test_a_short_loss_is_tried_once_more(
    past: Past, monkeypatch: pytest.MonkeyPatch, failures: int, is_success: bool
) -> None:
    """The storage that answers at the second try costs nothing; what fails twice fails the run,
    with its message.
    """
    world = past.world.copied()
    world.lakehouse.ledger.forget(SILVER_SALES_ORDERS, LAST)
    whole, left = silver_assets.transforms.sales_orders, [OSError("the disk is away")] * failures

    def away(lines: DataFrame) -> list[Record]:
        if left:
            raise left.pop()
        return whole(lines)

    monkeypatch.setattr(silver_assets.transforms, "sales_orders", away)
    execution = world.run("monthly_data", LAST)
    assert execution.success == is_success
    assert execution.count(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 1
    if not is_success:
        assert "the disk is away" in execution.failure()


def test_an_interrupt_ends_the_run_and_is_not_tried_again(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops a run gets an ended run that says what stays: no step is tried again and none
    is started after.
    """
    world = past.world.copied()
    world.lakehouse.ledger.forget(SILVER_SALES_ORDERS, LAST)

    def interrupted(lines: DataFrame) -> list[Record]:
        raise KeyboardInterrupt

    monkeypatch.setattr(silver_assets.transforms, "sales_orders", interrupted)
    execution = world.run("monthly_data", LAST)
    assert not execution.success
    assert execution.count(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 0
    assert [event.step_key for event in execution.events if event.is_step_start][
        -1
    ] == "silver__sales_orders"
    assert (
        execution.failure() == "stopped; what is stored stays, and the next run goes on from there"
    )


def test_a_file_that_can_not_be_read_stops_the_registration(past: Past) -> None:
    """The broken file is named, and a good one beside it is not taken in either."""
    world = past.world.copied()
    world.orders.files["shop"] |= {"good.csv": order_lines(NEXT + 1), "torn.csv": None}
    execution = world.run("register_deliveries", NEXT)
    assert not execution.success
    assert "torn.csv: can't be read" in execution.failure()
    assert world.journal == []


def test_a_source_that_never_had_a_file_stops_the_registration() -> None:
    """What finds nothing is named with where it looks and what to check, and nothing is stored."""
    world = World(
        settings=SETTINGS.model_copy(
            update={"sources": (Source(**SOURCE | {"files": "/nowhere/landing/*/*.csv"}),)}
        )
    )
    execution = world.run("register_deliveries", FIRST)
    assert not execution.success
    assert execution.failure().startswith(
        "source shop: /nowhere/landing/*/*.csv finds no file, and none was ever taken in: the"
        " folder"
    )
    assert (
        "/nowhere/landing does not exist on this machine. Check files of this source"
        in execution.failure()
    )
    assert execution.count(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 0
    assert world.journal == []


def test_a_landing_folder_that_was_emptied_stops_nothing(past: Past) -> None:
    """A source whose files were taken in and moved away registers nothing new and goes on."""
    world = past.world.copied()
    world.orders.files["shop"].clear()
    assert world.run("register_deliveries", NEXT).success
    assert world.run("monthly_data", FIRST, LAST).success
    assert world.journal == []


def test_every_stored_time_has_its_zone(past: Past) -> None:
    """Spark takes a time without a zone as the host's, so none is handed to a table."""
    world = past.world.copied()
    assert world.run("monthly_forecast", LAST).success
    Plans(world.lakehouse, "ann", 13).backfill(MONTHLY_DEMAND, [LAST])
    stamps = {
        f"{spec.id}.{column.name}": time
        for spec in (DELIVERIES, CHAMPION, RETRAINING_DECISION, PLAN, DEMAND_FORECAST)
        for column in spec.columns
        if column.type == "TIMESTAMP"
        for row in world.lakehouse._versions[spec.id][-1]
        if (time := row[column.name]) is not None
    }
    assert len(stamps) == 7
    assert [name for name, time in stamps.items() if time.tzinfo is None] == []


def test_without_mlflow_the_data_go_on_and_training_stops_before_any_write(past: Past) -> None:
    """Bronze and silver never ask for MLflow; the model's asset fails with its message, and nothing
    of gold's zoo is written.
    """
    world = past.world.copied()
    world.tracking.unreachable = True
    world.orders.files["shop"]["third.csv"] = order_lines(NEXT + 1)
    assert world.run("register_deliveries", NEXT + 1).success
    assert world.run("monthly_data", NEXT, NEXT + 1).success
    assert "merge silver.demand_features" in world.journal
    world.journal.clear()
    execution = world.run("retraining", NEXT)
    assert not execution.success
    assert "MLflow's tracking server does not answer" in execution.failure()
    assert execution.count(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 0
    assert world.journal == []


def test_a_run_that_was_never_committed_is_ended_as_killed(past: Past) -> None:
    """A process that dies before the commit leaves the month due; the next attempt ends its run,
    fits again, and the rows name its run.
    """
    world = past.world.copied()
    world.lakehouse.ledger.forget(ZOO_FORECAST, LAST, writer=NAIVE)
    world.journal.crash_before = f"commit {NAIVE} {LAST}"
    assert world.run("retraining", LAST).success
    runs = [
        (run_id, run.status)
        for run_id, run in world.tracking.runs.items()
        if run.name == f"{NAIVE} {LAST}"
    ]
    assert [status for _, status in runs] == ["FINISHED", "KILLED", "FINISHED"]
    assert [entry for entry in world.journal if not entry.startswith("merge")] == [
        f"start {NAIVE} {LAST}",
        f"start {NAIVE} {LAST}",
        f"commit {NAIVE} {LAST}",
    ]
    assert set(world.lakehouse.rows(ZOO_FORECAST, ["run_id"], [LAST], [NAIVE])["run_id"]) == {
        runs[-1][0]
    }
    after = world.versions()
    assert {
        name for name, version in after.items() if version != past.completed.versions[name]
    } == {ZOO_FORECAST.id}


@pytest.mark.parametrize("later", ["absurd", "deleted"])
def test_an_origin_fitted_again_knows_nothing_of_later_ones(past: Past, later: str) -> None:
    """With absurd forecasts, demand and features of later months, or with none, every number of the
    origin is what it was.
    """
    world, origin = past.world.copied(), TRAINED[0]
    numbers = [
        *(f"q{n}0" for n in range(1, 10)),
        "forecast_qty",
        "part_number",
        "horizon",
        "is_fallback",
    ]
    before = world.lakehouse.rows(ZOO_FORECAST, numbers, [origin])
    for spec in (ZOO_FORECAST, MONTHLY_DEMAND, DEMAND_FEATURES):
        rows = world.lakehouse._versions[spec.id][-1]
        own = [row for row in rows if row["yyyymm"] > origin]
        if later == "absurd":
            for row in own:
                row.update({name: 1e9 for name, value in row.items() if isinstance(value, float)})
        else:
            rows[:] = [row for row in rows if row["yyyymm"] <= origin]
            if spec is ZOO_FORECAST:
                world.lakehouse.ledger.forget(spec, *{row["yyyymm"] for row in own}, writer=NAIVE)
    world.lakehouse.ledger.forget(ZOO_FORECAST, origin, writer=NAIVE)
    world.run("retraining", origin)
    assert f"commit {NAIVE} {origin}" in world.journal
    pd.testing.assert_frame_equal(world.lakehouse.rows(ZOO_FORECAST, numbers, [origin]), before)


@pytest.mark.parametrize(
    "tags",
    [{"medallion/trigger": "freshness"}, {"medallion/plan": "backfill-demand_forecast-1"}, {}],
)
def test_superseding_published_months_needs_a_plan_of_a_person(
    past: Past, tags: dict[str, str]
) -> None:
    """Where another version serves origins whose demand is the same, a person's range is refused
    with its plan, a sensor's is not.
    """
    world = past.world.copied()
    published = world.lakehouse.ledger.slices(DEMAND_FORECAST)
    moved = [
        replace(s, input_version="other", details={**s.details, "registry_version": 99})
        for s in published.values()
    ]
    world.lakehouse.ledger.record(DEMAND_FORECAST, moved, "")
    if "medallion/plan" in tags:
        assert not world.run("publish", TRAINED[0], LAST).success
    execution = world.run("publish", TRAINED[0], LAST, tags)
    assert execution.success == bool(tags)
    if tags:
        assert (
            world.lakehouse.ledger.slices(DEMAND_FORECAST)[LAST].details["registry_version"] != 99
        )
    else:
        assert "anew by the version that serves now" in execution.failure()
        assert "medallion/plan: backfill-demand_forecast-1" in execution.failure()
        assert not [entry for entry in world.journal if entry == "append gold.demand_forecast"]
    if "medallion/plan" in tags:
        assert world.lakehouse.rows(PLAN)["event"].tolist() == ["planned", "applied"]


def test_another_writer_is_met_by_reading_again(past: Past) -> None:
    """Two lost races and a third attempt store the month once."""
    world = past.world.copied()
    world.orders.files["shop"]["third.csv"] = order_lines(NEXT + 1)
    world.lakehouse.conflicts = 2
    assert world.run("register_deliveries", NEXT + 1).success
    execution = world.run("monthly_data", NEXT + 1)
    assert execution.success
    assert world.lakehouse.conflicts == 0
    assert execution.months(asset_key(SILVER_SALES_ORDERS))[str(NEXT + 1)]["inserted"] == 2


def test_a_broken_rule_stops_what_is_downstream(past: Past) -> None:
    """A key written twice by hand fails the blocking check of its table; the assets below do not
    run.
    """
    world = past.world.copied()
    order_line = world.lakehouse.rows(SILVER_SALES_ORDERS).iloc[[-1]]
    world.lakehouse.append(SILVER_SALES_ORDERS, order_line.to_dict("records"))
    execution = world.run("monthly_data", NEXT)
    assert not execution.success
    failed = [
        e.asset_check_evaluation_data
        for e in execution.events
        if e.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    broken = {check.asset_key: check.description for check in failed if not check.passed}
    assert broken == {asset_key(SILVER_SALES_ORDERS): f"{NEXT}: 1 rows break key_unique"}
    assert execution.months(asset_key(SILVER_SALES_ORDERS))
    assert not any(
        execution.months(asset_key(spec))
        for spec in (PARTS, MONTHLY_DEMAND, DEMAND_FEATURES, DATA_QUALITY)
    )


def test_an_old_month_made_again_does_not_make_a_table_fresh(past: Past) -> None:
    """While the newest complete month is missing, the check of the table warns and names it,
    whatever was made last.
    """
    world = past.world.copied()
    world.lakehouse.ledger.forget(DEMAND_FEATURES, LAST)
    warned = checked_on(world.run("monthly_data", FIRST), DEMAND_FEATURES)
    assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert warned.description == f"missing: {LAST}"
    assert checked_on(world.run("monthly_data", LAST), DEMAND_FEATURES).passed


def checked_on(execution: Execution, spec: TableSpec) -> Any:
    """What the check of the months of a table found."""
    (found,) = (
        data
        for event in execution.events
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        and (data := event.asset_check_evaluation_data).check_name == "no_month_waits"
        and data.asset_key == asset_key(spec)
    )
    return found


def test_a_run_of_several_months_tells_which_month_is_broken(past: Past) -> None:
    """The check has a verdict on each month and one on all of them, as a run of one month has one
    on that month.
    """
    world = past.world.copied()
    order_line = world.lakehouse.rows(SILVER_SALES_ORDERS).iloc[[-1]]
    month = int(order_line["yyyymm"].iloc[0])
    before = add_months(month, -1)
    world.lakehouse.append(SILVER_SALES_ORDERS, order_line.to_dict("records"))

    def verdicts(execution: Execution) -> dict[str | None, bool]:
        found = (
            event.asset_check_evaluation_data
            for event in execution.events
            if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        )
        rules = dg.AssetCheckKey(asset_key(SILVER_SALES_ORDERS), "rules_kept")
        return {check.partition: check.passed for check in found if check.asset_check_key == rules}

    assert verdicts(world.run("monthly_data", before, month)) == {
        str(before): True,
        str(month): False,
        None: False,
    }
    assert verdicts(world.run("monthly_data", before)) == {str(before): True}


def test_an_adopted_table_is_read_by_month_and_never_written(spark: SparkSession) -> None:
    """Its months are registered and go through silver; bronze of our own holds no line of it."""
    adopted = {
        "name": "erp",
        "mode": "adopt",
        "table": "my_catalog.my_bronze.orders",
        "columns": SOURCE["columns"],
    }
    world = World(
        FakeLakehouse(session=spark),
        settings=Settings(lakehouse_root="nowhere", first_month=FIRST, sources=(adopted,)),
    )
    orders = pd.DataFrame(order_lines(FIRST, FIRST + 1)[1:])
    world.lakehouse.external["my_catalog.my_bronze.orders"] = spark.createDataFrame(orders)
    executions = [
        world.run("register_deliveries", FIRST),
        world.run("monthly_data", FIRST, FIRST + 1),
    ]
    assert all(execution.success for execution in executions), [
        e.failure() for e in executions if not e.success
    ]
    assert sorted(world.lakehouse.rows(SILVER_SALES_ORDERS)["yyyymm"]) == [
        FIRST,
        FIRST + 1,
        FIRST + 1,
    ]
    assert not [entry for entry in world.journal if entry == "append bronze.sales_orders"]
    assert (
        executions[1].months(asset_key(BRONZE_SALES_ORDERS))[str(FIRST + 1)][
            "dagster/partition_row_count"
        ]
        == 2
    )
