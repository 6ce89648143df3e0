"""Causal self-attention, rotary positions, and the mask that keeps attention inside a title.

Shape suffixes: B batch, T positions, D d_model, H heads, K d_model / heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.architecture import ModelConfig


class Attention(nn.Module):
    """Causal self-attention with all heads in one projection."""

    def __init__(self, shape: ModelConfig) -> None:
        super().__init__()
        self.n_head = shape.n_head
        self.weights_dropout = shape.dropout_of_attention
        self.dropout = shape.dropout
        self.query_key_value = nn.Linear(shape.d_model, 3 * shape.d_model, bias=shape.bias)
        self.projection = nn.Linear(shape.d_model, shape.d_model, bias=shape.bias)

    def heads(self, x_BTD: Tensor, rotation_2TK: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of every head, each of shape (B, H, T, K); rotated where there is one."""
        B, T, D = x_BTD.shape
        qkv = self.query_key_value(x_BTD).view(B, T, 3, self.n_head, D // self.n_head)
        q_BHTK, k_BHTK, v_BHTK = qkv.permute(2, 0, 3, 1, 4)
        if rotation_2TK is not None:
            q_BHTK, k_BHTK = rotate(q_BHTK, rotation_2TK), rotate(k_BHTK, rotation_2TK)
        return q_BHTK, k_BHTK, v_BHTK

    def forward(
        self, x_BTD: Tensor, mask_B1TT: Tensor | None = None, rotation_2TK: Tensor | None = None
    ) -> Tensor:
        """The mixture of values for every position, shape (B, T, D).

        Args:
            x_BTD: the normalised residual stream.
            mask_B1TT: true where a position (third axis) sees another; None is all up to itself.
            rotation_2TK: from `rotary_table`, cut to T positions; None is no rotation.
        """
        q_BHTK, k_BHTK, v_BHTK = self.heads(x_BTD, rotation_2TK)
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK,
            k_BHTK,
            v_BHTK,
            attn_mask=mask_B1TT,
            is_causal=mask_B1TT is None,  # the fast kernels know this mask without being given it
            dropout_p=self.weights_dropout if self.training else 0.0,
        )
        y_BTD = y_BHTK.transpose(1, 2).reshape(x_BTD.shape)
        return F.dropout(self.projection(y_BTD), self.dropout, self.training)


def document_mask(tokens_BT: Tensor, *, eos_id: int) -> Tensor:
    """Which positions each one sees inside its title, shape (B, 1, T, T), true for itself.

    An `<eos>` belongs to the title that it opens. The title at the start of a window may have begun before it.
    """
    title_BT = (tokens_BT == eos_id).cumsum(1)
    return (title_BT[:, None, :, None] == title_BT[:, None, None, :]).tril()


def rotary_table(length: int, *, width: int, base: float) -> Tensor:
    """Cosines and sines for positions 0 to `length` - 1, fp32, shape (2, T, K/2) for heads of `width` K.

    Position t turns pair i by t · base^(-2i/K) (Su et al. 2021, "RoFormer", arXiv 2104.09864, equation 15).
    """
    angle_TK = _angles(length, width=width, base=base)
    return torch.stack([angle_TK.cos(), angle_TK.sin()]).float()


def rotate(x_BHTK: Tensor, rotation_2TK: Tensor) -> Tensor:
    """Queries or keys turned by their positions, computed in the table's precision, returned in their own.

    Pair i is made of entries i and i + K/2, as in GPT-NeoX, so that both halves lie together in memory.
    """
    cos_TK, sin_TK = rotation_2TK  # against (B, H, T, K/2): one row for each position, the same for all heads
    left_BHTK, right_BHTK = x_BHTK.chunk(2, dim=-1)  # shorter floats are promoted to the table's
    turned = (left_BHTK * cos_TK - right_BHTK * sin_TK, left_BHTK * sin_TK + right_BHTK * cos_TK)
    return torch.cat(turned, dim=-1).to(x_BHTK.dtype)


def sinusoidal_table(length: int, *, d_model: int) -> Tensor:
    """Position vectors, fp32, shape (T, D): sin and cos of t · 10000^(-2i/D) at entries 2i and 2i + 1.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    angle_TD = _angles(length, width=d_model, base=10_000.0)
    return torch.stack([angle_TD.sin(), angle_TD.cos()], dim=-1).flatten(1).float()


def _angles(length: int, *, width: int, base: float) -> Tensor:
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    return torch.outer(torch.arange(length, dtype=torch.float64), base**-exponents)
