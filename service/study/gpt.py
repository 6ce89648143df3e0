"""The built-in GPT as a kind of training run: its configuration is `model.config.train_config.TrainConfig`."""

from dataclasses import dataclass

from model.config.counts import flops_per_token
from model.config.section import validate
from model.config.settings_without_effect import settings_without_effect
from model.config.train_config import TrainConfig, recorded
from model.config.yaml_tree import Document
from service.study.design import BUDGETS
from service.study.run_config import RunConfig

_COMPARABLE = (*BUDGETS, "training.rungs")


@dataclass(frozen=True)
class Gpt:
    """The built-in GPT."""

    def read(self, document: Document) -> TrainConfig:
        """The configuration in a file. Raises ConfigError."""
        return validate(document, TrainConfig)

    def recorded(self, document: Document) -> TrainConfig:
        """The configuration that a version of this project has stored. Raises ConfigError."""
        return validate(Document(document.name, recorded(document.tree)), TrainConfig)

    def flops_per_token(self, config: RunConfig) -> float:
        """Operations behind a training token of this run."""
        assert isinstance(config, TrainConfig)
        return flops_per_token(config)

    def without_effect(self, config: RunConfig) -> set[str]:
        """Dotted keys that change nothing in this run."""
        assert isinstance(config, TrainConfig)
        return settings_without_effect(config)

    def is_common(self, key: str, *, own_budgets: bool) -> bool:
        """No trial may change it: corpus, evaluation, and the budget unless trials have their own."""
        if key.startswith(("data.", "evaluation.", "tokenizer.pretrained")):
            return True
        return key in _COMPARABLE and not own_budgets
