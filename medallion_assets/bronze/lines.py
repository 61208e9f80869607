"""The lines of registered deliveries, stored month by month, and those of adopted tables, which are
read where they are.
"""

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from medallion_assets.bronze import transforms
from medallion_assets.bronze.mapping import refuse_undated
from medallion_assets.partitions import NO_MONTH
from medallion_assets.slices import Outcome, Slices, registered, version_of
from medallion_assets.tables import BRONZE_SALES_ORDERS
from medallion_assets.work import Work
from resources.lakehouse import Lakehouse, MonthWritten, Slice
from resources.orders import OrderFile, OrderFiles, UnreadableFile, reading_errors, valid_names
from resources.settings import Settings, Source

Log = Callable[[str], None]


def adopted_lines(table: DataFrame, source: Source, settings: Settings) -> DataFrame:
    """Lines of an adopted table in the form of bronze rows: identity by content, since a table has
    no line numbers.
    """
    now = datetime.now(UTC)
    renamed = table.select(
        *[
            F.col(f"`{old}`").cast("string").alias(new)
            for old, new in zip(table.columns, valid_names(table.columns), strict=True)
        ]
    )
    plain = renamed.withColumns(
        {
            "_delivery_id": F.lit(f"adopted_{source.name}"),
            "_line_number": F.lit(0).cast("bigint"),
            "_problem": F.lit(None).cast("string"),
            "_raw": F.lit(None).cast("string"),
        }
    )
    dated = transforms.dated_lines(plain, source, settings.first_month, now.year * 100 + now.month)
    order = Window.partitionBy("yyyymm").orderBy("_row_hash")
    return dated.withColumn("_line_number", F.row_number().over(order).cast("bigint")).withColumn(
        "_source", F.lit(source.name)
    )


def not_stored(rows: DataFrame, stored: DataFrame) -> DataFrame:
    """Lines that are not in bronze yet: a run that ended between a write and its record left some
    behind.
    """
    return rows.join(
        stored.select("_delivery_id", "_line_number"), ["_delivery_id", "_line_number"], "left_anti"
    )


