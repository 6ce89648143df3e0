"""The SQL storage: tables and study made once, opened by workers, refused when it is another one.

SQLite is set up for several processes of one machine: write-ahead log, a minute of patience for locks. A worker
holds one connection most of the time and two for moments.
"""

import contextlib
import dataclasses
import fcntl
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage

from model.errors import ConfigError, UserError
from service.addresses import without_secrets
from service.dashboard.notes import study_note
from service.settings import Settings, unwritable_cache
from service.storage.optuna_tables import insert_study
from service.storage.outages import (
    Patience,
    StorageAwayError,
    StorageError,
    StudyStorage,
    first_line,
    is_outage,
)
from service.storage.schema import GENERATION, create_tables, missing, upgrade
from service.study.definition import StudyDefinition

optuna.logging.set_verbosity(optuna.logging.WARNING)

DEFINITION, CORPUS, COMMAND = "definition", "corpus", "command"
"""Study attributes: the snapshot of its definition; corpus fingerprint, source, artifact and budget; what made it."""
CONFIRMS = "confirms"
"""Attribute of a confirmation: the study that it confirms, and its finalists. Its workers drop losers."""
FALLBACK = "-docstrings"
"""Ends the name of a study of `data.source: auto` that was made without a connection to the hub."""
_CREATION = 0x68707475
"""The key of an advisory lock, held while a study is made."""


class StudyError(UserError):
    """The study does not exist, or is not the one that was asked for."""


def open_storage(settings: Settings, *, create: bool = False) -> StudyStorage:
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
        try:
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            there = create or path.exists()
        except OSError as error:
            raise StorageError(
                f"{shown}: the storage cannot be opened: {error.strerror}; HPTUNE_STORAGE_URL names another one"
            ) from None
        if not there:
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
        storage = StudyStorage(
            # escaped anew: Optuna fills in what stands in braces
            url.render_as_string(hide_password=False),
            engine_kwargs=engine_kwargs,
            skip_table_creation=not create,
        )
        if create:
            create_tables(storage.engine)
        upgrade(storage.engine)
        lacking = missing(storage.engine)
        if lacking:
            raise StorageError(
                f"{shown}: not a storage of this project, or one of another version ({lacking} is missing); "
                "./hptune.sh makes a new one"
            )
        if sqlite:  # and no earlier: a file of somebody else's stays as it is
            _prepare_sqlite(storage.engine)
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


def told(error: BaseException, url: sa.URL) -> str:
    """What the database said, on one line and without the secrets of its URL."""
    return without_secrets(first_line(error), url)


def open_patiently(settings: Settings, patience: Patience) -> StudyStorage:
    """The storage for a worker, which waits for it from the start, and later wherever it is away."""
    storage: StudyStorage = patience(lambda: open_storage(settings))
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


def create_study(
    storage: RDBStorage,
    definition: StudyDefinition,
    corpus_facts: dict[str, Any],
    *,
    command: str,
    attributes: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """The study made from `definition`, with what it needs to be run from the database alone; whole or not at all.

    Its note for the dashboard says how it was made: by `command`. `attributes` are further ones of the study.

    Raises:
        StudyError: another process has made one of this name in the meantime.
    """
    # imported here: it brings scikit-learn along, most of a second that no other use of a storage has to wait for
    from optuna_dashboard._note import note_ver_key, split_body

    scale = {} if definition.scale is None else {"scale": definition.scale}
    note = study_note(definition, corpus_facts, command=command)
    try:
        insert_study(
            storage.engine,
            definition.name,
            user_attributes={
                GENERATION: uuid.uuid4().hex,
                **(attributes or {}),
                "question": definition.question,
                CORPUS: corpus_facts,
                COMMAND: command,
                **scale,
                DEFINITION: definition.snapshot(),
            },
            system_attributes={
                "study:metric_names": ["val_loss [nats/char]"],
                note_ver_key(None): 1,
                **split_body(note, None),
            },
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise StudyError(
            f"study {definition.name!r} has just been made by another process; the same command goes on with it"
        ) from None
    return optuna.load_study(study_name=definition.name, storage=storage)


def find_study(storage: RDBStorage, name: str) -> tuple[optuna.Study, StudyDefinition] | None:
    """The study called `name` and its definition as stored, or None where there is no study of this name.

    Raises:
        StudyError: there is one, and it is not this project's, or what it was made from cannot be read.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    attributes = study.user_attrs
    if refused := refusal(name, attributes):
        raise StudyError(refused)
    way_out = _way_out(name)
    try:
        definition = StudyDefinition.from_snapshot(attributes[DEFINITION])
        _check_facts(attributes[CORPUS])
    except ConfigError as error:
        raise StudyError(f"study {name!r} cannot be worked on: {error}; {way_out}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise StudyError(
            f"study {name!r}: what it was made from cannot be read ({what}), as another version or a change by hand "
            f"leaves it; {way_out}"
        ) from None
    return study, dataclasses.replace(definition, name=name)


def load_study(storage: RDBStorage, name: str, settings: Settings) -> tuple[optuna.Study, StudyDefinition]:
    """A study that has been made, and its definition as stored.

    Raises:
        StudyError: there is none, or as `find_study` raises it.
    """
    found = find_study(storage, name)
    if found is None:
        ours: list[str] = []
        others: list[str] = []
        for study in storage.get_all_studies():
            (ours if _is_ours(study.user_attrs) else others).append(study.study_name)
        there = f"there are: {', '.join(sorted(ours))}" if ours else "there is none yet"
        there += f"; made by Optuna itself: {', '.join(sorted(others))}" if others else ""
        if f"{name}{FALLBACK}" in ours:
            there = f"without a connection to the hub {name}{FALLBACK} was made in its place: give that name"
        raise StudyError(f"study {name!r} is not in {settings.storage_shown}; {there}")
    return found


def refusal(name: str, attributes: Mapping[str, Any]) -> str | None:
    """Why a study with these attributes is none to work on or to change; None of one that this project has made."""
    if _is_ours(attributes):
        return None
    what = "was made by Optuna itself, not by hptune, and has no definition to work by"
    return f"study {name!r} {what}; {_way_out(name)}"


def _way_out(name: str) -> str:
    return f"its trials are untouched; give yours another name: --name {name}-2"


def _is_ours(attributes: Mapping[str, Any]) -> bool:
    """Made by this project, whether or not what it was made from can still be read.

    A study has its definition from its first moment. Studies made before they had a generation have no other sign;
    the definition alone could be anyone's attribute.
    """
    definition = attributes.get(DEFINITION)
    return isinstance(attributes.get(GENERATION), str) or (
        isinstance(definition, Mapping) and {"name", "study", "base"} <= set(definition)
    )


def _check_facts(facts: Any) -> None:
    """Raise ValueError where the corpus of a study is not described as `service.machine.create` does it."""
    kinds = {"fingerprint": str, "source": str, "artifact": str, "train_tokens": int, "budget_tokens": int}
    wrong = [key for key, kind in kinds.items() if not isinstance(facts[key], kind)]
    if wrong or [type(count) for count in facts["documents"]] != [int, int, int]:
        raise ValueError(f"corpus: {', '.join(wrong) or 'documents'}")


def made_as(storage: RDBStorage, name: str) -> str:
    """The name of the study that a command made: `name`, or the one without a connection to the hub."""
    if find_study(storage, name) is None and find_study(storage, f"{name}{FALLBACK}") is not None:
        return f"{name}{FALLBACK}"
    return name


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
