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
