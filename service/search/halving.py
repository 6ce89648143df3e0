"""Asynchronous successive halving with promotion (arXiv 1810.05934), and PASHA's stop (arXiv 2207.06940)."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.search.problem import Advance, Begin, Begun, Problem


@dataclass(frozen=True)
class Halving:
    """Of the trials that reached a level, the best 1/`reduction_factor` go on to the next; else a new one begins.

    Unlike Optuna's pruner, which stops what is not among the best when it arrives, a trial waits, and is promoted when
    enough others have turned out worse. Configurations come from the study's sampler.

    Attributes:
        reduction_factor: between the tokens of two levels, and of trials that go on.
        grows: PASHA: a level is opened only when the two below it do not agree on the order of their trials.
    """

    reduction_factor: int = 4
    grows: bool = False

    def decide(self, problem: Problem, begun: Sequence[Begun], left: float = math.inf) -> Advance | Begin:
        """As `Searcher.decide`; there is always something to do, whatever is `left`."""
        del left
        begun = [trial for trial in begun if not trial.skipped]  # of no level but the last
        levels = self.levels(len(problem.rungs), problem.rungs)
        between = (t for t in begun if t.state == "paused" and len(t.losses) not in levels)
        for trial in between:  # promoted already, and on its way
            return Advance(trial.number)
        top = _open_levels(levels, begun) if self.grows else len(levels)
        for level in reversed(levels[: top - 1]):
            reached = sorted((_loss_at(t, level), t.number) for t in begun if _reached(t, level))
            going_on = {number for _, number in reached[: len(reached) // self.reduction_factor]}
            for trial in begun:
                if trial.number in going_on and trial.state == "paused" and len(trial.losses) == level:
                    return Advance(trial.number)
        return Begin(None)

    def levels(self, count: int, rungs: tuple[int, ...]) -> list[int]:
        """Numbers of rungs after which trials are compared: at tokens by the factor, the last the whole trial."""
        found = [1]
        for number in range(2, count):
            # a rung is a level when it is the first with so many times the tokens of the level before
            if rungs[number - 1] >= self.reduction_factor * rungs[found[-1] - 1]:
                found.append(number)
        return [*found, count] if found[-1] != count else found


def _reached(trial: Begun, level: int) -> bool:
    """It has a loss there, or would have one had it not failed on the way."""
    return len(trial.losses) >= level or (trial.state == "failed" and len(trial.losses) == level - 1)


def _loss_at(trial: Begun, level: int) -> float:
    return trial.losses[level - 1] if len(trial.losses) >= level else math.inf


def _open_levels(levels: Sequence[int], begun: Sequence[Begun]) -> int:
    """How many levels are open: two, and one more for each at which the order of the level below has changed.

    Two losses count as equal where they differ by less than two trials did that changed places on the way: PASHA's
    measure of noise.
    """
    number = 2
    while number < len(levels):
        below, above = levels[number - 2], levels[number - 1]
        both = [t for t in begun if len(t.losses) >= above]
        if len(both) < 2 or _agree(both, below, above):
            break
        number += 1
    return min(number, len(levels))


def _agree(trials: Sequence[Begun], below: int, above: int) -> bool:
    """The best at the level below is the best above, or as good as it within what is noise."""
    noise = _noise(trials, below, above)
    first = min(trials, key=lambda t: t.losses[below - 1])
    return first.losses[above - 1] <= min(t.losses[above - 1] for t in trials) + noise


def _noise(trials: Sequence[Begun], below: int, above: int) -> float:
    """The largest difference between two trials that led one another in turn at the rungs up to a level."""
    largest = 0.0
    for i, left in enumerate(trials):
        for right in trials[:i]:
            apart = [left.losses[r] - right.losses[r] for r in range(below - 1, above)]
            turns = sum((a > 0) != (b > 0) for a, b in itertools.pairwise(apart))
            if turns >= 2:
                largest = max(largest, max(abs(one) for one in apart))
    return largest
