"""Which lakehouse a folder holds, and where it lay when it was last used: a moved one goes on, a
copied one is told apart, and names that would mix with another's are refused.

Noted in ``lakehouse.json`` below the root. MLflow writes absolute addresses into its file; those of
a lakehouse's own file follow it. A server of somebody else is asked in tracking.py and never
changed here.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import tempfile
import uuid
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from resources.errors import Refused
from resources.settings import Settings

FILE = "lakehouse.json"
KEPT_PLACES = 50  # a container has another name each time that it starts
# Where MLflow keeps addresses of artifacts, by table. Params, tags and metrics are what was said at
# the time, and stay.
_ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


class NamesCollide(Refused):
    """Two lakehouses or configurations would mix; the message says which and what to set."""


@dataclass(frozen=True)
class Place:
    """What ``lakehouse.json`` says. ``places``: host and folder of every place that the lakehouse
    lay in, the newest last; ``model``: the registered model that its decisions name versions of.
    """

    id: str
    root: str
    places: tuple[str, ...]
    schemas: dict[str, str]
    sources: tuple[str, ...]
    model: str = ""


def here(settings: Settings) -> str:
    """Host and folder, as places are noted."""
    return f"{socket.gethostname()}:{settings.lakehouse_root}"


def known(root: str) -> Place | None:
    """What is noted of a lakehouse; None where nothing is. Raises Refused for a file that can't be
    read.
    """
    file = Path(root, FILE)
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        values = {field.name: said[field.name] for field in fields(Place) if field.name in said}
        return Place(
            **{**values, "places": tuple(said["places"]), "sources": tuple(said["sources"])}
        )
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise Refused(
            f"{file} can't be read ({error}); it says which lakehouse this is. Restore it, or"
            " delete it: the next run writes another"
        ) from error


def settle(settings: Settings) -> list[str]:
    """Note where the lakehouse lies now, and let MLflow's own file follow; what a person should
    read of it, in sentences.

    A lakehouse of a former release gets its identity. A copy, whose original is still there, gets
    one of its own. Raises NamesCollide where another configuration made this lakehouse.
    """
    root = Path(settings.lakehouse_root)
    root.mkdir(parents=True, exist_ok=True)
    noted = known(str(root))
    former = noted or _unnoted(settings)
    _refuse_other_names(former, settings)
    now, told = former, []
    if former.root != str(root):
        is_copy = _is_copied(former, root)
        follow = _let_mlflow_follow(settings, former.root)
        followed = f"; {follow:,} addresses in MLflow's file follow it" if follow else ""
        if is_copy:
            now = replace(now, id=uuid.uuid4().hex, places=())
            told.append(
                f"This lakehouse is a copy of {former.root}, which is still there; from now on the"
                f" two are told apart{followed}."
            )
        else:
            told.append(f"This lakehouse was moved here from {former.root}{followed}.")
    places = (*(place for place in now.places if place != here(settings)), here(settings))
    now = replace(
        now,
        root=str(root),
        places=places[-KEPT_PLACES:],
        schemas=settings.schemas.model_dump(),
        sources=tuple(source.name for source in settings.sources),
    )
    if noted is None and not _write_first(now):
        return settle(settings)  # another process was faster, and its identity holds
    if noted is not None and now != noted:
        _write(now)
    return told


def note_model(settings: Settings) -> None:
    """Note the registered model that the decisions of this lakehouse name versions of."""
    noted = known(settings.lakehouse_root)
    if noted is not None and noted.model != settings.registered_model:
        _write(replace(noted, model=settings.registered_model))


def _unnoted(settings: Settings) -> Place:
    """A lakehouse without a note: a new one, or one of a former release, whose old place MLflow's
    file knows.
    """
    root = _root_in_mlflow(settings) or settings.lakehouse_root
    return Place(uuid.uuid4().hex, root, (), settings.schemas.model_dump(), ())


def _refuse_other_names(former: Place, settings: Settings) -> None:
    folder = settings.lakehouse_root
    used = [
        f"schemas.{layer}: {name}"
        for layer, name in former.schemas.items()
        if name != getattr(settings.schemas, layer) and Path(folder, name).is_dir()
    ]
    if used:
        raise NamesCollide(
            f"lakehouse_root {folder} holds tables of another configuration, with"
            f" {', '.join(used)}; their runs and records would mix. Name the same schemas, or"
            " another lakehouse_root"
        )
    names = {source.name for source in settings.sources}
    if former.sources and not names & set(former.sources):
        raise NamesCollide(
            f"lakehouse_root {folder} holds orders of {', '.join(former.sources)}, and this"
            f" configuration names none of these sources, only {', '.join(sorted(names))}: two"
            " configurations would take turns in one lakehouse. Name another lakehouse_root, or"
            f" keep one of the sources; where all were renamed on purpose, delete {folder}/{FILE}"
        )
    if former.model and former.model != settings.registered_model:
        raise NamesCollide(
            f"the decisions of the lakehouse in {folder} name versions of the registered model"
            f" {former.model}, and this configuration names {settings.registered_model}. Set"
            " catalog and schemas.gold as they were, or name another lakehouse_root"
        )


def _is_copied(former: Place, root: Path) -> bool:
    """Whether the lakehouse is still at the place where it lay, and that is another folder."""
    try:
        if Path(former.root).samefile(root):
            return False
    except OSError:
        return False
    original = known(former.root)
    if former.places:
        return original is not None and original.id == former.id
    # Of a former release, which left no note.
    return original is not None or Path(former.root, "mlflow.db").exists()


def _mlflow_file(settings: Settings) -> Path | None:
    """The lakehouse's own MLflow file, where it has one."""
    file = Path(settings.lakehouse_root, "mlflow.db")
    return file if settings.mlflow.tracking_uri is None and file.is_file() else None


