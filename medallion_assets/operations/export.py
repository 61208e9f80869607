"""The current forecast of an origin as a file: CSV, Excel or Parquet, read without Spark in pieces
and checked before it appears.

What is published lies in served/published.py; nothing is computed here but what stands beside the
forecast.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree as ET
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medallion_assets.served.published import (
    Edition,
    current_edition,
    edition_before,
    forecast_rows,
    published_origins,
    total_rows,
)
from medallion_assets.tables import (
    CHANGE_PARTS,
    DECILES,
    DEMAND_FORECAST,
    FORECAST_CHANGE,
    MONTHLY_DEMAND,
)
from resources.errors import Refused

if TYPE_CHECKING:
    from rich.console import Console

    from resources.lakehouse import Lakehouse

Format = Literal["csv", "xlsx", "parquet"]

PARTS_PER_PIECE = 10_000
A_YEAR = 100  # yyyymm - 100 is the same month of the year before
TOLERANCE = 1e-9  # of sums, whose order of adding differs

TEXTS = ("part_number", "status", "demand_class", "model", "reason")
WHOLE = ("yyyymm", "target_yyyymm", "horizon", "vintage")
COLUMNS = (
    "part_number",
    "yyyymm",
    "target_yyyymm",
    "horizon",
    "forecast_qty",
    *DECILES,
    "year_before_qty",
    "change_qty",
    *CHANGE_PARTS,
    "status",
    "demand_class",
    "model",
    "vintage",
    "reason",
)
TOTAL_COLUMNS = (
    "segment_kind",
    "segment",
    "yyyymm",
    "target_yyyymm",
    "horizon",
    "part_count",
    "forecast_qty",
    *DECILES,
    "method",
    "coverage_80",
    "origin_month_count",
    "vintage",
)
MAX_SHEET_ROWS = 1_048_576
# What spreadsheets take for the beginning of a formula, in their wide forms too (OWASP, CSV
# injection).
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class Export:
    """The file that is asked for. ``out``: by default named after the origin; ``apostrophe``: one
    before part numbers of a CSV that begin like a formula.
    """

    file_format: Format
    out: Path | None = None
    overwrite: bool = False
    apostrophe: bool = False


def export(lakehouse: Lakehouse, origin: int | None, asked: Export, console: Console) -> None:
    """Write the current vintage of an origin (by default the newest) to a file, and say what it
    holds.

    The file appears under its name only when its rows and totals equal those of
    gold.demand_forecast. Raises Refused where nothing was published, the file exists and is not to
    be overwritten, or the format can't hold the rows as they are.
    """
    file_format = asked.file_format
    edition = current_edition(lakehouse, origin or max(published_origins(lakehouse), default=0))
    path = asked.out or Path(f"forecast_{edition.origin}.{file_format}")
    _refuse_existing(path, asked.overwrite)
    before = edition_before(lakehouse, edition.origin)
    parts = forecast_rows(lakehouse, edition, ["part_number"])["part_number"]
    if file_format == "xlsx" and len(parts) >= MAX_SHEET_ROWS:
        raise Refused(
            f"{len(parts):,} rows are more than the {MAX_SHEET_ROWS:,} of an Excel sheet; take"
            " --format parquet or csv"
        )
    guarded = _formulas(sorted(parts.unique()))
    if file_format == "csv" and guarded and not asked.apostrophe:
        raise Refused(
            f"{len(guarded):,} part numbers begin like a formula ({', '.join(guarded[:3])}), and a"
            " spreadsheet that opens a CSV would compute them. Take --format xlsx or parquet,"
            " which keep them as they are, or --apostrophe, which puts one before each. Nothing"
            " was written."
        )
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    totals = _ordered(total_rows(lakehouse, edition))
    try:
        with WRITERS[file_format](unfinished, totals) as write:
            for piece in pieces(lakehouse, edition, before, sorted(parts.unique())):
                write(piece)
        _check(unfinished, file_format, lakehouse, edition, len(parts))
        _refuse_existing(path, asked.overwrite)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    held = (
        f"origin {edition.origin}, vintage {edition.vintage}, {parts.nunique():,} parts,"
        f" {len(parts):,} rows, equal to the table"
    )
    compared = (
        f"change_qty is against origin {before.origin}, vintage {before.vintage}"
        if before
        else "there is no origin before it"
    )
    console.print(f"{path}: {held}; {compared}")
    if file_format == "csv" and guarded:
        console.print(
            f"An apostrophe stands before {len(guarded):,} part numbers that begin like a formula."
        )


def pieces(
    lakehouse: Lakehouse, edition: Edition, before: Edition | None, parts: list[str]
) -> Iterator[pd.DataFrame]:
    """Rows of the file, a batch of parts at a time, ordered by part and target month."""
    beside = ("year_before_qty", "change_qty", *CHANGE_PARTS, "vintage")
    stored = [name for name in COLUMNS if name not in beside]
    targets = lakehouse.totals(DEMAND_FORECAST, ["target_yyyymm"], ["horizon"], [edition.origin])[
        "target_yyyymm"
    ]
    last_year = [int(month) - A_YEAR for month in targets]
    former = pd.DataFrame(columns=["part_number", "target_yyyymm", "forecast_qty"])
    for start in range(0, len(parts), PARTS_PER_PIECE):
        chosen = parts[start : start + PARTS_PER_PIECE]
        if before:
            former = forecast_rows(lakehouse, before, list(former.columns), chosen)
        demand = lakehouse.rows(
            MONTHLY_DEMAND,
            ["part_number", "yyyymm", "demand_qty", "is_complete"],
            last_year,
            parts=chosen,
        )
        forecast = forecast_rows(lakehouse, edition, stored, chosen)
        changes = lakehouse.rows(
            FORECAST_CHANGE,
            ["part_number", "target_yyyymm", "vintage", *CHANGE_PARTS],
            [edition.origin],
            parts=chosen,
        )
        yield exported_rows(
            forecast.assign(vintage=edition.vintage),
            demand[demand["is_complete"].astype(bool)],
            former,
            changes[changes["vintage"] == edition.vintage],
        )


def exported_rows(
    forecast: pd.DataFrame, demand: pd.DataFrame, former: pd.DataFrame, changes: pd.DataFrame
) -> pd.DataFrame:
    """Forecast rows with the demand of the same month a year before, the change since the last
    forecast of the same target, and what it comes of.

    forecast: rows of gold.demand_forecast; demand: part_number, yyyymm, demand_qty; former:
    part_number, target_yyyymm, forecast_qty of the origin before; changes: part_number,
    target_yyyymm and the contributions of gold.forecast_change; units. New columns are empty where
    the part or the month was not there, and for excluded parts.
    """
    year_before = demand.assign(target_yyyymm=demand["yyyymm"] + A_YEAR).rename(
        columns={"demand_qty": "year_before_qty"}
    )
    said = former.rename(columns={"forecast_qty": "former_qty"})
    key = ["part_number", "target_yyyymm"]
    rows = forecast.merge(year_before[[*key, "year_before_qty"]], on=key, how="left")
    rows = rows.merge(said[[*key, "former_qty"]], on=key, how="left")
    rows = rows.merge(changes[[*key, *CHANGE_PARTS]], on=key, how="left")
    rows = rows.astype(dict.fromkeys(CHANGE_PARTS, float))
    has_numbers = rows["horizon"] > 0
    rows["year_before_qty"] = rows["year_before_qty"].astype(float).where(has_numbers)
    rows["change_qty"] = (rows["forecast_qty"] - rows["former_qty"].astype(float)).where(
        has_numbers
    )
    return rows[list(COLUMNS)].sort_values(["part_number", "target_yyyymm"], ignore_index=True)


Write = Callable[[pd.DataFrame], None]


@contextmanager
def _csv(path: Path, totals: pd.DataFrame) -> Iterator[Write]:
    with _opened(path, lambda: path.open("w", encoding="utf-8", newline="")) as file:

        def write(rows: pd.DataFrame) -> None:
            guarded = rows.assign(
                **{name: rows[name].map(_guarded, na_action="ignore") for name in TEXTS}
            )
            guarded.to_csv(file, index=False, header=not file.tell(), lineterminator="\n")

        yield write


@contextmanager
def _parquet(path: Path, totals: pd.DataFrame) -> Iterator[Write]:
    types = dict.fromkeys(TEXTS, pa.string()) | dict.fromkeys(WHOLE, pa.int32())
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in COLUMNS])
    with _opened(path, lambda: pq.ParquetWriter(path, schema)) as file:
        yield lambda rows: file.write_table(
            pa.Table.from_pandas(rows, schema, preserve_index=False)
        )


@contextmanager
def _xlsx(path: Path, totals: pd.DataFrame) -> Iterator[Write]:
    """A sheet of parts, and one of totals, whose deciles are their own. Rows leave memory as they
    are written; every text is written as text, so none becomes a formula or a link.
    """
    from xlsxwriter import Workbook

    with _opened(path, lambda: Workbook(path, {"constant_memory": True})) as workbook:
        sheet = workbook.add_worksheet("forecast")
        bold, quantity = (
            workbook.add_format({"bold": True}),
            workbook.add_format({"num_format": "#,##0.00"}),
        )
        sheet.freeze_panes(1, 1)
        sheet.set_column(0, len(COLUMNS) - 1, 14)
        for place, name in enumerate(COLUMNS):
            sheet.write_string(0, place, name, bold)
        formats = [None if name in (*TEXTS, *WHOLE) else quantity for name in COLUMNS]
        count = 0

        def write(rows: pd.DataFrame) -> None:
            nonlocal count
            for row in rows.itertuples(index=False):
                count += 1
                for place, value in enumerate(row):
                    if isinstance(value, str):
                        sheet.write_string(count, place, value)
                    elif (
                        value is not None and value == value
                    ):  # NaN differs from itself; asking pandas costs more than the cell
                        sheet.write_number(count, place, value, formats[place])

        yield write
        sheet.autofilter(0, 0, count, len(COLUMNS) - 1)
        _write_totals(workbook, totals, bold, quantity)


def _ordered(totals: pd.DataFrame) -> pd.DataFrame:
    """Rows of totals as they are written, all parts first."""
    is_group = totals["segment_kind"] != "all"
    order = ["is_group", "segment_kind", "segment", "horizon"]
    return totals.assign(is_group=is_group).sort_values(order)[list(TOTAL_COLUMNS)]


def _write_totals(workbook: Any, totals: pd.DataFrame, bold: Any, quantity: Any) -> None:
    sheet = workbook.add_worksheet("totals")
    sheet.freeze_panes(1, 0)
    sheet.set_column(0, len(TOTAL_COLUMNS) - 1, 14)
    for place, name in enumerate(TOTAL_COLUMNS):
        sheet.write_string(0, place, name, bold)
    for count, row in enumerate(totals.itertuples(index=False), 1):
        for place, value in enumerate(row):
            if isinstance(value, str):
                sheet.write_string(count, place, value)
            elif value is not None and value == value:
                is_quantity = TOTAL_COLUMNS[place] in ("forecast_qty", *DECILES)
                sheet.write_number(count, place, value, quantity if is_quantity else None)


WRITERS: dict[str, Callable[[Path, pd.DataFrame], AbstractContextManager[Write]]] = {
    "csv": _csv,
    "xlsx": _xlsx,
    "parquet": _parquet,
}


@contextmanager
def _opened(path: Path, make: Callable[[], Any]) -> Iterator[Any]:
    """A file that is closed in the end. Raises Refused where its folder is missing or closed to
    us.
    """
    try:
        file = make()
    except OSError as error:
        raise Refused(f"{path.parent}: no file can be written there ({error.strerror})") from error
    try:
        yield file
    finally:
        file.close()


def _check(
    path: Path, file_format: Format, lakehouse: Lakehouse, edition: Edition, row_count: int
) -> None:
    """Read the file again: its rows and its totals by target month must be the table's. Raises
    Refused where they are not.
    """
    by = ["vintage", "target_yyyymm"]
    stored = lakehouse.totals(DEMAND_FORECAST, by, ["forecast_qty"], [edition.origin])
    table = stored[stored["vintage"] == edition.vintage].set_index("target_yyyymm")["forecast_qty"]
    written, count = pd.Series(dtype=float), 0
    for piece in READERS[file_format](path):
        count += len(piece)
        written = written.add(piece.groupby("target_yyyymm")["forecast_qty"].sum(), fill_value=0.0)
    if count != row_count:
        raise Refused(
            f"the file held {count:,} rows and the table {row_count:,}, so it was removed"
        )
    months = table.index.union(written.index)
    found, wanted = (sums.reindex(months).to_numpy(dtype=float) for sums in (written, table))
    if len(wrong := months[~np.isclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)]):
        month = int(wrong[0])
        sums = (
            f"{written.get(month, 0.0):,.6f} units in the file and to {table.get(month, 0.0):,.6f}"
            " in the table"
        )
        raise Refused(f"{month} added up to {sums}, so the file was removed")


_CHECKED = ["target_yyyymm", "forecast_qty"]


def _csv_pieces(path: Path) -> Iterator[pd.DataFrame]:
    with pd.read_csv(path, usecols=_CHECKED, chunksize=100_000) as file:
        yield from file


def _parquet_pieces(path: Path) -> Iterator[pd.DataFrame]:
    with pq.ParquetFile(path) as file:
        yield from (batch.to_pandas() for batch in file.iter_batches(columns=_CHECKED))


def _xlsx_pieces(path: Path) -> Iterator[pd.DataFrame]:
    """The two columns of the sheet, from its XML as it streams by: the library writes only."""
    namespace = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    letters = {chr(ord("A") + COLUMNS.index(name)): name for name in _CHECKED}
    rows: list[dict[str, float]] = []
    with ZipFile(path) as archive, archive.open("xl/worksheets/sheet1.xml") as sheet:
        for event, element in ET.iterparse(sheet, ("start", "end")):  # noqa: S314 - our own file
            if (event, element.tag) == ("start", f"{namespace}sheetData"):
                read = element
            if (event, element.tag) != ("end", f"{namespace}row"):
                continue
            if element.get("r") != "1":
                cells = {
                    letters.get(str(cell.get("r"))[0]): cell.findtext(f"{namespace}v")
                    for cell in element
                }
                rows.append({name: float(cells.get(name) or "nan") for name in _CHECKED})
            read.clear()
            if len(rows) == 100_000:
                yield pd.DataFrame(rows, columns=_CHECKED)
                rows = []
    yield pd.DataFrame(rows, columns=_CHECKED)


READERS: dict[str, Callable[[Path], Iterator[pd.DataFrame]]] = {
    "csv": _csv_pieces,
    "xlsx": _xlsx_pieces,
    "parquet": _parquet_pieces,
}


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise Refused(
            f"{path} exists already; give another name with --out, or --overwrite to replace it"
        )


def _formulas(texts: list[str]) -> list[str]:
    return [text for text in texts if text.startswith(FORMULA_SIGNS)]


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_SIGNS) else text
