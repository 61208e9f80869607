"""Reporting: reads what a monthly report shows, keeps the page beside the lakehouse and in MLflow.
Nothing is computed by Spark.

What the page says lies in page.py, of what in data.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pandas as pd

from medallion_assets import plots
from medallion_assets.partitions import add_months, month_range
from medallion_assets.report.data import (
    ACCURACY_MONTHS,
    CODE_VERSION,
    FORECAST_COLUMNS,
    FORMER_COLUMNS,
    HISTORY_MONTHS,
    SHOWN_PARTS,
    ReportData,
    vintage_reason,
)
from medallion_assets.report.page import largest_errors, monthly_report
from medallion_assets.report.sections import tested_sentence
from medallion_assets.report.watchlists import shown_parts, watchlists
from medallion_assets.served.accuracy import judged_totals, pooled
from medallion_assets.served.published import (
    Edition,
    current_edition,
    edition_before,
    forecast_rows,
    published_origins,
    total_rows,
)
from medallion_assets.slices import version_of
from medallion_assets.tables import (
    CHAMPION,
    CHANGE_PARTS,
    DEMAND_ANOMALY,
    DEMAND_FEATURES,
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_ACCURACY,
    FORECAST_CHANGE,
    LAGS,
    MODEL_EVALUATION,
    MONTHLY_DEMAND,
    PARTS,
    RETRAINING_DECISION,
)
from medallion_assets.work import Work
from resources.errors import without_credentials
from resources.lakehouse import Lakehouse
from resources.reports import ReportFiles
from resources.settings import Settings
from resources.tracking import RunContent, Tracking

DRAWN_MONTHS = 36


@dataclass(frozen=True)
class Reporting:
    """Makes the report of an origin, unless one is there that was made from the same."""

    work: Work
    tracking: Tracking
    files: ReportFiles

    def run(self, origin: int) -> dict[str, Any]:
        """Metadata of the month: where the report lies, whether it was written, and the parts with
        the largest error as a picture.
        """
        if origin not in published_origins(self.work.lakehouse):
            self.work.log(
                f"monthly_report: nothing is published for {origin}, so there is no report"
            )
            return {"result": "nothing published"}
        name = report_name(origin)
        edition, before = (
            current_edition(self.work.lakehouse, origin),
            edition_before(self.work.lakehouse, origin),
        )
        decisions, retraining = self._decisions(origin), self._retraining(origin, before)
        made_from = self._version(edition, before, decisions, retraining)
        told: dict[str, Any] = {
            "report": dg.MetadataValue.path(self.files.path(name)),
            "made_from": made_from,
        }
        if f'content="{made_from}"' in (self.files.read(name) or ""):
            return {**told, "result": "unchanged", "files_written": 0}
        data = self._data(edition, before, decisions, retraining)
        lists = watchlists(data)
        shown = {*shown_parts(lists), *data.anomalies["part_number"]}
        history, descriptions = self._shown(origin, sorted(shown))
        page = monthly_report(data, lists, history, descriptions, made_from)
        self.files.write(name, page)
        drawn = plots.rendered(largest_errors(data, history, lists))
        return {
            **told,
            "result": "written",
            "files_written": 1,
            "parts_to_look_at": {found.title: found.count for found in lists},
            "largest_errors": dg.MetadataValue.md(drawn.markdown),
            **self._logged(origin, name, page),
        }

    def _logged(self, origin: int, name: str, page: str) -> dict[str, Any]:
        """The page as an artifact of a run of its own, where MLflow answers."""
        try:
            self.tracking.check()
            run_id = self.tracking.start(
                f"report {origin}", {"month": str(origin), "kind": "report", **self.work.tags}
            )
            self.tracking.log(run_id, RunContent(texts={name: page}))
            self.tracking.commit(run_id)
            return {"mlflow_run": dg.MetadataValue.url(self.tracking.url(run_id))}
        # the page is stored by now, and the copy in MLflow is worth no failed month, whatever went
        # wrong
        except Exception as error:
            why = without_credentials(str(error))
            self.work.log(
                f"monthly_report: {origin} is not in MLflow, only at {self.files.path(name)}: {why}"
            )
            return {"mlflow": f"not logged: {why}"}

    def _version(
        self,
        edition: Edition,
        before: Edition | None,
        decisions: pd.DataFrame,
        retraining: pd.DataFrame,
    ) -> str:
        """Hash of everything the page is made from."""
        origin, settings = edition.origin, self.work.settings
        months = {
            DEMAND_FORECAST: [
                *_judged_origins(origin),
                *([before.origin] if before else []),
                origin,
            ],
            DEMAND_FORECAST_TOTAL: [*_judged_origins(origin), origin],
            FORECAST_CHANGE: [origin],
            FORECAST_ACCURACY: _accuracy_months(origin),
            DEMAND_ANOMALY: _accuracy_months(origin),
            MODEL_EVALUATION: self._evaluated(decisions),
            MONTHLY_DEMAND: month_range(add_months(origin, 1 - DRAWN_MONTHS), origin),
            DEMAND_FEATURES: [origin],
        }
        read = []
        for table, wanted in months.items():
            stored = self.work.lakehouse.ledger.slices(table)
            read += [
                [table.id, month, stored[month].data_version] for month in wanted if month in stored
            ]
        numbers = [
            frame["decision_number"].tolist()
            for frame in (decisions, retraining)
            if "decision_number" in frame
        ]
        configured = [
            settings.promotion.over_rate,
            settings.promotion.under_rate,
            settings.monitoring.anomaly_rate,
            settings.is_simulated,
        ]
        return version_of(CODE_VERSION, edition, before, read, numbers, configured)

    def _data(
        self,
        edition: Edition,
        before: Edition | None,
        decisions: pd.DataFrame,
        retraining: pd.DataFrame,
    ) -> ReportData:
        origin, lakehouse = edition.origin, self.work.lakehouse
        demand = lakehouse.totals(
            MONTHLY_DEMAND,
            ["yyyymm", "is_complete"],
            ["demand_qty"],
            month_range(add_months(origin, 1 - DRAWN_MONTHS), origin),
        )
        accuracy = accuracy_through(lakehouse, origin)
        anomalies = anomalies_through(lakehouse, origin)
        return ReportData(
            origin=origin,
            vintage=edition.vintage,
            before=before.origin if before else None,
            forecast=forecast_rows(lakehouse, edition, FORECAST_COLUMNS),
            former=(
                forecast_rows(lakehouse, before, FORMER_COLUMNS)
                if before
                else pd.DataFrame(columns=list(FORMER_COLUMNS))
            ),
            changes=self._changes(edition),
            vintages=self._vintages(edition),
            features=lakehouse.rows(
                DEMAND_FEATURES, ["part_number", "abc_class", "unit_price"], [origin]
            ),
            actual=lakehouse.rows(MONTHLY_DEMAND, ["part_number", "demand_qty"], [origin]),
            demand=demand[demand["is_complete"].astype(bool)],
            accuracy=accuracy,
            anomalies=anomalies,
            served_ahead=served_ahead(lakehouse, anomalies, origin),
            totals=total_rows(lakehouse, edition),
            judged=judged(lakehouse, accuracy, origin, "demand_class"),
            sold_by_class=sold_by_class(lakehouse, origin),
            evaluation=lakehouse.rows(MODEL_EVALUATION, months=self._evaluated(decisions)),
            decisions=decisions,
            retraining=retraining,
            costs=self.work.settings.promotion,
            anomaly_rate=self.work.settings.monitoring.anomaly_rate,
            is_simulated=self.work.settings.is_simulated,
        )

    def _changes(self, edition: Edition) -> pd.DataFrame:
        columns = ["target_yyyymm", "vintage", "former_qty", "forecast_qty", *CHANGE_PARTS]
        rows = self.work.lakehouse.rows(FORECAST_CHANGE, columns, [edition.origin])
        return rows[rows["vintage"] == edition.vintage]

    def _vintages(self, edition: Edition) -> pd.DataFrame:
        """vintage, published_at as a text, reason, of all vintages of an origin."""
        columns = ["vintage", "published_at", "reason"]
        if edition.vintage == 1:
            return pd.DataFrame(columns=columns)
        rows = self.work.lakehouse.rows(
            DEMAND_FORECAST, columns, [edition.origin]
        ).drop_duplicates()
        return pd.DataFrame(
            [
                (
                    vintage,
                    f"{own['published_at'].iloc[0]:%Y-%m-%d}",
                    vintage_reason(own["reason"].dropna(), int(vintage)),
                )
                for vintage, own in rows.groupby("vintage")
            ],
            columns=columns,
        )

    def _shown(self, origin: int, parts: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
        """Demand and descriptions of the parts on the page, and of no other."""
        months = month_range(add_months(origin, 1 - HISTORY_MONTHS), origin)
        history = self.work.lakehouse.rows(
            MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty"], months, parts=parts
        )
        known = self.work.lakehouse.rows(PARTS, ["part_number", "description"], parts=parts)
        return history, dict(zip(known["part_number"], known["description"], strict=True))

    def _decisions(self, origin: int) -> pd.DataFrame:
        decisions = self.work.lakehouse.rows(CHAMPION)
        return (
            decisions[decisions["yyyymm"] <= origin]
            .sort_values("decision_number")
            .reset_index(drop=True)
        )

    def _retraining(self, origin: int, before: Edition | None) -> pd.DataFrame:
        """Decisions whether to train, since the origin before."""
        after = before.origin if before else add_months(origin, -1)
        return self.work.lakehouse.rows(
            RETRAINING_DECISION, months=month_range(add_months(after, 1), origin)
        )

    def _evaluated(self, decisions: pd.DataFrame) -> list[int]:
        """The newest month whose decisions rest on an evaluation."""
        stored = self.work.lakehouse.ledger.slices(MODEL_EVALUATION)
        months = [
            month
            for month in decisions["yyyymm"].unique()
            if month in stored and stored[month].row_count
        ]
        return [int(max(months))] if months else []


def report_name(origin: int) -> str:
    """Name of an origin's report file."""
    return f"report_{origin}.html"


