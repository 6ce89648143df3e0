"""The figures of a study: curves, final comparison, efficiency, convergence, and seed document 004's stack."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from model.config.section import validate
from model.config.settings_without_effect import settings_without_effect
from model.config.train_config import TrainConfig
from model.config.yaml_tree import Document
from service.report.figures import diagnostics, grids
from service.report.figures.plots import Axis, Chart, Plot, Series, plot_of
from service.report.figures.series import DrawnArm, Value, dots, drawn_arms, field, lines
from service.report.published.document import Published
from service.report.record.study_record import Run, StudyRecord
from service.statistics import estimate
from service.study.search_space import leaves
from service.text.quantities import shown_number
from service.text.tables import Table
from service.text.words import GPT, Words

_UNITS = {
    "val_loss": "nats per character",
    "train_loss": "nats per token",
    "nats_per_token": "nats per token",
}
_TITLES = {
    "val_loss": "Validation loss",
    "train_loss": "Training loss",
    "nats_per_token": "Validation loss per token",
}
_SAME_CURVE = {"val_loss_official": "val_loss", "train_loss_final": "train_loss"}
"""Metrics of published curves that have none of their own here: the panel in which they are shown."""
_AXES: dict[str, tuple[str, Value]] = {
    "tokens": ("training tokens", field("tokens")),
    "steps": ("steps", field("step")),
    "seconds": ("seconds in training steps", field("train_seconds")),
}


def build(record: StudyRecord, published: Published | None) -> tuple[Plot, ...]:
    """Every figure for which the study has data, in the order of reading."""
    arms = drawn_arms(record)
    if not arms:
        return ()
    words = record.words
    found = (
        *curves(arms, published, words),
        _final(arms, published, words),
        _efficiency(arms, words),
        _throughput(arms, published, words),
        _convergence(arms, published, words),
        *diagnostics.build(record, arms),
        *grids.build(record),
        None if record.tuned else _stack(arms),
    )
    return tuple(plot for plot in found if plot)


def _rungs(run: Run) -> Sequence[Any]:
    return run.curve


def curves(arms: Sequence[DrawnArm], published: Published | None, words: Words = GPT) -> list[Plot]:
    """Losses while the arms train, against tokens, steps and seconds."""
    quoted = published.curves if published else ()
    also = {_SAME_CURVE.get(curve.metric, curve.metric) for curve in quoted} & {"nats_per_token"}
    plots = []
    for metric in ("val_loss", "train_loss", *sorted(also)):
        of_objective = metric == "val_loss"
        y = Axis(words.objective if of_objective else f"{metric}, {_UNITS[metric]}")
        charts = []
        for axis, (label, x) in _AXES.items():
            beside = tuple(
                _published_curve(arms, curve.arm, curve.points)
                for curve in quoted
                if curve.x == axis and _SAME_CURVE.get(curve.metric, curve.metric) == metric
            )
            measured = lines(arms, x, field(metric), rows=_rungs)
            if measured:
                label, axis = map(words.of_budget, (label, axis))
                charts.append(Chart(Axis(label), y, (*measured, *beside), f"against {axis}"))
        if charts:
            drawn = [series for chart in charts for series in chart.series]
            means = any(series.low for series in drawn)
            caption = (
                "Mean over seeds at each rung, with its 95 % interval."
                if means
                else "At each rung; one seed each."
            )
            if any(series.dashed for series in drawn):
                caption += " Dashed: as published, by the document's own metric and size."
            title = words.metric.capitalize() if of_objective and words != GPT else _TITLES[metric]
            plots.append(Plot(f"{metric.replace('_', '-')}-curves", title, caption, tuple(charts)))
    return plots


def _published_curve(arms: Sequence[DrawnArm], arm: str, points: Sequence[tuple[float, float]]) -> Series:
    style = next((drawn.style for drawn in arms if drawn.name == arm), 6)
    xs, ys = zip(*points, strict=True)
    return Series(f"{arm}, published", xs, ys, style=style, dashed=True)


def _final(arms: Sequence[DrawnArm], published: Published | None, words: Words) -> Plot | None:
    named = {column.metric for table in (published.tables if published else ()) for column in table.columns}
    also = [metric for metric in ("val_loss_official", "nats_per_token") if metric in named]
    label = "" if words == GPT else words.objective
    charts = [dots(arms, "val_loss", published, label=label), *(dots(arms, name, published) for name in also)]
    caption = "Mean over seeds with its 95 % interval, after the last update."
    return plot_of("final", "Final comparison", caption + _hollow(charts), charts)


def _hollow(charts: Iterable[Chart | None]) -> str:
    quoted = any(series.dashed for chart in charts if chart for series in chart.series)
    return " Hollow: published." if quoted else ""


def _efficiency(arms: Sequence[DrawnArm], words: Words) -> Plot | None:
    """Each arm as one point: what it cost and what it came to."""
    costs: dict[str, Any] = {
        f"training {words.budget}": lambda run: run.metrics.get("tokens"),
        "seconds, evaluations included": lambda run: run.metrics.get("seconds"),
        "FLOPs of training": lambda run: run.metrics.get("train_flops"),
    }
    charts = []
    for label, cost in costs.items():
        series = [_cost_point(drawn, cost) for drawn in arms]
        known = tuple(point for point in series if point)
        if known:
            spread = max(point.x[0] for point in known) / min(point.x[0] for point in known)
            charts.append(Chart(Axis(label, log=spread > 10), Axis(words.objective), known))
    caption = f"Final {words.sentence} against cost, down and left is better. Means over seeds, 95 % intervals of it."
    return plot_of("efficiency", "Efficiency", caption, charts)


def _cost_point(drawn: DrawnArm, cost: Any) -> Series | None:
    costs = [cost(run) for run in drawn.arm.complete]
    loss = estimate(list(drawn.arm.values("val_loss").values()))
    found = estimate([value for value in costs if value])
    if loss is None or found is None:
        return None
    low, high = ((end,) for end in loss.interval) if loss.interval else ((), ())
    point = (found.mean,), (loss.mean,)
    return Series(drawn.name, *point, draw="points", low=low, high=high, style=drawn.style)


def _throughput(arms: Sequence[DrawnArm], published: Published | None, words: Words) -> Plot | None:
    names = ("tokens_per_second", "steps_per_second", "seconds") if words == GPT else ("seconds",)
    charts = [dots(arms, name, published, of_runs=True) for name in names]
    caption = (
        "Mean over seeds, from the lowest run to the highest: workers that shared a machine took time from each other. "
        "Rates are over the time in training steps, seconds have evaluations as well."
    )
    return plot_of("throughput", "Throughput", caption + _hollow(charts), charts)


def _convergence(arms: Sequence[DrawnArm], published: Published | None, words: Words) -> Plot | None:
    def share(run: Run, row: Any) -> float:
        return float(row["rung_tokens"] / run.curve[-1]["rung_tokens"])

    def above_end(run: Run, row: Any) -> float | None:
        above = float(row["val_loss"] - run.curve[-1]["val_loss"])
        return above if above > 0 else None

    above = words.objective.replace(words.metric, f"{words.metric} above its end", 1)
    # without bands: a logarithmic axis has no room for an interval that reaches 0
    remaining = lines(arms, share, above_end, rows=_rungs, bands=False)
    charts = (
        Chart(Axis("share of the run"), Axis(above, log=True), remaining),
        dots(arms, "convergence_improvement", published),
    )
    caption = (
        "How far each arm still was from where it ended, and the share of the early training loss that it lost by the "
        "end (first against last quarter of the rungs)."
    )
    return plot_of("convergence", "Convergence", caption + _hollow(charts), charts)


def _stack(arms: Sequence[DrawnArm]) -> Plot | None:
    """Validation curves, training curves and what the arms are, as in Figure 1 of seed document 004."""
    charts = tuple(
        Chart(Axis("steps" if last else ""), Axis(f"{metric}, {_UNITS[metric]}"), series)
        for last, metric in enumerate(("val_loss", "train_loss"))
        if (series := lines(arms, field("step"), field(metric), rows=_rungs))
    )
    if not charts:
        return None
    caption = "Both losses against steps; below, the settings in which the arms differ."
    return Plot("stack", "Runs at a glance", caption, charts, stacked=True, table=_settings(arms))


def _settings(arms: Sequence[DrawnArm]) -> Table:
    arms = [drawn for drawn in arms if drawn.arm.complete[0].config]  # of what was added they are not known
    whole = [dict(leaves(drawn.arm.complete[0].config)) for drawn in arms]
    flat = [_effective(drawn.arm.complete[0]) for drawn in arms]
    keys = dict.fromkeys(key for values in flat for key in values if key != "seed")
    differ = [key for key in keys if len({json.dumps(values.get(key)) for values in whole}) > 1]
    rows = []
    for drawn, values in zip(arms, flat, strict=True):
        loss = estimate(list(drawn.arm.values("val_loss").values()))
        parameters = drawn.arm.complete[0].parameters
        shown = ["–" if values.get(key) is None else shown_number(values[key]) for key in differ]
        end = (f"{parameters:,}" if parameters else "–", f"{loss.mean:.4f}" if loss else "–")
        rows.append((drawn.name, *shown, *end))
    names = [key.split(".")[-1] for key in differ]
    headings = (
        "arm",
        *(key if names.count(name) > 1 else name for key, name in zip(differ, names, strict=True)),
    )
    return Table("settings", "Settings", (*headings, "parameters", "val_loss"), tuple(rows))


def _effective(run: Run) -> dict[str, Any]:
    """The run's settings by dotted key, without those that change nothing in it."""
    config = validate(Document(f"configuration of trial {run.trial}", dict(run.config)), TrainConfig)
    idle = settings_without_effect(config)
    return {key: value for key, value in leaves(run.config) if key not in idle}
