"""Formats of order files: columns, lines and line numbers of each, and what can't be read."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter
import zstandard

from resources import formats
from resources.formats import UnreadableFile, delimited, reading_errors, table, valid_names
from resources.formats.arrow import arrow_text
from resources.formats.workbook import cell_text
from resources.settings import REQUIRED_COLUMNS, ConfigurationError, Source, parse_settings

# Every canonical column that a source has to name is the column Order, so that files may be small.
ORDER = dict.fromkeys(REQUIRED_COLUMNS, "Order")
FULL = {
    "order_id": "Order",
    "part_number": "Part",
    "order_date": "Date",
    "quantity": "Qty",
    "unit_price": "Price",
}
HEADER = "Order;Part;Date;Qty;Price"
LINE = "O1;P1;2024-01-05;2;1,50"

Line = tuple[int, str | None, dict[str, str | None]]


def source(**others: Any) -> Source:
    return Source.model_validate({"name": "shop", "files": "*", "columns": ORDER} | others)


def written(tmp_path: Path, content: str | bytes, name: str = "orders.csv") -> str:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def read(path: str, **others: Any) -> list[Line]:
    """Line number, problem and values of every line."""
    found: list[Line] = []
    for numbers, problems, _, values in formats.lines(path, source(**others)):
        columns = {
            name: column.to_pylist() if isinstance(column, pa.Array) else column
            for name, column in values.items()
        }
        found += [
            (n, problems[i], {name: column[i] for name, column in columns.items()})
            for i, n in enumerate(numbers)
        ]
    return found


def orders(path: str, **others: Any) -> list[tuple[int, str | None]]:
    """Line number and order number of every line."""
    return [(number, values["Order"]) for number, _, values in read(path, **others)]


@pytest.mark.parametrize(
    ("spelled", "valid"),
    [
        (["Customer ID", "Price (£)", " Qty "], ["Customer_ID", "Price_£", "Qty"]),
        (["Qty", "qty", "QTY"], ["Qty", "qty_2", "QTY_3"]),
        (["", "a,b", ""], ["column_1", "a_b", "column_3"]),
        (["_source", "yyyymm", "YYYYMM"], ["x_source", "x_yyyymm", "x_YYYYMM_2"]),
        (["\ufeffOrder", "a`b.c"], ["Order", "a_b_c"]),
    ],
)
def test_names_become_valid_for_delta(spelled: Sequence[str], valid: list[str]) -> None:
    """Every column gets one name of its own, and none of the lakehouse's own."""
    assert valid_names(spelled) == valid
    assert valid_names(valid) == valid


# --- CSV ------------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    """The header is read without the mark, and lines are numbered as an editor shows them."""
    path = written(tmp_path, "\ufeffOrder,Part\nO1,P1\n\nO2,P2\n")
    assert formats.columns(path, source()).names == ("Order", "Part")
    assert read(path) == [
        (2, None, {"Order": "O1", "Part": "P1"}),
        (4, None, {"Order": "O2", "Part": "P2"}),
    ]


def test_another_delimiter_and_encoding(tmp_path: Path) -> None:
    """Semicolons and Latin-1 come from the dialect; text is taken as it stands, blanks and all."""
    path = written(tmp_path, "Order;Größe\nO1; 1,5 \nO2;Stück\n".encode("latin-1"))
    assert read(path, csv={"delimiter": ";", "encoding": "latin-1"}) == [
        (2, None, {"Order": "O1", "Größe": " 1,5 "}),
        (3, None, {"Order": "O2", "Größe": "Stück"}),
    ]


def test_a_quoted_field_may_span_lines(tmp_path: Path) -> None:
    """A line is numbered by where it begins."""
    path = written(tmp_path, 'Order,Text\nO1,"two\nlines"\nO2,x\n')
    assert orders(path) == [(2, "O1"), (4, "O2")]


def test_a_broken_quote_is_named_with_its_line(tmp_path: Path) -> None:
    """A quote that never closes would swallow the rest of the file: the whole file is refused."""
    path = written(tmp_path, 'Order,Text\nO1,x\nO2,"never closed\nO3,x\n')
    with pytest.raises(
        UnreadableFile, match=r"orders\.csv: line 3: .* a quote is opened there and not closed"
    ):
        read(path)


def test_a_wrong_number_of_fields_is_a_problem_of_the_line(tmp_path: Path) -> None:
    """The line keeps its text and has no values; its neighbours are read."""
    path = written(tmp_path, "Order,Part\nO1,P1,extra\nO2\nO3,P3\n")
    ((numbers, problems, raws, values),) = formats.lines(path, source())
    assert (numbers, raws) == ([2, 3, 4], ["O1,P1,extra", "O2", None])
    assert problems == [
        "unreadable: 3 fields where the header has 2",
        "unreadable: 1 fields where the header has 2",
        None,
    ]
    assert values == {"Order": [None, None, "O3"], "Part": [None, None, "P3"]}


