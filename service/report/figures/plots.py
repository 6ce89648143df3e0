"""What a figure shows, before any library draws it: panels of series on axes, and heat maps.

`interactive` draws it for the page with plotly, `static` for files with matplotlib, both from the same record.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from service.text.tables import Table

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A")
"""Okabe and Ito 2008, told apart with any colour vision; without yellow, which vanishes on white, and with grey
for black, which vanishes on a dark page."""
SYMBOLS = ("circle", "square", "triangle", "diamond", "cross")
"""Each style has the next colour and the next symbol, so that arms are told apart without colour: 35 styles."""
SCALE = ("#00224E", "#35456C", "#666970", "#948E77", "#C8B866", "#FEE838")
"""Cividis (Nuñez et al. 2018) from low to high: evenly light, the same to the colour-blind."""

SHADES = ("#0072B2", "#B4B8BC")
"""Both seen on white and on a dark page."""

_ASTRAY = 22
"""The style of points that lie above what is shown: triangles, in the colour of pruned trials."""

Draw = Literal["line", "points", "bars"]


@dataclass(frozen=True)
class Axis:
    """One axis of a panel."""

    label: str
    log: bool = False
    categories: tuple[str, ...] = ()
    """Names at the positions 0, 1, 2, ...; empty for numbers."""
    ends: tuple[float, float] | None = None
    """Where it begins and ends, whatever is drawn; None: as far as that reaches."""

    @property
    def drawn_ends(self) -> tuple[float, float] | None:
        """These with a margin, so that a mark at an end is whole."""
        if self.ends is None:
            return None
        low, high = self.ends
        return low - 0.03 * (high - low), high + 0.03 * (high - low)


@dataclass(frozen=True)
class Series:
    """Points that belong together, under one name."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    draw: Draw = "line"
    low: tuple[float, ...] = ()
    """Lower end of each point's interval, in y, or in x where the y axis has categories; empty for none."""
    high: tuple[float, ...] = ()
    style: int = 0
    """Which colour and symbol: the same number is the same arm in all figures."""
    shade: float | None = None
    """From 0 (blue and thick) to 1 (grey and thin) in place of a style's colour."""
    dashed: bool = False
    """Not measured here: a dashed line and hollow marks, as published figures are drawn."""
    stepped: bool = False
    """A line that keeps its value until the next point."""
    in_legend: bool = True

    def __post_init__(self) -> None:
        assert len(self.x) == len(self.y), "a point has two coordinates"
        assert len(self.low) == len(self.high), "an interval has two ends"
        assert len(self.low) in (0, len(self.x)), "every point has one, or none has"
        assert all(map(math.isfinite, (*self.x, *self.y, *self.low, *self.high))), "only numbers are drawn"

    @property
    def colour(self) -> str:
        """As `#rrggbb`."""
        if self.shade is None:
            return PALETTE[self.style % len(PALETTE)]
        ends = [[int(end[i : i + 2], 16) for i in (1, 3, 5)] for end in SHADES]
        mixed = [round(low + self.shade * (high - low)) for low, high in zip(*ends, strict=True)]
        return "#{:02x}{:02x}{:02x}".format(*mixed)

    @property
    def width(self) -> float:
        """Of a line, in points; a shaded one is the thicker, the lower its shade."""
        return 1.6 if self.shade is None else 2.6 - 1.8 * self.shade

    @property
    def symbol(self) -> str:
        """One of `SYMBOLS`."""
        return SYMBOLS[self.style % len(SYMBOLS)]


@dataclass(frozen=True)
class Chart:
    """Series on a pair of axes."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    title: str = ""


@dataclass(frozen=True)
class HeatMap:
    """A colour and a number for every pair of two settings."""

    x: Axis
    y: Axis
    """Both with categories."""
    values: tuple[tuple[float | None, ...], ...]
    """One tuple for each category of y, one number for each of x; None where nothing was measured."""
    label: str
    """What the numbers are, with their unit."""
    title: str = ""
    digits: int = 4
    """Significant digits of the numbers written into the cells."""

    def __post_init__(self) -> None:
        assert len(self.values) == len(self.y.categories), "a row for each category of y"
        assert all(len(row) == len(self.x.categories) for row in self.values), "a cell for each of x"

    def text(self, value: float | None) -> str:
        """A cell's number as it is written into the cell."""
        return "–" if value is None else f"{value:.{self.digits}g}"


Panel = Chart | HeatMap


@dataclass(frozen=True)
class Plot:
    """One figure: panels with one legend, and how to read them."""

    id: str
    """Of its files and of its place in the page; letters, digits and hyphens."""
    title: str
    caption: str
    panels: tuple[Panel, ...]
    stacked: bool = False
    """One panel below the other, with one x axis in common, rather than side by side."""
    table: Table | None = None
    """Stands below the panels."""
    small: bool = False
    """Many panels that are compared at a glance: each is lower."""

    @property
    def legend(self) -> tuple[Series, ...]:
        """The series to be named, one for each name, in the order of their first appearance."""
        found: dict[str, Series] = {}
        for panel in self.panels:
            for series in panel.series if isinstance(panel, Chart) else ():
                if series.in_legend:
                    found.setdefault(series.name, series)
        return tuple(found.values())


def plot_of(
    id_: str,
    title: str,
    caption: str,
    panels: Iterable[Panel | None],
    *,
    stacked: bool = False,
    small: bool = False,
) -> Plot | None:
    """The figure of those panels that there are and that have a series; None where none has."""
    there = tuple(panel for panel in panels if panel and (isinstance(panel, HeatMap) or panel.series))
    return Plot(id_, title, caption, there, stacked, small=small) if there else None


def highest_shown(losses: Sequence[float]) -> float | None:
    """Up to where losses are drawn, so that those of a few trainings that went astray do not flatten all others.

    Above the third quartile by three times its distance from the lowest; None where all lie below.
    """
    if not losses:
        return None
    lowest, quartile = min(losses), sorted(losses)[3 * (len(losses) - 1) // 4]
    limit = quartile + 3 * (quartile - lowest)
    return limit if lowest < limit < max(losses) else None


def capped(series: Iterable[Series], limit: float | None) -> tuple[Series, ...]:
    """The series, none of them above the limit: points that are stand on it, as a series of their own that says so."""
    if limit is None:
        return tuple(series)
    found, above = [], []
    for each in series:
        if each.draw == "points":
            points = list(zip(each.x, each.y, strict=True))
            above += [x for x, y in points if y > limit]
            points = [(x, y) for x, y in points if y <= limit]
            if points:
                xs, ys = zip(*points, strict=True)
                found.append(replace(each, x=xs, y=ys))
        else:
            found.append(replace(each, y=tuple(min(y, limit) for y in each.y)))
    if above:
        name = f"higher than {limit:.3g}, drawn there"
        found.append(Series(name, tuple(above), (limit,) * len(above), draw="points", style=_ASTRAY))
    return tuple(found)


def positions(categories: Sequence[str]) -> tuple[float, ...]:
    """Where an axis with these categories has them."""
    return tuple(float(i) for i in range(len(categories)))
