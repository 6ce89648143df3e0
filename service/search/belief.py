"""What is believed of the losses at the whole budget, from every loss of every trial so far."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import log_ndtr, ndtr

from service.search.coordinates import Array, Coordinates
from service.search.forecast import Forecast, forecast
from service.search.levels import levelled, unit_of
from service.search.problem import Begun, Problem
from service.search.process import CurveProcess, Indices, Points, Shape
from service.study.search_space import Values

NEW = -1
"""Trial number of a configuration that is not begun."""
_FITTED, _CONDITIONED = 192, 1000
"""Losses that the kernel is fitted to, and that the process is given: the cost of both rises with their cube."""
_LABEL_NOISE = 0.1
_PROMISING = 64
"""Trials whose gains are forecast together."""


class Belief:
    """A process of all curves, and one of failures where there are any.

    Args:
        problem: what is searched.
        begun: all trials, of which at least two have a loss. Those that are running count as if they went on to the
            end as expected, so that other workers look elsewhere.
    """

    def __init__(self, problem: Problem, begun: Sequence[Begun]) -> None:
        self._coordinates, self._earlier = Coordinates(problem.space), problem.earlier
        self._shape = Shape(self._coordinates.owner, self._coordinates.ordered)
        seen = [trial for trial in begun if trial.losses]
        counts = [len(trial.losses) for trial in seen]
        rungs = np.log(problem.rungs)
        # of a single one, the end
        budgets = (rungs - rungs[0]) / (rungs[-1] - rungs[0]) if len(rungs) > 1 else np.ones(1)
        rows = self._coordinates.rows([trial.values for trial in seen])
        guesses = self._guesses(rows)
        points = Points(
            np.repeat(rows, counts, axis=0),
            np.concatenate([budgets[trial.skipped : trial.passed] for trial in seen]),
            np.repeat([trial.number for trial in seen], counts),
            None if guesses is None else np.repeat(guesses, counts, axis=0),
        )
        measured = np.concatenate([trial.losses for trial in seen])
        losses = levelled(measured)
        self._unit = unit_of(measured)
        whole = np.array([trial.passed == len(rungs) for trial in seen])
        ends = losses[np.cumsum(counts) - 1][whole]
        rng = np.random.default_rng([problem.seed, len(losses)])
        process = _fitted(self._shape, points, losses, counts, rng)
        self._measured, self._whole = process, ends
        self._seed = problem.seed
        # before any trial is whole, what has only begun is expected to improve on one that is neither good nor bad:
        # finishing it would otherwise promise nothing that is not believed already
        if not len(ends):
            expected, _ = process.predicted(self._ends([t.values for t in seen], [t.number for t in seen]))
            ends = np.atleast_1d(np.median(expected))
        # of one that its sampler has still to draw nothing is known
        running = [trial for trial in begun if trial.state == "running" and trial.values]
        on_the_way: list[tuple[int, float]] = []
        if running:
            at = self._ends([trial.values for trial in running], [trial.number for trial in running])
            means, _ = process.predicted(at)
            process = process.believing(at, means)
            on_the_way = [(trial.passed, float(mean)) for trial, mean in zip(running, means, strict=True)]
        self._process = process

        # a new trial has to be better than all that is on its way; one that waits, than what has come as far. Had it to
        # be better than what has only begun, many workers would begin trials without end, and finish none
        def to_beat(passed: int) -> float:
            return min([float(ends.min()), *(mean for other, mean in on_the_way if other >= passed)])

        self._to_beat = {trial.number: to_beat(trial.passed) for trial in begun} | {NEW: to_beat(0)}
        self._failures = self._failing(begun)

    def log_gain(
        self, configurations: Sequence[Values], numbers: Sequence[int], *, to_beat: float | None = None
    ) -> Array:
        """Logarithm of the expected improvement at the whole budget, times the probability to get there.

        Args:
            configurations: of trials or of none.
            numbers: of the trials; `NEW` of none.
            to_beat: levelled loss to improve on, in place of the best.
        """
        ends = self._ends(configurations, numbers)
        best = np.array([self._to_beat[number] if to_beat is None else to_beat for number in numbers])
        found = log_expected_improvement(best, *self._process.predicted(ends)) + self._log_chances(ends)
        if not np.isfinite(found).all():
            raise FloatingPointError("a promise is no number")
        return found

    def expected_ends(self, configurations: Sequence[Values], numbers: Sequence[int]) -> Array:
        """Levelled losses at the whole budget, by those that have been measured. The arguments are `log_gain`'s."""
        return self._measured.predicted(self._ends(configurations, numbers))[0]

    def forecast(
        self, configurations: Sequence[Values], numbers: Sequence[int], *, below: float = math.inf
    ) -> Forecast | None:
        """What the promising ones of these would bring, by losses that have been measured; None before any is whole.

        Args:
            configurations: of trials or of none, the running ones among them.
            numbers: of the trials; `NEW` of none.
            below: nats; None too where the most promising would bring as much.
        """
        if not len(self._whole):
            return None
        # each new one has luck of its own
        apart = np.where(np.array(numbers) == NEW, NEW - 1 - np.arange(len(numbers)), numbers)
        ends = self._ends(configurations, apart)
        best, chances = float(self._whole.min()), np.exp(self._log_chances(ends))
        gains = log_expected_improvement(best, *self._measured.predicted(ends)) + np.log(chances)
        if math.exp(gains.max()) * self._unit >= below:
            return None
        top = np.argsort(-gains)[:_PROMISING]
        of_top = ends.chosen(top), chances[top], np.exp(gains[top])
        return forecast(self._measured, *of_top, best=best, unit=self._unit, seed=self._seed)

    def _log_chances(self, ends: Points) -> Array:
        """Logarithm of the probability to be trained to the end."""
        if self._failures is None:
            return np.zeros(len(ends))
        # least-squares classification: Rasmussen and Williams, section 6.5
        label, variance = self._failures.predicted(replace(ends, guesses=None))
        return np.asarray(log_ndtr(label / np.sqrt(variance + _LABEL_NOISE)))

    def _ends(self, configurations: Sequence[Values], numbers: Sequence[int] | Indices) -> Points:
        rows = self._coordinates.rows(configurations)
        return Points(rows, np.ones(len(numbers)), np.array(numbers, dtype=np.intp), self._guesses(rows))

    def _guesses(self, rows: Array) -> Array | None:
        return np.stack([one.guess(rows) for one in self._earlier], axis=1) if self._earlier else None

    def _failing(self, begun: Sequence[Begun]) -> CurveProcess | None:
        """A process of labels, −1 for a trial that failed and 1 for one that got on; None where none failed."""
        told = [trial for trial in begun if trial.state == "failed" or trial.losses]
        labels = np.array([-1.0 if trial.state == "failed" else 1.0 for trial in told])
        if not (labels < 0).any():
            return None
        rows = self._coordinates.rows([trial.values for trial in told])
        # one budget and numbers of their own: neither the curve nor the trial has a part in it
        points = Points(rows, np.ones(len(told)), NEW - 1 - np.arange(len(told)))
        return _fitted(self._shape, points, labels, [1] * len(told), np.random.default_rng(len(told)))


