"""Lines already stored, given the months of a corrected mapping: bronze keeps their text, so files
may be gone.

What a mapping is lies in mapping.py, how a line is dated in transforms.py, what a person has to
agree to in plans.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_assets.bronze import transforms
from medallion_assets.bronze.lines import LineStore, Log, month_contents
from medallion_assets.bronze.mapping import BEGUN, SourceMapping
from medallion_assets.deliveries import months_of, next_record_number, standing
from medallion_assets.partitions import NO_MONTH
from medallion_assets.plans import PLAN_TAG, Plan, Plans, find
from medallion_assets.slices import registered, version_of
from medallion_assets.tables import BRONZE_SALES_ORDERS, DELIVERIES
from resources.errors import Refused
from resources.lakehouse import Lakehouse, Slice
from resources.orders import OrderFiles, reading_errors
from resources.settings import Settings, Source

NAMED = 5  # deliveries that a refusal names
Move = tuple[int, int, int]  # former month, month, lines
Months = dict[int, tuple[int, int, str]]  # lines, last day and content version by month


class MappingRefused(Refused):
    """A changed mapping can't be applied to lines that are stored; nothing was changed."""


@dataclass(frozen=True)
class Redated:
    """What was done: the further records of deliveries, the lines moved, and by which plan."""

    records: Sequence[Mapping[str, Any]] = ()
    moves: Sequence[Move] = ()
    plan_id: str = ""

    def by_month(self) -> dict[int, dict[str, Any]]:
        """For each month involved: the plan, the lines that left it, and the lines that came."""
        left, come = Counter[int](), Counter[int]()
        for former, to, lines in self.moves:
            moved = lines if former != to else 0
            left[former] += moved
            come[to] += moved
        return {
            month: {
                "plan": self.plan_id,
                "lines_left": left[month],
                "lines_come": come[month],
            }
            for month in sorted({*left, *come})
        }

    @property
    def moved_lines(self) -> int:
        return sum(lines for former, month, lines in self.moves if former != month)


@dataclass(frozen=True)
class _Examined:
    """What the present mapping makes of stored lines. ``months``: of each delivery; ``moves``:
    lines by former month and month (twice month 0: they get another reason); ``stored``: the
    (delivery, month) whose lines are all in bronze once they have moved.
    """

    months: dict[str, Months] = field(default_factory=dict)
    moves: Counter[tuple[int, int]] = field(default_factory=Counter)
    stored: set[tuple[str, int]] = field(default_factory=set)


