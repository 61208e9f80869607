"""A process is told apart from others, and from a later one of its number."""

import subprocess
import sys

from resources.processes import identity, is_gone


def test_a_process_is_there_until_it_ends() -> None:
    """This one is; one that has ended is not; another machine's is never said to be gone."""
    host, pid, began = identity().rsplit(":", 2)
    assert not is_gone(identity())
    assert is_gone(f"{host}:{pid}:{began}0")
    told = subprocess.run(
        [sys.executable, "-c", "from resources.processes import identity; print(identity())"],
        capture_output=True,
        text=True,
    )
    assert is_gone(told.stdout.strip())
    assert not is_gone(f"elsewhere:{pid}:{began}0")


def test_what_names_no_process_is_never_gone() -> None:
    """A run of a former release names none, and a person may have written anything."""
    assert not any(
        is_gone(process) for process in ("", "x", "a:b", ":1:2", f"{identity().split(':')[0]}:x:y")
    )
