"""Approval of a proposal in the model registry: a tag of the version that waits, which a person
sets there and the next run takes.

The rows of gold.champion say which proposal stands. A tag decides nothing by itself: it is read of
the versions of standing proposals only, and only the exact word counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from medallion_assets.champion.stewardship import (
    APPROVED,
    OVERTAKEN,
    WAITING,
    Stewardship,
    approval_begins,
    approval_tag,
    sync_alias,
)
from medallion_assets.tables import CHAMPION
from medallion_assets.work import Work
from resources.errors import Refused
from resources.mlflow_connection import TrackingUnavailable
from resources.tracking import Tracking

REGISTRY = "registry"  # actor of what was approved there: a tag does not say who set it
LAST_PROPOSALS = 2  # of a class: the one that stands, and the one that it overtook
TAG_LENGTH = 250  # characters that every registry keeps


@dataclass(frozen=True)
class Proposal:
    """A proposed decision, and how it stands: WAITING, APPROVED or OVERTAKEN."""

    number: int
    demand_class: str
    version: int
    state: str

    @property
    def tag(self) -> str:
        """Name of the tag that tells its state in the registry."""
        return approval_tag(self.demand_class)


def proposals(decisions: pd.DataFrame) -> list[Proposal]:
    """The last proposals of each class, the older first. decisions: gold.champion."""
    found = []
    ordered = decisions.sort_values("decision_number") if len(decisions) else decisions
    for demand_class, rows in ordered.groupby("demand_class") if len(ordered) else ():
        is_proposed = (rows["decision"] == "proposed") & rows["candidate_version"].notna()
        for place in is_proposed.to_numpy().nonzero()[0][-LAST_PROPOSALS:]:
            row, after = rows.iloc[place], rows.iloc[place + 1 :]
            number = int(row["decision_number"])
            state = WAITING
            if len(after):
                is_taken = str(after.iloc[0]["reason"]).startswith(approval_begins(number))
                state = APPROVED if is_taken else OVERTAKEN
            found.append(Proposal(number, str(demand_class), int(row["candidate_version"]), state))
    return found


def approved_in_registry(decisions: pd.DataFrame, tracking: Tracking) -> list[Proposal]:
    """Proposals that wait, and that a person approved in the registry."""
    tags = _tags_of(tracking)
    return [
        proposal
        for proposal in proposals(decisions)
        if proposal.state == WAITING and tags(proposal.version).get(proposal.tag) == APPROVED
    ]


def take_approvals(work: Work, tracking: Tracking) -> pd.DataFrame:
    """Set the alias to what the last decision says, then approve what a person approved in the
    registry, and let the tags there say how proposals stand; returns all decisions.

    A candidate that is refused, for instance since its files were changed, goes on waiting; its tag
    says why.
    """
    steward = Stewardship(work.settings, work.lakehouse, tracking, REGISTRY)
    decisions = sync_alias(work.lakehouse, tracking)
    for proposal in approved_in_registry(decisions, tracking):
        where = f"{proposal.tag} of version {proposal.version}"
        try:
            steward.approve(proposal.number, f"the tag {where} says {APPROVED}")
        except TrackingUnavailable:
            raise
        except Refused as error:
            work.log(
                f"decision {proposal.number} was approved by the tag {where}, and refused: {error}"
            )
            told = f"refused: {error}"[:TAG_LENGTH]
            tracking.registry.tag_version(proposal.version, {proposal.tag: told})
        else:
            work.log(f"decision {proposal.number} was approved in the registry, by the tag {where}")
    decisions = work.lakehouse.rows(CHAMPION)
    _mirror(decisions, tracking)
    return decisions


def _mirror(decisions: pd.DataFrame, tracking: Tracking) -> None:
    """Let the tags of the last proposals say how they stand. What a person wrote to one that waits
    stays.
    """
    tags = _tags_of(tracking)
    for proposal in proposals(decisions):
        told = tags(proposal.version).get(proposal.tag)
        if told is None or (proposal.state not in (WAITING, told)):
            tracking.registry.tag_version(proposal.version, {proposal.tag: proposal.state})


def _tags_of(tracking: Tracking) -> Callable[[int], Mapping[str, str]]:
    """The tags of a version, asked for once."""
    known: dict[int, Mapping[str, str]] = {}

    def tags(version: int) -> Mapping[str, str]:
        if version not in known:
            known[version] = tracking.registry.version_tags(version)
        return known[version]

    return tags
