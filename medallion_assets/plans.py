"""Plans: what a destructive act would do, shown and stored before it is done, and named when it is.

A plan is a row of gold.plan; what happened to it are further rows. The acts themselves lie in
resources/lakehouse.py; who asks for one lies in operations/ and in the assets, which ask here
before they write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import pandas as pd

from medallion_assets.partitions import NO_MONTH
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    DELIVERIES,
    DEMAND_FORECAST,
    PLAN,
    RECORDS,
    TABLES,
)
from resources.errors import Refused
from resources.lakehouse import Lakehouse, Slice, TableSpec

PLAN_TAG = "medallion/plan"
FORCE_TAG = "medallion/force"
# what asked for a run: a sensor's name, command_line; none where a person did in the interface
TRIGGER_TAG = "medallion/trigger"
ACTOR_TAG = "medallion/actor"  # who asked for a run, where its trigger does not say it
Kind = Literal["backfill", "removal", "restore", "vacuum", "redating"]
SHOWN_MOVES = 12  # that a plan's sentence names; all are in its details


@dataclass(frozen=True)
class Plan:
    """One plan as it stands. ``table_version``: the table's version when it was made, which undoing
    it returns to.
    """

    plan_id: str
    kind: Kind
    table: TableSpec
    writer: str
    months: tuple[int, ...]
    table_version: int
    row_count: int
    file_count: int
    byte_count: int
    details: Mapping[str, Any] = field(default_factory=dict)
    state: str = "planned"
    version_after: int | None = None

    def sentence(self, lakehouse: Lakehouse) -> str:
        """What applying it does, and what can't be undone."""
        size = (
            f"{self.row_count:,} rows, {self.file_count:,} files, {self.byte_count / 1e6:,.1f} MB"
        )
        name = lakehouse.name(self.table) + (f" of {self.writer}" if self.writer else "")
        span = (
            f"{self.months[0]} to {self.months[-1]} ({len(self.months)} months)"
            if self.months
            else "all months"
        )
        if self.kind == "redating":
            return self._moves_told(name)
        back = f"`medallion undo {self.plan_id}` returns to version {self.table_version}."
        if self.kind == "vacuum":
            removed = (
                f"removes {self.file_count:,} files ({self.byte_count / 1e6:,.1f} MB) of {name}"
                " that no newer version needs"
            )
            return (
                f"{removed}; versions of {self.details['retention_days']} days stay readable. This"
                " can't be undone."
            )
        if self.kind == "restore":
            then = (
                f"makes {name} what it was at version {self.details['to_version']}"
                f" ({self.row_count:,} rows)"
            )
            return (
                f"{then}; version {self.table_version} has {self.file_count:,} files,"
                f" {self.byte_count / 1e6:,.1f} MB. {back}"
            )
        if self.kind == "removal":
            return (
                f"lets a write of {name}, {span}, and what is made from them, remove more rows than"
                f" writes.max_removed_share allows; stored there: {size}. {back}"
            )
        if self.table is DEMAND_FORECAST:
            return (
                f"publishes {name}, {span}, anew by the version that serves now; the vintages of"
                f" before stay readable. {back}"
            )
        return (
            f"computes {name}, {span}, again although its inputs did not change; stored there:"
            f" {size}. {back}"
        )

    def _moves_told(self, name: str) -> str:
        """Lines by the month that they leave and the one that they come to, the largest first."""
        found = [tuple(move) for move in self.details["moves"]]
        moves = sorted(
            (move for move in found if move[0] != move[1]),
            key=lambda move: (-move[2], move[0], move[1]),
        )
        told = [
            f"{lines:,} from {_month_told(former)} to {_month_told(month)}"
            for former, month, lines in moves[:SHOWN_MOVES]
        ]
        if left := moves[SHOWN_MOVES:]:
            told.append(f"{sum(lines for *_, lines in left):,} in {len(left)} more such moves")
        if others := sum(lines for former, month, lines in found if former == month):
            told.append(f"{others:,} of no month get another reason")
        sources = ", ".join(sorted(self.details["mappings"]))
        return (
            f"moves {self.row_count:,} stored lines of {name} to the months that the mapping of"
            f" {sources} gives them now: {', '.join(told)}; it rewrites {self.file_count:,} files,"
            f" {self.byte_count / 1e6:,.1f} MB, and what is made from these months may lose rows"
            " once. To go back, put the former mapping into the configuration and run again."
        )


def _month_told(yyyymm: int) -> str:
    return str(yyyymm) if yyyymm != NO_MONTH else "no month"


