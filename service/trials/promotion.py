"""Which trial a worker advances next, in a study whose trials pause, and which ones wait no more.

What is decided (`service.search`) is decided by one reading of the slots and of what their trials have reported, and
holds only if nothing has been claimed since that reading (`service.storage.budget`).
"""

import copy
import dataclasses
import json
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from service.search.halving import Halving
from service.search.problem import Advance, Begun, Decision, Problem, Searcher, State
from service.storage.budget import Reading
from service.storage.claims import Slot
from service.storage.opened_study import OpenedStudy
from service.storage.optuna_private import show_trials
from service.storage.pauses import Pauses
from service.storage.reports import Reported, read_params, read_reports
from service.study.definition import StudyDefinition
from service.study.pruners import AshaConfig
from service.study.search_space import Values
from service.trials.contract import Run
from service.trials.failures import blames_configuration
from service.trials.lease import Lease

Waiting = tuple[Slot, str]
"""A paused trial that has been taken to end it, and why it ends, for people."""


class Promotion:
    """What one worker decides.

    Args:
        opened: the study; its sampler then sees paused trials as it sees pruned ones.
        pauses: the worker's own.
        searcher: decides.
        keep_states: as many trials may wait.
    """

    def __init__(self, opened: OpenedStudy, *, pauses: Pauses, searcher: Searcher, keep_states: int) -> None:
        self._space = opened.definition.space
        self._pauses = pauses
        self._searcher = searcher
        self._keep_states = keep_states
        self._rungs = opened.base_config.rungs
        self._problem = Problem(self._space, self._rungs, opened.definition.seed)
        self._values: dict[int, Values] = {}
        """By trial number."""
        show_trials(opened.study, self._as_pruned)

    def next(self) -> Slot | None:
        """A slot to work in, claimed with the tokens of its next rung; None where there is nothing to be done now."""
        while True:
            seen = self._pauses.budget.read()
            decided = None if seen is None else self._decided(seen, self._begun(seen))
            if seen is None or decided is None:
                return None
            decision, tokens = decided
            if isinstance(decision, Advance):
                slot = self._pauses.promote(seen, decision.number, tokens=tokens)
            else:
                slot = self._pauses.begin(seen, tokens=tokens, point=decision.values)
            # of a claim whose answer was lost there is a slot that is this worker's
            slot = slot or self._pauses.claims.claim()
            if slot is not None:
                return slot

    def goes_on(self, lease: Lease, run: Run) -> bool:
        """Whether a run may train on beyond its last rung; the tokens of the next one are claimed then."""
        if run.evaluations[-1].rung_tokens < (lease.slot.tokens or 0):
            return True
        slot = self._extended(lease.slot)
        lease.slot = slot or lease.slot
        return slot is not None

    def _extended(self, slot: Slot) -> Slot | None:
        """The slot, whose trial has reached its rung, with the tokens of the next one; None where it is to wait."""
        while True:
            seen = self._pauses.budget.read()
            if seen is None:
                return None
            begun = self._begun(seen)
            here = begun[slot.index]
            begun[slot.index] = dataclasses.replace(here, state="paused")
            claimed: int = seen.slots[slot.index].tokens
            if claimed > self._rungs[len(here.losses) - 1]:  # by a call whose answer was lost
                return dataclasses.replace(slot, tokens=claimed)
            decided = self._decided(seen, begun)
            if decided is None or decided[0] != Advance(slot.index):
                return None
            extended = self._pauses.extend(seen, slot, tokens=decided[1])
            if extended is not None:
                return extended
            self._pauses.claims.renew(slot)  # raises LeaseLost where that is why

    def over(self) -> bool:
        """Nothing is being trained, and no decision can be paid for: the study has ended."""
        seen = self._pauses.budget.read()
        return seen is None or not (seen.busy or self._decided(seen, self._begun(seen)))

    def at_the_end(self) -> list[Waiting]:
        """All trials that still wait, to be ended."""
        seen = self._pauses.budget.read()
        return [] if seen is None else self._taken(seen, [row.slot for row in seen.waiting()], "not promoted")

    def too_many(self) -> list[Waiting]:
        """Trials that wait beyond `keep_states`, to be ended: those furthest from the best at their rungs."""
        seen = self._pauses.budget.read()
        if seen is None or len(seen.waiting()) <= self._keep_states:
            return []
        begun = self._begun(seen)

        def share(index: int) -> tuple[float, int]:
            """Of the trials that came so far, that are better."""
            rung, loss = len(begun[index].losses) - 1, begun[index].losses[-1]
            there = [trial.losses[rung] for trial in begun if len(trial.losses) > rung]
            return sum(other < loss for other in there) / len(there), index

        worst_last = sorted((row.slot for row in seen.waiting()), key=share)
        return self._taken(seen, worst_last[self._keep_states :], f"more than {self._keep_states} wait")

    def _taken(self, seen: Reading, indices: Sequence[int], why: str) -> list[Waiting]:
        begun = self._begun(seen)
        taken = ((self._pauses.take(seen.slots[index]), index) for index in indices)
        return [
            (slot, f"paused at rung {len(begun[index].losses)} of {len(self._rungs)}, {why}")
            for slot, index in taken
            if slot is not None
        ]

    def _decided(self, seen: Reading, begun: Sequence[Begun]) -> tuple[Decision, int] | None:
        """What is to be done next, and to how many tokens that trains; None where it cannot be paid for."""
        decision = self._searcher.decide(self._problem, begun)
        if decision is None:
            return None
        passed, claimed = 0, 0
        if isinstance(decision, Advance):
            passed, claimed = len(begun[decision.number].losses), seen.slots[decision.number].tokens
        tokens = self._rungs[passed]
        return (decision, tokens) if tokens - claimed <= seen.left else None

    def _begun(self, seen: Reading) -> list[Begun]:
        slots = self._pauses.claims.slots
        reports = read_reports(slots)
        numbers = {row.trial_number for row in seen.slots if row.trial_number in reports}
        # a trial that has reported has all its parameters
        known = {number: self._values[number] for number in numbers if number in self._values}
        for number, params in read_params(slots, numbers - known.keys()).items():
            known[number] = self._space.decode(params)
            if reports[number].losses:
                self._values[number] = known[number]
        found = []
        for row in seen.slots:
            if row.trial_number not in known:
                found.append(Begun(row.slot, json.loads(row.point) if row.point else {}, (), "running"))
                continue
            trial = reports[row.trial_number]
            losses = tuple(trial.losses[rung] for rung in self._rungs if rung in trial.losses)
            found.append(Begun(row.slot, known[row.trial_number], losses, _state(row.state, trial)))
        return found

    def _as_pruned(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """To a sampler a running trial says nothing, and a pruned one how far it came with which loss."""
        paused = self._pauses.claims.slots.paused_trials()
        return [_pruned(trial) if trial.number in paused else trial for trial in trials]


def promotion_of(opened: OpenedStudy, pauses: Pauses) -> Promotion | None:
    """What decides in a study whose trials pause; None in any other."""
    definition: StudyDefinition = opened.definition
    section = definition.pruner
    if not isinstance(section, AshaConfig):
        return None
    searcher = Halving(reduction_factor=section.reduction_factor, grows=section.grows)
    return Promotion(opened, pauses=pauses, searcher=searcher, keep_states=section.keep_states)


def _pruned(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.RUNNING or trial.last_step is None:
        return trial
    seen = copy.copy(trial)
    seen.state = TrialState.PRUNED
    seen.value = trial.intermediate_values[trial.last_step]
    return seen


def _state(slot: str, trial: Reported) -> State:
    if slot == "paused":
        return "paused"
    if slot != "closed":
        return "running"
    failed = trial.state == TrialState.FAIL or blames_configuration(trial.ended)
    return "failed" if failed else "ended"
