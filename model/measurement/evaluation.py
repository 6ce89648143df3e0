"""One exact pass over a split.

Every token of the split is a target exactly once, in windows whose block and batch belong to the evaluation and
not to the run, so that losses of different batch sizes, blocks and vocabularies can be compared. The seeds' own
metric, which drops a tail that depends on all three, is here too under its own name.

Shape suffixes: B batch, T positions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config.train_config import EvaluationConfig
from model.data.batches import evaluation_windows, official_coverage, official_windows
from model.data.tokenized_corpus import EncodedSplit
from model.hardware.precision import Precision
from model.network.gpt import GPT
from model.network.loss import cross_entropy, windows_at_once

_GPU_TOKENS_AT_ONCE = 2**16
"""Windows of a batch come to at least so many tokens on a GPU, which 64 short windows would leave idle."""


@dataclass(frozen=True)
class SplitScore:
    """Loss of a model on one split, title by title."""

    title_nats: NDArray[np.float64]
    """Nats of each title's tokens with its closing `<eos>`, shape (titles,)."""
    title_characters: NDArray[np.int64]
    """Characters of each title, its `<eos>` counted as 5."""
    tokens: int
    utf8_bytes: int
    """Of the titles, without `<eos>`."""

    @property
    def nats(self) -> float:
        """Summed loss of all tokens."""
        return float(self.title_nats.sum())

    @property
    def loss_per_character(self) -> float:
        """Nats over all target tokens ÷ characters of the split, each `<eos>` counted as 5 characters."""
        return self.nats / float(self.title_characters.sum())

    @property
    def nats_per_token(self) -> float:
        """Mean loss per token of this tokenizer."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(`nats_per_token`)."""
        return _exp(self.nats_per_token)

    @property
    def perplexity_per_character(self) -> float:
        """exp(`loss_per_character`)."""
        return _exp(self.loss_per_character)

    @property
    def bits_per_byte(self) -> float:
        """Nats, those of every `<eos>` among them, ÷ ln 2 ÷ UTF-8 bytes of the titles, without any for `<eos>`."""
        return self.nats / math.log(2) / self.utf8_bytes


@torch.inference_mode()
def score_split(
    model: GPT,
    split: EncodedSplit,
    *,
    eos_id: int,
    evaluation: EvaluationConfig,
    precision: Precision,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> SplitScore:
    """The loss of every title of `split`, without dropout.

    The split is read as one stream opened by an `<eos>`, in windows of `evaluation.block_size` tokens that do
    not overlap; the last one is ragged. Logits and targets (-1: none) of some windows after the other are shown to
    `observe`.

    Raises:
        CorpusError: the split is shorter than one window.
    """
    was_training = model.training
    model.eval()
    batch_size = evaluation.batch_size
    if model.token_embedding.weight.is_cuda:
        batch_size = max(batch_size, _GPU_TOKENS_AT_ONCE // evaluation.block_size)
    losses = [
        _losses(model, inputs_BT, targets_BT, precision, observe)
        for inputs_BT, targets_BT in evaluation_windows(
            split.tokens, eos_id=eos_id, block_size=evaluation.block_size, batch_size=batch_size
        )
    ]
    model.train(was_training)
    # what fills up the last window is behind the split's last token; this is the one wait for the device
    token_nats = torch.cat(losses).flatten()[: len(split.tokens)].cpu().numpy().astype(np.float64)
    return SplitScore(
        title_nats=np.add.reduceat(token_nats, split.starts[:-1]),
        title_characters=split.characters,
        tokens=len(token_nats),
        utf8_bytes=int(split.utf8_bytes.sum()),
    )


@torch.inference_mode()
def official_loss(
    model: GPT, split: EncodedSplit, *, block_size: int, batch_size: int, precision: Precision
) -> tuple[float, float]:
    """The seed documents' validation loss, and its coverage.

    Windows of block × batch + 1 tokens, the incomplete tail left out, divided by all characters of the split
    (MaincodeHQ/mainrun, `evaluate`).

    Raises:
        CorpusError: not one window fits.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=model.token_embedding.weight.device)
    for inputs_BT, targets_BT in official_windows(split.tokens, block_size=block_size, batch_size=batch_size):
        total += _losses(model, inputs_BT, targets_BT, precision).double().sum()
    model.train(was_training)
    coverage = official_coverage(len(split.tokens), block_size=block_size, batch_size=batch_size)
    return total.item() / float(split.characters.sum()), coverage


def _losses(
    model: GPT,
    inputs_BT: NDArray[Any],
    targets_BT: NDArray[Any],
    precision: Precision,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    device = model.token_embedding.weight.device
    targets = torch.from_numpy(targets_BT).to(device)
    losses = []
    with precision.autocast():
        hidden_BTD = model.hidden(torch.from_numpy(inputs_BT).to(device))
        rows = windows_at_once(model, hidden_BTD)
        for windows_BTD, window_targets_BT in zip(
            torch.split(hidden_BTD, rows), torch.split(targets, rows), strict=True
        ):
            logits_BTV = model.logits(windows_BTD)
            if observe is not None:
                observe(logits_BTV, window_targets_BT)
            losses.append(cross_entropy(logits_BTV, window_targets_BT))
    return torch.cat(losses)


def _exp(nats: float) -> float:
    """exp, with infinity for what a float cannot hold."""
    return math.exp(nats) if nats < 700 else math.inf
