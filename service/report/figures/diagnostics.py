"""Figures of what runs measured of themselves: stability, update dynamics, layers, and how models predict."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from service.report.figures.plots import Axis, Chart, Plot, Series, plot_of, positions
from service.report.figures.series import DrawnArm, Value, dots, field, lines
from service.report.record.study_record import Run, StudyRecord
from service.statistics import estimate

_PLACES = ("first", "middle", "last")
_LAYERS = {
    "activation_rms": "RMS of the residual stream",
    "attention_entropy": "attention entropy",
    "norm_gain_grad_norm": "gradient norm of norm gains",
}
_FEWEST_ARMS = 3
"""Below which a correlation over arms says nothing."""


def build(record: StudyRecord, arms: Sequence[DrawnArm]) -> tuple[Plot, ...]:
    """The figures for which the study has diagnostics; the gradient norm at the rungs is always there."""
    found = (
        _stability(record, arms),
        _dynamics(arms),
        _layers(arms),
        _calibration(arms),
        _loss_by_position(arms),
        _correlation(arms),
    )
    return tuple(plot for plot in found if plot)


def _steps(run: Run) -> Sequence[Mapping[str, Any]]:
    return run.steps


def _against_steps(arms: Sequence[DrawnArm], y: Value, label: str, *, log: bool = False) -> Chart | None:
    # no bands: what a batch adds to a step would hide the lines
    series = lines(arms, field("step"), y, rows=_steps, bands=False)
    return Chart(Axis("steps"), Axis(label, log=log), series) if series else None


def _stability(record: StudyRecord, arms: Sequence[DrawnArm]) -> Plot | None:
    norms = _against_steps(arms, _positive("grad_norm"), "gradient norm before clipping", log=True)
    if norms is None:
        at_rungs = lines(
            arms, field("step"), _positive("gradient_norm"), rows=lambda run: run.curve, bands=False
        )
        norms = Chart(Axis("steps"), Axis("gradient norm before clipping, at the rungs", log=True), at_rungs)
    counts = {"loss_spikes": "a loss spike", "nonfinite_events": "a non-finite event"}
    charts = (
        norms,
        dots(arms, "grad_norm_max"),
        *(_counted(arms, metric) for metric in counts),
        _diverged(record),
    )
    none = [
        words for metric, words in counts.items() if _measured(arms, metric) and not _counted(arms, metric)
    ]
    caption = "Means over seeds." + "".join(f" No run had {words}." for words in none)
    return plot_of("stability", "Stability", caption, charts)


def _measured(arms: Sequence[DrawnArm], metric: str) -> bool:
    return any(drawn.arm.values(metric) for drawn in arms)


def _counted(arms: Sequence[DrawnArm], metric: str) -> Chart | None:
    """Dots of a count, unless it is 0 everywhere."""
    found = any(value for drawn in arms for value in drawn.arm.values(metric).values())
    return dots(arms, metric) if found else None


def _positive(name: str) -> Value:
    """The field where it is above 0, as a logarithmic axis needs it."""
    return lambda _, row: value if (value := row.get(name)) and value > 0 else None


def _diverged(record: StudyRecord) -> Chart | None:
    """How many runs of each arm diverged: also of arms that no other figure shows, having no complete run."""
    counts = {arm.name: sum(run.state == "diverged" for run in arm.runs) for arm in record.arms}
    names = tuple(name for name, count in counts.items() if count)
    if not names:
        return None
    bars = Series(
        "diverged runs",
        tuple(float(counts[name]) for name in names),
        positions(names),
        draw="bars",
        style=1,
        in_legend=False,
    )
    return Chart(Axis("runs that diverged"), Axis("", categories=names), (bars,))


def _dynamics(arms: Sequence[DrawnArm]) -> Plot | None:
    def effective_step(_: Run, row: Mapping[str, Any]) -> float | None:
        medians = [row[key] for key in row if key.startswith("effective_step/") and key.endswith("/p50")]
        known = [value for value in medians if value]
        return float(np.median(known)) if known else None

    charts = (
        _against_steps(arms, field("train_loss"), "training loss of the batch, nats per token"),
        _against_steps(arms, effective_step, "Adam's effective step", log=True),
        _against_steps(
            arms, _positive("update_to_parameter_ratio"), "norm of update ÷ of parameters", log=True
        ),
        _against_steps(arms, _positive("learning_rate"), "learning rate", log=True),
    )
    caption = (
        "Means over seeds at the measured steps. The effective step is lr ÷ (√v̂ + ε), the factor on Adam's momentum, "
        "as the median over layers of their medians: it may rise where the gradient norm does not."
    )
    return plot_of("dynamics", "Updates", caption, charts)


def _layers(arms: Sequence[DrawnArm]) -> Plot | None:
    charts: list[Chart] = []
    for name, label in _LAYERS.items():
        for place in _PLACES:
            chart = _against_steps(arms, field(f"{name}/{place}"), f"{label}, {place} block")
            # of models with few blocks the places coincide
            if chart and chart.series not in [other.series for other in charts]:
                charts.append(chart)
    caption = "Means over seeds at the measured steps. An attention entropy of 1 is uniform attention."
    return plot_of("layers", "First, middle and last block", caption, charts)


def _calibration(arms: Sequence[DrawnArm]) -> Plot | None:
    series = _from_last_evaluations(arms, _reliability)
    if not series:
        return None
    end = max(value for of in series for value in (*of.x, *of.y))
    perfect = Series("perfect", (0.0, end), (0.0, end), style=6, dashed=True)
    reliability = Chart(Axis("confidence"), Axis("accuracy"), (perfect, *series))
    charts = (reliability, *(dots(arms, metric) for metric in ("ece", "confidence_gap")))
    caption = (
        "Left, share of right predictions against their probability, in bins, tokens of all seeds together: below the "
        "dashed line a model is over-confident. Then expected calibration error, and confidence − accuracy."
    )
    return plot_of("calibration", "Calibration", caption, charts)


def _from_last_evaluations(
    arms: Sequence[DrawnArm],
    points: Callable[[Sequence[Mapping[str, Any]]], Sequence[tuple[float, float]]],
) -> list[Series]:
    """A line for each arm from the last evaluation of each of its complete runs."""
    found = []
    for drawn in arms:
        on = points([run.evaluations[-1] for run in drawn.arm.complete if run.evaluations])
        if on:
            xs, ys = zip(*on, strict=True)
            found.append(Series(drawn.name, xs, ys, style=drawn.style))
    return found


def _reliability(evaluations: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Confidence and accuracy of each bin, runs weighted by the tokens that they have in it."""
    bins: dict[int, list[Mapping[str, float]]] = {}
    for evaluation in evaluations:
        for i, row in enumerate(evaluation.get("reliability") or ()):
            if row["share"]:
                bins.setdefault(i, []).append(row)
    points = []
    for _, rows in sorted(bins.items()):
        weights = [row["share"] for row in rows]
        confidence, accuracy = (
            float(np.average([row[key] for row in rows], weights=weights))
            for key in ("confidence", "accuracy")
        )
        points.append((confidence, accuracy))
    return points


