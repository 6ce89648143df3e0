"""Windows over a stream of tokens: for training, for the exact pass, and as the seed documents evaluate.

Shape suffixes: B windows in a batch, T positions of a window. All are int64, as an embedding wants them.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import CorpusError

Tokens = NDArray[np.integer[Any]]
Windows = NDArray[np.int64]

IGNORED = -1
"""Target of a position behind the end of the split; it has no loss."""


class TrainingStream:
    """The batches of a training run, a pure function of the step: a run resumes from its step number alone.

    Window i has inputs `tokens[i*T : (i+1)*T]` and targets one token later; the tail that fills no window is
    left out. Step s takes windows s*B to s*B + B-1 of the endless sequence of epochs. All that an epoch draws
    follows from `seed` and its number.

    Args:
        tokens: The encoded train split, shape (n_tokens,).
        block_size: T, tokens of a window.
        batch_size: B, windows of a batch; a batch may reach into the next epoch.
        shuffle: Every epoch takes its windows in an order of its own; else in natural order.
        seed: From 0.
        starts: Where each title begins and where the last one ends, shape (n_titles + 1,): every epoch joins
            the titles in an order of its own. None leaves them as they are.
        random_offset: Every epoch cuts its windows from an offset of its own, 0 to T-1. What comes before it is
            joined to the end, so that there are as many windows.

    Raises:
        CorpusError: there is not one window with its targets in `tokens`.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        block_size: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        starts: NDArray[np.int64] | None = None,
        random_offset: bool = False,
    ) -> None:
        _require(len(tokens), block_size + 1, "train split", f"model.block_size {block_size}")
        self._tokens = tokens
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._starts = starts
        self._random_offset = random_offset
        self._offsets_T = np.arange(block_size)
        self.windows_per_epoch = (len(tokens) - 1) // block_size
        """Different windows that there are."""
        # Two epochs, since a batch that ends one begins the next.
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def batch(self, step: int) -> tuple[Windows, Windows]:
        """Inputs and targets of update `step` (the first is 0), each of shape (B, T)."""
        numbers_B = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epochs_B, windows_B = np.divmod(numbers_B, self.windows_per_epoch)
        shape = (self._batch_size, len(self._offsets_T))
        inputs_BT, targets_BT = np.empty(shape, np.int64), np.empty(shape, np.int64)
        for epoch in range(epochs_B[0], epochs_B[-1] + 1):
            here = epochs_B == epoch
            tokens, order = self._epoch(epoch)
            positions_BT = order[windows_B[here], None] * len(self._offsets_T) + self._offsets_T
            inputs_BT[here], targets_BT[here] = tokens[positions_BT], tokens[positions_BT + 1]
        return inputs_BT, targets_BT

    def _draw_epoch(self, epoch: int) -> tuple[Tokens, NDArray[np.int64]]:
        """The stream of an epoch, and the order of its windows."""
        tokens, order = self._tokens, np.arange(self.windows_per_epoch)
        if self._shuffle:
            order = self._generator(epoch).permutation(self.windows_per_epoch)
        if self._starts is not None:
            titles = self._generator(epoch, 1).permutation(len(self._starts) - 1)
            tokens = _rejoined(tokens, self._starts, titles)
        if self._random_offset:
            tokens = np.roll(tokens, -int(self._generator(epoch, 2).integers(len(self._offsets_T))))
        return tokens, order

    def _generator(self, epoch: int, *purpose: int) -> np.random.Generator:
        """One for every purpose, so that none of them changes what another draws; the orders' has no number."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch, *purpose])))


def _rejoined(tokens: Tokens, starts: NDArray[np.int64], titles: NDArray[np.int64]) -> Tokens:
    """The stream of the same titles in the order `titles`, each with its `<eos>`."""
    lengths = np.diff(starts)[titles]
    begins = np.cumsum(lengths) - lengths
    return tokens[np.repeat(starts[titles] - begins, lengths) + np.arange(len(tokens))]


def evaluation_windows(
    tokens: Tokens, *, eos_id: int, block_size: int, batch_size: int
) -> Iterator[tuple[Windows, Windows]]:
    """Inputs and targets of the exact pass: every token of the split is a target exactly once, in order.

    The stream is read with an `<eos>` before its first token; windows do not overlap. The last one is filled
    up with `<eos>` inputs and `IGNORED` targets.

    Args:
        tokens: An encoded split, shape (n_tokens,).
        eos_id: The token before the first.
        block_size: T, tokens of a window.
        batch_size: B, windows of a batch; the last batch may have fewer.

    Returns:
        Pairs of shape (B, T).

    Raises:
        CorpusError: the split is shorter than one window. At the call, before the first pair.
    """
    _require(len(tokens), block_size, "split", f"evaluation.block_size {block_size}")
    n_windows = -(-len(tokens) // block_size)
    targets_NT = np.full((n_windows, block_size), IGNORED, dtype=np.int64)
    targets_NT.ravel()[: len(tokens)] = tokens
    inputs_NT = np.full((n_windows, block_size), eos_id, dtype=np.int64)
    inputs_NT.ravel()[1 : len(tokens)] = tokens[:-1]
    return (
        (inputs_NT[i : i + batch_size], targets_NT[i : i + batch_size])
        for i in range(0, n_windows, batch_size)
    )


def official_windows(
    tokens: Tokens, *, block_size: int, batch_size: int
) -> Iterator[tuple[Windows, Windows]]:
    """Inputs and targets as the seeds' `evaluate()` takes them (MaincodeHQ/mainrun, `iter_full_split`).

    Chunks of block × batch + 1 tokens follow each other without overlap, so that the first token of a chunk
    is no target, and the tail that fills no chunk is left out. `official_coverage` says how much that is.

    Returns:
        Pairs of shape (batch_size, block_size).

    Raises:
        CorpusError: not one chunk fits. At the call, before the first pair. (The original gives a loss of 0.)
    """
    span = _official_span(len(tokens), block_size, batch_size)
    chunks = (tokens[i * span : (i + 1) * span].astype(np.int64) for i in range(len(tokens) // span))
    shape = (batch_size, block_size)
    return ((chunk[:-1].reshape(shape), chunk[1:].reshape(shape)) for chunk in chunks)


def official_coverage(n_tokens: int, *, block_size: int, batch_size: int) -> float:
    """Share of a split's tokens that are targets in `official_windows`, above 0 and below 1.

    Raises:
        CorpusError: not one chunk fits.
    """
    span = _official_span(n_tokens, block_size, batch_size)
    return n_tokens // span * (span - 1) / n_tokens


def _official_span(n_tokens: int, block_size: int, batch_size: int) -> int:
    span = block_size * batch_size + 1
    _require(n_tokens, span, "split", f"block {block_size} and batch {batch_size} of the official metric")
    return span


def _require(n_tokens: int, needed: int, what: str, setting: str) -> None:
    if n_tokens < needed:
        raise CorpusError(
            f"the {what} has {n_tokens} tokens, {setting} needs {needed}: give more documents or lower it"
        )
