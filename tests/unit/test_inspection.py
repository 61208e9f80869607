"""What `medallion inspect` finds in files, and what it proposes and asks: on files made here,
without an engine.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import xlsxwriter
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from medallion_assets.operations.inspection.dates import date_notation
from medallion_assets.operations.inspection.inspecting import proposed
from medallion_assets.operations.inspection.meaning import NAMES, named_score
from medallion_assets.operations.inspection.numbers import number_notation, value_of
from medallion_assets.operations.inspection.proposing import Proposal
from resources.errors import Refused
from resources.settings import ConfigurationError, Settings, parse_settings

TODAY = date(2026, 6, 1)
HEADER = "Order,Part,Date,Qty,Price"
LINES = [
    "A-1,P-10,2024-01-13,5,2.50",
    "A-2,P-11,2024-02-14,7,19.90",
    "A-3,P-10,2024-03-28,4,2.60",
]
TEXT = "\n".join([HEADER, *LINES])


def inspected(
    folder: Path, content: str | bytes, name: str = "orders.csv"
) -> tuple[Proposal, dict[str, Any]]:
    """The proposal for one file, and the source in its configuration."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    proposal, text = proposed([path], folder)
    return proposal, yaml.safe_load(text)["sources"][0]


def asked(proposal: Proposal) -> dict[str, str]:
    return {question.key: question.text for question in proposal.questions}


def open_keys(proposal: Proposal) -> list[str]:
    return [question.key for question in proposal.open_questions]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    """Comma, semicolon, tab and pipe, whatever else stands in the fields."""
    _, source = inspected(tmp_path, TEXT.replace(",", delimiter))
    assert source["csv"]["delimiter"] == delimiter
    assert source["columns"]["part_number"] == "Part"


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("latin-1", "cp1252"),
        ("cp1252", "cp1252"),
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
    ],
)
def test_the_encoding_is_found(tmp_path: Path, encoding: str, written: str) -> None:
    """The words come out as written; of the encodings that read them alike one is named."""
    text = "Order;Artikel;Kunde;Datum;Menge\n" + "".join(
        f"O{n};Größe-{n % 3};Müller & Söhne;{n:02}.01.2024;{n}\n" for n in range(13, 25)
    )
    proposal, source = inspected(tmp_path, text.encode(encoding))
    assert source["csv"]["encoding"] == written
    assert "Größe-1" in proposal.sources[0].profiles["part_number"].counts


def test_an_encoding_that_another_reads_otherwise_is_asked(tmp_path: Path) -> None:
    """Which of two 8-bit encodings is meant nobody can tell, so words are shown in both."""
    text = "Order;Part;Customer;Date;Qty\n" + "".join(
        f"O{n};P{n % 3};Łódź;2024-01-{n};{n}\n" for n in range(13, 25)
    )
    proposal, _ = inspected(tmp_path, text.encode("cp1250"))
    assert "spelled right" in asked(proposal)["csv.encoding"]


def test_a_header_in_line_five_and_a_footer_are_found(tmp_path: Path) -> None:
    """Lines above name nothing, sums are skipped by the word that they begin with."""
    above = "Sales report\nJanuary to March 2024\n\nprinted 2024-04-02\n"
    below = "\nTotal,,,16,\nEnd of report\n"
    proposal, source = inspected(tmp_path, above + TEXT + below)
    assert source["csv"]["header_line"] == 5
    assert source["csv"]["skip"] == ["^\\W*Total\\b"]
    assert [number for number, _ in proposal.sources[0].tables[0].layout.below] == [10]  # type: ignore[union-attr]
    assert proposal.sources[0].line_count == 3


def test_line_breaks_in_quotes_are_no_lines(tmp_path: Path) -> None:
    """A description with a line break, a quote and a delimiter is one field."""
    lines = [f'{line},"a ""wide"", heavy\nthing"' for line in LINES]
    proposal, source = inspected(tmp_path, "\n".join([HEADER + ",Description", *lines]))
    assert proposal.sources[0].line_count == 3
    assert source["columns"]["description"] == "Description"


