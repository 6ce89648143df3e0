import json
import socket
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from model.config.data import DataConfig, TokenizerConfig
from model.data.corpus import build
from model.data.pretrained import BYTE_ALPHABET, fetch
from model.data.tokenized_corpus import TokenizedCorpus
from model.data.tokenizer import Tokenizer
from model.errors import CheckpointError, CorpusError
from tests.hub import Fault

TEXTS = [f"the {noun} of title {i}" for i, noun in enumerate(["cat", "catalogue", "dog"] * 10)]


def trained_elsewhere(**changes):
    """A tokenizer as published ones are: special tokens, digits apart, a post-processor; not all bytes."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|start|>"]
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    bpe.train_from_iterator(TEXTS, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 1)]
    )
    bpe.enable_truncation(5)
    return {**json.loads(bpe.to_str()), **changes}


def write(path, state):
    path.write_text(state if isinstance(state, str) else json.dumps(state), encoding="utf-8")
    return str(path)


def read(path):
    return fetch(path, cache=Path("not-used"))[0]


def refusal(name):
    with pytest.raises(CorpusError) as caught:
        read(name)
    message = str(caught.value)
    assert message.startswith("tokenizer.pretrained: ")
    assert name in message
    assert "\n" not in message
    return message


def test_its_entries_keep_their_ids_and_missing_bytes_follow(tmp_path):
    state = trained_elsewhere()
    theirs = state["model"]["vocab"]
    assert not theirs.keys() >= set(BYTE_ALPHABET), "the case that matters"
    ours = Tokenizer.from_json(read(write(tmp_path / "tokenizer.json", state)))
    assert ours.vocab_size == len(theirs.keys() | set(BYTE_ALPHABET)) + 1
    assert ours.eos_id == ours.vocab_size - 1
    # The library's own encoding, without the template's token and the cut after five.
    bpe = tokenizers.Tokenizer.from_str(json.dumps({**state, "truncation": None}))
    for text in TEXTS:
        assert ours.encode(text) == bpe.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ["<|endoftext|> and <|start|>", "日本 é\x00\t  ", "\U0010ffff", "2026-01"])
def test_what_it_could_not_encode_or_took_for_a_command_comes_back(tmp_path, text):
    path = write(tmp_path / "tokenizer.json", trained_elsewhere())
    theirs = tokenizers.Tokenizer.from_file(path)
    theirs.no_truncation()
    assert text == "2026-01" or theirs.decode(theirs.encode(text).ids) != text, "the case that matters"
    ours = Tokenizer.from_json(read(path))
    assert ours.decode(ours.encode(text)) == text


def test_a_special_token_that_is_no_entry_keeps_its_id(tmp_path):
    state = trained_elsewhere()
    n = len(state["model"]["vocab"])
    state["added_tokens"].append({**state["added_tokens"][0], "id": n, "content": "<|end|>"})
    ours = Tokenizer.from_json(read(write(tmp_path / "tokenizer.json", state)))
    assert ours.decode([n]) == "<|end|>"


def test_merging_at_random_is_switched_off(tmp_path):
    state = trained_elsewhere()
    state["model"]["dropout"] = 0.5
    ours = Tokenizer.from_json(read(write(tmp_path / "tokenizer.json", state)))
    assert len({tuple(ours.encode(TEXTS[0])) for _ in range(20)}) == 1


def test_a_tokenizer_without_an_entry_for_a_used_id_is_refused(tmp_path):
    state = trained_elsewhere(added_tokens=[])
    del state["model"]["vocab"]["<|start|>"]
    corpus = build_with(tmp_path, state)
    with pytest.raises(CorpusError, match=r"^tokenizer\.pretrained: must be a BPE or Unigram whose ids run"):
        TokenizedCorpus.prepare(corpus, TokenizerConfig(vocab_size=5_000), cache=tmp_path / "cache")


def build_with(tmp_path, state):
    lines = tmp_path / "titles.txt"
    lines.write_text("\n".join(TEXTS), encoding="utf-8")
    path = write(tmp_path / "tokenizer.json", state)
    return build(DataConfig(source="file", path=str(lines)), cache=tmp_path / "cache", tokenizer=path)


def test_a_corpus_carries_it_and_is_told_apart_by_its_content(tmp_path):
    corpus = build_with(tmp_path, trained_elsewhere())
    data = TokenizedCorpus.prepare(corpus, TokenizerConfig(vocab_size=5_000), cache=tmp_path / "cache")
    assert data.tokenizer.decode([0]) == "<|endoftext|>"
    changed = trained_elsewhere()
    changed["model"]["merges"].pop()
    assert build_with(tmp_path, changed).fingerprint != corpus.fingerprint
    assert build_with(tmp_path, trained_elsewhere()).fingerprint == corpus.fingerprint


def test_files_that_are_none_are_refused_in_one_line(tmp_path):
    path = tmp_path / "tokenizer.json"
    assert "cannot be read: No such file" in refusal(str(path))
    assert "not a tokenizer file" in refusal(write(path, "{}"))
    assert "not a tokenizer file" in refusal(write(path, json.dumps(trained_elsewhere())[:-20]))
    path.write_bytes(b"\xff")
    assert "not a tokenizer file" in refusal(str(path))
    unigram = tokenizers.Tokenizer(models.Unigram([("a", 0.0)], 0, False))
    assert "must be a BPE, is a Unigram" in refusal(write(path, unigram.to_str()))


@pytest.mark.parametrize("part", ["continuing_subword_prefix", "end_of_word_suffix"])
@pytest.mark.parametrize("mark", ["##", "</w>"])
def test_marks_at_words_which_lose_text_or_end_the_library_are_refused(tmp_path, part, mark):
    state = trained_elsewhere()
    state["model"][part] = mark
    message = refusal(write(tmp_path / "tokenizer.json", state))
    assert f"might lose text, its {part} must be null, given {mark!r}" in message
    with pytest.raises(CheckpointError, match=f"its {part} must be null"):
        Tokenizer.from_json(json.dumps(state))


def test_a_panic_of_the_library_is_one_line(tmp_path, monkeypatch):
    class PanicException(BaseException):
        """Named as the library's, which cannot be imported."""

    def panics(_):
        raise PanicException("byte index 2 is out of bounds")

    monkeypatch.setattr(tokenizers.Tokenizer, "from_str", panics)
    assert "not a tokenizer file" in refusal(write(tmp_path / "tokenizer.json", trained_elsewhere()))


