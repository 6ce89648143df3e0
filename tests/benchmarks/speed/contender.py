"""One way of training in a process of its own, which does what it is asked for, one JSON line after the other.

    python -m tests.benchmarks.speed.contender '{"way": "seeds_way", "shape": {...}, "method": "adamw", ...}'

It begins with one step and answers that. Requests are `{"do": NAME, ...}` for a method of `Contender`. A process for
each, since a worker sets its allocator for the whole process, and since imports and first steps are part of what is
measured.
"""

import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.speed import profiles
from tests.benchmarks.speed.shapes import Shape


class Contender:
    """What can be asked for; every answer is a dictionary."""

    def __init__(self, job):
        self.job, self.shape = job, Shape(**job["shape"])
        self.make = importlib.import_module(f"tests.benchmarks.speed.{job['way']}").Way
        with np.load(job["tokens"]) as arrays:
            self.tokens = dict(arrays)
        self.resident = _status("VmRSS")
        _forget_peak()
        self.way = self._new()
        self.first_step_at = time.perf_counter()  # of a clock that all processes of a machine share

    def _new(self):
        device, threads = self.job["device"], self.job["threads"]
        way = self.make(self.shape, self.job["method"], self.tokens, device=device, threads=threads)
        self.first_step_seconds = _seconds(lambda: way.take_steps(1), way)
        return way

    def facts(self):
        """What it is."""
        names = ("precision", "library", "flops_per_step")
        found = {name: getattr(self.way, name) for name in names if hasattr(self.way, name)}
        first = {"first_step_at": self.first_step_at, "first_step_seconds": self.first_step_seconds}
        return found | first | {"torch": torch.__version__}

    def steps(self, number, **options):
        """Take steps; the seconds they took."""
        return {"seconds": _seconds(lambda: self.way.take_steps(number, **options), self.way)}

    def steps_for(self, seconds):
        """Take steps until the seconds have passed, at least one; how many, and how long it was."""
        at_once = (
            20 if self.way.device.type == "cuda" else 1
        )  # a run waits for the device at the end of a call
        started, number = time.perf_counter(), 0
        while not number or time.perf_counter() - started < seconds:
            self.way.take_steps(at_once)
            number += at_once
        _wait(self.way)
        return {"number": number, "seconds": time.perf_counter() - started}

    def peak_memory(self):
        """Bytes: what training allocated on a GPU at most, or by what it made this process grow."""
        if self.way.device.type == "cuda":
            return {"bytes": torch.cuda.max_memory_allocated(self.way.device)}
        return {"bytes": _status("VmHWM") - self.resident}

    def profile(self, number):
        """Where the time of so many steps goes, in seconds a step, and the table of operators."""
        if hasattr(self.way, "annotate"):
            self.way.annotate()
        return profiles.profile(self.way.take_steps, number, cuda=self.way.device.type == "cuda")

    def evaluate(self):
        """Seconds of an exact pass over the validation split; on a GPU of the second one."""
        if self.way.device.type == "cuda":
            self.way.evaluate()
        return {"seconds": _seconds(self.way.evaluate, self.way)}

    def next_trial(self):
        """Seconds to the end of the first step of another trial of this shape, less what its second one takes."""
        self.way = None
        started = time.perf_counter()
        self.way = self._new()
        to_first_step = time.perf_counter() - started
        return {"seconds": to_first_step - self.steps(1)["seconds"]}


def _wait(way):
    if way.device.type == "cuda":
        torch.cuda.synchronize(way.device)


def _seconds(call, way):
    _wait(way)
    started = time.perf_counter()
    call()
    _wait(way)
    return time.perf_counter() - started


def _status(name):
    """Bytes of memory by Linux's own count; ru_maxrss would begin at the size of the process that started this one."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(name)


def _forget_peak():
    """Have VmHWM begin anew, behind the peak of the imports, where the system lets us."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main():
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    contender = Contender(json.loads(sys.argv[1]))
    replies.write(json.dumps(contender.facts()) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        replies.write(json.dumps(getattr(contender, request.pop("do"))(**request)) + "\n")


if __name__ == "__main__":
    main()
