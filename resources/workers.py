"""Processes that run Python code: what models learn, and, for the embedded engine, what they
forecast.

As many as there are cores, made when first needed, from a server that has imported what models
need. A function is stored once, and each process loads it once.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import cloudpickle

from resources.errors import Refused

Body = TypeVar("Body", bound=Callable[..., Any])
Result = TypeVar("Result")

LOADED_BODIES = 8  # that a process keeps: models of one origin follow each other
_starting = threading.Lock()
_pools: dict[int, ProcessPoolExecutor] = {}
_calls: set[object] = set()  # of queries that wait for the pool


class WorkerEnded(Refused):
    """A process of the pool ended in the middle of its work; the message says what usually ends
    one.
    """


@dataclass(frozen=True)
class Begun(Generic[Result]):
    """Work that one of ``processes`` does meanwhile."""

    future: Future[Result]
    processes: int

    def result(self) -> Result:
        """What the work gives, when it is done. Raises what the work raises, and WorkerEnded."""
        with _ends_told(self.processes):
            return self.future.result()

    def cancel(self) -> None:
        """Do not begin, where it has not begun."""
        self.future.cancel()


def begin(work: Callable[[], Result], processes: int) -> Begun[Result]:
    """Have one of ``processes`` processes call ``work``."""
    with _ends_told(processes):
        return Begun(_pool(processes).submit(_done, cloudpickle.dumps(work)), processes)


def in_pool(body: Body, processes: int, folder: Path) -> Body:
    """``body``, a function of one frame, run in one of ``processes`` processes. ``folder`` holds
    what they load.
    """
    pickled = cloudpickle.dumps(body)
    path = folder / f"{hashlib.sha256(pickled).hexdigest()[:32]}.body"
    if not path.exists():
        unfinished = path.with_suffix(f".{uuid.uuid4().hex}")
        unfinished.write_bytes(pickled)
        unfinished.rename(path)
    place = str(path)

    def run(rows: Any) -> Any:
        return _call(place, processes, rows)

    return cast("Body", run)


def start(processes: int) -> None:
    """Start the processes, and return when they are ready to work."""
    for waiting in [_pool(processes).submit(os.getpid) for _ in range(processes)]:
        waiting.result()


def _call(place: str, processes: int, rows: Any) -> Any:
    call = object()
    _calls.add(call)
    try:
        with _ends_told(processes):
            return _pool(processes).submit(_work, place, rows).result()
    finally:
        _calls.discard(call)


def are_called() -> bool:
    """Whether a query waits for one of the processes."""
    return bool(_calls)


@contextmanager
def _ends_told(processes: int) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        with _starting:
            _pools.pop(processes, None)
        raise WorkerEnded(
            "a worker process ended while it fitted a model or forecast a group of parts, most"
            " often because the machine's memory ran out. Set zoo.buckets higher or"
            " zoo.max_fit_rows lower, or free memory; the next run goes on where this one stopped."
        ) from error


def _pool(processes: int) -> ProcessPoolExecutor:
    with _starting:
        if processes not in _pools:
            # Not fork: the engine's threads would not survive it.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["resources.worker_imports"])
            _pools[processes] = ProcessPoolExecutor(
                processes, mp_context=context, initializer=_prepare
            )
        return _pools[processes]


def _prepare() -> None:
    """One thread for each process, and an end with the parent's, however that comes."""
    import threadpoolctl

    threadpoolctl.threadpool_limits(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _done(pickled: bytes) -> Any:
    return cloudpickle.loads(pickled)()


def _work(place: str, rows: Any) -> Any:
    return _loaded(place)(rows)


@functools.lru_cache(LOADED_BODIES)
def _loaded(place: str) -> Callable[[Any], Any]:
    return cast("Callable[[Any], Any]", cloudpickle.loads(Path(place).read_bytes()))
