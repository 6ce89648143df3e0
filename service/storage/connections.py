"""Connections to the database, and what is sent over them beside a statement.

With a hundred workers on two cores each way to the server and back took some 20 ms, the processors being busy with the
other workers: that, and not the server's work, is what a call costs.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

IDLE_SECONDS = 5.0
"""After which a connection is tried before it is used again. Sooner a broken one shows in the call itself, and whoever
is patient makes that again."""


def try_when_idle(engine: sa.Engine) -> None:
    """See that a connection that has not been used for a while is replaced if the server has ended it."""

    @sa.event.listens_for(engine, "checkin")
    def _note(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def _try(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("used_at", time.monotonic()) < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise sa.exc.DisconnectionError("the server has ended it") from error  # has the pool make another


@contextlib.contextmanager
def for_one_statement(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for a statement that is a transaction by itself: nothing is sent to begin and to end one."""
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")