def test_bytes_that_are_no_text_are_a_problem_of_the_line(tmp_path: Path) -> None:
    """The bytes stay readable in the line's text."""
    path = written(tmp_path, b"Order,Part\nO1,P\xff1\nO2,P2\n")
    ((_, problems, raws, values),) = formats.lines(path, source())
    assert problems == ["unreadable: not utf-8 text", None]
    assert raws == ["O1,P\\udcff1", None]
    assert values["Part"] == [None, "P2"]


@pytest.mark.parametrize(
    ("above", "dialect", "line"),
    [
        ("", {"delimiter": ";"}, 1),
        ("sep=;\r\n", {}, 2),
        ('\ufeff"sep=;"\n', {}, 2),
        ("sep=;\nItem sales\nPeriod 01.01.2024;printed 02.04.2024\n\n", {"delimiter": ";"}, 5),
        ('Report "sales"\n"an open quote\nOrder;Part\n', {"delimiter": ";"}, 4),
        ("# by the ERP\n\n", {"delimiter": ";", "comment": "#"}, 3),
        (f"{HEADER}\n", {"delimiter": ";", "header_line": 2}, 2),
        (f"old {HEADER}\n{HEADER}\n", {"delimiter": ";", "skip": ["^Order;Part"]}, 0),
        ("Order list of the shop;;;;\n;;;;\n", {"delimiter": ";"}, 3),
    ],
)
def test_the_header_is_found_by_the_mapped_columns(
    tmp_path: Path, above: str, dialect: dict[str, Any], line: int
) -> None:
    """Whatever stands above it is no line; skipped lines are no header either."""
    path = written(tmp_path, f"{above}{HEADER}\n{LINE}\n")
    if not line:
        with pytest.raises(UnreadableFile, match="line 1, which comes closest to a header"):
            read(path, columns=FULL, csv=dialect)
        return
    assert read(path, columns=FULL, csv=dialect) == [
        (line + 1, None, dict(zip(HEADER.split(";"), LINE.split(";"), strict=True)))
    ]


def test_what_stands_above_the_header_is_told(tmp_path: Path) -> None:
    """Nobody has to guess where a table was found."""
    path = written(tmp_path, f"Title\n\n{HEADER}\n{LINE}\n")
    found = formats.columns(path, source(columns=FULL, csv={"delimiter": ";"}))
    assert found.place == "the header is line 3; lines 1 to 2 above it count for nothing"


def test_a_header_that_is_not_found_is_refused_with_the_first_lines(tmp_path: Path) -> None:
    """The message says what was looked for, what is there, and the key that helps."""
    path = written(tmp_path, "Item sales\n\nNumber;Article\nO1;P1\n")
    with pytest.raises(UnreadableFile) as refused:
        formats.columns(path, source(columns=FULL, csv={"delimiter": ";"}))
    told = str(refused.value)
    assert "no line within the first 50 has a column of the mapping of source shop" in told
    assert "(Order, Part, Date, Qty, Price)" in told
    assert "1: Item sales; 3: Number;Article; 4: O1;P1." in told
    assert "set sources.shop.csv.header_line to its number" in told


def test_a_header_that_lacks_a_column_is_told_with_its_line(tmp_path: Path) -> None:
    """The closest line is named with what it has, and by which key another is."""
    path = written(tmp_path, "Title\nOrder;Part;Date;Amount;Price\n")
    with pytest.raises(UnreadableFile) as refused:
        formats.columns(path, source(columns=FULL, csv={"delimiter": ";"}))
    told = str(refused.value)
    assert "no column Qty (sources.shop.columns.quantity); line 2" in told
    assert "has: Order, Part, Date, Amount, Price" in told
    assert "sources.shop.csv.header_line" in told


