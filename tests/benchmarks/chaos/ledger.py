"""What must hold of a study after it was disturbed."""

from collections import Counter
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from tests.benchmarks.chaos.driver import Fault
from tests.benchmarks.chaos.faults import Kind
from tests.benchmarks.chaos.observer import Observer
from tests.benchmarks.chaos.stack import WORKERS

SAMPLE = 8
"""Resumed configurations that are run again, undisturbed."""
SAMPLE_AT_LEAST = 5
"""Of a run of ten faults or more."""
AT_WORK_SECONDS = 60
"""Before the end, within which every container must have taken a lease or reported."""
RATE = "optimizer.lr"


@dataclass
class Run:
    """A disturbed study as it was found at its end. Times are the observer's."""

    trials: list[FrozenTrial]
    slots: list[str]
    """Their states."""
    faults: list[Fault]
    missed: list[Kind]
    asked: int
    """Faults that were asked for."""
    observer: Observer
    last_fault: float
    """When all faults had been undone."""
    end: float
    containers: list[str]
    """The states of the worker containers, and of the storage's."""
    undisturbed: dict[float, list[float]] = field(default_factory=dict)

    def recoveries(self, kind: Kind | None = None) -> list[float | None]:
        """Seconds from each fault's end until all containers trained; None where they did not again."""
        chosen = [fault for fault in self.faults if kind in (None, fault.kind)]
        ends = [fault.undone for fault in chosen if fault.undone is not None]
        trained = [(end, self.observer.all_train(end)) for end in ends]
        return [None if when is None else when - end for end, when in trained]


Check = tuple[str, bool, str]
"""What must hold, whether it does, and what was found."""


def check(run: Run) -> list[Check]:
    states = Counter(trial.state for trial in run.trials)
    finished = curves(run.trials)
    ends = Counter(t.params[RATE] for t in run.trials if t.state == TrialState.COMPLETE)
    twice = [rate for rate, times in ends.items() if times > 1]
    slots = Counter(run.slots)
    same = [rate for rate, losses in run.undisturbed.items() if finished.get(rate) == losses]
    lost = run.recoveries().count(None)
    least = min(SAMPLE_AT_LEAST, run.asked // 2)
    not_undone = [f"{fault.kind.name}: {fault.failure}" for fault in run.faults if fault.failure]
    signs = [run.observer.last_sign(container) for container in range(1, WORKERS + 1)]
    ago = [None if sign is None else max(0.0, run.end - sign) for sign in signs]
    return [
        (
            f"at least {run.asked} faults, all undone",
            len(run.faults) >= run.asked and not not_undone,
            "; ".join([f"{len(run.faults)}", *not_undone]),
        ),
        (
            f"exactly {len(run.slots)} trials finished, every slot closed",
            states[TrialState.COMPLETE] == slots["closed"] == len(run.slots),
            f"{states[TrialState.COMPLETE]} complete, {slots['closed']} of {len(run.slots)} slots closed",
        ),
        ("no trial is RUNNING", not states[TrialState.RUNNING], f"{states[TrialState.RUNNING]}"),
        ("no configuration was trained to its end twice", not twice, f"{len(twice)}"),
        (
            f"resumed trials have the losses of undisturbed ones, every rung to the bit (at least {least})",
            len(same) == len(run.undisturbed) >= least,
            f"{len(same)} of {len(run.undisturbed)}",
        ),
        (
            f"all {WORKERS} containers trained again after every fault",
            not lost,
            f"not after {lost} of {len(run.faults)}",
        ),
        (
            f"all {WORKERS} containers at work at the end without help: a lease or a report in the last "
            f"{AT_WORK_SECONDS} s",
            all(seconds is not None and seconds <= AT_WORK_SECONDS for seconds in ago)
            and run.observer.ended is not None,
            ", ".join("never" if seconds is None else f"{seconds:.0f} s before" for seconds in ago)
            + ("; the study did not end" if run.observer.ended is None else ""),
        ),
    ]


def curves(trials: list[FrozenTrial]) -> dict[float, list[float]]:
    """The losses at every rung of the complete trials, by learning rate."""
    return {
        trial.params[RATE]: [*trial.intermediate_values.values(), trial.value]
        for trial in trials
        if trial.state == TrialState.COMPLETE
    }


def resumed(trials: list[FrozenTrial]) -> set[float]:
    """The learning rates of complete trials that went on with another one."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return {trial.params[RATE] for trial in complete if "goes_on_with" in trial.user_attrs}
