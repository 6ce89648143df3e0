"""The steps of a training run: one batch, one update, and what is counted of them.

On a device that runs ahead of the program a step is queued and its outcome looked at when the next one has been queued,
so that the device never waits for the program. What comes between steps is `model.training`'s.
"""

import math
import time
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from model.checkpoint import load_weights
from model.config.train_config import TrainConfig
from model.data.batches import TrainingStream
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import Diverged
from model.hardware import precision
from model.hardware.cuda_graph import AddGradient, RecordedGradient
from model.hardware.device import Device
from model.measurement.diagnostics import Diagnostics, Record
from model.network.gpt import GPT
from model.network.loss import add_gradient
from model.optimization import optimizer, sharpness
from model.optimization.schedule import learning_rate_factor
from model.optimization.sharpness import QueuedStep, StepResult, take_step
from model.optimization.weight_average import WeightAverage


class TrainingSteps:
    """A model, what updates it, and where it is in its training data.

    Args:
        config: what to train; epochs are turned into tokens here.
        data: tokenizer and train split.
        device: where to train; also sets nothing global beyond torch's generator.
        weights: to begin with, in place of random ones.

    Raises:
        CheckpointError: the weights are of another network.
        ConfigError: the precision is not available on the device.
        CorpusError: the train split is shorter than one window.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: TokenizedCorpus,
        *,
        device: Device,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        train = data.split("train")
        self.config = config = config.with_token_budget(len(train.tokens))
        self.device = device
        self.precision = precision.choose(config.training.precision, device.torch_device)
        self.scaler = precision.LossScaler(enabled=self.precision.name == "fp16")
        self.model = GPT(config, seed=config.seed, eos_id=data.tokenizer.eos_id).to(device.torch_device)
        if weights is not None:
            load_weights(self.model, weights, "checkpoint")
        self.optimizers = optimizer.build(self.model, config.optimizer, device=device.torch_device)
        decay = config.training.ema
        self._average = None if decay is None else WeightAverage(self.model, decay=decay)
        self.evaluated_model = self._average.model if self._average else self.model
        """What is evaluated and checkpointed: the average of the weights where one is kept."""
        self.sharpness = sharpness.build(self.model, config.optimizer.sharpness)
        self._windows = {"block_size": config.model.block_size, "batch_size": config.training.batch_size}
        self.stream = TrainingStream(
            train.tokens,
            **self._windows,
            shuffle=config.training.shuffle,
            seed=config.seed,
            starts=train.starts if config.training.shuffle_titles else None,
            random_offset=config.training.random_offset,
        )
        self.step = 0
        """Steps done."""
        self._updates = 0
        """Those of them that changed the weights: not the ones skipped for an fp16 overflow."""
        self._diagnostics = (
            Diagnostics(config, self.model, self.optimizers, device, self.precision)
            if config.diagnostics.measures
            else None
        )
        self._train_seconds = 0.0
        self._loss_since_rung = 0.0
        self._steps_since_rung = 0
        self._gradient_norm = math.nan
        self._add_gradient: AddGradient = partial(
            add_gradient,
            self.model,
            settings=config.training,
            tokens=config.tokens_per_step,
            precision=self.precision,
            scaler=self.scaler,
        )
        # fp16's scale changes, so that it cannot be recorded, and depends on what the step before has said
        ahead = device.runs_ahead and not self.scaler.enabled
        if ahead:
            recorded = RecordedGradient(self._add_gradient, self.model.parameters(), device)
            self.optimizers.record_updates(device, gradients_stay=recorded.is_replayed)
            self._add_gradient = recorded
        self._queues_steps = ahead
        self._queued: QueuedStep | None = None
        """The last step, where its outcome has not been looked at."""

    @property
    def tokens(self) -> int:
        """Training tokens seen."""
        return self.step * self.config.tokens_per_step

    @property
    def diagnostics(self) -> list[Record]:
        """What was measured, in the order of time (see `model.measurement.diagnostics`); empty unless asked for."""
        return self._diagnostics.records if self._diagnostics else []

    def train_steps(self, number: int) -> float:
        """Take up to `number` steps without evaluating; the seconds they took. To measure speed."""
        before = self._train_seconds
        for _ in range(min(number, self.config.total_steps - self.step)):
            self._train_step()
        self._finish_steps()
        return self._train_seconds - before

    def _train_step(self) -> None:
        started = time.perf_counter()
        config, diagnostics = self.config, self._diagnostics
        measured = diagnostics is not None and diagnostics.measures(self.step + 1)
        if measured:
            self._look_at_queued()
        if diagnostics:
            diagnostics.start(self.step + 1)
        inputs_BT, targets_BT = map(self.device.upload, self.stream.batch(self.step))
        if diagnostics:
            diagnostics.data_ready(inputs_BT)
        micro = config.training.micro_batch_size or len(inputs_BT)

        def compute_gradient(second_pass: bool) -> Tensor:
            pass_ = int(second_pass and not config.optimizer.sharpness.same_dropout)
            total = torch.zeros((), device=self.device.torch_device)
            for part, (x_BT, y_BT) in enumerate(
                zip(torch.split(inputs_BT, micro), torch.split(targets_BT, micro), strict=True)
            ):
                self.device.seed_step(config.seed, self.step, 2 * part + pass_)
                total += self._add_gradient(x_BT, y_BT)
            return total

        self._set_learning_rate(self.step)
        sharpness, scaler, clip_norm = self.sharpness, self.scaler, config.optimizer.clip_norm
        if self._queues_steps and not measured:
            queued = QueuedStep(
                compute_gradient, self.optimizers, sharpness=sharpness, scaler=scaler, clip_norm=clip_norm
            )
            self._look_at_queued()
            self._queued = queued
            updated = True
        else:
            before_update = diagnostics.before_update if diagnostics else None
            result = take_step(
                compute_gradient,
                self.optimizers,
                sharpness=sharpness,
                scaler=scaler,
                clip_norm=clip_norm,
                before_update=before_update,
            )
            started += self._count(result)
            updated = not result.skipped
        self.step += 1
        if updated:
            self._updates += 1
            if self._average:
                self._average.update(self.model, updates=self._updates)
        self._train_seconds += time.perf_counter() - started

    def _look_at_queued(self) -> None:
        """Wait for the step that is queued, if there is one. Raises Diverged, with the run as it was before it."""
        queued, self._queued = self._queued, None
        if queued is None:
            return
        try:
            self._count(queued.result())
        except Diverged:
            self.step -= 1
            self._updates -= 1
            if self._diagnostics:  # its record is of that step, not of the one begun since
                self._diagnostics.start(self.step + 1)
            raise

    def _count(self, result: StepResult) -> float:
        """Take in the outcome of a step; the seconds that measuring it took."""
        if not result.skipped:  # a step skipped for an fp16 overflow has no loss worth counting
            self._gradient_norm = result.grad_norm
            self._loss_since_rung += result.loss
            self._steps_since_rung += 1
        return self._diagnostics.finish(result) if self._diagnostics else 0.0

    def _finish_steps(self) -> None:
        """Wait for all steps, in what counts as training time. Raises Diverged."""
        started = time.perf_counter()
        self._look_at_queued()
        self.device.synchronize()
        self._train_seconds += time.perf_counter() - started

    def _set_learning_rate(self, step: int) -> None:
        config = self.config
        factor = learning_rate_factor(step, config.total_steps, config.schedule, peak_lr=config.optimizer.lr)
        self.optimizers.set_learning_rate(factor)