@pytest.mark.parametrize(
    ("text", "dialect", "wanted"),
    [
        ("Order\nO1\nTotal 1\nO2\n", {"skip": ["^Total"]}, [(2, "O1"), (4, "O2")]),
        ("Order\nO1\n#O2\nO3\n#\n", {"comment": "#"}, [(2, "O1"), (4, "O3")]),
        ('Order\n"a\n#b"\nO2\n', {"comment": "#"}, [(2, "a\n#b"), (4, "O2")]),
        ('Order\n"a\\"b"\nO2\n', {"escape": "\\"}, [(2, 'a"b'), (3, "O2")]),
        ("Order,Part\na\\,b,P1\n\\N,P2\n", {"escape": "\\"}, [(2, "a,b"), (3, "")]),
        ("Order,Part\nO1,\\N\n", {"escape": "\\"}, [(2, "O1")]),
        ("Order\nO1\nOrder\nO2\n", {}, [(2, "O1"), (3, "Order"), (4, "O2")]),
        ('Order\r\n"a\r\nb"\r\n\r\nO2\r\n', {}, [(2, "a\r\nb"), (5, "O2")]),
        ("Order\rO1\rO2\r", {}, [(2, "O1"), (3, "O2")]),
        (
            "Order\nO1\nPage 1 of 2\nO2\nPage 2 of 2",
            {"skip": [r"^Page \d"]},
            [(2, "O1"), (4, "O2")],
        ),
    ],
)
def test_lines_are_read_as_the_dialect_says(
    tmp_path: Path, text: str, dialect: dict[str, Any], wanted: list[tuple[int, str]]
) -> None:
    """Comments and skipped lines keep the numbers of the others right; a repeated header is a
    line.
    """
    assert orders(written(tmp_path, text), csv=dialect) == wanted


def test_a_header_line_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A number beyond the file, or of a blank line, is a mistake of the configuration."""
    path = written(tmp_path, "Order\n\nO1\n")
    for line in (2, 9):
        with pytest.raises(UnreadableFile, match=f"line {line}, the header by sources.shop.csv"):
            formats.columns(path, source(csv={"header_line": line}))


def test_long_files_come_in_batches_with_rising_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is lost or numbered twice where one batch ends."""
    monkeypatch.setattr(table, "BATCH_LINES", 2)
    path = written(tmp_path, "Order\n" + "".join(f"O{n}\n" for n in range(5)))
    assert [number for number, _ in orders(path)] == [2, 3, 4, 5, 6]
    path = written(tmp_path, "".join(f'{{"Order": {n}}}\n' for n in range(5)), "orders.jsonl")
    assert [number for number, _ in orders(path, format="jsonl")] == [1, 2, 3, 4, 5]
    path = written(tmp_path, json.dumps([{"Order": n} for n in range(5)]), "orders.json")
    assert [number for number, _ in orders(path, format="json")] == [1, 2, 3, 4, 5]


def test_no_more_is_read_than_was_delivered(tmp_path: Path) -> None:
    """Bytes that came after a file was looked at belong to its next delivery."""
    path = written(tmp_path, "Order\nO1\nO2\n")
    (batch,) = formats.lines(path, source(), len("Order\nO1\n"))
    assert batch[0] == [2]


@pytest.mark.parametrize(
    ("content", "others", "told"),
    [
        (b"", {}, "line 1 has no column names; the file is empty or not a CSV"),
        (b"\n\n", {}, "line 1 has no column names"),
        (b"", {"format": "jsonl"}, "no line holds a JSON object; check the format of source shop"),
        (b"", {"format": "parquet"}, "not a readable Parquet file"),
        (b"Order,Part\n", {"format": "parquet"}, "not a readable Parquet file"),
        (b"Order,Part\n", {"format": "excel"}, "not a readable workbook"),
        (b"Order,Part\n", {"format": "json"}, "line 1: Expecting value; the file is no JSON text"),
        (b'{"Order": 1}\n{"Order": 2}\n', {"format": "json"}, "one object a line is format: jsonl"),
        (
            b"\x00\x01O",
            {"csv": {"encoding": "utf-16"}},
            "line 1: .* check encoding, delimiter and quote sign of source shop",
        ),
    ],
)
def test_a_file_without_lines_to_take_in_is_refused(
    tmp_path: Path, content: bytes, others: dict[str, Any], told: str
) -> None:
    """The error names the file and what to look at."""
    path = written(tmp_path, content)
    with pytest.raises(UnreadableFile, match=told) as refused:
        formats.columns(path, source(**others))
    assert str(refused.value).startswith(path)


