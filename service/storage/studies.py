"""Studies in the storage: made once, opened by workers, refused when it is another one."""

import dataclasses
import json
import uuid
from collections.abc import Mapping
from typing import Any

import optuna

from model.errors import ConfigError, UserError
from service.settings import Settings
from service.storage.dashboard_private import note_attributes
from service.storage.optuna_private import METRIC_NAMES
from service.storage.optuna_tables import insert_study
from service.storage.schema import GENERATION
from service.storage.study_storage import StudyCache, StudyStorage
from service.study.definition import StudyDefinition
from service.text.commands import verb

DEFINITION, CORPUS, COMMAND = "definition", "corpus", "command"
"""Study attributes: the snapshot of its definition; corpus fingerprint, source, artifact and budget; what made it."""
CONFIRMS = "confirms"
"""Attribute of a confirmation: the study that it confirms, and its finalists. Its workers drop losers."""
FALLBACK = "-docstrings"
"""Ends the name of a study of `data.source: auto` that was made without a connection to the hub."""


class StudyError(UserError):
    """The study does not exist, or is not the one that was asked for."""


def create_study(
    storage: StudyStorage,
    definition: StudyDefinition,
    corpus_facts: dict[str, Any],
    *,
    command: str,
    note: str,
    attributes: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """The study made from `definition`, with what it needs to be run from the database alone; whole or not at all.

    It was made by `command`; the dashboard shows the `note`. `attributes` are further ones of the study.

    Raises:
        StudyError: another process has made one of this name in the meantime.
    """
    scale = {} if definition.scale is None else {"scale": definition.scale}
    try:
        insert_study(
            storage.engine,
            definition.name,
            user_attributes={
                GENERATION: uuid.uuid4().hex,
                **(attributes or {}),
                "question": definition.question,
                CORPUS: corpus_facts,
                COMMAND: command,
                **scale,
                DEFINITION: definition.snapshot(),
            },
            system_attributes={
                METRIC_NAMES: [
                    "val_loss [nats/char]" if definition.own_run is None else definition.words.metric
                ],
                **note_attributes(note, None),
            },
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise StudyError(
            f"study {definition.name!r} has just been made by another process; the same command resumes it"
        ) from None
    return optuna.load_study(study_name=definition.name, storage=StudyCache(storage))


def find_study(storage: StudyStorage, name: str) -> tuple[optuna.Study, StudyDefinition] | None:
    """The study called `name` and its definition as stored, or None where there is no study of this name.

    Raises:
        StudyError: there is one, and it is not this project's, or what it was made from cannot be read.
    """
    try:
        study = optuna.load_study(study_name=name, storage=StudyCache(storage))
    except KeyError:
        return None
    attributes = study.user_attrs
    if refused := refusal(name, attributes):
        raise StudyError(refused)
    way_out = _way_out(name)
    try:
        definition = StudyDefinition.from_snapshot(attributes[DEFINITION])
        _check_facts(attributes[CORPUS], of_corpus=definition.own_run is None)
    except ConfigError as error:
        raise StudyError(f"study {name!r} cannot be worked on: {error}; {way_out}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise StudyError(
            f"study {name!r}: what it was made from cannot be read ({what}), as another version or a change by hand "
            f"leaves it; {way_out}"
        ) from None
    return study, dataclasses.replace(definition, name=name)


def load_study(storage: StudyStorage, name: str, settings: Settings) -> tuple[optuna.Study, StudyDefinition]:
    """A study that has been made, and its definition as stored.

    Raises:
        StudyError: there is none, or as `find_study` raises it.
    """
    found = find_study(storage, name)
    if found is None:
        ours: list[str] = []
        others: list[str] = []
        for study in storage.get_all_studies():
            (ours if _is_ours(study.user_attrs) else others).append(study.study_name)
        there = f"there are: {', '.join(sorted(ours))}" if ours else "there is none yet"
        there += f"; made by Optuna itself: {', '.join(sorted(others))}" if others else ""
        if f"{name}{FALLBACK}" in ours:
            there = f"without a connection to the hub {name}{FALLBACK} was made in its place: give that name"
        raise StudyError(f"study {name!r} is not in {settings.storage_shown}; {there}")
    return found


def refusal(name: str, attributes: Mapping[str, Any]) -> str | None:
    """Why a study with these attributes is none to work on or to change; None of one that this project has made."""
    if _is_ours(attributes):
        return None
    what = "was made by Optuna itself, not by hptune, and has no definition to work by"
    return f"study {name!r} {what}; {_way_out(name)}"


def _way_out(name: str) -> str:
    return f"its trials are untouched; give yours another name: --name {name}-2"


def _is_ours(attributes: Mapping[str, Any]) -> bool:
    """Made by this project, whether or not what it was made from can still be read.

    A study has its definition from its first moment. Studies made before they had a generation have no other sign;
    the definition alone could be anyone's attribute.
    """
    definition = attributes.get(DEFINITION)
    return isinstance(attributes.get(GENERATION), str) or (
        isinstance(definition, Mapping) and {"name", "study", "base"} <= set(definition)
    )


def _check_facts(facts: Any, *, of_corpus: bool) -> None:
    """Raise ValueError where corpus or training code of a study are not described as `service.machine.create` does."""
    kinds: dict[str, type] = {"fingerprint": str, "source": str, "budget_tokens": int}
    if of_corpus:
        kinds |= {"artifact": str, "train_tokens": int}
    wrong = [key for key, kind in kinds.items() if not isinstance(facts[key], kind)]
    if not (wrong or of_corpus):
        return
    if wrong or [type(count) for count in facts["documents"]] != [int, int, int]:
        raise ValueError(f"corpus: {', '.join(wrong) or 'documents'}")


def made_as(storage: StudyStorage, name: str) -> str:
    """The name of the study that a command made: `name`, or the one without a connection to the hub."""
    if find_study(storage, name) is None and find_study(storage, f"{name}{FALLBACK}") is not None:
        return f"{name}{FALLBACK}"
    return name


def refuse_changed(stored: StudyDefinition, given: StudyDefinition) -> None:
    """Raise StudyError, naming the parts, when `given` is not the definition the study was made with."""
    before, now = stored.identity(), given.identity()
    changed = [part for part in now if before.get(part) != now[part]]
    if changed:
        name = f"{given.name}-2"
        fork = (
            ""
            if given.cells
            else f"; {verb('fork', given.name, '--name', name)} takes along the trials that fit"
        )
        raise StudyError(
            f"study {given.name!r} was made with another {' and '.join(changed)}; its trials cannot be compared "
            f"with new ones. Undo the change, or give it a name of its own: --name {name}{fork}"
        )


def corpus_facts(study: optuna.Study) -> dict[str, Any]:
    """Fingerprint, source, artifact id and notes of the study's corpus, or fingerprint and name of its own training
    code; and its budget."""
    facts: dict[str, Any] = json.loads(json.dumps(study.user_attrs[CORPUS]))
    return facts
