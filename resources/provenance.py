"""Where a logged number came from: commit, libraries, the process and its Dagster instance."""

from __future__ import annotations

import contextlib
import functools
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from resources.processes import identity

# Of each line the first that is installed: runtimes of a platform bring some libraries under
# another distribution's name.
NUMERIC_LIBRARIES = (
    ("numpy",),
    ("pandas",),
    ("pyspark", "databricks-connect", "pyspark-client"),
    ("scikit-learn",),
    ("scipy",),
    ("statsforecast",),
    ("xgboost-cpu", "xgboost"),
)
PROCESS = "medallion.process"  # tag: the process that logs a run, by resources/processes.py
# tag: id of the run storage of the Dagster instance that started it
INSTANCE = "medallion.dagster_instance"


def git_commit() -> str:
    """Commit of the code, with ``+`` where files differ from it; the package's version outside a
    checkout.
    """
    folder = Path(__file__).resolve().parent
    command = [
        "git",
        "-C",
        str(folder),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("medallion-forecasting")
        except PackageNotFoundError:
            return "unknown"


@functools.cache
def library_versions() -> str:
    """Versions of Python and of the libraries that a forecast's digits depend on, by the name under
    which each is installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    def installed(names: Sequence[str]) -> str:
        for name in names:
            with contextlib.suppress(PackageNotFoundError):
                return f"{name} {version(name)}"
        return f"{names[0]} unknown"

    return ", ".join([f"python {platform.python_version()}", *map(installed, NUMERIC_LIBRARIES)])


def origin_tags(instance: str) -> dict[str, str]:
    """Tags of a run that tell which process of which Dagster instance logs it: by them a run that
    was left behind is known.
    """
    return {PROCESS: identity()} | ({INSTANCE: instance} if instance else {})
