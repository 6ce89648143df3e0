"""The budget of a study: a table of slots beside Optuna's own, one for every trial that shall finish.

A worker leases a free slot, runs a trial in it, and closes it. While it trains it renews the lease; a worker
that dies stops renewing, and when the lease has run out another one leases the slot and goes on with its trial.
A slot is closed once, so the number of finished trials is exact whatever dies. Every change is one compare-and-
swap UPDATE, which SQLite and PostgreSQL both execute atomically; times are the database's own.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from service.storage.schema import SLOTS as _SLOTS
from service.storage.schema import Patience, StudyKey, at_once, database_time

SEEN_FAILURE = 3
"""What a failure counts whose cause is known to lie in the trial or its worker."""
UNSEEN_END = 1
"""What it counts when a worker vanishes: it may be its configuration's doing, or its machine's, its network's or its
storage's, which take trials with them that are not to blame."""


@dataclass(frozen=True)
class Slot:
    """A slot as its holder leased it."""

    index: int
    trial_number: int | None
    """The trial to go on with; None for a new one."""
    attempts: int
    """How often its configuration has failed since its trial last got on."""
    lost: str | None
    """Why its last holder lost it, where that is known."""


class LeaseLost(Exception):  # noqa: N818 - an outcome, not a fault
    """Another worker has the slot now; what this one still holds of it must not be recorded."""


