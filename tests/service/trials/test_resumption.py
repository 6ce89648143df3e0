from pathlib import Path

from optuna.trial import TrialState

from model.checkpoint import read_tensors, write_tensors
from model.training import TrainingRun
from tests.conftest import SPACE
from tests.service.trials.test_worker import states


def test_an_interrupted_trial_is_gone_on_with_and_ends_with_the_same_bits(tiny, at_step, undisturbed_loss):
    tiny.create(1)
    worker = tiny.worker()
    at_step({30: worker.stop})  # 8 × 16 tokens a step: rungs after 24, 47 and 70 steps
    worker.work()
    assert states(tiny) == [TrialState.FAIL]
    assert tiny.trials()[0].user_attrs["ended"] == "interrupted"
    assert tiny.slots() == {"open": 1, "leased": 0, "held": 0, "closed": 0}

    steps = at_step({})
    tiny.worker().work()
    first, second = tiny.trials()
    assert steps[0] == 31
    assert second.user_attrs["goes_on_with"] == first.number
    assert second.params == first.params
    assert second.state == TrialState.COMPLETE
    assert second.value == undisturbed_loss
    assert len(second.intermediate_values) == 3


def test_a_state_that_is_refused_half_way_leaves_nothing_in_the_run(tiny, at_step, undisturbed_loss):
    tiny.create(1)
    worker = tiny.worker()
    at_step({30: worker.stop})
    worker.work()
    state = Path(tiny.settings.artifacts) / tiny.trials()[0].user_attrs["states"][-1]
    tensors, facts = read_tensors(state)
    # as of a version in which two parameters change places: the weights fit, what Adam remembers does not
    one, other = "optimizer.0.0.exp_avg", "optimizer.0.1.exp_avg"
    tensors[one], tensors[other] = tensors[other], tensors[one]
    write_tensors(state, tensors, facts)
    steps = at_step({})
    tiny.worker().work()
    assert steps[0] == 1
    assert tiny.trials()[-1].value == undisturbed_loss


def test_a_trial_that_is_taken_over_stays_in_its_arm(tiny, at_step):
    tiny.write("design:\n  list: [{arm: A, optimizer.lr: 2.0e-3}]\nbaseline: false\n")
    tiny.create(1)
    worker = tiny.worker()
    at_step({1: worker.stop})
    worker.work()
    tiny.worker().work()
    assert states(tiny) == [TrialState.FAIL, TrialState.COMPLETE]
    assert [trial.user_attrs["arm"] for trial in tiny.trials()] == ["A", "A"]


def test_a_failure_is_tried_again_and_given_up_after_three_attempts(tiny, monkeypatch):
    tiny.create(1)
    train_step = TrainingRun._train_step

    def broken(run):
        train_step(run)
        raise RuntimeError("broken")

    monkeypatch.setattr(TrainingRun, "_train_step", broken)
    tiny.worker().work()
    assert states(tiny) == [TrialState.FAIL] * 3
    reason = "RuntimeError: broken"
    assert [trial.user_attrs["ended"] for trial in tiny.trials()] == [
        reason,
        reason,
        f"{reason}; given up, having got no further in 3 failures (an end that nobody saw counts a third)",
    ]
    assert tiny.slots()["closed"] == 1


def test_the_configuration_in_place_of_one_given_up_has_attempts_of_its_own(tiny, monkeypatch):
    tiny.write(f"{SPACE}baseline: false\n")
    tiny.create(1)
    train_step, calls = TrainingRun._train_step, iter(range(1000))

    def broken_at_first(run):
        if next(calls) < 4:
            raise RuntimeError("broken")
        train_step(run)

    monkeypatch.setattr(TrainingRun, "_train_step", broken_at_first)
    tiny.worker().work()
    assert states(tiny) == [TrialState.FAIL] * 4 + [TrialState.COMPLETE]
    given_up, first_of_other, last = tiny.trials()[2:]
    assert (
        given_up.user_attrs["ended"]
        == "RuntimeError: broken; given up, having got no further in 3 failures (an end that nobody saw counts a third)"
    )
    assert first_of_other.user_attrs["ended"] == "RuntimeError: broken"
    assert last.user_attrs["goes_on_with"] == first_of_other.number
    assert last.params == first_of_other.params != given_up.params
