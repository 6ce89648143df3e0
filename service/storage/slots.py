"""The budget of a study: a table of slots beside Optuna's own, one for every trial that shall finish.

A worker leases a free slot, runs a trial in it, and closes it (`service.storage.claims`). A slot is closed once, so
the number of finished trials is exact whatever dies. (Optuna's own `MaxTrialsCallback(10)` was measured to finish 13
with four workers: each counts before it knows what the others are about to finish.) Every change is one compare-and-
swap UPDATE, which SQLite and PostgreSQL both execute atomically; times are the database's own. Counting and changing
the budget takes no owner.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from service.storage.connections import for_one_statement
from service.storage.schema import SLOTS as _SLOTS
from service.storage.schema import Retry, StudyKey, at_once, database_time

SEEN_FAILURE = 3
"""What a failure counts whose cause is known to lie in the trial or its worker."""


@dataclass(frozen=True)
class Slots:
    """The slots of one study: how many there are, and what has become of them."""

    engine: sa.Engine
    """Of the storage."""
    study: StudyKey
    """Whose they are."""
    patience: Retry = at_once
    """How the database is waited for when it is away."""

    @cached_property
    def now(self) -> sa.ColumnElement[float]:
        """The database's clock."""
        return database_time(self.engine)

    @cached_property
    def mine(self) -> sa.ColumnElement[bool]:
        """Which rows of the table they are."""
        # a number below 0 is no slot's: it was put there by hand
        return self.study.rows(_SLOTS) & (_SLOTS.c.slot >= 0)

    def counts(self) -> dict[str, int]:
        """Slots by state: open, leased, held, closed. Paused ones are counted by `paused_trials`."""
        query = (
            sa.select(_SLOTS.c.state, sa.func.count().label("slots"))
            .where(self.mine)
            .group_by(_SLOTS.c.state)
        )
        found = {row.state: row.slots for row in self.read(query)}
        return {state: found.get(state, 0) for state in ("open", "leased", "held", "closed")}

    def total(self, trials: int) -> None:
        """See that the study has at least `trials` slots, closed ones included, and that none is held back."""
        with self.engine.begin() as connection:
            held = self.mine & (_SLOTS.c.state == "held")
            connection.execute(_SLOTS.update().where(held).values(state="open"))
            self._add(connection, trials - self._count(connection))

    def more(self, trials: int, *, limit: int | None = None) -> None:
        """Prepare exactly `trials` further finishes, as far as a study of at most `limit` slots has them left.

        What an interrupted call left behind counts towards them: its started trials are resumed first,
        slots never started are dropped beyond the number, and started ones beyond it wait for a later call.
        While other workers are at work on the study, the slots are added to theirs.
        """
        with self.engine.begin() as connection:
            # what workers that are alive may be about to claim is neither dropped nor held
            if self._count(connection, self._alive):
                room = trials if limit is None else limit - self._count(connection)
                self._add(connection, min(trials, room))
                return
            # nobody is alive: whatever is leased is left by the dead, and is this call's to give out anew
            if limit is not None:
                trials = min(trials, limit - self._count(connection, _SLOTS.c.state == "closed"))
            unfinished = connection.execute(
                sa.select(_SLOTS.c.slot, _SLOTS.c.trial_number)
                .where(self.mine, _SLOTS.c.state != "closed")
                .order_by(_SLOTS.c.trial_number.is_(None), _SLOTS.c.slot)
            ).all()
            for rank, (index, trial_number) in enumerate(unfinished):
                where = self.mine & (_SLOTS.c.slot == index)
                if rank < trials:
                    connection.execute(_SLOTS.update().where(where).values(state="open", owner=None))
                elif trial_number is None:
                    connection.execute(_SLOTS.delete().where(where))
                else:
                    connection.execute(_SLOTS.update().where(where).values(state="held", owner=None))
            self._add(connection, trials - len(unfinished))

    @property
    def _alive(self) -> sa.ColumnElement[bool]:
        return (_SLOTS.c.state == "leased") & (_SLOTS.c.leased_until >= self.now)

    def any_alive(self) -> bool:
        """A worker is at work in one of them."""
        return bool(self.rows(self._alive, first=1))

    def trials_in_progress(self) -> set[int]:
        """Numbers of the trials in slots that are leased, paused, or free to be resumed."""
        return self._trials("leased", "paused", "open")

    def paused_trials(self) -> set[int]:
        """Numbers of the trials that wait at a rung."""
        return self._trials("paused")

    def _trials(self, *states: str) -> set[int]:
        of_trial = _SLOTS.c.state.in_(states) & _SLOTS.c.trial_number.is_not(None)
        return {row.trial_number for row in self.rows(of_trial)}

    def release(self, owner: str, *, lost: str, counts: bool = True) -> None:
        """Free at once what a process known to be dead had leased.

        Args:
            owner: the dead process.
            lost: how it died, for whoever resumes its trial.
            counts: as a failure of the configuration.
        """
        self.swap(
            (_SLOTS.c.owner == owner) & (_SLOTS.c.state == "leased"),
            state="open",
            owner=None,
            attempts=_SLOTS.c.attempts + SEEN_FAILURE * counts,
            lost=lost[:255],
        )

    def rows(self, where: sa.ColumnElement[bool], *, first: int | None = None) -> list[Any]:
        """The study's rows of the table, those with a trial to resume first."""
        order = _SLOTS.c.trial_number.is_(None), _SLOTS.c.slot
        return self.read(sa.select(_SLOTS).where(self.mine, where).order_by(*order).limit(first))

    def by_number(self) -> list[Any]:
        """All of the study's rows, by number."""
        return self.read(sa.select(_SLOTS).where(self.mine).order_by(_SLOTS.c.slot))

    def read(self, query: sa.Select[Any]) -> list[Any]:
        """What a query of the storage finds."""

        def select() -> list[Any]:
            with for_one_statement(self.engine) as connection:
                return list(connection.execute(query))

        rows: list[Any] = self.patience(select)
        return rows

    def swap(self, where: sa.ColumnElement[bool], **values: Any) -> bool:
        """Change the one slot that is still as `where` says; whether it was."""
        update = _SLOTS.update().where(self.mine, where).values(**values)

        def swap() -> bool:
            with for_one_statement(self.engine) as connection:
                return connection.execute(update).rowcount == 1

        return bool(self.patience(swap))

    def _count(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(_SLOTS).where(self.mine, *where)
        return int(connection.execute(query).scalar_one())

    def _add(self, connection: sa.Connection, number: int) -> None:
        taken = set(connection.execute(sa.select(_SLOTS.c.slot).where(self.mine)).scalars())
        # the lowest free numbers, those of dropped slots too: a number stands for a configuration of a design
        free = itertools.islice((i for i in itertools.count() if i not in taken), max(0, number))
        for index in free:
            connection.execute(
                _SLOTS.insert().values(
                    study_id=self.study.study_id, generation=self.study.generation, slot=index
                )
            )
