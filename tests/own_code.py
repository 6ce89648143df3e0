"""Studies of training code that is not ours: a class so small that a trial takes no time, and ones that are wrong."""

from pathlib import Path

from tests.conftest import TinyStudy, tiny_study

RUN = '''\
import json
import random


class Run:
    """Its value falls by chance, at a rate of its own."""

    def __init__(self, config, rungs, device):
        self.config, self.rungs, self.step, self.stopped = config, rungs, 0, False
        self.random, self.value = random.Random(config["seed"]), 1.0

    def __iter__(self):
        while self.step < self.rungs[-1] and not self.stopped:
            self.train()
            self.step += 1
            if self.step in self.rungs:
                yield self.step, self.value

    def train(self):
        self.value *= 1 - self.config["rate"] * self.random.random()

    def save(self, folder):
        (folder / "state.json").write_text(json.dumps([self.step, self.value, self.random.getstate()]))

    def restore(self, folder):
        self.step, self.value, (kind, numbers, gauss) = json.loads((folder / "state.json").read_text())
        self.random.setstate((kind, tuple(numbers), gauss))

    def stop(self):
        self.stopped = True
'''
BASE = "seed: 1\nrate: 0.1\nkind: plain\n"
SPACE = """\
space:
  rate: {type: float, low: 0.01, high: 0.5}
sampler: {name: random}
"""
HEAD = """\
question: How low does it come?
run: falling:Run
base: config.yaml
budget: {amount: 9, unit: strides, rungs: 3}
metric: height
"""


def write_own(
    folder: Path, *, source: str = RUN, base: str = BASE, body: str = SPACE, head: str = HEAD
) -> Path:
    """A study of the class in `source`, with its base file, in this folder; its file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "falling.py").write_text(source)
    (folder / "config.yaml").write_text(base)
    (folder / "study.yaml").write_text(head + body)
    return folder / "study.yaml"


def own_study(folder: Path, **files: str) -> TinyStudy:
    """A study called `tiny` of such a class, with places of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    study = tiny_study(folder)
    write_own(study.file.parent, **files)
    return study


def altered(old: str, new: str) -> str:
    """The class with something else in it."""
    assert old in RUN
    return RUN.replace(old, new)
