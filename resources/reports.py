"""Report files beside the lakehouse: one page per origin, replaced as a whole or not at all. What a
page says does not belong here.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Protocol


class ReportFiles(Protocol):
    """Where reports are kept, by file name. Implementations: LocalReportFiles, and a fake in
    tests.
    """

    def path(self, name: str) -> str: ...

    def read(self, name: str) -> str | None: ...

    def write(self, name: str, text: str) -> None: ...


class LocalReportFiles:
    """Files in one folder of a local disk, a mount or a volume."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def path(self, name: str) -> str:
        """Where a report lies, or would."""
        return str(self._folder / name)

    def read(self, name: str) -> str | None:
        """A report's text; None where there is none."""
        path = self._folder / name
        return path.read_text(encoding="utf-8") if path.exists() else None

    def write(self, name: str, text: str) -> None:
        """Put a report in place of the former one; whoever reads meanwhile sees the one or the
        other.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f".{name}.{secrets.token_hex(4)}"
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(self._folder / name)
        finally:
            unfinished.unlink(missing_ok=True)
