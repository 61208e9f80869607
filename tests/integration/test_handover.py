"""All that engine databricks and the registry of Unity Catalog are sent by one training and one
monthly run, held against records/databricks.txt.

The session is the embedded engine's behind a recorder. Statements that it must not run, those that
write, are recorded, and what they would do is done by delta-rs. Runs are kept in a file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
import pytest
from deltalake import CommitProperties, Transaction, write_deltalake

from medallion_assets import definitions
from medallion_assets.definitions import build_defs, build_resources
from medallion_assets.simulation import Simulation, write
from resources.engines import DatabricksEngine, EmbeddedEngine, Engine
from resources.settings import Settings, parse_settings
from resources.spark import take_databricks
from resources.writers import DeltaRsWriter, SparkWriter, Writer
from tests.conftest import open_lakehouse
from tests.unity_catalog import TOKEN, UnityCatalog, unity_catalog

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

pytestmark = [pytest.mark.spark, pytest.mark.integration]

RECORD = Path(__file__).parents[1] / "records" / "databricks.txt"
FIRST, TRAINED, LAST = 202201, 202207, 202208
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# What of a call differs from run to run, and what stands in the record for it.
NAMES = (
    (r"rows_[0-9a-f]{32}", "rows_<id>"),
    (r"VERSION AS OF \d+", "VERSION AS OF <version>"),
    (r"/scratch/[^/]+/[0-9a-f]{32}", "/scratch/<process>/<id>"),
)
LATE = "Order No,Item Code,Order Date,Qty,Unit Price\nL-1,P-10001,28/07/2022 10:00,500,2.50\n"
READ = re.compile(r"SELECT \* FROM delta\.`(.+)` VERSION AS OF (\d+)")


class Record:
    """Calls in the order in which each was first seen, with how often it came. Those that name the
    folder ``ignored`` are not the engine's.
    """

    def __init__(self, root: str, ignored: str):
        self.calls: Counter[str] = Counter()
        self._ignored = ignored
        self._names = ((re.escape(root), "<lakehouse>"), *NAMES)

    def note(self, where: str, told: str) -> None:
        if self._ignored in told:
            return
        for pattern, name in self._names:
            told = re.sub(pattern, name, told)
        self.calls[f"{where}: {told}"] += 1

    def told(self) -> list[str]:
        # How many files a model has is no matter of calls.
        lines = [
            f"{'n' if '/api/2.0/fs/' in call else count:>4} x {call}"
            for call, count in self.calls.items()
        ]
        self.calls.clear()
        return lines


@dataclass
class RecordedSession:
    """The session that Databricks would give: it notes what it is asked, and answers by the
    embedded engine's.
    """

    embedded: EmbeddedEngine
    record: Record

    @property
    def conf(self) -> RecordedSession:
        return self

    @property
    def catalog(self) -> RecordedSession:
        return self

    def get(self, key: str, default: str | None) -> str | None:
        """A setting: as on classic compute, ANSI is off and the zone is another."""
        return {"spark.sql.session.timeZone": "Etc/UTC"}.get(key, "false")

    def set(self, key: str, value: str) -> None:
        self.record.note("session", f"SET {key}={value}")

    def dropTempView(self, name: str) -> None:
        self.record.note("session", f"catalog.dropTempView({name})")

    def sql(self, text: str) -> Any:
        self.record.note("session", text)
        if read := READ.fullmatch(text):
            return self.embedded.table("", read[1], int(read[2]))
        if text.startswith(("INSERT", "MERGE")):
            return None  # RecordedWriter does it
        return self.embedded.session.sql(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.embedded.session, name)


@dataclass(frozen=True)
class RecordedWriter:
    """Sends the statements of the Spark writer to the recorder, and lets delta-rs do what they
    say.
    """

    told: Writer
    done: Writer

    def append(self, *given: Any) -> None:
        self.told.append(*given)  # done by the patched append

    def replace(self, *given: Any) -> None:
        self.told.replace(*given)
        self.done.replace(*given)

    def change(self, *given: Any) -> None:
        self.told.change(*given)
        self.done.change(*given)


@dataclass
class RecordedAppend:
    """Rows on their way to the end of a table, under a number."""

    rows: DataFrame
    table: str
    embedded: EmbeddedEngine
    record: Record
    given: Mapping[str, str] = field(default_factory=dict)

    def options(self, **given: str) -> RecordedAppend:
        return replace(self, given=given)

    def append(self) -> None:
        told = f"writeTo({self.table}).options({', '.join(self.given)}).append()"
        self.record.note("frame", told)
        number = Transaction(self.given["txnAppId"], int(self.given["txnVersion"]))
        write_deltalake(
            self.table.removeprefix("delta.`").removesuffix("`"),
            self.embedded.batches(self.rows),
            mode="append",
            commit_properties=CommitProperties(
                custom_metadata={"userMetadata": self.given["userMetadata"]},
                app_transactions=[number],
            ),
        )


@dataclass
class RecordedEngine(DatabricksEngine):
    """Engine databricks over the recorder."""

    embedded: EmbeddedEngine = field(kw_only=True)

    def writer(self, tables: Any, identifier: Any) -> Writer:
        told = SparkWriter(self, tables, identifier)
        return cast("Writer", RecordedWriter(told, DeltaRsWriter(self.embedded.batches)))


def watch_frames(monkeypatch: pytest.MonkeyPatch, embedded: EmbeddedEngine, record: Record) -> None:
    """Note what frames send beside their plans. An append is done by delta-rs."""
    from pyspark.sql.connect.dataframe import DataFrame
    from pyspark.sql.connect.readwriter import DataFrameReader, DataFrameWriter

    def watch(kind: type, name: str, told: Callable[..., str]) -> None:
        method = getattr(kind, name)

        def noted(*given: Any, **named: Any) -> Any:
            record.note("frame", told(*given, **named))
            return method(*given, **named)

        monkeypatch.setattr(kind, name, noted)

    monkeypatch.setattr(
        DataFrame, "writeTo", lambda rows, table: RecordedAppend(rows, table, embedded, record)
    )
    watch(DataFrame, "createOrReplaceTempView", lambda self, name: f"createTempView({name})")
    watch(DataFrameWriter, "parquet", lambda self, path, *_, **__: f"write.parquet({path})")
    watch(DataFrameReader, "parquet", lambda self, *paths, **__: f"read.parquet({paths[0]})")
    for name in ("localCheckpoint", "checkpoint", "persist", "cache"):
        watch(DataFrame, name, lambda *_, name=name, **__: f"{name}()")


def configuration(folder: Path) -> Settings:
    """Twenty simulated parts, one model. Engine and registry are put in afterwards, since with them
    a folder of this machine is refused.
    """
    content = {
        "lakehouse_root": "lakehouse",
        "first_month": FIRST,
        "simulation": {"folder": "landing", "parts": 20, "months": 8, "first_month": FIRST},
        "sources": [
            {
                "name": "wholesaler",
                "files": "landing/*.csv",
                "closed_through": LAST,
                "columns": {
                    "order_id": "Order No",
                    "part_number": "Item Code",
                    "order_date": "Order Date",
                    "quantity": "Qty",
                    "unit_price": "Unit Price",
                },
                "date_formats": ["dd/MM/yyyy HH:mm", "dd/MM/yyyy"],
                "rules": {"product_pattern": "^P-", "cancellation_pattern": "^C"},
                "delivery": {"settle_seconds": 0},
            }
        ],
        "forecast": {"horizon": 2, "origins": 1, "k_min": 1},
        "zoo": {"models": ["ses"], "buckets": 1},
    }
    made = parse_settings(content, folder / "handover.yaml")
    registry = {"registry_uri": "databricks-uc", "experiment": "/Shared/demand_forecasting"}
    return made.model_copy(
        update={"engine": "databricks", "mlflow": made.mlflow.model_copy(update=registry)}
    )


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[UnityCatalog]:
    with unity_catalog() as served:
        monkeypatch.setenv("DATABRICKS_HOST", served.address)
        monkeypatch.setenv("DATABRICKS_TOKEN", TOKEN)
        monkeypatch.delenv("DATABRICKS_CONFIG_PROFILE", raising=False)
        yield served


def test_what_is_sent_is_what_the_record_says(
    engine: Engine, catalog: UnityCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One training, and one monthly run to which a line of the month before comes late: statements,
    settings, views and held frames that leave for the session, and requests to Unity Catalog with
    the names of what they carry.
    """
    from pyspark.sql import SparkSession

    if not isinstance(engine, EmbeddedEngine):
        pytest.skip("the recorder answers by the embedded engine")
    settings = configuration(tmp_path)
    write(Simulation(parts=20, months=8, first_month=FIRST, seed=7), tmp_path / "landing")
    record = Record(settings.lakehouse_root, str(engine.scratch))
    catalog.listener = lambda told: record.note("unity catalog", told)
    session = RecordedSession(engine, record)
    watch_frames(monkeypatch, engine, record)
    monkeypatch.setattr(SparkSession, "getActiveSession", classmethod(lambda cls: session))
    taken = take_databricks({})
    recorded = RecordedEngine(
        lambda: taken,
        "databricks (recorded)",
        scratch=Path(settings.lakehouse_root, "scratch"),
        embedded=engine,
    )
    resources = build_resources(settings)
    resources["lakehouse"] = dg.ResourceDefinition.hardcoded_resource(
        open_lakehouse(recorded, settings)
    )
    made = build_defs(settings, resources)
    late = tmp_path / "landing" / "late.csv"
    told = ["# the session is taken", *record.told()]
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        for job, first, last in (
            ("register_deliveries", *(int(definitions.newest_partition(settings)),) * 2),
            ("monthly_data", FIRST, TRAINED),
            ("retraining", TRAINED, TRAINED),
            ("register_deliveries", *(int(definitions.newest_partition(settings)),) * 2),
            ("monthly_forecast", TRAINED, LAST),
        ):
            result = made.resolve_job_def(job).execute_in_process(
                instance=instance,
                tags={
                    "dagster/asset_partition_range_start": str(first),
                    "dagster/asset_partition_range_end": str(last),
                },
                run_config=QUIET,
            )
            assert result.success
            sent = record.told()
            if job in ("retraining", "monthly_forecast"):
                told += ["", f"# {job} {last}", *sent]
            late.write_text(LATE)
    new = tmp_path / RECORD.name
    new.write_text("\n".join(told) + "\n", encoding="utf-8")
    assert new.read_text(encoding="utf-8") == RECORD.read_text(encoding="utf-8"), (
        f"what is sent has changed; where that is meant, copy {new} to {RECORD}"
    )
