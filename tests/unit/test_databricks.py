"""Engine databricks without a workspace: which session it takes, what it sets, how it holds a
frame, and what it does without packages that a platform must not have.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from resources.engines import DatabricksEngine, spark_resource
from resources.settings import ConfigurationError, load_settings, parse_settings
from resources.spark import SparkStartError, take_databricks
from resources.writers import Scope
from tests.conftest import SOURCE, units_table

ROOT = Path(__file__).parents[2]
ALLOWED = {"spark.sql.session.timeZone", "spark.sql.ansi.enabled", "spark.sql.shuffle.partitions"}


class GivenSession:
    """A session of serverless compute as its documentation tells: few settings, no JVM, a time
    zone; it records what is asked of it.
    """

    def __init__(self, zone: str = "Etc/UTC", **confs: str):
        self.confs = {"spark.sql.session.timeZone": zone, **confs}
        self.asked: list[str] = []
        self.conf = SimpleNamespace(get=self._get, set=self._set)

    def _get(self, key: str, default: str | None) -> str | None:
        return self.confs.get(key, default)

    def _set(self, key: str, value: str) -> None:
        if key not in ALLOWED:
            raise RuntimeError(f"[CONFIG_NOT_AVAILABLE] Configuration {key} is not available.")
        self.asked.append(f"SET {key}={value}")
        self.confs[key] = value

    def sql(self, text: str) -> Any:
        self.asked.append(text)
        zone = self.confs["spark.sql.session.timeZone"]
        return SimpleNamespace(collect=lambda: [(zone,)])


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a session the active one of this process; starting another is an error."""
    from pyspark.sql import SparkSession

    monkeypatch.setenv("MOUNT_ALLOW_UNSAFE_RENAME", "")
    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)

    def make_active(session: GivenSession | None) -> None:
        monkeypatch.setattr(SparkSession, "getActiveSession", classmethod(lambda cls: session))

    return make_active


def test_the_given_session_is_taken(given: Any) -> None:
    """Only what differs is set, one by one; nothing is started."""
    session = GivenSession("America/New_York", **{"spark.sql.ansi.enabled": "true"})
    given(session)
    assert take_databricks({"spark.sql.shuffle.partitions": 8}) is cast("Any", session)
    assert session.asked == [
        "SET spark.sql.session.timeZone=UTC",
        "SET spark.sql.shuffle.partitions=8",
        "SELECT current_timezone()",
    ]


def test_without_a_session_none_is_started(given: Any) -> None:
    """Outside Databricks it says where to start instead."""
    given(None)
    with pytest.raises(SparkStartError, match="this process has none"):
        take_databricks({})


def test_a_setting_that_is_refused_is_named(given: Any) -> None:
    """With the reason of the platform and what to do."""
    given(GivenSession())
    with pytest.raises(
        SparkStartError, match=r"refuses the setting spark.executor.memory: \[CONFIG.*classic"
    ):
        take_databricks({"spark.executor.memory": "4g"})


def test_a_session_of_another_zone_is_refused(given: Any) -> None:
    """The zone decides the month of an order, so that a setting without effect is noticed."""
    session = GivenSession("UTC", **{"spark.sql.ansi.enabled": "true"})
    session.sql = lambda text: SimpleNamespace(collect=lambda: [("Europe/Berlin",)])  # type: ignore[method-assign]
    given(session)
    with pytest.raises(SparkStartError, match="keeps the time zone Europe/Berlin"):
        take_databricks({})


class ServerlessFrame:
    """A frame of serverless compute: it can be written and not be kept."""

    schema = "units BIGINT"

    def __init__(self, session: Any):
        self.session = session
        self.write = SimpleNamespace(parquet=lambda folder: Path(folder).mkdir(parents=True))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"[NOT_SUPPORTED_WITH_SERVERLESS] {name}")


def test_a_frame_is_held_in_files(tmp_path: Path) -> None:
    """Not by persist or a checkpoint, which serverless compute refuses; the files go when it is
    released.
    """
    read: list[str] = []
    session = SimpleNamespace(
        read=SimpleNamespace(
            schema=lambda schema: SimpleNamespace(
                parquet=lambda folder: read.append(folder) or ServerlessFrame(None)
            )
        )
    )
    engine = DatabricksEngine(
        cast("Any", lambda: session), "databricks", scratch=tmp_path / "scratch"
    )
    held = engine.hold(cast("Any", ServerlessFrame(session)))
    (folder,) = read
    assert Path(folder).is_dir()
    engine.release(held)
    engine.release(held)
    assert not Path(folder).exists()


