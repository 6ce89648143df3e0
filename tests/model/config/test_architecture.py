"""Every option of section `model`, against a formula or a behaviour that only that option has."""

import itertools
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.checkpoint import Checkpoint
from model.config.architecture import ModelConfig
from model.config.data import TokenizerConfig
from model.config.train_config import TrainConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.hardware.device import Device
from model.network.gpt import GPT, MLP, Block
from model.training import TrainingRun
from tests.tiny_gpt import BLOCK, EOS, VOCAB, stream, tiny_config, tiny_gpt, torchs_encoder_layer

pytestmark = pytest.mark.usefixtures("one_thread")


def part(kind, **shape):
    """A module of one block in fp64 with weights, gains and biases away from their initial values."""
    torch.manual_seed(0)
    module = kind(ModelConfig(**({"n_head": 3, "d_model": 12, "dropout": 0.0} | shape))).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return module


def test_the_defaults_are_the_seed_documents_baseline():
    model = GPT(tiny_config(), seed=0)
    in_block = {
        f"{name}.{kind}"
        for name in ("attention_norm", "attention.query_key_value", "attention.projection", "mlp_norm",
                     "mlp.up", "mlp.down")
        for kind in ("weight", "bias")
    }  # fmt: skip
    assert {key.partition("blocks.1.")[2] for key in model.state_dict() if "blocks.1." in key} == in_block
    assert {key for key in model.state_dict() if "blocks" not in key} == {
        "token_embedding.weight",
        "position_embedding.weight",
        "final_norm.weight",
        "final_norm.bias",
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norms_are_their_closed_forms(norm, bias):
    normed = part(Block, norm=norm, bias=bias).mlp_norm
    x_TD = torch.randn(7, 12, dtype=torch.float64) * 3 + 2
    if norm == "layernorm":
        centred = x_TD - x_TD.mean(-1, keepdim=True)
        expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * normed.weight
        if bias:
            expected = expected + normed.bias
    else:
        expected = x_TD / x_TD.square().mean(-1, keepdim=True).sqrt() * normed.weight
    # fp64 rounding; RMSNorm's epsilon is that of the format, 2e-16
    torch.testing.assert_close(normed(x_TD), expected, rtol=1e-12, atol=1e-12)
    assert (getattr(normed, "bias", None) is not None) == (bias and norm == "layernorm")


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_all_norms_of_a_model_are_of_one_kind(norm):
    kinds = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}
    counts = {
        name: sum(isinstance(module, kind) for module in tiny_gpt(norm=norm).modules())
        for name, kind in kinds.items()
    }
    assert counts == dict.fromkeys(kinds, 0) | {norm: 5}


