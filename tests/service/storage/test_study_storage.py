"""What is read in one query is what Optuna reads, and what is decided by it what Optuna decides."""

import math
import uuid

import optuna
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState

from service.storage.study_storage import StudyCache, StudyStorage, set_study_attributes, together
from service.study.pruners import (
    HyperbandConfig,
    MedianConfig,
    PatientConfig,
    PercentileConfig,
    SuccessiveHalvingConfig,
    ThresholdConfig,
    build_pruner,
)

RUNGS = (100, 200, 300, 400, 500, 600)
PRUNERS = [
    MedianConfig(name="median", warmup_fraction=0.2, startup_trials=1),
    PercentileConfig(name="percentile", percentile=30.0, warmup_fraction=0.0, startup_trials=0),
    PatientConfig(name="patient", patience_rungs=1, then=MedianConfig(name="median", warmup_fraction=0.0)),
    ThresholdConfig(name="threshold", upper=0.9),
    SuccessiveHalvingConfig(name="successive_halving", reduction_factor=2),
    HyperbandConfig(name="hyperband", reduction_factor=3),
]
losses = st.one_of(st.floats(0, 1), st.sampled_from([0.5, math.inf, math.nan]))
curves = st.lists(losses, min_size=1, max_size=len(RUNGS))
ends = st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, None])


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture
def pair(url):
    """One study, opened by Optuna and by us."""
    theirs = RDBStorage(url)
    optuna.create_study(study_name="s", storage=theirs)
    ours = StudyStorage(url, skip_table_creation=True)
    yield (
        optuna.load_study(study_name="s", storage=theirs),
        optuna.load_study(study_name="s", storage=StudyCache(ours)),
    )
    theirs.engine.dispose()
    ours.engine.dispose()


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert repr(sorted(vars(one).items())) == repr(sorted(vars(other).items()))  # NaN is not NaN


def sample(trial, value):
    trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
    trial.suggest_int("layers", 1, 9, step=2)
    trial.suggest_categorical("shape", ["a", None, 3])
    trial.set_user_attr("config", {"a": [1, {"b": None}], "c": value})
    trial.set_user_attr("text", "ä 'quoted' %s :x")
    trial.storage.set_trial_system_attr(trial._trial_id, "note", "x")


def test_trials_are_read_as_optuna_reads_them(pair):
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
    same(ours.get_trials(), theirs.get_trials())
    for trial in theirs.get_trials():
        same([ours._storage.get_trial(trial._trial_id)], [theirs._storage.get_trial(trial._trial_id)])
    with pytest.raises(KeyError):
        ours._storage.get_trial(999)
    optuna.delete_study(study_name="s", storage=theirs._storage)
    with pytest.raises(KeyError):
        ours.get_trials()


def test_what_is_written_is_what_optuna_writes(pair):
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


def test_a_worker_sees_what_others_do(pair):
    """Asking for some states alone, before and after asking for all, hides no change."""
    theirs, ours = pair
    theirs.enqueue_trial({})
    waiting = ours.get_trials(states=(TrialState.WAITING,))
    assert [trial.number for trial in waiting] == [0]
    first, second, third = theirs.ask(), theirs.ask(), theirs.ask()
    assert not ours.get_trials(states=(TrialState.WAITING,))  # it runs now
    theirs.tell(third, 3.0)  # the last one first
    assert [t.number for t in ours.get_trials(states=(TrialState.COMPLETE,))] == [2]
    first.set_user_attr("seen", 1)
    theirs.tell(second, 2.0)
    assert [t.number for t in ours.get_trials(states=(TrialState.COMPLETE,))] == [1, 2]
    same(ours.get_trials(), theirs.get_trials())
    theirs.tell(first, 1.0)
    same(ours.get_trials(states=(TrialState.COMPLETE,)), theirs.get_trials())


def replay(study, section, trials):
    """Decisions of a pruner at every rung of trials that take turns, and end as they are told."""
    study.pruner = build_pruner(section, rungs=RUNGS)
    running = [(study.ask(), curve, end) for curve, end in trials]
    decisions = []
    for rung, tokens in enumerate(RUNGS):
        for trial, curve, end in running:
            if rung < len(curve):
                trial.report(curve[rung], tokens)
                decisions.append(bool(trial.should_prune()))
            if rung == len(curve) - 1 and end is not None:
                complete = end == TrialState.COMPLETE
                study.tell(trial, rung / 10 if complete else None, end)
    return decisions


@pytest.fixture(scope="module")
def in_one_database():
    storage = StudyStorage("sqlite://", engine_kwargs={"poolclass": sa.StaticPool})
    yield storage
    storage.engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("section", PRUNERS, ids=lambda section: section.name)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trials=st.lists(st.tuples(curves, ends), min_size=1, max_size=5))
def test_the_pruners_decide_as_on_optunas_own_storage(section, trials, in_one_database):
    name = uuid.uuid4().hex  # hyperband goes by it
    sampler = optuna.samplers.RandomSampler()
    in_memory = optuna.create_study(study_name=name, sampler=sampler)
    ours = optuna.create_study(study_name=name, sampler=sampler, storage=StudyCache(in_one_database))
    assert replay(ours, section, trials) == replay(in_memory, section, trials)


def statements(engine):
    found = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: found.append(arguments[2]))
    return found


@pytest.mark.parametrize("running", [1, 8])
def test_a_decision_takes_one_query_whatever_the_number_of_trials(pair, running):
    theirs, ours = pair
    ours.pruner = build_pruner(PRUNERS[0], rungs=RUNGS)
    for value in range(3 * running):
        trial = theirs.ask()
        trial.report(value, 300)
        theirs.tell(trial, value)
    others = [theirs.ask() for _ in range(running)]
    asking = ours.ask()
    asking.report(1000.0, 300)
    counted = statements(ours._storage._backend.engine)
    assert asking.should_prune()
    assert len(counted) == 1
    theirs.tell(others[0], 0.0)
    assert asking.should_prune()
    assert len(counted) == 2


def test_optunas_cache_is_as_we_take_it_to_be():
    """Fails when a new version of Optuna keeps its cache in another way."""
    cache = _CachedStorage(RDBStorage("sqlite://"))
    study_id = cache.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    info = cache._studies[study_id]
    assert (info.trials, info.unfinished_trial_ids, info.last_finished_trial_id) == ({}, set(), -1)
