"""The set-up: what each engine needs, what a second call does, and what an interruption leaves.
Nothing is installed here.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "setup_env.py"


@pytest.fixture
def setup_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with its .venv below the test's folder; ``done`` lists the steps that it took."""
    found = importlib.util.spec_from_file_location("setup_env", SCRIPT)
    assert found is not None
    assert found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    venv = tmp_path / ".venv"
    python, jars = venv / "bin" / "python", venv / "delta-jars"
    done: list[str] = []

    def make_venv() -> None:
        done.append("venv")
        python.parent.mkdir(parents=True, exist_ok=True)
        python.symlink_to(sys.executable)

    def resolve_jars() -> None:
        done.append("jars")
        jars.mkdir(exist_ok=True)

    for name, value in {
        "VENV": venv,
        "VENV_PYTHON": python,
        "JARS": jars,
        "JARS_STAMP": jars / ".stamp",
        "STAMP": venv / "setup-stamp",
        "make_venv": make_venv,
        "install_packages": lambda: done.append("packages"),
        "resolve_jars": resolve_jars,
        "done": done,
    }.items():
        monkeypatch.setattr(script, name, value, raising=False)
    return script


def steps(script: ModuleType, engine: str) -> list[str]:
    """What one set-up did."""
    script.done.clear()
    script.set_up(engine)
    return list(script.done)


def test_only_spark_gets_jars(setup_env: ModuleType) -> None:
    """Embedded first, then spark: the second fetches jars and nothing else, and embedded afterwards
    leaves them.
    """
    assert steps(setup_env, "embedded") == ["venv", "packages"]
    assert steps(setup_env, "spark") == ["jars"]
    assert [steps(setup_env, engine) for engine in ("embedded", "spark", "connect")] == [[], [], []]
    assert setup_env.JARS_STAMP.exists()


def test_an_interrupted_set_up_is_repaired(
    setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted among the packages it starts anew, among the jars it fetches them again."""
    for step in ("install_packages", "resolve_jars"):
        setup_env.VENV_PYTHON.unlink(missing_ok=True)
        with monkeypatch.context() as patched:
            patched.setattr(setup_env, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                setup_env.set_up("spark")
    assert setup_env.done == ["venv", "venv", "packages"]
    assert steps(setup_env, "spark") == ["jars"]


def interrupt() -> None:
    raise KeyboardInterrupt


def test_jars_of_other_versions_are_told(
    setup_env: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A set-up without Java can't fetch new ones, so it says who can."""
    steps(setup_env, "spark")
    setup_env.JARS_STAMP.write_text("other versions", encoding="utf-8")
    setup_env.STAMP.write_text(f"{ROOT}\nother packages\n", encoding="utf-8")
    assert steps(setup_env, "embedded") == ["packages"]
    assert "`make setup ENGINE=spark` fetches the right ones" in capsys.readouterr().out
    assert steps(setup_env, "spark") == ["jars"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("spark", "Engine spark needs Java 17 or newer, and PATH has none"),
        ("sprak", "ENGINE=sprak is no engine; known: embedded, spark, connect."),
    ],
)
def test_what_can_not_be_set_up_is_said_first(tmp_path: Path, engine: str, said: str) -> None:
    """Engine spark without Java and a name that is none end before anything is made."""
    environment = {"PATH": str(tmp_path), "MEDALLION_ENGINE": engine}
    ended = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(said)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("given", "engine"),
    [({}, ""), ({"ENGINE": "spark"}, "spark"), ({"MEDALLION_ENGINE": "connect"}, "connect")],
)
def test_make_hands_the_engine_on(given: dict[str, str], engine: str) -> None:
    """ENGINE becomes MEDALLION_ENGINE; without it the environment's stands, and an empty one never
    hides the configuration's.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ENGINE", "MEDALLION_ENGINE", "MAKEFLAGS")
    } | given
    shown = "--eval=shown: ; @$(project_environment); printf '%s' \"$$MEDALLION_ENGINE\""
    answer = subprocess.run(
        ["make", "-s", shown, "shown"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == engine
