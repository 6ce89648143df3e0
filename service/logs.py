"""Log lines: for people on a terminal, JSON for containers and for the live table; a trial's own are kept.

A process runs one trial at a time, so the lines that are kept are those of the trial that logged last.
"""

import json
import sys
from collections import deque
from typing import Any

import structlog

KEPT_CHARACTERS = 200_000
"""Of the newest lines of a trial; older ones are dropped."""


class TrialLines:
    """A structlog processor that keeps the lines of one trial, as JSON."""

    def __init__(self) -> None:
        self._trial: int | None = None
        self._lines: deque[str] = deque()
        self._characters = 0

    def __call__(self, _logger: Any, _method: str, event: structlog.typing.EventDict) -> Any:
        """Keep the event if it is a trial's; return it unchanged."""
        trial = event.get("trial")
        if trial is None or event.get("level") == "debug":
            return event
        if trial != self._trial:
            self._trial, self._lines, self._characters = trial, deque(), 0
        self._lines.append(json.dumps(event, default=str) + "\n")
        self._characters += len(self._lines[-1])
        while self._characters > KEPT_CHARACTERS:
            self._characters -= len(self._lines.popleft())
        return event

    def of(self, trial: int) -> str:
        """The lines of `trial`, or nothing when another one has logged since."""
        return "".join(self._lines) if trial == self._trial else ""


_trial_lines = TrialLines()


def of_trial(number: int) -> str:
    """The newest log lines of the trial that this process runs, as JSON lines; times in UTC."""
    return _trial_lines.of(number)


def _for_people(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Losses with four decimals, other fractions with four digits."""

    def shown(key: str, value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return f"{value:.4f}" if "loss" in key else f"{value:.4g}"

    return {key: shown(key, value) for key, value in event.items()}


def configure(*, json_lines: bool, **context: Any) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry `context`. JSON goes to standard output, text to standard error."""
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _trial_lines,
    ]
    if json_lines:
        processors.append(structlog.processors.JSONRenderer())
    else:
        processors += [
            _for_people,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(),
        ]
    structlog.configure(
        processors=processors,
        logger_factory=structlog.PrintLoggerFactory(sys.stdout if json_lines else sys.stderr),
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(**context)
    return logger
