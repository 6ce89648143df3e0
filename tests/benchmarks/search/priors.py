"""Earlier studies of a table: those made of its own cells, one that is right and some that mislead, and a real one."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from service.search.earlier import Earlier
from service.search.problem import Problem
from service.settings import ROOT
from service.storage.earlier_trials import RECORDED, recorded_trials, seen_by
from service.study import definition
from service.study.definition import StudyDefinition
from service.study.search_space import Values
from tests.benchmarks import loss_table
from tests.benchmarks.loss_table import LossTable, Table
from tests.benchmarks.samplers import TABLE
from tests.benchmarks.search import surrogate
from tests.benchmarks.search.pool import Pool

REAL = "real"
PRIORS = ("right", "shifted", "reversed", "chance", REAL)
"""Its losses are the table's with noise; those of cells two steps on along the first axis; the negative ones, by which
the worst looks best; drawn at random; or what another study's runs ended with, `samplers-hard`'s but for itself."""
_TRIALS = 60
_NOISE = 0.01
"""Nats: four times what two seeds differ by there."""
_STUDIES = ROOT / "studies"
_RECORDED = "samplers", "samplers-hard"
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
    return isinstance(table, Pool) or _study_of(table) is not None


def earlier(table: Table, problem: Problem, kind: str, seed: int) -> Earlier:
    """Whole trials of an earlier study."""
    if kind != REAL:
        assert isinstance(table, LossTable)
        return Earlier.of(problem.space, _of_cells(table, problem, kind, seed))
    if isinstance(table, Pool):
        return Earlier.of(problem.space, _of_hard_in_pool())
    seen = _of_hard(table) if isinstance(table, LossTable) else _of_samplers()
    return Earlier.of(problem.space, seen)


def _study_of(table: Table) -> str | None:
    """Of the two recorded ones, that whose space the table has."""
    keys = table.search_space.parameters.keys()
    return next(
        (name for name in _RECORDED if definition.load(_STUDIES / name).space.parameters.keys() == keys), None
    )


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


@cache
def _of_samplers() -> list[tuple[Values, float]]:
    """In the space of `samplers-hard`."""
    one, asking = (definition.load(_STUDIES / name) for name in _RECORDED)
    table = loss_table.read(TABLE)
    seen = []
    for cell, curve in table.losses.items():
        had = {key: axis[at] for (key, axis), at in zip(table.axes.items(), cell, strict=True)}
        seen.append((seen_by(asking, one.space, {**one.base.values, **had}, had), curve[-1]))
    return [(values, loss) for values, loss in seen if values is not None]


def _of_hard(table: LossTable) -> list[tuple[Values, float]]:
    """As a study of `samplers` sees them, at the table's positions, between these where no cell has such a value."""
    return [
        ({key: _position(axis, values[key]) for key, axis in table.axes.items()}, loss)
        for values, loss in recorded_trials(RECORDED, _samplers())
    ]


@cache
def _samplers() -> StudyDefinition:
    return definition.load(_STUDIES / "samplers")


def _of_hard_in_pool() -> list[tuple[Values, float]]:
    """By the pool's names, as far as it has them."""
    runs = surrogate.read(ROOT / RECORDED / "runs.json", definition.load(ROOT / RECORDED).space)
    return [
        ({own: float(values[key]) for key, own in _OF_POOL.items()}, curve[-1])
        for values, curve, whole in zip(runs.values, runs.losses, runs.whole, strict=True)
        if whole and all(values[key] == choice for key, choice in _AS_IN_POOL.items())
    ]


def _position(axis: Sequence[float], value: float) -> float:
    """Along values of which each is so many times the one before, or of two as far along as it lies between them."""
    if len(axis) == 2:
        return (value - axis[0]) / (axis[1] - axis[0])
    return math.log(value / axis[0]) / math.log(axis[1] / axis[0])
