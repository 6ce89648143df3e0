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

from model.config.optimization import SharpnessConfig
from model.errors import Diverged
from model.hardware import foreach
from model.hardware.precision import LossScaler
from model.optimization.optimizer import Optimizers


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
        self._copies: dict[Tensor, Tensor] = {}
        """By parameter; kept between steps, since one copy of a list is a few kernels and clones are one each."""

    @torch.no_grad()
    def ascend(self) -> None:
        """Move the weights along their unscaled, unclipped gradients, and remember them.

        Parameters without a gradient stay. Nothing is read back from the device.
        """
        assert not self._moved, "restore() comes between two ascents"
        self._moved = [p for p in self._parameters if p.grad is not None]
        if not self._moved:
            return
        self._copies |= {p: torch.empty_like(p) for p in self._moved if p not in self._copies}
        saved = self._saved()
        foreach.copy_(saved, self._moved)
        gradients = [p.grad for p in self._moved if p.grad is not None]
        if self.method == "sam":
            # equation 2 with p = 2: ε̂ = ρ g / ‖g‖; with 1e-12 a gradient of zeros moves nothing
            norm = torch.nn.utils.get_total_norm(gradients)
            ascent = foreach.mul(gradients, self.rho / (norm + 1e-12))
        else:
            # ε̂ = ρ T² g / ‖T g‖ with T = |w|; as T² g = w (w g) and ‖|w| g‖ = ‖w g‖, |w| itself is never needed
            weighted = foreach.mul(saved, gradients)
            norm = torch.nn.utils.get_total_norm(weighted)
            ascent = foreach.mul(saved, weighted)
            foreach.mul_(ascent, self.rho / (norm + 1e-12))
        foreach.add_(self._moved, ascent)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights back as they were before `ascend`, bit for bit."""
        if self._moved:
            foreach.copy_(self._moved, self._saved())
        self._moved = []

    def _saved(self) -> list[Tensor]:
        return [self._copies[p] for p in self._moved]


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
    loss_and_norm, finite = _gradient(compute_gradient, optimizers, sharpness, scaler)
    loss, grad_norm = loss_and_norm.tolist()  # the one wait of an fp32 step
    if scaler.enabled and not (finite and math.isfinite(loss) and math.isfinite(grad_norm)):
        scaler.update(overflowed=True)
        return StepResult(loss, math.nan, skipped=True)
    result = _result(loss, grad_norm)
    if before_update is not None:
        before_update()
    _clip(optimizers, loss_and_norm[1], clip_norm)
    optimizers.step()
    scaler.update(overflowed=False)
    return result


class QueuedStep:
    """A step as `take_step` makes it, whose outcome has not been waited for; in fp32 and bf16.

    While a GPU is at work on it the host prepares the next one. Should this one diverge, neither it nor any later step
    changes weights and optimizer state.

    Args: those of `take_step`.
    """

    def __init__(
        self,
        compute_gradient: Callable[[bool], Tensor],
        optimizers: Optimizers,
        *,
        sharpness: Sharpness | None,
        scaler: LossScaler,
        clip_norm: float | None,
    ) -> None:
        loss_and_norm, _ = _gradient(compute_gradient, optimizers, sharpness, scaler)
        # into pinned memory, where it comes from a GPU: the host would wait here otherwise. What it does for a step
        # beside launching the gradient takes 0.62 ms for 52 tensors, 1.04 ms with ASAM; a GPU would idle meanwhile
        self._values = loss_and_norm.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if loss_and_norm.is_cuda:
            # passed when the copy is done, and not only when all is that was queued behind it
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(loss_and_norm.device))
        _clip(optimizers, loss_and_norm[1], clip_norm)
        # decided on the device, since nobody here has looked at the loss yet
        optimizers.step_unless_ended(loss_and_norm)

    def result(self) -> StepResult:
        """What it did, waiting for it and for nothing that was queued later.

        Raises:
            Diverged: loss or gradient are not finite.
        """
        if self._copied is not None:
            self._copied.synchronize()
        return _result(*self._values.tolist())


def _gradient(
    compute_gradient: Callable[[bool], Tensor],
    optimizers: Optimizers,
    sharpness: Sharpness | None,
    scaler: LossScaler,
) -> tuple[Tensor, bool]:
    """Put the gradient that is to be applied, unscaled, into `.grad`.

    Returns:
        The loss and the gradient's norm, shape (2,), and false where the scaler has seen an overflow.
    """
    optimizers.zero_grad()
    loss = compute_gradient(False)
    finite = scaler.unscale(optimizers.parameters)  # before the ascent, whose norms an overflow would spoil
    if finite and sharpness is not None:
        sharpness.ascend()
        try:
            optimizers.zero_grad()  # the update takes the gradient at w + ε̂ alone, at the weights w
            compute_gradient(True)
        finally:  # running out of memory or an interrupt must not leave the moved weights behind
            sharpness.restore()
        finite = scaler.unscale(optimizers.parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in optimizers.parameters if p.grad is not None])
    return torch.stack([loss.to(norm), norm]), finite


def _result(loss: float, grad_norm: float) -> StepResult:
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise Diverged(f"non-finite step: loss {loss:g}, gradient norm {grad_norm:g}")
    return StepResult(loss, grad_norm, skipped=False)


def _clip(optimizers: Optimizers, norm: Tensor, clip_norm: float | None) -> None:
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(optimizers.parameters, clip_norm, norm)
