"""How a trial can end, and what follows: one table from exception to trial state and the worker's next move."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from optuna.trial import TrialState

from model.errors import Diverged, UserError
from service.study.own_code import OwnCodeFailed, own_traceback

Next = Literal["close", "hand back", "retry", "restart", "stop"]


@dataclass(frozen=True)
class Failure:
    """What an exception out of a trial means."""

    state: TrialState
    reason: str
    next: Next
    """`close` the slot (the trial counts as finished), `hand back` and stop quietly, `retry` the configuration,
    `restart` the worker, whose process can train nothing more, or `stop` it with the message."""


class Interrupted(Exception):  # noqa: N818 - an outcome, not a fault
    """The worker was asked to stop; the state of the trial is saved."""


class Unsaved(Exception):  # noqa: N818 - an outcome, not a fault
    """The worker was asked to stop; the state of the trial could not be saved."""


class Unpaid(Exception):  # noqa: N818 - an outcome, not a fault
    """What is left of the study's budget does not pay for the trial."""


def classify(error: BaseException, *, device_answers: bool = True) -> Failure:
    """The row of the table for `error`.

    A diverged or too large configuration is PRUNED: the sampler learns from PRUNED and never from FAIL. No
    configuration is to blame for what fails on a device that does not answer any more. What the user's own code has
    raised counts as if ours had.
    """
    told = None
    if isinstance(error, OwnCodeFailed) and error.__cause__ is not None:
        told, error = f"own training code: {error}", error.__cause__
    if isinstance(error, Diverged):
        return Failure(TrialState.PRUNED, f"diverged: {error}", "close")
    if _is_out_of_memory(error):
        return Failure(TrialState.PRUNED, f"out of memory: {_first_line(error)}", "close")
    if isinstance(error, Unpaid):
        return Failure(TrialState.PRUNED, str(error), "close")
    if isinstance(error, Interrupted):
        return Failure(TrialState.FAIL, "interrupted", "hand back")
    if isinstance(error, Unsaved):
        reason = "interrupted; its state could not be saved, it resumes from the last one that was"
        return Failure(TrialState.FAIL, reason, "stop")
    if isinstance(error, UserError):
        return Failure(TrialState.FAIL, str(error), "stop")
    if not device_answers:
        return Failure(TrialState.FAIL, f"its device failed: {_first_line(error)}", "restart")
    return Failure(TrialState.FAIL, told or f"{type(error).__name__}: {_first_line(error)}", "retry")


def traced(error: BaseException) -> dict[str, Any]:
    """What a log line says of an exception that nobody foresaw: its traceback, of the user's own code theirs alone."""
    if isinstance(error, OwnCodeFailed) and error.__cause__ is not None:
        return {"exception": own_traceback(error.__cause__)}
    return {"exc_info": error}


def blames_configuration(ended: str) -> bool:
    """Whether a trial that was closed with this reason says nothing but that its configuration cannot be trained."""
    return ended.startswith(("diverged", "out of memory"))


_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator|CUDA error: out of memory|cudaErrorMemoryAllocation|_STATUS_ALLOC_FAILED"
)
"""In what the CPU's allocator, the CUDA runtime and its libraries (cuBLAS, cuDNN, ...) raise: plain RuntimeErrors."""


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"