def test_a_header_that_is_one_endless_field_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quote that opens in the header swallows no file."""
    monkeypatch.setattr(delimited, "FIELD_LIMIT", 20)
    path = written(tmp_path, '"Order,Part\nO1,P1\nO2,P2\nO3,P3\n')
    with pytest.raises(UnreadableFile, match='Its first lines are: 1: "Order,Part'):
        formats.columns(path, source())


# --- what is compressed ---------------------------------------------------------------------------

CSV = b"Order,Part\nO1,P1\nO2,P2\n"


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def named_by_text(value: object) -> str:
    """Names of cases without bytes: those of an archive tell the time at which it was made."""
    return value if isinstance(value, str) else ""


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content", "others", "wanted"),
    [
        ("a.csv.gz", gzip.compress(CSV), {}, [(2, "O1"), (3, "O2")]),
        ("a.csv.zst", zstandard.compress(CSV), {}, [(2, "O1"), (3, "O2")]),
        ("a.zip", zipped(**{"export.txt": CSV}), {}, [(2, "O1"), (3, "O2")]),
        ("a.zip", zipped(export=CSV), {}, [(2, "O1"), (3, "O2")]),
        # Members one below the other: the second begins where the first ends.
        (
            "a.zip",
            zipped(**{"2024-02.csv": b"Order\nO3\n", "2024-01.csv": CSV, "__MACOSX/._a.csv": b""}),
            {},
            [(2, "O1"), (3, "O2"), (5, "O3")],
        ),
        # What a file is says its content, not its name.
        ("a.csv", gzip.compress(CSV), {}, [(2, "O1"), (3, "O2")]),
        (
            "two.zst",
            zstandard.compress(CSV) + zstandard.compress(b"O3,P3\n"),
            {},
            [(2, "O1"), (3, "O2"), (4, "O3")],
        ),
        (
            "two.gz",
            gzip.compress(CSV) + gzip.compress(b"O3,P3\n"),
            {},
            [(2, "O1"), (3, "O2"), (4, "O3")],
        ),
        ("a.jsonl.gz", gzip.compress(b'{"Order": "O1"}\n'), {"format": "jsonl"}, [(1, "O1")]),
        ("a.json.zst", zstandard.compress(b'[{"Order": "O1"}]'), {"format": "json"}, [(1, "O1")]),
        ("a.parquet.gz", gzip.compress(parquet(Order=["O1"])), {"format": "parquet"}, [(1, "O1")]),
        (
            "a.zip",
            zipped(**{"a.parquet": parquet(Order=["O1"]), "b.parquet": parquet(Order=["O2"])}),
            {"format": "parquet"},
            [(1, "O1"), (2, "O2")],
        ),
    ],
    ids=named_by_text,
)
def test_compressed_files_are_read(
    tmp_path: Path, name: str, content: bytes, others: dict[str, Any], wanted: list[Any]
) -> None:
    """The same lines and numbers as unpacked."""
    assert orders(written(tmp_path, content, name), **others) == wanted


def columns_and_lines(path: str) -> None:
    formats.columns(path, source())
    list(formats.lines(path, source()))


MANY = b"Order\n" + b"".join(f"O{n * 7919 % 100_003}\n".encode() for n in range(200_000))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("many.csv.zst", zstandard.compress(MANY)[:-5], "ends before its end marker"),
        ("many.csv.gz", gzip.compress(MANY)[:-9], "ended before the end-of-stream"),
        ("a.csv.gz", gzip.compress(CSV * 100)[:60], "can't be read"),
        ("a.csv.gz", CSV, "its name ends in .gz, but it is no such archive"),
        ("a.csv.gz", b"", "its name ends in .gz, but it is no such archive"),
        ("a.csv.zst", zstandard.compress(CSV * 100)[:-8], "ends before its end marker"),
        ("a.zip", zipped(**{"a.csv": CSV})[:40], "can't be read"),
        ("a.zip", zipped(), "the archive holds no file"),
        ("a.zip", zipped(**{"a.csv": CSV, "readme.pdf": b""}), "holds a.csv, readme.pdf; one file"),
        ("a.zip", zipped(**{"a.csv": CSV, "b.csv": b"Part\nP1\n"}), "b.csv: .*no line|no column"),
        ("a.zip", zipped(**{"a.csv": CSV, "inner.zip": zipped(a=CSV)}), "holds a.csv, inner.zip"),
    ],
    ids=named_by_text,
)
def test_a_broken_or_unclear_archive_is_refused(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    """The message names the file and what to do; nothing of it is read silently."""
    path = written(tmp_path, content, name)
    with pytest.raises(UnreadableFile, match=told) as refused:
        columns_and_lines(path)
    assert str(refused.value).startswith(path)


# --- JSON -----------------------------------------------------------------------------------------


def test_json_lines_with_a_bad_one(tmp_path: Path) -> None:
    """Values become text as written, numbers with their digits; what is no object is a problem of
    its line.
    """
    good = {"Order": "O1", "Qty": 2, "Open": True, "Tags": ["a"], "Part": None}
    text = json.dumps(good) + '\n{"Order": \n\n["no object"]\n{"Order": "O2", "Price": 1.50}\n'
    found = read(written(tmp_path, text), format="jsonl")
    nothing = {"Order": None, "Qty": None, "Open": None, "Tags": None, "Part": None, "Price": None}
    assert found[0] == (
        1,
        None,
        nothing | {"Order": "O1", "Qty": "2", "Open": "true", "Tags": '["a"]'},
    )
    assert found[1][0] == 2
    assert str(found[1][1]).startswith("unreadable: Expecting value")
    assert found[2] == (4, "unreadable: not a JSON object", nothing)
    assert found[3] == (5, None, nothing | {"Order": "O2", "Price": "1.50"})


def test_json_text_that_cannot_be_stored_is_a_problem_of_the_line(tmp_path: Path) -> None:
    """Broken bytes and half a character would stop the whole file where they met the table."""
    lines = b'{"Part": "P\xff"}\n{"Part": "P\\ud800"}\n{"Part": "P\\u00e9"}\n'
    found = read(written(tmp_path, lines), format="jsonl")
    assert [str(problem).split(":")[0] for _, problem, _ in found] == [
        "unreadable",
        "unreadable",
        "None",
    ]
    assert found[2][2] == {"Part": "Pé"}
    array = b'[{"Part": "P\xff"}, {"Part": "P\\ud800"}, {"Part": "P\\u00e9"}]'
    found = read(written(tmp_path, array), format="json")
    assert [problem for _, problem, _ in found] == [
        "unreadable: not utf-8 text",
        "unreadable: not utf-8 text",
        None,
    ]


def test_json_columns_are_listed_as_spelled(tmp_path: Path) -> None:
    """All lines count, not only the first."""
    path = written(tmp_path, '{"Order No": 1}\n{"Unit Price": 2}\n', "orders.jsonl")
    assert formats.columns(path, source(format="jsonl")).names == ("Order No", "Unit Price")


def test_alike_json_names_keep_their_column_in_later_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names that become one are told apart in the same way in every batch of a file."""
    monkeypatch.setattr(table, "BATCH_LINES", 1)
    path = written(tmp_path, '{"a b": "1", "a_b": "2"}\n{"a_b": "3"}\n', "orders.jsonl")
    assert [row.get("a_b_2") for _, _, row in read(path, format="jsonl")] == ["2", "3"]


