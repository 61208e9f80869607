"""Buckets of whole parts: how rows of Spark frames come together in one Python call for many
parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NUMPY_TYPES = {"int": "int32", "bigint": "int64", "boolean": "bool"}


def in_buckets(rows: DataFrame, buckets: int) -> DataFrame:
    """Rows with the bucket of their part_number, each bucket in a partition of its own: an engine
    that can't spill what it groups holds one at a time.
    """
    bucket = F.pmod(F.xxhash64("part_number"), F.lit(buckets))
    return rows.withColumn("bucket", bucket).repartition(buckets, "bucket")


def apply_by_bucket(  # noqa: PLR0913 - as Spark's cogroup().applyInPandas(), in buckets
    left: DataFrame,
    right: DataFrame,
    buckets: int,
    function: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame],
    schema: str,
    *,
    in_engine: Callable[[Any], Any] = lambda body: body,
) -> DataFrame:
    """What ``function`` gives for the rows of ``left`` and ``right`` in each bucket; one of its
    frames may be empty.

    Columns of one name have one type on both sides. The sides go through a union, since not every
    engine groups two frames together. ``in_engine``: how the engine runs a Python function
    (Engine.python).
    """
    sides = dict(left.dtypes), dict(right.dtypes)
    types = sides[1] | sides[0]

    def completed(rows: DataFrame, is_left: bool) -> DataFrame:
        # Typed, because Python is not given a column of no type.
        lacking = {
            name: F.lit(None).cast(types[name]) for name in types if name not in rows.columns
        }
        return rows.withColumns({**lacking, "is_left": F.lit(is_left)}).select(*types, "is_left")

    def call(rows: pd.DataFrame) -> pd.DataFrame:
        is_left = rows["is_left"].astype(bool)
        return function(_side(rows[is_left], sides[0]), _side(rows[~is_left], sides[1]))

    both = completed(left, True).unionByName(completed(right, False))
    return in_buckets(both, buckets).groupBy("bucket").applyInPandas(in_engine(call), schema)


def _side(rows: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    """The columns of one side; the NULLs of the other had made floats of integers, and objects of
    booleans.
    """
    own = rows[list(types)].reset_index(drop=True)
    whole = [
        name for name, type_ in types.items() if type_ in NUMPY_TYPES and own[name].notna().all()
    ]
    return own.astype({name: NUMPY_TYPES[types[name]] for name in whole})