def accuracy_through(lakehouse: Lakehouse, month: int) -> pd.DataFrame:
    """Rows of gold.forecast_accuracy of the last ACCURACY_MONTHS target months through this one."""
    return lakehouse.rows(FORECAST_ACCURACY, months=_accuracy_months(month))


def anomalies_through(lakehouse: Lakehouse, month: int) -> pd.DataFrame:
    """Rows of gold.demand_anomaly of the same months, those to be looked at first on top: the
    newest, and of a month those with most money at stake.
    """
    rows = lakehouse.rows(DEMAND_ANOMALY, months=_accuracy_months(month))
    return rows.sort_values(
        ["yyyymm", "money_at_stake", "part_number"],
        ascending=[False, False, True],
        na_position="last",
        ignore_index=True,
    ).head(SHOWN_PARTS)


def served_ahead(lakehouse: Lakehouse, anomalies: pd.DataFrame, month: int) -> pd.DataFrame:
    """What was served a month ahead of the parts with anomalies, of the vintages that are judged:
    part_number, target_yyyymm, forecast_qty, q10, q90.
    """
    shown = ["part_number", "target_yyyymm", "forecast_qty", "q10", "q90"]
    parts = sorted(set(anomalies["part_number"]))
    if not parts:
        return pd.DataFrame(columns=shown)
    columns = [*shown, "yyyymm", "vintage", "horizon", "published_at"]
    rows = lakehouse.rows(DEMAND_FORECAST, columns, _judged_origins(month), parts=parts)
    ahead = rows[(rows["horizon"] == 1) & rows["forecast_qty"].notna()]
    return judged_totals(ahead)[shown].reset_index(drop=True)


