"""What a trial has measured of itself: written when it ends, read back as far as it is kept.

The curve is a file, one `Evaluation` a line, and so are the diagnostics. The numbers of the last evaluation are
attributes of the trial as well: lists of many trials need no file, and a trial whose files are gone still has them.
Optuna itself keeps the loss of every rung.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.artifacts import get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial, TrialState

from model.measurement.evaluation_record import Evaluation
from service.storage.artifact_stores import Store
from service.storage.optuna_private import storage_of
from service.storage.studies import StudyError
from service.study.run_config import Evaluated

CURVE, DIAGNOSTICS = "curve.jsonl", "diagnostics.jsonl"
"""Artifacts of a trial: an `Evaluation` a line; the diagnostics of a step or of an evaluation a line."""
Row = Mapping[str, Any]
"""One line of them: of a trial that has no file, the fields of an `Evaluation` that are known."""

_FIELDS = [field.name for field in dataclasses.fields(Evaluation)]


@dataclass(frozen=True)
class Measurements:
    """What is kept of a trial's measurements."""

    curve: tuple[Row, ...] = ()
    """At every rung; of a trial without a file `rung_tokens` and `val_loss` alone, with all of the last rung where it
    is complete."""
    diagnostics: tuple[Row, ...] = ()
    noted: Row = dataclasses.field(default_factory=dict)
    """The trial's attributes, where they stand for a file that is gone."""


def curve_lines(evaluations: Sequence[Evaluated]) -> str:
    """The content of the file `CURVE`."""
    return "".join(json.dumps(evaluation.as_dict()) + "\n" for evaluation in evaluations)


def note_last(trial: optuna.Trial, evaluation: Evaluated, diagnostics: Row) -> None:
    """Make attributes of a running trial of the numbers of its last evaluation, and of its diagnostics there."""
    for key, value in (evaluation.as_dict() | dict(diagnostics)).items():
        if isinstance(value, int | float):
            trial.set_user_attr(key, value)


def read(trial: FrozenTrial, study: optuna.Study, store: Store | None) -> Measurements:
    """What is kept of a trial's measurements, without a store as if its files were gone.

    Raises:
        StudyError: the store cannot be read.
    """
    files = _files(trial, study, store) if store else {}
    diagnostics = files.get(DIAGNOSTICS, ())
    losses = sorted(trial.intermediate_values.items())
    curve: tuple[Row, ...] = files.get(CURVE) or tuple(
        {"rung_tokens": tokens, "val_loss": loss} for tokens, loss in losses
    )
    if CURVE in files or trial.state != TrialState.COMPLETE:
        return Measurements(curve, diagnostics)
    last = {**trial.user_attrs, **(curve[-1] if curve else {})}
    whole = {name: last[name] for name in _FIELDS if name in last}
    return Measurements((*curve[:-1], whole), diagnostics, trial.user_attrs)


def _files(trial: FrozenTrial, study: optuna.Study, store: Store) -> dict[str, tuple[Row, ...]]:
    found: dict[str, tuple[Row, ...]] = {}
    try:
        for meta in get_all_artifact_meta(trial, storage=storage_of(study)):
            if meta.filename in (CURVE, DIAGNOSTICS):
                with contextlib.suppress(ArtifactNotFound), store.open_reader(meta.artifact_id) as file:
                    lines = file.read().decode().splitlines()
                    found[meta.filename] = tuple(json.loads(line) for line in lines)
    except OSError as error:
        raise StudyError(f"{store}: curves cannot be read: {error.strerror or error}") from None
    return found
