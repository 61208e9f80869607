"""Serving: the history a model reads, and the forecasts of every class by one manifest of models.

The same functions forecast in the backtest, in the served table and in a process that has nothing
but the stored model, which holds a copy of this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from medallion_assets.months import add_months
from medallion_assets.tables import DECILES, DEMAND_CLASSES, FEATURE_COLUMNS
from medallion_assets.zoo.spec import FORECAST_COLUMNS, Fitted, Forecaster

TEXT_FEATURES = ("demand_class", "abc_class", "region")
NUMBERS = {name: "float64" for name in FEATURE_COLUMNS if name not in TEXT_FEATURES}
HISTORY_COLUMNS = ("part_number", "yyyymm", "demand_qty", *FEATURE_COLUMNS)
# One row of these for each part and horizon is answered by one row of SERVED_COLUMNS.
ROW_COLUMNS = (
    "part_number",
    "yyyymm",
    "horizon",
    "demand_months",
    "demand_quantities",
    *FEATURE_COLUMNS,
)
SERVED_COLUMNS = (
    "part_number",
    "origin",
    "horizon",
    "target_yyyymm",
    "forecast_qty",
    *DECILES,
    "demand_class",
    "model",
    "trained_yyyymm",
    "model_run_id",
    "is_fallback",
)


@dataclass(frozen=True)
class ServedModel:
    """One entry of the manifest: a fitted model, the month it was trained in and its MLflow run."""

    model: str
    forecaster: Forecaster
    fitted: Fitted
    trained_yyyymm: int
    run_id: str


def split(history: pd.DataFrame, origin: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """History as the demand and features that a Forecaster reads, in one order and with one set of
    types wherever it came from.
    """
    rows = history[history["yyyymm"] <= origin].sort_values(
        ["part_number", "yyyymm"], kind="stable"
    )
    features = (
        rows[(rows["yyyymm"] == origin) & rows["demand_class"].notna()]
        .drop(columns="demand_qty")
        .reset_index(drop=True)
    )
    features = features.astype(NUMBERS | {"yyyymm": "int64"})
    demand = rows.loc[
        rows["part_number"].isin(features["part_number"]), ["part_number", "yyyymm", "demand_qty"]
    ]
    return (
        demand.astype({"yyyymm": "int64", "demand_qty": "float64"}).reset_index(drop=True),
        features,
    )


def unpacked(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Demand and features as ``split`` gives them, from one row per part in any order.

    rows: part_number, yyyymm (the origin), FEATURE_COLUMNS and two lists, demand_months (ascending)
    and demand_quantities.
    """
    rows = rows.sort_values("part_number", kind="stable", ignore_index=True)
    demand = {
        "part_number": rows["part_number"].repeat(rows["demand_months"].map(len)).to_numpy(),
        "yyyymm": np.concatenate(rows["demand_months"].to_list()),
        "demand_qty": np.concatenate(rows["demand_quantities"].to_list()),
    }
    return pd.DataFrame(demand), rows[["part_number", "yyyymm", *FEATURE_COLUMNS]]


