"""The GPT that is trained: GPT-2's block at a small size, with the parts of its relatives by choice.

By default pre-norm LayerNorm, learned positions, fused query-key-value projection, GELU, dropout, tied output
head (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), initialised as the seed
documents did: N(0, 0.02) for every linear layer and embedding, zeros for biases and positions. What else there
is stands in `model/config/architecture.py`.

Shape suffixes: B batch, T positions, D d_model, F width of the MLP, K d_model / heads, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from typing import assert_never, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.architecture import ModelConfig
from model.config.train_config import TrainConfig
from model.network.attention import Attention, document_mask, rotary_table, sinusoidal_table
from model.network.dropout import dropout

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
}


class MLP(nn.Module):
    """Two linear layers with an activation between them; for SwiGLU the first is gated by a third."""

    def __init__(self, shape: ModelConfig) -> None:
        super().__init__()
        self.activation = shape.activation
        self.up = nn.Linear(shape.d_model, shape.ff_width, bias=shape.bias)
        if shape.activation == "swiglu":
            self.gate = nn.Linear(shape.d_model, shape.ff_width, bias=shape.bias)
        self.down = nn.Linear(shape.ff_width, shape.d_model, bias=shape.bias)
        self.dropout = shape.dropout

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The update of every position on its own, shape (B, T, D)."""
        if self.activation == "swiglu":
            x_BTF = F.silu(self.gate(x_BTD)) * self.up(x_BTD)
        else:
            x_BTF = _ACTIVATIONS[self.activation](self.up(x_BTD))
        return dropout(self.down(x_BTF), self.dropout, training=self.training)


class LayerScale(nn.Module):
    """A learned factor on every channel of a branch (Touvron et al. 2021, arXiv 2103.17239, equation 4)."""

    def __init__(self, d_model: int, initial: float) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.full((d_model,), initial))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The branch's output, scaled, shape (B, T, D)."""
        return x_BTD * self.factors


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream, which is normalised before or behind them.

    Args:
        shape: the model's section.
        follows: this is not the first block.
    """

    def __init__(self, shape: ModelConfig, *, follows: bool = False) -> None:
        super().__init__()
        self.pre_norm = shape.norm_position == "pre"
        self.attention_norm = _norm(shape)
        self.attention = Attention(shape, follows=follows)
        self.attention_scale = _scale(shape)
        self.mlp_norm = _norm(shape)
        self.mlp = MLP(shape)
        self.mlp_scale = _scale(shape)

    def forward(
        self,
        x_BTD: Tensor,
        mask_B1TT: Tensor | None = None,
        rotation_2TK: Tensor | None = None,
        first_values: list[Tensor] | None = None,
    ) -> Tensor:
        """The residual stream after this block, shape (B, T, D); the other arguments are `Attention`'s."""
        seen = (mask_B1TT, rotation_2TK, first_values)
        if self.pre_norm:
            x_BTD = x_BTD + self.attention_scale(self.attention(self.attention_norm(x_BTD), *seen))
            return cast(Tensor, x_BTD + self.mlp_scale(self.mlp(self.mlp_norm(x_BTD))))
        x_BTD = self.attention_norm(x_BTD + self.attention_scale(self.attention(x_BTD, *seen)))
        return cast(Tensor, self.mlp_norm(x_BTD + self.mlp_scale(self.mlp(x_BTD))))


def _scale(shape: ModelConfig) -> nn.Module:
    return nn.Identity() if shape.layer_scale is None else LayerScale(shape.d_model, shape.layer_scale)


def _norm(shape: ModelConfig) -> nn.Module:
    if shape.norm == "rmsnorm":
        return nn.RMSNorm(shape.d_model)
    return nn.LayerNorm(shape.d_model, bias=shape.bias)


class OutputHead(nn.Linear):
    """The matrix to the logits where it is not the token embedding; a type of its own, as its role is."""


