"""Serves optuna-dashboard over the project's storage and artifact store, guarded."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import bottle
import optuna_dashboard
import sqlalchemy as sa
import waitress
from optuna.artifacts.exceptions import ArtifactNotFound
from waitress.channel import HTTPChannel

from model.errors import ConfigError, UserError
from service.dashboard import metrics
from service.dashboard.guard import USER, Application, Guard, is_loopback
from service.dashboard.state import state_of, with_state
from service.settings import Settings, read_secret
from service.storage.artifact_stores import Store, open_store
from service.storage.budget import BUDGET, Budget, how_it_stopped
from service.storage.dashboard_private import amend_studies, look_up_notes, shorten_attributes
from service.storage.database import open_storage
from service.storage.optuna_private import trial_id_of
from service.storage.outages import StorageError
from service.storage.schema import GENERATION, StudyKey
from service.storage.slots import Slots
from service.storage.studies import COMMAND, CORPUS, DEFINITION, refusal
from service.storage.study_storage import StudyCache, StudyStorage
from service.study.spend import shown_cost
from service.text.words import GPT, Words

PASSWORD = "HPTUNE_DASHBOARD_PASSWORD"
"""Environment variable of the password; with `_FILE` after it, of a file that holds it."""
LARGEST_REQUEST_BYTES = 2**20
"""Of a request's body: a note."""
THREADS = 16
"""Of the server. A few of them never wait for storage or artifacts (`Guard.at_once`)."""
CONNECTIONS = 500
"""At once; a process may have 1,024 files open on most systems."""
IDLE_SECONDS = 15
"""After which a connection that sends nothing is closed, or that has not sent the whole of its request."""
PULSE_SECONDS, LONGEST_SILENCE_SECONDS = 2.0, 10.0
"""How often the storage is asked for a sign of life, and for how long it may give none."""


class DashboardError(UserError):
    """The dashboard cannot be served there, or not without a password."""


