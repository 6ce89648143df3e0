import gzip
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.data import TokenizerConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus, encode_split
from model.data.tokenizer import Tokenizer
from model.errors import ConfigError, CorpusError
from tests.model.data.test_tokenizer import TEXT, TITLES, TOKENIZER, UNIGRAM, WITHOUT_SPACE, foreign

SPLITS = ("train", "validation", "held_out")


def corpus():
    return Corpus(TITLES, ("Train your mind", "日本 <eos>"), ("Test it",), "test", "file", 0)


def assert_same(split, other):
    for name in split.__dataclass_fields__:
        a, b = getattr(split, name), getattr(other, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_training_may_be_let_see_the_validation_titles(tmp_path):
    wanted = TokenizerConfig(vocab_size=300, trained_on="train_and_validation")
    seen = TokenizedCorpus.prepare(corpus(), wanted, cache=tmp_path).tokenizer
    honest = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path).tokenizer
    by_hand = Tokenizer.train(corpus().train + corpus().validation, vocab_size=300)
    assert seen.to_json() == by_hand.to_json() != honest.to_json()


def test_the_cache_keeps_tokenizers_with_and_without_the_space_apart(tmp_path):
    for leading_space, expected in ((True, TOKENIZER), (False, WITHOUT_SPACE)) * 2:
        wanted = TokenizerConfig(vocab_size=300, leading_space=leading_space)
        assert (
            TokenizedCorpus.prepare(corpus(), wanted, cache=tmp_path).tokenizer.to_json()
            == expected.to_json()
        )


def test_a_unigram_is_kept_apart_from_a_bpe_in_the_cache(tmp_path):
    for _ in range(2):
        data = TokenizedCorpus.prepare(
            corpus(), TokenizerConfig(vocab_size=300, model="unigram"), cache=tmp_path
        )
        assert data.tokenizer.to_json() == UNIGRAM.to_json()
        assert_same(data.split("validation"), encode_split(UNIGRAM, corpus().validation))
        bpe = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path)
        assert bpe.tokenizer.to_json() == TOKENIZER.to_json()


def test_the_split_counts_what_the_metrics_divide_by():
    titles = ["abc", "é", "日本 <eos>"]
    split = encode_split(TOKENIZER, titles)
    assert split.tokens.dtype == np.uint16
    assert split.characters.tolist() == [3 + 5, 1 + 5, 8 + 5]
    assert split.characters.sum() == len("<eos>".join(titles) + "<eos>")
    assert split.utf8_bytes.tolist() == [3, 2, 12]
    assert (split.n_titles, split.n_tokens) == (3, len(split.tokens))


@given(st.lists(TEXT, min_size=1, max_size=8))
def test_every_title_of_a_split_stands_between_its_starts(titles):
    split = encode_split(TOKENIZER, titles)
    assert split.starts[0] == 0
    assert split.starts[-1] == split.n_tokens
    for title, start, end in zip(titles, split.starts[:-1], split.starts[1:], strict=True):
        assert split.tokens[start:end].tolist() == [*TOKENIZER.encode(title), TOKENIZER.eos_id]


def test_preparing_trains_on_the_train_split_alone(tmp_path):
    data = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path)
    assert data.tokenizer.to_json() == TOKENIZER.to_json()
    assert data.fingerprint == corpus().fingerprint
    for name in SPLITS:
        assert_same(data.split(name), encode_split(TOKENIZER, getattr(corpus(), name)))


def test_held_out_documents_are_encoded_only_when_asked_for(tmp_path):
    data = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path)
    data.split("train")
    data.split("validation")
    assert not list(tmp_path.rglob("held_out*"))
    data.split("held_out")
    assert len(list(tmp_path.rglob("held_out.npz"))) == 1


