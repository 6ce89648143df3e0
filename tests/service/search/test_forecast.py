from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from service.search.belief import NEW, Belief
from service.search.forecast import forecast
from service.search.problem import Begun, Problem, Stop
from service.search.process import CurveProcess, Points, Shape
from service.search.thaw import Thaw
from service.study.parameters import FloatParameter, IntParameter
from service.study.search_space import SearchSpace

LINE = Problem(SearchSpace({"x": FloatParameter(type="float", low=0.0, high=1.0)}), (10, 20, 40), 0)


def curve(number, x, passed=3, state="ended"):
    losses = 2 + (x - 0.3) ** 2, 1.5 + (x - 0.3) ** 2, 1 + (x - 0.3) ** 2
    return Begun(number, {"x": x}, losses[:passed], state)


SEEN = [curve(i, x) for i, x in enumerate((0.0, 0.15, 0.5, 0.7, 1.0))]


def process_at(rows):
    shape = Shape(np.array([0]), np.array([True]))
    seen = Points(np.array([[-1.0], [1.0]]), np.ones(2), np.array([0, 1]))
    logs = np.log([2.0, 0.5, 1.0, 0.5, 0.3, 1.0, 0.5, 0.05, 0.02])
    process = CurveProcess.given(shape, seen, np.array([-1.0, 1.0]), logs)
    return process, Points(np.array(rows)[:, None], np.ones(len(rows)), -2 - np.arange(len(rows)))


def test_means_and_variances_taken_together_are_those_of_each_alone():
    process, ends = process_at([-0.9, 0.0, 0.4])
    mean, covariance = process.jointly(ends)
    alone = process.predicted(ends)
    assert np.allclose(mean, alone[0])
    assert np.allclose(np.diag(covariance), alone[1])
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


def test_of_one_trial_the_draws_agree_with_the_integral():
    process, ends = process_at([-0.5])
    mean, variance = process.predicted(ends)
    exact, _ = integrate.quad(lambda y: -y * stats.norm.pdf(y, mean[0], np.sqrt(variance[0])), -20, 0)
    found = forecast(process, ends, np.ones(1), np.array([exact]), best=0.0, unit=0.1, seed=0)
    assert found.gain == pytest.approx(0.1 * exact)
    assert found.ahead == pytest.approx(0.1 * exact, rel=0.15)  # 512 draws
    never = forecast(process, ends, np.zeros(1), np.zeros(1), best=0.0, unit=0.1, seed=0)
    assert (never.gain, never.ahead, never.high) == (0, 0, 0)


def test_ten_bring_more_than_one_and_no_less_than_the_best_of_them():
    process, ends = process_at(list(np.linspace(-1, 1, 20)))
    mean, variance = process.predicted(ends)
    gains = np.array(
        [
            stats.norm(m, s).expect(lambda y: max(0.0, -y))
            for m, s in zip(mean, np.sqrt(variance), strict=True)
        ]
    )
    found = forecast(process, ends, np.ones(20), gains, best=0.0, unit=1.0, seed=0)
    assert found.gain < found.ahead
    assert found.low <= found.ahead <= found.high
    assert "one more trial is expected to lower the best loss by" in found.shown


def test_a_forecast_is_in_nats_and_less_where_the_bottom_is_known():
    def of(begun):
        places = [{"x": x} for x in np.linspace(0.01, 0.99, 40)]
        return Belief(LINE, begun).forecast(places, [NEW] * 40)

    before = of(SEEN)
    assert 0 < before.gain < 0.2  # the bottom is 0.0225 lower than the best so far
    bottom = [
        Begun(5 + i, {"x": x}, (2.0, 1.5, 1 + (x - 0.3) ** 2), "ended")
        for i, x in enumerate((0.29, 0.3, 0.31))
    ]
    assert of([*SEEN, *bottom]).gain < before.gain / 3
    assert of([Begun(0, {"x": 0.1}, (2.0,), "paused"), Begun(1, {"x": 0.2}, (2.1,), "paused")]) is None


def scaled(begun, factor):
    return [Begun(t.number, t.values, tuple(loss * factor for loss in t.losses), t.state) for t in begun]


def test_losses_a_hundredth_as_far_apart_promise_a_hundredth():
    places = [{"x": x} for x in np.linspace(0.01, 0.99, 20)]
    whole, hundredth = (Belief(LINE, scaled(SEEN, f)).forecast(places, [NEW] * 20) for f in (1, 0.01))
    assert hundredth.gain == pytest.approx(whole.gain / 100, rel=1e-6)


ALL = [*SEEN, *(curve(5 + i, 0.9 - i / 50) for i in range(9))]
"""What was trained after the first of them would have paid for thirteen, after the best for twelve."""


def test_a_search_stops_where_nothing_promises_what_it_has_to():
    assert not isinstance(Thaw(stop_gain=1e-6).decide(LINE, ALL), Stop)
    stop = Thaw(stop_gain=10.0).decide(LINE, ALL)
    assert isinstance(stop, Stop)
    assert not stop.is_empty
    assert stop.why.startswith("best 1.0225; one more trial is expected to lower")
    assert stop.why.endswith("; stop.gain is 10")
    few = [*ALL[:4], *(curve(i, 0.5 + i / 100, 2, "paused") for i in range(4, 30))]
    assert not isinstance(Thaw(stop_gain=10.0).decide(LINE, few), Stop)  # too few whole ones
    assert not isinstance(Thaw().decide(LINE, ALL), Stop)


def test_a_search_goes_on_for_ten_trials_after_one_that_brought_what_it_has_to():
    gain = 0.3  # which nothing promises
    assert isinstance(Thaw(stop_gain=gain).decide(LINE, ALL), Stop)
    first, *others = ALL
    jump = replace(first, losses=(2.0, 1.5, 0.5))  # what came later is not as good
    paid = [replace(trial, losses=tuple(1 + loss for loss in trial.losses)) for trial in others]
    assert isinstance(Thaw(stop_gain=gain).decide(LINE, [jump, *paid]), Stop)
    late = [*(replace(trial, number=trial.number - 1) for trial in paid), replace(jump, number=len(paid))]
    assert not isinstance(Thaw(stop_gain=gain).decide(LINE, late), Stop)


def test_a_promising_trial_on_its_way_keeps_the_search_going():
    grid = Problem(SearchSpace({"x": IntParameter(type="int", low=0, high=12)}), LINE.rungs, 0)
    losses = [(2.0 + i, 1.5 + i, 1.0 + i) for i in range(12)]
    begun = [Begun(i, {"x": i}, one, "ended") for i, one in enumerate(losses)]
    on_its_way = Begun(12, {"x": 12}, (1.0, 0.5), "running")  # and so far the best by a unit
    assert isinstance(Thaw(stop_gain=0.3).decide(grid, begun), Stop)
    assert not isinstance(Thaw(stop_gain=0.3).decide(grid, [*begun, on_its_way]), Stop)
