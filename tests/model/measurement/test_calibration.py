import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from model.config.train_config import EvaluationConfig, TrainConfig
from model.data.tokenized_corpus import EncodedSplit
from model.hardware.precision import Precision
from model.measurement import calibration
from model.measurement.calibration import BINS, Predictions
from model.measurement.evaluation import score_split
from model.network.gpt import GPT

VOCAB = 7


def figures(logits, targets, *, batches=1):
    logits, targets = torch.as_tensor(logits), torch.as_tensor(targets)
    predictions = Predictions(targets.shape[1], torch.device("cpu"))
    for pair in zip(logits.chunk(batches), targets.chunk(batches), strict=True):
        predictions.add(*pair)
    return predictions.figures()


def random_case(seed=0, windows=12, block=5):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(windows, block, VOCAB, generator=generator)
    return logits, torch.randint(VOCAB, (windows, block), generator=generator)


def test_uniform_logits_are_sure_of_nothing():
    got = figures(torch.zeros(2, 3, VOCAB), torch.zeros(2, 3, dtype=torch.long))
    assert got["entropy"] == pytest.approx(math.log(VOCAB), rel=1e-6)
    assert got["confidence"] == pytest.approx(1 / VOCAB, rel=1e-6)
    assert got["loss_by_position"] == pytest.approx([math.log(VOCAB)] * 3, rel=1e-6)


def test_a_case_small_enough_to_count_by_hand():
    def row(p, best):
        """Probability p for entry `best`, the rest shared by the others."""
        probabilities = [(1 - p) / (VOCAB - 1)] * VOCAB
        probabilities[best] = p
        return np.log(probabilities)

    # two tokens with confidence 0.9, one of them right; two with 0.5, both right
    logits = np.array([[row(0.9, 0), row(0.9, 1)], [row(0.5, 2), row(0.5, 3)]])
    got = figures(logits, [[0, 4], [2, 3]])
    assert got["accuracy"] == 0.75
    assert got["confidence"] == pytest.approx(0.7)
    assert got["ece"] == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(1.0 - 0.5))
    low, high = got["reliability"]
    assert low == pytest.approx({"confidence": 0.5, "accuracy": 1.0, "share": 0.5})
    assert high == pytest.approx({"confidence": 0.9, "accuracy": 0.5, "share": 0.5})
    first = (-math.log(0.9) - math.log(0.5)) / 2
    second = (-math.log(0.1 / 6) - math.log(0.5)) / 2
    assert got["loss_by_position"] == pytest.approx([first, second])
    entropies = [-p * math.log(p) - (1 - p) * math.log((1 - p) / 6) for p in (0.9, 0.5)]
    assert got["entropy"] == pytest.approx(sum(entropies) / 2)


def test_figures_agree_with_scikit_learn_and_with_numpy():
    logits, targets = random_case()
    got = figures(logits, targets)
    p = np.exp(logits.double().numpy().reshape(-1, VOCAB))
    p /= p.sum(axis=1, keepdims=True)
    flat = targets.numpy().ravel()
    classes = np.arange(VOCAB)
    assert got["accuracy"] == pytest.approx(top_k_accuracy_score(flat, p, k=1, labels=classes))
    assert got["top5_accuracy"] == pytest.approx(top_k_accuracy_score(flat, p, k=5, labels=classes))
    assert np.mean(got["loss_by_position"]) == pytest.approx(log_loss(flat, p, labels=classes), rel=1e-6)
    assert got["entropy"] == pytest.approx(-(p * np.log(p)).sum(axis=1).mean(), rel=1e-6)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == flat
    gap = 0.0
    for low in np.arange(BINS) / BINS:
        inside = (confidence > low) & (confidence <= low + 1 / BINS)
        if inside.any():
            gap += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert got["ece"] == pytest.approx(gap, rel=1e-5)
    assert sum(row["share"] for row in got["reliability"]) == pytest.approx(1)


