"""Queries of the embedded engine that stand still are ended: at its memory limit some would wait
for ever.

DataFusion's repartition spills into files of which it reads only the oldest; where two tasks spill
at once it may wait for a batch that lies in the other (apache/datafusion#24883, mended there in
September 2026, not yet in a release of Sail).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

SECONDS_STILL = 60.0
SECONDS_BETWEEN_LOOKS = 1.0
TICKS_OF_NOTHING = 1  # hundredths of a second that idle threads may use between two looks


class QueryStalled(Exception):
    """A query used no processor for SECONDS_STILL and was ended; another attempt may pass, more
    memory will.
    """


class StalledQueries(grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]
    """Watches the queries that a client of the embedded engine has open, and ends them when the
    engine stands still.

    ``is_working_for_them``: whether other processes work for the queries meanwhile. Without /proc,
    which tells what the engine's threads use, nothing is watched.
    """

    def __init__(self, is_working_for_them: Callable[[], bool]) -> None:
        self._is_working_for_them = is_working_for_them
        self._open: set[_Watched] = set()
        self._changing = threading.Condition()
        if Path("/proc/self/task").is_dir():
            threading.Thread(target=self._watch, name="stalled-queries", daemon=True).start()

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        call = continuation(client_call_details, request)
        if not client_call_details.method.endswith(("/ExecutePlan", "/ReattachExecute")):
            return call
        watched = _Watched(call)
        with self._changing:
            self._open.add(watched)
            self._changing.notify()
        call.add_done_callback(lambda _: self._close(watched))
        return watched

    def _close(self, watched: _Watched) -> None:
        with self._changing:
            self._open.discard(watched)

    def _watch(self) -> None:
        # Looks are counted, not seconds: a machine that slept has not stood still.
        used, looks = 0, 0
        while True:
            with self._changing:
                self._changing.wait_for(lambda: self._open)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            now = _ticks()
            is_still = now - used <= TICKS_OF_NOTHING and not self._is_working_for_them()
            used = now
            looks = looks + 1 if is_still else 0
            if looks * SECONDS_BETWEEN_LOOKS > SECONDS_STILL:
                self._end_open()
                looks = 0

    def _end_open(self) -> None:
        with self._changing:
            stalled = [watched for watched in self._open if watched.age() > SECONDS_STILL]
        for watched in stalled:
            watched.end()


class _Watched:
    """The answers of a call, which raise QueryStalled once the call was ended for standing
    still.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._began = time.monotonic()
        self._is_ended = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            if self._is_ended:
                raise QueryStalled(
                    f"a query stood still for {SECONDS_STILL:.0f} s and was ended, most likely at"
                    " the embedded engine's memory limit (apache/datafusion#24883). Nothing was"
                    " half-written. Run it again; if it comes again, set embedded.memory_gb"
                    " higher, make fewer months at once, or use engine: spark."
                ) from error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def age(self) -> float:
        return time.monotonic() - self._began

    def end(self) -> None:
        self._is_ended = True
        self._call.cancel()


def _ticks() -> int:
    """Hundredths of a second of processor that the engine's threads of this process have used."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            name, fields = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if name.startswith("tokio"):
            user, system = fields.split()[11:13]
            ticks += int(user) + int(system)
    return ticks
