"""What of an export can be seen without `transformers`; `test_modeling_hptune.py` asks that itself."""

import json

import pytest
import tokenizers

from model.config.architecture import ModelConfig
from model.data.tokenizer import Tokenizer
from service.winner.hugging_face import library_tokenizer, why_not_gpt2, write
from tests.service.winner.test_modeling_hptune import SHAPES, checkpoint

TEXTS = ["the old cat sees the dog", "a red bird runs", "Ünï ☃"] * 20


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({}, None),
        ({"bias": False, "tied": False, "activation": "relu2"}, None),
        ({"value_residual": True, "n_layer": 1}, None),
        ({"norm": "rmsnorm"}, "model.norm rmsnorm"),
        ({"activation": "swiglu"}, "model.activation swiglu"),
        ({"tied": False}, "an output head with a bias (model.tied false, model.bias true)"),
        ({"value_residual": True}, "model.value_residual true"),
        ({"logit_softcap": 5.0}, "model.logit_softcap 5.0"),
    ],
)
def test_what_gpt2s_layout_cannot_say_is_named(shape, why):
    assert why_not_gpt2(ModelConfig(**shape)) == why


@pytest.mark.parametrize("leading_space", [True, False])
def test_the_librarys_tokenizer_cuts_as_ours_behind_eos(leading_space):
    ours = Tokenizer.train(TEXTS, vocab_size=290, leading_space=leading_space)
    theirs = tokenizers.Tokenizer.from_str(library_tokenizer(ours))
    for text in (*TEXTS[:3], "  spaces", "other words"):
        ids = theirs.encode(text).ids
        assert ids == [ours.eos_id, *ours.encode(text)]
        assert theirs.decode(ids) == text


def test_ids_beyond_the_tokenizer_are_never_drawn(tmp_path):
    tokenizer = Tokenizer.train(TEXTS, vocab_size=290)
    made = checkpoint(tokenizer, **SHAPES["modern"])
    write(made, tmp_path, "# A card\n")
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == list(
        range(tokenizer.vocab_size, made.config.tokenizer.vocab_size)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "modeling_hptune.py",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
