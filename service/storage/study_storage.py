"""The storage as this project opens it: Optuna's, which reads in one query and writes what belongs together at once.

Optuna takes seven statements and its object mapper for what a worker asks at every rung, with the running trials of all
other workers among it, and a transaction for every attribute. With a hundred workers on two cores a decision of the
pruner took 3 s (`tests/benchmarks/results/storage.md`).
"""

import contextlib
import copy
import threading
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from service.storage import writing
from service.storage.optuna_private import (
    CachedStorage,
    PatientStorage,
    StudyInfo,
    id_of,
    storage_of,
    trial_id_of,
)
from service.storage.reading import read_trial, read_trials


class StudyStorage(PatientStorage):
    """What a process opens: its study's own space holds, whatever has been added to the study from elsewhere."""

    seen: Callable[[FrozenTrial], FrozenTrial | None] | None = None
    """How trials are read (`service.storage.added`); None where they are read as they are."""

    attributes_of_running: Collection[str] | None = None
    """User attributes that running trials are read with; None: all. Their configurations are long."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._here = threading.local()

    def read(
        self, study_id: int, *, ids: Collection[int], beyond: int, with_running: bool
    ) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """As `service.storage.reading.read_trials`; of the whole ones those that are seen, as they are seen."""
        whole, running = self._patiently(
            lambda connection: read_trials(
                connection,
                study_id,
                ids=ids,
                beyond=beyond,
                with_running=with_running,
                attributes_of_running=self.attributes_of_running,
            )
        )
        if self.seen is not None:
            whole = [trial for trial in map(self.seen, whole) if trial is not None]
        return whole, running

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        trials, _ = self.read(
            study_id, ids=included_trial_ids, beyond=trial_id_greater_than, with_running=True
        )
        return [trial for trial in trials if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial as it is now. Raises KeyError: there is none of this id."""
        trial: FrozenTrial = self._patiently(lambda connection: read_trial(connection, trial_id))
        return trial

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What this thread writes of trials inside is sent at its end, in one transaction.

        Raises at the end what the writing itself would have raised.
        """
        cells: list[writing.Cell] = []
        self._here.cells = cells
        try:
            yield
        finally:
            self._here.cells = None
            if cells:
                self._patiently(lambda connection: writing.write(connection, cells))

    def _write(self, cell: writing.Cell) -> None:
        cells = getattr(self._here, "cells", None)
        if cells is None:
            self._patiently(lambda connection: writing.write(connection, [cell]))
        else:
            cells.append(cell)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """As Optuna's."""
        self._write(writing.loss(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        self._write(writing.attribute("user", trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        self._write(writing.attribute("system", trial_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna's, at once: samplers of other workers read it."""
        self.set_study_system_attrs(study_id, {key: value})

    def set_study_system_attrs(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """All in one transaction. Raises KeyError: there is no such study."""
        cells = [writing.attribute("study", study_id, key, value) for key, value in attributes.items()]
        self._patiently(lambda connection: writing.write(connection, cells))

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,  # noqa: ARG002 - is not looked at, as below
    ) -> None:
        self._write(writing.parameter(trial_id, param_name, param_value_internal, distribution))

    def _set_trial_param_without_commit(
        self,
        session: Any,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None = None,  # noqa: ARG002 - is not looked at
    ) -> None:
        """Without Optuna's look at what another trial has: an added one may have a distribution of another kind."""
        super()._set_trial_param_without_commit(
            session, trial_id, param_name, param_value_internal, distribution, distribution
        )

    def _patiently(self, work: Callable[[sa.Connection], Any]) -> Any:
        def attempt() -> Any:
            try:
                with self.engine.begin() as connection:
                    return work(connection)
            except sa.exc.IntegrityError:
                raise
            except sa.exc.SQLAlchemyError as error:
                raise optuna.exceptions.StorageInternalError(
                    "the storage did not do it"
                ) from error  # as Optuna does

        return attempt() if self.patience is None else self.patience(attempt)


class StudyCache(CachedStorage):
    """Optuna's cache of finished trials, which does not read running ones for those who do not ask for them."""

    _backend: StudyStorage

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials of a study in these states, or all, by number. Raises KeyError: there is no such study."""
        with self._lock:
            self._read_changed(study_id, with_running=states is None or TrialState.RUNNING in states)
            cached = self._studies[study_id].trials
            found = [cached[number] for number in sorted(cached)]
        if states is not None:
            found = [trial for trial in found if trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def together(self) -> contextlib.AbstractContextManager[None]:
        """As `StudyStorage.together`."""
        return self._backend.together()

    def set_study_system_attrs(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """As `StudyStorage.set_study_system_attrs`."""
        self._backend.set_study_system_attrs(study_id, attributes)

    def _read_changed(self, study_id: int, *, with_running: bool) -> None:
        study = self._studies.setdefault(study_id, StudyInfo())
        # as Optuna does: an id beyond the last finished one may be of a trial that has not been seen at all
        ids = {id_ for id_ in study.unfinished_trial_ids if id_ <= study.last_finished_trial_id}
        whole, running = self._backend.read(
            study_id, ids=ids, beyond=study.last_finished_trial_id, with_running=with_running
        )
        self._add_trials_to_cache(study_id, whole)
        for trial in running:
            study.unfinished_trial_ids.add(trial_id_of(trial))
            before = study.trials.get(trial.number)
            if before is not None and before.state != TrialState.RUNNING:  # it was waiting
                before = study.trials[trial.number] = copy.copy(before)
                before.state = TrialState.RUNNING
        for trial in whole:
            if trial.state.is_finished():
                study.last_finished_trial_id = max(study.last_finished_trial_id, trial_id_of(trial))
                study.unfinished_trial_ids.discard(trial_id_of(trial))
            else:
                study.unfinished_trial_ids.add(trial_id_of(trial))


def together(trial: optuna.Trial) -> contextlib.AbstractContextManager[None]:
    """What is written of the trial inside is sent at once (`StudyStorage.together`)."""
    storage = storage_of(trial.study)
    return storage.together() if isinstance(storage, StudyCache) else contextlib.nullcontext()


def set_study_attributes(study: optuna.Study, attributes: Mapping[str, Any]) -> None:
    """Set system attributes of the study, at once where its storage can do that."""
    storage = storage_of(study)
    if isinstance(storage, StudyCache):
        storage.set_study_system_attrs(id_of(study), attributes)
    else:
        for key, value in attributes.items():
            storage.set_study_system_attr(id_of(study), key, value)
