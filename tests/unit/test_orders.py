"""Order files as delivered: which there are, whether they are whole, what makes two the same."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from resources.order_headers import Headers
from resources.orders import (
    LocalOrderFiles,
    UnreadableFile,
    file_name,
    header_paths,
    matching,
    root_of,
)
from resources.settings import REQUIRED_COLUMNS, Source


def source(**others: Any) -> Source:
    columns = dict.fromkeys(REQUIRED_COLUMNS, "Order")
    return Source.model_validate({"name": "shop", "files": "*", "columns": columns} | others)


def written(folder: Path, content: str | bytes, name: str = "orders.csv") -> str:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


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


ODD_FOLDERS = [
    "with blanks",
    "Bestellungen für Köln",
    "[2024] orders",
    "what? all*",
    'A & B "quoted"',
    "it's",
    "a#b%20c",
    "~backup",
    "注文",
]


@pytest.mark.parametrize("folder", ODD_FOLDERS)
def test_a_folder_may_be_called_anything(tmp_path: Path, folder: str) -> None:
    """A wildcard sign in the name of a folder that is there is no wildcard; below it patterns
    work.
    """
    path = written(tmp_path / folder / "2024", "Order\nO1\n", "jan [1].csv")
    written(tmp_path / "2 orders" / "2024", "Order\nO1\n", "jan [1].csv")
    for pattern in ("*/*.csv", "**/*.csv", "2024/jan*.csv", "2024/jan [1].csv"):
        shop = source(files=str(tmp_path / folder / pattern))
        assert LocalOrderFiles().paths(shop) == [path]
        described = LocalOrderFiles().describe(shop, path)
        assert described.column_names == ("Order",)


@pytest.mark.parametrize(
    ("pattern", "root", "name"),
    [
        ("*.csv", "", "a.csv"),
        ("a.csv", "", "a.csv"),
        ("**/*.csv", "", "a.csv"),
        ("year=*/*.csv", "", "year=2024/b.csv"),
        ("year=2024/*.csv", "year=2024", "b.csv"),
        ("year=2024/month=*/*.csv", "year=2024", "month=01/c.csv"),
    ],
)
def test_a_file_is_called_by_its_path_below_the_first_wildcard(
    tmp_path: Path, pattern: str, root: str, name: str
) -> None:
    """In a flat folder that is its name."""
    for file in ("a.csv", "year=2024/b.csv", "year=2024/month=01/c.csv"):
        written(tmp_path, "Order\n", file)
    shop = source(files=str(tmp_path / pattern))
    assert root_of(str(shop.files)) == tmp_path / root
    assert file_name(shop, LocalOrderFiles().paths(shop)[0]) == name


def test_links_lead_to_a_file_once(tmp_path: Path) -> None:
    """A link beside its target, a link to a folder above, and one that leads nowhere change
    nothing.
    """
    path = written(tmp_path / "orders", "Order\n", "a.csv")
    (tmp_path / "orders" / "latest.csv").symlink_to("a.csv")
    (tmp_path / "orders" / "up").symlink_to(tmp_path / "orders", target_is_directory=True)
    (tmp_path / "orders" / "broken.csv").symlink_to("gone.csv")
    (tmp_path / "linked").symlink_to(tmp_path / "orders", target_is_directory=True)
    assert matching(str(tmp_path / "orders" / "**" / "*.csv")) == [path]
    (found,) = matching(str(tmp_path / "linked" / "*.csv"))
    assert found == str(tmp_path / "linked" / "a.csv")


@pytest.mark.parametrize(
    "name",
    [
        "~$orders.csv",
        "orders.csv.tmp",
        "orders.csv.part",
        "orders.csv.crdownload",
        "orders.csv.lock",
        "orders.csv.filepart",
        "orders.csv~",
        ".~lock.orders.csv#",
        ".orders.csv.swp",
        "_SUCCESS",
        "_temporary/0/orders.csv",
    ],
)
def test_unfinished_names_are_passed_over_and_told(tmp_path: Path, name: str) -> None:
    """Locks and files that programs write to under another name are no deliveries."""
    good = written(tmp_path, "Order\n")
    bad = written(tmp_path, "Order\n", name)
    for pattern in ("*", "**/*"):
        shop = source(files=str(tmp_path / pattern), delivery={"settle_seconds": 0})
        landed = LocalOrderFiles().landed(shop)
        assert landed.paths == LocalOrderFiles().paths(shop) == [good]
        assert set(landed.waiting) <= {bad}


@pytest.mark.parametrize("pattern", ["*.part", "orders.tmp", "**/*.lock"])
def test_an_ending_that_the_pattern_names_is_meant(tmp_path: Path, pattern: str) -> None:
    """Whoever writes *.part wants these files."""
    path = written(tmp_path, "Order\n", f"orders.{pattern[-4:].strip('.')}")
    assert LocalOrderFiles().paths(source(files=str(tmp_path / pattern))) == [path]


def test_a_file_that_is_being_written_waits(tmp_path: Path) -> None:
    """A young file is looked at twice, an old one is taken at once, and so is one whose time lies
    ahead of the clock, when it stays as it is.
    """
    growing = written(tmp_path, "Order\n", "growing.csv")
    still = written(tmp_path, "Order\n", "still.csv")
    ahead = written(tmp_path, "Order\n", "ahead.csv")
    old = written(tmp_path, "Order\n", "old.csv")
    os.utime(ahead, (time.time() + 3600, time.time() + 3600))
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    shop = source(files=str(tmp_path / "*.csv"), delivery={"settle_seconds": 0.4})

    def write() -> None:
        time.sleep(0.15)
        written(tmp_path, "Order\nO1\n", "growing.csv")

    writer = threading.Thread(target=write)
    writer.start()
    landed = LocalOrderFiles().landed(shop)
    writer.join()
    assert landed.paths == [ahead, old, still]
    assert landed.waiting == {growing: "it is still being written"}


def test_old_files_are_not_waited_for(tmp_path: Path) -> None:
    """An hour of settling costs nothing where files are older."""
    old = written(tmp_path, "Order\n")
    os.utime(old, (1e9, 1e9))
    shop = source(files=str(tmp_path / "*.csv"), delivery={"settle_seconds": 3600})
    assert LocalOrderFiles().landed(shop).paths == [old]


@pytest.mark.parametrize(
    ("text", "count"),
    [("2\n", 2), ("rows=2", 2), ("orders.csv has 2 rows, again 2", 2), ("\ufeff 12 ", 12)],
)
def test_the_number_of_lines_is_read_from_the_file_beside(
    tmp_path: Path, text: str, count: int
) -> None:
    """One whole number, whatever stands around it."""
    path = written(tmp_path, "Order\nO1\nO2\n")
    written(tmp_path, text, "orders.csv.count")
    shop = source(files=str(tmp_path / "*"), delivery={"row_count_files": "{name}.count"})
    assert LocalOrderFiles().row_count(shop, path) == count
    assert LocalOrderFiles().paths(shop) == [path]


@pytest.mark.parametrize("text", ["", "no number", "2 of 3", "1.5"])
def test_a_number_of_lines_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """The message names the file beside and shows what is in it."""
    path = written(tmp_path, "Order\nO1\n")
    written(tmp_path, text, "orders.ctl")
    shop = source(files=str(tmp_path / "*.csv"), delivery={"row_count_files": "{stem}.ctl"})
    with pytest.raises(UnreadableFile, match=r"orders\.ctl: one whole number is expected"):
        LocalOrderFiles().row_count(shop, path)


def test_a_delivery_without_its_file_beside_waits(tmp_path: Path) -> None:
    """That file is often what says that a delivery is whole."""
    path = written(tmp_path, "Order\nO1\n")
    delivery = {"row_count_files": "{name}.count", "settle_seconds": 0}
    shop = source(files=str(tmp_path / "*.csv"), delivery=delivery)
    landed = LocalOrderFiles().landed(shop)
    assert (landed.paths, landed.waiting) == (
        [],
        {path: "orders.csv.count is not beside it yet"},
    )
    written(tmp_path, "1", "orders.csv.count")
    assert LocalOrderFiles().landed(shop).paths == [path]


def test_a_checksum_is_compared(tmp_path: Path) -> None:
    """As sha256sum writes it, for one file or several; another content is refused, and so is no
    checksum.
    """
    path = written(tmp_path, "Order\nO1\n")
    right, wrong = (hashlib.sha256(text).hexdigest() for text in (b"Order\nO1\n", b"other"))
    shop = source(files=str(tmp_path / "*"), delivery={"checksum_files": "{name}.sha256"})
    for text in (right.upper(), f"{right}  orders.csv", f"{wrong}  a.csv\n{right} *orders.csv"):
        written(tmp_path, text, "orders.csv.sha256")
        assert LocalOrderFiles().describe(shop, path).content_hash == right
    written(tmp_path, f"{wrong}  orders.csv\n{right}  b.csv", "orders.csv.sha256")
    with pytest.raises(UnreadableFile, match=f"its SHA-256 is {right}, and orders.csv.sha256"):
        LocalOrderFiles().describe(shop, path)
    written(tmp_path, "d41d8cd98f00b204e9800998ecf8427e", "orders.csv.sha256")
    with pytest.raises(UnreadableFile, match="no SHA-256"):
        LocalOrderFiles().describe(shop, path)


def test_the_beginning_of_a_file_has_a_hash(tmp_path: Path) -> None:
    """That of the file before it grew."""
    path = written(tmp_path, b"Order\nO1\nO2\n")
    files = LocalOrderFiles()
    assert files.hash_of_beginning(path, 9) == hashlib.sha256(b"Order\nO1\n").hexdigest()
    assert files.hash_of_beginning(path, 0) == hashlib.sha256(b"").hexdigest()


SALES = {
    "order_id": "OrderNo",
    "part_number": "SKU",
    "order_date": "Date",
    "quantity": "Qty",
    "unit_price": "Price",
    "customer_id": "Customer",
}


def with_headers(tmp_path: Path, **others: Any) -> Source:
    """Lines and headers of orders in two folders."""
    return source(
        columns=SALES,
        files=str(tmp_path / "lines" / "*.csv"),
        header={"files": str(tmp_path / "headers" / "*.csv"), "key": {"OrderNo": "Number"}},
        **others,
    )


def joined(shop: Source, path: str) -> list[tuple[int, str | None, dict[str, str | None]]]:
    """Line number, problem and values of every line with its header's columns."""
    read = Headers.read(shop, header_paths(shop)).lines(path, None)
    return [
        (number, problem, {name: column[at] for name, column in values.items()})
        for numbers, problems, _, values in read
        for at, (number, problem) in enumerate(zip(numbers, problems, strict=True))
    ]


