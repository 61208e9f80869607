"""What a registered model holds: its fits, the code beside them, and how it is asked."""

from __future__ import annotations

import ast
import sys

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from medallion_assets.zoo import packaged
from medallion_assets.zoo.manifest import FitsChanged, files_of, model_of
from medallion_assets.zoo.packaged import ZooModels, packaged_code
from medallion_assets.zoo.registry import ZOO
from medallion_assets.zoo.serving import HISTORY_COLUMNS, ROW_COLUMNS, SERVED_COLUMNS
from medallion_assets.zoo.stored import FITS, digest
from tests.models import ORIGIN, as_rows, demand, history, manifest

SOLD = demand()
HISTORY = history(SOLD)


@pytest.fixture(scope="module")
def model():
    """A manifest of quick fits, one model for each class."""
    return manifest(SOLD)


def test_a_manifest_comes_back_from_its_files(model) -> None:
    """What is read forecasts to the last bit what was stored, and has its months and runs."""
    files = files_of(model)
    read = model_of(files, digest(files))
    assert_frame_equal(read.predict(None, HISTORY), model.predict(None, HISTORY), check_exact=True)
    assert [(name, entry.model, entry.run_id) for name, entry in read.models()] == [
        (name, entry.model, entry.run_id) for name, entry in model.models()
    ]
    assert files_of(read) == files


def test_a_model_of_several_classes_is_stored_once(model) -> None:
    """The file is no longer for five classes than for one, but for their names."""
    entry = model.entries["erratic"]
    one, five = (
        len(files_of(type(model)(dict.fromkeys(classes, entry), 3))[FITS])
        for classes in (["erratic"], model.entries)
    )
    assert five < one + 500


def test_a_changed_fit_is_not_read(model) -> None:
    """One changed digit of a fit, and nothing of the model is loaded."""
    files = files_of(model)
    changed = {**files, FITS: files[FITS].replace(b"3", b"4", 1)}
    with pytest.raises(FitsChanged, match=f"were changed after they were logged.*{digest(files)}"):
        model_of(changed, digest(files))


def test_rows_are_answered_one_by_one(model) -> None:
    """A row for each part and horizon, in any order and any portion, is answered in its place by
    the forecast that the history gives.
    """
    expected = model.predict(None, HISTORY).set_index(["part_number", "horizon"])
    rows = as_rows(HISTORY).sample(frac=1, random_state=3, ignore_index=True)
    answered = [model.predict(None, part) for part in (rows.iloc[:7], rows.iloc[7:])]
    for asked, found in zip((rows.iloc[:7], rows.iloc[7:]), answered, strict=True):
        keys = ["part_number", "horizon"]
        assert found[keys].to_numpy().tolist() == asked[keys].to_numpy().tolist()
    found = pd.concat(answered).set_index(["part_number", "horizon"]).loc[expected.index]
    # The last digits of a sum may depend on how many parts are added up side by side.
    assert_frame_equal(found, expected, rtol=1e-12, atol=0)


def test_a_row_knows_nothing_after_its_origin(model) -> None:
    """Demand of later months in the lists changes nothing."""
    rows = as_rows(HISTORY)
    later = rows.assign(
        demand_months=[[*months, 202307] for months in rows["demand_months"]],
        demand_quantities=[[*sold, 1e6] for sold in rows["demand_quantities"]],
    )
    assert_frame_equal(model.predict(None, later), model.predict(None, rows))


def test_rows_that_no_model_answers_stay_empty(model) -> None:
    """A horizon beyond the model's and a part that sells no more have a row without a forecast."""
    rows = as_rows(HISTORY).iloc[:3].copy()
    rows["horizon"] = [1, 2, 99]
    assert model.predict(None, rows)["forecast_qty"].isna().tolist() == [False, False, True]
    asleep = model.predict(None, rows.assign(is_active=False))
    assert asleep["forecast_qty"].isna().all()
    assert list(asleep) == list(SERVED_COLUMNS)


def test_rows_without_a_column_are_refused(model) -> None:
    """The message names what is missing and what a row holds."""
    with pytest.raises(ValueError, match="rows lack horizon; a row holds a part, its origin as"):
        model.predict(None, as_rows(HISTORY).drop(columns="horizon"))


def test_the_code_of_a_model_is_complete_and_imports_only_its_requirements() -> None:
    """Every import is of the package itself, of Python, or of a library that may be required."""
    package, files = packaged_code()
    assert package.startswith("demand_forecaster_")
    known = {*packaged.DISTRIBUTIONS, *packaged.FOR_LEARNING, *sys.stdlib_module_names}
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= known, path
            if isinstance(node, ast.ImportFrom) and node.level:
                wanted = [node.module] if node.module else [alias.name for alias in node.names]
                assert {f"{name}.py" for name in wanted} <= set(files), path
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).partition(".")[0] in known, path


def test_a_model_requires_what_its_fits_need() -> None:
    """A naive model asks for no booster library, a booster for its own; every version is pinned."""
    needed = {
        name: {
            line.partition("==")[0].removesuffix("-cpu")
            for line in ZooModels().stored(manifest(SOLD, {"smooth": name})).requirements
        }
        for name in ("seasonal_naive", "xgboost_global", "theta")
    }
    always = {"mlflow", "numpy", "pandas", "pyarrow", "scipy"}
    assert needed == {
        "seasonal_naive": always,
        "xgboost_global": always | {"xgboost"},
        "theta": always | {"statsforecast"},
    }
    stored = ZooModels().stored(manifest(SOLD, {"smooth": "seasonal_naive"}))
    assert all("==" in line for line in stored.requirements)


def test_the_columns_are_those_of_both_forms_and_of_the_answer() -> None:
    """The signature names every column that may be given and every one that is answered; only
    part and month must be there.
    """
    assert {column.name for column in packaged.INPUTS} == {*HISTORY_COLUMNS, *ROW_COLUMNS}
    assert tuple(column.name for column in packaged.OUTPUTS) == SERVED_COLUMNS
    required = {column.name for column in packaged.INPUTS if column.is_required}
    assert required == {"part_number", "yyyymm"}


def test_the_example_can_be_asked(model) -> None:
    """Its made-up part gets a forecast, and is no part of anybody."""
    answered = model.predict(None, packaged.example())
    assert answered["part_number"].unique().tolist() == ["EXAMPLE-1"]
    assert np.isfinite(answered["forecast_qty"]).all()
    assert len(answered) == 3
    assert (packaged.example()["yyyymm"] > ORIGIN).any()


def test_every_family_of_the_zoo_can_be_stored() -> None:
    """A family that is added to the registry is also one whose fits are read back."""
    kinds = {name.partition(".")[0] for name in packaged.KNOWN}
    families = {type(spec.forecaster({})).__module__.rpartition(".")[2] for spec in ZOO}
    assert families <= kinds
