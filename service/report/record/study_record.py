"""A study as its report needs it: runs with their curves and figures, gathered into arms that share seeds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from service.report.record import measured
from service.report.record.arms import arms_of_trials, baseline_of_search, values_of
from service.report.record.metrics import FIGURES
from service.statistics import estimate
from service.storage import measurements
from service.storage.artifact_stores import Store
from service.storage.ownership import generation_of, is_own
from service.storage.studies import corpus_facts
from service.study import audit
from service.study.definition import StudyDefinition
from service.study.design import BASELINE
from service.text.words import Words

COMPLETE, DIVERGED, OUT_OF_MEMORY = "complete", "diverged", "out of memory"


@dataclass(frozen=True)
class Run:
    """One training run: a trial, as far as it came."""

    trial: int
    arm: str
    seed: int
    state: str
    """`complete`, `pruned`, `diverged`, `out of memory`, `failed`, `running` or `waiting`."""
    ended: str
    """For people, as the trial has it."""
    config: Mapping[str, Any]
    """As `train_config.yaml` nests it; empty where the trial ended before it began to train."""
    metrics: Mapping[str, float | None]
    """By name (`service.report.record.metrics`); None where it was not measured. Of a run that is not complete: at the
    last rung it reached."""
    curve: tuple[Mapping[str, Any], ...]
    """The fields of `Evaluation` at every rung; of a run that broke off, `rung_tokens` and `val_loss` alone."""
    steps: tuple[Mapping[str, Any], ...]
    """Diagnostics of the measured steps; empty where they were off."""
    evaluations: tuple[Mapping[str, Any], ...]
    """Diagnostics of the evaluations; empty where they were off."""
    parameters: int | None
    device: str | None
    audit: Mapping[str, Any] | None = None
    """Where the pruner would have stopped it (`service.study.audit`); None where it was not audited."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen for it, by dotted key."""
    added: bool = False
    """It was put into the study by Optuna's own interface: its loss is known, and little else."""

    @property
    def complete(self) -> bool:
        """It reached the end of its budget."""
        return self.state == COMPLETE

    @property
    def has_curve(self) -> bool:
        """Its evaluations are known whole, not their losses alone."""
        return bool(self.curve) and all("train_seconds" in row for row in self.curve)


@dataclass(frozen=True)
class Arm:
    """The runs of one configuration, one a seed."""

    name: str
    runs: tuple[Run, ...]
    """By seed."""

    @property
    def complete(self) -> tuple[Run, ...]:
        """The runs that reached the end of their budget; statistics are over these."""
        return tuple(run for run in self.runs if run.complete)

    def values(self, metric: str) -> dict[int, float]:
        """The metric of each complete run that has a finite one, by seed."""
        found = {run.seed: run.metrics.get(metric) for run in self.complete}
        return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}

    @property
    def all_diverged(self) -> bool:
        """Every run met a non-finite loss or gradient."""
        return all(run.state == DIVERGED for run in self.runs)

    @property
    def ended_early(self) -> str:
        """`of 3 runs 2 diverged, 1 failed`; empty where all are complete."""
        states = [run.state for run in self.runs if not run.complete]
        counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
        return f"of {len(self.runs)} runs {', '.join(counts)}" if counts else ""


