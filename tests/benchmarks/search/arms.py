"""What is compared: samplers and pruners as a study has them, and searchers whose trials pause."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import optuna
from optuna.trial import TrialState

from service.search.coordinates import Coordinates
from service.search.halving import Halving
from service.search.problem import Advance, Begun, Decision, Problem, Searcher
from service.search.thaw import Thaw
from service.study.pruners import PrunerConfig
from service.study.samplers import SamplerConfig, TpeConfig, build_sampler, sampler_misfit
from service.study.search_space import Values
from tests.benchmarks import loss_table
from tests.benchmarks.loss_table import Flat, Search, Table
from tests.benchmarks.samplers import PRUNERS, SAMPLERS
from tests.benchmarks.search import priors
from tests.benchmarks.search.peers import PEERS
from tests.benchmarks.search.priors import PRIORS
from tests.benchmarks.search.replay import Draw, Replay

THAW = "thaw", "pauses"
DEFAULT = "thaw, prior real", "pauses"
"""What a study gets that names neither sampler nor pruner: it begins with the runs that this project has recorded. A
table that is made of some of them is searched with the others."""


@dataclass(frozen=True)
class Stopping:
    """A sampler and a pruner, which ends trials for good; `flat`: where every parameter always exists."""

    sampler: SamplerConfig
    pruner: PrunerConfig
    flat: bool = False

    def fits(self, table: Table) -> bool:
        """A study of this space may name the sampler."""
        space = self._searched(table).search_space
        return sampler_misfit(self.sampler, space.distributions, space.conditional) is None

    def _searched(self, table: Table) -> Table:
        return Flat(table) if self.flat else table

    def search(self, table: Table, *, seed: int, budget_tokens: int, workers: int, target: float) -> Search:
        """Until it has arrived, or the budget is spent."""
        return loss_table.search(
            self._searched(table),
            self.sampler,
            self.pruner,
            seed=seed,
            budget_tokens=budget_tokens,
            workers=workers,
            target=target,
        )


def drawn_at_random(problem: Problem, begun: list[Begun]) -> Values:
    """A configuration like any other."""
    rng = np.random.default_rng([problem.seed, len(begun)])
    place = rng.random((1, len(problem.space.parameters)))
    return Coordinates(problem.space).values(place)[0]


def drawn_by_tpe(problem: Problem, begun: list[Begun]) -> Values:
    """As TPE draws with every loss so far: of a paused trial as of a pruned one."""
    seed = int(np.random.default_rng([problem.seed, len(begun)]).integers(2**31))
    distributions = problem.space.distributions
    study = optuna.create_study(sampler=build_sampler(TpeConfig(), seed=seed, space=distributions))
    states = {"running": TrialState.RUNNING, "paused": TrialState.PRUNED, "failed": TrialState.PRUNED}
    for trial in begun:
        state = states.get(trial.state, TrialState.COMPLETE)
        known = optuna.trial.create_trial(
            state=state,
            params=problem.space.encode(trial.values),
            distributions={key: distributions[key] for key in trial.values},
            intermediate_values=dict(zip(problem.rungs, trial.losses, strict=False)),
            value=trial.losses[-1] if state == TrialState.COMPLETE else None,
        )
        study._storage.create_new_trial(study._study_id, template_trial=known)
    return problem.space.suggest(study.ask())


@dataclass(frozen=True)
class Pausing:
    """A searcher, and what draws where it leaves that to a sampler."""

    searcher: Searcher
    draw: Draw = drawn_at_random
    prior: str | None = None

    def fits(self, table: Table) -> bool:
        """It has an earlier study of the kind."""
        return self.prior is None or priors.fits(self.prior, table)

    def search(self, table: Table, *, seed: int, budget_tokens: int, workers: int, target: float) -> Search:
        """Until it has arrived, or the budget is spent."""
        replay = Replay(table, self.searcher, self.draw, seed, workers, self.prior)
        return replay.run(budget_tokens=budget_tokens, target=target)


@dataclass(frozen=True)
class WholeTrials:
    """What a search is worth without pauses: every trial is trained to its end before its worker begins another."""

    searcher: Searcher

    def decide(self, problem: Problem, begun: Sequence[Begun], left: float = math.inf) -> Decision | None:
        """As `Searcher.decide`."""
        for trial in begun:
            if trial.state == "paused":
                return Advance(trial.number)
        return self.searcher.decide(problem, begun, left)


@dataclass(frozen=True)
class AfterBaseline:
    """What a search costs whose first trial is run to its end whatever it shows, as a study's baseline is."""

    searcher: Searcher

    def decide(self, problem: Problem, begun: Sequence[Begun], left: float = math.inf) -> Decision | None:
        """As `Searcher.decide`."""
        if begun and begun[0].state == "paused":
            return Advance(0)
        return self.searcher.decide(problem, begun, left)


Arm = Stopping | Pausing

ARMS: Mapping[tuple[str, str], Arm] = {
    (sampler, pruner): Stopping(SAMPLERS[sampler], PRUNERS[pruner])
    for sampler, pruner in product(SAMPLERS, PRUNERS)
} | {
    **{
        ("GP, no conditions", name): Stopping(SAMPLERS["GP"], pruner, flat=True)
        for name, pruner in PRUNERS.items()
    },
    ("random", "halving with promotion"): Pausing(Halving()),
    ("TPE", "halving with promotion"): Pausing(Halving(), drawn_by_tpe),
    THAW: Pausing(Thaw()),
    ("thaw, no pauses", "none"): Pausing(WholeTrials(Thaw())),
    ("thaw, first trial whole", "pauses"): Pausing(AfterBaseline(Thaw())),
    **{(f"thaw, prior {kind}", "pauses"): Pausing(Thaw(), prior=kind) for kind in PRIORS},
}
"""By searcher and pruner."""
ALL = {**ARMS, **PEERS}
"""Other tools among them."""
