"""What stands between a browser and optuna-dashboard, which has no password and lets everyone change everything.

A WSGI wrapper: it asks for the password, refuses what other web sites send, lets nothing be changed but notes, and
keeps artifacts, which are data from elsewhere, from being run as part of the dashboard. Whatever blocks the
dashboard, some of the server's threads stay free to say so.
"""

import base64
import binascii
import hmac
import io
import ipaddress
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

USER = "hptune"
"""Whose password it is."""
LONGEST_NOTE = 100_000
"""Characters."""

Headers = list[tuple[str, str]]
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

_NOTE = re.compile(r"/api/studies/(?P<study>[0-9]{1,9})(/(?P<trial>[0-9]{1,9}))?/note\Z")
_ARTIFACTS = "/artifacts/"
_SHOWN_TYPES = ("image/", "audio/", "video/", "text/plain", "text/csv", "application/json")
"""Content types that no browser runs as a page or a script of the dashboard's."""
_EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# a second policy beside the dashboard's own; a browser enforces both
_PAGE_POLICY = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'"
_ARTIFACT_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"


@dataclass(frozen=True)
class Guard:
    """The application behind a password, or without one for browsers on this machine.

    `/health` needs no password and says nothing but whether the storage answers.

    Args:
        application: what is guarded.
        password: of the user `USER`; None lets in who sits at this machine.
        at_once: requests that may be inside the application, fewer than the server has threads.
        is_there: whether the study with this id is there, or its trial.
        storage_answers: told at once, whatever the storage does.
    """

    application: Application
    password: str | None
    at_once: int
    is_there: Callable[[int, int | None], bool]
    refused_note: Callable[[int], str | None]
    """Why the notes of a study that is there are not to be changed here, by its id; None where they may be."""
    storage_answers: Callable[[], bool]
    _places: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", threading.BoundedSemaphore(self.at_once))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        if environ["PATH_INFO"] == "/health":
            ok = self.storage_answers()
            status, says = ("200 OK", "ok\n") if ok else ("503 Service Unavailable", "storage away\n")
            return _answer(start_response, status, says, [("Content-Type", "text/plain")])
        if self.password is not None and not _is_authorized(environ, self.password):
            challenge = [("WWW-Authenticate", 'Basic realm="hptune", charset="UTF-8"')]
            return _refuse(start_response, "401 Unauthorized", "password needed", challenge)
        if self.password is None and not is_loopback(_host(environ)):
            return _refuse(
                start_response,
                "403 Forbidden",
                "without a password only localhost and 127.0.0.1 are answered",
            )
        if not self._places.acquire(blocking=False):
            return _refuse(
                start_response,
                "503 Service Unavailable",
                f"{self.at_once} requests are being answered already, as when storage or artifacts are slow",
                [("Retry-After", "5")],
            )
        body = None
        try:
            body = self._answered(environ, start_response)
        finally:
            # a file is sent by the server's loop and holds no thread
            is_file = isinstance(body, environ.get("wsgi.file_wrapper", ())) and hasattr(body, "seek")
            if body is None or is_file:
                self._places.release()
        return body if is_file else _Body(body, self._places.release)

    def _answered(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            refusal = self._refused_change(environ)
            if refusal:
                return _refuse(start_response, *refusal)
        # optuna-dashboard fails on static files when the header is missing
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")
        is_artifact = environ["PATH_INFO"].startswith(_ARTIFACTS)

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            headers = _as_data(headers) if is_artifact else headers
            policy = _ARTIFACT_POLICY if is_artifact else _PAGE_POLICY
            headers = [*headers, *_EVERYWHERE.items(), ("Content-Security-Policy", policy)]
            return start_response(status, headers, exc_info)

        return self.application(environ, start)

    def _refused_change(self, environ: dict[str, Any]) -> tuple[str, str] | None:
        """Status and reason where a request that may change something is refused; None where it is passed on.

        What is passed on is a note as the dashboard writes it, and nothing else that was in the body.
        """
        found = _NOTE.match(environ["PATH_INFO"])
        if environ["REQUEST_METHOD"] != "PUT" or found is None:
            return (
                "403 Forbidden",
                "this dashboard changes notes only: trials and studies belong to the workers",
            )
        origin = environ.get("HTTP_ORIGIN")
        from_elsewhere = environ.get("HTTP_SEC_FETCH_SITE", "same-origin") not in ("same-origin", "none")
        if from_elsewhere or (origin is not None and urlsplit(origin).netloc != environ.get("HTTP_HOST")):
            return "403 Forbidden", "sent by another site"
        note = _read_note(environ)
        if note is None:
            return (
                "400 Bad Request",
                f'a note is JSON: {{"version": a number, "body": a text of at most {LONGEST_NOTE:,} characters}}',
            )
        if not self.is_there(int(found["study"]), int(found["trial"]) if found["trial"] else None):
            return "404 Not Found", "there is no such study or trial"
        if reason := self.refused_note(int(found["study"])):
            return "403 Forbidden", reason
        environ["wsgi.input"] = io.BytesIO(note)
        environ["CONTENT_LENGTH"], environ["CONTENT_TYPE"] = str(len(note)), "application/json"
        return None


@dataclass(frozen=True)
class _Body:
    """An answer, and what is to be done when it has been sent or given up."""

    content: Iterable[bytes]
    closed: Callable[[], None]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.content)

    def close(self) -> None:
        try:
            getattr(self.content, "close", lambda: None)()
        finally:
            self.closed()


def is_loopback(host: str) -> bool:
    """`host`, a name or an address without a port, is this machine as it calls itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host(environ: dict[str, Any]) -> str:
    return re.sub(r":\d*\Z", "", environ.get("HTTP_HOST", "")).lower()


def _is_authorized(environ: dict[str, Any], password: str) -> bool:
    scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    try:
        decoded = base64.b64decode(given.strip(), validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(decoded, f"{USER}:{password}".encode())


def _read_note(environ: dict[str, Any]) -> bytes | None:
    """The body of the request, if it is a note, written anew."""
    try:
        given = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        version, body = given["version"], given["body"]
        if type(version) is not int or type(body) is not str or len(body) > LONGEST_NOTE:
            return None
        body.encode()  # lone surrogates are no text
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return json.dumps({"version": version, "body": body}).encode()


def _as_data(headers: Headers) -> Headers:
    """An artifact's headers, so that it is downloaded or shown as an image, and never run."""
    kept = []
    for name, value in headers:
        if name.lower() == "content-type" and not value.lower().startswith(_SHOWN_TYPES):
            kept.append((name, "application/octet-stream"))
        elif name.lower() != "access-control-allow-origin":  # `*`: other sites could read it
            kept.append((name, value))
    # without a name: the browser takes the one on the dashboard's own link
    return [*kept, ("Content-Disposition", "attachment")]


def _refuse(start_response: Any, status: str, reason: str, headers: Headers | None = None) -> Iterable[bytes]:
    body = json.dumps({"reason": reason}) + "\n"
    return _answer(start_response, status, body, [("Content-Type", "application/json"), *(headers or [])])


def _answer(start_response: Any, status: str, body: str, headers: Headers) -> Iterable[bytes]:
    content = body.encode()
    start_response(status, [*headers, ("Content-Length", str(len(content))), *_EVERYWHERE.items()])
    return [content]
