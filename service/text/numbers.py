"""How measured numbers are written: as many digits as their spread lets mean something."""

import math

from service.statistics import Estimate

NONE = "–"
"""In place of a number that there is not."""


LOSS = 4
"""Decimals of a loss, in nats per character, everywhere: what runs of one configuration agree in ends there."""
_DIFFERENCE = 3
"""Significant digits of a difference of losses."""


def number(value: float | None, *, spread: float | None = None, decimals: int | None = None) -> str:
    """A number for people.

    Args:
        value: what to write; None is written as `NONE`.
        spread: the value is written down to this one's second digit; without it, with five significant digits.
        decimals: as many of them, whatever the spread.
    """
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    if spread:
        decimals = min(max(1 - math.floor(math.log10(spread)), 0), 9)
        return f"{value:,.{decimals}f}"
    if value == round(value) or abs(value) >= 100_000:
        return f"{value:,.0f}"
    return f"{value:,.5g}"


def of_difference(value: Estimate | float | None) -> int:
    """Decimals with which a difference has three significant digits; where its spread is larger, that has them."""
    if isinstance(value, Estimate):
        value = max(abs(value.mean), value.sd or 0.0)
    if not value or not math.isfinite(value):
        return _DIFFERENCE
    return min(max(_DIFFERENCE - 1 - math.floor(math.log10(abs(value))), 0), 9)


def difference(value: float | None) -> str:
    """A difference of losses with three significant digits, `-0.0160`."""
    return number(value, decimals=of_difference(value))


def mean_and_sd(estimate: Estimate | None, *, decimals: int | None = None) -> str:
    """`1.3100 ± 0.0006`; with one seed the value alone. `decimals` as for `number`."""
    if estimate is None:
        return NONE
    if not _varies(estimate):
        return number(estimate.mean, decimals=decimals)
    return " ± ".join(number(x, spread=estimate.sd, decimals=decimals) for x in (estimate.mean, estimate.sd))


def interval(estimate: Estimate | None, *, decimals: int | None = None) -> str:
    """`1.3085 to 1.3115`, the 95 % interval. `decimals` as for `number`."""
    if estimate is None or estimate.interval is None:
        return NONE
    if not _varies(estimate):
        return " to ".join([number(estimate.mean, decimals=decimals)] * 2)
    return " to ".join(number(end, spread=estimate.sd, decimals=decimals) for end in estimate.interval)


def seeds(count: int) -> str:
    """`3 seeds`, `one seed`."""
    return "one seed" if count == 1 else f"{count} seeds"


def with_interval(estimate: Estimate, *, decimals: int | None = None) -> str:
    """`-0.0160 (95 % interval -0.0182 to -0.0138, 3 seeds)`; of one seed it says that it has none."""
    if estimate.interval is None:
        return f"{number(estimate.mean, decimals=decimals)} (one seed: no interval)"
    if not _varies(estimate):
        return f"{number(estimate.mean, decimals=decimals)} (the same with every seed)"
    mean = number(estimate.mean, spread=estimate.sd, decimals=decimals)
    return f"{mean} (95 % interval {interval(estimate, decimals=decimals)}, {seeds(estimate.n)})"


def _varies(estimate: Estimate) -> bool:
    """Equal values summed in floating point have a spread of their last bits."""
    return estimate.sd is not None and estimate.sd > 1e-9 * abs(estimate.mean)
