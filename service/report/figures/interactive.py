"""Figures for the page, drawn by plotly: one plotly figure for each panel, so that panels flow with the page's width.

The legend is the page's own, in HTML: it wraps, and one click hides an arm in all panels of a figure.
"""

import html
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from service.report.figures.plots import SCALE, Axis, Chart, HeatMap, Panel, Plot, Series

_SYMBOLS = {
    "circle": "circle",
    "square": "square",
    "triangle": "triangle-up",
    "diamond": "diamond",
    "cross": "x",
}
_LINE_MARKS = 40
"""A longer line has no marks at its points: they would cover it."""
_WRAP, _LABEL = 26, 38
"""Characters on one line of a category's name, and of an axis' label."""
_HEIGHT, _SMALL = 360, 260
"""Of a panel, in pixels."""


def draw(plot: Plot) -> tuple[go.Figure, ...]:
    """One plotly figure for each panel, in order."""
    return tuple(_panel(panel, _SMALL if plot.small else _HEIGHT) for panel in plot.panels)


def _panel(panel: Panel, height: int) -> go.Figure:
    figure = go.Figure()
    if isinstance(panel, HeatMap):
        figure.add_trace(_heat_map(panel))
    else:
        for series in panel.series:
            figure.add_traces(_traces(series, horizontal=bool(panel.y.categories)))
    drawn = panel.series if isinstance(panel, Chart) else ()
    xs, ys = ([value for series in drawn for value in getattr(series, axis)] for axis in "xy")
    rows = len(panel.y.categories)
    figure.update_layout(
        title={"text": _text(panel.title), "font": {"size": 14}, "x": 0, "xref": "paper"},
        xaxis=_axis(panel.x, xs),
        # the first name on top, as in a table; a heat map's numbers rise
        yaxis=_axis(panel.y, ys, downward=isinstance(panel, Chart)),
        showlegend=False,
        barmode="group",
        height=max(height, 110 + 30 * rows) if rows else height,
        margin={"l": 10, "r": 16, "t": 44 if panel.title else 16, "b": 10},
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    return figure


def _axis(axis: Axis, values: Sequence[float] = (), *, downward: bool = False) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "title": {"text": _wrapped(axis.label, _LABEL), "standoff": 8},
        "type": "log" if axis.log else "linear",
        "automargin": True,
        "zeroline": False,
        "ticks": "outside",
        "exponentformat": "SI",
        "hoverformat": ".5~g",
    }
    if axis.log:
        drawn |= {"exponentformat": "power"} | _decades(values)
    if axis.drawn_ends:
        drawn["range"] = list(axis.drawn_ends)
    if axis.categories:
        names = [_wrapped(name, _WRAP) for name in axis.categories]
        ends = [-0.6, len(names) - 0.4]
        drawn |= {
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "range": ends[::-1] if downward else ends,
        }
    return drawn


def _decades(values: Sequence[float]) -> dict[str, Any]:
    """Ticks of a logarithmic axis.

    Between the decades plotly would write a bare "2" and "5", which read as values: they are written out over one or
    two decades, and left out over more. Over less than one, plotly's own are right.
    """
    low, high = (math.log10(end(values)) for end in (min, max))
    if high - low < 1:
        return {}
    if high == low or high - low > 2:
        return {"dtick": 1}
    ticks = [
        digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)
    ]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _traces(series: Series, *, horizontal: bool) -> list[go.Scatter | go.Bar]:
    """The series, behind it the band of a line; what a click on `series.name` hides together."""
    common: dict[str, Any] = {
        "x": list(series.x),
        "y": list(series.y),
        "name": _text(series.name),
        "meta": series.name,
    }
    interval = _interval(series, horizontal=horizontal)
    if series.draw == "bars":
        direction = {"orientation": "h"} if horizontal else {}
        return [go.Bar(**common, **direction, **interval, marker={"color": series.colour})]
    hollow = "-open" if series.dashed else ""
    marker = {"color": series.colour, "symbol": _SYMBOLS[series.symbol] + hollow, "size": 9}
    if series.draw == "points":
        return [go.Scatter(**common, **interval, mode="markers", marker=marker)]
    line = {
        "color": series.colour,
        "width": 1.25 * series.width,
        "dash": "dash" if series.dashed else "solid",
    }
    if series.stepped:
        line["shape"] = "hv"
    mode = "lines+markers" if len(series.x) <= _LINE_MARKS else "lines"
    drawn = go.Scatter(**common, mode=mode, line=line, marker=marker | {"size": 5})
    return [_band(series), drawn] if series.low else [drawn]


def _interval(series: Series, *, horizontal: bool) -> dict[str, Any]:
    if not series.low:
        return {}
    middle = series.x if horizontal else series.y
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [high - value for high, value in zip(series.high, middle, strict=True)],
        "arrayminus": [value - low for low, value in zip(series.low, middle, strict=True)],
        "thickness": 1.5,
    }
    return {"error_x" if horizontal else "error_y": bars}


def _band(series: Series) -> go.Scatter:
    red, green, blue = (int(series.colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*series.x, *reversed(series.x)],
        y=[*series.high, *reversed(series.low)],
        meta=series.name,
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
    )


def _heat_map(panel: HeatMap) -> go.Heatmap:
    stops = [[i / (len(SCALE) - 1), colour] for i, colour in enumerate(SCALE)]
    return go.Heatmap(
        z=[list(row) for row in panel.values],
        text=[[panel.text(value) for value in row] for row in panel.values],
        texttemplate="%{text}",
        hoverongaps=False,
        colorscale=stops,
        colorbar={"title": {"text": _text(panel.label), "side": "right"}, "thickness": 12, "outlinewidth": 0},
        xgap=2,
        ygap=2,
    )


def _text(text: str) -> str:
    """As plotly has to be given it, which reads some HTML."""
    return html.escape(text, quote=False).replace("\n", "<br>")


def _wrapped(name: str, width: int) -> str:
    return _text("\n".join("\n".join(textwrap.wrap(line, width)) for line in name.split("\n")))
