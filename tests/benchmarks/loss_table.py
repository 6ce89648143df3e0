"""Searches replayed on a table of recorded losses: in milliseconds, and every loss in them was measured.

A replayed search asks a real sampler and a real pruner of this project; a trial's losses, and what it costs, are looked
up in a table. A `LossTable` has every combination of a few hyperparameters, each trained once to its end;
`tests.benchmarks.search` has others. A configuration that is asked for again gives the same losses and costs its tokens
again, as in a real study, which trains what it is told to.
"""

import bisect
import heapq
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from service.report.pruning.replay import stopped_at
from service.study.parameters import CategoricalParameter, IntParameter, Parameter
from service.study.pruners import PrunerConfig, build_pruner
from service.study.samplers import SamplerConfig, build_sampler, worker_seed
from service.study.search_space import SearchSpace, Values, key_of


class Table(ABC):
    """The losses of all configurations of a space."""

    rungs: tuple[int, ...]
    """Training tokens at which every configuration was evaluated; the last is its budget."""

    @property
    @abstractmethod
    def search_space(self) -> SearchSpace:
        """What a search is offered."""

    @abstractmethod
    def curve(self, values: Values) -> tuple[float, ...]:
        """The losses there, one a rung; fewer where it diverged."""

    @abstractmethod
    def ranked(self) -> list[float]:
        """Final losses of configurations as random search draws them, the best first; infinite where it diverged."""

    def available(self, values: Values, begun: Collection[str]) -> Values:
        """The configuration that is begun where a search asks for this one, `begun` having been (`key_of`)."""
        return values

    @property
    def pool(self) -> tuple[Values, ...]:
        """The configurations that can be had, where not every point of the space can."""
        return ()

    @property
    def cell_tokens(self) -> int:
        """What one configuration costs that runs to its end."""
        return self.rungs[-1]

    def random_best(self, trials: int) -> float:
        """The median of the best final loss of so many drawn at random, with replacement: exact."""
        ranked = self.ranked()
        return next(loss for rank, loss in enumerate(ranked, 1) if (1 - rank / len(ranked)) ** trials <= 0.5)

    def random_trials(self, target: float) -> int:
        """The median number drawn at random, with replacement, until one has that final loss: exact."""
        ranked = self.ranked()
        miss = 1 - bisect.bisect_right(ranked, target) / len(ranked)
        return 1 if miss <= 0.5 else math.ceil(math.log(0.5) / math.log(miss))

    def final(self, curve: Sequence[float]) -> float:
        """The loss at the end, infinite where it diverged."""
        return curve[-1] if len(curve) == len(self.rungs) else math.inf


@dataclass(frozen=True)
class LossTable(Table):
    """The losses of every combination of some values."""

    axes: Mapping[str, tuple[Any, ...]]
    """Values by dotted key, numbers ascending."""
    rungs: tuple[int, ...]
    losses: Mapping[tuple[int, ...], tuple[float, ...]]
    """At each rung, by the cell's position on every axis; a cell that diverged has fewer than there are rungs."""

    @cached_property
    def search_space(self) -> SearchSpace:
        """Positions, which have an order where the values are numbers.

        Positions rather than values, so that each is one cell; the values are spaced as a search would space them.
        """
        parameters: dict[str, Parameter] = {}
        for key, values in self.axes.items():
            if all(isinstance(value, Real) for value in values):
                parameters[key] = IntParameter(type="int", low=0, high=len(values) - 1)
            else:
                names = tuple(f"{i}" for i in range(len(values)))
                parameters[key] = CategoricalParameter(type="categorical", choices=names)
        return SearchSpace(parameters)

    def curve(self, values: Values) -> tuple[float, ...]:
        """Of the cell at these positions."""
        return self.losses[tuple(int(values[key]) for key in self.axes)]

    def ranked(self) -> list[float]:
        """Of every cell."""
        return sorted(map(self.final, self.losses.values()))


@dataclass(frozen=True)
class Flat(Table):
    """A table for a sampler that knows no conditions: each parameter always exists, whether it has an effect or not."""

    table: Table

    @property
    def rungs(self) -> tuple[int, ...]:  # type: ignore[override]
        """The table's."""
        return self.table.rungs

    @cached_property
    def search_space(self) -> SearchSpace:
        """The table's, without its conditions."""
        parameters = self.table.search_space.parameters
        return SearchSpace({key: p.model_copy(update={"when": {}}) for key, p in parameters.items()})

    def curve(self, values: Values) -> tuple[float, ...]:
        """Of what exists."""
        space, found = self.table.search_space, Values()
        for key in space.parameters:
            if space.is_active(key, found):
                found[key] = values[key]
        return self.table.curve(found)

    def ranked(self) -> list[float]:
        """The table's."""
        return self.table.ranked()


