"""How often a promotion is a mistake, and how soon a better model is promoted, on simulated
wholesalers.

    python -m benchmarks.promotion_errors

A wholesaler has 100 parts of uneven size, a model that serves and a challenger, and twelve months
in each of which the evidence of 6 origins decides. Both models err by part, and what they err by
lasts for months. With shared shocks demand of all parts rises and falls together, and each model
misses all parts at once. The challenger is equal in expectation, or its errors are smaller. Beside
the rule of promotion.py the table shows the one before: a percentile bootstrap over parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from medallion_assets.champion.evaluation import LOSS_GROUPS
from medallion_assets.champion.promotion import BASELINE, Contestant, Losses, decide
from medallion_assets.champion.uncertainty import Floats
from medallion_assets.partitions import add_months
from medallion_assets.tables import LEVELS
from resources.settings import PromotionSettings

INCUMBENT, CHALLENGER = "incumbent", "challenger"
PARTS, ORIGINS, MONTHS = 100, 6, 12
NOISE = 0.5  # of the logarithm of a part's monthly demand
SHOCK = 0.15  # of that of all parts at once, where there are shocks
PART_ERROR, SHARED_ERROR = 0.2, 0.08  # of a model's forecast: by part, and of all parts at once
LASTING = 0.8  # correlation of an error with that of a month before
FIRST = 202001
DRAWS = 1_000  # of the former rule


@dataclass(frozen=True)
class Wholesaler:
    """Losses [model, origin, horizon, part] and demand [origin, horizon, part], units."""

    loss: Floats
    demand: Floats


def simulated(seed: int, horizon: int, is_shared: bool, smaller: float) -> Wholesaler:
    """One wholesaler; ``smaller``: size of the challenger's errors in those of the incumbent's."""
    generator = np.random.default_rng([seed, horizon])
    origins = ORIGINS + horizon - 1 + MONTHS

    def lasting(rows: int, columns: int, size: float, correlation: float) -> Floats:
        drawn = generator.standard_normal((rows, columns)) * size
        for row in range(1, rows):
            drawn[row] = correlation * drawn[row - 1] + (1 - correlation**2) ** 0.5 * drawn[row]
        return np.asarray(drawn)

    level = np.exp(generator.standard_normal(PARTS))
    shock = lasting(origins + horizon, 1, SHOCK, 0.7) if is_shared else 0.0
    noise = NOISE * generator.standard_normal((origins + horizon, PARTS))
    sold = level * np.exp(shock + noise)
    demand = np.stack([sold[origin + 1 : origin + 1 + horizon] for origin in range(origins)])
    common = lasting(origins, PARTS, PART_ERROR, LASTING)
    levels, losses = np.asarray(LEVELS), []
    for size in (1.0, smaller):
        error = common + lasting(origins, PARTS, PART_ERROR, LASTING)
        if is_shared:
            error = error + lasting(origins, 1, 2**0.5 * SHARED_ERROR, LASTING)
        deciles = (level * np.exp(error * size))[:, None, :, None] * np.exp(NOISE * ndtri(levels))
        short = demand[..., None] - deciles
        losses.append(2 * np.maximum(levels * short, (levels - 1) * short).mean(axis=-1))
    return Wholesaler(np.stack(losses), demand)


@dataclass(frozen=True)
class Sums:
    """Of one decision month: losses [model, unit] and demand [unit] by part and by target month."""

    by_part: tuple[Floats, Floats]
    by_month: tuple[Floats, Floats]


def evidence(sold: Wholesaler, horizon: int) -> Iterator[Sums]:
    """What each decision month knows: the newest origins that are known whole, and of younger ones
    the months that are known.
    """
    origin, ahead = np.indices(sold.demand.shape[:2])
    target = origin + ahead + 1
    for month in range(ORIGINS + horizon - 1, ORIGINS + horizon - 1 + MONTHS):
        first = month - horizon - ORIGINS + 1
        known = (origin >= first) & (target <= month)
        loss, demand = sold.loss[:, known], sold.demand[known]
        of_month = (target[known][:, None] == np.arange(first + 1, month + 1)).astype(float)
        yield Sums(
            (loss.sum(axis=1), demand.sum(axis=0)),
            (np.einsum("mcp,ct->mt", loss, of_month), demand.sum(axis=1) @ of_month),
        )


def rows_of(unit: str, names: Sequence[Any], sums: tuple[Floats, Floats]) -> pd.DataFrame:
    """Rows as evaluation gives them, for two models and a baseline with twice the loss."""
    loss, demand = sums
    frames = []
    for model, losses in ((BASELINE, 2 * loss[0]), (INCUMBENT, loss[0]), (CHALLENGER, loss[1])):
        figures = {"loss_qty": losses, "actual_qty": demand}
        groups = {
            f"{name}_{group}": values for group in LOSS_GROUPS for name, values in figures.items()
        }
        counts = dict.fromkeys(("cell_count", *(f"cell_count_{group}" for group in LOSS_GROUPS)), 1)
        keys = {"yyyymm": FIRST, "demand_class": "smooth", unit: list(names), "model": model}
        frames.append(
            pd.DataFrame(keys | figures | groups | counts | {"bias_qty": 0.0, "squared_error": 1.0})
        )
    return pd.concat(frames, ignore_index=True)


def is_promoted(sums: Sums, horizon: int) -> bool:
    """Whether promotion.py promotes the challenger."""
    months = sums.by_month[1].size
    losses = Losses(
        rows_of("part_number", range(PARTS), sums.by_part),
        rows_of("target_yyyymm", [add_months(FIRST, n) for n in range(months)], sums.by_month),
        horizon,
    )
    summed = losses.by_part.groupby("model")[["loss_qty", "actual_qty"]].sum()
    evaluation = pd.DataFrame(
        {
            "yyyymm": FIRST,
            "model": summed.index,
            "segment_kind": "demand_class",
            "segment": "smooth",
            "horizon": 0,
            "cell_count": PARTS * ORIGINS * horizon,
            "part_count": PARTS,
            "actual_qty": summed["actual_qty"].to_numpy(),
            "wql": (summed["loss_qty"] / summed["actual_qty"]).to_numpy(),
            "bias": 0.0,
            "rmse": 1.0,
            "missing_cell_count": 0,
        }
    )
    contestants = [Contestant(name) for name in (BASELINE, INCUMBENT, CHALLENGER)]
    [made] = decide(
        FIRST,
        evaluation,
        losses,
        ORIGINS,
        {"smooth": INCUMBENT},
        contestants,
        PromotionSettings(),
        k_min=3,
    )
    return made.decision == "promoted"


def was_promoted(sums: Sums) -> bool:
    """Whether the former rule promotes the challenger."""
    loss, demand = sums.by_part
    drawn = np.random.default_rng(7).integers(PARTS, size=(DRAWS, PARTS))
    difference = (loss[1] - loss[0])[drawn].sum(axis=1) / demand[drawn].sum(axis=1)
    return bool(np.percentile(difference, 97.5) < 0)


def smaller_errors(gain: float, horizon: int, is_shared: bool) -> float:
    """How small the challenger's errors are for so much less WQL, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        loss = sum(
            simulated(seed, horizon, is_shared, middle).loss.sum(axis=(1, 2, 3))
            for seed in range(10_000, 10_040)
        )
        low, high = (middle, high) if loss[1] / loss[0] < 1 - gain else (low, middle)
    return (low + high) / 2


