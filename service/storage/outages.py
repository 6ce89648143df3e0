"""Waiting for a storage that is away: a call is retried, with back-off, for a bounded time.

A database that restarts, cannot be reached, or has no connection left makes workers wait, not fail. What Optuna and
the slots write may be written twice: reports and attributes are overwritten with the same values, a second
`create_new_trial` leaves a trial that belongs to no slot and is cleared away, and the end of a trial and of a slot
recognise themselves.
"""

import os
import re
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import optuna
import sqlalchemy as sa
import structlog
import tenacity

from model.errors import UserError

LONGEST_WAIT_SECONDS = 10.0
"""Between two tries."""

_SQLITE_OUTAGES = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN")
_READ_ONLY = "25006"  # PostgreSQL's code while a standby has not been promoted yet
# What PostgreSQL answers to a connection that it refuses for good; libpq gives no code for it. "no pg_hba.conf entry"
# is none of it: our own storage says so for a moment at every start, until it has set its password.
_REFUSED = re.compile(
    r"password authentication failed|no password supplied|(role|database) \".*\" does not exist"
)


class StorageError(UserError):
    """The storage cannot be used: it is of another schema, or refuses what was asked."""


class StorageAwayError(StorageError):
    """The storage could not be reached, or not for as long as was to be waited, or until the worker was stopped."""

    exit_status: ClassVar[int] = os.EX_TEMPFAIL


def is_storage_error(error: BaseException) -> bool:
    """The database itself has said no, or nothing."""
    if isinstance(error, optuna.exceptions.StorageInternalError):
        return error.__cause__ is None or is_storage_error(error.__cause__)
    return isinstance(error, sa.exc.SQLAlchemyError)


def is_outage(error: BaseException) -> bool:
    """The storage is away or busy, as opposed to a call that would fail again."""
    if isinstance(error, StorageAwayError):
        return True
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        return is_outage(error.__cause__)
    if isinstance(error, sa.exc.TimeoutError):  # the pool has no connection left
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error, sa.exc.InterfaceError):
        return True
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        return str(name).startswith(_SQLITE_OUTAGES)
    if isinstance(error, sa.exc.OperationalError):
        return not _REFUSED.search(str(error.orig))
    return getattr(error.orig, "sqlstate", "") == _READ_ONLY


def first_line(error: BaseException) -> str:
    """What the database itself said, without the statement."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    lines = str(getattr(cause, "orig", cause)).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


class Patience:
    """Calls a function, and retries while the storage is away.

    Args:
        seconds: how long to wait in all for one call.
        stopping: ends the waiting when set.
        log: is told of every wait.
    """

    def __init__(
        self, seconds: float, *, stopping: threading.Event, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._seconds = seconds
        self._log = log
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_outage),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT_SECONDS),
            stop=tenacity.stop_after_delay(seconds) | tenacity.stop_when_event_set(stopping),
            sleep=tenacity.sleep_using_event(stopping),
            before_sleep=self._say,
            reraise=True,
        )

    def __call__(self, work: Callable[[], Any]) -> Any:
        """The result of `work`. Raises StorageAwayError when the patience is at its end."""
        try:
            return self._retrying(work)
        except Exception as error:
            if not is_outage(error):
                raise
            raise StorageAwayError(
                f"the storage is away ({first_line(error)}); waited for up to {self._seconds:.0f} s, what is saved "
                "will be resumed"
            ) from error

    def _say(self, state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert error is not None
        self._log.warning("waiting for the storage", reason=first_line(error), tries=state.attempt_number)
