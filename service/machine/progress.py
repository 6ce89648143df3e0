"""What the workers of one call do: a live table on a terminal, lines elsewhere, JSON lines in a container."""

import json
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import structlog
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from service.machine.leaderboard import shown_configuration
from service.text import terminal
from service.text.quantities import shown_seconds
from service.text.terminal import FittingTable
from service.text.words import GPT, Words

Event = dict[str, Any]
"""A worker's log line."""


class View(Protocol):
    """Shows the events of worker processes, each with the index of its process."""

    def __enter__(self) -> object:
        """Start showing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Stop showing."""

    def take(self, index: int, event: Event | str) -> None:
        """Show an event, or a line that is none."""

    def say(self, line: str) -> None:
        """Show a line of the supervisor's own."""

    def gone(self, index: int) -> None:
        """The process has ended."""


class JsonLines:
    """Passes on the workers' JSON lines, and makes JSON of what is none."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def take(self, index: int, event: Event | str) -> None:
        """Pass it on, without what only a live table needs."""
        if isinstance(event, str):
            if event.strip():
                self._log.warning("output", process=index, line=event)
        elif event.get("level") != "debug":
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()

    def say(self, line: str) -> None:
        """As an event."""
        self._log.info(line)

    def gone(self, index: int) -> None:
        """As an event."""
        self._log.info("process ended", process=index)


@dataclass
class _Worker:
    """What is known of one worker from its log lines."""

    trial: int | None = None
    rung: str = "starting"
    val_loss: float | None = None
    tokens_per_second: float | None = None
    tokens: int = 0
    budget_tokens: int = 0
    seen: tuple[float, int] | None = None
    """Clock and tokens of the last progress line, for the speed between rungs."""

    def update(self, event: dict[str, Any]) -> None:
        if event["event"] == "trial started":
            self.__init__(trial=event["trial"], rung="–")  # type: ignore[misc]
        elif event["event"] == "rung":
            self.rung = f"{event['rung']}/{event['rungs']}"
            self.val_loss = event["val_loss"]
            self.tokens_per_second = event["tokens_per_second"]
        elif event["event"] == "progress":
            now = time.monotonic()
            if self.seen and event["tokens"] > self.seen[1]:
                self.tokens_per_second = (event["tokens"] - self.seen[1]) / (now - self.seen[0])
            self.seen = (now, event["tokens"])
        elif event["event"] in ("trial ended", "trial paused"):
            self.trial = None
            self.rung = event["event"].removeprefix("trial ")
        self.tokens = event.get("tokens", self.tokens)
        self.budget_tokens = event.get("budget_tokens", self.budget_tokens)

    @property
    def seconds_left(self) -> float | None:
        if not self.tokens_per_second or self.trial is None:
            return None
        return max(0, self.budget_tokens - self.tokens) / self.tokens_per_second

    @property
    def whole_seconds(self) -> float | None:
        """A whole trial at the speed of this one."""
        return self.budget_tokens / self.tokens_per_second if self.tokens_per_second else None


class LiveTable:
    """A table that is kept up to date where there is a terminal; elsewhere a line for every rung.

    Args:
        study: its name.
        workers: how many run.
        trials: how many are to finish in this call; None where that is decided on the way.
        trial_seconds: what a whole trial takes, as measured beforehand; without it no time is told until one has ended.
        best: loss and number of the study's best trial so far.
        console: where to show it.
        words: of the study.
    """

    def __init__(
        self,
        study: str,
        *,
        workers: int,
        trials: int | None,
        trial_seconds: float | None,
        console: Console,
        best: tuple[float, int] | None = None,
        words: Words = GPT,
    ) -> None:
        self._study = study
        self._words = words
        self._workers = workers
        self._trials = trials
        self._trial_seconds = trial_seconds
        self._console = console
        self._views = {index: _Worker() for index in range(workers)}
        self._ended = self._not_promoted = 0
        self._durations: list[float] = []
        self._started: dict[int, float] = {}
        self._begun: set[int] = set()
        self._best = best
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=True)

    def __enter__(self) -> "LiveTable":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if (number := self._not_promoted) > 0:
            were = "trial was" if number == 1 else "trials were"
            self.say(f"{number} paused {were} not promoted: ended with the loss of the last rung")

    def gone(self, index: int) -> None:
        """Its row stays: it may be started again."""
        self._views[index] = _Worker(rung="ended")

    def say(self, line: str) -> None:
        """Above the table."""
        for each in line.splitlines():
            terminal.say(self._console, each)

    def take(self, index: int, event: Event | str) -> None:
        """Update the row; say what begins and ends."""
        if isinstance(event, str):
            if event.strip():
                self.say(f"worker {index}: {event}")
            return
        self._views.setdefault(index, _Worker()).update(event)
        name = event["event"]
        if name == "trial started":
            self._started[index] = time.monotonic()
            begins = "goes on" if event["trial"] in self._begun else "started"
            self._begun.add(event["trial"])
            self.say(
                f"trial {event['trial']} {begins}: {shown_configuration(event.get('arm'), event['params'])}"
            )
        elif name == "rung" and not self._console.is_terminal:
            self.say(
                f"trial {event['trial']}  rung {event['rung']}/{event['rungs']}  "
                f"{self._words.metric} {event['val_loss']:.4f}  {self._speed(event['tokens_per_second'])}  "
                f"{self._time_left()}"
            )
        elif name == "audited":
            self.say(f"trial {event['trial']} to be pruned at rung {event['rung']}, runs on for the audit")
        elif name == "paused trial ended":
            self._not_promoted += 1
        elif name == "trial paused":
            self.say(f"trial {event['trial']} {event['ended']}")
        elif name == "trial ended":
            loss = "" if event["val_loss"] is None else f"  {self._words.metric} {event['val_loss']:.4f}"
            ended = event["ended"]  # `complete`, `pruned at rung 2 of 4`, `interrupted`
            if event["state"] == "FAIL" and not ended.startswith("interrupted"):
                ended = f"failed: {ended}"
            elif ended == "interrupted":
                ended = "interrupted, its state is saved"
            self.say(f"trial {event['trial']} {ended}{loss}")
            if event["state"] != "FAIL":
                self._ended += 1
                self._durations.append(time.monotonic() - self._started.get(index, time.monotonic()))
            if event["val_loss"] is not None:
                self._best = min(self._best or (float("inf"), -1), (event["val_loss"], event["trial"]))
        elif event.get("level") in ("warning", "error", "critical"):
            reason = f": {event['reason']}" if event.get("reason") else ""
            trace = f"\n{event['exception']}" if event.get("exception") else ""
            self.say(f"worker {index}: {name}{reason}{trace}")

    def _table(self) -> Group:
        rows = []
        for index in sorted(self._views):
            view = self._views[index]
            left = view.seconds_left
            row = (
                str(index),
                "–" if view.trial is None else str(view.trial),
                view.rung,
                "–" if view.val_loss is None else f"{view.val_loss:.4f}",
                "–" if view.tokens_per_second is None else self._speed(view.tokens_per_second).split()[0],
                "–" if left is None else shown_seconds(left),
            )
            rows.append(row)
        headings = ("worker", "trial", "rung", self._words.metric, f"{self._words.budget}/s", "time left")
        table = FittingTable(f"study {self._study}", headings, rows)
        best = "" if self._best is None else f"   best {self._best[0]:.4f} (trial {self._best[1]})"
        ended = f"{self._ended} trials" if self._trials is None else f"{self._ended} of {self._trials} trials"
        return Group(table, Text(f"{ended} ended{best}   {self._time_left()}"))

    def _speed(self, per_second: float) -> str:
        """Tokens come by the thousand, steps and epochs of the user's own code by the one."""
        shown = f"{per_second:,.0f}" if self._words == GPT or per_second >= 100 else f"{per_second:.3g}"
        return f"{shown} {self._words.budget}/s"

    def _time_left(self) -> str:
        if self._trials is None or self._ended >= self._trials:
            return ""
        typical = self._typical_seconds()
        if typical is None:
            return ""
        running = [view.seconds_left for view in self._views.values() if view.trial is not None]
        waiting = max(0, self._trials - self._ended - len(running))
        left = waiting * typical + sum(typical if seconds is None else seconds for seconds in running)
        return f"about {shown_seconds(left / max(1, self._workers))} left"

    def _typical_seconds(self) -> float | None:
        """What a trial takes: as those that ended did; before, at the speed measured now; before that, beforehand."""
        if self._durations:
            return sum(self._durations) / len(self._durations)
        measured = [seconds for view in self._views.values() if (seconds := view.whole_seconds)]
        return sum(measured) / len(measured) if measured else self._trial_seconds
