"""One trial: build the configuration, train, report at every rung, prune or finish, record."""

import contextlib
import dataclasses
import json
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import structlog
from optuna.artifacts.exceptions import ArtifactNotFound

from model.config.counts import flops_per_token, parameter_count, passes_per_token
from model.config.train_config import TrainConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from model.errors import CheckpointError
from model.hardware.device import Device
from model.measurement.diagnostics import as_lines
from model.measurement.sinks import Curves
from model.training import TrainingRun
from service.storage import artifacts
from service.storage.artifact_stores import Store, fetch
from service.storage.claims import LeaseLost
from service.storage.outages import StorageAwayError
from service.study import audit
from service.trials import provenance, trial_page
from service.trials.failures import Interrupted, Unsaved, classify

STATES = "states"
"""Trial attribute: artifact ids of saved states, the newest last; handed on to the trial that goes on."""

DIAGNOSTICS = "diagnostics.jsonl"
"""Artifact: what a trial measured of itself."""


@dataclass(frozen=True)
class Outcome:
    """How a trial that was not disturbed ended."""

    val_loss: float
    pruned: bool
    ended: str
    """For people: `complete`, `pruned at rung 4 of 8`, `complete, audited: ...`."""


@dataclass(frozen=True)
class Custody:
    """What a trial asks its worker, and lets it know, while it runs."""

    watch: Callable[[TrainingRun], None]
    """Given the run before it starts, so that a signal or a lost lease can stop it."""
    check_lease: Callable[[], None]
    """Called before anything is recorded; raises LeaseLost."""
    saved: Callable[[], None]
    """Called when a state has been saved from which the trial can be gone on with."""
    keeps_weights: Callable[[float], bool]
    """Whether a finished trial of this loss is good enough for its weights to be stored."""
    audited: bool
    """The pruner's verdict is noted and not carried out."""


