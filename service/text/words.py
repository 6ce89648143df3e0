"""How a study's objective and budget are called on pages; files and the storage have `val_loss` and tokens."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """The words of one study."""

    metric: str = "val_loss"
    """What is minimised."""
    metric_unit: str = "nats per character"
    """Of it; empty where none is known."""
    budget: str = "tokens"
    """Units of the budget."""

    @property
    def objective(self) -> str:
        """`val_loss, nats per character`."""
        return f"{self.metric}, {self.metric_unit}" if self.metric_unit else self.metric

    @property
    def sentence(self) -> str:
        """The objective in a sentence: `validation loss`, of which the GPT has one."""
        return self.metric if self.metric != "val_loss" else "validation loss"

    @property
    def shown_loss(self) -> str:
        """In a sentence: `loss` of the GPT, whose only one it is."""
        return self.metric if self.metric != "val_loss" else "loss"

    @property
    def in_unit(self) -> str:
        """` nats per character`, to stand behind a number; nothing where no unit is known."""
        return f" {self.metric_unit}" if self.metric_unit else ""

    def of_budget(self, text: str) -> str:
        """A text about the built-in GPT's budget, tokens, for this one's."""
        return text.replace("tokens", self.budget)

    @property
    def best_trials(self) -> str:
        """Title of a table of them."""
        return f"best trials, {self.metric}" + (f" in {self.metric_unit}" if self.metric_unit else "")


GPT = Words()
"""Of a study of the built-in GPT."""
