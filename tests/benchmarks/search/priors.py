"""Earlier studies of a table's cells: one that is right, and some that mislead."""

import numpy as np

from service.search.earlier import Earlier
from service.search.problem import Problem
from tests.benchmarks.loss_table import LossTable

PRIORS = ("right", "shifted", "reversed", "chance")
"""Its losses are the table's with noise; those of cells two steps on along the first axis; the negative ones, by which
the worst looks best; or drawn at random."""
_TRIALS = 60
_NOISE = 0.01
"""Nats: four times what two seeds differ by there."""


def earlier(table: LossTable, problem: Problem, kind: str, seed: int) -> Earlier:
    """Whole trials of cells drawn at random, with losses of the kind."""
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
    return Earlier.of(problem.space, seen)
