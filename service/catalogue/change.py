"""A study under another name, and a study gone with all that it has left."""

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna_dashboard import get_note, save_note

from service.confirmation.confirm import CONFIRMED
from service.dashboard.notes import study_note
from service.dashboard.state import with_state
from service.settings import Settings
from service.storage.artifacts import CHECKPOINT
from service.storage.database import creation_lock
from service.storage.opened_study import OpenedStudy, open_study
from service.storage.optuna_private import id_of
from service.storage.optuna_tables import delete_study, rename_study
from service.storage.ownership import generation_of
from service.storage.studies import COMMAND, CONFIRMS, CORPUS, StudyError
from service.study.file import checked_name
from service.trials.saved_states import STATES


@dataclass(frozen=True)
class Remains:
    """What goes with a study."""

    trials: int
    artifacts: frozenset[str]
    """Ids of files in the store; its corpus where no other study of the storage has it."""
    confirmations: tuple[str, ...]
    """Studies that confirm it, which stay."""


def rename(settings: Settings, old: str, new: str) -> None:
    """Call a study otherwise; what other studies and its note say of it changes along.

    Raises:
        StudyError: there is no such study, it is not ours, workers are at work on it, or the new name is taken.
        UserError: the new name is none.
    """
    checked_name(new)
    with _at_rest(settings, old) as opened:
        made_by = str(opened.study.user_attrs.get(COMMAND, ""))
        command = _renamed(made_by, new)
        note, before = get_note(opened.study), study_note(opened.definition, opened.facts, command=made_by)
        related = _related(opened)
        try:
            rename_study(opened.storage.engine, opened.key, new, {COMMAND: command})
        except optuna.exceptions.DuplicatedStudyError:
            raise StudyError(f"study {new!r} is there already; its trials are untouched") from None
        for other, attribute in related:
            other.set_user_attr(attribute, {**other.user_attrs[attribute], "study": new})
        if with_state(note, "") == with_state(before, ""):  # and not what a person has written
            now = opened.other(new)
            save_note(now.study, study_note(now.definition, now.facts, command=command))


def remains(settings: Settings, name: str) -> Remains:
    """What `delete` would remove. Raises StudyError as it does."""
    with _at_rest(settings, name) as opened:
        return _remains(opened)


def delete(settings: Settings, name: str, *, say: Callable[[str], None]) -> None:
    """Remove a study with trials, slots, notes and artifacts. Broken off, the same call goes on.

    Raises:
        StudyError: there is no such study, it is not ours, workers are at work on it, or the store cannot be written.
    """
    with _at_rest(settings, name) as opened:
        found, store = _remains(opened), opened.store
        try:  # before the rows that know of them
            for artifact in found.artifacts:
                store.remove(artifact)
        except OSError as error:
            raise StudyError(
                f"study {name!r}: its files in {store} cannot be removed: {error.strerror or error}; the study stays"
            ) from None
        delete_study(opened.storage.engine, opened.key)
        say(f"deleted: study {name}, {found.trials} trials, {len(found.artifacts)} files")


@contextlib.contextmanager
def _at_rest(settings: Settings, name: str) -> Iterator[OpenedStudy]:
    """A study that nobody works on, while no other process makes or changes one."""
    with creation_lock(settings), contextlib.closing(open_study(settings, name)) as opened:
        if alive := opened.roster.alive():
            raise StudyError(
                f"study {name!r}: {len(alive)} worker{'s are' if len(alive) > 1 else ' is'} at work on it; stop "
                f"them, or wait {settings.lease_seconds:.0f} s for those that have died"
            )
        yield opened


def _related(opened: OpenedStudy) -> list[tuple[optuna.Study, str]]:
    """Studies with an attribute that names this one: its confirmations, and the search that it confirms."""
    found, storage, generation = [], opened.storage, generation_of(opened.study)
    for other in storage.get_all_studies():
        for attribute in (CONFIRMS, CONFIRMED):
            named = other.user_attrs.get(attribute)
            if not isinstance(named, Mapping) or named.get("study") != opened.name:
                continue
            if named.get("generation", generation) == generation:
                found.append((optuna.load_study(study_name=other.study_name, storage=storage), attribute))
    return found


def _renamed(command: str, name: str) -> str:
    """The command that made a study, as it goes on with it under its new name."""
    words = shlex.split(command)
    if "--name" in words[:-1]:
        words[words.index("--name") + 1] = name
    elif words:
        words += ["--name", name]
    return shlex.join(words)


def _remains(opened: OpenedStudy) -> Remains:
    storage, study = opened.storage, opened.study
    trials = study.get_trials(deepcopy=False)
    ids = {found for trial in trials for found in _artifacts(trial)}
    of_study = storage.get_study_system_attrs(id_of(study))
    ids |= {_artifact_id(value) for key, value in of_study.items() if "artifacts:" in key}
    others = [other for other in storage.get_all_studies() if id_of(other) != id_of(study)]
    corpora = {_corpus(other.user_attrs) for other in others}
    if opened.facts.get("artifact") not in corpora:
        ids.add(opened.facts.get("artifact"))
    confirmations = [other.study_name for other, attribute in _related(opened) if attribute == CONFIRMS]
    return Remains(len(trials), frozenset(filter(None, ids)), tuple(confirmations))


def _artifacts(trial: FrozenTrial) -> Iterator[str | None]:
    for key, value in trial.system_attrs.items():
        if key.startswith("artifacts:"):
            yield _artifact_id(value)
    if isinstance(trial.user_attrs.get(CHECKPOINT), Mapping):
        yield from trial.user_attrs[CHECKPOINT].values()
    yield from trial.user_attrs.get(STATES, ())


def _artifact_id(entry: Any) -> str | None:
    """Of an entry as Optuna's `upload_artifact` makes it; None of one whose file has gone."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        found = json.loads(entry)["artifact_id"]
        return found if isinstance(found, str) else None
    return None


def _corpus(attributes: Mapping[str, Any]) -> str | None:
    facts = attributes.get(CORPUS)
    return facts.get("artifact") if isinstance(facts, Mapping) else None
