"""What is read in one query is what Optuna reads, and what is decided by it what Optuna decides."""

import math
import uuid

import optuna
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState

from service.storage.study_storage import StudyCache, StudyStorage
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


def test_a_worker_sees_what_others_do(pair, assert_same):
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
    assert_same(ours.get_trials(), theirs.get_trials())
    theirs.tell(first, 1.0)
    assert_same(ours.get_trials(states=(TrialState.COMPLETE,)), theirs.get_trials())


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


# Optuna's own, on both: of rungs that nobody finished, and of what lies between two infinite losses
@pytest.mark.filterwarnings("ignore:(All-NaN|invalid value encountered in):RuntimeWarning")
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
