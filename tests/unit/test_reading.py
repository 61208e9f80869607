"""What a fit sees: the past of the model itself, and of its members each their own."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from medallion_assets.partitions import add_months
from medallion_assets.tables import DEMAND_FEATURES, MONTHLY_DEMAND, ZOO_FORECAST
from medallion_assets.zoo.naive import Naive, SeasonalNaive
from medallion_assets.zoo.reading import Inputs, ZooReader
from medallion_assets.zoo.serving import DemandForecaster, ServedModel
from medallion_assets.zoo.spec import Known, ModelSpec
from resources.errors import Refused
from resources.lakehouse import Slice
from resources.settings import Settings
from resources.tracking import RunContent
from tests.fake_tracking import FakeTracking
from tests.fakes import FakeLakehouse, filled

ORIGIN = 202306
MONTHS = [202304, 202305, 202306]
MODELS = ("mean", "a", "b", "other")
SPEC = ModelSpec("mean", "combination", "mean of a and b", lambda _: Naive(), members=("a", "b"))


def forecast_rows(model: str, origin: int) -> list[dict[str, Any]]:
    """Two months ahead; each model forecasts another number."""
    return [
        filled(
            ZOO_FORECAST,
            model=model,
            yyyymm=origin,
            part_number="P",
            horizon=horizon,
            target_yyyymm=add_months(origin, horizon),
            forecast_qty=float(MODELS.index(model)),
            is_fallback=False,
        )
        for horizon in (1, 2)
    ]


@pytest.fixture
def reader(settings: Settings) -> ZooReader:
    """A lakehouse where all models forecast a part in all months, and runs of a and b."""
    lakehouse, tracking = FakeLakehouse(), FakeTracking()
    facts = {"part_number": "P", "is_active": True, "demand_class": "smooth"}
    rows = [row for model in MODELS for month in MONTHS for row in forecast_rows(model, month)]
    lakehouse.append(ZOO_FORECAST, rows)
    lakehouse.append(DEMAND_FEATURES, [filled(DEMAND_FEATURES, yyyymm=m, **facts) for m in MONTHS])
    sold = {"part_number": "P", "demand_qty": 5.0, "is_complete": True}
    lakehouse.append(MONTHLY_DEMAND, [filled(MONTHLY_DEMAND, yyyymm=m, **sold) for m in MONTHS])
    for name, forecaster in (("a", Naive()), ("b", SeasonalNaive())):
        run_id = tracking.start(name, {})
        entry = ServedModel(name, forecaster, name, ORIGIN, run_id)
        tracking.log(run_id, RunContent(model=DemandForecaster({"smooth": entry}, 2)))
        slice_ = Slice(ORIGIN, name, "1", "1", 1, 1, {"run_id": run_id})
        lakehouse.ledger.record(ZOO_FORECAST, [slice_], run_id)
    f = settings.forecast.model_copy(update={"horizon": 2, "origins": 2})
    configured = settings.model_copy(update={"forecast": f, "first_month": MONTHS[0]})
    return ZooReader(SPEC, configured, lakehouse, tracking)


def cells(past: pd.DataFrame) -> list[tuple[int, int, float, float]]:
    columns = ["origin", "horizon", "forecast_qty", "actual_qty"]
    return [tuple(row) for row in past[columns].to_numpy().tolist()]


def with_past(reader: ZooReader, unsaved: dict[int, Any] | None = None) -> Known:
    return reader.with_past(reader.sample(ORIGIN), reader.inputs(), unsaved or {})


def test_each_model_has_its_own_past(reader: ZooReader) -> None:
    """Cells of earlier origins whose demand is known, of the model and of each member apart;
    nothing of the origin itself or of another model.
    """
    known = with_past(reader)
    pasts = {"mean": known.own_past, **{n: m.past for n, m in known.members.items()}}
    assert {name: cells(past) for name, past in pasts.items()} == {
        name: [(202304, h, number, 5.0) for h in (1, 2)] + [(202305, 1, number, 5.0)]
        for number, name in enumerate(MODELS[:3])
    }
    assert all("model" not in past for past in pasts.values())


def test_members_come_with_their_fits_of_the_origin(reader: ZooReader) -> None:
    """Forecaster and fit of each, as their runs hold them."""
    members = with_past(reader).members
    assert [(name, m.forecaster, m.fitted) for name, m in members.items()] == [
        ("a", Naive(), "a"),
        ("b", SeasonalNaive(), "b"),
    ]


def test_a_fit_that_is_not_stored_yet_is_past_too(reader: ZooReader) -> None:
    """Its rows stand for those that are stored of the same origin."""

    def draw(share: float, columns: list[str]) -> pd.DataFrame:
        return pd.DataFrame(forecast_rows("mean", 202305))[columns].assign(forecast_qty=9.0)

    assert cells(with_past(reader, {202305: draw}).own_past)[-1] == (202305, 1, 9.0, 5.0)


def test_the_first_month_has_no_past(reader: ZooReader) -> None:
    """There is no earlier origin."""
    inputs = Inputs({}, {}, {n: {MONTHS[0]: s} for n, s in slices(reader).items()}, {}, {})
    known = reader.with_past(reader.sample(MONTHS[0]), inputs, {})
    assert known.own_past.empty
    assert [member.past.empty for member in known.members.values()] == [True, True]


def slices(reader: ZooReader) -> dict[str, Slice]:
    return {
        name: reader.lakehouse.ledger.slices(ZOO_FORECAST, name)[ORIGIN] for name in SPEC.members
    }


def test_a_member_without_a_forecast_is_named(reader: ZooReader) -> None:
    """A combination can't be fitted before its members are; the message says which to make."""
    inputs = Inputs({}, {}, {"a": {}, "b": {}}, {}, {})
    with pytest.raises(Refused, match=r"mean combines a, which has no forecast of 202306 yet"):
        reader.with_past(reader.sample(ORIGIN), inputs, {})
