"""Connections to the database, and what is sent over them beside a statement.

With a hundred workers on two cores each way to the server and back took some 20 ms, the processors being busy with the
other workers: that, and not the server's work, is what a call costs.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

IDLE_SECONDS = 5.0
"""After which a connection is tried before it is used again, by who is patient: sooner a broken one shows in the call
itself, which is made again."""


def try_when_idle(engine: sa.Engine, *, seconds: float) -> None:
    """See that a connection that has not been used for so long is replaced if the server has ended it."""

    @sa.event.listens_for(engine, "checkin")
    def _note(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def _try(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("used_at", math.inf) < seconds:  # a new one is not tried
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise sa.exc.InvalidatePoolError(
                "the server has ended it"
            ) from error  # makes the pool make others


@contextlib.contextmanager
def for_one_statement(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for a statement that is a transaction by itself: nothing is sent to begin and to end one."""
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")
