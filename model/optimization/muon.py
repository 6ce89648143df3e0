"""Muon: momentum, made orthogonal, as the update of a matrix (https://kellerjordan.github.io/posts/muon/).

`torch.optim.Muon` goes from matrix to matrix. Here those of one shape are one batched product, which a GPU needs to be
busy, and the polynomials that make them orthogonal may be fewer and cheaper.
"""

import math
from typing import Any

import torch
from torch import Tensor

from model.config.counts import IN_GRAM_AT_ONCE, gram_pays
from model.config.optimization import Orthogonalization
from model.hardware import foreach

_Quintic = tuple[float, float, float]

NEWTON_SCHULZ: tuple[_Quintic, ...] = ((3.4445, -4.7750, 2.0315),) * 5
"""Jordan's: singular values from 0.003 of the Frobenius norm on come out between 0.68 and 1.21."""
POLAR_EXPRESS: dict[str, tuple[_Quintic, ...]] = {
    "polar_express_4": (
        (8.219289, -23.337473, 16.626580),
        (3.968986, -2.842425, 0.516748),
        (3.462599, -2.498193, 0.480219),
        (2.540446, -1.888481, 0.448119),
    ),
    "polar_express_3": (
        (7.934675, -22.258060, 15.801518),
        (3.577942, -2.577883, 0.488646),
        (2.698844, -2.018566, 0.461765),
    ),
}
"""Each the odd quintic nearest to 1 on what the ones before it make of the interval from 0.003 (four) or 0.01 (three)
to 1 (Amsel et al. 2025, arXiv 2505.16932, theorem 3.1), all but the last of x / 1.02: beyond its interval it grows
without bound, and products in bf16 are right to 0.4 %. What lies in the interval comes out within 0.22, or 0.29,
of 1."""
_SMALLEST_NORM = 1e-7
"""Below it a gradient counts as none, as in torch."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum and decoupled weight decay, for parameters with two dimensions.

    The rate of a matrix is `lr` × sqrt(max(1, rows / columns)). A parameter group's `parts` says of each parameter how
    many matrices of the same height lie in it, one on top of the other; each is made orthogonal by itself, and its
    rate follows from its own shape.

    Args:
        groups: parameter groups, each with `parts`.
        momentum: share of the momentum in its running mean, 0 to below 1.
        orthogonalization: which polynomials.
        dtype: of the products; bf16 is enough for them.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        momentum: float,
        orthogonalization: Orthogonalization,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(groups, {"momentum": momentum})
        self._orthogonalization = orthogonalization
        self._dtype = dtype
        device = self.param_groups[0]["params"][0].device
        self._rates = [torch.zeros((), device=device) for _ in self.param_groups]
        """Where `update` reads the groups' learning rates: what a CUDA graph was recorded with stays as it was."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "nothing here evaluates twice"
        self.set_rates()
        self.update()

    def set_rates(self) -> None:
        """Have `update` follow the learning rates of the parameter groups."""
        for group, rate in zip(self.param_groups, self._rates, strict=True):
            rate.fill_(group["lr"])

    @torch.no_grad()
    def update(self) -> None:
        """`step` at the rates that were set last; a CUDA graph can be made of it once there is momentum."""
        for group, rate in zip(self.param_groups, self._rates, strict=True):
            self._update(group, rate)

    def _update(self, group: dict[str, Any], learning_rate: Tensor) -> None:
        moved = [(p, n) for p, n in zip(group["params"], group["parts"], strict=True) if p.grad is not None]
        if not moved:
            return
        parameters, gradients = [p for p, _ in moved], [p.grad for p, _ in moved]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in parameters]
        foreach.lerp_(momenta, gradients, 1 - group["momentum"])  # m ← μ m + (1 - μ) g
        updates = foreach.lerp(gradients, momenta, group["momentum"])  # Nesterov's: μ m + (1 - μ) g
        # w ← (1 - η λ) w, by the group's rate and not by that of the matrix's shape
        foreach.mul_(parameters, 1 - learning_rate * group["weight_decay"])
        pairs = [
            pair
            for (p, n), update in zip(moved, updates, strict=True)
            for pair in zip(p.chunk(n), update.chunk(n), strict=True)
        ]
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for part, update in pairs:
            by_shape.setdefault(tuple(part.shape), []).append((part, update))
        for (rows, columns), members in by_shape.items():
            stacked_NMK = torch.empty(
                len(members), rows, columns, dtype=self._dtype, device=members[0][0].device
            )
            foreach.copy_(stacked_NMK.unbind(), [update for _, update in members])
            found_NMK = orthogonalize(stacked_NMK, self._orthogonalization)
            # entries of what was found have an RMS of 1 / √(longer side): with this it is 1 / √columns, tall or wide
            rate = learning_rate * math.sqrt(max(1.0, rows / columns))
            for (part, _), found in zip(members, found_NMK, strict=True):
                part.addcmul_(found, rate, value=-1)


