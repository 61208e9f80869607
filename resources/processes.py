"""Which process did something, and whether it is still there. What was left undone by one that is
gone is not mended here.
"""

import os
import re
import socket
from pathlib import Path


def identity() -> str:
    """The name of this process, told apart from a later one of the same number where the system
    says when it began.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{_began(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether the process of an identity has ended; False for a process of another machine or for
    no identity, since nothing can be known of it.
    """
    if not is_here(process):
        return False
    _, pid, began = process.rsplit(":", 2)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _began(int(pid)) != began


def own_name() -> str:
    """The identity of this process as the name of a file."""
    return identity().replace(":", ".")


def is_leftover(name: str) -> bool:
    """Whether a file is named by a process of this machine that has ended."""
    return "." in name and is_gone(":".join(name.rsplit(".", 2)))


def is_here(process: str) -> bool:
    """Whether this is the identity of a process of this machine."""
    return re.fullmatch(rf"{re.escape(socket.gethostname())}:\d+:\d*", process) is not None


def _began(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""
