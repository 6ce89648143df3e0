import math

import optuna
import pytest
from optuna.trial import TrialState


def test_trials_are_read_as_optuna_reads_them(pair, sample, assert_same):
    theirs, ours = pair
    for value in (0.5, math.inf, -math.inf, math.nan):
        trial = theirs.ask()
        sample(trial, value)
        trial.report(value, 100)
        trial.report(0.25, 300)
        theirs.tell(trial, state=TrialState.PRUNED)
    theirs.tell(theirs.ask(), math.inf)
    theirs.tell(theirs.ask(), state=TrialState.FAIL)
    theirs.enqueue_trial({"layers": 3})
    sample(theirs.ask(), 1.0)  # runs
    theirs.ask()
    assert_same(ours.get_trials(), theirs.get_trials())
    for trial in theirs.get_trials():
        assert_same([ours._storage.get_trial(trial._trial_id)], [theirs._storage.get_trial(trial._trial_id)])
    with pytest.raises(KeyError):
        ours._storage.get_trial(999)
    optuna.delete_study(study_name="s", storage=theirs._storage)
    with pytest.raises(KeyError):
        ours.get_trials()


def test_of_others_trials_no_more_is_read_than_was_asked_for(pair, sample, assert_same):
    theirs, ours = pair
    for ends in (True, False):
        trial = theirs.ask()
        sample(trial, 1.0)
        trial.set_user_attr("slot", 3)
        trial.storage.set_trial_system_attr(trial._trial_id, "artifacts:1", "{}")
        if ends:
            theirs.tell(trial, 1.0)
    ours._storage._backend.attributes = ("slot",)
    expected = theirs.get_trials()
    found = ours.get_trials()
    for trial in expected:
        assert_same([ours._storage.get_trial(trial._trial_id)], [trial])  # by itself
        trial._user_attrs = {"slot": 3}
        trial._system_attrs = {"note": "x"}
    assert_same(found, expected)
