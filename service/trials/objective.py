"""One trial: build the configuration, train, report at every rung, prune or finish, record."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import optuna
import structlog
from optuna.trial import TrialState

from model.hardware.device import Device
from model.measurement.diagnostics import as_lines
from service.storage import artifacts, measurements
from service.storage.artifact_stores import Store
from service.storage.optuna_private import storage_of, trial_id_of
from service.storage.ranking import is_among_best
from service.storage.study_storage import together
from service.study import audit
from service.study.run_config import RunConfig
from service.text.words import Words
from service.trials import provenance, trial_page
from service.trials.contract import Run, Training
from service.trials.failures import Interrupted, Unsaved
from service.trials.lease import Lease
from service.trials.saved_states import SavedStates

Verdict = Literal["carried out", "noted", "not asked for"]
"""What becomes of a pruner's: the second of an audited trial, the third of the baseline."""

GoesOn = Callable[[Run], bool]
"""Whether a run may train on beyond the last rung that it has passed."""


@dataclass(frozen=True)
class Outcome:
    """How a trial that was not disturbed ended."""

    val_loss: float
    state: TrialState
    """COMPLETE, PRUNED, or RUNNING: it waits at its rung."""
    ended: str
    """For people: `complete`, `pruned at rung 4 of 8`, `paused at rung 1 of 8`, `complete, audited: ...`."""

    @property
    def value(self) -> float | None:
        """What Optuna is told; of a trial that is not complete it takes the last report."""
        return self.val_loss if self.state == TrialState.COMPLETE else None