def anomaly_pictures(
    lakehouse: Lakehouse, months: Sequence[int], settings: Settings
) -> dict[str, Any]:
    """Anomalies through the newest of the months, and how many parts were tested in it, for the
    metadata of gold.demand_anomaly.
    """
    newest = max(months)
    accuracy = accuracy_through(lakehouse, newest)
    found = anomalies_through(lakehouse, newest)
    parts = sorted(set(found["part_number"]))
    drawn = month_range(add_months(newest, 1 - HISTORY_MONTHS), newest)
    history = lakehouse.rows(
        MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty"], drawn, parts=parts
    )
    served = served_ahead(lakehouse, found, newest)
    figure = plots.anomalies(found, history, served, settings.is_simulated)
    return {
        "what_was_tested": tested_sentence(
            accuracy, found, newest, settings.monitoring.anomaly_rate
        ),
        "anomalies": dg.MetadataValue.md(plots.rendered(figure).markdown),
    }


def sold_by_class(lakehouse: Lakehouse, origin: int) -> pd.DataFrame:
    """Demand of the last LAGS months of the parts that are in a class at the origin: target_yyyymm,
    demand_class, actual_qty.
    """
    months = {f"demand_lag_{lag}": add_months(origin, -lag) for lag in LAGS}
    sums = lakehouse.totals(DEMAND_FEATURES, ["demand_class"], [*months], [origin])
    sold = sums.rename(columns=months).melt(
        "demand_class", var_name="target_yyyymm", value_name="actual_qty"
    )
    return sold.astype({"target_yyyymm": int})


