"""Demand that is improbable under what was published before it: the rows of gold.demand_anomaly.

Only published deciles decide, by no model of its own. Spark picks what was published; the test of a
month is worked out here in numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from pyspark.sql import functions as F

from medallion_assets.served.accuracy import served_cells
from medallion_assets.tables import DECILES, LEVELS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

    Floats = NDArray[np.float64]

OWN, ALL_PARTS = "part", "all_parts"
HIGH, LOW = "high", "low"
# Beyond q90 demand is held for a generalised Pareto's: of parts whose q90 is twice their median and
# more it falls with the third power of the distance, of steadier ones faster. An exponential claims
# far too much on real orders: docs/lab/anomalies.md.
TAIL_SHAPE = 1 / 3
# Of the root of demand: no demand is held for steadier than orders that come by chance, which have
# about this scale on either side of their deciles.
POISSON_SCALE = 0.8

_OUTER = LEVELS[0]  # what lies below q10, and above q90


class Chances(NamedTuple):
    """Probabilities of demand up to a quantity, and of more."""

    up_to: Floats
    more: Floats


def published_forecasts(
    demand_forecast: DataFrame, months: Sequence[int], numbers: Mapping[str, str]
) -> DataFrame:
    """What was published of each part for ``months`` before they began: of the newest origin before
    the month that reaches it the vintage that gold.forecast_accuracy judges.

    demand_forecast: gold.demand_forecast of the origins before. numbers: as for forecast_accuracy.
    Columns: part_number, target_yyyymm, origin, horizon, vintage, is_backfilled, forecast_qty,
    deciles, model, status, demand_class.
    """
    cells = served_cells(demand_forecast, months, numbers).where(
        F.col("origin") < F.col("target_yyyymm")
    )
    newest = cells.groupBy("target_yyyymm").agg(F.max("origin").alias("newest_origin"))
    return (
        cells.join(F.broadcast(newest), "target_yyyymm")
        .where(F.col("origin") == F.col("newest_origin"))
        .drop("newest_origin", "trained_yyyymm")
    )


def demand_anomaly(
    month: int, published: pd.DataFrame, demand: pd.DataFrame, rate: float
) -> pd.DataFrame:
    """Parts whose demand of a month is improbable, and which make a share of at most ``rate`` of
    wrong claims: rows of gold.demand_anomaly without prices and labels, by part number.

    published: one row per part as ``published_forecasts`` gives them, of one origin; where it is
    empty nothing is claimed. demand: part_number, demand_qty of the month.

    Of every part the randomised PIT is drawn in [F(y - 1), F(y)] by a digest of part and month
    (Czado, Gneiting and Held 2009), p_value is its two-sided tail, and adjusted_p_value that of
    Benjamini and Hochberg (1995). Demand within q10 to q90 is never claimed, whatever was drawn. A
    part that sold though nothing was published of it is held against the deciles of all parts
    together, given that a part sells, and only more than these let expect is claimed. So is one all
    of whose deciles are 0, given the tenth that is left: they say how rarely it sells, not how
    much.
    """
    from scipy.stats import false_discovery_control

    finite = np.isfinite(published[["forecast_qty", *DECILES]].astype(float)).all(axis=1)
    published = published[finite]
    if published.empty or demand.empty:
        return pd.DataFrame()
    tested = demand.merge(published, on="part_number", how="left")
    has_own = tested["forecast_qty"].notna()
    tested = tested[has_own | (tested["demand_qty"] > 0)]
    tested = tested.sort_values("part_number", ignore_index=True)
    has_own = tested["forecast_qty"].notna().to_numpy()
    sold = tested["demand_qty"].to_numpy(dtype=float)
    lots = drawn(tested["part_number"], month)
    more, up_to = np.ones(len(tested)), np.ones(len(tested))
    own = tested[has_own]
    deciles, expected = own[list(DECILES)].to_numpy(float), own["forecast_qty"].to_numpy(float)
    up_to[has_own], more[has_own] = pit(deciles, expected, sold[has_own], lots[has_own])
    is_unseen = ~has_own | (tested["q90"] == 0).to_numpy() & (sold > 0)
    beyond_all = _beyond_all(published, sold[is_unseen], lots[is_unseen])
    more[is_unseen] = np.where(
        has_own[is_unseen], np.maximum(more[is_unseen], _OUTER * beyond_all), beyond_all
    )
    is_high = more < up_to
    p_value = np.where(has_own, np.minimum(2 * np.minimum(more, up_to), 1.0), more)
    outside = np.where(is_high, sold > tested["q90"], sold < tested["q10"]) | ~has_own
    tested = tested.assign(
        yyyymm=month,
        direction=np.where(is_high, HIGH, LOW),
        p_value=p_value,
        adjusted_p_value=false_discovery_control(p_value),
        anomaly_rate=rate,
        tested_part_count=len(tested),
        basis=np.where(is_unseen, ALL_PARTS, OWN),
        **{name: published[name].iloc[0] for name in ("origin", "horizon", "vintage")},
        is_backfilled=bool(published["is_backfilled"].iloc[0]),
    )
    return tested[outside & (tested["adjusted_p_value"] <= rate)].reset_index(drop=True)


def anomaly_rows(
    found: pd.DataFrame, prices: pd.DataFrame, labels: pd.DataFrame
) -> list[dict[str, Any]]:
    """Rows of gold.demand_anomaly. found: as ``demand_anomaly`` gives them; prices: part_number,
    unit_price; labels: those that hold in the month (labels.standing).
    """
    if found.empty:
        return []
    said = labels[["part_number", "label", "note", "actor"]].rename(
        columns={"note": "label_note", "actor": "labelled_by"}
    )
    rows = found.merge(prices, on="part_number", how="left").merge(
        said, on="part_number", how="left"
    )
    missed = (rows["demand_qty"] - rows["forecast_qty"].fillna(0.0)).abs()
    rows = rows.assign(money_at_stake=missed * rows["unit_price"].astype(float))
    return [_plain_row(row) for row in rows.to_dict("records")]


def _plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if pd.isna(value) else _plain(value) for name, value in row.items()}


def pit(deciles: Floats, expected: Floats, sold: Floats, lots: Floats) -> Chances:
    """The randomised PIT of each row, and 1 less it, each exact where it is small.

    deciles [row, decile], expected, sold: units; lots: in [0, 1). Demand that is no whole number is
    taken as continuous: there is nothing to draw.
    """
    at = chances(deciles, expected, sold)
    before = chances(deciles, expected, np.where(sold == np.floor(sold), sold - 1, sold))
    up_to = before.up_to + lots * (at.up_to - before.up_to)
    more = at.more + (1 - lots) * (before.more - at.more)
    return Chances(up_to, more)


def chances(deciles: Floats, expected: Floats, qty: Floats) -> Chances:
    """The distribution that deciles [row, decile] and expected demand stand for, at ``qty``; units.

    Between deciles probability is even. Below q10 it falls exponentially from 10 %, and there is
    none below 0; above q90 it falls as a generalised Pareto's, whose shape is TAIL_SHAPE times the
    distance from median to q90 over the median, at most TAIL_SHAPE. The scales are those
    at which such a tail would go through the median, and no less than those of orders that come by
    chance. The upper one is also no less than that from q80 to q90, and than what brings the mean
    up to ``expected``: what a part sells that rarely sells is not seen in its deciles.
    """
    q10, q50, q80, q90 = (deciles[:, place] for place in (0, 4, 7, 8))
    by_chance = POISSON_SCALE * np.sqrt(np.maximum(np.maximum(q90, expected), _OUTER))
    lower = np.maximum((q50 - q10) / np.log(0.5 / _OUTER), by_chance)
    tenths = [q10 + lower * np.expm1(-q10 / lower), *((deciles[:, :-1] + deciles[:, 1:]).T / 2)]
    beyond = expected / _OUTER - np.sum(tenths, axis=0) - q90
    spread = np.divide(q90 - q50, q50, out=np.ones_like(q90), where=q50 > 0)
    shape = np.clip(TAIL_SHAPE * spread, 1e-6, TAIL_SHAPE)  # at 0 it is an exponential

    def scale(below: Floats, share: float) -> Floats:
        return shape * (q90 - below) / np.expm1(shape * np.log(share / _OUTER))

    upper = np.maximum.reduce([scale(q50, 0.5), scale(q80, 0.2), beyond * (1 - shape), by_chance])
    up_to = np.where(qty < 0, 0.0, _OUTER * np.exp(-np.maximum(q10 - qty, 0.0) / lower))
    for place, level in enumerate(LEVELS[:-1]):
        low, high = deciles[:, place], deciles[:, place + 1]
        share = np.divide(qty - low, high - low, out=np.zeros_like(qty), where=high > low)
        up_to = np.where((qty >= low) & (qty < high), level + _OUTER * share, up_to)
    more = _OUTER * np.exp(-np.log1p(shape * np.maximum(qty - q90, 0.0) / upper) / shape)
    is_beyond = qty >= q90
    return Chances(np.where(is_beyond, 1 - more, up_to), np.where(is_beyond, more, 1 - up_to))


def drawn(parts: Sequence[str] | pd.Series, month: int) -> Floats:
    """A number in [0, 1) for each part, the same whenever and wherever it is drawn."""
    digests = [hashlib.sha256(f"{month}/{part}".encode()).digest() for part in parts]
    return np.array([int.from_bytes(digest[:6], "big") / 2**48 for digest in digests])


def _beyond_all(published: pd.DataFrame, sold: Floats, lots: Floats) -> Floats:
    """Randomised probability that a part of all that were published sells as much, given that it
    sells. Where all deciles of all parts are 0 nothing is known of sizes, and it is 1.
    """
    seen = published[published["q90"] > 0]
    if seen.empty:
        return np.ones(len(sold))
    deciles, expected = seen[list(DECILES)].to_numpy(float), seen["forecast_qty"].to_numpy(float)
    before = np.where(sold == np.floor(sold), sold - 1, sold)
    known = {
        qty: chances(deciles, expected, np.full(len(expected), qty)).more.mean()
        for qty in {0.0, *map(float, sold), *map(float, before)}
    }
    at = np.array([known[float(qty)] for qty in sold])
    earlier = np.array([known[float(qty)] for qty in before])
    return np.minimum(1.0, (at + (1 - lots) * (earlier - at)) / known[0.0])


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
