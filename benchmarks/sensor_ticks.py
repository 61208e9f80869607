"""How long each sensor takes to answer, on a lakehouse with years of history.

    python -m benchmarks.sensor_ticks --config my_company.yaml
    python -m benchmarks.sensor_ticks --wholesaler folder/1000    # made by pipeline_decisions.py

Evaluates every sensor as the daemon would, against an instance without runs, and starts nothing:
what it asks for is counted only. The first tick of each reads what later ones know already.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import dagster as dg

from benchmarks.pipeline_decisions import settings_of
from medallion_assets import definitions
from resources.settings import load_settings

TICKS = 5


def main() -> None:
    """Print the first and the longest later tick of each sensor, in seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lakehouse = parser.add_mutually_exclusive_group(required=True)
    lakehouse.add_argument("--config", type=Path)
    lakehouse.add_argument(
        "--wholesaler", type=Path, help="folder of a lakehouse that pipeline_decisions.py made"
    )
    arguments = parser.parse_args()
    wholesaler, config = arguments.wholesaler, arguments.config
    settings = (
        settings_of(wholesaler.absolute()) if wholesaler else load_settings(config, os.environ)
    )
    resources = definitions.build_resources(settings)
    defined = definitions.build_defs(settings, resources)
    print(
        "| sensor | first tick, s | longest of the next, s | runs asked for | says |\n| --- | --- |"
        " --- | --- | --- |"
    )
    with dg.DagsterInstance.ephemeral() as instance:
        for sensor in defined.sensors or ():
            if isinstance(sensor, dg.RunStatusSensorDefinition) or not isinstance(
                sensor, dg.SensorDefinition
            ):
                continue
            seconds = []
            for _ in range(TICKS):
                needed = {
                    name: made
                    for name, made in resources.items()
                    if name in sensor.required_resource_keys
                }
                context = dg.build_sensor_context(
                    instance=instance, definitions=defined, resources=needed
                )
                started = time.perf_counter()
                answer = sensor.evaluate_tick(context)
                seconds.append(time.perf_counter() - started)
            said = answer.skip_message or ""
            print(
                f"| {sensor.name} | {seconds[0]:.3f} | {max(seconds[1:]):.3f} |"
                f" {len(answer.run_requests or ())} | {said} |"
            )


if __name__ == "__main__":
    main()