@dataclass(frozen=True)
class StudyRecord:
    """A study and what its trials have shown so far."""

    name: str
    """In the storage."""
    question: str
    scale: str | None
    """The scale it was made at; None is the published size."""
    corpus: Mapping[str, Any]
    """Its source, fingerprint, documents of each split, duplicates dropped, tokens of the train split."""
    budget_tokens: int
    """Of a trial whose configuration names none of its own."""
    baseline: str | None
    """The arm that the others are compared with, whether or not it has a run; None where no run has begun."""
    arms: tuple[Arm, ...]
    """In the design's order, those of a search in that of their trials."""
    states: Mapping[str, tuple[int, ...]]
    """Trial numbers by state; `continued` are those that another trial went on with."""
    definition: StudyDefinition

    @property
    def words(self) -> Words:
        """What its objective and its budget are called."""
        return self.definition.words

    @property
    def own_code(self) -> bool:
        """It trains code of the user's."""
        return self.definition.own_run is not None

    @property
    def tuned(self) -> bool:
        """Its configurations came from a sampler and not from a design."""
        return not self.definition.cells

    @cached_property
    def best_arms(self) -> tuple[Arm, ...]:
        """The arms that have a complete run, by their mean loss, best first."""
        means = ((arm, estimate(list(arm.values("val_loss").values()))) for arm in self.arms)
        ranked = [(found.mean, arm.name, arm) for arm, found in means if found]
        return tuple(arm for *_, arm in sorted(ranked, key=lambda one: one[:2]))

    @property
    def shown_states(self) -> str:
        """`6 complete, 2 pruned, 1 interrupted and resumed`."""
        said = {"continued": "interrupted and resumed"}
        return ", ".join(f"{len(of)} {said.get(state, state)}" for state, of in self.states.items())

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, arm by arm."""
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that a run has, ascending."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def devices(self) -> tuple[str, ...]:
        """What the runs were trained on."""
        return tuple(sorted({run.device for run in self.runs if run.device}))

    def arm(self, name: str) -> Arm | None:
        """The arm of that name, if one of its runs has begun."""
        return next((arm for arm in self.arms if arm.name == name), None)


def read(
    study: optuna.Study, definition: StudyDefinition, store: Store | None, *, baseline: str | None = None
) -> StudyRecord:
    """The record of a study as it stands now.

    A run whose files are gone from the store keeps what the storage has: its last figures, its losses by rung.

    Args:
        study: as loaded.
        definition: its stored definition.
        store: where its artifacts are; None reads no file, and is fast.
        baseline: the arm to compare with; the base file's, or else the design's first one, unless given.

    Raises:
        StudyError: the store cannot be read.
    """
    facts = corpus_facts(study)
    trials = study.get_trials(deepcopy=False)
    generation = generation_of(study)
    own = {trial.number for trial in trials if is_own(trial, generation)}
    continued = {trial.user_attrs.get("goes_on_with") for trial in trials if trial.number in own}
    states: dict[str, list[int]] = {}
    runs: dict[str, list[Run]] = {}
    names = arms_of_trials(trials, definition, own)
    for trial in trials:
        state = "continued" if trial.number in continued else _state(trial)
        states.setdefault(state, []).append(trial.number)
        if state not in ("continued", "waiting"):
            if trial.number in own:
                run = _run(trial, names[trial.number], state, definition, study, store, facts)
            else:
                run = _added(trial, names[trial.number], state, definition)
            runs.setdefault(run.arm, []).append(run)
    in_order = dict.fromkeys(name for name in (*definition.arms, *runs) if name in runs)
    arms = tuple(
        Arm(name, tuple(sorted(runs[name], key=lambda run: (run.seed, run.trial)))) for name in in_order
    )
    if baseline is None and definition.cells:
        began = {name for name, of in runs.items() if not of[0].added}
        baseline = next((name for name in (BASELINE, *in_order) if name in began), next(iter(in_order), None))
    elif baseline is None and definition.baseline:
        configs = {of[0].trial: of[0].config for of in runs.values()}
        number = baseline_of_search(trials, configs, study, definition)
        baseline = None if number is None else names[number]
    return StudyRecord(
        name=study.study_name,
        question=definition.question,
        scale=definition.scale,
        corpus=facts,
        budget_tokens=facts["budget_tokens"],
        baseline=baseline,
        arms=arms,
        states={state: tuple(numbers) for state, numbers in states.items()},
        definition=definition,
    )


def _state(trial: FrozenTrial) -> str:
    if trial.state == TrialState.PRUNED:
        ended = trial.user_attrs.get("ended", "")
        return next((why for why in (DIVERGED, OUT_OF_MEMORY) if ended.startswith(why)), "pruned")
    names = {TrialState.COMPLETE: COMPLETE, TrialState.FAIL: "failed"}
    return names.get(trial.state, trial.state.name.lower())


def _run(
    trial: FrozenTrial,
    arm: str,
    state: str,
    definition: StudyDefinition,
    study: optuna.Study,
    store: Store | None,
    facts: Mapping[str, Any],
) -> Run:
    attributes = trial.user_attrs
    config = attributes.get("config", {})
    kept = measurements.read(trial, study, store)
    steps = tuple(record for record in kept.diagnostics if record["kind"] == "step")
    evaluations = tuple(record for record in kept.diagnostics if record["kind"] == "evaluation")
    return Run(
        trial=trial.number,
        arm=arm,
        seed=config.get("seed", trial.params.get("seed", definition.base_config.seed)),
        state=state,
        ended=attributes.get("ended", state),
        config=config,
        metrics=measured.figures(
            config=config if definition.own_run is None else {},
            curve=kept.curve,
            noted=kept.noted,
            steps=steps,
            evaluations=evaluations,
            parameters=attributes.get("parameters"),
            train_tokens=measured.train_tokens(attributes, definition, facts),
        ),
        curve=kept.curve,
        steps=steps,
        evaluations=evaluations,
        parameters=attributes.get("parameters"),
        device=attributes.get("provenance", {}).get("device"),
        audit=attributes.get(audit.MARK),
        values=values_of(trial, definition.space),
    )


def _added(trial: FrozenTrial, arm: str, state: str, definition: StudyDefinition) -> Run:
    """A trial that was not trained here: its value, and what it has of the figures of a run."""
    seed = trial.params.get("seed")
    metrics: dict[str, float | None] = dict.fromkeys(FIGURES)
    metrics |= {key: value for key, value in measured.numbers(trial.user_attrs) if key in FIGURES}
    if trial.state == TrialState.COMPLETE:
        metrics["val_loss"] = trial.value
    return Run(
        trial=trial.number,
        arm=arm,
        seed=seed if isinstance(seed, int) else definition.base_config.seed,
        state=state,
        ended=f"added, {state}",
        config={},
        metrics=metrics,
        curve=(),
        steps=(),
        evaluations=(),
        parameters=None,
        device=None,
        values=values_of(trial, definition.space),
        added=True,
    )
