"""Fits as data: JSON, XGBoost's own format and Parquet, without pickle.

What is read can only become one of the dataclasses and functions of the families named here. Where
the files lie, and what else a registered model holds, does not belong here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import io
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from medallion_assets.zoo import (
    boosting,
    calibration,
    combination,
    distribution,
    intermittent,
    naive,
    statistical,
)
from medallion_assets.zoo.trees import GradientTrees, gradient_trees

FITS = "fits.json"
FORMAT = 2
NAMED = 1  # the format in which each forecaster held its model's name; nothing else differs
READ = (NAMED, FORMAT)
MODULES = (naive, intermittent, statistical, boosting, distribution, combination, calibration)


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 of the files of a stored fit: their names and contents, in whatever order."""
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def stored(learned: Any) -> dict[str, bytes]:
    """Files of what was learned, by path: forecasters, fits, and containers of them.

    A booster that occurs several times is stored once. Raises TypeError for what has no plain form.
    """
    files: dict[str, bytes] = {}
    content = {"format": FORMAT, "content": _plain(learned, files)}
    return {FITS: json.dumps(content, indent=1, allow_nan=False).encode(), **files}


def restored(files: Mapping[str, bytes]) -> Any:
    """What ``stored`` was given, also by a former release. Raises ValueError for files of another
    format, and for a kind that the zoo does not know or that has other fields now.
    """
    content = json.loads(files[FITS])
    if content["format"] not in READ:
        raise ValueError(
            f"these fits have format {content['format']}, and this release reads"
            f" {' and '.join(map(str, READ))}; load them with the release that stored them, or"
            " train again"
        )
    return _Reader(files, content["format"]).read(content["content"])


def _known() -> dict[str, Any]:
    """Dataclasses and functions of the families by name, such as ``boosting.XGBoost``."""
    return {_name(thing): thing for module in MODULES for thing in _own(module)}


def _own(module: ModuleType) -> list[Any]:
    return [
        thing
        for thing in vars(module).values()
        if (dataclasses.is_dataclass(thing) or inspect.isfunction(thing))
        and getattr(thing, "__module__", "") == module.__name__
    ]


def _name(thing: Any) -> str:
    return f"{thing.__module__.rpartition('.')[2]}.{thing.__qualname__}"


KNOWN = _known()


def _plain(value: Any, files: dict[str, bytes]) -> Any:
    """A value as JSON holds it. A mapping with one key tells what else than a list it was."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else {"float": str(value)}
    if isinstance(value, list):
        return [_plain(one, files) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(one, files) for one in value]}
    if isinstance(value, Mapping):
        return {"map": [[_plain(k, files), _plain(v, files)] for k, v in value.items()]}
    if isinstance(value, np.ndarray):
        return {"array": [str(value.dtype), _plain(value.tolist(), files)]}
    if isinstance(value, GradientTrees):
        return _plain_trees(value, files)
    if dataclasses.is_dataclass(value) and KNOWN.get(_name(type(value))) is type(value):
        # A pickle of a former release may lack what has a default now: other numbers, unseen.
        if lacking := [f.name for f in dataclasses.fields(value) if f.name not in vars(value)]:
            raise TypeError(f"{_name(type(value))} of a former release has no {lacking[0]}")
        fields = {f.name: _plain(getattr(value, f.name), files) for f in dataclasses.fields(value)}
        return {"is": [_name(type(value)), fields]}
    if inspect.isfunction(value) and KNOWN.get(_name(value)) is value:
        return {"function": _name(value)}
    return _plain_learner(value, files)


def _plain_learner(value: Any, files: dict[str, bytes]) -> Any:
    library = type(value).__module__.partition(".")[0]
    if library == "xgboost":
        threads = json.loads(value.save_config())["learner"]["generic_param"]["nthread"]
        return {"booster": [_added(bytes(value.save_raw("ubj")), "ubj", files), int(threads)]}
    if library == "sklearn" and hasattr(value, "_predictors"):
        return _plain_trees(gradient_trees(value), files)
    raise TypeError(f"a {type(value).__name__} of a fit has no plain form; see zoo/stored.py")


def _plain_trees(trees: GradientTrees, files: dict[str, bytes]) -> Any:
    buffer = io.BytesIO()
    trees.nodes.to_parquet(buffer, index=False)
    path = _added(buffer.getvalue(), "parquet", files)
    return {"trees": [path, trees.baseline, trees.link]}


def _added(content: bytes, suffix: str, files: dict[str, bytes]) -> str:
    """Path of a file that is named after its content."""
    path = f"learners/{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
    files[path] = content
    return path


class _Reader:
    """Reads values back; a learner that occurs several times is read once."""

    def __init__(self, files: Mapping[str, bytes], written_in: int) -> None:
        self._files, self._format = files, written_in
        self._learners: dict[str, Any] = {}

    def read(self, plain: Any) -> Any:
        if isinstance(plain, list):
            return [self.read(one) for one in plain]
        if not isinstance(plain, dict):
            return plain
        ((kind, content),) = plain.items()
        if kind == "float":
            return float(content)
        if kind == "tuple":
            return tuple(self.read(one) for one in content)
        if kind == "map":
            return {self.read(key): self.read(value) for key, value in content}
        if kind == "array":
            return np.asarray(self.read(content[1]), dtype=content[0])
        if kind == "is":
            return self._made(content[0], {key: self.read(v) for key, v in content[1].items()})
        if kind == "function":
            return _of(content)
        if content[0] not in self._learners:
            self._learners[content[0]] = self._learner(kind, content)
        return self._learners[content[0]]

    def _made(self, name: str, fields: dict[str, Any]) -> Any:
        if self._format == NAMED:
            fields.pop("name", None)
        kind = _of(name)
        if differing := fields.keys() ^ {f.name for f in dataclasses.fields(kind)}:
            raise ValueError(
                f"these fits hold {name} with other fields than this release, which are"
                f" {', '.join(sorted(differing))}; load them with the release that stored them, or"
                " train again"
            )
        return kind(**fields)

    def _learner(self, kind: str, content: list[Any]) -> Any:
        path, *rest = content
        if kind == "booster":
            import xgboost

            booster = xgboost.Booster()
            booster.load_model(bytearray(self._files[path]))
            booster.set_param({"nthread": rest[0]})
            return booster
        if kind == "trees":
            return GradientTrees(pd.read_parquet(io.BytesIO(self._files[path])), *rest)
        raise ValueError(f"these fits hold a '{kind}', which this release does not know")


def _of(name: str) -> Any:
    if name not in KNOWN:
        raise ValueError(f"these fits hold a {name}, which this release's zoo does not know")
    return KNOWN[name]
