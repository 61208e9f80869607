"""What columns mean: the canonical column that each looks like, by its name in several languages
and by its values; signs of cancellations and refunds, types of line, units.

Pure: a table in, facts and questions out. What a configuration makes of them belongs to
proposing.py.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from medallion_assets.operations.inspection.dates import DateNotation, date_notation
from medallion_assets.operations.inspection.numbers import (
    NumberNotation,
    is_number,
    value_of,
)

DATE_SHARE = 0.8
NUMBER_SHARE = 0.8
# Notations of dates by digits alone that hardly any other numbers fit: all of them would have to.
SURE_NUMBERS = ("yyyyMMdd", "epoch_milliseconds")
MISSING_WORDS = frozenset(
    (
        "na",
        "#n/a",
        "#na",
        "#nv",
        "-",
        "--",
        "?",
        "k.a.",
        "n.v.",
        "n/v",
        "(blank)",
        "(leer)",
        "(vide)",
        "none",
        "null",
        "nil",
        "nan",
        "n/a",
        "<na>",
        "unknown",
        "unbekannt",
        "#ref!",
        "#value!",
        r"\n",
    )
)

_WORDS = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
# Names of a canonical column, as `folded` writes them, the surest first.
NAMES: Mapping[str, tuple[str, ...]] = {
    canonical: tuple(text.split()) for canonical, text in _WORDS["names"].items()
}
AGAINST = {canonical: frozenset(text.split()) for canonical, text in _WORDS["against"].items()}
LINE_TOTALS = frozenset(_WORDS["line_totals"].split())
TYPE_WORDS = {kind: frozenset(text.split()) for kind, text in _WORDS["types"].items()}
SERVICE_WORDS = re.compile(
    r"^(post|postage|dot|dotcom|shipping|ship|freight|fracht|versand|versandkosten|porto|fee|fees|"
    r"m|manual|d|discount|rabatt|gutschein|voucher|gift.*|bank charges?|amazonfee|cruk|c2|s|"
    r"samples?|adjust\w*|test\w*|pads|handling|service|deposit|tax|vat|mwst|tip|donation|"
    r"livraison|port|remise|envio|gastos|descuento|spedizione|trasporto|sconto|b)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Column:
    """A column of a table as its values show it. ``kind``: date, month, integer, number, text or
    empty; ``counts`` are its distinct texts by how often they stand there, trimmed, missing ones
    left out.
    """

    name: str
    kind: str
    counts: Mapping[str, int]
    line_count: int
    missing_words: tuple[str, ...]
    dates: DateNotation
    is_typed: bool = False

    @property
    def filled(self) -> int:
        return sum(self.counts.values())

    @property
    def missing_share(self) -> float:
        return 1 - self.filled / self.line_count if self.line_count else 0.0

    @property
    def examples(self) -> list[str]:
        """Up to three texts: a common one, the shortest and the longest."""
        if not self.counts:
            return []
        common = next(iter(self.counts))
        by_length = sorted(self.counts, key=lambda text: (len(text), text))
        return list(dict.fromkeys([common, by_length[-1], by_length[0]]))[:3]


@dataclass(frozen=True)
class Match:
    """A column that looks like a canonical one. ``is_named``: its name says so; otherwise only its
    values do.
    """

    column: str
    score: float
    is_named: bool


@dataclass(frozen=True)
class Meaning:
    """What the columns of a table look like. ``chosen`` by canonical column, ``others`` which came
    close, ``line_total``: a column of price times quantity, which is no price of a unit.
    """

    chosen: Mapping[str, Match]
    others: Mapping[str, tuple[Match, ...]]
    line_total: str | None = None
    date_parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signs:
    """Signs of what is no plain sale: negative quantities, a marker of order numbers that only
    negative lines have, words of a type column, part numbers that are no products.
    """

    negative_lines: int = 0
    zero_lines: int = 0
    marker: str = ""
    marked_lines: int = 0
    marked_example: str = ""
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    doubtful_types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    positive_refunds: int = 0
    product_pattern: str = ""
    no_products: tuple[tuple[str, int], ...] = ()
    prices_not_positive: int = 0
    several_units: Mapping[str, int] = field(default_factory=dict)
    mixed_parts: int = 0
    largest_quantity: tuple[str, float, float] | None = None


def folded(name: str) -> str:
    """A name without case, accents, blanks and signs."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).replace("ł", "l")
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def words(name: str) -> list[str]:
    """The words of a name: at signs, blanks and capital letters."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [folded(word) for word in re.split(r"[^\w]|_", parted) if folded(word)]


def described(name: str, values: pd.Series, today: date, is_typed: bool, is_excel: bool) -> Column:
    """A column from its texts."""
    counted: Counter[str] = Counter()
    for text, count in values.value_counts().items():
        counted[str(text).strip()] += int(count)
    del counted[""]
    missing_words = tuple(text for text in counted if text.lower() in MISSING_WORDS)
    counts = {text: n for text, n in counted.most_common() if text not in missing_words}
    texts = list(counts)
    filled = sum(counts.values())
    name_says_date = named_score(name, "order_date") > 0
    dates = date_notation(texts, today, name_says_date, is_excel)
    if not dates.readings and not any(named_score(name, other) for other in NAMES):
        dates = _dates_of_numbers(texts, today) or dates
    read = filled - sum(counts[text] for text in dates.unread)
    numbers = [text for text in texts if is_number(text)]
    if not filled:
        kind = "empty"
    elif dates.readings and read >= DATE_SHARE * filled:
        kind = "month" if dates.is_monthly else "date"
    elif sum(counts[text] for text in numbers) >= NUMBER_SHARE * filled:
        is_whole = all(re.fullmatch(r"[(+-]?\d+[)-]?", text) for text in numbers)
        kind = "integer" if is_whole else "number"
    else:
        kind = "text"
    return Column(name, kind, counts, len(values), missing_words, dates, is_typed)


def _dates_of_numbers(texts: Sequence[str], today: date) -> DateNotation | None:
    """The notation of whole numbers that nothing but a date explains: all are days written without
    signs, or milliseconds; None for any others.
    """
    if len(texts) < 2 or not all(text.isascii() and text.isdigit() for text in texts):
        return None
    found = date_notation(texts, today, with_numbers=True)
    is_sure = len(found.patterns) == 1 and found.patterns[0].startswith(SURE_NUMBERS)
    is_recent = all(1990 <= day.year <= today.year + 1 for day in found.days.values())
    return found if is_sure and is_recent and not found.unread else None


def named_score(name: str, canonical: str) -> float:
    """How surely a column's name says what it is: from 0 (not at all) to 1."""
    known = NAMES[canonical]
    plain = folded(name)
    parts = words(name)
    if plain in known:
        return 1.0 - 0.3 * known.index(plain) / len(known)
    if AGAINST[canonical] & set(parts):
        return 0.0
    pairs = {"".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
    inside = [known.index(pair) for pair in pairs if pair in known and len(pair) > 1]
    if inside:
        return 0.65 - 0.2 * min(inside) / len(known)
    compounds = [
        position
        for position, word in enumerate(known)
        if len(word) >= 5 and (plain.startswith(word) or plain.endswith(word))
    ]
    return 0.5 - 0.2 * min(compounds) / len(known) if compounds else 0.0


def _fits(column: Column, canonical: str) -> bool:
    """Whether the values can be what the name says."""
    if column.kind == "empty":
        return False
    if canonical == "order_date":
        return column.kind in ("date", "month")
    if canonical in ("quantity", "unit_price"):
        return column.kind in ("integer", "number")
    if canonical == "line_type":
        return column.kind == "text" and len(column.counts) <= 30 and _type_share(column) > 0
    if canonical == "unit":
        return column.kind == "text" and len(column.counts) <= 50
    if canonical == "order_id" and folded(column.name) == "name":
        # Shops call the order number so; others the customer or the article.
        return all(re.fullmatch(r"#?[A-Za-z-]*\d+", text) for text in column.counts)
    return column.kind not in ("date", "month")


def _type_share(column: Column) -> float:
    kinds = {text: type_of(text) for text in column.counts}
    if not set(kinds.values()) & {"refund", "cancellation", "ignore"}:
        return 0.0
    told = sum(count for text, count in column.counts.items() if kinds[text])
    return told / max(1, column.filled)


def meaning(columns: Sequence[Column]) -> Meaning:
    """Which column is which: by names where they speak and values agree, else by values."""
    by_name = {column.name: column for column in columns}
    scored = sorted(
        (
            (named_score(column.name, canonical), canonical, column.name)
            for column in columns
            for canonical in NAMES
            if _fits(column, canonical)
        ),
        key=lambda entry: -entry[0],
    )
    chosen: dict[str, Match] = {}
    taken: set[str] = set()
    for score, canonical, name in scored:
        if score > 0 and canonical not in chosen and name not in taken:
            chosen[canonical] = Match(name, score, True)
            taken.add(name)
    others: dict[str, tuple[Match, ...]] = dict.fromkeys(NAMES, ())
    for score, canonical, name in scored:
        if score >= 0.3 and name not in taken:
            others[canonical] += (Match(name, score, True),)
    line_total = next(
        (
            c.name
            for c in columns
            if folded(c.name) in LINE_TOTALS and c.kind in ("integer", "number")
        ),
        None,
    )
    if "line_type" in chosen and _type_share(by_name[chosen["line_type"].column]) < 0.2:
        taken.discard(chosen.pop("line_type").column)
    free = [column for column in columns if column.name not in taken and column.name != line_total]
    date_parts = () if "order_date" in chosen else _date_parts(columns)
    for canonical, candidates in _by_values(chosen, free, bool(date_parts)).items():
        if len(candidates) == 1:
            chosen[canonical] = Match(candidates[0], 0.0, False)
        others[canonical] = tuple(Match(name, 0.0, False) for name in candidates)
    return Meaning(chosen, others, line_total, date_parts)


def _date_parts(columns: Sequence[Column]) -> tuple[str, ...]:
    """Columns of year, month and perhaps day that make a date together."""
    parts: list[str] = []
    for known in (
        ("year", "jahr", "annee", "ano", "anno", "jaar", "rok"),
        ("month", "monat", "mois", "mes", "mese", "maand", "miesiac"),
        ("day", "tag", "jour", "dia", "giorno", "dag", "dzien"),
    ):
        found = [c.name for c in columns if folded(c.name) in known and c.kind == "integer"]
        if not found:
            break
        parts.append(found[0])
    return tuple(parts) if len(parts) > 1 else ()


def _by_values(
    chosen: Mapping[str, Match], free: Sequence[Column], has_date_parts: bool
) -> dict[str, list[str]]:
    """For what no name tells, the columns whose values could be it."""
    found: dict[str, list[str]] = {}
    left = list(free)

    def take(canonical: str, candidates: Iterable[Column]) -> None:
        nonlocal left
        if canonical in chosen:
            return
        names = [column.name for column in candidates]
        found[canonical] = names
        left = [column for column in left if column.name not in names]

    if not has_date_parts:
        take("order_date", [c for c in left if c.kind in ("date", "month")])
    take(
        "line_type",
        [c for c in left if c.kind == "text" and len(c.counts) <= 20 and _type_share(c) > 0.8],
    )
    take(
        "part_number",
        [
            c
            for c in left
            if c.kind in ("text", "integer") and 1 - c.missing_share > 0.5 and _looks_like_code(c)
        ],
    )
    take("quantity", [c for c in left if c.kind in ("integer", "number")])
    return found


def _looks_like_code(column: Column) -> bool:
    """Short texts with digits in most of them, and no numbers to count with."""
    with_digit = sum(n for text, n in column.counts.items() if re.search(r"\d", text))
    lengths = [len(text) for text in column.counts]
    is_code = with_digit >= 0.8 * column.filled and max(lengths) <= 40
    if column.kind == "integer":
        return is_code and min(lengths) >= 4 and len(column.counts) < column.filled
    return is_code


def signs_of(
    rows: pd.DataFrame,
    columns: Mapping[str, Column],
    chosen: Mapping[str, str],
    numbers: NumberNotation,
) -> Signs:
    """Signs of cancellations, refunds, fees and units in the lines."""
    quantity = _numbers(rows, chosen.get("quantity"), numbers)
    price = _numbers(rows, chosen.get("unit_price"), numbers)
    negative = quantity < 0
    marker, marked, example = _marker(_texts(rows, chosen.get("order_id")), quantity)
    types, doubtful, positive_refunds = _types(rows, columns, chosen, quantity)
    pattern, no_products = _products(columns.get(chosen.get("part_number", "")))
    units = columns[chosen["unit"]].counts if "unit" in chosen else {}
    return Signs(
        negative_lines=int(negative.sum()),
        zero_lines=int((quantity == 0).sum()),
        marker=marker,
        marked_lines=marked,
        marked_example=example,
        types=types,
        doubtful_types=doubtful,
        positive_refunds=positive_refunds,
        product_pattern=pattern,
        no_products=no_products,
        prices_not_positive=int(((price <= 0) & (quantity > 0)).sum()),
        several_units=units if len(units) > 1 else {},
        mixed_parts=mixed_parts(rows),
        largest_quantity=_largest(rows, chosen, quantity),
    )


def _texts(rows: pd.DataFrame, name: str | None) -> pd.Series:
    if name is None or name not in rows:
        return pd.Series([""] * len(rows), index=rows.index, dtype="object")
    codes, texts = pd.factorize(rows[name])
    trimmed = np.array([*(str(text).strip() for text in texts), ""], dtype="object")
    return pd.Series(trimmed[codes], index=rows.index, dtype="object")


def _numbers(rows: pd.DataFrame, name: str | None, notation: NumberNotation) -> pd.Series:
    codes, texts = pd.factorize(_texts(rows, name))
    values = [value_of(text, notation) for text in texts]
    known = np.array([np.nan if value is None else value for value in values], dtype="float64")
    return pd.Series(known[codes] if len(known) else [], index=rows.index, dtype="float64")


def _marker(orders: pd.Series, quantity: pd.Series) -> tuple[str, int, str]:
    """The letters before order numbers that negative lines have and others don't, where the rest is
    like an ordinary order number; how many lines, and one of them.
    """
    negative = orders[(quantity < 0) & (orders != "")]
    positive = orders[(quantity > 0) & (orders != "")]
    if negative.empty or positive.empty:
        return "", 0, ""
    ordinary = {_form(text) for text in positive.unique()}
    found: Counter[str] = Counter()
    for text in negative:
        for length in range(1, min(len(text), 8)):
            head, rest = text[:length], text[length:]
            if head[-1].isdigit():
                break
            if _form(rest) in ordinary:
                found[head] += 1
                break
    for head, count in found.most_common():
        with_head = int(positive.str.startswith(head).sum())
        if (with_head <= 0.02 * count and count >= 2) or (with_head == 0 and len(orders) < 100):
            example = str(negative[negative.str.startswith(head)].iloc[0])
            return head, count, example
    return "", 0, ""


def _form(text: str) -> str:
    return re.sub(r"[A-Za-z]+", "a", re.sub(r"\d+", "9", text))


def _types(
    rows: pd.DataFrame,
    columns: Mapping[str, Column],
    chosen: Mapping[str, str],
    quantity: pd.Series,
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]], int]:
    """Values of the type column by kind, those that a person has to sort, by the reason why, and
    how many lines of refunds have a positive quantity.
    """
    if "line_type" not in chosen:
        return {}, {}, 0
    column = columns[chosen["line_type"]]
    types: dict[str, list[str]] = {}
    doubtful: dict[str, list[str]] = {}
    texts, orders = _texts(rows, chosen["line_type"]), _texts(rows, chosen.get("order_id"))
    sold = set(orders[texts.map(type_of) == "sale"]) - {""}
    for text in column.counts:
        kind = type_of(text)
        if is_status(column.name):
            if kind == "cancellation":
                # An order that was cancelled is no line that takes another back.
                kind = "ignore"
            elif kind == "refund" and not set(orders[texts == text]) & sold:
                doubtful.setdefault("refunded", []).append(text)
                continue
        if kind:
            types.setdefault(kind, []).append(text)
        else:
            doubtful.setdefault("unknown", []).append(text)
    untyped = set(orders[texts == ""])
    if untyped and untyped <= sold:
        types.setdefault("sale", []).append("")
    elif (texts == "").any():
        doubtful["missing"] = [""]
    refunds = [*types.get("refund", ()), *types.get("cancellation", ())]
    positive = int((texts.isin(refunds) & (quantity > 0)).sum())
    return (
        {kind: tuple(found) for kind, found in types.items()},
        {why: tuple(found) for why, found in doubtful.items()},
        positive,
    )


