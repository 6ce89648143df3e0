import gzip
import json
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from model.config.train_config import TokenizerConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus, encode_split
from model.data.tokenizer import Tokenizer
from model.errors import CheckpointError, ConfigError, CorpusError

TITLES = tuple(
    f"Show HN: {verb} your {thing}" for verb in ("Tune", "Train", "Test") for thing in ("model", "mood")
)
TOKENIZER = Tokenizer.train(TITLES, vocab_size=300)
UNIGRAM = Tokenizer.train(TITLES, vocab_size=300, model="unigram")
WITHOUT_SPACE = Tokenizer.train(TITLES, vocab_size=300, leading_space=False)
UNIGRAM_WITHOUT_SPACE = Tokenizer.train(TITLES, vocab_size=300, model="unigram", leading_space=False)
ALL = (TOKENIZER, UNIGRAM, WITHOUT_SPACE, UNIGRAM_WITHOUT_SPACE)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SPLITS = ("train", "validation", "held_out")


def corpus():
    return Corpus(TITLES, ("Train your mind", "日本 <eos>"), ("Test it",), "test", "file", 0)


def assert_same(split, other):
    for name in split.__dataclass_fields__:
        a, b = getattr(split, name), getattr(other, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@given(TEXT)
@example("<eos>")
@example("a<eos>b <pad> <unk>")
@example(" leading, trailing ")
@example("\r\n\t\x00\x1f\x7f\x85\u2028")
@example("👩‍👩‍👧‍👦 漢字カタカナ العربية e\u0301 é \U0010ffff")
@example("")
def test_every_text_comes_back_and_eos_never_appears_by_itself(text):
    for tokenizer in ALL:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= token < tokenizer.eos_id for token in ids)
        assert tokenizer.encode_batch([text, "x"])[0] == ids


@given(st.lists(TEXT, max_size=4))
def test_decoding_leaves_eos_out(texts):
    for tokenizer in ALL:
        ids = [token for text in texts for token in [*tokenizer.encode(text), tokenizer.eos_id]]
        assert tokenizer.decode(ids) == "".join(texts)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, UNIGRAM])
def test_the_first_word_is_the_same_tokens_as_inside_a_title(tokenizer):
    for word in ("Train", "Tune", "model"):
        ids = tokenizer.encode(word)
        assert tokenizer.encode(f"your {word}")[-len(ids) :] == ids
    assert len(TOKENIZER.encode("Train")) < len(WITHOUT_SPACE.encode("Train"))  # learned inside titles alone


@given(TEXT)
def test_the_file_gives_any_other_reader_of_the_library_the_same_tokens(text):
    for tokenizer in ALL:
        if text and not text.startswith(" "):  # elsewhere the library puts none, and loses the text's own
            assert tokenizers.Tokenizer.from_str(tokenizer.to_json()).encode(text).ids == tokenizer.encode(
                text
            )


def test_a_file_without_the_space_reads_as_it_was_written():
    old = Tokenizer.from_json(WITHOUT_SPACE.to_json())
    assert not old.leading_space
    assert (
        old.encode("Show HN: Train")
        == WITHOUT_SPACE.encode("Show HN: Train")
        != TOKENIZER.encode("Show HN: Train")
    )


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


def test_ids_without_an_entry_decode_to_nothing():
    assert TOKENIZER.decode([*TOKENIZER.encode("a"), TOKENIZER.eos_id + 5]) == "a"


def test_eos_is_the_last_id():
    assert TOKENIZER.eos_id == TOKENIZER.vocab_size - 1
    assert TOKENIZER.vocab_size <= 300


def test_the_first_merges_are_the_most_frequent_pairs():
    # Count by hand what byte-pair encoding merges first: the most frequent pair of neighbours within words.
    words = Counter(word for title in TITLES for word in re.findall(r" ?[A-Za-z]+|:", title))
    pairs = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    top = {a + b for (a, b), count in pairs.items() if count == max(pairs.values())}
    first_merge = Tokenizer.train(TITLES, vocab_size=258)
    assert first_merge.decode([256]) in top


def test_the_bytes_alone_are_the_smallest_vocabulary():
    smallest = Tokenizer.train(TITLES, vocab_size=257)
    assert smallest.vocab_size == 257
    text = "é <eos> 日"
    assert len(smallest.encode(text)) == len(f" {text}".encode())


def test_the_vocabulary_is_smaller_where_nothing_repeats():
    assert Tokenizer.train(["abc"], vocab_size=5000).vocab_size == 257
    assert Tokenizer.train(["ab ab"], vocab_size=5000, leading_space=False).vocab_size == 258
    assert Tokenizer.train(["ab ab"], vocab_size=5000).vocab_size == 259  # "ab", and it behind a space


def test_training_twice_gives_the_same_tokenizer():
    assert Tokenizer.train(list(TITLES), vocab_size=300).to_json() == TOKENIZER.to_json()
    texts = [f"{one}{other} {other}" for one in TITLES for other in ("the", "that", "test", "trains")]
    several = {Tokenizer.train(texts, vocab_size=320, model="unigram").to_json() for _ in range(4)}
    assert len(several) == 1  # the library's own result differs nearly every time


def test_a_unigram_takes_the_pieces_that_make_a_text_most_likely():
    # by trying all ways to cut the word up; a log-probability has four decimals
    scores = dict(json.loads(UNIGRAM.to_json())["model"]["vocab"])
    word = "ĠTrain"

    def best(rest):
        if not rest:
            return 0.0
        ways = [rest[:i] for i in range(1, len(rest) + 1) if rest[:i] in scores]
        return max(scores[piece] + best(rest[len(piece) :]) for piece in ways)

    ids = UNIGRAM.encode("Train")
    pieces = list(scores)
    assert "".join(pieces[i] for i in ids) == word
    assert sum(scores[pieces[i]] for i in ids) == pytest.approx(best(word), abs=1e-9)


