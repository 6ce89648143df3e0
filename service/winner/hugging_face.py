"""A checkpoint as a folder that Hugging Face `transformers` loads, with the same logits.

In GPT-2's own layout where the network is one of those that it can say; otherwise with `modeling_hptune.py` beside the
weights, which is loaded with `trust_remote_code=True`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import tokenizers
import torch
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from torch import Tensor

from model.checkpoint import Checkpoint
from model.config.architecture import ModelConfig
from model.data.files import write_atomically
from model.data.tokenizer import Tokenizer

MODEL_FILE = Path(__file__).with_name("modeling_hptune.py")
EOS = "<eos>"
_GPT2_ACTIVATIONS = ("gelu", "relu", "relu2", "silu")
"""That GPT-2's `activation_function` may name; its exact `gelu` is ours."""


def why_not_gpt2(shape: ModelConfig) -> str | None:
    """The option that GPT-2's layout has no word for; None where it has one for all."""
    required: dict[str, Any] = {
        "norm": "layernorm",
        "norm_position": "pre",
        "positions": "learned",
        "embedding_scale": "unit",
        "attention": "stream",
        "qk_norm": False,
        "output_gate": False,
        "layer_scale": None,
        "logit_softcap": None,
    }
    for key, value in required.items():
        if getattr(shape, key) != value:
            return f"model.{key} {getattr(shape, key)}"
    if shape.value_residual and shape.n_layer > 1:
        return "model.value_residual true"
    if shape.activation not in _GPT2_ACTIVATIONS:
        return f"model.activation {shape.activation}"
    if not shape.tied and shape.bias:
        return "an output head with a bias (model.tied false, model.bias true)"
    return None


def write(checkpoint: Checkpoint, folder: Path, card: str) -> None:
    """The files in `folder`, which is made: configuration, weights, tokenizer, generation, the card as README.md.

    Raises:
        CheckpointError: the weights do not fit the configuration.
        OSError: the disk is full or the folder cannot be written.
    """
    network = checkpoint.model()  # refuses weights that are not the configuration's
    config, weights = _gpt2(checkpoint) or _own(checkpoint)
    eos = checkpoint.tokenizer.eos_id
    shape = checkpoint.config.model
    config |= {
        "vocab_size": checkpoint.config.tokenizer.vocab_size,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "pad_token_id": eos,
        "torch_dtype": str(network.token_embedding.weight.dtype).removeprefix("torch."),
    }
    files = {
        "config.json": config,
        "generation_config.json": {
            "bos_token_id": eos,
            "eos_token_id": eos,
            "pad_token_id": eos,
            "do_sample": True,
            "temperature": 0.8,
            # GPT-2's positions end there; the own model file looks back over the last ones
            **({"max_new_tokens": 40} if "auto_map" in config else {"max_length": shape.block_size}),
            # ids above it stand for nothing
            **_never_drawn(eos, checkpoint.config.tokenizer.vocab_size),
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": EOS,
            "eos_token": EOS,
            "pad_token": EOS,
            "padding_side": "right",
            "model_max_length": shape.block_size,
            "clean_up_tokenization_spaces": False,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, (json.dumps(content, indent=2) + "\n").encode())
    write_atomically(folder / "tokenizer.json", library_tokenizer(checkpoint.tokenizer).encode())
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
    write_atomically(folder / "model.safetensors", safetensors.torch.save(contiguous, {"format": "pt"}))
    if "auto_map" in config:
        write_atomically(folder / MODEL_FILE.name, MODEL_FILE.read_bytes())
    write_atomically(folder / "README.md", card.encode())


def _never_drawn(eos: int, vocab_size: int) -> dict[str, Any]:
    idle = list(range(eos + 1, vocab_size))
    return {"suppress_tokens": idle} if idle else {}


def library_tokenizer(tokenizer: Tokenizer) -> str:
    """The tokenizer for `transformers`: a text begins with `<eos>`, as every title does in training.

    Where titles are encoded behind a space, that is a normalizer here, since the library's own option leaves out the
    space of a text that begins with one.
    """
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    if tokenizer.leading_space:
        library.normalizer = normalizers.Prepend(" ")
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    library.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
    assert library.token_to_id(EOS) == tokenizer.eos_id, "the next id is <eos>'s"
    library.post_processor = processors.TemplateProcessing(
        single=f"{EOS} $A", pair=f"{EOS} $A {EOS} $B", special_tokens=[(EOS, tokenizer.eos_id)]
    )
    return str(library.to_str())


def _own(checkpoint: Checkpoint) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    shape = checkpoint.config.model.model_dump(mode="json")
    used = {key: value for key, value in shape.items() if "dropout" not in key and not key.startswith("init")}
    classes = {"AutoConfig": "HptuneConfig", "AutoModelForCausalLM": "HptuneForCausalLM"}
    config = {
        **used,
        "model_type": "hptune",
        "architectures": ["HptuneForCausalLM"],
        "auto_map": {auto: f"{MODEL_FILE.stem}.{name}" for auto, name in classes.items()},
        "tie_word_embeddings": False,  # the model file itself takes the embedding for the head
        "use_cache": False,
    }
    return config, checkpoint.weights


def _gpt2(checkpoint: Checkpoint) -> tuple[dict[str, Any], Mapping[str, Tensor]] | None:
    shape, ours = checkpoint.config.model, checkpoint.weights
    if why_not_gpt2(shape) is not None:
        return None
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.d_model,
        "n_inner": shape.ff_width,
        "n_positions": shape.block_size,
        "activation_function": shape.activation,
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": shape.dropout_of_embeddings,
        "attn_pdrop": shape.dropout_of_attention,
        "resid_pdrop": shape.dropout,
        "tie_word_embeddings": shape.tied,
    }
    weights = {
        "transformer.wte.weight": ours["token_embedding.weight"],
        "transformer.wpe.weight": ours["position_embedding.weight"],
    }
    parts = {
        "attention_norm": "ln_1",
        "attention.query_key_value": "attn.c_attn",
        "attention.projection": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    blocks = range(shape.n_layer)
    names = {f"blocks.{i}.{own}": f"transformer.h.{i}.{its}" for i in blocks for own, its in parts.items()}
    for own, its in {**names, "final_norm": "transformer.ln_f"}.items():
        weight = ours[f"{own}.weight"]
        # GPT-2's linear layers have their matrices the other way round
        weights[f"{its}.weight"] = weight.T if weight.dim() == 2 else weight
        none = torch.zeros(len(weight), dtype=weight.dtype)
        weights[f"{its}.bias"] = ours.get(f"{own}.bias", none)
    if not shape.tied:
        weights["lm_head.weight"] = ours["head.weight"]
    return config, weights
