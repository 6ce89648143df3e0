"""What a search found: its history, and which parameters mattered."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from service.report.figures import slices
from service.report.figures.plots import Axis, Chart, Plot, Series, capped, highest_shown
from service.report.figures.slices import SHORT, SHORT_NAME
from service.report.record.study_record import COMPLETE, StudyRecord
from service.text.quantities import shown_number

FEWEST = 5
"""Complete trials below which an importance says nothing."""


@dataclass(frozen=True)
class Importances:
    """How much each parameter mattered, by two methods, each normalised to a sum of 1."""

    trials: int
    """On which both rest."""
    fanova: Mapping[str, float]
    """Share of the variance of a random forest over the whole space (Hutter et al. 2014). Only parameters that all
    complete trials have, with one range each."""
    ped_anova: Mapping[str, float]
    """How differently the best trials are distributed from all (Watanabe et al. 2023). All parameters."""
    forecast: bool = False
    """The losses are those that are expected at the end (`service.report.figures.expected`)."""

    @property
    def rest_on(self) -> str:
        """For people, after a number of trials: which ones."""
        if self.forecast:
            return "trials; of one that was not trained to its end, the loss there is forecast by the model of `thaw`"
        return "complete trials"

    @property
    def dropped(self) -> tuple[str, ...]:
        """Parameters that fANOVA leaves out without a word."""
        return tuple(name for name in self.ped_anova if name not in self.fanova)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Where the methods disagree, and what one of them does not see."""
        found = []
        if self.dropped:
            found.append(
                f"fANOVA leaves out {', '.join(self.dropped)}: it knows only parameters that all trials have with one "
                "range. What they cause is credited to the others."
            )
        here = _ranking(self.fanova)[:1]
        there = [name for name in _ranking(self.ped_anova) if name in self.fanova][:1]
        if here != there:
            found.append(
                f"The two methods disagree on what matters most ({here[0]} by fANOVA, {there[0]} by PED-ANOVA, on "
                f"{self.trials} trials): neither order is to be relied on."
            )
        return tuple(found)


def importances(study: optuna.Study, *, forecast: bool = False) -> Importances | None:
    """Importances by both methods; None with fewer than five complete trials, or without two different losses.

    Args:
        study: whose complete trials count.
        forecast: their losses are expected ones.
    """
    losses = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    n = len(losses)
    if n < FEWEST or len(set(losses)) == 1:
        return None
    # the best tenth is asked about, or the best five trials where that is fewer: the method's authors ask for five
    best = min(0.5, max(0.1, FEWEST / n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Some regimes")  # of few trials, whose number stands beside
        fanova = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        ped_anova = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=best))
    return Importances(n, fanova, ped_anova, forecast)