def test_a_file_without_names_is_asked_for_its_header(tmp_path: Path) -> None:
    """Values in the first line are no names."""
    proposal, _ = inspected(tmp_path, "\n".join(LINES))
    assert "csv.header_line" in open_keys(proposal)


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("dd.MM.yyyy", ["13.01.2024", "14.02.2024", "28.03.2024"]),
        ("MM/dd/yyyy", ["01/13/2024", "02/14/2024", "03/28/2024"]),
        ("yyyy/M/d", ["2024/1/3", "2024/2/14", "2024/3/28"]),
        ("d-MMM-yy", ["3-Jan-24", "14-Feb-24", "28-Mar-24"]),
        ("yyyyMMdd", ["20240113", "20240214", "20240328"]),
        ("M/d/yyyy h:mm a", ["1/13/2024 9:05 AM", "2/14/2024 11:00 PM", "3/28/2024 1:15 PM"]),
        ("yyyy-MM-dd HH:mm:ss XX", [f"2024-0{m}-13 22:15:00 -0500" for m in (1, 2, 3)]),
        (
            "MMM d, yyyy h:mm:ss a z",
            [f"{day}, 2024 1:05:09 AM PST" for day in ("Jan 3", "Feb 14", "Mar 28")],
        ),
        ("d. MMMM yyyy", ["3. Januar 2024", "14. Februar 2024", "28. März 2024"]),
        ("dd MMM yyyy", ["13 ENE 2024", "14 FEB 2024", "28 MAR 2024"]),
        ("dd-MMMM-yy", ["13-janv.-24", "14-févr.-24", "28-mars-24"]),
        ("MMM d, yyyy", ["Jan 3, 2024", "Feb 14, 2024", "Mar 28, 2024"]),
        ("dd.MM.yy", ["13.01.24", "14.02.24", "28.03.24"]),
        ("yyyy-MM", ["2024-01", "2024-02", "2024-03"]),
        ("excel_serial", ["45304", "45336", "45379"]),
        ("epoch_milliseconds", ["1705104000000", "1707868800000", "1711584000000"]),
    ],
)
def test_the_one_pattern_that_reads_all_dates(pattern: str, texts: list[str]) -> None:
    """One pattern, and the month of every value by it."""
    notation = date_notation(texts, TODAY, with_numbers=True)
    assert notation.patterns == (pattern,)
    assert not notation.is_ambiguous
    assert [notation.days[text].month for text in texts] == [1, 2, 3]


def test_day_and_month_that_can_not_be_told_apart_are_asked(tmp_path: Path) -> None:
    """Nothing is guessed: the value of the key is the question, and the configuration is refused
    with it."""
    text = TEXT
    for written, ambiguous in (
        ("2024-01-13", "05/01/2024"),
        ("2024-02-14", "06/02/2024"),
        ("2024-03-28", "07/03/2024"),
    ):
        text = text.replace(written, ambiguous)
    proposal, source = inspected(tmp_path, text)
    assert open_keys(proposal) == ["date_formats"]
    with pytest.raises(ConfigurationError, match=r"1 open question.*\n.*date_formats\.0: is 05/01"):
        configured(tmp_path, proposal)
    assert source["date_formats"][0].startswith("QUESTION:")
    assert proposal.first_month == 202401


def test_either_answer_finds_its_lines_after_the_first_month(tmp_path: Path) -> None:
    """The first month is the oldest of both readings of a date."""
    proposal, _ = inspected(tmp_path, "Part,Date,Qty\nP-1,01/05/2024,3\nP-2,02/06/2024,4\n")
    assert open_keys(proposal) == ["date_formats"]
    assert proposal.first_month == 202401


def test_the_formats_that_hold_anyway_are_not_written(tmp_path: Path) -> None:
    """ISO dates need no key, with a time or without."""
    for date_and_time in ("", " 08:15:00"):
        _, source = inspected(tmp_path, f"Part,Date,Qty\nP-1,2024-01-13{date_and_time},3\n")
        assert "date_formats" not in source


def test_one_date_tells_day_from_month_for_all(tmp_path: Path) -> None:
    """A single value with a day beyond 12 settles it."""
    notation = date_notation(["05/01/2024", "07/02/2024", "18/01/2024"], TODAY, False)
    assert notation.patterns == ("dd/MM/yyyy",)
    assert not notation.is_ambiguous


