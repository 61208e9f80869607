"""Totals with deciles of their own: the rows of gold.demand_forecast_total.

Spark adds up parts; what is left is small whatever their number, and is worked out here in pandas.
Totals are sums of what is served, and joint errors of past totals decide how wide they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from operator import add, and_
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from pyspark.sql import functions as F

from medallion_assets.exact import exact_sums, joined
from medallion_assets.partitions import add_months
from medallion_assets.tables import DECILES, DEMAND_FORECAST_TOTAL, LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pyspark.sql import Column, DataFrame, Row

SEGMENT_KINDS = ("all", "demand_class", "abc_class")
JOINT_ERRORS, FULL_DEPENDENCE = "joint_errors", "full_dependence"
# Of the parts of a past month that some model forecast, the share that the serving ones must have.
MIN_SHARE = 0.99
# Months of decisions before an origin whose evidence is read.
EVIDENCE_MONTHS = 24

_SUMS = ("forecast_qty", "variance", "spread")


class Dependence(NamedTuple):
    """How far errors of parts go together: their mean correlation, and the target months that say
    so; without any the parts count as going together fully.
    """

    correlation: float = 1.0
    target_months: int = 0


def coming_parts(demand_forecast: DataFrame, demand_features: DataFrame) -> DataFrame:
    """Sums over the served parts of each origin, vintage, month, class, ABC class and model.

    demand_forecast: gold.demand_forecast; demand_features: silver.demand_features of its origins.
    Columns: yyyymm, vintage, horizon, target_yyyymm, demand_class, abc_class, model, part_count,
    guarded_part_count, and the halves of exact sums of forecast_qty, variance and spread (standard
    deviation).
    """
    classes = demand_features.select("yyyymm", "part_number", "abc_class")
    served = demand_forecast.where("horizon > 0").join(classes, ["yyyymm", "part_number"], "left")
    return served.groupBy(
        *("yyyymm", "vintage", "horizon", "target_yyyymm", "demand_class", "abc_class", "model")
    ).agg(
        F.sum((F.col("status") == "guarded").cast("bigint")).alias("guarded_part_count"), *_sums()
    )


def past_parts(zoo_result: DataFrame) -> DataFrame:
    """Sums over the parts of past origins, as ``coming_parts`` gives them, beside what was sold.

    zoo_result: gold.zoo_result. Columns: yyyymm (decision month), origin, horizon, target_yyyymm,
    demand_class, abc_class, model, part_count, and the halves of exact sums, of actual_qty too.
    Cells without finite numbers are left out.
    """
    finite = (
        F.coalesce(F.abs(name) < float("inf"), F.lit(False)) for name in ("forecast_qty", *DECILES)
    )
    return (
        zoo_result.where(reduce(and_, finite))
        .groupBy(
            *("yyyymm", "origin", "horizon", "target_yyyymm", "demand_class", "abc_class", "model")
        )
        .agg(*_sums(), *exact_sums("actual_qty", F.col("actual_qty")))
    )


def demand_forecast_total(
    coming: pd.DataFrame, past: pd.DataFrame, stored: Iterable[Row | Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Rows of gold.demand_forecast_total for every origin and vintage in ``coming``; ``stored``
    rows of vintages before an origin's newest are given back as they are.

    coming, past: rows of ``coming_parts`` and ``past_parts``; of the past an origin sees decision
    and target months through itself. forecast_qty is the sum of the parts', to the same bits on
    every engine. The variance of a
    total lies between the sum of the parts' variances (errors independent) and the square of the
    sum of their standard deviations (errors go together fully): variance + correlation * (spread^2
    - variance). The correlation is the one with which past totals of the models that serve now have
    the mean square they had, each target month counting once, and not below 0. Deciles are a
    gamma's with that mean and variance, at the levels of a Student t with as many degrees of
    freedom as target months (prediction of a normal value of known mean), so that few months make
    wide intervals. coverage_80 is measured by giving each past total the interval that it would
    have got at its own origin.
    """
    newest = coming.groupby("yyyymm")["vintage"].max().to_dict()

    def of_table(row: Row | Mapping[str, Any]) -> dict[str, Any]:
        # What a former release stored has fewer columns.
        return {name: row[name] for name in DEMAND_FORECAST_TOTAL.column_names if name in row}

    made = [of_table(row) for row in stored if row["vintage"] < newest.get(row["yyyymm"], 0)]
    kept = {(row["yyyymm"], row["vintage"]) for row in made}
    for (origin, vintage), own in coming.groupby(["yyyymm", "vintage"]):
        if (origin, vintage) not in kept:
            made += _rows(int(origin), int(vintage), own, past)
    return made