def test_certainty_has_a_bin_and_impossible_entries_add_nothing():
    half = torch.full((1, 1, VOCAB), -math.inf)
    half[..., :2] = 0.0
    sure = torch.full((1, 1, VOCAB), -math.inf)
    sure[..., 0] = 0.0
    predictions = Predictions(1, torch.device("cpu"))
    for logits in (half, sure):
        predictions.add(logits, torch.zeros(1, 1, dtype=torch.long))
    got = predictions.figures()
    assert [row["confidence"] for row in got["reliability"]] == [0.5, 1.0]
    assert got["entropy"] == pytest.approx(math.log(2) / 2)
    assert json.dumps(got, allow_nan=False)


def test_positions_without_a_target_do_not_count():
    logits, targets = random_case()
    whole = figures(logits[:-1], targets[:-1])
    targets[-1] = -1
    ragged = figures(logits, targets)
    assert ragged.keys() == whole.keys()
    assert ragged["loss_by_position"] == pytest.approx(whole["loss_by_position"])
    assert ragged["ece"] == pytest.approx(whole["ece"])
    assert ragged["entropy"] == pytest.approx(whole["entropy"])


def test_impossible_entries_where_there_is_no_target_do_not_count():
    logits, targets = random_case()
    whole = figures(logits[:-1], targets[:-1])
    logits[-1, :, 0], targets[-1] = -math.inf, -1
    assert figures(logits, targets)["loss_by_position"] == pytest.approx(whole["loss_by_position"])


def test_a_batch_is_taken_in_without_reading_anything_back():
    # numbers on this device are not there at all: to look at one is an error
    predictions = Predictions(5, torch.device("meta"))
    predictions.add(*(tensor.to("meta") for tensor in random_case()))


def test_figures_do_not_depend_on_how_the_tokens_are_batched(monkeypatch):
    case = random_case()
    whole = figures(*case)
    assert figures(*case, batches=3)["loss_by_position"] == pytest.approx(whole["loss_by_position"])
    monkeypatch.setattr(calibration, "_ENTRIES", 1)  # one window at a time
    pieces = figures(*case)
    assert pieces["ece"] == pytest.approx(whole["ece"])
    assert pieces["accuracy"] == whole["accuracy"]


def test_short_formats_are_computed_in_fp32():
    logits, targets = random_case()
    short = logits.bfloat16()
    assert figures(short, targets) == figures(short.float(), targets)


def test_nan_logits_give_nan_and_not_zero():
    logits, targets = random_case()
    logits[0, 0, 0] = math.nan
    got = figures(logits, targets)
    assert math.isnan(got["entropy"])
    assert math.isnan(got["confidence"])
    assert math.isnan(got["ece"])
    assert math.isnan(got["loss_by_position"][0])


def test_the_loss_by_position_adds_up_to_the_loss_of_the_exact_pass():
    config = TrainConfig.model_validate_json(
        '{"tokenizer": {"vocab_size": 300}, "evaluation": {"block_size": 8, "batch_size": 2},'
        ' "model": {"n_layer": 1, "n_head": 1, "d_model": 8, "block_size": 8}}'
    )
    model = GPT(config, seed=3)
    tokens = np.random.default_rng(0).integers(0, 300, size=61).astype(np.uint16)
    split = EncodedSplit(tokens, np.array([0, 20, 61]), np.array([10, 20]), np.array([10, 20]))
    predictions = Predictions(8, torch.device("cpu"))
    exact = {
        "eos_id": 0,
        "evaluation": EvaluationConfig(block_size=8, batch_size=2),
        "precision": Precision("fp32", "", "cpu"),
    }
    score = score_split(model, split, **exact, observe=predictions.add)
    got = predictions.figures()
    counts = [8, 8, 8, 8, 8, 7, 7, 7]  # 61 tokens in windows of 8
    assert np.dot(counts, got["loss_by_position"]) == pytest.approx(score.nats, rel=1e-6)
    assert score_split(model, split, **exact).nats == score.nats  # watched or not
