"""Engines: where Spark's API runs, how a frame is held, how Python code reaches all cores, who
writes.

Everything that an engine needs beyond the DataFrame API and SQL lies here and in spark.py. An
engine is asked what it can, never which one it is.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import re
import shutil
import tempfile
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import dagster as dg
from pydantic import PrivateAttr

from resources import workers
from resources.delta_tables import DeltaTables
from resources.processes import is_leftover, own_name
from resources.settings import Settings
from resources.spark import (
    speak_connect,
    start_connect,
    start_embedded,
    start_session,
    take_databricks,
)
from resources.table_spec import TableSpec
from resources.workers import Begun
from resources.writers import DeltaRsWriter, SparkWriter, Writer

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

Body = TypeVar("Body", bound=Callable[..., Any])
Result = TypeVar("Result")


class Engine(Protocol):
    """What differs between engines. Implementations: EmbeddedEngine, SparkEngine,
    DatabricksEngine.
    """

    @property
    def session(self) -> SparkSession: ...

    @property
    def label(self) -> str:
        """Engine and version, as the ledger notes them."""
        ...

    def table(self, name: str, path: str, version: int) -> DataFrame:
        """A table at a version."""
        ...

    def external(self, table: str) -> DataFrame | None:
        """A table that is not ours, by the name that the session's catalog knows; None where it
        knows none.
        """
        ...

    def hold(self, rows: DataFrame) -> DataFrame:
        """The rows, evaluated once and kept until they are released: what is read of them later is
        always the same.
        """
        ...

    def release(self, rows: DataFrame) -> None:
        """Give back what holds the rows."""
        ...

    def batches(self, rows: DataFrame) -> pa.RecordBatchReader:
        """The rows as Arrow batches, one after the other."""
        ...

    def python(self, body: Body) -> Body:
        """A function over pandas frames, for applyInPandas, as this engine runs it on all cores."""
        ...

    def begin(self, work: Callable[[], Result]) -> Begun[Result]:
        """Have a process of this machine do the work, beside others and this one."""
        ...

    def writer(self, tables: DeltaTables, identifier: Callable[[TableSpec], str]) -> Writer: ...

    def identifier(self, name: str, path: str) -> str:
        """What a statement calls a table."""
        ...


@dataclass
class SparkEngine:
    """Apache Spark: a JVM in this process, a cluster, or a Spark Connect server. ``start`` gives
    the session when it is first used.

    ``has_names``: tables are known to the session's catalog by name; otherwise the session reads
    them by path.
    """

    start: Callable[[], SparkSession]
    label: str
    has_names: bool = True
    _registered: set[str] = field(default_factory=set)
    _registering: threading.Lock = field(default_factory=threading.Lock)

    @property
    def session(self) -> SparkSession:
        return self.start()

    def table(self, name: str, path: str, version: int) -> DataFrame:
        return self.session.sql(
            f"SELECT * FROM {self.identifier(name, path)} VERSION AS OF {int(version)}"
        )

    def external(self, table: str) -> DataFrame | None:
        return self.session.table(table) if self.session.catalog.tableExists(table) else None

    def identifier(self, name: str, path: str) -> str:
        """What the session calls a table; one that its catalog does not know is registered
        first.
        """
        if not self.has_names:
            return f"delta.`{path}`"
        with self._registering:
            if f"{name} {path}" not in self._registered:
                self.session.sql(f"CREATE SCHEMA IF NOT EXISTS {name.rsplit('.', 1)[0]}")
                escaped = path.replace("\\", "\\\\").replace("'", "\\'")
                self.session.sql(
                    f"CREATE TABLE IF NOT EXISTS {name} USING DELTA LOCATION '{escaped}'"
                )
                self._registered.add(f"{name} {path}")
        return name

    def forget(self) -> None:
        """Forget which tables the session's catalog knows, after they were dropped there."""
        self._registered.clear()

    def hold(self, rows: DataFrame) -> DataFrame:
        return rows.localCheckpoint()

    def release(self, rows: DataFrame) -> None:
        """Nothing to do: the session frees what a frame holds when nobody refers to it any more."""

    def batches(self, rows: DataFrame) -> pa.RecordBatchReader:
        return rows.toArrow().to_reader()

    def python(self, body: Body) -> Body:
        return body

    def begin(self, work: Callable[[], Result]) -> Begun[Result]:
        return workers.begin(work, cores())

    def writer(self, tables: DeltaTables, identifier: Callable[[TableSpec], str]) -> Writer:
        return SparkWriter(self, tables, identifier)


