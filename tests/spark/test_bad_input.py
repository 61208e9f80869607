"""What sources deliver wrongly, each case with what becomes of it: accepted, set aside with its
reason, or refused with nothing written.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter
import zstandard

from medallion_assets.bronze.assets import LineStore, Register
from medallion_assets.silver import transforms
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES
from resources.engines import Engine
from resources.errors import Refused
from resources.lakehouse import DeltaLakehouse
from resources.orders import LocalOrderFiles, NoFiles
from resources.settings import Settings, parse_settings
from tests.conftest import SOURCE, forget_tables, open_lakehouse

pytestmark = pytest.mark.spark

MONTHS = [202201, 202202, 202402]
HEADER = "Order,Part,Customer,Region,Date,Qty,Price"
LONG = "P" + "9" * 10_000
ACCEPTED: list[str] = []

# Order number -> the rest of the line, and the reasons for which it is set aside; none: it counts.
LINES: dict[str, tuple[str, list[str]]] = {
    "ordinary": ("P1,K1,North,2022-01-05,3,2.50", ACCEPTED),
    "customer and region missing": ("P1,,,2022-01-05,3,2.50", ACCEPTED),
    "spaces around": ("  p1  ,K1,North, 2022-01-05 , 3 , 2.50 ", ACCEPTED),
    "29 February of a leap year": ("P1,K1,North,2024-02-29,3,2.50", ACCEPTED),
    "29 February of another year": ("P1,K1,North,2022-02-29,3,2.50", ["order_date_unreadable"]),
    "far future": ("P1,K1,North,9999-12-31,3,2.50", ["order_date_after_ingestion"]),
    "before the first month": ("P1,K1,North,1999-12-31,3,2.50", ["order_date_before_first_month"]),
    "no date": ("P1,K1,North,,3,2.50", ["order_date_unreadable"]),
    "time zone": ("P1,K1,North,2022-01-31T23:30:00+02:00,3,2.50", ACCEPTED),
    "midnight": ("P1,K1,North,2022-01-31 00:00:00,3,2.50", ACCEPTED),
    "decimal comma": ('P1,K1,North,2022-01-05,"3,5",2.50', ["quantity_unreadable"]),
    "thousands separator": ('P1,K1,North,2022-01-05,"1,000",2.50', ["quantity_unreadable"]),
    "NaN": ("P1,K1,North,2022-01-05,NaN,2.50", ["quantity_unreadable"]),
    "infinity": ("P1,K1,North,2022-01-05,Infinity,2.50", ["quantity_unreadable"]),
    "infinite price": ("P1,K1,North,2022-01-05,3,1e999", ["unit_price_unreadable"]),
    "beyond 64 bits": ("P1,K1,North,2022-01-05,99999999999999999999,2.50", ["quantity_unreadable"]),
    "hexadecimal": ("P1,K1,North,2022-01-05,0x10,2.50", ["quantity_unreadable"]),
    "mixed types": ("P1,K1,North,2022-01-05,three,2.50", ["quantity_unreadable"]),
    "no quantity": ("P1,K1,North,2022-01-05,,2.50", ["quantity_unreadable"]),
    "zero": ("P1,K1,North,2022-01-05,0,2.50", ["quantity_zero"]),
    "negative price": ("P1,K1,North,2022-01-05,3,-2.50", ["unit_price_not_positive"]),
    "quotes in the part": ('"P""1""",K1,North,2022-01-05,3,2.50', ACCEPTED),
    "single quote in the part": ("P'1,K1,North,2022-01-05,3,2.50", ACCEPTED),
    "separator in the part": ('"P,1",K1,North,2022-01-05,3,2.50', ACCEPTED),
    "line break in the part": ('"P\n1",K1,North,2022-01-05,3,2.50', ACCEPTED),
    "path in the part": ("P../../etc/passwd,K1,North,2022-01-05,3,2.50", ACCEPTED),
    "emoji in the part": ("P🔩1,K1,North,2022-01-05,3,2.50", ACCEPTED),
    "another script": ("Pпривет,K1,Köln,2022-01-05,3,2.50", ACCEPTED),
    "SQL in the part": (
        "P'; DROP TABLE my_catalog.my_bronze.sales_orders; --,K1,North,2022-01-05,3,2.50",
        ACCEPTED,
    ),
    "10,000 characters": (f"{LONG},K1,North,2022-01-05,3,2.50", ACCEPTED),
    "no part": (",K1,North,2022-01-05,3,2.50", ["part_number_missing"]),
    "no product": ("POSTAGE?,K1,North,2022-01-05,3,2.50", ACCEPTED),
    "a cancellation that adds": ("", ["cancellation_with_positive_quantity"]),
    "too few fields": ("P1,K1", ["unreadable"]),
    "too many fields": ("P1,K1,North,2022-01-05,3,2.50,more,and more", ["unreadable"]),
}
ORDER_OF = {
    name: "C1" if name == "a cancellation that adds" else f"O{number}"
    for number, name in enumerate(LINES)
}


