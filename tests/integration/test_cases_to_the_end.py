"""Field cases from file to the served forecast, as a person runs them: the command, in a process of
its own, from another folder.

How a case is read stands in test_cases.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from medallion_assets.operations.runs import reader
from medallion_assets.tables import CHAMPION, DEMAND_FORECAST, MONTHLY_DEMAND, SILVER_SALES_ORDERS
from resources.settings import load_settings
from tests.integration.test_cases import by_part_and_month, case, expected_demand

__all__ = ["case"]
pytestmark = [pytest.mark.spark, pytest.mark.integration, pytest.mark.real]

Case = Callable[[str], Path]


def medallion(configuration: Path, *command: str, code: int | None = 0, **variables: str) -> str:
    """What the command prints, run in the root folder in a process of its own."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SAIL_", "SPARK_")) and name != "DAGSTER_HOME"
    }
    environment = {
        **inherited,
        "MEDALLION_CONFIG": str(configuration),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **variables,
    }
    script = "from medallion_assets.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, *(command or ("run",))],
        capture_output=True,
        text=True,
        cwd="/",
        env=environment,
        timeout=1500,
    )
    assert code is None or done.returncode == code, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def permitted(configuration: Path) -> str:
    """What all runs say until one succeeds, each plan that one asks for applied."""
    said = ""
    for _ in range(6):
        said += (now := medallion(configuration, code=None))
        if not (plan := re.search(r"`medallion apply (removal-[a-z_]+-\d+)`", now)):
            return said
        said += medallion(configuration, "apply", plan[1])
    raise AssertionError(said)


def forecast(configuration: Path, origin: int) -> pd.DataFrame:
    """The current forecast of an origin."""
    lakehouse = reader(load_settings(configuration, {}))
    rows = lakehouse.rows(DEMAND_FORECAST, months=[origin])
    return rows[rows["vintage"] == rows["vintage"].max()]


def decisions(configuration: Path) -> pd.DataFrame:
    return reader(load_settings(configuration, {})).rows(CHAMPION)


