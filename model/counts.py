"""Parameters and floating-point operations of a model in closed form, without torch.

A multiplication and an addition are two operations. Counted are matrix products, as
`torch.utils.flop_counter.FlopCounterMode` counts them: those of linear layers and of the output head, and the
scores and mixtures of attention over the full window, also where the mask spares half of them. Look-ups,
norms, activations, rotations and softmax are left out.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # config counts its own parameters with this module
    from model.config import TrainConfig


@dataclass(frozen=True)
class ModuleCount:
    """What one module of the model holds and computes, over all its copies."""

    name: str
    """As in the model; `*` stands for every block."""
    copies: int
    shapes: tuple[tuple[int, ...], ...]
    """Of its tensors: weight, then bias. A tied head shows the token embedding's."""
    parameters: int
    """Of all copies. None are a tied head's own."""
    flops_per_token: int
    """Of all copies, in one forward pass over windows of `model.block_size` tokens."""


def module_counts(config: "TrainConfig") -> tuple[ModuleCount, ...]:
    """The modules with parameters or products, in the order of the forward pass."""
    model = config.model
    vocab, d, f, n = config.tokenizer.vocab_size, model.d_model, model.ff_width, model.n_layer

    def linear(name: str, copies: int, d_in: int, d_out: int) -> ModuleCount:
        bias = model.bias * d_out
        shapes = ((d_out, d_in), (d_out,)) if bias else ((d_out, d_in),)
        return ModuleCount(name, copies, shapes, copies * (d_out * d_in + bias), copies * 2 * d_out * d_in)

    def norm(name: str, copies: int) -> ModuleCount:
        tensors = 2 if model.norm == "layernorm" and model.bias else 1
        return ModuleCount(name, copies, ((d,),) * tensors, copies * tensors * d, 0)

    def embedding(name: str, entries: int) -> ModuleCount:
        return ModuleCount(name, 1, ((entries, d),), entries * d, 0)

    def vector(name: str, copies: int, entries: int) -> ModuleCount:
        return ModuleCount(name, copies, ((entries,),), copies * entries, 0)

    head_width, mixed = d // model.n_head, n - 1 if model.value_residual else 0
    head_norms = [vector(f"blocks.*.attention.{of}_norm", n, head_width) for of in ("query", "key")]
    mixture = vector("blocks.*.attention.value_mixture", mixed, 2)
    output_gate = linear("blocks.*.attention.output_gate", n, d, model.n_head)
    scaled = model.layer_scale is not None
    attention = [
        linear("blocks.*.attention.query_key_value", n, d, 3 * d),
        *(head_norms if model.qk_norm else []),
        *([mixture] if mixed else []),
        # q k and weights v: each 2 d for each of the window's positions
        ModuleCount("blocks.*.attention", n, (), 0, n * 4 * model.block_size * d),
        *([output_gate] if model.output_gate else []),
        linear("blocks.*.attention.projection", n, d, d),
        *([vector("blocks.*.attention_scale", n, d)] if scaled else []),
    ]
    gate = [linear("blocks.*.mlp.gate", n, d, f)] if model.activation == "swiglu" else []
    mlp = [
        *gate,
        linear("blocks.*.mlp.up", n, d, f),
        linear("blocks.*.mlp.down", n, f, d),
        *([vector("blocks.*.mlp_scale", n, d)] if scaled else []),
    ]
    norms = [norm("blocks.*.attention_norm", n), norm("blocks.*.mlp_norm", n)]
    pre = model.norm_position == "pre"
    learned = model.positions == "learned"
    tied_head = ModuleCount("head", 1, ((vocab, d),), 0, 2 * vocab * d)
    return (
        embedding("token_embedding", vocab),
        *([embedding("position_embedding", model.block_size)] if learned else []),
        *([norms[0], *attention, norms[1], *mlp] if pre else [*attention, norms[0], *mlp, norms[1]]),
        *([norm("final_norm", 1)] if pre else []),
        tied_head if model.tied else linear("head", 1, d, vocab),
    )


def passes_per_token(config: "TrainConfig") -> int:
    """Forward passes over each training token, and as many backward passes.

    One of a plain step. SAM and ASAM take the gradient a second time, at the moved weights (Foret et al. 2021, arXiv
    2010.01412, algorithm 1), and R-Drop passes every batch twice with different units dropped (Liang et al. 2021,
    arXiv 2106.14448, algorithm 1): two each, four together.
    """
    gradients = 1 if config.optimizer.sharpness.method == "none" else 2
    return gradients * (2 if config.training.r_drop else 1)


def flops_per_token(config: "TrainConfig") -> int:
    """Operations behind one training token, forward and backward.

    For each token a forward pass costs F = 2 × (entries of all matrices, the output head among them) +
    4 × `n_layer` × `block_size` × `d_model`; the backward pass costs 2 F, for the gradients of inputs and of
    weights (Kaplan et al. 2020, arXiv 2001.08361, section 2.1; Chowdhery et al. 2022, arXiv 2204.02311,
    appendix B): 3 F for each of `passes_per_token`. The update itself is left out, and so are the losses.
    """
    forward = sum(count.flops_per_token for count in module_counts(config))
    return 3 * forward * passes_per_token(config)
