"""The forecast as a file: what its rows are, that nothing but equal files appear, and that no text
becomes a formula.
"""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from zipfile import ZipFile

import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from medallion_assets.operations import export as exports
from medallion_assets.partitions import add_months
from medallion_assets.tables import (
    CHANGE_PARTS,
    DECILES,
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_CHANGE,
    MONTHLY_DEMAND,
)
from resources.errors import Refused
from resources.lakehouse import Slice
from tests.fakes import FakeLakehouse, filled

ORIGIN = 202402
FORMATS = ("csv", "xlsx", "parquet")


def forecast(
    part: str, origin: int, vintage: int, *quantities: float, **others: Any
) -> list[dict[str, Any]]:
    return [
        filled(
            DEMAND_FORECAST,
            yyyymm=origin,
            vintage=vintage,
            part_number=part,
            horizon=h,
            target_yyyymm=add_months(origin, h),
            forecast_qty=qty,
            **dict.fromkeys(DECILES, qty),
            status="forecast",
            demand_class="smooth",
            model="theta",
            published_at=datetime(2024, 3, 1),
            run_id=f"run of {origin} {vintage}",
        )
        | others
        for h, qty in enumerate(quantities, 1)
    ]


def excluded(part: str) -> dict[str, Any]:
    numbers = dict.fromkeys(["forecast_qty", *DECILES, "model"])
    return (
        forecast(part, ORIGIN, 2, 0.0)[0]
        | numbers
        | {
            "horizon": 0,
            "target_yyyymm": ORIGIN,
            "status": "excluded",
            "reason": "no sale",
        }
    )


def lakehouse(*rows: dict[str, Any]) -> FakeLakehouse:
    """Two vintages of February's forecast, one of January's, and demand of a year before."""
    made = FakeLakehouse()
    rows = rows or (
        *forecast("P1", ORIGIN, 1, 99.0, 99.0),
        *forecast("GONE", ORIGIN, 1, 99.0, 99.0),
        *forecast("P1", ORIGIN, 2, 0.1, 6.0),
        *forecast("P2", ORIGIN, 2, 0.2, 2.5),
        excluded("P3"),
        *forecast("P1", 202401, 1, 1.0, 4.0),
        *forecast("P3", 202401, 1, 1.0, 4.0),
    )
    made.append(DEMAND_FORECAST, list(rows))
    for origin in {row["yyyymm"] for row in rows}:
        made.ledger.record(DEMAND_FORECAST, [Slice(origin, "", "v", "v", 1, 1)], "run")
    demand = [
        filled(MONTHLY_DEMAND, part_number=part, yyyymm=month, demand_qty=qty, is_complete=True)
        for part, month, qty in (("P1", 202303, 7.0), ("P1", 202304, 8.0), ("P3", 202302, 5.0))
    ]
    change = filled(
        FORECAST_CHANGE,
        yyyymm=ORIGIN,
        vintage=2,
        part_number="P1",
        target_yyyymm=202403,
        **dict(zip(CHANGE_PARTS, (0.5, 0.25, -0.75, -3.9), strict=True)),
    )
    made.append(FORECAST_CHANGE, [change])
    made.append(MONTHLY_DEMAND, demand)
    return made


def exported(
    tables: FakeLakehouse,
    path: Path,
    file_format: Any,
    origin: int | None = ORIGIN,
    **options: bool,
) -> str:
    console = Console(record=True, width=400)
    exports.export(tables, origin, exports.Export(file_format, path, **options), console)
    return console.export_text()


def rows_of(path: Path, file_format: str) -> list[dict[str, str]]:
    """Rows of a file as text, empty cells as empty text."""
    if file_format == "csv":
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    if file_format == "parquet":
        return [
            {k: "" if pd.isna(v) else str(v) for k, v in row.items()}
            for row in pq.read_table(path).to_pandas().to_dict("records")
        ]
    cells = [
        {str(c.get("r"))[0]: "".join(c.itertext()) for c in row}
        for row in sheet(path).iter(f"{NAMESPACE}row")
    ]
    names = cells[0]
    return [{name: row.get(letter, "") for letter, name in names.items()} for row in cells[1:]]


NAMESPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def sheet(path: Path, number: int = 1) -> ET.Element:
    with ZipFile(path) as archive:
        return ET.fromstring(archive.read(f"xl/worksheets/sheet{number}.xml"))


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_file_holds_the_current_vintage(tmp_path: Path, file_format: str) -> None:
    """The newest vintage in order of part and month, last year's demand and the change beside it;
    excluded parts with their reason.
    """
    told = exported(lakehouse(), path := tmp_path / f"f.{file_format}", file_format)
    rows = rows_of(path, file_format)
    assert tuple(rows[0]) == exports.COLUMNS
    shown = [(r["part_number"], int(r["target_yyyymm"]), r["status"]) for r in rows]
    assert shown == [
        ("P1", 202403, "forecast"),
        ("P1", 202404, "forecast"),
        ("P2", 202403, "forecast"),
        ("P2", 202404, "forecast"),
        ("P3", 202402, "excluded"),
    ]
    assert [float(r["forecast_qty"]) for r in rows[:4]] == [0.1, 6.0, 0.2, 2.5]
    assert [r["year_before_qty"] and float(r["year_before_qty"]) for r in rows] == [
        7.0,
        8.0,
        "",
        "",
        "",
    ]
    assert [r["change_qty"] and round(float(r["change_qty"]), 9) for r in rows] == [
        -3.9,
        "",
        "",
        "",
        "",
    ]
    assert (rows[4]["forecast_qty"], rows[4]["reason"]) == ("", "no sale")
    assert (
        "origin 202402, vintage 2, 3 parts, 5 rows, equal to the table; change_qty is against"
        " origin 202401, vintage 1" in told
    )