def log_expected_improvement(best: Array | float, mean: Array, variance: Array) -> Array:
    """Logarithm of E[max(0, best − y)] of a normal y, to a hundredth where it is tiny (arXiv 2310.20708)."""
    deviation = np.sqrt(variance)
    z = (best - mean) / deviation
    near = np.maximum(z, -6.0)
    usual = np.log(near * ndtr(near) + np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi))
    far = np.minimum(z, -6.0)  # the asymptotic series of Mills' ratio
    tail = -(far**2) / 2 - math.log(math.sqrt(2 * math.pi)) - 2 * np.log(-far) + np.log1p(-3 / far**2)
    return np.asarray(np.where(z > -6.0, usual, tail) + np.log(deviation))


def _fitted(
    shape: Shape, points: Points, seen: Array, counts: Sequence[int], rng: np.random.Generator
) -> CurveProcess:
    """A process of what has been seen, `counts` of each trial: every trial's last first, and then as many as may be."""
    last = np.cumsum(counts) - 1
    others = np.setdiff1d(np.arange(int(last[-1]) + 1), last)
    order = np.concatenate([rng.permutation(last), rng.permutation(others)])
    kept: Indices = np.sort(order[:_CONDITIONED])
    fit_on: Indices = np.searchsorted(kept, np.sort(order[:_FITTED]))
    return CurveProcess.fitted(shape, points.chosen(kept), seen[kept], fit_on=fit_on)
