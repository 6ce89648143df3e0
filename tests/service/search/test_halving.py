import pytest

from service.search.halving import Halving
from service.search.problem import Advance, Begin, Begun, Problem
from service.study.parameters import FloatParameter
from service.study.search_space import SearchSpace

SPACE = SearchSpace({"x": FloatParameter(type="float", low=0.0, high=1.0)})


def problem(*rungs):
    return Problem(SPACE, rungs, 0)


SIXTEENTHS = problem(1, 4, 16)
BEGIN = Begin(None)


def trial(number, *losses, state="paused"):
    return Begun(number, {"x": 0.5}, losses, state)


@pytest.mark.parametrize(
    ("rungs", "factor", "levels"),
    [
        ((1, 4, 16), 4, [1, 2, 3]),
        (tuple(range(1, 9)), 4, [1, 4, 8]),
        (tuple(range(1, 9)), 2, [1, 2, 4, 8]),
        (tuple(range(1, 9)), 3, [1, 3, 8]),  # 9 lies beyond
        ((5,), 4, [1]),
        ((5, 6), 4, [1, 2]),
    ],
)
def test_levels_are_rungs_that_many_times_apart(rungs, factor, levels):
    assert Halving(factor).levels(len(rungs), rungs) == levels


def test_of_four_the_best_goes_on_and_of_fewer_none():
    losses = (4.0, 2.0, 3.0, 5.0)
    trials = [trial(i, loss) for i, loss in enumerate(losses)]
    assert Halving().decide(SIXTEENTHS, trials[:3]) == BEGIN
    assert Halving().decide(SIXTEENTHS, trials) == Advance(1)
    trials[1] = trial(1, 2.0, state="running")
    assert Halving().decide(SIXTEENTHS, trials) == BEGIN


def test_one_that_waited_is_promoted_when_enough_others_were_worse():
    trials = [trial(0, 2.0, 1.0), trial(1, 3.0), *(trial(i, 4.0) for i in range(2, 7))]
    assert Halving().decide(SIXTEENTHS, trials) == BEGIN  # of seven one goes on
    assert Halving().decide(SIXTEENTHS, [*trials, trial(7, 9.0)]) == Advance(1)


def test_higher_levels_come_first_and_a_trial_on_its_way_before_them():
    low = [trial(i, float(i)) for i in range(4)]
    high = [trial(4 + i, 9.0, float(i)) for i in range(4)]
    assert Halving().decide(SIXTEENTHS, [*low, *high]) == Advance(4)
    between = problem(1, 2, 4, 8, 16)
    promoted = trial(9, 1.0, 1.0)
    assert Halving().decide(between, [*low, promoted]) == Advance(9)


def test_a_failure_is_one_of_the_worse():
    trials = [trial(0, 5.0), trial(1, state="failed"), trial(2, state="failed"), trial(3, state="failed")]
    assert Halving().decide(SIXTEENTHS, trials) == Advance(0)


def test_growing_opens_a_level_only_when_orders_disagree():
    agreeing = [trial(0, 1.0, 1.0), trial(1, 2.0, 2.0), trial(2, 3.0, 3.0), trial(3, 4.0, 4.0)]
    disagreeing = [trial(0, 1.0, 4.0), *agreeing[1:]]
    assert Halving().decide(SIXTEENTHS, agreeing) == Advance(0)
    assert Halving(grows=True).decide(SIXTEENTHS, agreeing) == BEGIN
    assert Halving(grows=True).decide(SIXTEENTHS, disagreeing) == Advance(1)


def test_a_difference_that_turned_about_on_the_way_is_noise():
    ladder = problem(1, 2, 3, 4, 16)
    first, second = (1.0, 1.2, 1.0, 1.1), (1.1, 1.1, 1.1, 1.05)  # they lead in turn, by up to 0.1
    clear = (1.1, 1.3, 1.2, 1.05)
    others = [trial(2, 3.0, 3.0, 3.0, 3.0), trial(3, 4.0, 4.0, 4.0, 4.0)]
    assert Halving(grows=True).decide(ladder, [trial(0, *first), trial(1, *second), *others]) == BEGIN
    assert Halving(grows=True).decide(ladder, [trial(0, *first), trial(1, *clear), *others]) == Advance(1)
