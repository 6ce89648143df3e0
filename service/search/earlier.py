"""What an earlier study makes one expect: a guess of the losses, which is one more effect for the model to weigh.

The guess is the mean of a process of that study's ends alone. In this study's process (`service.search.process`) it
stands beside the main effects, with a weight that is as uncertain as theirs: a handful of losses tell whether it is
right, of no use, or the wrong way round. So an earlier study that misleads costs the few trials that are begun where
it was best, and no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.search.coordinates import Array, Coordinates
from service.search.levels import levelled
from service.search.process import CurveProcess, Points, Shape
from service.study.samplers import FEWEST_EARLIER
from service.study.search_space import SearchSpace, Values

_MOST, _FITTED = 500, 192


@dataclass(frozen=True)
class Earlier:
    """One earlier study, seen in the space of another one."""

    tried: tuple[Values, ...]
    """Its points that lie in the space, the best first."""
    _process: CurveProcess
    _middle: float
    _scale: float

    @classmethod
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
        # what it says all over the space, so that a guess is of the size of an effect
        everywhere, _ = process.predicted(
            _ends(coordinates.rows(coordinates.values(coordinates.spread(0, 256))))
        )
        tried = tuple(values for values, _ in best_first if _is_point(space, values))
        return cls(tried, process, float(everywhere.mean()), max(float(everywhere.std()), 1e-6))

    def guess(self, rows: Array) -> Array:
        """Of the losses at the rows of the space, with mean 0 and deviation 1 all over it."""
        mean, _ = self._process.predicted(_ends(rows))
        return (mean - self._middle) / self._scale


def _ends(rows: Array) -> Points:
    return Points(rows, np.ones(len(rows)), -2 - np.arange(len(rows)))


def _is_point(space: SearchSpace, values: Values) -> bool:
    return space.is_complete(values) and all(
        space.parameters[key].contains(value) for key, value in values.items()
    )
