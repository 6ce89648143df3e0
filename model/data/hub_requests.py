"""Requests to the Hugging Face hub: retried where that helps, and every failure told in one line.

One rule: only where the hub gives no answer at all it is unreachable. An answer that asks for patience (429, 5xx) is
obeyed, and one that refuses is the user's to correct.
"""

import contextlib
import email.utils
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from model.data.progress import Say
from model.errors import CorpusError

Kind = Literal["dataset", "model"]
_Answer = TypeVar("_Answer")

_FIRST_ATTEMPTS = 2
"""Connections that are tried before a hub that has never answered is unreachable."""
_DAMAGED_ATTEMPTS = 3
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_HOST = "huggingface.co"
_PROXIES = {"http_proxy", "https_proxy", "all_proxy"}


class HubUnreachableError(CorpusError):
    """There is no connection: nothing is known about the repository. `reason` is a plain phrase."""

    def __init__(self, where: str, reason: str, way_out: str) -> None:
        self.reason = reason
        super().__init__(
            f"{where} cannot be fetched, the hub cannot be reached ({reason}): allowed without it: {way_out}"
        )


class DamagedError(Exception):
    """What arrived is not what the hub has."""


@dataclass
class Requests:
    """What is asked of the hub about one repository, for a key of the configuration."""

    repository: str
    kind: Kind
    key: str
    """The key that names the repository, such as `data.hub.id`."""
    way_out: str
    """What is allowed without a connection."""
    say: Say
    patience_seconds: float
    """How long the hub may be away, or ask to be left alone, without any progress."""
    answered: bool = field(default=False, init=False)

    def patiently(self, act: Callable[[], _Answer], *, size: Callable[[], int] = lambda: 0) -> _Answer:
        """What `act` gives, retried while there is hope; `size` grows where an attempt made progress.

        Raises:
            HubUnreachableError: no connection, and the hub has never answered.
            CorpusError: it refuses, or its patience ended.
        """
        from httpx2 import TransportError
        from huggingface_hub.errors import HfHubHTTPError

        tried, before, since = 0, size(), time.monotonic()
        while True:
            wait = min(_FIRST_PAUSE * 2**tried, _LONGEST_PAUSE)
            try:
                result = act()
                self.answered = True
                return result
            except HfHubHTTPError as error:
                self.answered = True
                status = error.response.status_code
                if status < 500 and status not in (408, 429):
                    raise self._refusal(error) from None
                wait = _asked_wait(error.response.headers, default=wait)
                problem = f"{error.response.url.host} answers {status} {error.response.reason_phrase}".strip()
            except TransportError as error:
                reason = plain(error)
                problem = f"{_host_of(error)} does not answer ({reason})"
                if not self.answered and tried + 1 >= _FIRST_ATTEMPTS:
                    raise HubUnreachableError(self.where, reason, self.way_out) from None
            except DamagedError:
                problem = f"what {host()} sends is damaged"
                if tried + 1 >= _DAMAGED_ATTEMPTS:
                    raise CorpusError(f"{self.where}: {problem}, time and again; try later") from None
            tried += 1
            if size() > before:
                tried, before, since = 0, size(), time.monotonic()
            if time.monotonic() - since + wait > self.patience_seconds:
                raise CorpusError(
                    f"{self.where} cannot be fetched: {problem}; {wait:,.0f} s more would be longer than the "
                    f"{self.patience_seconds:,.0f} s that are waited; try later, what was fetched is kept"
                )
            self.say(f"{problem}: trying again in {wait:,.1f} s")
            time.sleep(wait)

    @property
    def where(self) -> str:
        """How a message begins."""
        return f"{self.key}: {self.repository}"

    @contextlib.contextmanager
    def door(self) -> Iterator[None]:
        """Whatever a library raises inside leaves as a CorpusError of one line."""
        from httpx2 import InvalidURL

        _check_environment()
        from huggingface_hub import errors

        try:
            yield
        except CorpusError:
            raise
        except errors.OfflineModeIsEnabled:
            raise HubUnreachableError(self.where, "HF_HUB_OFFLINE is set", self.way_out) from None
        except errors.HFValidationError:
            raise CorpusError(
                f"{self.key}: must be the name of a {self._noun} of the hub, given {self.repository!r}"
            ) from None
        except OSError as error:
            place = error.filename or self.where
            raise CorpusError(f"{place}: {error.strerror or plain(error)}") from None
        except Exception as error:
            proxies = sorted(name for name in os.environ if name.lower() in _PROXIES and os.environ[name])
            if proxies and isinstance(error, ImportError | ValueError | InvalidURL):
                raise CorpusError(
                    f"{', '.join(proxies)}: no proxy that can be used ({plain(error)}): allowed: http://HOST:PORT"
                ) from None
            raise CorpusError(f"{self.where}: cannot be fetched: {plain(error)}") from None

    def _refusal(self, error: Any) -> CorpusError:
        """What the hub's answer means, in the user's words."""
        from huggingface_hub import errors, get_token

        response = error.response
        sent = get_token() is not None
        token = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the token of `hf auth login`"
        if response.status_code == 401 and sent:
            return CorpusError(
                f"{token}: the hub does not accept it (401), it may have expired: allowed: a valid one, or none"
            )
        match error:
            case errors.RevisionNotFoundError():
                return CorpusError(f"{self.where} has no such revision on the hub")
            case errors.GatedRepoError():
                whose = f"by the account of {token}" if sent else "on the hub, and HF_TOKEN has to be set"
                return CorpusError(f"{self.where} asks for its terms to be accepted first, {whose}")
            case errors.RepositoryNotFoundError():
                private = "" if sent else "; a private one needs HF_TOKEN"
                return CorpusError(
                    f"{self.key}: the hub has no public {self._noun} {self.repository!r}{private}"
                )
            case errors.EntryNotFoundError():
                return CorpusError(f"{self.where} has no {Path(response.request.url.path).name}")
        answer = f"{response.url.host} answers {response.status_code} {response.reason_phrase}".strip()
        return CorpusError(f"{self.where} cannot be fetched: {answer}")

    @property
    def _noun(self) -> str:
        return "dataset" if self.kind == "dataset" else "repository"


