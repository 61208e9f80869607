"""The command line: what a mistake prints and how it ends, and the document made from the table
specifications.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from medallion_assets import cli
from medallion_assets.operations import documents
from medallion_assets.tables import TABLES
from tests.conftest import SOURCE

CONTENT = {"lakehouse_root": "lakehouse", "first_month": 202201, "sources": [SOURCE]}


def configured(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(CONTENT | changes), encoding="utf-8")
    monkeypatch.setenv("MEDALLION_CONFIG", str(file))


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    """What the command prints on standard error when it ends with exit code 2, and nothing on
    standard output.
    """
    monkeypatch.setattr(sys, "argv", ["medallion", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize("command", ["run", "ui", "simulate", "status"])
def test_a_configuration_mistake_ends_every_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    """The file, each wrong key and what was perhaps meant, exit code 2, no stack trace, nothing
    written.
    """
    configured(tmp_path, monkeypatch, first_mont=202201, forecast={"horizon": 0})
    error = refused(monkeypatch, capsys, command)
    assert "mine.yaml: 2 mistake(s) in the configuration" in error
    assert "first_mont: unknown key; did you mean first_month?" in error
    assert "forecast.horizon: " in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_missing_configuration_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path that is not there is named with the variable that gave it."""
    monkeypatch.setenv("MEDALLION_CONFIG", str(tmp_path / "absent.yaml"))
    assert "set MEDALLION_CONFIG to a YAML file" in refused(monkeypatch, capsys, "status")


def test_brackets_of_a_message_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A regular expression in a message is no markup."""
    configured(
        tmp_path, monkeypatch, sources=[{**SOURCE, "rules": {"product_pattern": "^[/][A-Z](\\d"}}]
    )
    assert "'^[/][A-Z](\\d' is not a regular expression" in refused(monkeypatch, capsys, "status")


def test_simulate_needs_its_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real orders are never mixed with made-up ones by mistake."""
    configured(tmp_path, monkeypatch)
    assert "has no section simulation" in refused(monkeypatch, capsys, "simulate")


def test_export_before_anything_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refusal, and no file."""
    configured(tmp_path, monkeypatch)
    assert "nothing is published yet" in refused(
        monkeypatch, capsys, "export", "--out", str(tmp_path / "f.csv")
    )
    assert not (tmp_path / "f.csv").exists()


def test_status_of_an_empty_lakehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first run there is nothing to show, and that is no error."""
    configured(tmp_path, monkeypatch)
    shown = CliRunner().invoke(cli.commands, ["status"])
    assert (shown.exit_code, shown.exception) == (0, None)
    assert "No order lines yet." in shown.output
    assert "No champion yet" in shown.output


def test_docs_writes_what_differs(tmp_path: Path) -> None:
    """The first call writes tables.md with every table and column, the second nothing."""
    first, second = (
        CliRunner().invoke(cli.commands, ["docs", "--folder", str(tmp_path)]) for _ in range(2)
    )
    assert (first.exit_code, first.output.split()[0], second.output) == (0, "wrote", "")
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    for spec in TABLES:
        assert f"## {spec.id}\n" in text
        assert all(f"| {column.name} | {column.type} |" in text for column in spec.columns)


def test_the_document_in_the_repository_is_up_to_date() -> None:
    """docs/tables.md is what `medallion docs` writes."""
    path = Path(__file__).parents[2] / "docs" / "tables.md"
    if not path.exists():
        pytest.skip("docs/tables.md is not there yet")
    assert path.read_text(encoding="utf-8") == documents.tables_markdown(), "run `medallion docs`"


def test_a_job_names_configuration_and_values_by_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no environment to write into; a value without a name is refused."""
    configured(tmp_path, monkeypatch, promotion={"mode": "${PROMOTION}"})
    file = str(tmp_path / "mine.yaml")
    monkeypatch.setenv("MEDALLION_CONFIG", "absent.yaml")
    monkeypatch.setenv("PROMOTION", "act")
    told = refused(monkeypatch, capsys, "--config", file, "--set", "PROMOTION=maybe", "status")
    assert "promotion.mode: Input should be 'act', 'approve' or 'off'" in told
    assert "write NAME=VALUE" in refused(monkeypatch, capsys, "--set", "PROMOTION", "status")


def test_a_command_that_succeeds_returns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job's task that ends by an exit would count as failed, even with code 0."""
    monkeypatch.setattr(sys, "argv", ["medallion", "--help"])
    cli.main()
    assert "Usage:" in capsys.readouterr().out
