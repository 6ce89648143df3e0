"""The models that are trained for speed: the seed documents' three, and their 40M at 512 tokens.

All are GPT-2's block with dropout 0.1. That of the 40M is the size of its document's model, whose rotary positions and
RMSNorm are left out, so that every contender trains the same thing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TITLES = 10_000
"""Of the validation split."""
METHODS = ("adamw", "asam")


@dataclass(frozen=True)
class Shape:
    """A model, its batch, and how long a trial of it is."""

    name: str
    n_layer: int
    d_model: int
    n_head: int
    block_size: int
    vocab_size: int
    batch_size: int
    trial_steps: int
    """Updates of a trial in its seed document."""
    title_tokens: int
    """Of a title of the validation split, with its `<eos>`."""
    dropout: float = 0.1

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.block_size

    def tree(self, method: str) -> dict[str, Any]:
        """The run as `TrainConfig` reads it: the seeds' recipe with a constant rate and no end."""
        return {
            "tokenizer": {"vocab_size": self.vocab_size},
            "model": {
                "n_layer": self.n_layer,
                "d_model": self.d_model,
                "n_head": self.n_head,
                "block_size": self.block_size,
                "dropout": self.dropout,
            },
            "optimizer": {
                **ADAMW,
                "clip_norm": CLIP_NORM,
                "weight_decay_on": "all",
                "sharpness": {"method": "none" if method == "adamw" else method, "rho": RHO},
            },
            "schedule": {"decay": "constant", "warmup_fraction": 0},
            "training": {"batch_size": self.batch_size, "tokens": 10**12},
            "evaluation": {"block_size": min(64, self.block_size), "batch_size": 64},
        }


ADAMW = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.01}
CLIP_NORM = 1.0
RHO = 0.05
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("2.56M", 4, 192, 3, 64, 4_000, 64, trial_steps=2_415, title_tokens=16),
        Shape("12.2M", 6, 384, 6, 64, 4_000, 64, trial_steps=2_415, title_tokens=16),
        Shape("27.2M", 6, 512, 8, 128, 16_000, 64, trial_steps=938, title_tokens=12),
        Shape("40M", 12, 384, 6, 512, 49_152, 8, trial_steps=2_000, title_tokens=12),
    )
}
TINY = Shape("tiny", 2, 32, 2, 16, 300, 4, trial_steps=100, title_tokens=12)
"""For `--quick`."""


def write_tokens(shape: Shape, folder: Path) -> Path:
    """A file with the splits `train` and `validation`, drawn so that few tokens are frequent, as in text (Zipf)."""
    path = folder / f"{shape.name}.npz"
    if not path.exists():
        chances = 1 / (3 + np.arange(shape.vocab_size))
        rng = np.random.default_rng(0)
        sizes = {"train": 300 * shape.tokens_per_step, "validation": TITLES * shape.title_tokens}
        draw = {
            name: rng.choice(shape.vocab_size, size, p=chances / chances.sum()).astype(np.uint16)
            for name, size in sizes.items()
        }
        np.savez(path, **draw)
    return path
