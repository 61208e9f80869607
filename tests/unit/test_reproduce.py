"""What a reproduction says: equal, different and by how much, and which input is not what the run
had.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from medallion_assets.operations import reproduce
from medallion_assets.operations.reproduce import NUMBERS
from medallion_assets.zoo.backtest import EVIDENCE_VERSION
from medallion_assets.zoo.registry import model
from resources.errors import Refused
from resources.provenance import git_commit, library_versions
from resources.settings import GivenForecasts, Settings
from resources.tracking import COMMITTED, StoredRun

SPEC = model("xgboost_global")
RUN = StoredRun(
    "r1",
    {
        **{name: str(value) for name, value in SPEC.parameters.items()},
        "max_depth": "5",
        "horizon": "6",
    },
    {
        "model": SPEC.name,
        "month": "202401",
        COMMITTED: "true",
        EVIDENCE_VERSION: "7",
        "git_commit": git_commit(),
        "libraries": library_versions(),
    },
    {},
)


FIT = reproduce._Stored(RUN, SPEC, 202401)


def rows(*values: float) -> pd.DataFrame:
    cells = pd.DataFrame({"part_number": [f"P{i}" for i in range(len(values))], "horizon": 1})
    return cells.assign(**{name: list(values) for name in NUMBERS})


def compared(then: pd.DataFrame, now: pd.DataFrame) -> reproduce.Reproduction:
    return reproduce._compared(FIT, then, now, [])


def test_the_same_numbers_are_equal() -> None:
    """In any order of rows, and where sums over threads moved the last digits."""
    told = compared(rows(1.0, 2e6, 0.0), rows(1.0 + 1e-13, 2e6, 0.0)[::-1])
    assert (told.is_equal, told.cells, told.missing_cells) == (True, 3, 0)


def test_another_number_is_different() -> None:
    """One of two cells moved by a tenth."""
    told = compared(rows(10.0, 5.0), rows(9.0, 5.0))
    assert (told.is_equal, told.differing_cells, round(told.largest_difference, 3)) == (
        False,
        1,
        0.1,
    )


def test_a_cell_that_only_one_has_is_different() -> None:
    """Equal numbers are not enough: every forecast of the run must be made again."""
    told = compared(rows(1.0, 2.0), rows(1.0))
    assert (told.is_equal, told.missing_cells) == (False, 1)


def test_parameters_are_those_that_the_run_logged() -> None:
    """Types are those of the defaults; what the run did not have is named."""
    parameters, changed = reproduce._parameters(FIT)
    assert (parameters["max_depth"], parameters["use_lags"], changed) == (5, True, [])
    older = {name: value for name, value in RUN.parameters.items() if name != "distribution_rounds"}
    assert reproduce._parameters(replace(FIT, run=replace(RUN, parameters=older)))[1] == [
        "parameter distribution_rounds: the run did not have it"
    ]


def test_another_commit_or_library_is_named() -> None:
    """With what it was and what it is; the same ones are not mentioned."""
    assert reproduce._moved(RUN) == []
    libraries = library_versions().replace(
        f"xgboost-cpu {library_versions().rsplit(' ', 1)[1]}", "xgboost-cpu 1.0"
    )
    moved = reproduce._moved(
        replace(RUN, tags={**RUN.tags, "git_commit": "abc", "libraries": libraries})
    )
    assert moved[0].startswith("git_commit: abc then, ")
    assert moved[1].startswith("libraries: xgboost-cpu 1.0 then, xgboost-cpu ")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"model": None, "kind": "training"}, "is not a model's fit; it is of kind training"),
        ({COMMITTED: None}, "never came to a stored slice"),
        ({"model": "gone"}, "no model 'gone' in the zoo"),
        ({"model": "planner"}, "planner was made elsewhere; silver.given_forecast says"),
    ],
)
def test_what_can_not_be_fitted_again_is_refused(
    settings: Settings, tags: dict[str, str | None], message: str
) -> None:
    """A training's run, a run without a slice, a model that this release does not have, a forecast
    that was made elsewhere.
    """
    planner = GivenForecasts(files="x", columns={"part_number": "p"}, origin_in_name="(x)")
    settings = settings.model_copy(update={"given_forecasts": {"planner": planner}})
    left = {name: value for name, value in {**RUN.tags, **tags}.items() if value is not None}
    with pytest.raises(Refused, match=message):
        reproduce._fit(replace(RUN, tags=left), settings)
