import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from service.storage.optuna_private import id_of
from service.storage.ownership import SLOT, generation_of, is_own, key_of, own_trials, slot_mark, slot_of
from service.storage.schema import GENERATION, StudyKey

GENERATIONS = st.none() | st.sampled_from("gh")


def trial(state=TrialState.COMPLETE, **attributes):
    value = 1.0 if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, user_attrs=attributes)


@given(GENERATIONS, GENERATIONS, st.integers(-1, 10**6))
def test_a_slot_is_known_again_in_its_own_study_alone(made, asked, number):
    found = slot_of(trial(**slot_mark(made, number)), asked)
    assert found == (number if made == asked else None)


@pytest.mark.parametrize(
    "mark", [None, 3, "3", [], {}, {"generation": "g"}, {"generation": "g", "number": "3"}]
)
def test_what_is_no_mark_of_ours_is_none(mark):
    assert slot_of(trial(**{SLOT: mark}), "g") is None


@pytest.mark.parametrize("state", TrialState)
def test_of_a_study_with_a_generation_its_own_trials_are_those_with_its_mark(state):
    assert is_own(trial(state, **slot_mark("g", 0)), "g")
    assert not is_own(trial(state, **slot_mark("h", 0)), "g")
    assert not is_own(trial(state, config={}), "g")


@pytest.mark.parametrize("state", TrialState)
def test_of_a_study_without_one_they_are_those_that_were_trained(state):
    finished = state in (TrialState.COMPLETE, TrialState.PRUNED)
    assert is_own(trial(state, config={}), None)
    assert is_own(trial(state), None) is not finished  # a result from elsewhere has no configuration


def test_a_study_is_known_by_its_id_and_its_generation():
    study = optuna.create_study()
    assert generation_of(study) is None
    study.set_user_attr(GENERATION, 7)  # as anyone may have written
    assert generation_of(study) is None
    study.set_user_attr(GENERATION, "g")
    assert key_of(study) == StudyKey(id_of(study), "g")
    study.set_user_attr(GENERATION, "h")
    assert generation_of(study) == "g", "it is read once, and a worker keeps to the study that it has opened"


def test_own_trials_are_given_by_number_and_state():
    study = optuna.create_study()
    study.set_user_attr(GENERATION, "g")
    study.add_trials(
        [
            trial(TrialState.FAIL, **slot_mark("g", 0)),
            trial(),
            trial(**slot_mark("g", 1)),
            trial(**slot_mark("h", 2)),
        ]
    )
    assert [own.number for own in own_trials(study)] == [0, 2]
    assert [own.number for own in own_trials(study, TrialState.COMPLETE)] == [2]