@pytest.mark.parametrize("file_format", FORMATS)
def test_it_is_read_in_pieces(
    tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part at a time gives the same rows as all at once."""
    exported(lakehouse(), tmp_path / "whole", file_format)
    monkeypatch.setattr(exports, "PARTS_PER_PIECE", 1)
    exported(lakehouse(), tmp_path / "pieces", file_format)
    assert rows_of(tmp_path / "pieces", file_format) == rows_of(tmp_path / "whole", file_format)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lost", "held 4 rows and the table 5"),
        ("other", r"202404 added up to 9\.500000 units in the file and to 8\.5"),
    ],
)
def test_a_file_that_differs_never_appears(
    tmp_path: Path, file_format: str, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost row or another number on the way is found by reading the file again; no file is left,
    not even an unfinished one.
    """
    right = exports.exported_rows

    def wrong(*frames: pd.DataFrame) -> pd.DataFrame:
        rows = right(*frames)
        if change == "lost":
            return rows[rows["part_number"] != "P3"]
        return rows.assign(
            forecast_qty=rows["forecast_qty"].where(
                (rows["part_number"] != "P1") | (rows["horizon"] != 2), 7.0
            )
        )

    monkeypatch.setattr(exports, "exported_rows", wrong)
    with pytest.raises(Refused, match=message):
        exported(lakehouse(), tmp_path / "f", file_format)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_unless_it_is_said(tmp_path: Path) -> None:
    """Refused with the way out, and the file is what it was; with --overwrite it is replaced."""
    path = tmp_path / "f.csv"
    path.write_text("mine")
    with pytest.raises(
        Refused, match="exists already; give another name with --out, or --overwrite"
    ):
        exported(lakehouse(), path, "csv")
    assert path.read_text() == "mine"
    exported(lakehouse(), path, "csv", overwrite=True)
    assert path.read_text().startswith("part_number,")


@pytest.mark.parametrize("part", ["=1+1", "+49", "-12", "@x", "＝1"])
def test_a_csv_with_formulas_is_refused_or_marked(tmp_path: Path, part: str) -> None:
    """Part numbers are never changed unasked; with --apostrophe one stands before each, and the
    command says how many.
    """
    tables = lakehouse(*forecast(part, ORIGIN, 1, 1.0), *forecast("P-1", ORIGIN, 1, 1.0))
    with pytest.raises(
        Refused, match=r"1 part numbers begin like a formula .*--format xlsx or parquet"
    ):
        exported(tables, tmp_path / "f.csv", "csv")
    told = exported(tables, tmp_path / "f.csv", "csv", apostrophe=True)
    assert {row["part_number"] for row in rows_of(tmp_path / "f.csv", "csv")} == {f"'{part}", "P-1"}
    assert "An apostrophe stands before 1 part numbers" in told


@pytest.mark.parametrize("part", ["=1+1", "0012", "http://x", "<b>&"])
def test_a_sheet_holds_texts_and_no_formula(tmp_path: Path, part: str) -> None:
    """Whatever a part number looks like, its cell is a text that is exactly the part number: no
    formula, no link, no number.
    """
    exported(lakehouse(*forecast(part, ORIGIN, 1, 1.5)), path := tmp_path / "f.xlsx", "xlsx")
    cell = next(cell for cell in sheet(path).iter(f"{NAMESPACE}c") if cell.get("r") == "A2")
    assert (cell.get("t"), "".join(cell.itertext())) == ("inlineStr", part)
    assert not list(sheet(path).iter(f"{NAMESPACE}f"))
    assert not list(sheet(path).iter(f"{NAMESPACE}hyperlink"))


def test_a_second_sheet_holds_the_totals(tmp_path: Path) -> None:
    """Those of the current vintage, all parts first, with how many past totals lay within."""
    tables = lakehouse()
    common = {"yyyymm": ORIGIN, "horizon": 1, "target_yyyymm": 202403, "method": "joint_errors"}
    rows = [
        filled(
            DEMAND_FORECAST_TOTAL,
            **common,
            vintage=vintage,
            segment_kind=kind,
            segment=name,
            coverage_80=0.75,
            **dict.fromkeys(DECILES, 9.5),
        )
        for vintage in (1, 2)
        for kind, name in (("abc_class", "A"), ("all", "all"))
    ]
    tables.append(DEMAND_FORECAST_TOTAL, rows)
    exported(tables, path := tmp_path / "f.xlsx", "xlsx")
    cells = [["".join(c.itertext()) for c in r] for r in sheet(path, 2).iter(f"{NAMESPACE}row")]
    assert cells[0] == list(exports.TOTAL_COLUMNS)
    assert [row[1] for row in cells[1:]] == ["all", "A"]
    assert {(row[-1], row[-3], row[7]) for row in cells[1:]} == {("2", "0.75", "9.5")}


def test_more_rows_than_a_sheet_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written, with the formats that hold them."""
    monkeypatch.setattr(exports, "MAX_SHEET_ROWS", 5)
    with pytest.raises(Refused, match="take --format parquet or csv"):
        exported(lakehouse(), tmp_path / "f.xlsx", "xlsx")
    assert list(tmp_path.iterdir()) == []


def test_the_first_origin_has_no_change(tmp_path: Path) -> None:
    """With nothing published before it, the column is empty and the command says why."""
    told = exported(lakehouse(*forecast("P1", ORIGIN, 1, 1.0)), tmp_path / "f.csv", "csv")
    assert "there is no origin before it" in told
    assert [row["change_qty"] for row in rows_of(tmp_path / "f.csv", "csv")] == [""]


@pytest.mark.parametrize(
    ("tables", "origin", "message"),
    [
        (
            lakehouse,
            202312,
            "no forecast was published at the end of 202312; published are 202401 to 202402",
        ),
        (FakeLakehouse, None, "nothing is published yet"),
    ],
)
def test_an_origin_that_was_not_published_is_refused(
    tmp_path: Path, tables: Any, origin: int | None, message: str
) -> None:
    """The message says which origins there are."""
    with pytest.raises(Refused, match=message):
        exported(tables(), tmp_path / "f.csv", "csv", origin)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """No stack trace, and no folder made by a slip of the pen."""
    with pytest.raises(Refused, match="absent: no file can be written there"):
        exported(lakehouse(), tmp_path / "absent" / "f.csv", "csv")
