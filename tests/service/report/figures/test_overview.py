"""Figures show what the runs have measured: on a study written by hand, and on records of plain numbers."""

import math

import pytest

from service.report.figures import overview as figures
from service.report.figures.plots import Chart
from tests.service.report.figures.conftest import series_of
from tests.service.report.figures.test_grids import grid_record, on_grid

T_2 = 4.302652729911275
"""Student's t for 95 % with two degrees of freedom, from a table."""


def test_a_curve_is_the_mean_over_seeds_with_its_interval(drawn):
    tokens, steps, seconds = drawn["val-loss-curves"].panels
    slow = series_of(tokens)["slow"]
    assert slow.x == (2944.0, 5888.0, 8960.0)
    assert slow.y == pytest.approx((2.8, 2.4, 2.2))
    # finals 2.0, 2.2, 2.4: standard deviation 0.2
    half = T_2 * 0.2 / math.sqrt(3)
    assert slow.low == pytest.approx((2.8 - half, 2.4 - half, 2.2 - half))
    assert slow.high == pytest.approx((2.8 + half, 2.4 + half, 2.2 + half))
    assert series_of(steps)["slow"].x == (23.0, 46.0, 70.0)
    assert series_of(seconds)["slow"].x == (3.0, 6.0, 9.0)


def test_only_complete_runs_are_in_a_curve(drawn):
    wild = series_of(drawn["val-loss-curves"].panels[0])["wild"]
    # seeds 1 and 3; that of seed 2 diverged at 4.0
    assert wild.y == pytest.approx(((3.6 + 3.9) / 2, (3.2 + 3.5) / 2, (3.0 + 3.4) / 2))


def test_a_published_curve_is_dashed_in_its_arms_colour_on_its_own_axis_alone(drawn):
    tokens, steps, _ = drawn["val-loss-curves"].panels
    published = series_of(steps)["fast, published"]
    assert (published.x, published.y, published.dashed) == ((1.0, 70.0), (9.0, 1.25), True)
    assert published.style == series_of(steps)["fast"].style
    assert not any(series.dashed for series in tokens.series)


def test_the_final_comparison_has_the_published_value_beside_the_mean(drawn):
    chart = drawn["final"].panels[0]
    named = series_of(chart)
    assert chart.y.categories == ("slow", "fast", "wild")
    assert named["fast"].x == pytest.approx((1.6,))
    assert named["fast"].y == (1.0,)
    half = T_2 * 0.1 / math.sqrt(3)
    assert named["fast"].low + named["fast"].high == pytest.approx((1.6 - half, 1.6 + half))
    assert (named["published"].x, named["published"].y, named["published"].dashed) == ((2.5,), (0.0,), True)


def test_an_arm_has_the_same_style_in_every_figure(drawn):
    styles = {}
    for plot in drawn.values():
        for panel in plot.panels:
            for series in panel.series if isinstance(panel, Chart) else ():
                if series.name in ("slow", "fast", "wild"):
                    styles.setdefault(series.name, set()).add(series.style)
    assert styles == {"slow": {0}, "fast": {1}, "wild": {2}}


def test_efficiency_sets_the_loss_against_tokens_seconds_and_operations(drawn, record):
    tokens, seconds, flops = drawn["efficiency"].panels
    assert series_of(tokens)["slow"].x == (8960.0,)
    assert series_of(seconds)["slow"].x == (9.25,)
    # a block of 16 and d_model 16, one layer: forward 2 × (12·16² + 300·16) + 4·16·16, three times that to train
    assert series_of(flops)["slow"].x == (8960.0 * 3 * (2 * (12 * 16**2 + 300 * 16) + 4 * 16 * 16),)
    assert series_of(flops)["slow"].y == pytest.approx((2.2,))


def test_convergence_shows_how_far_an_arm_was_from_its_end(drawn):
    remaining = series_of(drawn["convergence"].panels[0])["slow"]
    assert remaining.x == pytest.approx((1 / 3, 2 / 3))
    assert remaining.y == pytest.approx((0.6, 0.2))


def test_the_stack_has_both_losses_and_the_settings_that_differ(drawn):
    stack = drawn["stack"]
    assert stack.stacked
    assert [panel.y.label.split(",")[0] for panel in stack.panels] == ["val_loss", "train_loss"]
    assert stack.table.headings == ("arm", "lr", "parameters", "val_loss")
    assert stack.table.rows[1] == ("fast", "0.001", "9,000", "1.6000")


def test_a_setting_without_effect_is_no_difference(record):
    base = {"optimizer.sharpness.method": "none", "optimizer.sharpness.rho": 0.2}
    runs = [
        on_grid(record, 0.1, 4, 1.0, **base),
        on_grid(record, 0.1, 4, 1.0, **base | {"optimizer.momentum": 0.5}),
    ]
    sam = {"optimizer.sharpness.method": "sam", "optimizer.sharpness.rho": 0.1}
    runs.append(on_grid(record, 0.1, 4, 1.0, **sam))
    plots = {plot.id: plot for plot in figures.build(grid_record(record, *runs), None)}
    table = plots["stack"].table
    assert "momentum" not in table.headings, "AdamW has none"
    assert [row[table.headings.index("rho")] for row in table.rows] == ["–", "–", "0.1"]
