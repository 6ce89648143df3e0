"""Mixed precision: which number format a step computes in, and loss scaling for fp16.

Weights, gradients and optimizer state stay in fp32; `autocast` runs the matrix products in the short format
(Micikevicius et al. 2018, "Mixed Precision Training", arXiv 1710.03740).
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from model.config.train_config import precision_misfit
from model.errors import ConfigError, Diverged
from model.hardware import foreach

PrecisionName = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[PrecisionName, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Precision:
    """The number format of matrix products on one kind of device."""

    name: PrecisionName
    reason: str
    """Why this one, as a plain sentence."""
    device_type: str

    @property
    def dtype(self) -> torch.dtype:
        """Of the operands of matrix products."""
        return _DTYPES[self.name]

    def autocast(self) -> AbstractContextManager[Any]:
        """A context for one forward pass and its loss.

        It must not span two passes of SAM: autocast keeps the shortened weights until it is left, and would
        compute the second pass with those of the first.
        """
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.name != "fp32")


def choose(name: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """The precision called `name` on `device`; `auto` takes the fastest one the hardware computes in.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    if name == "auto":
        chosen, reason = automatic(device.type, bf16_in_hardware=has_bf16(device))
        return Precision(chosen, reason, device.type)
    if misfit := precision_misfit(name, device.type):
        raise ConfigError(f"training.precision: {misfit}")
    return Precision(name, f"The configuration asks for {name}.", device.type)


def automatic(device_type: str, *, bf16_in_hardware: bool) -> tuple[PrecisionName, str]:
    """What `auto` means on such a device, and why as a plain sentence.

    The CPU's choice is measured: forward and backward pass of a two-block GPT, 64 windows of 64 tokens, 4,000
    entries, on an AMD EPYC with AVX512-BF16. The time in bf16 was 0.51, 0.39 and 0.33 of that in fp32 at
    d_model 192, 384 and 512 with one thread; 0.53, 0.42 and 0.35 with two.
    """
    match device_type, bf16_in_hardware:
        case "cuda", True:
            return "bf16", "This GPU multiplies in bf16, which needs no loss scaling."
        case "cuda", False:
            return "fp16", "This GPU has no bf16 units, so fp16 with loss scaling is used."
        case _, True:
            return "bf16", "This CPU has bf16 instructions, which are two to three times as fast as fp32."
        case _:
            return (
                "fp32",
                f"This {device_type.upper()} has no bf16 instructions, and without them bf16 does not pay.",
            )


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bf16, rather than emulates it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            # torch also says yes where bf16 is emulated, as before compute capability 8; fp16 is faster there
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # amx_bf16 is the unit itself, not the bare tile registers that torch.cpu's private query looks at
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False))


class LossScalerState(TypedDict):
    """What a `LossScaler` remembers."""

    scale: float
    good_steps: int


class LossScaler:
    """A dynamic loss scale that keeps small fp16 gradients from being flushed to zero.

    The scale doubles after `growth_interval` good steps in a row and halves on an overflow (arXiv 1710.03740,
    section 3.2, with the constants of `torch.amp.GradScaler`). It is our own because GradScaler refuses to
    unscale twice in one step, which SAM needs.

    Args:
        enabled: false for fp32 and bf16. The scale is then 1 and no method costs anything.
        initial_scale: of the first step.
        growth_interval: good steps before the scale doubles.
    """

    def __init__(self, *, enabled: bool, initial_scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.enabled = enabled
        self.scale = initial_scale if enabled else 1.0
        self._growth_interval = growth_interval
        self._good_steps = 0

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` on."""
        return loss * self.scale if self.enabled else loss

    @torch.no_grad()
    def unscale(self, parameters: Sequence[Tensor]) -> bool:
        """Divide all gradients by the scale, in place; whether all of them are finite.

        A disabled scaler does not look at them and says true: an fp32 or bf16 step learns it from the
        gradient norm, without waiting for the device once more.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not self.enabled or not gradients:
            return True
        overflow = torch.zeros((), device=gradients[0].device)
        inverse = torch.full((), 1 / self.scale, device=gradients[0].device)
        foreach.unscale_(gradients, overflow, inverse)
        return not overflow.item()

    def update(self, *, overflowed: bool) -> None:
        """Set the scale of the next step, from whether this one overflowed.

        Raises:
            Diverged: gradients overflow even at scale 1. Skipping on and on would never end.
        """
        if not self.enabled:
            return
        if overflowed:
            self._good_steps = 0
            if self.scale <= 1:
                raise Diverged(f"gradient not finite in fp16 at loss scale {self.scale:g}")
            self.scale /= 2
            return
        self._good_steps += 1
        if self._good_steps == self._growth_interval:
            self._good_steps = 0
            if math.isfinite(torch.tensor(self.scale * 2, dtype=torch.float32).item()):
                self.scale *= 2

    def state_dict(self) -> LossScalerState:
        """What `load_state_dict` needs to go on."""
        return {"scale": self.scale, "good_steps": self._good_steps}

    def load_state_dict(self, state: LossScalerState) -> None:
        """Resume from a saved state."""
        self.scale = state["scale"]
        self._good_steps = state["good_steps"]
