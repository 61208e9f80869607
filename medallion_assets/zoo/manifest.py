"""A manifest of models as files, and back.

What a fit's files look like lies in stored.py, what else a registered model holds in packaged.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medallion_assets.zoo.serving import DemandForecaster, ServedModel
from medallion_assets.zoo.stored import digest, restored, stored

ENTRY = ("model", "forecaster", "fitted", "trained_yyyymm", "run_id")


class FitsChanged(ValueError):
    """The files of a model are not those that were logged."""


def files_of(model: DemandForecaster) -> dict[str, bytes]:
    """Files of a manifest by path. A model that serves several classes is stored once.

    Raises TypeError for a fit that has no plain form.
    """
    entries = {id(entry): entry for entry in model.entries.values()}
    places = {key: place for place, key in enumerate(entries)}
    return stored(
        {
            "horizon": model.horizon,
            "models": [_plain(entry) for entry in entries.values()],
            "classes": {name: places[id(entry)] for name, entry in model.entries.items()},
        }
    )


def _plain(entry: ServedModel) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in ENTRY}


def model_of(files: Mapping[str, bytes], sha256: str | None = None) -> DemandForecaster:
    """The manifest that ``files_of`` was given. Raises FitsChanged where the files' digest is not
    ``sha256``, and ValueError for files that this code does not read.
    """
    if sha256 is not None and (found := digest(files)) != sha256:
        raise FitsChanged(
            f"the fits of this model were changed after they were logged: their SHA-256 is {found},"
            f" and {sha256} was logged; nothing was read from them"
        )
    content: dict[str, Any] = restored(files)
    models = [ServedModel(**entry) for entry in content["models"]]
    return DemandForecaster(
        {name: models[place] for name, place in content["classes"].items()}, content["horizon"]
    )