@dataclass
class DatabricksEngine(SparkEngine):
    """The session that Databricks gives to a job or notebook, classic or serverless.

    Serverless compute refuses to persist or checkpoint a frame, so a held one is Parquet files
    below ``scratch``, a folder that driver and executors see. They go when the frame is released,
    or with the process.
    """

    has_names: bool = False
    scratch: Path = Path()
    _held: weakref.WeakKeyDictionary[Any, Path] = field(default_factory=weakref.WeakKeyDictionary)

    def hold(self, rows: DataFrame) -> DataFrame:
        folder = _own_folder(self.scratch) / uuid.uuid4().hex
        rows.write.parquet(str(folder))
        held = self.session.read.schema(rows.schema).parquet(str(folder))
        self._held[held] = folder
        return held

    def release(self, rows: DataFrame) -> None:
        if folder := self._held.pop(rows, None):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class EmbeddedEngine:
    """Sail in this process: Spark's API without Java. It reads and transforms; delta-rs writes.

    Sail must not write Delta tables: it drops the numbers of appends and lets two writers of one
    slice both succeed. ``scratch`` is the folder of what frames hold, with a subfolder for each
    process. ``memory_bytes`` limits what queries use before they spill, ``cores`` is how many of
    them run at once, and the size of the pool for Python code.
    """

    scratch: Path
    memory_bytes: int
    cores: int
    _held: weakref.WeakKeyDictionary[Any, Path] = field(default_factory=weakref.WeakKeyDictionary)

    def __post_init__(self) -> None:
        speak_connect()

    @property
    def label(self) -> str:
        return f"embedded (pysail {version('pysail')}, deltalake {version('deltalake')})"

    @property
    def session(self) -> SparkSession:
        return start_embedded(self.memory_bytes, self.cores, self._folder(), workers.are_called)

    def table(self, name: str, path: str, version_: int) -> DataFrame:
        return (
            self.session.read.format("delta")
            .option("versionAsOf", int(version_))
            .load(_plain(path))
        )

    def external(self, table: str) -> DataFrame | None:
        return None

    def hold(self, rows: DataFrame) -> DataFrame:
        folder = self._folder() / uuid.uuid4().hex
        session = self.session
        try:
            rows.write.parquet(str(folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # Where there is no row no file is written.
        held = (
            session.read.parquet(str(folder))
            if folder.exists()
            else session.createDataFrame([], rows.schema)
        )
        # Frames made of this one keep its plan, so the files go when the last of them is gone.
        self._held[held._plan] = folder
        weakref.finalize(held._plan, shutil.rmtree, folder, ignore_errors=True)
        return held

    def release(self, rows: DataFrame) -> None:
        if folder := self._held.pop(rows._plan, None):
            shutil.rmtree(folder, ignore_errors=True)

    def batches(self, rows: DataFrame) -> pa.RecordBatchReader:
        import pyarrow as pa
        import pyarrow.dataset as ds
        from pyspark.sql.pandas.types import to_arrow_schema

        held = rows if rows._plan in self._held else self.hold(rows)
        folder = self._held[held._plan]
        if not folder.exists():
            return pa.RecordBatchReader.from_batches(
                to_arrow_schema(rows.schema, timezone="UTC"), []
            )
        dataset = ds.dataset(folder, format="parquet")
        # A column that happens to hold no NULL must not become one of the table that can't.
        schema = pa.schema([pa.field(column.name, column.type) for column in dataset.schema])

        def pieces(kept: DataFrame) -> Iterator[pa.RecordBatch]:
            """The batches; the files stay while the frame is referred to."""
            for batch in dataset.to_batches(batch_readahead=2, fragment_readahead=1):
                yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

        return pa.RecordBatchReader.from_batches(schema, pieces(held))

    def python(self, body: Body) -> Body:
        return workers.in_pool(body, self.cores, self._folder())

    def begin(self, work: Callable[[], Result]) -> Begun[Result]:
        return workers.begin(work, self.cores)

    def identifier(self, name: str, path: str) -> str:
        return f"delta.`{path}`"

    def writer(self, tables: DeltaTables, identifier: Callable[[TableSpec], str]) -> Writer:
        return DeltaRsWriter(self.batches)

    def _folder(self) -> Path:
        return _own_folder(Path(_plain(str(self.scratch))))


def leftovers(scratch: Path) -> list[Path]:
    """Folders below ``scratch`` whose process, of this machine, was killed; the next process that
    holds a frame removes them.
    """
    folders = scratch.iterdir() if scratch.is_dir() else ()
    return [folder for folder in folders if is_leftover(folder.name)]


@functools.lru_cache(1024)
def _plain(path: str) -> str:
    """The path, or a link to it: Sail finds no Delta table below a folder whose name has blanks,
    umlauts or signs of a pattern.
    """
    if re.fullmatch(r"[\w./+&-]+", path, re.ASCII):
        return path
    link = (
        _own_folder(Path(tempfile.gettempdir()) / "medallion_links")
        / hashlib.sha256(path.encode()).hexdigest()[:16]
    )
    if not link.is_symlink():
        link.symlink_to(path)
    return str(link)


@functools.lru_cache
def _own_folder(scratch: Path) -> Path:
    """The folder of this process below ``scratch``, removed at its end; those of processes that
    were killed are removed now.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    for folder in leftovers(scratch):
        shutil.rmtree(folder, ignore_errors=True)
    own = scratch / own_name()
    own.mkdir(exist_ok=True)
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return own


_tokens: dict[str, str] = {}


def _resource_base() -> Any:
    """dagster-pyspark's resource; where that is not installed, because it would bring a pyspark
    beside the platform's, one with the same interface.
    """
    try:
        from dagster_pyspark import LazyPySparkResource
    except ImportError:
        return _SessionResource
    return LazyPySparkResource


class _SessionResource(dg.ConfigurableResource):
    """As dagster-pyspark's LazyPySparkResource, without a pyspark of its own."""

    spark_config: dict[str, Any]
    _spark_session: Any = PrivateAttr(default=None)

    def _init_session(self) -> None:
        raise NotImplementedError

    @property
    def spark_session(self) -> Any:
        self._init_session()
        return self._spark_session


class SparkResource(_resource_base()):  # type: ignore[misc]
    """The engine of the configuration, started when first used and shared by all runs of the
    process.

    ``master`` is where engine spark runs, ``address`` the server of engine connect; its token is
    kept apart and never shown.
    """

    engine_name: Literal["embedded", "spark", "connect", "databricks"] = "embedded"
    master: str = "local[*]"
    address: str = ""
    catalog: str = "my_catalog"
    scratch: str
    memory_gb: float
    _spark_session: Any = PrivateAttr(default=None)

    def engine(self) -> Engine:
        """The engine; equal settings give one and the same."""
        conf = tuple(sorted((key, str(value)) for key, value in self.spark_config.items()))
        return _engine(
            self.engine_name,
            self.master,
            self.address,
            self.catalog,
            self.scratch,
            self.memory_gb,
            conf,
        )

    def _init_session(self) -> None:
        if self._spark_session is None:
            self._spark_session = self.engine().session

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """The session outlives the run, not the process: starting one costs seconds, and a run's
        process ends with the run.
        """


def spark_resource(settings: Settings) -> SparkResource:
    """The engine that a configuration names, as a resource."""
    if settings.connect.token:
        _tokens[settings.connect.address] = settings.connect.token
    return SparkResource(
        spark_config=dict(settings.spark.conf),
        engine_name=settings.engine,
        master=settings.spark.master,
        address=settings.connect.address,
        catalog=settings.catalog,
        scratch=f"{settings.lakehouse_root}/scratch",
        memory_gb=settings.embedded.memory_gb or round(machine_memory() / 2**31, 1),
    )


@functools.lru_cache
def _engine(  # noqa: PLR0913, PLR0917 - the key of its cache: equal settings, one engine
    name: str,
    master: str,
    address: str,
    catalog: str,
    scratch: str,
    memory_gb: float,
    conf: tuple[tuple[str, str], ...],
) -> Engine:
    if name == "embedded":
        return EmbeddedEngine(Path(scratch), int(memory_gb * 2**30), cores())
    if name == "connect":
        speak_connect()
        start = functools.partial(
            start_connect, address, _tokens.get(address), Path(scratch), dict(conf)
        )
        return SparkEngine(
            functools.lru_cache(start), f"connect (pyspark {version('pyspark')})", has_names=False
        )
    if name == "databricks":
        take = functools.lru_cache(functools.partial(take_databricks, dict(conf)))
        return DatabricksEngine(take, f"databricks ({_pyspark()})", scratch=Path(scratch))
    start = functools.partial(start_session, master, catalog, scratch, dict(conf))
    return SparkEngine(start, f"spark (pyspark {version('pyspark')})")


def _pyspark() -> str:
    """The pyspark that is installed, which a platform brings under another distribution's name."""
    import pyspark

    return f"pyspark {pyspark.__version__}"


def cores() -> int:
    """Cores of this machine: how many processes work beside each other."""
    return os.cpu_count() or 2


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or what its container allows."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    return min(machine, int(allowed)) if allowed.isdigit() else machine
