"""What `medallion doctor` says of parts that are missing, without an engine;
tests/spark/test_doctor.py starts one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from medallion_assets import cli
from medallion_assets.operations import doctor
from medallion_assets.operations.doctor import Finding, examine
from resources.processes import identity
from resources.settings import ConfigurationError, Settings
from tests.unit.test_cli import configured


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that would start an engine give nothing."""
    monkeypatch.setattr(doctor, "_engine", lambda settings, folder: iter(()))


def found(settings: Settings) -> dict[str, Finding]:
    """Findings by check."""
    return {finding.check: finding for finding in examine(lambda: settings, Path("test.yaml"))}


def test_a_missing_java_is_said_for_engine_spark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without java on PATH the command ends with 1, names Java, and starts no engine."""
    configured(
        tmp_path, monkeypatch, engine="spark", spark={"conf": {"spark.jars.packages": "delta"}}
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    shown = CliRunner().invoke(cli.commands, ["doctor"])
    assert shown.exit_code == 1
    assert "no java of PATH starts; JAVA_HOME is not set" in shown.output
    assert "Missing: Java, engine" in shown.output


@pytest.mark.parametrize(("version", "state"), [("17.0.15", "ok"), ("1.8.0_402", "missing")])
def test_the_java_that_counts_is_that_of_java_home(
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    no_engine: None,
    version: str,
    state: str,
) -> None:
    """Its version is shown, and one that is too old counts as missing."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    told = found(settings.model_copy(update={"engine": "spark"}))["Java"]
    assert (told.state, told.found) == (state, f"{version}; JAVA_HOME {tmp_path}")


@pytest.mark.parametrize(
    ("jar", "state"),
    [
        (None, "missing"),
        ("delta-spark_4.2_2.13-1.0.0.jar", "missing"),
        ("delta-spark_4.2_2.13-{version}.jar", "ok"),
    ],
)
def test_jars_must_fit_the_package(
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    no_engine: None,
    jar: str | None,
    state: str,
) -> None:
    """None, and those of another version, are fetched by the set-up."""
    if jar:
        (tmp_path / jar.format(version=doctor.version("delta-spark"))).touch()
    monkeypatch.setattr(doctor, "delta_jars", lambda: tmp_path)
    told = found(settings.model_copy(update={"engine": "spark"}))["Delta's jars"]
    assert (told.state, told.advice) == (
        state,
        "run make setup ENGINE=spark" if state == "missing" else "",
    )


@pytest.mark.parametrize(
    ("versions", "state", "advice"),
    [
        (
            lambda name: "" if name == "pysail" else "1",
            "missing",
            "run make setup; not there: pysail",
        ),
        (
            lambda name: "0.0.1" if name == "pysail" else "1",
            "look",
            "run make setup: equal bits are tested with pysail 0.7.2",
        ),
    ],
)
def test_packages_that_are_missing_or_other_ones(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    no_engine: None,
    versions: Callable[[str], str],
    state: str,
    advice: str,
) -> None:
    """A missing one is named; another version than the pinned one is worth a look."""
    monkeypatch.setattr(doctor, "_version", versions)
    monkeypatch.setattr(doctor, "_requirements", lambda: ["pysail==0.7.2", "pandas<3"])
    told = found(settings)["packages"]
    assert (told.state, told.advice) == (state, advice)


def test_a_server_that_is_not_there_is_said_without_its_token(settings: Settings) -> None:
    """A Spark Connect server and one of MLflow: their addresses, and neither token nor password."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        connect = settings.connect.model_copy(
            update={"address": f"sc://127.0.0.1:{port}", "token": "s3cr3t"}
        )
        mlflow = settings.mlflow.model_copy(
            update={"tracking_uri": f"http://me:s3cr3t@127.0.0.1:{port}"}
        )
        told = found(
            settings.model_copy(update={"engine": "connect", "connect": connect, "mlflow": mlflow})
        )
    assert told["engine"].found.startswith(
        f"Spark Connect at sc://127.0.0.1:{port} does not answer"
    )
    assert told["MLflow"].found.startswith(
        f"tracking server at http://***@127.0.0.1:{port} does not answer"
    )
    assert {told["engine"].state, told["MLflow"].state} == {"missing"}
    assert "s3cr3t" not in repr(told)


def test_a_mistake_in_the_configuration_is_a_finding() -> None:
    """What needs no configuration is checked all the same."""

    def load() -> Settings:
        raise ConfigurationError("x.yaml: 1 mistake(s) in the configuration")

    assert [(finding.check, finding.state) for finding in examine(load, Path("x.yaml"))] == [
        ("Python", "ok"),
        ("configuration", "missing"),
    ]


def test_leftovers_of_killed_processes_are_told_and_stay(
    settings: Settings, no_engine: None
) -> None:
    """A folder of a process that is gone counts, one of this process does not, and nothing is
    removed.
    """
    scratch = Path(settings.lakehouse_root) / "scratch"
    host, _, _ = identity().rsplit(":", 2)
    gone = scratch / f"{host}.999999999.1"
    for folder in (gone, scratch / identity().replace(":", ".")):
        folder.mkdir(parents=True)
        (folder / "rows.parquet").write_bytes(b"x" * 2**20)
    told = found(settings)["leftovers"]
    assert (told.state, told.found) == (
        "look",
        f"1 folders of killed processes, 1.0 MB, in {scratch}",
    )
    assert gone.exists()


def test_a_root_below_a_file_is_no_lakehouse(tmp_path: Path, settings: Settings) -> None:
    """It can't be written, so no engine is started."""
    (tmp_path / "file").touch()
    told = found(
        settings.model_copy(update={"lakehouse_root": str(tmp_path / "file" / "lakehouse")})
    )
    assert (told["lakehouse"].state, told["engine"].found) == (
        "missing",
        "not tried without lakehouse",
    )
