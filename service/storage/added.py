"""Trials that Optuna's own interface has put into a study of ours: points to be run, and results from elsewhere.

A point that is enqueued runs in the next free slot and counts as any other trial; one outside the space is refused.
A finished trial that was added takes no slot. It is shown and ranked, and the samplers learn from it where it has a
whole point of the space, whatever ranges it was brought in with.
"""

import copy
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from model.errors import ConfigError
from service.storage.optuna_private import FIXED
from service.storage.ownership import is_own
from service.study.definition import StudyDefinition
from service.study.search_space import SearchSpace


def enqueued_point(trial: FrozenTrial, definition: StudyDefinition) -> dict[str, Any]:
    """What an enqueued trial shall take, as trials of the study store it; the sampler is asked for the rest.

    Raises:
        ConfigError: it is outside the space, or the study has none.
    """
    if definition.cells:
        raise ConfigError(
            f"this study runs {len(definition.cells)} configurations that its file lists, and no other; add it there"
        )
    space = definition.space
    for key, distribution in trial.distributions.items():
        if distribution != space.distributions.get(key, distribution):
            raise ConfigError(
                f"{key}: is given with {distribution}, allowed: {space.parameters[key].allowed}; "
                "`enqueue_trial` takes a point without ranges of its own"
            )
    fixed = trial.system_attrs.get(FIXED, {})
    return space.encode(space.point({**trial.params, **fixed}))


def as_seen(space: SearchSpace, generation: str | None) -> Callable[[FrozenTrial], FrozenTrial | None]:
    """How the samplers and the pruner see a trial of the study; None: not at all.

    A trial that was added may have other distributions than the space. Optuna then models no parameter jointly that
    they differ in, and fails where they are of another kind.
    """
    distributions = space.distributions

    def see(trial: FrozenTrial) -> FrozenTrial | None:
        if is_own(trial, generation) or trial.state in (TrialState.WAITING, TrialState.FAIL):
            return trial
        try:
            values = space.encode(space.point(trial.params, whole=True))
        except ConfigError:
            return None
        seen = copy.copy(trial)
        seen.params = values
        seen.distributions = {key: distributions[key] for key in values}
        return seen

    return see


def only_in_space(study: optuna.Study, space: SearchSpace, generation: str | None) -> optuna.Study:
    """The study with its complete trials as the samplers see them; itself where these are all the same."""
    see = as_seen(space, generation)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    seen = [see(trial) for trial in trials]
    if all(one is other for one, other in zip(trials, seen, strict=True)):
        return study
    copied = optuna.create_study(direction="minimize", study_name=study.study_name)
    copied.add_trials([trial for trial in seen if trial is not None])
    return copied