@pytest.mark.parametrize(
    ("texts", "decimal", "thousands"),
    [
        (["2,50", "1.250"], ",", "."),
        (["2.50", "1,250"], ".", ","),
        (["1 250,50", "3"], ",", " "),
        (["1'250.00"], ".", "'"),
        (["1,250,000"], ".", ","),
        (["(30)", "5-", "12.5"], ".", ""),
        (["0,250"], ",", ""),
        (["1,250", "1500"], ",", ""),
        (["1,250"], None, ""),
    ],
)
def test_the_notation_of_numbers(texts: list[str], decimal: str | None, thousands: str) -> None:
    """Decimal sign and separator of thousands, None where 1,250 may be either."""
    notation = number_notation(texts)
    assert (notation.decimal, notation.thousands) == (decimal, thousands)


def test_a_number_that_may_be_a_thousand_or_a_fraction_is_asked(tmp_path: Path) -> None:
    """1,250 alone is 1250 or 1.25: the decimal sign is a question."""
    proposal, _ = inspected(
        tmp_path,
        "Part;Date;Qty\nP1;2024-01-13;1,250\nP2;2024-01-14;2,500\n",
    )
    assert open_keys(proposal) == ["decimal_separator"]


def test_a_price_tells_the_notation_of_the_quantity(tmp_path: Path) -> None:
    """1.250 is 1250 where prices have a decimal comma."""
    proposal, source = inspected(
        tmp_path,
        "Part;Date;Qty;Price\nP1;2024-01-13;1.250;2,50\nP2;2024-01-14;2.500;19,90\n",
    )
    assert (source["decimal_separator"], source["thousands_separator"]) == (",", ".")
    assert not proposal.open_questions


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("Belegnummer", "order_id"),
        ("VBELN", "order_id"),
        ("Order ID", "order_id"),
        ("N° commande", "order_id"),
        ("Artikel-Nr.", "part_number"),
        ("Lineitem sku", "part_number"),
        ("Código artículo", "part_number"),
        ("Kundennr", "customer_id"),
        ("Ship Country", "region"),
        ("Bestelldatum", "order_date"),
        ("Created at", "order_date"),
        ("Fecha de pedido", "order_date"),
        ("Menge (Stück)", "quantity"),
        ("qty_ordered", "quantity"),
        ("Quantité", "quantity"),
        ("Prix unitaire HT", "unit_price"),
        ("Einzelpreis", "unit_price"),
        ("Bezeichnung", "description"),
        ("Transaction type", "line_type"),
    ],
)
def test_a_name_says_what_a_column_is(name: str, canonical: str) -> None:
    """In several languages and systems, better than it says anything else."""
    scores = {other: named_score(name, other) for other in NAMES}
    assert max(scores, key=lambda other: scores[other]) == canonical, scores


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("Order total", "order_id"),
        ("Delivery date", "order_date"),
        ("Quantity returned", "quantity"),
        ("Line total price", "unit_price"),
        ("Product name", "part_number"),
    ],
)
def test_a_name_speaks_against_a_meaning(name: str, canonical: str) -> None:
    """A total is no order number, a delivery no date of an order, the sum of a line no price."""
    assert named_score(name, canonical) == 0


def test_what_only_values_say_is_asked(tmp_path: Path) -> None:
    """One column of dates, one of whole numbers, one of codes: taken, and a question each."""
    proposal, source = inspected(
        tmp_path, "x,y,z\nP-100,2024-01-13,5\nP-200,2024-02-14,7\nP-100,2024-03-28,4\n"
    )
    assert source["columns"] == {"part_number": "x", "order_date": "y", "quantity": "z"}
    assert {"columns.part_number", "columns.order_date", "columns.quantity"} <= set(asked(proposal))
    assert not proposal.open_questions


@pytest.mark.parametrize(
    ("texts", "pattern"),
    [
        (["20240113", "20240214", "20240328"], "yyyyMMdd"),
        (["1705104000000", "1707868800000", "1711584000000"], "epoch_milliseconds"),
    ],
)
def test_numbers_that_can_only_be_dates_are_taken_and_asked(
    tmp_path: Path, texts: list[str], pattern: str
) -> None:
    """Without a name that says so: all of them are days of recent years."""
    lines = [f"P-{n},{text},{n}" for n, text in enumerate(texts, 1)]
    proposal, source = inspected(tmp_path, "\n".join(["Part,x,Qty", *lines]))
    read_by = source.get("date_formats", ["yyyyMMdd"])
    assert (source["columns"]["order_date"], read_by) == ("x", [pattern])
    assert "columns.order_date" in asked(proposal)


