"""Notices to a chat or a phone: a new best trial, a study that has stalled, and its end. `python -m service notify`.

One process sends them, so that each is sent once, whatever the number of workers. It starts from how the study stands.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

import tenacity

from model.errors import ConfigError
from service.machine.status import Snapshot
from service.storage.outages import is_outage
from service.text.quantities import shown_params, shown_seconds

SETTING = "HPTUNE_WEBHOOK"
"""Environment variable of the address, which is a secret: who knows it can write there."""
POLL_SECONDS = 15.0
TIMEOUT_SECONDS = 10.0
Form = Literal["slack", "ntfy"]
"""`slack`: JSON with a `text`, as Slack, Mattermost, Rocket.Chat and Discord's `/slack` take it. `ntfy`: the text."""


@dataclass(frozen=True)
class Webhook:
    """Where notices go.

    Raises:
        ConfigError: the address is none, without repeating it.
    """

    url: str
    form: Form = "slack"
    tries: int = 5

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            usable = False
        if not usable:
            raise ConfigError(f"{SETTING}: not an address; allowed: http://HOST/... or https://HOST/...")

    def send(self, text: str) -> str | None:
        """Send it; what was in the way after all tries, without the address's secret."""
        if self.form == "slack":
            body, kind = json.dumps({"text": text}).encode(), "application/json"
        else:
            body, kind = text.encode(), "text/plain; charset=utf-8"
        request = urllib.request.Request(self.url, data=body, headers={"Content-Type": kind}, method="POST")
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.tries),
            wait=tenacity.wait_exponential(multiplier=0.5, max=30),
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            retrying(self._post, request)
        except (OSError, ValueError) as error:
            return f"{urlsplit(self.url).hostname}: {getattr(error, 'reason', None) or type(error).__name__}"
        return None

    def _post(self, request: urllib.request.Request) -> None:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            error.close()
            raise


def _may_pass(error: BaseException) -> bool:
    """Another try may succeed: the receiver was away, busy, or asked for patience."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in (408, 429)
    return isinstance(error, OSError)


@dataclass
class Notices:
    """What is worth telling of a study, from one snapshot to the next.

    Args:
        stalled_seconds: without a rung or an end, while trials are left.
    """

    stalled_seconds: float
    _best: float | None = None
    _progress: tuple[int, int] | None = None
    _moved_at: float = field(default=0.0)
    _stalled: bool = False

    def of(self, snapshot: Snapshot, now: float) -> Iterator[str]:
        """The notices that are due at the time `now`, in seconds of any clock that goes forward."""
        study = snapshot.study.study_name
        best = snapshot.best[0] if snapshot.best else None
        first = self._progress is None
        if best is not None and best.value is not None:
            if not first and (self._best is None or best.value < self._best):
                params = shown_params(best.params)
                yield f"{study}: new best {snapshot.words.metric} {best.value:.4f} (trial {best.number}): {params}"
            self._best = best.value if self._best is None else min(self._best, best.value)
        progress = (
            snapshot.slots["closed"],
            sum(len(trial.intermediate_values) for trial in snapshot.running),
        )
        if progress != self._progress:
            self._progress, self._moved_at = progress, now
            if self._stalled:
                self._stalled = False
                yield f"{study}: goes on; {snapshot.summary}"
        elif snapshot.left and not self._stalled and now - self._moved_at >= self.stalled_seconds:
            self._stalled = True
            yield f"{study}: stalled, no rung and no end in {shown_seconds(now - self._moved_at)}; {snapshot.summary}"
        if not snapshot.left:
            yield f"{study}: all trials have finished; {snapshot.summary}"


def notify(
    take: Callable[[], Snapshot], webhook: Webhook, *, stalled_seconds: float, say: Callable[[str], None]
) -> None:
    """Send the notices of a study until its trials have finished; what cannot be sent is said.

    Args:
        take: as `service.machine.status.take` gives it.
        webhook: where to.
        stalled_seconds: as for `Notices`.
        say: takes a line for the user.
    """
    notices = Notices(stalled_seconds)
    while True:
        try:
            snapshot = take()
        except Exception as error:
            if not is_outage(error):
                raise
        else:
            for text in notices.of(snapshot, time.monotonic()):
                fault = webhook.send(text)
                say(text if fault is None else f"{text} (not sent: {fault})")
            if not snapshot.left:
                return
        time.sleep(POLL_SECONDS)
