"""Runs the notebooks of notebooks/ on a fresh lakehouse of the sample, and writes the executed
copies to docs/notebooks/.

A source is plain Python in Databricks' source format. A notebook that asks before it acts is run
twice: as it is, and with the answers that it asked for, as a person would give them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "notebooks"
RENDERED = ROOT / "docs" / "notebooks"
SAMPLE = ROOT / "config" / "sample.yaml"
# Half a year of published forecasts, so that there is an accuracy to show.
REPLAYED = {"run": {"replay_months": 6}}
HEADER, CELL, MAGIC, MARKDOWN = (
    "# Databricks notebook source",
    "# COMMAND ----------",
    "# MAGIC",
    "%md",
)
ASKED = re.compile(r"write into the widget (\w+): (.+)")
CELL_SECONDS = 1800


def sources() -> list[Path]:
    """The notebooks, in the order of their numbers."""
    return sorted(SOURCES.glob("*.py"))


def digest(source: Path) -> str:
    """SHA-256 of a source, by which a rendered copy says what it was made from."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def notebook_of(source: Path) -> NotebookNode:
    """A source as a notebook without outputs. Raises ValueError for another file."""
    first, _, rest = source.read_text(encoding="utf-8").partition("\n")
    if first != HEADER:
        raise ValueError(f"{source.name} does not begin with '{HEADER}'")
    cells = []
    for number, block in enumerate(rest.split(f"{CELL}\n"), start=1):
        text = block.strip("\n")
        name = {"id": f"cell-{number}"}
        if not text.startswith(MAGIC):
            cells.append(new_code_cell(text, **name))
            continue
        lines = [line.removeprefix(MAGIC).removeprefix(" ") for line in text.split("\n")]
        if lines[0] != MARKDOWN:
            raise ValueError(f"{source.name}, cell {number}: {lines[0]} is not {MARKDOWN}")
        cells.append(new_markdown_cell("\n".join(lines[1:]), **name))
    made_from = {"source": f"notebooks/{source.name}", "sha256": digest(source)}
    return new_notebook(cells=cells, metadata={"made_from": made_from})


def run(source: Path, config: Path, answers: Mapping[str, str] | None = None) -> NotebookNode:
    """Run a source top to bottom, in a kernel of its own, on the lakehouse of a configuration.

    answers: texts of its widgets by name. Raises CellExecutionError where a cell fails.
    """
    asked = {f"MEDALLION_{name.upper()}": text for name, text in (answers or {}).items()}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "MEDALLION_CONFIG": str(config),
        "MEDALLION_ACTOR": "a planner",
        **asked,
    }
    notebook = notebook_of(source)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(source.parent)}},
    )
    # Of its own stderr only the ending of its processes would be seen; cells have theirs.
    client.execute(env=environment, stderr=subprocess.DEVNULL)
    return notebook


def outputs(notebook: NotebookNode) -> str:
    """All that its cells printed."""
    texts = [
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream" and output["name"] == "stdout"
    ]
    return "".join(texts)


def asked_for(notebook: NotebookNode) -> dict[str, str]:
    """What a notebook that was run asked to be written into its widgets, by widget."""
    return dict(ASKED.findall(outputs(notebook)))


def presentable(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """The notebook without what is of this machine: paths below ``folder`` and the kernel's
    version; and without what libraries say on stderr.
    """
    for cell in notebook.cells:
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
    text = nbformat.writes(notebook).replace(f"{folder}/", "").replace(f"{ROOT}/", "")
    shown = nbformat.reads(text, as_version=4)
    shown.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    shown.metadata["language_info"] = {"name": "python"}
    return shown


def make_lakehouse(folder: Path, changes: Mapping[str, Any] = REPLAYED) -> Path:
    """A lakehouse of the sample in a folder, from files to a published forecast; its configuration
    file.

    changes: sections of the configuration that are not the sample's.
    """
    text = SAMPLE.read_text(encoding="utf-8").replace("../lakehouse/sample", "lakehouse")
    config = folder / "sample.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(text), **changes}), encoding="utf-8")
    command = [sys.executable, "-c", "from medallion_assets.cli import main; main()", "run"]
    environment = {**os.environ, "MEDALLION_CONFIG": str(config), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment, cwd=folder)
    return config


def render(config: Path, out: Path) -> None:
    """Run all notebooks and write the executed copies, each with the answers it asked for."""
    out.mkdir(parents=True, exist_ok=True)
    for source in sources():
        notebook = run(source, config)
        if answers := asked_for(notebook):
            print(f"{source.name} asked for {json.dumps(answers)}")
            notebook = run(source, config, answers)
        path = out / f"{source.stem}.ipynb"
        nbformat.write(presentable(notebook, config.parent), path)
        print(f"wrote {path.name}, {path.stat().st_size / 1000:,.0f} kB")


def main() -> None:
    """Command line: a fresh sample, all notebooks, their copies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RENDERED, help="folder of the executed copies")
    parser.add_argument("--config", type=Path, help="on this lakehouse, which is changed by it")
    chosen = parser.parse_args()
    if chosen.config:
        render(chosen.config.resolve(), chosen.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        render(make_lakehouse(Path(folder).resolve()), chosen.out)


if __name__ == "__main__":
    main()
