"""Which lakehouse a folder holds: a new, a moved, a copied one; configurations that would mix."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from medallion_assets import environment
from resources import place
from resources.errors import Refused
from resources.place import FILE, NamesCollide, known, settle
from resources.settings import Settings, parse_settings
from tests.conftest import SOURCE


def at(folder: Path, **changes: Any) -> Settings:
    """The configuration of a lakehouse below a folder, as it is read there."""
    content = {"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [SOURCE]}
    return parse_settings({**content, **changes}, folder / "company.yaml")


def identity(settings: Settings) -> str:
    noted = known(settings.lakehouse_root)
    assert noted is not None
    return noted.id


def mlflow_file(settings: Settings, *addresses: str) -> Path:
    """A store with an address in each of the columns that hold one, and a dataset."""
    file = Path(settings.lakehouse_root, "mlflow.db")
    with sqlite3.connect(file) as store:
        store.execute("CREATE TABLE experiments (name TEXT, artifact_location TEXT)")
        store.execute("CREATE TABLE runs (artifact_uri TEXT)")
        store.execute("CREATE TABLE datasets (dataset_uuid TEXT, dataset_source TEXT)")
        root = f"{settings.lakehouse_root}/mlartifacts"
        store.execute("INSERT INTO experiments VALUES ('demand_forecasting', ?)", (root,))
        store.executemany("INSERT INTO runs VALUES (?)", [(address,) for address in addresses])
        source = json.dumps({"path": f"{settings.lakehouse_root}/gold/t", "delta_table_name": "t"})
        store.execute("INSERT INTO datasets VALUES ('1', ?)", (source,))
    return file


def stored(file: Path) -> list[str]:
    with sqlite3.connect(file) as store:
        return [
            row[0]
            for table, column in (
                ("experiments", "artifact_location"),
                ("runs", "artifact_uri"),
                ("datasets", "dataset_source"),
            )
            for row in store.execute(f"SELECT {column} FROM {table}")
        ]


def test_a_lakehouse_gets_an_identity_once(tmp_path: Path) -> None:
    """The second look finds it as it was, and has nothing to say."""
    settings = at(tmp_path)
    assert settle(settings) == []
    first = Path(settings.lakehouse_root, FILE).read_bytes()
    assert settle(settings) == []
    assert Path(settings.lakehouse_root, FILE).read_bytes() == first
    assert [path.name for path in Path(settings.lakehouse_root).iterdir()] == [FILE]


@pytest.mark.parametrize("name", ["site b", "Büro & Söhne", "it's a_1", 'say "b"'])
def test_a_moved_lakehouse_goes_on_and_its_addresses_follow(tmp_path: Path, name: str) -> None:
    """Whatever the folder is called: same identity, every address of its own below the new root,
    one of somebody else as it was.
    """
    before = at(tmp_path / "site_a")
    settle(before)
    root = before.lakehouse_root
    elsewhere = f"{root}_2/mlartifacts/1"
    mlflow_file(before, f"{root}/mlartifacts/1/artifacts", f"file://{root}/x", elsewhere)
    shutil.move(tmp_path / "site_a", tmp_path / name)
    after = at(tmp_path / name)
    was = identity(after)
    (told,) = settle(after)
    assert told == (
        f"This lakehouse was moved here from {root}; 4 addresses in MLflow's file follow it."
    )
    assert identity(after) == was
    new = after.lakehouse_root
    addresses = stored(Path(new, "mlflow.db"))
    assert addresses[:4] == [
        f"{new}/mlartifacts",
        f"{new}/mlartifacts/1/artifacts",
        f"file://{new}/x",
        elsewhere,
    ]
    assert json.loads(addresses[4])["path"] == f"{new}/gold/t"
    assert settle(after) == []
    assert not (tmp_path / "site_a").exists()


def test_a_copied_lakehouse_is_told_apart(tmp_path: Path) -> None:
    """It gets an identity of its own, its addresses are its own, and the original stays as it
    was.
    """
    original = at(tmp_path / "a")
    settle(original)
    file = mlflow_file(original, f"{original.lakehouse_root}/mlartifacts/1")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    copy = at(tmp_path / "b")
    (told,) = settle(copy)
    assert told.startswith(f"This lakehouse is a copy of {original.lakehouse_root}, which is still")
    assert identity(copy) != identity(original)
    assert all(
        str(tmp_path / "b") in address for address in stored(Path(copy.lakehouse_root, "mlflow.db"))
    )
    assert {path: path.read_bytes() for path in before} == before
    assert str(tmp_path / "a") in stored(file)[0]
    assert settle(original) == settle(copy) == []


def test_a_lakehouse_of_a_former_release_that_was_moved_is_known_by_its_artifacts(
    tmp_path: Path,
) -> None:
    """It left no note; where its experiment kept its artifacts says where it lay."""
    former = at(tmp_path / "a")
    Path(former.lakehouse_root).mkdir(parents=True)
    mlflow_file(former, f"{former.lakehouse_root}/mlartifacts/1")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = at(tmp_path / "b")
    assert settle(moved)[0].startswith(
        f"This lakehouse was moved here from {former.lakehouse_root}"
    )
    assert str(tmp_path / "a") not in "".join(stored(Path(moved.lakehouse_root, "mlflow.db")))


def test_a_failure_half_way_changes_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All addresses follow in one transaction, and the next run tries again."""
    before = at(tmp_path / "a")
    settle(before)
    mlflow_file(before, f"{before.lakehouse_root}/mlartifacts/1")
    (tmp_path / "a").rename(tmp_path / "b")
    after = at(tmp_path / "b")

    def fail(*_: object) -> int:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(place, "_datasets", fail)
        with pytest.raises(OSError, match="disk full"):
            settle(after)
    file = Path(after.lakehouse_root, "mlflow.db")
    assert all(before.lakehouse_root in address for address in stored(file))
    settle(after)
    assert not any(before.lakehouse_root in address for address in stored(file))