def test_lines_get_the_columns_of_their_headers(tmp_path: Path) -> None:
    """By key, from all header files; a column of both is told apart; a header without lines is
    none.
    """
    written(tmp_path, "Number,Date,Customer,Status\nA1,2024-01-05,K1,open\n", "headers/1.csv")
    written(tmp_path, "Title\nNumber,Date,Customer\nA2 ,2024-02-07,K2\nA3,,\n", "headers/2.csv")
    lines = "OrderNo,SKU,Qty,Price,Status\nA1,P1,2,1.5,new\n A2,P2,3,2.5,new\nA1,P3,1,1,old\n"
    path = written(tmp_path, lines, "lines/a.csv")
    shop = with_headers(tmp_path)
    own = ("OrderNo", "SKU", "Qty", "Price", "Status")
    columns = LocalOrderFiles().describe(shop, path).column_names
    assert columns == (*own, "Date", "Customer", "header.Status")
    found = joined(shop, path)
    assert [(n, row["Date"], row["Customer"], row["header_Status"]) for n, _, row in found] == [
        (2, "2024-01-05", "K1", "open"),
        (3, "2024-02-07", "K2", None),
        (4, "2024-01-05", "K1", "open"),
    ]
    assert {problem for _, problem, _ in found} == {None}


def test_a_line_without_one_header_has_its_problem(tmp_path: Path) -> None:
    """None, an empty key, or two that differ; the same header twice is one."""
    headers = "Number,Date,Customer\nA1,2024-01-05,K1\nA1,2024-01-05,K1\nA2,2024-01-06,K2\n"
    written(tmp_path, headers, "headers/1.csv")
    written(tmp_path, "Number,Date,Customer\nA2,2024-01-09,K2\n", "headers/2.csv")
    lines = "OrderNo,SKU,Qty,Price\nA1,P1,2,1\nA2,P2,3,2\nA9,P3,1,1\n,P4,1,1\nA1,P5\n"
    path = written(tmp_path, lines, "lines/a.csv")
    assert [problem for _, problem, _ in joined(with_headers(tmp_path), path)] == [
        None,
        "order_header_ambiguous",
        "order_header_missing",
        "order_header_missing",
        "unreadable: 2 fields where the header has 4",
    ]


def test_headers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    """No file, no key column, or a mapped column in neither of the two."""
    path = written(tmp_path, "OrderNo,SKU,Qty,Price\nA1,P1,2,1\n", "lines/a.csv")
    shop, files = with_headers(tmp_path), LocalOrderFiles()
    with pytest.raises(UnreadableFile, match=r"no such file; sources\.shop\.header\.files"):
        files.describe(shop, path)
    written(tmp_path, "No,Date\nA1,2024-01-05\n", "headers/1.csv")
    with pytest.raises(UnreadableFile, match=r"headers/1\.csv: no line .*\(Number\)"):
        files.describe(shop, path)
    written(tmp_path, "Number,Day\nA1,2024-01-05\n", "headers/1.csv")
    with pytest.raises(UnreadableFile, match=r"lines/a\.csv: no column Date"):
        files.describe(shop, path)
