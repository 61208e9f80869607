"""The simulated wholesaler: what is fixed by the seed, which demand patterns and faults it holds,
and how its files are written.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal

from medallion_assets.simulation import (
    NOTE,
    ORDER_COLUMNS,
    Simulation,
    order_files,
    parts_master,
    write,
)

SMALL = Simulation(parts=20, months=8)


@pytest.fixture(scope="module")
def delivered() -> pd.DataFrame:
    """All lines of the default sample, with the file that brought each."""
    return pd.concat(
        [lines.assign(file=name) for name, lines in order_files(Simulation())], ignore_index=True
    )


def accepted(delivered: pd.DataFrame) -> pd.DataFrame:
    """Typed lines of products without faults and repetitions."""
    lines = delivered.drop_duplicates(list(ORDER_COLUMNS))
    typed = pd.DataFrame(
        {
            "order_number": lines["Order No"],
            "customer": lines["Customer"],
            "part_number": lines["Item Code"].str.strip().str.upper(),
            "date": pd.to_datetime(lines["Order Date"], format="%d/%m/%Y %H:%M", errors="coerce"),
            "qty": pd.to_numeric(lines["Qty"], errors="coerce"),
            "price_usd": pd.to_numeric(lines["Unit Price"]),
        }
    ).dropna()
    products: pd.DataFrame = typed[
        typed["part_number"].str.startswith("P-")
        & (typed["date"].dt.year < 2100)
        & (typed["qty"] != 0)
        & (typed["price_usd"] > 0)
    ]
    return products


def monthly_demand(delivered: pd.DataFrame) -> pd.DataFrame:
    """Part x month, net of cancellations and returns, not below 0."""
    lines = accepted(delivered)
    return (
        lines.groupby(["part_number", lines["date"].dt.to_period("M")])["qty"]
        .sum()
        .unstack(fill_value=0)
        .clip(lower=0)
    )


def demand_class(months: pd.Series) -> str:
    since_first_sale = months[months.gt(0).cummax()]
    sold = since_first_sale[since_first_sale > 0]
    if len(since_first_sale) < 6:
        return "new"
    is_regular = len(since_first_sale) / len(sold) < 1.32
    is_steady = sold.var(ddof=0) / sold.mean() ** 2 < 0.49
    return {
        (True, True): "smooth",
        (True, False): "erratic",
        (False, True): "intermittent",
        (False, False): "lumpy",
    }[is_regular, is_steady]


def test_the_seed_fixes_every_line() -> None:
    """Equal settings give equal files, and another seed gives others."""
    files, again, other = (
        dict(order_files(SMALL)),
        dict(order_files(SMALL)),
        dict(order_files(replace(SMALL, seed=8))),
    )
    assert list(files) == list(again)
    for name, lines in files.items():
        assert_frame_equal(lines, again[name])
        assert not lines.equals(other[name])


def test_a_longer_simulation_keeps_the_earlier_months() -> None:
    """The files of a shorter simulation are the first files of a longer one."""
    longer = dict(order_files(replace(SMALL, months=12)))
    for name, lines in order_files(SMALL):
        assert_frame_equal(lines, longer[name])


def test_every_demand_class_is_present(delivered: pd.DataFrame) -> None:
    """Each class holds a sensible share of the parts; new parts, discontinued parts and long gaps
    occur.
    """
    demand = monthly_demand(delivered)
    shares = demand.apply(demand_class, axis=1).value_counts(normalize=True)
    assert shares.loc[["smooth", "intermittent"]].between(0.2, 0.5).all()
    assert shares.loc[["erratic", "lumpy"]].between(0.08, 0.25).all()
    assert 0 < shares["new"] < 0.06
    is_sold = demand.gt(0)
    assert 5 <= (~is_sold.iloc[:, -18:].any(axis=1)).sum() <= 60
    longest_gap = is_sold.apply(
        lambda months: np.diff(np.flatnonzero(months)).max(initial=0), axis=1
    )
    assert ((longest_gap > 10) & is_sold.iloc[:, -15:].any(axis=1)).sum() >= 3


def test_seasonal_naive_can_be_beaten(delivered: pd.DataFrame) -> None:
    """Over the last 6 months a 12-month mean has a clearly lower WAPE than seasonal naive, and is
    still far from perfect.
    """
    demand = monthly_demand(delivered).to_numpy()
    history, actual = demand[:, :-6], demand[:, -6:]
    seasonal_naive = np.abs(history[:, -12:-6] - actual).sum() / actual.sum()
    mean = np.abs(history[:, -12:].mean(axis=1, keepdims=True) - actual).sum() / actual.sum()
    assert 0.3 < mean < 0.95 * seasonal_naive < 0.8


FAULTS: dict[str, tuple[Callable[[pd.DataFrame], "pd.Series[bool]"], float]] = {
    "cancellation": (
        lambda lines: lines["Order No"].str.startswith("CSO") & lines["Qty"].str.startswith("-"),
        0.015,
    ),
    "return": (
        lambda lines: lines["Order No"].str.startswith("SO") & lines["Qty"].str.startswith("-"),
        0.007,
    ),
    "unreadable date": (lambda lines: lines["Order Date"].str.match(r"31/02|n/a|^$"), 0.001),
    "date in the far future": (lambda lines: lines["Order Date"].str.contains("/2199"), 0.0003),
    "unreadable quantity": (lambda lines: lines["Qty"].isin(["abc", "", "1,5x"]), 0.001),
    "quantity of zero": (lambda lines: lines["Qty"].eq("0"), 0.001),
    "price of zero or less": (lambda lines: lines["Unit Price"].astype(float).le(0), 0.002),
    "code of no product": (
        lambda lines: lines["Item Code"].isin(["POST", "DISCOUNT", "MANUAL"]),
        0.005,
    ),
    "untidy code": (
        lambda lines: lines["Item Code"].ne(lines["Item Code"].str.strip().str.upper()),
        0.005,
    ),
    "no customer": (lambda lines: lines["Customer"].eq(""), 0.08),
    "repeated within its file": (lambda lines: lines.duplicated(), 0.005),
    "delivered again a month later": (
        lambda lines: (
            lines.drop_duplicates()
            .duplicated(list(ORDER_COLUMNS))
            .reindex(lines.index, fill_value=False)
        ),
        0.006,
    ),
    "delivered late": (lambda lines: lines["file"].str.contains("_late_"), 0.02 / 3),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_occurs_at_its_rate(delivered: pd.DataFrame, fault: str) -> None:
    """The share of lines with the fault is within half and twice the rate meant."""
    is_faulty, rate = FAULTS[fault]
    assert rate / 2 < is_faulty(delivered).mean() < 2 * rate


def test_lines_are_those_of_a_complete_export(delivered: pd.DataFrame) -> None:
    """All is text; cancellations repeat a sale with its sign turned; late lines are new and older;
    every month has lines to its end.
    """
    assert delivered.map(lambda value: isinstance(value, str)).all(axis=None)
    lines = accepted(delivered)
    months = lines["date"].dt.to_period("M")
    assert (lines["date"].dt.day + 10 > months.dt.days_in_month).groupby(months).any().all()
    assert months.nunique() == 60
    is_cancellation = lines["order_number"].str.startswith("C")
    sales, cancelled = (
        lines[~is_cancellation].assign(month=months),
        lines[is_cancellation].assign(month=months, qty=-lines["qty"]),
    )
    same_sale = ["month", "customer", "part_number", "qty"]
    assert cancelled.merge(sales.drop_duplicates(same_sale), on=same_sale).shape[0] > 0.8 * len(
        cancelled
    )
    late = delivered["file"].eq("simulated_orders_late_202207.csv")
    dated = set(months[late.loc[lines.index]].astype(str))
    assert dated <= {"2022-03", "2022-04", "2022-05", "2022-06"}
    assert len(dated) > 1
    assert not delivered[late].merge(delivered[~late], on=list(ORDER_COLUMNS)).size


def test_the_parts_master_announces_before_the_first_sale(delivered: pd.DataFrame) -> None:
    """A new part is announced in an earlier month than its first sale, and three parts announced
    never sell.
    """
    lines = accepted(delivered)
    first_sale = lines.groupby("part_number")["date"].min().dt.to_period("M")
    master = parts_master(Simulation()).set_index("Item Code")
    announced = pd.to_datetime(master["Announced"], format="%d/%m/%Y").dt.to_period("M")
    assert_array_equal(master.index[:3].isin(first_sale.index), [False] * 3)
    sold = announced.index.intersection(first_sale.index)
    assert len(sold) > 30
    assert (announced[sold] < first_sale[sold]).all()
    assert announced.max() == pd.Period("2025-12")


def test_a_second_write_changes_nothing(tmp_path: Path) -> None:
    """The second call returns no path and leaves content and modification times alone; a damaged
    file is written again.
    """
    written = write(SMALL, tmp_path)
    assert tmp_path / "simulated_orders_202101.csv" in written
    assert tmp_path / "parts_master" / "simulated_parts_master.csv" in written
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != NOTE
    }
    assert set(before) == set(written)
    for _ in ("by the note", "by content"):
        assert write(SMALL, tmp_path) == []
        assert before == {
            path: (path.stat().st_mtime_ns, path.read_bytes())
            for path in tmp_path.rglob("*")
            if path.is_file() and path.name != NOTE
        }
        (tmp_path / NOTE).unlink()
    written[3].write_text("cut off")
    assert write(SMALL, tmp_path) == [written[3]]
    assert written[3].read_bytes() == before[written[3]][1]


def test_a_shift_is_visible_from_its_month() -> None:
    """Before the shift month the files are the same; from it on demand of the shifted parts is
    clearly higher.
    """
    settings = Simulation(parts=60, months=16)
    plain = dict(order_files(settings))
    shifted = dict(order_files(replace(settings, shift_month=202201, shift_share=1.0)))
    for name in list(plain)[:12]:
        assert_frame_equal(plain[name], shifted[name])
    total, shifted_total = (
        monthly_demand(pd.concat(files.values())).iloc[:, 12:].to_numpy().sum()
        for files in (plain, shifted)
    )
    assert 1.5 < shifted_total / total < 2.1


@pytest.mark.parametrize(
    "wrong",
    [{"parts": 19}, {"months": 0}, {"first_month": 202113}, {"shift_month": 2022}, {"seed": -1}],
)
def test_settings_out_of_bounds_are_refused(wrong: dict[str, int]) -> None:
    """A setting that can't be simulated is named in the error."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Simulation(**wrong)
