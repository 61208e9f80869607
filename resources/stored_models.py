"""Stored models: how MLflow keeps their code and their fits apart, and how they are read again.

Nothing that is read runs code of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from resources.errors import Refused

if TYPE_CHECKING:
    import pandas as pd

FITS = "artifacts/fits"  # folder of a stored model
# tag of a run and a version: SHA-256 of the files of its model's fits
FITS_SHA256 = "medallion.fits_sha256"


class ModelRefused(Refused):
    """A stored model is not what was logged, or only a pickle; the message says which and what to
    do.
    """


@dataclass(frozen=True)
class ModelColumn:
    """A column that a model takes or gives: a string, long, double or boolean, or a list of
    them.
    """

    name: str
    type: str
    is_required: bool
    is_list: bool = False


@dataclass(frozen=True)
class StoredModel:
    """A model as MLflow stores it, its code and its fits apart.

    ``fits`` and ``code`` are files by path, and ``digest`` is that of the fits. ``model_file`` is
    the code that MLflow runs to load the model; it finds the fits as the artifact "fits" and their
    digest as ``fits_sha256`` of the model's configuration. ``requirements`` are distributions with
    their versions.
    """

    fits: Mapping[str, bytes]
    digest: str
    model_file: bytes
    code: Mapping[str, bytes]
    requirements: Sequence[str]
    inputs: Sequence[ModelColumn]
    outputs: Sequence[ModelColumn]
    example: pd.DataFrame


class ModelFormat(Protocol):
    """How models become files and come back. Nothing that is read may run code of its own."""

    def stored(self, model: Any) -> StoredModel: ...

    def digest(self, fits: Mapping[str, bytes]) -> str: ...

    def read(self, fits: Mapping[str, bytes]) -> Any: ...


def as_format(models: ModelFormat | None) -> ModelFormat:
    """The format, where there is one. Raises TypeError for tracking that was made without."""
    if models is None:
        raise TypeError("this tracking was made without a ModelFormat and reads no models")
    return models


def read_model(
    models: ModelFormat | None, uri: str, what: str, digest: str | None, remedy: str
) -> Any:
    """A stored model by its fits alone; no code of the artifact runs. One of a former release
    is unpickled, where MLflow may do that.
    """
    import mlflow

    format_ = as_format(models)
    # A folder of ours, as those that MLflow makes for what it fetches from a server stay behind.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
        if not (path / FITS).is_dir():
            return _unpickled(format_, path, what, remedy)
        fits = {
            file.relative_to(path / FITS).as_posix(): file.read_bytes()
            for file in (path / FITS).rglob("*")
            if file.is_file()
        }
    if (found := format_.digest(fits)) != digest:
        raise ModelRefused(
            f"{what} is not what was logged: the SHA-256 of its fits is {found}, and the tag"
            f" {FITS_SHA256} says {digest or 'nothing'}. It was not loaded. Restore its"
            f" artifacts from a copy, or {remedy}"
        )
    try:
        return format_.read(fits)
    except ValueError as error:
        raise ModelRefused(f"{what} can't be read: {error}") from error


def _unpickled(models: ModelFormat, path: Path, what: str, remedy: str) -> Any:
    """A model that a former release stored as a pickle, by way of the form that it has now.
    What no longer has that form is refused: it would answer with other numbers.
    """
    import mlflow
    from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION

    told = f"{what} was stored by a former release, as a pickle, and"
    if not MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get():
        raise ModelRefused(
            f"{told} {MLFLOW_ALLOW_PICKLE_DESERIALIZATION.name}=false forbids to load that."
            " Train the month again with this release, once without the variable: what is"
            " fitted and registered from now on is stored as data"
        )
    try:
        model = mlflow.pyfunc.load_model(str(path)).unwrap_python_model()
        return models.read(models.stored(model).fits)
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise ModelRefused(
            f"{told} can't be read any more: {error}. Load it with the release that stored"
            f" it, or {remedy}"
        ) from error


def save_model(stored: StoredModel, folder: Path, run_id: str, model_id: str) -> None:
    """A model in MLflow's layout, as ``model`` below the folder."""
    import mlflow
    from mlflow.models import Model, ModelSignature

    written = {
        "model.py": stored.model_file,
        **{f"code/{path}": content for path, content in stored.code.items()},
        **{f"fits/{path}": content for path, content in stored.fits.items()},
    }
    for path, content in written.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    packages = sorted({path.split("/")[0] for path in stored.code})
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
        python_model=str(folder / "model.py"),
        artifacts={"fits": str(folder / "fits")},
        code_paths=[str(folder / "code" / name) for name in packages],
        model_config={"fits_sha256": stored.digest},
        signature=ModelSignature(_schema(stored.inputs), _schema(stored.outputs)),
        input_example=stored.example,
        pip_requirements=list(stored.requirements),
    )


def _schema(columns: Sequence[ModelColumn]) -> Any:
    from mlflow.types import Schema

    return Schema([_column(column) for column in columns])


def _column(column: ModelColumn) -> Any:
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import Array

    kind = DataType[column.type]
    return ColSpec(Array(kind) if column.is_list else kind, column.name, column.is_required)


def model_of(run: Any) -> str | None:
    """Id of the model that a run of MLflow logged; None without one."""
    outputs = run.outputs.model_outputs if run.outputs else ()
    return str(outputs[-1].model_id) if outputs else None


def address_of_model(run: Any) -> str:
    """The address of a run's model, by its id: to find it by the run, MLflow would read the list of
    all models. A former release kept it among the run's artifacts.
    """
    model_id = model_of(run)
    return f"models:/{model_id}" if model_id else f"{run.info.artifact_uri}/model"
