"""What a confirmation has shown: which configuration is best, which tie with it, how much the search flattered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.confirmation.elimination import MIN_SEEDS, Dropped, Losses, worse
from service.statistics import CONFIDENCE, Estimate, estimate, paired
from service.study.design import BASELINE

DRAWS = 100_000
"""Draws from the joint distribution of the means; the error of a probability is at most 0.0016 (one sd)."""


@dataclass(frozen=True)
class Standing:
    """One configuration after its re-runs."""

    arm: str
    losses: Mapping[int, float]
    """Of its complete runs, by seed."""
    rerun: Estimate | None
    """Of these; None without one."""
    to_baseline: Estimate | None
    """Paired differences, its own minus the baseline's; None for the baseline itself."""
    to_best: Estimate | None
    """Paired differences, its own minus the best one's; None for the best itself. The interval takes the best for
    given, and is not what tells a tie."""
    probability_best: float | None
    """None of a configuration that is out."""
    search_loss: float | None
    """What the search had measured; None for the baseline, which was not chosen by it."""
    curse: Estimate | None
    """`search_loss` − re-runs: below 0 where the search flattered it. The interval is of the re-runs' mean.

    They are those of the first `MIN_SEEDS` seeds, which every arm has run: the bias is 0. Up to the seed at which an
    arm was dropped, having had bad luck, the search would seem luckier by up to 0.06 sd of a run. Both are simulated in
    `tests/service/confirmation/test_verdict.py`."""
    out: str | None
    """Why it cannot be the best, whatever its mean; of the baseline, which runs on, too."""

    @property
    def tied(self) -> bool:
        """It is not told from the best: neither worse than another one nor the best itself."""
        return self.out is None and self.to_best is not None


@dataclass(frozen=True)
class Verdict:
    """All configurations, best first, those that are out last."""

    seeds: tuple[int, ...]
    standings: tuple[Standing, ...]
    gain: Estimate | None
    """The best finalist's loss minus the baseline's, on seeds that it was not picked by: see `cross_fitted`. None where
    no finalist is left, or the baseline did not finish."""

    @property
    def best(self) -> Standing | None:
        """The one with the lowest mean; None where all are out."""
        return self.standings[0] if self.standings[0].out is None else None

    @property
    def ties(self) -> tuple[str, ...]:
        """The arms that are not told from the best."""
        return tuple(standing.arm for standing in self.standings if standing.tied)


def judge(found: Losses, seeds: Sequence[int], search_losses: Mapping[str, float]) -> Verdict:
    """The verdict over losses by arm and seed.

    The best is the one with the lowest mean among those that are complete on every seed and not worse than another
    one by `service.confirmation.elimination.worse`, the baseline included; the others among them tie with it. All
    intervals but that of the gain are Student's t-intervals of 95 %, each on its own.

    Args:
        found: as `service.confirmation.elimination.losses` gives them.
        seeds: at least 2, in the order in which they were run.
        search_losses: of the finalists, by arm.
    """
    finite = {arm: {s: x for s, x in own.items() if math.isfinite(x)} for arm, own in found.items()}
    gone = worse(found, seeds, ended=True)
    out = {arm: _out(gone.get(arm), len(own), len(seeds)) for arm, own in finite.items()}
    means = {arm: estimate(list(own.values())) for arm, own in finite.items()}

    def rank(arm: str) -> tuple[bool, float]:
        mean = means[arm]
        return out[arm] is not None, mean.mean if mean else math.inf

    ranked = sorted(found, key=rank)
    candidates = [arm for arm in ranked if out[arm] is None]
    matrix = np.array([[finite[arm][seed] for arm in candidates] for seed in seeds])
    chances = dict(zip(candidates, probabilities_best(matrix), strict=True)) if candidates else {}
    best = candidates[0] if candidates else None

    def standing(arm: str) -> Standing:
        own, search_loss = finite[arm], search_losses.get(arm)
        return Standing(
            arm=arm,
            losses=own,
            rerun=means[arm],
            to_baseline=paired(own, finite[BASELINE]) if arm != BASELINE else None,
            to_best=paired(own, finite[best]) if best is not None and arm != best else None,
            probability_best=chances.get(arm),
            search_loss=search_loss,
            curse=None if search_loss is None else _curse(search_loss, own, seeds),
            out=out[arm],
        )

    finalists = {arm: finite[arm] for arm in candidates if arm != BASELINE}
    complete = finalists and len(finite[BASELINE]) == len(seeds)
    gain = cross_fitted(finalists, finite[BASELINE]) if complete else None
    return Verdict(tuple(seeds), tuple(map(standing, ranked)), gain)


