"""A table of a report: rows of text under headings, with what to know beside them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    id: str
    """For file names and links: lower case, digits and `-`."""
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """As long as the headings each."""
    notes: tuple[str, ...] = ()
    """Sentences to stand under it."""
