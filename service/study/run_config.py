"""What the service asks of a configuration, of the kind of training run that it is for, and of an evaluation."""

from collections.abc import Collection
from typing import Any, Literal, Protocol, Self

from model.config.yaml_tree import Document


class RunConfig(Protocol):
    """The configuration of one training run; `model.config.train_config.TrainConfig` is one.

    Budgets are whole numbers of the run's own units, tokens for the GPT, and are called tokens in the storage.
    """

    @property
    def seed(self) -> int:
        """Of all that is random in the run."""

    @property
    def budget_tokens(self) -> int:
        """How long it trains."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """The budgets of its evaluations, rising, the last being the whole."""

    @property
    def rung_count(self) -> int:
        """How many were asked for, known before the budget is."""

    def with_tokens(self, tokens: int, /) -> Self:
        """The same run with another budget."""

    def with_seed(self, seed: int, /) -> Self:
        """The same run at another seed."""

    def model_dump(self, *, mode: Literal["json"]) -> dict[str, Any]:
        """As a file could hold it, defaults included."""

    def model_dump_json(self) -> str:
        """The same text for every configuration that is equal."""


class Kind(Protocol):
    """How the configurations of one kind of training run are read, and what of them trials may change."""

    def read(self, document: Document) -> RunConfig:
        """The configuration in a file. Raises ConfigError."""

    def recorded(self, document: Document) -> RunConfig:
        """The configuration that a version of this project has stored. Raises ConfigError."""

    def flops_per_token(self, config: RunConfig) -> float | None:
        """Operations behind a training token of this run; None where they are not known."""

    def without_effect(self, config: RunConfig) -> Collection[str]:
        """Dotted keys that change nothing in this run."""

    def is_common(self, key: str, *, own_budgets: bool) -> bool:
        """No trial may change the key, because trials would not be comparable; of those with budgets of their own,
        budget and rungs may differ."""


class Evaluated(Protocol):
    """A training run at one rung; `model.measurement.evaluation_record.Evaluation` is one."""

    @property
    def rung_tokens(self) -> int:
        """The rung, which all runs of one budget share."""

    @property
    def tokens(self) -> int:
        """How long it has trained."""

    @property
    def val_loss(self) -> float:
        """The objective, which is minimised; finite."""

    @property
    def tokens_per_second(self) -> float:
        """How fast."""

    @property
    def seconds(self) -> float:
        """Of training and evaluation, from the beginning; what was undone by an interruption is not among it."""

    def as_dict(self) -> dict[str, Any]:
        """Its fields, for JSON."""
