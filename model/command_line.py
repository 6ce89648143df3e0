"""What a command prints when it cannot go on: a line for each fault, on any terminal, and never a stack trace."""

import contextlib
import errno
import io
import sys
from collections.abc import Iterator, Sequence

import click

from model.errors import UserError, notes_of

LONGEST = 1000
"""Characters of a message, of whose middle the rest is left out: a file may have given a value of megabytes."""
MOST_FAULTS = 10
"""Lines of one error; further faults are counted."""


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
        if error.shown_above:
            click.echo(error.shown_above.rstrip("\n"), err=True)
        _fail(str(error), error.exit_status, further=notes_of(error))
    except OSError as error:
        if error.errno == errno.EPIPE:  # click's own to deal with
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(f"{where}{error.strerror or str(error) or type(error).__name__}")


def _fail(message: str, status: int = 2, *, further: Sequence[str] = ()) -> None:
    for each in (message, *further[: MOST_FAULTS - 1]):
        click.echo(f"error: {one_line(each)}", err=True)
    if len(further) >= MOST_FAULTS:
        click.echo(f"error: and {len(further) - MOST_FAULTS + 1} more", err=True)
    sys.exit(status)


def one_line(text: str) -> str:
    """`text` on one line that can be read: shortened, and escaped where it would command a terminal."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    joined = " ".join(text.splitlines())
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in joined)
