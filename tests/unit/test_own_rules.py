"""Rules of a company's own, refused when the configuration is loaded for what needs no engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resources.own_rules import mistake_in_rule
from resources.settings import RULE_COLUMNS, ConfigurationError, parse_settings
from tests.conftest import SOURCE

MISTAKES = {
    "qty > 5": "no column 'qty'",
    "quantiy > 5": "did you mean quantity",
    "(quantity > 5": "not closed",
    "quantity > 5)": "not opened",
    "quantity > 5; DROP TABLE x": "can't be read",
    "order_id = 'open": "can't be read",
    "rand() > 0.5 OR quantity > 1": "each time",
    "order_date > current_date()": "each time",
    "sum(quantity) > 5": "a rule sees one",
    "exp(quantity) > 5": "between engines",
    "quantity IN (SELECT 1)": "without queries",
    "1 = 1": "names no column",
}
GOOD = (
    "quantity > 1000",
    "Quantity * unit_price > 1e6 AND NOT region IN ('North', 'it''s')",
    "part_number RLIKE '^T[0-9]+$' OR `order_id` IS NULL",
    "CASE WHEN line_type = 'sale' THEN year(order_date) < 2020 ELSE false END",
)


def configured(folder: Path, **source: Any) -> Any:
    content = {
        "lakehouse_root": "lakehouse",
        "first_month": 202201,
        "sources": [{**SOURCE, **source}],
    }
    return parse_settings(content, folder / "test.yaml")


@pytest.mark.parametrize("sql", MISTAKES)
def test_a_rule_that_can_not_be_used_says_why(sql: str) -> None:
    """Unknown columns, open brackets and texts, queries, and functions that see other lines or give
    another result each time.
    """
    assert MISTAKES[sql] in str(mistake_in_rule(sql, RULE_COLUMNS))


@pytest.mark.parametrize("sql", GOOD)
def test_a_condition_on_one_line_is_taken(sql: str) -> None:
    """Columns in either case, texts with quotes in them, functions of one value."""
    assert mistake_in_rule(sql, RULE_COLUMNS) is None


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"rules": {"own": [{"name": "quantity_zero", "sql": "quantity = 1"}]}}, "take another"),
        ({"rules": {"own": [{"name": "a", "sql": "quantity = 1"}] * 2}}, "used twice"),
        (
            {"rules": {"own": [{"name": "a", "sql": "qty = 1"}]}},
            "rules.own.0: sql of 'a'",
        ),
        ({"rules": {"implausible": {"faktor": 3}}}, "did you mean factor"),
        ({"line_types": {"sale": ["Order"]}}, "need each other"),
        ({"columns": {**SOURCE["columns"], "line_type": "Type"}}, "need each other"),
        ({"columns": {**SOURCE["columns"], "unit": "Unit"}}, "need each other"),
        (
            {
                "columns": {**SOURCE["columns"], "line_type": "Type"},
                "line_types": {"sale": ["A"], "refund": ["a "]},
            },
            "listed twice",
        ),
        (
            {"columns": {**SOURCE["columns"], "unit": "U"}, "units": {"factors": {"BOX": 0}}},
            "no factor",
        ),
        ({"date_formats": ["epoch_seconds"]}, "give time_zone"),
        ({"time_zone": "Berlin"}, "no time zone"),
        ({"date_formats": ["dd.MM"]}, "a month needs a year"),
        ({"date_formats": ["yyyy-MM-dd hh:mm"]}, "need each other"),
        ({"date_formats": ["yyyy-MM-dd[ HH:mm"]}, "brackets"),
        ({"date_formats": ["yyyy-MM-dd z"], "time_zone": "UTC"}, "names of zones"),
        ({"columns": {"order_date": "Date", "quantity": "Qty"}}, "part_number"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, source: dict[str, Any], told: str) -> None:
    """Keys that need each other, names used twice, zones and formats that nobody can read."""
    with pytest.raises(ConfigurationError, match=told.replace("[", r"\[")):
        configured(tmp_path, **source)


def test_a_source_may_lack_order_and_price(tmp_path: Path) -> None:
    """Part, date and quantity are enough, and the part may be one text for all lines."""
    columns = {"part_number": {"constant": "TOTAL"}, "order_date": "Date", "quantity": "Qty"}
    (source,) = configured(tmp_path, columns=columns, rules={}).sources
    assert (source.candidates("part_number"), source.candidates("unit_price")) == ((), ())
