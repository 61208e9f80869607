"""Orders in two files: lines in one, what all lines of an order share in another, joined by key.

A delivery is a file of lines. Headers are read with the lines and kept whole in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from resources import formats
from resources.formats import Batch, Columns, lacking_columns, valid_names
from resources.settings import HeaderFiles, Source

MISSING, AMBIGUOUS = "order_header_missing", "order_header_ambiguous"
Key = tuple[str, ...]


def header_source(source: Source) -> Source:
    """The header files of a source as a source of their own, whose mapping is their key."""
    header = _header_of(source)
    named = {f"header key {n}": theirs for n, theirs in enumerate(header.key.values(), 1)}
    return source.model_copy(update={"files": header.files, "columns": named, "header": None})


def line_source(source: Source, header_names: Sequence[str]) -> Source:
    """The files of lines alone: their mapping is what no header has, and the key."""
    header = _header_of(source)
    own = {
        canonical: mapped
        for canonical, mapped in source.columns.items()
        if canonical in lacking_columns(source, header_names)
    }
    own |= {f"line key {n}": ours for n, ours in enumerate(header.key, 1)}
    return source.model_copy(update={"columns": own, "header": None})


def header_names(source: Source, paths: Sequence[str]) -> list[str]:
    """Columns of the header files as spelled, without the key. Raises UnreadableFile."""
    of_headers = header_source(source)
    found = dict.fromkeys(
        name for path in paths for name in formats.columns(path, of_headers).names
    )
    key = {name.lower() for name in _header_of(source).key.values()}
    return [name for name in found if name.lower() not in key]


def joined_columns(path: str, source: Source, paths: Sequence[str]) -> Columns:
    """Columns of a file of lines with those of its headers: a header's column that has the name of
    a line's is called header.name.
    """
    theirs = header_names(source, paths)
    own = formats.columns(path, line_source(source, theirs))
    return Columns((*own.names, *_told_apart(own.names, theirs)), own.place)


@dataclass(frozen=True)
class Headers:
    """Header rows by key; None where a key has two that differ."""

    source: Source
    names: list[str]
    rows: dict[Key, list[str | None] | None]

    @classmethod
    def read(cls, source: Source, paths: Sequence[str]) -> Headers:
        """All headers of a source. Raises UnreadableFile."""
        names, of_headers = header_names(source, paths), header_source(source)
        wanted = [valid_names([name])[0] for name in names]
        key = [valid_names([name])[0] for name in _header_of(source).key.values()]
        rows: dict[Key, list[str | None] | None] = {}
        for path in paths:
            for numbers, problems, _, values in formats.lines(path, of_headers):
                columns = _lists(values)
                nothing: list[str | None] = [None] * len(numbers)
                keys = zip(*(columns[name] for name in key), strict=True)
                held = zip(*(columns.get(name, nothing) for name in wanted), strict=True)
                for at, (fields, row) in enumerate(zip(keys, held, strict=True)):
                    found = _key_of(fields)
                    if problems[at] is None and found is not None:
                        is_same = rows.setdefault(found, list(row)) == list(row)
                        if not is_same:
                            rows[found] = None
        return cls(source, names, rows)

    def lines(self, path: str, byte_count: int | None) -> Iterator[Batch]:
        """The lines of a file with their headers' columns; a line whose key has no header, or two,
        has that as its problem.
        """
        own = line_source(self.source, self.names)
        spelled = formats.columns(path, own).names
        ours = [valid_names([name])[0].lower() for name in _header_of(self.source).key]
        added = valid_names([*spelled, *_told_apart(spelled, self.names)])[len(spelled) :]
        nothing: list[str | None] = [None] * len(self.names)
        for numbers, problems, raws, values in formats.lines(path, own, byte_count):
            columns = {name.lower(): column for name, column in _lists(values).items()}
            absent: list[str | None] = [None] * len(numbers)
            keys = zip(*(columns.get(name, absent) for name in ours), strict=True)
            told, held = list(problems), []
            for at, fields in enumerate(keys):
                key = _key_of(fields)
                row = self.rows.get(key) if key is not None else None
                if told[at] is None and row is None:
                    told[at] = AMBIGUOUS if key in self.rows else MISSING
                held.append(row or nothing)
            theirs = dict(zip(added, map(list, zip(*held, strict=True)), strict=True))
            yield numbers, told, raws, {**values, **theirs}


def _header_of(source: Source) -> HeaderFiles:
    assert source.header is not None  # noqa: S101 - for the types
    return source.header


def _told_apart(own: Sequence[str], theirs: Sequence[str]) -> list[str]:
    taken = {valid_names([name])[0].lower() for name in own}
    return [
        f"header.{name}" if valid_names([name])[0].lower() in taken else name for name in theirs
    ]


def _lists(values: dict[str, Any]) -> dict[str, list[str | None]]:
    return {
        name: column.to_pylist() if isinstance(column, pa.Array) else column
        for name, column in values.items()
    }


def _key_of(fields: Sequence[str | None]) -> Key | None:
    key = tuple((field or "").strip() for field in fields)
    return key if all(key) else None
