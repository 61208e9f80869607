"""What makes a month stale: slices it was made from that changed, not slices that an open input got
later.
"""

from __future__ import annotations

from typing import Any

import pytest

from medallion_assets.slices import Input, TableRecipe
from medallion_assets.tables import MONTHLY_DEMAND, ZOO_FORECAST
from medallion_assets.work import Work
from resources.lakehouse import Slice
from resources.settings import Settings
from tests.fakes import FakeLakehouse, filled

MONTH, ORIGIN, YOUNGER = 202205, 202201, 202204


def examined(lakehouse: FakeLakehouse, settings: Settings, *, is_open: bool) -> list[int]:
    """Months that an examination of MONTH found stale."""

    def rows(*_: Any) -> list[dict[str, Any]]:
        return [filled(MONTHLY_DEMAND, yyyymm=MONTH, part_number="P1")]

    before = Input(ZOO_FORECAST, lambda month, settings: [ORIGIN, YOUNGER], ("ses",), is_open)
    recipe = TableRecipe(MONTHLY_DEMAND, [before], rows, {})  # type: ignore[arg-type]
    work = Work(settings, lakehouse, "run", lambda text: None)
    return list(recipe.run(work, [MONTH]).written)


def forecast(origin: int, data_version: str) -> Slice:
    return Slice(origin, "ses", data_version, "made from", 1, 0)


@pytest.mark.parametrize(("is_open", "stale"), [(True, []), (False, [MONTH])])
def test_a_slice_that_came_later(settings: Settings, is_open: bool, stale: list[int]) -> None:
    """An open input may get more slices; of any other input a new slice makes the month stale."""
    lakehouse = FakeLakehouse()
    lakehouse.ledger.record(ZOO_FORECAST, [forecast(ORIGIN, "1")], "run")
    assert examined(lakehouse, settings, is_open=is_open) == [MONTH]
    lakehouse.ledger.record(ZOO_FORECAST, [forecast(YOUNGER, "1")], "run")
    assert examined(lakehouse, settings, is_open=is_open) == stale


def test_a_slice_that_changed(settings: Settings) -> None:
    """What a month was made from makes it stale in an open input too, and then the slices there now
    count.
    """
    lakehouse = FakeLakehouse()
    lakehouse.ledger.record(ZOO_FORECAST, [forecast(ORIGIN, "1")], "run")
    examined(lakehouse, settings, is_open=True)
    lakehouse.ledger.record(ZOO_FORECAST, [forecast(ORIGIN, "2"), forecast(YOUNGER, "1")], "run")
    assert examined(lakehouse, settings, is_open=True) == [MONTH]
    lakehouse.ledger.record(ZOO_FORECAST, [forecast(YOUNGER, "2")], "run")
    assert examined(lakehouse, settings, is_open=True) == [MONTH]
