"""Holding a slot: its lease is renewed in the background for as long as a trial runs in it."""

import threading
import time
from collections.abc import Callable
from types import TracebackType

import sqlalchemy as sa
import structlog

from model.training import TrainingRun
from service.storage.claims import Claims, LeaseLost, Slot
from service.storage.roster import Roster

LONGEST_BEAT_SECONDS = 1.0
RENEWALS = 4
"""In each lease."""


class Lease:
    """Renews a slot's lease, and stops the run when another worker has the slot.

    Args:
        claims: of the worker; they must not wait for a database that is away, the next beat tries again.
        slot: as leased.
        roster: where the worker is entered as `number`.
        number: the worker's.
        lease_seconds: after the last renewal the slot is another worker's.
        orphaned: asked at every beat; when it says yes, `stop` is called.
        stop: ends the worker's work.
        log: gets the progress between rungs.
    """

    def __init__(
        self,
        claims: Claims,
        slot: Slot,
        *,
        roster: Roster,
        number: int,
        lease_seconds: float,
        orphaned: Callable[[], bool],
        stop: Callable[[], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.lost = False
        self._claims = claims
        self._slot = slot
        self._roster = roster
        self._number = number
        self._lease_seconds = lease_seconds
        self._orphaned = orphaned
        self._stop = stop
        self._log = log
        self._run: TrainingRun | None = None
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
        """Raise LeaseLost when another worker is known to have the slot."""
        if self.lost:
            raise LeaseLost(f"slot {self._slot.index} is another worker's")

    def watch(self, run: TrainingRun) -> None:
        """Stop `run` when the lease is lost."""
        self._run = run
        if self.lost:
            run.stop()

    def _keep(self) -> None:
        renew_after = self._lease_seconds / RENEWALS
        renewed_at = time.monotonic()
        while not self._ended.wait(min(LONGEST_BEAT_SECONDS, renew_after)):
            if self._orphaned():
                self._stop()
            run = self._run
            if run is not None:
                self._log.debug("progress", tokens=run.tokens, budget_tokens=run.config.budget_tokens)
            now = time.monotonic()
            # one that comes a little early is better than one that comes a whole beat late
            if now - renewed_at < 0.9 * renew_after:
                continue
            try:
                self._claims.renew(self._slot)
                self._roster.renew(self._number)
                renewed_at = now
            except LeaseLost:
                self.lost = True
                if run is not None:
                    run.stop()
                return
            except sa.exc.SQLAlchemyError as error:
                self._log.warning("lease not renewed", reason=str(error).splitlines()[0])
