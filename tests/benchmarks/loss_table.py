"""Searches replayed on a table of recorded losses: in milliseconds, and every loss in them was measured.

A table has every combination of a few hyperparameters, each trained once to its end. A replayed search asks a real
sampler and a real pruner of this project; a trial's losses, and what it costs, are looked up. A cell that is asked for
again gives the same losses and costs its tokens again, as in a real study, which trains what it is told to.
"""

import bisect
import heapq
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from service.report.pruning.replay import stopped_at
from service.study.pruners import PrunerConfig, build_pruner
from service.study.samplers import SamplerConfig, build_sampler, worker_seed
from service.study.search_space import Distribution


@dataclass(frozen=True)
class LossTable:
    """The losses of every combination."""

    axes: Mapping[str, tuple[Any, ...]]
    """Values by dotted key, numbers ascending."""
    rungs: tuple[int, ...]
    """Training tokens at which every cell was evaluated; the last is its budget."""
    losses: Mapping[tuple[int, ...], tuple[float, ...]]
    """At each rung, by the cell's position on every axis; a cell that diverged has fewer than there are rungs."""

    @property
    def cell_tokens(self) -> int:
        """What one cell costs that runs to its end."""
        return self.rungs[-1]

    def ranked(self) -> list[float]:
        """The final loss of every cell, the best first; infinite where it diverged."""
        whole = len(self.rungs)
        return sorted(curve[-1] if len(curve) == whole else math.inf for curve in self.losses.values())

    def random_best(self, trials: int) -> float:
        """The median of the best final loss of so many cells drawn at random, with replacement: exact."""
        ranked = self.ranked()
        return next(loss for rank, loss in enumerate(ranked, 1) if (1 - rank / len(ranked)) ** trials <= 0.5)

    def random_trials(self, target: float) -> int:
        """The median number of cells drawn at random, with replacement, until one has that final loss: exact."""
        ranked = self.ranked()
        miss = 1 - bisect.bisect_right(ranked, target) / len(ranked)
        return 1 if miss <= 0.5 else math.ceil(math.log(0.5) / math.log(miss))

    def space(self, *, numbers_only: bool) -> dict[str, Distribution]:
        """What a sampler is offered: positions, which have an order where the values are numbers.

        Positions rather than values, so that each is one cell; the values are spaced as a search would space them.

        Args:
            numbers_only: also those of values without an order, for a sampler that has no categories.
        """
        return {
            key: IntDistribution(0, len(values) - 1)
            if numbers_only or all(isinstance(value, Real) for value in values)
            else CategoricalDistribution(range(len(values)))
            for key, values in self.axes.items()
        }


def read(path: Path) -> LossTable:
    """A table from its file. Raises ValueError: a combination is missing, or is there twice."""
    found = json.loads(path.read_text(encoding="utf-8"))
    axes = {key: tuple(values) for key, values in found["axes"].items()}
    losses: dict[tuple[int, ...], tuple[float, ...]] = {}
    for *values, curve in found["cells"]:
        position = tuple(choices.index(value) for choices, value in zip(axes.values(), values, strict=True))
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
    table: LossTable,
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
    space = table.space(numbers_only=sampler.name == "cmaes")
    storage = optuna.storages.InMemoryStorage()
    name = f"table {seed}"  # decides the brackets of hyperband
    optuna.create_study(study_name=name, storage=storage)
    studies = [
        optuna.load_study(
            study_name=name,
            storage=storage,
            sampler=build_sampler(sampler, seed=worker_seed(seed, worker), space=space),
            pruner=build_pruner(pruner, rungs=table.rungs),
        )
        for worker in range(workers)
    ]
    found, seen = Search(), set()
    nothing: Iterator[int] = iter(())
    busy = [(0, worker, nothing) for worker in range(workers)]
    """When each worker will have something to report, in tokens of its own, and the trial it is in."""
    while busy and busy[0][0] * workers <= budget_tokens:
        clock, worker, running = heapq.heappop(busy)
        cost = next(running, None)
        if found.at(math.inf) <= target:
            break
        if cost is None and clock * workers < budget_tokens:
            trial = studies[worker].ask(space)
            position = tuple(trial.params[key] for key in table.axes)
            found.trials += 1
            found.repeats += position in seen
            seen.add(position)
            running = _trial(trial, table, position, found, spent=(clock + table.cell_tokens) * workers)
            cost = next(running)
        if cost is not None:
            heapq.heappush(busy, (clock + cost, worker, running))
    return found


def _trial(
    trial: optuna.Trial, table: LossTable, position: tuple[int, ...], found: Search, *, spent: int
) -> Iterator[int]:
    """A trial of that cell: what each rung costs, in tokens; then its loss there is reported, at the last one told.

    One that diverges ends as pruned, as a study's does, and costs the tokens of the rung that it did not reach as well.
    `spent` is what all trials have cost when this one runs to its end.
    """
    curve, before = table.losses[position], 0
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
