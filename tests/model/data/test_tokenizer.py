import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from model.data.tokenized_corpus import encode_split
from model.data.tokenizer import Tokenizer
from model.errors import CheckpointError
from tests.conftest import ROOT

TITLES = tuple(
    f"Show HN: {verb} your {thing}" for verb in ("Tune", "Train", "Test") for thing in ("model", "mood")
)
TOKENIZER = Tokenizer.train(TITLES, vocab_size=300)
UNIGRAM = Tokenizer.train(TITLES, vocab_size=300, model="unigram")
WITHOUT_SPACE = Tokenizer.train(TITLES, vocab_size=300, leading_space=False)
UNIGRAM_WITHOUT_SPACE = Tokenizer.train(TITLES, vocab_size=300, model="unigram", leading_space=False)
ALL = (TOKENIZER, UNIGRAM, WITHOUT_SPACE, UNIGRAM_WITHOUT_SPACE)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


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


@pytest.mark.parametrize("tokenizer", [TOKENIZER, UNIGRAM])
def test_json_brings_the_same_tokenizer_back(tokenizer):
    copy = Tokenizer.from_json(tokenizer.to_json())
    assert copy.to_json() == tokenizer.to_json()
    assert copy.eos_id == tokenizer.eos_id
    assert copy.encode("Show HN: your mood") == tokenizer.encode("Show HN: your mood")


def foreign(**parts):
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
    return foreign(model=state["model"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not a tokenizer file"),
        ("{}", "not a tokenizer file"),
        (TOKENIZER.to_json()[:-30], "not a tokenizer file"),
        (foreign(normalizer={"type": "Lowercase"}), "its normalizer must be null"),
        (foreign(padding=_PADDING), "its padding must be null"),
        (foreign(added_tokens=[_SPECIAL]), "its added_tokens must be none"),
        (foreign(pre_tokenizer=None), "its pre_tokenizer must"),
        (foreign(pre_tokenizer={"type": "Whitespace"}), "its pre_tokenizer must"),
        (
            foreign(pre_tokenizer=_sequence(DIGITS, {**BYTES, "add_prefix_space": True})),
            "its pre_tokenizer must",
        ),
        (foreign(pre_tokenizer=_sequence(BYTES, DIGITS)), "its pre_tokenizer must"),
        (
            foreign(pre_tokenizer=_sequence(SPACES | {"behavior": "Removed"}, BYTES)),
            "its pre_tokenizer must",
        ),
        (foreign(decoder=None), "its decoder must be"),
        (foreign(decoder={"type": "Fuse"}), "its decoder must be"),
        (
            foreign(
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
    tokenizer = Tokenizer.from_json(foreign(pre_tokenizer=_sequence(*cuts, BYTES)))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_largest_vocabulary_fits_two_bytes():
    class Wide(Tokenizer):
        def __init__(self):
            super().__init__(TOKENIZER._library)
            self.eos_id = 65_535

    assert encode_split(Wide(), ["a"]).tokens[-1] == 65_535


def test_a_signal_is_answered_while_the_library_is_at_work():
    # after a tenth of a second of the process's own time, of which the training takes seconds
    program = """
import random, signal, threading
from model.data.tokenizer import Tokenizer
draw = random.Random(1)
texts = ["".join(draw.choices("abcdefghijklmnop ", k=60)) for _ in range(3000)]
signal.signal(signal.SIGPROF, signal.default_int_handler)
signal.setitimer(signal.ITIMER_PROF, 0.1)
try:
    Tokenizer.train(texts, vocab_size=1000, model="unigram")
except KeyboardInterrupt:
    print("at work" if threading.active_count() == 2 else "too late")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "at work\n", "")
