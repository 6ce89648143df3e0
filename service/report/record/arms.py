"""Which arm a trial belongs to, and which trial of a search is its baseline."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from model.config.train_config import recorded
from service.storage.ownership import generation_of, slot_of
from service.storage.studies import corpus_facts
from service.study.definition import StudyDefinition
from service.study.design import BASELINE
from service.study.parameters import same
from service.study.search_space import SearchSpace, leaves
from service.text.quantities import shown_params

_NAMED = 4
"""Changes in a name; a table has the others."""


def arms_of_trials(
    trials: Sequence[FrozenTrial], definition: StudyDefinition, own: Collection[int]
) -> dict[int, str]:
    """Each trial's arm: as its design named it, or made of its parameters; of a search, the trial itself, named by what
    it changed.

    Args:
        trials: of the study.
        definition: of the study.
        own: numbers of those that it has trained. Any other is never taken for a run of an arm of theirs, whatever it
            says of itself.
    """
    if not definition.cells:
        base = dict(leaves(definition.base_config.model_dump(mode="json")))
        return {trial.number: _of_search(trial, definition, base) for trial in trials}
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


def values_of(trial: FrozenTrial, space: SearchSpace) -> dict[str, Any]:
    """The trial's parameters by dotted key, as a configuration has them."""
    values: dict[str, Any] = dict(trial.params)
    for key in values.keys() & space.parameters.keys():
        with contextlib.suppress(ValueError):  # an added trial's lies where it lies
            values[key] = space.parameters[key].taken(values[key])
    return values


def _of_search(trial: FrozenTrial, definition: StudyDefinition, base: Mapping[str, Any]) -> str:
    """`trial 7: lr 0.002, batch_size 16`: the values that the base file does not have."""
    values = values_of(trial, definition.space)
    changed = {key: value for key, value in values.items() if key not in base or not same(value, base[key])}
    first = dict(list(changed.items())[:_NAMED])
    more = f", {len(changed) - len(first)} more" if len(changed) > len(first) else ""
    if changed:
        return f"trial {trial.number}: {shown_params(first)}{more}"
    same_as = BASELINE if definition.baseline else "the base file's values"
    return f"trial {trial.number}" + (f": {same_as}" if values else "")


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
