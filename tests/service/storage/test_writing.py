import math

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError

from service.storage.study_storage import find_study_attributes, set_study_attributes, together


def test_what_is_written_is_what_optuna_writes(pair, sample):
    theirs, ours = pair
    alone, at_once = ours.ask(), ours.ask()
    sample(alone, 1.0)
    alone.report(math.nan, 1)
    with together(at_once):
        sample(at_once, 1.0)
        at_once.set_user_attr("text", "the last one stays")
        at_once.report(math.inf, 1)
        assert theirs.get_trials()[1].params == {}
    optunas = theirs.ask()
    sample(optunas, 1.0)
    one, other, reference = theirs.get_trials()
    for trial in (one, other):
        assert trial.distributions == reference.distributions
        assert trial.system_attrs == reference.system_attrs
        assert trial.user_attrs["config"] == reference.user_attrs["config"]
    assert [one.user_attrs["text"], other.user_attrs["text"]] == ["ä 'quoted' %s :x", "the last one stays"]
    assert math.isnan(one.intermediate_values[1])
    assert other.intermediate_values[1] == math.inf
    set_study_attributes(ours, {"a": 1, "b": [2]})
    set_study_attributes(ours, {"a": 3})
    assert theirs._storage.get_study_system_attrs(theirs._study_id) == {"a": 3, "b": [2]}


def test_what_is_written_together_within_another_is_written_with_that(pair):
    theirs, ours = pair
    trial = ours.ask()
    with together(trial):
        trial.set_user_attr("first", 1)
        with together(trial):
            trial.set_user_attr("second", 2)
            set_study_attributes(ours, {"of": "the study"})
        assert theirs.get_trials()[0].user_attrs == {}
        assert theirs._storage.get_study_system_attrs(theirs._study_id) == {}
        ours._storage.set_study_system_attr(ours._study_id, "sampler's", 1)  # others read it
        assert theirs._storage.get_study_system_attrs(theirs._study_id) == {"sampler's": 1}
    assert theirs.get_trials()[0].user_attrs == {"first": 1, "second": 2}
    assert theirs._storage.get_study_system_attrs(theirs._study_id) == {"sampler's": 1, "of": "the study"}


def test_a_parameter_stays_as_it_was_first_suggested(pair):
    theirs, ours = pair
    trial = ours.ask()
    distribution = optuna.distributions.FloatDistribution(0, 1)
    for value in (0.25, 0.75):
        ours._storage.set_trial_param(trial._trial_id, "a", value, distribution)
    assert theirs.get_trials()[0].params == {"a": 0.25}


def test_attributes_of_a_study_are_found_by_how_they_begin(pair):
    theirs, _ = pair
    for key, value in {"a_b:1": "x", "a_b:2": [None], "axb:3": 1, "a%b:4": 1}.items():
        theirs._storage.set_study_system_attr(theirs._study_id, key, value)
    for study in pair:
        assert find_study_attributes(study, "a_b:") == {"a_b:1": "x", "a_b:2": [None]}


def test_a_trial_that_has_ended_is_not_written_to(pair):
    theirs, ours = pair
    trial = ours.ask()
    theirs.tell(trial.number, 1.0)
    with pytest.raises(UpdateFinishedTrialError):
        trial.report(1.0, 1)
    with pytest.raises(UpdateFinishedTrialError), together(trial):
        trial.set_user_attr("late", 1)
    with pytest.raises(KeyError):
        ours._storage._backend.set_trial_user_attr(999, "a", 1)
    with pytest.raises(KeyError):
        ours._storage._backend.set_study_system_attr(999, "a", 1)
    assert theirs.get_trials()[0].user_attrs == {}
