"""The artifact store: curve, configuration, checkpoint and saved state of trials; the corpus of a study.

Small files stay with every trial as Optuna artifacts, so that the dashboard shows them. Weights are large: only
the best trials of a study keep theirs.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.artifacts import upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound

from model.checkpoint import RECORD, TOKENIZER, WEIGHTS, Checkpoint
from model.errors import CheckpointError, UserError
from model.files import write_atomically

CHECKPOINT = "checkpoint"
"""Trial attribute: artifact ids of the files of its checkpoint."""


@dataclass(frozen=True)
class FolderStore:
    """Optuna's artifact store protocol over a folder, each file complete or absent."""

    folder: Path

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The artifact, open for reading. Raises ArtifactNotFound."""
        try:
            return self._path(artifact_id).open("rb")
        except FileNotFoundError:
            raise ArtifactNotFound(f"artifact {artifact_id} is not in {self.folder}") from None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store the content. Raises OSError when the disk is full; nothing is left behind then."""
        write_atomically(self._path(artifact_id), content_body.read())

    def remove(self, artifact_id: str) -> None:
        """Delete the artifact. Raises ArtifactNotFound."""
        try:
            self._path(artifact_id).unlink()
        except FileNotFoundError:
            raise ArtifactNotFound(f"artifact {artifact_id} is not in {self.folder}") from None

    def has(self, artifact_id: str) -> bool:
        """It is there."""
        return self._path(artifact_id).exists()

    def _path(self, artifact_id: str) -> Path:
        if (
            not artifact_id
            or not all(c.isalnum() or c in "-_." for c in artifact_id)
            or artifact_id[0] == "."
        ):
            raise ArtifactNotFound(f"{artifact_id!r} is not an artifact id")
        return self.folder / artifact_id


def fetch(store: FolderStore, artifact_id: str, path: Path) -> None:
    """Copy an artifact to the file `path`. Raises ArtifactNotFound, OSError."""
    with store.open_reader(artifact_id) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)


def attach_text(store: FolderStore, trial: optuna.Trial, name: str, text: str) -> None:
    """Attach a small text file to a running trial."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)


def attach_corpus(store: FolderStore, study: optuna.Study, path: Path) -> str:
    """Attach the corpus file to the study; the id of the artifact."""
    return upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=study)


def attach_checkpoint(store: FolderStore, trial: optuna.Trial, checkpoint: Checkpoint) -> None:
    """Attach a checkpoint to a running trial. Raises OSError when the disk is full."""
    ids: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint.write(folder)
        try:
            for file in (WEIGHTS, RECORD, TOKENIZER):
                ids[file] = upload_artifact(
                    artifact_store=store, file_path=str(folder / file), study_or_trial=trial
                )
        except OSError:
            for artifact_id in ids.values():
                store.remove(artifact_id)
            raise
    trial.set_user_attr(CHECKPOINT, ids)


def read_checkpoint(store: FolderStore, trial: optuna.trial.FrozenTrial) -> Checkpoint:
    """The checkpoint of a trial. Raises CheckpointError when it is not there, truncated or foreign."""
    ids: dict[str, str] = trial.user_attrs.get(CHECKPOINT, {})
    if not ids:
        raise CheckpointError(f"trial {trial.number} has no checkpoint")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            for file in (WEIGHTS, RECORD, TOKENIZER):
                fetch(store, ids[file], folder / file)
        except (ArtifactNotFound, KeyError) as error:
            raise CheckpointError(f"trial {trial.number}: the checkpoint is not complete: {error}") from None
        try:
            return Checkpoint.read(folder)
        except UserError as error:
            shown = str(error).replace(f"{folder}/", "").replace(str(folder), "checkpoint")
            raise CheckpointError(f"trial {trial.number}: {shown}") from None


def has_weights(store: FolderStore, trial: optuna.trial.FrozenTrial) -> bool:
    """The trial's weights are still in the store."""
    ids: dict[str, str] = trial.user_attrs.get(CHECKPOINT, {})
    return WEIGHTS in ids and store.has(ids[WEIGHTS])


def keep_best(store: FolderStore, ranked: Sequence[optuna.trial.FrozenTrial], keep: int) -> None:
    """Remove the weights of all but the first `keep` of the trials, given best first."""
    for trial in ranked[keep:]:
        ids: dict[str, Any] = trial.user_attrs.get(CHECKPOINT, {})
        if WEIGHTS in ids:
            with contextlib.suppress(ArtifactNotFound):
                store.remove(ids[WEIGHTS])


def curve_lines(evaluations: Sequence[Any]) -> str:
    """Evaluations as JSON lines, one a rung."""
    return "".join(json.dumps(evaluation.as_dict()) + "\n" for evaluation in evaluations)
