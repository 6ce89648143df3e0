"""A GPT-2 of Hugging Face `transformers`, trained by its `Trainer` on the titles that hptune's own model trains on.

Its tokens are bytes, so that it needs no tokenizer, and its loss is in bits per byte, as hptune reports it too.
"""

import itertools
import json
import math
import shutil
import tempfile
from pathlib import Path

import pydantic
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from model.config.data import DataConfig
from model.data import corpus
from service.settings import Settings

END = 256
"""The token behind every title; those below it are bytes."""


class Config(pydantic.BaseModel):
    """What `config.yaml` may hold."""

    model_config = pydantic.ConfigDict(extra="forbid")
    seed: int
    data: DataConfig
    layers: int = pydantic.Field(ge=1)
    heads: int = pydantic.Field(ge=1)
    width: int = pydantic.Field(ge=8)
    block: int = pydantic.Field(ge=8)
    dropout: float = pydantic.Field(ge=0, lt=1)
    lr: float = pydantic.Field(gt=0)
    batch_size: int = pydantic.Field(ge=1)

    @pydantic.model_validator(mode="after")
    def _heads_share_the_width(self) -> "Config":
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, given {self.width} and {self.heads}")
        return self


class Run(TrainerCallback):
    """Trains for `rungs[-1]` steps, and yields the validation loss in bits per byte.

    At every rung the Trainer stops with a checkpoint and goes on from it: what is saved is always a checkpoint of its
    own, and a run that was interrupted has gone the same way as one that was not.
    """

    Config = Config

    def __init__(self, config: Config, rungs: tuple[int, ...], device: str) -> None:
        self.rungs, self.stopped, self.checkpoint = rungs, False, None
        self.folder = tempfile.TemporaryDirectory()
        titles = corpus.build(config.data, cache=Settings.from_environment().made_cache())
        self.validation = blocks(titles.validation, config.block)
        self.bytes = sum(len(title.encode()) for title in titles.validation)
        set_seed(config.seed)
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
        shape = {"n_layer": config.layers, "n_head": config.heads, "n_embd": config.width}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=END + 1, n_positions=config.block, **shape, **dropout))
        arguments = TrainingArguments(
            self.folder.name,
            max_steps=rungs[-1],
            seed=config.seed,
            learning_rate=config.lr,
            lr_scheduler_type="cosine",
            per_device_train_batch_size=config.batch_size,
            use_cpu=device == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = [{"input_ids": block, "labels": block} for block in blocks(titles.train, config.block)]
        self.trainer = Trainer(model, arguments, train_dataset=data, callbacks=[self])

    def __iter__(self):
        while self.step < self.rungs[-1] and not self.stopped:
            self.trainer.train(resume_from_checkpoint=self.checkpoint)
            self.checkpoint = f"{self.folder.name}/checkpoint-{self.step}"
            if self.step in self.rungs:
                yield self.step, {"bits per byte": self.loss()}

    @property
    def step(self) -> int:
        return self.trainer.state.global_step

    def on_step_end(self, _args, state, control, **_):
        """Called by the Trainer: stop with a checkpoint at a rung, or when asked to."""
        control.should_save = control.should_training_stop = self.stopped or state.global_step in self.rungs

    def loss(self) -> float:
        model = self.trainer.model.eval()
        nats = 0.0
        with torch.no_grad():
            for block in self.validation.to(model.device).split(64):
                nats += model(block, labels=block).loss.item() * len(block) * (block.shape[1] - 1)
        return nats / math.log(2) / self.bytes

    def save(self, folder: Path) -> None:
        if self.checkpoint:
            shutil.copytree(self.checkpoint, folder / "checkpoint")

    def restore(self, folder: Path) -> None:
        if (folder / "checkpoint").exists():
            state = json.loads((folder / "checkpoint" / "trainer_state.json").read_text())
            self.checkpoint = f"{self.folder.name}/checkpoint-{state['global_step']}"
            shutil.copytree(folder / "checkpoint", self.checkpoint)
            self.trainer.state.global_step = state["global_step"]

    def stop(self) -> None:
        self.stopped = True


def blocks(titles: tuple[str, ...], size: int) -> torch.Tensor:
    """The titles one behind the other, cut into rows of `size` tokens; a tail that fills none is left out."""
    tokens = list(itertools.chain.from_iterable((*title.encode(), END) for title in titles))
    return torch.tensor(tokens[: len(tokens) // size * size]).reshape(-1, size)
