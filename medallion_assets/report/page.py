"""The monthly report as one HTML page: what is forecast, what changed and why, where the models are
weak, which parts to look at.

Pure: small frames and figures of all parts in, text out. What is read for it and where the page
goes lies in reporting.py.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from medallion_assets import plots
from medallion_assets.champion.promotion import BASELINE, THIN
from medallion_assets.partitions import add_months, month_range
from medallion_assets.served.accuracy import pooled
from medallion_assets.tables import CHANGE_PARTS, DECILES, DEMAND_CLASSES
from resources.settings import PromotionSettings

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

CODE_VERSION = "5"
SHOWN_PARTS = 20
WORST_PARTS = 10
HISTORY_MONTHS = 24
ACCURACY_MONTHS = 12
STEADY, RARE = ("smooth", "erratic"), ("intermittent", "lumpy")
FEW_TOTALS = 30  # past totals; with fewer a measured coverage says little
BIAS_LIMIT, COVERAGE_LIMITS = 0.2, (0.7, 0.95)

FORECAST_COLUMNS = (
    "part_number",
    "horizon",
    "target_yyyymm",
    "forecast_qty",
    *DECILES,
    "status",
    "reason",
    "demand_class",
    "model",
    "registry_version",
    "trained_yyyymm",
)
FORMER_COLUMNS = (
    "part_number",
    "horizon",
    "target_yyyymm",
    "forecast_qty",
    "q10",
    "q90",
    "status",
    "demand_class",
    "model",
)

# Reading needs no script; this one sorts a table by the column whose head is chosen.
SORTING = Markup("""
for (const head of document.querySelectorAll("table.sortable th")) {
  const sort = () => {
    const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
    const falling = head.getAttribute("aria-sort") !== "descending";
    const value = row => {
        const text = row.cells[place].dataset.order;
        return text === "" || isNaN(text) ? text : Number(text);
    };
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return (x < y ? -1 : x > y ? 1 : 0) * (falling ? -1 : 1);
    });
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    body.append(...rows);
  };
  head.tabIndex = 0;
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
""")


@dataclass(frozen=True)
class ReportData:
    """What a report is made from, as of its origin; nothing in it is later.

    forecast: the current vintage, FORECAST_COLUMNS; former: that of the origin ``before``,
    FORMER_COLUMNS, empty without one; changes: gold.forecast_change of the current vintage;
    vintages: vintage, published_at, reason of this origin; features: part_number, abc_class,
    unit_price at the origin; actual: part_number, demand_qty of the origin month; demand: yyyymm,
    demand_qty of all parts in complete months; totals:
    gold.demand_forecast_total of the current vintage; accuracy: gold.forecast_accuracy of the last
    ACCURACY_MONTHS; anomalies: gold.demand_anomaly of these months, the first SHOWN_PARTS to look
    at; served_ahead: part_number, target_yyyymm, forecast_qty, q10, q90 of what was served a month
    ahead of their parts; judged: totals one month ahead by target_yyyymm and demand_class with the
    deciles that they had; sold_by_class: target_yyyymm, demand_class, actual_qty through the
    origin, of the parts that are in the class then; evaluation: gold.model_evaluation of the newest
    training; decisions: gold.champion; retraining: gold.retraining_decision since
    ``before``.
    """

    origin: int
    vintage: int
    before: int | None
    forecast: pd.DataFrame
    former: pd.DataFrame
    changes: pd.DataFrame
    vintages: pd.DataFrame
    features: pd.DataFrame
    actual: pd.DataFrame
    demand: pd.DataFrame
    totals: pd.DataFrame
    accuracy: pd.DataFrame
    anomalies: pd.DataFrame
    served_ahead: pd.DataFrame
    judged: pd.DataFrame
    sold_by_class: pd.DataFrame
    evaluation: pd.DataFrame
    decisions: pd.DataFrame
    retraining: pd.DataFrame
    costs: PromotionSettings
    anomaly_rate: float
    is_simulated: bool

    @cached_property
    def compared(self) -> pd.DataFrame:
        """Every part and target month of either forecast that both origins reach: forecast_qty now,
        former_qty with its interval.
        """
        now, then = _numbers(self.forecast), _numbers(self.former)
        common = set(now["target_yyyymm"]) & set(then["target_yyyymm"])
        key = ["part_number", "target_yyyymm"]
        left = now.loc[now["target_yyyymm"].isin(common), [*key, "demand_class", "forecast_qty"]]
        right = then.loc[
            then["target_yyyymm"].isin(common), [*key, "demand_class", "forecast_qty", "q10", "q90"]
        ]
        names = {
            "demand_class": "former_class",
            "forecast_qty": "former_qty",
            "q10": "former_q10",
            "q90": "former_q90",
        }
        both = left.merge(right.rename(columns=names), on=key, how="outer")
        return both.assign(demand_class=both["demand_class"].fillna(both["former_class"]))


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


def expected_costs(forecast: pd.DataFrame, price: pd.Series, costs: PromotionSettings) -> pd.Series:
    """What being wrong is expected to cost per part, if exactly forecast_qty is bought for each
    month.

    forecast: rows with numbers; price by part_number. Mean over the deciles of units too many and
    too few times price and rates, as stock_cost in gold.model_evaluation with the forecast's own
    distribution in place of demand; summed over months. Demand beyond q90 is not in it. NaN without
    a price.
    """
    said = forecast["forecast_qty"].to_numpy(dtype=float)[:, None]
    possible = forecast[list(DECILES)].to_numpy(dtype=float)
    shares = costs.over_rate * np.clip(said - possible, 0, None) + costs.under_rate * np.clip(
        possible - said, 0, None
    )
    units = pd.Series(shares.mean(axis=1), forecast.index).groupby(forecast["part_number"]).sum()
    return units * price.reindex(units.index).astype(float)


def vintage_reason(reasons: Iterable[str], vintage: int) -> str:
    """Why a later vintage was published: what its rows' reasons begin with, the row's own reason
    left out.
    """
    texts = [text for text in reasons if text]
    if not texts:
        return ""
    first, last = min(texts), max(texts)
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
        min(len(first), len(last)),
    )
    return first[:same].removeprefix(f"vintage {vintage}: ").rstrip("; ")


def monthly_report(
    data: ReportData,
    lists: Sequence[Watchlist],
    history: pd.DataFrame,
    descriptions: Mapping[str, str],
    made_from: str,
) -> str:
    """The page. The same arguments give the same text.

    history: part_number, yyyymm, demand_qty of the parts on the lists; descriptions by part number;
    ``made_from`` identifies what the page was made from, and stands in its head.
    """
    return template("report.html").render(
        data=data,
        made_from=made_from,
        script=SORTING,
        script_hash=base64.b64encode(hashlib.sha256(SORTING.encode()).digest()).decode(),
        summary=_summary(data),
        pictures={
            # The title first: the picture is drawn without it.
            name: image(plots.title_of(figure), plots.svg(figure))
            for name, figure in figures(data, history, lists).items()
        },
        coming=_coming_table(data),
        interval=_interval_sentence(data),
        classes=_class_table(data),
        changes=_change_table(data),
        moved=_moved_table(data),
        causes=_cause_table(data),
        served_by=_model_table(data),
        vintages=[row for row in data.vintages.to_dict("records") if row["vintage"] > 1],
        weak=[
            table
            for table in (_served_table(data), _lag_table(data), *_evidence_tables(data))
            if table.rows
        ],
        tested=tested_sentence(data.accuracy, data.anomalies, data.origin, data.anomaly_rate),
        anomalies=_anomaly_table(data, descriptions),
        decided=[table for table in (_decision_table(data), _retraining_table(data)) if table.rows],
        lists=[(found, _part_rows(data, found, history, descriptions)) for found in lists],
        shown=SHOWN_PARTS,
        wrong=WRONG,
        limits=(BIAS_LIMIT, COVERAGE_LIMITS),
    )


def figures(
    data: ReportData, history: pd.DataFrame, lists: Sequence[Watchlist]
) -> dict[str, Figure]:
    """The pictures of the page by name. history: as for monthly_report."""
    totals, by_class = _totals(data, "all"), _totals(data, "demand_class")
    by_lag = pooled(_classes_and_all(data.accuracy), ["segment", "lag"])
    simulated = data.is_simulated
    return {
        "forecast": plots.served_forecast(data.demand, totals, simulated),
        "by_class": plots.forecast_by_class(
            data.judged,
            by_class.rename(columns={"segment": "demand_class"}),
            data.sold_by_class,
            simulated,
        ),
        "largest_errors": largest_errors(data, history, lists),
        "anomalies": plots.anomalies(data.anomalies, history, data.served_ahead, simulated),
        "error_by_lag": plots.error_by_lag(by_lag, simulated),
        "coverage_by_lag": plots.coverage_by_lag(by_lag, simulated),
        "value_added": plots.value_added(data.accuracy, simulated),
        "value_by_version": plots.value_by_version(data.decisions, simulated),
    }


def largest_errors(data: ReportData, history: pd.DataFrame, lists: Sequence[Watchlist]) -> Figure:
    """The WORST_PARTS parts that were forecast worst, beside what was forecast for them. history:
    as for monthly_report.
    """
    wrong = next((list(found.rows["part_number"]) for found in lists if found.title == WRONG), [])[
        :WORST_PARTS
    ]
    said = _numbers(data.former[data.former["part_number"].isin(wrong)])
    ordered = said.assign(
        place=said["part_number"].map({part: place for place, part in enumerate(wrong)})
    ).sort_values("place")
    return plots.largest_errors(
        history[history["part_number"].isin(wrong)], ordered, data.is_simulated
    )


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


WRONG = "Largest error last month"


def _costly(data: ReportData) -> Watchlist:
    forecast = _numbers(data.forecast)
    cost = expected_costs(forecast, _prices(data), data.costs)
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
    return _watchlist(
        data, "Largest expected cost of error", meaning, "expected cost", cost[cost > 0], told
    )


def _wrong(data: ReportData) -> Watchlist | None:
    said = _numbers(data.former)
    said = said[said["target_yyyymm"] == data.origin].set_index("part_number")
    if said.empty:
        return None
    sold = data.actual.set_index("part_number")["demand_qty"].reindex(said.index)
    missed = (sold - said["forecast_qty"]).abs()
    value = _valued(missed[missed > 0], data)
    told = {
        part: f"sold {qty(sold[part])}, forecast {_interval(said.loc[part])}"
        for part in _largest(value)
    }
    meaning = (
        f"Demand of {month_name(data.origin)} against the forecast of the month before, in money."
    )
    return _watchlist(data, WRONG, meaning, "error", value, told)


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
    value = _valued((sums["forecast_qty"] - sums["former_qty"]).abs(), data)
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
    return _watchlist(data, "Forecasts that jumped", meaning, "change", value, told)


def _newly_rare(data: ReportData) -> Watchlist | None:
    now, then = _by_part(data.forecast), _by_part(data.former)
    if then.empty:
        return None
    was = then["demand_class"].reindex(now.index)
    changed = now[now["demand_class"].isin(RARE) & was.isin(STEADY) & (now["status"] != "excluded")]
    value = _valued(
        _numbers(data.forecast).groupby("part_number")["forecast_qty"].sum().reindex(changed.index),
        data,
    )
    told = {
        part: f"{was[part]} until the forecast before, {changed.at[part, 'demand_class']} now"
        for part in _largest(value)
    }
    meaning = (
        "Sold nearly every month until now, and now with months of nothing in between: a stock rule"
        " for steady parts misleads."
    )
    return _watchlist(data, "Newly intermittent", meaning, "forecast value", value, told)


def _newly_dead(data: ReportData) -> Watchlist | None:
    now, then = _by_part(data.forecast), _by_part(data.former)
    if then.empty:
        return None
    was = then["status"].reindex(now.index)
    dead = now[(now["status"] == "excluded") & was.notna() & (was != "excluded")]
    expected = (
        _numbers(data.former).groupby("part_number")["forecast_qty"].sum().reindex(dead.index)
    )
    value = _valued(expected.fillna(0.0), data)
    told = {
        part: (
            f"{dead.at[part, 'reason'] or 'not active'}; {qty(expected[part])} was expected before"
        )
        for part in _largest(value)
    }
    return _watchlist(
        data, "Newly dead", "Forecast until now, and not any more.", "forecast before", value, told
    )


def _watchlist(
    data: ReportData,
    title: str,
    meaning: str,
    figure: str,
    value: pd.Series,
    told: Mapping[str, str],
) -> Watchlist:
    parts = _largest(value)
    known = _by_part(data.forecast)["demand_class"].combine_first(
        _by_part(data.former)["demand_class"]
    )
    abc = data.features.drop_duplicates("part_number").set_index("part_number")["abc_class"]
    rows = pd.DataFrame(
        {
            "part_number": parts,
            "demand_class": [known.get(part, "") for part in parts],
            "abc_class": [abc.get(part, "") for part in parts],
            "figure": [float(value[part]) for part in parts],
            "told": [told[part] for part in parts],
        }
    )
    return Watchlist(title, meaning, figure, len(value), rows)


def _largest(value: pd.Series) -> list[str]:
    """The parts with the largest values, those without one last, equals in order of part number."""
    ordered = value.rename("value").rename_axis("part_number").reset_index()
    return list(
        ordered.sort_values(["value", "part_number"], ascending=[False, True], na_position="last")[
            "part_number"
        ].head(SHOWN_PARTS)
    )


def _valued(units: pd.Series, data: ReportData) -> pd.Series:
    return units.astype(float) * _prices(data).reindex(units.index).astype(float)


def _prices(data: ReportData) -> pd.Series:
    return data.features.drop_duplicates("part_number").set_index("part_number")["unit_price"]


def _interval(row: pd.Series) -> str:
    return f"{qty(row['forecast_qty'])} ({qty(row['q10'])} to {qty(row['q90'])})"


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["horizon"] > 0]


def _by_part(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates("part_number").set_index("part_number")


def _classes_and_all(accuracy: pd.DataFrame) -> pd.DataFrame:
    return accuracy[accuracy["segment_kind"].isin(["all", "demand_class"])]


def _summary(data: ReportData) -> list[str]:
    """What a reader should know who reads nothing else."""
    served = _numbers(data.forecast)
    by_month = served.groupby("target_yyyymm")["forecast_qty"].sum()
    states = _by_part(data.forecast)["status"].value_counts()
    told = []
    if len(by_month):
        last_year = data.demand.set_index("yyyymm")["demand_qty"].reindex(
            [month - 100 for month in by_month.index]
        )
        told.append(
            f"{qty(by_month.iloc[0])} units are expected in {month_name(by_month.index[0])}"
            f"{_first_interval(data)} and {qty(by_month.sum())} through"
            f" {month_name(by_month.index[-1])}."
        )
        if last_year.notna().all() and last_year.sum() > 0:
            told.append(
                f"That is {_more_or_less(by_month.sum() / last_year.sum() - 1)} than in the same"
                " months a year before."
            )
    kinds = (
        ("forecast", "by the champion of their class"),
        ("guarded", "by the baseline, since their history does not bear out the model's path"),
        ("fallback", "by the baseline or a stand-in"),
        ("new_part", "new"),
    )
    counted = [f"{states[name]:,} {words}" for name, words in kinds if name in states]
    active = (
        f"{served['part_number'].nunique():,} parts are forecast ({', '.join(counted) or 'none'})"
    )
    told.append(f"{active}; {states.get('excluded', 0):,} are not active.")
    both = data.compared.dropna(subset=["forecast_qty", "former_qty"])
    if data.before is None:
        told.append(
            "This is the first forecast that was published: there is no earlier one to compare it"
            " with."
        )
    elif len(both) and both["former_qty"].sum() > 0:
        told.append(
            f"For the parts and months that the forecast of {month_name(data.before)} had too, the"
            f" total is {_more_or_less(both['forecast_qty'].sum() / both['former_qty'].sum() - 1)}."
        )
    last = data.accuracy[
        (data.accuracy["yyyymm"] == data.origin)
        & (data.accuracy["lag"] == 1)
        & (data.accuracy["segment_kind"] == "all")
    ]
    for row in last.to_dict("records"):
        inside = f"{_share(row['coverage_80'], False)} of parts lay within q10 to q90"
        against = f"{qty(row['forecast_qty'])} forecast a month ahead, {_more_or_less(row['bias'])}"
        told.append(
            f"{qty(row['actual_qty'])} units were sold in {month_name(data.origin)}, and {against};"
            f" {inside}."
        )
    recent = _recent(data)
    promoted = recent[recent["decision"].isin(["promoted", "provisional", "rolled_back"])]
    words = ", ".join(
        f"{row['champion']} for {row['demand_class']}" for row in promoted.to_dict("records")
    )
    told.append(
        f"New champions: {words}." if words else "No champion changed since the forecast before."
    )
    thin = recent[recent["reason"].fillna("").str.contains(THIN, regex=False)]
    if len(thin):
        told.append(
            f"For {', '.join(dict.fromkeys(thin['demand_class']))} {THIN} to promote a model: the"
            " decisions below say what is missing."
        )
    return told


def _coming_table(data: ReportData) -> Table:
    served = _totals(data, "all").set_index("target_yyyymm")
    demand = data.demand.set_index("yyyymm")["demand_qty"]
    rows = []
    for month, row in served.iterrows():
        last_year = float(demand.get(month - 100, math.nan))
        change = row["forecast_qty"] / last_year - 1 if last_year > 0 else math.nan
        rows.append(
            [
                _month_cell(month),
                _qty(row["forecast_qty"]),
                _qty(row["q10"]),
                _qty(row["q90"]),
                _qty(last_year),
                _pct(change, signed=True),
            ]
        )
    return Table(
        "Expected demand of all parts, units",
        ("month", "expected", "q10", "q90", "same month last year", "against it"),
        rows,
    )


def _held(row: Mapping[str, Any]) -> str:
    """How often past totals of a segment fell within the intervals of their time, in words."""
    if not row["origin_month_count"]:
        return "not measured yet"
    return f"{_share(row['coverage_80'], False)} of {row['origin_month_count']:,.0f}"


def _interval_sentence(data: ReportData) -> str:
    """What q10 to q90 of all parts is worth."""
    totals = _totals(data, "all")
    if totals.empty:
        return ""
    row = totals.iloc[0]
    meaning = "q10 to q90 should hold the total four times of five."
    if row["method"] != "joint_errors":
        return (
            f"{meaning} No past total is known yet, so the parts count as going up and down"
            " together, which makes it as wide as they allow."
        )
    held = (
        f" With what was known at their time, {_held(row)} past totals fell within it."
        if row["origin_month_count"]
        else ""
    )
    few = " Few months make it wider." if row["origin_month_count"] < FEW_TOTALS else ""
    return (
        f"{meaning} Its width comes from how past totals of {row['target_month_count']:,.0f}"
        f" months missed together.{held}{few}"
    )


def _first_interval(data: ReportData) -> str:
    totals = _totals(data, "all")
    return (
        ""
        if totals.empty
        else " ({q10} to {q90})".format(
            **{name: qty(float(totals[name].iloc[0])) for name in ("q10", "q90")}
        )
    )


def _totals(data: ReportData, segment_kind: str) -> pd.DataFrame:
    """Rows of the totals of a kind of segment, by month."""
    own = data.totals[data.totals["segment_kind"] == segment_kind]
    return own.sort_values(["segment", "target_yyyymm"])


def _class_table(data: ReportData) -> Table:
    """The months ahead together, and the first of them with its interval."""
    served = _numbers(data.forecast)
    whole = served["forecast_qty"].sum()
    totals = _totals(data, "demand_class")
    first = totals.drop_duplicates("segment").set_index("segment").to_dict("index")
    month = month_name(totals["target_yyyymm"].min()) if len(totals) else "first month"
    rows = []
    for name, own in _ordered_classes(served):
        share = own["forecast_qty"].sum() / whole if whole > 0 else math.nan
        total = first.get(name)
        rows.append(
            [
                _text(name),
                _count(own["part_number"].nunique()),
                _qty(own["forecast_qty"].sum()),
                _pct(share),
                *(_qty(total and total[figure]) for figure in ("forecast_qty", "q10", "q90")),
                _text(_held(total) if total else "–"),
            ]
        )
    heads = ("class", "parts", "expected units", "share", month, "q10", "q90", "past totals within")
    return Table("By demand class, all months ahead and the first", heads, rows)


def _change_table(data: ReportData) -> Table:
    rows = []
    for month, own in data.compared.groupby("target_yyyymm"):
        both = own.dropna(subset=["forecast_qty", "former_qty"])
        came, went = (
            own.loc[own["former_qty"].isna(), "forecast_qty"].sum(),
            own.loc[own["forecast_qty"].isna(), "former_qty"].sum(),
        )
        moved = both["forecast_qty"].sum() - both["former_qty"].sum()
        totals = (own["former_qty"].sum(), own["forecast_qty"].sum())
        rows.append(
            [
                _month_cell(month),
                *map(_qty, totals),
                _qty(moved, True),
                _qty(came, True),
                _qty(-went, True),
            ]
        )
    heads = (
        "month",
        "said before",
        "said now",
        "same parts",
        "parts new in it",
        "parts gone from it",
    )
    return Table("Total of each month, units", heads, rows)


def _cause_table(data: ReportData) -> Table:
    """What the change of each month comes of, on the parts that both forecasts have."""
    rows = [
        [
            _month_cell(month),
            _qty(own["forecast_qty"].sum() - own["former_qty"].sum(), True),
            *(_qty(own[name].sum(), True) for name in CHANGE_PARTS),
        ]
        for month, own in data.changes.groupby("target_yyyymm")
    ]
    heads = (
        *("month", "change", "by late or corrected lines", "by new sales"),
        *("by new fits", "by other models"),
    )
    return Table("What the change comes of, same parts, units", heads, rows)


def _moved_table(data: ReportData) -> Table:
    compared = data.compared.dropna(subset=["forecast_qty", "former_qty"])
    groups = [*_ordered_classes(compared), *([("all parts", compared)] if len(compared) else [])]
    rows = []
    for name, own in groups:
        now, then = own["forecast_qty"].sum(), own["former_qty"].sum()
        stability = (
            (own["forecast_qty"] - own["former_qty"]).abs().sum() / now if now > 0 else math.nan
        )
        change = now / then - 1 if then > 0 else math.nan
        rows.append(
            [_text(name), _qty(then), _qty(now), _pct(change, signed=True), _pct(stability)]
        )
    heads = ("class", "said before", "said now", "change of the total", "mean absolute change")
    return Table("Parts and months that both forecasts have, units", heads, rows)


def _model_table(data: ReportData) -> Table:
    """Which model forecasts each class now, and which did before."""
    then = {str(name): own for name, own in _numbers(data.former).groupby("demand_class")}
    rows = []
    for name, own in _ordered_classes(_numbers(data.forecast)):
        trained = own["trained_yyyymm"].dropna()
        before = _models(then[name]) if name in then else "–"
        when = _month_cell(trained.max()) if len(trained) else _text("–")
        rows.append([_text(name), _text(_models(own)), when, _text(before)])
    return Table("The model that forecasts each class", ("class", "now", "trained", "before"), rows)


def _served_table(data: ReportData) -> Table:
    figures = pooled(
        _classes_and_all(data.accuracy[data.accuracy["lag"] == 1]), ["segment"]
    ).set_index("segment")
    rows = [
        _served_cells(_text(name.replace("all", "all parts")), figures.loc[name])
        for name in _segments(figures.index)
    ]
    return Table(
        f"What was served one month ahead, by class, last {ACCURACY_MONTHS} months at most",
        ("class", *_SERVED_HEADS),
        rows,
    )


def _lag_table(data: ReportData) -> Table:
    figures = pooled(data.accuracy[data.accuracy["segment_kind"] == "all"], ["lag"])
    rows = [
        _served_cells(Cell(f"{lag:.0f}", lag), figures.iloc[place])
        for place, lag in enumerate(figures["lag"])
    ]
    return Table(
        "What was served, all parts, by months ahead", ("months ahead", *_SERVED_HEADS), rows
    )


_SERVED_HEADS = (
    "months",
    "cells",
    "WAPE",
    "WQL",
    "bias",
    "within q10 to q90",
    "value added",
    "mean absolute change",
)


def _served_cells(first: Cell, row: pd.Series) -> list[Cell]:
    return [
        first,
        _count(row["month_count"]),
        _count(row["cell_count"]),
        _ratio(row["wape"]),
        _ratio(row["wql"]),
        _bias(row["bias"]),
        _coverage(row["coverage_80"]),
        _value(row["value_added"]),
        _pct(row["mean_absolute_change"]),
    ]


def _evidence_tables(data: ReportData) -> list[Table]:
    """The serving models on the evidence of the newest training: by class, by ABC class, by months
    ahead.
    """
    if data.evaluation.empty:
        return []
    month = month_name(data.evaluation["yyyymm"].max())
    served = _numbers(data.forecast)
    models = {name: str(own["model"].mode().iloc[0]) for name, own in _ordered_classes(served)}
    found = {
        (r["model"], r["segment_kind"], r["segment"], r["horizon"]): r
        for r in data.evaluation.to_dict("records")
    }

    by_class = []
    for name, model in models.items():
        own, base = (found.get((m, "demand_class", name, 0)) for m in (model, BASELINE))
        if own is None or not _known(own["wql"]):
            continue
        gain = (
            1 - own["wql"] / base["wql"]
            if base and _known(base["wql"]) and base["wql"] > 0
            else math.nan
        )
        cells = (_count(own["cell_count"]), _ratio(own["wql"]), _value(gain), _bias(own["bias"]))
        by_class.append(
            [
                _text(name),
                _text(model),
                *cells,
                _coverage(own["coverage_80"]),
                _coverage(own["calibration_80"]),
            ]
        )
    heads = (
        "class",
        "model",
        "cells",
        "WQL",
        "better than the baseline by",
        "bias",
        "within q10 to q90",
        "calibration (80% is right)",
    )
    tables = [Table(f"The serving models on the evidence of {month}, by class", heads, by_class)]

    by_abc = []
    for model in dict.fromkeys([*models.values(), BASELINE]):
        for segment in ("A", "B", "C"):
            row = found.get((model, "abc_class", segment, 0))
            if row and _known(row["wql"]):
                cells = (
                    _count(row["cell_count"]),
                    _ratio(row["wql"]),
                    _bias(row["bias"]),
                    _coverage(row["calibration_80"]),
                )
                by_abc.append([_text(model), _text(segment), *cells])
    tables.append(
        Table(
            f"The same by ABC class, over all demand classes ({month})",
            ("model", "ABC", "cells", "WQL", "bias", "calibration"),
            by_abc,
        )
    )

    horizons = sorted({int(key[3]) for key in found if key[3]})
    by_horizon = []
    for name, model in models.items():
        values = [
            found.get((model, "demand_class", name, h), {}).get("wql", math.nan) for h in horizons
        ]
        if any(map(_known, values)):
            by_horizon.append([_text(name), _text(model), *map(_ratio, values)])
    ahead = [f"{h} month{'' if h == 1 else 's'}" for h in horizons]
    return [
        *tables,
        Table(f"WQL by class and months ahead ({month})", ("class", "model", *ahead), by_horizon),
    ]


def tested_sentence(
    accuracy: pd.DataFrame, anomalies: pd.DataFrame, month: int, rate: float
) -> str:
    """How many parts of a month were held against what was published, and what came of it."""
    own = anomalies[anomalies["yyyymm"] == month]
    judged = accuracy[(accuracy["yyyymm"] == month) & (accuracy["segment_kind"] == "all")]
    if judged.empty:
        return (
            f"Nothing had been published of {month_name(month)} when it was over, so no anomaly is"
            " claimed, and none is ruled out."
        )
    cells = judged.sort_values("lag")["cell_count"].iloc[0]
    count = int(own["tested_part_count"].iloc[0]) if len(own) else int(cells)
    improbable = {0: "none is", 1: "1 is"}.get(len(own), f"{len(own):,} are")
    return (
        f"{count:,} parts of {month_name(month)} were held against the deciles published before:"
        f" {improbable} improbable. Of months without an anomaly"
        f" {rate:.0%} at most have one claimed, if the deciles are right."
    )


def _anomaly_table(data: ReportData, descriptions: Mapping[str, str]) -> Table:
    rows = []
    for r in data.anomalies.to_dict("records"):
        said = (
            f"{qty(r['forecast_qty'])} ({qty(r['q10'])} to {qty(r['q90'])})"
            if _known(r["forecast_qty"])
            else "nothing"
        )
        label = " by ".join(str(r[n]) for n in ("label", "labelled_by") if not pd.isna(r[n]))
        note = "" if pd.isna(r["label_note"]) else f": {r['label_note']}"
        rows.append(
            [
                _month_cell(r["yyyymm"]),
                _text(r["part_number"]),
                _text(descriptions.get(r["part_number"])),
                _qty(r["demand_qty"]),
                _text(said),
                _text(r["direction"]),
                _number(r["adjusted_p_value"], lambda v: f"{v:.2g}"),
                _qty(r["money_at_stake"]),
                _text(label + note if label else "–"),
            ]
        )
    heads = (
        "month",
        "part",
        "description",
        "demand",
        "published (q10 to q90)",
        "direction",
        "adjusted p",
        "money at stake",
        "label",
    )
    return Table(f"Anomalies of the last {ACCURACY_MONTHS} months, the newest first", heads, rows)


def _decision_table(data: ReportData) -> Table:
    rows = []
    for r in _recent(data).to_dict("records"):
        what = (
            _count(r["decision_number"]),
            _month_cell(r["yyyymm"]),
            *map(_text, (r["demand_class"], r["decision"], r["champion"])),
        )
        rows.append(
            [
                *what,
                _ratio(r["champion_wql"]),
                _ratio(r["baseline_wql"]),
                _text(r["actor"]),
                _text(r["reason"]),
            ]
        )
    return Table(
        "Champions",
        ("number", "month", "class", "decision", "serves", "its WQL", "baseline's", "by", "why"),
        rows,
    )


def _retraining_table(data: ReportData) -> Table:
    names = [
        name
        for name in ("yyyymm", "decision", "cause", "reason", "mode")
        if name in data.retraining
    ]
    rows = [
        [_month_cell(r[n]) if n == "yyyymm" else _text(r[n]) for n in names]
        for r in data.retraining.to_dict("records")
    ]
    return Table(
        "Whether to train again", ["month" if name == "yyyymm" else name for name in names], rows
    )


def _part_rows(
    data: ReportData, found: Watchlist, history: pd.DataFrame, descriptions: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What the page shows of each part on a list."""
    served = _numbers(
        data.forecast[data.forecast["part_number"].isin(found.rows["part_number"])]
    ).sort_values("horizon")
    ahead = dict(tuple(served.groupby("part_number")))
    months = month_range(add_months(data.origin, 1 - HISTORY_MONTHS), data.origin)
    behind = {
        part: own.set_index("yyyymm")["demand_qty"] for part, own in history.groupby("part_number")
    }
    shown = []
    for row in found.rows.to_dict("records"):
        part = row["part_number"]
        sold = behind[part].reindex(months).dropna().tolist() if part in behind else []
        said = ahead.get(part, served[:0])
        line = sparkline(
            sold, *(said[name].astype(float).tolist() for name in ("forecast_qty", "q10", "q90"))
        )
        shown.append({**row, "description": descriptions.get(part) or "", "sparkline": line})
    return shown