class GPT(nn.Module):
    """A decoder-only language model.

    Args:
        config: section `model` and vocabulary size are taken from it.
        seed: of the initial weights; no other random state is read or changed.
        eos_id: the token that opens a title; needed where attention is kept inside titles.
    """

    position_table: Tensor

    def __init__(self, config: TrainConfig, *, seed: int, eos_id: int | None = None) -> None:
        super().__init__()
        shape = config.model
        assert eos_id is not None or shape.attention == "stream", "document attention needs the id of <eos>"
        self.shape = shape
        self.block_size = shape.block_size
        self.eos_id = eos_id
        self.vocab_size = config.tokenizer.vocab_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.token_embedding = nn.Embedding(config.tokenizer.vocab_size, shape.d_model)
            if shape.positions == "learned":
                self.position_embedding = nn.Embedding(shape.block_size, shape.d_model)
            self.blocks = nn.ModuleList(Block(shape, follows=i > 0) for i in range(shape.n_layer))
            self.final_norm = _norm(shape) if shape.norm_position == "pre" else nn.Identity()
            self.head: OutputHead | None = None
            if not shape.tied:
                self.head = OutputHead(shape.d_model, config.tokenizer.vocab_size, bias=shape.bias)
            self._initialise()
        # a buffer moves with the model; it is not saved, since it follows from the configuration
        if shape.positions == "sinusoidal":
            table = sinusoidal_table(shape.block_size, d_model=shape.d_model)
            self.register_buffer("position_table", table, persistent=False)
        if shape.positions == "rope":
            width = shape.d_model // shape.n_head
            table = rotary_table(shape.block_size, width=width, base=shape.rope_base)
            self.register_buffer("position_table", table, persistent=False)

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.shape.init_std)
            if isinstance(module, nn.Linear):
                self._initialise_matrix(module.weight, name)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.shape.positions == "learned":
            nn.init.zeros_(self.position_embedding.weight)

    def _initialise_matrix(self, weight: Tensor, name: str) -> None:
        std = self.shape.init_std
        match self.shape.init:
            case "normal":
                nn.init.normal_(weight, std=std)
            case "scaled":
                # Radford et al. 2019, section 2.3: the residual stream is the sum of 2 n_layer of these
                adds = name.endswith((".projection", ".down"))
                nn.init.normal_(weight, std=std / math.sqrt(2 * self.shape.n_layer) if adds else std)
            case "he":
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            case "xavier":
                # fused for speed alone: as one matrix, its fan-out of 3 D would shrink all three
                for part in weight.chunk(3) if name.endswith(".query_key_value") else (weight,):
                    nn.init.xavier_uniform_(part)
            case _:
                assert_never(self.shape.init)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """The residual stream that the output head reads, normalised, shape (B, T, D)."""
        length = tokens_BT.shape[1]
        x_BTD = self.token_embedding(tokens_BT)
        if self.shape.embedding_scale == "sqrt_d_model":
            x_BTD = x_BTD * math.sqrt(self.shape.d_model)
        mask_B1TT = rotation_2TK = None
        match self.shape.positions:
            case "learned":
                x_BTD = x_BTD + self.position_embedding(torch.arange(length, device=tokens_BT.device))
            case "sinusoidal":
                x_BTD = x_BTD + self.position_table[:length]
            case "rope":
                rotation_2TK = self.position_table[:, :length]
            case "none":
                pass
            case _:
                assert_never(self.shape.positions)
        if self.shape.attention == "document":
            assert self.eos_id is not None
            mask_B1TT = document_mask(tokens_BT, eos_id=self.eos_id)
        x_BTD = dropout(x_BTD, self.shape.dropout_of_embeddings, training=self.training)
        first_values: list[Tensor] | None = [] if self.shape.value_residual else None
        for block in self.blocks:
            x_BTD = block(x_BTD, mask_B1TT, rotation_2TK, first_values)
        return cast(Tensor, self.final_norm(x_BTD))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of the next token at every position, shape (B, T, V). T is at most `block_size`."""
        return self.logits(self.hidden(tokens_BT))

    def logits(self, hidden: Tensor) -> Tensor:
        """What `hidden`, of shape (..., D), says of the next token, shape (..., V)."""
        matrix = self.token_embedding.weight
        logits = F.linear(hidden, matrix) if self.head is None else cast(Tensor, self.head(hidden))
        cap = self.shape.logit_softcap
        if cap is None:
            return logits
        # short floats near the cap could no longer be told apart
        return cap * torch.tanh(logits.to(torch.promote_types(logits.dtype, torch.float32)) / cap)

    @torch.no_grad()
    def generate(
        self,
        prompt: list[int],
        *,
        end: int,
        max_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[list[int]]:
        """Tokens drawn after `prompt`, until `end` (not included) or `max_tokens`, once for each seed.

        Ids above `end` stand for nothing in the tokenizer (its vocabulary may have come out smaller than the
        model's) and are never drawn.
        """
        was_training = self.training
        self.eval()
        device = self.token_embedding.weight.device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn: list[list[int]] = [[] for _ in seeds]
        open_ends = list(range(len(seeds)))  # all of one length
        for _ in range(max_tokens):
            if not open_ends:
                break
            contexts = [(prompt + drawn[i])[-self.block_size :] for i in open_ends]
            last_BD = self.hidden(torch.tensor(contexts, device=device))[:, -1]
            logits_BV = self.logits(last_BD)[:, : end + 1].float().cpu()
            for i, probabilities_V in zip(
                tuple(open_ends), F.softmax(logits_BV / temperature, dim=1), strict=True
            ):
                token = int(torch.multinomial(probabilities_V, 1, generator=generators[i]))
                if token == end:
                    open_ends.remove(i)
                else:
                    drawn[i].append(token)
        self.train(was_training)
        return drawn
