from dataclasses import replace

import pytest

from service.report.figures import diagnostics
from service.report.figures.series import drawn_arms
from service.report.record.study_record import Arm
from tests.service.report.conftest import run_of
from tests.service.report.figures.conftest import series_of


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