def is_status(name: str) -> bool:
    """Whether a column tells what became of an order, and not what a line is."""
    return bool({"status", "state", "statut", "estado", "stato"} & set(words(name)))


def type_of(text: str) -> str:
    """The kind of line that a word of a type column means; empty where it is not known."""
    whole = [kind for kind, known in TYPE_WORDS.items() if folded(text) in known]
    if whole:
        return whole[0]
    parts = set(words(text))
    found = [kind for kind, known in TYPE_WORDS.items() if parts & known]
    others = [kind for kind in found if kind != "sale"]
    if len(others) > 1:
        return ""
    return next(iter(others or found), "")


def _products(column: Column | None) -> tuple[str, tuple[tuple[str, int], ...]]:
    """A pattern of product codes, where nearly all begin alike and the others hold words of
    services; and those others.
    """
    if column is None or column.filled < 50:
        return "", ()
    lines: Counter[str] = Counter()
    for text, count in column.counts.items():
        digits = re.match(r"\d{4,}", text)
        lines[f"^[0-9]{{{len(digits.group())}}}" if digits else ""] += count
    # Longer numbers begin with as many digits as shorter ones have.
    pattern, _ = max(
        ((p, n) for p, n in lines.items() if p), key=lambda entry: entry[1], default=("", 0)
    )
    if not pattern:
        return "", ()
    outside = {t: n for t, n in column.counts.items() if not re.match(pattern, t)}
    is_rare = 0 < sum(outside.values()) <= 0.03 * column.filled
    if is_rare and sum(1 for text in outside if SERVICE_WORDS.match(text)) >= 2:
        return pattern, tuple(sorted(outside.items(), key=lambda entry: -entry[1]))
    return "", ()


def mixed_parts(rows: pd.DataFrame) -> int:
    """Parts that are counted in more than one unit. rows: part_number and unit as text."""
    if not {"unit", "part_number"} <= set(rows.columns):
        return 0
    pairs = pd.DataFrame({"part": _texts(rows, "part_number"), "unit": _texts(rows, "unit")})
    pairs = pairs[(pairs["part"] != "") & (pairs["unit"] != "")].drop_duplicates()
    return int((pairs["part"].value_counts() > 1).sum())


def _largest(
    rows: pd.DataFrame, chosen: Mapping[str, str], quantity: pd.Series
) -> tuple[str, float, float] | None:
    """Part and size of the largest quantity that no line takes back, and the median, where it is a
    thousand times that.
    """
    taken_back = set(-quantity[quantity < 0])
    positive = quantity[(quantity > 0) & ~quantity.isin(taken_back)]
    if len(positive) < 10:
        return None
    at, median = positive.idxmax(), float(quantity[quantity > 0].median())
    if positive[at] < 1000 * median:
        return None
    return str(_texts(rows, chosen.get("part_number"))[at]), float(positive[at]), median
