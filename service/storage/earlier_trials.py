"""What the trials of one study can tell another: of one in the storage, or of runs that were recorded to a file."""

import dataclasses
import json
import math
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from model.errors import ConfigError, UserError
from service.settings import HOME, Settings
from service.storage.configurations import configuration_of
from service.storage.studies import StudyError, load_study
from service.storage.study_storage import StudyStorage
from service.study.definition import StudyDefinition
from service.study.file import found_in
from service.study.parameters import CategoricalParameter, Parameter, has_order, same
from service.study.samplers import FEWEST_EARLIER, ThawConfig, prior_of
from service.study.search_space import SearchSpace, Values, leaves

RECORDED = "studies/samplers-hard", "studies/samplers"
"""Recorded runs that a study begins with whose file leaves open how it is searched: 695 of three optimizers and two
schedules, over thirteen settings of the built-in GPT, and 288 of AdamW, three times as long, over five. A search of
models 200 times as large and more lost nothing by them, and searches of models like these gained
(`tests/benchmarks/results/search.md`)."""


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


def are_recorded(name: str) -> bool:
    """An earlier study of this name is a folder of recorded runs, and not one in the storage."""
    return "/" in name


def recorded_trials(folder: str, asking: StudyDefinition) -> list[tuple[Values, float]]:
    """The whole runs of a folder's `runs.json` that say something of a study, as `whole_trials`.

    Raises UserError: there are none that can be read.
    """
    one, runs = recorded_runs(folder)
    seen = (
        (seen_by(asking, one.space, {**one.base.values, **values}, values), loss) for values, loss in runs
    )
    return [(values, loss) for values, loss in seen if values]


def recorded_runs(folder: str) -> tuple[StudyDefinition, list[tuple[Values, float]]]:
    """The study that they are of, and what each whole run of it was given and ended with. Raises UserError."""
    return _read(found_in(HOME, f"{folder}/runs.json"))


@cache
def _read(path: Path) -> tuple[StudyDefinition, list[tuple[Values, float]]]:
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        one, rungs = StudyDefinition.from_snapshot(recorded["definition"]), len(recorded["rungs"])
        return one, [(values, losses[-1]) for values, losses in recorded["runs"] if len(losses) == rungs]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"recorded runs {path} cannot be read: {error}") from error


def with_recorded(asking: StudyDefinition) -> StudyDefinition:
    """A study that is about to be made: where its file leaves open how it is searched, with those of `RECORDED` as its
    earlier studies that say something of its settings."""
    # what code of one's own calls the same is another thing
    if not asking.strategy_open or asking.own_run is not None:
        return asking
    prior = tuple(folder for folder in RECORDED if _says_something(folder, asking))
    if not prior:
        return asking
    sampler = ThawConfig(name="thaw", prior=prior)
    tree = {**asking.tree, "sampler": sampler.model_dump(mode="json")}
    return dataclasses.replace(asking, sampler=sampler, tree=tree)


def _says_something(folder: str, asking: StudyDefinition) -> bool:
    """The study varies what these runs varied, and trains with an optimizer that they had."""
    try:
        one, _ = recorded_runs(folder)
    except UserError:  # an installation without them
        return False
    if not (asking.space.parameters.keys() & one.space.parameters.keys()):
        return False
    if not (_optimizers(asking) & _optimizers(one)):
        return False
    return len(recorded_trials(folder, asking)) >= FEWEST_EARLIER


def _optimizers(study: StudyDefinition) -> set[Any]:
    """What its trials may have."""
    searched = study.space.parameters.get("optimizer.name")
    if isinstance(searched, CategoricalParameter):
        return set(searched.choices)
    return {study.base.values["optimizer.name"]}


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
    names = prior_of(definition.sampler)
    for name in names:
        if names.count(name) > 1:
            raise StudyError(f"sampler.prior: study {name!r} is named twice, and would count twice")
        if are_recorded(name):
            earlier, _ = recorded_runs(name)
            whole = len(recorded_trials(name, definition))
        else:
            study, earlier = load_study(storage, name, settings)
            whole = len(whole_trials(study, earlier, definition))
        if not definition.space.parameters.keys() & earlier.space.parameters.keys():
            raise StudyError(f"sampler.prior: study {name!r} varies no parameter of this one; take it out")
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
