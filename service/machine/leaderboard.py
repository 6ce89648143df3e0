"""The best trials of a study, as rows of a table."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

from service.text.grid import Grid
from service.text.quantities import shown_operations, shown_params, shown_seconds
from service.text.words import GPT, Words


def leaderboard(trials: Sequence[optuna.trial.FrozenTrial], words: Words = GPT) -> Grid:
    """One row a trial, in the order given: loss, model parameters, compute, speed and what was searched.

    Of a trial that was added from elsewhere, a dash stands for what is not known. A study of the user's own training
    code, of other `words`, has no model that could be looked into.
    """
    if words != GPT:
        found = [
            (
                str(trial.number),
                f"{trial.value:.4f}",
                _shown(shown_seconds, trial.user_attrs, "train_seconds"),
                _shown("{:,.4g}".format, trial.user_attrs, "tokens_per_second"),
            )
            for trial in trials
        ]
        headings_of_own = ("trial", words.metric, "time", f"{words.budget}/s")
        return Grid(headings_of_own, tuple(found), tuple(map(configuration, trials)))
    headings = ("trial", "val_loss", "bits/byte", "size", "FLOPs", "time", "tokens/s")
    rows = []
    for trial in trials:
        facts = trial.user_attrs
        rows.append(
            (
                str(trial.number),
                f"{trial.value:.4f}",
                _shown("{:.4f}".format, facts, "bits_per_byte"),
                _shown("{:,.0f}".format, facts, "parameters"),
                _shown(_product, facts, "flops_per_token", "tokens"),
                _shown(_sum, facts, "train_seconds", "evaluation_seconds"),
                _shown("{:,.0f}".format, facts, "tokens_per_second"),
            )
        )
    return Grid(headings, tuple(rows), tuple(map(configuration, trials)))


def _shown(form: Callable[..., str], facts: Mapping[str, Any], *names: str) -> str:
    """The facts of these names, in this form; a dash where one of them is not known."""
    found = [facts.get(name) for name in names]
    known = all(isinstance(fact, int | float) and math.isfinite(fact) for fact in found)
    return form(*found) if known else "–"


def _product(each: float, tokens: float) -> str:
    return shown_operations(each * tokens)


def _sum(train_seconds: float, evaluation_seconds: float) -> str:
    return shown_seconds(train_seconds + evaluation_seconds)


def configuration(trial: optuna.trial.FrozenTrial) -> str:
    """What a trial was given, for people."""
    return shown_configuration(trial.user_attrs.get("arm"), trial.params)


def shown_configuration(arm: Any, params: Mapping[str, Any]) -> str:
    """Of a design the arm, which stands for its values, and its seed; of a search the parameters."""
    if not isinstance(arm, str):
        return shown_params(params)
    seed = params.get("seed")
    return arm if seed is None else f"{arm}, seed {seed}"
