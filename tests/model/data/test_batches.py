from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.batches import (
    IGNORED,
    TrainingStream,
    evaluation_windows,
    official_coverage,
    official_windows,
)
from model.errors import CorpusError

EOS = 999
SIZES = {"block": st.integers(1, 9), "batch": st.integers(1, 6)}


def stream_of(n_tokens):
    """Every token is its own position, so that a window says where it was cut."""
    return np.arange(n_tokens, dtype=np.uint16)


def windows_one_by_one(n_tokens, block, shuffle, seed):
    """The endless sequence of (inputs, targets), cut naively."""
    tokens = list(range(n_tokens))
    n_windows = len([start for start in range(0, n_tokens, block) if start + block + 1 <= n_tokens])
    for epoch in count():
        order = range(n_windows)
        if shuffle:
            order = np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(n_windows)
        for i in order:
            yield tokens[i * block : (i + 1) * block], tokens[i * block + 1 : (i + 1) * block + 1]


@given(extra=st.integers(1, 60), shuffle=st.booleans(), seed=st.integers(0, 2**40), **SIZES)
def test_batches_are_the_endless_sequence_of_windows_in_order(extra, shuffle, seed, block, batch):
    n_tokens = block + extra
    stream = TrainingStream(
        stream_of(n_tokens), block_size=block, batch_size=batch, shuffle=shuffle, seed=seed
    )
    expected = windows_one_by_one(n_tokens, block, shuffle, seed)
    for step in range(8):
        inputs_BT, targets_BT = stream.batch(step)
        assert inputs_BT.dtype == targets_BT.dtype == np.int64
        assert inputs_BT.shape == targets_BT.shape == (batch, block)
        pairs = list(islice(expected, batch))
        assert inputs_BT.tolist() == [inputs for inputs, _ in pairs]
        assert targets_BT.tolist() == [targets for _, targets in pairs]


@given(st.permutations(range(7)))
def test_a_batch_depends_on_the_step_alone(steps):
    def new():
        return TrainingStream(stream_of(41), block_size=4, batch_size=3, shuffle=True, seed=7)

    visited = new()
    for step in steps:
        for array, fresh in zip(visited.batch(step), new().batch(step), strict=True):
            np.testing.assert_array_equal(array, fresh)


def test_every_epoch_has_every_window_once_in_another_order():
    stream = TrainingStream(stream_of(401), block_size=4, batch_size=10, shuffle=True, seed=1)
    assert stream.windows_per_epoch == 100
    epochs = [
        np.concatenate([stream.batch(step)[0][:, 0] for step in range(10 * epoch, 10 * (epoch + 1))])
        for epoch in range(3)
    ]
    for starts in epochs:
        assert sorted(starts) == list(range(0, 400, 4))
        assert list(starts) != sorted(starts)
    assert list(epochs[0]) != list(epochs[1]) != list(epochs[2])
    other_seed = TrainingStream(stream_of(401), block_size=4, batch_size=10, shuffle=True, seed=2)
    assert list(other_seed.batch(0)[0][:, 0]) != list(epochs[0][:10])


TITLES = [[1, EOS], [2, 2, 2, EOS], [3, 3, EOS], [EOS], [5, 5, 5, 5, 5, EOS], [6, 6, EOS], [7, EOS]]
STARTS = np.cumsum([0, *map(len, TITLES)])
JOINED = np.array([token for title in TITLES for token in title], dtype=np.uint16)


def streams_of_epochs(epochs, **settings):
    """What a stream in natural order reads in each epoch, the last window's tail left out."""
    stream = TrainingStream(
        **{"tokens": JOINED, "block_size": 2, "batch_size": 5, "shuffle": False, "seed": 3} | settings
    )
    assert stream.windows_per_epoch == 10
    batches = [[array.ravel().tolist() for array in stream.batch(step)] for step in range(2 * epochs)]
    pairs = [(one[0] + two[0], one[1] + two[1]) for one, two in zip(batches[::2], batches[1::2], strict=True)]
    assert all(inputs[1:] == targets[:-1] for inputs, targets in pairs)
    return [[*inputs, targets[-1]] for inputs, targets in pairs]


def test_titles_are_joined_in_a_new_order_every_epoch_each_of_them_whole():
    epochs = streams_of_epochs(6, starts=STARTS)
    for tokens in epochs:
        assert sorted(tokens) == sorted(JOINED.tolist())
        ends = [i for i, token in enumerate(tokens) if token == EOS]
        titles = [tokens[a + 1 : b + 1] for a, b in zip([-1, *ends], ends, strict=False)]
        assert sorted(titles) == sorted(TITLES)
    assert len({tuple(tokens) for tokens in epochs}) == 6
    assert streams_of_epochs(6, starts=STARTS) == epochs
    assert streams_of_epochs(6, starts=STARTS, seed=4) != epochs


def test_a_random_offset_turns_the_stream_by_less_than_a_window():
    tokens = np.arange(21, dtype=np.uint16)
    turned = [list(np.roll(tokens, -offset)) for offset in (0, 1)]
    epochs = streams_of_epochs(12, tokens=tokens, random_offset=True)
    assert all(epoch in turned for epoch in epochs)
    assert turned[0] in epochs
    assert turned[1] in epochs


