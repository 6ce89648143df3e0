"""Starts the workers of one machine, shows what they do, and passes a signal on to every one of them."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from service.settings import ROOT, Settings
from service.slots import Slots

RESTARTS = 3
"""Workers killed from outside that are started again, in one call."""
STOP_SECONDS = 60.0
"""How long workers may take to save their state before they are killed."""


@dataclass
class _View:
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
        elif event["event"] == "trial ended":
            self.trial = None
            self.rung = "ended"
        self.tokens = event.get("tokens", self.tokens)
        self.budget_tokens = event.get("budget_tokens", self.budget_tokens)

    @property
    def seconds_left(self) -> float | None:
        if not self.tokens_per_second or self.trial is None:
            return None
        return max(0, self.budget_tokens - self.tokens) / self.tokens_per_second


@dataclass
class Supervisor:
    """The workers of one call.

    Args:
        settings: where things are.
        study: its name in the storage.
        slots: of the study, to count what is left.
        workers: how many to run.
        threads: CPU threads of each; None leaves it to the worker.
        trials: how many are to finish in this call.
        trial_seconds: what a whole trial takes, as measured beforehand.
        console: where to show it.
    """

    settings: Settings
    study: str
    slots: Slots
    workers: int
    threads: int | None
    trials: int
    trial_seconds: float
    console: Console
    _views: dict[int, _View] = field(default_factory=dict)
    _processes: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    _events: "queue.Queue[tuple[int, dict[str, Any] | str]]" = field(default_factory=queue.Queue)
    _ended: int = 0
    _durations: list[float] = field(default_factory=list)
    _started: dict[int, float] = field(default_factory=dict)
    _best: tuple[float, int] | None = None
    _stop_at: float | None = None
    _signals: int = 0

    def run(self) -> int:
        """Work until the slots are closed. The exit status: 0, 1 when workers failed, 130 when interrupted."""
        former = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        restarts = 0
        failed = False
        try:
            for index in range(self.workers):
                self._start(index)
            live = Live(
                console=self.console, get_renderable=self._table, refresh_per_second=2, transient=True
            )
            with live if self.console.is_terminal else _Nothing():
                while self._processes:
                    self._take_events()
                    for index, process in list(self._processes.items()):
                        if process.poll() is None:
                            continue
                        del self._processes[index]
                        if process.returncode < 0:
                            self.slots.release(_owner(process.pid))
                            if self._stop_at is None and restarts < RESTARTS:
                                restarts += 1
                                killed = f"worker {index} was killed (signal {-process.returncode})"
                                self._say(f"{killed}, starting it again")
                                self._start(index)
                                continue
                        failed = failed or process.returncode != 0
                    self._kill_when_late()
                self._take_events()
        finally:
            for process in self._processes.values():
                process.kill()
            for number, handler in former.items():
                signal.signal(number, handler)
        if self._signals:
            self._say("stopped: every trial's state is saved, the same command goes on with them")
            return 130
        return 1 if failed else 0

    def _start(self, index: int) -> None:
        command = [sys.executable, "-m", "service", "work", self.study, "--index", str(index), "--json"]
        command += ["--parent", str(os.getpid())]
        if self.threads:
            command += ["--threads", str(self.threads)]
        process = subprocess.Popen(
            command,
            cwd=os.getcwd(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
        )
        self._processes[index] = process
        self._views[index] = _View()
        threading.Thread(target=self._read, args=(index, process), daemon=True).start()

    def _read(self, index: int, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                event = None
            self._events.put(
                (index, event if isinstance(event, dict) and "event" in event else line.rstrip())
            )

    def _take_events(self) -> None:
        try:
            while True:
                index, event = self._events.get(timeout=0.2)
                self._take(index, event)
        except queue.Empty:
            return

    def _take(self, index: int, event: "dict[str, Any] | str") -> None:
        if isinstance(event, str):
            if event.strip():
                self._say(f"worker {index}: {event}")
            return
        self._views[index].update(event)
        name = event["event"]
        if name == "trial started":
            self._started[index] = time.monotonic()
            self._say(f"trial {event['trial']} started: {shown_params(event['params'])}")
        elif name == "rung" and not self.console.is_terminal:
            self._say(
                f"trial {event['trial']}  rung {event['rung']}/{event['rungs']}  "
                f"val_loss {event['val_loss']:.4f}  {event['tokens_per_second']:,.0f} tokens/s  "
                f"{self._time_left()}"
            )
        elif name == "trial ended":
            loss = "" if event["val_loss"] is None else f"  val_loss {event['val_loss']:.4f}"
            self._say(f"trial {event['trial']} {event['state'].lower()}: {event['ended']}{loss}")
            if event["state"] != "FAIL":
                self._ended += 1
                self._durations.append(time.monotonic() - self._started.get(index, time.monotonic()))
            if event["val_loss"] is not None:
                self._best = min(self._best or (float("inf"), -1), (event["val_loss"], event["trial"]))
        elif event.get("level") in ("warning", "error", "critical"):
            reason = f": {event['reason']}" if event.get("reason") else ""
            trace = f"\n{event['exception']}" if event.get("exception") else ""
            self._say(f"worker {index}: {name}{reason}{trace}")

    def _table(self) -> Group:
        table = Table(title=f"study {self.study}", title_justify="left")
        for column in ("worker", "trial", "rung", "val_loss", "tokens/s", "time left"):
            table.add_column(column, justify="right")
        for index in sorted(self._processes):
            view = self._views[index]
            left = view.seconds_left
            table.add_row(
                str(index),
                "–" if view.trial is None else str(view.trial),
                view.rung,
                "–" if view.val_loss is None else f"{view.val_loss:.4f}",
                "–" if view.tokens_per_second is None else f"{view.tokens_per_second:,.0f}",
                "–" if left is None else shown_seconds(left),
            )
        best = "" if self._best is None else f"   best {self._best[0]:.4f} (trial {self._best[1]})"
        return Group(table, Text(f"{self._ended} of {self.trials} trials ended{best}   {self._time_left()}"))

    def _time_left(self) -> str:
        typical = sum(self._durations) / len(self._durations) if self._durations else self.trial_seconds
        running = [view.seconds_left or typical for view in self._views.values() if view.trial is not None]
        waiting = max(0, self.trials - self._ended - len(running))
        left = (waiting * typical + sum(min(seconds, typical) for seconds in running)) / max(1, self.workers)
        return f"about {shown_seconds(left)} left"

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._stop_at = time.monotonic() + (STOP_SECONDS if self._signals == 1 else 0)
        for process in self._processes.values():
            process.terminate()

    def _kill_when_late(self) -> None:
        if self._stop_at is not None and time.monotonic() > self._stop_at:
            for process in self._processes.values():
                process.kill()


class _Nothing:
    """Stands for the live table where there is no terminal."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _owner(pid: int) -> str:
    import socket

    return f"{socket.gethostname()}:{pid}"


def shown_params(params: dict[str, Any]) -> str:
    """Parameters as `lr 0.0012, batch_size 64`: the last part of each key."""
    return ", ".join(f"{key.split('.')[-1]} {shown_number(value)}" for key, value in params.items()) or "–"


def shown_number(value: Any) -> str:
    """A parameter's value with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_seconds(seconds: float) -> str:
    """A duration as `45 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
