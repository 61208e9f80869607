"""Notations of dates: which patterns read every value of a column, and where day and month can't be
told apart.

Pure: texts in, patterns out. A pattern is written as ``date_formats`` of a configuration takes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from medallion_assets.values import MONTHS

# Order of the three numbers of a date, the likeliest first.
ORDERS = ("ymd", "dmy", "mdy")
EXCEL_EPOCH = date(1899, 12, 30)
OLDEST_YEAR = 1970
_NAME = r"[^\W\d_]{3,10}\.?"
_TIME = (
    r"(?:(?P<gap>T| T|,? +)(?P<hour>\d{1,2}):(?P<minute>\d{2})(?P<second>:\d{2})?"
    r"(?P<fraction>\.\d{1,9})?(?P<half> ?[AaPp]\.?[Mm]\.?)?)?"
    r"(?P<zone> ?(?:Z|UTC|GMT|[+-]\d{2}:\d{2}|[+-]\d{4}|[+-]\d{2}"
    r"|(?<=[\dMm.] )[A-Z]{3,4}))?"
)
_THREE = re.compile(
    r"(?P<a>\d{1,4})(?P<one>[-/.]| |\. )(?P<b>\d{1,2}|" + _NAME + r")(?P<two>[-/.]| |\. |, )"
    rf"(?P<c>\d{{1,4}}){_TIME}"
)
_NAMED_FIRST = re.compile(
    rf"(?P<a>{_NAME})(?P<one>[-/. ])(?P<b>\d{{1,2}})(?P<two>, |[-/. ])(?P<c>\d{{4}}|\d{{2}})"
    + _TIME
)
_TWO = re.compile(rf"(?P<a>\d{{4}}|\d{{1,2}}|{_NAME})(?P<one>[-/. ])(?P<b>\d{{4}}|\d{{1,2}})")
_DIGITS = re.compile(r"\d{6}|\d{8}|\d{12}|\d{14}")
_NUMBER = re.compile(r"\d{5}(?:\.\d+)?|\d{10}|\d{13}")


@dataclass(frozen=True)
class Shape:
    """What values must share to be read by one pattern: separators, order of text and numbers,
    time, offset.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Reading:
    """One way to read all values of a shape: its pattern and the day of each value."""

    pattern: str
    days: Mapping[str, date]

    @property
    def is_monthly(self) -> bool:
        return "d" not in self.pattern and not self.pattern.startswith(("epoch", "excel"))


