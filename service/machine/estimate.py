"""What a trial will take on this machine, from a measurement of a few seconds."""

import time
from dataclasses import dataclass

from model.config.train_config import TrainConfig
from model.data.tokenized_corpus import TokenizedCorpus
from model.hardware import device
from model.hardware.device import Device
from model.training import TrainingRun
from service.settings import Settings
from service.storage.opened_study import open_study
from service.study.device_proof import prove_device


@dataclass(frozen=True)
class TrialTime:
    """Time of one whole trial, measured on its first steps."""

    train_seconds: float
    evaluation_seconds: float
    tokens_per_second: float
    device: str

    @property
    def seconds(self) -> float:
        """Training and evaluations."""
        return self.train_seconds + self.evaluation_seconds


def measure_study(settings: Settings, study: str, *, threads: int | None, seconds: float) -> TrialTime:
    """`measure` of a study's base configuration on this machine's device. Raises UserError: it cannot be trained."""
    opened = open_study(settings, study)
    where = device.choose(settings.device, threads=threads)
    prove_device(opened.definition, where.torch_device.type)
    config = opened.definition.gpt_config("an estimate").with_tokens(opened.facts["budget_tokens"])
    data = TokenizedCorpus.prepare(opened.corpus, config.tokenizer, cache=settings.cache)
    return measure(config, data, device=where, seconds=seconds)


def measure(config: TrainConfig, data: TokenizedCorpus, *, device: Device, seconds: float) -> TrialTime:
    """Train `config` for about `seconds` and evaluate once."""
    run = TrainingRun(config, data, device=device)
    config = run.config
    warm_up = run.train_steps(2)  # kernels are chosen and memory is taken in the first ones
    del warm_up
    begun, taken = run.step, 0.0
    at_once = 20 if device.runs_ahead else 1  # the end of several is waited for
    while taken < seconds and run.step < config.total_steps:
        taken += run.train_steps(at_once)
    step_seconds = taken / max(1, run.step - begun)
    started = time.perf_counter()
    run.score()
    device.synchronize()
    evaluation_seconds = time.perf_counter() - started
    return TrialTime(
        train_seconds=step_seconds * config.total_steps,
        evaluation_seconds=evaluation_seconds * len(config.rungs),
        tokens_per_second=config.tokens_per_step / step_seconds if step_seconds else float("nan"),
        device=device.description,
    )
