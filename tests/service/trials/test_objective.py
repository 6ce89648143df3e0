from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from service.trials.objective import _pace
from tests.service.trials.test_worker import states

ARMS = """\
design:
  list:
    - {arm: long, training.tokens: 3000}
    - {arm: coarse, tokenizer.vocab_size: 260, training.epochs: 0.5, training.rungs: 2}
    - {arm: counted, training.steps: 5, training.batch_size: 4}
  seeds: [1, 2]
"""


STOPS_ALL = """\
space:
  optimizer.lr: {type: float, low: 1.0e-9, high: 1.0e-3, log: true}
sampler: {name: random}
pruner: {name: threshold, upper: 0.5}
"""
"""No model of a random text is that good after a third of the budget."""


def test_a_pruned_trial_is_recorded_and_counts(tiny):
    tiny.write(STOPS_ALL + "baseline: false\n")
    tiny.create(2)
    tiny.worker().work()
    assert states(tiny) == [TrialState.PRUNED] * 2
    for trial in tiny.trials():
        assert trial.user_attrs["ended"] == "pruned at rung 1 of 3"
        assert len(trial.intermediate_values) == 1
    assert tiny.slots()["closed"] == 2


def test_the_baseline_is_not_pruned_even_where_it_is_gone_on_with_after_others(tiny, at_step):
    tiny.write(STOPS_ALL)
    tiny.create(3)
    worker = tiny.worker()
    at_step({30: worker.stop})  # between its first rung and its second
    worker.work()
    tiny.worker().work()
    assert states(tiny) == [TrialState.FAIL, TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert tiny.trials()[1].user_attrs["ended"] == "complete"


def test_a_diverging_configuration_is_pruned_and_the_study_goes_on(tiny):
    tiny.write(
        """\
design:
  list:
    - {optimizer.name: sgd, optimizer.lr: 1.0e+6, optimizer.clip_norm: null}
    - {optimizer.lr: 2.0e-3}
baseline: false
"""
    )
    tiny.create(2)
    tiny.worker().work()
    diverged, other = tiny.trials()
    assert diverged.state == TrialState.PRUNED
    assert diverged.user_attrs["ended"].startswith("diverged: ")
    assert other.state == TrialState.COMPLETE


def test_arms_have_their_names_their_seeds_and_their_budgets(tiny):
    tiny.write(ARMS)
    tiny.create()
    tiny.worker().work()
    trials = tiny.trials()
    arms = [trial.user_attrs["arm"] for trial in trials]
    assert arms == ["baseline", "long", "coarse", "counted"] * 2
    assert [trial.user_attrs["config"]["seed"] for trial in trials] == [1] * 4 + [2] * 4
    assert states(tiny) == [TrialState.COMPLETE] * 8
    baseline, long, coarse, counted = (sorted(trial.intermediate_values) for trial in trials[:4])
    assert baseline == [3000, 6000, 9000]
    assert long == [1000, 2000, 3000]
    assert counted[-1] == trials[3].user_attrs["tokens"] == 5 * 4 * 16
    # half of the 900 titles, at three merges almost a token a letter, against 10,894 tokens at 300 entries
    assert len(coarse) == 2
    assert coarse[-1] == trials[2].user_attrs["config"]["training"]["tokens"] > 9000
    assert [trial.user_attrs["train_tokens"] for trial in trials[:2]] == [10_894] * 2
    assert round(0.5 * trials[2].user_attrs["train_tokens"]) == coarse[-1]  # of its own tokenizer


def test_the_speed_told_is_that_of_the_last_rungs():
    seconds = (1000.0, 2000.0, 2010.0, 2020.0, 2030.0)  # two rungs on a busy machine, three on an idle one
    run = SimpleNamespace(evaluations=[])
    told = []
    for rung, clock in enumerate(seconds, 1):
        run.evaluations.append(SimpleNamespace(tokens=100 * rung, seconds=clock, tokens_per_second=0.07))
        told.append(_pace(run))
    assert told == pytest.approx([0.07, 100 / 1000, 200 / 1010, 300 / 1020, 300 / 30])
