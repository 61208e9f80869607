"""Quotients, sums and deviations that have the same bits on every engine, in whatever order rows
come.

Sums of doubles depend on their order, engines differ in what is left when a value leaves a window,
and sums of decimals cost ten times as much. So each value is split into whole multiples of BASE and
a rest that is counted in small units: two sums of integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column
    from pyspark.sql.window import WindowSpec

BASE = 1024.0
# What rounding leaves of the variance of equal values, as a share of their mean square.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Scale:
    """How values are split: ``resolution`` units make up 1, and a value beyond ``largest`` counts
    as ``largest``.

    18e18 / (BASE * resolution) rows fit into a sum of rests, 9e18 * BASE / largest rows of the
    largest value into one of multiples.
    """

    largest: float
    resolution: float


MANY_ROWS = Scale(largest=1e16, resolution=1e9)  # 18 million rows
FEW_ROWS = Scale(
    largest=1e20, resolution=1e12
)  # 18 thousand rows, 94 of the largest value: windows of months, and their squares


def ratio(numerator: Column | str, denominator: Column | str) -> Column:
    """The quotient of two numbers as a double; NULL where the denominator is 0 or either is
    NULL.
    """
    above, below = (
        F.col(side).cast("double") if isinstance(side, str) else side.cast("double")
        for side in (numerator, denominator)
    )
    # abs finds -0.0 too, which is not the same as 0.0 to every engine.
    return F.when(F.abs(below) > 0, above / below)


def split(name: str, value: Column, scale: Scale = MANY_ROWS) -> dict[str, Column]:
    """Columns <name>_whole and <name>_rest, BIGINT; NULL where the value is NULL. NaN counts as the
    largest value.
    """
    value, largest = value.cast("double"), F.lit(scale.largest)
    bounded = (
        F.when(F.isnan(value) | (value > largest), largest)
        .when(value < -largest, -largest)
        .otherwise(value)
    )
    # floor, because engines differ in where rint puts a half.
    whole = F.floor(bounded / BASE + 0.5)
    rest = F.floor((bounded - whole * BASE) * scale.resolution + 0.5)
    return {f"{name}_whole": whole.cast("bigint"), f"{name}_rest": rest.cast("bigint")}


def exact_sums(name: str, value: Column) -> list[Column]:
    """Two sums over a group that ``total`` puts together; NULL does not count, and the total is
    NULL where they overflow.
    """
    return [F.try_sum(half).alias(column) for column, half in split(name, value).items()]


def exact_sums_again(name: str) -> list[Column]:
    """Sums of such sums."""
    return [F.try_sum(f"{name}_{half}").alias(f"{name}_{half}") for half in ("whole", "rest")]


def total(name: str) -> Column:
    """The sum whose halves ``exact_sums`` gave, as a double."""
    return _joined(F.col(f"{name}_whole"), F.col(f"{name}_rest"), MANY_ROWS)


def joined(sums: pd.DataFrame, name: str) -> pd.Series:
    """The same as ``total`` of halves that left the engine, to the same bits."""
    whole, rest = (sums[f"{name}_{half}"].astype(float) for half in ("whole", "rest"))
    return whole * BASE + rest / MANY_ROWS.resolution


def total_over(name: str, window: WindowSpec, scale: Scale = MANY_ROWS) -> Column:
    """The sum over a window of the value that ``split`` split by the same scale, as a double; NULL
    where all values are.
    """
    return _joined(F.sum(f"{name}_whole").over(window), F.sum(f"{name}_rest").over(window), scale)


def deviation(squares: Column | str, values: Column | str, count: Column | str) -> Column:
    """Standard deviation of a population from totals of its squares and values; exactly 0 for equal
    values, NULL for none.
    """
    mean_square, mean = ratio(squares, count), ratio(values, count)
    variance = mean_square - mean * mean
    return F.when(variance > ROUNDING * mean_square, F.sqrt(variance)).when(
        mean.isNotNull(), F.lit(0.0)
    )


def _joined(whole: Column, rest: Column, scale: Scale) -> Column:
    return whole.cast("double") * BASE + rest.cast("double") / scale.resolution
