"""The guard on what is about to be served: a path that a part's own history does not bear out gives
way to the baseline's.

Pure frames in, frames out. A model may be right about all parts and absurd about one: a trend of a
short history goes on for a year, a scale is off by a thousand. Limits are wide, since demand does
change; what they stop is no forecast.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from medallion_assets.tables import DECILES

HISTORY_MONTHS = 36
FACTOR = 3.0  # times the largest of the history and the growth of its last year
DECILE_FACTOR = 10.0  # the same for q90
LARGEST_GROWTH = 3.0  # from one year to the next, up or down, that may go on
YEARS = 24  # months of history before a path can be too low

_NUMBERS = ["forecast_qty", *DECILES]


def guarded(
    rows: pd.DataFrame,
    packed: pd.DataFrame,
    largest: float,
    stand_in: Callable[[pd.DataFrame], pd.DataFrame],
) -> pd.DataFrame:
    """The forecast rows of a bucket, with those of ``stand_in`` for every part whose path its
    history does not bear out, and a column ``guard``: why, None for all other rows.

    rows: SERVED_COLUMNS. packed: one row per part with part_number and demand_quantities, units,
    of every month from its first through the origin. largest: the largest demand of any part in a
    month, units; it limits parts that were never sold. stand_in: forecasts the parts of some rows
    of ``packed``.
    """
    why = not_borne_out(rows, packed, largest)
    if not why:
        return rows.assign(guard=None)
    is_stopped = rows["part_number"].isin(list(why))
    replaced = stand_in(packed[packed["part_number"].isin(list(why))].reset_index(drop=True))
    replaced = replaced.assign(guard=replaced["part_number"].map(why))
    both = pd.concat([rows[~is_stopped].assign(guard=None), replaced], ignore_index=True)
    return both.sort_values(["part_number", "horizon"], kind="stable", ignore_index=True)


def not_borne_out(rows: pd.DataFrame, packed: pd.DataFrame, largest: float) -> dict[str, str]:
    """For each part, why its history does not support its path. Arguments as for ``guarded``.

    A month is too high above FACTOR times the largest month of the last three years and the growth
    of the last year; q90 above DECILE_FACTOR times that month. All months together are too high
    above FACTOR times the most that so many months in a row had, and its growth, and too low below
    a FACTORth of the least, and its decline; a part of less than two years is never too low. The
    limit of a part that was never sold is FACTOR times the largest month of any part.
    """
    if rows.empty:
        return {}
    histories = dict(zip(packed["part_number"], packed["demand_quantities"], strict=True))
    found = {}
    for part, path in rows.groupby("part_number", sort=True):
        sold = np.asarray(histories[part], dtype=float)[-HISTORY_MONTHS:]
        if why := _refusal(path[_NUMBERS].to_numpy(dtype=float), sold, largest):
            found[str(part)] = why
    return found


def _refusal(path: np.ndarray, sold: np.ndarray, largest: float) -> str | None:
    """path: expected demand and deciles [month, number]; sold: the newest months of history."""
    if not np.isfinite(path).all():
        return "the model gave numbers that are not finite"
    expected, highest_decile = path[:, 0], path[:, -1]
    peak, growth = float(sold.max(initial=0.0)), _growth(sold)
    if not peak > 0:
        limit = FACTOR * largest
        return (
            f"the model expected {_qty(expected.max())} in a month of a part that was never sold,"
            f" where no part ever sold more than {_qty(largest)}"
            if expected.max() > limit
            else None
        )
    rises = max(growth, 1.0)
    if expected.max() > FACTOR * rises * peak:
        return (
            f"the model expected up to {_qty(expected.max())} in a month; the largest of the last"
            f" {len(sold)} months was {_qty(peak)}"
        )
    if highest_decile.max() > DECILE_FACTOR * rises * peak:
        return (
            f"q90 of the model was up to {_qty(highest_decile.max())} in a month; the largest of"
            f" the last {len(sold)} months was {_qty(peak)}"
        )
    length = min(len(expected), len(sold))
    in_a_row = np.convolve(sold, np.ones(length), "valid") / length
    most, least = float(in_a_row.max()), float(in_a_row[-YEARS:].min())
    # Few sales say little of the most that may be sold; one month's limit is enough for them.
    if np.count_nonzero(sold) > length and expected.mean() > FACTOR * rises * most:
        return (
            f"the model expected {_qty(expected.mean())} a month on average; the most that"
            f" {length} months in a row had was {_qty(most)}"
        )
    if len(sold) >= YEARS and expected.mean() < min(growth, 1.0) * least / FACTOR:
        return (
            f"the model expected {_qty(expected.mean())} a month on average; the least that"
            f" {length} months in a row had was {_qty(least)}"
        )
    return None


def _growth(sold: np.ndarray) -> float:
    """Demand of the last year over the year before, within limits. A shorter history says nothing:
    the part may grow as much as any, and need not fall.
    """
    if len(sold) < YEARS:
        return LARGEST_GROWTH
    last, before = sold[-12:].sum(), sold[-24:-12].sum()
    if not before > 0:
        return LARGEST_GROWTH
    return float(np.clip(last / before, 1 / LARGEST_GROWTH, LARGEST_GROWTH))


def _qty(value: float) -> str:
    return f"{value:,.0f} units" if value >= 10 else f"{value:.3g} units"
