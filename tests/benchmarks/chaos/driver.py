"""Deals the faults out, one after the other, and undoes each when its time is past."""

import contextlib
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import docker
import requests
from docker.models.containers import Container

from tests.benchmarks.chaos.faults import ENGINE, WORKER, Kind
from tests.benchmarks.chaos.observer import Observer
from tests.benchmarks.chaos.stack import NotNowError, Stack, number

LAST_AT = 0.85
"""Share of the training by which all faults were dealt, or sooner: what is left shows how it recovers."""
GIVE_UP_SECONDS = 60
"""For a fault that has nothing to hit."""
_FAILURES = (NotNowError, OSError, docker.errors.APIError, requests.exceptions.RequestException)


@dataclass
class Fault:
    """One that was dealt. Times are the observer's."""

    kind: Kind
    worker: int | None
    begun: float
    ends: float
    undone: float | None = None
    failure: str | None = None
    """Why it could not be undone."""


class Driver:
    """Faults in the order of `kinds`, spread over `seconds`; sooner where the training would end before them."""

    def __init__(
        self, stack: Stack, observer: Observer, kinds: list[Kind], generator: random.Random, *, seconds: float
    ) -> None:
        self.dealt: list[Fault] = []
        self.missed: list[Kind] = []
        """Those that had nothing to hit."""
        self._stack = stack
        self._observer = observer
        self._waiting = deque(kinds)
        self._faults = len(kinds)
        self._generator = generator
        self._interval = seconds / len(kinds)
        self._begun = 0.0
        self._open: list[tuple[Fault, Iterator[None], set[str]]] = []

    def run(self) -> None:
        """Returns when every fault is undone. A KeyboardInterrupt leaves none behind either."""
        tried_since: float | None = None
        self._begun = self._observer.time()
        try:
            while (self._waiting or self._open) and not self._observer.over:
                self._undo(self._observer.time())
                if self._waiting and self._is_due():
                    tried_since = tried_since or self._observer.time()
                    if self._deal(self._waiting[0]):
                        self._waiting.popleft()
                        tried_since = None
                    elif self._observer.time() - tried_since > GIVE_UP_SECONDS:
                        self.missed.append(self._waiting.popleft())
                        tried_since = None
                time.sleep(0.2)
        finally:
            self._undo(float("inf"))
        self.missed += self._waiting

    def _is_due(self) -> bool:
        past = len(self.dealt) + len(self.missed)
        planned = self._begun + past * self._interval
        # one that came late is not followed at once by those it held up
        last = self.dealt[-1].begun if self.dealt else 0.0
        in_time = max(planned, last + self._interval / 2)
        return self._observer.time() >= in_time or self._observer.share >= LAST_AT * (past + 1) / self._faults

    def _deal(self, kind: Kind) -> bool:
        """Whether the fault could be begun."""
        found = self._hit(kind)
        if found is None:
            return False
        worker, taken = found
        run = kind.run(self._stack, worker, self._generator)
        begun = self._observer.time()
        try:
            next(run)
        except _FAILURES:
            return False
        ends = self._observer.time() + self._generator.uniform(*kind.seconds)
        fault = Fault(kind, worker and number(worker), begun, ends)
        self.dealt.append(fault)
        self._open.append((fault, run, taken))
        where = f", container {fault.worker}" if worker else ""
        print(f"{begun:6.1f} s, {self._observer.share:4.0%}: {kind.name}{where}", flush=True)
        return True

    def _hit(self, kind: Kind) -> tuple[Container | None, set[str]] | None:
        """What the fault hits, and what it takes; None where that is taken, or not there."""
        busy = {name for _, _, taken in self._open for name in taken}
        if ENGINE in kind.takes:
            return None if busy else (None, set(kind.takes))
        if busy & {ENGINE, *kind.takes}:
            return None
        if WORKER not in kind.takes:
            return None, set(kind.takes)
        free = [
            worker
            for worker in self._stack.workers()
            if f"{WORKER} {number(worker)}" not in busy and worker.attrs["State"]["Status"] == "running"
        ]
        if not free:
            return None
        worker = self._generator.choice(free)
        return worker, {*kind.takes, f"{WORKER} {number(worker)}"} - {WORKER}

    def _undo(self, now: float) -> None:
        for entry in list(self._open):
            fault, run, _ = entry
            if fault.ends <= now:
                self._open.remove(entry)
                try:
                    with contextlib.suppress(StopIteration):
                        next(run)
                except _FAILURES as error:
                    fault.failure = " ".join(str(error).split())
                fault.undone = self._observer.time()
