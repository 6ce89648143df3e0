"""Standard output and standard error that never fail: a closed pipe, a dead terminal or a full disk costs text alone.

The failure is taken in at the file descriptor, below every library that prints: Python's own streams, click, rich's
live table with its thread, structlog. Each write is tried anew, so that a log goes on when its disk has room again.
"""

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO


class _Unfailing(io.FileIO):
    """A descriptor whose failed writes count as written."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """The number of bytes taken, all of them where the write fails."""
        try:
            while (
                taken := super().write(data)
            ) is None:  # another program has set the descriptor to not block
                select.select([], [self], [])
            return taken
        except OSError as error:
            if self.failure is None:
                self.failure = error
                self._tell(error)
            return memoryview(data).nbytes

    def _tell(self, error: OSError) -> None:
        if self.fileno() == 1 and error.errno != errno.EPIPE:  # a reader that has gone knows it
            line = f"standard output cannot be written ({error.strerror}); the work goes on without it\n"
            with contextlib.suppress(OSError):
                os.write(2, line.encode())


_standard: dict[int, _Unfailing] = {}


def protect() -> None:
    """Put streams that cannot fail in the place of this process's standard output and standard error.

    What a stream's encoding lacks is written as an escape. Streams that somebody has replaced are left alone.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would take its place and get what is printed
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            os.set_inheritable(descriptor, True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _unfailing(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _unfailing(sys.stderr, 2)


def failure() -> OSError | None:
    """Why standard output could not be written, the first time that it could not."""
    return _standard[1].failure if 1 in _standard else None


def _unfailing(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None:
        stream.flush()
    raw = _standard[descriptor] = _Unfailing(descriptor, "w", closefd=False)
    encoding = stream.encoding if stream is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True
    )
