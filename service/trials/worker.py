"""A worker: leases slots of a study and runs a trial in each until all of them are closed."""

import contextlib
import dataclasses
import gc
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial

import optuna
import sqlalchemy as sa
import structlog
from optuna.trial import TrialState

from model.errors import UserError
from model.hardware import device
from service.settings import Settings
from service.storage import added, artifacts
from service.storage.artifact_stores import open_store
from service.storage.claims import Claims, LeaseLost, Slot
from service.storage.opened_study import OpenedStudy, open_study
from service.storage.optuna_private import storage_of, trial_id_of
from service.storage.outages import Patience, StorageAwayError
from service.storage.ownership import SLOT
from service.storage.pauses import Pauses
from service.storage.slots import SEEN_FAILURE
from service.study import audit
from service.study.base_file import code_folders
from service.study.device_proof import prove_device
from service.study.pruners import build_pruner
from service.study.run_config import RunConfig
from service.study.samplers import build_sampler, worker_seed
from service.trials import objective, saved_states
from service.trials.contract import Run, Training
from service.trials.failures import Failure, classify, traced
from service.trials.gpt import GptTraining
from service.trials.lease import Lease
from service.trials.own_run import OwnTraining
from service.trials.promotion import Waiting, promotion_of
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
        self._run: Run | None = None
        self._failures_in_a_row = 0
        self._last_run: Callable[[], Run | None] = lambda: None
        patience = Patience(settings.patience_seconds, stopping=self._stopping, log=log)
        self._opened = opened = open_study(settings, study_name, patience=patience)
        self._study, self._definition = opened.study, opened.definition
        self._store = open_store(settings.artifacts, writable=True)
        self._where = where = device.choose(
            settings.device, threads=threads, workers=settings.workers_per_gpu
        )
        prove_device(self._definition, where.torch_device.type)
        training = _training(opened, where)
        opened.storage.seen = added.as_seen(self._definition.space, opened.key.generation)
        if opened.key.generation:  # otherwise a trial is known for the study's own by its configuration
            opened.storage.attributes = (SLOT, artifacts.CHECKPOINT, "arm")
        self._roster = opened.roster
        self._number: int = patience(lambda: self._roster.register(owner, device=where.description))
        self.log = log.bind(worker=self._number)
        slots = dataclasses.replace(opened.slots, patience=patience)
        self._claims = Claims(slots, owner, settings.lease_seconds)
        self._lineages = Lineages(opened, claims=self._claims, store=self._store, drops=drops, log=self.log)
        self._study.sampler = build_sampler(
            self._definition.sampler,
            seed=worker_seed(self._definition.seed, self._number),
            space=self._definition.space.distributions,
        )
        self._promotion = promotion_of(opened, Pauses(self._claims), log=self.log)
        self._study.pruner = build_pruner(self._definition.pruner, rungs=opened.base_config.rungs)
        self._runner = objective.TrialRunner(
            store=self._store,
            training=training,
            words=self._definition.words,
            curves=settings.curves,
            device=where,
            keep_checkpoints=self._definition.keep_checkpoints,
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
            UserError: nothing can be trained with what the user gave, the storage stays away, or the worker was stopped
                and the state of its trial could not be saved.
        """
        try:
            self._work()
        finally:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._roster.leave(self._number)
            self._opened.close()

    def _work(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                # whether it trains or waits: few leases of a search that pauses last until they would say so
                self._roster.renew_when_due(self._number)
            slot = self._claims.claim() or (self._promotion.next() if self._promotion else None)
            if slot is None:
                strays = self._lineages.fail_strays()
                counts = self._claims.slots.counts()
                if any(counts.values()):  # otherwise the study is gone, and its id may be another one's
                    self._lineages.take_enqueued()
                if self._orphaned():
                    return
                if not (counts["open"] or counts["leased"] or strays):
                    if self._promotion is None:
                        return
                    if self._promotion.over():
                        self._end(self._promotion.at_the_end())
                        return
                self._stopping.wait(1.0)  # another worker may still die and leave its trial
                continue
            failure = self._run_slot(slot)
            self._free_memory()
            if self._promotion is not None:
                self._end(self._promotion.too_many())
            if failure is None:
                continue
            if failure.next == "close":
                self._failures_in_a_row = 0
            elif failure.next == "stop":
                raise UserError(failure.reason)
            elif failure.next == "restart":
                raise SystemExit(f"error: {failure.reason}; this process can train nothing more")
            elif failure.next == "retry":
                self._failures_in_a_row += 1
                if self._failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                    raise UserError(f"{MAX_FAILURES_IN_A_ROW} trials failed in a row: {failure.reason}")

    def _free_memory(self) -> None:
        """See that nothing of the last trial is there while the next one trains."""
        if self._last_run() is not None:  # in a cycle, as of a traceback from the import of torch._dynamo
            gc.collect()
        with contextlib.suppress(RuntimeError):  # of a device that does not answer
            self._where.free_memory()

    def _lease(self, slot: Slot) -> Lease:
        return Lease(
            self._claims,
            slot,
            beat=self._stop_if_orphaned,
            renew_worker=partial(self._roster.renew, self._number),
            log=self.log,
        )

    def _run_slot(self, slot: Slot) -> Failure | None:
        with self._lease(slot) as lease:
            try:
                return self._run_trial(lease)
            except (LeaseLost, optuna.exceptions.UpdateFinishedTrialError):
                self.log.warning("trial taken over by another worker, this one's results are dropped")
                return None
            finally:
                self._run = None

    def _run_trial(self, lease: Lease) -> Failure | None:
        if (found := self._lineages.trial_for(lease.slot)) is None:
            return None
        trial, lease.slot = found
        log = self.log.bind(trial=trial.number)
        runner = dataclasses.replace(self._runner, log=log)
        config: RunConfig | None = None
        run: Run | None = None
        failure: Failure | None = None
        try:
            config = self._lineages.config_for(trial, lease.slot)
            if self._promotion is not None:
                self._promotion.settle(lease.slot, config)
            named = {"arm": arm} if (arm := trial.user_attrs.get("arm")) else {}
            log.info("trial started", **named, params=trial.params, slot=lease.slot.index)
            run = runner.build(trial, config)
            self._watch(run, lease)
            goes_on = partial(self._promotion.goes_on, lease) if self._promotion else None
            outcome = runner.train(trial, run, lease, verdict=self._verdict(lease.slot), goes_on=goes_on)
            state, ended, value = outcome.state, outcome.ended, outcome.value
            self._failures_in_a_row = 0  # here, as what is given up without training is no success
        except (LeaseLost, StorageAwayError, optuna.exceptions.UpdateFinishedTrialError):
            raise  # the trial is not this worker's to write to any more, or cannot be
        except Exception as error:
            failure = classify(error, device_answers=self._where.answers())
            if config is not None:
                runner.show_failure(trial, run, config, failure.reason)
            state, value, ended = failure.state, None, failure.reason
            if failure.next == "retry":
                log.error("trial failed", **traced(error))
                lease.slot = dataclasses.replace(lease.slot, attempts=lease.slot.attempts + SEEN_FAILURE)
                ended = with_attempts(ended, lease.slot.attempts)
        if state == TrialState.RUNNING:
            self._claims.pause(lease.slot)
            log.info("trial paused", ended=ended)
            return None
        self._finish(lease, trial, state, value, ended)
        log.info("trial ended", state=state.name, val_loss=value, ended=ended)
        return failure

    def _end(self, waiting: list[Waiting]) -> None:
        """End paused trials, with their last losses."""
        for slot, ended in waiting:
            taken = (LeaseLost, optuna.exceptions.UpdateFinishedTrialError)
            with self._lease(slot) as lease, contextlib.suppress(*taken):
                trial = self._lineages.frozen(slot.trial_number or 0)
                self._finish(lease, trial, TrialState.PRUNED, None, ended)
                self.log.info("paused trial ended", trial=trial.number, ended=ended)

    def _watch(self, run: Run, lease: Lease) -> None:
        """See that a signal or a lost lease stops the run."""
        self._run, self._last_run = run, weakref.ref(run)
        lease.watch(run)
        if self._stopping.is_set():
            run.stop()

    def _verdict(self, slot: Slot) -> objective.Verdict:
        if self._definition.is_baseline(slot.index):
            return "not asked for"
        share, seed = self._definition.pruner.audit, self._definition.seed
        return "noted" if audit.is_drawn(share, study_seed=seed, slot=slot.index) else "carried out"

    def _finish(
        self,
        lease: Lease,
        trial: optuna.Trial | optuna.trial.FrozenTrial,
        state: TrialState,
        value: float | None,
        ended: str,
    ) -> None:
        """Tell Optuna, then close or free the slot; a crash in between is seen by whoever leases it next."""
        lease.check()
        if trial.user_attrs.get("ended") != ended:
            storage_of(self._study).set_trial_user_attr(trial_id_of(trial), "ended", ended)
        try:
            self._study.tell(trial.number, value, state)
        except ValueError:  # the trial has ended
            if self._lineages.frozen(trial.number).state != state:
                raise LeaseLost(f"trial {trial.number} was ended from outside") from None
            # by this very call, whose answer was lost
        if state == TrialState.FAIL:
            self._claims.hand_back(lease.slot, attempts=lease.slot.attempts)
        else:
            self._claims.close(lease.slot)
            saved_states.drop_states(self._store, trial)
            artifacts.keep_best(self._store, self._study, self._definition.keep_checkpoints)

    def _orphaned(self) -> bool:
        return self._parent is not None and os.getppid() != self._parent

    def _stop_if_orphaned(self) -> None:
        if self._orphaned():
            self.stop()


def _training(opened: OpenedStudy, where: device.Device) -> Training:
    """What the study trains, on this device. Raises UserError: its corpus or the user's code cannot be had."""
    own = opened.definition.own_run
    if own is None:
        return GptTraining(opened.corpus, opened.settings.cache, where)
    return OwnTraining(own, code_folders(opened.definition.file), str(where.torch_device))
