from dataclasses import replace

import pytest

from service.report.figures.plots import Axis, Chart, Series, capped, highest_shown, plot_of
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


def test_losses_that_went_astray_do_not_flatten_the_others_and_stand_at_the_edge():
    losses = [1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 30.0, 4029.0]
    limit = highest_shown(losses)
    assert limit == 2.0 + 3 * (2.0 - 1.0)
    points = Series("complete", tuple(range(8)), tuple(losses), draw="points")
    best = Series("best so far", (0.0, 1.0), (4029.0, 1.0))
    line, kept, above = capped((best, points), limit)
    assert line.y == (limit, 1.0)
    assert kept.y == tuple(losses[:6])
    assert (above.name, above.x, above.y) == ("higher than 5, drawn there", (6, 7), (limit, limit))


@pytest.mark.parametrize("losses", [[], [2.0], [2.0, 2.0, 9.0], [1.0, 1.1, 1.3, 1.9], [-3.0, -2.0, -1.0]])
def test_of_losses_that_lie_together_or_are_too_few_all_are_drawn_where_they_are(losses):
    assert highest_shown(losses) is None
    points = Series("complete", tuple(range(len(losses))), tuple(losses), draw="points")
    assert capped((points,), None) == (points,)
