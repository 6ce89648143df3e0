"""Arms as they are drawn: which of them, each in a style of its own, as lines over a run or as dots at its end."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.report.figures.plots import Axis, Chart, Series
from service.report.published.document import Published
from service.report.record import metrics
from service.report.record.study_record import Arm, Run, StudyRecord
from service.statistics import estimate, mean

MOST_ARMS, MOST_TRIALS = 24, 10
"""Arms of a design, and trials of a search, that one figure can show."""

Value = Callable[[Run, Mapping[str, Any]], float | None]
"""A number of one line of a run's curve or diagnostics."""


@dataclass(frozen=True)
class DrawnArm:
    """An arm with the style that it has in all figures."""

    arm: Arm
    style: int

    @property
    def name(self) -> str:
        """The arm's."""
        return self.arm.name


def drawn_arms(record: StudyRecord) -> tuple[DrawnArm, ...]:
    """The arms with a complete run, in the study's order; of more than a figure can show, the best and the baseline."""
    finished = [arm for arm in record.arms if arm.complete]
    most = MOST_TRIALS if record.tuned else MOST_ARMS
    kept = {arm.name for arm in sorted(finished, key=_final_loss)[:most]} | {record.baseline}
    shown = [arm for arm in finished if arm.name in kept]
    return tuple(DrawnArm(arm, style) for style, arm in enumerate(shown))


def _final_loss(arm: Arm) -> float:
    loss = mean(arm.values("val_loss").values())
    return math.inf if loss is None else loss


def field(name: str) -> Value:
    """The field `name` of a line."""
    return lambda _, row: row.get(name)


def line(
    drawn: DrawnArm,
    x: Value,
    y: Value,
    *,
    rows: Callable[[Run], Sequence[Mapping[str, Any]]],
    bands: bool = True,
) -> Series | None:
    """The mean of `y` over an arm's complete runs, with its 95 % interval where there are two or more and `bands`.

    Lines of the runs are taken together by their number: runs of one arm have the same rungs and measured steps.
    Where a run lacks a finite number the arm has no point. None where it has no point at all.
    """
    runs = drawn.arm.complete
    points = []
    for together in zip(*(rows(run) for run in runs), strict=False):
        pairs = list(zip(runs, together, strict=True))
        xs, ys = [x(*pair) for pair in pairs], [y(*pair) for pair in pairs]
        known_x, known_y = _finite(xs), _finite(ys)
        if len(known_x) == len(known_y) == len(runs):
            found = estimate(known_y)
            assert found is not None, "an arm that is drawn has a run"
            points.append((float(np.mean(known_x)), found.mean, *((bands and found.interval) or ())))
    if not points:
        return None
    columns = tuple(zip(*points, strict=True))
    low, high = columns[2:] if len(columns) == 4 else ((), ())
    return Series(drawn.name, columns[0], columns[1], low=low, high=high, style=drawn.style)


def lines(
    arms: Iterable[DrawnArm],
    x: Value,
    y: Value,
    *,
    rows: Callable[[Run], Sequence[Mapping[str, Any]]],
    bands: bool = True,
) -> tuple[Series, ...]:
    """`line` of each arm that has one."""
    found = (line(drawn, x, y, rows=rows, bands=bands) for drawn in arms)
    return tuple(series for series in found if series)


def dots(
    arms: Sequence[DrawnArm],
    metric: str,
    published: Published | None = None,
    *,
    of_runs: bool = False,
    label: str = "",
) -> Chart | None:
    """A dot and an interval for each arm's `metric`, the published value beside it as a hollow dot.

    Args:
        arms: that are drawn.
        metric: its name.
        published: what a document says.
        of_runs: draw the interval from the lowest run to the highest, and not that of 95 % of their mean: for times,
            whose spread is the machine's load and not the seeds'.
        label: of the axis; that of the metric unless given.

    Returns:
        None where no arm has the metric.
    """
    series: list[Series] = []
    names: list[str] = []
    for drawn in arms:
        values = list(drawn.arm.values(metric).values())
        found = estimate(values)
        if found:
            ends = (min(values), max(values)) if of_runs and len(values) > 1 else found.interval
            low, high = ((end,) for end in ends) if ends else ((), ())
            point = (found.mean,), (float(len(names)),)
            series.append(
                Series(
                    drawn.name, *point, draw="points", low=low, high=high, style=drawn.style, in_legend=False
                )
            )
            names.append(drawn.name)
    if not series:
        return None
    quoted = published_values(published, metric)
    beside = [(quoted[name], float(place)) for place, name in enumerate(names) if name in quoted]
    if beside:
        xs, ys = zip(*beside, strict=True)
        series.append(Series("published", xs, ys, draw="points", style=6, dashed=True))
    label = label or metrics.metric(metric).label
    return Chart(Axis(label), Axis("", categories=tuple(names)), tuple(series))


def published_values(published: Published | None, metric: str) -> dict[str, float]:
    """The published value of `metric` by arm, from the first table that has one."""
    found: dict[str, float] = {}
    for table in published.tables if published else ():
        for column in table.columns:
            for row in table.rows if column.metric == metric else ():
                value = row.values.get(column.name)
                if value is not None:
                    found.setdefault(row.arm, value)
    return found


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
