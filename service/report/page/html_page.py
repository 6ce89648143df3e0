"""The report as one HTML page that needs nothing from elsewhere: style, plotly and the figures' data are in it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import plotly
from markupsafe import Markup, escape

from service.report.figures import interactive
from service.report.figures.plots import Plot
from service.report.published.claims import CheckedClaim, Finding
from service.text.tables import Table

_MARKS: dict[Finding, str] = {"confirmed": "✓", "refuted": "✗", "not shown here": "–"}
_NUMBER = re.compile(r"[-+−–±(]?\s?\.?\d|[-–]?( \(|$)|nan$|inf$")
_SHORT = 24
"""Characters; words up to there stay on one line."""
_LONGEST_NUMBER = 32
"""Characters; a longer cell is prose, whatever it begins with."""


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own."""

    id: str
    title: str
    warnings: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    claims: tuple[CheckedClaim, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()
    """Lines for a shell or a file."""
    points: tuple[str, ...] = ()
    """Sentences, as a list."""
    notes: tuple[str, ...] = ()
    """Small print under all of it."""
    folded: bool = False
    """Closed until it is asked for, and not printed."""


def render(
    title: str,
    question: str,
    sections: Sequence[Section],
    *,
    budget: str | None = None,
    files: Sequence[str] = (),
) -> str:
    """The page.

    Args:
        title: of the page.
        question: one sentence, under it.
        sections: in order; each is in the list of contents.
        budget: what of the study's is spent and what is left, in a line of its own.
        files: paths, relative to the page, of figures that have been written beside it; each is linked where its
            name is that of a figure.
    """
    panels: dict[str, Any] = {}
    shown = [
        {
            **vars(section),
            "tables": [_table(table) for table in section.tables],
            "figures": [_figure(plot, panels, files) for plot in section.plots],
        }
        for section in sections
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("service.report.page", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["code"] = _code
    page = environment.get_template("page.html").render(
        title=title,
        question=question,
        budget=budget,
        sections=shown,
        marks=_MARKS,
        panels=panels,
        plotly_js=Markup(plotly.offline.get_plotlyjs()),
    )
    return page.lstrip()


def _code(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _figure(plot: Plot, panels: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """What the template needs of a figure; its panels' data go into `panels`, by id."""
    places = []
    for number, drawn in enumerate(interactive.draw(plot)):
        place = f"{plot.id}-{number}"
        panels[place] = json.loads(drawn.to_json())
        places.append({"id": place, "height": drawn.layout.height})
    own = [name for name in files if name.rsplit("/", 1)[-1].rsplit(".", 1)[0] == plot.id]
    return {
        "plot": plot,
        "panels": places,
        "named": any(panel.y.categories for panel in plot.panels),  # names need room beside the panel
        "table": _table(plot.table) if plot.table else None,
        "files": own,
    }


def _table(table: Table) -> dict[str, Any]:
    """A table, and the kind of each of its columns: numbers stand at the right, short words on one line."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.headings)
    is_number = [i > 0 and _is_numeric(column) for i, column in enumerate(columns)]
    kinds = [
        "" if number else "text short" if max(map(len, column), default=0) <= _SHORT else "text"
        for number, column in zip(is_number, columns, strict=True)
    ]
    return {**vars(table), "kinds": kinds}


def _is_numeric(column: Sequence[str]) -> bool:
    return all(len(cell) <= _LONGEST_NUMBER and _NUMBER.match(cell) for cell in column)
