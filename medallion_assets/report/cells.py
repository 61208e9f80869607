"""Cells and tables of the page: numbers as text, what sorts them, and what makes one stand out."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup

BIAS_LIMIT, COVERAGE_LIMITS = 0.2, (0.7, 0.95)


class Cell(NamedTuple):
    """Text of a table's cell, what it is sorted by, and why it stands out, if it does."""

    text: str
    order: float | str
    is_number: bool = True
    mark: str = ""


class Table(NamedTuple):
    """A table of the page."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def sparkline(
    history: Sequence[float], expected: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> Markup:
    """Demand and the forecast after it as a small inline SVG, with a text for who can't see it;
    units, a month apart.
    """
    width, height, edge = 180, 40, 3
    count = len(history) + len(expected)
    top = max([*history, *expected, *high, 1e-9])

    def points(values: Sequence[float], start: int) -> str:
        step = (width - 2 * edge) / max(count - 1, 1)
        return " ".join(
            f"{edge + (start + i) * step:.1f},{height - edge - v / top * (height - 2 * edge):.1f}"
            for i, v in enumerate(values)
        )

    ahead = len(history)
    joined = (
        ([history[-1], *expected], ahead - 1) if history and expected else (list(expected), ahead)
    )
    band = f"{points(high, ahead)} {' '.join(reversed(points(low, ahead).split()))}"
    told = f"demand of {len(history)} months" + (
        f", the last {qty(history[-1])}" if history else ""
    )
    told += f"; forecast {', '.join(map(qty, expected))}" if expected else "; no forecast"
    return Markup(  # noqa: S704 - numbers only
        f'<svg class="spark" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img"'
        f' aria-label="{told}"><polygon class="band" points="{band}"/><polyline class="past"'
        f' points="{points(history, 0)}"/><polyline class="ahead"'
        f' points="{points(*joined)}"/></svg>'
    )


def qty(value: float | None) -> str:
    """Units, or another amount, with as many digits as a reader needs."""
    if value is None or not math.isfinite(value):
        return "–"
    value = value or 0.0  # a zero with a sign is a zero
    return (
        f"{value:,.0f}"
        if abs(value) >= 100 or value == 0
        else f"{value:,.1f}"
        if abs(value) >= 1
        else f"{value:,.2f}"
    )


def month_name(yyyymm: int) -> str:
    """2011-11 for 201111."""
    return f"{int(yyyymm) // 100}-{int(yyyymm) % 100:02}"


def image(title: str, svg: str) -> tuple[str, str]:
    """Address of a picture, which is the picture itself, and its alternative text."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}", title


def is_known(value: Any) -> bool:
    """Whether a value is a finite number."""
    return value is not None and not pd.isna(value) and math.isfinite(value)


def number_cell(value: Any, text: Callable[[float], str], mark: str = "") -> Cell:
    """A number as a text function says it; a dash where it is not known."""
    return Cell(text(float(value)), float(value), True, mark) if is_known(value) else Cell("–", "")


def text_cell(value: Any) -> Cell:
    """A text; nothing where it is missing."""
    text = "" if value is None or pd.isna(value) else str(value)
    return Cell(text, text, False)


def month_cell(yyyymm: Any) -> Cell:
    """A month by name, sorted by time."""
    return Cell(month_name(yyyymm), float(yyyymm))


def qty_cell(value: Any, signed: bool = False) -> Cell:
    """Units; ``signed`` puts a plus before more than nothing."""
    return number_cell(value, lambda v: ("+" if signed and v > 0 else "") + qty(v))


def count_cell(value: Any) -> Cell:
    """A count."""
    return number_cell(value, lambda v: f"{v:,.0f}")


def ratio_cell(value: Any) -> Cell:
    """A ratio to three digits."""
    return number_cell(value, lambda v: f"{v:.3f}")


def pct_cell(value: Any, signed: bool = False) -> Cell:
    """A share as a percentage."""
    return number_cell(value, lambda v: percent(v, signed))


def bias_cell(value: Any) -> Cell:
    """A bias; marked beyond BIAS_LIMIT."""
    return number_cell(
        value, percent, "far too high or low" if is_known(value) and abs(value) > BIAS_LIMIT else ""
    )


def coverage_cell(value: Any) -> Cell:
    """The share of demand inside an interval; marked outside COVERAGE_LIMITS."""
    low, high = COVERAGE_LIMITS
    mark = (
        "interval too narrow"
        if is_known(value) and value < low
        else "interval too wide"
        if is_known(value) and value > high
        else ""
    )
    return number_cell(value, lambda v: percent(v, False), mark)


def value_cell(value: Any) -> Cell:
    """What was gained over the naive forecast; marked where it is a loss."""
    return number_cell(
        value, percent, "worse than the naive forecast" if is_known(value) and value < 0 else ""
    )


def more_or_less(share: float) -> str:
    """A share of change in words."""
    return f"{abs(share):.0%} {'less' if share < 0 else 'more'}"


def percent(value: float, signed: bool = True) -> str:
    """A share as text; a dash where it is not known."""
    return "–" if not is_known(value) else f"{value:+.0%}" if signed else f"{value:.0%}"
