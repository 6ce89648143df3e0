"""Exported models in `transformers` itself, which stands in an environment of its own (`make transformers`)."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import Checkpoint
from model.data.tokenizer import Tokenizer
from model.network.gpt import GPT
from service.winner import hugging_face
from tests.tiny_gpt import tiny_config

pytestmark = pytest.mark.integration
PYTHON = Path(__file__).parents[3] / ".venv-transformers/bin/python"
TEXTS = ("the old cat", " two  spaces", "Ünï ☃ <eos> x", "")
SHAPES = {
    "gpt2": {},
    "gpt2 relu2": {"activation": "relu2", "d_ff": 24},
    "gpt2 without biases": {"bias": False, "activation": "silu"},
    "gpt2 untied": {"bias": False, "tied": False, "activation": "relu"},
    "untied with bias": {"tied": False},
    "modern": {
        "norm": "rmsnorm",
        "positions": "rope",
        "rope_base": 500.0,
        "activation": "swiglu",
        "bias": False,
        "qk_norm": True,
        "output_gate": True,
        "value_residual": True,
        "layer_scale": 0.5,
        "logit_softcap": 3.0,
        "attention": "document",
    },
    "original": {"norm_position": "post", "positions": "sinusoidal", "embedding_scale": "sqrt_d_model"},
    "no positions": {"positions": "none", "activation": "relu2", "layer_scale": 0.1},
}
ASKED = """
import json, sys
from pathlib import Path
import numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, texts = Path(sys.argv[1]), json.loads(sys.argv[2])
for each in sorted(folder.iterdir()):
    own = "auto_map" in json.loads((each / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(each, trust_remote_code=own, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(each)
    ids = torch.from_numpy(np.load(each / "ids.npy"))
    with torch.no_grad():
        logits = model(ids).logits
        loss = float(model(ids, labels=ids).loss)
        prompt = tokenizer(texts[0][:3], return_tensors="pt", return_token_type_ids=False)
        most = {"max_new_tokens": 20} if own else {}
        greedy = model.generate(**prompt, do_sample=False, suppress_tokens=None, temperature=None, **most)
    np.save(each / "logits.npy", logits.numpy())
    said = {"class": type(model).__name__, "loss": loss, "greedy": greedy[0].tolist(),
            "ids": [tokenizer(text)["input_ids"] for text in texts],
            "back": [tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) for text in texts]}
    (each / "said.json").write_text(json.dumps(said))
"""


def checkpoint(tokenizer, **shape):
    config = tiny_config(**shape)
    model = GPT(config, seed=0, eos_id=tokenizer.eos_id)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return Checkpoint(config, tokenizer, model.state_dict(), {"evaluation": None})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Checkpoints by name, with the folder that `transformers` has loaded."""
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON} is not there: make transformers")
    root = tmp_path_factory.mktemp("exported")
    texts = ["the old cat sees the dog", "a red bird runs", "the new tree", "Ünï ☃"] * 20
    made = {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        tokenizer = Tokenizer.train(
            texts, vocab_size=290, model=("bpe", "unigram")[number % 2], leading_space=number % 3 != 1
        )
        made[name] = checkpoint(tokenizer, **shape), root / f"model-{number}"
        hugging_face.write(*made[name], "# A card\n")
        ids = torch.randint(tokenizer.eos_id + 1, (3, 12), generator=torch.Generator().manual_seed(number))
        ids[:, 5] = tokenizer.eos_id
        np.save(made[name][1] / "ids.npy", ids.numpy())
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root.parent / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [PYTHON, "-c", ASKED, root, json.dumps(TEXTS)],
        env=environment, cwd=root.parent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_computes_the_same(loaded, name):
    made, folder = loaded[name]
    said = json.loads((folder / "said.json").read_text())
    is_gpt2 = name.startswith("gpt2")
    assert said["class"] == ("GPT2LMHeadModel" if is_gpt2 else "HptuneForCausalLM")
    assert (folder / "modeling_hptune.py").exists() != is_gpt2
    model = made.model().double()
    ids = torch.from_numpy(np.load(folder / "ids.npy"))
    with torch.no_grad():
        logits = model(ids)
    # positions and rotations are tables of fp32 on both sides
    np.testing.assert_allclose(np.load(folder / "logits.npy"), logits.numpy(), rtol=0, atol=1e-9)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert said["loss"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_cuts_texts_as_titles_are_cut(loaded, name):
    made, folder = loaded[name]
    said = json.loads((folder / "said.json").read_text())
    for text, ids, back in zip(TEXTS, said["ids"], said["back"], strict=True):
        if "<eos>" in text or not text:  # there it is the token, and no text of five characters
            continue
        assert ids == [made.tokenizer.eos_id, *made.tokenizer.encode(text)], text
        assert back == text


@pytest.mark.parametrize("name", ["gpt2", "modern", "original"])
def test_transformers_goes_on_with_a_title_as_the_model_does(loaded, name):
    made, folder = loaded[name]
    greedy = json.loads((folder / "said.json").read_text())["greedy"]
    model, eos = made.model().double(), made.tokenizer.eos_id
    ours = [eos, *made.tokenizer.encode(TEXTS[0][:3])]
    begun = len(ours)
    while len(ours) < begun + 20:
        with torch.no_grad():
            ours.append(int(model(torch.tensor([ours[-model.block_size :]]))[0, -1].argmax()))
        if ours[-1] == eos or (name == "gpt2" and len(ours) == model.block_size):
            break
    assert greedy[: len(ours)] == ours
