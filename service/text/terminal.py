"""The terminal: how wide it is taken to be, and tables that lose nothing where it is narrow."""

import os
import re
import shutil
from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

NARROWEST = 20
"""Columns that a terminal is taken to have at least: a figure fits, and the rest the terminal wraps itself."""


def console() -> Console:
    """The terminal, or what stands in its place."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[1-9][0-9]{0,4}", os.environ.get(name, "1")):
            del os.environ[name]  # no size: rich would show nothing, or fail
    narrow = shutil.get_terminal_size().columns < NARROWEST
    return Console(highlight=False, width=NARROWEST if narrow else None)


class FittingTable:
    """A table where it fits; where it does not, each row as its headings with their values.

    Args:
        title: above it.
        headings: of the columns.
        rows: a cell for each heading.
        options: of rich's Table.
    """

    def __init__(
        self, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], **options: Any
    ) -> None:
        self._title = title
        self._headings = headings
        self._rows = rows
        self._table = Table(title=Text(title, style="table.title"), title_justify="left", **options)
        for heading in headings:
            self._table.add_column(heading, justify="right")
        for row in rows:
            self._table.add_row(*(Text(cell, no_wrap=True) for cell in row))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wanted = Measurement.get(console, options.update(max_width=10**6), self._table)
        if wanted.maximum <= options.max_width:
            yield self._table
            return
        yield Text(self._title)
        for row in self._rows:
            pairs = (f"{heading} {cell}" for heading, cell in zip(self._headings, row, strict=True))
            yield Text("  ".join(pairs))
