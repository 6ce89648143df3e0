"""What studies a storage has, and what one of them is."""

from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from service.settings import Settings
from service.storage import database, ranking
from service.storage.opened_study import OpenedStudy
from service.storage.optuna_private import id_of
from service.storage.optuna_tables import Tally, tallies
from service.storage.studies import COMMAND, CONFIRMS, DEFINITION, refusal
from service.study.design import shown_value
from service.study.samplers import shown_sampler
from service.study.search_space import leaves
from service.text.grid import Grid
from service.text.quantities import shown_number

_NONE = Tally({}, None, None)


def tally_of(opened: OpenedStudy) -> Tally:
    """The study's trials, counted."""
    return tallies(opened.storage.engine).get(id_of(opened.study), _NONE)


def grid(settings: Settings) -> Grid:
    """A row for each study, Optuna's own among them, by name. Raises UserError: there is no storage."""
    with database.opened(settings) as storage:
        found = tallies(storage.engine)
        studies = sorted(storage.get_all_studies(), key=lambda each: each.study_name)
    rows = []
    for study in studies:
        tally = found.get(id_of(study), _NONE)
        rows.append(
            (
                study.study_name,
                kind(study.user_attrs),
                shown_states(tally),
                "–" if tally.best is None else f"{tally.best:.4f}",
                "–" if tally.last is None else f"{tally.last:%Y-%m-%d %H:%M}",
            )
        )
    return Grid(("study", "kind", "trials", "best", "last end"), tuple(rows))


def kind(attributes: Mapping[str, Any]) -> str:
    """What a study with these attributes is."""
    if refusal("", attributes):
        return "Optuna's own"
    if CONFIRMS in attributes:
        return f"confirms {attributes[CONFIRMS].get('study')}"
    definition = attributes.get(DEFINITION)
    tree = definition.get("study") if isinstance(definition, Mapping) else None
    return "design" if isinstance(tree, Mapping) and tree.get("design") else "search"


def shown_states(tally: Tally) -> str:
    """`6 complete, 2 pruned`."""
    return ranking.shown_states(tally.states, tally.resumed) or "none"


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the lowest value, without reading the others."""
    try:
        return study.best_trial
    except ValueError:  # there is none
        return None


def facts(opened: OpenedStudy) -> Grid:
    """What a study is and where it stands, a row a fact."""
    return Grid(("", ""), tuple(_facts(opened)))


def _facts(opened: OpenedStudy) -> Iterator[tuple[str, str]]:
    study, definition, corpus = opened.study, opened.definition, opened.facts
    words = definition.words
    yield "question", definition.question
    yield "kind", kind(study.user_attrs)
    yield "file", definition.file or "none"
    if definition.scale:
        yield "scale", definition.scale
    yield "made by", str(study.user_attrs.get(COMMAND, "not known"))
    budget = corpus["budget_tokens"]
    if definition.own_run is not None:
        yield "trains", corpus["source"]
        yield "budget of a trial", f"{budget:,} {words.budget}, {definition.base_config.rung_count} rungs"
    else:
        train, validation, held_out = corpus["documents"]
        yield (
            "corpus",
            f"{corpus['source']}; {train:,} train, {validation:,} validation, {held_out:,} held-out documents",
        )
        own = "; unless its arm has its own" if definition.own_budgets else ""
        times = budget / corpus["train_tokens"]
        yield "budget of a trial", f"{budget:,} tokens, {times:.3g} times the train split{own}"
    if definition.cells:
        yield "configurations", f"{len(definition.cells)}, {len(set(definition.arms))} arms"
    else:
        yield "sampler", shown_sampler(definition.sampler)
    yield "pruner", definition.pruner.name
    base = dict(leaves(definition.base_config.model_dump(mode="json")))
    for key, parameter in definition.space.parameters.items():
        log = ", log" if getattr(parameter, "log", False) else ""
        when = "".join(f", where {parent} is {shown_value(list(c))}" for parent, c in parameter.when.items())
        yield key, f"{parameter.allowed}{log}{when}; baseline {shown_value(base[key])}"
    if spent := opened.shown_spent():
        yield "trials", shown_states(tally_of(opened))
        yield "budget of the study", spent
    else:
        counts = opened.slots.counts()
        closed = f"{counts['closed']} of {sum(counts.values())} slots closed, {opened.trials_left()} left"
        yield "trials", f"{shown_states(tally_of(opened))}; {closed}"
    if best := best_of(study):
        values = ", ".join(f"{key} {shown_number(value)}" for key, value in best.params.items())
        yield (
            "best",
            f"trial {best.number}, {words.metric} {best.value:.4f}: {best.user_attrs.get('arm') or values or '–'}",
        )
    if confirmed := study.user_attrs.get("confirmed"):
        yield "confirmed", f"{confirmed['arm']}, by {confirmed['study']} on {len(confirmed['seeds'])} seeds"
