"""What stands between a browser and optuna-dashboard, which has no password and lets everyone change everything.

A WSGI wrapper: it asks for the password, refuses what other web sites send, lets nothing be changed but notes, and
keeps artifacts, which are data from elsewhere, from being run as part of the dashboard.
"""

import base64
import binascii
import hmac
import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

USER = "hptune"
"""Whose password it is."""

Headers = list[tuple[str, str]]
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

_NOTE = re.compile(r"/api/studies/(\d+)(/\d+)?/note\Z")
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

    `/health` answers `ok` without a password and says nothing else.
    """

    application: Application
    password: str | None
    refused_note: Callable[[int], str | None] = lambda _: None
    """Why a study's notes are not to be changed here, by its id; None where they may be."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        if environ["PATH_INFO"] == "/health":
            return _answer(start_response, "200 OK", "ok\n", [("Content-Type", "text/plain")])
        if self.password is not None and not _is_authorized(environ, self.password):
            challenge = [("WWW-Authenticate", 'Basic realm="hptune", charset="UTF-8"')]
            return _refuse(start_response, "401 Unauthorized", "password needed", challenge)
        if self.password is None and not is_loopback(_host(environ)):
            return _refuse(
                start_response,
                "403 Forbidden",
                "without a password only localhost and 127.0.0.1 are answered",
            )
        refusal = _refused_change(environ)
        note = _NOTE.match(environ["PATH_INFO"])
        if not refusal and note and environ["REQUEST_METHOD"] == "PUT":
            refusal = self.refused_note(int(note[1]))
        if refusal:
            return _refuse(start_response, "403 Forbidden", refusal)
        # optuna-dashboard fails on static files when the header is missing
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")
        is_artifact = environ["PATH_INFO"].startswith(_ARTIFACTS)

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            headers = _as_data(headers) if is_artifact else headers
            policy = _ARTIFACT_POLICY if is_artifact else _PAGE_POLICY
            headers = [*headers, *_EVERYWHERE.items(), ("Content-Security-Policy", policy)]
            return start_response(status, headers, exc_info)

        return self.application(environ, start)


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


def _refused_change(environ: dict[str, Any]) -> str | None:
    """Why a request that may change something is refused; None when it is not."""
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return None
    if environ["REQUEST_METHOD"] != "PUT" or not _NOTE.match(environ["PATH_INFO"]):
        return "this dashboard changes notes only: trials and studies belong to the workers"
    origin = environ.get("HTTP_ORIGIN")
    from_elsewhere = environ.get("HTTP_SEC_FETCH_SITE", "same-origin") not in ("same-origin", "none")
    if from_elsewhere or (origin is not None and urlsplit(origin).netloc != environ.get("HTTP_HOST")):
        return "sent by another site"
    return None


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