def demand(configuration: Path) -> dict[tuple[str, int], float]:
    """Demand by part and month, months without any left out."""
    lakehouse = reader(load_settings(configuration, {}))
    return by_part_and_month(
        lakehouse.rows(MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty"])
    )


def test_one_part_is_forecast_and_called_certain_by_nobody(case: Case) -> None:
    """Case 10, complete: finite figures near what was sold, and decisions that say what is missing
    for one.
    """
    configuration = case("10-one-part-monthly-totals") / "config.yaml"
    said = medallion(configuration)
    assert demand(configuration) == expected_demand("10-one-part-monthly-totals")
    served = forecast(configuration, 202512)
    assert served["target_yyyymm"].tolist() == [202601, 202602, 202603]
    assert served["forecast_qty"].between(150, 400).all()
    made = decisions(configuration)
    assert set(made["decision"]) == {"denied"}
    assert set(made["champion"]) == {"seasonal_naive"}
    assert made[["difference_low", "difference_high", "interval_over"]].isna().all(axis=None)
    assert made["reason"].str.contains("there is too little evidence: 1 part with demand").all()
    assert "there is too little evidence to promote a model, 1 part with demand" in said


def test_months_of_totals_say_why_they_are_not_complete(case: Case) -> None:
    """Case 10 without a last month: nothing is forecast, and the summary says what it looks like
    and what to set.
    """
    said = medallion(case("10-one-part-monthly-totals") / "config_open.yaml")
    assert "No month is complete yet, so nothing is forecast" in said
    assert "none in the last 10 days (closing_days)" in said
    assert "dated the first of the month, as monthly totals are" in said
    assert "closed_through: 202512 into the source, or last_month: 202512" in said


SUMS = {"CONST": 240, "ENDED": 80, "ONCE": 150, "OLDNAME": 160, "NEWNAME": 192, "RETURNS": 132}


def test_young_parts_are_forecast_and_a_renamed_one_once(case: Case) -> None:
    """Case 12: every part has its 24 months. Once the rename is told, the two numbers are one part
    with one history, its lines keep what they were delivered as, and explain says so.
    """
    name = "12-six-parts-fourteen-months"
    configuration = case(name) / "config.yaml"
    medallion(configuration)
    lakehouse = reader(load_settings(configuration, {}))
    assert len(lakehouse.rows(SILVER_SALES_ORDERS)) == 47
    assert demand(configuration) == expected_demand(name)
    served = forecast(configuration, 202502)
    assert len(served) == 144
    assert served["forecast_qty"].notna().all()
    assert served.groupby("part_number")["forecast_qty"].sum().round(6).to_dict() == SUMS
    statuses = served.groupby("part_number")["status"].unique().map(list).to_dict()
    assert statuses == {part: ["fallback"] for part in SUMS} | {"NEWNAME": ["new_part"]}
    made = decisions(configuration)
    assert set(made["decision"]) == {"denied"}
    assert made["reason"].str.contains("only 0 of 1 required evidence origins").all()

    content = yaml.safe_load(configuration.read_text(encoding="utf-8"))
    renamed = {**content, "renamed_parts": {"OLDNAME": {"to": "NEWNAME", "from": 202501}}}
    configuration.write_text(yaml.safe_dump(renamed), encoding="utf-8")
    said = permitted(configuration)
    assert "12 lines of 1 former part numbers count under the present ones" in said
    served = forecast(configuration, 202502)
    sums = served.groupby("part_number")["forecast_qty"].sum().round(6).to_dict()
    assert sums == {part: units for part, units in SUMS.items() if part != "OLDNAME"}
    assert set(served.loc[served["part_number"] == "NEWNAME", "status"]) == {"fallback"}
    joined = {
        ("NEWNAME" if part == "OLDNAME" else part, month): units
        for (part, month), units in expected_demand(name).items()
    }
    assert demand(configuration) == joined
    lines = lakehouse.rows(SILVER_SALES_ORDERS, parts=["NEWNAME"])
    assert set(lines["part_number_text"]) == {"OLDNAME", "NEWNAME"}
    told = medallion(configuration, "explain", "NEWNAME", "202503")
    assert "goes on with the history of OLDNAME: OLDNAME is NEWNAME from 202501" in told
    assert "Nothing to do" in medallion(configuration)


def test_a_lakehouse_that_was_moved_goes_on_where_it_is(case: Case) -> None:
    """Case 14: the second run finds nothing to do, the third publishes the new month, and nothing
    appears at the old place, whatever the zone of the machine and its language.
    """
    folder = case("14-lakehouse-moved")
    (folder / "template").rename(folder / "site_a")
    medallion(folder / "site_a" / "config.yaml")
    (folder / "site_a").rename(folder / "site_b")
    configuration = folder / "site_b" / "config.yaml"
    said = medallion(configuration, TZ="Pacific/Auckland", LC_ALL="C", LANG="C")
    assert f"This lakehouse was moved here from {folder}/site_a/lakehouse" in said
    assert "Nothing to do" in said
    for delivery in (folder / "later").glob("*.csv"):
        delivery.rename(folder / "site_b" / "orders" / delivery.name)
    said = medallion(configuration, LAST_MONTH="202405", TZ="America/New_York")
    assert "Champions (registry version 2)" in said
    assert "Forecast made at the end of 202405, vintage 1: 2 parts" in said
    assert demand(configuration) == expected_demand("14-lakehouse-moved")
    assert set(decisions(configuration)["decision"]) == {"denied"}
    assert not (folder / "site_a").exists()
    noted = json.loads((folder / "site_b" / "lakehouse" / "lakehouse.json").read_text("utf-8"))
    assert [place.rsplit("/", 2)[1] for place in noted["places"]] == ["site_a", "site_b"]
