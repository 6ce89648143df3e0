import itertools
import json
import math
import sys
import time
from pathlib import Path

import pytest
import safetensors
import torch

from model.config.counts import flops_per_token
from model.config.data import TokenizerConfig
from model.config.train_config import DiagnosticsConfig, TrainConfig
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import Diverged
from model.hardware.matrix_rate import matrix_rate
from model.measurement import diagnostics as module
from model.measurement.diagnostics import as_lines
from model.measurement.loss_spikes import WINDOW
from model.network.loss import cross_entropy
from model.optimization.sharpness import StepResult
from model.training import TrainingRun
from tests.model.test_training import (
    CPU,
    OPTIMIZERS,
    STEP_TOKENS,
    InterruptedStream,
    assert_same_bits,
    corpus,
    from_state,
    tiny_config,
)

CLOCKS = {
    "data_seconds", "step_seconds", "tokens_per_second", "flops_per_second", "utilisation", "diagnostics_seconds",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return TokenizedCorpus.prepare(
        corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path_factory.mktemp("cache")
    )


def new_run(data, *, every=1, evaluation=True, **config):
    chosen = DiagnosticsConfig(every=every, evaluation=evaluation)
    run = tiny_config(**config).model_copy(update={"diagnostics": chosen})
    return TrainingRun(run, data, device=CPU)


def of_kind(run, kind):
    return [record for record in run.diagnostics if record["kind"] == kind]


def without_clocks(run):
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in run.diagnostics]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_a_run_ends_with_the_same_bits_watched_or_not(data, optimizer, micro_batch_size):
    config = {"optimizer": optimizer, "dropout": 0.3, "micro_batch_size": micro_batch_size}
    watched, unwatched = new_run(data, **config), new_run(data, every=0, evaluation=False, **config)
    list(watched)
    list(unwatched)
    assert len(watched.diagnostics) == 8 + 4
    assert unwatched.diagnostics == []
    assert_same_bits(watched, unwatched)


def files_whose_code_runs(run):
    files = set()
    sys.setprofile(lambda frame, *_: files.add(Path(frame.f_code.co_filename).stem))
    try:
        run._train_step()
        run._evaluate(run.config.rungs[-1])
    finally:
        sys.setprofile(None)
    return files & {"diagnostics", "measurements", "calibration", "loss_spikes", "matrix_rate"}


def test_nothing_of_it_is_executed_where_it_is_off(data, tmp_path):
    off = new_run(data, every=0, evaluation=False)
    assert files_whose_code_runs(off) == set()
    assert files_whose_code_runs(new_run(data)) >= {
        "diagnostics",
        "measurements",
        "calibration",
        "loss_spikes",
    }
    off.save(tmp_path / "state")
    with safetensors.safe_open(tmp_path / "state", framework="pt") as file:
        assert "diagnostics" not in file.keys()  # noqa: SIM118


def test_every_nth_step_is_measured_and_every_rung_recorded(data):
    run = new_run(data, every=3, steps=8, rungs=4)
    list(run)
    assert [(r["kind"], r["step"]) for r in run.diagnostics] == [
        ("evaluation", 2), ("step", 3), ("evaluation", 4), ("step", 6), ("evaluation", 6), ("evaluation", 8),
    ]  # fmt: skip
    assert all(r["tokens"] == r["step"] * STEP_TOKENS for r in run.diagnostics)
    assert [r["rung_tokens"] for r in of_kind(run, "evaluation")] == list(run.config.rungs)
    assert {
        "accuracy",
        "top5_accuracy",
        "confidence",
        "entropy",
        "ece",
        "reliability",
        "loss_by_position",
    } <= (of_kind(run, "evaluation")[0].keys())


def test_evaluations_alone_and_steps_alone(data):
    evaluations = new_run(data, every=0)
    list(evaluations)
    assert [r["kind"] for r in evaluations.diagnostics] == ["evaluation"] * 4
    steps = new_run(data, every=8, evaluation=False)
    list(steps)
    assert [r["kind"] for r in steps.diagnostics] == ["evaluation"] * 3 + ["step", "evaluation"]
    assert "accuracy" not in steps.diagnostics[0]
    assert steps.diagnostics[-1]["nonfinite_events"] == 0


