"""A worker: leases slots of a study and runs a trial in each until all of them are closed."""

import dataclasses
import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna
import sqlalchemy as sa
import structlog
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import TrialState

from model import corpus as corpora
from model import device
from model.config import TrainConfig
from model.errors import CorpusError, UserError
from model.training import TrainingRun
from service import artifacts, objective
from service.failures import Failure, classify
from service.leaderboard import ranked_trials
from service.settings import Settings
from service.slots import LeaseLost, Slot, Slots
from service.storage import corpus_facts, load_study, open_storage
from service.strategy import build_pruner, build_sampler, worker_seed

MAX_ATTEMPTS = 3
"""Failures of one configuration before it is given up."""
MAX_FAILURES_IN_A_ROW = 5
"""Failed trials of any configuration before a worker stops: then the fault is not the configuration's."""


class Worker:
    """One process's work on one study.

    Args:
        settings: where things are.
        study_name: a study that has been made.
        index: of this worker among those started together; gives its sampler a seed of its own.
        threads: CPU threads to use.
        parent: stop when this process is no longer the parent.
        log: where events go.

    Raises:
        UserError: storage, study, corpus or device cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        study_name: str,
        *,
        index: int,
        threads: int | None,
        parent: int | None,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.log = log
        self._settings = settings
        self._parent = parent
        self._stopping = threading.Event()
        self._run: TrainingRun | None = None
        storage = open_storage(settings)
        self._study, self._definition = load_study(storage, study_name, settings)
        facts = corpus_facts(self._study)
        self._budget_tokens: int = facts["budget_tokens"]
        self._store = artifacts.FolderStore(settings.artifacts)
        self._slots = Slots(
            storage.engine, self._study._study_id, owner=owner_name(), lease_seconds=settings.lease_seconds
        )
        self._study.sampler = build_sampler(
            self._definition.sampler,
            # trials so far: a worker of a later call must not draw the same points again
            seed=worker_seed(
                self._definition.seed, 4096 * len(self._study.get_trials(deepcopy=False)) + index
            ),
            space=self._definition.space.distributions,
        )
        base = self._definition.base_config.with_tokens(self._budget_tokens)
        self._study.pruner = build_pruner(self._definition.pruner, rungs=base.rungs)
        self._runner = objective.TrialRunner(
            store=self._store,
            corpus=load_corpus(self._study, settings),
            cache=settings.cache,
            device=device.choose(settings.device, threads=threads),
            log=log,
        )

    def stop(self) -> None:
        """Finish the step, save the state, hand the trial back and end. Safe in a signal handler."""
        self._stopping.set()
        if self._run is not None:
            self._run.stop()

    def work(self) -> None:
        """Run trials until every slot is closed, or until stopped.

        Raises:
            UserError: nothing can be trained with what the user gave.
        """
        failures_in_a_row = 0
        while not self._stopping.is_set():
            slot = self._slots.claim()
            if slot is None:
                self._fail_strays()
                counts = self._slots.counts()
                if not counts["open"] and not counts["leased"] and not self._seen_strays:
                    return
                self._stopping.wait(1.0)  # another worker may still die and leave its trial
                continue
            failure = self._run_slot(slot)
            if failure is None or failure.next == "close":
                failures_in_a_row = 0
            elif failure.next == "stop":
                raise UserError(failure.reason)
            elif failure.next == "retry":
                failures_in_a_row += 1
                if failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                    raise UserError(
                        f"{failures_in_a_row} trials failed one after the other: {failure.reason}"
                    )

    def _run_slot(self, slot: Slot) -> Failure | None:
        with Lease(self, slot) as lease:
            try:
                trial = self._trial_for(slot)
            except LeaseLost:
                return None
            if trial is None:
                return None
            log = self.log.bind(trial=trial.number)
            failure: Failure | None = None
            try:
                config = self._config_for(trial, slot)
                log.info("trial started", params=trial.params, slot=slot.index)
                outcome = dataclasses.replace(self._runner, log=log).run(
                    trial,
                    config,
                    watch=self._watch,
                    holds_lease=lambda: not lease.lost,
                    keeps_weights=self._is_among_best,
                )
                state = TrialState.PRUNED if outcome.pruned else TrialState.COMPLETE
                ended, value = outcome.ended, None if outcome.pruned else outcome.val_loss
            except LeaseLost:
                log.warning("trial taken over by another worker, this one's results are dropped")
                return None
            except Exception as error:
                failure = classify(error)
                state, value, ended = failure.state, None, failure.reason
                if failure.next == "retry":
                    log.error("trial failed", exc_info=True)
            finally:
                self._run = None
            try:
                self._finish(slot, trial, state, value, ended, failure)
            except (LeaseLost, ValueError, optuna.exceptions.UpdateFinishedTrialError):
                log.warning("trial taken over by another worker, this one's results are dropped")
                return None
            log.info("trial ended", state=state.name, val_loss=value, ended=ended)
        return failure

    def _finish(
        self,
        slot: Slot,
        trial: optuna.Trial,
        state: TrialState,
        value: float | None,
        ended: str,
        failure: Failure | None,
    ) -> None:
        """Tell Optuna, then close or free the slot; a crash in between is seen by whoever leases it next."""
        self._slots.renew(slot)
        trial.set_user_attr("ended", ended)
        self._study.tell(trial.number, value, state)
        if state == TrialState.FAIL:
            attempts = slot.attempts + (failure is not None and failure.next == "retry")
            self._slots.hand_back(slot, attempts=attempts)
        else:
            self._slots.close(slot)
            objective.drop_states(self._store, self._frozen(trial.number))
            artifacts.keep_best(self._store, self._ranked(), self._definition.keep_checkpoints)

    def _trial_for(self, slot: Slot) -> optuna.Trial | None:
        """The trial to run in the slot; None when its trial turns out to be finished."""
        previous = None if slot.trial_number is None else self._frozen(slot.trial_number)
        if previous is not None and previous.state == TrialState.RUNNING:
            self._fail(previous, "its worker died")
            previous = self._frozen(previous.number)
        if previous is not None and previous.state.is_finished() and previous.state != TrialState.FAIL:
            self._slots.close(slot)
            return None
        attempts = slot.attempts
        if previous is not None and attempts >= MAX_ATTEMPTS:
            self.log.warning("configuration given up", trial=previous.number, attempts=attempts)
            if self._definition.cells or (slot.index == 0 and self._definition.baseline):
                self._slots.close(slot)  # a fixed configuration has no other to take its place
                return None
            previous, attempts = None, 0
        trial = self._new_trial(slot, previous)
        self._slots.set_trial(slot, trial.number, attempts=attempts)
        return trial

    def _new_trial(self, slot: Slot, previous: optuna.trial.FrozenTrial | None) -> optuna.Trial:
        if previous is not None:
            kept = {
                key: previous.user_attrs[key] for key in (objective.STATES,) if key in previous.user_attrs
            }
            attributes = {**kept, "goes_on_with": previous.number}
            return self._create(previous.params, previous.distributions, attributes)
        values = self._definition.fixed_values(slot.index)
        if values is None:
            return self._study.ask()
        space = self._definition.space
        params = space.encode({key: value for key, value in values.items() if key in space.parameters})
        distributions = {key: space.distributions[key] for key in params}
        return self._create(params, distributions, {})

    def _create(self, params: Any, distributions: Any, attributes: dict[str, Any]) -> optuna.Trial:
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attributes
        )
        trial_id = self._study._storage.create_new_trial(self._study._study_id, template_trial=template)
        return optuna.Trial(self._study, trial_id)

    def _config_for(self, trial: optuna.Trial, slot: Slot) -> TrainConfig:
        values = self._definition.fixed_values(slot.index)
        if values is None:
            values = self._definition.space.suggest(trial)
        config = self._definition.space.config_for(self._definition.base, values)
        return config.with_tokens(self._budget_tokens)

    def _watch(self, run: TrainingRun) -> None:
        self._run = run
        if self._stopping.is_set():
            run.stop()

    def _is_among_best(self, val_loss: float) -> bool:
        ranked = self._ranked()[: self._definition.keep_checkpoints]
        return len(ranked) < self._definition.keep_checkpoints or val_loss < (ranked[-1].value or 0.0)

    def _ranked(self) -> list[optuna.trial.FrozenTrial]:
        return ranked_trials(self._study)

    def _fail_strays(self) -> None:
        """FAIL what is RUNNING in no slot: its worker died between making the trial and noting it."""
        held = self._slots.trials_in_progress()
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in held and trial.number in self._seen_strays:
                self._fail(trial, "its worker died")
        self._seen_strays = {
            trial.number
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if trial.number not in held
        }

    _seen_strays: frozenset[int] | set[int] = frozenset()

    def _fail(self, trial: optuna.trial.FrozenTrial, reason: str) -> None:
        try:
            self._study._storage.set_trial_user_attr(trial._trial_id, "ended", reason)
            self._study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            self.log.info("trial ended by its own worker after all", trial=trial.number)

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        storage = self._study._storage
        return storage.get_trial(
            storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        )


class Lease:
    """Renews a slot's lease in the background, and stops the run when it is lost."""

    def __init__(self, worker: Worker, slot: Slot) -> None:
        self.lost = False
        self._worker = worker
        self._slot = slot
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _keep(self) -> None:
        worker = self._worker
        beat, since_renewal = 1.0, 0.0
        while not self._ended.wait(beat):
            if worker._parent is not None and os.getppid() != worker._parent:
                worker.stop()
            run = worker._run
            if run is not None:
                worker.log.debug("progress", tokens=run.tokens, budget_tokens=run.config.budget_tokens)
            since_renewal += beat
            if since_renewal < worker._settings.lease_seconds / 4:
                continue
            try:
                worker._slots.renew(self._slot)
                since_renewal = 0.0
            except LeaseLost:
                if not self._ended.is_set():
                    self.lost = True
                    if run is not None:
                        run.stop()
                return
            except sa.exc.SQLAlchemyError as error:  # the next beat tries again
                worker.log.warning("lease not renewed", reason=str(error).splitlines()[0])


def owner_name() -> str:
    """This process, named so that a supervisor on the same machine can name it too."""
    return f"{socket.gethostname()}:{os.getpid()}"


def load_corpus(study: optuna.Study, settings: Settings) -> corpora.Corpus:
    """The study's corpus, from the cache or else from the artifact store.

    Raises:
        CorpusError: it is in neither, or is not the one that the study was made with.
    """
    facts = corpus_facts(study)
    fingerprint: str = facts["fingerprint"]
    path = settings.cache / f"corpus-{fingerprint}.json.gz"
    if not path.exists():
        settings.cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            artifacts.fetch(artifacts.FolderStore(settings.artifacts), facts["artifact"], partial)
        except ArtifactNotFound as error:
            raise CorpusError(f"study {study.study_name!r}: the corpus is not there: {error}") from None
        Path(partial).replace(path)
    found = corpora.read(path)
    if found.fingerprint != fingerprint:
        raise CorpusError(f"{path}: another corpus than the study's; remove the file")
    return found
