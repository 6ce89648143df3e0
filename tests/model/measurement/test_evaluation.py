import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.config.train_config import EvaluationConfig, TrainConfig
from model.data.tokenized_corpus import encode_split
from model.data.tokenizer import Tokenizer
from model.errors import CorpusError
from model.hardware.precision import Precision
from model.measurement.evaluation import official_loss, score_split
from model.network.gpt import GPT

FP32 = Precision("fp32", "", "cpu")
BLOCK = 8
TITLES = (
    "Show HN: a small thing",
    "",
    "naïve café – 日本語 titles 🙂",
    "Ask HN: why!",  # "!" is token 0
    "x",
    "the <eos> in a title stays text",
    "Show HN: a small thing again",
)
TOKENIZER = Tokenizer.train(TITLES, vocab_size=300)
SPLIT = encode_split(TOKENIZER, TITLES)
TEXT = "<eos>".join(TITLES) + "<eos>"


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny_gpt(dropout=0.0):
    config = TrainConfig.model_validate(
        {
            "tokenizer": {"vocab_size": 300},
            "model": {"n_layer": 2, "n_head": 2, "d_model": 16, "block_size": 16, "dropout": dropout},
            "evaluation": {"block_size": BLOCK},
        }
    )
    model = GPT(config, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # far from guessing, so that every token has its own loss
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def score(model, *, split=SPLIT, batch_size=3, block_size=BLOCK):
    evaluation = EvaluationConfig(block_size=block_size, batch_size=batch_size)
    return score_split(model, split, eos_id=TOKENIZER.eos_id, evaluation=evaluation, precision=FP32)


def nats_token_by_token(model, block_size):
    """The loss of every token of the split, each from a pass of its own over the part of its window before it."""
    model = model.eval()
    stream = [TOKENIZER.eos_id]
    for title in TITLES:
        stream += [*TOKENIZER.encode(title), TOKENIZER.eos_id]
    nats = []
    for i in range(1, len(stream)):
        window_start = (i - 1) // block_size * block_size
        with torch.no_grad():
            logits = model(torch.tensor([stream[window_start:i]]))[0, -1].double()
        nats.append(float(torch.logsumexp(logits, 0) - logits[stream[i]]))
    return nats


@pytest.mark.parametrize("block_size", [2, BLOCK, 16])
def test_losses_equal_those_of_a_loop_over_single_tokens(block_size):
    model = tiny_gpt()
    result = score(model, block_size=block_size)
    nats = nats_token_by_token(model, block_size)
    total = sum(nats)
    # fp32 passes of different shapes: a relative 1e-6 each
    assert result.tokens == len(nats) == SPLIT.n_tokens
    assert result.nats == pytest.approx(total, rel=1e-5)
    assert result.loss_per_character == pytest.approx(total / len(TEXT), rel=1e-5)
    assert result.nats_per_token == pytest.approx(total / len(nats), rel=1e-5)
    n_bytes = sum(len(title.encode()) for title in TITLES)
    assert result.bits_per_byte == pytest.approx(total / math.log(2) / n_bytes, rel=1e-5)

    lengths = [len(TOKENIZER.encode(title)) + 1 for title in TITLES]
    ends = np.cumsum(lengths)
    by_title = [sum(nats[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
    np.testing.assert_allclose(result.title_nats, by_title, rtol=1e-5)
    assert result.title_characters.tolist() == [len(title) + 5 for title in TITLES]


def test_characters_are_those_of_the_titles_joined_and_closed_with_eos():
    assert score(tiny_gpt()).title_characters.sum() == len(TEXT)


def test_title_nats_add_up_to_the_loss():
    result = score(tiny_gpt())
    assert result.title_nats.shape == (len(TITLES),)
    assert (result.title_nats > 0).all()
    assert result.loss_per_character * len(TEXT) == pytest.approx(math.fsum(result.title_nats), rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 1000])
def test_losses_do_not_depend_on_the_evaluation_batch(batch_size):
    model = tiny_gpt()
    one, other = score(model, batch_size=batch_size), score(model, batch_size=3)
    # another batch shape may take another matrix kernel: fp32 rounding of single losses
    np.testing.assert_allclose(one.title_nats, other.title_nats, rtol=1e-5)


def test_a_model_that_guesses_loses_ln_vocab_on_every_token():
    model = tiny_gpt()
    with torch.no_grad():
        model.token_embedding.weight.zero_()
    result = score(model)
    assert result.nats_per_token == pytest.approx(math.log(300), rel=1e-6)
    assert result.bits_per_byte == pytest.approx(
        SPLIT.n_tokens * math.log2(300) / sum(len(title.encode()) for title in TITLES), rel=1e-6
    )


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_drops_nothing_out_and_restores_the_mode(training):
    dropping = tiny_gpt(dropout=0.5).train(training)
    expected = score(tiny_gpt(dropout=0.0))
    assert np.array_equal(score(dropping).title_nats, expected.title_nats)
    assert dropping.training is training
    sizes = {"block_size": 8, "batch_size": 2, "precision": FP32}
    official = official_loss(tiny_gpt(dropout=0.0), SPLIT, **sizes)
    assert official_loss(dropping, SPLIT, **sizes) == official
    assert dropping.training is training


def test_a_split_shorter_than_one_window_is_refused():
    short = encode_split(TOKENIZER, ["x"])
    with pytest.raises(CorpusError, match="3 tokens") as caught:
        score(tiny_gpt(), split=short)
    assert "\n" not in str(caught.value)


def seeds_evaluate(model, *, block_size, batch_size):
    """The `evaluate()` of MaincodeHQ/mainrun, line by line, and the number of targets it reads."""
    val_ids = torch.tensor([i for t in TITLES for i in [*TOKENIZER.encode(t), TOKENIZER.eos_id]])

    def iter_full_split():
        span = block_size * batch_size + 1
        for ptr in range(0, len(val_ids) - span + 1, span):
            batch = val_ids[ptr : ptr + span]
            yield batch[:-1].view(batch_size, block_size), batch[1:].view(batch_size, block_size)

    model.eval()
    losses, targets = 0.0, 0
    with torch.no_grad():
        for xb, yb in iter_full_split():
            logits = model(xb)
            _, _, vocab = logits.size()
            losses += F.cross_entropy(logits.view(-1, vocab), yb.view(-1), reduction="sum").item()
            targets += yb.numel()
    return losses / len(TEXT), targets / len(val_ids)


@pytest.mark.parametrize(("block_size", "batch_size"), [(2, 1), (8, 1), (8, 2), (8, 5), (16, 3), (16, 1)])
def test_official_loss_is_the_seeds_evaluate_to_the_letter(block_size, batch_size):
    model = tiny_gpt()
    sizes = {"block_size": block_size, "batch_size": batch_size}
    loss, coverage = official_loss(model, SPLIT, **sizes, precision=FP32)
    expected, share = seeds_evaluate(model, **sizes)
    assert loss == pytest.approx(expected, rel=1e-5)  # theirs sums a batch in fp32
    assert coverage == share
    assert 0 < coverage < 1


def test_official_loss_counts_the_dropped_tail_as_zero():
    """Defect of the seeds' metric: the model that guesses everywhere seems better the more is dropped."""
    model = tiny_gpt()
    with torch.no_grad():
        model.token_embedding.weight.zero_()
    for batch_size in (1, 2, 5):
        loss, coverage = official_loss(model, SPLIT, block_size=8, batch_size=batch_size, precision=FP32)
        assert loss == pytest.approx(coverage * score(model).loss_per_character, rel=1e-6)


def test_official_loss_of_a_split_shorter_than_one_chunk_is_refused():
    # the original returns a perfect loss of 0 here
    with pytest.raises(CorpusError, match="official metric") as caught:
        official_loss(tiny_gpt(), SPLIT, block_size=16, batch_size=1000, precision=FP32)
    assert "\n" not in str(caught.value)
