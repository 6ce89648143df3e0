"""Figures of two studies, or arms, beside each other: the best so far against what was spent, and both curves."""

import math
from dataclasses import replace

from service.report.figures import overview
from service.report.figures.plots import Axis, Chart, Plot, Series
from service.report.figures.series import DrawnArm
from service.report.record.pair import Pair
from service.report.record.study_record import Run, StudyRecord


def spent_on(run: Run) -> int:
    """Training tokens of the run as far as it came; 0 of one that was added, whose cost is not this study's."""
    if run.added:
        return 0
    tokens = run.metrics.get("tokens") or (run.curve[-1]["rung_tokens"] if run.curve else 0)
    return int(tokens)


def history(record: StudyRecord) -> tuple[tuple[int, float], ...]:
    """Training tokens of all trials up to one, in the order of their numbers, and the lowest loss by then.

    From the first complete trial on, a point wherever the loss gets lower, and one at the end.
    """
    points: list[tuple[int, float]] = []
    spent, lowest = 0, math.inf
    for run in sorted(record.runs, key=lambda run: run.trial):
        spent += spent_on(run)
        loss = run.metrics.get("val_loss")
        if run.complete and loss is not None and loss < lowest:
            lowest = loss
            points.append((spent, loss))
    return (*points, (spent, lowest)) if points and points[-1][0] < spent else tuple(points)


def history_plot(pair: Pair) -> Plot | None:
    """The best so far of two studies against the tokens that each has spent; None where one of them has no loss.

    Losses that cannot be compared have a panel each.
    """
    series = []
    for style, side in enumerate((pair.first, pair.second)):
        points = history(side.record)
        if not points:
            return None
        xs, ys = zip(*points, strict=True)
        series.append(Series(side.label, tuple(map(float, xs)), ys, style=style, stepped=True))
    caption = (
        f"The lowest {pair.words.shown_loss} among the complete trials so far, against the training "
        f"{pair.words.budget} of all trials, in the order of "
        "their numbers; pruned and failed trials cost what they were trained."
    )
    if pair.apart is None:
        caption += " Down and left is better."
    if any(run.added for side in (pair.first, pair.second) for run in side.record.runs):
        caption += " Results that were taken along or imported cost nothing here."
    panels = _panels(pair, f"training {pair.words.budget}, all trials", series)
    return Plot("history", f"What each search found for its {pair.words.budget}", caption, panels)


def _panels(pair: Pair, label: str, series: list[Series]) -> tuple[Chart, ...]:
    if pair.apart is None:
        return (Chart(Axis(label), Axis(pair.words.objective), tuple(series)),)
    return tuple(Chart(Axis(label), Axis(pair.words.objective), (of,), of.name) for of in series)


def curves(pair: Pair) -> tuple[Plot, ...]:
    """Curves of both while they train; of losses that cannot be compared a figure each."""
    sides = enumerate((pair.first, pair.second))
    arms = [DrawnArm(side.shown, style) for style, side in sides if side.shown and side.shown.complete]
    if pair.apart is None:
        return tuple(overview.curves(arms, None, pair.words))
    return tuple(_alone(arm, plot) for arm in arms for plot in overview.curves([arm], None, pair.words)[:1])


def _alone(arm: DrawnArm, plot: Plot) -> Plot:
    return replace(plot, id=f"{plot.id}-{arm.style + 1}", title=f"{plot.title}: {arm.name}")
