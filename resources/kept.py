"""What the assets of a run share: frames that an engine holds, and small samples on the driver."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

    from resources.engines import Engine

FRAMES = 8
VALUES = 10_000_000  # of all samples together

Key = tuple[Hashable, ...]


class Kept:
    """Frames and samples by key, each made once and kept while it is among those used last."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self._frames = _Frames(engine)
        self._samples: LRUCache[Key, pd.DataFrame] = LRUCache(VALUES, getsizeof=_values)

    def frame(self, key: Key, build: Callable[[], DataFrame]) -> DataFrame:
        """The frame of a key, which the engine holds; built where it is not held any more."""
        if key not in self._frames:
            self._frames[key] = self._engine().hold(build())
        return self._frames[key]

    def held(self, key: Key) -> DataFrame | None:
        """The frame of a key, or None where it is not held any more."""
        return self._frames.get(key)

    def sample(self, key: Key, build: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A copy of the sample of a key; one of more than a tenth of VALUES is built each time."""
        if key in self._samples:
            return self._samples[key].copy()
        sample = build()
        if _values(sample) <= VALUES / 10:
            self._samples[key] = sample.copy()
        return sample

    def forget(self) -> None:
        """Give back the storage of everything that is kept."""
        self._samples.clear()
        while self._frames:
            self._frames.popitem()  # clear() would release none


class _Frames(LRUCache[Key, "DataFrame"]):
    """Frames that an engine holds: one that makes room for another is released."""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        super().__init__(FRAMES)
        self._engine = engine

    def popitem(self) -> tuple[Key, DataFrame]:
        key, frame = super().popitem()
        self._engine().release(frame)
        return key, frame


def _values(frame: pd.DataFrame) -> int:
    return int(frame.size)
