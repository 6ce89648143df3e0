"""The best trials of a study, as a table for the terminal and for Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState
from rich import box
from rich.console import Group
from rich.text import Text

from service.storage.ownership import own_trials
from service.text.quantities import shown_operations, shown_params, shown_seconds
from service.text.terminal import FittingTable


@dataclass(frozen=True)
class Grid:
    """Rows under headings, to be shown in more than one way."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    configurations: tuple[str, ...] = ()
    """What was searched, one line a row; too long for a column of a terminal."""

    def as_rich(self, title: str) -> Group:
        """For a terminal."""
        table = FittingTable(title, self.headings, self.rows, box=box.SIMPLE_HEAD, padding=0)
        names = (f"{self.headings[0]} {row[0]}: " for row in self.rows)
        lines = (Text(name + shown) for name, shown in zip(names, self.configurations, strict=False))
        return Group(table, *lines)

    def as_markdown(self) -> str:
        """A Markdown table."""
        lines = [self.headings, tuple("---:" for _ in self.headings), *self.rows]
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def leaderboard(trials: Sequence[optuna.trial.FrozenTrial]) -> Grid:
    """One row a trial, in the order given: loss, model parameters, compute, speed and what was searched.

    Of a trial that was added from elsewhere, a dash stands for what is not known.
    """
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
    return Grid(headings, tuple(rows), tuple(map(_configuration, trials)))


def _shown(form: Callable[..., str], facts: Mapping[str, Any], *names: str) -> str:
    """The facts of these names, in this form; a dash where one of them is not known."""
    found = [facts.get(name) for name in names]
    known = all(isinstance(fact, int | float) and math.isfinite(fact) for fact in found)
    return form(*found) if known else "–"


def _product(each: float, tokens: float) -> str:
    return shown_operations(each * tokens)


def _sum(train_seconds: float, evaluation_seconds: float) -> str:
    return shown_seconds(train_seconds + evaluation_seconds)


def _configuration(trial: optuna.trial.FrozenTrial) -> str:
    """Of a design the arm, which stands for its values."""
    arm = trial.user_attrs.get("arm")
    if not isinstance(arm, str):
        return shown_params(trial.params)
    seed = trial.params.get("seed")
    return arm if seed is None else f"{arm}, seed {seed}"


def ranked_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Complete trials, best first, those that were added from elsewhere among them."""
    return _ranked(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def ranked_own_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Complete trials that were trained here, best first: the ones that can have weights."""
    return _ranked(own_trials(study, TrialState.COMPLETE))


def _ranked(trials: Sequence[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    return sorted(trials, key=lambda trial: (trial.values, trial.number))


def count_states(study: optuna.Study) -> str:
    """`6 complete, 2 pruned`, states without a trial left out."""
    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    return (
        ", ".join(f"{count} {state.name.lower()}" for state, count in counts.items() if count) or "no trials"
    )
