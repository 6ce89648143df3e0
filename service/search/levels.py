"""Losses as a process takes them: of one size, the bad ones by their logarithm."""

import numpy as np

from service.search.coordinates import Array

_WORST = 8.0
"""Of the distance of the best from the median."""


def levelled(losses: Array) -> Array:
    """Losses of mean 0 and deviation 1, of which bad ones count by their logarithm.

    Bad is worse than the median by more than the best is better: by how much is of little interest, and would set the
    scale of all. Beyond `_WORST` of it there is no worse: one loss that has exploded would blur what sets the others
    apart.
    """
    away, _ = _away(losses)
    return np.asarray((away - away.mean()) / max(float(away.std()), 1e-9))


def unit_of(losses: Array) -> float:
    """What a unit of the levelled losses is in those that are given, below the median and a little above."""
    away, span = _away(losses)
    return float(away.std()) * span


def _away(losses: Array) -> tuple[Array, float]:
    """How far from the median, by the distance of the best, which is the second."""
    middle = float(np.median(losses))
    span = max(middle - float(losses.min()), 1e-9)
    away = (losses - middle) / span
    return np.asarray(np.where(away > 1, 1 + np.log(np.clip(away, 1.0, _WORST)), away)), span
