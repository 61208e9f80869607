"""The company's own rules for its lines: SQL from the configuration, tried on the engine before
anything is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from resources.errors import Refused

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession

    from resources.settings import Source

# The columns that a rule sees, with a line on which each rule must give an answer or NULL.
COLUMNS = {
    "source": ("STRING", "'shop'"),
    "delivery_id": ("STRING", "'d'"),
    "line_number": ("BIGINT", "2"),
    "yyyymm": ("INT", "202401"),
    "order_id": ("STRING", "'O1'"),
    "part_number": ("STRING", "'P1'"),
    "customer_id": ("STRING", "NULL"),
    "region": ("STRING", "NULL"),
    "description": ("STRING", "NULL"),
    "order_date": ("TIMESTAMP", "'2024-01-05 10:00:00'"),
    "quantity": ("DECIMAL(24,6)", "3"),
    "unit_price": ("DECIMAL(24,6)", "NULL"),
    "line_type": ("STRING", "'sale'"),
}


def broken(source: Source, action: str) -> list[tuple[str, Column]]:
    """Names of the source's own rules of an action, each with whether a canonical line breaks
    it.
    """
    return [
        (rule.name, F.coalesce(F.expr(rule.sql), F.lit(False)))
        for rule in source.rules.own
        if rule.action == action
    ]


def check_rules(spark: SparkSession, sources: Sequence[Source]) -> None:
    """Raise Refused, naming source and rule, where the engine can't read a rule or it is no
    condition.
    """
    rules = [(source.name, rule) for source in sources for rule in source.rules.own]
    if not rules:
        return
    line = spark.range(1).select(
        *[
            F.expr(f"CAST({value} AS {type_})").alias(name)
            for name, (type_, value) in COLUMNS.items()
        ]
    )
    mistakes = []
    for name, rule in rules:
        try:
            made = line.select(F.expr(rule.sql).alias("is_broken"))
            if (found := made.dtypes[0][1]) != "boolean":
                mistakes.append(f"{name}: {rule.name}: {rule.sql}: gives {found}, no true or false")
            made.collect()
        except PySparkException as error:
            told = str(error).strip().splitlines()[0]
            mistakes.append(f"{name}: {rule.name}: {rule.sql}: {told}")
    if mistakes:
        listed = "\n".join(f"  {mistake}" for mistake in mistakes)
        raise Refused(
            f"{len(mistakes)} rule(s) under rules.own can't be used; no table was changed\n{listed}"
        )
