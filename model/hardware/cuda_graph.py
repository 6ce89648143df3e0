"""The gradient of a micro-batch, and an update of many kernels, as CUDA graphs that are replayed at every step.

The kernels of a small model take a few microseconds each, less than Python takes to launch one, and a GPU that is fed
one by one mostly waits. A graph launches all of them at once (PyTorch documentation, "CUDA Graphs"). What it buys is a
column of `tests/benchmarks/results/training.md`.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.hardware import foreach
from model.hardware.device import Device

AddGradient = Callable[[Tensor, Tensor], Tensor]
"""Adds a micro-batch's gradient to `.grad`, from inputs and targets of shape (B, T); its loss, without a graph."""
_TOLERANCE = 1e-2
"""Largest ‖replayed - computed‖ ÷ ‖computed‖ of a gradient. Sums in another order differ by bf16's rounding; other
dropout masks by 0.28, 0.60 and 1.08 at a dropout of 0.01, 0.05 and 0.2 (2.56M parameters, 1,024 tokens)."""


@dataclass(frozen=True)
class _Recording:
    inputs: Tensor
    targets: Tensor
    replay: Callable[[], None]
    loss: Tensor


class RecordedGradient:
    """`add_gradient`, recorded at the first call with inputs of a shape and replayed from then on.

    A recording is used only if its gradient and loss are those of `add_gradient`, which is checked once, under the
    same random state; where it cannot be made or differs, `add_gradient` goes on being called, with a warning. Random
    numbers follow torch's generator as ever: what seeds it before a call seeds the replay.

    Args:
        add_gradient: what is recorded. All that it reads, other than its arguments, has to stay where it is in memory.
        parameters: of the model, in which it finds `.grad`. Setting that to None drops a gradient as ever.
        device: where they are, which does the recording.
    """

    def __init__(self, add_gradient: AddGradient, parameters: Iterable[Tensor], device: Device) -> None:
        self._add_gradient = add_gradient
        self._parameters = tuple(parameters)
        self._device = device
        self._recordings: dict[torch.Size, _Recording | None] = {}
        self._buffers: dict[Tensor, Tensor] = {}
        """The memory that every recording adds the gradient of a parameter to."""

    def is_replayed(self) -> bool:
        """Whether there is a recording in use. After a step `.grad` is then where it was after the one before."""
        return any(self._recordings.values())

    def __call__(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """What `add_gradient` does and returns. The loss is overwritten by the next call."""
        shape = inputs_BT.shape
        if shape not in self._recordings:
            self._recordings[shape] = self._record(inputs_BT, targets_BT)
        recording = self._recordings[shape]
        if recording is None:
            return self._add_gradient(inputs_BT, targets_BT)
        # a graph reads and writes the memory that it was recorded with, whatever tensors it is called with
        recording.inputs.copy_(inputs_BT)
        recording.targets.copy_(targets_BT)
        self._put_buffers_in_place()
        recording.replay()
        return recording.loss

    def _put_buffers_in_place(self) -> None:
        """Have every parameter's `.grad` be its buffer, with the same content; None counts as zeros."""
        others = [
            (parameter, buffer) for parameter, buffer in self._buffers.items() if parameter.grad is not buffer
        ]
        if others:
            # the graph adds to what is there
            foreach.zero_([buffer for _, buffer in others])
        for parameter, buffer in others:
            if parameter.grad is not None:
                buffer.copy_(parameter.grad)
            parameter.grad = buffer

    def _record(self, inputs_BT: Tensor, targets_BT: Tensor) -> _Recording | None:
        """A recording for this shape; None where none is available. Gradients and random state stay."""
        gradients = [parameter.grad for parameter in self._parameters]
        contents = [None if gradient is None else gradient.clone() for gradient in gradients]
        generator = self._device.generator
        state = generator.get_state()
        try:
            return self._checked_recording(inputs_BT.clone(), targets_BT.clone(), generator, state)
        except RuntimeError as error:  # what CUDA and torch refuse, running out of memory among it
            _warn(error)
            # whatever a recording that breaks off has left behind, none is used that was checked before it
            self._recordings = {size: None for size, kept in self._recordings.items() if kept is None}
            return None
        finally:
            generator.set_state(state)
            for parameter, gradient, content in zip(self._parameters, gradients, contents, strict=True):
                parameter.grad = gradient
                if gradient is not None and content is not None:
                    gradient.copy_(content)

    def _checked_recording(
        self, inputs_BT: Tensor, targets_BT: Tensor, generator: torch.Generator, state: Tensor
    ) -> _Recording:
        for parameter in self._parameters:
            parameter.grad = None
        # without a graph: what the replay is held against. `.grad` shows which parameters get a gradient at all
        loss = self._add_gradient(inputs_BT, targets_BT)
        computed = {parameter: parameter.grad for parameter in self._parameters if parameter.grad is not None}
        for parameter, gradient in computed.items():
            parameter.grad = self._buffers.setdefault(parameter, torch.empty_like(gradient))
        replay, replayed_loss = self._device.capture(lambda: self._add_gradient(inputs_BT, targets_BT))
        replayed = [self._buffers[parameter] for parameter in computed]
        foreach.zero_(replayed)  # the warm-up's calls have added to them
        generator.set_state(state)  # the same dropout masks as without a graph
        replay()
        # ‖replayed - computed‖ ÷ ‖computed‖ over all parameters together: one that is small may be all rounding
        off = torch.nn.utils.get_total_norm(foreach.sub(replayed, list(computed.values())))
        off /= torch.nn.utils.get_total_norm(list(computed.values()))
        off_by = torch.maximum(off, (replayed_loss / loss - 1).abs()).item()
        if not off_by <= _TOLERANCE:  # nor is it within where it is NaN
            raise RuntimeError(f"a replay is off by {off_by:.2g} of the gradient or the loss")
        return _Recording(inputs_BT, targets_BT, replay, replayed_loss)


class RecordedUpdate:
    """An update in place, recorded at the second call in a row with all tensors where they were, replayed from then on.

    Where it cannot be recorded, or what it works on moves in memory, it goes on being called.

    Args:
        update: what is recorded. It leaves everything as it is while `ended` is 1, and has to be able to.
        ended: of shape (), where `update` reads it.
        device: where both are, which does the recording.
    """

    def __init__(self, update: Callable[[], None], ended: Tensor, device: Device) -> None:
        self._update = update
        self._ended = ended
        self._device = device
        self._places: list[int] = []
        self._replay: Callable[[], None] | None = None

    def __call__(self, tensors: Iterable[Tensor]) -> None:
        """Do the update, which reads and writes `tensors`."""
        places = [tensor.data_ptr() for tensor in tensors]
        if places != self._places:
            self._places, self._replay = places, None
            self._update()
            return
        if self._replay is None:
            self._replay = self._record()
        self._replay()

    def _record(self) -> Callable[[], None]:
        ended = self._ended.clone()
        self._ended.fill_(1)  # a recording takes a few calls, which are to change nothing
        try:
            return self._device.capture(self._update_for_capture)[0]
        except RuntimeError as error:
            _warn(error)
            return self._update
        finally:
            self._ended.copy_(ended)

    def _update_for_capture(self) -> Tensor:
        self._update()
        return self._ended


def _warn(error: RuntimeError) -> None:
    warnings.warn(f"training goes on without a CUDA graph: {_root(error)}", RuntimeWarning, stacklevel=3)


def _root(error: BaseException) -> BaseException:
    """What came first. The end of a capture that has broken off says only that it has."""
    while error.__context__ is not None:
        error = error.__context__
    return error
