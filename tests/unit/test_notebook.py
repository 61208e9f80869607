"""What a notebook has at hand, and what the sources of notebooks may hold."""

from __future__ import annotations

import ast
from decimal import Decimal
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from medallion_assets.operations import documents, notebook
from medallion_assets.tables import MONTHLY_DEMAND, TABLES
from scripts.notebooks import RENDERED, asked_for, digest, notebook_of, outputs, sources

# What computes: shaping of rows for display (selecting, sorting, the first few) is not among it.
COMPUTES = {
    *("groupBy", "groupby", "agg", "apply", "applyInPandas", "mapInArrow", "pivot", "pivot_table"),
    *("merge", "join", "concat", "rolling", "resample", "withColumn", "withColumns", "selectExpr"),
    *("sum", "mean", "median", "std", "quantile", "cumsum", "diff", "shift", "corr", "fit"),
    *("sql", "write", "writeTo", "saveAsTable", "insertInto", "to_parquet", "append"),
}
LIBRARIES = {"deltalake", "numpy", "pyspark", "scipy", "sklearn", "statsforecast", "xgboost"}
# Of the same name: texts put together, and a plan that is carried out.
HARMLESS = {("", "join"), ("session", "apply")}


def code_of(source: Path) -> ast.Module:
    """The code cells of a source, as one module."""
    cells = [cell.source for cell in notebook_of(source).cells if cell.cell_type == "code"]
    return ast.parse("\n".join(cells), source.name)


@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_a_notebook_holds_no_logic_of_the_package(source: Path) -> None:
    """It calls public functions and shows what they give: no sums, joins, writes, functions or
    classes of its own, and no library that computes. What a notebook computes nobody tests.
    """
    found = set()
    for node in ast.walk(code_of(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.Import | ast.ImportFrom):
            of = node.module if isinstance(node, ast.ImportFrom) else None
            names = [of or "", *(alias.name for alias in node.names)]
            found |= {name for name in names if name.split(".")[0] in LIBRARIES}
            found |= {name for name in names if name.startswith("_")}
        if isinstance(node, ast.Attribute):
            of = getattr(node.value, "id", "" if isinstance(node.value, ast.Constant) else None)
            if node.attr.startswith("_") or (
                node.attr in COMPUTES and (of, node.attr) not in HARMLESS
            ):
                found.add(node.attr)
    assert found == set()


@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_each_section_explains_before_it_does(source: Path) -> None:
    """A notebook begins with text, and each code cell has text before it, at most one cell away."""
    kinds = [cell.cell_type for cell in notebook_of(source).cells]
    assert kinds[0] == "markdown"
    assert "code code code" not in " ".join(kinds)


@pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
def test_the_rendered_copy_is_of_this_source(source: Path) -> None:
    """Its cells and hash are the source's, each code cell was run, none failed, and it is small."""
    path = RENDERED / f"{source.stem}.ipynb"
    shown, made = nbformat.read(path, as_version=4), notebook_of(source)
    assert shown.metadata["made_from"]["sha256"] == digest(source), "make notebooks"
    assert [cell.source for cell in shown.cells] == [cell.source for cell in made.cells]
    assert all(cell.execution_count for cell in shown.cells if cell.cell_type == "code")
    assert "output_type': 'error" not in str(shown)
    assert path.stat().st_size < 400_000


def test_there_is_a_copy_of_no_other_source() -> None:
    """A notebook that was removed or renamed leaves no copy behind."""
    assert {path.stem for path in RENDERED.glob("*.ipynb")} == {path.stem for path in sources()}


def test_a_source_becomes_cells(tmp_path: Path) -> None:
    """Markdown loses its marks, code stays as it is, and another file is refused."""
    source = tmp_path / "1.py"
    source.write_text(
        "# Databricks notebook source\n# MAGIC %md\n# MAGIC # Title\n# MAGIC\n# MAGIC Text\n\n"
        "# COMMAND ----------\n\nx = 1\n\n\nprint(x)\n"
    )
    cells = notebook_of(source).cells
    assert [(cell.cell_type, cell.source) for cell in cells] == [
        ("markdown", "# Title\n\nText"),
        ("code", "x = 1\n\n\nprint(x)"),
    ]
    source.write_text("x = 1\n")
    with pytest.raises(ValueError, match="does not begin with"):
        notebook_of(source)
    source.write_text("# Databricks notebook source\n# MAGIC %sql\n# MAGIC DROP TABLE t\n")
    with pytest.raises(ValueError, match="%sql is not %md"):
        notebook_of(source)


def test_an_act_is_confirmed_by_its_own_name_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty or other answer says what to write where; the runner reads that."""
    assert not notebook.is_confirmed("restore-t-1")
    monkeypatch.setenv("MEDALLION_CONFIRM", "restore-t-2")
    assert not notebook.is_confirmed("restore-t-1")
    told = capsys.readouterr().out
    printed = nbformat.v4.new_output("stream", name="stdout", text=told)
    cell = nbformat.v4.new_code_cell("", outputs=[printed])
    ran = nbformat.v4.new_notebook(cells=[cell])
    assert outputs(ran) == told
    assert asked_for(ran) == {"confirm": "restore-t-1"}
    monkeypatch.setenv("MEDALLION_CONFIRM", "restore-t-1")
    assert notebook.is_confirmed("restore-t-1")


class Widgets:
    """A workspace's widgets: a text is made once and keeps what a person wrote."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def text(self, name: str, default: str, label: str) -> None:
        self.texts.setdefault(name, default)

    def get(self, name: str) -> str:
        return self.texts[name]


def test_a_workspace_answers_by_its_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are widgets, they decide and not the environment; a new one has the default."""
    widgets = Widgets()
    monkeypatch.setattr(notebook, "_widgets", lambda: widgets)
    monkeypatch.setenv("MEDALLION_WHY", "the environment's")
    assert notebook.ask("why", "a drill") == "a drill"
    widgets.texts["why"] = "a person's"
    assert notebook.ask("why", "a drill") == "a person's"


def test_a_table_is_written_as_people_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Months have no separators and numbers have; nothing is shown for NULL; text is escaped; it is
    said how many rows are left out.
    """
    from IPython import display

    shown: list[str] = []
    monkeypatch.setattr(display, "display", lambda thing: shown.append(thing.data))
    frame = pd.DataFrame(
        {
            "yyyymm": [202401, 202402],
            "demand_qty": [12345.0, None],
            "wql": [0.35712, 1.0],
            "quantity": [Decimal("87.000000"), Decimal("2.000000")],
            "is_ok": [True, False],
            "reason": ["<b>", None],
        }
    )
    notebook.show(frame, rows=1)
    for text in ("202401<", "12,345<", "0.357<", ">87<", "yes<", "&lt;b&gt;", "1 of 2 rows"):
        assert text in shown[0]
    notebook.show(frame)
    assert "nan" not in shown[1].lower()
    assert "None" not in shown[1]
    assert "rows" not in shown[1]


def test_designs_are_those_of_the_tables() -> None:
    """A row for each table, column and rule of the specifications."""
    design = documents.table_design()
    assert list(design["table"]) == [spec.id for spec in TABLES]
    columns = documents.column_design(MONTHLY_DEMAND)
    assert list(columns["column"]) == list(MONTHLY_DEMAND.column_names)
    assert len(documents.rules()) == sum(len(spec.constraints) for spec in TABLES)
