"""Runs the worker processes of one machine: starts them, starts killed ones again, passes signals on."""

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
from types import FrameType

import sqlalchemy as sa

from service.machine import Place
from service.progress import Event, View
from service.python import python
from service.slots import Slots

RESTARTS = 5
"""Workers killed from outside that are started again without a trial finished in between."""
STOP_SECONDS = 50.0
"""How long workers may take to save their state before they are killed."""


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
        self._places = places
        self._view = view
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._owners: dict[int, str] = {}
        self._readers: list[threading.Thread] = []
        self._events: queue.Queue[tuple[int, Event | str]] = queue.Queue()
        self._restarts = 0
        self._signals = 0
        self._stop_at: float | None = None

    def run(self) -> int:
        """Work until the slots are closed. The exit status: 0, 1 when workers failed, 130 when interrupted."""
        former = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        failed = False
        try:
            with self._view:
                for index in range(len(self._places)):
                    self._start(index)
                while self._processes:
                    self._take_events()
                    for index, process in list(self._processes.items()):
                        if process.poll() is not None:
                            failed = not self._ended(index, process.returncode) or failed
                    self._kill_when_late()
                for reader in self._readers:
                    reader.join(timeout=5.0)
                while not self._events.empty():
                    self._take_events()
        finally:
            for process in self._processes.values():
                process.kill()
            for number, handler in former.items():
                signal.signal(number, handler)
        if self._signals:
            self._view.say("stopped: every trial's state is saved, the same command goes on with them")
            return 130
        return 1 if failed else 0

    def _start(self, index: int) -> None:
        place = self._places[index]
        self._owners[index] = owner = f"{socket.gethostname()}:{index}:{uuid.uuid4().hex[:12]}"
        call = python(
            *("-m", "service", "work", self._study, "--json", "--owner", owner),
            *("--parent", str(os.getpid()), "--threads", str(place.threads)),
        )
        if place.gpu is not None:
            call["env"]["CUDA_VISIBLE_DEVICES"] = place.gpu
        call["env"]["HPTUNE_WORKERS_PER_GPU"] = str(place.sharing)
        process = subprocess.Popen(
            **call,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
        )
        self._processes[index] = process
        reader = threading.Thread(target=self._read, args=(index, process), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _ended(self, index: int, status: int) -> bool:
        """Whether all is well after a worker's end; one killed from outside is started again."""
        del self._processes[index]
        self._view.gone(index)
        if status >= 0:
            return status == 0
        how = f"signal {-status}"
        if status == -signal.SIGKILL:
            how += ", as when the system is out of memory"
        # where the storage is away, the lease runs out by itself
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            self._slots.release(self._owners[index], lost=f"its worker was killed ({how})")
        if self._stop_at is not None:
            return True
        if self._restarts == RESTARTS:
            self._view.say(f"worker {index} was killed ({how}), once too often")
            return False
        self._restarts += 1
        self._view.say(f"worker {index} was killed ({how}), starting it again")
        self._start(index)
        return True

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
        """Those of the next fifth of a second: many workers never fall silent."""
        end = time.monotonic() + 0.2
        with contextlib.suppress(queue.Empty):
            while (left := end - time.monotonic()) > 0:
                index, event = self._events.get(timeout=left)
                if isinstance(event, dict) and event["event"] == "trial ended" and event["state"] != "FAIL":
                    self._restarts = 0
                self._view.take(index, event)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        self._stop_at = time.monotonic() + (STOP_SECONDS if self._signals == 1 else 0)
        for process in self._processes.values():
            process.terminate()

    def _kill_when_late(self) -> None:
        if self._stop_at is not None and time.monotonic() > self._stop_at:
            for process in self._processes.values():
                process.kill()
