import math

import numpy as np
import pytest
from scipy import optimize

from service.search.process import CurveProcess, Points, Shape, _Kernel, _prior

SHAPE = Shape(np.array([0, 1, 2, 2]), np.array([True, True, False, False]))


def points(trials, rungs, seed=0):
    rng = np.random.default_rng(seed)
    names = rng.integers(0, 2, trials)
    rows = np.column_stack([rng.uniform(-1, 1, (trials, 2)), np.eye(2)[names] * math.sqrt(2)])
    return Points(
        np.repeat(rows, rungs, axis=0),
        np.tile(np.linspace(0, 1, rungs), trials),
        np.repeat(np.arange(trials), rungs),
    )


def by_hand(a, b, logs):
    """The covariance of two points, as the module's docstring has it."""
    (row, s, trial), (other, t, of) = a, b
    lengths = np.exp(logs[[0, 1, 2, 2]])
    w = np.exp(2 * logs[4:])

    def matern(distance):
        r = math.sqrt(5) * distance
        return (1 + r + r * r / 3) * math.exp(-r)

    def effects(x):
        linear = [math.sqrt(3) * z for z in x[:2]]
        quadratic = [math.sqrt(5) / 2 * (3 * z * z - 1) for z in x[:2]]
        return np.array([*linear, *quadratic, *x[2:]]) / math.sqrt(3)

    along = matern(abs(s - t) / math.exp(logs[3]))
    main = effects(row) @ effects(other)
    joint = matern(np.linalg.norm((row - other) / lengths))
    return along * (w[0] + w[2] * main + w[4] * joint + w[5] * (trial == of)) + w[1] * main + w[3] * joint


def rows_of(some):
    return list(zip(some.rows, some.budgets, some.trials, strict=True))


def test_predictions_are_those_of_the_formula():
    seen, asked = points(5, 3), points(4, 2, seed=1)
    logs = _prior(SHAPE)[0] + np.random.default_rng(2).normal(0, 0.2, 11)
    losses = np.random.default_rng(3).normal(size=15)
    K = np.array([[by_hand(a, b, logs) for b in rows_of(seen)] for a in rows_of(seen)])
    K += np.eye(15) * (math.exp(2 * logs[-1]) + 1e-8)
    k = np.array([[by_hand(a, b, logs) for b in rows_of(seen)] for a in rows_of(asked)])
    before = [by_hand(a, a, logs) for a in rows_of(asked)]
    mean, variance = CurveProcess.given(SHAPE, seen, losses, logs).predicted(asked)
    assert mean == pytest.approx(k @ np.linalg.solve(K, losses))
    assert variance == pytest.approx(before - np.einsum("ij,ji->i", k, np.linalg.solve(K, k.T)))


def test_the_gradient_is_that_of_differences():
    some = points(6, 3)
    kernel = _Kernel(SHAPE, some, np.random.default_rng(4).normal(size=18))
    begin, _ = _prior(SHAPE)
    for seed in range(3):
        logs = begin + np.random.default_rng(seed).normal(0, 0.4, len(begin))
        found = kernel.loss_and_gradient(logs)[1]
        assert found == pytest.approx(
            optimize.approx_fprime(logs, lambda at: kernel.loss_and_gradient(at)[0], 1e-6), rel=1e-3, abs=1e-3
        )


def test_what_is_believed_counts_as_if_it_had_been_seen():
    some = points(5, 3)
    losses = np.random.default_rng(5).normal(size=15)
    logs = _prior(SHAPE)[0]
    first, rest = np.arange(10), np.arange(10, 15)
    told = CurveProcess.given(SHAPE, some.chosen(first), losses[first], logs)
    told = told.believing(some.chosen(rest), losses[rest])
    at_once = CurveProcess.given(SHAPE, some, losses, logs)
    for one, other in zip(told.predicted(points(3, 2)), at_once.predicted(points(3, 2)), strict=True):
        assert one == pytest.approx(other)


def curves(some):
    """A falling curve, lower to the right, and crossing: what is good at last is bad at first."""
    x, s = some.rows[:, 0], some.budgets
    return -s - 0.5 * x * (s - 0.3) + 0.05 * some.rows[:, 1]


def test_a_fitted_process_foretells_the_end_of_curves_that_cross():
    seen = points(24, 6)
    early = np.flatnonzero((seen.budgets < 0.7) | (seen.trials % 4 == 0))
    some = seen.chosen(early)
    losses = curves(some)
    mean, spread = losses.mean(), losses.std()
    fit_on = np.arange(len(some))
    process = CurveProcess.fitted(SHAPE, some, (losses - mean) / spread, fit_on=fit_on)
    ends = seen.chosen(np.flatnonzero((seen.budgets == 1) & (seen.trials % 4 != 0)))
    found, variance = process.predicted(ends)
    error = np.abs(found * spread + mean - curves(ends))
    assert error.max() < 0.05  # ends differ by 0.7
    assert (error < 3 * spread * np.sqrt(variance) + 0.01).all()
    again = CurveProcess.fitted(SHAPE, some, (losses - mean) / spread, fit_on=fit_on)
    assert np.array_equal(again.logs, process.logs)
