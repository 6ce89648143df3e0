"""The budget of a study whose trials pause, in training tokens: exact, whatever the number of workers.

A slot has the tokens that are claimed for it: to the rung that its trial trains to, or waits at. Their sum is what is
spent. What is granted stands in an attribute of the study, with the number of claims made so far: a claim counts it up
in the transaction that changes the slot, if it is still what the claimant has read. So of two workers that decide by
the same reading one decides anew, and no token is claimed twice.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from service.storage.optuna_private import USER_ATTRIBUTES
from service.storage.schema import SLOTS
from service.storage.slots import Slots

BUDGET = "token_budget"
"""Attribute of a study: `tokens` granted, and `claims` made."""
NOTHING_GRANTED = {"tokens": 0, "claims": 0}
"""Its value when the study is made."""


@dataclass(frozen=True)
class Reading:
    """A budget at one moment."""

    granted: int
    """Tokens."""
    claims: int
    text: str
    """As the storage has these two."""
    slots: tuple[Any, ...]
    """All rows of the study, by number: a slot's number is its place."""

    @cached_property
    def left(self) -> int:
        """Tokens that may still be claimed."""
        return self.granted - sum(row.tokens or 0 for row in self.slots)

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
        return Reading(value["tokens"], value["claims"], text, tuple(self.slots.by_number()))

    def total(self, tokens: int) -> None:
        """See that at least so many tokens are granted in all."""
        self._grant(lambda seen: max(seen.granted, tokens))

    def more(self, tokens: int) -> None:
        """Grant so many further tokens: beyond what is spent, or what is granted while workers are at work."""

        def granted(seen: Reading) -> int:
            beyond_granted = self.slots.any_alive()
            return (seen.granted if beyond_granted else seen.granted - seen.left) + tokens

        self._grant(granted)

    def claim(self, seen: Reading, change: sa.Update | sa.Insert) -> bool:
        """Change one slot if nothing has been claimed since the reading; whether it was changed."""
        counted = json.dumps({"tokens": seen.granted, "claims": seen.claims + 1})

        def claim() -> bool:
            try:
                with self.slots.engine.begin() as connection:
                    self._replace(connection, seen, counted)
                    done = connection.execute(change)
                    # of an insertion some drivers do not count the row; it is there, or an error
                    if isinstance(change, sa.Update) and done.rowcount != 1:
                        raise _Outrun
            except (_Outrun, sa.exc.IntegrityError):
                return False
            return True

        return bool(self.slots.patience(claim))

    def _grant(self, granted: Any) -> None:
        while (seen := self.read()) is not None:
            try:
                with self.slots.engine.begin() as connection:
                    value = {"tokens": granted(seen), "claims": seen.claims + 1}
                    self._replace(connection, seen, json.dumps(value))
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


def changed(slots: Slots, where: sa.ColumnElement[bool], **values: Any) -> sa.Update:
    """A change of one slot of the study, for `Budget.claim`."""
    return SLOTS.update().where(slots.mine, where).values(**values)
