"""A study made anew in a changed space, with those trials of the old one that it would have trained alike."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from model.config.train_config import DiagnosticsConfig, TrainConfig
from model.errors import ConfigError
from service.catalogue.intake import IMPORTED
from service.machine.create import command, make_study
from service.settings import Settings
from service.storage.artifact_stores import open_store
from service.storage.configurations import configuration_of
from service.storage.database import creation_lock
from service.storage.earlier_trials import refuse_prior, with_recorded
from service.storage.opened_study import OpenedStudy, open_study
from service.storage.optuna_private import id_of
from service.storage.optuna_trials import insert_trials
from service.storage.ownership import SLOT
from service.storage.studies import StudyError, find_study
from service.study import definition as study_config
from service.study.definition import StudyDefinition
from service.study.file import checked_name
from service.study.run_config import RunConfig
from service.study.spend import refuse_number

_STAYS = frozenset({SLOT, "states", "checkpoint", "artifacts", "goes_on_with"})
"""Attributes that belong to the trial where it was trained: its files are that study's."""


@dataclasses.dataclass(frozen=True)
class Forked:
    """What came of a fork."""

    name: str
    definition: StudyDefinition
    taken: int
    left: Mapping[str, int]
    """How many trials stay behind, by the reason."""


def fork(
    settings: Settings,
    study: str,
    file: str | Path,
    *,
    name: str,
    overrides: Mapping[str, Any],
    scale: str | None = None,
    trials: int | None = None,
    say: Callable[[str], None],
) -> Forked:
    """Make a study from a file as it is now, over the corpus of another one, and take along the trials that fit.

    A trial fits if the new study would have trained the same configuration to the last key.

    Args:
        settings: where both are.
        study: the one that is there.
        file: of the new one, as `create` takes it.
        name: of the new one.
        overrides: of its base file.
        scale: of its file.
        trials: to finish in all, beside those taken along; its file's number unless given.
        say: takes a line for the user.

    Raises:
        StudyError: there is no such study, the new one's name is taken, or its losses could not be compared.
        UserError: the file has to be corrected.
    """
    given = study_config.load(file, overrides=overrides, scale=scale)
    given = dataclasses.replace(given, name=checked_name(name))
    refuse_number(given.spend, trials)
    if given.cells:
        raise StudyError(f"study {name!r} runs every configuration of its design; a fork is of a search")
    with creation_lock(settings), contextlib.closing(open_study(settings, study)) as old:
        if find_study(old.storage, name) is not None:
            raise StudyError(f"study {name!r} is there already; --name gives the fork another name")
        _refuse_other_measure(old.definition, given)
        store = open_store(settings.artifacts, writable=True)
        given = with_recorded(given)
        refuse_prior(old.storage, given, settings)
        made_by = command(str(file), name, trials, overrides, scale)
        made = make_study(
            settings,
            old.storage,
            store,
            given,
            None if given.own_run else old.corpus,
            command=made_by,
            say=say,
        )
        new = OpenedStudy(settings, old.storage, made, given)
        fitting, left = _fitting(old.study, old.definition, given, new.facts["budget_tokens"])
        insert_trials(old.storage.engine, id_of(made), fitting)
        new.total(trials)
    return Forked(name, given, len(fitting), left)


def _refuse_other_measure(before: StudyDefinition, given: StudyDefinition) -> None:
    """Losses on another corpus, or evaluated otherwise, say nothing here."""
    runs = [(each.own_run.run, each.own_run.metric) if each.own_run else None for each in (before, given)]
    if runs[0] != runs[1]:
        raise StudyError(
            f"study {given.name!r}: trains another code or minimises another metric than {before.name!r}, so that "
            "their values cannot be compared; `create` makes it without its trials"
        )
    if given.own_run is not None:
        return
    old, new = before.gpt_config("data"), given.gpt_config("data")
    for what, one, other in (
        ("data", old.data, new.data),
        ("evaluation", old.evaluation, new.evaluation),
        ("tokenizer.pretrained", old.tokenizer.pretrained, new.tokenizer.pretrained),
    ):
        if one != other:
            raise StudyError(
                f"study {given.name!r}: {what} is another than in {before.name!r}, so that their losses cannot be "
                "compared; `create` makes it without its trials"
            )


def _fitting(
    old: optuna.Study, before: StudyDefinition, given: StudyDefinition, budget_tokens: int
) -> tuple[list[FrozenTrial], dict[str, int]]:
    fitting: list[FrozenTrial] = []
    left: dict[str, int] = {}
    for trial in old.get_trials(deepcopy=False):
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            reason = "which did not finish"
        else:
            try:
                config = configuration_of(old, before, trial)
                fitting.append(_taken(old, trial, _params(config, given, budget_tokens), given))
                continue
            except ConfigError as error:
                reason = str(error)
        left[reason] = left.get(reason, 0) + 1
    return fitting, left


def _params(config: RunConfig, given: StudyDefinition, budget_tokens: int) -> dict[str, Any]:
    """The point of the new space that is this configuration. Raises ConfigError: there is none."""
    space = given.space
    values = space.within(config.model_dump(mode="json"))
    if not space.is_complete(values):
        key = next(key for key in space.parameters if space.is_active(key, values) and key not in values)
        raise ConfigError(f"{key} outside the new range")
    would = given.config_for(values).with_tokens(budget_tokens)
    if _trains(would) != _trains(config):
        flat = would.model_dump(mode="json"), config.model_dump(mode="json")
        section = next(
            (key for key in flat[0] if key != "diagnostics" and flat[0][key] != flat[1][key]), "config"
        )
        raise ConfigError(f"another value in {section}")
    return space.encode(values)


def _trains(config: RunConfig) -> RunConfig:
    if not isinstance(config, TrainConfig):
        return config
    return config.model_copy(update={"diagnostics": DiagnosticsConfig()})


def _taken(
    old: optuna.Study, trial: FrozenTrial, params: Mapping[str, Any], given: StudyDefinition
) -> FrozenTrial:
    distributions = given.space.distributions
    made = create_trial(
        state=trial.state,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        params=dict(params),
        distributions={key: distributions[key] for key in params},
        intermediate_values=trial.intermediate_values,
        user_attrs={
            **{key: value for key, value in trial.user_attrs.items() if key not in _STAYS},
            IMPORTED: {"from": f"study {old.study_name}", "number": trial.number},
        },
    )
    made.datetime_start, made.datetime_complete = trial.datetime_start, trial.datetime_complete
    return made
