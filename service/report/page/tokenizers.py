"""The tokenizers of a study, measured on the study's own corpus: coverage, lengths, frequencies."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.data.corpus import Corpus
from model.data.tokenized_corpus import TokenizedCorpus
from service.report.figures.plots import Axis, Chart, Plot, Series
from service.text.tables import Table

_POINTS = 120
"""Of the rank-frequency plot, evenly spaced in the logarithm of the rank."""


@dataclass(frozen=True)
class TokenizerFigures:
    """One tokenizer on the train and the validation split."""

    name: str
    """Its vocabulary's size, with its kind where that is not BPE."""
    vocab_size: int
    """Entries, `<eos>` included."""
    train_tokens: int
    validation_tokens: int
    """With one `<eos>` a title."""
    coverage: float
    """Share of the vocabulary's entries that occur in the train split."""
    validation_coverage: float
    """Share of the entries that occur in the validation split."""
    unseen: float
    """Share of the validation split's tokens that never occur in the train split. Nothing is ever unknown: the
    vocabulary holds all bytes, so that this, and not an out-of-vocabulary rate, says what the model has not met."""
    mean_length: float
    """Tokens of a title of the train split, its `<eos>` included; with the next two."""
    median_length: float
    p95_length: float
    """Linear interpolation between the two nearest titles."""
    over_block: Mapping[int, float]
    """By block size: the share of the titles with more tokens. No window of that size can hold one of them whole."""
    bytes_per_token: float
    """UTF-8 bytes of the train titles ÷ their tokens, `<eos>` left out of both."""
    frequencies: tuple[int, ...]
    """How often each entry that occurs does so in the train split, the most frequent first."""


def measure(data: TokenizedCorpus, *, block_sizes: Collection[int]) -> TokenizerFigures:
    """The figures of a corpus with its tokenizer, for models that see `block_sizes` tokens."""
    train, validation = data.split("train"), data.split("validation")
    size = data.tokenizer.vocab_size
    counts = np.bincount(train.tokens, minlength=size)
    met = np.bincount(validation.tokens, minlength=size)
    lengths = np.diff(train.starts)
    return TokenizerFigures(
        name=f"{size:,}" if data.tokenizer.model == "bpe" else f"{size:,} {data.tokenizer.model}",
        vocab_size=size,
        train_tokens=train.n_tokens,
        validation_tokens=validation.n_tokens,
        coverage=float(np.mean(counts > 0)),
        validation_coverage=float(np.mean(met > 0)),
        unseen=float(met[counts == 0].sum() / validation.n_tokens),
        mean_length=float(lengths.mean()),
        median_length=float(np.median(lengths)),
        p95_length=float(np.percentile(lengths, 95)),
        over_block={size: float(np.mean(lengths > size)) for size in sorted(block_sizes)},
        bytes_per_token=float(train.utf8_bytes.sum() / (train.n_tokens - train.n_titles)),
        frequencies=tuple(int(count) for count in np.sort(counts[counts > 0])[::-1]),
    )


def table(measured: Sequence[TokenizerFigures], corpus: Corpus) -> Table:
    """A row a figure, a column a tokenizer."""
    rows: dict[str, list[str]] = {}
    for of in measured:
        shown = {
            "coverage: entries that occur in the train split": f"{of.coverage:.2%}",
            "entries that occur in the validation split": f"{of.validation_coverage:.2%}",
            "validation tokens never met in training": f"{of.unseen:.3%}",
            "tokens of the train split": f"{of.train_tokens:,}",
            "tokens of the validation split": f"{of.validation_tokens:,}",
            "tokens per title, mean": f"{of.mean_length:.2f}",
            "tokens per title, median": f"{of.median_length:g}",
            "tokens per title, 95th percentile": f"{of.p95_length:g}",
            **{
                f"titles longer than a block of {size}": f"{share:.2%}"
                for size, share in of.over_block.items()
            },
            "bytes per token": f"{of.bytes_per_token:.3f}",
        }
        for name, value in shown.items():
            rows.setdefault(name, []).append(value)
    notes = (
        f"On {len(corpus.train):,} train and {len(corpus.validation):,} validation titles; lengths are of the train "
        "split, each title closed by one <eos>.",
    )
    headings = ("vocabulary, <eos> included", *(of.name for of in measured))
    return Table("tokenizer", "Tokenizer", headings, tuple((name, *row) for name, row in rows.items()), notes)


def plot(measured: Sequence[TokenizerFigures]) -> Plot:
    """Frequency against rank, both logarithmic, beside Zipf's law."""
    series = []
    for style, of in enumerate(measured):
        ranks = np.unique(np.geomspace(1, len(of.frequencies), _POINTS).round().astype(int))
        counts = tuple(float(of.frequencies[rank - 1]) for rank in ranks)
        series.append(Series(f"vocabulary {of.name}", tuple(map(float, ranks)), counts, style=style))
    longest = max(len(of.frequencies) for of in measured)
    most = max(of.frequencies[0] for of in measured)
    zipf = Series("Zipf: 1/rank", (1.0, float(longest)), (float(most), most / longest), style=6, dashed=True)
    return Plot(
        "rank-frequency",
        "Rank and frequency of tokens",
        "How often each entry occurs in the train split, the most frequent first; dashed, Zipf's law through the most "
        "frequent one.",
        (Chart(Axis("rank", log=True), Axis("occurrences", log=True), (*series, zipf)),),
    )
