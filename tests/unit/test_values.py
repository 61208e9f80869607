"""Texts as companies write them, read by the functions that every engine calls."""

from __future__ import annotations

import pytest

from medallion_assets import values
from resources.settings import ISO_DATES
from tests.spellings import DEFAULTS, FORMATS, QUANTITIES, SPELLED


@pytest.mark.parametrize("text", QUANTITIES)
def test_a_number_is_read_or_is_none(text: str) -> None:
    """What may be another number is none."""
    read = values.number(text, decimal=".", thousands="")
    assert (None if read is None else float(read)) == QUANTITIES[text]


@pytest.mark.parametrize("text", DEFAULTS)
def test_a_date_of_the_default_formats(text: str) -> None:
    """The date is the one printed, and a day before a month is none."""
    read = values.moment(text, ISO_DATES)
    assert (read and read[:19]) == DEFAULTS[text]


@pytest.mark.parametrize(("pattern", "text", "wanted"), FORMATS)
def test_a_date_of_a_format(pattern: str, text: str, wanted: str | None) -> None:
    """Each format reads what it says and nothing else."""
    read = values.moment(text, (pattern,))
    assert (read and read[:19]) == wanted


@pytest.mark.parametrize("text", SPELLED)
def test_an_identifier_has_one_spelling(text: str) -> None:
    """The spelling and the names of what was changed for it."""
    one, changes = values.tidied(text.strip(" "), (".",))
    assert (one.upper() or None, changes) == SPELLED[text]


def test_a_comma_may_end_an_identifier_only_where_it_is_decimal() -> None:
    """10023,0 is 10023 for a source with decimal commas, and another text for others."""
    assert values.tidied("10023,0", (".", ","))[0] == "10023"
    assert values.tidied("10023,0", (".",))[0] == "10023,0"


def test_months_have_one_meaning_in_all_languages() -> None:
    """No name of a month is the name of another one in another language."""
    names = [name for month in values.MONTH_NAMES for name in set(month.split())]
    assert len(names) == len(set(names))
    assert len(values.MONTH_NAMES) == 12
