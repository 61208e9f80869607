"""When a run of everything has nothing to do: only where all that it reads is what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from click import Choice
from rich.console import Console

from medallion_assets import cli
from medallion_assets.operations import runs
from medallion_assets.operations.export import WRITERS
from medallion_assets.operations.runs import Session
from resources.settings import PartsMaster, Settings


def state(settings: Settings) -> str:
    """What a session would note."""
    return Session(settings, cast("Any", None), cast("Any", None), Console(), "")._state()


def test_a_changed_parts_master_or_setting_is_something_to_do(
    settings: Settings, tmp_path: Path
) -> None:
    """The file's content counts, which no table and no setting shows; equal content is nothing
    new.
    """
    (tmp_path / "parts.csv").write_text("Item Code\nP-1\n")
    master = PartsMaster(files=str(tmp_path / "parts.csv"), part_number="Item Code")
    settings = settings.model_copy(
        update={"parts_master": master, "lakehouse_root": str(tmp_path / "lakehouse")}
    )
    before = state(settings)
    assert state(settings) == before
    (tmp_path / "parts.csv").write_text("Item Code\nP-1\nP-2\n")
    assert state(settings) != before
    (tmp_path / "parts.csv").write_text("Item Code\nP-1\n")
    assert state(settings) == before
    assert state(settings.model_copy(update={"first_month": 201901})) != before


def test_another_form_of_the_report_is_something_to_do(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports are made anew by a release that writes them otherwise."""
    settings = settings.model_copy(update={"lakehouse_root": str(tmp_path / "lakehouse")})
    before = state(settings)
    monkeypatch.setattr(runs, "REPORT_VERSION", "another")
    assert state(settings) != before


def test_every_format_of_export_can_be_asked_for() -> None:
    """The command names them itself, because it imports what writes them only when it is called."""
    (option,) = (parameter for parameter in cli.export.params if parameter.name == "file_format")
    assert list(cast("Choice", option.type).choices) == list(WRITERS)
