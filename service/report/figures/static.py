"""Figures for papers and READMEs, drawn by matplotlib: PNG and SVG, on white.

matplotlib's `Figure` is used without pyplot: no global state, no window, and nothing to close.
"""

import textwrap
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogFormatter

from service.report.figures.plots import SCALE, Axis, Chart, HeatMap, Panel, Plot, Series
from service.text.quantities import shortened
from service.text.tables import Table

_MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "cross": "X"}
_LINE_MARKS = 40
_WIDTH, _HEIGHT = 6.0, 3.8
"""Of a panel, in inches."""
_TABLE_POINTS = 7
_STYLE: Any = {
    "text.parse_math": False,  # a "$" in an arm's name is a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "font.size": 9,
}


class _PlainLog(LogFormatter):
    """Labels the ticks that matplotlib would label, as plain numbers: its own are formulas, which are not parsed."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def write(plot: Plot, folder: Path) -> tuple[Path, Path]:
    """Draw a figure into `folder`, as PNG and as SVG. Raises OSError."""
    paths = (folder / f"{plot.id}.png", folder / f"{plot.id}.svg")
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes; its table has it right
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = draw(plot)
        figure.draw_without_rendering()  # lays it out,
        figure.set_layout_engine("none")  # once for both files
        for path in paths:
            figure.savefig(path, dpi=160)
    return paths


def draw(plot: Plot) -> Figure:
    """The figure as matplotlib has it: an Axes for each panel, in order, then one for the table."""
    across = 1 if plot.stacked else {4: 2}.get(len(plot.panels), min(3, len(plot.panels)))
    down = -(-len(plot.panels) // across)
    height = max(_panel_height(panel) for panel in plot.panels)
    table_height = [0.3 + 0.22 * (len(plot.table.rows) + 1)] if plot.table else []
    names = [_wrapped(series.name) for series in plot.legend]
    width = max(_WIDTH * across, _table_width(plot.table) if plot.table else 0)
    beside = 0.5 + 0.07 * max((len(line) for name in names for line in name.split("\n")), default=0)
    figure = Figure(figsize=(width + beside, height * down + sum(table_height)), layout="constrained")
    grid = figure.add_gridspec(
        down + len(table_height), across, height_ratios=[*[height] * down, *table_height]
    )
    first: Axes | None = None
    for i, panel in enumerate(plot.panels):
        axes = figure.add_subplot(grid[i // across, i % across], sharex=first if plot.stacked else None)
        first = first or axes
        _panel(axes, panel)
    if plot.table:
        _table(figure.add_subplot(grid[down, :]), plot.table)
    handles = [_handle(series) for series in plot.legend]
    if len(handles) > 1:
        figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _panel_height(panel: Panel) -> float:
    return max(_HEIGHT, 1 + 0.3 * len(panel.y.categories))


def _panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=10)
    if isinstance(panel, HeatMap):
        _heat_map(axes, panel)
    else:
        _chart(axes, panel)
    _label(axes.xaxis, panel.x)
    _label(axes.yaxis, panel.y)
    axes.set_xlabel(_wrapped(panel.x.label, 60))
    axes.set_ylabel(_wrapped(panel.y.label, 44))


def _label(axis: Any, of: Axis) -> None:
    if of.log:
        axis.set_major_formatter(_PlainLog())
        axis.set_minor_formatter(_PlainLog(labelOnlyBase=False, minor_thresholds=(1, 0.4)))
    elif not of.categories:
        axis.set_major_formatter(FuncFormatter(lambda value, _: shortened(value, digits=4, least=1e4)))
    if of.categories:
        axis.set_ticks(range(len(of.categories)), [_wrapped(name) for name in of.categories])
        axis.grid(visible=False)


def _chart(axes: Axes, chart: Chart) -> None:
    horizontal = bool(chart.y.categories)
    if chart.x.log:
        axes.set_xscale("log")
    if chart.y.log:
        axes.set_yscale("log")
    bars = [series for series in chart.series if series.draw == "bars"]
    for series in chart.series:
        if series.draw == "bars":
            _bars(axes, series, place=bars.index(series), of=len(bars), horizontal=horizontal)
        elif series.draw == "points":
            _points(axes, series, horizontal=horizontal)
        else:
            drawn = "steps-post" if series.stepped else "default"
            axes.plot(
                series.x,
                series.y,
                drawstyle=drawn,
                **_line_style(series, marked=len(series.x) <= _LINE_MARKS),
            )
            if series.low:
                axes.fill_between(series.x, series.low, series.high, color=series.colour, alpha=0.16, lw=0)
    if chart.x.drawn_ends:
        axes.set_xlim(*chart.x.drawn_ends)
    if horizontal:
        axes.set_ylim(len(chart.y.categories) - 0.4, -0.6)  # the first name on top, as in a table
        axes.grid(visible=True, axis="x")


def _line_style(series: Series, *, marked: bool) -> dict[str, Any]:
    style: dict[str, Any] = {"color": series.colour, "lw": series.width, "ls": "--" if series.dashed else "-"}
    if marked:
        style |= _mark_style(series) | {"markersize": 3.5}
    return style


def _mark_style(series: Series) -> dict[str, Any]:
    face = "white" if series.dashed else series.colour
    return {"marker": _MARKERS[series.symbol], "markerfacecolor": face, "markeredgecolor": series.colour}


def _points(axes: Axes, series: Series, *, horizontal: bool) -> None:
    errors = _errors(series, horizontal=horizontal)
    style = _mark_style(series) | {"ls": "none", "markersize": 6, "ecolor": series.colour, "elinewidth": 1.4}
    axes.errorbar(series.x, series.y, **errors, **style)


def _errors(series: Series, *, horizontal: bool) -> dict[str, Any]:
    if not series.low:
        return {}
    middle = np.array(series.x if horizontal else series.y)
    # the mean of equal numbers may lie beyond them by its rounding
    lengths = np.maximum([middle - series.low, series.high - middle], 0)
    return {"xerr" if horizontal else "yerr": lengths}


def _bars(axes: Axes, series: Series, *, place: int, of: int, horizontal: bool) -> BarContainer:
    thickness = 0.8 / of
    shift = (place - (of - 1) / 2) * thickness
    errors = _errors(series, horizontal=horizontal)
    if horizontal:
        return axes.barh(np.array(series.y) + shift, series.x, thickness, color=series.colour, **errors)
    return axes.bar(np.array(series.x) + shift, series.y, thickness, color=series.colour, **errors)


def _heat_map(axes: Axes, panel: HeatMap) -> None:
    colours = LinearSegmentedColormap.from_list("cividis", SCALE).with_extremes(bad="#f2f2f2")
    values = np.array([[np.nan if v is None else v for v in row] for row in panel.values], dtype=float)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, aspect="auto", origin="lower")
    axes.grid(visible=False)
    for row, line in enumerate(panel.values):
        for column, value in enumerate(line):
            ink = "black" if value is None else _ink(image, value)
            axes.text(column, row, panel.text(value), ha="center", va="center", color=ink, fontsize=8)
    figure = axes.get_figure()
    assert figure is not None, "the axes have just been added to one"
    figure.colorbar(image, ax=axes, label=panel.label)


def _ink(image: ScalarMappable, value: float) -> str:
    """Black on light cells, white on dark ones."""
    red, green, blue = to_rgb(image.to_rgba(np.array([value]))[0])
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _columns(table: Table) -> list[int]:
    """Widths in characters, with room between."""
    return [max(map(len, column)) + 3 for column in zip(table.headings, *table.rows, strict=True)]


def _table_width(table: Table) -> float:
    """Inches, at 0.6 of the font's size for a character and a tenth of a cell on each side."""
    return sum(_columns(table)) * 0.6 * _TABLE_POINTS / 72 / 0.8


def _table(axes: Axes, table: Table) -> None:
    columns = _columns(table)
    shares = [characters / sum(columns) for characters in columns]
    axes.axis("off")
    drawn = axes.table(
        table.rows,
        colLabels=table.headings,
        colWidths=shares,
        loc="upper center",
        cellLoc="right",
        colLoc="right",
        edges="B",
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(_TABLE_POINTS)
    for (_, column), cell in drawn.get_celld().items():
        cell.set(edgecolor="#c4c4c4", linewidth=0.6)
        if column == 0:
            cell.get_text().set_horizontalalignment("left")


def _handle(series: Series) -> Line2D | Patch:
    if series.draw == "bars":
        return Patch(color=series.colour)
    style = _line_style(series, marked=True)
    return Line2D([], [], **style | ({"ls": "none", "markersize": 6} if series.draw == "points" else {}))


def _wrapped(name: str, width: int = 30) -> str:
    return "\n".join(part for line in name.split("\n") for part in textwrap.wrap(line, width) or [""])
