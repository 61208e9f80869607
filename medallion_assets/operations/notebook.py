"""What a notebook has at hand: the lakehouse of a configuration, the answers of its widgets, and
tables and pictures to look at.

It runs in a kernel here and in a workspace alike: the engine is the one that the configuration
names. The notebooks lie in notebooks/; nothing of what they show is computed here.
"""

from __future__ import annotations

import getpass
import html
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from medallion_assets.environment import answer, configuration_file, settings_of
from medallion_assets.operations import runs
from medallion_assets.plots import rendered
from medallion_assets.served.published import published_origins
from resources.errors import Refused
from resources.lakehouse import DeltaLakehouse, TableSpec
from resources.settings import Settings
from resources.tracking import MlflowTracking

LINE = 110  # characters of what a run tells
SHOWN_ROWS = 20
MONTHS = ("yyyymm", "month", "origin")  # parts of names of columns that hold months


@dataclass(frozen=True)
class Workbench:
    """A lakehouse as people work on it. ``actor`` is stored with what they decide.

    Tables are read without an engine (``lakehouse.rows``, ``totals``) or as Spark frames
    (``lakehouse.read``), which start the engine of the configuration when they are first asked for.
    """

    settings: Settings
    lakehouse: DeltaLakehouse
    tracking: MlflowTracking
    actor: str

    @classmethod
    def open(cls) -> Workbench:
        """The configuration that the widget ``config`` names: the sample's, where it is empty.

        Raises Refused where nothing was published yet, with what to run.
        """
        named = ask("config", str(configuration_file()), "Configuration file")
        settings = settings_of(Path(named))
        lakehouse = runs.writer(settings)
        if not published_origins(lakehouse):
            raise Refused(
                f"nothing is published below {settings.lakehouse_root} yet, so there is nothing to"
                f" show: run `make run CONFIG={named}` first, or the workspace's job for it"
            )
        actor = ask("actor", getpass.getuser(), "Who, stored with what is decided")
        return cls(settings, lakehouse, runs.tracking(settings), actor)

    @property
    def origin(self) -> int:
        """Newest month (yyyymm) at whose end a forecast was made."""
        return published_origins(self.lakehouse)[-1]

    def state_of(self, table: TableSpec) -> str:
        """Version, rows and months of a table that is small, in a line."""
        rows = len(self.lakehouse.rows(table, [table.month_column]))
        months = sum(
            stored.row_count > 0 for stored in self.lakehouse.ledger.slices(table).values()
        )
        version = self.lakehouse.version(table)
        return f"{table.id}: version {version}, {rows:,} rows in {months} months"

    @contextmanager
    def session(self) -> Iterator[runs.Session]:
        """For runs of jobs and for acts of people, which tell here what they do."""
        plain = Console(width=LINE, force_jupyter=False, color_system=None, highlight=False)
        with runs.session(self.settings, plain) as opened:
            yield opened


def ask(name: str, default: str = "", label: str = "") -> str:
    """The answer to a question: of the workspace's widget of that name, which is made where there
    is none; elsewhere of the environment (MEDALLION_CONFIRM for confirm), else the default.
    """
    widgets = _widgets()
    if widgets is None:
        return answer(name) or default
    widgets.text(name, default, label or name)
    return str(widgets.get(name))


def is_confirmed(act: str, widget: str = "confirm") -> bool:
    """Whether a person wrote the act's name into the widget. Otherwise nothing may happen, and what
    to write is said.
    """
    if ask(widget) == act:
        print(f"Confirmed: {act}")
        return True
    print(f"Nothing was changed. To do it, write into the widget {widget}: {act}")
    return False


def show(thing: Any, rows: int = SHOWN_ROWS) -> None:
    """Show a frame as a table of so many rows (a Spark frame is read that far only), a Figure or
    the bytes of a PNG as a picture, a text as markdown.
    """
    from IPython import display
    from matplotlib.figure import Figure

    if isinstance(thing, str):
        display.display(display.Markdown(thing))
    elif isinstance(thing, bytes):
        display.display(display.Image(thing, format="png"))
    elif isinstance(thing, Figure):
        display.display(display.Image(rendered(thing).png, format="png"))
    else:
        frame = thing if isinstance(thing, pd.DataFrame) else thing.limit(rows).toPandas()
        shown = frame.head(rows)
        told = f"{len(shown):,} of {len(frame):,} rows" if len(shown) < len(frame) else ""
        display.display(display.HTML(_table(shown) + (f"<p>{told}</p>" if told else "")))


def _widgets() -> Any:
    """The workspace's widgets, where there is a workspace."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    found = shell.user_ns.get("dbutils") if shell else None
    return found.widgets if found is not None else None


def _table(frame: pd.DataFrame) -> str:
    """A frame as an HTML table; numbers are set to the right, all else to the left."""
    frame = frame.map(lambda value: float(value) if isinstance(value, Decimal) else value)
    frame = frame.infer_objects()
    right = set(frame.select_dtypes("number"))  # truth values are none
    decimals = {name: _decimals(frame[name]) for name in right}
    head = "".join(f'<th style="text-align:left">{html.escape(str(name))}</th>' for name in frame)
    lines = [f"<tr>{head}</tr>"]
    for row in frame.to_dict("records"):
        cells = (
            f'<td style="text-align:{"right" if name in right else "left"}">'
            f"{_text(str(name), value, decimals.get(name))}</td>"
            for name, value in row.items()
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _decimals(values: pd.Series) -> int:
    """Decimals that tell something: none of whole numbers, three of small ones, one of others."""
    known = values.dropna().astype(float)
    if (known == known.round()).all():
        return 0
    return 3 if known.abs().max() < 100 else 1


def _text(column: str, value: Any, decimals: int | None = None) -> str:
    """A cell as people read it: months without separators, numbers with them, lists without
    brackets, nothing for NULL.
    """
    if isinstance(value, Mapping):
        return html.escape(", ".join(f"{key} {_text(key, item)}" for key, item in value.items()))
    if pd.api.types.is_list_like(value):
        return html.escape(", ".join(map(str, value)))
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d}"
    if isinstance(value, int | float):
        if any(word in column for word in MONTHS) and value >= 190000:
            return f"{value:.0f}"
        shown = _decimals(pd.Series([value])) if decimals is None else decimals
        return f"{value:,.{shown}f}"
    return html.escape(str(value))