@dataclass(frozen=True)
class Redating:
    """Brings stored lines to the months that the mapping of their source gives them now.

    The order of its writes: the ledger notes that months are about to change; all lines move in one
    commit of bronze.sales_orders; their deliveries get further records; the plan is applied; the
    ledger notes the months as they are. A process that ends in between leaves the first note, and
    the next run goes on from what it finds.
    """

    settings: Settings
    lakehouse: Lakehouse
    orders: OrderFiles
    plans: Plans
    log: Log

    def run(self, tags: Mapping[str, str]) -> Redated:
        """Apply changed mappings to what is stored.

        Where lines only leave month 0, nothing that counted is taken away, and it is done at once;
        lines that leave another month need a plan, which the refusal makes. Raises Refused for
        that, MappingRefused where the mapping can't be applied, UnreadableFile where lines that are
        registered but not stored are in a file that is gone.
        """
        records = self.lakehouse.rows(DELIVERIES)
        slices = self.lakehouse.ledger.slices(BRONZE_SALES_ORDERS)
        begun = {m: str(s.details[BEGUN]) for m, s in slices.items() if BEGUN in s.details}
        now = {
            source.name: SourceMapping.of(source, self.settings)
            for source in self.settings.sources
            if source.mode != "adopt"
        }
        known = standing(records)
        own = known[known["source"].isin(now)].to_dict("records")
        noted = {row["delivery_id"]: SourceMapping.parse(row.get("mapping")) for row in own}
        changed = [row for row in own if noted[row["delivery_id"]] != now[row["source"]]]
        if not changed and not begun:
            return Redated()
        self._refuse_unmapped(changed, known)
        undated = [
            row
            for row in own
            if (before := noted[row["delivery_id"]]) is None
            or before.dates != now[row["source"]].dates
            or begun.keys() & months_of(row).keys()
        ]
        _refuse_earlier(undated, self.settings.first_month)
        version = self.lakehouse.version(BRONZE_SALES_ORDERS)
        examined = _Examined()

        def of(source: Source) -> list[dict[str, Any]]:
            return [row for row in undated if row["source"] == source.name]

        by_source = [(source, rows) for source in self.settings.sources if (rows := of(source))]
        for source, rows in by_source:
            self.log(f"{source.name}: dating the stored lines of {len(rows)} deliveries anew")
            self._examine(source, rows, version, examined)
        moves = [(*months, lines) for months, lines in sorted(examined.moves.items())]
        touched = {month for former, to, _ in moves for month in (former, to)}
        plan = None
        if moves:
            mappings = {source.name: now[source.name].version for source, _ in by_source}
            plan = self._permitted(moves, mappings, begun.values(), tags)
            self._begin(plan, touched, slices)
            self.lakehouse.move(
                BRONZE_SALES_ORDERS,
                self._moved(by_source, sorted(touched), version),
                sorted(touched),
                version,
            )
            self.log(f"{plan.plan_id}: {plan.sentence(self.lakehouse)}")
        concerned = {row["delivery_id"]: row for row in [*changed, *undated]}
        made = self._further_records(concerned.values(), examined, now, next_record_number(records))
        if made:
            self.lakehouse.append(
                DELIVERIES,
                self.lakehouse.create_frame(DELIVERIES, made),
                number=made[0]["record_number"],
            )
        applied = self._applied({*begun.values(), *([plan.plan_id] if plan else [])})
        self._end(touched | set(begun), undated, examined, slices, applied)
        return Redated(made, moves, plan.plan_id if plan else "")

    def _refuse_unmapped(self, changed: Sequence[dict[str, Any]], known: pd.DataFrame) -> None:
        """Raise MappingRefused where deliveries that count lack a column which the mapping needs
        now.
        """
        superseded = transforms.superseded_months(known, self.settings.sources)
        sources = {source.name: source for source in self.settings.sources}
        mistakes = []
        for row in changed:
            if all(
                (row["delivery_id"], m) in superseded for m, (n, *_) in months_of(row).items() if n
            ):
                continue
            try:
                transforms.check_columns(
                    sources[row["source"]], row["file_name"], list(row["column_names"])
                )
            except transforms.MissingColumn as error:
                mistakes.append(str(error))
        if mistakes:
            more = f"\n  and {len(mistakes) - NAMED} more" if len(mistakes) > NAMED else ""
            raise MappingRefused(
                f"the mapping changed, and {len(mistakes)} deliveries whose lines are stored can't"
                " be read by it; no table was changed. Where files name a column differently, give"
                " all its names as a list\n"
                + "\n".join(f"  {mistake}" for mistake in mistakes[:NAMED])
                + more
            )

    def _examine(
        self, source: Source, rows: Sequence[dict[str, Any]], version: int, examined: _Examined
    ) -> None:
        """Date the lines of deliveries of one source: those stored from bronze, and from their
        files those of deliveries that are not stored whole.
        """
        found: Counter[tuple[str, int]] = Counter()
        months: dict[str, Months] = {row["delivery_id"]: {} for row in rows}
        if version >= 0:
            stored = self.lakehouse.read(BRONZE_SALES_ORDERS, version=version)
            held = self.lakehouse.engine.hold(
                transforms.redated_lines(
                    stored.where(_of(source, rows)), source, self.settings.first_month
                ).select(
                    *("_delivery_id", "_former_month", "yyyymm", "_day", "_problem", "_row_hash"),
                    (~F.col("_problem").eqNullSafe(F.col("_former_problem"))).alias("_is_other"),
                )
            )
            try:
                counted = held.groupBy("_delivery_id", "_former_month", "yyyymm").agg(
                    F.count("*").alias("n"),
                    F.sum(F.when(F.col("_is_other"), 1).otherwise(0)).alias("others"),
                )
                for row in counted.collect():
                    found[row["_delivery_id"], row["yyyymm"]] += row["n"]
                    pair = row["_former_month"], row["yyyymm"]
                    if lines := row["n"] if pair[0] != pair[1] else row["others"]:
                        examined.moves[pair] += lines
                _add_months(months, transforms.deliveries(held).toPandas())
            finally:
                self.lakehouse.engine.release(held)
        lines_of = Counter[str]()
        for (delivery_id, _), lines in found.items():
            lines_of[delivery_id] += lines
        if partial := [row for row in rows if lines_of[row["delivery_id"]] != row["line_count"]]:
            months |= {row["delivery_id"]: {} for row in partial}
            with reading_errors():
                _add_months(months, self._of_files(source, partial).toPandas())
        examined.months.update(months)
        examined.stored.update(
            (delivery_id, month)
            for delivery_id, by_month in months.items()
            for month, (lines, *_) in by_month.items()
            if found[delivery_id, month] == lines
        )

    def _of_files(self, source: Source, rows: Sequence[dict[str, Any]]) -> DataFrame:
        """What the files of deliveries say of each month."""
        store = LineStore(self.settings, self.lakehouse, self.orders, self.log)
        times = self.lakehouse.spark.createDataFrame(
            [(row["delivery_id"], _plain(row["registered_at"])) for row in rows],
            "_delivery_id STRING, _ingested_at TIMESTAMP",
        )
        lines = self.orders.lines(
            self.lakehouse.spark, source, store.files(source, pd.DataFrame(rows))
        ).join(F.broadcast(times), "_delivery_id")
        return transforms.deliveries(
            transforms.dated_lines(
                lines, source, self.settings.first_month, transforms.month_of("_ingested_at")
            )
        )

    def _permitted(
        self,
        moves: Sequence[Move],
        mappings: Mapping[str, str],
        begun: Iterable[str],
        tags: Mapping[str, str],
    ) -> Plan:
        """The plan to carry out. Raises Refused with it where a person has to name it first."""
        plan = self.plans.redating(moves, mappings)
        if plan.plan_id in begun or all(former == NO_MONTH for former, *_ in moves):
            return plan
        named = self.plans.named(tags, "redating")
        if named is not None and named.plan_id == plan.plan_id:
            return self.plans.check(named)
        other = ""
        if named is not None:
            self.plans.check(named)
            other = f"plan {named.plan_id} shows other moves than the mapping gives now. "
        raise Refused(
            f"{other}the mapping of dates changed. Plan {plan.plan_id}"
            f" {plan.sentence(self.lakehouse)} Nothing was written. To do it: `medallion apply"
            f" {plan.plan_id}`, or this run again with the tag {PLAN_TAG}: {plan.plan_id}."
        )

    def _begin(self, plan: Plan, months: Iterable[int], slices: Mapping[int, Slice]) -> None:
        """Note in the ledger that the lines of months are about to change, by which plan."""
        version = self.lakehouse.version(BRONZE_SALES_ORDERS)
        empty: dict[str, Any] = {"deliveries": []}
        begun = [
            replace(
                slices.get(month) or Slice(month, "", "0-0", "", 0, version, empty),
                input_version="",
                details={
                    **(slices[month].details if month in slices else empty),
                    BEGUN: plan.plan_id,
                },
            )
            for month in sorted(months)
        ]
        self.lakehouse.ledger.record(BRONZE_SALES_ORDERS, begun, self.plans.run_id)

    def _moved(
        self,
        by_source: Sequence[tuple[Source, Sequence[dict[str, Any]]]],
        months: Sequence[int],
        version: int,
    ) -> DataFrame:
        """All rows of the months with the month and reason that they are to have, and whether that
        is another.
        """
        whole = self.lakehouse.read(BRONZE_SALES_ORDERS, months, version)
        names = [F.col(f"`{name}`") for name in whole.columns]
        is_same = F.col("yyyymm").eqNullSafe(F.col("_former_month")) & F.col("_problem").eqNullSafe(
            F.col("_former_problem")
        )
        is_examined = F.lit(False)
        frames = []
        for source, rows in by_source:
            is_own = _of(source, rows)
            is_examined = is_examined | is_own
            frames.append(
                transforms.redated_lines(
                    whole.where(is_own), source, self.settings.first_month
                ).select(*names, F.when(is_same, "keep").otherwise("update").alias("_action"))
            )
        frames.append(whole.where(~is_examined).select(*names, F.lit("keep").alias("_action")))
        return reduce(DataFrame.unionByName, frames).repartition("yyyymm")

    def _further_records(
        self,
        rows: Iterable[dict[str, Any]],
        examined: _Examined,
        now: Mapping[str, SourceMapping],
        number: int,
    ) -> list[dict[str, Any]]:
        """Rows of bronze.deliveries for what the present mapping makes of deliveries; none for one
        of which it says the same. Months that have no lines any more are listed with none, so that
        what was made from them is made again.
        """
        made: list[dict[str, Any]] = []
        for row in sorted(rows, key=lambda row: int(row["sequence"])):
            before = months_of(row)
            months = examined.months.get(row["delivery_id"], before)
            months = dict.fromkeys(before, (0, 0, "")) | months
            present = now[row["source"]]
            if months == before and SourceMapping.parse(row.get("mapping")) == present:
                continue
            made.append(
                {name: _plain(row.get(name)) for name in DELIVERIES.column_names}
                | {
                    "months": [
                        dict(
                            zip(
                                ("yyyymm", "line_count", "last_day", "content_version"),
                                (month, *said),
                                strict=True,
                            )
                        )
                        for month, said in sorted(months.items())
                    ],
                    "run_id": self.plans.run_id,
                    "record_number": number + len(made),
                }
                | present.noted(datetime.now(UTC))
            )
        return made

    def _applied(self, plan_ids: Iterable[str]) -> set[str]:
        """Record as applied the plans whose lines have moved; those that moved lines."""
        version = self.lakehouse.version(BRONZE_SALES_ORDERS)
        moved = {
            plan.plan_id: plan
            for plan_id in plan_ids
            if (plan := find(self.lakehouse, plan_id)).table_version != version
        }
        for plan in moved.values():
            if plan.state == "planned":
                self.plans.done(plan, "applied")
        return set(moved)

    def _end(
        self,
        months: Collection[int],
        undated: Sequence[dict[str, Any]],
        examined: _Examined,
        slices: Mapping[int, Slice],
        plan_ids: Collection[str],
    ) -> None:
        """Note in the ledger what months hold now; those of which a delivery's lines are still in
        its file stay due.
        """
        if not months:
            return
        names = [source.name for source in self.settings.sources]
        adopted = [source.name for source in self.settings.sources if source.mode == "adopt"]
        known = registered(self.lakehouse)
        known = known[known["source"].isin(names)]
        version = self.lakehouse.version(BRONZE_SALES_ORDERS)
        made = []
        for month in sorted(months):
            former = slices[month].details if month in slices else {}
            contents = month_contents(known, month, adopted)
            held = (
                set(former.get("deliveries", ())) - {row["delivery_id"] for row in undated}
                | {delivery_id for delivery_id, at in examined.stored if at == month}
                | {delivery_id for delivery_id, lines, _ in contents if not lines}
                | {f"adopted_{name}" for name in adopted}
            )
            deliveries = [delivery_id for delivery_id, *_ in contents if delivery_id in held]
            is_whole = len(deliveries) == len(contents)
            details = {name: value for name, value in former.items() if name != BEGUN} | {
                "deliveries": deliveries,
                "plans": sorted({*former.get("plans", ()), *plan_ids}),
            }
            made.append(
                Slice(
                    month,
                    "",
                    version_of(contents) if is_whole else version_of(contents, deliveries),
                    version_of(contents) if is_whole else "",
                    sum(lines for delivery_id, lines, _ in contents if delivery_id in held),
                    version,
                    details,
                )
            )
        self.lakehouse.ledger.record(BRONZE_SALES_ORDERS, made, self.plans.run_id)


