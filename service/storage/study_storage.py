"""The storage as this project opens it: Optuna's, which reads in one query and writes what belongs together at once.

Optuna takes seven statements and its object mapper for what a worker asks at every rung, with the running trials of all
other workers among it, and a transaction for every attribute. With a hundred workers on two cores a decision of the
pruner took 3 s (`tests/benchmarks/results/storage.md`).
"""

import contextlib
import copy
import json
import threading
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from service.storage import writing
from service.storage.connections import for_one_statement
from service.storage.optuna_private import (
    SYSTEM_ATTRIBUTES,
    CachedStorage,
    PatientStorage,
    StudyInfo,
    id_of,
    storage_of,
    trial_id_of,
)
from service.storage.optuna_trials import insert_trial
from service.storage.reading import read_trial, read_trials


class StudyStorage(PatientStorage):
    """What a process opens: its study's own space holds, whatever has been added to the study from elsewhere."""

    seen: Callable[[FrozenTrial], FrozenTrial | None] | None = None
    """How trials are read (`service.storage.added`); None where they are read as they are."""

    attributes: Collection[str] | None = None
    """User attributes that trials are read with, in no list of artifacts; None: all there is. A trial that is asked for
    by itself has all of its own. Configurations are long, and each worker reads the trials of all others."""

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
                attributes=self.attributes,
            ),
            one_statement=True,
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
        trial: FrozenTrial = self._patiently(
            lambda connection: read_trial(connection, trial_id), one_statement=True
        )
        return trial

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        new = template_trial or create_trial(state=TrialState.RUNNING)
        created: FrozenTrial = self._patiently(lambda connection: insert_trial(connection, study_id, new))
        return created

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What this thread writes of trials inside is sent at its end, in one transaction; of the outermost one.

        Raises at the end what the writing itself would have raised.
        """
        if self._cells is not None:
            yield
            return
        cells = self._here.cells = []
        try:
            yield
        finally:
            self._here.cells = None
            if cells:
                self._write_at_once(cells)

    @property
    def _cells(self) -> list[writing.Cell] | None:
        """What is to be written `together`."""
        cells: list[writing.Cell] | None = getattr(self._here, "cells", None)
        return cells

    def _write(self, *cells: writing.Cell) -> None:
        if self._cells is None:
            self._write_at_once(cells)
        else:
            self._cells.extend(cells)

    def _write_at_once(self, cells: Collection[writing.Cell]) -> None:
        self._patiently(lambda connection: writing.write(connection, cells), one_statement=len(cells) == 1)

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
        """As Optuna's, at once, also inside `together`: samplers of other workers read it."""
        self._write_at_once([writing.attribute("study", study_id, key, value)])

    def set_study_system_attrs(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """All in one transaction. Raises KeyError: there is no such study."""
        self._write(*(writing.attribute("study", study_id, key, value) for key, value in attributes.items()))

    def find_study_system_attrs(self, study_id: int, prefix: str) -> dict[str, Any]:
        """Those whose names begin so."""
        key = SYSTEM_ATTRIBUTES.c.key
        query = sa.select(key, SYSTEM_ATTRIBUTES.c.value_json).where(
            SYSTEM_ATTRIBUTES.c.study_id == study_id, key.startswith(prefix, autoescape=True)
        )
        rows = self._patiently(lambda connection: connection.execute(query).all(), one_statement=True)
        return {row.key: json.loads(row.value_json) for row in rows}

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

    def _patiently(self, work: Callable[[sa.Connection], Any], *, one_statement: bool = False) -> Any:
        """What `work` gives, in a transaction; `one_statement` says that it is one statement."""

        def attempt() -> Any:
            try:
                with for_one_statement(self.engine) if one_statement else self.engine.begin() as connection:
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

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As `StudyStorage.get_trial`."""
        if self._backend.attributes is not None:  # what is kept of a finished one is not all of it
            return self._backend.get_trial(trial_id)
        return super().get_trial(trial_id)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """As `StudyStorage.together`."""
        return self._backend.together()

    def set_study_system_attrs(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """As `StudyStorage.set_study_system_attrs`."""
        self._backend.set_study_system_attrs(study_id, attributes)

    def find_study_system_attrs(self, study_id: int, prefix: str) -> dict[str, Any]:
        """As `StudyStorage.find_study_system_attrs`."""
        return self._backend.find_study_system_attrs(study_id, prefix)

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


def find_study_attributes(study: optuna.Study, prefix: str) -> dict[str, Any]:
    """System attributes of the study whose names begin so."""
    storage = storage_of(study)
    if isinstance(storage, StudyCache):
        return storage.find_study_system_attrs(id_of(study), prefix)
    found = storage.get_study_system_attrs(id_of(study))
    return {key: value for key, value in found.items() if key.startswith(prefix)}
