"""What the trials of one study can tell another."""

import math
from collections.abc import Collection
from typing import Any

import optuna
from optuna.trial import TrialState

from model.errors import ConfigError
from service.settings import Settings
from service.storage.configurations import configuration_of
from service.storage.studies import StudyError, load_study
from service.storage.study_storage import StudyStorage
from service.study.definition import StudyDefinition
from service.study.parameters import CategoricalParameter, Parameter, has_order, same
from service.study.samplers import FEWEST_EARLIER
from service.study.search_space import SearchSpace, Values, leaves


def whole_trials(
    study: optuna.Study, definition: StudyDefinition, asking: StudyDefinition
) -> list[tuple[Values, float]]:
    """The complete trials of a study that say something of another one: what each had for its space, and its loss."""
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if trial.value is None or not math.isfinite(trial.value):
            continue
        try:
            config = configuration_of(study, definition, trial)
        except ConfigError:  # of another version, or added and outside its space
            continue
        configuration = dict(leaves(config.model_dump(mode="json")))
        values = seen_by(asking, definition.space, configuration, trial.params.keys())
        if values is not None:
            found.append((values, trial.value))
    return found


def seen_by(
    asking: StudyDefinition, earlier: SearchSpace, configuration: Values, existing: Collection[str]
) -> Values | None:
    """What a trial of another study had for the parameters of a study's space; None where it says nothing of them.

    Where the other one chose among things that have no order, such as optimizers, and the asking one has settled on
    one of them, trials with another say nothing: the best rate of SGD is not that of AdamW.

    Args:
        asking: the study that is to learn.
        earlier: the other one's space.
        configuration: the trial's, all values by dotted key.
        existing: keys of the space that had an effect in it; those that always have need not be among them.
    """
    for key, parameter in earlier.parameters.items():
        is_settled = key not in asking.space.parameters and key in asking.base.values
        if has_order(parameter) or not is_settled or (parameter.when and key not in existing):
            continue
        if not same(configuration.get(key), asking.base.values[key]):
            return None
    values: Values = {}
    for key, parameter in asking.space.parameters.items():
        # numbers also outside its range; another thing that is no choice of the study's is left out
        if asking.space.is_active(key, values) and _is_known(parameter, configuration.get(key)):
            values[key] = configuration[key]
    return values


def refuse_prior(storage: StudyStorage, definition: StudyDefinition, settings: Settings) -> None:
    """See that each study that is to shape the first guesses is there and has something to say. Raises StudyError."""
    for name in getattr(definition.sampler, "prior", ()):
        study, earlier = load_study(storage, name, settings)
        if not definition.space.parameters.keys() & earlier.space.parameters.keys():
            raise StudyError(f"sampler.prior: study {name!r} varies no parameter of this one; take it out")
        whole = len(whole_trials(study, earlier, definition))
        if whole < FEWEST_EARLIER:
            raise StudyError(
                f"sampler.prior: study {name!r} has {whole} complete trials of what this one trains, fewer than "
                f"{FEWEST_EARLIER} say nothing; take it out, or let it finish more"
            )


def _is_known(parameter: Parameter, value: Any) -> bool:
    if not has_order(parameter):
        return parameter.contains(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (value > 0 or isinstance(parameter, CategoricalParameter) or not parameter.log)
