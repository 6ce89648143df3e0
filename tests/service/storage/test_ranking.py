import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from service.storage.ownership import slot_mark
from service.storage.ranking import best_so_far, count_states, ranked_own_trials, ranked_trials
from service.storage.schema import GENERATION

STATES = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]


@pytest.fixture
def study():
    study = optuna.create_study()
    study.set_user_attr(GENERATION, "g")
    return study


def add(study, state, value, *, own=True):
    attributes = slot_mark("g", len(study.trials)) if own else {}
    value = value if state == TrialState.COMPLETE else None
    study.add_trial(create_trial(state=state, value=value, user_attrs=attributes))


@given(st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from([0.5, 1.0, 2.0]), st.booleans())))
def test_complete_trials_are_ranked_by_loss_and_at_equal_loss_the_first_is_better(trials):
    study = optuna.create_study()
    study.set_user_attr(GENERATION, "g")
    for state, value, own in trials:
        add(study, state, value, own=own)
    complete = [
        (value, i, own) for i, (state, value, own) in enumerate(trials) if state == TrialState.COMPLETE
    ]
    assert [trial.number for trial in ranked_trials(study)] == [i for _, i, _ in sorted(complete)]
    assert [trial.number for trial in ranked_own_trials(study)] == [
        i for _, i, own in sorted(complete) if own
    ]


def test_an_infinite_loss_is_the_worst(study):
    for value in (math.inf, 2.0, -math.inf):
        add(study, TrialState.COMPLETE, value)
    assert [trial.number for trial in ranked_trials(study)] == [2, 1, 0]


def test_states_are_counted_and_those_without_a_trial_left_out(study):
    assert count_states(study) == "no trials"
    for state, value in ((TrialState.FAIL, None), (TrialState.COMPLETE, 1.0), (TrialState.COMPLETE, 2.0)):
        add(study, state, value)
    study.ask()
    assert count_states(study) == "1 running, 2 complete, 1 failed"
    study.add_trial(create_trial(value=3.0, user_attrs={"goes_on_with": 0}))
    assert count_states(study) == "1 running, 3 complete, 1 interrupted"


def test_the_best_so_far_has_its_number(study):
    assert best_so_far(study) is None
    for value in (2.0, 1.0):
        add(study, TrialState.COMPLETE, value)
    assert best_so_far(study) == (1.0, 1)
