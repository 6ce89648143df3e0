"""The GPT that is trained: GPT-2's block at a small size.

Pre-norm LayerNorm, learned positions, fused query-key-value projection, GELU, dropout, tied output head
(Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"). Initialised as the seed
documents did: N(0, 0.02) for every linear layer and embedding, zeros for biases and positions.

Shape suffixes: B batch, T positions, D d_model, H heads, K d_model / heads, V vocabulary.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import TrainConfig


class Attention(nn.Module):
    """Causal self-attention with all heads in one projection."""

    def __init__(self, d_model: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head = n_head
        self.dropout = dropout
        self.query_key_value = nn.Linear(d_model, 3 * d_model)
        self.projection = nn.Linear(d_model, d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The mixture of values for every position, shape (B, T, D)."""
        B, T, D = x_BTD.shape
        qkv = self.query_key_value(x_BTD).view(B, T, 3, self.n_head, D // self.n_head)
        q_BHTK, k_BHTK, v_BHTK = qkv.permute(2, 0, 3, 1, 4)
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK, k_BHTK, v_BHTK, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        y_BTD = y_BHTK.transpose(1, 2).reshape(B, T, D)
        return F.dropout(self.projection(y_BTD), self.dropout, self.training)


class MLP(nn.Module):
    """Two linear layers with a GELU of four times the width between them."""

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)
        self.dropout = dropout

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The update of every position on its own, shape (B, T, D)."""
        return F.dropout(self.down(F.gelu(self.up(x_BTD))), self.dropout, self.training)


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream after a LayerNorm of its input."""

    def __init__(self, d_model: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = Attention(d_model, n_head, dropout)
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = MLP(d_model, dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The residual stream after this block, shape (B, T, D)."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD))
        return cast(Tensor, x_BTD + self.mlp(self.mlp_norm(x_BTD)))


class GPT(nn.Module):
    """A decoder-only language model.

    Args:
        config: shape, vocabulary size and dropout are taken from it.
        seed: of the initial weights; no other random state is read or changed.
    """

    def __init__(self, config: TrainConfig, *, seed: int) -> None:
        super().__init__()
        shape = config.model
        self.dropout = shape.dropout
        self.block_size = shape.block_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.token_embedding = nn.Embedding(config.tokenizer.vocab_size, shape.d_model)
            self.position_embedding = nn.Embedding(shape.block_size, shape.d_model)
            self.blocks = nn.ModuleList(
                Block(shape.d_model, shape.n_head, shape.dropout) for _ in range(shape.n_layer)
            )
            self.final_norm = nn.LayerNorm(shape.d_model)
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.position_embedding.weight)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """The normalised residual stream before the output head, shape (B, T, D)."""
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD = self.token_embedding(tokens_BT) + self.position_embedding(positions_T)
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return cast(Tensor, self.final_norm(x_BTD))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of the next token at every position, shape (B, T, V). T is at most `block_size`."""
        return F.linear(self.hidden(tokens_BT), self.token_embedding.weight)

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
            logits_BV = F.linear(last_BD, self.token_embedding.weight[: end + 1]).float().cpu()
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


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Negative log-likelihood of each target in nats, in fp32, shape (B, T); 0 where the target is -1."""
    return F.cross_entropy(
        logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none", ignore_index=-1
    ).view_as(targets_BT)
