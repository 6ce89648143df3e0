"""Which trial runs in a slot: a new one, or one that resumes that of a dead worker."""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import optuna
import structlog
from optuna.trial import TrialState

from model.errors import ConfigError
from service.storage import added
from service.storage.artifact_stores import Store
from service.storage.claims import Claims, Slot
from service.storage.opened_study import OpenedStudy
from service.storage.optuna_private import FIXED, id_of, running_trial, storage_of, trial_id_of
from service.storage.ownership import SLOT, own_trials, slot_mark, slot_of
from service.storage.slots import SEEN_FAILURE
from service.storage.studies import CONFIRMS
from service.storage.study_storage import together
from service.study import audit
from service.study.definition import StudyDefinition
from service.study.run_config import RunConfig
from service.trials import trial_page
from service.trials.saved_states import STATES, drop_states

FAILURES = 3
"""Of one configuration without progress before it is given up; three times as many where nobody saw why."""
MAX_ATTEMPTS = FAILURES * SEEN_FAILURE
DIED = "its worker died or was cut off"
Drops = Callable[[optuna.Study, StudyDefinition, str, structlog.stdlib.BoundLogger], bool]
"""Whether an arm of a confirmation has lost on earlier seeds; says so in the log."""
NO_SLOT = -1
"""In the mark of a trial that is taken to be refused."""