class DemandForecaster:
    """The registered model: a manifest {demand class -> ServedModel}.

    ``predict(history)`` forecasts every active part of a history frame (silver.monthly_demand
    through the origin joined with silver.demand_features at the origin: HISTORY_COLUMNS); the
    origin is the newest month in it. A frame of ROW_COLUMNS, whose rows may come in any portions,
    is answered row by row.
    """

    # MLflow asks for it, and for load_context, where a former release pickled a model of this
    # class.
    predict_type_hints = SimpleNamespace(input=None, output=None)

    def __init__(self, entries: Mapping[str, ServedModel], horizon: int) -> None:
        self.entries = dict(entries)
        self.horizon = horizon

    def load_context(self, context: Any) -> None:
        """Do nothing: all that the model needs was read with it."""

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """SERVED_COLUMNS, one row per active part and horizon, in order of part and horizon; for a
        frame with ``demand_months`` one row per row of it, in its order. Raises ValueError for a
        frame that lacks a column.
        """
        if "demand_months" in model_input:
            return self._by_row(model_input)
        if absent := [
            name
            for name in ("part_number", "yyyymm", "demand_qty", "demand_class")
            if name not in model_input
        ]:
            raise ValueError(
                f"history lacks {', '.join(absent)}; it holds silver.monthly_demand joined with"
                " silver.demand_features at the origin"
            )
        origin = int(model_input["yyyymm"].max())
        return self.forecast(model_input, origin)

    def _by_row(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One row of SERVED_COLUMNS for each row of ROW_COLUMNS; without a forecast where no model
        answers for a part or horizon.
        """
        if absent := [name for name in ROW_COLUMNS[:7] if name not in rows]:
            raise ValueError(
                f"rows lack {', '.join(absent)}; a row holds a part, its origin as yyyymm, a"
                " horizon, its demand as two lists and silver.demand_features at the origin"
            )
        rows = rows.reindex(columns=list(ROW_COLUMNS))
        frames = []
        for origin, of_origin in rows.groupby("yyyymm"):
            demand, features = unpacked(of_origin.drop_duplicates("part_number"))
            demand = demand[demand["yyyymm"] <= origin].reset_index(drop=True)
            frames.append(
                self._forecast(
                    demand.astype({"yyyymm": "int64", "demand_qty": "float64"}),
                    features.astype(NUMBERS | {"yyyymm": "int64"}),
                    int(str(origin)),
                    {},
                )
            )
        asked = rows[["part_number", "yyyymm", "horizon"]].rename(columns={"yyyymm": "origin"})
        keys = list(asked)
        answered = pd.concat(frames, ignore_index=True) if frames else _no_rows()
        answered = answered.astype({"origin": "int64", "horizon": "int64"})
        return asked.merge(answered, on=keys, how="left")[list(SERVED_COLUMNS)]

    def forecast(
        self, history: pd.DataFrame, origin: int, answered: Mapping[str, pd.DataFrame] | None = None
    ) -> pd.DataFrame:
        """As predict, with the origin given: a bucket of parts need not hold it.

        ``answered``: by run, FORECAST_COLUMNS that its fit gave for this origin from the same
        history; only other parts are forecast.
        """
        return self._forecast(*split(history, origin), origin, answered or {})

    def by_bucket(self, origin: int) -> Any:
        """The model as a function of the packed history of a bucket and of what runs answered
        there: run_id and FORECAST_COLUMNS.
        """

        def forecast_bucket(packed: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
            answered = {run: rows[list(FORECAST_COLUMNS)] for run, rows in stored.groupby("run_id")}
            return (
                self._forecast(*unpacked(packed), origin, answered) if len(packed) else _no_rows()
            )

        return forecast_bucket

    def _forecast(
        self,
        demand: pd.DataFrame,
        features: pd.DataFrame,
        origin: int,
        answered: Mapping[str, pd.DataFrame],
    ) -> pd.DataFrame:
        active = features[features["is_active"].astype(bool)]
        frames = []
        for demand_class in DEMAND_CLASSES:
            names = active.loc[active["demand_class"] == demand_class, "part_number"]
            entry = self.entries.get(demand_class)
            if entry is None or names.empty:
                continue
            found = []
            if entry.run_id in answered:
                found.append(
                    answered[entry.run_id].loc[
                        lambda rows, wanted=names: rows["part_number"].isin(wanted)
                    ]
                )
                names = names[~names.isin(found[0]["part_number"])]
            if len(names):
                sold, known = (
                    rows[rows["part_number"].isin(names)].reset_index(drop=True)
                    for rows in (demand, active)
                )
                found.append(
                    entry.forecaster.predict(entry.fitted, sold, known, origin, self.horizon)[
                        list(FORECAST_COLUMNS)
                    ]
                )
            labels = {
                "demand_class": demand_class,
                "model": entry.model,
                "trained_yyyymm": entry.trained_yyyymm,
                "model_run_id": entry.run_id,
            }
            frames += [rows.assign(**labels) for rows in found]
        if not frames:
            return _no_rows()
        served = pd.concat(frames, ignore_index=True).assign(origin=origin)
        targets = {h: add_months(origin, h) for h in range(1, self.horizon + 1)}
        served["horizon"] = served["horizon"].astype(np.int64)
        served["target_yyyymm"] = served["horizon"].map(targets)
        return (
            served[list(SERVED_COLUMNS)]
            .sort_values(["part_number", "horizon"], kind="stable")
            .reset_index(drop=True)
        )

    def models(self) -> Iterator[tuple[str, ServedModel]]:
        """Class and entry, in the order of the classes."""
        return ((name, self.entries[name]) for name in DEMAND_CLASSES if name in self.entries)


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="object") for name in SERVED_COLUMNS})
