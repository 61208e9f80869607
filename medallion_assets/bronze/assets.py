"""Bronze assets: registering deliveries, storing their lines, reading adopted tables. Wiring only.

How a file is read lies in resources/orders.py, how lines get their month in transforms.py.
"""

import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from medallion_assets.bronze import transforms
from medallion_assets.partitions import NO_MONTH
from medallion_assets.policies import retry_transient
from medallion_assets.table_asset import Outcome, asset_key, asset_options, report, retry_on_conflict, version_of
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES
from resources.lakehouse import Lakehouse, MonthWritten, Slice
from resources.orders import NoFiles, OrderFile, OrderFiles, UnreadableFile, reading_errors, valid_names
from resources.settings import Settings, Source

Log = Callable[[str], None]


def build_assets(settings: Settings, lakehouse_names: Mapping[str, str]) -> list[dg.AssetsDefinition]:
    """The two bronze assets."""

    @dg.asset(**asset_options(DELIVERIES, settings, lakehouse_names[DELIVERIES.id]))
    @retry_transient
    def deliveries(
        context: dg.AssetExecutionContext, lakehouse: dg.ResourceParam[Lakehouse], orders: dg.ResourceParam[OrderFiles]
    ) -> dg.MaterializeResult:
        register = Register(settings, lakehouse, orders, context.log.info)
        registered = retry_on_conflict(lambda: register.run(context.run.run_id))
        for delivery in registered:
            for month in delivery["months"]:
                if month["yyyymm"] and str(month["yyyymm"]) not in context.partition_keys:
                    told = {"delivery": delivery["delivery_id"], "file": delivery["file_name"], "lines": month["line_count"]}
                    context.log_event(dg.AssetMaterialization(asset_key(DELIVERIES), partition=str(month["yyyymm"]), metadata=told))
        known = lakehouse.rows(DELIVERIES, ["delivery_id"])
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version_of(sorted(known["delivery_id"]))),
            metadata={
                "new_deliveries": len(registered),
                "new_lines": sum(delivery["line_count"] for delivery in registered),
                "known_deliveries": len(known),
                "files": dg.MetadataValue.md(
                    "\n".join(f"- {d['file_name']}: {d['line_count']:,} lines" for d in registered) or "nothing new"
                ),
            },
        )

    @dg.asset(
        **asset_options(BRONZE_SALES_ORDERS, settings, lakehouse_names[BRONZE_SALES_ORDERS.id]),
        deps=[asset_key(DELIVERIES), *(dg.AssetKey(str(s.table).split(".")) for s in settings.sources if s.mode == "adopt")],
    )
    @retry_transient
    def sales_orders(
        context: dg.AssetExecutionContext, lakehouse: dg.ResourceParam[Lakehouse], orders: dg.ResourceParam[OrderFiles]
    ) -> dg.MaterializeResult:
        requested = [int(key) for key in context.partition_keys]
        store = LineStore(settings, lakehouse, orders, context.log.info)
        outcome = retry_on_conflict(lambda: store.run(requested, context.run.run_id))
        return report(context, BRONZE_SALES_ORDERS, requested, outcome)

    return [deliveries, sales_orders]


def external_assets(settings: Settings) -> list[dg.AssetSpec]:
    """Adopted tables: the company's own bronze, shown in the graph, never written."""
    return [
        dg.AssetSpec(
            dg.AssetKey(str(source.table).split(".")),
            group_name="external",
            kinds={"delta"},
            description=f"Order lines of source {source.name}, kept by their owner. Read by month, never written.",
        )
        for source in settings.sources
        if source.mode == "adopt"
    ]


