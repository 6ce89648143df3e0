"""A model of recorded runs, from which the loss curve of any configuration of their space is read.

`studies/samplers-hard` has too many hyperparameters for a table of every combination. Two models of its runs are
searched, so that no conclusion rests on one kind: a Gaussian process, which is nearer to the runs, and a forest, which
shares nothing with the processes that some searchers assume. `accuracy` says how near each comes to runs that it was
not fitted to.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import KFold

from service.search.coordinates import Coordinates
from service.study.search_space import SearchSpace, Values
from tests.benchmarks.loss_table import Table

Array = NDArray[np.float64]
DRAWN = 10_000
"""Configurations by whose losses random search is judged."""
WORST = 3.0
"""Nats per character: a loss above it counts as this one; a guess among 1,000 tokens, whatever the text, has 2.7."""


def _process(columns: int) -> Any:
    """Matérn-5/2 with a length for every column; the same kernel at every rung."""
    kernel = ConstantKernel(1.0) * Matern([1.0] * columns, (0.1, 100), nu=2.5) + WhiteKernel(0.01)
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)


def _forest(columns: int) -> Any:
    """Means of whole curves."""
    return ExtraTreesRegressor(100, max_features=0.7, random_state=0)


MODELS: dict[str, Callable[[int], Any]] = {"process": _process, "forest": _forest}


def _fitted(kind: str, rows: Array, curves: Array) -> Any:
    with warnings.catch_warnings():
        # a length at its bound is that of a parameter without an effect
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MODELS[kind](rows.shape[1]).fit(rows, curves)


@dataclass(frozen=True)
class Runs:
    """What was recorded."""

    space: SearchSpace
    rungs: tuple[int, ...]
    values: tuple[Values, ...]
    losses: tuple[tuple[float, ...], ...]
    """One a rung; fewer of a run that diverged."""

    @cached_property
    def rows(self) -> Array:
        """As a model sees the configurations."""
        return Coordinates(self.space).rows(self.values)

    @cached_property
    def whole(self) -> NDArray[np.bool_]:
        """Which ran to their ends."""
        return np.array([len(curve) == len(self.rungs) for curve in self.losses])

    @cached_property
    def curves(self) -> Array:
        """(whole runs, rungs): what a model is fitted to."""
        return np.minimum([self.losses[i] for i in np.flatnonzero(self.whole)], WORST)


@dataclass(frozen=True)
class Surrogate(Table):
    """A model of runs. A configuration diverges, and when, as the nearest run did."""

    runs: Runs
    model: Any

    @classmethod
    def fitted(cls, runs: Runs, kind: str) -> "Surrogate":
        """To all of the runs, by one of `MODELS`."""
        return cls(runs, _fitted(kind, runs.rows[runs.whole], runs.curves))

    @property
    def rungs(self) -> tuple[int, ...]:  # type: ignore[override]
        """Of the runs."""
        return self.runs.rungs

    @property
    def search_space(self) -> SearchSpace:
        """That of the runs."""
        return self.runs.space

    def curve(self, values: Values) -> tuple[float, ...]:
        """As the model has it."""
        return self._curves([values])[0]

    def ranked(self) -> list[float]:
        """Of configurations drawn at random."""
        return self._ranked

    @cached_property
    def _ranked(self) -> list[float]:
        coordinates = Coordinates(self.search_space)
        places = np.random.default_rng(0).random((DRAWN, len(self.search_space.parameters)))
        return sorted(map(self.final, self._curves(coordinates.values(places))))

    def _curves(self, configurations: Sequence[Values]) -> list[tuple[float, ...]]:
        rows = Coordinates(self.search_space).rows(configurations)
        found = []
        for part in np.array_split(rows, -(-len(rows) // 1000)):
            apart = ((part[:, None, :] - self.runs.rows[None, :, :]) ** 2).sum(2)
            lengths = [len(self.runs.losses[i]) for i in apart.argmin(1)]
            found += [
                tuple(map(float, c[:n])) for c, n in zip(self.model.predict(part), lengths, strict=True)
            ]
        return found


@dataclass(frozen=True)
class Accuracy:
    """Of a model's final losses, at runs of five folds that it was not fitted to."""

    error: float
    """Mean distance from what was recorded, in nats per character."""
    rank: float
    """Spearman's correlation."""
    explained: float
    """Share of the variance."""


def accuracy(runs: Runs, kind: str) -> Accuracy:
    """Of the kind of model."""
    rows, curves = runs.rows[runs.whole], runs.curves
    found = np.empty(len(curves))
    for train, test in KFold(5, shuffle=True, random_state=0).split(rows):
        found[test] = _fitted(kind, rows[train], curves[train]).predict(rows[test])[:, -1]
    ends = curves[:, -1]
    return Accuracy(
        error=float(np.abs(found - ends).mean()),
        rank=float(scipy.stats.spearmanr(found, ends).statistic),
        explained=float(1 - ((found - ends) ** 2).mean() / ends.var()),
    )


def read(path: Path, space: SearchSpace) -> Runs:
    """Runs from their file."""
    found = json.loads(path.read_text(encoding="utf-8"))
    values, losses = zip(*found["runs"], strict=True)
    return Runs(space, tuple(found["rungs"]), values, tuple(map(tuple, losses)))
