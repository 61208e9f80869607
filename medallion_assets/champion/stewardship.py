"""The record of champions: what the decisions say serves, one registered version for each change,
and what people decide.

Order of every change: register, append the decisions, move the alias. The rows are the truth; the
next run repairs the alias. Who wins a contest lies in promotion.py, what the rows say in
decisions.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from medallion_assets.champion.decisions import (
    champions_of,
    held_classes,
    last_decisions,
    next_number,
    plain,
)
from medallion_assets.champion.promotion import HELD_UNTIL_RELEASED, Decision
from medallion_assets.partitions import add_months
from medallion_assets.tables import CHAMPION, DEMAND_CLASSES
from medallion_assets.zoo.serving import DemandForecaster, ServedModel
from resources.errors import Refused
from resources.lakehouse import Lakehouse
from resources.settings import Settings
from resources.tracking import RunContent, Tracking

# What the tag of a candidate says, for each class that it is proposed for.
WAITING, APPROVED, OVERTAKEN = "waiting", "approved", "overtaken"


def approval_tag(demand_class: str) -> str:
    """The tag on a candidate version that approves a class's proposal in the registry."""
    return f"approval_{demand_class}"


def approval_begins(number: int) -> str:
    """How the reason of the row begins that approves a decision."""
    return f"decision {number} approved by "


def sync_alias(lakehouse: Lakehouse, tracking: Tracking) -> pd.DataFrame:
    """Set the alias to what the last decision says; returns all decisions."""
    decisions = lakehouse.rows(CHAMPION)
    if len(decisions):
        tracking.registry.set_alias(
            int(decisions.sort_values("decision_number")["registry_version"].iloc[-1])
        )
    return decisions


def append_decisions(
    lakehouse: Lakehouse, made: Sequence[Decision], former: pd.DataFrame
) -> list[Decision]:
    """Append the decisions under the numbers after ``former``, in one commit.

    Raises ConcurrentWrite when somebody else decided in between: nothing was appended then.
    """
    first = next_number(former)
    now = datetime.now(UTC)  # with its zone: Spark takes a time without one as the host's
    numbered = [
        dataclasses.replace(v, decision_number=first + i, decided_at=now)
        for i, v in enumerate(made)
    ]
    lakehouse.append(
        CHAMPION, lakehouse.create_frame(CHAMPION, map(dataclasses.asdict, numbered)), number=first
    )
    return numbered


def rows_behind(lakehouse: Lakehouse, former: pd.DataFrame, count: int) -> str:
    """For a version's page: where its decisions will stand. A version is registered before its
    decisions are appended.
    """
    first = next_number(former)
    numbers = f"decision {first}" if count == 1 else f"decisions {first} to {first + count - 1}"
    return (
        f"Decided by {numbers} of `{lakehouse.name(CHAMPION)}` ({lakehouse.path(CHAMPION)});"
        " `medallion history champions` lists them. A version that they don't name serves nobody."
    )