@pytest.mark.parametrize(
    "content", ["[" * 200_000, '{"model": ' + "7" * 5_000 + "}", '{"model": []}', "[]", "null"]
)
def test_json_that_no_parser_takes_is_refused(tmp_path, content):
    assert "not a tokenizer file" in refusal(write(tmp_path / "tokenizer.json", content))


def test_more_entries_than_two_bytes_can_count_are_refused(tmp_path):
    state = trained_elsewhere()
    vocab = state["model"]["vocab"]
    vocab.update({f"entry {i}": len(vocab) + i for i in range(65_536)})
    assert "must have at most 65535 entries" in refusal(write(tmp_path / "tokenizer.json", state))


@pytest.fixture
def some_model(hub):
    """The hub with one model's tokenizer, and an older revision of it."""
    for name in ("model", "model@v1"):
        folder = hub.root / "models/some" / name
        folder.mkdir(parents=True)
        state = trained_elsewhere()
        if name == "model@v1":
            state["model"]["merges"].pop()
        write(folder / "tokenizer.json", state)
    return hub


@pytest.fixture
def fetch_it(tmp_path):
    return lambda name, **limits: fetch(name, cache=tmp_path / "lists", **limits)


def test_a_repository_is_fetched_once_and_used_again_where_the_hub_is_away(
    some_model, fetch_it, tmp_path, no_connection
):
    fetched, source = fetch_it("some/model")
    assert fetched == fetch_it(write(tmp_path / "tokenizer.json", trained_elsewhere()))[0]
    assert source == f"some/model at {some_model.commit('models', 'some/model')}"
    assert fetch_it("some/model") == (fetched, source)
    assert len(some_model.files_asked("/tokenizer.json")) == 1
    no_connection()
    assert fetch_it("some/model") == (fetched, source)


def test_a_revision_can_be_pinned_and_is_recorded(some_model, fetch_it):
    newest, old = fetch_it("some/model"), fetch_it("some/model@v1")
    assert old[0] != newest[0]
    assert old[1] == f"some/model at {some_model.commit('models', 'some/model@v1')}"
    assert fetch_it(f"some/model@{old[1].split()[-1]}") == old
    with pytest.raises(
        CorpusError, match=r"^tokenizer\.pretrained: some/model has no such revision on the hub$"
    ):
        fetch_it("some/model@v9")


def test_the_commit_stands_in_the_source_of_the_corpus(some_model, tmp_path):
    lines = tmp_path / "titles.txt"
    lines.write_text("\n".join(TEXTS), encoding="utf-8")
    corpus = build(
        DataConfig(source="file", path=str(lines)), cache=tmp_path / "cache", tokenizer="some/model@v1"
    )
    commit = some_model.commit("models", "some/model@v1")
    assert corpus.source == f"file titles.txt; tokenizer some/model at {commit}"


def test_what_the_hub_refuses_is_said(some_model, fetch_it, monkeypatch):
    (some_model.root / "models/some/model@v1/tokenizer.json").rename(
        some_model.root / "models/some/model@v1/x"
    )
    some_model.faults = [Fault("/api/models/some/model$", "status", status=503)]
    assert "some/model at" in fetch_it("some/model")[1]
    for name, expected in {
        "some/other": "the hub has no public repository 'some/other'",
        "some/model@v1": "some/model@v1 has no tokenizer.json",
        "a/b/c": "must be the name of a repository of the hub, given 'a/b/c'",
    }.items():
        with pytest.raises(CorpusError, match=rf"^tokenizer\.pretrained: .*{expected}"):
            fetch_it(name)


def test_a_hub_that_never_answers_is_given_up_with_the_ways_out(hub_environment, fetch_it, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(CorpusError) as caught:
            fetch_it("some/model", read_seconds=0.2)
    assert "some/model cannot be fetched, the hub cannot be reached (" in str(caught.value)
    assert str(caught.value).endswith(
        "allowed without it: the path of a tokenizer.json, or null, which trains our own"
    )


def test_one_that_puts_a_space_before_a_text_goes_on_doing_so_and_loses_none(tmp_path, fetch_it):
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=90, show_progress=False))
    ours = Tokenizer.from_json(fetch_it(write(tmp_path / "tokenizer.json", bpe.to_str()))[0])
    assert ours.encode("the cat") == bpe.encode("the cat").ids
    texts = ["the cat", " the cat", ""]
    assert [ours.decode(ours.encode(text)) for text in texts] == texts
