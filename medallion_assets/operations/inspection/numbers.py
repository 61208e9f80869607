"""Notations of numbers: the decimal sign, the separator of thousands, minus signs and currencies.

Pure: texts in, notation out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

_CODES = (
    "AED|ARS|AUD|BGN|BRL|CAD|CHF|CLP|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KRW|MXN|"
    "MYR|NOK|NZD|PEN|PHP|PLN|RON|RSD|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR"
)
CURRENCIES = rf"(?:R\$|[$€£¥₹₩₽₺₪₫]|kr\.?|zł|Kč|Ft|{_CODES})"
_SIGNED = re.compile(
    rf"(?P<open>\()?\s*(?P<sign>[+-])?\s*(?:{CURRENCIES}\s*)?(?P<sign2>-)?"
    r"(?P<number>\d[\d.,'’\s\u00a0\u202f\u2009]*|[.,]\d+)"
    rf"(?:[eE][+-]?\d{{1,3}})?\s*(?:{CURRENCIES})?\s*(?P<behind>-)?\s*(?P<close>\))?"
)
_BLANKS = "\\s\u00a0\u202f\u2009"


@dataclass(frozen=True)
class NumberNotation:
    """How numbers are written. ``decimal`` is None where comma and point can't be told apart, with
    the value that shows it in ``unclear``; ``thousands`` is empty where no separator was seen.
    """

    decimal: str | None = None
    thousands: str = ""
    unclear: str = ""
    has_parentheses: bool = False
    has_minus_behind: bool = False
    has_currency: bool = False
    conflicts: tuple[str, str] | None = None


@lru_cache(2**17)
def is_number(text: str) -> bool:
    """Whether a text is a number in some notation; dates and codes with a blank in them are not."""
    found = _SIGNED.fullmatch(text)
    if found is None or (found["open"] is None) != (found["close"] is None):
        return False
    body = re.sub(f"[{_BLANKS}'’]", "", found["number"])
    groups = re.split(f"[{_BLANKS}]", found["number"].strip())
    if len(groups) > 1 and not all(re.match(r"\d{3}(\D|$)", group) for group in groups[1:]):
        return False
    return bool(
        re.fullmatch(r"\d*[.,]?\d+|\d+[.,]", body)
        or re.fullmatch(r"\d{1,3}(\.\d{2,3})+(,\d*)?|\d{1,3}(,\d{2,3})+(\.\d*)?", body)
    )


def number_notation(texts: Iterable[str], are_typed: bool = False) -> NumberNotation:
    """The notation in which all the texts are numbers; what is none is left out.

    ``are_typed``: the values were numbers before they became texts, so the point is the decimal
    sign.
    """
    seen: dict[str, str] = {}
    has_parentheses = has_behind = has_currency = False
    thousands = ""
    with_three: dict[str, str] = {}
    has_long = False
    for text in texts:
        found = _SIGNED.fullmatch(text)
        if found is None or not is_number(text):
            continue
        has_parentheses |= found["open"] is not None
        has_behind |= found["behind"] is not None
        has_currency |= bool(re.search(CURRENCIES, re.sub(r"[eE][+-]?\d", "", text)))
        body = found["number"].strip()
        if groups := re.findall(f"[{_BLANKS}'’]", body):
            thousands = thousands or ("'" if groups[0] in "'’" else " ")
            body = re.sub(f"[{_BLANKS}'’]", "", body)
        signs = re.findall(r"[.,]", body)
        has_long |= not signs and len(body) > 3
        if len(set(signs)) == 2:
            seen.setdefault(signs[-1], text)
            thousands = signs[0]
        elif len(signs) > 1:
            seen.setdefault("," if signs[0] == "." else ".", text)
            thousands = signs[0]
        elif signs:
            sign = signs[0]
            whole, part = body.split(sign)
            if len(part) == 3 and 1 <= len(whole) <= 3 and whole != "0" and whole[0] != "0":
                with_three.setdefault(sign, text)
            else:
                seen.setdefault(sign, text)
    if are_typed:
        return NumberNotation(".", "", "", has_parentheses, has_behind, has_currency)
    flags = (has_parentheses, has_behind, has_currency)
    if len(seen) == 2:
        return NumberNotation(None, "", "", *flags, conflicts=(seen["."], seen[","]))
    if seen:
        decimal = next(iter(seen))
        other = "," if decimal == "." else "."
        if other in with_three:
            thousands = other
        return NumberNotation(decimal, thousands if thousands != decimal else "", "", *flags)
    if with_three:
        if len(with_three) == 2:
            return NumberNotation(
                None, "", "", *flags, conflicts=(with_three["."], with_three[","])
            )
        # Where a thousand is written without a separator, the sign can't be one.
        if has_long and not thousands:
            return NumberNotation(next(iter(with_three)), "", "", *flags)
        return NumberNotation(None, "", next(iter(with_three.values())), *flags)
    return NumberNotation(".", thousands, "", *flags)


def value_of(text: str, notation: NumberNotation) -> float | None:
    """The number of a text by a notation, for looking at signs and sizes; None where it is none."""
    found = _SIGNED.fullmatch(text)
    if found is None or not is_number(text):
        return None
    decimal = notation.decimal or "."
    body = re.sub(f"[{_BLANKS}'’]", "", found["number"])
    body = body.replace("," if decimal == "." else ".", "").replace(decimal, ".")
    exponent = re.search(r"[eE][+-]?\d{1,3}", text[found.end("number") :])
    try:
        number = float(body + (exponent.group() if exponent else ""))
    except ValueError:
        return None
    is_negative = any(found[name] for name in ("open", "behind")) or "-" in (
        found["sign"],
        found["sign2"],
    )
    return -number if is_negative else number
