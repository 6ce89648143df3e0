import numpy as np
import pytest

from model.config.data import TokenizerConfig
from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from service.report.page import tokenizers

TRAIN = ("ab ab", "ab", "ab ab ab cd", "é")
"""Bytes and pairs; the é, two bytes, occurs in no other title."""


@pytest.fixture
def data(tmp_path):
    corpus = Corpus(TRAIN, ("ab z",), ("x",), source="test", resolved_source="file", duplicates=0)
    return TokenizedCorpus.prepare(corpus, TokenizerConfig(vocab_size=260), cache=tmp_path), corpus


def test_figures_are_those_counted_by_hand(data):
    tokenized, _ = data
    figures = tokenizers.measure(tokenized, block_sizes=[5, 2])
    encode = tokenized.tokenizer.encode
    titles = [[*encode(text), tokenized.tokenizer.eos_id] for text in TRAIN]
    lengths = sorted(map(len, titles))
    used = [token for title in titles for token in title]
    assert figures.vocab_size == tokenized.tokenizer.vocab_size
    assert figures.train_tokens == len(used)
    assert figures.coverage == len(set(used)) / figures.vocab_size
    assert figures.mean_length == sum(lengths) / 4
    assert figures.median_length == (lengths[1] + lengths[2]) / 2
    # between the third and the fourth: 0.95 × 3 = 2.85
    assert figures.p95_length == pytest.approx(lengths[2] + 0.85 * (lengths[3] - lengths[2]))
    assert figures.over_block == {
        2: sum(n > 2 for n in lengths) / 4,
        5: sum(n > 5 for n in lengths) / 4,
    }
    assert figures.bytes_per_token == sum(len(t.encode()) for t in TRAIN) / (len(used) - len(TRAIN))
    assert figures.frequencies == tuple(sorted((used.count(t) for t in set(used)), reverse=True))
    validation = [*encode("ab z"), tokenized.tokenizer.eos_id]
    assert figures.unseen == sum(token not in used for token in validation) / len(validation) > 0
    assert figures.validation_coverage == len(set(validation)) / figures.vocab_size


def test_the_plot_has_the_frequencies_by_rank(data):
    figures = tokenizers.measure(data[0], block_sizes=[5])
    chart = tokenizers.plot([figures]).panels[0]
    measured, zipf = chart.series
    assert chart.x.log
    assert chart.y.log
    ranks = np.array(measured.x, dtype=int)
    assert list(measured.y) == [figures.frequencies[rank - 1] for rank in ranks]
    assert ranks[-1] == len(figures.frequencies)
    assert zipf.y == (figures.frequencies[0], figures.frequencies[0] / ranks[-1])


def test_the_table_has_a_column_for_each_vocabulary(data, tmp_path):
    tokenized, corpus = data
    smallest = TokenizedCorpus.prepare(
        corpus, TokenizerConfig(vocab_size=257, leading_space=False), cache=tmp_path
    )
    measured = [tokenizers.measure(each, block_sizes=[5]) for each in (tokenized, smallest)]
    table = tokenizers.table(measured, corpus)
    assert table.headings[1:] == (f"{measured[0].vocab_size:,}", "257")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["bytes per token"][1] == "1.000", "without merges a token is a byte"
    assert rows["titles longer than a block of 5"][1] == "50.00%"
