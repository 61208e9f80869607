"""The asset of given forecasts: which files are read, and what is refused. Wiring only."""

import re
from collections.abc import Mapping

import dagster as dg
from pyspark.sql import DataFrame

from medallion_assets.given.transforms import (
    contradictions,
    given_cells,
    given_forecast,
    target_months,
)
from medallion_assets.policies import retry_transient
from medallion_assets.silver.assets import new_numbers
from medallion_assets.silver.transforms import renamed
from medallion_assets.slices import Months, Reader, TableRecipe
from medallion_assets.table_asset import (
    asset_options,
    report,
    request_of,
    work_of,
    write_with_permission,
)
from medallion_assets.tables import GIVEN_FORECAST
from resources.errors import Refused
from resources.lakehouse import Lakehouse
from resources.orders import OrderFile, OrderFiles, UnreadableFile
from resources.settings import GivenForecasts, Settings

SHOWN = 5  # mistakes that a refusal names


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The asset of silver.given_forecast, where the configuration names some."""
    if not settings.given_forecasts:
        return []

    @dg.asset(
        **asset_options(GIVEN_FORECAST, settings),
    )
    @retry_transient
    def given_forecast_(
        context: dg.AssetExecutionContext,
        lakehouse: dg.ResourceParam[Lakehouse],
        orders: dg.ResourceParam[OrderFiles],
    ) -> dg.MaterializeResult:
        request = request_of(context, GIVEN_FORECAST)
        files = {name: found(name, orders, settings) for name in settings.given_forecasts}

        def transform(read: Reader, months: Months, settings: Settings) -> DataFrame:
            made = [
                cells_of(read, name, orders, files[name], settings)
                for name in settings.given_forecasts
            ]
            together = made[0]
            for more in made[1:]:
                together = together.unionByName(more)
            return given_forecast(together).where(together["yyyymm"].isin(list(months.wanted)))

        recipe = TableRecipe(
            GIVEN_FORECAST,
            [],
            transform,
            {
                name: given.model_dump(exclude={"files", "description", "serves"})
                for name, given in settings.given_forecasts.items()
            },
            is_whole=True,
            outside_version=lambda settings: [
                contents(files),
                sorted(new_numbers(settings).items()),
            ],
        )
        work = work_of(context, lakehouse, settings)
        outcome = write_with_permission(
            request, work, lambda permission: recipe.run(work, request.months, permission)
        )
        return report(request, outcome)

    return [given_forecast_]


def found(name: str, orders: OrderFiles, settings: Settings) -> list[OrderFile]:
    """The files of a given forecast, each content once. Raises Refused where there is none, or one
    lacks a mapped column.
    """
    given = settings.given_forecasts[name]
    source = given.source(name)
    try:
        described = [orders.describe(source, path) for path in orders.paths(source)]
    except UnreadableFile as error:
        raise UnreadableFile(
            str(error).replace(f"sources.{name}.", f"given_forecasts.{name}.")
        ) from error
    files = {file.content_hash: file for file in described}
    if not files:
        raise Refused(f"{given.files}: no such file; given_forecasts.{name}.files names it")
    for file in files.values():
        has = {column.lower() for column in file.column_names}
        if absent := [c for c in given.columns.values() if c.lower() not in has]:
            raise Refused(
                f"{file.path}: no column {', '.join(absent)}, which given_forecasts.{name}.columns"
                f" names; it has {', '.join(file.column_names)}"
            )
        if given.is_wide and not target_months(given, file.column_names):
            raise Refused(
                f"{file.path}: no header is a month by given_forecasts.{name}.month_formats; name"
                f" columns.target and columns.quantity, or their format. It has"
                f" {', '.join(file.column_names)}"
            )
    return list(files.values())


def contents(files: Mapping[str, list[OrderFile]]) -> list[tuple[str, str, str]]:
    """What the files are: given forecast, name and hash of each."""
    return [
        (name, file.file_name, file.content_hash)
        for name, listed in files.items()
        for file in listed
    ]


def cells_of(
    read: Reader, name: str, orders: OrderFiles, files: list[OrderFile], settings: Settings
) -> DataFrame:
    """The cells of a given forecast, checked. Raises Refused with the first mistakes."""
    given = settings.given_forecasts[name]
    lines = orders.lines(read.spark, given.source(name), files)
    about = {file.delivery_id: (file.file_name, _origin(file, name, given)) for file in files}
    headers: dict[str, str] = {}
    for file in files if given.is_wide else ():
        headers |= target_months(given, file.column_names)
    cells = read.held(given_cells(lines, name, given, about, headers))
    told = [
        f"{row['file_name']} line {row['line_number']}: {row['problem']}"
        for row in cells.where("problem IS NOT NULL")
        .orderBy("file_name", "line_number")
        .limit(SHOWN)
        .collect()
    ]
    told += [
        f"origin {row['yyyymm']}, part {row['part_number']}, month {row['target_yyyymm']}:"
        f" {row['first']} and {row['last']} have different numbers; leave the one that counted"
        for row in contradictions(cells).orderBy("yyyymm", "part_number").limit(SHOWN).collect()
    ]
    if told:
        raise Refused(f"given_forecasts.{name} can't be read. " + " ".join(f"{t}." for t in told))
    if not given.is_wide and given.origin_is == "last_known":
        horizons = {row["horizon"] for row in cells.select("horizon").distinct().collect()}
        if 0 in horizons and min(horizons) == 0:
            raise Refused(
                f"given_forecasts.{name}: the first month of each forecast is its origin itself. If"
                " the origin names the first month forecast, set origin_is: first_forecast; if"
                " these lines hold what was already sold, take them out."
            )
    return renamed(cells.drop("problem"), new_numbers(settings))


def _origin(file: OrderFile, name: str, given: GivenForecasts) -> str | None:
    """The text of the origin in a file's name; None where a column holds it."""
    if given.origin_in_name is None:
        return None
    if not (match := re.search(given.origin_in_name, file.file_name)):
        raise Refused(
            f"{file.path}: its name does not match given_forecasts.{name}.origin_in_name"
            f" '{given.origin_in_name}'; rename it or mend the pattern"
        )
    return match[1]