@dataclass(frozen=True)
class Register:
    """Registers every unknown file and every new version of an adopted table, with their lines of no month."""

    settings: Settings
    lakehouse: Lakehouse
    orders: OrderFiles
    log: Log

    def run(self, run_id: str) -> list[dict[str, Any]]:
        """The deliveries registered now. Raises NoFiles, or UnreadableFile naming all that can't be taken in; nothing was stored then."""
        number = self.lakehouse.next_number(BRONZE_SALES_ORDERS)
        known = self.lakehouse.rows(DELIVERIES)
        unknown = self._unknown_files(set(known["delivery_id"]), set(known["source"]))
        new_rows: list[dict[str, Any]] = []
        homeless: list[DataFrame] = []
        sequence = int(known["sequence"].max()) + 1 if len(known) else 1
        now = datetime.now(UTC)
        for source in self.settings.sources:
            if source.mode == "adopt":
                described = self._describe_adopted(source, known)
            else:
                described, lines = self._describe_files(source, unknown[source.name], known, now)
                homeless += lines
            for row in described:
                new_rows.append(row | {"sequence": sequence, "source": source.name, "registered_at": now, "run_id": run_id})
                sequence += 1
        for later, rows in enumerate(homeless):
            new = _not_stored(rows, self.lakehouse.read(BRONZE_SALES_ORDERS, [NO_MONTH]))
            self.lakehouse.append(BRONZE_SALES_ORDERS, new, number + later)
        if new_rows:
            self.lakehouse.append(DELIVERIES, self.lakehouse.create_frame(DELIVERIES, new_rows), number=new_rows[0]["sequence"])
        return new_rows

    def _unknown_files(self, known: set[str], delivering: set[str]) -> dict[str, list[OrderFile]]:
        found: dict[str, list[OrderFile]] = {}
        mistakes: list[str] = []
        for source in self.settings.sources:
            if source.mode == "adopt":
                continue
            by_content: dict[str, OrderFile] = {}
            paths = self.orders.paths(source)
            if not paths and source.name not in delivering:
                raise NoFiles(source)
            for path in paths:
                try:
                    file = self.orders.describe(source, path)
                    if file.delivery_id not in known:
                        transforms.check_columns(source, path, file.column_names)
                        by_content.setdefault(file.delivery_id, file)
                except (UnreadableFile, transforms.MissingColumn) as error:
                    mistakes.append(str(error))
            found[source.name] = sorted(by_content.values(), key=lambda file: (file.modified_at, file.file_name))
        if mistakes:
            raise UnreadableFile(
                f"{len(mistakes)} file(s) can't be taken in; no table was changed\n" + "\n".join(f"  {m}" for m in mistakes)
            )
        return found

    def _describe_files(
        self, source: Source, files: Sequence[OrderFile], known: pd.DataFrame, now: datetime
    ) -> tuple[list[dict[str, Any]], list[DataFrame]]:
        """The rows of bronze.deliveries for the files, and their lines of no month, to be stored when all sources were read."""
        if not files:
            return [], []
        self.log(f"{source.name}: reading {len(files)} new file(s)")
        with reading_errors():
            facts: pd.DataFrame = transforms.deliveries(self._dated(source, files)).toPandas()
        with_homeless = set(facts.loc[facts["yyyymm"] == NO_MONTH, "_delivery_id"])
        homeless = []
        if holding := [file for file in files if file.delivery_id in with_homeless]:
            lines = self._dated(source, holding).where(F.col("yyyymm") == NO_MONTH)
            homeless.append(transforms.sales_orders(lines, source.name, {file.delivery_id: now for file in holding}))
        former = known[known["source"] == source.name]
        seen = {name for names in former["column_names"] for name in names}
        return [self._row(source, file, facts[facts["_delivery_id"] == file.delivery_id], former, seen) for file in files], homeless

    def _dated(self, source: Source, files: Sequence[OrderFile]) -> DataFrame:
        now = datetime.now(UTC)
        lines = self.orders.lines(self.lakehouse.spark, source, files)
        return transforms.dated_lines(lines, source, self.settings.first_month, now.year * 100 + now.month)

    def _row(self, source: Source, file: OrderFile, facts: pd.DataFrame, former: pd.DataFrame, seen_columns: set[str]) -> dict[str, Any]:
        months = {
            int(fact["yyyymm"]): (int(fact["yyyymm"]), int(fact["line_count"]), int(fact["last_day"]), str(fact["content_version"]))
            for fact in facts.to_dict("records")
        }
        if source.mode == "adopt" or (source.mode == "snapshot" and source.replaces == "file"):
            for earlier in former.loc[former["file_name"] == file.file_name, "months"]:
                for month in earlier:
                    months.setdefault(int(month["yyyymm"]), (int(month["yyyymm"]), 0, 0, ""))
        unreadable = int(facts["unreadable_line_count"].sum())
        return {
            "delivery_id": file.delivery_id,
            "file_name": file.file_name,
            "content_hash": file.content_hash,
            "byte_count": file.byte_count,
            "modified_at": file.modified_at,
            "column_names": list(file.column_names),
            "new_columns": [name for name in file.column_names if name not in seen_columns] if len(former) else [],
            "line_count": int(facts["line_count"].sum()),
            "unreadable_line_count": unreadable,
            "months": [
                dict(zip(("yyyymm", "line_count", "last_day", "content_version"), m, strict=True)) for _, m in sorted(months.items())
            ],
            "status": "has_unreadable_lines" if unreadable else "complete",
        }

    def _describe_adopted(self, source: Source, known: pd.DataFrame) -> list[dict[str, Any]]:
        table = self.lakehouse.read_external(str(source.table))
        transforms.check_columns(source, str(source.table), table.columns)
        facts: pd.DataFrame = transforms.deliveries(adopted_lines(table, source, self.settings)).toPandas()
        content = version_of(sorted(zip(facts["yyyymm"].tolist(), facts["content_version"], strict=True)))
        delivery_id = version_of(source.name, content)
        if delivery_id in set(known["delivery_id"]):
            return []
        file = OrderFile(source.name, str(source.table), 0, datetime.now(UTC), content, tuple(table.columns))
        former = known[known["source"] == source.name]
        return [
            self._row(source, file, facts, former, {name for names in former["column_names"] for name in names})
            | {"delivery_id": delivery_id}
        ]


