"""The schema of `train_config.yaml`: one complete training run, frozen and strict.

Sections hold what a file can say; what follows from it (token budget in steps, parameter count, settings
without effect) are properties and functions here, so that every reader agrees. Imports no torch.
"""

from math import ceil
from typing import Any, Literal

from pydantic import Field, model_validator

from model.config.architecture import ModelConfig
from model.config.data import LARGEST_SEED, DataConfig, TokenizerConfig
from model.config.optimization import OptimizerConfig, ScheduleConfig
from model.config.section import Section


class TrainingConfig(Section):
    """Budget, batches and arithmetic."""

    epochs: float | None = Field(None, gt=0)
    """Budget in passes over the train split, turned into tokens once, when run or study begins."""
    tokens: int | None = Field(None, ge=1)
    """Budget in training tokens."""
    steps: int | None = Field(None, ge=1)
    """Budget in updates: steps x batch_size x `model.block_size` tokens. One of the three, the others null."""
    batch_size: int = Field(64, ge=1)
    """Windows of `model.block_size` tokens behind one update."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Windows in one forward pass, to save memory; null for the whole batch. The gradient is the same for
    the same dropout masks; but each pass draws its own, so that other ones fall with another number."""
    shuffle: bool = True
    """Draw the windows in a new order every epoch; false reads them one after the other, as the code of
    the seed documents did."""
    shuffle_titles: bool = False
    """Join the titles in a new order every epoch, so that none is always followed by the same one."""
    random_offset: bool = False
    """Cut the windows of every epoch from an offset of its own, 0 to `model.block_size` - 1."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target's probability that is spread over the vocabulary (`model/network/loss.py` has the
    sources)."""
    z_loss: float = Field(0.0, ge=0)
    """Weight of the squared logarithm of the softmax's denominator; 1e-4 in PaLM."""
    r_drop: float = Field(0.0, ge=0)
    """Weight of the divergence between two passes that drop different units; 0 is one pass. Two hold twice the
    windows in memory and cost twice the operations."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, one update to the next, which is evaluated and
    checkpointed in their place; null for none."""
    rungs: int = Field(8, ge=1, le=10_000)
    """Evaluations, evenly spaced over the budget; a trial may be pruned at each."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the matrix products; `auto` takes the fastest that the device computes in. fp16 needs a GPU."""

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainingConfig":
        if [self.epochs, self.tokens, self.steps].count(None) != 2:
            raise ValueError(
                f"needs one of epochs, tokens and steps, the others null, given epochs {self.epochs}, "
                f"tokens {self.tokens} and steps {self.steps}"
            )
        return self


def precision_misfit(name: str, device_type: str) -> str | None:
    """Why such a device (`cpu`, `cuda`) cannot train in that `training.precision`; None where it can."""
    if (name, device_type) == ("fp16", "cpu"):
        return "given fp16 on a CPU, allowed there: auto, fp32, bf16"
    return None


class EvaluationConfig(Section):
    """The exact pass over a split. The same for every trial of a study."""

    block_size: int = Field(64, ge=2)
    """Tokens of context at most; at most `model.block_size`."""
    batch_size: int = Field(64, ge=1)
    """Windows at once; changes speed and memory, not the loss."""


class DiagnosticsConfig(Section):
    """What is measured beside the losses (`model/measurement/diagnostics.py`), and who is told. Training stays as it
    is."""

    every: int = Field(0, ge=0)
    """Steps between two measured steps; 0 measures none. 50 costs less than 3 % of the time."""
    evaluation: bool = False
    """Accuracy, calibration and loss by position at every rung."""
    tensorboard: bool = False
    """Write the curves for TensorBoard as well."""
    wandb: Literal["offline", "online"] | None = None
    """Write the curves for Weights & Biases as well; `offline` only to files, for `wandb sync`."""

    @property
    def measures(self) -> bool:
        """Anything is measured."""
        return self.every > 0 or self.evaluation


class TrainConfig(Section):
    """One complete training run."""

    seed: int = Field(1337, ge=0, le=LARGEST_SEED)
    """Of initialisation, window order and dropout."""
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig(epochs=7)
    evaluation: EvaluationConfig = EvaluationConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> "TrainConfig":
        if self.evaluation.block_size > self.model.block_size:
            raise ValueError(
                "evaluation.block_size must be at most model.block_size (there are no more positions), "
                f"given {self.evaluation.block_size} and {self.model.block_size}"
            )
        floor_lr = self.schedule.floor_lr
        if floor_lr is not None and floor_lr > self.optimizer.lr:
            raise ValueError(
                f"schedule.floor_lr must be at most optimizer.lr, given {floor_lr} and {self.optimizer.lr}"
            )
        return self

    @property
    def tokens_per_step(self) -> int:
        """Training tokens behind one update."""
        return self.training.batch_size * self.model.block_size

    @property
    def budget_tokens(self) -> int:
        """The budget of a run whose epochs have been turned into tokens."""
        assert self.training.tokens is not None, "with_token_budget comes first"
        return self.training.tokens

    @property
    def total_steps(self) -> int:
        """Updates in the budget: as many whole steps as fit, at least one."""
        return max(1, self.budget_tokens // self.tokens_per_step)

    @property
    def rung_count(self) -> int:
        """Evaluations in the budget, which may have fewer where it has fewer tokens."""
        return self.training.rungs

    @property
    def rungs(self) -> tuple[int, ...]:
        """Token counts of the evaluations, the last being the budget; the same for every batch size."""
        return evenly_spaced(self.budget_tokens, self.training.rungs)

    def rung_step(self, rung_tokens: int) -> int:
        """The step after which the rung is evaluated: the first that has seen its tokens, or the last."""
        return min(self.total_steps, ceil(rung_tokens / self.tokens_per_step))

    def with_token_budget(self, train_tokens: int) -> "TrainConfig":
        """The same run with its budget in tokens, for a train split of `train_tokens` tokens."""
        if self.training.tokens is not None:
            return self
        if self.training.steps is not None:
            return self.with_tokens(self.training.steps * self.tokens_per_step)
        assert self.training.epochs is not None
        return self.with_tokens(max(1, round(self.training.epochs * train_tokens)))

    def with_tokens(self, tokens: int) -> "TrainConfig":
        """The same run with a budget of `tokens` training tokens."""
        training = self.training.model_copy(update={"epochs": None, "tokens": tokens, "steps": None})
        return self.model_copy(update={"training": training})

    def with_seed(self, seed: int) -> "TrainConfig":
        """The same run at another seed."""
        return self.model_copy(update={"seed": seed})


def evenly_spaced(budget: int, rungs: int) -> tuple[int, ...]:
    """The budgets of `rungs` evaluations, or of as many as the budget has units, the last being the whole."""
    n = min(rungs, budget)
    return tuple(budget * (i + 1) // n for i in range(n))


def recorded(tree: Any) -> Any:
    """A configuration as any version has stored it, completed by what held before a key that it lacks was there."""
    tokenizer = tree.get("tokenizer") if isinstance(tree, dict) else None
    if not isinstance(tokenizer, dict):
        return tree  # for the schema to refuse, or complete
    return {**tree, "tokenizer": {"leading_space": False, **tokenizer}}
