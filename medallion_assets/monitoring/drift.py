"""Whether a month's demand looks like its past, season taken out: the figures of each month, and the verdict on each figure.

Verdicts are pure functions of the figures through their month. What is started because of drift lies in sensors.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyspark.sql import functions as F
from scipy.stats import median_abs_deviation

from medallion_assets.partitions import add_months, month_range

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from resources.settings import Settings

MONTHS_A_YEAR = 12
A_YEAR = 100  # yyyymm - 100 is the same month of the year before


@dataclass(frozen=True)
class Figure:
    """A figure that is watched. ``min_scale`` keeps a calm past from turning every wobble into drift.

    Figures are compared by their logarithm, so ``min_scale`` is a relative change, except where ``is_share``: there it is a share.
    A figure that ``is_yearly`` is a comparison with the years before already, and is held against its own past.
    """

    name: str
    min_scale: float
    is_share: bool = False
    is_yearly: bool = False


FIGURES = (
    Figure("total_demand_qty", 0.05),
    Figure("like_for_like_ratio", 0.02, is_yearly=True),
    Figure("active_part_count", 0.03),
    Figure("zero_share", 0.01, is_share=True),
    Figure("mean_unit_price", 0.05),
    Figure("order_count", 0.05),
    Figure("customer_count", 0.05),
)
MIX = Figure("region_mix", 0.03, is_share=True)


def monthly_figures(monthly_demand: DataFrame) -> DataFrame:
    """One row per complete month, from silver.monthly_demand, in order.

    yyyymm; total_demand_qty, units; like_for_like_ratio, the median over parts of demand over the geometric mean of their demand in the
    same month of the last two years (of one, where there is no other): a few large parts can't move it; active_part_count, parts with
    demand; zero_share, share of parts without; mean_unit_price, revenue / demand; order_count and customer_count, summed over parts
    (an order of three parts counts three times); region_demand_qty, a map from region to the units of parts whose main region it is.
    Sums are taken over decimals: the same rows give the same bits, however they are partitioned.
    """
    complete = monthly_demand.where("is_complete")
    by_region = complete.where(F.col("region").isNotNull() & (F.col("demand_qty") > 0)).groupBy("yyyymm", "region")
    region_mix = (
        by_region.agg(_exact_sum("demand_qty").cast("double").alias("region_qty"))
        .groupBy("yyyymm")
        .agg(F.map_from_arrays(F.collect_list("region"), F.collect_list("region_qty")).alias("region_demand_qty"))
    )
    figures = complete.groupBy("yyyymm").agg(
        _exact_sum("demand_qty").cast("double").alias("total_demand_qty"),
        F.count_if(F.col("demand_qty") > 0).alias("active_part_count"),
        (F.count_if(F.col("demand_qty") == 0) / F.count("*")).alias("zero_share"),
        F.try_divide(_exact_sum("revenue").cast("double"), _exact_sum("demand_qty").cast("double")).alias("mean_unit_price"),
        F.sum("order_count").alias("order_count"),
        F.sum("customer_count").alias("customer_count"),
    )
    return figures.join(_like_for_like(complete), "yyyymm", "left").join(region_mix, "yyyymm", "left").orderBy("yyyymm")


def demand_drift(figures: pd.DataFrame, months: Sequence[int], settings: Settings) -> list[dict[str, Any]]:
    """Rows of gold.demand_drift for ``months``: one per month and figure, in that order; months without figures give none.

    figures: one row per complete month as ``monthly_figures`` makes them. Only rows through a month decide on it, so that a past month
    computed again gets the same verdict. With two years of history a figure is compared with the same month of the year before, moved
    by the usual yearly change: z = (change - median of past changes) / scale, scale = 1.4826 * their median absolute deviation, widened for
    the uncertainty of a median of n values and never below the figure's ``min_scale``. With less it is compared with the 12 months before.
    The regional mix is compared by its distance to the mix of the year before, like_for_like_ratio with its own past.
    """
    by_month: dict[int, Mapping[str, Any]] = {
        int(month): dict(zip(figures.columns, values, strict=True))
        for month, values in zip(figures["yyyymm"], figures.itertuples(index=False), strict=True)
    }
    watched = settings.monitoring
    rows: list[dict[str, Any]] = []
    for month in sorted(set(months) & set(by_month)):
        known = {m: row for m, row in by_month.items() if m <= month}
        for figure in (*FIGURES, MIX):
            row: dict[str, Any] = {"yyyymm": month, "feature": figure.name, "value": None, "expected": None, "statistic": None}
            row |= {"threshold": watched.drift_threshold, "history_months": len(known) - 1, "is_drift": False}
            if len(known) - 1 < watched.drift_min_history:
                value = _value(known[month], figure)
                row |= {"value": value, "reason": f"not enough history: {len(known) - 1} months of {watched.drift_min_history}"}
            else:
                comparison = _mix_comparison(known, month) if figure is MIX else _comparison(known, month, figure)
                row |= _verdict(comparison, month, figure, watched.drift_threshold)
            rows.append(row)
    return rows


@dataclass(frozen=True)
class _Comparison:
    """A figure beside what the past lets expect; ``basis`` says which past."""

    value: float
    expected: float
    statistic: float
    basis: str


def _like_for_like(complete: DataFrame) -> DataFrame:
    """yyyymm and like_for_like_ratio, over the parts with demand in the month and in the same month a year before."""
    sold = complete.where(F.col("demand_qty") > 0).select("part_number", "yyyymm", F.ln("demand_qty").alias("log_qty"))
    one, two = (
        sold.select("part_number", (F.col("yyyymm") + years * A_YEAR).alias("yyyymm"), F.col("log_qty").alias(f"log_qty_{years}"))
        for years in (1, 2)
    )
    past = F.coalesce((F.col("log_qty_1") + F.col("log_qty_2")) / 2, F.col("log_qty_1"))
    compared = sold.join(one, ["part_number", "yyyymm"]).join(two, ["part_number", "yyyymm"], "left")
    return compared.groupBy("yyyymm").agg(F.exp(F.median(F.col("log_qty") - past)).alias("like_for_like_ratio"))


def _exact_sum(column: str) -> Column:
    """Sum whose result does not depend on the order of the rows, as doubles' would."""
    return F.sum(F.col(column).cast("decimal(38,6)"))