@given(st.permutations(range(7)))
def test_a_batch_of_reshuffled_titles_depends_on_the_step_alone(steps):
    def new():
        return TrainingStream(
            JOINED, block_size=3, batch_size=4, shuffle=True, seed=7, starts=STARTS, random_offset=True
        )

    visited = new()
    for step in steps:
        for array, fresh in zip(visited.batch(step), new().batch(step), strict=True):
            np.testing.assert_array_equal(array, fresh)


def test_a_training_batch_is_independent_of_the_stream():
    tokens = stream_of(41)
    inputs_BT, _ = TrainingStream(tokens, block_size=4, batch_size=3, shuffle=False, seed=0).batch(0)
    inputs_BT[:] = 0
    np.testing.assert_array_equal(tokens, stream_of(41))


def test_a_train_split_without_one_window_is_refused():
    with pytest.raises(CorpusError, match=r"train split has 8 tokens, model\.block_size 8 needs 9"):
        TrainingStream(stream_of(8), block_size=8, batch_size=1, shuffle=False, seed=0)
    stream = TrainingStream(stream_of(9), block_size=8, batch_size=1, shuffle=False, seed=0)
    assert stream.windows_per_epoch == 1


@given(extra=st.integers(0, 60), **SIZES)
def test_the_exact_pass_has_every_token_as_target_once_after_the_right_context(extra, block, batch):
    n_tokens = block + extra
    tokens = stream_of(n_tokens)
    pairs = list(evaluation_windows(tokens, eos_id=EOS, block_size=block, batch_size=batch))
    assert [len(inputs_BT) for inputs_BT, _ in pairs[:-1]] == [batch] * (len(pairs) - 1)
    assert 1 <= len(pairs[-1][0]) <= batch
    inputs = np.concatenate([inputs_BT for inputs_BT, _ in pairs])
    targets = np.concatenate([targets_BT for _, targets_BT in pairs])
    assert inputs.dtype == targets.dtype == np.int64
    assert inputs.shape == targets.shape == (-(-n_tokens // block), block)
    context = [EOS, *tokens.tolist()]
    for i, (row, target_row) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
        scored = min(block, n_tokens - i * block)
        assert target_row == tokens[i * block : i * block + scored].tolist() + [IGNORED] * (block - scored)
        assert row[:scored] == context[i * block : i * block + scored]
        assert row[scored:] == [EOS] * (block - scored)


def test_the_exact_pass_by_hand():
    tokens = np.array([5, 6, EOS, 7, EOS], dtype=np.uint16)
    ((inputs_BT, targets_BT),) = evaluation_windows(tokens, eos_id=EOS, block_size=3, batch_size=4)
    assert inputs_BT.tolist() == [[EOS, 5, 6], [EOS, 7, EOS]]
    assert targets_BT.tolist() == [[5, 6, EOS], [7, EOS, IGNORED]]


def test_a_split_shorter_than_one_window_is_an_error_at_the_call():
    with pytest.raises(CorpusError, match=r"split has 7 tokens, evaluation\.block_size 8 needs 8"):
        evaluation_windows(stream_of(7), eos_id=EOS, block_size=8, batch_size=1)
    with pytest.raises(CorpusError, match="split has 0 tokens"):
        evaluation_windows(stream_of(0), eos_id=EOS, block_size=8, batch_size=1)


@given(extra=st.integers(0, 100), **SIZES)
def test_official_windows_are_the_seeds_chunks(extra, block, batch):
    span = block * batch + 1
    n_tokens = span + extra
    tokens = stream_of(n_tokens)
    pairs = list(official_windows(tokens, block_size=block, batch_size=batch))
    position, scored = 0, 0
    for inputs_BT, targets_BT in pairs:
        assert inputs_BT.dtype == targets_BT.dtype == np.int64
        assert inputs_BT.shape == targets_BT.shape == (batch, block)
        assert inputs_BT.ravel().tolist() == tokens[position : position + span - 1].tolist()
        assert targets_BT.ravel().tolist() == tokens[position + 1 : position + span].tolist()
        position += span
        scored += targets_BT.size
    assert position + span > n_tokens
    assert official_coverage(n_tokens, block_size=block, batch_size=batch) == scored / n_tokens


def test_coverage_is_what_the_published_runs_had():
    # 14 chunks of 128 x 64 in the 122,500 validation tokens of the published baseline: 114,688 targets.
    assert official_coverage(122_500, block_size=128, batch_size=64) == pytest.approx(
        114_688 / 122_500, abs=1e-12
    )


def test_the_official_metric_without_one_chunk_is_an_error_and_not_a_loss_of_zero():
    with pytest.raises(
        CorpusError, match="split has 12 tokens, block 4 and batch 3 of the official metric needs 13"
    ):
        official_windows(stream_of(12), block_size=4, batch_size=3)
    with pytest.raises(CorpusError, match="needs 13"):
        official_coverage(12, block_size=4, batch_size=3)
    assert official_coverage(13, block_size=4, batch_size=3) == 12 / 13
