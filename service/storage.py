"""The SQL storage: tables and study made once, opened by workers, refused when it is another one.

SQLite is set up for several processes of one machine: write-ahead log, a minute of patience for locks. A worker
holds one connection most of the time and two for moments.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage

from model.errors import UserError
from service.notes import study_note
from service.patience import (
    Patience,
    PatientStorage,
    StorageAwayError,
    StorageError,
    first_line,
    is_outage,
)
from service.settings import Settings
from service.study_config import StudyDefinition
from service.tables import create_tables, missing

optuna.logging.set_verbosity(optuna.logging.WARNING)

DEFINITION, CORPUS, COMMAND = "definition", "corpus", "command"
"""Study attributes: the snapshot of its definition; corpus fingerprint, source, artifact and budget; what made it."""
CONFIRMS = "confirms"
"""Attribute of a confirmation: the study that it confirms, and its finalists. Its workers drop losers."""
_CREATION = 0x68707475
"""The key of an advisory lock, held while a study is made."""


class StudyError(UserError):
    """The study does not exist, or is not the one that was asked for."""


def open_storage(settings: Settings, *, create: bool = False) -> PatientStorage:
    """The storage at the settings' URL.

    Args:
        settings: where it is.
        create: make what is missing: folder, file, tables. By one process, before the workers start.

    Raises:
        StorageAwayError: it cannot be reached now.
        StorageError: it is no database of Optuna's, or is of another schema, or refuses the user.
    """
    url, shown = settings.url, settings.storage_shown
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database:
        path = Path(url.database)
        if create:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"{shown}: the storage cannot be opened: {error.strerror}") from None
        elif not path.exists():
            raise StorageError(f"{shown}: there is no storage yet; ./hptune.sh makes one")
    if sqlite:
        engine_kwargs: dict[str, Any] = {"connect_args": {"timeout": 60}}
    else:
        engine_kwargs = {
            "pool_size": 1,
            "max_overflow": 2,
            "pool_pre_ping": True,
            "connect_args": _postgresql_arguments(url),
        }
    try:
        storage = PatientStorage(
            settings.storage_url, engine_kwargs=engine_kwargs, skip_table_creation=not create
        )
        if sqlite:
            _prepare_sqlite(storage.engine)
        if create:
            create_tables(storage.engine)
        lacking = missing(storage.engine)
        if lacking:
            raise StorageError(
                f"{shown}: not a storage of this project, or one of another version ({lacking} is missing); "
                "./hptune.sh makes a new one"
            )
    except (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        kind = StorageAwayError if is_outage(error) else StorageError
        raise kind(f"{shown}: the storage cannot be opened: {first_line(error)}") from None
    except ImportError as error:  # Optuna's, caused by the driver's own
        raise StorageError(f"{shown}: no driver for this database: {error.__cause__ or error}") from None
    except RuntimeError as error:  # what Optuna raises for another schema version
        raise StorageError(
            f"{shown}: the storage is of another schema: {str(error).splitlines()[0]}"
        ) from None
    return storage


def open_patiently(settings: Settings, patience: Patience) -> PatientStorage:
    """The storage for a worker, which waits for it from the start, and later wherever it is away."""
    storage: PatientStorage = patience(lambda: open_storage(settings))
    storage.patience = patience
    return storage


def _postgresql_arguments(url: sa.URL) -> dict[str, Any]:
    """A peer that has gone without a word is noticed in half a minute; what the URL itself says goes first."""
    if url.get_backend_name() != "postgresql":
        return {}
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
    settings.cache.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context((settings.cache / "create.lock").open("w"))
        fcntl.flock(file, fcntl.LOCK_EX)
        if settings.url.get_backend_name() == "postgresql":
            engine = sa.create_engine(settings.url, poolclass=sa.NullPool)
            # a server that cannot be reached is told of by whoever opens the storage
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                connection = stack.enter_context(engine.connect())
                connection.execute(sa.select(sa.func.pg_advisory_lock(_CREATION)))
        yield


def create_study(
    storage: RDBStorage,
    definition: StudyDefinition,
    corpus_facts: dict[str, Any],
    *,
    command: str,
    attributes: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """The study made from `definition`, with what it needs to be run from the database alone.

    Its note for the dashboard says how it was made: by `command`. `attributes` are further ones of the study.
    """
    # imported here: it brings scikit-learn along, most of a second that no other use of a storage has to wait for
    from optuna_dashboard import save_note

    study = optuna.create_study(storage=storage, study_name=definition.name, direction="minimize")
    with contextlib.suppress(NotImplementedError):
        _silently(study.set_metric_names, ["val_loss [nats/char]"])
    for key, value in (attributes or {}).items():
        study.set_user_attr(key, value)
    study.set_user_attr("question", definition.question)
    study.set_user_attr(CORPUS, corpus_facts)
    study.set_user_attr(COMMAND, command)
    if definition.scale is not None:
        study.set_user_attr("scale", definition.scale)
    save_note(study, study_note(definition, corpus_facts, command=command))
    study.set_user_attr(DEFINITION, definition.snapshot())  # last: a study that has it is whole
    return study


def find_study(storage: RDBStorage, name: str) -> optuna.Study | None:
    """The study called `name`, or None."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def load_study(storage: RDBStorage, name: str, settings: Settings) -> tuple[optuna.Study, StudyDefinition]:
    """A study that has been made, and its definition as stored. Raises StudyError when there is none."""
    study = find_study(storage, name)
    if study is None or DEFINITION not in study.user_attrs:
        names = optuna.get_all_study_names(storage)
        there = f"there are: {', '.join(sorted(names))}" if names else "there is none yet"
        raise StudyError(f"study {name!r} is not in {settings.storage_shown}; {there}")
    return study, StudyDefinition.from_snapshot(study.user_attrs[DEFINITION])


def refuse_changed(stored: StudyDefinition, given: StudyDefinition) -> None:
    """Raise StudyError, naming the parts, when `given` is not the definition the study was made with."""
    before, now = stored.identity(), given.identity()
    changed = [part for part in now if before.get(part) != now[part]]
    if changed:
        raise StudyError(
            f"study {given.name!r} was made with another {' and '.join(changed)}; its trials cannot be compared "
            f"with new ones. Undo the change, or give it a name of its own: --name {given.name}-2"
        )


def corpus_facts(study: optuna.Study) -> dict[str, Any]:
    """Fingerprint, source, artifact id and notes of the study's corpus, and its token budget."""
    facts: dict[str, Any] = json.loads(json.dumps(study.user_attrs[CORPUS]))
    return facts


def _silently(function: Any, *arguments: Any) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        function(*arguments)
