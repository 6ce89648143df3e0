"""What a command prints when it cannot go on: one line, on any terminal, and never a stack trace."""

import contextlib
import errno
import io
import sys
from collections.abc import Iterator

import click

from model.errors import UserError


@contextlib.contextmanager
def faults_in_one_line() -> Iterator[None]:
    """End the program with status 2 for what its user can mend: a UserError, a file or a device that fails."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a character that the terminal's encoding lacks costs no result
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno == errno.EPIPE:  # click's own to deal with
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(f"{where}{error.strerror or error or type(error).__name__}")


def _fail(message: str) -> None:
    click.echo(f"error: {one_line(message)}", err=True)
    sys.exit(2)


def one_line(text: str) -> str:
    """`text` on one line; what could not be printed, or would command a terminal, is escaped."""
    joined = " ".join(text.splitlines())
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in joined)
