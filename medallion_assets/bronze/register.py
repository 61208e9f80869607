"""Which deliveries there are: every unknown file and every new state of an adopted table is
registered once.

Lines of no month are stored with their registration; those of months by lines.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_assets.bronze import transforms
from medallion_assets.bronze.lines import Log, adopted_lines, not_stored
from medallion_assets.partitions import NO_MONTH
from medallion_assets.slices import version_of
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES
from resources.lakehouse import Lakehouse
from resources.orders import NoFiles, OrderFile, OrderFiles, UnreadableFile, reading_errors
from resources.settings import Settings, Source


@dataclass(frozen=True)
class Register:
    """Registers every unknown file and every new version of an adopted table, with their lines of
    no month.
    """

    settings: Settings
    lakehouse: Lakehouse
    orders: OrderFiles
    log: Log

    def run(self, run_id: str) -> list[dict[str, Any]]:
        """The deliveries registered now. Raises NoFiles, or UnreadableFile naming all that can't be
        taken in; nothing was stored then.
        """
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
                new_rows.append(
                    row
                    | {
                        "sequence": sequence,
                        "source": source.name,
                        "registered_at": now,
                        "run_id": run_id,
                    }
                )
                sequence += 1
        for later, rows in enumerate(homeless):
            new = not_stored(rows, self.lakehouse.read(BRONZE_SALES_ORDERS, [NO_MONTH]))
            self.lakehouse.append(BRONZE_SALES_ORDERS, new, number + later)
        if new_rows:
            self.lakehouse.append(
                DELIVERIES,
                self.lakehouse.create_frame(DELIVERIES, new_rows),
                number=new_rows[0]["sequence"],
            )
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
            found[source.name] = sorted(
                by_content.values(), key=lambda file: (file.modified_at, file.file_name)
            )
        if mistakes:
            raise UnreadableFile(
                f"{len(mistakes)} file(s) can't be taken in; no table was changed\n"
                + "\n".join(f"  {m}" for m in mistakes)
            )
        return found

    def _describe_files(
        self, source: Source, files: Sequence[OrderFile], known: pd.DataFrame, now: datetime
    ) -> tuple[list[dict[str, Any]], list[DataFrame]]:
        """The rows of bronze.deliveries for the files, and their lines of no month, to be stored
        when all sources were read.
        """
        if not files:
            return [], []
        self.log(f"{source.name}: reading {len(files)} new file(s)")
        with reading_errors():
            facts: pd.DataFrame = transforms.deliveries(self._dated(source, files)).toPandas()
        with_homeless = set(facts.loc[facts["yyyymm"] == NO_MONTH, "_delivery_id"])
        homeless = []
        if holding := [file for file in files if file.delivery_id in with_homeless]:
            lines = self._dated(source, holding).where(F.col("yyyymm") == NO_MONTH)
            homeless.append(
                transforms.sales_orders(
                    lines, source.name, {file.delivery_id: now for file in holding}
                )
            )
        former = known[known["source"] == source.name]
        seen = {name for names in former["column_names"] for name in names}
        return [
            self._row(source, file, facts[facts["_delivery_id"] == file.delivery_id], former, seen)
            for file in files
        ], homeless

    def _dated(self, source: Source, files: Sequence[OrderFile]) -> DataFrame:
        now = datetime.now(UTC)
        lines = self.orders.lines(self.lakehouse.spark, source, files)
        return transforms.dated_lines(
            lines, source, self.settings.first_month, now.year * 100 + now.month
        )

    def _row(
        self,
        source: Source,
        file: OrderFile,
        facts: pd.DataFrame,
        former: pd.DataFrame,
        seen_columns: set[str],
    ) -> dict[str, Any]:
        months = {
            int(fact["yyyymm"]): (
                int(fact["yyyymm"]),
                int(fact["line_count"]),
                int(fact["last_day"]),
                str(fact["content_version"]),
            )
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
            "new_columns": (
                [name for name in file.column_names if name not in seen_columns]
                if len(former)
                else []
            ),
            "line_count": int(facts["line_count"].sum()),
            "unreadable_line_count": unreadable,
            "months": [
                dict(zip(("yyyymm", "line_count", "last_day", "content_version"), m, strict=True))
                for _, m in sorted(months.items())
            ],
            "status": "has_unreadable_lines" if unreadable else "complete",
        }

    def _describe_adopted(self, source: Source, known: pd.DataFrame) -> list[dict[str, Any]]:
        table = self.lakehouse.read_external(str(source.table))
        transforms.check_columns(source, str(source.table), table.columns)
        facts: pd.DataFrame = transforms.deliveries(
            adopted_lines(table, source, self.settings)
        ).toPandas()
        content = version_of(
            sorted(zip(facts["yyyymm"].tolist(), facts["content_version"], strict=True))
        )
        delivery_id = version_of(source.name, content)
        if delivery_id in set(known["delivery_id"]):
            return []
        file = OrderFile(
            source.name, str(source.table), 0, datetime.now(UTC), content, tuple(table.columns)
        )
        former = known[known["source"] == source.name]
        return [
            self._row(
                source,
                file,
                facts,
                former,
                {name for names in former["column_names"] for name in names},
            )
            | {"delivery_id": delivery_id}
        ]