@dataclass(frozen=True)
class TrialRunner:
    """What all trials of a worker share."""

    store: Store
    corpus: Corpus
    cache: Path
    curves: Path
    """Folder for TensorBoard and Weights & Biases."""
    device: Device
    log: structlog.stdlib.BoundLogger

    def run(self, trial: optuna.Trial, config: TrainConfig, custody: Custody) -> Outcome:
        """Train `config` as `trial`, from the newest saved state in its attributes, if there is one.

        Args:
            trial: a running trial; its reports, attributes and artifacts are written here, its end is not.
            config: what to train.
            custody: of the trial, as its worker has it.

        Raises:
            Interrupted: the run was stopped and its state is saved.
            Unsaved: the run was stopped and its state could not be saved.
            LeaseLost: the run was stopped because another worker has the trial.
            Diverged: training met a non-finite loss or gradient.
        """
        runs: list[TrainingRun] = []

        def remember(run: TrainingRun) -> None:
            runs.append(run)
            custody.watch(run)

        trial_page.reset_peak_memory()
        try:
            return self._train(trial, config, dataclasses.replace(custody, watch=remember))
        except (LeaseLost, StorageAwayError, optuna.exceptions.UpdateFinishedTrialError):
            raise  # the trial is not this worker's to write to any more, or cannot be
        except Exception as error:
            run = runs[0] if runs else None
            if run is not None and run.diagnostics:
                with contextlib.suppress(OSError):
                    artifacts.attach_text(self.store, trial, DIAGNOSTICS, as_lines(run.diagnostics))
            reason = classify(error, device_answers=self.device.answers()).reason
            self._show(trial, run, run.config if run else config, reason, with_titles=False)
            raise

    def _train(self, trial: optuna.Trial, config: TrainConfig, custody: Custody) -> Outcome:
        data = TokenizedCorpus.prepare(self.corpus, config.tokenizer, cache=self.cache)
        run = self._begun(trial, config, data)
        config = run.config
        trial.set_user_attr("config", config.model_dump(mode="json"))
        trial.set_user_attr("train_tokens", data.split("train").n_tokens)
        trial.set_user_attr("parameters", parameter_count(config))
        trial.set_user_attr("passes_per_token", passes_per_token(config))
        trial.set_user_attr("flops_per_token", flops_per_token(config))
        facts = provenance.collect(
            device=self.device.description,
            corpus_fingerprint=self.corpus.fingerprint,
            precision=run.precision.name,
        )
        trial.set_user_attr("provenance", facts)
        for evaluation in run.evaluations:  # of the trials that it goes on with
            trial.report(evaluation.val_loss, evaluation.rung_tokens)
        custody.watch(run)
        rungs = len(config.rungs)
        pruned = False
        with self._drawn(trial, run) as curves:
            for evaluation in run:
                custody.check_lease()
                if self._save_state(trial, run):
                    custody.saved()
                trial.report(evaluation.val_loss, evaluation.rung_tokens)
                curves.write()
                self.log.info(
                    "rung",
                    rung=len(run.evaluations),
                    rungs=rungs,
                    val_loss=evaluation.val_loss,
                    tokens_per_second=evaluation.tokens_per_second,
                    tokens=run.tokens,
                    budget_tokens=config.budget_tokens,
                )
                if not run.finished and self._is_stopped(trial, run, audited=custody.audited):
                    pruned = True
                    break
        custody.check_lease()
        if not run.finished and not pruned:
            raise Interrupted if self._save_state(trial, run) else Unsaved
        ended = f"pruned at rung {len(run.evaluations)} of {rungs}" if pruned else _complete(trial)
        with_weights = not pruned and custody.keeps_weights(run.evaluations[-1].val_loss)
        self._record(trial, run, ended, facts, with_weights=with_weights)
        self._show(trial, run, config, ended, with_titles=with_weights)
        return Outcome(run.evaluations[-1].val_loss, pruned, ended)

    def _is_stopped(self, trial: optuna.Trial, run: TrainingRun, *, audited: bool) -> bool:
        """Ask the pruner, of an audited trial until its first verdict, which is noted."""
        if audit.MARK in trial.user_attrs or not trial.should_prune():
            return False
        if audited:
            rung, last = len(run.evaluations), run.evaluations[-1]
            where = {"rung": rung, "rungs": len(run.config.rungs), "tokens": last.rung_tokens}
            trial.set_user_attr(audit.MARK, {**where, "val_loss": last.val_loss})
            self.log.info("audited", rung=rung, val_loss=last.val_loss)
        return not audited

    def _drawn(self, trial: optuna.Trial, run: TrainingRun) -> Curves:
        return Curves(
            run, self.curves, group=trial.study.study_name, name=str(trial.number), warn=self.log.warning
        )

    def _show(
        self,
        trial: optuna.Trial,
        run: TrainingRun | None,
        config: TrainConfig,
        ended: str,
        *,
        with_titles: bool,
    ) -> None:
        trial_page.show(
            trial,
            run,
            config,
            ended=ended,
            device=self.device.description,
            with_titles=with_titles,
            store=self.store,
            log=self.log,
        )

    def _begun(self, trial: optuna.Trial, config: TrainConfig, data: TokenizedCorpus) -> TrainingRun:
        """The trial's run, from the newest of its saved states that can be used, or else from its beginning."""
        states: list[str] = trial.user_attrs.get(STATES, [])
        for state in reversed(states):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "state.safetensors"
                try:
                    fetch(self.store, state, path)
                    run = TrainingRun.resumed(path, config, data, device=self.device)
                except (ArtifactNotFound, CheckpointError, OSError) as error:
                    self.log.warning("saved state not usable", reason=str(error))
                    continue
            self.log.info("resumed", step=run.step, rung=len(run.evaluations))
            return run
        return TrainingRun(config, data, device=self.device)

    def _save_state(self, trial: optuna.Trial, run: TrainingRun) -> bool:
        """Save the run's state under an id of this trial's own, so that no other attempt can overwrite it.

        Returns:
            Whether it is saved.
        """
        states: list[str] = trial.user_attrs.get(STATES, [])
        own = next((state for state in states if state.endswith(f"-{trial.number}")), None)
        name = own or f"state-{uuid.uuid4()}-{trial.number}"
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "state.safetensors"
                run.save(path)
                with path.open("rb") as file:
                    self.store.write(name, file)
        except OSError as error:
            self.log.warning("state not saved, an interruption would cost more", reason=str(error))
            return False
        if own is None:
            trial.set_user_attr(STATES, [*states, name])
        return True

    def _record(
        self, trial: optuna.Trial, run: TrainingRun, ended: str, facts: dict[str, Any], *, with_weights: bool
    ) -> None:
        last = run.evaluations[-1].as_dict() | (run.diagnostics[-1] if run.diagnostics else {})
        for key, value in last.items():
            if isinstance(value, int | float):
                trial.set_user_attr(key, value)
        trial.set_user_attr("ended", ended)
        texts = {
            "config.json": json.dumps(run.config.model_dump(mode="json"), indent=1),
            "curve.jsonl": artifacts.curve_lines(run.evaluations),
        }
        if run.diagnostics:
            texts[DIAGNOSTICS] = as_lines(run.diagnostics)
        missing = [*texts, *(["checkpoint"] if with_weights else [])]
        try:
            for name, text in texts.items():
                artifacts.attach_text(self.store, trial, name, text)
                missing.remove(name)
            if with_weights:
                checkpoint = run.checkpoint(provenance=facts, trial=trial.number)
                artifacts.attach_checkpoint(self.store, trial, checkpoint)
        except OSError as error:
            # the loss is worth more than its files: the trial counts, and says what it lacks
            reason = f"{', '.join(missing)} not saved: {error.strerror or error}"
            trial.set_user_attr("artifacts", reason)
            self.log.warning("artifacts not saved", reason=reason)


def _complete(trial: optuna.Trial) -> str:
    mark = trial.user_attrs.get(audit.MARK)
    if mark is None:
        return "complete"
    return f"complete, audited: the pruner said stop at rung {mark['rung']} of {mark['rungs']}"


def drop_states(store: Store, trial: optuna.trial.FrozenTrial) -> None:
    """Remove the saved states of a finished trial; a store that is away keeps them."""
    with contextlib.suppress(OSError):
        for state in trial.user_attrs.get(STATES, []):
            store.remove(state)
