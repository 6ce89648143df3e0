"""The closed forms, against the modules that torch builds and the products that torch counts."""

import itertools
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config.counts import flops_per_token, module_counts, parameter_count, passes_per_token
from model.config.train_config import TrainConfig
from model.hardware import precision
from model.network.gpt import GPT
from model.network.loss import add_gradient, cross_entropy

VOCAB, BLOCK = 300, 8


def config(*, vocab=VOCAB, sharpness="none", **shape):
    shape = {"n_layer": 2, "n_head": 2, "d_model": 16, "block_size": BLOCK, "dropout": 0.0} | shape
    return TrainConfig(
        tokenizer={"vocab_size": vocab},
        model=shape,
        optimizer={"sharpness": {"method": sharpness}},
        evaluation={"block_size": 8},
    )


OPTIONS = {
    "norm": ("layernorm", "rmsnorm"),
    "norm_position": ("pre", "post"),
    "positions": ("learned", "sinusoidal", "rope", "none"),
    "activation": ("gelu", "swiglu"),
    "bias": (True, False),
    "tied": (True, False),
    "d_ff": (None, 20),
}
GRID = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]


def build(run):
    with torch.device("meta"):
        return GPT(run, seed=0, eos_id=0)


MORE = [
    {"qk_norm": True},
    {"output_gate": True},
    {"output_gate": True, "bias": False},
    {"layer_scale": 0.1},
    {"value_residual": True},
    {"value_residual": True, "n_layer": 1},
    {"activation": "relu2", "logit_softcap": 30.0},
    {"qk_norm": True, "output_gate": True, "layer_scale": 0.1, "value_residual": True, "n_layer": 3},
]


def own_parameters(module):
    return list(module.parameters(recurse=False))


def test_every_parameter_is_in_the_row_of_its_module():
    for shape in (*GRID, *MORE):
        run = config(**shape)
        model = build(run)
        rows = {row.name: row for row in module_counts(run) if row.parameters}
        expected = {}
        for name, module in model.named_modules():
            if own_parameters(module):
                expected.setdefault(re.sub(r"\d+", "*", name), []).append(own_parameters(module))
        assert rows.keys() == expected.keys()
        for name, copies in expected.items():
            assert rows[name].copies == len(copies)
            assert rows[name].parameters == sum(p.numel() for copy in copies for p in copy)
            assert all([tuple(p.shape) for p in copy] == list(rows[name].shapes) for copy in copies)
        assert parameter_count(run) == sum(p.numel() for p in model.parameters()), shape


def test_a_tied_head_has_products_and_no_parameters_of_its_own():
    (head,) = (row for row in module_counts(config()) if row.name == "head")
    assert (head.shapes, head.parameters, head.flops_per_token) == (((VOCAB, 16),), 0, 2 * VOCAB * 16)


SEED_000 = {"norm": "rmsnorm", "positions": "rope", "activation": "silu", "bias": False, "block_size": 512}


@pytest.mark.parametrize(
    ("vocab", "shape", "count"),
    [
        # seed 000, table 1: baseline and small_model
        (49_152, {"n_layer": 12, "n_head": 6, "d_model": 384, "d_ff": 1536, **SEED_000}, 40_117_632),
        (49_152, {"n_layer": 8, "n_head": 4, "d_model": 256, "d_ff": 1024, **SEED_000}, 18_878_720),
        # seed 003: post-norm, sinusoidal positions, an untied head with a bias
        (
            33_283,
            {"n_layer": 12, "n_head": 8, "d_model": 768, "block_size": 1024, "norm_position": "post",
             "positions": "sinusoidal", "activation": "relu", "tied": False},
            136_210_435,
        ),
    ],
)  # fmt: skip
def test_the_published_models_have_their_published_parameters(vocab, shape, count):
    run = config(vocab=vocab, **shape)
    assert parameter_count(run) == count
    assert sum(p.numel() for p in build(run).parameters()) == count


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"n_layer": 3, "d_model": 24, "n_head": 4, "d_ff": 10, "block_size": 12},
        {"activation": "swiglu", "bias": False, "norm": "rmsnorm"},
        {"tied": False, "positions": "rope", "norm_position": "post"},
        {"attention": "document", "positions": "none", "embedding_scale": "sqrt_d_model"},
        *MORE,
    ],
)
def test_flops_are_those_that_torch_counts(shape):
    run = config(**shape)
    model, block = GPT(run, seed=0, eos_id=VOCAB - 1), run.model.block_size
    tokens = torch.randint(VOCAB, (3, block), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(tokens)
    with FlopCounterMode(display=False) as training:
        cross_entropy(model(tokens), tokens).sum().backward()
    rows = module_counts(run)
    assert sum(row.flops_per_token for row in rows) * tokens.numel() == forward.get_total_flops()
    assert flops_per_token(run) * tokens.numel() == training.get_total_flops()


@pytest.mark.parametrize("sharpness", ["none", "sam"])
def test_both_passes_of_r_drop_are_those_that_torch_counts(sharpness):
    run = config(sharpness=sharpness, dropout=0.1)
    run = run.model_copy(update={"training": run.training.model_copy(update={"r_drop": 2.0})})
    model, block = GPT(run, seed=0), run.model.block_size
    tokens = torch.randint(VOCAB, (3, block), generator=torch.Generator().manual_seed(0))
    fp32 = precision.choose("fp32", torch.device("cpu"))
    with FlopCounterMode(display=False) as counted:
        for _ in range(2 if sharpness == "sam" else 1):
            add_gradient(
                model,
                tokens,
                tokens,
                run.training,
                tokens=tokens.numel(),
                precision=fp32,
                scaler=precision.LossScaler(enabled=False),
            )
    assert flops_per_token(run) * tokens.numel() == counted.get_total_flops()


@pytest.mark.parametrize("method", ["sam", "asam"])
def test_the_second_pass_of_sharpness_is_counted(method):
    assert flops_per_token(config(sharpness=method)) == 2 * flops_per_token(config())


@pytest.mark.parametrize(
    ("method", "r_drop", "passes"),
    [("none", 0.0, 1), ("sam", 0.0, 2), ("asam", 0.0, 2), ("none", 1.0, 2), ("sam", 1.0, 4)],
)
def test_a_second_gradient_and_r_drop_each_double_the_passes(method, r_drop, passes):
    run = TrainConfig(
        model={"dropout": 0.1, "n_layer": 1, "d_model": 16, "n_head": 1, "block_size": BLOCK},
        tokenizer={"vocab_size": VOCAB},
        optimizer={"sharpness": {"method": method}},
        training={"tokens": 1000, "r_drop": r_drop},
        evaluation={"block_size": BLOCK},
    )
    assert passes_per_token(run) == passes


def test_large_models_cost_six_operations_for_each_parameter_of_a_matrix():
    # Kaplan et al. 2020: 6 N without attention over the window and without embeddings
    run = config(vocab=50_257, n_layer=12, n_head=12, d_model=768, block_size=1024)
    matrices = 12 * 12 * 768**2 + 50_257 * 768
    assert flops_per_token(run) == 6 * matrices + 12 * 12 * 1024 * 768
