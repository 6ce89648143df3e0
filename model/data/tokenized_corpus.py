"""A corpus as streams of tokens, one for each split, encoded once for all trials."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray

from model.config.data import TokenizerConfig
from model.data.corpus import Corpus
from model.data.files import write_corpus_file
from model.data.tokenizer import Tokenizer
from model.errors import CheckpointError, ConfigError, CorpusError

SplitName = Literal["train", "validation", "held_out"]


_EOS_CHARACTERS = len("<eos>")
_CACHE_VERSION = 2
"""To be raised with every change of training or encoding, so that no cache outlives it."""


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """The titles of one split as one stream of tokens, each title closed by `<eos>`."""

    tokens: NDArray[np.uint16]
    """The stream, shape (n_tokens,)."""
    starts: NDArray[np.int64]
    """Where each title begins and where the last one ends, shape (n_titles + 1,)."""
    characters: NDArray[np.int64]
    """Unicode characters of each title, its `<eos>` counted as 5, shape (n_titles,)."""
    utf8_bytes: NDArray[np.int64]
    """UTF-8 bytes of each title without `<eos>`, shape (n_titles,)."""

    @property
    def n_tokens(self) -> int:
        """Tokens with every `<eos>`."""
        return len(self.tokens)

    @property
    def n_titles(self) -> int:
        """Titles, each with one `<eos>`."""
        return len(self.characters)


def encode_split(tokenizer: Tokenizer, texts: Sequence[str]) -> EncodedSplit:
    """The documents `texts` as one stream of tokens."""
    encoded = tokenizer.encode_batch(texts)
    starts = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(ids) + 1 for ids in encoded], out=starts[1:])
    tokens = np.full(starts[-1], tokenizer.eos_id, dtype=np.uint16)
    for start, ids in zip(starts, encoded, strict=False):
        tokens[start : start + len(ids)] = ids
    return EncodedSplit(
        tokens=tokens,
        starts=starts,
        characters=np.array([len(text) + _EOS_CHARACTERS for text in texts], dtype=np.int64),
        utf8_bytes=np.array([len(text.encode()) for text in texts], dtype=np.int64),
    )


class TokenizedCorpus:
    """A corpus with its tokenizer; splits are encoded when first asked for.

    Both are kept in a folder whose name follows from documents, vocabulary and library version. Several
    processes may use it at once: whoever is late writes the same bytes again. A damaged file is made anew.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, folder: Path) -> None:
        self.tokenizer = tokenizer
        self._corpus = corpus
        self._folder = folder
        self._splits: dict[SplitName, EncodedSplit] = {}

    @classmethod
    def prepare(cls, corpus: Corpus, wanted: TokenizerConfig, *, cache: Path) -> Self:
        """`corpus` with a tokenizer of at most `wanted.vocab_size` entries, from `cache` where it is there.

        It is the one that came along with the corpus, or a `wanted.model` trained on `wanted.trained_on`.

        Raises:
            ConfigError: the one that came along has more entries.
            CorpusError: it loses text, or the cache cannot be written.
        """
        kind = f"{wanted.model}-{wanted.vocab_size}-{wanted.trained_on}{'' if wanted.leading_space else '-no-space'}"
        key = f"{corpus.fingerprint}-{kind}-{tokenizers.__version__}-{_CACHE_VERSION}"
        folder = cache / f"tokens-{key}"
        path = folder / "tokenizer.json.gz"  # gzip for its checksum
        try:
            tokenizer = Tokenizer.from_json(gzip.decompress(path.read_bytes()).decode())
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, CheckpointError):
            if corpus.tokenizer is None:
                seen = corpus.train + (
                    corpus.validation if wanted.trained_on == "train_and_validation" else ()
                )
                tokenizer = Tokenizer.train(
                    seen, vocab_size=wanted.vocab_size, model=wanted.model, leading_space=wanted.leading_space
                )
            else:
                tokenizer = _proven(corpus, corpus.tokenizer, wanted.vocab_size)
            write_corpus_file(path, gzip.compress(tokenizer.to_json().encode(), mtime=0))
        return cls(corpus, tokenizer, folder)

    @property
    def fingerprint(self) -> str:
        """Of the documents, see `Corpus.fingerprint`."""
        return self._corpus.fingerprint

    def split(self, name: SplitName) -> EncodedSplit:
        """One split, encoded. Raises CorpusError where the cache cannot be written."""
        if name not in self._splits:
            path = self._folder / f"{name}.npz"
            texts: tuple[str, ...] = getattr(self._corpus, name)
            split = _read_split(path, n_titles=len(texts), eos_id=self.tokenizer.eos_id)
            if split is None:
                split = encode_split(self.tokenizer, texts)
                content = io.BytesIO()
                np.savez(
                    content,
                    tokens=split.tokens,
                    starts=split.starts,
                    characters=split.characters,
                    utf8_bytes=split.utf8_bytes,
                )
                write_corpus_file(path, content.getvalue())
            self._splits[name] = split
        return self._splits[name]


def _proven(corpus: Corpus, tokenizer_json: str, vocab_size: int) -> Tokenizer:
    """A tokenizer that was trained elsewhere, after every document has gone through it and come back."""
    try:
        tokenizer = Tokenizer.from_json(tokenizer_json)
    except CheckpointError as error:
        raise CorpusError(f"tokenizer.pretrained: {error}") from None
    if vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size: must be at least {tokenizer.vocab_size}, for <eos> and the "
            f"{tokenizer.vocab_size - 1} entries of tokenizer.pretrained, given {vocab_size}"
        )
    for text in (*corpus.train, *corpus.validation, *corpus.held_out):
        returned = tokenizer.decode(tokenizer.encode(text))
        if returned != text:
            raise CorpusError(f"tokenizer.pretrained: loses text: {text[:40]!r} comes back {returned[:40]!r}")
    return tokenizer


def _read_split(path: Path, *, n_titles: int, eos_id: int) -> EncodedSplit | None:
    """None where there is no file, or a damaged one (zip has checksums), or one that does not fit."""
    try:
        # From memory: given a path, numpy leaves a file open that turns out to be no zip archive.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            split = EncodedSplit(**{name: arrays[name] for name in EncodedSplit.__dataclass_fields__})
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return None
    fits = split.tokens.dtype == np.uint16 and split.starts.shape == (n_titles + 1,)
    fits = fits and split.n_titles == n_titles and split.starts[-1] == split.n_tokens
    return split if fits and bool((split.tokens[split.starts[1:] - 1] == eos_id).all()) else None
