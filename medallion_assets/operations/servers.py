"""The interfaces: Dagster's web server with its daemon, and MLflow's, as child processes on
loopback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from rich.console import Console

from resources.errors import Refused, without_credentials
from resources.mlflow_file import ensure_file, trainings_page
from resources.settings import Settings

LOOPBACK = "127.0.0.1"


def serve(
    settings: Settings, dagster_home: str, port: int, mlflow_port: int, console: Console
) -> None:
    """Serve until interrupted or a server ends; all children end with this process. Raises Refused
    when one does not start.
    """
    environment = {
        **os.environ,
        "DAGSTER_HOME": dagster_home,
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    children = [subprocess.Popen(_dagster(port), env=environment, start_new_session=True)]
    if settings.tracking_uri.startswith("sqlite"):
        ensure_file(settings)
        children.append(
            subprocess.Popen(
                _mlflow(settings, mlflow_port), env=environment, start_new_session=True
            )
        )
    shown = (
        without_credentials(settings.tracking_uri)
        if len(children) == 1
        else f"http://{LOOPBACK}:{mlflow_port}"
    )
    console.print(f"Dagster: http://{LOOPBACK}:{port}   MLflow: {shown}   (Ctrl-C ends both)")
    if page := trainings_page(settings, shown):
        console.print(f"Trainings: {page}", soft_wrap=True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
        raise Refused(
            f"a server ended by itself; is port {port} or {mlflow_port} taken? Give others with"
            " --port and --mlflow-port"
        )
    except KeyboardInterrupt:
        console.print("Ending.")
    finally:
        for child in children:
            _end(child)


def _dagster(port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "dagster",
        "dev",
        "-m",
        "medallion_assets.definitions",
        "-h",
        LOOPBACK,
        "-p",
        str(port),
    ]


def _mlflow(settings: Settings, port: int) -> list[str]:
    store = [
        "--backend-store-uri",
        settings.tracking_uri,
        "--default-artifact-root",
        f"{settings.lakehouse_root}/mlartifacts",
    ]
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        "--workers",
        "1",
        *store,
    ]


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child and what it started: all have the child's process group, and a server may end
    before its own children do.
    """
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        _signal(child, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=10)
            break
    if _signal(child, signal.SIGTERM):
        time.sleep(1.0)
        _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], sign: signal.Signals) -> bool:
    """Send a signal to a child's process group; whether anything of it is left."""
    try:
        os.killpg(child.pid, sign)
    except ProcessLookupError:
        return False
    return True
