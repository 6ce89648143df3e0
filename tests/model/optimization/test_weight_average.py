import json

import pytest
import torch

from model.checkpoint import Checkpoint
from model.config.data import TokenizerConfig
from model.config.train_config import TrainConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import CheckpointError
from model.hardware import precision
from model.hardware.device import Device
from model.hardware.precision import LossScaler
from model.network.gpt import GPT
from model.optimization.weight_average import WeightAverage
from model.training import TrainingRun
from tests.tiny_gpt import tiny_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    titles = tuple(f"show me the small thing that counts to {i}" for i in range(80))
    corpus = Corpus(titles[:60], titles[60:75], titles[75:], "toy", "file", 0)
    return TokenizedCorpus.prepare(
        corpus, TokenizerConfig(vocab_size=300), cache=tmp_path_factory.mktemp("cache")
    )


def new_run(data, *, ema=None, rungs=3):
    config = tiny_config(dropout=0.2).model_dump(mode="json")
    config["training"] |= {"epochs": None, "steps": 6, "batch_size": 4, "rungs": rungs, "precision": "fp32"}
    config["training"]["ema"] = ema
    config = TrainConfig.model_validate_json(json.dumps(config))
    return TrainingRun(config, data, device=Device(torch.device("cpu"), 1))


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def equal(model, other):
    return all(map(torch.equal, weights(model), weights(other)))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_is_the_weighted_mean_of_the_weights_behind_each_update(decay):
    model = GPT(tiny_config(), seed=0).double()
    average = WeightAverage(model, decay=decay)
    assert equal(average.model, model)
    history = []
    for update in range(1, 8):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        history.append(weights(model))
        average.update(model, updates=update)
    shares = [decay ** (7 - i) for i in range(1, 8)]
    for index, got in enumerate(average.model.parameters()):
        expected = sum(s * w[index] for s, w in zip(shares, history, strict=True)) / sum(shares)
        torch.testing.assert_close(got.detach(), expected, rtol=0, atol=1e-12)


def test_averaging_and_evaluating_leave_the_training_as_it_is(data):
    with_average, without = new_run(data, ema=0.9, rungs=6), new_run(data, rungs=1)
    list(with_average), list(without)
    assert equal(with_average.model, without.model)
    assert not equal(with_average.evaluated_model, without.model)


def test_the_average_is_what_is_evaluated_and_checkpointed(data, tmp_path):
    run = new_run(data, ema=0.9)
    last = list(run)[-1]
    run.checkpoint().write(tmp_path)
    checkpoint = Checkpoint.read(tmp_path).model()
    assert equal(checkpoint, run.evaluated_model)
    assert not equal(checkpoint, run.model)
    plain = new_run(data)
    plain.model.load_state_dict(run.evaluated_model.state_dict())
    assert plain.score().loss_per_character == last.val_loss
    plain.model.load_state_dict(run.model.state_dict())
    assert plain.score().loss_per_character != last.val_loss


def test_an_average_goes_on_to_the_same_bits(data, tmp_path):
    whole, run = (new_run(data, ema=0.9) for _ in range(2))
    list(whole)
    run.train_steps(3)
    run.save(tmp_path / "state")
    resumed = TrainingRun.resumed(tmp_path / "state", run.config, data, device=run.device)
    resumed.train_steps(3)
    assert equal(resumed.model, whole.model)
    assert equal(resumed.evaluated_model, whole.evaluated_model)


def test_steps_that_fp16_skips_are_not_averaged(data, monkeypatch, tmp_path):
    # any loss above 2 overflows, and the scale halves
    monkeypatch.setattr(
        precision, "LossScaler", lambda *, enabled: LossScaler(enabled=True, initial_scale=2.0**127)
    )
    run = new_run(data, ema=0.9)
    history = []
    for step in range(6):
        before = weights(run.model)
        run.train_steps(1)
        if not all(map(torch.equal, weights(run.model), before)):
            history.append(weights(run.model))
        if step == 2:
            run.save(tmp_path / "state")
    assert 1 < len(history) < 6
    shares = [0.9 ** (len(history) - i) for i in range(1, len(history) + 1)]
    for index, got in enumerate(run.evaluated_model.parameters()):
        expected = sum(s * w[index].double() for s, w in zip(shares, history, strict=True)) / sum(shares)
        torch.testing.assert_close(got.detach().double(), expected, rtol=1e-5, atol=1e-7)  # fp32's rounding
    resumed = TrainingRun.resumed(tmp_path / "state", run.config, data, device=run.device)
    resumed.train_steps(3)
    assert equal(resumed.evaluated_model, run.evaluated_model)


def test_a_state_without_an_average_is_refused():
    average = WeightAverage(GPT(tiny_config(), seed=0), decay=0.9)
    state = average.flat_state()
    state.popitem()
    with pytest.raises(CheckpointError, match=r"^here: weights of another model"):
        average.load_flat_state(state, "here")
