import copy
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.config.counts import flops_per_token, update_flops
from model.config.optimization import OptimizerConfig, Orthogonalization
from model.config.train_config import TrainConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.hardware.device import Device
from model.network.attention import QueryKeyValue
from model.network.gpt import GPT
from model.optimization.muon import POLAR_EXPRESS, orthogonalize
from model.optimization.optimizer import build
from model.training import TrainingRun
from tests.tiny_gpt import tiny_config

CPU = torch.device("cpu")
METHODS = get_args(Orthogonalization)
SMALLEST = {"newton_schulz": 0.01, "polar_express_4": 0.003, "polar_express_3": 0.01}
BAND = {"newton_schulz": 0.33, "polar_express_4": 0.22, "polar_express_3": 0.29}
"""How far from 1 a singular value may come out that is at least so much of the bound on the largest one."""


def matrices(number, rows, columns, *, smallest, seed=0):
    """Of given singular values: evenly spaced in their logarithms from `smallest` to 1."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(number, rows, rows, generator=generator))[0]
    v = torch.linalg.qr(torch.randn(number, columns, columns, generator=generator))[0][:, :rows]
    return u @ (torch.logspace(np.log10(smallest), 0, rows).diag() @ v), u, v


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "columns", [32, 48, 96, 128]
)  # in place up to one and a half, then in the Gram matrix
def test_singular_values_come_out_near_one_and_their_vectors_stay(method, dtype, columns):
    # the bound on the largest one, which all are divided by, is up to a half too large
    given, u, v = matrices(3, 32, columns, smallest=1.5 * SMALLEST[method])
    found = u.mT @ orthogonalize(given.to(dtype), method).float() @ v.mT
    values = found.diagonal(dim1=1, dim2=2)
    in_gram = method != "newton_schulz" and columns > 48
    rounding, mixing = (0.0, 1e-3) if dtype is torch.float32 else (0.15, 0.25) if in_gram else (0.03, 0.1)
    assert (values - 1).abs().max() < BAND[method] + rounding
    assert (found - values.diag_embed()).abs().max() < mixing


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("columns", [40, 64])  # on both sides of one and a half
def test_a_tall_matrix_becomes_what_it_would_transposed(method, columns):
    given, _, _ = matrices(3, 32, columns, smallest=0.1)
    tall = given.mT.contiguous()
    torch.testing.assert_close(
        orthogonalize(tall, method).mT, orthogonalize(given, method), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("columns", [16, 64])
def test_the_scale_of_a_gradient_does_not_matter_and_none_gives_none(method, columns):
    given, _, _ = matrices(2, 16, columns, smallest=0.1)
    expected = orthogonalize(given.bfloat16(), method).float()
    smallest = 2.0**-30 if method != "newton_schulz" else 2.0**-16
    for scale in (smallest, 2.0**20):  # powers of two change no bit but the exponent
        found = orthogonalize((given * scale).bfloat16(), method).float()
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
    assert not orthogonalize(torch.zeros(2, 16, columns, dtype=torch.bfloat16), method).any()


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_does_not_depend_on_those_beside_it(method):
    given, _, _ = matrices(3, 16, 64, smallest=0.01)
    given[1] *= 1000
    together = orthogonalize(given, method)
    for i in range(3):
        torch.testing.assert_close(together[i], orthogonalize(given[i : i + 1], method)[0], atol=1e-5, rtol=0)


def nearest_to_one(low, high):
    """The odd quintic with the least greatest distance to 1, by linear programming on a grid."""
    x = np.concatenate([np.geomspace(low, high, 800), np.linspace(low, high, 800)])
    powers, one = np.stack([x, x**3, x**5], axis=1), np.ones((len(x), 1))
    bounds = [(None, None)] * 3 + [(0, None)]
    rows = np.block([[powers, -one], [-powers, -one]])
    solved = linprog([0, 0, 0, 1], A_ub=rows, b_ub=np.concatenate([one, -one]), bounds=bounds)
    return solved.x[:3], solved.x[3]


@pytest.mark.parametrize("method", POLAR_EXPRESS)
def test_each_polynomial_is_the_best_for_what_the_ones_before_it_leave(method):
    low, high = SMALLEST[method], 1.0
    quintics = POLAR_EXPRESS[method]
    for i, quintic in enumerate(quintics):
        best, distance = nearest_to_one(low, high)
        cushion = 1.02 if i + 1 < len(quintics) else 1.0
        assert quintic == pytest.approx(best / cushion ** np.array([1, 3, 5]), rel=2e-3)
        low, high = sum(best * (low / cushion) ** np.array([1, 3, 5])), 1 + distance
    assert distance < BAND[method]


@pytest.mark.parametrize("method", METHODS)
def test_parts_are_updated_as_matrices_of_their_own(method):
    torch.manual_seed(0)
    together, apart = (
        nn.Sequential(QueryKeyValue(8, 24, bias=False)),
        nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3))),
    )
    for i, layer in enumerate(apart):
        layer.weight.data = together[0].weight.data[8 * i : 8 * i + 8].clone()
    config = OptimizerConfig(name="muon", lr=0.1, orthogonalization=method, split_qkv=True)
    both = [build(model, config, device=CPU) for model in (together, apart)]
    for _ in range(2):
        gradient = torch.randn(24, 8) * torch.tensor([1.0, 1.0, 100.0]).repeat_interleave(8)[:, None]
        together[0].weight.grad = gradient
        for layer, part in zip(apart, gradient.chunk(3), strict=True):
            layer.weight.grad = part.clone()
        for optimizers in both:
            optimizers.step()
    torch.testing.assert_close(together[0].weight, torch.cat([layer.weight for layer in apart]))


def test_as_one_matrix_the_largest_part_hides_the_others():
    torch.manual_seed(0)
    gradient = torch.randn(24, 8) * torch.tensor([1.0, 1.0, 100.0]).repeat_interleave(8)[:, None]
    sizes = {}
    for split in (False, True):
        model = nn.Sequential(QueryKeyValue(8, 24, bias=False))
        before = copy.deepcopy(model[0].weight.detach())
        model[0].weight.grad = gradient.clone()
        config = OptimizerConfig(
            name="muon", lr=1.0, weight_decay=0, split_qkv=split, orthogonalization="newton_schulz"
        )
        build(model, config, device=CPU).step()
        parts = (before - model[0].weight.detach()).chunk(3)
        sizes[split] = [float(part.norm()) for part in parts]
    assert max(sizes[True]) < 1.5 * min(sizes[True])
    assert sizes[False][2] > 5 * sizes[False][0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("shape", [{}, {"activation": "swiglu", "output_gate": True}, {"d_ff": 20}])
def test_the_products_of_an_update_are_those_that_torch_counts(method, split, shape):
    config = tiny_config(**shape)
    optimizer = OptimizerConfig(name="muon", orthogonalization=method, split_qkv=split)
    config = config.model_copy(update={"optimizer": optimizer})
    model = GPT(config, seed=0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers = build(model, optimizer, device=CPU)
    with FlopCounterMode(display=False) as counted:
        optimizers.step()
    assert update_flops(config) == counted.get_total_flops()


@pytest.mark.parametrize("sharpness", ["none", "sam", "asam"])
@pytest.mark.parametrize(
    ("optimizer", "training"),
    [
        ({"name": "sgd"}, {}),
        ({"name": "adamw"}, {"micro_batch_size": 1}),
        ({"name": "adam"}, {"r_drop": 1.0}),
        ({"name": "muon"}, {"z_loss": 1e-3, "ema": 0.9}),
        ({"name": "muon", "split_qkv": True}, {"r_drop": 1.0}),
        ({"name": "muon", "orthogonalization": "polar_express_4"}, {"micro_batch_size": 1}),
        ({"name": "muon", "orthogonalization": "polar_express_3"}, {"label_smoothing": 0.1}),
    ],
)
def test_the_operations_of_a_whole_step_are_those_that_torch_counts(tmp_path, optimizer, training, sharpness):
    texts = tuple(f"a title of {word}" for word in ("some", "four", "five", "more", "words"))
    corpus = Corpus(texts * 9, texts, texts, "test", "file", 0)
    config = TrainConfig(
        tokenizer={"vocab_size": 300},
        model={"n_layer": 2, "n_head": 2, "d_model": 16, "block_size": 8, "dropout": 0.1},
        optimizer=optimizer | {"sharpness": {"method": sharpness}},
        training={"tokens": 64, "batch_size": 2, "precision": "fp32"} | training,
        evaluation={"block_size": 8},
    )
    run = TrainingRun(
        config, TokenizedCorpus.prepare(corpus, config.tokenizer, cache=tmp_path), device=Device(CPU, 1)
    )
    with FlopCounterMode(display=False) as counted:
        run.train_steps(1)
    assert flops_per_token(run.config) * run.config.tokens_per_step == counted.get_total_flops()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_other_optimizers_have_no_products(name):
    config = tiny_config().model_copy(update={"optimizer": OptimizerConfig(name=name)})
    model = GPT(config, seed=0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    with FlopCounterMode(display=False) as counted:
        build(model, config.optimizer, device=CPU).step()
    assert update_flops(config) == counted.get_total_flops() == 0