def judged(
    lakehouse: Lakehouse, accuracy: pd.DataFrame, month: int, segment_kind: str
) -> pd.DataFrame:
    """What was forecast a month ahead for the months in ``accuracy``, by segment (all, or each
    demand_class), with q10 and q90 of the total beside what was sold; NaN where there are none.

    Columns: target_yyyymm, demand_class, actual_qty, forecast_qty, q10, q90.
    """
    sold = accuracy[(accuracy["lag"] == 1) & (accuracy["segment_kind"] == segment_kind)]
    names = {"yyyymm": "target_yyyymm", "segment": "demand_class"}
    shown = ["target_yyyymm", "demand_class", "actual_qty", "forecast_qty"]
    known = sold.rename(columns=names)[shown]
    key = ["yyyymm", "vintage", "horizon", "target_yyyymm"]
    editions = lakehouse.totals(
        DEMAND_FORECAST, [*key, "published_at"], ["forecast_qty"], _judged_origins(month)
    )
    ahead = judged_totals(editions[editions["horizon"] == 1])[key]
    totals = lakehouse.rows(
        DEMAND_FORECAST_TOTAL,
        [*key, "segment_kind", "segment", "q10", "q90"],
        _judged_origins(month),
    )
    totals = totals[totals["segment_kind"] == segment_kind]
    if totals.empty or ahead.empty:
        return known.assign(q10=float("nan"), q90=float("nan"))
    bands = totals.merge(ahead, on=key).rename(columns={"segment": "demand_class"})
    return known.merge(
        bands[["target_yyyymm", "demand_class", "q10", "q90"]],
        on=["target_yyyymm", "demand_class"],
        how="left",
    )


def accuracy_pictures(
    lakehouse: Lakehouse, months: Sequence[int], settings: Settings
) -> dict[str, dg.MetadataValue]:
    """How what was served turned out through the newest of the months, for the metadata of
    gold.forecast_accuracy.
    """
    newest = max(months)
    accuracy = accuracy_through(lakehouse, newest)
    totals = judged(lakehouse, accuracy, newest, "all")
    by_class = judged(lakehouse, accuracy, newest, "demand_class")
    by_lag = pooled(
        accuracy[accuracy["segment_kind"].isin(["all", "demand_class"])], ["segment", "lag"]
    )
    simulated = settings.is_simulated
    figures = {
        "forecast_against_actual": plots.forecast_against_actual(
            totals, "what was served", simulated
        ),
        "by_class": plots.forecast_by_class(by_class, by_class[:0], is_simulated=simulated),
        "error_by_lag": plots.error_by_lag(by_lag, simulated),
        "coverage_by_lag": plots.coverage_by_lag(by_lag, simulated),
        "value_added": plots.value_added(accuracy, simulated),
    }
    return {
        name: dg.MetadataValue.md(plots.rendered(figure).markdown)
        for name, figure in figures.items()
    }


def _accuracy_months(month: int) -> list[int]:
    return month_range(add_months(month, 1 - ACCURACY_MONTHS), month)


def _judged_origins(month: int) -> list[int]:
    """Origins of the forecasts that were made a month ahead of these."""
    return [add_months(target, -1) for target in _accuracy_months(month)]
