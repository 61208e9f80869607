"""Small frames of demand and features for tests of models, computed plainly from the comments of
medallion_assets/tables.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from medallion_assets.partitions import add_months, month_range
from medallion_assets.tables import DEMAND_FEATURES, LAGS

ADI_LIMIT, CV2_LIMIT, NEW_PART_MONTHS, ACTIVE_MONTHS = 1.32, 0.49, 6, 24


def demand_frame(series: Mapping[str, Sequence[float]], origin: int) -> pd.DataFrame:
    """part_number, yyyymm, demand_qty: each series ends at the origin."""
    parts = []
    for part_number in sorted(series):
        values = np.asarray(series[part_number], dtype=float)
        months = month_range(add_months(origin, 1 - len(values)), origin)
        parts.append(
            pd.DataFrame({"part_number": part_number, "yyyymm": months, "demand_qty": values})
        )
    return pd.concat(parts, ignore_index=True)


def feature_frame(demand: pd.DataFrame, unit_price: float = 2.0) -> pd.DataFrame:
    """The columns of silver.demand_features for every part and month of ``demand``, at one price, a
    customer and an order a sale.
    """
    demand = demand.sort_values(["part_number", "yyyymm"], ignore_index=True)
    by_part = demand.groupby("part_number", sort=False)["demand_qty"]
    qty = demand["demand_qty"]
    is_sold = (qty > 0).astype(float)

    def rolled(values: pd.Series, months: int, statistic: str) -> pd.Series:
        return getattr(
            values.groupby(demand["part_number"], sort=False).rolling(months, min_periods=1),
            statistic,
        )().to_numpy()

    position = by_part.cumcount()
    sold_at = position.where(qty > 0)
    first_sale = (
        sold_at.groupby(demand["part_number"], sort=False)
        .cummin()
        .groupby(demand["part_number"], sort=False)
        .ffill()
    )
    last_sale = sold_at.groupby(demand["part_number"], sort=False).ffill()
    columns: dict[str, object] = {
        "yyyymm": demand["yyyymm"],
        "part_number": demand["part_number"],
        "region": "North",
        "history_months": position + 1,
        "months_since_first_sale": position - first_sale,
        "months_since_last_sale": position - last_sale,
        "unit_price": np.where(first_sale.notna(), unit_price, np.nan),
        "price_ratio_12": np.where(first_sale.notna(), 1.0, np.nan),
        "month_of_year": demand["yyyymm"] % 100,
    }
    for lag in LAGS:
        columns[f"demand_lag_{lag}"] = by_part.shift(lag)
    for months in (3, 6, 12, 24):
        columns[f"demand_mean_{months}"] = rolled(qty, months, "mean")
    for months in (6, 12, 24):
        columns[f"demand_std_{months}"] = rolled(qty, months, "std")
    columns["demand_max_12"] = rolled(qty, 12, "max")
    columns["nonzero_share_12"] = rolled(is_sold, 12, "mean")
    nonzero = qty.where(qty > 0)
    columns["nonzero_mean_24"] = rolled(nonzero, 24, "mean")
    columns["adi"] = 1 / pd.Series(rolled(is_sold, 24, "mean")).replace(0, np.nan)
    columns["cv2"] = (rolled(nonzero, 24, "std") / columns["nonzero_mean_24"]) ** 2  # type: ignore[operator]
    columns["order_count_12"] = rolled(is_sold, 12, "sum")
    columns["customer_count_12"] = columns["nonzero_share_12"]
    columns["returned_share_12"] = 0.0
    columns["revenue_12"] = rolled(qty, 12, "sum") * unit_price
    for name, months, power in (("naive_rmse_scale", 1, 2), ("seasonal_mae_scale", 12, 1)):
        change = by_part.diff(months).abs() ** power
        mean = change.groupby(demand["part_number"], sort=False).expanding().mean().to_numpy()
        columns[name] = mean ** (1 / power)
    frame = pd.DataFrame(columns)
    frame["is_active"] = ~(frame["months_since_last_sale"] >= ACTIVE_MONTHS)
    frame["demand_class"] = _demand_class(frame)
    frame["abc_class"] = _abc_class(frame)
    return frame[[column.name for column in DEMAND_FEATURES.columns]]


def at_origin(features: pd.DataFrame, origin: int) -> pd.DataFrame:
    """The one row per part that ``predict`` receives."""
    return features[features["yyyymm"] == origin].reset_index(drop=True)


def past_frame(
    forecasts: pd.DataFrame, origin: int, features: pd.DataFrame, demand: pd.DataFrame
) -> pd.DataFrame:
    """A model's forecasts of one origin as the rows of ``own_past``."""
    rows = forecasts.assign(
        origin=origin,
        target_yyyymm=[add_months(origin, int(h)) for h in forecasts["horizon"]],
    )
    known = at_origin(features, origin)[
        ["part_number", "demand_class", "demand_mean_12", "demand_std_12"]
    ]
    rows = rows.merge(known, on="part_number")
    actual = demand.rename(columns={"yyyymm": "target_yyyymm", "demand_qty": "actual_qty"})
    return rows.merge(
        actual[["part_number", "target_yyyymm", "actual_qty"]], on=["part_number", "target_yyyymm"]
    )


def _demand_class(features: pd.DataFrame) -> np.ndarray:
    is_new = ~(features["months_since_first_sale"] >= NEW_PART_MONTHS)
    is_dense = features["adi"] < ADI_LIMIT
    is_even = ~(features["cv2"] >= CV2_LIMIT)
    return np.select(
        [is_new, is_dense & is_even, is_dense, is_even],
        ["new", "smooth", "erratic", "intermittent"],
        default="lumpy",
    )


def _abc_class(features: pd.DataFrame) -> pd.Series:
    ranked = features.sort_values(["yyyymm", "revenue_12"], ascending=[True, False])
    by_month = ranked.groupby("yyyymm")["revenue_12"]
    share = by_month.cumsum() / by_month.transform("sum").replace(0, np.nan)
    before = share.groupby(ranked["yyyymm"]).shift(fill_value=0.0)
    return pd.Series(
        np.select([before < 0.8, before < 0.95], ["A", "B"], default="C"), index=ranked.index
    ).reindex(features.index)
