"""The terminal: how wide it is taken to be, and tables that lose nothing where it is narrow."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
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
    # A notebook says that it is a terminal, and has no cursor to draw a table anew; rich would make a block of HTML of
    # every line there. FORCE_COLOR has rich take a log file for a terminal.
    terminal = sys.stdout.isatty() and not Console().is_jupyter
    return Console(
        highlight=False,
        width=NARROWEST if narrow else None,
        force_terminal=None if terminal else False,
        force_jupyter=False,
    )


_TO_COPY = re.compile(
    r"(?:^|(?<=: ))(?:/|\./hptune\.sh|\.venv/bin/python|python3 evaluate\.py|docker compose|hptune ).*"
)
"""The end of a line that people paste: a command or a path."""


def say(console: Console, line: str) -> None:
    """Print a line of words; where a terminal is narrower, on several, none of them broken.

    What people paste stays whole, on a line of its own where need be, which the terminal wraps itself. In a pipe or a
    file it is one line.
    """
    lines = [line]
    if console.is_terminal and len(line) > console.width:
        found = _TO_COPY.search(line)
        words = line[: found.start()] if found else line
        lines = textwrap.wrap(words, console.width, break_long_words=False, break_on_hyphens=False)
        lines += [found[0]] if found else []
    for each in lines:
        console.print(each, markup=False, highlight=False, soft_wrap=True)


ROOM_FOR_WORDS = 24
"""Columns that a cell of several words has at least; below, it stands under its row."""


class FittingTable:
    """A table where it fits; where it does not, each row as its headings with their values. No word is ever broken.

    Args:
        title: above it.
        headings: of the columns.
        rows: a cell for each heading.
        wordy: cells of the last column are several words, and go over to further lines between them.
        options: of rich's Table.
    """

    def __init__(
        self,
        title: str,
        headings: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        wordy: bool = False,
        **options: Any,
    ) -> None:
        self._title = title
        self._headings = headings
        self._rows = rows
        plain: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "title_justify": "left"}
        self._table = Table(title=Text(title, style="table.title"), **plain | options)
        last = len(headings) - 1 if wordy else len(headings)
        words = [word for row in rows for cell in row[last:] for word in cell.split()]
        self._least = max(map(len, [*words, *headings[last:], " " * ROOM_FOR_WORDS])) if wordy else 0
        for i, heading in enumerate(headings):
            if i < last:
                self._table.add_column(heading, justify="right")
            else:
                self._table.add_column(heading, min_width=self._least)
        for row in rows:
            self._table.add_row(*(Text(cell, no_wrap=i < last) for i, cell in enumerate(row)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(max_width=10**6)
        wanted = Measurement.get(console, wide, self._table).maximum
        if self._least:
            longest = max((len(row[-1]) for row in self._rows), default=0)
            wanted -= max(longest, self._least) - self._least
        if wanted <= options.max_width:
            yield self._table
            return
        yield Text(self._title)
        for row in self._rows:
            pairs = (f"{heading} {cell}".strip() for heading, cell in zip(self._headings, row, strict=True))
            yield Text("\n".join(_filled(pairs, options.max_width)))


def _filled(pairs: Iterable[str], width: int) -> list[str]:
    """The pairs on as few lines as they fit on; one begins a line of its own rather than being cut in two."""
    lines: list[str] = []
    for pair in pairs:
        if lines and len(lines[-1]) + 2 + len(pair) <= width:
            lines[-1] += f"  {pair}"
        else:
            lines.append(f"  {pair}" if lines else pair)
    return lines
