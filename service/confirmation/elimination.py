"""Which configurations of a confirmation are worse than another one, and are dropped before every seed has run.

The rule looks after every seed from the third and may be asked at any time, by any worker: what it answers follows
from the losses alone. Whether a configuration is called worse in the end is this rule's answer too, so that dropping
and judging have one error rate between them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
import structlog
from numpy.typing import NDArray
from optuna.trial import TrialState
from scipy import special

from service.storage.ownership import own_trials
from service.study.definition import StudyDefinition
from service.study.design import BASELINE

MIN_SEEDS = 3
"""Seeds before the first look."""
ERROR_RATE = 0.05
"""Probability with which any truly best configuration may be called worse, over all looks and pairs together."""

Losses = Mapping[str, Mapping[int, float]]
"""By arm and seed; infinite where the run diverged or did not fit into memory."""


@dataclass(frozen=True)
class Dropped:
    """Why a configuration is out."""

    seeds: int
    """After so many."""
    why: str
    """`worse than trial 7`."""


def seeds_of(definition: StudyDefinition) -> tuple[int, ...]:
    """The seeds of a confirmation, in the order in which they are run."""
    return tuple(dict.fromkeys(cell["seed"] for cell in definition.cells))


def losses(study: optuna.Study, definition: StudyDefinition) -> dict[str, dict[int, float]]:
    """The losses of all runs that have ended, of every arm of a design with seeds.

    A trial that was added from elsewhere is no run of the design and does not count.
    """
    found: dict[str, dict[int, float]] = {arm: {} for arm in definition.arms}
    for trial in own_trials(study, TrialState.COMPLETE, TrialState.PRUNED):
        seed = definition.space.decode({"seed": trial.params["seed"]})["seed"]
        loss = trial.value if trial.state == TrialState.COMPLETE else None
        found[trial.user_attrs["arm"]][seed] = math.inf if loss is None else loss
    return found


def drops(
    study: optuna.Study, definition: StudyDefinition, arm: str, log: structlog.stdlib.BoundLogger
) -> bool:
    """Whether an arm of a confirmation has lost on earlier seeds and runs no more; says so in the log."""
    reason = dropped(losses(study, definition), seeds_of(definition)).get(arm)
    if reason is not None:
        log.info("configuration dropped", arm=arm, seeds=reason.seeds, reason=reason.why)
    return reason is not None


def dropped(found: Losses, seeds: Sequence[int]) -> dict[str, Dropped]:
    """The arms that are not run any more: those of `worse` but the baseline, against which the gain is measured."""
    return {arm: reason for arm, reason in worse(found, seeds).items() if arm != BASELINE}


def worse(found: Losses, seeds: Sequence[int], *, ended: bool = False) -> dict[str, Dropped]:
    """The arms that cannot be the best, each with the reason that came first.

    An arm is out when a run of it diverges or does not fit into memory, or when another one is better on the first n
    seeds, for any n from `MIN_SEEDS` on: see `comparisons`. A look is taken when all arms that are not out have their
    n runs, so that no later run changes what it has found.

    The probability that any of the truly best arms, however many are equal, is called worse at any look is at most
    `ERROR_RATE` where losses are normally distributed over seeds. Simulated in
    `tests/service/confirmation/test_elimination.py`, all arms being equal, over 3 to 20 seeds: two arms 3.7 % at
    most; 3 to 21 arms 0.7 % with equal spreads, 2.4 % where one or two arms have 3 to 100 times the spread of the
    others, 0.6 % with exponential noise or with seeds that are 10 sd worse in 5 % of all runs.

    What no rule can know after a few seeds is that one arm alone has bad ones still to come. Where 5 % of its runs are
    bad, and its others so much better that all arms are equal on average, another arm is called worse in up to 5 % if
    the bad runs are 10 sd worse. If they are 30 sd worse, it is in 2 % (six arms) to 13 % (two) over 5 seeds, and in
    40 % over 20.

    Args:
        found: losses by arm and seed.
        seeds: in the order in which they are run.
        ended: no further run is coming, so that nothing is waited for: an arm that lacks one is left out.
    """
    out: dict[str, Dropped] = {}
    alive = list(found)
    # every look is taken anew, from the first seed on, and none remembered: any worker finds the same at any time
    for n in range(1, len(seeds) + 1):
        seed = seeds[n - 1]
        for arm in alive:
            if found[arm].get(seed) == math.inf:
                out[arm] = Dropped(n, "a run of it diverged or did not fit into memory")
        alive = [arm for arm in alive if found[arm].get(seed) != math.inf]
        if ended:
            alive = [arm for arm in alive if seed in found[arm]]
        if any(seed not in found[arm] for arm in alive):
            break
        if n < MIN_SEEDS or len(alive) < 2:
            continue
        losses = np.array([[found[arm][seed] for seed in seeds[:n]] for arm in alive])
        # shared out over all arms that there were, not over those still alive: who is out depends on the losses
        beaten = comparisons(losses, arms=len(found), look=n - MIN_SEEDS + 1)
        for arm, by in zip(alive, beaten, strict=True):
            if by.any() and arm not in out:
                out[arm] = Dropped(n, f"worse than {alive[int(by.argmax())]}")
        # the baseline runs on, being measured against, and may still beat others
        alive = [arm for arm in alive if arm not in out or arm == BASELINE]
    return out


def comparisons(losses: NDArray[np.float64], *, arms: int, look: int) -> NDArray[np.bool_]:
    """Whether each arm is worse than each other one, by one look.

    It is where the mean of their paired differences exceeds t(1 − a; ν) · s/√n. With a = `ERROR_RATE` / (m (m − 1) ·
    k (k + 1)) each of m (m − 1) ordered pairs has its share (Bonferroni), and each of any number of looks, as
    Σ 1/(k (k + 1)) = 1.

    Two or three seeds do not say how much one pair's differences vary. So s² is the larger of the pair's own variance
    and the mean over all pairs, and ν are the degrees of freedom of that mean, by Satterthwaite's (1946) approximation:
    with R the residuals of loss = arm + seed and S = R Rᵀ, ν = (n − 1) (tr S)² / tr S². They are (n − 1) (m − 1) of
    equal spreads at most, and n − 1 where one arm makes all the noise. Of two arms it is the paired t-test.

    Args:
        losses: shape (arms, seeds), of the arms that are compared.
        arms: m, of the confirmation.
        look: k, from 1.

    Returns:
        Shape (arms, arms): row worse than column.
    """
    count, n = losses.shape
    # R of the model: what is left of a loss without its arm's mean and its seed's, which is common to all arms
    own = losses - losses.mean(axis=1, keepdims=True)
    residuals = own - own.mean(axis=0)
    products = residuals @ residuals.T
    total = float(np.trace(products))
    freedom = (n - 1) * total**2 / float((products**2).sum()) if total else n - 1
    # the mean over all pairs of the variance of their differences, Σᵢⱼ s²ᵢⱼ / m (m − 1) = 2 tr S / (n − 1) (m − 1)
    pooled = 2 * total / ((n - 1) * (count - 1))
    # s² of each pair; a row of `own` less another's is their difference less its mean
    variances = ((own[:, None] - own) ** 2).sum(axis=2) / (n - 1)
    # t(1 − a; ν) by scipy.special: importing scipy.stats takes half a second, which every worker would wait for
    bound = special.stdtrit(freedom, 1 - ERROR_RATE / (arms * (arms - 1) * look * (look + 1)))
    means = losses.mean(axis=1)
    found: NDArray[np.bool_] = means[:, None] - means > bound * np.sqrt(np.maximum(variances, pooled) / n)
    return found