@pytest.fixture(scope="module")
def outcomes(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, list[str]], pd.DataFrame]]:
    """Reasons by order number after one file with all lines went through bronze and silver; the
    typed lines.
    """
    folder = tmp_path_factory.mktemp("corpus")
    settings = configured(folder)
    text = [
        f"{ORDER_OF[name]},{rest or 'P1,K1,North,2022-01-05,3,2.50'}"
        for name, (rest, _) in LINES.items()
    ]
    write(
        folder / "landing" / "corpus.csv",
        "\n".join([HEADER, *text]).encode() + b"\nO999,P1,K1,\xff\xfe,2022-01-05,3,2.50\n",
    )
    lakehouse = open_lakehouse(engine, settings)
    (delivery,) = take_in(settings, lakehouse)
    stored = lakehouse.rows(BRONZE_SALES_ORDERS)
    assert len(stored) == delivery["line_count"] == len(LINES) + 1
    lines = transforms.canonical_lines(lakehouse.read(BRONZE_SALES_ORDERS), settings.sources[0])
    disposed = transforms.disposed_lines(lines, {delivery["delivery_id"]: 1}, {}, settings.sources)
    disposed = disposed.select("order_id", "part_number", "line_number", "reasons").toPandas()
    raw = stored.set_index("_line_number")["_raw"]
    order = disposed["order_id"].fillna(disposed["line_number"].map(raw).str.split(",").str[0])
    yield dict(zip(order, disposed["reasons"], strict=True)), disposed
    forget_tables(engine, settings)


def configured(folder: Path, **source: Any) -> Settings:
    content = {
        "lakehouse_root": "lakehouse",
        "first_month": 202201,
        "sources": [{**SOURCE, **source}],
    }
    return parse_settings(content, folder / "test.yaml")


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


def take_in(settings: Settings, lakehouse: DeltaLakehouse) -> list[dict[str, Any]]:
    found = Register(settings, lakehouse, LocalOrderFiles(), print).run("run")
    LineStore(settings, lakehouse, LocalOrderFiles(), print).run(MONTHS, "run")
    return found


@pytest.mark.parametrize("name", LINES)
def test_a_line_counts_or_is_set_aside_with_its_reason(
    outcomes: tuple[dict[str, list[str]], pd.DataFrame], name: str
) -> None:
    """Nothing is lost: each line of the corpus has its row, and the reason is the one that fits."""
    found, wanted = list(outcomes[0][ORDER_OF[name]]), LINES[name][1]
    assert found == wanted or (
        wanted == ["unreadable"] and len(found) == 1 and found[0].startswith("unreadable")
    )


def test_text_that_is_no_text_is_set_aside(
    outcomes: tuple[dict[str, list[str]], pd.DataFrame],
) -> None:
    """Bytes that the encoding does not know make one line unreadable, not the file."""
    ((order, reasons),) = [(o, r) for o, r in outcomes[0].items() if str(o).startswith("O999")]
    assert reasons[0].startswith("unreadable"), order


def test_part_numbers_arrive_whole(outcomes: tuple[dict[str, list[str]], pd.DataFrame]) -> None:
    """Quotes, separators, line breaks, paths, emoji, SQL and 10,000 characters are the part's name
    and nothing else.
    """
    parts = outcomes[1].set_index("order_id")["part_number"]
    told = {
        name: parts[ORDER_OF[name]]
        for name in LINES
        if "part" in name and LINES[name][1] == ACCEPTED
    }
    assert told["quotes in the part"] == 'P"1"'
    assert told["separator in the part"] == "P,1"
    assert told["line break in the part"] == "P 1"
    assert told["path in the part"] == "P../../ETC/PASSWD"
    assert told["SQL in the part"] == "P'; DROP TABLE MY_CATALOG.MY_BRONZE.SALES_ORDERS; --"
    assert parts[ORDER_OF["10,000 characters"]] == LONG


