"""A training run of milliseconds for tests of what is around it.

It is a chain of hashes, whose end shows whether every step was done once and in order.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import structlog

from model.errors import CheckpointError
from model.measurement.evaluation_record import Evaluation
from service.confirmation.elimination import drops
from service.settings import Settings
from service.trials import gpt
from service.trials.gpt import GptRun
from service.trials.worker import Worker

STEPS_PER_RUNG = 4


def chain(lr: float, steps: int) -> str:
    link = repr(lr)
    for step in range(steps):
        link = hashlib.sha256(f"{link} {step}".encode()).hexdigest()
    return link


def loss(link: str) -> float:
    return int(link[:8], 16) / 2**32


class FastRun:
    """What a worker sees of a training run."""

    step_seconds = 0.003

    def __init__(self, config, data, *, device):
        self.config = config
        self._train_tokens, self._corpus_fingerprint = data.split("train").n_tokens, data.fingerprint
        self.precision = SimpleNamespace(name="fp32")
        self.evaluations: list[Evaluation] = []
        self.diagnostics: list[dict[str, object]] = []
        self.step = 0
        self._link = chain(config.optimizer.lr, 0)
        self._stopped = False

    @property
    def finished(self):
        return len(self.evaluations) == len(self.config.rungs)

    @property
    def tokens(self):
        return self.step

    def stop(self):
        self._stopped = True

    def __iter__(self):
        while not self.finished and not self._stopped:
            time.sleep(self.step_seconds)
            self._link = hashlib.sha256(f"{self._link} {self.step}".encode()).hexdigest()
            self.step += 1
            if self.step % STEPS_PER_RUNG == 0:
                rung = self.config.rungs[len(self.evaluations)]
                numbers = dict.fromkeys(
                    ("nats_per_token", "perplexity", "perplexity_per_char", "bits_per_byte", "train_loss",
                     "learning_rate", "gradient_norm", "train_seconds", "evaluation_seconds",
                     "tokens_per_second"), 1.0,
                )  # fmt: skip
                self.evaluations.append(
                    Evaluation(rung, self.step, rung, loss(self._link), peak_memory_bytes=None, **numbers)
                )
                yield self.evaluations[-1]

    def save(self, path):
        state = {
            "step": self.step,
            "link": self._link,
            "evaluations": [e.as_dict() for e in self.evaluations],
        }
        text = json.dumps(state)
        with path.open("w") as file:  # in two parts, so that some kills come between them
            file.write(text[: len(text) // 2])
            file.flush()
            time.sleep(self.step_seconds)
            file.write(text[len(text) // 2 :])

    @classmethod
    def resumed(cls, path, config, data, *, device):
        try:
            state = json.loads(path.read_text())
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        run = cls(config, data, device=device)
        run.step, run._link = state["step"], state["link"]
        run.evaluations = [Evaluation(**fields) for fields in state["evaluations"]]
        return run

    arithmetic = GptRun.arithmetic
    facts, origin, noted, drawn = GptRun.facts, GptRun.origin, GptRun.noted, GptRun.drawn

    def titles(self):
        return ()

    def write_checkpoint(self, folder, **_record):
        for name in ("model.safetensors", "checkpoint.json", "tokenizer.json"):
            (folder / name).write_bytes(b"x" * 100_000)


def train_fast() -> None:
    """Make the workers of this process and of its children train nothing but FastRun, and say nothing."""
    gpt.GptRun = FastRun
    sink = Path(os.devnull).open("w")  # noqa: SIM115 - for the life of the process
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sink))


def fork_worker(settings: Settings, study: str, owner: str, at_end=lambda: None) -> int:
    """The process id of a worker that ends when the study's trials are used up."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = structlog.get_logger()
        Worker(settings, study, owner=owner, threads=1, parent=None, drops=drops, log=log).work()
        at_end()
        status = 0
    finally:
        os._exit(status)