def read(path: Path) -> LossTable:
    """A table from the recorded runs of a grid. Raises ValueError: a combination is missing, or is there twice."""
    found = json.loads(path.read_text(encoding="utf-8"))
    grid = found["definition"]["study"]["design"]["grid"]
    axes = {key: tuple(values) for key, values in grid.items()}
    losses: dict[tuple[int, ...], tuple[float, ...]] = {}
    for values, curve in found["runs"]:
        position = tuple(choices.index(values[key]) for key, choices in axes.items())
        if position in losses:
            raise ValueError(f"{path}: a table has each combination once, given {values} twice")
        losses[position] = tuple(curve)
    whole = math.prod(map(len, axes.values()))
    if len(losses) != whole:
        raise ValueError(f"{path}: a table has all {whole} combinations, given {len(losses)}")
    return LossTable(axes, tuple(found["rungs"]), losses)


@dataclass
class Search:
    """One search, as far as it came."""

    tokens: list[int] = field(default_factory=list)
    """Spent by all trials, when one ran to its end with a loss below all before."""
    best: list[float] = field(default_factory=list)
    """That loss."""
    trials: int = 0
    pruned: int = 0
    """Trials that the pruner stopped."""
    repeats: int = 0
    """Trials of a cell that an earlier one had."""

    def at(self, tokens: float) -> float:
        """The lowest final loss seen for so many tokens, infinite before the first."""
        passed = bisect.bisect_right(self.tokens, tokens)
        return self.best[passed - 1] if passed else math.inf

    def reached(self, target: float) -> float:
        """Tokens spent when a final loss of at most `target` was first seen, infinite if it never was."""
        found = (spent for spent, loss in zip(self.tokens, self.best, strict=True) if loss <= target)
        return next(found, math.inf)


def search(
    table: Table,
    sampler: SamplerConfig,
    pruner: PrunerConfig,
    *,
    seed: int,
    budget_tokens: int,
    workers: int = 1,
    target: float = -math.inf,
) -> Search:
    """Search the table until the budget is spent; a trial that ends after that does not count.

    Args:
        table: what is searched.
        sampler: its section in a study's file.
        pruner: likewise.
        seed: a study's; of the samplers.
        budget_tokens: of all trials together.
        workers: side by side, each with a sampler of its own, all at the same tokens a second; a pruner and a sampler
            know what all of them have reported until then.
        target: a final loss at which the search ends.
    """
    space = table.search_space
    storage = optuna.storages.InMemoryStorage()
    name = f"table {seed}"  # decides the brackets of hyperband
    optuna.create_study(study_name=name, storage=storage)
    studies = [
        optuna.load_study(
            study_name=name,
            storage=storage,
            sampler=build_sampler(sampler, seed=worker_seed(seed, worker), space=space.distributions),
            pruner=build_pruner(pruner, rungs=table.rungs),
        )
        for worker in range(workers)
    ]
    found = Search()
    begun: set[str] = set()
    nothing: Iterator[int] = iter(())
    busy = [(0, worker, nothing) for worker in range(workers)]
    """When each worker will have something to report, in tokens of its own, and the trial it is in."""
    while busy and busy[0][0] * workers <= budget_tokens:
        clock, worker, running = heapq.heappop(busy)
        cost = next(running, None)
        if found.at(math.inf) <= target:
            break
        if cost is None and clock * workers < budget_tokens:
            trial, values = _asked(studies[worker], table, begun)
            found.trials += 1
            found.repeats += key_of(values) in begun
            begun.add(key_of(values))
            spent = (clock + table.cell_tokens) * workers
            running = _trial(trial, table, table.curve(values), found, spent=spent)
            cost = next(running)
        if cost is not None:
            heapq.heappush(busy, (clock + cost, worker, running))
    return found


def _asked(study: optuna.Study, table: Table, begun: Collection[str]) -> tuple[optuna.Trial, Values]:
    """A trial of what the sampler asks for, or of what the table has in its place."""
    space = table.search_space
    trial = study.ask()
    asked = space.suggest(trial)
    values = table.available(asked, begun)
    if values != asked:
        study.tell(trial, state=TrialState.FAIL)  # which no sampler learns from
        study.enqueue_trial(space.encode(values))
        trial = study.ask()
        space.suggest(trial)
    return trial, values


def _trial(
    trial: optuna.Trial, table: Table, curve: Sequence[float], found: Search, *, spent: int
) -> Iterator[int]:
    """A trial of that curve: what each rung costs, in tokens; then its loss there is reported, at the last one told.

    One that diverges ends as pruned, as a study's does, and costs the tokens of the rung that it did not reach as well.
    `spent` is what all trials have cost when this one runs to its end.
    """
    before = 0
    for tokens, loss in zip(table.rungs, curve, strict=False):
        yield tokens - before
        before = tokens
        if stopped_at(trial, [(tokens, loss)], table.cell_tokens) is not None:
            trial.study.tell(trial, state=TrialState.PRUNED)
            found.pruned += 1
            return
    if len(curve) < len(table.rungs):
        yield table.rungs[len(curve)] - before
        trial.study.tell(trial, state=TrialState.PRUNED)
        return
    trial.study.tell(trial, curve[-1])
    if curve[-1] < found.at(math.inf):
        found.tokens.append(spent)
        found.best.append(curve[-1])