def endpoint() -> str | None:
    """The address of the hub, where it is another than the library's."""
    return os.environ.get("HF_ENDPOINT") or None


def host() -> str:
    """The hub's name for people, without an account."""
    return re.sub(r"\A\w+://([^/]*@)?|/.*", "", endpoint() or _HOST)


def plain(error: BaseException) -> str:
    """What an exception says, in one line, without passwords and signatures in addresses."""
    text = " ".join(str(error).split())
    text = re.sub(r"://[^/\s]*@", "://***@", text)
    text = re.sub(r"(https?://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)
    return text[:200] or type(error).__name__


def _host_of(error: Any) -> str:
    try:
        return str(error.request.url.host)
    except RuntimeError:  # it stands for no request
        return host()


def _check_environment() -> None:
    """Refuse what no request can be made with, before the libraries trip over it, some of them as they are imported."""
    from httpx2 import URL, InvalidURL

    given = endpoint()
    if given is not None:
        try:
            url = URL(given)
            usable = url.scheme in ("http", "https") and bool(url.host)
        except (InvalidURL, ValueError):
            usable = False
        if not usable:
            raise CorpusError("HF_ENDPOINT: not the address of a hub: allowed: https://HOST, or unset")
    try:
        from huggingface_hub import get_token
    except ValueError as error:
        names = ", ".join(sorted(name for name in os.environ if name.startswith("HF_")))
        raise CorpusError(
            f"{names}: one of them is nothing that the hub's library can read: {plain(error)}"
        ) from None
    token = get_token() or ""
    if not (token.isascii() and token.isprintable()):
        raise CorpusError("HF_TOKEN: holds characters that no token has: copy it anew, or unset it")


def _asked_wait(headers: Mapping[str, str], *, default: float) -> float:
    """The seconds that an answer asks to be left alone; `default` where it does not say."""
    window = re.search(r"(?:^|;)\s*t=(\d+)", headers.get("ratelimit", ""))
    asked = headers.get("retry-after", "").strip() or (window[1] if window else "")
    if asked.isdecimal():
        return float(asked)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    return default
