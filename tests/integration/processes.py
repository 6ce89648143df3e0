"""What tests of engines need of processes."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def wait_until(what: str, found: Callable[[], Any], *, seconds: float = 240) -> Any:
    """What `found` gives as soon as it is something. The limit is there for what never comes."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)
    return result


def descendants(pid: int) -> Iterator[int]:
    """Its children, and theirs."""
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            yield child
            yield from descendants(child)