def test_post_norm_equals_torchs_encoder_layer():
    block = part(Block, norm_position="post", activation="relu", d_ff=20)
    theirs = torchs_encoder_layer(block, 3, d_ff=20, activation="relu", norm_first=False)
    x_BTD = torch.randn(2, 7, 12, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    torch.testing.assert_close(block(x_BTD), theirs(x_BTD, src_mask=mask, is_causal=True), rtol=0, atol=1e-12)


def test_a_post_norm_model_has_no_norm_before_the_head():
    model, tokens = tiny_gpt(norm_position="post", positions="none"), stream(2, BLOCK)
    x_BTD = model.token_embedding(tokens)
    for block in model.blocks:
        x_BTD = block.attention_norm(x_BTD + block.attention(x_BTD))
        x_BTD = block.mlp_norm(x_BTD + block.mlp(x_BTD))
    torch.testing.assert_close(model.hidden(tokens), x_BTD, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu", "relu2", "silu", "swiglu"])
def test_the_mlp_is_its_formula(activation, bias):
    mlp = part(MLP, activation=activation, d_ff=5, bias=bias)
    x_TD = torch.randn(7, 12, dtype=torch.float64)

    def affine(layer, x):
        return x @ layer.weight.T + (layer.bias if bias else 0)

    up = affine(mlp.up, x_TD)
    if activation == "swiglu":
        gate = affine(mlp.gate, x_TD)
        hidden = gate / (1 + torch.exp(-gate)) * up
    else:
        hidden = {
            "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
            "relu": lambda x: x * (x > 0),
            "relu2": lambda x: x * x * (x > 0),
            "silu": lambda x: x / (1 + torch.exp(-x)),
        }[activation](up)
    torch.testing.assert_close(mlp(x_TD), affine(mlp.down, hidden), rtol=0, atol=1e-12)
    assert mlp.up.weight.shape == (5, 12)
    assert (mlp.up.bias is not None) == bias


def test_the_mlp_is_four_times_as_wide_as_the_model_where_nothing_else_is_said():
    assert part(MLP).up.weight.shape == (48, 12)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_without_biases_every_vector_is_a_gain(norm):
    model = GPT(tiny_config(bias=False, norm=norm, tied=False, activation="swiglu"), seed=0)
    vectors = [name for name, p in model.named_parameters() if p.ndim == 1]
    assert len(vectors) == 5
    assert all(name.endswith("norm.weight") for name in vectors)


@pytest.mark.parametrize("position", ["pre", "post"])
def test_layer_scale_multiplies_each_branch_before_it_is_added(position):
    block = part(Block, layer_scale=0.1, norm_position=position)
    x_BTD = torch.randn(2, 7, 12, dtype=torch.float64)
    attention, mlp = block.attention_scale.factors, block.mlp_scale.factors
    if position == "pre":
        middle = x_BTD + attention * block.attention(block.attention_norm(x_BTD))
        expected = middle + mlp * block.mlp(block.mlp_norm(middle))
    else:
        middle = block.attention_norm(x_BTD + attention * block.attention(x_BTD))
        expected = block.mlp_norm(middle + mlp * block.mlp(middle))
    torch.testing.assert_close(block(x_BTD), expected, rtol=0, atol=1e-12)


def test_layer_scale_begins_at_its_value_and_leaves_the_other_initial_weights_alone():
    plain, scaled = (GPT(tiny_config(layer_scale=value), seed=0) for value in (None, 0.1))
    vectors = {name: p for name, p in scaled.named_parameters() if "_scale" in name}
    assert len(vectors) == 4
    assert all((p == 0.1).all() and p.shape == (16,) for p in vectors.values())
    assert all(torch.equal(p, scaled.state_dict()[name]) for name, p in plain.state_dict().items())


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_capped_in_training_in_evaluation_and_where_tokens_are_drawn(tied):
    plain, capped = (tiny_gpt(tied=tied, logit_softcap=cap) for cap in (None, 3.0))
    tokens = stream(2, BLOCK)
    expected = 3 * torch.tanh(plain(tokens) / 3)
    torch.testing.assert_close(capped(tokens), expected, rtol=0, atol=1e-12)
    assert plain(tokens).abs().max() > 3
    torch.testing.assert_close(capped.train()(tokens), expected, rtol=0, atol=1e-12)
    prompt = tokens[0].tolist()
    hot = {"end": 50, "max_tokens": 30, "temperature": 1.0, "seeds": [0]}
    drawn = [model.generate(prompt, **hot) for model in (plain, capped)]
    flattened = tiny_gpt(tied=tied, logit_softcap=1e-9)  # all tokens are equally likely then
    assert drawn[0] != drawn[1]
    assert len(set(flattened.generate(prompt, **hot)[0])) > 10


def test_embeddings_are_scaled_before_positions_are_added():
    plain, scaled = tiny_gpt(), tiny_gpt(embedding_scale="sqrt_d_model")
    tokens = stream(2, BLOCK)
    with torch.no_grad():
        plain.token_embedding.weight.mul_(4)  # sqrt(16)
    torch.testing.assert_close(plain.hidden(tokens), scaled.hidden(tokens), rtol=0, atol=1e-12)
    unscaled = scaled.token_embedding.weight  # the tied head is left as it is
    assert torch.equal(scaled(tokens), F.linear(scaled.hidden(tokens), unscaled))


@pytest.mark.parametrize("bias", [True, False])
def test_an_untied_head_has_parameters_of_its_own(bias):
    model, tokens = tiny_gpt(tied=False, bias=bias), stream(2, BLOCK)
    hidden = model.hidden(tokens)
    expected = hidden @ model.head.weight.T + (model.head.bias if bias else 0)
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-12)
    assert model.head.weight.shape == model.token_embedding.weight.shape
    assert not torch.equal(model.head.weight, model.token_embedding.weight)
    with torch.no_grad():
        model.token_embedding.weight.zero_()
    assert model(tokens).any()


def test_generate_draws_from_an_untied_head():
    model = GPT(tiny_config(tied=False), seed=0)
    with torch.no_grad():
        model.head.bias[7] = 100.0
    (drawn,) = model.generate([1], end=20, max_tokens=5, temperature=1.0, seeds=[0])
    assert drawn == [7] * 5


def within_sampling_error(weight, std):
    """Five standard errors of a sample standard deviation, std / sqrt(2 n) for a normal one."""
    return weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))


