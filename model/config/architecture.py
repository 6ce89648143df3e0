"""The section `model` of `train_config.yaml`: every choice that makes one GPT another. Imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.section import Section


class ModelConfig(Section):
    """Shape and parts of the GPT."""

    n_layer: int = Field(4, ge=1)
    """Blocks, each of attention and an MLP."""
    n_head: int = Field(3, ge=1)
    """Heads of attention, which share the width; divides `d_model`."""
    d_model: int = Field(192, ge=1)
    """Width of the residual stream: of a token's vector from block to block."""
    d_ff: int | None = Field(None, ge=1)
    """Width of the MLP; null is 4 `d_model`."""
    block_size: int = Field(64, ge=2)
    """Tokens of context in training; also the number of learned or sinusoidal positions."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """On attention output and MLP output, and where the next two say nothing else."""
    embedding_dropout: float | None = Field(None, ge=0, lt=1)
    """On the sum of embeddings; null is `dropout`."""
    attention_dropout: float | None = Field(None, ge=0, lt=1)
    """On attention weights; null is `dropout`."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467) has a gain, no mean and no bias. Under the root stand
    torch's constants: 1e-5 of LayerNorm, the format's epsilon of RMSNorm (1.2e-7 in fp32)."""
    norm_position: Literal["pre", "post"] = "pre"
    """`pre`: x + f(norm(x)), and a norm before the output head. `post`: norm(x + f(x)), and none there."""
    positions: Literal["learned", "sinusoidal", "rope", "none"] = "learned"
    """Counted from the start of the window, whatever the titles in it. With `none` the causal mask alone
    tells order."""
    rope_base: float = Field(10_000.0, gt=1)
    """Longest wavelength of `rope` in tokens ÷ 2π, as the head grows wide (Su et al. 2021, section 3.2.2)."""
    activation: Literal["gelu", "relu", "relu2", "silu", "swiglu"] = "gelu"
    """`gelu` is the exact one, where GPT-2 has the tanh approximation; `relu2` is ReLU squared (So et al. 2021,
    "Primer", arXiv 2109.08668); `swiglu` has a third matrix, the gate (Shazeer 2020, arXiv 2002.05202)."""
    bias: bool = True
    """In linear layers, LayerNorms and an untied output head."""
    embedding_scale: Literal["unit", "sqrt_d_model"] = "unit"
    """Factor on token embeddings before positions are added (Vaswani et al. 2017, section 3.4)."""
    init: Literal["normal", "scaled", "he", "xavier"] = "normal"
    """Of the matrices of linear layers. `normal`: N(0, `init_std`). `scaled`: the same, with the two
    projections into the residual stream divided by sqrt(2 `n_layer`), as GPT-2. `he`: N(0, 2 / fan-in).
    `xavier`: uniform up to sqrt(6 / (fan-in + fan-out)), query, key and value each a matrix of its own."""
    init_std: float = Field(0.02, gt=0)
    """Of `normal` and `scaled`, and of token embeddings under every `init`. Learned positions begin at 0."""
    tied: bool = True
    """The output head is the token embedding; else a linear layer of its own."""
    attention: Literal["stream", "document"] = "stream"
    """What a position sees of the window up to itself: all of it, or no further back than the last `<eos>`.
    An `<eos>` thus opens the title after it: the first token of a title is predicted from an `<eos>` that
    sees nothing but itself, and the `<eos>` at its end from the whole title."""
    qk_norm: bool = False
    """RMSNorm on the queries and keys of every head, before any rotation (Dehghani et al. 2023, arXiv
    2302.05442, section 2.1, with RMSNorm). The gains are learned: without them no score could exceed
    sqrt(`d_model` / `n_head`), and so no attention be sharper than that."""
    output_gate: bool = False
    """Each head's output times a sigmoid of the input of attention, one linear layer from `d_model` to
    `n_head` (Qiu et al. 2025, arXiv 2505.06708, head-wise gate after the mixture of values)."""
    value_residual: bool = False
    """Behind the first block the values are a mixture of its values and the block's own, by two learned
    scalars that begin at 0.5 (Zhou et al. 2024, arXiv 2410.17897, Learnable ResFormer)."""
    layer_scale: float | None = Field(None, gt=0)
    """Initial value of a learned vector on the output of attention and of the MLP, before each is added to the
    residual stream (Touvron et al. 2021, "Going deeper with Image Transformers", arXiv 2103.17239, equation
    4); null for none."""
    logit_softcap: float | None = Field(None, gt=0)
    """Logits become cap · tanh(logits / cap), in training as in evaluation (Gemma 2, arXiv 2408.00118, section
    2); null for none."""

    @property
    def ff_width(self) -> int:
        """Width of the MLP."""
        return self.d_ff or 4 * self.d_model

    @property
    def dropout_of_embeddings(self) -> float:
        """Rate on the sum of embeddings."""
        return self.dropout if self.embedding_dropout is None else self.embedding_dropout

    @property
    def dropout_of_attention(self) -> float:
        """Rate on attention weights."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @model_validator(mode="after")
    def _widths_divide(self) -> "ModelConfig":
        given = f"given d_model {self.d_model} and n_head {self.n_head}"
        if self.d_model % self.n_head:
            raise ValueError(f"d_model must be divisible by n_head, {given}")
        if self.positions == "rope" and self.d_model // self.n_head % 2:
            raise ValueError(f"positions rope turn pairs: d_model / n_head must be even, {given}")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"positions sinusoidal come in pairs: d_model must be even, {given}")
        return self
