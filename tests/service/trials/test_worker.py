import contextlib
import gc
import json
import signal
import subprocess
import weakref
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from model.checkpoint import read_tensors, write_tensors
from model.errors import CorpusError
from model.hardware import device
from model.hardware.device import Device
from model.training import TrainingRun
from service.storage.database import open_storage
from service.storage.studies import load_study
from tests.conftest import SPACE

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@pytest.fixture(scope="session")
def undisturbed_loss(finished):
    return finished.trials()[0].value


def finished_numbers(study):
    return [trial.number for trial in study.trials() if trial.state in FINISHED]


def states(study):
    return [trial.state for trial in study.trials()]


def test_the_trials_asked_for_are_finished_and_the_first_is_the_baseline(finished):
    trials = finished.trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert trials[0].params == {"optimizer.lr": 1e-3}  # train_config.yaml's
    assert len({trial.params["optimizer.lr"] for trial in trials}) == 3
    for trial in trials:
        config = trial.user_attrs["config"]
        assert config["optimizer"]["lr"] == trial.params["optimizer.lr"]
        assert sorted(trial.intermediate_values) == [3000, 6000, 9000]
        assert trial.value == trial.intermediate_values[9000] == trial.user_attrs["val_loss"]
    assert finished.slots() == {"open": 0, "leased": 0, "held": 0, "closed": 3}


def test_only_the_best_keep_weights_and_nobody_keeps_a_state(finished):
    files = [path.name for path in Path(finished.settings.artifacts).iterdir()]
    assert not [name for name in files if name.startswith("state-")]
    trials = sorted(finished.trials(), key=lambda trial: trial.value)
    with_weights = [
        trial.number
        for trial in trials
        if trial.user_attrs.get("checkpoint", {}).get("model.safetensors") in files
    ]
    assert with_weights == [trial.number for trial in trials[:2]]


def test_a_pruned_trial_is_recorded_and_counts(tiny):
    tiny.write(
        """\
space:
  optimizer.lr: {type: float, low: 1.0e-9, high: 1.0e-3, log: true}
sampler: {name: random}
pruner: {name: threshold, upper: 0.5}
"""
    )  # no model of a random text is that good after a third of the budget
    tiny.create(2)
    tiny.worker().work()
    assert states(tiny) == [TrialState.PRUNED] * 2
    for trial in tiny.trials():
        assert trial.user_attrs["ended"] == "pruned at rung 1 of 3"
        assert len(trial.intermediate_values) == 1
    assert tiny.slots()["closed"] == 2


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


ARMS = """\
design:
  list:
    - {arm: long, training.tokens: 3000}
    - {arm: coarse, tokenizer.vocab_size: 260, training.epochs: 0.5, training.rungs: 2}
    - {arm: counted, training.steps: 5, training.batch_size: 4}
  seeds: [1, 2]
"""


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


class Sick(Device):
    """After a fault in one of its kernels a GPU answers no further call of the process."""

    def answers(self):
        return False


def test_what_a_sick_device_fails_is_handed_back_uncounted_and_the_process_ends(
    tiny, monkeypatch, at_step, undisturbed_loss
):
    tiny.create(1)

    def fault():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(device, "choose", lambda *_, **__: Sick(torch.device("cpu"), 1))
        for step in (30, 30, 31, 30):  # more often than a configuration may fail
            at_step({step: fault})
            with pytest.raises(SystemExit, match="error: its device failed: CUDA error: an illegal"):
                tiny.worker().work()
            assert tiny.slots() == {"open": 1, "leased": 0, "held": 0, "closed": 0}
    at_step({})
    tiny.worker().work()
    *failed, last = tiny.trials()
    assert {trial.user_attrs["ended"] for trial in failed} == {
        "its device failed: CUDA error: an illegal memory access was encountered"
    }
    assert last.user_attrs["goes_on_with"] == failed[-1].number == 3
    assert last.value == undisturbed_loss


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_a_run_does_not_outlive_its_trial(tiny, monkeypatch, in_a_cycle):
    tiny.create(2)
    train_step, alive, seen = TrainingRun._train_step, [], []
    collected = []
    monkeypatch.setattr(gc, "collect", lambda collect=gc.collect: collected.append(collect()))

    def step(run):
        if run.step == 0:
            alive.append([other for other in seen if other() is not None])
            if in_a_cycle:
                run.itself = run  # as where a traceback that is kept holds the run's own frames
            seen.append(weakref.ref(run))
        train_step(run)

    monkeypatch.setattr(TrainingRun, "_train_step", step)
    gc.disable()
    try:
        tiny.worker().work()
    finally:
        gc.enable()
    assert alive == [[], []]
    if not in_a_cycle:  # half a second, which trials should not take without need
        assert len(collected) <= 1  # of the first trial of a process, which imports torch._dynamo


