"""A million order lines stored by a wrong date format, and the format corrected: seconds, lines
moved, files of other months, memory.

`python benchmarks/corrected_mapping.py [lines] [folder]`, a million lines by default.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

from medallion_assets.bronze.lines import LineStore
from medallion_assets.bronze.redating import Redating
from medallion_assets.bronze.register import Register
from medallion_assets.operations import runs
from medallion_assets.partitions import month_range
from medallion_assets.plans import PLAN_TAG, Plans, listed
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES
from resources.errors import Refused
from resources.lakehouse import DeltaLakehouse
from resources.orders import LocalOrderFiles
from resources.settings import Settings, parse_settings

FIRST, LAST = 202201, 202412
COLUMNS = {
    "order_id": "Order",
    "part_number": "Part",
    "order_date": "Date",
    "quantity": "Qty",
    "unit_price": "Price",
}
Made = TypeVar("Made")


def main(lines: int, folder: Path) -> None:
    """Two sources: one whose format is corrected, and one of other months that nobody touches."""
    write(folder, lines)
    wrong = settings(folder, "MM/dd/yyyy")
    lakehouse = runs.writer(wrong)
    told("registered", lambda: register(wrong, lakehouse))
    told("stored", lambda: store(wrong, lakehouse))
    right = settings(folder, "dd/MM/yyyy")
    others = files(lakehouse, 2024)
    told("plan made", lambda: refused(right, lakehouse))
    plan = str(listed(lakehouse)["plan_id"].iloc[-1])
    redated = told("plan applied", lambda: redate(right, lakehouse, plan))
    print(f"{redated.moved_lines:,} lines moved in {len(redated.moves)} kinds of moves")
    print(f"files of 2024 as they were: {files(lakehouse, 2024) == others}")
    versions = [lakehouse.version(spec) for spec in (DELIVERIES, BRONZE_SALES_ORDERS)]
    again = told("again", lambda: redate(right, lakehouse, ""))
    told("stored again", lambda: store(right, lakehouse))
    same = versions == [lakehouse.version(spec) for spec in (DELIVERIES, BRONZE_SALES_ORDERS)]
    print(f"second run had nothing to do: {same and not again.records}")


def write(folder: Path, lines: int) -> None:
    """Lines spread over 2022 and 2023, and a tenth as many of 2024 in another file."""
    for name, first, days, count in (("a", 2022, 730, lines), ("b", 2024, 366, lines // 10)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        texts = [
            (date(first, 1, 1) + timedelta(n)).strftime("%d/%m/%Y" if name == "a" else "%Y-%m-%d")
            for n in range(days)
        ]
        with (folder / name / "orders.csv").open("w", encoding="utf-8") as file:
            file.write("Order,Part,Date,Qty,Price\n")
            file.writelines(
                f"{name}{n // 4},P-{n % 5000},{texts[n % days]},{n % 7 + 1},2.50\n"
                for n in range(count)
            )


def settings(folder: Path, date_format: str) -> Settings:
    sources = [
        {"name": name, "files": f"{name}/*.csv", "columns": COLUMNS, "date_formats": [format_]}
        for name, format_ in (("a", date_format), ("b", "yyyy-MM-dd"))
    ]
    content = {"lakehouse_root": "lakehouse", "first_month": FIRST, "sources": sources}
    return parse_settings(content, folder / "benchmark.yaml")


def register(configured: Settings, lakehouse: DeltaLakehouse) -> Any:
    return Register(configured, lakehouse, LocalOrderFiles(), lambda text: None).run("run")


def store(configured: Settings, lakehouse: DeltaLakehouse) -> Any:
    lines = LineStore(configured, lakehouse, LocalOrderFiles(), lambda text: None)
    return lines.run(month_range(FIRST, LAST), "run")


def redate(configured: Settings, lakehouse: DeltaLakehouse, plan: str) -> Any:
    plans = Plans(lakehouse, "benchmark", 13)
    redating = Redating(configured, lakehouse, LocalOrderFiles(), plans, lambda text: None)
    return redating.run({PLAN_TAG: plan})


def refused(configured: Settings, lakehouse: DeltaLakehouse) -> None:
    try:
        redate(configured, lakehouse, "")
    except Refused:
        return
    raise AssertionError("lines that leave a month need a plan")


def files(lakehouse: DeltaLakehouse, year: int) -> dict[str, bytes]:
    root = Path(lakehouse.path(BRONZE_SALES_ORDERS))
    return {str(path): path.read_bytes() for path in root.glob(f"yyyymm={year}*/*.parquet")}


def told(what: str, act: Callable[[], Made]) -> Made:
    started = time.monotonic()
    made = act()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{what}: {time.monotonic() - started:.1f} s, at most {memory:,.0f} MB by then", flush=True
    )
    return made


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as temporary:
        main(count, Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary))