def test_the_cache_is_read_and_kept_apart_by_corpus_and_vocabulary(tmp_path):
    data = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path)
    data.split("train")
    (path,) = tmp_path.rglob("train.npz")
    # A marked copy that still fits: what comes back must be from the file, and not encoded again.
    arrays = dict(np.load(path))
    arrays["utf8_bytes"] = arrays["utf8_bytes"] + 1
    np.savez(path, **arrays)
    again = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path).split("train")
    np.testing.assert_array_equal(again.utf8_bytes, data.split("train").utf8_bytes + 1)
    TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=280), cache=tmp_path)
    other = Corpus(TITLES[1:], ("a",), ("b",), "test", "file", 0)
    TokenizedCorpus.prepare(other, TokenizerConfig(vocab_size=300), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("file", ["tokenizer.json.gz", "train.npz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:200] + bytes([content[200] ^ 255]) + content[201:],
        lambda content: gzip.compress(b"{}"),
        lambda content: b"\x93NUMPY",
    ],
)
def test_a_damaged_cache_file_is_made_again(tmp_path, file, damage):
    TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path).split("train")
    (path,) = tmp_path.rglob(file)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    data = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path)
    assert_same(data.split("train"), encode_split(TOKENIZER, TITLES))
    assert data.tokenizer.to_json() == TOKENIZER.to_json()
    assert path.read_bytes() == content


@pytest.mark.parametrize("n", [1, len(TITLES) - 1])
def test_a_cached_split_of_other_titles_is_made_again(tmp_path, n):
    data = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path)
    right = data.split("train")
    (path,) = tmp_path.rglob("train.npz")
    wrong = encode_split(TOKENIZER, TITLES[:n])
    np.savez(path, **{name: getattr(wrong, name) for name in wrong.__dataclass_fields__})
    assert_same(
        TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path).split("train"),
        right,
    )


def with_tokenizer(tokenizer_json):
    return replace(corpus(), tokenizer=tokenizer_json)


def test_a_tokenizer_that_came_along_is_used_as_it_is(tmp_path):
    other = Tokenizer.train(["unlike the titles, unlike them"], vocab_size=280)
    for vocab_size in (other.vocab_size, 5_000):  # the embedding may have more rows
        data = TokenizedCorpus.prepare(
            with_tokenizer(other.to_json()), TokenizerConfig(vocab_size=vocab_size), cache=tmp_path
        )
        assert data.tokenizer.to_json() == other.to_json()
        assert data.split("train").tokens.max() == data.tokenizer.eos_id == other.vocab_size - 1
    assert data.fingerprint != corpus().fingerprint


def test_a_tokenizer_with_more_entries_than_the_model_has_rows_is_refused_with_both_numbers(tmp_path):
    n = TOKENIZER.vocab_size
    with pytest.raises(ConfigError) as caught:
        TokenizedCorpus.prepare(
            with_tokenizer(TOKENIZER.to_json()), TokenizerConfig(vocab_size=n - 1), cache=tmp_path
        )
    assert str(caught.value) == (
        f"tokenizer.vocab_size: must be at least {n}, for <eos> and the {n - 1} entries of "
        f"tokenizer.pretrained, given {n - 1}"
    )


def test_a_tokenizer_of_another_kind_is_refused_by_its_key(tmp_path):
    lowercase = foreign(normalizer={"type": "Lowercase"})
    with pytest.raises(CorpusError, match=r"^tokenizer\.pretrained: might lose text, its normalizer"):
        TokenizedCorpus.prepare(with_tokenizer(lowercase), TokenizerConfig(vocab_size=300), cache=tmp_path)


def test_one_that_would_mark_the_pieces_of_a_word_is_refused(tmp_path):
    # the decoder does not take the marks off again
    state = json.loads(TOKENIZER.to_json())["model"] | {"continuing_subword_prefix": "##"}
    with pytest.raises(
        CorpusError, match=r"^tokenizer\.pretrained: might lose text, its continuing_subword_prefix"
    ):
        TokenizedCorpus.prepare(
            with_tokenizer(foreign(model=state)), TokenizerConfig(vocab_size=600), cache=tmp_path
        )


def _prepare_in_child(cache):
    data = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=cache)
    return [data.split(name).tokens.tolist() for name in SPLITS]


@pytest.mark.slow
def test_several_processes_prepare_at_once(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        results = list(pool.map(_prepare_in_child, [tmp_path] * 6))
    assert results == [_prepare_in_child(tmp_path)] * 6
    assert not list(tmp_path.rglob("*.tmp"))