class Slots:
    """The slots of one study, as seen by one process.

    Args:
        engine: of the storage.
        study: whose they are.
        owner: the process's name, like no other's anywhere.
        lease_seconds: for which a slot is leased.
        patience: how the database is waited for when it is away.
    """

    def __init__(
        self,
        engine: sa.Engine,
        study: StudyKey,
        *,
        owner: str,
        lease_seconds: float,
        patience: Patience = at_once,
    ) -> None:
        self._engine = engine
        self._study = study
        # a number below 0 is no slot's: it was put there by hand
        self._mine = study.rows(_SLOTS) & (_SLOTS.c.slot >= 0)
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._patience = patience
        self._now = database_time(engine)

    def counts(self) -> dict[str, int]:
        """Slots by state: open, leased, held, closed."""
        query = (
            sa.select(_SLOTS.c.state, sa.func.count().label("slots"))
            .where(self._mine)
            .group_by(_SLOTS.c.state)
        )
        found = {row.state: row.slots for row in self._rows(query)}
        return {state: found.get(state, 0) for state in ("open", "leased", "held", "closed")}

    def total(self, trials: int) -> None:
        """See that the study has at least `trials` slots, closed ones included, and that none is held back."""
        with self._engine.begin() as connection:
            held = self._mine & (_SLOTS.c.state == "held")
            connection.execute(_SLOTS.update().where(held).values(state="open"))
            self._add(connection, trials - self._count(connection))

    def more(self, trials: int, *, limit: int | None = None) -> None:
        """Prepare exactly `trials` further finishes, as far as a study of at most `limit` slots has them left.

        What an interrupted call left behind counts towards them: its started trials are gone on with first,
        slots never started are dropped beyond the number, and started ones beyond it wait for a later call.
        While other workers are at work on the study, the slots are added to theirs.
        """
        alive = (_SLOTS.c.state == "leased") & (_SLOTS.c.leased_until >= self._now)
        with self._engine.begin() as connection:
            if self._count(connection, alive):
                room = trials if limit is None else limit - self._count(connection)
                self._add(connection, min(trials, room))
                return
            if limit is not None:
                trials = min(trials, limit - self._count(connection, _SLOTS.c.state == "closed"))
            unfinished = connection.execute(
                sa.select(_SLOTS.c.slot, _SLOTS.c.trial_number)
                .where(self._mine, _SLOTS.c.state != "closed")
                .order_by(_SLOTS.c.trial_number.is_(None), _SLOTS.c.slot)
            ).all()
            for rank, (index, trial_number) in enumerate(unfinished):
                where = self._mine & (_SLOTS.c.slot == index)
                if rank < trials:
                    connection.execute(_SLOTS.update().where(where).values(state="open", owner=None))
                elif trial_number is None:
                    connection.execute(_SLOTS.delete().where(where))
                else:
                    connection.execute(_SLOTS.update().where(where).values(state="held", owner=None))
            self._add(connection, trials - len(unfinished))

    def claim(self) -> Slot | None:
        """A slot leased to this owner, those with a trial to go on with first; None when none is free now.

        For an owner that works in no slot: one that is leased to it all the same, because the database went
        away before it could say so, is free to it.
        """
        own = _SLOTS.c.owner == self._owner
        free = (_SLOTS.c.state == "open") | (
            (_SLOTS.c.state == "leased") & ((_SLOTS.c.leased_until < self._now) | own)
        )
        candidates = (
            sa.select(_SLOTS)
            .where(self._mine, free)
            .order_by(_SLOTS.c.trial_number.is_(None), _SLOTS.c.slot)
            .limit(16)
        )
        while True:
            rows = self._rows(candidates)
            if not rows:
                return None
            for row in rows:
                died = row.state == "leased" and row.owner != self._owner  # without a word
                attempts = row.attempts + UNSEEN_END if died else row.attempts
                swapped = self._swap(
                    (_SLOTS.c.slot == row.slot)
                    & (_SLOTS.c.state == row.state)
                    & _SLOTS.c.owner.is_not_distinct_from(row.owner)
                    & free,
                    state="leased",
                    owner=self._owner,
                    leased_until=self._now + self._lease_seconds,
                    attempts=attempts,
                    lost=None,
                )
                if swapped:
                    return Slot(row.slot, row.trial_number, attempts, row.lost)

    def renew(self, slot: Slot) -> None:
        """Keep the slot for another lease. Raises LeaseLost when another worker has it."""
        self._update_own(slot, leased_until=self._now + self._lease_seconds)

    def set_trial(self, slot: Slot, trial_number: int, *, attempts: int) -> Slot:
        """Note which trial runs in the slot; the slot as it is now. Raises LeaseLost when another worker has it."""
        self._update_own(slot, trial_number=trial_number, attempts=attempts)
        return replace(slot, trial_number=trial_number, attempts=attempts)

    def hand_back(self, slot: Slot, *, attempts: int) -> None:
        """Free the slot for whoever comes next. Raises LeaseLost when another worker has it."""
        self._update_own(slot, state="open", owner=None, leased_until=None, attempts=attempts)

    def close(self, slot: Slot) -> None:
        """Its trial has finished. Raises LeaseLost when another worker has it."""
        self._update_own(slot, or_state="closed", state="closed", leased_until=None)

    def trials_in_progress(self) -> set[int]:
        """Numbers of the trials in slots that are leased, or free to be gone on with."""
        query = sa.select(_SLOTS.c.trial_number).where(
            self._mine, _SLOTS.c.state.in_({"leased", "open"}), _SLOTS.c.trial_number.is_not(None)
        )
        return {row.trial_number for row in self._rows(query)}

    def release(self, owner: str, *, lost: str, counts: bool = True) -> None:
        """Free at once what a process known to be dead had leased.

        Args:
            owner: the dead process.
            lost: how it died, for whoever goes on with its trial.
            counts: as a failure of the configuration.
        """
        self._swap(
            (_SLOTS.c.owner == owner) & (_SLOTS.c.state == "leased"),
            state="open",
            owner=None,
            attempts=_SLOTS.c.attempts + SEEN_FAILURE * counts,
            lost=lost[:255],
        )

    def _count(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(_SLOTS).where(self._mine, *where)
        return int(connection.execute(query).scalar_one())

    def _add(self, connection: sa.Connection, number: int) -> None:
        taken = set(connection.execute(sa.select(_SLOTS.c.slot).where(self._mine)).scalars())
        # the lowest free numbers, those of dropped slots too: a number stands for a configuration of a design
        free = itertools.islice((i for i in itertools.count() if i not in taken), max(0, number))
        for index in free:
            connection.execute(
                _SLOTS.insert().values(
                    study_id=self._study.study_id, generation=self._study.generation, slot=index
                )
            )

    def _rows(self, query: sa.Select[Any]) -> list[Any]:
        def select() -> list[Any]:
            with self._engine.connect() as connection:
                return list(connection.execute(query))

        rows: list[Any] = self._patience(select)
        return rows

    def _swap(self, where: sa.ColumnElement[bool], **values: Any) -> bool:
        update = _SLOTS.update().where(self._mine, where).values(**values)

        def swap() -> bool:
            with self._engine.begin() as connection:
                return connection.execute(update).rowcount == 1

        return bool(self._patience(swap))

    def _update_own(self, slot: Slot, *, or_state: str = "leased", **values: Any) -> None:
        """`or_state`: a state that the very same call may have left behind before its answer was lost."""
        own = (
            (_SLOTS.c.slot == slot.index)
            & (_SLOTS.c.owner == self._owner)
            & _SLOTS.c.state.in_({"leased", or_state})
        )
        if not self._swap(own, **values):
            raise LeaseLost(f"slot {slot.index} is another worker's")
