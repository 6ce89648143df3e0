"""Text to tokens and back: byte-level BPE or Unigram, and a corpus encoded once for all trials.

The vocabulary holds all 256 bytes, so every text is encoded and nothing is ever unknown. `<eos>` is an id of
our own behind the library's entries: the five characters `<eos>` in a title stay five characters.
"""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.config.train_config import TokenizerConfig
from model.data.corpus import Corpus
from model.data.files import write_corpus_file
from model.data.pretrained import BYTE_ALPHABET, parse
from model.errors import CheckpointError, ConfigError, CorpusError

SplitName = Literal["train", "validation", "held_out"]
TokenizerModel = Literal["bpe", "unigram"]

_EOS_CHARACTERS = len("<eos>")
_CACHE_VERSION = 2
"""To be raised with every change of training or encoding, so that no cache outlives it."""


class Tokenizer:
    """Lossless over bytes, written as characters as in GPT-2 (Radford et al. 2019)."""

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library
        self.eos_id: int = library.get_vocab_size()
        """Closes every document; the last id."""
        self.leading_space: bool = bool(getattr(library.pre_tokenizer, "add_prefix_space", False))
        """A space before every document, of which the library's own file knows as `add_prefix_space`."""

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        model: TokenizerModel = "bpe",
        leading_space: bool = True,
    ) -> Self:
        """The tokenizer for `texts`; the same texts give the same tokenizer.

        Args:
            texts: Documents, each with a space before it for training where there is a `leading_space`.
            vocab_size: Entries with the 256 bytes and `<eos>`, at least 257. There are fewer where the texts
                have no more pairs that occur twice: a token seen once could not be learned.
            model: Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) or the unigram language model
                (Kudo 2018, arXiv 1804.10959).
            leading_space: Every document is encoded behind a space: its first word is then the entry that the same
                word has elsewhere, in place of pieces of its own.
        """
        assert vocab_size > len(BYTE_ALPHABET), "the schema asks for the bytes and <eos>"
        library = tokenizers.Tokenizer(models.BPE() if model == "bpe" else models.Unigram())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=leading_space)
        library.decoder = decoders.ByteLevel()
        settings: dict[str, Any] = {
            "vocab_size": vocab_size - 1,
            "initial_alphabet": BYTE_ALPHABET,
            "show_progress": False,
        }
        trainer = (
            trainers.BpeTrainer(min_frequency=2, **settings)
            if model == "bpe"
            else trainers.UnigramTrainer(**settings)
        )
        library.train_from_iterator(texts, trainer)
        if model == "unigram":
            state = json.loads(library.to_str())
            state["model"]["vocab"] = _settled(state["model"]["vocab"], vocab_size - 1)
            library = tokenizers.Tokenizer.from_str(json.dumps(state))
        return cls(library)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The tokenizer that `to_json` or `model.data.pretrained` wrote.

        Raises:
            CheckpointError: `text` is truncated, or a tokenizer of another kind, which might lose text.
        """
        library = parse(text)
        state = json.loads(text)
        for part in ("normalizer", "post_processor", "truncation", "padding"):
            if state.get(part) is not None:
                raise CheckpointError(f"might lose text, its {part} must be null")
        if state.get("added_tokens"):
            raise CheckpointError("might lose text, its added_tokens must be none")
        if not _maps_bytes(state.get("pre_tokenizer")):
            raise CheckpointError("might lose text, its pre_tokenizer must cut and end in a ByteLevel")
        if not isinstance(library.decoder, decoders.ByteLevel):
            raise CheckpointError("might lose text, its decoder must be a ByteLevel")
        vocab = library.get_vocab()
        known = isinstance(library.model, models.BPE | models.Unigram)
        if not known or sorted(vocab.values()) != list(range(len(vocab))):
            raise CheckpointError("must be a BPE or Unigram whose ids run from 0 without a gap")
        if not vocab.keys() >= set(BYTE_ALPHABET):
            raise CheckpointError("must have an entry for each of the 256 bytes")
        return cls(library)

    @property
    def vocab_size(self) -> int:
        """Entries, `<eos>` included."""
        return self.eos_id + 1

    @property
    def model(self) -> TokenizerModel:
        """What cuts a text into entries."""
        return "bpe" if isinstance(self._library.model, models.BPE) else "unigram"

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without `<eos>`. Raises TypeError for half a surrogate pair: no text."""
        return self._library.encode(self._spaced(text)).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, on all processors."""
        return [encoding.ids for encoding in self._library.encode_batch_fast([*map(self._spaced, texts)])]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, a document or several, without any `<eos>`.

        Exact for what `encode` gave. Bytes that form no character, as a model may write them, become U+FFFD.
        """
        if not self.leading_space:
            # The library passes over ids it has no entry for, `<eos>` among them.
            return self._library.decode(list(ids))
        documents = groupby(ids, key=lambda token: token == self.eos_id)
        texts = (self._library.decode(list(tokens)) for is_end, tokens in documents if not is_end)
        return "".join(text.removeprefix(" ") for text in texts)

    def to_json(self) -> str:
        """All of it in the library's own format, for `from_json`."""
        return self._library.to_str()

    def _spaced(self, text: str) -> str:
        # not left to the library, which puts none before a text that begins with one: that text would come back
        # without it
        return f" {text}" if self.leading_space else text


def _settled(pieces: list[tuple[str, float]], size: int) -> list[tuple[str, float]]:
    """What the library's Unigram trainer found (pieces and log-probabilities), the same from run to run.

    The trainer adds numbers up in the order of a hash table, so that the last bits, and by them the order of
    equals, differ; to bytes the texts do not have it gives the lowest score and 0.0001 more to each, again in that
    order; and it may return more than it was asked for.
    """
    all_bytes, lowest = set(BYTE_ALPHABET), min(score for _, score in pieces)
    unseen = lowest + 0.0001 * (len(all_bytes) + 0.5)
    scores = {p: lowest if p in all_bytes and score < unseen else score for p, score in pieces}
    settled = [(piece, round(score, 4)) for piece, score in scores.items()]
    return sorted(settled, key=lambda entry: (entry[0] not in all_bytes, -entry[1], entry[0]))[:size]


def _maps_bytes(pre_tokenizer: Any) -> bool:
    """Whether it does nothing but cut a text up and write its bytes as characters, all of them."""
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [*cuts, {"type": "ByteLevel", "add_prefix_space": False}]}:
            return all(map(_only_cuts, cuts))
        case {
            "type": "ByteLevel",
            "add_prefix_space": bool(),
        }:  # in a sequence the space would go before every cut
            return True
    return False


def _only_cuts(pre_tokenizer: Any) -> bool:
    match pre_tokenizer:
        case {"type": "Digits"}:
            return True
        case {"type": "Split", "behavior": behavior}:
            return bool(behavior != "Removed")
    return False


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