def test_memory_that_is_not_there_prunes_the_trial(tiny, monkeypatch):
    tiny.create(1)
    monkeypatch.setattr(
        TrainingRun, "_train_step", lambda run: torch.empty(10**15)
    )  # the real allocator's no
    tiny.worker().work()
    assert states(tiny) == [TrialState.PRUNED]
    assert tiny.trials()[0].user_attrs["ended"].startswith("out of memory: ")
    assert tiny.slots()["closed"] == 1


def test_the_corpus_comes_from_the_artifacts_where_the_cache_is_another(tiny):
    tiny.create(1)
    (corpus,) = tiny.settings.cache.glob("corpus-*.json.gz")
    corpus.unlink()
    tiny.worker()
    assert corpus.exists()
    corpus.unlink()
    for artifact in Path(tiny.settings.artifacts).glob("corpus-*"):
        artifact.unlink()
    with pytest.raises(CorpusError, match="the corpus is not there"):
        tiny.worker()


@pytest.mark.slow
def test_a_killed_worker_loses_no_trial(tiny, undisturbed_loss):
    tiny.create(2)
    command = tiny.command("work", "tiny", "--threads", "1", "--json")
    with subprocess.Popen(**command, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if json.loads(line)["event"] == "rung":
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert states(tiny) == [TrialState.RUNNING]

    tiny.worker().work()
    assert states(tiny) == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    killed, *others = tiny.trials()
    assert killed.user_attrs["ended"] == "its worker died or was cut off"
    # whether the other trial ran before or after it depends on when the dead worker's lease ran out
    (successor,) = (trial for trial in others if "goes_on_with" in trial.user_attrs)
    assert successor.user_attrs["goes_on_with"] == killed.number
    assert successor.params == killed.params
    assert successor.value == undisturbed_loss
    assert tiny.slots() == {"open": 0, "leased": 0, "held": 0, "closed": 2}


@pytest.mark.slow
def test_two_workers_finish_exactly_what_was_asked_for(tiny):
    tiny.create(6)
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    **tiny.command("work", "tiny", "--threads", "1", "--json"),
                    stdout=subprocess.PIPE,
                )
            )
            for _ in range(2)
        ]
        outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert states(tiny) == [TrialState.COMPLETE] * 6
    assert len({trial.params["optimizer.lr"] for trial in tiny.trials()}) == 6
    assert tiny.slots()["closed"] == 6


def test_sigterm_saves_and_hands_back(tiny):
    tiny.write(**{"training.tokens": 2_000_000})
    tiny.create(1)
    command = tiny.command("work", "tiny", "--threads", "1", "--json")
    with subprocess.Popen(**command, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if json.loads(line)["event"] == "trial started":
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    (trial,) = tiny.trials()
    assert (trial.state, trial.user_attrs["ended"]) == (TrialState.FAIL, "interrupted")
    assert (Path(tiny.settings.artifacts) / trial.user_attrs["states"][-1]).exists()
    assert tiny.slots()["open"] == 1


def test_finished_trials_are_the_studys_own_record(finished):
    storage = open_storage(finished.settings)
    study, definition = load_study(storage, "tiny", finished.settings)
    assert study.best_value == min(trial.value for trial in finished.trials())
    assert definition.base_config.model.d_model == 16
    assert finished_numbers(finished) == [0, 1, 2]