@pytest.mark.parametrize(
    "texts",
    [["20240113", "20241301"], ["10240113", "10240214"], ["4006381333931", "4006381333948"]],
)
def test_numbers_that_only_look_like_dates_are_none(tmp_path: Path, texts: list[str]) -> None:
    """One that is no day, years long gone, article numbers of thirteen digits."""
    lines = [f"P-{n},{text},{n}" for n, text in enumerate(texts, 1)]
    proposal, _ = inspected(tmp_path, "\n".join(["Part,x,Qty", *lines]))
    assert open_keys(proposal) == ["columns.order_date"]


def test_two_columns_that_could_be_the_quantity_are_not_guessed(tmp_path: Path) -> None:
    """Where values fit two columns and no name speaks, the question is open and names both."""
    proposal, _ = inspected(
        tmp_path, "Part,Date,first,second\nP-1,2024-01-13,5,6\nP-2,2024-02-14,7,9\n"
    )
    assert open_keys(proposal) == ["columns.quantity"]
    assert "first, second" in asked(proposal)["columns.quantity"]


def test_a_quantity_that_is_no_number_is_named_in_the_question(tmp_path: Path) -> None:
    """The name is right and the values are not: the question says so."""
    proposal, _ = inspected(tmp_path, "Part,Date,Qty\nP-1,2024-01-13,few\nP-2,2024-02-14,many\n")
    assert "Qty is called so, but its values are no numbers" in asked(proposal)["columns.quantity"]


def test_months_in_columns_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """A planner's sheet with a column for each month is no list of lines."""
    proposal, _ = inspected(tmp_path, "Part,2024-01,2024-02,2024-03\nP-1,5,6,7\nP-2,1,2,3\n")
    assert "turn the sheet into lines" in asked(proposal)["columns.order_date"]
    assert proposal.open_questions


def test_a_marker_before_the_order_numbers_of_negative_lines(tmp_path: Path) -> None:
    """C before the number, on negative lines only, is proposed as a cancellation and asked."""
    lines = [f"{1000 + n},P-{n % 3},2024-01-{n:02},{n},2.00" for n in range(1, 20)]
    lines += [f"C{1001 + n},P-{n % 3},2024-01-{n + 3:02},-{n},2.00" for n in range(1, 4)]
    proposal, source = inspected(tmp_path, "\n".join([HEADER, *lines]))
    assert source["rules"]["cancellation_pattern"] == "^C"
    assert "cancellations" in asked(proposal)["rules.cancellation_pattern"]


def test_words_of_a_type_column_are_sorted(tmp_path: Path) -> None:
    """Sales, refunds, cancellations and fees by known words; an unknown word is asked."""
    lines = [
        f"A-{n},P-1,2024-01-{n:02},3,2.00,{word}"
        for n, word in enumerate(["Verkauf", "Gutschrift", "Storno", "Versand", "Muster"], 1)
    ]
    proposal, source = inspected(tmp_path, "\n".join([HEADER + ",Belegart", *lines]))
    assert source["line_types"] == {
        "sale": ["Verkauf"],
        "refund": ["Gutschrift"],
        "cancellation": ["Storno"],
        "ignore": ["Versand"],
    }
    assert "Muster" in asked(proposal)["line_types"]


def test_a_status_of_orders_is_no_type_of_lines(tmp_path: Path) -> None:
    """A cancelled order counts for nothing; whether a refunded one was demand nobody can tell."""
    lines = [
        f"A-{n},P-1,2024-01-{n:02},3,2.00,{word}"
        for n, word in enumerate(["paid", "cancelled", "refunded"], 1)
    ]
    proposal, source = inspected(tmp_path, "\n".join([HEADER + ",Order status", *lines]))
    assert open_keys(proposal) == ["line_types"]
    assert source["line_types"]["ignore"] == ["cancelled"]
    paid_before = lines[2].replace("A-3", "A-1")
    text = "\n".join([HEADER + ",Order status", *lines[:2], paid_before])
    proposal, source = inspected(tmp_path, text)
    assert open_keys(proposal) == []
    assert source["line_types"]["refund"] == ["refunded"]


