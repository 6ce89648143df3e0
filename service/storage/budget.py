"""The budget of a study whose trials pause, in training tokens: exact, whatever the number of workers.

A slot has the tokens that are claimed for it: to the rung that its trial trains to, or waits at. Their sum is what is
spent; where the budget is in operations or seconds, each slot has the price of its tokens, too, and what is spent is
the sum of the products. What is granted stands in an attribute of the study, with the number of claims made so far: a
claim counts it up in the transaction that changes the slot, if it is still what the claimant has read. So of two
workers that decide by the same reading one decides anew, and no token is claimed twice.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import sqlalchemy as sa

from service.storage.optuna_private import USER_ATTRIBUTES
from service.storage.schema import SLOTS
from service.storage.slots import Slots
from service.study.spend import Unit, shown_cost

BUDGET = "token_budget"
"""Attribute of a study: `tokens`, `flops` or `seconds` granted, `claims` made, and why it has `stopped` before all was
spent; `overruled` is why it had, once somebody has asked for further trials all the same, and `forecast` what these
were to bring."""

_OF_THE_END = ("stopped", "overruled", "forecast")


def nothing_granted(unit: Unit) -> dict[str, int]:
    """Its value when the study is made."""
    return {unit: 0, "claims": 0}


@dataclass(frozen=True)
class Reading:
    """A budget at one moment."""

    unit: Unit
    """Of what is granted, spent and left."""
    granted: float
    """A whole number of tokens or operations."""
    claims: int
    text: str
    """As the storage has these and what follows."""
    slots: tuple[Any, ...]
    """All rows of the study, by number: a slot's number is its place."""
    stopped: str | None = None
    """Why nothing more is claimed, for people."""
    overruled: str | None = None
    """Why it had stopped before somebody asked for further trials: it does not stop by itself any more."""
    forecast: Mapping[str, float] | None = None
    """What further trials would have brought when it stopped."""

    @cached_property
    def spent(self) -> float:
        """What has been claimed."""
        return sum(self.cost(row.tokens or 0, row.price) for row in self.slots)

    @property
    def left(self) -> float:
        """What may still be claimed; of seconds what was measured may be more than was claimed."""
        return 0 if self.stopped is not None else max(0, self.granted - self.spent)

    def cost(self, tokens: int, price: float | None) -> float:
        """Of so many tokens of a trial; 0 where its price is not known yet."""
        if self.unit == "tokens":
            return tokens
        # operations in whole numbers, which are more than a double could count
        return tokens * (int(price or 0) if self.unit == "flops" else price or 0.0)

    @cached_property
    def likely_price(self) -> float | None:
        """What a token of a trial of which nothing is known is taken to cost; None before any has a price.

        In operations as the dearest one, so that too much is claimed and given back; in seconds as all so far.
        """
        priced = [row for row in self.slots if row.price is not None]
        if self.unit == "flops":
            return max((row.price for row in priced), default=None)
        tokens = sum(row.tokens for row in priced)
        return self.spent / tokens if tokens else None

    def price_of_new(self, base: int | None) -> float | None:
        """The same of a trial that is still to be drawn; `base`, what the base configuration costs, is the least."""
        return self.likely_price if base is None else max(base, self.likely_price or 0)

    def shown(self, budget: str) -> str:
        """For people: `600,000 tokens spent of 1,000,000 tokens; 400,000 tokens left`.

        Args:
            budget: what the study calls tokens (`Words.budget`).
        """
        spent, granted, left = (
            shown_cost(amount, self.unit, budget=budget) for amount in (self.spent, self.granted, self.left)
        )
        rest = (
            "the search has stopped by itself before the rest" if self.stopped is not None else f"{left} left"
        )
        return f"{spent} spent of {granted}; {rest}"

    def changed(self, **values: Any) -> str:
        """What the storage is to have after a claim, or after a change of these values."""
        before: dict[str, Any] = {self.unit: self.granted, **{key: getattr(self, key) for key in _OF_THE_END}}
        after = {**before, "claims": self.claims + 1, **values}
        return json.dumps({key: value for key, value in after.items() if value is not None})

    def trials_left(self, whole: int, *, rung: int, price: float | None) -> int:
        """Whole trials that can be paid for, rounded up; 0 where nothing goes on, and nothing more can be begun.

        Args:
            whole: tokens of a whole trial.
            rung: those of a rung.
            price: of a token; of no effect where the budget is in tokens.
        """
        if not (self.busy or self.waiting() or (self.left and self.left >= self.cost(rung, price))):
            return 0
        cost = self.cost(whole, price)
        return max(1, math.ceil(self.left / cost) if cost else 1)

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
        known = {key: value[key] for key in _OF_THE_END if key in value}
        unit = next(unit for unit in get_args(Unit) if unit in value)
        return Reading(unit, value[unit], value["claims"], text, slots, **known)

    def total(self, amount: float) -> None:
        """See that at least so much is granted in all."""
        self._grant(lambda seen: max(seen.granted, amount), insists=lambda seen: amount > seen.granted)

    def more(self, amount: float) -> None:
        """Grant so much more: beyond what is spent, or what is granted while workers are at work."""

        def granted(seen: Reading) -> float:
            beyond_granted = self.slots.any_alive() and seen.stopped is None
            return (seen.granted if beyond_granted else seen.spent) + amount

        self._grant(granted, insists=lambda _: True)

    def stop(self, seen: Reading, why: str, forecast: Mapping[str, float] | None = None) -> bool:
        """Have nothing more claimed, if nothing has been since the reading; whether it is so."""
        return self._swap(seen, seen.changed(stopped=why, forecast=forecast))

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

    def _grant(self, granted: Callable[[Reading], float], *, insists: Callable[[Reading], bool]) -> None:
        while (seen := self.read()) is not None:
            try:
                with self.slots.engine.begin() as connection:
                    again = seen.stopped is not None and insists(seen)
                    changes: dict[str, Any] = {seen.unit: granted(seen)}
                    changes |= {"stopped": None, "overruled": seen.stopped} if again else {}
                    self._replace(connection, seen, seen.changed(**changes))
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


def what_came(attributes: Mapping[str, Any], losses: Sequence[float]) -> str | None:
    """What had been forecast of further trials against what they brought, for people; None where none have run.

    Args:
        attributes: of the study.
        losses: of its whole trials.
    """
    value = attributes.get(BUDGET)
    told = value.get("forecast") if isinstance(value, Mapping) else None
    if not isinstance(told, Mapping) or len(losses) <= told["whole"]:
        return None
    more, fall = len(losses) - told["whole"], told["best"] - min(losses)
    return (
        f"forecast of {told['trials']} more trials: a best loss lower by {told['ahead']:.4f}, in eight cases of ten by "
        f"{told['low']:.4f} to {told['high']:.4f}; {more} more whole ones have lowered it by {fall:.4f}"
    )


def changed(slots: Slots, where: sa.ColumnElement[bool], **values: Any) -> sa.Update:
    """A change of one slot of the study, for `Budget.claim`."""
    return SLOTS.update().where(slots.mine, where).values(**values)
