"""A configuration as YAML, as overrides of the file it was made from, and as the difference to the baseline."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import parse_value, read
from model.errors import ConfigError
from service.settings import HOME
from service.storage.studies import corpus_facts
from service.study.design import shown_value
from service.study.file import found_in
from service.study.parameters import same
from service.study.search_space import leaves
from service.text.grid import Grid
from service.winner.choice import Winner


def as_yaml(winner: Winner) -> str:
    """A whole file for `python -m model --config`, with what it is in its first lines."""
    facts = corpus_facts(winner.trained_in)
    lines = [
        f"study {winner.study.study_name}: {winner.why}",
        f"val_loss {_mean(winner):.4f} nats per character" if winner.losses else "no val_loss",
        f"corpus: {facts['source']}, {facts['train_tokens']:,} tokens in the train split",
    ]
    header = "".join(f"# {' '.join(line.split())}\n" for line in lines)
    return header + yaml.safe_dump(winner.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def as_overrides(winner: Winner) -> str:
    """The `--set KEY=VALUE` that make the study's base file, as it is now, the configuration; for a shell.

    Raises:
        ConfigError: the base file is not there any more, or not valid.
    """
    base = validate(
        read(found_in(HOME, winner.definition.tree.get("base", "train_config.yaml"))), TrainConfig
    )
    words = [
        word for key, value in _differing(base, winner.config).items() for word in ("--set", f"{key}={value}")
    ]
    return shlex.join(words)


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


def _differing(before: TrainConfig, after: TrainConfig) -> dict[str, str]:
    old, new = _flat(before), _flat(after)
    return {key: _word(value) for key, value in new.items() if not same(value, old[key])}


def _flat(config: TrainConfig) -> Mapping[str, Any]:
    return dict(leaves(config.model_dump(mode="json")))


def _word(value: Any) -> str:
    """A value as the command line reads it back."""
    if isinstance(value, str):
        try:
            if parse_value(value) == value:
                return value
        except ConfigError:
            pass
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))


def _mean(winner: Winner) -> float:
    return sum(winner.losses.values()) / len(winner.losses)
