"""This project's training run, as a worker of a study makes it."""

from types import SimpleNamespace

import numpy as np
from torch.profiler import record_function

from model.config.train_config import TrainConfig
from model.data.tokenized_corpus import EncodedSplit
from model.hardware import device as devices
from model.network import attention, gpt
from model.training import TrainingRun
from tests.benchmarks.speed.shapes import TITLES


class Way:
    """`TrainingRun` at `training.precision: auto`."""

    def __init__(self, shape, method, tokens, *, device, threads, **overrides):
        where = devices.choose(device, threads=threads)
        tree = shape.tree(method)
        for section, values in overrides.items():
            tree[section] |= values
        self.device = where.torch_device
        self.run = TrainingRun(TrainConfig.model_validate(tree), drawn_corpus(tokens), device=where)
        self.precision = self.run.precision.name

    def take_steps(self, number):
        self.run.train_steps(number)

    def evaluate(self):
        """The exact pass over the validation split."""
        self.run.score()

    def annotate(self):
        """Name the parts of a step that a profile cannot tell by their operators."""
        if self.device.type == "cpu":  # where it is several operators
            for module in (attention, gpt):
                _annotate(module, "dropout", "dropout")
        _annotate(self.run.stream, "batch", "data")
        _annotate(self.run.optimizers, "step", "optimizer")
        for name in ("ascend", "restore"):
            if self.run.sharpness:
                _annotate(self.run.sharpness, name, "optimizer")


def _annotate(owner, name, label):
    method = getattr(owner, name)

    def annotated(*arguments, **keywords):
        with record_function(label):
            return method(*arguments, **keywords)

    setattr(owner, name, annotated)


def drawn_corpus(tokens):
    """What a `TrainingRun` sees of a `TokenizedCorpus`: splits of titles of equal length."""

    def split(name):
        stream = tokens[name]
        length = len(stream) // TITLES if name == "validation" else 10
        starts = np.arange(0, len(stream) + 1, length)
        titles = len(starts) - 1
        return EncodedSplit(
            tokens=stream[: starts[-1]],
            starts=starts,
            characters=np.full(titles, 4 * length),
            utf8_bytes=np.full(titles, 4 * length),
        )

    return SimpleNamespace(split=split, tokenizer=SimpleNamespace(eos_id=0), fingerprint="drawn")