def _value(row: Mapping[str, Any], figure: Figure) -> float | None:
    value = row.get(figure.name)
    return None if value is None or not np.isfinite(value) else float(value)


def _comparable(row: Mapping[str, Any] | None, figure: Figure) -> float | None:
    """The figure as it is compared: a share as it is, anything else as its logarithm; None where there is none."""
    value = None if row is None else _value(row, figure)
    if value is None or figure.is_share:
        return value
    return float(np.log(value)) if value > 0 else None


def _comparison(known: Mapping[int, Mapping[str, Any]], month: int, figure: Figure) -> _Comparison | None:
    compared = {m: x for m in known if (x := _comparable(known[m], figure)) is not None}
    if month not in compared:
        return None
    year_before = add_months(month, -MONTHS_A_YEAR)
    past = [x for m, x in compared.items() if m < month]
    changes = [x - compared[before] for m, x in compared.items() if m < month and (before := add_months(m, -MONTHS_A_YEAR)) in compared]
    trailing = [compared[m] for m in month_range(year_before, add_months(month, -1)) if m in compared]
    if figure.is_yearly and len(past) >= MONTHS_A_YEAR:
        expected, scale, basis = float(np.median(past)), _scale(past, figure.min_scale), "the months before"
    elif not figure.is_yearly and year_before in compared and len(changes) >= MONTHS_A_YEAR:
        expected, scale = compared[year_before] + float(np.median(changes)), _scale(changes, figure.min_scale)
        basis = f"{year_before} and the usual yearly change"
    elif not figure.is_yearly and len(trailing) >= MONTHS_A_YEAR // 2:
        expected, scale, basis = float(np.median(trailing)), _scale(trailing, figure.min_scale), "the 12 months before"
    else:
        return None
    value, expected_value = (x if figure.is_share else float(np.exp(x)) for x in (compared[month], expected))
    return _Comparison(value, expected_value, (compared[month] - expected) / scale, basis)


def _mix_comparison(known: Mapping[int, Mapping[str, Any]], month: int) -> _Comparison | None:
    """The distance between two months' regional shares, against how far apart such months used to be."""
    mixes = {m: mix for m in known if (mix := _mix(known[m])) is not None}
    if month not in mixes:
        return None
    year_before = add_months(month, -MONTHS_A_YEAR)
    past = [_distance(mix, mixes[before]) for m, mix in mixes.items() if m < month and (before := add_months(m, -MONTHS_A_YEAR)) in mixes]
    if year_before in mixes and len(past) >= MONTHS_A_YEAR:
        distance, basis = _distance(mixes[month], mixes[year_before]), f"{year_before} and the usual distance over a year"
    else:
        trailing = [mixes[m] for m in month_range(year_before, add_months(month, -1)) if m in mixes]
        if len(trailing) < MONTHS_A_YEAR // 2:
            return None
        regions = sorted({region for mix in trailing for region in mix})
        mean_mix = {region: sum(mix.get(region, 0.0) for mix in trailing) / len(trailing) for region in regions}
        past = [_distance(mix, mean_mix) for mix in trailing]
        distance, basis = _distance(mixes[month], mean_mix), "the mean of the 12 months before"
    expected = float(np.median(past))
    # A mix that is closer to the past than usual is no drift.
    statistic = max(0.0, (distance - expected) / _scale(past, MIX.min_scale))
    return _Comparison(distance, expected, statistic, basis)


def _mix(row: Mapping[str, Any]) -> dict[str, float] | None:
    """Share of each region; None for a month without regions."""
    demand = row.get("region_demand_qty")
    if not isinstance(demand, Mapping) or not (total := sum(demand[region] for region in sorted(demand))):
        return None
    return {region: demand[region] / total for region in sorted(demand)}


def _distance(mix: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Total variation distance: the share of demand that would have to change region."""
    return sum(abs(mix.get(region, 0.0) - other.get(region, 0.0)) for region in sorted({*mix, *other})) / 2


def _scale(past: Sequence[float], min_scale: float) -> float:
    # pi / 2 / n is the variance of a median of n normal values, in units of theirs.
    spread = float(median_abs_deviation(past, scale="normal")) * float(np.sqrt(1 + np.pi / 2 / len(past)))
    return max(spread, min_scale)


def _verdict(comparison: _Comparison | None, month: int, figure: Figure, threshold: float) -> dict[str, Any]:
    if comparison is None:
        return {"reason": f"nothing to compare: {figure.name} of {month}, or too many of the months it is compared with, are unknown"}
    is_drift = abs(comparison.statistic) >= threshold
    verdict = "drift" if is_drift else "no drift"
    reason = (
        f"{verdict}: {figure.name} of {month} is {comparison.value:,.4g}, {comparison.expected:,.4g} was expected from {comparison.basis}"
        f" (robust z {comparison.statistic:+.1f}, drift from {threshold:g})"
    )
    return {
        "value": comparison.value,
        "expected": comparison.expected,
        "statistic": comparison.statistic,
        "is_drift": is_drift,
        "reason": reason,
    }
