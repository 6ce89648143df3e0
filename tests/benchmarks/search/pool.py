"""Runs that others made, each of a configuration of its own, as a pool to choose from: losses corrected for compute.

Of `lm_runs.csv`: runs of language models with 16 million to one billion parameters, from the package `scan-bench`. A
search says what it wants to try, and gets the nearest run that it has not had.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.search.coordinates import Coordinates
from service.study.parameters import FloatParameter
from service.study.search_space import SearchSpace, Values, key_of
from tests.benchmarks.loss_table import Table

Array = NDArray[np.float64]
LOGARITHMIC = ("parameters", "batch", "lr", "weight_decay", "budget_tokens", "d_model")
LINEAR = ("n_layer", "n_head", "beta1", "beta2", "cooldown_fraction")
SIZES = 30e6, 120e6
"""Parameters of the runs that are taken."""
HALF, WITHIN = 0.5, 0.05
"""The first rung, as a share of the budget: a run that was not evaluated about there is left out."""


@dataclass(frozen=True)
class Pool(Table):
    """Runs, each at the same price."""

    space: SearchSpace
    values: tuple[Values, ...]
    losses: tuple[tuple[float, ...], ...]
    rungs: tuple[int, ...] = (1, 2)
    """Halves of a run."""

    @property
    def search_space(self) -> SearchSpace:
        """That in which all of them lie."""
        return self.space

    @property
    def pool(self) -> tuple[Values, ...]:
        """All of them."""
        return self.values

    @cached_property
    def _places(self) -> Array:
        return Coordinates(self.space).rows(self.values)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {key_of(values): i for i, values in enumerate(self.values)}

    def available(self, values: Values, begun: Collection[str]) -> Values:
        """The nearest that has not been begun."""
        distances = ((self._places - Coordinates(self.space).rows([values])) ** 2).sum(1)
        free = (i for i in np.argsort(distances) if key_of(self.values[i]) not in begun)
        return self.values[next(free)]

    def curve(self, values: Values) -> tuple[float, ...]:
        """Of a run of the pool."""
        return self.losses[self._positions[key_of(values)]]

    def ranked(self) -> list[float]:
        """Of every run."""
        return sorted(map(self.final, self.losses))


def read(path: Path) -> Pool:
    """The pool of `lm_runs.csv`.

    A loss is the logarithm of the validation loss, less what a quadratic polynomial in the logarithms of parameters and
    tokens so far says, which is fitted to the runs' ends: which configuration is best for its compute.
    """
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            row = {key: float(value) for key, value in line.items()}
            row["batch"] = row["micro_batch_size"] * row["accumulation"] * row["gpus"]
            runs[line["config"]].append(row)
    taken = []
    for rows in runs.values():
        half = min(rows, key=lambda row: abs(row["budget_share"] - HALF))
        if SIZES[0] <= half["parameters"] <= SIZES[1] and abs(half["budget_share"] - HALF) <= WITHIN:
            taken.append((half, max(rows, key=lambda row: row["tokens"])))
    ends = [end for _, end in taken]
    law = np.linalg.lstsq(_terms(ends), np.log([end["val_loss"] for end in ends]), rcond=None)[0]
    halves = [half for half, _ in taken]
    residuals = np.stack(
        [np.log([row["val_loss"] for row in rows]) - _terms(rows) @ law for rows in (halves, ends)], axis=1
    )
    space = SearchSpace({key: _range(key, ends) for key in (*LOGARITHMIC, *LINEAR)})
    values = tuple({key: end[key] for key in space.parameters} for end in ends)
    return Pool(space, values, tuple(tuple(map(float, curve)) for curve in residuals))


def _terms(rows: Sequence[dict[str, float]]) -> Array:
    sizes, tokens = (np.log([row[key] for row in rows]) for key in ("parameters", "tokens"))
    sizes, tokens = sizes - math.log(60e6), tokens - math.log(1e9)
    return np.stack([np.ones(len(rows)), sizes, tokens, sizes**2, sizes * tokens, tokens**2], axis=1)


def _range(key: str, rows: Sequence[dict[str, float]]) -> FloatParameter:
    found = [row[key] for row in rows]
    return FloatParameter(type="float", low=min(found), high=max(found), log=key in LOGARITHMIC)
