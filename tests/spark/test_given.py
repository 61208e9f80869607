"""Forecasts made elsewhere, from their files to one row per cell: long and wide files, and what is
refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession

from medallion_assets.given import assets
from medallion_assets.given.transforms import given_forecast
from medallion_assets.tables import DECILES
from resources.errors import Refused
from resources.orders import LocalOrderFiles
from resources.settings import Settings
from tests.conftest import SOURCE

pytestmark = pytest.mark.spark

LONG = {"origin": "made", "part_number": "item", "target": "month", "quantity": "qty"}


class Files:
    """A folder of forecast files, and what is read from it."""

    def __init__(self, folder: Path, spark: SparkSession):
        self.folder, self.spark = folder, spark

    def deliver(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def read(self, **given: Any) -> pd.DataFrame:
        """silver.given_forecast of all files, in order of its key."""
        content = {"files": f"{self.folder}/*", **given}
        settings = Settings(
            lakehouse_root="nowhere",
            first_month=202401,
            sources=(SOURCE,),
            given_forecasts={"planner": content},
        )
        orders = LocalOrderFiles()

        def held(rows: DataFrame) -> DataFrame:
            return rows

        reader: Any = SimpleNamespace(spark=self.spark, held=held)
        listed = assets.found("planner", orders, settings)
        cells = assets.cells_of(reader, "planner", orders, listed, settings)
        return (
            given_forecast(cells)
            .toPandas()
            .sort_values(["yyyymm", "part_number", "horizon"], ignore_index=True)
        )


@pytest.fixture
def files(tmp_path: Path, spark: SparkSession) -> Files:
    return Files(tmp_path, spark)


def told(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    names = ["yyyymm", "part_number", "horizon", "target_yyyymm", "forecast_qty"]
    return [tuple(row) for row in rows[names].to_numpy().tolist()]


def test_a_long_file_gives_one_row_per_cell(files: Files) -> None:
    """Months by any of the formats, parts spelled as order lines spell them, a negative number is
    zero, a line without a number is no forecast, and each row knows its line."""
    files.deliver(
        "a.csv",
        "made,item,month,qty",
        "2025-06,p-1 ,2025-07,10.5",
        "2025-06-30,P-1,202508,-2",
        "2025-06,P-2,2025-07,",
    )
    rows = files.read(columns=LONG)
    assert told(rows) == [(202506, "P-1", 1, 202507, 10.5), (202506, "P-1", 2, 202508, 0.0)]
    assert rows["line_number"].tolist() == [2, 3]
    assert rows[list(DECILES)].isna().all().all()


def test_an_origin_may_name_the_first_month_forecast(files: Files) -> None:
    """As notebooks do that write the month they run in; read as the last known month it would be
    off by one."""
    files.deliver("a.csv", "made,item,month,qty", "2025-07-01,P-1,2025-07-01,3")
    rows = files.read(columns=LONG, origin_is="first_forecast")
    assert told(rows) == [(202506, "P-1", 1, 202507, 3.0)]


def test_an_origin_that_is_its_own_first_month_is_asked_about(files: Files) -> None:
    """Whether that line is a forecast or a known month can't be told, so nothing is read."""
    files.deliver("a.csv", "made,item,month,qty", "2025-07,P-1,2025-07,3", "2025-07,P-1,2025-08,3")
    with pytest.raises(Refused, match="origin_is: first_forecast"):
        files.read(columns=LONG)


def test_a_wide_sheet_has_its_months_in_its_header_and_its_origin_in_its_name(files: Files) -> None:
    """Each sheet has other months; those through the origin hold what was sold and are no
    forecast."""
    files.deliver("plan_2025-06.csv", "item;name;05/2025;07/2025;08/2025", "P-1;bolt;9;1.200,5;")
    files.deliver("plan_2025-07.csv", "item;name;08/2025;09/2025", "P-1;bolt;4;5")
    rows = files.read(
        csv={"delimiter": ";"},
        columns={"part_number": "item"},
        origin_in_name=r"plan_(\d{4}-\d{2})",
        month_formats=["MM/yyyy", "yyyy-MM"],
        decimal_separator=",",
        thousands_separator=".",
    )
    assert told(rows) == [
        (202506, "P-1", 1, 202507, 1200.5),
        (202507, "P-1", 1, 202508, 4.0),
        (202507, "P-1", 2, 202509, 5.0),
    ]


