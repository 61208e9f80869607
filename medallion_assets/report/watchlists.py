"""The parts to look at first, a list for each reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from medallion_assets.report.cells import month_name, qty
from medallion_assets.report.data import (
    SHOWN_PARTS,
    ReportData,
    by_part,
    expected_costs,
    prices_of,
    valued,
    with_numbers,
)

STEADY, RARE = ("smooth", "erratic"), ("intermittent", "lumpy")


@dataclass(frozen=True)
class Watchlist:
    """Parts to look at for one reason, the most important first. rows: part_number, demand_class,
    abc_class, figure, told.
    """

    title: str
    meaning: str
    figure: str
    count: int
    rows: pd.DataFrame


def watchlists(data: ReportData) -> list[Watchlist]:
    """The parts to look at first: up to SHOWN_PARTS for each reason. Empty lists are left out.

    Money is units times the price known at the origin, in the source's currency; parts without a
    price come last.
    """
    made = [_costly(data), _wrong(data), _jumped(data), _newly_rare(data), _newly_dead(data)]
    return [found for found in made if found is not None and found.count]


def shown_parts(lists: Iterable[Watchlist]) -> list[str]:
    """Part numbers on the lists, each once, in order."""
    return sorted({str(part) for found in lists for part in found.rows["part_number"]})


WRONG = "Largest error last month"


def _costly(data: ReportData) -> Watchlist:
    forecast = with_numbers(data.forecast)
    cost = expected_costs(forecast, prices_of(data), data.costs)
    total = forecast.groupby("part_number")["forecast_qty"].sum()
    first = forecast.sort_values("horizon").drop_duplicates("part_number").set_index("part_number")
    told = {
        part: (
            f"{qty(total[part])} expected in all months;"
            f" {month_name(first.at[part, 'target_yyyymm'])}: {_interval(first.loc[part])}"
        )
        for part in _largest(cost)
    }
    meaning = (
        "What being wrong is expected to cost in the months ahead, if just the expected demand is"
        f" bought: {data.costs.over_rate:.0%} of the price for a unit too many,"
        f" {data.costs.under_rate:.0%} for one too few."
    )
    cost = cost[cost > 0]
    rows = _rows(data, cost, told)
    return Watchlist("Largest expected cost of error", meaning, "expected cost", len(cost), rows)


def _wrong(data: ReportData) -> Watchlist | None:
    said = with_numbers(data.former)
    said = said[said["target_yyyymm"] == data.origin].set_index("part_number")
    if said.empty:
        return None
    sold = data.actual.set_index("part_number")["demand_qty"].reindex(said.index)
    missed = (sold - said["forecast_qty"]).abs()
    value = valued(missed[missed > 0], data)
    told = {
        part: f"sold {qty(sold[part])}, forecast {_interval(said.loc[part])}"
        for part in _largest(value)
    }
    meaning = (
        f"Demand of {month_name(data.origin)} against the forecast of the month before, in money."
    )
    return Watchlist(WRONG, meaning, "error", len(value), _rows(data, value, told))


def _jumped(data: ReportData) -> Watchlist | None:
    both = data.compared.dropna(subset=["forecast_qty", "former_qty"])
    # Not "outside the interval": the expected demand of a part that sells rarely lies above its q90
    # without any change.
    has_jumped = (both["forecast_qty"] - both["former_qty"]).abs() > (
        both["former_q90"] - both["former_q10"]
    ) / 2
    jumped = both[both["part_number"].isin(both.loc[has_jumped, "part_number"])]
    if jumped.empty:
        return None
    sums = jumped.groupby("part_number")[["forecast_qty", "former_qty"]].sum()
    value = valued((sums["forecast_qty"] - sums["former_qty"]).abs(), data)
    months = both["target_yyyymm"].nunique()
    told = {
        part: (
            f"{qty(sums.at[part, 'forecast_qty'])} in the {months}"
            f" month{'' if months == 1 else 's'} that both forecast,"
            f" {qty(sums.at[part, 'former_qty'])} said before"
        )
        for part in _largest(value)
    }
    meaning = (
        "The expected demand of a month moved by more than half the width of q10 to q90 that the"
        " forecast before gave it."
    )
    rows = _rows(data, value, told)
    return Watchlist("Forecasts that jumped", meaning, "change", len(value), rows)


def _newly_rare(data: ReportData) -> Watchlist | None:
    now, then = by_part(data.forecast), by_part(data.former)
    if then.empty:
        return None
    was = then["demand_class"].reindex(now.index)
    changed = now[now["demand_class"].isin(RARE) & was.isin(STEADY) & (now["status"] != "excluded")]
    value = valued(_expected(data.forecast).reindex(changed.index), data)
    told = {
        part: f"{was[part]} until the forecast before, {changed.at[part, 'demand_class']} now"
        for part in _largest(value)
    }
    meaning = (
        "Sold nearly every month until now, and now with months of nothing in between: a stock rule"
        " for steady parts misleads."
    )
    rows = _rows(data, value, told)
    return Watchlist("Newly intermittent", meaning, "forecast value", len(value), rows)


def _newly_dead(data: ReportData) -> Watchlist | None:
    now, then = by_part(data.forecast), by_part(data.former)
    if then.empty:
        return None
    was = then["status"].reindex(now.index)
    dead = now[(now["status"] == "excluded") & was.notna() & (was != "excluded")]
    expected = _expected(data.former).reindex(dead.index)
    value = valued(expected.fillna(0.0), data)
    told = {
        part: (
            f"{dead.at[part, 'reason'] or 'not active'}; {qty(expected[part])} was expected before"
        )
        for part in _largest(value)
    }
    meaning = "Forecast until now, and not any more."
    rows = _rows(data, value, told)
    return Watchlist("Newly dead", meaning, "forecast before", len(value), rows)


def _expected(forecast: pd.DataFrame) -> pd.Series:
    """Units that a forecast expects of all its months, by part_number."""
    return with_numbers(forecast).groupby("part_number")["forecast_qty"].sum()


def _rows(data: ReportData, value: pd.Series, told: Mapping[str, str]) -> pd.DataFrame:
    """Rows of a Watchlist: the parts with the largest values, and what is told of each."""
    parts = _largest(value)
    known = by_part(data.forecast)["demand_class"].combine_first(
        by_part(data.former)["demand_class"]
    )
    abc = data.features.drop_duplicates("part_number").set_index("part_number")["abc_class"]
    return pd.DataFrame(
        {
            "part_number": parts,
            "demand_class": [known.get(part, "") for part in parts],
            "abc_class": [abc.get(part, "") for part in parts],
            "figure": [float(value[part]) for part in parts],
            "told": [told[part] for part in parts],
        }
    )


def _largest(value: pd.Series) -> list[str]:
    """The parts with the largest values, those without one last, equals in order of part number."""
    ordered = value.rename("value").rename_axis("part_number").reset_index()
    return list(
        ordered.sort_values(["value", "part_number"], ascending=[False, True], na_position="last")[
            "part_number"
        ].head(SHOWN_PARTS)
    )


def _interval(row: pd.Series) -> str:
    return f"{qty(row['forecast_qty'])} ({qty(row['q10'])} to {qty(row['q90'])})"