def adopted_lines(table: DataFrame, source: Source, settings: Settings) -> DataFrame:
    """Lines of an adopted table in the form of bronze rows: identity by content, since a table has no line numbers."""
    now = datetime.now(UTC)
    renamed = table.select(
        *[F.col(f"`{old}`").cast("string").alias(new) for old, new in zip(table.columns, valid_names(table.columns), strict=True)]
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
    return dated.withColumn("_line_number", F.row_number().over(order).cast("bigint")).withColumn("_source", F.lit(source.name))


def _not_stored(rows: DataFrame, stored: DataFrame) -> DataFrame:
    """Lines that are not in bronze yet: a run that ended between a write and its record left some behind."""
    return rows.join(stored.select("_delivery_id", "_line_number"), ["_delivery_id", "_line_number"], "left_anti")


@dataclass(frozen=True)
class LineStore:
    """Stores the lines of registered deliveries month by month; what is stored already stays as it is."""

    settings: Settings
    lakehouse: Lakehouse
    orders: OrderFiles
    log: Log

    def run(self, months: Sequence[int], run_id: str) -> Outcome:
        """Append the lines of the months that are not stored. Raises UnreadableFile when a registered file is gone or has changed."""
        started = time.monotonic()
        asked = sorted({*months, NO_MONTH})
        known = self.lakehouse.rows(DELIVERIES)
        deliveries = known[known["source"].isin([source.name for source in self.settings.sources])]
        stored = self.lakehouse.slices(BRONZE_SALES_ORDERS)
        adopted = [source.name for source in self.settings.sources if source.mode == "adopt"]
        contents = {month: month_contents(deliveries, month, adopted) for month in asked}
        versions = {month: version_of(contents[month]) for month in asked}
        stale = [month for month in asked if month not in stored or stored[month].input_version != versions[month]]
        appended = self._store(deliveries, contents, stored, [month for month in stale if month != NO_MONTH])
        made = [
            Slice(
                month,
                "",
                versions[month],
                versions[month],
                sum(lines for _, lines, _ in contents[month]),
                self.lakehouse.version(BRONZE_SALES_ORDERS),
                {"deliveries": [delivery_id for delivery_id, _, _ in contents[month]]},
            )
            for month in stale
        ]
        self.lakehouse.record(BRONZE_SALES_ORDERS, made, run_id)
        slices = {month: stored[month] for month in asked if month not in stale} | {s.yyyymm: s for s in made}
        written = {s.yyyymm: MonthWritten(s.row_count, s.data_version, appended.get(s.yyyymm, 0)) for s in made}
        return Outcome(slices, written, time.monotonic() - started)

    def _store(
        self, deliveries: pd.DataFrame, contents: Mapping[int, Any], stored: Mapping[int, Slice], months: Sequence[int]
    ) -> dict[int, int]:
        """Lines appended by month. All sources are read and checked before the first is written."""
        appended: Counter[int] = Counter()
        read: list[tuple[Source, DataFrame, list[int]]] = []
        try:
            for source in self.settings.sources:
                own = deliveries[deliveries["source"] == source.name]
                needed = {} if source.mode == "adopt" else _needed(set(own["delivery_id"]), contents, stored, months)
                if needed:
                    wanted = sorted({month for by_month in needed.values() for month in by_month})
                    with reading_errors():
                        rows = self.lakehouse.engine.hold(self._lines(source, own[own["delivery_id"].isin(needed)], wanted))
                        read.append((source, rows, wanted))
                        self._check_counts(rows, needed)
            for source, rows, wanted in read:
                number = self.lakehouse.next_number(BRONZE_SALES_ORDERS)
                new = _not_stored(rows, self.lakehouse.read(BRONZE_SALES_ORDERS, wanted))
                counted = {row["yyyymm"]: row["n"] for row in new.groupBy("yyyymm").agg(F.count("*").alias("n")).collect()}
                if counted:
                    self.log(f"{source.name}: storing {sum(counted.values()):,} lines of {len(counted)} month(s)")
                    self.lakehouse.append(BRONZE_SALES_ORDERS, new, number)
                appended.update(counted)
        finally:
            for _, rows, _ in read:
                self.lakehouse.engine.release(rows)
        return dict(appended)

    def _lines(self, source: Source, deliveries: pd.DataFrame, months: Sequence[int]) -> DataFrame:
        """Rows of bronze.sales_orders of the deliveries and months, the months apart, so that each is written as one file."""
        now = datetime.now(UTC)
        lines = self.orders.lines(self.lakehouse.spark, source, self._files(source, deliveries))
        dated = transforms.dated_lines(lines, source, self.settings.first_month, now.year * 100 + now.month)
        times = pd.to_datetime(deliveries["registered_at"], utc=True)
        registered = {delivery_id: time.to_pydatetime() for delivery_id, time in zip(deliveries["delivery_id"], times, strict=True)}
        return transforms.sales_orders(dated.where(F.col("yyyymm").isin(list(months))).repartition("yyyymm"), source.name, registered)

    def _files(self, source: Source, deliveries: pd.DataFrame) -> list[OrderFile]:
        present: dict[str, OrderFile] = {}
        for path in self.orders.paths(source):
            try:
                file = self.orders.describe(source, path)
            except UnreadableFile:
                continue  # no file that was registered; registration tells what is wrong with it
            present.setdefault(file.delivery_id, file)
        missing = [row["file_name"] for row in deliveries.to_dict("records") if row["delivery_id"] not in present]
        if missing:
            raise UnreadableFile(
                f"{', '.join(missing)}: registered, but its lines are not stored yet and the file is gone or has changed; "
                f"put it back where source {source.name} reads ({source.files}). No table was changed."
            )
        return [present[delivery_id] for delivery_id in deliveries["delivery_id"]]

    def _check_counts(self, rows: DataFrame, needed: Mapping[str, Mapping[int, int]]) -> None:
        found = {
            (r["_delivery_id"], r["yyyymm"]): r["n"] for r in rows.groupBy("_delivery_id", "yyyymm").agg(F.count("*").alias("n")).collect()
        }
        for delivery_id, by_month in needed.items():
            for month, lines in by_month.items():
                if found.get((delivery_id, month), 0) != lines:
                    raise UnreadableFile(
                        f"delivery {delivery_id}: {found.get((delivery_id, month), 0)} lines of {month} found, {lines} registered; "
                        "the file changed while it was read, or the mapping of its dates did. No table was changed; deliver the file again."
                    )


def month_contents(deliveries: pd.DataFrame, month: int, adopted: Sequence[str] = ()) -> list[tuple[str, int, str]]:
    """What holds lines of a month, by registration: (delivery_id, lines, content version); of an adopted source its newest state."""
    is_adopted = deliveries["source"].isin(list(adopted))
    current = pd.concat([deliveries[~is_adopted], deliveries[is_adopted].sort_values("sequence").drop_duplicates("source", keep="last")])
    return [
        (f"adopted_{row['source']}" if row["source"] in adopted else row["delivery_id"], int(entry["line_count"]), entry["content_version"])
        for row in current.sort_values("sequence").to_dict("records")
        for entry in row["months"]
        if int(entry["yyyymm"]) == month
    ]


def _needed(
    own: Container[str], contents: Mapping[int, Any], stored: Mapping[int, Slice], months: Sequence[int]
) -> dict[str, dict[int, int]]:
    """Lines by delivery and month that the ledger does not know to be stored, of the deliveries of one source."""
    needed: dict[str, dict[int, int]] = {}
    for month in months:
        done = set(stored[month].details["deliveries"]) if month in stored else set()
        for delivery_id, lines, _ in contents[month]:
            if lines and delivery_id in own and delivery_id not in done:
                needed.setdefault(delivery_id, {})[month] = lines
    return needed
