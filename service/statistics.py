"""Means and intervals over seeds.

All intervals are Student's t-intervals of 95 %: they cover what a new seed would change (initialisation, window order,
dropout), on the same corpus and machine, and nothing else.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
POWER = 0.80
MAX_SEEDS = 10_000
"""Where the search for a number of seeds ends."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with what can be said about it."""

    n: int
    mean: float
    sd: float | None
    """Standard deviation with divisor n − 1; None with one seed."""
    interval: tuple[float, float] | None
    """Of the mean, at `CONFIDENCE`; None with one seed."""

    @property
    def low(self) -> float:
        """Lower end of the interval; -inf where there is none."""
        return self.interval[0] if self.interval else -math.inf

    @property
    def high(self) -> float:
        """Upper end of the interval; inf where there is none."""
        return self.interval[1] if self.interval else math.inf


def estimate(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Estimate | None:
    """Mean, standard deviation and t-interval of one value a seed; None without a value.

    mean ± t(1 − (1 − confidence)/2; n − 1) · sd/√n.
    """
    if not values:
        return None
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Estimate(1, mean, None, None)
    # equal values have no spread, and not the rounding error of their mean for one
    sd = 0.0 if len(set(values)) == 1 else float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, (mean - half, mean + half))


def mean(values: Iterable[float]) -> float | None:
    """Of one value a seed; None without a value."""
    found = estimate(list(values))
    return found.mean if found else None


def differences(values: Mapping[int, float], others: Mapping[int, float]) -> dict[int, float]:
    """`values` − `others` for each seed that both have.

    Runs of one seed share initialisation and data order as far as their configurations allow, so that their
    differences vary less than the runs do.
    """
    return {seed: values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())}


def paired(
    values: Mapping[int, float], others: Mapping[int, float], *, confidence: float = CONFIDENCE
) -> Estimate | None:
    """The mean of `differences`, with its interval; None where they share no seed."""
    return estimate(list(differences(values, others).values()), confidence=confidence)


def correlation(coefficients: Sequence[float]) -> Estimate:
    """The mean of one correlation coefficient a seed, with its interval.

    Mean and t-interval are those of Fisher's z = atanh r, turned back (Fisher 1921): near ±1 r itself is far from
    normally distributed. The standard deviation is that of r. Coefficients of ±1 are taken for ±(1 − 1e-12).
    """
    bound = 1 - 1e-12
    z = estimate([math.atanh(min(max(r, -bound), bound)) for r in coefficients])
    r = estimate(coefficients)
    assert z, "there is at least one seed"
    assert r
    interval = (math.tanh(z.low), math.tanh(z.high)) if z.interval else None
    return Estimate(z.n, math.tanh(z.mean), r.sd, interval)


def power(difference: float, sd: float, seeds: int) -> float:
    """The probability that the interval of a mean difference excludes 0.

    That is the power of the two-sided paired t-test: t² has the noncentral F distribution with 1 and n − 1 degrees of
    freedom and noncentrality n · (difference/sd)², of which the mass beyond t(0.975; n − 1)² is taken (Cohen 1988,
    Statistical Power Analysis, chapters 2 and 8).

    Args:
        difference: the true mean difference.
        sd: the true standard deviation of the differences, above 0.
        seeds: pairs, at least 2.
    """
    bound = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)
    # not scipy's noncentral t, whose lower tail is NaN for some large differences
    return float(stats.ncf.sf(bound**2, 1, seeds - 1, seeds * (difference / sd) ** 2))


def seeds_needed(difference: float, sd: float) -> int | None:
    """The fewest seeds with which a 95 % interval of the difference excludes 0 with a probability of 80 %.

    See `power`. The standard deviation stands for the true one, and of two or three seeds it is a rough guess: so is
    the number.

    Returns:
        At least 2; None where more than `MAX_SEEDS` would be needed.
    """
    if sd == 0:
        return 2 if difference else None
    # the normal approximation n = ((z(0.975) + z(0.8)) · sd/difference)² is met from below
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER))
    if abs(difference) * math.sqrt(MAX_SEEDS) < z * sd:
        return None
    start = max(2, math.floor((z * sd / difference) ** 2))
    return next((n for n in range(start, MAX_SEEDS + 1) if power(difference, sd, n) >= POWER), None)
