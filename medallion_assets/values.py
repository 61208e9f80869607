"""Texts as companies write them -> numbers, identifiers and times.

Nothing is guessed: a text that may mean two things, or none, gives NULL, and the line is put aside
with its reason. Which column means what belongs to the mapping, what becomes of a NULL to silver.

Each kind of value has a function of one text and a Column expression around it. A text in the usual
form never leaves the engine; any other goes through the function, each different one of a batch
once. So every engine reads the same: they differ in Unicode, years of two digits and exponents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import cache, partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pandas as pd
from pyspark.sql import functions as F

from resources.settings import EPOCHS, SERIAL

if TYPE_CHECKING:
    from pyspark.sql import Column

    from resources.settings import Source

AMOUNT = "decimal(24,6)"
# A number that a spreadsheet turned into a float: digits of a part number are lost.
DAMAGED_NUMBER = r"^[0-9]\.[0-9]+[eE][+]?[0-9]+$"

# Ranges of signs that show as a gap, and of signs that do not show at all.
WHITE = (
    "\t-\r",
    "\x1c- ",
    "\x85",
    "\xa0",
    "\u1680",
    "\u2000-\u200a",
    "\u2028",
    "\u2029",
    "\u202f",
    "\u205f",
    "\u3000",
)
INVISIBLE = (
    "\x00-\x08",
    "\x0e-\x1b",
    "\x7f",
    "\xad",
    "\u034f",
    "\u061c",
    "\u180e",
    "\u200b-\u200f",
    "\u202a-\u202e",
    "\u2060-\u206f",
    "\ufe00-\ufe0f",
    "\ufeff",
    "\ufff9-\ufffb",
)
_WHITE, _INVISIBLE = (f"[{''.join(ranges)}]" for ranges in (WHITE, INVISIBLE))
_GAPS, _UNSEEN, _DIGITS = re.compile(f"{_WHITE}+"), re.compile(_INVISIBLE), re.compile("[0-9]+")
_PACK = "\x1f"
_NOT_PLAIN = "[^ -~]"
_MINUS = "[\u2013\u2212\ufe63\uff0d]"

# Of amounts of money, with or without a point behind.
_CURRENCIES = (
    "AED ARS AUD BGN BRL CAD CHF CLP CNY COP CZK DKK EGP EUR GBP HKD HUF IDR ILS INR ISK JPY KES"
    " KRW MXN MYR NGN NOK NZD PEN PHP PLN RMB RON RUB SAR SEK SGD THB TRY TWD UAH USD VND ZAR"
    " KR FR RS FT LEI"
).replace(" ", "|")
_SIGNS = "(?:US|CA|C|AU|A|NZ|HK|S|R|MX)?[$]|[€£¥₹₽₩₺₴₪₫฿]|[Kk][Čč]|[Zz]ł"
_CURRENCY = rf"(?:(?i:{_CURRENCIES})\.?|{_SIGNS})"

# A year of two digits lies between 1970 and 2069, as POSIX has it.
PIVOT = 70
MONTH_NAMES = (
    "jan january januar janvier enero ene gennaio gen januari jän jänner janv janeiro sty stycznia",
    "feb february februar février fevrier févr fevr febrero febbraio februari fev fevereiro lutego",
    "mar march märz mär mrz mars marzo maart mrt março marco marca",
    "apr april avril avr abril abr aprile kwi kwietnia",
    "may mai mayo maggio mag mei maio maja",
    "jun june juni juin junio giugno giu junho cze czerwca",
    "jul july juli juillet juil julio luglio lug julho lip lipca",
    "aug august août aout agosto ago augustus sie sierpnia",
    "sep sept september septembre septiembre settembre set setembro wrz września",
    "oct october oktober okt octobre octubre ottobre ott out outubro paź października",
    "nov november novembre noviembre novembro lis listopada",
    "dec december dezember dez décembre decembre déc diciembre dic dicembre dezembro gru grudnia",
)
MONTHS = {name: n for n, names in enumerate(MONTH_NAMES, 1) for name in names.split()}
_LARGEST = Decimal(10) ** 18
_MILLIONTH = Decimal("0.000001")
_SERIAL_EPOCH = datetime(1899, 12, 30)  # noqa: DTZ001 - Excel's day 0


def _read_by(read: Callable[[str], str | None], texts: Column) -> Column:
    """A text function over a column, called once for each different text of a batch."""

    def read_all(batch: pd.Series) -> pd.Series:
        known = {text: read(text) for text in batch.dropna().unique()}
        return batch.map(known).astype(object)

    made: Column = F.pandas_udf(read_all, "string")(texts)  # type: ignore[attr-defined]
    return made


def trimmed(text: Column) -> Column:
    """A text without white space and invisible signs around it."""
    plain = F.trim(text)
    edge = f"(?:{_WHITE}|{_INVISIBLE})+"
    return F.when(
        plain.rlike(_NOT_PLAIN), F.regexp_replace(plain, f"^{edge}|{edge}$", "")
    ).otherwise(plain)


def packed_identifier(
    name: str, as_delivered: Column, decimal_ends: Sequence[str], missing: Sequence[str]
) -> Column:
    """An identifier in its one spelling and what was changed for that, as one text for
    ``identifier`` and ``spellings``; NULL where it is in that spelling already.
    """
    looks = "|".join(re.escape(sign) for sign in decimal_ends)
    needs = as_delivered.rlike(f"[^!-~]|^[=']|(?:{looks})0+$")
    pack = partial(_packed, name=name, decimal_ends=tuple(decimal_ends), missing=frozenset(missing))
    return _read_by(pack, F.when(needs, as_delivered))


def _packed(
    text: str, name: str, decimal_ends: Sequence[str], missing: frozenset[str]
) -> str | None:
    one, changes = tidied(text, decimal_ends)
    named = ",".join(f"{name}_{change}" for change in changes)
    return f"{'' if one in missing else one}{_PACK}{named}" if changes else None


def identifier(as_delivered: Column, packed: Column) -> Column:
    """The identifier itself, of ``packed_identifier``; NULL where nothing is left."""
    # Few references to either: a filter on what is made of identifiers repeats them.
    spelled = F.coalesce(_part(packed, 1), as_delivered)
    return F.nullif(spelled, F.lit(""))


def spellings(packed: Sequence[Column]) -> Column:
    """Names of what was changed, part_number_decimal_ending and the like, of identifiers as
    ``packed_identifier`` gives them; NULL where nothing was.
    """
    named = F.concat_ws(",", *[_part(one, -1) for one in packed])
    return F.split(F.nullif(named, F.lit("")), ",")


def _part(packed: Column, which: int) -> Column:
    # Cast: a part of a text is a view of it in DataFusion, which no client of Spark reads.
    return F.substring_index(packed, _PACK, which).cast("string")


def tidied(text: str, decimal_ends: Sequence[str]) -> tuple[str, list[str]]:
    """One spelling for what is one number of a part, an order or a customer, and the names of what
    was changed.

    Signs that do not show are removed, each run of white space is one blank, letters and marks are
    composed (Unicode NFC), full-width letters and digits and other hyphens are the usual ones,
    ``="10023"`` and ``'10023`` are what Excel means by them, and 10023.0 is 10023: nothing but
    digits, one of ``decimal_ends`` and zeros. Leading zeros stay.
    """
    changes = []

    def step(name: str, now: str) -> str:
        if now != text:
            changes.append(name)
        return now

    if not text.isprintable() or not text.isascii():
        text = step("invisible_signs", _UNSEEN.sub("", text))
    text = step("white_space", _GAPS.sub(" ", text).strip(" "))
    if not text.isascii():
        text = step("unicode_form", _composed(text))
    if text.startswith(("=", "'")):
        text = step("excel_text", _of_excel(text))
    whole = text.rstrip("0")
    if whole.endswith(tuple(decimal_ends)) and whole != text and _DIGITS.fullmatch(whole[:-1]):
        text = step("decimal_ending", whole[:-1])
    return text, changes


def _composed(text: str) -> str:
    text = "".join(
        chr(ord(sign) - 0xFEE0) if "\uff01" <= sign <= "\uff5e" else sign for sign in text
    )
    return unicodedata.normalize("NFC", re.sub("[\u2010\u2011]", "-", text))


def _of_excel(text: str) -> str:
    if found := re.fullmatch(r"""=(?:T\()?"([^"]*)"\)?|'([0-9]+)""", text):
        return (found[1] or found[2] or "").strip(" ")
    return text


