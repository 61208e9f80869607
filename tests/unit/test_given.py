"""Forecasts made elsewhere in the contest: how they answer, where they serve, and what a
configuration may say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from medallion_assets.champion.decisions import champions_of
from medallion_assets.tables import DECILES, DEMAND_CLASSES
from medallion_assets.zoo import registry
from medallion_assets.zoo.calibration import Calibration
from medallion_assets.zoo.given import Given, specs
from medallion_assets.zoo.naive import SeasonalNaive
from medallion_assets.zoo.spec import FORECAST_COLUMNS
from resources.settings import ConfigurationError, DemandClass, Settings, parse_settings
from tests.conftest import SOURCE
from tests.frames import at_origin, demand_frame, feature_frame

ORIGIN, HORIZON = 202506, 2
WHOLE = {
    "files": "old/*.csv",
    "columns": {"part_number": "p", "origin": "o", "target": "t", "quantity": "q"},
}


@pytest.fixture
def known() -> tuple[pd.DataFrame, pd.DataFrame]:
    demand = demand_frame({"A": [5.0] * 24, "B": [0.0, 3.0] * 12}, ORIGIN)
    return demand, at_origin(feature_frame(demand), ORIGIN)


def given_rows(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """part, horizon, quantity, and nine deciles or none."""
    frame = pd.DataFrame(
        [(*row[:3], *(row[3:] or [np.nan] * 9)) for row in rows],
        columns=["part_number", "horizon", "forecast_qty", *DECILES],
    )
    return frame.astype(dict.fromkeys(("forecast_qty", *DECILES), float))


def test_what_was_given_is_answered_and_the_baseline_stands_in(
    known: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    """Every part and horizon has an answer; those that were not given are the baseline's and say
    that they are stand-ins."""
    rows = Given().answer(Calibration(), given_rows(("A", 1, 7.0)), *known, ORIGIN, HORIZON)
    assert list(rows) == list(FORECAST_COLUMNS)
    cells = rows.set_index(["part_number", "horizon"])
    assert cells["is_fallback"].to_dict() == {
        ("A", 1): False,
        ("A", 2): True,
        ("B", 1): True,
        ("B", 2): True,
    }
    baseline = SeasonalNaive().predict(Calibration(), *known, ORIGIN, HORIZON)
    baseline = baseline.set_index(["part_number", "horizon"])
    assert cells.loc[("A", 1), "forecast_qty"] == 7.0
    assert cells.loc["B", "forecast_qty"].tolist() == baseline.loc["B", "forecast_qty"].tolist()


def test_given_deciles_are_kept_and_lacking_ones_are_made(
    known: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    """Deciles of the file as they are; a number without any gets deciles in order around it."""
    own = tuple(float(n) for n in range(1, 10))
    rows = (
        Given()
        .answer(
            Calibration(), given_rows(("A", 1, 5.0, *own), ("B", 1, 2.0)), *known, ORIGIN, HORIZON
        )
        .set_index(["part_number", "horizon"])
    )
    assert rows.loc[("A", 1), list(DECILES)].tolist() == list(own)
    made = rows.loc[("B", 1), list(DECILES)].to_numpy(dtype=float)
    assert np.isfinite(made).all()
    assert (np.diff(made) >= 0).all()


def test_without_any_file_the_baseline_serves_marked(
    known: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    """As publishing asks it for a month whose file is not there yet."""
    rows = Given().predict(Calibration(), *known, ORIGIN, HORIZON)
    assert rows["is_fallback"].all()


def configured(**given: Any) -> Settings:
    content = {
        "lakehouse_root": "lake",
        "first_month": 202401,
        "sources": [SOURCE],
        "given_forecasts": given,
    }
    return parse_settings(content, Path("/somewhere/test.yaml"))


def test_given_forecasts_follow_the_zoo() -> None:
    """They are contestants after all models, of all classes, and are never registered."""
    settings = configured(old=WHOLE)
    found = registry.enabled(settings)
    assert [spec.name for spec in found if spec.is_given] == ["old"] == [found[-1].name]
    assert found[-1].classes == DEMAND_CLASSES
    assert specs(settings.given_forecasts)[0].forecaster({}) == Given()
    assert settings.given_forecasts["old"].files == "/somewhere/old/*.csv"


def test_a_configuration_is_written_and_read_again() -> None:
    """What a plan stores of it makes the same settings."""
    settings = configured(old=WHOLE | {"serves": ["smooth"]})
    again = parse_settings(settings.content(), Path("/elsewhere/test.yaml"))
    assert again.given_forecasts == settings.given_forecasts


def test_the_classes_of_the_settings_are_those_of_the_tables() -> None:
    """Settings know no table, so the names stand twice."""
    assert get_args(DemandClass) == DEMAND_CLASSES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"old": WHOLE | {"columns": {"part": "p"}}}, "unknown column 'part'"),
        ({"old": WHOLE | {"columns": {"origin": "o"}}}, "no column named for part_number"),
        (
            {"old": WHOLE | {"columns": {"part_number": "p"}}},
            "give columns.origin or origin_in_name, one of them",
        ),
        (
            {"old": WHOLE | {"columns": {"part_number": "p", "origin": "o", "target": "t"}}},
            "columns.target and columns.quantity need each other",
        ),
        (
            {"old": WHOLE | {"columns": WHOLE["columns"] | {"q10": "low"}}},  # type: ignore[operator]
            "name all of q10 ... q90",
        ),
        (
            {"old": {"files": "x", "columns": {"part_number": "p"}, "origin_in_name": "plan"}},
            "origin_in_name needs one group",
        ),
        ({"old": WHOLE | {"excel": {"sheet": "x"}}}, "excel is given, but format is csv"),
        (
            {"old": WHOLE | {"serves": ["smooth"]}, "new": WHOLE | {"serves": ["smooth"]}},
            "two of them serve smooth",
        ),
    ],
)
def test_a_mistake_in_the_configuration_is_named(given: dict[str, Any], message: str) -> None:
    """With its key, before anything runs."""
    with pytest.raises(ConfigurationError, match=message.replace(".", r"\.")):
        configured(**given)


def test_a_name_of_the_zoo_is_taken() -> None:
    """A given forecast called like a model would be stored as that model's."""
    with pytest.raises(ValueError, match="seasonal_naive is a model of the zoo"):
        registry.enabled(configured(seasonal_naive=WHOLE))


def test_champions_of_a_version_are_those_while_it_served() -> None:
    """A version made for one class goes on with the champions of the others; a restated row changes
    nothing."""
    rows = [
        (1, "smooth", "promoted", "a", 1),
        (2, "lumpy", "refreshed", "old", 1),
        (3, "smooth", "promoted", "b", 2),
        (4, "lumpy", "restated", "c", 2),
        (5, "lumpy", "promoted", "d", 3),
    ]
    decisions = pd.DataFrame(
        rows,
        columns=["decision_number", "demand_class", "decision", "champion", "registry_version"],
    )
    assert champions_of(decisions, 1) == {"smooth": "a", "lumpy": "old"}
    assert champions_of(decisions, 2) == {"smooth": "b", "lumpy": "old"}
    assert champions_of(decisions, 3) == {"smooth": "b", "lumpy": "d"}
