"""How often gold.demand_anomaly claims what is none, and how much it finds of what is planted.

Wholesalers of parts whose demand really comes from the distribution that was published, months
without any anomaly and the same months with planted ones; then the same with published deciles that
are wrong: `python -m benchmarks.anomaly_rate`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medallion_assets.partitions import add_months
from medallion_assets.served.anomalies import demand_anomaly
from medallion_assets.tables import DECILES, LEVELS

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

FIRST = 202001
DRAWS = 20_000  # that tell the deciles of a part
PLANTED = {"three times as much": 3.0, "ten times as much": 10.0, "nothing": 0.0}


def smooth(rng: np.random.Generator) -> Draw:
    """A part that sells every month, in sizes that vary by a tenth to a third."""
    shape, mean = 1 / rng.uniform(0.1, 0.33) ** 2, float(np.exp(rng.uniform(3, 6)))
    return lambda source, count: np.round(source.gamma(shape, mean / shape, count))


def counted(rng: np.random.Generator) -> Draw:
    """A part that is sold one by one."""
    mean = float(np.exp(rng.uniform(-0.5, 3)))
    return lambda source, count: source.poisson(mean, count).astype(float)


def erratic(rng: np.random.Generator) -> Draw:
    """A negative binomial with a variance far above its mean."""
    size, mean = rng.uniform(0.5, 3), float(np.exp(rng.uniform(1, 4)))
    return lambda source, count: source.negative_binomial(size, size / (size + mean), count).astype(
        float
    )


def intermittent(rng: np.random.Generator) -> Draw:
    """A part with orders in a tenth to a half of the months."""
    share, mean = rng.uniform(0.1, 0.5), float(np.exp(rng.uniform(0.3, 3)))
    return lambda source, count: (
        (source.random(count) < share) * source.geometric(1 / mean, count)
    ).astype(float)


def heavy(rng: np.random.Generator) -> Draw:
    """A lognormal, whose tail is heavier than any that its deciles show."""
    sigma, middle = rng.uniform(0.4, 0.9), rng.uniform(1.5, 5)
    return lambda source, count: np.round(source.lognormal(middle, sigma, count))


KINDS: Mapping[str, Callable[[np.random.Generator], Draw]] = {
    "smooth": smooth,
    "counted": counted,
    "erratic": erratic,
    "intermittent": intermittent,
    "heavy": heavy,
}


@dataclass(frozen=True)
class Part:
    """How a part's demand comes about, and what is published of it."""

    name: str
    kind: str
    draw: Draw
    deciles: Floats
    mean: float


def wholesaler(rng: np.random.Generator, kinds: list[str], parts: int) -> list[Part]:
    """Parts of the kinds in turn, with the deciles of their own distribution."""
    made = []
    for number in range(parts):
        kind = kinds[number % len(kinds)]
        draw = KINDS[kind](rng)
        sample = draw(rng, DRAWS)
        deciles = np.quantile(sample, LEVELS, method="inverted_cdf")
        made.append(Part(f"P{number:04}", kind, draw, deciles, float(sample.mean())))
    return made


def published(parts: list[Part], width: float) -> pd.DataFrame:
    """What is published: true deciles, their distance from the median times ``width``."""
    deciles = np.array([part.deciles for part in parts])
    middle = deciles[:, [4]]
    told = np.maximum(middle + width * (deciles - middle), 0.0)
    return pd.DataFrame(told, columns=list(DECILES)).assign(
        part_number=[part.name for part in parts],
        forecast_qty=[part.mean for part in parts],
        origin=FIRST,
        horizon=1,
        vintage=1,
        is_backfilled=False,
    )


def plant(rng: np.random.Generator, parts: list[Part], demand: Floats) -> dict[str, str]:
    """Change the demand of one part in forty: its mean times three or ten, or nothing where q10 is
    at least four fifths of the median. Which parts were changed, and how.
    """
    steady = [i for i, part in enumerate(parts) if part.deciles[0] >= 0.8 * part.deciles[4] > 0]
    count = max(1, len(parts) // 40)
    planted = {}
    for place, (what, factor) in enumerate(list(PLANTED.items()) * count):
        pool = steady if factor == 0 else range(len(parts))
        free = [i for i in pool if parts[i].name not in planted]
        if place >= count or not free:
            continue
        i = int(rng.choice(free))
        demand[i] = np.ceil(factor * parts[i].mean)
        planted[parts[i].name] = what
    return planted


@dataclass(frozen=True)
class Scale:
    """How much is simulated, and the rate that is claimed."""

    wholesalers: int
    months: int
    parts: int
    rate: float


def measured(kinds: list[str], scale: Scale, width: float) -> dict[str, object]:
    """Share of quiet months with a claim, and what becomes of planted ones."""
    with_claim = claims = 0
    shares, found, all_planted = [], dict.fromkeys(PLANTED, 0), dict.fromkeys(PLANTED, 0)
    for number in range(scale.wholesalers):
        rng = np.random.default_rng(1000 + number)
        made = wholesaler(rng, kinds, scale.parts)
        told = published(made, width)
        for place in range(scale.months):
            month = add_months(FIRST, 1 + place + scale.months * number)
            demand = np.array([part.draw(rng, 1)[0] for part in made])
            sold = told[["part_number"]].assign(demand_qty=demand)
            quiet = demand_anomaly(month, told, sold, scale.rate)
            with_claim += len(quiet) > 0
            claims += len(quiet)
            planted = plant(rng, made, demand)
            loud = demand_anomaly(month, told, sold.assign(demand_qty=demand), scale.rate)
            named = set(loud["part_number"]) if len(loud) else set()
            shares.append(len(named - set(planted)) / max(1, len(named)))
            for part, what in planted.items():
                all_planted[what] += 1
                found[what] += part in named
    quiet_months = scale.wholesalers * scale.months
    return {
        "kinds": ", ".join(kinds),
        "published": "right" if width == 1 else f"{width:g} of the true width",
        "quiet months": quiet_months,
        "with a claim": f"{with_claim / quiet_months:.1%}",
        "claims a month": f"{claims / quiet_months:.2f}",
        "false among claims": f"{np.mean(shares):.1%}",
        **{
            f"found: {what}": f"{found[what] / all_planted[what]:.0%}" if all_planted[what] else "–"
            for what in PLANTED
        },
    }


def main() -> None:
    """Print a table for the kinds together, each alone, and for wrong deciles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wholesalers", type=int, default=40)
    parser.add_argument("--months", type=int, default=10)
    parser.add_argument("--parts", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.05)
    asked = parser.parse_args()
    scale = Scale(asked.wholesalers, asked.months, asked.parts, asked.rate)
    light = [kind for kind in KINDS if kind != "heavy"]
    rows = [measured(light, scale, 1.0)]
    rows += [measured([kind], scale, 1.0) for kind in KINDS]
    rows += [measured(light, scale, width) for width in (0.7, 0.5)]
    table = pd.DataFrame(rows)
    print("| " + " | ".join(table.columns) + " |")
    print("| " + " | ".join("---" for _ in table.columns) + " |")
    for row in table.itertuples(index=False):
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
