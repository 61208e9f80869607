"""Order headers and order lines in two files: which is which, and the key that joins them.

Pure: tables in, tables out, the lines with the columns of their headers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from medallion_assets.operations.inspection.meaning import Column, Meaning, folded
from medallion_assets.operations.inspection.sniffing import Table

# Shares of lines whose key has a header, and of headers whose key is their own.
FOUND_SHARE, DISTINCT_SHARE = 0.9, 0.99


@dataclass(frozen=True)
class Profile:
    """A table with its columns as their values show them, and what they look like."""

    table: Table
    columns: Mapping[str, Column]
    meaning: Meaning


@dataclass(frozen=True)
class Headers:
    """Tables of order headers, and the column of lines that equals a column of theirs."""

    tables: tuple[Table, ...]
    line_column: str
    header_column: str


def joined(profiles: Sequence[Profile]) -> tuple[list[Table], Headers | None]:
    """The tables, the lines joined with their headers where that is how the tables belong together.

    Lines have a quantity and no date, headers a date and no quantity.
    """
    lines = [p for p in profiles if _has(p, "quantity") and not _has(p, "order_date")]
    heads = [p for p in profiles if _has(p, "order_date") and not _has(p, "quantity")]
    tables = [profile.table for profile in profiles]
    formats = {profile.table.format for profile in (*lines, *heads)}
    if not lines or not heads or len(formats) > 1 or formats & {"delta"}:
        return tables, None
    header_rows = pd.concat([head.table.rows for head in heads], ignore_index=True)
    line_rows = pd.concat([line.table.rows for line in lines], ignore_index=True)
    key = _key(line_rows, header_rows)
    if key is None:
        return tables, None
    headers = Headers(tuple(head.table for head in heads), *key)
    with_headers = [
        replace(line.table, rows=_with_headers(line.table.rows, header_rows, headers))
        for line in lines
    ]
    apart = {id(profile) for profile in (*lines, *heads)}
    others = [profile.table for profile in profiles if id(profile) not in apart]
    return [*with_headers, *others], headers


def _has(profile: Profile, canonical: str) -> bool:
    return canonical in profile.meaning.chosen or (
        canonical == "order_date" and bool(profile.meaning.date_parts)
    )


def _key(lines: pd.DataFrame, headers: pd.DataFrame) -> tuple[str, str] | None:
    """The columns that are equal: distinct among headers, found for nearly every line. Equal names
    win over values that only agree.
    """
    found: list[tuple[bool, float, str, str]] = []
    for header_column in headers.columns:
        keys = headers[header_column].dropna().astype(str).str.strip()
        if len(keys) < 2 or keys.nunique() < DISTINCT_SHARE * len(headers):
            continue
        known = set(keys)
        for line_column in lines.columns:
            share = float(lines[line_column].astype(str).str.strip().isin(known).mean())
            if share >= FOUND_SHARE:
                is_same = folded(line_column) == folded(header_column)
                found.append((is_same, share, line_column, header_column))
    if not found:
        return None
    _, _, line_column, header_column = max(found)
    return line_column, header_column


def _with_headers(lines: pd.DataFrame, headers: pd.DataFrame, joined_by: Headers) -> pd.DataFrame:
    taken = {name.lower() for name in lines.columns}
    own = headers.drop_duplicates(joined_by.header_column)
    renamed = own.rename(
        columns={name: f"header.{name}" if name.lower() in taken else name for name in own.columns}
    )
    key = own[joined_by.header_column].astype(str).str.strip()
    renamed = renamed.assign(**{"\0key": key.to_numpy()})
    keys = lines[joined_by.line_column].astype(str).str.strip()
    merged = lines.assign(**{"\0key": keys}).merge(renamed, on="\0key", how="left")
    return merged.drop(columns="\0key").astype("object")
