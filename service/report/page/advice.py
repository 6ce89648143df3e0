"""What a search suggests to try next: sentences that follow from its trials, each with the figure that says so."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from service.report.figures.tuned import Importances
from service.report.page.tables import LOSS
from service.report.record.noise import Noise
from service.report.record.study_record import Run, StudyRecord
from service.study.parameters import same
from service.text.numbers import difference
from service.text.quantities import shown_number
from service.text.words import Words

_EDGE = 0.05
"""Share of a range that counts as its end."""
_BEST_SHARE, _FEWEST_BEST = 0.25, 3
"""Of the complete trials, those that are called the best."""
_LITTLE = 0.05
"""An importance below which a parameter has mattered little."""
_STEADY = 0.5
"""Share of the trials without a better one, from which on a search is said to have come to rest."""
_STILL_FALLING = 0.01
"""Share of its loss that the best run still loses over its last rung, from which on more training is suggested."""


def advice(record: StudyRecord, importances: Importances | None, noise: Noise | None) -> tuple[str, ...]:
    """What to try next; the first is the most certain.

    Args:
        record: of a search with a complete trial.
        importances: where there are enough trials for them.
        noise: where it has been confirmed.
    """
    best = [run for arm in record.best_arms for run in arm.complete]
    of_keys = [*_ends(record, best), *_choices(record, best)]
    advised = {key for key, _ in of_keys}
    of_keys += [(key, said) for key, said in _unimportant(importances, best) if key not in advised]
    return (
        *(f"{key}: {said}" for key, said in of_keys),
        *_longer(best[0], noise, record.words),
        *_more_trials(record),
    )


def _ends(record: StudyRecord, best: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """By key, as the two below."""
    for key, range_ in record.definition.space.distributions.items():
        if key not in best[0].values or isinstance(range_, CategoricalDistribution):
            continue
        place = place_in(range_, best[0].values[key])
        if place is None or _EDGE < place < 1 - _EDGE:
            continue
        assert isinstance(range_, FloatDistribution | IntDistribution)
        value, end = best[0].values[key], range_.low if place <= _EDGE else range_.high
        side = "low" if place <= _EDGE else "high"
        at = f"the best trial has {shown_number(value)}, at the {side} end of the range ({shown_number(end)})"
        if end == 0:
            yield key, f"{at}, which nothing lies beyond: fix it at 0."
        else:
            yield key, f"{at}: a better value may lie beyond; widen the range there."


def place_in(range_: BaseDistribution, value: Any) -> float | None:
    """Where a number lies in its range, from 0 to 1; None where there is no telling."""
    if not isinstance(range_, FloatDistribution | IntDistribution) or not isinstance(value, int | float):
        return None
    if range_.high == range_.low or (range_.log and value <= 0):
        return None
    low, high, at = (math.log(x) if range_.log else x for x in (range_.low, range_.high, value))
    return (at - low) / (high - low)


def _choices(record: StudyRecord, best: Sequence[Run]) -> Iterator[tuple[str, str]]:
    count = max(_FEWEST_BEST, round(_BEST_SHARE * len(best)))
    if len(best) <= count:
        return
    for key, range_ in record.definition.space.distributions.items():
        values = [run.values.get(key) for run in best[:count]]
        tried = [run.values[key] for run in record.runs if key in run.values]
        others = sum(not same(value, values[0]) for value in tried)
        if isinstance(range_, CategoricalDistribution) and others and all(same(v, values[0]) for v in values):
            said = (
                f"the best {count} trials all have {shown_number(values[0])}, {others} of {len(tried)} had "
                "another value"
            )
            end = _end_of_choices(record.definition.space.parameters[key].corners(), values[0])
            more = f"{end} may be better still" if end else "fix it, and search the rest more finely"
            yield key, f"{said}: {more}."


def _end_of_choices(choices: Sequence[Any], value: Any) -> str:
    """`a smaller one` or `a larger one` where the choices are numbers and the value lies at their end."""
    if not all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices):
        return ""
    return "a smaller one" if value == min(choices) else "a larger one" if value == max(choices) else ""


def _unimportant(found: Importances | None, best: Sequence[Run]) -> Iterator[tuple[str, str]]:
    if found is None:
        return
    for key, share in found.fanova.items():
        if all(same(run.values.get(key), best[0].values.get(key)) for run in best):
            continue  # what was never varied among complete trials has no importance that could be known
        if share < _LITTLE and found.ped_anova.get(key, 1.0) < _LITTLE:
            yield (
                key,
                f"mattered little over its whole range ({share:.0%} by fANOVA, {found.ped_anova[key]:.0%} by "
                "PED-ANOVA): fix it.",
            )


def _longer(best: Run, noise: Noise | None, words: Words) -> Iterator[str]:
    if len(best.curve) < 2:
        return
    before, last = best.curve[-2], best.curve[-1]
    fall = before["val_loss"] - last["val_loss"]
    if fall > max(_STILL_FALLING * abs(last["val_loss"]), noise.clear if noise else 0.0):
        tokens = last["rung_tokens"] - before["rung_tokens"]
        yield (
            f"training: over its last {tokens:,} {words.budget} the best trial's {words.shown_loss} still fell by "
            f"{difference(fall)}, so that a larger budget would lower it further, whatever the rest."
        )


def _more_trials(record: StudyRecord) -> Iterator[str]:
    runs = sorted((run for run in record.runs if LOSS in run.metrics), key=lambda run: run.trial)
    lowest, since, places = math.inf, 0, 0
    for place, run in enumerate(runs, start=1):
        loss = run.metrics[LOSS]
        if run.complete and loss is not None and loss < lowest:
            lowest, since, places = loss, run.trial, place
    without = len(runs) - places
    if not without:
        yield "the search: its last trial is its best one, so that more trials are likely to find better."
    elif without >= _STEADY * len(runs):
        yield (
            f"the search: none of the {without} trials after trial {since} was better; more of the same space are "
            "unlikely to gain much."
        )
