"""What a registered model holds beside its fits: code that runs without this package, what that
code needs installed, the columns it takes and gives, and an example.

How MLflow stores it lies in resources/stored_models.py.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import medallion_assets
from medallion_assets import tables
from medallion_assets.months import add_months
from medallion_assets.tables import DECILES, FEATURE_COLUMNS, LAGS
from medallion_assets.zoo.manifest import files_of, model_of
from medallion_assets.zoo.serving import (
    HISTORY_COLUMNS,
    ROW_COLUMNS,
    SERVED_COLUMNS,
    TEXT_FEATURES,
    DemandForecaster,
)
from medallion_assets.zoo.stored import FITS, KNOWN, digest
from resources.stored_models import ModelColumn, StoredModel

PACKAGE = "medallion_assets"
ROOT = Path(medallion_assets.__file__).parent
MODEL_FILE = "zoo.model_file"
# The only module that is not copied: of its tables a model needs a few names of columns.
CONSTANTS = "tables"
# by the name under which each is imported: distributions that bring it
DISTRIBUTIONS = {
    "mlflow": ("mlflow", "mlflow-skinny"),
    "numpy": ("numpy",),
    "pandas": ("pandas",),
    "pyarrow": ("pyarrow",),
    "scipy": ("scipy",),
    "statsforecast": ("statsforecast",),
    "xgboost": ("xgboost-cpu", "xgboost"),
}
ALWAYS = ("mlflow", "numpy", "pandas", "pyarrow")
# Imported where something is learned, which a stored model never does.
FOR_LEARNING = {"sklearn", "threadpoolctl"}
WHOLE_NUMBERS = ("origin", "horizon", "target_yyyymm", "trained_yyyymm")
NUMBERS_SERVED = ("forecast_qty", *DECILES)


@dataclass(frozen=True)
class ZooModels:
    """How manifests of the zoo are stored and read, for MLflow's resource."""

    def stored(self, model: DemandForecaster) -> StoredModel:
        """A manifest as MLflow stores it. Raises TypeError for a fit that has no plain form."""
        fits = files_of(model)
        package, code = packaged_code()
        return StoredModel(
            fits=fits,
            digest=digest(fits),
            model_file=_copied(MODEL_FILE, package),
            code={f"{package}/{path}": text for path, text in code.items()},
            requirements=requirements(fits),
            inputs=INPUTS,
            outputs=OUTPUTS,
            example=example(),
        )

    def digest(self, fits: Mapping[str, bytes]) -> str:
        """SHA-256 of the files of fits, as it is logged."""
        return digest(fits)

    def read(self, fits: Mapping[str, bytes]) -> DemandForecaster:
        """The manifest that files of fits hold. Raises ValueError for files of another format."""
        return model_of(fits)


def _column(name: str) -> ModelColumn:
    if name in ("part_number", *TEXT_FEATURES, "model", "model_run_id"):
        return ModelColumn(name, "string", name == "part_number")
    if name in ("yyyymm", *WHOLE_NUMBERS):
        return ModelColumn(name, "long", name == "yyyymm")
    if name in ("is_active", "is_fallback"):
        return ModelColumn(name, "boolean", False)
    if name == "demand_months":
        return ModelColumn(name, "long", False, is_list=True)
    return ModelColumn(name, "double", False, is_list=name == "demand_quantities")


INPUTS = tuple(_column(name) for name in dict.fromkeys((*HISTORY_COLUMNS, *ROW_COLUMNS)))
OUTPUTS = tuple(_column(name) for name in SERVED_COLUMNS)


def example() -> pd.DataFrame:
    """HISTORY_COLUMNS of a made-up part through a made-up origin."""
    demand = [14.0, 9.0, 17.0, 11.0, 12.0, 16.0, 8.0, 13.0, 15.0, 10.0, 12.0, 14.0, 11.0]
    origin, lags = 202401, {f"demand_lag_{lag}": demand[-1 - lag] for lag in LAGS}
    past = pd.Series(demand)
    known: dict[str, Any] = {
        "demand_class": "smooth",
        "abc_class": "A",
        "region": "north",
        "is_active": True,
        "history_months": float(len(demand)),
        "months_since_first_sale": float(len(demand) - 1),
        "months_since_last_sale": 0.0,
        **lags,
        **{f"demand_mean_{n}": float(past.tail(n).mean()) for n in (3, 6, 12, 24)},
        **{f"demand_std_{n}": float(past.tail(n).std(ddof=0)) for n in (6, 12, 24)},
        "demand_max_12": float(past.tail(12).max()),
        "nonzero_share_12": 1.0,
        "adi": 1.0,
        "cv2": float(past.var(ddof=0) / past.mean() ** 2),
        "nonzero_mean_24": float(past.mean()),
        "order_count_12": 40.0,
        "customer_count_12": 3.0,
        "returned_share_12": 0.0,
        "unit_price": 2.5,
        "price_ratio_12": 1.0,
        "revenue_12": 2.5 * float(past.tail(12).sum()),
        "month_of_year": 1.0,
        "naive_rmse_scale": float((past.diff() ** 2).mean() ** 0.5),
        "seasonal_mae_scale": 3.0,
    }
    rows = pd.DataFrame(
        {
            "part_number": "EXAMPLE-1",
            "yyyymm": [add_months(origin, place - len(demand) + 1) for place in range(len(demand))],
            "demand_qty": demand,
        }
    )
    for name in FEATURE_COLUMNS:
        rows[name] = pd.Series([None] * (len(demand) - 1) + [known[name]], dtype="object")
        if _column(name).type == "double":
            rows[name] = rows[name].astype("float64")
    return rows[list(HISTORY_COLUMNS)]


