"""What tests of engines need of processes."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(__file__).parents[2] / ".venv-engines/bin/python"
"""Of an environment that has Ray and Kubernetes' schemas beside what this one has; `make engines` makes it."""
with_engines = pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON} is not there (make engines)")


def wait_until(what: str, found: Callable[[], Any], *, seconds: float = 240) -> Any:
    """What `found` gives as soon as it is something. The limit is there for what never comes."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)
    return result


def descendants(pid: int) -> Iterator[int]:
    """Its children, of whichever thread, and theirs."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from descendants(child)


def workers_below(pids: Iterable[int]) -> list[int]:
    """The project's worker processes among the descendants of these."""
    found = []
    for pid in pids:
        for child in descendants(pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if b"service" in command and b"work" in command:
                    found.append(child)
    return found


def variable(pid: int, name: str) -> str | None:
    """What a process has been told, as long as it is there."""
    for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        key, _, value = line.decode().partition("=")
        if key == name:
            return value
    return None


def kill(pids: Iterable[int]) -> None:
    """At once; one that has gone by itself is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
