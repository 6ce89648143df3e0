"""What a worker may do with the slots of a study whose trials pause: begin, advance by a rung, pause, end.

A paused trial keeps its slot, which has no holder then, and its saved state; for Optuna it is still running. Whoever
advances it takes the slot and the tokens of the next rung in one transaction (`service.storage.budget`).
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from service.storage.budget import Budget, Reading, changed
from service.storage.claims import Claims, Slot
from service.storage.schema import SLOTS


@dataclass(frozen=True)
class Pauses:
    """The slots of one worker's study, as it may pause and advance their trials."""

    claims: Claims

    @property
    def budget(self) -> Budget:
        """Of the study."""
        return Budget(self.claims.slots)

    def begin(
        self, seen: Reading, *, tokens: int, point: dict[str, Any] | None, price: float | None = None
    ) -> Slot | None:
        """A new slot, leased to this owner.

        Args:
            seen: what was decided by; None is the answer where somebody has claimed since.
            tokens: of the first rung.
            point: the values that its trial is to have; None leaves them to the sampler.
            price: of a token, where the budget is in another unit; None where nothing is known of it.
        """
        study, index = self.claims.slots.study, len(seen.slots)
        text = None if point is None else json.dumps(point)
        new = SLOTS.insert().values(
            study_id=study.study_id,
            generation=study.generation,
            slot=index,
            point=text,
            price=price,
            **self._leased(tokens),
        )
        if not self.budget.claim(seen, new):
            return None
        return Slot(index, None, 0, None, tokens=tokens, point=text)

    def promote(self, seen: Reading, index: int, *, tokens: int) -> Slot | None:
        """The slot of a paused trial, leased to this owner, to be trained to `tokens`; None as with `begin`."""
        row = seen.slots[index]
        paused = (SLOTS.c.slot == index) & (SLOTS.c.state == "paused")
        if not self.budget.claim(seen, changed(self.claims.slots, paused, **self._leased(tokens))):
            return None
        return Slot(index, row.trial_number, row.attempts, None, tokens=tokens, promoted=True)

    def settle(self, seen: Reading, slot: Slot, *, tokens: int, price: float) -> bool:
        """Have the slot, which this owner holds, count so many tokens at a price; False as None with `begin`."""
        return self.budget.claim(
            seen, changed(self.claims.slots, self._held(slot), tokens=tokens, price=price)
        )

    def measured(self, slot: Slot, *, price: float) -> None:
        """Note what a token has cost so far in the slot; without effect where this owner does not hold it any more."""
        self.claims.slots.swap(self._held(slot), price=price)

    def extend(self, seen: Reading, slot: Slot, *, tokens: int) -> Slot | None:
        """The slot, which this owner holds, to be trained to `tokens`; None as with `begin`."""
        if not self.budget.claim(seen, changed(self.claims.slots, self._held(slot), **self._leased(tokens))):
            return None
        return replace(slot, tokens=tokens)

    def take(self, row: Any) -> Slot | None:
        """The slot of a paused trial, leased to this owner, to end the trial; None where it is paused no more."""
        paused = (SLOTS.c.slot == row.slot) & (SLOTS.c.state == "paused")
        if not self.claims.slots.swap(paused, **self._leased(row.tokens)):
            return None
        return Slot(row.slot, row.trial_number, row.attempts, None, tokens=row.tokens, promoted=True)

    def _held(self, slot: Slot) -> sa.ColumnElement[bool]:
        leased = (SLOTS.c.slot == slot.index) & (SLOTS.c.state == "leased")
        return leased & (SLOTS.c.owner == self.claims.owner)

    def _leased(self, tokens: int) -> dict[str, Any]:
        until = self.claims.slots.now + self.claims.lease_seconds
        return {"state": "leased", "owner": self.claims.owner, "leased_until": until, "tokens": tokens}