@dataclass(frozen=True)
class TrialRunner:
    """What all trials of a worker share."""

    store: Store
    training: Training
    words: Words
    curves: Path
    """Folder for TensorBoard and Weights & Biases."""
    device: Device
    keep_checkpoints: int
    """Weights are stored of a complete trial that is among this many best ones at its end."""
    log: structlog.stdlib.BoundLogger

    def build(self, trial: optuna.Trial, config: RunConfig) -> Run:
        """The run of a trial, from the newest of its saved states that can be used, or else from its beginning.

        What it is goes into the trial's attributes, what it has already shown into its reports.
        """
        trial_page.reset_peak_memory()
        resumed = self._states(trial).newest(self.training, config)
        run = self.training.begin(config) if resumed is None else resumed
        facts = provenance.collect(device=self.device.description, **run.origin())
        reported = _reported(trial) if run.evaluations else ()
        with together(trial):
            trial.set_user_attr("config", run.config.model_dump(mode="json"))
            for key, value in run.facts().items():
                trial.set_user_attr(key, value)
            trial.set_user_attr("provenance", facts)
            for evaluation in run.evaluations:  # of the trials that it resumes
                if evaluation.rung_tokens not in reported:
                    trial.report(evaluation.val_loss, evaluation.rung_tokens)
        return run

    def train(
        self,
        trial: optuna.Trial,
        run: Run,
        lease: Lease,
        *,
        verdict: Verdict,
        goes_on: GoesOn | None = None,
    ) -> Outcome:
        """Train a run that has been built.

        Args:
            trial: a running trial; its reports, attributes and artifacts are written here, its end is not.
            run: of the trial; whoever calls can stop it.
            lease: of the trial's slot.
            verdict: what becomes of the pruner's.
            goes_on: asked at every rung, in a study whose trials pause; at the last one it has nothing to say.

        Raises:
            Interrupted: the run was stopped and its state is saved.
            Unsaved: the run was stopped and its state could not be saved.
            LeaseLost: the run was stopped because another worker has the trial.
            Diverged: training met a non-finite loss or gradient.
        """
        config, rungs = run.config, len(run.config.rungs)
        pruned = False
        reported = _reported(trial) if goes_on else ()
        # a worker that dies at a rung has not come to ask
        paused = _is_paused(run, goes_on)
        group, name = trial.study.study_name, str(trial.number)
        states = self._states(trial)
        with run.drawn(self.curves, group=group, name=name, warn=self.log.warning) as curves:
            for evaluation in () if paused else run:
                lease.check()
                if (due := states.due) and states.save(run):
                    lease.got_on(trial.number)
                if evaluation.rung_tokens not in reported:  # otherwise a paused trial had lost its state
                    trial.report(evaluation.val_loss, evaluation.rung_tokens)
                curves.write()
                self.log.info(
                    "rung",
                    rung=len(run.evaluations),
                    rungs=rungs,
                    val_loss=evaluation.val_loss,
                    tokens_per_second=_pace(run),
                    tokens=run.tokens,
                    budget_tokens=config.budget_tokens,
                )
                if not run.finished and self._is_stopped(trial, run, verdict):
                    pruned = True
                    break
                if _is_paused(run, goes_on):
                    paused = True
                    if not due and states.save(run):
                        lease.got_on(trial.number)
                    break
        lease.check()
        if not (run.finished or pruned or paused):
            raise Interrupted if states.save(run) else Unsaved
        at = f"at rung {len(run.evaluations)} of {rungs}"
        ended = f"pruned {at}" if pruned else f"paused {at}" if paused else _complete(trial)
        if paused:
            trial.set_user_attr(artifacts.PAUSES, trial.user_attrs.get(artifacts.PAUSES, 0) + 1)
        val_loss = run.evaluations[-1].val_loss
        with_weights = run.finished and is_among_best(trial.study, val_loss, self.keep_checkpoints)
        self._record(trial, run, ended, with_weights=with_weights)
        self._show(trial, run, config, ended, with_titles=with_weights)
        state = TrialState.PRUNED if pruned else TrialState.RUNNING if paused else TrialState.COMPLETE
        return Outcome(val_loss, state, ended)

    def show_failure(self, trial: optuna.Trial, run: Run | None, config: RunConfig, reason: str) -> None:
        """Show a trial that has failed for this reason as far as it came; without a run where none could be built."""
        if run is not None and run.diagnostics:
            lines = as_lines(run.diagnostics)
            trial_page.tried(
                "diagnostics",
                lambda: artifacts.attach_text(self.store, trial, measurements.DIAGNOSTICS, lines),
                self.log,
            )
        self._show(trial, run, run.config if run else config, reason, with_titles=False)

    def _is_stopped(self, trial: optuna.Trial, run: Run, verdict: Verdict) -> bool:
        """Ask the pruner, of an audited trial until its first verdict, which is noted."""
        if verdict == "not asked for" or audit.MARK in trial.user_attrs or not trial.should_prune():
            return False
        if verdict == "noted":
            rung, last = len(run.evaluations), run.evaluations[-1]
            where = {"rung": rung, "rungs": len(run.config.rungs), "tokens": last.rung_tokens}
            trial.set_user_attr(audit.MARK, {**where, "val_loss": last.val_loss})
            self.log.info("audited", rung=rung, val_loss=last.val_loss)
        return verdict == "carried out"

    def _show(
        self,
        trial: optuna.Trial,
        run: Run | None,
        config: RunConfig,
        ended: str,
        *,
        with_titles: bool,
    ) -> None:
        trial_page.show(
            trial,
            run,
            config,
            ended=ended,
            training=self.training,
            words=self.words,
            device=self.device.description,
            with_titles=with_titles,
            store=self.store,
            log=self.log,
        )

    def _states(self, trial: optuna.Trial) -> SavedStates:
        return SavedStates(self.store, trial, self.log)

    def _record(self, trial: optuna.Trial, run: Run, ended: str, *, with_weights: bool) -> None:
        with together(trial):
            measurements.note_last(trial, run.evaluations[-1], run.diagnostics[-1] if run.diagnostics else {})
            trial.set_user_attr("ended", ended)
            self._attach(trial, run, with_weights=with_weights)

    def _attach(self, trial: optuna.Trial, run: Run, *, with_weights: bool) -> None:
        texts = {
            "config.json": json.dumps(run.config.model_dump(mode="json"), indent=1),
            measurements.CURVE: measurements.curve_lines(run.evaluations),
        }
        if run.diagnostics:
            texts[measurements.DIAGNOSTICS] = as_lines(run.diagnostics)
        missing = [*texts, *(["checkpoint"] if with_weights else [])]
        try:
            for name, text in texts.items():
                artifacts.attach_text(self.store, trial, name, text)
                missing.remove(name)
            if with_weights:
                origin = {"provenance": trial.user_attrs["provenance"], "trial": trial.number}
                artifacts.attach_checkpoint(self.store, trial, partial(run.write_checkpoint, **origin))
        except OSError as error:
            # the loss is worth more than its files: the trial counts, and says what it lacks
            reason = f"{', '.join(missing)} not saved: {error.strerror or error}"
            trial.set_user_attr("artifacts", reason)
            self.log.warning("artifacts not saved", reason=reason)


def _reported(trial: optuna.Trial) -> Collection[int]:
    """The rungs whose losses the trial has, which Optuna takes once."""
    return storage_of(trial.study).get_trial(trial_id_of(trial)).intermediate_values


def _pace(run: Run) -> float:
    """Tokens a second over the last three rungs: those before may have been trained elsewhere, or beside other work."""
    last, before = run.evaluations[-1], run.evaluations[:-1][-3:]
    seconds = last.seconds - before[0].seconds if before else 0.0
    return (last.tokens - before[0].tokens) / seconds if seconds > 0 else last.tokens_per_second


def _is_paused(run: Run, goes_on: GoesOn | None) -> bool:
    return goes_on is not None and bool(run.evaluations) and not goes_on(run)


def _complete(trial: optuna.Trial) -> str:
    mark = trial.user_attrs.get(audit.MARK)
    if mark is None:
        return "complete"
    return f"complete, audited: the pruner said stop at rung {mark['rung']} of {mark['rungs']}"
