"""Parameters and floating-point operations of a model in closed form, without torch.

A multiplication and an addition are two operations. Counted are matrix products, as
`torch.utils.flop_counter.FlopCounterMode` counts them: those of linear layers and of the output head, and the
scores and mixtures of attention over the full window, also where the mask spares half of them. Look-ups,
norms, activations, rotations and softmax are left out.
"""

from dataclasses import dataclass

from model.config.train_config import TrainConfig


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


def module_counts(config: TrainConfig) -> tuple[ModuleCount, ...]:
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


def parameter_count(config: TrainConfig) -> int:
    """Trainable parameters of the model, a tied output head counted once."""
    return sum(count.parameters for count in module_counts(config))


def passes_per_token(config: TrainConfig) -> int:
    """Forward passes over each training token, and as many backward passes.

    One of a plain step. SAM and ASAM take the gradient a second time, at the moved weights (Foret et al. 2021, arXiv
    2010.01412, algorithm 1), and R-Drop passes every batch twice with different units dropped (Liang et al. 2021,
    arXiv 2106.14448, algorithm 1): two each, four together.
    """
    gradients = 1 if config.optimizer.sharpness.method == "none" else 2
    return gradients * (2 if config.training.r_drop else 1)


IN_GRAM_AT_ONCE = 2
"""Iterations of muon on a Gram matrix in a row: in bf16 its error grows with each, and four spoil the result."""


def gram_pays(rows: int, columns: int, iterations: int) -> bool:
    """Whether muon's polynomials cost less in the Gram matrix of a wide matrix than in the matrix itself.

    Every second iteration then takes three products more with the one, and two fewer with the other.
    """
    return iterations >= IN_GRAM_AT_ONCE and 3 * rows < 2 * columns


def update_flops(config: TrainConfig) -> int:
    """Operations of one update: the products by which muon makes those of the blocks' matrices orthogonal.

    With m rows and n ≥ m columns each of Newton and Schulz's five iterations takes 4 m² n + 2 m³. Other optimizers have
    no products.
    """
    if config.optimizer.name != "muon":
        return 0
    total = 0
    for count in module_counts(config):
        if count.name.startswith("blocks.") and count.shapes and len(count.shapes[0]) == 2:
            height, width = count.shapes[0]
            parts = 3 if config.optimizer.split_qkv and count.name.endswith(".query_key_value") else 1
            m, n = sorted((height // parts, width))
            total += count.copies * parts * _orthogonal_flops(m, n, config.optimizer.orthogonalization)
    return total


def _orthogonal_flops(m: int, n: int, method: str) -> int:
    """Of `model.optimization.muon.orthogonalize`, one matrix."""
    square, with_matrix = 2 * m**3, 2 * m * m * n
    if method == "newton_schulz":
        return 5 * (2 * with_matrix + square)
    iterations = int(method[-1])
    rounds = -(-iterations // (IN_GRAM_AT_ONCE if gram_pays(m, n, iterations) else 1))
    # a round begins with the Gram matrix and ends with the product; an iteration more in it takes P G P and P Q
    return rounds * 2 * with_matrix + (iterations + 3 * (iterations - rounds)) * square + square


def flops_per_token(config: TrainConfig) -> float:
    """Operations behind one training token: forward, backward, and its share of the update.

    For each token a forward pass costs F = 2 × (entries of all matrices, the output head among them) +
    4 × `n_layer` × `block_size` × `d_model`; the backward pass costs 2 F, for the gradients of inputs and of
    weights (Kaplan et al. 2020, arXiv 2001.08361, section 2.1; Chowdhery et al. 2022, arXiv 2204.02311,
    appendix B): 3 F for each of `passes_per_token`. `update_flops` are shared by the tokens of a step. The losses are
    left out.
    """
    forward = sum(count.flops_per_token for count in module_counts(config))
    return 3 * forward * passes_per_token(config) + update_flops(config) / config.tokens_per_step
