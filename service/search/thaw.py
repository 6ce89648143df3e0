"""Freeze-thaw search: at every rung, whichever trial promises most for what it still costs; the others wait.

After Swersky, Snoek and Adams (arXiv 1406.3896). A trial is never stopped: it is not chosen now, and may be later.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from service.search.belief import NEW, Belief
from service.search.coordinates import Array, Coordinates
from service.search.forecast import AHEAD
from service.search.problem import Advance, Begin, Begun, Decision, Problem, Stop
from service.search.process import on_one_core
from service.study.parameters import CategoricalParameter, FloatParameter
from service.study.search_space import SearchSpace, Values, key_of

_CELLS = 1024
"""A space of no more configurations is looked at as a whole."""
_FORECAST = 64
"""New ones by which is told what further trials would bring."""
_ENOUGH = 5
"""Whole trials before a search may stop by itself: fewer say too little of what another would bring."""
_OF_RAREST, _SPREAD_OUT = 4, 8
"""Of how many trials one is begun with the choice that the fewest have had, or, where there are no choices, where the
space has not been looked at: the model may have given an optimizer up on one bad trial. To its first rung that costs
little. On recorded runs (`studies/samplers-hard`) searches took 0.108 of random search's tokens in the mean with it and
0.124 without, and the slowest tenth 0.21 and 0.25 (200 searches each)."""
_LEAD = 0.4
"""Of the score of a new one to that of one that waits, before it is begun. Where many promise the same, one that nobody
has trained always promises a little more: such a search would begin trials without end, and finish none."""
_SPREAD, _BEST, _MOVES, _ROUNDS = 512, 8, 16, 2
"""In a larger one: places all over it, best ones that are looked around, moves from each, and how often."""


@dataclass(frozen=True)
class Thaw:
    """Expected improvement at the whole budget, divided by a power of what a trial still costs.

    No configuration is begun twice: what a second seed of it would show is for a confirmation.

    What could not be trained to its end with the tokens that are left, beside what is on its way, is neither begun nor
    advanced as long as something else can: the last tokens finish what is best.

    Attributes:
        startup: trials begun at points spread over the space before the model is asked.
        cost_power: 0 asks for the most improvement whatever it costs, 1 for the most a token; on recorded runs
            nothing from 0 to 0.5 could be told apart.
        stop_gain: nats that a further whole trial has to promise, or the last `AHEAD` to have brought, or the search
            stops; None never stops it.
        stop_by: what that is, for people.
    """

    startup: int = 4
    cost_power: float = 0.25
    stop_gain: float | None = None
    stop_by: str = "stop.gain"

    @on_one_core
    def decide(self, problem: Problem, begun: Sequence[Begun], left: float = math.inf) -> Decision | None:
        """As `Searcher.decide`.

        Raises:
            LinAlgError, FloatingPointError: the model fails on these losses.
        """
        running = [trial for trial in begun if trial.state == "running"]
        spare = left - sum(_remaining(problem, trial, at_work=True) for trial in running)
        able = [t for t in begun if t.state == "paused" and _remaining(problem, t) <= spare]
        may_begin = problem.rungs[-1] <= spare
        if not (able or may_begin):
            if running:
                return None
            # nothing can be finished any more: what is left may tell a later search where to look
            able, may_begin = [t for t in begun if t.state == "paused"], True
        decided = self._decided(problem, begun, able, may_begin=may_begin)
        if decided is None and not running:
            return Stop("every configuration of the space has been tried", is_empty=True)
        return decided

    def _decided(
        self, problem: Problem, begun: Sequence[Begun], paused: Sequence[Begun], *, may_begin: bool
    ) -> Decision | None:
        """Among what may be advanced, and new ones where one may be begun; None where there is nothing."""
        taken = {key_of(trial.values) for trial in begun}
        if len(begun) < self.startup or sum(bool(trial.losses) for trial in begun) < 2:
            point = _first_point(problem, len(begun), taken) if may_begin else None
            if point is not None:
                return Begin(point)
            return Advance(paused[0].number) if paused else None
        belief = Belief(problem, begun)

        def scores(
            configurations: Sequence[Values], trials: Sequence[Begun | None], to_beat: float | None = None
        ) -> Array:
            numbers = [NEW if trial is None else trial.number for trial in trials]
            costs = [
                problem.price(values) * _remaining(problem, trial)
                for values, trial in zip(configurations, trials, strict=True)
            ]
            gains = belief.log_gain(configurations, numbers, to_beat=to_beat)
            return gains - self.cost_power * np.log(costs)

        choices: list[tuple[float, Decision]] = []
        if paused:
            of_paused = scores([trial.values for trial in paused], paused)
            leader = int(np.argmax(of_paused))
            choices.append((float(of_paused[leader]), Advance(paused[leader].number)))
        if not may_begin:
            return choices[0][1]
        rng = np.random.default_rng([problem.seed, len(begun), sum(len(trial.losses) for trial in begun)])
        new, of_new = _candidates(problem, begun, lambda values: scores(values, [None] * len(values)), rng)
        fresh = (int(i) for i in np.argsort(-of_new) if key_of(new[i]) not in taken)
        best = [i for i in islice(fresh, _FORECAST) if np.isfinite(of_new[i])]
        stop = self._stop(problem, belief, begun, [new[i] for i in best])
        if stop is not None:
            return stop
        if best:
            choices.append((float(of_new[best[0]]) - _LEAD, Begin(new[best[0]])))
        decision = max(choices, key=lambda choice: choice[0])[1] if choices else None
        if not isinstance(decision, Begin):
            return decision
        rarest, point = _rarest(problem.space, begun), None
        if rarest is None and len(begun) % _SPREAD_OUT == 0:
            point = _spread_out(problem, len(begun), taken)
        elif rarest is not None and len(begun) % _OF_RAREST == _OF_RAREST - 1:
            with_it = [values for values in new if _has(values, rarest) and key_of(values) not in taken]
            had = [trial for trial in begun if trial.losses and _has(trial.values, rarest)]
            # as if there were no other choice: beside better ones it promises nothing, and least where it is known
            ends = belief.expected_ends([t.values for t in had], [t.number for t in had]) if had else None
            found = scores(with_it, [None] * len(with_it), None if ends is None else float(ends.min()))
            point = with_it[int(np.argmax(found))] if with_it else None
        return decision if point is None else Begin(point)

    def _stop(
        self, problem: Problem, belief: Belief, begun: Sequence[Begun], new: Sequence[Values]
    ) -> Stop | None:
        """Where no trial, new, waiting or on its way, promises what it has to, and ten have just not brought it."""
        whole = [trial for trial in begun if trial.passed == len(problem.rungs)]
        going = [trial for trial in begun if trial.state in ("running", "paused") and trial.values]
        if self.stop_gain is None or len(whole) < _ENOUGH or not (going or new):
            return None
        best = min(trial.losses[-1] for trial in whole)
        as_good = min(trial.number for trial in whole if trial.losses[-1] <= best + self.stop_gain)
        since = sum(problem.rungs[t.passed - 1] for t in begun if t.passed and t.number > as_good)
        if since < AHEAD * problem.rungs[-1]:
            return None
        found = belief.forecast(
            [*(trial.values for trial in going), *new],
            [*(trial.number for trial in going), *(NEW for _ in new)],
            below=self.stop_gain,
        )
        if found is None:
            return None
        return Stop(f"best {best:.4f}; {found.shown}; {self.stop_by} is {self.stop_gain:.3g}", forecast=found)


def _candidates(
    problem: Problem,
    begun: Sequence[Begun],
    scores: Callable[[list[Values]], Array],
    rng: np.random.Generator,
) -> tuple[list[Values], Array]:
    """Configurations that may be begun, and their scores: all of a small space, the promising ones of a larger."""
    if problem.cells or _is_small(problem.space):
        cells = list(problem.cells or problem.space.cells())
        return cells, scores(cells)
    coordinates = Coordinates(problem.space)
    leaders = sorted((t for t in begun if t.losses), key=lambda t: (-t.passed, t.losses[-1]))[:_BEST]
    spread = coordinates.spread(int(rng.integers(2**31)), _SPREAD)
    places = np.concatenate([spread, _moved(coordinates.places([t.values for t in leaders]), rng)])
    configurations = coordinates.values(places)
    found = scores(configurations)
    for _ in range(_ROUNDS):
        near = _moved(places[np.argsort(-found)[:_BEST]], rng)
        of_near = coordinates.values(near)
        places, configurations = np.concatenate([places, near]), configurations + of_near
        found = np.concatenate([found, scores(of_near)])
    return configurations, found


def _first_point(problem: Problem, number: int, taken: set[str]) -> Values | None:
    """Of those that are begun before the model is asked, every other one is the best of an earlier study, one of each.

    The second best of a study is mostly a neighbour of the best, and begun as well would cost a search the wide view:
    0.076 of random search's tokens on recorded runs, where one point costs 0.04. The first is the baseline, or spread
    out as the others.
    """
    study, is_spread_out = number // 2, number % 2 == 0
    if not is_spread_out and study < len(problem.earlier):
        for values in problem.earlier[study].tried:
            if key_of(values) not in taken:
                return values
    return _spread_out(problem, number, taken)


def _has(values: Values, choice: tuple[str, Any]) -> bool:
    key, chosen = choice
    return key in values and bool(values[key] == chosen)


def _rarest(space: SearchSpace, begun: Sequence[Begun]) -> tuple[str, Any] | None:
    """Of all choices without an order the one that the fewest trials have had, by what would be its share of them."""
    shares = []
    for key, parameter in space.parameters.items():
        if isinstance(parameter, CategoricalParameter) and not parameter.is_ordered:
            had = [trial.values[key] for trial in begun if key in trial.values]
            count = len(parameter.choices)
            shares += [(had.count(c) * count / max(1, len(had)), key, c) for c in parameter.choices]
    return min(shares, key=lambda share: share[0])[1:] if shares else None


def _spread_out(problem: Problem, number: int, taken: set[str]) -> Values | None:
    """The next point of a sequence that covers the space and is not begun yet; None where there is none in sight."""
    if problem.cells:
        order = np.random.default_rng([problem.seed, number]).permutation(len(problem.cells))
        points = [problem.cells[i] for i in order]
    else:
        coordinates = Coordinates(problem.space)
        points = coordinates.values(coordinates.spread(problem.seed, 64, skip=number))
    return next((values for values in points if key_of(values) not in taken), None)


def _moved(places: Array, rng: np.random.Generator) -> Array:
    """Places near others: one or two parameters drawn anew, or all of them shaken, a little or more."""
    found = np.repeat(places, _MOVES, axis=0)
    shape = found.shape
    anew = rng.random(shape) < 1.5 / shape[1]
    anew[rng.random(shape[0]) < 0.5] = False
    shaken = found + rng.normal(0, 1, shape) * 10.0 ** rng.uniform(-2.5, -0.7, (shape[0], 1))
    found = np.where(anew.any(1)[:, None], found, np.clip(shaken, 0, 1))
    return np.where(anew, rng.random(shape), found)


def _is_small(space: SearchSpace) -> bool:
    endless = any(isinstance(p, FloatParameter) and p.step is None for p in space.parameters.values())
    return not endless and not space.conditional and space.cell_count <= _CELLS


def _remaining(problem: Problem, trial: Begun | None, *, at_work: bool = False) -> int:
    """Tokens from a trial's last rung, or from that which it is on its way to, to its end."""
    passed = min(at_work + (0 if trial is None else trial.passed), len(problem.rungs))
    return problem.rungs[-1] - (problem.rungs[passed - 1] if passed else 0)
