"""Fails when a new version of Optuna has not what this project uses of it beyond its interface."""

import inspect
import re
import threading

import optuna
import pytest
import sqlalchemy as sa
import structlog
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import RDBStorage, _cached_storage
from optuna.trial import TrialState

from service.storage import optuna_private
from service.storage.optuna_private import (
    PATIENT_METHODS,
    id_of,
    running_trial,
    storage_of,
    trial_id_of,
)
from service.storage.outages import Patience
from service.storage.study_storage import StudyStorage
from service.study.samplers import experimental

FLOAT = optuna.distributions.FloatDistribution(0, 1)


@pytest.fixture(scope="module")
def study():
    """The second study of a storage, with two trials, so that no id is a number by chance."""
    storage = StudyStorage("sqlite://", engine_kwargs={"poolclass": sa.StaticPool})
    optuna.create_study(storage=storage, study_name="first").ask()
    study = optuna.create_study(storage=storage, study_name="second")
    study.enqueue_trial({"x": 0.25})
    study.tell(study.ask({"x": FLOAT}), 1.0)
    yield study
    storage.engine.dispose()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_create_new_trial", ["study_id", "template_trial"]),
        ("_get_best_trial_id", ["study_id", "direction"]),
        ("_get_trials", ["study_id", "states", "included_trial_ids", "trial_id_greater_than"]),
        (
            "_set_trial_param",
            ["trial_id", "param_name", "param_value_internal", "distribution", "previous_distribution"],
        ),
        (
            "_set_trial_param_without_commit",
            [
                "session",
                "trial_id",
                "param_name",
                "param_value_internal",
                "distribution",
                "previous_distribution",
            ],
        ),
    ],
)
def test_what_is_overridden_takes_what_it_took(name, parameters):
    assert [*inspect.signature(getattr(RDBStorage, name)).parameters] == ["self", *parameters]
    overriding = inspect.signature(getattr(StudyStorage, name)).parameters
    assert [*overriding] in (["self", *parameters], ["self", "arguments", "named"])


def test_every_call_of_optunas_cache_waits():
    """Fails when a new version of Optuna calls its database in a way that would not be waited for."""
    called = set(re.findall(r"self\._backend\.(\w+)", inspect.getsource(_cached_storage)))
    by_nobody_here = {
        "create_new_study",
        "delete_study",
        "record_heartbeat",
        "_get_stale_trial_ids",
        "get_heartbeat_interval",
        "get_heartbeat_stale_trial_callback",
    }
    assert called - by_nobody_here == set(PATIENT_METHODS)


def test_a_call_waits_once_the_storage_has_a_patience(study):
    class Counting(Patience):
        calls = 0

        def __call__(self, work):
            self.calls += 1
            return super().__call__(work)

    storage = StudyStorage("sqlite://", engine_kwargs={"poolclass": sa.StaticPool})
    study_id = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "x")
    storage.patience = Counting(60, stopping=threading.Event(), log=structlog.get_logger())
    assert storage.get_study_name_from_id(study_id) == "x"
    assert storage.patience.calls == 1
    storage.engine.dispose()


def test_ids_are_those_of_the_storage(study):
    storage = storage_of(study)
    assert id_of(study) == storage.get_study_id_from_name("second") != storage.get_study_id_from_name("first")
    (trial,) = study.trials
    assert (
        trial_id_of(trial) == storage.get_trial_id_from_study_id_trial_number(id_of(study), 0) != trial.number
    )
    assert isinstance(storage, _cached_storage._CachedStorage)


def test_a_running_trial_is_one_as_ask_gives_it(study):
    asked = study.ask()
    assert vars(running_trial(study, trial_id_of(asked))).keys() == vars(asked).keys()
    other = optuna.load_study(study_name="second", storage=storage_of(study)._backend)
    study._thread_local.cached_all_trials = study.get_trials(deepcopy=False)
    other.add_trial(optuna.trial.create_trial(value=0.5, params={"x": 0.5}, distributions={"x": FLOAT}))
    trial = running_trial(study, trial_id_of(asked))
    assert (trial.number, trial.study, trial.storage) == (asked.number, study, storage_of(study))
    seen = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,), use_cache=True)
    assert [t.number for t in seen] == [0, 2]  # what another process has finished, too
    study.tell(asked, state=TrialState.FAIL)


def test_attributes_have_the_names_that_optuna_gives_them(study, tmp_path):
    assert study.trials[0].system_attrs[optuna_private.FIXED] == {"x": 0.25}
    with experimental():
        study.set_metric_names(["loss"])
    assert storage_of(study).get_study_system_attrs(id_of(study))[optuna_private.METRIC_NAMES] == ["loss"]
    (tmp_path / "file").write_text("x")
    trial = study.ask()
    artifact = upload_artifact(
        artifact_store=FileSystemArtifactStore(tmp_path),
        file_path=str(tmp_path / "file"),
        study_or_trial=trial,
    )
    assert optuna_private.artifact_key(artifact) in study.trials[-1].system_attrs


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("STUDIES", {"study_id", "study_name"}),
        ("DIRECTIONS", {"study_direction_id", "direction", "study_id", "objective"}),
        ("USER_ATTRIBUTES", {"study_user_attribute_id", "study_id", "key", "value_json"}),
        ("SYSTEM_ATTRIBUTES", {"study_system_attribute_id", "study_id", "key", "value_json"}),
    ],
)
def test_tables_have_the_columns_that_are_written_and_no_other(table, columns):
    found = getattr(optuna_private, table)
    assert {column.name for column in found.columns} == columns
    assert found.metadata is optuna_private.METADATA
