import json
import re

import numpy as np
import pytest
import scipy.stats

from model.hardware import device
from model.measurement import titles
from service.held_out import best
from service.storage.artifact_stores import open_store
from service.storage.corpus import load_corpus
from service.storage.database import open_storage
from service.storage.studies import StudyError, load_study

HOSTILE = "<script>alert(1)</script> [x](javascript:y) | `a` & **b**\n# h\r- item\r\r~~~ www.a.b \\"


@pytest.fixture(scope="module")
def study(finished):
    return load_study(open_storage(finished.settings), "tiny", finished.settings)[0]


@pytest.fixture(scope="module")
def evaluate(finished, study):
    def run(top=5):
        corpus = load_corpus(study, finished.settings)
        where = device.choose("cpu", threads=1)
        return best.evaluate(study, open_store(finished.settings.artifacts), corpus, top=top, device=where)

    return run


def hostile_score() -> best.HeldOutScore:
    return best.HeldOutScore(
        trial=3,
        parameters=1000,
        val_loss=1.0,
        held_out_loss=1.5,
        interval=(1.4, 1.6),
        perplexity_per_char=float(np.exp(1.5)),
        bits_per_byte=2.0,
        titles=(HOSTILE, "1. one", "+ two", "ünï"),
    )


def test_the_best_that_have_weights_are_scored(evaluate, finished):
    first, second = evaluate(), evaluate(top=1)
    ranked = sorted(finished.trials(), key=lambda trial: trial.value)
    assert [score.trial for score in first] == [trial.number for trial in ranked[:2]]  # two keep weights
    assert second == first[:1]
    for score in first:
        low, high = score.interval
        assert low < score.held_out_loss < high
        assert score.perplexity_per_char == pytest.approx(np.exp(score.held_out_loss), rel=1e-12)
        # a generated corpus: validation and held-out sentences are of one kind, 100 and 200 of them
        assert score.held_out_loss == pytest.approx(score.val_loss, rel=0.1)
        assert len(score.titles) == titles.TITLES


def test_a_study_without_weights_is_refused(finished, study, tmp_path):
    corpus = load_corpus(study, finished.settings)
    with pytest.raises(StudyError, match=r"^study 'tiny' has no checkpoint in .*HPTUNE_ARTIFACTS"):
        best.evaluate(study, open_store(str(tmp_path)), corpus, top=1, device=device.choose("cpu"))


def test_the_interval_is_scipys_percentile_bootstrap():
    generator = np.random.default_rng(1)
    characters = generator.integers(10, 80, size=300)
    nats = characters * generator.gamma(4, 0.5, size=300)
    reference = scipy.stats.bootstrap(
        (nats, characters),
        lambda n, c, axis: n.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=5000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    low, high = best.bootstrap_interval(nats, characters)
    # the Monte Carlo error of a 2.5 % quantile of 2,000 draws is 0.06 standard errors: 5 of them, of both
    tolerance = 5 * 1.2 * 0.06 * (reference.high - reference.low) / 3.92
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=tolerance)
    assert tolerance < 0.1 * (high - low)


def test_titles_of_one_loss_have_an_interval_of_no_width():
    characters = np.array([5, 10, 20])
    assert best.bootstrap_interval(1.5 * characters, characters) == pytest.approx((1.5, 1.5))


def test_generated_text_is_shown_by_markdown_as_it_is(tmp_path):
    facts = {"study": "tiny", "source": "file", "held_out_documents": 2}
    markdown, record = best.write([hostile_score()], tmp_path / "new", facts)
    text = markdown.read_bytes().decode()
    shown = text.split("trial 3:\n\n")[1]
    items = shown.splitlines()  # breaks at \r too, as Markdown does
    assert len(items) == 4
    assert all(item.startswith("- ") for item in items)
    live = re.sub(r"\\[!-/:-@\[-`{-~]", "", "".join(item[2:] for item in items))  # CommonMark 2.4
    assert not set("\\`*_{}[]<>#|!&~+-=.:") & set(live)
    unescaped = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", items[0][2:])
    assert unescaped.split() == HOSTILE.split()
    (checkpoint,) = json.loads(record.read_text())["checkpoints"]
    assert checkpoint["titles"] == list(hostile_score().titles)
    assert "| 3 | 1,000 | 1.0000 | 1.5000 | 1.4000–1.6000 |" in text