def amount(text: Column, source: Source, is_money: bool = False) -> Column:
    """A number, AMOUNT, as ``number`` reads it; NULL for any other text."""
    decimal = re.escape(source.decimal_separator)
    is_plain = text.rlike(rf"^[+-]?(?:[0-9]+(?:{decimal}[0-9]*)?|{decimal}[0-9]+)$")
    read = partial(
        number,
        decimal=source.decimal_separator,
        thousands=source.thousands_separator,
        exponents=source.exponents,
        is_money=is_money,
    )
    plain = F.replace(text, F.lit(source.decimal_separator), F.lit("."))
    unusual = _read_by(read, F.when(~is_plain, text))
    return F.when(is_plain, plain).otherwise(unusual).try_cast(AMOUNT)


def number(
    text: str, decimal: str, thousands: str, exponents: str = "float", is_money: bool = False
) -> str | None:
    """A number by the separators, as text with a point; None for any other text.

    Also read: a minus behind the number, parentheses as a minus, blanks and apostrophes between
    groups of three digits, exponents of float notation, around money its currency. A separator
    that stands at another place than it can is no number: 1,5 is not 15.
    """
    text = re.sub(_MINUS, "-", _GAPS.sub(" ", _UNSEEN.sub("", text)).strip())
    for pattern, sign in _number_patterns(decimal, thousands, exponents, is_money):
        if found := re.fullmatch(pattern, text, re.ASCII):
            digits = re.sub("[ '\u2019]", "", found["number"])
            if thousands:
                digits = digits.replace(thousands, "")
            value = Decimal(digits.replace(decimal, "."))
            if abs(value) >= _LARGEST:
                return None
            if sign == "-" or found.groupdict().get("sign") == "-":
                value = -value
            return f"{value.quantize(_MILLIONTH, ROUND_HALF_UP):f}"
    return None


