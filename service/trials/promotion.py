"""Which trial a worker advances next, in a study whose trials pause, and which ones wait no more.

What is decided (`service.search`) is decided by one reading of the slots and of what their trials have reported, and
holds only if nothing has been claimed since that reading (`service.storage.budget`).
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import structlog
from optuna.trial import FrozenTrial, TrialState

from service.search.halving import Halving
from service.search.problem import Advance, Begin, Decision, Problem, Searcher, Stop, same_price
from service.storage.budget import Reading
from service.storage.claims import Slot
from service.storage.opened_study import OpenedStudy
from service.storage.optuna_private import show_trials
from service.storage.pauses import Pauses
from service.study.definition import StudyDefinition
from service.study.pruners import AshaConfig
from service.study.run_config import RunConfig
from service.study.samplers import ThawConfig
from service.study.search_space import Values
from service.study.spend import unit_of
from service.trials.contract import Run
from service.trials.failures import Unpaid
from service.trials.knowledge import Knowledge, Known
from service.trials.lease import Lease

if TYPE_CHECKING:
    from service.search.earlier import Earlier

Waiting = tuple[Slot, str]
"""A paused trial that has been taken to end it, and why it ends, for people."""
UNPAID = "what is left pays for no rung of what the search would train next"
_WITHOUT_MODEL = Halving()
"""Decides where a searcher's model fails."""