def dependence(past: pd.DataFrame) -> Dependence:
    """The mean correlation of parts' errors that past totals show.

    past: target_yyyymm, actual_qty, forecast_qty, variance, spread of totals. Errors within a
    target month share what happened in it, so the months are averaged first.
    """
    if past.empty:
        return Dependence()
    error = past["actual_qty"] - past["forecast_qty"]
    together = past["spread"] ** 2 - past["variance"]
    by_month = (
        pd.DataFrame({"beyond": error**2 - past["variance"], "together": together})
        .groupby(past["target_yyyymm"].to_numpy())
        .mean()
    )
    beyond, possible = by_month["beyond"].mean(), by_month["together"].mean()
    # A single part has nothing to go together with; rounding leaves something near 0.
    none_possible = possible <= 1e-9 * float((past["spread"] ** 2).mean())
    correlation = 0.0 if none_possible else max(0.0, float(beyond / possible))
    return Dependence(correlation, len(by_month))


def _normal() -> NDArray[np.float64]:
    """The nine deciles of the normal distribution."""
    from scipy.special import ndtri

    return np.asarray(ndtri(np.array(LEVELS)))


def deciles(totals: pd.DataFrame, dependent: Dependence) -> NDArray[np.float64]:
    """The nine deciles of each total, units; never below 0, and the forecast itself where nothing
    varies. totals: forecast_qty, variance, spread.

    Beyond a deviation as large as the mean the shape stays that of an exponential, so that more
    deviation always gives a wider interval.
    """
    from scipy.special import gammaincinv, ndtr, stdtrit

    mean, variance, spread = (
        totals[name].to_numpy(dtype=float)[:, None]
        for name in ("forecast_qty", "variance", "spread")
    )
    together = np.maximum(spread**2 - variance, 0.0)
    deviation = np.sqrt(variance + dependent.correlation * together)
    months = dependent.target_months
    places = stdtrit(months, np.array(LEVELS)) * np.sqrt(1 + 1 / months) if months else _normal()
    varies = deviation > 0
    ratio = np.divide(mean, deviation, out=np.ones_like(mean), where=varies)
    shape = np.maximum(ratio**2, 1.0)
    standard = (gammaincinv(shape, ndtr(places)) - shape) / np.sqrt(shape)
    return np.maximum.accumulate(np.maximum(mean + deviation * standard, 0.0), axis=1)


def serving_models(parts: pd.DataFrame) -> dict[str, str]:
    """Demand class -> the model that serves it, of several the one with most parts.

    parts: demand_class, model, part_count.
    """
    by_parts = parts.groupby(["demand_class", "model"])["part_count"].sum().sort_values()
    return dict(by_parts.index)


def past_totals(
    known: pd.DataFrame,
    serving: Mapping[str, str],
    sums: Sequence[str] = (*_SUMS, "actual_qty"),
) -> pd.DataFrame:
    """Totals of past origins as the models that serve now would have given them, by segment, beside
    what was sold; months of which parts are missing are left out.

    known: rows of ``past_parts``; serving: demand class -> model; sums: whose halves are added up.
    Columns: segment_kind, segment, origin, horizon, target_yyyymm, part_count, and the sums.
    """
    cell = ["origin", "horizon", "demand_class"]
    known = known[known["demand_class"].isin(list(serving))]
    served = known[known["model"] == known["demand_class"].map(serving)]
    # A later decision saw restated demand, and where it has the cells it is the better witness.
    newest = served.groupby(cell)["yyyymm"].max().rename("newest").reset_index()
    served = served.merge(newest, on=cell)
    served = served[served["yyyymm"] == served["newest"]]
    held = known.groupby([*cell, "yyyymm", "model"])["part_count"].sum()
    wanted = held.groupby(cell).max().rename("wanted").reset_index()
    totals = _by_segment(served, ["origin", "horizon", "target_yyyymm"], sums)
    of_class = wanted.rename(columns={"demand_class": "segment"}).assign(
        segment_kind="demand_class"
    )
    of_all = wanted.groupby(["origin", "horizon"], as_index=False)["wanted"].sum()
    of_all = of_all.assign(segment_kind="all", segment="all")
    whole = totals.merge(
        pd.concat([of_class, of_all]), on=["segment_kind", "segment", "origin", "horizon"]
    )
    whole = whole[whole["part_count"] >= MIN_SHARE * whole["wanted"]].drop(columns="wanted")
    complete = whole.loc[whole["segment_kind"] == "all", ["origin", "horizon"]]
    # What lacks parts of some class lacks them in ABC classes, and nothing says in which.
    by_abc = totals[totals["segment_kind"] == "abc_class"].merge(complete, on=["origin", "horizon"])
    return pd.concat([whole, by_abc], ignore_index=True)


