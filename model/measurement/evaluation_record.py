"""What is known of a training run at a rung, for whoever reads it without torch."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """A training run at one rung. Losses are of the validation split unless named otherwise."""

    rung_tokens: int
    """The rung's token count, shared by all runs of one budget."""
    step: int
    """Updates done."""
    tokens: int
    """Training tokens seen: at least `rung_tokens`, up to one step more; at the last rung up to one step less."""
    val_loss: float
    """Nats per character over the whole split (see `model.measurement.evaluation.SplitScore.loss_per_character`). The
    objective."""
    nats_per_token: float
    perplexity: float
    """exp(`nats_per_token`)."""
    perplexity_per_char: float
    """exp(`val_loss`): what the seed documents call perplexity."""
    bits_per_byte: float
    train_loss: float
    """Mean nats per token of the training batches since the last rung, dropout on, before each update."""
    learning_rate: float
    """Of the last update (first parameter group)."""
    gradient_norm: float
    """Global L2 norm of the last update's gradient, before clipping."""
    train_seconds: float
    """Time in training steps since the start of the run, over all its attempts."""
    evaluation_seconds: float
    """Time in evaluations, likewise."""
    tokens_per_second: float
    """`tokens` ÷ `train_seconds`."""
    peak_memory_bytes: int | None
    """Largest GPU memory allocated since the run began; None on a CPU."""
    val_loss_official: float | None = None
    """The seeds' `evaluate()` to the letter, with the run's own block and batch. At the last rung only."""
    coverage: float | None = None
    """Share of the split's tokens that `val_loss_official` scores; the rest counts there as loss 0."""

    @property
    def seconds(self) -> float:
        """`train_seconds` + `evaluation_seconds`."""
        return self.train_seconds + self.evaluation_seconds

    def as_dict(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        return asdict(self)
