"""SIGKILL at random moments and at named points, again and again, until a lakehouse is complete;
then it must equal an undisturbed one.

`python -m tests.faults.kills N folder` makes N kills, going on where it stopped.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.scenario import Content, Run, Scenario, content, differences, standing_faults

# As victim.py reads them, in the order in which a run comes by.
POINTS = (
    "before:DeltaLakehouse.append:bronze.deliveries",
    "after:DeltaLakehouse.append:bronze.deliveries",
    "before:Ledger.record:bronze.sales_orders",
    "before:DeltaLakehouse.merge:silver.sales_orders",
    "before:Ledger.record:silver.monthly_demand",
    "after:MlflowTracking.start:",
    "before:DeltaLakehouse.merge:gold.zoo_forecast",
    "after:DeltaLakehouse.merge:gold.zoo_forecast",
    "after:MlflowTracking.commit:",
    "before:Ledger.record:gold.zoo_forecast",
    "before:Ledger.record:gold.model_evaluation",
    "before:MlflowRegistry.register:",
    "after:MlflowRegistry.register:",
    "before:DeltaLakehouse.append:gold.champion",
    "after:DeltaLakehouse.append:gold.champion",
    "before:MlflowRegistry.set_alias:",
    "after:MlflowRegistry.set_alias:",
    "before:DeltaLakehouse.append:gold.demand_forecast",
    "after:DeltaLakehouse.append:gold.demand_forecast",
)
RANDOM_SHARES = (0.1, 0.9)  # of the time that the first undisturbed run took
RANDOM_KILLS = 20  # of one round


def campaign(kills: int, folder: Path) -> int:
    """Rounds of kills until there were so many; prints each and a summary. Returns the number of
    faults found.
    """
    record = folder / "kills.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    expected = undisturbed(folder / "undisturbed")
    seconds = float((folder / "undisturbed" / "is_complete").read_text() or 60)
    while sum(len(round_["kills"]) for round_ in done) < kills:
        number = len(done) + 1
        left = kills - sum(len(round_["kills"]) for round_ in done)
        # Four rounds meet every named point three times, and random moments once.
        points = () if number % 4 == 2 else POINTS
        found = disturbed(
            folder / f"round_{number}",
            points[:left] or min(RANDOM_KILLS, left),
            expected,
            number,
            seconds=seconds,
        )
        done.append(found)
        with record.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(
            f"round {number}: {len(found['kills'])} kills, {len(found['faults'])} faults",
            *found["faults"],
            sep="\n  ",
            flush=True,
        )
    at_points = Counter(
        kill["point"] for round_ in done for kill in round_["kills"] if kill["point"]
    )
    steps = Counter(
        kill["step"] for round_ in done for kill in round_["kills"] if not kill["point"]
    )
    faults = [fault for round_ in done for fault in round_["faults"]]
    print(
        f"{sum(len(round_['kills']) for round_ in done)} kills in {len(done)} rounds, {len(faults)}"
        " faults"
    )
    for name, count in [*((p, at_points[p]) for p in POINTS), *sorted(steps.items())]:
        print(f"  {count:3} {name}")
    return len(faults)


def undisturbed(folder: Path, deliveries: int = 2) -> Content:
    """The content of the scenario's lakehouse after its deliveries, run without a fault; a finished
    one is taken as it is.
    """
    scenario = Scenario(folder)
    if not (folder / "is_complete").exists():
        scenario.create()
        started = time.monotonic()
        scenario.run()
        seconds = time.monotonic() - started
        if deliveries == 2:
            scenario.deliver_late()
            scenario.run()
        assert not (left := standing_faults(scenario.settings)), left
        (folder / "is_complete").write_text(f"{seconds:.0f}")
    return content(scenario.settings)


def disturbed(
    folder: Path,
    kills: tuple[str, ...] | int,
    expected: Content,
    seed: int,
    deliveries: int = 2,
    seconds: float = 60,
) -> dict[str, Any]:
    """One round: the scenario is killed at the points, or so many times at random moments, while it
    takes in its deliveries.

    ``seconds``: what an undisturbed run takes, for the random moments.
    Returns the kills, each with the step it met, and the faults found at the end.
    """
    scenario = Scenario(folder).create()
    chance = random.Random(seed)
    made: list[dict[str, str]] = []
    faults: list[str] = []
    delivered = 1

    def deliver() -> None:
        nonlocal delivered
        if delivered < deliveries:
            scenario.deliver_late()
            delivered += 1

    wanted = [*kills] if isinstance(kills, tuple) else [""] * kills
    for i, point in enumerate(wanted):
        if not point and i >= len(wanted) // 2 and delivered < deliveries:
            scenario.run()
            deliver()
        run = scenario.start(point)
        code = run.wait(600 if point else seconds * chance.uniform(*RANDOM_SHARES))
        if code is None or code == -signal.SIGKILL:
            made.append({"point": point, "step": run.step()})
            run.kill()
        elif code:
            faults.append(
                f"a run after {made[-1:]} failed with exit code {code}: {_last_lines(run)}"
            )
        else:
            deliver()
    while True:
        last = scenario.run()
        if delivered == deliveries:
            break
        deliver()
    faults += standing_faults(scenario.settings) + differences(content(scenario.settings), expected)
    if "Nothing to do" not in last and "Nothing to do" not in scenario.run():
        faults.append("a run after all was done wrote something")
    return {"kills": made, "faults": faults}


def _last_lines(run: Run) -> str:
    return " | ".join(run.output().splitlines()[-6:])


if __name__ == "__main__":
    sys.exit(campaign(int(sys.argv[1]), Path(sys.argv[2]).absolute()))
