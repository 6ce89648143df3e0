import contextlib
import gc
import json
import signal
import subprocess
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from model.errors import CorpusError
from model.hardware import device
from model.hardware.device import Device
from model.training import TrainingRun
from service.storage.database import open_storage
from service.storage.opened_study import open_study
from service.storage.studies import load_study
from tests.conftest import SPACE
from tests.service.dashboard.test_notes import note_of, texts

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


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


@pytest.mark.slow
def test_a_worker_whose_trials_are_short_is_alive_all_the_time(tiny):
    tiny.write(SPACE, **{"training.tokens": 1500})
    tiny.create(500)
    short = replace(tiny, settings=replace(tiny.settings, lease_seconds=4.0))
    worker, seen = short.worker(), []

    def watch():
        end = time.monotonic() + 8
        while time.monotonic() < end:
            with contextlib.closing(open_study(short.settings, "tiny")) as opened:
                seen.append(len(opened.roster.alive()))
            time.sleep(0.2)
        worker.stop()

    watching = threading.Thread(target=watch)
    watching.start()
    worker.work()
    watching.join()
    assert len(finished_numbers(tiny)) > 2  # so that no lease lasted
    assert set(seen) == {1}


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
    told = texts(note_of(tiny, 0), "td")
    assert told[:4] == [
        "ended",
        "its worker died or was cut off",
        "changes",
        "nothing: it is the base file as it is",
    ]
    (rung, loss) = max(killed.intermediate_values.items())
    assert told[4:] == ["reached", f"val_loss {loss:.4f} after {rung:,} tokens"]
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
