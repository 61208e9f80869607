"""Arithmetic on yyyymm."""

from __future__ import annotations


def month_index(yyyymm: int) -> int:
    """Months since the year 0, so that a difference is a number of months."""
    return yyyymm // 100 * 12 + yyyymm % 100 - 1


def from_index(index: int) -> int:
    """The inverse of month_index."""
    return index // 12 * 100 + index % 12 + 1


def add_months(yyyymm: int, months: int) -> int:
    """The month that lies the given number of months later, or earlier if it is negative."""
    return from_index(month_index(yyyymm) + months)