def main() -> None:
    """Print the shares as a table of Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wholesalers", type=int, default=200)
    parser.add_argument("--horizons", type=int, nargs="+", default=[6, 12])
    parser.add_argument("--gains", type=float, nargs="+", default=[0.0, 0.02, 0.05, 0.1])
    asked = parser.parse_args()
    print(
        "| horizon | shared shocks | challenger's WQL | promoted: share of decisions"
        " | within 12 months | median month | before: share of decisions | within 12 months |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for horizon in asked.horizons:
        for is_shared in (False, True):
            for gain in asked.gains:
                smaller = smaller_errors(gain, horizon, is_shared) if gain else 1.0
                made = np.array(
                    [
                        [
                            (is_promoted(s, horizon), was_promoted(s))
                            for s in evidence(sold, horizon)
                        ]
                        for sold in (
                            simulated(seed, horizon, is_shared, smaller)
                            for seed in range(asked.wholesalers)
                        )
                    ]
                )
                now, before = made[..., 0], made[..., 1]
                waited = np.where(now.any(axis=1), now.argmax(axis=1) + 1.0, np.inf)
                soon = np.median(waited)
                print(
                    f"| {horizon} | {'yes' if is_shared else 'no'} |"
                    f" {'equal' if not gain else f'{gain:.0%} less'} | {now.mean():.1%} |"
                    f" {now.any(axis=1).mean():.0%} |"
                    f" {'not in 12' if np.isinf(soon) else f'{soon:.0f}'} |"
                    f" {before.mean():.1%} | {before.any(axis=1).mean():.0%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
