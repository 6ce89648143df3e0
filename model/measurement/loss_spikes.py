"""Loss spikes: steps whose loss stands out from those just before."""

from collections.abc import Iterable

import numpy as np

WINDOW = 50
"""Losses before a step that it is judged by; the first steps of a run, which have fewer, are not judged."""
FACTOR = 6.0
"""Standard deviations above the median, as estimated from the median absolute deviation."""
_SIGMA_PER_MAD = 1.4826
"""Of a normal distribution: 1 ÷ its 75 % quantile."""


class LossSpikes:
    """The number of losses above median + `FACTOR` × 1.4826 × MAD of the `WINDOW` losses before each.

    MAD is the median of |loss - median|. Neither it nor the median moves for a few outliers, so that one spike does
    not hide the next. The count depends on the losses alone, and not on when it is asked for.
    """

    def __init__(self, losses: Iterable[float] = (), *, count: int = 0) -> None:
        self.losses = list(losses)
        """The last `WINDOW` judged ones and those not judged yet."""
        self._count = count

    def add(self, loss: float) -> None:
        """Take in the loss of one step; it has to be finite."""
        self.losses.append(loss)

    def count(self) -> int:
        """Spikes among all losses so far."""
        losses = np.array(self.losses)
        if len(losses) > WINDOW:
            before = np.lib.stride_tricks.sliding_window_view(losses[:-1], WINDOW)
            medians = np.median(before, axis=1)
            deviations = np.median(np.abs(before - medians[:, None]), axis=1)
            limits = medians + FACTOR * _SIGMA_PER_MAD * deviations
            self._count += int((losses[WINDOW:] > limits).sum())
            self.losses = self.losses[-WINDOW:]
        return self._count
