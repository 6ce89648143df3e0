"""Causal self-attention, rotary positions, and the mask that keeps attention inside a title.

Shape suffixes: B batch, T positions, D d_model, H heads, K d_model / heads.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.architecture import ModelConfig
from model.network.dropout import dropout


class ValueMixture(nn.Module):
    """A block's values and those of the first one, each times a learned scalar (Learnable ResFormer)."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = nn.Parameter(torch.full((2,), 0.5))
        """Of the first block's values and of the block's own."""

    def forward(self, first_BHTK: Tensor, own_BHTK: Tensor) -> Tensor:
        """The mixture, in the precision of the values."""
        # V'ₙ = λ₁ V₁ + λ₂ Vₙ; under AMP the values are shorter floats than the scalars
        shares = self.shares.to(own_BHTK.dtype)
        return shares[0] * first_BHTK + shares[1] * own_BHTK


class QueryKeyValue(nn.Linear):
    """The three projections as one, queries on top; a role of its own for optimizers that look at matrices."""

    PARTS = 3


class Attention(nn.Module):
    """Causal self-attention with all heads in one projection.

    Args:
        shape: the model's section.
        follows: there is a block before this one, whose values may be mixed in.
    """

    def __init__(self, shape: ModelConfig, *, follows: bool = False) -> None:
        super().__init__()
        self.n_head = shape.n_head
        self.weights_dropout = shape.dropout_of_attention
        self.dropout = shape.dropout
        self.query_key_value = QueryKeyValue(shape.d_model, 3 * shape.d_model, bias=shape.bias)
        self.projection = nn.Linear(shape.d_model, shape.d_model, bias=shape.bias)
        width = shape.d_model // shape.n_head
        self.query_norm = nn.RMSNorm(width) if shape.qk_norm else None
        self.key_norm = nn.RMSNorm(width) if shape.qk_norm else None
        self.value_mixture = ValueMixture() if shape.value_residual and follows else None
        self.output_gate = (
            nn.Linear(shape.d_model, shape.n_head, bias=shape.bias) if shape.output_gate else None
        )

    def heads(self, x_BTD: Tensor, rotation_2TK: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of every head, each of shape (B, H, T, K).

        Queries and keys are as they are compared: normalised and rotated, where they are.
        """
        B, T, D = x_BTD.shape
        # one product in place of three; who has to know the three goes by `PARTS`
        qkv = self.query_key_value(x_BTD).view(B, T, 3, self.n_head, D // self.n_head)
        q_BHTK, k_BHTK, v_BHTK = qkv.permute(2, 0, 3, 1, 4)
        if self.query_norm is not None and self.key_norm is not None:
            # in the gains' precision: under AMP the projection gives shorter floats
            q_BHTK = self.query_norm(q_BHTK.to(self.query_norm.weight.dtype)).to(v_BHTK.dtype)
            k_BHTK = self.key_norm(k_BHTK.to(self.key_norm.weight.dtype)).to(v_BHTK.dtype)
        if rotation_2TK is not None:
            q_BHTK, k_BHTK = rotate(q_BHTK, rotation_2TK), rotate(k_BHTK, rotation_2TK)
        return q_BHTK, k_BHTK, v_BHTK

    def forward(
        self,
        x_BTD: Tensor,
        mask_B1TT: Tensor | None = None,
        rotation_2TK: Tensor | None = None,
        first_values: list[Tensor] | None = None,
    ) -> Tensor:
        """The mixture of values for every position, shape (B, T, D).

        Args:
            x_BTD: the normalised residual stream.
            mask_B1TT: true where a position (third axis) sees another; None is all up to itself.
            rotation_2TK: from `rotary_table`, cut to T positions; None is no rotation.
            first_values: where the first block puts its values, and the others find them; None if none asks.
        """
        q_BHTK, k_BHTK, v_BHTK = self.heads(x_BTD, rotation_2TK)
        if first_values is not None:
            if self.value_mixture is None:
                first_values.append(v_BHTK)
            else:
                v_BHTK = self.value_mixture(first_values[0], v_BHTK)
        weights_dropout = self.weights_dropout if self.training else 0.0
        mix = _plain_attention if x_BTD.device.type == "cpu" else _fused_attention
        y_BHTK = mix(q_BHTK, k_BHTK, v_BHTK, mask_B1TT, weights_dropout)
        if self.output_gate is not None:
            # y ← σ(x W) y, a scalar for each head and position, before the projection
            gate_BTH = torch.sigmoid(self.output_gate(x_BTD))
            y_BHTK = y_BHTK * gate_BTH.transpose(1, 2)[..., None]
        y_BTD = y_BHTK.transpose(1, 2).reshape(x_BTD.shape)
        return dropout(self.projection(y_BTD), self.dropout, training=self.training)


def _fused_attention(
    q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, mask_B1TT: Tensor | None, weights_dropout: float
) -> Tensor:
    return F.scaled_dot_product_attention(
        q_BHTK,
        k_BHTK,
        v_BHTK,
        attn_mask=mask_B1TT,
        is_causal=mask_B1TT is None,  # the fast kernels know this mask without being given it
        dropout_p=weights_dropout,
    )


def _plain_attention(
    q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, mask_B1TT: Tensor | None, weights_dropout: float
) -> Tensor:
    """The same as plain products, on a CPU: torch's kernels there take 1.5 to 3 times as long.

    Forward and backward in bf16 with one thread of an AMD EPYC: 8.5 against 22 ms for 64 windows of 64 tokens and 3
    heads of 64, 73 against 186 ms for 64 windows of 128 and 8 heads, 220 against 598 ms for 16 of 512 and 8; and 29,
    180 and 323 ms with torch's kernel for attention without dropout.
    """
    B, H, T, K = q_BHTK.shape
    shape = (B * H, T, K)  # one batch of products that lie together in memory
    if mask_B1TT is None:
        mask_B1TT = torch.ones(1, 1, T, T, dtype=torch.bool, device=q_BHTK.device).tril()
    bias = torch.zeros(mask_B1TT.shape, dtype=q_BHTK.dtype, device=q_BHTK.device)
    bias = bias.masked_fill_(~mask_B1TT, -math.inf)
    if len(bias) > 1:  # a mask of titles differs from window to window; the causal one is the same for all
        bias = bias.expand(B, H, T, T).reshape(B * H, T, T)
    # softmax(q kᵀ / √K + bias) v with a bias of 0 or -∞ (Vaswani et al. 2017, equation 1), scaled and
    # masked within the product
    scores = torch.baddbmm(
        bias.view(-1, T, T), q_BHTK.reshape(shape), k_BHTK.reshape(shape).mT, alpha=1 / math.sqrt(K)
    )
    weights = dropout(scores.softmax(dim=-1), weights_dropout, training=True).to(v_BHTK.dtype)
    return torch.bmm(weights, v_BHTK.reshape(shape)).view(B, H, T, K)


def document_mask(tokens_BT: Tensor, *, eos_id: int) -> Tensor:
    """Which positions each one sees inside its title, shape (B, 1, T, T), true for itself.

    An `<eos>` belongs to the title that it opens. The title at the start of a window may have begun before it.
    """
    title_BT = (tokens_BT == eos_id).cumsum(1)
    return (title_BT[:, None, :, None] == title_BT[:, None, None, :]).tril()


def rotary_table(length: int, *, width: int, base: float) -> Tensor:
    """What `rotate` multiplies with at positions 0 to `length` - 1, fp32, shape (2, T, K) for heads of `width` K.

    Position t turns pair i by t · base^(-2i/K) (Su et al. 2021, "RoFormer", arXiv 2104.09864, equation 15): the
    cosines, each for both entries of its pair, and the sines, negative for the first one.
    """
    angle_TK = _angles(length, width=width, base=base)
    cos_TK, sin_TK = angle_TK.cos(), angle_TK.sin()
    return torch.stack([torch.cat([cos_TK, cos_TK], dim=1), torch.cat([-sin_TK, sin_TK], dim=1)]).float()


def rotate(x_BHTK: Tensor, rotation_2TK: Tensor) -> Tensor:
    """Queries or keys turned by their positions, computed in the table's precision, returned in their own.

    Pair i is made of entries i and i + K/2, as in GPT-NeoX. A half of the heads' width at a time takes three times as
    long on a CPU.
    """
    cos_TK, sin_TK = rotation_2TK
    wide_BHTK = x_BHTK.to(rotation_2TK.dtype)
    # (x, y) ← (x cos - y sin, y cos + x sin): every entry times its cosine, plus its partner times the signed sine
    partners_BHTK = wide_BHTK.roll(x_BHTK.shape[-1] // 2, dims=-1)
    return torch.addcmul(wide_BHTK * cos_TK, partners_BHTK, sin_TK).to(x_BHTK.dtype)


def sinusoidal_table(length: int, *, d_model: int) -> Tensor:
    """Position vectors, fp32, shape (T, D): sin and cos of t · 10000^(-2i/D) at entries 2i and 2i + 1.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    angle_TD = _angles(length, width=d_model, base=10_000.0)
    return torch.stack([angle_TD.sin(), angle_TD.cos()], dim=-1).flatten(1).float()


def _angles(length: int, *, width: int, base: float) -> Tensor:
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    return torch.outer(torch.arange(length, dtype=torch.float64), base**-exponents)
