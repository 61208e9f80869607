"""Sensors: each fires once for its cause and says why it doesn't otherwise, on real Delta tables
and without Spark.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster_deltalake import DeltaTableResource, LocalConfig
from deltalake import write_deltalake

from medallion_assets.champion.decisions import trained_months
from medallion_assets.partitions import add_months, month_partitions
from medallion_assets.watch.sensors import (
    RANGE_END_TAG,
    RANGE_START_TAG,
    SETTLE_SECONDS,
    build_sensors,
)
from resources.settings import Settings

COLUMNS = {
    "order_id": "o",
    "part_number": "p",
    "order_date": "d",
    "quantity": "q",
    "unit_price": "u",
}
FIRST_MONTH = 202101
MONTH = pa.struct(
    [
        ("yyyymm", pa.int32()),
        ("line_count", pa.int64()),
        ("last_day", pa.int32()),
        ("content_version", pa.string()),
    ]
)
DELIVERIES = pa.schema(
    [
        ("delivery_id", pa.string()),
        ("sequence", pa.int64()),
        ("source", pa.string()),
        ("file_name", pa.string()),
        ("byte_count", pa.int64()),
        ("content_hash", pa.string()),
        ("months", pa.list_(MONTH)),
        ("registered_at", pa.timestamp("us", "UTC")),
    ]
)
CHAMPION = pa.schema(
    [
        ("yyyymm", pa.int32()),
        ("decision_number", pa.int64()),
        ("demand_class", pa.string()),
        ("decision", pa.string()),
        ("champion_trained_yyyymm", pa.int32()),
    ]
)
DECISION = pa.schema(
    [
        ("yyyymm", pa.int32()),
        ("decision_number", pa.int64()),
        ("decision", pa.string()),
        ("cause", pa.string()),
        ("reason", pa.string()),
        ("evidence_months", pa.string()),
    ]
)
LEDGER = pa.schema(
    [
        ("table_id", pa.string()),
        ("yyyymm", pa.int32()),
        ("details", pa.string()),
        ("recorded_at", pa.timestamp("us", "UTC")),
    ]
)


class Watch:
    """The sensors of one small lakehouse, ticked one at a time as the daemon does: cursors and the
    instance are kept.
    """

    def __init__(self, folder: Path, mode: str = "act", **monitoring: Any):
        self.landing, self.tables = folder / "landing", folder / "tables"
        source = {"name": "orders", "files": f"{self.landing}/*.csv", "columns": COLUMNS}
        self.settings = Settings(
            lakehouse_root=str(folder),
            first_month=FIRST_MONTH,
            sources=(source,),
            monitoring=monitoring,
            retraining={"mode": mode},
        )
        months = month_partitions(FIRST_MONTH)

        @dg.asset(partitions_def=months)
        def anything() -> None: ...

        names = ("register_deliveries", "monthly_forecast", "retraining")
        jobs = {name: dg.define_asset_job(name, selection=[anything]) for name in names}
        self.sensors = {sensor.name: sensor for sensor in build_sensors(self.settings, **jobs)}
        self.resources = {
            f"{name}_table": DeltaTableResource(
                url=str(self.tables / name), storage_options=LocalConfig()
            )
            for name in ("deliveries", "champion", "decision", "ledger")
        }
        self.definitions = dg.Definitions(
            assets=[anything],
            jobs=list(jobs.values()),
            sensors=list(self.sensors.values()),
            resources=self.resources,
        )
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursors: dict[str, str | None] = {}

    def tick(self, name: str) -> tuple[list[dg.RunRequest], str]:
        """Run requests and skip message of one evaluation; the cursor is kept for the next."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(name),
            definitions=self.definitions,
            resources=self.resources,
        )
        result = self.sensors[name].evaluate_tick(context)
        self.cursors[name] = result.cursor
        return list(result.run_requests or ()), result.skip_message or ""

    def write(self, name: str, schema: pa.Schema, *rows: dict[str, Any]) -> None:
        write_deltalake(
            str(self.tables / name), pa.Table.from_pylist(list(rows), schema=schema), mode="append"
        )

    def deliver(
        self, sequence: int, *months: int, last_day: int = 28, content: bytes = b""
    ) -> None:
        """Register a delivery with ten lines in each month."""
        file = {"byte_count": len(content), "content_hash": hashlib.sha256(content).hexdigest()}
        touched = [
            {
                "yyyymm": month,
                "line_count": 10,
                "last_day": last_day if month else 0,
                "content_version": f"{sequence}",
            }
            for month in months
        ]
        row = {
            "sequence": sequence,
            "delivery_id": f"d{sequence}",
            "source": "orders",
            "file_name": f"{sequence}.csv",
            "months": touched,
        }
        self.write("deliveries", DELIVERIES, row | file | {"registered_at": datetime.now(UTC)})

    def decide(
        self,
        number: int,
        month: int,
        trained: int | None,
        decision: str = "promoted",
        demand_class: str = "smooth",
    ) -> None:
        row = {
            "yyyymm": month,
            "decision_number": number,
            "decision": decision,
            "champion_trained_yyyymm": trained,
        }
        self.write("champion", CHAMPION, row | {"demand_class": demand_class})

    def compute(self, month: int, is_complete: bool = True) -> None:
        """What the ledger holds of a month's features once the monthly job made them."""
        row = {
            "table_id": "silver.demand_features",
            "yyyymm": month,
            "details": json.dumps({"is_complete": is_complete}),
        }
        self.write("ledger", LEDGER, row | {"recorded_at": datetime.now(UTC)})

    def order(
        self, number: int, month: int, decision: str = "retrain", cause: str | None = "drift"
    ) -> None:
        """A row of gold.retraining_decision."""
        row = {
            "yyyymm": month,
            "decision_number": number,
            "decision": decision,
            "cause": cause,
            "evidence_months": f"[{month}]",
        }
        self.write(
            "decision", DECISION, row | {"reason": f"{month}: total_demand_qty z +6.1 (p 0.02)"}
        )

    def ended(self, month: int, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
        """A retraining of a month that has come to this."""
        retraining = self.definitions.resolve_job_def("retraining")
        run = self.instance.create_run_for_job(
            retraining, tags=tags or {"dagster/partition": str(month)}
        )
        kind = {
            dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.RUN_FAILURE,
            dg.DagsterRunStatus.SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
            dg.DagsterRunStatus.CANCELED: dg.DagsterEventType.RUN_CANCELED,
        }.get(status)
        if kind:
            self.instance.report_dagster_event(
                dg.DagsterEvent(kind.value, retraining.name), run.run_id
            )
        return run


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def land(watch: Watch, name: str, text: str = "line", age_seconds: float = 60) -> Path:
    watch.landing.mkdir(exist_ok=True)
    file = watch.landing / name
    file.write_text(text)
    written = time.time() - age_seconds
    os.utime(file, (written, written))
    return file


def partitions(requests: list[dg.RunRequest]) -> list[str | None]:
    return [request.partition_key for request in requests]


def stretches(requests: list[dg.RunRequest]) -> list[tuple[str, str]]:
    return [(request.tags[RANGE_START_TAG], request.tags[RANGE_END_TAG]) for request in requests]


def test_a_new_file_is_registered_once(watch: Watch) -> None:
    """A landed file asks for the newest partition, and for nothing on the next tick."""
    land(watch, "march.csv")
    requests, _ = watch.tick("landing_sensor")
    assert partitions(requests) == [month_partitions(FIRST_MONTH).get_last_partition_key()]
    assert requests[0].tags["medallion/trigger"] == "landing"
    assert requests[0].tags["medallion/evidence"] == "1 new or changed: march.csv"
    assert watch.tick("landing_sensor") == ([], "1 files are known and none is new")


def test_a_changed_file_is_registered_again(watch: Watch) -> None:
    """A file of the same name with other content asks again, under another run key."""
    land(watch, "march.csv")
    first, _ = watch.tick("landing_sensor")
    land(watch, "march.csv", "line\nline")
    second, _ = watch.tick("landing_sensor")
    assert first[0].run_key != second[0].run_key


def test_a_file_that_was_registered_before_starts_nothing(watch: Watch) -> None:
    """The same content with a new date or name is known by its hash; other content of the same size
    is new.
    """
    watch.deliver(1, 202403, content=b"line")
    land(watch, "march.csv")
    assert watch.tick("landing_sensor") == ([], "1 files are known and none is new")
    land(watch, "march.csv", age_seconds=30)
    land(watch, "march again.csv")
    assert watch.tick("landing_sensor") == ([], "2 files are known and none is new")
    land(watch, "other.csv", "LINE")
    assert (
        watch.tick("landing_sensor")[0][0].tags["medallion/evidence"]
        == "1 new or changed: other.csv"
    )


def test_a_half_copied_file_waits(watch: Watch) -> None:
    """A file that was just written to is left alone while it grows, and taken when it is as it was
    a tick before.
    """
    land(watch, "march.csv", "lin", age_seconds=0)
    assert watch.tick("landing_sensor") == (
        [],
        "0 files are known and none is new; march.csv may still be growing",
    )
    land(watch, "march.csv", "line\nli", age_seconds=-SETTLE_SECONDS)
    assert watch.tick("landing_sensor")[0] == []
    assert len(watch.tick("landing_sensor")[0]) == 1


def test_a_missing_folder_is_a_skip(watch: Watch) -> None:
    """Without its folder the sensor says so, and what it knew of it is kept for its return."""
    land(watch, "march.csv")
    watch.tick("landing_sensor")
    watch.landing.rename(watch.landing.with_name("elsewhere"))
    requests, reason = watch.tick("landing_sensor")
    assert requests == []
    assert f"the folder {watch.landing} does not exist" in reason
    watch.landing.with_name("elsewhere").rename(watch.landing)
    assert watch.tick("landing_sensor")[0] == []


def test_touched_months_are_forecast_once(watch: Watch) -> None:
    """A delivery asks for its months and the one before, which it may complete; month 0 is no
    partition.
    """
    watch.deliver(1, 0, 202402, 202403)
    requests, _ = watch.tick("deliveries_sensor")
    assert stretches(requests)[-1][1] == "202403"
    watch.deliver(2, 0, 202404)
    requests, _ = watch.tick("deliveries_sensor")
    assert stretches(requests) == [("202403", "202404")]
    assert requests[0].run_key == "deliveries-2-d2-202403-202404"
    assert requests[0].tags["medallion/evidence"] == "1 deliveries through number 2 (d2)"
    assert watch.tick("deliveries_sensor") == ([], "no delivery since number 2")


def test_a_corrected_mapping_asks_for_the_months_that_it_changed(watch: Watch) -> None:
    """A further record of a delivery asks for the months that its lines left and came to, not for
    those of which it says the same.
    """
    schema = DELIVERIES.append(pa.field("record_number", pa.int64()))
    row = {"sequence": 1, "delivery_id": "d1", "source": "orders", "file_name": "1.csv"}
    later = {202112: 5, 202201: 5}
    said = [{202101: 9, 202104: 9}, {202101: 9, 202104: 0, 202108: 9}]
    for number, lines in enumerate(said, 1):
        months = [
            {"yyyymm": m, "line_count": n, "last_day": 28} for m, n in (lines | later).items()
        ]
        record = row | {"months": months, "record_number": number}
        facts = {"byte_count": 0, "content_hash": "", "registered_at": datetime.now(UTC)}
        watch.write("deliveries", schema, record | facts)
        requests, _ = watch.tick("deliveries_sensor")
    assert stretches(requests) == [("202103", "202104"), ("202107", "202108")]
    assert watch.tick("deliveries_sensor") == ([], "no delivery since number 2")


def test_gaps_give_several_runs(watch: Watch) -> None:
    """Late lines of two far months are two stretches, each with its own run."""
    watch.deliver(1, 202401, 202402, 202403, 202404, 202405, 202406)
    watch.tick("deliveries_sensor")
    watch.deliver(2, 202402, 202406)
    assert stretches(watch.tick("deliveries_sensor")[0]) == [
        ("202401", "202402"),
        ("202405", "202406"),
    ]


def test_months_that_became_complete_are_forecast(watch: Watch) -> None:
    """Months without lines become complete with the month after them, long after the delivery
    before.
    """
    watch.deliver(1, 202401)
    watch.deliver(2, 202405)
    watch.tick("deliveries_sensor")
    watch.deliver(3, 202406)
    assert stretches(watch.tick("deliveries_sensor")[0]) == [("202402", "202406")]


@pytest.mark.parametrize("name", ["deliveries_sensor", "freshness_sensor", "drift_sensor"])
def test_a_missing_table_is_a_skip(watch: Watch, name: str) -> None:
    """Before the first delivery every sensor that reads tables says what it waits for."""
    requests, reason = watch.tick(name)
    assert requests == []
    assert reason.startswith("bronze.deliveries does not exist yet")


def test_an_old_champion_is_trained_again_once(watch: Watch) -> None:
    """Four months behind the newest complete month, with three allowed, the oldest class
    decides.
    """
    watch.deliver(1, 202401, 202404, 202405, 202406)
    watch.decide(1, 202401, 202401)
    watch.decide(2, 202405, 202405, demand_class="lumpy")
    watch.compute(202405)
    requests, _ = watch.tick("freshness_sensor")
    assert partitions(requests) == ["202405"]
    assert requests[0].run_key == "freshness-202405-202401-1"
    assert "lag 4 months, limit 3" in requests[0].tags["medallion/evidence"]
    requests, reason = watch.tick("freshness_sensor")
    assert requests == []
    assert "already requested" in reason


def test_a_fresh_champion_is_left_alone(watch: Watch) -> None:
    """Within the allowed lag nothing is trained."""
    watch.deliver(1, 202404, 202405, 202406)
    watch.decide(1, 202402, 202402)
    requests, reason = watch.tick("freshness_sensor")
    assert requests == []
    assert (
        reason
        == "newest complete month 202405, oldest champion trained in 202402: lag 3 months, limit 3"
    )


def test_the_first_champion_waits_for_enough_history(watch: Watch) -> None:
    """Without a champion the first training is asked for as soon as it can promote anybody."""
    enough = add_months(FIRST_MONTH, 12 + 6 + 2)
    watch.deliver(1, FIRST_MONTH, enough)
    requests, reason = watch.tick("freshness_sensor")
    assert requests == []
    assert "has 0 evidence origins, 3 are needed" in reason
    watch.deliver(2, add_months(enough, 1))
    watch.compute(enough)
    requests, _ = watch.tick("freshness_sensor")
    assert requests[0].run_key == f"freshness-{enough}-none-1"


def test_a_month_is_trained_once_its_features_are_there(watch: Watch) -> None:
    """A complete month that the monthly job has not made, or made while it was partial, waits; old
    months made again change nothing.
    """
    watch.deliver(1, 202405, 202406)
    watch.decide(1, 202401, 202401)
    for computed in ((202310, True), (202405, False)):
        watch.compute(*computed)
        requests, reason = watch.tick("freshness_sensor")
        assert requests == []
        assert reason.endswith(
            "silver.demand_features has no complete 202405 yet, the monthly job makes it"
        )
    watch.compute(202405)
    assert partitions(watch.tick("freshness_sensor")[0]) == ["202405"]


def test_a_new_month_on_the_clock_is_no_complete_one(watch: Watch) -> None:
    """Lines of a running month make training no older; once they reach its end and the next begins,
    they do.
    """
    watch.decide(1, 202402, 202402)
    watch.deliver(1, 202405, 202406)
    watch.deliver(2, 202406, last_day=3)
    assert watch.tick("freshness_sensor")[0] == []
    watch.deliver(3, 202406, 202407)
    watch.compute(202406)
    assert partitions(watch.tick("freshness_sensor")[0]) == ["202406"]


def test_a_decision_retrains_once(watch: Watch) -> None:
    """The stored decision on the newest complete month asks for its training; tags name the
    decision and its evidence.
    """
    watch.deliver(1, 202405, 202406)
    watch.order(7, 202405)
    requests, _ = watch.tick("drift_sensor")
    assert partitions(requests) == ["202405"]
    assert requests[0].run_key == "drift-202405-1"
    told = {
        "trigger": "drift",
        "decision": "7",
        "evidence": "202405: total_demand_qty z +6.1 (p 0.02)",
    }
    assert (
        requests[0].tags.items()
        >= {f"medallion/{name}": value for name, value in told.items()}.items()
    )
    requests, reason = watch.tick("drift_sensor")
    assert requests == []
    assert "already requested" in reason


@pytest.mark.parametrize(
    ("decision", "cause", "told"),
    [
        ("watch", None, "watch: 202405: total"),
        ("retrain", "training_lag", "the freshness sensor acts on that"),
    ],
)
def test_other_decisions_are_told(
    watch: Watch, decision: str, cause: str | None, told: str
) -> None:
    """What is not retraining because of drift is shown as the reason why nothing was started."""
    watch.deliver(1, 202405, 202406)
    watch.order(7, 202405, decision, cause)
    requests, reason = watch.tick("drift_sensor")
    assert requests == []
    assert told in reason


def test_a_decision_on_a_past_month_is_no_cause(watch: Watch) -> None:
    """A newer complete month must be decided upon first; of several rows the newest counts."""
    watch.deliver(1, 202404, 202405, 202406)
    watch.order(1, 202404)
    assert watch.tick("drift_sensor") == (
        [],
        "202405 is complete, but nothing is decided for it yet; the monthly job does that",
    )
    watch.order(2, 202405)
    watch.order(3, 202405, "nothing", None)
    assert watch.tick("drift_sensor")[0] == []


def caused(watch: Watch) -> None:
    """Both causes of a retraining of 202405."""
    watch.deliver(1, 202405, 202406)
    watch.decide(1, 202401, 202401)
    watch.compute(202405)
    watch.order(1, 202405)


BOTH = pytest.mark.parametrize("name", ["freshness_sensor", "drift_sensor"])


@BOTH
@pytest.mark.parametrize("mode", ["suggest", "off"])
def test_a_person_trains_unless_the_mode_is_act(tmp_path: Path, name: str, mode: str) -> None:
    """With suggest and off no sensor starts a training, and says so."""
    watch = Watch(tmp_path, mode)
    caused(watch)
    requests, reason = watch.tick(name)
    assert requests == []
    assert reason.endswith(f"retraining.mode is {mode}, a person starts the training of 202405")


@BOTH
@pytest.mark.parametrize(
    "tags",
    [{"dagster/partition": "202405"}, {RANGE_START_TAG: "202405", RANGE_END_TAG: "202405"}],
    ids=["by a sensor", "from the command line"],
)
def test_a_training_under_way_is_not_asked_for_again(
    watch: Watch, name: str, tags: dict[str, str]
) -> None:
    """A retraining of the month that waits or runs answers both causes; after it the sensor decides
    anew.
    """
    caused(watch)
    run = watch.ended(202405, dg.DagsterRunStatus.NOT_STARTED, **tags)
    requests, reason = watch.tick(name)
    assert requests == []
    assert reason.endswith("training of 202405 is under way")
    watch.instance.delete_run(run.run_id)
    assert partitions(watch.tick(name)[0]) == ["202405"]


@BOTH
def test_a_failed_training_is_tried_again_so_many_times(watch: Watch, name: str) -> None:
    """Each failure asks anew under its own run key, until max_tries; then the reason says what a
    person can do.
    """
    caused(watch)
    for number in (1, 2, 3):
        requests, _ = watch.tick(name)
        assert requests[0].run_key.endswith(f"-{number}")
        assert requests[0].tags.get("medallion/try") == (str(number) if number > 1 else None)
        watch.ended(202405, dg.DagsterRunStatus.FAILURE)
    requests, reason = watch.tick(name)
    assert requests == []
    assert "all 3 trainings of 202405 failed (retraining.max_tries)" in reason
    assert reason.endswith("mend the cause and re-execute it, or wait for the next month")


@BOTH
@pytest.mark.parametrize(
    ("status", "told"),
    [
        (dg.DagsterRunStatus.SUCCESS, "what serves stayed"),
        (dg.DagsterRunStatus.CANCELED, "stopped by a person"),
    ],
)
def test_a_training_that_ended_otherwise_is_not_repeated(
    watch: Watch, name: str, status: dg.DagsterRunStatus, told: str
) -> None:
    """One that succeeded without a new champion, and one that a person stopped, start no loop;
    failures of other months don't count.
    """
    caused(watch)
    watch.ended(202404, dg.DagsterRunStatus.FAILURE)
    watch.ended(202405, status)
    requests, reason = watch.tick(name)
    assert requests == []
    assert told in reason


def test_a_failed_run_is_told(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    """The log says which job failed, for which months, why it was started and what its step said;
    nothing else is done.
    """

    @dg.op
    def fit() -> None:
        raise dg.Failure(description="MLflow can't be reached")

    @dg.job
    def retraining() -> None:
        fit()

    tags = {
        RANGE_START_TAG: "202404",
        RANGE_END_TAG: "202405",
        "medallion/trigger": "drift",
        "medallion/evidence": "two months",
    }
    result = retraining.execute_in_process(instance=watch.instance, tags=tags, raise_on_error=False)
    event = result.filter_events(lambda event: event.is_run_failure)[0]
    context = dg.build_run_status_sensor_context(
        "run_failure_sensor", event, watch.instance, result.dagster_run
    ).for_run_failure()
    capsys.readouterr()
    assert watch.sensors["run_failure_sensor"](context) is None
    told = capsys.readouterr().err
    assert "retraining of 202404 to 202405 failed" in told
    assert "started by drift: two months. fit: MLflow can't be reached" in told


def test_the_newest_decision_of_a_class_counts(watch: Watch) -> None:
    """Restated decisions serve nothing, a champion without training counts from its decision, held
    classes are left out.
    """
    watch.decide(1, 202401, 202401)
    watch.decide(2, 202404, 202404, "refreshed")
    watch.decide(3, 202402, 202402, "restated")
    watch.decide(4, 202403, None, "denied", "lumpy")
    decisions = watch.resources["champion_table"].load().to_pandas()
    assert trained_months(decisions) == {"smooth": 202404, "lumpy": 202403}
    held = decisions.assign(held_until_yyyymm=decisions["demand_class"].map({"lumpy": 999912}))
    assert trained_months(held) == {"smooth": 202404}


def test_settings_switch_the_sensors_on(tmp_path: Path) -> None:
    """Sensors start stopped unless the configuration says otherwise, and tick at its interval."""
    stopped, running = (
        Watch(tmp_path),
        Watch(tmp_path, sensors_start_running=True, sensor_interval_seconds=30),
    )
    assert {sensor.default_status for sensor in stopped.sensors.values()} == {
        dg.DefaultSensorStatus.STOPPED
    }
    assert {sensor.default_status for sensor in running.sensors.values()} == {
        dg.DefaultSensorStatus.RUNNING
    }
    assert {sensor.minimum_interval_seconds for sensor in running.sensors.values()} == {30}


def test_no_sensor_imports_spark(watch: Watch) -> None:
    """A tick of every sensor in a fresh process, with 60 months delivered, computed and decided
    upon, leaves pyspark unimported.
    """
    months = [add_months(FIRST_MONTH, n) for n in range(60)]
    watch.deliver(1, *months)
    watch.decide(1, months[50], months[50])
    for number, month in enumerate(months, 1):
        watch.compute(month)
        watch.order(number, month)
    land(watch, "march.csv")
    script = (
        "import sys, pathlib; from tests.graph.test_sensors import Watch; watch ="
        " Watch(pathlib.Path(sys.argv[1]));ticked = [name for name in watch.sensors if name !="
        " 'run_failure_sensor'];print(sum(len(watch.tick(name)[0]) for name in ticked), 'pyspark'"
        " in sys.modules)"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(watch.landing.parent)]
    ticked = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert ticked.stdout.split() == ["4", "False"]