@pytest.mark.parametrize("vocab_size", [257, 258, 260, 5000])
@pytest.mark.parametrize("texts", [TITLES, ["abc"]])
def test_a_unigram_has_every_byte_and_no_more_entries_than_asked_for(texts, vocab_size):
    tokenizer = Tokenizer.train(texts, vocab_size=vocab_size, model="unigram")
    assert 257 <= tokenizer.vocab_size <= vocab_size
    assert tokenizer.decode(tokenizer.encode("é <eos> 日\x00")) == "é <eos> 日\x00"


def test_a_unigram_is_kept_apart_from_a_bpe_in_the_cache(tmp_path):
    for _ in range(2):
        data = TokenizedCorpus.prepare(
            corpus(), TokenizerConfig(vocab_size=300, model="unigram"), cache=tmp_path
        )
        assert data.tokenizer.to_json() == UNIGRAM.to_json()
        assert_same(data.split("validation"), encode_split(UNIGRAM, corpus().validation))
        bpe = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=tmp_path)
        assert bpe.tokenizer.to_json() == TOKENIZER.to_json()


@pytest.mark.parametrize("tokenizer", [TOKENIZER, UNIGRAM])
def test_json_brings_the_same_tokenizer_back(tokenizer):
    copy = Tokenizer.from_json(tokenizer.to_json())
    assert copy.to_json() == tokenizer.to_json()
    assert copy.eos_id == tokenizer.eos_id
    assert copy.encode("Show HN: your mood") == tokenizer.encode("Show HN: your mood")


def _foreign(**parts):
    return json.dumps({**json.loads(WITHOUT_SPACE.to_json()), **parts})


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
SPACES = {"type": "Split", "pattern": {"Regex": " +"}, "behavior": "Isolated", "invert": False}
_SPECIAL = {
    "id": 5,
    "content": "a",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
_PADDING = {
    "strategy": "BatchLongest",
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "a",
}


def _sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def _without_a_byte():
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
    state = json.loads(bpe.to_str())
    return _foreign(model=state["model"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not a tokenizer file"),
        ("{}", "not a tokenizer file"),
        (TOKENIZER.to_json()[:-30], "not a tokenizer file"),
        (_foreign(normalizer={"type": "Lowercase"}), "its normalizer must be null"),
        (_foreign(padding=_PADDING), "its padding must be null"),
        (_foreign(added_tokens=[_SPECIAL]), "its added_tokens must be none"),
        (_foreign(pre_tokenizer=None), "its pre_tokenizer must"),
        (_foreign(pre_tokenizer={"type": "Whitespace"}), "its pre_tokenizer must"),
        (
            _foreign(pre_tokenizer=_sequence(DIGITS, {**BYTES, "add_prefix_space": True})),
            "its pre_tokenizer must",
        ),
        (_foreign(pre_tokenizer=_sequence(BYTES, DIGITS)), "its pre_tokenizer must"),
        (
            _foreign(pre_tokenizer=_sequence(SPACES | {"behavior": "Removed"}, BYTES)),
            "its pre_tokenizer must",
        ),
        (_foreign(decoder=None), "its decoder must be"),
        (_foreign(decoder={"type": "Fuse"}), "its decoder must be"),
        (
            _foreign(
                model=json.loads(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).to_str())[
                    "model"
                ]
            ),
            "must be a BPE",
        ),
        (_without_a_byte(), "each of the 256 bytes"),
    ],
)
def test_a_foreign_tokenizer_is_refused(text, expected):
    with pytest.raises(CheckpointError, match=re.escape(expected)) as caught:
        Tokenizer.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cuts", [[DIGITS], [SPACES], [DIGITS, SPACES]])
@given(text=TEXT)
@example("12  3\u0660")
def test_pre_tokenizers_that_only_cut_lose_nothing(cuts, text):
    tokenizer = Tokenizer.from_json(_foreign(pre_tokenizer=_sequence(*cuts, BYTES)))
    assert tokenizer.decode(tokenizer.encode(text)) == text


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


def test_the_largest_vocabulary_fits_two_bytes():
    class Wide(Tokenizer):
        def __init__(self):
            super().__init__(TOKENIZER._library)
            self.eos_id = 65_535

    assert encode_split(Wide(), ["a"]).tokens[-1] == 65_535


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
    lowercase = _foreign(normalizer={"type": "Lowercase"})
    with pytest.raises(CorpusError, match=r"^tokenizer\.pretrained: might lose text, its normalizer"):
        TokenizedCorpus.prepare(with_tokenizer(lowercase), TokenizerConfig(vocab_size=300), cache=tmp_path)


def test_one_that_would_mark_the_pieces_of_a_word_is_refused(tmp_path):
    # the decoder does not take the marks off again
    state = json.loads(TOKENIZER.to_json())["model"] | {"continuing_subword_prefix": "##"}
    with pytest.raises(
        CorpusError, match=r"^tokenizer\.pretrained: might lose text, its continuing_subword_prefix"
    ):
        TokenizedCorpus.prepare(
            with_tokenizer(_foreign(model=state)), TokenizerConfig(vocab_size=600), cache=tmp_path
        )


def _prepare_in_child(cache):
    data = TokenizedCorpus.prepare(corpus(), TokenizerConfig(vocab_size=300), cache=cache)
    return [data.split(name).tokens.tolist() for name in SPLITS]


def test_several_processes_prepare_at_once(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        results = list(pool.map(_prepare_in_child, [tmp_path] * 6))
    assert results == [_prepare_in_child(tmp_path)] * 6
    assert not list(tmp_path.rglob("*.tmp"))
