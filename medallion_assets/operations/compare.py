"""A forecast made elsewhere beside ours: printed, and as a page to hand on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.table import Table

from medallion_assets import plots
from medallion_assets.champion import comparison
from medallion_assets.champion.decisions import last_decisions
from medallion_assets.operations.runs import writer
from medallion_assets.report.cells import image
from medallion_assets.report.page import template
from medallion_assets.tables import CHAMPION, MODEL_EVALUATION, ZOO_RESULT
from resources.errors import Refused

if TYPE_CHECKING:
    from resources.lakehouse import Lakehouse
    from resources.settings import Settings


def compare(settings: Settings, name: str, out: Path | None, console: Console) -> pd.DataFrame:
    """Print the comparison with a given forecast on the evidence of the newest decision, and write
    it as a page; returns ``comparison.COLUMNS``.

    Ours is in each class the champion, or where a given forecast serves the model of the zoo with
    the lowest WQL. Raises Refused where there is no such forecast, no decision, or no cell of both.
    """
    if name not in settings.given_forecasts:
        known = ", ".join(settings.given_forecasts) or "none"
        raise Refused(f"given_forecasts names no {name}; it names {known}")
    lakehouse = writer(settings)
    decisions = lakehouse.rows(CHAMPION)
    if decisions.empty:
        raise Refused("nothing was decided yet: no month was trained")
    month = int(decisions["yyyymm"].max())
    ours = _ours(lakehouse, decisions, month, set(settings.given_forecasts))
    pairs = comparison.paired(lakehouse.read(ZOO_RESULT, [month]), name, ours)
    pairs = lakehouse.engine.hold(pairs)
    try:
        found = comparison.comparisons(
            pairs, settings.forecast.horizon, ours, settings.promotion.min_interval_parts
        )
        totals = comparison.month_totals(pairs)
    finally:
        lakehouse.engine.release(pairs)
    if found.empty:
        raise Refused(
            f"{name} gave no cell that has its actual by {month}; deliver its forecasts of origins"
            f" through {month} and run again"
        )
    console.print(_table(found, name, month))
    if out is not None:
        out.write_text(_page(found, totals, name, month, settings), encoding="utf-8")
        console.print(f"Written to {out}")
    return found


def _ours(
    lakehouse: Lakehouse, decisions: pd.DataFrame, month: int, given: Collection[str]
) -> dict[str, str]:
    """Demand class -> the model of the zoo that stands for us."""
    champions = last_decisions(decisions[decisions["yyyymm"] == month])["champion"]
    evidence = lakehouse.rows(MODEL_EVALUATION, months=[month])
    own = evidence[
        (evidence["segment_kind"] == "demand_class")
        & (evidence["horizon"] == 0)
        & evidence["wql"].notna()
        & ~evidence["model"].isin(given)
    ].sort_values("wql")
    best = own.drop_duplicates("segment").set_index("segment")["model"].to_dict()
    serving = {name: model for name, model in champions.items() if model not in given}
    return {str(name): str(model) for name, model in (best | serving).items()}


def _rows(found: pd.DataFrame) -> list[list[str]]:
    return [
        [
            str(row["segment"]),
            str(row["ours"]),
            f"{row['cell_count']:,} of {row['part_count']:,} parts",
            f"{row['given_wql']:.3f}",
            f"{row['our_wql']:.3f}",
            f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
            comparison.verdict(row),
            f"{row['given_bias']:+.3f}",
            f"{row['our_bias']:+.3f}",
        ]
        for row in found.to_dict("records")
    ]


def _heads(name: str) -> list[str]:
    return [
        *("class", "ours", "cells", f"WQL {name}", "WQL ours", "difference", "verdict"),
        *(f"bias {name}", "bias ours"),
    ]


def _table(found: pd.DataFrame, name: str, month: int) -> Table:
    table = Table(title=f"{name} beside ours, on the cells that it gave; evidence of {month}")
    for head in _heads(name):
        table.add_column(head)
    for row in _rows(found):
        table.add_row(*row)
    return table


def _page(
    found: pd.DataFrame, totals: pd.DataFrame, name: str, month: int, settings: Settings
) -> str:
    simulated = settings.is_simulated
    figures = [
        plots.given_against_ours(found, name, simulated),
        plots.given_totals(totals, name, simulated),
    ]
    whole = found[found["segment"] == comparison.ALL].iloc[0].to_dict()
    return template("comparison.html").render(
        name=name,
        description=settings.given_forecasts[name].description,
        month=month,
        is_simulated=simulated,
        whole=whole,
        verdict=comparison.verdict(whole),
        heads=_heads(name),
        rows=_rows(found),
        pictures=[image(plots.title_of(figure), plots.svg(figure, 8.0)) for figure in figures],
    )
