import math
from itertools import pairwise

import pytest

from service.search.coordinates import Coordinates
from service.search.problem import Advance, Begin, Begun, Problem, Stop
from service.search.thaw import Thaw
from service.study.parameters import CategoricalParameter, FloatParameter, IntParameter
from service.study.search_space import SearchSpace

RUNGS = (10, 20, 40)
GRID = SearchSpace({key: IntParameter(type="int", low=0, high=2) for key in "xy"})
WIDE = SearchSpace(
    {
        "lr": FloatParameter(type="float", low=1e-4, high=1e-1, log=True),
        "method": CategoricalParameter(type="categorical", choices=("none", "sam")),
        "rho": FloatParameter(type="float", low=0.02, high=2.0, log=True, when={"method": ("sam",)}),
        "layers": IntParameter(type="int", low=1, high=6),
    }
)


class Study:
    """Trials that a searcher has advanced, of a loss that is known in closed form."""

    def __init__(self, space, loss, *, seed=0, **how):
        self.problem = Problem(space, RUNGS, seed, **how)
        self.loss = loss
        self.begun = []

    def one(self, searcher, *, left=math.inf):
        """One decision, carried out at once; the trial's number, or None where the search stops."""
        decision = searcher.decide(self.problem, self.begun, left)
        if isinstance(decision, Stop):
            return None
        if isinstance(decision, Begin):
            number = len(self.begun)
            self.begun.append(Begun(number, decision.values, (), "running"))
        else:
            assert isinstance(decision, Advance)
            number = decision.number
            assert self.begun[number].state == "paused"
        self.end_rung(number)
        return number

    def end_rung(self, number):
        trial = self.begun[number]
        end = self.loss(trial.values)
        if math.isinf(end):
            self.begun[number] = Begun(number, trial.values, trial.losses, "failed")
            return
        losses = (*trial.losses, end + 1 / (1 + len(trial.losses)))
        state = "ended" if len(losses) == len(RUNGS) else "paused"
        self.begun[number] = Begun(number, trial.values, losses, state)

    def best(self):
        return min((t for t in self.begun if t.state == "ended"), key=lambda t: t.losses[-1], default=None)


def test_all_of_a_small_space_is_tried_once_and_then_nothing_is_left():
    study = Study(GRID, lambda v: v["x"] + v["y"])
    while study.one(Thaw()) is not None:
        assert len(study.begun) <= 9
    assert len({tuple(t.values.values()) for t in study.begun}) == len(study.begun) == 9
    assert {t.state for t in study.begun} == {"ended"}


def test_a_search_that_may_stop_ends_where_all_has_been_tried_too():
    study = Study(GRID, lambda v: v["x"] + v["y"])
    while study.one(Thaw(stop_gain=0.0)) is not None:
        assert len(study.begun) <= 9
    assert {t.state for t in study.begun} == {"ended"}


def test_even_without_the_model_nothing_is_begun_twice():
    study = Study(GRID, lambda v: 1.0)
    while study.one(Thaw(startup=100)) is not None:
        assert len(study.begun) <= 9
    assert {t.state for t in study.begun} == {"ended"}


def bowl(values):
    return (
        0.3 * math.log10(values["lr"] / 5e-3) ** 2
        + (0.1 * abs(math.log10(values["rho"])) if values["method"] == "sam" else 0.3)
        + 0.02 * values["layers"]
    )


def test_every_fourth_trial_has_the_choice_that_the_fewest_have_had_whatever_the_model_says():
    study = Study(WIDE, lambda values: bowl(values) + (values["method"] == "sam"))
    while len(study.begun) < 24:
        study.one(Thaw())
    for number in range(7, 24, 4):
        had = [trial.values["method"] for trial in study.begun[:number]]
        rarest = min(("none", "sam"), key=had.count)
        assert study.begun[number].values["method"] == rarest
    # it is no point like any other, but the best of its kind by what the others say of the rest
    rates = [study.begun[number].values["lr"] for number in range(11, 24, 4)]
    assert all(abs(math.log10(lr / 5e-3)) < 1 for lr in rates)


def test_without_choices_every_eighth_trial_is_spread_out_whatever_the_model_says():
    space = SearchSpace({key: WIDE.parameters[key] for key in ("lr", "layers")})
    study = Study(space, lambda values: math.log10(values["lr"] / 5e-3) ** 2 + values["layers"])
    while len(study.begun) < 17:
        study.one(Thaw())
    coordinates = Coordinates(space)
    spread_out = [coordinates.values(coordinates.spread(0, 64, skip=number))[0] for number in (8, 16)]
    assert [study.begun[number].values for number in (8, 16)] == spread_out


def test_of_a_pool_only_its_members_are_begun():
    members = tuple({"lr": lr, "method": "none", "layers": 2} for lr in (1e-4, 1e-3, 3e-3, 1e-2, 3e-2))
    study = Study(WIDE, bowl, cells=members)
    while study.one(Thaw()) is not None:
        assert len(study.begun) <= len(members)
    assert all(trial.values in members for trial in study.begun)


