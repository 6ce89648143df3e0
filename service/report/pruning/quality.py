"""How good pruning is: what it stopped wrongly, what it saved, and how early the final order of the trials shows.

All of it follows from the trials' losses at the rungs; nothing is read from a storage here.
`service.report.pruning.replay` makes such curves of what a pruner would have done.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import stats

from service.statistics import CONFIDENCE

ENOUGH_AUDITS = 20
"""Audited trials below which the share stopped wrongly is not known: with none wrong among 20 it may still be 17 %."""
FEWEST_TRIALS = 10
"""Trials below which nothing is said of ranks: among 10, one correlation in 20 is beyond 0.65 by chance."""
FAITHFUL = 0.9
"""Rank correlation from which on trials may be stopped at a rung. Of normally distributed losses, 14 % of those that
end in the better half are then in the worse half there: acos(r)/pi with r = 2 sin(pi 0.9 / 6) (Pearson 1907)."""


@dataclass(frozen=True)
class TrialLosses:
    """One trial's losses, as far as it was trained."""

    trial: int
    losses: Mapping[int, float]
    """`val_loss` by rung, in training tokens, rising."""
    budget_tokens: int
    ended: Literal["complete", "pruned", "diverged"]
    audit_tokens: int | None = None
    """Where the pruner would have stopped it, had it not been audited; None where it never said so."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Categorical settings of its schedule, by dotted key."""

    @property
    def tokens(self) -> int:
        """Trained, up to the last rung."""
        return max(self.losses, default=0)

    @property
    def final(self) -> float:
        """The loss at the end of the budget; of a diverged trial infinite."""
        assert self.ended != "pruned", "nobody knows how it would have ended"
        return self.losses[self.tokens] if self.ended == "complete" else math.inf


@dataclass(frozen=True)
class Proportion:
    """So many of so many."""

    count: int
    of: int
    """Above 0."""

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """The exact interval of Clopper and Pearson (1934) at `CONFIDENCE`."""
        found = stats.binomtest(self.count, self.of).proportion_ci(CONFIDENCE, method="exact")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Wrong:
    """Trials that were to be stopped and were run to the end, against those that the pruner kept."""

    winners: Proportion
    """Those that ended below the best one kept: the search would have lost its winner."""
    better_half: Proportion
    """Those that ended below the median of the ones kept."""


@dataclass(frozen=True)
class Savings:
    """Training tokens of the complete and the pruned trials; those that diverged are left out."""

    trials: int
    pruned: int
    """Stopped before their end."""
    budget_tokens: int
    """Of all these trials, had each been trained to its end."""
    saved_tokens: int
    """Not trained: what the pruner would have saved, less what the audit cost."""
    audit_tokens: int
    """Trained by audited trials past the rung at which the pruner would have stopped them."""

    @property
    def share(self) -> float:
        """Saved, of what all would have cost."""
        return self.saved_tokens / self.budget_tokens if self.budget_tokens else 0.0


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of a rung's losses with the final ones."""

    tokens: int
    budget_share: float
    """Of the budget, in (0, 1): rungs are evenly spaced."""
    trials: int
    rho: float
    interval: tuple[float, float]
    """At `CONFIDENCE`."""


def wrong(stopped: Sequence[float], kept: Sequence[float]) -> Wrong | None:
    """How many of the stopped trials should have been kept.

    Args:
        stopped: the final losses that they reached, or would have.
        kept: the final losses of the others.

    Returns:
        None where one of them is empty.
    """
    if not stopped or not kept:
        return None
    best, median = min(kept), float(np.median(kept))
    count = len(stopped)
    return Wrong(
        Proportion(sum(loss < best for loss in stopped), count),
        Proportion(sum(loss < median for loss in stopped), count),
    )


def audited(curves: Sequence[TrialLosses]) -> Wrong | None:
    """What the audited trials say of all that were stopped; one that diverged afterwards was stopped rightly."""
    complete = [curve for curve in curves if curve.ended == "complete" and curve.audit_tokens is None]
    return wrong(
        [curve.final for curve in curves if curve.audit_tokens is not None and curve.ended != "pruned"],
        [curve.final for curve in complete],
    )


def savings(curves: Sequence[TrialLosses]) -> Savings:
    """What pruning saved, and what its audit cost."""
    counted = [curve for curve in curves if curve.ended != "diverged"]
    return Savings(
        trials=len(counted),
        pruned=sum(curve.ended == "pruned" for curve in counted),
        budget_tokens=sum(curve.budget_tokens for curve in counted),
        saved_tokens=sum(curve.budget_tokens - curve.tokens for curve in counted if curve.ended == "pruned"),
        audit_tokens=sum(
            curve.tokens - curve.audit_tokens for curve in counted if curve.audit_tokens is not None
        ),
    )


def rank_correlations(curves: Sequence[TrialLosses]) -> tuple[RankCorrelation, ...]:
    """One a rung before the end, over the complete trials, which have one budget.

    Empty with fewer than `FEWEST_TRIALS`; without rungs at which all losses are equal.

    The interval is Fisher's, z = atanh rho, with the variance (1 + rho²/2)/(n - 3) (Bonett and Wright 2000,
    doi 10.1007/BF02294183). Simulated in `tests/service/report/pruning/test_quality.py` with 10 to 50 trials and
    normally distributed losses, it covers the true correlation in 95 to 96 % up to 0.9, in 92 to 95 % at 0.97, and in
    only 82 to 88 % at 0.99.
    """
    complete = [curve for curve in curves if curve.ended == "complete"]
    if len(complete) < FEWEST_TRIALS:
        return ()
    finals = [curve.final for curve in complete]
    rungs = sorted(set.intersection(*(set(curve.losses) for curve in complete)))
    found = []
    for position, tokens in enumerate(rungs[:-1], start=1):
        losses = [curve.losses[tokens] for curve in complete]
        if len(set(losses)) > 1 and len(set(finals)) > 1:
            rho = float(stats.spearmanr(losses, finals).statistic)
            share = position / len(rungs)
            found.append(RankCorrelation(tokens, share, len(complete), rho, _interval(rho, len(complete))))
    return tuple(found)


def _interval(rho: float, n: int) -> tuple[float, float]:
    bound = 1 - 6 / (
        n * (n**2 - 1)
    )  # half way to the next value that n ranks can have; atanh is infinite at 1
    z = math.atanh(min(max(rho, -bound), bound))
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return math.tanh(z - half), math.tanh(z + half)


def by_setting(curves: Sequence[TrialLosses]) -> dict[str, list[TrialLosses]]:
    """The curves of each value of each setting that differs between them, under `decay wsd`; settings sorted."""
    found: dict[str, list[TrialLosses]] = {}
    for key in sorted({key for curve in curves for key in curve.settings}):
        values = sorted({curve.settings[key] for curve in curves if key in curve.settings})
        for value in values if len(values) > 1 else ():
            name = f"{key.rsplit('.', 1)[-1]} {value}"
            found[name] = [curve for curve in curves if curve.settings.get(key) == value]
    return found


def warmup_fraction(correlations: Sequence[RankCorrelation]) -> float | None:
    """The share of the budget at the first rung from which on the correlation is at least `FAITHFUL`.

    Rounded down to three digits, so that the rung itself is not missed.

    Returns:
        None where not even the last rung before the end is.
    """
    first = None
    for each in reversed(correlations):
        if each.rho < FAITHFUL:
            break
        first = each
    return None if first is None else math.floor(round(first.budget_share * 1000, 9)) / 1000