ORDERS = {
    "exported": "2024-02-01",
    "data": {
        "orders": [
            {
                "number": "A-1",
                "created": "2024-01-05",
                "customer": {"name": "Kö"},
                "lines": [{"sku": "P1", "qty": 2, "price": 1.10}, {"sku": "P2", "qty": 1}],
            },
            {"number": "A-2", "created": "2024-01-06", "lines": []},
            {"number": "A-3", "created": "2024-01-07", "lines": [{"sku": "P1", "qty": 10}]},
        ]
    },
}


def nested(tmp_path: Path, content: Any, path: str, **others: Any) -> list[Line]:
    return read(
        written(tmp_path, json.dumps(content), "orders.json"),
        format="json",
        json={"path": path},
        **others,
    )


def test_a_path_leads_to_order_lines_with_the_fields_around_them(tmp_path: Path) -> None:
    """One row a line, numbered in order; an order without lines has none; objects are told apart by
    dots.
    """
    found = nested(tmp_path, ORDERS, "data.orders[].lines[]")
    assert [(number, row["number"], row["sku"], row["qty"]) for number, _, row in found] == [
        (1, "A-1", "P1", "2"),
        (2, "A-1", "P2", "1"),
        (3, "A-3", "P1", "10"),
    ]
    assert found[0][2]["customer_name"] == "Kö"
    assert [row["price"] for _, _, row in found] == ["1.1", None, None]
    assert found[0][2]["exported"] == "2024-02-01"


@pytest.mark.parametrize(
    ("content", "path", "names"),
    [
        ([{"id": 1, "lines": [{"id": 7}]}], "[].lines[]", ("id", "root.id")),
        ({"o": [{"id": 1, "l": [{"id": 7, "n": 1}]}]}, "o[].l[]", ("id", "n", "o.id")),
        ({"o": {"id": 1, "l": [{"n": 1}]}}, "o.l[]", ("n", "id")),
        ([{"a": {"b": 1, "c": {"d": 2}}, "e": []}], "", ("a.b", "a.c.d", "e")),
        ([{"id": 1}, {"id": 2, "x": 1}], "[]", ("id", "x")),
    ],
)
def test_fields_of_two_levels_have_two_names(
    tmp_path: Path, content: Any, path: str, names: tuple[str, ...]
) -> None:
    """The outer of two equal names is called by its level."""
    file = written(tmp_path, json.dumps(content), "orders.json")
    assert formats.columns(file, source(format="json", json={"path": path})).names == names


