"""Rows that agree with others, told apart from those that agree with none, without sorting all.

A window function sorts every row it is given, with all its columns. Where only a few rows of a
large table need one, a pass over hashes finds them first. Equal values have equal hashes; rows
whose hashes agree by chance are among the few, where nothing is wrong about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

HASH = "_hash"


def hashed(rows: DataFrame, by: Sequence[str]) -> DataFrame:
    """A frame of one column, HASH, of the columns ``by`` of each row. Decimals as text: engines
    differ in their bytes.
    """
    return rows.select(_hash_of(rows, by).alias(HASH))


def repeated(rows: DataFrame, by: Sequence[str]) -> DataFrame:
    """The hashes of the values of ``by`` that more than one row has."""
    return hashed(rows, by).groupBy(HASH).agg(F.count("*").alias("n")).where("n > 1").select(HASH)


def parted(rows: DataFrame, by: Sequence[str], hashes: DataFrame) -> tuple[DataFrame, DataFrame]:
    """The rows whose values of ``by`` have one of the hashes, and all others. ``hashes`` holds none
    twice.

    Not a left anti join: for that an engine may keep all rows in memory rather than the hashes.
    """
    found = hashes.withColumn("_is_found", F.lit(True)).join(
        rows.withColumn(HASH, _hash_of(rows, by)), HASH, "right"
    )
    alike, others = found.where("_is_found"), found.where("_is_found IS NULL")
    return alike.select(*rows.columns), others.select(*rows.columns)


def _hash_of(rows: DataFrame, by: Sequence[str]) -> Column:
    types = dict(rows.dtypes)
    return F.xxhash64(
        *[
            F.col(name).cast("string") if types[name].startswith("decimal") else F.col(name)
            for name in by
        ]
    )
