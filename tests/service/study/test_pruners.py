import json
import math
import warnings
from fractions import Fraction

import optuna
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.trial import TrialState
from pydantic import TypeAdapter, ValidationError

from service.study.pruners import PrunerConfig, build_pruner, pruner_misfit, with_warmup

PRUNER = TypeAdapter(PrunerConfig)
PRUNERS = ["none", "median", "percentile", "patient", "threshold", "successive_halving", "hyperband"]
RUNGS = (100, 200, 300, 400)


def pruner(**section):
    return with_warmup(PRUNER.validate_json(json.dumps(section)), {"cosine"})


def curves_of(study, *finished):
    for curve in finished:
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE,
                value=curve[-1],
                intermediate_values=dict(zip(RUNGS, curve, strict=True)),
            )
        )


def pruned_at(section, curve, finished=(), rungs=RUNGS):
    """The rung at which a trial with this curve is pruned, or None."""
    study = optuna.create_study(pruner=build_pruner(section, rungs=rungs))
    curves_of(study, *finished)
    trial = study.ask()
    for rung, loss in zip(rungs, curve, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trial.report(loss, rung)
            if trial.should_prune():
                return rung
    return None


FINISHED = [[4.0 + i, 3.0 + i, 2.0 + i, 1.0 + i] for i in range(5)]  # medians 6, 5, 4, 3
BAD, GOOD = [9.0, 8.9, 8.8, 8.7], [3.0, 2.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("fraction", "rung"),
    [(0.0, 100), (0.25, 100), (0.26, 200), (0.5, 200), (0.51, 300), (0.75, 300), (0.9, 400)],
)
def test_median_waits_for_its_share_of_the_budget(fraction, rung):
    section = pruner(name="median", warmup_fraction=fraction)
    assert pruned_at(section, BAD, FINISHED) == rung
    assert pruned_at(section, GOOD, FINISHED) is None
    assert pruned_at(section, BAD, FINISHED[:4]) is None  # five complete trials come first
    assert (
        pruned_at(pruner(name="median", warmup_fraction=fraction, startup_trials=4), BAD, FINISHED[:4])
        == rung
    )


@pytest.mark.parametrize(
    ("decays", "rung"),
    [({"cosine"}, 200), ({"linear", "constant"}, 200), ({"wsd"}, 300), ({"cosine", "wsd"}, 300)],
)
def test_a_warm_up_that_is_left_open_follows_from_the_schedules(decays, rung):
    def open_section(**section):
        return with_warmup(PRUNER.validate_json(json.dumps(section)), decays)

    assert pruned_at(open_section(name="median"), BAD, FINISHED) == rung
    assert pruned_at(open_section(name="percentile", percentile=50.0), BAD, FINISHED) == rung
    flat, then = [3.0, 3.5, 3.5, 3.5], {"name": "median", "startup_trials": 1}
    assert pruned_at(open_section(name="patient", patience_rungs=0, then=then), flat, [GOOD]) == rung
    assert pruned_at(open_section(name="median", warmup_fraction=0.25), BAD, FINISHED) == 100


def test_percentile_keeps_its_share():
    middling = [4.5, 3.5, 2.5, 1.5]  # between the best and the second of five
    assert pruned_at(pruner(name="percentile", percentile=10.0, warmup_fraction=0), middling, FINISHED) == 100
    assert (
        pruned_at(pruner(name="percentile", percentile=50.0, warmup_fraction=0), middling, FINISHED) is None
    )


def test_threshold_prunes_nan_and_what_is_above_its_limit():
    assert pruned_at(pruner(name="threshold"), [3.0, math.nan, 2.0, 1.0]) == 200
    assert pruned_at(pruner(name="threshold"), [1e30, 1e30, math.inf, 1.0]) is None
    assert pruned_at(pruner(name="threshold", upper=5.0), [5.0, 5.1, 2.0, 1.0]) == 200
    assert pruned_at(pruner(name="threshold", upper=5.0, warmup_fraction=0.75), [6.0, 6.0, 6.0, 1.0]) == 300


def test_patient_waits_out_its_rungs():
    flat = [3.0, 3.5, 3.5, 3.5]
    assert pruned_at(pruner(name="patient", patience_rungs=0), flat) == 200
    assert pruned_at(pruner(name="patient", patience_rungs=1), flat) == 300
    assert pruned_at(pruner(name="patient", patience_rungs=1, min_delta=1.0), flat) is None
    assert pruned_at(pruner(name="patient", patience_rungs=1), GOOD) is None
    then = {"name": "median", "warmup_fraction": 0.0, "startup_trials": 1}
    assert pruned_at(pruner(name="patient", patience_rungs=1, then=then), flat, FINISHED[4:]) is None
    assert pruned_at(pruner(name="patient", patience_rungs=1, then=then), flat, [GOOD]) == 300


def test_halving_pruners_use_the_rungs_as_resources():
    budget = (100, 200, 300, 400, 500, 600, 700, 800, 900)
    section = pruner(name="successive_halving", reduction_factor=3)
    study = optuna.create_study(pruner=build_pruner(section, rungs=budget))
    decisions = []
    for level in (1.0, 2.0, 3.0, 4.0):
        trial = study.ask()
        stop = None
        for rung in budget:
            trial.report(level, rung)
            if trial.should_prune():
                stop = rung
                break
        decisions.append(stop)
        study.tell(trial, None if stop else level, state=TrialState.PRUNED if stop else TrialState.COMPLETE)
    # the first is the best of all; the others are no third of the best at the first resource, 100 tokens
    assert decisions == [None, 100, 100, 100]

    hyperband = build_pruner(pruner(name="hyperband", reduction_factor=3), rungs=budget)
    study = optuna.create_study(study_name="s", pruner=hyperband)
    trial = study.ask()
    trial.report(1.0, 100)
    trial.should_prune()
    assert isinstance(hyperband, optuna.pruners.HyperbandPruner)
    assert hyperband._n_brackets == 3  # resources 100, 300, 900


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("rungs", [(7,), (1, 2, 3), tuple(range(1000, 9000, 1000))])
def test_every_pruner_lets_a_first_good_trial_finish(name, rungs):
    falling = [10.0 / (i + 1) for i in range(len(rungs))]
    assert pruned_at(pruner(name=name), falling, rungs=rungs) is None


@pytest.mark.parametrize(
    ("section", "key"),
    [({"name": "median"}, "percentile"), ({"name": "hyperband"}, "warmup_fraction"), ({"name": "none"}, "x")],
)
def test_a_pruner_has_only_its_own_keys(section, key):
    with pytest.raises(ValidationError, match="Extra inputs"):
        pruner(**section, **{key: 0.5})


@pytest.mark.parametrize(
    ("section", "rungs", "fits"),
    [
        ({"name": "none"}, 1, True),
        ({"name": "median", "warmup_fraction": 0.0}, 1, False),
        ({"name": "median", "warmup_fraction": 0.5}, 2, True),
        ({"name": "median", "warmup_fraction": 0.6}, 2, False),
        ({"name": "median", "warmup_fraction": 0.7}, 10, True),
        ({"name": "threshold"}, 2, True),
        ({"name": "hyperband"}, 1, False),
        ({"name": "successive_halving"}, 2, True),
        ({"name": "asha"}, 1, False),
        ({"name": "asha"}, 2, True),
        ({"name": "patient", "patience_rungs": 2}, 4, False),
        ({"name": "patient", "patience_rungs": 2}, 5, True),
        (
            {"name": "patient", "patience_rungs": 0, "then": {"name": "median", "warmup_fraction": 0.9}},
            5,
            False,
        ),
    ],
)
def test_a_pruner_that_could_stop_nothing_is_known(section, rungs, fits):
    assert (pruner_misfit(pruner(**section), rungs) is None) == fits


@given(st.integers(1, 12), st.integers(1, 10**9), st.decimals(0, "0.99", places=2))
def test_the_first_rung_that_may_be_pruned_is_the_first_at_its_share(count, budget, fraction):
    assume(budget >= 1000 * count)
    rungs = tuple(budget * (i + 1) // count for i in range(count))
    section = pruner(name="threshold", warmup_fraction=float(fraction))
    first = pruned_at(section, [math.nan] * count, rungs=rungs)
    # by rung number, where there is nothing to round
    expected = next(i for i in range(1, count + 1) if Fraction(i, count) >= Fraction(fraction))
    assert first == rungs[expected - 1]


def test_nothing_is_read_for_a_trial_that_is_warming_up():
    class Unreadable:
        def get_trials(self, **_):
            raise AssertionError("read")

    asked = build_pruner(pruner(name="median", warmup_fraction=0.5), rungs=RUNGS)
    trial = optuna.trial.create_trial(state=TrialState.RUNNING)
    assert asked.prune(Unreadable(), trial) is False
    trial.intermediate_values = {RUNGS[0]: 1.0}
    assert asked.prune(Unreadable(), trial) is False
    trial.intermediate_values |= {RUNGS[1]: 1.0}
    with pytest.raises(AssertionError, match="read"):
        asked.prune(Unreadable(), trial)
