"""The tools of one run, made once from what started it: no Dagster, no table, no model in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from resources.lakehouse import Lakehouse
from resources.settings import Settings


@dataclass(frozen=True)
class Work:
    """What everything that a run makes needs: settings, tables, the run's id, a place for messages.

    ``tags`` mark the MLflow runs that it starts.
    """

    settings: Settings
    lakehouse: Lakehouse
    run_id: str
    log: Callable[[str], None]
    tags: Mapping[str, str] = field(default_factory=dict)
