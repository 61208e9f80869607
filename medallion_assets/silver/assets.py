"""Silver assets: which months of which tables each transform reads. Wiring only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pyspark.sql import functions as F

from medallion_assets import plots, values
from medallion_assets.bronze.lines import adopted_lines
from medallion_assets.bronze.mapping import refuse_undated
from medallion_assets.bronze.transforms import superseded_months
from medallion_assets.deliveries import record_numbers
from medallion_assets.labels import LABELS_OF_MONTH, REAL, labels_read
from medallion_assets.partitions import month_range
from medallion_assets.silver import renames, transforms
from medallion_assets.silver.renames import Rename
from medallion_assets.slices import Input, Months, Reader, TableRecipe
from medallion_assets.table_asset import table_asset
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    DEMAND_FEATURES,
    MONTHLY_DEMAND,
    PARTS,
    REJECTED_LINES,
    SILVER_SALES_ORDERS,
)
from resources.errors import Refused
from resources.lakehouse import Lakehouse
from resources.orders import matching
from resources.settings import PartsMaster, Settings, Source

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


# How files are read shows in bronze; silver is made from what is stored there.
READ_BY = frozenset({"delivery", "excel", "header", "json_path"})


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The silver assets, in the order of the data."""
    sources = {"sources": _meanings(settings)}
    master = settings.parts_master.model_dump(exclude={"files"}) if settings.parts_master else None

    recipes = [
        TableRecipe(
            SILVER_SALES_ORDERS,
            [Input(BRONZE_SALES_ORDERS, with_past), LABELS_OF_MONTH],
            _sales_orders,
            sources,
            outside_version=_numbers_version,
        ),
        TableRecipe(
            REJECTED_LINES,
            [Input(BRONZE_SALES_ORDERS, with_past), LABELS_OF_MONTH],
            _rejected_lines,
            sources,
            with_no_month=True,
            outside_version=_numbers_version,
        ),
        TableRecipe(
            PARTS,
            [Input(SILVER_SALES_ORDERS)],
            _parts,
            {"parts_master": master, "first_month": settings.first_month},
            is_whole=True,
            outside_version=_parts_version,
        ),
        TableRecipe(
            MONTHLY_DEMAND,
            [Input(SILVER_SALES_ORDERS, Input.same_month), Input(PARTS, Input.up_to)],
            _monthly_demand,
            {},
        ),
        TableRecipe(
            DEMAND_FEATURES,
            [
                Input(
                    MONTHLY_DEMAND,
                    lambda month, s: transforms.feature_months(month, s.first_month, s.forecast),
                ),
                Input(PARTS, Input.up_to),
            ],
            _demand_features,
            settings.forecast.model_dump(include={"active_months", "new_part_months"}),
            only_complete=True,
        ),
    ]
    plots_of = {MONTHLY_DEMAND.id: _demand_picture}
    return [table_asset(recipe, settings, plots_of.get(recipe.spec.id)) for recipe in recipes]


def _meanings(settings: Settings) -> list[dict[str, Any]]:
    """What each source says of the meaning of its lines, which silver is made from."""
    read_by = {"files", "closed_through", *READ_BY}
    return [source.model_dump(exclude=read_by) for source in settings.sources]


def with_past(month: int, settings: Settings) -> list[int]:
    """The month and those before it that say which quantities and prices are plausible in it."""
    reach = [bounds.months for s in settings.sources if (bounds := s.plausibility)]
    return Input.through(max(reach, default=0))(month, settings) if month else [month]


def _disposed(read: Reader, months: Months, settings: Settings) -> DataFrame:
    """Disposed lines of the months, made once where a run makes rejected lines, with those of no
    month, before accepted ones.
    """
    wanted = [month for month in months.wanted if month]
    made_from = (
        record_numbers(read.deliveries).max(),
        _meanings(settings),
        sorted(new_numbers(settings).items()),
    )
    # Adopted tables may change between the two.
    is_fixed = all(source.mode != "adopt" for source in settings.sources)
    return read.shared(
        ("disposed", wanted, *made_from),
        lambda: _made_disposed(read, months, settings),
        is_fixed and 0 in months.wanted,
    )


def _made_disposed(read: Reader, months: Months, settings: Settings) -> DataFrame:
    sources = settings.sources
    refuse_undated(read.deliveries, {}, settings)
    lines = [_canonical(read, months, settings, source) for source in sources]
    together = lines[0]
    for more in lines[1:]:
        together = together.unionByName(more)
    sequences = {row.delivery_id: int(row.sequence) for row in read.deliveries.itertuples()}
    return transforms.disposed_lines(
        together, sequences, superseded_months(read.deliveries, sources), sources
    )


