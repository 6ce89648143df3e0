"""The training run: an iterator of evaluations.

    for evaluation in TrainingRun(config, data, device=device):
        print(evaluation.val_loss)      # leaving the loop is pruning

Its whole state is a pure function of the configuration and the updates done: batches and dropout masks follow
from the step number, so a run that is saved, killed and restored ends with the same bits on a CPU.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, load_weights, read_tensors, write_tensors
from model.config.train_config import TrainConfig
from model.data.batches import TrainingStream, official_coverage
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import CheckpointError, Diverged
from model.hardware import precision
from model.hardware.cuda_graph import AddGradient, RecordedGradient
from model.hardware.device import Device
from model.measurement.diagnostics import Diagnostics, Record
from model.measurement.evaluation import SplitScore, official_loss, score_split
from model.measurement.evaluation_record import Evaluation
from model.network.gpt import GPT
from model.network.loss import add_gradient
from model.optimization import optimizer, sharpness
from model.optimization.schedule import learning_rate_factor
from model.optimization.sharpness import QueuedStep, StepResult, take_step
from model.optimization.weight_average import WeightAverage


class TrainingRun:
    """One run of `config` over `data`.

    Args:
        config: what to train; epochs are turned into tokens here.
        data: tokenizer, train and validation split.
        device: where to train; also sets nothing global beyond torch's generator.
        weights: to begin with, in place of random ones.

    Raises:
        CheckpointError: the weights are of another network.
        ConfigError: the precision is not to be had on the device.
        CorpusError: a split is shorter than one window.
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
        self.tokenizer = data.tokenizer
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
        self.validation = data.split("validation")
        # refused now and not after the last step
        official_coverage(len(self.validation.tokens), **self._windows)
        self.step = 0
        """Steps done."""
        self._updates = 0
        """Those of them that changed the weights: not the ones skipped for an fp16 overflow."""
        self.evaluations: list[Evaluation] = []
        """One for every rung passed."""
        self._diagnostics = (
            Diagnostics(config, self.model, self.optimizers, device, self.precision)
            if config.diagnostics.measures
            else None
        )
        self._data_fingerprint = data.fingerprint
        self._stop_requested = False
        self._train_seconds = self._evaluation_seconds = 0.0
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
            self._add_gradient = RecordedGradient(self._add_gradient, self.model.parameters(), device)
        self._queues_steps = ahead and self.optimizers.can_end_unseen
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

    @property
    def finished(self) -> bool:
        """Every rung has been evaluated."""
        return len(self.evaluations) == len(self.config.rungs)

    def stop(self) -> None:
        """End the iteration after the current step, without an evaluation. Safe in a signal handler."""
        self._stop_requested = True

    def __iter__(self) -> Iterator[Evaluation]:
        """Train, and yield an evaluation at every rung; always one at the end of the budget.

        Raises:
            Diverged: the loss or the gradient became non-finite; the weights are those before that step.
        """
        self.model.train()
        rungs = self.config.rungs
        try:
            while not self.finished:
                rung = rungs[len(self.evaluations)]
                while self.step < self.config.rung_step(rung) and not self._stop_requested:
                    self._train_step()
                self._finish_steps()
                if self._stop_requested:
                    return
                self.evaluations.append(self._evaluate(rung))
                yield self.evaluations[-1]
        except Diverged as error:
            if self._diagnostics:
                self._diagnostics.diverged(error)
            raise

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
        how: dict[str, Any] = {
            "sharpness": self.sharpness,
            "scaler": self.scaler,
            "clip_norm": config.optimizer.clip_norm,
        }
        if self._queues_steps and not measured:
            queued = QueuedStep(compute_gradient, self.optimizers, **how)
            self._look_at_queued()
            self._queued = queued
            updated = True
        else:
            before_update = diagnostics.before_update if diagnostics else None
            result = take_step(compute_gradient, self.optimizers, **how, before_update=before_update)
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

    def _evaluate(self, rung_tokens: int) -> Evaluation:
        started = time.perf_counter()
        score = self.score(self._diagnostics.start_evaluation() if self._diagnostics else None)
        if not math.isfinite(score.nats):
            raise Diverged(f"validation loss {score.nats} after step {self.step}")
        official = coverage = None
        if rung_tokens == self.config.rungs[-1]:
            official, coverage = official_loss(
                self.evaluated_model, self.validation, **self._windows, precision=self.precision
            )
        self.device.synchronize()
        self._evaluation_seconds += time.perf_counter() - started
        if self._steps_since_rung:
            train_loss = self._loss_since_rung / self._steps_since_rung
        elif self.evaluations:  # several rungs within one step
            train_loss = self.evaluations[-1].train_loss
        else:  # every step so far was skipped for an fp16 overflow
            train_loss = math.nan
        self._loss_since_rung = 0.0
        self._steps_since_rung = 0
        if self._diagnostics:
            self._diagnostics.finish_evaluation(rung_tokens)
        return Evaluation(
            rung_tokens=rung_tokens,
            step=self.step,
            tokens=self.tokens,
            val_loss=score.loss_per_character,
            nats_per_token=score.nats_per_token,
            perplexity=score.perplexity,
            perplexity_per_char=score.perplexity_per_character,
            bits_per_byte=score.bits_per_byte,
            train_loss=train_loss,
            learning_rate=self.optimizers.learning_rate,
            gradient_norm=self._gradient_norm,
            train_seconds=self._train_seconds,
            evaluation_seconds=self._evaluation_seconds,
            tokens_per_second=self.tokens / self._train_seconds,
            peak_memory_bytes=self.device.peak_memory_bytes(),
            val_loss_official=official,
            coverage=coverage,
        )

    def score(self, observe: Callable[[Tensor, Tensor], None] | None = None) -> SplitScore:
        """The exact pass over the validation split by the model that is evaluated; `observe` sees its batches."""
        return score_split(
            self.evaluated_model,
            self.validation,
            eos_id=self.tokenizer.eos_id,
            evaluation=self.config.evaluation,
            precision=self.precision,
            observe=observe,
        )

    def save(self, path: Path) -> None:
        """Write the state to one file. Raises OSError when the disk is full; a former file then stays whole."""
        facts = {
            "identity": self._identity(),
            "step": self.step,
            "updates": self._updates,
            "evaluations": [evaluation.as_dict() for evaluation in self.evaluations],
            "loss_since_rung": self._loss_since_rung,
            "steps_since_rung": self._steps_since_rung,
            "gradient_norm": self._gradient_norm,
            "train_seconds": self._train_seconds,
            "evaluation_seconds": self._evaluation_seconds,
            "scaler": self.scaler.state_dict(),
        }
        weights = {f"model.{key}": tensor for key, tensor in self.model.state_dict().items()}
        average = self._average.flat_state() if self._average else {}
        measured = self._diagnostics.flat_state() if self._diagnostics else {}
        write_tensors(path, weights | average | measured | self.optimizers.flat_state(), facts)

    @classmethod
    def resumed(
        cls, path: Path, config: TrainConfig, data: TokenizedCorpus, *, device: Device
    ) -> "TrainingRun":
        """The run of these arguments, from its saved state on.

        Raises:
            CheckpointError: the file is missing, truncated, foreign, or of another configuration, corpus or version.
        """
        # always a run of its own: one that a refused state has half filled is never seen
        run = cls(config, data, device=device)
        try:
            run._load(path)
        except CheckpointError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: incomplete or of another version: {error!r}") from None
        return run

    def _load(self, path: Path) -> None:
        tensors, facts = read_tensors(path)
        if facts.get("identity") != self._identity():
            raise CheckpointError(f"{path}: the state of another run: configuration or corpus differ")
        weights = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
        load_weights(self.model, weights, str(path))
        if self._average:
            self._average.load_flat_state(tensors, str(path))
        self.optimizers.load_flat_state({k: t for k, t in tensors.items() if k.startswith("optimizer.")})
        self.scaler.load_state_dict(facts["scaler"])
        self.step = facts["step"]
        self._updates = facts["updates"]
        if self.step:  # the next evaluation may come before the next step, and reports the last one's rate
            self._set_learning_rate(self.step - 1)
        self.evaluations = [Evaluation(**fields) for fields in facts["evaluations"]]
        self._loss_since_rung = facts["loss_since_rung"]
        self._steps_since_rung = facts["steps_since_rung"]
        self._gradient_norm = facts["gradient_norm"]
        if self._diagnostics:
            self._diagnostics.load_flat_state(tensors)
        self._train_seconds = facts["train_seconds"]
        self._evaluation_seconds = facts["evaluation_seconds"]

    def _identity(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json", exclude={"data"})
        return {"config": json.loads(json.dumps(config)), "corpus": self._data_fingerprint}

    def checkpoint(self, **record: Any) -> Checkpoint:
        """The evaluated model as it is now; `record` is kept with it."""
        weights = {k: t.detach().cpu().clone() for k, t in self.evaluated_model.state_dict().items()}
        last = self.evaluations[-1].as_dict() if self.evaluations else None
        return Checkpoint(self.config, self.tokenizer, weights, {"evaluation": last, **record})