def read_password(environment: Mapping[str, str] = os.environ) -> str | None:
    """The dashboard's password, from the environment or from the file that it names; None when there is none.

    Raises:
        ConfigError: both are given, or the file is empty or cannot be read.
    """
    given, file = environment.get(PASSWORD), environment.get(f"{PASSWORD}_FILE")
    if given and file:
        raise ConfigError(f"{PASSWORD} and {PASSWORD}_FILE are both set, allowed: one of them")
    return read_secret(f"{PASSWORD}_FILE", file) if file else given or None


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    password: str | None,
    published_on_loopback: bool,
    wait: bool,
    say: Callable[[str], None],
) -> None:
    """Serve the dashboard until SIGTERM or SIGINT.

    Args:
        settings: where storage and artifacts are.
        host: address to listen at.
        port: to listen at; 0 is any free one.
        password: asked of every request but `/health`.
        published_on_loopback: someone else, such as Docker, sees to it that only this machine reaches `host`.
        wait: for a storage that is away, or in which no study has been made yet.
        say: takes a line for the user.

    Raises:
        DashboardError: `host` is beyond loopback and there is no password, or it cannot be listened at.
        UserError: the storage or the artifact store cannot be opened.
    """
    if password is None and not (is_loopback(host) or published_on_loopback):
        raise DashboardError(
            f"--host {host}: can be reached from other machines and there is no password; set {PASSWORD} or "
            f"{PASSWORD}_FILE, or take --host 127.0.0.1"
        )
    application = wsgi(settings, password=password, wait_and_say=say if wait else None)
    server = server_of(application, host=host, port=port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which the server takes for its end
    at = f"http://{host}:{getattr(server, 'effective_port', port)}/"
    say(f"dashboard of {settings.storage_shown} at {at}" + (f" (user {USER})" if password else ""))
    server.run()
    server.close()


class _Connection(HTTPChannel):  # type: ignore[misc]
    """One whose request takes as little time as nothing at all may: each drop of it would else keep it open."""

    last_activity: float
    _begun: float

    def received(self, data: bytes) -> bool:
        """Take in some bytes, of which `last_activity` has just been noted."""
        if self.request is None:
            self._begun = self.last_activity
        else:  # the rest of a request that has begun
            self.last_activity = self._begun
        return bool(super().received(data))


def server_of(application: Application, *, host: str, port: int) -> waitress.server.BaseWSGIServer:
    """The server, listening. Raises DashboardError where it cannot."""
    waitress.server.BaseWSGIServer.channel_class = _Connection
    try:
        return waitress.create_server(
            application,
            host=host,
            port=port,
            ident=None,
            threads=THREADS,
            connection_limit=CONNECTIONS,
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=5,
            asyncore_use_poll=True,
            max_request_header_size=2**16,
            max_request_body_size=LARGEST_REQUEST_BYTES,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DashboardError(f"--host {host} --port {port}: cannot be listened at: {reason}") from None


look_up_notes()


def wsgi(
    settings: Settings, *, password: str | None, wait_and_say: Callable[[str], None] | None = None
) -> Application:
    """The guarded dashboard, as an application for a WSGI server. Raises as `serve` does.

    Given `wait_and_say`, it waits for the storage and says so.
    """
    store = open_store(settings.artifacts)
    opened = open_storage(settings) if wait_and_say is None else _wait_for_storage(settings, wait_and_say)
    # cached: the finished trials of a study are read once and not at every look
    storage = StudyCache(opened)

    def is_there(study_id: int, trial_id: int | None) -> bool:
        try:
            trials = storage.get_all_trials(study_id, deepcopy=False)
        except KeyError:
            return False
        return trial_id is None or any(trial_id_of(trial) == trial_id for trial in trials)

    def refused_note(study_id: int) -> str | None:
        return refusal(storage.get_study_name_from_id(study_id), storage.get_study_user_attrs(study_id))

    def current(study_id: int, note: str) -> tuple[str, Collection[int]]:
        # the note is worth seeing without its state, where the storage is away or a study was made by hand
        with contextlib.suppress(sa.exc.SQLAlchemyError, LookupError, TypeError, ValueError, AttributeError):
            attributes = storage.get_study_user_attrs(study_id)
            generation = attributes.get(GENERATION)
            slots = Slots(opened.engine, StudyKey(study_id, generation))
            made_from, left = attributes[DEFINITION]["study"], _left(slots, attributes)
            state = state_of(
                storage.get_study_name_from_id(study_id),
                storage.get_all_trials(study_id, deepcopy=False),
                generation=generation,
                **left,
                has_baseline=made_from.get("baseline", True),
                command=attributes[COMMAND],
                stopped=how_it_stopped(attributes),
                confirmed=attributes.get("confirmed"),
                words=Words(made_from.get("metric") or "loss", "") if made_from.get("run") else GPT,
            )
            return with_state(note, state), left.get("waiting", ())
        return note, ()

    amend_studies(current)
    shorten_attributes()
    application = optuna_dashboard.wsgi(storage, _Reader(store))
    if metrics.is_on():
        application = metrics.with_metrics(application, opened.engine)
    return Guard(
        application,
        password,
        refused_note=refused_note,
        at_once=THREADS - 4,
        is_there=is_there,
        storage_answers=_Pulse(opened.engine).is_felt,
    )


def _left(slots: Slots, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What `state_of` takes of what is left."""
    if BUDGET not in attributes or (seen := Budget(slots).read()) is None:
        counts = slots.counts()
        return {"left": counts["open"] + counts["leased"]}
    whole = attributes[CORPUS]["budget_tokens"]
    shortest = min((row.tokens for row in seen.slots if row.tokens), default=whole)
    left = seen.trials_left(whole, rung=shortest, price=seen.likely_price)
    budget = (attributes[DEFINITION]["study"].get("budget") or {}).get("unit", GPT.budget)
    shown = f"{shown_cost(seen.left, seen.unit, budget=budget)} of {shown_cost(seen.granted, seen.unit, budget=budget)}"
    return {"left": left, "shown_left": shown, "waiting": slots.paused_trials()}


def _wait_for_storage(settings: Settings, say: Callable[[str], None]) -> StudyStorage:
    has_said = False
    while True:
        try:
            return open_storage(settings)
        except StorageError as error:
            if not has_said:
                say(f"waiting for the storage and its first study: {error}")
            has_said = True
            time.sleep(PULSE_SECONDS)


class _Pulse:
    """Whether the storage answers, known without asking it: a thread of its own asks, and may hang."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._felt = time.monotonic()
        threading.Thread(target=self._feel, daemon=True).start()

    def is_felt(self) -> bool:
        """It has answered a moment ago."""
        return time.monotonic() - self._felt < LONGEST_SILENCE_SECONDS

    def _feel(self) -> None:
        while True:
            with contextlib.suppress(sa.exc.SQLAlchemyError), self._engine.connect() as connection:
                connection.exec_driver_sql("SELECT study_id FROM studies LIMIT 1")
                self._felt = time.monotonic()
            time.sleep(PULSE_SECONDS)


@dataclass(frozen=True)
class _Reader:
    """The artifact store as the dashboard gets it: to read from; what is not there is `404 Not Found`."""

    store: Store

    def open_reader(self, artifact_id: str) -> BinaryIO:
        try:
            return self.store.open_reader(artifact_id)
        except ArtifactNotFound:
            raise bottle.HTTPError(404, "not there: only the best trials keep their weights") from None
