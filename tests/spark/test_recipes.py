"""The recipes of docs/orders.md: each sample comes out with the demand that the page says, by the
configuration shown there and by the one that `medallion inspect` proposes.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xlsxwriter
import yaml
from click.testing import CliRunner

from medallion_assets import cli
from medallion_assets.operations.inspection.counting import outcome
from medallion_assets.operations.inspection.inspecting import proposed
from resources.engines import Engine
from resources.errors import Refused
from resources.settings import parse_settings

pytestmark = pytest.mark.spark

PAGE = Path(__file__).parents[2] / "docs" / "orders.md"
Demand = dict[tuple[str, int], float]


@dataclass(frozen=True)
class Recipe:
    """One recipe of the page: the file of its sample, how it is made, and what comes out."""

    title: str
    kind: str
    file: str
    sample: str
    source: dict[str, Any]
    demand: Demand


def recipes() -> list[Recipe]:
    """All recipes, in the order of the page."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Recipes\n", 1)[1].split("\n## ", 1)[0]
    return [_recipe(section) for section in text.split("\n### ")[1:]]


def _recipe(section: str) -> Recipe:
    (kind, file, sample), (_, _, source) = re.findall(
        r"```(\w+) ?(\S*)\n(.*?)```", section, re.DOTALL
    )
    told = re.search(r"^Demand: (.+)$", section, re.MULTILINE)
    assert told is not None, f"{section.splitlines()[0]}: no line of the demand"
    demand = {}
    for entry in told.group(1).split(", "):
        part, month, quantity = entry.rsplit(" ", 2)
        demand[part, int(month)] = float(quantity)
    return Recipe(section.splitlines()[0], kind, file, sample, yaml.safe_load(source), demand)


def written(recipe: Recipe, folder: Path) -> Path:
    """The sample as a file of its format."""
    path = folder / recipe.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if recipe.kind in ("parquet", "excel"):
        rows = pd.read_csv(io.StringIO(recipe.sample))
        dated = next(
            name
            for name in rows.columns
            if "order" in name.lower() and "_no" not in name and name != "Order"
        )
        rows[dated] = pd.to_datetime(rows[dated])
        if recipe.kind == "parquet":
            rows.to_parquet(path, index=False)
        else:
            _write_workbook(rows, dated, path)
    else:
        path.write_text(recipe.sample, encoding="utf-8")
    return path


def _write_workbook(rows: pd.DataFrame, dated: str, path: Path) -> None:
    book = xlsxwriter.Workbook(path)
    sheet, dates = book.add_worksheet("Orders"), book.add_format({"num_format": "yyyy-mm-dd"})
    sheet.write_row(0, 0, list(rows.columns))
    for number, row in enumerate(rows.to_dict("records"), 1):
        for column, (name, value) in enumerate(row.items()):
            if name == dated:
                sheet.write_datetime(number, column, value.to_pydatetime(), dates)
            else:
                sheet.write(number, column, value)
    book.close()


def demand_of(content: dict[str, Any], folder: Path, engine: Engine) -> Demand:
    found = outcome(parse_settings(content, folder / "config.yaml"), engine).demand
    return {
        (part, int(month)): float(quantity)
        for part, month, quantity in zip(
            found["part_number"], found["yyyymm"], found["demand_qty"], strict=True
        )
        if quantity
    }


def test_the_page_has_a_dozen_recipes() -> None:
    """A heading that is not read as a recipe would be tested by nobody."""
    assert len(recipes()) >= 12


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.source["name"])
def test_a_recipe_comes_out_as_the_page_says(
    engine: Engine, tmp_path: Path, recipe: Recipe
) -> None:
    """The sample and the source of the page give the demand of the page."""
    written(recipe, tmp_path)
    content = {"lakehouse_root": "lakehouse", "first_month": 202401, "sources": [recipe.source]}
    assert demand_of(content, tmp_path, engine) == recipe.demand


