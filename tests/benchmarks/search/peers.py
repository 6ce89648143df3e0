"""Other tools on the same tables: SMAC, NePS, Syne Tune and HEBO, each by its own ask and tell.

They are not among this project's packages: where one is not installed, it is left out. All but SMAC search a space in
which every parameter always exists. An ordered choice is offered as its position. A loss of what diverged is that of a
guess. A configuration that goes on costs what it is trained further, whether a tool knows of that or not; one that is
asked for again costs its tokens again.
"""

import contextlib
import heapq
import importlib.util
import io
import math
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from service.study.parameters import CategoricalParameter
from service.study.search_space import SearchSpace, Values, key_of
from tests.benchmarks.loss_table import Flat, Search, Table
from tests.benchmarks.search.surrogate import WORST


@dataclass(frozen=True)
class Job:
    """A configuration, the rung to train it to (from 1), and the tool's own name for this."""

    values: Values
    rung: int
    handle: Any


class Peer(Protocol):
    """A tool at work on one search."""

    def ask(self) -> Job:
        """What to train next."""

    def tell(self, job: Job, loss: float) -> Job | None:
        """What came of it; what its worker goes on with, where the tool says so."""


def search(table: Table, peer: Peer, *, workers: int, budget_tokens: int, target: float) -> Search:
    """By workers that train at one speed, until a whole trial has a loss of at most `target` or the budget is spent."""
    found, rungs = Search(), (0, *table.rungs)
    reached: dict[str, int] = {}
    busy: list[tuple[int, int, Job | None, tuple[float, ...]]] = [
        (0, worker, None, ()) for worker in range(workers)
    ]
    while busy:
        clock, worker, job, curve = heapq.heappop(busy)
        if clock * workers > budget_tokens:
            break
        follows = None
        if job is not None:
            loss = curve[job.rung - 1] if job.rung <= len(curve) else WORST
            if job.rung == len(table.rungs) == len(curve) and loss < found.at(math.inf):
                found.tokens.append(clock * workers)
                found.best.append(loss)
            if found.at(math.inf) <= target:
                break
            follows = peer.tell(job, loss)
        job = follows or peer.ask()
        key, curve = key_of(job.values), table.curve(job.values)
        found.trials += key not in reached
        # one that diverges does so on its way to the first rung that it has no loss of
        end = min(job.rung, len(curve) + 1)
        before = reached.get(key, 0)
        cost = rungs[end] - (rungs[before] if before < end else 0)  # what is there already is trained again
        reached[key] = max(end, before)
        heapq.heappush(busy, (clock + cost, worker, job, curve))
    return found


class Axis(NamedTuple):
    """What a tool is offered of a parameter."""

    kind: Literal["float", "int", "choice"]
    low: float
    high: float
    log: bool = False

    @property
    def names(self) -> list[str]:
        """Of a choice, the positions as text."""
        return [f"{i}" for i in range(int(self.high) + 1)]


def _axes(space: SearchSpace) -> dict[str, Axis]:
    found = {}
    for key, parameter in space.parameters.items():
        if isinstance(parameter, CategoricalParameter):
            kind: Literal["int", "choice"] = "int" if parameter.is_ordered else "choice"
            found[key] = Axis(kind, 0, len(parameter.choices) - 1)
        else:
            found[key] = Axis(parameter.type, parameter.low, parameter.high, parameter.log)
    return found


def _decoded(space: SearchSpace, given: dict[str, Any]) -> Values:
    """From what a tool names: choices are positions, of an unordered one as text."""
    found = Values()
    for key, parameter in space.parameters.items():
        if key in given:
            if isinstance(parameter, CategoricalParameter):
                found[key] = parameter.choices[int(given[key])]
            else:
                found[key] = int(given[key]) if parameter.type == "int" else float(given[key])
    return found


def _never(config: Any, seed: int = 0, budget: float = 0) -> float:
    """What a facade would call, were it not asked and told."""
    raise NotImplementedError


class Smac:
    """SMAC's multi-fidelity facade (a forest and hyperband) as it comes, on budgets of rungs; it knows conditions."""

    def __init__(self, table: Table, seed: int) -> None:
        import ConfigSpace
        from smac import MultiFidelityFacade, Scenario

        self._space = table.search_space
        space, axes = ConfigSpace.ConfigurationSpace(seed=seed), _axes(self._space)
        for key, axis in axes.items():
            if axis.kind == "choice":
                space.add(ConfigSpace.Categorical(key, axis.names))
            else:
                make = ConfigSpace.Float if axis.kind == "float" else ConfigSpace.Integer
                space.add(make(key, (axis.low, axis.high), log=axis.log))
        for key, parameter in self._space.parameters.items():
            conditions = []
            for parent, values in parameter.when.items():
                of = self._space.parameters[parent]
                assert isinstance(of, CategoricalParameter)
                places = [of.choices.index(value) for value in values]
                named = axes[parent].kind == "choice"
                conditions.append(
                    ConfigSpace.InCondition(
                        space[key], space[parent], list(map(str, places)) if named else places
                    )
                )
            if conditions:
                space.add(ConfigSpace.AndConjunction(*conditions) if len(conditions) > 1 else conditions[0])
        self._folder = tempfile.TemporaryDirectory()
        scenario = Scenario(
            space,
            output_directory=self._folder.name,  # type: ignore[arg-type]
            deterministic=True,
            n_trials=100_000,
            min_budget=1,
            max_budget=len(table.rungs),
            seed=seed,
        )
        self._smac = MultiFidelityFacade(scenario, _never, overwrite=True, logging_level=False)

    def ask(self) -> Job:
        info = self._smac.ask()
        return Job(_decoded(self._space, dict(info.config)), max(1, round(info.budget)), info)

    def tell(self, job: Job, loss: float) -> None:
        from smac.runhistory.dataclasses import TrialValue

        self._smac.tell(job.handle, TrialValue(cost=loss), save=False)