def test_a_part_in_two_units_is_an_open_question(tmp_path: Path) -> None:
    """Boxes and pieces of one part can't be added; one unit a part needs no factor."""
    lines = [f"A-{n},P-1,2024-01-{n:02},3,2.00,{u}" for n, u in enumerate(["PC", "BOX", "PC"], 1)]
    proposal, _ = inspected(tmp_path, "\n".join([HEADER + ",Unit", *lines]))
    assert open_keys(proposal) == ["units"]
    one_unit = [line.replace("BOX", "PC") for line in lines]
    proposal, source = inspected(tmp_path, "\n".join([HEADER + ",Unit", *one_unit]))
    assert "unit" not in source["columns"]


def test_repeated_lines_are_asked(tmp_path: Path) -> None:
    """Equal lines count, and the question says how many there are."""
    proposal, source = inspected(tmp_path, "\n".join([HEADER, *LINES, LINES[0]]))
    assert source["identical_lines"] == "keep"
    assert asked(proposal)["identical_lines"].startswith("1 line(s) repeat")


def test_the_sum_of_a_line_is_no_price(tmp_path: Path) -> None:
    """A column of totals is not mapped to unit_price without being asked."""
    lines = [line.replace(",2.50", ",12.50") for line in LINES]
    proposal, source = inspected(tmp_path, "\n".join(["Order,Part,Date,Qty,Line total", *lines]))
    assert "unit_price" not in source["columns"]
    assert "Line total" in asked(proposal)["columns.unit_price"]


def test_monthly_totals_get_a_last_month(tmp_path: Path) -> None:
    """Dates on the first of each month can't tell that a month is complete."""
    rows = "\n".join(f"2024-{month:02},{100 + month}" for month in range(1, 13))
    proposal, source = inspected(tmp_path, f"Month,Units\n{rows}\n")
    assert proposal.last_month == 202412
    assert source["columns"]["part_number"] == {"constant": "ALL"}


def test_dates_long_before_all_others_are_asked(tmp_path: Path) -> None:
    """1900-01-01 is what programs write for nothing; it does not make the first month."""
    lines = [f"A-{n},P-1,2024-01-{n:02},3,2.00" for n in range(1, 28)]
    proposal, _ = inspected(tmp_path, "\n".join([HEADER, *lines, "A-99,P-1,1900-01-01,3,2.00"]))
    assert proposal.first_month == 202401
    assert "1 line(s)" in asked(proposal)["first_month"]


def test_files_of_a_folder_are_one_source(tmp_path: Path) -> None:
    """Alternatives of a column's name are listed; the pattern finds the files and no others."""
    folder = tmp_path / "orders"
    folder.mkdir()
    (folder / "january.csv").write_text(TEXT, encoding="utf-8")
    (folder / "february.csv").write_text(TEXT.replace("Part", "SKU"), encoding="utf-8")
    proposal, text = proposed([folder], tmp_path)
    (source,) = yaml.safe_load(text)["sources"]
    assert source["files"] == "orders/*.csv"
    assert source["columns"]["part_number"] == ["SKU", "Part"]
    assert len(proposal.sources) == 1


def test_a_packed_file_is_read(tmp_path: Path) -> None:
    """gzip, zip and zstd hold the same table as the file itself."""
    import zstandard

    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "c.csv.zst").write_bytes(zstandard.compress(TEXT.encode()))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("b.csv", TEXT)
    for name in ("a.csv.gz", "b.zip", "c.csv.zst"):
        proposal, _ = proposed([tmp_path / name], tmp_path)
        assert proposal.sources[0].line_count == 3
        assert not proposal.open_questions


def test_a_workbook_is_read(tmp_path: Path) -> None:
    """The sheet with the orders, its header below a title, dates as dates."""
    book = xlsxwriter.Workbook(tmp_path / "orders.xlsx")
    book.add_worksheet("Notes").write(0, 0, "nothing here")
    sheet = book.add_worksheet("Orders")
    dated = book.add_format({"num_format": "dd.mm.yyyy"})
    sheet.write(0, 0, "Orders of the first quarter")
    sheet.write_row(2, 0, ["Auftrag", "Artikelnummer", "Datum", "Menge", "Einzelpreis"])
    for row in range(4):
        sheet.write_row(3 + row, 0, [f"A-{row}", 10023 + row % 2])
        sheet.write_datetime(3 + row, 2, pd.Timestamp(2024, 1 + row % 3, 13), dated)
        sheet.write_row(3 + row, 3, [row + 1, 2.5])
    book.close()
    proposal, text = proposed([tmp_path / "orders.xlsx"], tmp_path)
    (source,) = yaml.safe_load(text)["sources"]
    assert source["excel"] == {"sheet": "Orders", "header_row": 3}
    assert source["columns"]["order_date"] == "Datum"
    assert list(proposal.sources[0].months) == [202401, 202402, 202403]


