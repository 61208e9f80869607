"""Bronze to features and drift with one portable expression taken back: engines do it differently.

`python -m tests.unportable REWRITE FIRST LAST`; an empty rewrite leaves the code as it is.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from resources.table_spec import TableSpec


def sums_over_windows() -> None:
    """Sums over windows are of doubles, not of whole numbers of small units."""
    from medallion_assets import exact
    from medallion_assets.silver import transforms

    def total_over(name: str, window: Any, scale: Any = exact.MANY_ROWS) -> Any:
        value = F.col(f"{name}_whole") * exact.BASE + F.col(f"{name}_rest") / scale.resolution
        return F.sum(value).over(window)

    _replace(transforms, total_over=total_over)


def sums_in_groups() -> None:
    """Sums of groups are of doubles, in whatever order rows come."""
    from medallion_assets.watch import drift

    _replace(
        drift,
        exact_sums=lambda name, value: [F.sum(value).alias(name)],
        total=F.col,
    )


def decimals_as_text() -> None:
    """Decimals of many digits are hashed as they are, not as text."""
    from resources import lakehouse

    slice_versions = lakehouse._slice_versions

    def of_bytes(spec: TableSpec, rows: DataFrame) -> dict[int, tuple[int, str]]:
        columns = (replace(c, type=c.type.replace("DECIMAL", "NUMERIC")) for c in spec.columns)
        return slice_versions(replace(spec, columns=tuple(columns)), rows)

    _replace(lakehouse, _slice_versions=of_bytes)


REWRITES = {
    function.__name__: function
    for function in (sums_over_windows, sums_in_groups, decimals_as_text)
}


def main(rewrite: str, first: str, last: str) -> None:
    """Take the rewrite back, then register and store all orders and bring them to features."""
    from tests.faults import victim

    if rewrite:
        REWRITES[rewrite]()
    victim.main("", "register_deliveries", last)
    victim.main("", "monthly_data", first, last)


def _replace(module: ModuleType, **names: Any) -> None:
    for name, value in names.items():
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__} has no {name} any more")
        setattr(module, name, value)


if __name__ == "__main__":
    main(*sys.argv[1:])
