import errno
import json
import math
import os
import random
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from model.checkpoint import read_tensors, write_tensors
from model.config.data import TokenizerConfig
from model.config.train_config import DiagnosticsConfig, TrainConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import CheckpointError, ConfigError, CorpusError, Diverged
from model.hardware import precision
from model.hardware.device import Device
from model.hardware.precision import LossScaler
from model.measurement.evaluation_record import Evaluation
from model.training import TrainingRun

CPU = Device(torch.device("cpu"), 1)
BLOCK, BATCH = 8, 4
STEP_TOKENS = BLOCK * BATCH
CLOCKS = ("train_seconds", "evaluation_seconds", "tokens_per_second")
OPTIMIZERS = {
    "sgd": {"name": "sgd", "lr": 0.05},
    "adamw": {"name": "adamw", "lr": 3e-3},
    "muon": {"name": "muon", "lr": 2e-2},
    "sam": {"name": "adamw", "lr": 3e-3, "sharpness": {"method": "sam"}},
    "asam": {"name": "muon", "lr": 2e-2, "sharpness": {"method": "asam", "rho": 0.5}},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def corpus(seed=0):
    """Titles that are learnable: every word is followed by the same one."""
    rng = random.Random(seed)
    words = ["show", "me", "the", "small", "thing", "that", "learns", "to", "count"]
    titles = [" ".join(words[rng.randrange(4) : rng.randrange(5, 9)]) + f" {i}" for i in range(80)]
    return Corpus(tuple(titles[:60]), tuple(titles[60:75]), tuple(titles[75:]), "toy", "file", 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return TokenizedCorpus.prepare(
        corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path_factory.mktemp("cache")
    )


def tiny_config(*, steps=8, rungs=4, optimizer="adamw", dropout=0.2, seed=1, **training):
    training = {"tokens": steps * STEP_TOKENS, "batch_size": BATCH, "rungs": rungs, "precision": "fp32"} | (
        training
    )
    return TrainConfig.model_validate_json(
        json.dumps(
            {
                "seed": seed,
                "tokenizer": {"vocab_size": 300},
                "model": {"n_layer": 1, "n_head": 2, "d_model": 16, "block_size": BLOCK, "dropout": dropout},
                "optimizer": OPTIMIZERS[optimizer],
                "training": training,
                "evaluation": {"block_size": BLOCK, "batch_size": 64},
            }
        )
    )


def new_run(data, **config):
    return TrainingRun(tiny_config(**config), data, device=CPU)


def from_state(path, run, data):
    """A run like this one, from a saved state on."""
    return TrainingRun.resumed(path, run.config, data, device=run.device)


def without_clocks(evaluations):
    return [{k: v for k, v in evaluation.as_dict().items() if k not in CLOCKS} for evaluation in evaluations]


def assert_same_bits(run, other):
    assert run.step == other.step
    assert without_clocks(run.evaluations) == without_clocks(other.evaluations)
    weights, expected = run.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    state, expected = run.optimizers.flat_state(), other.optimizers.flat_state()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


class InterruptedStream:
    """A training stream during one of whose batches a signal arrives."""

    def __init__(self, run, step):
        self.run, self.step, self.stream = run, step, run.stream

    def batch(self, step):
        if step == self.step:
            self.run.stop()
        return self.stream.batch(step)


def test_a_run_yields_one_evaluation_at_every_rung(data):
    run = new_run(data, steps=8, rungs=4)
    evaluations = list(run)
    assert run.finished
    assert evaluations == run.evaluations
    assert [e.rung_tokens for e in evaluations] == [64, 128, 192, 256]
    assert [e.step for e in evaluations] == [2, 4, 6, 8]
    assert [e.tokens for e in evaluations] == [64, 128, 192, 256]
    assert all(math.isfinite(e.gradient_norm) and e.gradient_norm > 0 for e in evaluations)
    assert all(e.peak_memory_bytes is None for e in evaluations)
    assert [e.coverage is None for e in evaluations] == [True, True, True, False]
    assert list(run) == []  # and nothing after the end


def test_rungs_between_steps_are_evaluated_after_the_step_and_the_last_at_the_last_whole_step(data):
    evaluations = list(new_run(data, tokens=5 * STEP_TOKENS + 20, rungs=3))
    assert [e.rung_tokens for e in evaluations] == [60, 120, 180]
    assert [e.tokens for e in evaluations] == [64, 128, 160]


def test_several_rungs_within_one_step_report_that_step(data):
    one, two, three = new_run(data, steps=1, rungs=3)
    assert (one.step, two.step, three.step) == (1, 1, 1)
    assert one.val_loss == two.val_loss == three.val_loss
    assert one.train_loss == two.train_loss == three.train_loss


def test_an_evaluation_agrees_with_itself_and_with_the_exact_pass(data):
    run = new_run(data)
    last = list(run)[-1]
    score = run.score()
    assert last.val_loss == score.loss_per_character
    assert last.nats_per_token == score.nats_per_token
    assert last.bits_per_byte == score.bits_per_byte
    assert last.perplexity == math.exp(last.nats_per_token)
    assert last.perplexity_per_char == math.exp(last.val_loss)
    assert last.tokens_per_second == pytest.approx(last.tokens / last.train_seconds)
    assert Evaluation(**json.loads(json.dumps(last.as_dict()))) == last


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_falls_on_a_corpus_that_can_be_learned(data, optimizer):
    run = new_run(data, steps=60, rungs=2, optimizer=optimizer, dropout=0.0)
    before = run.score().nats_per_token
    after = list(run)[-1]
    assert after.nats_per_token < before - 0.5
    assert after.train_loss < run.evaluations[0].train_loss


def test_train_loss_is_the_mean_over_the_batches_since_the_rung_before_their_updates(data):
    # a rate too small to change the weights beyond their first few bits
    config = tiny_config(steps=4, rungs=2, dropout=0.0)
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"lr": 1e-12})})
    run = TrainingRun(config, data, device=CPU)
    losses = []
    with torch.no_grad():
        for step in range(4):
            inputs, targets = (torch.from_numpy(array) for array in run.stream.batch(step))
            logits = run.model(inputs).flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(logits, targets.flatten()).item())
    first, second = run
    assert first.train_loss == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-6)
    assert second.train_loss == pytest.approx((losses[2] + losses[3]) / 2, rel=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_saved_at_any_rung_or_step_and_restored_ends_with_the_same_bits(data, tmp_path, optimizer):
    config = {"steps": 7, "rungs": 3, "optimizer": optimizer, "dropout": 0.3}
    whole = new_run(data, **config)
    list(whole)

    for rung in range(3):
        run = new_run(data, **config)
        for _, _ in zip(range(rung + 1), run, strict=False):
            pass
        run.save(tmp_path / "state")
        resumed = from_state(tmp_path / "state", run, data)
        list(resumed)
        assert_same_bits(resumed, whole)

    for step in range(7):
        run = new_run(data, **config)
        run.stream = InterruptedStream(run, step)
        list(run)
        assert run.step == step + 1  # the step under way is finished, and no other begun
        run.save(tmp_path / "state")
        torch.manual_seed(step)  # another process has another random state
        resumed = from_state(tmp_path / "state", run, data)
        list(resumed)
        assert_same_bits(resumed, whole)


@pytest.mark.parametrize("step", range(4))
def test_a_stopped_run_does_not_evaluate_even_where_the_step_ends_at_a_rung(data, step):
    run = new_run(data, steps=4, rungs=2)
    run.stream = InterruptedStream(run, step)
    assert len(list(run)) == step // 2
    assert run.step == step + 1
    assert not run.finished


def test_a_run_stopped_before_it_began_takes_no_step(data):
    run = new_run(data)
    run.stop()
    assert list(run) == []
    assert run.step == 0


def test_a_run_restored_between_two_rungs_of_one_step_reports_the_rate_of_that_step(data, tmp_path):
    whole = new_run(data, steps=2, rungs=6)
    list(whole)
    for rung in range(6):
        run = new_run(data, steps=2, rungs=6)
        for _, _ in zip(range(rung + 1), run, strict=False):
            pass
        run.save(tmp_path / "state")
        resumed = from_state(tmp_path / "state", run, data)
        list(resumed)
        assert_same_bits(resumed, whole)


def test_a_state_of_before_the_first_step_can_be_restored(data, tmp_path):
    whole = new_run(data)
    whole.save(tmp_path / "state")
    resumed = from_state(tmp_path / "state", whole, data)
    list(resumed), list(whole)
    assert_same_bits(resumed, whole)


def test_interleaved_runs_do_not_change_each_other(data):
    configs = {"steps": 6, "dropout": 0.3, "seed": 1}, {"steps": 6, "dropout": 0.1, "seed": 2}
    alone = [new_run(data, **config) for config in configs]
    for run in alone:
        list(run)
    together = [new_run(data, **config) for config in configs]
    for _ in zip(*together, strict=True):
        torch.rand(3)
    for run, expected in zip(together, alone, strict=True):
        assert_same_bits(run, expected)


def test_the_seed_decides_a_run(data):
    one, same, other = (new_run(data, seed=seed) for seed in (1, 1, 2))
    for run in (one, same, other):
        list(run)
    assert_same_bits(same, one)
    assert other.evaluations[-1].val_loss != one.evaluations[-1].val_loss


def test_an_infinite_validation_loss_is_diverged_too(data):
    run = new_run(data, steps=1, rungs=1)
    run.train_steps(1)
    with torch.no_grad():
        run.model.final_norm.bias.fill_(math.nan)
    with pytest.raises(Diverged, match="validation loss nan after step 1"):
        list(run)


def test_a_first_rung_of_skipped_steps_has_no_train_loss(data, monkeypatch):
    def overflowing(*, enabled):  # any loss above 2 does
        assert not enabled
        return LossScaler(enabled=True, initial_scale=2.0**127)

    monkeypatch.setattr(precision, "LossScaler", overflowing)
    (evaluation,) = new_run(data, steps=1, rungs=1)
    assert math.isnan(evaluation.train_loss)
    assert math.isfinite(evaluation.val_loss)


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"dropout": 0.1}, {"optimizer": "muon"}, {"steps": 9}, {"shuffle": False}]
)
def test_restore_refuses_the_state_of_another_configuration(data, tmp_path, change):
    run = new_run(data)
    run.train_steps(1)
    run.save(tmp_path / "state")
    with pytest.raises(CheckpointError, match="another run") as caught:
        from_state(tmp_path / "state", new_run(data, **change), data)
    assert "\n" not in str(caught.value)