@pytest.mark.slow
def test_it_finds_the_bottom_of_a_space_with_a_log_a_condition_and_a_whole_number():
    study = Study(WIDE, bowl)
    while sum(RUNGS[len(t.losses) - 1] for t in study.begun if t.losses) < 12 * RUNGS[-1]:
        study.one(Thaw())
    assert all(WIDE.is_complete(t.values) for t in study.begun)
    best = study.best()
    assert best.values["method"] == "sam"
    # of random points one in 400 is as good
    assert best.losses[-1] - 1 / 3 < 0.02 + 0.05
    assert sum(t.state == "paused" for t in study.begun) > sum(t.state == "ended" for t in study.begun)


@pytest.mark.slow
def test_failures_are_left_alone():
    def too_large(values):
        return math.inf if values["lr"] > 1e-2 else bowl(values)

    study = Study(WIDE, too_large, seed=1)
    for _ in range(40):
        study.one(Thaw())
    late = study.begun[len(study.begun) // 2 :]
    assert sum(t.state == "failed" for t in late) < len(late) / 5  # a third of all points
    assert study.best() is not None


def test_the_same_knowledge_gives_the_same_decision():
    study = Study(WIDE, bowl)
    for _ in range(6):
        study.one(Thaw())
    assert Thaw().decide(study.problem, study.begun) == Thaw().decide(study.problem, list(study.begun))


def side_by_side(study, workers):
    """The numbers of what so many workers are at, each having decided after the others."""
    busy = []
    for _ in range(workers):
        decision = Thaw().decide(study.problem, study.begun)
        if isinstance(decision, Begin):
            number = len(study.begun)
            study.begun.append(Begun(number, decision.values, (), "running"))
        else:
            number = decision.number
            before = study.begun[number]
            assert before.state == "paused"
            study.begun[number] = Begun(number, before.values, before.losses, "running")
        busy.append(number)
    return busy


def test_many_workers_finish_trials_in_a_space_that_is_too_large_to_know():
    space = SearchSpace({f"x{i}": FloatParameter(type="float", low=0.0, high=1.0) for i in range(10)})
    study = Study(space, lambda v: sum((x - 0.1 * i) ** 2 for i, x in enumerate(v.values())))
    for _ in range(12):
        for number in side_by_side(study, 8):
            study.end_rung(number)
    # 96 rungs of a third of a trial each: where what waits had to beat what has only begun, three trials were finished
    assert sum(trial.state == "ended" for trial in study.begun) >= 6


def test_workers_side_by_side_do_different_things():
    study = Study(WIDE, bowl)
    for _ in range(6):
        study.one(Thaw())
    busy = side_by_side(study, 8)
    assert len(set(busy)) == 8
    assert len({repr(study.begun[number].values) for number in busy}) == 8


def test_a_trial_that_is_nearly_done_is_preferred_to_its_like_by_a_power_of_the_cost():
    ended = [Begun(i, {"x": 2 * i, "y": 2 * i}, (3.0, 2.0, 1.0 + i), "ended") for i in (0, 1)]
    begun = [*ended, Begun(2, {"x": 1, "y": 0}, (3.0, 2.1), "paused")]
    assert isinstance(Thaw(startup=2, cost_power=0.0).decide(Problem(GRID, RUNGS, 0), begun), Begin)
    assert Thaw(startup=2, cost_power=20.0).decide(Problem(GRID, RUNGS, 0), begun) == Advance(2)


@pytest.mark.slow
@pytest.mark.parametrize("dear", ["sam", "none"])
def test_what_a_token_costs_counts(dear):
    def price(values):
        return 1000.0 if values["method"] == dear else 1.0

    study = Study(WIDE, lambda v: abs(math.log10(v["lr"]) + 2), price=price)
    for _ in range(30):
        study.one(Thaw(cost_power=1.0))
    late = [t.values["method"] for t in study.begun[8:]]
    assert late.count(dear) < len(late) / 4


def test_what_cannot_be_finished_any_more_is_left_alone_while_anything_else_can():
    begun = [Begun(i, {"x": i, "y": i}, (3.0, 2.0, 1.0 + i), "ended") for i in (0, 1)]
    begun += [Begun(2, {"x": 1, "y": 0}, (2.9,), "paused"), Begun(3, {"x": 2, "y": 0}, (9.0, 8.0), "paused")]
    problem = Problem(GRID, RUNGS, 0)
    assert Thaw().decide(problem, begun, 39) == Advance(2)
    assert Thaw().decide(problem, begun, 29) == Advance(3)
    # and by nobody else, once somebody is at it
    begun[3] = Begun(3, {"x": 2, "y": 0}, (9.0, 8.0), "running")
    assert Thaw().decide(problem, begun, 9) is None


def test_tokens_that_finish_nothing_are_spent_all_the_same():
    begun = [Begun(i, {"x": i, "y": i}, (3.0, 2.0, 1.0 + i), "ended") for i in (0, 1)]
    paused = [*begun, Begun(2, {"x": 1, "y": 0}, (3.0,), "paused")]
    assert isinstance(Thaw().decide(Problem(GRID, RUNGS, 0), paused, 10), Advance | Begin)


def test_a_budget_of_one_trial_is_for_one_trial():
    study, left = Study(WIDE, bowl), RUNGS[-1]
    for before, after in pairwise((0, *RUNGS)):
        assert study.one(Thaw(), left=left) == 0
        left -= after - before
    assert study.begun[0].state == "ended"


def test_a_decision_keeps_to_the_thread_that_asks_for_it(fitting_threads):
    study = Study(WIDE, bowl)
    for _ in range(6):
        study.one(Thaw())
    assert set(fitting_threads) == {1}
