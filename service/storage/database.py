"""The SQL storage: tables and study made once, opened by workers, refused when it is another one.

SQLite is set up for several processes of one machine: write-ahead log, a minute of patience for locks. A worker
holds one connection most of the time and two for moments.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa

from service.addresses import without_secrets
from service.settings import Settings, unwritable_cache
from service.storage.connections import IDLE_SECONDS, try_when_idle
from service.storage.outages import (
    Patience,
    StorageAwayError,
    StorageError,
    first_line,
    is_outage,
)
from service.storage.schema import create_tables, missing, upgrade
from service.storage.study_storage import StudyStorage
from service.text.commands import verb

optuna.logging.set_verbosity(optuna.logging.WARNING)


_CREATION = 0x68707475
"""The key of an advisory lock, held while a study is made."""


def open_storage(settings: Settings, *, create: bool = False, idle_seconds: float = 0.0) -> StudyStorage:
    """The storage at the settings' URL.

    Args:
        settings: where it is.
        create: make what is missing: folder, file, tables. By one process, before the workers start.
        idle_seconds: after which a connection to a server is tried before it is used again.

    Raises:
        StorageAwayError: it cannot be reached now.
        StorageError: it is no database of Optuna's, or is of another schema, or refuses the user.
    """
    url, shown = settings.url, settings.storage_shown
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database:
        path = Path(url.database)
        try:
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            there = create or path.exists()
        except OSError as error:
            raise StorageError(
                f"{shown}: the storage cannot be opened: {error.strerror}; HPTUNE_STORAGE_URL names another one"
            ) from None
        if not there:
            raise StorageError(f"{shown}: there is no storage yet; {verb('run')} makes one")
    if sqlite:
        engine_kwargs: dict[str, Any] = {"connect_args": {"timeout": 60}}
    else:
        engine_kwargs = {
            "pool_size": 1,
            "max_overflow": 2,
            "connect_args": _postgresql_arguments(url),
        }
    try:
        storage = StudyStorage(
            # escaped anew: Optuna fills in what stands in braces
            url.render_as_string(hide_password=False),
            engine_kwargs=engine_kwargs,
            skip_table_creation=not create,
        )
        if create:
            create_tables(storage.engine)
        lacking = missing(storage.engine)
        if lacking:
            upgrade(storage.engine)
            lacking = missing(storage.engine)
        if lacking:
            raise StorageError(
                f"{shown}: not a storage of this project, or one of another version ({lacking} is missing); "
                f"{verb('run')} makes a new one"
            )
        if sqlite:  # and no earlier: a file of somebody else's stays as it is
            _prepare_sqlite(storage.engine)
        else:
            try_when_idle(storage.engine, seconds=idle_seconds)
    except (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        kind = StorageAwayError if is_outage(error) else StorageError
        raise kind(f"{shown}: the storage cannot be opened: {told(error, url)}") from None
    except ImportError as error:  # Optuna's, caused by the driver's own
        raise StorageError(f"{shown}: no driver for this database: {error.__cause__ or error}") from None
    except RuntimeError as error:  # what Optuna raises for another schema version
        raise StorageError(
            f"{shown}: the storage is of another schema: {str(error).splitlines()[0]}"
        ) from None
    return storage


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[StudyStorage]:
    """The storage for one piece of work, its connections closed at the end. Raises as `open_storage` does."""
    storage = open_storage(settings)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def told(error: BaseException, url: sa.URL) -> str:
    """What the database said, on one line and without the secrets of its URL."""
    return without_secrets(first_line(error), url)


def open_patiently(settings: Settings, patience: Patience) -> StudyStorage:
    """The storage for a worker, which waits for it from the start, and later wherever it is away."""
    storage: StudyStorage = patience(lambda: open_storage(settings, idle_seconds=IDLE_SECONDS))
    storage.patience = patience
    return storage


def _postgresql_arguments(url: sa.URL) -> dict[str, Any]:
    """A peer that has gone without a word is noticed in half a minute; what the URL itself says goes first."""
    arguments = {
        "connect_timeout": 10,  # seconds, as the next three
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # milliseconds
        "application_name": "hptune",
    }
    return {key: value for key, value in arguments.items() if key not in url.query}


def _prepare_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        # safe with the write-ahead log: a power cut may lose the last commits, never the file's consistency
        connection.execute("PRAGMA synchronous=NORMAL")

    engine.dispose()  # the connections that Optuna has opened already lack the pragma
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")


@contextlib.contextmanager
def creation_lock(settings: Settings) -> Iterator[None]:
    """Let one process at a time make storage and study: on this machine, or among all of a PostgreSQL server."""
    path = settings.made_cache() / "create.lock"
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("w"))
        except OSError as error:
            raise unwritable_cache(path, error) from None
        fcntl.flock(file, fcntl.LOCK_EX)
        if settings.url.get_backend_name() == "postgresql":
            engine = sa.create_engine(settings.url, poolclass=sa.NullPool)
            # a server that cannot be reached is told of by whoever opens the storage
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                connection = stack.enter_context(engine.connect())
                connection.execute(sa.select(sa.func.pg_advisory_lock(_CREATION)))
        yield
