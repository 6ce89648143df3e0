"""plotly and matplotlib draw the numbers that they are given."""

import html
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from service.report.figures import interactive, static
from service.report.figures.plots import SYMBOLS, Axis, Chart, HeatMap, Plot, Series
from service.text.tables import Table

HOSTILE = "<b>$x$</b> & 'q'"
CURVE = Series("arm", (1.0, 2.0, 4.0), (3.0, 2.5, 2.25), low=(2.5, 2.25, 2.0), high=(4.0, 3.0, 2.5), style=1)
PUBLISHED = Series("published", (1.0, 4.0), (3.5, 2.0), dashed=True, style=6)
LINES = Chart(Axis("tokens", log=True), Axis("loss"), (CURVE, PUBLISHED), "against tokens")
DOTS = Chart(
    Axis("loss"),
    Axis("", categories=("first", "second")),
    (
        Series("first", (1.5,), (0.0,), draw="points", low=(1.0,), high=(1.75,)),
        Series("second", (2.0,), (1.0,), draw="points", style=1),
    ),
)
BARS = Chart(
    Axis("importance"),
    Axis("", categories=("lr", "dropout")),
    (
        Series("fANOVA", (0.75, 0.25), (0.0, 1.0), draw="bars"),
        Series("PED", (0.5, 0.5), (0.0, 1.0), draw="bars", style=1),
    ),
)
HEAT = HeatMap(
    Axis("lr", categories=("1e-5", "1e-4")),
    Axis("batch", categories=("12", "20", "40")),
    ((1.25, 2.0), (3.0, None), (0.5, 4.0)),
    "loss",
)


def a_plot(*panels, **more) -> Plot:
    return Plot("figure", "Title", "Caption.", panels, **more)


def plotly_of(panel):
    return interactive.draw(a_plot(panel))[0]


def axes_of(panel):
    return static.draw(a_plot(panel)).axes[0]


def test_plotly_has_the_points_and_the_band_of_a_line():
    band, line, published = plotly_of(LINES).data
    assert (line.x, line.y) == ((1.0, 2.0, 4.0), (3.0, 2.5, 2.25))
    assert band.x == (1.0, 2.0, 4.0, 4.0, 2.0, 1.0)
    assert band.y == (4.0, 3.0, 2.5, 2.0, 2.25, 2.5)
    assert (published.x, published.y) == ((1.0, 4.0), (3.5, 2.0))
    assert (line.line.dash, published.line.dash) == ("solid", "dash")
    assert band.meta == line.meta == "arm"


def test_matplotlib_has_the_points_and_the_band_of_a_line():
    axes = axes_of(LINES)
    line, published = axes.get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[1, 3], [2, 2.5], [4, 2.25]])
    np.testing.assert_array_equal(published.get_xydata(), [[1, 3.5], [4, 2]])
    assert (line.get_linestyle(), published.get_linestyle()) == ("-", "--")
    corners = {tuple(point) for point in axes.collections[0].get_paths()[0].vertices}
    assert corners == {(1, 2.5), (2, 2.25), (4, 2), (1, 4), (2, 3), (4, 2.5)}


def test_a_logarithmic_axis_is_one_in_both():
    layout, axes = plotly_of(LINES).layout, axes_of(LINES)
    assert (layout.xaxis.type, layout.yaxis.type) == ("log", "linear")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")


def test_dots_have_their_intervals_along_the_axis_of_numbers():
    first, second = plotly_of(DOTS).data
    assert (first.x, first.error_x.array, first.error_x.arrayminus) == ((1.5,), (0.25,), (0.5,))
    assert first.error_y.array is None
    assert second.error_x.array is None
    with_interval, without = axes_of(DOTS).containers
    (interval,) = with_interval.lines[2][0].get_segments()
    np.testing.assert_array_equal(interval, [[1.0, 0.0], [1.75, 0.0]])
    assert not without.has_xerr


