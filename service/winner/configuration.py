"""A configuration as YAML, as overrides of the file it was made from, and as the difference to the baseline."""

import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from model.config.yaml_tree import read, written
from service.settings import HOME
from service.storage.studies import corpus_facts
from service.study.base_file import own_base
from service.study.design import shown_value
from service.study.file import found_in
from service.study.parameters import same
from service.study.run_config import RunConfig
from service.study.search_space import leaves
from service.text.grid import Grid
from service.winner.choice import Winner


def as_yaml(winner: Winner) -> str:
    """A whole file for `python -m model --config`, or for the user's code, with what it is in its first lines."""
    facts, words = corpus_facts(winner.trained_in), winner.definition.words
    lines = [
        f"study {winner.study.study_name}: {winner.why}",
        f"{words.metric} {_mean(winner):.4f}{words.in_unit}" if winner.losses else f"no {words.metric}",
        f"trains {facts['source']}, for {winner.config.budget_tokens:,} {words.budget}"
        if winner.definition.own_run
        else f"corpus: {facts['source']}, {facts['train_tokens']:,} tokens in the train split",
    ]
    header = "".join(f"# {' '.join(line.split())}\n" for line in lines)
    return header + yaml.safe_dump(winner.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def as_overrides(winner: Winner) -> str:
    """The `--set KEY=VALUE` that make the study's base file, as it is now, the configuration; for a shell.

    Raises:
        ConfigError: the base file is not there any more, or not valid.
    """
    base = _base(winner)
    words = [
        word for key, value in _differing(base, winner.config).items() for word in ("--set", f"{key}={value}")
    ]
    return shlex.join(words)


def _base(winner: Winner) -> RunConfig:
    definition = winner.definition
    name = definition.tree.get("base", "train_config.yaml")
    if definition.own_run is None:
        return definition.base.kind.read(read(found_in(HOME, name)))
    study_file = found_in(HOME, definition.file) if definition.file else None
    return definition.base.kind.recorded(read(own_base(name, study_file, HOME)))


def as_difference(winner: Winner) -> Grid:
    """What it has other than the study's baseline, a row a key."""
    budget = corpus_facts(winner.study)["budget_tokens"]
    before = winner.definition.base_config.with_tokens(budget)
    flat = _flat(before), _flat(winner.config)
    rows = [
        (key, shown_value(flat[0][key]), shown_value(flat[1][key]))
        for key in flat[1]
        if not same(flat[0][key], flat[1][key])
    ]
    return Grid(("key", "baseline", "best"), tuple(rows))


def _differing(before: RunConfig, after: RunConfig) -> dict[str, str]:
    old, new = _flat(before), _flat(after)
    return {key: written(value) for key, value in new.items() if key not in old or not same(value, old[key])}


def _flat(config: RunConfig) -> Mapping[str, Any]:
    return dict(leaves(config.model_dump(mode="json")))


def _mean(winner: Winner) -> float:
    return sum(winner.losses.values()) / len(winner.losses)
