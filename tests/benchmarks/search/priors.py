"""Earlier studies of a table: those made of its own cells, one that is right and some that mislead, and a real one."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from service.search.earlier import Earlier
from service.search.problem import Problem
from service.settings import ROOT
from service.storage.earlier_trials import RECORDED, recorded_runs, recorded_trials
from service.study import definition
from service.study.definition import StudyDefinition
from service.study.search_space import Values
from tests.benchmarks.loss_table import LossTable, Table
from tests.benchmarks.search.pool import Pool

REAL = "real"
PRIORS = ("right", "shifted", "reversed", "chance", REAL)
"""Its losses are the table's with noise; those of cells two steps on along the first axis; the negative ones, by which
the worst looks best; drawn at random; or what the runs ended with that a study begins with, but for the table's own."""
_TRIALS = 60
_NOISE = 0.01
"""Nats: four times what two seeds differ by there."""
_OF_POOL = {
    "optimizer.lr": "lr",
    "optimizer.weight_decay": "weight_decay",
    "schedule.decay_fraction": "cooldown_fraction",
    "training.batch_size": "batch",
    "model.d_model": "d_model",
    "model.n_layer": "n_layer",
}
"""What the pool calls them. All of its runs are of AdamW, wsd, and neither SAM."""
_AS_IN_POOL = {"optimizer.name": "adamw", "schedule.decay": "wsd", "optimizer.sharpness.method": "none"}


def fits(kind: str, table: Table) -> bool:
    """The table has an earlier study of the kind."""
    if kind != REAL:
        return isinstance(table, LossTable)
    return isinstance(table, Pool) or _own(table) is not None


def earlier(table: Table, problem: Problem, kind: str, seed: int) -> tuple[Earlier, ...]:
    """Whole trials of earlier studies."""
    if kind != REAL:
        assert isinstance(table, LossTable)
        seen = [_of_cells(table, problem, kind, seed)]
    elif isinstance(table, Pool):
        seen = [_in_pool(folder) for folder in RECORDED]
    else:
        seen = [recorded_in(table, folder) for folder in RECORDED if folder != _own(table)]
    return tuple(Earlier.of(problem.space, trials) for trials in seen)


def _own(table: Table) -> str | None:
    """Of the recorded ones, that whose space the table has."""
    keys = table.search_space.parameters.keys()
    return next((folder for folder in RECORDED if _study(folder).space.parameters.keys() == keys), None)


@cache
def _study(folder: str) -> StudyDefinition:
    return definition.load(ROOT / folder)


def recorded_in(table: Table, folder: str) -> list[tuple[Values, float]]:
    """As a study of the table's space sees recorded runs.

    At the positions of a table of cells, between these where no cell has such a value.
    """
    own = _own(table)
    assert own is not None
    seen = recorded_trials(folder, _study(own))
    if not isinstance(table, LossTable):
        return seen
    return [
        ({key: _position(axis, values[key]) for key, axis in table.axes.items()}, loss)
        for values, loss in seen
    ]


def _in_pool(folder: str) -> list[tuple[Values, float]]:
    """By the pool's names, as far as it has them."""
    one, runs = recorded_runs(folder)
    configurations = (({**one.base.values, **values}, loss) for values, loss in runs)
    return [
        ({own: float(values[key]) for key, own in _OF_POOL.items()}, loss)
        for values, loss in configurations
        if all(values[key] == choice for key, choice in _AS_IN_POOL.items() if key in one.space.parameters)
    ]


def _of_cells(table: LossTable, problem: Problem, kind: str, seed: int) -> list[tuple[Values, float]]:
    """Of cells drawn at random, with losses of the kind."""
    rng = np.random.default_rng([seed, PRIORS.index(kind)])
    cells = list(table.losses)
    seen = []
    for i in rng.choice(len(cells), min(_TRIALS, len(cells)), replace=False):
        first, *rest = cells[i]
        at = min(first + 2, len(next(iter(table.axes.values()))) - 1) if kind == "shifted" else first
        loss = {
            "reversed": -table.losses[cells[i]][-1],
            "chance": float(rng.normal()),
        }.get(kind, table.losses[at, *rest][-1])
        if kind in ("right", "shifted"):
            loss += float(rng.normal(0, _NOISE))
        places = zip(problem.space.parameters.items(), cells[i], strict=True)
        values = {key: f"{place}" if hasattr(p, "choices") else place for (key, p), place in places}
        seen.append((values, loss))
    return seen


def _position(axis: Sequence[float], value: float) -> float:
    """Along values of which each is so many times the one before, or of two as far along as it lies between them."""
    if len(axis) == 2:
        return (value - axis[0]) / (axis[1] - axis[0])
    return math.log(value / axis[0]) / math.log(axis[1] / axis[0])
