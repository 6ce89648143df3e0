import json

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from pydantic import TypeAdapter, ValidationError

from service.study.samplers import (
    SamplerConfig,
    ThawConfig,
    TpeConfig,
    build_sampler,
    sampler_misfit,
    shown_sampler,
    worker_seed,
)

SAMPLER = TypeAdapter(SamplerConfig)
NUMBERS = {"x": FloatDistribution(-3, 3), "y": FloatDistribution(-3, 3)}
STEPPED = {
    "x": FloatDistribution(0, 1, step=0.5),
    "n": IntDistribution(1, 3),
    "c": CategoricalDistribution("ab"),
}
SAMPLERS = ["tpe", "random", "gp", "cmaes", "qmc"]


def sampler(**section):
    return SAMPLER.validate_json(json.dumps(section))


def points(name, seed, count, storage=None, study_name=None):
    study = optuna.create_study(storage=storage, study_name=study_name, load_if_exists=True)
    study.sampler = build_sampler(sampler(name=name), seed=seed, space=NUMBERS)
    drawn = []
    for _ in range(count):
        trial = study.ask(NUMBERS)
        drawn.append((trial.params["x"], trial.params["y"]))
        study.tell(trial, sum(v * v for v in drawn[-1]))
    return drawn


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_seed_decides_the_points(name):
    # twelve trials pass the startup of every sampler; warnings would be errors
    assert points(name, 5, 12) == points(name, 5, 12)
    assert points(name, 5, 12) != points(name, 6, 12)


def test_tpe_takes_its_settings_from_the_section():
    section = sampler(name="tpe", startup_trials=3, candidates=7)
    built = build_sampler(section, seed=1, space=NUMBERS)
    assert isinstance(built, optuna.samplers.TPESampler)
    reference = optuna.samplers.TPESampler(
        n_startup_trials=3, n_ei_candidates=7, multivariate=True, constant_liar=True, seed=1
    )

    def run(with_sampler):
        study = optuna.create_study(sampler=with_sampler)
        running = []
        for _ in range(14):
            trial = study.ask()
            running.append((trial, trial.suggest_float("x", -3, 3) ** 2 + trial.suggest_float("y", 0, 1)))
            if len(running) > 4:  # five workers' trials are under way at a time
                study.tell(*running.pop(0))
        return [trial.params for trial in study.trials]

    assert run(built) == run(reference)
    for change in ({"multivariate": False}, {"constant_liar": False}):
        settings = {"n_startup_trials": 3, "n_ei_candidates": 7, "seed": 1, **change}
        assert run(build_sampler(section, seed=1, space=NUMBERS)) != run(
            optuna.samplers.TPESampler(**settings)
        )


@pytest.mark.parametrize("learns", [True, False])
def test_cmaes_learns_from_pruned_trials_if_told_to(learns):
    section = sampler(name="cmaes", learn_from_pruned=learns)

    def last(loss_of):
        study = optuna.create_study(sampler=build_sampler(section, seed=1, space=NUMBERS))
        study.tell(study.ask(NUMBERS), 0.0)  # the space is known from complete trials alone
        for _ in range(14):
            trial = study.ask(NUMBERS)
            trial.report(loss_of(trial.params["x"]), 1)
            study.tell(trial, state=TrialState.PRUNED)
        return study.ask(NUMBERS).params

    rising, falling = last(lambda x: x), last(lambda x: -x)
    assert (rising != falling) == learns


def test_the_workers_of_a_qmc_study_walk_one_sequence():
    storage = optuna.storages.InMemoryStorage()
    points("qmc", 1, 1, storage, "s")  # the first trial of a study is always an independent one
    drawn = [point for worker in range(4) for point in points("qmc", worker_seed(1, worker), 4, storage, "s")]
    # Sobol's first 16 points have one in each sixteenth of either axis (a (0, 4, 2)-net).
    for axis in (0, 1):
        assert sorted(int((point[axis] + 3) / 6 * 16) for point in drawn) == list(range(16))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("random", "startup_trials"),
        ("tpe", "sequence"),
        ("qmc", "scramble"),
        ("grid", "seed"),
        ("thaw", "cost_power"),
    ],
)
def test_a_sampler_has_only_its_own_keys(name, key):
    with pytest.raises(ValidationError, match="Extra inputs"):
        sampler(name=name, **{key: 1})


CATEGORICAL = {**NUMBERS, "c": CategoricalDistribution(["a", "b"])}


@pytest.mark.parametrize(
    ("name", "space", "conditional", "message"),
    [
        ("tpe", CATEGORICAL, {"x"}, None),
        ("random", CATEGORICAL, {"x"}, None),
        ("thaw", CATEGORICAL, {"x"}, None),
        ("gp", CATEGORICAL, set(), None),
        ("qmc", CATEGORICAL, set(), None),
        ("cmaes", NUMBERS, set(), None),
        ("grid", STEPPED, set(), None),
        ("gp", CATEGORICAL, {"x"}, "gp needs a space without conditions, given `when` of x"),
        ("qmc", CATEGORICAL, {"x"}, "qmc needs a space without conditions, given `when` of x"),
        ("grid", STEPPED, {"n"}, "grid needs a space without conditions, given `when` of n"),
        ("cmaes", CATEGORICAL, set(), "cmaes needs float and int parameters, given categorical c"),
        ("cmaes", {"x": NUMBERS["x"]}, set(), "cmaes needs at least 2 parameters, given 1"),
        (
            "grid",
            {**STEPPED, **NUMBERS, "l": IntDistribution(1, 9, log=True)},
            set(),
            "grid needs choices or a step for every parameter, not so for l, x, y",
        ),
    ],
)
def test_a_sampler_that_cannot_search_the_space_is_known(name, space, conditional, message):
    assert sampler_misfit(sampler(name=name), space, frozenset(conditional)) == message


@given(st.integers(0, 2**63), st.integers(0, 5_000))
def test_seeds_are_reproducible_and_in_range(study_seed, index):
    assert worker_seed(study_seed, index) == worker_seed(study_seed, index)
    assert 0 <= worker_seed(study_seed, index) < 2**32


def test_workers_and_studies_have_seeds_of_their_own():
    seeds = {worker_seed(study, worker) for study in range(1330, 1345) for worker in range(64)}
    assert len(seeds) == 15 * 64
    # neighbours draw different points, which equal seeds would not
    assert len({points("random", worker_seed(1, worker), 1)[0] for worker in range(8)}) == 8


def test_people_see_what_a_search_begins_with():
    known = ThawConfig(name="thaw", prior=("hn", "studies/samplers-hard"))
    assert shown_sampler(known) == "thaw, after hn and studies/samplers-hard"
    assert [shown_sampler(each) for each in (ThawConfig(name="thaw"), TpeConfig())] == ["thaw", "tpe"]
