import json
import math

import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState

from service.storage.artifact_stores import open_store
from service.storage.database import open_storage
from service.storage.studies import load_study

BODY = """\
space:
  model.dropout: {type: float, low: 0.0, high: 0.1}
sampler: {name: random}
"""
ON = {"diagnostics.every": 10, "diagnostics.evaluation": "true"}
"""A tiny trial has 70 steps and three rungs."""


@pytest.fixture
def worked(tiny):
    """Runs a study of one trial to its end; the trial."""

    def work(**fixed):
        tiny.write(BODY, **fixed)
        tiny.create(1)
        tiny.worker().work()
        return tiny.trials()

    return work


def records(study, trial):
    """The lines of the trial's artifact; None where there is none."""
    storage = open_storage(study.settings)
    try:
        live = load_study(storage, "tiny", study.settings)[0]
        metas = get_all_artifact_meta(live.trials[trial.number], storage=live._storage)
    finally:
        storage.engine.dispose()
    ids = [meta.artifact_id for meta in metas if meta.filename == "diagnostics.jsonl"]
    if not ids:
        return None
    with open_store(study.settings.artifacts).open_reader(ids[0]) as file:
        return [json.loads(line) for line in file.read().splitlines()]


def test_a_trial_keeps_its_records_and_its_last_figures(tiny, worked):
    (trial,) = worked(**ON)
    lines = records(tiny, trial)
    assert [line["step"] for line in lines if line["kind"] == "step"] == [10, 20, 30, 40, 50, 60, 70]
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    assert [line["rung_tokens"] for line in evaluations] == [3000, 6000, 9000]
    for name in (
        "accuracy",
        "top5_accuracy",
        "confidence",
        "entropy",
        "ece",
        "loss_spikes",
        "nonfinite_events",
    ):
        assert trial.user_attrs[name] == evaluations[-1][name]
    assert "reliability" not in trial.user_attrs
    assert trial.user_attrs["train_loss"] != lines[-2]["train_loss"]  # the rung's mean, not one batch's


def test_without_diagnostics_there_is_no_such_file(tiny, worked):
    (trial,) = worked()
    assert trial.state == TrialState.COMPLETE
    assert records(tiny, trial) is None
    assert "accuracy" not in trial.user_attrs


def test_a_trial_that_diverges_keeps_its_records(tiny, worked):
    # a rate at which float32 overflows
    (trial,) = worked(**ON, **{"optimizer.name": "sgd", "optimizer.lr": 1e30, "optimizer.clip_norm": "null"})
    assert trial.user_attrs["ended"].startswith("diverged: ")
    last = records(tiny, trial)[-1]
    assert trial.user_attrs["ended"] == f"diverged: {last['diverged']}"
    assert last["nonfinite_events"] == 1


def test_an_interrupted_trial_goes_on_with_its_records(tiny, at_step):
    tiny.write(BODY, **ON)
    tiny.create(1)
    worker = tiny.worker()
    at_step({45: worker.stop})
    worker.work()
    tiny.worker().work()
    first, second = tiny.trials()
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    before, whole = records(tiny, first), records(tiny, second)
    assert whole[: len(before)] == before
    assert [line["step"] for line in whole if line["kind"] == "step"] == [10, 20, 30, 40, 50, 60, 70]
    assert len([line for line in whole if line["kind"] == "evaluation"]) == 3


def test_tensorboard_has_a_folder_for_each_trial(tiny, worked):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (trial,) = worked(**ON, **{"diagnostics.tensorboard": "true"})
    events = accumulator.EventAccumulator(str(tiny.folder / "curves" / "tensorboard" / "tiny" / "0"))
    events.Reload()
    losses = [event.value for event in events.Scalars("evaluation/val_loss")]
    assert losses == pytest.approx(list(trial.intermediate_values.values()))
    assert all(math.isfinite(event.value) for event in events.Scalars("grad_norm"))
