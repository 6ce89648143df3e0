"""Which workers a study has and has had: a number for each, never given twice, and whether it is alive."""

import math
import time
from dataclasses import dataclass

import sqlalchemy as sa

from service.storage.connections import for_one_statement
from service.storage.schema import WORKERS, StudyKey, database_time


@dataclass(frozen=True)
class AliveWorker:
    """A worker that has been heard of within its lease."""

    number: int
    owner: str
    device: str


class Roster:
    """The workers of one study."""

    def __init__(self, engine: sa.Engine, study: StudyKey, *, lease_seconds: float) -> None:
        self._engine = engine
        self._study = study
        self._lease_seconds = lease_seconds
        self._now = database_time(engine)
        self._mine = study.rows(WORKERS)
        self._renewed_at = -math.inf

    def register(self, owner: str, *, device: str) -> int:
        """Enter a worker. Its number among all workers that the study has ever had, from 0."""
        while True:
            try:
                with self._engine.begin() as connection:
                    number: int = connection.execute(
                        sa.select(sa.func.coalesce(sa.func.max(WORKERS.c.number), -1) + 1).where(
                            # what studies that had the id before have left behind has its numbers, too
                            WORKERS.c.study_id == self._study.study_id
                        )
                    ).scalar_one()
                    connection.execute(
                        WORKERS.insert().values(
                            study_id=self._study.study_id,
                            generation=self._study.generation,
                            number=number,
                            owner=owner[:255],
                            device=device[:255],
                            alive_until=self._now + self._lease_seconds,
                        )
                    )
                return number
            except sa.exc.IntegrityError:  # another worker took the number
                continue

    def renew(self, number: int) -> None:
        """Say that the worker is alive."""
        self._set_alive_until(number, self._now + self._lease_seconds)
        self._renewed_at = time.monotonic()

    def renew_when_due(self, number: int) -> None:
        """The same, if this process has not said so for a quarter of the time for which it holds."""
        if time.monotonic() - self._renewed_at >= self._lease_seconds / 4:
            self.renew(number)

    def leave(self, number: int) -> None:
        """Say that the worker has ended."""
        self._set_alive_until(number, sa.literal(0.0))

    def alive(self) -> list[AliveWorker]:
        """The workers that have been heard of within their lease."""
        query = (
            sa.select(WORKERS)
            .where(self._mine, WORKERS.c.alive_until >= self._now)
            .order_by(WORKERS.c.number)
        )
        with for_one_statement(self._engine) as connection:
            return [AliveWorker(row.number, row.owner, row.device) for row in connection.execute(query)]

    def _set_alive_until(self, number: int, until: sa.ColumnElement[float]) -> None:
        with for_one_statement(self._engine) as connection:
            connection.execute(
                WORKERS.update().where(self._mine, WORKERS.c.number == number).values(alive_until=until)
            )
