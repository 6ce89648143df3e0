"""What further whole trials would likely bring, and whether they are worth it."""

import math
from dataclasses import dataclass

import numpy as np

from service.search.coordinates import Array
from service.search.process import CurveProcess, Points

AHEAD = 10
"""Trials that are forecast together."""
_DRAWS = 512
_QUANTILES = 0.1, 0.9


@dataclass(frozen=True)
class Forecast:
    """Of the fall of the best loss, in nats."""

    gain: float
    """Expected of the most promising trial, once it has been trained to its end."""
    ahead: float
    """Expected of the best of `AHEAD` trials, chosen now."""
    low: float
    high: float
    """Between which that lies in eight cases of ten."""
    trials: int = AHEAD

    @property
    def shown(self) -> str:
        """For people."""
        return (
            f"one more trial is expected to lower the best loss by {self.gain:.4f}, {AHEAD} more by {self.ahead:.4f} "
            f"(in eight cases of ten between {self.low:.4f} and {self.high:.4f})"
        )


def forecast(
    process: CurveProcess, ends: Points, chances: Array, gains: Array, *, best: float, unit: float, seed: int
) -> Forecast:
    """By draws from the process, which has seen what has been trained so far.

    Args:
        process: of the losses.
        ends: of the promising trials, begun or not, at the whole budget.
        chances: of each, to get there.
        gains: of each, the expected improvement, in units of the process.
        best: loss of the best whole trial, as the process has it.
        unit: nats that one unit of the process stands for.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    mean, covariance = process.jointly(ends)
    values, vectors = np.linalg.eigh(covariance)  # of rank below full where trials are alike
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = mean + rng.standard_normal((_DRAWS, len(mean))) @ root.T
    falls = np.maximum(best - drawn, 0.0) * (rng.random(drawn.shape) < chances)
    together = np.zeros(_DRAWS)
    expected: list[float] = []
    for _ in range(min(AHEAD, len(mean))):
        # the one that adds the most to those chosen before
        with_each = np.maximum(together[:, None], falls)
        together = with_each[:, int(with_each.mean(0).argmax())]
        expected.append(float(together.mean()) * unit)
    low, high = (float(np.quantile(together, q)) * unit for q in _QUANTILES)
    if not math.isfinite(expected[-1]):
        raise FloatingPointError("a forecast is no number")
    gain = float(gains.max()) * unit
    return Forecast(gain, max(expected[-1], gain), low, high)
