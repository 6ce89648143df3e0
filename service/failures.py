"""How a trial can end, and what follows: one table from exception to trial state and the worker's next move."""

from dataclasses import dataclass
from typing import Literal

import torch
from optuna.trial import TrialState

from model.errors import Diverged, UserError

Next = Literal["close", "hand back", "retry", "stop"]


@dataclass(frozen=True)
class Failure:
    """What an exception out of a trial means."""

    state: TrialState
    reason: str
    next: Next
    """`close` the slot (the trial counts as finished), `hand back` and stop quietly, `retry` the configuration,
    or `stop` the worker with the message."""


class Interrupted(Exception):  # noqa: N818 - an outcome, not a fault
    """The worker was asked to stop; the state of the trial is saved."""


class Unsaved(Exception):  # noqa: N818 - an outcome, not a fault
    """The worker was asked to stop; the state of the trial could not be saved."""


def classify(error: BaseException) -> Failure:
    """The row of the table for `error`.

    A diverged or too large configuration is PRUNED: the sampler learns from PRUNED and never from FAIL.
    """
    if isinstance(error, Diverged):
        return Failure(TrialState.PRUNED, f"diverged: {error}", "close")
    if _is_out_of_memory(error):
        return Failure(TrialState.PRUNED, f"out of memory: {_first_line(error)}", "close")
    if isinstance(error, Interrupted):
        return Failure(TrialState.FAIL, "interrupted", "hand back")
    if isinstance(error, Unsaved):
        reason = "interrupted; its state could not be saved, it resumes from the last one that was"
        return Failure(TrialState.FAIL, reason, "stop")
    if isinstance(error, UserError):
        return Failure(TrialState.FAIL, str(error), "stop")
    return Failure(TrialState.FAIL, f"{type(error).__name__}: {_first_line(error)}", "retry")


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # the CPU allocator's fault is a plain RuntimeError
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"