def _recent(data: ReportData) -> pd.DataFrame:
    """Decisions since the forecast before, those of the origin's month always among them."""
    after = data.before if data.before is not None else add_months(data.origin, -1)
    return data.decisions[data.decisions["yyyymm"] > after].sort_values("decision_number")


def _models(rows: pd.DataFrame) -> str:
    return ", ".join(sorted(str(model) for model in rows["model"].dropna().unique())) or "–"


def _ordered_classes(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [
        (name, own) for name in DEMAND_CLASSES if len(own := rows[rows["demand_class"] == name])
    ]


def _segments(known: Iterable[str]) -> list[str]:
    return [name for name in (*DEMAND_CLASSES, "all") if name in set(known)]


def template(name: str) -> Template:
    """A page of templates/, which writes quantities and months as people read them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medallion_assets.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"qty": qty, "month": month_name}
    return environment.get_template(name)


def image(title: str, svg: str) -> tuple[str, str]:
    """Address of a picture, which is the picture itself, and its alternative text."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}", title


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value) and math.isfinite(value)


def _number(value: Any, text: Callable[[float], str], mark: str = "") -> Cell:
    return Cell(text(float(value)), float(value), True, mark) if _known(value) else Cell("–", "")


def _text(value: Any) -> Cell:
    text = "" if value is None or pd.isna(value) else str(value)
    return Cell(text, text, False)


