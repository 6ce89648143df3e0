"""Lines about something that takes long: seldom enough for a log, often enough for somebody who waits."""

import time
from collections.abc import Callable

Say = Callable[[str], None]
"""Takes one line for the user."""

_FIRST_SECONDS, _LONGEST_SECONDS = 1.5, 30.0


class Progress:
    """Says how far something is: at first after 1.5 seconds, then ever less often, at least twice a minute.

    Args:
        say: takes the lines.
        what: what is being done, such as `fetching a.csv`.
        unit: of what is counted; None for bytes, which are shown as MB.
        total: how much there will be, where that is known; with it the time left is shown.
    """

    def __init__(self, say: Say, what: str, *, unit: str | None, total: int | None = None) -> None:
        self._say, self._what, self._unit, self._total = say, what, unit, total
        self._start = time.monotonic()
        self._pause = _FIRST_SECONDS
        self._due = self._start + self._pause
        self._done = self._skipped = 0

    def skip(self, amount: int) -> None:
        """Count what was there already, which says nothing of the speed."""
        self._done += amount
        self._skipped += amount

    def advance(self, amount: int) -> None:
        """Count what was done, and say how far it is where a line is due."""
        self._done += amount
        now = time.monotonic()
        if now >= self._due:
            self._pause = min(2 * self._pause, _LONGEST_SECONDS)
            self._due = now + self._pause
            self._say(f"{self._what}: {self._state(now - self._start)}")

    def _state(self, seconds: float) -> str:
        speed = (self._done - self._skipped) / seconds
        per_second = f"{self._shown(int(speed))}/s"
        if self._total is None or speed <= 0:
            return f"{self._shown(self._done)}, {per_second}"
        done = self._shown(self._done) if self._unit is None else f"{self._done:,}"
        left = max(0.0, (self._total - self._done) / speed)
        return f"{done} of {self._shown(self._total)}, {per_second}, {_shown_time(left)} left"

    def _shown(self, amount: int) -> str:
        return shown_bytes(amount) if self._unit is None else f"{amount:,} {self._unit}"


def _shown_time(seconds: float) -> str:
    """As `service.text.quantities.shown_seconds`, which the model knows nothing of, but to the minute."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def shown_bytes(amount: int) -> str:
    """An amount of bytes for people."""
    return f"{amount / 1e6:,.1f} MB"


def silent(_line: str) -> None:
    """Take a line and say nothing."""
