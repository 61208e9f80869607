"""How the servers behind `medallion ui` end."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from medallion_assets.operations import servers

STUBBORN = """
import signal, subprocess, sys
ignores = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
child = subprocess.Popen(
    [sys.executable, "-c", ignores + "print('up', flush=True); time.sleep(50)"],
    stdout=subprocess.PIPE,
)
child.stdout.readline()
signal.signal(signal.SIGINT, lambda *_: sys.exit())
print("both are up", flush=True)
child.wait()
"""


def test_what_a_server_started_ends_with_it() -> None:
    """A server that ends at once leaves no child behind, though that one ignores the
    interruption.
    """
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        assert server.stdout.readline() == b"both are up\n"
        servers._end(server)
        assert server.returncode == 0
        # Both write there, so it ends when both have.
        with ThreadPoolExecutor() as pool:
            assert pool.submit(server.stderr.read).result(timeout=20) == b""
