"""How measured numbers are written: as many digits as their spread lets mean something."""

import math

from service.statistics import Estimate

NONE = "–"
"""In place of a number that there is not."""


def number(value: float | None, *, spread: float | None = None) -> str:
    """A number for people.

    Args:
        value: what to write; None is written as `NONE`.
        spread: the value is written down to this one's second digit; without it, with five significant digits.
    """
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    if spread:
        decimals = min(max(1 - math.floor(math.log10(spread)), 0), 9)
        return f"{value:,.{decimals}f}"
    if value == round(value) or abs(value) >= 100_000:
        return f"{value:,.0f}"
    return f"{value:,.5g}"


def mean_and_sd(estimate: Estimate | None) -> str:
    """`1.3100 ± 0.0006`; with one seed the value alone."""
    if estimate is None:
        return NONE
    if not _varies(estimate):
        return number(estimate.mean)
    return f"{number(estimate.mean, spread=estimate.sd)} ± {number(estimate.sd, spread=estimate.sd)}"


def interval(estimate: Estimate | None) -> str:
    """`1.3085 to 1.3115`, the 95 % interval."""
    if estimate is None or estimate.interval is None:
        return NONE
    if not _varies(estimate):
        return f"{number(estimate.mean)} to {number(estimate.mean)}"
    return " to ".join(number(end, spread=estimate.sd) for end in estimate.interval)


def seeds(count: int) -> str:
    """`3 seeds`, `one seed`."""
    return "one seed" if count == 1 else f"{count} seeds"


def with_interval(estimate: Estimate) -> str:
    """`-0.0160 (95 % interval -0.0182 to -0.0138, 3 seeds)`; of one seed it says that it has none."""
    if estimate.interval is None:
        return f"{number(estimate.mean)} (one seed: no interval)"
    if not _varies(estimate):
        return f"{number(estimate.mean)} (the same with every seed)"
    mean = number(estimate.mean, spread=estimate.sd)
    return f"{mean} (95 % interval {interval(estimate)}, {seeds(estimate.n)})"


def _varies(estimate: Estimate) -> bool:
    """Equal values summed in floating point have a spread of their last bits."""
    return estimate.sd is not None and estimate.sd > 1e-9 * abs(estimate.mean)
