"""What an earlier study makes one expect: a guess of the losses, which is one more effect for the model to weigh.

The guess is the mean of a process of that study's ends alone. In this study's process (`service.search.process`) it
stands beside the main effects, with a weight that is as uncertain as theirs: a handful of losses tell whether it is
right, of no use, or the wrong way round. So an earlier study that misleads costs the few trials that are begun where
it was best, and no more.

Of a choice that none of its trials had it knows nothing, and says as much good as of its best. Were the guess that it
is as the others, a search would go to the hill that the earlier study knew and stay there: 0.164 of random search's
tokens on `studies/samplers-hard` after a study of AdamW alone, where Muon is best, in place of 0.085 without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.search.coordinates import Array, Coordinates
from service.search.levels import levelled
from service.search.process import CurveProcess, Points, Shape, on_one_core
from service.study.samplers import FEWEST_EARLIER
from service.study.search_space import SearchSpace, Values, key_of

_MOST, _FITTED = 500, 192
_LEAST = 0.5
"""Deviation of a guess over its own trials, whose losses have one of 1, below which it stays as small as it is: losses
without an order would otherwise be made an effect of."""


@dataclass(frozen=True)
class Earlier:
    """One earlier study, seen in the space of another one."""

    tried: tuple[Values, ...]
    """The points of the space that are nearest to its trials', the best first."""
    _process: CurveProcess
    _middle: float
    _scale: float
    _best: float
    """The least that the process says of its own trials."""
    _unseen: NDArray[np.bool_]
    """Of every column: it is a choice that none of them had, where they had another."""

    @classmethod
    @on_one_core
    def of(cls, space: SearchSpace, seen: Sequence[tuple[Values, float]]) -> "Earlier":
        """By whole trials.

        Args:
            space: of the study that is to learn from it.
            seen: values of the space's parameters, as far as a trial had them, and its loss; at least `FEWEST_EARLIER`.
        """
        assert len(seen) >= FEWEST_EARLIER, "fewer make one expect nothing"
        best_first = sorted(seen, key=lambda trial: trial[1])
        rng = np.random.default_rng(0)
        if len(best_first) > _MOST:
            others = rng.permutation(np.arange(_MOST // 2, len(best_first)))[: _MOST // 2]
            best_first = best_first[: _MOST // 2] + [best_first[i] for i in np.sort(others)]
        coordinates = Coordinates(space)
        losses = levelled(np.array([loss for _, loss in best_first]))
        points = _ends(coordinates.rows([values for values, _ in best_first]))
        fit_on = np.sort(rng.permutation(len(losses))[:_FITTED])
        shape = Shape(coordinates.owner, coordinates.ordered)
        process = CurveProcess.fitted(shape, points, losses, fit_on=fit_on)
        # what it says of its own trials, so that a guess is of the size of an effect; it may know a part of the space
        own, _ = process.predicted(points)
        near = {key_of(point): point for values, _ in best_first if (point := coordinates.nearest(values))}
        tried = tuple(near.values())
        tried_here = points.rows.any(axis=0)
        owner_tried = np.bincount(coordinates.owner, tried_here)[coordinates.owner] > 0
        unseen = ~coordinates.ordered & owner_tried & ~tried_here
        scale = max(float(own.std()), _LEAST)
        return cls(tried, process, float(own.mean()), scale, float(own.min()), unseen)

    def guess(self, rows: Array) -> Array:
        """Of the losses at the rows of the space, with mean 0 and a deviation of 1 at most over its own trials."""
        mean, _ = self._process.predicted(_ends(rows))
        mean = np.where(rows[:, self._unseen].any(axis=1), self._best, mean)
        return (mean - self._middle) / self._scale


def _ends(rows: Array) -> Points:
    return Points(rows, np.ones(len(rows)), -2 - np.arange(len(rows)))
