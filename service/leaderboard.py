"""The best trials of a study, as a table for the terminal and for Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState
from rich import box
from rich.console import Group
from rich.text import Text

from service.shown import shown_operations, shown_params, shown_seconds
from service.terminal import FittingTable


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
    """One row a trial, in the order given: loss, model parameters, compute, speed and what was searched."""
    headings = ("trial", "val_loss", "bits/byte", "size", "FLOPs", "time", "tokens/s")
    rows = []
    for trial in trials:
        facts = trial.user_attrs
        rows.append(
            (
                str(trial.number),
                f"{trial.value:.4f}",
                f"{facts['bits_per_byte']:.4f}",
                f"{facts['parameters']:,}",
                _operations(facts),
                shown_seconds(facts["train_seconds"] + facts["evaluation_seconds"]),
                f"{facts['tokens_per_second']:,.0f}",
            )
        )
    return Grid(headings, tuple(rows), tuple(map(_configuration, trials)))


def _operations(facts: Mapping[str, Any]) -> str:
    """Of the whole training; not known of a trial that was made before they were recorded."""
    each = facts.get("flops_per_token")
    return "–" if each is None else shown_operations(each * facts["tokens"])


def _configuration(trial: optuna.trial.FrozenTrial) -> str:
    """Of a design the arm, which stands for its values."""
    arm: str | None = trial.user_attrs.get("arm")
    if arm is None:
        return shown_params(trial.params)
    seed = trial.params.get("seed")
    return arm if seed is None else f"{arm}, seed {seed}"


def ranked_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Complete trials, best first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (trial.values, trial.number))


def count_states(study: optuna.Study) -> str:
    """`6 complete, 2 pruned`, states without a trial left out."""
    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    return (
        ", ".join(f"{count} {state.name.lower()}" for state, count in counts.items() if count) or "no trials"
    )
