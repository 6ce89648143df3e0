"""Which configuration a study recommends: the confirmed winner where there is one, else the best that has finished."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from model.checkpoint import Checkpoint
from model.data.files import scratch
from model.errors import ConfigError
from service.confirmation.confirm import CONFIRMED
from service.settings import Settings
from service.storage.artifact_stores import Store, open_store
from service.storage.artifacts import STATE, fetch_weights, has_weights, read_checkpoint
from service.storage.configurations import configuration_of
from service.storage.opened_study import OpenedStudy, open_study
from service.storage.ownership import generation_of
from service.storage.ranking import count_states, ranked_trials
from service.storage.studies import StudyError, find_study
from service.study.definition import StudyDefinition
from service.study.run_config import RunConfig
from service.text.commands import verb
from service.trials.own_run import unpack


@dataclass(frozen=True)
class Winner:
    """A configuration of a study, with the run that stands for it."""

    study: optuna.Study
    definition: StudyDefinition
    trial: FrozenTrial
    """In `trained_in`."""
    trained_in: optuna.Study
    """The study itself, or its confirmation."""
    config: RunConfig
    """What the trial trained, its budget in tokens."""
    why: str
    """For people: why it is this one, and how far it can be trusted."""
    losses: Mapping[int, float]
    """`val_loss` of its complete runs by seed, this one's among them."""

    @property
    def name(self) -> str:
        """Of its folders: `hn-trial-12`."""
        return f"{self.trained_in.study_name}-trial-{self.trial.number}"

    def checkpoint(self, settings: Settings) -> Checkpoint:
        """Its weights and tokenizer.

        Raises:
            StudyError: they were not kept, or the store cannot be read.
            CheckpointError: they are damaged.
            ConfigError: it is no GPT.
        """
        self.definition.gpt_config("a checkpoint with a tokenizer")
        return read_checkpoint(self._store_with_weights(settings), self.trial)

    def write_state(self, settings: Settings, folder: Path) -> None:
        """Write what its class, one of the user's, has saved at the end. Raises UserError, OSError."""
        store = self._store_with_weights(settings)
        with scratch() as aside:
            fetch_weights(store, self.trial, aside / STATE)
            unpack(aside / STATE, folder)

    def _store_with_weights(self, settings: Settings) -> Store:
        store = open_store(settings.artifacts)
        try:
            kept = has_weights(store, self.trial)
        except OSError as error:
            raise StudyError(f"{store}: checkpoints cannot be read: {error.strerror or error}") from None
        if not kept:
            raise StudyError(
                f"study {self.trained_in.study_name!r}: trial {self.trial.number} has no weights in {store}: of a "
                f"study's trials the best {self.definition.keep_checkpoints} keep theirs; "
                f"to make them again: {verb('train', self.study.study_name, '--trial', str(self.trial.number))}"
            )
        return store


def choose(settings: Settings, name: str, *, trial: int | None = None) -> Winner:
    """The winner of a study, or the trial that is asked for.

    A design with seeds recommends the arm with the lowest mean over its seeds, among the arms with the most seeds, and
    not the single luckiest run.

    Raises:
        StudyError: there is no such study or trial, or none has finished.
        ConfigError: the trial was added with a point outside of the space.
    """
    opened = open_study(settings, name)
    study, definition = opened.study, opened.definition
    if trial is not None:
        found = next((t for t in study.get_trials(deepcopy=False) if t.number == trial), None)
        if found is None or found.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            is_what = "not there" if found is None else found.state.name.lower()
            raise StudyError(f"study {name!r}: trial {trial} is {is_what}, allowed: one that has finished")
        losses = {} if found.value is None else {_seed(found): found.value}
        return _winner(study, definition, found, study, definition, f"trial {trial}, asked for", losses)
    return _confirmed(opened) or _best(study, definition)


def _confirmed(opened: OpenedStudy) -> Winner | None:
    """The winner that a confirmation has found, as long as that is still there."""
    study, definition = opened.study, opened.definition
    confirmed = study.user_attrs.get(CONFIRMED)
    if confirmed is None or (found := find_study(opened.storage, confirmed["study"])) is None:
        return None
    confirmation, made = found
    if confirmed.get("generation", generation_of(confirmation)) != generation_of(confirmation):
        return None  # another study of that name
    runs = [t for t in _complete(confirmation) if t.user_attrs.get("arm") == confirmed["arm"]]
    if not runs:
        return None
    tied = f"; ties with {', '.join(confirmed['ties'])}" if confirmed["ties"] else ""
    why = f"{confirmed['arm']}, confirmed by {confirmation.study_name} on {len(runs)} fresh seeds{tied}"
    losses = {_seed(run): _loss(run) for run in runs}
    first = min(runs, key=_seed)  # not the best of them, which would be the luckiest
    return _winner(study, definition, first, confirmation, made, why, losses)


def _best(study: optuna.Study, definition: StudyDefinition) -> Winner:
    ranked = ranked_trials(study)
    if not ranked:
        raise StudyError(f"study {study.study_name!r} has no complete trial ({count_states(study)})")
    by_arm: dict[str, list[FrozenTrial]] = {}
    for trial in ranked:
        by_arm.setdefault(trial.user_attrs.get("arm") or f"trial {trial.number}", []).append(trial)
    seeds = max(map(len, by_arm.values()))
    if seeds > 1:
        means = {
            arm: statistics.fmean(map(_loss, runs)) for arm, runs in by_arm.items() if len(runs) == seeds
        }
        arm = min(means, key=means.__getitem__)
        why = f"{arm}, the lowest mean over {seeds} seeds of {len(means)} arms"
        losses = {_seed(run): _loss(run) for run in by_arm[arm]}
        return _winner(study, definition, min(by_arm[arm], key=_seed), study, definition, why, losses)
    first = ranked[0]
    why = f"the best of {len(ranked)} complete trials on one seed, not confirmed: it may be a lucky one"
    return _winner(study, definition, first, study, definition, why, {_seed(first): _loss(first)})


def _winner(
    study: optuna.Study,
    definition: StudyDefinition,
    trial: FrozenTrial,
    trained_in: optuna.Study,
    trained_as: StudyDefinition,
    why: str,
    losses: Mapping[int, float],
) -> Winner:
    try:
        config = configuration_of(trained_in, trained_as, trial)
    except ConfigError as error:
        raise ConfigError(
            f"study {trained_in.study_name!r}: trial {trial.number} was added from elsewhere and cannot be run here: "
            f"{error}; --trial N takes another one"
        ) from None
    return Winner(study, definition, trial, trained_in, config, why, losses)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _seed(trial: FrozenTrial) -> int:
    config = trial.user_attrs.get("config")
    return int(config["seed"]) if config else int(trial.params.get("seed", 0))


def _loss(trial: FrozenTrial) -> float:
    assert trial.value is not None, "it is complete"
    return trial.value