@dataclass(frozen=True)
class LineStore:
    """Stores the lines of registered deliveries month by month; what is stored already stays as it
    is.
    """

    settings: Settings
    lakehouse: Lakehouse
    orders: OrderFiles
    log: Log

    def run(self, months: Sequence[int], run_id: str) -> Outcome:
        """Append the lines of the months that are not stored. Raises UnreadableFile when a
        registered file is gone or has changed.
        """
        slices = Slices(Work(self.settings, self.lakehouse, run_id, self.log), BRONZE_SALES_ORDERS)
        asked = sorted({*months, NO_MONTH})
        known = registered(self.lakehouse)
        deliveries = known[known["source"].isin([source.name for source in self.settings.sources])]
        refuse_undated(deliveries, slices.stored, self.settings)
        adopted = [source.name for source in self.settings.sources if source.mode == "adopt"]
        contents = {month: month_contents(deliveries, month, adopted) for month in asked}
        versions = {month: version_of(contents[month]) for month in asked}
        stale = [month for month in asked if not slices.is_current(month, versions[month])]
        for month in asked:
            if month not in stale:
                slices.keep(month)
        appended = self._store(
            deliveries, contents, slices.stored, [month for month in stale if month != NO_MONTH]
        )
        written, details = {}, {}
        for month in stale:
            count = sum(lines for _, lines, _ in contents[month])
            written[month] = MonthWritten(count, versions[month], appended.get(month, 0))
            read = [delivery_id for delivery_id, _, _ in contents[month]]
            details[month] = {**slices.details(month), "deliveries": read}
        delta_version = self.lakehouse.version(BRONZE_SALES_ORDERS)
        slices.record(written, versions, delta_version, details)
        return slices.outcome()

    def _store(
        self,
        deliveries: pd.DataFrame,
        contents: Mapping[int, Any],
        stored: Mapping[int, Slice],
        months: Sequence[int],
    ) -> dict[int, int]:
        """Lines appended by month. All sources are read and checked before the first is written."""
        appended: Counter[int] = Counter()
        read: list[tuple[Source, DataFrame, list[int]]] = []
        try:
            for source in self.settings.sources:
                own = deliveries[deliveries["source"] == source.name]
                needed = (
                    {}
                    if source.mode == "adopt"
                    else _needed(set(own["delivery_id"]), contents, stored, months)
                )
                if needed:
                    wanted = sorted({month for by_month in needed.values() for month in by_month})
                    with reading_errors():
                        rows = self.lakehouse.engine.hold(
                            self._lines(source, own[own["delivery_id"].isin(needed)], wanted)
                        )
                        read.append((source, rows, wanted))
                        self._check_counts(rows, needed)
            for source, rows, wanted in read:
                number = self.lakehouse.next_number(BRONZE_SALES_ORDERS)
                new = not_stored(rows, self.lakehouse.read(BRONZE_SALES_ORDERS, wanted))
                counted = {
                    row["yyyymm"]: row["n"]
                    for row in new.groupBy("yyyymm").agg(F.count("*").alias("n")).collect()
                }
                if counted:
                    self.log(
                        f"{source.name}: storing {sum(counted.values()):,} lines of {len(counted)}"
                        " month(s)"
                    )
                    self.lakehouse.append(BRONZE_SALES_ORDERS, new, number)
                appended.update(counted)
        finally:
            for _, rows, _ in read:
                self.lakehouse.engine.release(rows)
        return dict(appended)

    def _lines(self, source: Source, deliveries: pd.DataFrame, months: Sequence[int]) -> DataFrame:
        """Rows of bronze.sales_orders of the deliveries and months, the months apart, so that each
        is written as one file.
        """
        now = datetime.now(UTC)
        lines = self.orders.lines(self.lakehouse.spark, source, self.files(source, deliveries))
        dated = transforms.dated_lines(
            lines, source, self.settings.first_month, now.year * 100 + now.month
        )
        times = pd.to_datetime(deliveries["registered_at"], utc=True)
        registered = {
            delivery_id: time.to_pydatetime()
            for delivery_id, time in zip(deliveries["delivery_id"], times, strict=True)
        }
        return transforms.sales_orders(
            dated.where(F.col("yyyymm").isin(list(months))).repartition("yyyymm"),
            source.name,
            registered,
        )

    def files(self, source: Source, deliveries: pd.DataFrame) -> list[OrderFile]:
        """The files of deliveries, in their order. Raises UnreadableFile naming those that are gone
        or have changed.
        """
        named = dict(zip(deliveries["delivery_id"], deliveries["column_names"], strict=True))
        present: dict[str, OrderFile] = {}
        for path in self.orders.paths(source):
            try:
                file = self.orders.describe(source, path, named)
            except UnreadableFile:
                continue  # no file that was registered; registration tells what is wrong with it
            names = named.get(file.delivery_id, file.column_names)
            present.setdefault(file.delivery_id, replace(file, column_names=tuple(names)))
        present |= self._grown(source, deliveries, present)
        missing = [
            row["file_name"]
            for row in deliveries.to_dict("records")
            if row["delivery_id"] not in present
        ]
        if missing:
            raise UnreadableFile(
                f"{', '.join(missing)}: registered, but its lines are not stored yet and the file"
                f" is gone or has changed; put it back where source {source.name} reads"
                f" ({source.files}). No table was changed."
            )
        return [present[delivery_id] for delivery_id in deliveries["delivery_id"]]

    def _grown(
        self, source: Source, deliveries: pd.DataFrame, present: Mapping[str, OrderFile]
    ) -> dict[str, OrderFile]:
        """Deliveries whose file grew before their lines were stored: the beginning of what it is
        now.
        """
        by_name = {file.file_name: file for file in present.values()}
        found = {}
        for row in deliveries.to_dict("records"):
            now = by_name.get(row["file_name"])
            if row["delivery_id"] in present or now is None or source.mode != "append":
                continue
            byte_count = int(row["byte_count"])
            is_beginning = byte_count < now.byte_count and (
                self.orders.hash_of_beginning(now.path, byte_count) == row["content_hash"]
            )
            if is_beginning:
                found[row["delivery_id"]] = replace(
                    now,
                    byte_count=byte_count,
                    content_hash=row["content_hash"],
                    column_names=tuple(row["column_names"]),
                )
        return found

    def _check_counts(self, rows: DataFrame, needed: Mapping[str, Mapping[int, int]]) -> None:
        found = {
            (r["_delivery_id"], r["yyyymm"]): r["n"]
            for r in rows.groupBy("_delivery_id", "yyyymm").agg(F.count("*").alias("n")).collect()
        }
        for delivery_id, by_month in needed.items():
            for month, lines in by_month.items():
                if found.get((delivery_id, month), 0) != lines:
                    raise UnreadableFile(
                        f"delivery {delivery_id}: {found.get((delivery_id, month), 0)} lines of"
                        f" {month} found, {lines} registered; the file changed while it was read,"
                        " or an older release registered it by another mapping of its dates. No"
                        " table was changed; register deliveries again (`medallion run`), which"
                        " reads what is stored by the mapping of now, or deliver the file again."
                    )


def month_contents(
    deliveries: pd.DataFrame, month: int, adopted: Sequence[str] = ()
) -> list[tuple[str, int, str]]:
    """The deliveries that hold lines of a month, in order of registration: (delivery_id, lines,
    content version). An adopted source counts by its newest state.
    """
    is_adopted = deliveries["source"].isin(list(adopted))
    current = pd.concat(
        [
            deliveries[~is_adopted],
            deliveries[is_adopted].sort_values("sequence").drop_duplicates("source", keep="last"),
        ]
    )
    return [
        (
            f"adopted_{row['source']}" if row["source"] in adopted else row["delivery_id"],
            int(entry["line_count"]),
            entry["content_version"],
        )
        for row in current.sort_values("sequence").to_dict("records")
        for entry in row["months"]
        if int(entry["yyyymm"]) == month
    ]


def _needed(
    own: Container[str],
    contents: Mapping[int, Any],
    stored: Mapping[int, Slice],
    months: Sequence[int],
) -> dict[str, dict[int, int]]:
    """Lines by delivery and month that the ledger does not know to be stored, of the deliveries of
    one source.
    """
    needed: dict[str, dict[int, int]] = {}
    for month in months:
        done = set(stored[month].details["deliveries"]) if month in stored else set()
        for delivery_id, lines, _ in contents[month]:
            if lines and delivery_id in own and delivery_id not in done:
                needed.setdefault(delivery_id, {})[month] = lines
    return needed