@dataclass(frozen=True)
class Stewardship:
    """What a person decides about champions. ``actor``: who, stored with the decision."""

    settings: Settings
    lakehouse: Lakehouse
    tracking: Tracking
    actor: str

    def approve(self, number: int, why: str) -> list[Decision]:
        """Let the model of a proposal serve its class, with the fit that was proposed.

        Raises Refused where the decision is no proposal, or the class has a newer decision.
        """
        decisions = self._decisions()
        found = decisions[decisions["decision_number"] == number]
        if found.empty:
            raise Refused(
                f"there is no decision {number}; `medallion history champions` lists them"
            )
        row = found.iloc[0]
        if row["decision"] != "proposed":
            raise Refused(
                f"decision {number} is no proposal, it is {row['decision']}: {row['reason']}"
            )
        newest = last_decisions(decisions).loc[row["demand_class"]]
        if newest["decision_number"] != number:
            raise Refused(
                f"decision {number} on {row['demand_class']} was overtaken by"
                f" {newest['decision_number']:.0f} ({newest['decision']}); nothing was changed"
            )
        entry = self.tracking.registry.load_version(int(row["candidate_version"])).entries[
            row["demand_class"]
        ]
        reason = f"{approval_begins(number)}{self.actor}: {why}. Its evidence: {row['reason']}"
        said = {
            "champion_wql": plain(row["challenger_wql"]),
            "challenger_wql": plain(row["champion_wql"]),
            "held_until_yyyymm": None,
        }
        made = self._change(
            "promoted",
            {row["demand_class"]: entry},
            reason,
            decisions,
            {row["demand_class"]: said},
        )
        self.tracking.registry.tag_version(
            int(row["candidate_version"]), {approval_tag(row["demand_class"]): APPROVED}
        )
        return made

    def rollback(
        self, classes: Sequence[str], version: int, why: str, months: int | None
    ) -> list[Decision]:
        """Serve classes by the fits they had in an earlier registered version, and hold them:
        evaluated, but not promoted.

        months: how many months of evidence change nothing; None: until released. Raises Refused for
        a version that never served.
        """
        decisions = self._decisions()
        if version not in set(decisions["registry_version"].astype(int)):
            served = ", ".join(map(str, sorted(decisions["registry_version"].astype(int).unique())))
            raise Refused(f"version {version} never served; versions that did: {served}")
        entries = self.tracking.registry.load_version(version).entries
        newest = int(decisions["yyyymm"].max())
        until = HELD_UNTIL_RELEASED if months is None else add_months(newest, months)
        reason = f"rolled back to version {version} by {self.actor}: {why}"
        champions = champions_of(decisions, version)
        said: dict[str, dict[str, Any]] = {name: {"held_until_yyyymm": until} for name in classes}
        for name in classes:
            if name in champions:
                said[name]["champion"] = champions[name]
        return self._change(
            "rolled_back", {name: entries[name] for name in classes}, reason, decisions, said
        )

    def release(self, classes: Sequence[str], why: str) -> list[Decision]:
        """Let evidence decide the classes again. Raises Refused for a class that is not held."""
        decisions = self._decisions()
        if free := [name for name in classes if name not in held_classes(decisions)]:
            raise Refused(f"{', '.join(free)}: not held, so there is nothing to release")
        standing = last_decisions(decisions)
        former = [self._following(standing.loc[name], str(name)) for name in classes]
        made = [
            dataclasses.replace(
                d,
                decision="released",
                actor=self.actor,
                held_until_yyyymm=None,
                reason=f"released by {self.actor}: {why}",
            )
            for d in former
        ]
        return append_decisions(self.lakehouse, made, decisions)

    def _decisions(self) -> pd.DataFrame:
        self.tracking.check()
        decisions = sync_alias(self.lakehouse, self.tracking)
        if decisions.empty:
            raise Refused("nothing was decided yet: no month was trained")
        return decisions

    def _change(
        self,
        decision: str,
        entries: Mapping[str, ServedModel],
        reason: str,
        decisions: pd.DataFrame,
        said: Mapping[str, Mapping[str, Any]],
    ) -> list[Decision]:
        """Serve classes by other entries, the rest as before: one version, one row for each class,
        the alias. said: by class, what else its row says.
        """
        serving = DemandForecaster({}, self.settings.forecast.horizon)
        # Where every class is replaced the version that serves is not needed, and may be one that
        # can't be loaded.
        if set(DEMAND_CLASSES) - set(entries):
            serving = self.tracking.registry.load_version(
                int(decisions.sort_values("decision_number")["registry_version"].iloc[-1])
            )
        manifest = DemandForecaster({**serving.entries, **entries}, serving.horizon)
        month = str(int(decisions["yyyymm"].max()))
        run_id = self.tracking.start(
            f"{decision} by {self.actor}", {"month": month, "kind": decision, "trigger": "person"}
        )
        try:
            self.tracking.log(run_id, RunContent(texts={"why.md": reason}, model=manifest))
            version = self.tracking.registry.register(
                run_id,
                {"month": month, **{name: e.model for name, e in manifest.entries.items()}},
                f"{', '.join(entries)}: {reason}\n\n"
                + rows_behind(self.lakehouse, decisions, len(entries)),
            )
            self.tracking.commit(run_id)
            standing = last_decisions(decisions)
            made = [
                dataclasses.replace(
                    self._following(standing.loc[name], name),
                    **{
                        "decision": decision,
                        "champion": entry.model,
                        "champion_trained_yyyymm": entry.trained_yyyymm,
                        "challenger": standing.loc[name, "champion"],
                        "challenger_wql": plain(standing.loc[name, "champion_wql"]),
                        "champion_wql": None,
                        "champion_bias": None,
                        **said[name],
                        "actor": self.actor,
                        "reason": reason,
                        "registry_version": version,
                        "candidate_version": version,
                        "run_id": run_id,
                    },
                )
                for name, entry in entries.items()
            ]
            made = append_decisions(self.lakehouse, made, decisions)
        except BaseException:
            self.tracking.fail(run_id)
            raise
        self.tracking.registry.set_alias(version)
        return made

    def _following(self, row: pd.Series, demand_class: str) -> Decision:
        """A decision like the one that stands, to be changed."""
        names = [field.name for field in dataclasses.fields(Decision)]
        values = {name: plain(row[name]) for name in names if name in row.index}
        return Decision(**{**values, "demand_class": demand_class, "decision_number": None})


def classes_named(text: str) -> list[str]:
    """The demand classes that a person names: one, or all. Raises Refused for another word."""
    if text == "all":
        return list(DEMAND_CLASSES)
    if text not in DEMAND_CLASSES:
        raise Refused(
            f"'{text}' is no demand class; give one of {', '.join(DEMAND_CLASSES)}, or all"
        )
    return [text]
