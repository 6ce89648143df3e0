"""Rows of the comparison: tokens to random search's loss, with intervals over seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 4000


@dataclass(frozen=True)
class Row:
    """Of all searches of one kind."""

    table: str
    searcher: str
    pruner: str
    workers: int
    seeds: int
    ratio: float | None
    """Median tokens to the target, as a share of random search's; None where less than half arrive."""
    low: float | None
    high: float | None
    """95 % bootstrap interval of the median; None where that end is no number."""
    arrived: float
    """Share of the searches that reach the target within random search's tokens."""
    default: bool
    """A study that names neither sampler nor pruner gets this."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What is compared."""
        return self.table, self.searcher, self.pruner, self.workers

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without a `default` that is false."""
        found = asdict(self)
        return found if self.default else {key: value for key, value in found.items() if key != "default"}

    def shown(self) -> str:
        """A line of a Markdown table."""
        low, high = (_number(end, "never") for end in (self.low, self.high))
        name = f"**{self.searcher}**" if self.default else self.searcher
        ratio = f"{_number(self.ratio, 'never')} ({low} to {high})"
        return f"| {name} | {self.pruner} | {self.workers} | {ratio} | {self.arrived:.0%} | {self.seeds} |\n"


def row(
    table: str,
    searcher: str,
    pruner: str,
    workers: int,
    ratios: Sequence[float],
    *,
    default: bool = False,
) -> Row:
    """Of one ratio a search, infinite where it did not arrive."""
    draws = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    # the upper of the two middle ones: a mean of a number and infinity would be no ratio that occurs
    medians = np.sort(np.sort(draws, axis=1)[:, len(ratios) // 2])
    low, high = float(medians[int(0.025 * RESAMPLES)]), float(medians[int(0.975 * RESAMPLES) - 1])
    middle = statistics.median_high(ratios)
    arrived = sum(map(math.isfinite, ratios)) / len(ratios)
    ends = (round(x, 4) if math.isfinite(x) else None for x in (middle, low, high))
    return Row(table, searcher, pruner, workers, len(ratios), *ends, arrived, default)


def _number(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.3f}"
