"""Samples of whole parts, so that what a driver reads does not grow with the number of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.compute as pc
from pyspark.sql import functions as F

from resources.lakehouse import Lakehouse
from resources.table_spec import TableSpec

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

PARTS_PER_SHARE = 1_000_000  # shares are told apart to a millionth


def share_of_parts(
    lakehouse: Lakehouse, spec: TableSpec, months: Sequence[int], max_rows: int
) -> float:
    """Share of the parts whose rows in these months stay within ``max_rows``, by the counts of the
    log; 1 where all do.
    """
    stored = pc.sum(lakehouse.files(spec, months)["num_records"]).as_py()
    return min(1.0, max_rows / stored) if stored else 1.0


def draw(rows: DataFrame, share: float) -> DataFrame:
    """Rows of a ``share`` of whole parts by a hash of their part_number: the same parts of all
    rows.
    """
    if share >= 1:
        return rows
    place = F.pmod(F.xxhash64("part_number"), F.lit(PARTS_PER_SHARE))
    return rows.where(place < int(PARTS_PER_SHARE * share))


@dataclass(frozen=True)
class PartSample:
    """A ``share`` of the whole parts of a lakehouse, the same of all tables; all for 1."""

    lakehouse: Lakehouse
    share: float

    def rows(
        self,
        spec: TableSpec,
        columns: Sequence[str],
        months: Sequence[int],
        writers: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Columns of slices (of some writers) as pandas. All models of a run ask for the same, so
        it is kept.
        """
        lakehouse, share = self.lakehouse, self.share

        def read() -> pd.DataFrame:
            if share >= 1 or not lakehouse.files(spec, months, writers).num_rows:
                return lakehouse.rows(spec, columns, months, writers)
            drawn = draw(lakehouse.read(spec, months), share)
            if writers is not None:
                drawn = drawn.where(F.col(str(spec.writer_column)).isin(list(writers)))
            return drawn.select(*columns).toPandas()

        key = (spec.id, lakehouse.version(spec), *columns, *months, share, *(writers or ()))
        return lakehouse.kept.sample(key, read)
