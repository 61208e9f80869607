"""`medallion inspect`: reads a sample of files, prints what they hold, and writes the configuration
that would read them.

What columns mean lies in meaning.py, what becomes of it in proposing.py and writing.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.console import Console

from medallion_assets.operations.inspection import printing
from medallion_assets.operations.inspection.proposing import Proposal, propose
from medallion_assets.operations.inspection.sniffing import sniff
from medallion_assets.operations.inspection.writing import configuration_text
from resources.errors import Refused
from resources.orders import UnreadableFile
from resources.settings import parse_settings

IGNORED = (".", "_", "~$")


def inspect(
    paths: Sequence[Path],
    out: Path | None,
    overwrite: bool,
    is_counted: bool | None,
    console: Console,
) -> Proposal:
    """Print what the files hold and what a configuration would be; write it to ``out``, or print
    it. ``is_counted``: run bronze and silver on all lines, which takes the embedded engine; None:
    where the files were read whole.
    """
    if out is not None and out.exists() and not overwrite:
        raise Refused(f"{out} exists; choose another name, or --overwrite")
    proposal, text = proposed(paths, (out or Path("config.yaml")).absolute().parent)
    printing.show(proposal, console)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    is_whole = all(source.is_whole for source in proposal.sources)
    if is_counted is None and not is_whole:
        console.print("\nNot counted, since only a sample was read; --count runs all lines.")
    elif is_counted is not False and not proposal.open_questions:
        _count(proposal, text, out, console)
    printing.questions(proposal, console)
    if out is None:
        console.print("\n[bold]The configuration[/bold] (--out FILE writes it)\n")
        console.print(text, markup=False, emoji=False)
    elif proposal.open_questions:
        console.print(
            f"\nWritten to {out}. Answer the open questions in it, then: make run CONFIG={out}"
        )
    else:
        console.print(f"\nWritten to {out}. Next: make run CONFIG={out}")
    return proposal


def proposed(paths: Sequence[Path], folder: Path) -> tuple[Proposal, str]:
    """The proposal for files and folders, and its text as a configuration in ``folder``. Raises
    Refused.
    """
    given = [path.absolute() for path in paths]
    tables = [sniff(path) for path in _files(given)]
    proposal = propose(tables, given, folder, datetime.now(UTC).date())
    names = " ".join(path.name for path in paths)
    return proposal, configuration_text(proposal, f"medallion inspect {names}")


def _files(given: Sequence[Path]) -> list[Path]:
    """The files: those named, those below named folders, and for a table its folder."""
    found: dict[Path, None] = {}
    for path in given:
        if not path.exists():
            raise Refused(f"{path}: there is no such file")
        if path.is_file() or (path / "_delta_log").is_dir():
            found.setdefault(path)
            continue
        below = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and not _is_ignored(file.relative_to(path))
        ]
        if not below:
            raise Refused(f"{path}: no file lies in this folder")
        found.update(dict.fromkeys(below))
    return list(found)


def _is_ignored(path: Path) -> bool:
    return any(part.startswith(IGNORED) for part in path.parts)


def _count(proposal: Proposal, text: str, out: Path | None, console: Console) -> None:
    from medallion_assets.operations.inspection.counting import outcome
    from resources.engines import EmbeddedEngine, cores, machine_memory

    # Paths in the text are relative to the folder where it lies or would lie.
    settings = parse_settings(yaml.safe_load(text), (out or Path("config.yaml")).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        engine = EmbeddedEngine(Path(scratch), machine_memory() // 2, cores())
        try:
            found = outcome(settings, engine)
        except UnreadableFile as error:
            console.print(f"[red]not readable with this configuration:[/red] {error}")
            return
    printing.show_outcome(found, proposal, console)