def test_restore_refuses_the_state_of_another_corpus(data, tmp_path):
    run = new_run(data)
    run.save(tmp_path / "state")
    other = replace(corpus(), train=(*corpus().train[:-1], "another title"))
    other = TokenizedCorpus.prepare(other, TokenizerConfig(vocab_size=300), cache=tmp_path)
    with pytest.raises(CheckpointError, match="another run"):
        from_state(tmp_path / "state", run, other)


def test_restore_refuses_missing_truncated_and_foreign_files_in_one_line(data, tmp_path):
    run = new_run(data)
    run.train_steps(1)
    run.save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    files = {"empty": b"", "text": b"no tensors here", "header": content[:50], "truncated": content[:-1]}
    for name, part in files.items():
        (tmp_path / name).write_bytes(part)
    safetensors.torch.save_file({"model.x": torch.zeros(1)}, tmp_path / "foreign")
    for name in ("missing", "foreign", *files):
        with pytest.raises(CheckpointError, match=name) as caught:
            from_state(tmp_path / name, run, data)
        assert "\n" not in str(caught.value)


def test_a_state_of_another_version_is_refused_in_one_line(data, tmp_path):
    config = tiny_config(ema=0.9).model_copy(update={"diagnostics": DiagnosticsConfig(every=2)})
    run = TrainingRun(config, data, device=CPU)
    list(run)
    run.save(tmp_path / "state")
    tensors, facts = read_tensors(tmp_path / "state")
    lacking = [key for key in facts if key != "identity"]
    damaged = [
        *((tensors, {key: value for key, value in facts.items() if key != gone}) for gone in lacking),
        *(({key: tensors[key] for key in tensors if key != gone}, facts) for gone in tensors),
        (tensors, facts | {"evaluations": [{**facts["evaluations"][0], "unknown": 1}]}),
        (tensors, facts | {"evaluations": None}),
        (tensors, facts | {"scaler": 1.0}),
        (tensors | {"optimizer.0.0.exp_avg": torch.zeros(3)}, facts),
        (tensors | {"diagnostics": torch.zeros(3, dtype=torch.uint8)}, facts),
    ]
    for some_tensors, some_facts in damaged:
        write_tensors(tmp_path / "damaged", some_tensors, some_facts)
        with pytest.raises(CheckpointError) as caught:
            from_state(tmp_path / "damaged", run, data)
        assert "\n" not in str(caught.value)
    assert from_state(tmp_path / "state", run, data).finished


def test_a_full_disk_leaves_the_former_state_whole(data, tmp_path, monkeypatch):
    run = new_run(data)
    run.train_steps(1)
    run.save(tmp_path / "state")
    former = (tmp_path / "state").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run.train_steps(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.save(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == former
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert from_state(tmp_path / "state", run, data).step == 1


def test_what_cannot_work_is_refused_before_the_first_step(data):
    with pytest.raises(ConfigError, match="fp16 on a CPU"):
        new_run(data, precision="fp16")
    with pytest.raises(CorpusError, match="official metric"):
        new_run(data, batch_size=1000)