def test_the_lines_of_nested_json_are_found(tmp_path: Path) -> None:
    """The innermost array with what a line needs, its orders' number and date beside."""
    orders = [
        {"id": f"O{n}", "created": f"2024-01-{n + 13}", "items": [{"id": n, "sku": "P", "qty": 2}]}
        for n in range(3)
    ]
    (tmp_path / "orders.json").write_text(json.dumps({"orders": orders}), encoding="utf-8")
    _, text = proposed([tmp_path / "orders.json"], tmp_path)
    (source,) = yaml.safe_load(text)["sources"]
    assert source["json"] == {"path": "orders[].items[]"}
    assert source["columns"] == {
        "order_id": "orders.id",
        "part_number": "sku",
        "order_date": "created",
        "quantity": "qty",
    }


def test_nothing_that_is_no_table_is_proposed(tmp_path: Path) -> None:
    """An empty file, an empty folder and an absent file are refused by name."""
    (tmp_path / "empty.csv").touch()
    (tmp_path / "folder").mkdir()
    for name, told in (("empty.csv", "empty"), ("folder", "no file"), ("absent.csv", "no such")):
        with pytest.raises(Refused, match=f"{name}.*{told}"):
            proposed([tmp_path / name], tmp_path)


def configured(folder: Path, proposal: Proposal) -> Settings:
    """What the configuration's own check makes of the proposal. Raises ConfigurationError."""
    from medallion_assets.operations.inspection.writing import configuration_text

    content = yaml.safe_load(configuration_text(proposal, "medallion inspect"))
    return parse_settings(content, folder / "config.yaml")


DATES = {
    "%Y-%m-%d": "-",
    "%d.%m.%Y": ".",
    "%d/%m/%Y": "/",
    "%Y/%m/%d": "/",
    "%Y%m%d": "",
    "%d-%b-%Y": "-",
}


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    days=st.lists(st.dates(date(2022, 1, 1), date(2024, 12, 31)), min_size=8, max_size=20),
    quantities=st.lists(st.integers(1, 5000), min_size=20, max_size=20),
    written=st.sampled_from(list(DATES)),
    delimiter=st.sampled_from([";", "\t", "|"]),
    is_comma=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    preamble=st.integers(0, 4),
)
def test_any_mixture_of_notations_is_read_or_asked(
    tmp_path_factory: pytest.TempPathFactory,
    days: list[date],
    quantities: list[int],
    written: str,
    delimiter: str,
    is_comma: bool,
    encoding: str,
    preamble: int,
) -> None:
    """Whatever notations meet in a file: the configuration is valid, and months and quantities are
    those that were written, or the one thing that can't be told is an open question."""
    folder = tmp_path_factory.mktemp("any")
    lines = [f"Größenbericht {n}" for n in range(preamble)]
    lines.append(delimiter.join(["Auftrag", "Artikel", "Datum", "Menge", "Einzelpreis"]))
    for n, (day, quantity) in enumerate(zip(days, quantities, strict=False)):
        price = f"{n + 1}.75".replace(".", "," if is_comma else ".")
        amount = f"{quantity:,}".replace(",", "." if is_comma else ",")
        cells = [f"A-{n}", f"Größe {n % 3}", day.strftime(written), amount, price]
        lines.append(delimiter.join(cells))
    proposal, _ = inspected(folder, "\r\n".join(lines).encode(encoding))
    (source,) = proposal.sources
    assert source.line_count == len(days)
    if all(day.day <= 12 for day in days) and written in ("%d/%m/%Y", "%d.%m.%Y"):
        is_same_day = all(day.day == day.month for day in days)
        assert is_same_day or open_keys(proposal) == ["date_formats"]
        return
    assert open_keys(proposal) == []
    assert configured(folder, proposal).first_month == min(
        day.year * 100 + day.month for day in days
    )
    months = pd.Series([day.year * 100 + day.month for day in days]).value_counts().to_dict()
    assert dict(source.months) == months
    texts = source.profiles["quantity"].counts
    found = [value_of(text, source.numbers) for text, n in texts.items() for _ in range(n)]
    assert sorted(found) == sorted(quantities[: len(days)])  # type: ignore[type-var]
