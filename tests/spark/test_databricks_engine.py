"""Engine databricks over a real session: frames are held without what serverless refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resources.engines import DatabricksEngine, Engine

pytestmark = pytest.mark.spark


def test_a_held_frame_is_evaluated_once(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its random numbers stay what they were, also of a frame without rows; types are kept."""
    session = engine.session
    rows = session.range(100).selectExpr("id", "rand() AS units", "CAST(id AS INT) AS yyyymm")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("[NOT_SUPPORTED_WITH_SERVERLESS]")

    for name in ("persist", "cache", "checkpoint", "localCheckpoint"):
        monkeypatch.setattr(type(rows), name, refuse)
    given = DatabricksEngine(lambda: session, "databricks", scratch=tmp_path / "scratch")
    held = given.hold(rows)
    assert held.dtypes == rows.dtypes
    assert sorted(held.collect()) == sorted(held.collect())
    empty = given.hold(rows.where("id < 0"))
    assert (empty.count(), empty.dtypes) == (0, rows.dtypes)
    for frame in (held, empty):
        given.release(frame)
    (own,) = (tmp_path / "scratch").iterdir()
    assert not list(own.iterdir())
