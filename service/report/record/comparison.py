"""Arms within equal budgets of tokens, steps, floating-point operations or seconds: losses read off their curves.

Where an arm's run goes on beyond the budget, it is in the middle of its schedule there: unless that is constant, its
learning rate has not come down yet, and a run planned for this budget would likely end lower than its curve shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from service.report.record.study_record import Arm, Run, StudyRecord

Resource = Literal["tokens", "steps", "FLOPs", "seconds"]
RESOURCES: tuple[Resource, ...] = ("tokens", "steps", "FLOPs", "seconds")
_FIELDS: dict[Resource, str] = {"tokens": "tokens", "steps": "step", "seconds": "train_seconds"}
SLACK = 0.01
"""Share of a budget by which an arm may end earlier or later and still be said to end there."""


@dataclass(frozen=True)
class Point:
    """The point of a resource at which arms are compared."""

    resource: Resource
    x: float
    """Tokens, steps, operations of training, or seconds of training (evaluations not counted)."""
    arm: str
    """That ends there."""


def position(run: Run, row: Mapping[str, Any], resource: Resource) -> float | None:
    """Where on the resource's axis a row of the run's curve lies; None where that is not known.

    Operations are those of a training token, which the configuration gives, times the tokens.
    """
    if resource == "FLOPs":
        each, tokens = run.metrics.get("flops_per_token"), row.get("tokens")
        return each * tokens if each is not None and tokens is not None else None
    found: float | None = row.get(_FIELDS[resource])
    return found


def positions(run: Run, resource: Resource) -> list[float]:
    """`position` of every evaluation of the run; empty where one of them is not known."""
    found = [x for row in run.curve if (x := position(run, row, resource)) is not None]
    return found if run.has_curve and len(found) == len(run.curve) else []


def ends(arm: Arm, resource: Resource) -> list[float]:
    """Where the arm's complete runs end, those of which it is known."""
    return [found[-1] for run in arm.complete if (found := positions(run, resource))]


def common_point(record: StudyRecord, resource: Resource) -> Point | None:
    """The farthest amount of the resource that all complete runs reach; None without a complete run."""
    found = [(end, arm.name) for arm in record.arms for end in ends(arm, resource)]
    return Point(resource, *min(found, key=lambda pair: pair[0])) if found else None


def end_of(arm: Arm, resource: Resource) -> Point | None:
    """The end of the arm, of its longest run where they differ; None without a complete run."""
    found = ends(arm, resource)
    return Point(resource, max(found), arm.name) if found else None


def loss_within(run: Run, resource: Resource, x: float) -> float | None:
    """The run's `val_loss` at `x`, interpolated linearly between its rungs; its last one where it ends before.

    Returns:
        None before the first rung: nothing is extrapolated.
    """
    xs = positions(run, resource)
    if not xs or x < xs[0]:
        return None
    return float(np.interp(x, xs, [row["val_loss"] for row in run.curve]))


def losses_within(arm: Arm, resource: Resource, x: float) -> dict[int, float]:
    """`loss_within` of each complete run that has one, by seed."""
    found = {run.seed: loss_within(run, resource, x) for run in arm.complete}
    return {seed: loss for seed, loss in found.items() if loss is not None}


def goes_on(arm: Arm, point: Point) -> bool:
    """Runs of the arm end noticeably later than at the point."""
    return any(end > point.x * (1 + SLACK) for end in ends(arm, point.resource))


def ends_before(arm: Arm, point: Point) -> bool:
    """Runs of the arm end noticeably earlier than at the point, which is not its own."""
    return arm.name != point.arm and any(end < point.x * (1 - SLACK) for end in ends(arm, point.resource))


def end_together(record: StudyRecord, resource: Resource) -> bool:
    """All arms end at one amount of the resource."""
    point = common_point(record, resource)
    return point is not None and not any(goes_on(arm, point) for arm in record.arms)


def is_unfinished(arm: Arm, point: Point) -> bool:
    """At the point, runs of the arm are in the middle of a schedule that lowers the learning rate later."""
    constant = any(run.config and run.config["schedule"]["decay"] == "constant" for run in arm.complete)
    return goes_on(arm, point) and not constant
