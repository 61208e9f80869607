"""What a training leaves behind: figures in every model's run, one registered version, its
decisions, the alias.

How the record of champions is kept lies in stewardship.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import dagster as dg
import pandas as pd
from pyspark.sql import DataFrame

from medallion_assets import plots
from medallion_assets.champion import evaluation, promotion
from medallion_assets.champion.approval import take_approvals
from medallion_assets.champion.decisions import held_classes, last_decisions, next_number
from medallion_assets.champion.stewardship import (
    WAITING,
    append_decisions,
    approval_tag,
    rows_behind,
)
from medallion_assets.complete import complete_months_of, evidence_of
from medallion_assets.figures import FIGURES
from medallion_assets.slices import Outcome, Slices, version_of
from medallion_assets.tables import (
    CHAMPION,
    DELIVERIES,
    DEMAND_CLASSES,
    MODEL_EVALUATION,
    ZOO_FORECAST,
    ZOO_RESULT,
)
from medallion_assets.work import Work
from medallion_assets.zoo.registry import BASELINE
from medallion_assets.zoo.sampling import draw
from medallion_assets.zoo.serving import DemandForecaster, ServedModel
from medallion_assets.zoo.spec import ModelSpec
from resources.lakehouse import Lakehouse, MonthWritten, TableSpec
from resources.settings import Settings
from resources.tracking import InputTable, RunContent, Tracking

METRICS = (*(figure.name for figure in FIGURES if figure.is_metric), "missing_cell_count")
SHOWN = ("wql", "rmse", "bias", "calibration_80")
# rows of the results table that the artifacts of all models hold together; the table holds all
RESULT_ROWS = 200_000


@dataclass(frozen=True)
class _Evidence:
    """What a month's runs are given, of all models or of one: rows of gold.model_evaluation, totals
    by month, the histogram of PIT, and cells of gold.zoo_result.
    """

    rows: pd.DataFrame
    totals: pd.DataFrame
    pit: pd.DataFrame
    cells: pd.DataFrame

    def of(self, model: str) -> _Evidence:
        """What concerns one model."""
        frames = (self.rows, self.totals, self.pit, self.cells)
        return _Evidence(*(frame[frame["model"] == model] for frame in frames))


@dataclass(frozen=True)
class EvaluationLog:
    """Logs a month's evaluation to the runs of the models it compares, and draws it."""

    settings: Settings
    lakehouse: Lakehouse
    tracking: Tracking
    classes: Mapping[str, Sequence[str]]

    def run(
        self, month: int, is_new: bool, show: Callable[[str, dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Metadata of the month: the comparison as a table and a picture. Where the evaluation is
        new, its figures go to MLflow.

        ``show`` is given each model's figures and pictures with its name.
        """
        rows: pd.DataFrame = self.lakehouse.read(MODEL_EVALUATION, [month]).toPandas()
        if rows.empty:
            return {"evidence": "no origin with all horizons known yet"}
        if is_new:
            self._log_models(month, rows, show)
        picture = plots.rendered(
            plots.model_comparison(rows, is_simulated=self.settings.is_simulated)
        )
        return {
            "comparison": dg.MetadataValue.md(picture.markdown),
            "leaders": dg.MetadataValue.md(leader_table(rows)),
        }

    def _log_models(
        self, month: int, rows: pd.DataFrame, show: Callable[[str, dict[str, Any]], None]
    ) -> None:
        """Figures and pictures of every model to its run, each while the next model's pictures are
        drawn.
        """
        result = self.lakehouse.read(ZOO_RESULT, [month])
        evidence = _Evidence(
            rows,
            evaluation.monthly_totals(result).toPandas(),
            evaluation.pit_histogram(result).toPandas(),
            self._drawn_cells(result, rows),
        )
        inputs = evidence_tables(self.lakehouse, month)
        with ThreadPoolExecutor(max_workers=1) as logger:
            logged = []
            for model in sorted(rows["model"].unique()):
                pictures, content = self._content(model, rows, evidence.of(model))
                if stored := self.lakehouse.ledger.slices(ZOO_FORECAST, model).get(month):
                    content = dataclasses.replace(content, inputs=inputs)
                    logged.append(
                        logger.submit(self.tracking.log, stored.details["run_id"], content)
                    )
                told = {
                    name: round(value, 4)
                    for name in SHOWN
                    if (value := content.metrics.get(name)) is not None
                }
                show(
                    model,
                    told
                    | {
                        name: dg.MetadataValue.md(picture.markdown)
                        for name, picture in pictures.items()
                    },
                )
            for run in logged:
                run.result()

    def _drawn_cells(self, result: DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
        """The results table for the runs' artifacts, cut to whole parts with at most RESULT_ROWS
        rows together.
        """
        by_class = rows[(rows["segment_kind"] == "demand_class") & (rows["horizon"] == 0)]
        count = float(by_class["cell_count"].sum())
        return draw(result, min(1.0, RESULT_ROWS / max(count, 1.0))).toPandas()

    def _content(
        self, model: str, rows: pd.DataFrame, own: _Evidence
    ) -> tuple[dict[str, plots.Picture], RunContent]:
        """Pictures and all that a model's run holds of its evidence. ``rows``: the evaluation of
        all models.
        """
        pooled = own.rows[own.rows["horizon"] == 0]
        metrics: dict[str, float | None] = {}
        for row in pooled.to_dict("records"):
            if row["segment_kind"] in ("all", "demand_class"):
                suffix = "" if row["segment_kind"] == "all" else f"_{row['segment']}"
                metrics |= {f"{name}{suffix}": row[name] for name in METRICS}
        shown = {"is_simulated": self.settings.is_simulated}
        figures = {
            "error_by_segment": plots.error_by_segment(rows, model, BASELINE, **shown),
            "forecast_against_actual": plots.forecast_against_actual(own.totals, model, **shown),
            "calibration": plots.calibration(own.pit, model, **shown),
        }
        pictures = {name: plots.rendered(figure) for name, figure in figures.items()}
        tables = {
            "evaluation/model_evaluation.csv": own.rows,
            "evaluation/results.parquet": own.cells,
        }
        return pictures, RunContent(
            metrics=metrics,
            pictures={f"plots/{n}.png": p.png for n, p in pictures.items()},
            tables=tables,
        )


def evidence_tables(lakehouse: Lakehouse, month: int) -> list[InputTable]:
    """The tables that a month is decided on, first the cells on which models are measured. Each at
    the version that stored the month, so that all runs of a decision name the same datasets.
    """

    def described(table: TableSpec) -> InputTable:
        stored = lakehouse.ledger.slices(table).get(month)
        version = stored.delta_version if stored else lakehouse.version(table)
        return InputTable(
            lakehouse.name(table),
            lakehouse.path(table),
            version,
            stored.data_version if stored else "",
        )

    return [described(table) for table in (ZOO_RESULT, MODEL_EVALUATION)]


def leader_table(rows: pd.DataFrame) -> str:
    """The models of each class by WQL, as a markdown table."""
    pooled = rows[(rows["horizon"] == 0) & rows["segment_kind"].isin(["all", "demand_class"])]
    lines = [
        "| class | model | WQL | bias | RMSE | cells | missing |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, segment), group in pooled.groupby(["segment_kind", "segment"], sort=True):
        for row in group.sort_values("wql").head(5).to_dict("records"):
            name = "all classes" if kind == "all" else segment
            figures = " | ".join(
                "" if pd.isna(row[k]) else f"{row[k]:.3f}" for k in ("wql", "bias", "rmse")
            )
            lines.append(
                f"| {name} | {row['model']} | {figures} | {row['cell_count']:,} |"
                f" {row['missing_cell_count']:,} |"
            )
    return "\n".join(lines)


@dataclass(frozen=True)
class Training:
    """Decide each class for a month on its evidence, then carry the decision out."""

    specs: Sequence[ModelSpec]
    work: Work
    tracking: Tracking

    def run(self, months: Sequence[int]) -> tuple[Outcome, dict[int, dict[str, Any]]]:
        """Decide the months in ascending order; a month whose evidence did not change since its
        decision is left as it is.
        """
        complete = complete_months_of(self.work.lakehouse.rows(DELIVERIES), self.work.settings)
        slices = Slices(self.work, CHAMPION)
        told: dict[int, dict[str, Any]] = {}
        for month in sorted(months):
            decisions = take_approvals(self.work, self.tracking)
            if month not in complete:
                self.work.log(f"champion: {month} is not complete, nothing decided")
                continue
            version = self._evidence_version(month)
            own = (
                decisions[decisions["yyyymm"] == month]
                .sort_values("decision_number")
                .drop_duplicates("demand_class", keep="last")
            )
            written = MonthWritten(len(own), version)
            if own.empty or set(own["evidence_version"]) != {version}:
                count = self._decide(month, version, complete, decisions)
                written = MonthWritten(count, version, count)
            delta_version = self.work.lakehouse.version(CHAMPION)
            slices.note({month: written}, {month: version}, delta_version, {})
            told[month] = self._told(month)
        return slices.outcome(), told

    def _evidence_version(self, month: int) -> str:
        evidence = self.work.lakehouse.ledger.slices(MODEL_EVALUATION).get(month)
        fits = {
            spec.name: s.data_version
            for spec in self.specs
            if (s := self.work.lakehouse.ledger.slices(ZOO_FORECAST, spec.name).get(month))
        }
        return version_of(
            CHAMPION.code_version,
            evidence.data_version if evidence else "",
            fits,
            self.work.settings.promotion.model_dump(),
        )

    def _decide(
        self, month: int, evidence_version: str, complete: Sequence[int], decisions: pd.DataFrame
    ) -> int:
        origins = evidence_of(month, self.work.settings, complete)
        rows, losses = self._evidence(month)
        incumbents = self._incumbents(decisions)
        settings, held = self.work.settings.promotion, held_classes(decisions)
        verdicts = promotion.decide(
            month,
            rows,
            losses,
            len(origins),
            incumbents,
            self.specs,
            settings,
            self.work.settings.forecast.k_min,
            held=held,
        )
        if len(decisions) and month < int(decisions["yyyymm"].max()):
            self._append(self._restated(verdicts, decisions), evidence_version, decisions)
            return len(verdicts)
        acted = [
            (
                v
                if v.decision != "proposed"
                else replace(v, champion=str(v.challenger), champion_trained_yyyymm=month)
            )
            for v in verdicts
        ]
        first = next_number(decisions)
        waiting = {
            v.demand_class: first + i for i, v in enumerate(verdicts) if v.decision == "proposed"
        }
        # What waits for approval is registered too, and served by nobody: approval takes the very
        # fits that were proposed.
        candidate = self._register(month, acted, rows, decisions, waiting)[0] if waiting else None
        version, run_id, manifest = self._register(month, verdicts, rows, decisions)
        try:
            made = [
                replace(
                    v,
                    registry_version=version,
                    candidate_version=candidate if v.decision == "proposed" else version,
                    run_id=run_id,
                    **self._serving(v, manifest.entries[v.demand_class]),
                )
                for v in verdicts
            ]
            self._append(made, evidence_version, decisions)
        except BaseException:
            self.tracking.fail(run_id)
            raise
        self.tracking.registry.set_alias(version)
        for verdict in made:
            self.work.log(f"{month} {verdict.demand_class}: {verdict.decision}. {verdict.reason}")
        return len(made)

    def _evidence(self, month: int) -> tuple[pd.DataFrame, promotion.Losses]:
        """What a month is decided on: its evaluation, and losses by part and by month."""
        rows = self.work.lakehouse.read(MODEL_EVALUATION, [month]).toPandas()
        result = self.work.lakehouse.read(ZOO_RESULT, [month])
        classes = {spec.name: tuple(spec.classes) for spec in self.specs}
        horizon = self.work.settings.forecast.horizon
        losses = promotion.Losses(
            evaluation.part_losses(result, classes, horizon).toPandas(),
            evaluation.month_losses(result, classes, horizon).toPandas(),
            horizon,
        )
        return rows, losses

    def _incumbents(self, decisions: pd.DataFrame) -> dict[str, str | None]:
        """The model that serves each class, None where the baseline serves because there is no
        champion.

        A given forecast that the configuration has serve a class does so until a decision says
        otherwise; one that the configuration no longer names is served by the baseline.
        """
        serving: dict[str, str] = {}
        served: dict[str, set[str]] = {}
        if len(decisions):
            serving = last_decisions(decisions)["champion"].to_dict()
            served = {
                str(name): set(champions)
                for name, champions in decisions.groupby("demand_class")["champion"]
            }
        for name, given in self.work.settings.given_forecasts.items():
            for demand_class in given.serves:
                if name not in served.get(demand_class, ()) and (
                    serving.get(demand_class, BASELINE) == BASELINE
                ):
                    serving[demand_class] = name
        unknown = set(serving.values()) - {spec.name for spec in self.specs}
        if unknown:
            version = int(decisions.sort_values("decision_number")["registry_version"].iloc[-1])
            entries = self.tracking.registry.load_version(version).entries.values()
            unknown -= {entry.model for entry in entries}
        nobody = {BASELINE, *unknown}
        champions = {name: serving.get(name, BASELINE) for name in DEMAND_CLASSES}
        return {name: None if model in nobody else model for name, model in champions.items()}

    def _is_given(self, model: str) -> bool:
        return any(spec.is_given and spec.name == model for spec in self.specs)

    def _serving(self, verdict: promotion.Decision, entry: ServedModel) -> dict[str, Any]:
        """Champion and its training as a decision's row has them. A given forecast is in no
        registered version: the baseline stands there for it.
        """
        is_given = self._is_given(verdict.champion)
        return {
            "champion": verdict.champion if is_given else entry.model,
            "champion_trained_yyyymm": verdict.yyyymm if is_given else entry.trained_yyyymm,
        }

    def _register(
        self,
        month: int,
        verdicts: Sequence[promotion.Decision],
        rows: pd.DataFrame,
        decisions: pd.DataFrame,
        waiting: Mapping[str, int] = MappingProxyType({}),
    ) -> tuple[int, str, DemandForecaster]:
        """Log the verdicts and the model they lead to in a run of its own, and register that:
        version, run and manifest. ``waiting``: numbers of the proposals that it is the candidate
        of, by class; none where it serves.
        """
        kind = "candidate" if waiting else "champion"
        identity = {"month": str(month), "kind": "training" if kind == "champion" else kind}
        self.tracking.end_killed(identity)
        run_id = self.tracking.start(f"{kind} {month}", {**identity, **self.work.tags})
        try:
            manifest = self._manifest(month, verdicts, decisions)
            self.tracking.log(run_id, self._content(month, verdicts, manifest, rows))
            tags = {name: entry.model for name, entry in manifest.entries.items()}
            waits = ""
            if waiting:
                tags |= {approval_tag(name): WAITING for name in waiting}
                waits = f"{_how_to_approve(waiting)}\n\n"
            version = self.tracking.registry.register(
                run_id,
                {"month": str(month), "kind": kind, **tags},
                f"{waits}On the evidence of {month}."
                f" {rows_behind(self.work.lakehouse, decisions, len(verdicts))}\n\n"
                + _sentences(verdicts),
            )
            # Committed before the rows: once they stand, nothing may mark the run that serves as
            # failed.
            self.tracking.commit(run_id)
        except BaseException:
            self.tracking.fail(run_id)
            raise
        return version, run_id, manifest

    def _restated(
        self, verdicts: Sequence[promotion.Decision], decisions: pd.DataFrame
    ) -> list[promotion.Decision]:
        """What the evidence of a past month says now; it changes nothing that is served."""
        serving = last_decisions(decisions)
        version = int(decisions.sort_values("decision_number")["registry_version"].iloc[-1])
        return [
            replace(
                v,
                decision="restated",
                champion=serving["champion"][v.demand_class],
                challenger=v.champion,
                champion_trained_yyyymm=int(serving["champion_trained_yyyymm"][v.demand_class]),
                registry_version=version,
                reason=(
                    "a past month computed again; what is served stays. On its evidence today:"
                    f" {v.reason}"
                ),
            )
            for v in verdicts
        ]

    def _append(
        self, made: Sequence[promotion.Decision], evidence_version: str, decisions: pd.DataFrame
    ) -> None:
        append_decisions(
            self.work.lakehouse,
            [replace(v, evidence_version=evidence_version) for v in made],
            decisions,
        )

    def _manifest(
        self, month: int, verdicts: Sequence[promotion.Decision], decisions: pd.DataFrame
    ) -> DemandForecaster:
        """Each class with the fit it is served by: this training's where the verdict takes it, else
        the former entry.
        """
        former: Mapping[str, ServedModel] = {}
        # Asked only where a class keeps its fit: what serves may be a version that can't be loaded.
        if len(decisions) and any(v.champion_trained_yyyymm != month for v in verdicts):
            former = self.tracking.registry.load_version(
                int(decisions.sort_values("decision_number")["registry_version"].iloc[-1])
            ).entries
        loaded: dict[str, DemandForecaster] = {}

        def fit_of(model: str) -> ServedModel:
            if model not in loaded:
                loaded[model] = self.tracking.load(
                    self.work.lakehouse.ledger.slices(ZOO_FORECAST, model)[month].details["run_id"]
                )
            return next(iter(loaded[model].entries.values()))

        entries = {}
        for verdict in verdicts:
            kept = former.get(verdict.demand_class)
            takes_new = verdict.champion_trained_yyyymm == month or kept is None
            registered = BASELINE if self._is_given(verdict.champion) else verdict.champion
            entries[verdict.demand_class] = (
                fit_of(registered) if takes_new or kept is None else kept
            )
        return DemandForecaster(entries, self.work.settings.forecast.horizon)

    def _content(
        self,
        month: int,
        verdicts: Sequence[promotion.Decision],
        manifest: DemandForecaster,
        rows: pd.DataFrame,
    ) -> RunContent:
        table = pd.DataFrame([dataclasses.asdict(v) for v in verdicts])
        metrics = {
            f"{name}_{v.demand_class}": getattr(v, name)
            for v in verdicts
            for name in ("champion_wql", "baseline_wql", "oracle_wql", "champion_bias")
        }
        shown = {"is_simulated": self.work.settings.is_simulated}
        pictures = (
            {"model_comparison.png": plots.rendered(plots.model_comparison(rows, **shown)).png}
            if len(rows)
            else {}
        )
        return RunContent(
            parameters={
                f"champion_{name}": entry.model for name, entry in manifest.entries.items()
            },
            metrics=metrics,
            inputs=evidence_tables(self.work.lakehouse, month),
            pictures=pictures,
            tables={"decisions.csv": table},
            texts={"why.md": _sentences(verdicts)},
            model=manifest,
        )

    def _told(self, month: int) -> dict[str, Any]:
        rows = self.work.lakehouse.rows(CHAMPION)
        rows = (
            rows[rows["yyyymm"] == month]
            .sort_values("decision_number")
            .drop_duplicates("demand_class", keep="last")
        )
        lines = ["| class | decision | champion | why |", "|---|---|---|---|"]
        lines += [
            f"| {r['demand_class']} | {r['decision']} | {r['champion']} | {r['reason']} |"
            for r in rows.to_dict("records")
        ]
        runs = [run for run in rows["run_id"] if isinstance(run, str)]
        link = {"mlflow_run": dg.MetadataValue.url(self.tracking.url(runs[-1]))} if runs else {}
        return {"decisions": dg.MetadataValue.md("\n".join(lines)), **link}


def _how_to_approve(waiting: Mapping[str, int]) -> str:
    """What a person does with a candidate, as markdown."""
    ways = "\n".join(
        f"- {name}: `medallion approve {number} --why ...`, or set the tag `{approval_tag(name)}`"
        " to `approved`"
        for name, number in waiting.items()
    )
    return f"Serves nobody until a person approves it:\n{ways}"


def _sentences(verdicts: Sequence[promotion.Decision]) -> str:
    """Why each class is served by what serves it, as markdown."""
    return "\n".join(
        f"- {v.demand_class}: **{v.decision}** {v.champion}. {v.reason}" for v in verdicts
    )