def past_intervals(past: pd.DataFrame) -> pd.DataFrame:
    """Past totals of one segment with the deciles that their own origin would have given them, and
    target_month_count, the months whose errors it knew; origins that knew none are left out.
    """
    made = [past.iloc[:0].assign(**dict.fromkeys(DECILES, 0.0), target_month_count=0)]
    for origin, own in past.groupby("origin"):
        dependent = dependence(past[past["target_yyyymm"] <= origin])
        if dependent.target_months:
            numbers = dict(zip(DECILES, deciles(own, dependent).T, strict=True))
            made.append(own.assign(**numbers, target_month_count=dependent.target_months))
    return pd.concat(made, ignore_index=True)


def is_covered(totals: pd.DataFrame) -> pd.Series:
    """Which totals were sold within q10 to q90."""
    return totals["actual_qty"].between(totals[DECILES[0]], totals[DECILES[-1]])


def decision_months(stored: Collection[int], origin: int, origins: int) -> list[int]:
    """The stored decision months that give an origin its evidence: the newest, then the earliest
    within ``origins`` months before it, and so on.

    A decision lists ``origins`` past months, so those that are passed over hold nothing else.
    """
    left = sorted(m for m in stored if add_months(origin, -EVIDENCE_MONTHS) <= m <= origin)
    chosen: list[int] = []
    while left:
        near = [m for m in left if chosen and m >= add_months(chosen[-1], -origins)]
        chosen.append(near[0] if near else left[-1])
        left = [m for m in left if m < chosen[-1]]
    return sorted(chosen)


def _sums() -> list[Column]:
    """part_count and the halves of exact sums of forecast_qty, variance and spread."""
    mean = F.col("forecast_qty")
    squares = reduce(add, ((F.col(name) - mean) * (F.col(name) - mean) for name in DECILES))
    # Deciles of a part that rarely sells are all 0: whole units with a mean below 1 vary by this.
    least = F.when(mean < 1, mean * (1 - mean)).otherwise(F.lit(0.0))
    variance = F.greatest(squares / F.lit(float((_normal() ** 2).sum())), least)
    values = {"forecast_qty": mean, "variance": variance, "spread": F.sqrt(variance)}
    return [
        F.count("*").alias("part_count"),
        *(column for name, value in values.items() for column in exact_sums(name, value)),
    ]


def _rows(
    origin: int, vintage: int, coming: pd.DataFrame, past: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    serving = serving_models(coming)
    known = past[(past["yyyymm"] <= origin) & (past["target_yyyymm"] <= origin)]
    evidence = past_totals(known, serving)
    counts = ["part_count", "guarded_part_count"]
    totals = _by_segment(coming, ["horizon", "target_yyyymm"], _SUMS, counts)
    for (kind, segment), own in totals.groupby(["segment_kind", "segment"], sort=True):
        behind = evidence[(evidence["segment_kind"] == kind) & (evidence["segment"] == segment)]
        dependent = dependence(behind)
        measured = past_intervals(behind)
        covered = int(is_covered(measured).sum())
        own = own.sort_values("horizon")
        for row, numbers in zip(own.to_dict("records"), deciles(own, dependent), strict=True):
            yield {
                "yyyymm": origin,
                "vintage": vintage,
                "segment_kind": kind,
                "segment": segment,
                "horizon": int(row["horizon"]),
                "target_yyyymm": int(row["target_yyyymm"]),
                **{name: int(row[name]) for name in counts},
                "forecast_qty": float(row["forecast_qty"]),
                **dict(zip(DECILES, map(float, numbers), strict=True)),
                "method": JOINT_ERRORS if dependent.target_months else FULL_DEPENDENCE,
                "error_correlation": dependent.correlation if dependent.target_months else None,
                "target_month_count": dependent.target_months,
                "coverage_80": covered / len(measured) if len(measured) else None,
                "origin_month_count": len(measured),
            }


def _by_segment(
    parts: pd.DataFrame,
    keys: Sequence[str],
    names: Sequence[str],
    counts: Sequence[str] = ("part_count",),
) -> pd.DataFrame:
    """Sums of sums for each segment, exact as those were: segment_kind, segment, keys, counts and
    the totals.
    """
    halves = [f"{name}_{half}" for name in names for half in ("whole", "rest")]
    made = []
    for kind in SEGMENT_KINDS:
        named = parts.assign(segment="all" if kind == "all" else parts[kind], segment_kind=kind)
        made.append(
            named.dropna(subset=["segment"])
            .groupby(["segment_kind", "segment", *keys], as_index=False)[[*counts, *halves]]
            .sum()
        )
    sums = pd.concat(made, ignore_index=True)
    return sums.assign(**{name: joined(sums, name) for name in names}).drop(columns=halves)
