"""How a study stands and what to do next, kept current in its note: written anew at every look, between two marks.

The marks are link definitions, which no renderer shows. A note without them, as people may write it, stays as it is.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from service.storage.ownership import slot_of
from service.text.commands import verb
from service.text.markdown import escaped, fenced
from service.text.quantities import shown_difference, shown_params
from service.text.words import GPT, Words

BEGIN, END = "[//]: # (how it stands)", "[//]: # (what it is)"


def with_state(note: str, state: str) -> str:
    """The note with the state in the place of the former one."""
    before, begin, rest = note.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{state}\n{END}{after}" if begin and end else note


def state_of(
    name: str,
    trials: Sequence[FrozenTrial],
    *,
    generation: str | None,
    left: int,
    shown_left: str | None = None,
    waiting: Collection[int] = (),
    has_baseline: bool,
    command: str,
    stopped: str | None = None,
    confirmed: Mapping[str, Any] | None = None,
    words: Words = GPT,
) -> str:
    """State, best and next step as Markdown.

    Args:
        name: of the study in the storage.
        trials: all that it has.
        generation: of the study, by which its own trials are known.
        left: trials that are still to finish, the running ones among them.
        shown_left: what is left of a budget in another unit; None where it is these trials.
        waiting: numbers of the trials that wait at a rung, which for Optuna run.
        has_baseline: the trial of its first slot is the baseline.
        command: what made it.
        stopped: that its search has stopped by itself, and why.
        confirmed: the arm that a confirmation has found best, its study and its seeds; None before there is one.
        words: of the study; training code of the user's knows no held-out titles.
    """
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    at_work = [t for t in trials if t.state == TrialState.RUNNING and t.number not in waiting]
    running = len(at_work)
    to_begin = f"{max(0, left - running)} to begin"
    if shown_left is not None:
        to_begin = f"{len(waiting)} waiting at a rung; {shown_left} left"
    lines = [f"**State:** {len(finished)} trials finished, {running} running, {to_begin}."]
    lines += [f"**Note:** {escaped(stopped)}"] if stopped else []
    lines += _resumed(trials)
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    if complete:
        baseline = next((t for t in complete if has_baseline and slot_of(t, generation) == 0), None)
        lines.append(_best(complete, baseline, words))
    if confirmed:
        lines.append(
            f"**Confirmed:** {escaped(confirmed['arm'])}, by {escaped(confirmed['study'])} on "
            f"{len(confirmed['seeds'])} fresh seeds."
        )
    containers = "--docker" in command.split()
    if left and not running:
        steps = [_rest(command, left)]
    elif left:
        steps = [verb("status", name, "--watch", containers=containers)]
    else:
        confirm = verb("confirm", name, containers=containers)
        evaluate = verb("evaluate", "--study", name, containers=containers)
        report = verb("report", name, containers=containers)
        steps = [f"{report}   # all of it as a page"]
        if not confirmed:
            steps.append(f"{confirm}   # is the best better, or was it lucky?")
        if words == GPT and confirmed:
            steps.append(f"{evaluate} --confirmed   # the winner on held-out titles")
        elif words == GPT:
            steps.append(f"{evaluate}   # the best on held-out titles")
    return "\n\n".join([*lines, "**Next:**", fenced("\n".join(steps), "sh")])


def _resumed(trials: Sequence[FrozenTrial]) -> list[str]:
    """Where failures are none: what was interrupted and another trial has taken up."""
    taken = {trial.user_attrs.get("goes_on_with") for trial in trials}
    resumed = [trial.number for trial in trials if trial.state == TrialState.FAIL and trial.number in taken]
    if not resumed:
        return []
    named = ", ".join(map(str, resumed[:10])) + (f" and {len(resumed) - 10} more" if resumed[10:] else "")
    return [
        f"Shown as *Fail* and none: {named}. They were interrupted, and later trials have resumed them where they were."
    ]


def _best(complete: Sequence[FrozenTrial], baseline: FrozenTrial | None, words: Words) -> str:
    best = min(complete, key=lambda trial: (trial.values, trial.number))
    assert best.value is not None, "it is complete"
    arm = best.user_attrs.get("arm")
    given = arm if isinstance(arm, str) else shown_params(best.params)
    said = f"**Best:** trial {best.number}, {escaped(words.metric)} {best.value:.4f}: {escaped(given)}"
    if baseline is None or baseline.value is None:
        return f"{said}."
    if baseline is best:
        return f"{said}; it is the baseline."
    return f"{said}; {shown_difference(best.value - baseline.value)} against the baseline, trial {baseline.number}."


def _rest(command: str, left: int) -> str:
    """The command that finishes what is left: the one that made the study, without what the study has kept."""
    words = shlex.split(command)
    kept = [word for i, word in enumerate(words) if word != "--set" and words[i - 1 : i] != ["--set"]]
    # `./hptune.sh 6 ...`, of an installed package `hptune run 6 ...`
    return shlex.join(str(left) if word.isdigit() and i in (1, 2) else word for i, word in enumerate(kept))
