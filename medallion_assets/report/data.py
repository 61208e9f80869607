"""What a report is made from, and the figures of it that several of its parts need.

Pure: frames in, frames out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from medallion_assets.partitions import add_months
from medallion_assets.tables import DECILES, DEMAND_CLASSES
from resources.settings import PromotionSettings

CODE_VERSION = "7"

SHOWN_PARTS = 20

HISTORY_MONTHS = 24

ACCURACY_MONTHS = 12

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
        now, then = with_numbers(self.forecast), with_numbers(self.former)
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


def valued(units: pd.Series, data: ReportData) -> pd.Series:
    """Money of units by part_number at the prices of the origin; NaN without a price."""
    return units.astype(float) * prices_of(data).reindex(units.index).astype(float)


def prices_of(data: ReportData) -> pd.Series:
    """unit_price at the origin by part_number."""
    return data.features.drop_duplicates("part_number").set_index("part_number")["unit_price"]


def with_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a forecast that hold a quantity."""
    return rows[rows["horizon"] > 0]


def by_part(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by part_number, the first of each part."""
    return rows.drop_duplicates("part_number").set_index("part_number")


def classes_and_all(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Rows of gold.forecast_accuracy by demand class and of all parts."""
    return accuracy[accuracy["segment_kind"].isin(["all", "demand_class"])]


def totals_of(data: ReportData, segment_kind: str) -> pd.DataFrame:
    """Rows of the totals of a kind of segment, by month."""
    own = data.totals[data.totals["segment_kind"] == segment_kind]
    return own.sort_values(["segment", "target_yyyymm"])


def recent_decisions(data: ReportData) -> pd.DataFrame:
    """Decisions since the forecast before, those of the origin's month always among them."""
    after = data.before if data.before is not None else add_months(data.origin, -1)
    return data.decisions[data.decisions["yyyymm"] > after].sort_values("decision_number")


def ordered_classes(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of each demand class that has any, in the order of the classes."""
    return [
        (name, own) for name in DEMAND_CLASSES if len(own := rows[rows["demand_class"] == name])
    ]


def segments(known: Iterable[str]) -> list[str]:
    """The known ones among the demand classes and "all", in that order."""
    return [name for name in (*DEMAND_CLASSES, "all") if name in set(known)]