class Promotion:
    """What one worker decides.

    Args:
        opened: the study; its sampler then sees paused trials as it sees pruned ones.
        pauses: the worker's own.
        searcher: decides.
        earlier: what other studies make the searcher expect.
        overruled: decides once the searcher has stopped and was asked to go on.
        keep_states: as many trials may wait.
        log: where decisions go that are not the searcher's.
    """

    def __init__(
        self,
        opened: OpenedStudy,
        *,
        pauses: Pauses,
        searcher: Searcher,
        overruled: Searcher,
        earlier: "tuple[Earlier, ...]" = (),
        keep_states: int,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._log, self._pauses = log, pauses
        self._searcher, self._overruled = searcher, overruled
        self._keep_states = keep_states
        self._in_seconds = unit_of(opened.definition.spend) == "seconds"
        self._rungs = opened.base_config.rungs
        self._prices = opened.prices
        self._problem = Problem(
            opened.definition.space,
            self._rungs,
            opened.definition.seed,
            price=same_price if self._prices is None else self._relative_price,
            earlier=earlier,
        )
        self._knowledge = Knowledge(opened.definition, pauses.budget, self._rungs)
        show_trials(opened.study, self._as_pruned)

    def next(self) -> Slot | None:
        """A slot to work in, claimed with the tokens of its next rung; None where there is nothing to be done now."""
        while True:
            known = self._knowledge.read()
            decided = None if known is None else self._decided(known)
            if known is None or decided is None:
                return None
            decision, tokens = decided
            seen, slot = known.seen, None
            if isinstance(decision, Stop):
                if self._pauses.budget.stop(seen, decision.why, _told(known, len(self._rungs), decision)):
                    self._log.info("the search stops", reason=decision.why)
            elif isinstance(decision, Advance):
                slot = self._pauses.promote(seen, decision.number, tokens=tokens)
            else:
                price = self._price(seen, decision)
                slot = self._pauses.begin(seen, tokens=tokens, price=price, point=decision.values)
            # of a claim whose answer was lost there is a slot that is this worker's
            slot = slot or self._pauses.claims.claim()
            if slot is not None:
                return slot

    def goes_on(self, lease: Lease, run: Run) -> bool:
        """Whether a run may train on beyond its last rung; the tokens of the next one are claimed then."""
        if self._in_seconds:
            last = run.evaluations[-1]
            self._pauses.measured(lease.slot, price=last.seconds / last.rung_tokens)
        if run.finished:
            return True
        if run.evaluations[-1].rung_tokens < (lease.slot.tokens or 0):
            return True
        slot = self._extended(lease.slot)
        lease.slot = slot or lease.slot
        return slot is not None

    def _extended(self, slot: Slot) -> Slot | None:
        """The slot, whose trial has reached its rung, with the tokens of the next one; None where it is to wait."""
        while True:
            known = self._knowledge.read()
            if known is None:
                return None
            seen, here = known.seen, known.begun[slot.index]
            known.begun[slot.index] = dataclasses.replace(here, state="paused")
            claimed: int = seen.slots[slot.index].tokens
            if claimed > self._rungs[len(here.losses) - 1]:  # by a call whose answer was lost
                return dataclasses.replace(slot, tokens=claimed)
            decided = self._decided(known)
            if decided is None or decided[0] != Advance(slot.index):
                return None
            extended = self._pauses.extend(seen, slot, tokens=decided[1])
            if extended is not None:
                return extended
            self._pauses.claims.renew(slot)  # raises LeaseLost where that is why

    def settle(self, slot: Slot, config: RunConfig) -> None:
        """See that what is claimed for the slot is what its configuration costs, as soon as that is known.

        Raises:
            Unpaid: there is not as much left.
            LeaseLost: another worker has the slot.
        """
        while self._prices is not None and (seen := self._pauses.budget.read()) is not None:
            price, row = self._prices.of_config(config), seen.slots[slot.index]
            if row.price == price:
                return
            is_paid = seen.cost(row.tokens, price) - seen.cost(row.tokens, row.price) <= seen.left
            if self._pauses.settle(seen, slot, tokens=row.tokens if is_paid else 0, price=price):
                if is_paid:
                    return
                raise Unpaid(
                    "not trained: what is left of the study's budget does not pay for its first rung"
                )
            self._pauses.claims.renew(slot)  # raises LeaseLost where that is why

    def over(self) -> bool:
        """Nothing is being trained, and no decision can be paid for: the study has ended."""
        known = self._knowledge.read()
        return known is None or not (known.seen.busy or self._decided(known))

    def at_the_end(self) -> list[Waiting]:
        """All trials that still wait, to be ended."""
        if (known := self._knowledge.read()) is None:
            return []
        seen = known.seen
        price = seen.price_of_new(self._prices.of_base if self._prices else None)
        if seen.left and seen.unit != "tokens" and seen.left >= seen.cost(self._rungs[0], price):
            # as much as is taken for a rung, and what the search would train next costs more
            self._pauses.budget.stop(seen, UNPAID, seen.forecast)
        return self._taken(known, [row.slot for row in seen.waiting()], "not promoted")

    def too_many(self) -> list[Waiting]:
        """Trials that wait beyond `keep_states`, to be ended: those furthest from the best at their rungs."""
        seen = self._pauses.budget.read()
        if (
            seen is None
            or len(seen.waiting()) <= self._keep_states
            or (known := self._knowledge.read()) is None
        ):
            return []
        begun = [trial for trial in known.begun if not trial.skipped]

        def share(index: int) -> tuple[float, int]:
            """Of the trials that came so far, that are better."""
            rung, loss = len(begun[index].losses) - 1, begun[index].losses[-1]
            there = [trial.losses[rung] for trial in begun if len(trial.losses) > rung]
            return sum(other < loss for other in there) / len(there), index

        worst_last = sorted((row.slot for row in known.seen.waiting()), key=share)
        return self._taken(known, worst_last[self._keep_states :], f"more than {self._keep_states} wait")

    def _taken(self, known: Known, indices: Sequence[int], why: str) -> list[Waiting]:
        taken = ((self._pauses.take(known.seen.slots[index]), index) for index in indices)
        return [
            (slot, f"paused at rung {known.begun[index].passed} of {len(self._rungs)}, {why}")
            for slot, index in taken
            if slot is not None
        ]

    def _decided(self, known: Known) -> tuple[Decision, int] | None:
        """What is to be done next, and to how many tokens that trains; None: to wait, or no tokens for it."""
        seen = known.seen
        if seen.stopped is not None:
            return None
        decision = known.due or self._decision(known)
        if decision is None or isinstance(decision, Stop):
            return None if decision is None else (decision, 0)
        passed, claimed = 0, 0
        if isinstance(decision, Advance):
            passed, claimed = known.begun[decision.number].passed, seen.slots[decision.number].tokens
        tokens = self._rungs[passed]
        cost = seen.cost(tokens - claimed, self._price(seen, decision))
        return (decision, tokens) if seen.left and cost <= seen.left else None

    def _price(self, seen: Reading, decision: Advance | Begin) -> float | None:
        """What a token of the next rung costs, where the budget is in another unit."""
        if isinstance(decision, Advance):
            price: float | None = seen.slots[decision.number].price
            return price
        if self._prices is None:
            return seen.price_of_new(None)
        known = self._prices.of(decision.values or {})
        return seen.price_of_new(self._prices.of_base) if known is None else known

    def _relative_price(self, values: Values) -> float:
        assert self._prices is not None
        return (self._prices.of(values) or self._prices.of_base) / self._prices.of_base

    def _tokens_left(self, seen: Reading) -> float:
        """Of the base configuration, or of a usual one; as many as one likes where that is not known."""
        price = self._prices.of_base if self._prices else seen.likely_price if self._in_seconds else 1
        return seen.left / price if price else math.inf

    def _decision(self, known: Known) -> Decision | None:
        left = self._tokens_left(known.seen)
        searcher = self._searcher if known.seen.overruled in (None, UNPAID) else self._overruled
        try:
            return searcher.decide(self._problem, known.begun, left)
        except (np.linalg.LinAlgError, FloatingPointError) as error:
            self._log.warning("the model of losses failed, successive halving decides", reason=str(error))
            return _WITHOUT_MODEL.decide(self._problem, known.begun, left)

    def _as_pruned(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """To a sampler a running trial says nothing, and a pruned one how far it came with which loss."""
        paused = self._pauses.claims.slots.paused_trials()
        return [_pruned(trial) if trial.number in paused else trial for trial in trials]


def promotion_of(
    opened: OpenedStudy, pauses: Pauses, *, log: structlog.stdlib.BoundLogger
) -> Promotion | None:
    """What decides in a study whose trials pause; None in any other."""
    definition: StudyDefinition = opened.definition
    searcher: Searcher
    overruled: Searcher
    earlier: tuple[Earlier, ...] = ()
    match definition.sampler, definition.pruner:
        case ThawConfig() as section, _:
            # bring scipy's optimizers, which no other study needs
            from service.search.thaw import Thaw
            from service.trials.earlier_studies import earlier_studies, when_to_stop

            earlier = earlier_studies(opened, section.prior, log=log)
            overruled = Thaw(startup=section.startup_trials)
            searcher = Thaw(startup=section.startup_trials, **when_to_stop(opened, log=log))
        case _, AshaConfig() as section:
            searcher = overruled = Halving(reduction_factor=section.reduction_factor, grows=section.grows)
        case _:
            return None
    return Promotion(
        opened,
        pauses=pauses,
        searcher=searcher,
        overruled=overruled,
        earlier=earlier,
        keep_states=section.keep_states,
        log=log,
    )


def _told(known: Known, rungs: int, decision: Stop) -> dict[str, float] | None:
    """What was forecast, and what there was then to hold what comes against."""
    if decision.forecast is None:
        return None
    whole, found = [t.losses[-1] for t in known.begun if t.passed == rungs], decision.forecast
    told = {"trials": found.trials, "ahead": found.ahead, "low": found.low, "high": found.high}
    return {**told, "whole": len(whole), "best": min(whole)}


def _pruned(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.RUNNING or trial.last_step is None:
        return trial
    seen = copy.copy(trial)
    seen.state = TrialState.PRUNED
    seen.value = trial.intermediate_values[trial.last_step]
    return seen