def orthogonalize(matrices_NMK: Tensor, method: Orthogonalization) -> Tensor:
    """For each of N matrices M × K with singular value decomposition U S V, one of its shape near to U V.

    `newton_schulz` does as torch does. The others, too, take singular values up to 1. Where torch divides by the
    Frobenius norm, which makes the largest less than 1 by up to sqrt(M), they have a closer bound for one small
    product: the largest eigenvalue of the Gram matrix G = X Xᵀ is at most sqrt(‖G²‖).

    Of a tall matrix the smaller Gram matrix is Xᵀ X, which multiplies it from the right. To transpose it in memory, as
    torch does, takes longer on a CPU than an iteration.
    """
    tall = matrices_NMK.shape[1] > matrices_NMK.shape[2]
    if method == "newton_schulz":
        x_NMK = matrices_NMK / _norms(matrices_NMK, smallest=_SMALLEST_NORM)
        # X ← a X + (b G + c G²) X with G = X Xᵀ: each singular value s becomes a s + b s³ + c s⁵, and U and V stay
        for a, b, c in NEWTON_SCHULZ:
            gram_NMM = _gram(x_NMK)
            step_NMM = torch.baddbmm(gram_NMM, gram_NMM, gram_NMM, beta=b, alpha=c)
            factors = (x_NMK, step_NMM) if tall else (step_NMM, x_NMK)
            x_NMK = torch.baddbmm(x_NMK, *factors, beta=a)
        return x_NMK
    quintics, x_NMK = POLAR_EXPRESS[method], matrices_NMK
    rows, columns = sorted(x_NMK.shape[1:])
    # in G, which is the smaller, several polynomials cost less; in bf16 its error grows with each
    at_once = IN_GRAM_AT_ONCE if gram_pays(rows, columns, len(quintics)) else 1
    for first in range(0, len(quintics), at_once):
        gram_NMM = _gram(x_NMK)
        if first == 0:
            scale = _norms(gram_NMM, smallest=_SMALLEST_NORM**4)
            gram_NMM /= scale  # or its square might be less than the least number
            bound = _norms(gram_NMM @ gram_NMM, smallest=_SMALLEST_NORM).sqrt()
            gram_NMM /= bound
        product_NMM = _factor(gram_NMM, quintics[first])
        factor_NMM = product_NMM
        for quintic in quintics[first + 1 : first + at_once]:
            # X becomes P X with P = a + b G + c G², and so G becomes P G P
            gram_NMM = factor_NMM @ gram_NMM @ factor_NMM
            factor_NMM = _factor(gram_NMM, quintic)
            product_NMM = factor_NMM @ product_NMM
        if first == 0:  # G was divided, and X was not: P(X / √d) = (P / √d) X
            product_NMM = product_NMM * (scale * bound).rsqrt()
        x_NMK = x_NMK @ product_NMM if tall else product_NMM @ x_NMK
    return x_NMK


def _gram(x_NMK: Tensor) -> Tensor:
    """The smaller of the two."""
    return x_NMK.mT @ x_NMK if x_NMK.shape[1] > x_NMK.shape[2] else x_NMK @ x_NMK.mT


def _factor(gram_NMM: Tensor, quintic: _Quintic) -> Tensor:
    a, b, c = quintic
    factor_NMM = torch.baddbmm(gram_NMM, gram_NMM, gram_NMM, beta=b, alpha=c)
    factor_NMM.diagonal(dim1=1, dim2=2).add_(a)
    return factor_NMM


def _norms(matrices_NMM: Tensor, *, smallest: float) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(matrices_NMM, dim=(1, 2), keepdim=True)
    return norms.clamp(min=smallest)
