"""What a file is and where its table stands: format, encoding, delimiter, quoting, header, and what
stands above and below.

Reads a sample of the file and no configuration. What columns mean belongs to meaning.py.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import pandas as pd

from medallion_assets.operations.inspection.dates import date_notation
from medallion_assets.operations.inspection.numbers import is_number
from resources import formats
from resources.errors import Refused
from resources.formats import valid_names
from resources.formats.arrow import arrow_text
from resources.formats.json_text import arrays_of_objects
from resources.formats.workbook import cell_text
from resources.settings import REQUIRED_COLUMNS, Source

if TYPE_CHECKING:
    import pyarrow as pa

WHOLE_BYTES = 64 * 2**20
PIECE_BYTES = 4 * 2**20
JSON_DEPTH = 4
DIALECT_LINES = 300
DELIMITERS = (",", ";", "\t", "|")
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
# Encodings of one byte that exports of offices use, and of two bytes that exclude themselves.
ENCODINGS = (
    "cp1252",
    "latin_1",
    "cp1250",
    "cp1251",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1257",
    "cp437",
    "cp850",
    "mac_roman",
    "cp932",
    "gb18030",
    "big5",
    "euc_kr",
)
TOTAL_WORDS = re.compile(
    r"\W*(grand|sub|sum|report)?[\s-]*(total|totals|subtotal|summe|gesamt\w*|zwischensumme|"
    r"endsumme|totaal|totale|totales|suma|razem|somme|sous-total|page|seite|página|pagina|"
    r"record count|rows?:)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Encoding:
    """The encoding of a text file, and the words that another one would read otherwise."""

    name: str
    alternatives: dict[str, tuple[str, str]] = field(default_factory=dict)
    has_mark: bool = False


@dataclass(frozen=True)
class Layout:
    """Where the table of a text file stands. Lines are counted from 1.

    ``header_line`` is None where no line names the columns. ``above``, ``below``, ``repeated`` and
    ``totals`` are (line number, text).
    """

    encoding: Encoding
    delimiter: str
    quote: str
    escape: str
    header_line: int | None
    above: tuple[tuple[int, str], ...] = ()
    below: tuple[tuple[int, str], ...] = ()
    repeated: tuple[tuple[int, str], ...] = ()
    totals: tuple[tuple[int, str], ...] = ()
    comments: tuple[tuple[int, str], ...] = ()
    comment_sign: str = ""
    uneven: tuple[tuple[int, str], ...] = ()
    is_delimiter_sure: bool = True


@dataclass(frozen=True)
class Table:
    """The lines of a file as text, NULL where nothing was delivered, one column each, as spelled.

    ``typed``: columns that the file itself says to be numbers or times. ``is_whole``: whether all
    lines are here, or the beginning, middle and end.
    """

    path: Path
    format: str
    rows: pd.DataFrame
    byte_count: int
    is_whole: bool
    layout: Layout | None = None
    typed: frozenset[str] = frozenset()
    details: dict[str, object] = field(default_factory=dict)


def sniff(path: Path) -> Table:
    """The table of a file or a Delta table's folder. Raises Refused where there is none."""
    if path.is_dir():
        if (path / "_delta_log").is_dir():
            return _delta(path)
        raise Refused(f"{path}: a folder without order files in it")
    size = path.stat().st_size
    if size == 0:
        raise Refused(f"{path}: the file is empty")
    with path.open("rb") as stream:
        start = stream.read(4096)
    if start.startswith(b"PAR1"):
        return _parquet(path)
    if _is_workbook(path, start):
        return _workbook(path)
    content, is_whole = _content(path, start)
    encoding, text = _decoded(content, is_whole)
    if json := _json_format(text):
        return _json(path, json, text, size, encoding)
    return _text_table(path, text, encoding, size, is_whole)


def _is_workbook(path: Path, start: bytes) -> bool:
    """Workbooks are zip archives or OLE files; a zip archive of other files has other names."""
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            return bool({"[Content_Types].xml", "mimetype"} & set(archive.namelist()))
    return start.startswith(b"\xd0\xcf\x11\xe0")