def test_the_resource_makes_the_engine_without_a_session() -> None:
    """It is asked for when a frame is first needed: bronze is registered without one."""
    values = {"CATALOG": "shop", "PROMOTION": "act"}
    settings = load_settings(ROOT / "config/databricks.yaml", values)
    engine = spark_resource(settings).engine()
    assert isinstance(engine, DatabricksEngine)
    assert engine.label.startswith("databricks (pyspark ")
    assert engine.identifier("shop.my_gold.champion", "/Volumes/shop/my_gold/lakehouse/x") == (
        "delta.`/Volumes/shop/my_gold/lakehouse/x`"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lakehouse_root": "lakehouse"}, "lakehouse_root: engine databricks reads and writes"),
        ({"lakehouse_root": "/Volumes/shop/my_gold"}, "'/Volumes/shop/my_gold' is in none"),
        ({"sources": [SOURCE]}, "sources.shop.files: engine databricks"),
        ({"mlflow": {}}, "mlflow.tracking_uri: with engine databricks name a server"),
    ],
)
def test_files_that_databricks_would_not_see_are_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    """A folder of the driver alone would look empty to Spark, and all would be made again."""
    content = {
        "engine": "databricks",
        "lakehouse_root": "/Volumes/shop/my_gold/lakehouse",
        "first_month": 202201,
        "sources": [SOURCE | {"files": "/Volumes/shop/my_bronze/landing/*.csv"}],
        "mlflow": {"tracking_uri": "databricks", "experiment": "/Shared/demand"},
    }
    parse_settings(content, tmp_path / "right.yaml")
    with pytest.raises(ConfigurationError, match=told):
        parse_settings(content | changes, tmp_path / "wrong.yaml")


def test_the_wheel_works_beside_the_platforms_spark() -> None:
    """Definitions, commands and the engine come up where none of the packages of extra `local` is
    installed but the platform's own pyspark.
    """
    absent = ("dagster_pyspark", "dagster_webserver", "delta", "pysail", "grpc_status")
    program = f"""
        import sys
        sys.modules.update(dict.fromkeys({absent!r}))
        from pathlib import Path
        from medallion_assets import cli
        from medallion_assets.definitions import build_defs, build_resources
        from medallion_assets.operations import runs, steps, summary
        from resources.engines import DatabricksEngine
        from resources.settings import load_settings
        values = {{"CATALOG": "shop", "PROMOTION": "act"}}
        settings = load_settings("config/databricks.yaml", values)
        made = build_resources(settings)
        assert isinstance(made["spark"].engine(), DatabricksEngine)
        assert build_defs(settings, made).resolve_job_def("monthly_forecast")
    """
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], cwd=ROOT, check=True
    )


class WrittenFrame:
    """A frame on its way into a table: it becomes a view."""

    def where(self, condition: str) -> WrittenFrame:
        return self

    def repartition(self, *columns: str) -> WrittenFrame:
        return self

    def createOrReplaceTempView(self, name: str) -> None:
        pass


def test_statements_name_tables_by_path_and_months_by_literals() -> None:
    """What a write sends: one statement, on the months of its slices alone, and never a removal of
    what the source lacks.
    """
    texts: list[str] = []
    session = SimpleNamespace(
        sql=texts.append, catalog=SimpleNamespace(dropTempView=lambda name: None)
    )
    engine = DatabricksEngine(cast("Any", lambda: session), "databricks")
    path = "/Volumes/shop/my_gold/lakehouse/my_gold/units"
    writer = engine.writer(cast("Any", None), lambda spec: engine.identifier("shop.g.units", path))
    scope = Scope(units_table("units"), (202401, 202402))
    frame = cast("Any", WrittenFrame())
    writer.replace(scope, cast("Any", None), frame, {202401: 3, 202402: 4})
    writer.change(scope, cast("Any", None), frame, frame)
    inserted, merged = texts
    assert inserted.startswith(
        f"INSERT INTO delta.`{path}` REPLACE WHERE `yyyymm` IN (202401, 202402) SELECT `yyyymm`,"
    )
    assert merged.startswith(f"MERGE INTO delta.`{path}` AS target USING rows_")
    assert "ON target.`yyyymm` IN (202401, 202402) AND target.`part_number`" in merged
    assert "NOT MATCHED BY SOURCE" not in merged


LINKLESS = """
#include <errno.h>
int link(const char *from, const char *to) { errno = EPERM; return -1; }
int linkat(int a, const char *from, int b, const char *to, int c) { errno = EPERM; return -1; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_tables_can_be_written_where_files_have_no_links(tmp_path: Path) -> None:
    """As those of a Volume: delta-rs needs a variable there, which the engine sets."""
    (tmp_path / "links.c").write_text(LINKLESS)
    library = tmp_path / "links.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "links.c")]
    subprocess.run(command, check=True)
    program = """
        import sys, pyarrow as pa
        from deltalake import write_deltalake, DeltaTable
        from pyspark.sql import SparkSession
        SparkSession.getActiveSession = classmethod(lambda cls: None)
        from resources.spark import SparkStartError, take_databricks
        if sys.argv[2] == "engine":
            try:
                take_databricks({})
            except SparkStartError:
                pass
        for _ in range(2):
            write_deltalake(sys.argv[1], pa.table({"units": [1]}), mode="append")
        assert DeltaTable(sys.argv[1]).version() == 1
    """

    def written(how: str) -> int:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / how), how],
            cwd=ROOT,
            env={"LD_PRELOAD": str(library), "PATH": "/usr/bin:/bin"},
            capture_output=True,
        ).returncode

    assert written("plain") != 0
    assert written("engine") == 0
