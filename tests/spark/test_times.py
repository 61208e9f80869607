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

# What a process of a host in another zone stores: decisions and events through rows, a forecast's
# stamp as a literal.
SCRIPT = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from deltalake import DeltaTable
from pyspark.sql import functions as F
from medallion_assets.plans import Plans
from medallion_assets.tables import CHAMPION, PLAN
from medallion_assets.champion.stewardship import append_decisions
from medallion_assets.champion.promotion import Decision
from resources.engines import spark_resource
from resources.settings import parse_settings
from tests.conftest import SOURCE, open_lakehouse
from tests.fakes import filled

folder = Path(sys.argv[1])
content = {"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [SOURCE]}
content |= {"engine": sys.argv[2]}
settings = parse_settings(content, folder / "test.yaml")
engine = spark_resource(settings).engine()
lakehouse = open_lakehouse(engine, settings)
row = filled(CHAMPION, yyyymm=202401)
known = {name: value for name, value in row.items() if name in Decision.__dataclass_fields__}
append_decisions(lakehouse, [Decision(**known)], lakehouse.rows(CHAMPION))
Plans(lakehouse, "ann", 13).vacuum(CHAMPION)
told = {
    "decided_at": lakehouse.rows(CHAMPION)["decided_at"].iloc[0],
    "recorded_at": lakehouse.rows(PLAN)["recorded_at"].iloc[0],
}
seconds = {name: time.timestamp() for name, time in told.items()}
stamped = engine.session.range(1).withColumn("published_at", F.lit(datetime.now(UTC)))
published = stamped.select(F.unix_timestamp("published_at").alias("s"))
seconds["published_at"] = published.collect()[0]["s"]
print("stored", json.dumps(seconds))
"""


def test_times_are_stored_right_where_the_host_is_not_in_utc(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A host in New York stores the moment at which a decision, an event of a plan and a forecast
    were made.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SAIL_", "SPARK_"))
    }
    environment = {
        **inherited,
        "TZ": "America/New_York",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    began = datetime.now(UTC).timestamp()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), request.config.getoption("--engine")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = json.loads(done.stdout.split("stored", 1)[1])
    ended = datetime.now(UTC).timestamp()
    assert {
        name: -1 <= seconds - began <= ended - began + 1 for name, seconds in stored.items()
    } == dict.fromkeys(stored, True)
