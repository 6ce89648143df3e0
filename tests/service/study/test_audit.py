"""Trials that the pruner stops and the audit lets run on: which, how they are marked, and what becomes of them."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from rich.console import Console

from service.machine import status
from service.machine.progress import LiveTable
from service.study import audit
from tests.service.dashboard.test_notes import note_of

STOPS_ALL = """\
space:
  optimizer.lr: {type: float, low: 1.0e-9, high: 1.0e-3, log: true}
sampler: {name: random}
pruner: {name: threshold, upper: 0.5, audit: SHARE}
baseline: false
"""
"""No model of a random text is that good after a third of the budget."""


def audited_study(tiny, share):
    tiny.write(STOPS_ALL.replace("SHARE", str(share)))
    return tiny


SEEDS, SLOTS = st.integers(0, 2**63 - 1), st.integers(0, 10**6)


@given(SEEDS, SLOTS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_draws_whom_a_smaller_one_draws(seed, slot, share, other):
    low, high = sorted((share, other))
    drawn = [audit.is_drawn(each, study_seed=seed, slot=slot) for each in (0.0, low, high, 1.0)]
    assert drawn == sorted(drawn)
    assert (drawn[0], drawn[-1]) == (False, True)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_share_is_that_of_the_draws_and_the_study_seed_decides(share):
    seeds = [
        {slot for slot in range(10_000) if audit.is_drawn(share, study_seed=s, slot=slot)} for s in (1, 2)
    ]
    for drawn in seeds:  # five standard deviations of a binomial count
        assert abs(len(drawn) - 10_000 * share) < 5 * (10_000 * share * (1 - share)) ** 0.5
    # two independent draws have share² of the slots in common
    assert abs(len(seeds[0] & seeds[1]) - 10_000 * share**2) < 5 * (10_000 * share**2) ** 0.5


def test_audited_trials_run_to_the_end_and_say_so(tiny):
    audited_study(tiny, 0.5)
    tiny.create(6)
    tiny.worker().work()
    trials = tiny.trials()
    drawn = [audit.is_drawn(0.5, study_seed=1337, slot=slot) for slot in range(6)]
    assert len(set(drawn)) == 2
    assert [trial.state == TrialState.COMPLETE for trial in trials] == drawn
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            assert sorted(trial.intermediate_values) == [3000, 6000, 9000]
            assert trial.user_attrs["audit"] == {
                "rung": 1, "rungs": 3, "tokens": 3000, "val_loss": trial.intermediate_values[3000],
            }  # fmt: skip
            ended = "complete, audited: the pruner said stop at rung 1 of 3"
            assert trial.user_attrs["ended"] == ended
            assert f"| ended | {ended.replace(':', chr(92) + ':')} |" in note_of(tiny, trial.number)
        else:
            assert trial.state == TrialState.PRUNED
            assert "audit" not in trial.user_attrs


def test_a_trial_that_the_pruner_leaves_alone_is_not_marked(tiny):
    tiny.write(STOPS_ALL.replace("SHARE", "1.0").replace("0.5", "50"))
    tiny.create(1)
    tiny.worker().work()
    (trial,) = tiny.trials()
    assert (trial.state, trial.user_attrs["ended"]) == (TrialState.COMPLETE, "complete")
    assert "audit" not in trial.user_attrs


def test_a_trial_that_is_gone_on_with_keeps_its_mark(tiny, at_step):
    audited_study(tiny, 1.0)
    tiny.create(1)
    worker = tiny.worker()
    at_step({30: worker.stop})  # 8 × 16 tokens a step: rungs after 24, 47 and 70 steps
    worker.work()
    tiny.worker().work()
    first, second = tiny.trials()
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.user_attrs["audit"] == second.user_attrs["audit"]
    assert second.user_attrs["audit"]["rung"] == 1


def test_a_successor_decides_as_its_predecessor_would_have(tiny, at_step):
    audited_study(tiny, 0.5)
    tiny.create(6)
    worker = tiny.worker()
    at_step({1: worker.stop})  # before the first rung
    worker.work()
    tiny.worker().work()
    failed, *others = tiny.trials()  # from here on, a trial's number is not its slot's
    assert failed.state == TrialState.FAIL
    states = [trial.state == TrialState.COMPLETE for trial in others]
    assert states == [audit.is_drawn(0.5, study_seed=1337, slot=slot) for slot in range(6)]


def test_running_and_audited_is_shown(tiny):
    audited_study(tiny, 1.0)
    tiny.create(1)
    take = status.take(tiny.settings, "tiny")
    trial = take().study.ask()
    trial.report(5.0, 3000)
    trial.set_user_attr("audit", {"rung": 1, "rungs": 3, "tokens": 3000, "val_loss": 5.0})
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(status.page(take()))
    assert "1/3 audited" in console.file.getvalue()

    view = LiveTable("tiny", workers=1, trials=1, trial_seconds=1.0, console=console)
    view.take(0, json.loads('{"event": "audited", "trial": 4, "rung": 2, "val_loss": 5.0}'))
    assert "trial 4 to be pruned at rung 2, runs on for the audit" in console.file.getvalue()
