"""How often the retraining policy acts without a cause, and how soon with one, on simulated
wholesalers.

    python -m benchmarks.false_alarms

Each seed is a wholesaler of 200 parts over 60 months. Its sales become the figures of
``watch/drift.py`` and go, month by month, through the same verdicts and decisions as those of a
lakehouse; nothing is stored and no Spark is started. Training by age is switched off, so that drift
alone decides. Beside it a rule with a fixed threshold: the largest population stability index (PSI)
of demand, price and region against the twelve months before, its threshold set to the same share of
months with a retraining.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medallion_assets.partitions import add_months, month_range
from medallion_assets.simulation import REGIONS, Simulation, sales
from medallion_assets.watch.drift import WATCHED_CLASSES, demand_drift
from medallion_assets.watch.retraining import decide
from resources.settings import Settings

FIRST, MONTHS, PARTS = 202101, 60, 200
CALM = "no change"
START = 24  # the first month tested; a champion was trained in the month before
CHANGE = 42  # months before a change
LOOKED_AT = 12  # months after it in which it must be found
SERVED_FROM = 30
DECILES = np.arange(1, 10) / 10
BINS = 10

COLUMNS = {
    "order_id": "o",
    "part_number": "p",
    "order_date": "d",
    "quantity": "q",
    "unit_price": "u",
}
MONTHS_TESTED = month_range(add_months(FIRST, START), add_months(FIRST, MONTHS - 1))


@dataclass
class History:
    """What was sold: part x month matrices (region: part x month x region), and order and customer
    counts by month.
    """

    qty: np.ndarray
    revenue: np.ndarray
    region_qty: np.ndarray
    order_count: np.ndarray
    customer_count: np.ndarray


class Outcome(NamedTuple):
    """Of one wholesaler by month tested: whether it drifted, whether the champion was to be trained
    again, and the PSI.
    """

    is_drift: np.ndarray
    is_retrained: np.ndarray
    psi: np.ndarray


def settings_of(**monitoring: Any) -> Settings:
    """The default policy, with training by age switched off."""
    source = {"name": "orders", "files": "*.csv", "columns": COLUMNS}
    return Settings(
        lakehouse_root="nowhere",
        first_month=FIRST,
        sources=(source,),
        monitoring={"max_training_lag_months": 1000} | monitoring,
    )


def nothing(sold: pd.DataFrame, after: int, draws: np.random.Generator) -> pd.DataFrame:
    """No change."""
    return sold


def new_mix(sold: pd.DataFrame, after: int, draws: np.random.Generator) -> pd.DataFrame:
    """From the change on, every second part sells twice as much, and the others so much less that
    the total stays.
    """
    if after < 0:
        return sold
    is_winner = sold["part"].to_numpy() % 2 == 0
    winners, others = (sold["qty"].to_numpy()[mask].sum() for mask in (is_winner, ~is_winner))
    return sold.assign(
        qty=sold["qty"] * np.where(is_winner, 2.0, max(0.1, 1 - winners / max(others, 1)))
    )


def dearer(sold: pd.DataFrame, after: int, draws: np.random.Generator) -> pd.DataFrame:
    """From the change on, every price is a tenth higher."""
    return sold if after < 0 else sold.assign(price=sold["price"] * 1.1)


def lost_lines(sold: pd.DataFrame, after: int, draws: np.random.Generator) -> pd.DataFrame:
    """In two months a third of the lines is lost on the way."""
    return sold if after not in (0, 1) else sold[draws.random(len(sold)) >= 1 / 3]


SCENARIOS: Mapping[
    str, tuple[Callable[[pd.DataFrame, int, np.random.Generator], pd.DataFrame], Mapping[str, Any]]
] = {
    CALM: (nothing, {}),
    "half of the parts sell 1.8 times as much": (nothing, {"shift_factor": 1.8}),
    "half of the parts sell 1.3 times as much": (nothing, {"shift_factor": 1.3}),
    "other parts sell, the total stays": (new_mix, {}),
    "prices rise by a tenth": (dearer, {}),
    "a third of the lines is lost in two months": (lost_lines, {}),
}


def history(seed: int, scenario: str) -> History:
    """Sales of one wholesaler."""
    change, shift = SCENARIOS[scenario]
    options = {**shift, "shift_month": add_months(FIRST, CHANGE)} if shift else {}
    simulated = Simulation(parts=PARTS, months=MONTHS, first_month=FIRST, seed=seed, **options)
    draws = np.random.default_rng([seed, 99])
    months = [change(sold, n - CHANGE, draws) for n, (_, sold) in enumerate(sales(simulated))]
    count = 1 + max(int(sold["part"].max()) for sold in months)
    qty, revenue, region_qty = (
        np.zeros((count, MONTHS)),
        np.zeros((count, MONTHS)),
        np.zeros((count, MONTHS, len(REGIONS))),
    )
    orders, customers = np.zeros(MONTHS), np.zeros(MONTHS)
    for n, sold in enumerate(months):
        part, units = sold["part"].to_numpy(), sold["qty"].to_numpy(float)
        qty[:, n] = np.bincount(part, units, count)
        revenue[:, n] = np.bincount(part, units * sold["price"].to_numpy(), count)
        region_qty[:, n] = np.bincount(
            part * len(REGIONS) + sold["region"].to_numpy(), units, count * len(REGIONS)
        ).reshape(count, -1)
        orders[n] = len(np.unique(part * 10**6 + sold["order"].to_numpy()))
        known = sold[sold["customer"] >= 0]
        customers[n] = len(
            np.unique(known["part"].to_numpy() * 10**6 + known["customer"].to_numpy())
        )
    return History(qty, revenue, region_qty, orders, customers)


def demand_classes(qty: np.ndarray) -> np.ndarray:
    """Class of each part as of each month, by the rules of silver.demand_features; new also before
    the first sale.
    """
    classes = np.full(qty.shape, "new", dtype=object)
    first = np.where((qty > 0).any(axis=1), (qty > 0).argmax(axis=1), qty.shape[1])
    for n in range(6, qty.shape[1]):
        window = qty[:, max(0, n - 23) : n + 1]
        lived = np.minimum(n - first + 1, window.shape[1])
        sold = np.where(window > 0, window, np.nan)
        count = np.isfinite(sold).sum(axis=1)
        is_known = (n - first >= 6) & (count > 0)
        mean = np.nansum(sold, axis=1) / np.maximum(count, 1)
        variance = np.nansum((sold - mean[:, None]) ** 2, axis=1) / np.maximum(count - 1, 1)
        is_dense, is_even = (
            lived / np.maximum(count, 1) < 1.32,
            variance / np.maximum(mean, 1e-9) ** 2 < 0.49,
        )
        names = np.select(
            [is_dense & is_even, is_dense, is_even], ["smooth", "erratic", "intermittent"], "lumpy"
        )
        classes[is_known, n] = names[is_known]
    return classes


def figures_of(sold: History, classes: np.ndarray) -> pd.DataFrame:
    """The rows of ``drift.monthly_figures``."""
    rows = []
    is_sold = sold.qty > 0
    exists = np.maximum.accumulate(is_sold, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        price = sold.revenue / sold.qty
    share = sold.qty / sold.qty.sum(axis=0)
    region = sold.region_qty.argmax(axis=2)
    for n in range(MONTHS):
        qty = sold.qty[:, n]
        row = {
            "yyyymm": add_months(FIRST, n),
            "total_demand_qty": qty.sum(),
            "active_part_count": is_sold[:, n].sum(),
            "zero_share": 1 - is_sold[:, n].sum() / exists[:, n].sum(),
            "mean_unit_price": sold.revenue[:, n].sum() / qty.sum(),
            "order_count": sold.order_count[n],
            "customer_count": sold.customer_count[n],
            "region_demand_qty": dict(
                zip(REGIONS, np.bincount(region[:, n], qty, len(REGIONS)), strict=True)
            ),
            "class_demand_qty": {
                name: total
                for name in WATCHED_CLASSES
                if (total := qty[classes[:, n] == name].sum())
            },
            "like_for_like_ratio": np.nan,
            "like_for_like_price": np.nan,
            "part_mix": np.nan,
        }
        if n >= 12:
            both = is_sold[:, n] & is_sold[:, n - 12]
            before = sold.qty[both, n - 12]
            if n >= 24:
                before = np.where(
                    is_sold[both, n - 24], np.sqrt(before * sold.qty[both, n - 24]), before
                )
            row["like_for_like_ratio"] = np.median(qty[both] / before)
            row["like_for_like_price"] = np.median(price[both, n] / price[both, n - 12])
            row["part_mix"] = 1 - np.minimum(share[:, n], share[:, n - 12]).sum()
        rows.append(row)
    return pd.DataFrame(rows)


def accuracy_of(sold: History, classes: np.ndarray) -> pd.DataFrame:
    """Rows of gold.forecast_accuracy at lag 1 of a stand-in for a champion.

    It forecasts the mean and the deciles of each part's last twelve months, times the season of its
    class in the year before. Its evidence are its own errors of the six months that ended three
    months earlier.
    """
    rows = []
    for n in range(24, MONTHS):
        known = classes[:, n - 1]
        recent = sold.qty[:, n - 12 : n]
        for name in WATCHED_CLASSES:
            own = known == name
            total = sold.qty[own].sum(axis=0)
            actual = sold.qty[own, n]
            if not own.any() or not actual.sum():
                continue
            season = total[n - 12] / max(total[n - 18 : n - 6].mean(), 1e-9)
            forecast, deciles = (
                recent[own].mean(axis=1) * season,
                np.quantile(recent[own], DECILES, axis=1).T * season,
            )
            error = actual[:, None] - deciles
            pinball = np.maximum(error * DECILES, error * (DECILES - 1)).sum()
            row = {
                "yyyymm": add_months(FIRST, n),
                "segment": name,
                "forecast_qty": forecast.sum(),
                "actual_qty": actual.sum(),
            }
            rows.append(
                row
                | {
                    "wql": 2 / 9 * pinball / actual.sum(),
                    "bias": forecast.sum() / actual.sum() - 1,
                }
            )
    errors = pd.DataFrame(rows).sort_values(["segment", "yyyymm"], ignore_index=True)
    evidence = errors.groupby("segment")[["wql", "bias"]].transform(
        lambda column: column.rolling(6, min_periods=3).mean().shift(3)
    )
    served = errors.assign(evidence_wql=evidence["wql"], evidence_bias=evidence["bias"])
    return served[served["yyyymm"] >= add_months(FIRST, SERVED_FROM)]


def stability(sold: History) -> np.ndarray:
    """The largest PSI of a month tested: of demand by part, of price, and of demand by region,
    against the twelve months before.
    """
    found = []
    with np.errstate(divide="ignore", invalid="ignore"):
        price = sold.revenue / sold.qty
    for n in range(START, MONTHS):
        exists = (sold.qty[:, : n + 1] > 0).any(axis=1)
        before = slice(n - 12, n)
        demand = _psi(_binned(sold.qty[exists, before], sold.qty[exists, n]))
        prices = _psi(
            _binned(
                price[:, before][np.isfinite(price[:, before])],
                price[:, n][np.isfinite(price[:, n])],
            )
        )
        regions = _psi(
            (sold.region_qty[:, before].sum(axis=(0, 1)), sold.region_qty[:, n].sum(axis=0))
        )
        found.append(max(demand, prices, regions))
    return np.array(found)


def outcome(seed: int, scenario: str, settings: Settings) -> Outcome:
    """One wholesaler through verdicts and decisions; whoever is to be trained again is, in that
    month.
    """
    sold = history(seed, scenario)
    classes = demand_classes(sold.qty)
    drift = pd.DataFrame(
        demand_drift(figures_of(sold, classes), accuracy_of(sold, classes), MONTHS_TESTED, settings)
    )
    trained = add_months(FIRST, START - 1)
    former: list[dict[str, Any]] = []
    for number, month in enumerate(MONTHS_TESTED, 1):
        made = decide(
            month, {"all": trained}, drift[drift["yyyymm"] <= month], pd.DataFrame(former), settings
        )
        former.append(
            made._asdict()
            | {
                "decision_number": number,
                "evidence_months": str(list(made.evidence_months)),
            }
        )
        trained = month if made.decision == "retrain" else trained
    is_drift = drift.groupby("yyyymm")["is_drift"].any().reindex(MONTHS_TESTED).to_numpy()
    return Outcome(
        is_drift, np.array([row["decision"] == "retrain" for row in former]), stability(sold)
    )


def fixed_threshold(psi: np.ndarray, threshold: float, cooldown: int) -> np.ndarray:
    """Months in which a PSI above the threshold retrains, the cooldown kept."""
    is_retrained, last = np.zeros(len(psi), dtype=bool), -1
    for n, value in enumerate(psi):
        if value > threshold and n - last > cooldown:
            is_retrained[n], last = True, n
    return is_retrained


def threshold_of(outcomes: Sequence[Outcome], share: float, cooldown: int) -> float:
    """The PSI above which the fixed rule retrains in about this share of months without a
    change.
    """
    candidates = np.quantile(
        np.concatenate([found.psi for found in outcomes]), np.linspace(0.5, 1, 501)
    )
    shares = [
        np.mean([fixed_threshold(found.psi, t, cooldown).mean() for found in outcomes])
        for t in candidates
    ]
    return float(candidates[int(np.abs(np.array(shares) - share).argmin())])


def delay(flags: Iterable[np.ndarray]) -> tuple[float, float]:
    """Share of wholesalers flagged within LOOKED_AT months after the change, and median months
    until then (1: its own month).
    """
    at = CHANGE - START
    waits = [
        after.argmax() + 1 if (after := flag[at : at + LOOKED_AT]).any() else np.nan
        for flag in flags
    ]
    return float(np.isfinite(waits).mean()), (
        float(np.nanmedian(waits)) if np.isfinite(waits).any() else np.nan
    )


def main() -> None:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200, help="wholesalers without a change")
    parser.add_argument("--changed-seeds", type=int, default=60, help="wholesalers of each change")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of monitoring, other than the default",
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    settings = settings_of(
        **{name: float(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    )
    first = arguments.first_seed
    counts = {
        name: arguments.changed_seeds if name != CALM else arguments.seeds for name in SCENARIOS
    }
    with Pool(arguments.processes) as pool:
        found = {
            name: pool.map(
                partial(outcome, scenario=name, settings=settings),
                range(first, first + count),
                chunksize=5,
            )
            for name, count in counts.items()
        }
    calm, cooldown = found[CALM], settings.monitoring.drift_cooldown_months
    share = float(np.mean([o.is_retrained for o in calm]))
    threshold = threshold_of(calm, share, cooldown)
    print(
        f"{arguments.seeds} wholesalers of {PARTS} parts, {MONTHS} months, seeds from"
        f" {arguments.first_seed}\n"
    )
    print("| months without a change | drift | retraining | PSI rule |\n| --- | --- | --- | --- |")
    spans = [(START, MONTHS), *((n, n + 12) for n in range(START, MONTHS, 12))]
    for first, last in spans:
        part = slice(first - START, last - START)
        drift, retrained = (
            np.mean([getattr(o, name)[part] for o in calm]) for name in ("is_drift", "is_retrained")
        )
        fixed = np.mean([fixed_threshold(o.psi, threshold, cooldown)[part] for o in calm])
        print(f"| {first + 1} to {last} | {drift:.1%} | {retrained:.1%} | {fixed:.1%} |")
    usual = np.mean([o.psi > 0.2 for o in calm])
    print(
        f"\nPSI threshold {threshold:.3f}; above the customary 0.2 lie {usual:.1%} of months"
        " without a change\n"
    )
    print(
        f"{arguments.changed_seeds} wholesalers of each change, median months until found (share"
        f" found within {LOOKED_AT})\n"
    )
    print(
        f"| change after {CHANGE} months | drift | retraining | PSI rule |\n| --- | --- | --- |"
        " --- |"
    )
    for name, outcomes in found.items():
        rules = [[o.is_drift for o in outcomes], [o.is_retrained for o in outcomes]]
        rules.append([fixed_threshold(o.psi, threshold, cooldown) for o in outcomes])
        cells = [
            f"{months:.0f} ({caught:.0%})" if caught else "none (0%)"
            for caught, months in map(delay, rules)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{time.monotonic() - started:.0f} s")


def _binned(before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of both in a bin of their own for zero and in bins that hold a tenth each of what else
    there was before.
    """
    flat = before.ravel()
    edges = np.unique(np.quantile(flat[flat > 0], np.linspace(0, 1, BINS + 1)[1:-1]))
    counts = [
        np.bincount(np.where(x > 0, 1 + np.searchsorted(edges, x), 0), minlength=len(edges) + 2)
        for x in (flat, now)
    ]
    return counts[0], counts[1]


def _psi(counts: tuple[np.ndarray, np.ndarray]) -> float:
    expected, actual = (np.maximum(c / c.sum(), 1e-4) for c in counts)
    return float(((actual - expected) * np.log(actual / expected)).sum())


if __name__ == "__main__":
    main()
