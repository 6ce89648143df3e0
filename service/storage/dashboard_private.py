"""What of optuna-dashboard is used here and it does not promise: how it stores notes and lists artifacts.

No other module uses such a name (`tests/test_private_names.py`). Its own test holds each against the version that is
installed. The dashboard is imported where it is asked for: it brings scikit-learn along, most of a second that no other
use of a storage has to wait for.
"""

import functools
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from service.storage.optuna_private import trial_id_of


def note_attributes(note: str, trial_id: int | None) -> dict[str, Any]:
    """System attributes of a study that are the first note of one of its trials, or of itself where None is given."""
    from optuna_dashboard._note import note_ver_key, split_body

    return {note_ver_key(trial_id): 1, **split_body(note, trial_id)}


def artifact_prefix(trial_id: int | None = None) -> str:
    """What system attributes of a study begin with that list artifacts of one of its trials; the artifact's id follows.

    Unlike the trial's own attributes they can be changed after the trial's end. Without an id: of all trials.
    """
    return "dashboard:artifacts:" if trial_id is None else f"dashboard:artifacts:{trial_id}:"


def amend_studies(amend: Callable[[int, str], tuple[str, Collection[int]]]) -> None:
    """Make optuna-dashboard show a study otherwise than it is stored; a second call takes the place of the first.

    Args:
        amend: gives, of the study's id and the note that is stored, the note and the numbers of the trials that are
            shown as waiting: running ones that nobody works on. The dashboard takes a waiting one's values from those
            that it was enqueued with.
    """
    from optuna_dashboard import _app

    serialize = getattr(_app.serialize_study_detail, "__wrapped__", _app.serialize_study_detail)

    @functools.wraps(serialize)
    def amended(study: Any, *arguments: Any, **named: Any) -> Any:
        found = serialize(study, *arguments, **named)
        found["note"]["body"], waiting = amend(study._study_id, found["note"]["body"])
        for trial in found["trials"]:
            if trial["state"] == "Running" and trial["number"] in waiting:
                values = [
                    {key: each[key] for key in ("name", "param_external_value")} for each in trial["params"]
                ]
                trial.update(state="Waiting", fixed_params=values)
        return found

    _app.serialize_study_detail = amended


LONGEST_ATTRIBUTE = 64
"""Characters; the dashboard breaks no line, and a configuration made a trial's page 8,000 pixels wide."""


def shorten_attributes() -> None:
    """Make optuna-dashboard show the beginning of a long attribute; notes, files and `export` have all of it.

    A second call takes the place of the first.
    """
    from optuna_dashboard import _serializer

    serialize = getattr(_serializer.serialize_attrs, "__wrapped__", _serializer.serialize_attrs)

    @functools.wraps(serialize)
    def shortened(attributes: Any) -> Any:
        return [{**each, "value": _shortened(each["value"])} for each in serialize(attributes)]

    _serializer.serialize_attrs = shortened


def _shortened(value: str) -> str:
    return value if len(value) <= LONGEST_ATTRIBUTE else value[: LONGEST_ATTRIBUTE - 1] + "…"


def look_up_notes() -> None:
    """Make optuna-dashboard look a trial's note up, instead of going through all attributes of the study for it.

    Twice for each trial (its note, and the artifacts listed there, of which ours are those of its checkpoint), which
    made a study of 3,000 trials with notes take 17 s to open.
    """
    from optuna_dashboard import _note, _serializer

    find_note, list_artifacts = _note.get_note_from_system_attrs, _serializer.list_trial_artifacts

    def note_of(attributes: Mapping[str, Any], trial_id: int | None) -> Any:
        parts = (f"{_note.note_str_key_prefix(trial_id)}{i}" for i in itertools.count())
        # text only: another value, which an earlier version let through, would make the study's page fail
        texts = itertools.takewhile(lambda key: isinstance(attributes.get(key), str), parts)
        keys = [_note.note_ver_key(trial_id), *texts]
        return find_note({key: attributes[key] for key in keys if key in attributes}, trial_id)

    def artifacts_of(attributes: Mapping[str, Any], own: Mapping[str, Any], trial: FrozenTrial) -> Any:
        # as service.storage.artifacts lists them; it cannot be asked here, where there is no torch
        prefix = artifact_prefix(trial_id_of(trial))
        checkpoint = trial.user_attrs.get("checkpoint")
        ids = checkpoint.values() if isinstance(checkpoint, Mapping) else ()
        keys = [f"{prefix}{artifact_id}" for artifact_id in ids]
        return list_artifacts({key: attributes[key] for key in keys if key in attributes}, own, trial)

    _note.get_note_from_system_attrs = note_of
    _serializer.list_trial_artifacts = artifacts_of
