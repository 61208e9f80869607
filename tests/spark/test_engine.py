"""What an engine promises: a held frame is evaluated once, Python code reaches all cores and keeps
its errors, nothing stays behind.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import functions as F

from resources.engines import EmbeddedEngine, Engine
from resources.errors import without_stack
from resources.spark import SparkStartError, cores_of, start_session
from resources.workers import WorkerEnded

pytestmark = pytest.mark.spark
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def embedded(engine: Engine) -> EmbeddedEngine:
    """The embedded engine; a test of it says nothing about another."""
    if not isinstance(engine, EmbeddedEngine):
        pytest.skip("of the embedded engine")
    return engine


def test_a_held_frame_is_evaluated_once(engine: Engine) -> None:
    """What a source gives anew each time is the same in all that is read of it once it is held."""
    held = engine.hold(engine.session.range(1000).select(F.rand().alias("drawn")))
    first, second = (
        held.agg(F.sum("drawn").alias("total")).collect()[0]["total"] for _ in range(2)
    )
    assert first == second
    engine.release(held)


def test_a_held_frame_without_rows_keeps_its_columns(engine: Engine) -> None:
    """Nothing held is nothing read, with names and types."""
    empty = engine.session.createDataFrame([(1, "a", 1.5)], "n int, text string, x double").where(
        "n > 1"
    )
    held = engine.hold(empty)
    assert (held.collect(), held.dtypes) == ([], empty.dtypes)
    assert engine.batches(held).read_all().num_rows == 0


def test_files_of_a_held_frame_go_with_it(embedded: EmbeddedEngine) -> None:
    """Files stay while a frame made of the held one is there, and go when it is released or
    forgotten.
    """
    before = set(embedded._folder().iterdir())
    held = embedded.hold(embedded.session.range(10).toDF("n"))
    larger = held.where("n > 5")
    (folder,) = set(embedded._folder().iterdir()) - before
    del held
    gc.collect()
    assert larger.count() == 4
    del larger
    gc.collect()
    assert not folder.exists()


def test_python_code_runs_in_as_many_processes_as_cores(embedded: EmbeddedEngine) -> None:
    """Groups of rows are worked on by other processes than this one, and by more than one of
    them.
    """

    def worked(rows: pd.DataFrame) -> pd.DataFrame:
        time.sleep(0.2)
        return pd.DataFrame({"bucket": rows["bucket"].head(1), "pid": os.getpid()})

    rows = embedded.session.range(400).select((F.col("id") % 8).alias("bucket"))
    found = (
        rows.groupBy("bucket")
        .applyInPandas(embedded.python(worked), "bucket bigint, pid bigint")
        .toPandas()
    )
    assert len(found) == 8
    assert len(set(found["pid"]) - {os.getpid()}) == embedded.cores


def test_an_error_of_python_code_is_told(engine: Engine) -> None:
    """What a function raises reaches the one who asked, with its text, and the next call works."""

    def fails(rows: pd.DataFrame) -> pd.DataFrame:
        raise ValueError("part P7 has no price")

    rows = engine.session.range(4).toDF("n")
    with pytest.raises(Exception, match="part P7 has no price"):
        rows.groupBy("n").applyInPandas(engine.python(fails), "n bigint").collect()
    assert rows.groupBy("n").applyInPandas(engine.python(lambda own: own), "n bigint").count() == 4


def test_a_worker_that_is_killed_is_told_and_replaced(embedded: EmbeddedEngine) -> None:
    """Memory that ran out ends a process, not the engine: the message says so, and the next call
    has new processes.
    """

    def dies(rows: pd.DataFrame) -> pd.DataFrame:
        os.kill(os.getpid(), signal.SIGKILL)
        return rows

    rows = embedded.session.range(2).toDF("n")
    with pytest.raises(Exception, match=WorkerEnded.__name__):
        rows.groupBy("n").applyInPandas(embedded.python(dies), "n bigint").collect()
    assert (
        rows.groupBy("n").applyInPandas(embedded.python(lambda own: own), "n bigint").count() == 2
    )


LEAVES = """
import sys, time
from pathlib import Path
import pandas as pd
from resources.engines import EmbeddedEngine
engine = EmbeddedEngine(Path(sys.argv[1]), 2**30, 2)
held = engine.hold(engine.session.range(1000).toDF("n"))
held.groupBy("n").applyInPandas(engine.python(lambda rows: rows.head(1)), "n bigint").count()
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
"""


def _leave(scratch: Path, seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("SPARK_CONNECT_MODE_ENABLED", None)
    command = [sys.executable, "-c", LEAVES, str(scratch), str(seconds)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_process_leaves_no_process_and_the_next_removes_its_files(
    embedded: EmbeddedEngine, tmp_path: Path
) -> None:
    """Workers end with the process that was killed, and what it held is gone once another process
    holds something there.
    """
    killed = _leave(tmp_path, 600)
    (left,) = tmp_path.iterdir()
    assert any(left.iterdir())
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    deadline = time.monotonic() + 20
    while (members := _group(killed.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not members
    after = _leave(tmp_path, 0)
    assert after.wait(timeout=60) == 0
    assert list(tmp_path.iterdir()) == []


def _group(leader: int) -> list[int]:
    """Processes of the group that a process led, of those that are no zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def run_apart(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A script over a folder in a process of its own, with an engine that it configures itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAIL_")}
    return subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env={**kept, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


MEMORY = """
import sys
from pathlib import Path
from pyspark.sql import functions as F
from resources.engines import EmbeddedEngine
engine = EmbeddedEngine(Path(sys.argv[1]), 64 * 2**20, 2)
text = F.sha2(F.col("id").cast("string"), 256).alias("text")
rows = engine.session.range(4_000_000).select("id", text)
print("sorted", rows.orderBy("text").agg(F.count("*").alias("n")).collect()[0]["n"], flush=True)
held = engine.hold(rows.repartition(2, "id"))
others = engine.hold(rows.withColumnRenamed("text", "other"))
print("joined", held.join(others, "id").agg(F.max("other"), F.max("text")).collect())
"""


def test_a_query_beyond_the_memory_limit_fails_with_what_to_do(
    embedded: EmbeddedEngine, tmp_path: Path
) -> None:
    """What can spill is finished; what can't is an error that names the setting, and the process
    lives to tell it.
    """
    ended = run_apart(MEMORY, tmp_path)
    assert "sorted 4000000" in ended.stdout
    assert ended.returncode == 1
    assert "embedded.memory_gb" in without_stack(ended.stderr)


BUCKETS = """
import sys
from pathlib import Path
import pandas as pd
from pyspark.sql import functions as F
from medallion_assets.zoo.buckets import apply_by_bucket
from resources.engines import EmbeddedEngine

def counted(left, right):
    return pd.DataFrame({"left": [len(left)], "right": [len(right)]})

engine = EmbeddedEngine(Path(sys.argv[1]), 256 * 2**20, 2)
ids = engine.session.range(20_000)
months = F.sequence(F.lit(1), F.lit(60)).cast("array<double>")
histories = ids.select(F.col("id").cast("string").alias("part_number"), months.alias("sold"))
cells = engine.session.range(120_000).select(
    F.floor(F.col("id") / 6).cast("string").alias("part_number"),
    *(F.col("id").cast("double").alias(f"q{n}") for n in range(14)),
)
made = apply_by_bucket(
    engine.hold(histories), cells, 20, counted, "left bigint, right bigint",
    in_engine=engine.python,
)
print(made.agg(F.sum("left"), F.sum("right"), F.count("*")).collect()[0][:])
"""


def test_buckets_of_many_parts_keep_within_the_memory_limit(
    embedded: EmbeddedEngine, tmp_path: Path
) -> None:
    """The engine can't spill what it groups: all buckets at once were counted as several times the
    limit, and 100,000 parts could not be published.
    """
    ended = run_apart(BUCKETS, tmp_path)
    assert "(20000, 120000, 20)" in ended.stdout, ended.stderr[-3000:]


EVALUATED = """
import sys
from pathlib import Path
from pyspark.sql import functions as F
from medallion_assets.champion.evaluation import model_evaluation
from medallion_assets.tables import DECILES, DEMAND_CLASSES, ZOO_RESULT
from resources.engines import EmbeddedEngine
from resources.settings import PromotionSettings

engine = EmbeddedEngine(Path(sys.argv[1]), 384 * 2**20, 2)
MODELS, PARTS, HORIZON = 8, 2_000, 6
n = F.col("id")
model, part = n % MODELS, F.floor(n / MODELS) % PARTS
horizon = F.floor(n / (MODELS * PARTS)) % HORIZON
origin = F.floor(n / (MODELS * PARTS * HORIZON))
known = {
    "yyyymm": F.lit(202406),
    "origin": 202301 + origin,
    "horizon": 1 + horizon,
    "target_yyyymm": 202302 + origin + horizon,
    "model": F.concat(F.lit("model_"), model.cast("string")),
    "part_number": F.concat(F.lit("part_"), part.cast("string")),
    "demand_class": F.lit("smooth"),
    "abc_class": F.lit("A"),
    "region": F.lit("North"),
    "is_fallback": F.lit(False),
    **dict.fromkeys(("actual_qty", "naive_rmse_scale", "seasonal_mae_scale"), 1 + part % 7),
}
cells = engine.session.range(MODELS * PARTS * HORIZON * 6).select(
    *(known.get(c.name, 1 + n % 7).cast(c.type).alias(c.name) for c in ZOO_RESULT.columns)
)
folder = Path(sys.argv[1]) / "cells"
cells.write.parquet(str(folder))
seconds = engine.session.createDataFrame([], "yyyymm int, model string, fit_seconds double")
classes = {f"model_{number}": DEMAND_CLASSES for number in range(MODELS)}
stored = engine.session.read.parquet(str(folder))
made = model_evaluation(stored, seconds, classes, PromotionSettings())
rows = made.where("segment_kind = 'all' AND horizon = 0 AND revision_share > 0").collect()
print(len(rows), {row["cell_count"] for row in rows})
"""


def test_an_evaluation_keeps_within_the_memory_limit(
    embedded: EmbeddedEngine, tmp_path: Path
) -> None:
    """Half a million cells of eight models are evaluated in 384 MB, without a need to spill: a
    window over whole rows was refused there, and 2,509 parts with all models were refused at 12 GB.
    """
    ended = run_apart(EVALUATED, tmp_path)
    assert "8 {72000}" in ended.stdout, ended.stderr[-3000:]


STILL = """
import sys, time
from pathlib import Path
from resources import stalled_queries
from resources.engines import EmbeddedEngine

stalled_queries.SECONDS_STILL = 3

def waits(rows):
    time.sleep(8)
    return rows

engine = EmbeddedEngine(Path(sys.argv[1]), 2**30, 2)
rows = engine.session.range(1)
body = engine.python(waits)
print("of the pool", rows.groupBy("id").applyInPandas(body, "id bigint").count(), flush=True)
try:
    engine.hold(rows.groupBy("id").applyInPandas(waits, "id bigint"))
except stalled_queries.QueryStalled as error:
    print("ended:", error, flush=True)
left = [place.name for place in engine._folder().iterdir() if len(place.name) == 32]
print("next", rows.count(), left, flush=True)
"""


def test_a_query_that_stands_still_is_ended(embedded: EmbeddedEngine, tmp_path: Path) -> None:
    """A query for which nobody works is ended with what to do and leaves nothing; one that waits
    for the pool is not; the next runs.
    """
    ended = run_apart(STILL, tmp_path)
    said = ended.stdout.splitlines()
    assert said[:1] == ["of the pool 1"], ended.stderr
    assert said[1].startswith("ended: a query stood still for 3 s")
    assert "embedded.memory_gb" in said[1]
    assert said[2] == "next 1 []"


@pytest.mark.parametrize(
    ("master", "cores"),
    [("local", 1), ("local[3]", 3), ("local[3,2]", 3), ("local[*]", os.cpu_count())],
)
def test_cores_are_those_of_a_local_master(master: str, cores: int) -> None:
    """Only a local session says how many partitions it wants."""
    assert cores_of(master) == cores


@pytest.mark.parametrize(
    "master",
    ["spark://node1:7077", "k8s://https://10.1.2.3:6443", "yarn", "local-cluster[2,1,1024]"],
)
def test_an_address_says_nothing_of_cores(master: str) -> None:
    """Digits of a cluster's address are no number of partitions."""
    with pytest.raises(ValueError, match="no local session"):
        cores_of(master)


def test_a_session_of_the_jvm_in_a_client_of_connect_is_refused(
    embedded: EmbeddedEngine, tmp_path: Path
) -> None:
    """A variable that turns sessions into clients is named, not met as an attribute that is missing
    somewhere else.
    """
    with pytest.raises(SparkStartError, match="SPARK_CONNECT_MODE_ENABLED"):
        start_session("local[1]", "my_catalog", str(tmp_path), {})


START = """
import sys
from pathlib import Path
from resources.engines import EmbeddedEngine
from resources.errors import Refused
try:
    print(EmbeddedEngine(Path(sys.argv[1]), 2**30, 1).session.range(5).count())
except Refused as error:
    print(error)
"""


def started(folder: Path, **variables: str) -> str:
    """What a process of its own says that starts the embedded engine in an environment."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SAIL_", "SPARK_"))
    }
    environment = {
        **inherited,
        **variables,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-c", START, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    return done.stdout.strip()


def test_a_proxy_of_the_environment_is_not_asked_for_the_embedded_engine(tmp_path: Path) -> None:
    """Behind a company's proxy, which knows nothing of this process, the engine answers."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    assert started(tmp_path, **proxies, no_proxy="", NO_PROXY="", no_grpc_proxy="") == "5"


def test_an_engine_that_does_not_start_says_why(tmp_path: Path) -> None:
    """A setting of the environment that it can't read is quoted, with the variable to unset."""
    said = started(tmp_path, SAIL_MODE="nonsense")
    assert said.startswith("the embedded engine did not start: failed to load the application")
    assert "found `nonsense`" in said
    assert said.endswith("unset SAIL_MODE in the environment, or correct the value")


def test_the_same_rows_have_the_same_version_in_any_order(engine: Engine) -> None:
    """A held frame of shuffled rows sums up to the same whole numbers."""
    rows = [(i, f"P{i}") for i in range(200)]
    random.Random(3).shuffle(rows)
    frame = engine.hold(engine.session.createDataFrame(rows, "n bigint, part string"))
    assert (
        frame.agg(F.sum(F.xxhash64("n", "part") % 1000).alias("s")).collect()
        == engine.session.createDataFrame(sorted(rows), "n bigint, part string")
        .agg(F.sum(F.xxhash64("n", "part") % 1000).alias("s"))
        .collect()
    )
