"""MLflow's own SQLite file, where runs and versions are kept in one: how it is made, and what is
read from it without MLflow.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from resources.processes import is_leftover, own_name
from resources.settings import Settings

TRAININGS = "trainings"  # the view of an experiment that shows its trainings


def ensure_file(settings: Settings) -> None:
    """Make the SQLite file of runs and versions, where they are kept in one and it is missing. It
    appears under its name when it is whole: MLflow can't go on with a file whose making was ended
    half-way.
    """
    file = file_of(settings.tracking_uri)
    if file is None or (file.exists() and not _is_unfinished(file)):
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{file.name}."
    for left in file.parent.glob(f"{prefix}*"):
        if is_leftover(left.name.removeprefix(prefix).removesuffix("-journal")):
            left.unlink()
    unfinished = file.with_name(f"{prefix}{own_name()}")
    try:
        store = SqlAlchemyStore(f"sqlite:///{unfinished}", f"{settings.lakehouse_root}/mlartifacts")
        store._dispose_engine()
        if not file.exists() or _is_unfinished(file):
            unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def file_of(uri: str) -> Path | None:
    """The file of an address of SQLite; None for other addresses."""
    is_file = uri.startswith("sqlite:///")
    return Path(uri.removeprefix("sqlite:///")) if is_file else None


def _is_unfinished(file: Path) -> bool:
    """Whether the making of MLflow's file was ended half-way: its last step stores the first
    experiment. False for a file that can't be read now; MLflow tells why.
    """
    with contextlib.closing(sqlite3.connect(file)) as database:
        try:
            if _has_rows(database, "experiments"):
                return False
            return not _has_rows(database, "registered_models")
        except sqlite3.DatabaseError:
            return False


def _has_rows(database: sqlite3.Connection, table: str) -> bool:
    named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    if database.execute(named, (table,)).fetchone() is None:
        return False
    return database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None


def trainings_page(settings: Settings, server: str) -> str | None:
    """Address of the experiment's trainings at a server that shows the lakehouse's own file; None
    before the first run.
    """
    file = file_of(settings.tracking_uri)
    if file is None or not file.is_file():
        return None
    with contextlib.closing(sqlite3.connect(file)) as store:
        try:
            found = store.execute(
                "SELECT experiment_id FROM experiments WHERE name = ?",
                (settings.mlflow.experiment,),
            ).fetchone()
        except sqlite3.DatabaseError:
            return None
    if not found:
        return None
    return f"{server}/#/experiments/{found[0]}/runs?viewStateShareKey={TRAININGS}"
