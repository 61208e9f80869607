"""Which deliveries there are: every unknown file and every new state of an adopted table is
registered once.

Lines of no month are stored with their registration; those of months by lines.py.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Self

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_assets.bronze import transforms
from medallion_assets.bronze.lines import Log, adopted_lines, not_stored
from medallion_assets.bronze.mapping import SourceMapping
from medallion_assets.complete import grown_deliveries
from medallion_assets.deliveries import next_record_number, standing
from medallion_assets.own_rules import check_rules
from medallion_assets.partitions import NO_MONTH
from medallion_assets.slices import version_of
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES
from resources.lakehouse import Lakehouse
from resources.orders import (
    Landed,
    NoFiles,
    OrderFile,
    OrderFiles,
    UnreadableFile,
    file_name,
    reading_errors,
)
from resources.settings import Settings, Source

NAMED_FILES = 5


@dataclass(frozen=True)
class _Former:
    """What a source delivered before: rows of bronze.deliveries, and all columns that these had."""

    rows: pd.DataFrame
    columns: frozenset[str]

    @classmethod
    def of(cls, source: Source, known: pd.DataFrame) -> Self:
        rows = known[known["source"] == source.name]
        return cls(rows, frozenset(name for names in rows["column_names"] for name in names))


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
        if any(source.rules.own for source in self.settings.sources):
            check_rules(self.lakehouse.spark, self.settings.sources)
        number = self.lakehouse.next_number(BRONZE_SALES_ORDERS)
        records = self.lakehouse.rows(DELIVERIES)
        known = standing(records)
        unknown = self._unknown_files(known)
        new_rows: list[dict[str, Any]] = []
        homeless: list[DataFrame] = []
        sequence = int(known["sequence"].max()) + 1 if len(known) else 1
        record_number = next_record_number(records)
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
                        "record_number": record_number,
                    }
                    | SourceMapping.of(source, self.settings).noted(now)
                )
                sequence, record_number = sequence + 1, record_number + 1
        for later, rows in enumerate(homeless):
            new = not_stored(rows, self.lakehouse.read(BRONZE_SALES_ORDERS, [NO_MONTH]))
            self.lakehouse.append(BRONZE_SALES_ORDERS, new, number + later)
        if new_rows:
            self.lakehouse.append(
                DELIVERIES,
                self.lakehouse.create_frame(DELIVERIES, new_rows),
                number=new_rows[0]["record_number"],
            )
        return new_rows

    def _unknown_files(self, known: pd.DataFrame) -> dict[str, list[OrderFile]]:
        ids, delivering = set(known["delivery_id"]), set(known["source"])
        found: dict[str, list[OrderFile]] = {}
        mistakes: list[str] = []
        taken: dict[str, str] = {}
        for source in self.settings.sources:
            if source.mode == "adopt":
                continue
            by_content: dict[str, OrderFile] = {}
            landed = self.orders.landed(source)
            self._tell_waiting(source, landed)
            if not landed.paths and not landed.waiting and source.name not in delivering:
                raise NoFiles(source)
            for path in landed.paths:
                # Its lines would count once for each source.
                other = taken.setdefault(str(Path(path).resolve()), source.name)
                if other != source.name:
                    mistakes.append(
                        f"{path}: is a file of both sources {other} and {source.name}; let the"
                        " files of one of them leave it out"
                    )
                    continue
                try:
                    file = self.orders.describe(source, path, ids)
                    if file.delivery_id not in ids:
                        transforms.check_columns(source, path, file.column_names)
                        by_content.setdefault(file.delivery_id, file)
                except (UnreadableFile, transforms.MissingColumn) as error:
                    mistakes.append(str(error))
            try:
                own = known[known["source"] == source.name]
                by_content = with_former_names(source, by_content, landed.paths, own)
            except UnreadableFile as error:
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

    def _tell_waiting(self, source: Source, landed: Landed) -> None:
        by_reason: dict[str, list[str]] = {}
        for path, reason in landed.waiting.items():
            by_reason.setdefault(reason, []).append(file_name(source, path))
        for reason, names in by_reason.items():
            more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
            self.log(
                f"{source.name}: not taken in now, {reason}: {', '.join(names[:NAMED_FILES])}{more}"
            )

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
            dated = self._dated(source, files)
            told = transforms.refund_words(source, dated.columns)
            facts: pd.DataFrame = transforms.deliveries(dated, told).toPandas()
        paths = {file.delivery_id: file.path for file in files}
        _check_refunds(source, facts, paths, told)
        for file in files:
            if file.note:
                self.log(f"{source.name}: {file.file_name}: {file.note}")
            self._check_row_count(source, file, facts)
        with_homeless = set(facts.loc[facts["yyyymm"] == NO_MONTH, "_delivery_id"])
        homeless = []
        if holding := [file for file in files if file.delivery_id in with_homeless]:
            lines = self._dated(source, holding).where(F.col("yyyymm") == NO_MONTH)
            homeless.append(
                transforms.sales_orders(
                    lines, source.name, {file.delivery_id: now for file in holding}
                )
            )
        former = _Former.of(source, known)
        rows = []
        for file in files:
            own = facts[facts["_delivery_id"] == file.delivery_id]
            earlier = self._grown_from(source, file, former.rows)
            if earlier is not None:
                self.log(
                    f"{source.name}: {file.file_name} was taken in before and has grown since by"
                    f" {file.byte_count - int(earlier['byte_count']):,} bytes; its lines are those"
                    " of the file as it is now"
                )
            rows.append(self._row(source, file, own, former, earlier))
        return rows, homeless

    def _check_row_count(self, source: Source, file: OrderFile, facts: pd.DataFrame) -> None:
        """Raises UnreadableFile where the file beside a delivery promises another number of
        lines.
        """
        promised = self.orders.row_count(source, file.path)
        lines = int(facts.loc[facts["_delivery_id"] == file.delivery_id, "line_count"].sum())
        if promised is not None and promised != lines:
            raise UnreadableFile(
                f"{file.path}: {lines:,} order lines are in it, and {promised:,} are promised by"
                " the file beside it; it is not whole, or its header is counted there. No table was"
                " changed; deliver it again."
            )

    def _grown_from(
        self, source: Source, file: OrderFile, former: pd.DataFrame
    ) -> dict[str, Any] | None:
        """The newest delivery of the same file whose content is how the file begins now; None where
        there is none.
        """
        if source.mode != "append":
            return None
        names = {file.file_name, PurePosixPath(file.file_name).name}
        earlier = former[
            former["file_name"].isin(names) & (former["byte_count"] < file.byte_count)
        ].sort_values("sequence", ascending=False)
        grown = grown_deliveries(former)
        for row in earlier.to_dict("records"):
            is_beginning = row["delivery_id"] not in grown and (
                self.orders.hash_of_beginning(file.path, int(row["byte_count"]))
                == row["content_hash"]
            )
            if is_beginning:
                return row
        return None

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
        former: _Former,
        grown_from: Mapping[str, Any] | None = None,
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
        replaced = [] if grown_from is None else [grown_from["months"]]
        if source.mode == "adopt" or (source.mode == "snapshot" and source.replaces == "file"):
            same_name = former.rows["file_name"] == file.file_name
            replaced += list(former.rows.loc[same_name, "months"])
        for earlier in replaced:
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
                [name for name in file.column_names if name not in former.columns]
                if len(former.rows)
                else []
            ),
            "line_count": int(facts["line_count"].sum()),
            "unreadable_line_count": unreadable,
            "months": [
                dict(zip(("yyyymm", "line_count", "last_day", "content_version"), m, strict=True))
                for _, m in sorted(months.items())
            ],
            "status": "has_unreadable_lines" if unreadable else "complete",
            "grown_from": None if grown_from is None else grown_from["delivery_id"],
        }

    def _describe_adopted(self, source: Source, known: pd.DataFrame) -> list[dict[str, Any]]:
        table = self.lakehouse.read_external(str(source.table))
        transforms.check_columns(source, str(source.table), table.columns)
        dated = adopted_lines(table, source, self.settings)
        told = transforms.refund_words(source, dated.columns)
        facts: pd.DataFrame = transforms.deliveries(dated, told).toPandas()
        _check_refunds(source, facts, {}, told)
        content = version_of(
            sorted(zip(facts["yyyymm"].tolist(), facts["content_version"], strict=True))
        )
        delivery_id = version_of(source.name, content)
        if delivery_id in set(known["delivery_id"]):
            return []
        file = OrderFile(
            source.name, str(source.table), 0, datetime.now(UTC), content, tuple(table.columns)
        )
        former = _Former.of(source, known)
        return [self._row(source, file, facts, former) | {"delivery_id": delivery_id}]


def _check_refunds(
    source: Source, facts: pd.DataFrame, paths: Mapping[str, str], columns: Iterable[str]
) -> None:
    """Raises UnreadableFile where a column that the mapping does not name says refund or
    cancellation of lines that would count as demand.
    """
    for name in columns:
        said = facts[facts[name].notna()]
        if len(said):
            value = said[name].iloc[0]
            path = paths.get(said["_delivery_id"].iloc[0], str(source.table))
            raise UnreadableFile(
                f"{path}: column {name} says {value} of lines with a positive quantity, which would"
                f" count as demand. Name it in sources.{source.name}.columns.line_type and what its"
                f" values mean in line_types, for instance line_types: {{sale: [...], refund:"
                f" [{value}]}}; or list it in rules.not_line_types if it says nothing of the line."
                " No table was changed."
            )


def with_former_names(
    source: Source,
    files: Mapping[str, OrderFile],
    paths: Sequence[str],
    former: pd.DataFrame,
) -> dict[str, OrderFile]:
    """The files under the names that their former versions have: earlier releases called a file by
    its name without its folder.

    Raises UnreadableFile where files in several folders had one name, so that nobody can say which
    of them a former delivery was.
    """
    if source.mode != "snapshot" or source.replaces != "file":
        return dict(files)
    sharing = Counter(PurePosixPath(path).name for path in paths)
    former_names = set(former["file_name"]) - {file_name(source, path) for path in paths}
    named = {}
    for delivery_id, file in files.items():
        bare = PurePosixPath(file.file_name).name
        if bare != file.file_name and bare in former_names:
            if sharing[bare] > 1:
                raise UnreadableFile(
                    f"{file.path}: an earlier release took files called {bare} for one file in all"
                    f" folders of source {source.name}, so that its newest delivery replaced the"
                    " others. Give the source another name in the configuration: its files are then"
                    " taken in anew, each by its path below the folder of the source."
                )
            named[delivery_id] = replace(file, name=bare)
        else:
            named[delivery_id] = file
    return named
