from dataclasses import replace

import pytest

from service.report.figures.plots import Axis, Chart, Series, plot_of
from tests.service.report.figures.test_drawing import CURVE, LINES, PUBLISHED, a_plot


def test_thirty_five_arms_look_different():
    looks = {(s.colour, s.symbol) for s in (replace(CURVE, style=i) for i in range(35))}
    assert len(looks) == 35


def test_the_legend_names_each_series_once_in_order_and_not_those_that_are_not_in_it():
    hidden = replace(CURVE, name="hidden", in_legend=False)
    second = Chart(Axis("x"), Axis("y"), (hidden, PUBLISHED, CURVE))
    assert [series.name for series in a_plot(LINES, second).legend] == ["arm", "published"]


def test_there_is_no_figure_of_nothing():
    assert plot_of("id", "Title", "Caption.", [None, replace(LINES, series=())]) is None


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_only_numbers_are_drawn(broken):
    with pytest.raises(AssertionError, match="only numbers"):
        Series("arm", (1.0,), (broken,))