def _month_cell(yyyymm: Any) -> Cell:
    return Cell(month_name(yyyymm), float(yyyymm))


def _qty(value: Any, signed: bool = False) -> Cell:
    return _number(value, lambda v: ("+" if signed and v > 0 else "") + qty(v))


def _count(value: Any) -> Cell:
    return _number(value, lambda v: f"{v:,.0f}")


def _ratio(value: Any) -> Cell:
    return _number(value, lambda v: f"{v:.3f}")


def _pct(value: Any, signed: bool = False) -> Cell:
    return _number(value, lambda v: _share(v, signed))


def _bias(value: Any) -> Cell:
    return _number(
        value, _share, "far too high or low" if _known(value) and abs(value) > BIAS_LIMIT else ""
    )


def _coverage(value: Any) -> Cell:
    low, high = COVERAGE_LIMITS
    mark = (
        "interval too narrow"
        if _known(value) and value < low
        else "interval too wide"
        if _known(value) and value > high
        else ""
    )
    return _number(value, lambda v: _share(v, False), mark)


def _value(value: Any) -> Cell:
    return _number(
        value, _share, "worse than the naive forecast" if _known(value) and value < 0 else ""
    )


def _more_or_less(share: float) -> str:
    return f"{abs(share):.0%} {'less' if share < 0 else 'more'}"


def _share(value: float, signed: bool = True) -> str:
    return "–" if not _known(value) else f"{value:+.0%}" if signed else f"{value:.0%}"