def plots(record: StudyRecord, study: optuna.Study, found: Importances | None) -> tuple[Plot, ...]:
    """Optimisation history, importances, slices and parallel coordinates, those that have something to show."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    placed = [trial for trial in complete if trial.params]
    drawn = (
        _history(record),
        _importance_plot(found) if found else None,
        slices.plot(record),
        _parallel_coordinates(placed) if len(placed) > 1 else None,
    )
    return tuple(plot for plot in drawn if plot)


def _history(record: StudyRecord) -> Plot | None:
    losses = ((run, run.metrics.get("val_loss")) for run in sorted(record.runs, key=lambda run: run.trial))
    runs = [(run, loss) for run, loss in losses if loss is not None and math.isfinite(loss)]
    complete = [(run.trial, loss) for run, loss in runs if run.state == COMPLETE]
    short = [(run.trial, loss) for run, loss in runs if run.state in SHORT]
    if not complete:
        return None
    best, lowest = [], math.inf
    for trial, loss in complete:
        lowest = min(lowest, loss)
        best.append((trial, lowest))
    best.append((runs[-1][0].trial, lowest))
    series = [
        _series("best so far", best, draw="line", style=0, stepped=True),
        _series(COMPLETE, complete, draw="points", style=0),
    ]
    if short:
        series.append(_series(f"{SHORT_NAME}, at its last rung", short, draw="points", style=1, dashed=True))
    limit = highest_shown([loss for _, loss in (*complete, *short)])
    return Plot(
        "history",
        "Optimisation history",
        f"Each trial's loss in the order of the trials. One {SHORT_NAME} has the loss of a shorter training.",
        (Chart(Axis("trial"), Axis(record.words.objective), capped(series, limit)),),
    )


def _series(name: str, points: Sequence[tuple[float, float]], **how: object) -> Series:
    return Series(name, tuple(float(x) for x, _ in points), tuple(y for _, y in points), **how)  # type: ignore[arg-type]


def _importance_plot(found: Importances) -> Plot:
    names = _ranking(found.ped_anova)
    series = tuple(
        Series(
            label,
            tuple(values[name] for name in names if name in values),
            tuple(float(i) for i, name in enumerate(names) if name in values),
            draw="bars",
            style=style,
        )
        for style, (label, values) in enumerate(
            {"PED-ANOVA": found.ped_anova, "fANOVA": found.fanova}.items()
        )
        if values
    )
    caption = (
        f"On {found.trials} {found.rest_on}. Each method is normalised to a sum of 1. PED-ANOVA: what sets the best "
        "trials apart. fANOVA: what explains the variance over the whole space."
    )
    chart = Chart(Axis("importance"), Axis("", categories=tuple(names)), series)
    return Plot("importances", "Parameter importances", caption, (chart,))


def _parallel_coordinates(trials: Sequence[FrozenTrial]) -> Plot:
    """One line a trial over all parameters, lying: their names and ranges have room at the left."""
    counted: dict[str, Counter[BaseDistribution]] = {}
    for trial in trials:
        for name, range_ in trial.distributions.items():
            counted.setdefault(name, Counter())[range_] += 1
    # the study's own: a trial that was added may have another one
    ranges = {name: counts.most_common(1)[0][0] for name, counts in counted.items()}
    order = sorted(trials, key=lambda trial: (-(trial.value or 0.0), trial.number))
    series = []
    for rank, trial in enumerate(order):  # the best is drawn last, over the others
        on = [
            (i, _place(ranges[name], trial.params[name]))
            for i, name in enumerate(ranges)
            if name in trial.params and trial.distributions[name] == ranges[name]
        ]
        if not on:
            continue
        series.append(
            Series(
                f"trial {trial.number}: {trial.value:.4f}",
                tuple(place for _, place in on),
                tuple(float(i) for i, _ in on),
                shade=1 - rank / (len(order) - 1),
                in_legend=False,
            )
        )
    labels = tuple(f"{name}\n{_shown_range(range_)}" for name, range_ in ranges.items())
    return Plot(
        "parallel-coordinates",
        "Complete trials in the search space",
        "One line a trial, the bluer and thicker the lower its loss, from the low end of each parameter's range (left) "
        "to the high end, logarithmic where the range is. A line passes by a parameter that its trial does not have.",
        (Chart(Axis("place in the range", ends=(0, 1)), Axis("", categories=labels), tuple(series)),),
    )


def _place(range_: optuna.distributions.BaseDistribution, value: object) -> float:
    """Where a value lies in its range, from 0 to 1."""
    if isinstance(range_, CategoricalDistribution):
        return range_.choices.index(value) / max(1, len(range_.choices) - 1)
    assert isinstance(range_, FloatDistribution | IntDistribution), "Optuna has these three"
    assert isinstance(value, int | float)
    low, high, at = (math.log(x) if range_.log else x for x in (range_.low, range_.high, value))
    return (at - low) / (high - low) if high > low else 0.5


def _shown_range(range_: optuna.distributions.BaseDistribution) -> str:
    if isinstance(range_, CategoricalDistribution):
        return ", ".join(map(shown_number, range_.choices))
    assert isinstance(range_, FloatDistribution | IntDistribution), "Optuna has these three"
    return f"{shown_number(range_.low)} to {shown_number(range_.high)}" + (", log" if range_.log else "")


def _ranking(values: Mapping[str, float]) -> list[str]:
    return sorted(values, key=lambda name: -values[name])
