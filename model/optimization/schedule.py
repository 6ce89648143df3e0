"""The learning rate over a run, as a pure function of progress.

Nothing is remembered between steps: a resumed run asks for the same step and gets the same rate. What a rate
does to the parameter groups is the business of `optimizer.py`.
"""

import math
from typing import Literal, assert_never

from model.config.optimization import ScheduleConfig


def learning_rate_factor(step: int, total_steps: int, schedule: ScheduleConfig, *, peak_lr: float) -> float:
    """The share of its peak that every learning rate has in step `step`, from 0 to 1.

    The progress of step s of n is (s + 1) / n, counted at the end of the step. So the first update already
    has a rate above zero, where LambdaLR with the usual `step / warmup` wastes it, and the last one has the
    floor. A run of a single update would be at the floor at once, which may be zero; it runs at the peak.

    Args:
        step: number of the update, counted from 0.
        total_steps: updates in the run.
        schedule: shape of the curve.
        peak_lr: what an absolute `floor_lr` is a share of.
    """
    assert 0 <= step < total_steps, (step, total_steps)
    if total_steps == 1:
        return 1.0
    return factor_at((step + 1) / total_steps, schedule, floor=floor_share(schedule, peak_lr=peak_lr))


def floor_share(schedule: ScheduleConfig, *, peak_lr: float) -> float:
    """The lowest rate as a share of the peak: from `floor_lr` where given, else `floor_fraction`."""
    if schedule.floor_lr is None:
        return schedule.floor_fraction
    assert schedule.floor_lr <= peak_lr, "TrainConfig refuses a floor above the peak"
    return schedule.floor_lr / peak_lr


def factor_at(progress: float, schedule: ScheduleConfig, *, floor: float) -> float:
    """The share of the peak at `progress`, which is tokens done / budget, above 0 and at most 1.

    A linear rise from 0 (never taken) to 1 over `warmup_fraction`, also where that passes through the floor;
    then down to `floor`, which is met exactly at progress 1:

    - constant: stays at 1.
    - linear: over all that is left.
    - cosine: the same as half a period (Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5).
    - wsd: stays at 1, then down over the last `decay_fraction` (Hu et al. 2024, arXiv 2404.06395), `linear`,
      as half a period of a `cosine`, or as 1 - `sqrt`(part of it done) (Hägele et al. 2024, arXiv 2405.18392).
    """
    assert 0 < progress <= 1, progress
    if progress < schedule.warmup_fraction:
        return progress / schedule.warmup_fraction
    left = 1 - progress
    match schedule.decay:
        case "constant":
            return 1.0
        case "linear":
            height = left / (1 - schedule.warmup_fraction)
        case "cosine":
            height = (1 - math.cos(math.pi * left / (1 - schedule.warmup_fraction))) / 2
        case "wsd":
            height = _tail(min(1.0, left / schedule.decay_fraction), schedule.decay_shape)
        case _:
            assert_never(schedule.decay)
    # in this form the peak and the floor are met to the bit
    return height + (1 - height) * floor


def _tail(left: float, shape: Literal["linear", "cosine", "sqrt"]) -> float:
    """From 1, where all of the tail is `left`, to 0 at its end."""
    match shape:
        case "linear":
            return left
        case "cosine":
            return (1 - math.cos(math.pi * left)) / 2
        case "sqrt":
            return 1 - math.sqrt(1 - left)
        case _:
            assert_never(shape)
