"""Searches replayed on a table with trials that pause: the real decisions, losses that were recorded."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from service.search.problem import Advance, Begin, Begun, Problem, Searcher, Stop
from service.study.search_space import Values, key_of
from tests.benchmarks.loss_table import Search, Table
from tests.benchmarks.search.priors import earlier

Draw = Callable[[Problem, list[Begun]], Values]
"""What draws a configuration where the searcher leaves it to the study's sampler."""


@dataclass
class _Trial:
    curve: tuple[float, ...]
    values: Values
    seen: int = 0
    state: str = "running"


@dataclass
class Replay:
    """A search on a table, by one searcher and any number of workers that train at one speed.

    A worker that has trained to a rung reports it and asks at once what to do next, knowing what has been reported
    before; those that report at the same time do so in the order of their numbers.
    """

    table: Table
    searcher: Searcher
    draw: Draw
    seed: int
    workers: int = 1
    prior: str | None = None
    """Of `priors`: what an earlier study says of the table."""
    decisions: int = 0
    _trials: list[_Trial] = field(default_factory=list)

    def run(self, *, budget_tokens: int, target: float = float("-inf")) -> Search:
        """Until the budget is spent, or a whole trial has a loss of at most `target`."""
        table, found = self.table, Search()
        problem = Problem(table.search_space, table.rungs, self.seed, cells=table.pool)
        if self.prior is not None:
            problem = replace(problem, earlier=earlier(table, problem, self.prior, self.seed))
        keys: set[str] = set()
        busy: list[tuple[int, int, _Trial | None]] = [(0, worker, None) for worker in range(self.workers)]
        while busy:
            clock, worker, trial = heapq.heappop(busy)
            if clock * self.workers > budget_tokens:
                break
            if trial is not None:
                self._report(trial, found, clock * self.workers)
                if found.at(budget_tokens) <= target:
                    break
            begun = [
                Begun(number, t.values, t.curve[: t.seen], t.state)  # type: ignore[arg-type]
                for number, t in enumerate(self._trials)
            ]
            decision = self.searcher.decide(problem, begun, budget_tokens - self.claimed())
            self.decisions += 1
            match decision:
                case Advance(number):
                    trial = self._trials[number]
                    assert trial.state == "paused", "only what waits can go on"
                case Begin(values):
                    values = self.draw(problem, begun) if values is None else values
                    values = table.available(values, keys)
                    found.trials += 1
                    found.repeats += key_of(values) in keys
                    keys.add(key_of(values))
                    trial = _Trial(table.curve(values), values)
                    self._trials.append(trial)
                case Stop() | None:
                    continue  # this worker is done; what others are at may still be of use
            trial.state = "running"
            before = table.rungs[trial.seen - 1] if trial.seen else 0
            heapq.heappush(busy, (clock + table.rungs[trial.seen] - before, worker, trial))
        found.pruned = sum(trial.state == "paused" for trial in self._trials)
        return found

    def claimed(self) -> int:
        """Tokens of all trials to the rungs that they wait at, or are on their way to."""
        reached = (trial.seen + (trial.state == "running") for trial in self._trials)
        return sum(self.table.rungs[number - 1] for number in reached if number)

    def _report(self, trial: _Trial, found: Search, spent: int) -> None:
        if trial.seen == len(trial.curve):  # the rung at which it diverged
            trial.state = "failed"
            return
        trial.seen += 1
        trial.state = "paused"
        if trial.seen == len(self.table.rungs):
            trial.state = "ended"
            if trial.curve[-1] < found.at(float("inf")):
                found.tokens.append(spent)
                found.best.append(trial.curve[-1])
