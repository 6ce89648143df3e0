"""Rows of the comparison: tokens to random search's loss, with intervals over seeds."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 4000
_LEFT_OUT = (("default", False), ("mean", None))


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
    mean: float | None = None
    """Of the ratios, that of a search counting as 1 which does not arrive; None where it was not kept."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What is compared."""
        return self.table, self.searcher, self.pruner, self.workers

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without a `default` that is false and a mean that was not kept."""
        found = asdict(self)
        return {key: value for key, value in found.items() if (key, value) not in _LEFT_OUT}

    @property
    def shown_ratio(self) -> str:
        """The median, for people."""
        return number(self.ratio, "never")

    def shown(self) -> str:
        """A line of a Markdown table."""
        low, high = (number(end, "never") for end in (self.low, self.high))
        name = f"**{self.searcher}**" if self.default else self.searcher
        ratio = f"{self.shown_ratio} ({low} to {high})"
        figures = f"{ratio} | {number(self.mean, '–')} | {self.arrived:.0%} | {self.seeds}"
        return f"| {name} | {self.pruner} | {self.workers} | {figures} |\n"


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
    mean = round(statistics.fmean(min(ratio, 1.0) for ratio in ratios), 4)
    return Row(table, searcher, pruner, workers, len(ratios), *ends, arrived, default, mean)


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A JSON list, a row a line."""
    lines = ",\n".join(map(json.dumps, rows))
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def number(value: float | None, otherwise: str) -> str:
    """For people."""
    return otherwise if value is None else f"{value:.3f}"
