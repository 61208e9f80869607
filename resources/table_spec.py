"""What a Delta table is: columns, key, grain, partitions, constraints. DDL, docs, checks and the UI
are made from it.

How tables are read and written lies in lakehouse.py; which tables there are, in
medallion_assets/tables.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from deltalake import Schema

Layer = Literal["bronze", "silver", "gold"]
_PRIMITIVES = {
    "STRING": "string",
    "INT": "integer",
    "BIGINT": "long",
    "DOUBLE": "double",
    "BOOLEAN": "boolean",
}


@dataclass(frozen=True)
class Column:
    """One column. A volatile column (a time, a run id) is stored but never makes a row count as
    changed.

    A column that is not versioned is kept up to date, but what is made from the table does not
    depend on it.
    """

    name: str
    type: str
    comment: str
    is_nullable: bool = True
    is_volatile: bool = False
    is_versioned: bool = True


@dataclass(frozen=True)
class Constraint:
    """A rule that every row must obey, as SQL over the table's columns."""

    name: str
    sql: str


@dataclass(frozen=True)
class TableSpec:
    """One table: everything that DDL, the UI's column schema, asset checks and docs/tables.md are
    made from.

    A table that ``may_shrink`` holds findings about others, and a correction or a withdrawn label
    takes them back: no plan is asked for when they go.
    """

    layer: Layer
    name: str
    comment: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    write: Literal["append", "merge"]
    code_version: str
    owner: str
    partition_by: tuple[str, ...] = ()
    partition_reason: str = "small: one file is read faster than many"
    writer_column: str | None = None
    month_column: str = "yyyymm"
    constraints: tuple[Constraint, ...] = ()
    has_source_columns: bool = False
    may_shrink: bool = False

    @property
    def id(self) -> str:
        return f"{self.layer}.{self.name}"

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def values(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """The row's values in the order of the columns; None for those it lacks."""
        return tuple(row.get(name) for name in self.column_names)

    @property
    def compared_columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if not column.is_volatile)

    @property
    def versioned_columns(self) -> tuple[str, ...]:
        return tuple(
            column.name for column in self.columns if column.is_versioned and not column.is_volatile
        )


def delta_schema(columns: tuple[Column, ...]) -> Schema:
    """The columns as a Delta schema with their comments, for a table that is created without
    Spark.
    """
    import json

    from deltalake import Schema

    fields = [
        {
            "name": c.name,
            "type": _delta_type(c.type),
            "nullable": c.is_nullable,
            "metadata": {"comment": c.comment},
        }
        for c in columns
    ]
    return Schema.from_json(json.dumps({"type": "struct", "fields": fields}))


def _delta_type(sql: str) -> object:
    """A SQL type as the Delta protocol writes it. Raises ValueError for a type that no table here
    has.
    """
    if nested := re.fullmatch(r"ARRAY<(.+)>", sql):
        return {"type": "array", "elementType": _delta_type(nested[1]), "containsNull": True}
    if nested := re.fullmatch(r"STRUCT<(.+)>", sql):
        parts = (part.strip().split(": ", 1) for part in nested[1].split(","))
        fields = [
            {"name": name, "type": _delta_type(type_), "nullable": True, "metadata": {}}
            for name, type_ in parts
        ]
        return {"type": "struct", "fields": fields}
    if re.fullmatch(r"DECIMAL\(\d+,\d+\)", sql) or sql in ("TIMESTAMP", "DATE"):
        return sql.lower()
    if sql not in _PRIMITIVES:
        raise ValueError(f"{sql} is not a type of a table here")
    return _PRIMITIVES[sql]
