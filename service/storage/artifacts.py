"""What trials leave in the artifact store: curve, configuration, checkpoint.

Small files stay with every trial, so that the dashboard shows them. Weights are large: only the best trials of a study
keep theirs.
"""

import contextlib
import io
import json
import mimetypes
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import optuna
from optuna.artifacts import ArtifactMeta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import TrialState

from model.checkpoint import RECORD, TOKENIZER, WEIGHTS, Checkpoint
from model.data.files import scratch
from model.errors import CheckpointError, UserError
from service.storage.artifact_stores import Store, fetch
from service.storage.dashboard_private import artifact_prefix
from service.storage.optuna_private import artifact_key, trial_id_of
from service.storage.ranking import ranked_trials
from service.storage.study_storage import find_study_attributes, set_study_attributes

CHECKPOINT = "checkpoint"
"""Trial attribute: artifact ids of the files of its checkpoint."""
STATE = "state.zip"
"""What stands for weights of a run of the user's: its last state."""

PAUSES = "pauses"
"""Trial attribute: how often it has been set aside at a rung; absent where it never was."""


def attach_text(store: Store, trial: optuna.Trial, name: str, text: str) -> str:
    """Attach a text to a running trial as a file; the id of the artifact. Raises OSError: it is not attached then.

    A trial that has paused has one of the name already, which it replaces.
    """
    artifact_id = _listed(trial, name) if PAUSES in trial.user_attrs else None
    content = io.BytesIO(text.encode())
    if artifact_id is not None:
        store.write(artifact_id, content)
        return artifact_id
    artifact_id = _stored(store, content)
    _list(trial, artifact_id, name)
    return artifact_id


def attach_checkpoint(store: Store, trial: optuna.Trial, write: Callable[[Path], None]) -> None:
    """Attach a checkpoint to a running trial.

    Args:
        store: for its files.
        trial: whose it is.
        write: writes them into the folder that it is given, of a run of the user's the one file `STATE`.

    Raises:
        OSError: no part of it is attached then.
    """
    ids: dict[str, str] = {}
    with scratch() as folder:
        write(folder)
        small = [file for file in (RECORD, TOKENIZER) if (folder / file).exists()]
        large = WEIGHTS if (folder / WEIGHTS).exists() else STATE
        try:
            for file in (*small, large):
                with (folder / file).open("rb") as content:
                    ids[WEIGHTS if file == large else file] = _stored(store, content)
        except OSError:
            with contextlib.suppress(OSError):
                for artifact_id in ids.values():
                    store.remove(artifact_id)
            raise
    trial.set_user_attr(CHECKPOINT, ids)
    set_study_attributes(trial.study, {weights_key(trial): _entry(ids[WEIGHTS], large)})
    for file in small:
        _list(trial, ids[file], file)


def fetch_weights(store: Store, trial: optuna.trial.FrozenTrial, path: Path) -> None:
    """Write the weights, or the state, that were kept of a trial to a file. Raises CheckpointError: they were not."""
    try:
        fetch(store, _checkpoint(trial)[WEIGHTS], path)
    except (ArtifactNotFound, KeyError, OSError) as error:
        raise CheckpointError(f"trial {trial.number}: its state cannot be read: {error}") from None


def read_checkpoint(store: Store, trial: optuna.trial.FrozenTrial) -> Checkpoint:
    """The checkpoint of a trial. Raises CheckpointError when it is not there, truncated or foreign."""
    ids = _checkpoint(trial)
    if not ids:
        raise CheckpointError(f"trial {trial.number} has no checkpoint")
    with scratch() as folder:
        try:
            for file in (WEIGHTS, RECORD, TOKENIZER):
                fetch(store, ids[file], folder / file)
        except (ArtifactNotFound, KeyError, OSError) as error:
            raise CheckpointError(f"trial {trial.number}: the checkpoint cannot be read: {error}") from None
        try:
            return Checkpoint.read(folder)
        except UserError as error:
            shown = str(error).replace(f"{folder}/", "").replace(str(folder), "checkpoint")
            raise CheckpointError(f"trial {trial.number}: {shown}") from None


def has_weights(store: Store, trial: optuna.trial.FrozenTrial) -> bool:
    """The trial's weights are still in the store. Raises OSError."""
    ids = _checkpoint(trial)
    return WEIGHTS in ids and store.has(ids[WEIGHTS])


def keep_best(store: Store, study: optuna.Study, keep: int) -> None:
    """Remove the weights of all finished trials but the `keep` best.

    What cannot be removed, because the store is away, stays listed and is left to the next call.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    # ranked after that: a trial that ends in between is then in the ranking alone, and loses nothing by it
    ranked = ranked_trials(study)
    listed = find_study_attributes(study, artifact_prefix())
    # a trial that was added has none here, and takes the place of none that has
    best = {trial.number for trial in [t for t in ranked if weights_key(t) in listed][:keep]}
    gone: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for trial in finished:
            key = weights_key(trial)
            if trial.number not in best and listed.get(key, _NO_ENTRY) != _NO_ENTRY:
                store.remove(trial.user_attrs[CHECKPOINT][WEIGHTS])
                gone[key] = _NO_ENTRY
    if gone:
        set_study_attributes(study, gone)


def _stored(store: Store, content: BinaryIO) -> str:
    artifact_id = str(uuid.uuid4())
    store.write(artifact_id, content)
    return artifact_id


def _list(trial: optuna.Trial, artifact_id: str, name: str) -> None:
    """Enter a stored file where Optuna's `upload_artifact` would; that does so before it stores the file."""
    trial.storage.set_trial_system_attr(
        trial_id_of(trial), artifact_key(artifact_id), _entry(artifact_id, name)
    )


def _listed(trial: optuna.Trial, name: str) -> str | None:
    """The id of the trial's file of this name."""
    listed = trial.storage.get_trial(trial_id_of(trial)).system_attrs
    entries = (json.loads(entry) for key, entry in listed.items() if key.startswith(artifact_key("")))
    return next((entry["artifact_id"] for entry in entries if entry["filename"] == name), None)


def _entry(artifact_id: str, name: str) -> str:
    kind, encoding = mimetypes.guess_type(name)
    return json.dumps(asdict(ArtifactMeta(artifact_id, name, kind or "application/octet-stream", encoding)))


_NO_ENTRY = "null"


def weights_key(trial: optuna.Trial | optuna.trial.FrozenTrial) -> str:
    """The study's system attribute under which the trial's weights are listed for optuna-dashboard.

    Unlike the trial's own attributes it can be changed after the trial's end, when the weights go: no dead link.
    """
    return f"{artifact_prefix(trial_id_of(trial))}{_checkpoint(trial).get(WEIGHTS)}"


def _checkpoint(trial: optuna.Trial | optuna.trial.FrozenTrial) -> Mapping[str, str]:
    """Artifact ids of the trial's checkpoint by file; empty where it has none."""
    ids = trial.user_attrs.get(CHECKPOINT)
    return ids if isinstance(ids, Mapping) else {}
