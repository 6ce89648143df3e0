"""Which arm a trial belongs to, and which trial of a search is its baseline."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from model.config.train_config import recorded
from service.storage.ownership import generation_of, slot_of
from service.storage.studies import corpus_facts
from service.study.definition import StudyDefinition
from service.study.design import BASELINE


def arms_of_trials(
    trials: Sequence[FrozenTrial], definition: StudyDefinition, own: Collection[int]
) -> dict[int, str]:
    """Each trial's arm: as its design named it, or made of its parameters; of a tuned study, the trial itself.

    Args:
        trials: of the study.
        definition: of the study.
        own: numbers of those that it has trained. Any other is never taken for a run of an arm of theirs, whatever it
            says of itself.
    """
    if not definition.cells:
        return {trial.number: f"trial {trial.number}" for trial in trials}
    names = {
        trial.number: trial.user_attrs.get("arm") or _by_parameters(trial) or BASELINE
        for trial in trials
        if trial.number in own
    }
    trained = set(names.values())
    for trial in trials:
        if trial.number not in own:
            name = _by_parameters(trial) or f"trial {trial.number}"
            names[trial.number] = f"{name}, added" if name in trained else name
    return names


def _by_parameters(trial: FrozenTrial) -> str:
    params = {key: value for key, value in trial.params.items() if key != "seed"}
    return ", ".join(f"{key.split('.')[-1]} {value}" for key, value in params.items())


def baseline_of_search(
    trials: Sequence[FrozenTrial],
    configs: Mapping[int, Mapping[str, Any]],
    study: optuna.Study,
    definition: StudyDefinition,
) -> int | None:
    """The number of the trial that ran, or runs, in the baseline's slot, the first one; None before it has begun.

    Args:
        trials: of the study.
        configs: of those that have begun and that no other one resumes, by number.
        study: a search with a baseline.
        definition: of the study.
    """
    generation = generation_of(study)
    slots = {trial.number: slot_of(trial, generation) for trial in trials}
    found = [number for number in configs if slots[number] == 0]
    if not found and generation is None:  # made before trials were marked: it is known by what it trains
        budget_tokens = corpus_facts(study)["budget_tokens"]
        config = definition.base_config.with_tokens(budget_tokens).model_dump(mode="json")
        found = [number for number in configs if recorded(configs[number]) == config]
    return max(found, default=None)