def _canonical(read: Reader, months: Months, settings: Settings, source: Source) -> DataFrame:
    """Canonical lines of a source and the months, those held back that their parts' past makes
    implausible.
    """

    def of(wanted: Sequence[int]) -> DataFrame:
        if source.mode == "adopt":
            table = read.external(str(source.table))
            own = adopted_lines(table, source, settings).where(F.col("yyyymm").isin([*wanted]))
        else:
            own = read(BRONZE_SALES_ORDERS, wanted).where(F.col("_source") == source.name)
        return transforms.renamed(transforms.canonical_lines(own, source), new_numbers(settings))

    # Held: what follows names each value many times, and a plan would work it out as often.
    lines, bounds = read.held(of(months.wanted)), source.plausibility
    if bounds is None:
        return lines
    doubtful = transforms.doubtful_lines(lines, bounds)
    # Mostly there are none, and then no other month is read.
    if not doubtful.limit(1).collect():
        return lines
    before = {past for month in months.wanted for past in with_past(month, settings)}
    past = read.held(of(sorted(before)))
    real = labels_read(read, new_numbers(settings), (REAL,))
    named = list(zip(real["part_number"], real["yyyymm"].astype(int), strict=True))
    return transforms.plausible_lines(lines, doubtful, past, bounds, named)


def _sales_orders(read: Reader, months: Months, settings: Settings) -> DataFrame:
    return transforms.sales_orders(_disposed(read, months, settings))


def _rejected_lines(read: Reader, months: Months, settings: Settings) -> DataFrame:
    return transforms.rejected_lines(_disposed(read, months, settings))


def _parts(read: Reader, months: Months, settings: Settings) -> DataFrame:
    announced = _announced(read, settings.parts_master, settings) if settings.parts_master else None
    if announced is None:
        announced = read.spark.createDataFrame(
            [], "part_number STRING, announced_month INT, description STRING"
        )
    numbers = new_numbers(settings)
    if numbers:
        # The description of a part is that of its last number.
        own = F.when(~F.col("part_number").isin(list(numbers)), F.col("description"))
        announced = transforms.renamed(announced.withColumn("description", own), numbers)
    return transforms.parts(
        read(SILVER_SALES_ORDERS),
        announced.where(F.col("announced_month") <= max(months.wanted)),
        renames.former_numbers(numbers),
    )


def _announced(read: Reader, master: PartsMaster, settings: Settings) -> DataFrame:
    reader = read.spark.read
    paths = _master_files(master)
    lines = (
        reader.parquet(*paths)
        if master.format == "parquet"
        else reader.option("header", True).csv(paths)
    )
    absent = [
        name
        for name in (master.part_number, master.announced, master.description)
        if name and name not in lines.columns
    ]
    if absent:
        raise Refused(
            f"{master.files}: no column {', '.join(absent)}, which parts_master names; it has"
            f" {', '.join(lines.columns)}"
        )
    date = F.lit(None).cast("timestamp")
    if master.announced:
        text = values.trimmed(F.col(f"`{master.announced}`").cast("string"))
        date = values.timestamp(text, master.date_formats)
    month = F.coalesce(
        (F.year(date) * 100 + F.month(date)).cast("int"), F.lit(settings.first_month)
    )
    description = (
        F.col(f"`{master.description}`").cast("string")
        if master.description
        else F.lit(None).cast("string")
    )
    return lines.select(
        F.upper(F.trim(F.col(f"`{master.part_number}`").cast("string"))).alias("part_number"),
        F.greatest(month, F.lit(settings.first_month)).alias("announced_month"),
        description.alias("description"),
    ).where("part_number IS NOT NULL")


def _master_files(master: PartsMaster) -> list[str]:
    paths = matching(master.files)
    if not paths:
        raise Refused(f"{master.files}: no such file; parts_master.files names the list of parts")
    return paths


def known_renames(settings: Settings) -> list[Rename]:
    """The parts that go on under another number, by the configuration and the parts master."""
    master = settings.parts_master
    files = _master_files(master) if master and master.supersedes else []
    return renames.all_renames(settings, files)


def new_numbers(settings: Settings) -> dict[str, str]:
    """Number -> the last number of its part, as lines spell them; empty where none was renamed."""
    return renames.numbers_of(known_renames(settings), settings)


def _numbers_version(settings: Settings) -> object:
    """What lines read from outside the lakehouse: None where no part was renamed."""
    return sorted(new_numbers(settings).items()) or None


def _parts_version(settings: Settings) -> object:
    master, numbers = master_version(settings), _numbers_version(settings)
    return master if numbers is None else [master, numbers]


def master_version(settings: Settings) -> object:
    """Hashes of the files of the parts master, None where there is none: what silver.parts reads
    from outside the lakehouse.
    """
    if settings.parts_master is None:
        return None
    return [
        hashlib.sha256(Path(path).read_bytes()).hexdigest()
        for path in _master_files(settings.parts_master)
    ]


def _monthly_demand(read: Reader, months: Months, settings: Settings) -> DataFrame:
    return transforms.monthly_demand(
        read(SILVER_SALES_ORDERS), read(PARTS), months.wanted, months.complete
    )


def _demand_picture(
    lakehouse: Lakehouse, months: Sequence[int], settings: Settings
) -> dict[str, dg.MetadataValue]:
    """Demand of all parts through the newest of the months."""
    through = month_range(settings.first_month, max(months))
    demand = lakehouse.totals(MONTHLY_DEMAND, ["yyyymm", "is_complete"], ["demand_qty"], through)
    return {
        "demand": dg.MetadataValue.md(
            plots.rendered(plots.demand_history(demand, settings.is_simulated)).markdown
        )
    }


def _demand_features(read: Reader, months: Months, settings: Settings) -> DataFrame:
    return transforms.demand_features(
        read(MONTHLY_DEMAND), read(PARTS), months.wanted, settings.forecast
    )