@dataclass(frozen=True)
class DateNotation:
    """How the dates of a column are written.

    ``readings`` has one entry for each shape that was found: the ways in which *all* its values can
    be read. ``unread`` are values that no pattern reads, ``zones`` the offsets that were seen.
    """

    readings: tuple[tuple[Reading, ...], ...] = ()
    unread: tuple[str, ...] = ()
    zones: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_ambiguous(self) -> bool:
        return any(len(ways) > 1 for ways in self.readings)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The first reading of each shape, the commonest shape first."""
        return tuple(dict.fromkeys(ways[0].pattern for ways in self.readings))

    @property
    def days(self) -> dict[str, date]:
        """The day of each value by the first reading."""
        return {text: day for ways in self.readings for text, day in ways[0].days.items()}

    @property
    def oldest(self) -> date | None:
        """The oldest day that any reading gives."""
        days = [day for ways in self.readings for way in ways for day in way.days.values()]
        return min(days, default=None)

    @property
    def is_monthly(self) -> bool:
        return bool(self.readings) and all(ways[0].is_monthly for ways in self.readings)


def date_notation(
    values: Sequence[str], today: date, with_numbers: bool, is_excel: bool = False
) -> DateNotation:
    """The notation of distinct texts. ``with_numbers``: whether plain numbers may be dates, which
    only the name of their column can tell. ``is_excel``: five digits are the days that a workbook
    counts.
    """
    groups: dict[Shape, list[str]] = {}
    unread: list[str] = []
    zones: set[str] = set()
    for text in values:
        shape = _shape(text, with_numbers, is_excel)
        if shape is None:
            unread.append(text)
            continue
        groups.setdefault(shape, []).append(text)
    readings: list[tuple[Reading, ...]] = []
    for shape, texts in sorted(groups.items(), key=lambda entry: -len(entry[1])):
        ways = tuple(_ways(shape, texts, today))
        if ways:
            readings.append(ways)
            zones |= {zone for text in texts if (zone := _zone(text))}
        else:
            unread += texts
    return DateNotation(tuple(readings), tuple(unread), frozenset(zones))


def order_said(pattern: str) -> str:
    """The order of a pattern as a person says it: dd/MM/yyyy has the day first."""
    first = re.sub(r"[^dM]", "", pattern.split("H", maxsplit=1)[0].split("h", maxsplit=1)[0])[:1]
    return "the day first" if first == "d" else "the month first"


def _match(text: str) -> re.Match[str] | None:
    return _THREE.fullmatch(text) or _NAMED_FIRST.fullmatch(text)


@lru_cache(2**17)
def _shape(text: str, with_numbers: bool, is_excel: bool) -> Shape | None:
    if found := _match(text):
        a, b = found["a"], found["b"]
        if not _is_date_like(a, b, found["c"]):
            return None
        kinds = "".join("t" if part[0].isalpha() else str(len(part) > 2) for part in (a, b))
        time = "".join(
            name for name in ("hour", "second", "half") if found[name] is not None
        ) + str(found["gap"] and ("T" if "T" in found["gap"] else found["gap"]))
        zone = found["zone"]
        zone_form = "" if zone is None else re.sub(r"[+-]", "+", re.sub(r"\d", "9", zone))
        # Z and +00:00 are read by one pattern; with and without a blank before it are not.
        zone_form = zone_form.replace("Z", "+99:99") if zone_form.strip() == "Z" else zone_form
        if _is_zone_name(zone):
            zone_form = " z"
        long_year = str(len(found["c"]) > 2)
        parts = (kinds, found["one"], found["two"], long_year, time, zone_form)
        return Shape("date", "|".join(parts))
    if found := _TWO.fullmatch(text):
        a, b = found["a"], found["b"]
        if a[0].isalpha():
            return Shape("month", f"t{found['one']}{len(b)}") if _month(a) else None
        if {len(a), len(b)} <= {1, 2} or (len(a) == 4) == (len(b) == 4):
            return None
        # 1.2024 may be a number, and so may 2024.1.
        if found["one"] == "." and not with_numbers:
            return None
        return Shape("month", f"{len(a) == 4}{found['one']}")
    if with_numbers and _DIGITS.fullmatch(text):
        return Shape("digits", str(len(text)))
    if (with_numbers or is_excel) and _NUMBER.fullmatch(text):
        return Shape("number", str(len(text.split(".", maxsplit=1)[0])))
    return None


def _is_date_like(a: str, b: str, c: str) -> bool:
    """A year of two or four digits at one end, numbers of one or two elsewhere."""
    if any(part.isdigit() and len(part) == 3 for part in (a, c)) or len(a) == len(c) == 4:
        return False
    if any(_month(part) is None for part in (a, b) if part[0].isalpha()):
        return False
    return not (a.isdigit() and b.isdigit() and len(a) == 1 and len(c) == 1)


def _month(name: str) -> int | None:
    return MONTHS.get(name.lower().rstrip("."))


def _is_zone_name(zone: str | None) -> bool:
    """PST and the like: a name, which says no offset that everybody agrees on."""
    return zone is not None and zone.strip().isalpha() and zone.strip() not in ("Z", "UTC", "GMT")


def _zone(text: str) -> str | None:
    found = _match(text)
    return found["zone"].strip() if found and found["zone"] else None


def _ways(shape: Shape, texts: Sequence[str], today: date) -> Iterable[Reading]:
    newest = today.year + 2
    if shape.kind == "number":
        yield from _number_ways(texts, newest)
    elif shape.kind == "digits":
        yield from _digit_ways(texts, newest)
    elif shape.kind == "month":
        yield from _month_ways(texts, newest)
    else:
        yield from _date_ways(texts, newest)


def _number_ways(texts: Sequence[str], newest: int) -> Iterable[Reading]:
    length = len(texts[0].split(".")[0])
    if length == 5:
        days = {text: EXCEL_EPOCH + timedelta(days=int(float(text))) for text in texts}
        pattern = "excel_serial"
    else:
        divisor = 1000 if length == 13 else 1
        days = {text: datetime.fromtimestamp(int(text) / divisor, UTC).date() for text in texts}
        pattern = "epoch_milliseconds" if length == 13 else "epoch_seconds"
    if all(OLDEST_YEAR <= day.year <= newest for day in days.values()):
        yield Reading(pattern, days)


def _digit_ways(texts: Sequence[str], newest: int) -> Iterable[Reading]:
    length = len(texts[0])
    time = {6: "", 8: "", 12: "HHmm", 14: "HHmmss"}[length]
    layouts = (
        [("yyyyMM", "yyyyMM"), ("yyMMdd", "yyMMdd"), ("ddMMyy", "ddMMyy")]
        if length == 6
        else [(f"yyyyMMdd{time}", "yyyyMMdd"), (f"ddMMyyyy{time}", "ddMMyyyy")]
    )
    for pattern, order in layouts:
        days = {text: _by_position(text, order) for text in texts}
        found = {text: day for text, day in days.items() if day and _is_plausible(day, newest)}
        if len(found) == len(texts):
            yield Reading(pattern, found)
            return


def _by_position(text: str, order: str) -> date | None:
    year_length = order.count("y")
    year = int(text[order.index("y") : order.index("y") + year_length])
    month = int(text[order.index("M") : order.index("M") + 2])
    day = int(text[order.index("d") : order.index("d") + 2]) if "d" in order else 1
    return _day(year + (2000 if year_length == 2 else 0), month, day)


def _month_ways(texts: Sequence[str], newest: int) -> Iterable[Reading]:
    days: dict[str, date] = {}
    separator, pattern = "", ""
    for text in texts:
        found = _TWO.fullmatch(text)
        if found is None:
            return
        a, b, separator = found["a"], found["b"], found["one"]
        if a[0].isalpha():
            month, year = _month(a) or 0, int(b) + (2000 if len(b) == 2 else 0)
            pattern = f"{_month_letters([a])}{separator}{'y' * len(b)}"
        elif len(a) == 4:
            year, month, pattern = int(a), int(b), f"yyyy{separator}{'M' * 2}"
        else:
            month, year, pattern = int(a), int(b), f"{'M' * 2}{separator}yyyy"
        day = _day(year, month, 1)
        if day is None or not _is_plausible(day, newest):
            return
        days[text] = day
    numbers = [text.replace(separator, " ").split() for text in texts]
    if any(len(part) == 1 for pair in numbers for part in pair):
        pattern = pattern.replace("MM", "M", 1) if "MMM" not in pattern else pattern
    if "MMM" in pattern:
        pattern = _month_letters([pair[0] for pair in numbers]) + pattern.lstrip("M")
    yield Reading(pattern, days)


def _date_ways(texts: Sequence[str], newest: int) -> list[Reading]:
    matches = {text: found for text in texts if (found := _match(text))}
    first = matches[texts[0]]
    if first["a"][0].isalpha():
        orders: tuple[str, ...] = ("mdy",)
    elif first["b"][0].isalpha():
        orders = ("dmy",) if len(first["a"]) < 3 else ("ymd",)
    elif len(first["a"]) == 4:
        orders = ("ymd", "ydm")
    else:
        orders = ("dmy", "mdy")
    ways = [way for order in orders if (way := _in_order(order, matches, newest))]
    # Year, day, month is no notation in use, and nor is a year of two digits at the start where it
    # can stand at the end.
    if len(first["a"]) == 4:
        return ways[:1]
    if not ways and len(first["a"]) == len(first["c"]) == 2 and not first["b"][0].isalpha():
        ways = [way for order in ("ymd",) if (way := _in_order(order, matches, newest))]
    if len(ways) == 2 and ways[0].days == ways[1].days:
        return ways[:1]
    return ways


def _in_order(order: str, matches: Mapping[str, re.Match[str]], newest: int) -> Reading | None:
    days: dict[str, date] = {}
    parts: dict[str, list[str]] = {"y": [], "m": [], "d": []}
    for text, found in matches.items():
        by_name = dict(zip(order, (found["a"], found["b"], found["c"]), strict=True))
        for name, part in by_name.items():
            parts[name].append(part)
        month = _month(by_name["m"]) or 0 if by_name["m"][0].isalpha() else int(by_name["m"])
        year = int(by_name["y"]) + (2000 if len(by_name["y"]) == 2 else 0)
        day = _day(year, month, int(by_name["d"]))
        if day is None or not _is_plausible(day, newest) or not _is_time(found):
            return None
        days[text] = day
    if len({len(year) for year in parts["y"]}) != 1:
        return None
    # Who leaves out the zero of a month leaves it out of days, too, if not in this file.
    is_short = any(len(part) == 1 for part in (*parts["m"], *parts["d"]))
    letters = {
        "y": "y" * len(parts["y"][0]),
        "m": "M" if is_short and parts["m"][0][0].isdigit() else _month_letters(parts["m"]),
        "d": "d" if is_short else "dd",
    }
    sample = list(matches.values())
    one, two = sample[0]["one"], sample[0]["two"]
    pattern = f"{letters[order[0]]}{one}{letters[order[1]]}{two}{letters[order[2]]}"
    return Reading(pattern + _time_pattern(sample), days)


def _month_letters(parts: Sequence[str]) -> str:
    if parts[0][0].isalpha():
        return "MMMM" if any(len(part.rstrip(".")) > 3 for part in parts) else "MMM"
    return "M" if any(len(part) == 1 for part in parts) else "MM"


def _time_pattern(matches: Sequence[re.Match[str]]) -> str:
    pattern = ""
    first = matches[0]
    if first["hour"] is not None:
        letter = "h" if first["half"] else "H"
        is_short = any(len(found["hour"]) == 1 for found in matches)
        gap = first["gap"].replace("T", "'T'")
        pattern = f"{gap}{letter if is_short else letter * 2}:mm"
        pattern += ":ss" if first["second"] else ""
        pattern += "[.SSSSSSSSS]" if any(found["fraction"] for found in matches) else ""
        if first["half"]:
            pattern += " a" if first["half"].startswith(" ") else "a"
    zone = first["zone"]
    if zone:
        blank = " " if zone.startswith(" ") else ""
        if _is_zone_name(zone):
            pattern += f"{blank}z"
        elif zone.strip() in ("UTC", "GMT"):
            pattern += f"{blank}'{zone.strip()}'"
        else:
            is_long = any(":" in found["zone"] or "Z" in found["zone"] for found in matches)
            is_short = all(len(found["zone"].strip()) == 3 for found in matches)
            pattern += blank + ("X" if is_short else "XXX" if is_long else "XX")
    return pattern


def _is_time(found: re.Match[str]) -> bool:
    if found["hour"] is None:
        return True
    hour = int(found["hour"])
    latest = 12 if found["half"] else 23
    return hour <= latest and int(found["minute"]) < 60


def _day(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


def _is_plausible(day: date, newest: int) -> bool:
    # A default such as 1900-01-01 or 9999-12-31 is a date all the same: the pipeline sets it aside.
    return 1800 <= day.year <= newest or day.year in (9999, 2099)