class Lineages:
    """The trials of a study, each the successor of another one or the first of its line.

    Args:
        opened: the study, with its sampler.
        claims: the worker's own.
        store: where states of trials are.
        drops: says whether a configuration of a confirmation is to run no more.
        log: for what ends here.
    """

    def __init__(
        self,
        opened: OpenedStudy,
        *,
        claims: Claims,
        store: Store,
        drops: Drops,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._study = opened.study
        self._definition = opened.definition
        self._claims = claims
        self._store = store
        self._budget_tokens: int = opened.facts["budget_tokens"]
        self._first_rung = opened.base_config.rungs[0]
        self._log = log
        self._seen_strays: set[int] = set()
        self._drops = drops
        self._drops_losers = CONFIRMS in opened.study.user_attrs
        self._generation = opened.key.generation

    def trial_for(self, slot: Slot) -> tuple[optuna.Trial, Slot] | None:
        """The trial to run in the slot, and the slot with it; None when there is none and the slot has been closed."""
        beyond = bool(self._definition.cells) and slot.index >= len(self._definition.cells)
        if beyond:  # put there by hand
            self._log.warning("slot of no configuration closed", slot=slot.index)
        if beyond or (slot.trial_number is None and self._is_dropped(slot)):
            self._claims.close(slot)
            return None
        previous = None if slot.trial_number is None else self.frozen(slot.trial_number)
        # A worker dies in one of three places. While it trained, its trial is RUNNING and is ended here;
        if previous is not None and previous.state == TrialState.RUNNING:
            if slot.promoted:
                return running_trial(self._study, trial_id_of(previous)), slot
            self._fail(previous, with_attempts(slot.lost or DIED, slot.attempts))
            previous = self.frozen(previous.number)
        # after it had told Optuna and before it closed the slot, the trial counts and only the slot is left to close;
        # between making a trial and noting it in the slot, nothing here knows of the trial: see `fail_strays`
        if previous is not None and previous.state.is_finished() and previous.state != TrialState.FAIL:
            self._claims.close(slot)
            return None
        attempts = slot.attempts
        if previous is not None and attempts >= MAX_ATTEMPTS:
            self._log.warning("configuration given up", trial=previous.number, attempts=attempts)
            drop_states(self._store, previous)
            if self._definition.cells or self._definition.fixed_values(slot.index) is not None:
                self._claims.close(slot)  # a fixed configuration has no other to take its place
                return None
            previous, attempts = None, 0  # the slot is still owed a trial, of another configuration
            if slot.tokens is not None:
                slot = self._claims.restart(slot, tokens=self._first_rung)
        trial = self._new_trial(slot, previous)
        return trial, self._claims.set_trial(slot, trial.number, attempts=attempts)

    def _is_dropped(self, slot: Slot) -> bool:
        """The slot is of a confirmation, and its configuration has lost on earlier seeds."""
        if not self._drops_losers:
            return False
        arm = self._definition.arms[slot.index]
        return self._drops(self._study, self._definition, arm, self._log)

    def _new_trial(self, slot: Slot, previous: optuna.trial.FrozenTrial | None) -> optuna.Trial:
        attributes = slot_mark(self._generation, slot.index)
        if self._definition.arms:
            attributes["arm"] = self._definition.arms[slot.index]
        if previous is not None:
            # A trial that has ended cannot run again in Optuna: its successor has its parameters, so that no sampler
            # is asked anew, its states, and its audit mark, so that the pruner's verdict is not asked for twice
            handed_on = (STATES, audit.MARK)
            kept = {key: previous.user_attrs[key] for key in handed_on if key in previous.user_attrs}
            attributes |= {**kept, "goes_on_with": previous.number}
            return self._create(previous.params, attributes, fixed=previous.system_attrs.get(FIXED))
        values = self._definition.fixed_values(slot.index)
        if values is None:
            # what a person asks for goes before what a searcher has decided to begin
            if (enqueued := self.take_enqueued(slot)) is not None:
                return enqueued
            values = {} if slot.point is None else json.loads(slot.point)
        space = self._definition.space
        params = space.encode({key: value for key, value in values.items() if key in space.parameters})
        return self._create(params, attributes)

    def _create(
        self, params: Mapping[str, Any], attributes: Mapping[str, Any], *, fixed: Any = None
    ) -> optuna.Trial:
        """A running trial with these parameters; `fixed` are values for those that it has not suggested yet."""
        distributions = self._definition.space.distributions
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions={key: distributions[key] for key in params},
            user_attrs=dict(attributes),
            system_attrs={} if fixed is None else {FIXED: fixed},
        )
        trial_id = storage_of(self._study).create_new_trial(id_of(self._study), template_trial=template)
        return running_trial(self._study, trial_id)

    def take_enqueued(self, slot: Slot | None = None) -> optuna.Trial | None:
        """The first enqueued trial, to run in the slot; those outside the space are refused on the way.

        Args:
            slot: free, and of no configuration of its own; with None there is none, and trials are only refused.
        """
        storage = storage_of(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            try:
                fixed = added.enqueued_point(trial, self._definition)
            except ConfigError as error:
                self._refuse(trial, str(error))
                continue
            if slot is not None and self._take(trial, slot.index):
                storage.set_trial_system_attr(trial_id_of(trial), FIXED, fixed)
                self._log.info("enqueued trial taken", trial=trial.number)
                return running_trial(self._study, trial_id_of(trial))
        return None

    def _take(self, trial: optuna.trial.FrozenTrial, slot: int) -> bool:
        """Whether the waiting trial is this worker's; it is marked before, so that it is known for a stray if not."""
        storage = storage_of(self._study)
        try:
            for key, value in slot_mark(self._generation, slot).items():
                storage.set_trial_user_attr(trial_id_of(trial), key, value)
            return storage.set_trial_state_values(trial_id_of(trial), TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False

    def _refuse(self, trial: optuna.trial.FrozenTrial, reason: str) -> None:
        if self._take(trial, NO_SLOT):
            self._log.warning("enqueued trial refused", trial=trial.number, reason=reason)
            self._fail(trial, f"refused: {reason}")

    def config_for(self, trial: optuna.Trial, slot: Slot) -> RunConfig:
        """What the trial trains; the sampler is asked here. Raises ConfigError."""
        values = self._definition.fixed_values(slot.index)
        if values is None:
            with together(trial):
                values = self._definition.space.suggest(trial)
        config = self._definition.config_for(values)
        return config if self._definition.own_budgets else config.with_tokens(self._budget_tokens)

    def frozen(self, number: int) -> optuna.trial.FrozenTrial:
        """The trial of this number as the storage has it."""
        storage = storage_of(self._study)
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(id_of(self._study), number))

    def fail_strays(self) -> bool:
        """FAIL what is RUNNING in no slot: its worker died between making the trial and noting it.

        Returns:
            Whether there may be some left: a trial has to be met twice, a second apart, to be taken for one.
        """
        held = self._claims.slots.trials_in_progress()
        for trial in self._strays(held):
            if trial.number in self._seen_strays and self._fail(trial, DIED):
                self._enqueue_again(trial)
        self._seen_strays = {trial.number for trial in self._strays(held)}
        return bool(self._seen_strays)

    def _strays(self, held: Collection[int]) -> list[optuna.trial.FrozenTrial]:
        """Running trials of workers of this study that are in none of its slots. What others run here is theirs."""
        return [t for t in own_trials(self._study, TrialState.RUNNING) if t.number not in held]

    def _enqueue_again(self, trial: optuna.trial.FrozenTrial) -> None:
        """What somebody has asked for is not lost with the worker that took it."""
        trial = self.frozen(trial.number)  # of a running one not all has been read
        refused = slot_of(trial, self._generation) == NO_SLOT
        if FIXED in trial.system_attrs and not refused and "goes_on_with" not in trial.user_attrs:
            attributes = {key: value for key, value in trial.user_attrs.items() if key != SLOT}
            self._study.enqueue_trial(trial.system_attrs[FIXED], attributes)

    def _fail(self, trial: optuna.trial.FrozenTrial, reason: str) -> bool:
        """Whether it has been ended here."""
        try:
            storage_of(self._study).set_trial_user_attr(trial_id_of(trial), "ended", reason)
            self._study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            self._log.info("trial ended by its own worker after all", trial=trial.number)
            return False
        words = self._definition.words
        trial_page.show_dead(self._study, self.frozen(trial.number), ended=reason, words=words, log=self._log)
        return True


def with_attempts(reason: str, attempts: int) -> str:
    """The reason of a failure, with what follows from the number of failures without progress before it."""
    if attempts >= MAX_ATTEMPTS:
        counted = f"{FAILURES} failures (an end that nobody saw counts a third)"
        return f"{reason}; given up, having got no further in {counted}"
    return reason