def plans_behind(slices: Iterable[Slice]) -> list[str]:
    """Plans that let the slices, or what they were made from, lose rows."""
    return sorted({plan for s in slices for plan in s.details.get("plans", ())})


def may_lose_rows(
    stored: Mapping[int, Slice], behind: Mapping[int, Sequence[str]]
) -> frozenset[int]:
    """Months that may lose rows because a plan let what they are made from lose some: a person was
    asked once, and is not asked again for each table that follows.

    behind: plans behind the inputs of each month now. Those that a stored slice was made with
    before permit nothing any more.
    """
    return frozenset(
        month
        for month, plans in behind.items()
        if month in stored and set(plans) - set(stored[month].details.get("plans", ()))
    )


class Permission(NamedTuple):
    """What a run may do to a table because a person named a plan, or forced a single month."""

    plan: Plan | None = None
    is_forced: bool = False

    @property
    def may_remove(self) -> bool:
        return self.plan is not None and self.plan.kind == "removal"

    def noted(self, behind: Sequence[str]) -> dict[str, list[str]]:
        """What the ledger notes of a slice: the plans behind its inputs, and the one that let it
        lose rows itself.
        """
        own = [self.plan.plan_id] if self.plan is not None and self.may_remove else []
        plans = sorted({*behind, *own})
        return {"plans": plans} if plans else {}


NOTHING = Permission()


def find(lakehouse: Lakehouse, plan_id: str) -> Plan:
    """A plan as it stands. Raises Refused where there is none of that name."""
    rows = lakehouse.rows(PLAN)
    own = rows[rows["plan_id"] == plan_id].sort_values("event_number")
    if own.empty:
        raise Refused(f"there is no plan '{plan_id}'; `medallion history plans` lists them")
    first, last = own.iloc[0], own.iloc[-1]
    after = own["version_after"].dropna()
    return Plan(
        plan_id,
        first["kind"],
        table_named(first["table_id"]),
        first["writer"],
        tuple(json.loads(first["months"])),
        int(first["table_version"]),
        int(first["row_count"]),
        int(first["file_count"]),
        int(first["byte_count"]),
        json.loads(first["details"]),
        str(last["event"]),
        int(after.iloc[-1]) if len(after) else None,
    )


def table_named(table_id: str) -> TableSpec:
    """The table of an id, layer.table. Raises Refused for another word."""
    for spec in TABLES:
        if spec.id == table_id and spec not in RECORDS:
            return spec
    raise Refused(
        f"no table '{table_id}'; tables are"
        f" {', '.join(spec.id for spec in TABLES if spec not in RECORDS)}"
    )


