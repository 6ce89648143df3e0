import hashlib
import json
import socket
from http.server import BaseHTTPRequestHandler

import huggingface_hub.constants
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from model.config import DataConfig, TokenizerConfig
from model.corpus import build
from model.errors import CorpusError
from model.pretrained import BYTE_ALPHABET, fetch
from model.tokenizer import TokenizedCorpus, Tokenizer

TEXTS = [f"the {noun} of title {i}" for i, noun in enumerate(["cat", "catalogue", "dog"] * 10)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


def refusal(name):
    with pytest.raises(CorpusError) as caught:
        fetch(name, timeout_seconds=0.2)
    message = str(caught.value)
    assert message.startswith("tokenizer.pretrained: ")
    assert name in message
    assert "\n" not in message
    return message


def test_its_entries_keep_their_ids_and_missing_bytes_follow(tmp_path):
    state = trained_elsewhere()
    theirs = state["model"]["vocab"]
    assert not theirs.keys() >= set(BYTE_ALPHABET), "the case that matters"
    ours = Tokenizer.from_json(fetch(write(tmp_path / "tokenizer.json", state)))
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
    ours = Tokenizer.from_json(fetch(path))
    assert ours.decode(ours.encode(text)) == text


def test_a_special_token_that_is_no_entry_keeps_its_id(tmp_path):
    state = trained_elsewhere()
    n = len(state["model"]["vocab"])
    state["added_tokens"].append({**state["added_tokens"][0], "id": n, "content": "<|end|>"})
    ours = Tokenizer.from_json(fetch(write(tmp_path / "tokenizer.json", state)))
    assert ours.decode([n]) == "<|end|>"


def test_merging_at_random_is_switched_off(tmp_path):
    state = trained_elsewhere()
    state["model"]["dropout"] = 0.5
    ours = Tokenizer.from_json(fetch(write(tmp_path / "tokenizer.json", state)))
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


def test_more_entries_than_two_bytes_can_count_are_refused(tmp_path):
    state = trained_elsewhere()
    vocab = state["model"]["vocab"]
    vocab.update({f"entry {i}": len(vocab) + i for i in range(65_536)})
    assert "must have at most 65535 entries" in refusal(write(tmp_path / "tokenizer.json", state))


class _FakeHub(BaseHTTPRequestHandler):
    """Has a repository and its tokenizer.json, or refuses the one or the other."""

    def do_HEAD(self):
        self.respond(with_body=False)

    def do_GET(self):
        self.respond(with_body=True)

    def respond(self, *, with_body):
        server = self.server
        server.requests.append((self.command, self.path))
        asked = "file" if self.path.endswith("/tokenizer.json") else "repository"
        refused = asked == server.refused
        body = server.content if asked == "file" else json.dumps({"id": "some/model", "sha": COMMIT}).encode()
        self.send_response(server.status if refused else 200)
        self.send_header("Content-Length", str(len(body)))
        if refused and server.error_code:
            self.send_header("X-Error-Code", server.error_code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture
def fake_hub(serve_hub, hub_cache):
    server = serve_hub(_FakeHub)
    server.refused, server.requests = None, []
    server.content = json.dumps(trained_elsewhere()).encode()
    return server


def test_a_repository_is_fetched_once_and_used_again_where_the_hub_is_away(fake_hub, tmp_path, monkeypatch):
    fetched = fetch("some/model")
    assert fetched == fetch(write(tmp_path / "tokenizer.json", trained_elsewhere()))
    assert fetch("some/model") == fetched
    assert [path for command, path in fake_hub.requests if command == "GET" and path.endswith(".json")] == [
        "/some/model/resolve/main/tokenizer.json"
    ]
    with socket.socket() as reserved:  # bound and not listening: every connection is refused
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        assert fetch("some/model") == fetched


@pytest.mark.parametrize(
    ("refused", "status", "error_code", "expected"),
    [
        ("repository", 404, "RepoNotFound", "the hub has no public repository 'some/model'"),
        ("repository", 503, None, "the hub cannot be reached ("),
        ("file", 404, "EntryNotFound", "some/model has no tokenizer.json"),
        ("file", 403, "GatedRepo", "some/model asks for its terms"),
    ],
)
def test_what_the_hub_refuses_is_said(fake_hub, refused, status, error_code, expected):
    fake_hub.refused, fake_hub.status, fake_hub.error_code = refused, status, error_code
    assert expected in refusal("some/model")


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_that_never_answers_is_given_up_with_the_ways_out(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        message = refusal("some/model")
    assert "some/model cannot be fetched, the hub cannot be reached (" in message
    assert message.endswith("allowed without it: the path of a tokenizer.json, or null, which trains our own")


def test_a_name_that_is_none_is_refused_before_any_request():
    assert "must be a repository of the hub or the path of a .json file" in refusal("a/b/c")


def test_one_that_puts_a_space_before_a_text_goes_on_doing_so_and_loses_none(tmp_path):
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=90, show_progress=False))
    ours = Tokenizer.from_json(fetch(write(tmp_path / "tokenizer.json", bpe.to_str())))
    assert ours.encode("the cat") == bpe.encode("the cat").ids
    assert [ours.decode(ours.encode(text)) for text in ("the cat", " the cat", "")] == [
        "the cat",
        " the cat",
        "",
    ]
