"""How far the expected demand of each class lies beside what is sold, learned from past cells and
trusted no further than they can tell.

How a correction is applied lies in combination.py. Pure functions of frames.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medallion_assets.uncertainty import ratio_of_sums

MIN_CELLS = 200  # of a class; fewer say too little of demand that rarely comes
MIN_MONTHS = 3  # an error over months needs two waves over them
LEVELS_ALLOWED = (0.5, 2.0)


def learn_levels(past: pd.DataFrame) -> dict[str, float]:
    """Factors on expected demand by demand class; a class that is not among them keeps its level.

    past: part, target_yyyymm, demand_class, forecast_qty and actual_qty, units, of past cells. A
    class has sold b more than was expected, as a share of that. The factor is 1 + b times (1 -
    variance of b / b^2), not below zero (positive-part estimator, James and Stein 1961): a bias
    counts as far as it stands out from its error. The error is over parts and over target months,
    so one month in which all demand rose is one observation.
    """
    levels = {}
    for name, cells in past.groupby("demand_class"):
        missed = (cells["actual_qty"] - cells["forecast_qty"]).to_numpy(dtype=float)
        rows = pd.DataFrame({"missed": missed, "forecast": cells["forecast_qty"].to_numpy()})
        of_parts = rows.groupby(cells["part"].to_numpy()).sum()
        of_months = rows.groupby(cells["target_yyyymm"].to_numpy()).sum()
        if len(cells) < MIN_CELLS or len(of_months) < MIN_MONTHS:
            continue
        parts, months = (
            (sums["missed"].to_numpy(dtype=float), sums["forecast"].to_numpy(dtype=float))
            for sums in (of_parts, of_months)
        )
        if not parts[1].sum() > 0:
            continue
        bias = ratio_of_sums(parts, months)
        if abs(bias.value) > bias.error:
            trusted = bias.value * (1 - (bias.error / bias.value) ** 2)
            levels[str(name)] = float(np.clip(1 + trusted, *LEVELS_ALLOWED))
    return levels
