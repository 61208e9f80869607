"""Order files as delivered: columns, lines and line numbers of each format, and what can't be
read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resources import orders
from resources.orders import LocalOrderFiles, UnreadableFile, reading_errors, valid_names
from resources.settings import CsvDialect, Source

COLUMNS = {
    "order_id": "Order",
    "part_number": "Part",
    "order_date": "Date",
    "quantity": "Qty",
    "unit_price": "Price",
}
COMMA = CsvDialect()


def source(**others: Any) -> Source:
    return Source.model_validate({"name": "shop", "files": "*", "columns": COLUMNS} | others)


def written(tmp_path: Path, content: str | bytes, name: str = "orders.csv") -> str:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def lines(batches: Any) -> list[tuple[int, str | None, dict[str, str | None]]]:
    """Line number, problem and values of every line."""
    found = []
    for numbers, problems, _, values in batches:
        columns = {
            name: column.to_pylist() if isinstance(column, pa.Array) else column
            for name, column in values.items()
        }
        found += [
            (n, problems[i], {name: column[i] for name, column in columns.items()})
            for i, n in enumerate(numbers)
        ]
    return found


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


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    """The header is read without the mark, and lines are numbered as an editor shows them."""
    path = written(tmp_path, "\ufeffOrder,Part\nO1,P1\n\nO2,P2\n")
    assert LocalOrderFiles().describe(source(), path).column_names == ("Order", "Part")
    assert lines(orders._csv_lines(path, COMMA)) == [
        (2, None, {"Order": "O1", "Part": "P1"}),
        (4, None, {"Order": "O2", "Part": "P2"}),
    ]


def test_another_delimiter_and_encoding(tmp_path: Path) -> None:
    """Semicolons and Latin-1 come from the dialect; text is taken as it stands, blanks and all."""
    path = written(tmp_path, "Order;Größe\nO1; 1,5 \nO2;Stück\n".encode("latin-1"))
    dialect = CsvDialect(delimiter=";", encoding="latin-1")
    assert lines(orders._csv_lines(path, dialect)) == [
        (2, None, {"Order": "O1", "Größe": " 1,5 "}),
        (3, None, {"Order": "O2", "Größe": "Stück"}),
    ]


def test_a_quoted_field_may_span_lines(tmp_path: Path) -> None:
    """A line is numbered by where it begins."""
    path = written(tmp_path, 'Order,Text\nO1,"two\nlines"\nO2,x\n')
    assert [
        (number, values["Order"]) for number, _, values in lines(orders._csv_lines(path, COMMA))
    ] == [(2, "O1"), (4, "O2")]


def test_a_broken_quote_is_named_with_its_line(tmp_path: Path) -> None:
    """A quote that never closes would swallow the rest of the file: the whole file is refused."""
    path = written(tmp_path, 'Order,Text\nO1,x\nO2,"never closed\nO3,x\n')
    with pytest.raises(
        UnreadableFile, match=r"orders\.csv: line 3: .* a quote is opened there and not closed"
    ):
        lines(orders._csv_lines(path, COMMA))


def test_a_wrong_number_of_fields_is_a_problem_of_the_line(tmp_path: Path) -> None:
    """The line keeps its text and has no values; its neighbours are read."""
    path = written(tmp_path, "Order,Part\nO1,P1,extra\nO2\nO3,P3\n")
    ((numbers, problems, raws, values),) = orders._csv_lines(path, COMMA)
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
    ((_, problems, raws, values),) = orders._csv_lines(path, COMMA)
    assert problems == ["unreadable: not utf-8 text", None]
    assert raws == ["O1,P\\udcff1", None]
    assert values["Part"] == [None, "P2"]


def test_json_lines_with_a_bad_one(tmp_path: Path) -> None:
    """Values become text as written, numbers with their digits; what is no object is a problem of
    its line.
    """
    good = {"Order": "O1", "Qty": 2, "Open": True, "Tags": ["a"], "Part": None}
    text = json.dumps(good) + '\n{"Order": \n\n["no object"]\n{"Order": "O2", "Price": 1.50}\n'
    read = lines(orders._json_lines(written(tmp_path, text), COMMA))
    nothing = {"Order": None, "Qty": None, "Open": None, "Tags": None, "Part": None, "Price": None}
    assert read[0] == (
        1,
        None,
        nothing | {"Order": "O1", "Qty": "2", "Open": "true", "Tags": '["a"]'},
    )
    assert read[1][0] == 2
    assert str(read[1][1]).startswith("unreadable: Expecting value")
    assert read[2] == (4, "unreadable: not a JSON object", nothing)
    assert read[3] == (5, None, nothing | {"Order": "O2", "Price": "1.50"})


def test_json_text_that_cannot_be_stored_is_a_problem_of_the_line(tmp_path: Path) -> None:
    """Broken bytes and half a character would stop the whole file where they met the table."""
    read = lines(
        orders._json_lines(
            written(tmp_path, b'{"Part": "P\xff"}\n{"Part": "P\\ud800"}\n{"Part": "P\\u00e9"}\n'),
            COMMA,
        )
    )
    assert [str(problem).split(":")[0] for _, problem, _ in read] == [
        "unreadable",
        "unreadable",
        "None",
    ]
    assert read[2][2] == {"Part": "Pé"}


def test_json_columns_are_listed_as_spelled(tmp_path: Path) -> None:
    """All lines count, not only the first."""
    path = written(tmp_path, '{"Order No": 1}\n{"Unit Price": 2}\n', "orders.jsonl")
    assert LocalOrderFiles().describe(source(format="jsonl"), path).column_names == (
        "Order No",
        "Unit Price",
    )


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
    assert lines(orders._parquet_lines(str(tmp_path / "orders.parquet"), COMMA)) == [
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
                "Date": "2022-01-05 08:26:01.120000",
                "Day": None,
                "Part": "P2",
                "Bytes": None,
            },
        ),
    ]


def test_large_whole_doubles_keep_all_their_digits(tmp_path: Path) -> None:
    """A 13-digit part number that was kept as double has the same text as in a CSV; a fraction
    stays one.
    """
    pq.write_table(
        pa.table({"Part": pa.array([4006381333931.0, 1e10, 0.5, None])}),
        tmp_path / "orders.parquet",
    )
    read = [
        values["Part"]
        for _, _, values in lines(orders._parquet_lines(str(tmp_path / "orders.parquet"), COMMA))
    ]
    assert read == ["4006381333931", "10000000000", "0.5", None]


def test_alike_json_names_keep_their_column_in_later_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names that become one are told apart in the same way in every batch of a file."""
    monkeypatch.setattr(orders, "BATCH_LINES", 1)
    (tmp_path / "orders.jsonl").write_text(
        '{"a b": "1", "a_b": "2"}\n{"a_b": "3"}\n', encoding="utf-8"
    )
    read = [
        values for _, _, values in lines(orders._json_lines(str(tmp_path / "orders.jsonl"), COMMA))
    ]
    assert [row.get("a_b_2") for row in read] == ["2", "3"]


