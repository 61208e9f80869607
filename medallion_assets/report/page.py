"""The monthly report as one HTML page.

Pure: small frames and figures of all parts in, text out. What is read for it and where the page
goes lies in reporting.py.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from medallion_assets import plots
from medallion_assets.report.cells import BIAS_LIMIT, COVERAGE_LIMITS, image, month_name, qty
from medallion_assets.report.data import (
    SHOWN_PARTS,
    ReportData,
    classes_and_all,
    totals_of,
    with_numbers,
)
from medallion_assets.report.sections import (
    anomaly_table,
    cause_table,
    change_table,
    class_table,
    coming_table,
    decision_table,
    evidence_tables,
    interval_sentence,
    lag_table,
    model_table,
    moved_table,
    part_rows,
    retraining_table,
    served_table,
    summary_sentences,
    tested_sentence,
)
from medallion_assets.report.watchlists import WRONG, Watchlist
from medallion_assets.served.accuracy import pooled

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

WORST_PARTS = 10

# Reading needs no script; this one sorts a table by the column whose head is chosen.
SORTING = Markup("""
for (const head of document.querySelectorAll("table.sortable th")) {
  const sort = () => {
    const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
    const falling = head.getAttribute("aria-sort") !== "descending";
    const value = row => {
        const text = row.cells[place].dataset.order;
        return text === "" || isNaN(text) ? text : Number(text);
    };
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return (x < y ? -1 : x > y ? 1 : 0) * (falling ? -1 : 1);
    });
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    body.append(...rows);
  };
  head.tabIndex = 0;
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
""")


def monthly_report(
    data: ReportData,
    lists: Sequence[Watchlist],
    history: pd.DataFrame,
    descriptions: Mapping[str, str],
    made_from: str,
) -> str:
    """The page. The same arguments give the same text.

    history: part_number, yyyymm, demand_qty of the parts on the lists; descriptions by part number;
    ``made_from`` identifies what the page was made from, and stands in its head.
    """
    return template("report.html").render(
        data=data,
        made_from=made_from,
        script=SORTING,
        script_hash=base64.b64encode(hashlib.sha256(SORTING.encode()).digest()).decode(),
        summary=summary_sentences(data),
        pictures={
            # The title first: the picture is drawn without it.
            name: image(plots.title_of(figure), plots.svg(figure))
            for name, figure in figures(data, history, lists).items()
        },
        coming=coming_table(data),
        interval=interval_sentence(data),
        classes=class_table(data),
        changes=change_table(data),
        moved=moved_table(data),
        causes=cause_table(data),
        served_by=model_table(data),
        vintages=[row for row in data.vintages.to_dict("records") if row["vintage"] > 1],
        weak=[
            table
            for table in (served_table(data), lag_table(data), *evidence_tables(data))
            if table.rows
        ],
        tested=tested_sentence(data.accuracy, data.anomalies, data.origin, data.anomaly_rate),
        anomalies=anomaly_table(data, descriptions),
        decided=[table for table in (decision_table(data), retraining_table(data)) if table.rows],
        lists=[(found, part_rows(data, found, history, descriptions)) for found in lists],
        shown=SHOWN_PARTS,
        wrong=WRONG,
        limits=(BIAS_LIMIT, COVERAGE_LIMITS),
    )


def figures(
    data: ReportData, history: pd.DataFrame, lists: Sequence[Watchlist]
) -> dict[str, Figure]:
    """The pictures of the page by name. history: as for monthly_report."""
    totals, by_class = totals_of(data, "all"), totals_of(data, "demand_class")
    by_lag = pooled(classes_and_all(data.accuracy), ["segment", "lag"])
    simulated = data.is_simulated
    return {
        "forecast": plots.served_forecast(data.demand, totals, simulated),
        "by_class": plots.forecast_by_class(
            data.judged,
            by_class.rename(columns={"segment": "demand_class"}),
            data.sold_by_class,
            simulated,
        ),
        "largest_errors": largest_errors(data, history, lists),
        "anomalies": plots.anomalies(data.anomalies, history, data.served_ahead, simulated),
        "error_by_lag": plots.error_by_lag(by_lag, simulated),
        "coverage_by_lag": plots.coverage_by_lag(by_lag, simulated),
        "value_added": plots.value_added(data.accuracy, simulated),
        "value_by_version": plots.value_by_version(data.decisions, simulated),
    }


def largest_errors(data: ReportData, history: pd.DataFrame, lists: Sequence[Watchlist]) -> Figure:
    """The WORST_PARTS parts that were forecast worst, beside what was forecast for them. history:
    as for monthly_report.
    """
    wrong = next((list(found.rows["part_number"]) for found in lists if found.title == WRONG), [])[
        :WORST_PARTS
    ]
    said = with_numbers(data.former[data.former["part_number"].isin(wrong)])
    ordered = said.assign(
        place=said["part_number"].map({part: place for place, part in enumerate(wrong)})
    ).sort_values("place")
    return plots.largest_errors(
        history[history["part_number"].isin(wrong)], ordered, data.is_simulated
    )


def template(name: str) -> Template:
    """A page of templates/, which writes quantities and months as people read them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medallion_assets.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"qty": qty, "month": month_name}
    return environment.get_template(name)
