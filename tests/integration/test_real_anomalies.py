"""The orders of 74,215 and 80,995 units of Online Retail II, had nobody cancelled them: found by
what was published the month before, and gone when the cancellation comes in.

Both are first orders of their parts, so that they are held against all parts together. Parts as in
test_real_orders.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import dagster as dg
import pandas as pd
import pytest
import yaml

from medallion_assets import tables
from medallion_assets.definitions import build_defs, build_resources, newest_partition
from medallion_assets.labels import Labelling
from resources.settings import parse_settings
from tests.conftest import forget_tables, open_lakehouse
from tests.integration.test_real_orders import CANCELLED, ORDERS, ROOT, drawn_parts

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from resources.engines import Engine
    from resources.lakehouse import DeltaLakehouse

pytestmark = [pytest.mark.spark, pytest.mark.integration, pytest.mark.real]

MONTHS = [month for month, _ in CANCELLED.values()]


class World(NamedTuple):
    """A lakehouse, what runs a job for a month or a range, what registers new files, the folder of
    its files, and the two cancelling lines.
    """

    lakehouse: DeltaLakehouse
    run: Callable[..., None]
    take_in: Callable[[], None]
    folder: Path
    cancellations: pd.DataFrame


@pytest.fixture(scope="module")
def world(
    spark: SparkSession, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The drawn parts without the two cancellations, published for the months of the orders."""
    if not ORDERS.is_dir():
        pytest.skip(f"{ORDERS} is absent; SHARED_DATA may name its folder")
    folder = tmp_path_factory.mktemp("uncancelled orders")
    exports = {path.name: pd.read_parquet(path) for path in sorted(ORDERS.glob("*.parquet"))}
    parts = drawn_parts(pd.concat([lines["StockCode"] for lines in exports.values()]))
    cancellations = []
    for name, lines in exports.items():
        code = lines["StockCode"].astype(str).str.strip().str.upper()
        is_large = code.isin(CANCELLED) & (lines["Quantity"] < -10_000)
        cancellations.append(lines[is_large])
        lines[code.isin(parts) & ~is_large].to_parquet(folder / name, index=False)
    content = yaml.safe_load(
        (ROOT / "config" / "online_retail_ii.yaml").read_text(encoding="utf-8")
    )
    content |= {"lakehouse_root": "lakehouse", "spark": {}, "last_month": MONTHS[-1]}
    content["zoo"] = {"models": ["seasonal_naive"], "buckets": 2}
    content["sources"][0]["files"] = f"{folder}/*.parquet"
    settings = parse_settings(content, folder / "real.yaml")
    lakehouse = open_lakehouse(engine, settings)
    resources = build_resources(settings) | {
        "lakehouse": dg.ResourceDefinition.hardcoded_resource(lakehouse)
    }
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        defs = build_defs(settings, resources)

        def run(job: str, first: int, last: int | None = None) -> None:
            span = {
                "dagster/asset_partition_range_start": str(first),
                "dagster/asset_partition_range_end": str(last or first),
            }
            assert (
                defs.resolve_job_def(job).execute_in_process(instance=instance, tags=span).success
            )

        def take_in() -> None:
            run("register_deliveries", int(newest_partition(settings)))

        take_in()
        run("monthly_data", settings.first_month, MONTHS[-1])
        for origin in (201012, 201111):
            run("publish", origin)
        run("monthly_data", MONTHS[0], MONTHS[-1])
        yield World(lakehouse, run, take_in, folder, cancellations[1])
    forget_tables(engine, settings)


def claimed(lakehouse: DeltaLakehouse) -> pd.DataFrame:
    """Stored anomalies by part and month."""
    return lakehouse.rows(tables.DEMAND_ANOMALY).set_index(["part_number", "yyyymm"])


def test_two_orders_that_nobody_cancelled_are_found(
    world: World,
) -> None:
    """Both are claimed against the forecast published the month before, with most of the money."""
    rows = claimed(world.lakehouse)
    for part, (month, quantity) in CANCELLED.items():
        row = rows.loc[(part, month)]
        assert (row["direction"], row["basis"], row["horizon"]) == ("high", "all_parts", 1)
        assert row["demand_qty"] >= quantity
        assert row["money_at_stake"] == rows.xs(month, level="yyyymm")["money_at_stake"].max()


def test_a_label_is_shown_and_a_late_cancellation_takes_the_anomaly_back(
    world: World,
) -> None:
    """A label stands in the row after the next run, a run after it changes nothing, and a file with
    the cancellations removes both.
    """
    lakehouse, run, take_in, folder, cancellations = world
    part, (month, _) = next(iter(CANCELLED.items()))
    Labelling(lakehouse, "ada", {}).give(part, month, "error", "cancelled within minutes")
    run("monthly_data", MONTHS[0], MONTHS[-1])
    row = claimed(lakehouse).loc[(part, month)]
    assert (row["label"], row["labelled_by"]) == ("error", "ada")
    version = lakehouse.version(tables.DEMAND_ANOMALY)
    run("monthly_data", MONTHS[0], MONTHS[-1])
    assert lakehouse.version(tables.DEMAND_ANOMALY) == version
    cancellations.to_parquet(folder / "late.parquet", index=False)
    take_in()
    run("monthly_data", MONTHS[0], MONTHS[-1])
    assert not {(p, m) for p, (m, _) in CANCELLED.items()} & set(claimed(lakehouse).index)
