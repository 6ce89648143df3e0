"""A worker: leases slots of a study and runs a trial in each until all of them are closed."""

import contextlib
import dataclasses
import gc
import os
import threading
import weakref
from collections.abc import Callable

import optuna
import sqlalchemy as sa
import structlog
from optuna.trial import TrialState

from model.errors import UserError
from model.hardware import device
from model.training import TrainingRun
from service.settings import Settings
from service.storage import added, artifacts
from service.storage.artifact_stores import open_store
from service.storage.corpus import load_corpus
from service.storage.database import open_patiently
from service.storage.outages import Patience, StorageAwayError
from service.storage.ownership import key_of
from service.storage.ranking import ranked_own_trials
from service.storage.roster import Roster
from service.storage.slots import SEEN_FAILURE, LeaseLost, Slot, Slots
from service.storage.studies import corpus_facts, load_study
from service.study import audit
from service.study.device_proof import prove_device
from service.study.pruners import build_pruner
from service.study.samplers import build_sampler, worker_seed
from service.trials import objective
from service.trials.failures import Failure, classify
from service.trials.lease import Lease
from service.trials.resumption import Drops, Lineages, with_attempts

MAX_FAILURES_IN_A_ROW = 5
"""Failed trials of any configuration before a worker stops: then the fault is not the configuration's."""


