"""Of a search whose trials wait, every trial as if it had been trained to its end: few are, and those are the best."""

import math

import numpy as np
import optuna
from optuna.trial import create_trial

from model.errors import ConfigError
from service.report.figures.slices import SHORT
from service.report.record.study_record import COMPLETE, Run, StudyRecord
from service.search.belief import Belief
from service.search.problem import Begun, Problem
from service.search.process import on_one_core
from service.study.search_space import SearchSpace

FEWEST_WHOLE = 2
"""Below which nothing tells how a loss goes on."""


@on_one_core
def at_the_end(record: StudyRecord) -> optuna.Study | None:
    """All trials, complete, each with the loss that the model of `thaw` expects at the whole budget.

    The losses are those of `service.search.levels`, which keep the order. None where trials do not wait, where too few
    are whole, and where the model fails on them.
    """
    space, whole = record.definition.space, [run for run in record.runs if run.complete and run.has_curve]
    if not record.definition.pauses or len(whole) < FEWEST_WHOLE:
        return None
    rungs = tuple(int(row["rung_tokens"]) for row in whole[0].curve)
    found = [begun for run in record.runs if (begun := _begun(run, space, rungs))]
    try:
        belief = Belief(Problem(space, rungs, seed=0), found)
        ends = belief.expected_ends([trial.values for trial in found], [trial.number for trial in found])
    except (np.linalg.LinAlgError, FloatingPointError):
        return None
    study = optuna.create_study(direction="minimize", study_name=record.name)
    study.add_trials(
        [
            create_trial(
                value=float(end),
                params=space.encode(trial.values),
                distributions={key: space.distributions[key] for key in trial.values},
            )
            for trial, end in zip(found, ends, strict=True)
        ]
    )
    return study


def _begun(run: Run, space: SearchSpace, rungs: tuple[int, ...]) -> Begun | None:
    """As a searcher is told of it; None where that is no loss, or does not lie in the space."""
    if run.state not in (COMPLETE, *SHORT):
        return None  # for what diverged no loss is made up; what was interrupted goes on as another trial
    try:
        values = space.point(run.values, whole=True)
    except ConfigError:
        return None
    losses = tuple(float(row["val_loss"]) for row in run.curve)
    passed = tuple(int(row["rung_tokens"]) for row in run.curve)
    if losses and passed == rungs[: len(losses)] and all(map(math.isfinite, losses)):
        return Begun(run.trial, values, losses, "ended")
    end = run.metrics.get("val_loss")
    if run.complete and end is not None:  # put into the study from elsewhere
        return Begun(run.trial, values, (end,), "ended", skipped=len(rungs) - 1)
    return None
