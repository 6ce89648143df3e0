"""Sharpness-aware minimisation, and the step that ties gradient, ascent, clipping and update together.

SAM: Foret et al. 2021, arXiv 2010.01412, eq. 2. Adaptive SAM: Kwon et al. 2021, arXiv 2102.11600, algorithm 1
with T_w = |w| for every parameter, biases included, and no constant added to it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.config import SharpnessConfig
from model.errors import Diverged
from model.optimizer import Optimizers
from model.precision import LossScaler


class Sharpness:
    """The ascent to the worst weights nearby, to first order, and the way back.

    Args:
        parameters: those that are moved; one norm is taken over all of them together.
        method: `sam` moves by rho g / ‖g‖, `asam` by rho w² g / ‖|w| g‖, with 1e-12 added to the norm.
        rho: radius, above 0.
    """

    def __init__(self, parameters: Sequence[Tensor], *, method: Literal["sam", "asam"], rho: float) -> None:
        self.method = method
        self.rho = rho
        self._parameters = tuple(parameters)
        self._moved: list[Tensor] = []
        self._saved: list[Tensor] = []

    @torch.no_grad()
    def ascend(self) -> None:
        """Move the weights along their unscaled, unclipped gradients, and remember them.

        Parameters without a gradient stay. Nothing is read back from the device.
        """
        assert not self._moved, "restore() comes between two ascents"
        self._moved = [p for p in self._parameters if p.grad is not None]
        self._saved = [p.detach().clone() for p in self._moved]
        if not self._moved:
            return
        gradients = [p.grad for p in self._moved if p.grad is not None]
        if self.method == "sam":
            norm = torch.nn.utils.get_total_norm(gradients)
            ascent = torch._foreach_mul(gradients, self.rho / (norm + 1e-12))
        else:
            # ‖|w| g‖ = ‖w g‖
            weighted = torch._foreach_mul(self._saved, gradients)
            norm = torch.nn.utils.get_total_norm(weighted)
            ascent = torch._foreach_mul(self._saved, weighted)
            torch._foreach_mul_(ascent, self.rho / (norm + 1e-12))
        torch._foreach_add_(self._moved, ascent)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back as they were before `ascend`, bit for bit."""
        if self._moved:
            torch._foreach_copy_(self._moved, self._saved)
        self._moved, self._saved = [], []


def build(model: nn.Module, config: SharpnessConfig) -> Sharpness | None:
    """What `config` asks for, around all parameters of `model`; None for plain gradients."""
    if config.method == "none":
        return None
    return Sharpness(list(model.parameters()), method=config.method, rho=config.rho)


@dataclass(frozen=True)
class StepResult:
    """What a step did."""

    loss: float
    """Nats a token of the first pass, before the update. May be non-finite where the step was skipped."""
    grad_norm: float
    """Global L2 norm, before clipping, of the gradient that was applied; NaN where the step was skipped."""
    skipped: bool
    """The fp16 gradients overflowed: weights and optimizer state are as before, the loss scale has halved."""


def take_step(
    compute_gradient: Callable[[bool], Tensor],
    optimizers: Optimizers,
    *,
    sharpness: Sharpness | None,
    scaler: LossScaler,
    clip_norm: float | None,
    before_update: Callable[[], None] | None = None,
) -> StepResult:
    """Make one update.

    Args:
        compute_gradient: adds the gradients of the scaled loss of the whole batch to `.grad`, over as many
            micro-batches as it likes, and returns the unscaled loss, detached. It is called with false, and
            once more with true for the second pass of `sharpness`.
        optimizers: of the parameters that get gradients.
        sharpness: for the gradient at the worst weights nearby; None for the plain one.
        scaler: of the loss; disabled in fp32 and bf16.
        clip_norm: largest global L2 norm of the gradient that is applied; None for no clipping.
        before_update: called when an update is certain, with weights as before the step and the gradient that
            is applied, unscaled and not clipped yet.

    Raises:
        Diverged: loss or gradient are not finite in fp32 or bf16, or in fp16 even at loss scale 1. Weights
            and optimizer state are those before the step.
    """
    parameters = optimizers.parameters
    optimizers.zero_grad()
    loss = compute_gradient(False)
    finite = scaler.unscale(parameters)
    if finite and sharpness is not None:
        sharpness.ascend()
        try:
            optimizers.zero_grad()
            compute_gradient(True)
        finally:  # running out of memory or an interrupt must not leave the moved weights behind
            sharpness.restore()
        finite = scaler.unscale(parameters)

    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    loss_nats, grad_norm = torch.stack([loss.to(norm), norm]).tolist()  # the one wait of an fp32 step
    if not (finite and math.isfinite(loss_nats) and math.isfinite(grad_norm)):
        if not scaler.enabled:
            raise Diverged(f"non-finite step: loss {loss_nats:g}, gradient norm {grad_norm:g}")
        scaler.update(overflowed=True)
        return StepResult(loss_nats, math.nan, skipped=True)

    if before_update is not None:
        before_update()
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    optimizers.step()
    scaler.update(overflowed=False)
    return StepResult(loss_nats, grad_norm, skipped=False)
