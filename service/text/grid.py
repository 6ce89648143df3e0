"""Rows under headings, for a terminal and for Markdown."""

from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from service.text.terminal import FittingTable


@dataclass(frozen=True)
class Grid:
    """Rows under headings, to be shown in more than one way."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    configurations: tuple[str, ...] = ()
    """What was searched, one line a row; too long for a column of a terminal."""

    def as_rich(self, title: str) -> Group:
        """For a terminal."""
        table = FittingTable(title, self.headings, self.rows)
        names = (f"{self.headings[0]} {row[0]}: " for row in self.rows)
        lines = (Text(name + shown) for name, shown in zip(names, self.configurations, strict=False))
        return Group(table, *lines)

    def as_markdown(self) -> str:
        """A Markdown table."""
        lines = [self.headings, tuple("---:" for _ in self.headings), *self.rows]
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)
