"""A small GPT of the project hptune, for `transformers` with `trust_remote_code=True`. One file, inference and loss.

It is what `model/network` of the project computes, without its dropout; every option of its configuration file is
here. Parameters have the project's own names.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class HptuneConfig(PreTrainedConfig):
    """The section `model` of the project's configuration file, and the vocabulary."""

    model_type = "hptune"
    attribute_map = {  # noqa: RUF012 - what the library looks for
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "hidden_size": "d_model",
        "max_position_embeddings": "block_size",
    }

    n_layer: int = 4
    n_head: int = 3
    d_model: int = 192
    d_ff: int | None = None
    block_size: int = 64
    norm: str = "layernorm"
    norm_position: str = "pre"
    positions: str = "learned"
    rope_base: float = 10_000.0
    activation: str = "gelu"
    bias: bool = True
    embedding_scale: str = "unit"
    tied: bool = True
    attention: str = "stream"
    qk_norm: bool = False
    output_gate: bool = False
    value_residual: bool = False
    layer_scale: float | None = None
    logit_softcap: float | None = None
    vocab_size: int = 4_000
    eos_token_id: int | None = None
    use_cache: bool = False


ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "relu2": lambda x: F.relu(x).square(), "silu": F.silu}


def _norm(c):
    return nn.RMSNorm(c.d_model) if c.norm == "rmsnorm" else nn.LayerNorm(c.d_model, bias=c.bias)


class Scale(nn.Module):
    """A learned factor on every channel."""

    def __init__(self, width):
        super().__init__()
        self.factors = nn.Parameter(torch.ones(width))

    def forward(self, x):
        """The input, scaled."""
        return x * self.factors


class Mixture(nn.Module):
    """Values of the first block and of this one, by two learned factors."""

    def __init__(self):
        super().__init__()
        self.shares = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, first, own):
        """Their mixture."""
        return self.shares[0] * first + self.shares[1] * own


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, c, follows):
        super().__init__()
        self.n_head, width = c.n_head, c.d_model // c.n_head
        self.query_key_value = nn.Linear(c.d_model, 3 * c.d_model, bias=c.bias)
        self.projection = nn.Linear(c.d_model, c.d_model, bias=c.bias)
        self.query_norm = nn.RMSNorm(width) if c.qk_norm else None
        self.key_norm = nn.RMSNorm(width) if c.qk_norm else None
        self.value_mixture = Mixture() if c.value_residual and follows else None
        self.output_gate = nn.Linear(c.d_model, c.n_head, bias=c.bias) if c.output_gate else None

    def forward(self, x, mask, angles, values):
        """The mixture of values at every position."""
        B, T, D = x.shape
        q, k, v = self.query_key_value(x).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if angles is not None:
            q, k = _turned(q, angles), _turned(k, angles)
        if self.value_mixture is not None:
            v = self.value_mixture(values[0], v)
        values.append(v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if self.output_gate is not None:
            y = y * torch.sigmoid(self.output_gate(x)).transpose(1, 2)[..., None]
        return self.projection(y.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    """Two linear layers with an activation between them, or three, one of them a gate."""

    def __init__(self, c):
        super().__init__()
        width = c.d_ff or 4 * c.d_model
        self.activation = c.activation
        self.up = nn.Linear(c.d_model, width, bias=c.bias)
        if c.activation == "swiglu":
            self.gate = nn.Linear(c.d_model, width, bias=c.bias)
        self.down = nn.Linear(width, c.d_model, bias=c.bias)

    def forward(self, x):
        """The update of every position."""
        if self.activation == "swiglu":
            return self.down(F.silu(self.gate(x)) * self.up(x))
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, c, follows):
        super().__init__()
        self.pre = c.norm_position == "pre"
        self.attention_norm, self.mlp_norm = _norm(c), _norm(c)
        self.attention, self.mlp = Attention(c, follows), MLP(c)
        scaled = c.layer_scale is not None
        self.attention_scale = Scale(c.d_model) if scaled else nn.Identity()
        self.mlp_scale = Scale(c.d_model) if scaled else nn.Identity()

    def forward(self, x, *seen):
        """The residual stream after this block."""
        if self.pre:
            x = x + self.attention_scale(self.attention(self.attention_norm(x), *seen))
            return x + self.mlp_scale(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.attention_scale(self.attention(x, *seen)))
        return self.mlp_norm(x + self.mlp_scale(self.mlp(x)))


def _angles(length, width, base, device):
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
    return torch.outer(torch.arange(length, dtype=torch.float64, device=device), base**-exponents)


def _turned(x, angles):
    """Pairs of entries i and i + K/2 turned by their positions' angles, in fp32 at least."""
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)
    cos, sin = angles.cos().float(), angles.sin().float()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class HptuneForCausalLM(PreTrainedModel, GenerationMixin):
    """The GPT with its output head."""

    config_class = HptuneConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, i > 0) for i in range(config.n_layer))
        self.final_norm = _norm(config) if config.norm_position == "pre" else nn.Identity()
        self.head = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=config.bias)
        self.post_init()

    def get_input_embeddings(self):
        """The token embedding."""
        return self.token_embedding

    def set_input_embeddings(self, value):
        """Another token embedding."""
        self.token_embedding = value

    def get_output_embeddings(self):
        """None where the token embedding is the output head."""
        return self.head

    def forward(self, input_ids, attention_mask=None, labels=None, **_):
        """Logits at every position, and the loss where `labels` are given (the inputs; shifted here).

        Padding may follow a text; in front of it it would shift the positions.
        """
        c, (_, T) = self.config, input_ids.shape
        if c.block_size < T:
            raise ValueError(f"at most {c.block_size} tokens at a time, given {T}")
        if attention_mask is not None and attention_mask.dim() == 2 and not bool(attention_mask[:, 0].all()):
            raise ValueError("padding must follow the text: padding_side='right'")
        x = self.token_embedding(input_ids)
        if c.embedding_scale == "sqrt_d_model":
            x = x * math.sqrt(c.d_model)
        angles = None
        if c.positions == "learned":
            x = x + self.position_embedding.weight[:T]
        elif c.positions == "sinusoidal":
            turns = _angles(T, c.d_model, 10_000.0, x.device)
            x = x + torch.stack([turns.sin(), turns.cos()], dim=-1).flatten(1).float().to(x.dtype)
        elif c.positions == "rope":
            angles = _angles(T, c.d_model // c.n_head, c.rope_base, x.device)
        mask = torch.ones(1, 1, T, T, dtype=torch.bool, device=x.device).tril()
        if c.attention == "document":
            title = (input_ids == c.eos_token_id).cumsum(1)
            mask = mask & (title[:, None, :, None] == title[:, None, None, :])
        values: list[torch.Tensor] = []
        for block in self.blocks:
            x = block(x, mask, angles, values)
        x = self.final_norm(x)
        logits = F.linear(x, self.token_embedding.weight) if self.head is None else self.head(x)
        if c.logit_softcap is not None:
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            logits = c.logit_softcap * torch.tanh(wide / c.logit_softcap)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        """The last `block_size` tokens: the model sees no further back."""
        block = self.config.block_size
        mask = None if attention_mask is None else attention_mask[:, -block:]
        return {"input_ids": input_ids[:, -block:], "attention_mask": mask}
