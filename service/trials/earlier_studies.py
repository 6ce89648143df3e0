"""What other studies tell a search, as its worker reads it when it begins: its `prior`, and the noise between seeds."""

import contextlib
import math
from typing import Any

import optuna
import structlog
from optuna.trial import TrialState

from model.errors import ConfigError, UserError
from service.search.earlier import Earlier
from service.storage.configurations import configuration_of
from service.storage.opened_study import OpenedStudy, open_study
from service.storage.seed_noise import noise_between_seeds
from service.study.definition import StudyDefinition
from service.study.parameters import CategoricalParameter, Parameter
from service.study.samplers import FEWEST_EARLIER
from service.study.search_space import SearchSpace, Values, leaves


def earlier_studies(
    opened: OpenedStudy, names: tuple[str, ...], *, log: structlog.stdlib.BoundLogger
) -> tuple[Earlier, ...]:
    """The studies of these names in the space of the opened one; one that is gone, or says too little, is left out."""
    space = opened.definition.space
    found = []
    for name in names:
        try:
            # by itself: the storage of the opened one shows its worker no trial of another space
            with contextlib.closing(open_study(opened.settings, name)) as other:
                seen = whole_trials(other.study, other.definition, space)
        except UserError as error:
            log.warning(
                "an earlier study cannot be read, its trials are left out", study=name, reason=str(error)
            )
            continue
        if len(seen) < FEWEST_EARLIER:
            log.warning(
                "an earlier study says too little", study=name, trials=len(seen), fewest=FEWEST_EARLIER
            )
            continue
        found.append(Earlier.of(space, seen))
        log.info("an earlier study is learned from", study=name, trials=len(seen))
    return tuple(found)


def when_to_stop(opened: OpenedStudy, *, log: structlog.stdlib.BoundLogger) -> dict[str, Any]:
    """When the search stops by itself, as `Thaw` takes it; never where the study that would say so is gone."""
    stop = opened.definition.stop
    if stop is None or stop.noise is None:
        return {} if stop is None else {"stop_gain": stop.gain}
    try:
        with contextlib.closing(open_study(opened.settings, stop.noise)) as other:
            sd, _ = noise_between_seeds(other.storage, stop.noise, opened.settings)
    except UserError as error:
        log.warning("the search will not stop by itself: nobody says what seeds differ by", reason=str(error))
        return {}
    return {"stop_gain": sd, "stop_by": f"the noise between seeds, measured by {stop.noise},"}


def whole_trials(
    study: optuna.Study, definition: StudyDefinition, space: SearchSpace
) -> list[tuple[Values, float]]:
    """The complete trials of a study: what each had for the parameters of another study's space, and its loss."""
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if trial.value is None or not math.isfinite(trial.value):
            continue
        try:
            config = configuration_of(study, definition, trial)
        except ConfigError:  # of another version, or added and outside its space
            continue
        found.append((_values(space, dict(leaves(config.model_dump(mode="json")))), trial.value))
    return found


def _values(space: SearchSpace, configuration: dict[str, Any]) -> Values:
    """Of the parameters that exist there, also outside their ranges; a choice that is none of them is left out."""
    values: Values = {}
    for key, parameter in space.parameters.items():
        if space.is_active(key, values) and _is_known(parameter, configuration.get(key)):
            values[key] = configuration[key]
    return values


def _is_known(parameter: Parameter, value: Any) -> bool:
    if isinstance(parameter, CategoricalParameter):
        return parameter.contains(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (value > 0 or not parameter.log)
