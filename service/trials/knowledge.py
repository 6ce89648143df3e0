"""What a searcher is told: all trials of a study whose trials pause, and results that came from elsewhere."""

import itertools
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from optuna.trial import TrialState

from model.errors import ConfigError
from service.search.problem import Advance, Begin, Begun, State
from service.storage.budget import Budget, Reading
from service.storage.reports import Reported, read_params, read_reports
from service.study.definition import StudyDefinition
from service.study.search_space import Values
from service.trials.failures import blames_configuration


@dataclass(frozen=True)
class Known:
    """What is known of a study at one moment."""

    seen: Reading
    begun: list[Begun]
    """Those of the slots by number, and then results from elsewhere."""
    has_baseline: bool
    asked_for: bool
    """The next trial that is begun is the baseline, or what somebody has enqueued."""

    @property
    def due(self) -> Advance | Begin | None:
        """What is to be done whatever a searcher thinks: first the baseline is run to its end."""
        if self.has_baseline and self.begun and self.begun[0].state == "paused":
            return Advance(0)
        return Begin(None) if self.asked_for else None


class Knowledge:
    """Of one study, read anew for each decision; what cannot change is read once.

    Args:
        definition: of the study.
        budget: its own.
        rungs: training tokens of its evaluations.
    """

    def __init__(self, definition: StudyDefinition, budget: Budget, rungs: tuple[int, ...]) -> None:
        self._definition, self._budget, self._rungs = definition, budget, rungs
        self._values: dict[int, Values | None] = {}
        """By trial number, once they are all known; None of a result from elsewhere that is none of this space."""

    def read(self) -> Known | None:
        """As it is now; None where the study is gone."""
        seen = self._budget.read()
        if seen is None:
            return None
        reports = read_reports(self._budget.slots)
        own = {row.trial_number for row in seen.slots if row.trial_number in reports}
        others = {n for n, trial in reports.items() if n not in own and _is_result(trial)}
        self._read_values(reports, own, others)
        begun = []
        for row in seen.slots:
            if row.trial_number not in own:
                values = self._definition.fixed_values(row.slot)
                if values is None:
                    values = json.loads(row.point) if row.point else {}
                begun.append(Begun(row.slot, values, (), "running"))
                continue
            trial = reports[row.trial_number]
            losses = tuple(trial.losses[rung] for rung in self._rungs if rung in trial.losses)
            begun.append(
                Begun(row.slot, self._values[row.trial_number] or {}, losses, _state(row.state, trial))
            )
        for number in sorted(others):
            values = self._values[number]
            if values is not None and (found := self._elsewhere(len(begun), values, reports[number])):
                begun.append(found)
        enqueued = sum(trial.state == TrialState.WAITING for trial in reports.values())
        unstarted = sum(row.trial_number is None for row in seen.slots)
        asked_for = self._definition.fixed_values(len(seen.slots)) is not None or enqueued > unstarted
        return Known(seen, begun, self._definition.baseline, asked_for)

    def _read_values(
        self, reports: Mapping[int, Reported], own: Collection[int], others: Collection[int]
    ) -> None:
        space = self._definition.space
        unknown = {number for number in (*own, *others) if self._is_unknown(number, reports[number])}
        for number, params in read_params(self._budget.slots, unknown).items():
            try:
                self._values[number] = (
                    space.decode(params) if number in own else space.point(params, whole=True)
                )
            except ConfigError:
                self._values[number] = None

    def _is_unknown(self, number: int, trial: Reported) -> bool:
        """Its values have to be read: it may not have had all of them before it reported."""
        return number not in self._values or not (trial.losses or trial.state.is_finished())

    def _elsewhere(self, number: int, values: Values, trial: Reported) -> Begun | None:
        """A result that no slot of the study has; None where it says nothing of this one's rungs."""
        state: State = "failed" if blames_configuration(trial.ended) else "ended"
        at_rungs = (trial.losses.get(rung, math.nan) for rung in self._rungs)
        losses = tuple(itertools.takewhile(math.isfinite, at_rungs))
        complete = trial.state == TrialState.COMPLETE and trial.value is not None
        if complete and len(losses) < len(self._rungs):
            assert trial.value is not None
            return Begun(number, values, (trial.value,), state, skipped=len(self._rungs) - 1)
        return Begun(number, values, losses, state) if losses or state == "failed" else None


def _state(slot: str, trial: Reported) -> State:
    if slot == "paused":
        return "paused"
    if slot != "closed":
        return "running"
    failed = trial.state == TrialState.FAIL or blames_configuration(trial.ended)
    return "failed" if failed else "ended"


def _is_result(trial: Reported) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
