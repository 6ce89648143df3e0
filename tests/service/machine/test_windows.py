import contextlib
import re

import optuna
import pytest

from model.errors import CorpusError
from tests.conftest import ROOT


def test_windows_larger_than_the_validation_split_are_refused_before_anything_is_made(tiny):
    tiny.write(**{"training.batch_size": 4096})
    with pytest.raises(CorpusError, match=r"needs 65,537; take a larger corpus or smaller values$"):
        tiny.create(1)
    assert optuna.get_all_study_names(tiny.settings.storage_url) == []


def test_the_largest_window_of_the_space_counts(tiny):
    space = "space:\n  training.batch_size: {type: categorical, choices: [64, 4096]}\n"
    tiny.write(space, **{"training.batch_size": None})
    with pytest.raises(CorpusError, match=r"training\.batch_size 4096"):
        tiny.create(1)


@pytest.mark.parametrize(("vocab_size", "refused"), [(300, False), (1000, True)])
def test_each_arm_of_a_design_is_counted_with_its_own_window_and_vocabulary(tiny, vocab_size, refused):
    # 100 titles of six words: some 1,900 tokens at 300 entries; at 1,000 each word is one of 700
    tiny.write(
        "design:\n  list:\n"
        f"    - {{training.batch_size: 64, tokenizer.vocab_size: {vocab_size}}}\n"
        "    - {model.block_size: 32, training.batch_size: 32}\n"
    )
    message = (
        r"has 7\d\d tokens, one window of model\.block_size 16 × training\.batch_size 64 \+ 1 needs 1,025"
    )
    with pytest.raises(CorpusError, match=message) if refused else contextlib.nullcontext():
        tiny.create(1)


@pytest.mark.parametrize(
    ("searched", "refused"),
    [
        ("tokenizer.vocab_size: {type: int, low: 300, high: 305}", False),
        ("tokenizer.vocab_size: {type: int, low: 300, high: 1000}", True),
    ],
)
def test_a_search_is_counted_with_the_largest_vocabulary_that_it_may_try(tiny, searched, refused):
    base = tiny.folder / "base.yaml"
    text = (ROOT / "train_config.yaml").read_text()
    base.write_text(re.sub("vocab_size: 4_?000", "vocab_size: 300", text))
    body = f"base: {base}\nspace:\n  {searched}\nsampler: {{name: random}}\n"
    tiny.write(body, **{"tokenizer.vocab_size": None, "training.batch_size": 56})
    message = r"has 7\d\d tokens, one window of model\.block_size 16 × training\.batch_size 56 \+ 1 needs 897"
    with pytest.raises(CorpusError, match=message) if refused else contextlib.nullcontext():
        tiny.create(1)
