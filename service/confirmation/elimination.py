"""When a configuration is dropped from a confirmation before it has run on every seed.

The rule looks after every seed from the third and may be asked at any time, by any worker: what it answers follows
from the losses alone.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import optuna
import structlog
from optuna.trial import TrialState
from scipy import stats

from service.storage.ownership import own_trials
from service.study.definition import StudyDefinition
from service.study.design import BASELINE

MIN_SEEDS = 3
"""Seeds of both configurations before the first look: of two differences the spread is not known."""
ERROR_RATE = 0.05
"""Probability with which a truly best configuration may be dropped, over all looks and all others together."""

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
    """The arms that are out, with the reason that came first.

    An arm is out when a run of it diverges or does not fit into memory, or when another arm is better: when the
    paired differences on the first n seeds have a mean above t(1 − a; n − 1) · sd/√n, for any n from `MIN_SEEDS` on.
    With k = n − `MIN_SEEDS` + 1, a = `ERROR_RATE` / ((m − 1) · k · (k + 1)) is Bonferroni's share of one of m − 1
    others and one of any number of looks, since Σ 1/(k (k + 1)) = 1. So an arm that no other one is truly better
    than, alone or tied, is dropped by its losses with a probability of at most `ERROR_RATE`, where its differences
    to each other one are normally distributed.

    The baseline is never dropped: the gain is measured against it.

    Args:
        found: losses by arm and seed.
        seeds: in the order in which they are run.
    """
    reasons = ((arm, _reason(arm, found, seeds)) for arm in found if arm != BASELINE)
    return {arm: reason for arm, reason in reasons if reason}


def _reason(arm: str, found: Losses, seeds: Sequence[int]) -> Dropped | None:
    own = found[arm]
    for n in range(1, len(seeds) + 1):
        if own.get(seeds[n - 1]) == math.inf:
            return Dropped(n, "a run of it diverged or did not fit into memory")
        for other in found:
            if n >= MIN_SEEDS and other != arm and _is_worse(own, found[other], seeds[:n], len(found)):
                return Dropped(n, f"worse than {other}")
    return None


def _is_worse(own: Mapping[int, float], others: Mapping[int, float], seeds: Sequence[int], arms: int) -> bool:
    n = len(seeds)
    if not all(math.isfinite(one.get(seed, math.inf)) for one in (own, others) for seed in seeds):
        return False
    differences = [own[seed] - others[seed] for seed in seeds]
    look = n - MIN_SEEDS + 1
    bound = _quantile(1 - ERROR_RATE / ((arms - 1) * look * (look + 1)), n - 1)
    return statistics.fmean(differences) > bound * statistics.stdev(differences) / math.sqrt(n)


@cache
def _quantile(probability: float, freedom: int) -> float:
    return float(stats.t.ppf(probability, freedom))