@cache
def _number_patterns(
    decimal: str, thousands: str, exponents: str, is_money: bool
) -> tuple[tuple[str, str], ...]:
    """Patterns of numbers, each with the sign that its form means."""
    decimal, thousands = re.escape(decimal), re.escape(thousands)
    whole = ["[0-9]+", "[0-9]{1,3}(?: [0-9]{3})+", "[0-9]{1,3}(?:['\u2019][0-9]{3})+"]
    if thousands:
        whole.append(f"[0-9]{{1,3}}(?:{thousands}[0-9]{{2,3}})*{thousands}[0-9]{{3}}")
    exponent = "[eE][+-]?[0-9]{1,2}"
    meant = (
        f"[0-9]{decimal}[0-9]+{exponent}|[0-9](?:{decimal})?[eE][+-][0-9]{{1,2}}"
        if exponents == "float"
        else f"(?:[0-9]+(?:{decimal}[0-9]*)?|{decimal}[0-9]+){exponent}"
    )
    some = f"(?P<number>(?:{'|'.join(whole)})(?:{decimal}[0-9]*)?|{decimal}[0-9]+|{meant})"
    front, behind = (f"(?:{_CURRENCY} ?)?", f"(?: ?{_CURRENCY})?") if is_money else ("", "")
    return (
        (f"{front}(?P<sign>[+-]?) ?{front}{some}{behind}", ""),
        (f"{front}{some}{behind} ?-{behind}", "-"),
        (f"{front}\\( ?{front}{some}{behind} ?\\){behind}", "-"),
    )


def scaled(number: Column) -> Column:
    """A double as an amount, rounded half up: the same bits on every engine to a size of 9e12, NULL
    beyond.
    """
    millionths = F.floor(number * 1e6 + 0.5).cast("bigint").cast("decimal(20,0)")
    return F.when(F.abs(number) < 9e12, (millionths * F.lit(Decimal("0.000001"))).cast(AMOUNT))


def timestamp(text: Column, formats: Sequence[str], time_zone: str | None = None) -> Column:
    """A date text as ``moment`` reads it; NULL for any other."""
    read = partial(moment, formats=tuple(formats), time_zone=time_zone)

    def is_read(examples: Sequence[str]) -> bool:
        return all((read(example) or "").startswith(example) for example in examples)

    usual = [pattern for pattern, examples in _USUAL_DATES.items() if is_read(examples)]
    if not usual:
        return _read_by(read, text).try_cast("timestamp")
    is_usual = text.rlike(f"^(?:{'|'.join(usual)})$")
    unusual = _read_by(read, F.when(~is_usual, text))
    return F.when(is_usual, text).otherwise(unusual).try_cast("timestamp")


_DAY = "[1-9][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
# Forms that every engine casts alike, with examples that tell whether the formats read them so.
_USUAL_DATES = {
    _DAY: ("2024-11-12", "2024-11-23"),
    f"{_DAY} (?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]": (
        "2024-11-12 10:09:08",
        "2024-11-23 22:21:20",
    ),
}


def moment(text: str, formats: Sequence[str], time_zone: str | None = None) -> str | None:
    """A date text by the first of the formats that reads it, as yyyy-MM-dd HH:mm:ss with millionths
    of a second; None where none does.

    The date is the one printed: an offset behind it changes nothing, unless ``time_zone`` is given,
    to which it is converted then. A date without a day is the first of its month.
    """
    text = _GAPS.sub(" ", _UNSEEN.sub("", text)).strip()
    for pattern in formats:
        try:
            found = _by_format(text, pattern, time_zone)
        except (ValueError, OverflowError):
            continue
        if found is not None:
            return found.strftime("%Y-%m-%d %H:%M:%S.%f")
    return None


