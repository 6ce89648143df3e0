import math
import time

import numpy as np
import pytest
from scipy import integrate

from service.search.belief import NEW, Belief, log_expected_improvement
from service.search.problem import Begun, Problem
from service.study.parameters import FloatParameter
from service.study.search_space import SearchSpace

LINE = Problem(SearchSpace({"x": FloatParameter(type="float", low=0.0, high=1.0)}), (10, 20, 40), 0)


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.5, 3.0, 5.9, 6.1, 12.0, 30.0])
def test_the_expected_improvement_is_that_of_the_integral(mean):
    # of y normal around the mean, below 0; relative to the density at 0, which keeps the tail in range
    density, _ = integrate.quad(
        lambda y: -y * np.exp(-((y - mean) ** 2) / 2 + (mean**2 / 2 if mean > 0 else 0)),
        -12 - 2 * abs(mean),
        0,
    )
    exact = np.log(density) - (mean**2 / 2 if mean > 0 else 0) - np.log(np.sqrt(2 * np.pi))
    found = log_expected_improvement(0.0, np.array([mean]), np.array([1.0]))
    assert found == pytest.approx([exact], abs=0.01)


def whole(number, x, loss=None, state="ended"):
    end = (x - 0.3) ** 2 if loss is None else loss
    return Begun(number, {"x": x}, (end + 2, end + 1.5, end + 1), state)


SEEN = [whole(i, x) for i, x in enumerate((0.0, 0.15, 0.5, 0.7, 1.0))]


def gains(begun, *at):
    return Belief(LINE, begun).log_gain([{"x": x} for x in at], [NEW] * len(at))


def test_more_is_expected_where_losses_point_to():
    between, beyond = gains(SEEN, 0.3, 0.9)
    assert between > beyond + 1


def test_before_a_trial_is_whole_the_best_has_its_lead_to_gain_by_being_finished():
    waiting = [Begun(i, one.values, one.losses[:2], "paused") for i, one in enumerate(SEEN)]
    found = Belief(LINE, waiting).log_gain([one.values for one in waiting], [one.number for one in waiting])
    assert int(found.argmax()) == 1  # the lowest
    assert found[1] > math.log(0.5)  # of a deviation, by which it is ahead of the median
    assert found[1] > found[4] + 2


def test_a_place_where_a_worker_is_promises_less():
    running = [*SEEN, Begun(5, {"x": 0.3}, (2.0,), "running")]
    alone, beside = gains(SEEN, 0.31), gains(running, 0.31)
    assert beside < alone - 0.5


def test_a_place_among_failures_promises_less_and_no_loss_is_made_up_for_them():
    failed = [Begun(5 + i, {"x": x}, (), "failed") for i, x in enumerate((0.25, 0.3, 0.35))]
    free, among = gains(SEEN, 0.3), gains([*SEEN, *failed], 0.3)
    assert among < free - 0.5
    assert gains([*SEEN, *failed], 0.9) > gains(SEEN, 0.9) - 0.7  # far from them: little changes


def test_a_trial_is_carried_on_from_its_own_curve():
    lucky = Begun(5, {"x": 0.8}, (1.5, 1.0), "paused")
    own, other = Belief(LINE, [*SEEN, lucky]).log_gain([{"x": 0.8}, {"x": 0.8}], [5, NEW])
    assert own > other


def test_a_result_of_another_place_counts_at_the_end_alone():
    elsewhere = [Begun(t.number, t.values, t.losses[-1:], "ended", skipped=2) for t in SEEN]
    between, beyond = gains(elsewhere, 0.3, 0.9)
    assert between > beyond + 1
    paused = Begun(5, {"x": 0.8}, (1.0,), "paused")  # of its first rung nothing else is known
    assert np.isfinite(gains([*elsewhere, paused], 0.3, 0.9)).all()


def test_of_runs_with_one_evaluation_the_ends_are_all_there_is():
    once = Problem(LINE.space, (40,), 0)
    seen = [Begun(t.number, t.values, t.losses[-1:], "ended") for t in SEEN]
    between, beyond = Belief(once, seen).log_gain([{"x": 0.3}, {"x": 0.9}], [NEW, NEW])
    assert between > beyond + 1


def test_losses_that_are_no_numbers_are_an_error():
    with np.errstate(invalid="ignore"), pytest.raises((FloatingPointError, np.linalg.LinAlgError)):
        gains([*SEEN, whole(5, 0.2, loss=math.nan)], 0.3)


@pytest.mark.slow
def test_thousands_of_losses_take_no_longer_than_one_thousand():
    rungs = tuple(range(1, 9))
    problem = Problem(LINE.space, rungs, 0)
    begun = [
        Begun(i, {"x": x}, tuple((x - 0.3) ** 2 + 1 / rung for rung in rungs), "ended")
        for i, x in enumerate(np.linspace(0, 1, 600))
    ]
    start = time.process_time()
    between, beyond = Belief(problem, begun).log_gain([{"x": 0.3001}, {"x": 0.9001}], [NEW, NEW])
    # of two threads or so; with all 4,800 it takes ten times as long
    assert time.process_time() - start < 6
    assert between > beyond
