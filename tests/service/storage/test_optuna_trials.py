import datetime
from concurrent.futures import ThreadPoolExecutor

import optuna
import psycopg
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from service.storage.optuna_trials import insert_trial, insert_trials
from service.storage.schema import create_tables
from service.storage.study_storage import StudyCache, StudyStorage, set_study_attributes

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


def test_a_trial_is_made_as_optuna_makes_it(pair, sample):
    theirs, ours = pair
    sample(theirs.ask(), 1.0)
    made = [
        *trials(),
        create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"a": 0.5}}),
        None,
    ]
    for number, trial in zip(range(1, 99, 2), made, strict=False):
        made_id = ours._storage.create_new_trial(ours._study_id, template_trial=trial)
        kept = ours._storage._studies[ours._study_id].trials[number]
        assert (kept._trial_id, kept.number) == (made_id, number)
        reference = theirs._storage.create_new_trial(theirs._study_id, template_trial=trial)
        one, other = theirs._storage.get_trial(made_id), theirs._storage.get_trial(reference)
        if trial is None:
            assert one.datetime_start is not None  # earlier than the other's
            one.datetime_start = other.datetime_start
        assert facts(one)[1:] == facts(other)[1:]
    with pytest.raises(KeyError):
        ours._storage.create_new_trial(999)


def test_numbers_are_given_once_whoever_makes_trials(url):
    """Two processes' storages of ours and two of Optuna's own, side by side."""
    opened = [*(StudyStorage(url) for _ in range(2)), *(optuna.storages.RDBStorage(url) for _ in range(2))]
    optuna.create_study(study_name="s", storage=opened[-1])
    stored = [*map(StudyCache, opened[:2]), *opened[2:]]
    studies = [optuna.load_study(study_name="s", storage=each) for each in stored]
    template = trials()[1]
    with ThreadPoolExecutor(4) as threads:
        made = [
            threads.submit(each._storage.create_new_trial, each._study_id, template)
            for _ in range(10)
            for each in studies
        ]
        ids = [each.result() for each in made]
    found = sorted(studies[0].get_trials(deepcopy=False), key=lambda trial: trial._trial_id)
    assert sorted(ids) == [trial._trial_id for trial in found]
    assert [trial.number for trial in found] == list(range(40))
    assert all(trial.intermediate_values == {10: 3.0} for trial in found)
    for each in opened:
        each.remove_session()
        each.engine.dispose()


@pytest.mark.integration
def test_who_makes_a_trial_excludes_others_that_do_and_nobody_else(postgresql):
    url = postgresql.new_database()
    made = StudyStorage(f"{url}?options=-c%20lock_timeout%3D20000")  # in place of waiting for ever
    study = optuna.create_study(study_name="s", storage=StudyCache(made))
    with made.engine.begin() as connection:
        insert_trial(connection, study._study_id, trials()[0])
        set_study_attributes(study, {"note": "x"})  # by another connection
        with (
            psycopg.connect(url.replace("+psycopg", "")) as optunas,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            optunas.execute("SELECT * FROM studies FOR UPDATE NOWAIT")
    assert [trial.number for trial in study.get_trials()] == [0]
    made.engine.dispose()