def _by_format(text: str, pattern: str, time_zone: str | None) -> datetime | None:
    """The local time that a format reads; None or ValueError where it reads none."""
    if pattern in EPOCHS:
        digits, per_second = ("9,10", 1) if pattern == EPOCHS[0] else ("12,13", 1000)
        if not (found := re.fullmatch(rf"(-?[0-9]{{{digits}}})(?:\.[0-9]+)?", text)):
            return None
        micros = int(found[1]) * (1_000_000 // per_second)
        instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
        return instant.astimezone(ZoneInfo(time_zone or "UTC")).replace(tzinfo=None)
    if pattern == SERIAL:
        if not re.fullmatch(r"[1-9][0-9]{4}(?:[.,][0-9]+)?", text):
            return None
        seconds = (Decimal(text.replace(",", ".")) * 86_400).quantize(Decimal(1), ROUND_HALF_UP)
        return _SERIAL_EPOCH + timedelta(seconds=int(seconds))
    regex, has_names = date_regex(pattern)
    if not (match := re.fullmatch(regex, text)):
        return None
    fields = {name[0]: value for name, value in match.groupdict().items() if value is not None}
    return _local(fields, has_names, time_zone)


def _local(fields: Mapping[str, str], has_names: bool, time_zone: str | None) -> datetime | None:
    """A local time of the fields that a format found."""
    year = int(fields["y"])
    if len(fields["y"]) == 2:
        year += 2000 if year < PIVOT else 1900
    month = int(fields.get("M", "1")) if not has_names else MONTHS.get(fields["M"].lower())
    if month is None:
        return None
    hour = int(fields.get("H", "0"))
    if "h" in fields:
        hour = int(fields["h"]) % 12 + (12 if fields["a"].lower() == "p" else 0)
    micros = int(fields.get("S", "0")[:6].ljust(6, "0"))
    made = datetime(  # noqa: DTZ001 - the zone is the source's, and comes later
        year,
        month,
        int(fields.get("d", "1")),
        hour,
        int(fields.get("m", "0")),
        int(fields.get("s", "0")),
        micros,
    )
    if "D" in fields:
        made += timedelta(days=int(fields["D"]) - 1)
        if made.year != year:
            return None
    offset = fields.get("X")
    if offset is None or time_zone is None:
        return made
    minutes = 0
    if offset[0] in "+-":
        digits = offset[1:].replace(":", "").ljust(4, "0")
        minutes = (int(digits[:2]) * 60 + int(digits[2:])) * (-1 if offset[0] == "-" else 1)
    instant = (made - timedelta(minutes=minutes)).replace(tzinfo=UTC)
    return instant.astimezone(ZoneInfo(time_zone)).replace(tzinfo=None)


@cache
def date_regex(pattern: str) -> tuple[str, bool]:
    """A date format as a regular expression, whose groups are named by the field's letter and a
    number, and whether its months are names.
    """
    made, count, has_names = "", 0, False
    for match in re.finditer(r"'((?:[^']|'')*)'|(([A-Za-z])\3*)|(.)", pattern):
        literal, run, letter, sign = match.groups()
        if run is None:
            brackets = {"[": "(?:", "]": ")?"}
            made += brackets.get(sign) or re.escape(sign or literal.replace("''", "'") or "'")
            continue
        count += 1
        name = {"L": "M", "x": "X", "Z": "X"}.get(letter, letter)
        has_names = has_names or (name == "M" and len(run) > 2)
        made += _field(name, len(run)).replace("(?P<", f"(?P<{name}{count}_", 1)
    return made.replace("_>", ">"), has_names


def _field(name: str, length: int) -> str:
    zero = "0?" if length == 1 else "0"
    return {
        "y": "(?P<>[0-9]{2})" if length == 2 else "(?P<>[1-9][0-9]{3})",
        "M": r"(?P<>[^\W\d_]+)\.?" if length > 2 else f"(?P<>1[0-2]|{zero}[1-9])",
        "d": f"(?P<>3[01]|[12][0-9]|{zero}[1-9])",
        "D": "(?P<>[0-3][0-9]{2})",
        "H": f"(?P<>2[0-3]|1[0-9]|{zero}[0-9])",
        "h": f"(?P<>1[0-2]|{zero}[0-9])",
        "m": f"(?P<>[1-5][0-9]|{zero}[0-9])",
        "s": f"(?P<>[1-5][0-9]|{zero}[0-9])",
        "S": "(?P<>[0-9]{1,9})",
        "a": r"(?P<>[AaPp])\.?[Mm]\.?",
        "X": "(?P<>Z|z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)",
        "E": r"[^\W\d_]+\.?",
        "z": "[A-Za-z]{1,5}",
        "O": "(?:GMT|UTC)(?:[+-][0-9]{1,2}(?::[0-9]{2})?)?",
    }[name]
