"""Dagster's records in SQLite, written at half the price.

Dagster makes an SQLAlchemy engine for each event, which compiles its statements anew; a run over 48
months has a thousand events.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool


class KeptEngines(SqliteEventLogStorage):
    """The event log in the same files as Dagster's own, with one engine for each file."""

    def __init__(self, base_dir: str, inst_data: Any = None) -> None:
        self._engines: dict[str, Engine] = {}
        super().__init__(base_dir, inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            if shard not in self._engines:
                # Without a pool: a connection that stayed open would hold the file, also in a
                # process that was forked.
                arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
                self._engines[shard] = create_engine(
                    self.conn_string_for_shard(shard), poolclass=NullPool, connect_args=arguments
                )
            engine = self._engines[shard]
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection


class SqliteStorage(DagsterSqliteStorage):
    """Dagster's default storage with an event log of kept engines. The files are Dagster's: either
    storage reads what the other wrote.
    """

    def __init__(self, base_dir: str, inst_data: Any = None) -> None:
        super().__init__(base_dir, inst_data)
        self._event_log_storage = KeptEngines(f"{base_dir}/history/runs/")

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> SqliteStorage:
        return cls.from_local(inst_data=inst_data, **config_value)
