"""The training run that a study varies: its file with all that is fixed, and what it says, validated once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from model.config.yaml_tree import Document
from model.errors import ConfigError
from service.study.gpt import Gpt
from service.study.run_config import Kind, RunConfig
from service.study.search_space import leaves

Built = RunConfig | str
"""A configuration, or what is wrong with it, without a place."""


@dataclass(frozen=True)
class Base:
    """A base file that has been read and validated."""

    document: Document = field(compare=False)
    config: RunConfig
    kind: Kind = field(compare=False)

    @classmethod
    def of(cls, document: Document, kind: Kind | None = None) -> "Base":
        """The base in a document, of the built-in GPT unless told otherwise. Raises ConfigError: it is not valid."""
        kind = kind or Gpt()
        return cls(document, kind.read(document), kind)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Every value by dotted key, defaults included."""
        return dict(leaves(self.config.model_dump(mode="json")))

    def config_for(self, values: Mapping[str, Any], places: Mapping[str, str] | None = None) -> RunConfig:
        """The configuration with these values by dotted key. Raises ConfigError, at one of the `places`."""
        return self.kind.read(self.document.with_overrides(values, places))

    def built(self, values: Mapping[str, Any]) -> Built:
        """The configuration with these values, or what is wrong with it."""
        bare = Document("", self.document.tree).with_overrides(values, dict.fromkeys(values, ""))
        try:
            return self.kind.read(bare)
        except ConfigError as error:
            return str(error).removeprefix(": ")