def _content(path: Path, start: bytes) -> tuple[bytes, bool]:
    """The bytes of a file, unpacked where it is compressed, and whether they are all. Of an archive
    of several files the first.
    """
    if start.startswith(b"\x1f\x8b"):
        with gzip.open(path) as stream:
            return _pieces(cast("IO[bytes]", stream), None)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        with zstandard.open(path, "rb") as stream:
            return _pieces(cast("IO[bytes]", stream), None)
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            members = sorted(i.filename for i in archive.infolist() if not i.is_dir())
            with archive.open(members[0]) as stream:
                content, is_whole = _pieces(stream, None)
                return content, is_whole and len(members) == 1
    with path.open("rb") as stream:
        return _pieces(stream, path.stat().st_size)


def _pieces(stream: IO[bytes], size: int | None) -> tuple[bytes, bool]:
    """All bytes of a file up to WHOLE_BYTES; beginning, middle and end of a larger one, cut at
    lines.

    A packed stream whose size nobody knows gives its beginning only.
    """
    if size is None or size <= WHOLE_BYTES:
        content = stream.read(WHOLE_BYTES + 1)
        if len(content) <= WHOLE_BYTES:
            return content, True
        beginning = content[:PIECE_BYTES]
        return beginning[: beginning.rfind(b"\n") + 1], False
    pieces = []
    for position in (0, size // 2, size - PIECE_BYTES):
        stream.seek(position)
        piece = stream.read(PIECE_BYTES)
        if position:
            piece = piece[piece.find(b"\n") + 1 :]
        pieces.append(piece if position > size // 2 else piece[: piece.rfind(b"\n") + 1])
    return b"".join(pieces), False


def _decoded(content: bytes, is_whole: bool) -> tuple[Encoding, str]:
    for mark, name in (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if content.startswith(mark):
            text = content.decode("utf-8-sig" if name == "utf-8" else name, "replace")
            return Encoding(name, has_mark=True), text
    for name, every in (("utf-16-le", content[1:400:2]), ("utf-16-be", content[0:400:2])):
        if every and every.count(0) > 0.8 * len(every):
            return Encoding(name), content.decode(name, "replace")
    try:
        return Encoding("utf-8"), content.decode("utf-8")
    except UnicodeDecodeError as error:
        # Pieces of a large file are cut at line feeds, which no sign of several bytes contains.
        if not is_whole and error.start > len(content) - 4:
            return Encoding("utf-8"), content.decode("utf-8", "ignore")
    return _other_encoding(content)


def _other_encoding(content: bytes) -> tuple[Encoding, str]:
    """The encoding that reads the bytes best, and how its equals read the first words that
    differ.
    """
    import charset_normalizer

    # Fields with such signs alone: numbers and codes around them tell nothing and count as noise.
    fields = dict.fromkeys(
        field for field in re.split(rb"[,;\t\r\n]+", content) if not field.isascii()
    )
    telling = b"\n".join(list(fields)[:2000])
    matches = charset_normalizer.from_bytes(telling, cp_isolation=list(ENCODINGS), threshold=0.5)
    best = matches.best()
    if best is None:
        return Encoding("latin-1"), content.decode("latin-1")
    near = [match for match in matches if match.chaos <= best.chaos + 0.15]
    readers = list(
        dict.fromkeys(
            name for match in near for name in (match.encoding, *match.could_be_from_charset)
        )
    )
    # Offices of the West write cp1252 more often than everything else together.
    likely = [match for match in near if match.chaos <= best.chaos + 0.03]
    is_western = any("cp1252" in (match.encoding, *match.could_be_from_charset) for match in likely)
    chosen = "cp1252" if is_western else best.encoding
    text = content.decode(chosen, "replace")
    words = [
        word
        for field in list(fields)[:200]
        for word in re.findall(rb"[A-Za-z\x80-\xff]+", field)
        if not word.isascii()
    ]
    alternatives: dict[str, tuple[str, str]] = {}
    for other in readers:
        for word in words:
            mine, theirs = word.decode(chosen, "replace"), word.decode(other, "replace")
            if mine != theirs:
                alternatives.setdefault(other, (mine, theirs))
    return Encoding(chosen, alternatives), text


def _json_format(text: str) -> str:
    """jsonl, json, or nothing for what is neither."""
    import json

    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("["):
        return "json"
    if not start.startswith("{"):
        return ""
    try:
        json.loads(start.split("\n", 1)[0])
    except ValueError:
        return "json"
    return "jsonl" if "\n" in start.strip() else "json"


def _text_table(path: Path, text: str, encoding: Encoding, size: int, is_whole: bool) -> Table:
    named = re.match(r"sep=(.)\r?\n", text)
    delimiter, quote, escape, is_sure = _dialect(text, named.group(1) if named else "")
    records = list(_records(text, delimiter, quote, escape))
    layout, header, body = _layout(text, records, delimiter)
    names = header or [f"column_{position}" for position in range(1, _width(records) + 1)]
    frame = pd.DataFrame([fields for _, fields in body], columns=_distinct(names), dtype="object")
    found = Layout(
        encoding,
        delimiter,
        quote,
        escape,
        **layout,  # type: ignore[arg-type]
        is_delimiter_sure=is_sure,
    )
    return Table(path, "csv", frame, size, is_whole, found)


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names as spelled; those that are repeated or blank as the reader would call them."""
    stripped = [name.strip().lstrip("\ufeff") for name in names]
    repeated = {name for name, count in Counter(stripped).items() if count > 1 or not name}
    return [
        valid if name in repeated else name
        for name, valid in zip(stripped, valid_names(stripped), strict=True)
    ]


def _dialect(text: str, named: str) -> tuple[str, str, str, bool]:
    """Delimiter, quote and escape sign, and whether the two ways of finding the delimiter agree."""
    from clevercsv.detect import Detector

    lines = text.splitlines(keepends=True)
    sample = "".join(lines[:DIALECT_LINES])
    found = Detector().detect(sample, delimiters=[named] if named else list(DELIMITERS))
    quote = (found.quotechar if found else "") or '"'
    escape = (found.escapechar if found else "") or ""
    if quote == "'" and not re.search(r"(^|[,;\t|])'", sample, re.MULTILINE):
        quote = '"'
    if named:
        return named, quote, escape, True
    steady = max(DELIMITERS, key=lambda sign: _steadiness(sample, sign, quote, escape))
    if found is None or not found.delimiter:
        return steady, quote, escape, _steadiness(sample, steady, quote, escape) > 1
    if found.delimiter == steady:
        return steady, quote, escape, True
    chosen = found.delimiter if _steadiness(sample, found.delimiter, quote, escape) > 1 else steady
    return chosen, quote, escape, _steadiness(sample, chosen, quote, escape) > 1


def _steadiness(sample: str, delimiter: str, quote: str, escape: str) -> float:
    """Lines with the commonest number of fields, times these fields, per line."""
    widths = Counter(
        len(fields) for _, fields in _records(sample, delimiter, quote, escape) if fields
    )
    best = max(
        (count * (width - 1) for width, count in widths.items()),
        default=0,
    )
    return best / max(1, sum(widths.values()))


def _records(text: str, delimiter: str, quote: str, escape: str) -> Iterator[tuple[int, list[str]]]:
    """First line number and fields of every record; a blank line is a record without fields."""
    csv.field_size_limit(10_000_000)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quotechar=quote,
        escapechar=escape or None,
        doublequote=True,
    )
    start = 1
    try:
        for fields in reader:
            yield start, fields
            start = reader.line_num + 1
    except csv.Error:
        return


def _width(records: Sequence[tuple[int, list[str]]]) -> int:
    """The commonest number of fields of records with more than one filled field, at least two
    where any has two.
    """
    widths = Counter(len(fields) for _, fields in records if _filled(fields) > 1)
    if not widths:
        return max((len(fields) for _, fields in records), default=0)
    most = widths.most_common(1)[0][1]
    return max(width for width, count in widths.items() if count == most)


def _filled(fields: Sequence[str]) -> int:
    """How many fields hold something."""
    return sum(1 for field in fields if field.strip())


def _layout(
    text: str, records: Sequence[tuple[int, list[str]]], delimiter: str
) -> tuple[dict[str, object], list[str], list[tuple[int, list[str]]]]:
    """Facts of the layout, the header's fields, and the records of the table."""
    width = _width(records)
    at = _header_at(records, width)
    header = records[at][1] if at is not None else []
    above = [
        (number, delimiter.join(fields)) for number, fields in records[: at or 0] if _filled(fields)
    ]
    comment_sign = _comment_sign(records, width)
    body: list[tuple[int, list[str]]] = []
    aside: dict[str, list[tuple[int, str]]] = {
        name: [] for name in ("below", "repeated", "totals", "comments", "uneven")
    }
    spelled = [name.strip() for name in header]
    last_full = max(
        (number for number, fields in records if len(fields) == width and _is_filled(fields)),
        default=0,
    )
    for number, fields in records[(at or 0) + (at is not None) :]:
        written = delimiter.join(fields)
        if not any(field.strip() for field in fields):
            if fields and len(fields) == width and width > 1:
                aside["uneven"].append((number, written))
        elif header and [field.strip() for field in fields] == spelled:
            aside["repeated"].append((number, written))
        elif comment_sign and fields[0].startswith(comment_sign):
            aside["comments"].append((number, written))
        elif _is_total(fields):
            aside["totals"].append((number, written))
        elif number > last_full:
            aside["below"].append((number, written))
        elif len(fields) != width:
            aside["uneven"].append((number, written))
        else:
            body.append((number, fields))
    facts: dict[str, object] = {
        "header_line": records[at][0] if at is not None else None,
        "above": tuple(above),
        "comment_sign": comment_sign,
        **{name: tuple(found) for name, found in aside.items()},
    }
    return facts, header, body


def _is_filled(fields: Sequence[str]) -> bool:
    return sum(1 for field in fields if field.strip()) >= max(2, len(fields) // 2)


def _is_total(fields: Sequence[str]) -> bool:
    """A line of a sum or a page number: its first filled cell says so, and half of its cells are
    empty.
    """
    filled = [field for field in fields if field.strip()]
    return (
        bool(filled)
        and bool(TOTAL_WORDS.match(filled[0]))
        and len(filled) <= max(1, (len(fields) + 1) // 2)
    )


def _comment_sign(records: Sequence[tuple[int, list[str]]], width: int) -> str:
    """# or // where lines of another width than the table's begin with it."""
    for sign in ("#", "//"):
        marked = [fields for _, fields in records if fields and fields[0].startswith(sign)]
        if marked and all(len(fields) != width for fields in marked) and width > 1:
            return sign
    return ""


def _header_at(records: Sequence[tuple[int, list[str]]], width: int) -> int | None:
    """Index of the record that names the columns: the first of the table's width whose cells are
    names, no values. None where the table begins with values.
    """
    for index, (_, fields) in enumerate(records[:200]):
        filled = [field.strip() for field in fields if field.strip()]
        if len(fields) != width or not filled or (width > 1 and len(filled) < 2):
            continue
        if len(filled) < width * 0.6:
            continue
        values = sum(1 for cell in filled if _is_value(cell))
        if values == 0 and len(set(filled)) >= len(filled) - 1:
            return index
        # Months may stand in the header of a planner's sheet, but then beside names.
        if values and values < len(filled) and _is_wide_header(filled):
            return index
        if values:
            return None
    return None


def _is_value(cell: str) -> bool:
    return is_number(cell) or bool(date_notation([cell], _TODAY, with_numbers=False).readings)


def _is_wide_header(cells: Sequence[str]) -> bool:
    return len(month_columns(cells)) >= 3 and not is_number(cells[0])


def month_columns(names: Sequence[str]) -> list[str]:
    """Names that are months or dates: a sheet with a column for each month."""
    return [
        name
        for name in names
        if date_notation([name], _TODAY, with_numbers=False).readings
        or re.fullmatch(r"(19|20)\d{2}(0[1-9]|1[0-2])", name)
    ]


_TODAY = pd.Timestamp("2100-01-01").date()


def _json(path: Path, format_: str, text: str, size: int, encoding: Encoding) -> Table:
    """The objects of a JSON file, read as orders are; of a nested one the place where most of what
    order lines need is found.
    """
    import json

    csv_keys = {"encoding": encoding.name}
    if format_ == "jsonl":
        rows = _read(path, {"format": "jsonl", "csv": csv_keys})
        return Table(path, "jsonl", rows, size, True, details={"encoding": encoding})
    document = json.loads(text)
    places = [""] if isinstance(document, list) else []
    places += [place for place in json_arrays(document) if place != "[]"]
    best: tuple[int, str, pd.DataFrame] | None = None
    for place in places:
        keys = {"path": place} if place else {}
        rows = _read(path, {"format": "json", "json": keys, "csv": csv_keys})
        found = _count_of_needed(rows)
        if best is None or found > best[0]:
            best = found, place, rows
    if best is None:
        raise Refused(f"{path}: no array of objects in it; order lines are objects of an array")
    _, place, rows = best
    rows.columns = _with_levels(list(rows.columns), place)
    keys = {"path": place} if place else {}
    return Table(path, "json", rows, size, True, details={"keys": keys, "encoding": encoding})


def _with_levels(names: list[str], place: str) -> list[str]:
    """Names of fields; one that an outer level has too is called by its own level."""
    levels = [step.removesuffix("[]") or "root" for step in place.split(".")] or ["root"]
    outer = {f"{level}.{name}" for level in ["root", *levels[:-1]] for name in names}

    def is_above_too(name: str) -> bool:
        return any(other.endswith(f".{name}") and other in outer for other in names)

    return [f"{levels[-1]}.{name}" if is_above_too(name) else name for name in names]


def _count_of_needed(rows: pd.DataFrame) -> int:
    """Whether the columns could be a date, a quantity and a part, by their names."""
    from medallion_assets.operations.inspection.meaning import named_score

    def is_named(canonical: str) -> bool:
        return any(named_score(str(name), canonical) > 0 for name in rows.columns)

    needed = ("order_date", "quantity", "part_number", "order_id", "unit_price")
    return sum(map(is_named, needed))


def json_arrays(document: object) -> list[str]:
    """Paths to arrays of objects within a document."""
    return list(dict.fromkeys(arrays_of_objects(document, "", JSON_DEPTH)))


def _read(path: Path, keys: dict[str, object]) -> pd.DataFrame:
    """The lines of a file, read as the orders of a source with these keys are."""
    # The reader asks for a mapping where it looks for a header, which these keys give it.
    nobody = {canonical: f"no column of {canonical}" for canonical in REQUIRED_COLUMNS}
    source = Source.model_validate(
        {"name": "inspected", "files": str(path), "columns": nobody, **keys}
    )
    names = [str(name) for name in formats.columns(str(path), source).names]
    valid = valid_names(names)
    pieces = []
    for _, problems, _, values in formats.lines(str(path), source):
        piece = pd.DataFrame({name: _as_list(values.get(name), len(problems)) for name in valid})
        pieces.append(piece[[problem is None for problem in problems]])
    rows = pd.concat(pieces) if pieces else pd.DataFrame({name: [] for name in valid})
    rows.columns = _distinct(names)
    return rows.astype("object").reset_index(drop=True)


def _as_list(values: object, count: int) -> list[object]:
    if values is None:
        return [None] * count
    to_pylist = getattr(values, "to_pylist", None)
    return list(to_pylist() if to_pylist else cast("Iterable[object]", values))


def _workbook(path: Path) -> Table:
    """The sheet of a workbook that holds most of what order lines need."""
    import python_calamine as calamine

    try:
        book = calamine.load_workbook(str(path))
        sheets = {
            sheet.name: book.get_sheet_by_name(sheet.name).to_python(skip_empty_area=False)
            for sheet in book.sheets_metadata
            if sheet.visible == calamine.SheetVisibleEnum.Visible
            and sheet.typ == calamine.SheetTypeEnum.WorkSheet
        }
    except calamine.CalamineError as error:
        raise Refused(f"{path}: not a readable workbook ({error})") from error
    found: dict[str, tuple[int, int]] = {}
    for name, cells in sheets.items():
        records = [(number, _texts(row)) for number, row in enumerate(cells, 1)]
        at = _header_at(records, _width(records))
        if at is not None:
            header = pd.DataFrame(columns=[cell for cell in records[at][1] if cell])
            found[name] = (_count_of_needed(header), records[at][0])
    if not found:
        raise Refused(f"{path}: no sheet of the workbook has a row of column names")
    sheet = max(found, key=lambda name: found[name][0])
    keys: dict[str, object] = {"header_row": found[sheet][1]}
    if len(sheets) > 1:
        keys = {"sheet": sheet, **keys}
    rows = _read(path, {"format": "excel", "excel": keys})
    others = [name for name in found if name != sheet and found[name][0] >= found[sheet][0] - 1]
    above = [" | ".join(filter(None, _texts(row))) for row in sheets[sheet][: found[sheet][1] - 1]]
    details: dict[str, object] = {
        "keys": keys,
        "other_sheets": others,
        "above": [text for text in above if text],
    }
    return Table(path, "excel", rows, path.stat().st_size, True, details=details)


def _texts(row: Sequence[object]) -> list[str]:
    """The cells of a row as texts."""
    return [cell_text(value) or "" for value in row]


def _parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            arrow = file.schema_arrow
            groups = file.num_row_groups
            is_whole = path.stat().st_size <= WHOLE_BYTES
            wanted = range(groups) if is_whole else sorted({0, groups // 2, groups - 1})
            table = file.read_row_groups(list(wanted))
    except Exception as error:
        raise Refused(f"{path}: not a readable Parquet file ({error})") from error
    return Table(
        path,
        "parquet",
        _as_texts(table),
        path.stat().st_size,
        is_whole,
        typed=_typed(arrow),
        details={"types": {field.name: str(field.type) for field in arrow}},
    )


def _as_texts(table: pa.Table) -> pd.DataFrame:
    """Columns of an Arrow table as the reader of orders writes them."""
    return pd.DataFrame(
        {
            name: arrow_text(column.combine_chunks()).to_pandas()
            for name, column in zip(table.column_names, table.columns, strict=True)
        },
        dtype="object",
    )


def _typed(schema: pa.Schema) -> frozenset[str]:
    import pyarrow as pa

    def is_typed(type_: pa.DataType) -> bool:
        return (
            pa.types.is_integer(type_)
            or pa.types.is_floating(type_)
            or pa.types.is_decimal(type_)
            or pa.types.is_temporal(type_)
        )

    return frozenset(field.name for field in schema if is_typed(field.type))


def _delta(path: Path) -> Table:
    from deltalake import DeltaTable

    table = DeltaTable(str(path))
    size = sum(table.get_add_actions(flatten=True).column("size_bytes").to_pylist())
    dataset = table.to_pyarrow_dataset()
    is_whole = size <= WHOLE_BYTES
    rows = dataset.to_table() if is_whole else dataset.head(500_000)
    return Table(
        path,
        "delta",
        _as_texts(rows),
        size,
        is_whole,
        typed=_typed(rows.schema),
        details={"types": {field.name: str(field.type) for field in rows.schema}},
    )
