import datetime

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from service.storage.optuna_trials import insert_trials
from service.storage.schema import create_tables

DISTRIBUTIONS = {
    "a": FloatDistribution(1e-4, 1.0, log=True),
    "b": IntDistribution(1, 9),
    "c": CategoricalDistribution(["x", None, True]),
}


def trials():
    first = create_trial(
        value=1.5,
        params={"a": 0.25, "b": 3, "c": None},
        distributions=DISTRIBUTIONS,
        user_attrs={"text": "ünï", "nested": {"of": [1, 2]}},
        system_attrs={"fixed_params": {"a": 0.25}},
        intermediate_values={10: 2.0, 20: float("nan"), 30: float("inf")},
    )
    first.datetime_start = datetime.datetime(2026, 7, 1, 12, 0, 0)
    first.datetime_complete = datetime.datetime(2026, 7, 1, 12, 30, 0)
    pruned = create_trial(state=TrialState.PRUNED, params={}, distributions={}, intermediate_values={10: 3.0})
    return [first, pruned, create_trial(value=float("inf"), params={}, distributions={})]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def storage(request, tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").new_database()
    made = optuna.storages.RDBStorage(url)
    create_tables(made.engine)
    yield made
    made.remove_session()
    made.engine.dispose()


def facts(trial):
    return [
        trial.number, trial.state, trial.values, trial.params, trial.distributions, trial.user_attrs,
        trial.system_attrs, repr(trial.intermediate_values), trial.datetime_start, trial.datetime_complete,
    ]  # fmt: skip


def test_trials_are_what_optuna_itself_would_have_added(storage):
    at_once = optuna.create_study(study_name="at once", storage=storage)
    one_by_one = optuna.create_study(study_name="one by one", storage=storage)
    for study in (at_once, one_by_one):
        study.tell(study.ask(DISTRIBUTIONS), 1.0)  # there before
    made = trials()
    insert_trials(storage.engine, at_once._study_id, made)
    one_by_one.add_trials(made)
    found, expected = (study.get_trials()[1:] for study in (at_once, one_by_one))
    assert [facts(trial) for trial in found] == [facts(trial) for trial in expected]
    assert [trial.number for trial in found] == [1, 2, 3]
    assert at_once.ask(DISTRIBUTIONS).number == 4


def test_trials_are_added_whole_or_not_at_all(storage):
    study = optuna.create_study(study_name="s", storage=storage)
    broken = [*trials(), create_trial(value=1.0, user_attrs={"no json": object()})]
    with pytest.raises(TypeError):
        insert_trials(storage.engine, study._study_id, broken)
    assert study.get_trials() == []
    insert_trials(storage.engine, study._study_id, [])
    assert study.get_trials() == []
