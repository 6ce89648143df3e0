"""A study so small that a trial takes half a second, and what runs it."""

import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from optuna.trial import FrozenTrial

from service.create import create
from service.settings import Settings
from service.slots import Slots
from service.storage import load_study, open_storage
from service.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    "a", "the", "old", "new", "red", "cat", "dog", "tree", "runs", "sees", "finds", "small", "green", "house",
    "river", "stone", "bird", "code", "in", "on",
)  # fmt: skip
SPACE = """\
space:
  optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}
sampler: {name: random}
"""


@dataclass(frozen=True)
class TinyStudy:
    """A study file, a corpus and a place of their own in one folder."""

    folder: Path
    settings: Settings

    @property
    def file(self) -> Path:
        return self.folder / "tiny" / "study.yaml"

    def write(self, body: str = SPACE, *, source: str = "file", **fixed: Any) -> None:
        keys = {
            "data.source": source,
            "data.num_documents": 1000,
            "data.held_out_documents": 200,
            "tokenizer.vocab_size": 300,
            "model.n_layer": 1,
            "model.n_head": 1,
            "model.d_model": 16,
            "model.block_size": 16,
            "evaluation.block_size": 16,
            "training.epochs": "null",
            "training.tokens": 9_000,
            "training.batch_size": 8,
            "training.rungs": 3,
        } | fixed
        if source == "file":
            keys["data.path"] = self.folder / "corpus.txt"
        lines = "".join(f"  {key}: {value}\n" for key, value in keys.items() if value is not None)
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(f"question: Does it work?\nfixed:\n{lines}{body}")

    def write_corpus(self, *, seed: int = 0) -> None:
        (self.folder / "corpus.txt").write_text("".join(f"{text}\n" for text in sentences(seed)))

    def create(self, more: int | None = None, **arguments: Any) -> None:
        create(self.settings, str(self.file), **{"overrides": {}, "more": more, "say": print} | arguments)

    def worker(self) -> Worker:
        log = structlog.get_logger()
        return Worker(self.settings, "tiny", index=0, threads=1, parent=None, log=log)

    def trials(self) -> list[FrozenTrial]:
        return load_study(open_storage(self.settings), "tiny", self.settings)[0].get_trials()

    def slots(self) -> dict[str, int]:
        storage = open_storage(self.settings)
        study = load_study(storage, "tiny", self.settings)[0]
        return Slots(storage.engine, study._study_id, owner="test", lease_seconds=60).counts()

    def command(self, *arguments: str) -> dict[str, Any]:
        """What subprocess needs to run a verb on this study."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HPTUNE_STORAGE_URL": self.settings.storage_url,
            "HPTUNE_ARTIFACTS": str(self.settings.artifacts),
            "HPTUNE_CACHE": str(self.settings.cache),
            "HPTUNE_DEVICE": "cpu",
            "HPTUNE_LEASE_SECONDS": str(self.settings.lease_seconds),
        }
        return {"args": [sys.executable, "-m", "service", *arguments], "env": environment, "text": True}


def sentences(seed: int) -> list[str]:
    generator = random.Random(seed)
    drawn = (" ".join(generator.choices(WORDS, k=6)) for _ in range(1500))
    return list(dict.fromkeys(drawn))


def tiny_study(folder: Path) -> TinyStudy:
    places = Settings(
        storage_url=f"sqlite:///{folder / 'study.db'}",
        artifacts=folder / "artifacts",
        cache=folder / "cache",
        device="cpu",
        lease_seconds=1.0,
    )
    study = TinyStudy(folder, places)
    study.write_corpus()
    study.write()
    return study


@pytest.fixture
def tiny(tmp_path) -> TinyStudy:
    return tiny_study(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> TinyStudy:
    """A study with three complete trials; its tests do not change its trials."""
    study = tiny_study(tmp_path_factory.mktemp("finished"))
    study.write(SPACE + "keep_checkpoints: 2\n")
    study.create(3)
    study.worker().work()
    return study
