"""What the tables are, for people: docs/tables.md and the frames that notebooks show. All of it is
made from the TableSpecs, so that it can't say something else than the tables do.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medallion_assets.tables import TABLES
from resources.lakehouse import TableSpec


def write(folder: Path) -> list[Path]:
    """Write the documents that differ from what is there; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "tables.md", tables_markdown()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return []
    path.write_text(text, encoding="utf-8")
    return [path]


def tables_markdown() -> str:
    """All tables with grain, key, partitioning, rules and columns."""
    head = (
        "# Tables\n\nMade from `medallion_assets/tables.py` by `medallion docs`; names are"
        " `catalog.schema.table` as configured (`my_catalog`, `my_bronze`, `my_silver`, `my_gold`"
        " by default).\n"
    )
    return head + "".join(_table(spec) for spec in TABLES)


def table_design() -> pd.DataFrame:
    """A row for each table: table, grain, key, partitions, why_partitioned, written, columns,
    rules, owner.
    """
    return pd.DataFrame(
        {
            "table": spec.id,
            "grain": spec.grain,
            "key": ", ".join(spec.key),
            "partitions": ", ".join(spec.partition_by) or "none",
            "why_partitioned": spec.partition_reason,
            "written": spec.write,
            "columns": len(spec.columns),
            "rules": len(spec.constraints),
            "owner": spec.owner,
        }
        for spec in TABLES
    )


def column_design(spec: TableSpec) -> pd.DataFrame:
    """A row for each column of a table: column, type, is_required, meaning."""
    return pd.DataFrame(
        {
            "column": column.name,
            "type": column.type,
            "is_required": not column.is_nullable,
            "meaning": column.comment,
        }
        for column in spec.columns
    )


def rules() -> pd.DataFrame:
    """A row for each rule that a blocking check asks of every row: table, rule, sql."""
    return pd.DataFrame(
        {"table": spec.id, "rule": rule.name, "sql": rule.sql}
        for spec in TABLES
        for rule in spec.constraints
    )


def _table(spec: TableSpec) -> str:
    partition = (
        f"by {', '.join(spec.partition_by)}: {spec.partition_reason}"
        if spec.partition_by
        else f"none: {spec.partition_reason}"
    )
    rules = "".join(f"\n- rule {c.name}: `{c.sql}`" for c in spec.constraints)
    source = "\n- and the source's own columns, as text" if spec.has_source_columns else ""
    columns = "".join(
        f"| {c.name} | {c.type} | {'' if c.is_nullable else 'yes'} | {c.comment} |\n"
        for c in spec.columns
    )
    return (
        f"\n## {spec.id}\n\n{spec.comment}\n\n- grain: {spec.grain}\n- key:"
        f" {', '.join(spec.key)}\n- written: {spec.write}\n- physical partitions: {partition}\n-"
        f" owner: {spec.owner}\n- code version: {spec.code_version}{rules}{source}\n\n| column |"
        f" type | required | meaning |\n| --- | --- | --- | --- |\n{columns}"
    )
