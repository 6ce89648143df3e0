"""What a run leaves on disk: a checkpoint to evaluate, and a state to resume from.

Both are safetensors and JSON: nothing that is loaded can run code. Both are written beside their final name
and moved there when they are complete, so that a full disk or a killed process leaves the previous one whole.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import safetensors
import safetensors.torch
from torch import Tensor

from model.config.counts import parameter_count
from model.config.train_config import TrainConfig, recorded
from model.data.files import write_atomically
from model.data.tokenizer import Tokenizer
from model.errors import CheckpointError
from model.network.gpt import GPT

WEIGHTS, RECORD, TOKENIZER = "model.safetensors", "checkpoint.json", "tokenizer.json"
_FORMAT = "hptune-1"
_LARGEST_TABLE = 1 << 28
"""Entries of a table of positions, which is computed and not among the weights."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """One safetensors file with `facts` (JSON) in its header. Raises OSError as `write_atomically` does."""
    header = {"format": _FORMAT, "facts": json.dumps(facts)}
    content = safetensors.torch.save({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, header)
    write_atomically(path, content)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a file made by `write_tensors`.

    Raises:
        CheckpointError: it is missing, truncated or foreign.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise CheckpointError(f"{path}: not a file of this project (format {header.get('format')!r})")
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(header["facts"])  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: truncated or not a safetensors file: {error}") from None


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with all that is needed to use and to judge it."""

    config: TrainConfig
    tokenizer: Tokenizer
    weights: Mapping[str, Tensor]
    record: Mapping[str, Any]
    """`evaluation` (the last one), `provenance`, and what the caller added."""

    def model(self) -> GPT:
        """The network with these weights, on the CPU, in evaluation mode.

        Raises:
            CheckpointError: the weights are of another shape than the configuration says.
        """
        _refuse_other_size(self.config, self.weights)
        model = GPT(self.config, seed=0, eos_id=self.tokenizer.eos_id)
        load_weights(model, self.weights, "checkpoint")
        return model.eval()

    def write(self, folder: Path) -> None:
        """Its three files in `folder`, which is made. Raises OSError when the disk is full."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"format": _FORMAT, "config": self.config.model_dump(mode="json"), **self.record}
        write_tensors(folder / WEIGHTS, self.weights, {})
        write_atomically(folder / TOKENIZER, self.tokenizer.to_json().encode())
        write_atomically(folder / RECORD, json.dumps(facts, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> "Checkpoint":
        """The checkpoint in `folder`. Raises CheckpointError when a file is missing, truncated or foreign."""
        weights, _ = read_tensors(folder / WEIGHTS)
        try:
            record = json.loads((folder / RECORD).read_bytes())
            tokenizer_json = (folder / TOKENIZER).read_text(encoding="utf-8")
            if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
                raise CheckpointError(f"{folder / RECORD}: not a checkpoint of this project")
            config = TrainConfig.model_validate_json(json.dumps(recorded(record.pop("config"))))
        except pydantic.ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise CheckpointError(f"{folder / RECORD}: config.{where}: {fault['msg']}") from None
        except CheckpointError:
            raise
        except (OSError, KeyError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{folder}: missing or damaged: {error}") from None
        try:
            tokenizer = Tokenizer.from_json(tokenizer_json)
        except CheckpointError as error:
            raise CheckpointError(f"{folder / TOKENIZER}: {error}") from None
        return cls(config, tokenizer, weights, record)


def _refuse_other_size(config: TrainConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError before a network is made of a size that the weights, and so the file, do not have."""
    stored = sum(tensor.numel() for tensor in weights.values())
    if parameter_count(config) != stored:
        raise CheckpointError(
            f"checkpoint: weights of another model: they hold {stored:,} parameters, "
            f"its configuration makes {parameter_count(config):,}"
        )
    shape = config.model
    if shape.positions in ("rope", "sinusoidal") and shape.block_size * shape.d_model > _LARGEST_TABLE:
        raise CheckpointError(
            f"checkpoint: config.model.block_size: {shape.block_size:,} positions are more than a computer can hold"
        )


def load_weights(model: GPT, weights: Mapping[str, Tensor], name: str) -> None:
    """Put `weights` into `model`. Raises CheckpointError, naming `name`, when they do not fit."""
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{name}: weights of another model: {first}") from None
