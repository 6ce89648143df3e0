"""What in a database is this project's: its studies, and the trials that its workers have made.

Optuna's own interface can put studies beside ours and trials into ours: finished ones, and points to be run. A trial of
ours is marked in the transaction that makes it, or before it is taken, with its study's generation, so that a trial
copied from another study is not taken for one that was trained here.
"""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import optuna
from optuna.trial import FrozenTrial, TrialState

from service.storage.optuna_private import id_of
from service.storage.schema import GENERATION, StudyKey

SLOT = "slot"
"""Attribute of a trial: the number of the slot that it was made for, and the generation of its study."""


_GENERATIONS: WeakKeyDictionary[optuna.Study, str] = WeakKeyDictionary()


def key_of(study: optuna.Study) -> StudyKey:
    """What its slots and workers are known by."""
    return StudyKey(id_of(study), generation_of(study))


def generation_of(study: optuna.Study) -> str | None:
    """The study's generation, which it keeps and which is read once; None of one made before studies had one."""
    if (known := _GENERATIONS.get(study)) is not None:
        return known
    found = study.user_attrs.get(GENERATION)
    if not isinstance(found, str):
        return None
    _GENERATIONS[study] = found
    return found


def slot_mark(generation: str | None, slot: int) -> dict[str, Any]:
    """The attribute of a trial made for the slot."""
    return {SLOT: {"generation": generation, "number": slot}}


def slot_of(trial: FrozenTrial, generation: str | None) -> int | None:
    """The slot of the study of this generation that the trial was made for; None where it was made for none."""
    mark = trial.user_attrs.get(SLOT)
    if not isinstance(mark, Mapping) or mark.get("generation") != generation:
        return None
    number = mark.get("number")
    return number if isinstance(number, int) else None


def is_own(trial: FrozenTrial, generation: str | None) -> bool:
    """A worker of the study has made the trial, or has taken it to run it."""
    if slot_of(trial, generation) is not None:
        return True
    # of a study made before trials were marked: what has been trained has its configuration
    trained = trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or "config" in trial.user_attrs
    return generation is None and trained


def own_trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """The study's own trials in these states, or in any where none is given, by number."""
    generation = generation_of(study)
    found = study.get_trials(deepcopy=False, states=states or None)
    return [trial for trial in found if is_own(trial, generation)]
