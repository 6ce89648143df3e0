"""What of Optuna is used here and Optuna does not promise: private names, overridden methods, its tables.

No other module uses such a name (`tests/test_private_names.py`). Its own test holds each against the Optuna that is
installed, and the range in `pyproject.toml` has no version that it has not been held against.
"""

import copy
import functools
from collections.abc import Callable, Container
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb import models
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from service.storage.outages import Patience

METADATA: sa.MetaData = models.BaseModel.metadata
STUDIES: sa.Table = models.StudyModel.__table__
DIRECTIONS: sa.Table = models.StudyDirectionModel.__table__
USER_ATTRIBUTES: sa.Table = models.StudyUserAttributeModel.__table__
SYSTEM_ATTRIBUTES: sa.Table = models.StudySystemAttributeModel.__table__
TRIALS: sa.Table = models.TrialModel.__table__
TRIAL_PARAMS: sa.Table = models.TrialParamModel.__table__
TRIAL_VALUES: sa.Table = models.TrialValueModel.__table__
TRIAL_LOSSES: sa.Table = models.TrialIntermediateValueModel.__table__
TRIAL_USER_ATTRIBUTES: sa.Table = models.TrialUserAttributeModel.__table__
TRIAL_SYSTEM_ATTRIBUTES: sa.Table = models.TrialSystemAttributeModel.__table__

stored_value = models.TrialValueModel.value_to_stored_repr
"""A final value, as `stored_loss`."""
stored_loss = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
"""A reported value, as it is stored: the number, and what kind of one it is."""
CachedStorage = _CachedStorage
"""Optuna's cache of finished trials in front of a storage."""
StudyInfo = _StudyInfo
"""What it keeps of a study."""

FIXED = "fixed_params"
"""System attribute of an enqueued trial: the values that its suggestions take."""
METRIC_NAMES = "study:metric_names"
"""System attribute of a study: what its values are called."""


def artifact_key(artifact_id: str) -> str:
    """System attribute of a trial under which an artifact of it is listed."""
    return f"artifacts:{artifact_id}"


def id_of(study: optuna.Study | FrozenStudy) -> int:
    """The study's id in its storage."""
    return study._study_id


def storage_of(study: optuna.Study) -> BaseStorage:
    """Where the study is, behind Optuna's cache."""
    return study._storage


def trial_id_of(trial: optuna.Trial | FrozenTrial) -> int:
    """The trial's id in its storage; its number counts within the study."""
    return trial._trial_id


def numbered(trial: FrozenTrial, *, trial_id: int, number: int) -> FrozenTrial:
    """A copy of the trial with its place in a storage."""
    placed = copy.deepcopy(trial)
    placed.number, placed._trial_id = number, trial_id
    return placed


def running_trial(study: optuna.Study, trial_id: int) -> optuna.Trial:
    """A running trial of the study, as `Study.ask` gives the one that it makes."""
    # as there, so that the sampler sees what other workers have finished since the last trial
    study._thread_local.cached_all_trials = None
    return optuna.Trial(study, trial_id)


def show_trials(study: optuna.Study, shown: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> None:
    """See that this object's trials are read, by samplers too, as `shown` makes them of what is stored."""
    read = study._get_trials

    def get_trials(
        deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = shown(read(deepcopy=False, use_cache=use_cache))
        found = found if states is None else [trial for trial in found if trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    study._get_trials = get_trials  # type: ignore[method-assign]


PATIENT_METHODS = (
    "_create_new_trial",
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
    "set_trial_system_attr",
    "set_trial_user_attr",
)
"""What Optuna's cache in front of the storage calls while trials run."""


class PatientStorage(RDBStorage):
    """Optuna's storage, whose calls wait for the database once it has been given a patience."""

    patience: Patience | None = None


def _patient(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    def call(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        if self.patience is None:
            return method(self, *args, **kwargs)
        return self.patience(lambda: method(self, *args, **kwargs))

    return call


for _name in PATIENT_METHODS:
    setattr(PatientStorage, _name, _patient(_name))