@dataclass(frozen=True)
class Plans:
    """Makes plans and carries them out. ``actor``: who, stored with every row;
    ``retention_months``: what vacuum must leave.

    A plan that waits for just the same act is taken again: who asks twice gets one name.
    """

    lakehouse: Lakehouse
    actor: str
    retention_months: int
    run_id: str = ""

    def backfill(
        self, table: TableSpec, months: Sequence[int], writer: str = "", kind: Kind = "backfill"
    ) -> Plan:
        """Plan to compute stored months again, or (``removal``) to let them lose rows. Raises
        Refused where none is stored.
        """
        slices = self.lakehouse.ledger.slices(table, writer)
        stored = [month for month in sorted(months) if month in slices]
        if not stored:
            raise Refused(
                f"{self.lakehouse.name(table)} holds none of these months, so writing them needs no"
                " plan"
            )
        return self._planned(
            kind, table, writer, stored, sum(slices[month].row_count for month in stored), {}
        )

    def restore(self, table: TableSpec, version: int) -> Plan:
        """Plan to make a table what it was at a version. Raises Refused for a version that is not
        readable.
        """
        if version >= self.lakehouse.version(table):
            raise Refused(
                f"{self.lakehouse.name(table)} is at version {self.lakehouse.version(table)}; name"
                " an earlier one"
            )
        if table.id == BRONZE_SALES_ORDERS.id and (moved := self._moved_since(version)):
            raise Refused(
                f"plan {moved} moved lines to other months after version {version}, and the list of"
                " deliveries says so too; put the former mapping into the configuration and run"
                " again: that makes the plan which moves them back"
            )
        rows = len(self.lakehouse.rows(table, [table.key[0]], version=version))
        return self._planned("restore", table, "", [], rows, {"to_version": version})

    def vacuum(self, table: TableSpec) -> Plan:
        """Plan to remove files that no version of the retention needs."""
        days = self.retention_months * 31
        files = self.lakehouse.upkeep.unneeded_files(table, days * 24)
        sizes = len(files), sum(files.values())
        return self._planned(
            "vacuum", table, "", [], 0, {"retention_days": days, "files": sorted(files)}, sizes
        )

    def redating(self, moves: Sequence[tuple[int, int, int]], mappings: Mapping[str, str]) -> Plan:
        """Plan to move stored lines to the months that a corrected mapping gives them.

        moves: former month, month, lines. mappings: version of the mapping of each source.
        """
        details = {"mappings": dict(mappings), "moves": [list(move) for move in moves]}
        months = sorted({month for former, to, _ in moves for month in (former, to)})
        lines = sum(lines for former, to, lines in moves if former != to)
        return self._planned("redating", BRONZE_SALES_ORDERS, "", months, lines, details)

    def named(self, tags: Mapping[str, str], kind: Kind) -> Plan | None:
        """The last plan of a kind that a run's tags name. Raises Refused where there is none of
        that name.
        """
        names = [name.strip() for name in tags.get(PLAN_TAG, "").split(",") if name.strip()]
        own = [plan for name in names if (plan := find(self.lakehouse, name)).kind == kind]
        return own[-1] if own else None

    def check(self, plan: Plan) -> Plan:
        """The plan, if it may be applied now. Raises Refused where it was applied before, or the
        table moved since it was made.
        """
        if plan.state != "planned":
            raise Refused(f"plan {plan.plan_id} was {plan.state} already; make a new one")
        if (version := self.lakehouse.version(plan.table)) != plan.table_version:
            raise Refused(
                f"plan {plan.plan_id} was made for version {plan.table_version} of"
                f" {self.lakehouse.name(plan.table)}, which is at version {version} now; nothing"
                " was changed. Make a new plan and look at it."
            )
        return plan

    def apply(self, plan: Plan) -> Plan:
        """Carry out a plan that no asset does: restore or vacuum. Raises Refused as ``check``, and
        where other files would be removed.
        """
        self.check(plan)
        if plan.kind == "vacuum":
            now = sorted(
                self.lakehouse.upkeep.unneeded_files(
                    plan.table, int(plan.details["retention_days"]) * 24
                )
            )
            if now != plan.details["files"]:
                raise Refused(
                    f"plan {plan.plan_id}: {len(now):,} files would be removed now, not the"
                    f" {plan.file_count:,} it shows; make a new one"
                )
            self.lakehouse.upkeep.vacuum(plan.table, int(plan.details["retention_days"]) * 24)
        elif plan.kind == "restore":
            self.lakehouse.upkeep.restore(plan.table, int(plan.details["to_version"]), self.run_id)
        else:
            writing = DELIVERIES if plan.kind == "redating" else plan.table
            raise Refused(
                f"plan {plan.plan_id} is a {plan.kind}: the run that writes {writing.id} carries it"
                " out"
            )
        return self.done(plan, "applied")

    def undo(self, plan: Plan) -> Plan:
        """Return to the version before an applied plan. Raises Refused where it was not applied,
        can't be undone, or the table moved on.
        """
        if plan.state != "applied":
            raise Refused(f"plan {plan.plan_id} is {plan.state}, so there is nothing to undo")
        if plan.kind == "vacuum":
            raise Refused(f"plan {plan.plan_id} removed files for good; that can't be undone")
        if plan.kind == "redating":
            raise Refused(
                f"plan {plan.plan_id} moved lines to the months of a mapping, and the next run"
                " would move them again; to go back, put the former mapping into the configuration"
                " and run: bronze keeps the text, and that makes the plan which moves them back"
            )
        if (version := self.lakehouse.version(plan.table)) != plan.version_after:
            raise Refused(
                f"{self.lakehouse.name(plan.table)} went from version {plan.version_after} to"
                f" {version} after plan {plan.plan_id}; undoing it would undo that too. If that is"
                f" meant: medallion plan restore {plan.table.id} --to {plan.table_version}"
            )
        if version == plan.table_version:
            raise Refused(
                f"plan {plan.plan_id} changed nothing in {self.lakehouse.name(plan.table)}, so"
                " there is nothing to undo"
            )
        self.lakehouse.upkeep.restore(plan.table, plan.table_version, self.run_id)
        return self.done(plan, "undone")

    def done(self, plan: Plan, event: str) -> Plan:
        """Record what happened to a plan."""
        self._append(plan, event, self.lakehouse.version(plan.table))
        return find(self.lakehouse, plan.plan_id)

    def permission(
        self,
        tags: Mapping[str, str],
        table: TableSpec,
        months: Sequence[int],
        writer: str = "",
        needs_plan: bool = False,
    ) -> Permission:
        """What a run with these tags may do to months of a table. ``needs_plan``: what it would do
        to them needs a plan though not forced.

        Raises Refused for a plan of other months or of a table that moved; and, with the plan that
        is needed, for a run that does to more than one stored month without one what needs one.
        """
        named = [
            find(self.lakehouse, name.strip())
            for name in tags.get(PLAN_TAG, "").split(",")
            if name.strip()
        ]
        own = [plan for plan in named if plan.table.id == table.id and plan.writer == writer]
        if own:
            plan = self.check(own[-1])
            if outside := sorted(
                set(months) & set(self.lakehouse.ledger.slices(table, writer)) - set(plan.months)
            ):
                raise Refused(
                    f"plan {plan.plan_id} covers {plan.months[0]} to {plan.months[-1]}, not"
                    f" {outside[0]}; make a plan for this run"
                )
            return Permission(plan, plan.kind == "backfill")
        is_forced = tags.get(FORCE_TAG, "").lower() in ("true", "1", "yes")
        if not is_forced and not needs_plan:
            return Permission()
        stored = sorted(set(months) & set(self.lakehouse.ledger.slices(table, writer)) - {NO_MONTH})
        if len(stored) <= 1:
            return Permission(is_forced=is_forced)
        plan = self.backfill(table, stored, writer)
        raise Refused(
            f"plan {plan.plan_id}: {plan.sentence(self.lakehouse)} Nothing was written. To do it,"
            f" launch the same run with the tag {PLAN_TAG}: {plan.plan_id}, or `medallion apply"
            f" {plan.plan_id}`."
        )

    def _moved_since(self, version: int) -> str | None:
        """The first plan applied after a version of bronze.sales_orders that moved lines."""
        rows = self.lakehouse.rows(PLAN)
        moved = rows[
            (rows["kind"] == "redating")
            & (rows["event"] == "applied")
            & (rows["version_after"] > version)
        ].sort_values("event_number")
        return str(moved["plan_id"].iloc[0]) if len(moved) else None

    def _planned(  # noqa: PLR0913, PLR0917 - what a row of gold.plan says of an act
        self,
        kind: Kind,
        table: TableSpec,
        writer: str,
        months: Sequence[int],
        rows: int,
        details: Mapping[str, Any],
        sizes: tuple[int, int] | None = None,
    ) -> Plan:
        files, size = (
            sizes
            if sizes is not None
            else self.lakehouse.upkeep.storage(table, months or None, writer)
        )
        number = self._next_number()
        plan_id = f"{kind}-{table.name}-{number}"
        version = self.lakehouse.version(table)
        plan = Plan(
            plan_id, kind, table, writer, tuple(months), version, rows, files, size, details
        )
        if waiting := self._waiting(plan):
            return waiting
        self._append(plan, "planned", None)
        return plan

    def _waiting(self, plan: Plan) -> Plan | None:
        """A stored plan of the same act on the same version of the table that waits to be
        applied.
        """
        rows = self.lakehouse.rows(PLAN)
        same = rows[(rows["kind"] == plan.kind) & (rows["table_id"] == plan.table.id)]
        for plan_id in same["plan_id"].unique():
            found = find(self.lakehouse, plan_id)
            if replace(found, plan_id=plan.plan_id) == plan:
                return found
        return None

    def _next_number(self) -> int:
        rows = self.lakehouse.rows(PLAN, ["event_number"])
        return int(rows["event_number"].max()) + 1 if len(rows) else 1

    def _append(self, plan: Plan, event: str, version_after: int | None) -> None:
        number, now = self._next_number(), datetime.now(UTC)
        row = {
            "yyyymm": now.year * 100 + now.month,
            "event_number": number,
            "plan_id": plan.plan_id,
            "event": event,
            "kind": plan.kind,
            "table_id": plan.table.id,
            "writer": plan.writer,
            "months": json.dumps(list(plan.months)),
            "details": json.dumps(dict(plan.details), sort_keys=True),
            "table_version": plan.table_version,
            "version_after": version_after,
            "row_count": plan.row_count,
            "file_count": plan.file_count,
            "byte_count": plan.byte_count,
            "effect": plan.sentence(self.lakehouse),
            "actor": self.actor,
            "run_id": self.run_id,
            "recorded_at": now,
        }
        self.lakehouse.append(PLAN, self.lakehouse.create_frame(PLAN, [row]), number=number)


def listed(lakehouse: Lakehouse) -> pd.DataFrame:
    """Every event of every plan, in order."""
    return lakehouse.rows(PLAN).sort_values("event_number")