def test_a_server_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    """A file that lies in the root, but is not the one that runs are kept in, stays as it is."""
    before = at(tmp_path / "a")
    settle(before)
    mlflow_file(before, f"{before.lakehouse_root}/mlartifacts/1")
    (tmp_path / "a").rename(tmp_path / "b")
    after = at(tmp_path / "b", mlflow={"tracking_uri": "http://127.0.0.1:9"})
    file = Path(after.lakehouse_root, "mlflow.db")
    was = file.read_bytes()
    assert settle(after) == [f"This lakehouse was moved here from {before.lakehouse_root}."]
    assert file.read_bytes() == was


OTHER = {**SOURCE, "name": "market"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schemas": {"gold": "other_gold"}}, r"schemas\.gold: my_gold; .* Name the same schemas"),
        ({"sources": [OTHER]}, r"holds orders of shop, .* only market: two configurations"),
        ({"catalog": "other"}, r"name versions of the registered model my_catalog\.my_gold"),
    ],
)
def test_two_configurations_in_one_lakehouse_are_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """Other schemas, none of the sources, or another model than its decisions name: said before
    anything is written.
    """
    settings = at(tmp_path)
    settle(settings)
    place.note_model(settings)
    Path(settings.lakehouse_root, "my_gold").mkdir()
    was = Path(settings.lakehouse_root, FILE).read_bytes()
    with pytest.raises(NamesCollide, match=says):
        settle(at(tmp_path, **changes))
    assert Path(settings.lakehouse_root, FILE).read_bytes() == was


def test_a_configuration_may_change(tmp_path: Path) -> None:
    """Another source beside the first, the first one gone later, and a catalog before anything is
    registered.
    """
    settle(at(tmp_path))
    for changes in ({"sources": [SOURCE, OTHER]}, {"sources": [OTHER]}, {"catalog": "other"}):
        settle(at(tmp_path, **{"sources": [OTHER], **changes}))


def test_a_note_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    """Rather than taking the lakehouse for a new one."""
    settings = at(tmp_path)
    settle(settings)
    Path(settings.lakehouse_root, FILE).write_text("{", encoding="utf-8")
    with pytest.raises(Refused, match=rf"{FILE} can't be read .* or delete it"):
        settle(settings)


def test_of_two_processes_that_make_a_lakehouse_one_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note that is there first holds for both."""
    settings = at(tmp_path)
    link, faster = os.link, []

    def slower(source: Path, target: Path) -> None:
        if not faster:
            faster.append(True)
            settle(settings)
        link(source, target)

    monkeypatch.setattr(os, "link", slower)
    settle(settings)
    noted = identity(settings)
    assert settle(settings) == []
    assert identity(settings) == noted
    assert [path.name for path in Path(settings.lakehouse_root).iterdir()] == [FILE]


def test_two_lakehouses_have_two_dagster_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one process too: what it set for the first is no wish for the second."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    homes = [environment.prepare_dagster_home(at(tmp_path / name)) for name in "ab"]
    assert homes == [str(tmp_path / name / "lakehouse" / "dagster") for name in "ab"]


def test_a_dagster_home_of_another_lakehouse_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The months of two lakehouses have the same keys, so one DAGSTER_HOME serves one of them."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    for name in "ab":
        settle(at(tmp_path / name))
    assert environment.prepare_dagster_home(at(tmp_path / "a")) == str(tmp_path / "home")
    with pytest.raises(NamesCollide, match=r"records of another lakehouse, .*/a/lakehouse"):
        environment.prepare_dagster_home(at(tmp_path / "b"))
    assert environment.prepare_dagster_home(at(tmp_path / "a")) == str(tmp_path / "home")
