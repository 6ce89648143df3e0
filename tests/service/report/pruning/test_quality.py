"""Wrongly stopped trials, tokens saved and rank correlations, on curves whose figures can be worked out by hand."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from scipy import stats

from service.report.pruning.quality import (
    FAITHFUL,
    FEWEST_TRIALS,
    Proportion,
    RankCorrelation,
    TrialLosses,
    Wrong,
    audited,
    by_setting,
    rank_correlations,
    savings,
    warmup_fraction,
    wrong,
)
from service.study.pruners import MedianConfig, build_pruner

BUDGET = 400


def curve(trial, *losses, ended="complete", **more):
    return TrialLosses(
        trial, {100 * i: loss for i, loss in enumerate(losses, start=1)}, BUDGET, ended, **more
    )


def test_the_interval_of_a_share_is_clopper_and_pearsons():
    assert Proportion(0, 20).interval == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert Proportion(5, 5).interval == pytest.approx((0.025 ** (1 / 5), 1))
    # the bounds are quantiles of beta distributions
    bounds = (stats.beta.ppf(0.025, 2, 9), stats.beta.ppf(0.975, 3, 8))
    assert Proportion(2, 10).interval == pytest.approx(bounds)
    assert Proportion(2, 10).value == 0.2


def test_wrong_is_better_than_the_best_and_than_the_median_of_what_was_kept():
    found = wrong([1.0, 2.0, 3.0, math.inf], [1.5, 2.5, 3.5])
    assert found == Wrong(Proportion(1, 4), Proportion(2, 4))
    assert wrong([1.5, 2.5], [1.5, 2.5, 3.5]) == Wrong(
        Proportion(0, 2), Proportion(1, 2)
    )  # as good is not better
    assert wrong([], [1.0]) is None
    assert wrong([1.0], []) is None


AUDITED = [
    curve(0, 4, 3, 2, 1),
    curve(1, 5, 4, 3, 2),
    curve(2, 6, 5, 4, 3),
    curve(3, 9, 9, ended="pruned"),
    curve(4, 9, 9, 2, 0.5, audit_tokens=200),  # would have been the winner
    curve(5, 9, 8, 7, 6, audit_tokens=100),
    curve(6, 9, 9, ended="diverged", audit_tokens=200),
    curve(7, 9, ended="diverged"),
]


def test_audited_trials_are_compared_with_those_that_the_pruner_let_run():
    assert audited(AUDITED) == Wrong(Proportion(1, 3), Proportion(1, 3))
    assert audited(AUDITED[:4]) is None
    assert audited(AUDITED[4:6]) is None


def test_what_the_audit_cost_is_taken_off_what_pruning_saved():
    found = savings(AUDITED)
    assert (found.trials, found.pruned, found.budget_tokens) == (6, 1, 2400)
    assert (found.saved_tokens, found.audit_tokens) == (200, 200 + 300)
    assert found.share == pytest.approx(200 / 2400)
    assert savings([]).share == 0.0


def ten(swap=False):
    """Ten trials: at 100 tokens in the opposite order of the end, at 300 in its order but for two neighbours."""
    last = [float(i) for i in range(10)]
    third = [1.0, 0.0, *last[2:]] if swap else last
    return [curve(i, 9 - i, 5.0, third[i] + 10, last[i]) for i in range(10)]


def test_rank_correlations_are_spearmans_and_equal_losses_have_none():
    first, third = rank_correlations(ten(swap=True))
    assert (first.tokens, first.budget_share, first.trials) == (100, 0.25, 10)
    assert (third.tokens, third.budget_share, third.trials) == (300, 0.75, 10)
    assert first.rho == pytest.approx(-1)
    rho = 1 - 6 * 2 / (10 * 99)  # 1 - 6 Σd² / (n (n² - 1))
    assert third.rho == pytest.approx(rho)
    z, half = math.atanh(rho), 1.959964 * math.sqrt((1 + rho**2 / 2) / 7)
    assert third.interval == pytest.approx((math.tanh(z - half), math.tanh(z + half)), rel=1e-6)


def test_stopped_and_diverged_trials_have_no_rank():
    more = [curve(10, 0, 0, ended="pruned"), curve(11, 0, 0, ended="diverged")]
    assert rank_correlations([*ten(), *more]) == rank_correlations(ten())
    assert rank_correlations(ten()[: FEWEST_TRIALS - 1]) == ()
    assert rank_correlations([replace(each, losses={100: each.trial, 400: 1.0}) for each in ten()]) == ()


@pytest.mark.parametrize(
    ("n", "rho", "share"),
    [(20, 0.6, 0.955), (10, 0.9, 0.947), (10, 0.975, 0.937), (20, 0.972, 0.92), (10, 0.99, 0.88)],
)
def test_the_interval_of_a_rank_correlation_covers_as_often_as_the_docstring_says(n, rho, share):
    generator = np.random.default_rng(0)
    repeats = 1000
    truth = 6 / math.pi * math.asin(rho / 2)  # Spearman's of a bivariate normal distribution
    covered = 0
    for _ in range(repeats):
        early, final = generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T
        (found,) = rank_correlations(
            [TrialLosses(i, {1: early[i], 2: final[i]}, 2, "complete") for i in range(n)]
        )
        covered += found.interval[0] <= truth <= found.interval[1]
    assert covered / repeats == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / repeats))


def test_equal_orders_have_no_interval_without_width():
    (third,) = (found for found in rank_correlations(ten()) if found.tokens == 300)
    assert third.rho == pytest.approx(1)
    assert third.interval[0] < 0.98 < 0.999 < third.interval[1] < 1


def test_what_is_said_of_a_faithful_rung_is_so():
    r = 2 * math.sin(math.pi * FAITHFUL / 6)
    orthant = stats.multivariate_normal([0, 0], [[1, -r], [-r, 1]]).cdf(
        [0, 0]
    )  # better at one, worse at the other
    assert orthant / 0.5 == pytest.approx(0.14, abs=0.005)


@given(st.integers(2, 24), st.integers(1, 10**7), st.data())
def test_the_warm_up_ends_at_the_first_rung_from_which_on_the_order_is_the_final_one(count, more, data):
    budget = 1000 * count + more
    rungs = tuple(budget * (i + 1) // count for i in range(count))
    rhos = data.draw(st.lists(st.sampled_from([0.5, 0.95]), min_size=count - 1, max_size=count - 1))
    found = [RankCorrelation(rungs[i], (i + 1) / count, 10, rho, (0, 1)) for i, rho in enumerate(rhos)]
    fraction = warmup_fraction(found)
    expected = next((i for i in range(count - 1) if min(rhos[i:]) > FAITHFUL), None)
    if expected is None:
        assert fraction is None
        return
    section = MedianConfig(name="median", warmup_fraction=fraction, startup_trials=0)
    pruner = build_pruner(section, rungs=rungs)
    study = StudyOf([create_trial(value=1.0, intermediate_values=dict.fromkeys(rungs, 1.0))])
    asked = [create_trial(state=TrialState.RUNNING, intermediate_values={tokens: 2.0}) for tokens in rungs]
    assert [pruner.prune(study, trial) for trial in asked].index(True) == expected


class StudyOf:
    """What a pruner reads of a study."""

    direction = StudyDirection.MINIMIZE

    def __init__(self, trials):
        self.trials = trials

    def get_trials(self, **_):
        return self.trials


def test_settings_that_differ_make_groups():
    wsd = {"schedule.decay": "wsd", "schedule.decay_shape": "sqrt"}
    curves = [
        curve(0, 1, settings={"schedule.decay": "cosine"}),
        curve(1, 1, settings=wsd),
        curve(2, 1, settings={"schedule.decay": "wsd", "schedule.decay_shape": "linear"}),
        curve(3, 1, settings=wsd),
    ]
    found = {name: [each.trial for each in group] for name, group in by_setting(curves).items()}
    assert found == {
        "decay cosine": [0],
        "decay wsd": [1, 2, 3],
        "decay_shape linear": [2],
        "decay_shape sqrt": [1, 3],
    }
    assert by_setting(curves[3:]) == {}


def test_a_schedule_that_falls_late_hides_the_order_from_the_early_rungs():
    generator = random.Random(0)
    finals = {trial: generator.random() for trial in range(20)}
    # cosine shows the order from the first rung on, wsd only in its decay, which begins after 300 of 400 tokens
    cosine = [
        curve(t, *(finals[t] + 0.1 * i for i in (3, 2, 1)), finals[t], settings={"schedule.decay": "cosine"})
        for t in range(20)
    ]
    wsd = [
        curve(20 + t, *(generator.random() for _ in range(3)), finals[t], settings={"schedule.decay": "wsd"})
        for t in range(20)
    ]
    found = {name: rank_correlations(group) for name, group in by_setting([*cosine, *wsd]).items()}
    assert warmup_fraction(found["decay cosine"]) == 0.25
    assert warmup_fraction(found["decay wsd"]) is None
