"""Runs the worker processes of one machine: starts them, starts again what ended too early, passes signals on."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from types import FrameType

import sqlalchemy as sa

from service.machine.places import Place
from service.machine.progress import Event, View
from service.machine.python import python
from service.storage.slots import Slots

RESTARTS = 5
"""Deaths of a worker after which it is started again without having got on, by a rung or by a trial, in between."""
ECHO_SECONDS = 0.1
"""Within so short a time a signal has come once: `timeout` sends it to its command and again to the command's group.
Nobody presses a key twice as fast."""
LONGEST_BACKOFF_SECONDS = 60.0
"""Between a worker's end and its next start."""
STOP_SECONDS = 50.0
"""How long workers may take to save their state before they are killed."""


@dataclass
class _Worker:
    """A place, and the process that has it now."""

    place: Place
    owner: str
    process: "subprocess.Popen[str] | None" = None
    start_at: float | None = 0.0
    """When a process is to be started; None while one runs, and when none is to run any more."""
    ends: int = 0
    """Ends too early since it last got on, for whatever reason."""
    deaths: int = 0
    """Those of them that were its own and not the storage's."""


class Supervisor:
    """The workers of one call.

    Args:
        study: its name in the storage.
        slots: of the study, to free at once what a killed worker held.
        places: one for each worker.
        view: is shown what they do.
    """

    def __init__(self, study: str, *, slots: Slots, places: list[Place], view: View) -> None:
        self._study = study
        self._slots = slots
        self._view = view
        self._workers = [_Worker(place, _new_owner(index)) for index, place in enumerate(places)]
        self._readers: list[threading.Thread] = []
        self._events: queue.Queue[tuple[int, Event | str]] = queue.Queue()
        self._failed = False
        self._unsaved: list[str] = []
        self._signals: dict[int, float] = {}  # each, and when it came first
        self._stop_at: float | None = None
        self._killed = False

    def run(self) -> int:
        """Work until the slots are closed. The exit status: 0, 1 when workers failed, 130 when interrupted."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        former = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            with self._view:
                try:
                    self._supervise()
                finally:
                    self._end_all()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
        if self._signals:
            self._view.say(self._stopped())
            return 130
        return 1 if self._failed else 0

    def _supervise(self) -> None:
        answered = False
        while any(worker.process or worker.start_at is not None for worker in self._workers):
            for index, worker in enumerate(self._workers):
                if worker.process is None and worker.start_at is not None:
                    if self._stop_at is not None:
                        worker.start_at = None
                    elif time.monotonic() >= worker.start_at:
                        self._start(index, worker)
            self._take_events()
            if self._signals and not answered:
                answered = True
                self._view.say(
                    "stopping: each worker finishes its step and saves its trial; the same signal again kills them"
                )
            for index, worker in enumerate(self._workers):
                if worker.process is not None and (status := worker.process.poll()) is not None:
                    worker.process = None
                    self._view.gone(index)
                    self._ended(index, worker, status)
            if self._stop_at is not None and time.monotonic() > self._stop_at:
                self._kill()
        end = time.monotonic() + 5.0  # what a worker has left behind may hold its pipe open
        for reader in self._readers:
            reader.join(timeout=max(0.0, end - time.monotonic()))
        while not self._events.empty():
            self._take_events()

    def _start(self, index: int, worker: _Worker) -> None:
        call = python(
            *("-m", "service", "work", self._study, "--json", "--owner", worker.owner),
            *("--parent", str(os.getpid()), "--threads", str(worker.place.threads)),
        )
        if worker.place.gpu is not None:
            call["env"]["CUDA_VISIBLE_DEVICES"] = worker.place.gpu
        call["env"]["HPTUNE_WORKERS_PER_GPU"] = str(worker.place.sharing)
        process = subprocess.Popen(
            **call,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            errors="replace",  # whatever a library writes, the pipe is read on
        )
        worker.process, worker.start_at = process, None
        if self._stop_at is not None:  # the signal came while it was started
            process.terminate()
        reader = threading.Thread(target=self._read, args=(index, process), daemon=True)
        reader.start()
        self._readers = [*filter(threading.Thread.is_alive, self._readers), reader]

    def _ended(self, index: int, worker: _Worker, status: int) -> None:
        """What follows from a worker's end: nothing more, a new start, or a failure."""
        if status == 0 or (self._stop_at is not None and status == -signal.SIGTERM):
            return  # the slots are closed, or it was stopped; SIGTERM itself ends one that holds no trial yet
        if self._stop_at is not None:
            self._unsaved.append(f"worker {index}")
            how = (
                "killed while it was being stopped" if self._killed else "cut off while it was being stopped"
            )
            self._release(worker, f"its worker was {how}", counts=False)
        elif status == os.EX_TEMPFAIL:
            # under its own name it resumes what it still has leased, at once and without a failed attempt
            self._start_again(worker)
            self._view.say(f"worker {index} has waited long enough for the storage, starting it anew")
        elif status == 2:
            self._failed = True  # it has said what is wrong, and would say it again
        else:
            how = f"killed ({_how(status)})" if status < 0 else f"ended by a crash (status {status})"
            self._release(worker, f"its worker was {how}")
            worker.owner = _new_owner(index)
            if worker.deaths == RESTARTS:
                self._failed = True
                self._view.say(f"worker {index} was {how}, once too often")
                return
            worker.deaths += 1
            self._start_again(worker)
            self._view.say(f"worker {index} was {how}, starting it again")

    def _start_again(self, worker: _Worker) -> None:
        wait = min(2.0 ** min(worker.ends - 1, 10), LONGEST_BACKOFF_SECONDS) if worker.ends else 0.0
        worker.ends += 1
        worker.start_at = time.monotonic() + wait

    def _release(self, worker: _Worker, lost: str, *, counts: bool = True) -> None:
        # where the storage is away, the lease runs out by itself
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            self._slots.release(worker.owner, lost=lost, counts=counts)

    def _read(self, index: int, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):
                    event = None
                is_event = isinstance(event, dict) and "event" in event
                self._events.put((index, event if is_event else line.rstrip()))

    def _take_events(self) -> None:
        """Those of the next fifth of a second: many workers never fall silent."""
        end = time.monotonic() + 0.2
        with contextlib.suppress(queue.Empty):
            while (left := end - time.monotonic()) > 0:
                self._take(*self._events.get(timeout=left))

    def _take(self, index: int, event: Event | str) -> None:
        if isinstance(event, dict):
            name, state = event["event"], event.get("state")
            if name == "rung" or (name == "trial ended" and state != "FAIL"):
                self._workers[index].ends = self._workers[index].deaths = 0
        try:
            self._view.take(index, event)
        except Exception:  # a line that only looks like an event of ours must not end the training
            self._view.say(f"worker {index}: {event}")

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        repeated, now = number in self._signals, time.monotonic()
        if now - self._signals.setdefault(number, now) < ECHO_SECONDS and repeated:
            return
        # a terminal that closes may say so more than once; only who repeats Ctrl-C or SIGTERM means to kill
        self._killed = self._killed or (number != signal.SIGHUP and repeated)
        if self._killed:
            self._stop_at = 0.0
        elif self._stop_at is None:
            self._stop_at = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            if worker.process is not None:
                worker.process.terminate()

    def _kill(self) -> None:
        if not self._killed:
            self._killed = True
            self._view.say(f"killing the workers that have not ended in {STOP_SECONDS:.0f} s")
        for worker in self._workers:
            if worker.process is not None:
                worker.process.kill()

    def _end_all(self) -> None:
        """Whatever went wrong here, what the workers have trained is saved."""
        running = [worker.process for worker in self._workers if worker.process is not None]
        for process in running:
            process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in running:
            try:
                process.wait(timeout=max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def _stopped(self) -> str:
        if not self._unsaved:
            return "stopped: every trial's state is saved"
        of = ", ".join(self._unsaved)
        return f"stopped: {of} ended without saving all; those trials resume from their last saved rung"


def _new_owner(index: int) -> str:
    return f"{socket.gethostname()}:{index}:{uuid.uuid4().hex[:12]}"


def _how(status: int) -> str:
    how = f"signal {-status}"
    return f"{how}, as when the system is out of memory" if status == -signal.SIGKILL else how
