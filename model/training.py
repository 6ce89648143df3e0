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
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from model.checkpoint import Checkpoint, load_weights, read_tensors, write_tensors
from model.config.train_config import TrainConfig
from model.data.batches import official_coverage
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import CheckpointError, Diverged
from model.hardware.device import Device
from model.measurement.evaluation import SplitScore, official_loss, score_split
from model.measurement.evaluation_record import Evaluation
from model.steps import TrainingSteps


class TrainingRun(TrainingSteps):
    """One run of `config` over `data`.

    Args:
        config: what to train; epochs are turned into tokens here.
        data: tokenizer, train and validation split.
        device: where to train; also sets nothing global beyond torch's generator.
        weights: to begin with, in place of random ones.

    Raises:
        CheckpointError: the weights are of another network.
        ConfigError: the precision is not available on the device.
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
        super().__init__(config, data, device=device, weights=weights)
        self.tokenizer = data.tokenizer
        self.validation = data.split("validation")
        # refused now and not after the last step
        official_coverage(len(self.validation.tokens), **self._windows)
        self.evaluations: list[Evaluation] = []
        """One for every rung passed."""
        self._data_fingerprint = data.fingerprint
        self._stop_requested = False
        self._evaluation_seconds = 0.0

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
    def resumed(cls, path: Path, config: TrainConfig, data: TokenizedCorpus, *, device: Device) -> Self:
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
