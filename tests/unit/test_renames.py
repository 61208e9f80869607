"""Parts that go on under another number: chains, contradictions, and where it is said."""

from pathlib import Path
from typing import Any

import pytest

from medallion_assets.silver import renames
from medallion_assets.silver.assets import known_renames, new_numbers
from resources.errors import Refused
from resources.settings import ConfigurationError, Settings, parse_settings
from tests.conftest import SOURCE


def settings(folder: Path, renamed: dict[str, Any], master: str = "", **source: Any) -> Settings:
    """A configuration with renamed parts, and a parts master where its text is given."""
    content: dict[str, Any] = {
        "lakehouse_root": "lakehouse",
        "first_month": 202201,
        "sources": [{**SOURCE, **source}],
        "renamed_parts": renamed,
    }
    if master:
        (folder / "parts.csv").write_text(master, encoding="utf-8")
        content["parts_master"] = {
            "files": "parts.csv",
            "part_number": "Item",
            "supersedes": "Replaces",
        }
    return parse_settings(content, folder / "company.yaml")


def test_a_chain_of_renames_ends_at_the_last_number(tmp_path: Path) -> None:
    """A became B, B became C: lines of both count for C, whatever the order they are written in."""
    found = new_numbers(
        settings(tmp_path, {"b": {"to": " c ", "from": 202301}, " A": {"to": "B", "from": 202201}})
    )
    assert found == {"A": "C", "B": "C"}
    assert renames.former_numbers(found) == {"C": "A, B"}


def test_two_parts_may_become_one(tmp_path: Path) -> None:
    """Two variants that go on as one article join their histories."""
    both = {name: {"to": "C", "from": 202201} for name in ("A", "B")}
    assert new_numbers(settings(tmp_path, both)) == {"A": "C", "B": "C"}


@pytest.mark.parametrize(
    ("renamed", "says"),
    [
        ({"A": {"to": "A", "from": 202201}}, r"renamed_parts: A -> A goes round"),
        (
            {"A": {"to": "B", "from": 202201}, "B": {"to": "A", "from": 202301}},
            r"A -> B -> A goes round; a part must have a last number",
        ),
        ({"A": {"to": "B"}}, r"renamed_parts\.A\.from: missing"),
        (
            {"A": {"to": "B", "from": "2022-01"}},
            r"renamed_parts\.A\.from: '2022-01' is not a month",
        ),
    ],
)
def test_mistakes_are_named_when_the_configuration_is_loaded(
    tmp_path: Path, renamed: dict[str, Any], says: str
) -> None:
    """With the key and the chain that goes round."""
    with pytest.raises(ConfigurationError, match=says):
        settings(tmp_path, renamed)


def test_a_chain_that_goes_round_in_capitals_is_refused(tmp_path: Path) -> None:
    """Part numbers are read in capitals, so a and A are one."""
    with pytest.raises(ConfigurationError, match="goes round"):
        settings(tmp_path, {"a": {"to": "B", "from": 202201}, "b": {"to": "A", "from": 202201}})


def test_the_parts_master_names_what_a_part_supersedes(tmp_path: Path) -> None:
    """Rows without a predecessor say nothing; the configuration and the list make one chain."""
    made = settings(
        tmp_path,
        {"A": {"to": "B", "from": 202201}},
        "Item,Replaces\nc, b \nD,\n",
    )
    assert [rename.sentence for rename in known_renames(made)] == [
        "A is B from 202201, by renamed_parts",
        f"B is C, by Replaces in {tmp_path}/parts.csv",
    ]
    assert new_numbers(made) == {"A": "C", "B": "C"}


@pytest.mark.parametrize(
    ("master", "says"),
    [
        ("Item,Replaces\nC,A\n", r"A is B from 202201, by renamed_parts, but C by Replaces in"),
        ("Item,Replaces\nA,B\n", r"renamed_parts and Replaces in .*: A -> B -> A goes round"),
        ("Item,Old\nC,A\n", r"parts\.csv: no column Replaces, which parts_master names"),
    ],
)
def test_contradictions_with_the_parts_master_are_refused(
    tmp_path: Path, master: str, says: str
) -> None:
    """Two successors of one part, a chain that goes round, a column that is not there."""
    made = settings(tmp_path, {"A": {"to": "B", "from": 202201}}, master)
    with pytest.raises(Refused, match=says):
        known_renames(made)


def test_a_source_that_keeps_case_is_matched_as_it_is_written(tmp_path: Path) -> None:
    """With upper_case_parts off, a and A are two parts."""
    made = settings(tmp_path, {"a": {"to": "b", "from": 202201}}, upper_case_parts=False)
    assert new_numbers(made) == {"a": "b"}


def test_without_renames_there_are_no_numbers(tmp_path: Path) -> None:
    """Nothing is read and nothing becomes stale."""
    assert new_numbers(settings(tmp_path, {})) == {}
