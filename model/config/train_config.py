"""The schema of `train_config.yaml`: one complete training run, frozen and strict.

Sections hold what a file can say; what follows from it (token budget in steps, parameter count, settings
without effect) are properties and functions here, so that every reader agrees. Imports no torch.
"""

from math import ceil
from typing import Any, Literal

from pydantic import Field, model_validator

from model.config.architecture import ModelConfig
from model.config.yaml_tree import Section

LARGEST_SEED = 2**64 - 1
"""That torch takes."""


class HubConfig(Section):
    """A dataset on the Hugging Face hub."""

    id: str = "julien040/hacker-news-posts"
    """Repository of the dataset, or a local folder of data files."""
    subset: str | None = None
    """One of the datasets in that repository (the library's `name`), such as wikitext-2-v1."""
    revision: str | None = None
    """Commit, tag or branch; null is the newest, and the commit it came to is stored with the study."""
    split: str = "train"
    """Split of that dataset which holds the documents."""
    column: str = "title"
    """Column with the text."""
    first_rows: int | None = Field(None, ge=10)
    """Only so many rows from the beginning of the split, without fetching the rest; null is all of them."""


class DataConfig(Section):
    """Where the documents come from and how they are split."""

    source: Literal["auto", "hub", "file", "docstrings"] = "auto"
    """`auto` is the hub or, where there is no connection to it at all, `docstrings`; then the study's name says so."""
    path: str | None = None
    """File for `source: file`: .txt (one document a line), .csv, .jsonl or .parquet."""
    column: str | None = None
    """Column of that file with the text; may be left out where there is only one."""
    hub: HubConfig = HubConfig()
    num_documents: int = Field(100_000, ge=10)
    """Documents for training and validation together."""
    validation_fraction: float = Field(0.10, gt=0, lt=1)
    """Share of `num_documents` that goes to the validation split."""
    held_out_documents: int = Field(20_000, ge=1)
    """Documents after those, read by `evaluate.py` alone."""
    seed: int = Field(1337, ge=0, le=LARGEST_SEED)
    """Of the shuffle before splitting."""

    @model_validator(mode="after")
    def _file_needs_path(self) -> "DataConfig":
        if self.source == "file" and not self.path:
            raise ValueError("source file needs data.path, given null")
        return self


class TokenizerConfig(Section):
    """A byte-level tokenizer, trained on the train split alone unless `pretrained` names one."""

    model: Literal["bpe", "unigram"] = "bpe"
    """Byte-pair encoding (Sennrich et al. 2016) or the unigram language model (Kudo 2018, arXiv 1804.10959)."""
    vocab_size: int = Field(4_000, ge=257, le=65_536)
    """Entries with the 256 bytes and `<eos>`, rows of the embedding. At most 65,536: two bytes a token.

    Of a tokenizer trained elsewhere: at least its own entries, the bytes it lacks, and `<eos>`.
    """
    leading_space: bool = True
    """Encode every document behind a space, which decoding takes away again, so that its first word is the same token
    as inside a document (the library's `add_prefix_space`). A tokenizer trained elsewhere says so itself."""
    trained_on: Literal["train", "train_and_validation"] = "train"
    """`train_and_validation` has seen the titles that the loss is measured on, as published figures often have: only
    for studies that say `rebuilds_published: true`."""
    pretrained: str | None = None
    """One trained elsewhere: a repository of the hub that holds a tokenizer.json, with @ and a commit, tag or branch
    behind it where that is not the newest, or the path of a .json. The commit it came to is stored with the study."""


Orthogonalization = Literal["newton_schulz", "polar_express_4", "polar_express_3"]


class SharpnessConfig(Section):
    """Sharpness-aware minimisation around the optimizer (two gradients a step)."""

    method: Literal["none", "sam", "asam"] = "none"
    """SAM (Foret et al. 2021, arXiv 2010.01412), or its adaptive form ASAM (Kwon et al. 2021, arXiv 2102.11600)."""
    rho: float = Field(0.05, gt=0)
    """Radius of the ascent; published defaults are 0.05 for SAM and 0.5 to 2 for adaptive SAM."""
    same_dropout: bool = False
    """Use the first pass's dropout masks in the second one."""


class OptimizerConfig(Section):
    """The update rule. `muon` updates the matrices of the blocks with Muon and the rest with AdamW."""

    name: Literal["sgd", "adam", "adamw", "muon"] = "adamw"
    """Which update rule."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    auxiliary_lr: float = Field(1e-3, gt=0)
    """Peak learning rate of muon's AdamW part."""
    auxiliary_weight_decay: float = Field(0.0, ge=0)
    """Decoupled, on all of muon's AdamW part: embeddings, head, norms and biases; LayerScale's vectors and the
    value residual's scalars never decay."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled; for sgd and adam L2, which is added to the gradient."""
    weight_decay_on: Literal["matrices", "all", "not_biases"] = "matrices"
    """The matrices of linear layers, every parameter, or all but the biases of linear layers and norms (what
    the filter by names of seed document 004 came to). With muon the matrices alone decay at this rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of adam, adamw and muon's AdamW part: decays of the averages of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0)
    """Of the same: added to the root of the second average."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Of sgd and muon."""
    orthogonalization: Orthogonalization = "newton_schulz"
    """How muon makes an update orthogonal (`model/optimization/muon.py`): by the five polynomials it was published
    with, or by four or three better ones, which cost less."""
    split_qkv: bool = False
    """Muon makes the updates of query, key and value orthogonal each by itself; otherwise as one matrix, in which
    the largest of the three hides the others, at sqrt(3) times the rate."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Largest global L2 norm of a gradient; null for no clipping."""
    sharpness: SharpnessConfig = SharpnessConfig()

    @model_validator(mode="after")
    def _betas_in_range(self) -> "OptimizerConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, given {list(self.betas)}")
        return self


class ScheduleConfig(Section):
    """Learning rate over the token budget: linear warm-up, then a decay to a floor."""

    decay: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """`wsd` stays at the peak and decays over the last `decay_fraction`."""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the budget over which the rate rises; the first update already has a rate above zero."""
    decay_fraction: float = Field(0.2, gt=0, le=1)
    """Of wsd: share of the budget, at its end, over which the rate falls."""
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    """Of wsd's decay; `sqrt` is 1 - sqrt(part of it done)."""
    floor_fraction: float = Field(0.1, ge=0, le=1)
    """Lowest rate as a share of the peak."""
    floor_lr: float | None = Field(None, ge=0)
    """Lowest rate as a number; takes the place of `floor_fraction`. It is that of the first group: muon's AdamW part
    ends at the same share of its own peak."""

    @model_validator(mode="after")
    def _phases_fit(self) -> "ScheduleConfig":
        if self.decay == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                "warmup_fraction + decay_fraction must be at most 1, given "
                f"{self.warmup_fraction} + {self.decay_fraction}"
            )
        return self


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
    def rungs(self) -> tuple[int, ...]:
        """Token counts of the evaluations, the last being the budget; the same for every batch size."""
        n = min(self.training.rungs, self.budget_tokens)
        return tuple(self.budget_tokens * (i + 1) // n for i in range(n))

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


def recorded(tree: Any) -> Any:
    """A configuration as any version has stored it, completed by what held before a key that it lacks was there."""
    tokenizer = tree.get("tokenizer") if isinstance(tree, dict) else None
    if not isinstance(tokenizer, dict):
        return tree  # for the schema to refuse, or complete
    return {**tree, "tokenizer": {"leading_space": False, **tokenizer}}