INIT_SHAPE = {"n_layer": 3, "d_model": 64, "tied": False, "activation": "swiglu"}


@pytest.mark.parametrize("init", ["normal", "scaled", "he"])
def test_initial_matrices_have_the_standard_deviation_of_their_scheme(init):
    model = GPT(tiny_config(**INIT_SHAPE, init=init, init_std=0.05), seed=0)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        adds = name.endswith(("attention.projection", "mlp.down"))
        std = {
            "normal": 0.05,
            "scaled": 0.05 / math.sqrt(2 * 3) if adds else 0.05,
            "he": math.sqrt(2 / module.in_features),
        }[init]
        assert within_sampling_error(module.weight, std), name
        kurtosis = (module.weight / std).pow(4).mean().item()
        assert kurtosis == pytest.approx(3, abs=0.5)  # of a uniform distribution it is 1.8


def test_xavier_is_uniform_within_its_limits_for_query_key_and_value_alone():
    model = GPT(tiny_config(**INIT_SHAPE, init="xavier"), seed=0)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        fused = name.endswith("query_key_value")
        for weight in module.weight.chunk(3) if fused else [module.weight]:
            limit = math.sqrt(6 / sum(weight.shape))
            # of 4096 draws at least: the largest is smaller with a chance of 0.99^4096
            assert 0.99 * limit < weight.abs().max().item() <= limit, name
            assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("init", ["normal", "scaled", "he", "xavier"])
def test_under_every_scheme_embeddings_have_their_own_deviation_and_vectors_none(init):
    model = GPT(tiny_config(**INIT_SHAPE, init=init, init_std=0.036), seed=0)
    assert within_sampling_error(model.token_embedding.weight, 0.036)
    assert not model.position_embedding.weight.any()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == (0 if name.endswith("bias") else 1)).all()


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({"dropout": 0.25}, (0.25, 0.25, 0.25)),
        # seed 003: behind the attention projection and the MLP alone
        ({"dropout": 0.25, "embedding_dropout": 0.0, "attention_dropout": 0.0}, (0.0, 0.0, 0.25)),
        ({"dropout": 0.0, "embedding_dropout": 0.5}, (0.5, 0.0, 0.0)),
        ({"dropout": 0.0, "attention_dropout": 0.5}, (0.0, 0.5, 0.0)),
    ],
)
def test_each_dropout_has_its_rate(rates, expected, monkeypatch):
    calls = []

    def recording_dropout(x, p, *, training):
        calls.append((tuple(x.shape), p, training))
        return x

    for module in ("model.network.gpt", "model.network.attention"):
        monkeypatch.setattr(f"{module}.dropout", recording_dropout)
    model = GPT(tiny_config(n_layer=1, **rates), seed=0).train()
    model(stream(2, BLOCK))
    embeddings, attention, outputs = expected
    width, heads = model.shape.d_model, model.shape.n_head
    assert calls == [
        ((2, BLOCK, width), embeddings, True),
        ((2 * heads, BLOCK, BLOCK), attention, True),
        ((2, BLOCK, width), outputs, True),
        ((2, BLOCK, width), outputs, True),
    ]


