"""Holding a slot while a trial runs in it: the lease is renewed in the background, the run stopped if it is lost."""

import threading
import time
from collections.abc import Callable
from types import TracebackType

import sqlalchemy as sa
import structlog

from service.storage.claims import Claims, LeaseLost, Slot
from service.trials.contract import Run

LONGEST_BEAT_SECONDS = 1.0
"""After which a worker whose parent is gone notices, and the live table learns of progress between rungs."""
RENEWALS = 4
"""In each lease: three may fail or come late, one after the other, before another worker takes the slot."""


class Lease:
    """A slot as a worker holds it.

    Args:
        claims: the worker's. In the background they do not wait for a database that is away, the next beat tries again.
        slot: as leased.
        beat: called at every beat.
        renew_worker: called at every renewal; says that the worker is alive.
        log: gets the progress between rungs.
    """

    def __init__(
        self,
        claims: Claims,
        slot: Slot,
        *,
        beat: Callable[[], None],
        renew_worker: Callable[[], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.slot = slot
        """As it is now."""
        self._claims = claims
        self._in_background = claims.impatient
        self._beat = beat
        self._renew_worker = renew_worker
        self._log = log
        self._run: Run | None = None
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Renew it before anything is recorded. Raises LeaseLost: another worker has the slot."""
        if self._lost.is_set():
            raise LeaseLost(f"slot {self.slot.index} is another worker's")
        self._claims.renew(self.slot)

    def got_on(self, trial_number: int) -> None:
        """Its trial is saved further on: what failed it before may not be its configuration."""
        if self.slot.attempts:
            self.slot = self._claims.set_trial(self.slot, trial_number, attempts=0)

    def watch(self, run: Run) -> None:
        """Stop `run` when the lease is lost."""
        self._run = run
        if self._lost.is_set():
            run.stop()

    def _keep(self) -> None:
        renew_after = self._claims.lease_seconds / RENEWALS
        renewed_at = time.monotonic()
        while not self._ended.wait(min(LONGEST_BEAT_SECONDS, renew_after)):
            self._beat()
            run = self._run
            if run is not None:
                self._log.debug("progress", tokens=run.tokens, budget_tokens=run.config.budget_tokens)
            now = time.monotonic()
            # one that comes a little early is better than one that comes a whole beat late
            if now - renewed_at < 0.9 * renew_after:
                continue
            try:
                self._in_background.renew(self.slot)
                self._renew_worker()
                renewed_at = now
            except LeaseLost:
                self._lost.set()
                if self._run is not None:  # it may have come since this beat began
                    self._run.stop()
                return
            except sa.exc.SQLAlchemyError as error:
                self._log.warning("lease not renewed", reason=str(error).splitlines()[0])
