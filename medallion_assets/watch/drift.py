"""Whether a month looks like its past, season taken out: the figures of each month, and one test of
all of them together.

Verdicts are pure functions of the figures through their month. What follows from them lies in
retraining.py.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import functions as F

from medallion_assets.exact import exact_sums, ratio, total
from medallion_assets.partitions import add_months
from medallion_assets.served.accuracy import UNLABELLED_CLASS
from medallion_assets.tables import DEMAND_CLASSES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from resources.settings import Settings

Floats = NDArray[np.float64]
MONTHS_A_YEAR = 12
A_YEAR = 100  # yyyymm - 100 is the same month of the year before
SHARE_UNITS = 1e12  # that make up 1: shares are added up as whole numbers
# over which the bias of what was served is added up: one month's says little of a class
TRACKED_MONTHS = 3
DEMAND, FORECAST = "demand", "forecast"
WATCHED_CLASSES = tuple(
    name for name in DEMAND_CLASSES if name != "new"
)  # new parts have no year before


@dataclass(frozen=True)
class Figure:
    """A figure that is watched.

    ``min_change`` is the smallest spread that its past is believed to have: a calm past does not
    turn every wobble into drift. Figures are compared by their logarithm, so it is a relative
    change, except where ``is_share``: there it is a difference. A figure that ``is_yearly`` is a
    comparison with an earlier time already. Of one that is ``one_sided`` only more is drift.
    """

    name: str
    min_change: float
    family: str = DEMAND
    is_share: bool = False
    is_yearly: bool = False
    one_sided: bool = False


FIGURES = (
    Figure("total_demand_qty", 0.05),
    *(Figure(f"demand_qty:{name}", 0.05) for name in WATCHED_CLASSES),
    Figure("like_for_like_ratio", 0.02, is_yearly=True),
    Figure("active_part_count", 0.03),
    Figure("zero_share", 0.01, is_share=True),
    Figure("mean_unit_price", 0.05),
    Figure("like_for_like_price", 0.01, is_yearly=True),
    Figure("order_count", 0.05),
    Figure("customer_count", 0.05),
    Figure("region_mix", 0.03, is_share=True, is_yearly=True, one_sided=True),
    Figure("part_mix", 0.03, is_share=True, is_yearly=True, one_sided=True),
    *(
        Figure(f"wql:{name}", 0.05, FORECAST, is_yearly=True, one_sided=True)
        for name in WATCHED_CLASSES
    ),
    *(
        Figure(f"bias:{name}", 0.05, FORECAST, is_share=True, is_yearly=True)
        for name in WATCHED_CLASSES
    ),
)


def monthly_figures(monthly_demand: DataFrame, demand_features: DataFrame) -> DataFrame:
    """One row per complete month, in order.

    monthly_demand, demand_features: the silver tables. Columns: yyyymm; total_demand_qty, units;
    active_part_count, parts with demand; zero_share, share of parts without; mean_unit_price,
    revenue / demand; order_count and customer_count, summed over parts (an order of three parts
    counts three times); region_demand_qty and class_demand_qty, maps from region and demand class
    (as of the month's end, new parts left out) to units. Against the same month a year before, over
    the parts that sold in both: like_for_like_ratio, the median over parts of demand over the
    geometric mean of their demand in that month of the last two years (of one, where there is no
    other), so that a few large parts can't move it; like_for_like_price, the median ratio of
    prices; part_mix, the share of demand that would have to change part. The same rows give the
    same bits, however they are partitioned.
    """
    complete = monthly_demand.where("is_complete")
    sold = complete.where(F.col("demand_qty") > 0)
    classes = demand_features.where(F.col("demand_class").isin(list(WATCHED_CLASSES))).select(
        "part_number", "yyyymm", "demand_class"
    )
    sums = complete.groupBy("yyyymm").agg(
        *exact_sums("demand", F.col("demand_qty")),
        *exact_sums("revenue", F.col("revenue")),
        F.count_if(F.col("demand_qty") > 0).alias("active_part_count"),
        ratio(F.count_if(F.col("demand_qty") == 0), F.count("*")).alias("zero_share"),
        F.sum("order_count").alias("order_count"),
        F.sum("customer_count").alias("customer_count"),
    )
    totals = sums.select(
        "yyyymm",
        total("demand").alias("total_demand_qty"),
        "active_part_count",
        "zero_share",
        ratio(total("revenue"), total("demand")).alias("mean_unit_price"),
        "order_count",
        "customer_count",
    )
    return (
        totals.join(
            _against_the_year_before(sold, totals.select("yyyymm", "total_demand_qty")),
            "yyyymm",
            "left",
        )
        .join(
            _by(sold.where(F.col("region").isNotNull()), "region", "region_demand_qty"),
            "yyyymm",
            "left",
        )
        .join(
            _by(sold.join(classes, ["part_number", "yyyymm"]), "demand_class", "class_demand_qty"),
            "yyyymm",
            "left",
        )
        .orderBy("yyyymm")
    )


def usual_demand(monthly_demand: DataFrame, unusual: Collection[tuple[str, int]]) -> DataFrame:
    """silver.monthly_demand in which each part and month of ``unusual`` counts as the same month a
    year before that is none of them does, and not at all where the part had none: it moves no
    figure against the year before.
    """
    if not unusual:
        return monthly_demand
    found = set(unusual)
    sources = []
    for part, month in sorted(found):
        before = month - A_YEAR
        while (part, before) in found:
            before -= A_YEAR
        sources.append((part, month, before))
    key = ["part_number", "yyyymm"]
    named = F.broadcast(
        monthly_demand.sparkSession.createDataFrame(
            sources, "part_number STRING, yyyymm INT, before INT"
        )
    )
    own = monthly_demand.join(named, key).select(*key, "before", "is_complete")
    others = [name for name in monthly_demand.columns if name not in {*key, "is_complete"}]
    past = monthly_demand.select("part_number", F.col("yyyymm").alias("before"), *others)
    stand_ins = own.join(past, ["part_number", "before"]).select(*monthly_demand.columns)
    return monthly_demand.join(named, key, "left_anti").unionByName(stand_ins)


def usual_errors(accuracy: pd.DataFrame, unusual: Collection[tuple[str, int]]) -> pd.DataFrame:
    """Errors by demand class, of months with ``unusual`` parts without these.

    accuracy: rows of gold.forecast_accuracy by demand_class and unlabelled_class.
    """
    months = {month for _, month in unusual}
    kind = np.where(accuracy["yyyymm"].isin(months), UNLABELLED_CLASS, "demand_class")
    return accuracy[accuracy["segment_kind"] == kind]


def demand_drift(
    figures: pd.DataFrame, accuracy: pd.DataFrame, months: Sequence[int], settings: Settings
) -> list[dict[str, Any]]:
    """Rows of gold.demand_drift for ``months``: one per month and figure, in that order; months
    without figures give none.

    figures: one row per complete month as ``monthly_figures`` makes them. accuracy: rows of
    gold.forecast_accuracy at lag 1 by demand class. Only rows through a month decide on it, so that
    a past month computed again gets the same verdict.

    Each figure is first freed of its season: its change against the same month a year before, or,
    where it is such a comparison already, as it is. z is the distance from the median change in
    median absolute deviations, month and past taken together. The figures of a family (demand, and
    error of the served forecast) are tested as one: p_value is the rank of |z| among the largest
    |z| over all figures of each past month, the maximum statistic of Westfall and Young (1993) with
    whole months permuted. Where months are exchangeable, some figure of a family drifts in a share
    of months of at most false_alarm_rate, however its figures hang together; two families share
    ``monitoring.drift_false_alarm_rate`` in halves. The months just before, which
    ``drift_window_months`` looks at together, are not among the past: a change would hide behind
    its own beginning.
    """
    values, changes = _watched(figures, accuracy)
    rows = []
    for month in sorted({int(m) for m in figures["yyyymm"]} & set(months)):
        past = changes.loc[: add_months(month, -settings.monitoring.drift_window_months)]
        now = changes.loc[month]
        tests = _tests(past, now, settings.monitoring.drift_false_alarm_rate)
        for figure in FIGURES:
            value, known = float(values.at[month, figure.name]), int(past[figure.name].count())
            row: dict[str, Any] = {
                "yyyymm": month,
                "feature": figure.name,
                "value": value if np.isfinite(value) else None,
            }
            if figure.name in tests:
                row |= _verdict(figure, month, value, float(now[figure.name]), tests[figure.name])
            else:
                row |= dict.fromkeys(
                    ("expected", "statistic", "threshold", "p_value", "false_alarm_rate")
                )
                reason = _untested(
                    figure, month, now, known, settings.monitoring.drift_false_alarm_rate
                )
                row |= {"history_months": known, "is_drift": False, "reason": reason}
            rows.append(row)
    return rows


class Ranked(NamedTuple):
    """The test of one family in one month: of each figure what was expected, z and p; the |z| above
    which p is within the rate.
    """

    expected: Floats
    z: Floats
    p_value: Floats
    threshold: float
    past_months: int


def ranked(
    past: Floats, month: Floats, min_change: Floats, one_sided: NDArray[np.bool_], rate: float
) -> Ranked:
    """Rank a month's changes among those of past months, by the largest over all figures.

    past: month x figure, NaN where unknown; month: one value per figure; rate: the share of months
    that may drift by chance. Needs ``needed(rate)`` past months.
    """
    from scipy.stats import median_abs_deviation

    rows = np.vstack([past, month])
    expected = np.nanmedian(rows, axis=0)
    # The month itself is among the rows: center and spread then treat all months alike, which is
    # what makes the rank a fair lot.
    scale = np.maximum(
        median_abs_deviation(rows, axis=0, scale="normal", nan_policy="omit"), min_change
    )
    z = (rows - expected) / scale
    size = np.where(one_sided, np.maximum(z, 0), np.abs(z))
    largest = np.nanmax(size[:-1], axis=1)
    p_value = (1 + (largest[:, None] >= size[-1]).sum(axis=0)) / (1 + len(largest))
    allowed = math.floor(rate * (1 + len(largest)) + 1e-9)
    # Below 1 a month lies within its usual spread, which is no drift however calm the past was.
    threshold = max(1.0, float(np.sort(largest)[::-1][allowed - 1]))
    return Ranked(expected, z[-1], p_value, threshold, len(largest))


def needed(rate: float) -> int:
    """Past months without which no month can be told from chance at a rate."""
    return math.ceil(1 / rate - 1e-9) - 1


def _by(sold: DataFrame, group: str, name: str) -> DataFrame:
    """Yyyymm and a map from group to units."""
    sums = (
        sold.groupBy("yyyymm", group)
        .agg(*exact_sums("demand", F.col("demand_qty")))
        .withColumn("qty", total("demand"))
    )
    return sums.groupBy("yyyymm").agg(
        F.map_from_arrays(F.collect_list(group), F.collect_list("qty")).alias(name)
    )


def _against_the_year_before(sold: DataFrame, totals: DataFrame) -> DataFrame:
    """yyyymm, like_for_like_ratio, like_for_like_price and part_mix."""
    parts = sold.join(totals, "yyyymm").select(
        "part_number",
        "yyyymm",
        F.col("demand_qty").alias("qty"),
        F.when(F.col("revenue") > 0, ratio("revenue", "demand_qty")).alias("price"),
        ratio("demand_qty", "total_demand_qty").alias("share"),
    )

    def years_before(years: int) -> DataFrame:
        named = (F.col(name).alias(f"{name}_{years}") for name in ("qty", "price", "share"))
        month = (F.col("yyyymm") + years * A_YEAR).alias("yyyymm")
        return parts.select("part_number", month, *named)

    one, two = years_before(1), years_before(2)
    # Engines agree to the last digit on roots and quotients, not on logarithms.
    past = F.coalesce(F.sqrt("qty_1") * F.sqrt("qty_2"), F.col("qty_1"))
    compared = parts.join(one, ["part_number", "yyyymm"]).join(
        two, ["part_number", "yyyymm"], "left"
    )
    return compared.groupBy("yyyymm").agg(
        F.median(ratio("qty", past)).alias("like_for_like_ratio"),
        F.median(ratio("price", "price_1")).alias("like_for_like_price"),
        (
            1
            - F.sum(F.floor(F.least("share", "share_1") * SHARE_UNITS + 0.5).cast("bigint"))
            / SHARE_UNITS
        ).alias("part_mix"),
    )


def _watched(figures: pd.DataFrame, accuracy: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Month x figure, NaN where unknown: values as they are shown, and their changes without
    season.
    """
    by_month = figures.set_index(figures["yyyymm"].astype(int)).sort_index()
    values = pd.DataFrame(
        _values(by_month) | _error_values(accuracy), index=by_month.index, dtype=float
    )[[f.name for f in FIGURES]]
    changes = {}
    for figure in FIGURES:
        value = values[figure.name]
        comparable = (
            value if figure.is_share else pd.Series(np.log(value.where(value > 0)), value.index)
        )
        changes[figure.name] = (
            comparable if figure.is_yearly else comparable - _year_before(comparable)
        )
    return values, pd.DataFrame(changes)


def _values(figures: pd.DataFrame) -> dict[str, pd.Series]:
    """Figures of demand by month, as they are shown."""
    values = {
        name: figures[name]
        for name in figures.columns
        if name not in ("yyyymm", "region_demand_qty", "class_demand_qty")
    }
    classes = figures["class_demand_qty"].map(
        lambda demand: demand if isinstance(demand, Mapping) else {}
    )
    values |= {
        f"demand_qty:{name}": classes.map(lambda demand, name=name: demand.get(name, np.nan))
        for name in WATCHED_CLASSES
    }
    mixes = figures["region_demand_qty"].map(_shares)
    pairs = zip(mixes, _year_before(mixes), strict=True)
    values["region_mix"] = pd.Series(
        [_distance(mix, before) for mix, before in pairs], figures.index, dtype=float
    )
    return values


def _error_values(accuracy: pd.DataFrame) -> dict[str, pd.Series]:
    """Errors of the served forecast by month, a month ahead, less what the backtest of the models
    that served let expect.

    wql:<class> is served WQL over the backtest's. bias:<class> is the tracking signal of Brown
    (1959) before it is put in units of its spread: the error of TRACKED_MONTHS added up, over their
    demand. Months that no trained model served have none.
    """
    served = accuracy[accuracy["evidence_wql"].notna() & (accuracy["actual_qty"] > 0)]
    values = {}
    for name in WATCHED_CLASSES:
        own = (
            served[served["segment"] == name]
            .astype({"yyyymm": int})
            .set_index("yyyymm")
            .sort_index()
        )
        excess = own["forecast_qty"] - own["actual_qty"] * (1 + own["evidence_bias"])
        back = [
            excess.index.map(lambda month, n=n: add_months(month, -n))
            for n in range(TRACKED_MONTHS)
        ]
        errors = sum(excess.reindex(months).to_numpy() for months in back)
        actuals = sum(own["actual_qty"].reindex(months).to_numpy() for months in back)
        values[f"wql:{name}"] = own["wql"] / own["evidence_wql"]
        values[f"bias:{name}"] = pd.Series(errors / actuals, own.index, dtype=float)
    return values


def _year_before(by_month: pd.Series) -> pd.Series:
    """For each month, the value that stands for the same month a year before."""
    before = by_month.reindex([add_months(month, -MONTHS_A_YEAR) for month in by_month.index])
    return pd.Series(before.to_numpy(), by_month.index)


def _shares(demand: object) -> dict[str, float] | None:
    """Share of each region; None for a month without regions."""
    if not isinstance(demand, Mapping) or not (
        total := sum(demand[region] for region in sorted(demand))
    ):
        return None
    return {region: demand[region] / total for region in sorted(demand)}


def _distance(mix: object, other: object) -> float:
    """Total variation distance: the share of demand that would have to change region; NaN where one
    is unknown.
    """
    if not isinstance(mix, Mapping) or not isinstance(other, Mapping):
        return float("nan")
    return (
        sum(abs(mix.get(region, 0.0) - other.get(region, 0.0)) for region in sorted({*mix, *other}))
        / 2
    )


@dataclass(frozen=True)
class _Tested:
    """One figure in the test of its family: its place there, and the rate of the test."""

    test: Ranked
    place: int
    rate: float

    @property
    def expected(self) -> float:
        return float(self.test.expected[self.place])

    @property
    def z(self) -> float:
        return float(self.test.z[self.place])

    @property
    def p_value(self) -> float:
        return float(self.test.p_value[self.place])


def _tests(past: pd.DataFrame, now: pd.Series, rate: float) -> dict[str, _Tested]:
    """Each figure that can be tested in a month.

    past: changes by month and figure; now: the month's.
    """
    counts = past.count()

    def families(at: float) -> dict[str, list[Figure]]:
        fit = [f for f in FIGURES if np.isfinite(now[f.name]) and counts[f.name] >= needed(at)]
        found: dict[str, list[Figure]] = {DEMAND: [], FORECAST: []}
        for figure in fit:
            found[figure.family].append(figure)
        return {name: members for name, members in found.items() if members}

    tested = families(rate / 2)
    if len(tested) < 2:
        # With little history there is one family to test at the full rate; demand comes first.
        tested = dict(list(families(rate).items())[:1])
    tests: dict[str, _Tested] = {}
    for members in tested.values():
        at, names = rate / len(tested), [f.name for f in members]
        min_change, one_sided = (
            np.array([f.min_change for f in members]),
            np.array([f.one_sided for f in members]),
        )
        test = ranked(
            past[names].dropna(how="all").to_numpy(),
            now[names].to_numpy(dtype=float),
            min_change,
            one_sided,
            at,
        )
        tests |= {name: _Tested(test, place, at) for place, name in enumerate(names)}
    return tests


def _verdict(
    figure: Figure, month: int, value: float, change: float, tested: _Tested
) -> dict[str, Any]:
    """What the test of its family says of one figure."""
    gap = tested.expected - change
    expected = value + gap if figure.is_share else value * math.exp(gap)
    z, p_value = tested.z, tested.p_value
    is_drift = (max(z, 0.0) if figure.one_sided else abs(z)) > tested.test.threshold
    basis = (
        "the months before"
        if figure.is_yearly
        else f"{add_months(month, -MONTHS_A_YEAR)} and the usual yearly change"
    )
    reason = (
        f"{'drift' if is_drift else 'no drift'}: {figure.name} of {month} is {value:,.4g},"
        f" {expected:,.4g} was expected from {basis} (robust z {z:+.1f}; {p_value:.0%} of months"
        f" like the past have a figure as far off, drift up to {tested.rate:.0%})"
    )
    return {
        "expected": expected,
        "statistic": z,
        "threshold": tested.test.threshold,
        "history_months": tested.test.past_months,
        "is_drift": is_drift,
        "p_value": p_value,
        "false_alarm_rate": tested.rate,
        "reason": reason,
    }


def _untested(figure: Figure, month: int, now: pd.Series, known: int, rate: float) -> str:
    if not np.isfinite(now[figure.name]):
        what = (
            "what was served"
            if figure.family == FORECAST
            else "the figure, or that of the year before,"
        )
        return f"nothing to compare: {what} is unknown for {figure.name} of {month}"
    return (
        f"not enough history: {known} past months to rank {figure.name} among, {needed(rate)} are"
        f" needed for a rate of {rate:.0%}"
    )
