"""What the environment says: which configuration, and where Dagster keeps its records. The only
place that reads it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from resources import place
from resources.place import NamesCollide
from resources.settings import Settings, load_settings

INSTANCE_YAML = """\
telemetry:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 1
"""
STORAGE_YAML = """\
storage:
  custom:
    module: resources.dagster_storage
    class: SqliteStorage
    config:
      base_dir: {env: DAGSTER_HOME}
"""
# No window in a fresh browser that asks for an address.
WELCOME_YAML = """\
nux:
  enabled: false
"""
HOME_OF = "medallion_lakehouse"  # in a home that somebody named: id and folder of its lakehouse
DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "config" / "sample.yaml"


def configuration_file() -> Path:
    """The file that the environment names, or the sample's."""
    return Path(os.environ.get("MEDALLION_CONFIG", DEFAULT_CONFIG))


def current_settings() -> Settings:
    """The configuration that the environment names."""
    return settings_of(configuration_file())


def settings_of(file: Path) -> Settings:
    """A configuration, with what it takes from the environment."""
    return load_settings(file, os.environ)


def answer(name: str) -> str | None:
    """What the environment answers to a question of a notebook: MEDALLION_CONFIRM for confirm."""
    return os.environ.get(f"MEDALLION_{name.upper()}")


def configure(file: Path | None, values: Mapping[str, str]) -> None:
    """Let this process read another configuration, and values for its ``${NAME}``: for a job that
    is given arguments and no environment.
    """
    if file is not None:
        os.environ["MEDALLION_CONFIG"] = str(file.absolute())
    os.environ.update(values)


_made: set[str] = set()  # homes that this process set, which are nobody's wish


def prepare_dagster_home(settings: Settings) -> str:
    """Folder of Dagster's own records: DAGSTER_HOME, else one beside the lakehouse, so that two
    lakehouses never mix. Raises NamesCollide for a DAGSTER_HOME that another lakehouse uses.
    """
    wished = os.environ.get("DAGSTER_HOME", "")
    own = Path(settings.lakehouse_root, "dagster").absolute()
    home = Path(wished).absolute() if wished and wished not in _made else own
    home.mkdir(parents=True, exist_ok=True)
    if home == own:
        _made.add(str(home))
    else:
        _claim_home(home, settings)
    instance_file = home / "dagster.yaml"
    # A file that somebody wrote, for PostgreSQL say, stays as it is; that of a former release gets
    # the storage.
    if not instance_file.exists() or instance_file.read_text(encoding="utf-8") == INSTANCE_YAML:
        instance_file.write_text(INSTANCE_YAML + STORAGE_YAML + WELCOME_YAML, encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return str(home)


def _claim_home(home: Path, settings: Settings) -> None:
    """Note whose records a home holds: the months of two lakehouses have the same keys."""
    lakehouse = place.known(settings.lakehouse_root)
    if lakehouse is None:
        return
    note = home / HOME_OF
    if note.exists():
        owner, _, root = note.read_text(encoding="utf-8").strip().partition(" ")
        if owner != lakehouse.id:
            raise NamesCollide(
                f"DAGSTER_HOME {home} holds the records of another lakehouse, {root}: its months"
                " would look like this one's. Unset DAGSTER_HOME, so that the records lie beside"
                " the lakehouse, or name another folder"
            )
    note.write_text(f"{lakehouse.id} {settings.lakehouse_root}\n", encoding="utf-8")