@functools.cache
def packaged_code() -> tuple[str, dict[str, bytes]]:
    """Name of a package, and its files by path: all code of ours that answers for a stored model.

    The name ends with a hash of the files, so that models of different releases can be loaded into
    one process.
    """
    names = sorted(_needed("zoo.manifest") - {CONSTANTS})
    files = {f"{_short(name)}.py": _copied(name, "") for name in names}
    files[f"{CONSTANTS}.py"] = _constants(names)
    files["__init__.py"] = (
        b'"""Code of a stored demand forecaster, as it was when it was stored."""\n'
    )
    return f"demand_forecaster_{digest(files)[:12]}", files


def requirements(fits: Mapping[str, bytes]) -> tuple[str, ...]:
    """Distributions, pinned to what is installed, that the code needs which answers for these fits.

    Raises importlib.metadata.PackageNotFoundError where one of them is not installed.
    """
    text = fits[FITS].decode()
    families = {name.partition(".")[0] for name in KNOWN if f'"{name}"' in text}
    modules = set().union(*(_needed(f"zoo.{family}") for family in families), {"zoo.serving"})
    libraries = set(ALWAYS).union(*(_libraries(module) for module in modules)) - FOR_LEARNING
    return tuple(_pinned(library) for library in sorted(libraries & set(DISTRIBUTIONS)))


@functools.cache
def _pinned(library: str) -> str:
    found = None
    for name in DISTRIBUTIONS[library]:
        try:
            return f"{name}=={importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError as error:
            found = error
    raise found or importlib.metadata.PackageNotFoundError(library)


@functools.cache
def _source(module: str) -> str:
    return (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


@functools.cache
def _imports(module: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Modules that a module of ours imports anywhere, and the names it takes from each."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            found += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((str(node.module), tuple(alias.name for alias in node.names)))
    return tuple(found)


def _own(module: str) -> Iterator[str]:
    """Modules of ours that a module imports, without the name of the package."""
    for imported, names in _imports(module):
        if imported == f"{PACKAGE}.zoo":
            yield from (f"zoo.{name}" for name in names)
        elif imported.startswith(f"{PACKAGE}."):
            yield imported.removeprefix(f"{PACKAGE}.")


def _needed(module: str) -> set[str]:
    """A module of ours and all that it imports; of the tables only their names are."""
    found, ahead = set(), [module]
    while ahead:
        if (name := ahead.pop()) not in found:
            found.add(name)
            ahead += [] if name == CONSTANTS else _own(name)
    return found


def _libraries(module: str) -> set[str]:
    if module == CONSTANTS:
        return set()
    return {name.partition(".")[0] for name, _ in _imports(module)}


def _short(module: str) -> str:
    return module.rpartition(".")[2]


def _copied(module: str, package: str) -> bytes:
    """A module with its imports of ours made those of the package, which is flat; relative ones
    where ``package`` is empty.
    """

    def flat(found: re.Match[str]) -> str:
        place = f"{package}.{found[2]}" if found[2] else package or "."
        return f"{found[1]}{place} import "

    imports = re.compile(rf"^(\s*from ){PACKAGE}(?:\.zoo)?(?:\.(\w+))? import ", flags=re.MULTILINE)
    return imports.sub(flat, _source(module)).encode()


def _constants(modules: Iterable[str]) -> bytes:
    """The names that modules take from the tables, as their plain values."""
    wanted = {
        name
        for module in modules
        for imported, names in _imports(module)
        if imported == f"{PACKAGE}.{CONSTANTS}"
        for name in names
    }
    lines = [f"{name} = {getattr(tables, name)!r}\n" for name in sorted(wanted)]
    return ('"""Names of columns, classes and levels."""\n\n' + "".join(lines)).encode()
