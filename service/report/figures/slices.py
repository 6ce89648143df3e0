"""Each parameter of a search against the loss: where good values lie, and where the range ends too early."""

import math
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from service.report.figures.plots import Axis, Chart, Plot, Series, capped, highest_shown, plot_of
from service.report.record.study_record import COMPLETE, Run, StudyRecord
from service.study.parameters import same
from service.text.quantities import shown_number

SHORT, SHORT_NAME = ("pruned", "running"), "not trained to the end"
"""States of trials whose loss is that of a part of their training (those that wait are running), and their name."""


def plot(record: StudyRecord) -> Plot | None:
    """A panel for each parameter, a point for each trial that has it; None without a point."""
    runs = [run for run in record.runs if run.state in (COMPLETE, *SHORT) and _loss(run) is not None]
    limit = highest_shown([loss for run in runs if (loss := _loss(run)) is not None])
    charts = (
        _chart(key, range_, runs, record, limit)
        for key, range_ in record.definition.space.distributions.items()
    )
    caption = (
        "Each trial's loss against each value that it was given; where the trials with low losses lie at an end of the "
        f"range, the best value may lie beyond it. A trial {SHORT_NAME} (hollow) has the loss of a shorter training."
    )
    return plot_of("slices", "Each hyperparameter against loss", caption, charts, small=True)


def _loss(run: Run) -> float | None:
    loss = run.metrics.get("val_loss")
    return loss if loss is not None and math.isfinite(loss) else None


def _chart(
    key: str, range_: BaseDistribution, runs: Sequence[Run], record: StudyRecord, limit: float | None
) -> Chart | None:
    choices: tuple[Any, ...] = ()
    log = isinstance(range_, FloatDistribution | IntDistribution) and range_.log
    if isinstance(range_, CategoricalDistribution):
        choices = record.definition.space.parameters[key].corners()
    series = []
    for style, (name, states) in enumerate(((COMPLETE, (COMPLETE,)), (SHORT_NAME, SHORT))):
        points = [
            (at, loss)
            for run in runs
            if run.state in states and key in run.values and (loss := _loss(run)) is not None
            if (at := _position(run.values[key], choices)) is not None and (at > 0 or not log)
        ]
        if points:
            xs, ys = zip(*points, strict=True)
            series.append(Series(name, xs, ys, draw="points", style=style, dashed=states == SHORT))
    if not series:
        return None
    x = Axis(key, log=log, categories=tuple(map(shown_number, choices)))
    return Chart(x, Axis(record.words.metric), capped(series, limit))


def _position(value: Any, choices: Sequence[Any]) -> float | None:
    """On the axis; None of a value that an added trial has brought along and that the space does not know."""
    if choices:
        return next((float(i) for i, choice in enumerate(choices) if same(choice, value)), None)
    return float(value) if isinstance(value, int | float) else None