class Neps:
    """NePS's PriorBand without priors: hyperband that also draws around the best."""

    def __init__(self, table: Table, seed: int) -> None:
        import neps

        self._space = table.search_space
        parameters: dict[str, Any] = {"rung": neps.IntegerFidelity(1, len(table.rungs))}
        for key, axis in _axes(self._space).items():
            if axis.kind == "choice":
                made = neps.Categorical(axis.names)
            else:
                made = (neps.Float if axis.kind == "float" else neps.Integer)(
                    axis.low, axis.high, log=axis.log
                )
            parameters[key.replace(".", "__")] = made
        space = type("Space", (neps.PipelineSpace,), parameters)()
        self._neps = neps.AskAndTell(neps.algorithms.priorband(space))

    def ask(self) -> Job:
        trial = self._neps.ask()
        given = {key.replace("__", "."): value for key, value in trial.config.items()}
        return Job(_decoded(self._space, given), int(given["rung"]), trial)

    def tell(self, job: Job, loss: float) -> None:
        self._neps.tell(job.handle, loss)


class SyneTune:
    """A scheduler of Syne Tune. Those of several fidelities say at every rung whether a trial goes on."""

    def __init__(self, table: Table, seed: int, name: str) -> None:
        from syne_tune import config_space
        from syne_tune.optimizer import baselines

        self._space, self._rungs = table.search_space, len(table.rungs)
        space: dict[str, Any] = {}
        makers = {
            ("float", False): config_space.uniform, ("float", True): config_space.loguniform,
            ("int", False): config_space.randint, ("int", True): config_space.lograndint,
        }  # fmt: skip
        for key, axis in _axes(self._space).items():
            if axis.kind == "choice":
                space[key] = config_space.choice(axis.names)
            else:
                space[key] = makers[axis.kind, axis.log](axis.low, axis.high)
        self._asha = name.startswith("ASHA")
        many = {"time_attr": "rung", "max_t": self._rungs} if self._asha else {}
        self._scheduler = getattr(baselines, name)(space, metric="loss", random_seed=seed, **many)
        self._trials = 0

    def ask(self) -> Job:
        from syne_tune.backend.trial_status import Trial

        suggestion = self._scheduler.suggest()
        trial = Trial(self._trials, suggestion.config, datetime.now())
        self._trials += 1
        self._scheduler.on_trial_add(trial)
        return Job(_decoded(self._space, suggestion.config), 1 if self._asha else self._rungs, trial)

    def tell(self, job: Job, loss: float) -> Job | None:
        result = {"loss": loss, "rung": job.rung}
        if not self._asha or job.rung == self._rungs:
            self._scheduler.on_trial_complete(job.handle, result)
            return None
        goes_on = self._scheduler.on_trial_result(job.handle, result) == "CONTINUE" and loss != WORST
        return Job(job.values, job.rung + 1, job.handle) if goes_on else None


class Hebo:
    """HEBO as it comes, on whole trials."""

    def __init__(self, table: Table, seed: int) -> None:
        from hebo.design_space.design_space import DesignSpace
        from hebo.optimizers.hebo import HEBO

        self._space, self._rungs = table.search_space, len(table.rungs)
        listed: list[dict[str, Any]] = []
        types = {("float", False): "num", ("float", True): "pow", ("int", False): "int"}
        for key, axis in _axes(self._space).items():
            if axis.kind == "choice":
                listed.append({"name": key, "type": "cat", "categories": axis.names})
            else:
                kind = types[axis.kind, axis.log]
                listed.append({"name": key, "type": kind, "lb": axis.low, "ub": axis.high})
        self._hebo = HEBO(DesignSpace().parse(listed), scramble_seed=seed)

    def ask(self) -> Job:
        asked = self._hebo.suggest(n_suggestions=1)
        return Job(_decoded(self._space, asked.iloc[0].to_dict()), self._rungs, asked)

    def tell(self, job: Job, loss: float) -> None:
        self._hebo.observe(job.handle, np.array([[loss]]))


@contextlib.contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """These draw from global generators, and talk."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Elsewhere:
    """A tool as an arm of the comparison."""

    package: str
    make: Callable[[Table, int], Peer]
    conditions: bool = False

    def fits(self, table: Table) -> bool:
        """It is installed, and the table has every point of its space."""
        return importlib.util.find_spec(self.package) is not None and not table.pool

    def search(self, table: Table, *, seed: int, budget_tokens: int, workers: int, target: float) -> Search:
        """Until it has arrived, or the budget is spent."""
        searched = table if self.conditions else Flat(table)
        with _quiet(seed):
            peer = self.make(searched, seed)
            return search(searched, peer, workers=workers, budget_tokens=budget_tokens, target=target)


PEERS = {
    ("SMAC, multi-fidelity", "its own"): Elsewhere("smac", Smac, conditions=True),
    ("NePS, PriorBand", "its own"): Elsewhere("neps", Neps),
    ("Syne Tune, ASHA", "its own"): Elsewhere("syne_tune", lambda table, seed: SyneTune(table, seed, "ASHA")),
    ("Syne Tune, ASHA-BORE", "its own"): Elsewhere(
        "syne_tune", lambda table, seed: SyneTune(table, seed, "ASHABORE")
    ),
    ("Syne Tune, BORE", "none"): Elsewhere("syne_tune", lambda table, seed: SyneTune(table, seed, "BORE")),
    ("HEBO", "none"): Elsewhere("hebo", Hebo),
}
"""By searcher and pruner."""
