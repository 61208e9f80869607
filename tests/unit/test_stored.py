"""Fits as data: what may become of a file, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from medallion_assets.zoo.calibration import Calibration
from medallion_assets.zoo.intermittent import SyntetosBoylan
from medallion_assets.zoo.stored import FITS, digest, restored, stored
from medallion_assets.zoo.trees import gradient_trees


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_plain_trees_answer_with_scikit_learns_digits(loss: str) -> None:
    """Missing inputs and inputs never seen included, every answer is the same to the last bit."""
    random = np.random.default_rng(1)
    inputs = random.normal(size=(900, 4))
    inputs[random.random(inputs.shape) < 0.1] = np.nan
    target = np.exp(np.nan_to_num(inputs[:, 0])) + random.random(900)
    learner = HistGradientBoostingRegressor(loss=loss, max_iter=30).fit(inputs, target)
    asked = random.normal(scale=3, size=(500, 4))
    asked[::7, 1], asked[::11, 2] = np.nan, np.inf
    assert (gradient_trees(learner).predict(asked) == learner.predict(asked)).all()


def test_keys_of_several_values_and_what_is_not_finite_come_back() -> None:
    """Pools keep their tuples, numbers their last digit, and infinity stays infinity."""
    learned = Calibration({("smooth", 1): (0.1 + 0.2, -1e-300)}, newcomer_qty=float("inf"))
    assert restored(stored(learned)) == learned


def test_a_changed_file_has_another_digest() -> None:
    """One changed byte, or one changed name, is seen."""
    files = {"a": b"1", "b": b"2"}
    others = ({"a": b"1", "b": b"3"}, {"a": b"1", "c": b"2"}, {"a": b"2", "b": b"1"})
    assert digest({"b": b"2", "a": b"1"}) == digest(files)
    assert digest(files) not in {digest(other) for other in others}


def test_only_the_zoos_own_kinds_are_read() -> None:
    """A file that names a function of another module, or another format, is refused."""
    foreign = {"format": 1, "content": {"function": "os.system"}}
    with pytest.raises(ValueError, match=r"hold a os\.system, which this release's zoo does not"):
        restored({FITS: json.dumps(foreign).encode()})
    with pytest.raises(ValueError, match="have format 3, and this release reads 1 and 2"):
        restored({FITS: json.dumps({"format": 3, "content": None}).encode()})


def changed(learned: Any, format: int, fields: dict[str, Any]) -> dict[str, bytes]:
    """Files of what was learned, as another release would have written its fields."""
    content = json.loads(stored(learned)[FITS])["content"]
    content["is"][1] = {**content["is"][1], **fields}
    return {FITS: json.dumps({"format": format, "content": content}).encode()}


def test_a_forecaster_stored_with_its_name_is_read() -> None:
    """Format 1, in which each forecaster held its model's name, gives the same forecaster."""
    learned = SyntetosBoylan(0.2)
    assert restored(changed(learned, 1, {"name": "sba"})) == learned


def test_fits_of_other_fields_are_refused() -> None:
    """A field that is not known any more, or that is new, would mean other numbers."""
    with pytest.raises(ValueError, match=r"SyntetosBoylan with other fields .*are x;"):
        restored(changed(SyntetosBoylan(0.2), 2, {"x": 1}))
    plain = {"format": 2, "content": {"is": ["calibration.Calibration", {}]}}
    with pytest.raises(ValueError, match=r"which are cell_count, .*or train again"):
        restored({FITS: json.dumps(plain).encode()})


def test_an_object_of_a_former_release_is_not_stored() -> None:
    """What a pickle brings back without a field would take that field's default."""
    former = Calibration()
    del former.__dict__["known"]
    with pytest.raises(TypeError, match="Calibration of a former release has no known"):
        stored(former)


def test_what_has_no_plain_form_is_not_stored() -> None:
    """A fit with an object of an unknown class is refused by name, never pickled."""
    with pytest.raises(TypeError, match="a object of a fit has no plain form"):
        stored({"learner": object()})
