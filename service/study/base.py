"""The training run that a study varies: its file with all that is fixed, and what it says, validated once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from model.config.section import validate
from model.config.train_config import TrainConfig
from model.config.yaml_tree import Document
from model.errors import ConfigError
from service.study.search_space import leaves

Built = TrainConfig | str
"""A configuration, or what is wrong with it, without a place."""


@dataclass(frozen=True)
class Base:
    """A base file that has been read and validated."""

    document: Document = field(compare=False)
    config: TrainConfig

    @classmethod
    def of(cls, document: Document) -> "Base":
        """The base in a document. Raises ConfigError: it is no valid configuration."""
        return cls(document, validate(document, TrainConfig))

    @cached_property
    def values(self) -> dict[str, Any]:
        """Every value by dotted key, defaults included."""
        return dict(leaves(self.config.model_dump(mode="json")))

    def config_for(self, values: Mapping[str, Any], places: Mapping[str, str] | None = None) -> TrainConfig:
        """The configuration with these values by dotted key. Raises ConfigError, at one of the `places`."""
        return validate(self.document.with_overrides(values, places), TrainConfig)

    def built(self, values: Mapping[str, Any]) -> Built:
        """The configuration with these values, or what is wrong with it."""
        bare = Document("", self.document.tree).with_overrides(values, dict.fromkeys(values, ""))
        try:
            return validate(bare, TrainConfig)
        except ConfigError as error:
            return str(error).removeprefix(": ")
