import errno
import json
import os
import time

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import RECORD, TOKENIZER, WEIGHTS, Checkpoint, read_tensors, write_tensors
from model.config.train_config import TrainConfig
from model.data.tokenizer import Tokenizer
from model.errors import CheckpointError
from model.network.gpt import GPT

TITLES = ["Show HN: a small thing", "Ask HN: why is the thing so small", "naïve café"]
RECORDED = {"evaluation": {"val_loss": 1.25}, "provenance": {"commit": "abc"}}
TOKENS = torch.randint(257, (3, 8), generator=torch.Generator().manual_seed(0))


def tiny_checkpoint():
    config = TrainConfig.model_validate_json(
        json.dumps(
            {
                "tokenizer": {"vocab_size": 300},
                "model": {"n_layer": 2, "n_head": 2, "d_model": 16, "block_size": 8, "dropout": 0.5},
                "optimizer": {"betas": [0.8, 0.9], "lr": 1 / 3},
                "evaluation": {"block_size": 8},
            }
        )
    )
    model = GPT(config, seed=5)
    torch.manual_seed(1)
    weights = {key: tensor + torch.randn_like(tensor) for key, tensor in model.state_dict().items()}
    return Checkpoint(config, Tokenizer.train(TITLES, vocab_size=300), weights, RECORDED)


@pytest.fixture
def folder(tmp_path):
    tiny_checkpoint().write(tmp_path / "made" / "best")
    return tmp_path / "made" / "best"


def refused(folder):
    """The message with which the checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.read(folder).model()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_read_back_is_the_one_written(folder):
    written, read = tiny_checkpoint(), Checkpoint.read(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([WEIGHTS, RECORD, TOKENIZER])
    assert read.config == written.config
    assert read.record == RECORDED
    assert [read.tokenizer.encode(t) for t in TITLES] == [written.tokenizer.encode(t) for t in TITLES]
    assert read.tokenizer.eos_id == written.tokenizer.eos_id
    with torch.no_grad():
        assert torch.equal(read.model()(TOKENS), written.model()(TOKENS))


def test_the_model_has_the_weights_and_is_in_evaluation_mode():
    checkpoint = tiny_checkpoint()
    model = checkpoint.model()
    assert not model.training
    state = model.state_dict()
    assert state.keys() == checkpoint.weights.keys()
    assert all(torch.equal(state[key], checkpoint.weights[key]) for key in state)
    with torch.no_grad():  # a copy: training the one leaves the other
        model.final_norm.bias.add_(1)
    assert not torch.equal(model.final_norm.bias, checkpoint.weights["final_norm.bias"])


def test_weights_can_be_read_by_the_safetensors_library(folder):
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    weights = tiny_checkpoint().weights
    assert tensors.keys() == weights.keys()
    assert all(torch.equal(tensors[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", [WEIGHTS, RECORD, TOKENIZER])
def test_a_missing_file_is_named_in_one_line(folder, name):
    (folder / name).unlink()
    assert name in refused(folder)


def test_a_missing_folder_is_named_in_one_line(tmp_path):
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [WEIGHTS, RECORD, TOKENIZER])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_one_line_that_says_where(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    assert str(folder) in refused(folder)


@pytest.mark.parametrize("name", [WEIGHTS, RECORD, TOKENIZER])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"{}", b'{"format": "other-1"}', b"\0" * 99])
def test_a_foreign_file_is_refused_in_one_line_that_says_where(folder, name, content):
    (folder / name).write_bytes(content)
    assert str(folder) in refused(folder)


def test_a_folder_in_place_of_a_file_is_refused_in_one_line(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    assert WEIGHTS in refused(folder)


def test_foreign_weights_are_refused_although_they_are_safetensors(folder):
    safetensors.torch.save_file({"x": torch.zeros(2)}, folder / WEIGHTS, {"format": "pt"})
    assert "not a file of this project (format 'pt')" in refused(folder)


def test_a_configuration_that_is_not_allowed_is_refused_with_its_key(folder):
    record = json.loads((folder / RECORD).read_bytes())
    record["config"]["optimizer"]["lr"] = -1
    (folder / RECORD).write_text(json.dumps(record))
    assert "config.optimizer.lr" in refused(folder)


def test_weights_of_another_shape_are_refused(folder):
    record = json.loads((folder / RECORD).read_bytes())
    record["config"]["model"]["d_model"] = 32
    (folder / RECORD).write_text(json.dumps(record))
    assert "weights of another model" in refused(folder)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("model", "n_layer", 1_000_000), ("model", "d_model", 30_000), ("tokenizer", "vocab_size", 65_536)],
)
def test_a_configuration_of_another_size_is_refused_before_a_network_is_made(folder, section, key, value):
    record = json.loads((folder / RECORD).read_bytes())
    record["config"][section][key] = value
    (folder / RECORD).write_text(json.dumps(record))
    start = time.process_time()
    assert "weights of another model: they hold" in refused(folder)
    assert time.process_time() - start < 1  # 30,000 wide it would be 86 GB


def test_a_table_of_positions_that_no_weights_vouch_for_is_refused(folder):
    record = json.loads((folder / RECORD).read_bytes())
    record["config"]["model"] |= {"block_size": 10**12, "positions": "rope"}
    (folder / RECORD).write_text(json.dumps(record))
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    del weights["position_embedding.weight"]
    write_tensors(folder / WEIGHTS, weights, {})
    assert "config.model.block_size: 1,000,000,000,000 positions" in refused(folder)


@pytest.mark.parametrize("name", [RECORD, TOKENIZER])
@pytest.mark.parametrize(
    "content",
    ["[" * 200_000, '{"a": ' * 200_000, '{"format": ' + "7" * 5_000 + "}"],
    ids=["[", "{", "digits"],
)
def test_json_that_no_parser_takes_is_refused_in_one_line(folder, name, content):
    (folder / name).write_text(content)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize("facts", ["[" * 200_000, "7" * 5_000])
def test_facts_of_tensors_that_no_parser_takes_are_refused(tmp_path, facts):
    safetensors.torch.save_file({}, tmp_path / "tensors", {"format": "hptune-1", "facts": facts})
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        read_tensors(tmp_path / "tensors")


def test_a_full_disk_leaves_the_former_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "tensors"
    write_tensors(path, {"x": torch.arange(3)}, {"step": 1})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"x": torch.arange(9)}, {"step": 2})
    tensors, facts = read_tensors(path)
    assert tensors["x"].tolist() == [0, 1, 2]
    assert facts == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_tensors_keep_their_bits_also_where_they_are_not_contiguous(tmp_path, dtype):
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
    tensors = {"transposed": tensor.T, "row": tensor[1], "number": tensor[0, 0], "empty": tensor[:0]}
    write_tensors(tmp_path / "tensors", tensors, {})
    read, _ = read_tensors(tmp_path / "tensors")
    assert read.keys() == tensors.keys()
    for key, expected in tensors.items():
        assert read[key].dtype == dtype
        assert torch.equal(read[key], expected)


@settings(max_examples=30)
@given(facts=st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False) | st.text() | st.integers()))
def test_facts_keep_their_values(tmp_path_factory, facts):
    path = tmp_path_factory.getbasetemp() / "facts"
    write_tensors(path, {}, facts)
    assert read_tensors(path) == ({}, facts)
