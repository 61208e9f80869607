"""Times as they are stored: right whatever zone the host is in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytestmark = pytest.mark.spark

# What a process of a host in another zone stores: decisions and events through rows, a forecast's stamp as a literal.
SCRIPT = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from deltalake import DeltaTable
from pyspark.sql import functions as F
from medallion_assets.plans import Plans
from medallion_assets.tables import CHAMPION, PLAN
from medallion_assets.zoo.champions import append_decisions
from medallion_assets.zoo.promotion import Decision
from resources.settings import parse_settings
from resources.spark import start_session
from tests.conftest import SOURCE, open_lakehouse
from tests.fakes import filled

folder = Path(sys.argv[1])
settings = parse_settings({"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [SOURCE]}, folder / "test.yaml")
spark = start_session("local[1]", "my_catalog", str(folder / "warehouse"), {"spark.driver.memory": "1g"})
lakehouse = open_lakehouse(spark, settings)
known = {name: value for name, value in filled(CHAMPION, yyyymm=202401).items() if name in Decision.__dataclass_fields__}
append_decisions(lakehouse, [Decision(**known)], lakehouse.rows(CHAMPION))
Plans(lakehouse, "ann", 13).vacuum(CHAMPION)
told = {
    "decided_at": lakehouse.rows(CHAMPION)["decided_at"].iloc[0],
    "recorded_at": lakehouse.rows(PLAN)["recorded_at"].iloc[0],
}
seconds = {name: time.timestamp() for name, time in told.items()}
stamped = spark.range(1).withColumn("published_at", F.lit(datetime.now(UTC)))
seconds["published_at"] = stamped.select(F.unix_timestamp("published_at").alias("s")).collect()[0]["s"]
print("stored", json.dumps(seconds))
"""


def test_times_are_stored_right_where_the_host_is_not_in_utc(tmp_path: Path) -> None:
    """A host in New York stores the moment at which a decision, an event of a plan and a forecast were made."""
    environment = {**os.environ, "TZ": "America/New_York", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    began = datetime.now(UTC).timestamp()
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = json.loads(done.stdout.split("stored", 1)[1])
    ended = datetime.now(UTC).timestamp()
    assert {name: -1 <= seconds - began <= ended - began + 1 for name, seconds in stored.items()} == dict.fromkeys(stored, True)
