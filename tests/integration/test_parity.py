"""The same orders give the same bits on every engine: versions of all slices, decisions, forecasts;
each goes on from another.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from medallion_assets.operations import runs
from medallion_assets.simulation import Simulation, write
from medallion_assets.tables import CHAMPION, DEMAND_FORECAST, MONTHLY_DEMAND
from resources.ledger import LEDGER, newest
from tests.conftest import slow
from tests.faults.scenario import FIRST, LAST, Scenario, content, differences
from tests.servers import WORKER_PYTHON, connect_server, standalone_cluster
from tests.unportable import REWRITES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]
long = pytest.mark.skipif(
    "PARITY" not in os.environ, reason="takes many minutes on a JVM; make parity runs it"
)

FORECAST = {"horizon": 1, "origins": 2, "k_min": 2, "min_history": 4}
HEADER = "Order No,Item Code,Customer,Region,Order Date,Qty,Unit Price,Item Description\n"
FEW_MODELS = ["tsb", "auto_ets", "xgboost_global"]
FEW_ROUNDS = {name: {"rounds": 20} for name in ("xgboost_global", "sklearn_hist_gradient")}
# Published and decided rows carry versions and times of their run; their numbers are compared as
# rows.
OF_THE_RUN = (CHAMPION.id, DEMAND_FORECAST.id)


def data_versions(scenario: Scenario) -> pd.Series:
    """The newest data version of every slice: table, month and writer."""
    records = newest(runs.reader(scenario.settings).rows(LEDGER))
    records = records[~records["table_id"].isin(OF_THE_RUN)]
    return records.set_index(["table_id", "yyyymm", "writer"])["data_version"].sort_index()


def apart(one: Scenario, other: Scenario) -> list[str]:
    """Slices whose versions differ, and rows that differ beyond what names a run."""
    pairs = pd.concat({"one": data_versions(one), "other": data_versions(other)}, axis=1)
    unequal = pairs[pairs["one"] != pairs["other"]]
    return [f"{table} {month} {writer}" for table, month, writer in unequal.index] + differences(
        content(one.settings), content(other.settings)
    )


def made(folder: Path, engine: str, models: list[str] | None = None, **changes: Any) -> Scenario:
    """A scenario's lakehouse, run from nothing and again after a late file, with some models or
    all.
    """
    zoo = {
        "models": models,
        "buckets": 4,
        "parameters": FEW_ROUNDS if models is None else {},
    }
    scenario = Scenario(folder).create(engine=engine, forecast=FORECAST, zoo=zoo, **changes)
    scenario.run(1200)
    scenario.deliver_late()
    scenario.run(1200)
    return scenario


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """A few models on the embedded engine."""
    return made(tmp_path_factory.mktemp("embedded"), "embedded", FEW_MODELS)


@slow
def test_embedded_and_spark_make_the_same_bits(embedded: Scenario, tmp_path: Path) -> None:
    """All slices of all tables, decisions and forecasts of a few models, from nothing and after a
    late file.
    """
    assert apart(embedded, made(tmp_path / "spark", "spark", FEW_MODELS)) == []


@long
def test_embedded_and_spark_make_the_same_bits_with_all_models(tmp_path: Path) -> None:
    """All slices of all tables, decisions and forecasts, from nothing and after a late file."""
    one, other = (made(tmp_path / engine, engine) for engine in ("embedded", "spark"))
    assert len(data_versions(one)) > 100
    assert apart(one, other) == []


@long
@pytest.mark.parametrize("rewrite", ["", *REWRITES])
def test_the_bits_differ_where_a_portable_expression_is_taken_back(
    rewrite: str, tmp_path: Path
) -> None:
    """Without it the engines make other slices; with all of them, the same ones: parity is tested
    by something that can fail.
    """
    last = FIRST + 200 + 1  # two years and two months: some figures are against the year before
    versions = {}
    for engine in ("embedded", "spark"):
        scenario = Scenario(tmp_path / engine).create(None, engine=engine)
        write(Simulation(parts=60, months=26, first_month=FIRST, seed=3), scenario.landing)
        scenario.python("tests.unportable", rewrite, str(FIRST), str(last))
        versions[engine] = data_versions(scenario)
    pairs = pd.concat(versions, axis=1)
    assert len(pairs) > 150
    apart = sorted(set(pairs[pairs["embedded"] != pairs["spark"]].index.get_level_values(0)))
    assert bool(apart) == bool(rewrite), apart


@long
def test_a_lakehouse_is_continued_by_the_other_engine_and_back(
    embedded: Scenario, tmp_path: Path
) -> None:
    """The other engine finds nothing to do; after a further line both lakehouses are the same, and
    the ledger tells who made what.

    Back on the first engine there is nothing to do again.
    """
    kept, moved = (Scenario(tmp_path / name) for name in ("kept", "moved"))
    for copy in (kept, moved):
        shutil.copytree(embedded.folder, copy.folder)
    _set_engine(moved, "spark")
    assert "Nothing to do" in moved.run()
    for scenario in (kept, moved):
        line = f"MORE-1,P-00003,C1,North,07/{LAST % 100:02d}/{LAST // 100},15,2.50,late\n"
        (scenario.folder / "landing" / "more.csv").write_text(f"{HEADER}{line}")
        scenario.run()
    assert apart(kept, moved) == []
    engines = (
        runs.reader(moved.settings).rows(LEDGER, ["engine"])["engine"].str.split().str[0].unique()
    )
    assert set(engines) == {"embedded", "spark"}
    _set_engine(moved, "embedded")
    assert "Nothing to do" in moved.run()


@long
def test_a_changed_line_a_backfill_and_an_undo_make_the_same_bits(
    embedded: Scenario, tmp_path: Path
) -> None:
    """A file is delivered again with one quantity corrected, a month of demand is made again by a
    plan, and the table is restored and that undone: the lakehouses of both engines are the same
    after each.
    """
    month = str(FIRST + 4)
    one, other = (Scenario(tmp_path / engine) for engine in ("embedded", "spark"))
    for scenario, engine in ((one, "embedded"), (other, "spark")):
        shutil.copytree(embedded.folder, scenario.folder)
        _set_engine(scenario, engine)
        file = next((scenario.folder / "landing").glob(f"*_{month}.csv"))
        header, first, *lines = file.read_text().splitlines(keepends=True)
        cells = first.split(",")
        cells[header.split(",").index("Qty")] = "17"
        file.write_text("".join([header, ",".join(cells), *lines]))
        scenario.run(1200)
    assert apart(one, other) == []
    for scenario in (one, other):
        _apply(scenario, "backfill", MONTHLY_DEMAND.id, "--from", month, "--to", month)
    assert apart(one, other) == []
    plans = {}
    for scenario in (one, other):
        # To before the corrected line.
        before = runs.reader(scenario.settings).version(MONTHLY_DEMAND) - 1
        plans[scenario.folder] = _apply(scenario, "restore", MONTHLY_DEMAND.id, "--to", str(before))
    assert apart(one, other) == []
    for scenario in (one, other):
        scenario.command("undo", plans[scenario.folder])
        scenario.run(1200)
    assert apart(one, other) == []


def _apply(scenario: Scenario, *act: str) -> str:
    """Plan an act and carry it out; the plan's name."""
    told = scenario.command("plan", *act)
    found = re.search(r"medallion apply (\S+)", told)
    assert found is not None, told
    scenario.command("apply", found[1])
    return found[1]


