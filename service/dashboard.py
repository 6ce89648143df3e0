"""Serves optuna-dashboard over the project's storage and artifact store, guarded."""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import bottle
import optuna_dashboard
import waitress
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import get_storage
from optuna.trial import FrozenTrial
from optuna_dashboard import _note, _serializer
from optuna_dashboard.artifact import _backend

from model.errors import ConfigError, UserError
from service.guard import USER, Application, Guard, is_loopback
from service.settings import Settings
from service.storage import open_storage, refusal
from service.stores import Store, open_store

PASSWORD = "HPTUNE_DASHBOARD_PASSWORD"
"""Environment variable of the password; with `_FILE` after it, of a file that holds it."""
LARGEST_REQUEST_BYTES = 2**20
"""Of a request's body: a note."""


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
    if not file:
        return given or None
    try:
        password = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{PASSWORD}_FILE: {file} is not text in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{PASSWORD}_FILE: {file} cannot be read: {error.strerror}") from None
    if not password:
        raise ConfigError(f"{PASSWORD}_FILE: {file} is empty")
    return password


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    password: str | None,
    published_on_loopback: bool,
    say: Callable[[str], None],
) -> None:
    """Serve the dashboard until SIGTERM or SIGINT.

    Args:
        settings: where storage and artifacts are.
        host: address to listen at.
        port: to listen at; 0 is any free one.
        password: asked of every request but `/health`.
        published_on_loopback: someone else, such as Docker, sees to it that only this machine reaches `host`.
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
    application = wsgi(settings, password=password)
    try:
        server = waitress.create_server(
            application, host=host, port=port, ident=None, max_request_body_size=LARGEST_REQUEST_BYTES
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DashboardError(f"--host {host} --port {port}: cannot be listened at: {reason}") from None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which the server takes for its end
    at = f"http://{host}:{getattr(server, 'effective_port', port)}/"
    say(f"dashboard of {settings.storage_shown} at {at}" + (f" (user {USER})" if password else ""))
    server.run()
    server.close()


def _look_up_notes() -> None:
    """Make optuna-dashboard look a trial's note up, instead of going through all attributes of the study for it.

    Twice for each trial (its note, and the artifacts listed there, of which ours are the weights), which made a study
    of 3,000 trials with notes take 17 s to open.
    """
    find_note, list_artifacts = _note.get_note_from_system_attrs, _serializer.list_trial_artifacts

    def note_of(attributes: Mapping[str, Any], trial_id: int | None) -> Any:
        parts = (f"{_note.note_str_key_prefix(trial_id)}{i}" for i in itertools.count())
        keys = [_note.note_ver_key(trial_id), *itertools.takewhile(attributes.__contains__, parts)]
        return find_note({key: attributes[key] for key in keys if key in attributes}, trial_id)

    _note.get_note_from_system_attrs = note_of

    def artifacts_of(attributes: Mapping[str, Any], own: Mapping[str, Any], trial: FrozenTrial) -> Any:
        # as service.artifacts lists them; it cannot be asked here, where there is no torch
        prefix = _backend._dashboard_artifact_prefix(trial._trial_id)
        checkpoint = trial.user_attrs.get("checkpoint")
        ids = checkpoint.values() if isinstance(checkpoint, Mapping) else ()
        keys = [f"{prefix}{artifact_id}" for artifact_id in ids]
        return list_artifacts({key: attributes[key] for key in keys if key in attributes}, own, trial)

    _serializer.list_trial_artifacts = artifacts_of


_look_up_notes()


def wsgi(settings: Settings, *, password: str | None) -> Application:
    """The guarded dashboard, as an application for a WSGI server. Raises as `serve` does."""
    # cached: the finished trials of a study are read once and not at every look
    storage = get_storage(open_storage(settings))
    dashboard = optuna_dashboard.wsgi(storage, _Reader(open_store(settings.artifacts)))

    def refused_note(study_id: int) -> str | None:
        try:
            return refusal(storage.get_study_name_from_id(study_id), storage.get_study_user_attrs(study_id))
        except KeyError:
            return None  # there is no such study, as the dashboard says itself

    return Guard(dashboard, password, refused_note)


@dataclass(frozen=True)
class _Reader:
    """The artifact store as the dashboard gets it: to read from; what is not there is `404 Not Found`."""

    store: Store

    def open_reader(self, artifact_id: str) -> BinaryIO:
        try:
            return self.store.open_reader(artifact_id)
        except ArtifactNotFound:
            raise bottle.HTTPError(404, "not there: only the best trials keep their weights") from None
