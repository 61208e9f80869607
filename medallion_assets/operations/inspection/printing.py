"""What `medallion inspect` prints: facts of the files, columns, dates, numbers, signs, months,
counts and questions.

Plain lines and one table a source, readable in a pipe as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from medallion_assets.operations.inspection.proposing import Proposal, SourceProposal
from medallion_assets.operations.inspection.sniffing import DELIMITER_NAMES, Layout, Table
from medallion_assets.operations.inspection.writing import short
from medallion_assets.partitions import month_range, stretches

if TYPE_CHECKING:
    from medallion_assets.operations.inspection.counting import Outcome

KINDS = {"month": "month", "date": "date", "integer": "whole number", "number": "number"}
SHOWN_MONTHS = 14


def show(proposal: Proposal, console: Console) -> None:
    """Everything that was found, source by source."""
    for source in proposal.sources:
        console.print(f"\n[bold]{escape(source.name)}[/bold]")
        for table in source.tables[:5]:
            console.print(f"  {escape(_file_line(table))}")
        if len(source.tables) > 5:
            console.print(f"  and {len(source.tables) - 5} more files")
        for table in source.tables[:3]:
            if table.layout:
                for line in _layout_lines(table.layout):
                    console.print(f"    {escape(line)}")
        _columns(source, console)
        for line in [*_value_lines(source), *_sign_lines(source), *_month_lines(source)]:
            console.print(f"  {escape(line)}")


def _file_line(table: Table) -> str:
    told = f"{len(table.rows):,} lines, {_size(table.byte_count)}, {table.format}"
    if table.layout:
        layout = table.layout
        mark = " with a byte-order mark" if layout.encoding.has_mark else ""
        told += (
            f", {layout.encoding.name}{mark}, delimiter"
            f" {DELIMITER_NAMES.get(layout.delimiter, layout.delimiter)}, quote {layout.quote}"
        )
        told += f", escape {layout.escape}" if layout.escape else ""
    keys = table.details.get("keys")
    if isinstance(keys, dict) and keys:
        told += ", " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in keys.items())
    above = table.details.get("above")
    if isinstance(above, list) and above:
        told += f", above the table: {'; '.join(short(str(text), 50) for text in above[:3])}"
    sample = "" if table.is_whole else "; a sample of it: beginning, middle and end"
    return f"{table.path.name}: {told}{sample}"


def _size(byte_count: int) -> str:
    for unit, size in (("MB", 2**20), ("KB", 2**10)):
        if byte_count >= size:
            return f"{byte_count / size:,.1f} {unit}"
    return f"{byte_count} bytes"


def _layout_lines(layout: Layout) -> list[str]:
    lines = []
    if layout.header_line is None:
        lines.append("no line with column names")
    elif layout.header_line > 1:
        lines.append(f"columns are named in line {layout.header_line}")
    for told, entries in (
        ("above the table", layout.above),
        ("below the table", layout.below),
        ("the header again", layout.repeated),
        ("sums and page numbers", layout.totals),
        ("comments", layout.comments),
        ("another number of fields", layout.uneven),
    ):
        if entries:
            more = f" and {len(entries) - 3:,} more" if len(entries) > 3 else ""
            shown = "; ".join(f"line {number}: {short(text, 50)}" for number, text in entries[:3])
            lines.append(f"{told}: {shown}{more}")
    return lines


def _columns(source: SourceProposal, console: Console) -> None:
    canonical_of = {
        name: canonical for canonical, names in source.columns.items() for name in names
    }
    grid = Grid(box=None, pad_edge=False)
    for name in ("  column", "type", "missing", "looks like", "examples"):
        grid.add_column(name, overflow="fold")
    for name, column in source.all_columns.items():
        canonical = canonical_of.get(name, "")
        is_sure = not canonical or all(
            match.is_named for c, match in source.meaning.chosen.items() if c == canonical
        )
        grid.add_row(
            f"  {escape(short(name, 40))}",
            KINDS.get(column.kind, column.kind),
            f"{column.missing_share:.1%}" if column.missing_share else "",
            canonical + ("" if is_sure else " ?"),
            escape(", ".join(short(text, 30) for text in column.examples)),
        )
    console.print(grid)


def _value_lines(source: SourceProposal) -> list[str]:
    lines = []
    for ways in source.dates.readings:
        count = len(ways[0].days)
        told = " or ".join(way.pattern for way in ways)
        suffix = ": day and month can't be told apart" if len(ways) > 1 else ""
        lines.append(f"dates: {told} reads all {count:,} values of this form{suffix}")
    if source.dates.unread:
        shown = ", ".join(f"'{short(text, 30)}'" for text in source.dates.unread[:3])
        lines.append(f"dates: {len(source.dates.unread):,} values are none: {shown}")
    numbers = source.numbers
    if "quantity" in source.profiles:
        told = f"decimal sign {numbers.decimal}" if numbers.decimal else "decimal sign unclear"
        told += f", thousands separated by '{numbers.thousands}'" if numbers.thousands else ""
        told += ", minus in parentheses" if numbers.has_parentheses else ""
        told += ", minus behind" if numbers.has_minus_behind else ""
        told += ", with currency" if numbers.has_currency else ""
        lines.append(f"numbers: {told}")
    return lines


def _sign_lines(source: SourceProposal) -> list[str]:
    signs = source.signs
    lines = []
    if signs.negative_lines:
        told = f"{signs.negative_lines:,} line(s) with a negative quantity"
        if signs.marker:
            told += (
                f", {signs.marked_lines:,} of them with '{signs.marker}' before the order number,"
                f" such as {signs.marked_example}"
            )
        lines.append(f"returns: {told}")
    if signs.types:
        told = "; ".join(f"{kind}: {_listed(texts)}" for kind, texts in signs.types.items())
        lines.append(f"types of line: {told}")
    if signs.positive_refunds:
        lines.append(
            f"refunds: {signs.positive_refunds:,} line(s) of a refund have a positive quantity"
        )
    if signs.zero_lines:
        lines.append(f"quantity zero: {signs.zero_lines:,} line(s)")
    if source.repeated_lines:
        lines.append(f"repeated: {source.repeated_lines:,} line(s) equal another of their file")
    return lines


def _month_lines(source: SourceProposal) -> list[str]:
    months = source.months
    if not months:
        return []
    known = sorted(months)
    told = ", ".join(
        f"{first} to {last}" if first != last else str(first) for first, last in stretches(known)
    )
    gaps = len(month_range(known[0], known[-1])) - len(known)
    way = f" by {source.dates.patterns[0]}" if source.dates.is_ambiguous else ""
    lines = [f"months{way}: {told}" + (f"; {gaps} in between have no line" if gaps else "")]
    shown = known if len(known) <= SHOWN_MONTHS else [*known[:3], *known[-8:]]
    lines.append(
        "lines: "
        + ", ".join(f"{month} {months[month]:,}" for month in shown)
        + ("" if shown == known else f" ({len(known) - len(shown)} months left out)")
    )
    if source.newest:
        lines.append(f"newest line: {source.newest:%Y-%m-%d}")
    return lines


def show_outcome(found: Outcome, proposal: Proposal, console: Console) -> None:
    """What the rules of bronze and silver make of the lines."""
    accepted = found.dispositions.get("accepted", 0)
    console.print("\n[bold]With this configuration[/bold]")
    others = ", ".join(
        f"{count:,} {name}" for name, count in found.dispositions.items() if name != "accepted"
    )
    console.print(
        f"  {found.line_count:,} lines read: {accepted:,} accepted"
        + (f", {others}" if others else "")
    )
    first = found.examples.set_index("reason") if len(found.examples) else None
    for reason, count in found.reasons.items():
        example = ""
        if first is not None and reason in first.index:
            row = first.loc[reason]
            values = ", ".join(
                f"{name} '{short(str(row[f'{name}_text']), 24)}'"
                for name in ("part_number", "order_date", "quantity", "unit_price")
                if row[f"{name}_text"] is not None
            )
            example = f"; {row['file']} line {row['line_number']}: {values or 'nothing to show'}"
        console.print(f"    {reason}: {count:,}{escape(example)}")
    if len(found.demand):
        by_month = found.demand.groupby("yyyymm")["demand_qty"].sum()
        shown = by_month.tail(12)
        told = ", ".join(f"{month} {quantity:,.10g}" for month, quantity in shown.items())
        parts = found.demand["part_number"].nunique()
        console.print(f"  demand of {parts:,} part(s): {told}")


def questions(proposal: Proposal, console: Console) -> None:
    """All questions, the open ones first."""
    ordered = sorted(proposal.questions, key=lambda question: not question.is_open)
    if not ordered:
        return
    console.print("\n[bold]Questions[/bold]")
    for question in ordered:
        place = f"{question.source}.{question.key}" if question.source else question.key
        state = "[red]open[/red] " if question.is_open else ""
        console.print(f"  {state}{escape(place)}: {escape(question.text)}")


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(short(text, 30) or "none" for text in texts)