def test_a_step_s_loss_and_gradient_are_those_of_its_batch_before_the_update_and_before_clipping(data):
    run = new_run(data, dropout=0.0)
    config = run.config
    clipped = config.optimizer.model_copy(update={"clip_norm": 1e-3})
    run = TrainingRun(config.model_copy(update={"optimizer": clipped}), data, device=CPU)
    run.train_steps(4)
    inputs, targets = (torch.from_numpy(array) for array in run.stream.batch(4))
    loss = cross_entropy(run.model(inputs), targets).mean()
    gradients = torch.autograd.grad(loss, list(run.model.parameters()))
    norm = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients))
    weights = math.sqrt(sum(float(p.detach().double().pow(2).sum()) for p in run.model.parameters()))
    run.train_steps(1)
    record = run.diagnostics[-1]
    assert record["step"] == 5
    assert record["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert record["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert record["parameter_norm"] == pytest.approx(weights, rel=1e-5)
    squares = sum(value**2 for name, value in record.items() if name.startswith("grad_norm/"))
    assert math.sqrt(squares) == pytest.approx(norm, rel=1e-4)  # of the layers too
    assert record["learning_rate"] == run.optimizers.learning_rate


def test_with_sam_the_gradient_is_the_one_that_is_applied(data):
    run = new_run(data, optimizer="sam")
    list(run)
    for record, evaluation in zip(of_kind(run, "step")[1::2], run.evaluations, strict=True):
        assert record["grad_norm"] == evaluation.gradient_norm
        squares = sum(value**2 for name, value in record.items() if name.startswith("grad_norm/"))
        assert math.sqrt(squares) == pytest.approx(record["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("every", [1, 2])
def test_records_after_a_resume_are_neither_lost_nor_doubled(data, tmp_path, every):
    config = {"steps": 7, "rungs": 3, "dropout": 0.3, "every": every}
    whole = new_run(data, **config)
    list(whole)
    for step in range(7):
        run = new_run(data, **config)
        run.stream = InterruptedStream(run, step)
        list(run)
        run.save(tmp_path / "state")
        run.save(tmp_path / "state")  # which must not change what is saved
        resumed = from_state(tmp_path / "state", run, data)
        assert resumed.diagnostics == run.diagnostics
        list(resumed)
        assert without_clocks(resumed) == without_clocks(whole)
        assert_same_bits(resumed, whole)


def test_spikes_are_counted_over_all_steps_and_over_a_resume(data, tmp_path):
    def fed(run, losses):
        for loss in losses:
            run._diagnostics.start(1)
            run._diagnostics.finish(StepResult(loss, 1.0, skipped=False))

    quiet = [4.0 + 0.01 * (i % 7) for i in range(WINDOW)]
    run = new_run(data, every=1000)
    fed(run, [*quiet, 9.0])
    run.save(tmp_path / "state")
    resumed = from_state(tmp_path / "state", run, data)
    fed(resumed, [4.0, 9.0, 4.0])
    resumed._diagnostics.finish_evaluation(100)
    assert resumed.diagnostics[-1]["loss_spikes"] == 2


def test_the_time_of_measuring_is_not_the_training_s(data):
    run = new_run(data, steps=40, rungs=1)
    started = time.perf_counter()
    run.train_steps(40)
    passed = time.perf_counter() - started
    records = of_kind(run, "step")
    measuring = sum(r["diagnostics_seconds"] for r in records)
    training = sum(r["step_seconds"] + r["data_seconds"] for r in records)
    assert measuring > 0.2 * training  # with a model this small; else the next lines show nothing
    assert run._train_seconds <= passed - measuring
    assert training <= run._train_seconds
    for record in records:
        rate = STEP_TOKENS / record["step_seconds"]
        assert record["tokens_per_second"] == pytest.approx(rate)
        assert record["flops_per_second"] == pytest.approx(flops_per_token(run.config) * rate)
        yardstick = matrix_rate(CPU, run.precision)
        assert record["utilisation"] == pytest.approx(record["flops_per_second"] / yardstick)


class SlowStream:
    """A training stream that works for a while on each batch."""

    seconds = 0.1  # longer than a step, on a busy machine as well

    def __init__(self, stream):
        self.stream = stream

    def batch(self, step):
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return self.stream.batch(step)


def test_the_time_of_the_data_is_told_from_the_step_s(data):
    run = new_run(data)
    run.train_steps(1)  # the first step is slow
    run.stream = SlowStream(run.stream)
    run.train_steps(5)
    records = of_kind(run, "step")[1:]
    assert all(r["data_seconds"] >= SlowStream.seconds for r in records)
    assert min(r["step_seconds"] for r in records) < SlowStream.seconds


def test_a_run_that_diverges_ends_with_a_record_that_says_so(data, tmp_path):
    run = new_run(data)
    iterator = iter(run)
    next(iterator)
    with torch.no_grad():
        run.model.final_norm.weight[0] = math.nan
    with pytest.raises(Diverged, match="loss nan"):
        next(iterator)
    last = run.diagnostics[-1]
    assert (last["kind"], last["step"], last["nonfinite_events"]) == ("step", 3, 1)
    assert last["diverged"] == "non-finite step: loss nan, gradient norm nan"
    assert json.loads(as_lines(run.diagnostics).splitlines()[-1]) == last
    run.save(tmp_path / "state")


def test_a_skipped_step_is_counted_and_its_loss_reported_as_null(data):
    run = new_run(data, every=2)
    for step, loss in ((1, math.inf), (2, math.inf)):
        run._diagnostics.start(step)
        run._diagnostics.data_ready(torch.zeros(4, 8, dtype=torch.long))
        run._diagnostics.finish(StepResult(loss, math.nan, skipped=True))
    (record,) = run.diagnostics
    assert record["train_loss"] is None
    assert record["nonfinite_events"] == 2
    assert not any("norm" in name for name in record)


def test_a_measured_value_that_is_not_finite_is_null_and_counted(data):
    config = json.loads(new_run(data).config.model_dump_json())
    config["model"]["attention"] = "document"
    run = TrainingRun(TrainConfig.model_validate_json(json.dumps(config)), data, device=CPU)
    run.train_steps(1)
    assert run.diagnostics[-1]["nonfinite_events"] == 0
    titles_without_words = torch.full((4, 8), data.tokenizer.eos_id)
    run._diagnostics.start(2)
    run._diagnostics.data_ready(titles_without_words)
    run._diagnostics.before_update()
    run._diagnostics.finish(StepResult(4.0, 1.0, skipped=False))
    record = run.diagnostics[-1]
    assert [name for name, value in record.items() if value is None] == [
        f"attention_entropy/{place}" for place in ("first", "middle", "last")
    ]
    assert record["nonfinite_events"] == 3


def test_every_name_of_a_record_is_explained(data):
    run = new_run(data)
    list(run)
    names = {name.partition("/")[0] for name in itertools.chain.from_iterable(run.diagnostics)}
    documents = (module.__doc__ or "") + (module.Predictions.figures.__doc__ or "")
    assert [name for name in names if name not in documents] == []