def picks(finalists: Losses) -> dict[int, str]:
    """For each seed the arm with the lowest mean on all others, so that its run on this seed had no part in it.

    Args:
        finalists: losses by arm and seed, of the same two seeds or more; at least one arm.
    """
    first = next(iter(finalists.values()))
    return {
        seed: min(finalists, key=lambda arm: sum(loss for s, loss in finalists[arm].items() if s != seed))
        for seed in first
    }


def confidence(finalists: int) -> float:
    """At which the t-interval of a cross-fitted difference is taken, one of so many having been picked.

    Bonferroni's share, since values that the seeds have picked for each other vary together.
    """
    return 1 - (1 - CONFIDENCE) / finalists


def cross_fitted(finalists: Losses, baseline: Mapping[int, float]) -> Estimate:
    """How much better the best finalist is than the baseline, whichever came out best; with a 95 % interval.

    The best of several has been lucky on the seeds that it is the best on. So each seed gives the difference between
    the arm that the other seeds pick (`picks`) and the baseline; mean and spread are over these. The interval is
    Student's at `confidence`. With one finalist it is the paired t-interval.

    Simulated in `tests/service/confirmation/test_verdict.py` over two to eight seeds, as many as were meant to be
    run, one to twenty finalists, early dropping included: of five equal finalists the bias is 0 (of their best mean
    -0.8 to -0.4 sd of a run), of unequal ones 0 to +0.16, the careful side. The interval covers the picked one's true
    difference in 94 to 99 %, with exponential losses and bad seeds too. Where no finalist is better than the
    baseline, it is below 0 in 2 % at most, and in the nominal 2.5 % with a single finalist.

    Args:
        finalists: losses by arm and seed, as for `picks`.
        baseline: by seed, of the same seeds.
    """
    of_seed = {seed: finalists[arm][seed] for seed, arm in picks(finalists).items()}
    found = paired(of_seed, baseline, confidence=confidence(len(finalists)))
    assert found, "there are seeds"
    return found


def probabilities_best(losses: NDArray[np.float64], *, seed: int = 0) -> list[float]:
    """The probability of each arm that its true mean is the lowest.

    The means are drawn from the joint Student distribution with n − 1 degrees of freedom around the measured means,
    with the arms' covariance over the seeds divided by n. Of any two arms the difference then has the distribution
    of the paired t-interval, so that of two arms the probability is that of the one-sided paired t-test. It is the
    posterior of normally distributed losses with any correlation between the arms under the prior |Σ|⁻ᵐ, m the number
    of arms. Arms with equal means and no spread share theirs.

    Args:
        losses: shape (seeds, arms), at least 2 seeds.
        seed: of the draws.
    """
    n, arms = losses.shape
    mean = losses.mean(axis=0)
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((DRAWS, n)) @ (losses - mean) / math.sqrt(n * (n - 1))
    scale = np.sqrt((n - 1) / generator.chisquare(n - 1, size=(DRAWS, 1)))
    drawn = mean + normal * scale
    lowest = drawn == drawn.min(axis=1, keepdims=True)
    shares = (lowest / lowest.sum(axis=1, keepdims=True)).mean(axis=0)
    assert shares.shape == (arms,)
    return [float(share) for share in shares]


def _out(reason: Dropped | None, complete: int, seeds: int) -> str | None:
    if reason is not None:
        return f"{reason.why}, after {reason.seeds} seeds"
    return None if complete == seeds else f"{seeds - complete} of {seeds} runs did not finish"


def _curse(search_loss: float, own: Mapping[int, float], seeds: Sequence[int]) -> Estimate | None:
    return estimate([search_loss - own[seed] for seed in seeds[:MIN_SEEDS] if seed in own])
