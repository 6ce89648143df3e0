import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy
from torch import nn

from model.config.train_config import TrainConfig
from model.measurement import measurements
from model.measurement.measurements import attention_entropy
from model.network.attention import document_mask, rotary_table, rotate
from model.network.gpt import GPT
from model.network.loss import cross_entropy
from model.optimization import optimizer

CPU = torch.device("cpu")
VOCAB, BLOCK = 300, 8
LR, EPS, BETAS = 2e-2, 1e-3, (0.8, 0.9)


def config(*, optimizer="adamw", **model):
    rest = {} if optimizer == "sgd" else {"betas": BETAS, "eps": EPS}
    return TrainConfig.model_validate_json(
        json.dumps(
            {
                "tokenizer": {"vocab_size": VOCAB},
                "model": {"n_layer": 3, "n_head": 2, "d_model": 16, "block_size": BLOCK, **model},
                "optimizer": {"name": optimizer, "lr": LR, "auxiliary_lr": LR, "weight_decay": 0.0, **rest},
                "evaluation": {"block_size": BLOCK},
            }
        )
    )


def tokens(seed=0, windows=6, eos=None):
    drawn = torch.randint(1, VOCAB, (windows, BLOCK), generator=torch.Generator().manual_seed(seed))
    if eos is not None:
        drawn[:, 3] = eos
    return drawn


def trained(steps=3, **settings):
    """A model, its optimizers, its gradients at the last step, and its weights before it."""
    run = config(**settings)
    model = GPT(run, seed=1, eos_id=0)
    optimizers = optimizer.build(model, run.optimizer, device=CPU)
    history, before = [], []
    for step in range(steps):
        optimizers.zero_grad()
        inputs = tokens(step)
        cross_entropy(model(inputs), inputs.roll(-1, 1)).mean().backward()
        history.append({name: p.grad.clone() for name, p in model.named_parameters()})
        before = [p.detach().clone() for p in model.parameters()]
        optimizers.step()
    return model, optimizers, history, before


def test_the_squared_gradient_norms_of_the_layers_add_up_to_the_global_one():
    model, *_ = trained()
    values = measurements.gradient_norms(model)
    layers = {name: float(v) for name, v in values.items() if name.startswith("grad_norm/")}
    assert sorted(layers) == [
        f"grad_norm/{layer}"
        for layer in (
            "blocks.0",
            "blocks.1",
            "blocks.2",
            "final_norm",
            "position_embedding",
            "token_embedding",
        )
    ]
    whole = nn.utils.clip_grad_norm_(model.parameters(), math.inf)
    assert sum(v**2 for v in layers.values()) == pytest.approx(float(whole) ** 2, rel=1e-5)
    by_hand = sum(float((p.grad.double() ** 2).sum()) for p in model.blocks[1].parameters())
    assert layers["grad_norm/blocks.1"] == pytest.approx(math.sqrt(by_hand), rel=1e-5)


def test_norm_gains_and_biases_are_those_of_the_first_middle_and_last_block():
    model, *_ = trained()
    values = measurements.gradient_norms(model)
    for place, index in {"first": 0, "middle": 1, "last": 2}.items():
        norms = (model.blocks[index].attention_norm, model.blocks[index].mlp_norm)
        for kind, attribute in {"gain": "weight", "bias": "bias"}.items():
            squares = sum(float((getattr(norm, attribute).grad ** 2).sum()) for norm in norms)
            got = float(values[f"norm_{kind}_grad_norm/{place}"])
            assert got == pytest.approx(math.sqrt(squares), rel=1e-5)


@pytest.mark.parametrize("settings", [{"norm": "rmsnorm"}, {"bias": False}])
def test_norms_without_a_bias_have_no_figure_for_one(settings):
    model, *_ = trained(**settings)
    names = set(measurements.gradient_norms(model))
    assert "norm_gain_grad_norm/last" in names
    assert not any(name.startswith("norm_bias") for name in names)


