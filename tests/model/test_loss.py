"""The training loss, against torch's own terms and sums by hand; and R-Drop in a whole run."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector

from model import precision
from model.config import TokenizerConfig, TrainConfig, TrainingConfig
from model.corpus import Corpus
from model.device import Device
from model.loss import training_loss
from model.tokenizer import TokenizedCorpus
from model.training import TrainingRun

FP32 = precision.choose("fp32", torch.device("cpu"))
B, T, V = 3, 5, 11


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2


TARGETS = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(9))
ONE, OTHER = draws(B, T, V, seed=1), draws(B, T, V, seed=2)


def loss(logits, targets=TARGETS, *, tokens=None, **settings):
    """Of a model that gives these logits, whatever its input."""
    settings = TrainingConfig(epochs=1, **settings)
    inputs = torch.zeros_like(targets)
    return training_loss(
        lambda seen: logits[: len(seen)],
        inputs,
        targets,
        settings,
        tokens=tokens or targets.numel(),
        precision=FP32,
    )


def mean_cross_entropy(logits, **rest):
    return F.cross_entropy(logits.flatten(0, 1), TARGETS.flatten(), **rest)


def test_without_additions_it_is_the_cross_entropy():
    value, nats = loss(ONE)
    assert value.item() == nats.item() == pytest.approx(mean_cross_entropy(ONE).item(), rel=1e-6)


def test_label_smoothing_is_torchs():
    value, nats = loss(ONE, label_smoothing=0.3)
    assert value.item() == pytest.approx(mean_cross_entropy(ONE, label_smoothing=0.3).item(), rel=1e-6)
    assert nats.item() == pytest.approx(mean_cross_entropy(ONE).item(), rel=1e-6)


def test_z_loss_is_the_squared_logarithm_of_the_softmaxs_denominator():
    squares = [math.log(sum(math.exp(z) for z in row)) ** 2 for row in ONE.flatten(0, 1).tolist()]
    value, nats = loss(ONE, z_loss=0.25)
    assert value.item() == pytest.approx(nats.item() + 0.25 * sum(squares) / len(squares), rel=1e-6)


def test_r_drop_is_the_mean_of_two_passes_and_their_symmetric_divergence():
    value, nats = loss(torch.cat([ONE, OTHER]), r_drop=1.5)
    p, q = (logits.log_softmax(-1).flatten(0, 1) for logits in (ONE, OTHER))
    divergence = F.kl_div(p, q, log_target=True, reduction="batchmean")
    divergence = (divergence + F.kl_div(q, p, log_target=True, reduction="batchmean")) / 2
    expected = (mean_cross_entropy(ONE) + mean_cross_entropy(OTHER)) / 2
    assert nats.item() == pytest.approx(expected.item(), rel=1e-6)
    assert value.item() == pytest.approx((expected + 1.5 * divergence).item(), rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.2, "z_loss": 0.1, "r_drop": 2.0}])
def test_the_losses_of_the_parts_add_up_to_that_of_the_batch(settings):
    whole, _ = loss(torch.cat([ONE, OTHER]), **settings)
    parts = [
        loss(torch.cat([ONE[rows], OTHER[rows]]), TARGETS[rows], tokens=B * T, **settings)[0]
        for rows in (slice(0, 2), slice(2, 3))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


def test_short_floats_are_summed_in_fp32():
    half = torch.cat([ONE, OTHER]).bfloat16()
    settings = {"label_smoothing": 0.2, "z_loss": 0.1, "r_drop": 2.0}
    assert torch.equal(loss(half, **settings)[0], loss(half.float(), **settings)[0])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    titles = tuple(f"show me the small thing that counts to {i}" for i in range(80))
    corpus = Corpus(titles[:60], titles[60:75], titles[75:], "toy", "file", 0)
    return TokenizedCorpus.prepare(
        corpus, TokenizerConfig(vocab_size=300), cache=tmp_path_factory.mktemp("cache")
    )


def new_run(data, *, steps=4, sharpness="none", dropout=0.3, **training):
    model = {"n_layer": 1, "n_head": 2, "d_model": 16, "block_size": 8, "dropout": dropout}
    training = {"steps": steps, "batch_size": 4, "rungs": 2, "precision": "fp32"} | training
    config = {
        "tokenizer": {"vocab_size": 300},
        "model": model,
        "optimizer": {"sharpness": {"method": sharpness}},
        "training": training,
        "evaluation": {"block_size": 8},
    }
    return TrainingRun(
        TrainConfig.model_validate_json(json.dumps(config)), data, device=Device(torch.device("cpu"), 1)
    )


def gradient_after_one_step(data, **settings):
    run = new_run(data, **settings)
    run.train_steps(1)
    return parameters_to_vector([p.grad for p in run.model.parameters()])


def test_the_two_passes_drop_different_units(data):
    plain, same, other = (
        gradient_after_one_step(data, r_drop=weight, dropout=dropout)
        for weight, dropout in ((0.0, 0.0), (4.0, 0.0), (4.0, 0.3))
    )
    # without dropout both passes are one, but for the order of sums in fp32; with it they differ
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-6)
    one = gradient_after_one_step(data, r_drop=1e-9, dropout=0.3)
    assert (other - one).norm() > 0.01 * one.norm()


@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 3, "sharpness": "sam"}])
def test_a_run_with_r_drop_goes_on_to_the_same_bits(data, tmp_path, settings):
    settings = {"r_drop": 2.0, "z_loss": 1e-3, "label_smoothing": 0.1, **settings}
    whole, run, resumed = (new_run(data, **settings) for _ in range(3))
    list(whole)
    run.train_steps(3)
    run.save(tmp_path / "state")
    torch.manual_seed(5)
    resumed.restore(tmp_path / "state")
    resumed.train_steps(1)
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_reported_loss_is_the_cross_entropy_of_both_passes(data):
    settings = {"dropout": 0.0, "steps": 1, "rungs": 1}
    (plain,) = new_run(data, **settings)
    (more,) = new_run(data, **settings, r_drop=3.0, z_loss=0.1, label_smoothing=0.2)
    assert more.train_loss == pytest.approx(plain.train_loss, rel=1e-6)


def test_autocast_is_around_the_model_alone():
    seen = SimpleNamespace(dtype=None)
    weight = torch.ones(V, 1, requires_grad=True)

    def model(tokens):
        logits = F.linear(tokens[..., None].float(), weight)
        seen.dtype = logits.dtype
        return logits

    bf16 = precision.choose("bf16", torch.device("cpu"))
    settings = TrainingConfig(epochs=1, r_drop=1.0)
    value, nats = training_loss(model, TARGETS, TARGETS, settings, tokens=B * T, precision=bf16)
    assert seen.dtype == torch.bfloat16
    assert value.dtype == nats.dtype == torch.float32
    assert value.requires_grad
    assert not nats.requires_grad
