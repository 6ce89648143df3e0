"""Figures show what the runs have measured: on a study written by hand, and on records of plain numbers."""

import math
from dataclasses import replace

import pytest

from service.report.figures import diagnostics
from service.report.figures import overview as figures
from service.report.figures.plots import Chart
from service.report.figures.series import dots, drawn_arms, published_values
from service.report.published.document import Published
from service.report.record.study_record import Arm
from tests.service.report.conftest import run_of
from tests.service.report.figures.test_grids import grid_record, on_grid

T_2 = 4.302652729911275
"""Student's t for 95 % with two degrees of freedom, from a table."""

PUBLISHED = Published.model_validate_json(
    """{"source": "a document",
        "tables": [{"id": "t1", "title": "T", "source": "table 1",
                    "columns": [{"name": "loss", "metric": "val_loss"}, {"name": "speed"}],
                    "rows": [{"arm": "slow", "values": {"loss": 2.5, "speed": 9}},
                             {"arm": "fast", "values": {"loss": null}}]}],
        "curves": [{"arm": "fast", "metric": "val_loss_official", "x": "steps", "points": [[1, 9.0], [70, 1.25]]}]}"""
)


@pytest.fixture(scope="module")
def drawn(record):
    return {plot.id: plot for plot in figures.build(record, PUBLISHED)}


def series_of(chart: Chart):
    return {series.name: series for series in chart.series}


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


def test_published_values_are_those_of_the_metrics_column():
    assert published_values(PUBLISHED, "val_loss") == {"slow": 2.5}
    assert published_values(PUBLISHED, "train_loss") == {}


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


def test_stability_counts_diverged_runs_by_arm(drawn):
    bars = next(
        series for panel in drawn["stability"].panels for series in panel.series if series.draw == "bars"
    )
    assert bars.x == (1.0,)


def test_the_gradient_norm_is_that_of_the_measured_steps_where_there_are_any(record):
    wild = next(arm for arm in drawn_arms(record) if arm.name == "wild")
    one_run = replace(wild, arm=Arm("wild", wild.arm.complete[:1]))
    plots = {plot.id: plot for plot in diagnostics.build(record, [one_run])}
    (norms,) = (s for s in plots["stability"].panels[0].series)
    assert (norms.x, norms.y) == ((10.0, 20.0, 40.0), (1.0, 4.0, 2.0))  # step 30 had none


def test_reliability_joins_the_bins_of_all_seeds_by_their_tokens(record):
    def predicting(seed, share, accuracy):
        bins = [
            {"confidence": 0.25, "accuracy": accuracy, "share": share},
            {"confidence": None, "accuracy": None, "share": 0.0},
        ]
        last = {"kind": "evaluation", "reliability": bins, "loss_by_position": [4.0 + seed, 2.0 + seed]}
        figures = {"val_loss": 1.0, "ece": 0.1}
        return run_of("slow", seed, figures, evaluations=({"kind": "evaluation"}, last))

    arm = Arm("slow", (predicting(0, 0.75, 0.2), predicting(1, 0.25, 0.6)))
    arms = drawn_arms(replace(record, arms=(arm,), baseline="slow"))
    plots = {plot.id: plot for plot in diagnostics.build(record, arms)}
    reliability = series_of(plots["calibration"].panels[0])
    assert (reliability["slow"].x, reliability["slow"].y) == ((0.25,), pytest.approx((0.3,)))
    assert (reliability["perfect"].x, reliability["perfect"].dashed) == (pytest.approx((0.0, 0.3)), True)
    positions = series_of(plots["loss-by-position"].panels[0])["slow"]
    assert (positions.x, positions.y) == ((1.0, 2.0), (4.5, 2.5))


def test_loss_and_confidence_are_correlated_over_arms(record_of, record):
    losses, confidences = {"a": 4.0, "b": 3.0, "c": 1.0}, {"a": 0.2, "b": 0.3, "c": 0.5}
    arms = {
        name: {"nats_per_token": [losses[name]], "confidence": [confidences[name]], "val_loss": [1.0]}
        for name in losses
    }
    study = record_of(**arms)
    plots = {plot.id: plot for plot in diagnostics.build(record, drawn_arms(study))}
    assert "r = -1.000 over 3 arms" in plots["loss-and-confidence"].caption
    two = record_of(**dict(list(arms.items())[:2]))
    assert diagnostics.build(record, drawn_arms(two))[-1].id != "loss-and-confidence"


def test_of_more_arms_than_fit_the_best_are_drawn_and_the_baseline(record_of):
    study = record_of(**{f"arm {i}": {"val_loss": [100.0 - i]} for i in range(30)})
    names = [arm.name for arm in drawn_arms(study)]
    assert names == ["arm 0", *(f"arm {i}" for i in range(6, 30))]


def test_times_are_drawn_from_the_lowest_run_to_the_highest(record_of):
    study = record_of(a={"val_loss": [1.0, 1.0], "seconds": [2.0, 8.0]})
    (dot,) = dots(drawn_arms(study), "seconds", of_runs=True).series
    assert (dot.x, dot.low, dot.high) == ((5.0,), (2.0,), (8.0,))


def test_dots_of_a_metric_that_no_arm_has_are_none(record_of):
    study = record_of(a={"val_loss": [1.0]})
    assert dots(drawn_arms(study), "accuracy") is None
