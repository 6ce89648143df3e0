"""Arms at equal tokens, equal steps and equal seconds: their validation losses, read off their curves.

Where one arm ends earlier than the others, the others are in the middle of their schedules there: unless these are
constant, their learning rates have not come down yet, and a budget of that length would have given them a lower loss
than their curves show.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from service.report.record import Arm, Run, StudyRecord

Axis = Literal["tokens", "steps", "seconds"]
AXES: tuple[Axis, ...] = ("tokens", "steps", "seconds")
_FIELDS: dict[Axis, str] = {"tokens": "tokens", "steps": "step", "seconds": "train_seconds"}
SLACK = 0.01
"""Share of the point by which an arm may end later than there and still be said to end there."""


@dataclass(frozen=True)
class Point:
    """The point of an axis at which arms are compared."""

    axis: Axis
    x: float
    """Tokens, steps or seconds of training (evaluations not counted)."""
    shortest: str
    """The arm that ends there."""


def end(run: Run, axis: Axis) -> float:
    """Where a complete run ends on the axis."""
    return float(run.curve[-1][_FIELDS[axis]])


def common_point(record: StudyRecord, axis: Axis) -> Point | None:
    """The farthest point of the axis that all complete runs reach; None without a complete run."""
    ends = [(end(run, axis), run.arm) for arm in record.arms for run in arm.complete if run.has_curve]
    if not ends:
        return None
    x, shortest = min(ends, key=lambda pair: pair[0])
    return Point(axis, x, shortest)


def loss_at(run: Run, axis: Axis, x: float) -> float | None:
    """The run's `val_loss` at `x`, interpolated linearly between its rungs.

    Returns:
        None before the first rung and beyond the end: nothing is extrapolated.
    """
    xs = [row[_FIELDS[axis]] for row in run.curve]
    if not xs or not xs[0] <= x <= xs[-1]:
        return None
    return float(np.interp(x, xs, [row["val_loss"] for row in run.curve]))


def losses_at(arm: Arm, axis: Axis, x: float) -> dict[int, float]:
    """`loss_at` of each complete run that reaches `x`, by seed."""
    found = {run.seed: loss_at(run, axis, x) for run in arm.complete if run.has_curve}
    return {seed: loss for seed, loss in found.items() if loss is not None}


def goes_on(arm: Arm, point: Point) -> bool:
    """Runs of the arm end noticeably later than at the point."""
    return any(end(run, point.axis) > point.x * (1 + SLACK) for run in arm.complete if run.has_curve)


def is_unfinished(arm: Arm, point: Point) -> bool:
    """At the point, runs of the arm are in the middle of a schedule that lowers the learning rate later."""
    constant = any(run.config and run.config["schedule"]["decay"] == "constant" for run in arm.complete)
    return goes_on(arm, point) and not constant
