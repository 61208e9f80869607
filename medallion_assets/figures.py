"""The figures by which forecasts are compared, each once: what a cell adds to it, and what that is
divided by.

The columns of gold.model_evaluation, the sums behind them and the metrics in MLflow follow from
FIGURES. Which cells count, and how they are summed up, lies in champion/evaluation.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column


@dataclass(frozen=True)
class Cell:
    """One forecast beside what was sold, as columns. Units unless said otherwise; NULL where a
    value does not exist for the cell.
    """

    demand: Column
    mean: Column  # expected demand
    median: Column
    q10: Column
    q90: Column
    absolute_error: Column  # of the median
    squared_error: Column  # of the mean, units squared
    relative_error: Column  # absolute error over demand, where there is any
    scaled_error: Column  # absolute error over the scale of seasonal naive
    quantile_loss: Column  # 2 * pinball loss, mean over the deciles
    pit: Column  # randomised PIT, 0 to 1
    price: Column  # currency per unit
    cost: Column  # units too many and too few, each by its rate
    revision: (
        Column  # absolute change of the mean since the origin before, where that has the month
    )
    revised_demand: Column  # demand, where there is such a change
    is_fallback: Column


@dataclass(frozen=True)
class Summed:
    """An amount per cell that is summed up; a NULL does not count."""

    name: str
    of: Callable[[Cell], Column]


@dataclass(frozen=True)
class Counted:
    """Cells that are counted where a condition holds."""

    name: str
    where: Callable[[Cell], Column]


@dataclass(frozen=True)
class Held:
    """A sum or count that the evaluation makes itself, because it is not one over a cell's
    columns.
    """

    name: str
    is_count: bool = False


Amount = Summed | Counted | Held


@dataclass(frozen=True)
class Figure:
    """A column of gold.model_evaluation: ``over`` divided by ``per``, or the root of that. It is
    NULL where ``per`` is 0, and not divided where that is None. ``is_metric``: in MLflow too.
    """

    name: str
    meaning: str
    over: Amount
    per: Amount | None
    is_root: bool = False
    is_metric: bool = True


CELLS = Held("cells", is_count=True)
DEMAND = Summed("actual_qty", lambda cell: cell.demand)
HAS_DEMAND = Counted("has_demand", lambda cell: cell.demand > 0)
ABSOLUTE_ERROR = Summed("abs_error", lambda cell: cell.absolute_error)

FIGURES = (
    Figure("mae", "mean absolute error of q50, units", ABSOLUTE_ERROR, CELLS),
    Figure(
        "rmse",
        "root mean squared error of forecast_qty, pooled over cells, units",
        Summed("squared_error", lambda cell: cell.squared_error),
        CELLS,
        is_root=True,
    ),
    Figure(
        "mape",
        "mean absolute percentage error of q50 over cells with demand",
        Summed("pct_error", lambda cell: cell.relative_error),
        HAS_DEMAND,
    ),
    Figure("mape_share", "share of cells that have demand", HAS_DEMAND, CELLS, is_metric=False),
    Figure("wape", "sum of absolute errors of q50 over sum of demand", ABSOLUTE_ERROR, DEMAND),
    Figure(
        "mase",
        "mean absolute error of q50 over the scale of seasonal naive, mean over cells with a scale",
        Summed("scaled_error", lambda cell: cell.scaled_error),
        Counted("has_scale", lambda cell: cell.scaled_error.isNotNull()),
    ),
    Figure(
        "rmsse",
        "root mean squared scaled error per part of forecast_qty, mean over parts",
        Held("part_rmsse"),
        Held("scaled_parts", is_count=True),
    ),
    Figure(
        "wql",
        "mean over the deciles of 2 * pinball loss over sum of demand",
        Summed("loss_qty", lambda cell: cell.quantile_loss),
        DEMAND,
    ),
    Figure(
        "bias",
        "sum of (forecast_qty - demand) over sum of demand",
        Summed("bias_qty", lambda cell: cell.mean - cell.demand),
        DEMAND,
    ),
    Figure(
        "coverage_80",
        "share of cells within [q10, q90]",
        Counted("is_within_80", lambda cell: (cell.demand >= cell.q10) & (cell.demand <= cell.q90)),
        CELLS,
    ),
    Figure(
        "calibration_80",
        "share of randomised PIT values within [.1, .9]; a perfect forecaster has .8",
        Counted("is_pit_within_80", lambda cell: (cell.pit >= 0.1) & (cell.pit <= 0.9)),
        CELLS,
    ),
    Figure(
        "revenue_weighted_error",
        "absolute error of q50 valued at price, over demand valued at price",
        Summed("priced_error", lambda cell: cell.absolute_error * cell.price),
        Summed("priced_actual", lambda cell: cell.demand * cell.price),
    ),
    Figure(
        "revision_share",
        "sum of absolute changes of forecast_qty since the origin before over sum of demand, where"
        " both origins forecast the month",
        Summed("revised_qty", lambda cell: cell.revision),
        Summed("revised_of_qty", lambda cell: cell.revised_demand),
    ),
    Figure(
        "stock_cost",
        "cost of units too many and too few at the configured rates, in the source's currency",
        Summed("stock_cost", lambda cell: cell.cost * cell.price),
        None,
    ),
    Figure(
        "fallback_share",
        "share of cells with a stand-in forecast",
        Counted("is_fallback", lambda cell: cell.is_fallback),
        CELLS,
        is_metric=False,
    ),
)


def summed() -> list[Summed]:
    """Every sum over cells that a figure needs, once."""
    return [amount for amount in _amounts() if isinstance(amount, Summed)]


def counted() -> list[Counted]:
    """Every count of cells that a figure needs, once."""
    return [amount for amount in _amounts() if isinstance(amount, Counted)]


def _amounts() -> Iterator[Amount]:
    needed = (amount for figure in FIGURES for amount in (figure.over, figure.per))
    return iter(dict.fromkeys(amount for amount in needed if amount is not None))
