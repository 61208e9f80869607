"""Processes that are killed, collide, or lose what they stand on: nothing lost, nothing twice, and
the next run succeeds.

`make faults` runs them, after its kills; FAULTS names the folder they share.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import slow
from tests.faults.kills import disturbed, undisturbed
from tests.faults.scenario import (
    LAST,
    Content,
    Scenario,
    content,
    differences,
    free_port,
    mlflow_server,
    standing_faults,
    wait_until,
)

pytestmark = [pytest.mark.spark, pytest.mark.integration]
long = pytest.mark.skipif("FAULTS" not in os.environ, reason="minutes each: make faults runs them")

FIVE = (
    "before:Ledger.record:silver.monthly_demand",
    "after:DeltaLakehouse.merge:gold.zoo_forecast",
    "after:MlflowRegistry.register:",
    "after:DeltaLakehouse.append:gold.champion",
    "after:DeltaLakehouse.append:gold.demand_forecast",
)


@pytest.fixture(scope="module")
def expected() -> Content:
    """What the scenario's lakehouse holds when nothing goes wrong."""
    return undisturbed(Path(os.environ["FAULTS"]) / "undisturbed")


def recovers(scenario: Scenario, expected: Content) -> None:
    """The next runs succeed, and the lakehouse is as if nothing had happened. Raises AssertionError
    where it is not.
    """
    scenario.run()
    scenario.deliver_late()
    scenario.run()
    assert standing_faults(scenario.settings) == []
    assert differences(content(scenario.settings), expected) == []


@slow
@pytest.mark.timeout(3000)
def test_five_kills(tmp_path: Path) -> None:
    """Killed between write and record, log, write and tag, registry, decision and alias, vintage
    and record: as if undisturbed.
    """
    expected = undisturbed(tmp_path / "undisturbed", deliveries=1)
    found = disturbed(tmp_path / "killed", FIVE, expected, seed=5, deliveries=1)
    assert found["faults"] == []
    assert [kill["point"] for kill in found["kills"]] == list(FIVE)


@long
def test_two_runs_at_once(tmp_path: Path, expected: Content) -> None:
    """Two runs of everything, started together: each ends well or says who was faster, and together
    they leave what one leaves.
    """
    scenario = Scenario(tmp_path / "two").create()
    both = [scenario.start(log=scenario.folder / f"run_{n}.log") for n in (1, 2)]
    for run in both:
        code = run.wait(900)
        assert code == 0 or "another writer" in run.output() or "same slice" in run.output(), (
            run.output()[-2000:]
        )
    recovers(scenario, expected)


@long
def test_neighbouring_months_at_once(tmp_path: Path, expected: Content) -> None:
    """Two processes that make neighbouring months at the same time both succeed."""
    scenario = Scenario(tmp_path / "neighbours").create()
    first = scenario.start(job=["register_deliveries", str(LAST)])
    assert first.wait(300) == 0, first.output()[-2000:]
    both = [
        scenario.start(log=scenario.folder / f"run_{m}.log", job=["monthly_data", str(m), str(m)])
        for m in (LAST - 1, LAST)
    ]
    for run in both:
        assert run.wait(600) == 0, run.output()[-2000:]
    recovers(scenario, expected)


@long
def test_another_writer_in_between(tmp_path: Path, expected: Content) -> None:
    """A commit of somebody else between reading and writing a table makes the write read again, and
    nothing is lost.
    """
    scenario = Scenario(tmp_path / "between").create()
    scenario.run()
    scenario.deliver_late()
    run = scenario.start("before:DeltaLakehouse._change:silver.monthly_demand:write")
    assert run.wait(900) == 0, run.output()[-2000:]
    recovers(scenario, expected)


@long
def test_mlflow_absent(tmp_path: Path, expected: Content) -> None:
    """Without MLflow bronze and silver are made, the zoo says what to do before its first fit, and
    the next run goes on.
    """
    port = free_port()
    scenario = Scenario(tmp_path / "absent").create(
        mlflow={"tracking_uri": f"http://127.0.0.1:{port}", "timeout_seconds": 2}
    )
    run = scenario.start()
    assert run.wait(600) == 2
    assert f"http://127.0.0.1:{port} does not answer" in run.output()
    assert "Nothing was fitted" in run.output()
    with mlflow_server(tmp_path, port):
        recovers(scenario, expected)


@long
def test_mlflow_slow_and_gone_half_way(tmp_path: Path, expected: Content) -> None:
    """A server that answers late is waited for; one that goes away while models are fitted ends the
    run, and the next goes on.
    """
    port, behind = free_port(), free_port()
    scenario = Scenario(tmp_path / "slow").create(
        mlflow={"tracking_uri": f"http://127.0.0.1:{port}", "timeout_seconds": 20}
    )
    with mlflow_server(tmp_path, behind), _proxy(port, behind, delay=0.3):
        run = scenario.start()
        assert wait_until(
            lambda: "ses 2022" in run.output() or run.process.poll() is not None, 600
        ), run.output()[-2000:]
    code = run.wait(900)
    assert code != 0, "the server was gone, and the run did not notice"
    assert "Traceback" not in run.output()
    with mlflow_server(tmp_path, behind), _proxy(port, behind, delay=0.0):
        recovers(scenario, expected)


@long
def test_disk_full(tmp_path: Path, expected: Content) -> None:
    """A disk that fills up ends the run with a message; with room again the next run goes on, and
    nothing is lost or twice.
    """
    scenario = Scenario(tmp_path / "full").create()
    root = scenario.folder / "lakehouse"
    root.mkdir()
    with _mounted(root, "-t", "tmpfs", "-o", "size=6m", "tmpfs"):
        run = scenario.start()
        assert run.wait(900) not in (0, None)
        assert "No space left" in run.output() or "disk" in run.output(), run.output()[-2000:]
        subprocess.run(["mount", "-o", "remount,size=2g", str(root)], check=True)
        recovers(scenario, expected)


@long
def test_read_only_tables(tmp_path: Path, expected: Content) -> None:
    """Tables that can't be written end the run with a message and are as before; writable again,
    the next run goes on.
    """
    scenario = Scenario(tmp_path / "read_only").create()
    scenario.run()
    scenario.deliver_late()
    silver = scenario.folder / "lakehouse" / "my_silver"
    with _mounted(silver, "--bind", str(silver)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(silver)], check=True)
        run = scenario.start()
        assert run.wait(600) not in (0, None)
        assert "can't be written: is it mounted read-only" in run.output(), run.output()[-2000:]
        assert "\tat " not in run.output()
    recovers(scenario, expected)


@contextmanager
def _proxy(port: int, behind: int, delay: float) -> Iterator[None]:
    """Passes connections on after a delay, until it is left: then connections are refused."""
    listener = socket.create_server(("127.0.0.1", port))
    open_sockets: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            time.sleep(delay)
            server = socket.create_connection(("127.0.0.1", behind))
            open_sockets.extend((client, server))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        listener.close()
        for one in open_sockets:
            one.close()


@contextmanager
def _mounted(folder: Path, *options: str) -> Iterator[None]:
    """A mount over a folder; the test is skipped where mounting is not allowed."""
    if subprocess.run(
        ["mount", *options, str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