def _root_in_mlflow(settings: Settings) -> str | None:
    """The folder that the experiment of the lakehouse's own file kept its artifacts below."""
    if (file := _mlflow_file(settings)) is None:
        return None
    with closing(sqlite3.connect(file)) as store, suppress(sqlite3.DatabaseError):
        found = store.execute(
            "SELECT artifact_location FROM experiments WHERE name = ?",
            (settings.mlflow.experiment,),
        ).fetchone()
        if found and str(found[0]).endswith("/mlartifacts"):
            return str(found[0]).removesuffix("/mlartifacts")
    return None


def _let_mlflow_follow(settings: Settings, former: str) -> int:
    """Change the addresses below the former root in the lakehouse's own MLflow file, in one
    transaction; how many there were.
    """
    if (file := _mlflow_file(settings)) is None:
        return 0
    with closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as store:
        store.execute("BEGIN IMMEDIATE")
        try:
            changed = sum(
                _replaced(store, table, column, former, settings.lakehouse_root)
                for table, columns in _ADDRESSES.items()
                for column in columns
            ) + _datasets(store, former, settings.lakehouse_root)
        except BaseException:
            store.execute("ROLLBACK")
            raise
        store.execute("COMMIT")
    return changed


def _replaced(store: sqlite3.Connection, table: str, column: str, old: str, new: str) -> int:
    """Put ``new`` where ``old`` is the folder that an address begins with."""
    if not _has(store, table, column):
        return 0
    changed = 0
    for scheme in ("", "file://"):
        begin = f"{scheme}{old}/"
        changed += store.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
            f" WHERE substr({column}, 1, ?) = ?",
            (f"{scheme}{new}/", len(begin) + 1, len(begin), begin),
        ).rowcount
    return changed


def _datasets(store: sqlite3.Connection, old: str, new: str) -> int:
    """The paths of tables that runs name as their inputs."""
    if not _has(store, "datasets", "dataset_source"):
        return 0
    moved = []
    for uuid_, source in store.execute("SELECT dataset_uuid, dataset_source FROM datasets"):
        with suppress(ValueError):
            said: Any = json.loads(source)
            if isinstance(said, dict) and str(said.get("path", "")).startswith(f"{old}/"):
                path = f"{new}{said['path'].removeprefix(old)}"
                moved.append((json.dumps({**said, "path": path}), uuid_))
    store.executemany("UPDATE datasets SET dataset_source = ? WHERE dataset_uuid = ?", moved)
    return len(moved)


def _has(store: sqlite3.Connection, table: str, column: str) -> bool:
    return column in {row[1] for row in store.execute(f"PRAGMA table_info({table})")}


def _write(place: Place) -> None:
    """All at once, so that nobody reads a half."""
    _written(place).replace(Path(place.root, FILE))


def _write_first(place: Place) -> bool:
    """Write the note of a lakehouse that has none; False where another process did so meanwhile."""
    written, file = _written(place), Path(place.root, FILE)
    try:
        os.link(written, file)
    except FileExistsError:
        return False
    except OSError:  # a disk without links
        written.replace(file)
    finally:
        written.unlink(missing_ok=True)
    return True


def _written(place: Place) -> Path:
    handle, name = tempfile.mkstemp(dir=place.root, prefix=f".{FILE}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(asdict(place), file, indent=2, ensure_ascii=False)
    Path(name).chmod(0o644)
    return Path(name)
