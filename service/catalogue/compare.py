"""Two studies beside each other: what they have in common, what differs, and what each has found."""

import contextlib
from collections.abc import Mapping
from typing import Any

from model.errors import ConfigError
from service.catalogue.listing import best_of, kind, shown_states, tally_of
from service.settings import Settings
from service.storage.configurations import configuration_of
from service.storage.opened_study import OpenedStudy, open_study
from service.study.definition import StudyDefinition
from service.study.design import shown_value
from service.study.parameters import same
from service.study.search_space import leaves
from service.text.grid import Grid


def compare(settings: Settings, first: str, second: str) -> tuple[Grid, str]:
    """What differs, a row a thing, and whether the losses can be compared. Raises StudyError: one is not there."""
    with contextlib.closing(open_study(settings, first)) as opened:
        pair = opened, opened.other(second)
        sides = [_side(each) for each in pair]
        sentence = _sentence(*pair)
    keys = list(dict.fromkeys([*sides[0], *sides[1]]))
    always = {"trials", *(f"best {each.definition.words.metric}" for each in pair)}
    rows = [
        (key, *(side.get(key, "–") for side in sides))
        for key in keys
        if key in always or sides[0].get(key) != sides[1].get(key)
    ]
    return Grid(("", first, second), tuple(rows)), sentence


def _side(opened: OpenedStudy) -> dict[str, str]:
    study, definition, facts = opened.study, opened.definition, opened.facts
    words = definition.words
    found = {
        "kind": kind(study.user_attrs),
        "trains" if definition.own_run else "corpus": f"{facts['source']} ({facts['fingerprint'][:12]})",
        f"budget_{words.budget}": f"{facts['budget_tokens']:,}",
        "sampler": "none, a design" if definition.cells else definition.sampler.name,
        "pruner": definition.pruner.name,
    }
    for key, value in leaves(definition.base_config.model_dump(mode="json")):
        found[f"base {key}"] = shown_value(value)
    for key, parameter in definition.space.parameters.items():
        found[f"space {key}"] = parameter.allowed + (", log" if getattr(parameter, "log", False) else "")
    found["trials"] = shown_states(tally_of(opened).states)
    if best := best_of(study):
        found[f"best {words.metric}"] = f"{best.value:.4f} (trial {best.number})"
        try:
            config = configuration_of(study, definition, best)
        except ConfigError:  # one that was added and cannot be run here
            return found
        base = dict(leaves(definition.base_config.model_dump(mode="json")))
        for key, value in leaves(config.model_dump(mode="json")):
            if not same(value, base.get(key)) and not key.startswith("training.epochs"):
                found[f"best {key}"] = shown_value(value)
    return found


def _sentence(first: OpenedStudy, second: OpenedStudy) -> str:
    """Whether the losses can be compared, and what they say then."""
    apart = _apart(first.facts, second.facts, first.definition, second.definition)
    if apart:
        return f"their losses cannot be compared: {apart}"
    best = best_of(first.study), best_of(second.study)
    if best[0] is None or best[1] is None:
        return "their losses can be compared, once both have a complete trial"
    gain = (best[1].value or 0.0) - (best[0].value or 0.0)
    if not gain:
        return f"their best trials have the same {first.definition.words.metric}"
    better, worse = (first, second) if gain > 0 else (second, first)
    said = f"{better.name} is {abs(gain):.4f}{first.definition.words.in_unit} better than {worse.name}"
    budget = "" if first.facts["budget_tokens"] == second.facts["budget_tokens"] else ", at another budget"
    return f"{said}{budget}: the best of each, one run on one seed; `confirm` tells better from luckier"


def _apart(
    facts: Mapping[str, Any], others: Mapping[str, Any], one: StudyDefinition, other: StudyDefinition
) -> str | None:
    if one.words != other.words or bool(one.own_run) != bool(other.own_run):
        return "they do not measure the same"
    if facts["fingerprint"] != others["fingerprint"]:
        return "their training code is not the same" if one.own_run else "their corpora are not the same"
    if (
        one.own_run is None
        and one.gpt_config("evaluation").evaluation != other.gpt_config("evaluation").evaluation
    ):
        return "they are evaluated differently (evaluation.block_size, evaluation.batch_size)"
    return None
