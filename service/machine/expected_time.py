"""What a study will take on this machine, told before its workers start."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

from model.errors import UserError
from service.machine.python import python
from service.storage.opened_study import OpenedStudy
from service.text.quantities import shown_seconds


def told(
    opened: OpenedStudy, *, to_run: int, workers: int, threads: int, say: Callable[[str], None]
) -> float | None:
    """Seconds of a whole trial of the base configuration; None where these cannot be measured, or need not be.

    Raises:
        UserError: it cannot be trained here, and is the study's first trial.
    """
    if opened.definition.own_run is not None:
        return None
    say("measuring how fast this machine trains: some seconds of training, and one evaluation")
    try:
        measured = _measured(opened.name, threads)
    except UserError as error:
        if opened.definition.baseline:
            raise
        say(f"no estimate of the time: {error} (in the base configuration, which is no trial of this study)")
        return None
    seconds: float = measured["train_seconds"] + measured["evaluation_seconds"]
    line = (
        f"a whole trial of the base configuration takes about {shown_seconds(seconds)} here "
        f"({measured['device']}, {measured['tokens_per_second']:,.0f} tokens/s); "
        f"{opened.shown_left(to_run)} with {workers} worker{'s' if workers > 1 else ''}"
    )
    spend = opened.definition.spend
    if spend is None or spend.unit != "seconds":
        line += f" at most about {shown_seconds(seconds * to_run / workers)}, if none is pruned and none is larger"
    say(line)
    return seconds


def _measured(study: str, threads: int) -> dict[str, Any]:
    """The estimate, from a process of its own: torch's memory is not kept while the workers run."""
    call = python("-m", "service", "estimate", study, "--threads", str(threads))
    done = subprocess.run(**call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            done.stderr.strip().removeprefix("error: ") or f"the measurement failed: {done.stdout}"
        )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