@long
def test_two_workers_of_a_cluster_make_the_same_bits(embedded: Scenario, tmp_path: Path) -> None:
    """A standalone master with two workers gives what the embedded engine gives, and both workers
    finished tasks.
    """
    with standalone_cluster(tmp_path / "cluster") as master:
        conf = {
            "spark.pyspark.python": WORKER_PYTHON["PYSPARK_PYTHON"],
            "spark.executor.memory": "1g",
            "spark.driver.host": "127.0.0.1",
        }
        cluster = made(
            tmp_path / "scenario",
            "spark",
            FEW_MODELS,
            spark={"master": master, "conf": {**conf, "spark.sql.shuffle.partitions": 2}},
        )
        done = {
            worker.name: sum(
                len(re.findall("Finished task", log.read_text())) for log in worker.rglob("stderr")
            )
            for worker in (tmp_path / "cluster").glob("worker_[12]")
        }
    assert apart(embedded, cluster) == []
    assert len(done) == 2
    assert min(done.values()) > 100


@long
def test_a_connect_server_of_another_zone_makes_the_same_bits(
    embedded: Scenario, tmp_path: Path
) -> None:
    """A Spark Connect server in another process, folder and time zone gives what the embedded
    engine gives.
    """
    with connect_server(tmp_path / "server") as address:
        connected = made(tmp_path / "scenario", "connect", FEW_MODELS, connect={"address": address})
    assert apart(embedded, connected) == []


def _set_engine(scenario: Scenario, engine: str) -> None:
    configuration = yaml.safe_load(scenario.config.read_text(encoding="utf-8"))
    scenario.config.write_text(yaml.safe_dump(configuration | {"engine": engine}), encoding="utf-8")
