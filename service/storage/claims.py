"""The slots that one worker holds: it leases a free one, renews the lease while it trains, and closes it.

A worker that dies stops renewing, and when the lease has run out another one leases the slot and resumes its trial.
"""

from dataclasses import dataclass, replace
from typing import Any

from service.storage.schema import SLOTS as _SLOTS
from service.storage.schema import at_once
from service.storage.slots import Slots

CANDIDATES = 16
"""Free slots looked at in one query: a worker that loses the race for the first takes the next one."""
UNSEEN_END = 1
"""What it counts when a worker vanishes, where a failure that was seen counts `slots.SEEN_FAILURE`: it may be its
configuration's doing, or its machine's, its network's or its storage's, which take trials with them that are not to
blame."""


@dataclass(frozen=True)
class Slot:
    """A slot as its holder leased it."""

    index: int
    trial_number: int | None
    """The trial to resume; None for a new one."""
    attempts: int
    """How often its configuration has failed since its trial last got on."""
    lost: str | None
    """Why its last holder lost it, where that is known."""
    tokens: int | None = None
    """To which its trial is trained now, in a study whose trials pause; None in any other."""
    point: str | None = None
    """The values that its trial is to have, as JSON; None: the study's file or sampler says."""
    promoted: bool = False
    """Its trial was paused, and goes on as the same one."""


class LeaseLost(Exception):  # noqa: N818 - an outcome, not a fault
    """Another worker has the slot now; what this one still holds of it must not be recorded."""


@dataclass(frozen=True)
class Claims:
    """What one process may do with the slots of a study."""

    slots: Slots
    owner: str
    """The process's name, like no other's anywhere."""
    lease_seconds: float
    """For which a slot is leased."""

    @property
    def impatient(self) -> "Claims":
        """The same, an outage of the database being raised at once."""
        return replace(self, slots=replace(self.slots, patience=at_once))

    def claim(self) -> Slot | None:
        """A slot leased to this owner, those with a trial to resume first; None when none is free now.

        For an owner that works in no slot: one that is leased to it all the same, because the database went
        away before it could say so, is free to it.
        """
        own = _SLOTS.c.owner == self.owner
        # the lease is compared with the database's clock, by which it was written: the machines' need not agree
        free = (_SLOTS.c.state == "open") | (
            (_SLOTS.c.state == "leased") & ((_SLOTS.c.leased_until < self.slots.now) | own)
        )
        while True:
            rows = self.slots.rows(free, first=CANDIDATES)
            if not rows:
                return None
            for row in rows:
                died = row.state == "leased" and row.owner != self.owner  # without a word
                attempts = row.attempts + UNSEEN_END if died else row.attempts
                # state and owner as they were read: of several workers that saw the slot free, the first one's UPDATE
                # changes what the others' look for. An owner may be NULL, which equals nothing, itself included
                swapped = self.slots.swap(
                    (_SLOTS.c.slot == row.slot)
                    & (_SLOTS.c.state == row.state)
                    & _SLOTS.c.owner.is_not_distinct_from(row.owner)
                    & free,
                    state="leased",
                    owner=self.owner,
                    leased_until=self.slots.now + self.lease_seconds,
                    attempts=attempts,
                    lost=None,
                )
                if swapped:
                    return Slot(
                        row.slot, row.trial_number, attempts, row.lost, tokens=row.tokens, point=row.point
                    )

    def renew(self, slot: Slot) -> None:
        """Keep the slot for another lease. Raises LeaseLost when another worker has it."""
        self._update_own(slot, leased_until=self.slots.now + self.lease_seconds)

    def set_trial(self, slot: Slot, trial_number: int, *, attempts: int) -> Slot:
        """Note which trial runs in the slot; the slot as it is now. Raises LeaseLost when another worker has it."""
        self._update_own(slot, trial_number=trial_number, attempts=attempts)
        return replace(slot, trial_number=trial_number, attempts=attempts)

    def restart(self, slot: Slot, *, tokens: int) -> Slot:
        """Give the slot to another configuration, which is trained to `tokens` at first; what it had is given back.

        Raises LeaseLost when another worker has it.
        """
        self._update_own(slot, trial_number=None, attempts=0, tokens=tokens, point=None)
        return replace(slot, trial_number=None, attempts=0, tokens=tokens, point=None)

    def pause(self, slot: Slot) -> None:
        """Its trial waits at its rung. Raises LeaseLost when another worker has it."""
        self._update_own(slot, or_state="paused", state="paused", leased_until=None)

    def hand_back(self, slot: Slot, *, attempts: int) -> None:
        """Free the slot for whoever comes next. Raises LeaseLost when another worker has it."""
        self._update_own(slot, state="open", owner=None, leased_until=None, attempts=attempts)

    def close(self, slot: Slot) -> None:
        """Its trial has finished. Raises LeaseLost when another worker has it."""
        # the owner stays: a call that is made again, its answer having been lost, finds its own closed slot
        self._update_own(slot, or_state="closed", state="closed", leased_until=None)

    def _update_own(self, slot: Slot, *, or_state: str = "leased", **values: Any) -> None:
        """`or_state`: a state that the very same call may have left behind before its answer was lost."""
        own = (
            (_SLOTS.c.slot == slot.index)
            & (_SLOTS.c.owner == self.owner)
            & _SLOTS.c.state.in_({"leased", or_state})
        )
        if not self.slots.swap(own, **values):
            raise LeaseLost(f"slot {slot.index} is another worker's")
