import dataclasses
import json

import optuna
import pytest

from model.measurement.evaluation_record import Evaluation
from service.storage import artifacts, measurements
from service.storage.artifact_stores import FolderStore
from service.storage.studies import StudyError

NUMBERS = {field.name: 1.0 for field in dataclasses.fields(Evaluation)}


def evaluation(rung, loss):
    return Evaluation(**(NUMBERS | {"rung_tokens": rung, "val_loss": loss, "peak_memory_bytes": None}))


EVALUATIONS = [evaluation(3000, 2.5), evaluation(6000, 2.0)]


@pytest.fixture
def trial():
    study = optuna.create_study()
    trial = study.ask()
    for each in EVALUATIONS:
        trial.report(each.val_loss, each.rung_tokens)
    return trial


def ended(trial, *, store, state=optuna.trial.TrialState.COMPLETE):
    study = trial.study
    study.tell(trial, 2.0 if state == optuna.trial.TrialState.COMPLETE else None, state=state)
    return measurements.read(study.trials[0], study, store)


def test_what_has_been_written_is_read_back_whole(trial, tmp_path):
    store = FolderStore(tmp_path)
    measurements.note_last(trial, EVALUATIONS[-1], {"accuracy": 0.5, "kind": "evaluation"})
    artifacts.attach_text(store, trial, measurements.CURVE, measurements.curve_lines(EVALUATIONS))
    kept = ended(trial, store=store)
    assert [Evaluation(**row) for row in kept.curve] == EVALUATIONS
    assert kept.noted == {}
    # lists of many trials read numbers alone, and no file
    attributes = trial.study.trials[0].user_attrs
    assert (attributes["val_loss"], attributes["accuracy"]) == (2.0, 0.5)
    assert not {"kind", "peak_memory_bytes"} & attributes.keys()


def test_of_a_complete_trial_without_files_the_last_evaluation_is_known_whole(trial, tmp_path):
    measurements.note_last(trial, EVALUATIONS[-1], {"accuracy": 0.5})
    kept = ended(trial, store=FolderStore(tmp_path))
    known = {name: value for name, value in EVALUATIONS[-1].as_dict().items() if value is not None}
    assert kept.curve == ({"rung_tokens": 3000, "val_loss": 2.5}, known)
    assert kept.noted["accuracy"] == 0.5


def test_of_a_trial_that_broke_off_the_losses_are_known(trial, tmp_path):
    kept = ended(trial, store=FolderStore(tmp_path), state=optuna.trial.TrialState.PRUNED)
    assert kept.curve == tuple({"rung_tokens": e.rung_tokens, "val_loss": e.val_loss} for e in EVALUATIONS)
    assert kept.noted == {}


def test_diagnostics_are_read_line_by_line(trial, tmp_path):
    store, rows = FolderStore(tmp_path), ({"kind": "step", "step": 1}, {"kind": "evaluation"})
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    artifacts.attach_text(store, trial, measurements.DIAGNOSTICS, text)
    assert ended(trial, store=store).diagnostics == rows


def test_a_store_that_cannot_be_read_is_said_and_a_file_that_is_gone_is_not(trial, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    artifacts.attach_text(FolderStore(folder), trial, measurements.CURVE, "{}\n")
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"curves cannot be read: Not a directory"):
        ended(trial, store=FolderStore(tmp_path / "file"))
    study = trial.study
    assert len(measurements.read(study.trials[0], study, FolderStore(tmp_path / "gone")).curve) == 2
