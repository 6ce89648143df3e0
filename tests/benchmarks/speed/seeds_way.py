"""The seed documents' way of training, written from their description, as a yardstick.

Full precision; attention as two products and a masked softmax, the mask a buffer of every block; torch's dropout; all
logits of a batch at once; AdamW one parameter after the other; the loss fetched at every step. ASAM is a loop over the
parameters around it, as in the implementation that they use (Kwon et al. 2021, arXiv 2102.11600). Needs torch alone.

Shape suffixes: B batch, T positions, D d_model, H heads, K d_model / heads, V vocabulary.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import record_function

from tests.benchmarks.speed.shapes import ADAMW, CLIP_NORM, RHO


class Attention(nn.Module):
    """Causal self-attention, every product and mask written out."""

    def __init__(self, shape):
        super().__init__()
        self.n_head, self.dropout = shape.n_head, shape.dropout
        self.qkv = nn.Linear(shape.d_model, 3 * shape.d_model)
        self.out = nn.Linear(shape.d_model, shape.d_model)
        self.register_buffer("visible", torch.tril(torch.ones(shape.block_size, shape.block_size)))

    def forward(self, x_BTD):
        B, T, D = x_BTD.shape
        q_BHTK, k_BHTK, v_BHTK = (
            part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.qkv(x_BTD).split(D, dim=2)
        )
        scores_BHTT = q_BHTK @ k_BHTK.transpose(-2, -1) / math.sqrt(D // self.n_head)
        scores_BHTT = scores_BHTT.masked_fill(self.visible[:T, :T] == 0, -math.inf)
        weights_BHTT = F.dropout(F.softmax(scores_BHTT, dim=-1), self.dropout, self.training)
        y_BTD = (weights_BHTT @ v_BHTK).transpose(1, 2).contiguous().view(B, T, D)
        return F.dropout(self.out(y_BTD), self.dropout, self.training)


class Block(nn.Module):
    """Attention and MLP behind their norms."""

    def __init__(self, shape):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.d_model), nn.LayerNorm(shape.d_model)
        self.attention = Attention(shape)
        self.up = nn.Linear(shape.d_model, 4 * shape.d_model)
        self.down = nn.Linear(4 * shape.d_model, shape.d_model)
        self.dropout = shape.dropout

    def forward(self, x_BTD):
        x_BTD = x_BTD + self.attention(self.norm1(x_BTD))
        hidden = self.down(F.gelu(self.up(self.norm2(x_BTD))))
        return x_BTD + F.dropout(hidden, self.dropout, self.training)


class Model(nn.Module):
    """Embeddings, blocks, norm and a head tied to the token embedding; logits and mean loss."""

    def __init__(self, shape):
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.d_model)
        self.positions = nn.Parameter(torch.zeros(1, shape.block_size, shape.d_model))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.norm = nn.LayerNorm(shape.d_model)
        self.head = nn.Linear(shape.d_model, shape.vocab_size, bias=False)
        self.dropout = shape.dropout
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)
        self.head.weight = self.tokens.weight

    def forward(self, inputs_BT, targets_BT):
        x_BTD = self.tokens(inputs_BT) + self.positions[:, : inputs_BT.shape[1]]
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = self.head(self.norm(x_BTD))
        return logits_BTV, F.cross_entropy(logits_BTV.view(-1, logits_BTV.shape[-1]), targets_BT.view(-1))


class AdaptiveAscent:
    """To the worst weights nearby and back, a parameter at a time."""

    def __init__(self, parameters):
        self.parameters = list(parameters)

    @torch.no_grad()
    def climb(self):
        weighted = [(p.abs() * p.grad).norm(2) for p in self.parameters]
        scale = RHO / (torch.stack(weighted).norm(2) + 1e-12)
        self.old = [p.data.clone() for p in self.parameters]
        for p in self.parameters:
            p.add_(p.pow(2) * p.grad * scale)
            p.grad = None

    @torch.no_grad()
    def come_back(self):
        for p, old in zip(self.parameters, self.old, strict=True):
            p.data = old


class Stream:
    """The next batch of the training split, window after window, as int64 on the device."""

    def __init__(self, shape, tokens, device):
        self.tokens, self.device, self.at = torch.from_numpy(tokens.astype(np.int64)), device, 0
        self.shape, self.span = (shape.batch_size, shape.block_size), shape.tokens_per_step

    def batch(self):
        if self.at + self.span + 1 > len(self.tokens):
            self.at = 0
        chunk = self.tokens[self.at : self.at + self.span + 1]
        self.at += self.span
        return tuple(part.view(self.shape).to(self.device) for part in (chunk[:-1], chunk[1:]))


class Way:
    """Training as the seed documents did it."""

    precision = "fp32"

    def __init__(self, shape, method, tokens, *, device, threads):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.model = Model(shape).to(self.device)
        self.stream = Stream(shape, tokens["train"], self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **ADAMW, foreach=False, fused=False)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.ascent = AdaptiveAscent(self.model.parameters()) if method == "asam" else None

    def take_steps(self, number):
        """The loss of the last of them."""
        for _ in range(number):
            with record_function("data"):
                inputs, targets = self.stream.batch()
            self.optimizer.zero_grad(set_to_none=True)
            _, loss = self.model(inputs, targets)
            loss.backward()
            if self.ascent:
                with record_function("optimizer"):
                    self.ascent.climb()
                self.model(inputs, targets)[1].backward()
                with record_function("optimizer"):
                    self.ascent.come_back()
            with record_function("optimizer"):
                nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM, foreach=False)
                self.optimizer.step()
                self.schedule.step()
            fetched = loss.item()
        return fetched