def test_a_mapping_may_name_the_level(tmp_path: Path) -> None:
    """Where a field is at two levels, its bare name in the mapping is refused, not guessed."""
    content = {"orders": [{"Order": "A", "lines": [{"Order": 1}]}]}
    with pytest.raises(UnreadableFile, match=r"write orders\.Order or lines\.Order in the mapping"):
        nested(tmp_path, content, "orders[].lines[]")
    mapped = dict.fromkeys(REQUIRED_COLUMNS, "orders.Order") | {"quantity": "lines.Order"}
    ((_, _, row),) = nested(tmp_path, content, "orders[].lines[]", columns=mapped)
    assert row == {"lines_Order": "1", "orders_Order": "A"}


@pytest.mark.parametrize(
    ("content", "path", "told"),
    [
        (
            ORDERS,
            "",
            r"set sources\.shop\.json\.path to one of: data.orders\[\], data.orders\[\].l",
        ),
        ({"a": 1}, "", "it holds no array of objects"),
        (ORDERS, "data.positions[]", "nothing lies at data.positions"),
        ([], "", r"nothing lies at \[\]"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(
    tmp_path: Path, content: Any, path: str, told: str
) -> None:
    """Without a path the arrays that are there are named."""
    if told.startswith("nothing") and "positions" in told:
        content = {"data": {}}
    with pytest.raises(UnreadableFile, match=told):
        formats.columns(
            written(tmp_path, json.dumps(content), "orders.json"),
            source(format="json", json={"path": path}),
        )


def test_what_is_no_order_line_is_set_aside(tmp_path: Path) -> None:
    """An object where an array should be, or text where an object should be, is a problem of its
    row.
    """
    content = {"o": [{"n": 1, "l": {"sku": "P1"}}, {"n": 2, "l": ["P2", {"sku": "P3"}]}]}
    found = nested(tmp_path, content, "o[].l[]")
    assert [problem for _, problem, _ in found] == [
        "unreadable: an object or value where the path says []",
        "unreadable: not a JSON object",
        None,
    ]
    assert found[2] == (3, None, {"sku": "P3", "n": "2"})


def test_json_lines_may_hold_orders_with_their_lines(tmp_path: Path) -> None:
    """A path leads into the object of each line."""
    text = "\n".join(json.dumps(order) for order in ORDERS["data"]["orders"])  # type: ignore[index]
    path = written(tmp_path, text, "orders.jsonl")
    found = read(path, format="jsonl", json={"path": "lines[]"})
    assert [(row["number"], row["sku"]) for _, _, row in found] == [
        ("A-1", "P1"),
        ("A-1", "P2"),
        ("A-3", "P1"),
    ]


# --- Parquet --------------------------------------------------------------------------------------


def test_parquet_columns_become_text(tmp_path: Path) -> None:
    """Whole numbers have no fraction, times no empty microseconds, bytes are text, nothing stays
    nothing.
    """
    table = pa.table(
        {
            "Customer ID": pa.array([12346.0, None]),
            "Price": pa.array([Decimal("2.50"), None], pa.decimal128(8, 2)),
            "Date": pa.array([datetime(2022, 1, 5, 8, 26), datetime(2022, 1, 5, 8, 26, 1, 120000)]),
            "Day": pa.array([date(2022, 1, 5), None]),
            "Part": pa.array(["P1", "P2"]).dictionary_encode(),
            "Bytes": pa.array([b"P\xc3\xa9", None]),
        }
    )
    pq.write_table(table, tmp_path / "orders.parquet")
    assert read(str(tmp_path / "orders.parquet"), format="parquet") == [
        (
            1,
            None,
            {
                "Customer_ID": "12346",
                "Price": "2.50",
                "Date": "2022-01-05 08:26:00",
                "Day": "2022-01-05",
                "Part": "P1",
                "Bytes": "Pé",
            },
        ),
        (
            2,
            None,
            {
                "Customer_ID": None,
                "Price": None,
                "Date": "2022-01-05 08:26:01.12",
                "Day": None,
                "Part": "P2",
                "Bytes": None,
            },
        ),
    ]


MINUS_5 = timezone(timedelta(hours=-5))
AT = datetime(2024, 1, 31, 22, 15, tzinfo=MINUS_5)


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([Decimal(10023), None], pa.decimal128(38, 10)), ["10023", None]),
        (pa.array([Decimal("0.5"), Decimal(-3)], pa.decimal128(10, 4)), ["0.5000", "-3"]),
        (pa.array([Decimal(100)], pa.decimal128(5, -2)), ["100"]),
        (pa.array([Decimal("0.00000001")], pa.decimal128(20, 10)), ["0.0000000100"]),
        (pa.array([Decimal("1e30")], pa.decimal256(60, 5)), ["1" + "0" * 30]),
        (
            pa.array([4006381333931.0, 1e10, 0.5, None]),
            ["4006381333931", "10000000000", "0.5", None],
        ),
        (pa.array([0.00001, 3.0]), ["0.00001", "3"]),
        (pa.array([3.1, 2.5], pa.float32()), ["3.1", "2.5"]),
        (pa.array([1, None], pa.uint64()), ["1", None]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([10023, 10023], pa.int64()).dictionary_encode(), ["10023", "10023"]),
        (pa.array([date(2024, 1, 31)], pa.date64()), ["2024-01-31"]),
        (pa.array([datetime(2024, 1, 31)], pa.timestamp("s")), ["2024-01-31 00:00:00"]),
        (pa.array([1706739300123456789], pa.timestamp("ns")), ["2024-01-31 22:15:00.123456789"]),
        (pa.array([AT], pa.timestamp("us", "UTC")), ["2024-02-01 03:15:00Z"]),
        (pa.array([AT], pa.timestamp("ms", "America/New_York")), ["2024-01-31 22:15:00-0500"]),
        (pa.array([AT], pa.timestamp("ns", "+09:30")), ["2024-02-01 12:45:00+0930"]),
        (pa.array([time(8, 26)], pa.time64("us")), ["08:26:00.000000"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_each_type_of_a_column_has_one_text(column: pa.Array, texts: list[str | None]) -> None:
    """A number is the same as in a CSV; a time with a zone keeps its offset, one without has
    none.
    """
    assert arrow_text(column).to_pylist() == texts


# --- Excel ----------------------------------------------------------------------------------------


def workbook(path: Path, write: Any) -> str:
    book = xlsxwriter.Workbook(str(path))
    write(book)
    book.close()
    return str(path)


TITLES = ("Order", "Part", "Date", "Qty", "Price")


def test_a_workbook_becomes_text(tmp_path: Path) -> None:
    """Rows have the numbers that a workbook shows, dates one form, numbers no noise; empty rows and
    columns are none.
    """

    def write(book: Any) -> None:
        days, times = (
            book.add_format({"num_format": f}) for f in ("dd/mm/yyyy", "yyyy-mm-dd hh:mm")
        )
        sheet = book.add_worksheet("Orders")
        sheet.write("B2", "Order list 2024")
        sheet.write_row("B4", TITLES)
        sheet.write_row("B5", ["O1", "00123"])
        sheet.write_datetime("D5", datetime(2024, 1, 5), days)
        sheet.write_row("E5", [3, 0.1 + 0.2])
        sheet.write_row("B7", ["O2", 4006381333931])
        sheet.write_datetime("D7", datetime(2024, 1, 31, 22, 15, 30), times)
        sheet.write_row("E7", [-1.5, 1e-7])
        sheet.write_row("B8", ["O3", True, 45322, "text"])

    path = workbook(tmp_path / "orders.xlsx", write)
    found = formats.columns(path, source(format="excel", columns=FULL))
    assert found == (TITLES, "the header is in sheet Orders, row 4")
    rows = [
        (number, list(row.values())) for number, _, row in read(path, format="excel", columns=FULL)
    ]
    assert rows == [
        (5, ["O1", "00123", "2024-01-05", "3", "0.3"]),
        (7, ["O2", "4006381333931", "2024-01-31 22:15:30", "-1.5", "0.0000001"]),
        (8, ["O3", "true", "45322", "text", None]),
    ]


def test_the_sheet_is_the_one_with_the_mapped_columns(tmp_path: Path) -> None:
    """Hidden sheets and others don't disturb; two that fit are a question, answered by a key."""

    def write(book: Any) -> None:
        book.add_worksheet("Notes").write("A1", "Read me")
        for name in ("January", "February"):
            sheet = book.add_worksheet(name)
            sheet.write_row("A1", ["Order"])
            sheet.write_row("A2", [name])
        hidden = book.add_worksheet("Old")
        hidden.write_row("A1", ["Order"])
        hidden.hide()

    path = workbook(tmp_path / "orders.xlsx", write)
    with pytest.raises(UnreadableFile, match=r"2 sheets .*: January, February; set .*excel.sheet"):
        formats.columns(path, source(format="excel"))
    assert orders(path, format="excel", excel={"sheet": "February"}) == [(2, "February")]
    assert orders(path, format="excel", excel={"sheet": 2}) == [(2, "January")]
    with pytest.raises(UnreadableFile, match=r"no sheet March.*has: Notes, January, February, Old"):
        formats.columns(path, source(format="excel", excel={"sheet": "March"}))
    with pytest.raises(UnreadableFile, match="no sheet 9"):
        formats.columns(path, source(format="excel", excel={"sheet": 9}))


def test_a_merged_cell_counts_for_each_of_its_rows_but_a_quantity_for_none(tmp_path: Path) -> None:
    """An order number over its lines is theirs; nobody can say whose one quantity is."""

    def write(book: Any) -> None:
        sheet = book.add_worksheet()
        sheet.write_row("A1", ["Order", "Part", "Qty"])
        sheet.merge_range("A2:A3", "O1")
        sheet.write_column("B2", ["P1", "P2", "P3", "P4", "P5"])
        sheet.write_column("C2", [1, 2])
        sheet.write_column("A4", ["O2", "O2"])
        sheet.merge_range("C4:C5", 9)
        sheet.merge_range("A7:C7", "a title")

    path = workbook(tmp_path / "orders.xlsx", write)
    mapping = ORDER | {"quantity": "Qty", "part_number": "Part"}
    found = read(path, format="excel", columns=mapping)
    assert [
        (number, row["Order"], row["Qty"]) for number, problem, row in found if not problem
    ] == [
        (2, "O1", "1"),
        (3, "O1", "2"),
        (6, None, None),
        (7, "a title", None),
    ]
    assert {number: problem for number, problem, _ in found if problem} == {
        4: "unreadable: one quantity merged over rows 4 to 5",
        5: "unreadable: one quantity merged over rows 4 to 5",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("  x ", "  x "),
        ("", None),
        (3.0, "3"),
        (0.30000000000000004, "0.3"),
        (1e-7, "0.0000001"),
        (123456789012345.0, "123456789012345"),
        (True, "true"),
        (date(2024, 1, 5), "2024-01-05"),
        (datetime(2024, 1, 5, 8, 25, 59, 999997), "2024-01-05 08:26:00"),
        (datetime(2024, 1, 5, 8, 26, 0, 120000), "2024-01-05 08:26:00.12"),
        (time(8, 26), "08:26:00"),
    ],
)
def test_a_cell_has_one_text(value: object, text: str | None) -> None:
    """What a workbook holds as number or date is text in one form."""
    assert cell_text(value) == text


def test_real_dates_of_a_workbook_are_read_whatever_the_formats_of_others() -> None:
    """ISO is added to the formats that a person wrote for the dates that are text."""
    own = source(format="excel", date_formats=["dd/MM/yyyy"]).date_formats
    assert own[0] == "dd/MM/yyyy"
    assert any(written.startswith("yyyy-MM-dd[") for written in own)
    assert source(date_formats=["dd/MM/yyyy"]).date_formats == ("dd/MM/yyyy",)


# --- configuration and errors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"excel": {"sheet": "A"}}, "excel is given, but format is csv"),
        ({"json": {"path": "a[]"}}, "json is given, but format is csv"),
        ({"format": "json", "json": {"path": "a..b"}}, "is no path"),
        ({"format": "json", "json": {"pth": "a"}}, "unknown key; did you mean path"),
        ({"format": "parquet", "csv": {"skip": ["a"]}}, "csv.skip is given, but format is parquet"),
        ({"csv": {"escape": '"'}}, "need different signs"),
        ({"csv": {"header_line": 0}}, "greater than or equal to 1"),
        ({"csv": {"skip": ["("]}}, "is not a regular expression"),
        ({"delivery": {"row_count_files": "count.txt"}}, "names no file beside another"),
        ({"delivery": {"checksum_files": "{name}"}}, "is the file itself"),
        ({"jsn": {}}, "unknown key; did you mean json"),
    ],
)
def test_what_contradicts_itself_is_refused(others: dict[str, Any], told: str) -> None:
    """The message names the key and the contradiction."""
    shop = {"name": "shop", "files": "*", "columns": ORDER} | others
    content = {"lakehouse_root": "x", "first_month": 202401, "sources": [shop]}
    with pytest.raises(ConfigurationError, match=told):
        parse_settings(content, Path("test.yaml"))


def test_what_a_worker_could_not_read_is_told_without_its_stack_trace() -> None:
    """Spark hands an error on as text; other errors pass as they are."""
    trace = (
        'Traceback:\n  File "x.py"\nresources.formats.contents.UnreadableFile: a.csv: line 3:'
        " broken\n\n\tat org.apache.spark"
    )
    with pytest.raises(UnreadableFile, match=r"^a\.csv: line 3: broken$"), reading_errors():
        raise RuntimeError(trace)
    with pytest.raises(RuntimeError, match="something else"), reading_errors():
        raise RuntimeError("something else")