def test_gradients_flow_through_every_parameter_of_every_kind_of_model():
    for norm, position, positions, activation, attention, tied in itertools.product(
        ("layernorm", "rmsnorm"),
        ("pre", "post"),
        ("learned", "sinusoidal", "rope", "none"),
        ("gelu", "swiglu"),
        ("stream", "document"),
        (True, False),
    ):
        config = tiny_config(
            n_layer=1, norm=norm, norm_position=position, positions=positions,
            activation=activation, attention=attention, tied=tied,
        )  # fmt: skip
        model, tokens = GPT(config, seed=0, eos_id=EOS), stream(2, BLOCK)
        tokens[:, 5] = EOS
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), config.model


def test_gradients_reach_the_parameters_of_every_option():
    model, tokens = tiny_gpt(**SEEDS["all"]), stream(2, BLOCK)
    model(tokens).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    titles = tuple(f"show me the small thing that counts to {i}" for i in range(80))
    corpus = Corpus(titles[:60], titles[60:75], titles[75:], "toy", "file", 0)
    return TokenizedCorpus.prepare(
        corpus, TokenizerConfig(vocab_size=VOCAB), cache=tmp_path_factory.mktemp("cache")
    )


SEEDS = {
    "000": {"norm": "rmsnorm", "positions": "rope", "activation": "silu", "bias": False, "dropout": 0.0,
            "embedding_scale": "sqrt_d_model"},
    "002": {"norm": "rmsnorm", "positions": "rope", "init": "he"},
    "003": {"norm_position": "post", "positions": "sinusoidal", "activation": "relu", "init": "xavier",
            "init_std": 0.25, "tied": False, "embedding_dropout": 0.0, "attention_dropout": 0.0},
    "titles": {"positions": "rope", "attention": "document", "init": "scaled", "activation": "swiglu"},
    "strongest": {"positions": "rope", "attention": "document", "norm": "rmsnorm", "bias": False,
                  "output_gate": True, "layer_scale": 0.1},
    "all": {"positions": "rope", "activation": "relu2", "qk_norm": True, "output_gate": True,
            "value_residual": True, "layer_scale": 0.5, "logit_softcap": 10.0},
}  # fmt: skip


def short_run(data, *, precision="fp32", **shape):
    config = tiny_config(**shape).model_dump(mode="json")
    config["optimizer"] |= {"name": "adam", "lr": 0.01}
    config["training"] |= {"epochs": None, "tokens": 30 * 8 * BLOCK, "batch_size": 8, "rungs": 2}
    config["training"]["precision"] = precision
    config["schedule"]["warmup_fraction"] = 0.3
    config = TrainConfig.model_validate_json(json.dumps(config))
    return TrainingRun(config, data, device=Device(torch.device("cpu"), 1))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SEEDS.values(), ids=SEEDS)
def test_a_run_of_every_seeds_model_learns_and_its_checkpoint_gives_the_same_logits(
    shape, precision, data, tmp_path
):
    run = short_run(data, precision=precision, **({"dropout": 0.1} | shape))
    first, last = run
    assert last.nats_per_token < first.nats_per_token < math.log(VOCAB)
    run.checkpoint().write(tmp_path)
    model = Checkpoint.read(tmp_path).model()
    tokens = stream(2, BLOCK)
    tokens[:, 5] = data.tokenizer.eos_id
    with torch.no_grad():
        assert torch.equal(model(tokens), run.model.eval()(tokens))
