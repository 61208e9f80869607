"""Excel and its kin: the sheet, its header, cells as text. A workbook is read whole."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple

from resources.formats import table
from resources.formats.contents import Content, UnreadableFile
from resources.formats.table import (
    HEADER_WITHIN,
    Batches,
    Columns,
    by_column,
    first_line,
    found_header,
    key_of,
    printable,
    valid_names,
    without_exponent,
)
from resources.settings import Source


class _Sheet(NamedTuple):
    name: str
    header: int
    names: list[str]
    cells: list[list[Any]]  # all rows, from the first of the sheet
    merged: list[tuple[tuple[int, int], tuple[int, int]]]
    is_only: bool


def _sheet(content: Content, source: Source) -> _Sheet:
    """The sheet that holds the order lines, whole in memory."""
    import python_calamine as calamine

    wanted, row = source.excel.sheet, source.excel.header_row
    with content.seekable() as stream:
        try:
            book = calamine.load_workbook(stream)
            visible = [
                sheet.name
                for sheet in book.sheets_metadata
                if sheet.visible == calamine.SheetVisibleEnum.Visible
                and sheet.typ == calamine.SheetTypeEnum.WorkSheet
            ]
            names = [wanted] if isinstance(wanted, str) else visible
            if isinstance(wanted, int):
                names = visible[wanted - 1 : wanted]
            if not names or (isinstance(wanted, str) and wanted not in book.sheet_names):
                raise UnreadableFile(
                    f"{content.name}: no sheet {wanted}, which sources.{source.name}.excel.sheet"
                    f" names; the workbook has: {', '.join(book.sheet_names)}"
                )
            read = {}
            for name in names:
                sheet = book.get_sheet_by_name(name)
                read[name] = sheet.to_python(skip_empty_area=False), sheet.merged_cell_ranges or []
        except calamine.PasswordError as error:
            raise UnreadableFile(
                f"{content.name}: the workbook is protected by a password; save it without"
            ) from error
        except calamine.CalamineError as error:
            raise UnreadableFile(
                f"{content.name}: not a readable workbook ({first_line(error)}); deliver it again"
                " complete, or check the format of source"
                f" {source.name}"
            ) from error
    found: list[_Sheet] = []
    refusals: list[UnreadableFile] = []
    for name, (cells, merged) in read.items():
        place = Content(f"{content.name}: sheet {name}", content.opened)
        try:
            header, titles = _excel_header(cells, place, source, row)
            found.append(_Sheet(name, header, titles, cells, merged, len(read) == 1))
        except UnreadableFile as refused:
            refusals.append(refused)
    if not found:
        raise refusals[0]
    if len(found) > 1:
        raise UnreadableFile(
            f"{content.name}: {len(found)} sheets have the columns of the mapping:"
            f" {', '.join(sheet.name for sheet in found)}; set sources.{source.name}.excel.sheet to"
            " the one that is meant, and a source of its own for another"
        )
    return found[0]


def _excel_header(
    cells: list[list[Any]], content: Content, source: Source, row: int | None
) -> tuple[int, list[str]]:
    rows = []
    for number, values in enumerate(cells[: max(HEADER_WITHIN, row or 0)], 1):
        names = [(cell_text(value) or "").strip() for value in values]
        while names and not names[-1]:
            names.pop()
        if names and row in (None, number):
            rows.append((number, names))
    if not rows:
        told = f"row {row}, its header by excel.header_row, is empty" if row else "it is empty"
        raise UnreadableFile(f"{content.name}: {told}; no column names are there")
    if row is not None:
        return rows[0]
    return found_header(rows, content, source, "excel.header_row")


def cell_text(value: object) -> str | None:
    """A cell of a workbook as text, as CSV would have it.

    Dates are yyyy-MM-dd, with a time yyyy-MM-dd HH:mm:ss; numbers have the 15 digits that a
    workbook holds and no exponent; an empty cell is nothing. A date kept as a plain number stays
    that number.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return without_exponent(f"{value:.15g}")
    if isinstance(value, datetime):
        # Times are fractions of a day there: 08:26:00 may come as 08:25:59.999997.
        rounded = value.replace(microsecond=0) + timedelta(
            milliseconds=round(value.microsecond / 1000)
        )
        return _seconds(rounded.isoformat(" "))
    if isinstance(value, date | time):
        return _seconds(value.isoformat())
    return printable(str(value))


def _seconds(text: str) -> str:
    return re.sub(r"(\.\d*?)0+$", r"\1", text).rstrip(".") if "." in text else text


def columns(content: Content, source: Source) -> Columns:
    """Columns of a sheet with a name or a value, and its header's place. Raises UnreadableFile."""
    sheet = _sheet(content, source)
    place = "" if sheet.is_only and sheet.header == 1 else f"sheet {sheet.name}, row {sheet.header}"
    names = [sheet.names[at] for at in _used(sheet)]
    return Columns(tuple(names), place and f"the header is in {place}")


def _used(sheet: _Sheet) -> list[int]:
    """Positions of columns that have a name or a value below the header."""
    width = max(len(row) for row in sheet.cells)
    sheet.names.extend([""] * (width - len(sheet.names)))
    below = sheet.cells[sheet.header :]

    def holds_values(at: int) -> bool:
        return any(row[at] not in (None, "") for row in below if at < len(row))

    return [at for at in range(width) if sheet.names[at] or holds_values(at)]


def lines(content: Content, source: Source) -> Batches:
    """Lines of a sheet by their row, as texts, with what is wrong with each."""
    sheet = _sheet(content, source)
    used = _used(sheet)
    names = valid_names([sheet.names[at] for at in used])
    problems_of = _spread(sheet, source)
    nothing: list[str | None] = [None] * len(used)
    numbers: list[int] = []
    problems: list[str | None] = []
    raws: list[str | None] = []
    rows: list[list[str | None]] = []
    for number, cells in enumerate(sheet.cells[sheet.header :], sheet.header + 1):
        values = [cell_text(cells[at]) if at < len(cells) else None for at in used]
        if not any(value and value.strip() for value in values):
            continue
        problem = problems_of.get(number)
        numbers.append(number)
        problems.append(problem)
        raws.append(" | ".join(value or "" for value in values) if problem else None)
        rows.append(nothing if problem else values)
        if len(numbers) >= table.BATCH_LINES:
            yield numbers, problems, raws, by_column(names, rows)
            numbers, problems, raws, rows = [], [], [], []
    if numbers:
        yield numbers, problems, raws, by_column(names, rows)
    return len(sheet.cells)


def _spread(sheet: _Sheet, source: Source) -> dict[int, str]:
    """Gives each row the value of a cell merged over several, as it is seen there; a quantity
    can't be, so its rows get a problem.
    """
    quantities = {key_of(name) for name in source.candidates("quantity")}
    problems = {}
    for (top, left), (bottom, right) in sheet.merged:
        # A cell that spans rows and columns is a title, not the value of a line.
        if top == bottom or left != right or top < sheet.header:
            continue
        if left < len(sheet.names) and key_of(sheet.names[left] or "?") in quantities:
            for row in range(top, bottom + 1):
                problems[row + 1] = (
                    f"unreadable: one quantity merged over rows {top + 1} to {bottom + 1}"
                )
            continue
        for row in range(top + 1, min(bottom, len(sheet.cells) - 1) + 1):
            sheet.cells[row][left] = sheet.cells[top][left]
    return problems
