import math

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from service.catalogue.intake import enqueue
from service.search.problem import Advance, Begin, Begun
from service.storage.claims import Claims
from service.storage.opened_study import open_study
from service.storage.pauses import Pauses
from service.trials.knowledge import Knowledge

THAW = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
sampler: {name: thaw}
"""
LR = {"optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True)}
RUNGS = (3000, 6000, 9000)


@pytest.fixture
def opened(tiny):
    tiny.write(THAW)
    tiny.create(3)
    found = open_study(tiny.settings, "tiny")
    yield found
    found.close()


@pytest.fixture
def knowledge(opened):
    return Knowledge(opened.definition, opened.budget, opened.base_config.rungs)


def from_elsewhere(state=TrialState.COMPLETE, lr=2e-3, at=(), value=1.5, ended="imported", ranges=LR):
    return create_trial(
        state=state,
        value=value,
        params={"optimizer.lr": lr},
        distributions=ranges,
        intermediate_values=dict(at),
        user_attrs={"ended": ended},
    )


def test_a_slot_without_a_trial_has_its_decided_point_and_the_first_the_baseline(opened, knowledge):
    assert knowledge.read().asked_for
    pauses = Pauses(Claims(opened.slots, "a", 60.0))
    for point in (None, {"optimizer.lr": 2e-3}, None):
        assert pauses.begin(opened.budget.read(), tokens=3000, point=point)
    known = knowledge.read()
    assert not known.asked_for
    assert known.begun == [
        Begun(0, {"optimizer.lr": 1e-3}, (), "running"),
        Begun(1, {"optimizer.lr": 2e-3}, (), "running"),
        Begun(2, {}, (), "running"),
    ]


def test_what_is_enqueued_is_asked_for_until_as_many_slots_are_without_a_trial(opened, knowledge, tiny):
    pauses = Pauses(Claims(opened.slots, "a", 60.0))
    pauses.begin(opened.budget.read(), tokens=3000, point=None)
    enqueue(tiny.settings, "tiny", {"optimizer.lr": 2e-3})
    enqueue(tiny.settings, "tiny", {"optimizer.lr": 3e-3})
    assert knowledge.read().asked_for
    pauses.begin(opened.budget.read(), tokens=3000, point=None)
    assert not knowledge.read().asked_for


@pytest.mark.parametrize(
    ("trial", "begun"),
    [
        (from_elsewhere(), ((1.5,), "ended", 2)),
        (from_elsewhere(at=zip(RUNGS, (3.0, 2.0, 1.5), strict=True)), ((3.0, 2.0, 1.5), "ended", 0)),
        (from_elsewhere(at=[(3000, 3.0), (4000, 2.5)]), ((1.5,), "ended", 2)),  # at rungs of its own
        (from_elsewhere(TrialState.PRUNED, at=[(3000, 3.0), (6000, 1.5)]), ((3.0, 1.5), "ended", 0)),
        (from_elsewhere(TrialState.PRUNED, at=[(3000, 3.0), (6000, math.nan)]), ((3.0,), "ended", 0)),
        (from_elsewhere(TrialState.PRUNED, at=[(4000, 1.5)]), None),
        (from_elsewhere(TrialState.PRUNED, ended="diverged: loss nan"), ((), "failed", 0)),
        (from_elsewhere(TrialState.FAIL, value=None), None),
        (from_elsewhere(lr=0.05, ranges={"optimizer.lr": FloatDistribution(1e-4, 1.0)}), None),
    ],
)
def test_results_from_elsewhere_are_known_as_far_as_they_fit(opened, knowledge, trial, begun):
    opened.study.add_trial(trial)
    found = knowledge.read().begun
    if begun is None:
        assert found == []
    else:
        losses, state, skipped = begun
        assert found == [Begun(0, {"optimizer.lr": 2e-3}, losses, state, skipped)]


def test_of_a_study_that_is_gone_nothing_is_known(opened, knowledge):
    optuna.delete_study(study_name="tiny", storage=opened.storage)
    assert knowledge.read() is None


def test_a_baseline_that_waits_is_due_before_all_else(tiny, opened, knowledge):
    claims = Claims(opened.slots, "a", 60.0)
    pauses = Pauses(claims)
    assert knowledge.read().due == Begin(None)
    slot = pauses.begin(opened.budget.read(), tokens=3000, point=None)
    assert knowledge.read().due is None  # it trains
    claims.pause(claims.set_trial(slot, opened.study.ask().number, attempts=0))
    enqueue(tiny.settings, "tiny", {"optimizer.lr": 2e-3})
    assert knowledge.read().due == Advance(0)
