"""Whether a class of the user's does what `service.trials.contract.OwnCode` asks: `check-run` trains it and looks.

Every run has a process of its own, as trials have that resume others: what a class keeps outside of its saved state is
gone there. `python -m service.machine.check_run FOLDER` is such a process.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from model.command_line import one_line
from model.config.yaml_tree import Document
from model.errors import Diverged, UserError
from model.hardware import device
from service.machine.python import python
from service.settings import Settings
from service.study.own_code import OwnCodeFailed, own_traceback, told
from service.study.own_run import BudgetConfig, OwnRunKind, imported
from service.trials.own_run import OwnRun, OwnTraining

LONGEST_STOP_SECONDS = 60.0
"""From `stop` to the end of the iteration; containers and clusters kill a worker 90 s after they have asked it."""
_JOB, _RESULT = "job.json", "result.json"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    holds: bool
    said: str
    traceback: str = ""
    """Of the class's own code, where that failed."""


class Broken(Exception):  # noqa: N818 - ends the check with a finding
    """A run has failed, and there is nothing more to look at."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding


@dataclass(frozen=True)
class Trained:
    """What one process has seen."""

    values: tuple[tuple[int, float], ...]
    """How long it had trained, and the objective, at each of its evaluations."""
    stop_seconds: float = 0.0
    after_stop: int = 0
    """Evaluations that came after `stop`."""


def check(
    kind: OwnRunKind, base: Document, folders: Sequence[Path], *, say: Callable[[str], None]
) -> Iterator[Finding]:
    """Train the class in several processes, and say of each part of the contract whether it holds.

    Args:
        kind: the class, with a budget of two rungs or more.
        base: the file that it is given.
        folders: where its module is looked for.
        say: takes a line for the user, before it is waited.

    Yields:
        The findings as they come; none after one that leaves nothing to look at.

    Raises:
        UserError: class or file cannot be used.
    """
    cls, kind = imported(kind, folders, base)
    tree = kind.read(base).tree
    exact = getattr(cls, "exact", True)
    rungs, unit = kind.budget.rungs, kind.budget.unit
    say(
        f"training it for {kind.budget.amount} {unit} as a whole twice, then from each rung to the next, then stopped: "
        f"{rungs + 3} processes, one after another"
    )
    with tempfile.TemporaryDirectory() as name:
        yield from findings(partial(_apart, Path(name), kind, tree, folders), kind, Path(name), exact=exact)


def findings(
    run: Callable[..., Trained], kind: OwnRunKind, folder: Path, *, exact: bool
) -> Iterator[Finding]:
    """What runs of the class show.

    Args:
        run: trains what a job says, and says what came of it; raises Broken.
        kind: the class, with its budget.
        folder: for saved states.
        exact: the class does not say that its values differ.
    """
    try:
        yield from _looked_at(run, kind, folder, exact)
    except Broken as broken:
        yield broken.finding


def _looked_at(run: Callable[..., Trained], kind: OwnRunKind, folder: Path, exact: bool) -> Iterator[Finding]:
    unit = kind.budget.unit
    states = [folder / f"rung-{rung}.zip" for rung in range(kind.budget.rungs)]
    whole = run("a whole run", save=states)
    at = ", ".join(str(trained) for trained, _ in whole.values)
    first, last = whole.values[0][1], whole.values[-1][1]
    yield Finding(True, f"evaluates at {at} {unit}: {kind.metric} {first:.6g} to {last:.6g}")
    seeded = "does all that is random follow from the configuration's seed?"
    yield _same("a second run", run("a second run"), whole.values, exact, seeded)
    values = list(whole.values[:1])
    for rung, state in enumerate(states[:-1], start=1):  # each goes on from what the one before has saved
        what = f"a run restored after {whole.values[rung - 1][0]} {unit}"
        values += run(what, restore=state, evaluations=1, save=[states[rung]]).values
    what = "a run saved and restored in a fresh process after every rung"
    whole_state = (
        "do save and restore hand on weights, optimizer, how far it has come, and every random generator?"
    )
    yield _same(what, Trained(tuple(values)), whole.values, exact, whole_state)
    stopped = run("a run that is stopped", stop=True, save=[states[0]])
    if stopped.after_stop > 1 or len(stopped.values) == len(whole.values):
        yield Finding(False, f"stop() did not end it: it went on to {stopped.values[-1][0]} {unit}")
        return
    said = f"ends {stopped.stop_seconds:.1f} s after stop()"
    yield Finding(
        stopped.stop_seconds <= LONGEST_STOP_SECONDS, f"{said}, allowed: {LONGEST_STOP_SECONDS:.0f} s"
    )
    rest = run("a run restored after stop()", restore=states[0])
    what = "a run restored after stop()"
    yield _same(what, Trained(stopped.values + rest.values), whole.values, exact, whole_state)


def _same(
    what: str, found: Trained, wanted: Sequence[tuple[int, float]], exact: bool, question: str
) -> Finding:
    """Whether values are those of the whole run; of a class that says it is not exact, that they are as many."""
    budgets = [trained for trained, _ in found.values], [trained for trained, _ in wanted]
    if budgets[0] != budgets[1]:
        return Finding(False, f"{what} evaluates at {budgets[0]}, must be at {budgets[1]}")
    apart = [(trained, a, b) for (trained, a), (_, b) in zip(found.values, wanted, strict=True) if a != b]
    if not apart:
        return Finding(True, f"{what} has the same values to the last bit")
    trained, a, b = apart[0]
    said = f"{what} has {a!r} at {trained}, the first run {b!r}"
    if not exact:
        return Finding(True, f"{said}: not to the bit, as the class says (exact = False)")
    return Finding(False, f"{said}: {question} Where it cannot be exact, let the class say `exact = False`")


def _apart(
    folder: Path, kind: OwnRunKind, tree: dict[str, Any], folders: Sequence[Path], what: str, **how: Any
) -> Trained:
    """A run in a process of its own. Raises Broken: it has failed."""
    write_job(folder, kind, tree, folders, **how)
    call = python("-m", "service.machine.check_run", str(folder))
    done = subprocess.run(**call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if not (folder / _RESULT).exists():
        said = (done.stdout.strip().splitlines() or ["no message"])[-1]
        ended = f"{what} ended with status {done.returncode}: {one_line(said)}"
        raise Broken(Finding(False, ended, done.stdout))
    return read_result(folder, what)


def write_job(
    folder: Path,
    kind: OwnRunKind,
    tree: Mapping[str, Any],
    folders: Sequence[Path],
    *,
    restore: Path | None = None,
    evaluations: int | None = None,
    save: Sequence[Path] = (),
    stop: bool = False,
) -> None:
    """Say what `main` is to do.

    Args:
        folder: for the job and its result.
        kind: the class, with its budget.
        tree: what it is given.
        folders: where its module is looked for.
        restore: the state to go on from.
        evaluations: after so many it is left.
        save: where to save it, after one evaluation after the other, or after the stop.
        stop: ask it to stop at its first evaluation.
    """
    job = {
        "run": kind.run,
        "budget": kind.budget.model_dump(),
        "metric": kind.metric,
        "tree": dict(tree),
        "folders": list(map(str, folders)),
        "restore": str(restore) if restore else None,
        "evaluations": evaluations,
        "save": list(map(str, save)),
        "stop": stop,
    }
    (folder / _JOB).write_text(json.dumps(job))
    (folder / _RESULT).unlink(missing_ok=True)


def read_result(folder: Path, what: str) -> Trained:
    """What `main` has left of the run called `what`. Raises Broken: it has failed."""
    found = json.loads((folder / _RESULT).read_text())
    if "fault" in found:
        raise Broken(Finding(False, f"{what}: {found['fault']}", found["traceback"]))
    values = tuple((int(trained), float(value)) for trained, value in found["values"])
    return Trained(values, found["stop_seconds"], found["after_stop"])


def main(folder: Path) -> None:
    """Do the job in `folder`, and write what came of it there."""
    job = json.loads((folder / _JOB).read_text())
    kind = OwnRunKind(job["run"], BudgetConfig(**job["budget"]), job["metric"])
    where = device.choose(Settings.from_environment().device)
    found: dict[str, Any] = {"stop_seconds": 0.0, "after_stop": 0}
    try:
        training = OwnTraining(kind, [Path(each) for each in job["folders"]], str(where.torch_device))
        config = kind.recorded(Document("base", job["tree"]))
        run = training.resume(Path(job["restore"]), config) if job["restore"] else training.begin(config)
        before = len(run.evaluations)
        states = [Path(state) for state in job["save"]]
        if job["stop"]:
            found = _stopped(run)
            run.save(states[0])
        else:
            for place, _ in enumerate(islice(run, job["evaluations"])):
                if place < len(states):
                    run.save(states[place])
        found["values"] = [(each.tokens, each.val_loss) for each in run.evaluations[before:]]
    except OwnCodeFailed as error:
        found = {"fault": str(error), "traceback": own_traceback(error.__cause__ or error)}
    except Diverged as error:
        found = {"fault": f"diverged: {error}", "traceback": ""}
    except UserError as error:
        # the saved state is a file of this check's, and the class is the one that is asked for
        fault = str(error).removeprefix(f"{job['restore']}: ").removeprefix(f"run: {kind.run}: ")
        found = {"fault": fault, "traceback": error.shown_above}
    except OSError as error:  # a trial goes on without its saved state, and a check does not
        found = {"fault": told(error), "traceback": own_traceback(error)}
    (folder / _RESULT).write_text(json.dumps(found))


def _stopped(run: OwnRun) -> dict[str, Any]:
    """Ask for a stop at the first evaluation, and see what the class does then, which a trial would not wait for."""
    evaluations = run.iterate(heeds_stop=False)
    next(evaluations)
    run.stop()
    started = time.perf_counter()
    after = sum(1 for _ in evaluations)
    return {"stop_seconds": time.perf_counter() - started, "after_stop": after}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
