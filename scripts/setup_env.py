"""Makes .venv with the pinned packages; for engine spark also asks for Java and fetches Delta's
jars.

The engine is that of MEDALLION_ENGINE. A second call finds nothing to do; an interrupted one is
repaired. Uses the standard library only, and syntax that an old Python can read: it has to be able
to say that it is too old.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
JARS = VENV / "delta-jars"
JARS_STAMP = JARS / ".stamp"
STAMP = VENV / "setup-stamp"
PACKAGE_INPUTS = ("pyproject.toml", "setup.cfg", "constraints.txt", "scripts/setup_env.py")
JAR_INPUTS = ("scripts/resolve_delta_jars.py", "scripts/ivysettings.xml")
OLDEST_PYTHON = (3, 11)
OLDEST_JAVA = 17
ENGINES = ("embedded", "spark", "connect")


def fail(sentence: str) -> None:
    sys.exit(sentence)


def say(line: str) -> None:
    print(line, flush=True)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def fingerprint(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def require_python() -> None:
    """Go on with a newer Python of this machine if this one is too old."""
    if sys.version_info >= OLDEST_PYTHON:
        return
    for name in ("python3.13", "python3.12", "python3.11"):
        path = shutil.which(name)
        # A name on PATH may be a launcher without the version behind it, so it has to prove itself.
        if (
            path
            and subprocess.call(
                [path, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            == 0
        ):
            os.execv(path, [path, *sys.argv])
    fail(
        f"Python 3.11 or newer is needed, and this is {sys.version_info[0]}.{sys.version_info[1]}:"
        " install it, or name it with PYTHON=..."
    )


def require_engine(name: str) -> str:
    """The engine to set up for: the default where none is named."""
    if name and name not in ENGINES:
        fail(f"ENGINE={name} is no engine; known: {', '.join(ENGINES)}.")
    return name or ENGINES[0]


def require_java() -> None:
    """Spark takes JAVA_HOME before PATH, and so does this check."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else "java"
    where = "JAVA_HOME" if home else "PATH"
    needed = f"Engine spark needs Java {OLDEST_JAVA} or newer, and"
    try:
        answer = subprocess.run(
            [java, "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except OSError:
        sys.exit(
            f"{needed} {where} has none: install a JDK or JRE, or set JAVA_HOME. ENGINE=embedded"
            " needs none."
        )
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stdout.decode(errors="replace"))
    if answer.returncode != 0 or not found:
        sys.exit(
            f"{needed} the java of {where} does not start: install a JDK or JRE, or set JAVA_HOME."
        )
    if int(found.group(1)) < OLDEST_JAVA:
        sys.exit(
            f"{needed} the java of {where} is {found.group(1)}: install a newer one, or set"
            " JAVA_HOME."
        )


def call(*command: object, **options: object) -> bool:
    return subprocess.call([str(word) for word in command], cwd=str(ROOT), **options) == 0


def make_venv() -> None:
    say("Making .venv ...")
    # An environment that was left half-way may hold packages that look complete, so it starts from
    # nothing.
    if not call(sys.executable, "-m", "venv", "--clear", VENV, stdout=subprocess.DEVNULL):
        fail(
            "Python could not make a virtual environment; on Debian and Ubuntu the package"
            " python3-venv is missing."
        )


def install_packages() -> None:
    say("Installing packages (about a minute, once) ...")
    pip_install = (VENV_PYTHON, "-m", "pip", "install", "-q", "-c", "constraints.txt")
    uv = shutil.which("uv") or str(VENV / "bin" / "uv")
    if not os.path.exists(uv):
        call(*pip_install, "uv", stderr=subprocess.DEVNULL)
    if os.path.exists(uv) and call(
        uv,
        "pip",
        "install",
        "-q",
        "--compile-bytecode",
        "--python",
        VENV_PYTHON,
        "-c",
        "constraints.txt",
        "-e",
        ".[dev]",
    ):
        return
    # pip knows mirrors and certificates that uv may not have been told about.
    say("Installing with pip instead of uv (a few minutes) ...")
    if not call(*pip_install, "-e", ".[dev]"):
        fail(
            "The packages could not be installed; the lines above say why. The next call tries"
            " again."
        )


def resolve_jars() -> None:
    say("Fetching Delta's jars (15 seconds, once) ...")
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("SPARK_HOME", "SPARK_REMOTE", "PYSPARK_SUBMIT_ARGS")
    }
    environment["PYSPARK_PYTHON"] = str(VENV_PYTHON)
    resolver = [str(VENV_PYTHON), str(ROOT / "scripts" / "resolve_delta_jars.py"), str(JARS)]
    answer = subprocess.run(
        resolver, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if answer.returncode != 0:
        log = VENV / "delta-jars.log"
        log.write_bytes(answer.stdout)
        fail(
            f"Delta's jars could not be fetched; {log.relative_to(ROOT)} says why. Can Java reach"
            " the network? The next call tries again."
        )


def set_up(engine: str) -> None:
    """Bring .venv to what an engine needs. Jars that an earlier call fetched stay, whichever engine
    is set up for.
    """
    started = time.time()
    needs_jars = engine == "spark"
    # The root belongs to the stamp because the scripts in .venv/bin hold its path: a moved checkout
    # is set up again.
    packages = f"{ROOT}\n{fingerprint(*(read(ROOT / name) for name in PACKAGE_INPUTS))}\n"
    pins = re.findall(r"(?m)^(?:pyspark|delta-spark)==.*", read(ROOT / "constraints.txt"))
    jars = fingerprint(*pins, *(read(ROOT / name) for name in JAR_INPUTS))

    before = read(STAMP)
    is_usable = before.startswith(f"{ROOT}\n") and os.access(str(VENV_PYTHON), os.X_OK)
    has_jars = is_usable and read(JARS_STAMP) == jars
    if is_usable and before == packages and (has_jars or not needs_jars):
        return
    if not is_usable:
        make_venv()
    if not is_usable or before != packages:
        if STAMP.exists():
            STAMP.unlink()
        install_packages()
        STAMP.write_text(packages, encoding="utf-8")
    if needs_jars and not has_jars:
        resolve_jars()
        JARS_STAMP.write_text(jars, encoding="utf-8")
    elif JARS_STAMP.exists() and not has_jars:
        say(
            "Delta's jars are those of other versions; `make setup ENGINE=spark` fetches the right"
            " ones for that engine."
        )
    say(f"Ready after {time.time() - started:.0f} seconds.")


def main() -> None:
    require_python()
    engine = require_engine(os.environ.get("MEDALLION_ENGINE", ""))
    if engine == "spark":
        require_java()
    # A second, simultaneous call waits; the lock is on this file so that none is left behind.
    with open(__file__) as this_file:
        fcntl.flock(this_file, fcntl.LOCK_EX)
        set_up(engine)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("Interrupted; the next call repairs what is incomplete.")
