import numpy as np
import pytest

from service.search.belief import NEW, Belief
from service.search.coordinates import Coordinates
from service.search.earlier import Earlier
from service.search.problem import Begin, Begun, Problem
from service.search.thaw import Thaw
from service.study.parameters import CategoricalParameter, FloatParameter
from service.study.search_space import SearchSpace

SPACE = SearchSpace(
    {
        "x": FloatParameter(type="float", low=0.0, high=1.0),
        "y": FloatParameter(type="float", low=0.0, high=1.0),
        "name": CategoricalParameter(type="categorical", choices=("a", "b")),
    }
)
RUNGS = (10, 20, 40)


def loss(values):
    return (values["x"] - 0.8) ** 2 + (values.get("y", 0.5) - 0.2) ** 2 + 0.1 * (values.get("name") == "b")


def at(x, y, name="a"):
    return {"x": x, "y": y, "name": name}


def earlier(of=loss, points=30, seed=0, **more):
    rng = np.random.default_rng(seed)
    tried = [at(*rng.random(2), rng.choice(["a", "b"]).item()) | more for _ in range(points)]
    return Earlier.of(SPACE, [(values, of(values)) for values in tried])


def guesses(of, *values):
    return of.guess(Coordinates(SPACE).rows(values))


def test_reading_it_keeps_to_the_thread_that_asks_for_it(fitting_threads):
    earlier()
    assert set(fitting_threads) == {1}


def test_a_guess_follows_the_earlier_losses():
    found = guesses(earlier(), at(0.8, 0.2), at(0.8, 0.2, "b"), at(0.1, 0.9, "b"))
    assert list(found) == sorted(found)
    assert found[2] - found[0] > 2  # deviations over the whole space


def test_its_points_or_those_nearest_in_the_space_are_known_the_best_first():
    found = earlier()
    assert len(found.tried) == 30
    assert [loss(values) for values in found.tried] == sorted(loss(values) for values in found.tried)
    outside = [({"x": 2.0, "y": 0.1, "name": "a"}, 1.0), ({"x": 0.5}, 2.0)] * 2
    assert Earlier.of(SPACE, outside).tried == ({"x": 1.0, "y": 0.1, "name": "a"},)


def test_a_choice_that_it_never_had_may_be_as_good_as_its_best():
    of_one = earlier(name="a")
    at_best, elsewhere, other = guesses(of_one, at(0.8, 0.2), at(0.1, 0.9), at(0.1, 0.9, "b"))
    assert other == min(guesses(of_one, *of_one.tried)) <= at_best + 0.2
    assert other < elsewhere - 2


def test_parameters_that_it_does_not_have_are_no_matter():
    rng = np.random.default_rng(0)
    found = Earlier.of(SPACE, [({"x": x}, (x - 0.8) ** 2) for x in rng.random(20)])
    near, far = guesses(found, at(0.8, 0.5), at(0.1, 0.5))
    assert near < far - 1


def test_thousands_of_trials_are_some_of_them():
    found = earlier(points=2000)
    assert len(found.tried) == 500
    assert loss(found.tried[0]) < 0.01


def seen(of, *points):
    return [
        Begun(i, values, (2 + of(values), 1.5 + of(values), 1 + of(values)), "ended")
        for i, values in enumerate(points)
    ]


FEW = (at(0.2, 0.3), at(0.6, 0.7, "b"), at(0.4, 0.9), at(0.9, 0.6, "b"))


def test_what_it_says_points_to_the_bottom_before_this_study_has_been_there():
    begun = seen(loss, *FEW)
    alone, taught = Problem(SPACE, RUNGS, 0), Problem(SPACE, RUNGS, 0, earlier=(earlier(),))

    def lead(problem):
        bottom, elsewhere = Belief(problem, begun).log_gain([at(0.8, 0.2), at(0.1, 0.1)], [NEW, NEW])
        return bottom - elsewhere

    assert lead(taught) > lead(alone) + 0.3


@pytest.mark.parametrize("studies", [1, 2])
def test_every_other_of_the_first_trials_is_the_best_of_a_study_as_long_as_there_is_one(studies):
    taught = Problem(SPACE, RUNGS, 0, earlier=tuple(earlier(seed=seed) for seed in range(studies)))
    begun = []
    for _ in range(4):
        decision = Thaw().decide(taught, begun)
        assert isinstance(decision, Begin)
        begun.append(Begun(len(begun), decision.values, (), "running"))
    of_earlier = [trial.values for trial in begun if any(trial.values in e.tried for e in taught.earlier)]
    assert of_earlier == [one.tried[0] for one in taught.earlier]
    assert [trial.values for trial in begun[1::2]][:studies] == of_earlier


@pytest.mark.parametrize("seed", [0, 1])
def test_losses_that_say_nothing_leave_the_model_to_this_studys_own(seed):
    rng = np.random.default_rng(seed)
    noise = earlier(of=lambda values: rng.normal(), seed=seed)
    begun = seen(loss, *FEW, at(0.7, 0.3), at(0.85, 0.1), at(0.2, 0.2), at(0.3, 0.6, "b"))
    for problem in (Problem(SPACE, RUNGS, 0), Problem(SPACE, RUNGS, 0, earlier=(noise,))):
        bottom, elsewhere = Belief(problem, begun).log_gain([at(0.8, 0.2), at(0.1, 0.9)], [NEW, NEW])
        assert bottom > elsewhere
