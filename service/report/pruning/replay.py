"""What a pruner would have done: curves of trials that ran to the end, shown to it rung by rung.

The real pruner decides, in a real study in memory. The trials come one after the other, as to a single worker; what the
sampler would have suggested after a trial that was stopped is not known, so that the trials stay the same.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import optuna
from optuna.trial import TrialState

from service.report.pruning.quality import TrialLosses, Wrong, savings, wrong
from service.study.pruners import (
    HyperbandConfig,
    MedianConfig,
    PatientConfig,
    PrunerConfig,
    SuccessiveHalvingConfig,
    build_pruner,
    pruner_misfit,
)

_MOST_WARMUPS = 8
_SHUFFLES = 4


@dataclass(frozen=True)
class Replay:
    """What a pruner would have done to trials whose ends are known: means over the orders in which it met them."""

    pruner: PrunerConfig
    orders: int
    stopped: float
    """Trials. Those that diverged are shown to the pruner and not counted, here and below."""
    saved: float
    """Share of the tokens that all trials cost."""
    wrongly: float | None
    """Share of the stopped trials that would have ended below the median of those kept; None where none was stopped."""
    lost: int
    """Orders in which the best trial was stopped."""
    regret: float
    """The best final loss kept less the best of all; infinite where none is kept."""


def pruned_curves(
    curves: Sequence[TrialLosses], pruner: PrunerConfig, *, study_name: str = "replay"
) -> tuple[TrialLosses, ...]:
    """The curves as the pruner would have left them, in the order given.

    Args:
        curves: of trials that ran to the end or diverged, in the order in which they come.
        pruner: its section.
        study_name: decides, with a trial's place in the order, which bracket of hyperband it is in.
    """
    rungs = tuple(sorted({tokens for curve in curves for tokens in curve.losses}))
    study = optuna.create_study(
        study_name=study_name,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=build_pruner(pruner, rungs=rungs),
    )
    return tuple(_shown(curve, study) for curve in curves)


def _shown(curve: TrialLosses, study: optuna.Study) -> TrialLosses:
    """The curve up to where the study's pruner stops it."""
    assert curve.ended != "pruned", "what a pruner has cut cannot be shown to another one"
    trial = study.ask()
    at = stopped_at(trial, sorted(curve.losses.items()), curve.budget_tokens)
    if at is not None:
        study.tell(trial, state=TrialState.PRUNED)
        seen = {tokens: loss for tokens, loss in curve.losses.items() if tokens <= at}
        return replace(curve, losses=seen, ended="pruned", audit_tokens=None)
    if curve.ended == "diverged":
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, curve.final)
    return replace(curve, audit_tokens=None)


def stopped_at(trial: optuna.Trial, losses: Iterable[tuple[int, float]], budget_tokens: int) -> int | None:
    """Where the pruner stops a trial, in tokens; None where it lets it run to its end.

    Args:
        trial: a running one, to which the losses are reported as far as it comes.
        losses: tokens and loss of each rung, ascending.
        budget_tokens: of the trial; at its end a pruner is not asked.
    """
    for tokens, loss in losses:
        trial.report(loss, tokens)
        if tokens < budget_tokens and trial.should_prune():
            return tokens
    return None


def replay(
    orders: Sequence[Sequence[TrialLosses]], pruner: PrunerConfig, *, study_name: str = "replay"
) -> Replay:
    """What the pruner would have stopped, how much of it wrongly, what it would have saved and lost.

    Args:
        orders: curves as for `pruned_curves`, at least one of them complete; the same in each order.
        pruner: its section.
        study_name: as there.
    """
    stopped: list[int] = []
    found: list[Wrong] = []
    saved, regrets = [], []
    for curves in orders:
        cut = pruned_curves(curves, pruner, study_name=study_name)
        both = [(whole, after) for whole, after in zip(curves, cut, strict=True) if whole.ended == "complete"]
        kept = [whole.final for whole, after in both if after.ended == "complete"]
        lost = [whole.final for whole, after in both if after.ended == "pruned"]
        stopped.append(len(lost))
        saved.append(savings([after for _, after in both]).share)
        regrets.append(min(kept, default=math.inf) - min(kept + lost))
        judged = wrong(lost, kept)
        found += [judged] if judged else []
    return Replay(
        pruner=pruner,
        orders=len(orders),
        stopped=fmean(stopped),
        saved=fmean(saved),
        wrongly=sum(each.better_half.count for each in found) / sum(each.better_half.of for each in found)
        if found
        else None,
        lost=sum(regret > 0 for regret in regrets),
        regret=fmean(regrets),
    )


def orders_of(curves: Sequence[TrialLosses]) -> list[Sequence[TrialLosses]]:
    """The curves in their order and in four random ones, the same at every call."""
    return [curves, *(random.Random(seed).sample(curves, len(curves)) for seed in range(_SHUFFLES))]


def candidates(rungs: int) -> tuple[PrunerConfig, ...]:
    """Pruners to compare: the median one warmed up until each of at most eight rungs, the others at their defaults."""
    step = -(-rungs // _MOST_WARMUPS)
    # rounded down, so that the rung itself is not missed
    warmups = [1000 * rung // rungs / 1000 for rung in range(step, rungs, step)]
    pruners: list[PrunerConfig] = [
        *(MedianConfig(name="median", warmup_fraction=warmup) for warmup in warmups),
        PatientConfig(name="patient"),
        SuccessiveHalvingConfig(name="successive_halving"),
        HyperbandConfig(name="hyperband"),
    ]
    return tuple(pruner for pruner in pruners if pruner_misfit(pruner, rungs) is None)