def test_the_update_norm_is_that_of_the_weights_before_and_after():
    model, _, _, before = trained()
    values = measurements.update_norms(model, before)
    after = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    start = np.concatenate([p.numpy().ravel() for p in before])
    assert float(values["update_norm"]) == pytest.approx(np.linalg.norm(after - start), rel=1e-4)
    ratio = np.linalg.norm(after - start) / np.linalg.norm(start)
    assert float(values["update_to_parameter_ratio"]) == pytest.approx(ratio, rel=1e-4)
    assert float(measurements.weight_norm(model)["parameter_norm"]) == pytest.approx(np.linalg.norm(after))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_s_effective_step_and_signal_follow_from_the_gradients(name):
    model, optimizers, history, before = trained(optimizer=name)
    values = measurements.adam_steps(model, optimizers)
    steps, moved, rates = len(history), {}, {}
    for (parameter_name, parameter), start in zip(model.named_parameters(), before, strict=True):
        m = v = np.zeros(parameter.shape)
        for gradient in (h[parameter_name].double().numpy() for h in history):
            m = BETAS[0] * m + (1 - BETAS[0]) * gradient
            v = BETAS[1] * v + (1 - BETAS[1]) * gradient**2
        rate = LR / (np.sqrt(v / (1 - BETAS[1] ** steps)) + EPS)
        layer = ".".join(parameter_name.split(".")[: 2 if parameter_name.startswith("blocks") else 1])
        rates.setdefault(layer, []).append(rate.ravel())
        change = (parameter.detach() - start).numpy()
        moved.setdefault(layer, []).append(np.abs(change).ravel() / LR)
        # what the update really was
        np.testing.assert_allclose(change, -rate * m / (1 - BETAS[0] ** steps), rtol=1e-3, atol=1e-6)
    for layer, parts in rates.items():
        expected = np.quantile(np.concatenate(parts), [0.05, 0.5, 0.95])
        got = [float(values[f"effective_step/{layer}/{p}"]) for p in ("p05", "p50", "p95")]
        assert got == pytest.approx(expected.tolist(), rel=1e-4)
        signal = float(values[f"signal_to_noise/{layer}"])
        assert signal == pytest.approx(np.concatenate(moved[layer]).mean(), rel=1e-3)
    assert len(values) == 4 * len(rates)


def test_quantiles_agree_with_torch_s_and_keep_a_nan():
    values = torch.rand(1001, generator=torch.Generator().manual_seed(0))
    expected = torch.quantile(values, torch.tensor([0.05, 0.5, 0.95, 1.0]))
    got = torch.stack(measurements._quantiles(values, (0.05, 0.5, 0.95, 1.0)))
    torch.testing.assert_close(got, expected)
    values[3] = math.nan
    assert torch.stack(measurements._quantiles(values, (0.05, 0.5))).isnan().all()


def test_only_what_adam_updates_has_an_effective_step():
    model, optimizers, *_ = trained(optimizer="muon")
    values = measurements.adam_steps(model, optimizers)
    biases_and_norms = sum(p.numel() for p in model.blocks[0].parameters() if p.ndim == 1)
    states = [p for p, *_ in optimizers.adam_states()]
    assert sum(p.numel() for p in states if p.ndim == 1) == 3 * biases_and_norms + 2 * 16
    assert "effective_step/blocks.0/p50" in values
    assert measurements.adam_steps(*trained(optimizer="sgd")[:2]) == {}


def test_activation_rms_is_that_of_the_residual_stream_behind_the_block():
    model, *_ = trained(dropout=0.0)
    x = model.token_embedding(tokens()) + model.position_embedding.weight
    expected = {}
    for index, block in enumerate(model.blocks):
        x = block(x)
        expected[index] = float(x.detach().double().pow(2).mean().sqrt())
    values = measurements.stream_and_attention(model, tokens(), seed=0)
    for place, index in {"first": 0, "middle": 1, "last": 2}.items():
        assert float(values[f"activation_rms/{place}"]) == pytest.approx(expected[index], rel=1e-5)


def test_in_a_post_norm_model_activation_rms_is_that_of_the_sum_before_the_norm():
    model, *_ = trained(norm_position="post", dropout=0.0)
    x = model.token_embedding(tokens()) + model.position_embedding.weight
    block = model.blocks[0]
    nn.init.constant_(block.mlp_norm.weight, 3.0)
    x = block.attention_norm(x + block.attention(x))
    expected = float((x + block.mlp(x)).detach().pow(2).mean().sqrt())
    got = float(measurements.stream_and_attention(model, tokens(), seed=0)["activation_rms/first"])
    assert got == pytest.approx(expected, rel=1e-5)
    behind = float(block.mlp_norm(x + block.mlp(x)).detach().pow(2).mean().sqrt())
    assert abs(behind - expected) > 1  # so that the two cannot be taken for each other


