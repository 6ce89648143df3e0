"""The trials of a study, best first, and how many of each state."""

from collections.abc import Collection, Mapping, Sequence

import optuna
from optuna.trial import TrialState

from service.storage.ownership import own_trials


def ranked_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Complete trials, best first, those that were added from elsewhere among them."""
    return _ranked(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def ranked_own_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Complete trials that were trained here, best first: the ones that can have weights."""
    return _ranked(own_trials(study, TrialState.COMPLETE))


def is_among_best(study: optuna.Study, val_loss: float, number: int) -> bool:
    """Whether a trial of this loss would be one of the `number` best that were trained here."""
    best = ranked_own_trials(study)[:number]
    return len(best) < number or val_loss < (best[-1].value or 0.0)


def _ranked(trials: Sequence[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    return sorted(trials, key=lambda trial: (trial.values, trial.number))


def best_so_far(study: optuna.Study) -> tuple[float, int] | None:
    """Loss and number of the best complete trial."""
    found = ((trial.value, trial.number) for trial in ranked_trials(study)[:1] if trial.value is not None)
    return next(found, None)


def count_states(study: optuna.Study) -> str:
    """`6 complete, 2 pruned, 1 interrupted`, states without a trial left out."""
    return counted(study.get_trials(deepcopy=False))


def counted(trials: Sequence[optuna.trial.FrozenTrial], paused: Collection[int] = ()) -> str:
    """The same of trials that have been read, of which these numbers wait at a rung."""
    counts = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    counts[TrialState.RUNNING] -= len(paused)
    taken = {trial.user_attrs.get("goes_on_with") for trial in trials}
    resumed = sum(trial.state == TrialState.FAIL and trial.number in taken for trial in trials)
    said = [shown_states(counts, resumed), f"{len(paused)} paused" if paused else ""]
    return ", ".join(filter(None, said)) or "no trials"


def shown_states(counts: Mapping[TrialState, int], resumed: int) -> str:
    """The counts for people.

    Args:
        counts: of Optuna's states.
        resumed: those of the failed ones that were interrupted, and that other trials have gone on with.
    """
    said = {state.name.lower(): counts.get(state, 0) for state in TrialState}
    said |= {"interrupted": resumed, "failed": said.pop("fail") - resumed}
    return ", ".join(f"{count} {state}" for state, count in said.items() if count)