# What a person has to say before anything runs.
OPEN = {"odoo": ["units"], "shopify": ["line_types"]}
# What is asked, and comes out otherwise where nobody answers: months begin at midnight in UTC.
ASKED = {
    "amazon": (
        "time_zone",
        {("SKU-A", 202401): 2.0, ("SKU-A", 202402): 4.0, ("SKU-B", 202402): 1.0},
    )
}


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.source["name"])
def test_inspect_reads_the_sample_of_a_recipe(
    engine: Engine, tmp_path: Path, recipe: Recipe
) -> None:
    """The proposal gives the same demand unchanged, or asks what is listed above."""
    path = written(recipe, tmp_path)
    proposal, text = proposed([path], tmp_path)
    name = recipe.source["name"]
    assert [question.key for question in proposal.open_questions] == OPEN.get(name, [])
    if name in OPEN:
        return
    key, demand = ASKED.get(name, ("", recipe.demand))
    assert not key or key in {question.key for question in proposal.questions}
    assert demand_of(yaml.safe_load(text), tmp_path, engine) == demand


def test_an_existing_table_is_adopted(engine: Engine, tmp_path: Path) -> None:
    """The folder of a Delta table: the proposal reads it where it lies and writes nothing there."""
    from deltalake import write_deltalake

    table = tmp_path / "lake" / "company_bronze" / "orders"
    rows = {
        "order_no": ["A-1", "A-2", "C1"],
        "item": ["P-1", "P-1", "P-2"],
        "ordered_at": pd.to_datetime(["2024-01-05", "2024-02-06", "2024-02-07"]),
        "qty": [3, 4, 5],
        "price": [2.5, 2.5, 1.0],
    }
    write_deltalake(str(table), pd.DataFrame(rows))
    before = sorted(path.name for path in table.rglob("*"))
    proposal, text = proposed([table], tmp_path)
    content = yaml.safe_load(text)
    assert proposal.open_questions == ()
    assert content["sources"][0]["table"] == "my_catalog.company_bronze.orders"
    assert content["lakehouse_root"] == "lake"
    assert demand_of(content, tmp_path, engine) == {
        ("P-1", 202401): 3.0,
        ("P-1", 202402): 4.0,
        ("P-2", 202402): 5.0,
    }
    assert sorted(path.name for path in table.rglob("*")) == before


def test_headers_and_lines_in_two_files_are_joined(engine: Engine, tmp_path: Path) -> None:
    """Dates in one file and quantities in the other: the proposal joins them by the key."""
    (tmp_path / "heads.csv").write_text(
        "Number;Ordered on;Customer\nA-1;13.01.2024;K1\nA-2;14.02.2024;K2\n", "utf-8"
    )
    (tmp_path / "lines.csv").write_text(
        "OrderNo;Item;Qty;Price\nA-1;P-1;3;2,50\nA-1;P-2;1;9,00\nA-2;P-1;5;2,50\n", "utf-8"
    )
    proposal, text = proposed([tmp_path / "heads.csv", tmp_path / "lines.csv"], tmp_path)
    content = yaml.safe_load(text)
    (source,) = content["sources"]
    assert source["header"] == {"files": "heads.csv", "key": {"OrderNo": "Number"}}
    assert "header" in {question.key for question in proposal.questions}
    assert demand_of(content, tmp_path, engine) == {
        ("P-1", 202401): 3.0,
        ("P-1", 202402): 5.0,
        ("P-2", 202401): 1.0,
    }


def test_the_command_counts_and_ends_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 and a configuration with the lines counted; 3 where a question is open, and nothing is
    counted; an existing file is not replaced.
    """
    monkeypatch.chdir(tmp_path)
    Path("clear.csv").write_text("Part,Date,Qty\nP-1,2024-01-13,3\nP-1,2024-02-14,4\n", "utf-8")
    Path("unclear.csv").write_text("Part,Date,Qty\nP-1,01/02/2024,3\nP-1,03/04/2024,4\n", "utf-8")
    runner = CliRunner()
    clear = runner.invoke(cli.commands, ["inspect", "clear.csv", "--out", "clear.yaml"])
    assert clear.exit_code == 0, clear.output
    unclear = runner.invoke(cli.commands, ["inspect", "unclear.csv", "--out", "unclear.yaml"])
    assert unclear.exit_code == 3, unclear.output
    assert yaml.safe_load(Path("clear.yaml").read_text("utf-8"))["first_month"] == 202401
    again = runner.invoke(cli.commands, ["inspect", "clear.csv", "--out", "clear.yaml"])
    assert isinstance(again.exception, Refused)
