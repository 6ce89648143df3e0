"""What a training run measures of itself, as flat records; nothing of it changes the training.

Every `diagnostics.every`-th step is a measured step. Its record has `kind` "step", `step` (updates done, this one
among them), `tokens` (seen by then) and, each at its own instant of that step:

    train_loss                  nats a token of this batch, dropout on, before the update
    grad_norm                   sqrt(Σ g²) over all parameters, unscaled, before clipping; with SAM of the second pass
    grad_norm/<layer>, norm_gain_grad_norm/<place>, norm_bias_grad_norm/<place>
                                of the same gradient: `measurements.gradient_norms`
    parameter_norm              before the update: `measurements.weight_norm`
    activation_rms/<place>, attention_entropy/<place>
                                weights before the update, four sequences of this batch, dropout off:
                                `measurements.stream_and_attention`
    update_norm, update_to_parameter_ratio
                                after the update: `measurements.update_norms`
    effective_step/<layer>/p05, p50, p95, signal_to_noise/<layer>
                                as they entered the update, with Adam or AdamW: `measurements.adam_steps`
    learning_rate               of this update (first parameter group)
    data_seconds                until the batch is on the device
    step_seconds                from there to the end of the update, without what the measurements take; the device
                                is waited for before and after
    tokens_per_second           tokens of a step ÷ step_seconds
    flops_per_second            that × `counts.flops_per_token`
    utilisation                 that ÷ `matrix_rate.matrix_rate` of this device and number format
    memory_allocated_bytes, memory_reserved_bytes
                                largest of PyTorch's CUDA allocator since the run began; on a GPU alone
    diagnostics_seconds         what this record took
    loss_spikes                 steps so far, measured or not, whose loss stood out: `loss_spikes.LossSpikes`
    nonfinite_events            so far: steps, measured or not, without a finite loss and gradient (skipped in fp16,
                                or the end of the run), and values of records that are not finite

Where a step is skipped there is no gradient and no update, and their names are missing, as are Adam's with another
optimizer. A value that is not finite is null (JSON has no NaN) and counted; it is never a number. A run that diverges
ends with a record that has `diverged`: why.

A record of `kind` "evaluation" has `rung_tokens`, `step`, `tokens`, the figures of `calibration.Predictions` if
`diagnostics.evaluation` asks for them, `loss_spikes` and `nonfinite_events`.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from model.config.counts import flops_per_token
from model.config.train_config import TrainConfig
from model.errors import Diverged
from model.hardware.device import Device
from model.hardware.matrix_rate import matrix_rate
from model.hardware.precision import Precision
from model.measurement import measurements
from model.measurement.calibration import Predictions
from model.measurement.loss_spikes import LossSpikes
from model.network.gpt import GPT
from model.optimization.optimizer import Optimizers
from model.optimization.sharpness import StepResult

Record = dict[str, Any]


class Diagnostics:
    """Follows one run, measures every `diagnostics.every`-th step and, where asked to, every evaluation.

    For each step, in this order: `start`, `data_ready`, `before_update` if there is an update, and `finish` or
    `diverged`. On other steps than the measured ones they do next to nothing, `before_update` may be left out, and
    `finish` may come when the next such step has begun.

    Args:
        config: of the run.
        model: that is trained.
        optimizers: of its parameters.
        device: where they are.
        precision: of the run's matrix products, for the utilisation.
    """

    def __init__(
        self, config: TrainConfig, model: GPT, optimizers: Optimizers, device: Device, precision: Precision
    ) -> None:
        self.records: list[Record] = []
        """In the order of time."""
        self._config = config
        self._model = model
        self._optimizers = optimizers
        self._device = device
        self._matrix_rate = matrix_rate(device, precision) if config.diagnostics.every else math.nan
        self._predictions: Predictions | None = None
        self._spikes = LossSpikes()
        self._nonfinite_events = 0
        self._step = 0
        self._clock = 0.0
        self._measured = False  # the step under way, and what is known of it:
        self._seconds: dict[str, float] = {}
        self._inputs_BT = torch.empty(0)
        self._weights: list[Tensor] = []
        self._values: measurements.Values = {}
        self._memory: dict[str, int] = {}

    def measures(self, step: int) -> bool:
        """Whether that step, counted from 1, is one of the measured ones."""
        every = self._config.diagnostics.every
        return every > 0 and step % every == 0

    def start(self, step: int) -> None:
        """Step number `step` begins, counted from 1; its batch comes next."""
        self._step = step
        self._measured = self.measures(step)
        if self._measured:
            self._values, self._weights, self._memory = {}, [], {}
            self._seconds = {"diagnostics": 0.0}
            self._lap()

    def data_ready(self, inputs_BT: Tensor) -> None:
        """The batch is on the device."""
        if self._measured:
            self._seconds["data"] = self._lap()
            self._inputs_BT = inputs_BT[: measurements.SEQUENCES]

    @torch.no_grad()
    def before_update(self) -> None:
        """The gradient is there, unscaled and not clipped; the weights are those before the update."""
        if not self._measured:
            return
        self._seconds["step"] = self._lap()
        if self._device.torch_device.type == "cuda":
            self._memory = {
                "memory_allocated_bytes": torch.cuda.max_memory_allocated(self._device.torch_device),
                "memory_reserved_bytes": torch.cuda.max_memory_reserved(self._device.torch_device),
            }
        self._weights = [parameter.detach().clone() for parameter in self._model.parameters()]
        self._values = {
            **measurements.gradient_norms(self._model),
            **measurements.weight_norm(self._model),
            **measurements.stream_and_attention(self._model, self._inputs_BT, seed=self._config.seed),
        }
        self._seconds["diagnostics"] += self._lap()

    @torch.no_grad()
    def finish(self, result: StepResult) -> float:
        """The step is done. The seconds that measuring it took, which are not of training."""
        if result.skipped:
            self._nonfinite_events += 1
        else:
            self._spikes.add(result.loss)
        if not self._measured:
            return 0.0
        self._seconds["step"] = self._seconds.get("step", 0.0) + self._lap()
        if not result.skipped:
            self._values |= measurements.update_norms(self._model, self._weights)
            self._values |= measurements.adam_steps(self._model, self._optimizers)
        self._weights = []
        self._add_step_record(result)
        return self._seconds["diagnostics"]

    def diverged(self, error: Diverged) -> None:
        """The step, or the evaluation after it, has raised this error, and the run is over."""
        self._nonfinite_events += 1
        self.records.append({**self._heading("step"), "diverged": str(error), **self._events()})

    def start_evaluation(self) -> Callable[[Tensor, Tensor], None] | None:
        """What has to be given the logits and targets of the evaluation that begins; None where they are not needed."""
        if not self._config.diagnostics.evaluation:
            return None
        self._predictions = Predictions(self._config.evaluation.block_size, self._device.torch_device)
        return self._predictions.add

    def finish_evaluation(self, rung_tokens: int) -> None:
        """The evaluation of this rung is done."""
        figures = self._predictions.figures() if self._predictions else {}
        record = {**self._heading("evaluation"), "rung_tokens": rung_tokens, **figures, **self._events()}
        self.records.append(record)

    def flat_state(self) -> dict[str, Tensor]:
        """All that this remembers. As bytes, since many records would outgrow the header of a safetensors file."""
        events = self._events()  # drops the losses that it has judged
        state = {"step": self._step, "losses": self._spikes.losses, **events, "records": self.records}
        packed = bytearray(json.dumps(state, allow_nan=False).encode())
        return {"diagnostics": torch.frombuffer(packed, dtype=torch.uint8)}

    def load_flat_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from a saved state."""
        state = json.loads(tensors["diagnostics"].numpy().tobytes())
        self._step = state["step"]
        self._spikes = LossSpikes(state["losses"], count=state["loss_spikes"])
        self._nonfinite_events = state["nonfinite_events"]
        self.records = state["records"]

    def _events(self) -> dict[str, int]:
        return {"loss_spikes": self._spikes.count(), "nonfinite_events": self._nonfinite_events}

    def _lap(self) -> float:
        """Seconds since the last call, the device waited for."""
        self._device.synchronize()
        now = time.perf_counter()
        passed, self._clock = now - self._clock, now
        return passed

    def _heading(self, kind: Literal["step", "evaluation"]) -> Record:
        return {"kind": kind, "step": self._step, "tokens": self._step * self._config.tokens_per_step}

    def _add_step_record(self, result: StepResult) -> None:
        step_seconds = self._seconds["step"]
        tokens_per_second = self._config.tokens_per_step / step_seconds
        flops_per_second = flops_per_token(self._config) * tokens_per_second
        names = list(self._values)
        measured = torch.stack(list(self._values.values())).tolist() if names else []
        losses = {"train_loss": result.loss}
        if not result.skipped:
            losses["grad_norm"] = result.grad_norm
        values = {
            **losses,
            **dict(zip(names, measured, strict=True)),
            "learning_rate": self._optimizers.learning_rate,
            "data_seconds": self._seconds["data"],
            "step_seconds": step_seconds,
            "tokens_per_second": tokens_per_second,
            "flops_per_second": flops_per_second,
            "utilisation": flops_per_second / self._matrix_rate,
            **self._memory,
        }
        if not result.skipped:  # a skipped step is one event already
            self._nonfinite_events += sum(not math.isfinite(value) for value in values.values())
        events = self._events()
        self._seconds["diagnostics"] += self._lap()
        seconds = {"diagnostics_seconds": self._seconds["diagnostics"]}
        self.records.append({**self._heading("step"), **_with_nulls(values), **seconds, **events})


def as_lines(records: Sequence[Record]) -> str:
    """The content of `diagnostics.jsonl`: a JSON object a line."""
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)


def _with_nulls(values: Record) -> Record:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
