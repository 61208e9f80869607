"""`medallion doctor` with an engine that really starts, and the engines that its ledger tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from medallion_assets.operations.doctor import examine
from medallion_assets.tables import MONTHLY_DEMAND, PARTS
from resources.engines import EmbeddedEngine, Engine, SparkEngine
from resources.lakehouse import DeltaLakehouse
from resources.ledger import Slice
from resources.settings import Settings
from tests.conftest import open_lakehouse

pytestmark = pytest.mark.spark


def test_the_embedded_engine_answers(engine: Engine, settings: Settings) -> None:
    """It sums, holds, runs Python and reads the disk; afterwards nothing of it is left, not even
    the lakehouse's folder.
    """
    if not isinstance(engine, EmbeddedEngine):
        pytest.skip("the process speaks to another engine")
    before = sorted(Path(settings.lakehouse_root).parent.iterdir())
    told = {finding.check: finding for finding in examine(lambda: settings, Path("test.yaml"))}
    tried = ("engine", "a query", "a held frame", "a Python function", "the lakehouse's disk")
    assert [told[check].state for check in tried] == ["ok"] * 5
    assert told["engine"].found.startswith("embedded (pysail ")
    assert told["slices"].found == "none yet"
    assert sorted(Path(settings.lakehouse_root).parent.iterdir()) == before


def test_slices_are_counted_by_who_made_the_newest(
    engine: Engine, settings: Settings, lakehouse: DeltaLakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A month that another engine made again counts for that one."""
    monkeypatch.setattr(
        "medallion_assets.operations.doctor._engine", lambda settings, folder: iter(())
    )
    lakehouse.ledger.record(
        PARTS, [Slice(month, "", "d", "i", 1, 0) for month in (202201, 202202)], "run"
    )
    lakehouse.ledger.record(MONTHLY_DEMAND, [Slice(202201, "", "d", "i", 1, 0)], "run")
    other = SparkEngine(lambda: engine.session, "spark (pyspark 4.2.0)")
    open_lakehouse(other, settings).ledger.record(PARTS, [Slice(202202, "", "d", "i", 1, 0)], "run")
    (told,) = (
        finding
        for finding in examine(lambda: settings, Path("test.yaml"))
        if finding.check == "slices"
    )
    assert told.found == f"2 by {engine.label}; 1 by spark (pyspark 4.2.0)"
