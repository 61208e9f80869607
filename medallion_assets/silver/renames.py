"""Parts that go on under another number: what the configuration and the parts master say, put
together and followed to the last number.

How rows take their new number lies in transforms.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from resources.errors import Refused
from resources.settings import PartsMaster, Settings, last_numbers


@dataclass(frozen=True)
class Rename:
    """``part`` is called ``successor``, from month ``since`` where that is said; ``said_by`` names
    the place that says so.
    """

    part: str
    successor: str
    since: int | None
    said_by: str

    @property
    def sentence(self) -> str:
        since = f" from {self.since}" if self.since else ""
        return f"{self.part} is {self.successor}{since}, by {self.said_by}"


def all_renames(settings: Settings, master_files: Sequence[str]) -> list[Rename]:
    """Every rename of the configuration and of the files of the parts master, by part. Raises
    Refused where they contradict each other.
    """
    found: dict[str, Rename] = {}
    for rename in [*_configured(settings), *_of_master(settings, master_files)]:
        known = found.setdefault(rename.part, rename)
        if known.successor != rename.successor:
            raise Refused(
                f"{known.sentence}, but {rename.successor} by {rename.said_by}: a part goes on"
                " under one number; correct one of the two"
            )
    try:
        last_numbers({rename.part: rename.successor for rename in found.values()})
    except ValueError as error:
        places = " and ".join(dict.fromkeys(rename.said_by for rename in found.values()))
        raise Refused(f"{places}: {error}") from error
    return [found[part] for part in sorted(found)]


def numbers_of(renames: Sequence[Rename], settings: Settings) -> dict[str, str]:
    """Number -> the last number of its part, as lines of the configured sources spell them."""
    numbers: dict[str, str] = {}
    for is_upper in {source.upper_case_parts for source in settings.sources}:
        spelled = str.upper if is_upper else str
        named = {spelled(rename.part): spelled(rename.successor) for rename in renames}
        numbers |= last_numbers(named)
    return numbers


def former_numbers(numbers: Mapping[str, str]) -> dict[str, str]:
    """Last number -> the numbers that the part had before, in order, as a text."""
    former: dict[str, list[str]] = {}
    for part, successor in sorted(numbers.items()):
        former.setdefault(successor, []).append(part)
    return {successor: ", ".join(parts) for successor, parts in former.items()}


def _configured(settings: Settings) -> list[Rename]:
    return [
        Rename(part.strip(), entry.to.strip(), entry.since, "renamed_parts")
        for part, entry in settings.renamed_parts.items()
    ]


def _of_master(settings: Settings, files: Sequence[str]) -> list[Rename]:
    master = settings.parts_master
    if master is None or master.supersedes is None:
        return []
    return [
        Rename(former, part, None, f"{master.supersedes} in {file}")
        for file in files
        for part, former in _rows(file, master, master.supersedes)
        if former != part
    ]


def _rows(file: str, master: PartsMaster, supersedes: str) -> list[tuple[str, str]]:
    """Part and the number that it supersedes, of the rows that name one, as silver.parts spells
    them.
    """
    rows = (
        pd.read_parquet(file)
        if master.format == "parquet"
        else pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    )
    if absent := [name for name in (master.part_number, supersedes) if name not in rows.columns]:
        raise Refused(
            f"{file}: no column {', '.join(absent)}, which parts_master names; it has"
            f" {', '.join(map(str, rows.columns))}"
        )
    named = rows[[master.part_number, supersedes]].dropna().astype(str)
    pairs = [(part.strip().upper(), former.strip().upper()) for part, former in named.to_numpy()]
    return [(part, former) for part, former in pairs if part and former]
