"""Watches from outside who is at work, once a second, by what the workers write to the storage."""

import contextlib
import itertools
import threading
import time
from dataclasses import dataclass

import docker
import psycopg
import requests

from tests.benchmarks.chaos.stack import WORKERS, Stack, number

QUERY = """
SELECT s.state, s.owner, s.trial_number, count(v.trial_id)
FROM hptune_slots s
LEFT JOIN trials t ON t.study_id = s.study_id AND t.number = s.trial_number
LEFT JOIN trial_intermediate_values v ON v.trial_id = t.trial_id
GROUP BY s.study_id, s.slot, s.state, s.owner, s.trial_number
"""
CONNECTION = {
    "connect_timeout": 3,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
AT_WORK_SECONDS = 15
"""A container is at work between two signs of it that are no further apart."""

SILENCE_SECONDS = 240
"""Without a sign of any container, after which all are lost."""


@dataclass(frozen=True)
class Sign:
    """A container took a lease, or reported a rung."""

    time: float
    container: int
    report: bool
    not_before: float
    """When the one before it was looked for: it came since then."""


class Observer:
    """The signs of life of a stack's worker containers, and how far the study is.

    Times are seconds since it began to watch.
    """

    def __init__(self, stack: Stack) -> None:
        self.signs: list[Sign] = []
        self.share = 0.0
        """Of the slots, the closed ones."""
        self.ended: float | None = None
        """When all slots were seen closed."""
        self._stack = stack
        self._containers = {worker.id[:12]: number(worker) for worker in stack.workers()}
        self._rungs: dict[tuple[str, int], int] = {}
        self._begun = time.monotonic()
        self._looked = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()

    def time(self) -> float:
        return time.monotonic() - self._begun

    @property
    def over(self) -> bool:
        """Nothing will happen any more: the study has ended, or all workers are lost."""
        silence = self.time() - max((sign.time for sign in self.signs), default=0.0)
        return self.ended is not None or silence > SILENCE_SECONDS

    def all_train(self, since: float) -> float | None:
        """When, after a time, every container had reported a rung again; None for never."""
        first = {
            container: min(
                (
                    s.time
                    for s in self.signs
                    if s.report and s.container == container and s.not_before >= since
                ),
                default=None,
            )
            for container in range(1, WORKERS + 1)
        }
        times = [when for when in first.values() if when is not None]
        return max(times) if len(times) == WORKERS else None

    def last_sign(self, container: int) -> float | None:
        return max((sign.time for sign in self.signs if sign.container == container), default=None)

    def capacity(self, until: float) -> float:
        """The share of the containers' time, up to a time, in which they were at work."""
        worked = 0.0
        for container in range(1, WORKERS + 1):
            times = [s.time for s in self.signs if s.container == container and s.time <= until]
            gaps = (late - early for early, late in itertools.pairwise(times))
            worked += sum(gap for gap in gaps if gap <= AT_WORK_SECONDS)
        return worked / (WORKERS * until)

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            # engine or storage may be away, the storage's container without a network
            with contextlib.suppress(
                psycopg.Error,
                docker.errors.APIError,
                requests.exceptions.RequestException,
                KeyError,
                ValueError,
            ):
                self._look()

    def _look(self) -> None:
        with self._stack.project.engine() as engine:
            url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, **CONNECTION) as connection:
            begun = self.time()
            rows = connection.execute(QUERY).fetchall()
        not_before, self._looked = self._looked, begun
        now = self.time()
        for _, owner, trial, rungs in rows:
            container = self._containers.get((owner or "").partition(":")[0])
            if container is None:
                continue
            before = self._rungs.get((owner, trial))
            self._rungs[owner, trial] = rungs
            if before is None or rungs > before:
                self.signs.append(Sign(now, container, before is not None, not_before))
        closed = sum(state == "closed" for state, *_ in rows)
        self.share = closed / len(rows)
        if closed == len(rows) and self.ended is None:
            self.ended = now