class Worker:
    """One process's work on one study.

    Args:
        settings: where things are.
        study_name: a study that has been made.
        owner: a name like no other process's anywhere.
        threads: CPU threads to use.
        parent: stop when this process is no longer the parent.
        drops: says whether a configuration of a confirmation is to run no more.
        log: where events go.

    Raises:
        UserError: storage, study, corpus or device cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        study_name: str,
        *,
        owner: str,
        threads: int | None,
        parent: int | None,
        drops: Drops,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._settings = settings
        self._parent = parent
        self._stopping = threading.Event()
        self._run: TrainingRun | None = None
        self._last_run: Callable[[], TrainingRun | None] = lambda: None
        patience = Patience(settings.patience_seconds, stopping=self._stopping, log=log)
        storage = open_patiently(settings, patience)
        self._engine = storage.engine
        self._study, self._definition = load_study(storage, study_name, settings)
        facts = corpus_facts(self._study)
        self._store = open_store(settings.artifacts, writable=True)
        self._where = where = device.choose(
            settings.device, threads=threads, workers=settings.workers_per_gpu
        )
        prove_device(self._definition, where.torch_device.type)
        corpus = load_corpus(self._study, settings)
        key, lease_seconds = key_of(self._study), settings.lease_seconds
        storage.seen = added.as_seen(self._definition.space, key.generation)
        self._roster = Roster(storage.engine, key, lease_seconds=lease_seconds)
        self._number: int = patience(lambda: self._roster.register(owner, device=where.description))
        self.log = log.bind(worker=self._number)
        self._slots = Slots(storage.engine, key, owner=owner, lease_seconds=lease_seconds, patience=patience)
        self._impatient_slots = Slots(storage.engine, key, owner=owner, lease_seconds=lease_seconds)
        self._lineages = Lineages(
            self._study,
            self._definition,
            slots=self._slots,
            store=self._store,
            budget_tokens=facts["budget_tokens"],
            drops=drops,
            log=self.log,
        )
        self._study.sampler = build_sampler(
            self._definition.sampler,
            seed=worker_seed(self._definition.seed, self._number),
            space=self._definition.space.distributions,
        )
        base = self._definition.base_config.with_tokens(facts["budget_tokens"])
        self._study.pruner = build_pruner(self._definition.pruner, rungs=base.rungs)
        self._runner = objective.TrialRunner(
            store=self._store,
            corpus=corpus,
            cache=settings.cache,
            curves=settings.curves,
            device=where,
            log=self.log,
        )

    def stop(self) -> None:
        """Finish the step, save the state, hand the trial back and end. Not to be called in a signal handler."""
        self._stopping.set()
        if self._run is not None:
            self._run.stop()

    def work(self) -> None:
        """Run trials until every slot is closed, or until stopped.

        Raises:
            UnsavedError: it was stopped, and the state of its trial could not be saved.
            UserError: nothing can be trained with what the user gave, or the storage stays away.
        """
        try:
            self._work()
        finally:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._roster.leave(self._number)
            self._engine.dispose()

    def _work(self) -> None:
        failures_in_a_row = 0
        waited = 0.0
        while not self._stopping.is_set():
            slot = self._slots.claim()
            if slot is None:
                strays = self._lineages.fail_strays()
                counts = self._slots.counts()
                if any(counts.values()):  # otherwise the study is gone, and its id may be another one's
                    self._lineages.take_enqueued()
                if not (counts["open"] or counts["leased"] or strays) or self._orphaned():
                    return
                self._stopping.wait(1.0)  # another worker may still die and leave its trial
                waited += 1.0
                if waited >= self._settings.lease_seconds / 4:
                    waited = 0.0
                    with contextlib.suppress(sa.exc.SQLAlchemyError):
                        self._roster.renew(self._number)
                continue
            failure = self._run_slot(slot)
            self._free_memory()
            if failure is None or failure.next == "close":
                failures_in_a_row = 0
            elif failure.next == "stop":
                raise UserError(failure.reason)
            elif failure.next == "restart":
                raise SystemExit(f"error: {failure.reason}; this process can train nothing more")
            elif failure.next == "retry":
                failures_in_a_row += 1
                if failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                    raise UserError(
                        f"{failures_in_a_row} trials failed one after the other: {failure.reason}"
                    )

    def _free_memory(self) -> None:
        """See that nothing of the last trial is there while the next one trains."""
        if (
            self._last_run() is not None
        ):  # in a cycle, as that of a traceback from the first import of torch._dynamo
            gc.collect()
        with contextlib.suppress(RuntimeError):  # of a device that does not answer
            self._where.free_memory()

    def _run_slot(self, slot: Slot) -> Failure | None:
        with Lease(
            self._impatient_slots,
            slot,
            roster=self._roster,
            number=self._number,
            lease_seconds=self._settings.lease_seconds,
            orphaned=self._orphaned,
            stop=self.stop,
            log=self.log,
        ) as lease:
            try:
                return self._run_trial(slot, lease)
            except (LeaseLost, optuna.exceptions.UpdateFinishedTrialError):
                self.log.warning("trial taken over by another worker, this one's results are dropped")
                return None
            finally:
                self._run = None

    def _run_trial(self, slot: Slot, lease: Lease) -> Failure | None:
        found = self._lineages.trial_for(slot)
        if found is None:
            return None
        trial, slot = found
        log = self.log.bind(trial=trial.number)

        def saved() -> None:
            nonlocal slot
            if slot.attempts:  # it has got on: what failed it before may not be its configuration
                slot = self._slots.set_trial(slot, trial.number, attempts=0)

        def check_lease() -> None:
            lease.check()
            self._slots.renew(slot)

        def watch(run: TrainingRun) -> None:
            self._run, self._last_run = run, weakref.ref(run)
            lease.watch(run)
            if self._stopping.is_set():
                run.stop()

        failure: Failure | None = None
        try:
            config = self._lineages.config_for(trial, slot)
            named = {"arm": arm} if (arm := trial.user_attrs.get("arm")) else {}
            log.info("trial started", **named, params=trial.params, slot=slot.index)
            audited = audit.is_drawn(
                self._definition.pruner.audit, study_seed=self._definition.seed, slot=slot.index
            )
            custody = objective.Custody(watch, check_lease, saved, self._is_among_best, audited)
            outcome = dataclasses.replace(self._runner, log=log).run(trial, config, custody)
            state = TrialState.PRUNED if outcome.pruned else TrialState.COMPLETE
            ended, value = outcome.ended, None if outcome.pruned else outcome.val_loss
        except (LeaseLost, StorageAwayError, optuna.exceptions.UpdateFinishedTrialError):
            raise
        except Exception as error:
            failure = classify(error, device_answers=self._where.answers())
            state, value, ended = failure.state, None, failure.reason
            if failure.next == "retry":
                log.error("trial failed", exc_info=True)
                slot = dataclasses.replace(slot, attempts=slot.attempts + SEEN_FAILURE)
                ended = with_attempts(ended, slot.attempts)
        self._finish(slot, trial, state, value, ended)
        log.info("trial ended", state=state.name, val_loss=value, ended=ended)
        return failure

    def _finish(
        self, slot: Slot, trial: optuna.Trial, state: TrialState, value: float | None, ended: str
    ) -> None:
        """Tell Optuna, then close or free the slot; a crash in between is seen by whoever leases it next."""
        self._slots.renew(slot)
        trial.set_user_attr("ended", ended)
        try:
            self._study.tell(trial.number, value, state)
        except ValueError:  # the trial has ended
            if self._lineages.frozen(trial.number).state != state:
                raise LeaseLost(f"trial {trial.number} was ended from outside") from None
            # by this very call, whose answer was lost
        if state == TrialState.FAIL:
            self._slots.hand_back(slot, attempts=slot.attempts)
        else:
            self._slots.close(slot)
            objective.drop_states(self._store, self._lineages.frozen(trial.number))
            artifacts.keep_best(self._store, self._study, self._definition.keep_checkpoints)

    def _is_among_best(self, val_loss: float) -> bool:
        keep = self._definition.keep_checkpoints
        best = ranked_own_trials(self._study)[:keep]
        return len(best) < keep or val_loss < (best[-1].value or 0.0)

    def _orphaned(self) -> bool:
        return self._parent is not None and os.getppid() != self._parent