def _of(source: Source, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The condition that a line came with one of the deliveries of a source."""
    ids = sorted(row["delivery_id"] for row in rows)
    return (F.col("_source") == source.name) & F.col("_delivery_id").isin(ids)


def _refuse_earlier(rows: Sequence[Mapping[str, Any]], first_month: int) -> None:
    """Raise MappingRefused where lines are stored in months before the first: those are no
    partitions any more, so what was made from them could not be made again.
    """
    earlier = sorted(
        {
            month
            for row in rows
            for month, (lines, *_) in months_of(row).items()
            if lines and NO_MONTH < month < first_month
        }
    )
    if earlier:
        raise MappingRefused(
            f"first_month is {first_month}, but lines of {earlier[0]} to {earlier[-1]} are stored,"
            " and tables made from them would keep those months for good. No table was changed:"
            f" put first_month back to {earlier[0]} or earlier, or give lakehouse_root a new"
            " folder."
        )


def _add_months(months: dict[str, Months], facts: pd.DataFrame) -> None:
    for fact in facts.to_dict("records"):
        months[fact["_delivery_id"]][int(fact["yyyymm"])] = (
            int(fact["line_count"]),
            int(fact["last_day"]),
            str(fact["content_version"]),
        )


def _plain(value: Any) -> Any:
    """A value of a pandas row as createDataFrame takes it."""
    if hasattr(value, "tolist") and hasattr(value, "__len__"):
        return list(value)
    if isinstance(value, list | tuple):
        return list(value)
    if value is None or pd.isna(value):
        return None
    return value.to_pydatetime() if isinstance(value, pd.Timestamp) else value