def _loss_by_position(arms: Sequence[DrawnArm]) -> Plot | None:
    def by_position(evaluations: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
        lists = [
            evaluation["loss_by_position"] for evaluation in evaluations if "loss_by_position" in evaluation
        ]
        means = [
            estimate([value for value in values if value is not None]) for values in zip(*lists, strict=False)
        ]
        return [(float(i), found.mean) for i, found in enumerate(means, start=1) if found]

    series = tuple(_from_last_evaluations(arms, by_position))
    chart = Chart(Axis("position in the window", log=True), Axis("loss, nats per token"), series)
    caption = "Mean over seeds at the last evaluation: what longer context is worth to each arm."
    return plot_of("loss-by-position", "Loss by position", caption, (chart,))


def _correlation(arms: Sequence[DrawnArm]) -> Plot | None:
    """One point an arm: does confidence follow the loss?"""
    points = []
    for drawn in arms:
        loss, confidence = (
            estimate(list(drawn.arm.values(metric).values())) for metric in ("nats_per_token", "confidence")
        )
        if loss and confidence:
            points.append((drawn, loss.mean, confidence.mean))
    if len(points) < _FEWEST_ARMS:
        return None
    series = tuple(
        Series(drawn.name, (loss,), (confidence,), draw="points", style=drawn.style)
        for drawn, loss, confidence in points
    )
    losses, confidences = [point[1] for point in points], [point[2] for point in points]
    varied = len(set(losses)) > 1 and len(set(confidences)) > 1
    r = f"r = {np.corrcoef(losses, confidences)[0, 1]:.3f} over {len(points)} arms" if varied else "no spread"
    caption = (
        "Means over seeds on the validation split after the last update; confidence is the mean probability of the "
        f"first choice. Pearson's {r}."
    )
    chart = Chart(Axis("loss, nats per token"), Axis("confidence"), series)
    return plot_of("loss-and-confidence", "Loss and confidence", caption, (chart,))
