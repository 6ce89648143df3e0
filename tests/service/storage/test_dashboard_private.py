"""Fails when a new version of optuna-dashboard has not what this project uses of it beyond its interface."""

import inspect

import optuna
import pytest
from optuna_dashboard import _app, _note, _serializer, get_note
from optuna_dashboard.artifact import _backend

from service.storage import dashboard_private
from service.storage.dashboard_private import (
    LONGEST_ATTRIBUTE,
    artifact_prefix,
    look_up_notes,
    note_attributes,
    shorten_attributes,
)
from service.storage.optuna_private import id_of, storage_of, trial_id_of

LONG = "é" * 5000  # a note is stored in parts of 2,045 characters


@pytest.fixture
def trial():
    study = optuna.create_study()
    study.ask()
    return study.ask()


@pytest.mark.parametrize("note", ["", "short", LONG])
@pytest.mark.parametrize("of_trial", [True, False])
def test_a_note_is_what_the_dashboard_reads(trial, note, of_trial):
    attributes = note_attributes(note, trial_id_of(trial) if of_trial else None)
    for key, value in attributes.items():
        trial.storage.set_study_system_attr(id_of(trial.study), key, value)
    assert get_note(trial if of_trial else trial.study) == note
    assert get_note(trial.study if of_trial else trial) == ""


def test_artifacts_are_listed_where_the_dashboard_looks():
    assert artifact_prefix(17) == _backend._dashboard_artifact_prefix(17)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (_note.note_ver_key, ["trial_id"]),
        (_note.note_str_key_prefix, ["trial_id"]),
        (_note.split_body, ["note_str", "trial_id"]),
        (_backend.list_trial_artifacts, ["study_system_attrs", "trial_system_attrs", "trial"]),
    ],
)
def test_functions_take_what_they_took(function, parameters):
    assert [*inspect.signature(function).parameters] == parameters


def test_the_dashboard_asks_by_the_names_that_are_replaced():
    """It would go on with its own functions, slowly, where it had them under other names."""
    assert "note.get_note_from_system_attrs(" in inspect.getsource(_serializer.serialize_frozen_trial)
    assert "list_trial_artifacts(" in inspect.getsource(_serializer.serialize_frozen_trial)
    assert _serializer.note is _note is _app.note


def test_a_long_attribute_shows_its_beginning(monkeypatch):
    monkeypatch.setattr(_serializer, "serialize_attrs", _serializer.serialize_attrs)
    assert inspect.getsource(_serializer.serialize_frozen_trial).count("serialize_attrs(") == 1
    for _ in range(2):  # a second call is no second shortening
        shorten_attributes()
        shown = {
            each["key"]: each["value"] for each in _serializer.serialize_attrs({"a": ["x"] * 100, "b": 1.5})
        }
        assert (shown["a"][:6], shown["a"][-1], len(shown["a"])) == ('["x", ', "…", LONGEST_ATTRIBUTE)
        assert shown["b"] == "1.5"


class Counted(dict):
    """Counts how often all of it is gone through."""

    walks = 0

    def items(self):
        self.walks += 1
        return super().items()


def test_notes_and_artifacts_are_looked_up_and_are_the_same(trial, monkeypatch):
    monkeypatch.setattr(_note, "get_note_from_system_attrs", _note.get_note_from_system_attrs)
    monkeypatch.setattr(_serializer, "list_trial_artifacts", _backend.list_trial_artifacts)
    trial.set_user_attr("checkpoint", {"weights": "a1"})
    ids = {trial_id_of(trial), 0}
    attributes = Counted()
    for i in ids:
        attributes.update(note_attributes(f"{i} {LONG}", i))
        attributes[f"{artifact_prefix(i)}a1"] = '{"artifact_id": "a1", "filename": "weights"}'
    frozen = trial.study.trials[trial.number]
    before = _serializer.list_trial_artifacts(attributes, {}, frozen)
    assert len(before) == 1
    attributes.walks = 0
    look_up_notes()
    assert _serializer.list_trial_artifacts(attributes, {}, frozen) == before
    for i in ids:
        assert _note.get_note_from_system_attrs(attributes, i)["body"] == f"{i} {LONG}"
    assert attributes.walks == 0


def test_a_note_that_is_no_text_ends_there(trial, monkeypatch):
    monkeypatch.setattr(_note, "get_note_from_system_attrs", _note.get_note_from_system_attrs)
    monkeypatch.setattr(_serializer, "list_trial_artifacts", _backend.list_trial_artifacts)
    dashboard_private.look_up_notes()
    key = trial_id_of(trial)
    attributes = {**note_attributes(LONG, key), f"dashboard:{key}:note_str:1": 7}
    assert _note.get_note_from_system_attrs(attributes, key)["body"] == LONG[: _note.SYSTEM_ATTR_MAX_LENGTH]


def test_a_study_is_shown_as_it_is_amended_the_last_time(monkeypatch):
    def value(number):
        return {"name": "lr", "param_internal_value": number, "param_external_value": str(number)}

    def serialize_study_detail(study, *_):
        trials = [
            {"number": number, "state": state, "params": [value(number)], "fixed_params": []}
            for number, state in enumerate(("Running", "Running", "Complete"))
        ]
        return {"note": {"version": 1, "body": "stored"}, "trials": trials}

    assert "return serialize_study_detail(" in inspect.getsource(_app)
    monkeypatch.setattr(_app, "serialize_study_detail", serialize_study_detail)
    study = optuna.create_study()
    frozen = storage_of(study).get_all_studies()[0]
    for word in ("first", "last"):
        waiting = {"first": {0, 1, 2}, "last": {1, 2}}[word]
        dashboard_private.amend_studies(
            lambda study_id, note, word=word, waiting=waiting: (f"{word} {study_id} {note}", waiting)
        )
    shown = _app.serialize_study_detail(frozen)
    assert shown["note"]["body"] == f"last {id_of(study)} stored"
    assert [trial["state"] for trial in shown["trials"]] == ["Running", "Waiting", "Complete"]
    assert shown["trials"][1]["fixed_params"] == [{"name": "lr", "param_external_value": "1"}]
    serialized = _serializer.serialize_frozen_trial(0, study.ask().study.get_trials()[0], {})
    assert {"number", "state", "params", "fixed_params"} <= serialized.keys()
