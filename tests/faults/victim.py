"""The process that faults befall: `medallion run`, or one job, with the real resources; at a named
point it is killed or overtaken.

`python -m tests.faults.victim when:Class.method:table[:act] [job first last]`; an empty point lets
it run.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def main(point: str = "", *job: str) -> None:
    """Run until the point is met. ``act``: kill (the default), or write: another writer commits to
    the table first.
    """
    from medallion_assets import cli
    from medallion_assets.environment import current_settings
    from medallion_assets.operations import runs

    if point:
        befall(*point.split(":"))
    if not job:
        sys.argv = ["medallion", "run"]
        cli.main()
        return
    name, *months = job
    settings = current_settings()
    with runs.session(settings, cli.console) as session:
        session.execute(name, [int(month) for month in months])


def befall(when: str, method: str, table: str = "", act: str = "kill") -> None:
    """Make the first call of a method, for a table where one is named, meet the fault before or
    after it is done.
    """
    from resources.lakehouse import DeltaLakehouse
    from resources.ledger import Ledger
    from resources.registry import MlflowRegistry
    from resources.tracking import MlflowTracking

    owners = {
        owner.__name__: owner for owner in (DeltaLakehouse, Ledger, MlflowRegistry, MlflowTracking)
    }
    owner_name, name = method.split(".")
    owner = owners[owner_name]
    original: Callable[..., Any] = getattr(owner, name)
    met: list[str] = []

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        is_it = not met and (not table or args[0].id == table)
        if is_it and when == "before":
            met.append(act)
            _act(self, act, args)
        result = original(self, *args, **kwargs)
        if is_it and when == "after":
            met.append(act)
            _act(self, act, args)
        return result

    setattr(owner, name, watched)


def _act(owner: Any, act: str, args: tuple[Any, ...]) -> None:
    if act == "kill":
        os.killpg(0, signal.SIGKILL)
    from deltalake import DeltaTable

    # What an optimizer of the platform does: the same rows in other files, in a commit of its own.
    table = DeltaTable(owner.path(args[0]))
    table.optimize.compact()
    table.update(updates={"yyyymm": "yyyymm"})


if __name__ == "__main__":
    main(*sys.argv[1:])
