"""What `medallion step` takes for names and months, and what Dagster Pipes is told of a run."""

from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest
from dagster_pipes import PipesContext

from medallion_assets import cli
from medallion_assets.definitions import build_defs, build_resources
from medallion_assets.operations import steps
from medallion_assets.operations.steps import PipesReports, month_named, select
from medallion_assets.table_asset import asset_key
from medallion_assets.tables import CHAMPION, DEMAND_FEATURES
from medallion_assets.zoo.assets import model_key
from resources.errors import Refused
from resources.settings import Settings


@pytest.fixture
def defs(settings: Settings) -> dg.Definitions:
    chosen = settings.zoo.model_copy(update={"models": ("ses", "tsb")})
    settings = settings.model_copy(update={"zoo": chosen})
    return build_defs(settings, build_resources(settings))


def test_a_job_is_run_as_dagster_runs_it(defs: dg.Definitions) -> None:
    """The name of one job means the job itself, with its tags and checks."""
    assert select(defs, ["retraining"]) == ("retraining", [])


def test_tables_models_and_jobs_can_be_listed(defs: dg.Definitions) -> None:
    """Each asset once, whether named by its table, its key or a job; a table of several writers
    means all of them.
    """
    job, assets = select(defs, ["gold.champion", "silver/demand_features", "gold.champion"])
    assert (job, assets) == ("", [asset_key(CHAMPION), asset_key(DEMAND_FEATURES)])
    assert select(defs, ["gold.zoo_forecast"])[1] == [
        model_key(name) for name in ("seasonal_naive", "ses", "tsb")
    ]
    assert select(defs, ["gold/zoo_forecast/tsb"])[1] == [model_key("tsb")]
    assert asset_key(CHAMPION) in select(defs, ["retraining", "silver.parts"])[1]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("gold.champions", "gold/champion"), ("retrainings", "retraining"), ("gold", "known: ")],
)
def test_an_unknown_name_is_refused(defs: dg.Definitions, name: str, hint: str) -> None:
    """With what was perhaps meant; a whole layer is no asset."""
    with pytest.raises(Refused, match=f"'{name}' is no job and no asset; .*{hint}"):
        select(defs, [name])


def session(settings: Settings, *, touched: list[int], complete: list[int]) -> Any:
    return SimpleNamespace(settings=settings, months=lambda: (touched, complete))


def test_months_have_words_for_schedules(settings: Settings) -> None:
    """A schedule that knows no month names it by what is stored."""
    stored = session(settings, touched=[202203, 202204, 202205], complete=[202203, 202204])
    words = ("202204", "first", "newest", "complete")
    assert [month_named(stored, word) for word in words] == [202204, 202203, 202205, 202204]
    assert month_named(stored, "running") >= 202609


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("complete", "register_deliveries"),
        ("2022-04", "is no month: write yyyymm"),
        ("202213", "is no month"),
        ("202112", "none of the months of this configuration"),
    ],
)
def test_a_month_that_is_not_there_is_refused(settings: Settings, word: str, told: str) -> None:
    """With what to write, or what to run first."""
    with pytest.raises(Refused, match=told):
        month_named(session(settings, touched=[], complete=[]), word)


def test_every_trigger_is_told_apart(settings: Settings) -> None:
    """The command offers what steps.py knows how to tag."""
    assert set(cli.TRIGGERS) == set(steps.TRIGGERS)


class RecordedPipes:
    """Keeps what it is told, as PipesContext takes it: one report for each asset."""

    is_asset_step = True

    def __init__(self, asset_keys: list[str], checks: list[str]):
        self.asset_keys, self.extras = asset_keys, {"checks": checks}
        self.told: list[tuple[Any, ...]] = []
        self.log = SimpleNamespace(
            log=lambda level, text: self.told.append(("log", text)),
            info=lambda text: self.told.append(("info", text)),
            warning=lambda text: self.told.append(("warning", text)),
            error=lambda text: self.told.append(("error", text)),
        )

    def report_asset_materialization(
        self, metadata: dict[str, Any], data_version: str | None, asset_key: str
    ) -> None:
        assert asset_key not in [entry[1] for entry in self.told if entry[0] == "asset"]
        self.told.append(("asset", asset_key, metadata))

    def report_asset_check(self, check_name: str, passed: bool, **_: Any) -> None:
        self.told.append(("check", check_name, passed))


def run_reported(pipes: RecordedPipes) -> None:
    """Run two assets with a check over two months, one of them unknown to Pipes."""
    months = dg.StaticPartitionsDefinition(["202201", "202202"])

    @dg.asset(partitions_def=months, backfill_policy=dg.BackfillPolicy.single_run())
    def demand(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        for key, rows in (("202201", 3), ("202202", 4)):
            context.add_asset_metadata({"dagster/partition_row_count": rows}, partition_key=key)
        context.log.info("two months")
        return dg.MaterializeResult(metadata={"seconds": 0.5})

    @dg.asset(partitions_def=months, backfill_policy=dg.BackfillPolicy.single_run())
    def other() -> None: ...

    @dg.asset_check(asset=demand)
    def rows_kept() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    @dg.asset_check(asset=demand)
    def no_drift() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description="sums moved")

    job = dg.Definitions(
        assets=[demand, other],
        asset_checks=[rows_kept, no_drift],
        executor=dg.in_process_executor,
    ).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = dg.DagsterRun(job_name=job.name).run_id
        instance.add_event_listener(run_id, PipesReports(cast("PipesContext", pipes)).event)
        span = {
            "dagster/asset_partition_range_start": "202201",
            "dagster/asset_partition_range_end": "202202",
        }
        job.execute_in_process(instance=instance, run_id=run_id, tags=span)


def test_pipes_is_told_of_each_asset_once() -> None:
    """Pipes refuses a second report of an asset: the months of a range are one report."""
    pipes = RecordedPipes(["demand"], ["demand:rows_kept"])
    run_reported(pipes)
    ((_, _, metadata),) = (entry for entry in pipes.told if entry[0] == "asset")
    assert metadata["months"] == 2
    assert metadata["rows_by_month"]["raw_value"] == {"202201": 3, "202202": 4}
    assert metadata["seconds"] == 0.5


def test_pipes_is_told_only_what_it_expects() -> None:
    """A check or asset that its step does not declare would fail there, so it is logged."""
    pipes = RecordedPipes(["demand"], ["demand:rows_kept"])
    run_reported(pipes)
    assert [entry for entry in pipes.told if entry[0] == "check"] == [("check", "rows_kept", True)]
    assert ("info", "other was made for 2 month(s)") in pipes.told
    assert ("warning", "check demand no_drift failed: sums moved") in pipes.told
    assert ("log", "two months") in pipes.told
