"""What pruners would have done to curves that are known to their ends."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.report.pruning.quality import TrialLosses
from service.report.pruning.replay import candidates, orders_of, pruned_curves, replay
from service.study.pruners import (
    HyperbandConfig,
    MedianConfig,
    NoPrunerConfig,
    PatientConfig,
    SuccessiveHalvingConfig,
    ThresholdConfig,
    pruner_misfit,
)
from tests.service.report.pruning.test_quality import curve

NONE = NoPrunerConfig()
MEDIAN = MedianConfig(name="median", warmup_fraction=0.5, startup_trials=1)
CURVES = [
    curve(0, 4, 3, 2.5, 2),  # the first: nothing to be compared with
    curve(1, 9, 3.5, 1, 0.5),  # the best, and behind the median at 200 tokens
    curve(2, 5, 2.5, 2, 1),  # ahead
    curve(3, 3, 2.9, 2.8, 2.7),  # at 200 tokens 2.9 against the median of 3 and 2.5; 2.8 of 2.5 and 2
    curve(4, 8, 8, 8, 8),
]


def lengths(curves):
    return [len(each.losses) for each in curves]


def test_a_median_pruner_stops_what_it_would_have_stopped():
    cut = pruned_curves(CURVES, MEDIAN)
    assert lengths(cut) == [4, 2, 4, 2, 2]
    assert [each.ended for each in cut] == ["complete", "pruned", "complete", "pruned", "pruned"]
    found = replay([CURVES], MEDIAN)
    assert (found.orders, found.stopped) == (1, 3)
    assert found.saved == pytest.approx(3 * 200 / 2000)
    assert (found.lost, found.regret) == (1, pytest.approx(1 - 0.5))
    assert found.wrongly == pytest.approx(1 / 3)  # 0.5, 2.7 and 8 against 2 and 1


def test_the_figures_are_means_over_the_orders():
    best_first = [CURVES[i] for i in (1, 0, 2, 3, 4)]
    # at 200 tokens 8 is behind the best one's 3.5, at 300 all others are behind its 1
    assert lengths(pruned_curves(best_first, MEDIAN)) == [4, 3, 3, 3, 2]
    found = replay([CURVES, best_first], MEDIAN)
    assert (found.orders, found.stopped, found.lost) == (2, (3 + 4) / 2, 1)
    assert found.saved == pytest.approx((0.3 + 0.25) / 2)
    assert found.regret == pytest.approx((0.5 + 0) / 2)
    assert found.wrongly == pytest.approx(1 / 7)  # of all that were stopped


def test_the_orders_are_the_trials_own_and_random_ones_the_same_every_time():
    orders = orders_of(CURVES)
    assert orders == orders_of(CURVES)
    assert orders[0] == CURVES
    assert len({tuple(each.trial for each in order) for order in orders}) == 5
    assert all(sorted(each.trial for each in order) == [0, 1, 2, 3, 4] for order in orders)


def test_without_a_pruner_nothing_changes():
    assert list(pruned_curves(CURVES, NONE)) == CURVES
    found = replay([CURVES], NONE)
    assert (found.stopped, found.saved, found.lost, found.regret, found.wrongly) == (0, 0, 0, 0, None)


def test_a_diverged_trial_is_shown_to_the_pruner_and_not_counted():
    diverged = curve(0, 1, 1, ended="diverged")
    found = replay([[diverged, *CURVES]], MEDIAN)
    # it does not end as complete, so that the first complete trial is still compared with nothing
    assert (found.stopped, found.saved) == (3, pytest.approx(0.3))
    assert pruned_curves([diverged], NONE) == (diverged,)


def test_a_pruner_that_stops_everything_leaves_no_best():
    found = replay([CURVES], ThresholdConfig(name="threshold", upper=-1.0))
    assert (found.stopped, found.wrongly, found.lost, found.regret) == (5, None, 1, math.inf)


LOSSES = st.lists(st.integers(1, 60), min_size=6, max_size=6)


@given(st.lists(LOSSES, min_size=1, max_size=12), st.sampled_from([0.0, 0.3, 0.5, 0.8]), st.integers(1, 4))
def test_the_median_rule_written_out_stops_the_same_trials_at_the_same_rungs(rows, warmup, startup):
    curves = [
        TrialLosses(i, dict(enumerate(map(float, row), start=1)), 6, "complete") for i, row in enumerate(rows)
    ]
    section = MedianConfig(name="median", warmup_fraction=warmup, startup_trials=startup)
    finished, expected = [], []
    for row in rows:
        stop = 6
        for rung in range(1, 6):
            there = [other[rung - 1] for other in finished]
            if rung >= int(6 * warmup) and len(there) >= startup and min(row[:rung]) > np.median(there):
                stop = rung
                break
        if stop == 6:
            finished.append(row)
        expected.append(stop)
    assert lengths(pruned_curves(curves, section)) == expected


@given(
    st.lists(LOSSES, min_size=1, max_size=12),
    st.sampled_from(
        [
            MEDIAN,
            PatientConfig(name="patient", patience_rungs=1),
            SuccessiveHalvingConfig(name="successive_halving", reduction_factor=2),
            HyperbandConfig(name="hyperband", reduction_factor=2),
        ]
    ),
)
def test_a_replay_is_consistent_and_comes_out_the_same_again(rows, section):
    curves = [
        TrialLosses(i, dict(enumerate(map(float, row), start=1)), 6, "complete") for i, row in enumerate(rows)
    ]
    found, cut = replay([curves], section), pruned_curves(curves, section)
    assert found == replay([curves], section)
    for whole, after in zip(curves, cut, strict=True):
        assert list(after.losses.items()) == list(whole.losses.items())[: len(after.losses)]
        assert (after.ended == "complete") == (len(after.losses) == 6)
    assert found.saved == pytest.approx(sum(6 - n for n in lengths(cut)) / (6 * len(curves)))
    best = min(each.final for each in curves)
    kept = [each.final for each in cut if each.ended == "complete"]
    assert (found.regret == 0) == (found.lost == 0) == (best in kept)
    assert found.stopped == len(curves) - len(kept)
    if kept and found.lost:
        assert found.wrongly > 0


@pytest.mark.parametrize("rungs", [1, 2, 3, 8, 21])
def test_the_pruners_compared_fit_the_rungs_and_differ(rungs):
    found = candidates(rungs)
    assert all(pruner_misfit(pruner, rungs) is None for pruner in found)
    assert len({pruner.model_dump_json() for pruner in found}) == len(found) <= 11
    warmups = [pruner.warmup_fraction for pruner in found if isinstance(pruner, MedianConfig)]
    expected = {1: [], 2: [0.5], 3: [0.333, 0.666], 8: [i / 8 for i in range(1, 8)]}
    assert warmups == expected.get(rungs, warmups)
    assert len(warmups) <= 7