def test_long_files_come_in_batches_with_rising_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is lost or numbered twice where one batch ends."""
    monkeypatch.setattr(orders, "BATCH_LINES", 2)
    path = written(tmp_path, "Order\n" + "".join(f"O{n}\n" for n in range(5)))
    assert [number for number, _, _ in lines(orders._csv_lines(path, COMMA))] == [2, 3, 4, 5, 6]
    json_path = written(tmp_path, "".join(f'{{"Order": {n}}}\n' for n in range(5)), "orders.jsonl")
    assert [number for number, _, _ in lines(orders._json_lines(json_path, COMMA))] == [
        1,
        2,
        3,
        4,
        5,
    ]


@pytest.mark.parametrize(
    ("content", "others", "told"),
    [
        (b"", {}, "line 1 has no column names; the file is empty or not a CSV"),
        (b"\n\n", {}, "line 1 has no column names"),
        (b"", {"format": "jsonl"}, "no line holds a JSON object; check the format of source shop"),
        (b"", {"format": "parquet"}, "not a readable Parquet file"),
        (b"Order,Part\n", {"format": "parquet"}, "not a readable Parquet file"),
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
        LocalOrderFiles().describe(source(**others), path)
    assert str(refused.value).startswith(path)


def test_a_header_that_is_one_endless_field_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quote that opens in the header swallows the file."""
    monkeypatch.setattr(orders, "FIELD_LIMIT", 20)
    with pytest.raises(UnreadableFile, match="line 1: field larger than field limit"):
        LocalOrderFiles().describe(
            source(), written(tmp_path, '"Order,Part\nO1,P1\nO2,P2\nO3,P3\n')
        )


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The operating system's reason is in the message."""
    with pytest.raises(
        UnreadableFile, match=r"gone\.csv: can't be read \(No such file or directory\)"
    ):
        LocalOrderFiles().describe(source(), str(tmp_path / "gone.csv"))


def test_a_delivery_is_its_content(tmp_path: Path) -> None:
    """The same bytes under another name are the same delivery; of another source or with another
    byte they are not.
    """
    first, copy = (
        written(tmp_path, "Order\nO1\n", "a.csv"),
        written(tmp_path, "Order\nO1\n", "b.csv"),
    )
    other = written(tmp_path, "Order\nO2\n", "c.csv")
    files = LocalOrderFiles()
    assert files.describe(source(), first).delivery_id == files.describe(source(), copy).delivery_id
    assert (
        files.describe(source(), other).delivery_id != files.describe(source(), first).delivery_id
    )
    assert (
        files.describe(source(name="web"), first).delivery_id
        != files.describe(source(), first).delivery_id
    )


def test_paths_are_what_the_glob_finds_in_order(tmp_path: Path) -> None:
    """Folders are no files."""
    (tmp_path / "2022.csv").mkdir()
    found = [written(tmp_path, "Order\n", name) for name in ("b.csv", "a.csv", "c.txt")]
    assert LocalOrderFiles().paths(source(files=str(tmp_path / "*.csv"))) == [found[1], found[0]]


def test_what_a_worker_could_not_read_is_told_without_its_stack_trace() -> None:
    """Spark hands an error on as text; other errors pass as they are."""
    trace = (
        'Traceback:\n  File "x.py"\nresources.orders.UnreadableFile: a.csv: line 3: broken\n\n\tat'
        " org.apache.spark"
    )
    with pytest.raises(UnreadableFile, match=r"^a\.csv: line 3: broken$"), reading_errors():
        raise RuntimeError(trace)
    with pytest.raises(RuntimeError, match="something else"), reading_errors():
        raise RuntimeError("something else")
