"""The budget of a study whose trials pause, in training tokens: exact, whatever the number of workers.

A slot has the tokens that are claimed for it: to the rung that its trial trains to, or waits at. Their sum is what is
spent. What is granted stands in an attribute of the study, with the number of claims made so far: a claim counts it up
in the transaction that changes the slot, if it is still what the claimant has read. So of two workers that decide by
the same reading one decides anew, and no token is claimed twice.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from service.storage.optuna_private import USER_ATTRIBUTES
from service.storage.schema import SLOTS
from service.storage.slots import Slots

BUDGET = "token_budget"
"""Attribute of a study: `tokens` granted, `claims` made, and why it has `stopped` before they were spent; `overruled`
is why it had, once somebody has asked for further trials all the same."""
NOTHING_GRANTED = {"tokens": 0, "claims": 0}
"""Its value when the study is made."""


@dataclass(frozen=True)
class Reading:
    """A budget at one moment."""

    granted: int
    """Tokens."""
    claims: int
    text: str
    """As the storage has these and what follows."""
    slots: tuple[Any, ...]
    """All rows of the study, by number: a slot's number is its place."""
    stopped: str | None = None
    """Why nothing more is claimed, for people."""
    overruled: str | None = None
    """Why it had stopped before somebody asked for further trials: it does not stop by itself any more."""

    @cached_property
    def spent(self) -> int:
        """Tokens that have been claimed."""
        return sum(row.tokens or 0 for row in self.slots)

    @property
    def left(self) -> int:
        """Tokens that may still be claimed."""
        return 0 if self.stopped is not None else self.granted - self.spent

    def changed(self, **values: Any) -> str:
        """What the storage is to have after a claim, or after a change of these values."""
        before = {"tokens": self.granted, "stopped": self.stopped, "overruled": self.overruled}
        after = {**before, "claims": self.claims + 1, **values}
        return json.dumps({key: value for key, value in after.items() if value is not None})

    @property
    def busy(self) -> bool:
        """A trial is being trained, or is to be resumed."""
        return any(row.state in ("leased", "open") for row in self.slots)

    def waiting(self) -> list[Any]:
        """The rows of paused trials."""
        return [row for row in self.slots if row.state == "paused"]


class _Outrun(Exception):  # noqa: N818 - an outcome, not a fault
    """Somebody else has claimed, or changed the slot, since the reading."""


@dataclass(frozen=True)
class Budget:
    """The budget of one study."""

    slots: Slots

    def read(self) -> Reading | None:
        """The budget and its slots now; None where the study is gone."""
        # before the slots: what is claimed in between is noticed when something is claimed by this reading
        found = self.slots.read(sa.select(USER_ATTRIBUTES.c.value_json).where(self._attribute))
        if not found:
            return None
        text = found[0].value_json
        value = json.loads(text)
        slots = tuple(self.slots.by_number())
        known = {key: value[key] for key in ("stopped", "overruled") if key in value}
        return Reading(value["tokens"], value["claims"], text, slots, **known)

    def total(self, tokens: int) -> None:
        """See that at least so many tokens are granted in all."""
        self._grant(lambda seen: max(seen.granted, tokens), insists=lambda seen: tokens > seen.granted)

    def more(self, tokens: int) -> None:
        """Grant so many further tokens: beyond what is spent, or what is granted while workers are at work."""

        def granted(seen: Reading) -> int:
            beyond_granted = self.slots.any_alive() and seen.stopped is None
            return (seen.granted if beyond_granted else seen.spent) + tokens

        self._grant(granted, insists=lambda _: True)

    def stop(self, seen: Reading, why: str) -> bool:
        """Have nothing more claimed, if nothing has been since the reading; whether it is so."""
        return self._swap(seen, seen.changed(stopped=why))

    def claim(self, seen: Reading, change: sa.Update | sa.Insert) -> bool:
        """Change one slot if nothing has been claimed since the reading; whether it was changed."""
        return self._swap(seen, seen.changed(), change)

    def _swap(self, seen: Reading, text: str, change: sa.Update | sa.Insert | None = None) -> bool:
        def swap() -> bool:
            try:
                with self.slots.engine.begin() as connection:
                    self._replace(connection, seen, text)
                    done = None if change is None else connection.execute(change)
                    # of an insertion some drivers do not count the row; it is there, or an error
                    if done is not None and isinstance(change, sa.Update) and done.rowcount != 1:
                        raise _Outrun
            except (_Outrun, sa.exc.IntegrityError):
                return False
            return True

        return bool(self.slots.patience(swap))

    def _grant(self, granted: Callable[[Reading], int], *, insists: Callable[[Reading], bool]) -> None:
        while (seen := self.read()) is not None:
            try:
                with self.slots.engine.begin() as connection:
                    again = seen.stopped is not None and insists(seen)
                    goes_on = {"stopped": None, "overruled": seen.stopped} if again else {}
                    self._replace(connection, seen, seen.changed(tokens=granted(seen), **goes_on))
                return
            except _Outrun:
                continue

    def _replace(self, connection: sa.Connection, seen: Reading, text: str) -> None:
        same = self._attribute & (USER_ATTRIBUTES.c.value_json == seen.text)
        if connection.execute(USER_ATTRIBUTES.update().where(same).values(value_json=text)).rowcount != 1:
            raise _Outrun

    @property
    def _attribute(self) -> sa.ColumnElement[bool]:
        study = self.slots.study
        of_study = USER_ATTRIBUTES.c.study_id == study.study_id
        return of_study & (USER_ATTRIBUTES.c.key == BUDGET) & study.is_there


def how_it_stopped(attributes: Mapping[str, Any]) -> str | None:
    """That a study with these attributes has stopped by itself, and why, for people; None where it has not."""
    value = attributes.get(BUDGET)
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("stopped"), str):
        return f"the search has stopped by itself: {value['stopped']}. Asked for more, it goes on with what there is"
    if isinstance(value.get("overruled"), str):
        return f"the search went on, as it was asked to, after it had stopped by itself: {value['overruled']}"
    return None


def changed(slots: Slots, where: sa.ColumnElement[bool], **values: Any) -> sa.Update:
    """A change of one slot of the study, for `Budget.claim`."""
    return SLOTS.update().where(slots.mine, where).values(**values)
