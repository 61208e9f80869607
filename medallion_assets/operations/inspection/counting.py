"""How many lines a configuration accepts, and which rules reject the others: the transforms of
bronze and silver, run on the files without storing anything.

One implementation of each rule: what is counted here is what a run would do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_assets.bronze import transforms as bronze
from medallion_assets.bronze.lines import adopted_lines
from medallion_assets.silver import transforms as silver
from resources.engines import Engine
from resources.lakehouse import DeltaLakehouse, LakehouseOptions
from resources.orders import LocalOrderFiles, reading_errors
from resources.settings import Settings, Source

EXAMPLES = 3


@dataclass(frozen=True)
class Outcome:
    """What would become of the lines.

    ``dispositions``: lines by disposition; ``reasons``: lines by reason of those set aside;
    ``examples``: reason, file, line_number and the values as delivered of a few of them;
    ``demand``: part_number, yyyymm, demand_qty, returned_qty and cancelled_qty of months with any.
    """

    dispositions: Mapping[str, int]
    reasons: Mapping[str, int]
    examples: pd.DataFrame
    demand: pd.DataFrame

    @property
    def line_count(self) -> int:
        return sum(self.dispositions.values())


def outcome(settings: Settings, engine: Engine) -> Outcome:
    """Bronze and silver of all files of a configuration. Raises UnreadableFile or MissingColumn."""
    lines: list[DataFrame] = []
    sequences: dict[str, int] = {}
    names: dict[str, str] = {}
    now = datetime.now(UTC)
    with reading_errors():
        for source in settings.sources:
            rows, files = _lines(settings, source, engine, now)
            for delivery_id, name in files.items():
                sequences[delivery_id] = len(sequences) + 1
                names[delivery_id] = name
            # Held, since each further step would plan and run what is before it again.
            canonical = engine.hold(silver.canonical_lines(engine.hold(rows), source))
            lines.append(_plausible(canonical, source))
        together = lines[0]
        for more in lines[1:]:
            together = together.unionByName(more)
        disposed = engine.hold(
            silver.disposed_lines(together, sequences, {}, list(settings.sources))
        )
    return _counted(disposed, names)


def _lines(
    settings: Settings, source: Source, engine: Engine, now: datetime
) -> tuple[DataFrame, dict[str, str]]:
    """Rows as bronze stores them, and the file of each delivery."""
    if source.mode == "adopt":
        tables = DeltaLakehouse(lambda: engine, LakehouseOptions.of(settings))
        table = tables.read_external(str(source.table))
        bronze.check_columns(source, str(source.table), table.columns)
        return adopted_lines(table, source, settings), {f"adopted_{source.name}": str(source.table)}
    reader = LocalOrderFiles()
    files = [reader.describe(source, path) for path in reader.paths(source)]
    for file in files:
        bronze.check_columns(source, file.path, file.column_names)
    lines = reader.lines(engine.session, source, files)
    dated = bronze.dated_lines(lines, source, settings.first_month, now.year * 100 + now.month)
    times = {file.delivery_id: now for file in files}
    rows = bronze.sales_orders(dated, source.name, times)
    return rows, {file.delivery_id: file.file_name for file in files}


def _plausible(lines: DataFrame, source: Source) -> DataFrame:
    """Canonical lines of a source, those held back that their parts' past makes implausible."""
    bounds = source.plausibility
    if bounds is None:
        return lines
    doubtful = silver.doubtful_lines(lines, bounds)
    if not doubtful.limit(1).collect():
        return lines
    return silver.plausible_lines(lines, doubtful, lines.where("yyyymm > 0"), bounds)


def _counted(disposed: DataFrame, names: Mapping[str, str]) -> Outcome:
    dispositions = {
        row["disposition"]: row["n"]
        for row in disposed.groupBy("disposition").agg(F.count("*").alias("n")).collect()
    }
    aside = disposed.where("disposition <> 'accepted'")
    told = aside.select("*", F.explode("reasons").alias("reason"))
    found = (
        told.groupBy("reason").agg(F.count("*").alias("n")).orderBy(F.desc("n"), "reason").collect()
    )
    reasons: dict[str, int] = {}
    for row in found:
        name = row["reason"].split("_of_delivery_")[0]
        reasons[name] = reasons.get(name, 0) + row["n"]
    texts = [f"{name}_text" for name in ("part_number", "order_date", "quantity", "unit_price")]
    examples: pd.DataFrame = (
        told.where(F.col("reason").isin([row["reason"] for row in found[:20]]))
        .groupBy("reason")
        .agg(
            F.min(F.struct("delivery_id", "line_number", *texts)).alias("first"),
        )
        .select("reason", "first.*")
        .toPandas()
    )
    examples["file"] = examples["delivery_id"].map(names)
    sales = silver.sales_orders(disposed)
    months = [row["yyyymm"] for row in sales.select("yyyymm").distinct().collect()]
    nobody = disposed.sparkSession.createDataFrame(
        [], "part_number STRING, announced_month INT, description STRING"
    )
    if months:
        parts = silver.parts(sales, nobody)
        demand: pd.DataFrame = (
            silver.monthly_demand(sales, parts, sorted(months), [])
            .where("demand_qty <> 0 OR returned_qty <> 0 OR cancelled_qty <> 0")
            .select("part_number", "yyyymm", "demand_qty", "returned_qty", "cancelled_qty")
            .orderBy("part_number", "yyyymm")
            .toPandas()
        )
    else:
        demand = pd.DataFrame(
            columns=["part_number", "yyyymm", "demand_qty", "returned_qty", "cancelled_qty"]
        )
    return Outcome(dispositions, reasons, examples, demand)
