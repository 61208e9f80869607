"""What the environment says: which configuration, and where Dagster keeps its records. The only
place that reads it.
"""

import os
from pathlib import Path

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
DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / "config" / "sample.yaml"


def configuration_file() -> Path:
    """The file that the environment names, or the sample's."""
    return Path(os.environ.get("MEDALLION_CONFIG", DEFAULT_CONFIG))


def current_settings() -> Settings:
    """The configuration that the environment names."""
    return load_settings(configuration_file(), os.environ)


def prepare_dagster_home(settings: Settings) -> str:
    """Folder of Dagster's own records: DAGSTER_HOME, else one beside the lakehouse, so that two
    lakehouses never mix.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or f"{settings.lakehouse_root}/dagster").absolute()
    home.mkdir(parents=True, exist_ok=True)
    instance_file = home / "dagster.yaml"
    # A file that somebody wrote, for PostgreSQL say, stays as it is; that of a former release gets
    # the storage.
    if not instance_file.exists() or instance_file.read_text(encoding="utf-8") == INSTANCE_YAML:
        instance_file.write_text(INSTANCE_YAML + STORAGE_YAML, encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return str(home)