GOOD = "O1,P1,K1,North,2022-01-05,3,2.50"


def parquet(**columns: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


WHOLE = parquet(
    Order=["O1"],
    Part=["P1"],
    Customer=["K1"],
    Region=["N"],
    Date=["2022-01-05"],
    Qty=[3],
    Price=[2.5],
)

REFUSED: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "a broken archive": (
        gzip.compress(f"{HEADER}\n{GOOD}".encode())[:-4],
        {},
        "end-of-stream",
    ),
    "no header within the first lines": (
        b"a report\n" * 60 + f"{HEADER}\n{GOOD}".encode(),
        {},
        "csv.header_line",
    ),
    "text for a workbook": (
        f"{HEADER}\n{GOOD}".encode(),
        {"format": "excel"},
        "not a readable wor",
    ),
    "JSON that is cut off": (b'[{"Order": "O1"', {"format": "json"}, "line 1: .*not whole"),
    "JSON without a path": (b'{"orders": [{"Order": "O1"}]}', {"format": "json"}, r"orders\[\]"),
    "empty file": (b"", {}, "is empty|no header"),
    "wrong delimiter": (
        HEADER.replace(",", ";").encode() + b"\n" + GOOD.replace(",", ";").encode(),
        {},
        "Order|column",
    ),
    "broken quoting": (
        f'{HEADER}\nO1,"P1,K1,North,2022-01-05,3,2.50\n'.encode(),
        {},
        "line 2|quote",
    ),
    "a mapped column is missing": (
        f"{HEADER.replace(',Qty', '')}\nO1,P1,K1,North,2022-01-05,2.50".encode(),
        {},
        "Qty",
    ),
    "a mapped column was renamed": (
        f"{HEADER.replace('Qty', 'Quantity')}\n{GOOD}".encode(),
        {},
        "Qty",
    ),
    "a column is there twice": (f"{HEADER},Qty\n{GOOD},4".encode(), {}, "twice|Qty"),
    "another encoding": (f"{HEADER}\n{GOOD}\n".encode("utf-16"), {}, "Order|UTF-8|column|encoding"),
    "truncated Parquet": (WHOLE[: len(WHOLE) // 2], {"format": "parquet"}, "Parquet"),
    "text for Parquet": (f"{HEADER}\n{GOOD}".encode(), {"format": "parquet"}, "Parquet"),
    "Parquet without lines": (
        parquet(Order=pa.array([], pa.string())),
        {"format": "parquet"},
        "no line|column",
    ),
}


@pytest.fixture
def opened(engine: Engine) -> Iterator[Callable[[Settings], DeltaLakehouse]]:
    """Opens the lakehouse of a configuration, whose table names are forgotten afterwards."""
    used: list[Settings] = []

    def open_one(settings: Settings) -> DeltaLakehouse:
        used.append(settings)
        return open_lakehouse(engine, settings)

    yield open_one
    for settings in used:
        forget_tables(engine, settings)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_can_not_be_taken_in_is_refused_whole(
    opened: Callable[[Settings], DeltaLakehouse], tmp_path: Path, name: str
) -> None:
    """The message names the file, and neither a delivery nor a line is stored; a good file beside
    it waits.
    """
    content, source, told = REFUSED[name]
    settings = configured(tmp_path, **source)
    write(tmp_path / "landing" / "bad.csv", content)
    good = WHOLE if source.get("format") == "parquet" else f"{HEADER}\n{GOOD}".encode()
    write(tmp_path / "landing" / "good.csv", good)
    lakehouse = opened(settings)
    with pytest.raises(Refused, match=told) as refused:
        take_in(settings, lakehouse)
    assert "bad.csv" in str(refused.value)
    assert (len(lakehouse.rows(DELIVERIES)), len(lakehouse.rows(BRONZE_SALES_ORDERS))) == (0, 0)


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def workbook(*rows: tuple[Any, ...]) -> bytes:
    stream = io.BytesIO()
    with xlsxwriter.Workbook(stream, {"default_date_format": "dd.mm.yyyy"}) as book:
        sheet = book.add_worksheet("Orders")
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)
    return stream.getvalue()


ESCAPED = r'O1,P1,K1,"No\"rth",2022-01-05,3,2.50'
TITLES = tuple(HEADER.split(","))
CELLS = ("O1", "P1", "K1", "North", datetime(2022, 1, 5), 3, 2.5)
NESTED = {
    "orders": [
        {
            "Order": "O1",
            "Customer": "K1",
            "Region": "North",
            "Date": "2022-01-05",
            "lines": [{"Part": "P1", "Qty": 3, "Price": 2.5}],
        }
    ]
}

TAKEN: dict[str, tuple[bytes, dict[str, Any]]] = {
    "byte-order mark": (b"\xef\xbb\xbf" + f"{HEADER}\n{GOOD}".encode(), {}),
    "Windows line ends": (f"{HEADER}\r\n{GOOD}\r\n".encode(), {}),
    "latin-1": (
        f"{HEADER}\n{GOOD.replace('North', 'Köln')}".encode("latin-1"),
        {"csv": {"encoding": "latin-1"}},
    ),
    "utf-16": (f"{HEADER}\n{GOOD}\n".encode("utf-16"), {"csv": {"encoding": "utf-16"}}),
    "extra columns": (f"{HEADER},Note,Größe (mm)\n{GOOD},hello,3".encode(), {}),
    "columns in another order": (
        b"Price,Qty,Date,Region,Customer,Part,Order\n2.50,3,2022-01-05,North,K1,P1,O1",
        {},
    ),
    "column names with spaces and in another script": (
        "Заказ,Item No,Customer,Region,Date,Qty,Price\n".encode() + GOOD.encode(),
        {"columns": {**SOURCE["columns"], "order_id": "Заказ", "part_number": "Item No"}},  # type: ignore[dict-item]
    ),
    "Parquet": (WHOLE, {"format": "parquet"}),
    "lines above the header": (f"Orders\nof 2022, all\n\n{HEADER}\n{GOOD}\n".encode(), {}),
    "a delimiter told by the file": (
        f"sep=;\r\n{HEADER}\r\n{GOOD}\r\n".replace(",", ";").encode(),
        {},
    ),
    "a header by its line": (
        f"{HEADER} of last year\n{HEADER}\n{GOOD}\n".encode(),
        {"csv": {"header_line": 2}},
    ),
    "lines to skip": (
        f"{HEADER}\nPage 1\n{GOOD}\nTotal,,,,,3,\n".encode(),
        {"csv": {"skip": ["^Page", "^Total"]}},
    ),
    "comments": (f"# by the shop\n{HEADER}\n#{GOOD}\n{GOOD}\n".encode(), {"csv": {"comment": "#"}}),
    "an escape sign": (
        f"{HEADER}\n{ESCAPED}\n".encode(),
        {"csv": {"escape": "\\"}},
    ),
    "gzip": (gzip.compress(f"{HEADER}\n{GOOD}".encode()), {}),
    "zstd": (zstandard.compress(f"{HEADER}\n{GOOD}".encode()), {}),
    "zip": (zipped(**{"orders.csv": f"{HEADER}\n{GOOD}".encode()}), {}),
    "workbook": (workbook(TITLES, CELLS), {"format": "excel"}),
    "workbook with a title and a gap": (
        workbook(("Orders",), (), TITLES, (), CELLS),
        {"format": "excel", "date_formats": ["dd/MM/yyyy"]},
    ),
    "workbook with dates as text": (
        workbook(TITLES, (*CELLS[:4], "05/01/2022", "3", "2.5")),
        {"format": "excel", "date_formats": ["dd/MM/yyyy"]},
    ),
    "nested JSON": (
        json.dumps(NESTED).encode(),
        {"format": "json", "json": {"path": "orders[].lines[]"}},
    ),
    "an array of objects": (
        json.dumps([dict(zip(TITLES, GOOD.split(","), strict=True))]).encode(),
        {"format": "json"},
    ),
    "JSON lines of orders": (
        json.dumps(NESTED["orders"][0]).encode(),
        {"format": "jsonl", "json": {"path": "lines[]"}},
    ),
    "Parquet of another system": (
        parquet(
            Order=pa.array(["O1"]).dictionary_encode(),
            Part=["P1"],
            Customer=pa.array([Decimal(1)], pa.decimal128(38, 10)),
            Region=["N"],
            Date=pa.array([datetime(2022, 1, 5)], pa.timestamp("ns")),
            Qty=pa.array([Decimal(3)], pa.decimal128(18, 4)),
            Price=pa.array([2.5], pa.float32()),
        ),
        {"format": "parquet"},
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_file_that_is_only_unusual_is_taken_in(
    opened: Callable[[Settings], DeltaLakehouse], tmp_path: Path, name: str
) -> None:
    """One line is delivered, accepted, and has its part and quantity."""
    content, source = TAKEN[name]
    settings = configured(tmp_path, **source)
    write(tmp_path / "landing" / "odd.csv", content)
    lakehouse = opened(settings)
    (delivery,) = take_in(settings, lakehouse)
    lines = transforms.canonical_lines(lakehouse.read(BRONZE_SALES_ORDERS), settings.sources[0])
    (line,) = transforms.disposed_lines(
        lines, {delivery["delivery_id"]: 1}, {}, settings.sources
    ).collect()
    assert (line["disposition"], line["part_number"], float(line["quantity"])) == (
        "accepted",
        "P1",
        3.0,
    )


def test_a_folder_for_a_file_and_no_file_at_all_are_refused(
    opened: Callable[[Settings], DeltaLakehouse], tmp_path: Path
) -> None:
    """A folder that the pattern matches is no file of it, and a source that never had one is named
    with where it looks.
    """
    settings = configured(tmp_path)
    (tmp_path / "landing" / "folder.csv").mkdir(parents=True)
    lakehouse = opened(settings)
    landing = tmp_path / "landing"
    with pytest.raises(
        NoFiles,
        match=re.escape(
            f"source shop: {landing}/*.csv finds no file, and none was ever taken in: no file below"
        ),
    ):
        take_in(settings, lakehouse)
    assert lakehouse.version(DELIVERIES) == -1


def test_a_header_without_lines_delivers_nothing(
    opened: Callable[[Settings], DeltaLakehouse], tmp_path: Path
) -> None:
    """The file is on record as one that held no line."""
    settings = configured(tmp_path)
    write(tmp_path / "landing" / "header.csv", f"{HEADER}\n".encode())
    lakehouse = opened(settings)
    (delivery,) = take_in(settings, lakehouse)
    assert (delivery["line_count"], len(lakehouse.rows(BRONZE_SALES_ORDERS))) == (0, 0)


def test_a_month_without_a_line_is_a_month_all_the_same(
    opened: Callable[[Settings], DeltaLakehouse], tmp_path: Path
) -> None:
    """Two files with an empty month between them: it is stored as empty and asked for again without
    harm.
    """
    settings = configured(tmp_path)
    write(
        tmp_path / "landing" / "a.csv",
        f"{HEADER}\n{GOOD}\n{GOOD.replace('2022-01', '2024-02')}".encode(),
    )
    lakehouse = opened(settings)
    take_in(settings, lakehouse)
    stored = {
        month: s.row_count
        for month, s in lakehouse.ledger.slices(BRONZE_SALES_ORDERS).items()
        if month
    }
    assert stored == {202201: 1, 202202: 0, 202402: 1}
    version = lakehouse.version(BRONZE_SALES_ORDERS)
    take_in(settings, lakehouse)
    assert lakehouse.version(BRONZE_SALES_ORDERS) == version


@pytest.mark.real
def test_very_many_lines_of_one_part_are_all_there(
    opened: Callable[[Settings], DeltaLakehouse], tmp_path: Path
) -> None:
    """One part that has everything is no special case; MANY_LINES says how many, a million with the
    tests on real data.
    """
    count = int(os.environ.get("MANY_LINES", "100000"))
    settings = configured(tmp_path)
    many = "\n".join(
        f"O{i},P1,K{i % 997},North,2022-01-{i % 28 + 1:02},1,2.50" for i in range(count)
    )
    write(tmp_path / "landing" / "many.csv", f"{HEADER}\n{many}".encode())
    lakehouse = opened(settings)
    (delivery,) = take_in(settings, lakehouse)
    assert delivery["line_count"] == count
    lines = transforms.canonical_lines(lakehouse.read(BRONZE_SALES_ORDERS), settings.sources[0])
    sales = transforms.sales_orders(
        transforms.disposed_lines(lines, {delivery["delivery_id"]: 1}, {}, settings.sources)
    )
    assert sales.selectExpr("sum(quantity)").collect()[0][0] == count
