"""Order lines of a simulated wholesaler, with the demand patterns and the faults of real exports:
the sample that needs no download.

Here belongs how demand, orders and faults are drawn and how they are written as files. Reading,
cleaning or forecasting them does not: the files enter the lakehouse as any other export does. Every
description says "(simulated)".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

ORDER_COLUMNS = (
    "Order No",
    "Item Code",
    "Item Description",
    "Customer",
    "Region",
    "Order Date",
    "Qty",
    "Unit Price",
)
REGIONS = ("North", "South", "East", "West", "Export")
REGION_SHARES = (0.30, 0.25, 0.20, 0.15, 0.10)
NON_PRODUCTS = (("POST", "Postage"), ("DISCOUNT", "Discount"), ("MANUAL", "Manual entry"))

NOTE = ".simulated.json"  # beside the files: what was written, and from what
FEWEST_PARTS = 20
FIRST_PART_NUMBER = 100_001
FIRST_ORDER_NUMBER = 1_000_001
# Per part and month; equal, so that the number of parts on sale stays about the same.
LAUNCH_RATE = 0.004
DISCONTINUATION_RATE = 0.004
MEDIAN_REGULAR_QTY = 60.0
MEDIAN_SPORADIC_QTY = 14.0
MEDIAN_PRICE = 12.0
SEASONAL_GROUPS = 5
SEASONAL_SHARE = 0.55
TREND_SHARE = 0.35
SPORADIC_GAP_SHARE = 0.08

# Shares of lines.
CANCELLATION_RATE = 0.015
RETURN_RATE = 0.007
NON_PRODUCT_RATE = 0.005
DUPLICATE_RATE = 0.005
OVERLAP_RATE = 0.005
UNTIDY_CODE_RATE = 0.005
NO_CUSTOMER_RATE = 0.08
LATE_RATE = 0.02
# The field, the share of lines in which it is at fault, and what stands there instead.
FAULTS = (
    ("Order Date", 0.0010, ("31/02/2022 10:00", "n/a", "")),
    ("Order Date", 0.0003, ("01/01/2199 00:00",)),
    ("Qty", 0.0010, ("abc", "", "1,5x")),
    ("Qty", 0.0010, ("0",)),
    ("Unit Price", 0.0020, ("0.00", "-9.95")),
)
# Once a year lines of four months are delivered in the month after them, so that whole years end
# with nothing outstanding.
MONTHS_WITH_LATE_LINES = (2, 3, 4, 5)
LATE_DELIVERY = 6

MINUTES_PER_DAY = 24 * 60
OPENING_MINUTE, CLOSING_MINUTE = 7 * 60, 18 * 60
WEEKDAY_WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 0.02])
USUAL_MONTH_WEIGHT = WEEKDAY_WEIGHTS.sum() / 7 * 30.44

SMOOTH, ERRATIC, INTERMITTENT, LUMPY = range(4)
# A fixed pattern instead of a draw: 20 parts already hold every demand class in shares of 35, 15,
# 35 and 15 %.
CLASS_PATTERN = np.array(
    [
        *(
            SMOOTH,
            INTERMITTENT,
            SMOOTH,
            ERRATIC,
            INTERMITTENT,
            LUMPY,
            SMOOTH,
            INTERMITTENT,
            SMOOTH,
            INTERMITTENT,
        ),
        *(
            ERRATIC,
            SMOOTH,
            INTERMITTENT,
            LUMPY,
            SMOOTH,
            INTERMITTENT,
            ERRATIC,
            SMOOTH,
            INTERMITTENT,
            LUMPY,
        ),
    ]
)
# Lowest and highest chance of a sale in a month, and squared coefficient of variation of the
# quantity, by demand class.
SALE_CHANCE = np.array([[0.97, 1.00], [0.88, 1.00], [0.20, 0.62], [0.20, 0.62]])
QTY_CV2 = np.array([[0.02, 0.10], [0.70, 1.30], [0.03, 0.12], [0.90, 2.00]])

NOUNS = (
    "Bracket",
    "Hinge",
    "Bearing",
    "Gasket",
    "Valve",
    "Coupling",
    "Bolt set",
    "Pulley",
    "Filter",
    "Clamp",
    "Spring",
    "Seal ring",
)
MATERIALS = ("steel", "brass", "nylon", "rubber", "aluminium", "zinc plated", "stainless")


@dataclass(frozen=True)
class Simulation:
    """Settings of a simulated wholesaler.

    parts: parts on sale in the first month, at least 20; each month about 0.4 % of them are
    discontinued and as many are new. months: number of months; a longer simulation has the same
    files for the months it shares with a shorter one. first_month: yyyymm. seed: not negative;
    another seed is another wholesaler. shift_month: yyyymm from which demand of `shift_share` of
    the parts is `shift_factor` times what it would have been; None: never.

    Raises ValueError where a setting is outside these bounds.
    """

    parts: int = 200
    months: int = 60
    first_month: int = 202101
    seed: int = 7
    shift_month: int | None = None
    shift_share: float = 0.5
    shift_factor: float = 1.8

    def __post_init__(self) -> None:
        if self.parts < FEWEST_PARTS:
            raise ValueError(
                f"parts is {self.parts}: fewer than {FEWEST_PARTS} can't hold every demand class"
            )
        if self.months < 1:
            raise ValueError(f"months is {self.months}: at least 1 is needed")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it can't be negative")
        if not 0 <= self.shift_share <= 1:
            raise ValueError(f"shift_share is {self.shift_share}: it is a share between 0 and 1")
        if self.shift_factor <= 0:
            raise ValueError(f"shift_factor is {self.shift_factor}: it must be above 0")
        for name, yyyymm in (("first_month", self.first_month), ("shift_month", self.shift_month)):
            if yyyymm is not None and not (
                1900 <= yyyymm // 100 <= 2150 and 1 <= yyyymm % 100 <= 12
            ):
                raise ValueError(f"{name} is {yyyymm}: it is no month yyyymm")


@dataclass(frozen=True)
class _Catalogue:
    """What is fixed about every part (arrays of one value per part, ordered by launch) and every
    customer.
    """

    launch: Integers
    lifetime_months: Floats
    is_sporadic: NDArray[np.bool_]
    sale_chance: Floats
    base_qty: Floats
    qty_cv2: Floats
    line_rate: Floats
    trend: Floats
    cycle_size: Floats
    cycle_months: Floats
    cycle_phase: Floats
    season: Floats
    gap_months: Integers
    gap_phase: Integers
    shift_draw: Floats
    price: Floats
    price_growth: Floats
    codes: NDArray[np.object_]
    descriptions: NDArray[np.object_]
    customers: NDArray[np.object_]
    customer_region: Integers


@dataclass
class _Outstanding:
    """What one month leaves to later files: order numbers used, reversals dated later, lines
    exported again, lines held back.
    """

    next_order: int
    reversals: list[pd.DataFrame]
    overlap: pd.DataFrame
    late: list[pd.DataFrame]


def order_files(settings: Simulation) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (file name, lines as exported) in the order of delivery, holding one month at a time.

    Every month has `simulated_orders_<yyyymm>.csv`, with lines to its end and, first, the few lines
    of the month before that were exported again. Each July of a simulation that starts in January
    (the seventh month of each year simulated) is followed by `simulated_orders_late_<yyyymm>.csv`,
    whose lines are dated one to four months earlier and stand in no other file.

    Frames have the columns ORDER_COLUMNS, all text, nothing missing (a missing value is empty
    text). Order Date is dd/mm/yyyy HH:MM, Qty in units, Unit Price in USD per unit. A month's lines
    depend on the settings and on earlier months only.
    """
    catalogue = _catalogue(settings)
    first = pd.Period(year=settings.first_month // 100, month=settings.first_month % 100, freq="M")
    outstanding = _Outstanding(
        FIRST_ORDER_NUMBER, [], pd.DataFrame(columns=list(ORDER_COLUMNS)), []
    )
    for index in range(settings.months):
        month = first + index
        yyyymm = month.year * 100 + month.month
        yield (
            f"simulated_orders_{yyyymm}.csv",
            _month_lines(settings, catalogue, month, index, outstanding),
        )
        if index % 12 == LATE_DELIVERY:
            yield (
                f"simulated_orders_late_{yyyymm}.csv",
                pd.concat(outstanding.late, ignore_index=True),
            )
            outstanding.late.clear()


def sales(settings: Simulation) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield (yyyymm, lines as sold), before cancellations, returns and the faults of exports: what
    studies without files are made of.

    Columns: part and customer (numbers, -1 for no customer), order (0, 1, ... within the month),
    region (place in REGIONS), qty in units, price in USD per unit, and others that the files are
    made of.
    """
    catalogue = _catalogue(settings)
    first = pd.Period(year=settings.first_month // 100, month=settings.first_month % 100, freq="M")
    for index in range(settings.months):
        month = first + index
        yield (
            month.year * 100 + month.month,
            _month_sales(settings, catalogue, month, index, _month_draws(settings, index)),
        )


def parts_master(settings: Simulation) -> pd.DataFrame:
    """Return the parts master as exported after the last month: one row per new part, all text.

    Columns: Item Code, Announced, Item Description. Announced is dd/mm/yyyy, the first day of the
    month before the part can first be sold; so parts announced in the last month have no sale yet.
    The first three rows are parts that never sell. Parts on sale since the first month are not
    listed.
    """
    catalogue = _catalogue(settings)
    first = pd.Period(year=settings.first_month // 100, month=settings.first_month % 100, freq="M")
    is_new = catalogue.launch > 0
    never_sold = [settings.months // 4, settings.months // 2, settings.months - 1]
    announced = [*never_sold, *(catalogue.launch[is_new] - 1)]
    never_sold_codes = [f"P-{FIRST_PART_NUMBER - number:06d}" for number in (1, 2, 3)]
    return pd.DataFrame(
        {
            "Item Code": [*never_sold_codes, *catalogue.codes[is_new]],
            "Announced": [(first + int(index)).strftime("01/%m/%Y") for index in announced],
            "Item Description": [*["Prototype (simulated)"] * 3, *catalogue.descriptions[is_new]],
        }
    )


def write(settings: Simulation, folder: Path) -> list[Path]:
    """Write all order files to `folder` and `parts_master/simulated_parts_master.csv` below it;
    return the paths written.

    A file appears under its name when it is whole. One that has the same content already is left
    alone and not returned, so a second call returns an empty list; where size and time of all files
    are as a former call with the same settings noted them, none is made again to be compared. Files
    of former settings under other names stay. UTF-8, comma, one header line. Raises OSError where
    the folder can't be written.
    """
    note = folder / NOTE
    if note.exists() and note.read_text(encoding="utf-8") == _noted(settings, folder):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    master_folder = folder / "parts_master"
    master_folder.mkdir(exist_ok=True)
    written = []
    for name, lines in order_files(settings):
        if _write_csv(lines, folder / name):
            written.append(folder / name)
    if _write_csv(parts_master(settings), master_folder / "simulated_parts_master.csv"):
        written.append(master_folder / "simulated_parts_master.csv")
    note.write_text(_noted(settings, folder), encoding="utf-8")
    return written


def _noted(settings: Simulation, folder: Path) -> str:
    """What was written: settings, this code, and size and time of each file."""
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(folder.rglob("*.csv"))
    }
    return json.dumps({"settings": asdict(settings), "code": code, "files": files})


def _write_csv(table: pd.DataFrame, path: Path) -> bool:
    content = table.to_csv(index=False, lineterminator="\n").encode()
    if path.exists() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return False
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return True


def _catalogue(settings: Simulation) -> _Catalogue:
    # New parts come at a constant rate and follow in the order of launch. Draws are made part by
    # part (rows), so that a longer simulation only appends parts, and a month can draw for the
    # parts launched by then without knowing of later ones.
    launches_per_month = max(LAUNCH_RATE * settings.parts, 0.25)
    new_parts = np.arange(1, int(settings.months * launches_per_month) + 1)
    launch = np.concatenate(
        [
            np.zeros(settings.parts, np.int64),
            np.ceil(new_parts / launches_per_month).astype(np.int64),
        ]
    )
    count = len(launch)
    uniform = iter(np.random.default_rng([settings.seed, 0, 1]).random((count, 17)).T)
    normal = np.random.default_rng([settings.seed, 0, 2]).standard_normal((count, 15)).T
    qty_normal, trend_normal, price_normal, season_normal = (
        normal[0],
        normal[1],
        normal[2],
        normal[3:].T,
    )

    demand_class = CLASS_PATTERN[np.arange(count) % len(CLASS_PATTERN)]
    is_sporadic = demand_class >= INTERMITTENT
    lowest_chance, highest_chance = SALE_CHANCE[demand_class].T
    lowest_cv2, highest_cv2 = QTY_CV2[demand_class].T
    has_trend = next(uniform) < TREND_SHARE
    has_gaps = is_sporadic & (next(uniform) < SPORADIC_GAP_SHARE)

    nouns = np.array(NOUNS, dtype=object)[(next(uniform) * len(NOUNS)).astype(int)]
    materials = np.array(MATERIALS, dtype=object)[(next(uniform) * len(MATERIALS)).astype(int)]
    sizes = (10 * (1 + (next(uniform) * 12).astype(int))).astype(str).astype(object)
    customer_count = 40 + settings.parts // 2
    return _Catalogue(
        launch=launch,
        lifetime_months=-np.log1p(-next(uniform)) / DISCONTINUATION_RATE,
        is_sporadic=is_sporadic,
        sale_chance=lowest_chance + (highest_chance - lowest_chance) * next(uniform),
        base_qty=np.where(
            is_sporadic,
            MEDIAN_SPORADIC_QTY * np.exp(qty_normal),
            MEDIAN_REGULAR_QTY * np.exp(1.1 * qty_normal),
        ),
        qty_cv2=lowest_cv2 + (highest_cv2 - lowest_cv2) * next(uniform),
        line_rate=np.where(is_sporadic, 0.5, 2.6) * np.exp(0.4 * qty_normal),
        trend=np.where(has_trend, 0.8 * trend_normal, 0.0),
        cycle_size=0.05 + 0.20 * next(uniform),
        cycle_months=20 + 40 * next(uniform),
        cycle_phase=2 * np.pi * next(uniform),
        season=_seasons(settings.seed, next(uniform), next(uniform), season_normal),
        gap_months=np.where(has_gaps, 11 + (next(uniform) * 6).astype(np.int64), 0),
        gap_phase=(next(uniform) * 24).astype(np.int64),
        shift_draw=next(uniform),
        price=MEDIAN_PRICE * np.exp(0.9 * price_normal) + 0.20,
        price_growth=0.05 * next(uniform) - 0.01,
        codes=np.array(
            [f"P-{FIRST_PART_NUMBER + part:06d}" for part in range(count)], dtype=object
        ),
        descriptions=nouns + ", " + materials + ", " + sizes + " mm (simulated)",
        customers=np.array(
            [*(f"C{number:04d}" for number in range(1, customer_count + 1)), ""], dtype=object
        ),
        customer_region=np.random.default_rng([settings.seed, 0, 3]).choice(
            len(REGIONS), customer_count, p=REGION_SHARES
        ),
    )


def _seasons(seed: int, group_draw: Floats, strength_draw: Floats, own_normal: Floats) -> Floats:
    """Return part x calendar month factors of mean 1: the profile of the part's group, more or less
    strong, with deviations of its own.
    """
    draws = np.random.default_rng([seed, 0, 4])
    months = np.arange(12)
    yearly, half_yearly = (
        draws.uniform(0.30, 0.60, (SEASONAL_GROUPS, 1)),
        draws.uniform(0.08, 0.25, (SEASONAL_GROUPS, 1)),
    )
    peak = draws.uniform(0, 12, (2, SEASONAL_GROUPS, 1))
    profiles = yearly * np.cos(2 * np.pi * (months - peak[0]) / 12) + half_yearly * np.cos(
        4 * np.pi * (months - peak[1]) / 12
    )
    group = (group_draw / SEASONAL_SHARE * SEASONAL_GROUPS).astype(int)
    is_seasonal = group < SEASONAL_GROUPS
    factors = np.ones((len(group), 12))
    strength = 0.7 + 0.6 * strength_draw[is_seasonal, None]
    factors[is_seasonal] = np.exp(
        strength * profiles[group[is_seasonal]] + 0.08 * own_normal[is_seasonal]
    )
    normalised: Floats = factors / factors.mean(axis=1, keepdims=True)
    return normalised


def _expected_qty(
    settings: Simulation, catalogue: _Catalogue, month: pd.Period, index: int
) -> Floats:
    """Return the expected quantity of a month with sales, 0 where the part can't be sold; one value
    per part launched by then.
    """
    on_sale = slice(0, int(np.searchsorted(catalogue.launch, index, side="right")))
    age = index - catalogue.launch[on_sale]
    remaining = catalogue.lifetime_months[on_sale] - age
    cycle = np.sin(
        2 * np.pi * index / catalogue.cycle_months[on_sale] + catalogue.cycle_phase[on_sale]
    )
    level: Floats = catalogue.base_qty[on_sale] * np.exp(
        catalogue.trend[on_sale] * np.tanh(index / 48) + catalogue.cycle_size[on_sale] * cycle
    )
    is_new = catalogue.launch[on_sale] > 0
    level *= np.where(is_new, np.minimum(1.0, 0.4 + 0.2 * age), 1.0)
    level *= np.clip(remaining / 5, 0.0, 1.0)
    gap = catalogue.gap_months[on_sale]
    level *= (gap == 0) | ((index + catalogue.gap_phase[on_sale]) % (gap + 4) >= gap)
    level *= (
        catalogue.season[on_sale, month.month - 1] * _day_weights(month).sum() / USUAL_MONTH_WEIGHT
    )
    if settings.shift_month is not None and month.year * 100 + month.month >= settings.shift_month:
        level *= np.where(
            catalogue.shift_draw[on_sale] < settings.shift_share, settings.shift_factor, 1.0
        )
    return level


def _month_draws(settings: Simulation, index: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, index])


def _month_sales(
    settings: Simulation,
    catalogue: _Catalogue,
    month: pd.Period,
    index: int,
    draws: np.random.Generator,
) -> pd.DataFrame:
    demand = _month_demand(catalogue, _expected_qty(settings, catalogue, month, index), draws)
    return _sales(catalogue, demand, month, index, draws)


def _day_weights(month: pd.Period) -> Floats:
    weights: Floats = WEEKDAY_WEIGHTS[
        (month.start_time.weekday() + np.arange(month.days_in_month)) % 7
    ]
    return weights


def _month_demand(catalogue: _Catalogue, expected: Floats, draws: np.random.Generator) -> Integers:
    """Draw the quantity sold per part: a chance of any sale, then negative binomial (a Poisson of a
    gamma).
    """
    parts = slice(0, len(expected))
    is_sporadic = catalogue.is_sporadic[parts]
    is_sold = (draws.random(len(expected)) < catalogue.sale_chance[parts]) & (expected > 0)
    cv2 = catalogue.qty_cv2[parts]
    mean = np.where(is_sporadic, np.maximum(expected - 1, 0.1), expected)
    qty = draws.poisson(draws.gamma(1 / cv2, np.maximum(mean, 1e-9) * cv2)) + is_sporadic
    return np.where(is_sold, qty, 0).astype(np.int64)


def _sales(
    catalogue: _Catalogue,
    demand: Integers,
    month: pd.Period,
    index: int,
    draws: np.random.Generator,
) -> pd.DataFrame:
    """Split demand into order lines: part, minute of the month, order (0, 1, ... within the month),
    customer, region, qty, price.
    """
    sold = np.flatnonzero(demand)
    qty = demand[sold]
    line_count = np.minimum(
        qty, 1 + draws.poisson(catalogue.line_rate[sold] * np.sqrt(qty / catalogue.base_qty[sold]))
    )
    first_line = np.concatenate([[0], np.cumsum(line_count)[:-1]])
    weight = draws.gamma(1.5, 1.0, int(line_count.sum()))
    share = weight / np.repeat(np.add.reduceat(weight, first_line), line_count)
    line_qty = 1 + (share * np.repeat(qty - line_count, line_count)).astype(np.int64)
    line_qty[first_line] += qty - np.add.reduceat(line_qty, first_line)

    day_weights = _day_weights(month)
    day = draws.choice(month.days_in_month, len(line_qty), p=day_weights / day_weights.sum())
    minute = day * MINUTES_PER_DAY + draws.integers(OPENING_MINUTE, CLOSING_MINUTE, len(day))
    # However few lines there are, one in the last three days shows that the month is complete.
    minute[minute.argmax()] = max(
        minute.max(), (month.days_in_month - 3) * MINUTES_PER_DAY + OPENING_MINUTE
    )
    by_time = np.argsort(minute, kind="stable")
    part, line_qty, minute = (
        np.repeat(sold, line_count)[by_time],
        line_qty[by_time],
        minute[by_time],
    )

    opens_order = draws.random(len(minute)) < 0.5
    opens_order[[0, -1]] = True
    order = np.cumsum(opens_order) - 1
    order_count = int(order[-1]) + 1
    buyer = (len(catalogue.customer_region) * draws.random(order_count) ** 2).astype(np.int64)
    named_buyer = np.where(draws.random(order_count) < NO_CUSTOMER_RATE, -1, buyer)
    return pd.DataFrame(
        {
            "part": part,
            "minute": minute[opens_order][order],
            "order": order,
            "is_cancellation": False,
            "customer": named_buyer[order],
            "region": catalogue.customer_region[buyer][order],
            "qty": line_qty,
            "price": np.round(
                catalogue.price[part] * (1 + catalogue.price_growth[part]) ** (index // 12), 2
            ),
        }
    )


def _reversals(sales: pd.DataFrame, draws: np.random.Generator) -> pd.DataFrame:
    """Draw cancellations (the whole quantity, mostly within days) and returns (a part of it, after
    weeks), each on an order of its own.
    """
    fate = draws.random(len(sales))
    reversed_sales = sales[fate < CANCELLATION_RATE + RETURN_RATE].copy()
    is_cancellation = fate[reversed_sales.index] < CANCELLATION_RATE
    delay_days = draws.exponential(np.where(is_cancellation, 2.0, 9.0))
    returned_qty = np.maximum(
        1, (reversed_sales["qty"] * draws.random(len(delay_days))).astype(np.int64)
    )
    reversed_sales["is_cancellation"] = is_cancellation
    reversed_sales["minute"] += 5 + (delay_days * MINUTES_PER_DAY).astype(np.int64)
    reversed_sales["qty"] = -np.where(is_cancellation, reversed_sales["qty"], returned_qty)
    reversed_sales["order"] = -1 - np.arange(len(reversed_sales))
    return reversed_sales


def _month_lines(
    settings: Simulation,
    catalogue: _Catalogue,
    month: pd.Period,
    index: int,
    outstanding: _Outstanding,
) -> pd.DataFrame:
    """Return the lines of the month's file and take from and add to what is outstanding."""
    draws = _month_draws(settings, index)
    sold = _month_sales(settings, catalogue, month, index, draws)
    reversals = pd.concat([*outstanding.reversals, _reversals(sold, draws)], ignore_index=True)
    reversals["order"] = -1 - np.arange(len(reversals))
    month_minutes = month.days_in_month * MINUTES_PER_DAY
    is_later = reversals["minute"] >= month_minutes
    later = reversals[is_later]
    outstanding.reversals = [later.assign(minute=later["minute"].to_numpy() - month_minutes)]

    booked = pd.concat([sold, reversals[~is_later]], ignore_index=True).sort_values(
        "minute", kind="stable", ignore_index=True
    )
    order = pd.factorize(booked["order"])[0]
    booked["order"] = outstanding.next_order + order
    outstanding.next_order += int(order.max()) + 1

    exported = _with_faults(_with_non_products(_as_text(catalogue, booked, month), draws), draws)
    if index % 12 in MONTHS_WITH_LATE_LINES:
        is_late = draws.random(len(exported)) < LATE_RATE
        is_late[-1] = False
        outstanding.late.append(exported[is_late])
        exported = exported[~is_late]
    is_doubled = draws.random(len(exported)) < DUPLICATE_RATE
    delivered = pd.concat(
        [outstanding.overlap, exported.iloc[np.repeat(np.arange(len(exported)), 1 + is_doubled)]],
        ignore_index=True,
    )
    outstanding.overlap = exported.tail(int(np.ceil(OVERLAP_RATE * len(exported))))
    return delivered


def _as_text(catalogue: _Catalogue, booked: pd.DataFrame, month: pd.Period) -> pd.DataFrame:
    days = np.array(
        [month.strftime(f"{day:02d}/%m/%Y ") for day in range(1, month.days_in_month + 1)],
        dtype=object,
    )
    times = np.array(
        [f"{minute // 60:02d}:{minute % 60:02d}" for minute in range(MINUTES_PER_DAY)], dtype=object
    )
    part, minute = booked["part"].to_numpy(), booked["minute"].to_numpy()
    return pd.DataFrame(
        {
            "Order No": (
                np.where(booked["is_cancellation"], "CSO", "SO").astype(object)
                + booked["order"].astype(str).to_numpy(object)
            ),
            "Item Code": catalogue.codes[part],
            "Item Description": catalogue.descriptions[part],
            "Customer": catalogue.customers[booked["customer"].to_numpy()],
            "Region": np.array(REGIONS, dtype=object)[booked["region"].to_numpy()],
            "Order Date": days[minute // MINUTES_PER_DAY] + times[minute % MINUTES_PER_DAY],
            "Qty": booked["qty"].astype(str).to_numpy(object),
            "Unit Price": np.char.mod("%.2f", booked["price"].to_numpy()).astype(object),
        }
    )


def _with_non_products(lines: pd.DataFrame, draws: np.random.Generator) -> pd.DataFrame:
    """Add lines of charges and corrections to some orders, each after a line of its order."""
    added = lines[draws.random(len(lines)) < NON_PRODUCT_RATE].copy()
    kind = draws.integers(len(NON_PRODUCTS), size=len(added))
    codes, descriptions = (
        np.array(texts, dtype=object) for texts in zip(*NON_PRODUCTS, strict=True)
    )
    added["Item Code"] = codes[kind]
    added["Item Description"] = descriptions[kind] + " (simulated)"
    added["Qty"] = np.where(codes[kind] == "DISCOUNT", "-1", "1")
    added["Unit Price"] = np.char.mod("%.2f", draws.uniform(4, 40, len(added)))
    return pd.concat([lines, added]).sort_index(kind="stable", ignore_index=True)


def _with_faults(lines: pd.DataFrame, draws: np.random.Generator) -> pd.DataFrame:
    """Overwrite a field of some lines, at most one per line; never of the last line, which shows
    that the month is complete.
    """
    faulty = lines.copy()
    rates = [rate for _, rate, _ in FAULTS] + [UNTIDY_CODE_RATE]
    draw = draws.random(len(lines))
    draw[-1] = 1.0
    fault = np.searchsorted(np.cumsum(rates), draw, side="right")
    for number, (column, _, texts) in enumerate(FAULTS):
        rows = np.flatnonzero(fault == number)
        faulty.loc[rows, column] = np.array(texts, dtype=object)[
            draws.integers(len(texts), size=len(rows))
        ]
    rows = np.flatnonzero(fault == len(FAULTS))
    codes = lines.loc[rows, "Item Code"]
    spelling = draws.integers(3, size=len(rows))
    faulty.loc[rows, "Item Code"] = np.choose(
        spelling, [codes.str.lower(), " " + codes, " " + codes.str.lower() + " "]
    )
    return faulty
