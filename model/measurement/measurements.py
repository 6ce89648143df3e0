"""What can be measured of a model and its optimizers at one step. Pure functions: they change no weight, no
gradient, no random state, and read nothing back from the device.

Every result is a 0-dimensional tensor, by name. A name ends in `/<layer>`, which is `blocks.N` or the name of
another module of the model (`token_embedding`, `final_norm`, ...), or in `/first`, `/middle`, `/last`: blocks 0,
n_layer // 2 and n_layer - 1, which may coincide. Everything is computed in fp32, and a NaN stays one.

Shape suffixes: B sequences, T positions, D d_model, H heads, K d_model / heads, S sampled heads,
Q sampled query positions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from model.hardware import foreach
from model.network.attention import Attention
from model.network.gpt import GPT, Block
from model.optimization.optimizer import Optimizers

SEQUENCES = 4
"""Of a batch, its first, that the forward pass of a measured step sees."""
HEADS, QUERIES = 4, 64
"""Sampled for the attention entropy, without replacement; all where there are fewer."""

Values = dict[str, Tensor]


def layer_of(parameter_name: str) -> str:
    """The layer that a parameter of this qualified name belongs to."""
    module, _, rest = parameter_name.partition(".")
    return f"{module}.{rest.partition('.')[0]}" if module == "blocks" else module


def _places(model: GPT) -> dict[str, Block]:
    blocks = [module for module in model.blocks if isinstance(module, Block)]
    return {"first": blocks[0], "middle": blocks[len(blocks) // 2], "last": blocks[-1]}


def weight_norm(model: GPT) -> Values:
    """parameter_norm: sqrt(Σ w²) over all parameters."""
    return {"parameter_norm": get_total_norm([p.detach() for p in model.parameters()])}


def gradient_norms(model: GPT) -> Values:
    """L2 norms of the gradients as they are: unscaled, and clipped or not by now.

    grad_norm/<layer>: sqrt(Σ g²) over a layer's parameters; their squares add up to that of the global norm.
    norm_gain_grad_norm/<place>, norm_bias_grad_norm/<place>: of the gains (biases) of all norms in that block
        together; there is no bias where there are none.
    """
    layers: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        layers.setdefault(layer_of(name), []).append(parameter)
    groups: dict[str, list[Tensor]] = {f"grad_norm/{layer}": tensors for layer, tensors in layers.items()}
    for place, block in _places(model).items():
        norms = [module for module in block.modules() if isinstance(module, nn.LayerNorm | nn.RMSNorm)]
        groups[f"norm_gain_grad_norm/{place}"] = [norm.weight for norm in norms]
        biases: list[Tensor] = [
            norm.bias for norm in norms if isinstance(norm, nn.LayerNorm) and norm.bias is not None
        ]
        if biases:
            groups[f"norm_bias_grad_norm/{place}"] = biases
    return {
        name: get_total_norm([p.grad for p in parameters if p.grad is not None])
        for name, parameters in groups.items()
    }


def update_norms(model: GPT, before: Sequence[Tensor]) -> Values:
    """update_norm: sqrt(Σ (w - w_before)²) over all parameters, weight decay included.

    update_to_parameter_ratio: that ÷ the norm of `before`.
    """
    update = get_total_norm(foreach.sub([p.detach() for p in model.parameters()], list(before)))
    return {"update_norm": update, "update_to_parameter_ratio": update / get_total_norm(before)}


def adam_steps(model: GPT, optimizers: Optimizers) -> Values:
    """Of each layer's elements that Adam or AdamW updates, as they entered the last update.

    effective_step/<layer>/p05, p50, p95: quantiles of lr / (sqrt(v̂) + eps), the factor on m̂ (Kingma & Ba 2015,
        algorithm 1, with v̂ = v / (1 - β₂ᵗ)); linear between the two nearest elements.
    signal_to_noise/<layer>: mean of |m̂| / (sqrt(v̂) + eps), with m̂ = m / (1 - β₁ᵗ); about 1 where the gradients
        agree in sign, near 0 where they cancel.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    layers: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for parameter, state, group in optimizers.adam_states():
        beta1, beta2 = group["betas"]
        denominator = (state["exp_avg_sq"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        signal = (state["exp_avg"] / (1 - beta1 ** state["step"])).abs_().div_(denominator)
        pair = ((group["lr"] / denominator).flatten(), signal.flatten())
        layers.setdefault(layer_of(names[parameter]), []).append(pair)
    values: Values = {}
    for layer, pairs in layers.items():
        steps, signals = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        for share, quantile in zip((5, 50, 95), _quantiles(steps, (0.05, 0.5, 0.95)), strict=True):
            values[f"effective_step/{layer}/p{share:02}"] = quantile
        values[f"signal_to_noise/{layer}"] = signals.mean()
    return values


def _quantiles(values: Tensor, shares: Sequence[float]) -> list[Tensor]:
    """As `torch.quantile`, which takes 16 million elements at most and 30 times as long on a CPU."""
    on_cpu = values.device.type == "cpu"
    ordered = torch.from_numpy(np.sort(values.numpy())) if on_cpu else values.sort().values
    quantiles = []
    for share in shares:
        below, part = divmod(share * (len(ordered) - 1), 1)
        low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
        quantiles.append(torch.where(ordered[-1].isnan(), ordered[-1], torch.lerp(low, high, part)))
    return quantiles


@torch.no_grad()
def stream_and_attention(model: GPT, tokens_BT: Tensor, *, seed: int) -> Values:
    """Of one forward pass in evaluation mode and fp32, with the weights as they are.

    activation_rms/<place>: sqrt(mean x²) of the residual stream after that block. In a post-norm model the sum
        before the block's last norm is taken: behind it, the norm's own gains would be measured.
    attention_entropy/<place>: mean over sequences, sampled heads and sampled query positions of
        -Σ_j p_j ln p_j ÷ ln n, for the weights p on the n positions that the query sees: 1 is uniform, 0 all on
        one. Queries that see only themselves are left out. From queries and keys, so that the model may keep
        its fused attention; heads and queries are a fixed sample, drawn from `seed`.
    """
    values: Values = {}
    generator = np.random.Generator(np.random.PCG64(seed))
    heads_S = _sample(generator, model.shape.n_head, HEADS)
    queries_Q = _sample(generator, tokens_BT.shape[1] - 1, QUERIES) + 1
    with ExitStack() as hooks, _evaluation_mode(model):
        for place, block in _places(model).items():
            hook = _keep_rms(values, f"activation_rms/{place}", of_input=not block.pre_norm)
            module = block if block.pre_norm else block.mlp_norm
            hooks.callback(module.register_forward_hook(hook).remove)
            pre_hook = _keep_entropy(values, f"attention_entropy/{place}", heads_S, queries_Q)
            hooks.callback(block.attention.register_forward_pre_hook(pre_hook).remove)
        model.hidden(tokens_BT)
    return values


def _keep_rms(values: Values, name: str, *, of_input: bool) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output_BTD: Tensor) -> None:
        x_BTD = inputs[0] if of_input else output_BTD
        values[name] = x_BTD.float().square().mean().sqrt()

    return hook


def _keep_entropy(values: Values, name: str, heads_S: Tensor, queries_Q: Tensor) -> Callable[..., None]:
    def hook(attention: Attention, inputs: tuple[Any, ...]) -> None:
        x_BTD, mask_B1TT, rotation_2TK, _ = inputs
        q_BHTK, k_BHTK, _ = attention.heads(x_BTD, rotation_2TK)
        values[name] = attention_entropy(q_BHTK[:, heads_S], k_BHTK[:, heads_S], mask_B1TT, queries_Q)

    return hook


def attention_entropy(q_BHTK: Tensor, k_BHTK: Tensor, mask_B1TT: Tensor | None, queries_Q: Tensor) -> Tensor:
    """Mean normalised entropy of the attention weights of some queries (see `stream_and_attention`).

    Args:
        q_BHTK: queries, after any rotation.
        k_BHTK: keys likewise.
        mask_B1TT: true where a position (third axis) sees another; None is all up to itself.
        queries_Q: positions of the queries to look at.

    Returns:
        From 0 to 1; NaN where every one of them sees only itself.
    """
    T, K = k_BHTK.shape[-2:]
    if mask_B1TT is None:
        mask_B1TT = torch.ones(T, T, dtype=torch.bool, device=q_BHTK.device).tril()[None, None]
    hidden_B1QT = ~mask_B1TT[:, :, queries_Q]
    scores_BHQT = q_BHTK[:, :, queries_Q].float() @ k_BHTK.float().transpose(-1, -2) / math.sqrt(K)
    log_p_BHQT = scores_BHQT.masked_fill(hidden_B1QT, -math.inf).log_softmax(dim=-1)
    # hidden positions have p = 0 and ln p = -inf, whose product would be NaN
    nats_BHQ = -(log_p_BHQT.exp() * log_p_BHQT.masked_fill(hidden_B1QT, 0.0)).sum(dim=-1)
    visible_B1Q = (~hidden_B1QT).sum(dim=-1)
    several_BHQ = (visible_B1Q > 1).expand_as(nats_BHQ)
    shares_BHQ = torch.where(several_BHQ, nats_BHQ / visible_B1Q.log(), 0.0)
    return shares_BHQ.sum() / several_BHQ.sum()


def _sample(generator: np.random.Generator, available: int, wanted: int) -> Tensor:
    return torch.from_numpy(np.sort(generator.permutation(available)[:wanted]))


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
