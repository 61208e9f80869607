"""Dagster's records in SQLite, written at half the price.

Dagster makes an SQLAlchemy engine for each event, which compiles its statements anew; a run over 48
months has a thousand events.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool


@dataclass
class _Together:
    """The connections of a thread whose events are stored together."""

    thread: int
    opened: ExitStack
    connections: dict[str, Connection] = field(default_factory=dict)


class KeptEngines(SqliteEventLogStorage):
    """The event log in the same files as Dagster's own, with one engine for each file."""

    def __init__(self, base_dir: str, inst_data: Any = None) -> None:
        self._engines: dict[str, Engine] = {}
        self._together: _Together | None = None
        super().__init__(base_dir, inst_data)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Store the events of this thread in one transaction for each file, which takes a fraction
        of the time of one for each event. Other threads wait; an error stores none of them.
        """
        with self._db_lock, ExitStack() as opened:
            self._together = _Together(threading.get_ident(), opened)
            try:
                yield
            finally:
                self._together = None

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        together = self._together
        if together is not None and together.thread == threading.get_ident():
            if shard not in together.connections:
                connection = together.opened.enter_context(self._opened(shard))
                together.connections[shard] = connection
            yield together.connections[shard]
            return
        with self._db_lock, self._opened(shard) as connection:
            yield connection

    @contextmanager
    def _opened(self, shard: str) -> Iterator[Connection]:
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


def together(storage: EventLogStorage) -> AbstractContextManager[None]:
    """``KeptEngines.together`` where the storage has it; other storages store event by event."""
    return storage.together() if isinstance(storage, KeptEngines) else nullcontext()


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