def test_attention_that_asks_nothing_is_uniform():
    model, *_ = trained()
    for block in model.blocks:
        nn.init.zeros_(block.attention.query_key_value.weight[:16])
        nn.init.zeros_(block.attention.query_key_value.bias[:16])
    values = measurements.stream_and_attention(model, tokens(), seed=0)
    for place in ("first", "middle", "last"):
        assert float(values[f"attention_entropy/{place}"]) == pytest.approx(1, abs=1e-6)


def test_attention_entropy_by_hand():
    # one query that sees two keys, with weights 1/4 and 3/4; the query before it sees only itself
    q, k = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1), torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert float(attention_entropy(q, k, None, torch.tensor([0, 1]))) == pytest.approx(expected)
    assert math.isnan(float(attention_entropy(q, k, None, torch.tensor([0]))))
    assert float(attention_entropy(q, 1e4 * k, None, torch.tensor([1]))) == 0
    assert math.isnan(float(attention_entropy(q * math.nan, k, None, torch.tensor([1]))))


@pytest.mark.parametrize("positions", ["learned", "rope", "none"])
@pytest.mark.parametrize("attention", ["stream", "document"])
def test_attention_entropy_is_that_of_the_weights_which_the_fused_attention_uses(positions, attention):
    model, *_ = trained(positions=positions, attention=attention, init_std=0.5, dropout=0.0)
    inputs = tokens(eos=0)
    seen = []
    hook = model.blocks[1].attention.register_forward_pre_hook(lambda module, args: seen.append(args))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    (x, mask, rotation, _), *_ = seen
    layer = model.blocks[1].attention
    q, k, _ = (
        part.unflatten(-1, (2, 8)).transpose(1, 2) for part in layer.query_key_value(x).detach().chunk(3, -1)
    )
    if positions == "rope":
        table = rotary_table(BLOCK, width=8, base=10_000.0)
        assert torch.equal(rotation, table)
        q, k = rotate(q, table), rotate(k, table)
    if attention == "document":
        assert torch.equal(mask, document_mask(inputs, eos_id=0))
    # with the unit matrix for values, attention gives its weights
    unit = torch.eye(BLOCK).expand(len(inputs), 2, BLOCK, BLOCK)
    weights = F.scaled_dot_product_attention(q, k, unit, attn_mask=mask, is_causal=mask is None)
    shares = [
        entropy(weights[b, h, t].double()) / math.log(visible)
        for b in range(len(inputs))
        for h in range(2)
        for t in range(BLOCK)
        # an <eos> at 3 opens a title there
        if (visible := t + 1 if attention == "stream" or t < 3 else t - 2) > 1
    ]
    got = float(measurements.stream_and_attention(model, inputs, seed=0)["attention_entropy/middle"])
    assert got == pytest.approx(np.mean(shares), rel=1e-4)
    assert got < 0.98  # far enough from uniform for a wrong mask or rotation to show


def test_sampled_heads_and_queries_are_a_fixed_choice_of_the_seed(monkeypatch):
    model, *_ = trained(init_std=0.5)
    monkeypatch.setattr(measurements, "HEADS", 1)
    monkeypatch.setattr(measurements, "QUERIES", 2)
    values = [
        float(measurements.stream_and_attention(model, tokens(), seed=seed)["attention_entropy/last"])
        for seed in (0, 0, 1, 2, 3)
    ]
    assert values[0] == values[1]
    assert len(set(values)) > 2


def test_measuring_changes_neither_weights_gradients_modes_nor_random_state():
    model, optimizers, history, before = trained(dropout=0.5)
    model.train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in optimizers.flat_state().items()}
    generator = torch.get_rng_state()
    with torch.no_grad():
        measurements.gradient_norms(model)
        measurements.weight_norm(model)
        measurements.update_norms(model, before)
        measurements.adam_steps(model, optimizers)
        first = measurements.stream_and_attention(model, tokens(), seed=0)
        second = measurements.stream_and_attention(model, tokens(), seed=0)
    assert first == second  # no dropout
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, state[name]) for name, tensor in optimizers.flat_state().items())
    assert all(torch.equal(p.grad, history[-1][name]) for name, p in model.named_parameters())