def test_a_mean_beyond_equal_runs_by_its_rounding_is_drawn():
    mean = (0.1 + 0.1 + 0.1) / 3
    assert mean > 0.1
    dot = Series("arm", (mean,), (0.0,), draw="points", low=(0.1,), high=(0.1,))
    axes_of(replace(DOTS, series=(dot,)))


def test_categories_name_the_ticks_and_the_first_stands_on_top():
    layout, axes = plotly_of(DOTS).layout, axes_of(DOTS)
    assert layout.yaxis.ticktext == ("first", "second")
    assert layout.yaxis.range[0] > 1 > 0 > layout.yaxis.range[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.get_ylim()[0] > 1 > 0 > axes.get_ylim()[1]


def test_bars_of_two_methods_lie_side_by_side():
    figure = plotly_of(BARS)
    assert [(trace.x, trace.orientation) for trace in figure.data] == [
        ((0.75, 0.25), "h"),
        ((0.5, 0.5), "h"),
    ]
    assert figure.layout.barmode == "group"
    fanova, ped = axes_of(BARS).containers
    assert [bar.get_width() for bar in fanova] == [0.75, 0.25]
    assert [bar.get_width() for bar in ped] == [0.5, 0.5]
    for upper, lower in zip(fanova, ped, strict=True):
        assert upper.get_y() + upper.get_height() == pytest.approx(lower.get_y())


def test_a_heat_map_has_its_values_and_writes_them():
    (heat,) = plotly_of(HEAT).data
    assert [list(row) for row in heat.z] == [[1.25, 2.0], [3.0, None], [0.5, 4.0]]
    assert [list(row) for row in heat.text] == [["1.25", "2"], ["3", "–"], ["0.5", "4"]]
    axes = axes_of(HEAT)
    drawn = axes.get_images()[0].get_array()
    np.testing.assert_array_equal(drawn.filled(-1), [[1.25, 2.0], [3.0, -1], [0.5, 4.0]])
    texts = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert ((1, 1), "–") in texts
    assert ((0, 2), "0.5") in texts


def test_an_arm_has_one_colour_and_symbol_in_both():
    for style in (0, 6, 7, 34):
        chart = Chart(Axis("x"), Axis("y"), (replace(CURVE, style=style),))
        marker, line = plotly_of(chart).data[1].marker, axes_of(chart).get_lines()[0]
        assert marker.color.lower() == to_hex(line.get_color())
        assert SYMBOLS[style % 5] in {"o": "circle", "s": "square", "D": "diamond", "X": "cross"}.get(
            line.get_marker(), "triangle"
        )


def test_markup_and_mathematics_in_names_are_text():
    chart = Chart(Axis(HOSTILE), Axis("", categories=(HOSTILE,)), (replace(CURVE, name=HOSTILE),), HOSTILE)
    figure = plotly_of(chart)
    escaped = "&lt;b&gt;$x$&lt;/b&gt; &amp; 'q'"
    assert figure.layout.title.text == figure.layout.xaxis.title.text == escaped
    assert figure.layout.yaxis.ticktext == (escaped,)
    assert figure.data[1].name == escaped


def test_files_are_a_picture_and_a_drawing_with_names_as_they_are(tmp_path):
    table = Table("t", "T", ("arm", "lr"), (("first", "0.1"), (HOSTILE, "0.2")))
    plot = a_plot(replace(LINES, title=HOSTILE), replace(LINES, series=(CURVE,)), stacked=True, table=table)
    png, svg = static.write(plot, tmp_path)
    with Image.open(png) as image:
        assert min(image.size) > 500
    assert ElementTree.fromstring(svg.read_bytes()).tag.endswith("svg")
    drawn = html.unescape("".join(re.findall(r"<!--(.*?)-->", svg.read_text(), re.DOTALL)))
    assert HOSTILE in drawn
    assert "mathdefault" not in drawn
    assert "Oblique" not in svg.read_text(), "a formula would be set in italics"


def test_a_name_in_another_script_is_no_warning(tmp_path):
    static.write(a_plot(replace(LINES, title="学習率 🚀")), tmp_path)
