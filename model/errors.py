"""What can go wrong, named by what the caller does next.

A `UserError` is shown as one line, without a stack trace, and ends the program with a non-zero status. Where several
things are wrong at once its notes (PEP 678) are the other lines, so that all can be mended at once.
`Diverged` is an outcome of a training run, to be recorded and not to be shown as a fault.
"""

from collections.abc import Sequence
from typing import ClassVar


class UserError(ValueError):
    """Something the user gave cannot be used. The message says where, what was given and what is allowed."""

    exit_status: ClassVar[int] = 2
    """Of a program that ends with it."""
    shown_above: str = ""
    """Lines to show before the one: of code of the user's that failed, its traceback."""


class ConfigError(UserError):
    """A configuration file, or an override of it, has to be corrected."""


def together(faults: Sequence[ConfigError]) -> ConfigError:
    """The first of some faults, with the other ones and theirs as its notes; what two of them say is said once."""
    first, *others = faults
    said = [str(first), *notes_of(first)]
    for fault in others:
        for line in (str(fault), *notes_of(fault)):
            if line not in said:
                said.append(line)
                first.add_note(line)
    return first


def notes_of(error: UserError) -> tuple[str, ...]:
    """What was found wrong besides, a line each."""
    return tuple(getattr(error, "__notes__", ()))


class CorpusError(UserError):
    """The documents are missing, unreadable or too few."""


class CheckpointError(UserError):
    """A checkpoint or a saved state is truncated, foreign or of another configuration."""


class Diverged(ArithmeticError):  # noqa: N818 - an outcome, not a fault
    """Training met a non-finite loss or gradient. Raised before the update that would have spread it."""
