"""What a fit sees: a sample of demand and features, past errors, the fits of members, histories.

Nothing is fitted or stored here; every read is cut to what was known at the origin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from pyspark.sql import functions as F

from medallion_assets.partitions import add_months, month_range
from medallion_assets.tables import (
    DECILES,
    DEMAND_FEATURES,
    FEATURE_COLUMNS,
    MONTHLY_DEMAND,
    ZOO_FORECAST,
)
from medallion_assets.zoo.calibration import ORIGIN_FEATURES
from medallion_assets.zoo.sampling import PartSample, share_of_parts
from medallion_assets.zoo.serving import TEXT_FEATURES
from medallion_assets.zoo.spec import (
    Fitted,
    Forecaster,
    Known,
    Member,
    ModelSpec,
)
from resources.errors import Refused
from resources.lakehouse import Lakehouse, Slice
from resources.settings import Settings
from resources.table_spec import TableSpec
from resources.tracking import Tracking

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def packed_history(lakehouse: Lakehouse, settings: Settings, origin: int) -> DataFrame:
    """What models see at an origin of all active parts, one row per part as ``unpacked`` takes it:
    demand and features.
    """
    known = (
        lakehouse.read(MONTHLY_DEMAND, window(settings, origin))
        .where("is_complete")
        .select("part_number", "yyyymm", "demand_qty")
    )
    demand = known.groupBy("part_number").agg(
        F.sort_array(F.collect_list(F.struct("yyyymm", "demand_qty"))).alias("months")
    )
    features = (
        F.col(name).cast("string" if name in TEXT_FEATURES else "double").alias(name)
        for name in FEATURE_COLUMNS
    )
    return (
        active_parts(lakehouse, origin)
        .join(demand, "part_number")
        .select(
            "part_number",
            F.col("yyyymm").cast("bigint").alias("yyyymm"),
            *features,
            F.col("months.yyyymm").cast("array<bigint>").alias("demand_months"),
            F.col("months.demand_qty").cast("array<double>").alias("demand_quantities"),
        )
    )


def active_parts(
    lakehouse: Lakehouse, origin: int, classes: Sequence[str] | None = None
) -> DataFrame:
    """The features of all active parts (of some classes) at an origin."""
    features = lakehouse.read(DEMAND_FEATURES, [origin]).where("is_active")
    return (
        features if classes is None else features.where(F.col("demand_class").isin(list(classes)))
    )


def window(settings: Settings, origin: int) -> list[int]:
    """Months of history that a model sees at an origin."""
    return month_range(
        max(settings.first_month, add_months(origin, 1 - settings.forecast.training_months)), origin
    )


@dataclass(frozen=True)
class Inputs:
    """What a run reads of the ledger and the log, once: slices by month of demand, features,
    members by name and further tables by id, versions by table id.
    """

    demand: Mapping[int, Slice]
    features: Mapping[int, Slice]
    members: Mapping[str, Mapping[int, Slice]]
    further: Mapping[str, Mapping[int, Slice]]
    versions: Mapping[str, int]


# The forecast rows of a fit: of a share of the parts, these columns.
Draw = Callable[[float, Sequence[str]], pd.DataFrame]


@dataclass(frozen=True)
class ZooReader:
    """What the fits of one model read."""

    spec: ModelSpec
    settings: Settings
    lakehouse: Lakehouse
    tracking: Tracking

    def inputs(self, further: Sequence[TableSpec] = ()) -> Inputs:
        """What a run reads of the ledger: demand, features, members, and further tables."""
        tables = (MONTHLY_DEMAND, DEMAND_FEATURES)
        return Inputs(
            self.lakehouse.ledger.slices(MONTHLY_DEMAND),
            self.lakehouse.ledger.slices(DEMAND_FEATURES),
            {name: self.lakehouse.ledger.slices(ZOO_FORECAST, name) for name in self.spec.members},
            {table.id: self.lakehouse.ledger.slices(table) for table in further},
            {table.id: self.lakehouse.version(table) for table in tables},
        )

    def sample(self, origin: int) -> Known:
        """Demand and features that a fit sees: whole parts, at most max_fit_rows part-months. A
        local model learns nothing from other parts' demand, so it gets only the origin's features.
        ``with_past`` adds the past.
        """
        demand, features = self._sample(origin)
        f = self.settings.forecast
        return Known(
            demand=demand, features=features, origin=origin, horizon=f.horizon, seed=f.seed
        )

    def with_past(self, known: Known, inputs: Inputs, unsaved: Mapping[int, Draw]) -> Known:
        """What a sample lacks: the model's own past, and its members with theirs.

        ``unsaved``: origins that are fitted and not stored yet. Raises Refused where a member has
        no forecast of the origin.
        """
        past = self._past(known.origin, unsaved)
        own_past = past.pop(self.spec.name)
        members = {
            name: Member(*self._fitted(name, known.origin, inputs), own)
            for name, own in past.items()
        }
        return dataclasses.replace(known, own_past=own_past, members=members)

    def _sample(self, origin: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        order = ["part_number", "yyyymm"]
        limit = self.settings.zoo.max_fit_rows
        months = window(self.settings, origin) if self.spec.is_global else [origin]
        share = share_of_parts(self.lakehouse, DEMAND_FEATURES, months, limit)
        sample = PartSample(self.lakehouse, share)
        features = sample.rows(DEMAND_FEATURES, DEMAND_FEATURES.column_names, months)
        features = features.sort_values(order, ignore_index=True)
        if not self.spec.is_global:
            return (
                pd.DataFrame({"part_number": [], "yyyymm": [], "demand_qty": []}),
                features[features["is_active"]],
            )
        demand = sample.rows(MONTHLY_DEMAND, [*order, "demand_qty", "is_complete"], months)
        demand = demand[demand["is_complete"]].drop(columns="is_complete")
        return demand.sort_values(order, ignore_index=True), features

    def _past(self, origin: int, unsaved: Mapping[int, Draw]) -> dict[str, pd.DataFrame]:
        """Forecasts of this model and its members at earlier origins with what came of them, by
        model.
        """
        # As far back as evidence reaches: the newest origin whose longest horizon is known lies a
        # whole horizon back.
        f = self.settings.forecast
        earlier = month_range(
            max(self.settings.first_month, add_months(origin, 1 - f.horizon - f.origins)),
            add_months(origin, -1),
        )
        months, names = [*earlier, origin], [self.spec.name, *self.spec.members]
        nothing = dict.fromkeys(names, pd.DataFrame())
        if not earlier:
            return nothing
        limit = self.settings.zoo.max_fit_rows * (len(names) + 1)
        share = share_of_parts(
            self.lakehouse, DEMAND_FEATURES, months, limit // self.settings.forecast.horizon
        )
        columns = [
            "model",
            "yyyymm",
            "part_number",
            "horizon",
            "target_yyyymm",
            "forecast_qty",
            *DECILES,
            "is_fallback",
        ]
        sample = PartSample(self.lakehouse, share)
        stored = sample.rows(ZOO_FORECAST, columns, earlier, names)
        stored = stored[~stored["yyyymm"].isin(set(unsaved)) | (stored["model"] != self.spec.name)]
        fresh = [draw(share, columns) for made, draw in unsaved.items() if made in earlier]
        held = [rows for rows in (stored, *fresh) if len(rows)]
        if not held:
            return nothing
        rows = pd.concat(held, ignore_index=True).rename(columns={"yyyymm": "origin"})
        rows = rows[rows["target_yyyymm"] <= origin]
        actual = sample.rows(
            MONTHLY_DEMAND, ["part_number", "yyyymm", "demand_qty", "is_complete"], months
        )
        actual = actual.loc[actual["is_complete"], ["part_number", "yyyymm", "demand_qty"]]
        facts = sample.rows(
            DEMAND_FEATURES,
            list(dict.fromkeys(("part_number", "yyyymm", "demand_class", *ORIGIN_FEATURES))),
            earlier,
        )
        past = rows.merge(
            actual.set_axis(["part_number", "target_yyyymm", "actual_qty"], axis=1),
            on=["part_number", "target_yyyymm"],
        ).merge(facts.rename(columns={"yyyymm": "origin"}), on=["part_number", "origin"])
        past = past.sort_values(["model", "origin", "part_number", "horizon"], ignore_index=True)
        by_model = {name: past["model"] == name for name in names}
        return {
            name: past[is_own].drop(columns="model").reset_index(drop=True)
            for name, is_own in by_model.items()
        }

    def _fitted(self, member: str, origin: int, inputs: Inputs) -> tuple[Forecaster, Fitted]:
        stored = inputs.members[member].get(origin)
        if stored is None:
            raise Refused(
                f"{self.spec.name} combines {member}, which has no forecast of {origin} yet;"
                f" materialize {member} first"
            )
        (_, entry), *_ = self.tracking.load(stored.details["run_id"]).models()
        return entry.forecaster, entry.fitted

    def changed_share(self, origin: int, version: int) -> float:
        """Share of the demand through an origin that changed since a version of
        silver.monthly_demand.
        """
        months = window(self.settings, origin)
        key = ["part_number", "yyyymm"]
        then = self.lakehouse.read(MONTHLY_DEMAND, months, version).select(
            *key, F.col("demand_qty").alias("then_qty")
        )
        now = self.lakehouse.read(MONTHLY_DEMAND, months).select(*key, "demand_qty")
        both = now.join(then, key, "full").fillna(0.0, ["demand_qty", "then_qty"])
        sums = both.agg(
            F.sum(F.abs(F.col("demand_qty") - F.col("then_qty"))).alias("changed"),
            F.sum("then_qty").alias("total"),
        ).collect()[0]
        return float(sums["changed"] or 0.0) / float(sums["total"] or 1.0)