def test_a_workbook_is_read_like_any_file(files: Files) -> None:
    """A planner's sheet with real dates as headers."""
    sheet = pd.DataFrame([["P-1", 7.0, 8.0]])
    sheet.columns = pd.Index(["item", pd.Timestamp(2025, 7, 1), pd.Timestamp(2025, 8, 1)])
    sheet.to_excel(files.folder / "plan_2025-06.xlsx", index=False, engine="xlsxwriter")
    rows = files.read(
        format="excel",
        columns={"part_number": "item"},
        origin_in_name=r"plan_(\d{4}-\d{2})",
    )
    assert told(rows) == [(202506, "P-1", 1, 202507, 7.0), (202506, "P-1", 2, 202508, 8.0)]


def test_deciles_are_read_where_a_file_has_them(files: Files) -> None:
    """All nine, in order."""
    files.deliver(
        "a.csv",
        "made,item,month,qty," + ",".join(DECILES),
        "2025-06,P-1,2025-07,5," + ",".join(str(n) for n in range(1, 10)),
    )
    rows = files.read(columns=LONG | {name: name for name in DECILES})
    assert rows[list(DECILES)].to_numpy().tolist() == [[float(n) for n in range(1, 10)]]


def test_the_same_cell_twice_counts_once(files: Files) -> None:
    """The same file under another name, and a repeated line."""
    for name in ("a.csv", "b.csv"):
        files.deliver(
            name, "made,item,month,qty", "2025-06,P-1,2025-07,5", "2025-06,P-1,2025-07,5.0"
        )
    assert told(files.read(columns=LONG)) == [(202506, "P-1", 1, 202507, 5.0)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("soon,P-1,2025-07,5",), "line 2: column made: 'soon' is no month by month_formats"),
        (("2025-06,P-1,July,5",), "line 2: column month: 'July' is no month"),
        (("2025-06,P-1,2025-07,five",), "line 2: column qty: 'five' is no number"),
        (("2025-06,,2025-07,5",), "line 2: column item: there is no part number"),
        (
            ("2025-06,P-1,2025-07,5", "2025-06,P-1,2025-07,6"),
            "origin 202506, part P-1, month 202507: a.csv line 2 and a.csv line 3 have different"
            " numbers",
        ),
        (("2025-06,P-1,2025-07",), "a.csv line 2: "),
    ],
)
def test_a_line_that_cannot_be_read_is_named(
    files: Files, lines: tuple[str, ...], message: str
) -> None:
    """File, line, column and text; nothing of the file is taken."""
    files.deliver("a.csv", "made,item,month,qty", *lines)
    with pytest.raises(Refused) as refused:
        files.read(columns=LONG)
    assert message in str(refused.value)


def test_deciles_out_of_order_are_refused(files: Files) -> None:
    """q20 below q10 is a mapping gone wrong more often than a forecast."""
    values = [2, 1, *range(3, 10)]
    files.deliver(
        "a.csv",
        "made,item,month,qty," + ",".join(DECILES),
        "2025-06,P-1,2025-07,5," + ",".join(map(str, values)),
    )
    with pytest.raises(Refused, match="q10 lies above q20"):
        files.read(columns=LONG | {name: name for name in DECILES})


def test_files_that_lack_what_the_mapping_names_are_refused(files: Files) -> None:
    """No file, no column, no month among the headers, a name without an origin."""
    with pytest.raises(Refused, match=r"no such file; given_forecasts\.planner\.files"):
        files.read(columns=LONG)
    files.deliver("a.csv", "part,qty", "P-1,5")
    with pytest.raises(Refused, match=r"set given_forecasts\.planner\.csv\.header_line"):
        files.read(columns=LONG)
    files.deliver("a.csv", "item,qty", "P-1,5")
    with pytest.raises(Refused, match="no column made, month"):
        files.read(columns=LONG)
    wide = {"columns": {"part_number": "item"}, "origin_in_name": r"plan_(\d{6})"}
    with pytest.raises(Refused, match="no header is a month"):
        files.read(**wide)
    files.deliver("a.csv", "item,2025-07", "P-1,5")
    with pytest.raises(Refused, match=r"does not match given_forecasts\.planner\.origin_in_name"):
        files.read(**wide)
