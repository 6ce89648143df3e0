"""The training loss, against torch's own terms and sums by hand; and R-Drop in a whole run."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector

from model.config.data import TokenizerConfig
from model.config.train_config import TrainConfig, TrainingConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.hardware import precision
from model.hardware.device import Device
from model.network.gpt import GPT
from model.network.loss import add_gradient, cross_entropy, summed_loss, windows_at_once
from model.training import TrainingRun

FP32 = precision.choose("fp32", torch.device("cpu"))
B, T, V = 3, 5, 11


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2


TARGETS = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(9))
ONE, OTHER = draws(B, T, V, seed=1), draws(B, T, V, seed=2)
EVERYTHING = {"label_smoothing": 0.2, "z_loss": 0.1, "r_drop": 2.0}


def loss(*passes, targets=TARGETS, **settings):
    """The loss and the cross-entropy a token of the logits of one or two passes."""
    value, nats = summed_loss(torch.stack(passes), targets, TrainingConfig(epochs=1, **settings))
    tokens = len(passes) * targets.numel()
    return value / tokens, nats / tokens


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
    value, nats = loss(ONE, OTHER, r_drop=1.5)
    p, q = (logits.log_softmax(-1).flatten(0, 1) for logits in (ONE, OTHER))
    divergence = F.kl_div(p, q, log_target=True, reduction="batchmean")
    divergence = (divergence + F.kl_div(q, p, log_target=True, reduction="batchmean")) / 2
    expected = (mean_cross_entropy(ONE) + mean_cross_entropy(OTHER)) / 2
    assert nats.item() == pytest.approx(expected.item(), rel=1e-6)
    assert value.item() == pytest.approx((expected + 1.5 * divergence).item(), rel=1e-6)


def test_short_floats_are_summed_in_fp32():
    half = [ONE.bfloat16(), OTHER.bfloat16()]
    assert torch.equal(loss(*half, **EVERYTHING)[0], loss(*[z.float() for z in half], **EVERYTHING)[0])


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
    whole, run = (new_run(data, **settings) for _ in range(2))
    list(whole)
    run.train_steps(3)
    run.save(tmp_path / "state")
    torch.manual_seed(5)
    resumed = TrainingRun.resumed(tmp_path / "state", run.config, data, device=run.device)
    resumed.train_steps(1)
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_reported_loss_is_the_cross_entropy_of_both_passes(data):
    settings = {"dropout": 0.0, "steps": 1, "rungs": 1}
    (plain,) = new_run(data, **settings)
    (more,) = new_run(data, **settings, r_drop=3.0, z_loss=0.1, label_smoothing=0.2)
    assert more.train_loss == pytest.approx(plain.train_loss, rel=1e-6)


@pytest.mark.parametrize("settings", [{}, EVERYTHING])
@pytest.mark.parametrize("shape", [{}, {"tied": False, "logit_softcap": 5.0}])
@pytest.mark.parametrize("logits_at_once", [1, 3 * 8 * 300, 2**40])
def test_the_gradient_does_not_depend_on_how_many_windows_it_takes_at_once(
    monkeypatch, settings, shape, logits_at_once
):
    monkeypatch.setattr("model.network.loss._LOGITS_ON_CPU", logits_at_once)
    config = {"n_layer": 1, "n_head": 2, "d_model": 16, "block_size": 8, "dropout": 0.3, **shape}
    config = TrainConfig.model_validate_json(
        json.dumps(
            {
                "tokenizer": {"vocab_size": 300},
                "model": config,
                "training": {"epochs": 1},
                "evaluation": {"block_size": 8},
            }
        )
    )
    inputs, targets = torch.randint(300, (2, 7, 8), generator=torch.Generator().manual_seed(3))
    training = TrainingConfig(epochs=1, **settings)
    model = GPT(config, seed=0).train()

    torch.manual_seed(4)  # of the masks
    passes = 2 if training.r_drop else 1
    logits = model(inputs.repeat(passes, 1)).view(passes, 7, 8, 300)
    value, nats = (total / targets.numel() / passes for total in summed_loss(logits, targets, training))
    expected = torch.autograd.grad(value, list(model.parameters()))

    torch.manual_seed(4)
    found = add_gradient(
        model,
        inputs,
        targets,
        training,
        tokens=targets.numel(),
        precision=FP32,
        scaler=precision.LossScaler(enabled=False),
    )
    assert found.item() == pytest.approx(nats.item(), rel=1e-6)
    assert not found.requires_grad
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_so_many_windows_are_taken_at_once_that_their_logits_stay_small(monkeypatch):
    monkeypatch.setattr("model.network.loss._LOGITS_ON_CPU", 10_000)
    model, hidden = SimpleNamespace(vocab_size=300), torch.zeros(64, 8, 16)
    assert windows_at_once(model, hidden) == 10_000 // (8 * 300)
    assert windows_at_once(model, hidden, passes=2) == 10_000 // (2 * 8 * 300)
    assert windows_at_once(model, hidden, passes=5) == 1  # never none


def test_targets_behind_the_end_have_no_loss():
    targets = TARGETS.clone()
    targets[1, 2:] = -1
    losses = cross_entropy(ONE, targets)
    assert (losses[1, 2:] == 0).all()
    expected = F.cross_entropy(ONE.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
    assert losses.sum().item() == pytest.approx(expected.item(), rel=1e-6)
