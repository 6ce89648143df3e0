"""A Gaussian process of loss curves over a search space: losses at all rungs of all trials, one joint model.

With x a configuration, s the logarithm of its budget and k_s a Matérn-5/2 kernel over s, a loss is the sum of

- the mean curve                          w₀ k_s
- main effects, linear and quadratic      w₁ Φ(x)Φ(x')ᵀ + w₂ Φ(x)Φ(x')ᵀ k_s
- what configurations do jointly          w₃ k_x + w₄ k_x k_s     (Matérn-5/2, a length for every parameter)
- the trial's own luck, all along its curve, and noise      w₅ [same trial] k_s + w₆ [same observation]

so that an effect may change on the way (a long warm-up looks bad until it pays), a schedule whose losses fall at the
end is learned as that, and a trial's own curve is carried on. The idea is Swersky, Snoek and Adams' (arXiv 1406.3896);
the main effects let few trials point to a corner of the space, where a stationary kernel falls back to the mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

P = ParamSpec("P")
R = TypeVar("R")


def on_one_core(call: Callable[P, R]) -> Callable[P, R]:
    """For what computes with a process: numpy's and scipy's linear algebra keeps to the thread that calls it.

    OpenBLAS has a thread for every core, which spins while it waits. Where trainings hold the cores, as they do where a
    search decides, 161 decisions took 260 s with them and 11 s without.
    """
    limited: Callable[P, R] = threadpool_limits.wrap(limits=1, user_api="blas")(call)
    return limited


_WEIGHTS = 7
_JITTER = 1e-8
_BUDGET_LENGTH = 0.5
_PRIOR_WEIGHTS = (1.0, 0.5, 0.3, 1.0, 0.5, 0.05, 0.02)
"""Standard deviations of the parts, where the losses have one of 1."""
_LENGTH, _LENGTH_SPREAD = 2.0, 0.7
"""Prior of the lengths, log-normal; 2 is the distance of the ends of a range."""
_ITERATIONS = 20


@dataclass(frozen=True)
class Points:
    """Where losses are seen or asked for."""

    rows: Array
    """(points, columns): of `Coordinates.rows`."""
    budgets: Array
    """(points,): logarithms, 0 at the first rung and 1 at the last."""
    trials: Indices
    """(points,): numbers of trials; a point of none has a negative number of its own."""
    guesses: Array | None = None
    """(points, guesses): of the losses at the ends, from elsewhere, each of deviation 1; further main effects."""

    def __len__(self) -> int:
        return len(self.budgets)

    def joined(self, other: "Points") -> "Points":
        """These and then the others."""
        return Points(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.budgets, other.budgets]),
            np.concatenate([self.trials, other.trials]),
            None
            if self.guesses is None or other.guesses is None
            else np.concatenate([self.guesses, other.guesses]),
        )

    def chosen(self, which: Indices) -> "Points":
        """Those at these positions."""
        guesses = None if self.guesses is None else self.guesses[which]
        return Points(self.rows[which], self.budgets[which], self.trials[which], guesses)


@dataclass(frozen=True)
class Shape:
    """Of the columns: the parameter of each, and whether it is a quantity (`Coordinates`)."""

    owner: Indices
    ordered: NDArray[np.bool_]

    @cached_property
    def parameters(self) -> int:
        """How many there are."""
        return int(self.owner[-1]) + 1

    def features(self, points: Points) -> Array:
        """Main effects Φ, scaled so that all parameters together have a variance of about 1, and so all guesses."""
        rows = points.rows
        at = rows[:, self.ordered]
        quadratic = math.sqrt(5) / 2 * (3 * at**2 - 1)  # Legendre: apart from the linear ones
        quadratic[at == 0] = 0.0  # the middle, and what does not exist
        found = np.concatenate([math.sqrt(3) * at, quadratic, rows[:, ~self.ordered]], axis=1)
        found = found / math.sqrt(self.parameters)
        if points.guesses is None:
            return found
        return np.concatenate([found, points.guesses / math.sqrt(points.guesses.shape[1])], axis=1)


def _matern(squared: Array) -> tuple[Array, Array]:
    """Matérn-5/2 and its derivative with respect to the squared distance."""
    root = np.sqrt(5 * squared)
    decay = np.exp(-root)
    return (1 + root + (5 / 3) * squared) * decay, (-5 / 6) * (1 + root) * decay


@dataclass(frozen=True)
class CurveProcess:
    """The process, given losses.

    Attributes:
        shape: of the rows.
        points: where losses were seen.
        losses: (points,) of mean 0 and deviation 1.
        logs: logarithms of the kernel's lengths (one a parameter, then that of the budget) and of its deviations.
    """

    shape: Shape
    points: Points
    losses: Array
    logs: Array
    _lower: Array = field(repr=False)
    _solved: Array = field(repr=False)

    @classmethod
    def fitted(cls, shape: Shape, points: Points, losses: Array, *, fit_on: Indices) -> "CurveProcess":
        """With the most probable kernel for the losses at the positions `fit_on`, and then all losses.

        It begins at the prior and takes a fixed number of steps at most: the same losses give the same process.
        """
        kernel = _Kernel(shape, points.chosen(fit_on), losses[fit_on])
        begin, spread = _prior(shape)
        found = optimize.minimize(
            kernel.loss_and_gradient,
            begin,
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(begin - 3 * spread, begin + 3 * spread, strict=True)),
            options={"maxiter": _ITERATIONS},
        )
        return cls.given(shape, points, losses, found.x)

    @classmethod
    def given(cls, shape: Shape, points: Points, losses: Array, logs: Array) -> "CurveProcess":
        """With a kernel that is known. Raises LinAlgError: points too alike for it."""
        covariance = _covariance(shape, points, points, logs)
        covariance[np.diag_indices(len(points))] += math.exp(2 * logs[-1]) + _JITTER
        lower = cholesky(covariance, lower=True, check_finite=False)
        return cls(shape, points, losses, logs, lower, cho_solve((lower, True), losses, check_finite=False))

    def predicted(self, points: Points) -> tuple[Array, Array]:
        """Mean and variance of the losses there, without noise."""
        cross = _covariance(self.shape, points, self.points, self.logs)
        reduced = solve_triangular(self._lower, cross.T, lower=True, check_finite=False)
        features = self.shape.features(points)
        weights = np.exp(2 * self.logs[-_WEIGHTS:])
        before = weights[0] + (weights[1] + weights[2]) * (features**2).sum(1) + weights[3:6].sum()
        return cross @ self._solved, np.maximum(before - (reduced**2).sum(0), 1e-10)

    def jointly(self, points: Points) -> tuple[Array, Array]:
        """Mean and covariance of the losses there, without noise."""
        cross = _covariance(self.shape, points, self.points, self.logs)
        reduced = solve_triangular(self._lower, cross.T, lower=True, check_finite=False)
        return cross @ self._solved, _covariance(self.shape, points, points, self.logs) - reduced.T @ reduced

    def believing(self, points: Points, losses: Array) -> "CurveProcess":
        """As if these losses had been seen too."""
        return CurveProcess.given(
            self.shape, self.points.joined(points), np.concatenate([self.losses, losses]), self.logs
        )


def _prior(shape: Shape) -> tuple[Array, Array]:
    """Mean and deviation of the logarithms."""
    lengths = [_LENGTH] * shape.parameters
    mean = np.log([*lengths, _BUDGET_LENGTH, *_PRIOR_WEIGHTS])
    return mean, np.array([_LENGTH_SPREAD] * shape.parameters + [0.5] + [1.0] * _WEIGHTS)


def _covariance(shape: Shape, left: Points, right: Points, logs: Array) -> Array:
    lengths, budget_length, weights = _parts(shape, logs)
    joint = _matern(cdist(left.rows / lengths, right.rows / lengths, "sqeuclidean"))[0]
    along = _matern(((left.budgets[:, None] - right.budgets[None, :]) / budget_length) ** 2)[0]
    effects = shape.features(left) @ shape.features(right).T
    same = left.trials[:, None] == right.trials[None, :]
    return np.asarray(
        (weights[0] + weights[2] * effects + weights[4] * joint + weights[5] * same) * along
        + weights[1] * effects
        + weights[3] * joint
    )


def _parts(shape: Shape, logs: Array) -> tuple[Array, float, Array]:
    """Length of every column, of the budget, and variances of the parts."""
    return (
        np.exp(logs[: shape.parameters])[shape.owner],
        math.exp(logs[shape.parameters]),
        np.exp(2 * logs[shape.parameters + 1 :]),
    )


class _Kernel:
    """The negative logarithm of a kernel's posterior probability, with its gradient."""

    def __init__(self, shape: Shape, points: Points, losses: Array) -> None:
        self._shape, self._points, self._losses = shape, points, losses
        features = shape.features(points)
        self._effects = features @ features.T
        self._same = (points.trials[:, None] == points.trials[None, :]).astype(float)
        self._apart = (points.budgets[:, None] - points.budgets[None, :]) ** 2
        self._prior = _prior(shape)

    def loss_and_gradient(self, logs: Array) -> tuple[float, Array]:
        shape, n = self._shape, len(self._points)
        lengths, budget_length, weights = _parts(shape, logs)
        scaled = self._points.rows / lengths
        joint, joint_slope = _matern(cdist(scaled, scaled, "sqeuclidean"))
        along, along_slope = _matern(self._apart / budget_length**2)
        on_curve = weights[0] + weights[2] * self._effects + weights[4] * joint + weights[5] * self._same
        covariance = on_curve * along + weights[1] * self._effects + weights[3] * joint
        covariance[np.diag_indices(n)] += weights[6] + _JITTER
        try:
            lower = cholesky(covariance, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(logs)
        solved = cho_solve((lower, True), self._losses, check_finite=False)
        inverse = cho_solve((lower, True), np.eye(n), check_finite=False)
        # of the loss, with respect to each entry of the covariance
        by_entry = 0.5 * (inverse - np.outer(solved, solved))
        gradient = np.empty_like(logs)
        by_distance = by_entry * (weights[3] + weights[4] * along) * joint_slope
        # Σ M_ij (z_i − z_j)² = 2 Σ_i z_i² Σ_j M_ij − 2 zᵀMz, for a symmetric M
        by_column = 2 * ((by_distance.sum(1) @ scaled**2) - (scaled * (by_distance @ scaled)).sum(0))
        gradient[: shape.parameters] = -2 * np.bincount(shape.owner, by_column, shape.parameters)
        by_budget = by_entry * on_curve * along_slope * self._apart / budget_length**2
        gradient[shape.parameters] = -2 * by_budget.sum()
        entry_along = by_entry * along
        gradient[shape.parameters + 1 :] = (2 * weights) * [
            entry_along.sum(),
            (by_entry * self._effects).sum(),
            (entry_along * self._effects).sum(),
            (by_entry * joint).sum(),
            (entry_along * joint).sum(),
            (entry_along * self._same).sum(),
            np.trace(by_entry),
        ]
        away = (logs - self._prior[0]) / self._prior[1]
        likelihood = 0.5 * self._losses @ solved + np.log(np.diag(lower)).sum()
        return float(likelihood + 0.5 * away @ away), gradient + away / self._prior[1]
