"""A team's notebook and a planner's sheets taken over: both in the contest, both serving until a
model is better, neither registered.

One lakehouse is built once, by the commands that a person runs; the tests look at it, then change
it in the order in which they stand.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from deltalake import DeltaTable

from examples.migration.__main__ import prepare
from medallion_assets.tables import DECILES
from resources.settings import Settings, load_settings

pytestmark = [pytest.mark.spark, pytest.mark.integration]

GIVEN = ("old_notebook", "planner")


class Migrated:
    """A lakehouse with given forecasts, and the commands on it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.configuration = prepare(folder, 50, 40, 3, ["seasonal_naive", "imapa"])
        self.settings: Settings = load_settings(self.configuration, {})

    def medallion(self, *arguments: str, code: int = 0) -> str:
        """What a command prints; the test fails where it ends with another code."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("medallion")), *arguments],
            env=os.environ | {"MEDALLION_CONFIG": str(self.configuration), "COLUMNS": "240"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def table(self, name: str) -> pd.DataFrame:
        return DeltaTable(self.folder / "lakehouse" / name).to_pandas()

    def served(self) -> pd.DataFrame:
        """Of the newest origin the newest vintage."""
        rows = self.table("my_gold/demand_forecast")
        rows = rows[rows["yyyymm"] == rows["yyyymm"].max()]
        return rows[(rows["vintage"] == rows["vintage"].max()) & (rows["horizon"] > 0)]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Migrated:
    made = Migrated(tmp_path_factory.mktemp("migrated"))
    made.medallion("run")
    return made


def test_both_take_part_on_the_same_cells(migrated: Migrated) -> None:
    """Their evidence has the cells that every model of the zoo has, stand-ins among them; a planned
    sheet covers a part of the parts."""
    rows = migrated.table("my_gold/zoo_result")
    cells = rows.groupby("model")[["origin", "part_number", "horizon"]].apply(
        lambda own: frozenset(map(tuple, own.to_numpy().tolist()))
    )
    assert cells["seasonal_naive"] == cells["old_notebook"] == cells["planner"]
    share = rows.groupby("model")["is_fallback"].mean()
    assert share["old_notebook"] < 0.2 < share["planner"] < 0.8


def test_a_given_forecast_serves_until_a_model_is_better(migrated: Migrated) -> None:
    """Where it stays the decision says so, and what is published are the numbers of its file."""
    decisions = migrated.table("my_gold/champion")
    kept = decisions[decisions["champion"].isin(GIVEN)]
    assert len(kept), "the old forecasts serve at least one class"
    assert kept["reason"].str.contains(r"(?:old_notebook|planner) stays").all()
    served, given = migrated.served(), migrated.table("my_silver/given_forecast")
    own = served[served["model"].isin(GIVEN) & (served["status"] == "forecast")]
    assert set(own["model"]) <= set(kept["champion"])
    both = own.merge(
        given, on=["model", "yyyymm", "part_number", "horizon"], suffixes=("", "_given")
    )
    assert len(both) == len(own) > 0
    assert (both["forecast_qty"] == both["forecast_qty_given"]).all()
    deciles = own[list(DECILES)].to_numpy(dtype=float)
    assert (deciles[:, 1:] >= deciles[:, :-1]).all()


def test_no_registered_version_holds_a_given_forecast(migrated: Migrated) -> None:
    """The baseline stands in it for them."""
    client = mlflow.MlflowClient(migrated.settings.tracking_uri, migrated.settings.registry_uri)
    versions = client.search_model_versions(f"name='{migrated.settings.registered_model}'")
    assert versions
    held = {value for version in versions for value in version.tags.values()}
    assert not held & set(GIVEN)
    assert "seasonal_naive" in held


@pytest.mark.parametrize("name", GIVEN)
def test_the_page_shows_both_with_the_interval(migrated: Migrated, name: str) -> None:
    """WQL of both on the cells that were really given, difference and interval, as a table and in
    a page of its own."""
    page = migrated.folder / f"{name}.html"
    told = migrated.medallion("compare", name, "--out", str(page))
    assert f"{name} beside ours, on the cells that it gave" in told
    assert f"{name} beside ours" in page.read_text(encoding="utf-8")
    rows = migrated.table("my_gold/zoo_result")
    given = rows[(rows["model"] == name) & ~rows["is_fallback"]]
    assert f"{len(given):,} of {given['part_number'].nunique():,} parts" in told


def test_a_second_run_finds_nothing_to_do(migrated: Migrated) -> None:
    """Files that did not change are not read again."""
    assert "monthly_data" not in migrated.medallion("run")


def test_a_corrected_file_makes_a_new_vintage_of_its_origin(migrated: Migrated) -> None:
    """What was published before stays readable; other origins stay as they are."""
    before = migrated.table("my_gold/demand_forecast").groupby("yyyymm")["vintage"].max()
    served = migrated.served()
    part = served.loc[served["model"] == "old_notebook", "part_number"].iloc[0]
    newest = max((migrated.folder / "old").iterdir()) / "demand_forecast.csv"
    rows = pd.read_csv(newest)
    rows.loc[rows["Item Code"] == part, "forecast_qty"] += 100
    rows.to_csv(newest, index=False)
    migrated.medallion("run")
    after = migrated.table("my_gold/demand_forecast").groupby("yyyymm")["vintage"].max()
    assert after.iloc[-1] == before.iloc[-1] + 1
    assert after.iloc[:-1].tolist() == before.iloc[:-1].tolist()


def test_a_broken_file_stops_the_run_and_is_named(migrated: Migrated) -> None:
    """File, line and column; what is served stays."""
    before = migrated.served()
    newest = max((migrated.folder / "old").iterdir()) / "demand_forecast.csv"
    text = newest.read_text(encoding="utf-8")
    newest.write_text(text.replace("forecast_qty\n", "forecast_qty\n2025-05,P-1,2025-05,much\n"))
    told = migrated.medallion("run", code=2)
    newest.write_text(text, encoding="utf-8")
    assert "demand_forecast.csv line 2: column forecast_qty: 'much' is no number" in told
    assert migrated.served()["forecast_qty"].tolist() == before["forecast_qty"].tolist()
